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
from torch.nn import functional as F

from kdbench.data.pictures import USUAL, View
from kdbench.methods.base import Distiller
from kdbench.signals import Reader, evaluating, read_logits
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
    """How it is shown pictures."""


@dataclass(frozen=True)
class Batch:
    """What every member sees at one step."""

    inputs: dict[str, Tensor]
    """{modality: (B, C, H, W) float32}, augmented and normalised, as the student reads it."""
    target: Tensor
    """(B,) classes, or (B, classes) soft labels."""
    index: Tensor
    """(B,) positions in the training set."""
    teacher: Signals | None
    step: int
    """0-based; several batches share one where the recipe accumulates."""
    progress: float
    """Share of all steps that were taken before it."""
    rate: float
    """Learning rate of this step."""
    untrained: Signals | None = None
    """Of the untrained teacher, where a member is guided by it."""
    part: int = 0
    """Number of the batch within its step, 0-based."""

    def shown(self, guide: Guide) -> Signals | None:
        """What a member sees of a teacher."""
        if guide == "untrained":
            return self.untrained
        return shuffled(self.teacher) if guide == "shuffled" else self.teacher


@dataclass(frozen=True)
class Cohort:
    student: ModelSpec
    recipe: Recipe | None
    """None: a teacher that is taken as it is."""
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
    start: dict[str, Tensor] | None = None
    """Weights that the student starts with; None: those of the seed."""

    @property
    def steps(self) -> int:
        """Of the whole training."""
        return self.recipe.steps or self.recipe.epochs * self.steps_per_epoch

    @property
    def steps_per_epoch(self) -> int:
        """Whole steps only. Raises KdbenchError when there is not one."""
        return self.batches.steps_per_epoch(self.recipe.global_batch)

    @functools.cached_property
    def teacher_operations(self) -> int:
        """Of one step: the teacher's pass of its samples, whoever looks on."""
        if not self.teacher:
            return 0
        shape = self.batches.shape[self.teacher.modality]
        return self.recipe.global_batch * forward_operations(self.teacher.reader.model, shape)

    def last_bits(self) -> dict[str, Any]:
        """What the last bits of all numbers depend on, beside the code."""
        decoder = self.batches.decoder(self.student.input)
        return {"threads": torch.get_num_threads(), "device": self.device.type, "decoder": decoder}

    def autocast(self) -> contextlib.AbstractContextManager:
        if self.precision == "fp32":
            return contextlib.nullcontext()  # to enter an autocast that is off costs as much as one that is on
        return torch.autocast(self.device.type, torch.bfloat16)

    def step_batches(self, index: Tensor, step: int) -> Iterator[Batch]:
        """The batches of step number `step` (0-based): the training samples at positions index (global batch,), on the
        CPU."""
        for part, some in enumerate(index.split(self.recipe.batch_size)):
            yield self.batch(some, step, part)

    def batch(self, index: Tensor, step: int, part: int = 0) -> Batch:
        """One of them, of the samples at positions index (B,), augmented and mixed with random numbers of its own."""
        drawn = step * self.recipe.accumulate + part
        inputs, target = self.batches.train(index, self.recipe, self.seed, drawn)
        index = to_device(index, self.device)

        def read(modality: str, view: View) -> Tensor:
            return self.batches.renormalised(modality, inputs[modality], view)

        shown = []
        for teacher in (self.teacher, self.untrained):
            with torch.no_grad(), self.autocast():
                shown.append(teacher and teacher.reader(read(teacher.modality, teacher.view), index))
        own = self.student.input
        inputs = inputs | {own: read(own, networks.view(self.student))}
        return Batch(inputs, target, index, shown[0], step, step / self.steps, self.rate(step), shown[1], part)

    def rate(self, step: int) -> float:
        """Learning rate of a step."""
        return learning_rate(self.recipe, step, self.steps)

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

    def logits(self, students: Sequence[nn.Module], split: str, limit: int | None = None) -> list[Tensor]:
        """Of each student, in evaluation mode, (N, classes) float32 of a whole split in its own order, or of its first
        `limit` samples. Every image is read once for all of them."""
        view = networks.view(self.student)
        return self._logits(students, self.student.input, split, view, limit) if students else []

    def teacher_logits(self, split: str) -> Tensor:
        """(N, classes), as of a student."""
        return self._logits([self.teacher.reader.model], self.teacher.modality, split, self.teacher.view)[0]

    @torch.no_grad()
    def _logits(
        self, models: Sequence[nn.Module], modality: str, split: str, view: View, limit: int | None = None
    ) -> list[Tensor]:
        training = [model.training for model in models]
        for model in models:
            model.eval()
        with self.autocast():
            found = [
                [read_logits(model, x).float() for model in models]
                for x in self.batches.evaluation(modality, split, limit=limit, view=view)
            ]
        for model, mode in zip(models, training, strict=True):
            model.train(mode)
        return [torch.cat(parts) for parts in zip(*found, strict=True)]

    def scores(self, students: Sequence[nn.Module], split: str) -> list[tuple[Tensor, dict[str, float]]]:
        """Of each student its logits of a split, and {"SPLIT_accuracy" (percent), "SPLIT_nll"}."""
        labels = self.batches.labels(split)
        return [
            (x, {f"{split}_accuracy": accuracy(x, labels), f"{split}_nll": F.cross_entropy(x, labels).item()})
            for x in self.logits(students, split)
        ]

    @torch.no_grad()
    def head_scores(self, reader: Reader, distiller: Distiller, split: str) -> dict[str, dict[str, float]]:
        """{"SPLIT_accuracy_of_heads": {head: percent}} of a student whose method has heads of its own, else {}.

        In a pass of its own over the split, so that the logits that count are the same bits with it and without."""
        if not distiller.has_heads:
            return {}
        batches = self.batches.evaluation(self.student.input, split, view=networks.view(self.student))
        with evaluating(reader.model), evaluating(distiller), self.autocast():
            found = [distiller.head_logits(reader(x)) for x in batches]
        labels = self.batches.labels(split)
        of_heads = {head: accuracy(torch.cat([logits[head] for logits in found]), labels) for head in found[0]}
        return {f"{split}_accuracy_of_heads": of_heads}


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


def accuracy(logits: Tensor, labels: Tensor) -> float:
    """Percent of samples whose largest logit is the label's."""
    return 100 * (logits.argmax(1) == labels).double().mean().item()


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
    """Linear warm-up, then a cosine down to `min_lr`, a power of the epochs left, or tenths from milestone to
    milestone: a pure function of the step (0-based)."""
    peak, warmup = recipe.peak_lr, int(recipe.warmup * total)
    if recipe.warmup_epochs is not None:
        # As timm's schedulers without `warmup_prefix` have it, which know of epochs only.
        step, total, warmup = step * recipe.epochs // total, recipe.epochs, 0
        if step < recipe.warmup_epochs:
            return recipe.warmup_lr + step * (peak - recipe.warmup_lr) / recipe.warmup_epochs
    if step < warmup:
        return peak * (step + 1) / warmup
    if recipe.milestones:
        return peak / 10 ** sum(step >= share * total for share in recipe.milestones)
    if recipe.poly:
        left = 1 - (step * recipe.epochs // total) / recipe.epochs
        return recipe.min_lr + (peak - recipe.min_lr) * left**recipe.poly
    share = (step - warmup) / max(1, total - warmup)
    return recipe.min_lr + (peak - recipe.min_lr) * (1 + math.cos(math.pi * share)) / 2
