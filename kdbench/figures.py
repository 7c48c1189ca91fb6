"""Figures as a person reads them: one style, one colour and marker a method, SVG and PNG.

Every function takes the suite and the block (labels, order, colours), its numbers, and a path stem, and returns the two
paths written. Colours and markers follow the order of methods in the suite, so they agree in all figures of a suite.
Figures carry no date and a fixed salt: the same numbers give the same bytes.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from kdbench import stats
from kdbench.checkpoint import atomic
from kdbench.types import Block, KdbenchError, Suite

STYLE = {
    "font.family": "DejaVu Sans",
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.labelsize": 8,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7,
    "legend.frameon": False,
    "figure.titlesize": 10,
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
_styled = matplotlib.rc_context(STYLE)

# Okabe and Ito's palette without black (KD) and yellow (too pale for a line on white).
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
_MARKERS = "^vDPX*<>phdH8sox+1"
_LINES = ("-", "--", ":")
_FIXED = {
    "scratch": {"color": "#777777", "marker": "s", "linestyle": "-"},
    "kd": {"color": "#000000", "marker": "o", "linestyle": "-"},
}
_BEFORE = {"color": "#aaaaaa", "marker": "o", "linestyle": "--", "markerfacecolor": "white"}
_BANDS = {"dc": "DC", "low": "low frequencies", "high": "high frequencies"}
_BAND_COLOURS = {"raw": "#999999", "low": "#0072B2", "high": "#E69F00"}
_KINDS = {"weak": "weak teacher", "undecided": "teacher or scratch unknown"}
_COLUMNS = 4


def method_styles(suite: Suite) -> dict[str, dict[str, str]]:
    """Method id -> colour, marker and line of every figure. Eighteen besides scratch and KD differ in marker."""
    ids = dict.fromkeys(m.id for block in suite.blocks for m in block.methods)
    styles = {}
    for i, method in enumerate(m for m in ids if m not in _FIXED):
        line = _LINES[i // len(_COLOURS) % len(_LINES)]
        styles[method] = {
            "color": _COLOURS[i % len(_COLOURS)],
            "marker": _MARKERS[i % len(_MARKERS)],
            "linestyle": line,
        }
    return styles | {m: _FIXED[m] for m in ids if m in _FIXED}


# ---------------------------------------------------------------------------------------------------------- the canvas


def _canvas(title: str, rows: int, columns: int, panel: tuple[float, float], side: float) -> Figure:
    """A figure of rows x columns panels of this size, `side` for a legend or long tick labels; all in inches."""
    width = max(columns * panel[0], 4.2)
    title = _wrapped(title, width, size=10)
    figure = Figure(figsize=(width + side, rows * panel[1] + 0.3 + 0.18 * _lines(title)), layout="constrained")
    figure.suptitle(title, x=0.01, ha="left", weight="bold")
    return figure


def _arrange(panels: int) -> tuple[int, int]:
    """Rows and columns, at most four columns and as evenly filled as can be."""
    rows = -(-panels // _COLUMNS)
    return rows, -(-panels // rows)


def _panels(figure: Figure, shape: tuple[int, int], n: int, xlabel: str) -> list[Axes]:
    """The first n of a grid of axes that share both scales; the lowest of each column carries the label."""
    axes = figure.subplots(*shape, sharex=True, sharey=True, squeeze=False).ravel()
    for i, one in enumerate(axes):
        one.set_visible(i < n)
        lowest = i + shape[1] >= n
        one.tick_params(labelbottom=lowest)
        one.set_xlabel(xlabel if lowest else "")
    return list(axes[:n])


def _wrapped(text: str, inches: float, size: float) -> str:
    return textwrap.fill(_plain(text), max(int(inches * 72 / (size * 0.64)), 12))


def _lines(text: str) -> int:
    return text.count("\n") + 1


def _plain(text: Any) -> str:
    return " ".join("".join(c if c.isprintable() else " " for c in str(text)).split())


def _legend(figure: Figure, entries: Mapping[str, Any]) -> None:
    """Legend to the right of the panels. matplotlib hides labels that begin with an underscore; a space saves them."""
    labels = [textwrap.fill(_plain(name), 26) for name in entries]
    labels = [f" {label}" if label.startswith("_") else label for label in labels]
    figure.legend(list(entries.values()), labels, loc="outside right upper")
    figure.set_figheight(max(figure.get_figheight(), 0.3 + 0.16 * sum(map(_lines, labels))))


def _footnote(figure: Figure, sentences: Iterable[str]) -> None:
    text = "\n".join(_wrapped(sentence, figure.get_figwidth(), size=7) for sentence in sentences)
    figure.set_figheight(figure.get_figheight() + 0.14 * _lines(text))
    figure.supxlabel(text, x=0.01, ha="left", fontsize=7, color="#444444")


def _say(axes: Axes, text: str, width: int = 24) -> None:
    """A panel without data says why."""
    axes.text(
        0.5,
        0.5,
        textwrap.fill(_plain(text), width),
        transform=axes.transAxes,
        ha="center",
        va="center",
        color="#777777",
    )


def _pair_title(block: Block, pair: str) -> str:
    names = {p.id: f"{p.teacher or 'no teacher'} → {p.student}" for p in block.pairs}
    return textwrap.fill(_plain(names.get(pair, pair)), 30)


def _labels(block: Block) -> dict[str, str]:
    return {m.id: _plain(m.label) for m in block.methods}


def _seeds(n: int) -> str:
    return f"{n} seed{'' if n == 1 else 's'}"


def _write(figure: Figure, stem: Path) -> list[Path]:
    figure.draw_without_rendering()
    figure.set_layout_engine("none")  # laid out once, for both files: it is what takes the time
    paths = []
    for suffix, metadata in (("svg", {"Date": None, "Creator": None}), ("png", {"Software": None})):
        path = Path(stem).with_name(f"{Path(stem).name}.{suffix}")
        with atomic(path) as file:
            figure.savefig(file, format=suffix, dpi=150, metadata=metadata)
        paths.append(path)
    return paths


def _rows_of(documents: Sequence[Mapping[str, Any]], kind: str, block: Block, *keys: str) -> pd.DataFrame:
    rows = [{**{k: d[k] for k in keys}, **row} for d in documents if d["kind"] == kind for row in d["rows"]]
    if not rows:
        raise KdbenchError(f"no {kind} similarity for block {block.name!r}: there is nothing to draw")
    return pd.DataFrame(rows)


# --------------------------------------------------------------------------------------------- (a) similarity by stage


@_styled
def stage_figure(suite: Suite, block: Block, documents: Sequence[Mapping[str, Any]], stem: Path) -> list[Path]:
    """CKA of teacher and student by stage (across), band (down) and pair (panels), before and after each method.

    `documents` are the JSON files of kind `stages` of this block. Points are means over seeds, whiskers their range,
    grey the shuffled-pair null. Raises KdbenchError where there are none.
    """
    data = _rows_of(documents, "stages", block, "pair")
    data["reason"] = data["reason"].astype(object).where(data["reason"].notna(), None)
    for column in ("cka", "null_low", "null_high"):
        data[column] = pd.to_numeric(data[column], errors="coerce").astype(float)
    known = [p.id for p in block.pairs]
    pairs = sorted(data["pair"].unique(), key=lambda p: known.index(p) if p in known else len(known))
    methods = ["before", *(m.id for m in block.methods if m.id in set(data["method"]))]
    decks, columns = _arrange(len(pairs))
    title = (
        f"{block.title}: similarity of teacher and student by stage (unbiased CKA), {_seeds(data['seed'].nunique())}"
    )
    figure = _canvas(title, 3 * decks, columns, panel=(2.0 + 0.04 * len(methods), 1.6), side=2.0)
    grid = figure.subplots(3 * decks, columns, sharex=True, sharey=True, squeeze=False)
    styles, labels = method_styles(suite) | {"before": _BEFORE}, _labels(block) | {"before": "before training"}
    notes: dict[str, None] = {}
    for i in range(decks * columns):
        deck, column = divmod(i, columns)
        for row, (band, name) in enumerate(_BANDS.items()):
            axes = grid[3 * deck + row, column]
            if i >= len(pairs):
                axes.set_visible(False)
                continue
            part = data[(data["pair"] == pairs[i]) & (data["band"] == band)]
            _stage_panel(axes, part, methods, styles, labels, notes)
            if row == 0:
                axes.set_title(_pair_title(block, pairs[i]))
            if column == 0:
                axes.set_ylabel(f"{name}\nCKA")
            last = row == 2 and i + columns >= len(pairs)
            axes.tick_params(labelbottom=last)
            if last:
                axes.set_xlabel("stage")
    grid[0, 0].set(xlim=(0.4, 4.6), xticks=range(1, 5), ylim=(min(-0.08, data["cka"].min() - 0.05), 1.05))
    entries = {labels[m]: Line2D([], [], **styles[m]) for m in methods}
    _legend(figure, entries | {"shuffled pairs (null)": Patch(color="#d9d9d9")})
    _footnote(figure, ["Points: mean over seeds; whiskers: range over seeds.", *notes])
    return _write(figure, stem)


def _main_reason(rows: pd.DataFrame) -> str:
    """Why all of these are n/a: the most frequent reason, since single runs may have failed for their own."""
    reasons = [r for r in rows["reason"] if r]
    return max(dict.fromkeys(reasons), key=reasons.count, default="no result yet")


def _stage_panel(axes: Axes, data: pd.DataFrame, methods, styles, labels, notes: dict[str, None]) -> None:
    if data["cka"].notna().sum() == 0:
        _say(axes, f"n/a: {_main_reason(data)}")
        return
    for stage, at in data.groupby("stage"):
        null = at[["null_low", "null_high"]].dropna()
        if len(null):
            axes.fill_between(
                [stage - 0.42, stage + 0.42], null["null_low"].min(), null["null_high"].max(), color="#d9d9d9", lw=0
            )
        if at["cka"].isna().all():
            axes.text(stage, 0.5, "n/a", rotation=90, ha="center", va="center", color="#777777", fontsize=7)
            notes[f"n/a: {_main_reason(at)}"] = None
    seen = data.groupby("stage")["cka"].transform(lambda x: x.notna().any())
    for method, lost in data[data["cka"].isna() & seen].groupby("method"):
        notes |= {f"{labels.get(method, method)}: {r}": None for r in lost["reason"] if r}
    dodge = np.linspace(-0.3, 0.3, len(methods)) if len(methods) > 1 else [0.0]
    for method, shift in zip(methods, dodge, strict=True):
        by_stage = data[data["method"] == method].groupby("stage")["cka"].agg(["mean", "min", "max"]).dropna()
        x = by_stage.index + shift
        axes.vlines(x, by_stage["min"], by_stage["max"], color=styles[method]["color"], lw=0.8)
        axes.plot(x, by_stage["mean"], **{**styles[method], "linewidth": 0.7})


# ------------------------------------------------------------------------------------------- (b) similarity of channels


@_styled
def channel_figure(suite: Suite, block: Block, documents: Sequence[Mapping[str, Any]], stem: Path) -> list[Path]:
    """Mean cosine of two modalities' features: bars raw, low, high for each treatment, one panel a pair of models.

    `documents` are the JSON files of kind `channels` of this block. Intervals: 95 % t over seeds, or the one of the
    samples where there is one seed only. The tick is what vectors give that share nothing but a channel mean.
    Raises KdbenchError where there are none.
    """
    data = _rows_of(documents, "channels", block, "a", "b")
    for column in ("cosine", "low", "high", "null_prediction"):
        data[column] = pd.to_numeric(data[column], errors="coerce").astype(float)
    treatments = list(dict.fromkeys(data["treatment"]))
    models = list(dict.fromkeys(zip(data["a"], data["b"], strict=True)))
    seeds = data["seed"].nunique()
    shape = _arrange(len(models))
    title = f"{block.title}: do two modalities agree in low channel frequencies? {_seeds(seeds)}"
    figure = _canvas(title, *shape, panel=(2.6, 0.6 + 0.42 * len(treatments)), side=3.2)
    panels = _panels(figure, shape, len(models), "mean cosine of two features")
    for axes, (a, b) in zip(panels, models, strict=True):
        _channel_panel(axes, data[(data["a"] == a) & (data["b"] == b)], treatments)
        axes.set_title(textwrap.fill(_plain(f"{a} and {b}"), 34))
    names = [",\n".join(textwrap.fill(part, 26) for part in _plain(t).split(", ")) for t in treatments]
    panels[0].set_yticks(range(len(treatments)), names)
    panels[0].set_ylim(len(treatments) - 0.5, -0.5)
    bands = ("raw feature", "low channel band", "high channel band")
    entries = {name: Patch(color=colour) for name, colour in zip(bands, _BAND_COLOURS.values(), strict=True)}
    tick = Line2D([], [], color="black", marker="|", markersize=9, markeredgewidth=1.8, linestyle="")
    _legend(figure, entries | {"null prediction: a shared channel mean only": tick})
    over = "over seeds (t)" if seeds > 1 else "over test samples, one seed"
    _footnote(figure, [f"Whiskers: 95 % interval {over}."])
    return _write(figure, stem)


def _channel_panel(axes: Axes, data: pd.DataFrame, treatments: Sequence[str]) -> None:
    axes.axvline(0, color="#444444", lw=0.8)
    if data["cosine"].notna().sum() == 0:
        _say(axes, "no finite cosine")
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


# ---------------------------------------------------------------------------------------------- accuracy, forest plot


@_styled
def accuracy_figure(suite: Suite, block: Block, frame: pd.DataFrame, stem: Path) -> list[Path]:
    """Forest plot: each method's paired difference to KD, over the headline pairs first and then pair by pair.

    Where the block has no KD, differences are to scratch. Points are means over seeds, bars 95 % t intervals; an open
    point has no interval. `frame` is the block's table of runs.
    """
    ids = [m.id for m in block.methods]
    baseline = next((b for b in ("kd", "scratch") if b in ids), None)
    if baseline is None or len(ids) < 2:
        raise KdbenchError(f"block {block.name!r} has no KD and no scratch to hold its methods against")
    labels, styles = _labels(block), method_styles(suite)
    methods = [m for m in ids if m != baseline]
    delta, kinds = stats.differences(frame, baseline), stats.headline_pairs(frame)["kind"]
    verdict = stats.verdict(frame, baseline)
    states = frame.groupby(["pair", "method"])["status"].agg(lambda s: s.iloc[0] if s.nunique() == 1 else "incomplete")
    columns_of = ["difference", "low", "high", "n"]
    over = {m: (stats.Interval(*verdict.loc[m, columns_of]), "no complete seed") for m in methods}
    headline = int((kinds == "headline").sum())
    panels = {f"mean of {headline} headline pair{'' if headline == 1 else 's'}": ("headline", over)}
    for pair in kinds.index:
        each = {m: (stats.paired_t_interval(delta.loc[pair, m]), states.get((pair, m))) for m in methods}
        panels[pair] = (kinds[pair], each)

    shape = _arrange(len(panels))
    seeds = frame["seed"].nunique()
    title = f"{block.title}: paired difference to {labels[baseline]}, test accuracy, {_seeds(seeds)}"
    figure = _canvas(title, *shape, panel=(1.9, 0.6 + 0.2 * len(methods)), side=1.6)
    limit = _reach([interval for _, each in panels.values() for interval, _ in each.values()])
    grid = _panels(figure, shape, len(panels), "points")
    for axes, (name, (kind, each)) in zip(grid, panels.items(), strict=True):
        heading = _pair_title(block, name)
        axes.set_title(heading if kind == "headline" else f"{heading}\n({_KINDS[kind]})")
        _forest_panel(axes, each, styles, limit)
    grid[0].set_facecolor("#eef4fa")
    grid[0].set_title(grid[0].get_title(), weight="bold")
    grid[0].set_yticks(range(len(methods)), [textwrap.fill(labels[m], 26) for m in methods])
    grid[0].set(ylim=(len(methods) - 0.5, -0.5), xlim=(-limit, limit))
    _footnote(
        figure,
        [
            f"Right of 0: better than {labels[baseline]}. Bars: 95 % t interval over seeds, arrow: it goes beyond the "
            "frame; open point: no interval. Weak and undecided pairs are not in the first panel."
        ],
    )
    return _write(figure, stem)


def _reach(intervals: Sequence[stats.Interval]) -> float:
    """Half-width of the axis: all means, and intervals as far as they do not dwarf everything else."""
    means = [abs(i.mean) for i in intervals if i.n and np.isfinite(i.mean)]
    halves = [i.high - i.mean for i in intervals if i.low is not None and np.isfinite(i.low)]
    return 1.1 * max([*means, 0.5]) + 2 * (float(np.median(halves)) if halves else 0.0)


def _forest_panel(axes: Axes, each: Mapping[str, tuple[stats.Interval, str | None]], styles, limit: float) -> None:
    axes.axvline(0, color="#444444", lw=0.8)
    for y, (method, (interval, why)) in enumerate(each.items()):
        mean, low, high, n = interval
        if not n:
            box = {"facecolor": axes.get_facecolor(), "edgecolor": "none", "pad": 1}
            axes.text(0, y, why or "no result", ha="center", va="center", color="#777777", fontsize=6.5, bbox=box)
            continue
        style = {"color": styles[method]["color"], "marker": styles[method]["marker"]}
        certain = low is not None and np.isfinite(low)
        if certain:
            axes.hlines(y, max(low, -limit), min(high, limit), color=style["color"], lw=1.2)
            for end, beyond, arrow in ((-limit, low < -limit, "<"), (limit, high > limit, ">")):
                if beyond:
                    axes.plot(end, y, marker=arrow, color=style["color"], markersize=5, clip_on=False)
        axes.plot(mean, y, **style, markersize=5, **({} if certain else {"markerfacecolor": "white"}))


# ----------------------------------------------------------------------------------------------------- learning curves


@_styled
def learning_figure(suite: Suite, block: Block, curves: pd.DataFrame, stem: Path) -> list[Path]:
    """Test accuracy against step, one panel a pair; lines are means over seeds, bands one standard deviation.

    `curves` has the columns pair, method, seed, step, test_accuracy (percent). Raises KdbenchError where it is empty.
    """
    curves = curves[np.isfinite(pd.to_numeric(curves["test_accuracy"], errors="coerce").astype(float))]
    if curves.empty:
        raise KdbenchError(f"no learning curve for block {block.name!r}: there is nothing to draw")
    labels, styles = _labels(block), method_styles(suite)
    pairs = [p.id for p in block.pairs]
    methods = [m.id for m in block.methods if m.id in set(curves["method"])]
    shape = _arrange(len(pairs))
    title = f"{block.title}: learning curves, {_seeds(curves['seed'].nunique())} (decide nothing; the last step counts)"
    figure = _canvas(title, *shape, panel=(2.3, 2.1), side=2.0)
    for i, axes in enumerate(_panels(figure, shape, len(pairs), "step")):
        part = curves[curves["pair"] == pairs[i]]
        axes.xaxis.set_major_locator(MaxNLocator(nbins=5, integer=True))
        axes.set_title(_pair_title(block, pairs[i]))
        if part.empty:
            _say(axes, "no result yet")
        for method in methods:
            at = part[part["method"] == method].groupby("step")["test_accuracy"].agg(["mean", "std"])
            style = styles[method]
            axes.plot(at.index, at["mean"], color=style["color"], linestyle=style["linestyle"])
            axes.plot(at.index[-1:], at["mean"].iloc[-1:], color=style["color"], marker=style["marker"], linestyle="")
            axes.fill_between(
                at.index, at["mean"] - at["std"], at["mean"] + at["std"], color=style["color"], alpha=0.12, lw=0
            )
        if i % shape[1] == 0:
            axes.set_ylabel("test accuracy, %")
    _legend(figure, {labels[m]: Line2D([], [], **styles[m]) for m in methods})
    _footnote(figure, ["Lines: mean over seeds; bands: ± one standard deviation."])
    return _write(figure, stem)
