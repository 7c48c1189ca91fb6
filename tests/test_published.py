"""Our accuracies beside the published ones: what is within, what is not, and what cannot be told."""

from __future__ import annotations

import dataclasses
import math
import shutil

import pandas as pd
import pytest
import yaml
from conftest import REPOSITORY, write_tiny
from fakes import block, fake_plan, finish_all

from kdbench import cli
from kdbench.plan.jobs import make_plan
from kdbench.plan.registry import method_names
from kdbench.plan.suite import load_suite
from kdbench.terminal import published
from kdbench.types import Recipe


def ours(**cells):
    """Runs of the pair t -> s; a method's values are (last, best) accuracies a seed."""
    return pd.DataFrame(
        {"teacher": "t", "student": "s", "method": method, "seed": seed, "last": last, "best": best}
        for method, values in cells.items()
        for seed, (last, best) in enumerate(values)
    )


def theirs(epoch="last", tolerance=0.5, reason="", **cells):
    known = {"epoch": epoch, "tolerance": tolerance, "reason": reason, "source": "x", "certainty": "verbatim"}
    return pd.DataFrame(
        {"teacher": "t", "student": "s", "method": method, "value": value} | known for method, value in cells.items()
    )


THREE = [(70.5, 71.5), (71.0, 72.0), (71.5, 72.5)]
HALF = 0.5 * 4.302653 / math.sqrt(3)  # of three seeds with a deviation of 0.5


@pytest.mark.parametrize("tolerance", [0.5, 2.0])
def test_within_is_the_interval_of_our_seeds_and_the_tolerance_of_the_value(tolerance):
    for sign, outside in ((1, "below"), (-1, "above")):
        border = 71.0 + sign * (HALF + tolerance)
        for value, verdict in ((border - sign * 1e-3, "within"), (border + sign * 1e-3, outside)):
            row = published.judge(ours(kd=THREE), theirs(kd=value, tolerance=tolerance)).iloc[0]
            assert row.verdict == verdict and row.difference == pytest.approx(71.0 - value)
            assert row.allowed == pytest.approx(HALF + tolerance, abs=1e-5)


def test_an_interval_of_more_than_three_tolerances_confirms_nothing_but_may_refute():
    for tolerance, value, verdict in ((0.42, 71.0, "within"), (0.41, 71.0, "cannot be judged"), (0.1, 74.0, "below")):
        assert published.judge(ours(kd=THREE), theirs(kd=value, tolerance=tolerance)).iloc[0].verdict == verdict


def test_the_epoch_that_the_source_reports_is_judged():
    row = published.judge(ours(kd=THREE), theirs("best", kd=73.0)).iloc[0]
    assert row.difference == pytest.approx(-1.0) and (row["last"].mean, row["best"].mean) == (71.0, 72.0)


def test_what_cannot_be_told_says_why():
    nan = (math.nan, math.nan)
    table = published.judge(
        ours(kd=[THREE[0], nan, nan], dkd=[nan] * 3, ofa=THREE, flat=[(70.0, 70.0)] * 3),
        theirs(kd=70.0, dkd=70.0, flat=70.6),
    ).set_index("method")
    assert table["verdict"].to_dict() == {
        "kd": "cannot be judged",
        "dkd": "cannot be judged",
        "ofa": "no published value",
        "flat": "below",
    }
    assert table["n"].to_dict() == {"kd": 1, "dkd": 0, "ofa": 3, "flat": 3} and set(table["runs"]) == {3}
    text = "\n".join(published.lines(table.reset_index()))
    assert "1 of 3" in text and "70.60 (last)" in text and "verbatim [a]" in text and "[a] x" in text
    unread = theirs(uhkd=math.nan).assign(teacher="", student="")
    told = published.sentences(table.reset_index(), pd.concat([theirs(kd=70.0, kdd=70.0), unread]))
    assert told[0] == "0 of 1 values within; 1 below, 2 cannot be judged, 1 no published value."
    assert told[2:] == [
        "Published for these pairs, but not trained here: kdd.",
        "No published number of uhkd could be read: x.",
    ]


