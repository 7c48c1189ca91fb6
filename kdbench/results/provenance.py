"""What a run computed on: packages, commit, hardware."""

from __future__ import annotations

import functools
import os
import platform
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kdbench.plan.registry import PACKAGE


@functools.cache
def versions() -> dict[str, str]:
    """Versions of what the numbers depend on, and the commit of the source tree where there is one."""
    import importlib.metadata as metadata

    import kdbench

    found = {name: metadata.version(name) for name in ("torch", "torchvision", "timm", "numpy")}
    return {"kdbench": kdbench.__version__, "commit": _commit(), "python": platform.python_version(), **found}


def _commit() -> str:
    # The commit of what a wheel is installed into, somebody's own project say, would be no commit of kdbench.
    if not (PACKAGE.parent / ".git").exists():
        return "unknown"
    try:
        git = ["git", "-C", str(PACKAGE), "describe", "--always", "--dirty", "--abbrev=12"]
        return subprocess.run(git, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return "unknown"


def hardware(device: Any, threads: int) -> dict[str, Any]:
    """What a run computed on."""
    import torch

    facts: dict[str, Any] = {"device": str(device), "threads": threads, "cpu": _cpu_name(), "cores": os.cpu_count()}
    if device.type == "cuda":
        facts |= {"gpu": torch.cuda.get_device_name(device), "cuda": torch.version.cuda}
    return facts


def processor() -> str:
    """The kind of CPU that this process computes on: two of one kind give the same bits. Under a hypervisor a model's
    name may stand for many kinds."""
    import torch

    kinds = ("vendor_id", "cpu family", "model", "stepping")
    try:
        first = Path("/proc/cpuinfo").read_text(encoding="utf-8").partition("\n\n")[0]
        facts = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in first.splitlines())}
    except OSError:
        facts = {}
    named = ", ".join(f"{kind} {facts[kind]}" for kind in kinds if kind in facts)
    return f"{_cpu_name()} ({named or platform.machine()}; {torch.backends.cpu.get_cpu_capability()})"


def hardware_line(facts: Mapping[str, Any]) -> str:
    """What a table says of the hardware of a run."""
    return f"{facts.get('gpu') or facts['cpu']}, {facts['threads']} thread(s) a job"


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
