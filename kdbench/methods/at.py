"""AT: student and teacher are active at the same places of the image.

Zagoruyko, Komodakis, "Paying More Attention to Attention", ICLR 2017, arXiv 1612.03928; as in
megvii-research/mdistiller at a08d46f and HobbitLong/RepDistiller at b84f547. Four stages, maps (B, C, H, W):

    a      mean over channels of |map|^p, flattened and scaled to unit length
    loss   sum over stages of the mean of (a_s - a_t)^2

The mean is over the batch and all places. Channels are averaged away, so widths may differ. Grids that differ are
brought to the coarser one, the smaller number of cells along each axis, by adaptive average pooling of the maps before
the power, as released for square grids. A grid of one cell has but one place, so its term is 0 (told in the notes).

The OFA harness does not define it: the defaults are those of mdistiller and RepDistiller, p 2 and weight 1000, no KL
term. Departures: tokens of a ViT or an MLP are the maps of their grid, without prefix tokens; four stages instead of a
CIFAR network's three (ResNet) to five; |map|^p is the paper's, the released map^p differs from it for an odd p.

Strength: a has unit length, so a stage's mean goes with 1 / cells of its grid: a stage of 2 x 2 cells weighs 16 times
one of 8 x 8. Batch and width do not count. Weight 1000 was published for grids of 32, 16 and 8 cells a side (CIFAR
ResNets).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from kdbench.frequency import coarser_grid, full_precision
from kdbench.methods.base import Distiller, cross_entropy, fewer_than_four_stages
from kdbench.methods.kd import with_kl_term
from kdbench.types import KdbenchError, PairShapes, Signals

TITLE = "AT"
GROUP = "features"
MAIN_WEIGHT = "weight"
HARNESS = "mdistiller"
PRESETS = {"mdistiller": {"temperature": 4.0}}
BIBTEX = """
@inproceedings{zagoruyko2017at,
  author = {Zagoruyko, Sergey and Komodakis, Nikos},
  title = {Paying More Attention to Attention: Improving the Performance of Convolutional Neural Networks via
    Attention Transfer},
  booktitle = {International Conference on Learning Representations},
  year = {2017},
  eprint = {1612.03928},
  archiveprefix = {arXiv},
}
"""


@dataclass(frozen=True)
class Params:
    ce_weight: float = 1.0
    """Weight of the cross-entropy (mdistiller: 1)."""
    weight: float = 1000.0
    """Weight of the sum over stages (mdistiller: 1000)."""
    p: int = 2
    """Power of the activations (mdistiller: 2)."""
    kd_weight: float = 0.0
    """Weight of a KL term beside it (mdistiller: none)."""
    temperature: float = 1.0
    """Softens both distributions of the KL term (OFA harness: 1; RepDistiller: 4)."""

    def __post_init__(self) -> None:
        if self.p < 1:
            raise KdbenchError(f"at: p must be at least 1, got {self.p}")
        if self.temperature <= 0:
            raise KdbenchError(f"at: temperature must be above 0, got {self.temperature}")


def attention(maps: Tensor, grid: tuple[int, int], p: int) -> Tensor:
    """Where maps (B, C, H, W) are active, on a grid (h, w) no finer than theirs: (B, h w), of unit length."""
    pooled = F.adaptive_avg_pool2d(full_precision(maps), grid)
    return F.normalize(pooled.abs().pow(p).mean(dim=1).flatten(1), dim=1)


def at_loss(student_maps: Sequence[Tensor], teacher_maps: Sequence[Tensor], p: int = 2) -> Tensor:
    """Sum over stages of the mean squared difference of the two sides' `attention`.

    Maps (B, C, H, W), one a stage, of any widths and grids. No gradient reaches the teacher.
    """
    losses = []
    for student, teacher in zip(student_maps, teacher_maps, strict=True):
        grid = coarser_grid(student.shape[-2:], teacher.shape[-2:])
        losses.append(F.mse_loss(attention(student, grid, p), attention(teacher.detach(), grid, p)))
    return torch.stack(losses).sum()


class Method(Distiller):
    Params = Params

    @classmethod
    def needs(cls, params: Any) -> frozenset[str]:
        return frozenset({"logits", "stages"})

    @classmethod
    def supports(cls, params: Any, pair: PairShapes) -> str | None:
        return fewer_than_four_stages(pair)

    def notes(self) -> list[str]:
        grids = [
            coarser_grid(student[1:], teacher[1:])
            for student, teacher in zip(self.pair.student.stages, self.pair.teacher.stages, strict=True)
        ]
        single = [str(stage) for stage, grid in enumerate(grids, start=1) if grid == (1, 1)]
        return [f"the coarser grid has one cell, so the term is 0, at stage {', '.join(single)}"] if single else []

    def forward(self, student: Signals, teacher: Signals | None, target: Tensor, progress: float) -> dict[str, Tensor]:
        p = self.params
        terms = {
            "ce": p.ce_weight * cross_entropy(student.logits, target),
            "at": p.weight * at_loss(student.stages, teacher.stages, p.p),
        }
        return with_kl_term(terms, p, student, teacher)
