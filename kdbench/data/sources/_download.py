"""What the sources that torchvision downloads share: where a download is kept, and what happens to one that fails."""

from __future__ import annotations

import http.client
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock

from kdbench.plan.paths import RESULTS
from kdbench.types import KdbenchError

DOWNLOADS = RESULTS / "data" / "downloads"
SECONDS = 60
"""After so long without a byte a download is given up."""


@contextmanager
def fetching(name: str, url: str, instead: str) -> Iterator[Path]:
    """An empty folder in DOWNLOADS, which goes away afterwards, while no other process fetches the same.

    instead: what the folder of the user may hold in place of the download. What is whole is moved out by the caller, so
    that of what else lies in DOWNLOADS nothing is touched. Raises KdbenchError for a download that failed.
    """
    DOWNLOADS.mkdir(parents=True, exist_ok=True)
    with FileLock(DOWNLOADS / f".{name}.lock"), tempfile.TemporaryDirectory(dir=DOWNLOADS, prefix=".") as fresh:
        patience = socket.getdefaulttimeout()
        socket.setdefaulttimeout(SECONDS)
        try:
            yield Path(fresh)
        except (OSError, RuntimeError, http.client.HTTPException) as error:
            raise KdbenchError(
                f"{name}: the download failed from {url}: {error}; nothing was kept. Run it again with a network, or "
                f"set KDBENCH_DATA to a folder that holds {instead} (docs/your-own-data.md)"
            ) from error
        finally:
            socket.setdefaulttimeout(patience)
