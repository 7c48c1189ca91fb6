"""Claims with a margin that was fixed before any run: the rule, the pairs it is over, and where it is printed."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import recompute
from conftest import tiny_plan
from scipy import stats as scipy_stats
from test_groups import frozen_by_hand, report
from test_tables import make, page, row

from kdbench.plan.blocks import tuning_pair
from kdbench.report import stats
from kdbench.report.paper import fragments
from kdbench.report.verdicts import answer, claim_results
from kdbench.types import Claim, KdbenchError, ModelSpec, Pair, Tune

MARGIN = Claim("kd", "ofa", "kd", "Is OFA better than KD?", margin=1.0)
AGAIN = Claim("alone", "ofa", "scratch", "Is OFA better than nothing?", margin=1.0)


@pytest.mark.parametrize(
    ("difference", "low", "high", "word"),
    [
        (2.0, 0.1, 3.9, "supported"),
        (1.0, 0.1, 1.9, "undecided"),
        (2.0, -0.1, 4.1, "undecided"),
        (0.4, 0.1, 0.9, "contradicted"),
        (0.4, -0.2, 1.0, "undecided"),
        (-3.0, -5.0, -1.0, "contradicted"),
    ],
)
def test_a_difference_must_exceed_the_margin_and_an_interval_below_it_contradicts(difference, low, high, word):
    assert stats.decision(difference, low, high, 1.0) == word


def decided(seeds=4, claims=(MARGIN, AGAIN)):
    """Two pairs, of which one is no headline pair; students of the other read another modality."""
    suite, block, frame = make(pairs=4, methods=("scratch", "kd", "ofa"), seeds=seeds)
    block = dataclasses.replace(block, pairs=(block.pairs[0], block.pairs[3]))
    frame = frame[frame["pair"].isin([p.id for p in block.pairs])].reset_index(drop=True)
    weak, other = block.pairs[0].id, block.pairs[1].student
    frame.loc[frame["pair"] == weak, "teacher_val"] = 50.0
    models = suite.models | {other: dataclasses.replace(suite.models[other], input="audio")}
    return dataclasses.replace(suite, blocks=(block,), models=models, claims=claims), block, frame


def test_a_claim_with_a_margin_is_tested_on_every_pair_and_adjusted_over_all_of_them():
    suite, block, frame = decided()
    results = claim_results(suite, block, frame)
    assert len(results) == 4
    p = []
    for result in results:
        (pair,) = set(result.frame["pair"])
        tests = frame[frame["pair"] == pair].pivot_table(index="seed", columns="method", values="test")
        delta = tests[result.claim.method] - tests[result.claim.control]
        assert result.verdict["difference"] == pytest.approx(delta.mean())
        p.append(scipy_stats.ttest_1samp(delta, 0).pvalue)
        assert result.verdict["p"] == pytest.approx(p[-1])
    smallest = int(np.argmin(p))
    assert results[smallest].verdict["p_holm"] == pytest.approx(min(1, 4 * p[smallest]))
    unmargined = claim_results(
        dataclasses.replace(suite, claims=(dataclasses.replace(MARGIN, margin=None),)), block, frame
    )
    assert [r.verdict["reason"] for r in unmargined] == ["no headline pair", ""]


def test_the_decision_is_printed_with_its_margin_and_its_rule():
    suite, block, frame = decided()
    frame.loc[frame["method"] == "ofa", "test"] += 5
    text = page(suite, block, frame)
    for reads in ("audio", "image"):
        cells = row(text, f"OFA minus KD, students that read {reads}", "### Claims with a margin")
        assert cells[-2:] == ["1.0", "supported"]
    assert text.count("Contradicted: the interval lies below the margin.") == 1
    plain = page(dataclasses.replace(suite, claims=(dataclasses.replace(MARGIN, margin=None),)), block, frame)
    assert "margin" not in plain and "### Claims and their controls, over headline pairs" in plain
    both = page(dataclasses.replace(suite, claims=(dataclasses.replace(MARGIN, margin=None), AGAIN)), block, frame)
    assert both.count("### Claims") == 2
    told = answer(block, *claim_results(suite, block, frame)[0])
    assert told.startswith(
        "Is OFA better than KD? Students that read image: Supported at a margin of 1: OFA minus KD is"
    )
    none = page(suite, block, frame[frame["seed"] == 0])
    assert row(none, "OFA minus KD, students that read image", "### Claims with a margin")[-1] == "no test"


def test_a_paper_gets_the_decisions_too():
    own = report(pairs=3)
    suite = dataclasses.replace(own.suite, claims=(MARGIN,))
    found = fragments(dataclasses.replace(own, suite=suite))["main-claims"]
    assert "supported" in found or "undecided" in found or "contradicted" in found
    assert r"\label{tab:tiny-main-claims}" in found and "unadjusted and by Holm" in found


def test_the_script_that_shares_nothing_finds_the_same_decisions(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    own = report(pairs=3, sizes={}, also=())
    weak = own.frame["pair"] == own.block.pairs[0].id
    own.frame.loc[weak, "teacher_val"] = 50.0
    own = dataclasses.replace(own, suite=dataclasses.replace(own.suite, claims=(MARGIN, AGAIN)))
    own.frame["test_by_group"] = None
    frozen_by_hand(own)
    _, wrong = recompute.recompute("made")
    assert not wrong
    path = tmp_path / "tables/reference/made.md"
    text = path.read_text()
    words = ("supported", "undecided", "contradicted")
    word = next(w for w in words if f" {w} |" in text)
    path.write_text(text.replace(f" {word} |", f" {words[words.index(word) - 1]} |", 1))
    _, (wrong,) = recompute.recompute("made")
    assert "decision" in wrong


def test_a_negative_margin_is_refused():
    claim = {"method": "kd", "control": "scratch", "question": "?", "margin": -1}
    with pytest.raises(KdbenchError, match=r"claims.a.margin: must not be negative, got -1"):
        tiny_plan(claims={"a": claim})


def test_a_method_that_keeps_its_weight_has_no_tuned_twin():
    changes = {"tune": {"seed": 9, "pairs": ["cnn-t -> vit-s"], "factors": [0.5, 1]}, "blocks__main__weights": "tuned"}
    changes |= {"methods": {"own": {"method": "kd", "tune": False}}}
    plan = tiny_plan(**changes, blocks__main__methods=["scratch", "kd", "own", "own@shuffled"])
    assert [m.id for m in plan.suite.blocks[0].methods] == ["scratch", "kd-tuned", "own", "own@shuffled"]
    with pytest.raises(KdbenchError, match=r"methods.own.tune: expected bool, got 'no'"):
        tiny_plan(methods={"own": {"method": "kd", "tune": "no"}})


def test_each_direction_gets_the_weights_that_were_tried_on_it():
    models = {m: ModelSpec(m, "T", "d", "r", input=m.partition("-")[0], family="cnn") for m in ("image-t", "audio-t")}
    there, back = Pair("image-t", "audio-t"), Pair("audio-t", "image-t")
    assert tuning_pair(Tune((9,), (there, back)), models, back) == back
    assert tuning_pair(Tune((9,), (there,)), models, back) == there, "of one direction, they serve both"
