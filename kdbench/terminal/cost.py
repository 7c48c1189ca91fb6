"""`kdbench plan SUITE --cost`: what a suite takes on this machine, before it runs.

Operations are counted. A network's pass costs what torch counts in its convolutions and matrix products, forward.
Training costs three of them a sample, the forward pass and twice as much backward; a teacher that looks on, one; every
epoch ends with one over validation and test. Scratch at the compute of a method is counted with the steps of its recipe
and a pass of the teacher, as the method is. What methods compute of their own (projectors, banks, prompts) and what
moves data is not counted, so this is a lower bound; small networks wait for the launch of their steps rather than for
operations.

Hours, memory and disk are measured (kdbench/train/probe.py): each distinct cohort takes a few steps. Hours are those of
the steps and evaluations, and of what comes before the first; the start of a process is not among them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, NamedTuple

from kdbench.data.packed import Packed, load_packed
from kdbench.plan.jobs import Job, Plan
from kdbench.plan.paths import of_budget
from kdbench.plan.suite import typed
from kdbench.types import KdbenchError, ModelSpec, Recipe

if TYPE_CHECKING:
    from kdbench.train.probe import Probe

UNITS = {"10^15": 1e15, "10^12": 1e12, "10^9": 1e9}
"""Of operations; the largest of which a suite's sum holds one is taken, so that a small suite does not cost 0.00."""


class Trained(NamedTuple):
    """The jobs that train one student with one teacher for one budget, or one teacher."""

    name: str
    jobs: Sequence[Job]
    runs: int
    steps: int
    """Of one run."""
    operations: float
    """Of all runs."""


class Taken(NamedTuple):
    """What the jobs of one line take."""

    seconds: float = 0.0
    saved: float = 0.0
    """Seconds more that each run would take if it trained alone."""
    memory_mb: float = 0.0
    """The most that one job takes."""
    stored_mb: float = 0.0
    checkpoint_mb: float = 0.0
    """The largest of one job."""


def lines(plan: Plan) -> list[str]:
    """A line a teacher, a line a pair and budget, and their sum; below them what the numbers are and what does not fit.
    Operations alone, and why, where nothing can be measured here.

    Raises KdbenchError for data sets that are not packed yet, and where a network does not fit them.
    """
    trained = counted(plan)
    from kdbench.run.probe import probes

    try:
        found = probes(plan)
    except KdbenchError as error:
        return [*_aligned(_operations(trained)), "", f"Hours, memory and disk could not be measured: {error}"]
    taken = [_taken(plan, each, found) for each in trained]
    columns = zip(_operations(trained), _measured(taken, _clock(plan)), strict=True)
    return [*_aligned([a + b for a, b in columns]), "", *_sentences(plan, trained, taken, found)]


# ------------------------------------------------------------------------------------------------------------- counted


def counted(plan: Plan) -> list[Trained]:
    """What there is to train, with its operations. Raises KdbenchError as `lines` does."""
    missing = list(dict.fromkeys(job.data for job in plan.of("data") if not job.output.exists()))
    if missing:
        commands = " && ".join(f"kdbench data {typed(plan.suite)} {data}" for data in missing)
        verb = "is" if len(missing) == 1 else "are"
        raise KdbenchError(f"data {', '.join(missing)} {verb} not packed yet; run: {commands}")
    from kdbench.run import fit

    for data in dict.fromkeys(job.data for job in plan.of("data")):
        fit.check(plan, _packed(plan, data), fit.pairs_of(plan, data))
    jobs = [job for job in plan.jobs if job.kind in ("teacher", "cohort")]
    used = {name for job in jobs for name in (job.pair.teacher, job.pair.student) if name}
    forward = {name: forward_operations(plan, plan.suite.models[name]) for name in used}
    found = []
    for (kind, pair, budget), some in groupby(sorted(jobs, key=_owner), key=_owner):
        group = list(some)
        name, runs = f"{kind} {pair}{of_budget(budget)}", sum(len(job.runs) for job in group)
        found.append(Trained(name, group, runs, *_training(plan, group, forward)))
    return found


def _owner(job: Job) -> tuple[str, str, float]:
    return job.kind, job.pair.student if job.kind == "teacher" else job.pair.id, job.budget


def _training(plan: Plan, jobs: Sequence[Job], forward: Mapping[str, int]) -> tuple[int, float]:
    """Steps of one run, and operations of all runs, of jobs that train one student with one teacher for one budget."""
    pair = jobs[0].pair
    recipe, steps, evaluated = _length(plan, jobs[0])
    if recipe is None:  # a teacher that is taken as it is
        return 0, evaluated * forward[pair.student]
    seen = steps * recipe.global_batch
    evaluated *= 2 if recipe.ema_decay else 1
    student = sum(len(job.runs) for job in jobs) * (3 * seen + evaluated) * forward[pair.student]
    # One pass of the teacher a batch, whoever of its cohort looks on, and one of the untrained teacher.
    cohorts = sum(len({(run.seed, run.method.guide == "untrained") for run in job.runs}) for job in jobs)
    return steps, student + (cohorts * seen * forward[pair.teacher] if pair.teacher else 0)


