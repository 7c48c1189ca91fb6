"""What each job of a plan does: find what is done, train the rest under a lock, write whole files."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import socket
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdbench import checkpoint, results, tune
from kdbench.data import packed
from kdbench.errors import unknown
from kdbench.plan import TABLES, Job, Plan, Run, data_dir, data_folder, home, reference_folder, tuned_file
from kdbench.registry import reads_files
from kdbench.suite import typed
from kdbench.types import Block, KdbenchError

if TYPE_CHECKING:
    import pandas as pd
    import torch

    from kdbench.batches import Batches

LOCK_NOTICE_SECONDS = 30


def run_data(plan: Plan, job: Job) -> None:
    """Pack a data set, once for all suites that use it, and see whether this suite's networks fit it."""
    from kdbench import fit

    spec = plan.suite.data[job.data]
    place = spec, job.output.parent, data_dir() if reads_files(spec.source) else None
    try:
        pack = packed.prepare(*place)
    except MemoryError as error:
        raise KdbenchError(f"data set {job.data!r} takes more memory than there is: {error}") from error
    fit.check(plan, pack, fit.pairs_of(plan, job.data))
    counts = ", ".join(f"{n:,} {split}" for split, n in pack.meta["counts"].items())
    _say(f"data {job.data}: {counts} samples of {len(pack.meta['class_names'])} classes")
    if pack.meta["source_files"] and not packed.source_files(*place):
        _say(f"data {job.data}: packed already; the files that they were made of are not on this machine")
    for note in pack.meta["notes"]:
        _say(f"data {job.data}: {note}")


def run_training(
    plan: Plan, job: Job, *, threads: int, seeds: list[int] | None = None, methods: list[str] | None = None
) -> None:
    """A teacher or cohort job: train what is not finished yet, seed by seed, then write the manifest.

    seeds, methods: only these (by hand); the manifest is then left alone, since the job is not whole.
    Raises KdbenchError for a missing teacher, another thread count, or a member that failed.
    """
    import torch

    from kdbench import fit
    from kdbench.batches import Batches

    if threads != plan.suite.threads:
        raise KdbenchError(
            f"suite {plan.suite.name} computes with threads: {plan.suite.threads}, but this job got {threads}: results "
            f"would differ in the last bit; give snakemake at least --cores {plan.suite.threads}, or edit the suite"
        )
    torch.set_num_threads(threads)
    models = plan.suite.models
    modalities = {models[m].input for m in (job.pair.teacher, job.pair.student) if m}
    batches = None
    for seed in dict.fromkeys(r.seed for r in job.runs if seeds is None or r.seed in seeds):
        folder = state_folder(plan, job, seed)
        # Some methods by hand leave the state of the whole cohort alone.
        state_file = folder / ("checkpoint" if methods is None else "checkpoint-by-hand")
        with _locked(folder, f"{job.id} seed {seed}"):
            if todo := unfinished(plan, job, [seed], methods):
                if batches is None:
                    pack = packed.load(data_folder(plan.suite, job.data), verify=True)
                    if job.kind == "teacher":
                        # Another suite may have packed these data.
                        fit.check(plan, pack, fit.pairs_of(plan, job.data, job.pair.student))
                    batches = Batches(pack, modalities, _device(plan.suite.device))
                _train_seed(plan, job, seed, todo, batches, state_file)
            checkpoint.remove(state_file)
    if seeds is None and methods is None:
        write_manifest(job)


def unfinished(plan: Plan, job: Job, seeds: list[int] | None = None, methods: list[str] | None = None) -> list[Run]:
    """The runs of a teacher or cohort job that have no result yet from today's config, code, data and teacher.

    seeds, methods: among these only. Raises KdbenchError for data or a teacher that is missing, and damaged results.
    """
    data, tuned, todo = _packed(plan, job), tune.Tuned(plan), []
    for seed in dict.fromkeys(run.seed for run in job.runs if seeds is None or run.seed in seeds):
        given = _given(data, _teacher_record(plan, job, seed))
        for run in job.runs:
            mine = run.seed == seed and (methods is None or run.method.id in methods)
            if mine and not results.finished(run, *given.values(), tuned.of(run)):
                run = _with_tuned_weight(run, tuned)
                todo.append(dataclasses.replace(run, given=" ".join(map(str, given.values()))))
    return todo


