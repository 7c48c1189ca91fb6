"""Where a batch's images come from: arrays that lie on the device, or pictures that workers decode on their way there.

Both give uint8 (B, C, H, W) at the size that networks read, after the random box of `resized_crop` and before all other
augmentation. Nothing here waits for the device.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from kdbench.data.packed import SPLITS, Packed
from kdbench.data.pictures import DECODER, WHOLE, Pictures, View, cropped, viewed
from kdbench.tensors import planar, to_device
from kdbench.train.augment import draw_cubic, draw_resized_crop, enlarge, enlarging_weights, resized_crop, stretched
from kdbench.train.order import batch_positions, full_batches, generator
from kdbench.types import KdbenchError, Recipe

AHEAD = 2
"""So many batches of pictures are on the device before the one that trains."""
EVALUATED = 128
"""Pictures of a batch for evaluation at most: more would be more shared memory, and no faster."""


class Pixels(Protocol):
    """One modality of a data set."""

    decoder: str | None

    def training(self, index: Tensor, recipe: Recipe, seed: int, step: int) -> Tensor:
        """The training samples at positions index (B,), on the CPU; step: number of the batch."""

    def evaluation(self, split: str, view: View, batch_size: int, limit: int | None) -> Iterator[Tensor]:
        """A split (its first `limit` samples) in its own order, as a network with this view is evaluated on it."""

    def shown(self, view: View) -> dict[str, Any] | None:
        """What to record of that; None where images are shown as they are packed."""


class Resident:
    """Arrays on the device, which may hold smaller images than networks read."""

    decoder = None

    def __init__(self, packed: Packed, modality: str, device: torch.device) -> None:
        facts = packed.meta["modalities"][modality]
        self.device, self.size, self.is_image = device, tuple(facts["shape"][:2]), facts["kind"] == "image"
        arrays = {split: torch.from_numpy(packed.array(modality, split).copy()) for split in SPLITS}
        self._pixels = {split: planar(array.permute(0, 3, 1, 2)).to(device) for split, array in arrays.items()}

    def training(self, index: Tensor, recipe: Recipe, seed: int, step: int) -> Tensor:
        pixels = self._pixels["train"][to_device(index, self.device)]
        stored = tuple(pixels.shape[2:])
        if not (self.is_image and recipe.resized_crop):
            return pixels if stored == self.size else self._viewed(pixels, WHOLE)
        rng = generator(seed, "augmentation", step, "resized_crop")
        boxes = to_device(draw_resized_crop(len(index), *stored, recipe.resized_crop, rng), self.device)
        if stored == self.size and recipe.interpolation == "bilinear":
            return resized_crop(pixels, boxes)
        rng = generator(seed, "augmentation", step, "interpolation")
        cubic = to_device(draw_cubic(len(index), recipe.interpolation, rng), self.device)
        return stretched(pixels, boxes, self.size, cubic)

    def evaluation(self, split: str, view: View, batch_size: int, limit: int | None) -> Iterator[Tensor]:
        for pixels in self._pixels[split][:limit].split(batch_size):
            yield pixels if tuple(pixels.shape[2:]) == self.size else self._viewed(pixels, view)

    def shown(self, view: View) -> dict[str, Any] | None:
        if tuple(self._pixels["train"].shape[2:]) == self.size:
            return None
        return {"size": self.size[0], "crop": view.crop, "interpolation": view.interpolation}

    def _viewed(self, pixels: Tensor, view: View) -> Tensor:
        """Square images (B, C, s, s) as `viewed` shows a picture of that size: enlarged, and the middle cut out."""
        source, size = pixels.shape[-1], self.size[0]
        scaled = view.scaled(size)
        first = round((scaled - size) / 2)
        start, length = torch.tensor([0]), torch.tensor([source])
        weights = enlarging_weights(start, length, source, scaled, torch.tensor([view.interpolation == "bicubic"]))
        weights = to_device(weights[:, first : first + size], self.device)
        return enlarge(pixels, weights, weights)


class Streamed:
    """JPEG pictures that worker processes read, decode and cut; all that is random is drawn here, by (seed, step).

    What comes out does not depend on the number of workers, on when they finish, or on where a training begins. torch's
    DataLoader keeps the workers, the order and the pinned memory.
    """

    decoder = DECODER

    def __init__(self, packed: Packed, modality: str, device: torch.device, workers: int) -> None:
        self.device, self.workers = device, workers
        self._pictures = {split: packed.pictures(modality, split) for split in SPLITS}
        self._next: tuple[Recipe, int, int] | None = None
        self._read: Iterator[tuple[np.ndarray, Tensor]] = iter(())
        self._ahead: deque[tuple[np.ndarray, Tensor]] = deque()

    def training(self, index: Tensor, recipe: Recipe, seed: int, step: int) -> Tensor:
        foreseen = self._next == (recipe, seed, step) and self._ahead and np.array_equal(self._ahead[0][0], index)
        if not foreseen:
            self._ahead.clear()
            self._read = self._batches("train", self._wanted(index, recipe, seed, step))
            self._fetch(AHEAD)
        self._fetch(1)
        self._next = (recipe, seed, step + 1)
        return self._ahead.popleft()[1]

    def _fetch(self, batches: int) -> None:
        """Put the next batches onto the device, as far as there are any."""
        self._ahead.extend(itertools.islice(self._read, batches))

    def _wanted(self, index: Tensor, recipe: Recipe, seed: int, step: int) -> Iterator[_Wanted]:
        """What is read for the batches from this one on; the samples of this one are at index (B,)."""
        size = len(self._pictures["train"].index)
        steps = recipe.steps or recipe.epochs * full_batches(size, recipe.global_batch)
        while True:
            yield self._cut(index, recipe, seed, step)
            step += 1
            if step >= steps * recipe.accumulate:
                return
            index = batch_positions(size, recipe, seed, step)

    def _cut(self, index: Tensor, recipe: Recipe, seed: int, step: int) -> _Wanted:
        if not recipe.resized_crop:
            return _Wanted(index.numpy(), WHOLE)
        places = self._pictures["train"].index[index.numpy()]
        height, width = (torch.from_numpy(places[side].astype(np.int64)) for side in ("height", "width"))
        rng = generator(seed, "augmentation", step, "resized_crop")
        boxes = draw_resized_crop(len(index), height, width, recipe.resized_crop, rng)
        rng = generator(seed, "augmentation", step, "interpolation")
        cubic = draw_cubic(len(index), recipe.interpolation, rng)
        return _Wanted(index.numpy(), None, boxes.T.numpy(), cubic.numpy())

    def evaluation(self, split: str, view: View, batch_size: int, limit: int | None) -> Iterator[Tensor]:
        positions = np.arange(len(self._pictures[split].index))[:limit]
        size = min(batch_size, EVALUATED)
        wanted = (_Wanted(positions[start : start + size], view) for start in range(0, len(positions), size))
        for _, pixels in self._batches(split, wanted):
            yield pixels

    def shown(self, view: View) -> dict[str, Any] | None:
        size = self._pictures["train"].size
        return {"size": size, "crop": view.crop, "interpolation": view.interpolation, "decoder": DECODER}

    def reading(self, split: str) -> _Reading:
        """What a worker does."""
        return _Reading(self._pictures[split])

    def _batches(self, split: str, wanted: Iterable[_Wanted]) -> Iterator[tuple[np.ndarray, Tensor]]:
        """Positions (B,) and pixels (B, 3, H, W) on the device, batch by batch."""
        loader = DataLoader(
            self.reading(split),
            batch_sampler=wanted,
            num_workers=self.workers,
            prefetch_factor=AHEAD if self.workers else None,
            collate_fn=_as_it_is,
            pin_memory=self.device.type == "cuda",
            generator=torch.Generator(),  # else the workers' seed is drawn from the stream of whoever trains
        )
        try:
            for found in loader:
                if isinstance(found, str):
                    raise KdbenchError(found)
                yield found[0], found[1].to(self.device, non_blocking=True)
        except RuntimeError as error:
            if "DataLoader worker" not in str(error):
                raise
            raise KdbenchError(
                f"a worker that decodes pictures ended ({error}); it may have had too little memory, or too little in "
                f"/dev/shm: give the job more, or the suite fewer `workers`"
            ) from error


@dataclass(frozen=True)
class _Wanted:
    """What a worker makes of one batch: views, or boxes."""

    index: np.ndarray
    """(B,)."""
    view: View | None
    boxes: np.ndarray | None = None
    """(B, 4): top, left, height, width."""
    cubic: np.ndarray | None = None
    """(B,)."""


@dataclass(frozen=True)
class _Reading:
    """What a worker knows; DataLoader hands it one batch after another."""

    pictures: Pictures

    def __getitems__(self, wanted: _Wanted) -> tuple[np.ndarray, Tensor] | str:
        """Positions (B,) and uint8 (B, 3, H, W), or what is wrong with a picture."""
        size = self.pictures.size
        pixels = np.empty((len(wanted.index), 3, size, size), np.uint8)
        try:
            for i, position in enumerate(wanted.index.tolist()):
                picture = self.pictures.picture(position)
                if wanted.view:
                    image = viewed(picture, wanted.view, size)
                else:
                    interpolation = "bicubic" if wanted.cubic[i] else "bilinear"
                    image = cropped(picture, wanted.boxes[i], size, interpolation)
                pixels[i] = image.transpose(2, 0, 1)
        except KdbenchError as error:
            return str(error)
        return wanted.index, torch.from_numpy(pixels)


def _as_it_is(found: Any) -> Any:
    return found
