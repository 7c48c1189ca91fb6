"""A labelled image set as it was found, and the way from there to the three splits: for all sources with files."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np

from kdbench.data.raw import RawData, SourceMissing, stratified_order
from kdbench.types import KdbenchError

NAMED = 10
"""So many images that cannot be used are named at once."""


class Images(Protocol):
    """An array uint8 (N, H, W, C), or what gives the images at an array of positions (n,) when it is asked.

    Then it also fills `remarks` and `faults` of its Labelled, and gives zeros for an image with a fault.
    """

    @property
    def shape(self) -> tuple[int, ...]: ...

    def __getitem__(self, index: np.ndarray) -> np.ndarray: ...


@dataclass
class Labelled:
    """Splits are `train`, `test` and, where the set has one of its own, `val`; their order does not matter."""

    where: str
    """How errors begin: the source, and its file or folder."""
    images: dict[str, Images]
    labels: dict[str, np.ndarray]
    """Split -> int64 (N,), positions in `class_names`."""
    class_names: list[str]
    notes: list[str] = field(default_factory=list)
    """What a table should tell its reader."""
    names: dict[str, list[str]] = field(default_factory=dict)
    """Split -> what the source calls its images, (N,); else they go by their positions."""
    remarks: dict[str, list[str]] = field(default_factory=dict)
    """What was done to some of the images -> their names."""
    faults: dict[str, list[str]] = field(default_factory=dict)
    """What is wrong with some of the images, so that they cannot be used -> their names."""

    def name(self, part: str, index: int) -> str:
        return self.names[part][index] if self.names else f"{part} image {index}"


def locate(source: str, name: str, data_dir: Path | None) -> Path:
    """The path of that name, in `data_dir` unless absolute. Raises SourceMissing if it needs one and there is none."""
    if data_dir is None and not Path(os.path.expanduser(name)).is_absolute():
        raise SourceMissing(f"{source}: where is {name}? Set KDBENCH_DATA to the folder that holds it")
    return Path(data_dir or "/", Path(os.path.expanduser(name)))


def check_files(where: str, folder: Path, paths: Iterable[Path]) -> None:
    """Raises SourceMissing if the folder is not there, and KdbenchError that lists files which it lacks."""
    if not folder.is_dir():
        raise SourceMissing(
            f"{where}: no folder {folder.name} in {folder.parent}; `kdbench show data` says what it holds"
        )
    missing = sorted(path.relative_to(folder).as_posix() for path in paths if not path.is_file())
    if missing:
        files = f"{len(missing):,} file{'s' if len(missing) > 1 else ''}"
        more = f" and {len(missing) - NAMED:,} more" if len(missing) > NAMED else ""
        raise KdbenchError(f"{where}: {folder} lacks {files}: {', '.join(missing[:NAMED])}{more}")


def split(found: Labelled, limit: int | None, test_limit: int | None, val_share: float) -> RawData:
    """Modality `image`, uint8 (N, H, W, C), shuffled and stratified in a fixed way.

    limit: take this many training images, before the validation images are split off them; test_limit: this many test
    images; both None for all. val_share: share of the training images that become validation images, unless the set
    has some of its own. Raises KdbenchError that names the class a split has no image of, the number out of range, or
    the images that cannot be used.
    """
    if len(found.class_names) < 2:
        raise KdbenchError(f"{found.where}: {len(found.class_names)} class; at least two are needed")
    for name, labels in found.labels.items():
        if missing := _missing(found, labels):
            raise KdbenchError(f"{found.where}: no {name} image of class {missing}")
    parts = {"train": _first(found, "train", limit, "limit"), "test": _first(found, "test", test_limit, "test_limit")}
    notes = [*found.notes]
    for name, words in (("train", "training"), ("test", "test")):
        total = len(found.labels[name])
        if len(parts[name]) < total:
            notes.append(f"{len(parts[name]):,} of {total:,} {words} images")

    origin = {"train": "train", "val": "val" if "val" in found.labels else "train", "test": "test"}
    if origin["val"] == "val":
        parts["val"] = _first(found, "val", None, "")
    else:
        parts["val"], parts["train"] = _cut(found, parts["train"], val_share)
    labels = {name: found.labels[source][parts[name]] for name, source in origin.items()}
    if missing := _missing(found, labels["train"]):
        size, classes = len(labels["train"]), len(found.class_names)
        raise KdbenchError(
            f"{found.where}: {size} training images do not cover all {classes} classes: none of {missing}"
        )
    for name, words in (("val", "validation"), ("test", "test")):
        if missing := _missing(found, labels[name]):
            notes.append(f"no {words} image of class {missing}")
    images = {name: found.images[source][parts[name]] for name, source in origin.items()}
    if found.faults:
        raise KdbenchError(f"{found.where}: {list_faults(found.faults)}")
    notes += list_remarks(found.remarks)
    return RawData(
        modalities={"image": images},
        kinds={"image": "image"},
        labels=labels,
        class_names=found.class_names,
        notes=notes,
        names={name: [found.name(source, i) for i in parts[name]] for name, source in origin.items()},
    )


def list_remarks(remarks: dict[str, list[str]]) -> list[str]:
    """A note on each thing that was done to some of the images."""
    return [f"{what}: {len(names):,} (such as {min(names)})" for what, names in remarks.items()]


def list_faults(faults: dict[str, list[str]], what: str = "image") -> str:
    """The images that cannot be used, NAMED of them by name, and why; what: a word for one of them."""
    left, listed = NAMED, []
    for fault, names in faults.items():
        if some := sorted(names)[:left]:
            listed.append(f"{', '.join(some)} ({fault})")
            left -= len(some)
    count = sum(len(names) for names in faults.values())
    more = f"; and {count - NAMED:,} more" if count > NAMED else ""
    return f"{count:,} {what}{'s' if count > 1 else ''} cannot be used: {'; '.join(listed)}{more}"


def _first(found: Labelled, name: str, limit: int | None, key: str) -> np.ndarray:
    """A stratified choice of `limit` samples, in shuffled order; a larger limit contains a smaller one."""
    labels = found.labels[name]
    if limit is not None and not 0 < limit <= len(labels):
        raise KdbenchError(f"{found.where}: {key} is {limit}, but there are {len(labels)} such images")
    return stratified_order(labels)[:limit]


def _cut(found: Labelled, train: np.ndarray, val_share: float) -> tuple[np.ndarray, np.ndarray]:
    """The chosen training samples -> those for validation, the rest."""
    if not 0 < val_share < 1:
        raise KdbenchError(f"{found.where}: val_share is {val_share}; expected a share between 0 and 1, such as 0.1")
    count = round(val_share * len(train))
    if not 0 < count < len(train):
        raise KdbenchError(
            f"{found.where}: val_share {val_share} of {len(train)} training images leaves one split empty"
        )
    return train[:count], train[count:]


def _missing(found: Labelled, labels: np.ndarray) -> str:
    """Names of the classes without a sample: the first, and how many more; empty where there is none."""
    missing = sorted(set(range(len(found.class_names))) - set(labels.tolist()))
    more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
    return f"{found.class_names[missing[0]]}{more}" if missing else ""
