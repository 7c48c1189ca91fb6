"""Lines for people on stderr."""

from __future__ import annotations

import sys
import time


class Progress:
    """Lines for people on stderr: the first, the last, and one every ten seconds between."""

    def __init__(self, what: str) -> None:
        self.what, self.started, self.last = what, time.monotonic(), 0.0

    def __call__(self, line: str, final: bool = False) -> None:
        now = time.monotonic()
        if final or now - self.last >= 10:
            say(f"{self.what}: {line} ({now - self.started:.0f} s)")
            self.last = now


def say(line: str) -> None:
    print(f"kdbench: {line}", file=sys.stderr, flush=True)
