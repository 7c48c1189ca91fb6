"""Does a method keep the contract of kdbench/methods/base.py? Tried on tiny networks of every family.

`check` trains a method for a few steps of the real engine on every pair of families and tells, in sentences, what is
wrong. No finding means: every loss term is a finite fp32 scalar, for hard and soft targets and in bf16 autocast; the
gradient reaches the student and every trainable parameter of the method, and nothing of the teacher; the teacher's
signals, weights and statistics stay as they were; the student's state keeps its names; a run that is written down and
read again, or that has company, goes on bit for bit; and the file says what it is.

`rehearse` takes the same steps on a device that there is not (kdbench/rehearsal.py), and tells what would fail on a
GPU or make the host wait for it.

Neither can tell whether a method computes what its paper says.
"""

from __future__ import annotations

import dataclasses
import inspect
import io
import sys
import traceback
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from kdbench.conformance import rehearsal
from kdbench.methods.base import Distiller
from kdbench.plan.registry import Parameter, load_method
from kdbench.plan.suite import GROUPS
from kdbench.signals import Reader, probe
from kdbench.train import engine, networks
from kdbench.types import KdbenchError, ModelSpec, PairShapes, Recipe, Signals, Suite

CLASSES, BATCH, TRAIN_SIZE = 3, 6, 30
SHAPE = (8, 8, 3)
LABELS = tuple(i % CLASSES for i in range(TRAIN_SIZE))
HARD = torch.tensor(LABELS)
SOFT = 0.7 * F.one_hot(HARD, CLASSES) + 0.1
CPU = torch.device("cpu")
RECIPE = Recipe("conformance", lr=1e-2, batch_size=BATCH, steps=8, warmup=0.0, clip_grad=5.0)
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
_FIELDS = {"stages", "prefix", "pooled", "pooled_preact", "index", "inputs"}
_ANNOTATIONS = ("int", "float", "bool", "str", "Literal[", "tuple[", "None")


def check(
    method: str | type[Distiller],
    params: dict[str, Any] | None = None,
    pairs: Iterable[tuple[ModelSpec, ModelSpec]] = ALL_PAIRS,
    shape: tuple[int, int, int] = SHAPE,
    batch: int = BATCH,
    thorough: bool = True,
) -> list[str]:
    """What is wrong with a method, a sentence each; empty where nothing is.

    method: a registered name, or a Distiller. params: differences from its defaults. pairs: (teacher, student) models
    on inputs of `shape` (H, W, C). Every pair takes a step with hard and one with soft targets; every fourth pair
    (of the nine, those within a family) is also resumed, given company and tried in bf16. thorough: False takes one
    step a pair. A pair that the method does not serve, with a reason, is no finding, unless it serves none.
    """
    cls, name = _named(method)
    if findings := [f"{name}: {finding}" for finding in _static(cls, params or {})]:
        return findings
    chosen = cls.Params(**(params or {}))
    reasons: list[str] = []
    served = 0
    for number, (teacher, student) in enumerate(pairs):
        with torch.random.fork_rng(devices=[]):
            trial = _Trial(cls, chosen, _teacher(chosen, teacher, shape, CPU), student, shape, batch)
            trial.run(both_targets=thorough, resume=thorough and number % 4 == 0)
        if trial.reason is None:
            served += 1
        else:
            reasons.append(trial.reason)
        findings += [f"{name} on {teacher.name} -> {student.name}: {finding}" for finding in trial.findings]
    if not served and not findings:
        findings.append(f"{name}: it serves no pair of families ({'; '.join(dict.fromkeys(map(str, reasons)))})")
    return findings


