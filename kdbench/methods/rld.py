"""RLD: DKD whose teacher is refined: where it is wrong, neither its answer nor its order of the classes misleads.

Sun et al., "Knowledge Distillation with Refined Logits", ICCV 2025, arXiv 2408.07703; zju-SWJ/RLD at d54578f, a fork of
mdistiller. Logits (B, C), y the true class, m the teacher's top class:

    SCD    KL([p_t(m), 1 - p_t(m)] || [p_s(y), 1 - p_s(y)]), p = softmax(z)
    MCD    T^2 KL(softmax(z_t / T) || softmax(z_s / T)) over the classes that the teacher ranks below y
    loss   CE + warm-up (alpha SCD + beta MCD)

So the student is to be as sure of the true class as the teacher is of its own, and learns the teacher's shares of those
classes only that cannot contradict the label. Where y is the teacher's last class, MCD has no class and is 0.

Defaults are that code's for CIFAR-100, made for mdistiller's recipes: alpha 1, beta 8, T 4, a linear warm-up over 20 of
240 epochs; the OFA harness does not define it.

Departures, none of which changes a finite value: SCD is taken from logarithms, where the released one takes the
logarithm of a probability that may be 0; the warm-up follows the share of the training step by step, where the released
one counts whole epochs.

Strength: batch, grid and width do not count. MCD goes with T^2 and with the number of classes below the true one: it is
weak for a teacher at the start of its training, or an untrained one. Published for 100 classes at batch 64.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from kdbench.frequency import full_precision
from kdbench.methods.base import Distiller, cross_entropy, hard_target, ramp
from kdbench.methods.dkd import decouple
from kdbench.methods.kd import kd_loss
from kdbench.types import KdbenchError, Signals

TITLE = "RLD"
GROUP = "logits"
MAIN_WEIGHT = "beta"
HARNESS = "mdistiller"
BIBTEX = """
@inproceedings{sun2025rld,
  author = {Sun, Wujie and Chen, Defang and Lyu, Siwei and Chen, Genlang and Chen, Chun and Wang, Can},
  title = {Knowledge Distillation with Refined Logits},
  booktitle = {IEEE/CVF International Conference on Computer Vision},
  pages = {1110--1119},
  year = {2025},
  eprint = {2408.07703},
  archiveprefix = {arXiv},
}
"""

LEFT_OUT = -1e9
"""Logit of a class that MCD leaves out: finite, so that a sample without any class left gives 0."""


@dataclass(frozen=True)
class Params:
    ce_weight: float = 1.0
    """Weight of the cross-entropy (RLD: 1)."""
    alpha: float = 1.0
    """Weight of SCD, how sure both are (RLD: 1)."""
    beta: float = 8.0
    """Weight of MCD, the shares among the classes below the true one (RLD: 8)."""
    temperature: float = 4.0
    """Softens both distributions of MCD (RLD: 4)."""
    warmup: float = 0.0833
    """Share of the training over which both parts rise linearly from 0 (RLD: 20 of 240 epochs)."""

    def __post_init__(self) -> None:
        if self.temperature <= 0:
            raise KdbenchError(f"rld: temperature must be above 0, got {self.temperature}")
        if not 0 <= self.warmup <= 1:
            raise KdbenchError(f"rld: warmup is a share of the training, between 0 and 1, got {self.warmup}")


def scd_loss(student_logits: Tensor, teacher_logits: Tensor, classes: Tensor) -> Tensor:
    """KL of (teacher's top class, rest) against (student's true class, rest); logits (B, C), classes (B,)."""
    teacher = full_precision(teacher_logits.detach())
    sure, _ = decouple(full_precision(student_logits), classes)
    of_teacher, _ = decouple(teacher, teacher.argmax(dim=1))
    return F.kl_div(sure, of_teacher, reduction="batchmean", log_target=True)


def mcd_loss(student_logits: Tensor, teacher_logits: Tensor, classes: Tensor, temperature: float) -> Tensor:
    """T^2 KL over the classes whose teacher logit is below that of the true class; logits (B, C), classes (B,)."""
    student, teacher = full_precision(student_logits), full_precision(teacher_logits.detach())
    left_out = teacher >= teacher.gather(1, classes[:, None])
    return kd_loss(*(z.masked_fill(left_out, LEFT_OUT * temperature) for z in (student, teacher)), temperature)


def rld_loss(
    student_logits: Tensor, teacher_logits: Tensor, target: Tensor, alpha: float, beta: float, temperature: float
) -> Tensor:
    """alpha SCD + beta MCD of logits (B, C); target (B,) classes or (B, C) soft labels, of which the arg max counts.

    Batch mean; no gradient reaches the teacher.
    """
    classes = hard_target(target)
    scd = scd_loss(student_logits, teacher_logits, classes)
    return alpha * scd + beta * mcd_loss(student_logits, teacher_logits, classes, temperature)


class Method(Distiller):
    Params = Params

    def forward(self, student: Signals, teacher: Signals | None, target: Tensor, progress: float) -> dict[str, Tensor]:
        p = self.params
        return {
            "ce": p.ce_weight * cross_entropy(student.logits, target),
            "rld": ramp(progress, p.warmup)
            * rld_loss(student.logits, teacher.logits, target, p.alpha, p.beta, p.temperature),
        }
