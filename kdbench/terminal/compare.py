"""`kdbench compare A [B]`: do two results agree, cell by cell, as far as seeds can tell?

A cell is reproduced where the difference of its two means is at most half the width of Welch's 95 % interval. A and B
are two samples of seeds that share nothing, so the intervals here are not the paired ones of a table.

Where one of the two has a single seed, that run is held against the other's run of the same seed, and the interval is
that of a difference of two single runs, t s sqrt(2), with s over the seeds of the other. It is meant for one seed that
was trained again elsewhere: what is left of the difference then is rounding, which training makes larger, but not
larger than another seed would.
"""

from __future__ import annotations

import math
import shlex
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import stats as st

from kdbench.plan.jobs import make_plan
from kdbench.plan.paths import found, of_budget, reference_folder
from kdbench.plan.suite import load_suite
from kdbench.report import stats
from kdbench.results.frames import all_runs
from kdbench.results.record import DIVERGED, FINISHED
from kdbench.results.reference import CELL, NEEDED, first_cell, read_runs
from kdbench.results.today import Today
from kdbench.types import KdbenchError

REPRODUCED, DIFFERS, UNJUDGED = "reproduced", "NOT REPRODUCED", "cannot be judged"
_EQUAL = 1e-9  # points; means closer than this are equal up to rounding


def compare(name_a: str, name_b: str | None) -> bool:
    """Print the comparison of two results; whether all cells that can be judged are reproduced.

    Each is a suite (its results today) or a path to a runs.csv; B is by default the committed reference of suite A.
    Raises KdbenchError where a result is not there or not whole, where the two are of different editions, and where no
    cell can be judged.
    """
    a, b = load(name_a), load(name_b := name_b or str(reference(name_a)))
    of_a, of_b = (" and ".join(sorted(set(frame["edition"]))) for frame in (a, b))
    if of_a != of_b:
        raise KdbenchError(
            f"{name_a} is of edition {of_a} and {name_b} of edition {of_b}: results of two editions are not compared"
        )
    table = judge(a, b)
    if not table["verdict"].isin([REPRODUCED, DIFFERS, UNJUDGED]).any():
        raise KdbenchError(
            f"{name_a} and {name_b} have no cell in common: the first one of A is {first_cell(a)}, of B {first_cell(b)}"
        )
    print(f"A: {name_a}\nB: {name_b}\n")
    for block, rows in table.groupby("block", sort=False):
        print("\n".join([block, *_aligned(rows), ""]))
    print(summary(table))
    if not table["verdict"].isin([REPRODUCED, DIFFERS]).any():
        raise KdbenchError(
            f"no cell of {name_a} and {name_b} can be judged: it takes two finished seeds in both, or one that is "
            "among two or more of the other"
        )
    return not (table["verdict"] == DIFFERS).any()


# ---------------------------------------------------------------------------------------------------- where runs are


def reference(name: str) -> Path:
    """The committed runs of a suite. Raises KdbenchError where there are none, and for a path that names no suite."""
    if _is_csv(name):
        raise KdbenchError(f"{name} has no reference of its own; name what to hold it against: kdbench compare A B")
    path = found(reference_folder(load_suite(name)) / "runs.csv")
    if not path.exists():
        raise KdbenchError(
            f"suite {name} has no reference ({path} does not exist); name one: kdbench compare {shlex.quote(name)} B"
        )
    return path


def load(name: str) -> pd.DataFrame:
    """One row a planned run: block, pair, method, budget, edition, label, seed, status, test (a number or NaN)."""
    return read_runs(Path(name))[NEEDED] if _is_csv(name) else _collect(name)


def _is_csv(name: str) -> bool:
    return name.lower().endswith(".csv")


def _collect(name: str) -> pd.DataFrame:
    frame = all_runs(Today(make_plan(load_suite(name)))).reset_index(drop=True)
    texts = {"budget": frame["budget"].map("{:g}".format), "edition": frame["edition"].map(str)}
    return frame.assign(test=stats.numbers(frame, "test"), **texts)[NEEDED]


# ---------------------------------------------------------------------------------------------------------- judgement


def judge(a: pd.DataFrame, b: pd.DataFrame, error: float = 0.05) -> pd.DataFrame:
    """One row a cell of A or B, in their order: block, pair, method, budget, label, seed (by which alone it is judged,
    or None), a and b (Summary, of that seed where there is one), difference (B minus A), half (of the interval's width;
    NaN without one), diverged (runs in A, in B), verdict, remark. error: how often chance may fail a cell."""
    of_a, of_b = (dict(iter(frame.groupby(CELL, sort=False))) for frame in (a, b))
    rows = []
    for cell in dict.fromkeys((*of_a, *of_b)):
        x, y = of_a.get(cell, a.iloc[:0]), of_b.get(cell, b.iloc[:0])
        of_x, of_y = _counted(x), _counted(y)
        seed = _single(of_x, of_y)
        if seed is None:
            half = welch_half_width(of_x, of_y, error)
        else:
            half = single_half_width(max(of_x, of_y, key=len), error)
            of_x, of_y = of_x.loc[[seed]], of_y.loc[[seed]]
        mean_a, mean_b = stats.mean_sd(of_x), stats.mean_sd(of_y)
        difference = mean_b.mean - mean_a.mean if mean_a.n and mean_b.n else math.nan
        verdict, remark = _verdict(x, y, mean_a.n, mean_b.n, difference, half, seed)
        rows.append(
            dict(zip(CELL, cell, strict=True))
            | {"label": (y if x.empty else x).iloc[0]["label"], "seed": seed, "a": mean_a, "b": mean_b}
            | {"difference": difference, "half": half, "diverged": (_diverged(x), _diverged(y))}
            | {"verdict": verdict, "remark": "; ".join(filter(None, [remark, *_unfinished(x, y)]))}
        )
    return pd.DataFrame(rows)


