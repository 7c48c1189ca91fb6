"""The packed form that every data source ends in, and the only one that training reads.

A source is one file of this folder with a function `build(*, keyword: type = default, ..., data_dir=None) -> RawData`;
keywords are annotated and their defaults are literals, so that a suite is checked from the source text alone. A source
that can draw other training and validation samples for the same test set has an int argument `draw`, 0 by default. One
that reads files also has `source_files(args, data_dir) -> list[Path]`, which raises SourceMissing where they are not
there. `prepare` turns what it built into a folder:

    MODALITY-SPLIT.npy     uint8 (N, H, W, C), one for each modality and split
    labels-SPLIT.npy       int64 (N,)
    groups-test.npy        int64 (N,), where the source says which test samples belong together
    meta.json              what is in the folder, with statistics and hashes

meta.json is removed before anything is written and is put back last, so it is the commit: a folder without it is no
data set, whatever a killed process has left in it.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import os
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from filelock import FileLock

from kdbench.data.packed import FORMAT, SPLITS, Packed, array_sha256, load_packed
from kdbench.data.raw import FEWEST_TEST, RawData, SourceMissing
from kdbench.errors import unknown
from kdbench.files import sha256_file
from kdbench.plan.keys import version_of
from kdbench.plan.registry import changed_args, source_names
from kdbench.types import DataSpec, KdbenchError


def prepare_data(spec: DataSpec, folder: Path, data_dir: Path | None = None) -> Packed:
    """Build a data set and write it to `folder`, or return what is there if it is what would be built.

    "What would be built" means: same name, source and arguments, same code of the source, same source files (by path,
    and by size and modification time or else by content). Where the source files are not on this machine, what is there
    is taken as it is if the rest is the same. Two processes that ask at once build once. Raises KdbenchError if the
    source is unknown, its files are missing or faulty, or the folder cannot be written.
    """
    module = _source(spec.source)
    files = source_files(spec, folder, data_dir)
    identity = {
        "format": FORMAT,
        "name": spec.name,
        "source": spec.source,
        "args": json.loads(json.dumps(changed_args(spec.source, spec.args))),
        "source_version": version_of(f"source {spec.source}"),
    }
    try:
        # First without the lock: a finished data set on a read-only disk needs none.
        if packed := _current(folder, identity, files):
            return packed
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / ".lock"):
            if packed := _current(folder, identity, files):
                return packed
            seen = [_file_state(name, path) | {"sha256": sha256_file(path)} for name, path in files.items()]
            raw = module.build(**spec.args, data_dir=data_dir)
            _check(spec, raw)
            _write(folder, raw, identity, seen)
    except OSError as error:
        place = error.filename or folder
        raise KdbenchError(
            f"data set {spec.name!r}: cannot read or write {place}: {error.strerror or error}"
        ) from error
    return load_packed(folder)


def source_files(spec: DataSpec, folder: Path, data_dir: Path | None) -> dict[str, Path]:
    """{path below the folder that holds them all: file} of what a data set is built from; {} for sources without files.

    Also {} where the files are not on this machine but `folder` holds the packed data set. Raises KdbenchError where
    neither is there, or the files are faulty.
    """
    module = _source(spec.source)
    try:
        files = module.source_files(spec.args, data_dir) if hasattr(module, "source_files") else []
    except SourceMissing:
        if (folder / "meta.json").exists():
            return {}
        raise
    root = os.path.commonpath([path.parent for path in files]) if files else ""
    return {path.relative_to(root).as_posix(): path for path in files}


def source_state(spec: DataSpec, folder: Path, data_dir: Path | None) -> list[dict[str, Any]]:
    """[{file, size, mtime_ns, ctime_ns}] of what a data set is built from, not read. Raises as `source_files`."""
    try:
        return [_file_state(name, path) for name, path in source_files(spec, folder, data_dir).items()]
    except OSError as error:
        raise KdbenchError(f"data set {spec.name!r}: cannot read {error.filename}: {error.strerror}") from error


def _write(folder: Path, raw: RawData, identity: dict[str, Any], seen: list[dict[str, Any]]) -> None:
    # Here, since anchors.py uses this file and scikit-learn takes its time.
    from kdbench.data.shallow import anchors

    arrays = {f"labels-{split}.npy": raw.labels[split].astype("<i8") for split in SPLITS}
    arrays |= {f"{name}-{split}.npy": raw.modalities[name][split] for name in raw.modalities for split in SPLITS}
    (folder / "meta.json").unlink(missing_ok=True)
    for file, array in arrays.items():
        _replace(folder / file, lambda stream, array=array: np.save(stream, array, allow_pickle=False))
    files = {file: {"sha256": array_sha256(array), "shape": list(array.shape)} for file, array in arrays.items()}

    modalities = {}
    for name, splits in raw.modalities.items():
        mean, std = _mean_std(splits["train"])
        shape = list(splits["train"].shape[1:])
        modalities[name] = {"kind": raw.kinds[name], "shape": shape, "mean": mean, "std": std}
    hashes = "".join(f"{file} {files[file]['sha256']}\n" for file in sorted(files))
    meta = identity | {
        "source_files": seen,
        "sha256": hashlib.sha256(hashes.encode()).hexdigest(),
        "class_names": raw.class_names,
        "counts": {split: len(raw.labels[split]) for split in SPLITS},
        "modalities": modalities,
        "notes": raw.notes + _likeness(raw),
        "anchors": anchors(raw.modalities, raw.labels),
        "files": files,
        **_write_groups(folder, raw),
    }
    text = json.dumps(meta, indent=1, ensure_ascii=False) + "\n"
    _replace(folder / "meta.json", lambda stream: stream.write(text.encode("utf-8")))


def _write_groups(folder: Path, raw: RawData) -> dict[str, Any]:
    """Write the groups of the test samples; what meta.json says of them."""
    if raw.groups is None:
        return {}
    word, of_samples = raw.groups
    names, codes = np.unique(of_samples, return_inverse=True)
    codes = codes.astype("<i8")
    _replace(folder / "groups-test.npy", lambda stream: np.save(stream, codes, allow_pickle=False))
    return {
        "groups": {"word": word, "names": names.tolist(), "sha256": array_sha256(codes), "shape": list(codes.shape)}
    }


def _replace(path: Path, write: Any) -> None:
    """Write a file whole or not at all."""
    temporary = path.with_name(path.name + ".tmp")
    try:
        with open(temporary, "wb") as stream:
            write(stream)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def _source(name: str) -> ModuleType:
    if name not in source_names():
        raise unknown("data source", name, source_names())
    return importlib.import_module(f"kdbench.data.sources.{name}")


def _current(folder: Path, identity: dict[str, Any], files: dict[str, Path]) -> Packed | None:
    """What lies in the folder, if it is whole and has this identity."""
    try:
        packed = load_packed(folder)
    except KdbenchError:
        return None
    if any(packed.meta.get(key) != value for key, value in identity.items()):
        return None
    # Without files, because the source has none or because they are on another machine, there is nothing to hold it to.
    seen = packed.meta.get("source_files", []) if files else []
    same = [entry["file"] for entry in seen] == list(files)
    return packed if same and all(_same_file(entry, files[entry["file"]]) for entry in seen) else None


def _same_file(seen: dict[str, Any], path: Path) -> bool:
    stat = path.stat()
    if stat.st_size != seen["size"]:
        return False
    # Two files of one size and time may change places; the change of their names shows in ctime.
    unchanged = (stat.st_mtime_ns, stat.st_ctime_ns) == (seen["mtime_ns"], seen["ctime_ns"])
    return unchanged or sha256_file(path) == seen["sha256"]


def _file_state(name: str, path: Path) -> dict[str, Any]:
    stat = path.stat()
    return {"file": name, "size": stat.st_size, "mtime_ns": stat.st_mtime_ns, "ctime_ns": stat.st_ctime_ns}


def _mean_std(images: np.ndarray) -> tuple[list[float], list[float]]:
    """Of each channel, in units of 0..1; exact whatever the number of images, since it counts the 256 values."""
    counts = np.zeros((images.shape[-1], 256), dtype=np.int64)
    for start in range(0, len(images), 1000):
        for channel, values in enumerate(np.moveaxis(images[start : start + 1000], -1, 0)):
            counts[channel] += np.bincount(values.ravel(), minlength=256)
    share = counts / counts.sum(axis=1, keepdims=True)
    values = np.arange(256) / 255
    mean = share @ values
    std = np.sqrt((share * (values - mean[:, None]) ** 2).sum(axis=1))
    return mean.tolist(), np.where(std > 1e-9, std, 1.0).tolist()


def _likeness(raw: RawData) -> list[str]:
    """Notes on a modality that is the same in all samples of a split, and on samples that are there twice."""
    digests = {
        name: {
            split: [hashlib.blake2b(sample.tobytes(), digest_size=16).digest() for sample in splits[split]]
            for split in SPLITS
        }
        for name, splits in raw.modalities.items()
    }
    notes = [
        f"{name} is the same in all {len(found[split]):,} {split} samples"
        for name, found in digests.items()
        for split in SPLITS
        if len(found[split]) > 1 and len(set(found[split])) == 1
    ]
    # Samples are repeats where all modalities are.
    samples = {split: list(zip(*(found[split] for found in digests.values()), strict=True)) for split in SPLITS}

    def name(split: str, index: int) -> str:
        return raw.names[split][index] if raw.names else f"{split} sample {index}"

    for later, split in enumerate(SPLITS):
        for earlier in SPLITS[: later + 1]:
            first: dict[tuple, int] = {}
            for i, sample in enumerate(samples[earlier]):
                first.setdefault(sample, i)
            pairs = [(i, first[s]) for i, s in enumerate(samples[split]) if s in first]
            if pairs := [(i, j) for i, j in pairs if (split, i) != (earlier, j)]:
                what = "repeat another" if earlier == split else f"are in {earlier} too"
                differ = sum(raw.labels[split][i] != raw.labels[earlier][j] for i, j in pairs)
                labels = f", {differ:,} with another label" if differ else ""
                i, j = pairs[0]
                notes.append(
                    f"{split} samples that {what}: {len(pairs):,} of {len(samples[split]):,}{labels} "
                    f"(such as {name(split, i)}: {name(earlier, j)})"
                )
    return notes


def _check(spec: DataSpec, raw: RawData) -> None:
    """Hold a source to the contract, so that a new one fails here and not in the middle of training."""

    def require(truth: bool, what: str) -> None:
        if not truth:
            raise KdbenchError(f"data set {spec.name!r} (source {spec.source}): {what}")

    require(set(raw.kinds) == set(raw.modalities), f"kinds {sorted(raw.kinds)}, modalities {sorted(raw.modalities)}")
    for part in (raw.labels, *raw.modalities.values()):
        require(set(part) == set(SPLITS), f"splits {sorted(part)}, wanted {', '.join(SPLITS)}")
    for split in SPLITS:
        labels = raw.labels[split]
        require(len(labels) > 0, f"the {split} split is empty")
        in_range = labels.min() >= 0 and labels.max() < len(raw.class_names)
        require(in_range, f"{split} labels run from {labels.min()} to {labels.max()}, classes: {len(raw.class_names)}")
        for name, splits in raw.modalities.items():
            array, shape = splits[split], splits["train"].shape[1:]
            require(name not in ("labels", "groups") and "-" not in name, f"{name!r} cannot be a modality's name")
            require(array.dtype == np.uint8 and array.ndim == 4, f"{name} {split}: {array.dtype} {array.shape}")
            require(array.shape[1:] == shape, f"{name} {split}: {array.shape[1:]}, but train {shape}")
            require(len(array) == len(labels), f"{name} {split}: {len(array)} samples for {len(labels)} labels")
            require(raw.kinds[name] in ("image", "sequence"), f"{name}: kind {raw.kinds[name]!r}")
    require(
        len(raw.labels["test"]) >= FEWEST_TEST,
        f"the test split has {len(raw.labels['test'])} samples; similarities (CKA) take at least {FEWEST_TEST}",
    )
    if raw.groups is not None:
        grouped, samples = len(raw.groups[1]), len(raw.labels["test"])
        require(grouped == samples, f"groups of {grouped} test samples, and there are {samples}")
    missing = sorted(set(range(len(raw.class_names))) - set(raw.labels["train"].tolist()))
    require(not missing, f"classes without a training sample: {', '.join(raw.class_names[i] for i in missing[:5])}")
