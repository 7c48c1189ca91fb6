"""Figures: all files are there, say what they should, repeat to the byte, and nothing lies upon anything else."""

import html
import itertools
import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from matplotlib.text import Text
from test_tables import HOSTILE, METHODS, change, make
from test_worth import block_of, lengths

from kdbench.plan.registry import method_names
from kdbench.report import figures, stats
from kdbench.report.block import BlockReport
from kdbench.report.figures import canvas, style
from kdbench.report.figures.style import method_styles
from kdbench.types import KdbenchError

MANY = (*METHODS, *(f"m{i}" for i in range(14)))


def stages(block, seeds=2, reason="the coarser grid is 4 x 4, below 8"):
    rng, documents = np.random.default_rng(0), []
    for pair in block.pairs:
        keys = itertools.product(
            range(seeds), ["before", *(m.id for m in block.methods)], range(1, 5), ("dc", "low", "high")
        )
        rows = []
        for seed, method, stage, band in keys:
            known = band != "high"
            rows.append(
                {"seed": seed, "method": method, "stage": stage, "band": band}
                | {"cka": 0.15 * stage + float(rng.normal(0, 0.03)) if known else None}
                | {"null_low": -0.03 if known else None, "null_high": 0.04 if known else None}
                | {"reason": None if known else reason}
            )
        spectra = [
            {
                "seed": seed,
                "role": "student" if method else "teacher",
                "model": pair.student if method else pair.teacher,
            }
            | {
                "method": method,
                "stage": stage,
                "power": [0.4, 0.5 - 0.01 * i, 0.5 + 0.01 * i],
                "white": [0.2, 0.3, 0.7],
            }
            for i, method in enumerate([None, "before", *(m.id for m in block.methods)])
            for seed, stage in itertools.product(range(seeds), range(1, 5))
        ]
        documents.append({"pair": pair.id, "block": block.name, "kind": "stages", "rows": rows, "spectra": spectra})
    return documents


def channels(block, seeds=2):
    treatments = ("DC kept", "DC removed", "permuted channels, DC kept", "shuffled pairs, DC kept")
    rows = [
        {"seed": seed, "treatment": treatment, "band": band, "cosine": value + seed / 50, "null_prediction": null}
        | {"low": value - 0.02, "high": value + 0.02, "reason": None}
        for seed in range(seeds)
        for treatment in treatments
        for band, value, null in (("raw", 0.8, None), ("low", 0.9, 0.91), ("high", 0.0, 0.0))
    ]
    ends = ["t", *(f"t{i}" for i in range(1, len(block.pairs)))]
    return [
        {"block": block.name, "kind": "channels", "a": f"raster-{end}", "b": f"outline-{end}", "rows": rows}
        for end in ends
    ]


def curves(block, seeds=2):
    keys = itertools.product(
        (p.id for p in block.pairs), (m.id for m in block.methods), range(seeds), range(100, 600, 100)
    )
    rows = [(pair, method, seed, step, 50 + step / 20 + seed) for pair, method, seed, step in keys]
    return pd.DataFrame(rows, columns=["pair", "method", "seed", "step", "test_accuracy"])


def report(suite, block, frame=None, **changes):
    """All that a figure may read of a made-up block."""
    measured = {"stages": stages(block), "channels": channels(block), "curves": curves(block)}
    if frame is not None:
        measured["lengths"] = lengths(frame, (1, 2, 4), (8,))
    return BlockReport(suite, block, frame, **{**measured, **changes})


def draw(kind, suite, block, frame=None, **changes):
    return figures.kinds()[kind].draw(report(suite, block, frame, **changes))


def one_of_each():
    """{kind: figure} of a made-up block in which not every run finished, and a view of one pair."""
    suite, block, frame = make(pairs=2)
    frame = change(frame, block.pairs[0].id, "ofa", status="n/a", reason="too few maps")
    frame = change(frame, block.pairs[1].id, "uhkd", 0, status="diverged", reason="step 3")
    whole = report(suite, block, frame)
    views = dict(figures.kinds()["stages"].views(whole))
    view = f"by-pair/{block.pairs[0].id}-low"
    return {**{kind: figure.draw(whole) for kind, figure in figures.kinds().items()}, "view": views[view]}


def said(figure):
    """All text of a figure."""
    return " ".join(" ".join(text.get_text() for text in figure.findobj(Text)).split())


def words(path):
    """Text of an SVG, lines of one label joined."""
    found = re.findall(r"<text[^>]*>(.*?)</text>", path.read_text(), flags=re.S)
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", text)) for text in found).split()


