"""SpectralKD: the spectra of the student's maps equal those of the teacher's, over the full band.

Tian et al., "SpectralKD", arXiv 2412.19055; thy960112/SpectralKD at 968be0e (losses.py). For each layer, maps
(B, C, H, W), the teacher's channels averaged in neighbouring groups down to the student's C_s:

    layer  mean over samples, channels, bins, real and imaginary part of (rfft2(student) - rfft2(teacher))^2
    loss   0.1 CE + 0.9 T^2 KL + 0.2 times the mean over layers, T 1

**This is a spatial loss.** The transform ("ortho") is unitary, so over all bins the layer loss is half the spatial MSE;
rfft2 holds the inner columns once that stand for two, which alone makes it another weighting of the same differences:
0 and Nyquist columns count twice as much as the others. It is control C1 of UHKD† without its projector. The authors'
own logs agree: over plain KL it gains at most 0.06 points at the last epoch, one run each (CaiT-S24 > DeiT-T, ImageNet;
thy960112/Distillation-Dynamics at 5086c56).

Defaults are those of its DeiT scripts; weight is 0.05 in those for Swin. No projector, so no parameters.

Departures:

- Layers are the four stages; the released DeiT pairs student blocks 0, 1, 6-11 with teacher blocks 0, 1, 18-23.
- A student that is wider than its teacher meets channels repeated by the same pooling, where the released code fails.
- Grids that differ are averaged onto the coarser one; the released code knows equal grids alone.

Trap: neighbouring channels are averaged, but the order of channels carries no meaning.

Strength: the MSE goes with the square of the maps' scale, which nothing normalises, so with the depth and the norm
layers of both networks. Published: 0.2 (CaiT-S24 > DeiT-T) and 0.05 (Swin) at 224 px, 14 x 14 tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from kdbench.frequency import coarser_grid, full_precision, spectrum
from kdbench.methods.base import Distiller, cross_entropy, fewer_than_four_stages
from kdbench.methods.kd import with_kl_term
from kdbench.types import KdbenchError, PairShapes, Signals

TITLE = "SpectralKD"
GROUP = "frequency"
MAIN_WEIGHT = "weight"
HARNESS = "SpectralKD"
BIBTEX = """
@article{tian2024spectralkd,
  author = {Tian, Huiyuan and Xu, Bonan and Li, Shijian and Pan, Gang},
  title = {{SpectralKD}: A Unified Framework for Interpreting and Distilling Vision Transformers via Spectral Analysis},
  journal = {arXiv preprint arXiv:2412.19055},
  year = {2024},
}
"""


@dataclass(frozen=True)
class Params:
    ce_weight: float = 0.1
    """Weight of the cross-entropy (SpectralKD: 0.1)."""
    weight: float = 0.2
    """Weight of the mean over stages (SpectralKD: 0.2 for DeiT, 0.05 for Swin)."""
    kd_weight: float = 0.9
    """Weight of the KL divergence of the logits (SpectralKD: 0.9)."""
    temperature: float = 1.0
    """Softens both distributions of that KL divergence (SpectralKD: 1)."""

    def __post_init__(self) -> None:
        if self.temperature <= 0:
            raise KdbenchError(f"spectralkd: temperature must be above 0, got {self.temperature}")


def spectral_loss(student_map: Tensor, teacher_map: Tensor) -> Tensor:
    """Mean squared difference of the half-plane spectra of maps (B, C_s, H, W) and (B, C_t, H', W').

    The mean is over samples, student channels, bins of rfft2, real and imaginary part; grids are brought to the coarser
    one. No gradient reaches the teacher.
    """
    grid = coarser_grid(student_map.shape[-2:], teacher_map.shape[-2:])
    shape = (student_map.shape[1], *grid)
    student, teacher = (
        F.adaptive_avg_pool3d(full_precision(maps)[:, None], shape)[:, 0]
        for maps in (student_map, teacher_map.detach())
    )
    return F.mse_loss(*(torch.view_as_real(spectrum(maps, half=True)) for maps in (student, teacher)))


def spectralkd_loss(student_maps: Sequence[Tensor], teacher_maps: Sequence[Tensor]) -> Tensor:
    """Mean over stages of `spectral_loss`."""
    return torch.stack([spectral_loss(*maps) for maps in zip(student_maps, teacher_maps, strict=True)]).mean()


class Method(Distiller):
    Params = Params

    @classmethod
    def needs(cls, params: Any) -> frozenset[str]:
        return frozenset({"logits", "stages"})

    @classmethod
    def supports(cls, params: Any, pair: PairShapes) -> str | None:
        return fewer_than_four_stages(pair)

    def forward(self, student: Signals, teacher: Signals | None, target: Tensor, progress: float) -> dict[str, Tensor]:
        p = self.params
        terms = {
            "ce": p.ce_weight * cross_entropy(student.logits, target),
            "spectralkd": p.weight * spectralkd_loss(student.stages, teacher.stages),
        }
        return with_kl_term(terms, p, student, teacher)
