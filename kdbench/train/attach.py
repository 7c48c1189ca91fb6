"""One method in a training loop of the user's own, on any two networks: `kdbench.attach`."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from kdbench.methods.base import Distiller
from kdbench.named import NamedReader
from kdbench.plan.blocks import method_of
from kdbench.plan.registry import load_method, method_info
from kdbench.plan.timm_names import FAMILY_OF_MODULE
from kdbench.signals import EVERYTHING, Reader
from kdbench.train.cohort import PREPARE_SAMPLES
from kdbench.train.member import build_distiller
from kdbench.types import KdbenchError, PairShapes, Signals

FEW_SAMPLES = 256
"""A mean over fewer is not known to 6 % of a standard deviation."""


class Attached(nn.Module):
    """Calling it runs student and teacher once and gives the named loss terms of a batch, whose sum is minimised.

    Its parameters and buffers are the method's own: give them to the optimizer beside the student's, and save its
    `state_dict` beside the student's. (C2KD trains a copy of the teacher, which is among them.) `distiller` is the
    method (kdbench/methods/base.py), and `distiller.notes()` says where it departs from its paper on this very pair.
    """

    logits: Tensor
    """(B, classes), the student's of the last batch, with its graph."""

    def __init__(self, name: str, distiller: Distiller, student: Reader, teacher: Reader | None) -> None:
        super().__init__()
        self.distiller = distiller
        self._name, self._student, self._teacher = name, student, teacher

    def forward(self, x: Tensor, target: Tensor, progress: float, index: Tensor | None = None) -> dict[str, Tensor]:
        """x: a batch (B, ...) that both networks read. target: (B,) classes, or (B, classes) soft labels. progress:
        share of the training that is done, in [0, 1]. index: (B,) int64, positions in the training set, for a method
        that keeps something of every sample (crd).

        Raises KdbenchError for another progress, and where an index is missing.
        """
        if not 0 <= progress <= 1:
            raise KdbenchError(f"progress is the share of the training that is done, from 0 to 1, not {progress:g}")
        if index is None and "index" in self.distiller.needs(self.distiller.params):
            raise KdbenchError(
                f"{self._name} keeps something of every sample: give index=, its place in the training set"
            )
        shown = None
        if self._teacher:
            self._teacher.model.eval()
            with torch.no_grad():
                shown = self._teacher(x, index)
        if not self.distiller.training_mode(progress):
            self._student.model.eval()  # the other way round the mode is the user's
        signals = self._student(x, index)
        self.logits = signals.logits
        return self.distiller(signals, shown, target, progress)


def attach(
    student: nn.Module,
    teacher: nn.Module | None,
    method: str,
    *,
    sample: Tensor,
    student_stages: Sequence[str] | None = None,
    teacher_stages: Sequence[str] | None = None,
    train_labels: Sequence[int] | Tensor = (),
    **params: Any,
) -> Attached:
    """A method of kdbench for a training loop of the user's own.

        distil = kdbench.attach(student, teacher, "uhkd", sample=images)
        optimizer = torch.optim.AdamW([*student.parameters(), *distil.parameters()])
        ...
        terms = distil(x, y, progress)
        sum(terms.values()).backward()

    student, teacher: networks, on their device. The student is left as it is, the teacher frozen and kept in evaluation
    mode; None for a method that has no teacher.
    method, params: a name of docs/methods.md or FILE.py:CLASS, and its parameters or `preset`, as in a suite.
    sample: (N, ...) un-augmented training inputs, on that device. Two of them are shown to both networks; all go into
    the statistics of the teacher that uhkd standardises by, for which the engine takes 2,048.
    student_stages, teacher_stages: four names of submodules, whose outputs are the stages (kdbench/named.py says which
    outputs can be). A timm network of a family that suites know needs none.
    train_labels: classes of all training samples in their own order, for a method that keeps something of each (crd).

    What a method draws comes from torch's global RNG, while it is built and in every step. Raises KdbenchError for
    names and parameters that there are not, naming the nearest that there is; for networks that do not show what the
    method reads; and where it does not serve this pair.
    """
    if teacher is None and "teacher" in method_info(method).params:
        params = {"teacher": False} | params
    spec, cls = method_of(method, params, "attach"), load_method(method)
    values = cls.Params(**spec.params)
    needs = cls.needs(values)
    if spec.needs_teacher and teacher is None:
        raise KdbenchError(f"attach: {method} learns from a teacher, and none is given")
    if "index" in needs and not len(train_labels):
        raise KdbenchError(
            f"attach: {method} keeps something of every training sample: give train_labels=, their classes"
        )

    def read_teacher(model: nn.Module) -> Reader:
        return _reader(model.requires_grad_(False).eval(), teacher_stages, sample, "teacher", EVERYTHING)

    readers = {"student": _reader(student, student_stages, sample, "student", needs)}
    if spec.needs_teacher:
        readers["teacher"] = read_teacher(teacher)
    _check(method, cls, needs, readers)
    sides = {role: reader.side for role, reader in readers.items()}
    labels = tuple(torch.as_tensor(train_labels).tolist())
    shapes = PairShapes(sides["student"], sides.get("teacher"), readers["student"].classes, labels)
    distiller = build_distiller(cls, values, shapes, readers["student"], lambda: read_teacher(copy.deepcopy(teacher)))
    if not isinstance(distiller, Distiller):
        bare = [
            f"; name four of its submodules: {role}_stages=[...]" for role, side in sides.items() if not side.stages
        ]
        raise KdbenchError(f"attach: {method} does not serve this pair: {distiller}{''.join(bare[:1])}")
    distiller.to(sample.device)
    if distiller.wants_prepare:
        if len(sample) < FEW_SAMPLES:
            warnings.warn(
                f"{method} standardises by statistics of the teacher over `sample`, which holds {len(sample)} inputs; "
                f"give some hundreds (the engine takes {PREPARE_SAMPLES:,})",
                stacklevel=2,
            )
        distiller.prepare(_signals(readers["teacher"], sample))
    return Attached(method, distiller, readers["student"], readers.get("teacher"))


def _reader(model: nn.Module, stages: Sequence[str] | None, sample: Tensor, role: str, needs: frozenset[str]) -> Reader:
    package, _, module = type(model).__module__.rpartition(".")
    family = FAMILY_OF_MODULE.get(module) if package in ("timm.models", "kdbench.train") else None
    if stages is None and family:
        return Reader(model, (*sample.shape[2:], sample.shape[1]), family, needs)
    return NamedReader(model, stages or (), sample[:2], role, family, needs)


def _check(method: str, cls: type[Distiller], needs: frozenset[str], readers: dict[str, Reader]) -> None:
    """Raises KdbenchError where networks cannot be read as this method reads them."""
    classes = {role: reader.classes for role, reader in readers.items()}
    if len(set(classes.values())) > 1:
        raise KdbenchError(f"attach: the student has {classes['student']} classes, the teacher {classes['teacher']}")
    if cls.timm_teacher and isinstance(readers["teacher"], NamedReader):
        raise KdbenchError(
            f"attach: {method} goes into the layers of its teacher, so it takes a timm network of a family that suites "
            "know, and no teacher_stages"
        )
    for role, reader in readers.items():
        if needs != {"logits"} and not reader.side.pooled:
            raise KdbenchError(
                f"attach: {method} reads the input of the {role}'s classifier, and no Linear or convolution of "
                f"{reader.classes} outputs runs in it"
            )


@torch.no_grad()
def _signals(reader: Reader, sample: Tensor) -> Iterator[Signals]:
    for x in sample.split(256):
        yield reader(x)
