"""What "low" and "high" mean in kdbench; no other file decides it.

Two notions that must not be confused:

- **Channel bands** (FD-CMKD): a pooled vector (..., D) is transformed along its channels. Low is bins 1..D//4 of the
  rfft (and bin 0 where the DC component is kept), high is the rest. Channel order carries no meaning, so these are two
  fixed complementary projections; they are called frequencies because the paper calls them so.
- **Spatial bands** (UHKD and the similarity analysis): a map (B, C, H, W) is transformed over its grid. Frequencies are
  counted in cycles per image, so that the same band can be cut out of two grids of different size.

Everything is computed in fp32, or in fp64 where the input is; gradients flow.
"""

from __future__ import annotations

import functools

import torch
import torch.nn.functional as F
from torch import Tensor

from kdbench.tensors import to_device
from kdbench.types import KdbenchError

Grid = tuple[int, int]

SMALLEST_BANDED_GRID = 8
"""Below this many cells an axis has too few frequencies to be cut into low and high."""


def full_precision(x: Tensor) -> Tensor:
    """x in fp32, or in fp64 if it is: half-precision FFTs lose the small amplitudes and need powers of two."""
    return x if x.dtype == torch.float64 else x.float()


# ------------------------------------------------------------------------------------------------------------- channels


def split_channels(x: Tensor, keep_dc: bool = False) -> tuple[Tensor, Tensor]:
    """Low and high band of features (..., D) along their channels, each (..., D), for any D.

    low + high is x with `keep_dc`, and x minus its mean over channels without. For D = 512 and without DC these are the
    bands of FD-CMKD as released (zxn0710/re-FD-CMKD-main at feda414: bins 1..128 and 129..256 of 257); with DC, those
    of its similarity notebook (bins 0..128).
    """
    x = full_precision(x)
    width = x.shape[-1]
    spectrum = torch.fft.rfft(x, dim=-1)
    bins = torch.arange(spectrum.shape[-1], device=x.device)
    low = (bins <= width // 4) & (bins >= (0 if keep_dc else 1))
    high = bins > width // 4
    return torch.fft.irfft(spectrum * low, n=width, dim=-1), torch.fft.irfft(spectrum * high, n=width, dim=-1)


# ---------------------------------------------------------------------------------------------------------------- space


def coarser_grid(grid_a: Grid, grid_b: Grid) -> Grid:
    """The smaller number of cells along each axis."""
    return min(grid_a[0], grid_b[0]), min(grid_a[1], grid_b[1])


def spectrum(x: Tensor, norm: str = "ortho", half: bool = False) -> Tensor:
    """Complex spectrum of maps (B, C, H, W) with frequency 0 in the middle.

    half: keep the non-negative horizontal frequencies only (rfft2); these are not shifted, so column 0 is frequency 0.
    """
    if half:
        return torch.fft.fftshift(torch.fft.rfft2(full_precision(x), norm=norm), dim=-2)
    return torch.fft.fftshift(torch.fft.fft2(full_precision(x), norm=norm), dim=(-2, -1))


def frequencies(grid: Grid, half: bool = False) -> tuple[Tensor, Tensor]:
    """Vertical (H, 1) and horizontal (1, W) frequencies of `spectrum`'s bins, in cycles per image."""
    rows, columns = grid
    vertical = torch.fft.fftshift(torch.fft.fftfreq(rows, 1 / rows))
    if half:
        return vertical[:, None], torch.fft.rfftfreq(columns, 1 / columns)[None, :]
    return vertical[:, None], torch.fft.fftshift(torch.fft.fftfreq(columns, 1 / columns))[None, :]


def crop_size(grid_a: Grid, grid_b: Grid, largest: int = 7, half_nyquist: bool = True) -> Grid:
    """Size (rows, columns) of the centred low-pass crop of two spectra, odd along each axis (UHKD, decision 6).

    The crop ends at `largest`, and at half the Nyquist frequency of the coarser grid, n / 4 cycles per image, so that
    both sides lose their high frequencies: 56 or 14 cells -> 7, 8 -> 5, 7 or 4 -> 3, 2 or 1 -> 1.
    half_nyquist=False: the largest odd size that fits the coarser grid, at most `largest`.
    """
    return tuple(
        min(largest, 2 * (cells // 4) + 1 if half_nyquist else cells - (cells + 1) % 2)
        for cells in coarser_grid(grid_a, grid_b)
    )


def crop(shifted: Tensor, size: Grid, half: bool = False) -> Tensor:
    """The centre of a `spectrum`: the frequencies up to (size - 1) / 2 cycles per image along each axis; odd sizes."""
    reach_rows, reach_columns = size[0] // 2, size[1] // 2
    middle_row, middle_column = shifted.shape[-2] // 2, 0 if half else shifted.shape[-1] // 2
    rows = slice(middle_row - reach_rows, middle_row + reach_rows + 1)
    columns = slice(middle_column - (0 if half else reach_columns), middle_column + reach_columns + 1)
    return shifted[..., rows, columns]


def low_spectrum(x: Tensor, size: Grid, norm: str = "ortho", half: bool = False) -> tuple[Tensor, Tensor]:
    """Real and imaginary part of crop(spectrum(x, norm, half), size, half), without computing the rest.

    Two products with cosines and sines of the few frequencies wanted; on a CPU several times faster than the whole
    transform, forward and backward.
    """
    x = full_precision(x)
    rows, columns = x.shape[-2:]
    scale = (rows * columns) ** (-0.5 if norm == "ortho" else -1.0)
    with torch.autocast(x.device.type, enabled=False):
        across = x @ _waves(columns, size[1] // 2, half, x.device, x.dtype).T
        both = (_waves(rows, size[0] // 2, False, x.device, x.dtype) * scale) @ across
    (cos_cos, cos_sin), (sin_cos, sin_sin) = (part.chunk(2, dim=-1) for part in both.chunk(2, dim=-2))
    return cos_cos - sin_sin, -cos_sin - sin_cos


@functools.cache
def _waves(cells: int, reach: int, half: bool, device: torch.device, dtype: torch.dtype) -> Tensor:
    """(2 F, cells): cosines, then sines, of the frequencies -reach..reach (0..reach if half) on a grid of cells."""
    frequency = torch.arange(0 if half else -reach, reach + 1, dtype=torch.float64)
    # Whole turns are taken off in integers, where nothing is rounded.
    phase = 2 * torch.pi * (frequency[:, None] * torch.arange(cells) % cells) / cells
    return to_device(torch.cat([phase.cos(), phase.sin()]).to(dtype), device)


def no_bands(grid_a: Grid, grid_b: Grid) -> str | None:
    """None, or why maps on these two grids cannot be compared in low and high bands."""
    if (1 in grid_a) != (1 in grid_b):
        return f"a sequence and an image have no frequency in common ({_cells(grid_a)} and {_cells(grid_b)})"
    grid = coarser_grid(grid_a, grid_b)
    if max(grid) == 1 or any(1 < cells < SMALLEST_BANDED_GRID for cells in grid):
        return f"the coarser grid ({_cells(grid)}) is smaller than {SMALLEST_BANDED_GRID}"
    return None


def bands(x: Tensor, grid: Grid) -> dict[str, Tensor]:
    """DC, low and high band of maps (B, C, H, W), each resampled to `grid` (h, w): (B, C, h, w).

    `grid` is the coarser of the two grids to compare. All frequencies below its Nyquist frequency are kept (the Nyquist
    bin itself is not: an even grid cannot hold its phase), cut by their radius: low is 0 < radius <= half the Nyquist
    frequency, n / 4 cycles per image; high is the rest; on a grid that is not square the radius is measured in units of
    each axis' Nyquist frequency. Resampling is by truncation of the spectrum, so amplitudes and phases are those of the
    input, whatever its grid. The three bands sum to the truncated signal.
    Raises KdbenchError where `no_bands` gives a reason, or if x is coarser than `grid`.
    """
    own = (x.shape[-2], x.shape[-1])
    reason = no_bands(own, grid)
    if reason or coarser_grid(own, grid) != grid:
        raise KdbenchError(reason or f"maps on {_cells(own)} hold less than the bands of {_cells(grid)}")
    below_nyquist = tuple(cells - (cells + 1) % 2 for cells in grid)
    kept = crop(spectrum(x, norm="forward"), below_nyquist)
    vertical, horizontal = frequencies(below_nyquist)
    radius = torch.hypot(vertical / (grid[0] / 2), horizontal / (grid[1] / 2)).to(x.device)
    masks = {"dc": radius == 0, "low": (radius > 0) & (radius <= 0.5), "high": radius > 0.5}
    padding = (grid[1] - below_nyquist[1], 0, grid[0] - below_nyquist[0], 0)
    return {
        name: torch.fft.ifft2(torch.fft.ifftshift(F.pad(kept * mask, padding), dim=(-2, -1)), norm="forward").real
        for name, mask in masks.items()
    }


def _cells(grid: Grid) -> str:
    return f"{grid[0]}x{grid[1]}"
