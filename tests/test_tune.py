"""Equal tuning, readings of reconstructed methods, and blocks with seeds of their own: planned, run and shown."""

from __future__ import annotations

import json
import statistics
from dataclasses import replace

import pandas as pd
import pytest
from conftest import tiny, tiny_plan, write_tiny
from test_workflow import job_counts, snakemake

from kdbench.files import read_json, write_json
from kdbench.plan.jobs import make_plan as make_plan
from kdbench.plan.jobs import tuning_runs
from kdbench.plan.paths import tuned_file
from kdbench.plan.suite import check_suite
from kdbench.report import tables
from kdbench.report.block import BlockReport, Reading
from kdbench.report.cells import rivals_of
from kdbench.report.page import markdown
from kdbench.report.verdicts import claim_results
from kdbench.results.frames import collect
from kdbench.results.record import read_run
from kdbench.results.today import Today
from kdbench.run import tune
from kdbench.run.data import run_data
from kdbench.run.everything import run_all
from kdbench.run.outputs import run_table
from kdbench.run.training import run_training
from kdbench.run.tune import run_tune
from kdbench.types import KdbenchError

TUNED = {
    "tune": {"seed": 9, "factors": [0.5, 1.0], "pairs": ["cnn-t -> vit-s"]},
    "seeds": [0],
    "blocks__main__methods": ["scratch", "kd", "dkd"],
}


def written(plan) -> str:
    run_table(plan)
    return open(f"tables/{plan.suite.name}.md", encoding="utf-8").read()


def test_the_plan_has_settings_a_choice_and_twins_that_wait_for_it():
    plan = tiny_plan(**TUNED)
    assert [m.id for m in plan.suite.blocks[0].methods] == ["scratch", "kd", "kd-tuned", "dkd", "dkd-tuned"]
    tried = plan.job("cohort", "cnn-t--vit-s/seeds-9.tune")
    assert [(r.method.id, r.seed) for r in tried.runs] == [(m, 9) for m in ("kd@0.5", "kd@1", "dkd@0.5", "dkd@1")]
    weights = [r.method.params for r in tried.runs]
    assert [w["kd_weight"] for w in weights[:2]] == [0.5, 1.0] and [w["beta"] for w in weights[2:]] == [1.0, 2.0]
    assert {r.seed for job in plan.of("teacher") for r in job.runs} == {0, 9}
    assert plan.of("tune")[0].inputs == (tried.output,)
    twins = plan.job("cohort", "cnn-t--vit-s/seeds-0.tuned")
    assert [r.method.id for r in twins.runs] == ["kd-tuned", "dkd-tuned"]
    assert tuned_file(plan.suite) in twins.inputs
    assert tuned_file(plan.suite) not in plan.job("cohort", "cnn-t--vit-s/seeds-0").inputs


def test_the_key_of_a_tuned_run_is_that_of_its_tuning():
    def key(**tune_changes):
        plan = tiny_plan(**TUNED | {"tune": TUNED["tune"] | tune_changes})
        return {m: plan.runs()["cnn-t--vit-s", m, 0].key for m in ("kd", "kd-tuned")}

    assert key()["kd-tuned"] != key()["kd"]
    assert key() == key()
    for change in ({"seed": 8}, {"factors": [0.5, 1.0, 2.0]}):
        assert key(**change)["kd"] == key()["kd"]
        assert key(**change)["kd-tuned"] != key()["kd-tuned"]


