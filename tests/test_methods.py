"""What holds for all methods alike: every variant on every mix of families, and the properties of their losses.

What holds for one method is tested in its file of tests/methods.
"""

import importlib
from dataclasses import replace

import pytest
import torch
from builders import (
    CLASSES,
    FAMILIES,
    SIDES,
    STUDENT,
    STUDENT_FEATURE,
    TARGET,
    TEACHER,
    TEACHER_FEATURE,
    as_tensors,
    conforms,
    signals,
    terms,
)
from conftest import run_jobs, tiny_plan

from kdbench.methods import (
    at,
    cc,
    crd,
    dist,
    dkd,
    fdcmkd,
    fitnet,
    lskd,
    mfh,
    ofa,
    pkd,
    pkt,
    rkd,
    rld,
    rsd,
    sp,
    spectralkd,
    vid,
)
from kdbench.methods.kd import kd_loss
from kdbench.plan import registry
from kdbench.results.record import read_run
from kdbench.types import KdbenchError, PairShapes

HEADS_ONLY = {"weight": 0.0, "align_weight": 0.0}
VARIANTS = {
    "scratch": [{}],
    "kd": [{}, {"temperature": 4.0, "ce_weight": 0.1, "kd_weight": 0.9}],
    "dkd": [{}, {"beta": 8.0, "temperature": 4.0, "warmup": 0.5}],
    "dist": [{}, {"beta": 2.0, "gamma": 0.0, "temperature": 2.0}],
    "ofa": [{}, {"eps": (1.0, 1.1, 1.2, 1.3, 1.5), "ofa_loss_weight": 0.1, "temperature": 2.0}],
    "lskd": [{}, {"temperature": 4.0}],
    "rld": [{}, {"warmup": 0.0, "temperature": 1.0}],
    "mldrkd": [{}, {"alpha": 0.5}],
    "spectralkd": [{}, {"kd_weight": 0.0}],
    "fitnet": [{}, *fitnet.PRESETS.values()],
    "at": [{}, {"p": 1, "kd_weight": 1.0}],
    "sp": [{}, {"feature": "pooled", "kd_weight": 1.0}],
    "pkt": [{}, {"kd_weight": 1.0, "temperature": 4.0}],
    "vid": [{}, {"initial_variance": 1.0, "kd_weight": 1.0}],
    "cc": [{}, {"kd_weight": 0.5, "width": 7}],
    "rkd": [{}, {"kd_weight": 1.0, "angle_weight": 0.0}],
    "crd": [{}, {"negatives": 7, "width": 16, "tau": 0.2, "momentum": 0.0}, crd.PRESETS["mdistiller"]],
    "rsd": [{}, {"kappa": 0.1, "kd_weight": 1.0}],
    "pkd": [{}, {"feature": "map"}, {"kd_weight": 1.0}],
    "fdcmkd": [
        {},
        {"weight": 30.0},
        {"variant": "paper", "times_width": True},
        {"teacher": False},
        {"teacher": False, "variant": "paper"},
        HEADS_ONLY,
        {**HEADS_ONLY, "variant": "paper"},
        {"align_weight": 0.0},
        {"lambda_low": 0.0, "lambda_high": 0.0},
        {"high_distance": "mse"},
        {"low_distance": "logmse"},
        {"split": "random"},
        {"split": "permuted"},
        {"keep_dc": True},
    ],
    "ufdkd": [{}, {"kd_weight": 0.0, "channel_ac": 0.0}],
    "uhkd": [
        {},
        *({"control": f"C{i}"} for i in range(7)),
        {"control": "C0", "normalisation": "off"},
        {"tokens": "sequence"},
        {"norm": "forward"},
        {"transform": "rfft2"},
        {"transform": "rfft2", "compact": "pool"},
        {"representation": "complex"},
        {"compact": "pool"},
        {"compact": "pool", "representation": "complex", "normalisation": "layer"},
        {"crop_rule": "largest"},
        {"refine": "gaussian"},
        {"refine": "gaussian", "representation": "complex", "normalisation": "layer", "transform": "rfft2"},
        {"ftm": "batch_norm", "normalisation": "layer"},
        {"fam": "spectrum"},
        {"normalisation": "channel"},
        {"levels": "last_two", "ramp": 0.5},
        {"levels": "all_to_all", "temperature": 4.0},
    ],
}
"""By method; those that adopt a teacher or borrow the student (C2KD, FBT, MFH, PAT, UCMKD) are tried in their files and
in test_conformance.py."""
CASES = [(name, changes) for name, variants in VARIANTS.items() for changes in variants]
IDS = ["-".join([name, *(f"{k}={v}" for k, v in changes.items())]) for name, changes in CASES]
ADDS_KL = ["fitnet", "at", "sp", "pkt", "vid", "cc", "rkd", "crd", "rsd", "pkd"]
"""Methods to which `kd_weight` adds a KL term, off by default."""


