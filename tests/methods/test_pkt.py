"""PKT: golden values, a formula of its own, and what it does not see."""

import numpy as np
import pytest
import torch
from builders import CASES, STUDENT_FEATURE, TEACHER_FEATURE, as_tensors, divergence, given, golden, rotation

from kdbench.methods import pkt


@pytest.mark.parametrize("case", CASES)
def test_pkt_golden(case):
    student, teacher = given(case, "student_feature", "teacher_feature")
    student.requires_grad_()
    golden(case, "pkt", pkt.pkt_loss(student, teacher), student, "student_feature")


def test_pkt_is_numpys():
    def shares(x):
        x = x / np.linalg.norm(x, axis=1, keepdims=True)
        similarity = (x @ x.T + 1) / 2
        return similarity / similarity.sum(1, keepdims=True)

    expected = divergence(shares(TEACHER_FEATURE), shares(STUDENT_FEATURE)) / 36
    assert pkt.pkt_loss(*as_tensors(STUDENT_FEATURE, TEACHER_FEATURE)).item() == pytest.approx(expected, rel=1e-4)


def test_pkt_does_not_see_the_scale_of_a_sample():
    student, teacher = as_tensors(STUDENT_FEATURE, TEACHER_FEATURE)
    scales = torch.linspace(0.5, 20, 6, dtype=torch.float64)[:, None]
    value = pkt.pkt_loss(student, teacher).item()
    assert pkt.pkt_loss(scales * student @ rotation(7), teacher).item() == pytest.approx(value, rel=1e-5)
    assert pkt.pkt_loss(student, scales * teacher).item() == pytest.approx(value, rel=1e-5)
