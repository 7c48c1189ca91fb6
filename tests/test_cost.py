"""What a suite takes, before it runs: operations counted, and a few steps of each distinct cohort measured."""

from __future__ import annotations

import dataclasses
import os

import pytest
from conftest import TINY, run_jobs, tiny_plan, write_tiny

from kdbench import cli
from kdbench.results.record import read_run
from kdbench.run import probe
from kdbench.terminal import cost
from kdbench.train import probe as steps
from kdbench.train.probe import Probe

MADE_UP = Probe(
    setup=10.0,
    memory_mb=500.0,
    members=3,
    image=2.0,
    shared=0.5,
    evaluated=1.0,
    stored_mb=6.0,
    checkpoint_mb=4.0,
)
EVALUATED = 257 + 540
"""Samples of the digits that are not trained on."""


@pytest.fixture
def here(monkeypatch):
    """Probes in this process, as short as they may be."""
    monkeypatch.setattr(probe, "in_own_process", probe.measured)
    monkeypatch.setattr(steps, "SECONDS", 0.0)


def blocks(*methods):
    return {"main": {"data": "digits", "pairs": ["cnn-t -> vit-s"], "methods": list(methods)}}


def test_seconds_are_those_of_all_steps_and_evaluations_of_each_seed(trained):
    """12 steps of 100 images, and an evaluation after each 10."""
    plan = tiny_plan(blocks=blocks("kd", "dkd", "rkd"))
    pair = next(each for each in cost.counted(plan) if each.name.startswith("cohort"))

    def taken(**changes):
        return cost._taken(plan, pair, {job.key: dataclasses.replace(MADE_UP, **changes) for job in pair.jobs})

    own = taken()
    assert own.seconds == 2 * (10.0 + 1200 * 2.0 + 2 * EVALUATED * 1.0)
    assert own.saved == 2 * 1200 * 0.5 * (3 - 1)
    assert (own.memory_mb, own.stored_mb, own.checkpoint_mb) == (500.0, 2 * 6.0, 4.0)
    assert taken(length=3.0).seconds == 2 * (10.0 + 3600 * 2.0 + 6 * EVALUATED * 1.0)
    assert taken(members=0).saved == 0.0


def test_a_budget_is_probed_once_and_takes_so_many_times_its_steps(trained, monkeypatch):
    plan = tiny_plan(seeds=[0], blocks={"main": blocks("kd")["main"] | {"budgets": [1, 2], "budget": 1}})
    probed = []
    monkeypatch.setattr(probe, "in_own_process", lambda plan, job: probed.append(job.kind) or MADE_UP)
    found = probe.probes(plan)
    assert sorted(probed) == ["cohort", "teacher"] and len(found) == 3
    own = {each.name: cost._taken(plan, each, found).seconds for each in cost.counted(plan)}
    assert own["cohort cnn-t--vit-s"] == 10.0 + 1200 * 2.0 + 2 * EVALUATED
    assert own["cohort cnn-t--vit-s x2"] == 10.0 + 2400 * 2.0 + 3 * EVALUATED


@pytest.mark.slow
def test_a_probe_leaves_no_trace_and_knows_what_runs_will_store(trained, here):
    plan = tiny_plan(seeds=[0], blocks=blocks("kd", "dkd"))
    before = {path: path.read_bytes() for path in trained.rglob("*") if path.is_file()}
    (cohort,) = plan.of("cohort")
    found = probe.measured(plan, cohort)
    assert before == {path: path.read_bytes() for path in trained.rglob("*") if path.is_file()}
    assert (found.members, found.length) == (2, 1.0)
    assert 0 < found.shared < found.image and found.evaluated > 0 and found.setup > found.image
    run_jobs(plan, "cohort")
    weights = sum(run.stem.with_suffix(".safetensors").stat().st_size for run in cohort.runs)
    # Predictions are stored compressed, weights with a header.
    predictions = 2 * EVALUATED * 10 * 2
    assert found.stored_mb == pytest.approx((weights + predictions) / 2**20, rel=0.2)
    state = 3 * weights / 2**20  # weights and AdamW's two moments, twice
    assert found.checkpoint_mb == pytest.approx(2 * state, rel=0.2)
    assert found.memory_mb <= read_run(cohort.runs[0].result)["cost"]["peak_memory_mb"]


