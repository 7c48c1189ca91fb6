"""The suites of claim 2: what was fixed before any run stands in them, and they run from files to decisions."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from unittest.mock import patch

import pytest
import yaml
from conftest import REPOSITORY
from test_avdigits import write_fsdd
from test_mnist import write_mnist

from kdbench import cli
from kdbench.claims import ucmkd_batchnorm
from kdbench.data.sources import avdigits, mnist
from kdbench.plan.jobs import make_plan
from kdbench.plan.suite import check_suite, load_suite
from kdbench.run.everything import run_all
from kdbench.run.outputs import run_table

LITE, NIGHT, UCMKD = "claim-distillation", "claim-distillation-night", "claim-ucmkd"


@pytest.mark.parametrize("name", [LITE, NIGHT])
def test_a_suite_is_the_protocols(name):
    suite = load_suite(name)
    (data,) = suite.data.values()
    assert suite.seeds == tuple(range(len(avdigits.SPEAKERS))), "a fold a speaker"
    assert data.draw_by_seed and data.args["unseen_speaker"]
    assert not set(suite.tune.seeds) & set(suite.seeds) and set(suite.blocks[0].pairs) <= set(suite.tune.pairs)
    standard_error = 100 * math.sqrt(0.25 / 3000)
    assert {claim.margin for claim in suite.claims} == {max(1.0, standard_error)}
    shown = {m.id for m in suite.blocks[0].methods}
    for claim in suite.claims:
        assert {suite.blocks[0].row_of(claim.method), suite.blocks[0].row_of(claim.control)} <= shown
    recipe = suite.recipes["both"]
    assert (recipe.optimizer, recipe.lr, recipe.min_lr, recipe.poly) == ("sgd", 1e-2, 1e-4, 0.9)
    assert (recipe.momentum, recipe.nesterov, recipe.weight_decay, recipe.batch_size) == (0.9, False, 0.0, 64)
    assert suite.models["image"].args == suite.models["audio"].args, "so that no Linear stands between their features"
    assert "the published tables are not re-run" in suite.banner


def test_the_lite_tier_has_the_arms_that_decide_and_the_night_has_them_too():
    lite, night = (load_suite(name).blocks[0].methods for name in (LITE, NIGHT))
    assert [m.id for m in lite] == [
        "scratch",
        "fd-heads",
        "kd-tuned",
        "fdcmkd-code",
        "fdcmkd-tuned",
        "fd-half-tuned",
        "fdcmkd@shuffled-tuned",
        "fdcmkd@untrained-tuned",
    ]
    named = {m.id: (m.method, m.params, m.guide) for m in night}
    assert all(named[m.id] == (m.method, m.params, m.guide) for m in lite)
    heads, coded = (next(m.params for m in lite if m.id == name) for name in ("fd-heads", "fdcmkd-code"))
    assert (heads["weight"], heads["align_weight"]) == (0, 0) and (coded["weight"], coded["variant"]) == (1, "code")
    assert next(m.params["temperature"] for m in lite if m.id == "kd-tuned") == 4


def test_ucmkds_suite_is_the_lite_tier_with_its_arms_and_its_largest_gradient():
    suite, lite = load_suite(UCMKD), load_suite(LITE)
    assert (suite.data, suite.models, suite.seeds, suite.banner) == (lite.data, lite.models, lite.seeds, lite.banner)
    assert suite.recipes == {"both": dataclasses.replace(lite.recipes["both"], clip_grad=5.0)} and suite.tune is None
    (block,) = suite.blocks
    assert block.pairs == lite.blocks[0].pairs and {claim.margin for claim in suite.claims} == {1.0}
    assert {claim.name for claim in suite.claims} == {*ucmkd_batchnorm.DECIDE, *ucmkd_batchnorm.BESIDE}
    arms = {m.id: m.params for m in block.methods if m.method == "ucmkd"}
    shares = {id: params["training_mode_share"] * suite.recipes["both"].epochs for id, params in arms.items()}
    assert shares == {id: 1 if id == "ucmkd-ce" else 20 for id in arms} and len(arms) == 6


def test_licences_are_on_the_terminal(capsys):
    assert cli.main(["show", "data"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    for told in ("## avdigits", "Attribution-ShareAlike 4.0", "26eb9aa", "Attribution-Share Alike 3.0", "not AV-MNIST"):
        assert told in text


@pytest.mark.slow
def test_the_lite_tier_runs_from_files_to_decisions(tmp_path, monkeypatch):
    """Two folds, one epoch, a small set, two factors."""
    with patch.dict(mnist.FILES), patch.object(avdigits, "RECORDINGS_SHA256"):
        write_mnist(tmp_path / "mnist", train=1000, test=1280)
        write_fsdd(tmp_path / "fsdd")
        monkeypatch.setenv("KDBENCH_DATA", str(tmp_path))
        monkeypatch.chdir(tmp_path)
        tree = yaml.safe_load((REPOSITORY / f"config/{LITE}.yaml").read_text(encoding="utf-8"))
        tree["seeds"], tree["tune"]["factors"] = [0, 1], [1, 10]
        tree["recipes"]["both"]["epochs"] = 1
        tree["data"]["digits"]["train_recordings"] = 2
        plan = make_plan(check_suite(tree, LITE, LITE))
        run_all(plan)
        run_table(plan)
    text = Path(f"tables/{LITE}.md").read_text(encoding="utf-8")
    _, _, table = text.partition("### Claims with a margin, over all pairs")
    words = ("supported", "contradicted", "undecided", "no test")  # no interval where all differences are the same
    rows = [line for line in table.splitlines() if " minus " in line]
    assert len(rows) == 14 and sum("students that read audio" in row for row in rows) == 7
    assert all(row.split(" | ")[-1].strip(" |") in words for row in rows)
    assert "the published tables are not re-run" in text and "CC BY-SA 4.0" in text
