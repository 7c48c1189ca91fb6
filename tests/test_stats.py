"""Numbers computed by hand, cross-checks against scipy, and simulated suites."""

import math
import time

import numpy as np
import pandas as pd
import pytest
from scipy import stats as st

from kdbench.report import stats
from kdbench.results.frames import top
from kdbench.types import KdbenchError


def frame(values, teacher_val=95.0):
    """A block from {(pair, method): [test accuracy by seed]}; None is missing, a string is another status."""
    rows = []
    for (pair, method), tests in values.items():
        for seed, test in enumerate(tests):
            status = "finished" if isinstance(test, float) else test or "missing"
            test = test if isinstance(test, float) else None
            known = teacher_val.get(pair) if isinstance(teacher_val, dict) else teacher_val
            rows.append(
                {"pair": pair, "method": method, "seed": seed, "status": status, "val": test, "test": test}
                | {"teacher_val": None if method == "scratch" else known}
            )
    return pd.DataFrame(rows)


def test_mean_and_sd_by_hand():
    assert stats.mean_sd([1.0, 2.0, 3.0, None, math.nan]) == (2.0, 1.0, 3)
    assert stats.mean_sd([5.0]) == (5.0, None, 1)
    assert stats.mean_sd([None, math.nan]) == (None, None, 0)


def test_interval_by_hand_and_by_scipy():
    mean, low, high, n = stats.paired_t_interval([1.0, 2.0, 3.0])
    assert (mean, n) == (2.0, 3)
    assert high - mean == pytest.approx(4.302653 / math.sqrt(3), abs=1e-6)  # t(0.975, 2) = 4.302653
    expected = st.ttest_1samp([1.0, 2.0, 3.0], 0).confidence_interval(0.95)
    assert (low, high) == pytest.approx((expected.low, expected.high))


@pytest.mark.parametrize("same", [[1.5], [1.5, 1.5, 1.5], []])
def test_no_interval_without_spread(same):
    assert stats.paired_t_interval(same)[1:3] == (None, None)
    assert np.isnan(stats.paired_p(np.array(same)))


def test_holm_by_hand_with_ties_and_absent_tests():
    assert stats.holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert stats.holm([0.9, 0.6]) == pytest.approx([1.0, 1.0])
    adjusted = stats.holm([0.01, math.nan, 0.04])
    assert adjusted[[0, 2]] == pytest.approx([0.02, 0.04]) and np.isnan(adjusted[1])
    many = np.random.default_rng(0).random((50, 6))
    assert stats.holm(many) == pytest.approx(np.stack([stats.holm(p) for p in many]))


@pytest.mark.parametrize("n", [3, 5, 10])
@pytest.mark.parametrize("alpha", [0.05, 0.01])
def test_detectable_difference_has_the_power_it_names(n, alpha):
    delta = stats.detectable_difference(2.0, n, alpha)
    critical, shift = st.t.ppf(1 - alpha / 2, n - 1), delta / 2.0 * math.sqrt(n)
    assert st.nct.sf(critical, n - 1, shift) + st.nct.cdf(-critical, n - 1, shift) == pytest.approx(0.8, abs=1e-6)


def test_detectable_difference_by_simulation_and_its_limits():
    delta = stats.detectable_difference(1.0, 2)  # scipy's noncentral t fails here
    draws = np.random.default_rng(0).normal(delta, 1.0, (20000, 2))
    assert np.mean(stats.paired_p(draws) <= 0.05) == pytest.approx(0.8, abs=0.012)
    for sd, n in ((None, 5), (0.0, 5), (1.0, 1), (math.nan, 5)):
        assert stats.detectable_difference(sd, n) is None


def test_pooled_sd_and_sampling_error_by_hand():
    assert stats.pooled_sd([[1.0, 3.0], [0.0, 2.0, 4.0], [7.0], []]) == pytest.approx(math.sqrt((2 + 8) / 3))
    assert stats.pooled_sd([[1.0]]) is None
    assert stats.sampling_error(90.0, 900) == pytest.approx(1.0)


