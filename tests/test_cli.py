"""The verbs by hand: what they print, what they refuse, and that every refusal is one sentence and an exit code."""

from __future__ import annotations

import json

import pytest
from conftest import REPOSITORY, TINY, tiny_plan, write_tiny

from kdbench import cli, cost, doctor, results


def run(*words: str) -> int:
    return cli.main(list(words))


@pytest.mark.slow
def test_the_whole_plan_without_snakemake(trained, capsys):
    write_tiny(trained)
    assert run("run", "tiny") == 0
    printed = capsys.readouterr().out.split()
    assert "tables/tiny.md" in printed and "results/tiny/figures/main-stages.svg" in printed
    page = (trained / "tables/tiny.md").read_text()
    assert "KD" in page and "nearest neighbour" in page.lower()
    plan = tiny_plan()
    assert all(r.result.exists() for r in plan.runs().values())
    written = {r.result: r.result.stat().st_mtime_ns for r in plan.runs().values()}
    assert run("run", "tiny") == 0
    assert all(p.stat().st_mtime_ns == t for p, t in written.items()), "what is finished is not done again"
    capsys.readouterr()

    assert run("show", "tiny") == 0
    assert "cnn-t--vit-s" in capsys.readouterr().out
    assert run("show", "tiny", "cnn-t--vit-s", "kd") == 0
    assert "seed 1: " in capsys.readouterr().out
    assert run("show", "tiny", "cnn-t--vit-s", "kd", "0") == 0
    assert json.loads(capsys.readouterr().out)["method"] == "kd"
    assert run("plan", "tiny") == 0
    assert "1 of 1 runs" in capsys.readouterr().out

    damaged = plan.runs()["cnn-t--vit-s", "kd", 1].result
    damaged.write_text(damaged.read_text()[:100])
    assert run("table", "tiny") == 2
    assert "1 of 4 cells of block main have no result" in (told := capsys.readouterr().err) and "is damaged" in told
    assert run("distill", "tiny", "cnn-t--vit-s") == 2
    assert f"delete {damaged} and run: kdbench distill tiny cnn-t--vit-s" in capsys.readouterr().err
    assert run("table", "tiny", "--partial") == 0
    assert "PARTIAL TABLE" in (trained / "tables/tiny.md").read_text()
    damaged.unlink()
    assert run("distill", "tiny", "cnn-t--vit-s") == 0 and damaged.exists()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["plan", "tinny"], "did you mean 'tiny'"),
        (["teacher", "tiny", "cnn-x"], "did you mean 'cnn-t'"),
        (["distill", "tiny", "cnn-t--vit-x"], "did you mean 'cnn-t--vit-s'"),
        (["distill", "tiny", "cnn-t--vit-s", "--seeds", "7"], "unknown seed '7'; known: 0, 1"),
        (["distill", "tiny", "cnn-t--vit-s", "--methods", "kdd"], "did you mean 'kd'"),
        (["distill", "tiny", "cnn-t--vit-s", "--job", "seeds-9"], "unknown cohort job"),
        (["distill", "tiny", "cnn-t--vit-s", "--expect", "0000"], "changed since this workflow was started"),
        (["distill", "tiny", "cnn-t--vit-s", "--threads", "3"], "threads: 1, but this job got 3"),
        (["data", "tiny", "digit"], "did you mean 'digits'"),
        (["similarity", "tiny", "cnn-t--vit-x"], "'cnn-t--vit-x'; known: main/cnn-t--vit-s"),
        (["show", "tiny", "cnn-t--vit-s", "kdd"], "did you mean 'kd'"),
        (["show", "tiny", "cnn-t--vit-s", "kd", "5"], "unknown seed '5'"),
        (["show", "tiny", "cnn-t--vit-s", "kd", "0"], "kd seed 0 is not trained yet; run: snakemake"),
        (["table", "tiny"], "4 of 4 cells"),
    ],
)
def test_refusals_are_one_sentence_and_exit_code_2(trained, capsys, words, told):
    write_tiny(trained)
    assert run(*words) == 2
    message = capsys.readouterr().err
    assert told in message and message.count("\n") == 1 and "Traceback" not in message


@pytest.mark.parametrize(
    ("words", "usage", "told"),
    [
        (["plan", "tiny", "--costs-too"], "usage: kdbench plan ", "unrecognized arguments: --costs-too"),
        (["show", "tiny", "a--b", "kd", "0", "1"], "usage: kdbench show ", "unrecognized arguments: 1"),
        (["data", "tiny"], "usage: kdbench data ", "arguments are required: name"),
    ],
)
def test_wrong_words_are_told_with_the_usage_of_their_verb(capsys, words, usage, told):
    with pytest.raises(SystemExit, match="2"):
        run(*words)
    message = capsys.readouterr().err
    assert message.startswith(usage) and told in message


