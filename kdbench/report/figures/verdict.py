"""Paired difference of each method to KD in test accuracy, averaged over the headline pairs.

Bars are 95 % t intervals over seeds. It is the first panel of the figure of all pairs, sized for a column or a slide.
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
