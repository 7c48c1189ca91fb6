"""Every pair of OFA-KD's tables with every method: two steps of the engine at 224 px, on noise."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path

import numpy as np
import pytest
import torch
from test_ofa_networks import STAGES
from test_ofa_suites import METHODS, PAIRS

from kdbench.data.packed import SPLITS
from kdbench.plan.jobs import Plan, make_plan
from kdbench.plan.suite import load_suite
from kdbench.train import engine
from kdbench.train.batches import Batches
from kdbench.train.cohort import Cohort, load_teacher
from kdbench.types import Pair

CPU = torch.device("cpu")
CLASSES = {"ofa-cifar100": 100, "ofa-imagenet": 1000}
SUITES = {f"{name}-{'-'.join(pair.split())}": (name, pair) for name in PAIRS for pair in PAIRS[name].split(",")}
ALIASES = {"resnet18": "r18", "resnet50": "r50", "mobilenetv2": "mbv2", "deit-t-timm": "deit-t-t"}
"""Models whose stages test_ofa_networks lists under a shorter name."""
plan_of = functools.cache(lambda name: make_plan(load_suite(name)))


class Noise:
    """As much of a packed data set as Batches reads: pictures of 224 px, two batches to train on."""

    def __init__(self, classes: int, batch_size: int) -> None:
        counts = dict(zip(SPLITS, (2 * batch_size, 1, 2), strict=True))
        rng = np.random.default_rng(0)
        self.arrays = {s: rng.integers(0, 256, (n, 224, 224, 3), dtype=np.uint8) for s, n in counts.items()}
        facts = {"kind": "image", "shape": [224, 224, 3], "mean": [0.5] * 3, "std": [0.29] * 3}
        self.meta = {"class_names": [str(i) for i in range(classes)], "modalities": {"image": facts}}

    def array(self, modality: str, split: str) -> np.ndarray:
        return self.arrays[split]

    def labels(self, split: str) -> np.ndarray:
        return np.arange(len(self.arrays[split]))


def two_steps(plan: Plan, pair: Pair, methods: list[str], batch_size: int, folder: Path) -> list[engine.Outcome]:
    """How the methods of a pair end, with the suite's recipe cut to two steps; teachers have random weights."""
    suite, classes = plan.suite, CLASSES[plan.suite.name]
    batches = Batches(Noise(classes, batch_size), {"image"}, CPU)
    teacher, student = load_teacher(suite.models[pair.teacher], None, batches, CPU, 0), suite.models[pair.student]
    short = {"steps": 2, "epochs": None, "warmup_epochs": None, "warmup_lr": 0.0}
    recipe = dataclasses.replace(suite.recipes[student.recipe], batch_size=batch_size, accumulate=1, **short)
    cohort = Cohort(student, recipe, batches, CPU, 0, teacher)
    runs = [run for (_, method, seed), run in plan.runs().items() if seed == 0 and method in methods]
    runs = [run for run in runs if run.pair in (pair, Pair(None, pair.student))]
    outcomes: list[engine.Outcome] = []
    engine.train_cohort(cohort, runs, folder / "checkpoint", outcomes.append, lambda *_, **__: None)
    assert [list(stage) for stage in teacher.reader.side.stages] == stages(pair.teacher)
    return outcomes


def stages(model: str) -> list[list[int]]:
    return [list(stage) for stage in STAGES[ALIASES.get(model, model)]]


def check(outcomes: list[engine.Outcome], methods: list[str], classes: int) -> None:
    assert sorted(outcome.run.method.id for outcome in outcomes) == sorted(methods)
    for outcome in outcomes:
        method, record = outcome.run.method.id, outcome.record
        assert record["status"] == "finished", (method, record["reason"])
        [epoch] = record["history"]
        assert epoch["step"] == 2 and np.isfinite(list(epoch["losses"].values())).all(), method
        assert {split: tuple(x.shape) for split, x in outcome.logits.items()} == {
            "val": (1, classes),
            "test": (2, classes),
        }
        assert all(x.isfinite().all() for x in (*outcome.logits.values(), *outcome.weights.values())), method


@pytest.mark.slow
@pytest.mark.parametrize(("name", "pair"), SUITES.values(), ids=SUITES)
def test_every_pair_takes_two_steps_with_every_method(name, pair, tmp_path):
    pair = Pair(*pair.split())
    check(two_steps(plan_of(name), pair, METHODS, 4, tmp_path), METHODS, CLASSES[name])


def test_the_smallest_pair_takes_two_steps(tmp_path):
    methods = ["fitnet", "kd", "ofa"]
    pair = Pair("deit-t-timm", "mobilenetv2")
    check(two_steps(plan_of("ofa-imagenet"), pair, methods, 2, tmp_path), methods, 1000)
