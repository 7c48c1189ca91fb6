"""`kdbench published SUITE`: are our accuracies those that were published, cell by cell?

published_numbers/SUITE.csv holds the numbers, for SUITE and for all suites that extend it. One row a value: teacher,
student and method by the suite's names (without a teacher: a network alone, teachers among them), the value in percent,
its source and the certainty of that: `verbatim`, read in a paper or its authors' repository, or `secondary`, as
somebody else quotes it. A row without a value is a paper of which no number could be read. The other columns say of
which experiment a value is, as far as that is known:

    epoch             `last` or `best` (on the test images); else it is shown and not judged
    teacher_accuracy  of the teacher that taught there
    recipe            fields of the student's recipe
    unlike            what no suite has as it was there
    tolerance         points granted beside the interval of our seeds, see below

A value is judged where our experiment is the same. It is within where the mean of our seeds lies no further from it
than half the width of its 95 % t interval and the tolerance together. A published value is itself the mean of a few
runs with one teacher (five runs of mdistiller's own DKD by another user ended 0.34 below its value, issue 7 there), and
recipes are never the same to the last bit: 0.5 on CIFAR-100 and ImageNet. On MNIST, where distillation gains 0.72, it
is 0.1: the standard deviation that 74 to 146 errors among 10,000 images have by chance. An interval of few or scattered
seeds would let nearly anything pass: beyond WIDEST tolerances it can refute, but not confirm.
"""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path

import pandas as pd
import yaml

from kdbench.errors import unknown
from kdbench.files import write_text
from kdbench.plan.jobs import Plan
from kdbench.plan.paths import TABLES
from kdbench.plan.suite import load_suite
from kdbench.report import stats
from kdbench.report.page import Cell, Document, Group, Row, Section, Table, markdown
from kdbench.report.text import note_letters, note_list, title_of
from kdbench.results.record import FINISHED
from kdbench.results.today import Today
from kdbench.types import KdbenchError, Suite

FOLDER = Path(__file__).parent / "published_numbers"
CELL = ["teacher", "student", "method"]
WITHIN, ABOVE, BELOW = "within", "above", "below"
UNLIKE, FEW, NO_VALUE = "not comparable", "cannot be judged", "no published value"
WIDEST = 3
"""Tolerances; the half-width of an interval that can still confirm."""
HEADS = (
    "method",
    "runs",
    "last epoch",
    "best epoch",
    "published",
    "ours - published",
    "allowed",
    "verdict",
    "source is",
)


def published(plan: Plan) -> bool:
    """Print every cell of a suite beside its published values, and write tables/SUITE-published.md and .csv; whether
    all that can be judged are within.

    Raises KdbenchError for a suite without published values, and where no cell can be judged.
    """
    ours, theirs = runs(plan), values(plan.suite)
    table = judge(ours, theirs.assign(reason=reasons(plan, ours, theirs)))
    told = sentences(table, theirs)
    print("\n".join([*lines(table), *told]))
    for path, text in _files(plan.suite, table, told).items():
        write_text(path, text)
        print(path)
    count = Counter(table["verdict"])
    if not count[WITHIN] + count[ABOVE] + count[BELOW]:
        raise KdbenchError(
            f"suite {plan.suite.name}: no cell can be judged: "
            + ("it takes two finished seeds or more" if count[FEW] else "no value is of the same experiment")
        )
    return not count[ABOVE] + count[BELOW]


# ------------------------------------------------------------------------------------------------------ ours and theirs


def values(suite: Suite) -> pd.DataFrame:
    """Published values of a suite, or of the one that it extends, as the columns of their file; "" and NaN for what is
    not known.

    Raises KdbenchError that names the suites that have some.
    """
    path = _owner(suite)
    if path is None:
        raise unknown("suite with published values", suite.name, (p.stem for p in FOLDER.glob("*.csv")))
    table = pd.read_csv(path, dtype=str, keep_default_na=False)
    numbers = ["value", "teacher_accuracy", "tolerance"]
    return table.assign(**{name: pd.to_numeric(table[name]) for name in numbers})


def _owner(suite: Suite) -> Path | None:
    names = (suite.name, *([suite.extends.stem] if suite.extends else []))
    files = (FOLDER / f"{name}.csv" for name in names)
    return next((path for path in files if path.exists()), None)


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