def _teacher_record(plan: Plan, job: Job, seed: int) -> dict[str, Any] | None:
    return results.teacher_record(plan, job.pair.teacher, seed) if job.pair.teacher else None


def _given(data: packed.Packed, teacher: dict[str, Any] | None) -> dict[str, str | None]:
    """Checksums of what runs train with."""
    return {"data": data.meta["sha256"], "teacher": teacher and teacher["hashes"]["weights"]}


def _packed(plan: Plan, job: Job) -> packed.Packed:
    folder = data_folder(plan.suite, job.data)
    if not (folder / "meta.json").exists():
        raise KdbenchError(f"data set {job.data!r} is not packed yet; run: kdbench data {typed(plan.suite)} {job.data}")
    return packed.load(folder)


def write_manifest(job: Job) -> None:
    """The one file a training job declares: which runs it stands for, how they ended, and what they took."""
    records = [results.read_run(run.result) for run in job.runs]
    runs = {
        str(run.result): {"key": run.key, "status": record["status"]}
        for run, record in zip(job.runs, records, strict=True)
    }
    checkpoint.write_json(
        job.output, {"job": job.id, "key": job.key, "runs": runs, "measured": results.measured(records)}
    )


def _train_seed(plan: Plan, job: Job, seed: int, todo: list[Run], batches: Batches, state_file: Path) -> None:
    from kdbench import engine

    suite, device = plan.suite, batches.device
    teacher, record = None, _teacher_record(plan, job, seed)
    if record:
        weights = results.load_weights(plan.teacher(job.pair.teacher, seed))
        teacher = engine.load_teacher(suite.models[job.pair.teacher], weights, batches, device, seed)
    provenance = {
        "hashes": _given(_packed(plan, job), record),
        "teacher_accuracy": record and record["accuracy"],
        "versions": results.versions(),
        "hardware": results.hardware(device, plan.suite.threads),
    }
    say = _Progress(f"{job.pair.student if job.kind == 'teacher' else job.pair.id} seed {seed}")
    cohort = engine.Cohort(suite, batches, device, seed, teacher)
    engine.train_cohort(cohort, todo, state_file, lambda outcome: _write_outcome(outcome, provenance), say)


def _with_tuned_weight(run: Run, tuned: tune.Tuned) -> Run:
    """The run with the weight that tuning chose. Raises KdbenchError where it has not chosen yet."""
    if not run.method.tuned_from:
        return run
    if tuned.of(run) is None:
        raise KdbenchError(
            f"{run.method.id} waits for the tuning of this suite; run: kdbench tune {typed(tuned.suite)}"
        )
    return dataclasses.replace(
        run, method=dataclasses.replace(run.method, params=run.method.params | tuned.of(run)), tuned=tuned.of(run)
    )


def _write_outcome(outcome: Any, provenance: dict[str, Any]) -> None:
    """Predictions and weights first, the JSON last: a result is whole or not there."""
    import numpy as np
    from safetensors.torch import save

    run, hashes = outcome.run, dict(provenance["hashes"])
    if outcome.weights:
        with checkpoint.atomic(run.stem.with_suffix(".npz")) as file:
            largest = np.finfo(np.float16).max
            half = {s: v.clamp(-largest, largest).numpy().astype(np.float16) for s, v in outcome.logits.items()}
            np.savez_compressed(file, **{f"{s}_logits": v for s, v in half.items()})
        with checkpoint.atomic(run.stem.with_suffix(".safetensors")) as file:
            file.write(save(outcome.weights))
        hashes["weights"] = checkpoint.sha256_file(run.stem.with_suffix(".safetensors"))
    results.write_run(run, {**provenance, **outcome.record, "hashes": hashes})


