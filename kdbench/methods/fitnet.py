"""FitNet: student maps, projected, regress the teacher's maps.

Romero et al., "FitNets: Hints for Thin Deep Nets", ICLR 2015, arXiv 1412.6550. `variant` says which of two later forms:

- "stages" (the default), the heterogeneous form of jimmylin0979/PAT at a7aff3f: all four stages, MSE summed, weight 1.
  Prefix tokens are dropped. Whatever the families, maps (B, C_s, h, w) meet (B, C_t, H, W), axis by axis:
      finer student      patches of h/H cells are embedded in C_t channels (a strided convolution; for tokens, which
                         PAT merges and projects, the same thing)
      coarser student    each cell is projected to (H/h)^2 C_t channels and unfolded into a patch of cells
  Where PAT instead merges teacher tokens onto a coarser CNN's grid, the MSE is the same number. Projectors of CNN
  students start from a Kaiming normal by fan-out, those of tokens from a truncated normal of std 0.02; they have a
  bias, but for CNN > CNN pairs, where Hao840/OFAKD at f7bb896 (which serves no others) has none.
- "hint", megvii-research/mdistiller at a08d46f: one stage, a convolution that brings it to the teacher's grid (3x3 of
  stride 2 for half the cells, transposed 4x4 for twice as many, else a valid one), batch norm and ReLU. Its hint layer
  2, where the stem is layer 0, is `hint_stage` 2 of a network of a stem and four stages; of a stem and three stages,
  where the stem is the first of the four maps shown, it is 3.

KL term: OFAKD's FitNet has none (`kd_weight` 0, the default); PAT's has one of weight 1 unless it is switched off
(preset "pat"). Preset "mdistiller": variant "hint", weight 100, and temperature 4 should a KL term be added.
spacewanderx/RSD at e4c7b3d ships a copy of PAT's form with a further factor of 0.1 in the code, absent here.

Departures from PAT, which asserts square grids that divide each other:

- Other student grids are first averaged (adaptive pooling) onto the next multiple below, or unfolded beyond the
  teacher's grid and averaged onto it (told in the notes).
- A coarser token student's new tokens unfold in space, where PAT's reshape lines them up along the sequence.
- Projectors from tokens onto a coarser CNN grid start from the truncated normal too (PAT: Kaiming).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdbench.frequency import full_precision
from kdbench.methods.base import Distiller, cross_entropy, fewer_than_four_stages
from kdbench.methods.kd import with_kl_term
from kdbench.types import KdbenchError, PairShapes, Signals

TITLE = "FitNet"
GROUP = "features"
MAIN_WEIGHT = "weight"
HARNESS = "OFA"
PRESETS = {
    "mdistiller": {"variant": "hint", "weight": 100.0, "temperature": 4.0},
    "pat": {"kd_weight": 1.0},
}
BIBTEX = """
@inproceedings{romero2015fitnet,
  author = {Romero, Adriana and others},
  title = {{FitNets}: Hints for Thin Deep Nets},
  booktitle = {International Conference on Learning Representations},
  year = {2015},
  eprint = {1412.6550},
  archiveprefix = {arXiv},
}
"""


@dataclass(frozen=True)
class Params:
    variant: Literal["stages", "hint"] = "stages"
    """All four stages through projectors (OFA harness, PAT), or one through mdistiller's regressor."""
    hint_stage: int = 2
    """Which of the four, counted from 1."""
    ce_weight: float = 1.0
    """Weight of the cross-entropy (both harnesses: 1)."""
    weight: float = 1.0
    """Weight of the sum over stages of the MSE (OFA harness, PAT: 1; mdistiller: 100)."""
    kd_weight: float = 0.0
    """Weight of the KL divergence of the logits (OFA harness, mdistiller: none; PAT: 1)."""
    temperature: float = 1.0
    """Softens both distributions of that KL divergence (OFA harness, PAT: 1; mdistiller: 4)."""

    def __post_init__(self) -> None:
        if self.temperature <= 0:
            raise KdbenchError(f"fitnet: temperature must be above 0, got {self.temperature}")
        if self.hint_stage not in (1, 2, 3, 4):
            raise KdbenchError(f"fitnet: hint_stage must be 1, 2, 3 or 4, got {self.hint_stage}")


def fitnet_loss(student_map: Tensor, teacher_map: Tensor) -> Tensor:
    """MSE of two maps of one shape, mean over all entries; no gradient reaches the teacher."""
    with torch.autocast(student_map.device.type, enabled=False):
        return F.mse_loss(full_precision(student_map), full_precision(teacher_map.detach()))


