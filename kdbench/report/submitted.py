"""Submitted rows below the tables of a suite: what its own rows say stays as it is, letter by letter.

A submitted method is compared with the scratch and kd that were trained beside it. Its p is no member of the family
over which the suite's are corrected: a row from outside must move no verdict of the rows that stand there.
"""

from __future__ import annotations

from collections.abc import Sequence
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
        name, delta = self.submission.name, stats.differences(self.frame, baseline)
        delta = delta.loc[delta.index.get_level_values("pair").isin(pairs), [name]]
        means = stats.over_pairs(delta, pairs)[name].dropna().to_numpy()
        found = dict(zip(("difference", "low", "high", "n"), stats.paired_t_interval(means), strict=True))
        used = delta.dropna().index.unique("pair")
        return pd.Series({**found, "p": float(stats.paired_p(means)), "pairs": len(used)})


def row_of(submission: Submission, block: Block) -> SubmittedRow | None:
    """A submission in a block at the budget that it shows; None where it has no runs there."""
    runs = submission.runs
    own = runs[(runs["block"] == block.name) & (runs["budget"] == block.budget)]
    if own.empty:
        return None
    labels = dict(zip(own["method"], own["label"], strict=True))
    methods = tuple(MethodSpec(id, "", {}, labels.get(id, id), "submitted") for id in (*CHECKS, submission.name))
    return SubmittedRow(submission, replace(block, methods=methods, readings=(), rows=(), also=()), own)


def submitted_section(report: BlockReport, submissions: Sequence[Submission]) -> Section | None:
    """The rows of a block with the submitted ones below them; None where none is submitted to it."""
    rows = [row for submission in submissions if (row := row_of(submission, report.block))]
    if not rows:
        return None
    pairs = report.headline_pairs
    tables = [_accuracy_table(report, rows, *part) for part in cut(report.suite, report.block, pairs).items()]
    baselines = [baseline for baseline in baselines_of(report.block) if baseline in CHECKS]
    tables += [_verdict_table(report, rows, baseline, pairs) for baseline in baselines]
    return Section(f"{report.block.title}: with submitted rows", (HOW, *map(_about, rows), *tables))


def _about(row: SubmittedRow) -> str:
    card, verdict = row.submission.card, row.submission.verdict
    texts = [f"{row.label.text} ({row.submission.name})."]
    texts += [f"Verified on {verdict['date']}."] if verdict else []
    texts += [f"{key.capitalize()}: {card[key].rstrip('.')}." for key in ("paper", "claims") if key in card]
    return " ".join(texts)


def _accuracy_table(report: BlockReport, submitted: Sequence[SubmittedRow], suffix: str, pairs: Sequence[str]) -> Table:
    notes: dict[str, str] = {}

    def own(method: MethodSpec) -> Row:
        found = (accuracy_cell(report.records[pair, method.id], notes) for pair in pairs)
        return Row(Cell(method.label), (Cell(REFERENCE), *found), method.id)

    def theirs(row: SubmittedRow) -> Row:
        records = row.records()
        found = (accuracy_cell({**records[pair, row.submission.name], "bold": False}, notes) for pair in pairs)
        return Row(row.label, (row.mark, *found))

    groups = (*by_group(report.block.methods, own), Group("Submitted", tuple(map(theirs, submitted))))
    columns = (("status",), *headings(report, pairs))
    title = f"Test accuracy on headline pairs, %, with submitted rows{suffix}"
    return Table(title, "Method", columns, groups, mark_notes(report.block) + note_list(notes), texts=2)


def _verdict_table(
    report: BlockReport, submitted: Sequence[SubmittedRow], baseline: str, pairs: Sequence[str]
) -> Table:
    notes: dict[str, str] = {}
    verdict = report.verdicts[baseline]

    def shown(v: pd.Series) -> tuple[Cell, Cell]:
        difference = difference_cell(v, notes)
        letters = left_out(v["pairs"], len(pairs), notes) if v["n"] else ()
        return replace(difference, letters=difference.letters + letters), p_cell(v["p"])

    def own(method: MethodSpec) -> Row:
        v = verdict.loc[method.id]
        return Row(Cell(method.label), (Cell(REFERENCE), *shown(v), p_cell(v["p_holm"])), method.id)

    def theirs(row: SubmittedRow) -> Row:
        return Row(row.label, (row.mark, *shown(row.verdict(baseline, pairs)), Cell("—")))

    methods = (m for m in report.block.methods if m.id in verdict.index)
    groups = (*by_group(methods, own), Group("Submitted", tuple(map(theirs, submitted))))
    columns = (("status",), ("difference, points", "[95 % t interval]"), ("p",), ("p", "(Holm)"))
    title = f"{verdict_title(report.block, baseline)}, with submitted rows"
    return Table(title, "Method", columns, groups, note_list(notes), texts=2)