LABELS = [
    (
        "stages",
        [
            "vit-t → cnn-s",
            "UHKD† (C0)",
            "before training",
            "shuffled pairs (null)",
            "4 x 4, below 8",
            "CKA",
            "DC: mean over space",
            "low spatial frequencies",
            "range over seeds",
        ],
    ),
    (
        "treatments",
        [
            "raster-t and outline-t",
            "channel mean removed",
            "permuted channels, channel mean kept",
            "null prediction",
            "low channel band",
            "cosine",
            "2 seeds",
            "Whiskers: 95 % t interval over seeds",
            "along the channel index, not over space",
        ],
    ),
    (
        "accuracy",
        ["vit-t → cnn-s", "UHKD† (C0)", "frequency", "test accuracy − Scratch by pair", "points", "3 seeds"],
    ),
    (
        "similarity",
        [
            "CNN students",
            "UHKD† (C0)",
            "CKA − Scratch",
            "accuracy − Scratch",
            "low band",
            "shuffled pairs (null)",
            "high band",
        ],
    ),
    (
        "spectra",
        ["vit-t → cnn-s", "UHKD† (C0)", "cnn-t (teacher)", "cnn-s (Scratch)", "stage 4", "cycles per image"],
    ),
    (
        "channels",
        ["a shared channel", "published (CREMA-D", "before the", "cosine of the whole features", "2 seeds"],
    ),
    ("verdict", ["UHKD† (C0)", "mean of 2 headline pairs", "points", "test accuracy − Scratch", "dashed: KD"]),
    (
        "cost",
        ["UHKD† (C0)", "training time, × Scratch", "accuracy − Scratch, points", "(mean of 2 headline pairs)"],
    ),
    ("learning", ["vit-t → cnn-s", "FD-CMKD‡", "step", "test accuracy, %", "2 seeds"]),
]
SUPPLEMENT = ("stages", "spectra", "treatments")


@pytest.mark.parametrize(
    ("kind", "labels"), [pytest.param(*row, marks=pytest.mark.slow if row[0] in SUPPLEMENT else ()) for row in LABELS]
)
def test_all_files_with_their_labels_and_the_same_bytes_again(kind, labels, tmp_path):
    suite, block, frame = make(pairs=2)
    paths = canvas.write(draw(kind, suite, block, frame), tmp_path / "a.b")
    assert [p.name for p in paths] == ["a.b.svg", "a.b.png", "a.b.pdf"] and sorted(tmp_path.iterdir()) == sorted(paths)
    assert paths[1].read_bytes().startswith(b"\x89PNG") and paths[2].read_bytes().startswith(b"%PDF")
    text = " ".join(words(paths[0]))
    for label in labels:
        assert label in text, label
    again = canvas.write(draw(kind, suite, block, frame), tmp_path / "again")
    assert [p.read_bytes() for p in again] == [p.read_bytes() for p in paths]


KINDS = ("stages", "similarity", "spectra", "channels", "treatments", "verdict", "accuracy", "cost", "learning")
KINDS += ("compute",)
SIZES = {kind: {1: MANY, 5: tuple(METHODS)} for kind in KINDS}
for _kind in ("similarity", "treatments", "verdict", "accuracy", "cost"):
    SIZES[_kind][9] = MANY
"""Pairs -> methods of a figure that is looked at; all but the most pairs are slow tests."""


@pytest.mark.parametrize(
    ("kind", "pairs", "methods"),
    [
        pytest.param(kind, pairs, methods, marks=() if pairs == max(SIZES[kind]) else pytest.mark.slow)
        for kind in KINDS
        for pairs, methods in SIZES[kind].items()
    ],
)
def test_nothing_overlaps(kind, pairs, methods):
    long = {m: f"{m}, a method with quite a long name (variant: paper)" for m in ("ofa", "uhkd", "m3", "m4", "m5")}
    suite, block, frame = make(pairs, methods, seeds=2, names=long)
    figure = draw(kind, suite, block, frame)
    figure.draw_without_rendering()
    panels = [axes.get_tightbbox() for axes in figure.axes if axes.get_visible()]
    around = [legend.get_window_extent() for legend in figure.legends]
    around += [t.get_window_extent() for t in (figure._suptitle, figure._supxlabel)]
    labels = [
        [t.get_window_extent() for t in ticks if t.get_visible() and t.get_text()]
        for axes in figure.axes
        if axes.get_visible()
        for ticks in (axes.get_xticklabels(), axes.get_yticklabels())
    ]
    labels += [[t.get_window_extent() for t in legend.get_texts()] for legend in figure.legends]
    for boxes in (panels + around, *labels):
        for one, other in itertools.combinations(boxes, 2):
            inside = min(one.x1, other.x1) - max(one.x0, other.x0), min(one.y1, other.y1) - max(one.y0, other.y0)
            assert min(inside) <= 1, (one, other)
    for box in panels + around:
        assert box.x0 >= -1 and box.y0 >= -1 and box.x1 <= figure.bbox.x1 + 1 and box.y1 <= figure.bbox.y1 + 1


