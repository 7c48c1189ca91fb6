"""`kdbench doctor`: looks at this machine before anything is computed on it."""

from __future__ import annotations

import importlib
import importlib.metadata as metadata
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from kdbench.plan import RESULTS, TABLES


def examine() -> int:
    """Print one line a fact; returns 1 when something would stop a suite from running, else 0."""
    failed = 0
    for ok, line in _facts():
        print(f"{'ok  ' if ok else 'FAIL'} {line}")
        failed += not ok
    return 1 if failed else 0


def _facts() -> Iterator[tuple[bool, str]]:
    yield sys.version_info >= (3, 11), f"Python {sys.version.split()[0]} (3.11 or later)"
    for name in ("torch", "torchvision", "timm", "snakemake"):
        try:
            yield True, f"{name} {metadata.version(name)}"
        except metadata.PackageNotFoundError:
            yield (
                name == "snakemake",
                f"{name} is not installed"
                + (
                    "; `kdbench run SUITE` works without it"
                    if name == "snakemake"
                    else "; run: pip install -e '.[dev]'"
                ),
            )
    try:
        shim = importlib.import_module("kdbench.torchvision_ops")
        importlib.import_module("timm")
    except Exception as error:
        yield False, f"timm cannot be imported: {error}"
    else:
        yield (
            True,
            "torchvision's compiled operators "
            + ("do not fit this torch; kdbench declares the two that its import needs" if shim._library else "load"),
        )
    import torch

    if torch.cuda.is_available():
        for i in range(torch.cuda.device_count()):
            memory = torch.cuda.get_device_properties(i).total_memory / 2**30
            yield True, f"GPU {i}: {torch.cuda.get_device_name(i)}, {memory:.0f} GiB"
    else:
        yield True, "no GPU: suites run on the CPU"
    amx = "amx_bf16" in Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else False
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    yield True, f"{cores} cores; bf16 matrix units (AMX): {'yes' if amx else 'no'}"
    for folder in (RESULTS, TABLES):
        place = folder if folder.exists() else Path.cwd()
        yield os.access(place, os.W_OK), f"{place.resolve()} can be written"
    free = shutil.disk_usage(Path.cwd()).free / 2**30
    yield free > 1, f"{free:.0f} GiB of disk free"
    setting = os.environ.get("KDBENCH_DATA")
    if setting:
        yield Path(setting).is_dir(), f"KDBENCH_DATA={setting} is a folder"
    else:
        yield True, "KDBENCH_DATA is not set (needed only for your own data files)"
    left = sorted(RESULTS.glob("*/state/**/checkpoint"))
    yield True, f"{len(left)} unfinished cohorts with a checkpoint" + (f", the first: {left[0]}" if left else "")
