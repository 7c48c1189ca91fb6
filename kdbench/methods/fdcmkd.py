"""FD-CMKD: cross-modal distillation with a strong loss on the low and a weak one on the high channel band.

Liu et al., "Distilling Cross-Modal Knowledge via Feature Disentanglement", AAAI 2026, arXiv 2511.19887. Equations are
known from a transcription, code from a re-upload (zxn0710/re-FD-CMKD-main at feda414), hence the mark. The feature is
the pooled vector before the last activation, (B, D); its bands are those of `frequency.split_channels`.

    low    MSE of unit-length low bands                                                   (Eq. 8)
    high   MSE of s(unit-length high bands), s(x) = sign(x) log(1 + |x|)                  (Eq. 9)
    align  CE of two classifiers, one a band, shared by student and teacher               (Eq. 10)

`variant` says which source is followed, where they differ:

                           code (the default)                       paper
    task loss              CE of the main head and of two heads     CE of the main head
                           of the student's own, one a band
    what the heads see     low band without its DC component        low band with it (the masks of Eq. 2)
    lambda_low, _high      1 and 1                                  not known: 1 and 1 here, to be tuned (`weight`)

Heads are Linear after a ReLU, as released; all are dropped at test time: the main head alone counts. The released code
reports the best of three heads and of all epochs on test; that is logged and decides nothing.

Strength: unit-length vectors have entries of size 1/sqrt(D), so the feature losses go with 1 / D: with weight 1 they
are some 0.06 % of the loss at the start. `times_width` multiplies them by D. Batch and grid do not count. Published for
D 512 (ResNet18), batch 64.

Controls are parameters: `align_weight` 0, both lambdas 0, `low_distance` and `high_distance`, `keep_dc`, and

- heads only: is the teacher doing it? Own heads alone, in either variant. `weight` 0 with `align_weight` 0 takes
  nothing of the teacher but its width, so that the heads read the Linear of the method where widths differ. `teacher`
  False is the same where widths agree, and is trained once a student instead of once a pair.
- `split`: is frequency doing it? "random" cuts the space without the channel mean into two random orthogonal parts of
  the two bands' ranks, "permuted" transforms the channels in a random order; both are fixed, the same on both sides.

Departures: features of unequal width are compared after a Linear on the student's, before the transform (told in the
notes); teacher and student are one pair, where the released code trains both directions in one loop without anything
shared between them. A network without a last activation (ViT, MLP) is read after its final norm.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdbench.frequency import full_precision, split_channels
from kdbench.methods.base import Distiller, cross_entropy
from kdbench.types import PairShapes, Signals

TITLE = "FD-CMKD"
SHORT = "FD"
GROUP = "cross-modal"
MAIN_WEIGHT = "weight"
HARNESS = "FD-CMKD"
MARK = "‡"
FOOTNOTE = "known from a transcription of the paper and a re-upload of its code"
BIBTEX = """
@inproceedings{liu2026fdcmkd,
  author = {Liu and Zhang and Huang and Xu and Yang},
  title = {Distilling Cross-Modal Knowledge via Feature Disentanglement},
  booktitle = {Proceedings of the AAAI Conference on Artificial Intelligence},
  volume = {40},
  number = {28},
  pages = {23739--23747},
  year = {2026},
  eprint = {2511.19887},
  archiveprefix = {arXiv},
}
"""


@dataclass(frozen=True)
class Params:
    variant: Literal["code", "paper"] = "code"
    """The released loss, with two task heads of the student's own, or Eq. 11 of the paper, without."""
    teacher: bool = True
    """False: cross-entropy of the main head and of one head a band, no teacher (control: 3 of the 7 CE terms). There is
    no Linear then, so it is for pairs of equal width."""
    lambda_low: float = 1.0
    """Weight of the loss on low bands (code: 1; paper: not known); 0 leaves it out."""
    lambda_high: float = 1.0
    """Weight of the loss on high bands (code: 1; paper: not known); 0 leaves it out."""
    weight: float = 1.0
    """Multiplies both lambdas (ours; what tuning varies); 0 leaves both losses out."""
    times_width: bool = False
    """Multiply both lambdas by the feature width D, since the MSE of unit vectors is O(1/D) (ours)."""
    align_weight: float = 1.0
    """Weight of the shared classifiers (code and Eq. 11: 1); 0 leaves them out (control)."""
    low_distance: Literal["mse", "logmse"] = "mse"
    """Distance of low bands (code and Eq. 8: mse; the all-logMSE ablation: logmse)."""
    high_distance: Literal["mse", "logmse"] = "logmse"
    """Distance of high bands (code and Eq. 9: logmse; the all-MSE ablation: mse)."""
    split: Literal["frequency", "random", "permuted"] = "frequency"
    """The two bands (paper, code), random projections of their ranks, or bands of shuffled channels (controls)."""
    keep_dc: bool = False
    """Keep the mean over channels in the low band (control; code: False, Eq. 7: removed)."""

    @property
    def heads_only(self) -> bool:
        """Whether no loss reads the teacher."""
        aligned = self.weight and (self.lambda_low or self.lambda_high)
        return not self.teacher or not (aligned or self.align_weight)


