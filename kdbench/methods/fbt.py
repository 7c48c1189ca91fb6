"""FBT: a bridge of the student's first three stages and the teacher's last one learns from one and teaches the other.

Li et al., "Fuse Before Transfer: Knowledge Fusion for Heterogeneous Distillation", ICCV 2025, arXiv 2410.12342 (v1:
TAS). Known from a third party's summary; the code (liguopeng0923/FBT) was not available, hence the mark. By the summary
the bridge F is the student's stages 1-3, a local-to-global block (patch embedding and a Swin block), and the teacher's
stage 4 and head; the loss is

    CE(S) + sum over (T, S), (T, F), (F, S) of ofa_loss(logits) + InfoNCE(pooled features),    the second learns

with a learned temperature in InfoNCE. Not known, and decided here:

- all weights are 1, the exponent and the temperature of the OFA loss OFA's (1), and F has no cross-entropy of its own;
- the teacher's stage and head are a frozen copy; the local-to-global block trains, and so do the student's stages
  through it; F as a teacher passes no gradient on;
- InfoNCE asks each learner's feature for the teacher's of the same sample among those of the batch, not the other way
  round, at unit length, the student's after one Linear to the teacher's width;
- one temperature for each of the three, 0.01 + exp(u), from 0.07 on (CLIP's start and least value);
- the local-to-global block enlarges the student's third stage (nearest) until patches fill it, embeds one patch for
  each cell of the teacher's third stage (convolution, LayerNorm) and lets the cells attend to each other in windows of
  7, or of the grid where that is smaller;
- prefix tokens that the teacher's stage 4 expects (a class token) are learned constants, as the teacher's own would
  bring what it knows of the input into the bridge.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdbench.frequency import full_precision
from kdbench.methods.base import Distiller, cross_entropy, fewer_than_four_stages
from kdbench.methods.ofa import ofa_loss
from kdbench.tensors import planar
from kdbench.types import KdbenchError, PairShapes, Signals

TITLE = "FBT"
GROUP = "features"
MAIN_WEIGHT = "weight"
HARNESS = "OFA"
MARK = "†"
FOOTNOTE = "reconstructed from a summary of the paper; decisions in its file"
BIBTEX = """
@inproceedings{li2025fbt,
  author = {Li, Guopeng and others},
  title = {Fuse Before Transfer: Knowledge Fusion for Heterogeneous Distillation},
  booktitle = {IEEE/CVF International Conference on Computer Vision},
  year = {2025},
  eprint = {2410.12342},
  archiveprefix = {arXiv},
}
"""

WINDOW = 7
HEAD_WIDTH = 32
COLDEST = 0.01


@dataclass(frozen=True)
class Params:
    ce_weight: float = 1.0
    """Weight of the student's cross-entropy (OFA harness: 1)."""
    weight: float = 1.0
    """Weight of the sum of the three InfoNCE terms (not known: 1)."""
    logit_weight: float = 1.0
    """Weight of the sum of the three OFA logit losses (not known: 1)."""
    eps: float = 1.0
    """Exponent on the target-enhanced teacher of the OFA loss (not known; OFAKD: 1)."""
    temperature: float = 1.0
    """Softens the logits of the OFA loss (not known; OFAKD: 1)."""
    contrast_temperature: float = 0.07
    """Temperature at which the learned ones of InfoNCE start (not known; CLIP: 0.07)."""

    def __post_init__(self) -> None:
        if self.eps <= 0 or self.temperature <= 0:
            raise KdbenchError(f"fbt: eps and temperature must be above 0, got {self.eps} and {self.temperature}")
        if self.contrast_temperature <= COLDEST:
            raise KdbenchError(f"fbt: contrast_temperature must be above {COLDEST}, got {self.contrast_temperature}")


def info_nce(learner: Tensor, teacher: Tensor, temperature: Tensor | float) -> Tensor:
    """-log of the share of the own teacher among the teachers of the batch: softmax_j(cos(l_i, t_j) / temperature)_i.

    Features (B, D), batch mean; 0 for a batch of one. No gradient reaches the teacher; one reaches the temperature.
    """
    with torch.autocast(learner.device.type, enabled=False):
        ours = F.normalize(full_precision(learner), dim=1)
        theirs = F.normalize(full_precision(teacher.detach()), dim=1)
        return F.cross_entropy(ours @ theirs.T / temperature, torch.arange(len(ours), device=ours.device))


