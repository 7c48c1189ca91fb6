"""Everything that a GPU is to do is done on a device that there is not: nothing lies on the CPU, no step waits.

The methods that tests/test_conformance.py plants keep the rules; those planted here break them on a GPU only.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

import pytest
import torch
from conftest import run_jobs, tiny_plan
from test_augment import EVERYTHING, TIMMS
from torch import nn

import kdbench.torchvision_ops  # noqa: F401
from kdbench import cli, similarity
from kdbench.conformance import check, rehearsal, rehearse
from kdbench.conformance import rules as conformance
from kdbench.conformance.networks import ALL_PAIRS, RECIPE
from kdbench.conformance.rehearsal import LeftOnCpu, Waits, on_device, why_not, without_waiting
from kdbench.data.packed import load_packed
from kdbench.methods.base import Distiller, cross_entropy
from kdbench.methods.kd import kd_loss
from kdbench.plan.registry import method_names
from kdbench.results.record import read_run
from kdbench.run import training
from kdbench.train import engine
from kdbench.train.batches import Batches
from kdbench.types import Recipe

# isort: split
import timm.models  # noqa: F401  (once, not in every child)

pytestmark = pytest.mark.skipif(bool(why_not()), reason=str(why_not()))

TITLE = "planted"
GROUP = "logits"

NARROW = {"pat": {"width": 32}, "crd": {"width": 16}}
"""Widths have no part in this, but take time."""


# ------------------------------------------------------------------------------------------------------------- methods


@pytest.mark.parametrize(
    "method", [m if m == "kd" else pytest.param(m, marks=pytest.mark.slow) for m in method_names()]
)
def test_every_method_on_every_pair_of_families(method):
    assert rehearse(method, NARROW.get(method)) == []


SETTINGS = [
    ("c2kd", {"masking": "minus_1000", "stage": 4}),
    ("fdcmkd", {"split": "permuted"}),
    ("fdcmkd", {"split": "random", "low_distance": "logmse"}),
    ("fdcmkd", {"teacher": False, "variant": "paper"}),
    ("mfh", {"mask": "fixed_half", "removed": "mean"}),
    ("pat", {"variant": "mended", "width": 32}),
    ("pkd", {"feature": "map"}),
    *(("uhkd", {"control": f"C{i}"}) for i in range(7)),
    ("uhkd", {"compact": "pool", "representation": "complex", "normalisation": "layer", "transform": "rfft2"}),
    ("uhkd", {"fam": "spectrum", "tokens": "sequence"}),
    ("uhkd", {"ftm": "batch_norm", "normalisation": "layer", "levels": "all_to_all"}),
    ("uhkd", {"normalisation": "channel"}),
    ("uhkd", {"refine": "gaussian"}),
    ("uhkd", {"refine": "gaussian", "transform": "rfft2", "compact": "full"}),
]


FIRST = dict(reversed(SETTINGS))
"""Of each method; the others are slow tests."""


@pytest.mark.parametrize(
    ("method", "params"),
    [pytest.param(m, p, marks=() if p == FIRST[m] else pytest.mark.slow, id=f"{m}-{p}") for m, p in SETTINGS],
)
def test_settings_that_compute_otherwise(method, params):
    assert rehearse(method, params, ALL_PAIRS[:1]) == []


@pytest.mark.parametrize("method", ["kd", "pat"])
def test_sgd(method):
    """PAT's prompts get their first gradient after all others."""
    assert rehearse(method, NARROW.get(method), ALL_PAIRS[:1], dataclasses.replace(RECIPE, optimizer="sgd")) == []


# ------------------------------------------------------------------------------------------------------------- planted


@dataclass(frozen=True)
class Params:
    weight: float = 1.0
    """One."""


class Good(Distiller):
    """A method to spoil."""

    Params = Params

    def forward(self, student, teacher, target, progress):
        return {
            "ce": cross_entropy(student.logits, target),
            "good": self.factor(student, teacher) * kd_loss(student.logits, teacher.logits, 1.0),
        }

    def factor(self, student, teacher):
        return 1.0


class KeepsAPlainTensor(Good):
    def __init__(self, params, pair):
        super().__init__(params, pair)
        self.weights = torch.ones(pair.classes)

    def factor(self, student, teacher):
        return (student.logits.float() * self.weights).mean().square()


class StacksOne(Good):
    def factor(self, student, teacher):
        return torch.stack([student.logits.float().mean(), torch.tensor(1.0)]).sum()


