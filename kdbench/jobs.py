"""What each job of a plan does: find what is done, train the rest under a lock, write whole files."""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdbench import checkpoint, results
from kdbench.data import packed
from kdbench.errors import unknown
from kdbench.plan import Job, Plan, Run, data_dir, data_folder, home
from kdbench.types import KdbenchError

if TYPE_CHECKING:
    import torch

    from kdbench.batches import Batches

LOCK_NOTICE_SECONDS = 30


def run_data(plan: Plan, job: Job) -> None:
    """Pack a data set, once for all suites that use it."""
    pack = packed.prepare(plan.suite.data[job.data], job.output.parent, data_dir())
    counts = ", ".join(f"{n:,} {split}" for split, n in pack.meta["counts"].items())
    _say(f"data {job.data}: {counts} samples of {len(pack.meta['class_names'])} classes")


def run_training(
    plan: Plan, job: Job, *, threads: int, seeds: list[int] | None = None, methods: list[str] | None = None
) -> None:
    """A teacher or cohort job: train what is not finished yet, seed by seed, then write the manifest.

    seeds, methods: only these (by hand); the manifest is then left alone, since the job is not whole.
    Raises KdbenchError for a missing teacher, another thread count, or a member that failed.
    """
    import torch

    from kdbench.batches import Batches

    if threads != plan.suite.threads:
        raise KdbenchError(
            f"suite {plan.suite.name} computes with threads: {plan.suite.threads}, but this job got {threads}: results "
            f"would differ in the last bit; give snakemake at least --cores {plan.suite.threads}, or edit the suite"
        )
    torch.set_num_threads(threads)
    device = _device(plan.suite.device)
    pack = packed.load(data_folder(plan.suite, job.data))
    models = plan.suite.models
    modalities = {models[m].input for m in (job.pair.teacher, job.pair.student) if m}
    batches = None
    for seed in dict.fromkeys(r.seed for r in job.runs if seeds is None or r.seed in seeds):
        runs = [r for r in job.runs if r.seed == seed and (methods is None or r.method.id in methods)]
        with _locked(_state_folder(plan, job, seed), f"{job.id} seed {seed}"):
            teacher = results.teacher_record(plan, job.pair.teacher, seed) if job.pair.teacher else None
            todo = [r for r in runs if not results.finished(r, pack.meta["sha256"], _weights_hash(teacher))]
            if todo:
                batches = batches or Batches(pack, modalities, device)
                _train_seed(plan, job, seed, todo, batches, pack.meta["sha256"], teacher)
    if seeds is None and methods is None:
        write_manifest(job)


def write_manifest(job: Job) -> None:
    """The one file a training job declares: which runs it stands for and how they ended."""
    runs = {str(r.result): {"key": r.key, "status": results.read_run(r.result)["status"]} for r in job.runs}
    checkpoint.write_json(job.output, {"job": job.id, "key": job.key, "runs": runs})


def _train_seed(
    plan: Plan,
    job: Job,
    seed: int,
    todo: list[Run],
    batches: Batches,
    data_sha256: str,
    teacher_record: dict[str, Any] | None,
) -> None:
    from safetensors.torch import load_file

    from kdbench import engine

    suite, device = plan.suite, batches.device
    teacher = None
    if teacher_record:
        weights = load_file(plan.teacher(job.pair.teacher, seed).stem.with_suffix(".safetensors"))
        teacher = engine.load_teacher(suite.models[job.pair.teacher], weights, batches, device, seed)
    provenance = {
        "hashes": {"data": data_sha256, "teacher": _weights_hash(teacher_record)},
        "teacher_accuracy": teacher_record and teacher_record["accuracy"],
        "versions": results.versions(),
        "hardware": results.hardware(device, plan.suite.threads),
    }
    say = _Progress(f"{job.pair.student if job.kind == 'teacher' else job.pair.id} seed {seed}")
    cohort = engine.Cohort(suite, batches, device, seed, teacher)
    state_file = _state_folder(plan, job, seed) / "checkpoint"
    engine.train_cohort(cohort, todo, state_file, lambda outcome: _write_outcome(outcome, provenance), say)
    for leftover in state_file.parent.glob("checkpoint*"):
        leftover.unlink()


def _write_outcome(outcome: Any, provenance: dict[str, Any]) -> None:
    """Predictions and weights first, the JSON last: a result is whole or not there."""
    import numpy as np
    from safetensors.torch import save

    run, hashes = outcome.run, dict(provenance["hashes"])
    if outcome.weights:
        with checkpoint.atomic(run.stem.with_suffix(".npz")) as file:
            np.savez_compressed(
                file, **{f"{s}_logits": v.numpy().astype(np.float16) for s, v in outcome.logits.items()}
            )
        with checkpoint.atomic(run.stem.with_suffix(".safetensors")) as file:
            file.write(save(outcome.weights))
        hashes["weights"] = checkpoint.sha256_file(run.stem.with_suffix(".safetensors"))
    results.write_run(run, {**provenance, **outcome.record, "hashes": hashes})


def run_similarity(plan: Plan, job: Job) -> None:
    """Teacher against student by stage and band, before and after every method; or two teachers by channel band."""
    import torch

    from kdbench import measure

    torch.set_num_threads(plan.suite.threads)
    rows = measure.stages(plan, job) if job.kind == "stages" else measure.channels(plan, job)
    head = {"kind": job.kind, "block": job.block, "pair": job.id, "a": job.pair.teacher, "b": job.pair.student}
    checkpoint.write_json(job.output, {**head, "rows": rows})


