"""What a job asks a scheduler for."""

from __future__ import annotations

import json

import pytest
from conftest import tiny_plan
from fakes import fake_plan, finish

from kdbench.plan.workflow import gpus, memory_mb, minutes
from kdbench.run.training import write_manifest


@pytest.fixture
def pair(tmp_path, monkeypatch):
    """Three jobs of one pair, one a seed, of three runs each; nothing is trained."""
    monkeypatch.chdir(tmp_path)
    plan = fake_plan()
    return plan, [job for job in plan.of("cohort") if job.pair.id == "cnn-t--vit-s"]


def trained(job, **changes):
    """Its runs took 12 s side by side, and 100 MB."""
    for run in job.runs:
        finish(run, 80.0, **changes)
    write_manifest(job)


def asked(plan, job, attempt=1):
    return minutes(plan, job, attempt), memory_mb(plan, job, attempt)


def test_what_the_suite_says_holds_until_something_is_measured(pair):
    plan, (first, second, _) = pair
    assert asked(plan, first) == (60, 4000)
    assert asked(plan, first, attempt=2) == (120, 8000)
    trained(second, hardware={"device": "cpu", "cpu": "made up", "threads": 1})
    assert asked(plan, first) == (6, 1150)
    assert asked(plan, first, attempt=3) == (18, 3450)
    teacher = plan.of("teacher")[0]
    assert asked(plan, teacher) == (60, 4000), "another kind of job tells nothing"


def test_memory_of_a_gpu_tells_nothing_of_the_process(pair):
    plan, (first, second, _) = pair
    trained(second, hardware={"device": "cuda", "gpu": "made up", "cpu": "made up", "threads": 1})
    assert asked(plan, first) == (6, 4000)


def test_the_longest_of_its_kind_counts(pair):
    plan, (first, second, third) = pair
    trained(second)
    cost = {"cohort_seconds": 600.0, "peak_memory_mb": 100.0}
    trained(third, cost=cost)
    assert minutes(plan, first, 1) == 25


def test_a_measurement_of_other_code_or_config_does_not_count(pair):
    plan, (first, second, third) = pair
    trained(second)
    document = json.loads(second.output.read_text())
    second.output.write_text(json.dumps(document | {"key": "another"}))
    third.output.write_text("{")
    assert minutes(plan, first, 1) == 60


def test_a_run_that_diverged_took_no_time_that_counts(pair):
    plan, (first, second, _) = pair
    for run in second.runs:
        finish(run, 0.0, status="diverged", reason="made up")
    write_manifest(second)
    assert minutes(plan, first, 1) == 60


@pytest.mark.parametrize(("device", "cards"), [("auto", 1), ("cuda", 1), ("cpu", 0)])
def test_a_suite_for_the_cpu_asks_for_no_gpu(device, cards):
    assert gpus(tiny_plan(device=device).suite) == cards