def test_what_is_not_the_same_experiment_stands_beside_ours_unjudged():
    table = published.judge(ours(kd=THREE), pd.concat([theirs(kd=70.9, reason="another recipe"), theirs(kd=70.9)]))
    assert list(table["verdict"]) == ["not comparable", "within"]
    assert table["difference"].tolist() == pytest.approx([0.1, 0.1]) and math.isnan(table["allowed"][0])
    assert "not comparable [a]" in "\n".join(published.lines(table))
    for epoch in ("", "291 of 300"):
        (row,) = published.judge(ours(kd=THREE), theirs(epoch, kd=70.9, reason="its epoch")).itertuples()
        assert row.verdict == "not comparable" and math.isnan(row.difference)


# ------------------------------------------------------------------------------------------------------------- shipped


RECIPE = {field.name for field in dataclasses.fields(Recipe)} | {"peak_lr", "global_batch"}
SHIPPED = sorted(path.stem for path in published.FOLDER.glob("*.csv"))


@pytest.mark.parametrize("name", SHIPPED)
def test_what_ships_was_read_and_is_of_cells_that_the_suite_can_train(name):
    suite = load_suite(name)
    table = published.values(suite)
    assert set(table["certainty"]) <= {"verbatim", "secondary"} and table["source"].str.len().min() > 10
    assert not table.duplicated([*published.CELL, "value", "source"]).any()
    read = table[table["value"].notna()]
    assert read["value"].between(1, 100).all() and read["tolerance"].between(0.1, 0.5).all()
    pairs = {(pair.teacher, pair.student) for block in suite.blocks for pair in block.pairs}
    given = {method.id for block in suite.blocks for method in block.methods}
    for row in read.itertuples():
        assert (row.teacher, row.student) in pairs if row.teacher else row.student in suite.models
        assert row.method in given | set(method_names())
        assert set(yaml.safe_load(row.recipe or "{}")) <= RECIPE


def test_values_of_ofas_protocol_say_that_uhkds_could_not_be_read():
    for name in ("ofa-cifar100", "ofa-imagenet"):
        table = published.values(load_suite(name))
        assert list(table["method"][table["value"].isna()]) == ["uhkd"]


def test_every_cell_of_the_anchors_has_a_published_value_and_every_value_a_cell():
    anchors = make_plan(load_suite("anchors-32"))
    cells = {tuple(cell) for cell in published.runs(anchors)[published.CELL].to_numpy()}
    assert cells == {tuple(cell) for cell in published.values(anchors.suite)[published.CELL].to_numpy()}
    assert len(cells) == 4 * 7 + 7


def whys(name, **accuracies):
    """{(teacher, student, method, value): reason} of a suite whose teachers came out so."""
    plan = make_plan(load_suite(name))
    ours = published.runs(plan)
    for teacher, accuracy in accuracies.items():
        ours.loc[(ours["teacher"] == "") & (ours["student"] == teacher.replace("_", "-")), "last"] = accuracy
    theirs = published.values(plan.suite)
    keys = theirs[[*published.CELL, "value"]].itertuples(index=False, name=None)
    return dict(zip(keys, published.reasons(plan, ours, theirs), strict=True))


def test_suites_that_extend_another_share_its_values_and_are_held_to_what_these_are_of():
    kd = ("swin-t", "resnet18", "kd", 78.74)
    logged = whys("ofa-cifar100-as-logged", swin_t=89.0, vit_s=88.5)
    assert logged[kd] == "" and whys("ofa-cifar100")[kd] == "another recipe: peak_lr 0.05 for 0.1"
    assert whys("ofa-cifar100-swin-t-resnet18")[kd] == whys("ofa-cifar100")[kd]
    assert logged["vit-s", "resnet18", "kd", 77.26] == "another teacher: 88.50 for 92.04"
    assert logged["swin-t", "resnet18", "ofa", 80.28] == "of epoch 291 of 300"
    assert logged["swin-t", "resnet18", "pat", 81.22] == "its epoch is not stated"
    assert logged["", "resnet18", "scratch", 74.01].startswith("another recipe: ")


