"""A file of arrays: any labelled image set that fits into one .npz.

    train_images   uint8 (N, H, W, C) or (N, H, W)
    train_labels   integers (N,) or (N, 1), 0 .. classes - 1
    test_images, test_labels
    val_images, val_labels   may be absent: validation images are then split off the training images
    class_names    (classes,) text, may be absent

An array of another name is refused where the name says that it is part of a split (`valid_images`, `x_test`), and noted
otherwise. It is not read, and nothing in the file is ever unpickled.
"""

from __future__ import annotations

import difflib
import re
import zipfile
from pathlib import Path

import numpy as np

from kdbench.data.labelled import Labelled, locate, split
from kdbench.data.raw import RawData, SourceMissing
from kdbench.types import KdbenchError

NEEDED = ("train_images", "train_labels", "test_images", "test_labels")
OPTIONAL = ("val_images", "val_labels", "class_names")
_SPLITS = {"train", "training", "test", "testing", "val", "valid", "validation", "dev", "eval"}
_CONTENTS = {"x", "y", "data", "image", "images", "img", "imgs", "label", "labels", "target", "targets"}
"""Words that other people's names for such arrays are made of."""


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
    become validation images, where the file has none of its own. Raises KdbenchError, naming file and array, for
    whatever is wrong with either.
    """
    (path,) = source_files({"file": file}, data_dir)
    return split(read(path), limit, test_limit, val_share)


def source_files(args: dict, data_dir: Path | None) -> list[Path]:
    """The one file that `build` reads. Raises SourceMissing if it is not there, with the nearest names that are."""
    path = locate("npz", args.get("file", build.__kwdefaults__["file"]), data_dir)
    if path.is_file():
        return [path]
    there = sorted(p.name for p in path.parent.glob("*.npz"))
    near = difflib.get_close_matches(path.name, there, n=3, cutoff=0.4)
    hint = f"did you mean {' or '.join(near)}?" if near else f".npz files there: {', '.join(there) or 'none'}"
    raise SourceMissing(f"npz: no file {path.name} in {path.parent} (setting KDBENCH_DATA); {hint}")


def read(path: Path) -> Labelled:
    """Checked arrays of the file. Raises KdbenchError, naming file and array, for whatever is wrong with either."""
    if not zipfile.is_zipfile(path):
        raise KdbenchError(f"npz: {path} is not a complete .npz file (truncated, or another format); write it again")

    def get(name: str) -> np.ndarray:
        if name not in arrays.files:
            raise KdbenchError(f"npz: {path} has no array {name}; {_found(arrays.files)}")
        try:
            array = arrays[name]
        except Exception as error:  # numpy and zipfile fail on a damaged file in many ways
            raise KdbenchError(f"npz: {path}: array {name} cannot be read: {error}") from error
        if not isinstance(array, np.ndarray):
            raise KdbenchError(f"npz: {path}: array {name} cannot be read: it does not begin as numpy's arrays do")
        return array

    try:
        arrays = np.load(path, allow_pickle=False)
    except Exception as error:
        raise KdbenchError(f"npz: {path} is not a complete .npz file ({error}); write it again") from error
    if not isinstance(arrays, np.lib.npyio.NpzFile):
        raise KdbenchError(
            f"npz: {path} is not a complete .npz file (a single array, or another format); write it again"
        )
    with arrays:
        notes = _unread(path, arrays.files)
        parts = ("train", "val", "test") if {"val_images", "val_labels"} & set(arrays.files) else ("train", "test")
        images = {part: _images(get(f"{part}_images"), f"{path}: {part}_images") for part in parts}
        labels = {p: _labels(get(f"{p}_labels"), len(images[p]), f"npz: {path}: {p}_labels") for p in parts}
        names = None
        if "class_names" in arrays.files:
            names = _names(get("class_names"), len(images["train"]), f"{path}: class_names")
    for part in parts:
        shape, own = images["train"].shape[1:], images[part].shape[1:]
        if shape != own:
            raise KdbenchError(
                f"npz: {path}: train_images and {part}_images are of different shapes, {shape} and {own}"
            )

    for part, values in labels.items():
        where = f"npz: {path}: {part}_labels"
        if names is None:
            if int(values.max()) >= len(values):
                raise KdbenchError(f"{where} holds {values.max()}: {len(values)} images cannot have that many classes")
            names = [str(i) for i in range(int(values.max()) + 1)]
        outside = (values < 0) | (values >= len(names))
        if outside.any():
            raise KdbenchError(f"{where} holds {values[outside][0]}; {len(names)} classes are 0 to {len(names) - 1}")
    labels = {part: values.astype(np.int64) for part, values in labels.items()}
    return Labelled(f"npz: {path}", images, labels, names, notes)


def _found(files: list[str]) -> str:
    return f"it has {', '.join(files)}; expected {', '.join(NEEDED)} and, where there are some, {', '.join(OPTIONAL)}"


def _unread(path: Path, files: list[str]) -> list[str]:
    """A note on the arrays that nobody reads. Raises KdbenchError for one that by its name is part of a split."""
    unread = [name for name in files if name not in NEEDED + OPTIONAL]
    for name in unread:
        words = set(re.findall("[a-z]+", re.sub("(?<=[a-z])(?=[A-Z])", "_", name).lower()))
        if words & _SPLITS and words <= _SPLITS | _CONTENTS:
            raise KdbenchError(f"npz: {path}: array {name} is not read; {_found(files)}; rename it, or leave it out")
    more = f" and {len(unread) - 5} more" if len(unread) > 5 else ""
    return [f"arrays of {path.name} that are not read: {', '.join(unread[:5])}{more}"] if unread else []


def _labels(labels: np.ndarray, images: int, where: str) -> np.ndarray:
    """Integers (N,) of whatever width. Raises KdbenchError that says how to make them of what is there."""
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    wanted = f"{where} is {labels.dtype} {labels.shape}; expected {images} integers"
    if labels.ndim == 2 and labels.dtype.kind in "biuf" and len(labels) == images:
        if ((labels == 0) | (labels == 1)).all() and (labels.sum(axis=1) == 1).all():
            raise KdbenchError(f"{wanted}: these are one-hot, and labels.argmax(axis=1) makes integers of them")
        raise KdbenchError(f"{wanted}, one class an image")
    if labels.ndim == 1 and labels.dtype.kind in "bf":
        raise KdbenchError(f"{wanted}: labels.astype(int) makes them where the labels are whole numbers")
    if labels.ndim == 1 and labels.dtype.kind in "SU":
        raise KdbenchError(f"{wanted}: class_names, labels = numpy.unique(names, return_inverse=True) makes both")
    if labels.dtype.kind not in "iu" or labels.ndim != 1 or len(labels) != images:
        raise KdbenchError(wanted)
    return labels


def _names(array: np.ndarray, images: int, where: str) -> list[str]:
    if array.size > images:  # before they are counted out: an array of no width can have any number of them
        raise KdbenchError(f"npz: {where} holds {array.size} names, and there are {images} training images")
    try:
        names = [name.decode() if isinstance(name, bytes) else str(name) for name in array.ravel()]
        "".join(names).encode()
    except Exception:  # numpy fails on code points beyond Unicode in ways of its own
        raise KdbenchError(f"npz: {where} contains values that are not text (bytes are read as UTF-8)") from None
    return names


def _images(images: np.ndarray, where: str) -> np.ndarray:
    if images.ndim == 3:
        images = images[..., None]
    if images.dtype != np.uint8 or images.ndim != 4 or 0 in images.shape:
        raise KdbenchError(f"npz: {where} is {images.dtype} {images.shape}; expected uint8 (N, H, W, C) or (N, H, W)")
    if images.shape[1] in (1, 3) and images.shape[3] not in (1, 3):
        raise KdbenchError(f"npz: {where} is {images.shape}, channels first; expected (N, H, W, C)")
    return images
