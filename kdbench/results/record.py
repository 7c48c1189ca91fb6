"""One run -> one JSON, and the weights beside it."""

from __future__ import annotations

import datetime
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdbench.files import AGAIN, read_json, write_json
from kdbench.plan.jobs import Run
from kdbench.plan.paths import owner_of
from kdbench.plan.suite import typed_file
from kdbench.types import KdbenchError

if TYPE_CHECKING:
    from torch import Tensor
SCHEMA = 1
FINISHED, DIVERGED, UNSUPPORTED, MISSING = "finished", "diverged", "n/a", "missing"


def _is_number(value: Any) -> bool:
    # A suite holds hundreds of thousands, of JSON's own types: isinstance of a union would take most of the reading.
    return type(value) in (int, float) and -1e300 < value < 1e300


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _are_numbers(value: Any) -> bool:
    return isinstance(value, dict) and all(v is None or _is_number(v) for v in value.values())


def _is_epoch(value: Any) -> bool:
    if not isinstance(value, dict):
        return False
    for name in ("epoch", "step", "val_accuracy", "test_accuracy"):
        number = value.get(name, "")
        if number is not None and not _is_number(number):
            return False
    return True


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
    "gradient_shares": _are_numbers,
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
    if run.budget != 1:
        head["budget"] = run.budget
    if run.tuned:
        head["tuned"] = run.tuned
    tail = {"config": run.config, "finished_at": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")}
    write_json(run.result, _finite({**head, **record, **tail}))


def read_run(path: Path) -> dict[str, Any]:
    """Raises KdbenchError when the file is missing, damaged or no result of kdbench."""
    try:
        record = read_json(path)
    except KdbenchError as error:
        raise KdbenchError(str(error).replace(AGAIN, retrain_command(path))) from None
    if found := fault(record):
        raise KdbenchError(f"{path} is not a result of this version of kdbench ({found}); {retrain_command(path)}")
    return record


def retrain_command(path: Path) -> str:
    """How to train a run anew whose result is damaged. Snakemake sees no runs, so it would say: nothing to be done."""
    if path.parts[-3] == "teachers":
        name, verb, what = path.parts[-4], "teacher", path.parts[-2]
    else:
        name, verb, what = path.parts[-5], "distill", path.parts[-3]
    return f"delete {path} and run: kdbench {verb} {typed_file(name, owner_of(name))} {what}"


def fault(record: dict[str, Any]) -> str | None:
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
        raise KdbenchError(f"{path} holds no weights ({error}); {retrain_command(run.result)}") from None


def measured_cost(records: Sequence[Mapping[str, Any]]) -> dict[str, float | None]:
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


def _finite(value: Any) -> Any:
    """The same value with NaN and infinities as None, which is what JSON can say."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {k: _finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    return value
