"""What is known of one block: the one thing that its tables, its figures and its page are made from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from kdbench.types import Block, MethodSpec, Suite

Correct = Mapping[tuple[str, str], np.ndarray]
"""(pair, method) -> which test images its one run gets right, bool (N,)"""


class Reading(NamedTuple):
    method: MethodSpec
    readings: Sequence[MethodSpec]
    """All readings of this reconstructed method."""
    frame: pd.DataFrame
    """Their runs."""


@dataclass(frozen=True, eq=False)
class BlockReport:
    """What is not known, or not needed by the reader at hand, is empty."""

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

    @property
    def spectra(self) -> list[dict[str, Any]]:
        """The rows of all spectra in `stages`, with their pairs."""
        return [{"pair": document["pair"], **row} for document in self.stages for row in document.get("spectra", [])]

    @property
    def shown(self) -> BlockReport:
        """Cut down to the rows and columns of the block's table. Runs of methods that are not shown stay, since scratch
        decides which pairs are headline pairs."""
        block = self.block.shown
        return replace(self, block=block, frame=self.frame[self.frame["pair"].isin([p.id for p in block.pairs])])
