"""RSD: student and teacher channels agree one by one over the batch, and are decorrelated from all others.

"Redundancy Suppression Distillation", ICCV 2025, arXiv 2507.21844; spacewanderx/RSD at e4c7b3d (golden values of the
loss in tests/data). The pooled student feature (B, D_s) goes through Linear to 2 D_s, batch norm, GELU and Linear to
D_t, both Linear without bias and started from a truncated normal of std 0.02, as released; the teacher's (B, D_t) is
taken as it is. Defaults are the released ones: weight 0.1, kappa 0.01, cross-entropy 1 and no KL term (`kd_weight`
adds one). No departures.

Strength: the loss sums over all pairs of the teacher's channels: D_t on the diagonal, and off it kappa D_t^2 squared
correlations, which chance alone makes 1 / B each. So it grows with the teacher's width, and as the batch shrinks.
Weight 0.1 was published for D_t 384 (ViT-S) and 768 (Swin-T, ConvNeXt-T, Mixer-B/16), batch 128 a GPU.
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

TITLE = "RSD"
GROUP = "features"
MAIN_WEIGHT = "weight"
HARNESS = "OFA"
BIBTEX = """
@inproceedings{zhang2025rsd,
  author = {Zhang, Weijia and Liu, Yuehao and Ran, Wu and Ma, Chao},
  title = {Cross-Architecture Distillation Made Simple with Redundancy Suppression},
  booktitle = {IEEE/CVF International Conference on Computer Vision},
  pages = {23256--23266},
  year = {2025},
  eprint = {2507.21844},
  archiveprefix = {arXiv},
}
"""


@dataclass(frozen=True)
class Params:
    ce_weight: float = 1.0
    """Weight of the cross-entropy (released: 1)."""
    weight: float = 0.1
    """Weight of the loss on the correlation matrix (released: 0.1)."""
    kappa: float = 0.01
    """Weight of the matrix' off-diagonal entries (released: 0.01)."""
    kd_weight: float = 0.0
    """Weight of the KL divergence of the logits (released: none)."""
    temperature: float = 1.0
    """Softens both distributions of that KL divergence (OFA harness: 1)."""

    def __post_init__(self) -> None:
        if self.kappa < 0:
            raise KdbenchError(f"rsd: kappa must not be negative, got {self.kappa}")
        if self.temperature <= 0:
            raise KdbenchError(f"rsd: temperature must be above 0, got {self.temperature}")


def standardised(feature: Tensor) -> Tensor:
    """Features (B, D) of mean 0 and biased standard deviation 1 (+ 1e-5) over the batch."""
    return (feature - feature.mean(dim=0)) / (feature.std(dim=0, correction=0) + 1e-5)


def rsd_loss(student_projected: Tensor, teacher_feature: Tensor, kappa: float = 0.01) -> Tensor:
    """Sum of (C - I)^2, off-diagonal entries times kappa; C = t^T s / B of the standardised features (B, D).

    No gradient reaches the teacher.
    """
    with torch.autocast(student_projected.device.type, enabled=False):
        student = standardised(full_precision(student_projected))
        teacher = standardised(full_precision(teacher_feature.detach()))
        correlation = teacher.T @ student / len(student)
        diagonal = correlation.diagonal()
        off_diagonal = correlation.square().sum() - diagonal.square().sum()
        return (diagonal - 1).square().sum() + kappa * off_diagonal


def projector(width: int, teacher_width: int) -> nn.Sequential:
    """(B, width) -> (B, teacher_width), as released."""
    layers = nn.Sequential(
        nn.Linear(width, 2 * width, bias=False),
        nn.BatchNorm1d(2 * width),
        nn.GELU(),
        nn.Linear(2 * width, teacher_width, bias=False),
    )
    for layer in (layers[0], layers[3]):
        nn.init.trunc_normal_(layer.weight, std=0.02)
    return layers


class Method(Distiller):
    Params = Params

    def __init__(self, params: Params, pair: PairShapes) -> None:
        super().__init__(params, pair)
        self.projector = projector(pair.student.pooled, pair.teacher.pooled)

    @classmethod
    def needs(cls, params: Any) -> frozenset[str]:
        return frozenset({"logits", "pooled"})

    def forward(self, student: Signals, teacher: Signals | None, target: Tensor, progress: float) -> dict[str, Tensor]:
        p = self.params
        projected = self.projector(full_precision(student.pooled))
        terms = {
            "ce": p.ce_weight * cross_entropy(student.logits, target),
            "rsd": p.weight * rsd_loss(projected, teacher.pooled, p.kappa),
        }
        return with_kl_term(terms, p, student, teacher)
