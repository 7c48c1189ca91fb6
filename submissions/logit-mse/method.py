"""Logit MSE: the student's logits are regressed onto the teacher's, beside the cross-entropy.

Ba and Caruana, Do Deep Nets Really Need to be Deep?, NeurIPS 2014, equation 1: the squared difference of the two
networks' logits. Departures: the mean over classes, not the sum, so that the weight does not depend on their number;
and the cross-entropy with the labels beside it, as the other methods here have it. The weight 1 is nobody's finding: it
was not tuned.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from kdbench.methods.base import Distiller, cross_entropy
from kdbench.types import Signals

TITLE = "Logit MSE"
GROUP = "logits"
MAIN_WEIGHT = "weight"
BIBTEX = """
@inproceedings{ba2014deep,
  title = {Do Deep Nets Really Need to be Deep?},
  author = {Ba, Lei Jimmy and Caruana, Rich},
  booktitle = {Advances in Neural Information Processing Systems},
  volume = {27},
  year = {2014},
}
"""


@dataclass(frozen=True)
class Params:
    weight: float = 1.0
    """Of the squared error."""


def logit_mse(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean squared difference of logits (B, C), over samples and classes; no gradient reaches the teacher."""
    return F.mse_loss(student.float(), teacher.detach().float())


class LogitMse(Distiller):
    Params = Params

    def forward(
        self, student: Signals, teacher: Signals | None, target: Tensor, progress: float
    ) -> dict[str, Tensor]:
        return {
            "ce": cross_entropy(student.logits, target),
            "mse": self.params.weight * logit_mse(student.logits, teacher.logits),
        }
