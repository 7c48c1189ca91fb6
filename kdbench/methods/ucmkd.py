"""UCMKD: cross-entropy's gradient is taken at a copy of the student that has moved a little towards the teacher.

Tran et al., "Cross-Modal Knowledge Distillation without Paired Data", ICML 2026, arXiv 2606.10504;
Duckduck-05/UCMKD at 2658b06, its CREMA-D script. Features (B, D) are what the classifiers read; p_S are the student's
probabilities, p_T those of the teacher's frozen classifier *on the student's feature*, y is the target:

    FA    transport of the batch's student features to its teacher features: cost 1 - cosine, entropic with weight 0.1,
          100 Sinkhorn iterations
    LA    mean of -log p_S(y) + k log p_T(y), with k = p_T(y) that carries no gradient

`variant` names an arm of the released script:

    bilevel    (published) a copy of the student takes a step of AdamW by FA, then one by LA on the classifier alone,
               both at rate 1e-5 and weight decay 0.05; the gradient of cross-entropy at the copy is applied to the
               student
    sumall     CE + FA + LA
    ce         cross-entropy alone, the baseline of the published tables

The copy is not made: the loss is cross-entropy at the weights w + d, where d is the sum of the two steps and carries no
gradient. As released, `bilevel` reads the student three times a step in training mode, so the running statistics of
BatchNorm move three times as often. What the teacher can do (ours, from the code):

- A first step of Adam moves a weight by its rate, however large the loss is: d is some 1e-5 a weight.
- In `bilevel` LA reads a feature without gradient, so p_T is a constant and the step is one by cross-entropy, as it is
  computed here. The teacher acts by FA alone.
- In `sumall` LA is cross-entropy once more, so the student learns at twice the rate; its second part moves the feature
  to where the teacher's classifier sees the target less.
- FA is the same for every order of the batch and LA sees no teacher's feature, so no sample needs its own teacher:
  `@shuffled` changes the last bits and nothing else. The paper is on unpaired data.

In the scripts for CREMA-D, AVE and RAVDESS all arms but `bilevel` call `train()` once, before the epochs, and an
evaluation leaves `eval()` behind: **their students learn in evaluation mode, BatchNorm frozen, from epoch 2 on** (AVE:
17). `training_mode_share` does that; by default all arms train alike.

Departures: gradients are clipped at 5 there, which is a matter of the recipe here (`clip_grad`). For RAVDESS the inner
rate is 5e-5 and `bilevel` alone smooths labels; for AVE LA has no gradient by way of p_T. None of that is reproduced.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdbench.frequency import full_precision
from kdbench.methods.base import Distiller, cross_entropy
from kdbench.methods.mfh import linear_classifier
from kdbench.signals import Reader
from kdbench.types import KdbenchError, Signals

TITLE = "UCMKD"
GROUP = "cross-modal"
MAIN_WEIGHT = "inner_lr"
HARNESS = "UCMKD"
BIBTEX = """
@inproceedings{tran2026ucmkd,
  author = {Tran, Trong Khiem and Chu, Anh Duc and Pham, Quang Hung and Nguyen, Phi Le and Hoang, Trong Nghia},
  title = {Cross-Modal Knowledge Distillation without Paired Data: Theoretical Foundations and Algorithms},
  booktitle = {International Conference on Machine Learning},
  year = {2026},
  eprint = {2606.10504},
  archiveprefix = {arXiv},
}
"""
LEAST_REG = 0.025
"""Costs are up to 2, and exp(-2 / 0.025) is some thousand times the smallest number of fp32."""


@dataclass(frozen=True)
class Params:
    variant: Literal["bilevel", "sumall", "ce"] = "bilevel"
    """The arm of the released script (published: bilevel)."""
    inner_lr: float = 1e-5
    """Rate of both inner steps of `bilevel` (CREMA-D: 1e-5; RAVDESS: 5e-5); nothing to the other variants, which take
    `tune: false` where a suite tunes."""
    inner_decay: float = 0.05
    """Weight decay of both inner steps of `bilevel` (code: 0.05)."""
    fa_weight: float = 1.0
    """Weight of FA in `sumall` (code: 1)."""
    la_weight: float = 1.0
    """Weight of LA in `sumall` (code: 1)."""
    reg: float = 0.1
    """Weight of the entropy in FA (code: 0.1)."""
    iterations: int = 100
    """Sinkhorn iterations of FA (code: 100)."""
    training_mode_share: float = 1.0
    """Share of the training after which the student learns in evaluation mode (ours: never; code: the first epoch, in
    all arms but `bilevel`)."""

    def __post_init__(self) -> None:
        if self.reg < LEAST_REG:
            raise KdbenchError(
                f"ucmkd: reg must be at least {LEAST_REG}, got {self.reg}: fp32 cannot hold exp(-2 / reg)"
            )
        if self.iterations < 1:
            raise KdbenchError(f"ucmkd: iterations must be at least 1, got {self.iterations}")


def transport_loss(student_feature: Tensor, teacher_feature: Tensor, reg: float, iterations: int) -> Tensor:
    """Cost of the entropic transport of features (B, D) to the teacher's (B, D), equal masses, cost 1 - cosine.

    The cost alone, without the entropy, of the plan after so many Sinkhorn iterations. No gradient reaches the teacher.
    """
    with torch.autocast(student_feature.device.type, enabled=False):
        student, teacher = (F.normalize(full_precision(x), dim=1) for x in (student_feature, teacher_feature.detach()))
        cost = 1 - student @ teacher.T
        kernel, mass = torch.exp(-cost / reg), 1 / len(cost)
        rows = cost.new_full((len(cost),), mass)
        for _ in range(iterations):
            columns = mass / (kernel.T @ rows)
            rows = mass / (kernel @ columns)
        return (rows[:, None] * kernel * columns * cost).sum()


def label_loss(student_logits: Tensor, teacher_logits: Tensor, target: Tensor) -> Tensor:
    """Batch mean of -log p_S(y) + p_T(y) log p_T(y), the factor p_T(y) without gradient; logits (B, C).

    teacher_logits: of the teacher's classifier on the student's feature, where their gradient goes. target: (B,)
    classes, or (B, C) soft labels, which weigh the classes.
    """
    student, teacher = (full_precision(x).log_softmax(dim=1) for x in (student_logits, teacher_logits))
    ratio = student - teacher.exp().detach() * teacher
    return -(F.one_hot(target, ratio.shape[1]) if target.ndim == 1 else target).mul(ratio).sum(dim=1).mean()


def first_step(weight: Tensor, gradient: Tensor, rate: float, decay: float) -> Tensor:
    """What a first step of AdamW adds to a weight; it carries no gradient."""
    return (-rate * (decay * weight + gradient / (gradient.abs() + 1e-8))).detach()


def cross_entropy_at_copy(
    logits_at: Callable[[Mapping[str, Tensor]], Tensor],
    weights: Mapping[str, Tensor],
    feature: Tensor,
    teacher_feature: Tensor,
    target: Tensor,
    params: Params,
) -> Tensor:
    """Cross-entropy at the student's weights after both inner steps; its gradient reaches the weights as they are.

    logits_at: the student's logits (B, C) of the batch with tensors in place of some of its weights, by name. weights:
    all of them, {name: tensor}. feature, teacher_feature: (B, D) of both at these weights; the graph of `feature` is
    used up. target: (B,) classes, or (B, C) soft labels.
    """

    def moved(loss: Tensor, names: Iterable[str]) -> dict[str, Tensor]:
        """Those of these weights that the loss reaches, one step on."""
        own = {name: weights[name] for name in names}
        gradients = torch.autograd.grad(loss, list(own.values()), allow_unused=True)
        return {
            name: weight + first_step(weight, gradient, params.inner_lr, params.inner_decay)
            for (name, weight), gradient in zip(own.items(), gradients, strict=True)
            if gradient is not None
        }

    body = moved(transport_loss(feature, teacher_feature, params.reg, params.iterations), weights)
    logits = logits_at({name: weight.detach() for name, weight in body.items()})
    classifier = moved(cross_entropy(logits, target), [name for name in weights if name not in body])
    return cross_entropy(logits_at(body | classifier), target)


class Method(Distiller):
    Params = Params
    equal_widths = True

    @classmethod
    def needs(cls, params: Any) -> frozenset[str]:
        of_variant = {"bilevel": {"pooled", "inputs", "student"}, "sumall": {"pooled", "teacher"}, "ce": set()}
        return frozenset({"logits"} | of_variant[params.variant])

    def training_mode(self, progress: float) -> bool:
        return progress < self.params.training_mode_share

    def adopt(self, teacher: nn.Module, read: Callable[[Tensor], Signals]) -> None:
        self.classifier = linear_classifier(teacher)

    def borrow(self, student: Reader) -> None:
        self.student = student

    def forward(self, student: Signals, teacher: Signals | None, target: Tensor, progress: float) -> dict[str, Tensor]:
        p = self.params
        if p.variant == "bilevel":
            weights = {name: w for name, w in self.student.model.named_parameters() if w.requires_grad}

            def logits_at(changed: Mapping[str, Tensor]) -> Tensor:
                return self.student.at(changed, student.inputs).logits

            return {"ce_copy": cross_entropy_at_copy(logits_at, weights, student.pooled, teacher.pooled, target, p)}
        terms = {"ce": cross_entropy(student.logits, target)}
        if p.variant == "sumall":
            with torch.autocast(student.pooled.device.type, enabled=False):
                teacher_logits = self.classifier(full_precision(student.pooled))
            terms["fa"] = p.fa_weight * transport_loss(student.pooled, teacher.pooled, p.reg, p.iterations)
            terms["la"] = p.la_weight * label_loss(student.logits, teacher_logits, target)
        return terms
