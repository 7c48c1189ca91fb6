"""python -m speed: what it compares is the same mathematics, its arithmetic is right, and its mistakes are told.

Nothing is timed here: networks are tiny, and "processes" run in this one.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import io
import json
import os
import shutil
import sys
import types
from pathlib import Path

import pytest
import torch
from conftest import REPOSITORY
from safetensors.torch import save_file
from torch.utils.data import DataLoader

from kdbench.run import training
from kdbench.train import engine, networks
from kdbench.types import KdbenchError
from speed import accuracy, field, main, overhead, roofline, scale, script, setting, streaming, timing
from speed.__main__ import run as measure
from speed.setting import INPUT, METHODS, PRECISIONS, Options

TINY = {
    "vit-heavy": setting._vit(16, 4, 2),
    "vit-light": setting._vit(8, 4, 2),
    "cnn": setting._cnn([1, 1, 1, 1], [4, 4, 8, 8]),
    "cnn-wide": setting._cnn([1, 1, 1, 1], [4, 4, 8, 8]),
    "cnn-narrow": setting._cnn([1, 1, 1, 1], [2, 2, 4, 4]),
}


@pytest.fixture(scope="session")
def packed_once(tmp_path_factory):
    """A work folder with the data that all trials in one process share."""
    work = tmp_path_factory.mktemp("packed")
    options = Options("cpu", 1, 1, None, None, work, lambda line: None)
    setting.pack(setting.plan_of(setting.tree(("vit-heavy", "cnn"), options, "fp32", steps=1), "bench"), options)
    return work


@pytest.fixture
def options(packed_once, tmp_path, monkeypatch) -> Options:
    """Tiny networks, the pair with the heavy teacher, a work folder to stand in."""
    shutil.copytree(packed_once, tmp_path, dirs_exist_ok=True)
    for name, network in TINY.items():
        monkeypatch.setitem(setting.NETWORKS, name, network)
    for pair in ("equal", "light teacher"):
        monkeypatch.delitem(setting.PAIRS, pair)
    monkeypatch.chdir(tmp_path)
    return Options("cpu", 1, 1, None, None, tmp_path, lambda line: None)


def test_the_networks_that_are_measured_can_be_built():
    options = Options("cpu", 1, 1, None, None, Path("."), lambda line: None)
    for pair in (*setting.PAIRS.values(), accuracy.PAIR):
        plan = setting.plan_of(setting.tree(pair, options, "fp32", steps=1), "bench")
        for spec in plan.suite.models.values():
            assert networks.parameter_count(networks.build(spec, (32, 32, 3), 47, 0)) > 10_000


def made(options, pair, precision="fp32", methods=("kd",), steps=3):
    return setting.trial(setting.tree(pair, options, precision, steps=steps, methods=methods), options)


# ------------------------------------------------------------------------------------------------ the same mathematics


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("pair", [("vit-heavy", "cnn"), ("cnn", "vit-light")])
def test_the_bare_loop_ends_in_the_engines_weights(options, pair, precision):
    trial = made(options, pair, precision)
    (outcome,) = setting.train(trial, options.work, {})
    by_hand = overhead.bare(trial, {}).state_dict()
    assert outcome.weights.keys() == by_hand.keys()
    assert all(torch.equal(outcome.weights[name], by_hand[name]) for name in by_hand)


@pytest.mark.slow
def test_the_script_takes_the_engines_first_step(options):
    """The same losses, gradients and optimizer for every method, on an un-augmented batch."""
    trial = made(options, ("vit-heavy", "cnn"), methods=METHODS)
    cohort, recipe = trial.cohort, trial.plan.suite.recipes["student"]
    weights = trial.plan.teacher("vit-heavy", 0).stem.with_suffix(".safetensors")
    weights.parent.mkdir(parents=True)
    save_file(cohort.teacher.reader.model.state_dict(), weights)
    plain = script.Images(trial.pack, INPUT, "train", script.transform(trial.pack, INPUT, None))
    x, target, index = next(iter(DataLoader(plain, 64)))
    theirs = next(iter(cohort.batches.evaluation(INPUT, "train", 64)))
    assert torch.allclose(x, theirs, atol=1e-6) and torch.equal(target, cohort.batches.labels("train")[:64])
    with torch.no_grad():
        shown = cohort.teacher.reader(theirs, index)
    for run in trial.runs:
        name = run.method.id
        member = engine._start(cohort, run, fresh=True)
        student, teacher, distiller = script.networks(
            trial.plan, trial.pack, "vit-heavy", "cnn", name, 0, torch.device("cpu")
        )
        assert (teacher is None) == (name == "scratch")
        if distiller.wants_prepare:
            distiller.prepare(script.teacher_pass(teacher, DataLoader(plain, 256), torch.device("cpu")))
        optimizer = script.new_optimizer(recipe, student.model.train(), distiller)
        member.model.train()

        torch.manual_seed(1)
        ours = member.distiller(member.reader(theirs, index), shown, target, 0.5)
        torch.manual_seed(1)
        found, _ = script.losses_of(student, teacher, distiller, x, target, index, 0.5)
        assert found.keys() == ours.keys()
        for term in ours:
            assert torch.allclose(found[term], ours[term], rtol=1e-5, atol=1e-5), (name, term)
        for terms in (ours, found):
            sum(terms.values()).backward()
        for a, b in zip(member.model.parameters(), student.model.parameters(), strict=True):
            assert (a.grad - b.grad).norm() <= 1e-3 * a.grad.norm() + 1e-6, name
        for a, b in zip(member.optimizer.param_groups, optimizer.param_groups, strict=True):
            assert [p.shape for p in a["params"]] == [p.shape for p in b["params"]]
            assert all(a[key] == b[key] for key in ("lr", "weight_decay", "betas", "eps"))


@pytest.mark.slow
def test_operations_are_those_of_a_formula(options):
    """Two ViTs, whose products can be counted by hand: the teacher looks once, each student pays three times but for
    the gradient of its input."""
    row = roofline._row(("vit-heavy", "vit-light"), "fp32", 1, 1, options, methods=("scratch", "kd"))
    batch, tokens, pixels, classes = 64, 64, 16, 47

    def forward(width: int, depth: int) -> tuple[int, int]:
        patches = 2 * batch * tokens * pixels * width
        block = 2 * batch * tokens * (3 * width**2 + width**2 + 8 * width**2) + 4 * batch * tokens**2 * width
        return patches, patches + depth * block + 2 * batch * width * classes

    patches, student = forward(8, 4)
    assert row["operations"] == forward(16, 4)[1] + 2 * (3 * student - patches)


def test_a_watched_epoch_never_ends_and_calls_on_time(options):
    trial = made(options, ("cnn", "vit-light"), steps=30)
    steps = []
    watched = setting.Watched(trial.cohort.batches, 30, {7: lambda: steps.append(7), 29: lambda: steps.append(29)})
    assert watched.steps_per_epoch(64) == 30 and len(watched.order(0, 0)) >= 30 * 64
    assert torch.equal(watched.order(0, 0)[:1280], trial.cohort.batches.order(0, 0))
    for step in range(30):
        watched.train(watched.order(0, 0)[:64], trial.plan.suite.recipes["student"], 0, step)
    assert steps == [7, 29]


# ------------------------------------------------------------------------------------------------------- the arithmetic


def test_median_and_spread():
    numbers = timing.summary([3.0, 1.0, 2.0, 10.0])
    assert numbers == {"all": [3.0, 1.0, 2.0, 10.0], "median": 2.5, "low": 1.0, "high": 10.0}
    assert timing.text(numbers, 1, unit="s") == "2.5 (1.0–10.0) s"
    assert timing.text(timing.summary([0.0123]), 1, 1000) == "12.3"


def rows_of(field_seconds, cohort_seconds, precisions=PRECISIONS):
    def row(value, **more):
        return {"row": value, "loop": value / 2, **more, "methods": dict.fromkeys(METHODS, value / 9)}

    cohort = [row(value, own=value / 4) for value in cohort_seconds]
    return field.compared({"field": [row(v, data=1.0) for v in field_seconds], **dict.fromkeys(precisions, cohort)})


def test_ratios_are_taken_repeat_by_repeat_and_the_smaller_counts():
    found = rows_of([12.0, 30.0, 8.0], [4.0, 5.0, 4.0])
    assert found["ratio"]["bf16"]["row"]["all"] == [3.0, 6.0, 2.0]
    assert found["ratio"]["bf16"]["row"]["median"] == 3.0
    assert found["seconds"]["field"]["methods"]["kd"]["high"] == pytest.approx(30 / 9)
    found["ratio"]["fp32"]["loop"] = timing.summary([0.9])
    heavy, slowest = field.targets([{"pair": "heavy teacher", **found}], "cpu")
    assert (heavy["got"], heavy["met"]) == (3.0, False)
    assert "own steps take 25%" in heavy["why"] and "6.0 times" in heavy["why"]
    assert (slowest["got"], slowest["met"]) == (0.9, False) and "fp32" in slowest["target"]
    fast, whole = field.targets([{"pair": "heavy teacher", **rows_of([41.0], [10.0])}], "cpu")
    assert fast["met"] and whole["met"] and fast["why"] == ""


def test_accuracies_are_the_same_when_the_interval_holds_zero():
    script_side = {"scratch": [50.0, 52.0, 51.0, 49.0, 50.5], "kd": [60.0, 61.0, 59.0, 60.0, 60.5]}
    shifted = {
        "scratch": [50.5, 51.5, 51.2, 49.1, 50.0],
        "kd": [v + 3 + 0.1 * i for i, v in enumerate([60, 61, 59, 60, 60.5])],
    }
    rows = accuracy.compared({"field": script_side, "fp32": shifted, "bf16": script_side})
    assert [row["same"] for row in rows] == [True, False, True, True]
    assert rows[1]["difference"] == pytest.approx(3.2) and rows[1]["low"] > 2
    (verdict,) = accuracy.targets(rows)
    assert not verdict["met"] and verdict["got"] == 3 and "kd fp32" in verdict["why"]


def test_every_run_has_its_command(options):
    two = dataclasses.replace(options, jobs=2)
    suite = setting.tree(("vit-heavy", "cnn"), two, "fp32", **setting.in_epochs(450))
    assert suite["recipes"]["student"]["epochs"] * suite["data"]["glyphs"]["train"] == 450 * 64
    plan = setting.write_suite(suite | {"methods_per_job": 4}, options.work / "two.yaml")
    commands = field.cohort_commands(plan, two)
    jobs = [plan.job("cohort", f"{command[5]}/{command[7]}") for command in commands]
    assert sorted(run.method.id for job in jobs for run in job.runs) == sorted(METHODS)
    assert [len(job.runs) for job in jobs] == [4, 4, 1]


# ---------------------------------------------------------------------------------------------------- the verb, whole


def in_this_process(commands, at_once, folder, threads):
    """What timing.processes does, without the processes."""
    finished = []
    for _, _, module, *arguments in commands:
        printed, here = io.StringIO(), os.getcwd()
        os.chdir(folder)
        try:
            with contextlib.redirect_stdout(printed):
                if module in ("speed.scale", "speed.streaming"):
                    print(json.dumps(importlib.import_module(module).child(json.loads(arguments[0]))))
                else:
                    assert not importlib.import_module(module).main(arguments)
        finally:
            os.chdir(here)
        finished.append(timing.Finished(printed.getvalue(), 1.0))
    return float(len(commands)), finished


SHOWN = {
    "field": ("times faster, bf16", ["pair", "teacher", "student", "images", "seconds", "ratio"]),
    "accuracy": ("verdict", ["method", "precision", "field", "cohort", "difference", "low", "high", "same"]),
    "engine": ("overhead, %", ["pair", "precision", "engine_step_seconds", "bare_step_seconds", "overhead", "parts"]),
    "roofline": (
        "GFLOP a step",
        ["step_seconds", "operations", "operations_a_second", "matrix_rate", "share", "operations_by_time"],
    ),
    "scale": ("largest memory", ["members", "batch", "seeds", "step_seconds", "process_seconds", "memory_mb"]),
    "streaming": ("pictures a second", ["what", "of"]),
}


@pytest.mark.slow
@pytest.mark.parametrize("part", SHOWN)
def test_a_part_prints_its_table_and_writes_all_it_measured(part, options, monkeypatch, capsys):
    monkeypatch.setattr(timing, "processes", in_this_process)
    here = types.SimpleNamespace(TemporaryDirectory=lambda prefix: contextlib.nullcontext(options.work))
    monkeypatch.setattr(main, "tempfile", here)
    monkeypatch.setattr(accuracy, "TEST", 94)
    monkeypatch.setitem(roofline.SQUARE, "cpu", 64)
    for place in (setting, training):
        monkeypatch.setattr(place, "slow_bf16", lambda: None)
    monkeypatch.setattr(roofline, "precisions", lambda device: ("bf16",))
    monkeypatch.setattr(scale, "_POINTS", {"members": [(3, 64, 1)], "batch": [(1, 1024, 1)], "seeds": [(1, 64, 2)]})
    for name, fewer in {"PICTURES": 400, "TENTH": 300, "TEST": 100, "CLASSES": 4}.items():
        monkeypatch.setattr(streaming, name, fewer)
    monkeypatch.setattr(script, "DataLoader", lambda *args, num_workers=0, **more: DataLoader(*args, **more))
    heading, keys = SHOWN[part]
    repeats = "2" if part == "accuracy" else "1"
    words = [part, "--device", "cpu", "--threads", "1", "--steps", "2", "--repeats", repeats]
    assert measure(words) == 0
    assert heading in capsys.readouterr().out
    result = json.loads((options.work / "results" / "bench" / f"{part}.json").read_text())
    assert result["part"] == part and result["hardware"]["threads"] == 1 and "torch" in result["versions"]
    assert result["settings"] == {"steps": 2, "repeats": int(repeats), "jobs": 1} and len(result["date"]) == 25
    assert all(set(keys) <= row.keys() for row in result["rows"])
    for target in result["targets"]:
        assert target["met"] or target["why"], "a missed target says what holds it back"
    for row in result["rows"]:
        for value in row.values():
            if isinstance(value, dict) and "median" in value:
                assert value["low"] <= value["median"] <= value["high"] and len(value["all"]) == 1


# ------------------------------------------------------------------------------------------------------------ mistakes


@pytest.mark.parametrize(
    "words, sentence",
    [
        (["rofline"], "did you mean 'roofline'?"),
        (["engine", "--threads", "0"], "threads must be at least 1, got 0"),
        (["scale", "--steps", "-3"], "steps must be at least 1, got -3"),
        (["accuracy", "--repeats", "1", "--device", "cpu"], "needs at least 2"),
    ],
)
def test_a_mistake_is_one_sentence_and_exit_code_2(words, sentence, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert measure(words) == 2
    assert sentence in capsys.readouterr().err
    assert not (tmp_path / "results").exists()


def test_the_page_of_measurements_is_that_of_the_committed_files():
    shown = main.tables(REPOSITORY / "results/reference/bench")
    page = (REPOSITORY / "docs/bench-results.md").read_text()
    assert page == shown + "\n", "run: python -m speed show --out results/reference/bench > docs/bench-results.md"


def test_what_was_measured_here_goes_before_the_committed_files(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    committed = tmp_path / "results/reference/bench"
    shutil.copytree(REPOSITORY / "results/reference/bench", committed)
    assert measure(["show"]) == 0
    printed = capsys.readouterr()
    assert printed.out == (REPOSITORY / "docs/bench-results.md").read_text()
    assert printed.err == "kdbench: from results/reference/bench\n"
    own = tmp_path / "results/bench/engine.json"
    own.parent.mkdir()
    shutil.copy(committed / "engine.json", own)
    assert measure(["show"]) == 0
    printed = capsys.readouterr()
    assert printed.err == "kdbench: from results/bench\n" and printed.out == main.tables(own.parent) + "\n"


def test_nothing_measured_yet(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert measure(["show"]) == 2
    assert "results/bench holds none of field.json" in capsys.readouterr().err


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_cuda_is_refused_where_there_is_none(capsys):
    assert measure(["engine", "--device", "cuda"]) == 2
    assert "torch finds none here" in capsys.readouterr().err


def test_a_process_that_fails_is_told_with_its_last_words(tmp_path):
    fine = [sys.executable, "-c", "print('well')"]
    seconds, (done,) = timing.processes([fine], 1, tmp_path, 1)
    assert done.stdout == "well\n" and 0 < done.seconds <= seconds
    with pytest.raises(KdbenchError, match=r"exit code 3 .*: not enough glue"):
        bad = "import sys; print('more\\nnot enough glue', file=sys.stderr); sys.exit(3)"
        timing.processes([fine, [sys.executable, "-c", bad]], 2, tmp_path, 1)


def test_bf16_is_left_out_with_its_reason_where_a_cpu_is_slow_at_it(monkeypatch):
    monkeypatch.setattr(setting, "slow_bf16", lambda: "this CPU has no bf16 units")
    assert setting.precisions("cpu") == ("fp32",) and setting.precisions("cuda") == PRECISIONS
    assert setting.left_out("cpu") == {"bf16": "left out, since this CPU has no bf16 units"}
    assert setting.left_out("cuda") == {}
    heavy, slowest = field.targets([{"pair": "heavy teacher", **rows_of([12.0], [4.0], ["fp32"])}], "cpu")
    assert heavy["got"] == slowest["got"] == 3.0 and "fp32" in heavy["target"] and "fp32" in slowest["target"]
    rows = accuracy.compared({side: {m: [50.0, 52.0] for m in accuracy.METHODS} for side in ("field", "fp32")})
    assert {row["precision"] for row in rows} == {"fp32"}


def test_a_member_that_diverges_is_no_timing(options):
    suite = setting.tree(("cnn", "vit-light"), options, "fp32", steps=3, methods=("kd",))
    suite["recipes"]["student"]["lr"] = 1.0e30
    with pytest.raises(KdbenchError, match="kd did not come to its end: diverged"):
        setting.train(setting.trial(suite, options), options.work, {})
