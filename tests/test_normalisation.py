"""By whose mean and deviation a network reads pixels: its own or the data's, from one batch."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from conftest import tiny_plan
from golden import Noise

from kdbench.plan.jobs import make_plan
from kdbench.plan.suite import load_suite
from kdbench.signals import read_logits
from kdbench.train import networks
from kdbench.train.batches import Batches
from kdbench.train.cohort import Cohort, load_teacher
from kdbench.types import KdbenchError, ModelSpec, Recipe

CPU = torch.device("cpu")
IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
ERASING = Recipe("r", lr=0.1, steps=1, batch_size=8, erasing=1.0, mixup=0.8)
OWN = ModelSpec("own", "test_resnet", "d", "r", family="cnn", normalisation="timm")
"""Which timm has with 0.5 in all."""
PLAIN = dataclasses.replace(OWN, name="plain", normalisation="data")


def pixels(batches: Batches, normalised: torch.Tensor) -> torch.Tensor:
    """In 0..1, where nothing was erased."""
    facts = batches._facts["image"]
    return normalised * torch.tensor(facts["std"]).view(3, 1, 1) + torch.tensor(facts["mean"]).view(3, 1, 1)


@pytest.mark.parametrize(("teacher", "student"), [(OWN, PLAIN), (PLAIN, OWN), (OWN, OWN), (PLAIN, PLAIN)])
def test_each_network_of_a_pair_reads_one_batch_in_its_own_way(teacher, student):
    batches = Batches(Noise(), {"image"}, CPU)
    whole, _ = batches.train(torch.arange(8), ERASING, 0, 0)
    seen = {"data": whole["image"], "timm": (pixels(batches, whole["image"]) - 0.5) / 0.5}
    shown = load_teacher(teacher, None, batches, CPU, 1)
    batch = Cohort(student, ERASING, batches, CPU, 0, shown, untrained=shown).batch(torch.arange(8), 0)
    for found, spec in ((batch.teacher, teacher), (batch.untrained, teacher), (batch, student)):
        x = found.inputs["image"] if found is batch else found.inputs
        assert torch.allclose(x, seen[spec.normalisation], atol=1e-5)


def test_they_are_evaluated_in_the_same_way():
    pack = Noise()
    batches = Batches(pack, {"image"}, CPU)
    own = load_teacher(OWN, None, batches, CPU, 1)
    x = (torch.from_numpy(pack.arrays["test"]).permute(0, 3, 1, 2) / 255 - 0.5) / 0.5
    with torch.no_grad():
        wanted = read_logits(own.reader.model, x)
    as_teacher, as_student = Cohort(PLAIN, None, batches, CPU, 0, own), Cohort(OWN, None, batches, CPU, 0)
    assert torch.allclose(as_teacher.teacher_logits("test"), wanted, atol=1e-4)
    [logits] = as_student.logits([own.reader.model.eval()], "test")
    assert torch.allclose(logits, wanted, atol=1e-4)
    [first] = as_teacher.teacher_pass(own)
    assert torch.allclose(first.inputs, (pixels(batches, next(batches.evaluation("image", "train"))) - 0.5) / 0.5)


def test_the_networks_of_ofas_tables():
    """OFA's loaders take the constants of the student, and on CIFAR-100 those of the data."""
    views = {name: networks.view(model) for name, model in load_suite("ofa-imagenet").models.items()}
    wanted = dict.fromkeys(views, IMAGENET) | {"mixer-b16": ((0.5,) * 3, (0.5,) * 3)}
    assert {name: (view.mean, view.std) for name, view in views.items()} == wanted
    assert {networks.view(model).mean for model in load_suite("ofa-cifar100").models.values()} == {None}


def test_it_is_part_of_a_key_where_it_is_not_the_datas():
    def keys(model: str, normalisation: str) -> set[str]:
        plan = tiny_plan(**{f"models__{model}__normalisation": normalisation, "blocks__main__methods": ["kd"]})
        return {run.key for run in plan.runs().values()}

    plain = keys("vit-s", "data")
    assert plain == {run.key for run in tiny_plan(blocks__main__methods=["kd"]).runs().values()}
    assert not plain & keys("vit-s", "timm") and not plain & keys("cnn-t", "timm")
    runs = make_plan(load_suite("ofa-imagenet")).runs().values()
    assert all("normalisation" in run.config["versions"] for run in runs)


def test_constants_for_colours_are_refused_where_there_are_none():
    with pytest.raises(
        KdbenchError, match=r"models\.own: timm's normalisation is for 3 channels, .* have 1; write norm"
    ):
        networks.try_out(OWN, (64, 64, 1), 10, 8)
