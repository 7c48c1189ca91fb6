"""The verbs by hand: what they print, what they refuse, and that every refusal is one sentence and an exit code."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys

import pytest
from conftest import REPOSITORY, TINY, tiny_plan, write_tiny

import kdbench
from kdbench import cli
from kdbench.results.frames import collect
from kdbench.results.record import read_run
from kdbench.results.today import Today
from kdbench.terminal import doctor
from kdbench.types import KdbenchError


def run(*words: str) -> int:
    return cli.main(list(words))


@pytest.mark.slow
def test_the_whole_plan_without_snakemake(trained, capsys):
    write_tiny(trained)
    assert run("run", "tiny") == 0
    printed = capsys.readouterr().out.split()
    assert "tables/tiny.md" in printed and "results/tiny/figures/supplement/main-stages.svg" in printed
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


def test_what_a_suite_costs_needs_its_data(tmp_path, monkeypatch, capsys):
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


def test_a_missing_teacher_and_missing_data_say_what_to_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_tiny(tmp_path)
    assert run("distill", "tiny", "cnn-t--vit-s") == 2
    assert "data set 'digits' is not packed yet; run: kdbench data tiny digits" in capsys.readouterr().err
    assert run("data", "tiny", "digits") == 0
    capsys.readouterr()
    assert run("distill", "tiny", "cnn-t--vit-s") == 2
    assert "teacher cnn-t of seed 0: not trained yet; run: kdbench teacher tiny cnn-t" in capsys.readouterr().err


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
    frame = collect(Today(plan), plan.suite.blocks[0])
    assert set(frame[frame.method == "kd"].reason) == {"its result comes from another config or version of the code"}
    assert run("show", "tiny") == 0
    assert "(stale)" in capsys.readouterr().out
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
    assert "FAIL KDBENCH_DATA=nowhere does not exist" in capsys.readouterr().out


# ------------------------------------------------------------------------------------------------- suites anywhere


@pytest.fixture
def namesakes(tmp_path, monkeypatch):
    """Two suites of one file name in a project; the first has trained."""
    project = tmp_path / "project"
    for folder in ("ann", "bob"):
        (project / folder).mkdir(parents=True)
        write_tiny(project, seeds=[0]).rename(project / folder / "pets.yaml")
    monkeypatch.chdir(project)
    assert run("table", "ann/pets.yaml", "--partial") == 0
    return project


EVERY_VERB = [
    ["plan"],
    ["data", "digits"],
    ["teacher", "cnn-t"],
    ["distill", "cnn-t--vit-s"],
    ["similarity", "main/cnn-t--vit-s"],
    ["tune"],
    ["table", "--partial"],
    ["figure"],
    ["reference"],
    ["export", "carried"],
    ["import", "carried"],
    ["report"],
    ["run"],
    ["show"],
    ["watch", "--once"],
    ["compare"],
    ["published"],
    ["findings"],
]


@pytest.mark.parametrize("words", EVERY_VERB, ids=lambda words: words[0])
def test_a_suite_does_not_write_over_another_of_its_file_name(namesakes, capsys, words):
    verb, *others = words
    before = {path: path.read_bytes() for path in namesakes.rglob("*") if path.is_file()}
    for name in ("bob/pets.yaml", str(namesakes / "bob/pets.yaml")):
        assert run(verb, name, *others) == 2
        told = (
            f"{name}: the results and tables of 'pets' belong to another suite of this file name, ann/pets.yaml; rename"
        )
        assert told in (message := capsys.readouterr().err) and message.count("\n") == 1
    assert {path: path.read_bytes() for path in namesakes.rglob("*") if path.is_file()} == before


def test_a_suite_is_known_again_by_any_path_and_after_the_project_has_moved(namesakes, monkeypatch):
    (namesakes / "link").symlink_to(namesakes / "ann", target_is_directory=True)
    names = ["./ann/pets.yaml", "bob/../ann/pets.yaml", str(namesakes / "ann/pets.yaml"), "link/pets.yaml"]
    names.append("../project/ann/pets.yaml")
    assert [run("table", name, "--partial") for name in names] == [0] * len(names)
    moved = namesakes.rename(namesakes.with_name("moved"))
    monkeypatch.chdir(moved)
    assert run("plan", "ann/pets.yaml") == run("plan", str(moved / "ann/pets.yaml")) == 0
    assert run("plan", "bob/pets.yaml") == 2


def test_a_suite_outside_the_project_has_its_results_too(namesakes):
    away = namesakes.with_name("away")
    (namesakes / "ann").rename(away)  # its file is gone from where it was, so the name is free
    assert run("table", "../away/pets.yaml", "--partial") == 0
    assert run("plan", str(away / "pets.yaml")) == 0
    assert run("plan", "bob/pets.yaml") == 2


def test_a_name_in_config_is_taken_before_anything_is_trained(tmp_path, monkeypatch, capsys):
    """Else somebody's copy of a suite would write over its committed reference."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/tiny.yaml").write_bytes(write_tiny(tmp_path).read_bytes())
    assert run("plan", "tiny") == 0
    assert run("plan", "mine/tiny.yaml") == 2
    assert "belong to another suite of this file name, config/tiny.yaml; rename" in capsys.readouterr().err


