"""What is measured on: drawn characters at 32 px (no download), four networks, three pairs, nine methods.

Speed does not care what a teacher has learnt, so teachers here are as good as untrained; only `accuracy` trains them.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from kdbench.cpu import slow_bf16
from kdbench.data.packed import Packed
from kdbench.data.prepare import prepare_data
from kdbench.plan.jobs import Plan, Run, make_plan
from kdbench.plan.paths import data_folder
from kdbench.plan.suite import check_suite
from kdbench.train import engine, networks
from kdbench.train.batches import Batches
from kdbench.train.cohort import Cohort, load_teacher
from kdbench.types import KdbenchError, Recipe

METHODS = ("scratch", "kd", "dkd", "dist", "fitnet", "rkd", "crd", "ofa", "uhkd")
PAIRS = {
    "heavy teacher": ("vit-heavy", "cnn"),
    "equal": ("vit-even", "cnn"),
    "light teacher": ("cnn", "vit-light"),
}
"""Teacher and student; forward passes of one image cost 718, 70, 59 and 164 MFLOP (vit-heavy, cnn, vit-even,
vit-light)."""
PRECISIONS = ("fp32", "bf16")


def precisions(device: str) -> tuple[str, ...]:
    """Those worth measuring: not bf16 on a CPU without units for it."""
    return PRECISIONS[:1] if device == "cpu" and slow_bf16() else PRECISIONS


def left_out(device: str) -> dict[str, str]:
    """What a part's settings say where bf16 is not measured."""
    return {} if precisions(device) == PRECISIONS else {"bf16": f"left out, since {slow_bf16()}"}


BATCH_SIZE = 64
EPOCH = 200
"""Steps of an epoch at most: longer runs go several times through the same images."""
INPUT = "raster"


def _vit(width: int, depth: int, heads: int) -> dict[str, Any]:
    args = {"patch_size": 4, "embed_dim": width, "depth": depth, "num_heads": heads}
    return {"timm": "VisionTransformer", "args": args | {"class_token": False, "global_pool": "avg"}}


def _cnn(layers: Sequence[int], channels: Sequence[int]) -> dict[str, Any]:
    args = {"block": "BasicBlock", "layers": [*layers], "channels": [*channels], "stem_width": channels[0]}
    return {"timm": "ResNet", "stem": "small", "args": args}


NETWORKS: dict[str, dict[str, Any]] = {
    "vit-heavy": _vit(192, 12, 3),  # DeiT-Ti with patches of 4 px
    "vit-even": _vit(64, 8, 4),
    "vit-light": _vit(128, 6, 4),
    "cnn": _cnn([2, 2, 2, 2], [16, 32, 64, 128]),  # ResNet-18 at a quarter of its width; ResNet-20 costs 82 MFLOP
    "cnn-wide": _cnn([1, 1, 1, 1], [16, 32, 64, 128]),
    "cnn-narrow": _cnn([1, 1, 1, 1], [8, 16, 32, 64]),
}


@dataclass(frozen=True)
class Options:
    """What the command line asked for. None: what the part itself takes for this device."""

    device: str
    """`cpu` or `cuda`."""
    threads: int
    """Threads a process computes with, and workers of the field's DataLoader."""
    jobs: int
    """Processes at a time, where whole processes are timed."""
    steps: int | None
    repeats: int | None
    work: Path
    """An empty folder for data, suites and results; removed at the end."""
    say: Callable[[str], None]

    def choose(self, option: str, cpu: int, cuda: int) -> int:
        """`steps` or `repeats` as asked for, or the default of this device."""
        asked = getattr(self, option)
        return asked if asked is not None else cuda if self.device == "cuda" else cpu


