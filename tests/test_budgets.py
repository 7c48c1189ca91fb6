"""Trainings of several lengths: their runs, which of them a table shows, and what tuning and estimates make of it."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pandas as pd
import pytest
from conftest import tiny_plan, write_tiny
from fakes import fake_plan, finish

from kdbench import cli
from kdbench.plan.jobs import tuning_runs
from kdbench.plan.paths import reference_folder
from kdbench.plan.workflow import minutes
from kdbench.report.block import block_reports
from kdbench.report.figures import kinds
from kdbench.report.html import write_report
from kdbench.report.page import markdown
from kdbench.report.tables import describe
from kdbench.results.frames import all_runs
from kdbench.results.record import read_run, retrain_command
from kdbench.results.today import Today
from kdbench.run.training import run_training, write_manifest
from kdbench.terminal import compare, cost, findings, published, watch
from kdbench.types import KdbenchError, Recipe

TUNE = {"tune": {"seed": 9, "factors": [0.5, 1.0], "pairs": ["cnn-t -> vit-s"]}}


def blocks(**of_each):
    """Blocks on the tiny pair, each with these budgets or other keys."""
    main = {"data": "digits", "pairs": ["cnn-t -> vit-s"], "methods": ["scratch", "kd"]}
    return {name: main | keys for name, keys in of_each.items()}


def budgets_plan(*budgets, **changes):
    return tiny_plan(blocks=blocks(main={"budgets": list(budgets)}), **changes)


def finish_all(plan):
    """Students end 10 points higher the longer they train: 70 at budget 1, 80 at 2; teachers at 97."""
    for job in (job for kind in ("teacher", "cohort") for job in plan.of(kind)):
        for run in job.runs:
            finish(run, 97.0 if run.is_teacher else 60 + 10 * run.budget + run.seed + (run.method.id == "kd"))


@pytest.fixture
def finished(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    plan = budgets_plan(1, 2)
    write_tiny(tmp_path, blocks=blocks(main={"budgets": [1, 2]}))
    finish_all(plan)
    return plan


def freeze(plan):
    """The suite's runs as its reference."""
    path = reference_folder(plan.suite) / "runs.csv"
    path.parent.mkdir(parents=True)
    runs = all_runs(Today(plan))
    runs.to_csv(path, index=False)
    return runs


# ----------------------------------------------------------------------------------------------------------- the plan


def test_each_budget_is_a_run_of_its_own_and_teachers_are_shared():
    once, plan = tiny_plan(), budgets_plan(1, 2, 0.5)
    assert [job.id for job in plan.of("cohort")] == [
        f"{pair}/seeds-{seed}{mark}"
        for pair in ("none--vit-s", "cnn-t--vit-s")
        for mark in ("", ".x2", ".x0.5")
        for seed in (0, 1)
    ]
    assert plan.of("teacher") == once.of("teacher")
    assert {place: run.key for place, run in plan.runs().items()} == {p: run.key for p, run in once.runs().items()}
    runs = {budget: plan.runs(budget)["cnn-t--vit-s", "kd", 1] for budget in (1, 2, 0.5)}
    assert [run.config["recipe"]["steps"] for run in runs.values()] == [12, 24, 6]
    assert len({run.key for run in runs.values()}) == 3
    assert len({run.config["teacher_key"] for run in runs.values()}) == 1
    assert runs[2].result == Path("results/tiny/runs-x2/cnn-t--vit-s/kd/seed1.json")
    assert runs[0.5].result == Path("results/tiny/runs-x0.5/cnn-t--vit-s/kd/seed1.json")


def test_one_teacher_teaches_in_all_seeds():
    own, shared = (tiny_plan(seeds=[3, 4, 5], one_teacher=one) for one in (False, True))
    (teacher,) = [run for job in shared.of("teacher") for run in job.runs]
    assert teacher.seed == 3 and len({run.seed for job in own.of("teacher") for run in job.runs}) == 3
    assert [shared.teacher("cnn-t", seed) for seed in (3, 4, 5)] == [teacher] * 3
    jobs = {job.runs[0].seed: job for job in shared.of("cohort") if job.pair.teacher}
    (output,) = {job.output for job in shared.of("teacher")}
    assert all(output in job.inputs for job in jobs.values()) and len(jobs) == 3


def test_a_budget_has_the_numbers_of_a_longer_recipe():
    longer = tiny_plan(recipes__student__steps=24)
    keys = {place: run.key for place, run in longer.runs().items()}
    assert {place: run.key for place, run in budgets_plan(2).runs(2).items()} == keys
    assert Recipe("r", lr=0.1, epochs=3).times(2) == Recipe("r", lr=0.1, epochs=6)


def test_similarities_wait_for_the_budget_that_is_shown_only():
    for changes, mark in (({"budgets": [2, 1]}, ".x2"), ({"budgets": [2, 1], "budget": 1}, "")):
        (job,) = tiny_plan(blocks=blocks(main=changes)).of("stages")
        assert {path.stem for path in job.inputs} == {f"seeds-{seed}{mark}" for seed in (0, 1)}


