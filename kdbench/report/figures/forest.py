"""Rows of methods with their differences and intervals, as the figures of verdicts and of pairs draw them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.transforms import blended_transform_factory

from kdbench.report import stats
from kdbench.report.figures.canvas import beside, lines_of

LINE = 0.115
"""Inches of one line of a row's label."""
DOT = {"markersize": 2.4, "markeredgewidth": 0, "linestyle": "", "alpha": 0.5}
"""Of a single pair."""
MEAN = {"markersize": 4.8, "markeredgecolor": "white", "markeredgewidth": 0.4, "linestyle": "", "zorder": 3}


def rows_of(groups: Mapping[str, Sequence[str]], labels: Mapping[str, str]) -> tuple[dict[str, float], list, list]:
    """{method: y}, and positions and labels of the rows: each group below a row with its name."""
    places: dict[str, float] = {}
    ticks, names, y = [], [], 0.0
    for group, methods in groups.items():
        for name, method in ((group, None), *((beside(labels[m]), m) for m in methods)):
            height = 0.25 + lines_of(name)
            ticks.append(y + height / 2)
            names.append(name)
            if method:
                places[method] = ticks[-1]
            y += height
    return places, ticks, names


def height_of(names: Sequence[str]) -> float:
    """Inches that these rows take."""
    return LINE * sum(0.25 + lines_of(name) for name in names)


def label_rows(axes: Axes, groups: Mapping[str, Sequence[str]], ticks: Sequence[float], names: Sequence[str]) -> None:
    """Label the rows of all panels, which share these axes' scale."""
    axes.set_yticks(ticks, names)
    axes.set_ylim(sum(0.25 + lines_of(name) for name in names), 0)
    heads = set(np.cumsum([0, *(1 + len(own) for own in groups.values())])[:-1].tolist())
    for panel in axes.figure.axes:
        panel.tick_params(axis="y", length=0)
        panel.grid(axis="y", visible=False)
        for i, text in enumerate(panel.get_yticklabels()):
            if i in heads:
                text.set(style="italic", color="#777777")


def draw_row(
    axes: Axes,
    y: float,
    interval: stats.Interval,
    style: Mapping[str, Any],
    ends: tuple[float, float],
) -> None:
    """A mean with its interval; an arrow where that extends beyond the axis, an open point where there is none."""
    mean, low, high, _ = interval
    look = {"color": style["color"], "marker": style["marker"]}
    certain = low is not None and np.isfinite(low)
    if certain:
        axes.hlines(y, max(low, ends[0]), min(high, ends[1]), color=style["color"], lw=1.2)
        for end, beyond in ((ends[0], low < ends[0]), (ends[1], high > ends[1])):
            if beyond:
                # No marker: methods have triangles of their own.
                arrow = {"arrowstyle": "->", "color": style["color"], "lw": 1.2, "shrinkA": 0, "shrinkB": 0}
                axes.annotate("", (end, y), (mean, y), arrowprops=arrow)
    open_point = {} if certain else {"markerfacecolor": "white", "markeredgecolor": style["color"]}
    axes.plot(mean, y, **{**look, **MEAN, **open_point})


def draw_collapsed(axes: Axes, y: float, mean: float, style: Mapping[str, Any], words: str) -> None:
    """An arrow to the left edge in place of a mean that would squash the axis, and the number beside it."""
    edge = blended_transform_factory(axes.transAxes, axes.transData)
    arrow = {"arrowstyle": "->", "color": style["color"], "lw": 1.2, "shrinkA": 0, "shrinkB": 0}
    axes.annotate("", (0.0, y), (0.12, y), xycoords=edge, textcoords=edge, arrowprops=arrow)
    number = f"{mean:.0f}".replace("-", "−")
    box = {"facecolor": "white", "edgecolor": "none", "pad": 0.5, "alpha": 0.85}
    axes.text(0.14, y, f"{number}{words}", transform=edge, va="center", fontsize=6.5, color="#555555", bbox=box)
