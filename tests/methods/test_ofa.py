"""OFA: golden values, a formula of its own, and the released exit branches."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from builders import CASES, CLASSES, SETTINGS, SIDES, STUDENT, TARGET, TEACHER, given, golden, softmax

from kdbench.methods import ofa
from kdbench.methods.ofa import ofa_loss
from kdbench.types import KdbenchError, PairShapes


@pytest.mark.parametrize("case", CASES)
def test_ofa_golden(case):
    student, teacher, target = given(case, "student_logits", "teacher_logits", "target")
    student.requires_grad_()
    value = ofa_loss(student, teacher, target, SETTINGS[case]["ofa_eps"], SETTINGS[case]["ofa_T"])
    golden(case, "ofa", value, student, "student_logits")


@pytest.mark.parametrize("eps", [0.7, 1.0, 1.5])
def test_ofa_is_numpys(eps):
    s, t, y = softmax(STUDENT / 2), softmax(TEACHER / 2), np.eye(5)[TARGET]
    expected = -(((t + y) ** eps - y) * np.log(s)).sum(1).mean()
    arguments = torch.from_numpy(STUDENT), torch.from_numpy(TEACHER), torch.from_numpy(TARGET)
    assert ofa_loss(*arguments, eps, 2.0).item() == pytest.approx(expected)


def test_ofa_with_eps_1_is_soft_cross_entropy():
    student, teacher = torch.from_numpy(STUDENT), torch.from_numpy(TEACHER)
    value = ofa_loss(student, teacher, torch.from_numpy(TARGET), 1.0, 1.0)
    assert value.item() == pytest.approx(F.cross_entropy(student, teacher.softmax(1)).item())


def test_ofa_reads_the_arg_max_of_soft_labels():
    student, teacher, target = torch.from_numpy(STUDENT), torch.from_numpy(TEACHER), torch.from_numpy(TARGET)
    soft = 0.6 * F.one_hot(target, 5) + 0.08
    assert ofa_loss(student, teacher, soft, 1.4) == ofa_loss(student, teacher, target, 1.4)


def test_ofa_branches_are_the_released_ones():
    teacher = replace(SIDES["cnn"], pooled=40)
    branches = ofa.Method(ofa.Params(), PairShapes(SIDES["cnn"], teacher, CLASSES, 100)).branches
    depthwise = [
        [m.in_channels for m in b.modules() if isinstance(m, torch.nn.Conv2d) and m.groups > 1] for b in branches
    ]
    assert depthwise == [[8, 8, 16, 16, 32, 32], [12, 12, 24, 24], [16, 16], []]
    assert [branch[-1].in_features for branch in branches] == [40] * 4
    swin = replace(SIDES["swin"], stages=((96, 56, 56), (192, 28, 28), (384, 14, 14), (768, 7, 7)), pooled=768)
    branches = ofa.Method(ofa.Params(), PairShapes(swin, teacher, CLASSES, 100)).branches
    assert [len(b.merge) for b in branches] == [3, 2, 1, 0]
    assert [len(b.blocks) for b in branches] == [3, 2, 1, 1]
    assert [type(m.activation).__name__ for m in branches[0].merge] == ["GELU", "GELU", "Identity"]
    assert branches[0].merge(torch.randn(1, 56, 56, 96)).shape == (1, 7, 7, 768)


def test_patch_merging_joins_neighbours():
    merging = ofa.PatchMerging(1, 4, 2, 2, torch.nn.Identity())
    merging.norm, merging.reduction = torch.nn.Identity(), torch.nn.Identity()
    joined = merging(torch.arange(16.0).view(1, 4, 4, 1))
    assert joined[0, 0, 1].tolist() == [2, 3, 6, 7]


@pytest.mark.parametrize("eps", [(1.0, 1.0), 0.0, -1.0])
def test_ofa_refuses_a_wrong_eps(eps):
    with pytest.raises(KdbenchError, match="eps"):
        ofa.Params(eps=eps)
