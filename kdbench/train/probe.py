"""A few steps of a cohort, timed and weighed before anything is trained. What they train is dropped.

Seconds are processor time on a CPU, which other work on the machine changes little, and go by the wall on a GPU. A CPU
is probed with few images a step where networks are large: time is in proportion to images, and memory is read off the
line through this step and one of half as many.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_leaves

from kdbench.cpu import keep_memory
from kdbench.plan.jobs import Run
from kdbench.train import networks
from kdbench.train.cohort import Cohort
from kdbench.train.engine import Outcome, _start, _step, peak_memory_mb
from kdbench.train.equal_compute import equal_compute
from kdbench.train.member import Member
from kdbench.train.operations import forward_operations
from kdbench.train.order import batch_positions

LEAST, MOST, SECONDS = 2, 20, 2.0
"""Steps that are timed: so many at least and at most, and between these for so long."""
LARGE, FEWEST = 4e11, 4
"""Operations of a step that a CPU is probed with, some ten seconds of one core; but so many images at least."""


@dataclasses.dataclass(frozen=True)
class Probe:
    """What a cohort takes; MB of 2^20 bytes."""

    setup: float
    """Seconds up to its second step, once a seed."""
    memory_mb: float
    """Of the whole process on a CPU, else what is allocated on the device."""
    members: int = 0
    """Runs whose methods serve the pair."""
    image: float = 0.0
    """Seconds an image of a step, of all members with their batch and teacher."""
    shared: float = 0.0
    """Of these, seconds of the batch and the teacher: what each run would take for itself if it trained alone."""
    evaluated: float = 0.0
    """Seconds an evaluated image, of all members."""
    length: float = 1.0
    """Its steps over those of its recipe: not 1 for Scratch at the compute of another method."""
    stored_mb: float = 0.0
    """Weights and predictions that its runs leave."""
    checkpoint_mb: float = 0.0
    """Its checkpoint and the one before."""


def probe(cohort: Cohort, runs: Sequence[Run]) -> Probe:
    """Take a few steps of a cohort of these runs, and evaluate a batch. Raises KdbenchError where one cannot start."""
    clock, device = _clock(cohort.device), cohort.device
    started = clock()
    if device.type == "cpu":
        keep_memory()
    if cohort.recipe is None:
        return _as_it_is(cohort, clock)
    batch = cohort.recipe.batch_size
    cohort = _of_images(cohort, _affordable(cohort, runs))
    length = 1.0
    if runs[0].method.compute_of:
        longer = equal_compute(cohort, runs[0])
        if isinstance(longer, Outcome):
            return Probe(clock() - started, peak_memory_mb(device))
        length, cohort = longer.steps / cohort.steps, longer
    members = [m for run in runs if isinstance(m := _start(cohort, run, fresh=True), Member)]
    images = cohort.recipe.batch_size
    half, at_half = images // 2, 0.0
    if images < batch:
        _take(_of_images(cohort, half), members, 0, clock)
        at_half = peak_memory_mb(device)
    _take(cohort, members, 0, clock)
    memory, setup = peak_memory_mb(device), clock() - started
    if images < batch:
        memory += (memory - at_half) / (images - half) * (batch - images)
    shared = own = steps = 0
    while steps < LEAST or (steps < MOST and shared + own < SECONDS):
        steps += 1
        spent = _take(cohort, members, steps, clock)
        shared, own = shared + spent[0], own + spent[1]
    models = [member.model for member in members]
    averages = [member.average.module for member in members if member.average]
    return Probe(
        setup,
        max(memory, peak_memory_mb(device)),
        len(members),
        image=(shared + own) / (steps * images),
        shared=shared / (steps * images),
        evaluated=_evaluated(cohort, [*models, *averages], images if images < batch else None, clock),
        length=length,
        stored_mb=sum(_stored_mb(cohort, model) for model in models),
        checkpoint_mb=2 * sum(_megabytes(member.state()) for member in members),
    )


def _as_it_is(cohort: Cohort, clock: Callable[[], float]) -> Probe:
    """Of a teacher that is only evaluated."""
    spec, batches = cohort.student, cohort.batches
    model = networks.build(spec, batches.shape[spec.input], batches.classes, cohort.seed).to(cohort.device)
    evaluated = _evaluated(cohort, [model], FEWEST if cohort.device.type == "cpu" else None, clock)
    memory, stored = peak_memory_mb(cohort.device), _stored_mb(cohort, model)
    return Probe(0.0, memory, 1, evaluated=evaluated, stored_mb=stored)


def _affordable(cohort: Cohort, runs: Sequence[Run]) -> int:
    """Images of a step that a cohort of these runs is probed with."""
    batch = cohort.recipe.batch_size
    if cohort.device.type != "cpu":
        return batch
    shape = cohort.batches.shape
    student = networks.build(cohort.student, shape[cohort.student.input], cohort.batches.classes, cohort.seed).eval()
    operations = 3 * len(runs) * forward_operations(student, shape[cohort.student.input])
    if cohort.teacher:
        operations += forward_operations(cohort.teacher.reader.model, shape[cohort.teacher.modality])
    return min(batch, max(FEWEST, int(LARGE / operations)))


def _of_images(cohort: Cohort, images: int) -> Cohort:
    """The cohort with steps of one batch of so many images."""
    return dataclasses.replace(cohort, recipe=dataclasses.replace(cohort.recipe, batch_size=images, accumulate=1))


def _take(cohort: Cohort, members: Sequence[Member], step: int, clock: Callable[[], float]) -> tuple[float, float]:
    """A step of all members: seconds of its batch with the teacher, and of the members."""
    started = clock()
    index = batch_positions(cohort.batches.size("train"), cohort.recipe, cohort.seed, step)
    (batch,) = cohort.step_batches(index, step)
    shown = clock()
    for member in members:
        _step(cohort, member, batch)
    return shown - started, clock() - shown


def _evaluated(cohort: Cohort, models: Sequence[nn.Module], images: int | None, clock: Callable[[], float]) -> float:
    """Seconds that the evaluation of an image takes all models, found on so many images; None: as many as a batch has.
    The first of two passes warms up."""
    images = min(cohort.batches.size("test"), images or (128 if cohort.device.type == "cpu" else 1024))
    for _ in range(2):
        started = clock()
        cohort.logits(models, "test", images)
        spent = clock() - started
    return spent / images


def _clock(device: torch.device) -> Callable[[], float]:
    if device.type == "cpu":
        return time.process_time

    def clock() -> float:
        torch.get_device_module(device).synchronize(device)
        return time.perf_counter()

    return clock


def _stored_mb(cohort: Cohort, model: nn.Module) -> float:
    """A run's weights, and its predictions in half precision."""
    predictions = 2 * cohort.batches.classes * sum(map(cohort.batches.size, ("val", "test")))
    return _megabytes(model.state_dict()) + predictions / 2**20


def _megabytes(state: Any) -> float:
    return sum(x.nbytes for x in tree_leaves(state) if isinstance(x, torch.Tensor)) / 2**20
