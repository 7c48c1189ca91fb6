"""Test accuracy against step, one panel a pair. Lines are means over seeds, bands one standard deviation.

Drawn of runs that have at least five points. Nothing is chosen by these curves: only the last step counts in a table.
"""

from __future__ import annotations

from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from kdbench.plan.paths import home
from kdbench.report.block import BlockReport
from kdbench.report.figures.canvas import (
    STEPS,
    arrange,
    below,
    canvas,
    labels_of,
    pair_title,
    panel_grid,
    say,
    seeds_text,
)
from kdbench.report.figures.limits import PANELS, ROWS, first
from kdbench.report.figures.style import method_styles, styled
from kdbench.types import KdbenchError

TITLE = "Learning curves"
READS = ("long_curves",)


@styled
def draw(report: BlockReport) -> Figure:
    block, curves = report.block, report.long_curves
    if curves.empty:
        raise KdbenchError(f"no learning curve for block {block.name!r}: there is nothing to draw")
    labels, styles = labels_of(block), method_styles(report.suite)
    page = home(report.suite) / "report.html"
    pairs, left_out = first((p.id for p in block.pairs), PANELS, "pairs", page)
    known = set(curves["method"])
    methods, more = first((m.id for m in block.methods if m.id in known), ROWS, "methods", page)
    curves = curves[curves["pair"].isin(pairs)]
    shape = arrange(len(pairs), 3)
    title = (
        f"{block.title}: learning curves, {seeds_text(curves['seed'].nunique())} (for information: only the last "
        "step counts)"
    )
    figure = canvas(title, *shape, panel=(1.6, 1.5), labels=0.3)
    for i, axes in enumerate(panel_grid(figure, shape, range(len(pairs)), "step")):
        part = curves[curves["pair"] == pairs[i]]
        axes.xaxis.set_major_locator(MaxNLocator(nbins=3, steps=STEPS, integer=True))
        axes.set_title(pair_title(block, pairs[i]))
        if part.empty:
            say(axes, "fewer than five points")
        for method in methods:
            at = part[part["method"] == method].groupby("step")["test_accuracy"].agg(["mean", "std"])
            if at.empty:
                continue
            style = styles[method]
            axes.plot(at.index, at["mean"], color=style["color"], linestyle=style["linestyle"])
            axes.plot(at.index[-1:], at["mean"].iloc[-1:], color=style["color"], marker=style["marker"], linestyle="")
            axes.fill_between(
                at.index, at["mean"] - at["std"], at["mean"] + at["std"], color=style["color"], alpha=0.12, lw=0
            )
        if i % shape[1] == 0:
            axes.set_ylabel("test accuracy, %")
    axes.set_xlim(0, 1.05 * curves["step"].max())
    entries = {labels[m]: Line2D([], [], **styles[m]) for m in methods}
    below(
        figure,
        report,
        [
            "Lines: means over seeds; bands: ± one standard deviation over seeds. Large markers: the last step.",
            *left_out,
            *more,
        ],
        entries,
    )
    return figure
