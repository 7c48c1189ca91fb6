"""`bench field`: a row of nine methods by a script in the style of the field against the cohort, in whole processes.

The field's way is one process a method (script.py), the cohort's way `kdbench distill`: one process for the methods
with a teacher and one for `scratch`. Both get the same threads, so many processes at a time, and the same number of
steps. Two times are told: of the whole row, imports and all, and of the training loops alone (first step to last
evaluation), which is what a row tends to when it is trained for hours.
"""

from __future__ import annotations

import json
import math
import shutil
import statistics
import sys
from typing import Any

from kdbench.plan.jobs import Plan
from kdbench.plan.paths import home
from kdbench.report.page import Section
from kdbench.results.record import FINISHED, read_run
from kdbench.types import KdbenchError
from speed import timing
from speed.setting import METHODS, PAIRS, Options, in_epochs, left_out, precisions, tree, write_suite

WANTED = {"cpu": 4.0, "cuda": 6.0}
"""How many times faster the cohort should be on the pair with the heavy teacher."""


def measure(options: Options) -> dict[str, Any]:
    """All pairs. Raises KdbenchError when a process fails or a run does not come to its end."""
    steps, repeats = options.choose("steps", 20, 400), options.choose("repeats", 1, 1)
    rows = [_pair(name, pair, steps, repeats, options) for name, pair in PAIRS.items()]
    settings = {"steps": steps, "repeats": repeats, **left_out(options.device)}
    return {"settings": settings, "rows": rows, "targets": targets(rows, options.device)}


def _pair(name: str, pair: tuple[str, str], steps: int, repeats: int, options: Options) -> dict[str, Any]:
    plans = {}
    for precision in precisions(options.device):
        suite = tree(pair, options, precision, **in_epochs(steps))
        suite["methods_per_job"] = math.ceil((len(METHODS) - 1) / options.jobs)
        plans[precision] = prepare(suite, f"{'--'.join(pair)}.{precision}", options)
    recipe, train = suite["recipes"]["student"], suite["data"]["glyphs"]["train"]
    times: dict[str, list[dict]] = {way: [] for way in ("field", *plans)}
    for repeat in range(repeats):
        times["field"].append(field_row(plans["fp32"], options))
        for precision, plan in plans.items():
            times[precision].append(cohort_row(plan, options))
        told = ", ".join(f"{way} {found[-1]['row']:.1f} s" for way, found in times.items())
        options.say(f"field, {name}, repeat {repeat + 1} of {repeats}: {told}")
    return {
        "pair": name,
        "teacher": pair[0],
        "student": pair[1],
        "images": recipe["epochs"] * train,
        **compared(times),
    }


