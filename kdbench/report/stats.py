"""Statistics of a table: paired differences, one verdict a method, and what could have been found at all.

Accuracies are percent, differences are points. `frame` is always the table of one block: one row per planned
(pair, method, seed) with at least the columns pair, method, seed, status, val, test, teacher_val (results/frames.py).
A run counts where its status is `finished` and its value is a finite number; everything else is absent, never zero.

Pairs share teachers and students, so they are no replicates: seeds are, and every test below is over seeds.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import optimize
from scipy import stats as st

from kdbench.errors import unknown
from kdbench.types import KdbenchError

HEADLINE_POINTS = 3.0
"""A teacher must beat the student from scratch by this much on validation, or there is little to distil."""

COLLAPSED_SHARE = 0.5
"""A method with less than this share of scratch's accuracy on a pair has collapsed there: it did not merely lose."""

FEW_GROUPS, FEWEST_GROUPS = 10, 3
"""Below so many groups of test samples a bootstrap over them is rough, and below so many there is none."""

DISAGREE = 2.0
"""Own and pooled standard error of a difference are said to disagree where one is more than so many times the other."""

ALPHA = 0.05
POWER = 0.8
_SAME = 1e-9  # points; differences closer than this are equal up to rounding


class Summary(NamedTuple):
    mean: float | None
    sd: float | None
    n: int


class Interval(NamedTuple):
    mean: float | None
    low: float | None
    high: float | None
    n: int


class Detectable(NamedTuple):
    """Smallest detectable differences in points, None where they cannot be estimated."""

    verdict: float | None
    verdict_n: int
    methods: int
    """Number of methods in the verdict's Holm family."""
    cell: float | None
    cell_n: int


# -------------------------------------------------------------------------------------------------- numbers to numbers


def _finite(values: Iterable[float | None]) -> np.ndarray:
    if not isinstance(values, np.ndarray):
        values = np.array([np.nan if v is None or v is pd.NA else v for v in values], dtype=float)
    return values[np.isfinite(values)]


def mean_sd(values: Iterable[float | None]) -> Summary:
    """Mean and standard deviation (ddof = 1) of the finite values; sd is None below two of them, mean below one."""
    x = _finite(values)
    return Summary(
        float(x.mean()) if len(x) else None,
        float(x.std(ddof=1)) if len(x) > 1 else None,
        len(x),
    )


def paired_t_interval(differences: Iterable[float | None], confidence: float = 0.95) -> Interval:
    """Student's t interval for the mean of the finite `differences`.

    There is no interval (low and high are None) below two differences, nor when all are equal: accuracies are multiples
    of one test sample, so two or three seeds can agree by chance, and a width of zero would claim certainty.
    """
    x = _finite(differences)
    if len(x) < 2 or np.ptp(x) < _SAME:
        return Interval(float(x.mean()) if len(x) else None, None, None, len(x))
    mean, half = x.mean(), _critical(confidence, len(x) - 1) * (x.std(ddof=1) / np.sqrt(len(x)))
    return Interval(float(mean), float(mean - half), float(mean + half), len(x))


@functools.cache
def _critical(confidence: float, freedom: int) -> float:
    return float(st.t.ppf((1 + confidence) / 2, freedom))


def paired_p(differences: np.ndarray) -> np.ndarray:
    """Two-sided p of a paired t test over the last axis, (..., n) -> (...); NaN below two or where all are equal."""
    differences = np.asarray(differences, dtype=float)
    if differences.shape[-1] < 2:
        return np.full(differences.shape[:-1], np.nan)
    equal = np.ptp(differences, axis=-1) < _SAME
    steady = np.where(equal[..., None], 0.0, differences)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(equal, np.nan, st.ttest_1samp(steady, 0.0, axis=-1).pvalue)


def holm(p: np.ndarray | Sequence[float]) -> np.ndarray:
    """Holm's adjusted p over the last axis, any leading shape. NaN stays NaN and does not count as a test."""
    p = np.asarray(p, dtype=float)
    order = np.argsort(p, axis=-1)  # NaN sorts last
    tests = np.sum(np.isfinite(p), axis=-1, keepdims=True)
    factor = np.maximum(tests - np.arange(p.shape[-1]), 1)
    adjusted = np.minimum(np.maximum.accumulate(np.take_along_axis(p, order, -1) * factor, axis=-1), 1.0)
    result = np.empty_like(p)
    np.put_along_axis(result, order, adjusted, -1)
    return result