@pytest.mark.parametrize("kind", ["verdict", "cost", "channels", "accuracy", "similarity"])
def test_what_sums_up_fits_a_column_and_what_shows_pairs_a_page(kind):
    suite, block, frame = make(9)
    width = canvas.COLUMN if kind in ("verdict", "cost", "channels") else canvas.PAGE
    assert draw(kind, suite, block, frame).get_figwidth() == pytest.approx(width, abs=0.05)


def test_forests_name_what_is_absent_and_mark_weak_pairs():
    suite, block, frame = make()
    frame = change(frame, block.pairs[0].id, "ofa", status="n/a", reason="too few maps")
    frame = change(frame, block.pairs[1].id, "ofa", status="diverged", reason="step 3")
    frame.loc[(frame["pair"] == block.pairs[2].id) & (frame["method"] != "scratch"), "teacher_val"] = 80.0
    text = said(draw("accuracy", suite, block, frame))
    assert all(part in text for part in ("n/a", "diverged", "(weak teacher)"))
    text = said(draw("verdict", suite, block, frame))
    assert "mean of 2 headline pairs" in text and "no complete seed" in text


def test_forests_without_scratch_with_one_seed_and_with_nothing_at_all():
    suite, block, frame = make(methods=("kd", "ofa"), seeds=1)
    assert "test accuracy − KD by pair, 1 seed" in said(draw("accuracy", suite, block, frame))
    for pair in block.pairs:
        for method in ("kd", "ofa"):
            frame = change(frame, pair.id, method, status="missing")
    assert "missing" in said(draw("accuracy", suite, block, frame))
    suite, block, frame = make(methods=("ofa", "uhkd"))
    with pytest.raises(KdbenchError, match="no KD and no scratch"):
        draw("accuracy", suite, block, frame)


def points(axes, marker=None):
    """{y: x} of the single points of a panel."""
    lines = [line for line in axes.lines if len(line.get_xdata()) == 1 and line.get_marker() != "None"]
    return {line.get_ydata()[0]: line.get_xdata()[0] for line in lines}


def test_the_forest_stands_sorted_within_groups_with_a_dot_a_pair():
    suite, block, frame = make(methods=("scratch", "kd", "ofa", "uhkd", "uhkd-c0"))
    (axes,) = draw("verdict", suite, block, frame).axes
    names = [t.get_text() for t in axes.get_yticklabels()]
    assert names == ["logits", "OFA", "KD", "frequency", "UHKD† (C0)", "UHKD†"]
    at = dict(zip(axes.get_yticks(), names, strict=True))
    gains = stats.verdict(frame, "scratch")["difference"]
    labels = {m.label: m.id for m in block.methods}
    assert {labels[at[y]]: x for y, x in points(axes).items()} == pytest.approx(gains.astype(float).to_dict())
    dots = [sorted(line.get_xdata()) for line in axes.lines if len(line.get_xdata()) == 3]
    each = stats.differences(frame, "scratch").groupby("pair").mean()
    assert sorted(dots) == [pytest.approx(x) for x in sorted(sorted(each[m]) for m in each)]
    assert any(list(line.get_xdata()) == [pytest.approx(gains["kd"])] * 2 for line in axes.lines)


def test_a_collapsed_method_is_an_arrow_and_squashes_no_axis():
    suite, block, frame = make()
    plain = [draw(kind, suite, block, frame).axes[0].get_xlim() for kind in ("verdict", "accuracy")]
    frame.loc[(frame["pair"] == block.pairs[0].id) & (frame["method"] == "ofa"), "test"] = 39.0
    assert stats.collapsed_cells(frame) == {(block.pairs[0].id, "ofa")}
    for kind, (low, high) in zip(("verdict", "accuracy"), plain, strict=True):
        figure = draw(kind, suite, block, frame)
        assert low - 1 < figure.axes[0].get_xlim()[0] and figure.axes[0].get_xlim()[1] < high + 1
        assert "collapsed" in said(figure) and "collapsed" not in said(draw(kind, *make()))
    text = said(draw("verdict", suite, block, frame))
    assert "−13: collapsed on 1 of 3 pairs" in text


def test_pairs_stand_in_a_grid_of_teacher_by_student_where_they_fill_one():
    suite, block, frame = make(9)
    axes = [a for a in draw("accuracy", suite, block, frame).axes if a.get_visible()]
    place = {a.get_title(): (a.get_subplotspec().rowspan.start, a.get_subplotspec().colspan.start) for a in axes}
    assert place["vit-t → cnn-s"] == (1, 0) and place["cnn-t → vit-s"] == (0, 1) and place["mlp-t → mlp-s"] == (2, 2)


