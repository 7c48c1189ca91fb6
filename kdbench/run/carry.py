"""Finished runs as small files that a repository can hold, so that a long suite goes on on another machine.

A file is the zip of what one seed of a training job has finished, cut into pieces where it is larger than LIMIT: each
run's record, its weights (students need their teachers, similarities the students), and of its predictions what tables
read: the class of each test sample and its probability. Files are as bare as that: the same runs give the same bytes.

A run is taken where its key is the one that the plan gives it here, and its weights have the checksum of its record.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from kdbench.data.packed import load_packed
from kdbench.files import atomic
from kdbench.plan.jobs import Job, Plan, Run
from kdbench.plan.paths import data_folder, home
from kdbench.results.frames import predictions
from kdbench.results.record import FINISHED
from kdbench.results.today import Today
from kdbench.run.data import run_data
from kdbench.run.progress import say
from kdbench.run.training import counts, write_manifest
from kdbench.run.tune import run_tune
from kdbench.types import KdbenchError

LIMIT = 1_900_000
"""Bytes of a file."""
_PIECE = re.compile(r"(?P<name>.+)\.zip-(?P<piece>\d+)-of-(?P<pieces>\d+)")
PREDICTIONS, WEIGHTS, RECORD = ".npz", ".safetensors", ".json"
"""Files of a run, in the order in which they are written: a record is what makes a run count."""


def export_runs(plan: Plan, folder: Path) -> list[Path]:
    """Write the files of all runs that count today; files of the same jobs in `folder` are replaced."""
    today, written = Today(plan), []
    for job in _training_jobs(plan):
        for seed in dict.fromkeys(run.seed for run in job.runs):
            runs = [run for run in job.runs if run.seed == seed and counts(today, run)]
            if runs:
                name = f"{job.kind}.{job.id.replace('/', '.')}.seed{seed}"
                written += _write_pieces(folder, name, _archive(plan, today, runs))
    return written


def _training_jobs(plan: Plan) -> list[Job]:
    return [job for job in plan.jobs if job.kind in ("teacher", "cohort")]


def _archive(plan: Plan, today: Today, runs: list[Run]) -> bytes:
    """The zip of runs of one seed of a job, which have their data in common."""
    samples = len(load_packed(data_folder(plan.suite, runs[0].data, runs[0].seed)).labels("test"))
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        for run in runs:
            finished = today.record(run)["status"] == FINISHED
            for suffix, data in (files_of(run, samples) if finished else {RECORD: run.result.read_bytes()}).items():
                # An entry of its own making has no date.
                entry = zipfile.ZipInfo(_name(plan, run, suffix))
                archive.writestr(entry, data, zipfile.ZIP_DEFLATED)
    return content.getvalue()


def files_of(run: Run, samples: int) -> dict[str, bytes]:
    """Suffix -> content of what is carried of a run that finished, on `samples` test samples."""
    weights = run.stem.with_suffix(WEIGHTS).read_bytes()
    return {PREDICTIONS: _reduced(run, samples), WEIGHTS: weights, RECORD: run.result.read_bytes()}


def _name(plan: Plan, run: Run, suffix: str) -> str:
    return run.stem.with_suffix(suffix).relative_to(home(plan.suite)).as_posix()


def _reduced(run: Run, samples: int) -> bytes:
    """The predictions of a run without the logits of all other classes, which would be most of all bytes."""
    shown, content = predictions(run, samples), io.BytesIO()
    np.savez(content, test_classes=shown.classes.astype(np.uint16), test_confidence=shown.confidence.astype(np.float16))
    return content.getvalue()


def _write_pieces(folder: Path, name: str, content: bytes) -> list[Path]:
    pieces = -(-len(content) // LIMIT)
    paths = [folder / f"{name}.zip-{piece + 1}-of-{pieces}" for piece in range(pieces)]
    for old in _pieces_in(folder).get(name, {}).values():
        if old not in paths:
            old.unlink()
    for piece, path in enumerate(paths):
        with atomic(path) as file:
            file.write(content[piece * LIMIT : (piece + 1) * LIMIT])
    return paths


def _pieces_in(folder: Path) -> dict[str, dict[tuple[int, int], Path]]:
    """Name -> its files by (piece, number of pieces)."""
    found: dict[str, dict[tuple[int, int], Path]] = {}
    for path in sorted(folder.glob("*.zip-*")):
        if match := _PIECE.fullmatch(path.name):
            found.setdefault(match["name"], {})[int(match["piece"]), int(match["pieces"])] = path
    return found


def import_runs(plan: Plan, folder: Path) -> None:
    """Take what `export_runs` wrote, here or elsewhere: its runs are then finished, their jobs nothing to be done.

    What is there already is left as it is. Raises KdbenchError for files that are missing or damaged, before any run of
    theirs is taken; and in the end where runs are not those of this plan, which are not taken.
    """
    archives = _pieces_in(folder)
    if not archives:
        raise KdbenchError(f"{folder} holds no runs; write them first: kdbench export {plan.suite.name} {folder}")
    for job in plan.of("data"):  # a result counts only beside its data
        run_data(plan, job)
    planned = {_name(plan, run, RECORD): run for job in _training_jobs(plan) for run in job.runs}
    taken, there, strange = set(), 0, []
    for name in archives:
        for entry, files in _runs_of(folder, name, archives[name]):
            run = planned.get(entry)
            if run is None or not _is_planned(run, files):
                strange.append(entry)
            elif run.result.exists():
                there += 1
            else:
                write_files(run.stem, files)
                taken.add(run.result)
    finish_jobs(plan, taken)
    say(f"{len(taken)} runs taken from {folder}, {there} were there already")
    if strange:
        raise KdbenchError(
            f"{len(strange)} runs in {folder} were not taken: they are of another config or version of the code, or "
            f"damaged; the first is {strange[0]}"
        )


def write_files(stem: Path, files: dict[str, bytes]) -> list[Path]:
    """Suffix -> content, beside each other."""
    paths = [stem.with_name(stem.name + suffix) for suffix in files]
    for path, content in zip(paths, files.values(), strict=True):
        with atomic(path) as file:
            file.write(content)
    return paths


def _runs_of(folder: Path, name: str, pieces: dict[tuple[int, int], Path]) -> Iterator[tuple[str, dict[str, bytes]]]:
    """(name of its record, suffix -> content in the order of writing) of every run in an archive."""
    count = max(of for _, of in pieces)
    lacking = [f"{name}.zip-{i}-of-{count}" for i in range(1, count + 1) if (i, count) not in pieces]
    if lacking:
        raise KdbenchError(f"{folder / lacking[0]} is missing; take the folder from the repository anew")
    content = b"".join(pieces[i, count].read_bytes() for i in range(1, count + 1))
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            files = {entry: archive.read(entry) for entry in archive.namelist()}
    except Exception as error:  # zipfile and zlib fail on a damaged file in many ways
        raise KdbenchError(f"{folder / name}.zip-* is damaged ({error}); take it from the repository anew") from None
    for entry in (entry for entry in files if entry.endswith(RECORD)):
        stem = entry.removesuffix(RECORD)
        yield entry, {s: files[stem + s] for s in (PREDICTIONS, WEIGHTS, RECORD) if stem + s in files}


def _is_planned(run: Run, files: dict[str, bytes]) -> bool:
    """Whether the record has the run's key and threads, and the weights are those of the record."""
    try:
        record = json.loads(files[RECORD])
        same = record["key"] == run.key and record["hardware"]["threads"] == run.threads
        weights = record["hashes"].get("weights") if record["status"] == FINISHED else None
    except (ValueError, KeyError, TypeError, AttributeError):
        return False
    return same and (weights is None or hashlib.sha256(files.get(WEIGHTS, b"")).hexdigest() == weights)


def finish_jobs(plan: Plan, taken: set[Path]) -> None:
    """The manifests of jobs that are whole now, and what tuning chose, in the order in which Snakemake makes them."""
    today = Today(plan)
    for job in plan.jobs:
        if taken.isdisjoint(run.result for run in job.runs) or not all(counts(today, run) for run in job.runs):
            continue
        if job.kind == "tune":
            run_tune(plan)
            today = Today(plan)  # a tuned run counts only after the tuning
        else:
            write_manifest(job)
