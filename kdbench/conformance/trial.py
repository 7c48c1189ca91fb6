"""One method on one pair of tiny networks, step by step through the real engine."""

from __future__ import annotations

import dataclasses
import inspect
import io
import traceback
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from kdbench.conformance import rehearsal
from kdbench.conformance.networks import TRAIN_SIZE
from kdbench.methods.base import Distiller
from kdbench.plan.blocks import GUIDES
from kdbench.signals import EVERYTHING
from kdbench.train.cohort import Cohort
from kdbench.train.engine import _step
from kdbench.train.member import Member, new_member
from kdbench.types import Guide, Signals

HARD, SOFT, THIRD = 0, 5, 6
"""Steps that are taken: the first with hard targets, one with soft targets late in training, and the one after it."""
_FIELDS = {"stages", "prefix", "pooled", "pooled_preact", "index", "inputs"}


class Trial:
    """`run` and `rehearse` fill `findings`, or `reason` where the pair is not served."""

    def __init__(self, cls: type[Distiller], params: Any, cohort: Cohort) -> None:
        self.cls, self.params, self.cohort = cls, params, cohort
        self.teaches = cohort.teacher is None
        self.findings: list[str] = []
        self.reason: str | None = None

    def run(self, both_targets: bool, resume: bool) -> None:
        before = _copied(self.cohort.teacher.reader.model) if self.cohort.teacher else {}
        member = self.new_member()
        if member is None:
            return
        names = list(member.model.state_dict())
        self._train(member, both_targets)
        if resume and not self.findings:
            self._resume(member)
        if resume and not self.findings:
            self._in_company()
        if resume and not self.findings and self.cohort.teacher:
            self._under_controls()
        if self.cohort.teacher and not _equal(before, self.cohort.teacher.reader.model.state_dict()):
            self.findings.append("the teacher's weights or statistics are changed")
        if list(member.model.state_dict()) != names:
            self.findings.append("the student's state has other names after training than before")
        if resume and not self.findings:
            self.cohort = dataclasses.replace(self.cohort, precision="bf16")
            if member := self.new_member():
                self.step(member, HARD, " in bf16 autocast")

    def rehearse(self, both_targets: bool) -> None:
        """On the cohort's device, in bf16; what waits for it is a finding."""
        self.cohort = dataclasses.replace(self.cohort, precision="bf16")
        try:
            member = self.new_member()
            for step in (HARD, SOFT)[: 1 + both_targets] if member else ():
                index = self._index(step)
                with rehearsal.without_waiting():
                    _step(self.cohort, member, self.cohort.batch(index, step))
        except rehearsal.Waits as error:
            self.findings.append(f"on a GPU it would wait at every step: {error}{self._where(error)}")
        except rehearsal.LeftOnCpu as error:
            self.findings.append(f"on a GPU it would fail: {error}{self._where(error)}")
        except Exception as error:
            self.findings.append(f"on a GPU it would fail: {_told(error)}{self._where(error)}")

    def _where(self, error: Exception) -> str:
        """The last line of the method's own file that led to an error, if any (there is none in a backward pass)."""
        file = inspect.getsourcefile(self.cls)
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
        return f" (line {lines[-1]} of its file)" if lines else ""

    def _train(self, member: Member, both_targets: bool) -> None:
        """A step with soft targets late in training, before it one with hard targets at its start."""
        # A method may begin by looking on, and a part of it may idle before there is anything to remember.
        reached: set[str] = set()
        steps = {SOFT: " with soft targets"}
        if both_targets:
            steps = {HARD: "", SOFT: " with soft targets, at the second step"}
        for step, when in steps.items():
            if self.step(member, step, when) is None:
                return
            reached |= {name for name, p in member.distiller.named_parameters() if p.grad is not None}
        if not self.teaches:
            self.findings.append("no term but the cross-entropy 'ce' sends a gradient to the student")
        own = {name for name, p in member.distiller.named_parameters() if p.requires_grad}
        if both_targets and own - reached:
            self.findings.append(f"no gradient reaches its own {_some(own - reached)}")

    def _resume(self, member: Member) -> None:
        """The next step of a run, and of one that goes on from the same state written and read."""
        try:
            buffer = io.BytesIO()
            torch.save(member.state(), buffer)
            buffer.seek(0)
            resumed = self.new_member(fresh=False)
            resumed.restore(torch.load(buffer, weights_only=True))
        except Exception as error:
            self.findings.append(f"its state cannot be written and read again: {_told(error)}")
            return
        expected = self.step(member, THIRD, " at the third step")
        if expected is None:
            return
        got = self.step(resumed, THIRD, " at the third step, resumed")
        if got is None:
            return
        what = _some(name for name in expected if not torch.equal(expected[name], got[name]))
        if not what and not _equal(_copied(member.model), resumed.model.state_dict()):
            what = "the student"
        if what:
            self.findings.append(f"a run resumed from its state goes on differently ({what}): keep it in buffers")

    def _in_company(self) -> None:
        """Two steps of a run alone, and of the same run beside another one of the same method."""
        alone, crowded, neighbour = (self.new_member() for _ in range(3))
        for member, others in ((alone, ()), (crowded, (neighbour,))):
            for step in (HARD, SOFT):
                for one in (*others, member):
                    if self.step(one, step, " in company" if others else "") is None:
                        return
        if not _equal(_copied(alone.model), crowded.model.state_dict()):
            self.findings.append(
                "beside another run it trains otherwise than alone: it keeps something outside of its own modules"
            )

    def _under_controls(self) -> None:
        """A step of a run whose teacher is untrained, and of one whose teacher's signals are of other samples."""
        for guide in GUIDES:
            if member := self.new_member(guide=guide):
                self.step(member, HARD, f" with {'an' if guide[0] == 'u' else 'a'} {guide} teacher")

    def new_member(self, fresh: bool = True, guide: Guide = "trained") -> Member | None:
        """As the engine builds it, but shown nothing that it did not ask for; None where it is not to be had."""
        try:
            needs = self.cls.needs(self.params)
            if unknown := needs - EVERYTHING - {"index", "teacher", "student"}:
                self.findings.append(f"needs() asks for {_some(unknown)}, which nobody can give")
                return None
            member = new_member(self.cohort, self.cls, self.params, 0, fresh=fresh, guide=guide)
            if not isinstance(member, Member):
                self.reason = member
                if not isinstance(self.reason, str) or not self.reason:
                    self.findings.append(f"supports() gives {self.reason!r}, neither None nor a reason")
                return None
            if not all(isinstance(note, str) for note in member.distiller.notes()):
                self.findings.append("notes() must give sentences")
        except Exception as error:
            self.findings.append(f"it cannot be built: {_told(error)}")
            return None
        # The engine may show more than was asked for, when it costs nothing.
        hidden = dict.fromkeys(_FIELDS - needs)
        member.distiller.register_forward_pre_hook(
            lambda module, inputs: (dataclasses.replace(inputs[0], **hidden), *inputs[1:])
        )
        return member

    def _index(self, step: int) -> Tensor:
        size = self.cohort.recipe.batch_size
        return ((torch.arange(size) + step * size) % TRAIN_SIZE).to(self.cohort.device)

    def step(self, member: Member, step: int, when: str = "") -> dict[str, Tensor] | None:
        """One step of the engine; its loss terms, or None where it failed. `when` goes into the findings."""
        batch, before = self.cohort.batch(self._index(step), step), {}
        shown = batch.teacher
        if shown:
            shown, before = _watched(shown), _tensors(shown)
            batch = dataclasses.replace(batch, teacher=shown)
        seen: dict[str, Any] = {}

        def look(module: torch.nn.Module, inputs: Any, terms: Any) -> None:
            seen["complaint"] = _complaint(terms)
            if not seen["complaint"]:
                seen["terms"] = {name: term.detach().clone() for name, term in terms.items()}
                self.teaches = self.teaches or self._teaches(member, terms)

        hook = member.distiller.register_forward_hook(look)
        try:
            _step(self.cohort, member, batch)
        except Exception as error:
            self.findings.append(seen.get("complaint") or f"it fails{when}: {_told(error)}")
            return None
        finally:
            hook.remove()
        found = [seen["complaint"]] if seen["complaint"] else []
        values = seen.get("terms", {})
        found += [f"the term {name!r} is not finite{when}" for name, value in values.items() if not value.isfinite()]
        gradients = [p.grad for p in member.model.parameters() if p.grad is not None]
        if not any(g.any() for g in gradients):
            found.append(f"no gradient reaches the student{when}")
        if shown:
            leaked = [name for name, tensor in _tensors(shown).items() if tensor.grad is not None]
            if leaked:
                found.append(f"a gradient reaches the teacher's {_some(leaked)}{when}; detach them")
            changed = [name for name, tensor in _tensors(shown).items() if not _same(tensor, before[name])]
            if changed:
                found.append(f"it changes the teacher's {_some(changed)} in place{when}, which other methods read too")
        self.findings += found
        return None if found else values

    def _teaches(self, member: Member, terms: dict[str, Tensor]) -> bool:
        """Whether anything but the term "ce" sends a gradient to the student."""
        others = [term for name, term in terms.items() if name != "ce" and term.requires_grad]
        if not others:
            return False
        weights = list(member.model.parameters())
        gradients = torch.autograd.grad(sum(others), weights, retain_graph=True, allow_unused=True)
        return any(g is not None and bool(g.any()) for g in gradients)