def test_nothing_to_draw_is_an_error():
    suite, block, _ = make()
    with pytest.raises(KdbenchError, match="no stages similarity for block 'main'"):
        draw("stages", suite, block, stages=[])
    with pytest.raises(KdbenchError, match="no channels similarity"):
        draw("channels", suite, block, channels=[])
    with pytest.raises(KdbenchError, match="no learning curve"):
        draw("learning", suite, block, curves=curves(block).iloc[:0])
    with pytest.raises(KdbenchError, match="no spectra for block 'main'"):
        draw("spectra", suite, block, stages=[{**d, "spectra": []} for d in stages(block)])


def test_hostile_names_are_text(tmp_path):
    suite, block, _ = make(pairs=1, names={"ofa": HOSTILE.removesuffix(" 語"), "uhkd": "_hidden"})
    path, *_ = canvas.write(draw("learning", suite, block), tmp_path / "x")
    assert "<script" not in path.read_text()
    assert "<script>alert(1)</script>" in "".join(words(path)) and "_hidden" in words(path)


def test_views_of_the_stages_show_one_pair_or_one_method_in_one_band():
    suite, block, _ = make(pairs=2)
    views = dict(figures.kinds()["stages"].views(report(suite, block)))
    names = [f"by-pair/{p.id}" for p in block.pairs] + [f"by-method/{m.id}" for m in block.methods]
    assert sorted(views) == sorted(f"{name}-{band}" for name in names for band in ("low", "high"))
    pair, other = (f"{p.teacher} → {p.student}" for p in block.pairs)
    text = said(views[f"by-pair/{block.pairs[0].id}-low"])
    assert pair in text and other not in text and "KD" in text and "UHKD†" in text and "low spatial frequencies" in text
    text = said(views["by-method/kd-high"])
    assert pair in text and other in text and "UHKD†" not in text and "before training" in text


@pytest.mark.slow
def test_every_figure_that_has_its_numbers_is_written(tmp_path):
    suite, block, frame = make(pairs=1, methods=("scratch", "kd"))
    short = curves(block).query("step < 500")
    measured = {"stages": [{**d, "spectra": []} for d in stages(block)], "channels": (), "curves": short, "lengths": ()}
    paths = figures.write_figures([report(suite, block, frame, **measured)], tmp_path)
    assert sorted(paths) == sorted(path for path in tmp_path.rglob("*") if path.is_file())
    names = {path.relative_to(tmp_path).as_posix() for path in paths}
    stems = {"supplement/main-stages", *(f"main-{kind}" for kind in ("similarity", "verdict", "accuracy", "cost"))}
    views = itertools.product(("by-pair/cnn-t--cnn-s", "by-method/scratch", "by-method/kd"), ("low", "high"))
    expected = {f"{stem}.{end}" for stem in stems for end in ("svg", "png", "pdf")}
    assert names == expected | {f"main/{view}-{band}.svg" for view, band in views}


def test_compute_shows_every_budget_the_teacher_and_scratch_beyond():
    suite, block, frame = make(3, ("scratch", "kd"))
    block = block_of(block, (1, 2, 4), (8,))
    figure = draw("compute", suite, block, frame)
    text = said(figure)
    assert "a point a budget (1, 2, 4, 8 times the student's recipe)" in text and "teacher" in text
    for axes in (axes for axes in figure.axes if axes.get_visible()):
        lines = [line for line in axes.lines if len(line.get_xdata()) > 2]
        assert sorted(len(line.get_xdata()) for line in lines) == [3, 4]
        scratch, kd = sorted(lines, key=lambda line: -len(line.get_xdata()))
        assert list(np.array(kd.get_xdata()) / np.array(scratch.get_xdata())[:3]) == pytest.approx([2, 2, 2])
        assert any(line.get_linestyle() == "--" and line.get_ydata()[0] == pytest.approx(96.1) for line in axes.lines)
    unknown = draw("compute", suite, block, frame, lengths=lengths(frame, (1, 2)).assign(steps=np.nan))
    assert "no result that holds its operations" in said(unknown)


@pytest.mark.slow
def test_figures_drawn_side_by_side_are_the_same_files(tmp_path):
    suite, block, frame = make(pairs=1, methods=("scratch", "kd"))
    one, two = tmp_path / "one", tmp_path / "two"
    written = [figures.write_figures([report(suite, block, frame)], folder, n) for folder, n in ((one, 1), (two, 2))]
    assert [path.relative_to(one) for path in written[0]] == [path.relative_to(two) for path in written[1]]
    assert all(a.read_bytes() == b.read_bytes() for a, b in zip(*written, strict=True))


@pytest.mark.slow
def test_a_figure_that_can_not_be_drawn_says_so_from_a_process_of_its_own(tmp_path):
    suite, block, frame = make(pairs=1, methods=("scratch", "kd"))
    (tmp_path / "main-verdict.svg").mkdir()
    with pytest.raises(KdbenchError, match="main-verdict"):
        figures.write_figures([report(suite, block, frame)], tmp_path, 2)


