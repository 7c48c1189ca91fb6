"""What is frozen is read back to the last bit: tables, figures and pages of a suite whose runs are gone."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import REPOSITORY, run_jobs, tiny_plan, write_tiny

from kdbench import cli
from kdbench.data.packed import load_packed
from kdbench.files import write_json, write_text
from kdbench.plan.jobs import make_plan
from kdbench.plan.paths import data_folder, reference_folder
from kdbench.plan.suite import load_suite
from kdbench.report.block import reference_reports
from kdbench.results.frames import all_runs
from kdbench.results.reference import Reference, write_reference
from kdbench.results.today import Today
from kdbench.run.measure import run_similarity
from kdbench.types import KdbenchError

BLOCK = {"data": "digits", "pairs": ["cnn-t -> vit-s"], "methods": ["scratch", "kd"]}
TWO_BLOCKS = {"main": {**BLOCK, "table": {"also": ["agreement", "ece"]}}, "one": {**BLOCK, "seeds": [0]}}


def files(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def frozen(trained, capsys):
    """A finished suite, one of its blocks of one seed, and its reference."""
    write_tiny(trained, blocks=TWO_BLOCKS)
    plan = make_plan(load_suite("tiny"))
    run_jobs(plan, "cohort")
    for job in plan.of("stages"):
        run_similarity(plan, job)
    assert cli.main(["reference", "tiny"]) == 0
    capsys.readouterr()
    return plan


@pytest.mark.slow
def test_tables_figures_and_page_come_back_from_the_reference_alone(frozen, capsys):
    folder = reference_folder(frozen.suite)
    labels = load_packed(data_folder(frozen.suite, "digits", 0)).labels("test")
    logits = np.load(frozen.runs()["cnn-t--vit-s", "kd", 0].stem.with_suffix(".npz"))["test_logits"]
    tables, figures = files(Path("tables/reference")), files(Path("results/tiny/figures"))
    shutil.rmtree("results/tiny")
    shutil.rmtree("results/data")
    shutil.rmtree("tables")
    for words in (["table"], ["figure"], ["report"]):
        assert cli.main([*words, "tiny", "--reference"]) == 0
    assert capsys.readouterr().err == ""
    assert files(Path("tables/reference")) == tables and "calibration" in tables[Path("tiny.md")].decode()
    drawn = files(Path("results/tiny/reference-figures"))
    assert drawn == figures and {"main-stages.svg", "main-spectra.svg"} <= {path.name for path in drawn}
    page = Path("results/tiny/reference.html").read_text()
    assert "nearest neighbour" in page and "csv alone" not in page and "data:image/png" in page
    right = Reference(frozen.suite).correct(frozen.suite.blocks[1])["cnn-t--vit-s", "kd"]
    assert np.array_equal(right, logits.argmax(axis=1) == labels)

    for name in ("correct.npz", "similarity.csv"):
        path = folder / name
        whole = path.read_bytes()
        for left in (whole[:-1], None):
            path.write_bytes(left) if left else path.unlink()
            assert cli.main(["figure", "tiny", "--reference"]) == 2
            assert f"{path} is missing or is not the one that about.json" in capsys.readouterr().err
        path.write_bytes(whole)
    for path in folder.iterdir():
        if path.name != "runs.csv" and path.is_file():
            path.unlink()
    assert cli.main(["report", "tiny", "--reference"]) == 0
    page = Path("results/tiny/reference.html").read_text()
    assert "similarities and intervals over test samples are left out" in page and "nearest neighbour" not in page


def test_what_was_measured_is_read_back_as_it_was_written(tmp_path, monkeypatch):
    """Of a suite with two modalities: numbers, lists, reasons and what is absent."""
    suite = load_suite(str(REPOSITORY / "config/quick.yaml"))
    monkeypatch.chdir(tmp_path)
    plan, random, written = make_plan(suite), np.random.default_rng(0), {}
    for job in (job for kind in ("stages", "channels") for job in plan.of(kind)):
        rows = [
            {"seed": 0, "method": "kd", "stage": 1, "band": "low", "cka": random.normal(), "reason": None},
            {"seed": 1, "method": "kd", "stage": 2, "band": "low", "cka": None, "reason": 'n/a, said "so"\nhere'},
        ]
        head = {"kind": job.kind, "block": job.block, "pair": job.pair.id, "a": job.pair.teacher, "b": job.pair.student}
        document = {**head, "rows": rows}
        if job.kind == "stages":
            power = [None, *random.random(3).tolist()]
            document["spectra"] = [{"seed": 0, "role": "teacher", "method": None, "power": power, "white": [1 / 3]}]
            document["ceiling"] = [{"seeds": [0, 1], "stage": 1, "band": "low", "cka": 1 / 7, "reason": None}]
        else:
            document["after"] = rows[:1]
            document["others"] = [{"seed": 0, "networks": "a and b untrained", "band": "low", "cosine": 0.25}]
            document["rotated"] = [{"seed": 0, "band": "low - high", "cosine": -0.1, "split_low": None}]
            document["cka"] = rows[1:]
            document["channel_mean"] = [{"seed": 0, "feature": "after", "share_a": 0.1, "share_b": 2 / 3}]
        write_json(job.output, document)
        written.setdefault((job.block, job.kind), []).append(document)
    write_reference(Today(plan), all_runs(Today(plan)).assign(test=None), {"blocks": {}, "made_with": {}})
    reference = Reference(suite)
    for block in suite.blocks:
        for kind in ("stages", "channels"):
            assert reference.documents(block, kind) == written.get((block.name, kind), [])
    assert {kind for _, kind in written} == {"stages", "channels"}


def test_an_older_reference_says_what_it_has(tmp_path, monkeypatch):
    """One of runs.csv and tuned.json alone."""
    monkeypatch.chdir(REPOSITORY)
    suite = load_suite("tuned")
    for file in ("runs.csv", "tuned.json"):
        write_text(tmp_path / reference_folder(suite) / file, (reference_folder(suite) / file).read_text())
    monkeypatch.chdir(tmp_path)
    reference = Reference(suite)
    report = reference_reports(reference)[0]
    assert "runs.csv alone" in reference.left_out and len(report.curves) == len(report.stages) == 0
    assert {choice["method"] for choice in report.tuned} >= {"kd"} and report.made_with["date"]
    assert set(report.frame["status"]) == {"finished"} and report.frame["val"].dtype == float


def test_a_reference_that_is_not_there_or_not_of_the_suite_is_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(KdbenchError, match=r"results/reference/tiny/runs.csv does not exist; make it first"):
        Reference(tiny_plan().suite)
    runs = all_runs(Today(tiny_plan())).assign(test=None)
    path = reference_folder(tiny_plan().suite) / "runs.csv"
    path.parent.mkdir(parents=True)
    for changes, told in (
        ({"gradient_shares": "{"}, "runs.csv is damaged: column gradient_shares"),
        ({"val": "much"}, "runs.csv is damaged: column val"),
    ):
        runs.assign(**changes).to_csv(path, index=False)
        with pytest.raises(KdbenchError, match=told):
            Reference(tiny_plan().suite).frame(tiny_plan().suite.blocks[0])
    runs.to_csv(path, index=False)
    suite = tiny_plan(seeds=[0, 1, 2]).suite
    with pytest.raises(KdbenchError, match=r"no cnn-t--vit-s/scratch seed 2 of block main.*another version"):
        Reference(suite).frame(suite.blocks[0])