def welch_half_width(a: Sequence[float], b: Sequence[float], error: float = 0.05) -> float:
    """Half the width of Welch's interval, by default that of 95 %, for the difference of two means.

    NaN where there is none: below two values in one of them, and where neither has any spread.
    """
    if min(len(a), len(b)) < 2 or (max(a) - min(a) < _EQUAL and max(b) - min(b) < _EQUAL):
        return math.nan
    of_a, of_b = (np.var(x, ddof=1) / len(x) for x in (a, b))
    freedom = (of_a + of_b) ** 2 / (of_a**2 / (len(a) - 1) + of_b**2 / (len(b) - 1))
    return float(st.t.ppf(1 - error / 2, freedom) * np.sqrt(of_a + of_b))


def single_half_width(values: Sequence[float], error: float = 0.05) -> float:
    """Half the width of the interval for the difference of two runs of the kind of these; NaN below two values and
    where they have no spread."""
    if len(values) < 2 or max(values) - min(values) < _EQUAL:
        return math.nan
    return float(st.t.ppf(1 - error / 2, len(values) - 1) * np.std(values, ddof=1) * np.sqrt(2))


def _counted(rows: pd.DataFrame) -> pd.Series:
    """Test accuracies that count, of finished runs and finite, by seed."""
    tests = rows.set_index(rows["seed"].astype(str))["test"]
    return tests[(rows["status"] == FINISHED).to_numpy() & np.isfinite(tests)]


def _single(a: pd.Series, b: pd.Series) -> str | None:
    """The seed that a cell is judged by: the only one of A or of B, where the other has it too."""
    few = min(a, b, key=len)
    return few.index[0] if len(few) == 1 and few.index[0] in a.index.intersection(b.index) else None


def _verdict(x, y, n_a: int, n_b: int, difference: float, half: float, seed: str | None) -> tuple[str, str]:
    if x.empty or y.empty:
        return f"only in {'B' if x.empty else 'A'}", ""
    if seed is None and min(n_a, n_b) < 2:
        few = [f"n = {n} in {side}" for side, n in (("A", n_a), ("B", n_b)) if n < 2]
        return UNJUDGED, " and ".join(few)
    remark = "" if seed is None else f"seed {seed}"
    # Equal accuracies in every seed: a width of zero would claim certainty, unless the two are the very same.
    if math.isnan(half) and abs(difference) >= _EQUAL:
        return UNJUDGED, "; ".join(filter(None, [remark, "no spread in A nor in B"]))
    return (REPRODUCED if math.isnan(half) or abs(difference) <= half else DIFFERS), remark


def _diverged(rows: pd.DataFrame) -> int:
    return int((rows["status"] == DIVERGED).sum())


def _unfinished(x: pd.DataFrame, y: pd.DataFrame) -> list[str]:
    """What became of the runs that do not count."""
    told = []
    for side, rows in (("A", x), ("B", y)):
        kinds = Counter(rows["status"][rows["status"] != FINISHED])
        kinds["without a finite accuracy"] = len(rows) - kinds.total() - len(_counted(rows))
        told += [f"{side}: {count} {kind}" for kind, count in kinds.items() if count]
    return told


# -------------------------------------------------------------------------------------------------------------- lines


def summary(table: pd.DataFrame) -> str:
    count = Counter(table["verdict"])
    judged = count[REPRODUCED] + count[DIFFERS]
    others = [f"{count[kind]} {kind}" for kind in (UNJUDGED, "only in A", "only in B") if count[kind]]
    lines = [f"{count[REPRODUCED]} of {judged} cells reproduced" + "".join(f", {text}" for text in others) + "."]
    if judged:
        lines.append(
            f"Chance alone would fail about {0.05 * judged:.1f} of {judged} (5 % each), and cells that share a teacher "
            "or a run tend to fail together."
        )
    if single := int((table["seed"].notna() & table["verdict"].isin([REPRODUCED, DIFFERS])).sum()):
        lines.append(
            f"Judged by one seed, {single} of {judged}: the run of A against that of B. Half-width there: of the 95 % "
            "interval for the difference of two single runs, with the spread over the seeds of the side that has more."
        )
    unequal = sum(
        a != b for (a, b), verdict in zip(table["diverged"], table["verdict"], strict=True) if "only" not in verdict
    )
    if unequal:
        lines.append(f"The number of diverged runs differs in {unequal} cell{'' if unequal == 1 else 's'}.")
    return " ".join(lines)


def _aligned(rows: pd.DataFrame) -> list[str]:
    lines = [("pair", "method", "A", "B", "B - A", "half-width", "verdict")]
    for row in rows.itertuples():
        verdict = f"{row.verdict} ({row.remark})" if row.remark else row.verdict
        numbers = (_number(row.difference, "+.2f"), _number(row.half, ".2f"))
        label = f"{row.label}{of_budget(float(row.budget))}"
        lines.append((row.pair, label, _cell(row.a), _cell(row.b), *numbers, verdict))
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return [
        "  ".join(["", *(text.ljust(width) for text, width in zip(line, widths, strict=True))]).rstrip()
        for line in lines
    ]


def _cell(summary: stats.Summary) -> str:
    if not summary.n:
        return "-"
    spread = "" if summary.sd is None else f" ± {summary.sd:.2f}"
    return f"{summary.mean:.2f}{spread} ({summary.n})"


def _number(value: float, form: str) -> str:
    return "-" if math.isnan(value) else format(value, form)
