"""Paired difference of each method to KD in test accuracy: over the headline pairs first, then pair by pair.

As in the tables, a tuned method is compared with tuned KD where the block has it, and tuned KD with KD. Where the block
has no KD, differences are to scratch. Points are means over seeds, bars 95 % t intervals; an open point has no
interval.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from kdbench.report import stats
from kdbench.report.block import BlockReport
from kdbench.report.figures.against import baseline_of, held_against, mean_of, tuned_note, whisker_room
from kdbench.report.figures.canvas import (
    arrange,
    below,
    beside,
    canvas,
    labels_of,
    pair_title,
    panel_grid,
    row_height,
    seeds_text,
)
from kdbench.report.figures.limits import PANELS, ROWS, first, table_of
from kdbench.report.figures.style import method_styles, styled

TITLE = "Paired differences by method and pair"
READS = ("frame",)
_KINDS = {"weak": "weak teacher", "undecided": "teacher or scratch unknown"}


@styled
def draw(report: BlockReport) -> Figure:
    return forest(report, by_pair=True)


def forest(report: BlockReport, by_pair: bool) -> Figure:
    block, frame = report.block, report.frame
    baseline, labels, styles = baseline_of(block), labels_of(block), method_styles(report.suite)
    methods = held_against(block, baseline)
    shown, left_out = first(methods, ROWS, "methods", table_of(report))
    methods = {method: methods[method] for method in shown}
    delta = {b: stats.differences(frame, b) for b in {baseline, *methods.values()}}
    verdicts, kinds = {b: stats.verdict(frame, b) for b in delta}, report.headline["kind"]
    pairs, more = first(kinds.index if by_pair else (), PANELS, "pairs", table_of(report))
    drawn = frame[frame["pair"].isin(pairs)]
    states = drawn.groupby(["pair", "method"])["status"].agg(lambda s: s.iloc[0] if s.nunique() == 1 else "incomplete")
    columns_of = ["difference", "low", "high", "n"]
    over = {m: (stats.Interval(*verdicts[b].loc[m, columns_of]), "no complete seed") for m, b in methods.items()}
    headline = int((kinds == "headline").sum())
    panels = {mean_of(headline): ("headline", over)}
    for pair in pairs:
        each = {m: (stats.paired_t_interval(delta[b].loc[pair, m]), states.get((pair, m))) for m, b in methods.items()}
        panels[pair] = (kinds[pair], each)

    shape = arrange(len(panels), 5)
    seeds = frame["seed"].nunique()
    own = tuned_note(methods, baseline, labels)
    title = f"{block.title}: paired difference to {labels[baseline]}{own}, test accuracy, {seeds_text(seeds)}"
    names = [beside(labels[m]) for m in methods]
    height = 0.6 + row_height(names, 0.15 if by_pair else 0.18) * len(methods)
    figure = canvas(title, *shape, panel=(1.15, height), labels=1.3)
    limit = _reach([interval for _, each in panels.values() for interval, _ in each.values()])
    grid = panel_grid(figure, shape, len(panels), "points")
    for axes, (name, (kind, each)) in zip(grid, panels.items(), strict=True):
        heading = pair_title(block, name, 17)
        axes.set_title(heading if kind == "headline" else f"{heading}\n({_KINDS[kind]})")
        _forest_panel(axes, each, styles, limit)
    grid[0].set_facecolor("#eef4fa")
    grid[0].set_title(grid[0].get_title(), weight="bold")
    grid[0].set_yticks(range(len(methods)), names)
    grid[0].set(ylim=(len(methods) - 0.5, -0.5), xlim=(-limit, limit))
    where = "first panel" if by_pair else "mean"
    below(
        figure,
        report,
        [
            f"Right of 0: better than {labels[baseline]}{own}. Bars: 95 % t intervals over seeds; an arrow marks an "
            "interval that extends beyond the axis, an open point has none. Weak and undecided pairs are not "
            f"included in the {where}.",
            *left_out,
            *more,
        ],
    )
    return figure


def _reach(intervals: Sequence[stats.Interval]) -> float:
    """Half-width of the axis: all means, and intervals as far as they do not dwarf everything else."""
    means = [abs(i.mean) for i in intervals if i.n and np.isfinite(i.mean)]
    return 1.1 * max([*means, 0.5]) + whisker_room(intervals)


def _forest_panel(axes: Axes, each: Mapping[str, tuple[stats.Interval, str | None]], styles, limit: float) -> None:
    axes.axvline(0, color="#444444", lw=0.8)
    for y, (method, (interval, why)) in enumerate(each.items()):
        mean, low, high, n = interval
        if not n:
            box = {"facecolor": axes.get_facecolor(), "edgecolor": "none", "pad": 1}
            axes.text(0, y, why or "no result", ha="center", va="center", color="#777777", fontsize=6.5, bbox=box)
            continue
        style = {"color": styles[method]["color"], "marker": styles[method]["marker"]}
        certain = low is not None and np.isfinite(low)
        if certain:
            axes.hlines(y, max(low, -limit), min(high, limit), color=style["color"], lw=1.2)
            for end, beyond in ((-limit, low < -limit), (limit, high > limit)):
                if beyond:
                    # No marker: methods have triangles of their own.
                    arrow = {"arrowstyle": "->", "color": style["color"], "lw": 1.2, "shrinkA": 0, "shrinkB": 0}
                    axes.annotate("", (end, y), (mean, y), arrowprops=arrow)
        axes.plot(mean, y, **style, markersize=5, **({} if certain else {"markerfacecolor": "white"}))
