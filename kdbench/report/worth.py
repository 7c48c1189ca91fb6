"""What a method is worth in Scratch's compute: the least at which Scratch is as accurate, over what the method costs.

Compute is operations of all training steps, the teacher's pass included (stats.operations). Scratch's accuracy is known
at the budgets it was trained for; between two of them it is taken to be linear in the logarithm of compute.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd

from kdbench.plan.jobs import SCRATCH
from kdbench.report import stats
from kdbench.report.page import Cell, Group, Row, Table
from kdbench.report.text import joined, known, pair_text, spread, with_interval
from kdbench.types import Block, MethodSpec


class Least(NamedTuple):
    operations: float
    beyond: Literal["", "<", ">"]
    """`>`: Scratch is less accurate even at its largest budget, which `operations` then is; `<`: it is as accurate
    at its smallest."""


def least_compute(operations: np.ndarray, accuracy: np.ndarray, wanted: float) -> Least:
    """The least compute at which a learning axis reaches an accuracy; operations, accuracy (k,), in any order.

    Interpolated in the logarithm of compute, over the best accuracy so far: more compute than at the best is no need.
    """
    order = np.argsort(operations)
    logs, best = np.log(operations[order]), np.maximum.accumulate(accuracy[order])
    if wanted > best[-1]:
        return Least(float(operations[order][-1]), ">")
    if wanted <= best[0]:
        return Least(float(operations[order][0]), "<")
    after = int(np.argmax(best >= wanted))
    share = (wanted - best[after - 1]) / (best[after] - best[after - 1])
    return Least(float(np.exp(logs[after - 1] + share * (logs[after] - logs[after - 1]))), "")


def counted(lengths: pd.DataFrame) -> pd.DataFrame:
    """The finished runs that hold their operations, with `operations` of the whole training; lengths:
    BlockReport.lengths."""
    runs = lengths.assign(operations=stats.operations(lengths), test=stats.numbers(lengths, "test"))
    return runs[(runs["status"] == "finished") & np.isfinite(runs["operations"]) & np.isfinite(runs["test"])]


def worth(lengths: pd.DataFrame) -> pd.DataFrame:
    """A row a (pair, method, budget) with a finished seed, Scratch left out; lengths: BlockReport.lengths. Columns:

    - ratio: geometric mean over seeds of the least compute of the same seed's Scratch over the method's
    - low, high: its 95 % t interval over seeds, of the logarithm; NaN where there is none, and where a bound is crossed
    - beyond: `>` where some seed's Scratch never gets there, so that the ratio is a lower bound, `<` where it is an
      upper bound, `?` where both happen
    - n: seeds
    """
    runs = counted(lengths)
    axes = {key: own for key, own in runs[runs["method"] == SCRATCH].groupby(["pair", "seed"]) if len(own) > 1}
    rows = []
    for (pair, method, budget), own in runs[runs["method"] != SCRATCH].groupby(["pair", "method", "budget"]):
        found = []
        for seed, operations, test in own[["seed", "operations", "test"]].itertuples(index=False, name=None):
            if (pair, seed) in axes:
                axis = axes[pair, seed]
                least = least_compute(axis["operations"].to_numpy(), axis["test"].to_numpy(), test)
                found.append((np.log(least.operations / operations), least.beyond))
        if not found:
            continue
        mean, low, high, n = stats.paired_t_interval(log for log, _ in found)
        beyond = "".join(sorted({mark for _, mark in found}))
        if beyond or low is None:
            low = high = np.nan
        rows.append((pair, method, budget, *np.exp([mean, low, high]), "?" if len(beyond) > 1 else beyond, n))
    return pd.DataFrame(rows, columns=["pair", "method", "budget", "ratio", "low", "high", "beyond", "n"])


def worth_parts(block: Block, lengths: pd.DataFrame) -> list[str | Table]:
    """What each method is worth at each budget, and Scratch's own accuracy; nothing where Scratch has one budget."""
    if SCRATCH not in {m.id for m in block.methods} or len(block.lengths) < 2:
        return []
    found = worth(lengths)
    return [_worth_table(block, found), _RULE + worth_sentence(block, found), _scratch_table(block, lengths)]


