"""What every distillation method is: a Distiller. One file of this folder is one method.

A method's file holds, in this order: a docstring (paper, equations or repository and commit, defaults with their
source, departures); the constants below; a frozen dataclass `Params` of plain literals; its pure loss functions; and
`class Method(Distiller)`. The constants and Params are read when a suite is checked, without running the rest of the
file (kdbench/plan/registry.py), so they must do with literals:

    TITLE = "UHKD"            as a table shows it
    GROUP = "frequency"       heading of the table: reference, logits, features, frequency or cross-modal
    HARNESS = "OFA"           the code base that the default weights come from; a preset is named after its own
    BIBTEX = "@article{..."    how to cite it, one entry
    SHORT = "FD"              the title in figures, where it is too long there
    MARK = "†"                only for what is not known from the paper's own text or code
    FOOTNOTE = "..."          goes with the mark

A parameter named `teacher` of value False says that the method uses no teacher at all.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from kdbench.signals import Reader
from kdbench.types import PairShapes, Signals


class Distiller(nn.Module, ABC):
    """Turns the signals of a student and a teacher into named loss terms.

    It never sees an optimizer, a config file or a device, and runs the student only where it borrows it. Its modules
    (projectors, heads) train with the student, are clipped apart from it unless the recipe says `clip: together`, and
    are dropped at test time. The engine seeds torch's global RNG by (seed, method) before building it and restores the
    method's own RNG stream around every step, so plain `torch.rand`, `nn.Linear(...)` and dropout are deterministic and
    independent of the other methods.
    """

    Params: ClassVar[type]

    def __init__(self, params: Any, pair: PairShapes) -> None:
        super().__init__()
        self.params = params
        self.pair = pair

    @classmethod
    def needs(cls, params: Any) -> frozenset[str]:
        """What it reads: fields of Signals, "teacher" if it is to `adopt` a copy of the teacher, and "student" if it is
        to `borrow` the student."""
        return frozenset({"logits"})

    @classmethod
    def supports(cls, params: Any, pair: PairShapes) -> str | None:
        """None, or why this pair cannot be trained by this method: shown in the table as n/a with a footnote."""
        if cls.equal_widths and pair.student.pooled != pair.teacher.pooled:
            return f"the student's feature is {pair.student.pooled} wide, the teacher's {pair.teacher.pooled}"
        return None

    def notes(self) -> list[str]:
        """Departures on this very pair that a table must tell (a projector that the paper does not have)."""
        return []

    def diagnostics(self) -> dict[str, float]:
        """Numbers about this very run worth recording beside its result; asked for once, after the last step.

        What they are made of is kept in buffers, so that a resumed run gives the same.
        """
        return {}

    def adopt(self, teacher: nn.Module, read: Callable[[Tensor], Signals]) -> None:
        """Called once after building where `needs` says "teacher": a copy of the teacher of its own, in fp32.

        The copy comes frozen and in evaluation mode; a method that trains it makes it a submodule and says so
        (`requires_grad_(True)`, `train()`). `read` runs the copy on `teacher.inputs` (needs "inputs") and shows
        everything. Forward hooks on the copy are the way to change what it computes. A KdbenchError raised here is the
        reason why this pair is n/a.
        """

    def borrow(self, student: Reader) -> None:
        """Called once after building where `needs` says "student": the reader of the network that is trained, for a
        loss at weights that are not its own.

        `student.at(weights, x)` reads it there; needs "inputs" for x. Its weights are the engine's: a method changes
        none of them.
        """

    def training_mode(self, progress: float) -> bool:
        """Whether the student learns in training mode at this share of the training; else it does so in evaluation
        mode, where BatchNorm takes its running statistics as they are and nothing is dropped."""
        return True

    def prepare(self, teacher_batches: Any) -> None:
        """Called once before training with an iterator of teacher Signals over un-augmented training samples (2,048 of
        them, or all where there are fewer).

        For statistics of the teacher that stay frozen (UHKD's standardisation). Only called where `wants_prepare`,
        which a method may also set when it is built.
        """

    wants_prepare: bool = False
    timm_teacher: ClassVar[bool] = False
    """Whether `adopt` goes into the teacher by timm's own names, so that no other network will do."""
    equal_widths: ClassVar[bool] = False
    """Whether it serves those pairs alone whose pooled features have one width."""

    @abstractmethod
    def forward(self, student: Signals, teacher: Signals | None, target: Tensor, progress: float) -> dict[str, Tensor]:
        """Named loss terms, each a scalar, computed in fp32; their sum is minimised.

        target: (B,) int64 classes, or (B, classes) soft labels that sum to 1 (label smoothing, mixup).
        progress: share of the training that is done, in [0, 1].
        The teacher's tensors carry no gradient.
        """


def fewer_than_four_stages(pair: PairShapes, roles: Sequence[str] = ("student", "teacher")) -> str | None:
    """The reason of a method that reads the stages of these networks, where one of them shows too few; else None."""
    for role in roles:
        if len(getattr(pair, role).stages) < 4:
            return f"the {role} shows fewer than four stages"
    return None


def ramp(progress: float, share: float) -> float:
    """A factor that rises linearly from 0 to 1 over the first `share` of the training; 1 throughout where that is 0."""
    return min(progress / share, 1.0) if share else 1.0


def cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """Batch mean of the cross-entropy of logits (B, C) with classes (B,) or soft labels (B, C)."""
    return torch.nn.functional.cross_entropy(logits.float() if logits.dtype != torch.float64 else logits, target)


def hard_target(target: Tensor) -> Tensor:
    """Classes (B,) of a target that may be soft: the arg max."""
    return target if target.ndim == 1 else target.argmax(dim=1)
