"""Tiny networks of every family, and noise to train them on."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from kdbench.data.pictures import View
from kdbench.methods.base import Distiller
from kdbench.train import networks
from kdbench.train.cohort import Cohort, load_teacher
from kdbench.types import ModelSpec, Recipe

CLASSES, BATCH, TRAIN_SIZE = 3, 6, 30
SHAPE = (8, 8, 3)
LABELS = tuple(i % CLASSES for i in range(TRAIN_SIZE))
CPU = torch.device("cpu")
RECIPE = Recipe("conformance", lr=1e-2, min_lr=1e-2, batch_size=BATCH, steps=8, warmup=0.0, clip_grad=5.0)
FAMILIES = ("cnn", "vit", "mlp")
_SMALL_CNN = {"block": "BasicBlock", "layers": [1, 1, 1, 1], "output_stride": 8}
_TIMM: dict[str, tuple[str, dict[str, Any]]] = {
    "teacher-cnn": ("ResNet", {**_SMALL_CNN, "channels": [8, 8, 16, 24]}),
    "student-cnn": ("ResNet", {**_SMALL_CNN, "channels": [4, 8, 8, 16], "drop_path_rate": 0.1}),
    "teacher-vit": ("VisionTransformer", {"patch_size": 2, "embed_dim": 24, "depth": 4, "num_heads": 2}),
    "student-vit": (
        "VisionTransformer",
        {"patch_size": 2, "embed_dim": 16, "depth": 4, "num_heads": 2, "drop_rate": 0.1},
    ),
    "teacher-mlp": ("MlpMixer", {"patch_size": 2, "embed_dim": 20, "num_blocks": 4}),
    "student-mlp": ("MlpMixer", {"patch_size": 2, "embed_dim": 16, "num_blocks": 4, "proj_drop_rate": 0.1}),
}
MODELS = {
    name: ModelSpec(
        name, timm, "tiny", "conformance", args=args, family=name[-3:], stem="small" if "cnn" in name else "timm"
    )
    for name, (timm, args) in _TIMM.items()
}
ALL_PAIRS = tuple((MODELS[f"teacher-{t}"], MODELS[f"student-{s}"]) for t in FAMILIES for s in FAMILIES)
EQUAL_PAIRS = tuple((MODELS[f"student-{t}"], MODELS[f"student-{s}"]) for t in FAMILIES for s in FAMILIES)
"""Whose features have one width."""


def pairs_for(method: type[Distiller]) -> tuple[tuple[ModelSpec, ModelSpec], ...]:
    """(teacher, student) of all families that a method is tried on."""
    return EQUAL_PAIRS if method.equal_widths else ALL_PAIRS


class Noise:
    """What a Cohort asks of its Batches. Targets are soft at odd steps."""

    classes = CLASSES

    def __init__(self, shape: tuple[int, int, int], device: torch.device) -> None:
        height, width, channels = shape
        self.shape = {"image": shape}
        x = torch.randn(TRAIN_SIZE, channels, height, width, generator=torch.Generator().manual_seed(0))
        self._x, self._labels = x.to(device), torch.tensor(LABELS).to(device)

    def labels(self, split: str) -> Tensor:
        return self._labels

    def train(self, index: Tensor, recipe: Recipe, seed: int, step: int) -> tuple[dict[str, Tensor], Tensor]:
        target = self._labels[index]
        return {"image": self._x[index]}, 0.7 * F.one_hot(target, CLASSES) + 0.1 if step % 2 else target

    def evaluation(self, modality: str, split: str, batch_size: int, limit: int, view: View) -> Iterator[Tensor]:
        """In three batches, since a method that prepares itself may see several."""
        yield from self._x.split(10)

    def renormalised(self, modality: str, x: Tensor, view: View) -> Tensor:
        return x


def tiny_cohort(
    params: Any,
    teacher: ModelSpec,
    student: ModelSpec,
    shape: tuple[int, int, int] = SHAPE,
    recipe: Recipe = RECIPE,
    device: torch.device = CPU,
) -> Cohort:
    """A cohort on noise of `shape` (H, W, C), with a teacher if a method of these parameters wants one."""
    noise, looker_on, untrained = Noise(shape, device), None, None
    if getattr(params, "teacher", True) is not False:
        weights = _trained_alike(networks.build(teacher, shape, CLASSES, 1))
        looker_on = load_teacher(teacher, weights, noise, device, 1)
        untrained = load_teacher(teacher, None, noise, device, 1)
    return Cohort(student, recipe, noise, device, 0, looker_on, untrained=untrained)


def _trained_alike(model: torch.nn.Module) -> dict[str, Tensor]:
    """Weights of a teacher that tells its inputs apart: timm starts some heads at zero."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in model.parameters():
            p += 0.1 * torch.randn(p.shape, generator=generator)
    return model.state_dict()
