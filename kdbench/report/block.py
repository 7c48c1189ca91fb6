"""What is known of one block: the one thing that its tables, its figures and its page are made from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import pandas as pd

from kdbench.report import stats
from kdbench.report.cells import Correct, baselines_of, cells, rivals_of
from kdbench.types import Block, MethodSpec, Suite


@dataclass(frozen=True, eq=False)
class Reading:
    method: MethodSpec
    readings: Sequence[MethodSpec]
    """All readings of this reconstructed method."""
    frame: pd.DataFrame
    """Their runs."""

    @cached_property
    def means(self) -> pd.DataFrame:
        """Mean test accuracy by pair and reading; NaN where a seed is lacking: that mean would be over other seeds."""
        return stats.wide(self.frame).groupby("pair").agg(lambda tests: tests.mean(skipna=False))


@dataclass(frozen=True, eq=False)
class BlockReport:
    """What is not known, or not needed by the reader at hand, is empty. Statistics are computed once, when needed."""

    suite: Suite
    block: Block
    frame: pd.DataFrame
    """One row a planned run, in the columns of kdbench/results/frames.collect."""
    anchors: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Modality -> accuracies of classifiers that are no networks, and the samples they used."""
    counts: Mapping[str, int] = field(default_factory=dict)
    """Samples of each split."""
    classes: int = 0
    data_notes: Sequence[str] = ()
    readings: Sequence[Reading] = ()
    tuned: Sequence[Mapping[str, Any]] = ()
    """The choices of tuning that rows of this block use."""
    correct: Correct = field(default_factory=dict)
    """Known where the block has one seed only."""
    made_with: Mapping[str, Any] = field(default_factory=dict)
    """Date, hardware, versions, commit."""
    curves: pd.DataFrame = field(default_factory=pd.DataFrame)
    """Learning curves, in the columns of kdbench/results/frames.histories."""
    stages: Sequence[Mapping[str, Any]] = ()
    """The JSON files of kind `stages`, one a pair."""
    channels: Sequence[Mapping[str, Any]] = ()
    """The JSON files of kind `channels`, one a pair of models."""

    @cached_property
    def cells(self) -> pd.DataFrame:
        """The numbers of every cell of the block's tables, index (pair, method)."""
        return cells(self.block, self.frame, self.correct)

    @cached_property
    def records(self) -> dict[tuple[str, str], dict[str, Any]]:
        """(pair, method) -> its row of `cells`."""
        return self.cells.to_dict("index")

    @cached_property
    def verdicts(self) -> dict[str, pd.DataFrame]:
        """Baseline -> stats.verdict of the methods that are compared with it."""
        rivals = {b: [m.id for m in rivals_of(self.block, b)] for b in baselines_of(self.block)}
        return {b: stats.verdict(self.frame, b, methods) for b, methods in rivals.items()}

    @cached_property
    def headline(self) -> pd.DataFrame:
        """stats.headline_pairs of the block."""
        return stats.headline_pairs(self.frame)

    @cached_property
    def teachers(self) -> pd.Series:
        """stats.teachers of the block."""
        return stats.teachers(self.frame)

    @property
    def spectra(self) -> list[dict[str, Any]]:
        """The rows of all spectra in `stages`, with their pairs."""
        return [{"pair": document["pair"], **row} for document in self.stages for row in document.get("spectra", [])]

    @cached_property
    def shown(self) -> BlockReport:
        """Cut down to the rows and columns of the block's table. Runs of methods that are not shown stay, since scratch
        decides which pairs are headline pairs."""
        if not self.block.rows and not self.block.columns:
            return self
        block = self.block.shown
        return replace(self, block=block, frame=self.frame[self.frame["pair"].isin([p.id for p in block.pairs])])
