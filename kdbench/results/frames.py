"""All runs of a block -> one DataFrame."""

from __future__ import annotations

import contextlib
import itertools
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

from kdbench.data.packed import Packed, load_packed
from kdbench.plan.jobs import Run
from kdbench.plan.paths import data_folder
from kdbench.results.provenance import hardware_line
from kdbench.results.record import FINISHED, MISSING, retrain_command
from kdbench.results.today import Today
from kdbench.types import Block, KdbenchError, MethodSpec, Pair, Suite

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd


def collect(today: Today, block: Block, methods: Sequence[MethodSpec] | None = None) -> pd.DataFrame:
    """One row per (pair, method, seed) that the block plans at the budget it shows, whether there is a result or not.

    Columns: pair, teacher, student, method, seed, budget, status, reason, val, test, best_test (percent),
    best_test_epoch, best_test_of_heads, epochs, val_nll, test_nll, agreement (percent), teacher_val, teacher_test,
    seconds, peak_memory_mb, extra_parameters, student_parameters, operations_per_step (student and method),
    teacher_operations_per_step, steps, gradient_shares ({term: share}), notes, label, key, finished_at, hardware,
    versions ({package: version}). A method without a teacher stands under every pair of its student.

    methods: in place of the block's rows.
    """
    import pandas as pd

    rows = []
    for pair in block.pairs:
        for method in methods or block.methods:
            for seed in block.seeds:
                rows.append(_row(today, pair, today.plan.run_of(pair, method, seed, block.budget)))
    return pd.DataFrame(rows)


def _row(today: Today, pair: Pair, run: Run) -> dict[str, Any]:
    row: dict[str, Any] = {"pair": pair.id, "teacher": pair.teacher, "student": pair.student}
    row |= {"method": run.method.id, "label": run.method.label, "seed": run.seed, "budget": run.budget, "key": run.key}
    with contextlib.suppress(KdbenchError):
        teacher = today.teacher(pair.teacher, run.seed)["accuracy"]
        row |= {"teacher_val": teacher["val"], "teacher_test": teacher["test"]}
    try:
        record = today.record(run)
    except KdbenchError as reason:
        return row | {"status": MISSING, "reason": str(reason), "notes": [], "versions": None}
    row |= {"status": record["status"], "reason": record.get("reason"), "notes": record.get("notes", [])}
    accuracy, cost, nll = (record.get(k) or {} for k in ("accuracy", "cost", "nll"))
    row |= {k: accuracy.get(k) for k in ("val", "test", "best_test", "best_test_epoch", "best_test_of_heads")}
    row |= {"val_nll": nll.get("val"), "test_nll": nll.get("test")}
    row |= {k: cost.get(k) for k in ("seconds", "peak_memory_mb", "extra_parameters", "student_parameters")}
    row |= {k: cost.get(k) for k in ("operations_per_step", "teacher_operations_per_step")}
    history = record.get("history", [])
    row |= {"epochs": len(history), "steps": history[-1]["step"] if history else None}
    row["gradient_shares"] = record.get("gradient_shares")
    row["agreement"] = (record.get("agreement") or {}).get("test")
    row |= {"finished_at": record.get("finished_at"), "hardware": hardware_line(record["hardware"])}
    row["versions"] = record["versions"]
    return row


def correct_images(today: Today, block: Block, frame: pd.DataFrame) -> dict[tuple[str, str], np.ndarray]:
    """(pair, method) -> which test images the run of the block's only seed gets right, bool (N,), where it finished.

    frame: of `collect`.
    """
    done = set(frame.loc[frame["status"] == FINISHED, ["pair", "method"]].itertuples(index=False, name=None))
    labels = load_packed(data_folder(today.plan.suite, block.data, block.seeds[0])).labels("test")
    found = {}
    for pair in block.pairs:
        for method in block.methods:
            run = today.plan.run_of(pair, method, block.seeds[0], block.budget)
            if (pair.id, method.id) in done:
                found[pair.id, method.id] = predictions(run, len(labels)).classes == labels
    return found


class Predictions(NamedTuple):
    """What a network says of each test sample."""

    classes: np.ndarray
    """int (N,), of the largest logit."""
    confidence: np.ndarray
    """float (N,), softmax probability of that class."""