@pytest.mark.slow
def test_what_is_chosen_is_trained_and_shown(trained):
    plan = tiny_plan(**TUNED)
    with pytest.raises(KdbenchError, match=r"tuning needs .*kd@0.5.*not trained yet"):
        run_tune(plan)
    run_all(plan)

    choices = json.loads(tuned_file(plan.suite).read_text())["choices"]
    assert [(c["method"], c["parameter"], c["family"]) for c in choices] == [
        ("kd", "kd_weight", "vit"),
        ("dkd", "beta", "vit"),
    ]
    pair = plan.suite.blocks[0].pairs[0]
    twin = {m.tuned_from: m for m in plan.suite.blocks[0].methods if m.tuned_from}["kd"]
    by_weight = {
        r.method.params["kd_weight"]: read_run(r.result)["accuracy"]["val"]
        for (r,) in tuning_runs(plan.suite, pair, twin)
    }
    assert set(by_weight) == {0.5, 1.0}
    assert by_weight[choices[0]["value"]] == max(by_weight.values())

    run = plan.run_of(pair, twin, 0, 1)
    assert read_run(run.result)["tuned"] == {"kd_weight": choices[0]["value"]}
    text = written(plan)
    assert "| KD, tuned |" in text and "Verdict against KD, tuned" in text and "### Tuning" in text

    # Another choice makes the run another one: told as missing, trained anew, and only it.
    other = 1.5 - choices[0]["value"]
    document = read_json(tuned_file(plan.suite))
    document["choices"][0] |= {"value": other, "factor": other}
    write_json(tuned_file(plan.suite), document)
    frame = collect(Today(plan), plan.suite.blocks[0]).set_index("method")
    assert frame.loc["kd-tuned", "reason"] == "its weight is not the one that tuning chose"
    assert (frame.drop("kd-tuned")["status"] == "finished").all()
    kept = plan.run_of(pair, next(m for m in plan.suite.blocks[0].methods if m.id == "dkd-tuned"), 0, 1).result
    before = kept.stat().st_mtime_ns
    run_training(plan, plan.job("cohort", "cnn-t--vit-s/seeds-0.tuned"), threads=1)
    assert read_run(run.result)["tuned"] == {"kd_weight": other}
    assert kept.stat().st_mtime_ns == before


def test_a_chosen_weight_reaches_the_loss(trained):
    """A twin whose tuning chose the default's value by another factor's name trains with exactly that value."""
    plan = tiny_plan(**TUNED | {"recipes__student__steps": 1})
    run_data(plan, plan.of("data")[0])
    for job in plan.of("teacher"):
        run_training(plan, job, threads=1)
    losses = {}
    for value in (1.0, 3.0):
        choice = {"pair": "cnn-t--vit-s", "method": "kd", "parameter": "kd_weight", "value": value, "factor": value}
        tuned_file(plan.suite).parent.mkdir(parents=True, exist_ok=True)
        tuned_file(plan.suite).write_text(json.dumps({"choices": [choice]}))
        job = plan.job("cohort", "cnn-t--vit-s/seeds-0.tuned")
        run_training(plan, job, threads=1, methods=["kd-tuned"])
        record = read_run(plan.runs()["cnn-t--vit-s", "kd-tuned", 0].result)
        losses[value] = record["history"][0]["losses"]["kd"]
    assert losses[3.0] / losses[1.0] == pytest.approx(3, rel=1e-5)


def test_twins_wait_with_a_sentence(trained):
    plan = tiny_plan(**TUNED)
    with pytest.raises(KdbenchError, match="kd-tuned waits for the tuning of this suite; run: kdbench tune tiny"):
        run_training(plan, plan.job("cohort", "cnn-t--vit-s/seeds-0.tuned"), threads=1)


def test_the_best_setting_and_its_ties():
    def setting(factor, val):
        return {"factor": factor, "value": 2 * factor, "val": val, "run": f"r{factor}", "reason": "nan"}

    tried = [setting(0.1, 50.0), setting(0.3, 60.0), setting(1.0, 60.0), setting(3.0, None)]
    assert tune.best(tried) == {"factor": 1.0, "value": 2.0}
    assert tune.best([*tried, setting(10.0, 61.0)]) == {"factor": 10.0, "value": 20.0}
    # As many samples right over three seeds: a tie, whatever the last bit of the mean says.
    means = [statistics.fmean(100 * k / 257 for k in counts) for counts in ((103, 105, 107), (105, 105, 105))]
    assert means[0] > means[1] and tune.best([setting(0.1, means[0]), setting(1.0, means[1])])["factor"] == 1.0
    assert tune.best([setting(3.0, None), setting(1.0, None)]) == {"factor": 1.0, "value": 2.0}


def weighed(weights, *methods, **changes):
    return TUNED | {"blocks__main__methods": list(methods), "blocks__main__weights": weights} | changes


