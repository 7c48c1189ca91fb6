"""UCMKD: how much of the teacher reaches the student through its two inner steps?

The published form (`bilevel`, kdbench/methods/ucmkd.py) takes cross-entropy's gradient at a copy of the student that
two steps of AdamW have moved, at a rate of 1e-5, by losses that read the teacher. A first step of Adam moves every
weight by its rate, whatever the loss. The digits of scikit-learn stand for the data, their left and right halves for
the two modalities.
"""

from __future__ import annotations

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.func import functional_call

from kdbench.methods import ucmkd

CLAIM = "Two inner steps by losses that read the teacher carry its knowledge into the student's gradient (bilevel)."
SOURCE = "UCMKD, ICML 2026, arXiv 2606.10504; Duckduck-05/UCMKD at 2658b06"
CERTAINTY = ("code", "ours")
CONTROL = "the gradient of plain cross-entropy, and that of the next batch"
RULE = (
    "Length of the difference between the applied gradient and that of plain cross-entropy, relative to the latter. "
    "Contradicted if it is below 0.01 on every batch; supported if it is above 0.1 on every batch; else undecided."
)
POWER = "An inner rate of 0.01 is tried beside the released 1e-5 and must change the gradient by more than 0.1."
FOUND = (
    "Over {n} batches inner steps at {rate:.0e} change the applied gradient by at most {changed:.4f} of its length "
    "(rate 0.01: at least {changed_fast:.2f}); the next batch changes it by {next_batch:.2f} or more."
)
LIMITS = (
    "A small network at its start, weight decay left out, nothing trained: ucmkd_batchnorm asks whether the gain over "
    "cross-entropy comes from BatchNorm, which the released code freezes in its other arms."
)

BATCHES, BATCH, WIDTH, RATE, FAST, SEED = 10, 64, 32, 1e-5, 1e-2, 0


def network() -> nn.Sequential:
    """Half a digit (32) -> feature -> logits."""
    return nn.Sequential(nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, WIDTH)), nn.Linear(WIDTH, 10))


def applied_gradient(student: nn.Sequential, teacher: nn.Sequential, batch: list[Tensor], rate: float) -> Tensor:
    """Of cross-entropy at the student's weights after both inner steps; at its own where the rate is 0."""
    x, other, label = batch
    weights = dict(student.named_parameters())
    loss = ucmkd.cross_entropy_at_copy(
        lambda changed: functional_call(student, changed, (x,)),
        weights,
        student[0](x),
        teacher[0](other),
        label,
        ucmkd.Params(inner_lr=rate, inner_decay=0.0),
    )
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(weights.values()))])


def run() -> dict[str, float]:
    images, labels = (torch.as_tensor(x) for x in load_digits(return_X_y=True))
    halves = (images.float().view(-1, 8, 8) / 16).split(4, dim=2)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        student, teacher = network(), network()
        order = torch.randperm(len(images))
    batches = [[*(half.flatten(1)[own] for half in halves), labels[own]] for own in order.split(BATCH)[: BATCHES + 1]]
    plain, slow, fast = (
        [applied_gradient(student, teacher, batch, rate) for batch in batches] for rate in (0, RATE, FAST)
    )

    def change(others: list[Tensor]) -> list[float]:
        return [float((a - b).norm() / b.norm()) for a, b in zip(others, plain[:BATCHES], strict=True)]

    return {
        "n": BATCHES,
        "seed": SEED,
        "rate": RATE,
        "changed": max(change(slow[:BATCHES])),
        "changed_fast": min(change(fast[:BATCHES])),
        "next_batch": min(change(plain[1:])),
    }


def verdict(numbers: dict[str, float]) -> str:
    if numbers["changed"] < 0.01 and numbers["changed_fast"] > 0.1:
        return "contradicted"
    return "supported" if numbers["changed"] > 0.1 else "undecided"
