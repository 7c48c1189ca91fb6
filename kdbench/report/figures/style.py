"""One style for all figures, and one colour and marker a method: the same in every figure of every suite."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from typing import Any

import matplotlib

from kdbench.types import MethodSpec, Suite

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
    "figure.titlesize": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e6e6e6",
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.2,
    "lines.markersize": 4,
    "pdf.fonttype": 42,
    "svg.fonttype": "none",
    "svg.hashsalt": "kdbench",
    "text.parse_math": False,
}
styled = matplotlib.rc_context(STYLE)
"""Decorates what draws or writes."""

# Okabe and Ito's palette without yellow, which is too pale on white; black and grey are KD's and Scratch's own.
_BLUE, _RED, _GREEN, _PINK, _ORANGE, _SKY = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"
_COLOURS = (_BLUE, _RED, _GREEN, _PINK, _ORANGE, _SKY)
_LOOKS = {
    "scratch": ("#777777", "s"),
    "kd": ("#000000", "o"),
    "dkd": (_SKY, "v"),
    "dist": (_GREEN, "^"),
    "ofa": (_PINK, "P"),
    "uhkd": (_BLUE, "D"),
    "uhkd-c0": (_BLUE, ">"),
    "fdcmkd": (_ORANGE, "X"),
    "rkd": (_ORANGE, "<"),
    "fitnet": (_RED, ">"),
    "at": (_RED, "h"),
    "sp": (_SKY, "p"),
    "pkt": (_BLUE, "p"),
    "vid": (_RED, "*"),
    "cc": (_PINK, "p"),
    "crd": (_GREEN, "*"),
    "rsd": (_GREEN, "p"),
    "pat": (_ORANGE, "*"),
    "fbt": (_GREEN, "h"),
    "pkd": (_PINK, "*"),
    "mfh": (_ORANGE, "h"),
    "c2kd": (_SKY, "h"),
    "lskd": (_GREEN, "<"),
    "rld": (_PINK, ">"),
    "mldrkd": (_BLUE, "h"),
    "spectralkd": (_BLUE, "*"),
    "ufdkd": (_SKY, "*"),
    "ucmkd": (_PINK, "h"),
}
"""Colour and marker of every method of kdbench and of UHKD's spatial twin."""
# All can be drawn open, which says "no interval".
_MARKERS = ("^", "v", "D", "P", "X", "*", "<", ">", "p", "h", "d", "s", "o")
_MARKERS += ((4, 1, 0), (6, 1, 0), (3, 1, 180), (4, 1, 45), (3, 1, 0))
_LINES = ("-", "--", ":", (0, (4, 1, 1, 1, 1, 1)))
_TUNED_LINE = "-."
BEFORE = {"color": "#aaaaaa", "marker": "o", "linestyle": "--", "markerfacecolor": "white"}
NULL = "#d9d9d9"
"""Of a range that is there for comparison."""
BANDS = {"low": {"color": _BLUE, "marker": "o"}, "high": {"color": _RED, "marker": "D"}}
"""Of the two frequency bands, where these and not methods are compared."""


def method_styles(suite: Suite) -> dict[str, dict[str, Any]]:
    """`styles_of` all methods of a suite."""
    return styles_of({m.id: m for block in suite.blocks for m in block.trained})


def styles_of(methods: Mapping[str, MethodSpec]) -> dict[str, dict[str, Any]]:
    """Method id -> colour, marker and line of every figure; no two of these methods share both colour and marker.

    A variant or tuned twin has the colour of its method and another marker. What is not in the table above has what its
    name gives, so that it is the same in every suite but where two names would give the same.
    """
    styles: dict[str, dict[str, Any]] = {}
    taken: set[tuple[str, Any]] = set()
    for id in sorted(methods, key=lambda id: (id not in _LOOKS, id)):
        colour, marker = _look(methods[id], taken)
        taken.add((colour, marker))
        styles[id] = {"color": colour, "marker": marker, "linestyle": _line(methods[id])}
    return {id: styles[id] for id in methods}


def _line(method: MethodSpec) -> Any:
    """Methods of the table that share a colour differ in their lines."""
    if method.id in _LOOKS:
        colours = [colour for colour, _ in _LOOKS.values()]
        place = list(_LOOKS).index(method.id)
        return _LINES[colours[:place].count(colours[place]) % len(_LINES)]
    return _TUNED_LINE if method.tuned_from else _LINES[1 + _number(method.id) % (len(_LINES) - 1)]


def _look(method: MethodSpec, taken: set[tuple[str, Any]]) -> tuple[str, Any]:
    if method.id in _LOOKS:
        return _LOOKS[method.id]
    own = next((m for m in (method.tuned_from, method.variant_of, method.method) if m in _LOOKS), None)
    start = _number(method.id)
    colours = [_LOOKS[own][0]] if own else [_COLOURS[(start + i) % len(_COLOURS)] for i in range(len(_COLOURS))]
    reserved = set(_LOOKS.values()) | taken
    free = ((c, _MARKERS[(start + i) % len(_MARKERS)]) for c in colours for i in range(len(_MARKERS)))
    return next((look for look in free if look not in reserved), (colours[0], _MARKERS[start % len(_MARKERS)]))


def _number(name: str) -> int:
    return zlib.crc32(name.encode())