def _complaint(terms: Any) -> str | None:
    """What is wrong with what `forward` gave, values aside."""
    if not isinstance(terms, dict) or not terms or not all(isinstance(t, Tensor) for t in terms.values()):
        return f"forward() must give named loss terms, a dict of tensors, not {type(terms).__name__}"
    if odd := [name for name, term in terms.items() if term.ndim]:
        return f"the terms {_some(odd)} are no scalars"
    if odd := [f"{name} ({term.dtype})" for name, term in terms.items() if term.dtype != torch.float32]:
        return f"the terms {_some(odd)} are not computed in fp32"
    return None


def _tensors(signals: Signals) -> dict[str, Tensor]:
    """{name: tensor} of what a method may read of a teacher, "stages.0" and so on for tuples."""
    found = {}
    for field in ("logits", "stages", "prefix", "pooled", "pooled_preact"):
        value = getattr(signals, field)
        if isinstance(value, Tensor):
            found[field] = value
        elif value is not None:
            found |= {f"{field}.{i}": tensor for i, tensor in enumerate(value)}
    return found


def _watched(signals: Signals) -> Signals:
    """The same signals as leaves that would take a gradient."""

    def leaf(value: Any) -> Any:
        if isinstance(value, tuple):
            return tuple(map(leaf, value))
        return None if value is None else value.clone().requires_grad_()

    return dataclasses.replace(
        signals, **{f: leaf(getattr(signals, f)) for f in ("logits", "stages", "prefix", "pooled", "pooled_preact")}
    )


def _copied(module: torch.nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def _equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(_same(a[name], b[name]) for name in a)


def _same(a: Tensor, b: Tensor) -> bool:
    return torch.equal(a, b) or bool(((a == b) | (a.isnan() & b.isnan())).all())


def _told(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'without a word'}"


def _some(names: Iterable[str]) -> str:
    """A few names, and how many more there are."""
    names = sorted(names)
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
