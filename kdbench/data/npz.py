"""A file of arrays: any labelled image set that fits into one .npz.

    train_images   uint8 (N, H, W, C) or (N, H, W)
    train_labels   integers (N,), 0 .. classes - 1
    test_images, test_labels
    class_names    (classes,), may be absent

Other arrays are not read, and nothing in the file is ever unpickled.
"""

from __future__ import annotations

import difflib
import zipfile
import zlib
from pathlib import Path

import numpy as np

from kdbench.data.packed import RawData, stratified_order
from kdbench.types import KdbenchError


def build(
    *,
    file: str = "data.npz",
    limit: int | None = None,
    test_limit: int | None = None,
    val_share: float = 0.1,
    data_dir: Path | None = None,
) -> RawData:
    """Modality `image`, uint8 (N, H, W, C), shuffled and stratified in a fixed way.

    file: path of the .npz, in `data_dir` unless absolute. limit: take this many training images, before the validation
    images are split off them. test_limit: take this many test images. val_share: share of the training images that
    become validation images. Raises KdbenchError, naming file and array, for whatever is wrong with either.
    """
    (path,) = source_files({"file": file}, data_dir)
    if not 0 < val_share < 1:
        raise KdbenchError(f"npz: val_share is {val_share}; it is a share between 0 and 1, such as 0.1")
    train_images, train_labels, test_images, test_labels, class_names = _read(path)

    train = _first(train_labels, limit, "limit", path)
    test = _first(test_labels, test_limit, "test_limit", path)
    val_count = round(val_share * len(train))
    if not 0 < val_count < len(train):
        raise KdbenchError(f"npz: val_share {val_share} of {len(train)} training images leaves train or val empty")
    parts = {"val": train[:val_count], "train": train[val_count:]}
    if len(np.unique(train_labels[parts["train"]])) < len(class_names):
        raise KdbenchError(f"npz: {len(parts['train'])} training images do not cover {len(class_names)} classes")

    notes = []
    for part, labels, split in ((train, train_labels, "training"), (test, test_labels, "test")):
        if len(part) < len(labels):
            notes.append(f"{len(part):,} of {len(labels):,} {split} images")
    return RawData(
        modalities={"image": {k: train_images[v] for k, v in parts.items()} | {"test": test_images[test]}},
        kinds={"image": "image"},
        labels={k: train_labels[v] for k, v in parts.items()} | {"test": test_labels[test]},
        class_names=class_names,
        notes=notes,
    )


def source_files(args: dict, data_dir: Path | None) -> list[Path]:
    """The one file that `build` reads. Raises KdbenchError if it is not there, with the nearest names that are."""
    file = args.get("file", build.__kwdefaults__["file"])
    if data_dir is None and not Path(file).is_absolute():
        raise KdbenchError(f"npz: where is {file}? Set KDBENCH_DATA to the folder that holds it")
    path = Path(data_dir or "/", file)
    if path.is_file():
        return [path]
    there = sorted(p.name for p in path.parent.glob("*.npz"))
    near = difflib.get_close_matches(path.name, there, n=3, cutoff=0.4)
    hint = f"did you mean {' or '.join(near)}?" if near else f".npz files there: {', '.join(there) or 'none'}"
    raise KdbenchError(f"npz: no file {path.name} in {path.parent} (setting KDBENCH_DATA); {hint}")


def _first(labels: np.ndarray, limit: int | None, name: str, path: Path) -> np.ndarray:
    """A stratified choice of `limit` samples, in shuffled order; a larger limit contains a smaller one."""
    if limit is not None and not 0 < limit <= len(labels):
        raise KdbenchError(f"npz: {name} is {limit}, but {path} has {len(labels)} such images")
    return stratified_order(labels)[:limit]


def _read(path: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, list[str]]:
    """Checked arrays of the file: images (N, H, W, C), labels (N,) int64, of train and test; and the class names."""
    if not zipfile.is_zipfile(path):
        raise KdbenchError(f"npz: {path} is not a whole .npz file (cut off or of another kind); make it again")

    def get(name: str) -> np.ndarray:
        try:
            return arrays[name]
        except KeyError:
            raise KdbenchError(f"npz: {path} has no array {name}; it has {', '.join(arrays.files)}") from None
        except (ValueError, OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            raise KdbenchError(f"npz: {path}: array {name} cannot be read: {error}") from error

    with np.load(path, allow_pickle=False) as arrays:
        images = {split: _images(get(f"{split}_images"), f"{path}: {split}_images") for split in ("train", "test")}
        labels = {split: get(f"{split}_labels") for split in ("train", "test")}
        names = [str(name) for name in get("class_names").ravel()] if "class_names" in arrays.files else None
    if images["train"].shape[1:] != images["test"].shape[1:]:
        shapes = " and ".join(str(images[split].shape[1:]) for split in ("train", "test"))
        raise KdbenchError(f"npz: {path}: train_images and test_images are of different shapes, {shapes}")

    for split, values in labels.items():
        where = f"npz: {path}: {split}_labels"
        if values.dtype.kind not in "iu" or values.ndim != 1 or len(values) != len(images[split]):
            raise KdbenchError(f"{where} is {values.dtype} {values.shape}; wanted {len(images[split])} integers")
        names = names or [str(i) for i in range(int(values.max()) + 1)]
        outside = (values < 0) | (values >= len(names))
        if outside.any():
            raise KdbenchError(f"{where} holds {values[outside][0]}; {len(names)} classes are 0 to {len(names) - 1}")
        missing = sorted(set(range(len(names))) - set(np.unique(values).tolist()))
        if missing:
            raise KdbenchError(f"{where} has no sample of class {missing[0]} ({names[missing[0]]})")
    train_labels, test_labels = (labels[split].astype(np.int64) for split in ("train", "test"))
    return images["train"], train_labels, images["test"], test_labels, names


def _images(images: np.ndarray, where: str) -> np.ndarray:
    if images.ndim == 3:
        images = images[..., None]
    if images.dtype != np.uint8 or images.ndim != 4 or 0 in images.shape:
        raise KdbenchError(f"npz: {where} is {images.dtype} {images.shape}; wanted uint8 (N, H, W, C) or (N, H, W)")
    if images.shape[1] in (1, 3) and images.shape[3] not in (1, 3):
        raise KdbenchError(f"npz: {where} is {images.shape}, channels first; wanted (N, H, W, C)")
    return images