def test_blocks_may_share_runs_at_some_of_their_budgets():
    plan = tiny_plan(blocks=blocks(axis={"budgets": [1, 2], "seeds": [0]}, main={"budgets": [2]}))
    assert {(run.method.id, run.seed, run.budget) for job in plan.of("cohort") for run in job.runs} == {
        (method, seed, budget) for method in ("scratch", "kd") for seed, budget in ((0, 1), (0, 2), (1, 2))
    }


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ({"budgets": 2}, "blocks.main.budgets: expected a list, got 2"),
        ({"budgets": []}, "blocks.main.budgets: expected a list"),
        ({"budgets": ["twice"]}, "blocks.main.budgets: expected float, got 'twice'"),
        ({"budgets": [True]}, "blocks.main.budgets: expected float, got True"),
        ({"budgets": [1, 0]}, "blocks.main.budgets: must be positive, got 0"),
        ({"budgets": [1, 1.0]}, "blocks.main.budgets: a budget is listed twice in [1, 1.0]"),
        ({"budgets": [1, 0.3]}, "0.3 times the 12 steps of recipe student is 3.6, no whole number of steps"),
        ({"budgets": [0.01]}, "0.01 times the 12 steps of recipe student is 0.12, no whole number of steps"),
        ({"budgets": [1, 2], "budget": 4}, "blocks.main.budget: unknown budget '4'; known: 1, 2"),
        ({"budgets": [1, 2], "budget": True}, "blocks.main.budget: unknown budget 'True'"),
    ],
)
def test_what_can_be_no_budget_is_refused(keys, told):
    with pytest.raises(KdbenchError) as error:
        tiny_plan(blocks=blocks(main=keys))
    assert told in str(error.value)


def test_tuning_is_done_at_one_budget_for_the_whole_suite():
    def tried(plan):
        twin = next(m for m in plan.suite.blocks[0].methods if m.tuned_from)
        tried = tuning_runs(plan.suite, plan.suite.blocks[0].pairs[0], twin)
        return [run for of_setting in tried for run in of_setting]

    largest = tiny_plan(blocks=blocks(main={"budgets": [1, 2]}, other={}), **TUNE)
    named = tiny_plan(blocks=blocks(main={"budgets": [1, 2]}), tune=TUNE["tune"] | {"budget": 0.5})
    assert {run.budget for run in tried(largest)} == {2} and {run.budget for run in tried(named)} == {0.5}
    assert {job.id for job in largest.of("cohort") if job.id.endswith("tuned")} == {
        f"cnn-t--vit-s/seeds-{seed}{mark}.tuned" for seed in (0, 1) for mark in ("", ".x2")
    }
    assert named.of("tune")[0].inputs == (named.job("cohort", "cnn-t--vit-s/seeds-9.x0.5.tune").output,)
    keys = [plan.runs(2)["cnn-t--vit-s", "kd-tuned", 0].key for plan in (largest, named)]
    assert keys[0] != keys[1], "another budget may choose another weight"
    with pytest.raises(KdbenchError, match=r"tune.budget: 0.3 times the 12 steps"):
        tiny_plan(**TUNE | {"tune": TUNE["tune"] | {"budget": 0.3}})


# -------------------------------------------------------------------------------------------------------- the training


def test_a_longer_training_has_a_schedule_of_its_own(trained):
    plan = budgets_plan(1, 2)
    rates = {}
    for mark in ("", ".x2"):
        job = plan.job("cohort", f"cnn-t--vit-s/seeds-0{mark}")
        run_training(plan, job, threads=1)
        record = read_run(job.runs[0].result)
        assert record.get("budget", 1) == job.budget
        rates[record["history"][-1]["step"]] = record["history"][-1]["lr"]
    assert list(rates) == [12, 24]
    # The last steps of two cosines of 11 and 22 steps after the warm-up, from 5e-3 down to 0.
    assert rates[24] < rates[12] / 3
    frame = all_runs(Today(plan))
    assert list(frame["budget"][frame["status"] == "finished"]) == [1, 2]


def test_a_damaged_run_of_a_budget_says_how_to_train_it_anew():
    told = retrain_command(budgets_plan(2).runs(2)["cnn-t--vit-s", "kd", 0].result)
    assert told.endswith("runs-x2/cnn-t--vit-s/kd/seed0.json and run: kdbench distill tiny cnn-t--vit-s")


# ------------------------------------------------------------------------------------------------------- what is shown


def test_tables_and_figures_show_one_budget_and_say_which(finished):
    (report,) = block_reports(Today(finished))
    assert set(report.frame["budget"]) == {2} and report.records["cnn-t--vit-s", "kd"]["test_mean"] == 81.5
    told = "Budget 2: students train for 2 times the steps of their recipes. Also trained: budget 1."
    assert told in markdown(describe(finished.suite, [report]))
    assert told in write_report(finished, Path("page.html")).read_text(encoding="utf-8")
    footnote = kinds()["verdict"].draw(report).get_supxlabel()
    assert told in " ".join(footnote.split())
    (plain,) = block_reports(Today(tiny_plan()))
    assert "Budget" not in markdown(describe(finished.suite, [plain]))


