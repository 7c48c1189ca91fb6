"""UCMKD: how much of the teacher reaches the student through its two inner steps?

The published form (`bilevel`) copies the student, takes one AdamW step on the copy by each of two losses that read the
teacher, at a rate of 1e-5, and applies the gradient of cross-entropy *at the copy* to the student itself:

    FA    entropic transport of student to teacher features of a batch: cost 1 - cosine, reg 0.1, 100 iterations
    LA    mean of -log p_S(y) + k log p_T(y), p_T the teacher's head on the student's feature, k = p_T(y); head only

A first step of Adam moves every weight by its rate, whatever the loss. The digits of scikit-learn stand for the data,
their left and right halves for the two modalities.
"""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor, nn

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
    "A small network at its start, weight decay left out. UCMKD was not trained: whether its gain over cross-entropy "
    "comes from BatchNorm, which the released code freezes in its other arms, needs runs."
)

BATCHES, BATCH, WIDTH, RATE, FAST, SEED = 10, 64, 32, 1e-5, 1e-2, 0


def network() -> nn.Sequential:
    """Half a digit (32) -> feature -> logits."""
    return nn.Sequential(nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, WIDTH)), nn.Linear(WIDTH, 10))


def transport_loss(a: Tensor, b: Tensor) -> Tensor:
    cost = 1 - F.normalize(a, dim=1) @ F.normalize(b, dim=1).T
    kernel, right = torch.exp(-cost / 0.1), torch.ones(len(b))
    for _ in range(100):
        left = 1 / len(a) / (kernel @ right)
        right = 1 / len(b) / (kernel.T @ left)
    return (left[:, None] * kernel * right * cost).sum()


def label_loss(logits: Tensor, teacher_logits: Tensor, label: Tensor) -> Tensor:
    own, other = (x.log_softmax(dim=1).gather(1, label[:, None]) for x in (logits, teacher_logits))
    return (-own + other.detach().exp() * other).mean()


def applied_gradient(student: nn.Sequential, teacher: nn.Sequential, batch: list[Tensor], rate: float) -> Tensor:
    """Of cross-entropy at a copy of the student after both inner steps; at the student itself where the rate is 0."""
    x, other, label = batch
    inner = copy.deepcopy(student)
    if rate:
        torch.autograd.backward(
            transport_loss(inner[0](x), teacher[0](other).detach()), inputs=list(inner[0].parameters())
        )
        torch.optim.AdamW(inner[0].parameters(), rate, weight_decay=0).step()
        feature = inner[0](x).detach()
        torch.autograd.backward(
            label_loss(inner[1](feature), teacher[1](feature), label), inputs=list(inner[1].parameters())
        )
        torch.optim.AdamW(inner[1].parameters(), rate, weight_decay=0).step()
    gradients = torch.autograd.grad(F.cross_entropy(inner(x), label), inner.parameters())
    return torch.cat([g.flatten() for g in gradients])


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
