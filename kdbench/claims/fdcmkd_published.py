"""FD-CMKD, claim 1, its published cosines: do two modalities share more than a channel mean?

Two features that share a channel mean of energy m2, noise having energy 1, and whose low bands correlate by s besides:

    raw = (m2 + f s) / (m2 + 1)        f: share of white noise in the low band, 257 / 512 at 512 channels
    low = (m2 + f s) / (m2 + f)        high = 0

With s = 0 the raw cosine alone gives the low one (`similarity.null_prediction`). With both, s can be solved for.
"""

from __future__ import annotations

from itertools import product

import torch

from kdbench.frequency import split_channels
from kdbench.similarity import low_band_share, mean_cosine, null_prediction

CLAIM = "Low-frequency features of two modalities agree and high-frequency ones do not: published cosines."
SOURCE = (
    "FD-CMKD, AAAI 2026, arXiv 2511.19887: CREMA-D from zxn0710/re-FD-CMKD-main at feda414, AVE from a transcription"
)
CERTAINTY = ("code", "3rd", "ours")
CONTROL = "independent features that share a channel mean and nothing else"
RULE = (
    "s, the correlation of the low bands besides the channel mean, within the rounding of the published digits. "
    "Supported if it is above 0 on both sets. Contradicted if it is above 0 on neither and below 0.05 on at least "
    "one. Else undecided."
)
POWER = "Four digits (CREMA-D) fix s to about 0.001, two digits (AVE) to about 0.1: AVE alone could not show a small s."
FOUND = (
    "A shared channel mean alone predicts {crema_predicted:.4f} where {crema_low:.4f} is published (CREMA-D) and "
    "{ave_predicted:.3f} where {ave_low:.2f} is (AVE). s lies in [{crema_s_low:.3f}, {crema_s_high:.3f}] and "
    "[{ave_s_low:.2f}, {ave_s_high:.2f}]. {n:,} pairs of independent Gaussian features with a mean of 2.3: raw "
    "{simulated_raw:.3f}, low {simulated_low:.3f}, low without the channel mean {simulated_without:.3f}, high "
    "{simulated_high:.3f}."
)
LIMITS = (
    "A model of two numbers a set; seeds and deviations were not published. It shows that the figures ask for no "
    "shared meaning, not that there is none."
)

WIDTH, SAMPLES, SEED = 512, 2000, 0
PUBLISHED = {"crema": (0.8379, 0.9113, 5e-5), "ave": (0.74, 0.85, 5e-3)}
"""Raw and low-band cosine, and half of their last digit."""


def low_correlation(raw: float, low: float) -> float:
    """s of the model above."""
    share = low_band_share(WIDTH)
    mean_energy = (raw - low * share) / (low - raw)
    return (low * (mean_energy + share) - mean_energy) / share


def run() -> dict[str, float]:
    numbers: dict[str, float] = {"n": SAMPLES, "seed": SEED}
    for name, (raw, low, rounding) in PUBLISHED.items():
        corners = [low_correlation(raw + a, low + b) for a, b in product((-rounding, rounding), repeat=2)]
        numbers |= {
            f"{name}_low": low,
            f"{name}_predicted": null_prediction(raw, WIDTH),
            f"{name}_s_low": min(corners),
            f"{name}_s_high": max(corners),
        }
    generator = torch.Generator().manual_seed(SEED)
    a, b = torch.randn(2, SAMPLES, WIDTH, generator=generator) + 2.3
    kept, removed = (list(zip(*(split_channels(x, keep) for x in (a, b)), strict=True)) for keep in (True, False))
    return numbers | {
        "simulated_raw": mean_cosine(a, b),
        "simulated_low": mean_cosine(*kept[0]),
        "simulated_without": mean_cosine(*removed[0]),
        "simulated_high": mean_cosine(*kept[1]),
    }


def verdict(numbers: dict[str, float]) -> str:
    above = [numbers[f"{name}_s_low"] > 0 for name in PUBLISHED]
    if all(above):
        return "supported"
    small = [numbers[f"{name}_s_high"] < 0.05 for name in PUBLISHED]
    return "contradicted" if not any(above) and any(small) else "undecided"
