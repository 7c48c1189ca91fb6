"""Similarity measures and their null models."""

import numpy as np
import pytest
import torch

from kdbench.frequency import bands, split_channels
from kdbench.report import stats
from kdbench.similarity import (
    channel_cka,
    channel_mean_share,
    channel_similarity,
    cka,
    cka_with_null,
    mean_cosine,
    null_prediction,
    radial_power,
    rotated_similarity,
    stage_similarity,
    stage_similarity_to,
)
from kdbench.types import KdbenchError


def numpy_cka(a, b):
    """HSIC_1 as Song et al. print it, with explicit matrices."""

    def hsic(k, m):
        n, one = len(k), np.ones(len(k))
        inner = (
            np.trace(k @ m)
            + (one @ k @ one) * (one @ m @ one) / ((n - 1) * (n - 2))
            - 2 / (n - 2) * (one @ k @ m @ one)
        )
        return inner / (n * (n - 3))

    k, m = a @ a.T, b @ b.T
    np.fill_diagonal(k, 0)
    np.fill_diagonal(m, 0)
    return hsic(k, m) / np.sqrt(hsic(k, k) * hsic(m, m))


def related(n=40, width_a=6, width_b=9, seed=0):
    rng = np.random.default_rng(seed)
    a = rng.normal(size=(n, width_a)) + 0.7
    return a, a @ rng.normal(size=(width_a, width_b)) * 0.5 + rng.normal(size=(n, width_b))


def test_cka_is_numpys():
    a, b = related()
    assert cka(torch.from_numpy(a), torch.from_numpy(b)) == pytest.approx(numpy_cka(a, b), rel=1e-10)


def test_cka_of_independent_gaussians_is_near_zero():
    rng = np.random.default_rng(1)
    a, b = rng.normal(size=(500, 512)), rng.normal(size=(500, 512))
    assert abs(cka(torch.from_numpy(a), torch.from_numpy(b))) < 0.02
    centred_a, centred_b = a - a.mean(0), b - b.mean(0)
    biased = np.linalg.norm(centred_a.T @ centred_b) ** 2
    biased /= np.linalg.norm(centred_a.T @ centred_a) * np.linalg.norm(centred_b.T @ centred_b)
    assert biased == pytest.approx(0.51, abs=0.02)


def test_cka_invariances():
    a, b = map(torch.from_numpy, related())
    rotation = torch.linalg.qr(torch.randn(9, 9, dtype=torch.float64)).Q
    assert cka(a, a) == pytest.approx(1, abs=1e-12)
    assert cka(a, 3 * b @ rotation + 5) == pytest.approx(cka(a, b), rel=1e-9)


def test_cka_null_holds_chance_and_not_the_pair():
    a, b = map(torch.from_numpy, related(n=60))
    value, low, high = cka_with_null(a, b)
    assert low < 0 < high < value
    assert (value, low, high) == cka_with_null(a, b)
    unrelated = torch.from_numpy(related(n=60, seed=5)[1])
    value, low, high = cka_with_null(a, unrelated)
    assert low < value < high
    assert cka(a, torch.full((60, 3), 0.1)) is None
    with pytest.raises(KdbenchError, match="four samples"):
        cka(a[:3], b[:3])


def test_cka_null_is_numpys_on_the_shuffled_pairs():
    a, b = related()
    order = np.random.default_rng(7).permutation(40)
    _, low, high = cka_with_null(torch.from_numpy(a), torch.from_numpy(b), permutations=1, seed=7)
    assert low == high == pytest.approx(numpy_cka(a, b[order]), rel=1e-9)


def test_null_leaves_the_global_random_state_alone():
    torch.manual_seed(3)
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    a, b = map(torch.from_numpy, related())
    cka_with_null(a, b, permutations=5)
    channel_similarity(a, a, np.zeros(40), draws=3, resamples=5)
    assert torch.equal(before[0], torch.get_rng_state())
    assert np.array_equal(before[1], np.random.get_state()[1])


