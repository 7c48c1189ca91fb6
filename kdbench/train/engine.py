"""THE training loop, for teachers and students alike.

A cohort is all runs of one (pair, seed): one teacher forward a batch, each student taking its own step on that batch.
A member's numbers do not depend on who else is in its cohort: its weights come from (seed, student), its batches from
(seed, epoch, step), and everything random of its own (projectors, dropout, negatives) from a stream (seed, method)
that is restored around each of its steps.
"""

from __future__ import annotations

import contextlib
import math
import resource
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kdbench import checkpoint, supervise
from kdbench.methods.base import Distiller
from kdbench.plan.jobs import Run
from kdbench.plan.registry import load_method
from kdbench.signals import EVERYTHING, Reader, probe
from kdbench.train import networks
from kdbench.train.batches import Batches, stream
from kdbench.types import KdbenchError, ModelSpec, PairShapes, Recipe, Side, Signals, Suite

PREPARE_SAMPLES = 2048
"""Training samples that a method's `prepare` sees. Packed training sets are shuffled, and means and standard deviations
of so many are known to 2 %; the whole of a large set would cost more than the training of a small student."""


@dataclass(frozen=True)
class Teacher:
    """A trained network that only looks on: evaluation mode, no gradient, and always read in full, so that what a
    method gets to see does not depend on the needs of others."""

    reader: Reader
    side: Side
    modality: str
    copy: Callable[[], Reader]
    """Makes another one with the same weights, for a method that adopts it."""


@dataclass(frozen=True)
class Cohort:
    """What the runs of one (pair, seed) share."""

    suite: Suite
    batches: Batches
    device: torch.device
    seed: int
    teacher: Teacher | None

    def autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.suite.precision == "bf16")


@dataclass
class Outcome:
    """How one run ended. `record` goes into its JSON; the rest into the files beside it, where there is a result."""

    run: Run
    record: dict[str, Any]
    logits: dict[str, Tensor] = field(default_factory=dict)
    """{"val", "test"}: (N, classes)."""
    weights: dict[str, Tensor] = field(default_factory=dict)


@dataclass
class Member:
    """One run under way."""

    run: Run
    model: nn.Module
    reader: Reader
    distiller: Distiller
    optimizer: torch.optim.Optimizer
    rng: dict[str, Tensor]
    terms: list[str] = field(default_factory=list)
    sums: Tensor | None = None
    """Loss terms summed over the steps of this epoch, on the device."""
    first_bad: Tensor | None = None
    """Per term the first step at which it was not finite, else -1; looked at once an epoch."""
    history: list[dict[str, Any]] = field(default_factory=list)
    logits: dict[str, Tensor] = field(default_factory=dict)
    """{"val", "test"}: (N, classes) at the end of the last epoch."""
    seconds: float = 0.0
    events: list[tuple[Any, Any]] = field(default_factory=list)
    """Not on a CPU: begin and end of the steps since the clock was last read."""

    def read_clock(self) -> float:
        """Seconds of all its steps so far; waits for the device."""
        if self.events:
            self.events[-1][1].synchronize()
            self.seconds += sum(begin.elapsed_time(end) for begin, end in self.events) / 1000
            self.events.clear()
        return self.seconds

    def state(self) -> dict[str, Any]:
        self.read_clock()
        modules = {"model": self.model, "distiller": self.distiller, "optimizer": self.optimizer}
        plain = {k: getattr(self, k) for k in ("rng", "terms", "sums", "first_bad", "history", "seconds")}
        return {**{k: m.state_dict() for k, m in modules.items()}, **plain}

    def restore(self, state: dict[str, Any], device: torch.device) -> None:
        for name in ("model", "distiller", "optimizer"):
            getattr(self, name).load_state_dict(state[name])
        for name in ("rng", "terms", "history", "seconds"):
            setattr(self, name, state[name])
        self.sums, self.first_bad = state["sums"].to(device), state["first_bad"].to(device)


# ------------------------------------------------------------------------------------------------------------ the loop


def train_cohort(
    cohort: Cohort, runs: Iterable[Run], state_file: Path, done: Callable[[Outcome], None], say: Callable[..., None]
) -> None:
    """Train runs of one (pair, seed) side by side, going on from `state_file` where it holds them.

    done: called with each run's Outcome as soon as it is known. say: called with a line for people.
    Raises KdbenchError, after the others are done, when a member failed with an error of its own.
    """
    runs = list(runs)
    saved = checkpoint.load(state_file)
    resumable = [r for r in runs if saved and saved["keys"].get(r.method.id) == r.state_key]
    if resumable:
        _check_resume(saved, cohort, state_file)
    failures: list[str] = []
    for group, state in ((resumable, saved), ([r for r in runs if r not in resumable], None)):
        if group:
            _train(cohort, group, state, state_file, done, say, failures)
    if failures:
        raise KdbenchError("; ".join(failures) + "; the other runs of this job are finished and kept")