def test_a_block_may_train_tuned_twins_alone_or_none():
    methods = ("scratch", "kd", "fitnet", "kd@untrained", "scratch@kd")
    plans = {w: tiny_plan(**weighed(w, *methods)) for w in ("tuned", "default", "both")}
    ids = {w: [m.id for m in plan.suite.blocks[0].methods] for w, plan in plans.items()}
    assert ids["tuned"] == ["scratch", "kd-tuned", "fitnet-tuned", "kd@untrained-tuned", "scratch@kd"]
    assert ids["default"] == list(methods)
    assert set(ids["both"]) == {*methods, "kd-tuned", "fitnet-tuned"}
    assert not plans["default"].of("tune")

    # What is tried, and with it every key, is the same; only a control has its tuned twin in this block alone.
    keys = {w: {at: run.key for at, run in plan.runs().items()} for w, plan in plans.items()}
    alone = {at for at in keys["tuned"] if at[1] == "kd@untrained-tuned"}
    assert keys["default"] | keys["tuned"] == keys["both"] | {at: keys["tuned"][at] for at in alone}
    tried = [{r.method.id for r in plans[w].of("tune")[0].runs} for w in ("tuned", "both")]
    assert tried[0] == tried[1] == {f"{m}@{f:g}" for m in ("kd", "fitnet") for f in (0.5, 1)}
    assert plans["tuned"].of("tune")[0].key == plans["both"].of("tune")[0].key


def test_tables_and_claims_of_a_block_of_twins_mean_the_twins(trained):
    table = {"rows": ["kd@untrained", "kd", "scratch@kd"], "baselines": ["kd"]}
    claim = {"method": "kd", "control": "kd@untrained", "question": "Does the teacher matter?"}
    methods = ("scratch", "kd", "kd@untrained", "scratch@kd")
    changes = {"claims": {"teacher": claim}, "blocks__main__table": table, "seeds": [0, 1]}
    plan = tiny_plan(**weighed("tuned", *methods, **changes))
    block = plan.suite.blocks[0]
    assert block.rows == ("kd@untrained-tuned", "kd-tuned", "scratch@kd") and block.baselines == ("kd-tuned",)
    choice = {"pair": "cnn-t--vit-s", "method": "kd", "parameter": "kd_weight", "value": 0.5, "factor": 0.5}
    write_json(tuned_file(plan.suite), {"choices": [choice]})
    today = Today(plan)
    runs = [plan.runs()["cnn-t--vit-s", m, 0] for m in ("kd-tuned", "kd@untrained-tuned")]
    assert [today.weight(run) for run in runs] == [{"kd_weight": 0.5}] * 2
    assert [run.config.get("guide") for run in runs] == [None, "untrained"]

    (result,) = claim_results(plan.suite, block, collect(today, block))
    assert (result.claim.method, result.claim.control) == ("kd-tuned", "kd@untrained-tuned")
    assert [m.id for m in rivals_of(block.shown, "kd-tuned")] == ["kd@untrained-tuned", "scratch@kd"]
    report = BlockReport(plan.suite, block, collect(today, block))
    assert "no plain KD" not in markdown(tables.describe(plan.suite, [report]))


def test_weights_that_cannot_be_had_are_refused():
    with pytest.raises(KdbenchError, match=r"blocks.main.weights: .*did you mean 'tuned'"):
        tiny_plan(**weighed("tund", "kd"))
    with pytest.raises(KdbenchError, match=r"blocks.main.weights: nothing is tuned here"):
        tiny_plan(blocks__main__weights="tuned")


def grid(**changes):
    return TUNED | {"tune": TUNED["tune"] | {"temperatures": [1, 2, 4]} | changes}


def test_methods_that_say_so_try_every_temperature_with_every_factor():
    plan = tiny_plan(**grid() | {"blocks__main__methods": ["scratch", "kd", "dkd", "dist"]})
    tried = plan.job("cohort", "cnn-t--vit-s/seeds-9.tune").runs
    own = [r for r in tried if r.method.method == "kd"]
    points = [(r.method.params["kd_weight"], r.method.params["temperature"]) for r in own]
    assert points == [(w, t) for w in (0.5, 1.0) for t in (1, 2, 4)] and own[1].method.id == "kd@0.5-T2"
    assert len({r.key for r in tried}) == len(tried) == 6 + 6 + 2
    # Another grid of temperatures is another tuning to those that try them only.
    methods = {"blocks__main__methods": ["kd", "dist"]}
    keys = [tiny_plan(**grid(temperatures=t) | methods).runs() for t in ([1, 2], [1, 4])]
    moved = {at[1] for at in keys[0].keys() & keys[1].keys() if keys[0][at].key != keys[1][at].key}
    assert moved == {"kd-tuned"}