def test_a_figure_is_one_file_with_a_caption():
    assert set(figures.kinds()) == set(KINDS)
    fields = {*BlockReport.__dataclass_fields__, "headline_pairs", "spectra", "long_curves"}
    for kind, figure in figures.kinds().items():
        assert figure.__doc__ and figure.TITLE and set(figure.READS) <= fields, kind


def test_every_method_has_a_look_of_its_own_in_all_suites():
    looks = style._LOOKS
    assert set(method_names()) <= set(looks) and len(set(looks.values())) == len(looks)
    assert looks["kd"][0] == "#000000"


def test_twenty_unknown_methods_differ_and_look_alike_in_another_suite():
    suite, *_ = make(methods=MANY)
    styles = method_styles(suite)
    assert len(styles) == 20 and len({(s["color"], s["marker"]) for s in styles.values()}) == 20
    other, *_ = make(methods=("m3", "kd", "uhkd"))
    assert method_styles(other) == {m: styles[m] for m in ("m3", "kd", "uhkd")}


def test_variants_and_tuned_twins_have_the_colour_of_their_method():
    suite, block, _ = make(methods=METHODS)
    plain = method_styles(suite)
    twins = tuple(replace(m, id=f"{m.id}-tuned", tuned_from=m.id) for m in block.methods)
    variant = replace(block.methods[2], id="ofa-other", variant_of="ofa")
    styles = method_styles(replace(suite, blocks=(replace(block, methods=(*block.methods, *twins, variant)),)))
    assert {m: styles[m] for m in plain} == plain
    assert all(styles[f"{m}-tuned"]["color"] == plain[m]["color"] for m in plain)
    assert styles["ofa-other"]["color"] == plain["ofa"]["color"]
    assert len({(s["color"], s["marker"]) for s in styles.values()}) == 2 * len(METHODS) + 1


def measured(block, levels, seeds=2, bands=("low", "high"), ceiling=None):
    """Documents of `stages` in which CKA is levels[method], a little more in the second stage, in later seeds and in
    later pairs than the first."""
    documents = []
    for i, pair in enumerate(block.pairs):
        rows = [
            {"seed": seed, "method": method, "stage": stage, "band": band}
            | {"cka": level + 0.1 * (stage == 2) + 0.02 * seed + 0.01 * i * (method == "kd") if band in bands else None}
            | {"null_low": -0.02, "null_high": 0.03, "reason": None if band in bands else "the grid is too small"}
            for method, level in levels.items()
            for seed, stage, band in itertools.product(range(seeds), (1, 2), ("dc", "low", "high"))
        ]
        own = [{"seeds": [0, 1], "stage": 1, "band": b, "cka": ceiling, "reason": None} for b in bands if ceiling]
        documents.append({"pair": pair.id, "block": block.name, "kind": "stages", "rows": rows, "ceiling": own})
    return documents


LEVELS = {"before": 0.1, "scratch": 0.5, "kd": 0.52, "ofa": 0.3, "uhkd": 0.7}


def test_similarity_is_held_against_scratch_by_family_with_its_ceiling():
    suite, block, frame = make(pairs=4, methods=("scratch", "kd", "ofa", "uhkd"), seeds=2)
    figure = draw("similarity", suite, block, frame, stages=measured(block, LEVELS, ceiling=0.8))
    grid, (low, high) = np.array(figure.axes[:6]).reshape(3, 2), figure.axes[6:]
    assert [a.get_title() for a in grid[0]] == ["CNN students", "ViT students"]
    level = [line.get_xdata()[0] for line in grid[0, 0].lines]
    assert level == pytest.approx([0.56, 0.8] * 2)
    rows = [t.get_text() for t in grid[1, 0].get_yticklabels()]
    assert rows == ["KD", "OFA", "UHKD†"]
    found = points(grid[1, 0])
    assert sorted(found) == pytest.approx([-0.17, 0.17, 0.83, 1.17, 1.83, 2.17])
    # Pairs 0 to 2 have a CNN student: KD is 0.02 above Scratch, and 0.01 more a pair.
    assert [found[y] for y in sorted(found)] == pytest.approx([0.03, 0.03, -0.2, -0.2, 0.2, 0.2])
    gains = stats.differences(frame, "scratch").loc[[pair.id for pair in block.pairs[:3]]]
    assert list(points(grid[2, 0]).values()) == pytest.approx(gains.mean().tolist())
    dots = np.concatenate([line.get_xydata() for line in low.lines if line.get_marker() != "None"])
    assert len(dots) == 12 and low.get_title().startswith("low band\nρ = ")
    assert "[" in high.get_title(), "four pairs have an interval"