def _train(
    cohort: Cohort,
    runs: list[Run],
    state: dict[str, Any] | None,
    state_file: Path,
    done: Callable[[Outcome], None],
    say: Callable[..., None],
    failures: list[str],
) -> None:
    suite, batches, teacher = cohort.suite, cohort.batches, cohort.teacher
    student = suite.models[runs[0].pair.student]
    recipe = suite.recipes[student.recipe]
    batch_size, steps_per_epoch = recipe.batch_size, batches.steps_per_epoch(recipe.batch_size)
    total = recipe.steps or recipe.epochs * steps_per_epoch

    members: list[Member] = []
    for run in runs:
        with _failing_alone(run, failures):
            member = _new_member(cohort, run, fresh=state is None)
            if isinstance(member, Outcome):
                done(member)
                continue
            if state:
                member.restore(state["members"][run.method.id], cohort.device)
            members.append(member)

    start = state["step"] if state else 0
    seconds_before, started, saved_at = state["seconds"] if state else 0.0, time.monotonic(), time.monotonic()
    order = None
    for step in range(start, total):
        epoch, position = divmod(step, steps_per_epoch)
        if order is None or position == 0:
            order = batches.order(cohort.seed, epoch)
        index = order[position * batch_size : (position + 1) * batch_size]
        inputs, target = batches.train(index, recipe, cohort.seed, step)
        shown = None
        if teacher:
            with torch.no_grad(), cohort.autocast():
                shown = teacher.reader(inputs[teacher.modality], index)
        rate = learning_rate(recipe, step, total)

        for member in list(members):
            failed = len(failures)
            with _failing_alone(member.run, failures), _own_rng(member, cohort.device):
                _step(member, cohort, recipe, inputs[student.input], shown, target, index, step, total, rate)
            if len(failures) > failed:
                members.remove(member)

        finished = step + 1 == total
        if position + 1 == steps_per_epoch or finished:
            steps_here = position + 1
            for member in list(members):
                outcome = _end_of_epoch(member, cohort, student.input, epoch, step, steps_here, rate)
                if outcome:
                    members.remove(member)
                    done(outcome)
            accuracies = " ".join(f"{m.run.method.id} {m.history[-1]['val_accuracy']:.1f}" for m in members)
            say(f"step {step + 1} of {total}, validation: {accuracies}", final=finished)
        if not members:
            break
        if not finished and time.monotonic() - saved_at >= suite.checkpoint_seconds:
            elapsed = seconds_before + time.monotonic() - started
            checkpoint.save(state_file, _cohort_state(cohort, members, step + 1, elapsed))
            saved_at = time.monotonic()

    elapsed = seconds_before + time.monotonic() - started
    shown_logits = {s: _teacher_logits(cohort, s) for s in ("val", "test")} if teacher and members else {}
    for member in members:
        with _failing_alone(member.run, failures):
            done(_outcome(member, cohort, shown_logits, elapsed))


def _step(
    member: Member,
    cohort: Cohort,
    recipe: Recipe,
    x: Tensor,
    shown: Signals | None,
    target: Tensor,
    index: Tensor,
    step: int,
    total: int,
    rate: float,
) -> None:
    """One optimizer step of one member. Nothing here waits for the device."""
    with _timed(member, cohort.device):
        member.model.train()
        with cohort.autocast():
            signals = member.reader(x, index)
            terms = member.distiller(signals, shown, target, step / total)
        loss = sum(terms.values())
        member.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if recipe.clip_grad is not None:
            for module in (member.model, member.distiller):
                if parameters := [p for p in module.parameters() if p.grad is not None]:
                    nn.utils.clip_grad_norm_(parameters, recipe.clip_grad)
        for group in member.optimizer.param_groups:
            group["lr"] = rate
        member.optimizer.step()
        values = torch.stack([t.detach().float() for t in terms.values()])
        if member.sums is None:
            member.terms = list(terms)
            member.sums = torch.zeros_like(values)
            member.first_bad = torch.full(values.shape, -1, device=values.device)
        member.sums += values
        member.first_bad = torch.where((member.first_bad < 0) & ~values.isfinite(), step, member.first_bad)


def _end_of_epoch(
    member: Member, cohort: Cohort, modality: str, epoch: int, step: int, steps: int, rate: float
) -> Outcome | None:
    """Log the epoch; an Outcome only for a member that has diverged."""
    bad = member.first_bad.tolist()
    if max(bad) >= 0:
        first = min(b for b in bad if b >= 0)
        reason = f"the term {member.terms[bad.index(first)]!r} was not finite at step {first + 1}"
        return Outcome(member.run, {"status": "diverged", "reason": reason, **_costs(member, cohort)})
    scores = {}
    for split in ("val", "test"):
        logits = member.logits[split] = _logits(member.model, cohort, modality, split)
        labels = cohort.batches.labels(split)
        scores |= {
            f"{split}_accuracy": accuracy(logits, labels),
            f"{split}_nll": F.cross_entropy(logits, labels).item(),
        }
    losses = dict(zip(member.terms, (member.sums / steps).tolist(), strict=True))
    member.history.append({"epoch": epoch + 1, "step": step + 1, "lr": rate, "losses": losses, **scores})
    member.sums.zero_()
    return None


