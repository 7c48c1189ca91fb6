"""SpectralKD: a formula of its own, value and gradient; and that it is a spatial loss (Parseval)."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from builders import numpys, terms

from kdbench.frequency import spectrum
from kdbench.methods.spectralkd import spectral_loss, spectralkd_loss

RNG = np.random.default_rng(7)
CASES = {
    "random": (RNG.normal(size=(2, 3, 4, 5)), RNG.normal(size=(2, 6, 4, 5))),
    "random, uneven groups, odd grid": (RNG.normal(size=(1, 4, 3, 3)), RNG.normal(size=(1, 7, 3, 3)) * 5 + 1),
    "gap 200": (np.zeros((1, 2, 2, 4)), np.full((1, 2, 2, 4), 200.0)),
}
CASES["teacher = student"] = (CASES["random"][0], CASES["random"][0])


def pooled(maps, channels):
    """Means of neighbouring channels; groups begin at floor(i n / m) and end at ceil((i + 1) n / m)."""
    n = maps.shape[1]
    groups = [slice(i * n // channels, -(-(i + 1) * n // channels)) for i in range(channels)]
    return np.stack([maps[:, group].mean(1) for group in groups], 1)


def formula(student, teacher):
    rows, columns = student.shape[2:]
    difference = student - pooled(teacher, student.shape[1])
    u, v, y, x = np.ix_(range(rows), range(columns // 2 + 1), range(rows), range(columns))
    phase = 2 * np.pi * (u * y / rows + v * x / columns)
    parts = [np.einsum("ncyx,uvyx->ncuv", difference, wave(phase)) for wave in (np.cos, np.sin)]
    return np.mean([part**2 for part in parts]) / (rows * columns)


@pytest.mark.parametrize("case", CASES)
def test_spectralkd_is_numpys(case):
    student, teacher = CASES[case]
    numpys(lambda s: spectral_loss(s, torch.from_numpy(teacher)), lambda s: formula(s, teacher), student)


@pytest.mark.parametrize("grid", [(4, 6), (7, 5), (1, 8), (6, 1)])
def test_with_inner_columns_counted_twice_it_is_half_the_spatial_mse(grid):
    student, teacher = torch.randn(2, 3, 5, *grid, dtype=torch.float64)
    bins = grid[0] * (grid[1] // 2 + 1)
    squares = spectrum(student - teacher, half=True).abs().square()
    assert spectral_loss(student, teacher).item() == pytest.approx((squares.sum() / (2 * 15 * bins)).item())
    twice = torch.full((grid[1] // 2 + 1,), 2.0, dtype=torch.float64)
    twice[0] = 1
    if grid[1] % 2 == 0:
        twice[-1] = 1
    assert ((squares * twice).sum() / (2 * student.numel())).item() == pytest.approx(
        F.mse_loss(student, teacher).item() / 2
    )


def test_two_columns_have_no_inner_one_so_it_is_half_the_spatial_mse():
    student, teacher = torch.randn(2, 3, 5, 7, 2, dtype=torch.float64)
    assert spectral_loss(student, teacher).item() == pytest.approx(F.mse_loss(student, teacher).item() / 2)


def test_grids_meet_on_the_coarser_one_and_a_wider_student_meets_repeated_channels():
    student, teacher = torch.randn(2, 6, 8, 4), torch.randn(2, 3, 4, 8)
    met = spectral_loss(F.adaptive_avg_pool2d(student, 4), F.adaptive_avg_pool2d(teacher, 4).repeat_interleave(2, 1))
    assert spectral_loss(student, teacher).item() == pytest.approx(met.item())


def test_stages_are_averaged_and_the_kl_term_can_go():
    maps = [torch.randn(2, 3, n, n) for n in (4, 2)], [torch.randn(2, 3, n, n) for n in (4, 2)]
    each = [spectral_loss(s, t).item() for s, t in zip(*maps, strict=True)]
    assert spectralkd_loss(*maps).item() == pytest.approx(np.mean(each))
    assert set(terms("spectralkd")) == {"ce", "spectralkd", "kd"}
    assert set(terms("spectralkd", kd_weight=0.0)) == {"ce", "spectralkd"}
