"""A folder of pictures as imagefolder reads it, for sets that do not fit into memory: pictures stay JPEG on disk.

They are decoded while networks train, by `workers` processes of the suite (kdbench/train/pixels.py). What is packed of
a file is the file itself where it is an upright JPEG, RGB or grey, whose shorter side is at most `short_side`. All
others (PNG, turned by EXIF, transparent, CMYK, larger) are made RGB as imagefolder does, resized and saved as a JPEG of
quality 95 without subsampling.
"""

from __future__ import annotations

from pathlib import Path

from kdbench.data.labelled import locate, split
from kdbench.data.raw import Files, RawData, SourceMissing
from kdbench.data.sources import imagefolder
from kdbench.types import KdbenchError

DECODER = "pillow"
"""What decodes the pictures while networks train. Part of the keys of runs, since another decoder gives other bits."""


def build(
    *,
    folder: str = "pictures",
    size: int = 224,
    short_side: int | None = None,
    limit: int | None = None,
    test_limit: int | None = None,
    val_share: float = 0.1,
    ground: str = "white",
    links: bool = False,
    data_dir: Path | None = None,
) -> RawData:
    """Modality `image`, seen by networks as (size, size, 3), shuffled and stratified in a fixed way.

    folder: in `data_dir` unless absolute. size: side in pixels, at least 8. short_side: pictures with a longer shorter
    side are resized to it (bicubic) when they are packed; None: none is. limit: take this many training pictures,
    before the validation pictures are split off them. test_limit: take this many test pictures. val_share: share of the
    training pictures that become validation pictures, where there is no folder val. ground: the colour on which
    transparent pictures are laid. links: whether links may lead out of the folder. Raises KdbenchError, naming files,
    folder or class, for whatever is wrong with them; with the files themselves only when they are packed.
    """
    if size < 8:
        raise KdbenchError(f"jpegfolder: size is {size}; the smallest is 8")
    if short_side is not None and short_side < size:
        raise KdbenchError(f"jpegfolder: short_side is {short_side}; expected at least {size}, the size")
    found = imagefolder.read(locate("jpegfolder", folder, data_dir), size, ground, links, resize=False)
    found.images = {
        name: Files(images.paths, found.names[name], size, short_side, ground) for name, images in found.images.items()
    }
    if short_side:
        found.notes.append(f"pictures with a shorter side of more than {short_side} pixels are resized to that")
    return split(found, limit, test_limit, val_share)


def source_files(args: dict, data_dir: Path | None) -> list[Path]:
    """All pictures that `build` may read. Raises KdbenchError, naming folder or class, if they are off the form."""
    known = ("folder", "links")
    args = {key: value for key, value in (build.__kwdefaults__ | args).items() if key in known}
    return imagefolder.source_files(args, data_dir)


def source_marks(args: dict, data_dir: Path | None) -> list[Path]:
    """The folders of classes, whose times change where pictures come or go: to look at a million files would take
    longer than all else that plans a job. Raises SourceMissing if there is no such folder."""
    folder = locate("jpegfolder", args.get("folder", build.__kwdefaults__["folder"]), data_dir)
    if not folder.exists():
        raise SourceMissing(f"jpegfolder: no folder {folder.name} in {folder.parent}; {imagefolder.FORM}")
    return [path for path in sorted(folder.glob("*/*")) if path.is_dir()]
