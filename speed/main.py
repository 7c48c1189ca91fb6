"""`python -m speed`: how fast is it, measured honestly? Each part warms up, repeats, and tells median and spread."""

from __future__ import annotations

import datetime
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

from kdbench.errors import unknown
from kdbench.files import read_json, write_json
from kdbench.plan.paths import RESULTS
from kdbench.report.page import Document, Section, markdown
from kdbench.results import provenance
from kdbench.types import KdbenchError
from speed import accuracy, field, overhead, roofline, scale, streaming, timing
from speed.setting import Options

PARTS = {
    "field": field,
    "accuracy": accuracy,
    "engine": overhead,
    "roofline": roofline,
    "scale": scale,
    "streaming": streaming,
}
FOLDER, COMMITTED = RESULTS / "bench", RESULTS / "reference" / "bench"


def bench(
    part: str,
    *,
    device: str = "auto",
    threads: int | None = None,
    jobs: int = 1,
    steps: int | None = None,
    repeats: int | None = None,
    out: Path | None = None,
) -> list[Path]:
    """Measure one part or `all`; write PART.json into `out` (results/bench) and print its tables.

    threads: of a process; all cores where None. jobs: whole processes at a time. steps, repeats: None for what the
    part takes on this device. Raises KdbenchError for what cannot be measured, and when a process fails.
    """
    if part not in (*PARTS, "all"):
        raise unknown("part", part, (*PARTS, "all", "show"), "bench")
    for name, value in (("threads", threads), ("jobs", jobs), ("steps", steps), ("repeats", repeats)):
        if value is not None and value < 1:
            raise KdbenchError(f"bench: {name} must be at least 1, got {value}")
    if device == "cuda" and not torch.cuda.is_available():
        raise KdbenchError("bench: --device cuda, but torch finds none here (kdbench doctor tells more)")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    written = []
    for name in PARTS if part == "all" else (part,):
        with tempfile.TemporaryDirectory(prefix="kdbench-bench-") as work:
            options = Options(device, threads or cores, jobs, steps, repeats, Path(work), _say)
            measured = PARTS[name].measure(options)
        head = {
            "part": name,
            "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "hardware": provenance.hardware(torch.device(device), options.threads),
            "versions": provenance.versions(),
        }
        path = (out or FOLDER) / f"{name}.json"
        result = head | measured | {"settings": measured["settings"] | {"jobs": jobs}}
        write_json(path, result)
        print(markdown(page(result)))
        written.append(path)
    return written


def measured() -> Path:
    """The folder of what was measured here, or, where nothing was, of the committed files; says which."""
    for folder in (FOLDER, COMMITTED):
        if _parts(folder):
            _say(f"from {folder}")
            return folder
    return FOLDER


def _parts(folder: Path) -> list[Path]:
    return [path for path in (folder / f"{name}.json" for name in PARTS) if path.exists()]


def tables(folder: Path) -> str:
    """What was printed of all parts whose JSON lies in a folder. Raises KdbenchError where there is none."""
    found = _parts(folder)
    if not found:
        raise KdbenchError(f"bench: {folder} holds none of {', '.join(f'{name}.json' for name in PARTS)}")
    return "\n".join(markdown(page(read_json(path))) for path in found)


def page(result: dict[str, Any]) -> Document:
    """What is printed of a part."""
    part = PARTS[result["part"]].section(result)
    settings = ", ".join(f"{key} {value}" for key, value in result["settings"].items())
    footer = (
        f"Date: {result['date'][:10]}",
        f"Hardware: {provenance.hardware_line(result['hardware'])}, {result['hardware']['cores']} cores",
        f"Settings: {settings}; medians, with the smallest and the largest of the repeats in brackets",
        f"Versions: {', '.join(f'{name} {version}' for name, version in result['versions'].items())}",
    )
    parts = (*part.parts, *timing.verdicts(result["targets"]))
    return Document(f"Speed: {result['part']}", (), (Section(part.title, parts),), footer)


def _say(line: str) -> None:
    print(f"kdbench: {line}", file=sys.stderr, flush=True)
