"""HCD: does its orthogonality loss push sub-heads apart?

For each stage a head gives four fused logit vectors (B, C). The loss is the mean over their pairs of
relu(cosine - 0.5)^2, with the target class masked. In the port that we know the mask comes first: the target's logit is
set to -1e6, then vectors are brought to unit length. Masked after that, or left out, the target would weigh nothing.
"""

from __future__ import annotations

from itertools import combinations

import torch
import torch.nn.functional as F
from torch import Tensor

CLAIM = "An orthogonality loss on sub-logits, the target masked, makes the sub-heads of a stage differ."
SOURCE = "HCD, AAAI 2026, arXiv 2511.10942; formula of a port that cites yema-web/HCD, which could not be had"
CERTAINTY = ("3rd", "ours")
CONTROL = "the same loss with the target left out instead of masked before normalisation"
RULE = (
    "Contradicted if, as ported, the loss is within 0.001 of the same constant on every batch and its gradient is "
    "below a thousandth of the control's; supported if the gradient is at least a tenth of the control's; else "
    "undecided."
)
POWER = "The control has a gradient whenever two heads agree by more than 0.5, so heads are drawn with a common part."
FOUND = (
    "Over {n} batches the loss as ported is {ported_low:.6f} to {ported_high:.6f}, its gradient at most "
    "{ported_gradient:.1e}; with the target left out it is {control_low:.3f} to {control_high:.3f}, its gradient at "
    "least {control_gradient:.1e}."
)
LIMITS = "Holds if the port is faithful; the authors' own code was not seen. HCD was not trained."

BATCHES, BATCH, CLASSES, HEADS, SEED = 20, 64, 100, 4, 0


def orthogonality(heads: Tensor) -> Tensor:
    """Mean over pairs of heads (H, B, C') and samples of relu(cosine - 0.5)^2."""
    unit = F.normalize(heads, dim=2)
    cosines = torch.stack([(unit[i] * unit[j]).sum(dim=1) for i, j in combinations(range(len(unit)), 2)])
    return (cosines - 0.5).relu().square().mean()


def run() -> dict[str, float]:
    generator = torch.Generator().manual_seed(SEED)
    losses: dict[str, list[float]] = {"ported": [], "control": []}
    gradients: dict[str, list[float]] = {"ported": [], "control": []}
    for _ in range(BATCHES):
        common = torch.randn(BATCH, CLASSES, generator=generator, dtype=torch.float64)
        own = torch.randn(HEADS, BATCH, CLASSES, generator=generator, dtype=torch.float64)
        heads = (2 * common + own).requires_grad_()
        target = torch.randint(CLASSES, (BATCH,), generator=generator)
        hit = F.one_hot(target, CLASSES).bool().expand(HEADS, BATCH, CLASSES)
        for name, masked in (
            ("ported", heads.masked_fill(hit, -1e6)),
            ("control", heads[~hit].view(HEADS, BATCH, CLASSES - 1)),
        ):
            loss = orthogonality(masked)
            losses[name].append(float(loss.detach()))
            gradients[name].append(float(torch.autograd.grad(loss, heads)[0].norm()))
    bounds = {f"{name}_{end}": pick(own) for name, own in losses.items() for end, pick in (("low", min), ("high", max))}
    largest, smallest = max(gradients["ported"]), min(gradients["control"])
    return {"n": BATCHES, "seed": SEED, "ported_gradient": largest, "control_gradient": smallest, **bounds}


def verdict(numbers: dict[str, float]) -> str:
    share = numbers["ported_gradient"] / numbers["control_gradient"]
    if numbers["ported_high"] - numbers["ported_low"] < 0.001 and share < 0.001:
        return "contradicted"
    return "supported" if share >= 0.1 else "undecided"
