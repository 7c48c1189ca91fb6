"""RSD: golden values, a formula of its own, where it is least, and the released projector."""

import numpy as np
import pytest
import torch
from builders import CASES, SETTINGS, given, same_as_golden

from kdbench.methods import rsd
from kdbench.types import KdbenchError


@pytest.mark.parametrize("case", CASES)
def test_rsd_golden(case):
    student, teacher = given(case, "rsd_student_projected", "rsd_teacher_feature")
    value = rsd.rsd_loss(student.requires_grad_(), teacher, SETTINGS[case]["rsd_kappa"])
    same_as_golden(value, case, "rsd.loss", 1e-9)
    same_as_golden(torch.autograd.grad(value, student)[0], case, "rsd.grad.student_projected", 1e-9)


def test_rsd_is_numpys():
    s, t = np.random.default_rng(0).normal(size=(2, 7, 4))
    s_std, t_std = ((x - x.mean(0)) / (x.std(0) + 1e-5) for x in (s, t))
    matrix = np.array([[np.mean(t_std[:, i] * s_std[:, j]) for j in range(4)] for i in range(4)])
    expected = sum((matrix[i, j] - (i == j)) ** 2 * (1 if i == j else 0.3) for i in range(4) for j in range(4))
    assert rsd.rsd_loss(torch.from_numpy(s), torch.from_numpy(t), 0.3).item() == pytest.approx(expected)


def test_rsd_is_least_where_uncorrelated_channels_agree_up_to_scale_and_offset():
    signs = torch.tensor([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]], dtype=torch.float64)
    assert rsd.rsd_loss(3 * signs + 2, signs, 1.0) < 1e-8
    assert rsd.rsd_loss(-signs, signs, 1.0).item() == pytest.approx(12, rel=1e-3)
    assert rsd.rsd_loss(signs[:, [1, 0, 2]], signs, 0.0).item() == pytest.approx(2, rel=1e-3)


def test_rsd_of_a_constant_channel_is_finite():
    student = torch.ones(6, 3, requires_grad=True)
    value = rsd.rsd_loss(student, torch.randn(6, 3), 0.01)
    assert value.isfinite() and torch.autograd.grad(value, student)[0].isfinite().all()


def test_rsd_projector_is_the_released_one():
    layers = rsd.projector(10, 6)
    assert [tuple(p.shape) for p in layers.parameters()] == [(20, 10), (20,), (20,), (6, 20)]
    assert layers[0].weight.abs().max() < 0.1 and layers[3].weight.std().item() == pytest.approx(0.02, rel=0.3)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"kappa": -1.0}, "negative"),
    ],
)
def test_impossible_settings_are_refused(changes, complaint):
    with pytest.raises(KdbenchError, match=complaint):
        rsd.Params(**changes)