def compressed(x: Tensor) -> Tensor:
    """s(x) = sign(x) log(1 + |x|), Eq. 6."""
    return x.sign() * x.abs().log1p()


def band_loss(student_band: Tensor, teacher_band: Tensor, distance: Literal["mse", "logmse"]) -> Tensor:
    """MSE, or MSE after `compressed`, of bands (B, D) scaled to unit length per sample; mean over B and D.

    No gradient reaches the teacher.
    """
    student_unit = F.normalize(full_precision(student_band), dim=1, eps=1e-8)
    teacher_unit = F.normalize(full_precision(teacher_band.detach()), dim=1, eps=1e-8)
    if distance == "logmse":
        student_unit, teacher_unit = compressed(student_unit), compressed(teacher_unit)
    return F.mse_loss(student_unit, teacher_unit)


def low_loss(student_feature: Tensor, teacher_feature: Tensor) -> Tensor:
    """MSE of the unit-length low bands (DC removed) of pooled features (B, D); as released, weight 1."""
    return band_loss(split_channels(student_feature)[0], split_channels(teacher_feature)[0], "mse")


def high_loss(student_feature: Tensor, teacher_feature: Tensor) -> Tensor:
    """logMSE of the unit-length high bands of pooled features (B, D); as released, weight 1."""
    return band_loss(split_channels(student_feature)[1], split_channels(teacher_feature)[1], "logmse")


class FrequencySplit(nn.Module):
    """Low and high channel band without DC; of channels in a random fixed order, if `permuted`."""

    def __init__(self, width: int, permuted: bool) -> None:
        super().__init__()
        self.register_buffer("order", torch.randperm(width) if permuted else torch.arange(width))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        low, high = split_channels(x[:, self.order])
        back = self.order.argsort()
        return low[:, back], high[:, back]