def test_a_suite_with_another_network_or_other_data_is_another_experiment(tmp_path):
    for name in ("ofa-cifar100", "ofa-cifar100-as-logged"):
        shutil.copy(REPOSITORY / f"config/{name}.yaml", tmp_path)
    mine = tmp_path / "mine.yaml"
    logged = (tmp_path / "ofa-cifar100-as-logged.yaml").read_text()
    mine.write_text(logged.replace("timm: resnet18,", "timm: resnet34,"))
    assert whys(mine)["swin-t", "resnet18", "kd", 78.74] == "another network: resnet18 is resnet34 for resnet18"
    mine.write_text(logged + "data:\n  cifar100: {source: cifar100, size: 64, val_share: 0.002}\n")
    assert whys(mine)["swin-t", "resnet18", "kd", 78.74] == "other data: cifar100"


# ------------------------------------------------------------------------------------------------- by hand, with files


@pytest.fixture
def suite(tmp_path, monkeypatch):
    """The fake suite with a result for every run, and published values for three of its cells; the file of these."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(published, "FOLDER", tmp_path)
    monkeypatch.setattr(published, "WIDEST", 10)  # fake seeds lie far apart
    write_tiny(tmp_path, seeds=[0, 1, 2], blocks={"main": block()})
    finish_all(fake_plan())
    file = tmp_path / "tiny.csv"
    file.write_text(
        "teacher,student,method,value,epoch,teacher_accuracy,recipe,unlike,tolerance,source,certainty\n"
        ",cnn-t,scratch,97.1,last,,,,0.5,A,verbatim\n"
        "cnn-t,vit-s,kd,64.1,best,97.4,,,0.5,B,verbatim\n"
        ",vit-s,scratch,71.0,last,,,,0.5,A,verbatim\n"
    )
    return file


def test_exit_codes(suite, capsys):
    """Teachers 97.0 to 97.2; kd on the first pair 63.1 after the last epoch and a point more after the best."""
    assert cli.main(["published", "tiny"]) == 0
    assert "3 of 3 values within; 10 no published value." in capsys.readouterr().out
    suite.write_text(suite.read_text().replace("97.1", "99.1"))
    assert cli.main(["published", "tiny"]) == 1
    printed = capsys.readouterr().out
    assert "2 of 3 values within; 1 below, 10 no published value." in printed
    line = " ".join(next(line for line in printed.splitlines() if line.startswith("cnn-t ")).split())
    assert line == "cnn-t scratch 3 of 3 97.10 ± 0.25 98.10 ± 0.25 99.10 (last) -2.00 0.75 below verbatim [a]"
    page = (suite.parent / "tables/tiny-published.md").read_text()
    assert "| cnn-t | scratch | 3 of 3 | 97.10 ± 0.25 | 98.10 ± 0.25 | 99.10 (last) | -2.00 | 0.75 | below |" in page
    rows = pd.read_csv(suite.parent / "tables/tiny-published.csv", keep_default_na=False)
    assert len(rows) == 13 and list(rows["verdict"][rows["source"] == "A"]) == ["below", "within"]


def test_refusals(suite, capsys):
    for record in (suite.parent / "results").rglob("*.json"):
        record.unlink()
    assert cli.main(["published", "tiny"]) == 2
    shown = capsys.readouterr()
    assert (
        "no cell can be judged: it takes two finished seeds" in shown.err and shown.out.count("cannot be judged") == 4
    )
    suite.write_text(
        suite.read_text().replace(",,,,0.5", ",,,another loss,0.5").replace("97.4,,,", "97.4,,another loss,")
    )
    assert cli.main(["published", "tiny"]) == 2
    assert "no cell can be judged: no value is of the same experiment" in capsys.readouterr().err
    suite.rename(suite.with_name("tinny.csv"))
    assert cli.main(["published", "tiny"]) == 2
    assert "unknown suite with published values 'tiny'; did you mean 'tinny'?" in capsys.readouterr().err
