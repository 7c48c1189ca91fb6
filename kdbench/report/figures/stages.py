"""CKA of teacher and student at each of four stages, before training and after each method.

One row of panels a pair, one column a frequency band. Points are means over seeds, whiskers the range over seeds, grey
the range of shuffled pairs. Single views show one pair or one method in one band.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from kdbench.report.block import BlockReport
from kdbench.report.figures.canvas import (
    COLUMN,
    arrange,
    below,
    canvas,
    labels_of,
    pair_title,
    panel_grid,
    say,
    seeds_text,
)
from kdbench.report.figures.documents import BANDS, cka_of, known_pairs, main_reason
from kdbench.report.figures.limits import PANELS, ROWS, first, measured_of
from kdbench.report.figures.style import BEFORE, NULL, method_styles, styled

TITLE = "Similarity of teacher and student by stage and frequency band"
READS = ("stages",)
SUPPLEMENT = True


@styled
def draw(report: BlockReport) -> Figure:
    block, data = report.block, cka_of(report)
    pairs, methods, left_out = _shown(report, data)
    methods = ["before", *methods]
    title = f"{block.title}: CKA of teacher and student by stage, {seeds_text(data['seed'].nunique())}"
    panel = (1.5 + 0.01 * len(methods), 1.6 if len(pairs) < 4 else 1.15)
    figure = canvas(title, len(pairs), len(BANDS), panel, labels=0.4)
    grid = figure.subplots(len(pairs), len(BANDS), sharex=True, sharey=True, squeeze=False)
    _scale(grid[0, 0], data)
    styles, labels = method_styles(report.suite) | {"before": BEFORE}, labels_of(block) | {"before": "before training"}
    notes: dict[str, None] = {}
    measured = dict(iter(data.groupby(["pair", "band"])))
    for pair, row in zip(pairs, grid, strict=True):
        for band, axes in zip(BANDS, row, strict=True):
            part = measured.get((pair, band), data.iloc[:0])
            _stage_panel(axes, part, methods, styles, labels, notes)
        row[0].set_ylabel(f"{pair_title(block, pair, 18)}\nCKA")
    for axes, name in zip(grid[0], BANDS.values(), strict=True):
        axes.set_title(name)
    for axes in grid[-1]:
        axes.set_xlabel("stage")
    _stage_legend(figure, report, methods, styles, labels, [*notes, *left_out])
    return figure


def _shown(report: BlockReport, data: pd.DataFrame) -> tuple[list[str], list[str], list[str]]:
    """Pairs, methods, and what is said of those that are left out."""
    where, known = measured_of(report, "similarity"), set(data["method"])
    pairs, left_out = first(known_pairs(report.block, data["pair"]), PANELS, "pairs", where)
    methods, more = first((m.id for m in report.block.methods if m.id in known), ROWS, "methods", where)
    if left_out:
        left_out.append("There are no single views by method: each would lack pairs.")
    return pairs, methods, left_out + more


def views(report: BlockReport) -> Iterator[tuple[str, Figure]]:
    """by-pair/PAIR-BAND (its methods) and, where all pairs fit one figure, by-method/METHOD-BAND (its pairs).

    The low and the high band of a view share one scale, so that they can be compared.
    """
    data = cka_of(report)
    data = data[data["band"].isin(("low", "high"))]
    pairs, methods, left_out = _shown(report, data)
    shown = {f"by-pair/{pair}": ([pair], methods) for pair in pairs}
    if len(pairs) == data["pair"].nunique():
        shown |= {f"by-method/{method}": (pairs, [method]) for method in methods}
    for name, (own, compared) in shown.items():
        part = data[data["pair"].isin(own) & data["method"].isin(["before", *compared])]
        for band in ("low", "high"):
            yield f"{name}-{band}", _view(report, part, own, ["before", *compared], band, left_out)


@styled
def _view(
    report: BlockReport,
    data: pd.DataFrame,
    pairs: Sequence[str],
    methods: Sequence[str],
    band: str,
    left_out: Sequence[str],
) -> Figure:
    block, shape = report.block, arrange(len(pairs), most=4)
    panel = (COLUMN, 2.5) if len(pairs) == 1 else (1.7, 1.5)
    title = f"{block.title}: CKA of teacher and student by stage, {BANDS[band]}"
    figure = canvas(f"{title}, {seeds_text(data['seed'].nunique())}", *shape, panel)
    axes, notes = panel_grid(figure, shape, range(len(pairs)), "stage"), {}
    _scale(axes[0], data)
    styles, labels = method_styles(report.suite) | {"before": BEFORE}, labels_of(block) | {"before": "before training"}
    for pair, one in zip(pairs, axes, strict=True):
        _stage_panel(one, data[(data["pair"] == pair) & (data["band"] == band)], methods, styles, labels, notes)
        one.set_title(pair_title(block, pair))
    axes[0].set_ylabel("CKA")
    _stage_legend(figure, report, methods, styles, labels, [*notes, *left_out])
    return figure


def _stage_legend(
    figure: Figure, report: BlockReport, methods: Sequence[str], styles, labels, notes: Iterable[str]
) -> None:
    entries = {labels[m]: Line2D([], [], **styles[m]) for m in methods}
    entries |= {"shuffled pairs (null)": Patch(color=NULL)}
    what = "Unbiased linear CKA of the feature maps, by band of spatial frequencies."
    below(
        figure,
        report,
        [f"{what} Points: means over seeds; whiskers: range over seeds, not a confidence interval.", *notes],
        entries,
    )


def _scale(axes: Axes, data: pd.DataFrame) -> None:
    """Fix the scale that all panels share, before anything is drawn: each artist would have it computed anew."""
    axes.set(xlim=(0.4, 4.6), xticks=range(1, 5), ylim=(min(-0.08, data["cka"].min() - 0.05), 1.05))


def _stage_panel(axes: Axes, data: pd.DataFrame, methods, styles, labels, notes: dict[str, None]) -> None:
    if data["cka"].notna().sum() == 0:
        say(axes, f"n/a: {main_reason(data)}")
        return
    for stage, at in data.groupby("stage"):
        null = at[["null_low", "null_high"]].dropna()
        if len(null):
            axes.fill_between(
                [stage - 0.42, stage + 0.42], null["null_low"].min(), null["null_high"].max(), color=NULL, lw=0
            )
        if at["cka"].isna().all():
            axes.text(stage, 0.5, "n/a", rotation=90, ha="center", va="center", color="#777777", fontsize=7)
            notes[f"n/a: {main_reason(at)}"] = None
    seen = data.groupby("stage")["cka"].transform("count") > 0
    for method, lost in data[data["cka"].isna() & seen].groupby("method"):
        notes |= {f"{labels.get(method, method)}: {r}": None for r in lost["reason"] if r}
    dodge = np.linspace(-0.3, 0.3, len(methods)) if len(methods) > 1 else [0.0]
    levels = data.groupby(["method", "stage"])["cka"].agg(["mean", "min", "max"]).dropna()
    by_method = {method: rows.droplevel("method") for method, rows in levels.groupby(level="method")}
    for method, shift in zip(methods, dodge, strict=True):
        by_stage = by_method.get(method, levels.iloc[:0].droplevel("method"))
        x = by_stage.index + shift
        axes.vlines(x, by_stage["min"], by_stage["max"], color=styles[method]["color"], lw=0.8)
        axes.plot(x, by_stage["mean"], **{**styles[method], "linewidth": 0.7})
