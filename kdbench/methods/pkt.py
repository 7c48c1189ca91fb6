"""PKT: each sample shares its similarity out among the others as the teacher does.

Passalis, Tefas, "Learning Deep Representations with Probabilistic Knowledge Transfer", ECCV 2018, arXiv 1803.10837.
Equal to `PKT` of HobbitLong/RepDistiller at b84f547 (golden values in tests/data) and megvii-research/mdistiller at
a08d46f. Pooled features (B, D_s) and (B, D_t) of any two widths.

    S      (1 + cosine of samples i and j) / 2, each row divided by its sum
    loss   mean over all entries of S_t log(S_t / S_s)

1e-7 is added to lengths and to both sides of the fraction. The scale of a sample's feature does not count.

The OFA harness does not define it: the defaults are those of mdistiller and RepDistiller, weight 30000 (the mean is
over B^2 entries of size 1/B), no KL term. Departure: a feature of zeros has a finite gradient, where that of the
released square root is NaN.

Strength: entries have the size 1 / B, so the mean over B^2 of them goes with 1 / B: twice as strong at batch 32 as at
64. Width does not count. Weight 30000 was published at batch 64.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from kdbench.frequency import full_precision
from kdbench.methods.base import Distiller, cross_entropy
from kdbench.methods.kd import with_kl_term
from kdbench.types import KdbenchError, Signals

TITLE = "PKT"
GROUP = "features"
MAIN_WEIGHT = "weight"
HARNESS = "mdistiller"
PRESETS = {"mdistiller": {"temperature": 4.0}}
BIBTEX = """
@inproceedings{passalis2018pkt,
  author = {Passalis, Nikolaos and Tefas, Anastasios},
  title = {Learning Deep Representations with Probabilistic Knowledge Transfer},
  booktitle = {European Conference on Computer Vision},
  year = {2018},
  eprint = {1803.10837},
  archiveprefix = {arXiv},
}
"""

EPSILON = 1e-7


@dataclass(frozen=True)
class Params:
    ce_weight: float = 1.0
    """Weight of the cross-entropy (mdistiller: 1)."""
    weight: float = 30000.0
    """Weight of the loss on similarities (mdistiller: 30000)."""
    kd_weight: float = 0.0
    """Weight of a KL term beside it (mdistiller: none)."""
    temperature: float = 1.0
    """Softens both distributions of the KL term (OFA harness: 1; RepDistiller: 4)."""

    def __post_init__(self) -> None:
        if self.temperature <= 0:
            raise KdbenchError(f"pkt: temperature must be above 0, got {self.temperature}")


def shares(feature: Tensor) -> Tensor:
    """Of features (B, D): similarities (B, B) of all samples, as probabilities along each row."""
    feature = full_precision(feature).flatten(1)
    unit = feature / (feature.norm(dim=1, keepdim=True) + EPSILON)
    with torch.autocast(unit.device.type, enabled=False):
        similarity = (unit @ unit.T + 1) / 2
    return similarity / similarity.sum(dim=1, keepdim=True)


def pkt_loss(student_feature: Tensor, teacher_feature: Tensor) -> Tensor:
    """KL of the two sides' `shares`, teacher first, as a mean over all B^2 entries. No gradient reaches the teacher."""
    student, teacher = shares(student_feature), shares(teacher_feature.detach())
    return (teacher * ((teacher + EPSILON) / (student + EPSILON)).log()).mean()


class Method(Distiller):
    Params = Params

    @classmethod
    def needs(cls, params: Any) -> frozenset[str]:
        return frozenset({"logits", "pooled"})

    def forward(self, student: Signals, teacher: Signals | None, target: Tensor, progress: float) -> dict[str, Tensor]:
        p = self.params
        terms = {
            "ce": p.ce_weight * cross_entropy(student.logits, target),
            "pkt": p.weight * pkt_loss(student.pooled, teacher.pooled),
        }
        return with_kl_term(terms, p, student, teacher)
