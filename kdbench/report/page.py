"""A page of tables as data, and its renderers for Markdown and HTML; kdbench/report/latex.py has the one for LaTeX.

kdbench/report/tables.py and findings.py make the pages. Every text is escaped where it is rendered, so a page may hold
any name. Numbers, methods and pairs are for the HTML report, which sorts by them and shows what is behind a cell.
"""

from __future__ import annotations

import html as _html
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Cell:
    text: str
    value: float | None = None
    """The number that the text shows first; None where it shows none."""
    bold: bool = False
    letters: tuple[str, ...] = ()
    """Footnotes of this cell."""
    of: tuple[str, str] | None = None
    """The pair and the method whose runs it tells of."""


@dataclass(frozen=True)
class Row:
    label: Cell
    cells: tuple[Cell, ...]
    method: str | None = None
    """Id of the method that the row is about."""
    wide: bool = False
    """The label has the place of the first cell too, which is empty."""


@dataclass(frozen=True)
class Group:
    """Rows under one heading; `title` is empty where there is only one group."""

    title: str
    rows: tuple[Row, ...]
    fixed: bool = False
    """These rows stay where they are, on top or at the bottom, when a reader sorts the table."""


@dataclass(frozen=True)
class Table:
    title: str
    corner: str
    """Heading of the column of row labels."""
    columns: tuple[tuple[str, ...], ...]
    """Each column's heading, line by line."""
    groups: tuple[Group, ...]
    footnotes: tuple[tuple[str, str], ...] = ()
    """(letter or mark, text)"""
    pairs: tuple[str, ...] = ()
    """Ids of the pairs that the table is about, where it is."""
    texts: int = 1
    """Columns from the left that hold text, row labels among them."""


@dataclass(frozen=True)
class Section:
    title: str
    parts: tuple[str | Table, ...]
    """Paragraphs and tables in reading order."""


@dataclass(frozen=True)
class Document:
    title: str
    banner: tuple[str, ...]
    """Warnings above everything else."""
    sections: tuple[Section, ...]
    footer: tuple[str, ...]


def one_line(text: Any) -> str:
    return " ".join("".join(c if c.isprintable() else " " for c in str(text)).split())


def escaped(text: Any) -> str:
    """Text that Markdown, and the HTML within it, shows as it is."""
    safe = one_line(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*_\[\]|~$#])", r"\\\1", safe)


def markdown(page: Document, abstract: str = "") -> str:
    """abstract: Markdown that goes below title and banner as it is."""
    lines = [f"# {escaped(page.title)}", ""]
    lines += [f"> **{escaped(text)}**\n" for text in page.banner]
    lines += [abstract, ""] if abstract else []
    for section in page.sections:
        if section.title:
            lines += [f"## {escaped(section.title)}", ""]
        for part in section.parts:
            lines += [escaped(part), ""] if isinstance(part, str) else _md_table(part)
    return "\n".join([*lines, "---", "", *(f"{escaped(line)}<br>" for line in page.footer)]).rstrip() + "\n"


def _md_table(table: Table) -> list[str]:
    heads = [escaped(table.corner), *("<br>".join(map(escaped, filter(None, column))) for column in table.columns)]
    lines = [f"### {escaped(table.title)}", "", _md_row(heads), _md_row(_md_rules(table))]
    for group in table.groups:
        if group.title and len(table.groups) > 1:
            lines.append(_md_row([f"*{escaped(group.title)}*", *[""] * len(table.columns)]))
        lines += [_md_row([_md_cell(cell) for cell in (row.label, *row.cells)]) for row in group.rows]
    notes = [f"{f'<sup>{escaped(mark)}</sup> ' if mark else ''}{escaped(text)}<br>" for mark, text in table.footnotes]
    return [*lines, "", *notes, *([""] if notes else [])]


def _md_rules(table: Table) -> list[str]:
    return ["---" if i < table.texts else "---:" for i in range(len(table.columns) + 1)]


def _md_row(texts: Sequence[str]) -> str:
    return f"| {' | '.join(texts)} |"


def _md_cell(cell: Cell) -> str:
    text = f"**{escaped(cell.text)}**" if cell.bold else escaped(cell.text)
    return text + (f" <sup>{','.join(cell.letters)}</sup>" if cell.letters else "")


_CSS = """
:root { color-scheme: light dark; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 75rem; margin: 2rem auto; padding: 0 1rem; }
.banner { border: 2px solid #d55e00; padding: .5rem 1rem; font-weight: bold; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; border-block: 2px solid; font-variant-numeric: tabular-nums; }
th, td { padding: .2rem .6rem; text-align: right; white-space: nowrap; }
th:first-child, .text { text-align: left; font-weight: normal; }
thead th { font-weight: bold; vertical-align: bottom; }
tbody { border-top: 1px solid; }
tbody th[colspan] { font-style: italic; }
.notes, footer { font-size: .85rem; }
"""


def html(page: Document) -> str:
    """One file without scripts or requests to anywhere."""
    lines = ["<!doctype html>", '<html lang="en">', '<meta charset="utf-8">']
    lines += ['<meta name="viewport" content="width=device-width, initial-scale=1">']
    lines += [f"<title>{_h(page.title)}</title>", f"<style>{_CSS}</style>", f"<h1>{_h(page.title)}</h1>"]
    lines += [f'<p class="banner">{_h(text)}</p>' for text in page.banner]
    for section in page.sections:
        if section.title:
            lines.append(f"<h2>{_h(section.title)}</h2>")
        for part in section.parts:
            lines += [f"<p>{_h(part)}</p>"] if isinstance(part, str) else _html_table(part)
    lines += ["<footer>", *(f"<div>{_h(line)}</div>" for line in page.footer), "</footer>", "</html>"]
    return "\n".join(lines) + "\n"


def _h(text: Any) -> str:
    return _html.escape(one_line(text))


def _html_table(table: Table) -> list[str]:
    heads = [_h(table.corner), *("<br>".join(map(_h, filter(None, column))) for column in table.columns)]
    lines = [f"<h3>{_h(table.title)}</h3>", '<div class="scroll"><table>', "<thead><tr>"]
    lines += [*(f'<th scope="col">{head}</th>' for head in heads), "</tr></thead>"]
    for group in table.groups:
        lines.append("<tbody>")
        if group.title and len(table.groups) > 1:
            lines.append(f'<tr><th colspan="{len(table.columns) + 1}" scope="rowgroup">{_h(group.title)}</th></tr>')
        for row in group.rows:
            marks = [' class="text"' if i < table.texts else "" for i in range(1, len(row.cells) + 1)]
            cells = "".join(f"<td{m}>{_html_cell(cell)}</td>" for m, cell in zip(marks, row.cells, strict=True))
            lines.append(f'<tr><th scope="row">{_html_cell(row.label)}</th>{cells}</tr>')
        lines.append("</tbody>")
    lines.append("</table></div>")
    marks = [f"<sup>{_h(mark)}</sup> " if mark else "" for mark, _ in table.footnotes]
    lines += [f'<div class="notes">{m}{_h(text)}</div>' for m, (_, text) in zip(marks, table.footnotes, strict=True)]
    return lines


def _html_cell(cell: Cell) -> str:
    text = f"<b>{_h(cell.text)}</b>" if cell.bold else _h(cell.text)
    return text + (f"<sup>{','.join(cell.letters)}</sup>" if cell.letters else "")
