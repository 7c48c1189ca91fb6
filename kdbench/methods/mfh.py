"""MFH: the student learns from a teacher that keeps only the channels that both modalities agree on.

Xue et al., "The Modality Focusing Hypothesis", ICLR 2023, arXiv 2206.06487; zihuixue/MFH at e6e4e85. The saliency of
channel i of the teacher's pooled feature (B, D) is the mean distance between student and teacher logits after the
channel has been permuted over the batch, M times: destroying what both modalities share drives them apart. The least
salient channels are removed before the teacher's classifier, and its logits teach the student (KL, no temperature).

                        plain defaults (ours)     preset "ravdess"          preset "vggsound"
    saliency            mean of |s - t|, M 10     mean of (s - t)^2, M 10   (mean of |s - t|, M 100, not used)
    channels kept       1/2                       1/4                       the first half, see below
    a removed channel   is 0                      is its batch mean         is 0
    KL                  batch mean                mean over B and classes   batch mean
    cross-entropy       1                         0                         0

**Defect of the released VGGSound code.** It sorts the channels by saliency and then removes those whose *number* is 256
or more, so it always removes the second half of 512, whatever the saliency. `mask` "fixed_half" is this (and what the
preset "vggsound" takes); "salient", the default, is what the paper says.

When saliency is measured. The sources train a student beforehand: RAVDESS jointly with the teacher (and its numbers are
those of the last batch alone, as each batch overwrites the one before), VGGSound by itself, averaged over the training
set. A second student and a retrained teacher would not be the same budget as other rows, so here (our decision) the
student is its own: for the first `measure_share` of training it learns by cross-entropy alone (weight 1 even where
`ce_weight` is 0), saliency is averaged over batches with a memory of some 20 of them, and from then on the mask stays
and KD begins. "fixed_half" needs none of it: KD from the start.

Departures: the channels are those of the pooled feature before the classifier, which must be one Linear (RAVDESS: the
last hidden layer, 128; VGGSound: 512); a permuted channel changes its logits by one outer product. Batch mean of a
removed channel: of the current batch, as released.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from kdbench.frequency import full_precision
from kdbench.methods.base import Distiller, cross_entropy
from kdbench.methods.kd import kd_loss
from kdbench.types import KdbenchError, PairShapes, Signals

TITLE = "MFH"
GROUP = "cross-modal"
MAIN_WEIGHT = "weight"
HARNESS = "ours"
PRESETS = {
    "ravdess": {"ce_weight": 0.0, "keep": 0.25, "distance": "mse", "removed": "mean", "reduction": "mean"},
    "vggsound": {"ce_weight": 0.0, "permutations": 100, "mask": "fixed_half"},
}
BIBTEX = """
@inproceedings{xue2023mfh,
  author = {Xue, Zihui and others},
  title = {The Modality Focusing Hypothesis: Towards Understanding Crossmodal Knowledge Distillation},
  booktitle = {International Conference on Learning Representations},
  year = {2023},
  eprint = {2206.06487},
  archiveprefix = {arXiv},
}
"""

MEMORY = 0.05
"""Share of a new batch in the running saliency: a memory of some 20 batches, so the untrained student is forgotten."""


@dataclass(frozen=True)
class Params:
    ce_weight: float = 1.0
    """Weight of the cross-entropy once KD has begun (ours: 1, as for the other rows; released: 0)."""
    weight: float = 1.0
    """Weight of the KL divergence from the masked teacher (released: 1)."""
    mask: Literal["salient", "fixed_half"] = "salient"
    """Keep the most salient channels (paper, RAVDESS), or the first half whatever the saliency (VGGSound's defect)."""
    keep: float = 0.5
    """Share of the channels that are kept (RAVDESS: 0.25; VGGSound: 0.5)."""
    permutations: int = 10
    """M, permutations of each channel a batch (RAVDESS: 10; VGGSound: 100)."""
    distance: Literal["l1", "mse"] = "l1"
    """Distance of logits, mean over batch and classes (VGGSound: l1; RAVDESS: mse)."""
    removed: Literal["zero", "mean"] = "zero"
    """What a removed channel holds: 0 (VGGSound), or its mean over the batch (RAVDESS)."""
    reduction: Literal["batchmean", "mean"] = "batchmean"
    """KL summed over classes, averaged over the batch (VGGSound), or averaged over both (RAVDESS)."""
    measure_share: float = 0.25
    """Share of training over which saliency is measured, before KD begins (ours)."""

    def __post_init__(self) -> None:
        if not 0 < self.keep <= 1:
            raise KdbenchError(f"mfh: keep must be above 0 and at most 1, got {self.keep}")
        if self.mask == "fixed_half" and self.keep != 0.5:
            raise KdbenchError(f"mfh: mask fixed_half keeps half of the channels, so keep must be 0.5, got {self.keep}")
        if self.permutations < 1:
            raise KdbenchError(f"mfh: permutations must be above 0, got {self.permutations}")
        if not 0 < self.measure_share < 1:
            raise KdbenchError(f"mfh: measure_share must be between 0 and 1, got {self.measure_share}")


@torch.no_grad()
def saliency(
    teacher_feature: Tensor,
    weight: Tensor,
    teacher_logits: Tensor,
    student_logits: Tensor,
    permutations: int,
    distance: Literal["l1", "mse"] = "l1",
) -> Tensor:
    """(D,): mean distance of student and teacher logits (B, C) after permuting each channel of the feature (B, D).

    weight (C, D): the teacher's classifier. Each channel gets its own `permutations` draws from torch's global RNG.
    """
    feature, weight = full_precision(teacher_feature), full_precision(weight)
    gap = (full_precision(teacher_logits) - full_precision(student_logits))[:, None, :]
    total = feature.new_zeros(feature.shape[1])
    with torch.autocast(feature.device.type, enabled=False):
        for _ in range(permutations):
            order = torch.rand(feature.shape, device=feature.device).argsort(dim=0)
            moved = feature.gather(0, order) - feature
            # 64 channels at a time, since there are B x D x C numbers.
            for i in range(0, len(total), 64):
                difference = moved[:, i : i + 64, None] * weight.T[i : i + 64] + gap
                distances = difference.square() if distance == "mse" else difference.abs()
                total[i : i + 64] += distances.mean(dim=(0, 2))
    return total / permutations


def kept_channels(values: Tensor, keep: float) -> Tensor:
    """(D,) bool: the share `keep` of channels, at least one, of the largest saliency (D,)."""
    number = max(round(keep * len(values)), 1)
    return torch.zeros_like(values, dtype=torch.bool).index_fill(0, values.topk(number).indices, True)


def masked_feature(feature: Tensor, kept: Tensor, removed: Literal["zero", "mean"] = "zero") -> Tensor:
    """Feature (B, D) whose channels outside `kept` (D,) hold 0, or their mean over the batch."""
    return torch.where(kept, feature, feature.mean(dim=0) if removed == "mean" else feature.new_zeros(()))


def mfh_loss(
    student_logits: Tensor, masked_logits: Tensor, reduction: Literal["batchmean", "mean"] = "batchmean"
) -> Tensor:
    """KL(p_masked teacher || p_student) of logits (B, C), batch mean of the sum, or mean over classes too.

    No gradient reaches the teacher.
    """
    return kd_loss(student_logits, masked_logits, 1.0) / (student_logits.shape[1] if reduction == "mean" else 1)


def linear_classifier(teacher: nn.Module) -> nn.Linear:
    """What gives a teacher's logits of its pooled feature. Raises KdbenchError where that is not one Linear, or where
    the network does not say what it is, as timm's do."""
    classifier = teacher.get_classifier() if hasattr(teacher, "get_classifier") else None
    if not isinstance(classifier, nn.Linear):
        raise KdbenchError("the teacher's classifier is not one Linear on its pooled feature")
    return classifier


class Method(Distiller):
    Params = Params
    timm_teacher = True

    def __init__(self, params: Params, pair: PairShapes) -> None:
        super().__init__(params, pair)
        width = pair.teacher.pooled
        # In descending order, so that the fixed half is the first one.
        start = torch.arange(width, 0, -1.0) if params.mask == "fixed_half" else torch.zeros(width)
        self.register_buffer("saliency", start)

    @classmethod
    def needs(cls, params: Any) -> frozenset[str]:
        return frozenset({"logits", "pooled", "teacher"})

    def adopt(self, teacher: nn.Module, read: Callable[[Tensor], Signals]) -> None:
        self.classifier = linear_classifier(teacher)

    def notes(self) -> list[str]:
        if self.params.mask == "fixed_half":
            return ["the second half of the teacher's channels is removed whatever their saliency, as released"]
        percent = f"{100 * self.params.measure_share:g} %"
        return [f"cross-entropy alone for the first {percent} of training, over which saliency is measured"]

    def forward(self, student: Signals, teacher: Signals | None, target: Tensor, progress: float) -> dict[str, Tensor]:
        p = self.params
        ce = cross_entropy(student.logits, target)
        feature = full_precision(teacher.pooled.detach())
        if p.mask == "salient" and progress < p.measure_share:
            logits = teacher.logits.detach(), student.logits.detach()
            measured = saliency(feature, self.classifier.weight, *logits, p.permutations, p.distance)
            self.saliency.lerp_(measured.to(self.saliency.dtype), MEMORY)
            return {"ce": ce, "mfh": torch.zeros_like(ce)}
        kept = kept_channels(self.saliency, p.keep)
        with torch.no_grad(), torch.autocast(feature.device.type, enabled=False):
            masked_logits = self.classifier(masked_feature(feature, kept, p.removed))
        return {"ce": p.ce_weight * ce, "mfh": p.weight * mfh_loss(student.logits, masked_logits, p.reduction)}
