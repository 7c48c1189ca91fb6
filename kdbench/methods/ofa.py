"""OFA-KD: every student stage gets an exit branch that turns its feature into class logits, where families agree.

Hao et al., "One-for-All: Bridge the Gap Between Heterogeneous Architectures in Knowledge Distillation", NeurIPS 2023,
arXiv 2310.19444; Hao840/OFAKD at f7bb896 (golden values of the loss in tests/data). Branches and defaults are the
released code's: weights 1, temperature 1, eps 1. With eps 1 the loss is a plain soft cross-entropy.
CIFAR-100 needs `ofa_loss_weight` 0.1 (Hao840/OFAKD#32), ResNet18 from DeiT-T on ImageNet is run with eps 1.5 (README).

Branches, for stage s = 1..4 with student and teacher widths d_s and d_t of the pooled feature:

- CNN student: 4 - s separable convolutions of stride 2, channels doubling, the last one ending in max(d_s, d_t)
  channels; at stage 4 a 1x1 convolution instead; then the mean over the grid and a Linear.
- ViT or MLP student: patches merged two by two down to a 7x7 grid, the class token kept aside; max(4 - s, 1)
  transformer blocks; then the class token, or the mean over tokens where there is none, and a Linear. A hierarchical
  student (Swin) is treated by its maps, so later stages merge less.

Departures:

- log_softmax in place of log(softmax): the released form is NaN at large logit gaps (0 * -inf).
- A token grid that is not square, or odd, is merged axis by axis and padded with zeros; one that is below 14 is not
  merged, and a Linear then brings its tokens to d_s where they are narrower (the released merging would do it).
- Attention has 4 heads, or the largest smaller number that divides d_s. Of several prefix tokens the first is read.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdbench.frequency import full_precision
from kdbench.methods.base import Distiller, cross_entropy, fewer_than_four_stages, hard_target
from kdbench.types import KdbenchError, PairShapes, Signals

TITLE = "OFA"
GROUP = "logits"
MAIN_WEIGHT = "ofa_loss_weight"
HARNESS = "OFA"
BIBTEX = """
@inproceedings{hao2023ofa,
  author = {Hao, Zhiwei and Guo, Jianyuan and Han, Kai and Tang, Yehui and Hu, Han and Wang, Yunhe and Xu, Chang},
  title = {One-for-All: Bridge the Gap Between Heterogeneous Architectures in Knowledge Distillation},
  booktitle = {Advances in Neural Information Processing Systems},
  year = {2023},
  eprint = {2310.19444},
  archiveprefix = {arXiv},
}
"""

FINAL_GRID = 7


@dataclass(frozen=True)
class Params:
    ce_weight: float = 1.0
    """Weight of the cross-entropy (OFAKD's gt-loss-weight)."""
    head_weight: float = 1.0
    """Weight of the loss of the final head (OFAKD's kd-loss-weight)."""
    ofa_loss_weight: float = 1.0
    """Weight of the sum of the four branch losses (OFAKD's default; 0.1 on CIFAR-100, Hao840/OFAKD#32)."""
    eps: float | tuple[float, ...] = 1.0
    """Exponent on the target-enhanced teacher; one value, or five: the four branches and the head (OFAKD: 1)."""
    temperature: float = 1.0
    """Softens both distributions; no T^2 factor (OFAKD: 1)."""

    def __post_init__(self) -> None:
        if len(self.all_eps) != 5 or min(self.all_eps) <= 0:
            raise KdbenchError(f"ofa: eps must be one value above 0, or five (four branches and the head): {self.eps}")
        if self.temperature <= 0:
            raise KdbenchError(f"ofa: temperature must be above 0, got {self.temperature}")

    @property
    def all_eps(self) -> tuple[float, ...]:
        eps = self.eps if isinstance(self.eps, tuple) else (self.eps,)
        return eps * 5 if len(eps) == 1 else eps


def ofa_loss(
    student_logits: Tensor, teacher_logits: Tensor, target: Tensor, eps: float, temperature: float = 1.0
) -> Tensor:
    """-sum_c w_c log p_student,c with w = (p_teacher + y)^eps - y, p = softmax(logits / T), y the one-hot target.

    Logits (B, C), target (B,) classes or (B, C) soft labels, of which the arg max counts; batch mean; no gradient
    reaches the teacher.
    """
    log_student = F.log_softmax(full_precision(student_logits) / temperature, dim=1)
    teacher = F.softmax(full_precision(teacher_logits.detach()) / temperature, dim=1)
    one_hot = F.one_hot(hard_target(target), teacher.shape[1]).to(teacher.dtype)
    return -(((teacher + one_hot) ** eps - one_hot) * log_student).sum(dim=1).mean()


def separable_convolution(channels: int, out_channels: int) -> nn.Sequential:
    """Two depthwise-pointwise convolutions, the first of stride 2: (B, C, H, W) -> (B, C', H/2, W/2)."""

    def half(out: int, stride: int) -> list[nn.Module]:
        return [
            nn.Conv2d(channels, channels, 3, stride, padding=1, groups=channels, bias=False),
            nn.Conv2d(channels, out, 1, bias=False),
            nn.BatchNorm2d(out),
            nn.ReLU(),
        ]

    return nn.Sequential(*half(channels, 2), *half(out_channels, 1))


def map_branch(channels: int, stage: int, width: int, classes: int) -> nn.Sequential:
    """Branch of a CNN's stage 1..4: maps (B, C, H, W) -> logits (B, classes); `width` is max(d_s, d_t)."""
    if stage == 4:
        layers = [nn.Conv2d(channels, width, 1)]
    else:
        widths = [channels * 2**i for i in range(4 - stage)] + [width]
        layers = [separable_convolution(*pair) for pair in pairwise(widths)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, classes))


