"""VID: a likelihood of its own, where it is least, and its variances."""

import numpy as np
import pytest
import torch
from builders import build

from kdbench.methods import vid
from kdbench.types import KdbenchError


def test_vid_is_a_gaussian_likelihood_without_its_constant():
    predicted, target = torch.randn(2, 3, 4, 5, 5, dtype=torch.float64)
    variance = torch.rand(4, dtype=torch.float64) + 0.1
    normal = torch.distributions.Normal(predicted, variance.sqrt()[:, None, None])
    expected = -normal.log_prob(target).mean() - np.log(2 * np.pi) / 2
    assert vid.vid_loss(predicted, variance, target).item() == pytest.approx(expected.item())


def test_vid_is_least_at_the_teacher_and_its_own_spread():
    teacher = torch.randn(50, 2, 4, 4, dtype=torch.float64)
    residual = 0.3 * torch.randn_like(teacher)
    variance = residual.square().mean((0, 2, 3)).requires_grad_()
    (gradient,) = torch.autograd.grad(vid.vid_loss(teacher + residual, variance, teacher), variance)
    assert gradient.abs().max() < 1e-12
    fixed = variance.detach()
    assert vid.vid_loss(teacher, fixed, teacher) < vid.vid_loss(teacher + residual, fixed, teacher)


def test_vid_variance_starts_where_it_is_told():
    for changes, value in (({}, 5.0), ({"initial_variance": 0.1}, 0.1)):
        for stage in build("vid", changes, "vit", "cnn").stages:
            torch.testing.assert_close(stage.variance, torch.full_like(stage.variance, value))


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"initial_variance": 0.0}, "initial_variance"),
    ],
)
def test_impossible_settings_are_refused(changes, complaint):
    with pytest.raises(KdbenchError, match=complaint):
        vid.Params(**changes)
