"""Which results count today, with which reason the others do not, and that the disk is asked once."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from pathlib import Path

import pytest
import yaml
from conftest import TINY, tiny_plan
from fakes import block, fake_plan, finish, finish_all

from kdbench import cli
from kdbench.results import provenance, record, today
from kdbench.results.today import Stale, Today
from kdbench.run import training
from kdbench.run.training import unfinished
from kdbench.types import KdbenchError


@pytest.fixture
def plan(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    made = fake_plan()
    finish_all(made)
    return made


def edit(path: Path, *where: str, to) -> None:
    """Another value in a result, without the checksum that would notice."""
    tree = json.loads(path.read_text())
    node = tree
    for key in where[:-1]:
        node = node[key]
    node[where[-1]] = to
    tree.pop("file_sha256", None)
    path.write_text(json.dumps(tree))


@pytest.mark.parametrize(
    ("where", "to", "reason"),
    [
        (("key",), "0" * 64, "another config or version of the code"),
        (("hardware", "threads"), 2, "another config or version of the code"),
        (("hashes", "data"), "0" * 64, "other data"),
        (("hashes", "teacher"), "0" * 64, "another teacher"),
        (("tuned",), {"weight": 2.0}, "not the one that tuning chose"),
    ],
)
def test_what_was_made_of_something_else_is_stale(plan, where, to, reason):
    run = plan.runs()["cnn-t--vit-s", "kd", 1]
    assert Today(plan).record(run)["seed"] == 1
    edit(run.result, *where, to=to)
    with pytest.raises(Stale, match=reason):
        Today(plan).record(run)


def test_a_result_of_before_keys_went_by_version_is_named(plan):
    run = plan.runs()["cnn-t--vit-s", "kd", 1]
    edit(run.result, "key", to="0" * 64)
    edit(run.result, "config", to={"code_sha256": {}})
    with pytest.raises(Stale, match="before keys went by version"):
        Today(plan).record(run)


def test_damage_is_no_staleness(plan):
    """What is stale may be trained over; what is damaged is told."""
    run = plan.runs()["cnn-t--vit-s", "kd", 1]
    run.result.write_text("{")
    with pytest.raises(KdbenchError, match="is damaged") as told:
        Today(plan).record(run)
    assert not isinstance(told.value, Stale)
    run.result.unlink()
    with pytest.raises(Stale, match="not trained yet"):
        Today(plan).record(run)


def test_a_teacher_of_other_data_teaches_nobody(plan):
    teacher = plan.teacher("cnn-t", 0)
    edit(teacher.result, "hashes", "data", to="0" * 64)
    with pytest.raises(KdbenchError, match="teacher cnn-t of seed 0: its result comes from other data; run: "):
        Today(plan).teacher("cnn-t", 0)
    with pytest.raises(Stale, match="another teacher"):
        Today(plan).record(plan.runs()["cnn-t--vit-s", "kd", 0])


def test_weights_are_looked_at_only_where_they_matter(plan):
    run = plan.runs()["cnn-t--vit-s", "kd", 0]
    run.stem.with_suffix(".safetensors").write_bytes(b"other weights")
    assert Today(plan).record(run)
    with pytest.raises(Stale, match="missing or damaged"):
        Today(plan).record(run, weights=True)


@pytest.fixture
def asked(monkeypatch):
    """How often each file of results is read, and each file of weights hashed."""
    reads, hashes = Counter(), Counter()
    real_read, real_hash = record.read_json, today.sha256_file
    monkeypatch.setattr(record, "read_json", lambda path, *keys: (reads.update([path]), real_read(path, *keys))[1])
    monkeypatch.setattr(today, "sha256_file", lambda path: (hashes.update([path]), real_hash(path))[1])
    return reads, hashes


@pytest.mark.parametrize("words", [["table", "--partial"], ["figure"], ["report"], ["show"], ["plan"], ["compare"]])
def test_a_verb_reads_each_result_once_and_hashes_each_teacher_once(plan, asked, words, monkeypatch):
    reads, hashes = asked
    suite = Path("config/tiny.yaml")
    suite.parent.mkdir()
    suite.write_text(yaml.safe_dump(TINY | {"seeds": [0, 1, 2], "blocks": {"main": block()}}, sort_keys=False))
    words = [words[0], "tiny", *words[1:]]
    if words[0] == "compare":
        words.append("tiny")
    cli.main(words)
    results = [run.result for job in plan.jobs for run in job.runs]
    assert set(reads) <= set(results) and len(reads) >= len(plan.runs())
    most = 2 if words[0] == "compare" else 1  # two suites, here the same one twice
    assert max(reads.values()) == most and max(hashes.values(), default=1) <= most


def test_a_training_job_opens_its_data_once(trained, monkeypatch):
    opened = []
    real = training.load_packed
    monkeypatch.setattr(training, "load_packed", lambda *a, **k: (opened.append(a), real(*a, **k))[1])
    plan = tiny_plan(blocks__main__methods=["kd"], recipes__student__steps=2)
    for again in (False, True):
        for job in plan.of("cohort"):
            training.run_training(plan, job, threads=1)
        assert len(opened) == len(plan.of("cohort")), "nothing to train, nothing to open" if again else ""


@pytest.mark.parametrize(
    ("theirs", "refused"), [("2.12.0+cpu", True), ("{here}+cu126", False), ("{here}", False), ("unknown", True)]
)
def test_a_pair_and_seed_is_trained_with_one_version_of_torch(plan, monkeypatch, theirs, refused):
    """Another build of the same version is the same version."""
    monkeypatch.setattr(Today, "data", lambda self, name, seed: "the data")
    weights = hashlib.sha256(b"weights").hexdigest()
    here = provenance.versions()
    versions = here | {"torch": theirs.format(here=here["torch"].partition("+")[0])}
    kd = plan.runs()["cnn-t--vit-s", "kd", 0]
    (job,) = (job for job in plan.of("cohort") if kd in job.runs)
    for run in (plan.teacher("cnn-t", 0), *job.runs):
        hashes = {"data": "the data", "teacher": run.pair.teacher and weights, "weights": weights}
        finish(run, 80.0, versions=versions, hashes=hashes)
    assert unfinished(Today(plan), job, [0]) == []
    kd.result.unlink()
    if refused:
        with pytest.raises(KdbenchError, match=r"cnn-t--vit-s seed 0 was trained with torch .*; install torch=="):
            unfinished(Today(plan), job, [0])
    else:
        assert [run.method.id for run in unfinished(Today(plan), job, [0])] == ["kd"]
