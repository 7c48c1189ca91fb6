"""What the Snakefile asks of a plan besides its jobs: resources, reasons to run again, places in a report."""

from __future__ import annotations

import dataclasses
import json
import math
from typing import Any

from kdbench.plan.jobs import Job, Plan
from kdbench.plan.keys import hash_of, version_of
from kdbench.plan.paths import data_dir
from kdbench.plan.registry import reads_files
from kdbench.types import Suite


def gpus(suite: Suite) -> int:
    """Cards of a training job."""
    return 0 if suite.device == "cpu" else 1


def minutes(plan: Plan, job: Job, attempt: int) -> int:
    """Time of a training job: twice the longest that jobs of its kind and pair took a run, and 5 minutes to start.

    While none has been measured, what the suite says, times the job's budget. Each attempt (1, 2, ...) asks for as much
    again.
    """
    measured = [seconds / length for seconds, length in _measured(plan, job, "seconds")]
    if measured:
        return attempt * (5 + math.ceil(2 * max(measured) * len(job.runs) * job.budget / 60))
    return attempt * math.ceil(plan.suite.minutes_per_job * job.budget)


def memory_mb(plan: Plan, job: Job, attempt: int) -> int:
    """Memory of a training job: half as much again as the largest of its kind and pair, and 1 GB for Snakemake's own
    processes beside it.

    While none has been measured on a CPU, what the suite says: of jobs on a GPU the card's memory is known, not theirs.
    """
    measured = [megabytes for megabytes, _ in _measured(plan, job, "memory_mb")]
    return attempt * (1000 + math.ceil(1.5 * max(measured)) if measured else plan.suite.memory_mb)


def _measured(plan: Plan, job: Job, what: str) -> list[tuple[float, float]]:
    """(value, number of runs times their budget) of the finished jobs of a job's kind and pair, where their manifest is
    of today's key."""
    found = []
    for other in plan.of(job.kind):
        if other.pair == job.pair and other.output.exists():
            try:
                manifest = json.loads(other.output.read_text(encoding="utf-8"))
                value = manifest["measured"][what] if manifest["key"] == other.key else None
            except (OSError, ValueError, KeyError, TypeError):
                continue  # an older version's, or damaged: whoever needs it will say so
            if value:
                found.append((value, len(other.runs) * other.budget))
    return found


def source_state(suite: Suite, job: Job) -> str:
    """Short hash of paths, sizes and times of the user's files that a data job reads: a reason to run it again.

    Raises KdbenchError when they are not there, unless the data are packed.
    """
    spec = suite.data[job.data].drawn(job.seed)
    if not reads_files(spec.source):
        return ""
    from kdbench.data import prepare

    return hash_of(prepare.source_state(spec, job.output.parent, data_dir()))[:16]


def report_text(suite: Suite) -> str:
    """Short hash of all that a suite says but for how its jobs run: a reason to print and draw it again."""
    execution = {
        "device",
        "workers",
        "seeds_per_job",
        "methods_per_job",
        "checkpoint_seconds",
        "memory_mb",
        "minutes_per_job",
    }
    said = dataclasses.asdict(suite)
    return hash_of({k: v for k, v in said.items() if k not in execution | {"jobs_per_gpu", "path", "extends"}})[:16]


def report_version(*parts: str) -> str:
    """Versions of what measures, prints or draws: a reason to do it again."""
    return ", ".join(map(version_of, parts))


def measured_methods(suite: Suite, block: str) -> list[str]:
    """The methods and seeds that a block's similarities are measured on."""
    own = next(b for b in suite.blocks if b.name == block)
    return [*(method.id for method in own.methods), *map(str, own.seeds)]


def figure_place(figure: Any) -> str:
    """Where a figure stands within its block in `snakemake --report`; figure: the wildcards of its file name."""
    return f"by {figure.view}" if hasattr(figure, "view") else "all"


def figure_labels(suite: Suite, figure: Any) -> dict[str, str]:
    """What tells a figure from its neighbours there. The report makes a switch of low and high."""
    if not hasattr(figure, "view"):
        return {"figure": figure.kind, "suite": suite.name}
    return {figure.view: figure.shown, "suite": suite.name, "frequencies": figure.band}
