"""C2KD: golden values, formulas of its own, its proxies and the teacher that it trains."""

import dataclasses

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from builders import CASES, GOLDENS, SETTINGS, adopted, as_tensors, given, softmax

from kdbench.conformance import check
from kdbench.conformance.networks import ALL_PAIRS, LABELS, MODELS
from kdbench.methods import c2kd
from kdbench.types import KdbenchError, PairShapes

RNG = np.random.default_rng(0)
STUDENT, TEACHER = RNG.normal(size=(2, 7, 5)) * 3
TARGET = np.array([0, 4, 2, 2, 1, 3, 0])


@pytest.mark.parametrize("case", CASES)
def test_ntkl_golden(case):
    student, teacher, target = given(case, "student_logits", "teacher_logits", "target")
    student.requires_grad_()
    tau = c2kd.kendall_tau(student, teacher)
    np.testing.assert_allclose(tau.numpy(), GOLDENS[f"{case}/out/c2kd.kendall"], rtol=1e-9, atol=1e-12)
    value = c2kd.ntkl_loss(student, teacher, target, SETTINGS[case]["c2kd_krc"])
    (gradient,) = torch.autograd.grad(value, student)
    np.testing.assert_allclose(value.item(), GOLDENS[f"{case}/out/c2kd_ntkl.loss"], rtol=1e-9)
    expected = GOLDENS[f"{case}/out/c2kd_ntkl.grad.student_logits"]
    np.testing.assert_allclose(gradient.numpy(), expected, rtol=1e-9, atol=1e-9 * abs(expected).max())


def test_kendall_tau_is_scipys_with_ties():
    stats = pytest.importorskip("scipy.stats")
    a, b = RNG.integers(0, 4, size=(2, 9, 6)).astype(float)
    a[3] = 1.0
    expected = [stats.kendalltau(x, y)[0] for x, y in zip(a, b, strict=True)]
    np.testing.assert_allclose(c2kd.kendall_tau(*as_tensors(a, b)).numpy(), expected, rtol=1e-12)


def numpys_tau(a, b):
    pairs = [(i, j) for i in range(len(a)) for j in range(i)]
    return sum(np.sign(a[i] - a[j]) * np.sign(b[i] - b[j]) for i, j in pairs) / len(pairs)


@pytest.mark.parametrize("threshold", [-1.0, 0.0, 0.3])
@pytest.mark.parametrize("masking", ["zero", "minus_1000"])
@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_ntkl_is_numpys(threshold, masking, temperature):
    s, t = STUDENT.copy(), TEACHER.copy()
    for logits in (s, t):
        rows = np.arange(7), TARGET
        logits[rows] = 0 if masking == "zero" else logits[rows] - 1000
    p, q = softmax(t / temperature) + 1e-300, softmax(s / temperature) + 1e-300
    chosen = np.array([numpys_tau(*rows) > threshold for rows in zip(STUDENT, TEACHER, strict=True)])
    expected = temperature**2 * (chosen * (p * np.log(p / q)).sum(1)).mean()
    value = c2kd.ntkl_loss(*as_tensors(STUDENT, TEACHER, TARGET), threshold, masking, temperature)
    assert value.item() == pytest.approx(expected, rel=1e-9)


def test_ntkl_counts_the_whole_batch_and_no_sample_is_zero():
    student, teacher, target = as_tensors(STUDENT, TEACHER, TARGET)
    student.requires_grad_()
    assert c2kd.ntkl_loss(student, teacher, target, 0.99).item() == 0
    assert c2kd.kendall_tau(student, student).tolist() == pytest.approx([1.0] * 7)
    # A student that ranks as the teacher does: every sample counts, until half of the batch ranks in reverse.
    alike = c2kd.ntkl_loss(2 * teacher, teacher, target, 0.0)
    half = torch.cat([2 * teacher, -teacher])
    halved = c2kd.ntkl_loss(half, torch.cat([teacher, teacher]), torch.cat([target, target]), 0.0)
    assert halved.item() == pytest.approx(alike.item() / 2)


