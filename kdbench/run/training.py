"""A teacher or cohort job: find what is done, train the rest under a lock, write whole files."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdbench import checkpoint
from kdbench.cpu import slow_bf16
from kdbench.data.packed import Packed, load_packed
from kdbench.files import atomic, sha256_file, write_json
from kdbench.plan.jobs import Job, Plan, Run
from kdbench.plan.paths import data_folder, of_budget
from kdbench.plan.suite import typed
from kdbench.results import provenance
from kdbench.results.record import load_weights, measured_cost, read_run, write_run
from kdbench.results.today import Stale, Today, check_gate
from kdbench.run.locks import locked, state_folder
from kdbench.run.progress import Progress
from kdbench.types import KdbenchError, Suite

if TYPE_CHECKING:
    import torch

    from kdbench.train.batches import Batches
    from kdbench.train.cohort import Cohort

ONE_VERSION = ("torch", "timm")


def run_training(
    plan: Plan, job: Job, *, threads: int, seeds: list[int] | None = None, methods: list[str] | None = None
) -> None:
    """A teacher or cohort job: train what is not finished yet, seed by seed, then write the manifest.

    seeds, methods: only these (by hand); the manifest is then left alone, since the job is not whole.
    Raises KdbenchError for a missing teacher, another thread count, a member that failed, or a teacher of another
    accuracy than its suite states.
    """
    import torch

    from kdbench.run import fit

    if threads != plan.suite.threads:
        raise KdbenchError(
            f"suite {plan.suite.name} computes with threads: {plan.suite.threads}, but this job got {threads}: results "
            f"would differ in the last bit; give snakemake at least --cores {plan.suite.threads}, or edit the suite"
        )
    torch.set_num_threads(threads)
    batches = packed = None
    for seed in dict.fromkeys(r.seed for r in job.runs if seeds is None or r.seed in seeds):
        folder = state_folder(plan, job, seed)
        # Some methods by hand leave the state of the whole cohort alone.
        state_file = folder / ("checkpoint" if methods is None else "checkpoint-by-hand")
        with locked(folder, f"{job.id} seed {seed}"):
            today = Today(plan)  # under the lock: another process may have trained here
            if todo := unfinished(today, job, [seed], methods):
                if packed != (own := data_folder(plan.suite, job.data, seed)):
                    pack, packed = load_packed(own, verify=True), own
                    if job.kind == "teacher":
                        # Another suite may have packed these data.
                        fit.check(plan, pack, fit.pairs_of(plan, job.data, job.pair.student))
                    batches = batches_of(plan.suite, job, pack)
                _train_seed(today, job, seed, todo, batches, state_file)
            checkpoint.remove(state_file)
            if job.kind == "teacher":
                check_gate(plan.suite.models[job.pair.student], read_run(plan.teacher(job.pair.student, seed).result))
    if seeds is None and methods is None:
        write_manifest(job)


def unfinished(today: Today, job: Job, seeds: list[int] | None = None, methods: list[str] | None = None) -> list[Run]:
    """The runs of a teacher or cohort job that have no result yet from today's config, code, data and teacher.

    seeds, methods: among these only. Raises KdbenchError for data or a teacher that is missing, for damaged results,
    and where a run would be trained with another torch or timm than the others of its pair and seed.
    """
    todo = []
    for seed in dict.fromkeys(run.seed for run in job.runs if seeds is None or run.seed in seeds):
        if today.data(job.data, seed) is None:
            data = f"kdbench data {typed(today.plan.suite)} {job.data}"
            raise KdbenchError(f"data set {job.data!r} is not packed yet; run: {data}")
        hashes = _input_hashes(today, job, seed)
        for run in job.runs:
            if run.seed == seed and (methods is None or run.method.id in methods) and not counts(today, run):
                run = _with_tuned_weight(run, today)
                todo.append(dataclasses.replace(run, input_hashes=" ".join(map(str, hashes.values()))))
        if any(run.seed == seed for run in todo):
            _check_versions(today, job, seed)
    return todo


def counts(today: Today, run: Run) -> bool:
    """Whether a run is finished today, weights and all. Raises KdbenchError for a damaged result."""
    try:
        return bool(today.record(run, weights=True))
    except Stale:
        return False


def _check_versions(today: Today, job: Job, seed: int) -> None:
    """One version of torch and timm a pair and seed: methods are compared there, run by run."""
    here = {name: _release(provenance.versions()[name]) for name in ONE_VERSION}
    for other in (other for other in today.plan.of("cohort") if other.pair == job.pair):
        for run in (run for run in other.runs if run.seed == seed and counts(today, run)):
            for name, version in here.items():
                theirs = _release(today.record(run)["versions"].get(name, "unknown"))
                if theirs != version:
                    raise KdbenchError(
                        f"{run.pair.id} seed {seed} was trained with {name} {theirs}, and {version} is installed here: "
                        f"its methods would differ by more than their loss; install {name}=={theirs}, or delete "
                        f"{run.stem.parent.parent} to train this pair anew"
                    )


def _release(version: str) -> str:
    """Without what it was built for: 2.13.0+cpu and 2.13.0+cu126 are one version."""
    return version.partition("+")[0]


def _input_hashes(today: Today, job: Job, seed: int) -> dict[str, str | None]:
    """Checksums of the data and the teacher that the runs of a seed train with."""
    teacher = today.teacher(job.pair.teacher, seed)["hashes"]["weights"] if job.pair.teacher else None
    return {"data": today.data(job.data, seed), "teacher": teacher}


def write_manifest(job: Job) -> None:
    """The one file a training job declares: which runs it stands for, how they ended, and what they took."""
    records = [read_run(run.result) for run in job.runs]
    runs = {
        str(run.result): {"key": run.key, "status": record["status"]}
        for run, record in zip(job.runs, records, strict=True)
    }
    write_json(job.output, {"job": job.id, "key": job.key, "runs": runs, "measured": measured_cost(records)})


def batches_of(suite: Suite, job: Job, pack: Packed) -> Batches:
    """The batches of a job: of a packed data set what its networks read."""
    from kdbench.train.batches import Batches

    modalities = {suite.models[name].input for name in (job.pair.teacher, job.pair.student) if name}
    return Batches(pack, modalities, _device(suite), suite.workers)


def cohort_of(
    suite: Suite,
    job: Job,
    seed: int,
    batches: Batches,
    runs: list[Run],
    taught: dict[str, torch.Tensor] | None = None,
    start: dict[str, torch.Tensor] | None = None,
) -> Cohort:
    """The cohort of some runs of a job and seed.

    taught: the trained teacher's weights; None: those of before its training. start: the student's, where they do not
    come from the seed.
    """
    from kdbench.train.cohort import Cohort, load_teacher

    student = suite.models[job.pair.student]
    recipe = suite.recipes[student.recipe].times(job.budget) if student.recipe else None
    teacher = untrained = None
    if job.pair.teacher:
        spec = suite.models[job.pair.teacher]
        teacher = load_teacher(spec, taught, batches, batches.device, seed)
        if any(run.method.guide == "untrained" for run in runs):
            untrained = load_teacher(spec, None, batches, batches.device, seed)
    kept = suite.precision, suite.checkpoint_seconds
    return Cohort(student, recipe, batches, batches.device, seed, teacher, *kept, untrained, start)


def _train_seed(today: Today, job: Job, seed: int, todo: list[Run], batches: Batches, state_file: Path) -> None:
    from kdbench.train import networks
    from kdbench.train.engine import Outcome, train_cohort
    from kdbench.train.equal_compute import equal_compute
    from kdbench.train.given import as_it_is, given_weights

    suite, models = today.plan.suite, today.plan.suite.models
    taught = accuracy = None
    if job.pair.teacher:
        accuracy = today.teacher(job.pair.teacher, seed)["accuracy"]
        taught = load_weights(today.plan.teacher(job.pair.teacher, seed))
    common = {
        "hashes": _input_hashes(today, job, seed),
        "teacher_accuracy": accuracy,
        "versions": provenance.versions(),
        "hardware": provenance.hardware(batches.device, suite.threads),
    }
    names = {"student": job.pair.student} | ({"teacher": job.pair.teacher} if job.pair.teacher else {})
    views = {role: networks.view(models[name]) for role, name in names.items()}
    shown = {role: batches.shown(models[names[role]].input, view) for role, view in views.items()}
    if any(shown.values()):
        common["evaluation"] = shown
    if own := {role: {"mean": view.mean, "std": view.std} for role, view in views.items() if view.mean}:
        common["normalisation"] = own
    say = Progress(f"{job.pair.student if job.kind == 'teacher' else job.pair.id}{of_budget(job.budget)} seed {seed}")
    student, start = suite.models[job.pair.student], None
    if student.is_given:
        start, digest = given_weights(student, batches.shape[student.input], batches.classes, seed)
        common["hashes"]["given"] = digest
    cohort = cohort_of(suite, job, seed, batches, todo, taught, start)

    def done(outcome: Outcome) -> None:
        _write_outcome(outcome, common)

    if cohort.recipe is None:
        done(as_it_is(cohort, todo[0]))
        return
    if todo[0].method.compute_of:
        # Such a job trains one method: no other has its schedule.
        cohort = equal_compute(cohort, todo[0])
        if isinstance(cohort, Outcome):
            done(cohort)
            return
    train_cohort(cohort, todo, state_file, done, say)


def _with_tuned_weight(run: Run, today: Today) -> Run:
    """The run with the weight that tuning chose. Raises KdbenchError where it has not chosen yet."""
    if not run.method.tuned_from:
        return run
    if not (weight := today.weight(run)):
        raise KdbenchError(
            f"{run.method.id} waits for the tuning of this suite; run: kdbench tune {typed(today.plan.suite)}"
        )
    method = dataclasses.replace(run.method, params=run.method.params | weight)
    return dataclasses.replace(run, method=method, tuned=weight)


def _write_outcome(outcome: Any, common: dict[str, Any]) -> None:
    """Predictions and weights first, the JSON last: a result is whole or not there."""
    import numpy as np
    from safetensors.torch import save

    run, hashes = outcome.run, dict(common["hashes"])
    if outcome.weights:
        with atomic(run.stem.with_suffix(".npz")) as file:
            largest = np.finfo(np.float16).max
            half = {s: v.clamp(-largest, largest).numpy().astype(np.float16) for s, v in outcome.logits.items()}
            np.savez_compressed(file, **{f"{s}_logits": v for s, v in half.items()})
        with atomic(run.stem.with_suffix(".safetensors")) as file:
            file.write(save(outcome.weights))
        hashes["weights"] = sha256_file(run.stem.with_suffix(".safetensors"))
    write_run(run, {**common, **outcome.record, "hashes": hashes})


def _device(suite: Suite) -> torch.device:
    """Where jobs of this suite train. Raises KdbenchError for a missing card, and for bf16 on a CPU slow at it."""
    import torch

    gpu = torch.cuda.is_available()
    if suite.device == "cuda" and not gpu:
        raise KdbenchError("the suite says device: cuda, but torch finds none here (kdbench doctor says more)")
    if gpu and suite.device != "cpu":
        return torch.device("cuda")
    if suite.precision == "bf16" and (why := slow_bf16()):
        raise KdbenchError(f"suite {suite.name} says precision: bf16, but {why}; use fp32, or device: cuda on a GPU")
    return torch.device("cpu")