def test_large_networks_are_probed_with_few_images_and_their_memory_on_a_line(trained, here, monkeypatch):
    """Their cost is in proportion to images: 7 MB each on top of 100 here."""
    taken, take_step = [], steps._take

    def take(cohort, *others):
        taken.append(cohort.recipe.batch_size)
        return take_step(cohort, *others)

    monkeypatch.setattr(steps, "_take", take)
    monkeypatch.setattr(steps, "LARGE", 1.0)
    monkeypatch.setattr(steps, "peak_memory_mb", lambda device: 100.0 + 7 * taken[-1])
    plan = tiny_plan(seeds=[0], blocks=blocks("kd"), recipes__student__accumulate=2)
    (cohort,) = plan.of("cohort")
    assert probe.measured(plan, cohort).memory_mb == 100.0 + 7 * 100
    assert taken == [2, 4, 4, 4]


@pytest.mark.slow
def test_scratch_at_the_compute_of_a_method_is_longer(trained, here):
    plan = tiny_plan(seeds=[0], blocks=blocks("scratch", "ofa", "scratch@ofa"))
    lengths = {job.runs[0].method.id: probe.measured(plan, job).length for job in plan.of("cohort")}
    assert lengths.pop("scratch@ofa") > 1.5 and set(lengths.values()) == {1.0}


def test_a_teacher_that_is_taken_as_it_is_is_evaluated_once(trained, here):
    given = {"weights": "results/tiny/teachers/cnn-t/seed0.safetensors", "accuracy": 50.0, "tolerance": 50.0}
    model = {key: value for key, value in TINY["models"]["cnn-t"].items() if key != "recipe"} | given
    plan = tiny_plan(models__given=model, blocks__main__pairs=["given -> vit-s"])
    (job,) = plan.of("teacher")
    found = probe.measured(plan, job)
    (line,) = [each for each in cost.counted(plan) if each.name == "teacher given"]
    own = cost._taken(plan, line, {job.key: found})
    assert found.image == 0.0 and own.seconds == pytest.approx(EVALUATED * found.evaluated) and line.steps == 0


@pytest.mark.slow
def test_the_table_and_what_does_not_fit(trained, here, capsys, monkeypatch):
    write_tiny(trained)
    there = iter([1e9, 1.0, 1e9])  # the teacher, scratch, kd
    monkeypatch.setattr(probe, "memory_there_mb", lambda device: next(there))
    assert cli.main(["plan", "tiny", "--cost"]) == 0
    shown = capsys.readouterr()
    head, *rows = shown.out.partition("\n\n")[2].splitlines()
    assert "10^9 operations" in head and "core-minutes" in head and "memory, MB" in head
    lines = {" ".join(row.split()[:2]): row for row in rows[: rows.index("")]}
    assert lines["cohort none--vit-s"].endswith("does not fit") and "does not fit" not in lines["cohort cnn-t--vit-s"]
    assert shown.out.count("cohort none--vit-s does not fit this machine: it takes ") == 1
    assert "Saved is what separate runs would take more: 0% of all." in shown.out
    assert "probing 1 of 3: teacher cnn-t" in shown.err


def test_operations_are_shown_in_a_unit_that_shows_them():
    for operations, unit, shown in ((5e11, "10^9", "500.00"), (5e12, "10^12", "5.00"), (5e15, "10^15", "5.00")):
        head, *rows = cost._operations([cost.Trained("x", [None], 1, 1, operations)])
        assert head[-1] == f"{unit} operations" and [row[-1] for row in rows] == [shown, shown]


def test_where_nothing_can_be_measured_operations_are_counted(trained, here, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    head, *rows, _, why = cost.lines(tiny_plan(seeds=[0], device="cuda"))
    assert head.endswith(" operations") and len(rows) == 3 + 1
    assert "could not be measured: the suite says device: cuda" in why


def test_memory_is_that_of_the_container_where_it_has_less(tmp_path, monkeypatch):
    import torch

    limit = tmp_path / "memory.max"
    monkeypatch.setattr(probe, "CGROUP", limit)
    whole = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**20
    for text, expected in ((None, whole), ("max\n", whole), (f"{100 * 2**20}\n", 100.0)):
        if text:
            limit.write_text(text)
        assert probe.memory_there_mb(torch.device("cpu")) == expected


@pytest.mark.slow
def test_each_probe_has_a_process_of_its_own(trained):
    plan = tiny_plan(seeds=[0])
    (teacher,) = plan.of("teacher")
    found = probe.in_own_process(plan, teacher)
    assert found.members == 1 and 50 < found.memory_mb < 5000
