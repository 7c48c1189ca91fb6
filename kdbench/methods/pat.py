"""PAT: a teacher retuned by prompts, and student stages that attend to each other before they are compared with it.

Lin et al., "Perspective-Aware Teaching: Adapting Knowledge for Heterogeneous Distillation", ICCV 2025, arXiv
2501.08885 (v1: FOFA); jimmylin0979/PAT at a7aff3f, distillers and detection. The loss is

    CE + KL(p_t || p_s) + L_FD + L_reg,    all weights 1, T = 1, p_t of the teacher without prompts

- Region attention: patches of every student stage become 16 tokens of width 512; the 64 tokens of the four stages
  attend to each other (LayerNorm, 8 heads, no output projection, no residual), and one aligner a stage brings its 16
  back to the shape of the teacher's stage: nearest enlargement, BatchNorm and a 1x1 convolution for a CNN teacher, a
  Linear over channels and one over tokens, each behind a BatchNorm, for a ViT or MLP.
- L_FD = sum over stages of `hierarchical_mse` to the stages of the prompted teacher, which learns from it, too.
- Prompts: the input x of every teacher stage becomes x + beta * prompt(fuse(x, d)), beta 0 at the start; d is the
  previous step's (aligned student - prompted teacher) at this stage, of another batch, brought to x's shape. There is
  no d at the first step, and nothing is fused. The teacher is frozen otherwise, and in evaluation mode.
- L_reg = KL(p_t || p_t with prompts).

`variant` "code" is the released computation, with three properties that read like slips; "mended" (ours) has none:

- tokens (ViT, Swin, MLP teachers) go back to the teacher as the (channel, row, column) array read in the order
  (token, channel), so that the prompted teacher works on mixed-up tokens from the first step on;
- the gate in fusion and prompt returns its sigmoids instead of the gated map, so a prompt is constant over space;
- the position encoding is that of the sample in its batch instead of the token among the 64.

Absent, since stages hold no class token here: with one, the released code drops the *last* token of teacher and
student stages (`[:, :-1]`) and prompts the class token as if it were a patch.

Departures: EfficientNet teachers (MobileNetV2) have prompts as well. Prompt convolutions have 4 groups, or the largest
smaller number that divides the channels; the gate has at least one hidden channel. Grids need not be square, and
stages of a sequence become 1 x 16 tokens. If two batches differ in size, d is cut or repeated.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdbench.frequency import full_precision
from kdbench.methods.base import Distiller, cross_entropy, fewer_than_four_stages
from kdbench.methods.kd import kd_loss, with_kl_term
from kdbench.tensors import planar
from kdbench.types import KdbenchError, PairShapes, Signals

TITLE = "PAT"
GROUP = "features"
MAIN_WEIGHT = "weight"
HARNESS = "OFA"
BIBTEX = """
@inproceedings{lin2025pat,
  author = {Lin, Jhe-Hao and others},
  title = {Perspective-Aware Teaching: Adapting Knowledge for Heterogeneous Distillation},
  booktitle = {IEEE/CVF International Conference on Computer Vision},
  year = {2025},
  eprint = {2501.08885},
  archiveprefix = {arXiv},
}
"""

TOKENS = 16
HEADS = 8
LEVELS = (4, 2, 1)


@dataclass(frozen=True)
class Params:
    ce_weight: float = 1.0
    """Weight of the cross-entropy (code: 1)."""
    weight: float = 1.0
    """Weight of L_FD, the hierarchical MSE summed over four stages (code: 1)."""
    reg_weight: float = 1.0
    """Weight of L_reg, which holds the prompted teacher near the teacher (code: 1)."""
    kd_weight: float = 1.0
    """Weight of the KL divergence from the teacher without prompts, part of the published method (code: 1)."""
    temperature: float = 1.0
    """Of that KL divergence (code: 1); L_reg always has 1."""
    width: int = 512
    """Width of the tokens of the region attention, a multiple of its 8 heads (code: 512)."""
    variant: Literal["code", "mended"] = "code"
    """The released computation, or one without mixed-up tokens, flat prompts and positions of samples (ours)."""

    def __post_init__(self) -> None:
        if self.temperature <= 0:
            raise KdbenchError(f"pat: temperature must be above 0, got {self.temperature}")
        if self.width < HEADS or self.width % HEADS:
            raise KdbenchError(f"pat: width must be a multiple of the {HEADS} heads, got {self.width}")


def hierarchical_mse(student: Tensor, teacher: Tensor) -> Tensor:
    """Weighted mean of the MSE of maps (B, C, H, W), whole and averaged to 4x4, 2x2 and 1x1 cells: 1, 1/2, 1/4, 1/8.

    A level that is not coarser than the maps is left out, and its weight goes to the next. Gradients flow to both.
    """
    student, teacher = full_precision(student), full_precision(teacher)
    rows, columns = student.shape[-2:]
    total, weight, weights = F.mse_loss(student, teacher), 1.0, 1.0
    for cells in LEVELS:
        if cells >= max(rows, columns):
            continue
        size = (min(cells, rows), min(cells, columns))
        weight /= 2
        weights += weight
        total = total + weight * F.mse_loss(F.adaptive_avg_pool2d(student, size), F.adaptive_avg_pool2d(teacher, size))
    return total / weights


# ----------------------------------------------------------------------------------------------------- region attention


def token_grid(grid: tuple[int, int]) -> tuple[int, int]:
    """How the 16 tokens of a stage lie: 4 x 4, or in a row for a sequence."""
    if 1 in grid and max(grid) > 1:
        return (1, TOKENS) if grid[0] == 1 else (TOKENS, 1)
    side = math.isqrt(TOKENS)
    return side, side


class RegionEmbedding(nn.Module):
    """Maps (B, C, H, W) -> tokens (B, 16, width): one patch a token, after enlarging maps that patches do not fill."""

    def __init__(self, shape: tuple[int, int, int], width: int) -> None:
        super().__init__()
        channels, *grid = shape
        tokens = token_grid(tuple(grid))
        patch = tuple(-(-cells // count) for cells, count in zip(grid, tokens, strict=True))
        self.size = tuple(count * cells for count, cells in zip(tokens, patch, strict=True))
        self.project = nn.Conv2d(channels, width, patch, patch)

    def forward(self, maps: Tensor) -> Tensor:
        maps = F.interpolate(full_precision(maps), self.size)
        return self.project(maps).flatten(2).transpose(1, 2)


class RegionAttention(nn.Module):
    """The four stages of a student -> four times 16 tokens (B, 16, width) that have attended to all 64."""

    def __init__(self, shapes: tuple[tuple[int, int, int], ...], width: int, positions_of_samples: bool) -> None:
        super().__init__()
        self.positions_of_samples = positions_of_samples
        self.embed = nn.ModuleList(RegionEmbedding(shape, width) for shape in shapes)
        self.norm = nn.LayerNorm(width)
        self.to_q = nn.Linear(width, width)
        self.to_kv = nn.Linear(width, 2 * width)

    def forward(self, stages: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        tokens = torch.cat([embed(maps) for embed, maps in zip(self.embed, stages, strict=True)], dim=1)
        tokens = self.norm(tokens)
        key, value = self.to_kv(tokens).chunk(2, dim=-1)
        if self.positions_of_samples:
            positions = sinusoids(len(tokens), tokens.shape[2], tokens.device).unsqueeze(1)
        else:
            positions = sinusoids(tokens.shape[1], tokens.shape[2], tokens.device)
        query, key = ((x + positions.to(x.dtype)) for x in (self.to_q(tokens), key))
        heads = [x.unflatten(2, (HEADS, -1)).transpose(1, 2) for x in (query, key, value)]
        return F.scaled_dot_product_attention(*heads).transpose(1, 2).flatten(2).split(TOKENS, dim=1)


def sinusoids(count: int, width: int, device: torch.device) -> Tensor:
    """(count, width): the fixed position encoding of the Transformer."""
    even = torch.arange(0, width, 2, device=device)
    angle = torch.arange(count, device=device)[:, None] * torch.exp(even * (-math.log(10000) / width))
    return torch.stack([angle.sin(), angle.cos()], dim=2).flatten(1)


class MapAligner(nn.Module):
    """Tokens (B, 16, width) lying in `tokens` cells -> maps of a CNN teacher's shape."""

    def __init__(self, width: int, tokens: tuple[int, int], shape: tuple[int, int, int]) -> None:
        super().__init__()
        channels, *grid = shape
        self.tokens, self.grid = tokens, tuple(grid)
        self.project = nn.Sequential(nn.BatchNorm2d(width), nn.Conv2d(width, channels, 1, bias=False))

    def forward(self, tokens: Tensor) -> Tensor:
        maps = tokens.transpose(1, 2).unflatten(2, self.tokens)
        return self.project(F.interpolate(full_precision(maps), self.grid))


