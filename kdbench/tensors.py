"""Where tensors are: the order of their numbers in memory, and the way to a device."""

from __future__ import annotations

import torch
from torch import Tensor


def planar(x: Tensor) -> Tensor:
    """x (B, C, H, W) with strides (C H W, H W, W, 1), in which every network and projector here reads its input; copied
    only where it has others.

    `x.contiguous()` does not do it: with one channel or one pixel torch calls both orders contiguous, keeps the one it
    finds, and convolutions then compute in channels_last. There oneDNN 3.12 (torch 2.13) writes beyond its buffer in
    the backward pass of 1x1 convolutions of stride 2 whose input has fewer channels than a vector register has places
    (AVX2: 8, AVX-512: 16), which ends the process or, worse, does not.
    """
    _, channels, height, width = x.shape
    if x.stride() == (channels * height * width, height * width, width, 1):
        return x
    return x.clone(memory_format=torch.contiguous_format)


def to_device(numbers: Tensor, device: torch.device) -> Tensor:
    """Numbers of the CPU on the device; through pinned memory, so that the host does not wait. Those that are there
    already stay."""
    return numbers if numbers.device.type == device.type else numbers.pin_memory().to(device, non_blocking=True)
