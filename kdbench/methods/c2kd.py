"""C2KD: teacher and student of two modalities teach each other through proxies, on samples where both rank alike.

Huo et al., "C2KD: Bridging the Modality Gap for Cross-Modal Knowledge Distillation", CVPR 2024; huofushuo/C2KD at
f22bb52, its CREMA-D script (golden values of the loss in tests/data). q are the networks' logits, p those of the
proxies, sg stops the gradient; all weights and the temperature are 1:

    CE(q_S) + CE(q_T)
    + KL(sg q_T -> p_T) + KL(sg p_T -> q_T) + KL(sg q_S -> p_S) + KL(sg p_S -> q_S)
    + NTKL(sg p_T -> p_S) + NTKL(sg p_S -> p_T)

The teacher is trained too: here a copy of it, which every run starts from and drops afterwards. NTKL is a KL divergence
without the target class, on samples whose two proxies order the classes alike (Kendall's tau above `threshold`), but
averaged over the whole batch. The released code takes the target out by setting its logit to 0, so the class is still
there; a later re-implementation lowers it by 1000 (`masking`).

A proxy averages a stage's maps (B, C, H, W) over space, then 1x1 convolution (C -> C), BatchNorm, LeakyReLU(0.1)
(VGGSound: ReLU), Linear. **It reads stage 3**: the released code takes `f[4]` of a ResNet18 list that begins with the
stem, which is layer3's output and not layer4's; `stage` says 4 for those who want the last one.

Departures: the width of a proxy is that of the stage that it reads (released: 256, layer3 of a ResNet18). Teacher and
student share the recipe of the student. On AVE the released code freezes BatchNorm's statistics from epoch 81 on, since
`train()` is called once, before the epochs; that is not reproduced.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdbench.frequency import full_precision
from kdbench.methods.base import Distiller, cross_entropy, fewer_than_four_stages, hard_target
from kdbench.methods.kd import kd_loss
from kdbench.types import KdbenchError, PairShapes, Signals

TITLE = "C2KD"
GROUP = "cross-modal"
MAIN_WEIGHT = "weight"
HARNESS = "C2KD"
BIBTEX = """
@inproceedings{huo2024c2kd,
  author = {Huo, Fushuo and others},
  title = {{C2KD}: Bridging the Modality Gap for Cross-Modal Knowledge Distillation},
  booktitle = {IEEE/CVF Conference on Computer Vision and Pattern Recognition},
  year = {2024},
}
"""


@dataclass(frozen=True)
class Params:
    ce_weight: float = 1.0
    """Weight of both cross-entropies, the student's and the teacher's (code: 1)."""
    weight: float = 1.0
    """Weight of both NTKL terms between the proxies (code: 1)."""
    kd_weight: float = 1.0
    """Weight of the four KL terms between a network and its own proxy (code: 1); part of the published method."""
    temperature: float = 1.0
    """Softens every KL and NTKL term, times T^2 (code: 1)."""
    threshold: float = 0.0
    """Kendall's tau above which a sample counts (code: krc 0)."""
    masking: Literal["zero", "minus_1000"] = "zero"
    """How NTKL takes the target out: its logit times 0 (code), or lowered by 1000 (a re-implementation)."""
    stage: Literal[3, 4] = 3
    """Stage whose maps the proxies read (code: layer3)."""

    def __post_init__(self) -> None:
        if self.temperature <= 0:
            raise KdbenchError(f"c2kd: temperature must be above 0, got {self.temperature}")
        if not -1 <= self.threshold < 1:
            raise KdbenchError(f"c2kd: threshold is a Kendall tau, at least -1 and below 1, got {self.threshold}")


