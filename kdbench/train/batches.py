"""The batches that every method of a cohort sees alike.

The order depends on (seed, epoch) and the augmentation on (seed, epoch, step), nothing else: scratch, all methods of a
pair and all pairs of a seed walk through the same samples in the same way. Random numbers are drawn on the CPU, so that
they are the same on every device. pixels.py says where the images come from; from the device on, all is the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from kdbench.data.packed import SPLITS, Packed
from kdbench.data.pictures import USUAL, View
from kdbench.tensors import to_device
from kdbench.train.augment import (
    COLOR_JITTER,
    RAND_AUGMENT,
    apply_each,
    crop_and_flip,
    draw_color_jitter,
    draw_erasing,
    draw_mixing,
    draw_rand_augment,
    draw_timm_rand_augment,
    erase,
    mix,
    timm_rand_augment,
)
from kdbench.train.order import epoch_order, full_batches, generator, stream
from kdbench.train.pixels import Pixels, Resident, Streamed
from kdbench.types import AUTO_AUGMENT, KdbenchError, Recipe


def check_recipe(recipe: Recipe, modalities: Mapping[str, Mapping[str, Any]]) -> None:
    """Raises KdbenchError where a recipe asks for what the data of a cohort cannot have.

    modalities: those that the cohort reads, each with `kind` and `shape` [H, W, C].
    """
    images = {m: facts["shape"] for m, facts in modalities.items() if facts["kind"] == "image"}
    texts = [m for m, facts in modalities.items() if facts["kind"] == "tokens"]
    if texts and (recipe.mixup or recipe.cutmix):
        raise KdbenchError(f"recipe {recipe.name}: mixup and cutmix mix values, but {texts[0]} is tokens")
    if recipe.cutmix and (len(images) < len(modalities) or len({tuple(shape[:2]) for shape in images.values()}) > 1):
        read = ", ".join(f"{m} {list(facts['shape'])}" for m, facts in modalities.items())
        raise KdbenchError(
            f"recipe {recipe.name}: cutmix is for images of one size, but these models read {read}; use mixup"
        )
    for modality, (_, _, channels) in images.items():
        if (recipe.color_jitter or recipe.rand_augment or recipe.auto_augment) and channels not in (1, 3):
            raise KdbenchError(
                f"recipe {recipe.name}: color_jitter, rand_augment and auto_augment are for images of 1 or 3 channels, "
                f"but {modality} has {channels}"
            )


class Batches:
    """One data set for the modalities that a cohort reads, each resident on the device or streamed to it."""

    def __init__(self, packed: Packed, modalities: set[str], device: torch.device, workers: int = 0) -> None:
        self.device = device
        self.classes = len(packed.meta["class_names"])
        self._facts = {m: packed.meta["modalities"][m] for m in modalities}
        self.shape = {m: tuple(facts["shape"]) for m, facts in self._facts.items()}
        self._is_image = {m: facts["kind"] == "image" for m, facts in self._facts.items()}
        self._statistics = {
            m: [torch.tensor(facts[s], device=device).view(1, -1, 1, 1) for s in ("mean", "std")]
            for m, facts in self._facts.items()
            if facts["kind"] != "tokens"
        }
        self._pixels: dict[str, Pixels] = {
            m: Streamed(packed, m, device, workers) if facts.get("stored") == "jpeg" else Resident(packed, m, device)
            for m, facts in self._facts.items()
        }
        self._labels = {s: torch.from_numpy(packed.labels(s).copy()).to(device) for s in SPLITS}

    def size(self, split: str) -> int:
        return len(self._labels[split])

    def labels(self, split: str) -> Tensor:
        """(N,) int64."""
        return self._labels[split]

    def steps_per_epoch(self, batch_size: int) -> int:
        """Full batches only. Raises KdbenchError when there is not one."""
        return full_batches(self.size("train"), batch_size)

    def order(self, seed: int, epoch: int) -> Tensor:
        """(N,) positions of the training samples, shuffled by (seed, epoch), on the CPU."""
        return epoch_order(self.size("train"), seed, epoch)

    def train(self, index: Tensor, recipe: Recipe, seed: int, step: int) -> tuple[dict[str, Tensor], Tensor]:
        """One augmented batch: {modality: (B, C, H, W) float32, normalised, or tokens (B, 1, 1, L) int32}, target (B,)
        or (B, classes).

        index: (B,) positions, on the CPU. step: number of the batch in the whole training; an optimizer's step takes
        recipe.accumulate of them. Streamed pictures are read ahead where index is the order's for this batch.
        Each kind of augmentation has a stream of its own, from which all modalities draw the same. Raises KdbenchError
        when the recipe does not fit the modalities.
        """
        check_recipe(recipe, self._facts)
        inputs = {}
        for modality in self.shape:
            x = self._pixels[modality].training(index, recipe, seed, step)
            if self._is_image[modality]:
                x = self._augmented(x, modality, recipe, seed, step)
            x = self._normalised(modality, x)
            if self._is_image[modality] and recipe.erasing:
                rng = generator(seed, "augmentation", step, "erasing")
                x = erase(x, *(to_device(n, self.device) for n in draw_erasing(x.shape, recipe.erasing, rng)))
            inputs[modality] = x
        target = self._labels["train"][to_device(index, self.device)]
        mixing = recipe.mixup or recipe.cutmix
        if recipe.label_smoothing or mixing:
            target = (
                F.one_hot(target, self.classes) * (1 - recipe.label_smoothing) + recipe.label_smoothing / self.classes
            )
        if mixing:
            height, width, _ = next(iter(self.shape.values()))
            rng = np.random.default_rng(stream(seed, "augmentation", step, "mixing"))
            chances = recipe.mixup_prob, recipe.mixup_switch_prob
            share, box = draw_mixing(recipe.mixup, recipe.cutmix, height, width, rng, *chances)
            inputs = {modality: mix(x, share, box) for modality, x in inputs.items()}
            target = mix(target, share)
        return inputs, target

    def _augmented(self, pixels: Tensor, modality: str, recipe: Recipe, seed: int, step: int) -> Tensor:
        """Images (B, C, H, W) uint8, augmented from after the random box up to the normalisation."""
        batch, _, height, width = pixels.shape

        def rng(*operation: str) -> torch.Generator:
            return generator(seed, "augmentation", step, *operation)

        if recipe.crop or recipe.flip:
            draws = rng()
            shift = torch.randint(-recipe.crop, recipe.crop + 1, (2, batch), generator=draws)
            flip = to_device(torch.rand(batch, generator=draws) < 0.5, self.device) if recipe.flip else None
            pixels = crop_and_flip(pixels, to_device(shift, self.device), flip, recipe.crop)
        if recipe.rand_augment:
            rounds = draw_rand_augment(batch, height, width, recipe.rand_augment, rng("rand_augment"))
            for choice, magnitude in rounds:
                pixels = apply_each(pixels, RAND_AUGMENT, choice, magnitude)
        if recipe.auto_augment:
            level, deviation = map(float, AUTO_AUGMENT.fullmatch(recipe.auto_augment).groups())
            operations = timm_rand_augment((255 * self._statistics[modality][0]).round())
            for choice, magnitude in draw_timm_rand_augment(batch, level, deviation, rng("auto_augment")):
                pixels = apply_each(pixels, operations, choice, magnitude)
        if recipe.color_jitter:
            rounds = draw_color_jitter(batch, recipe.color_jitter, rng("color_jitter"))
            for choice, magnitude in rounds:
                pixels = apply_each(pixels, COLOR_JITTER, choice, magnitude)
        return pixels

    def evaluation(
        self,
        modality: str,
        split: str,
        batch_size: int | None = None,
        limit: int | None = None,
        view: View = USUAL,
    ) -> Iterator[Tensor]:
        """The split (its first `limit` samples) in its own order, un-augmented: batches as `train` gives them.

        view: how the network that will read it is shown pictures.
        """
        # A CPU is no faster with more, and their maps would be most of a job's memory.
        batch_size = batch_size or (128 if self.device.type == "cpu" else 1024)
        for pixels in self._pixels[modality].evaluation(split, view, batch_size, limit):
            yield self.renormalised(modality, self._normalised(modality, pixels), view)

    def decoder(self, modality: str) -> str | None:
        """What decodes its pictures here, since another one gives other bits; None where none is needed."""
        return self._pixels[modality].decoder

    def shown(self, modality: str, view: View) -> dict[str, Any] | None:
        """What to record of how a network is shown this modality when it is evaluated; None where images are shown as
        they are packed."""
        return self._pixels[modality].shown(view)

    def renormalised(self, modality: str, x: Tensor, view: View) -> Tensor:
        """Images (B, C, H, W), normalised by the data, as a network with this view reads them: by its own mean and
        deviation, where it has any. One batch serves all networks, and what was erased or mixed in it is the same."""
        if view.mean is None:
            return x
        mean, std = self._statistics[modality]
        own_mean, own_std = (
            to_device(torch.tensor(values).view(1, -1, 1, 1), self.device) for values in (view.mean, view.std)
        )
        return x * (std / own_std) + (mean - own_mean) / own_std

    def _normalised(self, modality: str, pixels: Tensor) -> Tensor:
        if modality not in self._statistics:
            return pixels
        mean, std = self._statistics[modality]
        return (pixels.float() / 255 - mean) / std