def run_table(plan: Plan, *, partial: bool = False) -> list[Path]:
    """Write tables/SUITE.md, .tex and .csv. Raises KdbenchError when runs are missing, unless `partial`."""
    from kdbench import tables
    from kdbench.plan import TABLES

    blocks = []
    for block in plan.suite.blocks:
        frame = results.collect(plan, block)
        missing = frame[frame.status == results.MISSING]
        if len(missing) and not partial:
            first = missing.iloc[0]
            raise KdbenchError(
                f"{len(missing)} of {len(frame)} cells of block {block.name} have no result; the first is {first.pair}/"
                f"{first.method} seed {first.seed}: {first.reason}; run snakemake, or kdbench table --partial"
            )
        meta = packed.load(data_folder(plan.suite, block.data)).meta
        blocks.append((block, frame, meta["anchors"], _context(plan, meta)))
    return tables.write_tables(plan.suite, blocks, TABLES)


def run_figures(plan: Plan, folder: Path) -> list[Path]:
    """Draw every figure of the suite into `folder`."""
    from kdbench import figures

    written = []
    for block in plan.suite.blocks:
        frame, curves = results.collect(plan, block), results.histories(plan, block)
        written += figures.accuracy_figure(plan.suite, block, frame, folder / f"{block.name}-accuracy")
        written += figures.learning_figure(plan.suite, block, curves, folder / f"{block.name}-learning")
        for kind, draw in (("stages", figures.stage_figure), ("channels", figures.channel_figure)):
            documents = [checkpoint.read_json(job.output) for job in plan.of(kind) if job.block == block.name]
            if documents:
                written += draw(plan.suite, block, documents, folder / f"{block.name}-{kind}")
    return written


def run_all(plan: Plan) -> list[Path]:
    """The whole plan in this process, one job after another; what is finished is not done again."""
    for number, job in enumerate(plan.jobs, 1):
        _say(f"job {number} of {len(plan.jobs)}: {job.kind} {job.id}")
        if job.kind == "data":
            run_data(plan, job)
        elif job.kind in ("teacher", "cohort"):
            run_training(plan, job, threads=plan.suite.threads)
        else:
            run_similarity(plan, job)
    return [*run_table(plan), *run_figures(plan, home(plan.suite) / "figures")]


# ------------------------------------------------------------------------------------------------------------- helpers


def find_model_job(plan: Plan, model: str) -> list[Job]:
    """Teacher jobs of a model. Raises KdbenchError that names the nearest teacher."""
    jobs = [job for job in plan.of("teacher") if job.pair.student == model]
    if not jobs:
        raise unknown("teacher", model, (j.pair.student for j in plan.of("teacher")), f"suite {plan.suite.name}")
    return jobs


def find_pair_jobs(plan: Plan, pair: str) -> list[Job]:
    """Cohort jobs of a pair. Raises KdbenchError that names the nearest pair."""
    jobs = [job for job in plan.of("cohort") if job.pair.id == pair]
    if not jobs:
        raise unknown("pair", pair, {j.pair.id for j in plan.of("cohort")}, f"suite {plan.suite.name}")
    return jobs


def _device(wanted: str) -> torch.device:
    import torch

    if wanted == "cuda" and not torch.cuda.is_available():
        raise KdbenchError("the suite says device: cuda, but torch finds none here (kdbench doctor tells more)")
    return torch.device("cuda" if wanted != "cpu" and torch.cuda.is_available() else "cpu")


def _weights_hash(record: dict[str, Any] | None) -> str | None:
    return record["hashes"]["weights"] if record else None


def _state_folder(plan: Plan, job: Job, seed: int) -> Path:
    part = job.id.rpartition("/")[2].partition(".")[2]
    return home(plan.suite) / "state" / job.pair.id / ".".join(filter(None, (f"seed{seed}", part)))


@contextlib.contextmanager
def _locked(folder: Path, what: str) -> Iterator[None]:
    """Hold the lock of a state folder; wait, and say so, while another process trains here (an orphan, say).

    The system frees the lock when its holder dies, however it dies.
    """
    import filelock

    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(folder / "lock")
        while True:
            try:
                lock.acquire(timeout=LOCK_NOTICE_SECONDS)
                break
            except filelock.Timeout:
                holder = (folder / "holder").read_text(encoding="utf-8") if (folder / "holder").exists() else "unknown"
                _say(f"{what}: waiting for another process that trains it ({holder})")
    except OSError as error:
        raise KdbenchError(f"cannot write {folder}: {error.strerror or error}; nothing was changed") from error
    try:
        checkpoint.write_text(folder / "holder", f"process {os.getpid()} on {socket.gethostname()}")
        yield
    finally:
        lock.release()


class _Progress:
    """Lines for people on stderr: the first, the last, and one every ten seconds between."""

    def __init__(self, what: str) -> None:
        self.what, self.started, self.last = what, time.monotonic(), 0.0

    def __call__(self, line: str, final: bool = False) -> None:
        now = time.monotonic()
        if final or now - self.last >= 10:
            _say(f"{self.what}: {line} ({now - self.started:.0f} s)")
            self.last = now


def _say(line: str) -> None:
    print(f"kdbench: {line}", file=sys.stderr, flush=True)


def _context(plan: Plan, meta: dict[str, Any]) -> dict[str, Any]:
    """What the footer of a table says, taken from the results themselves."""
    records = [record for run in plan.runs().values() if (record := results.current(run))]
    newest = max(records, key=lambda r: r["finished_at"], default={})
    return {
        "date": newest.get("finished_at", "")[:10],
        "hardware": sorted({_hardware_line(r["hardware"]) for r in records}),
        "versions": newest.get("versions", {}),
        "data": {"counts": meta["counts"], "notes": meta["notes"]},
    }


def _hardware_line(hardware: dict[str, Any]) -> str:
    return f"{hardware.get('gpu') or hardware['cpu']}, {hardware['threads']} thread(s) a job"
