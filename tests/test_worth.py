"""What a method is worth in Scratch's compute, against logarithms by hand."""

import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from fakes import block as fake_block
from fakes import fake_plan, finish
from test_tables import FACTS, make

from kdbench.files import write_text
from kdbench.plan.paths import reference_folder
from kdbench.report import tables
from kdbench.report.block import BlockReport, block_reports, reference_reports
from kdbench.report.page import markdown
from kdbench.report.worth import least_compute, worth
from kdbench.results.frames import all_runs
from kdbench.results.reference import Reference
from kdbench.results.today import Today
from kdbench.types import KdbenchError


def lengths(frame, budgets, alone=(), gain=4.0):
    """The rows of a block at several budgets: a step of a method costs so many of Scratch's as its column says; every
    doubling brings `gain` points."""
    cost = {method: 1.0 + i for i, method in enumerate(dict.fromkeys(frame["method"]))}
    parts = []
    for budget in (*budgets, *alone):
        own = frame if budget in budgets else frame[frame["method"] == "scratch"]
        own = own.assign(budget=float(budget), steps=100 * budget, teacher_operations_per_step=0.0)
        own["operations_per_step"] = 1e6 * own["method"].map(cost)
        own["test"] = own["test"] + gain * np.log2(budget / max(budgets))
        parts.append(own)
    return pd.concat(parts, ignore_index=True)


def block_of(block, budgets, alone=()):
    return replace(block, budgets=tuple(budgets), budget=max(budgets), scratch_budgets=tuple(alone))


AXIS = np.array([1e6, 2e6, 4e6]), np.array([60.0, 64.0, 68.0])


@pytest.mark.parametrize(
    ("wanted", "operations", "beyond"),
    [
        (64.0, 2e6, ""),
        (66.0, 2e6 * 2**0.5, ""),
        (61.0, 1e6 * 2**0.25, ""),
        (68.0, 4e6, ""),
        (68.1, 4e6, ">"),
        (60.0, 1e6, "<"),
        (12.0, 1e6, "<"),
    ],
)
def test_least_compute_by_hand(wanted, operations, beyond):
    for order in ([0, 1, 2], [2, 0, 1]):
        found = least_compute(AXIS[0][order], AXIS[1][order], wanted)
        assert found.operations == pytest.approx(operations) and found.beyond == beyond


def test_a_budget_that_brought_nothing_is_no_need():
    operations, accuracy = np.array([1e6, 2e6, 4e6, 8e6]), np.array([60.0, 66.0, 63.0, 67.0])
    assert least_compute(operations, accuracy, 65.9).operations < 2e6
    assert least_compute(operations, accuracy, 66.5).operations == pytest.approx(4e6 * 2**0.5)
    assert least_compute(operations, accuracy, 66.0).operations == pytest.approx(2e6)


def test_worth_by_hand():
    """A method two points above Scratch at twice its cost, where a doubling brings four: 2 ** 0.5 / 2."""
    _, _, frame = make(pairs=2, methods=("scratch", "kd"), seeds=3)
    gains = {0: 2.0, 1: 2.0, 2: 3.0}
    scratch = frame.loc[frame["method"] == "scratch"].set_index(["pair", "seed"])["test"]
    own = frame["method"] == "kd"
    frame.loc[own, "test"] = [
        scratch[pair, seed] + gains[seed] for pair, seed in frame.loc[own, ["pair", "seed"]].values
    ]
    found = worth(lengths(frame, (1, 2, 4), alone=(8,))).set_index(["pair", "method", "budget"])
    logs = np.log([2 ** (gain / 4) / 2 for gain in gains.values()])
    half = 4.302653 * logs.std(ddof=1) / 3**0.5
    for budget in (1.0, 2.0, 4.0):
        row = found.loc[("cnn-t--cnn-s", "kd", budget)]
        assert [row["ratio"], row["low"], row["high"]] == pytest.approx(
            np.exp([logs.mean(), logs.mean() - half, logs.mean() + half])
        )
        assert row["beyond"] == "" and row["n"] == 3
    # Without the further budget of Scratch, the largest of these is a bound; the others need none.
    found = worth(lengths(frame, (1, 2, 4))).set_index(["pair", "method", "budget"])
    row = found.loc[("cnn-t--cnn-s", "kd", 4.0)]
    assert row["beyond"] == ">" and row["ratio"] == pytest.approx(0.5) and np.isnan(row["low"])
    assert found.loc[("cnn-t--cnn-s", "kd", 2.0), "beyond"] == ""