class Projector(nn.Module):
    """Maps (B, C_s, h, w) -> (B, C_t, H, W) by patch embedding along finer axes and unfolding along coarser ones."""

    def __init__(self, own: tuple[int, int, int], wanted: tuple[int, int, int], tokens: bool, bias: bool) -> None:
        super().__init__()
        channels, *self.grid = wanted
        pairs = list(zip(own[1:], self.grid, strict=True))
        self.patch = [max(cells // target, 1) for cells, target in pairs]
        self.unfold = [max(-(-target // cells), 1) for cells, target in pairs]
        # What the convolution reads: along a finer axis a multiple of the teacher's cells.
        self.read = [min(cells, patch * target) for (cells, target), patch in zip(pairs, self.patch, strict=True)]
        self.exact = all(max(pair) % min(pair) == 0 for pair in pairs)
        out = channels * self.unfold[0] * self.unfold[1]
        self.convolution = nn.Conv2d(own[0], out, tuple(self.patch), tuple(self.patch), bias=bias)
        if tokens:
            nn.init.trunc_normal_(self.convolution.weight, std=0.02)
            nn.init.zeros_(self.convolution.bias)
        else:
            nn.init.kaiming_normal_(self.convolution.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, maps: Tensor) -> Tensor:
        maps = self.convolution(resized(maps, self.read))
        rows, columns = self.unfold
        batch, _, height, width = maps.shape
        patches = maps.view(batch, -1, rows, columns, height, width)
        maps = patches.permute(0, 1, 4, 2, 5, 3).reshape(batch, -1, height * rows, width * columns)
        return resized(maps, self.grid)


def resized(maps: Tensor, grid: list[int]) -> Tensor:
    """Maps averaged onto a coarser grid, or as they are."""
    return maps if list(maps.shape[2:]) == grid else F.adaptive_avg_pool2d(maps, grid)


def regressor(own: tuple[int, int, int], wanted: tuple[int, int, int]) -> nn.Sequential | None:
    """mdistiller's ConvReg: (B, C_s, h, w) -> (B, C_t, H, W), or None where it has no form."""
    channels, teacher_channels = own[0], wanted[0]
    (height, width), (rows, columns) = own[1:], wanted[1:]
    if (height, width) == (2 * rows, 2 * columns):
        layer = nn.Conv2d(channels, teacher_channels, 3, stride=2, padding=1)
    elif (2 * height, 2 * width) == (rows, columns):
        layer = nn.ConvTranspose2d(channels, teacher_channels, 4, stride=2, padding=1)
    elif height >= rows and width >= columns:
        layer = nn.Conv2d(channels, teacher_channels, (1 + height - rows, 1 + width - columns))
    else:
        return None
    return nn.Sequential(layer, nn.BatchNorm2d(teacher_channels), nn.ReLU())


class Method(Distiller):
    Params = Params

    def __init__(self, params: Params, pair: PairShapes) -> None:
        super().__init__(params, pair)
        student, teacher = pair.student, pair.teacher
        if params.variant == "hint":
            hint = params.hint_stage
            modules = {str(hint): regressor(student.stages[hint - 1], teacher.stages[hint - 1])}
        else:
            tokens = student.family != "cnn"
            bias = tokens or teacher.family != "cnn"
            modules = {
                str(stage): Projector(*shapes, tokens, bias)
                for stage, shapes in enumerate(zip(student.stages, teacher.stages, strict=True), start=1)
            }
        self.projectors = nn.ModuleDict(modules)

    @classmethod
    def needs(cls, params: Any) -> frozenset[str]:
        return frozenset({"logits", "stages"})

    @classmethod
    def supports(cls, params: Any, pair: PairShapes) -> str | None:
        if reason := fewer_than_four_stages(pair):
            return reason
        own, wanted = (side.stages[params.hint_stage - 1] for side in (pair.student, pair.teacher))
        if params.variant == "hint" and regressor(own, wanted) is None:
            return f"mdistiller's regressor has no form from {own[1]}x{own[2]} to {wanted[1]}x{wanted[2]}"
        return None

    def notes(self) -> list[str]:
        if self.params.variant == "hint":
            return []
        uneven = ", ".join(stage for stage, projector in self.projectors.items() if not projector.exact)
        return (
            [f"grids do not divide each other and are averaged onto ones that do at stage {uneven}"] if uneven else []
        )

    def forward(self, student: Signals, teacher: Signals | None, target: Tensor, progress: float) -> dict[str, Tensor]:
        p = self.params
        losses = [
            fitnet_loss(projector(full_precision(student.stages[int(stage) - 1])), teacher.stages[int(stage) - 1])
            for stage, projector in self.projectors.items()
        ]
        terms = {"ce": p.ce_weight * cross_entropy(student.logits, target), "fitnet": p.weight * sum(losses)}
        return with_kl_term(terms, p, student, teacher)
