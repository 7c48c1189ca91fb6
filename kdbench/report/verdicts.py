"""Verdicts, claims and what could have been detected: tables and sentences over the headline pairs of a block."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import pandas as pd

from kdbench.report import stats
from kdbench.report.page import Cell, Group, Row, Table
from kdbench.report.text import count_cell, difference_cell, joined, note_letters, note_list, p_cell
from kdbench.types import Block, Claim, MethodSpec, Pair, Suite


def by_group(methods: Iterable[MethodSpec], row: Callable[[MethodSpec], Row]) -> tuple[Group, ...]:
    """A row for each method, under the headings of their groups."""
    groups: dict[str, list[Row]] = {}
    for method in methods:
        groups.setdefault(method.group, []).append(row(method))
    return tuple(Group(title[:1].upper() + title[1:], tuple(rows)) for title, rows in groups.items())


def label_of(block: Block, method: str) -> str:
    """A method as a person reads it."""
    return next(m.label for m in block.methods if m.id == method)


def verdict_title(block: Block, baseline: str) -> str:
    return f"Verdict against {label_of(block, baseline)}, over headline pairs"


def verdict_table(block: Block, verdict: pd.DataFrame, baseline: str) -> Table:
    """The rows of stats.verdict against a baseline."""
    notes: dict[str, str] = {}

    def row(method: MethodSpec) -> Row:
        v = verdict.loc[method.id]
        tested = np.isfinite(v["p_holm"])
        word = Cell(v["verdict"], letters=() if tested else note_letters(notes, [v["reason"]]))
        return Row(Cell(method.label), (*_difference_cells(v, notes), p_cell(v["p_holm"]), word), method.id)

    columns = (*_DIFFERENCE_COLUMNS, ("p", "(Holm)"), ("verdict",))
    groups = by_group((m for m in block.methods if m.id in verdict.index), row)
    return Table(verdict_title(block, baseline), "Method", columns, groups, note_list(notes))


_DIFFERENCE_COLUMNS = (("difference, points", "[95 % t interval]"), ("complete", "seeds"), ("headline", "pairs"))


def _difference_cells(v: pd.Series, notes: dict[str, str]) -> tuple[Cell, Cell, Cell]:
    """What stands below _DIFFERENCE_COLUMNS of a row of stats.verdict."""
    counts = count_cell(v["n"], v["seeds"]), count_cell(v["pairs"], v["headline"])
    return difference_cell(v, notes), *counts


class ClaimResult(NamedTuple):
    claim: Claim
    students: str
    """Which students, where a block's students read several modalities: such directions are never pooled."""
    frame: pd.DataFrame
    """The runs of their pairs."""
    verdict: pd.Series
    """The row of stats.verdict of the claim's method against its control."""


def readers(suite: Suite, pair: Pair) -> str:
    """The kind of a pair by what its student reads; "" where the suite does not describe the student."""
    student = suite.models.get(pair.student)
    return f"students that read {student.input}" if student else ""


def claim_results(suite: Suite, block: Block, frame: pd.DataFrame) -> list[ClaimResult]:
    """The claims that this block can test, each once for every modality that its students read."""
    ids = {m.id for m in block.methods}
    pairs: dict[str, list[str]] = {}
    for pair in block.pairs:
        pairs.setdefault(readers(suite, pair), []).append(pair.id)
    results = []
    for claim in suite.claims:
        claim = replace(claim, method=block.row_of(claim.method), control=block.row_of(claim.control))
        for students, own in pairs.items() if {claim.method, claim.control} <= ids else ():
            runs = frame[frame["pair"].isin(own)]
            verdict = stats.verdict(runs, claim.control, [claim.method]).loc[claim.method]
            results.append(ClaimResult(claim, students if len(pairs) > 1 else "", runs, verdict))
    return results


def claims_table(block: Block, results: Iterable[ClaimResult]) -> Table:
    """Method minus control for the results of `claim_results`."""
    notes: dict[str, str] = {}

    def row(claim: Claim, students: str, _: pd.DataFrame, v: pd.Series) -> Row:
        where = f", {students}" if students else ""
        label = Cell(f"{label_of(block, claim.method)} minus {label_of(block, claim.control)}{where}")
        cells = _difference_cells(v, notes)
        why = () if np.isfinite(v["p"]) else note_letters(notes, [v["reason"]])
        return Row(label, (*cells, p_cell(v["p"], why)))

    columns = (*_DIFFERENCE_COLUMNS, ("p", "(unadjusted)"))
    rows = tuple(row(*result) for result in results)
    return Table(
        "Claims and their controls, over headline pairs", "Claim", columns, (Group("", rows),), note_list(notes)
    )


def verdict_sentence(block: Block, verdict: pd.DataFrame, baseline: str) -> str:
    """Who is better than the baseline, who worse, and who neither."""

    def named(kind: str) -> str:
        return joined(label_of(block, m) for m in verdict.index[verdict["verdict"] == kind])

    return (
        f"Better than {label_of(block, baseline)}: {named('better')}. Worse: {named('worse')}. "
        f"Not separated: {named('not separated')}. Not tested: {named('no test')}."
    )


def detectable_sentence(frame: pd.DataFrame, baseline: str, rivals: Sequence[str]) -> str:
    """What differences to the baseline could have been found at all."""
    found = stats.detectable(frame, baseline, rivals)
    sizes = []
    if found.verdict:
        family = f"Holm's first step over {found.methods} methods" if found.methods > 1 else "one method"
        sizes.append(f"{found.verdict:.1f} points in this verdict ({family}, n = {found.verdict_n})")
    if found.cell:
        sizes.append(f"{found.cell:.1f} points in a single cell (n = {found.cell_n})")
    if not sizes:
        return (
            "The minimum detectable difference cannot be estimated: this takes two complete seeds with different "
            "results."
        )
    found_by = "Minimum detectable difference (paired t test, 5 %, 80 % power)"
    pooled = (
        " The spread is pooled over these methods; for a method that varies less, the difference is smaller."
        if len(rivals) > 1
        else ""
    )
    return f"{found_by}: {'; '.join(sizes)}.{pooled}"
