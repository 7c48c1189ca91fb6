"""Power of the feature maps by radius in cycles per image, one column of panels a stage.

The first row compares networks trained without a teacher. Below, each pair has a row: the teacher, the student before
training and after scratch, KD and the methods of the frequency group, and the range of all other methods. Lines are
means over seeds.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator, NullLocator

from kdbench.report.block import BlockReport
from kdbench.report.figures.canvas import below, canvas, labels_of, log_locator, pair_title, say, seeds_text
from kdbench.report.figures.documents import known_pairs
from kdbench.report.figures.limits import PANELS, first, measured_of
from kdbench.report.figures.style import BEFORE, NULL, method_styles, styled
from kdbench.types import KdbenchError

TITLE = "Spectra of the feature maps by stage"
READS = ("spectra",)
SUPPLEMENT = True

_TEACHER = {"color": "#b8a9e0", "linestyle": "-", "linewidth": 3.0}
_WHITE_NOISE = {"color": "#777777", "linestyle": ":", "linewidth": 0.8}
# Tol's muted palette: networks never share a colour with a method.
_NETWORK_COLOURS = ("#332288", "#CC6677", "#117733", "#88CCEE", "#AA4499", "#999933", "#44AA99", "#882255", "#DDCC77")


@styled
def draw(report: BlockReport) -> Figure:
    block = report.block
    if not report.spectra:
        raise KdbenchError(f"no spectra for block {block.name!r}: there is nothing to draw")
    data = pd.DataFrame(report.spectra)
    where = measured_of(report, "similarity")
    pairs, left_out = first(known_pairs(block, (d["pair"] for d in report.stages)), PANELS, "pairs", where)
    styles, labels = (
        method_styles(report.suite) | {"before": BEFORE},
        labels_of(block) | {"before": "student before training"},
    )
    own = [m.id for m in block.methods if m.id in ("scratch", block.row_of("kd")) or m.group == "frequency"]
    own = ["before", *(m for m in own if m in set(data["method"]))]
    alone = data[(data["role"] == "teacher") | (data["method"] == "scratch")]
    networks = list(dict.fromkeys(zip(alone["role"], alone["model"], strict=True)))
    looks = {
        network: {
            "color": _NETWORK_COLOURS[i % len(_NETWORK_COLOURS)],
            "linestyle": "-" if network[0] == "teacher" else "--",
        }
        for i, network in enumerate(sorted(networks, key=lambda n: n[0] != "teacher"))
    }

    title = f"{block.title}: spectra of the maps by stage, {seeds_text(data['seed'].nunique())}"
    rows = 1 + len(pairs)
    figure = canvas(title, rows, 4, panel=(1.25, 1.5 if rows < 4 else 1.1), labels=0.4)
    grid = figure.subplots(rows, 4, sharex="col", sharey=True, squeeze=False)
    for stage, column in enumerate(grid.T, start=1):
        here = data[data["stage"] == stage]
        for (role, model), look in looks.items():
            chosen = here[(here["role"] == role) & (here["model"] == model)]
            _spectrum_line(column[0], chosen[(chosen["method"] == "scratch") | (role == "teacher")], **look)
        _white_noise(column[0], here)
        for pair, axes in zip(pairs, column[1:], strict=True):
            _spectrum_panel(axes, here[here["pair"] == pair], own, styles)
        column[0].set_title(f"stage {stage}")
        column[-1].set_xlabel("cycles per image")
        column[-1].xaxis.set_major_locator(MaxNLocator(nbins=5, integer=True))
    grid[0, 0].set_yscale("log")
    grid[0, 0].yaxis.set_major_locator(log_locator(*grid[0, 0].get_ylim()))
    grid[0, 0].yaxis.set_major_formatter("{x:g}")
    for axes in grid.ravel():
        axes.yaxis.set_minor_locator(NullLocator())
    for name, axes in zip(("no teacher", *(pair_title(block, p, 18) for p in pairs)), grid[:, 0], strict=True):
        axes.set_ylabel(f"{name}\nshare of power")
    noise = {"white noise on its grid": Line2D([], [], **_WHITE_NOISE)}
    alone_lines = {
        f"{model} ({'teacher' if role == 'teacher' else labels['scratch']})": Line2D([], [], **look)
        for (role, model), look in looks.items()
    }
    pair_lines = {"teacher of the pair": Line2D([], [], **_TEACHER)}
    pair_lines |= {labels[m]: Line2D([], [], color=styles[m]["color"], linestyle=styles[m]["linestyle"]) for m in own}
    if set(data["method"].dropna()) - set(own):
        pair_lines |= {"range of all other methods": Patch(color=NULL)}
    below(
        figure,
        report,
        [
            "Share of each frequency ring in the power of the feature maps, from 1 cycle to the Nyquist frequency "
            "of their grid; mean over samples, channels and seeds, after subtracting the mean map over samples. Dot "
            "at 0: share of DC, the mean over space, in all power up to that frequency. Grey: range of the other "
            "methods' means. No intervals.",
            *left_out,
        ],
        alone_lines | noise,
        pair_lines | noise,
        titles=("First row: networks trained without a teacher", "Rows below: teacher and students of the pair"),
    )
    return figure


def _spectrum_panel(axes: Axes, data: pd.DataFrame, own: Sequence[str], styles) -> None:
    students = data[data["role"] == "student"]
    if data.empty:
        return say(axes, "n/a: fewer than four stages", 14)
    spectra = {m: _shares(rows["power"]) for m, rows in students.groupby("method") if m not in own}
    others = [s for s in spectra.values() if s is not None]
    if others:
        axes.fill_between(range(1, len(others[0])), np.min(others, 0)[1:], np.max(others, 0)[1:], color=NULL, lw=0)
    _white_noise(axes, data)
    _spectrum_line(axes, data[data["role"] == "teacher"], **_TEACHER)
    for method in own:
        style = styles[method]
        _spectrum_line(axes, students[students["method"] == method], color=style["color"], linestyle=style["linestyle"])


def _shares(lists: pd.Series) -> np.ndarray | None:
    """Mean over seeds of equally long shares (radii,); None where there are none. What is 0 or None is not drawn."""
    values = np.array(lists.tolist(), dtype=float)
    known = values[np.isfinite(values).all(axis=1)] if values.size else values
    return np.where(known.mean(axis=0) > 0, known.mean(axis=0), np.nan) if len(known) else None


def _spectrum_line(axes: Axes, rows: pd.DataFrame, **style: Any) -> None:
    shares = _shares(rows["power"])
    if shares is None:
        return
    axes.plot(0, shares[0], marker="o", markersize=2.5, linestyle="", color=style["color"])
    axes.plot(range(1, len(shares)), shares[1:], marker="." if len(shares) == 2 else None, **style)


def _white_noise(axes: Axes, rows: pd.DataFrame) -> None:
    for shares in sorted({tuple(white) for white in rows["white"]}):
        axes.plot(range(1, len(shares)), shares[1:], **_WHITE_NOISE)
