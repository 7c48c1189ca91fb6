"""The pure loss functions against their references' golden values, independent formulas and extreme inputs."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from kdbench.frequency import split_channels
from kdbench.methods.fdcmkd import band_loss, high_loss, low_loss, sample_of_another_class
from kdbench.methods.kd import kd_loss
from kdbench.methods.ofa import ofa_loss

GOLDENS = np.load(Path(__file__).parent / "data" / "losses.npz")
SETTINGS = json.loads(str(GOLDENS["hyperparameters"]))
CASES = range(len(SETTINGS))


def given(case, *names):
    return [torch.from_numpy(GOLDENS[f"{case}/in/{name}"]) for name in names]


def check(case, name, value, student, student_name):
    """Loss and gradient with respect to the student agree with the reference to 1e-9 relative."""
    (gradient,) = torch.autograd.grad(value, student)
    np.testing.assert_allclose(value.item(), GOLDENS[f"{case}/out/{name}.loss"], rtol=1e-9)
    expected = GOLDENS[f"{case}/out/{name}.grad.{student_name}"]
    np.testing.assert_allclose(gradient.numpy(), expected, rtol=1e-9, atol=1e-9 * abs(expected).max())


@pytest.mark.parametrize("case", CASES)
def test_kd_golden(case):
    student, teacher = given(case, "student_logits", "teacher_logits")
    student.requires_grad_()
    check(case, "kd", kd_loss(student, teacher, SETTINGS[case]["kd_T"]), student, "student_logits")


@pytest.mark.parametrize("case", CASES)
def test_ofa_golden(case):
    student, teacher, target = given(case, "student_logits", "teacher_logits", "target")
    student.requires_grad_()
    value = ofa_loss(student, teacher, target, SETTINGS[case]["ofa_eps"], SETTINGS[case]["ofa_T"])
    check(case, "ofa", value, student, "student_logits")


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(("name", "loss"), [("fd_low", low_loss), ("fd_high", high_loss)])
def test_fd_golden(case, name, loss):
    student, teacher = given(case, "fd_student_feature", "fd_teacher_feature")
    student.requires_grad_()
    check(case, name, loss(student, teacher), student, "student_feature")


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("side", ["student", "teacher"])
def test_fd_bands_golden(case, side):
    bands = split_channels(*given(case, f"fd_{side}_feature"))
    for name, band in zip(("low", "high"), bands, strict=True):
        expected = GOLDENS[f"{case}/out/fd.{side}_{name}"]
        np.testing.assert_allclose(band.numpy(), expected, rtol=1e-9, atol=1e-9 * abs(expected).max())


# ------------------------------------------------------------------------------------------------ independent formulas

RNG = np.random.default_rng(0)
STUDENT, TEACHER = RNG.normal(size=(2, 6, 5)) * 3
TARGET = np.array([0, 4, 2, 2, 1, 3])


def softmax(z):
    e = np.exp(z - z.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


def test_kd_is_numpys():
    s, t = softmax(STUDENT / 3), softmax(TEACHER / 3)
    expected = 9 * (t * np.log(t / s)).sum(1).mean()
    assert kd_loss(torch.from_numpy(STUDENT), torch.from_numpy(TEACHER), 3.0).item() == pytest.approx(expected)


@pytest.mark.parametrize("eps", [0.7, 1.0, 1.5])
def test_ofa_is_numpys(eps):
    s, t, y = softmax(STUDENT / 2), softmax(TEACHER / 2), np.eye(5)[TARGET]
    expected = -(((t + y) ** eps - y) * np.log(s)).sum(1).mean()
    arguments = torch.from_numpy(STUDENT), torch.from_numpy(TEACHER), torch.from_numpy(TARGET)
    assert ofa_loss(*arguments, eps, 2.0).item() == pytest.approx(expected)


def test_fd_is_numpys():
    def unit_bands(x):
        f = np.fft.rfft(x, axis=1)
        low, high = f.copy(), f.copy()
        low[:, 0] = low[:, 9:] = 0
        high[:, :9] = 0
        parts = [np.fft.irfft(part, n=x.shape[1], axis=1) for part in (low, high)]
        return [part / np.linalg.norm(part, axis=1, keepdims=True) for part in parts]

    s, t = RNG.normal(size=(2, 4, 33)) + 1
    (s_low, s_high), (t_low, t_high) = unit_bands(s), unit_bands(t)
    arguments = torch.from_numpy(s), torch.from_numpy(t)
    assert low_loss(*arguments).item() == pytest.approx(((s_low - t_low) ** 2).mean())

    def compress(x):
        return np.sign(x) * np.log1p(abs(x))

    assert high_loss(*arguments).item() == pytest.approx(((compress(s_high) - compress(t_high)) ** 2).mean())


# ---------------------------------------------------------------------------------------------------------- properties


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_logit_gaps_of_200_stay_finite(dtype, temperature):
    student = torch.tensor([[200.0, 0, 0], [0, 200, 0], [0, 0, -200]], dtype=dtype, requires_grad=True)
    teacher = torch.tensor([[0.0, 200, 0], [0, 200, 0], [-200, 0, 0]], dtype=dtype)
    target = torch.tensor([2, 1, 0])
    for eps in (0.5, 1.0, 1.5):
        value = kd_loss(student, teacher, temperature) + ofa_loss(student, teacher, target, eps, temperature)
        (gradient,) = torch.autograd.grad(value, student)
        assert value.dtype == torch.float32 and value.isfinite() and gradient.isfinite().all()


def test_fd_of_zero_and_of_bf16_features_is_finite():
    student = torch.zeros(4, 16, requires_grad=True)
    value = low_loss(student, torch.randn(4, 16)) + high_loss(student, torch.randn(4, 16, dtype=torch.bfloat16))
    (gradient,) = torch.autograd.grad(value, student)
    assert value.isfinite() and gradient.isfinite().all()


def test_kd_is_least_where_student_and_teacher_agree():
    teacher = torch.from_numpy(TEACHER)
    student = teacher.clone().requires_grad_()
    value = kd_loss(student, teacher, 2.0)
    (gradient,) = torch.autograd.grad(value, student)
    assert value.item() == pytest.approx(0, abs=1e-12) and gradient.abs().max() < 1e-12
    assert kd_loss(student + torch.from_numpy(RNG.normal(size=(6, 5))), teacher, 2.0) > 0.01


def test_fd_is_least_where_bands_agree_up_to_scale_and_offset():
    teacher = torch.randn(4, 16, dtype=torch.float64)
    assert low_loss(3 * teacher + 2, teacher) < 1e-20
    assert high_loss(3 * teacher + 2, teacher) < 1e-20
    assert low_loss(-teacher, teacher).item() == pytest.approx(4 / 16)


def test_ofa_with_eps_1_is_soft_cross_entropy():
    student, teacher = torch.from_numpy(STUDENT), torch.from_numpy(TEACHER)
    value = ofa_loss(student, teacher, torch.from_numpy(TARGET), 1.0, 1.0)
    assert value.item() == pytest.approx(F.cross_entropy(student, teacher.softmax(1)).item())


def test_ofa_reads_the_arg_max_of_soft_labels():
    student, teacher, target = torch.from_numpy(STUDENT), torch.from_numpy(TEACHER), torch.from_numpy(TARGET)
    soft = 0.6 * F.one_hot(target, 5) + 0.08
    assert ofa_loss(student, teacher, soft, 1.4) == ofa_loss(student, teacher, target, 1.4)


def test_no_gradient_reaches_the_teacher():
    teacher = torch.randn(6, 5, requires_grad=True)
    student, target = torch.randn(6, 5, requires_grad=True), torch.from_numpy(TARGET)
    values = [
        kd_loss(student, teacher, 1.0),
        ofa_loss(student, teacher, target, 1.5),
        low_loss(student, teacher),
        high_loss(student, teacher),
        band_loss(student, teacher, "logmse"),
    ]
    sum(values).backward()
    assert teacher.grad is None and student.grad is not None


def test_shuffled_teacher_is_of_another_class():
    target = torch.arange(60) % 3
    chosen = sample_of_another_class(target)
    assert (target[chosen] != target).all() and len(chosen.unique()) > 20
    assert (target[sample_of_another_class(F.one_hot(target, 3).float())] != target).all()
    assert sample_of_another_class(torch.zeros(5, dtype=torch.long)).shape == (5,)
