"""One run under way: how it is built, and the state, the random numbers and the clock that are its own."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from kdbench.methods.base import Distiller
from kdbench.plan.jobs import Run
from kdbench.signals import Reader
from kdbench.train import networks
from kdbench.train.cohort import Cohort
from kdbench.train.operations import counter
from kdbench.types import Guide, KdbenchError, PairShapes, Recipe

if TYPE_CHECKING:
    from timm.utils import ModelEmaV3

_PLAIN = ("rng", "terms", "history", "seconds", "operations")
"""What a checkpoint holds of a member beside its modules and tensors."""


@dataclass
class Member:
    run: Run | None
    """None where a method is only tried (kdbench/conformance)."""
    reader: Reader
    """Of the student."""
    distiller: Distiller
    optimizer: torch.optim.Optimizer
    device: torch.device
    rng: dict[str, Tensor]
    guide: Guide = "trained"
    average: ModelEmaV3 | None = None
    """Of the student's weights and statistics over its steps, where the recipe asks for it."""
    terms: list[str] = field(default_factory=list)
    values: list[Tensor] = field(default_factory=list)
    """Loss terms of each batch of this epoch, (terms,), on the device; looked at once an epoch."""
    history: list[dict[str, Any]] = field(default_factory=list)
    logits: dict[str, Tensor] = field(default_factory=dict)
    """{"val", "test"}: (N, classes) at the end of the last epoch."""
    operations: int = 0
    """Of its first step, forward and backward."""
    gradient_shares: Tensor | None = None
    """(terms,), of its first step, on the device."""
    seconds: float = 0.0
    """Of all steps but the first."""
    events: list[tuple[Any, Any]] = field(default_factory=list)
    """Not on a CPU: begin and end of the steps since the clock was last read."""

    @property
    def model(self) -> nn.Module:
        return self.reader.model

    @property
    def _trained(self) -> dict[str, Any]:
        """All that a step changes and that has a state of its own."""
        average = {"average": self.average} if self.average else {}
        return {"model": self.model, "distiller": self.distiller, "optimizer": self.optimizer, **average}

    def state(self) -> dict[str, Any]:
        self.read_clock()
        plain = {k: getattr(self, k) for k in _PLAIN}
        values = torch.stack(self.values) if self.values else torch.empty(0)
        tensors = {"values": values, "gradient_shares": self.gradient_shares}
        return {**{k: m.state_dict() for k, m in self._trained.items()}, **plain, **tensors}

    def restore(self, state: dict[str, Any]) -> None:
        for name, part in self._trained.items():
            part.load_state_dict(state[name])
        for name in _PLAIN:
            setattr(self, name, state[name])
        self.values = list(state["values"].to(self.device))
        self.gradient_shares = state["gradient_shares"].to(self.device)

    def take_step(self, recipe: Recipe, rate: float) -> None:
        """The optimizer's, at this learning rate, with the gradients that are there."""
        clip_gradients(recipe, self.model, self.distiller)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        if self.average:
            self.average.update(self.model)

    def first_not_finite(self) -> tuple[int, str] | None:
        """Of this epoch's loss terms: its batch in the epoch (0-based), and its name. Waits for the device."""
        bad = (~torch.stack(self.values).isfinite()).nonzero().tolist()
        return (bad[0][0], self.terms[bad[0][1]]) if bad else None

    @contextlib.contextmanager
    def own_rng(self) -> Iterator[None]:
        """Torch's global RNG goes on from where this member left it."""
        torch.set_rng_state(self.rng["cpu"])
        if self.device.type != "cpu":
            torch.get_device_module(self.device).set_rng_state(self.rng[self.device.type], self.device)
        yield
        self.rng = _rng(self.device)

    @contextlib.contextmanager
    def timed(self, step: int) -> Iterator[None]:
        """Adds the time of one step, by the wall on a CPU, else by the device's own clock; not of the first, which is
        counted and so takes several times as long."""
        if step == 0:
            yield
            return
        if self.device.type == "cpu":
            started = time.perf_counter()
            yield
            self.seconds += time.perf_counter() - started
            return
        begin, end = (torch.get_device_module(self.device).Event(enable_timing=True) for _ in range(2))
        begin.record()
        yield
        end.record()
        self.events.append((begin, end))

    @contextlib.contextmanager
    def counted(self, step: int) -> Iterator[None]:
        """Adds the operations of what runs inside, at the first step only."""
        if step > 0:
            yield
            return
        with counter() as operations:
            yield
        self.operations += operations.get_total_flops()

    def read_clock(self) -> float:
        """Seconds of its steps so far; waits for the device."""
        if self.events:
            self.events[-1][1].synchronize()
            self.seconds += sum(begin.elapsed_time(end) for begin, end in self.events) / 1000
            self.events.clear()
        return self.seconds


