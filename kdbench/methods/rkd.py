"""RKD: the student's samples lie at the same relative distances and angles to each other as the teacher's.

Park et al., "Relational Knowledge Distillation", CVPR 2019, arXiv 1904.05068. Equal to `rkd_loss` of
megvii-research/mdistiller at a08d46f (golden values in tests/data). Pooled features (B, D_s) and (B, D_t) of any two
widths: only relations within a batch are compared, so nothing is projected.

    distances   smooth L1 of |x_i - x_j|, divided on each side by its mean over pairs i != j
    angles      smooth L1 of cos(x_j - x_i, x_k - x_i) over all triples i, j, k

Both are means over all entries, those that are 0 by definition among them. Defaults are those of both harnesses:
weights 25 and 50, the whole term with weight 1, eps 1e-12 on the squared distances, no KL term.

The angles hold B^3 numbers a tensor, and a handful of such tensors: 1 MB each at B = 64, 8 MB at 128, 4.3 GB at 1024.

Departures:

- Squared distances are sums of squared differences, where the released |x|^2 + |y|^2 - 2 xy loses the small ones to
  rounding in fp32.
- Two samples with the very same feature have no direction between them and pass no gradient through their angles; the
  released code multiplies it by 1e12 there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from kdbench.frequency import full_precision
from kdbench.methods.base import Distiller, cross_entropy
from kdbench.methods.kd import with_kl_term
from kdbench.types import KdbenchError, Signals

TITLE = "RKD"
GROUP = "features"
MAIN_WEIGHT = "weight"
HARNESS = "OFA"
PRESETS = {"mdistiller": {"temperature": 4.0}}
BIBTEX = """
@inproceedings{park2019rkd,
  author = {Park, Wonpyo and others},
  title = {Relational Knowledge Distillation},
  booktitle = {IEEE/CVF Conference on Computer Vision and Pattern Recognition},
  year = {2019},
  eprint = {1904.05068},
  archiveprefix = {arXiv},
}
"""

EPSILON = 1e-12
"""Smallest squared distance of two different samples."""


@dataclass(frozen=True)
class Params:
    ce_weight: float = 1.0
    """Weight of the cross-entropy (both harnesses: 1)."""
    weight: float = 1.0
    """Weight of the whole term (both harnesses: 1)."""
    distance_weight: float = 25.0
    """Weight of the distances (both harnesses: 25)."""
    angle_weight: float = 50.0
    """Weight of the angles (both harnesses: 50)."""
    kd_weight: float = 0.0
    """Weight of a KL term beside it (both harnesses: none)."""
    temperature: float = 1.0
    """Softens both distributions of the KL term (OFA harness: 1; mdistiller: 4)."""

    def __post_init__(self) -> None:
        if self.temperature <= 0:
            raise KdbenchError(f"rkd: temperature must be above 0, got {self.temperature}")


def relations(x: Tensor) -> tuple[Tensor, Tensor]:
    """Of features (B, D): distances (B, B) over their mean, and cosines (B, B, B), [i, j, k] the angle at i."""
    batch = len(x)
    difference = x.unsqueeze(0) - x.unsqueeze(1)
    squared = difference.square().sum(dim=2)
    distance = squared.clamp_min(EPSILON).sqrt() * (1 - torch.eye(batch, dtype=x.dtype, device=x.device))
    # The places of equal samples are filled before the division, so that its gradient stays 0 there.
    equal = squared == 0
    length = squared.masked_fill(equal, 1.0).sqrt()
    unit = difference / length.unsqueeze(2)
    with torch.autocast(x.device.type, enabled=False):
        cosine = unit @ unit.transpose(1, 2)
    return distance * (batch * (batch - 1) / distance.sum()), cosine


def rkd_loss(
    student_feature: Tensor, teacher_feature: Tensor, distance_weight: float = 25, angle_weight: float = 50
) -> Tensor:
    """distance_weight distances + angle_weight angles of features (B, D_s) and (B, D_t), as above.

    Needs memory for several (B, B, B) tensors, and at least two samples. No gradient reaches the teacher.
    """
    student = relations(full_precision(student_feature).flatten(1))
    with torch.no_grad():
        teacher = relations(full_precision(teacher_feature).flatten(1))
    distances, angles = (F.smooth_l1_loss(ours, theirs) for ours, theirs in zip(student, teacher, strict=True))
    return distance_weight * distances + angle_weight * angles


class Method(Distiller):
    Params = Params

    @classmethod
    def needs(cls, params: Any) -> frozenset[str]:
        return frozenset({"logits", "pooled"})

    def forward(self, student: Signals, teacher: Signals | None, target: Tensor, progress: float) -> dict[str, Tensor]:
        p = self.params
        terms = {
            "ce": p.ce_weight * cross_entropy(student.logits, target),
            "rkd": p.weight * rkd_loss(student.pooled, teacher.pooled, p.distance_weight, p.angle_weight),
        }
        return with_kl_term(terms, p, student, teacher)
