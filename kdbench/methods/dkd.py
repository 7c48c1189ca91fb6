"""DKD: KD cut into two parts, how sure of the target class (TCKD) and how the rest is shared out (NCKD).

Zhao et al., "Decoupled Knowledge Distillation", CVPR 2022, arXiv 2203.08679. Equal to `dkd_loss` of
megvii-research/mdistiller at a08d46f (golden values in tests/data). Logits (B, C).

Defaults are those of the OFA harness: alpha 1, beta 2, temperature 1, no warm-up. Preset `mdistiller` has beta 8,
temperature 4 and a linear warm-up over 20 of 240 epochs on the whole term; for some pairs that harness has a beta of
their own (6 for vgg13 > MobileNetV2).

Departures, none of which changes a finite value:

- Both parts are taken from logarithms, where the released one takes the logarithm of a probability that may be 0: it
  is not finite at large logit gaps.
- The target's logit is left out of the second softmax; the released code lowers it by 1000.
- The warm-up follows the share of the training that is done step by step, where mdistiller counts whole epochs.
- The distiller that Hao840/OFAKD released at f7bb896 reads attributes that it never sets and cannot run; this one is
  what its arguments say.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from kdbench.frequency import full_precision
from kdbench.methods.base import Distiller, cross_entropy, hard_target, ramp
from kdbench.types import KdbenchError, Signals

TITLE = "DKD"
GROUP = "logits"
MAIN_WEIGHT = "beta"
TUNE_TEMPERATURE = "temperature"
HARNESS = "OFA"
PRESETS = {"mdistiller": {"beta": 8.0, "temperature": 4.0, "warmup": 0.0833}}
BIBTEX = """
@inproceedings{zhao2022dkd,
  author = {Zhao, Borui and others},
  title = {Decoupled Knowledge Distillation},
  booktitle = {IEEE/CVF Conference on Computer Vision and Pattern Recognition},
  year = {2022},
  eprint = {2203.08679},
  archiveprefix = {arXiv},
}
"""


@dataclass(frozen=True)
class Params:
    ce_weight: float = 1.0
    """Weight of the cross-entropy (both harnesses: 1)."""
    alpha: float = 1.0
    """Weight of TCKD, the target class against the rest (both harnesses: 1)."""
    beta: float = 2.0
    """Weight of NCKD, the shares among the other classes (OFA harness: 2; mdistiller: 8, or by pair)."""
    temperature: float = 1.0
    """Softens both distributions (OFA harness: 1; mdistiller: 4)."""
    warmup: float = 0.0
    """Share of the training over which both parts rise linearly from 0 (OFA harness: 0; mdistiller: 20 of 240)."""

    def __post_init__(self) -> None:
        if self.temperature <= 0:
            raise KdbenchError(f"dkd: temperature must be above 0, got {self.temperature}")
        if not 0 <= self.warmup <= 1:
            raise KdbenchError(f"dkd: warmup is a share of the training, between 0 and 1, got {self.warmup}")


def decouple(logits: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
    """Log-probabilities of "target or not" (B, 2), and of the other classes given "not" (B, C - 1)."""
    others = torch.arange(logits.shape[1] - 1, device=logits.device)
    others = others + (others >= classes[:, None])
    log_p = F.log_softmax(logits, dim=1)
    log_rest = log_p.gather(1, others).logsumexp(dim=1, keepdim=True)
    return torch.cat([log_p.gather(1, classes[:, None]), log_rest], dim=1), logits.gather(1, others).log_softmax(dim=1)


def dkd_loss(
    student_logits: Tensor, teacher_logits: Tensor, target: Tensor, alpha: float, beta: float, temperature: float
) -> Tensor:
    """alpha TCKD + beta NCKD, each T^2 KL(teacher || student) of one part of the softened probabilities.

    Logits (B, C), target (B,) classes or (B, C) soft labels, of which the arg max counts; batch mean; no gradient
    reaches the teacher.
    """
    classes = hard_target(target)
    student = decouple(full_precision(student_logits) / temperature, classes)
    teacher = decouple(full_precision(teacher_logits.detach()) / temperature, classes)
    tckd, nckd = (
        temperature**2 * F.kl_div(ours, theirs, reduction="batchmean", log_target=True)
        for ours, theirs in zip(student, teacher, strict=True)
    )
    return alpha * tckd + beta * nckd


class Method(Distiller):
    Params = Params

    def forward(self, student: Signals, teacher: Signals | None, target: Tensor, progress: float) -> dict[str, Tensor]:
        p = self.params
        return {
            "ce": p.ce_weight * cross_entropy(student.logits, target),
            "dkd": ramp(progress, p.warmup)
            * dkd_loss(student.logits, teacher.logits, target, p.alpha, p.beta, p.temperature),
        }