def test_stage_similarity_sees_the_shared_band():
    generator = torch.Generator().manual_seed(0)
    n = 32
    angle = 2 * torch.pi * torch.arange(16) / 16
    shared = torch.randn(n, 1, 1, 1, generator=generator) * torch.cos(angle)
    own = [torch.randn(n, 1, 1, 1, generator=generator) * torch.cos(6 * angle) for _ in range(2)]
    student = (shared + own[0]).expand(n, 4, 16, 16)
    teacher = (shared + own[1]).expand(n, 3, 16, 16)
    small = torch.randn(n, 5, 4, 4, generator=generator)
    rows = stage_similarity([student, student, small, small], [teacher, teacher[..., ::2], teacher, small], 40)
    assert [(row["stage"], row["band"]) for row in rows] == [
        (s, b) for s in (1, 2, 3, 4) for b in ("dc", "low", "high")
    ]
    by = {(row["stage"], row["band"]): row for row in rows}
    assert by[1, "low"]["cka"] > 0.99 > by[1, "low"]["null_high"]
    assert abs(by[1, "high"]["cka"]) < 0.3
    assert "4x4" in by[3, "low"]["reason"] and by[3, "low"]["cka"] is None
    assert by[4, "dc"]["cka"] == pytest.approx(1) and by[4, "dc"]["reason"] is None


def waves(grid, amplitudes, n=30):
    """Maps (n, 2, *grid): an own sum of horizontal cosines {cycles per image: amplitude} for each sample."""
    generator = torch.Generator().manual_seed(0)
    x = torch.arange(grid[1]) / grid[1]
    parts = [
        a * torch.randn(n, 2, 1, 1, generator=generator) * torch.cos(2 * torch.pi * f * x)
        for f, a in amplitudes.items()
    ]
    return sum(parts).expand(n, 2, *grid).double()


def test_radial_power_is_that_of_the_waves_in_it_on_any_grid():
    alone = [radial_power(waves((16, 16), {f: a}))["power"] for f, a in ((1, 1.0), (3, 0.5))]
    assert [len(p) for p in alone] == [9, 9]
    assert alone[0][1] == pytest.approx(1) and alone[1][3] == pytest.approx(1)
    coarse, fine, sequence = (
        radial_power(waves(grid, {0: 1.0, 1: 1.0, 3: 0.5})) for grid in ((8, 8), (16, 16), (1, 64))
    )
    assert coarse["power"] == pytest.approx(fine["power"][:5], abs=1e-6)
    assert sequence["power"][:5] == pytest.approx(fine["power"][:5], abs=1e-6) and len(sequence["power"]) == 33
    assert sum(fine["power"][1:]) == pytest.approx(1) and 0 < fine["power"][0] < 1
    # A cosine's power lies in two bins of a quarter each, DC's in one.
    own = waves((8, 8), {0: 1.0}), waves((8, 8), {0: 0.0, 1: 1.0})
    energies = [float((w - w.mean(0)).square().sum()) for w in own]
    both = radial_power(torch.cat([own[0], own[1]], dim=1))["power"]
    assert both[0] == pytest.approx(energies[0] / sum(energies), rel=1e-6)


def test_radial_power_of_noise_is_white_and_scale_and_constant_maps_do_not_count():
    noise = torch.randn(200, 4, 12, 12, generator=torch.Generator().manual_seed(1))
    found = radial_power(noise)
    assert found["white"][0] == pytest.approx(1 / 127) and sum(found["white"][1:]) == pytest.approx(1)
    assert found["power"] == pytest.approx(found["white"], rel=0.1)
    constant = 50 * torch.randn(1, 4, 12, 12)
    assert radial_power(7 * noise + constant)["power"] == pytest.approx(found["power"], rel=1e-4)
    assert radial_power(constant.expand(20, 4, 12, 12))["power"] == [None] * 7
    assert radial_power(torch.randn(20, 4, 1, 1)) == {"power": [1.0], "white": [1.0]}