@pytest.mark.parametrize("masking", ["zero", "minus_1000"])
def test_ntkl_does_not_see_the_target_and_is_least_at_the_teacher(masking):
    student, teacher, target = as_tensors(STUDENT, TEACHER, TARGET)
    value = c2kd.ntkl_loss(student, teacher, target, -1.0, masking)
    # Where tau selects everything, the target's own logit plays no part (up to exp(-1000)).
    moved = student.clone()
    moved[torch.arange(7), target] += 0.5
    assert c2kd.ntkl_loss(moved, teacher, target, -1.0, masking).item() == pytest.approx(value.item(), rel=1e-9)
    own = teacher.clone().requires_grad_()
    value = c2kd.ntkl_loss(own, teacher, target, 0.0, masking)
    (gradient,) = torch.autograd.grad(value, own)
    assert abs(value.item()) < 1e-12 and gradient.abs().max() < 1e-12
    soft = 0.6 * F.one_hot(target, 5) + 0.08
    assert c2kd.ntkl_loss(student, teacher, soft, 0.0, masking) == c2kd.ntkl_loss(
        student, teacher, target, 0.0, masking
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("masking", ["zero", "minus_1000"])
def test_ntkl_of_logit_gaps_of_200_is_finite(dtype, masking):
    student = torch.tensor([[200.0, 0, 0], [0, 200, 1], [0, 0, -200]], dtype=dtype, requires_grad=True)
    teacher = torch.tensor([[1.0, 200, 0], [0, 200, 1], [-200, 0, 0]], dtype=dtype, requires_grad=True)
    value = c2kd.ntkl_loss(student, teacher, torch.tensor([2, 1, 0]), -1.0, masking)
    (gradient,) = torch.autograd.grad(value, student, retain_graph=True)
    assert value.dtype == torch.float32 and value.isfinite() and gradient.isfinite().all()
    assert torch.autograd.grad(value, teacher, allow_unused=True) == (None,)


def test_c2kds_terms_are_those_of_the_released_loss():
    distiller, ours, shown = adopted(c2kd, c2kd.Params(), MODELS["teacher-cnn"], MODELS["student-vit"])
    assert distiller.teacher.training and all(p.requires_grad for p in distiller.teacher.parameters())
    assert distiller.notes() == ["the teacher is trained too"]
    target = torch.arange(6) % 3
    distiller.eval()
    terms = distiller(ours, shown, target, 0.0)
    q_s, q_t = ours.logits, distiller._read(shown.inputs).logits
    p_s = distiller.student_proxy(ours.stages[2])
    p_t = distiller.teacher_proxy(distiller._read(shown.inputs).stages[2])

    def kl(learner, other):
        return F.kl_div(learner.log_softmax(1), other.softmax(1), reduction="batchmean").item()

    expected = {
        "ce": F.cross_entropy(q_s, target).item(),
        "ce_teacher": F.cross_entropy(q_t, target).item(),
        "ntkl": c2kd.ntkl_loss(p_s, p_t, target, 0.0).item(),
        "ntkl_teacher": c2kd.ntkl_loss(p_t, p_s, target, 0.0).item(),
        "kd": kl(q_s, p_s),
        "kd_proxy": kl(p_s, q_s),
        "kd_teacher": kl(q_t, p_t),
        "kd_teacher_proxy": kl(p_t, q_t),
    }
    assert {name: term.item() for name, term in terms.items()} == pytest.approx(expected, rel=1e-5)


def test_c2kds_proxies_read_the_third_stage_by_default():
    pair = [MODELS["teacher-cnn"], MODELS["student-cnn"]]
    third, fourth = (adopted(c2kd, c2kd.Params(stage=stage), *pair)[0] for stage in (3, 4))
    assert [d.teacher_proxy.layers[1].in_channels for d in (third, fourth)] == [16, 24]
    short = PairShapes(third.pair.student, dataclasses.replace(third.pair.teacher, stages=()), 3, LABELS)
    assert "the teacher shows fewer than four" in c2kd.Method.supports(c2kd.Params(), short)


def test_soft_and_hard_targets_agree():
    distiller, ours, shown = adopted(c2kd, c2kd.Params(), MODELS["teacher-vit"], MODELS["student-mlp"])
    distiller.eval()
    target = torch.arange(6) % 3
    hard = distiller(ours, shown, target, 0.0)
    soft = distiller(ours, shown, F.one_hot(target, 3).float(), 0.0)
    assert all(torch.allclose(soft[name], hard[name]) for name in hard)


@pytest.mark.parametrize("changes", [{"temperature": 0.0}, {"threshold": 1.0}, {"threshold": -1.5}])
def test_c2kd_refuses(changes):
    with pytest.raises(KdbenchError, match=r"above 0|Kendall"):
        c2kd.Params(**changes)


@pytest.mark.slow
def test_other_settings_conform():
    assert (
        check("c2kd", {"masking": "minus_1000", "temperature": 2.0, "stage": 4}, ALL_PAIRS[:1] + ALL_PAIRS[5:6]) == []
    )
