"""Figures: both files are there, say what they should, repeat to the byte, and nothing lies upon anything else."""

import html
import itertools
import re

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from test_tables import HOSTILE, METHODS, change, make

from kdbench import figures
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
        documents.append({"pair": pair.id, "block": block.name, "kind": "stages", "rows": rows})
    return documents


def channels(block, seeds=2):
    treatments = ("DC kept", "DC removed", "permuted channels, DC kept", "shuffled pairs, DC kept")
    rows = [
        {"seed": seed, "treatment": treatment, "band": band, "cosine": value + seed / 50, "null_prediction": null}
        | {"low": value - 0.02, "high": value + 0.02}
        for seed in range(seeds)
        for treatment in treatments
        for band, value, null in (("raw", 0.8, None), ("low", 0.9, 0.91), ("high", 0.0, 0.0))
    ]
    return [{"block": block.name, "kind": "channels", "a": "raster-t", "b": "outline-t", "rows": rows}]


def curves(block, seeds=2):
    keys = itertools.product(
        (p.id for p in block.pairs), (m.id for m in block.methods), range(seeds), range(100, 500, 100)
    )
    rows = [(pair, method, seed, step, 50 + step / 20 + seed) for pair, method, seed, step in keys]
    return pd.DataFrame(rows, columns=["pair", "method", "seed", "step", "test_accuracy"])


def draw(kind, suite, block, frame, stem):
    numbers = {"stages": stages, "channels": channels, "learning": curves}
    function = {
        "stages": figures.stage_figure,
        "channels": figures.channel_figure,
        "accuracy": figures.accuracy_figure,
        "learning": figures.learning_figure,
    }[kind]
    return function(suite, block, frame if kind == "accuracy" else numbers[kind](block), stem)


def words(path):
    """Text of an SVG, lines of one label joined."""
    found = re.findall(r"<text[^>]*>(.*?)</text>", path.read_text(), flags=re.S)
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", text)) for text in found).split()


@pytest.mark.parametrize(
    ("kind", "labels"),
    [
        (
            "stages",
            ["vit-t → cnn-s", "UHKD† (C0)", "before training", "shuffled pairs (null)", "4 x 4, below 8", "CKA"],
        ),
        (
            "channels",
            ["raster-t and outline-t", "DC removed", "null prediction", "low channel band", "cosine", "2 seeds"],
        ),
        (
            "accuracy",
            ["vit-t → cnn-s", "UHKD† (C0)", "mean of 2 headline pairs", "difference to KD", "points", "3 seeds"],
        ),
        ("learning", ["vit-t → cnn-s", "FD-CMKD‡", "step", "test accuracy, %", "2 seeds"]),
    ],
)
def test_both_files_with_their_labels_and_the_same_bytes_again(kind, labels, tmp_path):
    suite, block, frame = make(pairs=2)
    paths = draw(kind, suite, block, frame, tmp_path / "a.b")
    assert [p.name for p in paths] == ["a.b.svg", "a.b.png"] and sorted(tmp_path.iterdir()) == sorted(paths)
    assert paths[1].read_bytes().startswith(b"\x89PNG")
    text = " ".join(words(paths[0]))
    for label in labels:
        assert label in text, label
    again = draw(kind, suite, block, frame, tmp_path / "again")
    assert [p.read_bytes() for p in again] == [p.read_bytes() for p in paths]


@pytest.mark.parametrize("kind", ["stages", "channels", "accuracy", "learning"])
@pytest.mark.parametrize(("pairs", "methods"), [(1, MANY), (5, tuple(METHODS))])
def test_nothing_overlaps(kind, pairs, methods, tmp_path, monkeypatch):
    kept = []
    monkeypatch.setattr(figures, "_write", lambda figure, stem: kept.append(figure) or [])
    suite, block, frame = make(
        pairs, methods, seeds=2, names={"ofa": "A method with quite a long name (variant: paper)"}
    )
    draw(kind, suite, block, frame, tmp_path / "x")
    (figure,) = kept
    assert isinstance(figure, Figure)
    figure.draw_without_rendering()
    panels = [axes.get_tightbbox() for axes in figure.axes if axes.get_visible()]
    around = [legend.get_window_extent() for legend in figure.legends]
    around += [t.get_window_extent() for t in (figure._suptitle, figure._supxlabel)]
    for one, other in itertools.combinations(panels + around, 2):
        inside = min(one.x1, other.x1) - max(one.x0, other.x0), min(one.y1, other.y1) - max(one.y0, other.y0)
        assert min(inside) <= 1, (one, other)
    for box in panels + around:
        assert box.x0 >= -1 and box.y0 >= -1 and box.x1 <= figure.bbox.x1 + 1 and box.y1 <= figure.bbox.y1 + 1


def test_forest_names_what_is_absent_and_marks_weak_pairs(tmp_path):
    suite, block, frame = make()
    frame = change(frame, block.pairs[0].id, "ofa", status="n/a", reason="too few maps")
    frame = change(frame, block.pairs[1].id, "ofa", status="diverged", reason="step 3")
    frame.loc[(frame["pair"] == block.pairs[2].id) & (frame["method"] != "scratch"), "teacher_val"] = 80.0
    text = " ".join(words(figures.accuracy_figure(suite, block, frame, tmp_path / "x")[0]))
    for part in ("n/a", "diverged", "(weak teacher)", "mean of 2 headline pairs", "no complete seed"):
        assert part in text


def test_forest_without_kd_one_seed_and_nothing_at_all(tmp_path):
    suite, block, frame = make(methods=("scratch", "ofa"), seeds=1)
    assert "difference to Scratch, test accuracy, 1 seed" in " ".join(
        words(figures.accuracy_figure(suite, block, frame, tmp_path / "x")[0])
    )
    for pair in block.pairs:
        for method in ("scratch", "ofa"):
            frame = change(frame, pair.id, method, status="missing")
    assert "missing" in words(figures.accuracy_figure(suite, block, frame, tmp_path / "y")[0])
    suite, block, frame = make(methods=("ofa", "uhkd"))
    with pytest.raises(KdbenchError, match="no KD and no scratch"):
        figures.accuracy_figure(suite, block, frame, tmp_path / "z")


def test_nothing_to_draw_is_an_error(tmp_path):
    suite, block, _ = make()
    with pytest.raises(KdbenchError, match="no stages similarity for block 'main'"):
        figures.stage_figure(suite, block, [], tmp_path / "x")
    with pytest.raises(KdbenchError, match="no channels similarity"):
        figures.channel_figure(suite, block, stages(block), tmp_path / "x")
    with pytest.raises(KdbenchError, match="no learning curve"):
        figures.learning_figure(suite, block, curves(block).iloc[:0], tmp_path / "x")


def test_hostile_names_are_text(tmp_path):
    suite, block, _ = make(pairs=1, names={"ofa": HOSTILE.removesuffix(" 語"), "uhkd": "_hidden"})
    path, _ = figures.learning_figure(suite, block, curves(block), tmp_path / "x")
    assert "<script" not in path.read_text()
    assert "<script>alert(1)</script>" in " ".join(words(path)) and "_hidden" in words(path)


def test_twenty_methods_differ_and_agree_between_figures():
    suite, *_ = make(methods=MANY)
    styles = figures.method_styles(suite)
    assert len(styles) == 20 and len({(s["color"], s["marker"]) for s in styles.values()}) == 20
    assert len({s["marker"] for s in styles.values() if s["marker"] not in "so"}) >= 16
    assert styles == figures.method_styles(suite)
    assert styles["kd"]["color"] == "#000000"
