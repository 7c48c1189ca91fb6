"""Figures as a person reads them: one style, one colour and marker a method, SVG and PNG.

Every function takes the suite and the block (labels, order, colours), its numbers, and a path stem, and returns the two
paths written. Colours and markers follow the order of methods in the suite, so they agree in all figures of a suite.
A tuned twin has its method's colour. Figures carry no date and a fixed salt: the same numbers give the same bytes.

What sums a block up (`verdict_figure`, `cost_figure`, `summary_figure`) and every single view of `stage_views` fit a
column of a page; what shows pair by pair fits a page.
"""

from __future__ import annotations

import itertools
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
from matplotlib.patches import Patch, Rectangle
from matplotlib.ticker import Locator, LogLocator, MaxNLocator, NullLocator

from kdbench.files import atomic
from kdbench.report import stats
from kdbench.types import Block, KdbenchError, Suite

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
_styled = matplotlib.rc_context(STYLE)
COLUMN = 3.5
"""Width of a journal's column, inches: no figure is narrower."""

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
_BEFORE = {"color": "#aaaaaa", "marker": "o", "linestyle": "--", "markerfacecolor": "white"}
_TEACHER = {"color": "#b8a9e0", "linestyle": "-", "linewidth": 3.0}
_WHITE_NOISE = {"color": "#777777", "linestyle": ":", "linewidth": 0.8}
# Tol's muted palette: networks never share a colour with a method.
_NETWORK_COLOURS = ("#332288", "#CC6677", "#117733", "#88CCEE", "#AA4499", "#999933", "#44AA99", "#882255", "#DDCC77")
_CHANGES = "PuOr"
_BANDS = {"dc": "DC: mean over space", "low": "low spatial frequencies", "high": "high spatial frequencies"}
_BAND_COLOURS = {"raw": "#999999", "low": "#0072B2", "high": "#E69F00"}
_NULL = "#d9d9d9"
_STEPS = [1, 2, 5, 10]
_DPI = 150
_NO_DATE = {"svg": {"Date": None, "Creator": None}, "png": {"Software": None}}
_KINDS = {"weak": "weak teacher", "undecided": "teacher or scratch unknown"}


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


# ---------------------------------------------------------------------------------------------------------- the canvas


def _canvas(title: str, rows: int, columns: int, panel: tuple[float, float], labels: float = 0.0) -> Figure:
    """rows x columns panels of this size, with room for labels at their left; inches."""
    width = max(columns * panel[0] + labels, COLUMN)
    title = _wrapped(title, width, size=STYLE["figure.titlesize"])
    size = (width, rows * panel[1] + 0.3 + 0.16 * _lines(title))
    figure = Figure(figsize=size, layout="constrained", dpi=_DPI)  # text is not as wide at another resolution
    figure.suptitle(title, x=0.01, ha="left", weight="bold")
    return figure


