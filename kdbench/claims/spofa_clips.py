"""SPOFA: are the clips of its two weights at work?

    branch   w   = clip(1 - 5 (mean cosine so far - cosine), 0.1, 2)          cosine of branch and teacher logits
    sample   w_i = clip(1 - 0.1 * 2 max(mean g so far - g_i, 0), 0.5, 2)      g: cosine of two logit gradients

A cosine lies within [-1, 1], so both weights can be tried at every value there is.
"""

from __future__ import annotations

import torch
from torch import Tensor

CLAIM = "Branches and samples are weighted by agreement with the teacher, clipped to [0.1, 2] and to [0.5, 2]."
SOURCE = "SPOFA, arXiv 2606.24557; xiaoming927/spofaKD, distillers/spofa.py"
CERTAINTY = ("code", "ours")
CONTROL = "the branch weight, whose clips have the same form"
RULE = (
    "A weight's clips are at work if some pair of cosines reaches each of them. Supported if all four clips are "
    "reached, contradicted if at least one weight reaches neither of its own, else undecided."
)
POWER = (
    "All pairs of cosines on a grid of step 0.01: the weights are linear in them, so none is missed by more than 0.05."
)
FOUND = (
    "Over {n:,} pairs of cosines the sample weight lies in [{sample_low:.2f}, {sample_high:.2f}] and is clipped on "
    "{sample_clipped:.1%} of them; the branch weight lies in [{branch_low:.2f}, {branch_high:.2f}] and is clipped on "
    "{branch_clipped:.1%}."
)
LIMITS = (
    "Says nothing of accuracy: SPOFA was not trained. A clip that is never reached does no harm; what is bounded is "
    "narrower than its numbers say. The claim was worded anew after a first computation; the rule was not."
)

SAMPLE_CLIP, BRANCH_CLIP = (0.5, 2.0), (0.1, 2.0)


def sample_weight(mean: Tensor, cosine: Tensor) -> Tensor:
    return 1 - 0.1 * 2 * (mean - cosine).clamp_min(0)


def branch_weight(mean: Tensor, cosine: Tensor) -> Tensor:
    return 1 - 5 * (mean - cosine)


def run() -> dict[str, float]:
    cosines = torch.linspace(-1, 1, 201, dtype=torch.float64)
    mean, cosine = torch.meshgrid(cosines, cosines, indexing="ij")
    numbers: dict[str, float] = {"n": mean.numel(), "seed": 0}
    for name, weight, clip in (
        ("sample", sample_weight(mean, cosine), SAMPLE_CLIP),
        ("branch", branch_weight(mean, cosine), BRANCH_CLIP),
    ):
        clipped = weight.clamp(*clip)
        numbers |= {
            f"{name}_low": float(clipped.min()),
            f"{name}_high": float(clipped.max()),
            f"{name}_clipped": float((clipped != weight).double().mean()),
            f"{name}_clips_reached": int((weight < clip[0]).any()) + int((weight > clip[1]).any()),
        }
    return numbers


def verdict(numbers: dict[str, float]) -> str:
    reached = [numbers["sample_clips_reached"], numbers["branch_clips_reached"]]
    if min(reached) == 0:
        return "contradicted"
    return "supported" if sum(reached) == 4 else "undecided"
