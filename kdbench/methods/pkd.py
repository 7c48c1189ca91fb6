"""PKD: the student's channels follow the teacher's up to scale and offset, that is, by their Pearson correlation.

Cao et al., "PKD: General Distillation Framework for Object Detectors via Pearson Correlation Coefficient", NeurIPS
2022, arXiv 2207.02039; `PKDLoss` of open-mmlab/mmrazor at 90c7af1f. Each channel is standardised over (N, H, W) on both
sides, unbiased std + 1e-6, then MSE / 2, which is 1 - r averaged over channels. Weight 1 is the default there (6 a
level in its detection configurations); no KL term (`kd_weight` adds one).

It stands here as a row of the cross-modal tables. Which feature FD-CMKD's tables gave it is not known: here the pooled
vector (N, D), whose statistics are over the batch alone; `feature` "map" takes the last stage's map as published.

Departures: features of unequal width are compared after a Linear (pooled) or a 1x1 convolution (map) on the student's
(told in the notes). Student maps are resized wherever a size differs, bilinearly to the teacher's; the released code
looks at the height alone and fails where only widths differ.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdbench.frequency import full_precision
from kdbench.methods.base import Distiller, cross_entropy
from kdbench.methods.kd import with_kl_term
from kdbench.types import KdbenchError, PairShapes, Signals

TITLE = "PKD"
GROUP = "cross-modal"
MAIN_WEIGHT = "weight"
HARNESS = "mmrazor"
BIBTEX = """
@inproceedings{cao2022pkd,
  author = {Cao, Weihan and others},
  title = {{PKD}: General Distillation Framework for Object Detectors via Pearson Correlation Coefficient},
  booktitle = {Advances in Neural Information Processing Systems},
  year = {2022},
  eprint = {2207.02039},
  archiveprefix = {arXiv},
}
"""


@dataclass(frozen=True)
class Params:
    ce_weight: float = 1.0
    """Weight of the cross-entropy (ours: 1, as for the other rows)."""
    weight: float = 1.0
    """Weight of the feature loss (mmrazor: 1)."""
    feature: Literal["pooled", "map"] = "pooled"
    """The pooled vector (FD-CMKD's choice is not known), or the last stage's map (the published form)."""
    kd_weight: float = 0.0
    """Weight of the KL divergence of the logits (mmrazor: none)."""
    temperature: float = 1.0
    """Softens both distributions of that KL divergence (OFA harness: 1)."""

    def __post_init__(self) -> None:
        if self.temperature <= 0:
            raise KdbenchError(f"pkd: temperature must be above 0, got {self.temperature}")


def standardised(feature: Tensor) -> Tensor:
    """Features (N, C, ...) with channels of mean 0 and unbiased standard deviation 1 (+ 1e-6) over all other axes."""
    channels = feature.transpose(0, 1).flatten(1)
    mean, std = channels.mean(dim=1), channels.std(dim=1)
    shape = (1, -1) + (1,) * (feature.ndim - 2)
    return (feature - mean.view(shape)) / (std.view(shape) + 1e-6)


def pkd_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Half the MSE of the `standardised` features, (N, C, H, W) maps or (N, C) vectors; no gradient to the teacher.

    Student maps of another size are resized to the teacher's.
    """
    with torch.autocast(student.device.type, enabled=False):
        student, teacher = full_precision(student), full_precision(teacher.detach())
        if student.shape[2:] != teacher.shape[2:]:
            student = F.interpolate(student, teacher.shape[2:], mode="bilinear")
        return F.mse_loss(standardised(student), standardised(teacher)) / 2


class Method(Distiller):
    Params = Params

    def __init__(self, params: Params, pair: PairShapes) -> None:
        super().__init__(params, pair)
        sides = (pair.student, pair.teacher)
        own, width = (side.pooled if params.feature == "pooled" else side.stages[-1][0] for side in sides)
        self.widths = own, width
        if own == width:
            self.projector = nn.Identity()
        else:
            self.projector = nn.Linear(own, width) if params.feature == "pooled" else nn.Conv2d(own, width, 1)

    @classmethod
    def needs(cls, params: Any) -> frozenset[str]:
        return frozenset({"logits", "pooled" if params.feature == "pooled" else "stages"})

    @classmethod
    def supports(cls, params: Any, pair: PairShapes) -> str | None:
        for name, side in (("student", pair.student), ("teacher", pair.teacher)):
            if params.feature == "map" and not side.stages:
                return f"the {name} shows no stages"
        return None

    def notes(self) -> list[str]:
        if isinstance(self.projector, nn.Identity):
            return []
        own, width = self.widths
        layer = "Linear" if self.params.feature == "pooled" else "1x1 convolution"
        return [f"a {layer} takes the student's feature from {own} to {width} channels first; the paper has none"]

    def forward(self, student: Signals, teacher: Signals | None, target: Tensor, progress: float) -> dict[str, Tensor]:
        p = self.params
        ours, theirs = (s.pooled if p.feature == "pooled" else s.stages[-1] for s in (student, teacher))
        terms = {
            "ce": p.ce_weight * cross_entropy(student.logits, target),
            "pkd": p.weight * pkd_loss(self.projector(full_precision(ours)), theirs),
        }
        return with_kl_term(terms, p, student, teacher)