@pytest.mark.slow
def test_a_chosen_temperature_is_trained_with_and_shown(trained):
    changes = {"blocks__main__methods": ["scratch", "kd"], "recipes__student__steps": 2, "seeds": [0]}
    plan = tiny_plan(**grid(factors=[1, 10], temperatures=[1, 4]) | changes)
    run_all(plan)
    document = read_json(tuned_file(plan.suite))
    (choice,) = document["choices"]
    assert document["seeds"] == [9] and choice["default_temperature"] == 1 and choice["temperature"] in (1, 4)
    assert [(t["factor"], t["temperature"]) for t in choice["tried"]] == [(1, 1), (1, 4), (10, 1), (10, 4)]
    run = plan.runs()["cnn-t--vit-s", "kd-tuned", 0]
    assert read_run(run.result)["tuned"] == {"kd_weight": choice["value"], "temperature": choice["temperature"]}

    write_json(tuned_file(plan.suite), {"choices": [choice | {"factor": 10, "value": 10.0, "temperature": 4.0}]})
    run_training(plan, plan.job("cohort", "cnn-t--vit-s/seeds-0.tuned"), threads=1)
    assert read_run(run.result)["tuned"] == {"kd_weight": 10.0, "temperature": 4.0}
    text = written(plan)
    assert "weight × 10, T 4 on cnn-t → vit-s" in text and "| 10 (× 10, T 4" in text


def test_the_nearest_to_the_default_wins_a_tie_of_temperatures():
    def tried(*points):
        return [{"factor": f, "value": f, "temperature": t, "val": 50.0} for f, t in points]

    assert tune.best(tried((1, 1), (1, 4), (1, 8)), 4.0)["temperature"] == 4
    assert tune.best(tried((0.1, 4), (1, 8), (10, 4)), 4.0)["temperature"] == 8
    assert tune.best(tried((0.3, 1), (1, 2)))["factor"] == 1


@pytest.mark.parametrize(
    ("vals", "edge"),
    [
        ({(0.01, 2): 9.0}, ["lowest factor"]),
        ({(10, 4): 9.0}, ["highest factor", "highest temperature"]),
        ({(1, 1): 9.0, (10, 2): None}, ["lowest temperature"]),
        ({(1, 2): 9.0}, []),
        (dict.fromkeys([(f, t) for f in (0.01, 1, 10) for t in (1, 2, 4)]), []),  # nothing finished, nothing chosen
    ],
)
def test_a_choice_at_the_edge_of_the_grid_is_flagged(monkeypatch, capsys, trained, vals, edge):
    plan = tiny_plan(**grid(factors=[0.01, 1, 10]) | {"blocks__main__methods": ["kd"]})
    found = {(f"kd@{f:g}-T{t}", 9): vals.get((f, t), 5.0) for f in (0.01, 1, 10) for t in (1, 2, 4)}
    monkeypatch.setattr(tune, "Today", fake_today(found))
    run_tune(plan)
    choices = read_json(tuned_file(plan.suite))["choices"]
    assert [c["edge"] for c in choices] == [edge]
    words = f"at the edge of the grid: {', '.join(edge)}"
    assert (words in capsys.readouterr().err) == bool(edge)

    report = BlockReport(plan.suite, plan.suite.blocks[0], collect(Today(plan), plan.suite.blocks[0]), tuned=choices)
    text = markdown(tables.describe(plan.suite, [report]))
    assert (f"at the edge of the grid ({', '.join(edge)})" in text) == bool(edge)


@pytest.mark.parametrize("weights", ["both", "tuned"])
def test_faults_of_many_settings_share_a_footnote(monkeypatch, weights):
    factors = [0.01, 0.03, 0.1, 0.3, 1, 3, 10]
    changes = {"blocks__main__methods": ["kd"], "blocks__main__weights": weights}
    plan = tiny_plan(**TUNED | {"tune": TUNED["tune"] | {"factors": factors}} | changes)
    vals = {(f"kd@{f:g}", 9): 50.0 + f if f <= 1 else None for f in factors}
    monkeypatch.setattr(tune, "Today", fake_today(vals))
    choices = tune.choose(plan)
    assert choices[0]["factor"] == 1 and choices[0]["edge"] == []
    report = BlockReport(plan.suite, plan.suite.blocks[0], collect(Today(plan), plan.suite.blocks[0]), tuned=choices)
    assert "× 3; × 10: diverged (step 9)" in markdown(tables.describe(plan.suite, [report]))


def several_seeds(seeds, **changes):
    return TUNED | {"tune": {"seeds": seeds, "factors": [0.5, 1.0], "pairs": ["cnn-t -> vit-s"]}} | changes


def test_one_seed_may_be_written_either_way():
    plans = tiny_plan(**TUNED), tiny_plan(**several_seeds([9]))
    assert [job.key for job in plans[0].jobs] == [job.key for job in plans[1].jobs]


