"""Test accuracy against the compute of training, one panel a pair: who learns fast, who learns more.

Across: operations of all training steps, the teacher's pass among them, log scale, a point a budget. Points are means
over seeds, whiskers 95 % t intervals. Scratch is the grey line, with one standard deviation over seeds on either side;
the dashed line is the teacher.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter, NullLocator

from kdbench.plan.jobs import SCRATCH
from kdbench.report import stats
from kdbench.report.block import BlockReport
from kdbench.report.figures.canvas import (
    PAGE,
    arrange,
    below,
    canvas,
    labels_of,
    log_locator,
    pair_title,
    panel_grid,
    say,
    seeds_text,
)
from kdbench.report.figures.limits import PANELS, ROWS, first, table_of
from kdbench.report.figures.style import NULL, method_styles, styled
from kdbench.report.worth import counted

TITLE = "Accuracy against compute, budget by budget"
READS = ("lengths",)


@styled
def draw(report: BlockReport) -> Figure:
    block, labels, styles = report.block, labels_of(report.block), method_styles(report.suite)
    runs = counted(report.lengths)
    methods, left_out = first((m.id for m in block.methods), ROWS, "methods", table_of(report))
    pairs, more = first((p.id for p in block.pairs), PANELS, "pairs", table_of(report))
    shape = arrange(len(pairs), 3)
    seeds = seeds_text(report.lengths["seed"].nunique())
    title = f"{block.title}: test accuracy against the compute of training, {seeds}"
    figure = canvas(title, *shape, panel=((PAGE - 0.3) / max(shape[1], 2), 2.2), labels=0.3)
    grid = panel_grid(figure, shape, range(len(pairs)), "operations of training")
    for i, (axes, pair) in enumerate(zip(grid, pairs, strict=True)):
        axes.set_title(pair_title(block, pair))
        own = runs[runs["pair"] == pair]
        if own.empty:
            say(axes, "no result that holds its operations")
        level = report.teachers.get(pair, pd.Series(dtype=float)).mean()
        if np.isfinite(level):
            axes.axhline(level, color="#444444", lw=0.9, ls="--")
        for method in methods:
            _line(axes, own[own["method"] == method], styles[method], method == SCRATCH)
        if i % shape[1] == 0:
            axes.set_ylabel("test accuracy, %")
    if len(runs):
        grid[0].set_xscale("log")
        grid[0].xaxis.set_major_locator(log_locator(*grid[0].get_xlim()))
        grid[0].xaxis.set_major_formatter(EngFormatter())
        grid[0].xaxis.set_minor_locator(NullLocator())
    drawn = [m for m in methods if m in set(runs["method"])]
    entries = {labels[m]: Line2D([], [], **styles[m] | {"linestyle": "-"}) for m in drawn}
    entries["teacher"] = Line2D([], [], color="#444444", lw=0.9, ls="--")
    budgets = ", ".join(f"{budget:g}" for budget in sorted(block.lengths))
    below(
        figure,
        report,
        [
            "Operations: all training steps, the teacher's pass included; a point a budget "
            f"({budgets} times the student's recipe). Whiskers: 95 % t intervals over seeds; open points have none. "
            f"Grey band: {labels.get(SCRATCH, 'Scratch')}, ± one standard deviation over seeds.",
            *left_out,
            *more,
        ],
        entries,
    )
    return figure


def _line(axes: Axes, runs: pd.DataFrame, style: dict, banded: bool) -> None:
    """A method's accuracy over compute, a point a budget."""
    if runs.empty:
        return
    at = [(own["operations"].mean(), own["test"]) for _, own in runs.groupby("budget")]
    x = [operations for operations, _ in at]
    intervals = [stats.paired_t_interval(values) for _, values in at]
    axes.plot(x, [i.mean for i in intervals], color=style["color"], linestyle="-")
    if banded:
        sds = [stats.mean_sd(values).sd or 0.0 for _, values in at]
        ends = [[i.mean + side * sd for i, sd in zip(intervals, sds, strict=True)] for side in (-1, 1)]
        axes.fill_between(x, *ends, color=NULL, lw=0)
    for place, interval in zip(x, intervals, strict=True):
        certain = interval.low is not None
        if certain and not banded:
            axes.vlines(place, interval.low, interval.high, color=style["color"], lw=0.9)
        look = (
            {"markeredgecolor": "white", "markeredgewidth": 0.4} if certain or banded else {"markerfacecolor": "white"}
        )
        axes.plot(place, interval.mean, color=style["color"], marker=style["marker"], markersize=5, **look)
