"""Does a method keep the contract of kdbench/methods/base.py? Tried on tiny networks of every family.

`check` trains a method for a few steps of the real engine on every pair of families and says, in sentences, what is
wrong. No finding means: every loss term is a finite fp32 scalar, for hard and soft targets and in bf16 autocast; the
gradient reaches the student and every trainable parameter of the method, and nothing of the teacher; the teacher's
signals, weights and statistics stay as they were; the student's state keeps its names; a run that is written down and
read again, or that has company, goes on bit for bit; it runs with an untrained and with a shuffled teacher; and the
file says what it is.

`rehearse` takes the same steps on a simulated device (rehearsal.py), and says what would fail on a GPU or make the host
wait for it.

Neither can tell whether a method computes what its paper says.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch

from kdbench.conformance import rehearsal
from kdbench.conformance.networks import BATCH, RECIPE, SHAPE, pairs_for, tiny_cohort
from kdbench.conformance.trial import Trial
from kdbench.methods.base import Distiller
from kdbench.plan.blocks import GROUPS
from kdbench.plan.registry import Parameter, load_method
from kdbench.types import KdbenchError, ModelSpec, Recipe

_ANNOTATIONS = ("int", "float", "bool", "str", "Literal[", "tuple[", "None")


def check(
    method: str | type[Distiller],
    params: dict[str, Any] | None = None,
    pairs: Iterable[tuple[ModelSpec, ModelSpec]] | None = None,
    shape: tuple[int, int, int] = SHAPE,
    batch: int = BATCH,
    thorough: bool = True,
) -> list[str]:
    """What is wrong with a method, a sentence each; empty where nothing is.

    method: a registered name, or a Distiller. params: differences from its defaults. pairs: (teacher, student) models
    on inputs of `shape` (H, W, C), by default of all families. Every pair takes a step with hard and one with soft
    targets; every fourth pair (of the nine, those within a family) is also resumed, given company, tried in bf16 and
    under both controls. thorough: False takes one step a pair. A pair that the method does not serve, with a reason, is
    no finding, unless it serves none.
    """
    cls, name = _named(method)
    if findings := [f"{name}: {finding}" for finding in _static(cls, params or {})]:
        return findings
    chosen = cls.Params(**(params or {}))
    reasons: list[str] = []
    served = 0
    for number, (teacher, student) in enumerate(pairs_for(cls) if pairs is None else pairs):
        with torch.random.fork_rng(devices=[]):
            recipe = dataclasses.replace(RECIPE, batch_size=batch)
            trial = Trial(cls, chosen, tiny_cohort(chosen, teacher, student, shape, recipe))
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
    pairs: Sequence[tuple[ModelSpec, ModelSpec]] | None = None,
    recipe: Recipe = RECIPE,
) -> list[str]:
    """What would fail or wait on a GPU, a sentence each; for a method without findings of `check`, arguments as there.

    A step a pair in bf16 autocast, on every fourth pair a second one with soft targets, in a forked process. recipe:
    how the student is trained. Raises KdbenchError where torch is too old for it (rehearsal.why_not).
    """
    cls, name = _named(method)

    def findings(device: torch.device) -> list[str]:
        found, chosen = [], cls.Params(**(params or {}))
        for number, (teacher, student) in enumerate(pairs_for(cls) if pairs is None else pairs):
            trial = Trial(cls, chosen, tiny_cohort(chosen, teacher, student, SHAPE, recipe, device))
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
    for constant in ("MAIN_WEIGHT", "TUNE_TEMPERATURE"):
        tuned = getattr(module, constant, None)
        if tuned is not None and tuned not in fields:
            yield f"{constant} is {tuned!r}, which is no field of Params"
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
