"""Does a cheap suite tell what another would: do the methods that gain there gain here?

An effect is a method's test accuracy minus Scratch's, at the budget that a block shows, averaged over seeds. Two suites
share a cell where both have the method, with the same parameters, teacher's part and tuning, on a pair of the same
families of teacher and student, both reading the same modality; the networks and the data differ, that is the question.
Several such pairs of a suite are averaged within a seed. Pairs with a weak teacher are left out, as in every verdict.

The rule, written before `glyphs` and `cifar100-32-night` had results: by Spearman's rank correlation over cells and its
interval over methods and pairs, a suite is a valid proxy for another where the interval lies above USEFUL, it is none
where the interval lies below, and else that is undecided.
"""

from __future__ import annotations

import json
import math
from typing import NamedTuple

import pandas as pd

from kdbench.plan.jobs import SCRATCH
from kdbench.report import stats
from kdbench.report.page import Cell, Group, Row, Table
from kdbench.report.pair_tables import FAMILIES
from kdbench.report.text import note_list, with_interval
from kdbench.results.reference import Reference
from kdbench.types import Block, KdbenchError, MethodSpec, Suite

USEFUL = 0.5
"""Spearman's rho from which on a proxy is worth its training."""
FEWEST_METHODS = 3
_CELL = ["pair", "setting"]
VALID, NONE, UNDECIDED = "a valid proxy", "no proxy", "undecided"


class Proxy(NamedTuple):
    """The suite `a` held against the suite `b`."""

    a: Suite
    b: Suite
    cells: pd.DataFrame
    """One row a shared cell: pair, method (its id in A), label, and for A and B each the effect with its t interval and
    the number of seeds (effect_a, low_a, high_a, n_a, ...), in points."""
    over_cells: stats.Interval
    over_methods: stats.Interval

    @property
    def verdict(self) -> str:
        _, low, high, _ = self.over_cells
        if low is None:
            return UNDECIDED
        return VALID if low > USEFUL else NONE if high < USEFUL else UNDECIDED


def compare(a: Reference, b: Reference) -> Proxy:
    """Hold the committed results of two suites against each other.

    Raises KdbenchError where they share fewer than three methods on pairs of the same families.
    """
    of_a, of_b = effects(a), effects(b)
    of_b = of_b.drop(columns=["method", "label"])
    cells = of_a.merge(of_b, left_index=True, right_index=True, suffixes=("_a", "_b")).reset_index()
    if (shared := cells["setting"].nunique()) < FEWEST_METHODS:
        raise KdbenchError(
            f"{a.suite.name} and {b.suite.name} share {shared} method{'' if shared == 1 else 's'} with the same "
            f"parameters on headline pairs of the same families; a rank correlation takes {FEWEST_METHODS}"
        )
    tables = [cells.pivot(index="setting", columns="pair", values=f"effect_{side}").to_numpy() for side in "ab"]
    cells = cells.drop(columns="setting")
    return Proxy(a.suite, b.suite, cells, *(stats.crossed_spearman(*tables, averaged) for averaged in (False, True)))


def effects(reference: Reference) -> pd.DataFrame:
    """Index (pair of families, setting of a method); columns method (its id), label, effect, low, high (95 % t interval
    over seeds, points) and n (seeds). What several blocks have is taken from the first of them."""
    suite, rows = reference.suite, []
    for block in suite.blocks:
        if SCRATCH not in {m.id for m in block.methods}:
            continue
        frame = reference.frame(block)
        delta = stats.differences(frame, SCRATCH)
        for families, pairs in _alike(suite, block, frame).items():
            for m in (m for m in block.methods if m.method != SCRATCH):
                interval = stats.paired_t_interval(delta[m.id].unstack("pair")[pairs].mean(axis=1, skipna=False))
                rows.append((families, _setting(m), m.id, m.label, *interval))
    table = pd.DataFrame(rows, columns=[*_CELL, "method", "label", "effect", "low", "high", "n"])
    return table[table["n"] > 0].drop_duplicates(_CELL).set_index(_CELL)


