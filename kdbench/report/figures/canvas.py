"""A figure before and after its panels are drawn: title, grid, labels, legends and footnotes below, SVG, PNG and PDF.

Figures carry no date and a fixed salt: the same numbers give the same bytes.
"""

from __future__ import annotations

import io
import itertools
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_pdf import FigureCanvasPdf
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import Locator, LogLocator, MaxNLocator

from kdbench.files import atomic
from kdbench.report.block import BlockReport
from kdbench.report.figures.style import STYLE, styled
from kdbench.report.text import budget_facts
from kdbench.report.verdicts import short_labels
from kdbench.types import Block

COLUMN, PAGE = 3.25, 6.75
"""Width of a journal's column and of its page, inches: no figure is narrower than the one, none need be wider than the
other."""
STEPS = [1, 2, 5, 10]
"""What ticks of a linear axis may be multiples of."""
_DPI = 150
_CANVAS = {"svg": FigureCanvasSVG, "png": FigureCanvasAgg, "pdf": FigureCanvasPdf}
_NO_DATE = {
    "svg": {"Date": None, "Creator": None},
    "png": {"Software": None},
    "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
}


def canvas(title: str, rows: int, columns: int, panel: tuple[float, float], labels: float = 0.0) -> Figure:
    """rows x columns panels of this size, with room for labels at their left; inches."""
    width = max(columns * panel[0] + labels, COLUMN)
    title = wrap(title, width, size=STYLE["figure.titlesize"])
    size = (width, rows * panel[1] + 0.3 + 0.16 * lines_of(title))
    figure = Figure(figsize=size, layout="constrained", dpi=_DPI)  # text is not as wide at another resolution
    figure.suptitle(title, x=0.01, ha="left", weight="bold")
    return figure


