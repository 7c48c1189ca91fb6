"""Files that are whole or not there: written under another name, and renamed."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import glob
import hashlib
import json
import os
import shlex
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any, BinaryIO

from kdbench.types import KdbenchError

_HALF = ".half"
AGAIN = "delete it and run again"
PATIENCE = 60
"""Seconds without a byte after which a download is given up."""
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
        sweep(path)
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


def sweep(path: Path) -> None:
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
        found = json.loads(path.read_bytes())
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


def is_url(place: str) -> bool:
    """Whether a place is to be downloaded from, rather than a path."""
    return place.startswith(("http://", "https://"))


def fetch(url: str, path: Path, sha256: str) -> None:
    """Download a file, unless `path` holds it already.

    Raises KdbenchError for a server that does not answer, a download that was cut, and a file of another sha256;
    nothing of it is then kept.
    """
    if path.is_file() and sha256_file(path) == sha256:
        return
    digest = hashlib.sha256()
    with atomic(path) as file:
        for chunk in _downloaded(url, path):
            file.write(chunk)
            digest.update(chunk)
        if digest.hexdigest() != sha256:
            raise KdbenchError(f"{url} has the sha256 {digest.hexdigest()}, not {sha256}; nothing was kept")


def _downloaded(url: str, path: Path) -> Iterator[bytes]:
    import http.client
    import urllib.request

    try:
        with urllib.request.urlopen(url, timeout=PATIENCE) as answer:
            length, got = answer.headers.get("Content-Length"), 0
            while chunk := answer.read(1 << 20):
                yield chunk
                got += len(chunk)
            if length is not None and got < int(length):
                raise ConnectionError(f"cut after {got:,} of {int(length):,} bytes")
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise KdbenchError(
            f"cannot download {url}: {error}; nothing was kept. On a machine with a network: "
            f"curl -L -o {shlex.quote(str(path))} {shlex.quote(url)}"
        ) from error


def sha256_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