def run_tune(plan: Plan) -> None:
    """Choose the main weight of every tuned method from the settings that were tried."""
    if not plan.suite.tune:
        raise KdbenchError(f"suite {plan.suite.name} has no section tune")
    choices = tune.choose(plan)
    checkpoint.write_json(tuned_file(plan.suite), {"seed": plan.suite.tune.seed, "choices": choices})
    for choice in choices:
        _say(f"tuned {choice['pair']} {choice['method']}: {choice['parameter']} {choice['value']:g}")


def run_similarity(plan: Plan, job: Job) -> None:
    """Teacher against student by stage and band, before and after every method; or two teachers by channel band."""
    import torch

    from kdbench import measure

    torch.set_num_threads(plan.suite.threads)
    measured = measure.stages(plan, job) if job.kind == "stages" else measure.channels(plan, job)
    head = {"kind": job.kind, "block": job.block, "pair": job.pair.id, "a": job.pair.teacher, "b": job.pair.student}
    checkpoint.write_json(job.output, {**head, **measured})


def run_table(plan: Plan, *, partial: bool = False) -> list[Path]:
    """Write tables/SUITE.md, .tex, .html and .csv. Raises KdbenchError when runs are missing, unless `partial`."""
    from kdbench import tables

    blocks = described(plan)
    for block, frame, _, context in blocks:
        for runs in (frame, *(found for *_, found in context["readings"])):
            missing = runs[runs.status == results.MISSING]
            if partial or not len(missing):
                continue
            first, suite = missing.iloc[0], typed(plan.suite)
            raise KdbenchError(
                f"{len(missing)} of {len(runs)} cells of block {block.name} have no result; the first is {first.pair}/"
                f"{first.method} seed {first.seed}: {first.reason}; run snakemake (where it says that there is nothing "
                f"to do: kdbench distill {suite} {first.pair}), or: kdbench table {suite} --partial"
            )
    return tables.write_tables(plan.suite, blocks, TABLES)


def described(plan: Plan) -> list[tuple[Block, pd.DataFrame, dict[str, Any], dict[str, Any]]]:
    """What tables and reports are made of: (block, frame of its runs, anchors of its data, context), block by block.

    A data set that is not packed yet has no anchors. context: date, hardware, versions, data, readings, tuned, and
    `correct` where there is one seed only.
    """
    blocks, tuned, footer = [], tune.Tuned(plan), _context(plan)
    for block in plan.suite.blocks:
        folder = data_folder(plan.suite, block.data)
        packed_already = (folder / "meta.json").exists()
        nothing = {"anchors": {}, "counts": {}, "class_names": [], "notes": []}
        meta = packed.load(folder).meta if packed_already else nothing
        frame = results.collect(plan, block)
        context = {
            **footer,
            "data": {"counts": meta["counts"], "classes": len(meta["class_names"]), "notes": meta["notes"]},
            "readings": [(method, own, results.collect(plan, block, own)) for method, own in block.readings],
            "tuned": tuned.of_block(block),
        }
        if len(block.seeds) == 1 and packed_already:
            context["correct"] = results.correct_images(plan, block, frame)
        blocks.append((block, frame, meta["anchors"], context))
    return blocks