def test_what_a_small_suite_costs_is_counted_in_a_unit_that_shows_it(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    glyphs = {"source": "glyphs", "size": 8, "points": 8, "train": 94, "val": 47, "test": 47}
    model = {**TINY["models"]["mlp-s"], "data": "glyphs", "input": "raster", "recipe": "glyphs"}
    second = {"data": "glyphs", "pairs": ["raster -> raster"], "methods": ["kd"]}
    recipe = TINY["recipes"]["teacher"]
    changes = {"data__glyphs": glyphs, "models__raster": model, "blocks__second": second, "recipes__glyphs": recipe}
    write_tiny(tmp_path, **changes)
    assert run("plan", "tiny", "--cost") == 2
    told = "data digits, glyphs are not packed yet; run: kdbench data tiny digits && kdbench data tiny glyphs"
    assert told in capsys.readouterr().err
    assert run("data", "tiny", "digits") == run("data", "tiny", "glyphs") == 0
    capsys.readouterr()
    assert run("plan", "tiny", "--cost") == 0
    head, *rows = capsys.readouterr().out.partition("\n\n")[2].splitlines()
    assert head.endswith("10^9 operations")
    costs = [float(row.split()[-1].replace(",", "")) for row in rows]
    assert min(costs) > 0.01 and costs[-1] == pytest.approx(sum(costs[:-1]), abs=0.05) and costs[-1] < 1000

    monkeypatch.setattr(cost, "_training", lambda *_: (1, 0.5e12))
    assert [line.split()[-1] for line in cost.lines(tiny_plan())[1:]] == ["0.50"] * 3 + ["1.50"]
    monkeypatch.setattr(cost, "_training", lambda *_: (1, 0.5e15))
    assert cost.lines(tiny_plan())[0].endswith("10^15 operations")


def test_a_missing_teacher_and_missing_data_say_what_to_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_tiny(tmp_path)
    assert run("distill", "tiny", "cnn-t--vit-s") == 2
    assert "data set 'digits' is not packed yet; run: kdbench data tiny digits" in capsys.readouterr().err
    assert run("data", "tiny", "digits") == 0
    capsys.readouterr()
    assert run("distill", "tiny", "cnn-t--vit-s") == 2
    assert "teacher cnn-t of seed 0 is not trained yet; run: kdbench teacher tiny cnn-t" in capsys.readouterr().err


def test_only_some_seeds_and_methods_by_hand(trained):
    write_tiny(trained)
    assert run("distill", "tiny", "cnn-t--vit-s", "--seeds", "1", "--methods", "kd") == 0
    plan = tiny_plan()
    assert [k for k, r in plan.runs().items() if r.result.exists()] == [("cnn-t--vit-s", "kd", 1)]
    assert not any(job.output.exists() for job in plan.of("cohort")), "a part is no finished job"


def test_an_edited_suite_makes_old_results_stale_not_wrong(trained, capsys):
    write_tiny(trained)
    assert run("distill", "tiny", "cnn-t--vit-s") == 0
    write_tiny(trained, recipes__student__lr=1e-3)
    plan = tiny_plan(recipes__student__lr=1e-3)
    frame = results.collect(plan, plan.suite.blocks[0])
    assert set(frame[frame.method == "kd"].reason) == {"its result comes from another config or version of the code"}
    assert run("show", "tiny") == 0
    assert "(of another config or code)" in capsys.readouterr().out
    assert run("plan", "tiny") == 0
    jobs = {line.split()[1]: line for line in capsys.readouterr().out.splitlines()}
    assert "0 of 1 runs" in jobs["cnn-t--vit-s/seeds-0"]


def test_doctor_finds_this_machine_fit(monkeypatch, capsys):
    monkeypatch.chdir(REPOSITORY)
    monkeypatch.setattr(doctor, "CONVOLUTIONS", "")  # seconds; .ci/as-cpu tries them, test_supervise.py what is told
    assert run("doctor") == 0
    assert "torch" in capsys.readouterr().out
    monkeypatch.setenv("KDBENCH_DATA", "nowhere")
    assert run("doctor") == 1
    assert "FAIL KDBENCH_DATA=nowhere" in capsys.readouterr().out