def test_headline_pairs_by_validation_gain():
    values = {(p, m): [90.0, 92.0] for p in ("strong", "edge", "weak", "unknown") for m in ("scratch", "kd")}
    known = stats.headline_pairs(frame(values, {"strong": 97.0, "edge": 94.0, "weak": 93.9}))
    assert dict(known["kind"]) == {"strong": "headline", "edge": "headline", "weak": "weak", "unknown": "undecided"}
    assert known.loc["strong", "gain"] == pytest.approx(6.0) and known.loc["strong", "n"] == 2
    without = frame({("p", "kd"): [90.0, 91.0]})
    assert stats.headline_pairs(without).loc["p", "kind"] == "undecided"


def test_headline_uses_validation_not_test():
    table = frame({("p", "scratch"): [90.0], ("p", "kd"): [90.0]})
    table["test"] = 10.0
    table["val"] = 93.0
    assert stats.headline_pairs(table).loc["p", "kind"] == "weak"


def two_pairs():
    return {
        ("a", "scratch"): [80.0, 81.0, 80.5],
        ("b", "scratch"): [70.0, 70.5, 71.0],
        ("a", "kd"): [82.0, 82.0, 82.0],
        ("b", "kd"): [72.0, 71.5, 73.0],
        ("a", "x"): [83.0, 84.0, 84.0],
        ("b", "x"): [73.0, 73.5, 75.0],
    }


def test_verdict_by_hand():
    table = stats.verdict(frame(two_pairs()), "kd")
    x = [1.0, 2.0, 2.0]  # ((83-82) + (73-72))/2 and so on
    scratch = [-2.0, -1.0, -1.75]
    assert table.loc["x", "difference"] == pytest.approx(np.mean(x))
    p = {"x": st.ttest_1samp(x, 0).pvalue, "scratch": st.ttest_1samp(scratch, 0).pvalue}
    assert table["p"].to_dict() == pytest.approx(p)
    assert sorted(table["p_holm"]) == pytest.approx(
        sorted([2 * min(p.values()), max(2 * min(p.values()), max(p.values()))])
    )
    assert list(table["verdict"]) == ["not separated", "not separated"]  # p = 0.038 and 0.034 alone, 0.07 together
    assert table.loc["x", ["n", "seeds", "pairs", "headline"]].tolist() == [3, 3, 2, 2]


def test_verdict_finds_a_clear_difference_on_both_sides():
    values = two_pairs()
    values |= {("a", "x"): [88.0, 88.1, 88.2], ("b", "x"): [78.0, 77.4, 79.0]}
    values |= {("a", "y"): [72.0, 72.1, 72.2], ("b", "y"): [62.0, 61.4, 63.0]}
    table = stats.verdict(frame(values), "kd")
    assert (table.loc["x", "verdict"], table.loc["y", "verdict"]) == ("better", "worse")


def test_only_complete_seeds_count():
    values = two_pairs() | {("a", "x"): [83.0, None, 84.0], ("b", "x"): [73.0, 73.5, "diverged"]}
    row = stats.verdict(frame(values), "kd").loc["x"]
    assert (row["n"], row["verdict"]) == (1, "no test")
    assert row["reason"] == "1 complete seed, two are needed"
    assert row["difference"] == pytest.approx(1.0) and np.isnan(row["low"])


def test_weak_pairs_and_unsupported_pairs_stay_out():
    weak = stats.verdict(frame(two_pairs(), {"a": 95.0, "b": 71.0}), "kd").loc["x"]
    assert weak["difference"] == pytest.approx(np.mean([1.0, 2.0, 2.0])) and weak["pairs"] == weak["headline"] == 1
    unsupported = stats.verdict(frame(two_pairs() | {("b", "x"): ["n/a"] * 3}), "kd").loc["x"]
    assert (unsupported["n"], unsupported["pairs"], unsupported["headline"]) == (3, 1, 2)
    nowhere = stats.verdict(frame(two_pairs(), 50.0), "kd")
    assert set(nowhere["reason"]) == {"no headline pair"} and nowhere["difference"].isna().all()


