"""What training changed in the CKA of teacher and student: methods down, pairs across, one map a frequency band.

The first row is the CKA before training; the others are the paired difference to it. Both are averaged over the stages
that have the band, then over seeds. The level differs more between pairs than between methods, so colour shows the
difference. Hatched cells have no number.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from kdbench.report.block import BlockReport
from kdbench.report.figures.canvas import STEPS, below, beside, canvas, labels_of, pair_name, row_height, seeds_text
from kdbench.report.figures.documents import BANDS, cka_of, known_pairs, main_reason
from kdbench.report.figures.limits import ROWS, first, measured_of
from kdbench.report.figures.style import styled

TITLE = "What training changed in the similarity of teacher and student"
READS = ("stages",)
_CHANGES = "PuOr"


@styled
def draw(report: BlockReport) -> Figure:
    block, data = report.block, cka_of(report)
    where = measured_of(report, "similarity")
    pairs, left_out = first(known_pairs(block, data["pair"]), ROWS, "pairs", where)
    methods, more = first((m.id for m in block.methods), ROWS, "methods", where)
    measured = dict(iter(data.groupby(["pair", "band"])))
    tables, notes = {}, {}
    for band in ("low", "high"):
        columns = {}
        for pair in pairs:
            part = measured.get((pair, band), data.iloc[:0])
            columns[pair] = _changes(part)
            if columns[pair].empty:
                notes[f"{pair_name(block, pair)}: {main_reason(part)}."] = None
        tables[band] = pd.DataFrame(columns).reindex(["before", *methods]).astype(float)
    limit = np.fmax(pd.concat(tables.values()).drop("before").abs().max().max(), 0.05)

    rows, columns = len(methods) + 1, len(pairs)
    title = (
        f"{block.title}: what training changed in the CKA of teacher and student, {seeds_text(data['seed'].nunique())}"
    )
    labels = ["CKA before training", *(beside(labels_of(block)[m]) for m in methods)]
    panel = (max(0.24 * columns, 1.2), row_height(labels, 0.13) * rows + 0.25)
    figure = canvas(title, 2, 1, panel, labels=1.3)
    figure.set_figheight(figure.get_figheight() + 1.0)
    grid = figure.subplots(2, 1, sharex=True)
    for axes, (band, table) in zip(grid, tables.items(), strict=True):
        image = _heat_panel(axes, table.to_numpy(), limit)
        axes.set_title(BANDS[band])
        axes.set_yticks(range(rows), labels)
    grid[1].set_xticks(range(columns), [pair_name(block, p) for p in pairs], rotation=90)
    bar = {"location": "bottom", "aspect": 30, "ticks": MaxNLocator(nbins=5, steps=STEPS)}
    figure.colorbar(image, ax=list(grid), label="change of CKA, mean over stages", **bar)
    null = data.loc[data["band"].isin(tables), ["null_low", "null_high"]].abs().max().max()
    chance = [f"CKA of shuffled pairs: up to {null:.2f}."] if np.isfinite(null) else []
    below(
        figure,
        report,
        [
            "Rows below the first: paired difference to the first. Means over stages and seeds, by band of spatial "
            "frequencies of the feature maps; no intervals.",
            *chance,
            *notes,
            *left_out,
            *more,
            *(["Hatched: no finished run, or no CKA at some stage."] if _any_empty(tables.values()) else []),
        ],
    )
    return figure


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
