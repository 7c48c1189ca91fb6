"""SKD: does the whitening of its loss do anything?

Logits (B, C) of student and teacher; each class column is brought to unit length over the batch, and G (C, C) is the
Gram matrix of these columns. With the difference D = G_student - G_teacher and its covariance S over classes,

    whitened   sqrt(tr(D (S + lambda I)^-1 D^T))        lambda 0.1
    plain      sqrt(tr(D D^T)) / sqrt(lambda)           what is left where S is nothing beside lambda

The released code divides G by C, the paper does not: the whitened loss is computed both ways.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

CLAIM = (
    "Whitening the difference of two Gram matrices by its covariance weighs its directions anew (Mahalanobis length)."
)
SOURCE = "SKD, CVPR 2026; HyunJunSik/StreamLined at 7458628"
CERTAINTY = ("code", "ours")
CONTROL = "the plain length of the same difference, divided by the root of lambda"
RULE = (
    "The ratio whitened / plain is 1 where the covariance does nothing and falls with what it does. Contradicted for "
    "the code as released if the ratio is within 0.001 of 1 on every batch; supported if it is below 0.99 on every "
    "batch; else undecided."
)
POWER = (
    "The same loss without the division by C is computed beside it; a ratio below 0.99 there shows that it can move."
)
FOUND = (
    "Over {n} batches of {batch} samples and {classes} classes the ratio is {released_low:.4f} to {released_high:.4f} "
    "as released, with a mean variance of {variance:.1e} beside lambda {ridge}; without the division it is "
    "{undivided_low:.2f} to {undivided_high:.2f}."
)
LIMITS = (
    "Random logits stand for two networks; SKD was not trained. The gain that it publishes may be real and come from "
    "its other terms."
)

BATCHES, BATCH, CLASSES, RIDGE, SEED = 20, 64, 100, 0.1, 0


def gram(logits: Tensor) -> Tensor:
    """(C, C): cosines of the class columns of logits (B, C)."""
    columns = F.normalize(logits.T, dim=1)
    return columns @ columns.T


def whitened_length(difference: Tensor, ridge: float) -> Tensor:
    covariance = torch.cov(difference.T) + ridge * torch.eye(len(difference), dtype=difference.dtype)
    return (difference * torch.linalg.solve(covariance, difference.T).T).sum().sqrt()


def run() -> dict[str, float]:
    generator = torch.Generator().manual_seed(SEED)
    ratios: dict[str, list[float]] = {"released": [], "undivided": []}
    variances = []
    for _ in range(BATCHES):
        student, teacher = torch.randn(2, BATCH, CLASSES, generator=generator, dtype=torch.float64)
        difference = gram(student) - gram(teacher)
        for name, scale in (("released", CLASSES), ("undivided", 1)):
            scaled = difference / scale
            ratios[name].append(float(whitened_length(scaled, RIDGE) / (scaled.norm() / RIDGE**0.5)))
        variances.append(float((difference / CLASSES).var(dim=0).mean()))
    bounds = {f"{name}_{end}": pick(own) for name, own in ratios.items() for end, pick in (("low", min), ("high", max))}
    variance = sum(variances) / BATCHES
    return {
        "n": BATCHES,
        "seed": SEED,
        "batch": BATCH,
        "classes": CLASSES,
        "ridge": RIDGE,
        "variance": variance,
        **bounds,
    }


def verdict(numbers: dict[str, float]) -> str:
    if numbers["released_low"] > 0.999 and numbers["released_high"] < 1.001:
        return "contradicted"
    return "supported" if numbers["released_high"] < 0.99 else "undecided"
