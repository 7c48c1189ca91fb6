"""RLD: a formula of its own, value and gradient; its masks; and its warm-up."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from builders import STUDENT, TARGET, TEACHER, as_tensors, log_softmax, numpys, terms

from kdbench.methods.kd import kd_loss
from kdbench.methods.rld import Params, mcd_loss, rld_loss, scd_loss
from kdbench.types import KdbenchError

RNG = np.random.default_rng(6)
LAST = TEACHER.argmin(1)
GAP = np.eye(5)[[0, 1, 2]] * 200.0
CASES = {
    "random": (STUDENT, TEACHER, TARGET),
    "random, many classes": (*(RNG.normal(size=(2, 3, 40)) * 3), np.array([7, 39, 0])),
    "teacher = student": (TEACHER, TEACHER, TARGET),
    "the true class is the teacher's last": (STUDENT, TEACHER, LAST),
    "the teacher is right": (STUDENT, TEACHER, TEACHER.argmax(1)),
    "gap 200": (GAP, GAP[[1, 1, 0]], np.array([3, 1, 0])),
}


def formula(student, teacher, target, alpha, beta, temperature):
    scd, mcd = 0, 0
    for s, t, y in zip(student, teacher, target, strict=True):
        log_s, log_t = log_softmax(s, 0), log_softmax(t, 0)
        top = t.argmax()
        pairs = (log_t[top], log_s[y]), (log_rest(log_t, top), log_rest(log_s, y))
        scd += sum(np.exp(of_t) * (of_t - of_s) for of_t, of_s in pairs)
        below = np.flatnonzero(t < t[y])
        if len(below):
            log_s, log_t = log_softmax(s[below] / temperature, 0), log_softmax(t[below] / temperature, 0)
            mcd += temperature**2 * (np.exp(log_t) * (log_t - log_s)).sum()
    return (alpha * scd + beta * mcd) / len(student)


def log_rest(log_p, index):
    others = np.delete(log_p, index)
    return others.real.max() + np.log(np.exp(others - others.real.max()).sum())


@pytest.mark.parametrize("case", CASES)
def test_rld_is_numpys(case):
    student, teacher, target = CASES[case]
    numpys(
        lambda s: rld_loss(s, *as_tensors(teacher, target), 0.7, 8.0, 4.0),
        lambda s: formula(s, teacher, target, 0.7, 8.0, 4.0),
        student,
    )


def test_a_true_class_that_the_teacher_has_last_leaves_mcd_nothing():
    student, teacher, target = as_tensors(STUDENT, TEACHER, LAST)
    student.requires_grad_()
    value = mcd_loss(student, teacher, target, 4.0)
    (gradient,) = torch.autograd.grad(value, student)
    assert value.item() == 0 and not gradient.any()


def test_mcd_is_kd_among_the_classes_that_the_teacher_ranks_below_the_true_one():
    teacher = torch.tensor([[5.0, 4.0, 1.0, 3.0, 4.0]], dtype=torch.float64)
    student, target = torch.from_numpy(STUDENT[:1]), torch.tensor([1])
    below = torch.tensor([2, 3])
    value = mcd_loss(student, teacher, target, 2.0)
    assert value.item() == pytest.approx(kd_loss(student[:, below], teacher[:, below], 2.0).item())


def test_scd_is_least_where_the_student_is_as_sure_of_the_truth_as_the_teacher_of_its_error():
    teacher = torch.tensor([[4.0, 1.0, 0.0]])
    assert scd_loss(torch.tensor([[1.0, 4.0, 0.0]]), teacher, torch.tensor([1])).item() == pytest.approx(0, abs=1e-6)
    assert scd_loss(teacher, teacher, torch.tensor([1])) > 1


def test_rld_reads_the_arg_max_of_soft_labels():
    student, teacher, target = as_tensors(STUDENT, TEACHER, TARGET)
    soft = 0.6 * F.one_hot(target, 5) + 0.08
    assert rld_loss(student, teacher, soft, 1.0, 8.0, 4.0) == rld_loss(student, teacher, target, 1.0, 8.0, 4.0)


def test_rld_warms_up():
    whole = terms("rld", 0.5)["rld"].item()
    assert terms("rld", 0.05, warmup=0.2)["rld"].item() == pytest.approx(whole / 4)
    assert terms("rld", 0.0)["rld"].item() == 0
    with pytest.raises(KdbenchError, match="share of the training"):
        Params(warmup=20.0)
