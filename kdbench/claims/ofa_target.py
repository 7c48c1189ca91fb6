"""OFA: does target enhancement at the released exponent change what the student learns?

The loss weighs log p_student by (p_teacher + y)^eps - y, y the one-hot target. At eps 1 the two y cancel, and what is
left is p_teacher: soft cross-entropy.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kdbench.methods.kd import kd_loss
from kdbench.methods.ofa import ofa_loss

CLAIM = "The OFA loss enhances the information of the target class in the teacher's distribution."
SOURCE = "OFA-KD, NeurIPS 2023, arXiv 2310.19444; Hao840/OFAKD at f7bb896, whose default exponent is 1"
CERTAINTY = ("code", "ours")
CONTROL = "plain KD at temperature 1, whose gradient must differ if the target is enhanced"
RULE = (
    "Largest difference of the two gradients, relative to KD's, over all batches. At the released exponent: "
    "contradicted below 1e-5, supported above 0.01, else undecided."
)
POWER = "The exponent 1.5 (released for one ImageNet pair) is computed beside it and must differ by more than 0.01."
FOUND = (
    "Over {n} batches the gradient differs from KD's by at most {at_1:.1e} of its length at exponent 1 and by "
    "{at_1_5:.2f} at 1.5."
)
LIMITS = (
    "Concerns the loss alone, at its default exponent, which all CIFAR-100 scripts use: the exit branches, OFA's "
    "larger part, are not in question."
)

BATCHES, BATCH, CLASSES, SEED = 20, 64, 100, 0


def run() -> dict[str, float]:
    generator = torch.Generator().manual_seed(SEED)
    largest = {1.0: 0.0, 1.5: 0.0}

    for _ in range(BATCHES):
        student, teacher = 2 * torch.randn(2, BATCH, CLASSES, generator=generator, dtype=torch.float64)
        student.requires_grad_()
        target = torch.randint(CLASSES, (BATCH,), generator=generator)

        def gradient(loss: Tensor, logits: Tensor = student) -> Tensor:
            return torch.autograd.grad(loss, logits)[0]

        plain = gradient(kd_loss(student, teacher, 1.0))
        for eps in largest:
            enhanced = gradient(ofa_loss(student, teacher, target, eps))
            largest[eps] = max(largest[eps], float((enhanced - plain).norm() / plain.norm()))
    return {"n": BATCHES, "seed": SEED, "at_1": largest[1.0], "at_1_5": largest[1.5]}


def verdict(numbers: dict[str, float]) -> str:
    if numbers["at_1"] < 1e-5 and numbers["at_1_5"] > 0.01:
        return "contradicted"
    return "supported" if numbers["at_1"] > 0.01 else "undecided"
