"""Mean cosine of two modalities' features, raw and by channel band, for each treatment; one panel a pair of models.

Intervals are 95 % t intervals over seeds, or over test samples where there is one seed only. The tick marks what two
vectors would reach that share a channel mean and nothing else.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from kdbench.report import stats
from kdbench.report.block import BlockReport
from kdbench.report.figures.canvas import arrange, below, canvas, panel_grid, plain, say, seeds_text
from kdbench.report.figures.documents import listed, main_reason, rows_of
from kdbench.report.figures.limits import PANELS, first, measured_of
from kdbench.report.figures.style import styled

TITLE = "Agreement of two modalities by channel frequency and treatment"
READS = ("channels",)
SUPPLEMENT = True
_BAND_COLOURS = {"raw": "#999999", "low": "#0072B2", "high": "#E69F00"}
_ROTATED = (
    "Rotated: one side is brought closest to the other by a rotation fitted on validation, with means over channels "
    "and over validation taken off. Random halves: in place of the two bands.",
)


@styled
def draw(report: BlockReport) -> Figure:
    data = pd.concat([rows_of(report, "channels", "a", "b"), pd.DataFrame(_further(report))], ignore_index=True)
    for column in ("cosine", "low", "high", "null_prediction"):
        data[column] = pd.to_numeric(data[column], errors="coerce").astype(float)
    treatments = list(dict.fromkeys(data["treatment"]))
    everyone = list(dict.fromkeys(zip(data["a"], data["b"], strict=True)))
    told = data.dropna(subset="cosine")
    # Where no two networks can be compared every panel says why; else those that cannot are named below.
    models = list(dict.fromkeys(zip(told["a"], told["b"], strict=True))) or everyone
    absent: dict[str, list[str]] = {}
    for (a, b), rows in data.groupby(["a", "b"], sort=False):
        if (a, b) not in models:
            absent.setdefault(main_reason(rows), []).append(f"{a} and {b}")
    models, left_out = first(models, PANELS, "pairs of models", measured_of(report, "channels"))
    seeds, rotated = data["seed"].nunique(), any(treatment.startswith("rotated") for treatment in treatments)
    shape = arrange(len(models), 2)
    title = f"{report.block.title}: do two modalities agree in low channel frequencies? {seeds_text(seeds)}"
    figure = canvas(title, *shape, panel=(1.8, 0.5 + 0.34 * len(treatments)), labels=1.2)
    panels = panel_grid(figure, shape, range(len(models)), "mean cosine\nof two features")
    for axes, (a, b) in zip(panels, models, strict=True):
        _channel_panel(axes, data[(data["a"] == a) & (data["b"] == b)], treatments)
        axes.set_title(textwrap.fill(plain(f"{a} and {b}"), 34))
    # DC is the mean over space in all other figures; here it is the mean over channels.
    named = [plain(t).replace("DC", "channel mean") for t in treatments]
    names = [",\n".join(textwrap.fill(part, 26) for part in t.split(", ")) for t in named]
    panels[0].set_yticks(range(len(treatments)), names)
    panels[0].set_ylim(len(treatments) - 0.5, -0.5)
    bands = ("raw feature", "low channel band", "high channel band")
    entries = {name: Patch(color=colour) for name, colour in zip(bands, _BAND_COLOURS.values(), strict=True)}
    tick = Line2D([], [], color="black", marker="|", markersize=9, markeredgewidth=1.8, linestyle="")
    entries |= {"null prediction: a shared channel mean only": tick}
    whiskers = "95 % t interval over seeds"
    if seeds == 1:
        whiskers = "one seed: 95 % bootstrap interval over test samples; where permuted or shuffled, 95 % of draws"
    below(
        figure,
        report,
        [
            f"Whiskers: {whiskers}.",
            "Frequencies run along the channel index, not over space: the channel mean is frequency 0 and part of the "
            "low band where it is kept.",
            "Permuted channels: each side in a random order of its own, as in two networks whose channels do not "
            "correspond. Shuffled pairs: each sample is paired with a random sample of the other side, or with one "
            "of its own class.",
            *(_ROTATED if rotated else ()),
            *(f"n/a: {', '.join(pairs)}: {reason}" for reason, pairs in absent.items()),
            *left_out,
        ],
        entries,
    )
    return figure


def _further(report: BlockReport) -> list[dict[str, Any]]:
    """Untrained networks, and trained ones in a common basis, as rows of a treatment; older results have neither."""
    rows = []
    for row in listed(report, "channels", "a", "b", key="others"):
        if row["networks"].endswith(" untrained"):
            rows.append({**row, "treatment": f"untrained, {row['treatment']}"})
    for row in listed(report, "channels", "a", "b", key="rotated"):
        if row["band"] in _BAND_COLOURS:
            rows.append({**row, "treatment": "rotated"})
            for null, name in (("shuffled", "rotated, shuffled pairs"), ("split", "rotated, random halves")):
                low, high = row[f"{null}_low"], row[f"{null}_high"]
                middle = None if low is None else (low + high) / 2
                rows.append({**row, "treatment": name, "cosine": middle, "low": low, "high": high})
    return rows


def _channel_panel(axes: Axes, data: pd.DataFrame, treatments: Sequence[str]) -> None:
    axes.axvline(0, color="#444444", lw=0.8)
    if data["cosine"].notna().sum() == 0:
        say(axes, main_reason(data))
    for (treatment, band), rows in data.groupby(["treatment", "band"]):
        mean, low, high, n = stats.paired_t_interval(rows["cosine"])
        if n == 0:
            continue
        y = treatments.index(treatment) + 0.27 * (list(_BAND_COLOURS).index(band) - 1)
        axes.barh(y, mean, height=0.24, color=_BAND_COLOURS[band])
        if n == 1:
            low, high = rows["low"].mean(), rows["high"].mean()
        if low is not None and np.isfinite([low, high]).all():
            axes.hlines(y, low, high, color="#222222", lw=0.9)
        null = rows["null_prediction"].mean()
        if np.isfinite(null):
            axes.plot(null, y, marker="|", markersize=9, markeredgewidth=1.8, color="black")
