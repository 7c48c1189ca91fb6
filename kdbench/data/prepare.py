"""The packed form that every data source ends in, and the only one that training reads.

A source is one file of this folder with a function `build(*, keyword: type = default, ..., data_dir=None) -> RawData`;
keywords are annotated and their defaults are literals, so that a suite is checked from the source text alone. A source
that can draw other training and validation samples, as a rule for the same test set, has an int argument `draw`, 0 by
default. One that reads files also has `source_files(args, data_dir) -> list[Path]`, which raises SourceMissing where
they are not there. `prepare` turns what it built into a folder:

    MODALITY-SPLIT.npy           uint8 (N, H, W, C), or int32 (N, 1, L, 1) of tokens: one for each modality and split
    labels-SPLIT.npy             int64 (N,)
    groups-test.npy              int64 (N,), where the source says which test samples belong together
    meta.json                    what is in the folder, with statistics and hashes

or, where a source has a constant DECODER and its pictures stay JPEG (shards.py), of these modalities

    MODALITY-SPLIT.npy           where each picture lies
    MODALITY-SPLIT-00000.jpegs   pictures, and MODALITY-SPLIT-00000.json, what they were made of
    source_files.jsonl           all files that were read

meta.json is removed before anything is written and is put back last, so it is the commit: a folder without it is no
data set, whatever a killed process has left in it.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from filelock import FileLock

from kdbench.data.labelled import list_remarks
from kdbench.data.packed import FORMAT, SOURCE_FILES, SPLITS, TOKENS, Packed, array_sha256, load_packed
from kdbench.data.pictures import Pictures
from kdbench.data.raw import FEWEST_TEST, Files, RawData, SourceMissing
from kdbench.data.shards import sweep, write_shards
from kdbench.errors import unknown
from kdbench.files import sha256_file
from kdbench.plan.keys import version_of
from kdbench.plan.registry import changed_args, source_names
from kdbench.types import DataSpec, KdbenchError


def prepare_data(
    spec: DataSpec, folder: Path, data_dir: Path | None = None, say: Callable[..., None] = lambda *_, **__: None
) -> Packed:
    """Build a data set and write it to `folder`, or return what is there if it is what would be built.

    "What would be built" means: same name, source and arguments, same code of the source, same source files (by path,
    and by size and modification time or else by content). Where the source files are not on this machine, what is there
    is taken as it is if the rest is the same. Two processes that ask at once build once. say: called with a line for
    people where packing takes its time. Raises KdbenchError if the source is unknown, its files are missing or faulty,
    or the folder cannot be written.
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
            seen = {path: _file_state(name, path) for name, path in files.items()}
            if not hasattr(module, "DECODER"):  # such a source reads its files when they are packed
                seen = {path: state | {"sha256": sha256_file(path)} for path, state in seen.items()}
            raw = module.build(**spec.args, data_dir=data_dir)
            _check(spec, raw)
            _write(spec, folder, raw, identity, seen, say)
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
    """[{file, size, mtime_ns, ctime_ns}] of what a data set is built from, not read; of the source's `source_marks`
    instead, where it has that. Raises as `source_files`."""
    marks = getattr(_source(spec.source), "source_marks", None)
    try:
        if marks:
            return [_file_state(path.as_posix(), path) for path in marks(spec.args, data_dir)]
        return [_file_state(name, path) for name, path in source_files(spec, folder, data_dir).items()]
    except SourceMissing:
        if (folder / "meta.json").exists():
            return []
        raise
    except OSError as error:
        raise KdbenchError(f"data set {spec.name!r}: cannot read {error.filename}: {error.strerror}") from error


@dataclass(frozen=True)
class _Stored:
    """One modality as it was written."""

    images: dict[str, np.ndarray | Pictures]
    """{split: what gives its images at an array of positions}."""
    files: dict[str, dict[str, Any]]
    histogram: np.ndarray | None
    """(C, 256): how often each value occurs in training images; None of tokens."""
    digests: dict[str, list[bytes]]
    """{split: one of each sample}."""
    notes: list[str] = field(default_factory=list)
    sources: dict[Path, str] = field(default_factory=dict)
    """{file that was read: its sha256}."""


def _write(
    spec: DataSpec,
    folder: Path,
    raw: RawData,
    identity: dict[str, Any],
    seen: dict[Path, dict[str, Any]],
    say: Callable[..., None],
) -> None:
    # Here, since shallow.py uses this file and scikit-learn takes its time.
    from kdbench.data.shallow import anchors

    (folder / "meta.json").unlink(missing_ok=True)
    files = _write_arrays(folder, "labels", {split: raw.labels[split].astype("<i8") for split in SPLITS})
    stored, modalities = {}, {}
    for name, splits in raw.modalities.items():
        pictures = isinstance(splits["train"], Files)
        try:
            found = (_write_pictures if pictures else _write_arrays_of)(folder, name, splits, say)
        except KdbenchError as error:
            raise KdbenchError(f"data set {spec.name!r}: {error}") from None
        stored[name], (height, width, channels) = found, splits["train"].shape[1:]
        shape = [raw.sizes.get(name, height), raw.sizes.get(name, width), raw.vocabularies.get(name, channels)]
        facts = {"kind": raw.kinds[name], "shape": shape}
        if found.histogram is not None:
            facts["mean"], facts["std"] = _statistics(found.histogram)
        modalities[name] = facts | ({"stored": "jpeg"} if pictures else {})
        files |= found.files
    sweep(folder, files)
    hashes = "".join(f"{file} {files[file]['sha256']}\n" for file in sorted(files))
    sums = {path: sha256 for found in stored.values() for path, sha256 in found.sources.items()}
    for path, state in seen.items():
        if "sha256" not in state:
            state["sha256"] = sums.get(path) or sha256_file(path)
    if sums:
        lines = "".join(json.dumps(state, ensure_ascii=False) + "\n" for state in seen.values())
        _replace(folder / SOURCE_FILES, lambda stream: stream.write(lines.encode("utf-8")))
    else:
        identity = identity | {"source_files": list(seen.values())}
    meta = identity | {
        "sha256": hashlib.sha256(hashes.encode()).hexdigest(),
        "class_names": raw.class_names,
        "counts": {split: len(raw.labels[split]) for split in SPLITS},
        "modalities": modalities,
        "notes": [
            *raw.notes,
            *(note for found in stored.values() for note in found.notes),
            *_likeness(raw, {name: found.digests for name, found in stored.items()}),
        ],
        "anchors": anchors({name: found.images for name, found in stored.items()}, raw.labels, raw.vocabularies),
        "files": files,
        **_write_groups(folder, raw),
    }
    text = json.dumps(meta, indent=1, ensure_ascii=False) + "\n"
    _replace(folder / "meta.json", lambda stream: stream.write(text.encode("utf-8")))


