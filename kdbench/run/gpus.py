"""Which GPU of this machine a job trains on: Snakemake counts GPUs but names none, so every job claims one.

A card has a lock file for each job that it may take (`jobs_per_gpu` of the suite), in a folder of this machine and this
user. Who holds such a lock has the place. The system frees it when its holder ends, however it ends, and nothing is
written into the files, so nothing in them can be out of date.

Cards go by their UUID, which is the same whatever CUDA_VISIBLE_DEVICES shows and in whatever order. So a scheduler that
picks the cards (Slurm does) is not in the way: a job claims among those that it was given.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from kdbench.types import KdbenchError, Suite

NOTICE_SECONDS = 30


@contextlib.contextmanager
def claimed(suite: Suite) -> Iterator[None]:
    """Within it, torch's current device is a card that no other job of this user has; nothing where a suite computes on
    the CPU.

    Waits, and says so, while all cards are taken. Raises KdbenchError where the locks cannot be written.
    """
    import torch

    if suite.device == "cpu" or not torch.cuda.is_available():
        yield
        return
    cards = [str(torch.cuda.get_device_properties(i).uuid) for i in range(torch.cuda.device_count())]
    folder = Path(tempfile.gettempdir(), f"kdbench-gpus-{os.getuid()}")
    with claim(cards, suite.jobs_per_gpu, folder) as position:
        torch.cuda.set_device(position)
        yield


@contextlib.contextmanager
def claim(cards: Sequence[str], jobs_per_gpu: int, folder: Path) -> Iterator[int]:
    """Position in `cards` of one that has a place free, held to the end of the context or of the process.

    cards: names that every process of this machine gives to the same cards. folder: where all of them keep the locks.
    """
    told = None
    while (found := _free_place(cards, jobs_per_gpu, folder)) is None:
        if told is None or time.monotonic() - told >= NOTICE_SECONDS:
            taken = f"{len(cards)} taken, with {jobs_per_gpu} job(s) each (jobs_per_gpu of the suite)"
            print(f"kdbench: waiting for a GPU: {taken}", file=sys.stderr, flush=True)
            told = time.monotonic()
        time.sleep(1)
    position, lock = found
    try:
        yield position
    finally:
        os.close(lock)


def _free_place(cards: Sequence[str], jobs_per_gpu: int, folder: Path) -> tuple[int, int] | None:
    """(position, open lock file). Every card gets its first job before any gets its second."""
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        for place in range(jobs_per_gpu):
            for position, card in enumerate(cards):
                # Python closes it in programs that this one starts, so the lock ends with this process and its forks.
                lock = os.open(folder / f"{card}.{place}", os.O_RDWR | os.O_CREAT, 0o600)
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    return position, lock
                except BlockingIOError:
                    os.close(lock)
    except OSError as error:
        raise KdbenchError(
            f"cannot claim a GPU in {folder}: {error.strerror or error}; mend it, or set TMPDIR to a folder of this"
            " machine that you may write, the same for all your jobs"
        ) from error
    return None
