"""What each method of a block is compared with in a figure, and how a figure says so."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from kdbench.report import stats
from kdbench.types import Block, KdbenchError


def baseline_of(block: Block) -> str:
    """KD, or scratch where the block has no KD."""
    ids = [m.id for m in block.methods]
    baseline = next((b for b in map(block.row_of, ("kd", "scratch")) if b in ids), None)
    if baseline is None or len(ids) < 2:
        raise KdbenchError(f"block {block.name!r} has no KD and no scratch to compare its methods with")
    return baseline


def held_against(block: Block, baseline: str) -> dict[str, str]:
    """{method: what it is held against}: the baseline, or for tuned methods the tuned baseline where there is one."""
    twin = next((m.id for m in block.methods if m.tuned_from == baseline), baseline)
    return {m.id: twin if m.tuned_from and m.id != twin else baseline for m in block.methods if m.id != baseline}


def tuned_note(held: Mapping[str, str], baseline: str, labels: Mapping[str, str]) -> str:
    twins = set(held.values()) - {baseline}
    return "".join(f" (tuned methods: to {labels[twin]})" for twin in twins)


def mean_of(headline: int) -> str:
    return f"mean of {headline} headline pair{'' if headline == 1 else 's'}"


def whisker_room(intervals: Sequence[stats.Interval]) -> float:
    """Room that intervals get beyond their means: twice the median half-width."""
    halves = [i.high - i.mean for i in intervals if i.low is not None and np.isfinite(i.low)]
    return 2 * float(np.median(halves)) if halves else 0.0
