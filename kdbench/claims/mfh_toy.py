"""MFH: does cross-modal distillation help more, the more two modalities share? A positive control.

The Gaussian toy of the paper. Of 20 decisive features, modality 1 (25 features) and modality 2 (50) hold ten each, and
`overlap` of them are in both; all else is noise, the label is the side of a random plane. A linear teacher reads
modality 1, a linear student modality 2, 200 training and 1,000 test samples, 1,000 steps of SGD at 0.1. KD adds KL
divergence (mean over samples and classes, weight 1). gamma = overlap / (20 - overlap).
"""

from __future__ import annotations

import torch
from torch import Tensor

from kdbench.report.stats import paired_t_interval

CLAIM = (
    "Cross-modal distillation helps where the modalities share decisive features (large gamma), not where they do not."
)
SOURCE = "MFH, ICLR 2023, arXiv 2206.06487; zihuixue/MFH at e6e4e85, gauss/"
CERTAINTY = ("code",)
CONTROL = "the same student without a teacher, and the same KD at gamma 0"
RULE = (
    "Gain of KD over no KD in points of test accuracy, 95 % t interval over seeds. Supported if the gain at the "
    "largest gamma minus the gain at gamma 0 is above 0; contradicted if its interval is below 1 point; else "
    "undecided."
)
POWER = (
    "20 seeds (the paper: 10). With a standard deviation of 1.5 points between seeds, 1 point is seen with 80 % power."
)
FOUND = (
    "Over {n} seeds KD gains {gain_0:+.1f} points at gamma 0, {gain_4:+.1f} at 0.25, {gain_8:+.1f} at 0.67 and "
    "{gain_10:+.1f} at 1; largest minus smallest gamma: {difference:+.1f} [{difference_low:+.1f}, "
    "{difference_high:+.1f}]."
)
LIMITS = "Linear networks on Gaussian data: shows that the effect can exist and that our machinery sees it, no more."

SEEDS, TRAIN, TEST, STEPS, RATE = 20, 200, 1000, 1000, 0.1
OVERLAPS, DECISIVE, WIDTHS = (0, 4, 8, 10), 10, (25, 50)


def modalities(overlap: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Features of both (train and test, D + 1 with a constant) and labels, 0 or 1."""
    generator = torch.Generator().manual_seed(seed)
    plane = torch.randn(2 * DECISIVE, generator=generator)
    decisive = torch.randn(TRAIN + TEST, 2 * DECISIVE, generator=generator)
    one, two = (torch.randn(TRAIN + TEST, width, generator=generator) for width in WIDTHS)
    first = slice(DECISIVE - overlap, 2 * DECISIVE - overlap)
    one[:, first], two[:, :DECISIVE] = decisive[:, first], decisive[:, :DECISIVE]
    constant = torch.ones(TRAIN + TEST, 1)
    return torch.cat([one, constant], dim=1), torch.cat([two, constant], dim=1), (decisive @ plane > 0).float()


def trained(x: Tensor, label: Tensor, taught: Tensor | None = None) -> Tensor:
    """Weights (S, D), from zero, of classifiers of x (S, N, D) by labels (S, N), and by a teacher's probabilities.

    The difference of the two logits of a linear classifier moves as one logit at twice the rate.
    """
    weights = torch.zeros(x.shape[0], x.shape[2])
    for _ in range(STEPS):
        probability = torch.einsum("snd,sd->sn", x, weights).sigmoid()
        error = probability - label
        if taught is not None:
            error = error + (probability - taught) / 2  # the KL term is a mean over two classes
        weights -= 2 * RATE * torch.einsum("sn,snd->sd", error, x) / x.shape[1]
    return weights


def run() -> dict[str, float]:
    gains = {}
    for overlap in OVERLAPS:
        one, two, label = map(torch.stack, zip(*(modalities(overlap, seed) for seed in range(SEEDS)), strict=True))
        known, unseen = label[:, :TRAIN], label[:, TRAIN:] > 0.5
        teacher = trained(one[:, :TRAIN], known)
        taught = torch.einsum("snd,sd->sn", one[:, :TRAIN], teacher).sigmoid()
        alone, distilled = (
            ((torch.einsum("snd,sd->sn", two[:, TRAIN:], student) > 0) == unseen).double().mean(dim=1)
            for student in (trained(two[:, :TRAIN], known), trained(two[:, :TRAIN], known, taught))
        )
        gains[overlap] = 100 * (distilled - alone)
    difference = paired_t_interval((gains[OVERLAPS[-1]] - gains[0]).numpy())
    return {
        "n": SEEDS,
        "seeds": f"0 to {SEEDS - 1}",
        **{f"gain_{overlap}": float(gain.mean()) for overlap, gain in gains.items()},
        "difference": difference.mean,
        "difference_low": difference.low,
        "difference_high": difference.high,
    }


def verdict(numbers: dict[str, float]) -> str:
    if numbers["difference_low"] > 0:
        return "supported"
    return "contradicted" if numbers["difference_high"] < 1 else "undecided"
