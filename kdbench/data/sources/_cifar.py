"""What the sources cifar10 and cifar100 share: where the images may lie, and what they must be.

Looked for in this order: NAME.npz in `data_dir` (the setting KDBENCH_DATA; npz.py says what it holds), a folder
NAME of pictures there (imagefolder.py), the published archive there, and last torchvision's
download, for which results/data/downloads is looked into first. torchvision unpickles its files, but only those whose
MD5 is the published one; an .npz is never unpickled.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from kdbench.data.labelled import Labelled, split
from kdbench.data.raw import RawData
from kdbench.data.sources import imagefolder, npz
from kdbench.data.sources._download import DOWNLOADS, fetching
from kdbench.types import KdbenchError

SHAPE = [32, 32, 3]
TOTALS = {"train": 50_000, "test": 10_000}
ARCHIVES = {"cifar10": "cifar-10-python.tar.gz", "cifar100": "cifar-100-python.tar.gz"}


def build(
    name: str,
    classes: int,
    size: int,
    limit: int | None,
    test_limit: int | None,
    val_share: float,
    data_dir: Path | None,
) -> RawData:
    """Modality `image`, uint8 (N, 32, 32, 3); the arguments are those of the sources.

    A part of the images is taken for what it is, and the notes then say of how many. Raises KdbenchError for a size
    below 32, images of another shape, another number of classes, more images than there are, and a download that
    failed.
    """
    if size < SHAPE[0]:
        raise KdbenchError(f"{name}: size is {size}; images of {SHAPE[0]} pixels can only be enlarged")
    found = _find(name, data_dir)
    if len(found.class_names) != classes:
        raise KdbenchError(f"{found.where} has {len(found.class_names)} classes; {name} has {classes}")
    for part, total in TOTALS.items():
        count, *shape = found.images[part].shape
        if part == "train" and "val" in found.images:
            count += found.images["val"].shape[0]
        if shape != SHAPE:
            raise KdbenchError(f"{found.where}: {part} images are {shape}; those of {name} are {SHAPE}")
        if count > total:
            raise KdbenchError(f"{found.where} has {count:,} {part} images; {name} has {total:,}")
        if count < total:
            found.notes.append(f"a part of {name}: {count:,} of its {total:,} {part} images")
    raw = split(found, limit, test_limit, val_share)
    if size > SHAPE[0]:
        raw.sizes["image"] = size
        raw.notes.append(f"images of {SHAPE[0]} pixels are enlarged to {size}, by each batch")
    return raw


def source_files(name: str, data_dir: Path | None) -> list[Path]:
    """The files of `data_dir` that are read: NAME.npz, the pictures of the folder NAME, or the published archive; none
    for a download."""
    place = _place(name, data_dir)
    if place is None or place.is_file():
        return [place] if place else []
    return imagefolder.source_files({"folder": name}, data_dir)


def _place(name: str, data_dir: Path | None) -> Path | None:
    """NAME.npz, the folder NAME or the archive in `data_dir`, the first that is there."""
    places = [data_dir / found for found in (f"{name}.npz", name, ARCHIVES[name])] if data_dir else []
    return next((place for place in places if (place.is_dir() if place.name == name else place.is_file())), None)


def _find(name: str, data_dir: Path | None) -> Labelled:
    place = _place(name, data_dir)
    if place is None or place.name == ARCHIVES[name]:
        return _published(name, place, data_dir)
    return npz.read(place) if place.is_file() else imagefolder.read(place, SHAPE[0], resize=False)


def _published(name: str, archive: Path | None, data_dir: Path | None) -> Labelled:
    """torchvision's files: as they lie in `data_dir` or in results/data/downloads, unpacked or fetched into the latter.

    What is fetched or unpacked appears there when it is whole, and of what else lies there nothing is touched.
    """
    import kdbench.torchvision_ops  # noqa: F401, I001  (before torchvision)
    from torchvision import datasets
    from torchvision.datasets.utils import check_integrity, extract_archive

    source = getattr(datasets, name.upper())
    with fetching(name, source.url, f"{ARCHIVES[name]}, {name}.npz or {name}/") as fresh:
        if archive is None and check_integrity(DOWNLOADS / source.filename, source.tgz_md5):
            archive = DOWNLOADS / source.filename
        parts = (_parts(source, data_dir) if data_dir else None) or _parts(source, DOWNLOADS)
        if parts is None:
            if archive and not check_integrity(archive, source.tgz_md5):
                raise KdbenchError(f"{name}: {archive} is not the published archive (another MD5); fetch it again")
            if archive:
                extract_archive(str(archive), str(fresh))
            parts = {part: source(fresh, train=part == "train", download=True) for part in TOTALS}
            (DOWNLOADS / source.base_folder).mkdir(exist_ok=True)
            for file in (fresh / source.base_folder).iterdir():
                file.replace(DOWNLOADS / source.base_folder / file.name)
    return Labelled(
        where=f"{name}: the download",
        images={part: found.data for part, found in parts.items()},
        labels={part: np.array(found.targets) for part, found in parts.items()},
        class_names=parts["train"].classes,
    )


def _parts(source: Any, folder: Path) -> dict[str, Any] | None:
    """Training and test part of torchvision's data set in a folder; None where they are not there whole."""
    try:
        return {part: source(folder, train=part == "train") for part in TOTALS}
    except RuntimeError:
        return None