def rehearse(
    method: str | type[Distiller],
    params: dict[str, Any] | None = None,
    pairs: Sequence[tuple[ModelSpec, ModelSpec]] = ALL_PAIRS,
    recipe: Recipe = RECIPE,
) -> list[str]:
    """What would fail or wait on a GPU, a sentence each; for a method without findings of `check`, arguments as there.

    A step a pair in bf16 autocast, on every fourth pair a second one with soft targets, in a forked process. recipe:
    how the student is trained. Raises KdbenchError where torch is too old for it (rehearsal.why_not).
    """
    cls, name = _named(method)

    def findings(device: torch.device) -> list[str]:
        found, chosen = [], cls.Params(**(params or {}))
        specs = {teacher.name: teacher for teacher, _ in pairs}
        teachers = {name: _teacher(chosen, spec, SHAPE, device) for name, spec in specs.items()}
        for number, (teacher, student) in enumerate(pairs):
            trial = _Trial(cls, chosen, teachers[teacher.name], student, SHAPE, BATCH, device, recipe)
            trial.rehearse(both_targets=number % 4 == 0)
            found += [f"{name} on {teacher.name} -> {student.name}: {finding}" for finding in trial.findings]
        return found

    return rehearsal.on_device(findings)


def _named(method: str | type[Distiller]) -> tuple[type[Distiller], str]:
    if isinstance(method, str):
        return load_method(method), method
    return method, f"{method.__module__}:{method.__name__}"


# -------------------------------------------------------------------------------------------------- what the file says


def _static(cls: type, params: dict[str, Any]) -> Iterator[str]:
    module = sys.modules[cls.__module__]
    if not (module.__doc__ or "").strip():
        yield "its file has no docstring"
    for constant in ("TITLE", "GROUP"):
        if not isinstance(getattr(module, constant, None), str):
            yield f"its file has no text {constant}"
    group = getattr(module, "GROUP", None)
    if isinstance(group, str) and group not in GROUPS:
        yield f"GROUP is {group!r}, not one of {', '.join(GROUPS)}"
    if bool(getattr(module, "MARK", "")) != bool(getattr(module, "FOOTNOTE", "")):
        yield "MARK and FOOTNOTE go together, and one of them is missing"
    parameters = getattr(cls, "Params", None)
    if not (isinstance(parameters, type) and dataclasses.is_dataclass(parameters)):
        yield "it has no dataclass Params"
        return
    if not parameters.__dataclass_params__.frozen:
        yield "Params is not frozen"
    fields = {f.name: f for f in dataclasses.fields(parameters)}
    main = getattr(module, "MAIN_WEIGHT", None)
    if main is not None and main not in fields:
        yield f"MAIN_WEIGHT is {main!r}, which is no field of Params"
    usable = True
    for f in fields.values():
        annotation = f.type if isinstance(f.type, str) else getattr(f.type, "__name__", str(f.type))
        if f.default is dataclasses.MISSING:
            usable = False
            yield f"Params.{f.name} has no default"
        elif not annotation.startswith(_ANNOTATIONS):
            yield f"Params.{f.name} is annotated {annotation!r}, not with int, float, bool, str, Literal or tuple"
        else:
            try:
                Parameter(annotation, None).check(f.default, f"Params.{f.name}")
            except KdbenchError as error:
                yield f"the default does not fit the annotation: {error}"
    if not usable:
        return
    asked = {"these parameters": params} if params else {}
    for label, settings in {"the defaults": {}, **getattr(module, "PRESETS", {}), **asked}.items():
        try:
            parameters(**settings)
        except (KdbenchError, TypeError) as error:
            yield f"Params refuses {label}: {error}"


# ---------------------------------------------------------------------------------------------------- one pair, tried


@dataclasses.dataclass(frozen=True)
class _Data:
    """As much of a Batches as building a teacher asks for."""

    shape: dict[str, tuple[int, int, int]]
    classes: int = CLASSES


def _teacher(params: Any, spec: ModelSpec, shape: tuple[int, int, int], device: torch.device) -> engine.Teacher | None:
    """A teacher for a method of these parameters, if it wants one."""
    if getattr(params, "teacher", True) is False:
        return None
    weights = _trained_alike(networks.build(spec, shape, CLASSES, 1))
    return engine.load_teacher(spec, weights, _Data({spec.input: shape}), device, 1)


