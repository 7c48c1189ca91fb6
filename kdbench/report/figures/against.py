"""What the methods of a block are compared with in a figure, and in which order they stand there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from kdbench.report import stats
from kdbench.report.block import BlockReport
from kdbench.types import Block, KdbenchError


def baseline_of(block: Block) -> str:
    """Scratch, or KD where the block has no scratch."""
    ids = [m.id for m in block.methods]
    baseline = next((b for b in map(block.row_of, ("scratch", "kd")) if b in ids), None)
    if baseline is None or len(ids) < 2:
        raise KdbenchError(f"block {block.name!r} has no KD and no scratch to compare its methods with")
    return baseline


def sorted_groups(report: BlockReport, shown: Sequence[str], means: Mapping[str, float | None]) -> dict[str, list[str]]:
    """Group -> those of its methods that are shown, from the best mean to the worst; what has none comes last."""
    groups: dict[str, list[str]] = {}
    for method in report.block.methods:
        if method.id in shown:
            groups.setdefault(method.group, []).append(method.id)
    rank = {m: mean if mean is not None and np.isfinite(mean) else -np.inf for m, mean in means.items()}
    return {group: sorted(own, key=lambda m: -rank[m]) for group, own in groups.items()}


def mean_of(headline: int) -> str:
    return f"mean of {headline} headline pair{'' if headline == 1 else 's'}"


def whisker_room(intervals: Sequence[stats.Interval]) -> float:
    """Room that intervals get beyond their means: twice the median half-width."""
    halves = [i.high - i.mean for i in intervals if i.low is not None and np.isfinite(i.low)]
    return 2 * float(np.median(halves)) if halves else 0.0


def span(means: Sequence[float], intervals: Sequence[stats.Interval], least: float = 0.2) -> tuple[float, float]:
    """Ends of an axis: all means and 0, and intervals as far as they do not dwarf everything else; `least` is room."""
    low, high = min([0.0, *means]), max([0.0, *means])
    room = whisker_room(intervals) + max(0.06 * (high - low), least)
    return low - room, high + room
