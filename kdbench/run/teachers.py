"""Trained teachers as files for a repository, three for each: MODEL-seedN.safetensors, its record MODEL-seedN.json and,
of its predictions, MODEL-seedN.npz (what of them: kdbench/run/carry.py)."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kdbench.data.packed import load_packed
from kdbench.errors import unknown
from kdbench.files import AGAIN, read_json
from kdbench.plan.jobs import Plan, Run
from kdbench.plan.paths import data_folder, reference_folder
from kdbench.plan.suite import typed
from kdbench.results.record import FINISHED, fault
from kdbench.results.today import Today, check_gate
from kdbench.run.carry import LIMIT, PREDICTIONS, RECORD, WEIGHTS, files_of, finish_jobs, write_files
from kdbench.run.data import run_data
from kdbench.run.progress import say
from kdbench.run.training import counts
from kdbench.train import networks
from kdbench.types import KdbenchError, Suite


def teachers_folder(suite: Suite) -> Path:
    """Where a repository holds them."""
    return reference_folder(suite) / "teachers"


def export_teachers(plan: Plan, folder: Path, seeds: Sequence[int] | None = None) -> list[Path]:
    """Write the files of all teachers that count today, or of these seeds.

    Raises KdbenchError where there is none, and in the end for those of more than LIMIT bytes, which a repository is
    not made for and which are not written.
    """
    today, written, large = Today(plan), [], []
    planned = planned_teachers(plan)
    for seed in seeds or ():
        if seed not in (known := {run.seed for run in planned.values()}):
            raise unknown("seed", seed, known, f"suite {plan.suite.name}")
    for name, run in planned.items():
        if (seeds is None or run.seed in seeds) and counts(today, run) and today.record(run)["status"] == FINISHED:
            files = files_of(run, len(load_packed(data_folder(plan.suite, run.data, run.seed)).labels("test")))
            if len(files[WEIGHTS]) > LIMIT:
                large.append(f"{name} ({len(files[WEIGHTS]) / 1e6:.1f} MB)")
            else:
                written += write_files(folder / name, files)
    if large:
        raise KdbenchError(
            f"not written, since a file of a repository should stay below {LIMIT / 1e6:g} MB: {', '.join(large)}; "
            f"cut into pieces: kdbench export {typed(plan.suite)} FOLDER"
        )
    if not written:
        raise KdbenchError(
            f"no teacher of {plan.suite.name} is trained; run: kdbench teacher {typed(plan.suite)} MODEL"
        )
    return written


def planned_teachers(plan: Plan) -> dict[str, Run]:
    """Name of its files -> run of every teacher."""
    return {f"{run.pair.student}-seed{run.seed}": run for job in plan.of("teacher") for run in job.runs}


def import_teachers(plan: Plan, folder: Path) -> None:
    """Take the teachers in a folder: they are then as if trained here. What is there already stays as it is.

    Raises KdbenchError where there are none, and in the end with a sentence for each that was not taken.
    """
    planned, records = planned_teachers(plan), sorted(folder.glob(f"*{RECORD}"))
    if not records:
        raise KdbenchError(
            f"{folder} holds no teachers; write them: kdbench teachers export {typed(plan.suite)} {folder}"
        )
    _pack_data(plan, [planned[path.stem] for path in records if path.stem in planned])
    today, taken, there, refused = Today(plan), set(), 0, []
    for path in records:
        try:
            if path.stem not in planned:
                raise unknown("teacher", path.stem, planned, f"suite {plan.suite.name}")
            run = planned[path.stem]
            files = _checked(today, run, path)
            if not run.result.exists():
                write_files(run.stem, files)
                taken.add(run.result)
            elif counts(today, run):
                there += 1
            else:
                raise KdbenchError(
                    f"{run.result} is there, does not count today, and is not written over; delete it first"
                )
        except KdbenchError as error:
            refused.append(f"{path.stem}: {error}")
    finish_jobs(plan, taken)
    say(f"{len(taken)} teachers taken from {folder}, {there} were there already")
    if refused:
        raise KdbenchError("\n".join([f"{len(refused)} teachers in {folder} were not taken", *refused]))


def _pack_data(plan: Plan, runs: list[Run]) -> None:
    """A result counts only beside its data."""
    needed = {data_folder(plan.suite, run.data, run.seed) for run in runs}
    for job in plan.of("data"):
        if job.output.parent in needed:
            run_data(plan, job)


def _checked(today: Today, run: Run, path: Path) -> dict[str, bytes]:
    """The files of a teacher by suffix, in the order of writing. path: of its record.

    Raises KdbenchError where they are not what this run would leave here.
    """
    from safetensors.torch import load

    try:
        record = read_json(path)
        files = {suffix: path.with_suffix(suffix).read_bytes() for suffix in (PREDICTIONS, WEIGHTS, RECORD)}
    except OSError as error:
        raise KdbenchError(f"{error.filename} cannot be read: {error.strerror}") from None
    except KdbenchError as error:
        raise KdbenchError(str(error).replace(AGAIN, "take it anew from where it came from")) from None
    if found := fault(record):
        raise KdbenchError(f"its record is no result of this version of kdbench ({found})")
    if record["key"] != run.key:
        raise KdbenchError(_other(record.get("config"), run.config))
    if record["hardware"]["threads"] != run.threads:
        raise KdbenchError(
            f"it was trained with {record['hardware']['threads']} threads, and this suite has {run.threads}"
        )
    try:
        weights = load(files[WEIGHTS])
    except Exception as error:  # safetensors refuses in several ways
        raise KdbenchError(f"its weights are no safetensors ({error}); nothing in them was run") from None
    if (digest := hashlib.sha256(files[WEIGHTS]).hexdigest()) != record["hashes"].get("weights"):
        raise KdbenchError(f"its weights have the sha256 {digest}, its record {record['hashes'].get('weights')}")
    if record["hashes"].get("data") != today.data(run.data, run.seed):
        raise KdbenchError(f"it was trained on other data than {run.data} gives here")
    suite = today.plan.suite
    spec, meta = suite.models[run.pair.student], load_packed(data_folder(suite, run.data, run.seed)).meta
    networks.reader(
        spec, tuple(meta["modalities"][spec.input]["shape"]), len(meta["class_names"]), run.seed, weights=weights
    )
    check_gate(spec, record)
    return files


def _other(theirs: Any, ours: dict[str, Any]) -> str:
    """Why a record of this config has another key than a run of ours."""
    theirs = theirs if isinstance(theirs, dict) else {}
    editions = [config.get("edition", 1) for config in (theirs, ours)]
    if editions[0] != editions[1]:
        return f"it is of edition {editions[0]} of the suite, and here is edition {editions[1]}"
    places = [
        f"{section}.{key}" if key else section
        for section, values in ours.items()
        for key, value in (values.items() if isinstance(values, dict) else [("", values)])
        if (theirs.get(section, {}).get(key) if key else theirs.get(section)) != value
    ]
    code = [place.removeprefix("versions.") for place in places if place.startswith("versions.")]
    if code:
        return f"it was trained by another version of the code ({', '.join(code)})"
    return f"it is of another config ({', '.join(places) or 'its key'})"