def _alike(suite: Suite, block: Block, frame: pd.DataFrame) -> dict[str, list[str]]:
    """Families, as in "CNN → ViT" -> the headline pairs of these whose teacher and student read one modality."""
    kinds, found = stats.headline_pairs(frame)["kind"], {}
    for pair in block.pairs:
        teacher, student = suite.models[pair.teacher], suite.models[pair.student]
        if kinds[pair.id] == "headline" and teacher.input == student.input:
            found.setdefault(f"{FAMILIES[teacher.family]} → {FAMILIES[student.family]}", []).append(pair.id)
    return found


def _setting(method: MethodSpec) -> str:
    """What makes two rows of two suites the same method."""
    return json.dumps([method.method, method.params, method.guide, method.tuned_from is not None], sort_keys=True)


# ----------------------------------------------------------------------------------------------------------- for people


def parts(found: Proxy) -> list[str | Table]:
    """What a page says of a comparison."""
    a, b = found.a.name, found.b.name
    methods, pairs = (found.cells[name].nunique() for name in ("method", "pair"))
    return [
        f"An effect is test accuracy minus Scratch's, in points, at the budget that each suite shows, averaged over "
        f"seeds. {a} and {b} share {len(found.cells)} cells: {methods} methods with the same parameters on {pairs} "
        f"pair{'' if pairs == 1 else 's'} of the same families of teacher and student. Pairs with a weak teacher in "
        "either are left out.",
        Table(
            f"Rank correlation of effects, {a} and {b}",
            "over",
            (("Spearman's ρ",), ("[95 % bootstrap over", "methods and pairs]"), ("n",)),
            (
                Group(
                    "",
                    (
                        _correlation_row("cells", found.over_cells),
                        _correlation_row("methods, averaged over pairs", found.over_methods),
                    ),
                ),
            ),
        ),
        verdict_sentence(found),
        f"The rule: valid where the interval over cells lies above {USEFUL:g}, no proxy where it lies below, else "
        "undecided. The bootstrap draws methods and pairs anew, since cells that share one are no replicates. Few "
        "methods or few pairs make the interval wide, and a wide interval says that these suites cannot tell, not that "
        f"the orders differ: {methods} methods in random order agree wholly once in {math.factorial(methods):,} cases. "
        "Noise of seeds weakens a correlation.",
        _effects_table(found),
    ]


def verdict_sentence(found: Proxy) -> str:
    a, b, (rho, low, high, n) = found.a.name, found.b.name, found.over_cells
    if rho is None:
        return f"Whether {a} is a proxy for {b} cannot be said: the effects of one of them do not vary."
    told = {
        VALID: f"{a} is a valid proxy for {b}",
        NONE: f"{a} is no proxy for {b}",
        UNDECIDED: f"Whether {a} is a proxy for {b} is undecided",
    }
    interval = ", without an interval" if low is None else f" [{_rho(low)}, {_rho(high)}]"
    return f"{told[found.verdict]}: ρ = {_rho(rho)}{interval}, over {n} cells."


def _rho(value: float) -> str:
    return f"{round(value, 2) + 0.0:.2f}".replace("-", "−")


def _correlation_row(over: str, interval: stats.Interval) -> Row:
    rho, low, high, n = interval
    shown = Cell("—") if rho is None else Cell(_rho(rho), rho)
    ends = Cell("—") if low is None else Cell(f"[{_rho(low)}, {_rho(high)}]", low)
    return Row(Cell(over), (shown, ends, Cell(str(n), n)))


def _effects_table(found: Proxy) -> Table:
    notes: dict[str, str] = {}

    def cell(row: dict, side: str) -> Cell:
        text, letters = with_interval(*(row[f"{name}_{side}"] for name in ("effect", "low", "high", "n")), notes)
        return Cell(text, row[f"effect_{side}"], letters=letters)

    groups = tuple(
        Group(pair, tuple(Row(Cell(row["label"]), (cell(row, "a"), cell(row, "b"))) for row in own.to_dict("records")))
        for pair, own in found.cells.groupby("pair", sort=False)
    )
    columns = ((found.a.name,), (found.b.name,))
    return Table("Effects, points [95 % t interval over seeds]", "Method", columns, groups, note_list(notes))
