"""`kdbench plan SUITE --cost`: how many steps and operations a suite's training takes, counted before it runs.

A network's pass costs what torch counts in its convolutions and matrix products, forward. Training costs three of them
a sample, the forward pass and twice as much backward; a teacher that looks on, one; every epoch ends with one over
validation and test. Scratch at the compute of a method is counted with the steps of its recipe and a pass of the
teacher, as the method is. What methods compute of their own (projectors, banks, prompts) and what moves data is not
counted, so this is a lower bound; small networks wait for the launch of their steps rather than for operations.
"""

from __future__ import annotations

from itertools import groupby

from kdbench.data.packed import Packed, load_packed
from kdbench.plan.jobs import Job, Plan
from kdbench.plan.paths import of_budget
from kdbench.plan.suite import typed
from kdbench.types import KdbenchError, ModelSpec

UNITS = {"10^15": 1e15, "10^12": 1e12, "10^9": 1e9}
"""Of operations; the largest of which a suite's sum holds one is taken, so that a small suite does not cost 0.00."""


def lines(plan: Plan) -> list[str]:
    """A line a teacher, a line a pair and budget, and their sum.

    Raises KdbenchError for data sets that are not packed yet.
    """
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
    counted = []
    for (kind, pair, budget), some in groupby(sorted(jobs, key=_owner), key=_owner):
        group = list(some)
        steps, operations = _training(plan, group, forward)
        name, runs = f"{kind} {pair}{of_budget(budget)}", sum(len(job.runs) for job in group)
        counted.append((name, runs, f"{steps:,}", operations))
    total = sum(operations for *_, operations in counted)
    unit = next((unit for unit, size in UNITS.items() if total >= size), "10^9")
    rows = [("trains", "runs", "steps a run", f"{unit} operations")]
    for name, runs, steps, operations in (*counted, ("all", sum(len(job.runs) for job in jobs), "", total)):
        rows.append((name, f"{runs:,}", steps, f"{operations / UNITS[unit]:,.2f}"))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in rows]


def _owner(job: Job) -> tuple[str, str, float]:
    return job.kind, job.pair.student if job.kind == "teacher" else job.pair.id, job.budget


def _training(plan: Plan, jobs: list[Job], forward: dict[str, int]) -> tuple[int, float]:
    """Steps of one run, and operations of all runs, of jobs that train one student with one teacher for one budget."""
    pair = jobs[0].pair
    counts = _packed(plan, jobs[0].data).meta["counts"]
    name = plan.suite.models[pair.student].recipe
    if name is None:  # a teacher that is taken as it is
        return 0, (counts["val"] + counts["test"]) * forward[pair.student]
    recipe = plan.suite.recipes[name].times(jobs[0].budget)
    per_epoch = counts["train"] // recipe.global_batch
    steps = recipe.steps or recipe.epochs * per_epoch
    seen = steps * recipe.global_batch
    evaluated = -(-steps // per_epoch) * (counts["val"] + counts["test"]) * (2 if recipe.ema_decay else 1)
    student = sum(len(job.runs) for job in jobs) * (3 * seen + evaluated) * forward[pair.student]
    # One pass of the teacher a batch, whoever of its cohort looks on, and one of the untrained teacher.
    cohorts = sum(len({(run.seed, run.method.guide == "untrained") for run in job.runs}) for job in jobs)
    return steps, student + (cohorts * seen * forward[pair.teacher] if pair.teacher else 0)


def forward_operations(plan: Plan, spec: ModelSpec) -> int:
    """Of one sample: additions and multiplications of convolutions and matrix products."""
    from kdbench.train import networks, operations

    meta = _packed(plan, spec.data).meta
    shape = tuple(meta["modalities"][spec.input]["shape"])
    return operations.forward_operations(networks.build(spec, shape, len(meta["class_names"]), 0).eval(), shape)


def _packed(plan: Plan, data: str) -> Packed:
    """A data set as the first of its seeds has it: all have as many samples, of one shape."""
    return load_packed(next(job for job in plan.of("data") if job.data == data).output.parent)
