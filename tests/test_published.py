"""Our accuracies beside the published ones: what is within, what is not, and what cannot be told."""

from __future__ import annotations

import math

import pandas as pd
import pytest
from conftest import write_tiny
from fakes import block, fake_plan, finish_all

from kdbench import cli
from kdbench.plan.jobs import make_plan
from kdbench.plan.suite import load_suite
from kdbench.terminal import published
from kdbench.types import KdbenchError


def ours(**cells):
    """Runs of the pair t -> s; a method's values are (last, best) accuracies a seed."""
    return pd.DataFrame(
        {"teacher": "t", "student": "s", "method": method, "seed": seed, "last": last, "best": best}
        for method, values in cells.items()
        for seed, (last, best) in enumerate(values)
    )


def theirs(epoch="last", **cells):
    return pd.DataFrame(
        {
            "teacher": "t",
            "student": "s",
            "method": m,
            "value": v,
            "epoch": epoch,
            "source": "x",
            "certainty": "verbatim",
        }
        for m, v in cells.items()
    )


THREE = [(70.5, 71.5), (71.0, 72.0), (71.5, 72.5)]
HALF = 0.5 * 4.302653 / math.sqrt(3)  # of three seeds with a deviation of 0.5


def test_within_is_the_interval_of_our_seeds_and_the_tolerance():
    for sign in (1, -1):
        border = 71.0 + sign * (HALF + published.TOLERANCE)
        for value, verdict in ((border - sign * 1e-3, "within"), (border + sign * 1e-3, "OUTSIDE")):
            row = published.judge(ours(kd=THREE), theirs(kd=value)).iloc[0]
            assert row.verdict == verdict and row.difference == pytest.approx(71.0 - value)
            assert row.allowed == pytest.approx(HALF + published.TOLERANCE, abs=1e-5)


def test_two_far_seeds_confirm_nothing_but_may_refute():
    far = [(70.0, 70.0), (71.0, 71.0)]
    for value, verdict in ((76.3, "cannot be judged"), (79.0, "OUTSIDE")):
        assert published.judge(ours(kd=far), theirs(kd=value)).iloc[0].verdict == verdict


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
        "flat": "OUTSIDE",
    }
    assert table["n"].to_dict() == {"kd": 1, "dkd": 0, "ofa": 3, "flat": 3} and set(table["runs"]) == {3}
    text = "\n".join(published.lines(table.reset_index()))
    assert "0 of 1 cells within; 1 OUTSIDE, 2 cannot be judged, 1 no published value." in text
    assert "1 of 3" in text and "70.60 (last)" in text and "Source: x" in text


def test_a_published_value_of_a_cell_that_is_not_trained():
    with pytest.raises(KdbenchError, match="a published value is for t/s/kdd, which the suite does not train"):
        published.judge(ours(kd=THREE), theirs(kdd=70.0))


# ------------------------------------------------------------------------------------------------------------- shipped


def test_only_what_was_read_verbatim_ships():
    files = sorted(published.FOLDER.glob("*.csv"))
    assert files
    for file in files:
        table = published.values(file.stem)
        assert set(table["certainty"]) == {"verbatim"} and set(table["epoch"]) <= {"last", "best"}
        assert table["source"].str.len().min() > 10 and table["value"].between(1, 100).all()
        assert not table.duplicated(published.CELL).any()


def test_every_cell_of_the_anchors_has_a_published_value_and_every_value_a_cell():
    anchors = make_plan(load_suite("anchors-32"))
    cells = {tuple(cell) for cell in published.runs(anchors)[published.CELL].to_numpy()}
    assert cells == {tuple(cell) for cell in published.values("anchors-32")[published.CELL].to_numpy()}
    assert len(cells) == 4 * 7 + 7


# ------------------------------------------------------------------------------------------------- by hand, with files


@pytest.fixture
def suite(tmp_path, monkeypatch):
    """The fake suite with a result for every run, and published values for three of its cells; the file of these."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(published, "FOLDER", tmp_path)
    monkeypatch.setattr(published, "WIDEST", 5.0)  # fake seeds lie far apart
    write_tiny(tmp_path, seeds=[0, 1, 2], blocks={"main": block()})
    finish_all(fake_plan())
    file = tmp_path / "tiny.csv"
    file.write_text(
        "teacher,student,method,value,epoch,source,certainty\n"
        ",cnn-t,scratch,97.1,last,A,verbatim\n"
        "cnn-t,vit-s,kd,64.1,best,B,verbatim\n"
        ",vit-s,scratch,71.0,last,A,verbatim\n"
    )
    return file


def test_exit_codes(suite, capsys):
    """Teachers 97.0 to 97.2; kd on the first pair 63.1 after the last epoch and a point more after the best."""
    assert cli.main(["published", "tiny"]) == 0
    assert "3 of 3 cells within; 10 no published value." in capsys.readouterr().out
    suite.write_text(suite.read_text().replace("97.1", "99.1"))
    assert cli.main(["published", "tiny"]) == 1
    printed = capsys.readouterr().out
    assert "2 of 3 cells within; 1 OUTSIDE, 10 no published value." in printed
    line = " ".join(next(line for line in printed.splitlines() if line.startswith("cnn-t ")).split())
    assert line == "cnn-t scratch 3 of 3 97.10 ± 0.25 98.10 ± 0.25 99.10 (last) -2.00 0.75 OUTSIDE"


def test_refusals(suite, capsys):
    for record in (suite.parent / "results").rglob("*.json"):
        record.unlink()
    assert cli.main(["published", "tiny"]) == 2
    assert "no cell can be judged: it takes two finished seeds" in capsys.readouterr().err
    suite.rename(suite.with_name("tinny.csv"))
    assert cli.main(["published", "tiny"]) == 2
    assert "unknown suite with published values 'tiny'; did you mean 'tinny'?" in capsys.readouterr().err
