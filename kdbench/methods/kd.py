"""KD: the student matches the teacher's softened class probabilities.

Hinton, Vinyals, Dean, "Distilling the Knowledge in a Neural Network", arXiv 1503.02531. Equal to `kd_loss` of
Hao840/OFAKD at f7bb896 (golden values in tests/data). Defaults are those of the OFA harness, the one of the
heterogeneous tables: temperature 1 and both weights 1; megvii-research/mdistiller at a08d46f has temperature 4,
cross-entropy 0.1 and KD 0.9 instead. Weights of the two harnesses are not to be mixed. No departures.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from kdbench.frequency import full_precision
from kdbench.methods.base import Distiller, cross_entropy
from kdbench.types import KdbenchError, Signals

TITLE = "KD"
GROUP = "logits"
MAIN_WEIGHT = "kd_weight"
TUNE_TEMPERATURE = "temperature"
HARNESS = "OFA"
PRESETS = {"mdistiller": {"ce_weight": 0.1, "kd_weight": 0.9, "temperature": 4.0}}
BIBTEX = """
@article{hinton2015kd,
  author = {Hinton, Geoffrey and Vinyals, Oriol and Dean, Jeff},
  title = {Distilling the Knowledge in a Neural Network},
  journal = {arXiv preprint arXiv:1503.02531},
  year = {2015},
}
"""


@dataclass(frozen=True)
class Params:
    ce_weight: float = 1.0
    """Weight of the cross-entropy (OFA harness: 1; mdistiller: 0.1)."""
    kd_weight: float = 1.0
    """Weight of the KL divergence (OFA harness: 1; mdistiller: 0.9)."""
    temperature: float = 1.0
    """Softens both distributions (OFA harness: 1; mdistiller: 4)."""

    def __post_init__(self) -> None:
        if self.temperature <= 0:
            raise KdbenchError(f"kd: temperature must be above 0, got {self.temperature}")


def kd_loss(student_logits: Tensor, teacher_logits: Tensor, temperature: float) -> Tensor:
    """T^2 KL(p_teacher || p_student), p = softmax(logits / T): summed over classes, averaged over the batch.

    Logits (B, C); scalar out; no gradient reaches the teacher.
    """
    log_student = F.log_softmax(full_precision(student_logits) / temperature, dim=1)
    log_teacher = F.log_softmax(full_precision(teacher_logits.detach()) / temperature, dim=1)
    return F.kl_div(log_student, log_teacher, reduction="batchmean", log_target=True) * temperature**2


def with_kl_term(terms: dict[str, Tensor], params: Any, student: Signals, teacher: Signals) -> dict[str, Tensor]:
    """A method's loss terms and the KL term on the logits beside them, where its `kd_weight` is not 0."""
    if not params.kd_weight:
        return terms
    return terms | {"kd": params.kd_weight * kd_loss(student.logits, teacher.logits, params.temperature)}


class Method(Distiller):
    Params = Params

    def forward(self, student: Signals, teacher: Signals | None, target: Tensor, progress: float) -> dict[str, Tensor]:
        p = self.params
        return {
            "ce": p.ce_weight * cross_entropy(student.logits, target),
            "kd": p.kd_weight * kd_loss(student.logits, teacher.logits, p.temperature),
        }
