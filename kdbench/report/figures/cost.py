"""What a method gains against what its training computes: one point a method, over the headline pairs.

Up: paired difference to Scratch in test accuracy (to KD where the block has no Scratch), with its 95 % t interval over
seeds. Across: operations of all steps, those of the teacher's pass among them, over those of Scratch on the same pair
and seed; geometric mean, log scale. Results that do not hold operations show the time of the student's own steps.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import NullLocator

from kdbench.report import stats
from kdbench.report.block import BlockReport
from kdbench.report.figures.against import baseline_of, mean_of, span
from kdbench.report.figures.canvas import COLUMN, below, canvas, labels_of, log_locator, say, seeds_text
from kdbench.report.figures.style import method_styles, styled

TITLE = "Accuracy against compute"
READS = ("headline_pairs",)


@styled
def draw(report: BlockReport) -> Figure:
    block, frame = report.block, report.frame
    baseline, labels, styles = baseline_of(block), labels_of(block), method_styles(report.suite)
    gains = stats.verdict(frame, baseline).reindex([m.id for m in block.methods])
    gains.loc[baseline, ["difference", "n"]] = 0.0, frame["seed"].nunique()
    headline = report.headline_pairs
    costs, counted = _costs(frame[frame["pair"].isin(headline)])
    fallen = {m for pair, m in stats.collapsed_cells(frame) if pair in headline}

    possible = [m.id for m in block.methods if gains.loc[m.id, "n"] > 0 and np.isfinite(costs.get(m.id, np.nan))]
    drawn = [m for m in possible if m not in fallen]
    what = "operations" if counted else "training time"
    title = f"{block.title}: accuracy against {what}, {seeds_text(frame['seed'].nunique())}"
    figure = canvas(title, 1, 1, panel=(COLUMN, 2.3))
    axes = figure.subplots()
    axes.axhline(0, color="#444444", lw=0.8)
    if not set(drawn) - {baseline}:
        say(axes, "no complete seed")
    intervals = [stats.Interval(*gains.loc[m, ["difference", "low", "high", "n"]]) for m in drawn]
    for method, (mean, low, high, _) in zip(drawn, intervals, strict=True):
        style = {"color": styles[method]["color"], "marker": styles[method]["marker"]}
        certain = low is not None and np.isfinite(low)
        if certain:
            axes.vlines(costs[method], low, high, color=style["color"], lw=0.9)
        edge = {"markeredgecolor": "white", "markeredgewidth": 0.4}  # parts points that touch
        look = edge if certain or method == baseline else {"markerfacecolor": "white"}
        axes.plot(costs[method], mean, **style, markersize=5.5, **look)
    axes.set_ylim(*span([i.mean for i in intervals], intervals))
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(log_locator(*axes.get_xlim()))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_locator(NullLocator())
    relative = "scratch" in costs
    unit = "× " + labels["scratch"] if relative else "a run" if counted else "s"
    axes.set_xlabel(f"{what}, {unit}")
    axes.set_ylabel(f"accuracy − {labels[baseline]}, points\n({mean_of(len(headline))})")
    absent = [labels[m.id] for m in block.methods if m.id not in possible]
    meaning = "Operations: all training steps, the teacher's pass included."
    if not counted:
        meaning = (
            "Not every result holds its operations, so time is shown: the student's own steps, without the "
            "teacher's pass."
        )
    below(
        figure,
        report,
        [
            f"Whiskers: 95 % t intervals over seeds; open points have none. {meaning} Log scale.",
            *([f"Collapsed, not drawn: {', '.join(labels[m] for m in possible if m in fallen)}."] if fallen else []),
            *([f"Without a complete seed on the headline pairs: {', '.join(absent)}."] if absent else []),
        ],
        {labels[m]: Line2D([], [], **styles[m] | {"linestyle": ""}) for m in drawn},
    )
    return figure


def _costs(frame: pd.DataFrame) -> tuple[pd.Series, bool]:
    """Cost by method, over that of scratch where it is there, and whether it is counted in operations, not in time."""
    operations = stats.wide(frame.assign(cost=stats.operations(frame)), "cost")
    seconds = stats.wide(frame, "seconds")
    counted = bool(operations.notna().sum().sum()) and bool(
        (operations.notna() | stats.wide(frame).isna()).all(axis=None)
    )
    costs = operations if counted else seconds
    if "scratch" in costs and costs["scratch"].notna().any():
        costs = costs.div(costs["scratch"], axis=0)
    elif "scratch" in costs:
        costs = costs.drop(columns="scratch")
    return np.exp(np.log(costs.where(costs > 0)).mean()), counted