@pytest.mark.parametrize(("tried", "title"), [({}, "Tuning at budget 2"), ({"budget": 0.5}, "Tuning at budget 0.5")])
def test_the_table_of_the_tuning_says_at_which_budget(tmp_path, monkeypatch, tried, title):
    monkeypatch.chdir(tmp_path)
    plan = budgets_plan(1, 2, tune=TUNE["tune"] | tried)
    (report,) = block_reports(Today(plan))
    choice = {"method": "kd", "pair": "cnn-t--vit-s", "factor": 0.5, "value": 0.5, "tried": []}
    text = markdown(describe(plan.suite, [dataclasses.replace(report, tuned=[choice])]))
    assert f"### {title}: selected main weight" in text


def test_every_budget_is_in_the_reference_and_none_may_be_missing(finished, capsys):
    runs = freeze(finished)
    assert sorted(zip(runs["budget"], runs["method"], runs["seed"], runs["test"], strict=True)) == sorted(
        (budget, method, seed, 60.0 + 10 * budget + seed + (method == "kd"))
        for budget in (1, 2)
        for method in ("scratch", "kd")
        for seed in (0, 1)
    )
    told = findings.reference_page(finished.suite)
    assert "Budget 2: students train" in told and "4 of 4 runs finished" in told
    finished.runs(1)["cnn-t--vit-s", "kd", 0].result.unlink()
    assert cli.main(["table", "tiny"]) == 0
    assert cli.main(["reference", "tiny"]) == 2
    assert "of block main have no result; the first is cnn-t--vit-s/kd seed 0: not trained" in capsys.readouterr().err


def test_budgets_are_compared_one_by_one(finished, capsys):
    freeze(finished)
    assert cli.main(["compare", "tiny"]) == 0
    printed = capsys.readouterr().out
    assert "4 of 4 cells reproduced" in printed and "KD x2" in printed
    path = Path("results/reference/tiny/runs.csv")
    runs = pd.read_csv(path, dtype=str, keep_default_na=False)
    old = runs[runs["budget"] == "1"].drop(columns="budget")
    old.to_csv(path, index=False)
    table = compare.judge(compare.load("tiny"), compare.load(str(path)))
    assert dict(zip(table["budget"] + table["method"], table["verdict"], strict=True)) == {
        "1scratch": "reproduced",
        "1kd": "reproduced",
        "2scratch": "only in A",
        "2kd": "only in A",
    }
    runs.assign(budget="twice").to_csv(path, index=False)
    assert cli.main(["compare", "tiny"]) == 2
    assert "a budget is 'twice', not a positive number" in capsys.readouterr().err


def test_show_and_published_know_which_budget_they_tell(finished, capsys):
    assert cli.main(["show", "tiny"]) == 0
    assert "main x2: main" in capsys.readouterr().out
    assert cli.main(["show", "tiny", "cnn-t--vit-s", "kd", "1"]) == 0
    assert json.loads(capsys.readouterr().out)["accuracy"]["test"] == 82.0
    assert set(published.runs(finished).query("method == 'kd'")["last"]) == {71.0, 72.0}


# ----------------------------------------------------------------------------------------------------------- estimates


def test_a_longer_training_is_expected_to_take_longer(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    plan = budgets_plan(1, 4)
    once, longer = (plan.job("cohort", f"cnn-t--vit-s/seeds-0{mark}") for mark in ("", ".x4"))
    assert (minutes(plan, once, 1), minutes(plan, longer, 1)) == (60, 240)
    for run in once.runs:
        finish(run, 70.0, cost={"cohort_seconds": 300.0})
    write_manifest(once)
    assert (minutes(plan, once, 1), minutes(plan, longer, 1)) == (5 + 10, 5 + 40)

    left = watch.look(dataclasses.replace(plan, jobs=(once, longer))).seconds_left
    assert left == pytest.approx(4 * 300)
    finish(longer.runs[0], 70.0)
    assert watch.look(dataclasses.replace(plan, jobs=(longer,))).last["what"] == "KD on cnn-t--vit-s x4"


def test_costs_count_the_steps_of_each_budget(trained):
    assert {each.name: each.steps for each in cost.counted(budgets_plan(1, 2))} == {
        "cohort cnn-t--vit-s": 12,
        "cohort cnn-t--vit-s x2": 24,
        "cohort none--vit-s": 12,
        "cohort none--vit-s x2": 24,
        "teacher cnn-t": 30,
    }


def test_budgets_of_the_fake_suite_do_not_mix_in_a_figure(tmp_path, monkeypatch):
    """Curves of the budget that is shown, and no other's."""
    monkeypatch.chdir(tmp_path)
    plan = fake_plan(blocks={"main": {**blocks(main={})["main"], "budgets": [1, 2], "budget": 1}})
    finish_all(plan)
    (report,) = block_reports(Today(plan), "curves")
    assert report.curves["test_accuracy"].max() == 73.0
