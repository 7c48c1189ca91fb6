"""The ledger of published claims: its numbers come out again, and its rules are those of the run."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from conftest import REPOSITORY
from test_claims import decided

from kdbench import claims, cli
from kdbench.claims import _comparisons, _page, fdcmkd_distillation, fdcmkd_frequency, fdcmkd_published, ucmkd_batchnorm
from kdbench.files import read_json
from kdbench.plan.suite import load_suite
from kdbench.report.stats import detectable_difference
from kdbench.similarity import low_band_share

SLOW = {"mfh_toy", "ucmkd_transfer"}
RUN = [name for name in claims.names() if claims.committed(name)]


def test_the_page_is_what_the_committed_results_say(monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    written = (REPOSITORY / "docs/claims.md").read_text()
    assert written == _page.page() + "\n", "run: kdbench show claims > docs/claims.md"
    assert len(RUN) >= 10 and {f"{path.stem}" for path in claims.COMMITTED.glob("*.json")} == set(RUN)


@pytest.mark.parametrize("name", RUN)
def test_a_rule_is_the_one_that_the_result_was_judged_by(name, monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    claim, result = claims.load(name), claims.committed(name)
    assert (result["rule"], result["power"]) == (claim.RULE, claim.POWER), f"{name}: run it again under its new rule"
    assert result["verdict"] == claim.verdict(result["numbers"]) in claims.VERDICTS
    assert result["numbers"]["n"] > 0 and {"seed", "seeds"} & set(result["numbers"])
    assert result["date"] and result["hardware"] and result["versions"]["torch"]
    assert set(claim.CERTAINTY) <= set(claims.CERTAINTIES)


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow) if n in SLOW else n for n in RUN])
def test_the_numbers_come_out_again(name, monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    claim, numbers = claims.load(name), claims.committed(name)["numbers"]
    again = claim.run()
    texts = {key for key, value in numbers.items() if isinstance(value, str)}
    assert {key: again[key] for key in texts} == {key: numbers[key] for key in texts}
    for key in set(numbers) - texts:
        # Rounding differs between processors, and a ratio of gradients at a spread of 1e-7 consists of it.
        assert again[key] == pytest.approx(numbers[key], rel=0.1, abs=1e-4), key
    assert claim.verdict(again) == claim.verdict(numbers)


@pytest.mark.parametrize(
    ("name", "numbers", "verdict"),
    [
        ("uhkd_spectrum", {"low": 0.1, "high": 3.0}, "supported"),
        ("uhkd_spectrum", {"low": -2.0, "high": 0.9}, "contradicted"),
        ("uhkd_spectrum", {"low": -2.0, "high": 1.1}, "undecided"),
        ("token_bandwidth", {"published": 0.95, "shuffled_high": 0.94}, "supported"),
        ("token_bandwidth", {"published": 0.90, "shuffled_high": 0.94}, "contradicted"),
        ("skd_whitening", {"released_low": 0.8, "released_high": 0.9}, "supported"),
        ("skd_whitening", {"released_low": 0.9, "released_high": 1.0}, "undecided"),
        ("spofa_clips", {"sample_clips_reached": 2, "branch_clips_reached": 2}, "supported"),
        ("spofa_clips", {"sample_clips_reached": 1, "branch_clips_reached": 2}, "undecided"),
        ("mfh_toy", {"difference_low": -1.0, "difference_high": 0.5}, "contradicted"),
        ("mfh_toy", {"difference_low": -1.0, "difference_high": 2.0}, "undecided"),
    ],
)
def test_a_rule_answers_both_ways(name, numbers, verdict):
    assert claims.load(name).verdict(numbers) == verdict


@pytest.mark.parametrize(("mean_energy", "correlation"), [(5.0, 0.0), (2.8, 0.3), (0.5, -0.2)])
def test_what_low_bands_share_besides_the_mean_is_found_from_two_cosines(mean_energy, correlation):
    share = low_band_share(fdcmkd_published.WIDTH)
    common = mean_energy + share * correlation
    raw, low = common / (mean_energy + 1), common / (mean_energy + share)
    assert fdcmkd_published.low_correlation(raw, low) == pytest.approx(correlation)


def test_claims_by_hand(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["claim", "token_bandwidth"]) == 0
    assert capsys.readouterr().out.endswith("contradicted\nresults/claims/token_bandwidth.json\n")
    assert read_json(tmp_path / "results/claims/token_bandwidth.json")["numbers"]["ordered"] < 0.05
    assert cli.main(["claim"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == claims.names()
    assert cli.main(["claim", "token_bandwith"]) == 2
    assert "did you mean 'token_bandwidth'?" in capsys.readouterr().err
    assert cli.main(["claim", "uhkd_spectrum"]) == 0  # committed runs are found from any folder
    monkeypatch.setattr("kdbench.claims.uhkd_spectrum.SUITE", "unfrozen")
    assert cli.main(["claim", "uhkd_spectrum"]) == 2
    assert "kdbench reference unfrozen" in capsys.readouterr().err


def test_the_rule_of_frequencies_stands_in_its_suite(monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    suite = load_suite(fdcmkd_frequency.SUITE)
    assert " ".join(suite.banner.split()) == fdcmkd_frequency.RULE and len(suite.seeds) >= 5


def rotated(low: float, high: float, split: float, seeds: int = 2) -> list[dict]:
    values = {"raw": (low + high) / 2, "low": low, "high": high, "low - high": low - high}
    return [
        {"seed": seed, "band": band, "cosine": value + 0.001 * seed, "reason": None}
        | {"shuffled_low": -0.05, "shuffled_high": 0.05, "split_low": -split, "split_high": split}
        for seed in range(seeds)
        for band, value in values.items()
    ]


@pytest.mark.parametrize(
    ("low", "high", "split", "verdict"),
    [
        (0.9, 0.1, 0.2, "supported"),
        (0.5, 0.48, 0.04, "contradicted"),
        (0.5, 0.3, 0.3, "undecided"),
        (0.02, 0.0, 0.1, "undecided"),
    ],
)
def test_frequencies_are_judged_from_frozen_channels(low, high, split, verdict, monkeypatch):
    """A difference beyond the half-splits, none, one within them, and features that share nothing to see."""
    plain = [
        {"seed": seed, "treatment": treatment, "band": band, "cosine": 0.5, "null_prediction": 0.6, "cka": 0.3}
        for seed in range(2)
        for treatment in ("DC kept", "DC removed")
        for band in ("raw", "low", "high")
    ]
    others = [{**row, "networks": "image and audio untrained"} for row in plain]
    document = {"rows": plain, "others": others, "cka": plain, "rotated": rotated(low, high, split)}
    suite = SimpleNamespace(blocks=[SimpleNamespace(seeds=(0, 1))])
    monkeypatch.setattr(fdcmkd_frequency, "load_suite", lambda name: suite)
    monkeypatch.setattr(fdcmkd_frequency, "Reference", lambda _: SimpleNamespace(documents=lambda *_: [document]))
    numbers = fdcmkd_frequency.run()
    assert numbers["difference"] == pytest.approx(low - high, abs=1e-3) and numbers["kept_predicted"] == 0.6
    assert fdcmkd_frequency.FOUND.format(**numbers) and fdcmkd_frequency.verdict(numbers) == verdict


@pytest.mark.parametrize(
    ("everywhere", "contradicted", "verdict"),
    [(True, False, "supported"), (False, True, "contradicted"), (False, False, "undecided")],
)
def test_distillation_is_judged_in_both_directions(everywhere, contradicted, verdict):
    numbers = {"all_supported": everywhere, "contradicted_everywhere": contradicted}
    assert fdcmkd_distillation.verdict(numbers) == ucmkd_batchnorm.verdict(numbers) == verdict


@pytest.mark.parametrize(("gain", "word"), [(9.0, "supported"), (-9.0, "contradicted")])
def test_comparisons_come_from_the_frozen_runs_of_a_suite(gain, word, monkeypatch):
    suite, _, frame = decided()
    spread = frame["seed"].map({0: 0.1, 1: 0.2, 2: -0.1, 3: 0.0})
    frame["test"] = 50 + (frame["method"] == "ofa") * (gain + spread)
    monkeypatch.setattr(_comparisons, "load_suite", lambda name: suite)
    monkeypatch.setattr(_comparisons, "Reference", lambda suite: SimpleNamespace(frame=lambda block: frame))
    numbers = _comparisons.comparisons("made", ["kd"])
    told = numbers["comparisons"].split("; ")
    assert numbers["n"] == 4 and len(told) == 2 and all(line.endswith(word) for line in told)
    assert _comparisons.verdict_of(numbers) == word
    least = detectable_difference(np.std([0.1, 0.2, -0.1, 0.0], ddof=1), 4)
    assert numbers["detectable"].count(f": {least:.1f} to {least:.1f}") == 2
