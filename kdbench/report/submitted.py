"""Submitted rows below the tables of a suite: what its own rows say stays as it is, letter by letter.

A submitted method is compared with the scratch and kd that were trained beside it. Its p is no member of the family
over which the suite's are corrected: a row from outside must move no verdict of the rows that stand there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from kdbench.report import stats
from kdbench.report.block import BlockReport
from kdbench.report.cells import baselines_of, cells
from kdbench.report.page import Cell, Group, Row, Section, Table
from kdbench.report.pair_tables import cut, headings, mark_notes
from kdbench.report.text import accuracy_cell, difference_cell, note_list, p_cell
from kdbench.report.verdicts import by_group, left_out, verdict_title
from kdbench.results.submission import CHECKS, REFERENCE, Submission
from kdbench.types import Block, MethodSpec

HOW = (
    "Rows that others submitted, below the suite's own. Their differences are to the Scratch and KD that were trained "
    "beside them. Status “verified”: every accuracy was recomputed and a run was trained again (kdbench verify); "
    "“reported”: as its author says. Bold, Holm's correction and headline pairs are those of the suite's own rows."
)


@dataclass(frozen=True)
class SubmittedRow:
    submission: Submission
    block: Block
    """The block cut down to CHECKS and the submitted method."""
    frame: pd.DataFrame
    """Their runs."""

    @property
    def label(self) -> Cell:
        return Cell(self.block.methods[-1].label)

    @property
    def mark(self) -> Cell:
        return Cell(self.submission.mark)

    def records(self) -> dict[tuple[str, str], dict[str, Any]]:
        """(pair, method) -> its row of `cells`."""
        return cells(self.block, self.frame).to_dict("index")

    def verdict(self, baseline: str, pairs: Sequence[str]) -> pd.Series:
        """difference, low, high, n, pairs and p against a check row, as stats.verdict has them, over these pairs."""
        delta = stats.differences(self.frame, baseline)[[self.submission.name]]
        means = stats.over_pairs(delta, pairs)[self.submission.name]
        interval, p = stats.paired_t_interval(means), float(stats.paired_p(means.dropna().to_numpy()))
        known = delta.dropna().index.get_level_values("pair").isin(list(pairs))
        used = delta.dropna()[known].index.unique("pair")
        found = dict(zip(("difference", "low", "high", "n"), interval, strict=True))
        return pd.Series({**found, "p": p, "pairs": len(used)})


def row_of(submission: Submission, block: Block) -> SubmittedRow | None:
    """A submission in a block at the budget that it shows; None where it has no runs there."""
    runs = submission.runs
    own = runs[(runs["block"] == block.name) & (runs["budget"] == block.budget)]
    if own.empty:
        return None
    labels = dict(zip(own["method"], own["label"], strict=True))
    methods = tuple(MethodSpec(id, "", {}, labels[id], "submitted") for id in (*CHECKS, submission.name))
    return SubmittedRow(submission, replace(block, methods=methods, readings=(), rows=(), also=()), own)


def submitted_section(report: BlockReport, submissions: Sequence[Submission]) -> Section | None:
    """The rows of a block with the submitted ones below them; None where none is submitted to it."""
    rows = [row for submission in submissions if (row := row_of(submission, report.block))]
    if not rows:
        return None
    tables = [*_accuracy_tables(report, rows), *_verdict_tables(report, rows)]
    return Section(f"{report.block.title}: with submitted rows", (HOW, *_about(rows), *tables))


def _about(rows: Sequence[SubmittedRow]) -> Iterator[str]:
    for row in rows:
        card, verdict = row.submission.card, row.submission.verdict
        verified = f" Verified on {verdict['date']}." if verdict else ""
        told = [f"{key.capitalize()}: {card[key].rstrip('.')}." for key in ("paper", "claims") if key in card]
        yield f"{row.label.text} ({row.submission.name}).{verified} {' '.join(told)}"


def _accuracy_tables(report: BlockReport, submitted: Sequence[SubmittedRow]) -> Iterator[Table]:
    block, records = report.block, report.records
    kinds = report.headline["kind"]
    for suffix, pairs in cut(report.suite, block, [p.id for p in block.pairs if kinds[p.id] == "headline"]).items():
        notes: dict[str, str] = {}

        def own(method: MethodSpec, pairs: Sequence[str] = pairs, notes: dict[str, str] = notes) -> Row:
            found = (accuracy_cell(records[pair, method.id], notes) for pair in pairs)
            return Row(Cell(method.label), (Cell(REFERENCE), *found), method.id)

        groups = by_group(block.methods, own)
        rows = tuple(_accuracy_row(row, pairs, notes) for row in submitted)
        columns = (("status",), *headings(report, pairs))
        title = f"Test accuracy on headline pairs, %, with submitted rows{suffix}"
        yield Table(
            title, "Method", columns, (*groups, Group("Submitted", rows)), mark_notes(block) + note_list(notes), texts=2
        )


def _accuracy_row(row: SubmittedRow, pairs: Sequence[str], notes: dict[str, str]) -> Row:
    records, name = row.records(), row.submission.name
    found = (accuracy_cell({**records[pair, name], "bold": False}, notes) for pair in pairs)
    return Row(row.label, (row.mark, *found))


def _verdict_tables(report: BlockReport, submitted: Sequence[SubmittedRow]) -> Iterator[Table]:
    pairs = list(report.headline.index[report.headline["kind"] == "headline"])
    for baseline in (baseline for baseline in baselines_of(report.block) if baseline in CHECKS):
        notes: dict[str, str] = {}
        verdict = report.verdicts[baseline]

        def cells_of(v: Mapping[str, Any], mark: Cell, notes: dict[str, str] = notes) -> tuple[Cell, ...]:
            difference = difference_cell(v, notes)
            letters = left_out(v["pairs"], len(pairs), notes) if v["n"] else ()
            return mark, replace(difference, letters=difference.letters + letters), p_cell(v["p"])

        def own(method: MethodSpec, verdict: pd.DataFrame = verdict, cells_of: Any = cells_of) -> Row:
            v = verdict.loc[method.id]
            return Row(Cell(method.label), (*cells_of(v, Cell(REFERENCE)), p_cell(v["p_holm"])), method.id)

        groups = by_group((m for m in report.block.methods if m.id in verdict.index), own)
        rows = (Row(row.label, (*cells_of(row.verdict(baseline, pairs), row.mark), Cell("—"))) for row in submitted)
        columns = (("status",), ("difference, points", "[95 % t interval]"), ("p",), ("p", "(Holm)"))
        title = f"{verdict_title(report.block, baseline)}, with submitted rows"
        yield Table(title, "Method", columns, (*groups, Group("Submitted", tuple(rows))), note_list(notes), texts=2)
