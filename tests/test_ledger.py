"""The ledger of published claims: its numbers come out again, and its rules are those of the run."""

from __future__ import annotations

import pytest
from conftest import REPOSITORY

from kdbench import claims, cli
from kdbench.claims import _page, fdcmkd_published
from kdbench.files import read_json
from kdbench.similarity import low_band_share

SLOW = {"mfh_toy"}
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
    assert cli.main(["claim", "uhkd_spectrum"]) == 2
    assert "kdbench reference glyphs-edition-1" in capsys.readouterr().err
