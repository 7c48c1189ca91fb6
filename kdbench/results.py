"""One run -> one JSON; all runs of a block -> one DataFrame.

A result counts only under the key that the plan gives it today (config and code), with the data and the teacher that
lie there today. Anything else is told as missing, with the reason.
"""

from __future__ import annotations

import datetime
import functools
import math
import os
import platform
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdbench import checkpoint
from kdbench.data import packed
from kdbench.plan import Plan, Run, data_folder, owner_of
from kdbench.registry import PACKAGE
from kdbench.suite import typed, typed_file
from kdbench.types import Block, KdbenchError, MethodSpec, Pair

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from torch import Tensor

SCHEMA = 1
FINISHED, DIVERGED, UNSUPPORTED, MISSING = "finished", "diverged", "n/a", "missing"


def _is_number(value: Any) -> bool:
    return not isinstance(value, bool) and isinstance(value, int | float) and -1e300 < value < 1e300


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _are_numbers(value: Any) -> bool:
    return isinstance(value, dict) and all(v is None or _is_number(v) for v in value.values())


def _is_epoch(value: Any) -> bool:
    named = ("epoch", "step", "val_accuracy", "test_accuracy")
    return isinstance(value, dict) and all(n in value and (value[n] is None or _is_number(value[n])) for n in named)


_FORM: dict[str, Callable[[Any], bool]] = {
    "schema": lambda v: v == SCHEMA and _is_number(v),
    "key": _is_text,
    "status": lambda v: v in (FINISHED, DIVERGED, UNSUPPORTED),
    "pair": _is_text,
    "method": _is_text,
    "seed": _is_number,
    "hashes": lambda v: isinstance(v, dict) and all(h is None or _is_text(h) for h in v.values()),
    "versions": lambda v: isinstance(v, dict),
    "hardware": lambda v: isinstance(v, dict) and _is_text(v.get("gpu") or v.get("cpu")) and "threads" in v,
    "finished_at": _is_text,
}
"""What every result holds."""
_MAY_HOLD: dict[str, Callable[[Any], bool]] = {
    "reason": lambda v: v is None or _is_text(v),
    "accuracy": lambda v: v is None or _are_numbers(v),
    "nll": lambda v: v is None or _are_numbers(v),
    "agreement": lambda v: v is None or _are_numbers(v),
    "cost": _are_numbers,
    "notes": lambda v: isinstance(v, list) and all(map(_is_text, v)),
    "history": lambda v: isinstance(v, list) and all(map(_is_epoch, v)),
}
"""What it may hold besides."""