def reasons(plan: Plan, ours: pd.DataFrame, theirs: pd.DataFrame) -> list[str]:
    """For each published value what our experiment has otherwise; "" where nothing is known to be."""
    suite = plan.suite
    own = _owner(suite).stem == suite.name
    origin = suite if own else load_suite(suite.extends)
    taught = ours[ours["teacher"] == ""].groupby("student")["last"].mean()
    found = []
    for row in theirs.itertuples():
        said = [row.unlike] if row.unlike else []
        if row.epoch not in ("last", "best"):
            said.append(f"of epoch {row.epoch}" if row.epoch else "its epoch is not stated")
        for name in filter(None, (row.teacher, row.student)):
            said += _other_network(suite, origin, name)
        said += _other_recipe(suite, row)
        accuracy = taught.get(row.teacher, math.nan)
        if abs(accuracy - row.teacher_accuracy) > row.tolerance:
            said.append(f"another teacher: {accuracy:.2f} for {row.teacher_accuracy:.2f}")
        found.append("; ".join(dict.fromkeys(said)))
    return found


def _other_network(suite: Suite, origin: Suite, name: str) -> list[str]:
    """Whether a suite has another network or other data under a name than the suite that the values are for."""
    if name not in suite.models or name not in origin.models:
        return []
    here, there = suite.models[name], origin.models[name]
    if here.timm != there.timm:
        return [f"another network: {name} is {here.timm} for {there.timm}"]
    return [] if suite.data[here.data] == origin.data[there.data] else [f"other data: {here.data}"]


def _other_recipe(suite: Suite, row: tuple) -> list[str]:
    model = suite.models.get(row.student)
    if not row.recipe or model is None or model.recipe is None:
        return []
    recipe = suite.recipes[model.recipe]
    there = yaml.safe_load(row.recipe)
    here = {name: getattr(recipe, name) for name in there}
    unequal = [f"{name} {here[name]} for {there[name]}" for name in there if here[name] != there[name]]
    return [f"another recipe: {', '.join(unequal)}"] if unequal else []


# -------------------------------------------------------------------------------------------------------------- verdict


def judge(ours: pd.DataFrame, theirs: pd.DataFrame) -> pd.DataFrame:
    """One row a cell of `ours` and value of it in `theirs`: CELL, n (finished seeds), runs (planned), last and best
    (stats.Interval), value, epoch, difference (ours minus theirs, of that epoch), allowed (points), verdict, reason,
    source, certainty.

    ours: as `runs` gives it; theirs: as `values` does, with the column `reason`.
    """
    found = dict(iter(theirs.groupby(CELL, sort=False)))
    rows = []
    for cell, own in ours.groupby(CELL, sort=False):
        intervals = {epoch: stats.paired_t_interval(own[epoch]) for epoch in ("last", "best")}
        row = dict(zip(CELL, cell, strict=True)) | intervals | {"n": intervals["last"].n, "runs": len(own)}
        if cell in found:
            rows += [row | _against(intervals, value) for value in found[cell].to_dict("records")]
        else:
            unpublished = {"epoch": "", "verdict": NO_VALUE, "reason": "", "source": "", "certainty": ""}
            rows.append(row | {"value": math.nan, "difference": math.nan, "allowed": math.nan} | unpublished)
    return pd.DataFrame(rows)


def _against(intervals: dict[str, stats.Interval], theirs: dict[str, object]) -> dict[str, object]:
    """Of one value: what `judge` says."""
    row = {name: theirs[name] for name in ("value", "epoch", "reason", "source", "certainty")}
    ours = intervals.get(theirs["epoch"])
    if ours is None or ours.mean is None:
        return row | {"difference": math.nan, "allowed": math.nan, "verdict": UNLIKE if theirs["reason"] else FEW}
    difference, allowed = ours.mean - theirs["value"], half_width(ours) + theirs["tolerance"]
    if theirs["reason"]:
        verdict = UNLIKE
    elif ours.n < 2 or (abs(difference) <= allowed and half_width(ours) > WIDEST * theirs["tolerance"]):
        verdict = FEW
    elif abs(difference) <= allowed:
        verdict = WITHIN
    else:
        verdict = ABOVE if difference > 0 else BELOW
    judged = verdict in (WITHIN, ABOVE, BELOW)
    return row | {"difference": difference, "allowed": allowed if judged else math.nan, "verdict": verdict}


