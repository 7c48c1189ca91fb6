"""Operations: additions and multiplications of convolutions and matrix products, as torch counts them by their shapes.

The only place that counts. What else a step does (normalisation, activations, Fourier transforms, augmentation) is left
out, as it is wherever such numbers are published.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from kdbench.signals import example


def counter() -> FlopCounterMode:
    """Counts what runs inside of it, forward and backward (`get_total_flops`), and changes none of its numbers."""
    return FlopCounterMode(display=False)


def forward_operations(model: nn.Module, shape: tuple[int, int, int]) -> int:
    """Of a pass of one sample (H, W, C)."""
    sample = example(model, shape, samples=1).to(next(model.parameters()).device)
    with counter() as counted, torch.no_grad():
        model(sample)
    return counted.get_total_flops()
