"""A folder of pictures, one folder a class: FOLDER/train/CLASS/*.png and FOLDER/test/CLASS/*.png (or .jpg).

FOLDER/val/CLASS/*.png may be there too; otherwise validation pictures are split off the training pictures. Each picture
is turned as its camera says (EXIF), becomes RGB without transparency, is cut to the largest square about its centre and
resized with PIL's bicubic filter; one that is size x size already stays as it is. Hidden files and what lies deeper are
not read, and a link that leads out of FOLDER is refused.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from kdbench.data.labelled import Labelled, locate, split
from kdbench.data.packed import SPLITS, RawData
from kdbench.types import KdbenchError

SUFFIXES = (".png", ".jpg", ".jpeg")
FORM = "wanted train/CLASS/*.png (or .jpg) and test/CLASS/*.png"


def build(
    *,
    folder: str = "pictures",
    size: int = 32,
    limit: int | None = None,
    test_limit: int | None = None,
    val_share: float = 0.1,
    data_dir: Path | None = None,
) -> RawData:
    """Modality `image`, uint8 (N, size, size, 3), shuffled and stratified in a fixed way.

    folder: in `data_dir` unless absolute. size: side in pixels, at least 8. limit: take this many training pictures,
    before the validation pictures are split off them. test_limit: take this many test pictures. val_share: share of the
    training pictures that become validation pictures, where there is no folder val. Raises KdbenchError, naming file,
    folder or class, for whatever is wrong with them. What was taken is held in memory while it is packed.
    """
    if size < 8:
        raise KdbenchError(f"imagefolder: size is {size}; the smallest is 8")
    return split(read(locate("imagefolder", folder, data_dir), size), limit, test_limit, val_share)


def source_files(args: dict, data_dir: Path | None) -> list[Path]:
    """All pictures that `build` may read. Raises KdbenchError, naming folder or class, if they are off the form."""
    folder = locate("imagefolder", args.get("folder", build.__kwdefaults__["folder"]), data_dir)
    return [path for classes in scan(folder)[0].values() for paths in classes.values() for path in paths]


def scan(folder: Path) -> tuple[dict[str, dict[str, list[Path]]], int]:
    """({split: {class: its pictures}}, all in order of their names; how many other entries the classes hold).

    Raises KdbenchError for a split that is missing, a class without pictures, a class that training does not have, and
    a link that leads out of the folder.
    """
    there = {entry.name: entry for entry in _entries(folder, folder) if entry.is_dir()}
    found: dict[str, dict[str, list[Path]]] = {}
    others = 0
    for name in SPLITS:
        if name not in there:
            if name == "val":
                continue
            raise KdbenchError(f"imagefolder: no folder {name} in {folder}; {FORM}")
        found[name] = {}
        for place in (entry for entry in _entries(folder / name, folder) if entry.is_dir()):
            inside = _entries(Path(place), folder)
            pictures = [Path(e) for e in inside if e.name.lower().endswith(SUFFIXES) and e.is_file()]
            if not pictures:
                raise KdbenchError(f"imagefolder: {place.path} holds no picture ({', '.join(SUFFIXES)})")
            found[name][place.name] = pictures
            others += len(inside) - len(pictures)
        if not found[name]:
            raise KdbenchError(f"imagefolder: {folder / name} holds no class; {FORM}")
        if strange := sorted(set(found[name]) - set(found["train"])):
            raise KdbenchError(f"imagefolder: {folder}: class {strange[0]} is in {name}, but not in train")
    return found, others


def read(folder: Path, size: int, resize: bool = True) -> Labelled:
    """The pictures of a folder, decoded when they are asked for; `resize=False` refuses those of another size."""
    found, others = scan(folder)
    names = list(found["train"])
    images = {
        s: Pictures([p for paths in classes.values() for p in paths], size, resize) for s, classes in found.items()
    }
    labels = {
        s: np.repeat([names.index(c) for c in classes], [len(paths) for paths in classes.values()])
        for s, classes in found.items()
    }
    counts = ", ".join(f"{len(labels[s]):,} {s}" for s in found)
    notes = [f"pictures of {folder.name}: {counts}"]
    if resize:
        notes.append(f"pictures are cut to a square about the centre and resized to {size}x{size} (bicubic)")
    if others:
        notes.append(f"{others:,} entries beside the pictures of {folder.name} are neither .png nor .jpg: not read")
    return Labelled(f"imagefolder: {folder}", images, labels, names, notes)


class Pictures:
    """Picture files as an array that is decoded where it is indexed."""

    def __init__(self, paths: Sequence[Path], size: int, resize: bool) -> None:
        self.paths, self.size, self.resize = paths, size, resize
        self.shape = (len(paths), size, size, 3)

    def __getitem__(self, index: np.ndarray) -> np.ndarray:
        """Positions (n,) -> uint8 (n, size, size, 3). Raises KdbenchError that names a picture PIL cannot read."""
        images = np.empty((len(index), self.size, self.size, 3), np.uint8)
        for image, i in zip(images, index, strict=True):
            image[:] = self._decode(self.paths[i])
        return images

    def _decode(self, path: Path) -> np.ndarray:
        from PIL import Image, ImageOps

        try:
            with warnings.catch_warnings():
                # What PIL warns of as a decompression bomb (over 89 million pixels) is refused.
                warnings.simplefilter("error", Image.DecompressionBombWarning)
                with Image.open(path, formats=("PNG", "JPEG")) as picture:
                    picture.load()
                    deep = picture.mode.startswith(("I", "F"))
                    picture = ImageOps.exif_transpose(picture).convert("RGB")
        except Exception as error:  # decoders fail on a damaged file in many ways
            raise KdbenchError(f"imagefolder: picture {path} cannot be read: {error}") from error
        if deep:
            raise KdbenchError(f"imagefolder: picture {path} has more than 8 bits a channel; save it with 8")
        if not self.resize and picture.size != (self.size, self.size):
            width, height = picture.size
            raise KdbenchError(f"imagefolder: picture {path} is {width}x{height}; wanted {self.size}x{self.size}")
        side = min(picture.size)
        left, top = ((length - side) // 2 for length in picture.size)
        square = picture.crop((left, top, left + side, top + side))
        return np.asarray(square.resize((self.size, self.size), Image.Resampling.BICUBIC))


def _entries(place: Path, folder: Path) -> list[os.DirEntry]:
    """What lies in a place inside the folder, by name, without hidden files."""
    try:
        with os.scandir(place) as entries:
            found = sorted((e for e in entries if not e.name.startswith(".")), key=lambda e: e.name)
    except OSError as error:
        raise KdbenchError(f"imagefolder: cannot read the folder {place}: {error.strerror}; {FORM}") from None
    root = os.path.realpath(folder)
    for entry in found:
        try:
            entry.name.encode()
        except UnicodeEncodeError:
            raise KdbenchError(f"imagefolder: {entry.path!r}: its name is no UTF-8 text; give it another") from None
        if entry.is_symlink() and not Path(os.path.realpath(entry)).is_relative_to(root):
            raise KdbenchError(f"imagefolder: {entry.path} is a link that leads out of {folder}; put the files there")
        if entry.is_symlink() and not os.path.exists(entry):
            raise KdbenchError(f"imagefolder: {entry.path} is a link that leads nowhere; remove it")
    return found
