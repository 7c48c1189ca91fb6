"""SP: samples that are alike to the teacher are alike to the student.

Tung, Mori, "Similarity-Preserving Knowledge Distillation", ICCV 2019, arXiv 1907.09682. Equal to `similarity_loss` of
HobbitLong/RepDistiller at b84f547 (golden values in tests/data) and megvii-research/mdistiller at a08d46f.

    G = F F^T of the flattened features (B, D), each row scaled to unit length;   loss = sum (G_t - G_s)^2 / B^2

G is (B, B), so features of any two shapes are compared as they are. Read is the last stage's map, flattened, as
released; `feature` "pooled" reads the pooled feature instead, for networks that show fewer than four stages.

The OFA harness does not define it: the defaults are those of mdistiller and RepDistiller, weight 3000, no KL term.
No departures.

Strength: a row of G has unit length, so the mean over B^2 entries goes with 1 / B: twice as strong at batch 32 as at
64. Grid and width do not count. Weight 3000 was published at batch 64.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from kdbench.frequency import full_precision
from kdbench.methods.base import Distiller, cross_entropy, fewer_than_four_stages
from kdbench.methods.kd import with_kl_term
from kdbench.types import KdbenchError, PairShapes, Signals

TITLE = "SP"
GROUP = "features"
MAIN_WEIGHT = "weight"
HARNESS = "mdistiller"
PRESETS = {"mdistiller": {"temperature": 4.0}}
BIBTEX = """
@inproceedings{tung2019sp,
  author = {Tung, Frederick and Mori, Greg},
  title = {Similarity-Preserving Knowledge Distillation},
  booktitle = {IEEE/CVF International Conference on Computer Vision},
  year = {2019},
  eprint = {1907.09682},
  archiveprefix = {arXiv},
}
"""


@dataclass(frozen=True)
class Params:
    ce_weight: float = 1.0
    """Weight of the cross-entropy (mdistiller: 1)."""
    weight: float = 3000.0
    """Weight of the loss on similarities (mdistiller: 3000)."""
    feature: Literal["map", "pooled"] = "map"
    """What is compared: the last stage's map, flattened (mdistiller, RepDistiller), or the pooled feature."""
    kd_weight: float = 0.0
    """Weight of a KL term beside it (mdistiller: none)."""
    temperature: float = 1.0
    """Softens both distributions of the KL term (OFA harness: 1; RepDistiller: 4)."""

    def __post_init__(self) -> None:
        if self.temperature <= 0:
            raise KdbenchError(f"sp: temperature must be above 0, got {self.temperature}")


def similarities(feature: Tensor) -> Tensor:
    """Gram matrix (B, B) of features (B, ...), its rows scaled to unit length."""
    flat = full_precision(feature).flatten(1)
    with torch.autocast(flat.device.type, enabled=False):
        return F.normalize(flat @ flat.T, dim=1)


def sp_loss(student_feature: Tensor, teacher_feature: Tensor) -> Tensor:
    """Mean squared difference of the two sides' `similarities`; features (B, ...) of any two shapes.

    No gradient reaches the teacher.
    """
    return F.mse_loss(similarities(student_feature), similarities(teacher_feature.detach()))


class Method(Distiller):
    Params = Params

    @classmethod
    def needs(cls, params: Any) -> frozenset[str]:
        return frozenset({"logits", "stages" if params.feature == "map" else "pooled"})

    @classmethod
    def supports(cls, params: Any, pair: PairShapes) -> str | None:
        return fewer_than_four_stages(pair) if params.feature == "map" else None

    def forward(self, student: Signals, teacher: Signals | None, target: Tensor, progress: float) -> dict[str, Tensor]:
        p = self.params
        terms = {
            "ce": p.ce_weight * cross_entropy(student.logits, target),
            "sp": p.weight * sp_loss(self._feature(student), self._feature(teacher)),
        }
        return with_kl_term(terms, p, student, teacher)

    def _feature(self, signals: Signals) -> Tensor:
        return signals.stages[-1] if self.params.feature == "map" else signals.pooled
