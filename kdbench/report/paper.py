"""What a paper takes from a suite: tables of accuracies, verdicts and claims for each block, and whom to cite.

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
from kdbench.report.text import known, note_letters, note_list, pair_text
from kdbench.report.verdicts import claim_results, claims_tables, label_of, short_labels, verdict_table
from kdbench.types import MethodSpec


def fragments(report: BlockReport) -> dict[str, str]:
    """{BLOCK: accuracies, BLOCK-verdict: verdicts, BLOCK-claims: claims} as LaTeX; the last two where it has any."""
    report = _in_words_of_paper(report)
    suite, block, paper = report.suite, report.block, report.suite.paper
    words, label = _words_for_models(report), f"tab:{suite.name}-{block.name}"
    rows = {m.id for m in block.methods if not paper.rows or m.id in paper.rows}
    columns = {p.id for p in block.pairs if not paper.columns or p.id in paper.columns}
    cited = _cited(report, rows)
    found = []
    for i, table in enumerate(_accuracies(report)):
        table = _renamed(_narrowed(table, rows, columns), words)
        caption = tex(_renamed_text(_accuracy_caption(report, table.title), words)) + cited
        found.append(fragment(table, caption, f"{label}-{i + 1}" if i else label, paper.width))
    files = {block.name: "\n".join(found)}
    if any(verdict["p"].notna().any() for verdict in report.verdicts.values()):
        table = _renamed(_verdicts(report, rows), words)
        caption = tex(_verdict_caption(report)) + cited
        files[f"{block.name}-verdict"] = fragment(table, caption, f"{label}-verdict", paper.width)
    claims = [c for c in claim_results(suite, block, report.frame) if {c.claim.method, c.claim.control} <= rows]
    if any(known(claim.verdict["p"]) for claim in claims):
        found = []
        for i, table in enumerate(claims_tables(block, claims)):
            own = f"{label}-claims-{i + 1}" if i else f"{label}-claims"
            found.append(fragment(_renamed(table, words), tex(_claim_caption(report, table)), own, paper.width))
        files[f"{block.name}-claims"] = "\n".join(found)
    return files


def _in_words_of_paper(report: BlockReport) -> BlockReport:
    """The report with each method under its name in the paper, else its short label, wherever a table names it."""
    names, shorts = report.suite.paper.names, short_labels(report.block)

    def named(method: MethodSpec) -> MethodSpec:
        name = names.get(method.id, shorts.get(method.id, method.label))
        return replace(method, label=name, short=name)

    block = replace(report.block, methods=tuple(map(named, report.block.methods)))
    readings = [replace(r, method=named(r.method), readings=tuple(map(named, r.readings))) for r in report.readings]
    return report.relabelled(block, readings)


def _accuracies(report: BlockReport) -> list[Table]:
    """Of the headline pairs, or of all where none is known to be one."""
    headline = report.headline_pairs
    pairs = headline or [p.id for p in report.block.pairs]
    if report.block.layout == "pairs":
        return pair_rows.accuracy_tables(report, pairs, bool(headline))
    return pair_tables.accuracy_tables(report, pairs)


def _verdicts(report: BlockReport, rows: set[str]) -> Table:
    """The verdicts against all baselines in one table."""
    tables = {b: verdict_table(report.block, verdict, b, report.groups) for b, verdict in report.verdicts.items()}
    groups, notes, below = [], {}, ()
    for baseline, table in tables.items():
        texts = dict(table.footnotes)
        below = tuple(note for note in table.footnotes if not note[0])  # of the whole table, the same in all
        own = [row for group in table.groups for row in group.rows if row.method in rows]
        title = f"Against {label_of(report.block, baseline)}"
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


def _words_for_models(report: BlockReport) -> dict[str, str]:
    """A model or a pair as tables write it -> with the names that the paper gives to models."""
    suite, words = report.suite, {}
    names = {model: suite.paper.names.get(model, model) for model in suite.models}
    for model, name in names.items():
        words |= {model: name, f"{model} →": f"{name} →"}
    for pair in (*report.block.pairs, *(suite.tune.pairs if suite.tune else ())):
        words[pair_text(pair.id)] = " → ".join(names.get(model, model) for model in pair.id.split("--"))
    return words


def _renamed_text(text: str, words: Mapping[str, str]) -> str:
    """A sentence with the pairs that it names renamed."""
    pairs = sorted((word for word in words if " → " in word), key=len, reverse=True)
    return re.sub("|".join(map(re.escape, pairs)), lambda found: words[found[0]], text) if pairs else text


def _renamed(table: Table, words: Mapping[str, str]) -> Table:
    def named(cell: Cell) -> Cell:
        return replace(cell, text=words.get(cell.text, cell.text))

    groups = tuple(
        replace(g, rows=tuple(replace(r, label=named(r.label), cells=tuple(map(named, r.cells))) for r in g.rows))
        for g in table.groups
    )
    columns = tuple(tuple(words.get(line, line) for line in column) for column in table.columns)
    footnotes = tuple((letter, _renamed_text(text, words)) for letter, text in table.footnotes)
    return replace(table, columns=columns, groups=groups, footnotes=footnotes)


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
    pairs = len(report.headline_pairs)
    grouped = any("groups_low" in verdict for verdict in report.verdicts.values())
    second = f" Second brackets: percentile bootstrap over whole {report.groups['word']}." if grouped else ""
    return (
        f"{report.block.title}. Difference in test accuracy, points, averaged within a seed over the {pairs} headline "
        f"pairs (n = {len(report.block.seeds)}). Brackets: 95 % t interval over seeds; ±: half its width with the "
        "error pooled over methods; p and verdict: paired t test over seeds, adjusted over the methods (Holm, 5 %)."
        f"{second}"
    )


def _claim_caption(report: BlockReport, table: Table) -> str:
    decided = ("decision",) in table.columns
    return (
        f"{report.block.title}. Claims: difference in test accuracy of a method to its control, points, averaged "
        f"within a seed over {'all' if decided else 'the headline'} pairs (n = {len(report.block.seeds)}). Brackets: "
        f"95 % t interval over seeds; p: paired t test over seeds, unadjusted{' and by Holm' * decided}."
    )


def _cited(report: BlockReport, rows: set[str]) -> str:
    """LaTeX: methods with the keys of their papers."""
    by_key: dict[str, list[str]] = {}
    for method in (m for m in report.block.methods if m.id in rows):
        if entry := method_info(method.method).bibtex:
            by_key.setdefault(re.match(r"@\w+\{([^,]+),", entry)[1], []).append(tex(method.label))
    found = "; ".join(rf"{', '.join(labels)}~\cite{{{key}}}" for key, labels in by_key.items())
    return f" {found}." if found else ""


def _relettered(row: Row, texts: Mapping[str, str], notes: dict[str, str]) -> Row:
    """The row of one table with the footnote letters of a larger one."""

    def lettered(cell: Cell) -> Cell:
        return replace(cell, letters=note_letters(notes, (texts[letter] for letter in cell.letters)))

    return replace(row, cells=tuple(map(lettered, row.cells)))
