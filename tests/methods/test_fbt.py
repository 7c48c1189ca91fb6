"""FBT: InfoNCE against a formula of its own, the bridge through every known teacher, its gradients, a whole run."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from builders import SIDES, adopted, signals
from conftest import run_jobs
from test_engine import interrupted, plan_for, weights_of
from test_models import spec
from test_pat import TEACHERS

from kdbench.conformance import check
from kdbench.conformance.networks import CLASSES, LABELS, MODELS
from kdbench.methods import fbt
from kdbench.methods.ofa import ofa_loss
from kdbench.results.record import read_run
from kdbench.signals import Reader
from kdbench.train import networks
from kdbench.types import KdbenchError, PairShapes

RNG = np.random.default_rng(0)
TARGET = torch.arange(6) % CLASSES
OWN = {"logits_ts", "logits_tf", "logits_fs", "nce_ts", "nce_tf", "nce_fs"}


def built(teacher="vit", student="cnn", **changes):
    return adopted(fbt, fbt.Params(**changes), MODELS[f"teacher-{teacher}"], MODELS[f"student-{student}"])


# ------------------------------------------------------------------------------------------------------------- infonce


@pytest.mark.parametrize("temperature", [0.07, 1.0])
def test_info_nce_is_numpys(temperature):
    s, t = RNG.normal(size=(2, 6, 4))
    cosines = np.array([[a @ b / np.linalg.norm(a) / np.linalg.norm(b) for b in t] for a in s])
    scores = np.exp(cosines / temperature)
    expected = np.mean([-np.log(scores[i, i] / scores[i].sum()) for i in range(6)])
    assert fbt.info_nce(*map(torch.from_numpy, (s, t)), temperature).item() == pytest.approx(expected)


def test_info_nce_knows_its_extremes():
    basis = torch.eye(5, dtype=torch.float64)
    assert fbt.info_nce(7 * basis, basis, 0.01).item() == pytest.approx(0, abs=1e-12)
    assert fbt.info_nce(basis.roll(1, 0), basis, 0.01).item() == pytest.approx(100)
    assert fbt.info_nce(torch.ones(5, 3), torch.randn(1, 3).expand(5, 3), 0.5).item() == pytest.approx(np.log(5))
    assert fbt.info_nce(torch.randn(1, 3), torch.randn(1, 3), 0.07) == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_info_nce_of_huge_and_of_no_features_is_finite(dtype):
    student = torch.tensor([[1e4, -1e4], [0.0, 0.0], [1e-4, 1.0]], dtype=dtype, requires_grad=True)
    value = fbt.info_nce(student, torch.tensor([[-1e4, 1e4], [1.0, 0.0], [0.0, 0.0]], dtype=dtype), 0.01)
    assert value.dtype == torch.float32 and value.isfinite()
    assert torch.autograd.grad(value, student)[0].isfinite().all()


def test_the_gradient_reaches_the_learner_and_the_temperature_alone():
    student, teacher = torch.randn(2, 6, 4).unbind()
    temperature = torch.tensor(0.1, requires_grad=True)
    leaves = student.requires_grad_(), teacher.requires_grad_(), temperature
    ours, theirs, scale = torch.autograd.grad(fbt.info_nce(*leaves), leaves, allow_unused=True)
    assert ours.any() and theirs is None and scale != 0


# -------------------------------------------------------------------------------------------------------------- bridge


@pytest.mark.parametrize(("timm", "args", "options", "size", "family", "stages"), TEACHERS, ids=lambda v: str(v)[:9])
def test_a_bridge_that_shows_the_teachers_own_third_stage_is_the_teacher(timm, args, options, size, family, stages):
    """So every known teacher is entered after its third stage and run to its end."""
    shape = (size, size, 3)
    teacher = networks.build(spec(timm, args, **options), shape, CLASSES, 0)
    read = Reader(teacher.requires_grad_(False).eval(), shape, family)
    side = read.side
    distiller = fbt.Method(fbt.Params(), PairShapes(side, side, CLASSES, LABELS))
    with torch.no_grad():
        shown = read(torch.randn(2, 3, size, size))
        distiller.adopt(teacher, read)
        assert distiller.local_to_global(shown.stages[2]).shape == shown.stages[2].permute(0, 2, 3, 1).shape
        distiller.local_to_global = torch.nn.Identity()
        if side.prefix:
            distiller.prefix.data = shown.prefix[2]
        logits, pooled = distiller.bridge(shown.stages[2].permute(0, 2, 3, 1))
    torch.testing.assert_close(logits, shown.logits, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(pooled, shown.pooled, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("own", "theirs", "patch"),
    [
        ((8, 14, 14), (12, 7, 7), (2, 2)),
        ((8, 7, 7), (64, 14, 14), (1, 1)),
        ((8, 5, 5), (12, 2, 2), (3, 3)),
        ((8, 1, 1), (30, 1, 1), (1, 1)),
        ((8, 1, 65), (12, 1, 16), (1, 5)),
        ((8, 8, 8), (12, 1, 16), (8, 1)),
    ],
)
def test_every_grid_is_brought_to_the_teachers(own, theirs, patch):
    block = fbt.LocalToGlobal(own, theirs)
    assert block.embed.kernel_size == patch
    assert block(torch.randn(2, *own)).shape == (2, *theirs[1:], theirs[0])


@pytest.mark.parametrize("teacher", ["cnn", "vit", "mlp"])
def test_terms_are_those_of_the_three_pairs(teacher):
    distiller, ours, shown = built(teacher)
    terms = distiller(ours, shown, TARGET, 0.0)
    logits, pooled = distiller.bridge(ours.stages[2])
    projected = distiller.projector(ours.pooled)
    expected = {
        "ce": F.cross_entropy(ours.logits, TARGET),
        "logits_ts": ofa_loss(ours.logits, shown.logits, TARGET, 1.0),
        "logits_tf": ofa_loss(logits, shown.logits, TARGET, 1.0),
        "logits_fs": ofa_loss(ours.logits, logits, TARGET, 1.0),
        "nce_ts": fbt.info_nce(projected, shown.pooled, 0.07),
        "nce_tf": fbt.info_nce(pooled, shown.pooled, 0.07),
        "nce_fs": fbt.info_nce(projected, pooled, 0.07),
    }
    assert {name: term.item() for name, term in terms.items()} == pytest.approx(
        {name: term.item() for name, term in expected.items()}, rel=1e-5
    )


def test_the_bridge_learns_from_the_teacher_and_not_from_the_student():
    distiller, ours, shown = built()
    block = next(distiller.local_to_global.parameters())
    for name, term in distiller(ours, shown, TARGET, 0.0).items():
        reached = torch.autograd.grad(term, [block, *ours.stages], retain_graph=True, allow_unused=True)
        assert (reached[0] is not None and bool(reached[0].any())) is name.endswith("tf"), name
        assert (reached[3] is not None and bool(reached[3].any())) or not name.endswith("tf")


def test_weights_and_temperatures():
    def terms(**changes):
        distiller, ours, shown = built("mlp", **changes)
        return {name: term.item() for name, term in distiller(ours, shown, TARGET, 0.0).items()}

    plain, heavy = terms(), terms(ce_weight=2.0, weight=3.0, logit_weight=5.0)
    factors = {name: 3 if "nce" in name else 5 if "logits" in name else 2 for name in plain}
    assert heavy == pytest.approx({name: factors[name] * value for name, value in plain.items()})
    assert set(plain) == {"ce", *OWN}
    warm = terms(contrast_temperature=1.0)
    assert all((warm[name] != plain[name]) is ("nce" in name) for name in plain)
    assert built(teacher="cnn")[0].prefix is None and built()[0].prefix.shape == (1, 1, 24)


def test_the_teachers_part_is_not_the_distillers_and_stays_frozen():
    distiller, ours, shown = built("cnn")
    assert not any(name.startswith(("last_stage", "head")) for name in distiller.state_dict())
    sum(distiller(ours, shown, TARGET, 0.0).values()).backward()
    parts = [p for module in distiller.last_stage for p in module.parameters()]
    assert parts and all(p.grad is None and not p.requires_grad for p in parts)
    assert not any(module.training for module in distiller.last_stage)


# ----------------------------------------------------------------------------------------------------- reasons and runs


def test_reasons():
    distiller, *_ = built()
    pair = distiller.pair
    few = PairShapes(SimpleNamespace(stages=()), pair.teacher, CLASSES, LABELS)
    assert fbt.Method.supports(fbt.Params(), few) == "the student shows fewer than four stages"
    with pytest.raises(KdbenchError, match="last stage of timm's Sequential is not known"):
        unknown = torch.nn.Sequential()
        unknown.feature_info = [{"reduction": 4}] * 4
        fbt.after_third_stage(unknown)


@pytest.mark.parametrize("changes", [{"eps": 0.0}, {"temperature": 0.0}, {"contrast_temperature": 0.01}])
def test_impossible_settings_are_refused(changes):
    with pytest.raises(KdbenchError, match="above"):
        fbt.Params(**changes)


def test_other_settings_conform():
    pair = [(MODELS["teacher-mlp"], MODELS["student-vit"])]
    assert check("fbt", {"eps": 1.5, "temperature": 2.0, "contrast_temperature": 0.5}, pair) == []


@pytest.mark.parametrize(("student", "teacher"), [("sequence cnn", "vit"), ("sequence", "cnn"), ("sequence", "mlp")])
def test_a_student_of_another_modality_is_served(student, teacher):
    """A student of sequences under a teacher of images: the two stages have nothing but the sample in common."""
    shown_side = built(teacher)[0].pair.teacher
    model = networks.build(MODELS[f"teacher-{teacher}"], (8, 8, 3), CLASSES, 1).requires_grad_(False).eval()
    distiller = fbt.Method(fbt.Params(), PairShapes(SIDES[student], shown_side, CLASSES, LABELS))
    read = Reader(model, (8, 8, 3), teacher)
    distiller.adopt(model, read)
    ours = replace(signals(SIDES[student]), logits=torch.randn(6, CLASSES, requires_grad=True))
    terms = distiller(ours, read(torch.randn(6, 3, 8, 8)), TARGET, 0.0)
    sum(terms.values()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in distiller.parameters())
    assert ours.stages[2].grad.any() and ours.pooled.grad.any()


@pytest.mark.slow
def test_a_run_is_the_same_in_company_alone_and_resumed(trained, monkeypatch):
    changes = {"seeds": [0], "checkpoint_seconds": 0}
    together, alone = plan_for(["kd", "fbt"], **changes), plan_for(["fbt"], **changes)
    run_jobs(together, "cohort")
    expected = weights_of(together)["fbt", 0]
    for plan in (together, alone):
        for run in plan.runs().values():
            run.result.unlink(missing_ok=True)
    run_jobs(alone, "cohort")
    assert weights_of(alone) == {("fbt", 0): expected}
    alone.runs()["cnn-t--vit-s", "fbt", 0].result.unlink()
    interrupted(together, monkeypatch)
    run_jobs(together, "cohort")
    assert weights_of(together)["fbt", 0] == expected
    record = read_run(together.runs()["cnn-t--vit-s", "fbt", 0].result)
    assert record["status"] == "finished" and record["diagnostics"] == {}
