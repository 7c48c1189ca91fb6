"""SP: golden values, a formula of its own, and what it does not see."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from builders import CASES, CLASSES, SIDES, STUDENT_FEATURE, TEACHER_FEATURE, as_tensors, given, golden, rotation

from kdbench.methods import sp
from kdbench.types import PairShapes


@pytest.mark.parametrize("case", CASES)
def test_sp_golden(case):
    student, teacher = given(case, "student_feature", "teacher_feature")
    student.requires_grad_()
    golden(case, "sp", sp.sp_loss(student, teacher), student, "student_feature")


def test_sp_is_numpys():
    def rows(x):
        gram = x @ x.T
        return gram / np.linalg.norm(gram, axis=1, keepdims=True)

    expected = ((rows(STUDENT_FEATURE) - rows(TEACHER_FEATURE)) ** 2).sum() / 36
    assert sp.sp_loss(*as_tensors(STUDENT_FEATURE, TEACHER_FEATURE)).item() == pytest.approx(expected)


def test_sp_flattens_maps_of_any_two_shapes():
    maps, other = torch.randn(4, 3, 5, 5), torch.randn(4, 6, 2, 1)
    assert sp.sp_loss(maps, other) == sp.sp_loss(maps.flatten(1), other.flatten(1))


def test_sp_does_not_see_rotations_or_the_overall_scale():
    student, teacher = as_tensors(STUDENT_FEATURE, TEACHER_FEATURE)
    value = sp.sp_loss(student, teacher).item()
    assert sp.sp_loss(4 * student @ rotation(7), teacher).item() == pytest.approx(value)


def test_the_pooled_feature_needs_no_stages():
    few = replace(SIDES["cnn"], stages=())
    assert sp.Method.supports(sp.Params(feature="pooled"), PairShapes(few, few, CLASSES, (0,))) is None