def served(name, changes, student, teacher):
    method = importlib.import_module(f"kdbench.methods.{name}").Method
    without = changes.get("teacher") is False or name == "scratch"
    pair = PairShapes(SIDES[student], None if without else SIDES[teacher], CLASSES, (0, 1))
    return method.supports(method.Params(**changes), pair) is None


# --------------------------------------------------------------------------------------------------------- conformance


def stages_read(distiller, name, changes, stages):
    """The student's stages that must get a gradient."""
    if name == "fitnet" and distiller.params.variant == "hint":
        return stages[1:2]
    if changes.get("levels") == "last_two":
        return stages[2:]
    return stages[-1:] if name in ("sp", "pkd", "ufdkd") else stages


@pytest.mark.parametrize("teacher", FAMILIES)
@pytest.mark.parametrize("student", FAMILIES)
@pytest.mark.parametrize(("name", "changes"), CASES, ids=IDS)
def test_conformance(name, changes, student, teacher):
    if not served(name, changes, student, teacher):
        assert name == "fitnet" and (student, teacher) in {("mlp", "cnn"), ("mlp", "vit")}
        return
    ours, distiller = conforms(name, changes, student, teacher)
    needed = distiller.needs(distiller.params)
    for field in needed & {"pooled", "pooled_preact"}:
        assert getattr(ours, field).grad.any()
    if "stages" in needed:
        assert all(stage.grad.any() for stage in stages_read(distiller, name, changes, ours.stages))
    if "prefix" in needed and SIDES[student].prefix:
        assert all(prefix.grad.any() for prefix in ours.prefix)
    if name in ("rkd", "cc", "sp", "pkt", "at", "vid"):
        assert all(p.grad.any() for p in distiller.parameters())


@pytest.mark.parametrize(
    ("student", "teacher"),
    [
        ("cnn 1x1", "vit"),
        ("vit", "cnn 1x1"),
        ("swin", "cnn"),
        ("cnn", "swin"),
        ("registers", "mlp"),
        ("sequence", "cnn"),
        ("cnn", "sequence"),
        ("sequence cnn", "sequence"),
        ("sequence", "sequence cnn"),
    ],
)
@pytest.mark.parametrize("name", VARIANTS)
def test_odd_shapes(name, student, teacher):
    changes = {"feature": "map"} if name == "pkd" else {}
    if served(name, changes, student, teacher):
        conforms(name, changes, student, teacher)
    else:
        assert name == "ufdkd" and "cnn 1x1" in (student, teacher)


@pytest.mark.parametrize("student", FAMILIES)
@pytest.mark.parametrize(("name", "changes"), CASES, ids=IDS)
def test_bf16_signals_inside_and_outside_autocast(name, changes, student):
    if served(name, changes, student, "cnn"):
        conforms(name, changes, student, "cnn", dtype=torch.bfloat16)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            conforms(name, changes, student, "cnn", dtype=torch.bfloat16)


