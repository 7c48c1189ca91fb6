"""MLDR-KD: logits agree in their products, over classes and over samples, at the head, at every stage and fused.

Yang et al., "Multi-Level Decoupled Relational Distillation for Heterogeneous Architectures", arXiv 2502.06189;
Ethan-Yang02/MLDR-KD at 0db65bc (mldr_kd/dfra.py, msdf.py, distiller.py). Logits z (B, C):

    class    of a sample:  KL(softmax(z_t z_t^T / sqrt(C)) || softmax(z_s z_s^T / sqrt(C))), (C, C), mean over its rows
    sample   the same of the B logits of a class, (B, B), divided by sqrt(C) too
    R        class, averaged over samples, + sample, averaged over classes, + alpha KL(p_t || p_s), alpha 2
    loss     CE + R(head) + sum over stages of R(stage's logits) + R(fused logits)

Stage s = 1..4 gets logits by 4 - s separable convolutions as OFA's, channels doubling, the last one ending in
max(d_s, d_t) channels (at stage 4 a 1x1 convolution without bias), the mean over the grid (its descriptor) and a
Linear. One gate, Linear - GELU - Linear of hidden width 4 C, makes C numbers of each descriptor; their softmax over the
four stages, class by class, weighs the stages' logits: the fused logits. Temperature 1, no T^2. All five released
configurations have these weights. They also give what the paper prints for ResNet18 (74.01 from scratch) on CIFAR-100:
81.56 from Swin-T, 80.51 from ViT-S, 80.79 from Mixer-B/16; SGD 0.05, weight decay 0.002, 300 epochs, label smoothing
0.1, the best epoch on test.

Departures:

- The class relation takes B C^2 numbers for each of six sets of logits (3 GB at 128 samples of 1000 classes). It is
  computed in pieces, which are computed again for the gradient, so that memory stays bounded; values are the same.
- Released for ResNet students alone. Tokens of a ViT or an MLP are read as the map of their grid, without prefix
  tokens (told in the notes).

Trap: adding a constant to a sample's logits changes both relations, though not its probabilities.

Strength: the sample relation compares distributions over the batch, so it depends on its size; small logits give both
relations the fourth power of their size over C, where KL has the square, so they weigh little at the start and much for
a sure teacher. Grid and width do not count. Published at batch 128, 100 classes, 224 px, fp32.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from kdbench.frequency import full_precision
from kdbench.methods.base import Distiller, cross_entropy, fewer_than_four_stages
from kdbench.methods.ofa import initialise, separable_convolution
from kdbench.types import PairShapes, Signals

TITLE = "MLDR-KD"
GROUP = "logits"
MAIN_WEIGHT = "weight"
HARNESS = "MLDR-KD"
BIBTEX = """
@article{yang2025mldrkd,
  author = {Yang, Yaoxin and Ye, Peng and Lin, Weihao and Li, Kangcong and Wen, Yan and Hao, Jia and Chen, Tao},
  title = {Multi-Level Decoupled Relational Distillation for Heterogeneous Architectures},
  journal = {arXiv preprint arXiv:2502.06189},
  year = {2025},
}
"""

LARGEST_PIECE = 2**24
"""Numbers of a relation that are held at a time: 64 MB."""


@dataclass(frozen=True)
class Params:
    ce_weight: float = 1.0
    """Weight of the cross-entropy (MLDR-KD: 1)."""
    weight: float = 1.0
    """Weight of R at the head, at all stages and fused (MLDR-KD: 1 each)."""
    alpha: float = 2.0
    """Weight of the KL divergence within R (MLDR-KD: 2)."""


def relations(students: Tensor, teacher: Tensor, scale: float) -> Tensor:
    """KL of the softmaxed products of each row's entries, summed over rows: (K,).

    students (K, N, M), teacher (N, M). A row x becomes softmax(scale x x^T), M distributions of M values.
    """
    with torch.autocast(students.device.type, enabled=False):
        ours, theirs = ((x.unsqueeze(-1) * x.unsqueeze(-2) * scale).log_softmax(-1) for x in (students, teacher))
        return (theirs.exp() * (theirs - ours)).sum(dim=(1, 2, 3))


def relation_loss(students: Tensor, teacher: Tensor, scale: float) -> Tensor:
    """`relations` averaged over the rows and their entries, a few rows at a time: (K,)."""
    sets, _, entries = students.shape
    rows = max(LARGEST_PIECE // (sets * entries**2), 1)
    pieces = zip(students.split(rows, dim=1), teacher.split(rows), strict=True)
    # Of each piece only its inputs are kept for the backward pass.
    sums = [checkpoint(relations, *piece, scale, use_reentrant=False, preserve_rng_state=False) for piece in pieces]
    return torch.stack(sums).sum(dim=0) / teacher.numel()


def mldr_loss(students: Tensor, teacher: Tensor, alpha: float) -> Tensor:
    """R of each of K sets of student logits (K, B, C) and the teacher's (B, C): (K,).

    No gradient reaches the teacher.
    """
    students, teacher = full_precision(students), full_precision(teacher.detach())
    scale = teacher.shape[1] ** -0.5
    by_class = relation_loss(students, teacher, scale)
    by_sample = relation_loss(students.transpose(1, 2), teacher.T, scale)
    log_teacher = teacher.log_softmax(dim=1)
    kl = (log_teacher.exp() * (log_teacher - students.log_softmax(dim=2))).sum(dim=2).mean(dim=1)
    return by_class + by_sample + alpha * kl


def projector(channels: int, stage: int, width: int) -> nn.Sequential:
    """Maps (B, C, H, W) of stage 1..4 -> descriptors (B, width)."""
    if stage == 4:
        layers = [nn.Conv2d(channels, width, 1, bias=False)]
    else:
        widths = [channels * 2**i for i in range(4 - stage)] + [width]
        layers = [separable_convolution(*pair) for pair in pairwise(widths)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())


class Method(Distiller):
    Params = Params

    def __init__(self, params: Params, pair: PairShapes) -> None:
        super().__init__(params, pair)
        width, classes = max(pair.student.pooled, pair.teacher.pooled), pair.classes
        shapes = enumerate(pair.student.stages, start=1)
        self.projectors = nn.ModuleList(projector(shape[0], stage, width) for stage, shape in shapes)
        self.classify = nn.ModuleList(nn.Linear(width, classes) for _ in self.projectors)
        self.gate = nn.Sequential(nn.Linear(width, 4 * classes), nn.GELU(), nn.Linear(4 * classes, classes))
        self.apply(initialise)

    @classmethod
    def needs(cls, params: Any) -> frozenset[str]:
        return frozenset({"logits", "stages"})

    @classmethod
    def supports(cls, params: Any, pair: PairShapes) -> str | None:
        return fewer_than_four_stages(pair, ["student"])

    def notes(self) -> list[str]:
        tokens = self.pair.student.family != "cnn"
        return ["the student's tokens are read as a map; released for CNN students alone"] if tokens else []

    def forward(self, student: Signals, teacher: Signals | None, target: Tensor, progress: float) -> dict[str, Tensor]:
        p = self.params
        stages, fused = self.exits(student)
        every = torch.stack([full_precision(z) for z in (student.logits, *stages, fused)])
        head, *of_stages, of_fused = mldr_loss(every, teacher.logits, p.alpha)
        return {
            "ce": p.ce_weight * cross_entropy(student.logits, target),
            "head": p.weight * head,
            "stages": p.weight * sum(of_stages),
            "fused": p.weight * of_fused,
        }

    def exits(self, student: Signals) -> tuple[list[Tensor], Tensor]:
        """Logits (B, C) of the four stages, and fused."""
        descriptors = [
            project(full_precision(maps)) for project, maps in zip(self.projectors, student.stages, strict=True)
        ]
        stages = [classify(descriptor) for classify, descriptor in zip(self.classify, descriptors, strict=True)]
        shares = full_precision(self.gate(torch.stack(descriptors))).softmax(dim=0)
        return stages, (shares * torch.stack(stages)).sum(dim=0)
