"""THE training loop, for teachers and students alike.

A cohort is all runs of one (pair, seed): one teacher forward a batch, each student learning from that batch in its own
way. A step is one batch, or the mean gradient of several where the recipe accumulates.
A member's numbers do not depend on who else is in its cohort: its weights come from (seed, student), its batches from
(seed, epoch, step), and everything random of its own (projectors, dropout, negatives) from a stream (seed, method)
that is restored around each of its steps.
"""

from __future__ import annotations

import contextlib
import resource
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kdbench import checkpoint, supervise
from kdbench.cpu import keep_memory
from kdbench.plan.jobs import Run
from kdbench.plan.registry import load_method
from kdbench.train.cohort import Batch, Cohort, accuracy
from kdbench.train.first_step import gradient_shares
from kdbench.train.member import Member, new_member
from kdbench.train.networks import parameter_count
from kdbench.train.order import stream
from kdbench.types import KdbenchError

LAYOUT = 2
"""Of a training state; one of another layout is left aside, and its runs start anew."""


@dataclass
class Outcome:
    """How one run ended. `record` goes into its JSON; the rest into the files beside it, where there is a result."""

    run: Run
    record: dict[str, Any]
    logits: dict[str, Tensor] = field(default_factory=dict)
    """{"val", "test"}: (N, classes)."""
    weights: dict[str, Tensor] = field(default_factory=dict)


# ------------------------------------------------------------------------------------------------------------ the loop


def train_cohort(
    cohort: Cohort, runs: Iterable[Run], state_file: Path, done: Callable[[Outcome], None], say: Callable[..., None]
) -> None:
    """Train runs of one (pair, seed) side by side, going on from `state_file` where it holds them.

    done: called with each run's Outcome as soon as it is known. say: called with a line for people.
    Raises KdbenchError, after the others are done, when a member failed with an error of its own.
    """
    if cohort.device.type == "cpu":
        keep_memory()
    runs = list(runs)
    saved = checkpoint.load(state_file)
    known = saved["keys"] if saved and saved.get("layout") == LAYOUT else {}
    resumable = [r for r in runs if known.get(r.method.id) == r.state_key]
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
    size, total, steps_per_epoch = cohort.recipe.global_batch, cohort.steps, cohort.steps_per_epoch

    members: list[Member] = []
    for run in runs:
        with _failing_alone(run, failures):
            member = _start(cohort, run, fresh=state is None)
            if isinstance(member, Outcome):
                done(member)
                continue
            if state:
                member.restore(state["members"][run.method.id])
            members.append(member)

    start = state["step"] if state else 0
    seconds_before, started, saved_at = state["seconds"] if state else 0.0, time.monotonic(), time.monotonic()
    order = None
    for step in range(start, total):
        epoch, position = divmod(step, steps_per_epoch)
        if order is None or position == 0:
            order = cohort.batches.order(cohort.seed, epoch)
        for batch in cohort.step_batches(order[position * size : (position + 1) * size], step):
            for member in list(members):
                failed = len(failures)
                with _failing_alone(member.run, failures):
                    _step(cohort, member, batch)
                if len(failures) > failed:
                    members.remove(member)
            del batch  # the teacher's maps make room for the next ones

        finished = step + 1 == total
        if position + 1 == steps_per_epoch or finished:
            for member, outcome in _end_of_epoch(cohort, members, step, epoch, position + 1):
                members.remove(member)
                done(outcome)
            accuracies = " ".join(f"{m.run.method.id} {m.history[-1]['val_accuracy']:.1f}" for m in members)
            say(f"step {step + 1} of {total}, validation: {accuracies}", final=finished)
        if not members:
            break
        if not finished and time.monotonic() - saved_at >= cohort.save_every:
            elapsed = seconds_before + time.monotonic() - started
            checkpoint.save(state_file, _cohort_state(cohort, members, step + 1, elapsed))
            saved_at = time.monotonic()

    elapsed = seconds_before + time.monotonic() - started
    teacher_logits = {}
    if cohort.teacher and members:
        teacher_logits = {split: cohort.teacher_logits(split) for split in ("val", "test")}
    for member in members:
        with _failing_alone(member.run, failures):
            done(_outcome(cohort, member, teacher_logits, elapsed))


def _start(cohort: Cohort, run: Run, fresh: bool) -> Member | Outcome:
    """A run before its first step, or the Outcome "n/a" where its method does not serve this pair."""
    spec = run.method
    method, seed = load_method(spec.method), stream(cohort.seed, "method", spec.stream)
    member = new_member(cohort, method, method.Params(**spec.params), seed, fresh=fresh, run=run, guide=spec.guide)
    return member if isinstance(member, Member) else Outcome(run, {"status": "n/a", "reason": member})