def test_a_setting_is_tried_at_every_tuning_seed():
    plan = tiny_plan(**several_seeds([9, 11], seeds_per_job=2))
    tried = plan.job("cohort", "cnn-t--vit-s/seeds-9-11.tune")
    settings = ("kd@0.5", "kd@1", "dkd@0.5", "dkd@1")
    assert {(r.method.id, r.seed) for r in tried.runs} == {(m, s) for m in settings for s in (9, 11)}
    assert {r.seed for job in plan.of("teacher") for r in job.runs} == {0, 9, 11}
    with pytest.raises(KdbenchError, match="16 such seeds do not fit"):
        tiny_plan(**several_seeds(list(range(10**9, 10**9 + 16)), seeds_per_job=16))


def fake_today(val):
    """In place of Today: {(setting, seed): validation accuracy, or None where the run diverged}."""

    class Fake:
        def __init__(self, plan):
            self.plan = plan

        def record(self, run):
            found = val[run.method.id, run.seed]
            if found is None:
                return {"status": "diverged", "reason": f"step {run.seed}"}
            return {"status": "finished", "reason": None, "accuracy": {"val": found, "test": 100.0 - found}}

    return Fake


@pytest.mark.parametrize(
    ("low", "default", "chosen"),
    [
        ((60.0, 70.0), (66.0, 66.0), 1.0),  # the mean decides, not the best seed
        ((60.0, 73.0), (66.0, 66.0), 0.5),
        ((99.0, None), (1.0, 2.0), 1.0),  # a setting that diverged once comes after all that finished
        ((None, 99.0), (None, None), 1.0),  # none finished everywhere: the default's own runs say why
    ],
)
def test_the_mean_over_tuning_seeds_decides(monkeypatch, low, default, chosen):
    plan = tiny_plan(**several_seeds([9, 11], blocks__main__methods=["kd"]))
    vals = {("kd@0.5", 9): low[0], ("kd@0.5", 11): low[1], ("kd@1", 9): default[0], ("kd@1", 11): default[1]}
    monkeypatch.setattr(tune, "Today", fake_today(vals))
    (choice,) = tune.choose(plan)
    assert choice["factor"] == chosen
    for tried, (a, b) in zip(choice["tried"], (low, default), strict=True):
        assert tried["val"] == (None if None in (a, b) else (a + b) / 2) and len(tried["runs"]) == 2
        assert tried["status"] == ("diverged" if None in (a, b) else "finished")


@pytest.mark.parametrize(
    ("section", "words"),
    [
        ({"seed": 0}, r"0 is among the reported seeds \[0\]"),
        ({"seed": -1}, "expected whole numbers from 0"),
        ({"seeds": [9, 10]}, "give exactly one of seed and seeds"),
        ({"factors": [1.0]}, "two or more different positive numbers"),
        ({"factors": [1.0, 1.0]}, "two or more different positive numbers"),
        ({"factors": [1.0, -1.0]}, "two or more different positive numbers"),
        ({"factors": [1.0, 1.0000001]}, "two or more different positive numbers"),
        ({"temperatures": [2]}, r"tune.temperatures: expected two or more different positive numbers"),
        ({"temperatures": [1, 0]}, r"tune.temperatures: expected two or more different positive numbers"),
        ({"temperatures": "warm"}, r"tune.temperatures: expected tuple"),
        ({"pairs": ["cnn-t -> vit-x"]}, "did you mean 'cnn-t -> vit-s'"),
        ({"pairs": []}, "expected a list"),
        ({"faktors": [1, 2]}, "did you mean 'factors'"),
    ],
)
def test_mistakes_in_the_section_are_named(section, words):
    with pytest.raises(KdbenchError, match=words):
        tiny_plan(**TUNED | {"tune": TUNED["tune"] | section})


def test_every_student_family_of_a_tuned_block_needs_a_pair():
    with pytest.raises(KdbenchError, match=r"no pair in tune.pairs can choose weights for cnn-t -> mlp-s.*mlp student"):
        tiny_plan(**TUNED | {"blocks__main__pairs": ["cnn-t -> vit-s", "cnn-t -> mlp-s"]})


def test_snakemake_plans_the_tuning_as_a_stage_of_its_own(trained):
    write_tiny(trained, **TUNED)
    counts = job_counts(snakemake(trained, "-n", "--config", "suite=tiny"))
    assert counts["tune"] == 1 and counts["cohort"] == 4  # settings, scratch, defaults, twins


