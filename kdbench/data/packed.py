"""A packed data set: the only form that training reads."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from kdbench.data.pictures import INDEX, MEND, Pictures
from kdbench.errors import unknown
from kdbench.types import KdbenchError

FORMAT = 2
SPLITS = ("train", "val", "test")
TOKENS = "<i4"
"""Type of an array of tokens."""
SOURCE_FILES = "source_files.jsonl"


class Groups(NamedTuple):
    """Which test samples belong together."""

    word: str
    """What a group is, in the plural: "faces"."""
    names: list[str]
    codes: np.ndarray
    """int64 (N,), the position of each test sample's group in `names`."""

    @property
    def sizes(self) -> dict[str, int]:
        """Test samples of each group."""
        return dict(zip(self.names, np.bincount(self.codes).tolist(), strict=True))


@dataclass(frozen=True)
class Packed:
    """A data set on disk. Arrays are read-only memory maps: opening them costs nothing, jobs on one machine share them.

    `meta` holds name, source, args; class_names; counts {split: N}; modalities {name: {kind, shape [H, W, C], mean [C],
    std [C]}} with mean and std of the training split in units of 0..1 (a constant channel has std 1), and `stored:
    jpeg` where its arrays are indices of pictures (kdbench/data/pictures.py); of the kind `tokens` without mean and
    std, and with the size of the vocabulary for C; notes; anchors (kdbench/data/shallow.py);
    files {file: {sha256, shape}}, of shards {sha256, size}; sha256, the identity of the data; source_version, of the
    source's code; groups {word, names, sha256, shape}, where the source says which test samples belong together, with
    the checksum of an array that is no part of that identity; source_files, for sources that read files, a list of
    {file, size, mtime_ns, ctime_ns, sha256}, where `file` is the path below the folder that holds them all: for
    pictures it says split, class and name. Of pictures that stay JPEG it stands in a file of its own, one a line, since
    there may be a million.

    The shape is what networks read. Arrays may hold smaller images, which are enlarged to it on their way there.
    """

    folder: Path
    meta: dict[str, Any]

    def array(self, modality: str, split: str) -> np.ndarray:
        """uint8 (N, H, W, C), of tokens int32 (N, 1, L, 1). Raises KdbenchError for a modality or split that is not
        there, and for pictures that stay JPEG."""
        if self.is_jpeg(modality):
            raise KdbenchError(f"{self.folder}: {modality} is stored as JPEG and has no array of pixels")
        return self._open(modality, split)

    def pictures(self, modality: str, split: str) -> Pictures:
        """Of a modality that is stored as JPEG. Raises KdbenchError for a split that is not there."""
        size = self.meta["modalities"][modality]["shape"][0]
        return Pictures(self.folder, f"{modality}-{split}", self._open(modality, split), size)

    def is_jpeg(self, modality: str) -> bool:
        """Raises KdbenchError for a modality that is not there."""
        if modality not in self.meta["modalities"]:
            raise unknown("modality", modality, self.meta["modalities"], self.meta["name"])
        return self.meta["modalities"][modality].get("stored") == "jpeg"

    def source_files(self) -> Iterator[dict[str, Any]]:
        """What it was made of, file by file; nothing for sources without files. Raises KdbenchError where the
        list is damaged."""
        if "source_files" in self.meta:
            yield from self.meta["source_files"]
        else:
            path = self.folder / SOURCE_FILES
            try:
                with path.open(encoding="utf-8") as lines:
                    yield from map(json.loads, lines)
            except (OSError, ValueError) as error:
                raise _damaged(path, str(error)) from error

    def labels(self, split: str) -> np.ndarray:
        """int64 (N,). Raises KdbenchError for a split that is not there."""
        return self._open("labels", split)

    def groups(self) -> Groups | None:
        """None where the source does not tell them, or did not when the data were packed."""
        known = self.meta.get("groups")
        return Groups(known["word"], known["names"], self._open("groups", "test")) if known else None

    def _open(self, stem: str, split: str) -> np.ndarray:
        if split not in SPLITS:
            raise unknown("split", split, SPLITS, self.meta["name"])
        path = self.folder / f"{stem}-{split}.npy"
        try:
            return np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise _damaged(path, str(error)) from error


def load_packed(folder: Path, verify: bool = False) -> Packed:
    """Open a prepared data set; `verify` also compares the checksum of every array. Shards are looked at for their
    sizes only: their pictures have checksums of their own.

    Raises KdbenchError naming the file if meta.json, an array or a shard is missing, damaged or of another size.
    """
    meta_path = folder / "meta.json"
    try:
        meta = json.loads(meta_path.read_text(encoding="utf-8"))
        names = [(stem, split) for stem in ("labels", *meta["modalities"]) for split in SPLITS]
        expected = [(meta["files"][f"{stem}-{split}.npy"], stem, split) for stem, split in names]
        expected += [(meta["groups"], "groups", "test")] if "groups" in meta else []
        shards = {file: entry["size"] for file, entry in meta["files"].items() if file.endswith(".jpegs")}
        dtypes = {m: _dtype(facts) for m, facts in meta["modalities"].items()}
    except FileNotFoundError:
        raise KdbenchError(f"{meta_path} is missing: the data set was not packed completely; {_REBUILD}") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise _damaged(meta_path, f"not a whole data set's meta.json ({error!r})") from error
    packed = Packed(folder, meta)
    for entry, stem, split in expected:
        path, array = folder / f"{stem}-{split}.npy", packed._open(stem, split)
        dtype = dtypes.get(stem, np.dtype(np.int64))
        if list(array.shape) != entry["shape"] or array.dtype != dtype:
            raise _damaged(path, f"it holds {array.dtype} {list(array.shape)}, not {dtype} {entry['shape']}")
        if path.stat().st_size != array.offset + array.nbytes:
            raise _damaged(path, "its length is not that of its array")
        if verify and array_sha256(array) != entry["sha256"]:
            raise _damaged(path, "its checksum is not the one in meta.json")
    for file, size in shards.items():
        if not (folder / file).is_file() or (folder / file).stat().st_size != size:
            raise KdbenchError(f"{folder / file} is not there with its {size:,} bytes; {MEND}")
    return packed


def _dtype(facts: dict[str, Any]) -> np.dtype:
    """Of the arrays of a modality."""
    if "stored" in facts:
        return INDEX
    return np.dtype(TOKENS if facts["kind"] == "tokens" else np.uint8)


_REBUILD = "delete the folder and run the same command again, it will be rebuilt"


def _damaged(path: Path, what: str) -> KdbenchError:
    return KdbenchError(f"{path} is damaged: {what}; {_REBUILD}")


def array_sha256(array: np.ndarray) -> str:
    """Of type, shape and content, so that it does not depend on how numpy writes headers."""
    digest = hashlib.sha256(f"{array.dtype.str} {array.shape}".encode())
    digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()
