"""DIST: golden values, a formula of its own, and what it does not see."""

import numpy as np
import pytest
import torch
from builders import CASES, SETTINGS, STUDENT, TEACHER, as_tensors, given, golden, softmax

from kdbench.methods import dist


@pytest.mark.parametrize("case", CASES)
def test_dist_golden(case):
    student, teacher = given(case, "student_logits", "teacher_logits")
    settings = SETTINGS[case]
    student.requires_grad_()
    value = dist.dist_loss(student, teacher, settings["dist_beta"], settings["dist_gamma"], settings["dist_tau"])
    golden(case, "dist", value, student, "student_logits")


def test_dist_is_numpys():
    s, t = softmax(STUDENT / 2), softmax(TEACHER / 2)
    inter = 1 - np.mean([np.corrcoef(a, b)[0, 1] for a, b in zip(s, t, strict=True)])
    intra = 1 - np.mean([np.corrcoef(a, b)[0, 1] for a, b in zip(s.T, t.T, strict=True)])
    value = dist.dist_loss(*as_tensors(STUDENT, TEACHER), 3.0, 0.5, 2.0)
    assert value.item() == pytest.approx(4 * (3 * inter + 0.5 * intra), rel=1e-5)


def test_dist_does_not_see_affine_maps_of_probabilities():
    student, teacher = as_tensors(STUDENT, TEACHER)
    value = dist.dist_loss(student, teacher, 1.0, 1.0, 1.0)
    flattened = (0.3 * student.softmax(1) + 0.7 / 5).log()
    assert dist.dist_loss(flattened, teacher, 1.0, 1.0, 1.0).item() == pytest.approx(value.item(), rel=1e-5)
    torch.testing.assert_close(dist.pearson(3 * student + 2, teacher), dist.pearson(student, teacher))
    torch.testing.assert_close(dist.pearson(-student, teacher), -dist.pearson(student, teacher))
    shifted = student + torch.arange(6)[:, None]
    torch.testing.assert_close(dist.dist_loss(shifted, teacher, 1.0, 1.0, 1.0), value)
