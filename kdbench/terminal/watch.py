"""`kdbench watch`: how far a suite is, from what lies in its folder; whoever trains it, here or on a cluster."""

from __future__ import annotations

import shutil
import statistics
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdbench.plan.jobs import Job, Plan, Run
from kdbench.plan.paths import of_budget
from kdbench.results.record import DIVERGED
from kdbench.results.today import Today
from kdbench.run.locks import state_folder
from kdbench.types import KdbenchError

TRAINING = ("teacher", "cohort")
CLEAR = "\r\x1b[K"


@dataclass(frozen=True)
class Progress:
    done: int
    """Runs with a result of today's key, however they ended. Their weights are not looked at."""
    runs: int
    diverged: int
    running: int
    """Runs that are being trained."""
    cohorts: int
    """Processes that train them: locks that are held."""
    waiting: int
    """Jobs that train nothing (data, similarity, the choice of tuned weights) and have no output."""
    last: Mapping[str, Any] | None
    """The newest result."""
    seconds_left: float | None = None
    """Estimate for the training; None while nothing has been measured."""

    @property
    def complete(self) -> bool:
        return self.done == self.runs and not self.waiting


def watch(plan: Plan, every: float, once: bool) -> None:
    """Print how far the suite is until all is done: one line that is rewritten on a terminal, else one a change.

    Raises KdbenchError for an interval that is no time.
    """
    if not every > 0:
        raise KdbenchError(f"--every {every:g}: expected seconds, more than 0")
    live = sys.stdout.isatty() and not once
    reader, told = _Reader(plan), None
    while True:
        progress = look(plan, reader)
        if live:
            text = line(plan, progress)[: shutil.get_terminal_size().columns - 1]
            print(f"{CLEAR}{text}", end="\n" if progress.complete else "", flush=True)
        # The estimate ticks all the time; what a log wants to know is what has happened.
        elif (news := (progress.done, progress.running, progress.waiting)) != told:
            print(line(plan, progress), flush=True)
            told = news
        if once or progress.complete:
            return
        try:
            time.sleep(every)
        except KeyboardInterrupt:
            print(end="\n" if live else "")
            raise


def line(plan: Plan, progress: Progress) -> str:
    parts = [f"{plan.suite.name}: {progress.done} of {progress.runs} runs done"]
    if progress.diverged:
        parts[0] += f" ({progress.diverged} diverged)"
    if progress.running:
        parts.append(f"{progress.running} running in {_count(progress.cohorts, 'process', 'processes')}")
    if progress.done < progress.runs:
        known = progress.seconds_left is not None
        parts.append(f"about {_span(progress.seconds_left)} left" if known else "time left not known yet")
    if progress.waiting:
        parts.append(f"{_count(progress.waiting, 'other job', 'other jobs')} to do")
    return ", ".join(parts) + (f"; last: {_result(progress.last)}" if progress.last else "")


def look(plan: Plan, reader: _Reader | None = None) -> Progress:
    reader = reader or _Reader(plan)
    cohorts = list(_cohorts(plan))
    records = {run.result: reader.record(run) for _, _, runs in cohorts for run in runs}
    found = [record for record in records.values() if record]
    todo = {(job.kind, job.id, seed): [r for r in runs if not records[r.result]] for job, seed, runs in cohorts}
    since = {
        (job.kind, job.id, seed): _held_since(state_folder(plan, job, seed))
        for job, seed, _ in cohorts
        if todo[job.kind, job.id, seed]
    }
    held = {key: start for key, start in since.items() if start is not None}
    return Progress(
        done=len(found),
        runs=len(records),
        diverged=sum(record["status"] == DIVERGED for record in found),
        running=sum(len(todo[key]) for key in held),
        cohorts=len(held),
        waiting=sum(job.kind not in TRAINING and not job.output.exists() for job in plan.jobs),
        last=max(found, key=lambda record: record["finished_at"], default=None),
        seconds_left=_seconds_left(cohorts, records, todo, held),
    )


def _cohorts(plan: Plan) -> Iterator[tuple[Job, int, list[Run]]]:
    """(job, seed, its runs): what is trained side by side, under one lock."""
    for job in (job for kind in TRAINING for job in plan.of(kind)):
        for seed in dict.fromkeys(run.seed for run in job.runs):
            yield job, seed, [run for run in job.runs if run.seed == seed]


def _held_since(folder: Path) -> float | None:
    """When the process that trains here took its lock; None where no one does, or where it may not be asked."""
    import filelock

    lock = folder / "lock"
    if not lock.exists():
        return None
    try:
        with filelock.FileLock(lock, timeout=0):
            return None
    except filelock.Timeout:
        holder = folder / "holder"
        return (holder if holder.exists() else lock).stat().st_mtime
    except OSError:
        return None


def _seconds_left(cohorts, records, todo, held: Mapping[tuple, float]) -> float | None:
    """Measured seconds a run and budget, of the same pair where it has finished cohorts, else of their kind, times the
    runs to do and their budget.

    Shared by as many processes as train now, but never less than the longest cohort alone.
    """
    measured: dict[tuple, list[float]] = {}
    for job, _, runs in cohorts:
        costs = [r["cohort_seconds"] for run in runs if (r := records[run.result]) and r["cohort_seconds"]]
        if costs:
            for place in ((job.kind, job.pair), (job.kind,), ()):
                measured.setdefault(place, []).append(max(costs) / len(costs) / job.budget)
    if not measured:
        return None
    left = []
    for job, seed, _ in cohorts:
        key = (job.kind, job.id, seed)
        place = next(p for p in ((job.kind, job.pair), (job.kind,), ()) if p in measured)
        elapsed = time.time() - held[key] if key in held else 0.0
        left.append(max(statistics.mean(measured[place]) * job.budget * len(todo[key]) - elapsed, 0.0))
    return max(sum(left) / max(len(held), 1), *left)


class _Reader:
    """Reads each result once, and again when it changes: a suite has thousands, and they hold learning curves."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.known: dict[Path, tuple[int, dict[str, Any] | None]] = {}

    def record(self, run: Run) -> dict[str, Any] | None:
        """The little that a line needs of the run's result; None where it has to be trained."""
        try:
            changed = run.result.stat().st_mtime_ns
        except OSError:
            return None
        if run.result not in self.known or self.known[run.result][0] != changed:
            self.known[run.result] = changed, _brief(run, Today(self.plan).has(run))
        return self.known[run.result][1]


def _brief(run: Run, record: dict[str, Any] | None) -> dict[str, Any] | None:
    student = f"{run.method.label} on {run.pair.id}{of_budget(run.budget)}"
    return record and {
        "what": f"teacher {run.pair.student}" if run.is_teacher else student,
        "seed": run.seed,
        "status": record["status"],
        "val": (record.get("accuracy") or {}).get("val"),
        "cohort_seconds": (record.get("cost") or {}).get("cohort_seconds"),
        "finished_at": record["finished_at"],
    }


def _result(record: Mapping[str, Any]) -> str:
    score = record["status"] if record["val"] is None else f"{record['val']:.1f} % on validation"
    return f"{record['what']}, seed {record['seed']}, {score}"


def _count(number: int, one: str, many: str) -> str:
    return f"{number} {one if number == 1 else many}"


def _span(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"
