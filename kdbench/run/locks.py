"""Where a training job keeps its lock and its checkpoint; one process at a time trains there."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from kdbench.files import write_text
from kdbench.plan.jobs import Job, Plan
from kdbench.plan.paths import home
from kdbench.run.progress import say
from kdbench.types import KdbenchError

LOCK_NOTICE_SECONDS = 30


def state_folder(plan: Plan, job: Job, seed: int) -> Path:
    """Where the lock and the checkpoint of one seed of a training job lie."""
    part = job.id.rpartition("/")[2].partition(".")[2]
    return home(plan.suite) / "state" / job.pair.id / ".".join(filter(None, (f"seed{seed}", part)))


@contextlib.contextmanager
def locked(folder: Path, what: str) -> Iterator[None]:
    """Hold the lock of a state folder; wait, and say so, while another process trains here (an orphan, say).

    The system frees the lock when its holder dies, however it dies.
    """
    import filelock

    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(folder / "lock")
        while True:
            try:
                lock.acquire(timeout=LOCK_NOTICE_SECONDS)
                break
            except filelock.Timeout:
                path = folder / "holder"
                holder = path.read_text(encoding="utf-8", errors="replace") if path.exists() else "unknown"
                say(f"{what}: waiting for another process that trains it ({holder})")
    except OSError as error:
        raise KdbenchError(f"cannot write {folder}: {error.strerror or error}; nothing was changed") from error
    try:
        write_text(folder / "holder", f"process {os.getpid()} on {socket.gethostname()}")
        yield
    finally:
        lock.release()
