"""A table as a LaTeX fragment to \\input (booktabs, graphicx), and a document to look at fragments with pdflatex."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

from kdbench.report.page import Cell, Row, Table, one_line

_TEX = {
    "\\": r"\textbackslash{}",
    "^": r"\textasciicircum{}",
    "~": r"\textasciitilde{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "`": r"\textasciigrave{}",
    '"': "''",
    "[": "{[}",  # a bracket after \\ would be taken for its argument
    "]": "{]}",
    "±": r"$\pm$",
    "−": "$-$",
    "→": r"$\rightarrow$",
    "×": r"$\times$",
    "†": r"\textdagger{}",
    "‡": r"\textdaggerdbl{}",
    "—": "---",
    "–": "--",
    "“": "``",
    "”": "''",
    "’": "'",
    **{c: "\\" + c for c in "&%$#_{}"},
}
_TEX_LETTERS = set("ÀÁÂÃÄÇÈÉÊËÌÍÎÏÑÒÓÔÕÖÙÚÛÜÝàáâãäçèéêëìíîïñòóôõöùúûüýÿßÆæØøÅå")


def tex(text: Any) -> str:
    return "".join(_TEX.get(c) or _letter(c) for c in one_line(text))


def _letter(c: str) -> str:
    """Plain pdflatex knows ASCII and accented letters; anything else is shown by its number rather than refused."""
    return c if c.isascii() or c in _TEX_LETTERS else rf"\texttt{{U+{ord(c):04X}}}"


def fragment(table: Table, caption: str, label: str, width: float) -> str:
    """A floating table with a label; one wider than a column of 3.25 in spans both columns of a page that has two.

    caption: LaTeX. width: inches; what is wider is made smaller.
    """
    environment = "table*" if width > 3.25 else "table"
    texts, numbers = table.texts, len(table.columns) + 1 - table.texts
    fit = rf"\ifdim\width>{width:g}in {width:g}in\else\width\fi"
    lines = [
        rf"\begin{{{environment}}}[tbp]",
        r"\centering",
        rf"\caption{{{caption}}}",
        rf"\label{{{label}}}",
        r"\footnotesize\setlength{\tabcolsep}{3pt}",
        rf"\resizebox{{{fit}}}{{!}}{{%",
        rf"\begin{{tabular}}{{@{{}}{'l' * texts}{'r' * numbers}@{{}}}}",
        r"\toprule",
        *_heads(table),
    ]
    for group in table.groups:
        lines.append(r"\midrule")
        if group.title and len(table.groups) > 1:
            lines.append(rf"\multicolumn{{{texts + numbers}}}{{@{{}}l}}{{\textit{{{tex(group.title)}}}}} \\")
        lines += [_row(_cells(row)) for row in group.rows]
    lines += [r"\bottomrule", r"\end{tabular}}"]
    if table.footnotes:
        marks = (rf"\textsuperscript{{{tex(mark)}}} " if mark else "" for mark, _ in table.footnotes)
        notes = (rf"{mark}{tex(text)}\par" for mark, (_, text) in zip(marks, table.footnotes, strict=True))
        lines += [rf"\par\smallskip\parbox{{{width:g}in}}{{\scriptsize\raggedright", *notes, "}"]
    return "\n".join([*lines, rf"\end{{{environment}}}", ""])


def _heads(table: Table) -> list[str]:
    """The lines of the headings; where columns are methods, neighbours of one group share its name."""
    columns = (("", table.corner), *table.columns)
    depth = max(len(column) for column in columns)
    columns = [(*[""] * (depth - len(column)), *column) for column in columns]
    if table.texts == 1:
        return [_row([tex(column[i]) for column in columns]) for i in range(depth)]
    first, rules, at = [], [], 1
    for title, own in itertools.groupby(columns, key=lambda column: column[0]):
        span = len(list(own))
        first.append(rf"\multicolumn{{{span}}}{{c}}{{{tex(title)}}}" if title else " &" * (span - 1))
        rules += [rf"\cmidrule(lr){{{at}-{at + span - 1}}}"] if title else []
        at += span
    rest = [_row([tex(column[i]) for column in columns]) for i in range(1, depth)]
    return [_row(first), "".join(rules), *rest]


def _cells(row: Row) -> list[str]:
    if row.wide:
        return [rf"\multicolumn{{2}}{{@{{}}l}}{{{_cell(row.label)}}}", *map(_cell, row.cells[1:])]
    return [_cell(row.label), *map(_cell, row.cells)]


def _row(texts: Sequence[str]) -> str:
    return " & ".join(texts) + r" \\"


def _cell(cell: Cell) -> str:
    text = rf"\textbf{{{tex(cell.text)}}}" if cell.bold else tex(cell.text)
    return text + (rf"\textsuperscript{{{','.join(cell.letters)}}}" if cell.letters else "")


def preview(title: str, banner: Sequence[str], inputs: Sequence[str], bibliography: str, footer: Sequence[str]) -> str:
    """A document that inputs fragments by their paths from its own place."""
    lines = [
        r"\documentclass[10pt]{article}",
        r"\usepackage[a4paper,textwidth=6.75in,textheight=10in]{geometry}",
        r"\usepackage{booktabs,graphicx}",
        r"\setlength{\parindent}{0pt}\setlength{\parskip}{4pt}",
        r"\begin{document}",
        r"\suppressfloats[t]",  # else tables would float above title and banner
        rf"{{\LARGE {tex(title)}\par}}",
        *(rf"\fbox{{\parbox{{0.97\linewidth}}{{\bfseries {tex(text)}}}}}\par" for text in banner),
        *(rf"\input{{{path}}}" for path in inputs),
        r"\clearpage",
        r"\bibliographystyle{plain}",
        rf"\bibliography{{{bibliography}}}",
        r"\medskip\footnotesize",
        *(rf"{tex(text)}\par" for text in footer),
        r"\end{document}",
    ]
    return "\n".join([*lines, ""])