def test_nan_one_seed_and_all_missing_give_no_number():
    nan = stats.verdict(frame(two_pairs() | {("a", "x"): [math.nan, 84.0, 84.0]}), "kd").loc["x"]
    assert nan["n"] == 2
    one = frame({key: values[:1] for key, values in two_pairs().items()})
    assert set(stats.verdict(one, "kd")["verdict"]) == {"no test"}
    assert stats.near_best(stats.wide(one).loc["a"]) == set()
    assert stats.detectable(one, "kd")[::3] == (None, None)
    nothing = frame({key: [None, None] for key in two_pairs()})
    assert set(stats.verdict(nothing, "kd")["verdict"]) == {"no test"}
    assert stats.detectable(nothing, "kd").cell is None


def test_bad_frames_are_errors_that_name_the_place():
    table = frame(two_pairs())
    with pytest.raises(KdbenchError, match=r"'a'.*'x'.*seed 1"):
        stats.wide(pd.concat([table, table[(table.pair == "a") & (table.method == "x") & (table.seed == 1)]]))
    with pytest.raises(KdbenchError, match="unknown baseline 'dkd'"):
        stats.verdict(table, "dkd")


def test_detectable_of_a_table_by_hand():
    found = stats.detectable(frame(two_pairs()), "kd")
    sd = stats.pooled_sd([[1.0, 2.0, 2.0], [-2.0, -1.0, -1.75]])
    assert found.verdict == pytest.approx(stats.detectable_difference(sd, 3, alpha=0.025))
    cells = [[1.0, 2.0, 2.0], [1.0, 2.0, 2.0], [-2.0, -1.0, -1.5], [-2.0, -1.0, -2.0]]
    assert found.cell == pytest.approx(stats.detectable_difference(stats.pooled_sd(cells), 3))
    assert (found.methods, found.verdict_n, found.cell_n) == (2, 3, 3)


def test_bold_is_what_the_best_is_not_separated_from():
    values = {("p", "best"): [90.0, 91.0, 92.0], ("p", "near"): [89.0, 91.5, 91.0], ("p", "far"): [89.4, 90.5, 91.3]}
    assert stats.near_best(stats.wide(frame(values))) == {"best", "near"}
    lucky = values | {("p", "lucky"): [None, None, 99.0], ("p", "same"): [90.0, 91.0, 92.0]}
    assert stats.near_best(stats.wide(frame(lucky))) == {"best", "near", "same"}
    alone = {("p", "best"): [90.0, 91.0, 92.0], ("p", "near"): [None] * 3}
    assert stats.near_best(stats.wide(frame(alone))) == set()


def test_bold_sets_are_closed_upwards():
    """`steady` is separated from the best, `erratic` below it is not: both are bold."""
    values = {
        ("p", "best"): [90.0, 91.0, 92.0, 93.0],
        ("p", "steady"): [89.5, 90.5, 91.4, 92.4],
        ("p", "erratic"): [80.0, 99.0, 81.0, 99.5],
        ("p", "below"): [79.0, 80.0, 81.0, 82.0],
    }
    low, high = st.ttest_1samp(np.subtract(values["p", "best"], values["p", "steady"]), 0).confidence_interval()
    assert 0 < low < high, "the test of the pair alone parts them"
    assert stats.near_best(stats.wide(frame(values))) == {"best", "steady", "erratic"}


# ------------------------------------------------------------------------------------- collapse, pooled error, one pair


RNG = np.random.default_rng(4)
SCRATCH = RNG.normal(60, 1, (3, 5))
NOISE = {"kd": RNG.normal(0, 1, (3, 5)), "dist": RNG.normal(0, 1, (3, 5)), "calm": RNG.normal(0, 0.01, (3, 5))}
GAINS = {"kd": (1, 2, -3), "dist": (4, 5, 6), "calm": (2, 2, 2)}


def three_pairs(**others):
    """Scratch and three methods on pairs a, b and c, five seeds, and what else is given by method."""
    tests = {"scratch": SCRATCH} | others
    tests |= {m: SCRATCH + noise + np.array(GAINS[m])[:, None] for m, noise in NOISE.items()}
    return frame({(pair, m): [*map(float, rows[i])] for m, rows in tests.items() for i, pair in enumerate("abc")})


