"""Results that nobody trained, for what only reads them; and pictures that nobody took."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from conftest import tiny_plan
from PIL import Image

from kdbench.files import sha256_file
from kdbench.plan.jobs import Plan, Run
from kdbench.results.record import FINISHED, write_run

PAIRS = ("cnn-t -> vit-s", "cnn-t -> mlp-s", "cnn-t -> cnn-s")
METHODS = ("scratch", "kd", "dkd", "uhkd")


def fake_plan(**changes: Any) -> Plan:
    """The tiny suite with three pairs, three seeds and four methods, so that its tables have something to say."""
    return tiny_plan(**{"seeds": [0, 1, 2], "blocks": {"main": block()}} | changes)


def block(methods: tuple[str, ...] = METHODS, **changes: Any) -> dict[str, Any]:
    """The block of the fake suite, as YAML holds it."""
    return {"data": "digits", "pairs": list(PAIRS), "methods": list(methods), "layout": "methods"} | changes


def finish(run: Run, test: float, *, status: str = "finished", reason: str | None = None, **changes: Any) -> None:
    """Write a result that ended with this test accuracy; its validation accuracy is one point less."""
    weights = run.stem.with_suffix(".safetensors")
    weights.parent.mkdir(parents=True, exist_ok=True)
    weights.write_bytes(b"weights")
    digest = sha256_file(weights)
    record: dict[str, Any] = {
        "status": status,
        "reason": reason,
        "hashes": {"data": None, "teacher": digest if run.pair.teacher else None, "weights": digest},
        "versions": {"kdbench": "0", "torch": "made up"},
        "hardware": {"cpu": "a made-up processor", "threads": 1},
    }
    if status == FINISHED:
        history = [
            {"epoch": e, "step": 10 * e, "val_accuracy": test - 1 - 5 * (3 - e), "test_accuracy": test - 5 * (3 - e)}
            for e in (1, 2, 3)
        ]
        record |= {
            "accuracy": {"val": test - 1, "test": test, "best_test": test + 1, "best_test_epoch": 2},
            "nll": {"val": 0.5, "test": 0.5},
            "agreement": {"val": 90.0, "test": 90.0},
            "cost": {"seconds": 3.0, "cohort_seconds": 12.0, "peak_memory_mb": 100.0, "extra_parameters": 0}
            | {"student_parameters": 1000},
            "history": history,
            "notes": [],
        }
    write_run(run, record | changes)


def finish_all(plan: Plan) -> dict[tuple[str, str, int], float]:
    """Results for every run, and what they are: teachers 97, students 58 to 84, none alike and none in order."""
    for job in plan.of("teacher"):
        for run in job.runs:
            finish(run, 97.0 + run.seed / 10)
    gains, pairs, given = (0, 8, 4, 12), [], {}
    for pair, method, seed in plan.runs():
        pairs = list(dict.fromkeys([*pairs, pair]))
        rank = [m.id for m in plan.suite.blocks[0].methods].index(method)
        given[pair, method, seed] = 70.0 + gains[rank] * (-1) ** pairs.index(pair) + seed * (1 + 0.1 * rank)
    for key, test in given.items():
        finish(plan.runs()[key], test)
    return given


def write_jpegs(folder: Path, train: int = 24, test: int = 8, classes: str = "ab", seed: int = 0) -> None:
    """Small JPEGs of several sizes: FOLDER/train/CLASS/N.jpg, and FOLDER/test as many as said of each class."""
    rng = np.random.default_rng(seed)
    for split, count in (("train", train), ("test", test)):
        for label in classes:
            place = folder / split / label
            place.mkdir(parents=True)
            for i in range(count):
                coarse = Image.fromarray(rng.integers(0, 256, (5, 6, 3), dtype=np.uint8))
                sides = rng.integers(20, 48, 2).tolist()
                coarse.resize(sides, Image.Resampling.BICUBIC).save(place / f"{i}.jpg", quality=90)