class RandomSplit(nn.Module):
    """Two random orthogonal projections that together give x without its channel mean, of the two bands' ranks."""

    def __init__(self, width: int) -> None:
        super().__init__()
        # The first direction is the mean over channels, which neither band holds.
        directions = torch.cat([torch.ones(width, 1), torch.randn(width, width - 1)], dim=1).double()
        basis = torch.linalg.qr(directions).Q[:, 1:]
        self.register_buffer("low_basis", basis[:, : 2 * (width // 4)].float().contiguous())

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        basis = self.low_basis.to(x.dtype)
        low = x @ basis @ basis.T
        return low, x - x.mean(dim=1, keepdim=True) - low


def band_head(width: int, classes: int) -> nn.Sequential:
    """Classifier of a band, as released."""
    return nn.Sequential(nn.ReLU(), nn.Linear(width, classes))


class Method(Distiller):
    Params = Params

    def __init__(self, params: Params, pair: PairShapes) -> None:
        super().__init__(params, pair)
        own_width = pair.student.pooled_preact
        width = pair.teacher.pooled_preact if params.teacher else own_width
        self.projector = nn.Linear(own_width, width) if own_width != width else nn.Identity()
        self.own_heads = self.shared_heads = None
        if params.variant == "code" or params.heads_only:
            self.own_heads = nn.ModuleDict({band: band_head(width, pair.classes) for band in ("low", "high")})
        if params.teacher and params.align_weight:
            self.shared_heads = nn.ModuleDict({band: band_head(width, pair.classes) for band in ("low", "high")})
        self.has_heads = bool(self.own_heads or self.shared_heads)
        # Last, so that the heads of all arms start from the same draws.
        self.split = (
            RandomSplit(width) if params.split == "random" else FrequencySplit(width, params.split == "permuted")
        )
        self.scale = width if params.times_width else 1

    @classmethod
    def needs(cls, params: Any) -> frozenset[str]:
        return frozenset({"logits", "pooled_preact"})

    @classmethod
    def supports(cls, params: Any, pair: PairShapes) -> str | None:
        width = (pair.teacher if params.teacher else pair.student).pooled_preact
        return None if width >= 4 else f"a pooled feature of {width} channels has no low band"

    def notes(self) -> list[str]:
        if isinstance(self.projector, nn.Identity):
            return []
        own, width = self.projector.in_features, self.projector.out_features
        return [f"a Linear takes the student's feature from {own} to {width} channels first; the paper has none"]

    def head_logits(self, student: Signals) -> dict[str, Tensor]:
        """Of its own heads, or of the shared ones where it has none of its own."""
        with torch.autocast(student.logits.device.type, enabled=False):
            _, classified = self._bands(self.projector(full_precision(student.pooled_preact)))
            return {band: head(classified[band]) for band, head in (self.own_heads or self.shared_heads).items()}

    def forward(self, student: Signals, teacher: Signals | None, target: Tensor, progress: float) -> dict[str, Tensor]:
        with torch.autocast(student.logits.device.type, enabled=False):
            return self._terms(student, teacher, target)

    def _terms(self, student: Signals, teacher: Signals | None, target: Tensor) -> dict[str, Tensor]:
        p = self.params
        terms = {"ce": cross_entropy(student.logits, target)}
        student_aligned, student_classified = self._bands(self.projector(full_precision(student.pooled_preact)))
        if self.own_heads is not None:
            for band, head in self.own_heads.items():
                terms[f"ce_{band}"] = cross_entropy(head(student_classified[band]), target)
        if p.heads_only:
            return terms

        teacher_feature = full_precision(teacher.pooled_preact.detach())
        teacher_aligned, teacher_classified = self._bands(teacher_feature)
        for band, weight, distance in (("low", p.lambda_low, p.low_distance), ("high", p.lambda_high, p.high_distance)):
            if p.weight * weight:
                loss = band_loss(student_aligned[band], teacher_aligned[band], distance)
                terms[band] = self.scale * p.weight * weight * loss
        if self.shared_heads is not None:
            for band, head in self.shared_heads.items():
                student_side = cross_entropy(head(student_classified[band]), target)
                teacher_side = cross_entropy(head(teacher_classified[band]), target)
                terms[f"align_{band}"] = p.align_weight * (student_side + teacher_side)
        return terms

    def _bands(self, feature: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The bands that are aligned and those that are classified; they differ in the DC component of the low one."""
        low, high = self.split(feature)
        with_dc = low + feature.mean(dim=1, keepdim=True)
        aligned = with_dc if self.params.keep_dc else low
        classified = with_dc if self.params.keep_dc or self.params.variant == "paper" else low
        return {"low": aligned, "high": high}, {"low": classified, "high": high}
