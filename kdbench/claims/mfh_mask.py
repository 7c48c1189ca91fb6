"""MFH, VGGSound: does its mask keep the salient channels?

The released code sorts the 512 channels by saliency and keeps what `argsort` returns where the *returned number* is 256
or more. Those numbers are the channels themselves, so the mask is the same set whatever the saliency.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kdbench.methods.mfh import kept_channels

CLAIM = "The teacher's salient channels, measured by permutation, are kept and the others removed (VGGSound)."
SOURCE = "MFH, ICLR 2023, arXiv 2206.06487; zihuixue/MFH at e6e4e85"
CERTAINTY = ("code", "ours")
CONTROL = "a mask that takes the half of largest saliency, as kdbench does"
RULE = (
    "Share of the salient half that a mask keeps, for random saliencies. Contradicted if the released mask is the "
    "same set for all of them; supported if it keeps at least 0.99 of the salient half on average; else undecided."
)
POWER = "1,000 saliencies: two that gave the released mask another set would show it; a mask by chance keeps one half."
FOUND = (
    "Over {n:,} random saliencies the released mask takes {masks:,} different form(s) and keeps {released:.2f} of the "
    "salient half on average; the control keeps {control:.2f}."
)
LIMITS = "Read in the VGGSound script; the RAVDESS script sorts correctly. Published numbers were not made again."

CHANNELS, DRAWS, SEED = 512, 1000, 0


def released_mask(saliency: Tensor) -> Tensor:
    """(D,) bool: the channels that the VGGSound script keeps."""
    order = saliency.argsort()
    return torch.zeros_like(saliency, dtype=torch.bool).index_fill(0, order[order >= CHANNELS // 2], True)


def run() -> dict[str, float]:
    generator = torch.Generator().manual_seed(SEED)
    masks, kept = set(), {"released": 0.0, "control": 0.0}
    for _ in range(DRAWS):
        saliency = torch.rand(CHANNELS, generator=generator)
        salient = saliency > saliency.median()
        for name, mask in (("released", released_mask(saliency)), ("control", kept_channels(saliency, 0.5))):
            kept[name] += float(mask[salient].double().mean()) / DRAWS
        masks.add(tuple(released_mask(saliency).tolist()))
    return {"n": DRAWS, "seed": SEED, "masks": len(masks), **kept}


def verdict(numbers: dict[str, float]) -> str:
    if numbers["masks"] == 1:
        return "contradicted"
    return "supported" if numbers["released"] >= 0.99 else "undecided"
