"""The figures of a block: a file a kind, found by looking, so that a new figure is one new file.

A file that draws a figure has a docstring, which is its caption; TITLE; READS, the fields of BlockReport that must not
be empty; and draw(report) -> Figure. One with SUPPLEMENT is for who wants all numbers: it lies in a folder of its own.
It may have views(report), which yields (name, Figure) of single views, drawn as SVG only. What sums a block up
(verdict, cost, channels) and each single view fits a column of a page; what shows pair by pair, and similarity, fits a
page.
"""

from __future__ import annotations

import functools
import importlib
import multiprocessing
import pkgutil
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from types import ModuleType

from kdbench.report.block import BlockReport
from kdbench.report.figures.canvas import write
from kdbench.types import KdbenchError

MAIN = "verdict"
"""The kind on which a page opens."""
SUPPLEMENT = "supplement"
"""Folder of what no paper has room for."""


def is_supplement(figure: ModuleType) -> bool:
    return getattr(figure, "SUPPLEMENT", False)


@functools.cache
def kinds() -> dict[str, ModuleType]:
    """Kind -> its file."""
    modules = {m.name: importlib.import_module(f"{__name__}.{m.name}") for m in pkgutil.iter_modules(__path__)}
    return {kind: module for kind, module in modules.items() if hasattr(module, "draw")}


def write_figures(reports: Sequence[BlockReport], folder: Path, processes: int = 1) -> list[Path]:
    """Write BLOCK-KIND.svg, .png and .pdf for every kind that has its numbers, into folder or folder/supplement, and
    folder/BLOCK/VIEW.svg. Returns their paths.

    Raises KdbenchError where a process that draws is killed.
    """
    todo = [
        (report, kind, folder)
        for report in reports
        for kind, figure in kinds().items()
        if all(len(getattr(report, needed)) for needed in figure.READS)
    ]
    if processes == 1:
        return [path for one in todo for path in _write_kind(*one)]
    try:
        with ProcessPoolExecutor(processes, multiprocessing.get_context("spawn")) as pool:
            return [path for paths in pool.map(_write_kind, *zip(*todo, strict=True)) for path in paths]
    except BrokenProcessPool:
        raise KdbenchError("a process that draws figures was killed, perhaps for want of memory; draw again") from None


def _write_kind(report: BlockReport, kind: str, folder: Path) -> list[Path]:
    figure, name = kinds()[kind], report.block.name
    place = folder / SUPPLEMENT if is_supplement(figure) else folder
    written = write(figure.draw(report), place / f"{name}-{kind}")
    for view, drawn in figure.views(report) if hasattr(figure, "views") else ():
        written += write(drawn, folder / name / view, suffixes=("svg",))
    return written