@pytest.mark.parametrize("name", ["dkd", "dist", "lskd", "rld", "rkd", "cc", "sp", "pkt", "at", "vid", "spectralkd"])
@pytest.mark.parametrize("student", FAMILIES)
def test_autocast_does_not_touch_the_terms(name, student):
    outside = terms(name, student=student, teacher="cnn", dtype=torch.bfloat16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert terms(name, student=student, teacher="cnn", dtype=torch.bfloat16) == outside


@pytest.mark.parametrize(
    "name", ["ofa", "mldrkd", "fitnet", "at", "sp", "vid", "spectralkd", "ufdkd", "uhkd", "pat", "c2kd", "fbt"]
)
def test_fewer_than_four_stages_is_a_reason(name):
    method = importlib.import_module(f"kdbench.methods.{name}").Method
    """OFA and MLDR-KD read the student's alone."""
    whole = SIDES["vit"]
    for few in (replace(SIDES["cnn"], stages=SIDES["cnn"].stages[:3]), replace(SIDES["cnn"], stages=())):
        lacking = [(few, whole, "student"), (whole, few, "teacher")]
        for student, teacher, side in lacking[: 1 if name in ("ofa", "mldrkd") else 2]:
            reason = method.supports(method.Params(), PairShapes(student, teacher, CLASSES, (0, 1)))
            assert reason == f"the {side} shows fewer than four stages"


@pytest.mark.slow
def test_methods_that_adopt_a_teacher_train_in_a_cohort(trained):
    plan = tiny_plan(blocks__main__methods=["c2kd", "pat"], seeds=[0], recipes__student__steps=4)
    run_jobs(plan, "cohort")
    records = {method: read_run(run.result) for (_, method, _), run in plan.runs().items()}
    assert {r["status"] for r in records.values()} == {"finished"}
    assert records["c2kd"]["notes"] == ["the teacher is trained too"] and records["pat"]["notes"] == []
    assert records["c2kd"]["cost"]["extra_parameters"] > 5000


# ---------------------------------------------------------------------------------------------------------- parameters


@pytest.mark.parametrize("name", ADDS_KL)
def test_feature_losses_run_with_and_without_kd(name):
    plain = terms(name, student="vit", teacher="mlp")
    with_kd = terms(name, student="vit", teacher="mlp", kd_weight=0.5, temperature=2.0)
    assert set(plain) == {"ce", name} and set(with_kd) == {"ce", name, "kd"}
    assert all(torch.equal(plain[term], with_kd[term]) for term in plain)
    expected = 0.5 * kd_loss(signals(SIDES["vit"]).logits, signals(SIDES["mlp"], seed=1).logits, 2.0)
    assert with_kd["kd"].item() == pytest.approx(expected.item())


@pytest.mark.parametrize("name", ["kd", "dkd", "dist", "lskd", "rld", "spectralkd", *ADDS_KL])
def test_the_main_weight_scales_the_methods_own_term(name):
    module = importlib.import_module(f"kdbench.methods.{name}")
    changes = {"dkd": {"alpha": 0.0}, "rld": {"alpha": 0.0, "warmup": 0.0}}.get(name, {})
    weight = getattr(module.Params(), module.MAIN_WEIGHT)
    once, twice = (terms(name, **changes, **{module.MAIN_WEIGHT: factor * weight})[name].item() for factor in (1, 2))
    assert twice == pytest.approx(2 * once, rel=1e-5)


@pytest.mark.parametrize("name", registry.method_names())
def test_presets_are_parameters(name):
    module = importlib.import_module(f"kdbench.methods.{name}")
    info = registry.method_info(name)
    for preset in getattr(module, "PRESETS", {}).values():
        checked = {key: info.params[key].check(value, key) for key, value in preset.items()}
        registry.check_params(name, checked, name)
        assert any(getattr(module.Params(), key) != value for key, value in checked.items())


@pytest.mark.parametrize("temperature", [0.0, -1.0])
@pytest.mark.parametrize(
    "name", [n for n in registry.method_names() if "temperature" in registry.method_info(n).params]
)
def test_a_temperature_of_0_is_refused(name, temperature):
    with pytest.raises(KdbenchError, match=r"temperature.* must be above 0"):
        importlib.import_module(f"kdbench.methods.{name}").Params(temperature=temperature)


# ------------------------------------------------------------------------------------------------------- pure losses

EPS = (0.5, 1.0, 1.5)
DIVERGENCES = {
    "kd": lambda s, t, y, temperature: kd_loss(s, t, temperature),
    "dkd": lambda s, t, y, temperature: dkd.dkd_loss(s, t, y, 1.0, 8.0, temperature),
    "dist": lambda s, t, y, temperature: dist.dist_loss(s, t, 1.0, 1.0, temperature),
    "lskd": lambda s, t, y, temperature: lskd.lskd_loss(s, t, temperature),
}
"""Losses on logits that are 0 where both sides agree; OFA's is a cross-entropy, RLD corrects the teacher."""
OFA = {f"ofa {eps}": lambda s, t, y, temperature, eps=eps: ofa.ofa_loss(s, t, y, eps, temperature) for eps in EPS}
RLD = {"rld": lambda s, t, y, temperature: rld.rld_loss(s, t, y, 1.0, 8.0, temperature)}
LOGIT_LOSSES = DIVERGENCES | OFA | RLD
FEATURE_LOSSES = {"rkd": rkd.rkd_loss, "sp": sp.sp_loss, "pkt": pkt.pkt_loss, "cc": cc.cc_loss}
FD_LOSSES = {
    "fdcmkd low": fdcmkd.low_loss,
    "fdcmkd high": fdcmkd.high_loss,
    "fdcmkd logmse": lambda s, t: fdcmkd.band_loss(s, t, "logmse"),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("temperature", [1.0, 4.0])
@pytest.mark.parametrize("name", LOGIT_LOSSES)
def test_logit_gaps_of_200_stay_finite(name, temperature, dtype):
    student = torch.tensor([[200.0, 0, 0], [0, 200, 0], [0, 0, -200]], dtype=dtype, requires_grad=True)
    teacher = torch.tensor([[0.0, 200, 0], [0, 200, 0], [-200, 0, 0]], dtype=dtype)
    for target in (torch.tensor([2, 1, 0]), torch.tensor([0, 0, 2])):
        value = LOGIT_LOSSES[name](student, teacher, target, temperature)
        (gradient,) = torch.autograd.grad(value, student)
        assert value.dtype == torch.float32 and value.isfinite() and gradient.isfinite().all()


@pytest.mark.parametrize("loss", FEATURE_LOSSES.values(), ids=FEATURE_LOSSES)
def test_autocast_does_not_touch_the_pure_losses(loss):
    student, teacher = torch.randn(2, 6, 5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = loss(student, teacher)
    assert torch.equal(inside, loss(student, teacher))


@pytest.mark.parametrize("loss", FEATURE_LOSSES.values(), ids=FEATURE_LOSSES)
@pytest.mark.parametrize("student", [torch.zeros(5, 4), torch.ones(5, 4), torch.eye(4)[[0, 0, 1, 2, 3]]])
def test_collapsed_and_half_precision_features_stay_finite(loss, student):
    student = student.clone().requires_grad_()
    value = loss(student, torch.randn(5, 4, dtype=torch.bfloat16))
    (gradient,) = torch.autograd.grad(value, student)
    assert value.dtype == torch.float32 and value.isfinite() and gradient.isfinite().all()


MINIMA = {
    **{name: lambda s, t, loss=loss: loss(s, t, *as_tensors(TARGET), 2.0) for name, loss in DIVERGENCES.items()},
    **FEATURE_LOSSES,
    "at": lambda s, t: at.at_loss([s.view(6, 1, 1, 5)], [t.view(6, 1, 1, 5)]),
    "fitnet": fitnet.fitnet_loss,
    "mfh": mfh.mfh_loss,
    "pkd": pkd.pkd_loss,
    "spectralkd": lambda s, t: spectralkd.spectral_loss(s.view(6, 1, 1, 5), t.view(6, 1, 1, 5)),
}


@pytest.mark.parametrize("name", MINIMA)
def test_least_where_student_and_teacher_agree(name):
    teacher, other = as_tensors(TEACHER, STUDENT)
    student = teacher.clone().requires_grad_()
    value = MINIMA[name](student, teacher)
    (gradient,) = torch.autograd.grad(value, student)
    # DIST adds its epsilon to the product of lengths, so that the best correlation is a little below 1.
    assert value.item() == pytest.approx(0, abs=1e-5) and gradient.abs().max() < 1e-5
    for step in (0.01, 0.1, 1.0):
        assert MINIMA[name](teacher + step * other, teacher) > value


ONE_SIDED = {
    **{name: lambda s, t, loss=loss: loss(s, t, *as_tensors(TARGET), 1.0) for name, loss in LOGIT_LOSSES.items()},
    **{name: loss for name, loss in FEATURE_LOSSES.items() if name != "cc"},
    **FD_LOSSES,
    "at": lambda s, t: at.at_loss([s.view(6, 1, 1, 5)], [t.view(6, 1, 1, 5)]),
    "vid": lambda s, t: vid.vid_loss(s.view(6, 5, 1, 1), torch.ones(5), t.view(6, 5, 1, 1)),
    "fitnet": fitnet.fitnet_loss,
    "rsd": rsd.rsd_loss,
    "pkd": pkd.pkd_loss,
    "mfh": mfh.mfh_loss,
    "spectralkd": lambda s, t: spectralkd.spectral_loss(s.view(6, 1, 1, 5), t.view(6, 1, 1, 5)),
}
"""All but CC's, which trains the embeddings of both sides."""


@pytest.mark.parametrize("name", ONE_SIDED)
def test_no_gradient_reaches_the_teacher(name):
    student, teacher = (torch.randn(6, 5, requires_grad=True) for _ in range(2))
    ONE_SIDED[name](student, teacher).backward()
    assert teacher.grad is None and student.grad.isfinite().all() and student.grad.any()


@pytest.mark.parametrize("name", ["rkd", "sp", "pkt"])
def test_the_order_of_the_batch_does_not_count(name):
    student, teacher = as_tensors(STUDENT_FEATURE, TEACHER_FEATURE)
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    loss = FEATURE_LOSSES[name]
    torch.testing.assert_close(loss(student[order], teacher[order]), loss(student, teacher))
