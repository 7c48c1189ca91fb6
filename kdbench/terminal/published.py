"""`kdbench published SUITE`: are our accuracies those that were published, cell by cell?

published_numbers/SUITE.csv holds the numbers, one row a cell: teacher, student and method by the suite's names (without
a teacher: a network from scratch, teachers among them), the value in percent, the epoch that it is of, the source and
its certainty. Only what was read verbatim in a paper or its authors' repository is in there.

A cell is within where the mean of our seeds lies no further from the published value than half the width of its 95 % t
interval and TOLERANCE together. Last and best epoch are both shown, and the one that the source reports is judged.
An interval of few or scattered seeds would let nearly anything pass: beyond WIDEST it can refute, but not confirm.
"""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path

import pandas as pd

from kdbench.errors import unknown
from kdbench.plan.jobs import Plan
from kdbench.report import stats
from kdbench.results.record import FINISHED
from kdbench.results.today import Today
from kdbench.types import KdbenchError

FOLDER = Path(__file__).parent / "published_numbers"
CELL = ["teacher", "student", "method"]
WITHIN, OUTSIDE, FEW, NO_VALUE = "within", "OUTSIDE", "cannot be judged", "no published value"
TOLERANCE = 0.5
"""Points that are granted beside the interval of our seeds: a published value is itself the mean of a few runs with one
teacher (five runs of mdistiller's own DKD by another user ended 0.34 below its value, issue 7 there), and recipes are
never the same to the last bit (a suite says what differs)."""
WIDEST = 1.5
"""Points; the half-width of an interval that can still confirm."""


def published(plan: Plan) -> bool:
    """Print every cell of a suite beside its published value; whether all that can be judged are within.

    Raises KdbenchError for a suite without published values, and where no cell can be judged yet.
    """
    table = judge(runs(plan), values(plan.suite.name))
    print("\n".join(lines(table)))
    judged = table["verdict"].isin([WITHIN, OUTSIDE])
    if not judged.any():
        raise KdbenchError(f"suite {plan.suite.name}: no cell can be judged: it takes two finished seeds or more")
    return not (table["verdict"] == OUTSIDE).any()


def values(suite: str) -> pd.DataFrame:
    """Published cells of a suite: teacher ("" for none), student, method, value, epoch, source, certainty.

    Raises KdbenchError that names the suites that have some.
    """
    path = FOLDER / f"{suite}.csv"
    if not path.exists():
        raise unknown("suite with published values", suite, (p.stem for p in FOLDER.glob("*.csv")))
    return pd.read_csv(path, keep_default_na=False)


def runs(plan: Plan) -> pd.DataFrame:
    """One row a planned run of a budget of 1, teachers among them: teacher, student, method, seed, and the test
    accuracies in percent of its last and best epoch (NaN where it did not finish under today's config and code)."""
    today, rows = Today(plan), []
    jobs = (job for kind in ("teacher", "cohort") for job in plan.of(kind) if job.budget == 1)
    for run in (run for job in jobs for run in job.runs):
        record = today.has(run) or {}
        accuracy = record.get("accuracy") if record.get("status") == FINISHED else None
        rows.append(
            {"teacher": run.pair.teacher or "", "student": run.pair.student, "method": run.method.id}
            | {"seed": run.seed}
            | {"last": accuracy["test"] if accuracy else math.nan}
            | {"best": accuracy["best_test"] if accuracy else math.nan}
        )
    # A student from scratch may be a teacher elsewhere: the same network twice.
    return pd.DataFrame(rows).drop_duplicates([*CELL, "seed"])


def judge(ours: pd.DataFrame, theirs: pd.DataFrame) -> pd.DataFrame:
    """One row a cell of `ours`: CELL, n (finished seeds), runs (planned), last and best (stats.Interval), value, epoch,
    source, difference (ours minus theirs, of that epoch), allowed (points), verdict.

    ours: as `runs` gives it; theirs: as `values` does. Raises KdbenchError for a value whose cell is not in `ours`.
    """
    found = {tuple(row[CELL]): row for _, row in theirs.iterrows()}
    cells = dict(iter(ours.groupby(CELL, sort=False)))
    for cell in found:
        if cell not in cells:
            raise KdbenchError(
                f"a published value is for {'/'.join(filter(None, cell))}, which the suite does not train"
            )
    rows = []
    for cell, own in cells.items():
        intervals = {epoch: stats.paired_t_interval(own[epoch]) for epoch in ("last", "best")}
        row = dict(zip(CELL, cell, strict=True)) | intervals | {"n": intervals["last"].n, "runs": len(own)}
        rows.append(row | _against(intervals, found.get(cell)))
    return pd.DataFrame(rows)


def _against(intervals: dict[str, stats.Interval], theirs: pd.Series | None) -> dict[str, object]:
    if theirs is None:
        return {"value": math.nan, "epoch": "", "source": "", "verdict": NO_VALUE}
    row = {"value": theirs["value"], "epoch": theirs["epoch"], "source": theirs["source"], "verdict": FEW}
    ours = intervals[theirs["epoch"]]
    if ours.n < 2:
        return row
    difference, allowed = ours.mean - theirs["value"], half_width(ours) + TOLERANCE
    if abs(difference) <= allowed and half_width(ours) > WIDEST:
        return row
    verdict = WITHIN if abs(difference) <= allowed else OUTSIDE
    return row | {"difference": difference, "allowed": allowed, "verdict": verdict}


def half_width(interval: stats.Interval) -> float:
    """Points; 0 where all seeds are equal."""
    return 0.0 if interval.low is None else interval.high - interval.mean


def lines(table: pd.DataFrame) -> list[str]:
    """The comparison for a terminal: a line a cell, the count of verdicts, and the sources."""
    cells = [
        ("pair", "method", "runs", "last epoch", "best epoch", "published", "ours - published", "allowed", "verdict")
    ]
    for row in table.itertuples():
        judged = row.verdict in (WITHIN, OUTSIDE)
        cells.append(
            (
                f"{row.teacher} -> {row.student}" if row.teacher else row.student,
                row.method,
                f"{row.n} of {row.runs}",
                _text(row.last),
                _text(row.best),
                "-" if row.verdict == NO_VALUE else f"{row.value:.2f} ({row.epoch})",
                f"{row.difference:+.2f}" if judged else "-",
                f"{row.allowed:.2f}" if judged else "-",
                row.verdict,
            )
        )
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    text = ["  ".join(t.ljust(w) for t, w in zip(line, widths, strict=True)).rstrip() for line in cells]
    count = Counter(table["verdict"])
    told = ", ".join(f"{count[kind]} {kind}" for kind in (OUTSIDE, FEW, NO_VALUE) if count[kind])
    sources = [source for source in dict.fromkeys(table["source"]) if source]
    return [
        *text,
        "",
        f"{count[WITHIN]} of {count[WITHIN] + count[OUTSIDE]} cells within" + (f"; {told}." if told else "."),
        f"Allowed is half the width of the 95 % t interval over our seeds, and {TOLERANCE} points. An interval wider "
        f"than ± {WIDEST} confirms nothing.",
        *(f"Source: {source}" for source in sources),
    ]


def _text(interval: stats.Interval) -> str:
    if interval.mean is None:
        return "-"
    return f"{interval.mean:.2f}" + ("" if interval.low is None else f" ± {half_width(interval):.2f}")