class PatchMerging(nn.Module):
    """Joins neighbouring patches: (B, H, W, C) -> (B, ceil(H / rows), ceil(W / columns), width)."""

    def __init__(self, channels: int, width: int, rows: int, columns: int, activation: nn.Module) -> None:
        super().__init__()
        self.rows, self.columns = rows, columns
        self.norm = nn.LayerNorm(rows * columns * channels)
        self.reduction = nn.Linear(rows * columns * channels, width, bias=False)
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        _, height, width, _ = x.shape
        x = F.pad(x, (0, 0, 0, -width % self.columns, 0, -height % self.rows))
        x = x.unflatten(2, (-1, self.columns)).unflatten(1, (-1, self.rows)).transpose(2, 3).flatten(3)
        return self.activation(self.reduction(self.norm(x)))


def patch_mergings(channels: int, grid: tuple[int, int], width: int) -> nn.Sequential:
    """As many mergings as bring each axis of the grid below 14, so 56 -> 7 takes three: GELU after all but the last.

    One merging alone is followed by GELU too, as released.
    """
    factors = []
    while max(grid) >= 2 * FINAL_GRID:
        factors.append(tuple(2 if cells >= 2 * FINAL_GRID else 1 for cells in grid))
        grid = tuple(-(-cells // factor) for cells, factor in zip(grid, factors[-1], strict=True))
    return nn.Sequential(
        *(
            PatchMerging(
                width if i else channels, width, *factor, nn.Identity() if 0 < i == len(factors) - 1 else nn.GELU()
            )
            for i, factor in enumerate(factors)
        )
    )


class TokenBranch(nn.Module):
    """Branch of a ViT's or MLP's stage: maps (B, C, H, W) and prefix tokens (B, P, C) -> logits (B, classes)."""

    def __init__(self, shape: tuple[int, int, int], stage: int, width: int, prefix: int, classes: int) -> None:
        super().__init__()
        # The loss function alone is usable without timm.
        import kdbench.torchvision_ops  # noqa: F401, I001
        from timm.models.vision_transformer import Block

        channels, *grid = shape
        heads = max(h for h in (4, 3, 2, 1) if width % h == 0)
        self.prefix = prefix
        self.merge = patch_mergings(channels, tuple(grid), width)
        self.widen = nn.Linear(channels, width) if not len(self.merge) and channels != width else nn.Identity()
        self.widen_prefix = nn.Linear(channels, width) if prefix and channels != width else nn.Identity()
        self.blocks = nn.Sequential(*(Block(width, num_heads=heads) for _ in range(max(4 - stage, 1))))
        self.classify = nn.Linear(width, classes)

    def forward(self, maps: Tensor, prefix: Tensor | None) -> Tensor:
        tokens = self.widen(self.merge(maps.permute(0, 2, 3, 1))).flatten(1, 2)
        if not self.prefix:
            return self.classify(self.blocks(tokens).mean(dim=1))
        tokens = torch.cat([self.widen_prefix(prefix).to(tokens.dtype), tokens], dim=1)
        return self.classify(self.blocks(tokens)[:, 0])


def initialise(module: nn.Module) -> None:
    """OFAKD's init: convolutions kaiming normal by fan-out, Linear layers truncated normal of std 0.02."""
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    elif isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


class Method(Distiller):
    Params = Params

    def __init__(self, params: Params, pair: PairShapes) -> None:
        super().__init__(params, pair)
        side = pair.student
        if side.family == "cnn":
            width = max(side.pooled, pair.teacher.pooled)
            branches = [map_branch(shape[0], s, width, pair.classes) for s, shape in enumerate(side.stages, start=1)]
        else:
            branches = [
                TokenBranch(shape, s, side.pooled, side.prefix, pair.classes)
                for s, shape in enumerate(side.stages, start=1)
            ]
        self.branches = nn.ModuleList(branches).apply(initialise)

    @classmethod
    def needs(cls, params: Any) -> frozenset[str]:
        return frozenset({"logits", "stages", "prefix"})

    @classmethod
    def supports(cls, params: Any, pair: PairShapes) -> str | None:
        return fewer_than_four_stages(pair, ["student"])

    def forward(self, student: Signals, teacher: Signals | None, target: Tensor, progress: float) -> dict[str, Tensor]:
        p = self.params
        *branch_eps, head_eps = p.all_eps
        losses = [
            ofa_loss(self._exit(student, i), teacher.logits, target, eps, p.temperature)
            for i, eps in enumerate(branch_eps)
        ]
        return {
            "ce": p.ce_weight * cross_entropy(student.logits, target),
            "head": p.head_weight * ofa_loss(student.logits, teacher.logits, target, head_eps, p.temperature),
            "branches": p.ofa_loss_weight * sum(losses),
        }

    def _exit(self, student: Signals, i: int) -> Tensor:
        maps = full_precision(student.stages[i])
        if self.pair.student.family == "cnn":
            return self.branches[i](maps)
        prefix = full_precision(student.prefix[i]) if self.pair.student.prefix else None
        return self.branches[i](maps, prefix)
