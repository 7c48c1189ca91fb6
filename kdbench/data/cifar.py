"""What the sources cifar10 and cifar100 share: where the images may lie, and what they must be.

Looked for in this order: NAME.npz in `data_dir` (the setting KDBENCH_DATA; kdbench/data/npz.py says what it holds), a
folder NAME of pictures there (kdbench/data/imagefolder.py), and last torchvision's download. torchvision unpickles its
files, but only those whose MD5 is the published one; an .npz is never unpickled.
"""

from __future__ import annotations

import http.client
import shutil
import socket
from pathlib import Path

import numpy as np
from filelock import FileLock

from kdbench.data import imagefolder, npz
from kdbench.data.labelled import Labelled, split
from kdbench.data.packed import RawData
from kdbench.plan import RESULTS
from kdbench.types import KdbenchError

SHAPE = [32, 32, 3]
TOTALS = {"train": 50_000, "test": 10_000}
DOWNLOADS = RESULTS / "data" / "downloads"
SECONDS = 60
"""After so long without a byte a download is given up."""


def build(
    name: str, classes: int, limit: int | None, test_limit: int | None, val_share: float, data_dir: Path | None
) -> RawData:
    """Modality `image`, uint8 (N, 32, 32, 3); the arguments are those of the sources.

    A part of the images is taken for what it is, and the notes then say of how many. Raises KdbenchError for images of
    another shape, another number of classes, more images than there are, and a download that failed.
    """
    found = _find(name, data_dir)
    if len(found.class_names) != classes:
        raise KdbenchError(f"{found.where} has {len(found.class_names)} classes; {name} has {classes}")
    for part, total in TOTALS.items():
        count, *shape = found.images[part].shape
        if shape != SHAPE:
            raise KdbenchError(f"{found.where}: {part} images are {shape}; those of {name} are {SHAPE}")
        if count > total:
            raise KdbenchError(f"{found.where} has {count:,} {part} images; {name} has {total:,}")
        if count < total:
            found.notes.append(f"a part of {name}: {count:,} of its {total:,} {part} images")
    return split(found, limit, test_limit, val_share)


def source_files(name: str, data_dir: Path | None) -> list[Path]:
    """The files of `data_dir` that are read: NAME.npz, or the pictures of the folder NAME; none for a download."""
    file, folder = _places(name, data_dir)
    if file:
        return [file]
    return imagefolder.source_files({"folder": name}, data_dir) if folder else []


def _places(name: str, data_dir: Path | None) -> tuple[Path | None, Path | None]:
    """NAME.npz and the folder NAME, each where it is there."""
    if data_dir is None:
        return None, None
    file, folder = data_dir / f"{name}.npz", data_dir / name
    return file if file.is_file() else None, folder if folder.is_dir() else None


def _find(name: str, data_dir: Path | None) -> Labelled:
    file, folder = _places(name, data_dir)
    if file:
        return npz.read(file)
    return imagefolder.read(folder, SHAPE[0], resize=False) if folder else _download(name)


def _download(name: str) -> Labelled:
    """torchvision's files, fetched into results/data/downloads and kept there if they are whole, else not at all."""
    import kdbench.torchvision_ops  # noqa: F401, I001  (before torchvision)
    from torchvision import datasets

    source = getattr(datasets, name.upper())
    DOWNLOADS.mkdir(parents=True, exist_ok=True)
    with FileLock(DOWNLOADS / f".{name}.lock"):
        patience = socket.getdefaulttimeout()
        try:
            socket.setdefaulttimeout(SECONDS)
            parts = {part: source(DOWNLOADS, train=part == "train", download=True) for part in TOTALS}
        except (OSError, RuntimeError, http.client.HTTPException) as error:
            shutil.rmtree(DOWNLOADS / source.base_folder, ignore_errors=True)
            raise KdbenchError(
                f"{name}: no whole download from {source.url}: {error}; nothing was kept. Run it again with a network, "
                f"or set KDBENCH_DATA to a folder that holds {name}.npz or {name}/ (docs/your-own-data.md)"
            ) from error
        finally:
            socket.setdefaulttimeout(patience)
            (DOWNLOADS / source.filename).unlink(missing_ok=True)
    return Labelled(
        where=f"{name}: the download",
        images={part: found.data for part, found in parts.items()},
        labels={part: np.array(found.targets) for part, found in parts.items()},
        class_names=parts["train"].classes,
    )
