"""Effects of methods in one suite against those in another: not a figure of a block, so it has no `draw`."""

from __future__ import annotations

from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from kdbench.report.figures.canvas import COLUMN, canvas, foot
from kdbench.report.figures.style import method_styles, styled
from kdbench.report.proxy import Proxy, verdict_sentence


@styled
def scatter(found: Proxy) -> Figure:
    """A point a cell, a marker a method, on the line where both suites agree."""
    a, b = found.a.name, found.b.name
    styles = method_styles(found.a)
    figure = canvas(f"Gain over Scratch: {a} against {b}", 1, 1, panel=(COLUMN + 1, 3.2))
    axes = figure.subplots()
    axes.axhline(0, color="#999999", lw=0.8)
    axes.axvline(0, color="#999999", lw=0.8)
    entries = {}
    for (method, label), own in found.cells.groupby(["method", "label"], sort=False):
        look = {"color": styles[method]["color"], "marker": styles[method]["marker"], "linestyle": "none"}
        ends = [
            (own[[f"low_{side}", f"high_{side}"]].to_numpy() - own[[f"effect_{side}"]].to_numpy()).T * [[-1], [1]]
            for side in "ab"
        ]
        axes.errorbar(
            own["effect_a"], own["effect_b"], xerr=ends[0], yerr=ends[1], elinewidth=0.6, alpha=0.9, zorder=3, **look
        )
        entries[label] = Line2D([], [], **look)
    limits = axes.get_xlim(), axes.get_ylim()
    axes.axline((0, 0), slope=1, color="#444444", lw=0.9, ls="--")
    axes.set(xlim=limits[0], ylim=limits[1])
    entries["the same in both"] = Line2D([], [], color="#444444", lw=0.9, ls="--")
    axes.set_xlabel(f"test accuracy minus Scratch's on {a}, points")
    axes.set_ylabel(f"on {b}, points")
    pairs = found.cells["pair"].nunique()
    notes = [
        f"A point is a method on a pair of families, of which there are {pairs}. Bars: 95 % t intervals over seeds.",
        verdict_sentence(found),
    ]
    foot(figure, notes, entries)
    return figure
