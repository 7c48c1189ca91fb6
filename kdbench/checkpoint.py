"""Checkpoints that notice damage, each with the one before it."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
from pathlib import Path
from typing import Any

from kdbench.files import atomic, sweep
from kdbench.types import KdbenchError

_MAGIC = b"kdbench checkpoint 1\n"


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
    sweep(path)


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