@torch.no_grad()
def kendall_tau(first: Tensor, second: Tensor) -> Tensor:
    """Kendall's tau-b of each row of two tensors (B, C): (B,); NaN where a row is constant, as scipy's kendalltau."""
    first, second = full_precision(first), full_precision(second)
    # C x C signs a sample: a few samples at a time bound the memory at 1000 classes.
    step = max(1, 2**22 // first.shape[1] ** 2)
    return torch.cat([_tau(*pair) for pair in zip(first.split(step), second.split(step), strict=True)])


def _tau(first: Tensor, second: Tensor) -> Tensor:
    a, b = ((x[:, :, None] - x[:, None, :]).sign() for x in (first, second))
    pairs = [s.abs().sum(dim=(1, 2)) for s in (a, b)]
    return (a * b).sum(dim=(1, 2)) / (pairs[0].sqrt() * pairs[1].sqrt())


def ntkl_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    target: Tensor,
    threshold: float,
    masking: Literal["zero", "minus_1000"] = "zero",
    temperature: float = 1.0,
) -> Tensor:
    """T^2 KL(p_teacher || p_student) with the target's logit masked, on samples that both sides rank alike.

    Logits (B, C), target (B,) classes or (B, C) soft labels, of which the arg max counts. Only samples whose Kendall
    tau exceeds the threshold count, but the mean is over the whole batch. No gradient reaches the teacher.
    """
    student, teacher = full_precision(student_logits), full_precision(teacher_logits.detach())
    chosen = kendall_tau(student, teacher) > threshold
    is_target = F.one_hot(hard_target(target), student.shape[1]).to(student.dtype)
    if masking == "zero":
        student, teacher = student * (1 - is_target), teacher * (1 - is_target)
    else:
        student, teacher = student - 1000 * is_target, teacher - 1000 * is_target
    log_student = F.log_softmax(student / temperature, dim=1)
    log_teacher = F.log_softmax(teacher / temperature, dim=1)
    divergence = F.kl_div(log_student, log_teacher, reduction="none", log_target=True).sum(dim=1)
    return temperature**2 * (chosen * divergence).mean()


class Proxy(nn.Module):
    """Class logits (B, classes) of a stage's maps (B, C, H, W)."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(channels, channels, 1, bias=False),
            nn.BatchNorm2d(channels),
            nn.LeakyReLU(0.1),
            nn.Flatten(),
            nn.Linear(channels, classes),
        )
        nn.init.kaiming_normal_(self.layers[1].weight, mode="fan_out", nonlinearity="relu")

    def forward(self, maps: Tensor) -> Tensor:
        return self.layers(full_precision(maps))


class Method(Distiller):
    Params = Params

    def __init__(self, params: Params, pair: PairShapes) -> None:
        super().__init__(params, pair)
        self.student_proxy, self.teacher_proxy = (
            Proxy(side.stages[params.stage - 1][0], pair.classes) for side in (pair.student, pair.teacher)
        )

    @classmethod
    def needs(cls, params: Any) -> frozenset[str]:
        return frozenset({"logits", "stages", "inputs", "teacher"})

    @classmethod
    def supports(cls, params: Any, pair: PairShapes) -> str | None:
        return fewer_than_four_stages(pair)

    def notes(self) -> list[str]:
        return ["the teacher is trained too"]

    def adopt(self, teacher: nn.Module, read: Callable[[Tensor], Signals]) -> None:
        self.teacher = teacher.requires_grad_(True).train()
        self._read = read

    def forward(self, student: Signals, teacher: Signals | None, target: Tensor, progress: float) -> dict[str, Tensor]:
        p = self.params
        trained = self._read(teacher.inputs)
        student_proxy = self.student_proxy(student.stages[p.stage - 1])
        teacher_proxy = self.teacher_proxy(trained.stages[p.stage - 1])

        def between(learner: Tensor, other: Tensor) -> Tensor:
            return p.weight * ntkl_loss(learner, other, target, p.threshold, p.masking, p.temperature)

        def within(learner: Tensor, other: Tensor) -> Tensor:
            return p.kd_weight * kd_loss(learner, other, p.temperature)

        return {
            "ce": p.ce_weight * cross_entropy(student.logits, target),
            "ce_teacher": p.ce_weight * cross_entropy(trained.logits, target),
            "ntkl": between(student_proxy, teacher_proxy),
            "ntkl_teacher": between(teacher_proxy, student_proxy),
            "kd": within(student.logits, student_proxy),
            "kd_proxy": within(student_proxy, student.logits),
            "kd_teacher": within(trained.logits, teacher_proxy),
            "kd_teacher_proxy": within(teacher_proxy, trained.logits),
        }
