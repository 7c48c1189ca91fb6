"""Paired difference of each method to Scratch in test accuracy, pair by pair: a row a teacher, a column a student.

Points are means over seeds, bars 95 % t intervals; an open point has no interval. An arrow to the left in place of a
point: the method collapsed, below half of Scratch's accuracy. Where the block has no Scratch, differences are to KD.
"""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from kdbench.report import stats
from kdbench.report.block import BlockReport
from kdbench.report.figures import forest
from kdbench.report.figures.against import baseline_of, sorted_groups, span
from kdbench.report.figures.canvas import (
    PAGE,
    STEPS,
    arrange,
    below,
    canvas,
    labels_of,
    pair_title,
    panel_grid,
    seeds_text,
)
from kdbench.report.figures.limits import PANELS, ROWS, first, table_of
from kdbench.report.figures.style import method_styles, styled
from kdbench.types import Block

TITLE = "Paired differences by method and pair"
READS = ("frame",)
_KINDS = {"weak": "weak teacher", "undecided": "teacher or scratch unknown"}


@styled
def draw(report: BlockReport) -> Figure:
    block, frame = report.block, report.frame
    baseline, labels, styles = baseline_of(block), labels_of(block), method_styles(report.suite)
    methods, left_out = first((m.id for m in block.methods if m.id != baseline), ROWS, "methods", table_of(report))
    kinds, delta = report.headline["kind"], stats.differences(frame, baseline)
    pairs, more = first(kinds.index, PANELS, "pairs", table_of(report))
    drawn = frame[frame["pair"].isin(pairs)]
    states = drawn.groupby(["pair", "method"])["status"].agg(lambda s: s.iloc[0] if s.nunique() == 1 else "incomplete")
    each = {(p, m): stats.paired_t_interval(delta.loc[p, m]) for p in pairs for m in methods}
    fallen = stats.collapsed_cells(frame)
    groups = sorted_groups(report, methods, stats.verdict(frame, baseline)["difference"])
    places, ticks, names = forest.rows_of(groups, labels)

    shape, cells = _grid(block, pairs)
    title = f"{block.title}: test accuracy − {labels[baseline]} by pair, {seeds_text(frame['seed'].nunique())}"
    width = (PAGE - 1.1) / max(shape[1], 3)
    figure = canvas(title, *shape, panel=(width, forest.height_of(names) + 0.45), labels=1.1)
    grid = panel_grid(figure, shape, cells, "points")
    standing = [interval for key, interval in each.items() if interval.n and key not in fallen]
    ends = span([interval.mean for interval in standing], standing) if standing else (-1.0, 1.0)
    for axes, pair in zip(grid, pairs, strict=True):
        note = f"\n({_KINDS[kinds[pair]]})" if kinds[pair] in _KINDS else ""
        axes.set_title(pair_title(block, pair, 26) + note)
        axes.axvline(0, color="#444444", lw=0.8)
        for method, y in places.items():
            interval, style = each[pair, method], styles[method]
            if not interval.n:
                _say_why(axes, y, states.get((pair, method)))
            elif (pair, method) in fallen:
                forest.draw_collapsed(axes, y, interval.mean, style, ": collapsed")
            else:
                forest.draw_row(axes, y, interval, style, ends)
    forest.label_rows(grid[0], groups, ticks, names)
    grid[0].set_xlim(*ends)
    grid[0].xaxis.set_major_locator(MaxNLocator(nbins=5, steps=STEPS))
    below(
        figure,
        report,
        [
            f"Right of 0: better than {labels[baseline]}. Bars: 95 % t intervals over seeds; an arrow at the end of a "
            "bar marks an interval that extends beyond the axis, an open point has none.",
            *(["Arrow in place of a point: collapsed, below half of Scratch's accuracy."] if fallen else []),
            *left_out,
            *more,
        ],
    )
    return figure


def _grid(block: Block, pairs: Sequence[str]) -> tuple[tuple[int, int], Sequence[int]]:
    """Shape and cells of the panels: teacher by student where pairs fill most of that grid, else in their order."""
    own = [p for p in block.pairs if p.id in pairs]
    teachers, students = (list(dict.fromkeys(names)) for names in ([p.teacher for p in own], [p.student for p in own]))
    if len(students) <= 4 and len(own) >= 0.6 * len(teachers) * len(students):
        cells = [teachers.index(p.teacher) * len(students) + students.index(p.student) for p in own]
        return (len(teachers), len(students)), cells
    return arrange(len(pairs), 3), range(len(pairs))


def _say_why(axes: Axes, y: float, why: str | None) -> None:
    axes.text(
        0.5,
        y,
        why or "no result",
        transform=axes.get_yaxis_transform(),
        ha="center",
        va="center",
        color="#777777",
        fontsize=6.5,
    )
