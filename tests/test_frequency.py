"""Low and high, for channels and for space."""

import numpy as np
import pytest
import torch

from kdbench.frequency import bands, crop, crop_size, frequencies, low_spectrum, no_bands, spectrum, split_channels
from kdbench.types import KdbenchError


@pytest.mark.parametrize("width", [1, 2, 3, 4, 5, 7, 8, 30, 33, 512])
def test_channel_bands_sum_to_the_input(width):
    x = torch.randn(3, 2, width, dtype=torch.float64) + 1.5
    low, high = split_channels(x, keep_dc=True)
    torch.testing.assert_close(low + high, x, rtol=0, atol=1e-12)
    low, high = split_channels(x)
    torch.testing.assert_close(low + high, x - x.mean(-1, keepdim=True), rtol=0, atol=1e-12)
    torch.testing.assert_close((low * high).sum(-1), torch.zeros(3, 2, dtype=torch.float64), rtol=0, atol=1e-10)


@pytest.mark.parametrize("width", [5, 8, 33, 512])
@pytest.mark.parametrize("keep_dc", [False, True])
def test_channel_bands_are_numpys(width, keep_dc):
    x = np.random.default_rng(0).normal(size=(4, width))
    coefficients = np.fft.rfft(x, axis=1)
    coefficients[:, width // 4 + 1 :] = 0
    if not keep_dc:
        coefficients[:, 0] = 0
    low, _ = split_channels(torch.from_numpy(x), keep_dc)
    np.testing.assert_allclose(low.numpy(), np.fft.irfft(coefficients, n=width, axis=1), atol=1e-12)


def test_half_precision_is_transformed_in_fp32():
    low, high = split_channels(torch.randn(2, 30, dtype=torch.bfloat16))
    assert low.dtype == high.dtype == torch.float32


@pytest.mark.parametrize(
    ("cells", "size"), [(56, 7), (28, 7), (14, 7), (12, 7), (11, 5), (8, 5), (7, 3), (4, 3), (3, 1), (2, 1), (1, 1)]
)
def test_crop_sizes(cells, size):
    assert crop_size((cells, cells), (56, 56)) == (size, size)
    assert crop_size((56, 1), (cells, 64)) == (size, 1)


def test_crop_of_seven_throughout():
    assert [crop_size((n, n), (56, 56), half_nyquist=False)[0] for n in (14, 8, 7, 4, 2, 1)] == [7, 7, 7, 3, 1, 1]


@pytest.mark.parametrize("grid", [(8, 8), (7, 7), (14, 9), (1, 32)])
@pytest.mark.parametrize("half", [False, True])
def test_crop_keeps_the_named_frequencies(grid, half):
    size = crop_size(grid, grid)
    vertical, horizontal = frequencies(grid, half)
    radius = (vertical.abs() + 100 * horizontal.abs()).expand(1, 1, -1, -1)
    assert spectrum(torch.randn(1, 1, *grid), half=half).shape == radius.shape
    kept = crop(radius, size, half)
    assert kept.max() == size[0] // 2 + 100 * (size[1] // 2)
    assert kept.shape[-2:] == (size[0], size[1] // 2 + 1 if half else size[1])


def test_a_cosine_has_the_same_crop_on_every_grid():
    crops = []
    for cells in (8, 14, 56):
        angle = 2 * torch.pi * torch.arange(cells, dtype=torch.float64) / cells
        maps = (0.5 + torch.cos(2 * angle)[:, None] * torch.cos(angle + 0.3)[None, :]).expand(1, 1, -1, -1)
        crops.append(crop(spectrum(maps, norm="forward"), (5, 5)))
    torch.testing.assert_close(crops[0], crops[1])
    torch.testing.assert_close(crops[0], crops[2])


@pytest.mark.parametrize("own", [8, 14, 16])
@pytest.mark.parametrize("cycles", [0, 1, 2, 3])
def test_bands_put_a_cosine_where_it_belongs(own, cycles):
    angle = 2 * torch.pi * torch.arange(own, dtype=torch.float64) / own
    maps = torch.cos(cycles * angle + 0.4).expand(1, 1, own, own)
    cut = bands(maps, (8, 8))
    home = "dc" if cycles == 0 else "low" if cycles <= 2 else "high"
    expected = torch.cos(cycles * 2 * torch.pi * torch.arange(8, dtype=torch.float64) / 8 + 0.4).expand(1, 1, 8, 8)
    for band, signal in cut.items():
        torch.testing.assert_close(signal, expected if band == home else torch.zeros_like(expected), rtol=0, atol=1e-12)


def test_bands_sum_to_the_truncated_signal():
    x = torch.randn(2, 3, 14, 14, dtype=torch.float64)
    coefficients = np.fft.fftshift(np.fft.fft2(x.numpy(), norm="forward"), axes=(-2, -1))
    truncated = np.zeros((2, 3, 8, 8), dtype=complex)
    truncated[..., 1:, 1:] = coefficients[..., 4:11, 4:11]
    expected = np.fft.ifft2(np.fft.ifftshift(truncated, axes=(-2, -1)), norm="forward")
    assert abs(expected.imag).max() < 1e-12
    np.testing.assert_allclose(sum(bands(x, (8, 8)).values()).numpy(), expected.real, atol=1e-12)


def test_bands_of_a_sequence():
    cut = bands(torch.randn(2, 3, 1, 64), (1, 32))
    assert {band: tuple(signal.shape) for band, signal in cut.items()} == dict.fromkeys(
        ("dc", "low", "high"), (2, 3, 1, 32)
    )
    assert cut["high"].abs().max() > 0.1


def test_no_bands_says_why():
    assert no_bands((8, 8), (56, 56)) is None
    assert no_bands((1, 32), (1, 64)) is None
    assert "7x7" in no_bands((7, 7), (56, 56))
    assert "1x1" in no_bands((1, 1), (1, 1))
    assert "sequence" in no_bands((1, 32), (8, 8))
    with pytest.raises(KdbenchError, match="smaller than 8"):
        bands(torch.randn(1, 1, 14, 14), (7, 7))
    with pytest.raises(KdbenchError, match="hold less"):
        bands(torch.randn(1, 1, 8, 8), (14, 14))


@pytest.mark.parametrize("grid", [(8, 8), (7, 9), (1, 16), (4, 14)])
@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("norm", ["ortho", "forward"])
def test_low_spectrum_is_the_cropped_spectrum(grid, half, norm):
    x = torch.randn(3, 2, *grid, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    size = crop_size(grid, grid)
    expected = crop(spectrum(x, norm, half), size, half)
    real, imaginary = low_spectrum(x, size, norm, half)
    assert torch.allclose(real, expected.real, atol=1e-12) and torch.allclose(imaginary, expected.imag, atol=1e-12)
