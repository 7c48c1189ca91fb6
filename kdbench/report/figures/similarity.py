"""Does distillation make a student more similar to its teacher, in which frequencies, and is a better one more similar?

Change of CKA against Scratch in the low and the high band of spatial frequencies (mean over stages), a row a method and
a column a student family; below it the change of test accuracy on the same rows. Points are means over the pairs of the
family, bars 95 % t intervals over seeds, faint dots single pairs. Above stand the levels: Scratch, two seeds of Scratch
(the ceiling) and shuffled pairs (the null). At the right each dot is a method on a pair: similarity against accuracy.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from kdbench.report import stats
from kdbench.report.block import BlockReport
from kdbench.report.figures.against import baseline_of, span
from kdbench.report.figures.canvas import (
    PAGE,
    STEPS,
    below,
    beside,
    canvas,
    labels_of,
    pair_name,
    row_height,
    say,
    seeds_text,
)
from kdbench.report.figures.documents import ceilings_of, cka_of, levels_of, main_reason
from kdbench.report.figures.forest import DOT, MEAN, draw_collapsed, draw_row
from kdbench.report.figures.limits import ROWS, first, measured_of
from kdbench.report.figures.style import BANDS, NULL, method_styles, styled
from kdbench.report.pair_tables import FAMILIES

TITLE = "Similarity to the teacher by frequency band, and accuracy"
READS = ("stages", "frame")
_WORDS = {"va": "center", "fontsize": 6.5, "color": "#777777"}


@styled
def draw(report: BlockReport) -> Figure:
    block, data = report.block, cka_of(report)
    baseline, labels, styles = baseline_of(block), labels_of(block), method_styles(report.suite)
    rivals = [m.id for m in block.methods if m.id != baseline]
    methods, left_out = first(rivals, ROWS, "methods", measured_of(report, "similarity"))
    levels = {band: levels_of(data[data["band"] == band]) for band in BANDS}
    changes = {band: _minus(level, baseline, methods) for band, level in levels.items()}
    gains = stats.differences(report.frame, baseline).reindex(columns=methods)
    fallen = stats.collapsed_cells(report.frame)
    families = _families(report, data["pair"])

    names = [beside(labels[m]) for m in methods]
    height = row_height(names, 0.15) * len(methods)
    seeds = seeds_text(data["seed"].nunique())
    title = f"{block.title}: similarity to the teacher in low and high frequencies, and accuracy, {seeds}"
    figure = canvas(title, 1, 1, panel=(PAGE, max(2 * height + 2.0, 3.3)))
    outer = figure.add_gridspec(1, 2, width_ratios=[1.0 + 1.15 * len(families), 1.9])
    rows = {"height_ratios": [0.3, height, height]}
    left = outer[0].subgridspec(3, len(families), **rows).subplots(sharex="row", sharey="row", squeeze=False)
    right = outer[1].subgridspec(2, 1).subplots(sharex=True, sharey=True)

    cka_ends = _ends(changes.values(), families, fallen, least=0.01)
    gain_ends = _ends([gains], families, fallen, least=0.2)
    left[1, 0].set_xlim(*cka_ends)
    left[2, 0].set_xlim(*gain_ends)
    ceilings = ceilings_of(report)
    notes: dict[str, None] = {}
    for (family, pairs), (level, change, gain) in zip(families.items(), left.T, strict=True):
        own = data[data["pair"].isin(pairs)]
        level.set_title(f"{family} students", weight="bold")
        _level_panel(level, own, {b: x.get(baseline) for b, x in levels.items()}, ceilings, pairs)
        down = {m for pair, m in fallen if pair in pairs}
        _dumbbells(change, {b: _of(x, pairs) for b, x in changes.items()}, down, methods)
        _gain_panel(gain, _of(gains, pairs), down, styles, gain_ends)
        for pair in pairs:
            if own.loc[(own["pair"] == pair) & own["band"].isin(BANDS), "cka"].isna().all():
                part = own[(own["pair"] == pair) & own["band"].isin(BANDS)]
                notes[f"{pair_name(block, pair)}: {main_reason(part)}."] = None
    _label(left, names, labels[baseline])
    for axes, band in zip(right, BANDS, strict=True):
        _scatter(axes, _points(changes[band], gains, fallen), styles, band)
        axes.set_ylabel(f"accuracy − {labels[baseline]}")
    right[1].set_xlabel(f"CKA − {labels[baseline]}")
    shown_fallen = {m for _, m in fallen if m in methods}
    below(
        figure,
        report,
        [
            "Unbiased linear CKA of the feature maps with those of the teacher, mean over stages, by band of spatial "
            "frequencies; test accuracy in points. Points: means over the pairs of a family; bars: 95 % t intervals "
            "over seeds, cut at the axis; faint dots: single pairs.",
            *(["Ceiling: the same student trained from scratch with two seeds."] if len(ceilings) else []),
            "Right: a dot a method and pair, colours and markers as at the left; ρ: Spearman's rank correlation, in "
            "brackets its 95 % bootstrap interval over pairs.",
            *_fallen_note(labels[m] for m in methods if m in shown_fallen),
            *notes,
            *left_out,
        ],
        _legend(labels[baseline], bool(len(ceilings))),
    )
    return figure


def _families(report: BlockReport, found: Iterable[str]) -> dict[str, list[str]]:
    """Family of the student -> its measured pairs, in the order of the block."""
    measured, families = set(found), {}
    for pair in report.block.pairs:
        if pair.id in measured:
            family = report.suite.models[pair.student].family
            families.setdefault(FAMILIES.get(family, family), []).append(pair.id)
    return families


def _minus(levels: pd.DataFrame, baseline: str, methods: Sequence[str]) -> pd.DataFrame:
    """Index (pair, seed), a column a method: the level minus that of the baseline on the same pair and seed."""
    own = levels.get(baseline, pd.Series(np.nan, levels.index, dtype=float))
    return levels.reindex(columns=methods).sub(own, axis=0)


def _of(table: pd.DataFrame, pairs: Sequence[str]) -> pd.DataFrame:
    return table[table.index.get_level_values("pair").isin(pairs)]


def _ends(
    tables: Iterable[pd.DataFrame], families: Mapping[str, Sequence[str]], fallen: set[tuple[str, str]], least: float
) -> tuple[float, float]:
    """Ends of the axis that all families share, by every mean and pair but those of what collapsed."""
    seen: list[float] = []
    intervals = []
    for table, pairs in itertools.product(tables, families.values()):
        own = _of(table, pairs)
        each, over = own.groupby("pair").mean(), stats.over_pairs(own, own.index.unique("pair"))
        for method in own:
            interval = stats.paired_t_interval(over[method])
            if interval.n and not any((pair, method) in fallen for pair in pairs):
                seen += [interval.mean, *each[method].dropna()]
                intervals.append(interval)
    return span(seen, intervals, least)


def _level_panel(axes: Axes, data: pd.DataFrame, own: Mapping[str, Any], ceilings: pd.DataFrame, pairs) -> None:
    for y, (band, look) in enumerate(BANDS.items()):
        null = data.loc[data["band"] == band, ["null_low", "null_high"]].dropna()
        if len(null):
            axes.hlines(y, null["null_low"].min(), null["null_high"].max(), color="#bbbbbb", lw=5)
        if own[band] is not None:
            axes.plot(
                _of(own[band], pairs).mean(),
                y,
                color=look["color"],
                marker=look["marker"],
                markersize=4.5,
                markerfacecolor="white",
            )
        if len(ceilings):
            ceiling = ceilings[(ceilings["band"] == band) & ceilings["pair"].isin(pairs)]["cka"].mean()
            axes.plot(ceiling, y, color=look["color"], marker="|", markersize=7, markeredgewidth=1.6)
    axes.set(xlim=(-0.12, 1.05), ylim=(1.6, -0.6))
    axes.set_xticks([0, 0.5, 1], ["0", "0.5", "1"])


def _dumbbells(axes: Axes, changes: Mapping[str, pd.DataFrame], down: set[str], methods: Sequence[str]) -> None:
    axes.axvline(0, color="#444444", lw=0.8)
    means: dict[int, list[tuple[float, float]]] = {}
    for shift, (band, change) in zip((-0.17, 0.17), changes.items(), strict=True):
        look, over = BANDS[band], stats.over_pairs(change, change.index.unique("pair"))
        each = change.groupby("pair").mean()
        for y, method in enumerate(methods):
            mean, low, high, n = stats.paired_t_interval(over[method])
            if not n or method in down:
                continue
            axes.plot(each[method], np.full(len(each), y + shift), **look, **DOT)
            if low is not None:
                axes.hlines(y + shift, low, high, color=look["color"], lw=1.1)
            means.setdefault(y, []).append((mean, y + shift))
            axes.plot(mean, y + shift, **look, **MEAN)
    for ends in means.values():
        axes.plot(*zip(*ends, strict=True), color="#999999", lw=0.8, zorder=1)
    for y, method in enumerate(methods):
        if method in down:
            axes.text(0.05, y, "collapsed", transform=axes.get_yaxis_transform(), **_WORDS)
    if not means:
        say(axes, "n/a: no such band", 14)


def _gain_panel(axes: Axes, gains: pd.DataFrame, down: set[str], styles, ends: tuple[float, float]) -> None:
    axes.axvline(0, color="#444444", lw=0.8)
    each, over = gains.groupby("pair").mean(), stats.over_pairs(gains, gains.index.unique("pair"))
    for y, method in enumerate(gains):
        interval, style = stats.paired_t_interval(over[method]), styles[method]
        if method in down:
            draw_collapsed(axes, y, interval.mean, style, ": collapsed")
        elif interval.n:
            axes.plot(each[method], np.full(len(each), y), color=style["color"], marker="o", **DOT)
            draw_row(axes, y, interval, style, ends)


def _label(left: np.ndarray, names: Sequence[str], baseline: str) -> None:
    for axes in left.ravel():
        axes.tick_params(axis="y", length=0)
        axes.grid(axis="y", visible=False)
    left[0, 0].set_yticks([0, 1], ["low", "high"])
    for row in left[1:]:
        row[0].set_yticks(range(len(names)), names)
        row[0].set_ylim(len(names) - 0.5, -0.5)
        row[0].xaxis.set_major_locator(MaxNLocator(nbins=4, steps=STEPS))
    for row, label in zip(left, ("CKA", f"CKA − {baseline}", f"accuracy − {baseline}"), strict=True):
        for axes in row:
            axes.set_xlabel(label)


def _points(change: pd.DataFrame, gains: pd.DataFrame, fallen: set[tuple[str, str]]) -> pd.DataFrame:
    """Index (pair, method), means over seeds: columns cka and accuracy, without what collapsed."""
    means = {"cka": change, "accuracy": gains}
    points = pd.DataFrame({name: x.groupby("pair").mean().stack() for name, x in means.items()}).dropna()
    return points.loc[~points.index.isin(fallen)].rename_axis(["pair", "method"])


def _scatter(axes: Axes, points: pd.DataFrame, styles, band: str) -> None:
    axes.axhline(0, color="#444444", lw=0.8)
    axes.axvline(0, color="#444444", lw=0.8)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=4, steps=STEPS))
    if points.empty:
        say(axes, "no result")
    for method, own in points.groupby("method", sort=False):
        look = {k: styles[method][k] for k in ("color", "marker")}
        axes.plot(own["cka"], own["accuracy"], **look, linestyle="", markersize=4, alpha=0.85, markeredgewidth=0)
    pairs = points.index.get_level_values("pair").to_numpy()
    mean, low, high, _ = stats.spearman_interval(points["cka"], points["accuracy"], pairs)
    found = "" if mean is None else f"\nρ = {mean:.2f}" + ("" if low is None else f" [{low:.2f}, {high:.2f}]")
    axes.set_title(f"{band} band{found}".replace("-", "−"))


def _fallen_note(labels: Iterable[str]) -> list[str]:
    names = ", ".join(labels)
    return [f"Collapsed (below half of Scratch's accuracy on a pair; not at the right): {names}."] if names else []


def _legend(baseline: str, ceiling: bool) -> dict[str, Any]:
    entries = {f"{band} band": Line2D([], [], **look, **MEAN) for band, look in BANDS.items()}
    entries[f"level of {baseline}"] = Line2D([], [], color="#444444", marker="o", markerfacecolor="white", linestyle="")
    if ceiling:
        tick = {"marker": "|", "markersize": 7, "markeredgewidth": 1.6, "linestyle": ""}
        entries[f"two seeds of {baseline} (ceiling)"] = Line2D([], [], color="#444444", **tick)
    entries["shuffled pairs (null)"] = Patch(color=NULL)
    return entries