def _outcome(member: Member, cohort: Cohort, teacher_logits: dict[str, Tensor], elapsed: float) -> Outcome:
    """How a member ended that came to the last step."""
    last, best = member.history[-1], max(member.history, key=lambda h: h["test_accuracy"])
    record = {
        "status": "finished",
        "reason": None,
        "accuracy": {
            "val": last["val_accuracy"],
            "test": last["test_accuracy"],
            "best_test": best["test_accuracy"],
            "best_test_epoch": best["epoch"],
        },
        "nll": {"val": last["val_nll"], "test": last["test_nll"]},
        "agreement": {s: accuracy(member.logits[s], t.argmax(1)) for s, t in teacher_logits.items()} or None,
        **_costs(member, cohort),
        "notes": member.distiller.notes(),
        "diagnostics": member.distiller.diagnostics(),
    }
    record["cost"]["cohort_seconds"] = elapsed
    weights = {k: v.detach().to("cpu", copy=True).contiguous() for k, v in member.model.state_dict().items()}
    return Outcome(member.run, record, {s: v.cpu() for s, v in member.logits.items()}, weights)


def _costs(member: Member, cohort: Cohort) -> dict[str, Any]:
    return {
        "history": member.history,
        "cost": {
            "seconds": member.read_clock(),
            "peak_memory_mb": peak_memory_mb(cohort.device),
            "extra_parameters": networks.parameter_count(member.distiller, trained_only=True),
            "student_parameters": networks.parameter_count(member.model),
        },
    }


# ------------------------------------------------------------------------------------------------------------- members


def _new_member(cohort: Cohort, run: Run, fresh: bool) -> Member | Outcome:
    """A run at its start, or the Outcome "n/a" where its method does not serve this pair.

    fresh: False when a checkpoint will be put into it, which also holds what `prepare` would find.
    """
    spec = cohort.suite.models[run.pair.student]
    recipe = cohort.suite.recipes[spec.recipe]
    model = networks.build(spec, cohort.batches.shape[spec.input], cohort.batches.classes, cohort.seed)
    side, last_activation = probe(model, cohort.batches.shape[spec.input], spec.family)
    method = load_method(run.method.method)
    params = method.Params(**run.method.params)
    teacher = cohort.teacher if run.pair.teacher else None
    labels = tuple(cohort.batches.labels("train").tolist())
    shapes = PairShapes(side, teacher.side if teacher else None, cohort.batches.classes, labels)
    seed = stream(cohort.seed, "method", run.method.stream)
    distiller = new_distiller(method, params, shapes, seed, teacher.copy if teacher else None)
    if isinstance(distiller, str):
        return Outcome(run, {"status": "n/a", "reason": distiller})
    model.to(cohort.device)
    distiller.to(cohort.device)
    if fresh and distiller.wants_prepare:
        distiller.prepare(_teacher_pass(cohort))
    return Member(
        run,
        model,
        Reader(model, method.needs(params), last_activation),
        distiller,
        _optimizer(recipe, model, distiller),
        _rng(cohort.device),
    )


def new_distiller(
    method: type[Distiller],
    params: Any,
    shapes: PairShapes,
    seed: int,
    teacher_copy: Callable[[], Reader] | None,
) -> Distiller | str:
    """A method built for a pair and, where it asks for one, with its own copy of the teacher; or why it is n/a there.

    Torch's global RNG begins at `seed` for what the method draws while it is built, and stays where that ends.
    """
    if (reason := method.supports(params, shapes)) is not None:
        return reason
    torch.manual_seed(seed)
    distiller = method(params, shapes)
    if "teacher" in method.needs(params):
        own = teacher_copy()
        try:
            distiller.adopt(own.model, own)
        except KdbenchError as error:
            return str(error)
    return distiller


def _optimizer(recipe: Recipe, model: nn.Module, distiller: nn.Module) -> torch.optim.Optimizer:
    """One optimizer for the student and the method's own modules; matrices and kernels decay, the rest only where the
    recipe says so."""
    exempt = set(getattr(model, "no_weight_decay", set)())
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
        return torch.optim.SGD(groups, recipe.lr, momentum=recipe.momentum, nesterov=nesterov)
    return torch.optim.AdamW(groups, recipe.lr, fused=True)


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


