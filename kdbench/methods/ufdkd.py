"""UFD-KD: the last map's mean and the rest of it are matched apart, over space and over channels.

lusilili/UFD-KD at 7a6f6f2 (mmcls/models/dis_losses/ufd.py); no paper found. Stage 4 alone, teacher map (B, D, h, w):

    projector   student map -> 3x3 conv, batch norm, ReLU, + position embedding -> keys and values of a cross-attention
                whose h w queries are learned -> layer norm -> FFN of width 4 D -> (B, D, h, w); one for each of
    space       DC: mean over the grid, AC: the rest; each position scaled to unit length over the D channels
    channels    DC: mean over the channels, AC: the rest; each channel scaled to unit length over the h w positions
    loss        0.5 CE + 0.5 KL (T 1) + 0.03 DC + 0.065 AC of space + 0.003 DC + 0.0065 AC of channels

Each of the four is a sum of squared differences over channels and positions, averaged over samples. The released code
takes DC and AC out by discrete cosine transforms (2-D, or along the channels) and back; the inverse transform of
coefficient 0 alone is the mean, so the transform does nothing that a subtraction does not: this file subtracts.

Defaults are those of its configurations for CIFAR-100; that of Mixer > MobileNetV2 has 0.035 and 0.0045 for the AC
parts.

Departures, hence the mark. As released, one pair of six configurations has grids that fit each other (Mixer >
MobileNetV2): the student's map is always doubled, whatever the teacher's grid.

- No doubling: queries are as many as the teacher has positions, so that the attention changes the grid by itself, and
  the position embedding has the student's grid. Nothing else depends on either.
- 32 heads, or the largest smaller number that divides D.
- KL in place of the soft cross-entropy, from which it differs by a constant, the teacher's entropy.
- A pair one of whose last maps has a single cell is not served: it has no AC over space, and unit length would make
  vectors of what rounding leaves.

Traps: the AC over channels is of channels in an arbitrary order, and is nothing but the deviation from their mean; the
unit length takes away how large the mean is against the rest.

Strength: the terms over space are sums of h w differences of unit vectors, those over channels of D of them, so they go
with the teacher's cells and with its width. Batch does not count. Published for 7 x 7 and 14 x 14 cells, D 384 and 768.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdbench.frequency import full_precision
from kdbench.methods.base import Distiller, cross_entropy, fewer_than_four_stages
from kdbench.methods.kd import with_kl_term
from kdbench.types import KdbenchError, PairShapes, Signals

TITLE = "UFD-KD"
GROUP = "frequency"
MAIN_WEIGHT = "weight"
HARNESS = "UFD-KD"
MARK = "‡"
FOOTNOTE = "known from code alone, which runs on one of its six pairs; made to run on any"
BIBTEX = """
@misc{lusilili2025ufdkd,
  author = {{lusilili}},
  title = {Unified Frequency Decoupling Knowledge Distillation for Computer Vision},
  howpublished = {https://github.com/lusilili/UFD-KD},
  year = {2025},
}
"""

HEADS, SHARPNESS = 32, 5.0
"""Of the cross-attention: heads at most, and a factor on its logits beside the usual 1 / sqrt(width of a head)."""


@dataclass(frozen=True)
class Params:
    ce_weight: float = 0.5
    """Weight of the cross-entropy (UFD-KD: 0.5)."""
    kd_weight: float = 0.5
    """Weight of the KL divergence of the logits (UFD-KD: 0.5)."""
    temperature: float = 1.0
    """Softens both distributions of that KL divergence (UFD-KD: 1)."""
    weight: float = 1.0
    """Weight of the four terms on the last map together (ours: 1)."""
    space_dc: float = 0.03
    """Weight of the mean over the grid (UFD-KD: 0.03)."""
    space_ac: float = 0.065
    """Weight of the deviations from it (UFD-KD: 0.065)."""
    channel_dc: float = 0.003
    """Weight of the mean over channels (UFD-KD: 0.003)."""
    channel_ac: float = 0.0065
    """Weight of the deviations from it (UFD-KD: 0.0065)."""

    def __post_init__(self) -> None:
        if self.temperature <= 0:
            raise KdbenchError(f"ufdkd: temperature must be above 0, got {self.temperature}")


def unit_difference(student: Tensor, teacher: Tensor, dim: int) -> Tensor:
    """Squared difference of vectors along `dim`, each scaled to unit length: summed, then averaged over samples."""
    return (F.normalize(student, dim=dim) - F.normalize(teacher, dim=dim)).square().sum() / len(student)


def space_losses(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """DC and AC loss over space of maps (B, D, P) of P positions; no gradient reaches the teacher."""
    student, teacher = full_precision(student), full_precision(teacher.detach())
    means = [x.mean(dim=2, keepdim=True).expand_as(x) for x in (student, teacher)]
    return unit_difference(*means, dim=1), unit_difference(student - means[0], teacher - means[1], dim=1)


def channel_losses(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """DC and AC loss over channels of maps (B, D, P): those over space with channels and positions exchanged."""
    return space_losses(student.transpose(1, 2), teacher.transpose(1, 2))


class Projector(nn.Module):
    """Student maps (B, C, H, W) -> (B, D, P), the teacher's width and number of positions."""

    def __init__(self, shape: tuple[int, int, int], width: int, positions: int) -> None:
        super().__init__()
        channels = shape[0]
        self.heads = max(heads for heads in range(1, HEADS + 1) if width % heads == 0)
        self.local = nn.Sequential(nn.Conv2d(channels, channels, 3, padding=1), nn.BatchNorm2d(channels), nn.ReLU())
        self.position = nn.Parameter(nn.init.trunc_normal_(torch.empty(shape), std=0.02))
        self.queries = nn.Parameter(torch.randn(positions, width))
        # Of queries: the released 1x1 convolution with ReLU, then the attention's own Linear.
        self.query = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width))
        self.key, self.value = nn.Linear(channels, width), nn.Linear(channels, width)
        self.out, self.norm = nn.Linear(width, width), nn.LayerNorm(width)
        self.ffn = nn.Sequential(nn.Linear(width, 4 * width), nn.ReLU(), nn.Linear(4 * width, width))

    def forward(self, maps: Tensor) -> Tensor:
        tokens = (self.local(full_precision(maps)) + self.position).flatten(2).transpose(1, 2)
        queries = self.query(self.queries).expand(len(tokens), -1, -1)
        query, key, value = (
            x.unflatten(2, (self.heads, -1)).transpose(1, 2) for x in (queries, self.key(tokens), self.value(tokens))
        )
        scale = SHARPNESS * query.shape[-1] ** -0.5
        attended = F.scaled_dot_product_attention(query, key, value, scale=scale).transpose(1, 2).flatten(2)
        attended = self.norm(self.out(attended))
        return (attended + self.ffn(attended)).transpose(1, 2)


