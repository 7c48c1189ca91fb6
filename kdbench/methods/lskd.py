"""LSKD: KD on standardised logits, so that the student follows their order and not their size.

Sun et al., "Logit Standardization in Knowledge Distillation", CVPR 2024, arXiv 2403.01427;
sunshangquan/logit-standardization-KD at f6e5aa5, a fork of mdistiller. Logits (B, C):

    z'     (z - mean of the sample) / (sd of the sample + 1e-7), unbiased sd, on both sides
    loss   0.1 CE + 9 T^2 KL(softmax(z'_t / T) || softmax(z'_s / T)), T 2

The published form adds the standardisation to KD, DKD and others; this is the one of KD. Defaults are that code's, made
for mdistiller's recipes; the OFA harness does not define it.

Departure: a sample whose logits are all equal is left as it is, and so has the gradient of plain KD. Where the head of
the student starts at zero (timm's MLP-Mixer, its ViT with weight_init "jax"), that is every sample of the first step,
and the released division by 1e-7 alone makes its gradient ten million times as large.

Strength: the gradient goes with 1 / sd of the student's logits, so it is large while they are small. After a head that
starts at zero it still is at the next steps, and Adam remembers it: give such students a recipe with `clip_grad` (5.0
in the OFA harness). Batch, grid and width do not count. Published for 100 classes at batch 64 (CIFAR-100).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from kdbench.frequency import full_precision
from kdbench.methods.base import Distiller, cross_entropy
from kdbench.methods.kd import kd_loss
from kdbench.types import KdbenchError, Signals

TITLE = "LSKD"
GROUP = "logits"
MAIN_WEIGHT = "kd_weight"
HARNESS = "mdistiller"
BIBTEX = """
@inproceedings{sun2024lskd,
  author = {Sun, Shangquan and Ren, Wenqi and Li, Jingzhi and Wang, Rui and Cao, Xiaochun},
  title = {Logit Standardization in Knowledge Distillation},
  booktitle = {IEEE/CVF Conference on Computer Vision and Pattern Recognition},
  year = {2024},
  eprint = {2403.01427},
  archiveprefix = {arXiv},
}
"""

EPSILON = 1e-7
"""Added to the standard deviation, as released."""


@dataclass(frozen=True)
class Params:
    ce_weight: float = 0.1
    """Weight of the cross-entropy (LSKD: 0.1)."""
    kd_weight: float = 9.0
    """Weight of the KL divergence of standardised logits (LSKD: 9)."""
    temperature: float = 2.0
    """Softens both standardised distributions (LSKD: 2)."""

    def __post_init__(self) -> None:
        if self.temperature <= 0:
            raise KdbenchError(f"lskd: temperature must be above 0, got {self.temperature}")


def standardise(logits: Tensor) -> Tensor:
    """Logits (B, C) of mean 0 and standard deviation 1 in each sample; of mean 0 alone where they are all equal."""
    logits = full_precision(logits)
    deviation = logits.std(dim=1, keepdim=True)
    scale = torch.where(deviation > EPSILON, deviation + EPSILON, 1.0)
    return (logits - logits.mean(dim=1, keepdim=True)) / scale


def lskd_loss(student_logits: Tensor, teacher_logits: Tensor, temperature: float) -> Tensor:
    """T^2 KL(teacher || student) of standardised logits (B, C); batch mean; no gradient reaches the teacher."""
    return kd_loss(standardise(student_logits), standardise(teacher_logits.detach()), temperature)


class Method(Distiller):
    Params = Params

    def forward(self, student: Signals, teacher: Signals | None, target: Tensor, progress: float) -> dict[str, Tensor]:
        p = self.params
        return {
            "ce": p.ce_weight * cross_entropy(student.logits, target),
            "lskd": p.kd_weight * lskd_loss(student.logits, teacher.logits, p.temperature),
        }