class TokenAligner(nn.Module):
    """Tokens (B, 16, width) -> maps of a ViT or MLP teacher's shape; the BatchNorms are per token, then per channel."""

    def __init__(self, width: int, shape: tuple[int, int, int]) -> None:
        super().__init__()
        channels, *grid = shape
        self.grid = tuple(grid)
        self.across_channels = nn.Sequential(nn.BatchNorm1d(TOKENS), nn.Linear(width, channels))
        self.across_tokens = nn.Sequential(nn.BatchNorm1d(channels), nn.Linear(TOKENS, math.prod(grid)))

    def forward(self, tokens: Tensor) -> Tensor:
        tokens = self.across_channels(full_precision(tokens)).transpose(1, 2)
        return self.across_tokens(tokens).unflatten(2, self.grid)


def initialise(module: nn.Module) -> None:
    """The released init of aligners: convolutions kaiming normal by fan-out, Linear truncated normal of std 0.02."""
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    elif isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)


# -------------------------------------------------------------------------------------------------------------- prompts


class Gate(nn.Module):
    """Squeeze and excitation, as released: sigmoids (B, C, 1, 1) alone, unless they are to `multiply` the maps."""

    def __init__(self, channels: int, multiply: bool) -> None:
        super().__init__()
        hidden = max(1, channels // 16)
        self.multiply = multiply
        self.compress, self.excite = nn.Conv2d(channels, hidden, 1), nn.Conv2d(hidden, channels, 1)

    def forward(self, maps: Tensor) -> Tensor:
        gate = self.excite(F.relu(self.compress(F.adaptive_avg_pool2d(maps, 1)))).sigmoid()
        return gate * maps if self.multiply else gate


class Prompt(nn.Module):
    """Changes the input (B, C, h, w) of a teacher's stage, given the last difference at its output (B, C', H, W)."""

    def __init__(self, channels: int, same_grid: bool, stage: tuple[int, int, int], mended: bool) -> None:
        super().__init__()
        self.align = nn.Identity()
        if channels != stage[0] or not same_grid:
            self.align = nn.Sequential(nn.BatchNorm2d(stage[0]), nn.Conv2d(stage[0], channels, 1, bias=False))
            self.align.apply(initialise)
        self.fuse = nn.Sequential(
            nn.Conv2d(2 * channels, channels, 1),
            nn.Conv2d(channels, channels, 5, padding=2),
            nn.Conv2d(channels, channels, 1),
            Gate(channels, mended),
            nn.Conv2d(channels, channels, 1),
        )
        groups = max(g for g in (4, 3, 2, 1) if channels % g == 0)
        self.prompt = nn.Sequential(
            nn.Conv2d(channels, channels, 1, groups=groups),
            nn.Conv2d(channels, channels, 5, padding=2, groups=channels),
            nn.Conv2d(channels, channels, 1),
            Gate(channels, mended),
            nn.Conv2d(channels, channels, 1, groups=groups),
        )
        self.beta = nn.Parameter(torch.zeros(1))

    def forward(self, maps: Tensor, difference: Tensor | None) -> Tensor:
        fused = maps
        if difference is not None:
            difference = self.align(F.interpolate(difference, maps.shape[-2:]))
            fused = self.fuse(torch.cat([maps, difference.to(maps.dtype)], dim=1))
        return maps + (self.beta * self.prompt(fused)).to(maps.dtype)


def stage_entrances(model: nn.Module) -> tuple[list[nn.Module], Literal["maps", "tokens", "maps last"]]:
    """The modules that the four stages of a timm network begin with, and the layout of their inputs.

    Raises KdbenchError for a network whose blocks are not known here.
    """
    from timm.models.convnext import ConvNeXt
    from timm.models.efficientnet import EfficientNet
    from timm.models.mlp_mixer import MlpMixer
    from timm.models.resnet import ResNet
    from timm.models.swin_transformer import SwinTransformer
    from timm.models.vision_transformer import VisionTransformer

    from kdbench.signals import stage_indices

    stages = stage_indices(model)
    if isinstance(model, ResNet):
        return [model.layer1, model.layer2, model.layer3, model.layer4], "maps"
    if isinstance(model, ConvNeXt):
        return [model.stages[i] for i in stages], "maps"
    if isinstance(model, EfficientNet):
        # A stage begins where the one before it ends; block numbers count from 1 in stage_ends.
        ends = [0, *model.stage_ends]
        return [model.blocks[ends[i]] for i in stages], "maps"
    if isinstance(model, SwinTransformer):
        return [model.layers[i].blocks[0] for i in stages], "maps last"
    if isinstance(model, VisionTransformer | MlpMixer):
        return [model.blocks[i] for i in (0, *(end + 1 for end in stages[:3]))], "tokens"
    raise KdbenchError(
        f"pat: no prompts are known for a teacher of timm's {type(model).__name__}; known: ResNet, ConvNeXt, "
        "EfficientNet, SwinTransformer, VisionTransformer, MlpMixer"
    )


class Method(Distiller):
    Params = Params
    timm_teacher = True

    def __init__(self, params: Params, pair: PairShapes) -> None:
        super().__init__(params, pair)
        self.mended = params.variant == "mended"
        stages, shapes = pair.student.stages, pair.teacher.stages
        self.attention = RegionAttention(stages, params.width, positions_of_samples=not self.mended)
        self.aligners = nn.ModuleList(
            MapAligner(params.width, token_grid(own[1:]), shape)
            if pair.teacher.family == "cnn"
            else TokenAligner(params.width, shape)
            for own, shape in zip(stages, shapes, strict=True)
        ).apply(initialise)
        # What the last step left, of no sample at the first one.
        for i, shape in enumerate(shapes):
            self.register_buffer(f"difference{i}", torch.zeros(0, *shape))

    @classmethod
    def needs(cls, params: Any) -> frozenset[str]:
        return frozenset({"logits", "stages", "inputs", "teacher"})

    @classmethod
    def supports(cls, params: Any, pair: PairShapes) -> str | None:
        return fewer_than_four_stages(pair)

    def notes(self) -> list[str]:
        if self.mended or self.pair.teacher.family == "cnn":
            return []
        return ["as in the released code, the prompted teacher works on mixed-up tokens"]

    def adopt(self, teacher: nn.Module, read: Callable[[Tensor], Signals]) -> None:
        entrances, self.layout = stage_entrances(teacher)
        shapes = self.pair.teacher.stages
        inputs = shapes
        if self.layout == "maps":
            # Stages of a CNN begin with what the one before them ends in, the first with what the stem gives.
            first = next(m for m in entrances[0].modules() if isinstance(m, nn.Conv2d)).in_channels
            inputs = ((first, *shapes[0][1:]), *shapes[:3])
        self.prompts = nn.ModuleList(
            Prompt(entering[0], entering[1:] == shape[1:], shape, self.mended)
            for entering, shape in zip(inputs, shapes, strict=True)
        )
        for i, entrance in enumerate(entrances):
            entrance.register_forward_pre_hook(functools.partial(self._prompted, i))
        # Not a submodule: it is frozen, stays in evaluation mode, and is made anew when a run is resumed.
        self._read = read

    def _prompted(self, i: int, entrance: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Forward pre-hook of the teacher's stage i."""
        x, *rest = inputs
        difference = self._difference(i, len(x))
        if self.layout == "maps":
            return self.prompts[i](x, difference), *rest
        tokens, prefix = x, None
        if self.layout == "tokens":
            count = self.pair.teacher.prefix
            prefix, tokens = x[:, :count], x[:, count:].unflatten(1, self.pair.teacher.stages[i][1:])
        maps = self.prompts[i](planar(tokens.permute(0, 3, 1, 2)), difference)
        back = maps.permute(0, 2, 3, 1) if self.mended else maps.reshape(tokens.shape)
        return back if prefix is None else torch.cat([prefix, back.flatten(1, 2)], dim=1), *rest

    def _difference(self, i: int, batch: int) -> Tensor | None:
        """The last step's difference at stage i for a batch of this size; None before there is one."""
        difference = getattr(self, f"difference{i}")
        if not len(difference):
            return None
        return difference[torch.arange(batch, device=difference.device) % len(difference)]

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        for i in range(len(self.aligners)):
            saved = state_dict.get(f"{prefix}difference{i}")
            if saved is not None:
                setattr(self, f"difference{i}", getattr(self, f"difference{i}").new_empty(saved.shape))
        super()._load_from_state_dict(state_dict, prefix, *rest)

    def forward(self, student: Signals, teacher: Signals | None, target: Tensor, progress: float) -> dict[str, Tensor]:
        p = self.params
        prompted = self._read(teacher.inputs)
        regions = self.attention(student.stages)
        losses = []
        for i, (aligner, tokens, maps) in enumerate(zip(self.aligners, regions, prompted.stages, strict=True)):
            aligned, maps = full_precision(aligner(tokens)), full_precision(maps)
            losses.append(hierarchical_mse(aligned, maps))
            # Contiguous as it is after reading a checkpoint: the last bits depend on the memory layout.
            setattr(self, f"difference{i}", (aligned - maps).detach().contiguous())
        terms = {
            "ce": p.ce_weight * cross_entropy(student.logits, target),
            "pat": p.weight * sum(losses),
            "reg": p.reg_weight * kd_loss(prompted.logits, teacher.logits, 1.0),
        }
        return with_kl_term(terms, p, student, teacher)