def _arrange(panels: int, most: int) -> tuple[int, int]:
    """Rows and columns, at most `most` columns and as evenly filled as can be."""
    rows = -(-panels // most)
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


def _below(figure: Figure, sentences: Iterable[str], *legends: Mapping[str, Any], titles: Sequence[str] = ()) -> None:
    """Legends, from top to bottom, and footnote under the panels, for which the figure grows."""
    width = figure.get_figwidth()
    note = "\n".join(_wrapped(sentence, width, size=7) for sentence in sentences)
    columns = max(int(width / 1.7), 1)
    legends = [entries for entries in legends if entries]
    titles = titles or [""] * len(legends)
    wrapped = [
        [textwrap.fill(_plain(name), int((width / columns - 0.5) * 72 / (7 * 0.58))) for name in entries]
        for entries in legends
    ]
    heights = []
    for title, labels in zip(titles, wrapped, strict=True):
        rows = -(-len(labels) // columns)
        each = [0.12 * _lines(label) + 0.05 for label in labels]
        tallest = max(sum(each[i : i + rows]) for i in range(0, len(each), rows))
        heights.append(tallest + 0.1 + (0.17 if title else 0.0))
    notes_height = 0.12 * _lines(note) + 0.08
    height = figure.get_figheight() + notes_height + sum(heights)
    figure.set_figheight(height)
    figure.supxlabel(note, x=0.01, ha="left", fontsize=7, color="#444444")
    for i, (entries, labels, title) in enumerate(zip(legends, wrapped, titles, strict=True)):
        # matplotlib hides labels that begin with an underscore; a space saves them.
        figure.legend(
            list(entries.values()),
            [f" {label}" if label.startswith("_") else label for label in labels],
            loc="lower left",
            bbox_to_anchor=(0.0, (notes_height + sum(heights[i + 1 :])) / height),
            ncols=columns,
            borderaxespad=0.2,
            columnspacing=1.0,
            title=title or None,
            title_fontproperties={"size": STYLE["legend.fontsize"], "weight": "bold"},
            alignment="left",
        )
    figure.get_layout_engine().set(rect=(0, sum(heights) / height, 1, 1 - sum(heights) / height))


def _log_locator(low: float, high: float) -> Locator:
    """Ticks of a log axis: decades, and steps between them where fewer than three would be seen."""
    for steps in ((1,), (1, 2, 5)):
        ticks = np.outer(10.0 ** np.arange(np.floor(np.log10(low)), np.log10(high) + 1), steps)
        if ((ticks >= low) & (ticks <= high)).sum() >= 3:
            return LogLocator(subs=steps)
    return MaxNLocator(nbins=4, steps=_STEPS, min_n_ticks=3)


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


def _pair_name(block: Block, pair: str) -> str:
    names = {p.id: f"{p.teacher or 'no teacher'} → {p.student}" for p in block.pairs}
    return _plain(names.get(pair, pair))


def _pair_title(block: Block, pair: str, width: int = 24) -> str:
    return textwrap.fill(_pair_name(block, pair), width)


def _labels(block: Block) -> dict[str, str]:
    return {m.id: _plain(m.label) for m in block.methods}


def _beside(label: str) -> str:
    """A label at the left of a row: on two lines of even length where it is long, cut beyond 52 characters.

    Legends show it whole. What tells a tuned twin from its method stays.
    """
    tail = ", tuned" if label.endswith(", tuned") else ""
    label = textwrap.shorten(label.removesuffix(tail), 52 - len(tail), placeholder=" …") + tail
    if len(label) <= 26:
        return label
    halves = (textwrap.wrap(label, width, break_on_hyphens=False) for width in range(len(label) // 2, len(label) + 1))
    return "\n".join(next(lines for lines in halves if len(lines) <= 2))


def _row_height(labels: Sequence[str], least: float) -> float:
    """Inches a row needs so that no label touches the next."""
    lines = [_lines(label) for label in labels]
    return max([least, *(0.0625 * (one + other) for one, other in itertools.pairwise(lines))])


def _seeds(n: int) -> str:
    return f"{n} seed{'' if n == 1 else 's'}"


def _write(figure: Figure, stem: Path, suffixes: Sequence[str] = ("svg", "png")) -> list[Path]:
    figure.draw_without_rendering()
    figure.set_layout_engine("none")  # laid out once, for both files: it is what takes the time
    for axes in figure.axes:
        # The solver's last digits depend on memory addresses; rounded away, the same numbers give the same bytes.
        axes.set_position([round(side, 6) for side in axes.get_position().bounds])
    paths = []
    for suffix in suffixes:
        path = Path(stem).with_name(f"{Path(stem).name}.{suffix}")
        with atomic(path) as file:
            figure.savefig(file, format=suffix, dpi=_DPI, metadata=_NO_DATE[suffix])
        paths.append(path)
    return paths


def _rows_of(
    documents: Sequence[Mapping[str, Any]], kind: str, block: Block, *keys: str, part: str = "rows"
) -> pd.DataFrame:
    rows = [{**{k: d[k] for k in keys}, **row} for d in documents if d["kind"] == kind for row in d.get(part, [])]
    if not rows:
        what = f"{kind} similarity" if part == "rows" else part
        raise KdbenchError(f"no {what} for block {block.name!r}: there is nothing to draw")
    return pd.DataFrame(rows)


# ------------------------------------------------------------------------------------------- (a) similarity by stage


@_styled
def stage_figure(suite: Suite, block: Block, documents: Sequence[Mapping[str, Any]], stem: Path) -> list[Path]:
    """CKA of teacher and student by stage, one row of panels a pair, one column a band, before and after each method.

    `documents` are the JSON files of kind `stages` of this block. Points are means over seeds, whiskers their range,
    grey the shuffled-pair null. Raises KdbenchError where there are none.
    """
    data = _cka(documents, block)
    pairs = _known_pairs(block, data["pair"])
    methods = ["before", *(m.id for m in block.methods if m.id in set(data["method"]))]
    title = f"{block.title}: CKA of teacher and student by stage, {_seeds(data['seed'].nunique())}"
    panel = (1.5 + 0.01 * len(methods), 1.6 if len(pairs) < 4 else 1.15)
    figure = _canvas(title, len(pairs), len(_BANDS), panel, labels=0.4)
    grid = figure.subplots(len(pairs), len(_BANDS), sharex=True, sharey=True, squeeze=False)
    styles, labels = method_styles(suite) | {"before": _BEFORE}, _labels(block) | {"before": "before training"}
    notes: dict[str, None] = {}
    for pair, row in zip(pairs, grid, strict=True):
        for band, axes in zip(_BANDS, row, strict=True):
            part = data[(data["pair"] == pair) & (data["band"] == band)]
            _stage_panel(axes, part, methods, styles, labels, notes)
        row[0].set_ylabel(f"{_pair_title(block, pair, 18)}\nCKA")
    for axes, name in zip(grid[0], _BANDS.values(), strict=True):
        axes.set_title(name)
    for axes in grid[-1]:
        axes.set_xlabel("stage")
    grid[0, 0].set(xlim=(0.4, 4.6), xticks=range(1, 5), ylim=(min(-0.08, data["cka"].min() - 0.05), 1.05))
    _stage_legend(figure, methods, styles, labels, notes)
    return _write(figure, stem)


@_styled
def stage_views(suite: Suite, block: Block, documents: Sequence[Mapping[str, Any]], folder: Path) -> list[Path]:
    """`stage_figure` in parts, as SVG only: by-pair/PAIR-BAND (its methods) and by-method/METHOD-BAND (its pairs).

    The low and the high band of a view share their scale: one can be held against the other.
    """
    data = _cka(documents, block)
    pairs = _known_pairs(block, data["pair"])
    methods = [m.id for m in block.methods if m.id in set(data["method"])]
    views = {f"by-pair/{pair}": ([pair], methods) for pair in pairs}
    views |= {f"by-method/{method}": (pairs, [method]) for method in methods}
    styles, labels = method_styles(suite) | {"before": _BEFORE}, _labels(block) | {"before": "before training"}
    written = []
    for name, (shown, compared) in views.items():
        drawn = ["before", *compared]
        part = data[data["pair"].isin(shown) & data["method"].isin(drawn) & data["band"].isin(("low", "high"))]
        shape = _arrange(len(shown), most=4)
        panel = (COLUMN, 2.5) if len(shown) == 1 else (1.7, 1.5)
        for band in ("low", "high"):
            title = f"{block.title}: CKA of teacher and student by stage, {_BANDS[band]}"
            figure = _canvas(f"{title}, {_seeds(data['seed'].nunique())}", *shape, panel)
            axes, notes = _panels(figure, shape, len(shown), "stage"), {}
            for pair, one in zip(shown, axes, strict=True):
                _stage_panel(one, part[(part["pair"] == pair) & (part["band"] == band)], drawn, styles, labels, notes)
                one.set_title(_pair_title(block, pair))
            axes[0].set(xlim=(0.4, 4.6), xticks=range(1, 5), ylim=(min(-0.08, part["cka"].min() - 0.05), 1.05))
            axes[0].set_ylabel("CKA")
            _stage_legend(figure, drawn, styles, labels, notes)
            written += _write(figure, Path(folder) / f"{name}-{band}", suffixes=("svg",))
    return written


def _stage_legend(figure: Figure, methods: Sequence[str], styles, labels, notes: Iterable[str]) -> None:
    entries = {labels[m]: Line2D([], [], **styles[m]) for m in methods}
    entries |= {"shuffled pairs (null)": Patch(color=_NULL)}
    what = "Unbiased linear CKA of the maps, by band of spatial frequencies."
    _below(figure, [f"{what} Points: mean over seeds; whiskers: range over seeds, no interval.", *notes], entries)


def _cka(documents: Sequence[Mapping[str, Any]], block: Block) -> pd.DataFrame:
    """Rows of the documents of kind `stages` with their pair; what has no number is NaN and its reason a text."""
    data = _rows_of(documents, "stages", block, "pair")
    data["reason"] = data["reason"].astype(object).where(data["reason"].notna(), None)
    for column in ("cka", "null_low", "null_high"):
        data[column] = pd.to_numeric(data[column], errors="coerce").astype(float)
    return data


def _known_pairs(block: Block, found: Iterable[str]) -> list[str]:
    """Pairs in the order of the block, then any other."""
    known = [p.id for p in block.pairs]
    return sorted(dict.fromkeys(found), key=lambda p: known.index(p) if p in known else len(known))


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
                [stage - 0.42, stage + 0.42], null["null_low"].min(), null["null_high"].max(), color=_NULL, lw=0
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


# --------------------------------------------------------------------------------------- (a') similarity at a glance


@_styled
def summary_figure(suite: Suite, block: Block, documents: Sequence[Mapping[str, Any]], stem: Path) -> list[Path]:
    """Heat map of what training changed: CKA in the low and in the high band by method (down) and pair (across).

    `documents` are those of `stage_figure`. The first row is the CKA before training, the others are the paired
    difference to it, both averaged over the stages that have the band and then over seeds. The level differs more
    between pairs than between methods, so the difference is what is coloured. Hatched cells have no number.
    """
    data = _cka(documents, block)
    pairs, methods = _known_pairs(block, data["pair"]), [m.id for m in block.methods]
    tables, notes = {}, {}
    for band in ("low", "high"):
        columns = {}
        for pair in pairs:
            part = data[(data["pair"] == pair) & (data["band"] == band)]
            columns[pair] = _changes(part)
            if columns[pair].empty:
                notes[f"{_pair_name(block, pair)}: {_main_reason(part)}."] = None
        tables[band] = pd.DataFrame(columns).reindex(["before", *methods]).astype(float)
    limit = np.fmax(pd.concat(tables.values()).drop("before").abs().max().max(), 0.05)

    rows, columns = len(methods) + 1, len(pairs)
    title = f"{block.title}: what training changed in the CKA of teacher and student, {_seeds(data['seed'].nunique())}"
    labels = ["CKA before training", *(_beside(_labels(block)[m]) for m in methods)]
    panel = (max(0.24 * columns, 1.2), _row_height(labels, 0.13) * rows + 0.25)
    figure = _canvas(title, 2, 1, panel, labels=1.3)
    figure.set_figheight(figure.get_figheight() + 1.0)
    grid = figure.subplots(2, 1, sharex=True)
    for axes, (band, table) in zip(grid, tables.items(), strict=True):
        image = _heat_panel(axes, table.to_numpy(), limit)
        axes.set_title(_BANDS[band])
        axes.set_yticks(range(rows), labels)
    grid[1].set_xticks(range(columns), [_pair_name(block, p) for p in pairs], rotation=90)
    bar = {"location": "bottom", "aspect": 30, "ticks": MaxNLocator(nbins=5, steps=_STEPS)}
    figure.colorbar(image, ax=list(grid), label="change of CKA, mean over stages", **bar)
    null = data.loc[data["band"].isin(tables), ["null_low", "null_high"]].abs().max().max()
    chance = [f"Shuffled pairs reach a CKA of {null:.2f}."] if np.isfinite(null) else []
    _below(
        figure,
        [
            "Spatial frequencies of the maps. Below the first row: paired difference to it. "
            "Means over stages and seeds, no interval.",
            *chance,
            *notes,
            *(["Hatched: no finished run, or no CKA at some stage."] if _any_empty(tables.values()) else []),
        ],
    )
    return _write(figure, stem)


def _changes(rows: pd.DataFrame) -> pd.Series:
    """Of one pair and band: CKA before training under "before", and every method's mean difference to it over seeds.

    A run whose CKA is undefined at a stage that others have is left out: its mean would be over other stages.
    """
    stages = rows.pivot_table(index=["seed", "method"], columns="stage", values="cka", dropna=False)
    each = stages.dropna(axis=1, how="all").mean(axis=1, skipna=False).unstack("method")
    if "before" not in each:
        return pd.Series(dtype=float)
    changes = each.sub(each["before"], axis=0).assign(before=each["before"])
    return changes.mean().dropna()


def _any_empty(tables: Iterable[pd.DataFrame]) -> bool:
    return any(table.isna().to_numpy().any() for table in tables)


def _heat_panel(axes: Axes, values: np.ndarray, limit: float) -> Any:
    """values (methods + 1, pairs): row 0 is a level and stays uncoloured, the rest is coloured from -limit to limit."""
    image = axes.imshow(np.vstack([np.full_like(values[:1], np.nan), values[1:]]), _CHANGES, vmin=-limit, vmax=limit)
    axes.set_aspect("auto")
    axes.grid(False)
    axes.tick_params(length=0)
    axes.axhline(0.5, color="#444444", lw=0.8)
    for (row, column), value in np.ndenumerate(values):
        if not np.isfinite(value):
            box = Rectangle((column - 0.5, row - 0.5), 1, 1, facecolor="white", edgecolor="#999999", hatch="////", lw=0)
            axes.add_patch(box)
            continue
        text = f"{value:.2f}" if row == 0 else f"{value:+.2f}"
        text = ".00" if not float(text) else text.replace("0.", ".", 1).replace("-", "−")
        dark = row > 0 and abs(value) > 0.6 * limit
        axes.text(column, row, text, ha="center", va="center", fontsize=5.5, color="white" if dark else "black")
    return image


# ------------------------------------------------------------------------------------------------- spectra by stage


@_styled
def spectra_figure(suite: Suite, block: Block, documents: Sequence[Mapping[str, Any]], stem: Path) -> list[Path]:
    """Power of the maps by radius in cycles per image, one column of panels a stage.

    The first row compares the networks as they are trained without a teacher; below, each pair has a row: the teacher,
    the student before training and after scratch, KD and the methods of the group `frequency`, and the range of all
    other methods. `documents` are those of `stage_figure` ("spectra", similarity.radial_power). Means over seeds.
    Raises KdbenchError where no document holds a spectrum.
    """
    data = _rows_of(documents, "stages", block, "pair", part="spectra")
    pairs = _known_pairs(block, (d["pair"] for d in documents))
    styles, labels = method_styles(suite) | {"before": _BEFORE}, _labels(block) | {"before": "student before training"}
    own = [m.id for m in block.methods if m.id in ("scratch", "kd") or m.group == "frequency"]
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

    title = f"{block.title}: spectra of the maps by stage, {_seeds(data['seed'].nunique())}"
    rows = 1 + len(pairs)
    figure = _canvas(title, rows, 4, panel=(1.25, 1.5 if rows < 4 else 1.1), labels=0.4)
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
    grid[0, 0].yaxis.set_major_locator(_log_locator(*grid[0, 0].get_ylim()))
    grid[0, 0].yaxis.set_major_formatter("{x:g}")
    for axes in grid.ravel():
        axes.yaxis.set_minor_locator(NullLocator())
    for name, axes in zip(("no teacher", *(_pair_title(block, p, 18) for p in pairs)), grid[:, 0], strict=True):
        axes.set_ylabel(f"{name}\nshare of power")
    noise = {"white noise on its grid": Line2D([], [], **_WHITE_NOISE)}
    first = {
        f"{model} ({'teacher' if role == 'teacher' else labels['scratch']})": Line2D([], [], **look)
        for (role, model), look in looks.items()
    }
    below = {"teacher of the pair": Line2D([], [], **_TEACHER)}
    below |= {labels[m]: Line2D([], [], color=styles[m]["color"], linestyle=styles[m]["linestyle"]) for m in own}
    if set(data["method"].dropna()) - set(own):
        below |= {"range of all other methods": Patch(color=_NULL)}
    _below(
        figure,
        [
            "Spatial frequencies of the maps. Share of each ring in the power from 1 cycle to the Nyquist frequency of "
            "its own grid; mean over samples, channels and seeds, the mean map over samples taken off. Dot at 0: share "
            "of DC, the mean over space, in all power up to there. No intervals; grey: range of the other methods' "
            "means."
        ],
        first | noise,
        below | noise,
        titles=("First row: networks trained without a teacher", "Rows below: teacher and students of the pair"),
    )
    return _write(figure, stem)


def _spectrum_panel(axes: Axes, data: pd.DataFrame, own: Sequence[str], styles) -> None:
    students = data[data["role"] == "student"]
    if data.empty:
        return _say(axes, "n/a: fewer than four stages", 14)
    spectra = {m: _shares(rows["power"]) for m, rows in students.groupby("method") if m not in own}
    others = [s for s in spectra.values() if s is not None]
    if others:
        axes.fill_between(range(1, len(others[0])), np.min(others, 0)[1:], np.max(others, 0)[1:], color=_NULL, lw=0)
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
    everyone = list(dict.fromkeys(zip(data["a"], data["b"], strict=True)))
    told = data.dropna(subset="cosine")
    # Where no two networks can be compared every panel says why; else those that cannot are named below.
    models = list(dict.fromkeys(zip(told["a"], told["b"], strict=True))) or everyone
    absent: dict[str, list[str]] = {}
    for (a, b), rows in data.groupby(["a", "b"], sort=False):
        if (a, b) not in models:
            absent.setdefault(_main_reason(rows), []).append(f"{a} and {b}")
    seeds = data["seed"].nunique()
    shape = _arrange(len(models), 2)
    title = f"{block.title}: do two modalities agree in low channel frequencies? {_seeds(seeds)}"
    figure = _canvas(title, *shape, panel=(1.8, 0.5 + 0.34 * len(treatments)), labels=1.2)
    panels = _panels(figure, shape, len(models), "mean cosine\nof two features")
    for axes, (a, b) in zip(panels, models, strict=True):
        _channel_panel(axes, data[(data["a"] == a) & (data["b"] == b)], treatments)
        axes.set_title(textwrap.fill(_plain(f"{a} and {b}"), 34))
    # DC is the mean over space in all other figures; here it is the mean over channels.
    named = [_plain(t).replace("DC", "channel mean") for t in treatments]
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
    _below(
        figure,
        [
            f"Whiskers: {whiskers}.",
            "Frequencies run along the channel index, not over space: the channel mean is frequency 0 and part of the "
            "low band where it is kept.",
            "Permuted channels: each side in its own random order, as two networks that share no order of channels. "
            "Shuffled pairs: each sample with a random one of the other side, or of its own class.",
            *(f"n/a: {', '.join(pairs)}: {reason}" for reason, pairs in absent.items()),
        ],
        entries,
    )
    return _write(figure, stem)


def _channel_panel(axes: Axes, data: pd.DataFrame, treatments: Sequence[str]) -> None:
    axes.axvline(0, color="#444444", lw=0.8)
    if data["cosine"].notna().sum() == 0:
        _say(axes, _main_reason(data))
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

    As in the tables, a tuned method is held against tuned KD where the block has it, and tuned KD against KD. Where the
    block has no KD, differences are to scratch. Points are means over seeds, bars 95 % t intervals; an open point has
    no interval. `frame` is the block's table of runs.
    """
    return _forest(suite, block, frame, stem, by_pair=True)


@_styled
def verdict_figure(suite: Suite, block: Block, frame: pd.DataFrame, stem: Path) -> list[Path]:
    """The first panel of `accuracy_figure` alone, for a column or a slide."""
    return _forest(suite, block, frame, stem, by_pair=False)


def _forest(suite: Suite, block: Block, frame: pd.DataFrame, stem: Path, by_pair: bool) -> list[Path]:
    baseline, labels, styles = _baseline(block), _labels(block), method_styles(suite)
    methods = _held_against(block, baseline)
    delta = {b: stats.differences(frame, b) for b in {baseline, *methods.values()}}
    verdicts, kinds = {b: stats.verdict(frame, b) for b in delta}, stats.headline_pairs(frame)["kind"]
    states = frame.groupby(["pair", "method"])["status"].agg(lambda s: s.iloc[0] if s.nunique() == 1 else "incomplete")
    columns_of = ["difference", "low", "high", "n"]
    over = {m: (stats.Interval(*verdicts[b].loc[m, columns_of]), "no complete seed") for m, b in methods.items()}
    headline = int((kinds == "headline").sum())
    panels = {_mean_of(headline): ("headline", over)}
    for pair in kinds.index if by_pair else ():
        each = {m: (stats.paired_t_interval(delta[b].loc[pair, m]), states.get((pair, m))) for m, b in methods.items()}
        panels[pair] = (kinds[pair], each)

    shape = _arrange(len(panels), 5)
    seeds = frame["seed"].nunique()
    own = _twin_told(methods, baseline, labels)
    title = f"{block.title}: paired difference to {labels[baseline]}{own}, test accuracy, {_seeds(seeds)}"
    names = [_beside(labels[m]) for m in methods]
    height = 0.6 + _row_height(names, 0.15 if by_pair else 0.18) * len(methods)
    figure = _canvas(title, *shape, panel=(1.15, height), labels=1.3)
    limit = _reach([interval for _, each in panels.values() for interval, _ in each.values()])
    grid = _panels(figure, shape, len(panels), "points")
    for axes, (name, (kind, each)) in zip(grid, panels.items(), strict=True):
        heading = _pair_title(block, name, 17)
        axes.set_title(heading if kind == "headline" else f"{heading}\n({_KINDS[kind]})")
        _forest_panel(axes, each, styles, limit)
    grid[0].set_facecolor("#eef4fa")
    grid[0].set_title(grid[0].get_title(), weight="bold")
    grid[0].set_yticks(range(len(methods)), names)
    grid[0].set(ylim=(len(methods) - 0.5, -0.5), xlim=(-limit, limit))
    first = "first panel" if by_pair else "mean"
    _below(
        figure,
        [
            f"Right of 0: better than {labels[baseline]}{own}. Bars: 95 % t interval over seeds, arrow: it goes beyond "
            f"the frame; open point: no interval. Weak and undecided pairs are not in the {first}."
        ],
    )
    return _write(figure, stem)


def _baseline(block: Block) -> str:
    """KD, or scratch where the block has no KD."""
    ids = [m.id for m in block.methods]
    baseline = next((b for b in ("kd", "scratch") if b in ids), None)
    if baseline is None or len(ids) < 2:
        raise KdbenchError(f"block {block.name!r} has no KD and no scratch to hold its methods against")
    return baseline


def _held_against(block: Block, baseline: str) -> dict[str, str]:
    """{method: what it is held against}: the baseline, or for tuned methods the tuned baseline where there is one."""
    twin = next((m.id for m in block.methods if m.tuned_from == baseline), baseline)
    return {m.id: twin if m.tuned_from and m.id != twin else baseline for m in block.methods if m.id != baseline}


def _twin_told(held: Mapping[str, str], baseline: str, labels: Mapping[str, str]) -> str:
    twins = set(held.values()) - {baseline}
    return "".join(f" (tuned methods: to {labels[twin]})" for twin in twins)


def _mean_of(headline: int) -> str:
    return f"mean of {headline} headline pair{'' if headline == 1 else 's'}"


def _reach(intervals: Sequence[stats.Interval]) -> float:
    """Half-width of the axis: all means, and intervals as far as they do not dwarf everything else."""
    means = [abs(i.mean) for i in intervals if i.n and np.isfinite(i.mean)]
    return 1.1 * max([*means, 0.5]) + _whiskers(intervals)


def _whiskers(intervals: Sequence[stats.Interval]) -> float:
    """Room that intervals get beyond their means: twice the median half-width."""
    halves = [i.high - i.mean for i in intervals if i.low is not None and np.isfinite(i.low)]
    return 2 * float(np.median(halves)) if halves else 0.0


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
            for end, beyond in ((-limit, low < -limit), (limit, high > limit)):
                if beyond:
                    # No marker: methods have triangles of their own.
                    arrow = {"arrowstyle": "->", "color": style["color"], "lw": 1.2, "shrinkA": 0, "shrinkB": 0}
                    axes.annotate("", (end, y), (mean, y), arrowprops=arrow)
        axes.plot(mean, y, **style, markersize=5, **({} if certain else {"markerfacecolor": "white"}))


# ---------------------------------------------------------------------------------------------- accuracy against cost


@_styled
def cost_figure(suite: Suite, block: Block, frame: pd.DataFrame, stem: Path) -> list[Path]:
    """What a method gains against what its training costs: one point a method, over the headline pairs.

    Up: paired difference to KD (to scratch where the block has no KD; of tuned methods to tuned KD), points, with its
    95 % t interval over seeds. Across: time of the student's training steps over that of scratch on the same pair and
    seed, or in seconds where the block has no scratch; the geometric mean, on a log scale. `frame` is the block's table
    of runs.
    """
    baseline, labels, styles = _baseline(block), _labels(block), method_styles(suite)
    rivals = _held_against(block, baseline)
    verdicts = {b: stats.verdict(frame, b) for b in {baseline, *rivals.values()}}
    gains = pd.DataFrame({m: verdicts[b].loc[m] for m, b in rivals.items()}).T.reindex([m.id for m in block.methods])
    gains.loc[baseline, ["difference", "n"]] = 0.0, frame["seed"].nunique()
    kinds = stats.headline_pairs(frame)["kind"]
    seconds = stats.wide(frame, "seconds")
    seconds = seconds[seconds.index.get_level_values("pair").isin(kinds.index[kinds == "headline"])]
    relative = "scratch" in seconds and seconds["scratch"].notna().any()
    times = seconds.div(seconds["scratch"], axis=0) if relative else seconds
    costs = np.exp(np.log(times.where(times > 0)).mean())

    headline = int((kinds == "headline").sum())
    drawn = [m.id for m in block.methods if gains.loc[m.id, "n"] > 0 and np.isfinite(costs[m.id])]
    title = f"{block.title}: accuracy against training time, {_seeds(frame['seed'].nunique())}"
    figure = _canvas(title, 1, 1, panel=(COLUMN, 2.3))
    axes = figure.subplots()
    axes.axhline(0, color="#444444", lw=0.8)
    if not drawn:
        _say(axes, "no complete seed" if headline else "no headline pair")
    intervals = [stats.Interval(*gains.loc[m, ["difference", "low", "high", "n"]]) for m in drawn]
    for method, (mean, low, high, _) in zip(drawn, intervals, strict=True):
        style = {"color": styles[method]["color"], "marker": styles[method]["marker"]}
        certain = low is not None and np.isfinite(low)
        if certain:
            axes.vlines(costs[method], low, high, color=style["color"], lw=0.9)
        edge = {"markeredgecolor": "white", "markeredgewidth": 0.4}  # parts points that touch
        look = edge if certain or method == baseline else {"markerfacecolor": "white"}
        axes.plot(costs[method], mean, **style, markersize=5.5, **look)
    means = [i.mean for i in intervals] or [0.0]
    room = _whiskers(intervals) + 0.06 * np.ptp(means) + 0.5
    axes.set_ylim(min(means) - room, max(means) + room)
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(_log_locator(*axes.get_xlim()))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel(f"training time, {'× ' + labels['scratch'] if relative else 's'}")
    axes.set_ylabel(
        f"difference to {labels[baseline]}, points\n({_mean_of(headline)}){_twin_told(rivals, baseline, labels)}"
    )
    absent = [labels[m.id] for m in block.methods if m.id not in drawn]
    _below(
        figure,
        [
            "Whiskers: 95 % t interval over seeds; open point: no interval. Time: the student's own steps, log scale; "
            "the teacher's forward pass is shared and not counted.",
            *([f"Without a complete seed on the headline pairs: {', '.join(absent)}."] if absent and headline else []),
        ],
        {labels[m]: Line2D([], [], **styles[m] | {"linestyle": ""}) for m in drawn},
    )
    return _write(figure, stem)


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
    shape = _arrange(len(pairs), 3)
    title = f"{block.title}: learning curves, {_seeds(curves['seed'].nunique())} (decide nothing; the last step counts)"
    figure = _canvas(title, *shape, panel=(1.6, 1.5), labels=0.3)
    for i, axes in enumerate(_panels(figure, shape, len(pairs), "step")):
        part = curves[curves["pair"] == pairs[i]]
        axes.xaxis.set_major_locator(MaxNLocator(nbins=3, steps=_STEPS, integer=True))
        axes.set_title(_pair_title(block, pairs[i]))
        if part.empty:
            _say(axes, "no result yet")
        for method in methods:
            at = part[part["method"] == method].groupby("step")["test_accuracy"].agg(["mean", "std"])
            style = styles[method]
            each = {"marker": style["marker"] if len(at) <= 6 else None, "markersize": 2.5}
            axes.plot(at.index, at["mean"], color=style["color"], linestyle=style["linestyle"], **each)
            axes.plot(at.index[-1:], at["mean"].iloc[-1:], color=style["color"], marker=style["marker"], linestyle="")
            axes.fill_between(
                at.index, at["mean"] - at["std"], at["mean"] + at["std"], color=style["color"], alpha=0.12, lw=0
            )
        if i % shape[1] == 0:
            axes.set_ylabel("test accuracy, %")
    axes.set_xlim(0, 1.05 * curves["step"].max())
    entries = {labels[m]: Line2D([], [], **styles[m]) for m in methods}
    _below(
        figure,
        ["Lines: mean over seeds; bands: ± one standard deviation over seeds. Large marker: the last step."],
        entries,
    )
    return _write(figure, stem)
