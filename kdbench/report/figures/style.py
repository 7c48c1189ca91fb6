"""One style for all figures, and one colour and marker a method.

Colours and markers follow the order of methods in the suite, so they agree in all of its figures. A tuned twin has the
colour of its method.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import matplotlib

from kdbench.types import Suite

STYLE = {
    "font.family": "DejaVu Sans",
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.labelsize": 8,
    "hatch.linewidth": 0.5,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7,
    "legend.frameon": False,
    "figure.titlesize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e6e6e6",
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.2,
    "lines.markersize": 4,
    "svg.fonttype": "none",
    "svg.hashsalt": "kdbench",
    "text.parse_math": False,
}
styled = matplotlib.rc_context(STYLE)
"""Decorates what draws or writes."""

# Okabe and Ito's palette without black (KD) and yellow (too pale for a line on white).
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
# All can be drawn open, which says "no interval".
_MARKERS = ("^", "v", "D", "P", "X", "*", "<", ">", "p", "h", "d", "s", "o")
_MARKERS += ((4, 1, 0), (6, 1, 0), (3, 1, 180), (4, 1, 45), (3, 1, 0))
_LINES = ("-", "--", ":", (0, (4, 1, 1, 1, 1, 1)))
_TUNED_LINE = "-."
_FIXED = {
    "scratch": {"color": "#777777", "marker": "s", "linestyle": "-"},
    "kd": {"color": "#000000", "marker": "o", "linestyle": "-"},
}
BEFORE = {"color": "#aaaaaa", "marker": "o", "linestyle": "--", "markerfacecolor": "white"}
NULL = "#d9d9d9"
"""Of a range that is there for comparison."""


def method_styles(suite: Suite) -> dict[str, dict[str, Any]]:
    """Method id -> colour, marker and line of every figure; no two of 54 methods share both colour and marker.

    A tuned twin has the colour of its method, and another marker and line.
    """
    methods = {m.id: m.tuned_from for block in suite.blocks for m in block.methods}
    styles = dict(_FIXED)
    for i, method in enumerate(m for m in dict.fromkeys(own or id for id, own in methods.items()) if m not in _FIXED):
        styles[method] = {
            "color": _COLOURS[i % len(_COLOURS)],
            "marker": _MARKERS[(i + i // len(_MARKERS)) % len(_MARKERS)],
            "linestyle": _LINES[i // len(_COLOURS) % len(_LINES)],
        }
    return {id: _twin(styles[own]) if own else styles[id] for id, own in methods.items()}


def _twin(style: Mapping[str, Any]) -> dict[str, Any]:
    # Nine markers on: colours come back every six, so no other method of this colour has that marker.
    marker = _MARKERS[(_MARKERS.index(style["marker"]) + 9) % len(_MARKERS)]
    return {**style, "marker": marker, "linestyle": _TUNED_LINE}
