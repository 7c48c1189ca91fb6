"""A suite that became another benchmark under its name: nothing of the one before counts."""

from __future__ import annotations

import io
import re
from pathlib import Path

import pandas as pd
import pytest
from conftest import tiny_plan, write_tiny
from fakes import block, fake_plan, finish_all

from kdbench import cli
from kdbench.plan.paths import reference_folder
from kdbench.report.block import block_reports
from kdbench.report.figures import kinds
from kdbench.report.html import write_report
from kdbench.report.page import markdown
from kdbench.report.tables import csv, describe
from kdbench.results.frames import all_runs
from kdbench.results.today import Today
from kdbench.types import KdbenchError

TUNED = {"tune": {"seed": 9, "factors": [0.5, 1.0], "pairs": ["cnn-t -> vit-s"]}}


def keys(plan):
    return {(job.id, run.method.id, run.seed): run.key for job in plan.jobs for run in job.runs}


def test_the_edition_is_part_of_every_run_but_for_the_first():
    unsaid, first, second = (keys(tiny_plan(**TUNED, **said)) for said in ({}, {"edition": 1}, {"edition": 2}))
    assert first == unsaid
    assert second.keys() == first.keys() and all(second[place] != key for place, key in first.items())
    assert "edition" not in tiny_plan().runs()["cnn-t--vit-s", "kd", 0].config
    assert tiny_plan(edition=2).runs()["cnn-t--vit-s", "kd", 0].config["edition"] == 2


@pytest.mark.parametrize(
    ("edition", "told"),
    [
        (0, "tiny.yaml: edition: must be at least 1, got 0"),
        (1.5, "tiny.yaml: edition: expected int, got 1.5"),
        ("two", "tiny.yaml: edition: expected int, got 'two'"),
    ],
)
def test_an_edition_is_a_whole_number_from_1(edition, told):
    with pytest.raises(KdbenchError, match=re.escape(told)):
        tiny_plan(edition=edition)


@pytest.fixture
def second(tmp_path, monkeypatch):
    """The fake suite in its second edition, with a result for every run."""
    monkeypatch.chdir(tmp_path)
    write_tiny(tmp_path, seeds=[0, 1, 2], blocks={"main": block()}, edition=2)
    plan = fake_plan(edition=2)
    finish_all(plan)
    return plan


def freeze(plan, **columns):
    """The suite's runs as its reference, with these columns in place of theirs."""
    path = reference_folder(plan.suite) / "runs.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    all_runs(Today(plan)).assign(**columns).to_csv(path, index=False)
    return path


def test_all_that_people_read_says_the_edition(second):
    (report,) = block_reports(Today(second))
    assert markdown(describe(second.suite, [report])).startswith("# tiny (edition 2)\n")
    assert "<title>tiny (edition 2)</title>" in write_report(second, Path("page.html")).read_text(encoding="utf-8")
    assert set(pd.read_csv(io.StringIO(csv(second.suite, [report])))["edition"]) == {2}
    assert "Edition 2." in kinds()["verdict"].draw(report).get_supxlabel()
    (first,) = block_reports(Today(fake_plan()))
    assert "dition" not in markdown(describe(fake_plan().suite, [first]))
    assert "Edition" not in kinds()["verdict"].draw(first).get_supxlabel()


def test_results_of_one_edition_are_none_of_another(second):
    assert set(all_runs(Today(second))["status"]) == {"finished"}
    runs = all_runs(Today(fake_plan(edition=3)))
    assert set(runs["status"]) == {"missing"} and set(runs["edition"]) == {3}


def test_a_reference_of_its_own_edition_is_taken(second, capsys):
    freeze(second)
    assert cli.main(["compare", "tiny"]) == 0
    capsys.readouterr()
    assert cli.main(["findings", "tiny"]) == 0
    page = Path(capsys.readouterr().out.strip())
    assert page.read_text().startswith("# Findings: tiny (edition 2)\n")


@pytest.mark.parametrize("says", [True, False])
def test_a_reference_of_another_edition_is_refused(second, says, capsys):
    """One of before there were editions is of the first."""
    path = freeze(second, edition=1)
    if not says:
        pd.read_csv(path).drop(columns="edition").to_csv(path, index=False)
    for verb, told in (
        ("compare", f"tiny is of edition 2 and {path} of edition 1: results of two editions are not compared"),
        ("findings", f"{path} holds runs of edition 1, and the suite is of edition 2"),
        ("reference", f"{path} is of edition 1, and the suite of edition 2: move {path.parent} and"),
    ):
        assert cli.main([verb, "tiny"]) == 2
        assert told in capsys.readouterr().err
