"""How alike two networks' features are, each number with its null model.

Two measures:

- **Linear CKA**, unbiased: HSIC_1 of Song et al. (JMLR 2012) in the ratio of Nguyen et al. (ICLR 2021), from Gram
  matrices in fp64. The usual biased estimator gives 0.51 for independent Gaussians at n = 500, D = 512; this one 0.
  Invariant to rotation, scale and offset of either side, so widths may differ.
- **Cosine** of paired vectors, the measure of FD-CMKD's similarity figure. It assumes that channel i means the same in
  both networks, which independently trained networks do not promise, and it sees any shared offset: hence the
  treatments of `channel_similarity`. `rotated_similarity` gives two networks a common basis first.

And one description of a single network: the radial power spectrum of its maps, in cycles per image.

The same seed gives the same numbers; no global random state is read or changed.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from scipy.linalg import orthogonal_procrustes
from torch import Tensor

from kdbench.frequency import bands, coarser_grid, frequencies, full_precision, no_bands, spectrum, split_channels
from kdbench.types import KdbenchError

QUANTILES = (0.025, 0.975)


# ------------------------------------------------------------------------------------------------------------------ CKA


def gram(features: Tensor) -> np.ndarray | None:
    """Linear Gram matrix (N, N) of features (N, ...) in fp64, its diagonal 0 as HSIC_1 wants it; None if constant."""
    features = features.flatten(1).double()
    # HSIC_1 does not see an offset; taking it out first keeps the digits.
    centred = features - features.mean(dim=0)
    if centred.norm() <= 1e-10 * features.norm():
        return None
    return (centred @ centred.T).fill_diagonal_(0).cpu().numpy()


def hsic(trace: float, sums_a: np.ndarray, sums_b: np.ndarray) -> float:
    """HSIC_1, eq. 5 of Song et al. (JMLR 2012), from tr(K L) and the row sums (N,) of K and L, diagonals 0."""
    n = len(sums_a)
    means = sums_a.sum() * sums_b.sum() / ((n - 1) * (n - 2))
    return float((trace + means - 2 / (n - 2) * (sums_a @ sums_b)) / (n * (n - 3)))


def cka_with_null(
    a: Tensor, b: Tensor, permutations: int = 200, seed: int = 0
) -> tuple[float | None, float | None, float | None]:
    """Unbiased linear CKA of features a (N, ...) and b (N, ...) and the 2.5 and 97.5 % quantiles of its null.

    The null shuffles which b belongs to which a, on the same samples. All three are None where a side does not
    vary, or so little on few samples that its own estimate is not positive.
    Raises KdbenchError for fewer than four samples or unequal numbers of them.
    """
    _check_samples(a, b)
    return _cka_of_grams(gram(a), gram(b), permutations, seed)


def _check_samples(a: Tensor, b: Tensor) -> None:
    if len(a) != len(b) or len(a) < 4:
        raise KdbenchError(f"CKA needs at least four samples, as many on both sides; got {len(a)} and {len(b)}")


def _cka_of_grams(
    gram_a: np.ndarray | None, gram_b: np.ndarray | None, permutations: int, seed: int
) -> tuple[float | None, float | None, float | None]:
    """`cka_with_null` from the Gram matrices of the two sides."""
    if gram_a is None or gram_b is None:
        return None, None, None
    sums_a, sums_b = gram_a.sum(axis=0), gram_b.sum(axis=0)
    own_a = hsic(np.vdot(gram_a, gram_a), sums_a, sums_a)
    own_b = hsic(np.vdot(gram_b, gram_b), sums_b, sums_b)
    if own_a <= 0 or own_b <= 0:
        return None, None, None
    scale = np.sqrt(own_a * own_b)

    rng = np.random.default_rng(seed)
    null = []
    for _ in range(permutations):
        order = rng.permutation(len(gram_a))
        # take() along one axis after the other is three times as fast as indexing with two arrays.
        trace = np.vdot(gram_a, gram_b.take(order, axis=0).take(order, axis=1))
        null.append(hsic(trace, sums_a, sums_b[order]) / scale)
    low, high = map(float, np.quantile(null, QUANTILES)) if null else (None, None)
    return float(hsic(np.vdot(gram_a, gram_b), sums_a, sums_b) / scale), low, high


def cka(a: Tensor, b: Tensor) -> float | None:
    """Unbiased linear CKA of features a (N, ...) and b (N, ...); None where a side does not vary."""
    return cka_with_null(a, b, permutations=0)[0]


def stage_similarity(
    student_stages: Sequence[Tensor], teacher_stages: Sequence[Tensor], permutations: int = 200, seed: int = 0
) -> list[dict]:
    """CKA of stage i with stage i in DC, low and high spatial band (frequency.py), for maps (N, C, H, W) of one batch.

    One row a stage and band: {"stage": 1.., "band": "dc" | "low" | "high", "cka": float | None, "null_low": float |
    None, "null_high": float | None, "reason": None | str}. The null quantiles are those of `cka_with_null`. The DC band
    is the mean over the grid and exists on every grid; low and high come with a reason instead of a number where the
    coarser grid is too small.
    """
    return stage_similarity_to(teacher_stages, permutations, seed)(student_stages)


def stage_similarity_to(
    teacher_stages: Sequence[Tensor],
    permutations: int = 200,
    seed: int = 0,
    grids: Sequence[tuple[int, int]] | None = None,
) -> Callable[[Sequence[Tensor]], list[dict]]:
    """`stage_similarity` of any number of students to one teacher, whose bands and Gram matrices are computed once.

    grids: (H, W) a stage that the bands are cut for in place of the teacher's, so that they are those of another pair.
    """

    @functools.cache
    def teacher_grams(i: int, grid: tuple[int, int] | None) -> dict[str, np.ndarray | None]:
        return _band_grams(teacher_stages[i], grid)

    def similarity(student_stages: Sequence[Tensor]) -> list[dict]:
        rows = []
        for i, (student, teacher) in enumerate(zip(student_stages, teacher_stages, strict=True)):
            _check_samples(student, teacher)
            own, other = tuple(student.shape[-2:]), grids[i] if grids else tuple(teacher.shape[-2:])
            reason = no_bands(own, other)
            grid = coarser_grid(own, other) if reason is None else None
            student_grams = _band_grams(student, grid)
            for band in ("dc", "low", "high"):
                value, low, high, why = None, None, None, reason
                if band in student_grams:
                    pair = student_grams[band], teacher_grams(i, grid)[band]
                    value, low, high = _cka_of_grams(*pair, permutations, seed)
                    why = None if value is not None else "a side does not vary in this band"
                row = {"stage": i + 1, "band": band, "cka": value, "null_low": low, "null_high": high, "reason": why}
                rows.append(row)
        return rows

    return similarity


def _band_grams(maps: Tensor, grid: tuple[int, int] | None) -> dict[str, np.ndarray | None]:
    """{band: Gram matrix} of maps (N, C, H, W) cut for the coarser grid of a pair; without one, of the mean alone."""
    features = {**(bands(maps, grid) if grid else {}), "dc": maps.mean(dim=(-2, -1))}
    return {band: gram(x) for band, x in features.items()}


# -------------------------------------------------------------------------------------------------------------- spectra


def radial_power(maps: Tensor) -> dict[str, list[float | None]]:
    """Power spectrum of maps (N, C, H, W) by radius in cycles per image, as shares, and that of white noise.

    {"power": [...], "white": [...]}, each 1 + n long, n = the Nyquist frequency of the coarser axis (min(H, W) // 2; an
    axis of one cell does not count). Entry 0 is the share of DC in the power up to n; entry r >= 1 is the share of the
    ring of radius r (rounded) in the power of rings 1..n, so that these sum to 1 and networks of any scale and grid
    compare. "white" is what independent cells give on this grid, "power" is None where nothing varies.

    The mean map over samples is taken off first: what is the same for every input (biases, position embeddings, the
    border's padding) is no feature of it, and CKA does not see it either. Power is summed over samples and channels.
    """
    maps = full_precision(maps)
    varying = maps - maps.mean(dim=0)
    varying *= varying.norm() > 1e-6 * maps.norm()  # less is the rounding of the mean
    # In parts: the complex spectrum of all samples at once is the largest thing a similarity job would hold.
    power = sum(spectrum(part).abs().square().sum(dim=(0, 1)).double() for part in varying.split(32)).cpu()
    grid = (maps.shape[-2], maps.shape[-1])
    radius = torch.hypot(*frequencies(grid)).round().long()
    nyquist = min((cells // 2 for cells in grid if cells > 1), default=0)
    kept = radius <= nyquist

    def shares(values: Tensor) -> list[float | None]:
        rings = torch.bincount(radius[kept], weights=values[kept], minlength=nyquist + 1)
        each = torch.cat([rings[:1] / rings.sum(), rings[1:] / rings[1:].sum()])
        return [x if math.isfinite(x) else None for x in each.tolist()]

    return {"power": shares(power), "white": shares(torch.ones_like(power))}


# --------------------------------------------------------------------------------------------------------------- cosine


def mean_cosine(a: Tensor, b: Tensor) -> float:
    """Mean over samples of the cosine of a (N, D) and b (N, D); 0 counts where one of them is 0."""
    return float(F.cosine_similarity(a.double(), b.double(), dim=1, eps=1e-12).mean())


def low_band_share(width: int) -> float:
    """Share of the energy of white noise of this width that lies in the low channel band, DC included."""
    return (1 + 2 * (width // 4)) / width


def null_prediction(raw: float, width: int) -> float:
    """Cosine of the low band, DC kept, of two modalities that share nothing but a channel mean.

    m2 / (m2 + f_low) with m2 = raw / (1 - raw), raw the cosine of the whole vectors, f_low the low band's share of
    white noise: 257 / 512 at D = 512. The high band's cosine is 0 under this model. A raw cosine below 0 predicts 0.
    """
    m2 = max(raw, 0.0) / (1 - min(raw, 1 - 1e-12))
    return m2 / (m2 + low_band_share(width))


def channel_mean_share(x: Tensor) -> float:
    """Share of the channel mean in the energy of features (N, D), mean over samples: 0 where LayerNorm takes it out."""
    x = x.double()
    return float((x.shape[1] * x.mean(dim=1).square() / x.square().sum(dim=1).clamp_min(1e-24)).mean())


def _bands(x: Tensor) -> dict[tuple[str, str], Tensor]:
    """Features (N, D) -> each band (N, D), with the DC component kept and removed."""
    low, high = split_channels(x)
    dc = x.mean(dim=1, keepdim=True)
    return {
        ("DC kept", "raw"): x,
        ("DC kept", "low"): low + dc,
        ("DC kept", "high"): high,
        ("DC removed", "raw"): low + high,
        ("DC removed", "low"): low,
        ("DC removed", "high"): high,
    }


def _unit_bands(x: Tensor) -> dict[tuple[str, str], Tensor]:
    """The same as unit vectors."""
    return {key: F.normalize(part, dim=1, eps=1e-12) for key, part in _bands(x).items()}


def _shuffled_within(labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    order = np.arange(len(labels))
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        order[members] = rng.permutation(members)
    return order


def channel_similarity(
    a: Tensor, b: Tensor, labels: Tensor | np.ndarray, draws: int = 200, resamples: int = 1000, seed: int = 0
) -> list[dict]:
    """Cosine of two modalities' pooled features a (N, D) and b (N, D) in channel bands, under each treatment.

    One row a treatment and band ("raw", "low", "high"): {"treatment", "band", "cosine", "low", "high",
    "null_prediction", "reason"}. Each treatment comes with the DC component kept (low = bins 0..D//4) and removed (bins
    1..D//4, raw minus the mean over channels):

    - "DC kept", "DC removed": true pairs; low and high are the 95 % bootstrap interval over samples.
    - "permuted channels, ...": channels permuted at random, independently a side. The reference for two networks
      without a common basis.
    - "shuffled pairs, ...": sample i of one side with a random sample of the other.
    - "same-class shuffled, ...": the same within a class; `labels` (N,) says which.

    For the last three the cosine is the mean, and low and high the 2.5 and 97.5 % quantiles, over `draws` draws.
    null_prediction: what a shared offset alone would give (`null_prediction` for low with DC kept, from the row's own
    raw cosine; 0 elsewhere; None for raw with DC kept, which is its input).
    Where the widths differ a cosine is undefined: the rows then hold None and the reason.
    """
    treatments = ("", "permuted channels, ", "shuffled pairs, ", "same-class shuffled, ")
    width, other_width = a.shape[1], b.shape[1]
    if width != other_width:
        reason = f"feature widths differ ({width} and {other_width})"
        nothing = {"cosine": None, "low": None, "high": None, "null_prediction": None, "reason": reason}
        return [
            {"treatment": treatment + dc, "band": band, **nothing}
            for treatment in treatments
            for dc in ("DC kept", "DC removed")
            for band in ("raw", "low", "high")
        ]

    a, b, labels = a.double().cpu(), b.double().cpu(), torch.as_tensor(labels).cpu().numpy()
    own, other = _unit_bands(a), _unit_bands(b)
    # Cosine of every sample of one side with every sample of the other: pairs are shuffled by reading elsewhere in it.
    crossed = {key: (own[key] @ other[key].T).numpy() for key in own}
    everyone = np.arange(len(a))
    rng = np.random.default_rng(seed)

    def shuffled_channels() -> dict[tuple[str, str], float]:
        one, two = (_unit_bands(x[:, rng.permutation(width)]) for x in (a, b))
        return {key: float((one[key] * two[key]).sum(dim=1).mean()) for key in one}

    def shuffled_pairs(order: np.ndarray) -> dict[tuple[str, str], float]:
        return {key: crossed[key][everyone, order].mean() for key in crossed}

    drawn = {
        "permuted channels, ": [shuffled_channels() for _ in range(draws)],
        "shuffled pairs, ": [shuffled_pairs(rng.permutation(len(a))) for _ in range(draws)],
        "same-class shuffled, ": [shuffled_pairs(_shuffled_within(labels, rng)) for _ in range(draws)],
    }
    resampled = rng.integers(len(a), size=(resamples, len(a)))
    rows = []
    for treatment in treatments:
        for dc, band in own:
            if treatment:
                spread = [draw[dc, band] for draw in drawn[treatment]]
                cosine = np.mean(spread)
            else:
                paired = crossed[dc, band].diagonal()
                spread, cosine = paired[resampled].mean(axis=1), paired.mean()
            low, high = np.quantile(spread, QUANTILES)
            rows.append(
                {
                    "treatment": treatment + dc,
                    "band": band,
                    "cosine": float(cosine),
                    "low": float(low),
                    "high": float(high),
                    "null_prediction": 0.0,
                    "reason": None,
                }
            )
            if (dc, band) == ("DC kept", "raw"):
                raw, rows[-1]["null_prediction"] = float(cosine), None
            if (dc, band) == ("DC kept", "low"):
                rows[-1]["null_prediction"] = null_prediction(raw, width)
    return rows


def channel_cka(a: Tensor, b: Tensor, permutations: int = 200, seed: int = 0) -> list[dict]:
    """`cka_with_null` of two modalities' pooled features a (N, D) and b (N, E) in channel bands.

    One row with the DC component kept or removed ("treatment") and a band ("raw", "low", "high"): {"treatment", "band",
    "cka", "null_low", "null_high", "reason"}.
    """
    _check_samples(a, b)
    own, other, rows = _bands(a.double().cpu()), _bands(b.double().cpu()), []
    for dc, band in own:
        value, low, high = cka_with_null(own[dc, band], other[dc, band], permutations, seed)
        reason = None if value is not None else "a side does not vary in this band"
        rows.append({"treatment": dc, "band": band, "cka": value, "null_low": low, "null_high": high, "reason": reason})
    return rows


# ------------------------------------------------------------------------------------------------------------- rotation


def rotated_similarity(
    fit_a: Tensor, fit_b: Tensor, a: Tensor, b: Tensor, draws: int = 200, seed: int = 0
) -> list[dict]:
    """Cosine of channel bands once a (N, D) is rotated into the basis of b (N, D).

    Independently trained networks share no basis, so their cosine is near 0 whatever they know. Here the rotation that
    brings a closest to b (orthogonal Procrustes) is fitted on other samples, fit_a and fit_b (M, D), whose means are
    taken off; both sides are then cut into bands without the mean over channels.

    One row a band ("raw", "low", "high", "low - high"): {"band", "cosine", "shuffled_low", "shuffled_high",
    "split_low", "split_high", "reason"}; low and high are 2.5 and 97.5 % quantiles of two nulls, `draws` draws each:

    - shuffled: sample i of one side with a random sample of the other;
    - split: in place of the bands two random orthogonal halves of the same ranks. If the order of channels carries no
      meaning, low and high are one such split among others. None for raw, which has no halves.

    Where the widths differ there is no rotation: the rows then hold None and the reason.
    """
    bands = ("raw", "low", "high", "low - high")
    numbers = ("cosine", "shuffled_low", "shuffled_high", "split_low", "split_high")
    width, other_width = a.shape[1], b.shape[1]
    if width != other_width:
        nothing = {**dict.fromkeys(numbers), "reason": f"feature widths differ ({width} and {other_width})"}
        return [{"band": band, **nothing} for band in bands]

    fit_a, fit_b, a, b = (x.double().cpu() for x in (fit_a, fit_b, a, b))
    mean_a, mean_b = fit_a.mean(dim=0), fit_b.mean(dim=0)
    rotation, _ = orthogonal_procrustes((fit_a - mean_a).numpy(), (fit_b - mean_b).numpy())
    a, b = (a - mean_a) @ torch.from_numpy(rotation), b - mean_b
    a, b = (x - x.mean(dim=1, keepdim=True) for x in (a, b))

    def cosines(b: Tensor, low_a: Tensor, low_b: Tensor) -> tuple[float, ...]:
        low, high = mean_cosine(low_a, low_b), mean_cosine(a - low_a, b - low_b)
        return mean_cosine(a, b), low, high, low - high

    low_a, low_b = split_channels(a)[0], split_channels(b)[0]
    rng = np.random.default_rng(seed)
    orders = [rng.permutation(len(a)) for _ in range(draws)]
    halves = [_random_half(width, rng) for _ in range(draws)]
    shuffled = np.quantile([cosines(b[order], low_a, low_b[order]) for order in orders], QUANTILES, axis=0)
    split = np.quantile([cosines(b, a @ half, b @ half) for half in halves], QUANTILES, axis=0)
    columns = zip(cosines(b, low_a, low_b), *shuffled.tolist(), *split.tolist(), strict=True)
    rows = [
        {"band": band, **dict(zip(numbers, own, strict=True)), "reason": None}
        for band, own in zip(bands, columns, strict=True)
    ]
    rows[0] |= {"split_low": None, "split_high": None}
    return rows


def _random_half(width: int, rng: np.random.Generator) -> Tensor:
    """(D, D): projection on a random part of the space without the channel mean, of the low band's rank."""
    directions = np.concatenate([np.ones((width, 1)), rng.standard_normal((width, width - 1))], axis=1)
    basis = torch.from_numpy(np.linalg.qr(directions).Q[:, 1 : 1 + 2 * (width // 4)].copy())
    return basis @ basis.T