def test_pairs_better_and_worse_and_the_range_without_one():
    table = stats.verdict(three_pairs(), "scratch")
    for method, noise in NOISE.items():
        by_pair = noise.mean(axis=1) + GAINS[method]
        row = table.loc[method]
        assert (row["pairs_better"], row["pairs_worse"]) == ((by_pair > 0).sum(), (by_pair < 0).sum())
        without = [np.delete(by_pair, i).mean() for i in range(3)]
        assert (row["without_low"], row["without_high"]) == pytest.approx((min(without), max(without)))
        assert row["difference"] == pytest.approx(by_pair.mean())
    one = stats.verdict(frame({k: v for k, v in two_pairs().items() if k[0] == "a"}), "kd").loc["x"]
    assert one["pairs_better"] == 1 and np.isnan(one["without_low"])


def test_the_pooled_error_is_the_residual_of_a_model_with_a_mean_a_method():
    table = stats.verdict(three_pairs(), "scratch")
    means = {m: noise.mean(axis=0) for m, noise in NOISE.items()}
    residual = np.concatenate([x - x.mean() for x in means.values()])
    error = math.sqrt((residual**2).sum() / 12 / 5)  # 15 values less 3 means; 5 seeds
    assert table["pooled"].to_numpy() == pytest.approx([st.t.ppf(0.975, 12) * error] * 3)
    ratio = {m: x.std(ddof=1) / math.sqrt(5) / error for m, x in means.items()}
    assert table["disagree"].to_dict() == {m: not 0.5 <= r <= 2 for m, r in ratio.items()}
    assert table.loc["calm", "disagree"] and not table.loc["kd", "disagree"]
    alone = stats.verdict(three_pairs(), "scratch", ["kd"])
    assert np.isnan(alone.loc["kd", "pooled"]) and not alone.loc["kd", "disagree"]


def test_what_collapsed_is_named_and_leaves_the_pooled_error_but_not_the_table():
    fallen = SCRATCH + 1.0
    fallen[1] = [5.0, 28.0, 60.0, 20.0, 10.0]
    table = stats.verdict(three_pairs(rkd=fallen), "scratch")
    without = stats.verdict(three_pairs(), "scratch")
    assert table["collapsed"].to_dict() == {"rkd": ("b",), "kd": (), "dist": (), "calm": ()}
    assert np.isnan(table.loc["rkd", "pooled"]) and np.isfinite(table.loc["rkd", "p"])
    pd.testing.assert_series_equal(table["pooled"].drop("rkd"), without["pooled"])
    found, before = (stats.detectable(f, "scratch") for f in (three_pairs(rkd=fallen), three_pairs()))
    assert found.methods == 4 and before.methods == 3, "Holm still counts it"
    sd = stats.pooled_sd(noise.mean(axis=0) for noise in NOISE.values())
    assert found.verdict == pytest.approx(stats.detectable_difference(sd, 5, alpha=stats.ALPHA / 4))
    cells = [*np.concatenate(list(NOISE.values())), fallen[0] - SCRATCH[0], fallen[2] - SCRATCH[2]]
    assert found.cell == pytest.approx(stats.detectable_difference(stats.pooled_sd(cells), 5))
    edge = stats.collapsed(frame({("p", "scratch"): [60.0, 60.0], ("p", "x"): [30.0, 30.0], ("p", "y"): [30.0, 29.9]}))
    assert edge.loc["p"].to_dict() == {"scratch": False, "x": False, "y": True}
    assert not stats.collapsed(frame({("p", "kd"): [60.0], ("p", "x"): [1.0]})).any(axis=None), "scratch is not known"


def test_the_gap_on_test_stands_beside_the_one_that_decides():
    table = frame({("p", "scratch"): [60.0, 62.0], ("p", "kd"): [61.0, 61.0]}, teacher_val=70.0)
    table["teacher_test"] = np.where(table["method"] == "scratch", None, 62.0)
    found = stats.headline_pairs(table).loc["p"]
    assert (found["gain"], found["test_gain"], found["kind"]) == (9.0, 1.0, "headline")