def detectable_difference(sd: float | None, n: int, alpha: float = ALPHA, power: float = POWER) -> float | None:
    """Smallest true difference that a two-sided paired t test at `alpha` finds with probability `power`.

    `sd` is the standard deviation of the `n` per-seed differences. None where sd is unknown or zero or n < 2.
    """
    if sd is None or not np.isfinite(sd) or sd <= 0 or n < 2:
        return None
    critical = st.t.ppf(1 - alpha / 2, n - 1)

    # (T + delta)^2 is a noncentral F: one tail instead of two, and stable where scipy's noncentral t is not (n = 2).
    def lack(delta: float) -> float:
        return st.ncf.sf(critical**2, 1, n - 1, delta**2) - power

    return float(optimize.brentq(lack, 1e-6, 50 * critical) * sd / np.sqrt(n))


def bootstrap_interval(
    correct: np.ndarray, baseline: np.ndarray, confidence: float = 0.95, resamples: int = 10_000
) -> tuple[float, float]:
    """Percentile bootstrap over test images of the difference in accuracy of two networks, in points.

    correct, baseline: bool (N,), which of the same images each network gets right. An image's difference is -1, 0 or 1,
    so resampling the images is one multinomial draw of how many there are of each.
    """
    difference = correct.astype(int) - baseline.astype(int)
    shares = [(difference == d).mean() for d in (-1, 0, 1)]
    counts = np.random.default_rng(0).multinomial(len(difference), shares, size=resamples)
    points = 100 * (counts[:, 2] - counts[:, 0]) / len(difference)
    low, high = np.quantile(points, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def group_bootstrap(
    differences: np.ndarray, sizes: np.ndarray, confidence: float = 0.95, resamples: int = 10_000
) -> tuple[np.ndarray, np.ndarray]:
    """Percentile bootstrap over whole groups of test samples of mean differences between networks: (low, high), (K,).

    differences: (K, G), of K methods to a baseline in each of G groups, points; sizes: (G,), samples of each group.
    Samples of one group (characters of one face, words of one speaker) are no replicates, so groups are drawn with
    replacement, each with all of its samples, and the mean is over the samples drawn (Davison and Hinkley, "Bootstrap
    Methods and their Application", 1997, 3.8). All methods meet the same draws. The networks stay as they were trained,
    so the interval tells of other groups, not of other seeds.

    With few groups it is too narrow: of nine normal differences it holds the mean in nine cases of ten. There is none
    (NaN) below three groups, nor where a difference is the same in all groups or is not known in one.
    """
    differences, sizes = np.asarray(differences, float), np.asarray(sizes)
    none = np.ptp(differences, axis=1) < _SAME if len(sizes) >= FEWEST_GROUPS else np.full(len(differences), True)
    drawn = np.random.default_rng(0).multinomial(len(sizes), np.full(len(sizes), 1 / len(sizes)), resamples) * sizes
    points = drawn @ differences.T / drawn.sum(axis=1, keepdims=True)
    low, high = np.quantile(points, [(1 - confidence) / 2, (1 + confidence) / 2], axis=0)
    return np.where(none, np.nan, low), np.where(none, np.nan, high)


def spearman(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Spearman's rank correlation over the last axis, (..., N) -> (...), ties at their mean rank, points that a side
    lacks (NaN) left out; NaN where a side does not vary."""
    shared = np.isfinite(x) & np.isfinite(y)
    n = shared.sum(axis=-1, keepdims=True)
    centred = []
    for side in (x, y):
        ranks = st.rankdata(np.where(shared, side, np.inf), axis=-1)  # what is left out ranks last
        centred.append(np.where(shared, ranks - (n + 1) / 2, 0.0))
    a, b = centred
    with np.errstate(invalid="ignore", divide="ignore"):
        return (a * b).sum(axis=-1) / np.sqrt((a**2).sum(axis=-1) * (b**2).sum(axis=-1))


def spearman_interval(
    x: np.ndarray, y: np.ndarray, groups: np.ndarray, confidence: float = 0.95, resamples: int = 1000
) -> Interval:
    """Spearman's rank correlation of x and y (N,), and its percentile bootstrap interval over whole groups (N,).

    Points of one group (the methods on a pair share its teacher and its baseline) are no replicates, so groups are
    drawn, each with all of its points. There is no interval below three groups, and no correlation where a side does
    not vary. n is the number of groups.
    """
    x, y, (names, member) = np.asarray(x, float), np.asarray(y, float), np.unique(groups, return_inverse=True)
    own = [np.flatnonzero(member == i) for i in range(len(names))]
    found = float(spearman(x, y))
    if not np.isfinite(found) or len(own) < 3:
        return Interval(found if np.isfinite(found) else None, None, None, len(own))
    rng = np.random.default_rng(0)
    drawn = rng.integers(len(own), size=(resamples, len(own)))
    points = (np.concatenate([own[i] for i in row]) for row in drawn)
    return Interval(found, *_percentiles([spearman(x[own], y[own]) for own in points], confidence), len(own))


def crossed_spearman(
    x: np.ndarray, y: np.ndarray, averaged: bool = False, confidence: float = 0.95, resamples: int = 2000
) -> Interval:
    """Spearman's rank correlation of two tables of effects (methods, pairs), NaN where a cell is lacking: over the
    cells that both have, or `averaged` over methods, of which every pair must be known. n is the number of these.

    Methods share pairs and pairs share methods, so neither cells nor either of the two are replicates: the percentile
    bootstrap draws methods and pairs, independently, and takes the cells where they cross (Owen, "The pigeonhole
    bootstrap", Annals of Applied Statistics 1(2), 2007). A draw in which a side does not vary has no correlation and is
    left out. Seeds are not drawn again: their noise is in every cell, and weakens a correlation.

    There is no correlation where a side does not vary. There is no interval below three methods, nor where every draw
    gives the same, as those of a perfect order do: a width of zero would claim certainty.
    """
    x, y = np.asarray(x, float), np.asarray(y, float)
    shared = np.isfinite(x) & np.isfinite(y)
    rows = shared.all(axis=1) if averaged else shared.any(axis=1)
    x, y, n = x[rows], y[rows], int(rows.sum() if averaged else shared.sum())

    def correlations(methods: np.ndarray, pairs: np.ndarray) -> np.ndarray:
        """Of drawn methods (draws, M) and pairs (draws, P)."""
        drawn = (side[methods[:, :, None], pairs[:, None, :]] for side in (x, y))
        return spearman(*(side.mean(axis=2) if averaged else side.reshape(len(side), -1) for side in drawn))

    (found,) = correlations(*(np.arange(size)[None] for size in x.shape))
    none = Interval(float(found) if np.isfinite(found) else None, None, None, n)
    if none.mean is None or len(x) < 3:
        return none
    rng = np.random.default_rng(0)
    low, high = _percentiles(
        correlations(*(rng.integers(size, size=(resamples, size)) for size in x.shape)), confidence
    )
    return Interval(none.mean, low, high, n) if high - low > _SAME else none


def _percentiles(points: Iterable[float], confidence: float) -> tuple[float, float]:
    low, high = np.nanquantile(points, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def shared_mean_low(raw: np.ndarray) -> np.ndarray:
    """Cosine of the low channel band, channel mean kept, of two wide features that share this mean and nothing else.

    similarity.null_prediction at a large width, where half of the noise lies in the low band: with
    m2 = raw / (1 - raw), m2 / (m2 + 1/2) = 2 raw / (1 + raw).
    """
    return 2 * raw / (1 + raw)


class Pooled(NamedTuple):
    sd: float | None
    freedom: int
    """Its degrees of freedom."""

    def half_width(self, n: int, confidence: float = 0.95) -> float:
        """Half the width of the t interval of a mean over `n` values at this spread; NaN where it is not known."""
        return _critical(confidence, self.freedom) * self.sd / np.sqrt(n) if self.sd and n else np.nan


def pooled(samples: Iterable[Iterable[float | None]]) -> Pooled:
    """Root of the variances' mean, weighted by degrees of freedom; sd is None where no sample has two values."""
    arrays = [x for x in map(_finite, samples) if len(x) > 1]
    freedom = sum(len(x) - 1 for x in arrays)
    squares = sum(float(((x - x.mean()) ** 2).sum()) for x in arrays)
    return Pooled(float(np.sqrt(squares / freedom)) if freedom else None, freedom)


def pooled_sd(samples: Iterable[Iterable[float | None]]) -> float | None:
    return pooled(samples).sd


def sampling_error(accuracy: float, size: int) -> float:
    """Standard error in points that `size` test samples imply for one network of this `accuracy` (percent)."""
    return float(np.sqrt(accuracy * (100 - accuracy) / size))


def agreement(student: np.ndarray, teacher: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
    """Percent of samples to which student and teacher give the same class: of those that the teacher gets right, and of
    those that it gets wrong; NaN where there are none of a kind. Classes int (N,)."""
    same, right = student == teacher, teacher == labels
    return tuple(100 * float(same[kind].mean()) if kind.any() else float("nan") for kind in (right, ~right))


def calibration_error(confidence: np.ndarray, right: np.ndarray, bins: int = 15) -> float:
    """Expected calibration error in percent (Guo et al., "On Calibration of Modern Neural Networks", ICML 2017, eq. 3).

    Samples fall by their confidence, the largest softmax probability, into bins ((m - 1)/bins, m/bins]; the error is
    |accuracy - mean confidence| of each bin, weighted by its share of the samples. `right`, bool (N,): whether the
    class of that probability is the sample's.
    """
    gap = right - confidence
    member = np.ceil(np.minimum(confidence, 1) * bins).astype(int)
    return 100 * float(np.abs(np.bincount(member, weights=gap)).sum()) / len(right)


# -------------------------------------------------------------------------------------------------- frames to numbers


def numbers(frame: pd.DataFrame, column: str) -> pd.Series:
    """A column as floats, NaN where it is no number; a frame without a single result may lack the column itself."""
    values = frame[column] if column in frame else pd.Series(np.nan, index=frame.index)
    return pd.to_numeric(values, errors="coerce").astype(float)


def wide(frame: pd.DataFrame, column: str = "test") -> pd.DataFrame:
    """Index (pair, seed), one column a method, NaN where a run does not count.

    Raises KdbenchError where one (pair, method, seed) stands in the frame twice.
    """
    keys = ["pair", "seed", "method"]
    twice = frame[frame.duplicated(keys)]
    if len(twice):
        pair, seed, method = twice.iloc[0][keys]
        raise KdbenchError(f"two results for pair {pair!r}, method {method!r}, seed {seed}: a table needs exactly one")
    values = numbers(frame, column)
    values = values.where((frame["status"] == "finished") & np.isfinite(values))
    table = values.set_axis(pd.MultiIndex.from_frame(frame[keys])).unstack("method")
    return table.reindex(columns=list(dict.fromkeys(frame["method"])))


def operations(frame: pd.DataFrame) -> pd.Series:
    """Operations of each run's training: all its steps, the teacher's pass among them; NaN where that is not known."""
    a_step = numbers(frame, "operations_per_step") + numbers(frame, "teacher_operations_per_step")
    return a_step * numbers(frame, "steps")


def teachers(frame: pd.DataFrame, column: str = "teacher_test") -> pd.Series:
    """The teacher's accuracy by (pair, seed), from whichever row knows it; NaN where none does."""
    values = numbers(frame, column)
    return values.groupby([frame["pair"], frame["seed"]]).first()


def differences(frame: pd.DataFrame, baseline: str) -> pd.DataFrame:
    """Test accuracy minus the baseline's of the same (pair, seed): index (pair, seed), a column per other method."""
    values = wide(frame)
    if baseline not in values.columns:
        raise unknown("baseline", baseline, values.columns)
    return values.drop(columns=baseline).sub(values[baseline], axis=0)


def over_pairs(delta: pd.DataFrame, pairs: Iterable[str]) -> pd.DataFrame:
    """Differences with index (pair, seed) -> their mean over these pairs, index seed, a column a method.

    A pair on which a method has no number in any seed is left out of that method's mean; a seed in which another is
    absent is NaN, since a mean over whatever happened to finish compares different things.
    """
    own = delta[delta.index.get_level_values("pair").isin(list(pairs))]
    means = {m: own[m].unstack("pair").dropna(axis=1, how="all").mean(axis=1, skipna=False) for m in own.columns}
    return pd.DataFrame(means, index=own.index.unique("seed").sort_values(), dtype=float)


def headline_pairs(frame: pd.DataFrame) -> pd.DataFrame:
    """Which pairs have something to distil. Index pair; columns:

    - gain: teacher minus scratch on validation, points, mean over the n seeds that know both
    - n: those seeds
    - test_gain: the same on test, which decides nothing
    - kind: `headline` (gain >= 3), `weak`, or `undecided` where no seed knows both
    """
    gains = {}
    for split in ("val", "test"):
        scratch = wide(frame, split).get("scratch", np.nan)
        gains[split] = (teachers(frame, f"teacher_{split}") - scratch).groupby("pair").agg(["mean", "count"])
    gain = gains["val"].assign(test_gain=gains["test"]["mean"]).reindex(list(dict.fromkeys(frame["pair"])))
    gain = gain.rename(columns={"mean": "gain", "count": "n"})
    gain["n"] = gain["n"].fillna(0).astype(int)
    strong = gain["gain"] >= HEADLINE_POINTS - _SAME
    gain["kind"] = np.where(gain["gain"].isna(), "undecided", np.where(strong, "headline", "weak"))
    return gain


def collapsed(frame: pd.DataFrame) -> pd.DataFrame:
    """Whether a method's mean accuracy is below half of scratch's: bool, index pair, a column a method."""
    means = wide(frame).groupby("pair").mean()
    scratch = means["scratch"] if "scratch" in means else pd.Series(np.nan, means.index)
    return means.lt(COLLAPSED_SHARE * scratch, axis=0)


def collapsed_cells(frame: pd.DataFrame) -> set[tuple[str, str]]:
    """(pair, method) of every cell that collapsed."""
    below = collapsed(frame).stack()
    return set(below.index[below])


def headline_grids(
    frame: pd.DataFrame, baseline: str | None, methods: Sequence[str] | None = None, every_pair: bool = False
) -> dict[str, pd.DataFrame]:
    """Method -> its difference to the baseline, or its accuracy without one, a row a seed and a column a headline pair
    (or any pair).

    A pair on which the method or the baseline is n/a is left out of that method's grid. A seed in which any other of
    its runs is absent is NaN on all pairs, since an average over whatever happened to finish compares different things.
    """
    delta = differences(frame, baseline) if baseline else wide(frame)
    delta = delta[[m for m in delta.columns if methods is None or m in methods]]
    kinds = headline_pairs(frame)["kind"]
    excluded = set(map(tuple, frame.loc[frame["status"] == "n/a", ["pair", "method"]].to_numpy()))
    headline = [p for p in kinds.index[every_pair | (kinds == "headline")] if (p, baseline) not in excluded]
    seeds = pd.Index(sorted(frame["seed"].unique()), name="seed")
    grids = {}
    for method in delta.columns:
        grid = delta[method].unstack("pair").reindex(index=seeds)
        grid = grid[[p for p in headline if (p, method) not in excluded]]
        grids[method] = grid.where(grid.notna().all(axis=1), np.nan)
    return grids


def headline_differences(
    frame: pd.DataFrame, baseline: str, methods: Sequence[str] | None = None
) -> tuple[pd.DataFrame, dict[str, int]]:
    """Per seed and method the difference to the baseline averaged over headline pairs, and how many pairs those are."""
    grids = headline_grids(frame, baseline, methods)
    means = pd.DataFrame({m: grid.mean(axis=1) for m, grid in grids.items()}, dtype=float)
    return means, {m: grid.shape[1] for m, grid in grids.items()}


def verdict(
    frame: pd.DataFrame, baseline: str, methods: Sequence[str] | None = None, every_pair: bool = False
) -> pd.DataFrame:
    """The verdict of a table, index method (the baseline left out), over all methods or these; columns, in which every
    pair counts as a headline pair where `every_pair` says so:

    - difference, low, high: points, averaged over the headline pairs within a seed, 95 % t interval over seeds, or NaN
    - pooled: half the width of that interval if every method varied over seeds alike, at the spread pooled over methods
    - disagree: whether the method's own standard error and the pooled one differ by more than DISAGREE times
    - n, seeds: complete seeds used, seeds planned
    - pairs, headline: headline pairs in this method's average, headline pairs of the table
    - pairs_better, pairs_worse: of these, on how many its mean is above and below the baseline's
    - without_low, without_high: the range of the difference with any one pair left out
    - collapsed: ids of the headline pairs on which the method collapsed; such a method has no share in the pooled error
    - p, p_holm: two-sided paired t test, and Holm's adjustment over the methods of this table
    - verdict: `better`, `worse`, `not separated` (Holm at 5 %), or `no test`; reason says why there was none

    Raises KdbenchError for a baseline that is not in the frame.
    """
    grids = headline_grids(frame, baseline, methods, every_pair)
    means = {method: _finite(grid.mean(axis=1)) for method, grid in grids.items()}
    headline = int((every_pair | (headline_pairs(frame)["kind"] == "headline")).sum())
    fallen = _collapsed_pairs(frame, grids)
    steady = [means[m] for m in grids if not fallen[m] and len(means[m]) > 1]
    error = pooled(steady) if len(steady) > 1 else Pooled(None, 0)
    rows = []
    for method, grid in grids.items():
        x, by_pair = means[method], grid.mean()
        interval, p = paired_t_interval(x), float(paired_p(x))
        others = (by_pair.sum() - by_pair) / (len(by_pair) - 1) if len(by_pair) > 1 else by_pair * np.nan
        shared = error if not fallen[method] else Pooled(None, 0)
        own = mean_sd(x).sd
        rows.append(
            {
                "method": method,
                **dict(zip(("difference", "low", "high", "n"), interval, strict=True)),
                "pooled": shared.half_width(interval.n),
                "disagree": bool(own and shared.sd and not 1 / DISAGREE <= own / shared.sd <= DISAGREE),
                "seeds": len(grid),
                "pairs": len(by_pair),
                "headline": headline,
                "pairs_better": int((by_pair > _SAME).sum()),
                "pairs_worse": int((by_pair < -_SAME).sum()),
                "without_low": others.min(),
                "without_high": others.max(),
                "collapsed": fallen[method],
                "p": p,
                "reason": "" if np.isfinite(p) else _no_test(headline, len(by_pair), interval.n),
            }
        )
    columns = ["method", "difference", "low", "high", "n", "pooled", "disagree", "seeds", "pairs", "headline"]
    columns += ["pairs_better", "pairs_worse", "without_low", "without_high", "collapsed", "p", "reason"]
    table = pd.DataFrame(rows, columns=columns).set_index("method")
    table["p_holm"] = holm(table["p"]) if len(table) else []
    sides = np.where(table["difference"].astype(float) > 0, "better", "worse")
    table["verdict"] = np.where(
        table["p_holm"].isna(), "no test", np.where(table["p_holm"] <= ALPHA, sides, "not separated")
    )
    return table


def decision(difference: float, low: float, high: float, margin: float) -> str:
    """What a difference with its interval says of a claim: `supported` where it exceeds the margin and the interval
    lies above 0, `contradicted` where the interval lies below the margin, else `undecided`."""
    if difference > margin and low > 0:
        return "supported"
    return "contradicted" if high < margin else "undecided"


def group_intervals(
    frame: pd.DataFrame, baseline: str, methods: Sequence[str], sizes: Mapping[str, int]
) -> pd.DataFrame:
    """groups_low and groups_high, index method: the bootstrap interval over groups of test samples of the difference in
    a verdict, which is averaged over the same headline pairs and complete seeds, or those whose test set has the group.

    frame: with test_by_group, {group: accuracy in percent} of every run that counts; sizes: {group: samples}.
    """
    keys = pd.MultiIndex.from_frame(frame[["pair", "method", "seed"]])
    known = [found if isinstance(found, Mapping) else {} for found in frame["test_by_group"]]
    accuracy = pd.DataFrame(known, keys, columns=list(sizes), dtype=float)
    grids = headline_grids(frame, baseline, methods)
    rows = np.full((len(grids), len(sizes)), np.nan)
    for row, (method, grid) in zip(rows, grids.items(), strict=True):
        cells = list(itertools.product(grid.columns, grid.dropna().index))
        if cells:
            own, base = (accuracy.loc[[(pair, m, seed) for pair, seed in cells]] for m in (method, baseline))
            delta = own.reset_index(drop=True) - base.reset_index(drop=True)
            if delta.notna().any(axis=1).all():  # else a run does not tell its groups
                row[:] = delta.mean()
    low, high = group_bootstrap(rows, np.array(list(sizes.values())))
    return pd.DataFrame({"groups_low": low, "groups_high": high}, pd.Index(grids, name="method"))


def _collapsed_pairs(frame: pd.DataFrame, grids: Mapping[str, pd.DataFrame]) -> dict[str, tuple[str, ...]]:
    fallen = collapsed(frame)
    return {method: tuple(pair for pair in grid if fallen.loc[pair, method]) for method, grid in grids.items()}


def _no_test(headline: int, pairs: int, n: int) -> str:
    if headline == 0:
        return "no headline pair"
    if pairs == 0:
        return "n/a on every headline pair"
    if n < 2:
        return f"{n} complete seed{'' if n == 1 else 's'}, two are needed"
    return "the same difference in every seed: no variance to test against"


def detectable(frame: pd.DataFrame, baseline: str, methods: Sequence[str] | None = None) -> Detectable:
    """Smallest detectable difference of the verdict and of a single cell, from the spread seen in this table.

    The verdict must pass Holm's first step, so its alpha is 5 % over the number of tested methods; a cell's interval
    is not adjusted. n is the most frequent number of complete seeds; sds are pooled over methods (and pairs), without
    those that collapsed.
    """
    grids = headline_grids(frame, baseline, methods)
    means = {method: grid.mean(axis=1) for method, grid in grids.items()}
    fallen, fallen_cells = _collapsed_pairs(frame, grids), collapsed(frame)
    steady = [means[m] for m in means if not fallen[m]]
    cells = [
        row
        for method, delta in differences(frame, baseline)[list(grids)].items()
        for pair, row in delta.unstack("seed").iterrows()
        if not fallen_cells.loc[pair, method]
    ]
    tested = sum(len(_finite(v)) > 1 for v in means.values())
    verdict_n, cell_n = _usual_n(steady), _usual_n(cells)
    return Detectable(
        detectable_difference(pooled_sd(steady), verdict_n, alpha=ALPHA / max(tested, 1)),
        verdict_n,
        tested,
        detectable_difference(pooled_sd(cells), cell_n),
        cell_n,
    )


def _usual_n(samples: Sequence[Iterable[float]]) -> int:
    counts = [n for n in (len(_finite(s)) for s in samples) if n > 1]
    return max(set(counts), key=lambda n: (counts.count(n), n)) if counts else 0


def near_best(values: pd.DataFrame) -> set[str]:
    """The best method by its mean, and all for which the 95 % interval of (best - method) includes 0.

    values: a row a seed, a column a method, NaN where a run does not count. The best is sought among the methods with
    most seeds, lest one lucky seed win. A method that shares fewer than two seeds with it cannot be compared and is
    left out. The set is closed upwards: a steady method may be separated from the best while an erratic one with a
    lower mean is not, which looks like a misprint. Empty where fewer than two methods can be compared.
    """
    n = values.notna().sum()
    if not len(n) or n.max() < 2:
        return set()
    best = values.loc[:, n == n.max()].mean().idxmax()
    columns = dict(zip(values.columns, values.to_numpy().T, strict=True))
    intervals = {m: paired_t_interval(columns[best] - x) for m, x in columns.items() if m != best}
    intervals = {m: i for m, i in intervals.items() if i.n >= 2}
    near = {m for m, i in intervals.items() if (abs(i.mean) < _SAME if i.low is None else i.low <= 0)}
    if not intervals:
        return set()
    means = values.mean()
    lowest = means[[best, *near]].min()
    return {best} | {m for m in intervals if means[m] >= lowest}
