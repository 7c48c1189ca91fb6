"""What a method gains against what its training costs: one point a method, over the headline pairs.

Up: paired difference to KD in test accuracy (to scratch where the block has no KD; of tuned methods to tuned KD), with
its 95 % t interval over seeds. Across: time of the student's training steps over that of scratch on the same pair and
seed, or in seconds where the block has no scratch; geometric mean, log scale.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import NullLocator

from kdbench.report import stats
from kdbench.report.block import BlockReport
from kdbench.report.figures.against import baseline_of, held_against, mean_of, tuned_note, whisker_room
from kdbench.report.figures.canvas import COLUMN, below, canvas, labels_of, log_locator, say, seeds_text
from kdbench.report.figures.style import method_styles, styled

TITLE = "Accuracy against training time"
READS = ("frame",)


@styled
def draw(report: BlockReport) -> Figure:
    block, frame = report.block, report.frame
    baseline, labels, styles = baseline_of(block), labels_of(block), method_styles(report.suite)
    rivals = held_against(block, baseline)
    verdicts = {b: stats.verdict(frame, b) for b in {baseline, *rivals.values()}}
    gains = pd.DataFrame({m: verdicts[b].loc[m] for m, b in rivals.items()}).T.reindex([m.id for m in block.methods])
    gains.loc[baseline, ["difference", "n"]] = 0.0, frame["seed"].nunique()
    kinds = report.headline["kind"]
    seconds = stats.wide(frame, "seconds")
    seconds = seconds[seconds.index.get_level_values("pair").isin(kinds.index[kinds == "headline"])]
    relative = "scratch" in seconds and seconds["scratch"].notna().any()
    times = seconds.div(seconds["scratch"], axis=0) if relative else seconds
    costs = np.exp(np.log(times.where(times > 0)).mean())

    headline = int((kinds == "headline").sum())
    drawn = [m.id for m in block.methods if gains.loc[m.id, "n"] > 0 and np.isfinite(costs[m.id])]
    title = f"{block.title}: accuracy against training time, {seeds_text(frame['seed'].nunique())}"
    figure = canvas(title, 1, 1, panel=(COLUMN, 2.3))
    axes = figure.subplots()
    axes.axhline(0, color="#444444", lw=0.8)
    if not drawn:
        say(axes, "no complete seed" if headline else "no headline pair")
    intervals = [stats.Interval(*gains.loc[m, ["difference", "low", "high", "n"]]) for m in drawn]
    for method, (mean, low, high, _) in zip(drawn, intervals, strict=True):
        style = {"color": styles[method]["color"], "marker": styles[method]["marker"]}
        certain = low is not None and np.isfinite(low)
        if certain:
            axes.vlines(costs[method], low, high, color=style["color"], lw=0.9)
        edge = {"markeredgecolor": "white", "markeredgewidth": 0.4}  # parts points that touch
        look = edge if certain or method == baseline else {"markerfacecolor": "white"}
        axes.plot(costs[method], mean, **style, markersize=5.5, **look)
    means = [i.mean for i in intervals] or [0.0]
    room = whisker_room(intervals) + 0.06 * np.ptp(means) + 0.5
    axes.set_ylim(min(means) - room, max(means) + room)
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(log_locator(*axes.get_xlim()))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel(f"training time, {'× ' + labels['scratch'] if relative else 's'}")
    axes.set_ylabel(
        f"difference to {labels[baseline]}, points\n({mean_of(headline)}){tuned_note(rivals, baseline, labels)}"
    )
    absent = [labels[m.id] for m in block.methods if m.id not in drawn]
    below(
        figure,
        report,
        [
            "Whiskers: 95 % t intervals over seeds; open points have none. Time: the student's own training steps, "
            "log scale; the teacher's forward pass is shared and not included.",
            *([f"Without a complete seed on the headline pairs: {', '.join(absent)}."] if absent and headline else []),
        ],
        {labels[m]: Line2D([], [], **styles[m] | {"linestyle": ""}) for m in drawn},
    )
    return figure