def _worth_table(block: Block, found: pd.DataFrame) -> Table:
    at = found.set_index(["method", "budget", "pair"]).to_dict("index")
    pairs = [p.id for p in block.pairs]

    def row(method: MethodSpec, budget: float) -> Row:
        cells = (_worth_cell(at.get((method.id, budget, pair)), (pair, method.id)) for pair in pairs)
        return Row(Cell(method.label), tuple(cells), method.id)

    methods = [m for m in block.methods if m.id != SCRATCH]
    return Table(
        "What a method is worth in Scratch's compute (1 ×: what it costs)",
        "Method",
        tuple((p.teacher, p.student) for p in block.pairs),
        tuple(Group(f"Budget {b:g}", tuple(row(m, b) for m in methods), fixed=True) for b in block.budgets),
        pairs=tuple(pairs),
    )


def _worth_cell(found: dict[str, Any] | None, of: tuple[str, str]) -> Cell:
    if found is None or found["beyond"] == "?":
        return Cell("—", of=of)
    text = f"{found['ratio']:.2f} ×"
    if found["beyond"]:
        text = f"{'≥' if found['beyond'] == '>' else '≤'} {text}"
    elif known(found["low"]):
        text += f" [{found['low']:.2f}, {found['high']:.2f}]"
    return Cell(text, found["ratio"], of=of)


_RULE = (
    "Worth: the least compute at which Scratch is as accurate as the method, over what the method's training "
    "computes, the teacher's pass included; geometric mean over seeds with its 95 % t interval. Between its "
    "budgets, Scratch's accuracy is taken to be linear in the logarithm of compute. ≥: Scratch does not get there "
    "at its largest budget; ≤: it is there at its smallest. "
)


def worth_sentence(block: Block, found: pd.DataFrame) -> str:
    """Which methods are worth more than they cost at the budget that a block shows; found: of `worth`."""
    own = found[found["budget"] == block.budget]
    proven = own[((own["low"] > 1) & (own["beyond"] == "")) | ((own["ratio"] > 1) & (own["beyond"] == ">"))]
    labels = {m.id: m.label for m in block.methods}
    where = [f"{labels[row.method]} on {pair_text(row.pair)}" for row in proven.itertuples()]
    worth_more = f"worth more than it costs at budget {block.budget:g}"
    return f"{worth_more.capitalize()}: {joined(where)}." if where else f"No method is {worth_more}."


def _scratch_table(block: Block, lengths: pd.DataFrame) -> Table:
    """Scratch's accuracy at every budget, and what the last doubling before the budget that is shown brought."""
    budgets = sorted(block.lengths)
    own = lengths[lengths["method"] == SCRATCH]
    doubled = block.budget / 2 in budgets

    def row(student: str) -> Row:
        runs = own[own["student"] == student].drop_duplicates(["seed", "budget"])
        runs = runs[runs["status"] == "finished"]
        by = {
            split: runs.assign(value=stats.numbers(runs, split)).pivot(index="seed", columns="budget", values="value")
            for split in ("test", "val")
        }
        cells = [_mean_cell(by["test"].get(budget, ())) for budget in budgets]
        for split in ("test", "val") if doubled else ():
            gain = by[split].get(block.budget, pd.Series(dtype=float)) - by[split].get(block.budget / 2, np.nan)
            text, _ = with_interval(*stats.paired_t_interval(gain), {}) if gain.notna().any() else ("—", ())
            cells.append(Cell(text, gain.mean() if gain.notna().any() else None))
        return Row(Cell(student), tuple(cells))

    heads = [("budget", f"{budget:g}") for budget in budgets]
    if doubled:
        step = f"{block.budget / 2:g} to {block.budget:g},"
        heads += [(step, "test"), (step, "validation")]
    students = dict.fromkeys(p.student for p in block.pairs)
    return Table(
        "Scratch: test accuracy at every budget" + (", and the gain of the last doubling in points" if doubled else ""),
        "Student",
        tuple(heads),
        (Group("", tuple(map(row, students)), fixed=True),),
    )


def _mean_cell(values: Iterable[float]) -> Cell:
    mean, sd, n = stats.mean_sd(values)
    return Cell(f"{mean:.1f}{spread(sd)}", mean) if n else Cell("—")
