"""Teachers as files of a repository: taken from there, students are bit for bit what they are with one's own."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from conftest import REPOSITORY, run_jobs, write_tiny
from safetensors.torch import load_file, save_file
from test_untrusted import Bomb
from test_workflow import job_counts, snakemake

from kdbench import cli
from kdbench.files import read_json, sha256_file, write_json
from kdbench.plan import keys
from kdbench.plan.jobs import make_plan
from kdbench.plan.suite import load_suite
from kdbench.results.frames import predictions
from kdbench.results.record import read_run
from kdbench.results.today import Today
from kdbench.run import teachers
from kdbench.run.training import unfinished

FOLDER = Path("results/reference/tiny/teachers")
SHORT = {"blocks__main__methods": ["kd"], "recipes__student__steps": 2}


@pytest.fixture
def plan(trained):
    write_tiny(trained, **SHORT)
    return make_plan(load_suite("tiny"))


@pytest.fixture
def released(plan):
    """The tiny suite's teachers as files, and nowhere else."""
    assert cli.main(["teachers", "export", "tiny"]) == 0
    shutil.rmtree("results/tiny")
    return plan


def students(plan):
    run_jobs(plan, "cohort")
    return [read_run(run.result)["hashes"]["weights"] for job in plan.of("cohort") for run in job.runs]


def test_students_of_imported_teachers_are_equal_bit_for_bit(plan, capsys):
    own = students(plan)
    classes = predictions(plan.teacher("cnn-t", 0), 540).classes
    assert cli.main(["teachers", "export", "tiny"]) == 0
    names = {f"cnn-t-seed{seed}.{suffix}" for seed in (0, 1) for suffix in ("json", "npz", "safetensors")}
    assert {path.name for path in FOLDER.iterdir()} == names
    shutil.rmtree("results/tiny")
    shutil.rmtree("results/data")
    capsys.readouterr()

    assert cli.main(["teachers", "import", "tiny"]) == 0
    assert "2 teachers taken from results/reference/tiny/teachers, 0 were there already" in capsys.readouterr().err
    today = Today(plan)
    for job in plan.of("teacher"):
        assert unfinished(today, job) == [] and job.output.exists(), "there is nothing left to train"
    assert (predictions(plan.teacher("cnn-t", 0), 540).classes == classes).all()
    assert students(plan) == own


def test_only_some_seeds_and_nothing_written_over(plan, capsys):
    assert cli.main(["teachers", "export", "tiny", "elsewhere", "--seeds", "1"]) == 0
    assert {path.stem for path in Path("elsewhere").iterdir()} == {"cnn-t-seed1"}
    before = {path: path.stat().st_mtime_ns for path in Path("results/tiny/teachers").rglob("*.*")}
    assert cli.main(["teachers", "import", "tiny", "elsewhere"]) == 0
    assert "0 teachers taken from elsewhere, 1 were there already" in capsys.readouterr().err
    assert {path: path.stat().st_mtime_ns for path in Path("results/tiny/teachers").rglob("*.*")} == before
    assert cli.main(["teachers", "export", "tiny", "--seeds", "5"]) == 2
    assert "unknown seed '5'; known: 0, 1" in capsys.readouterr().err


def test_a_large_teacher_is_not_for_a_repository(plan, monkeypatch, capsys):
    monkeypatch.setattr(teachers, "LIMIT", 30_000)
    assert cli.main(["teachers", "export", "tiny"]) == 2
    assert (
        "below 0.03 MB: cnn-t-seed0 (0.1 MB), cnn-t-seed1 (0.1 MB); cut" in capsys.readouterr().err
        and not FOLDER.exists()
    )


@pytest.mark.slow
def test_snakemake_plans_no_teacher_job(released):
    assert "teacher" in job_counts(snakemake(Path(), "-n", "--config", "suite=tiny"))
    assert cli.main(["teachers", "import", "tiny"]) == 0
    counts = job_counts(snakemake(Path(), "-n", "--config", "suite=tiny"))
    assert "teacher" not in counts and "data" not in counts and counts["cohort"]


# ------------------------------------------------------------------------------------------------------ the wrong file


def forged(**changes):
    """The record of seed 0 with other contents, its own checksum right."""
    record = read_json(FOLDER / "cnn-t-seed0.json")
    write_json(FOLDER / "cnn-t-seed0.json", record | changes)


def other_weights(change):
    """Weights of seed 0 that are other tensors, their checksum in the record."""
    weights = FOLDER / "cnn-t-seed0.safetensors"
    save_file(change(load_file(weights)), weights)
    forged(hashes=read_json(FOLDER / "cnn-t-seed0.json")["hashes"] | {"weights": sha256_file(weights)})


