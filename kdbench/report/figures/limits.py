"""What a person can read in one figure, and the sentence that says what is left out and where it is."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from kdbench.plan.paths import home, table_files
from kdbench.report.block import BlockReport

PANELS = 12
"""Panels of one figure, beside those that sum up."""
ROWS = 60
"""Rows or columns of one panel, and methods that share it."""


def first(items: Iterable[str], most: int, what: str, where: Path | str) -> tuple[list[str], list[str]]:
    """The first `most` items, and a sentence where there are more; `where` is the file or folder that has them all."""
    items = list(items)
    left_out = [f"Shown: the first {most} of {len(items)} {what}; all are in {where}."] if len(items) > most else []
    return items[:most], left_out


def table_of(report: BlockReport) -> Path:
    return table_files(report.suite)[-1]


def measured_of(report: BlockReport, kind: str) -> Path:
    """The folder of a block's similarities of a kind: `similarity` or `channels`."""
    return home(report.suite) / kind / report.block.name