def compared(times: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Rows of the field and of the cohort, repeat by repeat -> summaries and the ratios of a repeat."""
    ways = {}
    for way, found in times.items():
        parts = {key: timing.summary([row[key] for row in found]) for key in found[0] if key != "methods"}
        methods = {m: timing.summary([row["methods"][m] for row in found]) for m in found[0]["methods"]}
        ways[way] = parts | {"methods": methods}
    ratio = {
        precision: {
            key: timing.summary([a[key] / b[key] for a, b in zip(times["field"], times[precision], strict=True)])
            for key in ("row", "loop")
        }
        for precision in times
        if precision != "field"
    }
    return {"seconds": ways, "ratio": ratio}


# ------------------------------------------------------------------------------------------------------------ two ways


def prepare(suite: dict[str, Any], name: str, options: Options) -> Plan:
    """Write a suite into the work folder, pack its data and train its teachers; neither is timed."""
    path = options.work / f"{name}.yaml"
    plan = write_suite(suite, path)
    kdbench = [sys.executable, "-m", "kdbench.cli"]
    teacher = plan.of("teacher")[0].pair.student
    commands = [[*kdbench, "data", str(path), "glyphs"], [*kdbench, "teacher", str(path), teacher]]
    timing.processes(commands, 1, options.work, options.threads)
    return plan


def script_command(plan: Plan, method: str, seed: int, options: Options) -> list[str]:
    """One method by the plain script."""
    pair = plan.suite.blocks[0].pairs[0].id
    command = [
        sys.executable,
        "-m",
        "speed.script",
        str(options.work / f"{plan.suite.name}.yaml"),
        pair,
        method,
    ]
    numbers = {"seed": seed, "workers": options.threads, "threads": options.threads, "device": options.device}
    return [*command, *(word for key, value in numbers.items() for word in (f"--{key}", str(value)))]


def cohort_commands(plan: Plan, options: Options) -> list[list[str]]:
    """All jobs of a row by the cohort, the longest first."""
    suite = str(options.work / f"{plan.suite.name}.yaml")
    jobs = sorted(plan.of("cohort"), key=lambda job: -len(job.runs))
    distill = [sys.executable, "-m", "kdbench.cli", "distill", suite]
    return [[*distill, job.pair.id, "--job", job.id.partition("/")[2]] for job in jobs]


def field_row(plan: Plan, options: Options) -> dict[str, Any]:
    """Seconds of one row: `row`, wall time of all processes; `loop`, their loops, shared among those at a time; `data`,
    of which waiting for the DataLoader; `methods`, each one's process."""
    commands = [script_command(plan, method, 0, options) for method in METHODS]
    row, finished = timing.processes(commands, options.jobs, options.work, options.threads)
    told = [report(done) for done in finished]
    return {
        "row": row,
        "loop": sum(r["loop_seconds"] for r in told) / options.jobs,
        "data": sum(r["data_seconds"] for r in told) / options.jobs,
        "methods": {method: done.seconds for method, done in zip(METHODS, finished, strict=True)},
    }


def report(done: timing.Finished) -> dict[str, Any]:
    """What the plain script printed."""
    return json.loads(done.stdout.splitlines()[-1])


def cohort_row(plan: Plan, options: Options) -> dict[str, Any]:
    """Seconds of one row: `row` and `loop` as above; `own`, the members' own steps; `methods`, each one's own steps
    with an equal share of all the rest."""
    row, _ = timing.processes(cohort_commands(plan, options), options.jobs, options.work, options.threads)
    records = finished_records(plan, options)
    loop = sum(records[job.runs[0].method.id, 0]["cost"]["cohort_seconds"] for job in plan.of("cohort"))
    own = {method: records[method, 0]["cost"]["seconds"] / options.jobs for method in METHODS}
    for made in ("runs", "cohorts", "state"):
        shutil.rmtree(options.work / home(plan.suite) / made)
    share = (row - sum(own.values())) / len(own)
    return {
        "row": row,
        "loop": loop / options.jobs,
        "own": sum(own.values()),
        "methods": {method: seconds + share for method, seconds in own.items()},
    }


def finished_records(plan: Plan, options: Options) -> dict[tuple[str, int], dict[str, Any]]:
    """{(method, seed): record} of all runs of a suite. Raises KdbenchError when one is not finished."""
    records = {(m, seed): read_run(options.work / run.result) for (_, m, seed), run in plan.runs().items()}
    for (method, seed), record in records.items():
        if record["status"] != FINISHED:
            raise KdbenchError(f"bench: {method} of seed {seed} is {record['status']}: {record['reason']}")
    return records


# ------------------------------------------------------------------------------------------------------------- told


def targets(rows: list[dict[str, Any]], device: str) -> list[dict[str, Any]]:
    """The promised ratios against the measured ones, of which the smaller counts: whole row or loops."""
    heavy = next(row for row in rows if row["pair"] == "heavy teacher")
    fastest = list(heavy["ratio"])[-1]
    got, what = _ratio(heavy, fastest), f"heavy teacher, {fastest}: times faster"
    found = [timing.target(what, WANTED[device], got, got >= WANTED[device], _held(heavy, fastest))]
    slowest, precision = min(((row, p) for row in rows for p in row["ratio"]), key=lambda pair: _ratio(*pair))
    got = _ratio(slowest, precision)
    what = f"no pair slower (the slowest: {slowest['pair']}, {precision})"
    return [*found, timing.target(what, 1.0, got, got >= 1.0, _held(slowest, precision))]


def _ratio(row: dict[str, Any], precision: str) -> float:
    return min(row["ratio"][precision][key]["median"] for key in ("row", "loop"))


def _held(row: dict[str, Any], precision: str) -> str:
    """What holds a ratio back."""
    whole, loop, own = (row["seconds"][precision][key]["median"] for key in ("row", "loop", "own"))
    field = row["seconds"]["field"]["loop"]["median"]
    return (
        f"Of the cohort's {whole:.1f} s the students' own steps take {own / whole:.0%}, teacher, batches and "
        f"evaluations {(loop - own) / whole:.0%}, starting and ending the processes {(whole - loop) / whole:.0%}; were "
        f"all but the students' steps free, the loops would be {field / own:.1f} times as fast as the field's."
    )


def section(result: dict[str, Any]) -> Section:
    measured = [*result["rows"][0]["ratio"]]
    ways = ["fp32 script", *(f"{precision} cohort" for precision in measured)]
    columns = [*ways, *(f"times faster, {precision}" for precision in measured)]
    tables = []
    for key, title in (("row", "A row of nine methods: whole processes, seconds"), ("loop", "Loops alone, seconds")):
        body = []
        for row in result["rows"]:
            seconds = [timing.text(row["seconds"][way][key]) for way in ("field", *measured)]
            ratios = [timing.text(row["ratio"][p][key], 2) for p in measured]
            body.append((f"{row['pair']}: {row['teacher']} → {row['student']}", [*seconds, *ratios]))
        tables.append(timing.table(title, "Pair", columns, body))
    for row in result["rows"]:
        body = []
        for method in METHODS:
            seconds = [statistics.median(row["seconds"][way]["methods"][method]["all"]) for way in ("field", *measured)]
            body.append((method, [f"{row['images'] / s:,.0f}" for s in seconds]))
        title = f"{row['pair']}: images a second, whole processes"
        tables.append(timing.table(title, "Method", ways, body))
    waiting = ", ".join(
        f"{row['pair']} {row['seconds']['field']['data']['median'] / row['seconds']['field']['loop']['median']:.0%}"
        for row in result["rows"]
    )
    note = f"The script waits for its DataLoader for so much of its loops: {waiting}."
    return Section("field: the cohort against a script in the field's style", (*tables, note))
