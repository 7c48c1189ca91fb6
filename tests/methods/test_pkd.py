"""PKD: a formula of its own, what it does not see, and its projector."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from builders import CLASSES, SIDES, build

from kdbench.methods import pkd
from kdbench.types import PairShapes


@pytest.mark.parametrize("shape", [(5, 3, 2, 4), (5, 3)])
def test_pkd_is_numpys(shape):
    s, t = np.random.default_rng(0).normal(size=(2, *shape)) * 3 + 1
    axes = (0, *range(2, len(shape)))

    def standard(x):
        return (x - x.mean(axes, keepdims=True)) / (x.std(axes, keepdims=True, ddof=1) + 1e-6)

    expected = ((standard(s) - standard(t)) ** 2).mean() / 2
    assert pkd.pkd_loss(torch.from_numpy(s), torch.from_numpy(t)).item() == pytest.approx(expected)
    numbers = np.prod([shape[axis] for axis in axes])
    correlations = [np.corrcoef(s[:, c].ravel(), t[:, c].ravel())[0, 1] for c in range(3)]
    one_minus_r = (1 - np.mean(correlations)) * (numbers - 1) / numbers
    assert expected == pytest.approx(one_minus_r, rel=1e-4)


def test_pkd_is_blind_to_scale_and_offset_of_channels_and_least_at_the_teacher():
    student, teacher = torch.randn(2, 4, 3, 5, 5, dtype=torch.float64)
    scale, offset = torch.tensor([0.5, 2, 9]).view(3, 1, 1).double(), torch.randn(3, 1, 1).double()
    moved = pkd.pkd_loss(scale * student + offset, teacher)
    assert moved.item() == pytest.approx(pkd.pkd_loss(student, teacher).item(), rel=1e-5)
    assert pkd.pkd_loss(scale * teacher + offset, teacher) < 1e-10


def test_pkd_resizes_the_student_where_any_size_differs():
    student, teacher = torch.randn(2, 3, 4, 8), torch.randn(2, 3, 4, 6)
    resized = F.interpolate(student, (4, 6), mode="bilinear")
    assert pkd.pkd_loss(student, teacher) == pkd.pkd_loss(resized, teacher)


def test_pkd_tells_of_its_projector():
    assert build("pkd", {}, "cnn", "mlp").notes() == []
    assert "a Linear takes the student's feature from 16 to 24" in build("pkd", {}, "vit", "mlp").notes()[0]
    assert "a 1x1 convolution" in build("pkd", {"feature": "map"}, "vit", "mlp").notes()[0]


def test_the_pooled_feature_needs_no_stages():
    none = replace(SIDES["cnn"], stages=())
    pair = PairShapes(SIDES["cnn"], none, CLASSES, (0, 1))
    assert "no stages" in pkd.Method.supports(pkd.Params(feature="map"), pair)
    assert pkd.Method.supports(pkd.Params(), pair) is None
