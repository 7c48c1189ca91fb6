"""The numbers of the committed tables, recomputed from their runs by a script that shares nothing with kdbench."""

from __future__ import annotations

import ast
import shutil

import pandas as pd
import pytest
import recompute
from conftest import REPOSITORY

ALLOWED = {"__future__", "functools", "json", "math", "re", "sys", "pathlib", "numpy", "pandas", "scipy", "yaml"}


@pytest.mark.parametrize(("suite", "least"), [("quick", 2000), ("tuned", 2000), ("glyphs-edition-1", 7500)])
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
