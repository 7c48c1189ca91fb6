"""LSKD: a formula of its own, value and gradient; what it does not see; and logits without any spread."""

import numpy as np
import pytest
import torch
from builders import STUDENT, TEACHER, as_tensors, kl, numpys

from kdbench.methods.kd import kd_loss
from kdbench.methods.lskd import lskd_loss, standardise

RNG = np.random.default_rng(5)
CASES = {
    "random": (STUDENT, TEACHER),
    "random, many classes": tuple(RNG.normal(size=(2, 3, 40)) * 3),
    "teacher = student": (TEACHER, TEACHER),
    "gap 200": (np.eye(5)[[0, 1, 2]] * 200, np.eye(5)[[1, 1, 3]] * 200),
}


def z_scores(z):
    deviations = z - z.mean(1, keepdims=True)
    return deviations / (np.sqrt((deviations**2).sum(1, keepdims=True) / (z.shape[1] - 1)) + 1e-7)


@pytest.mark.parametrize("temperature", [1.0, 2.0])
@pytest.mark.parametrize("case", CASES)
def test_lskd_is_numpys(case, temperature):
    student, teacher = CASES[case]
    numpys(
        lambda s: lskd_loss(s, torch.from_numpy(teacher), temperature),
        lambda s: temperature**2 * kl(z_scores(teacher.astype(complex)) / temperature, z_scores(s) / temperature),
        student,
    )


def test_lskd_does_not_see_the_size_of_logits_nor_their_mean():
    student, teacher = as_tensors(STUDENT, TEACHER)
    value = lskd_loss(student, teacher, 2.0).item()
    assert lskd_loss(9 * student + 4, 0.3 * teacher - 2, 2.0).item() == pytest.approx(value, rel=1e-5)
    assert value != pytest.approx(kd_loss(student, teacher, 2.0).item(), rel=0.05)


def test_a_head_that_starts_at_zero_has_the_gradient_of_kd():
    student = torch.tensor([[0.0, 0, 0], [0, 1, 2]], requires_grad=True)
    teacher = torch.tensor([[1.0, 0, 0], [3, 0, 0]])
    (gradient,) = torch.autograd.grad(lskd_loss(student, teacher, 2.0), student)
    (of_kd,) = torch.autograd.grad(kd_loss(student, standardise(teacher), 2.0), student)
    torch.testing.assert_close(gradient[0], of_kd[0])
    assert gradient[1].isfinite().all() and gradient[1].any()
    assert standardise(torch.full((1, 3), 0.1)).abs().max() < 1e-6