def tree(
    pair: tuple[str, str],
    options: Options,
    precision: str,
    *,
    steps: int | None = None,
    epochs: int | None = None,
    epoch_steps: int = 20,
    batch_size: int = BATCH_SIZE,
    methods: Sequence[str] = METHODS,
) -> dict[str, Any]:
    """A suite of one pair as the tree of its YAML. Give `steps` or `epochs` (of `epoch_steps` batches of 64)."""
    teacher, student = pair
    train = epoch_steps * BATCH_SIZE
    recipe = {"lr": 1.0e-3, "batch_size": batch_size, "crop": 4, "flip": True}
    data = {"source": "glyphs", "size": 32, "train": train, "val": max(47, train // 10), "test": max(47, train // 10)}
    return {
        "seeds": [0],
        "device": options.device,
        "threads": options.threads,
        "precision": precision,
        "checkpoint_seconds": 1.0e9,
        "data": {"glyphs": data},
        "recipes": {
            "teacher": recipe | {"steps": 1},
            "student": recipe | ({"epochs": epochs} if steps is None else {"steps": steps}),
        },
        "models": {
            name: {"data": "glyphs", "input": INPUT, "recipe": role, **NETWORKS[name]}
            for name, role in ((teacher, "teacher"), (student, "student"))
        },
        "blocks": {"bench": {"data": "glyphs", "pairs": [f"{teacher} -> {student}"], "methods": [*methods]}},
    }


def in_epochs(steps: int) -> dict[str, int]:
    """About so many steps as keywords of `tree`: epochs of at most EPOCH steps."""
    epochs = math.ceil(steps / EPOCH)
    return {"epochs": epochs, "epoch_steps": math.ceil(steps / epochs)}


def write_suite(suite: dict[str, Any], path: Path) -> Plan:
    """Write a suite's YAML; returns its plan."""
    path.write_text(yaml.safe_dump(suite, sort_keys=False), encoding="utf-8")
    return plan_of(suite, path.stem)


def plan_of(suite: dict[str, Any], name: str) -> Plan:
    return make_plan(check_suite(suite, name, name))


def pack(plan: Plan, options: Options) -> Packed:
    """The data set, packed once for all suites of the work folder."""
    folder = data_folder(plan.suite, "glyphs", plan.suite.seeds[0])
    return prepare_data(plan.suite.data["glyphs"], options.work / folder)


# --------------------------------------------------------------------------------------------------- in this process


@dataclass(frozen=True)
class Trial:
    """A pair made ready to be trained in this process, with an untrained teacher."""

    plan: Plan
    runs: tuple[Run, ...]
    pack: Packed
    cohort: Cohort


def trial(suite: dict[str, Any], options: Options) -> Trial:
    """Build batches and teacher of a suite's one pair."""
    torch.set_num_threads(options.threads)
    device = torch.device(options.device)
    plan = plan_of(suite, "bench")
    data = pack(plan, options)
    batches = Batches(data, {INPUT}, device)
    teacher = plan.suite.models[plan.of("teacher")[0].pair.student]
    weights = networks.build(teacher, batches.shape[INPUT], batches.classes, 0).state_dict()
    student = plan.suite.models[plan.of("cohort")[0].pair.student]
    recipe = plan.suite.recipes[student.recipe]
    loaded = load_teacher(teacher, weights, batches, device, 0)
    cohort = Cohort(student, recipe, batches, device, 0, loaded, plan.suite.precision, plan.suite.checkpoint_seconds)
    return Trial(plan, tuple(plan.runs().values()), data, cohort)


class Watched(Batches):
    """Batches as one epoch of `steps` that call before[k] just before the batch of step k is made.

    So a stretch of the engine's own loop is measured as it is, and no evaluation falls into it.
    """

    def __init__(self, batches: Batches, steps: int, before: dict[int, Callable[[], None]]) -> None:
        vars(self).update(vars(batches))
        self.steps, self.before = steps, before

    def steps_per_epoch(self, batch_size: int) -> int:
        return self.steps

    def order(self, seed: int, epoch: int) -> Tensor:
        """Positions of the training samples, pass after pass, so that they last for a batch of 1,024 too."""
        return torch.cat([super(Watched, self).order(seed, p) for p in range(self.steps)])

    def train(self, index: Tensor, recipe: Recipe, seed: int, step: int) -> tuple[dict[str, Tensor], Tensor]:
        if step in self.before:
            self.before[step]()
        return super().train(index, recipe, seed, step)


def train(trial: Trial, folder: Path, before: dict[int, Callable[[], None]], seed: int = 0) -> list[engine.Outcome]:
    """Train all runs of a trial through the engine, as one cohort; returns how they ended.

    before: see Watched. Raises KdbenchError when a run does not come to its end.
    """
    batches = Watched(trial.cohort.batches, trial.cohort.recipe.steps, before)
    cohort = dataclasses.replace(trial.cohort, batches=batches, seed=seed)
    outcomes: list[engine.Outcome] = []
    engine.train_cohort(cohort, trial.runs, folder / "checkpoint", outcomes.append, lambda *_, **__: None)
    for outcome in outcomes:
        if outcome.record["status"] != "finished":
            reason = f"{outcome.record['status']}, {outcome.record['reason']}"
            raise KdbenchError(f"bench: {outcome.run.method.id} did not come to its end: {reason}")
    return outcomes