class Method(Distiller):
    Params = Params

    def __init__(self, params: Params, pair: PairShapes) -> None:
        super().__init__(params, pair)
        width, rows, columns = pair.teacher.stages[-1]
        shape = pair.student.stages[-1]
        self.over_space, self.over_channels = (Projector(shape, width, rows * columns) for _ in range(2))

    @classmethod
    def needs(cls, params: Any) -> frozenset[str]:
        return frozenset({"logits", "stages"})

    @classmethod
    def supports(cls, params: Any, pair: PairShapes) -> str | None:
        if reason := fewer_than_four_stages(pair):
            return reason
        for name, side in (("student", pair.student), ("teacher", pair.teacher)):
            if side.stages[-1][1:] == (1, 1):
                return f"the {name}'s last map has one cell, so nothing of it varies over space"
        return None

    def forward(self, student: Signals, teacher: Signals | None, target: Tensor, progress: float) -> dict[str, Tensor]:
        p = self.params
        theirs = teacher.stages[-1].flatten(2)
        space_dc, space_ac = space_losses(self.over_space(student.stages[-1]), theirs)
        channel_dc, channel_ac = channel_losses(self.over_channels(student.stages[-1]), theirs)
        terms = {
            "ce": p.ce_weight * cross_entropy(student.logits, target),
            "space": p.weight * (p.space_dc * space_dc + p.space_ac * space_ac),
            "channels": p.weight * (p.channel_dc * channel_dc + p.channel_ac * channel_ac),
        }
        return with_kl_term(terms, p, student, teacher)
