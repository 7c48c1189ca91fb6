"""VID: teacher maps are predicted from the student's, as Gaussians with a learned variance a channel.

Ahn et al., "Variational Information Distillation for Knowledge Transfer", CVPR 2019, arXiv 1904.05835; as in
HobbitLong/RepDistiller at b84f547 and megvii-research/mdistiller at a08d46f. Four stages, maps (B, C, H, W):

    mean       three 1x1 convolutions of the student map, all to the teacher's channels, without bias, ReLU between
    variance   log(1 + exp(s_c)) + 1e-5, one a channel of the teacher, 5 at the start
    loss       sum over stages of the mean of ((map_t - mean)^2 / variance + log variance) / 2

The mean is over batch, channels and places. This is a negative log-likelihood without its constant: it may be negative.
Grids that differ are brought to the coarser one, the smaller number of cells along each axis, by adaptive average
pooling of the finer map, as released for square grids.

The OFA harness does not define it: the defaults are those of mdistiller and RepDistiller, weight 1, no KL term.

Departures and defects:

- Tokens of a ViT or an MLP are the maps of their grid, without prefix tokens; there are four stages, where a CIFAR
  network of those harnesses has three (ResNet) to five.
- mdistiller hides the variances from its optimizer, so that they stay at 5; here they are trained, as in RepDistiller.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdbench.frequency import coarser_grid, full_precision
from kdbench.methods.base import Distiller, cross_entropy, fewer_than_four_stages
from kdbench.methods.kd import with_kl_term
from kdbench.types import KdbenchError, PairShapes, Signals

TITLE = "VID"
GROUP = "features"
MAIN_WEIGHT = "weight"
HARNESS = "mdistiller"
PRESETS = {"mdistiller": {"temperature": 4.0}}
BIBTEX = """
@inproceedings{ahn2019vid,
  author = {Ahn, Sungsoo and others},
  title = {Variational Information Distillation for Knowledge Transfer},
  booktitle = {IEEE/CVF Conference on Computer Vision and Pattern Recognition},
  year = {2019},
  eprint = {1904.05835},
  archiveprefix = {arXiv},
}
"""

EPSILON = 1e-5
"""Smallest variance."""


@dataclass(frozen=True)
class Params:
    ce_weight: float = 1.0
    """Weight of the cross-entropy (mdistiller: 1)."""
    weight: float = 1.0
    """Weight of the sum over stages (mdistiller: 1)."""
    initial_variance: float = 5.0
    """Variance of every channel at the start (mdistiller: 5)."""
    kd_weight: float = 0.0
    """Weight of a KL term beside it (mdistiller: none)."""
    temperature: float = 1.0
    """Softens both distributions of the KL term (OFA harness: 1; RepDistiller: 4)."""

    def __post_init__(self) -> None:
        if self.initial_variance <= EPSILON:
            raise KdbenchError(f"vid: initial_variance must be above {EPSILON}, got {self.initial_variance}")
        if self.temperature <= 0:
            raise KdbenchError(f"vid: temperature must be above 0, got {self.temperature}")


def vid_loss(predicted_maps: Tensor, variance: Tensor, teacher_maps: Tensor) -> Tensor:
    """Mean of ((teacher - predicted)^2 / variance + log variance) / 2; maps (B, C, H, W), variance (C,).

    Gradients flow to the prediction and to the variance, none to the teacher.
    """
    variance = full_precision(variance).view(-1, 1, 1)
    squared = (full_precision(predicted_maps) - full_precision(teacher_maps.detach())).square()
    return (squared / variance + variance.log()).mean() / 2


class Stage(nn.Module):
    """One student stage against one teacher stage: maps (B, C_s, H, W) and (B, C_t, H', W') -> loss."""

    def __init__(self, student_channels: int, teacher_channels: int, initial_variance: float) -> None:
        super().__init__()
        self.regressor = nn.Sequential(
            nn.Conv2d(student_channels, teacher_channels, 1, bias=False),
            nn.ReLU(),
            nn.Conv2d(teacher_channels, teacher_channels, 1, bias=False),
            nn.ReLU(),
            nn.Conv2d(teacher_channels, teacher_channels, 1, bias=False),
        )
        start = math.log(math.expm1(initial_variance - EPSILON))
        self.log_scale = nn.Parameter(torch.full((teacher_channels,), start))

    @property
    def variance(self) -> Tensor:
        return F.softplus(self.log_scale) + EPSILON

    def forward(self, student_maps: Tensor, teacher_maps: Tensor) -> Tensor:
        grid = coarser_grid(student_maps.shape[-2:], teacher_maps.shape[-2:])
        student, teacher = (F.adaptive_avg_pool2d(full_precision(m), grid) for m in (student_maps, teacher_maps))
        return vid_loss(self.regressor(student), self.variance, teacher)


class Method(Distiller):
    Params = Params

    def __init__(self, params: Params, pair: PairShapes) -> None:
        super().__init__(params, pair)
        self.stages = nn.ModuleList(
            Stage(student[0], teacher[0], params.initial_variance)
            for student, teacher in zip(pair.student.stages, pair.teacher.stages, strict=True)
        )

    @classmethod
    def needs(cls, params: Any) -> frozenset[str]:
        return frozenset({"logits", "stages"})

    @classmethod
    def supports(cls, params: Any, pair: PairShapes) -> str | None:
        return fewer_than_four_stages(pair)

    def forward(self, student: Signals, teacher: Signals | None, target: Tensor, progress: float) -> dict[str, Tensor]:
        p = self.params
        with torch.autocast(student.logits.device.type, enabled=False):
            losses = [
                stage(ours, theirs.detach())
                for stage, ours, theirs in zip(self.stages, student.stages, teacher.stages, strict=True)
            ]
        terms = {
            "ce": p.ce_weight * cross_entropy(student.logits, target),
            "vid": p.weight * torch.stack(losses).sum(),
        }
        return with_kl_term(terms, p, student, teacher)