def arrange(panels: int, most: int) -> tuple[int, int]:
    """Rows and columns, at most `most` columns and as evenly filled as can be."""
    rows = -(-panels // most)
    return rows, -(-panels // rows)


def panel_grid(figure: Figure, shape: tuple[int, int], cells: Sequence[int], xlabel: str) -> list[Axes]:
    """These cells, counted row by row, of a grid of axes that share both scales, labelled at the left and below."""
    every = figure.subplots(*shape, sharex=True, sharey=True, squeeze=False).ravel()
    for i, one in enumerate(every):
        one.set_visible(i in cells)
        lowest = not any(below in cells for below in range(i + shape[1], len(every), shape[1]))
        one.tick_params(labelbottom=lowest)
        one.set_xlabel(xlabel if lowest else "")
        leftmost = not any(beside in cells for beside in range(i - i % shape[1], i))
        one.tick_params(labelleft=leftmost)
    return [every[i] for i in cells]


def below(
    figure: Figure,
    report: BlockReport,
    sentences: Iterable[str],
    *legends: Mapping[str, Any],
    titles: Sequence[str] = (),
) -> None:
    """Legends, from top to bottom, and footnote under the panels, for which the figure grows."""
    edition = [f"Edition {report.suite.edition}."] if report.suite.edition != 1 else []
    foot(figure, [*sentences, *budget_facts(report.block), *edition], *legends, titles=titles)


def foot(figure: Figure, sentences: Iterable[str], *legends: Mapping[str, Any], titles: Sequence[str] = ()) -> None:
    """The same for a figure of more than one block, whose footnote is these sentences alone."""
    width = figure.get_figwidth()
    note = "\n".join(wrap(sentence, width, size=7) for sentence in sentences)
    columns = max(int(width / 1.6), 1)
    legends = [entries for entries in legends if entries]
    titles = titles or [""] * len(legends)
    wrapped = [
        [textwrap.fill(plain(name), int((width / columns - 0.5) * 72 / (7 * 0.58))) for name in entries]
        for entries in legends
    ]
    heights = []
    for title, labels in zip(titles, wrapped, strict=True):
        rows = -(-len(labels) // columns)
        each = [0.12 * lines_of(label) + 0.05 for label in labels]
        tallest = max(sum(each[i : i + rows]) for i in range(0, len(each), rows))
        heights.append(tallest + 0.1 + (0.17 if title else 0.0))
    notes_height = 0.12 * lines_of(note) + 0.08
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


def wrap(text: str, inches: float, size: float) -> str:
    return textwrap.fill(plain(text), max(int(inches * 72 / (size * 0.64)), 12))


def lines_of(text: str) -> int:
    return text.count("\n") + 1


def plain(text: Any) -> str:
    return " ".join("".join(c if c.isprintable() else " " for c in str(text)).split())


def say(axes: Axes, text: str, width: int = 24) -> None:
    """A panel without data says why."""
    axes.text(
        0.5,
        0.5,
        textwrap.fill(plain(text), width),
        transform=axes.transAxes,
        ha="center",
        va="center",
        color="#777777",
    )


def log_locator(low: float, high: float) -> Locator:
    """Ticks of a log axis: decades, and steps between them where fewer than three would be seen."""
    for steps in ((1,), (1, 2, 5)):
        ticks = np.outer(10.0 ** np.arange(np.floor(np.log10(low)), np.log10(high) + 1), steps)
        if ((ticks >= low) & (ticks <= high)).sum() >= 3:
            return LogLocator(subs=steps)
    return MaxNLocator(nbins=4, steps=STEPS, min_n_ticks=3)


def labels_of(block: Block) -> dict[str, str]:
    """Method id -> its short label as a figure can show it."""
    return {method: plain(label) for method, label in short_labels(block).items()}


def beside(label: str) -> str:
    """A label at the left of a row: on two lines of even length where it is long, cut beyond 52 characters.

    Legends show it whole. What tells a tuned twin from its method stays.
    """
    tail = ", tuned" if label.endswith(", tuned") else ""
    label = textwrap.shorten(label.removesuffix(tail), 52 - len(tail), placeholder=" …") + tail
    if len(label) <= 26:
        return label
    halves = (textwrap.wrap(label, width, break_on_hyphens=False) for width in range(len(label) // 2, len(label) + 1))
    return "\n".join(next(lines for lines in halves if len(lines) <= 2))


def row_height(labels: Sequence[str], least: float) -> float:
    """Inches a row needs so that no label touches the next."""
    lines = [lines_of(label) for label in labels]
    return max([least, *(0.0625 * (one + other) for one, other in itertools.pairwise(lines))])


def pair_name(block: Block, pair: str) -> str:
    names = {p.id: f"{p.teacher or 'no teacher'} → {p.student}" for p in block.pairs}
    return plain(names.get(pair, pair))


def pair_title(block: Block, pair: str, width: int = 24) -> str:
    return textwrap.fill(pair_name(block, pair), width)


def seeds_text(n: int) -> str:
    return f"{n} seed{'' if n == 1 else 's'}"


@styled
def write(figure: Figure, stem: Path, suffixes: Sequence[str] = ("svg", "png", "pdf")) -> list[Path]:
    _lay_out(figure)
    paths = []
    for suffix in suffixes:
        path = Path(stem).with_name(f"{Path(stem).name}.{suffix}")
        with atomic(path) as file:
            _print(figure, suffix, file)
        paths.append(path)
    return paths


@styled
def svg(figure: Figure) -> bytes:
    """What `write` writes as SVG."""
    _lay_out(figure)
    file = io.BytesIO()
    _print(figure, "svg", file)
    return file.getvalue()


def _lay_out(figure: Figure) -> None:
    """Once, for all files: it is what takes the time."""
    figure.get_layout_engine().execute(figure)
    figure.set_layout_engine("none")
    for axes in figure.axes:
        # The solver's last digits depend on memory addresses; rounded away, the same numbers give the same bytes.
        axes.set_position([round(side, 6) for side in axes.get_position().bounds])


def _print(figure: Figure, suffix: str, file: IO[bytes]) -> None:
    figure.set_dpi(_DPI)  # SVG and PDF leave their own
    # savefig would draw it twice, once only to lay it out.
    getattr(_CANVAS[suffix](figure), f"print_{suffix}")(file, metadata=_NO_DATE[suffix])
