"""RKD: golden values, a formula of its own, and what it does not see."""

import numpy as np
import pytest
import torch
from builders import CASES, STUDENT_FEATURE, TEACHER_FEATURE, as_tensors, given, golden, rotation

from kdbench.methods import rkd


@pytest.mark.parametrize("case", CASES)
def test_rkd_golden(case):
    student, teacher = given(case, "student_feature", "teacher_feature")
    student.requires_grad_()
    golden(case, "rkd", rkd.rkd_loss(student, teacher), student, "student_feature")


def smooth_l1(a, b):
    gap = abs(a - b)
    return np.where(gap < 1, gap**2 / 2, gap - 0.5).mean()


def test_rkd_is_numpys():
    def relations(x):
        n = len(x)
        distances, angles = np.zeros((n, n)), np.zeros((n, n, n))
        for i in range(n):
            for j in range(n):
                distances[i, j] = np.linalg.norm(x[i] - x[j])
                for k in range(n):
                    if i not in (j, k):
                        a, b = x[j] - x[i], x[k] - x[i]
                        angles[i, j, k] = a @ b / (np.linalg.norm(a) * np.linalg.norm(b))
        return distances / distances[distances > 0].mean(), angles

    (s_distances, s_angles), (t_distances, t_angles) = relations(STUDENT_FEATURE), relations(TEACHER_FEATURE)
    value = rkd.rkd_loss(*as_tensors(STUDENT_FEATURE, TEACHER_FEATURE), 3.0, 7.0)
    assert value.item() == pytest.approx(3 * smooth_l1(s_distances, t_distances) + 7 * smooth_l1(s_angles, t_angles))


def test_rkd_of_equal_samples_has_no_huge_gradient():
    student = torch.eye(4)[[0, 0, 1, 2, 3]].clone().requires_grad_()
    (gradient,) = torch.autograd.grad(rkd.rkd_loss(student, torch.randn(5, 4)), student)
    assert gradient.abs().max() < 100


def test_rkd_does_not_see_isometries_or_scale():
    student, teacher = as_tensors(STUDENT_FEATURE, TEACHER_FEATURE)
    value = rkd.rkd_loss(student, teacher)
    moved = 3 * student @ rotation(7) + 5
    assert rkd.rkd_loss(moved, teacher).item() == pytest.approx(value.item(), rel=1e-9)
    assert rkd.rkd_loss(student, 0.1 * teacher @ rotation(4) - 2).item() == pytest.approx(value.item(), rel=1e-9)
    assert rkd.rkd_loss(moved, student).item() == pytest.approx(0, abs=1e-20)
    stretched = student * torch.linspace(1, 3, 7, dtype=torch.float64)
    assert rkd.rkd_loss(stretched, teacher).item() != pytest.approx(value.item(), rel=1e-3)
