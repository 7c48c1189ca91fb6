"""Finished runs go to another machine as small files: there they count, and there is nothing left to train."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from conftest import run_jobs, write_tiny
from fakes import finish

from kdbench import cli
from kdbench.plan.jobs import make_plan
from kdbench.plan.suite import load_suite
from kdbench.report.block import block_reports
from kdbench.results.today import Today
from kdbench.run import carry
from kdbench.run.training import counts, run_training, unfinished
from kdbench.run.tune import run_tune

TUNED = {
    "seeds": [0],
    "recipes__student__steps": 2,
    "tune": {"seed": 9, "factors": [0.5, 1.0], "pairs": ["cnn-t -> vit-s"]},
    "blocks__main__methods": ["scratch", "kd"],
    "blocks__main__table": {"also": ["agreement", "ece"]},
}


def bytes_of(folder):
    return {path: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.fixture
def finished(trained):
    """The trained and tuned tiny suite."""
    write_tiny(trained, **TUNED)
    plan = make_plan(load_suite("tiny"))
    run_jobs(plan, "teacher")
    for job in plan.jobs:
        if job.kind == "tune":
            run_tune(plan)
        elif job.kind == "cohort":
            run_training(plan, job, threads=1)
    return plan


@pytest.mark.slow
def test_another_machine_has_nothing_left_to_train(finished, monkeypatch, capsys):
    monkeypatch.setattr(carry, "LIMIT", 20_000)
    (before,) = block_reports(Today(finished))
    assert cli.main(["export", "tiny", "carried"]) == 0
    files = bytes_of(Path("carried"))
    assert max(map(len, files.values())) <= 20_000 and len(files) > 15
    jobs = [job for job in finished.jobs if job.kind in ("teacher", "cohort", "tune")]
    manifests = {job.output: job.output.read_bytes() for job in jobs}
    shutil.rmtree("results")

    assert cli.main(["import", "tiny", "carried"]) == 0
    assert "7 runs taken from carried, 0 were there already" in capsys.readouterr().err
    today = Today(finished)
    for job in finished.of("teacher") + finished.of("cohort"):
        assert unfinished(today, job) == []
    assert {path: path.read_bytes() for path in manifests} == manifests, "what tuning chose among them"
    times = [job.output.stat().st_mtime_ns for job in jobs]
    assert times == sorted(times), "for Snakemake, inputs are older than outputs"
    (after,) = block_reports(today)
    numbers = before.cells.columns[before.cells.columns.str.contains("test|minus|agreement")]
    assert before.cells[numbers].equals(after.cells[numbers])
    assert after.cells["ece_mean"].tolist() == pytest.approx(before.cells["ece_mean"].tolist(), abs=0.02)

    assert cli.main(["export", "tiny", "carried"]) == 0
    assert bytes_of(Path("carried")) == files, "the same runs give the same bytes"
    assert cli.main(["import", "tiny", "carried"]) == 0
    assert "0 runs taken from carried, 7 were there already" in capsys.readouterr().err


@pytest.mark.slow
def test_what_is_damaged_or_of_another_config_is_refused(finished, capsys):
    run = finished.runs()["cnn-t--vit-s", "kd", 0]
    carry.export_runs(finished, Path("carried"))
    shutil.rmtree("results/tiny")
    finish(run, 12.0)
    there = run.result.read_bytes()
    damaged = next(path for path in Path("carried").iterdir() if path.name.startswith("teacher.cnn-t.seeds-0."))
    whole = damaged.read_bytes()
    damaged.write_bytes(whole[: len(whole) // 2])
    assert cli.main(["import", "tiny", "carried"]) == 2
    assert "is damaged" in capsys.readouterr().err
    damaged.rename(damaged.with_name(damaged.name.replace("1-of-1", "1-of-2")))
    assert cli.main(["import", "tiny", "carried"]) == 2
    assert "zip-2-of-2 is missing" in capsys.readouterr().err
    damaged.with_name(damaged.name.replace("1-of-1", "1-of-2")).unlink()
    damaged.write_bytes(whole)

    write_tiny(Path(), **TUNED | {"recipes__student__lr": 1.0e-3})
    assert cli.main(["import", "tiny", "carried"]) == 2
    told = capsys.readouterr().err
    assert "5 runs in carried were not taken: they are of another config" in told and "2 runs taken" in told
    other = make_plan(load_suite("tiny"))
    assert run.result.read_bytes() == there, "nothing is written over"
    assert all(counts(Today(other), run) for job in other.of("teacher") for run in job.runs)

    assert cli.main(["import", "tiny", "nowhere"]) == 2
    assert "nowhere holds no runs; write them first: kdbench export tiny nowhere" in capsys.readouterr().err
