"""FD-CMKD: is its loss on the high band weaker than that on the low band?

Both compare bands of unit length: MSE on the low one, and on the high one the MSE of s(x) = sign(x) log(1 + |x|), which
saturates for large x. Entries of a unit vector of 512 channels are some 0.04, where s is the identity to a few percent.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

from kdbench.methods.fdcmkd import band_loss

CLAIM = "Low bands are aligned strongly (MSE), high ones weakly (logMSE, whose gradient saturates)."
SOURCE = "FD-CMKD, AAAI 2026, arXiv 2511.19887, Eq. 8 and 9; weights of zxn0710/re-FD-CMKD-main at feda414"
CERTAINTY = ("3rd", "code", "ours")
CONTROL = "the same losses on features that are not brought to unit length"
RULE = (
    "Ratio logMSE / MSE of the same random vectors. Supported if it is at most 0.5 on unit vectors as released; "
    "contradicted if it is at least 0.9 there while it is at most 0.5 without unit length; else undecided."
)
POWER = "2,000 pairs of vectors of 512 channels: the ratio's standard error is far below 0.01."
FOUND = (
    "Over {n:,} pairs of vectors logMSE / MSE is {unit:.2f} on unit vectors and {plain:.2f} on standard normal ones. "
    "Both losses of bands at right angles, with the weight 1 of the code, are {share:.2%} of the loss while the seven "
    "cross-entropies of {classes} classes are at chance."
)
LIMITS = (
    "Random vectors, at the start of training. With weights times the width, as kdbench can set, the share is larger."
)

WIDTH, PAIRS, CLASSES, SEED = 512, 2000, 6, 0


def run() -> dict[str, float]:
    generator = torch.Generator().manual_seed(SEED)
    a, b = torch.randn(2, PAIRS, WIDTH, generator=generator, dtype=torch.float64)

    def saturated(x: torch.Tensor) -> torch.Tensor:
        return x.sign() * x.abs().log1p()

    losses = 2 * 2 / WIDTH  # of two bands
    return {
        "n": PAIRS,
        "seed": SEED,
        "classes": CLASSES,
        "unit": float(band_loss(a, b, "logmse") / band_loss(a, b, "mse")),
        "plain": float(F.mse_loss(saturated(a), saturated(b)) / F.mse_loss(a, b)),
        "share": losses / (7 * math.log(CLASSES) + losses),
    }


def verdict(numbers: dict[str, float]) -> str:
    if numbers["unit"] >= 0.9 and numbers["plain"] <= 0.5:
        return "contradicted"
    return "supported" if numbers["unit"] <= 0.5 else "undecided"
