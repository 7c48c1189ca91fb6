"""Packs picture files as shards of JPEG bytes (pictures.py says what lies in them), several at a time.

Each shard is written whole, and beside it a note of what it holds and was made of. By these a job that was killed goes
on from where it was, and one that finds a shard damaged or a picture changed packs no other anew.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import multiprocessing
import os
import threading
import zlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from kdbench.cpu import cores
from kdbench.data.labelled import list_faults
from kdbench.data.pictures import INDEX, SHARD, shard_file
from kdbench.data.raw import Files
from kdbench.data.sources.imagefolder import decode
from kdbench.files import atomic, read_json, sha256_file, write_json
from kdbench.types import KdbenchError

LAYOUT = 1
"""Of shards; those of another one are packed anew."""
QUALITY = 95
"""Of pictures that are not kept as they are; their colours are not subsampled."""
_ORIENTATION = 0x0112


@dataclass(frozen=True)
class Written:
    """What was packed of one split."""

    index: np.ndarray
    """(N,) of dtype INDEX."""
    files: dict[str, dict[str, Any]]
    """{shard: {sha256, size}}."""
    histogram: np.ndarray
    """(3, 256): how often each value occurs."""
    digests: list[bytes]
    """Of the packed bytes of each picture."""
    sources: dict[Path, str]
    """{file: its sha256}."""
    remarks: dict[str, list[str]]


@dataclass(frozen=True)
class _Task:
    folder: Path
    file: str
    pictures: Files

    @property
    def note(self) -> Path:
        return (self.folder / self.file).with_suffix(".json")

    @property
    def made_of(self) -> str:
        """Hash of all that the shard depends on, files by size and time."""
        states = [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in self.pictures.paths]
        said = (LAYOUT, QUALITY, self.pictures.short_side, self.pictures.ground, states)
        return hashlib.sha256(repr(said).encode()).hexdigest()


def write_shards(folder: Path, stem: str, pictures: Files, say: Callable[..., None]) -> Written:
    """Pack the pictures of one split, MODALITY-SPLIT, in their order; what was packed before is kept.

    say: called with a line for people after each shard. Raises KdbenchError that names the files which cannot be used,
    when all others are packed.
    """
    starts = range(0, len(pictures), SHARD)
    parts = (pictures[np.arange(start, min(start + SHARD, len(pictures)))] for start in starts)
    tasks = [_Task(folder, shard_file(stem, number), part) for number, part in enumerate(parts)]
    faults: dict[str, list[str]] = {}
    for done, found in enumerate(_each(_write_shard, tasks), start=1):
        for what, names in found.items():
            faults.setdefault(what, []).extend(names)
        say(f"{stem}: {min(done * SHARD, len(pictures)):,} of {len(pictures):,} pictures", final=done == len(tasks))
    if faults:
        raise KdbenchError(list_faults(faults))
    notes = [read_json(task.note) for task in tasks]
    remarks: dict[str, list[str]] = {}
    for note in notes:
        for what, names in note["remarks"].items():
            remarks.setdefault(what, []).extend(names)
    rows = [tuple(row) for note in notes for row in note["index"]]
    return Written(
        index=np.array(rows, INDEX),
        files={task.file: {k: note[k] for k in ("sha256", "size")} for task, note in zip(tasks, notes, strict=True)},
        histogram=sum(np.array(note["histogram"]) for note in notes),
        digests=[bytes.fromhex(digest) for note in notes for digest in note["digests"]],
        sources=dict(zip(pictures.paths, (s for note in notes for s in note["sources"]), strict=True)),
        remarks=remarks,
    )


def sweep(folder: Path, keep: Iterable[str]) -> None:
    """Remove all shards but those to keep, and their notes."""
    for path in set(folder.glob("*.jpegs")) - {folder / name for name in keep}:
        path.unlink()
        path.with_suffix(".json").unlink(missing_ok=True)


def _each(work: Callable[[_Task], Any], tasks: list[_Task]) -> Iterator[Any]:
    """What `work` gives of each task, on all cores of this process, as it comes."""
    processes = min(cores(), len(tasks))
    if processes < 2:
        yield from map(work, tasks)
        return
    # Spawned, since the parent may have threads of torch, which a fork does not survive.
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, spawn, initializer=_end_with_parent) as pool:
        try:
            for finished in as_completed([pool.submit(work, task) for task in tasks]):
                yield finished.result()
        except BrokenProcessPool:
            raise KdbenchError(
                "a process that packed pictures was ended (for want of memory?); run it again, finished shards are kept"
            ) from None
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _end_with_parent() -> None:
    """A pool's process would wait for work for ever where its parent was killed."""

    def wait() -> None:
        multiprocessing.parent_process().join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def _write_shard(task: _Task) -> dict[str, list[str]]:
    """Write one shard and its note, unless they are there; {what is wrong with some files: their names}."""
    path, made_of = task.folder / task.file, task.made_of
    with contextlib.suppress(KdbenchError):
        note = read_json(task.note, "made_of", "sha256")
        if note["made_of"] == made_of and path.exists() and sha256_file(path) == note["sha256"]:
            return {}
    index, digests, sources, offset = [], [], [], 0
    histogram = np.zeros((3, 256), np.int64)
    remarks: dict[str, list[str]] = {}
    faults: dict[str, list[str]] = {}
    with io.BytesIO() as shard:
        for source, name in zip(task.pictures.paths, task.pictures.names, strict=True):
            try:
                content, picture, said = _stored(source, task.pictures)
            except KdbenchError as error:
                faults.setdefault(str(error), []).append(name)
                continue
            for remark in said:
                remarks.setdefault(remark, []).append(name)
            shard.write(content)
            index.append((offset, len(content), zlib.crc32(content), picture.height, picture.width))
            offset += len(content)
            digests.append(hashlib.blake2b(content, digest_size=16).hexdigest())
            sources.append(sha256_file(source))
            histogram += np.array(picture.histogram()).reshape(3, 256)
        if faults:
            return faults
        with atomic(path) as file:
            file.write(shard.getbuffer())
    write_json(
        task.note,
        {
            "made_of": made_of,
            "sha256": sha256_file(path),
            "size": offset,
            "index": index,
            "histogram": histogram.tolist(),
            "digests": digests,
            "sources": sources,
            "remarks": remarks,
        },
    )
    return {}


def _stored(path: Path, pictures: Files) -> tuple[bytes, Image.Image, list[str]]:
    """The JPEG bytes that are packed of a file, what they decode to, and what was done to it.

    A JPEG that is upright, RGB or grey, and not too large is kept as it is: made anew, it would lose.
    """
    picture, remarks = decode(path, pictures.ground)
    large = pictures.short_side is not None and min(picture.size) > pictures.short_side
    with Image.open(path) as file:
        plain = file.format == "JPEG" and file.mode in ("RGB", "L") and file.getexif().get(_ORIENTATION, 1) == 1
    if plain and not large:
        return path.read_bytes(), picture, remarks
    if large:
        scale = pictures.short_side / min(picture.size)
        picture = picture.resize([max(round(side * scale), 1) for side in picture.size], Image.Resampling.BICUBIC)
    with io.BytesIO() as content:
        picture.save(content, "JPEG", quality=QUALITY, subsampling=0)
        content.seek(0)
        made = Image.open(content, formats=("JPEG",)).convert("RGB")
        return content.getvalue(), made, remarks