def test_similarity_without_a_band_or_a_level_says_so_and_draws_the_rest():
    suite, block, frame = make(pairs=4, methods=("scratch", "kd", "ofa", "uhkd"), seeds=2)
    documents = measured(block, LEVELS)
    documents[3] = measured(block, LEVELS, bands=())[3]
    text = said(draw("similarity", suite, block, frame, stages=documents))
    assert "n/a: no such band" in text and "cnn-t → vit-s: the grid is too small." in text and "ceiling" not in text
    # The first run lacks a stage that others have: its mean would be over other stages.
    documents[0]["rows"] = [r for r in documents[0]["rows"] if r["method"] != "ofa"]
    next(r for r in documents[0]["rows"] if (r["method"], r["band"]) == ("kd", "low"))["cka"] = None
    figure = draw("similarity", suite, block, frame, stages=documents)
    assert len(points(figure.axes[2])) == 6


def test_one_wide_interval_squashes_no_axis_of_the_similarity_figure():
    suite, block, frame = make(pairs=3, methods=("scratch", "kd", "ofa", "uhkd"), seeds=3)
    documents = measured(block, LEVELS, seeds=3)
    rng = np.random.default_rng(0)
    for document in documents:
        for row in (r for r in document["rows"] if r["band"] != "dc"):
            row["cka"] += rng.normal(0, 0.005) + (row["seed"] - 1) * 5 * (row["method"] == "ofa")
    low, high = draw("similarity", suite, block, frame, stages=documents).axes[1].get_xlim()
    assert low < -0.2 and high > 0.2 and high - low < 1


def test_what_collapsed_has_no_place_in_the_similarity_figure():
    suite, block, frame = make(pairs=3, methods=("scratch", "kd", "ofa", "uhkd"), seeds=2)
    frame.loc[frame["method"] == "ofa", "test"] = 10.0
    figure = draw("similarity", suite, block, frame, stages=measured(block, LEVELS))
    change_panel, gain_panel, low = figure.axes[1], figure.axes[2], figure.axes[3]
    assert len(points(change_panel)) == 4 and len(points(gain_panel)) == 2
    assert sum(len(line.get_xdata()) for line in low.lines if line.get_marker() != "None") == 6
    assert "Collapsed (below half of Scratch's accuracy on a pair; not at the right): OFA." in said(figure)


def test_cost_is_time_over_scratch_against_the_verdict():
    suite, block, frame = make(pairs=3)
    frame["seconds"] = frame["seconds"] * (1 + frame["seed"])  # what makes all of a seed slow is no cost of a method
    weak = block.pairs[2].id
    frame.loc[(frame["pair"] == weak) & (frame["method"] != "scratch"), "teacher_val"] = 80.0
    frame.loc[(frame["pair"] == weak), "seconds"] = 1000.0
    for pair in block.pairs:
        frame = change(frame, pair.id, "uhkd", seed=1, status="diverged", reason="step 3")
        frame = change(frame, pair.id, "ofa", status="diverged", reason="step 3")
    figure = draw("cost", suite, block, frame)
    found = {tuple(line.get_xydata()[0]) for line in figure.axes[0].lines if line.get_marker() != "None"}
    gains = stats.verdict(frame, "scratch")["difference"]
    expected = {(1.0, 0.0), (2.0, gains["kd"]), (4.0, gains["uhkd"]), (5.0, gains["uhkd-c0"])}
    expected |= {(6.0, gains["fdcmkd"])}
    assert np.array(sorted(found)) == pytest.approx(np.array(sorted(expected)))
    assert "OFA" not in [t.get_text() for t in figure.legends[0].get_texts()]
    assert "Without a complete seed on the headline pairs: OFA." in figure._supxlabel.get_text()


def test_cost_counts_operations_with_the_teachers_pass_where_every_result_holds_them():
    suite, block, frame = make(pairs=3, methods=("scratch", "kd", "ofa"))
    held = {"scratch": (100.0, 0.0, 10), "kd": (100.0, 50.0, 10), "ofa": (150.0, 50.0, 20)}
    for column, i in (("operations_per_step", 0), ("teacher_operations_per_step", 1), ("steps", 2)):
        frame[column] = frame["method"].map({m: numbers[i] for m, numbers in held.items()})
    figure = draw("cost", suite, block, frame)
    found = {line.get_xdata()[0] for line in figure.axes[0].lines if line.get_marker() != "None"}
    assert sorted(found) == pytest.approx([1.0, 1.5, 4.0])
    assert figure.axes[0].get_xlabel() == "operations, × Scratch" and "pass included" in said(figure)
    frame.loc[frame.index[0], "operations_per_step"] = None
    figure = draw("cost", suite, block, frame)
    assert figure.axes[0].get_xlabel() == "training time, × Scratch" and "so time is shown" in said(figure)


def test_without_a_headline_pair_neither_verdict_nor_cost_is_drawn(tmp_path):
    suite, block, frame = make(pairs=1, seeds=1, methods=("kd", "ofa"))
    written = figures.write_figures([report(suite, block, frame)], tmp_path)
    assert not {path.stem for path in written} & {f"{block.name}-verdict", f"{block.name}-cost"}


