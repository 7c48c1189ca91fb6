"""Pictures that stay JPEG on disk, and what is cut out of one when it is read.

A modality that is stored this way has for each split an index, MODALITY-SPLIT.npy (its dtype is INDEX), and shards,
MODALITY-SPLIT-00000.jpegs and so on, in which the files of SHARD pictures stand one after another. The index is a
memory map; of a shard only the bytes of a picture are read, since pages of a mapped shard would count as memory of the
job, until it had all of the data set. Every picture has a checksum, which is compared whenever it is read.

The decoder is Pillow's: torchvision's rests on the same libjpeg-turbo, and its compiled operators do not load beside
every torch. Crops and resizes are those of torchvision and timm on PIL images, bit for bit.
"""

from __future__ import annotations

import io
import math
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image, features
from PIL import __version__ as pillow

from kdbench.types import KdbenchError

SHARD = 2048
INDEX = np.dtype(
    [("offset", "<u8"), ("length", "<u4"), ("crc32", "<u4"), ("height", "<u2"), ("width", "<u2")], align=False
)
MEND = "delete it and run `kdbench data` for this data set, it will be rebuilt from the picture files"
DECODER = f"Pillow {pillow}, libjpeg{'-turbo' if features.check_feature('libjpeg_turbo') else ''} " + str(
    features.version_feature("libjpeg_turbo") or features.version_codec("jpg")
)
"""What decodes here, as records of runs name it."""


@dataclass(frozen=True)
class View:
    """What a network is shown of a picture when it is evaluated, as timm does: the shorter side is resized to
    floor(size / crop), and the middle size x size pixels are taken. And by what its pixels are normalised, then as in
    training."""

    crop: float = 0.875
    interpolation: Literal["bilinear", "bicubic"] = "bicubic"
    mean: tuple[float, ...] | None = None
    """Of each channel, in units of 0..1; None: the mean and deviation of the data."""
    std: tuple[float, ...] | None = None

    def scaled(self, size: int) -> int:
        """Pixels of the shorter side before the middle is cut out of it."""
        return math.floor(size / self.crop)


USUAL = View()
"""timm's where a network says nothing."""
WHOLE = View(crop=1.0)
"""The largest square about the centre."""


def shard_file(stem: str, number: int) -> str:
    """stem: MODALITY-SPLIT."""
    return f"{stem}-{number:05}.jpegs"


@dataclass(frozen=True)
class Pictures:
    """The pictures of one modality and split of a packed data set."""

    folder: Path
    stem: str
    """MODALITY-SPLIT."""
    index: np.ndarray
    """(N,) of dtype INDEX."""
    size: int
    """Side in pixels at which networks see them."""

    @property
    def shape(self) -> tuple[int, int, int, int]:
        return (len(self.index), self.size, self.size, 3)

    def __getitem__(self, positions: np.ndarray) -> np.ndarray:
        """The largest squares about the centre: uint8 (n, size, size, 3)."""
        return np.stack([viewed(self.picture(i), WHOLE, self.size) for i in positions])

    def picture(self, position: int) -> Image.Image:
        """Decoded, RGB. Raises KdbenchError that names the shard where its bytes are not those that were packed."""
        entry = self.index[position]
        path = self.folder / shard_file(self.stem, int(position) // SHARD)
        try:
            with path.open("rb", buffering=0) as file:
                file.seek(int(entry["offset"]))
                content = file.read(int(entry["length"]))
        except OSError as error:
            raise KdbenchError(f"cannot read {path}: {error.strerror}") from error
        if zlib.crc32(content) != entry["crc32"]:
            raise KdbenchError(f"{path} is damaged: picture {position} has another checksum; {MEND}")
        return Image.open(io.BytesIO(content), formats=("JPEG",)).convert("RGB")


def cropped(picture: Image.Image, box: np.ndarray, size: int, interpolation: str) -> np.ndarray:
    """The part box (top, left, height, width) of a picture, resized: uint8 (size, size, 3); torchvision's
    resized_crop of a PIL image."""
    top, left, height, width = map(int, box)
    part = picture.crop((left, top, left + width, top + height))
    return np.asarray(part.resize((size, size), _resampling(interpolation)))


def viewed(picture: Image.Image, view: View, size: int) -> np.ndarray:
    """uint8 (size, size, 3); torchvision's Resize and CenterCrop of a PIL image, as timm evaluates."""
    short = view.scaled(size)
    if min(picture.size) != short:
        scaled = [int(short * side / min(picture.size)) for side in picture.size]
        scaled[scaled.index(min(scaled))] = short
        picture = picture.resize(scaled, _resampling(view.interpolation))
    left, top = (round((side - size) / 2) for side in picture.size)
    return np.asarray(picture.crop((left, top, left + size, top + size)))


def _resampling(interpolation: str) -> Image.Resampling:
    return Image.Resampling[interpolation.upper()]