@pytest.fixture(scope="module")
def offset_rows():
    """Two modalities that share nothing but a channel mean of 2.3 standard deviations."""
    rng = np.random.default_rng(0)
    a, b = (torch.from_numpy(rng.normal(size=(400, 512)) + 2.3) for _ in range(2))
    rows = channel_similarity(a, b, np.arange(400) % 10, draws=10, resamples=200)
    return {(row["treatment"], row["band"]): row for row in rows}


def test_a_shared_offset_alone_gives_the_published_pattern(offset_rows):
    kept = {band: offset_rows["DC kept", band] for band in ("raw", "low", "high")}
    assert kept["raw"]["cosine"] == pytest.approx(0.841, abs=0.003)
    assert kept["low"]["cosine"] == pytest.approx(0.9135, abs=0.003)
    assert kept["low"]["null_prediction"] == pytest.approx(kept["low"]["cosine"], abs=0.002)
    assert kept["high"]["cosine"] == pytest.approx(0, abs=0.01)
    assert offset_rows["DC removed", "low"]["cosine"] == pytest.approx(0, abs=0.01)
    for treatment in ("permuted channels", "shuffled pairs", "same-class shuffled"):
        assert offset_rows[f"{treatment}, DC kept", "low"]["cosine"] == pytest.approx(0.9135, abs=0.003)
        assert offset_rows[f"{treatment}, DC removed", "low"]["cosine"] == pytest.approx(0, abs=0.01)
    assert len(offset_rows) == 8 * 3
    assert all(row["low"] <= row["cosine"] <= row["high"] for row in offset_rows.values())


def test_null_prediction_is_that_of_the_paper_notes():
    assert null_prediction(0.8379, 512) == pytest.approx(0.9115, abs=1e-4)
    assert null_prediction(0.74, 512) == pytest.approx(0.850, abs=5e-4)
    assert null_prediction(-0.2, 512) == 0


def test_the_curve_of_figures_is_the_null_prediction_of_wide_features():
    for raw in (0.0, 0.1, 0.5, 0.8379, 0.99):
        assert stats.shared_mean_low(raw) == pytest.approx(null_prediction(raw, 1_000_000), abs=1e-5)


def test_the_share_of_the_channel_mean_is_one_of_a_constant_and_zero_behind_layer_norm():
    x = torch.randn(50, 256)
    assert channel_mean_share(torch.ones(3, 8)) == pytest.approx(1)
    assert channel_mean_share(torch.nn.functional.layer_norm(x, (256,))) == pytest.approx(0, abs=1e-9)
    # Mean 2.3 beside unit variance.
    assert channel_mean_share(x + 2.3) == pytest.approx(2.3**2 / (2.3**2 + 1), abs=0.01)


def test_bands_may_be_those_of_another_pair():
    fine = tuple(torch.randn(20, 3, 16, 16) for _ in range(4))
    other = tuple(maps + 0.5 * torch.randn_like(maps) for maps in fine)
    own = stage_similarity_to(fine, permutations=0)(other)
    cut = stage_similarity_to(fine, permutations=0, grids=[(8, 8)] * 4)(other)
    assert [r["cka"] for r in own if r["band"] == "dc"] == [r["cka"] for r in cut if r["band"] == "dc"]
    low = [bands(maps[0], (8, 8))["low"] for maps in (fine, other)]
    assert cut[1]["band"] == "low" and cut[1]["cka"] == pytest.approx(cka(*low)) != own[1]["cka"]


def test_channel_similarity_sees_what_pairs_and_classes_share():
    rng = np.random.default_rng(2)
    labels = np.arange(200) % 4
    shared = rng.normal(size=(4, 64))[labels]
    a, b = (torch.from_numpy(shared + 0.3 * rng.normal(size=(200, 64))) for _ in range(2))
    rows = channel_similarity(a, b, labels, draws=10, resamples=100)
    raw = {row["treatment"]: row["cosine"] for row in rows if row["band"] == "raw"}
    assert raw["DC kept"] == pytest.approx(raw["same-class shuffled, DC kept"], abs=0.02)
    assert raw["DC kept"] > 0.8 > 0.4 > raw["shuffled pairs, DC kept"]
    assert abs(raw["permuted channels, DC removed"]) < 0.2


