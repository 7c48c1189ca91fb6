"""A training set of its own for every seed: whose data are whose, in the plan, in training and on the page."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import pytest
from conftest import TINY, run_jobs, tiny_plan, write_tiny
from fakes import finish

from kdbench import cli
from kdbench.data.packed import load_packed
from kdbench.data.sources import glyphs
from kdbench.plan.paths import data_folder
from kdbench.report.block import block_reports
from kdbench.report.page import markdown
from kdbench.report.tables import describe
from kdbench.results import reference
from kdbench.results.record import read_run
from kdbench.results.today import Stale, Today
from kdbench.run import measure
from kdbench.run.data import run_data
from kdbench.run.training import unfinished
from kdbench.terminal import cost
from kdbench.types import KdbenchError

GLYPHS = {"source": "glyphs", "size": 8, "points": 8, "classes": 2, "train": 100, "val": 20, "test": 200}
SIMPLE = {"timm": "MlpMixer", "data": "glyphs", "input": "raster", "args": {"patch_size": 2, "embed_dim": 4}}
SIMPLE["args"] |= {"num_blocks": 4}


def changes(**of_data):
    """A tiny suite on two classes of small characters."""
    return {
        "data": {"glyphs": GLYPHS | of_data},
        "recipes": {"teacher": {"lr": 5e-3, "steps": 3, "batch_size": 50}, "student": TINY["recipes"]["student"]},
        "models": {"t": SIMPLE | {"recipe": "teacher"}, "s": SIMPLE | {"recipe": "student"}},
        "blocks": {"main": {"data": "glyphs", "pairs": ["t -> s"], "methods": ["scratch", "kd"]}},
    }


def draws_plan(**more):
    return tiny_plan(**changes(draw="seed") | more)


def all_runs(plan):
    return {(job.id, run.method.id, run.seed): run for job in plan.jobs for run in job.runs}


def test_every_seed_has_data_and_a_teacher_of_its_own():
    plan = draws_plan()
    folders = [data_folder(plan.suite, "glyphs", seed) for seed in (0, 1)]
    assert [job.output for job in plan.of("data")] == [folder / "meta.json" for folder in folders]
    for job in (job for kind in ("teacher", "cohort") for job in plan.of(kind)):
        assert [path for path in job.inputs if path.name == "meta.json"] == [folders[job.runs[0].seed] / "meta.json"]
    both = draws_plan(seeds_per_job=2).of("teacher")[0]
    assert list(both.inputs) == [folder / "meta.json" for folder in folders]


def test_a_seed_is_a_result_of_its_draw_whoever_names_it():
    drawn, plain, one = (all_runs(tiny_plan(**changes(**data))) for data in ({"draw": "seed"}, {}, {"draw": 1}))
    for place, run in drawn.items():
        seed = place[-1]
        assert run.key == (plain if seed == 0 else one)[place].key
        assert run.config["data"]["args"].get("draw", 0) == seed
    assert {run.seed for run in plain.values()} == {0, 1}
    assert all(run.key != one[place].key for place, run in plain.items())


def test_the_tuning_reads_the_draw_of_its_seed():
    plan = draws_plan(tune={"seed": 9, "pairs": ["t -> s"], "factors": [0.5, 1]})
    assert [job.seed for job in plan.of("data")] == [0, 1, 9]
    tried = plan.job("cohort", "t--s/seeds-9.tune")
    assert data_folder(plan.suite, "glyphs", 9) / "meta.json" in tried.inputs
    assert {run.config["data"]["args"]["draw"] for run in tried.runs} == {9}


@pytest.mark.parametrize("draw", ["seed", 3])
def test_a_source_that_cannot_draw_is_refused(draw):
    with pytest.raises(KdbenchError) as error:
        tiny_plan(data={"digits": {"source": "digits", "size": 8, "draw": draw}})
    told = "data.digits.draw: the source 'digits' has one training set only; one that can draw: "
    assert told + "avdigits, ave, cremad, glyphs" in str(error.value)


@pytest.mark.parametrize("draw", ["seeds", True, 0.5])
def test_what_is_no_draw_is_refused(draw):
    with pytest.raises(KdbenchError, match=r"data.glyphs.draw: expected int"):
        draws_plan(data={"glyphs": GLYPHS | {"draw": draw}})


@pytest.fixture
def packed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_tiny(tmp_path, **changes(draw="seed"))
    assert cli.main(["data", "tiny", "glyphs"]) == 0
    return draws_plan()


def test_one_verb_packs_all_draws_and_a_job_packs_its_own(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_tiny(tmp_path, **changes(draw="seed"))
    first, second = draws_plan().of("data")
    assert cli.main(["plan", "tiny", "--cost"]) == 2
    assert capsys.readouterr().err.count("kdbench data tiny glyphs") == 1
    assert cli.main(["data", "tiny", "glyphs", "--job", second.id]) == 0
    assert second.output.exists() and not first.output.exists()
    with pytest.raises(KdbenchError, match=r"data set 'glyphs' is not packed yet; run: kdbench data tiny glyphs"):
        unfinished(Today(draws_plan()), draws_plan().of("teacher")[0])
    assert cli.main(["data", "tiny", "glyphs"]) == 0
    a, b = (load_packed(job.output.parent) for job in (first, second))
    assert not np.array_equal(a.array("raster", "train"), b.array("raster", "train"))
    assert np.array_equal(a.array("raster", "test"), b.array("raster", "test"))
    assert len(cost.counted(draws_plan())) == 3


def test_each_seed_is_trained_and_measured_with_its_own_data(packed):
    for kind in ("teacher", "cohort"):
        run_jobs(packed, kind)
    sums = {job.seed: json.loads(job.output.read_text(encoding="utf-8"))["sha256"] for job in packed.of("data")}
    for (_, _, seed), run in all_runs(packed).items():
        assert read_run(run.result)["hashes"]["data"] == sums[seed]
    assert sums[0] != sums[1]
    job = packed.of("stages")[0]
    ours, theirs = (measure._batches(packed, job, seed) for seed in (0, 1))
    means = [load_packed(j.output.parent).meta["modalities"]["raster"]["mean"] for j in packed.of("data")]
    assert means[0] != means[1]
    shown = [next(iter(b.evaluation("raster", "test", batch_size=5, limit=5))).mean().item() for b in (ours, theirs)]
    assert shown[0] != shown[1], "the same pictures, each normalised as its seed's networks know it"

    (report,) = block_reports(Today(packed))
    told = "Every seed has training and validation samples of its own; what is said of these is of seed 0."
    assert told in markdown(describe(packed.suite, [report]))
    # Trained with the data of another seed, a run does not count.
    swapped = packed.teacher("t", 1)
    finish(swapped, 97.0, hashes={"data": sums[0], "weights": None})
    with pytest.raises(Stale, match="other data"):
        Today(packed).record(swapped)


def test_a_seed_with_a_test_set_of_its_own_is_held_to_that(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    real = glyphs.build
    monkeypatch.setattr(glyphs, "build", lambda *, draw=0, **args: real(**args, seed=draw))
    plan = draws_plan(blocks__main__table={"also": ["groups"]}, data={"glyphs": GLYPHS | {"test": 20, "draw": "seed"}})
    for job in plan.of("data"):
        run_data(plan, job)
    packs = {job.seed: load_packed(job.output.parent) for job in plan.of("data")}
    labels = {seed: pack.labels("test") for seed, pack in packs.items()}
    assert not np.array_equal(labels[0], labels[1])
    weights = hashlib.sha256(b"weights").hexdigest()
    for run in all_runs(plan).values():
        hashes = {"data": packs[run.seed].meta["sha256"], "teacher": weights if run.pair.teacher else None}
        finish(run, 100.0, hashes=hashes | {"weights": weights})
        np.savez(run.stem.with_suffix(".npz"), test_logits=np.eye(2, dtype=np.float16)[labels[run.seed]])

    today = Today(plan)
    (report,) = block_reports(today)
    assert [set(found.values()) for found in report.frame["test_by_group"]] == [{100.0}] * 4
    assert report.groups["sizes"] == {**packs[0].groups().sizes, **packs[1].groups().sizes}
    assert (report.frame["agreement_right"] == 100).all()
    assert all(right.all() for _, right in reference.correct(today))