def test_hints_name_a_suite_as_it_can_be_typed(tmp_path, monkeypatch, capsys):
    """Each command that a sentence gives is found by the command line itself."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my suites").mkdir()
    name = "my suites/pets.yaml"
    write_tiny(tmp_path).rename(name)

    def hinted(*words):
        assert run(*words) == 2
        message = capsys.readouterr().err
        assert "'my suites/pets.yaml'" in message, message
        return message

    assert "run: kdbench data 'my suites/pets.yaml' digits" in hinted("distill", name, "cnn-t--vit-s")
    assert "run: kdbench data 'my suites/pets.yaml' digits" in hinted("plan", name, "--cost")
    assert "kdbench distill 'my suites/pets.yaml' cnn-t--vit-s" in (told := hinted("table", name))
    assert told.endswith("or: kdbench table 'my suites/pets.yaml' --partial\n")
    assert "--config suite='my suites/pets.yaml'" in hinted("show", name, "cnn-t--vit-s", "kd", "0")
    assert "kdbench reference 'my suites/pets.yaml'" in hinted("findings", name)
    assert "kdbench compare 'my suites/pets.yaml' B" in hinted("compare", name)
    assert run("data", name, "digits") == 0
    assert "run: kdbench teacher 'my suites/pets.yaml' cnn-t" in hinted("distill", name, "cnn-t--vit-s")
    for place, command in (("teachers/cnn-t", "teacher {} cnn-t"), ("runs/a--b/kd", "distill {} a--b")):
        damaged = tmp_path / f"results/pets/{place}/seed0.json"
        damaged.parent.mkdir(parents=True)
        damaged.write_text("{")
        with pytest.raises(KdbenchError, match="run: kdbench " + command.format("'my suites/pets.yaml'")):
            read_run(damaged.relative_to(tmp_path))


# --------------------------------------------------------------------------------------------- where the output goes


ENVIRONMENTS = [
    {"PYTHONIOENCODING": "latin-1"},
    *(
        pytest.param(environment, marks=pytest.mark.slow)
        for environment in (
            {"PYTHONIOENCODING": "ascii:strict"},
            {"PYTHONIOENCODING": "cp437"},
            {"LC_ALL": "C"},
            {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
        )
    ),
]


def shell(command, **environment):
    return subprocess.run(
        ["bash", "-c", command.replace("kdbench", f"{sys.executable} -m kdbench")],
        cwd=REPOSITORY,
        env={**os.environ, **environment},
        capture_output=True,
        timeout=120,
    )


@pytest.mark.parametrize("environment", ENVIRONMENTS, ids=lambda e: " ".join(f"{k}={v}" for k, v in e.items()))
def test_an_output_that_is_not_utf_8_shows_what_it_lacks_by_its_number(environment):
    done = shell("kdbench show methods && kdbench plan nosuch-†", **environment)
    assert done.returncode == 2 and b"Traceback" not in done.stderr and done.stderr.count(b"\n") == 1
    assert b"## UHKD\\u2020 (`uhkd`)" in done.stdout or "## UHKD† (`uhkd`)".encode() in done.stdout


def test_in_this_process_too(tmp_path):
    """Whatever a verb prints: the stream of the caller is made fit, not one that a test has replaced."""
    with (tmp_path / "out").open("w", encoding="ascii") as file, contextlib.redirect_stdout(file):
        assert run("show", "methods") == 0
    assert "UHKD\\u2020" in (tmp_path / "out").read_text()


@pytest.mark.parametrize(
    "command", [pytest.param("show methods", marks=pytest.mark.slow), "plan quick", "--help", "doctor"]
)
def test_a_reader_that_leaves_early_is_no_mistake(command):
    done = shell(f"set -o pipefail; (kdbench {command}; echo $? >&2) | true")
    assert done.stderr in (b"0\n", b"141\n"), done.stderr


def test_the_version_and_the_module():
    done = shell("kdbench --version")
    assert done.stdout.decode().split() == ["kdbench", kdbench.__version__] and done.returncode == 0
    assert shell("kdbench").stderr.startswith(b"usage: kdbench ")
