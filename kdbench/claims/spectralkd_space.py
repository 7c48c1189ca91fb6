"""SpectralKD: does its spectral loss see what a spatial loss does not?

The layer loss is the mean squared difference of rfft2 spectra ("ortho"), real and imaginary parts. The full transform
is unitary, so on it the loss is half the mean squared difference of the maps. rfft2 keeps the inner columns once that
stand for two: all that may tell it from a spatial loss is that columns 0 and Nyquist weigh twice as much.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from kdbench.frequency import spectrum
from kdbench.methods.spectralkd import spectral_loss

CLAIM = "Matching the spectra of feature maps gives a student frequency information that matching the maps does not."
SOURCE = "SpectralKD, arXiv 2412.19055; thy960112/SpectralKD at 968be0e"
CERTAINTY = ("code", "ours")
CONTROL = "the spatial mean squared error of the same maps (Parseval: exactly twice the loss over all bins)"
RULE = (
    "Contradicted if the spatial error is twice the loss over all bins to five digits and, with rfft2, the cosine of "
    "the two gradients is at least 0.9 on every batch: the loss is then a spatial loss, up to a weight of two "
    "columns. Supported if the cosine is below 0.5; else undecided."
)
POWER = "A loss on amplitudes alone, which no spatial error equals, is computed beside it and must fall below 0.9."
FOUND = (
    "Over {n} batches of {grid} x {grid} maps spatial error / loss over all bins is {full_low:.5f} to "
    "{full_high:.5f}. The gradient of the released loss (rfft2) has a cosine of {half_cosine_low:.3f} to "
    "{half_cosine_high:.3f} with that of the spatial error; a loss on amplitudes alone: {amplitude_cosine_low:.3f} to "
    "{amplitude_cosine_high:.3f}."
)
LIMITS = (
    "Equal grids, and channels as they come: the released pooling of neighbouring channels is not part of the "
    "comparison. A spatial loss may still be a good one."
)

BATCHES, SHAPE, SEED = 10, (16, 32, 14, 14), 0


def run() -> dict[str, float]:
    generator = torch.Generator().manual_seed(SEED)
    found: dict[str, list[float]] = {"full": [], "half_cosine": [], "amplitude_cosine": []}
    for _ in range(BATCHES):
        student, teacher = torch.randn(2, *SHAPE, generator=generator, dtype=torch.float64)
        student.requires_grad_()
        spatial = F.mse_loss(student, teacher)
        full = F.mse_loss(*(torch.view_as_real(spectrum(maps)) for maps in (student, teacher)))
        amplitude = F.mse_loss(*(spectrum(maps).abs() for maps in (student, teacher)))
        losses = spatial, spectral_loss(student, teacher), amplitude
        one, half, other = (torch.autograd.grad(loss, student, retain_graph=True)[0].flatten() for loss in losses)
        found["full"].append(float((spatial / full).detach()))
        found["half_cosine"].append(float(F.cosine_similarity(one, half, dim=0)))
        found["amplitude_cosine"].append(float(F.cosine_similarity(one, other, dim=0)))
    bounds = {f"{name}_{end}": pick(own) for name, own in found.items() for end, pick in (("low", min), ("high", max))}
    return {"n": BATCHES, "seed": SEED, "grid": SHAPE[-1], **bounds}


def verdict(numbers: dict[str, float]) -> str:
    halved = max(abs(numbers["full_low"] - 2), abs(numbers["full_high"] - 2)) < 1e-5
    if halved and numbers["half_cosine_low"] >= 0.9 and numbers["amplitude_cosine_high"] < 0.9:
        return "contradicted"
    return "supported" if numbers["half_cosine_high"] < 0.5 else "undecided"
