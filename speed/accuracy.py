"""`bench accuracy`: are the cohort's accuracies those of the plain script? Paired over seeds, on a small budget.

Student and teacher of a seed start from the same weights on both sides; the order of samples and the augmentation are
other random numbers of the same distributions. So single runs differ, and the mean difference must not.
"""

from __future__ import annotations

import sys
from typing import Any

from kdbench.report import stats
from kdbench.report.page import Section
from kdbench.types import KdbenchError
from speed import timing
from speed.field import finished_records, prepare, report, script_command
from speed.setting import Options, left_out, precisions, tree

PAIR = ("cnn-wide", "cnn-narrow")
METHODS = ("scratch", "kd")
EPOCH_STEPS = 36
LR = 5.0e-3
TEST = 1880
"""Test samples."""


def measure(options: Options) -> dict[str, Any]:
    """`repeats` seeds of `steps` steps. Raises KdbenchError for a single seed, of which no interval can be taken."""
    steps, seeds = options.choose("steps", 216, 216), options.choose("repeats", 5, 5)
    if seeds < 2:
        raise KdbenchError("bench accuracy: repeats are seeds here, and an interval needs at least 2")
    epoch_steps = min(steps, EPOCH_STEPS)
    accuracies: dict[str, dict[str, list[float]]] = {}
    for precision in precisions(options.device):
        suite = tree(PAIR, options, precision, epochs=steps // epoch_steps, epoch_steps=epoch_steps, methods=METHODS)
        suite |= {"seeds": [*range(seeds)], "seeds_per_job": seeds}
        for recipe in suite["recipes"].values():
            recipe["lr"] = LR
        suite["recipes"]["teacher"] |= {"steps": steps}
        suite["data"]["glyphs"]["test"] = TEST
        plan = prepare(suite, f"accuracy.{precision}", options)
        if precision == "fp32":
            accuracies["field"] = _by_script(plan, seeds, options)
            options.say("accuracy: the script's runs are done")
        run = [sys.executable, "-m", "kdbench.cli", "distill", str(options.work / f"{plan.suite.name}.yaml")]
        pairs = dict.fromkeys(job.pair.id for job in plan.of("cohort"))
        timing.processes([[*run, pair] for pair in pairs], options.jobs, options.work, options.threads)
        records = finished_records(plan, options)
        accuracies[precision] = {m: [records[m, s]["accuracy"]["test"] for s in range(seeds)] for m in METHODS}
        options.say(f"accuracy: the cohort's runs in {precision} are done")
    rows = compared(accuracies)
    settings = {"steps": steps, "repeats": seeds, **left_out(options.device)}
    return {"settings": settings, "rows": rows, "targets": targets(rows)}


def _by_script(plan: Any, seeds: int, options: Options) -> dict[str, list[float]]:
    commands = [script_command(plan, method, seed, options) for method in METHODS for seed in range(seeds)]
    _, finished = timing.processes(commands, options.jobs, options.work, options.threads)
    found = [report(done)["test_accuracy"] for done in finished]
    return {method: found[i * seeds : (i + 1) * seeds] for i, method in enumerate(METHODS)}


def compared(accuracies: dict[str, dict[str, list[float]]]) -> list[dict[str, Any]]:
    """Cohort minus script, seed by seed, with intervals that hold together with 95 % (Bonferroni).

    accuracies: {"field", "fp32", "bf16"} -> method -> test accuracy in percent by seed.
    """
    measured = [precision for precision in accuracies if precision != "field"]
    confidence = 1 - 0.05 / (len(measured) * len(METHODS))
    rows = []
    for precision in measured:
        for method in METHODS:
            field, cohort = accuracies["field"][method], accuracies[precision][method]
            differences = [b - a for a, b in zip(field, cohort, strict=True)]
            mean, low, high, _ = stats.paired_t_interval(differences, confidence)
            same = mean == 0 if low is None else low <= 0 <= high
            rows.append(
                {
                    "method": method,
                    "precision": precision,
                    "field": field,
                    "cohort": cohort,
                    "difference": mean,
                    "low": low,
                    "high": high,
                    "same": same,
                }
            )
    return rows


def targets(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    same = sum(row["same"] for row in rows)
    other = ", ".join(f"{row['method']} {row['precision']}" for row in rows if not row["same"])
    what = "accuracies of cohort and script that are the same within noise"
    return [timing.target(what, len(rows), same, same == len(rows), f"Not the same: {other}.")]


def section(result: dict[str, Any]) -> Section:
    body = []
    for row in result["rows"]:
        field, cohort = (stats.mean_sd(row[side]) for side in ("field", "cohort"))
        interval = "none" if row["low"] is None else f"{row['low']:+.2f} to {row['high']:+.2f}"
        cells = [f"{field.mean:.2f} ± {field.sd:.2f}", f"{cohort.mean:.2f} ± {cohort.sd:.2f}"]
        cells += [f"{row['difference']:+.2f}", interval, "same within noise" if row["same"] else "not the same"]
        body.append((f"{row['method']}, {row['precision']}", cells))
    columns = ["fp32 script", "cohort", "difference", "interval", "verdict"]
    title = f"Test accuracy in percent over {result['settings']['repeats']} seeds; intervals hold together with 95 %"
    return Section("accuracy: is it the same training?", (timing.table(title, "Method", columns, body),))