class LocalToGlobal(nn.Module):
    """Maps of a student's stage (B, C, H, W) -> tokens (B, H', W', C') of a teacher's stage (C', H', W')."""

    def __init__(self, student: tuple[int, int, int], teacher: tuple[int, int, int]) -> None:
        super().__init__()
        # The loss function alone is usable without timm.
        import kdbench.torchvision_ops  # noqa: F401, I001
        from timm.models.swin_transformer import SwinTransformerBlock

        (channels, *own), (width, *grid) = student, teacher
        patch = tuple(-(-ours // cells) for ours, cells in zip(own, grid, strict=True))
        self.size = tuple(cells * side for cells, side in zip(grid, patch, strict=True))
        self.embed = nn.Conv2d(channels, width, patch, patch)
        self.norm = nn.LayerNorm(width)
        heads = max(h for h in range(1, max(width // HEAD_WIDTH, 1) + 1) if width % h == 0)
        self.block = SwinTransformerBlock(width, tuple(grid), heads, window_size=WINDOW)

    def forward(self, maps: Tensor) -> Tensor:
        maps = F.interpolate(full_precision(maps), self.size)
        return self.block(self.norm(self.embed(maps).permute(0, 2, 3, 1)))


def after_third_stage(model: nn.Module) -> tuple[list[nn.Module], Literal["maps", "maps last", "tokens"]]:
    """What a timm network runs between the end of its third stage and its head, and the layout of the input of that.

    Raises KdbenchError for a network whose blocks are not known here.
    """
    from timm.models.convnext import ConvNeXt
    from timm.models.efficientnet import EfficientNet
    from timm.models.mlp_mixer import MlpMixer
    from timm.models.resnet import ResNet
    from timm.models.swin_transformer import SwinTransformer
    from timm.models.vision_transformer import VisionTransformer

    from kdbench.signals import stage_indices

    third = stage_indices(model)[2]
    if isinstance(model, ResNet):
        return [model.layer4], "maps"
    if isinstance(model, ConvNeXt):
        return [*model.stages[third + 1 :], model.norm_pre], "maps"
    if isinstance(model, EfficientNet):
        # Block numbers count from 1 in stage_ends.
        return [*model.blocks[model.stage_ends[third] :], model.conv_head, model.bn2], "maps"
    if isinstance(model, SwinTransformer):
        return [*model.layers[third + 1 :], model.norm], "maps last"
    if isinstance(model, VisionTransformer | MlpMixer):
        return [*model.blocks[third + 1 :], model.norm], "tokens"
    raise KdbenchError(
        f"fbt: the last stage of timm's {type(model).__name__} is not known; known: ResNet, ConvNeXt, EfficientNet, "
        "SwinTransformer, VisionTransformer, MlpMixer"
    )


class Method(Distiller):
    Params = Params
    timm_teacher = True

    def __init__(self, params: Params, pair: PairShapes) -> None:
        super().__init__(params, pair)
        third = pair.teacher.stages[2]
        self.local_to_global = LocalToGlobal(pair.student.stages[2], third)
        self.prefix = (
            nn.Parameter(0.02 * torch.randn(1, pair.teacher.prefix, third[0])) if pair.teacher.prefix else None
        )
        self.projector = nn.Linear(pair.student.pooled, pair.teacher.pooled)
        self.log_temperatures = nn.Parameter(torch.full((3,), math.log(params.contrast_temperature - COLDEST)))

    @classmethod
    def needs(cls, params: Any) -> frozenset[str]:
        return frozenset({"logits", "stages", "pooled", "teacher"})

    @classmethod
    def supports(cls, params: Any, pair: PairShapes) -> str | None:
        return fewer_than_four_stages(pair)

    def adopt(self, teacher: nn.Module, read: Callable[[Tensor], Signals]) -> None:
        # In a list, so not submodules: they are frozen, stay in evaluation mode, and are made anew for a resumed run.
        self.last_stage, self.layout = after_third_stage(teacher)
        self.head = teacher.forward_head

    def bridge(self, maps: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (B, classes) and pooled feature (B, D) of the bridge; maps: the student's third stage."""
        x = self.local_to_global(maps)
        if self.layout == "maps":
            x = planar(x.permute(0, 3, 1, 2))
        elif self.layout == "tokens":
            x = x.flatten(1, 2)
            if self.prefix is not None:
                x = torch.cat([self.prefix.to(x.dtype).expand(len(x), -1, -1), x], dim=1)
        for module in self.last_stage:
            x = module(x)
        return self.head(x), self.head(x, pre_logits=True)

    def forward(self, student: Signals, teacher: Signals | None, target: Tensor, progress: float) -> dict[str, Tensor]:
        p = self.params
        shown = {
            "t": (teacher.logits, teacher.pooled),
            "f": self.bridge(student.stages[2]),
            "s": (student.logits, self.projector(full_precision(student.pooled))),
        }
        terms = {"ce": p.ce_weight * cross_entropy(student.logits, target)}
        temperatures = COLDEST + self.log_temperatures.exp()
        for (source, learner), temperature in zip(("ts", "tf", "fs"), temperatures, strict=True):
            (logits, feature), (own_logits, own_feature) = shown[source], shown[learner]
            name = f"{source}{learner}"
            terms[f"logits_{name}"] = p.logit_weight * ofa_loss(own_logits, logits, target, p.eps, p.temperature)
            terms[f"nce_{name}"] = p.weight * info_nce(own_feature, feature, temperature)
        return terms
