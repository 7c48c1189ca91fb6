"""Networks and recipes that do not fit their data are found when these are packed, before anything trains."""

from __future__ import annotations

import pytest
from conftest import TINY, run_jobs, tiny, tiny_plan

from kdbench.data.packed import load_packed
from kdbench.plan.jobs import make_plan
from kdbench.plan.suite import check_suite
from kdbench.run import fit
from kdbench.run.data import run_data
from kdbench.terminal import cost
from kdbench.types import KdbenchError

CNN = TINY["models"]["cnn-s"]["args"]
STUDENTS = {
    "a patch larger than the image": ({"timm": "deit_tiny_patch16_224", "args": {}}, "cnn-x"),
    "a class in the wrong case": ({"timm": "ResNet", "args": {**CNN, "block": "basicblock"}}, "'BasicBlock'"),
    "a class misspelt": ({"timm": "ResNet", "args": {**CNN, "block": "BasicBlok"}}, "'BasicBlock'"),
    "a stride that leaves nothing": ({"timm": "inception_v3", "family": "cnn", "args": {}}, "8x8"),
    "maps of one pixel in batches of one": ({"timm": "resnet18", "args": {}, "recipe": "single"}, "batches of 1"),
    "two heads of different widths": ({"timm": "crossvit_9_240", "family": "vit", "args": {}}, "crossvit_9_240"),
    "heads that do not divide": (
        {"timm": "VisionTransformer", "args": {"embed_dim": 18, "num_heads": 4, "patch_size": 2}},
        "num_heads",
    ),
}


def plan_with(student: dict, **changes):
    tree = tiny(**changes)
    tree["recipes"]["single"] = {"lr": 0.1, "steps": 1, "batch_size": 1}
    tree["models"]["cnn-x"] = {"data": "digits", "recipe": "student", **student}
    tree["blocks"]["main"]["pairs"] = ["cnn-t -> cnn-x"]
    return make_plan(check_suite(tree, "tiny", "tiny.yaml"))


@pytest.mark.parametrize("case", STUDENTS)
def test_a_network_that_cannot_be_trained_on_the_data_is_found_when_they_are_packed(case, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    student, told = STUDENTS[case]
    with pytest.raises(KdbenchError, match="cnn-x") as error:
        plan = plan_with(student)
        run_data(plan, plan.of("data")[0])
    assert told in str(error.value) and "\n" not in str(error.value)


def test_where_another_suite_packed_the_data_the_teacher_finds_it(trained):
    """Before its own first step."""
    plan = plan_with(STUDENTS["a class in the wrong case"][0], recipes__teacher__steps=1000000)
    with pytest.raises(KdbenchError, match="BasicBlock"):
        run_jobs(plan, "teacher")
    with pytest.raises(KdbenchError, match="BasicBlock"):
        cost.counted(plan)


def test_a_recipe_that_does_not_fit_its_pairs_data_is_found_when_they_are_packed(tmp_path, monkeypatch):
    """The student alone could be trained so; beside its teacher of another modality it cannot."""
    monkeypatch.chdir(tmp_path)
    glyphs = {"source": "glyphs", "size": 8, "points": 16, "classes": 4, "train": 40, "val": 8, "test": 8}
    tree = tiny(data={"glyphs": glyphs}, recipes__student__cutmix=1.0, recipes__student__batch_size=10)
    for model, modality in (("cnn-t", "outline"), ("cnn-s", "raster")):
        tree["models"][model] |= {"data": "glyphs", "input": modality}
    tree["recipes"]["teacher"]["batch_size"] = 10
    tree["models"] = {name: tree["models"][name] for name in ("cnn-t", "cnn-s")}
    tree["blocks"] = {"main": {"data": "glyphs", "pairs": ["cnn-t -> cnn-s"], "methods": ["kd"]}}
    plan = make_plan(check_suite(tree, "tiny", "tiny.yaml"))
    with pytest.raises(KdbenchError, match="cutmix is for images"):
        run_data(plan, plan.of("data")[0])


def test_a_batch_larger_than_a_training_set_is_found_when_that_is_packed(trained):
    """Most sources know their size from their files alone."""
    plan = tiny_plan()
    pack = load_packed(plan.of("data")[0].output.parent)
    pack.meta["counts"]["train"] = 99
    with pytest.raises(KdbenchError, match="a batch of 100 is larger than the training set of 99"):
        fit.check(plan, pack, fit.pairs_of(plan, "digits"))


def test_what_fits_passes_and_leaves_no_trace(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    plan = tiny_plan()
    run_data(plan, plan.of("data")[0])
    run_jobs(plan, "teacher")
    assert plan.of("teacher")[0].output.exists()
