"""AT: a formula of its own, what it does not see, and grids of one cell."""

import numpy as np
import pytest
import torch
from builders import as_tensors, build

from kdbench.methods import at
from kdbench.types import KdbenchError

RNG = np.random.default_rng(1)


@pytest.mark.parametrize("p", [1, 2, 3])
def test_at_is_numpys(p):
    """Two stages: equal grids, and a student of 4 x 6 cells against a teacher of 2 x 12."""

    def attention(x):
        a = (abs(x) ** p).mean(1).reshape(len(x), -1)
        return a / np.linalg.norm(a, axis=1, keepdims=True)

    students = [RNG.normal(size=(3, 5, 4, 4)), RNG.normal(size=(3, 5, 4, 6))]
    teachers = [RNG.normal(size=(3, 2, 4, 4)), RNG.normal(size=(3, 7, 2, 12))]
    pooled_student = students[1].reshape(3, 5, 2, 2, 6).mean(3)
    pooled_teacher = teachers[1].reshape(3, 7, 2, 6, 2).mean(4)
    expected = ((attention(students[0]) - attention(teachers[0])) ** 2).mean()
    expected += ((attention(pooled_student) - attention(pooled_teacher)) ** 2).mean()
    assert at.at_loss(as_tensors(*students), as_tensors(*teachers), p).item() == pytest.approx(expected)


def test_maps_of_zeros_stay_finite():
    student = torch.zeros(2, 3, 4, 4, requires_grad=True)
    for p in (1, 2):
        value = at.at_loss([student], [torch.randn(2, 3, 4, 4)], p)
        assert value.isfinite() and torch.autograd.grad(value, student)[0].isfinite().all()


def test_at_does_not_see_signs_channels_or_scale():
    student, teacher = torch.randn(2, 3, 6, 4, 4, dtype=torch.float64)
    value = at.at_loss([student], [teacher])
    torch.testing.assert_close(at.at_loss([-5 * student.flip(1)], [teacher]), value)


def test_at_tells_of_stages_of_one_cell():
    assert build("at", {}, "cnn", "vit").notes() == []
    assert build("at", {}, "cnn 1x1", "vit").notes() == [
        "the coarser grid has one cell, so the term is 0, at stage 4",
    ]


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"p": 0}, "p must be at least 1"),
    ],
)
def test_impossible_settings_are_refused(changes, complaint):
    with pytest.raises(KdbenchError, match=complaint):
        at.Params(**changes)
