"""What all runs of one (pair, seed) share: the teacher, the data, the recipe, and every batch."""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from kdbench.data.pictures import USUAL, View
from kdbench.signals import Reader, read_logits
from kdbench.tensors import to_device
from kdbench.train import networks
from kdbench.train.batches import Batches
from kdbench.train.operations import forward_operations
from kdbench.types import Guide, ModelSpec, Recipe, Signals

PREPARE_SAMPLES = 2048
"""Training samples that a method's `prepare` sees. Packed training sets are shuffled, and means and standard deviations
of so many are known to 2 %; the whole of a large set would cost more than the training of a small student."""


@dataclass(frozen=True)
class Teacher:
    """A network that only looks on: evaluation mode, no gradient, and always read in full, so that what a method gets
    to see does not depend on the needs of others."""

    reader: Reader
    modality: str
    copy: Callable[[], Reader]
    """Makes another one with the same weights, for a method that adopts it."""
    view: View = USUAL
    """What it is shown of a picture where it is evaluated."""


@dataclass(frozen=True)
class Batch:
    """What every member sees at one step."""

    inputs: dict[str, Tensor]
    """{modality: (B, C, H, W) float32}, augmented and normalised."""
    target: Tensor
    """(B,) classes, or (B, classes) soft labels."""
    index: Tensor
    """(B,) positions in the training set."""
    teacher: Signals | None
    step: int
    """0-based."""
    progress: float
    """Share of all steps that were taken before it."""
    rate: float
    """Learning rate of this step."""
    untrained: Signals | None = None
    """Of the untrained teacher, where a member is guided by it."""

    def shown(self, guide: Guide) -> Signals | None:
        """What a member sees of a teacher."""
        if guide == "untrained":
            return self.untrained
        return shuffled(self.teacher) if guide == "shuffled" else self.teacher


@dataclass(frozen=True)
class Cohort:
    student: ModelSpec
    recipe: Recipe
    batches: Batches
    device: torch.device
    seed: int
    teacher: Teacher | None = None
    precision: str = "fp32"
    """`fp32`, or `bf16` (autocast)."""
    save_every: float = 60.0
    """Seconds between two checkpoints."""
    untrained: Teacher | None = None
    """The same network as it was before its training, where a member is guided by it."""

    @property
    def steps(self) -> int:
        """Of the whole training."""
        return self.recipe.steps or self.recipe.epochs * self.batches.steps_per_epoch(self.recipe.batch_size)

    @functools.cached_property
    def teacher_operations(self) -> int:
        """Of one step: the teacher's pass of a batch, whoever looks on."""
        if not self.teacher:
            return 0
        shape = self.batches.shape[self.teacher.modality]
        return self.recipe.batch_size * forward_operations(self.teacher.reader.model, shape)

    def last_bits(self) -> dict[str, Any]:
        """What the last bits of all numbers depend on, beside the code."""
        decoder = self.batches.decoder(self.student.input)
        return {"threads": torch.get_num_threads(), "device": self.device.type, "decoder": decoder}

    def autocast(self) -> contextlib.AbstractContextManager:
        if self.precision == "fp32":
            return contextlib.nullcontext()  # to enter an autocast that is off costs as much as one that is on
        return torch.autocast(self.device.type, torch.bfloat16)

    def batch(self, index: Tensor, step: int) -> Batch:
        """The training samples at positions index (B,), on the CPU, as step number `step` (0-based) augments them."""
        inputs, target = self.batches.train(index, self.recipe, self.seed, step)
        index = to_device(index, self.device)
        shown = []
        for teacher in (self.teacher, self.untrained):
            with torch.no_grad(), self.autocast():
                shown.append(teacher and teacher.reader(inputs[teacher.modality], index))
        rate = learning_rate(self.recipe, step, self.steps)
        return Batch(inputs, target, index, shown[0], step, step / self.steps, rate, shown[1])

    def teacher_of(self, guide: Guide) -> Teacher | None:
        """The network whose signals a member sees."""
        return self.untrained if guide == "untrained" else self.teacher

    @torch.no_grad()
    def teacher_pass(self, teacher: Teacher) -> Iterator[Signals]:
        """A teacher's signals over the first PREPARE_SAMPLES of the un-augmented training set, in its own order."""
        batches = self.batches.evaluation(teacher.modality, "train", 256, PREPARE_SAMPLES, teacher.view)
        for x in batches:
            with self.autocast():
                yield teacher.reader(x)

    def logits(self, students: Sequence[nn.Module], split: str) -> list[Tensor]:
        """Of each student, in evaluation mode, (N, classes) float32 of a whole split in its own order. Every image is
        read once for all of them."""
        return self._logits(students, self.student.input, split, networks.view(self.student)) if students else []

    def teacher_logits(self, split: str) -> Tensor:
        """(N, classes), as of a student."""
        return self._logits([self.teacher.reader.model], self.teacher.modality, split, self.teacher.view)[0]

    @torch.no_grad()
    def _logits(self, models: Sequence[nn.Module], modality: str, split: str, view: View) -> list[Tensor]:
        training = [model.training for model in models]
        for model in models:
            model.eval()
        with self.autocast():
            found = [
                [read_logits(model, x).float() for model in models]
                for x in self.batches.evaluation(modality, split, view=view)
            ]
        for model, mode in zip(models, training, strict=True):
            model.train(mode)
        return [torch.cat(parts) for parts in zip(*found, strict=True)]


def load_teacher(
    spec: ModelSpec, weights: dict[str, Tensor] | None, batches: Batches, device: torch.device, seed: int
) -> Teacher:
    """A trained teacher from its stored weights, or what it was before its training where they are None.

    Raises KdbenchError when they do not fit the model.
    """

    def load() -> Reader:
        reader = networks.reader(spec, batches.shape[spec.input], batches.classes, seed, weights=weights)
        reader.model.requires_grad_(False).eval().to(device)
        return reader

    return Teacher(load(), spec.input, load, networks.view(spec))


def shuffled(signals: Signals) -> Signals:
    """The same signals, those of each sample given to another one of the batch.

    What a teacher was given moves with what it shows, for a method that runs a copy of it. `index` stays: a memory bank
    that is kept by it would bring a sample and its own signals together again.
    """
    # Batches are in random order. By two, since the recipes mix sample i with sample B-1-i: by one, two of the samples
    # would meet the signals of a mixture of their own two images.
    by = 2 if len(signals.logits) > 2 else 1

    def moved(value: Tensor | tuple[Tensor, ...] | None) -> Any:
        if isinstance(value, tuple):
            return tuple(map(moved, value))
        return None if value is None else value.roll(by, dims=0)

    names = ("logits", "stages", "prefix", "pooled", "pooled_preact", "inputs")
    return replace(signals, **{name: moved(getattr(signals, name)) for name in names})


def learning_rate(recipe: Recipe, step: int, total: int) -> float:
    """Linear warm-up from 0, then a cosine down to `min_lr`, or tenths from milestone to milestone: a pure function of
    the step (0-based)."""
    warmup = int(recipe.warmup * total)
    if step < warmup:
        return recipe.lr * (step + 1) / warmup
    if recipe.milestones:
        return recipe.lr / 10 ** sum(step >= share * total for share in recipe.milestones)
    share = (step - warmup) / max(1, total - warmup)
    return recipe.min_lr + (recipe.lr - recipe.min_lr) * (1 + math.cos(math.pi * share)) / 2
