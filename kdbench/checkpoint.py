"""Files that are whole or not there: atomic writes, and checkpoints that notice damage."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import glob
import hashlib
import io
import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any, BinaryIO

from kdbench.types import KdbenchError

_MAGIC = b"kdbench checkpoint 1\n"
_HALF = ".half"
AGAIN = "delete it and run again"
SEAL = "file_sha256"
"""Key of a JSON file's own checksum."""


@contextlib.contextmanager
def atomic(path: Path) -> Iterator[BinaryIO]:
    """A file to write bytes to that appears under `path` only once it is whole and on disk.

    Raises KdbenchError that names the place when the disk is full or may not be written; `path` is then as it was.
    What a killed process left of writing to `path` is removed.
    """
    temporary: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _sweep(path)
        with _half(path) as file:
            temporary = Path(file.name)
            yield file
            file.flush()
            os.fsync(file.fileno())
            # NamedTemporaryFile makes private files; a shared results folder wants the usual permissions.
            umask = os.umask(0)
            os.umask(umask)
            temporary.chmod(0o666 & ~umask)
            os.replace(temporary, path)
    except OSError as error:
        reasons = {
            errno.ENOSPC: "the disk is full",
            errno.EACCES: "no permission to write here",
            errno.EROFS: "read-only",
        }
        reason = reasons.get(error.errno, str(error))
        raise KdbenchError(f"cannot write {path}: {reason}; nothing was changed") from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def _half(path: Path) -> IO[bytes]:
    """A new file beside `path`, locked for as long as it is open: one that is not is what a killed process left."""
    while True:
        file = tempfile.NamedTemporaryFile(  # noqa: SIM115, its caller closes it
            dir=path.parent, prefix=f".{path.name}.", suffix=_HALF, delete=False
        )
        with contextlib.suppress(OSError):  # a shared disk without locks, where nothing is swept either
            fcntl.flock(file, fcntl.LOCK_EX)
        if os.fstat(file.fileno()).st_nlink:
            return file
        file.close()  # swept by another process before it was locked


def _sweep(path: Path) -> None:
    """Remove what killed processes left of writing to `path`. The system frees a lock however its holder ends."""
    for left in path.parent.glob(f".{glob.escape(path.name)}.*{_HALF}"):
        with contextlib.suppress(OSError), left.open("r+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            left.unlink()


def write_text(path: Path, text: str) -> None:
    with atomic(path) as file:
        file.write(text.encode())


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """An object, and a checksum of it. NaN and infinity are refused: callers write null for what is not a number."""
    as_read = json.loads(json.dumps(value, allow_nan=False))  # keys are text, tuples are lists
    write_text(path, json.dumps({**as_read, SEAL: _seal(as_read)}, indent=1) + "\n")


def read_json(path: Path, *needed: str) -> dict[str, Any]:
    """Raises KdbenchError when the file is missing, cut or damaged, or lacks a needed key, with the way to mend it.

    Its checksum is compared where there is one: files had none before.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(found, dict):
            raise ValueError("no keys and values")
        if SEAL in found and found.pop(SEAL) != _seal(found):
            raise ValueError("its checksum is another")
        if lacking := [name for name in needed if name not in found]:
            raise ValueError(f"it has no {lacking[0]}")
        return found
    except FileNotFoundError:
        raise KdbenchError(f"{path} does not exist") from None
    except (OSError, ValueError, RecursionError) as error:
        raise KdbenchError(f"{path} is damaged ({error}); {AGAIN}") from None


def _seal(value: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def sha256_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def save(path: Path, state: Any) -> None:
    """Write a checkpoint of tensors and plain values; the one before stays as NAME.previous."""
    import torch

    buffer = io.BytesIO()
    torch.save(state, buffer)
    payload = buffer.getvalue()
    with atomic(path) as file:
        file.write(_MAGIC + hashlib.sha256(payload).hexdigest().encode() + b"\n" + payload)
        # On disk before the older one moves: a disk that is full now must not cost that one its place.
        file.flush()
        os.fsync(file.fileno())
        with contextlib.suppress(FileNotFoundError):  # there is none yet
            os.replace(path, _previous(path))


def remove(path: Path) -> None:
    """Take away a checkpoint with the one before it and what a killed process left of writing it."""
    for old in (path, _previous(path)):
        old.unlink(missing_ok=True)
    _sweep(path)


def load(path: Path) -> Any | None:
    """The newest whole checkpoint, or None where there is none. Damage is told on stderr, never used.

    Only tensors and plain values are read (weights_only), so a planted file runs nothing. Raises KdbenchError for one
    that is whole but holds anything else, and for one that cannot be read.
    """
    import sys

    import torch

    for candidate in (path, _previous(path)):
        try:
            payload = _verified(candidate.read_bytes())
        except FileNotFoundError:
            continue
        except OSError as error:
            raise KdbenchError(f"cannot read {candidate}: {error.strerror or error}") from error
        if payload is None:
            print(f"kdbench: {candidate} is damaged and not used", file=sys.stderr)
            continue
        try:
            return torch.load(io.BytesIO(payload), weights_only=True, map_location="cpu")
        except Exception as error:  # torch refuses in many ways
            raise KdbenchError(
                f"{candidate} holds more than tensors and plain values, so kdbench did not write it, and nothing of it "
                "was run; delete it and run again"
            ) from error
    return None


def _verified(content: bytes) -> bytes | None:
    digest_end = len(_MAGIC) + 65
    payload = content[digest_end:]
    whole = content[:digest_end] == _MAGIC + hashlib.sha256(payload).hexdigest().encode() + b"\n"
    return payload if whole else None


def _previous(path: Path) -> Path:
    return path.with_name(f"{path.name}.previous")
