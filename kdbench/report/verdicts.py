"""Verdicts, claims and what could have been detected: tables and sentences over the headline pairs of a block."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from kdbench.report import stats
from kdbench.report.page import Cell, Group, Row, Table
from kdbench.report.text import (
    difference_cell,
    joined,
    known,
    note_letters,
    note_list,
    number_cell,
    p_cell,
    pair_text,
    signed,
    with_interval,
)
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


def short_labels(block: Block) -> dict[str, str]:
    """Method id -> its short label; the whole one where two methods share the short."""
    shorts = [m.short or m.label for m in block.methods]
    return {
        m.id: short if shorts.count(short) == 1 else m.label for m, short in zip(block.methods, shorts, strict=True)
    }


def verdict_title(block: Block, baseline: str) -> str:
    return f"Verdict against {label_of(block, baseline)}, over headline pairs"


def verdict_table(block: Block, verdict: pd.DataFrame, baseline: str, groups: Mapping[str, Any]) -> Table:
    """The rows of stats.verdict against a baseline, with stats.group_intervals where `verdict` has them.

    groups: of test samples, as BlockReport has them.
    """
    grouped = "groups_low" in verdict
    notes: dict[str, str] = {}

    def row(method: MethodSpec) -> Row:
        v = verdict.loc[method.id]
        difference, *by_pair = _difference_cells(v, notes)
        by_groups = [_groups_cell(v)] if grouped else []
        cells = (difference, *by_groups, _pooled_cell(v, notes), *by_pair, p_cell(v["p_holm"]), _word_cell(v, notes))
        return Row(Cell(method.label), cells, method.id)

    difference, *by_pair = _DIFFERENCE_COLUMNS
    by_groups = [("[95 % bootstrap", f"over {_counted(groups)}]")] if grouped else []
    columns = (difference, *by_groups, ("± error pooled", "over methods"), *by_pair, ("p", "(Holm)"), ("verdict",))
    rows = by_group((m for m in block.methods if m.id in verdict.index), row)
    below = _groups_note(groups if grouped else {}) if "groups" in block.also else ()
    return Table(verdict_title(block, baseline), "Method", columns, rows, note_list(notes) + below)


def _counted(groups: Mapping[str, Any]) -> str:
    return f"{len(groups['sizes'])} {groups['word']}"


def _groups_cell(v: pd.Series) -> Cell:
    """The bootstrap interval of a row of stats.group_intervals."""
    if not known(v["groups_low"]):
        return Cell("—")
    return Cell(f"[{signed(v['groups_low'])}, {signed(v['groups_high'])}]", v["groups_low"])


def _groups_note(groups: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    """What stands below a table that was to show intervals over groups of test samples."""
    if not groups:
        why = "the data do not say which test samples belong together, or did not when they were packed"
        return (("", f"No bootstrap over groups of test samples: {why}."),)
    if len(groups["sizes"]) >= stats.FEW_GROUPS:
        return ()
    few = "few: the bootstrap over them is rough, and too narrow rather than too wide"
    if len(groups["sizes"]) < stats.FEWEST_GROUPS:
        few = "too few for a bootstrap over them"
    return (("", f"{_counted(groups)} are {few}."),)


_DIFFERENCE_COLUMNS = (
    ("difference, points", "[95 % t interval]"),
    ("with any one pair", "left out"),
    ("better / worse", "on pairs"),
)


def _difference_cells(v: pd.Series, notes: dict[str, str]) -> tuple[Cell, Cell, Cell]:
    """What stands below _DIFFERENCE_COLUMNS of a row of stats.verdict."""
    difference = difference_cell(v, notes)
    if v["n"]:
        difference = replace(difference, letters=difference.letters + incomplete(v["n"], v["seeds"], notes))
    without = Cell("—")
    if known(v["without_low"]):
        without = Cell(f"{signed(v['without_low'])} to {signed(v['without_high'])}", v["without_low"])
    return difference, without, pairs_cell(v, notes)


def pairs_cell(v: pd.Series, notes: dict[str, str]) -> Cell:
    """On how many headline pairs a row of stats.verdict is above and below the baseline."""
    if not v["n"]:
        return Cell("—")
    text = f"{v['pairs_better']} / {v['pairs_worse']} of {v['headline']}"
    return Cell(text, v["pairs_better"], letters=left_out(v["pairs"], v["headline"], notes))


def incomplete(n: int, seeds: int, notes: dict[str, str]) -> tuple[str, ...]:
    return note_letters(notes, [f"{n} of {seeds} seeds complete"]) if n < seeds else ()


def left_out(pairs: int, headline: int, notes: dict[str, str]) -> tuple[str, ...]:
    return note_letters(notes, [f"over {pairs} of {headline} pairs, n/a on the others"]) if pairs < headline else ()


def _pooled_cell(v: pd.Series, notes: dict[str, str]) -> Cell:
    if not known(v["pooled"]):
        return Cell("—")
    flag = f"own and pooled error differ by more than {stats.DISAGREE:g} times: go by the wider interval"
    return Cell(f"±{v['pooled']:.1f}", v["pooled"], letters=note_letters(notes, [flag] if v["disagree"] else []))


def _word_cell(v: pd.Series, notes: dict[str, str]) -> Cell:
    """`better`, `worse`, `not separated` or `no test`, and whether the method collapsed."""
    texts = [v["reason"]] if v["reason"] else []
    word = f"{v['verdict']}, collapsed" if v["collapsed"] else v["verdict"]
    return Cell(word, letters=note_letters(notes, texts + collapse_note(v)))


def collapse_note(v: pd.Series) -> list[str]:
    """What is to be known of a row of stats.verdict that collapsed."""
    if not v["collapsed"]:
        return []
    where = ", ".join(map(pair_text, v["collapsed"]))
    return [
        f"collapsed: below half of scratch's accuracy on {where}; not in the pooled error, nor in the minimum "
        "detectable difference"
    ]


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
    """The claims that this block can test, each once for every modality that its students read; p_holm is over those
    with a margin."""
    ids = {m.id for m in block.methods}
    pairs: dict[str, list[str]] = {}
    for pair in block.pairs:
        pairs.setdefault(readers(suite, pair), []).append(pair.id)
    results = []
    for claim in suite.claims:
        claim = replace(claim, method=block.row_of(claim.method), control=block.row_of(claim.control))
        for students, own in pairs.items() if {claim.method, claim.control} <= ids else ():
            runs = frame[frame["pair"].isin(own)]
            every_pair = claim.margin is not None
            verdict = stats.verdict(runs, claim.control, [claim.method], every_pair).loc[claim.method]
            results.append(ClaimResult(claim, students if len(pairs) > 1 else "", runs, verdict))
    decided = [result.verdict for result in results if result.claim.margin is not None]
    for verdict, p_holm in zip(decided, stats.holm([v["p"] for v in decided]), strict=True):
        verdict["p_holm"] = p_holm
    return results


def claims_tables(block: Block, results: Sequence[ClaimResult]) -> list[Table]:
    """Method minus control for the results of `claim_results`: of claims that describe, and of those with a margin."""
    kinds = ([r for r in results if (r.claim.margin is None) == describes] for describes in (True, False))
    return [_claims_table(block, own, own[0].claim.margin is not None) for own in kinds if own]


def _claims_table(block: Block, results: Sequence[ClaimResult], decided: bool) -> Table:
    notes: dict[str, str] = {}

    def row(claim: Claim, students: str, _: pd.DataFrame, v: pd.Series) -> Row:
        where = f", {students}" if students else ""
        label = Cell(f"{label_of(block, claim.method)} minus {label_of(block, claim.control)}{where}")
        cells = _difference_cells(v, notes)
        why = () if np.isfinite(v["p"]) else note_letters(notes, [v["reason"]])
        cells = (*cells, p_cell(v["p"], why))
        if decided:
            cells += (p_cell(v["p_holm"], why), number_cell(claim.margin, ".1f"), Cell(decision_of(claim, v)))
        return Row(label, cells)

    columns = (*_DIFFERENCE_COLUMNS, ("p", "(unadjusted)"))
    title = "Claims and their controls, over headline pairs"
    below: tuple[tuple[str, str], ...] = ()
    if decided:
        columns += (("p", "(Holm)"), ("margin,", "points"), ("decision",))
        title, below = "Claims with a margin, over all pairs", (("", DECISIONS),)
    return Table(title, "Claim", columns, (Group("", tuple(row(*r) for r in results)),), note_list(notes) + below)


def decision_of(claim: Claim, v: pd.Series) -> str:
    """stats.decision of a claim with a margin from its row of stats.verdict; `no test` where there is no interval."""
    return stats.decision(v["difference"], v["low"], v["high"], claim.margin) if known(v["low"]) else "no test"


def answer(block: Block, claim: Claim, students: str, frame: pd.DataFrame, v: pd.Series) -> str:
    """What the interval of method minus control says to the claim's question."""
    method, control = label_of(block, claim.method), label_of(block, claim.control)
    asked = f"{claim.question} {students[:1].upper() + students[1:]}:" if students else claim.question
    if not np.isfinite(v["p"]):
        return f"{asked} Cannot be answered: {v['reason']}."
    difference, _ = with_interval(v["difference"], v["low"], v["high"], v["n"], {})
    if claim.margin is not None:
        word = decision_of(claim, v).capitalize()
        return f"{asked} {word} at a margin of {claim.margin:g}: {method} minus {control} is {difference} points."
    if v["low"] > 0:
        return f"{asked} {method} is better than its control {control}: {difference} points."
    if v["high"] < 0:
        return f"{asked} {method} is worse than its control {control}: {difference} points."
    found = stats.detectable(frame, claim.control, [claim.method])
    return (
        f"{asked} Undecided after {v['n']} seeds: {method} minus {control} is {difference} points. With this many "
        f"seeds, the minimum detectable difference (80 % power) is {found.verdict:.1f} points."
    )