def test_cost_without_results():
    suite, block, frame = make(pairs=1, seeds=1, methods=("scratch", "kd", "ofa"))
    one = draw("cost", suite, block, frame).axes[0]
    assert [line.get_markerfacecolor() for line in one.lines[1:]] == ["#777777", "white", "white"]
    for method in ("kd", "ofa"):
        frame = change(frame, block.pairs[0].id, method, status="missing")
    assert "no complete seed" in [t.get_text() for t in draw("cost", suite, block, frame).axes[0].texts]


def test_spectra_are_those_of_the_documents():
    suite, block, _ = make(pairs=2)
    documents = stages(block)
    documents[1]["spectra"] = []
    grid = np.array(draw("spectra", suite, block, stages=documents).axes).reshape(3, 4)
    lines = {(line.get_color(), line.get_linestyle()): line for line in grid[1, 2].lines}
    styles = method_styles(suite)
    for i, method in enumerate(["before", *(m.id for m in block.methods)], start=1):
        own = method in ("before", "scratch", "kd", "uhkd", "uhkd-c0")
        of = style.BEFORE if method == "before" else styles[method]
        look = of["color"], of["linestyle"]
        assert (look in lines) == own, method
        if own:
            assert lines[look].get_xydata().ravel() == pytest.approx([1, 0.5 - 0.01 * i, 2, 0.5 + 0.01 * i])
    (others,) = grid[1, 2].collections
    assert others.get_datalim(grid[1, 2].transData).intervaly == pytest.approx([0.43, 0.57])
    assert [t.get_text() for t in grid[2, 0].texts] == ["n/a: fewer\nthan four\nstages"]
    assert grid[0, 0].get_yscale() == "log"


def test_a_long_label_has_two_lines_and_loses_nothing():
    long = "FD-CMKD‡ (heads only as written, no teacher)!"
    assert len(long) == 45
    suite, block, frame = make(names={"ofa": long})
    for kind in ("verdict", "accuracy", "similarity"):
        panel = draw(kind, suite, block, frame).axes[-3 if kind == "similarity" else 0]
        labels = [t.get_text() for t in panel.get_yticklabels()]
        assert "FD-CMKD‡ (heads only as\nwritten, no teacher)!" in labels and "UHKD† (C0)" in labels, kind


def test_figures_show_short_labels_but_never_one_for_two_methods():
    suite, block, frame = make(methods=("scratch", "kd", "ofa", "uhkd", "uhkd-c0"))
    shorts = {"uhkd-c0": "spatial twin", "ofa": "same", "uhkd": "same"}
    block = replace(block, methods=tuple(replace(m, short=shorts.get(m.id, "")) for m in block.methods))
    assert list(canvas.labels_of(block).values()) == ["Scratch", "KD", "OFA", "UHKD†", "spatial twin"]
    for kind in ("verdict", "accuracy", "similarity"):
        panel = draw(kind, suite, block, frame).axes[-3 if kind == "similarity" else 0]
        labels = [t.get_text() for t in panel.get_yticklabels()]
        assert "spatial twin" in labels and "UHKD† (C0)" not in labels, kind


def test_a_label_that_is_cut_still_tells_a_tuned_twin():
    whole = "FD-CMKD‡ (heads only as written, no teacher), tuned"
    assert canvas.beside(whole).replace("\n", " ") == whole
    long = "FD-CMKD‡ (heads only as written, no teacher, and a remark)"
    cut = canvas.beside(f"{long}, tuned").replace("\n", " ")
    assert cut.endswith("…, tuned") and len(cut) <= 52
    assert canvas.beside("KD, tuned") == "KD, tuned"


@pytest.mark.parametrize("spread", [1.5, 30.0, 1e4])
def test_log_axes_have_three_plain_ticks_at_least(spread):
    suite, block, _ = make(pairs=1)
    documents = stages(block)
    for row in documents[0]["spectra"]:
        row["power"] = row["white"] = [0.9, 0.9 / spread, 0.9]
    figure = draw("spectra", suite, block, stages=documents)
    figure.draw_without_rendering()
    low, high = figure.axes[0].get_ylim()
    seen = [t.get_text() for t in figure.axes[0].get_yticklabels() if low <= t.get_position()[1] <= high]
    assert len(seen) >= 3 and all(text == f"{float(text):g}" for text in seen)


def test_spectra_tell_the_networks_of_the_first_row_from_the_methods_below():
    suite, block, _ = make(pairs=2)
    networks, methods = draw("spectra", suite, block).legends
    assert networks.get_title().get_text().startswith("First row")
    assert methods.get_title().get_text().startswith("Rows below")
    names, others = ({t.get_text() for t in legend.get_texts()} for legend in (networks, methods))
    assert {"cnn-t (teacher)", "cnn-s (Scratch)"} <= names and {"KD", "teacher of the pair"} <= others
    assert names & others == {"white noise on its grid"}


