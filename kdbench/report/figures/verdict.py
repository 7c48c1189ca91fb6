"""Paired difference of each method to Scratch in test accuracy, averaged over the headline pairs.

Bars are 95 % t intervals over seeds, faint dots single pairs. The dashed line is KD. Within a group methods stand from
the best to the worst. An arrow to the left in place of a point: the method collapsed, below half of Scratch's accuracy,
on a headline pair; it would squash the axis of all others. Where the block has no Scratch, differences are to KD.
"""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from kdbench.report import stats
from kdbench.report.block import BlockReport
from kdbench.report.figures import forest
from kdbench.report.figures.against import baseline_of, mean_of, sorted_groups, span
from kdbench.report.figures.canvas import COLUMN, STEPS, below, canvas, labels_of, seeds_text
from kdbench.report.figures.limits import ROWS, first, table_of
from kdbench.report.figures.style import method_styles, styled

TITLE = "Mean paired difference of each method"
READS = ("headline_pairs",)


@styled
def draw(report: BlockReport) -> Figure:
    block, frame = report.block, report.frame
    baseline, labels, styles = baseline_of(block), labels_of(block), method_styles(report.suite)
    methods, left_out = first((m.id for m in block.methods if m.id != baseline), ROWS, "methods", table_of(report))
    verdicts = stats.verdict(frame, baseline)
    headline = report.headline_pairs
    each = stats.differences(frame, baseline).groupby("pair").mean().reindex(headline)
    down = stats.collapsed_cells(frame)
    fallen = {m: sum((pair, m) in down for pair in headline) for m in methods}
    groups = sorted_groups(report, methods, verdicts["difference"])
    places, ticks, names = forest.rows_of(groups, labels)

    title = f"{block.title}: test accuracy − {labels[baseline]}, {mean_of(len(headline))}"
    figure = canvas(title, 1, 1, panel=(COLUMN, forest.height_of(names) + 0.45))
    axes = figure.subplots()
    axes.axvline(0, color="#444444", lw=0.8)
    intervals = {m: stats.Interval(*verdicts.loc[m, ["difference", "low", "high", "n"]]) for m in methods}
    standing = [m for m in methods if intervals[m].n and not fallen[m]]
    dots = each[standing].to_numpy(dtype=float).ravel()
    means = [*(intervals[m].mean for m in standing), *dots[np.isfinite(dots)]]
    ends = span(means, [intervals[m] for m in standing])
    axes.set_xlim(*ends)
    for method, y in places.items():
        interval, style = intervals[method], styles[method]
        if not interval.n:
            axes.text(0.5, y, "no complete seed", transform=axes.get_yaxis_transform(), ha="center", va="center",
                      color="#777777", fontsize=6.5)  # fmt: skip
        elif fallen[method]:
            words = f": collapsed on {fallen[method]} of {len(headline)} pairs"
            forest.draw_collapsed(axes, y, interval.mean, style, words)
        else:
            axes.plot(each[method], [y] * len(each), color=style["color"], marker="o", **forest.DOT)
            forest.draw_row(axes, y, interval, style, ends)
    known = "kd" in standing
    if known:
        axes.axvline(intervals["kd"].mean, color="#444444", lw=0.8, linestyle=(0, (4, 3)), zorder=1)
    forest.label_rows(axes, groups, ticks, names)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, steps=STEPS))
    axes.set_xlabel("points")
    below(
        figure,
        report,
        [
            f"Right of 0: better than {labels[baseline]}{', dashed: ' + labels['kd'] if known else ''}. "
            f"Bars: 95 % t intervals over {seeds_text(frame['seed'].nunique())} (open point: none); faint dots: single "
            "pairs. Weak and undecided pairs are not included.",
            *(["Arrow: collapsed, below half of Scratch's accuracy."] if any(fallen.values()) else []),
            *left_out,
        ],
    )
    return figure
