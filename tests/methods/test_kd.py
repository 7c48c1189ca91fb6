"""KD: golden values, a formula of its own, and where it is least."""

import numpy as np
import pytest
import torch
from builders import CASES, SETTINGS, STUDENT, TEACHER, given, golden, softmax

from kdbench.methods.kd import kd_loss


@pytest.mark.parametrize("case", CASES)
def test_kd_golden(case):
    student, teacher = given(case, "student_logits", "teacher_logits")
    student.requires_grad_()
    golden(case, "kd", kd_loss(student, teacher, SETTINGS[case]["kd_T"]), student, "student_logits")


def test_kd_is_numpys():
    s, t = softmax(STUDENT / 3), softmax(TEACHER / 3)
    expected = 9 * (t * np.log(t / s)).sum(1).mean()
    assert kd_loss(torch.from_numpy(STUDENT), torch.from_numpy(TEACHER), 3.0).item() == pytest.approx(expected)


def test_kd_is_least_where_student_and_teacher_agree():
    teacher = torch.from_numpy(TEACHER)
    student = teacher.clone().requires_grad_()
    value = kd_loss(student, teacher, 2.0)
    (gradient,) = torch.autograd.grad(value, student)
    assert value.item() == pytest.approx(0, abs=1e-12) and gradient.abs().max() < 1e-12
    assert kd_loss(student + torch.from_numpy(STUDENT), teacher, 2.0) > 0.01
