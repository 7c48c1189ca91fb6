"""Files that are whole or not there: atomic writes, and checkpoints that notice damage."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from kdbench.types import KdbenchError

_MAGIC = b"kdbench checkpoint 1\n"


@contextlib.contextmanager
def atomic(path: Path) -> Iterator[BinaryIO]:
    """A file to write bytes to that appears under `path` only once it is whole and on disk.

    Raises KdbenchError that names the place when the disk is full or may not be written; `path` is then as it was.
    """
    temporary: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
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


def write_text(path: Path, text: str) -> None:
    with atomic(path) as file:
        file.write(text.encode())


def write_json(path: Path, value: Any) -> None:
    """NaN and infinity are refused by JSON: callers write null for what is not a number."""
    write_text(path, json.dumps(value, indent=1, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Raises KdbenchError when the file is missing, cut or damaged, with the way to mend it."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise KdbenchError(f"{path} does not exist") from None
    except (OSError, ValueError, RecursionError) as error:
        raise KdbenchError(f"{path} is damaged ({error}); delete it and run again") from None


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
        if path.exists():
            os.replace(path, _previous(path))


def load(path: Path) -> Any | None:
    """The newest whole checkpoint, or None where there is none. Damage is told on stderr, never used.

    Only tensors and plain values are read (weights_only), so a planted file runs nothing.
    """
    import sys

    import torch

    for candidate in (path, _previous(path)):
        if not candidate.exists():
            continue
        payload = _verified(candidate.read_bytes())
        if payload is not None:
            return torch.load(io.BytesIO(payload), weights_only=True, map_location="cpu")
        print(f"kdbench: {candidate} is damaged and not used", file=sys.stderr)
    return None


def _verified(content: bytes) -> bytes | None:
    digest_end = len(_MAGIC) + 65
    payload = content[digest_end:]
    whole = content[:digest_end] == _MAGIC + hashlib.sha256(payload).hexdigest().encode() + b"\n"
    return payload if whole else None


def _previous(path: Path) -> Path:
    return path.with_name(f"{path.name}.previous")
