"""The data set on the device, and the batches that every method of a cohort sees alike.

The order depends on (seed, epoch) and the augmentation on (seed, epoch, step), nothing else: scratch, all methods of a
pair and all pairs of a seed walk through the same samples in the same way. Random numbers are drawn on the CPU, so that
they are the same on every device.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

from kdbench.data.packed import Packed
from kdbench.types import KdbenchError, Recipe


def stream(*names: object) -> int:
    """A seed that belongs to these names alone: independent streams for weights, order, augmentation and methods."""
    return int.from_bytes(hashlib.sha256("/".join(map(str, names)).encode()).digest()[:8], "big") >> 1


def generator(*names: object) -> torch.Generator:
    return torch.Generator().manual_seed(stream(*names))


class Batches:
    """One data set on one device as uint8, for the modalities that a cohort reads."""

    def __init__(self, packed: Packed, modalities: set[str], device: torch.device) -> None:
        self.device = device
        self.classes = len(packed.meta["class_names"])
        self.shape = {m: tuple(packed.meta["modalities"][m]["shape"]) for m in modalities}
        self._is_image = {m: packed.meta["modalities"][m]["kind"] == "image" for m in modalities}
        self._statistics = {
            m: [torch.tensor(packed.meta["modalities"][m][s], device=device).view(1, -1, 1, 1) for s in ("mean", "std")]
            for m in modalities
        }
        self._pixels = {
            (m, split): torch.from_numpy(packed.array(m, split).copy()).permute(0, 3, 1, 2).contiguous().to(device)
            for m in modalities
            for split in ("train", "val", "test")
        }
        self._labels = {s: torch.from_numpy(packed.labels(s).copy()).to(device) for s in ("train", "val", "test")}

    def size(self, split: str) -> int:
        return len(self._labels[split])

    def labels(self, split: str) -> Tensor:
        """(N,) int64."""
        return self._labels[split]

    def steps_per_epoch(self, batch_size: int) -> int:
        """Full batches only. Raises KdbenchError when there is not one."""
        if self.size("train") < batch_size:
            raise KdbenchError(f"a batch of {batch_size} is larger than the training set of {self.size('train')}")
        return self.size("train") // batch_size

    def order(self, seed: int, epoch: int) -> Tensor:
        """(N,) positions of the training samples, shuffled by (seed, epoch)."""
        return torch.randperm(self.size("train"), generator=generator(seed, "order", epoch)).to(self.device)

    def train(self, index: Tensor, recipe: Recipe, seed: int, step: int) -> tuple[dict[str, Tensor], Tensor]:
        """One augmented batch: {modality: (B, C, H, W) float32, normalised}, target (B,) or (B, classes)."""
        shift, flip = None, None
        if recipe.crop or recipe.flip:
            rng = generator(seed, "augmentation", step)
            shift = torch.randint(-recipe.crop, recipe.crop + 1, (2, len(index)), generator=rng).to(self.device)
            flip = (torch.rand(len(index), generator=rng) < 0.5).to(self.device) if recipe.flip else None
        inputs = {}
        for modality in self.shape:
            pixels = self._pixels[modality, "train"][index]
            if self._is_image[modality] and shift is not None:
                pixels = crop_and_flip(pixels, shift, flip)
            inputs[modality] = self._normalised(modality, pixels)
        target = self._labels["train"][index]
        if recipe.label_smoothing:
            target = (
                F.one_hot(target, self.classes) * (1 - recipe.label_smoothing) + recipe.label_smoothing / self.classes
            )
        return inputs, target

    def evaluation(
        self, modality: str, split: str, batch_size: int = 1024, limit: int | None = None
    ) -> Iterator[Tensor]:
        """The split (its first `limit` samples) in its own order, un-augmented: batches (B, C, H, W), normalised."""
        for pixels in self._pixels[modality, split][:limit].split(batch_size):
            yield self._normalised(modality, pixels)

    def _normalised(self, modality: str, pixels: Tensor) -> Tensor:
        mean, std = self._statistics[modality]
        return (pixels.float() / 255 - mean) / std


def crop_and_flip(pixels: Tensor, shift: Tensor, flip: Tensor | None) -> Tensor:
    """Shift each image (B, C, H, W) by shift (2, B) pixels, black where nothing was, then mirror where flip (B,) says.

    The same as torchvision's RandomCrop(size, padding) followed by RandomHorizontalFlip, for given random numbers.
    """
    batch, _, height, width = pixels.shape
    rows = torch.arange(height, device=pixels.device).view(1, -1, 1) + shift[0].view(-1, 1, 1)
    columns = torch.arange(width, device=pixels.device).view(1, 1, -1)
    if flip is not None:
        columns = torch.where(flip.view(-1, 1, 1), width - 1 - columns, columns)
    columns = columns + shift[1].view(-1, 1, 1)
    inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
    sample = torch.arange(batch, device=pixels.device).view(-1, 1, 1)
    moved = pixels.permute(0, 2, 3, 1)[sample, rows.clamp(0, height - 1), columns.clamp(0, width - 1)]
    return (moved * inside.unsqueeze(-1)).permute(0, 3, 1, 2).contiguous()