class _Trial:
    """One method on one pair. `run` fills `findings`, or `reason` where the pair is not served."""

    def __init__(
        self,
        cls: type[Distiller],
        params: Any,
        teacher: engine.Teacher | None,
        student: ModelSpec,
        shape: tuple[int, int, int],
        batch: int,
        device: torch.device = CPU,
        recipe: Recipe = RECIPE,
    ) -> None:
        self.cls, self.params, self.teacher, self.student = cls, params, teacher, student
        self.shape, self.batch, self.device, self.recipe = shape, batch, device, recipe
        self.teaches = teacher is None
        self.findings: list[str] = []
        self.reason: str | None = None
        height, width, channels = shape
        x = torch.randn(TRAIN_SIZE, channels, height, width, generator=torch.Generator().manual_seed(0))
        self.x = x.to(device)

    def run(self, both_targets: bool, resume: bool) -> None:
        before = _copied(self.teacher.reader.model) if self.teacher else {}
        member = self._new_member("fp32")
        if member is None:
            return
        names = list(member.model.state_dict())
        self._train(member, both_targets)
        if resume and not self.findings:
            self._resume(member)
        if resume and not self.findings:
            self._in_company()
        if self.teacher and not _equal(before, self.teacher.reader.model.state_dict()):
            self.findings.append("the teacher's weights or statistics are changed")
        if list(member.model.state_dict()) != names:
            self.findings.append("the student's state has other names after training than before")
        if resume and not self.findings and (member := self._new_member("bf16")):
            self._step(member, 0, HARD, " in bf16 autocast")

    def rehearse(self, both_targets: bool) -> None:
        """As the engine would, step by step, on the trial's device."""
        steps = [(0, HARD), (5, SOFT)] if both_targets else [(0, HARD)]
        try:
            member = self._new_member("bf16")
            for step, target in steps if member else ():
                index = ((torch.arange(self.batch) + step * self.batch) % TRAIN_SIZE).to(self.device)
                x, target = self.x[index], target.to(self.device)[index]
                shown = None
                with rehearsal.without_waiting(), engine._own_rng(member, self.device):
                    if self.teacher:
                        with torch.no_grad(), self.cohort.autocast():
                            shown = self.teacher.reader(x, index)
                    engine._step(member, self.cohort, self.recipe, x, shown, target, index, step, 8, self.recipe.lr)
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

    def _train(self, member: engine.Member, both_targets: bool) -> None:
        """A step with soft targets late in training, before it one with hard targets at its start."""
        # A method may begin by looking on, and a part of it may idle before there is anything to remember.
        reached: set[str] = set()
        steps = [(5, SOFT, " with soft targets")]
        if both_targets:
            steps = [(0, HARD, ""), (5, SOFT, " with soft targets, at the second step")]
        for step, target, when in steps:
            if self._step(member, step, target, when) is None:
                return
            reached |= {name for name, p in member.distiller.named_parameters() if p.grad is not None}
        if not self.teaches:
            self.findings.append("no term but the cross-entropy 'ce' sends a gradient to the student")
        own = {name for name, p in member.distiller.named_parameters() if p.requires_grad}
        if both_targets and own - reached:
            self.findings.append(f"no gradient reaches its own {_some(own - reached)}")

    def _resume(self, member: engine.Member) -> None:
        """The next step of a run, and of one that goes on from the same state written and read."""
        try:
            buffer = io.BytesIO()
            torch.save(member.state(), buffer)
            buffer.seek(0)
            resumed = self._new_member("fp32", fresh=False)
            resumed.restore(torch.load(buffer, weights_only=True), self.device)
        except Exception as error:
            self.findings.append(f"its state cannot be written and read again: {_told(error)}")
            return
        expected = self._step(member, 6, HARD, " at the third step")
        if expected is None:
            return
        got = self._step(resumed, 6, HARD, " at the third step, resumed")
        if got is None:
            return
        what = _some(name for name in expected if not torch.equal(expected[name], got[name]))
        if not what and not _equal(_copied(member.model), resumed.model.state_dict()):
            what = "the student"
        if what:
            self.findings.append(f"a run resumed from its state goes on differently ({what}): keep it in buffers")

    def _in_company(self) -> None:
        """Two steps of a run alone, and of the same run beside another one of the same method."""
        alone, crowded, neighbour = (self._new_member("fp32") for _ in range(3))
        for member, others in ((alone, ()), (crowded, (neighbour,))):
            for step, target in ((0, HARD), (5, SOFT)):
                for one in (*others, member):
                    if self._step(one, step, target, " in company" if others else "") is None:
                        return
        if not _equal(_copied(alone.model), crowded.model.state_dict()):
            self.findings.append(
                "beside another run it trains otherwise than alone: it keeps something outside of its own modules"
            )

    def _new_member(self, precision: str, fresh: bool = True) -> engine.Member | None:
        """As engine._new_member, for a method that need not be registered; None where it is not to be had."""
        model = networks.build(self.student, self.shape, CLASSES, 0)
        side, last_activation = probe(model, self.shape, self.student.family)
        shapes = PairShapes(side, self.teacher.side if self.teacher else None, CLASSES, LABELS)
        self.cohort = engine.Cohort(
            Suite("conformance", (), (0,), {}, {}, {}, precision=precision), None, self.device, 0, self.teacher
        )
        try:
            copy = self.teacher.copy if self.teacher else None
            distiller = engine.new_distiller(self.cls, self.params, shapes, 0, copy)
            if not isinstance(distiller, Distiller):
                self.reason = distiller
                if not isinstance(self.reason, str) or not self.reason:
                    self.findings.append(f"supports() gives {self.reason!r}, neither None nor a reason")
                return None
            model.to(self.device)
            distiller.to(self.device)
            needs = self.cls.needs(self.params)
            if unknown := needs - engine.EVERYTHING - {"index", "teacher"}:
                self.findings.append(f"needs() asks for {_some(unknown)}, which nobody can give")
                return None
            if fresh and distiller.wants_prepare:
                with self.cohort.autocast(), torch.no_grad():
                    distiller.prepare(map(self.teacher.reader, self.x.split(10)))
            if not all(isinstance(note, str) for note in distiller.notes()):
                self.findings.append("notes() must give sentences")
        except Exception as error:
            self.findings.append(f"it cannot be built: {_told(error)}")
            return None
        optimizer = engine._optimizer(self.recipe, model, distiller)
        read, hidden = Reader(model, needs, last_activation), dict.fromkeys(_FIELDS - needs)
        # The engine may show more than was asked for, when it costs nothing.
        return engine.Member(
            None,
            model,
            lambda *x: dataclasses.replace(read(*x), **hidden),
            distiller,
            optimizer,
            engine._rng(self.device),
        )

    def _step(self, member: engine.Member, step: int, target: Tensor, when: str) -> dict[str, Tensor] | None:
        """One step of the engine; its loss terms, or None where it failed. `when` goes into the findings."""
        index = (torch.arange(self.batch) + step * self.batch) % TRAIN_SIZE
        shown, before = None, {}
        if self.teacher:
            with torch.no_grad(), self.cohort.autocast():
                signals = self.teacher.reader(self.x[index], index)
            shown, before = _watched(signals), _tensors(signals)
        seen: dict[str, Any] = {}

        def look(module: torch.nn.Module, inputs: Any, terms: Any) -> None:
            seen["complaint"] = _complaint(terms)
            if not seen["complaint"]:
                seen["terms"] = {name: term.detach().clone() for name, term in terms.items()}
                self.teaches = self.teaches or self._teaches(member, terms)

        hook = member.distiller.register_forward_hook(look)
        try:
            with engine._own_rng(member, self.device):
                engine._step(
                    member,
                    self.cohort,
                    self.recipe,
                    self.x[index],
                    shown,
                    target[index],
                    index,
                    step,
                    8,
                    self.recipe.lr,
                )
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

    def _teaches(self, member: engine.Member, terms: dict[str, Tensor]) -> bool:
        """Whether anything but the term "ce" sends a gradient to the student."""
        others = [term for name, term in terms.items() if name != "ce" and term.requires_grad]
        if not others:
            return False
        weights = list(member.model.parameters())
        gradients = torch.autograd.grad(sum(others), weights, retain_graph=True, allow_unused=True)
        return any(g is not None and bool(g.any()) for g in gradients)


def _trained_alike(model: torch.nn.Module) -> dict[str, Tensor]:
    """Weights of a teacher that tells its inputs apart: timm starts some heads at zero."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in model.parameters():
            p += 0.1 * torch.randn(p.shape, generator=generator)
    return model.state_dict()


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
