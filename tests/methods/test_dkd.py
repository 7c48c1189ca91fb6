"""DKD: golden values, a formula of its own, its relation to KD, and its warm-up."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from builders import CASES, SETTINGS, STUDENT, TARGET, TEACHER, as_tensors, divergence, given, golden, softmax, terms

from kdbench.methods import dkd
from kdbench.methods.kd import kd_loss
from kdbench.types import KdbenchError


@pytest.mark.parametrize("case", CASES)
def test_dkd_golden(case):
    student, teacher, target = given(case, "student_logits", "teacher_logits", "target")
    settings = SETTINGS[case]
    student.requires_grad_()
    value = dkd.dkd_loss(student, teacher, target, settings["dkd_alpha"], settings["dkd_beta"], settings["dkd_T"])
    golden(case, "dkd", value, student, "student_logits")


def test_dkd_is_numpys():
    tckd, nckd = [], []
    for s, t, y in zip(softmax(STUDENT / 3), softmax(TEACHER / 3), TARGET, strict=True):
        tckd.append(divergence(np.array([t[y], 1 - t[y]]), np.array([s[y], 1 - s[y]])))
        nckd.append(divergence(np.delete(t, y) / (1 - t[y]), np.delete(s, y) / (1 - s[y])))
    value = dkd.dkd_loss(*as_tensors(STUDENT, TEACHER, TARGET), 0.7, 5.0, 3.0)
    assert value.item() == pytest.approx(9 * (0.7 * np.mean(tckd) + 5 * np.mean(nckd)))


def test_dkd_with_the_teachers_own_weights_is_kd():
    """KD = TCKD + (1 - p_target of the teacher) NCKD, Eq. 7 of the paper; one sample, so that beta can be that."""
    student, teacher, target = (x[:1] for x in as_tensors(STUDENT, TEACHER, TARGET))
    rest = 1 - (teacher / 2).softmax(1)[0, target].item()
    value = dkd.dkd_loss(student, teacher, target, 1.0, rest, 2.0)
    assert value.item() == pytest.approx(kd_loss(student, teacher, 2.0).item())


def test_dkd_still_pulls_where_the_students_probability_is_0():
    student = torch.tensor([[400.0, 0.0, 0.0]], requires_grad=True)
    value = dkd.dkd_loss(student, torch.tensor([[0.0, 5.0, 0.0]]), torch.tensor([1]), 1.0, 0.0, 1.0)
    (gradient,) = torch.autograd.grad(value, student)
    assert value.item() > 300 and gradient[0, 1] < -0.9


def test_dkd_reads_the_arg_max_of_soft_labels():
    student, teacher, target = as_tensors(STUDENT, TEACHER, TARGET)
    soft = 0.6 * F.one_hot(target, 5) + 0.08
    assert dkd.dkd_loss(student, teacher, soft, 1.0, 2.0, 1.0) == dkd.dkd_loss(student, teacher, target, 1.0, 2.0, 1.0)


def test_dkd_warms_up():
    whole = terms("dkd", 0.5)["dkd"].item()
    assert terms("dkd", 0.05, warmup=0.2)["dkd"].item() == pytest.approx(whole / 4)
    assert terms("dkd", 0.0, warmup=0.2)["dkd"].item() == 0
    assert terms("dkd", 0.3, warmup=0.2)["dkd"].item() == pytest.approx(whole)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"warmup": 20.0}, "share of the training"),
    ],
)
def test_impossible_settings_are_refused(changes, complaint):
    with pytest.raises(KdbenchError, match=complaint):
        dkd.Params(**changes)
