"""Do two modalities agree in low channel frequencies, or do they share a channel mean? One point a pair of models.

Cosine of the low channel band against that of the whole features, the channel mean kept, with bars of 95 % t intervals
over seeds. The curve is what two features reach that share a channel mean and nothing else. Published points are those
of FD-CMKD; ours are measured before the last activation, as there, and after it.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from kdbench.report import stats
from kdbench.report.block import BlockReport
from kdbench.report.figures.canvas import COLUMN, below, canvas, seeds_text
from kdbench.report.figures.documents import listed, main_reason, rows_of
from kdbench.report.figures.style import styled
from kdbench.types import KdbenchError

TITLE = "Low channel band of two modalities against a shared channel mean"
READS = ("channels",)
PUBLISHED = {"CREMA-D": (0.8379, 0.9113), "AVE": (0.74, 0.85)}
"""Raw and low-band cosine of FD-CMKD (Liu et al., AAAI 2026; arXiv 2511.19887), both secondary: CREMA-D from the output
of a notebook in a copy of its code (zxn0710/re-FD-CMKD-main at feda414), AVE from a transcription of the paper."""
LEAST_MEAN = 0.01
"""Share of the channel mean in a feature's energy below which there is none to share: LayerNorm takes it out."""
_OURS = {"before": ("ours, before the last activation", "#0072B2", "s"), "after": ("ours, after it", "#009E73", "^")}
_THEIRS = {"color": "#D55E00", "marker": "o", "linestyle": "", "markersize": 5}


@styled
def draw(report: BlockReport) -> Figure:
    if not report.channels:
        raise KdbenchError(f"no channels similarity for block {report.block.name!r}: there is nothing to draw")
    data = _cosines(report)
    title = f"{report.block.title}: low channel band against the whole feature, {seeds_text(data['seed'].nunique())}"
    figure = canvas(title, 1, 1, panel=(COLUMN, 2.6))
    axes = figure.subplots()
    raw = np.linspace(0, 1, 201)
    axes.plot(raw, stats.shared_mean_low(raw), color="black", lw=1.2)
    axes.plot([0, 1], [0, 1], color="#999999", lw=0.8, linestyle=":")
    entries = {
        "a shared channel mean, nothing else": Line2D([], [], color="black", lw=1.2),
        "low = raw": Line2D([], [], color="#999999", lw=0.8, linestyle=":"),
        f"published ({', '.join(PUBLISHED)})": Line2D([], [], **_THEIRS),
    }
    axes.plot(*zip(*PUBLISHED.values(), strict=True), **_THEIRS)
    absent: dict[str, list[str]] = {}
    for (a, b), rows in data.groupby(["a", "b"], sort=False):
        if rows["low"].isna().all():
            absent.setdefault(main_reason(rows), []).append(f"{a} and {b}")
    for feature, (name, colour, marker) in _OURS.items():
        known = data[data["feature"] == feature].dropna(subset=["raw", "low"])
        for _, rows in known.groupby(["a", "b"], sort=False):
            x, y = stats.paired_t_interval(rows["raw"]), stats.paired_t_interval(rows["low"])
            if x.low is not None:
                axes.hlines(y.mean, x.low, x.high, color=colour, lw=0.9)
            if y.low is not None:
                axes.vlines(x.mean, y.low, y.high, color=colour, lw=0.9)
            axes.plot(x.mean, y.mean, color=colour, marker=marker, markersize=4.5, markeredgewidth=0, alpha=0.8)
        if len(known):
            entries[name] = Line2D([], [], color=colour, marker=marker, linestyle="")
    least = min(-0.05, 1.1 * np.nan_to_num(data[["raw", "low"]].min().min()))
    axes.set(xlim=(least, 1.03), ylim=(least, 1.03), xlabel="cosine of the whole features")
    axes.set_ylabel("cosine of the low channel band")
    below(
        figure,
        report,
        [
            "A point is a pair of teachers of two modalities; the channel mean is kept in both cosines. Bars: 95 % t "
            "intervals over seeds. Published: FD-CMKD, from a copy of its code and from a transcription.",
            *(f"Ours, n/a: {', '.join(pairs)}: {reason}." for reason, pairs in absent.items()),
        ],
        entries,
    )
    return figure


def _cosines(report: BlockReport) -> pd.DataFrame:
    """A row a pair of models, feature ("before" or "after" the last activation) and seed: raw, low, else a reason."""
    keys, found = ["a", "b", "seed"], []
    for feature, key in (("before", "rows"), ("after", "after")):
        if not any(d.get(key) for d in report.channels):
            continue
        rows = rows_of(report, "channels", "a", "b", key=key).query("treatment == 'DC kept'")
        rows = rows.assign(cosine=pd.to_numeric(rows["cosine"], errors="coerce").astype(float))
        table = rows.pivot_table(index=keys, columns="band", values="cosine", dropna=False, sort=False)
        table = table.reindex(columns=["raw", "low"]).assign(reason=rows.groupby(keys, sort=False)["reason"].first())
        found.append(table.reset_index().assign(feature=feature))
    data = pd.concat(found, ignore_index=True)
    shares = listed(report, "channels", "a", "b", key="channel_mean")
    if not shares:
        return data
    least = pd.DataFrame(shares).assign(share=lambda t: t[["share_a", "share_b"]].min(axis=1))
    least = least.groupby(["a", "b", "feature"], as_index=False)["share"].mean()
    data = data.merge(least, on=["a", "b", "feature"], how="left")
    none = (data["share"] < LEAST_MEAN) & data["raw"].notna()
    data.loc[none, ["raw", "low"]] = np.nan
    data.loc[none, "reason"] = "the channel mean is about 0 (LayerNorm)"
    return data
