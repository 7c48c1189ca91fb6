"""A whole plan in one process."""

from __future__ import annotations

from pathlib import Path

from kdbench.plan.jobs import Plan
from kdbench.plan.paths import home
from kdbench.run.data import run_data
from kdbench.run.measure import run_similarity
from kdbench.run.outputs import run_figures, run_table
from kdbench.run.progress import say
from kdbench.run.training import run_training
from kdbench.run.tune import run_tune


def run_all(plan: Plan) -> list[Path]:
    """The whole plan in this process, one job after another; what is finished is not done again."""
    run_jobs(plan)
    return [*run_table(plan), *run_figures(plan, home(plan.suite) / "figures")]


def run_jobs(plan: Plan) -> None:
    for number, job in enumerate(plan.jobs, 1):
        say(f"job {number} of {len(plan.jobs)}: {job.kind} {job.id}")
        if job.kind == "data":
            run_data(plan, job)
        elif job.kind in ("teacher", "cohort"):
            run_training(plan, job, threads=plan.suite.threads)
        elif job.kind == "tune":
            run_tune(plan)
        else:
            run_similarity(plan, job)