def _step(cohort: Cohort, member: Member, batch: Batch) -> None:
    """One batch of one member, with the last of a step that of its optimizer. Nothing here waits for the device."""
    with member.own_rng(), member.timed(batch.step):
        member.model.train(member.distiller.training_mode(batch.progress))
        with member.counted(batch.step), cohort.autocast():
            signals = member.reader(batch.inputs[cohort.student.input], batch.index)
            terms = member.distiller(signals, batch.shown(member.guide), batch.target, batch.progress)
        if batch.step == batch.part == 0:
            member.gradient_shares = gradient_shares(terms, member.model)
        if batch.part == 0:
            member.optimizer.zero_grad(set_to_none=True)
        with member.counted(batch.step):
            (sum(terms.values()) / cohort.recipe.accumulate).backward()
        if batch.part + 1 == cohort.recipe.accumulate:
            member.take_step(cohort.recipe, batch.rate)
        member.terms = list(terms)
        member.values.append(torch.stack([t.detach().float() for t in terms.values()]))


def _end_of_epoch(
    cohort: Cohort, members: list[Member], last: int, epoch: int, steps: int
) -> list[tuple[Member, Outcome]]:
    """Log an epoch of `steps` steps up to the step `last`; the Outcomes of those members that have diverged."""
    diverged, sound = [], []
    for member in members:
        if bad := member.first_not_finite():
            first = last + 2 - steps + bad[0] // cohort.recipe.accumulate
            record = {"status": "diverged", "reason": f"the term {bad[1]!r} was not finite at step {first}"}
            diverged.append((member, Outcome(member.run, record | _costs(cohort, member))))
        else:
            sound.append(member)
    averaged = [member for member in sound if member.average]
    scores: dict[str, dict[str, float]] = {member.run.method.id: {} for member in sound}
    for split in ("val", "test"):
        found = cohort.scores([*(m.model for m in sound), *(m.average.module for m in averaged)], split)
        for member, (logits, of_model) in zip(sound, found, strict=False):
            member.logits[split] = logits
            scores[member.run.method.id] |= of_model
        for member, (_, of_average) in zip(averaged, found[len(sound) :], strict=True):
            scores[member.run.method.id] |= {f"ema_{name}": value for name, value in of_average.items()}
    for member in sound:
        losses = dict(zip(member.terms, (sum(member.values) / len(member.values)).tolist(), strict=True))
        entry = {"epoch": epoch + 1, "step": last + 1, "lr": cohort.rate(last), "losses": losses}
        member.history.append(entry | scores[member.run.method.id])
        member.values.clear()
    return diverged


def _outcome(cohort: Cohort, member: Member, teacher_logits: dict[str, Tensor], elapsed: float) -> Outcome:
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
            **({f"ema_{s}": last[f"ema_{s}_accuracy"] for s in ("val", "test")} if member.average else {}),
        },
        "nll": {"val": last["val_nll"], "test": last["test_nll"]},
        "agreement": {s: accuracy(member.logits[s], t.argmax(1)) for s, t in teacher_logits.items()} or None,
        **_costs(cohort, member),
        "notes": member.distiller.notes(),
        "diagnostics": member.distiller.diagnostics(),
    }
    record["cost"]["cohort_seconds"] = elapsed
    weights = {k: v.detach().to("cpu", copy=True).contiguous() for k, v in member.model.state_dict().items()}
    return Outcome(member.run, record, {s: v.cpu() for s, v in member.logits.items()}, weights)


def _costs(cohort: Cohort, member: Member) -> dict[str, Any]:
    shares = member.gradient_shares.tolist()
    return {
        "history": member.history,
        "step": {"samples": cohort.recipe.global_batch, "peak_lr": cohort.recipe.peak_lr},
        "gradient_shares": dict(zip(member.terms, shares, strict=True)),
        "cost": {
            "seconds": member.read_clock(),
            "peak_memory_mb": peak_memory_mb(cohort.device),
            "extra_parameters": parameter_count(member.distiller, trained_only=True),
            "student_parameters": parameter_count(member.model),
            "operations_per_step": member.operations,
            "teacher_operations_per_step": cohort.teacher_operations,
        },
    }


# ------------------------------------------------------------------------------------------------- state, time, faults


def _cohort_state(cohort: Cohort, members: list[Member], step: int, seconds: float) -> dict[str, Any]:
    return {
        "layout": LAYOUT,
        "keys": {m.run.method.id: m.run.state_key for m in members},
        "members": {m.run.method.id: m.state() for m in members},
        "step": step,
        "seconds": seconds,
        **cohort.last_bits(),
    }


def _check_resume(saved: dict[str, Any], cohort: Cohort, state_file: Path) -> None:
    for name, value in cohort.last_bits().items():
        if saved.get(name) != value:
            raise KdbenchError(
                f"{state_file} was made with {name} {saved.get(name)} and cannot go on with {name} {value}: the last "
                f"bits would differ; use the same {name}, or delete {state_file.parent} to start this cohort anew"
            )


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