@pytest.mark.slow
def test_a_block_may_have_fewer_seeds(trained):
    tree = tiny(recipes__student__steps=2)
    tree["blocks"]["more"] = {**tree["blocks"]["main"], "methods": ["scratch", "kd", "dkd"], "seeds": [1]}
    suite = check_suite(tree, "tiny", "tiny.yaml")
    plan = make_plan(suite)
    seeds = {(r.method.id, r.seed) for job in plan.of("cohort") for r in job.runs if r.pair.teacher}
    assert seeds == {("kd", 0), ("kd", 1), ("dkd", 1)}
    run_all(plan)
    frame = collect(Today(plan), suite.blocks[1])
    assert set(frame["seed"]) == {1} and (frame["status"] == "finished").all()
    assert "Only one seed:" in written(plan)

    tree["blocks"]["more"]["seeds"] = [1, 7]
    with pytest.raises(KdbenchError, match=r"blocks.more: seeds .*7"):
        check_suite(tree, "tiny", "tiny.yaml")


def test_readings_are_trained_and_only_their_range_is_shown():
    plan = tiny_plan(blocks__main__methods=["scratch", "kd", "uhkd"], blocks__main__readings=["uhkd"])
    block = plan.suite.blocks[0]
    ((method, readings),) = block.readings
    assert len(readings) == 8 and len({json.dumps(r.params, sort_keys=True) for r in readings}) == 8
    assert method.params in [r.params for r in readings]
    trained = {r.method.id for job in plan.of("cohort") for r in job.runs}
    assert trained == {"scratch", "kd", "uhkd", *(r.id for r in readings)}

    def frame(methods, accuracy):
        rows = [
            {
                "pair": "cnn-t--vit-s",
                "teacher": "cnn-t",
                "student": "vit-s",
                "method": m.id,
                "seed": seed,
                "status": "finished",
                "reason": None,
                "val": accuracy(i, seed),
                "test": accuracy(i, seed),
                "teacher_val": 90.0,
                "teacher_test": 90.0,
                "notes": [],
            }
            for i, m in enumerate(methods)
            for seed in (0, 1)
        ]
        return pd.DataFrame(rows)

    of_rows, of_readings = frame(block.methods, lambda i, s: 50 + i + s), frame(readings, lambda i, s: 60 + 2 * i + s)
    report = BlockReport(plan.suite, block, of_rows, readings=[Reading(method, readings, of_readings)])
    text = markdown(tables.describe(plan.suite, [report]))
    assert "| Readings<br>UHKD†: 8 |" in text and "| 60.5 to 74.5 <sup>" in text
    assert f"lowest: {readings[0].label}; highest: {readings[7].label}".replace("_", r"\_") in text
    assert readings[3].label.replace("_", r"\_") not in text

    lost = of_readings.assign(status=["diverged", *["finished"] * 15])
    fewer = replace(report, readings=[Reading(method, readings, lost)])
    text = markdown(tables.describe(plan.suite, [fewer]))
    assert "62.5 to 74.5" in text and "1 of 8 lack a seed" in text
    text = tables.csv(plan.suite, [report])
    assert text.count(",reading,") == 8


def test_a_method_with_one_reading_is_refused():
    with pytest.raises(KdbenchError, match="'kd' has one reading only"):
        tiny_plan(blocks__main__readings=["kd"])


@pytest.mark.slow
def test_variants_draw_the_random_numbers_of_their_method(trained):
    """The reading that is the default, and a twin whose chosen weight is the default, end as their method does."""
    changes = {"recipes__student__steps": 3, "blocks__main__methods": ["uhkd"], "blocks__main__readings": ["uhkd"]}
    plan = tiny_plan(**TUNED | changes)
    choice = {"pair": "cnn-t--vit-s", "method": "uhkd", "parameter": "beta", "value": 1.0, "factor": 1.0}
    tuned_file(plan.suite).parent.mkdir(parents=True, exist_ok=True)
    tuned_file(plan.suite).write_text(json.dumps({"choices": [choice]}))
    for part in ("seeds-0", "seeds-0.tuned"):
        run_training(plan, plan.job("cohort", f"cnn-t--vit-s/{part}"), threads=1)
    hashes = {
        method: read_run(run.result)["hashes"]["weights"]
        for (_, method, seed), run in plan.runs().items()
        if run.result.exists() and seed == 0
    }
    alike = [m for m, h in hashes.items() if h == hashes["uhkd"]]
    assert len(hashes) == 10
    assert alike == ["uhkd", "uhkd@log_amplitude-crop-frequency", "uhkd-tuned"]