def simulated(rng, suites, methods=8, pairs=6, seeds=5):
    """Differences to a shared baseline over pairs that share teachers, (suites, methods, seeds)."""
    accuracy = rng.normal(0, 0.6, (suites, methods + 1, pairs, seeds))
    accuracy += rng.normal(0, 0.8, (suites, 1, 3, seeds)).repeat(pairs // 3, axis=2)
    accuracy += rng.normal(0, 0.4, (suites, methods + 1, 1, seeds))  # a seed can favour a method on all pairs
    return (accuracy[:, 1:] - accuracy[:, :1]).mean(axis=2)


def test_two_thousand_suites_without_an_effect():
    began, suites = time.perf_counter(), 2000
    differences = simulated(np.random.default_rng(1), suites)
    wrong = (stats.holm(stats.paired_p(differences)) <= stats.ALPHA).any(axis=1).mean()
    assert wrong <= 0.05 + 2 * math.sqrt(0.05 * 0.95 / suites)
    naive = (stats.paired_p(differences) <= stats.ALPHA).any(axis=1).mean()
    assert naive > 0.1, "without Holm the same suites err often, so the simulation can fail"
    assert time.perf_counter() - began < 10


@pytest.mark.parametrize("seeds", [3, 5])
def test_a_planted_effect_of_twice_the_detectable_difference_is_found(seeds):
    rng, methods = np.random.default_rng(2), 8
    sd = simulated(rng, 4000, seeds=seeds).std()
    detectable = stats.detectable_difference(sd, seeds, alpha=stats.ALPHA / methods)
    for times, power in ((1, 0.8 - 0.02), (2, 0.8)):
        differences = simulated(rng, 2000, methods, seeds=seeds)
        differences[:, 0] += times * detectable
        assert (stats.holm(stats.paired_p(differences))[:, 0] <= stats.ALPHA).mean() >= power


def test_the_simulated_path_is_the_verdict_of_a_frame():
    rng = np.random.default_rng(3)
    accuracy = rng.normal(80, 1, (4, 3, 5))
    names = ["kd", "scratch", "x", "y"]
    table = stats.verdict(frame({(f"p{j}", m): [*accuracy[i, j]] for i, m in enumerate(names) for j in range(3)}), "kd")
    differences = (accuracy[1:] - accuracy[:1]).mean(axis=1)
    assert table["p_holm"].to_numpy() == pytest.approx(stats.holm(stats.paired_p(differences)))


def test_the_bootstrap_over_images_agrees_with_resampling_them():
    rng = np.random.default_rng(1)
    ours, base = rng.random(400) < 0.7, rng.random(400) < 0.6
    low, high = stats.bootstrap_interval(ours, base)
    index = rng.integers(0, 400, size=(4000, 400))
    points = 100 * (ours[index].mean(axis=1) - base[index].mean(axis=1))
    assert (low, high) == pytest.approx(tuple(np.quantile(points, [0.025, 0.975])), abs=0.5)
    assert stats.bootstrap_interval(base, base) == (0, 0)
    back = stats.bootstrap_interval(base, ours)
    assert (-back[1], -back[0]) == pytest.approx((low, high), abs=0.5)


# ---------------------------------------------------------------------------------------------- agreement, calibration


def test_agreement_counts_apart_where_the_teacher_is_right_and_wrong():
    labels, teacher = np.array([0, 1, 2, 0, 1]), np.array([0, 1, 2, 1, 0])
    student = np.array([0, 1, 0, 1, 1])
    assert stats.agreement(student, teacher, labels) == pytest.approx((200 / 3, 50.0))
    right, wrong = stats.agreement(student, labels, labels)
    assert right == 60 and np.isnan(wrong)


def by_hand(logits, labels, bins):
    """ECE bin by bin, in plain Python."""
    rows = []
    for row, label in zip(logits.tolist(), labels.tolist(), strict=True):
        shares = [math.exp(x - max(row)) for x in row]
        rows.append((max(shares) / sum(shares), row.index(max(row)) == label))
    total = 0.0
    for m in range(bins):
        own = [(c, right) for c, right in rows if m / bins < c <= (m + 1) / bins]
        if own:
            total += abs(sum(r for _, r in own) / len(own) - sum(c for c, _ in own) / len(own)) * len(own)
    return 100 * total / len(rows)


def calibration_error(logits, labels, bins=15):
    shown = top(logits)
    return stats.calibration_error(shown.confidence, shown.classes == labels, bins)


@pytest.mark.parametrize(("bins", "scale"), [(15, 1.0), (15, 5.0), (4, 2.0)])
def test_calibration_error_is_that_of_its_definition(bins, scale):
    random = np.random.default_rng(0)
    logits, labels = scale * random.normal(size=(400, 7)), random.integers(0, 7, 400)
    assert calibration_error(logits, labels, bins) == pytest.approx(by_hand(logits, labels, bins), rel=1e-9)


def test_calibration_error_at_its_ends():
    sure = np.array([[400.0, 0.0], [400.0, 0.0]], dtype=np.float16)
    assert calibration_error(sure, np.array([0, 0])) == pytest.approx(0, abs=1e-9)
    assert calibration_error(sure, np.array([1, 1])) == pytest.approx(100)
    unsure = np.zeros((4, 2))
    assert calibration_error(unsure, np.array([0, 0, 1, 1])) == pytest.approx(0, abs=1e-9)


def test_spearman_is_that_of_scipy_and_its_interval_draws_whole_groups():
    rng = np.random.default_rng(3)
    groups = np.repeat(np.arange(8), 6)
    x = rng.normal(size=48) + rng.normal(size=8)[groups]
    y = np.round(x + rng.normal(size=48), 1)
    found = stats.spearman_interval(x, y, groups)
    assert found.mean == pytest.approx(st.spearmanr(x, y).statistic) and found.n == 8
    # By hand: 8 groups drawn with replacement, their points laid together.
    again = []
    for _ in range(1000):
        points = np.concatenate([np.flatnonzero(groups == g) for g in rng.choice(8, 8)])
        again.append(st.spearmanr(x[points], y[points]).statistic)
    assert [found.low, found.high] == pytest.approx(np.quantile(again, [0.025, 0.975]), abs=0.05)
    assert stats.spearman_interval(x, y, groups) == found


def test_spearman_of_few_groups_has_no_interval_and_of_a_constant_no_value():
    x = np.arange(4.0)
    assert stats.spearman_interval(x, x**2, np.array([0, 0, 1, 1])) == (pytest.approx(1.0), None, None, 2)
    assert stats.spearman_interval(x, np.ones(4), np.arange(4)) == (None, None, None, 4)
    assert stats.spearman_interval(np.array([]), np.array([]), np.array([])) == (None, None, None, 0)


def test_a_mean_over_pairs_is_over_the_same_pairs_in_every_seed():
    index = pd.MultiIndex.from_product([["a", "b", "c"], [0, 1]], names=["pair", "seed"])
    delta = pd.DataFrame({"whole": np.arange(6.0), "never on c": [0, 1, 2, 3, np.nan, np.nan]}, index)
    delta["once not"] = [0.0, 1, 2, np.nan, 4, 5]
    means = stats.over_pairs(delta, ["a", "b", "c"])
    assert means["whole"].tolist() == [2.0, 3.0] and means["never on c"].tolist() == [1.0, 2.0]
    assert means["once not"].tolist() == [2.0, pytest.approx(np.nan, nan_ok=True)]
    assert stats.over_pairs(delta, ["a", "c"])["once not"].tolist() == [2.0, 3.0]


def test_collapsed_is_below_half_of_scratch_on_the_pair():
    rows = [("p", "scratch", 40.0), ("p", "kd", 20.0), ("p", "rkd", 19.9), ("q", "scratch", 30.0), ("q", "rkd", 19.9)]
    frame = pd.DataFrame(rows, columns=["pair", "method", "test"]).assign(seed=0, status="finished")
    assert stats.collapsed_cells(frame) == {("p", "rkd")}
    assert stats.collapsed_cells(frame[frame["method"] != "scratch"]) == set()