def _write_arrays(folder: Path, stem: str, splits: dict[str, np.ndarray]) -> dict[str, dict[str, Any]]:
    """{file: {sha256, shape}} of an array for each split."""
    files = {}
    for split, array in splits.items():
        file = f"{stem}-{split}.npy"
        _replace(folder / file, lambda stream, array=array: np.save(stream, array, allow_pickle=False))
        files[file] = {"sha256": array_sha256(array), "shape": list(array.shape)}
    return files


def _write_arrays_of(folder: Path, name: str, splits: dict[str, np.ndarray], say: Callable[..., None]) -> _Stored:
    """Images or tokens."""
    digests = {
        split: [hashlib.blake2b(sample.tobytes(), digest_size=16).digest() for sample in splits[split]]
        for split in SPLITS
    }
    histogram = _histogram(splits["train"]) if splits["train"].dtype == np.uint8 else None
    return _Stored(splits, _write_arrays(folder, name, splits), histogram, digests)


def _write_pictures(folder: Path, name: str, splits: dict[str, Files], say: Callable[..., None]) -> _Stored:
    found = {split: write_shards(folder, f"{name}-{split}", splits[split], say) for split in SPLITS}
    indices = {split: written.index for split, written in found.items()}
    files = _write_arrays(folder, name, indices)
    remarks: dict[str, list[str]] = {}
    for written in found.values():
        files |= written.files
        for what, names in written.remarks.items():
            remarks.setdefault(what, []).extend(names)
    return _Stored(
        images={s: Pictures(folder, f"{name}-{s}", index, splits[s].size) for s, index in indices.items()},
        files=files,
        histogram=found["train"].histogram,
        digests={split: written.digests for split, written in found.items()},
        notes=list_remarks(remarks),
        sources={path: sha256 for written in found.values() for path, sha256 in written.sources.items()},
    )


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
    try:
        seen = list(packed.source_files()) if files else []
    except KdbenchError:
        return None
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


def _histogram(images: np.ndarray) -> np.ndarray:
    """(C, 256): how often each value occurs in images (N, H, W, C)."""
    counts = np.zeros((images.shape[-1], 256), dtype=np.int64)
    for start in range(0, len(images), 1000):
        for channel, values in enumerate(np.moveaxis(images[start : start + 1000], -1, 0)):
            counts[channel] += np.bincount(values.ravel(), minlength=256)
    return counts


def _statistics(histogram: np.ndarray) -> tuple[list[float], list[float]]:
    """Mean and deviation of each channel, in units of 0..1; exact whatever the number of images."""
    share = histogram / histogram.sum(axis=1, keepdims=True)
    values = np.arange(256) / 255
    mean = share @ values
    std = np.sqrt((share * (values - mean[:, None]) ** 2).sum(axis=1))
    return mean.tolist(), np.where(std > 1e-9, std, 1.0).tolist()


def _likeness(raw: RawData, digests: dict[str, dict[str, list[bytes]]]) -> list[str]:
    """Notes on a modality that is the same in all samples of a split, and on samples that are there twice; digests:
    {modality: {split: one of each sample}}."""
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
            if not isinstance(array, Files):
                wanted = TOKENS if raw.kinds[name] == "tokens" else np.uint8
                require(array.dtype == wanted and array.ndim == 4, f"{name} {split}: {array.dtype} {array.shape}")
            require(array.shape[1:] == shape, f"{name} {split}: {array.shape[1:]}, but train {shape}")
            require(len(array) == len(labels), f"{name} {split}: {len(array)} samples for {len(labels)} labels")
            kinds = ("image", "spectrogram", "sequence", "tokens")
            require(raw.kinds[name] in kinds, f"{name}: kind {raw.kinds[name]!r}")
            if raw.kinds[name] == "tokens":
                in_range = array.min() >= 0 and array.max() < raw.vocabularies[name]
                require(in_range, f"{name} {split}: {array.min()} to {array.max()}, of {raw.vocabularies[name]} tokens")
    require(
        len(raw.labels["test"]) >= FEWEST_TEST,
        f"the test split has {len(raw.labels['test'])} samples; similarities (CKA) take at least {FEWEST_TEST}",
    )
    if raw.groups is not None:
        grouped, samples = len(raw.groups[1]), len(raw.labels["test"])
        require(grouped == samples, f"groups of {grouped} test samples, and there are {samples}")
    missing = sorted(set(range(len(raw.class_names))) - set(raw.labels["train"].tolist()))
    require(not missing, f"classes without a training sample: {', '.join(raw.class_names[i] for i in missing[:5])}")
