"""Tables that a block shows also: agreement with the teacher, and calibration."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import run_jobs, tiny_plan

from kdbench.data.packed import load_packed
from kdbench.plan.paths import data_folder
from kdbench.report import tables
from kdbench.report.block import block_reports
from kdbench.report.page import html, markdown
from kdbench.results.today import Today
from kdbench.types import KdbenchError


def test_agreement_and_calibration_are_shown_where_a_block_asks(trained):
    changes = {"seeds": [0], "recipes__student__steps": 2, "blocks__main__table": {"also": ["agreement", "ece"]}}
    plan = tiny_plan(**changes)
    run_jobs(plan, "cohort")
    (report,) = block_reports(Today(plan))
    suite, run = plan.suite, plan.runs()["cnn-t--vit-s", "kd", 0]
    labels = load_packed(data_folder(suite, "digits", 0)).labels("test")
    student, teacher = (np.load(r.stem.with_suffix(".npz"))["test_logits"] for r in (run, plan.teacher("cnn-t", 0)))
    record = report.records["cnn-t--vit-s", "kd"]
    right = teacher.argmax(1) == labels
    assert record["agreement_right_mean"] == pytest.approx(100 * (student.argmax(1)[right] == labels[right]).mean())
    # The two parts, weighted by how often the teacher is right, are the agreement that the run itself recorded.
    whole = record["agreement_right_mean"] * right.mean() + record["agreement_wrong_mean"] * (~right).mean()
    assert whole == pytest.approx(record["agreement_mean"], abs=0.4)  # predictions lie in half precision
    assert 0 < record["ece_mean"] < 100

    page = tables.describe(suite, [report])
    for written in (markdown(page), html(page)):
        assert "Expected calibration error" in written and "samples that it gets wrong" in written
    assert "ece_mean" in tables.csv(suite, [report]).splitlines()[0]
    plain = tiny_plan(**{k: v for k, v in changes.items() if "table" not in k})
    assert [job.key for job in plain.jobs] == [job.key for job in plan.jobs]
    assert "calibration" not in markdown(tables.describe(plain.suite, block_reports(Today(plain))))

    run.stem.with_suffix(".npz").unlink()
    with pytest.raises(KdbenchError, match=r"kd/seed0.npz is missing or damaged"):
        block_reports(Today(plan))


def test_runs_that_are_missing_have_no_agreement(trained):
    plan = tiny_plan(seeds=[0, 1], blocks__main__table={"also": ["agreement", "ece"]})
    (report,) = block_reports(Today(plan))
    assert all(record["ece_n"] == 0 for record in report.records.values())
    assert "Expected calibration error" in markdown(tables.describe(plan.suite, [report]))


def test_a_further_table_that_is_not_known_is_named():
    with pytest.raises(KdbenchError, match=r"table.also: unknown table 'agreements'.*did you mean 'agreement'"):
        tiny_plan(blocks__main__table={"also": ["agreements"]})
