"""What this machine's CPU lacks, read from /proc/cpuinfo: no torch needed."""

from __future__ import annotations

import re
from pathlib import Path

CPUINFO = Path("/proc/cpuinfo")
_BF16_UNITS = {"avx512_bf16", "amx_bf16", "bf16"}
"""As Linux names them on x86 and, the last, on Arm."""


def slow_bf16() -> str | None:
    """Why nothing should be trained in bf16 on this CPU; None where it has the units for it, or does not say."""
    text = CPUINFO.read_text() if CPUINFO.exists() else ""
    flags = {flag for line in re.findall(r"^(?:flags|Features)\s*:(.*)", text, re.MULTILINE) for flag in line.split()}
    if not flags or flags & _BF16_UNITS:
        return None
    return "this CPU has no bf16 units (AVX512-BF16 or AMX), so bf16 is 8 to 20 times slower than fp32 here"