def half_width(interval: stats.Interval) -> float:
    """Points; 0 where all seeds are equal."""
    return 0.0 if interval.low is None else interval.high - interval.mean


# ----------------------------------------------------------------------------------------------------------- for people


def lines(table: pd.DataFrame) -> list[str]:
    """The comparison for a terminal: a line a value, and below them the reasons and sources that letters stand for."""
    notes: dict[str, str] = {}
    texts = [("pair", *HEADS)]
    for row in table.itertuples():
        texts.append([" ".join([cell.text, *(f"[{x}]" for x in cell.letters)]) for cell in _cells(row, notes)])
    widths = [max(map(len, column)) for column in zip(*texts, strict=True)]
    aligned = ["  ".join(t.ljust(w) for t, w in zip(line, widths, strict=True)).rstrip() for line in texts]
    return [*aligned, "", *(f"[{letter}] {note}" for letter, note in note_list(notes)), ""]


def _cells(row: tuple, notes: dict[str, str]) -> tuple[Cell, ...]:
    epoch = f" ({row.epoch})" if row.epoch else ""
    texts = (
        f"{row.teacher} -> {row.student}" if row.teacher else row.student,
        row.method,
        f"{row.n} of {row.runs}",
        _text(row.last),
        _text(row.best),
        "-" if math.isnan(row.value) else f"{row.value:.2f}{epoch}",
        "-" if math.isnan(row.difference) else f"{row.difference:+.2f}",
        "-" if math.isnan(row.allowed) else f"{row.allowed:.2f}",
    )
    told = ((row.verdict, row.reason), (row.certainty, row.source))
    return (*map(Cell, texts), *(Cell(text, letters=note_letters(notes, filter(None, [n]))) for text, n in told))


def _text(interval: stats.Interval) -> str:
    if interval.mean is None:
        return "-"
    return f"{interval.mean:.2f}" + ("" if interval.low is None else f" ± {half_width(interval):.2f}")


def sentences(table: pd.DataFrame, theirs: pd.DataFrame) -> list[str]:
    """How many values have which verdict, what `allowed` is, and which published numbers the table lacks and why."""
    count = Counter(table["verdict"])
    others = ", ".join(f"{count[kind]} {kind}" for kind in (ABOVE, BELOW, UNLIKE, FEW, NO_VALUE) if count[kind])
    judged = count[WITHIN] + count[ABOVE] + count[BELOW]
    told = [
        f"{count[WITHIN]} of {judged} values within" + (f"; {others}." if others else "."),
        "Allowed is half the width of the 95 % t interval over our seeds, and the tolerance of the value. An interval "
        f"of more than ± {WIDEST} tolerances confirms nothing.",
    ]
    pairs, methods = set(zip(table["teacher"], table["student"], strict=True)), set(table["method"])
    lacking = [r.method for r in theirs.itertuples() if (r.teacher, r.student) in pairs and r.method not in methods]
    if lacking:
        told.append(f"Published for these pairs, but not trained here: {', '.join(dict.fromkeys(lacking))}.")
    unread = theirs[theirs["value"].isna()]
    return told + [f"No published number of {row.method} could be read: {row.source}." for row in unread.itertuples()]


def _files(suite: Suite, table: pd.DataFrame, told: list[str]) -> dict[Path, str]:
    notes: dict[str, str] = {}
    cells = [_cells(row, notes) for row in table.itertuples()]
    rows = tuple(Row(pair, tuple(others)) for pair, *others in cells)
    heads = tuple((head,) for head in HEADS)
    shown = Table("Test accuracy in percent", "pair", heads, (Group("", rows),), note_list(notes), texts=2)
    page = Document(f"{title_of(suite)}, beside published numbers", (), (Section("", (*told, shown)),), ())
    numbers = table.drop(columns=["last", "best"])
    for epoch in ("last", "best"):
        numbers[epoch] = [interval.mean for interval in table[epoch]]
        numbers[f"{epoch}_half_width"] = [half_width(i) if i.n > 1 else math.nan for i in table[epoch]]
    stem = TABLES / f"{suite.name}-published"
    return {
        stem.with_suffix(".md"): markdown(page),
        stem.with_suffix(".csv"): numbers.to_csv(index=False, float_format="%.4f", lineterminator="\n"),
    }