DECISIONS = (
    "Supported: the difference exceeds the margin and its interval lies above 0. Contradicted: the interval lies below "
    "the margin. Else undecided. Holm's adjustment is over the claims of this table and decides nothing."
)
"""The rule of claims with a margin; a table says it once."""


def verdict_sentence(block: Block, verdict: pd.DataFrame, baseline: str) -> str:
    """Who is better than the baseline, who worse, and who neither; of what nobody is, nothing is said."""
    name = label_of(block, baseline)
    found = {f"{words} {name}": verdict["verdict"] == kind for kind, words in _COMPARED.items()}
    found["Collapsed on at least one pair (below half of scratch's accuracy)"] = verdict["collapsed"].map(len) > 0
    return " ".join(
        f"{words}: {joined(label_of(block, m) for m in verdict.index[own])}."
        for words, own in found.items()
        if any(own)
    )


_COMPARED = {
    "better": "Better than",
    "worse": "Worse than",
    "not separated": "Not separated from",
    "no test": "Not tested against",
}
DETECTABLE = (
    "Minimum detectable differences: paired t test, 5 %, 80 % power. The spread is pooled over the methods of a "
    "verdict but for those that collapsed; for a method that varies less, the difference is smaller."
)
"""What `detectable_sentence` rests on; a page says it once."""


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
    return f"Minimum detectable difference: {'; '.join(sizes)}."