def _length(plan: Plan, job: Job) -> tuple[Recipe | None, int, int]:
    """A run's recipe, its steps, and the images that it is evaluated on."""
    counts = _packed(plan, job.data).meta["counts"]
    name = plan.suite.models[job.pair.student].recipe
    if name is None:
        return None, 0, counts["val"] + counts["test"]
    recipe = plan.suite.recipes[name].times(job.budget)
    per_epoch = counts["train"] // recipe.global_batch
    steps = recipe.steps or recipe.epochs * per_epoch
    return recipe, steps, -(-steps // per_epoch) * (counts["val"] + counts["test"])


def forward_operations(plan: Plan, spec: ModelSpec) -> int:
    """Of one sample: additions and multiplications of convolutions and matrix products."""
    from kdbench.train import networks, operations

    meta = _packed(plan, spec.data).meta
    shape = tuple(meta["modalities"][spec.input]["shape"])
    return operations.forward_operations(networks.build(spec, shape, len(meta["class_names"]), 0).eval(), shape)


def _packed(plan: Plan, data: str) -> Packed:
    """A data set as the first of its seeds has it: all have as many samples, of one shape."""
    return load_packed(next(job for job in plan.of("data") if job.data == data).output.parent)


# ------------------------------------------------------------------------------------------------------------ measured


def _taken(plan: Plan, trained: Trained, found: Mapping[str, Probe | str]) -> Taken | None:
    """What some jobs take; None where one of them does not fit."""
    total = Taken()
    for job in trained.jobs:
        probe = found[job.key]
        if isinstance(probe, str):
            return None
        recipe, steps, evaluated = _length(plan, job)
        seen = probe.length * steps * recipe.global_batch if recipe else 0
        seeds = len({run.seed for run in job.runs})
        total = Taken(
            total.seconds + seeds * (probe.setup + seen * probe.image + probe.length * evaluated * probe.evaluated),
            total.saved + seeds * seen * probe.shared * max(0, probe.members - 1),
            max(total.memory_mb, probe.memory_mb),
            total.stored_mb + seeds * probe.stored_mb,
            max(total.checkpoint_mb, probe.checkpoint_mb),
        )
    return total


def _clock(plan: Plan) -> str:
    """Whose hours are meant."""
    import torch

    return "GPU" if torch.cuda.is_available() and plan.suite.device != "cpu" else "core"


def _operations(trained: Sequence[Trained]) -> list[tuple[str, ...]]:
    """The counted columns: a head, a row each, and their sum."""
    total = sum(each.operations for each in trained)
    unit = next((unit for unit, size in UNITS.items() if total >= size), "10^9")
    rows = [("trains", "runs", "steps a run", f"{unit} operations")]
    for each in (*trained, Trained("all", (), sum(each.runs for each in trained), 0, total)):
        steps = f"{each.steps:,}" if each.jobs else ""
        rows.append((each.name, f"{each.runs:,}", steps, f"{each.operations / UNITS[unit]:,.2f}"))
    return rows


def _measured(taken: Sequence[Taken | None], clock: str) -> list[tuple[str, ...]]:
    """The measured columns, as many rows."""
    fitting = [each for each in taken if each]
    whole = Taken(
        sum(each.seconds for each in fitting),
        sum(each.saved for each in fitting),
        max((each.memory_mb for each in fitting), default=0.0),
        sum(each.stored_mb for each in fitting),
    )
    word, seconds = ("hours", 3600) if whole.seconds >= 3600 else ("minutes", 60)
    rows = [(f"{clock}-{word}", "saved", "memory, MB", "disk, MB")]
    for its in (*taken, whole):
        if its is None:
            rows.append(("does not fit", "", "", ""))
        else:
            times = f"{its.seconds / seconds:,.2f}", f"{its.saved / seconds:,.2f}"
            rows.append((*times, f"{its.memory_mb:,.0f}", f"{its.stored_mb:,.1f}"))
    return rows


def _aligned(rows: Sequence[tuple[str, ...]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip() for row in rows]


def _sentences(
    plan: Plan, trained: Sequence[Trained], taken: Sequence[Taken | None], found: Mapping[str, Probe | str]
) -> list[str]:
    fitting = [each for each in taken if each]
    seconds, saved = sum(each.seconds for each in fitting), sum(each.saved for each in fitting)
    checkpoint = max((each.checkpoint_mb for each in fitting), default=0.0)
    files = [file for job in plan.of("data") for file in job.output.parent.iterdir() if file.is_file()]
    packed, threads = sum(file.stat().st_size for file in files) / 2**20, plan.suite.threads
    meaning = f"of a processor core: jobs side by side share them ({threads} thread{'s' if threads > 1 else ''} a job)"
    if _clock(plan) == "GPU":
        meaning = "of a card that no other job uses"
    told = [f"Times are {meaning}. They come from a few steps, and leave out the start of each process."]
    if seconds:
        told.append(f"Saved is what separate runs would take more: {saved / seconds:.0%} of all. Memory is of one job.")
    disk = f"data {packed:,.1f} MB, and checkpoints of at most {checkpoint:,.1f} MB a job while it trains"
    told.append(f"Disk is weights and predictions; besides, {disk}.")
    for each in (each for each, its in zip(trained, taken, strict=True) if its is None):
        why = next(found[job.key] for job in each.jobs if isinstance(found[job.key], str))
        told.append(f"{each.name} does not fit this machine: {why}")
    return told