def new_member(
    cohort: Cohort,
    method: type[Distiller],
    params: Any,
    seed: int,
    *,
    fresh: bool = True,
    run: Run | None = None,
    guide: Guide = "trained",
) -> Member | str:
    """A member before its first step, or why the method does not serve this pair.

    params: the method's Params. seed: of what the method draws. fresh: False when a checkpoint will be put into the
    member, which also holds what `prepare` would find. guide: whose signals it will see.
    """
    spec, batches, device = cohort.student, cohort.batches, cohort.device
    shape, needs = batches.shape[spec.input], method.needs(params)
    reader = networks.reader(spec, shape, batches.classes, cohort.seed, needs, cohort.start)
    teacher = None if getattr(params, "teacher", True) is False else cohort.teacher_of(guide)
    labels = tuple(batches.labels("train").tolist())
    shapes = PairShapes(reader.side, teacher.reader.side if teacher else None, batches.classes, labels)
    distiller = build_distiller(method, params, shapes, reader, teacher and teacher.copy, seed)
    if not isinstance(distiller, Distiller):
        return distiller
    reader.model.to(device)
    distiller.to(device)
    if fresh and distiller.wants_prepare:
        distiller.prepare(cohort.teacher_pass(teacher))
    optimizer = new_optimizer(cohort.recipe, reader.model, distiller)
    return Member(run, reader, distiller, optimizer, device, _rng(device), guide, _average(cohort.recipe, reader.model))


def build_distiller(
    method: type[Distiller],
    params: Any,
    shapes: PairShapes,
    student: Reader,
    teacher_copy: Callable[[], Reader] | None,
    seed: int | None = None,
) -> Distiller | str:
    """A method built for a pair and, where it asks for them, with its own copy of the teacher and with the student; or
    why it is n/a there.

    teacher_copy: makes a Reader of such a copy. seed: where torch's global RNG begins for what the method draws while
    it is built; None: where it is.
    """
    if (reason := method.supports(params, shapes)) is not None:
        return reason
    if seed is not None:
        torch.manual_seed(seed)
    distiller = method(params, shapes)
    if "teacher" in method.needs(params):
        own = teacher_copy()
        try:
            distiller.adopt(own.model, own)
        except KdbenchError as error:
            return str(error)
    if "student" in method.needs(params):
        distiller.borrow(student)
    return distiller


def _average(recipe: Recipe, model: nn.Module) -> ModelEmaV3 | None:
    """timm's moving average of a student, at its start."""
    if not recipe.ema_decay:
        return None
    from timm.utils import ModelEmaV3

    return ModelEmaV3(model, recipe.ema_decay)


def new_optimizer(recipe: Recipe, model: nn.Module, distiller: nn.Module) -> torch.optim.Optimizer:
    """One optimizer for the student and the method's own modules; matrices and kernels decay, the rest only where the
    recipe says so."""
    exempt = set() if recipe.decay_embeddings else set(getattr(model, "no_weight_decay", set)())
    named = [*((n, p, n in exempt) for n, p in model.named_parameters())]
    named += [(n, p, False) for n, p in distiller.named_parameters()]
    decay = [p for _, p, free in named if p.ndim > 1 and not free and p.requires_grad]
    no_decay = [p for _, p, free in named if (p.ndim <= 1 or free) and p.requires_grad]
    groups = [
        {"params": decay, "weight_decay": recipe.weight_decay},
        {"params": no_decay, "weight_decay": recipe.weight_decay if recipe.decay_all else 0.0},
    ]
    if recipe.optimizer == "sgd":
        # Not fused: that fails where a parameter gets its first gradient after others have theirs (PAT's prompts).
        nesterov = recipe.nesterov and recipe.momentum > 0
        return torch.optim.SGD(groups, recipe.peak_lr, momentum=recipe.momentum, nesterov=nesterov)
    return torch.optim.AdamW(groups, recipe.peak_lr, fused=True)


def _rng(device: torch.device) -> dict[str, Tensor]:
    state = {"cpu": torch.get_rng_state()}
    if device.type != "cpu":
        state[device.type] = torch.get_device_module(device).get_rng_state(device)
    return state


def clip_gradients(recipe: Recipe, model: nn.Module, distiller: nn.Module) -> None:
    """Scale gradients down to the recipe's largest norm, of student and method apart or of both together."""
    if recipe.clip_grad is None:
        return
    student, own = ([p for p in module.parameters() if p.grad is not None] for module in (model, distiller))
    for parameters in [student + own] if recipe.clip == "together" else [student, own]:
        if parameters:
            nn.utils.clip_grad_norm_(parameters, recipe.clip_grad)
