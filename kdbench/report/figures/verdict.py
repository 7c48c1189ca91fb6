"""Paired difference of each method to KD in test accuracy, averaged over the headline pairs.

The first panel of the figure `accuracy` alone: it fits a column of a page or a slide.
"""

from __future__ import annotations

from matplotlib.figure import Figure

from kdbench.report.block import BlockReport
from kdbench.report.figures.accuracy import forest
from kdbench.report.figures.style import styled

TITLE = "Mean paired difference of each method"
READS = ("frame",)


@styled
def draw(report: BlockReport) -> Figure:
    return forest(report, by_pair=False)