@pytest.fixture(scope="module")
def classes():
    """Features (600, 32) of two modalities that share the class, each in a basis of its own; 400 are for the fit."""
    rng = np.random.default_rng(5)
    shared = rng.normal(size=(10, 32))[np.arange(600) % 10]
    basis, _ = np.linalg.qr(rng.normal(size=(32, 32)))
    a, b = (torch.from_numpy(shared @ turn + 0.7 * rng.normal(size=(600, 32)) + 2) for turn in (np.eye(32), basis))
    return a[:400], b[:400], a[400:], b[400:]


def test_a_rotation_finds_what_two_bases_hide_and_no_frequency_in_it(classes):
    *_, a, b = classes
    plain = {(r["treatment"], r["band"]): r["cosine"] for r in channel_similarity(a, b, np.zeros(200), 2, 2)}
    assert abs(plain["DC removed", "raw"]) < 0.1
    rows = {row["band"]: row for row in rotated_similarity(*classes, draws=40)}
    assert rows["raw"]["cosine"] > 0.5 > 0.1 > rows["raw"]["shuffled_high"] > 0 > rows["raw"]["shuffled_low"]
    difference = rows["low - high"]
    assert difference["cosine"] == pytest.approx(rows["low"]["cosine"] - rows["high"]["cosine"])
    assert difference["split_low"] < difference["cosine"] < difference["split_high"]
    assert rows["raw"]["split_low"] is None and rows["low"]["split_low"] > 0.3


def test_a_rotation_shows_an_agreement_of_low_bands_where_there_is_one(classes):
    """The same classes, but noise in the high band of both: what half-splits must tell from the above."""
    noise = torch.randn(2, 600, 32, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    loud = [3 * split_channels(x)[1] for x in noise]
    fit_a, fit_b, a, b = classes
    turn = torch.linalg.lstsq(fit_b - fit_b.mean(0), fit_a - fit_a.mean(0)).solution  # b in the basis of a
    sides = (x.double() + y for x, y in ((fit_a, loud[0][:400]), (fit_b @ turn, loud[1][:400])))
    others = (x.double() + y for x, y in ((a, loud[0][400:]), (b @ turn, loud[1][400:])))
    rows = {row["band"]: row for row in rotated_similarity(*sides, *others, draws=40)}
    difference = rows["low - high"]
    assert difference["cosine"] > max(difference["split_high"], difference["shuffled_high"])


def test_channel_cka_is_that_of_each_band(classes):
    *_, a, b = classes
    rows = {(row["treatment"], row["band"]): row for row in channel_cka(a, b, permutations=20)}
    assert len(rows) == 6
    assert rows["DC kept", "raw"]["cka"] == pytest.approx(cka(a, b))
    assert rows["DC removed", "low"]["cka"] == pytest.approx(cka(split_channels(a)[0], split_channels(b)[0]))
    assert rows["DC removed", "low"]["cka"] > rows["DC removed", "low"]["null_high"]
    assert channel_cka(a, torch.ones_like(b), 2)[0]["reason"] == "a side does not vary in this band"


def test_unequal_widths_get_a_reason():
    rows = rotated_similarity(*(torch.randn(10, width) for width in (8, 12, 8, 12)))
    assert [row["cosine"] for row in rows] == 4 * [None] and "8 and 12" in rows[0]["reason"]
    rows = channel_similarity(torch.randn(10, 8), torch.randn(10, 12), np.zeros(10))
    assert len(rows) == 24
    assert all(row["cosine"] is None and "8 and 12" in row["reason"] for row in rows)


def test_mean_cosine_is_numpys():
    a, b = np.random.default_rng(0).normal(size=(2, 20, 7))
    expected = np.mean((a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1))
    assert mean_cosine(torch.from_numpy(a), torch.from_numpy(b)) == pytest.approx(expected)
    low, _ = split_channels(torch.from_numpy(a))
    assert mean_cosine(low, low) == pytest.approx(1)
