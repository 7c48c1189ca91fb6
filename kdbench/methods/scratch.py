"""No distillation: the student trained with cross-entropy alone, under the same recipe. The reference of every row."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from kdbench.methods.base import Distiller, cross_entropy
from kdbench.types import Signals

TITLE = "Scratch"
GROUP = "reference"


@dataclass(frozen=True)
class Params:
    teacher: bool = False
    """There is none."""


class Method(Distiller):
    Params = Params

    def forward(self, student: Signals, teacher: Signals | None, target: Tensor, progress: float) -> dict[str, Tensor]:
        return {"ce": cross_entropy(student.logits, target)}
