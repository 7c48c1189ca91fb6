"""The numbers of the committed tables, recomputed from their runs by a script that shares nothing with kdbench."""

from __future__ import annotations

import ast
import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import recompute
from conftest import REPOSITORY
from test_tables import FACTS, make
from test_worth import block_of, lengths

from kdbench.report.block import BlockReport
from kdbench.report.page import markdown
from kdbench.report.tables import csv, describe

ALLOWED = {
    "__future__",
    "functools",
    "itertools",
    "json",
    "math",
    "re",
    "sys",
    "pathlib",
    "numpy",
    "pandas",
    "scipy",
    "yaml",
}


@pytest.mark.parametrize(
    ("suite", "least"),
    [
        ("quick", 2000),
        ("tuned", 2000),
        ("glyphs-edition-1", 7500),
        ("claim-distillation", 1200),
        ("wiki-features", 1000),
    ],
)
def test_every_number_of_a_reference_follows_from_its_runs(suite, least):
    count, wrong = recompute.recompute(suite, REPOSITORY)
    assert not wrong and count > least


def test_the_script_shares_nothing_with_what_it_proves():
    tree = ast.parse((REPOSITORY / "tests/recompute.py").read_text())
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]
    names = {alias.name for node in imports if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module for node in imports if isinstance(node, ast.ImportFrom)}
    assert names == ALLOWED


def test_a_number_that_was_changed_is_found(tmp_path):
    """By the least that a table prints, in either file."""
    files = ("results/reference/quick/runs.csv", "tables/reference/quick.csv", "tables/reference/quick.md")
    for file in (*files, "config/quick.yaml"):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(REPOSITORY / file, tmp_path / file)
    page, table = tmp_path / "tables/reference/quick.md", tmp_path / "tables/reference/quick.csv"
    cell = pd.read_csv(table).iloc[0]
    text, low = f"{cell['test_mean']:.1f} ± {cell['test_sd']:.1f}", repr(float(cell["minus_kd_low"]))
    assert text in page.read_text() and low in table.read_text()
    page.write_text(page.read_text().replace(text, f"{cell['test_mean'] + 0.1:.1f} ± {cell['test_sd']:.1f}", 1))
    table.write_text(table.read_text().replace(low, repr(float(cell["minus_kd_low"]) + 1e-6), 1))
    _, wrong = recompute.recompute("quick", tmp_path)
    assert len(wrong) == 2 and "minus_kd_low" in wrong[0] and wrong[1].startswith("Test accuracy")


@pytest.fixture
def made(tmp_path, monkeypatch):
    """Writes the files that recompute.py reads of a report, into the working folder."""
    monkeypatch.chdir(tmp_path)

    def write(report, runs, samples=None):
        for folder in ("config", "results/reference/made", "tables/reference"):
            Path(folder).mkdir(parents=True)
        Path("config/made.yaml").write_text("models: {}\n")
        Path("results/reference/made/about.json").write_text(
            json.dumps({"blocks": {"main": {"groups": report.groups}}})
        )
        runs = runs.assign(block="main", gradient_shares=None, notes=None)
        if "test_by_group" in runs:
            runs["test_by_group"] = runs["test_by_group"].map(json.dumps)
        runs.to_csv("results/reference/made/runs.csv", index=False)
        if samples:
            np.savez("results/reference/made/correct.npz", **samples)
        Path("tables/reference/made.csv").write_text(csv(report.suite, [report]))
        Path("tables/reference/made.md").write_text(markdown(describe(report.suite, [report])))
        return Path("tables/reference/made.md"), Path("tables/reference/made.csv")

    return write


def test_what_a_method_is_worth_follows_from_the_runs(made):
    """Worth less than Scratch's smallest budget, more than its largest, both, and an interval between; with a run that
    diverged."""
    suite, block, frame = make(pairs=2, methods=("scratch", "kd", "ofa", "uhkd", "uhkd-c0"), seeds=3)
    block, runs = block_of(block, (1, 2, 4), alone=(8, 16)), lengths(frame, (1, 2, 4), alone=(8, 16))
    own = runs["budget"] == 4
    runs.loc[(runs["method"] == "ofa"), "test"] -= 40
    runs.loc[(runs["method"] == "kd") & own, "test"] += 13
    runs.loc[(runs["method"] == "uhkd-c0"), "test"] += 60 * (runs["seed"] - 1)
    runs.loc[(runs["method"] == "scratch") & (runs["budget"] == 2), "test"] -= 5  # a budget that brought nothing
    runs.loc[(runs["method"] == "uhkd") & (runs["seed"] == 2) & (runs["budget"] == 2), "status"] = "diverged"
    report = BlockReport(suite, block, runs[own].reset_index(drop=True), **FACTS, lengths=runs)
    page, _ = made(report, runs)
    count, wrong = recompute.recompute("made")
    text = page.read_text()
    assert not wrong and count > 250
    for before, after in (
        ("| ≥ 2.00 ×", "| ≥ 1.99 ×"),
        ("| ≤ 0.08 ×", "| 0.08 ×"),
        ("| 1.06 × \\[1.01, 1.10\\]", "| 1.06 × \\[1.01, 1.11\\]"),
        ("at budget 4: KD on cnn-t → cnn-s; KD on", "at budget 4: KD on"),
    ):
        assert before in text
        text = text.replace(before, after, 1)
    page.write_text(text)
    _, wrong = recompute.recompute("made")
    assert len(wrong) == 4


def test_intervals_over_samples_and_groups_follow_from_the_samples(made):
    """Of one seed, and what its samples say of accuracies and of groups."""
    suite, block, frame = make(pairs=2, methods=("scratch", "kd", "ofa"), seeds=1)
    frame = frame.assign(budget=1.0)
    rng, faces = np.random.default_rng(0), np.repeat(["a", "b", "c"], [100, 200, 240])
    right = {(r.pair, r.method): rng.random(540) < r.test / 100 for r in frame.itertuples()}
    frame["test"] = [100 * right[r.pair, r.method].mean() for r in frame.itertuples()]
    by_group = [{f: 100 * right[r.pair, r.method][faces == f].mean() for f in "abc"} for r in frame.itertuples()]
    groups = {"word": "faces", "sizes": {"a": 100, "b": 200, "c": 240}}
    report = BlockReport(suite, block, frame, **FACTS, correct=right, groups=groups)
    keys = pd.DataFrame(right, columns=pd.MultiIndex.from_tuples(right)).columns
    samples = {"pair": [p for p, _ in keys], "method": [m for _, m in keys], "seed": [0] * len(keys)}
    samples |= {"budget": [1.0] * len(keys), "samples": [540] * len(keys)}
    samples["bits"] = np.packbits([right[key] for key in keys], axis=1)
    runs = frame.assign(test_by_group=by_group)
    _, table = made(report, runs, samples)
    count, wrong = recompute.recompute("made")
    assert not wrong and count > 100
    line = pd.read_csv(table).query("method == 'ofa'").iloc[0]
    low = repr(float(line["minus_kd_images_low"]))
    table.write_text(table.read_text().replace(low, repr(float(low) + 0.4), 1))
    _, wrong = recompute.recompute("made")
    assert len(wrong) == 1 and "ofa: images" in wrong[0]
    by_group[0]["a"] += 1.0
    path = Path("results/reference/made/runs.csv")
    path.write_text(path.read_text().replace(json.dumps(by_group[0]["a"] - 1.0), json.dumps(by_group[0]["a"]), 1))
    _, wrong = recompute.recompute("made")
    assert len(wrong) == 2 and "groups" in wrong[0]
