"""Encoding Mismatch: do ViT tokens use nearly all of their channel bandwidth?

The paper transforms each token along its channels and counts the bins, from the lowest frequency on, that hold 90 % of
the energy: some 90 % of them in 14 backbones. Channels have no order, so the count is made here for tokens of rank one:
multiples of a single vector, the least that tokens can hold. The vector is a smooth bump, in order and in random order.
"""

from __future__ import annotations

import torch
from torch import Tensor

CLAIM = (
    "ViT tokens need about 90 % of the bins of a transform along their channels for 90 % of their energy, so they use "
    "nearly all of their bandwidth."
)
SOURCE = "Encoding Mismatch, ICML 2026, arXiv 2511.15572"
CERTAINTY = ("3rd",)
CONTROL = "tokens of rank one, which have the least content there is, with their channels in random order"
RULE = (
    "Supported if the published share lies above the control's 97.5 % quantile over permutations: then it is more "
    "than the lack of an order gives. Contradicted if it lies within the control's 95 % range or below: then tokens "
    "without any bandwidth show it too."
)
POWER = "200 permutations, standard deviation about 0.02 each: a share of 0.95 would lie outside the control's range."
FOUND = (
    "Rank-one tokens of {width} channels need {shuffled_mean:.3f} ± {shuffled_sd:.3f} of the bins when their channels "
    "are permuted, 95 % range [{shuffled_low:.3f}, {shuffled_high:.3f}], and {ordered:.3f} in order; published: about "
    "{published:.2f}."
)
LIMITS = (
    "Says what the measure shows, not what the proposed remedies (a kept projector, a wider last block) gain. No "
    "trained ViT was measured."
)

WIDTH, BUMP, PERMUTATIONS, SEED = 384, 10, 200, 0
"""Channels of DeiT-S; standard deviation of the bump in channels."""


def share_of_bins(tokens: Tensor, energy: float = 0.9) -> Tensor:
    """(N,): share of the rfft bins of tokens (N, D), lowest frequencies first, that hold this share of the energy."""
    power = torch.fft.rfft(tokens).abs().square()
    share = power.cumsum(dim=1) / power.sum(dim=1, keepdim=True)
    return ((share < energy).sum(dim=1) + 1) / power.shape[1]


def run() -> dict[str, float]:
    channels = torch.arange(WIDTH, dtype=torch.float64)
    bump = torch.exp(-((channels - WIDTH / 2) ** 2) / (2 * BUMP**2))
    bump = bump - bump.mean()  # as LayerNorm leaves a token
    generator = torch.Generator().manual_seed(SEED)
    orders = [torch.randperm(WIDTH, generator=generator) for _ in range(PERMUTATIONS)]
    shuffled = share_of_bins(torch.stack([bump[order] for order in orders]))
    low, high = shuffled.quantile(torch.tensor([0.025, 0.975])).tolist()
    return {
        "n": PERMUTATIONS,
        "seed": SEED,
        "width": WIDTH,
        "published": 0.9,
        "ordered": float(share_of_bins(bump[None])),
        "shuffled_mean": float(shuffled.mean()),
        "shuffled_sd": float(shuffled.std()),
        "shuffled_low": low,
        "shuffled_high": high,
    }


def verdict(numbers: dict[str, float]) -> str:
    return "supported" if numbers["published"] > numbers["shuffled_high"] else "contradicted"
