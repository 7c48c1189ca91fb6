"""Timings as they are kept and told, and whole processes."""

from __future__ import annotations

import os
import statistics
import subprocess
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import torch

from kdbench.plan.registry import PACKAGE
from kdbench.report.page import Cell, Group, Row, Table
from kdbench.types import KdbenchError


def summary(values: Sequence[float]) -> dict[str, float | list[float]]:
    """All repeats with their median and their spread, from the smallest to the largest."""
    return {"all": [*values], "median": statistics.median(values), "low": min(values), "high": max(values)}


def text(numbers: dict, digits: int = 1, scale: float = 1.0, unit: str = "") -> str:
    """`12.3 (12.0–12.9) s`: median, smallest and largest of a `summary`."""
    median, low, high = (f"{scale * numbers[key]:,.{digits}f}" for key in ("median", "low", "high"))
    spread = f" ({low}–{high})" if len(numbers["all"]) > 1 else ""
    return f"{median}{spread}{unit and ' ' + unit}"


def target(what: str, wanted: float, got: float, met: bool, why: str = "") -> dict:
    """One target of a part: `why` says what holds it back and is kept only where it is missed."""
    return {"target": what, "wanted": wanted, "got": got, "met": met, "why": "" if met else why}


def verdicts(targets: Sequence[dict]) -> list[str]:
    """What a page says of its targets."""
    return [
        f"{'Met' if t['met'] else 'MISSED'}: {t['target']}: {t['got']:.2f}, wanted {t['wanted']:g}."
        + (f" {t['why']}" if t["why"] else "")
        for t in targets
    ]


def table(title: str, corner: str, columns: Sequence[str], rows: Sequence[tuple[str, Sequence[str]]]) -> Table:
    """A table of plain texts: rows are (label, cells)."""
    body = tuple(Row(Cell(label), tuple(map(Cell, cells))) for label, cells in rows)
    return Table(title, corner, tuple((c,) for c in columns), (Group("", body),))


def clock(device: torch.device) -> float:
    """Seconds, once all that was asked of the device is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


# ----------------------------------------------------------------------------------------------------- whole processes


class Finished(NamedTuple):
    stdout: str
    seconds: float
    """From its start to its end, imports and all."""


def processes(commands: Sequence[Sequence[str]], at_once: int, folder: Path, threads: int) -> tuple[float, list]:
    """Run commands in `folder`, `at_once` of them at a time, in their order.

    Returns the seconds until all are done and one Finished a command. Raises KdbenchError with the last line that a
    failed one wrote to stderr.
    """
    path = os.pathsep.join(filter(None, (str(PACKAGE.parent), os.environ.get("PYTHONPATH"))))
    environment = os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": str(threads)}

    def run(command: Sequence[str]) -> Finished:
        started = time.perf_counter()
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
        if done.returncode:
            said = done.stderr.strip().splitlines() or ["it said nothing"]
            shown = " ".join(command)
            raise KdbenchError(f"bench: exit code {done.returncode} of `{shown}`: {said[-1]}")
        return Finished(done.stdout, time.perf_counter() - started)

    started = time.perf_counter()
    with ThreadPoolExecutor(at_once) as pool:
        try:
            finished = [future.result() for future in [pool.submit(run, command) for command in commands]]
        except BaseException:
            pool.shutdown(cancel_futures=True)  # else all that wait for their turn would still run
            raise
    return time.perf_counter() - started, finished