def packs_of(suite: Suite, data: str, seeds: Iterable[int]) -> dict[int, Packed]:
    """The packed data of each seed, opened once where seeds share them."""
    folders = {seed: data_folder(suite, data, seed) for seed in seeds}
    packs = {folder: load_packed(folder) for folder in dict.fromkeys(folders.values())}
    return {seed: packs[folder] for seed, folder in folders.items()}


def test_predictions(
    today: Today, block: Block, frame: pd.DataFrame
) -> Iterator[tuple[tuple, Predictions, Predictions]]:
    """((pair, method, seed), the student's predictions, the teacher's) of every run of a block that finished. Read from
    the files beside each run, so results of any age have them.

    frame: of `collect`. Raises KdbenchError for predictions that are missing or damaged.
    """
    done = set(frame.loc[frame["status"] == FINISHED, ["pair", "method", "seed"]].itertuples(index=False, name=None))
    counts = {seed: len(p.labels("test")) for seed, p in packs_of(today.plan.suite, block.data, block.seeds).items()}
    for seed, pair in itertools.product(block.seeds, block.pairs):
        count = counts[seed]
        if methods := [m for m in block.methods if (pair.id, m.id, seed) in done]:
            teacher = predictions(today.plan.teacher(pair.teacher, seed), count)
            for method in methods:
                student = predictions(today.plan.run_of(pair, method, seed, block.budget), count)
                yield (pair.id, method.id, seed), student, teacher


def predictions(run: Run, count: int) -> Predictions:
    """What a run says of each of the `count` test samples. Raises KdbenchError for a missing or damaged file."""
    import numpy as np

    path = run.stem.with_suffix(".npz")
    try:
        with np.load(path, allow_pickle=False) as stored:
            if "test_classes" in stored:  # of a run that kdbench/run/carry.py brought here
                shown = Predictions(stored["test_classes"].astype(int), stored["test_confidence"].astype(float))
            else:
                logits = stored["test_logits"]
                if logits.ndim != 2 or logits.dtype.kind != "f":
                    raise ValueError(f"test_logits is {logits.dtype} {logits.shape}")
                shown = top(logits)
        if not count == len(shown.classes) == len(shown.confidence):
            raise ValueError(f"it holds {len(shown.classes)} samples, and there are {count} test images")
    except Exception as error:  # numpy and zipfile fail on a damaged file in many ways
        raise KdbenchError(f"{path} is missing or damaged ({error}); {retrain_command(run.result)}") from None
    return shown


def top(logits: np.ndarray) -> Predictions:
    """The class and the confidence of each row of logits (N, classes)."""
    from scipy import special

    return Predictions(logits.argmax(axis=1), special.softmax(logits.astype(float), axis=1).max(axis=1))


def all_runs(today: Today) -> pd.DataFrame:
    """One row per planned run of every block, readings of reconstructed methods and all budgets among them: the columns
    of `collect` without versions, after `edition` (the suite's) and `block`; gradient_shares and notes, where a run has
    any, as JSON."""
    import pandas as pd

    frames = {
        (block.name, budget): collect(today, replace(block, budget=budget), methods)
        for block in today.plan.suite.blocks
        for budget, methods in block.lengths.items()
    }
    runs = pd.concat(frames, names=["block", None, None]).reset_index("block").drop(columns="versions")
    runs.insert(0, "edition", today.plan.suite.edition)
    shares = as_json(runs.get("gradient_shares", [None] * len(runs)))
    return runs.assign(gradient_shares=shares, notes=[json.dumps(notes) if notes else None for notes in runs["notes"]])


def as_json(values: Iterable[Any]) -> list[str | None]:
    """The dicts among some values as JSON, None for the others."""
    return [json.dumps(value) if isinstance(value, dict) else None for value in values]


def histories(today: Today, block: Block) -> pd.DataFrame:
    """Learning curves of a block's runs: columns pair, method, seed, epoch, step, val_accuracy, test_accuracy."""
    import pandas as pd

    rows = []
    for pair in block.pairs:
        for method in block.methods:
            for seed in block.seeds:
                run = today.plan.run_of(pair, method, seed, block.budget)
                rows += [
                    {"pair": pair.id, "method": method.id, "seed": seed}
                    | {k: h[k] for k in ("epoch", "step", "val_accuracy", "test_accuracy")}
                    for h in (today.has(run) or {}).get("history", [])
                ]
    return pd.DataFrame(rows, columns=["pair", "method", "seed", "epoch", "step", "val_accuracy", "test_accuracy"])
