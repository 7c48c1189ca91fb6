"""Huge suites: the work grows with the number of cells, and figures show what a person can read."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pandas as pd
import pytest
from matplotlib.figure import Figure
from test_figures import report, said
from test_tables import make

from kdbench.plan.jobs import make_plan
from kdbench.plan.suite import load_suite
from kdbench.report import figures, stats, tables
from kdbench.report.block import BlockReport
from kdbench.report.figures import limits
from kdbench.results.frames import collect
from kdbench.results.today import Today
from kdbench.types import ModelSpec, Pair
from speed import synthetic


def huge(pairs: int, methods: tuple[str, ...] = ("scratch", "kd", "ofa"), seeds: int = 2):
    """A suite of so many pairs and its frame, made of copies of one pair's runs."""
    suite, block, frame = make(1, methods, seeds)
    ids = [Pair(f"t{i % 10}", f"s{i // 10}") for i in range(pairs)]
    names = {name for pair in ids for name in (pair.teacher, pair.student)}
    models = {name: ModelSpec(name, "ResNet", "digits", "r", family="cnn") for name in names}
    block = replace(block, pairs=tuple(ids))
    parts = [frame.assign(pair=p.id, teacher=p.teacher, student=p.student) for p in ids]
    return replace(suite, models=models, blocks=(block,)), block, pd.concat(parts, ignore_index=True)


def work(monkeypatch, pairs: int, tmp_path) -> tuple[int, int]:
    """Statistics of whole frames that tables of so many pairs compute, and rows that masks over frames look at."""
    calls, rows = [], []
    suite, block, frame = huge(pairs)
    with monkeypatch.context() as patch:
        for name in ("wide", "headline_pairs", "teachers", "verdict", "differences"):
            real = getattr(stats, name)
            patch.setattr(stats, name, lambda *args, real=real: calls.append(real) or real(*args))
        getitem = pd.DataFrame.__getitem__

        def counted(self, key):
            if isinstance(key, pd.Series) and key.dtype == bool:
                rows.append(len(self))
            return getitem(self, key)

        patch.setattr(pd.DataFrame, "__getitem__", counted)
        tables.write_tables(suite, [BlockReport(suite, block, frame)], tmp_path)
    return len(calls), sum(rows)


def test_the_work_of_tables_grows_with_the_number_of_cells(monkeypatch, tmp_path):
    (few, rows_few), (many, rows_many) = (work(monkeypatch, pairs, tmp_path) for pairs in (10, 80))
    assert many == few, "a statistic of all runs is computed again for each pair or cell"
    assert rows_many <= 8 * rows_few, "all runs are filtered for each pair or cell"


def test_cells_are_computed_once_a_block(monkeypatch, tmp_path):
    suite, block, frame = huge(2)
    one = BlockReport(suite, block, frame)
    assert one.shown is one and one.cells is one.cells
    made = []
    monkeypatch.setattr("kdbench.report.block.cells", lambda *args, real=tables.cells: made.append(1) or real(*args))
    tables.write_tables(suite, [BlockReport(suite, block, frame)], tmp_path)
    assert len(made) == 1


MANY = limits.PANELS + 3


@pytest.mark.parametrize(
    "kind",
    ["accuracy", *(pytest.param(k, marks=pytest.mark.slow) for k in ("learning", "stages", "spectra", "treatments"))],
)
def test_a_figure_of_many_pairs_is_cut_and_says_so(kind):
    suite, block, frame = huge(MANY)
    figure = figures.kinds()[kind].draw(report(suite, block, frame))
    what = "pairs of models" if kind == "treatments" else "pairs"
    assert f"Shown: the first {limits.PANELS} of {MANY} {what}; all are in " in said(figure)
    beside = {"spectra": 4}.get(kind, 0)  # the networks alone
    panels = {"stages": 3, "spectra": 4}.get(kind, 1) * limits.PANELS + beside
    assert sum(axes.get_visible() for axes in figure.axes) == panels


@pytest.mark.parametrize("kind", ["accuracy", "verdict", "similarity", "stages", "learning"])
def test_a_figure_of_many_methods_is_cut_and_says_so(kind, monkeypatch):
    monkeypatch.setattr(figures.kinds()[kind], "ROWS", 3)
    suite, block, frame = make(1, ("scratch", "kd", "ofa", "uhkd", "fdcmkd"), 2)
    figure = figures.kinds()[kind].draw(report(suite, block, frame))
    of = 4 if kind in ("accuracy", "verdict", "similarity") else 5  # Scratch is what these are held against
    assert f"Shown: the first 3 of {of} methods; all are in " in said(figure) and "FD-CMKD" not in said(figure)


@pytest.mark.slow
def test_views_by_method_are_drawn_where_they_show_all_pairs():
    for pairs, expected in ((limits.PANELS, {"by-pair", "by-method"}), (MANY, {"by-pair"})):
        suite, block, frame = huge(pairs, ("scratch", "kd"), seeds=1)
        names = [name for name, _ in figures.kinds()["stages"].views(report(suite, block, frame))]
        assert {name.split("/")[0] for name in names} == expected
        assert sum(name.startswith("by-pair") for name in names) == 2 * limits.PANELS


def test_the_verdict_of_many_pairs_is_over_all_of_them():
    suite, block, frame = huge(MANY)
    frame.loc[(frame["pair"] == block.pairs[-1].id) & (frame["method"] == "ofa"), "test"] += 100.0
    figure: Figure = figures.kinds()["verdict"].draw(report(suite, block, frame))
    points = [line.get_xdata()[0] for line in figure.axes[0].lines if len(line.get_xdata()) == 1]
    assert sorted(points) == pytest.approx(sorted(stats.verdict(frame, "scratch")["difference"].astype(float)))


def test_synthetic_results_count(tmp_path, monkeypatch):
    path = synthetic.write(150, tmp_path)
    monkeypatch.chdir(tmp_path)
    plan = make_plan(load_suite(path.relative_to(tmp_path)))
    (block,) = plan.suite.blocks
    frame = collect(Today(plan), block)
    assert len(frame) == 200 and set(frame["status"]) == {"finished"} and frame["teacher_val"].notna().all()
    assert set(stats.headline_pairs(frame)["kind"]) == {"headline"}
    assert all(job.output.exists() for job in plan.of("stages"))
    assert len(set(itertools.chain(*((p.teacher, p.student) for p in block.pairs)))) == 3
