"""CC: golden values, a formula of its own, and the order of the batch."""

import numpy as np
import pytest
import torch
from builders import CASES, STUDENT_FEATURE, TEACHER_FEATURE, as_tensors, build, given, golden

from kdbench.methods import cc
from kdbench.types import KdbenchError


@pytest.mark.parametrize("case", CASES)
def test_cc_golden(case):
    student, teacher = given(case, "cc_student_embedding", "cc_teacher_embedding")
    student.requires_grad_()
    golden(case, "cc", cc.cc_loss(student, teacher), student, "student_embedding")


def test_cc_is_numpys():
    s, t = STUDENT_FEATURE[:, :4], TEACHER_FEATURE
    expected = np.mean([(abs(s[b] - t[b]) * abs(s[b + 1] - t[b + 1])).sum() for b in range(5)])
    assert cc.cc_loss(*as_tensors(s, t)).item() == pytest.approx(expected)


def test_cc_trains_both_embeddings():
    student, teacher = (torch.randn(6, 5, requires_grad=True) for _ in range(2))
    cc.cc_loss(student, teacher).backward()
    torch.testing.assert_close(student.grad, -teacher.grad)


def test_cc_depends_on_the_order_of_the_batch():
    student, teacher = as_tensors(STUDENT_FEATURE[:, :4], TEACHER_FEATURE)
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    value = cc.cc_loss(student, teacher)
    assert cc.cc_loss(student[order], teacher[order]).item() != pytest.approx(value.item(), rel=1e-3)
    torch.testing.assert_close(cc.cc_loss(student.flip(0), teacher.flip(0)), value)
    # The last sample meets its predecessor only: without a difference there, it counts for nothing.
    teacher[4] = student[4]
    elsewhere = student.clone()
    elsewhere[5] += 10
    assert cc.cc_loss(elsewhere, teacher) == cc.cc_loss(student, teacher)


def test_cc_embeds_both_sides():
    distiller = build("cc", {}, "vit", "mlp")
    assert (distiller.embed_student.in_features, distiller.embed_teacher.in_features) == (16, 24)
    assert distiller.embed_student.out_features == distiller.embed_teacher.out_features == 128


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"width": 0}, "width"),
    ],
)
def test_impossible_settings_are_refused(changes, complaint):
    with pytest.raises(KdbenchError, match=complaint):
        cc.Params(**changes)