def flipped():
    content = bytearray((FOLDER / "cnn-t-seed0.safetensors").read_bytes())
    content[-1] ^= 1
    (FOLDER / "cnn-t-seed0.safetensors").write_bytes(content)


def other_data():
    forged(hashes=read_json(FOLDER / "cnn-t-seed0.json")["hashes"] | {"data": "0"})


def cut():
    (FOLDER / "cnn-t-seed0.json").write_bytes((FOLDER / "cnn-t-seed0.json").read_bytes()[:200])


WRONG = {
    "other bytes": (flipped, "its weights have the sha256"),
    "a pickle": (lambda: torch.save(Bomb(), FOLDER / "cnn-t-seed0.safetensors"), "its weights are no safetensors"),
    "a tensor more": (lambda: other_weights(lambda w: w | {"extra": torch.zeros(1)}), "do not fit the model cnn-t"),
    "another shape": (
        lambda: other_weights(lambda w: w | {"fc.weight": torch.zeros(3, 16)}),
        "the stored weights do not fit the model cnn-t",
    ),
    "no weights": (lambda: (FOLDER / "cnn-t-seed0.safetensors").unlink(), "cannot be read: No such file"),
    "a cut record": (cut, "is damaged"),
    "a record of something else": (lambda: write_json(FOLDER / "cnn-t-seed0.json", {}), "no result of this version"),
    "other data": (other_data, "it was trained on other data than digits gives here"),
    "another key": (lambda: forged(key="0"), "it is of another config (its key)"),
    "another config": (lambda: write_tiny(Path(), **SHORT, recipes__teacher__lr=1e-3), "another config (recipe.lr)"),
    "another edition": (
        lambda: write_tiny(Path(), **SHORT, edition=2),
        "of edition 1 of the suite, and here is edition 2",
    ),
    "another teacher": (
        lambda: [path.rename(path.with_name(f"cnn-x-seed0{path.suffix}")) for path in FOLDER.glob("*seed0.*")],
        "unknown teacher 'cnn-x-seed0'; did you mean 'cnn-t-seed0'?",
    ),
}


ON_EVERY_RUN = ("other bytes", "a pickle", "another shape", "another config", "another edition")


@pytest.mark.parametrize(
    "what", [pytest.param(what, marks=() if what in ON_EVERY_RUN else pytest.mark.slow) for what in WRONG]
)
def test_a_wrong_file_is_refused_in_a_sentence_and_nothing_is_kept(released, what, capsys):
    change, sentence = WRONG[what]
    change()
    assert cli.main(["teachers", "import", "tiny"]) == 2
    told = capsys.readouterr().err
    assert sentence in told and "-seed0: " in told and "Traceback" not in told
    assert not Path("results/tiny/teachers/cnn-t/seed0.json").exists() and not Path("fired").exists()


def test_another_version_of_the_code_is_refused(released, monkeypatch, capsys):
    parts = keys.versions()
    monkeypatch.setattr(keys, "versions", lambda: parts | {"engine": parts["engine"] | {"version": 99}})
    assert cli.main(["teachers", "import", "tiny"]) == 2
    told = capsys.readouterr().err
    assert told.count("it was trained by another version of the code (engine)") == 2
    assert "0 teachers taken" in told and not Path("results/tiny/teachers").exists()


def test_a_stale_teacher_is_not_written_over(released, capsys):
    stale = Path("results/tiny/teachers/cnn-t/seed0.json")
    shutil.copytree(FOLDER, stale.parent)
    shutil.copy(FOLDER / "cnn-t-seed1.json", stale)
    before = stale.read_bytes()
    assert cli.main(["teachers", "import", "tiny"]) == 2
    told = capsys.readouterr().err
    assert (
        "is there, does not count today, and is not written over; delete it first" in told
        and "1 teachers taken" in told
    )
    assert stale.read_bytes() == before


def test_an_empty_folder_is_told(plan, capsys):
    assert cli.main(["teachers", "import", "tiny", "nowhere"]) == 2
    assert "nowhere holds no teachers; write them: kdbench teachers export tiny nowhere" in capsys.readouterr().err


def test_the_teachers_of_this_repository_are_those_of_its_suites(monkeypatch):
    """Weights and key of each are those of its record today; their data are packed where somebody imports them."""
    folders = sorted((REPOSITORY / "results/reference").glob("*/teachers"))
    assert folders
    monkeypatch.chdir(REPOSITORY)
    for folder in folders:
        planned = teachers.planned_teachers(make_plan(load_suite(folder.parent.name)))
        for path in folder.glob("*.json"):
            record = read_json(path)
            assert record["key"] == planned[path.stem].key
            assert record["hashes"]["weights"] == sha256_file(path.with_suffix(".safetensors"))
