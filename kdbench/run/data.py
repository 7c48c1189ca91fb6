"""Pack a data set, and see whether the networks of a suite fit it."""

from __future__ import annotations

from kdbench.data.prepare import prepare_data, source_files
from kdbench.plan.jobs import Job, Plan
from kdbench.plan.paths import data_dir
from kdbench.plan.registry import reads_files
from kdbench.run.progress import Progress, say
from kdbench.types import KdbenchError


def run_data(plan: Plan, job: Job) -> None:
    """Pack a data set, or a draw of one, for all suites that use it, and see whether this suite's networks fit it."""
    from kdbench.run import fit

    spec = plan.suite.data[job.data].drawn(job.seed)
    place = spec, job.output.parent, data_dir() if reads_files(spec.source) else None
    try:
        pack = prepare_data(*place, Progress(f"data {job.data}"))
    except MemoryError as error:
        raise KdbenchError(f"data set {job.data!r} takes more memory than there is: {error}") from error
    fit.check(plan, pack, fit.pairs_of(plan, job.data))
    counts = ", ".join(f"{n:,} {split}" for split, n in pack.meta["counts"].items())
    say(f"data {job.data}: {counts} samples of {len(pack.meta['class_names'])} classes")
    if next(pack.source_files(), None) and not source_files(*place):
        say(f"data {job.data}: packed already; the files that they were made of are not on this machine")
    for note in pack.meta["notes"]:
        say(f"data {job.data}: {note}")
