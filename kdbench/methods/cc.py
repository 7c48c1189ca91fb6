"""CC: differences between student and teacher embeddings are small where those of the next sample are large.

Peng et al., "Correlation Congruence for Knowledge Distillation", ICCV 2019, arXiv 1904.01802, as released by
HobbitLong/RepDistiller at b84f547 and Hao840/OFAKD at f7bb896 (golden values in tests/data, without the scale):

    d_b = |e_s,b - e_t,b|,   loss = mean over b < B of sum_k d_b,k d_b+1,k

e_s and e_t are Linear embeddings of the pooled features (B, D_s) and (B, D_t) in 128 dimensions. Both are trained, the
teacher's too (the teacher itself is not), so they may agree without any help of the student. Defaults are those of the
OFA harness, which are RepDistiller's: 128 dimensions, weight 0.02, no KL term; mdistiller does not have it.

This is the released formula and not the paper's, which compares kernel matrices of all pairs in a batch. It multiplies
neighbours in the batch, so **its value depends on the order of the samples**, and the last has no successor. The order
is that of the run's seed, the same for all methods. No departures.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from kdbench.frequency import full_precision
from kdbench.methods.base import Distiller, cross_entropy
from kdbench.methods.kd import with_kl_term
from kdbench.types import KdbenchError, PairShapes, Signals

TITLE = "CC"
GROUP = "features"
MAIN_WEIGHT = "weight"
HARNESS = "OFA"
PRESETS = {"mdistiller": {"temperature": 4.0}}
BIBTEX = """
@inproceedings{peng2019cc,
  author = {Peng, Baoyun and others},
  title = {Correlation Congruence for Knowledge Distillation},
  booktitle = {IEEE/CVF International Conference on Computer Vision},
  year = {2019},
  eprint = {1904.01802},
  archiveprefix = {arXiv},
}
"""


@dataclass(frozen=True)
class Params:
    ce_weight: float = 1.0
    """Weight of the cross-entropy (both harnesses: 1)."""
    weight: float = 0.02
    """Weight of the loss on embeddings (OFA harness: correlation-scale, 0.02; RepDistiller: 0.02)."""
    width: int = 128
    """Dimensions of the embeddings (OFA harness and RepDistiller: 128)."""
    kd_weight: float = 0.0
    """Weight of a KL term beside it (both harnesses: none)."""
    temperature: float = 1.0
    """Softens both distributions of the KL term (OFA harness: 1; RepDistiller: 4)."""

    def __post_init__(self) -> None:
        if self.width < 1:
            raise KdbenchError(f"cc: width must be at least 1, got {self.width}")
        if self.temperature <= 0:
            raise KdbenchError(f"cc: temperature must be above 0, got {self.temperature}")


def cc_loss(student_embedding: Tensor, teacher_embedding: Tensor) -> Tensor:
    """Mean over neighbours b, b + 1 in the batch of sum_k d_b,k d_b+1,k, d = |e_s - e_t|; embeddings (B, K).

    Depends on the order of the batch and needs at least two samples. The gradient flows to both embeddings, since the
    teacher's is trained too; give it features without a gradient.
    """
    difference = (full_precision(student_embedding) - full_precision(teacher_embedding)).abs()
    return (difference[:-1] * difference[1:]).sum(dim=1).mean()


class Method(Distiller):
    Params = Params

    def __init__(self, params: Params, pair: PairShapes) -> None:
        super().__init__(params, pair)
        self.embed_student = nn.Linear(pair.student.pooled, params.width)
        self.embed_teacher = nn.Linear(pair.teacher.pooled, params.width)

    @classmethod
    def needs(cls, params: Any) -> frozenset[str]:
        return frozenset({"logits", "pooled"})

    def forward(self, student: Signals, teacher: Signals | None, target: Tensor, progress: float) -> dict[str, Tensor]:
        p = self.params
        with torch.autocast(student.logits.device.type, enabled=False):
            ours = self.embed_student(full_precision(student.pooled))
            theirs = self.embed_teacher(full_precision(teacher.pooled.detach()))
        terms = {
            "ce": p.ce_weight * cross_entropy(student.logits, target),
            "cc": p.weight * cc_loss(ours, theirs),
        }
        return with_kl_term(terms, p, student, teacher)