def run_figures(plan: Plan, folder: Path) -> list[Path]:
    """Draw every figure of the suite into `folder`: BLOCK-KIND, and BLOCK/by-pair and by-method one by one."""
    from kdbench import figures

    written = []
    for block in plan.suite.blocks:
        frame, curves = results.collect(plan, block), results.histories(plan, block)
        written += figures.verdict_figure(plan.suite, block, frame, folder / f"{block.name}-verdict")
        written += figures.accuracy_figure(plan.suite, block, frame, folder / f"{block.name}-accuracy")
        written += figures.learning_figure(plan.suite, block, curves, folder / f"{block.name}-learning")
        written += figures.cost_figure(plan.suite, block, frame, folder / f"{block.name}-cost")
        documents = {
            kind: [checkpoint.read_json(job.output) for job in plan.of(kind) if job.block == block.name]
            for kind in ("stages", "channels")
        }
        for kind, name, draw in (
            ("stages", "stages", figures.stage_figure),
            ("stages", "similarity", figures.summary_figure),
            ("channels", "channels", figures.channel_figure),
        ):
            if documents[kind]:
                written += draw(plan.suite, block, documents[kind], folder / f"{block.name}-{name}")
        if documents["stages"]:
            written += figures.stage_views(plan.suite, block, documents["stages"], folder / block.name)
        if any(document["spectra"] for document in documents["stages"]):
            written += figures.spectra_figure(plan.suite, block, documents["stages"], folder / f"{block.name}-spectra")
    return written


def run_reference(plan: Plan) -> list[Path]:
    """Freeze a finished suite as results to stand by, under results/reference/SUITE and tables/reference.

    Takes every run's numbers (runs.csv), the tuned weights, the figures as PNG and the tables.
    Raises KdbenchError when a run is missing.
    """
    tables = run_table(plan)
    folder = reference_folder(plan.suite)
    checkpoint.write_text(folder / "runs.csv", results.all_runs(plan).to_csv(index=False, lineterminator="\n"))
    copies = {path: TABLES / "reference" / path.name for path in tables}
    if plan.of("tune"):
        copies[tuned_file(plan.suite)] = folder / "tuned.json"
    copies |= {path: folder / "figures" / path.name for path in run_figures(plan, home(plan.suite) / "figures")}
    written = [folder / "runs.csv"]
    for source, target in copies.items():
        if target.suffix != ".svg":
            with checkpoint.atomic(target) as file:
                file.write(source.read_bytes())
            written.append(target)
    return written


def run_all(plan: Plan) -> list[Path]:
    """The whole plan in this process, one job after another; what is finished is not done again."""
    for number, job in enumerate(plan.jobs, 1):
        _say(f"job {number} of {len(plan.jobs)}: {job.kind} {job.id}")
        if job.kind == "data":
            run_data(plan, job)
        elif job.kind in ("teacher", "cohort"):
            run_training(plan, job, threads=plan.suite.threads)
        elif job.kind == "tune":
            run_tune(plan)
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


def state_folder(plan: Plan, job: Job, seed: int) -> Path:
    """Where the lock and the checkpoint of one seed of a training job lie."""
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
                path = folder / "holder"
                holder = path.read_text(encoding="utf-8", errors="replace") if path.exists() else "unknown"
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


def _context(plan: Plan) -> dict[str, Any]:
    """What the footer of a table says of all runs that count, the teachers' among them, taken from their results."""
    runs = [*plan.runs().values(), *(run for job in plan.of("teacher") for run in job.runs)]
    records = [record for run in runs if (record := results.current(run))]
    days = sorted(record["finished_at"][:10] for record in records)
    names = dict.fromkeys(name for record in records for name in record["versions"])
    return {
        "date": " to ".join(dict.fromkeys([*days[:1], *days[-1:]])),
        "hardware": _counted(results.hardware_line(record["hardware"]) for record in records),
        "versions": {name: _counted(record["versions"].get(name, "unknown") for record in records) for name in names},
    }


def _counted(values: Iterable[Any]) -> str:
    """The value that all runs share; where they differ, each with the number of its runs, the commonest first."""
    counts = Counter(map(str, values)).most_common()
    if len(counts) < 2:
        return "".join(value for value, _ in counts)
    return " and ".join(f"{value} ({n} run{'' if n == 1 else 's'})" for value, n in counts)
