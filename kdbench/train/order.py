"""Which samples come when, and the streams that all random numbers of a training are drawn from.

The order depends on (seed, epoch) alone and is drawn on the CPU, so that every process can tell any batch of any step.
"""

from __future__ import annotations

import functools
import hashlib

import torch
from torch import Tensor

from kdbench.types import KdbenchError, Recipe


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


def batch_positions(train_size: int, recipe: Recipe, seed: int, batch: int) -> Tensor:
    """(B,) positions of the samples of a batch (0-based; `accumulate` of them make a step), on the CPU."""
    step, part = divmod(batch, recipe.accumulate)
    epoch, position = divmod(step, full_batches(train_size, recipe.global_batch))
    start = position * recipe.global_batch + part * recipe.batch_size
    return epoch_order(train_size, seed, epoch)[start : start + recipe.batch_size]