class AsksForANumber(Good):
    def factor(self, student, teacher):
        return 1 + abs(student.logits.mean().item())


class Decides(Good):
    def factor(self, student, teacher):
        return 2.0 if (teacher.logits > 0).any() else 1.0


class ChoosesSamples(Good):
    def factor(self, student, teacher):
        logits = student.logits.float()
        return logits[logits > logits.mean()].mean()


class CountsClasses(Good):
    def factor(self, student, teacher):
        return teacher.logits.argmax(1).unique().numel()


class IndexesFromTheCpu(Good):
    def factor(self, student, teacher):
        return student.logits.float()[torch.arange(2)].mean()


class MakesItAnew(Good):
    def factor(self, student, teacher):
        return torch.tensor([1.0], device=student.logits.device).sum()


class ComputesOnTheCpu(Good):
    def factor(self, student, teacher):
        return 1 + student.logits.float().cpu().softmax(1).max().to(student.logits.device)


class HasItsOwnError(Good):
    def factor(self, student, teacher):
        return 1.0 if student.logits.device.type == "cpu" else {}["no such device"]


class _AsksGoingBack(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        return gradient * math.copysign(1, gradient.sum().item())


class AsksGoingBack(Good):
    def factor(self, student, teacher):
        return _AsksGoingBack.apply(student.logits.float().mean())


FAILS, IS_SLOW = "on a GPU it would fail: ", "on a GPU it would wait at every step: "
PLANTED = {
    KeepsAPlainTensor: FAILS + "aten.mul gets a tensor of shape [3] that lies on the CPU (line ",
    StacksOne: FAILS + "aten.stack gets a tensor of shape [] that lies on the CPU (line ",
    HasItsOwnError: FAILS + "KeyError: 'no such device' (line ",
    AsksForANumber: IS_SLOW + "a number asked for",
    Decides: IS_SLOW + "a number asked for",
    ChoosesSamples: IS_SLOW + "a boolean index; use torch.where (line ",
    CountsClasses: IS_SLOW + "aten._unique2, whose shape depends on numbers (line ",
    IndexesFromTheCpu: IS_SLOW + "an index that lies on the CPU; make it on the device (line ",
    MakesItAnew: IS_SLOW + "a copy from the CPU",
    ComputesOnTheCpu: IS_SLOW + "a copy to the CPU",
    AsksGoingBack: IS_SLOW + "a number asked for",
}


@pytest.mark.parametrize("method", [Good, *PLANTED], ids=lambda m: m.__name__)
def test_what_goes_wrong_on_a_gpu_only_is_found(method):
    assert check(method, pairs=ALL_PAIRS[:1], thorough=False) == []
    findings = rehearse(method, pairs=ALL_PAIRS[:1])
    assert len(findings) == (method is not Good)
    for finding in findings:
        assert f"{method.__name__} on teacher-cnn -> student-cnn: {PLANTED[method]}" in finding


@pytest.mark.parametrize(
    ("reason", "code", "says"),
    [
        (None, 1, "it would wait\nkd: 1 findings\n"),
        ("old", 0, "not tried for GPUs: old\nkd: keeps the rules\n"),
    ],
)
def test_kdbench_check_rehearses(monkeypatch, capsys, reason, code, says):
    monkeypatch.setattr(conformance, "check", lambda method: [])
    monkeypatch.setattr(conformance, "rehearse", lambda method: ["it would wait"])
    monkeypatch.setattr(rehearsal, "why_not", lambda: reason)
    assert cli.main(["check", "kd"]) == code
    assert capsys.readouterr().out == says


# ------------------------------------------------------------------------------------------------------- data and jobs


@pytest.mark.parametrize("mixing", ["mixup", "cutmix"])
@pytest.mark.parametrize("geometry", [{"crop": 1}, {"resized_crop": 0.3}, TIMMS], ids=str)
def test_augmented_batches_do_not_wait_and_are_those_of_the_cpu(trained, geometry, mixing):
    changes = {**EVERYTHING, "resized_crop": 0.0, "mixup": 0.0, "cutmix": 0.0, mixing: 0.8, **geometry}
    recipe = Recipe("all", lr=0.1, batch_size=40, steps=1, **changes)
    pack = load_packed(next((trained / "results").rglob("meta.json")).parent)

    def drawn(device):
        batches = Batches(pack, {"image"}, device)
        order = batches.order(0, 0)
        with without_waiting():
            found = [batches.train(order[:40], recipe, 0, step) for step in range(4)]
            images = torch.cat(list(batches.evaluation("image", "test")))
        return [x.cpu() for inputs, target in found for x in (inputs["image"], target)] + [images.cpu()]

    for ours, theirs in zip(on_device(drawn), drawn(torch.device("cpu")), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.slow
def test_a_whole_job_ends_as_it_does_on_the_cpu(trained, monkeypatch):
    """Teacher read in, every step, evaluation, a checkpoint after each step, one resumed from it, results written."""
    methods = ["scratch", "crd", "uhkd"]
    student = {"lr": 5.0e-3, "steps": 3, "batch_size": 50, "accumulate": 2, "ema_decay": 0.9, "clip_grad": 5.0}
    plan = tiny_plan(checkpoint_seconds=0.0, blocks__main__methods=methods, seeds=[0], recipes__student=student)

    def accuracies():
        return {m: read_run(run.result)["history"] for (_, m, _), run in plan.runs().items()}

    run_jobs(plan, "cohort")
    on_cpu = accuracies()
    for run in plan.runs().values():
        run.result.unlink()

    def train(device):
        monkeypatch.setattr(training, "_device", lambda wanted: device)
        steps = []

        def killed(*args):
            steps.append(args)
            if len(steps) == 1 + len(methods):
                raise KeyboardInterrupt
            return real(*args)

        real = engine._step
        monkeypatch.setattr(engine, "_step", killed)
        with pytest.raises(KeyboardInterrupt):
            run_jobs(plan, "cohort")
        monkeypatch.setattr(engine, "_step", real)
        run_jobs(plan, "cohort")

    on_device(train)
    on_it = accuracies()
    for method, history in on_cpu.items():
        for one, other in zip(history, on_it[method], strict=True):
            assert one["losses"] == pytest.approx(other["losses"], rel=1e-3), method
            assert one["test_nll"] == pytest.approx(other["test_nll"], rel=1e-3), method


def test_similarity_takes_features_of_the_device():
    a, b = torch.randn(2, 40, 6, 8, 8, generator=torch.Generator().manual_seed(0))
    vectors = a.mean((2, 3)), b.mean((2, 3)), torch.arange(40) % 4

    def measured(device):
        ours, theirs = a.to(device), b.to(device)
        return (
            similarity.stage_similarity([ours], [theirs], permutations=5),
            similarity.radial_power(ours),
            similarity.mean_cosine(*(x.to(device) for x in vectors[:2])),
            similarity.channel_similarity(*(x.to(device) for x in vectors), draws=5, resamples=5),
        )

    assert on_device(measured) == measured(torch.device("cpu"))


# ---------------------------------------------------------------------------------------------------------- the device


def test_the_device_is_gone_afterwards():
    seen = on_device(lambda device: (device.type, torch.nn.Linear(2, 2).to(device).weight.device.type))
    assert seen == ("rehearsal", "rehearsal")
    assert not hasattr(torch, "rehearsal") and torch.accelerator.current_accelerator() is None


def test_what_waits_is_refused_only_where_it_must_not():
    def tried(device):
        x = torch.ones(3, device=device)
        with without_waiting():
            x.add_(torch.tensor(1.0))  # a number of the CPU goes along with the operation
            x.copy_(torch.ones(3).pin_memory(), non_blocking=True)
            for waits in (x.cpu, x.sum().item, x.nonzero, lambda: x.copy_(torch.ones(3)), lambda: torch.ones(3).to(x)):
                with pytest.raises(Waits):
                    waits()
        with pytest.raises(LeftOnCpu):
            x + torch.ones(3)
        return x.tolist(), x.sum().item(), x.nonzero().shape

    assert on_device(tried) == ([1.0, 1.0, 1.0], 3.0, (3, 1))


def test_autocast_is_that_of_cuda():
    def dtypes(device):
        layer, x = nn.Linear(3, 3).to(device), torch.randn(2, 3).to(device)
        with torch.autocast(device.type, torch.bfloat16):
            inside = layer(x), x @ x.T, x + 1
            with torch.autocast(device.type, enabled=False):
                without = layer(x)
        inside[0].float().sum().backward()
        return [y.dtype for y in (*inside, without, layer.weight.grad)]

    half, full = torch.bfloat16, torch.float32
    assert on_device(dtypes) == [half, half, full, full, full]


def test_an_error_on_the_device_reaches_the_caller():
    def fail(device):
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        on_device(fail)