def test_what_scratch_has_not_and_what_did_not_finish():
    _, _, frame = make(pairs=1, methods=("scratch", "kd", "ofa"), seeds=2)
    runs = lengths(frame, (1, 2))
    assert worth(runs[runs["method"] != "scratch"]).empty
    assert set(worth(runs.assign(steps=np.nan))["method"]) == set()
    runs.loc[(runs["method"] == "ofa") & (runs["seed"] == 1), "status"] = "diverged"
    found = worth(runs).set_index(["method", "budget"])["n"]
    assert found["ofa", 1.0] == 1 and found["kd", 1.0] == 2
    low = runs.assign(test=runs["test"].where(runs["method"] != "kd", 1.0))
    assert set(worth(low).query("method == 'kd'")["beyond"]) == {"<"}
    low.loc[(low["method"] == "kd") & (low["seed"] == 0), "test"] = 99.0
    assert set(worth(low).query("method == 'kd'")["beyond"]) == {"?"}


def test_the_page_prints_it():
    suite, block, frame = make(pairs=2, methods=("scratch", "kd"), seeds=3)
    block, runs = block_of(block, (1, 2), (4,)), lengths(frame, (1, 2), (4,))
    text = markdown(tables.describe(suite, [BlockReport(suite, block, frame, **FACTS, lengths=runs)]))
    assert "What a method is worth in Scratch's compute" in text
    table = text.split("What a method is worth in Scratch's compute")[1].split("### ")[0]
    cells = [line for line in table.splitlines() if line.startswith("| KD |")]
    found = worth(runs).set_index(["budget", "pair"])
    for line, budget in zip(cells, (1.0, 2.0), strict=True):
        for pair in (p.id for p in block.pairs):
            assert f"{found.loc[(budget, pair), 'ratio']:.2f} ×" in line
    assert "No method is worth more than it costs at budget 2." in text
    assert "Also trained: budget 1; Scratch alone at budget 4." in text
    gain = next(line for line in text.splitlines() if line.startswith("| cnn-s |") and line.endswith("|"))
    assert gain.count("+4.0") == 1 and gain.split("|")[-2].strip() in ("+0.0", "0.0")  # test, and an even validation


def test_a_block_of_one_budget_says_nothing_of_it():
    suite, block, frame = make(pairs=1)
    assert "worth in Scratch" not in markdown(tables.describe(suite, [BlockReport(suite, block, frame, **FACTS)]))


def test_scratch_alone_trains_at_its_further_budgets():
    plan = fake_plan(blocks={"main": fake_block(budgets=[1, 2], scratch_budgets=[4])})
    methods = {job.budget: {run.method.id for run in job.runs} for job in plan.of("cohort") if job.budget == 4}
    assert methods == {4: {"scratch"}}
    keys = {run.key for job in fake_plan(blocks={"main": fake_block(budgets=[1, 2])}).jobs for run in job.runs}
    assert keys < {run.key for job in plan.jobs for run in job.runs}


def test_a_reference_gives_the_same_lengths(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    plan = fake_plan(blocks={"main": fake_block(budgets=[1, 2], scratch_budgets=[4])})
    for job in (job for kind in ("teacher", "cohort") for job in plan.of(kind)):
        for run in job.runs:
            finish(run, 97.0 if run.is_teacher else 60 + 5 * run.budget + run.seed)
    (live,) = block_reports(Today(plan))
    assert set(live.lengths["budget"]) == {1.0, 2.0, 4.0} and set(live.lengths.query("budget == 4")["method"]) == {
        "scratch"
    }
    write_text(reference_folder(plan.suite) / "runs.csv", all_runs(Today(plan)).to_csv(index=False))
    (frozen,) = reference_reports(Reference(plan.suite))
    keys = ["pair", "method", "seed", "budget"]
    one, two = (report.lengths.sort_values(keys)[[*keys, "test", "steps"]] for report in (live, frozen))
    assert one.to_numpy().tolist() == two.to_numpy().tolist()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"scratch_budgets": [2]}, "main.scratch_budgets: a budget is listed twice in [1, 2, 2]"),
        ({"scratch_budgets": [0]}, "main.scratch_budgets: must be positive, got 0"),
        ({"scratch_budgets": 8}, "main.scratch_budgets: expected a list, got 8"),
        ({"scratch_budgets": [4], "methods": ["kd"]}, "scratch is not among the methods of this block"),
    ],
)
def test_further_budgets_that_make_no_sense_are_refused(changes, said):
    with pytest.raises(KdbenchError, match=re.escape(said)):
        fake_plan(blocks={"main": fake_block(budgets=[1, 2]) | changes})
