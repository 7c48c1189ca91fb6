"""`kdbench doctor`: looks at this machine before anything is computed on it."""

from __future__ import annotations

import importlib
import importlib.metadata as metadata
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from kdbench.cpu import cores, slow_bf16
from kdbench.plan.paths import RESULTS, TABLES, data_dir
from kdbench.types import KdbenchError

CONVOLUTIONS = """
import sys
import torch

torch.set_num_threads(1)
for inputs in (1, 2, 3, 4, 6, 8, 16):
    layer = torch.nn.Conv2d(inputs, 8, 1, stride=2)
    for _ in range(100):
        x = torch.randn(32, inputs, 8, 8)
        if sys.argv[1] == "channels_last":
            x = torch.randn(32, 8, 8, inputs).permute(0, 3, 1, 2)
        layer(x.requires_grad_()).square().mean().backward()
"""
"""Training steps of small strided 1x1 convolutions, which end the process in some layouts on some CPUs; see
kdbench/tensors.py."""


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
                    else "; run: pip install -c constraints.txt -e '.[dev]'"
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
    # NCHW is what kdbench gives to every convolution; channels_last is tried for whoever changes that.
    crashes = {layout: _crash(layout) for layout in ("NCHW", "channels_last")}
    safe = [layout for layout, crash in crashes.items() if not crash]
    unsafe = [f"{layout} crashes ({crash})" for layout, crash in crashes.items() if crash]
    yield (
        "NCHW" in safe,
        f"small strided 1x1 convolutions train in {' and '.join(safe) or 'no layout'} on this CPU "
        f"({torch.backends.cpu.get_cpu_capability()}){''.join(f'; {what}' for what in unsafe)}; kdbench uses NCHW",
    )
    yield True, f"{cores()} cores; {slow_bf16() or 'nothing known against bf16'}"
    for folder in (RESULTS, TABLES):
        place = folder if folder.exists() else Path.cwd()
        yield os.access(place, os.W_OK), f"{place.resolve()} can be written"
    free = shutil.disk_usage(Path.cwd()).free / 2**30
    yield free > 1, f"{free:.0f} GiB of disk free"
    try:
        folder = data_dir()
    except KdbenchError as error:
        yield False, str(error)
    else:
        yield True, f"KDBENCH_DATA is {folder}" if folder else "KDBENCH_DATA is not set (needed only for your own data)"
    left = sorted(RESULTS.glob("*/state/**/checkpoint"))
    yield True, f"{len(left)} unfinished cohorts with a checkpoint" + (f", the first: {left[0]}" if left else "")


def _crash(layout: str) -> str | None:
    """The signal that ends a process in which convolutions train in a layout; None where it comes to its end."""
    command = [sys.executable, "-c", CONVOLUTIONS, layout]
    code = subprocess.run(command, capture_output=True, timeout=300).returncode
    return signal.Signals(-code).name if code < 0 else None