def load_teacher(
    spec: ModelSpec, weights: dict[str, Tensor], batches: Batches, device: torch.device, seed: int
) -> Teacher:
    """A trained teacher from its stored weights. Raises KdbenchError when they do not fit the model."""
    shape = batches.shape[spec.input]

    def load() -> tuple[Reader, Side]:
        model = networks.build(spec, shape, batches.classes, seed)
        try:
            model.load_state_dict(weights)
        except RuntimeError as error:
            raise KdbenchError(f"the stored weights do not fit the model {spec.name}: {error}") from None
        side, last_activation = probe(model, shape, spec.family)
        return Reader(model.requires_grad_(False).eval().to(device), EVERYTHING, last_activation), side

    reader, side = load()
    return Teacher(reader, side, spec.input, lambda: load()[0])


# ---------------------------------------------------------------------------------------------------------- evaluation


@torch.no_grad()
def _logits(model: nn.Module, cohort: Cohort, modality: str, split: str) -> Tensor:
    """(N, classes) float32 of a whole split, in its own order."""
    reader = Reader(model, frozenset({"logits"}), None)
    model.eval()
    with cohort.autocast():
        return torch.cat([reader(x).logits.float() for x in cohort.batches.evaluation(modality, split)])


def _teacher_logits(cohort: Cohort, split: str) -> Tensor:
    return _logits(cohort.teacher.reader.model, cohort, cohort.teacher.modality, split)


@torch.no_grad()
def _teacher_pass(cohort: Cohort) -> Iterator[Signals]:
    """The teacher's signals over the first PREPARE_SAMPLES of the un-augmented training set, in its own order."""
    for x in cohort.batches.evaluation(cohort.teacher.modality, "train", batch_size=256, limit=PREPARE_SAMPLES):
        with cohort.autocast():
            yield cohort.teacher.reader(x)


def accuracy(logits: Tensor, labels: Tensor) -> float:
    """Percent of samples whose largest logit is the label's."""
    return 100 * (logits.argmax(1) == labels).double().mean().item()


# ------------------------------------------------------------------------------------------------- state, time, faults


def _cohort_state(cohort: Cohort, members: list[Member], step: int, seconds: float) -> dict[str, Any]:
    return {
        "keys": {m.run.method.id: m.run.state_key for m in members},
        "members": {m.run.method.id: m.state() for m in members},
        "step": step,
        "seconds": seconds,
        "threads": torch.get_num_threads(),
        "device": cohort.device.type,
    }


def _check_resume(saved: dict[str, Any], cohort: Cohort, state_file: Path) -> None:
    here = {"threads": torch.get_num_threads(), "device": cohort.device.type}
    for name, value in here.items():
        if saved.get(name) != value:
            raise KdbenchError(
                f"{state_file} was made with {name} {saved.get(name)} and cannot go on with {name} {value}: the last "
                f"bits would differ; use the same {name}, or delete {state_file.parent} to start this cohort anew"
            )


def _rng(device: torch.device) -> dict[str, Tensor]:
    state = {"cpu": torch.get_rng_state()}
    if device.type != "cpu":
        state[device.type] = torch.get_device_module(device).get_rng_state(device)
    return state


@contextlib.contextmanager
def _own_rng(member: Member, device: torch.device) -> Iterator[None]:
    torch.set_rng_state(member.rng["cpu"])
    if device.type != "cpu":
        torch.get_device_module(device).set_rng_state(member.rng[device.type], device)
    yield
    member.rng = _rng(device)


@contextlib.contextmanager
def _timed(member: Member, device: torch.device) -> Iterator[None]:
    """Adds the time of one step to the member: by the wall on a CPU, else by the device's own clock."""
    if device.type == "cpu":
        started = time.perf_counter()
        yield
        member.seconds += time.perf_counter() - started
        return
    begin, end = (torch.get_device_module(device).Event(enable_timing=True) for _ in range(2))
    begin.record()
    yield
    end.record()
    member.events.append((begin, end))


@contextlib.contextmanager
def _failing_alone(run: Run, failures: list[str]) -> Iterator[None]:
    """An error inside one member is kept for the end, so that its neighbours finish; what ends the process is told by
    its parent, which learns here whose turn it was."""
    supervise.at(f"{run.pair.id}/{run.method.id} seed {run.seed}")
    try:
        yield
    except KdbenchError as error:
        failures.append(f"{run.pair.id}/{run.method.id} seed {run.seed}: {error}")
    except Exception as error:
        traceback.print_exc(file=sys.stderr)
        failures.append(f"{run.pair.id}/{run.method.id} seed {run.seed} failed: {type(error).__name__}: {error}")


def peak_memory_mb(device: torch.device) -> float:
    """Of the whole process so far: resident memory on a CPU, else the device's."""
    if device.type != "cpu":
        return torch.get_device_module(device).max_memory_allocated(device) / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