def test_curves_of_fewer_than_five_points_are_not_drawn():
    suite, block, _ = make(pairs=2, methods=("scratch", "kd"))
    numbers = curves(block)
    short = (numbers["pair"] == block.pairs[0].id) & (numbers["step"] == 100)
    one, other = draw("learning", suite, block, curves=numbers[~short]).axes
    assert one.texts[0].get_text() == "fewer than five points" and not one.lines
    assert other.get_xlim()[0] == 0 and [line.get_marker() for line in other.lines] == ["None", "s", "None", "o"]
    with pytest.raises(KdbenchError, match="no learning curve"):
        draw("learning", suite, block, curves=numbers[numbers["step"] > 100])


def test_treatments_of_one_seed_say_what_their_whiskers_are():
    suite, block, _ = make(pairs=1)
    note = draw("treatments", suite, block, channels=channels(block, seeds=1))._supxlabel.get_text()
    assert "bootstrap interval over test samples" in note.replace("\n", " ")


def test_treatments_without_a_cosine_have_no_panel_but_a_reason():
    suite, block, _ = make(pairs=3)
    documents = channels(block)
    nothing = {"cosine": None, "low": None, "high": None, "null_prediction": None}
    for document in documents[1:]:
        document["rows"] = [row | nothing | {"reason": "feature widths differ (8 and 4)"} for row in document["rows"]]
    figure = draw("treatments", suite, block, channels=documents)
    assert [axes.get_title() for axes in figure.axes if axes.get_visible()] == ["raster-t and outline-t"]
    note = figure._supxlabel.get_text().replace("\n", " ")
    assert "n/a: raster-t1 and outline-t1, raster-t2 and outline-t2: feature widths differ (8 and 4)" in note
    figure = draw("treatments", suite, block, channels=documents[1:])
    said = [axes.texts[0].get_text().replace("\n", " ") for axes in figure.axes]
    assert said == 2 * ["feature widths differ (8 and 4)"]


def test_treatments_show_untrained_networks_and_a_common_basis_where_they_were_measured():
    suite, block, _ = make(pairs=1)
    (document,) = channels(block)
    document["others"] = [
        row | {"networks": networks}
        for row in document["rows"][:3]
        for networks in ("image and audio untrained", "image and audio after kd")
    ]
    numbers = {"cosine": 0.5, "shuffled_low": -0.1, "shuffled_high": 0.1, "split_low": 0.4, "split_high": 0.6}
    document["rotated"] = [
        {"seed": 0, "band": band, **numbers, "reason": None} for band in ("raw", "low", "high", "low - high")
    ]
    figure = draw("treatments", suite, block, channels=[document])
    names = [label.get_text().replace("\n", " ") for label in figure.axes[0].get_yticklabels()]
    added = ["untrained, channel mean kept", "rotated", "rotated, shuffled pairs", "rotated, random halves"]
    assert names[-4:] == added and len(names) == 8
    assert "fitted on validation" in figure._supxlabel.get_text().replace("\n", " ")
    assert "fitted" not in draw("treatments", suite, block, channels=channels(block))._supxlabel.get_text()


def test_channels_stand_beside_the_curve_of_a_shared_mean_before_and_after_the_activation():
    suite, block, _ = make(pairs=3)
    documents = channels(block)
    for document, share in zip(documents, (0.5, 0.5, 0.001), strict=True):
        after = {"raw": 0.4, "low": 0.6, "high": 0.0}
        document["after"] = [row | {"cosine": after[row["band"]]} for row in document["rows"]]
        document["channel_mean"] = [
            {"seed": seed, "feature": feature, "share_a": 0.3, "share_b": share}
            for seed, feature in itertools.product((0, 1), ("before", "after"))
        ]
    nothing = {"cosine": None, "reason": "feature widths differ (8 and 4)"}
    documents[1] |= {key: [row | nothing for row in documents[1][key]] for key in ("rows", "after")}
    figure = draw("channels", suite, block, channels=documents)
    single = (line for line in figure.axes[0].lines if len(line.get_xdata()) == 1)
    ours = {(line.get_color(), *line.get_xydata()[0].round(6)) for line in single}
    before, after = (look[1] for look in figures.kinds()["channels"]._OURS.values())
    assert ours == {(before, 0.81, 0.91), (after, 0.4, 0.6)}
    note = figure._supxlabel.get_text().replace("\n", " ")
    assert "n/a: raster-t2 and outline-t2: the channel mean is about 0 (LayerNorm)." in note
    assert "n/a: raster-t1 and outline-t1: feature widths differ (8 and 4)." in note
    assert "nothing else" in said(figure)


def test_published_channels_lie_on_the_curve_of_a_shared_mean():
    published = figures.kinds()["channels"].PUBLISHED
    for raw, low in published.values():
        assert stats.shared_mean_low(raw) == pytest.approx(low, abs=0.001)
