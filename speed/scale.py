"""`bench scale`: time and memory by number of members, batch and seeds; each measured in a process of its own.

The pair with the heavy teacher, in bf16 where the machine has units for it. Seeds of a job are trained one after
another, as `seeds_per_job` does.
"""

from __future__ import annotations

import json
import statistics
import sys
from pathlib import Path
from typing import Any

from kdbench.report.page import Section
from kdbench.train import engine
from speed import setting, timing
from speed.setting import BATCH_SIZE, METHODS, PAIRS, Options, left_out, precisions, tree

MEMBERS = {1: ("kd",), 3: ("scratch", "kd", "dkd"), 9: METHODS}
BATCHES = (64, 256, 1024)
SEEDS = (1, 2, 3)
_POINTS = {
    "members": [(members, BATCH_SIZE, 1) for members in MEMBERS],
    "batch": [(1, batch, 1) for batch in BATCHES],
    "seeds": [(3, BATCH_SIZE, seeds) for seeds in SEEDS],
}
"""(members, batch size, seeds) of each table."""


def measure(options: Options) -> dict[str, Any]:
    steps, repeats = options.choose("steps", 4, 100), options.choose("repeats", 3, 3)
    points = dict.fromkeys(point for found in _POINTS.values() for point in found)
    rows, precision = [], precisions(options.device)[-1]
    for members, batch, seeds in points:
        total = max(2, steps // 4) + steps + 1
        suite = tree(
            PAIRS["heavy teacher"], options, precision, steps=total, batch_size=batch, methods=MEMBERS[members]
        )
        setting.pack(setting.plan_of(suite, "bench"), options)
        task = {"suite": suite, "seeds": seeds, "steps": steps, "work": str(options.work)}
        task |= {"device": options.device, "threads": options.threads}
        command = [sys.executable, "-m", "speed.scale", json.dumps(task)]
        found = [_point(command, options) for _ in range(repeats)]
        rows.append(
            {
                "members": members,
                "batch": batch,
                "seeds": seeds,
                "steps": total,
                **{key: timing.summary([f[key] for f in found]) for key in found[0]},
            }
        )
        step = timing.text(rows[-1]["step_seconds"], 1, 1000, "ms a step")
        options.say(f"scale, {members} members, batch {batch}, {seeds} seeds: {step}")
    settings = {"steps": steps, "repeats": repeats, **left_out(options.device)}
    return {"settings": settings, "rows": rows, "targets": []}


def _point(command: list[str], options: Options) -> dict[str, float]:
    seconds, (done,) = timing.processes([command], 1, options.work, options.threads)
    return {"process_seconds": seconds, **json.loads(done.stdout.splitlines()[-1])}


def child(task: dict[str, Any]) -> dict[str, float]:
    """Train the cohort of a task, seed after seed; returns seconds of a step and the largest memory in MiB."""
    options = Options(task["device"], task["threads"], 1, None, None, Path(task["work"]), print)
    trial = setting.trial(task["suite"], options)
    total, steps = trial.plan.suite.recipes["student"].steps, task["steps"]
    found = []
    for seed in range(task["seeds"]):
        marks: list[float] = []
        mark = lambda marks=marks: marks.append(timing.clock(trial.cohort.device))  # noqa: E731
        setting.train(trial, options.work, {total - 1 - steps: mark, total - 1: mark}, seed)
        found.append((marks[1] - marks[0]) / steps)
    return {"step_seconds": statistics.median(found), "memory_mb": engine.peak_memory_mb(trial.cohort.device)}


def section(result: dict[str, Any]) -> Section:
    found = {(row["members"], row["batch"], row["seeds"]): row for row in result["rows"]}
    tables = []
    for number, (axis, points) in enumerate(_POINTS.items()):
        body = []
        for point in points:
            row = found[point]
            images = point[0] * point[1] / row["step_seconds"]["median"]
            cells = [timing.text(row["step_seconds"], 1, 1000), f"{images:,.0f}"]
            cells += [timing.text(row["process_seconds"]), timing.text(row["memory_mb"], 0)]
            body.append((str(point[number]), cells))
        columns = ["step, ms", "images a second, all members", "whole process, s", "largest memory, MiB"]
        others = [
            f"{name} {n}"
            for i, (name, n) in enumerate(zip(("members", "batch", "seeds"), points[0], strict=True))
            if i != number
        ]
        tables.append(timing.table(f"By {axis} ({', '.join(others)})", axis.capitalize(), columns, body))
    return Section("scale: members, batch, seeds", tuple(tables))


if __name__ == "__main__":
    print(json.dumps(child(json.loads(sys.argv[1]))))
