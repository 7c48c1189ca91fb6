"""What a paper takes from a suite: a table of accuracies and one of verdicts for each block, and whom to cite.

A suite's section `paper` hides methods and pairs and renames them. It changes no number: means, bold sets, verdicts and
Holm's family are those of all that the block's table shows.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace

from kdbench.plan.registry import method_info
from kdbench.report import pair_rows, pair_tables, stats
from kdbench.report.block import BlockReport
from kdbench.report.latex import fragment, tex
from kdbench.report.page import Cell, Group, Row, Table
from kdbench.report.text import note_letters, note_list, pair_text
from kdbench.report.verdicts import label_of, short_labels, verdict_table
from kdbench.types import Paper


def fragments(report: BlockReport) -> dict[str, str]:
    """{BLOCK: accuracies, BLOCK-verdict: verdicts} as LaTeX; no verdicts where the block can have none."""
    suite, block, paper = report.suite, report.block, report.suite.paper
    words, label = _words(report, paper), f"tab:{suite.name}-{block.name}"
    rows = {m.id for m in block.methods if not paper.rows or m.id in paper.rows}
    columns = {p.id for p in block.pairs if not paper.columns or p.id in paper.columns}
    cited = _cited(report, rows, words)
    found = []
    for i, table in enumerate(_accuracies(report)):
        table = _renamed(_narrowed(table, rows, columns), words)
        caption = tex(_accuracy_caption(report, table.title)) + cited
        found.append(fragment(table, caption, f"{label}-{i + 1}" if i else label, paper.width))
    files = {block.name: "\n".join(found)}
    if any(verdict["p"].notna().any() for verdict in report.verdicts.values()):
        table = _renamed(_verdicts(report, rows, words), words)
        caption = tex(_verdict_caption(report)) + cited
        files[f"{block.name}-verdict"] = fragment(table, caption, f"{label}-verdict", paper.width)
    return files


def _accuracies(report: BlockReport) -> list[Table]:
    """Of the headline pairs, or of all where none is known to be one."""
    kinds = report.headline["kind"]
    headline = [p.id for p in report.block.pairs if kinds[p.id] == "headline"]
    pairs = headline or [p.id for p in report.block.pairs]
    if report.block.layout == "pairs":
        return pair_rows.accuracy_tables(report, pairs, bool(headline))
    return pair_tables.accuracy_tables(report, pairs)


def _verdicts(report: BlockReport, rows: set[str], words: Mapping[str, str]) -> Table:
    """The verdicts against all baselines in one table."""
    tables = {b: verdict_table(report.block, verdict, b, report.groups) for b, verdict in report.verdicts.items()}
    groups, notes, below = [], {}, ()
    for baseline, table in tables.items():
        texts = dict(table.footnotes)
        below = tuple(note for note in table.footnotes if not note[0])  # of the whole table, the same in all
        own = [row for group in table.groups for row in group.rows if row.method in rows]
        title = f"Against {words[label_of(report.block, baseline)]}"
        groups.append(Group(title, tuple(_relettered(row, texts, notes) for row in own)))
    return replace(table, groups=tuple(groups), footnotes=note_list(notes) + below)


def _narrowed(table: Table, methods: set[str], pairs: set[str]) -> Table:
    """The table without the rows and columns that tell of other methods and pairs alone."""

    def kept(cells: tuple[Cell, ...]) -> bool:
        told = [cell.of for cell in cells if cell.of]
        return not told or any(pair in pairs and method in methods for pair, method in told)

    rows = [row for group in table.groups for row in group.rows]
    chosen = [kept(column) for column in zip(*(row.cells for row in rows), strict=True)]
    groups = [replace(g, rows=tuple(_picked(row, chosen) for row in g.rows if kept(row.cells))) for g in table.groups]
    columns = tuple(column for column, keep in zip(table.columns, chosen, strict=True) if keep)
    return replace(table, columns=columns, groups=tuple(group for group in groups if group.rows))


def _picked(row: Row, chosen: list[bool]) -> Row:
    return replace(row, cells=tuple(cell for cell, keep in zip(row.cells, chosen, strict=True) if keep))


def _words(report: BlockReport, paper: Paper) -> dict[str, str]:
    """Label -> the name that the paper gives a method, else its short label; and the same of models."""
    shorts, words = short_labels(report.block), {}
    for method in report.block.methods:
        words |= dict.fromkeys((shorts[method.id], method.label), paper.names.get(method.id, shorts[method.id]))
    for model in report.suite.models:
        if name := paper.names.get(model):
            words |= {model: name, f"{model} →": f"{name} →"}
    return words


def _renamed(table: Table, words: Mapping[str, str]) -> Table:
    def named(cell: Cell) -> Cell:
        return replace(cell, text=words.get(cell.text, cell.text))

    groups = tuple(
        replace(g, rows=tuple(replace(r, label=named(r.label), cells=tuple(map(named, r.cells))) for r in g.rows))
        for g in table.groups
    )
    columns = tuple(tuple(words.get(line, line) for line in column) for column in table.columns)
    return replace(table, columns=columns, groups=groups)


# ------------------------------------------------------------------------------------------------- captions, citations


def _accuracy_caption(report: BlockReport, title: str) -> str:
    block, kinds = report.block, report.headline["kind"]
    n = len(block.seeds)
    over = f"mean ± standard deviation over n = {n} seeds" if n > 1 else "n = 1 seed"
    bold = " Bold: the best of a pair and what is not separated from it (paired 95 % t interval)." if n > 1 else ""
    weak = [pair_text(p.id) for p in block.pairs if kinds[p.id] == "weak"]
    left_out = (
        f" Left out, with a teacher less than {stats.HEADLINE_POINTS:g} points above scratch on validation: "
        f"{', '.join(weak)}."
        if weak and len(weak) < len(block.pairs)
        else ""
    )
    return f"{block.title}. {title}: {over}, last epoch.{bold}{left_out}"


def _verdict_caption(report: BlockReport) -> str:
    pairs = int((report.headline["kind"] == "headline").sum())
    grouped = any("groups_low" in verdict for verdict in report.verdicts.values())
    also = f", then percentile bootstrap over whole {report.groups['word']}" if grouped else ""
    return (
        f"{report.block.title}. Difference in test accuracy, points, averaged within a seed over the {pairs} headline "
        f"pairs (n = {len(report.block.seeds)}). Brackets: 95 % t interval over seeds{also}; ±: half its width "
        "with the error pooled over methods; p and verdict: paired t test over seeds, adjusted over the methods (Holm, "
        "5 %)."
    )


def _cited(report: BlockReport, rows: set[str], words: Mapping[str, str]) -> str:
    """LaTeX: methods with the keys of their papers."""
    shorts, by_key = short_labels(report.block), {}
    for method in (m for m in report.block.methods if m.id in rows):
        if entry := method_info(method.method).bibtex:
            label = shorts[method.id]
            by_key.setdefault(re.match(r"@\w+\{([^,]+),", entry)[1], []).append(tex(words.get(label, label)))
    found = "; ".join(rf"{', '.join(labels)}~\cite{{{key}}}" for key, labels in by_key.items())
    return f" {found}." if found else ""


def _relettered(row: Row, texts: Mapping[str, str], notes: dict[str, str]) -> Row:
    """The row of one table with the footnote letters of a larger one."""

    def lettered(cell: Cell) -> Cell:
        return replace(cell, letters=note_letters(notes, (texts[letter] for letter in cell.letters)))

    return replace(row, cells=tuple(map(lettered, row.cells)))