def write_run(run: Run, record: Mapping[str, Any]) -> None:
    """The JSON of a run, written last: it is what makes the run count."""
    head = {
        "schema": SCHEMA,
        "pair": run.pair.id,
        "teacher": run.pair.teacher,
        "student": run.pair.student,
        "method": run.method.id,
        "label": run.method.label,
        "seed": run.seed,
        "key": run.key,
    }
    if run.tuned:
        head["tuned"] = run.tuned
    tail = {"config": run.config, "finished_at": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")}
    checkpoint.write_json(run.result, _finite({**head, **record, **tail}))


def read_run(path: Path) -> dict[str, Any]:
    """Raises KdbenchError when the file is missing, damaged or no result of kdbench."""
    try:
        record = checkpoint.read_json(path)
    except KdbenchError as error:
        raise KdbenchError(str(error).replace(checkpoint.AGAIN, again(path))) from None
    if fault := _fault(record):
        raise KdbenchError(f"{path} is not a result of this version of kdbench ({fault}); {again(path)}")
    return record


def again(path: Path) -> str:
    """How to train a run anew whose result is damaged. Snakemake sees no runs, so it would say: nothing to be done."""
    if path.parts[-3] == "teachers":
        name, verb, what = path.parts[-4], "teacher", path.parts[-2]
    else:
        name, verb, what = path.parts[-5], "distill", path.parts[-3]
    return f"delete {path} and run: kdbench {verb} {typed_file(name, owner_of(name))} {what}"


def _fault(record: dict[str, Any]) -> str | None:
    """What keeps a record from being a result, so that its readers need not ask."""
    for name, fits in _FORM.items():
        if name not in record or not fits(record[name]):
            return f"{name}: {str(record.get(name, 'absent'))[:40]}"
    for name, fits in _MAY_HOLD.items():
        if name in record and not fits(record[name]):
            return f"{name}: {str(record[name])[:40]}"
    accuracy = record.get("accuracy") or {}
    if record["status"] == FINISHED and not all(_is_number(accuracy.get(split)) for split in ("val", "test")):
        return "finished without an accuracy"
    return None


def load_weights(run: Run) -> dict[str, Tensor]:
    """Trained weights. Raises KdbenchError for a file that is no safetensors; such a file runs nothing."""
    from safetensors.torch import load_file

    path = run.stem.with_suffix(".safetensors")
    try:
        return load_file(path)
    except Exception as error:  # safetensors and torch refuse in several ways
        raise KdbenchError(f"{path} holds no weights ({error}); {again(run.result)}") from None


def measured(records: Sequence[Mapping[str, Any]]) -> dict[str, float | None]:
    """What the runs of a job took together; None where it is not known.

    "seconds": of all its cohorts, one a seed; "memory_mb": the largest resident memory, of jobs on a CPU.
    """
    seconds: dict[int, float] = {}
    memory = []
    for record in records:
        cost = record.get("cost", {})
        seconds[record["seed"]] = max(seconds.get(record["seed"], 0.0), cost.get("cohort_seconds") or 0.0)
        if record.get("hardware", {}).get("device") == "cpu" and cost.get("peak_memory_mb"):
            memory.append(cost["peak_memory_mb"])
    return {"seconds": sum(seconds.values()) or None, "memory_mb": max(memory, default=None)}


def current(run: Run) -> dict[str, Any] | None:
    """The run's record if it is whole and of today's key; None otherwise, for readers that take what there is."""
    try:
        record = read_run(run.result)
    except KdbenchError:
        return None
    return record if of_today(run, record) else None


def of_today(run: Run, record: Mapping[str, Any]) -> bool:
    """Whether a record comes from the run's config and code, with as many threads."""
    return record["key"] == run.key and record["hardware"]["threads"] == run.threads


def finished(
    run: Run, data_sha256: str, teacher_sha256: str | None, tuned: dict[str, Any] | None = None
) -> dict[str, Any] | None:
    """The run's record if it counts with this data, this teacher and these tuned weights; None if it must be trained.

    Raises KdbenchError for a damaged file, which is never trained over in silence.
    """
    if not run.result.exists():
        return None
    record = read_run(run.result)
    known = of_today(run, record) and record["hashes"].get("data") == data_sha256
    if not known or record["hashes"].get("teacher") != teacher_sha256 or record.get("tuned") != tuned:
        return None
    if record["status"] == FINISHED:
        weights = run.stem.with_suffix(".safetensors")
        if not weights.exists() or checkpoint.sha256_file(weights) != record["hashes"].get("weights"):
            return None
    return record


def teacher_record(plan: Plan, model: str, seed: int) -> dict[str, Any]:
    """Record of a trained teacher whose weights are there and whole. Raises KdbenchError when they are not."""
    run = plan.teacher(model, seed)
    command = f"run: kdbench teacher {typed(plan.suite)} {model}"
    if not run.result.exists():
        raise KdbenchError(f"teacher {model} of seed {seed} is not trained yet; {command}")
    record = read_run(run.result)
    if not of_today(run, record):
        raise KdbenchError(f"teacher {model} of seed {seed} was trained under another config or code; {command}")
    if record["status"] != FINISHED:
        raise KdbenchError(f"teacher {model} of seed {seed}: {record['status']} ({record.get('reason')})")
    weights = run.stem.with_suffix(".safetensors")
    if not weights.exists() or checkpoint.sha256_file(weights) != record["hashes"].get("weights"):
        raise KdbenchError(f"{weights} is missing or damaged; {again(run.result)}")
    return record


def collect(plan: Plan, block: Block, methods: Sequence[MethodSpec] | None = None) -> pd.DataFrame:
    """One row per (pair, method, seed) that the block plans, whether there is a result or not.

    Columns: pair, teacher, student, method, seed, status, reason, val, test, best_test (percent), best_test_epoch,
    epochs, val_nll, test_nll, agreement (percent), teacher_val, teacher_test, seconds, peak_memory_mb,
    extra_parameters, student_parameters, notes, label, key, finished_at, hardware, versions ({package: version}). A
    method without a teacher stands under every pair of its student.

    methods: in place of the block's rows.
    """
    import pandas as pd

    from kdbench.tune import Tuned

    data, tuned = _data_sha256(plan, block), Tuned(plan)
    teachers = {(p.teacher, seed): _teacher_or_none(plan, p.teacher, seed) for p in block.pairs for seed in block.seeds}
    rows = []
    for pair in block.pairs:
        for method in methods or block.methods:
            for seed in block.seeds:
                teacher = teachers[pair.teacher, seed]
                run = plan.run_of(pair, method, seed)
                rows.append(_row(pair, run, teacher, _record_or_reason(run, data, teacher, tuned.of(run))))
    return pd.DataFrame(rows)


def _row(pair: Pair, run: Run, teacher: dict | None, record: dict | str) -> dict[str, Any]:
    row: dict[str, Any] = {"pair": pair.id, "teacher": pair.teacher, "student": pair.student}
    row |= {"method": run.method.id, "label": run.method.label, "seed": run.seed, "key": run.key}
    if teacher:
        row |= {"teacher_val": teacher["accuracy"]["val"], "teacher_test": teacher["accuracy"]["test"]}
    if isinstance(record, str):
        return row | {"status": MISSING, "reason": record, "notes": [], "versions": None}
    row |= {"status": record["status"], "reason": record.get("reason"), "notes": record.get("notes", [])}
    accuracy, cost, nll = (record.get(k) or {} for k in ("accuracy", "cost", "nll"))
    row |= {k: accuracy.get(k) for k in ("val", "test", "best_test", "best_test_epoch")}
    row |= {"val_nll": nll.get("val"), "test_nll": nll.get("test")}
    row |= {k: cost.get(k) for k in ("seconds", "peak_memory_mb", "extra_parameters", "student_parameters")}
    row["epochs"] = len(record.get("history", []))
    row["agreement"] = (record.get("agreement") or {}).get("test")
    row |= {"finished_at": record.get("finished_at"), "hardware": hardware_line(record["hardware"])}
    row["versions"] = record["versions"]
    return row


def correct_images(plan: Plan, block: Block, frame: pd.DataFrame) -> dict[tuple[str, str], np.ndarray]:
    """(pair, method) -> which test images the run of the block's only seed gets right, bool (N,), where it finished.

    frame: of `collect`.
    """
    done = set(frame.loc[frame["status"] == FINISHED, ["pair", "method"]].itertuples(index=False, name=None))
    labels = packed.load(data_folder(plan.suite, block.data)).labels("test")
    found = {}
    for pair in block.pairs:
        for method in block.methods:
            run = plan.run_of(pair, method, block.seeds[0])
            if (pair.id, method.id) in done:
                found[pair.id, method.id] = _predicted(run, len(labels)) == labels
    return found


def _predicted(run: Run, count: int) -> np.ndarray:
    """The class a run gives each of the `count` test images, int64 (N,)."""
    import numpy as np

    path = run.stem.with_suffix(".npz")
    try:
        with np.load(path, allow_pickle=False) as predictions:
            logits = predictions["test_logits"]
        if logits.ndim != 2 or len(logits) != count or logits.dtype.kind != "f":
            raise ValueError(f"test_logits is {logits.dtype} {logits.shape}, and there are {count} test images")
    except Exception as error:  # numpy and zipfile fail on a damaged file in many ways
        raise KdbenchError(f"{path} is missing or damaged ({error}); {again(run.result)}") from None
    return logits.argmax(axis=1)


def all_runs(plan: Plan) -> pd.DataFrame:
    """One row per planned run of every block, readings of reconstructed methods among them: the columns of `collect`
    without notes and versions, after `block`."""
    import pandas as pd

    frames = {block.name: collect(plan, block, block.trained) for block in plan.suite.blocks}
    return pd.concat(frames, names=["block", None]).reset_index("block").drop(columns=["notes", "versions"])


def _record_or_reason(run: Run, data: str | None, teacher: dict | None, tuned: dict | None) -> dict | str:
    if not run.result.exists():
        return "not trained yet"
    try:
        record = read_run(run.result)
    except KdbenchError as error:
        return str(error)
    if not of_today(run, record):
        if "code_sha256" in record.get("config", {}):
            return "its result was trained before keys went by version (kdbench 0.1, November 2026)"
        return "its result comes from another config or version of the code"
    if record["hashes"].get("data") != data:
        return "its result comes from other data"
    if run.pair.teacher and (teacher is None or record["hashes"].get("teacher") != teacher["hashes"]["weights"]):
        return "its result comes from another teacher"
    if record.get("tuned") != tuned:
        return "its weight is not the one that tuning chose"
    return record


def _teacher_or_none(plan: Plan, model: str, seed: int) -> dict | None:
    try:
        return teacher_record(plan, model, seed)
    except KdbenchError:
        return None


def _data_sha256(plan: Plan, block: Block) -> str | None:
    meta = data_folder(plan.suite, block.data) / "meta.json"
    if not meta.exists():
        return None
    return checkpoint.read_json(meta, "sha256")["sha256"]


def histories(plan: Plan, block: Block) -> pd.DataFrame:
    """Learning curves of a block's runs: columns pair, method, seed, epoch, step, val_accuracy, test_accuracy."""
    import pandas as pd

    rows = []
    for pair in block.pairs:
        for method in block.methods:
            for seed in block.seeds:
                run = plan.run_of(pair, method, seed)
                rows += [
                    {"pair": pair.id, "method": method.id, "seed": seed}
                    | {k: h[k] for k in ("epoch", "step", "val_accuracy", "test_accuracy")}
                    for h in (current(run) or {}).get("history", [])
                ]
    return pd.DataFrame(rows, columns=["pair", "method", "seed", "epoch", "step", "val_accuracy", "test_accuracy"])


# ---------------------------------------------------------------------------------------------------------- provenance


@functools.cache
def versions() -> dict[str, str]:
    """Versions of what the numbers depend on, and the commit of the source tree where there is one."""
    import importlib.metadata as metadata

    import kdbench

    found = {name: metadata.version(name) for name in ("torch", "torchvision", "timm", "numpy")}
    return {"kdbench": kdbench.__version__, "commit": _commit(), "python": platform.python_version(), **found}


def _commit() -> str:
    try:
        git = ["git", "-C", str(PACKAGE), "describe", "--always", "--dirty", "--abbrev=12"]
        return subprocess.run(git, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return "unknown"


def hardware(device: Any, threads: int) -> dict[str, Any]:
    """What a run computed on."""
    import torch

    facts: dict[str, Any] = {"device": str(device), "threads": threads, "cpu": _cpu_name(), "cores": os.cpu_count()}
    if device.type == "cuda":
        facts |= {"gpu": torch.cuda.get_device_name(device), "cuda": torch.version.cuda}
    return facts


def hardware_line(facts: Mapping[str, Any]) -> str:
    """What a table says of the hardware of a run."""
    return f"{facts.get('gpu') or facts['cpu']}, {facts['threads']} thread(s) a job"


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def _finite(value: Any) -> Any:
    """The same value with NaN and infinities as None, which is what JSON can say."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {k: _finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    return value
