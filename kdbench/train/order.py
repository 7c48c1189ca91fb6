"""Which samples come when, and the streams that all random numbers of a training are drawn from.

The order depends on (seed, epoch) alone and is drawn on the CPU, so that every process can tell any batch of any step.
"""

from __future__ import annotations

import functools
import hashlib

import torch
from torch import Tensor

from kdbench.types import KdbenchError


def stream(*names: object) -> int:
    """A seed that belongs to these names alone: independent streams for weights, order, augmentation and methods."""
    return int.from_bytes(hashlib.sha256("/".join(map(str, names)).encode()).digest()[:8], "big") >> 1


def generator(*names: object) -> torch.Generator:
    return torch.Generator().manual_seed(stream(*names))


def full_batches(train_size: int, batch_size: int) -> int:
    """Of one epoch. Raises KdbenchError when there is not one."""
    if train_size < batch_size:
        raise KdbenchError(f"a batch of {batch_size} is larger than the training set of {train_size}")
    return train_size // batch_size


@functools.lru_cache(maxsize=2)
def epoch_order(train_size: int, seed: int, epoch: int) -> Tensor:
    """(N,) positions of the training samples, shuffled by (seed, epoch), on the CPU."""
    return torch.randperm(train_size, generator=generator(seed, "order", epoch))


def step_positions(train_size: int, batch_size: int, seed: int, step: int, accumulate: int = 1) -> Tensor:
    """(B,) positions of the samples of a batch, on the CPU; step: its number in the whole training (0-based).

    accumulate: batches of a step of the optimizer, of which an epoch has whole ones only.
    """
    batches = full_batches(train_size, batch_size * accumulate) * accumulate
    epoch, position = divmod(step, batches)
    return epoch_order(train_size, seed, epoch)[position * batch_size : (position + 1) * batch_size]
