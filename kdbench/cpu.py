"""What to know and to do before a CPU trains; without torch."""

from __future__ import annotations

import ctypes
import os
import re
from pathlib import Path

CPUINFO = Path("/proc/cpuinfo")
_BF16_UNITS = {"avx512_bf16", "amx_bf16", "bf16"}
"""As Linux names them on x86 and, the last, on Arm."""
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
"""M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of glibc's malloc.h."""


def cores() -> int:
    """Of this process."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def slow_bf16() -> str | None:
    """Why nothing should be trained in bf16 on this CPU; None where it has the units for it, or does not say."""
    text = CPUINFO.read_text() if CPUINFO.exists() else ""
    flags = {flag for line in re.findall(r"^(?:flags|Features)\s*:(.*)", text, re.MULTILINE) for flag in line.split()}
    if not flags or flags & _BF16_UNITS:
        return None
    return "this CPU has no bf16 units (AVX512-BF16 or AMX), so bf16 is 8 to 20 times slower than fp32 here"


def keep_memory() -> None:
    """Let glibc keep the memory that this process frees, up to 2 GB: giving a step's activations back to the system and
    asking for them again costs up to a tenth of the step in page faults."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt:
        mallopt(_TRIM_THRESHOLD, 2_000_000_000)
        # Where one of them is set, glibc no longer raises the other by itself to this, the largest it takes.
        mallopt(_MMAP_THRESHOLD, 2**25)
