"""Two results held against each other: Welch's interval by hand, what cannot be judged, and what is refused."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from conftest import write_tiny
from fakes import block, fake_plan, finish_all
from scipy import stats as st

from kdbench import cli
from kdbench.terminal import compare
from kdbench.types import KdbenchError


def frame(**cells):
    """Runs of pair p in block b; a method's values are accuracies, or the status of a run without one."""
    rows = [
        {"block": "b", "pair": "p", "method": method, "budget": "1", "label": method.upper(), "seed": seed}
        | ({"status": value, "test": math.nan} if isinstance(value, str) else {"status": "finished", "test": value})
        for method, values in cells.items()
        for seed, value in enumerate(values)
    ]
    return pd.DataFrame(rows)


def verdicts(a, b):
    table = compare.judge(a, b).set_index("method")
    return {method: (row.verdict, row.remark) for method, row in table.iterrows()}


def test_welch_by_hand():
    # Equal variances of 1, n = 3: four degrees of freedom. One side constant: the other's two.
    assert compare.welch_half_width([1, 2, 3], [2, 3, 4]) == pytest.approx(2.776445 * math.sqrt(2 / 3), rel=1e-6)
    assert compare.welch_half_width([5, 5, 5], [1, 2, 3]) == pytest.approx(4.302653 * math.sqrt(1 / 3), rel=1e-6)
    rng = np.random.default_rng(0)
    for n, m in ((2, 5), (3, 3), (10, 4)):
        a, b = rng.normal(80, 3, n), rng.normal(80, 0.5, m)
        for error in (0.05, 0.001):
            low, high = st.ttest_ind(a, b, equal_var=False).confidence_interval(1 - error)
            assert compare.welch_half_width(list(a), list(b), error) == pytest.approx((high - low) / 2)


def test_the_border_is_half_the_interval():
    half = 2.776445 * math.sqrt(2 / 3)
    for shift, verdict in ((half - 1e-4, "reproduced"), (half + 1e-4, "NOT REPRODUCED")):
        for sign in (1, -1):
            moved = [x + sign * shift for x in (81.0, 82.0, 83.0)]
            assert verdicts(frame(kd=[81.0, 82.0, 83.0]), frame(kd=moved)) == {"kd": (verdict, "")}


def test_labels_are_shown_and_not_compared():
    a, b = frame(pat=[80.0, 81.0]), frame(pat=[80.0, 81.0]).assign(label="PAT+KD")
    assert verdicts(a, b) == {"pat": ("reproduced", "")} and set(compare.judge(a, b)["label"]) == {"PAT"}


def test_what_cannot_be_judged_says_why():
    a = frame(
        one=[80.0], flat=[80.0, 80.0], same=[80.0, 80.0], na=["n/a", "n/a"], gone=[1.0, 2.0], nan=[80.0, math.nan]
    )
    b = frame(
        one=[80.0, 81.0], flat=[81.0, 81.0], same=[80.0, 80.0], na=["n/a", "n/a"], new=[1.0, 2.0], nan=[80.0, 81.0]
    )
    assert verdicts(a, b) == {
        "one": ("reproduced", "seed 0"),
        "flat": ("cannot be judged", "no spread in A nor in B"),
        "same": ("reproduced", ""),
        "na": ("cannot be judged", "n = 0 in A and n = 0 in B; A: 2 n/a; B: 2 n/a"),
        "gone": ("only in A", ""),
        "nan": ("reproduced", "seed 0; A: 1 without a finite accuracy"),
        "new": ("only in B", ""),
    }


def test_one_seed_is_held_against_the_same_seed():
    """Two runs of which the other's seeds tell the spread: sd 1, n = 3, t = 4.302653."""
    half = 4.302653 * math.sqrt(2)
    b = frame(kd=[81.0, 82.0, 83.0])
    for shift, verdict in ((half - 1e-4, "reproduced"), (half + 1e-4, "NOT REPRODUCED")):
        for sign in (1, -1):
            a = frame(kd=["missing", "missing", 83.0 + sign * shift])
            assert verdicts(a, b) == {"kd": (verdict, "seed 2; A: 2 missing")}
            assert verdicts(b, a) == {"kd": (verdict, "seed 2; B: 2 missing")}
    row = compare.judge(frame(kd=["missing", "missing", 84.0]), b).iloc[0]
    assert (row["a"].mean, row["b"].mean, row["difference"]) == (84.0, 83.0, -1.0)
    assert row["half"] == pytest.approx(half, rel=1e-6) and row["seed"] == "2"
    told = compare.summary(compare.judge(frame(kd=[81.0, "missing", "missing"]), b))
    assert "1 of 1 cells reproduced." in told and "Judged by one seed, 1 of 1:" in told
    assert "one seed" not in compare.summary(compare.judge(b, b))


def test_one_seed_that_nothing_can_be_held_against():
    assert verdicts(frame(kd=[80.0]), frame(kd=["diverged", 81.0, 82.0])) == {
        "kd": ("cannot be judged", "n = 1 in A; B: 1 diverged")
    }
    assert verdicts(frame(kd=[80.0]), frame(kd=[81.0])) == {
        "kd": ("cannot be judged", "seed 0; no spread in A nor in B")
    }
    assert verdicts(frame(kd=[80.0]), frame(kd=[80.0])) == {"kd": ("reproduced", "seed 0")}
    assert verdicts(frame(kd=[80.0]), frame(kd=[81.0] * 3)) == {
        "kd": ("cannot be judged", "seed 0; no spread in A nor in B")
    }


def test_diverged_runs_are_told_and_do_not_count():
    a, b = frame(kd=[80.0, 82.0, 84.0]), frame(kd=[80.0, 82.0, "diverged"])
    assert verdicts(a, b) == {"kd": ("reproduced", "B: 1 diverged")}
    assert "The number of diverged runs differs in 1 cell." in compare.summary(compare.judge(a, b))
    both = compare.judge(b, b)
    assert "diverged" not in compare.summary(both) and both["diverged"][0] == (1, 1)


def test_the_summary_counts_and_owns_up_to_chance():
    same, other = [80.0, 81.0, 82.0], [90.0, 91.0, 92.0]
    a = frame(kd=same, dkd=same, ofa=["diverged"], x=same, y=same)
    b = frame(kd=same, dkd=other, ofa=same, x=same, z=same)
    assert compare.summary(compare.judge(a, b)).startswith(
        "2 of 3 cells reproduced, 1 cannot be judged, 1 only in A, 1 only in B. "
        "Chance alone would fail about 0.2 of 3 (5 % each)"
    )


# ------------------------------------------------------------------------------------------------- by hand, with files


@pytest.fixture
def suite(tmp_path, monkeypatch):
    """The fake suite with a result for every run, and the same runs as its reference."""
    monkeypatch.chdir(tmp_path)
    plan = fake_plan()
    write_tiny(tmp_path, seeds=[0, 1, 2], blocks={"main": block()})
    finish_all(plan)
    reference = tmp_path / "results/reference/tiny/runs.csv"
    reference.parent.mkdir(parents=True)
    compare.load("tiny").assign(key="k", hardware="h").to_csv(reference, index=False)
    return reference


def edited(path, **columns):
    """Another runs.csv whose rows have these values; a function gets the old ones."""
    runs = pd.read_csv(path, dtype=str, keep_default_na=False)
    for name, value in columns.items():
        runs[name] = value(runs[name]) if callable(value) else value
    other = path.with_name("other.csv")
    runs.to_csv(other, index=False)
    return str(other)


def test_a_suite_against_its_own_reference(suite, capsys):
    assert cli.main(["compare", "tiny"]) == 0
    printed = capsys.readouterr().out
    assert f"B: {suite.relative_to(suite.parents[3])}" in printed
    assert "12 of 12 cells reproduced." in printed and "about 0.6 of 12" in printed
    line = next(line for line in printed.splitlines() if "cnn-t--vit-s" in line and " KD " in line)
    assert line.split()[-3:] == ["+0.00", "2.49", "reproduced"]  # sd 1.1, n = 3: 2.776445 * 1.1 * sqrt(2/3)


def test_exit_code_1_where_a_cell_is_not(suite, capsys):
    worse = edited(suite, test=lambda old: [str(float(v) - 50) if i < 3 else v for i, v in enumerate(old)])
    assert cli.main(["compare", "tiny", worse]) == 1
    printed = capsys.readouterr().out
    assert "11 of 12 cells reproduced" in printed and printed.count("NOT REPRODUCED") == 1 and "-50.00" in printed
    assert cli.main(["compare", worse, "tiny"]) == 1


def test_one_seed_trained_again(suite, capsys):
    """A folder with the runs of seed 1 alone, all that somebody had the time for, and one of them not yet."""
    for path in suite.parents[2].glob("tiny/runs/*/*/seed*.*"):
        if path.stem != "seed1" or (path.parent.name, path.parent.parent.name) == ("kd", "cnn-t--mlp-s"):
            path.unlink()
    assert cli.main(["compare", "tiny"]) == 0
    printed = capsys.readouterr().out
    assert "11 of 11 cells reproduced, 1 cannot be judged. " in printed and "Judged by one seed, 11 of 11" in printed
    assert printed.count("reproduced (seed 1; A: 2 missing)") == 11
    assert printed.count("cannot be judged (n = 0 in A; A: 3 missing)") == 1
    # sd 1.1, n = 3: 4.302653 * 1.1 * sqrt(2)
    line = next(line for line in printed.splitlines() if "cnn-t--vit-s" in line and " KD " in line)
    assert line.split("  reproduced")[0].split()[-2:] == ["+0.00", "6.69"]
    far = edited(suite, test=lambda old: [str(float(v) - 50) if i == 1 else v for i, v in enumerate(old)])
    assert cli.main(["compare", "tiny", far]) == 0, "of three seeds that scatter so, nothing is refuted"
    other = edited(suite, test=lambda old: [str(float(v) - 50) if i < 3 else v for i, v in enumerate(old)])
    assert cli.main(["compare", "tiny", other]) == 1
    assert "10 of 11 cells reproduced" in capsys.readouterr().out.split("B: ")[-1]


def test_n_a_in_a_file_is_a_status_and_not_an_absent_value(suite):
    frame = compare.load(edited(suite, status="n/a", test=""))
    assert set(frame["status"]) == {"n/a"} and frame["test"].isna().all()


@pytest.mark.parametrize(
    ("columns", "told"),
    [
        ({"block": "mian"}, "have no cell in common: the first one of A is main/cnn-t--vit-s/scratch, of B mian/"),
        ({"test": "ninety"}, "a test accuracy is 'ninety', not a number"),
        ({"test": "70,0"}, "a test accuracy is '70,0', not a number"),
        ({"test": "81.481,5"}, "a test accuracy is '81.481,5', not a number"),
        ({"test": "01. Mai"}, "a test accuracy is '01. Mai', not a number"),
        ({"test": "81481"}, "a test accuracy is '81481', not a percentage"),
        ({"test": "-1"}, "a test accuracy is '-1', not a percentage"),
        ({"status": "done"}, "unknown status 'done'; known: diverged, finished, missing, n/a"),
        ({"seed": "0"}, "two rows for main/cnn-t--vit-s/scratch, seed 0"),
        ({"test": "inf"}, "no cell of tiny and"),
        ({"status": "missing", "test": ""}, "can be judged: it takes two finished seeds in both, or one that is among"),
    ],
)
def test_refusals_name_the_file_and_the_fault(suite, capsys, columns, told):
    assert cli.main(["compare", "tiny", edited(suite, **columns)]) == 2
    message = capsys.readouterr().err
    assert told in message and "other.csv" in message and message.count("\n") == 1


def saved_by_a_spreadsheet(path, separator, decimal, encoding, line_end="\r\n"):
    """The file as a spreadsheet saves it again, beside it; the labels hold a dagger."""
    runs = pd.read_csv(path, dtype=str, keep_default_na=False)
    assert runs["label"].str.contains("†").any() and runs["test"].str.contains(".", regex=False).any()
    runs["test"] = runs["test"].str.replace(".", decimal)
    other = path.with_name("saved.csv")
    other.write_bytes(runs.to_csv(sep=separator, index=False, lineterminator=line_end).encode(encoding))
    return str(other)


@pytest.mark.parametrize(
    ("separator", "decimal", "encoding"),
    [
        (";", ",", "cp1252"),
        (";", ",", "utf-8-sig"),
        (";", ",", "utf-8"),
        (";", ".", "cp1252"),
        (",", ".", "utf-8-sig"),
        (",", ".", "cp1252"),
        ("\t", ",", "utf-16"),
        ("\t", ".", "utf-8"),
    ],
)
def test_what_a_spreadsheet_has_saved_is_the_same(suite, capsys, separator, decimal, encoding):
    for line_end in ("\n", "\r\n", "\r"):
        saved = saved_by_a_spreadsheet(suite, separator, decimal, encoding, line_end)
        assert compare.load(saved).equals(compare.load(str(suite)))
    if encoding != "utf-16":
        text = suite.with_name("saved.csv").read_text(encoding=encoding)
        suite.with_name("saved.csv").write_text(f"sep={separator}\n{text}", encoding=encoding)
        assert compare.load(saved).equals(compare.load(str(suite)))
    assert cli.main(["compare", "tiny", saved]) == 0
    assert "12 of 12 cells reproduced." in capsys.readouterr().out


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"PK\x03\x04\x14\x00", "cannot be read as a table of runs: it is a workbook; save it as CSV"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1", "cannot be read as a table of runs: it is a workbook; save it as CSV"),
        (b"\xff\xfe\x00", "cannot be read as a table of runs: "),
        (b"block\x81", "cannot be read as a table of runs: "),
        (b"block,pair\na,b,c\n", "its rows have more fields than its first line names"),
        (b"block,pair\na,b\na,b,c,d\n", "cannot be read as a table of runs: "),
        (b'"block,pair,method,label,seed,status,test"\n', "it has no column block, pair, method, label, seed"),
    ],
)
def test_what_is_no_table_says_what_it_is(suite, capsys, content, told):
    other = suite.with_name("other.csv")
    other.write_bytes(content)
    assert cli.main(["compare", "tiny", str(other)]) == 2
    message = capsys.readouterr().err
    assert told in message and "other.csv" in message and message.count("\n") == 1


def test_what_is_not_there_is_named(suite, capsys):
    for words, told in (
        (["compare", "tinny"], "did you mean 'tiny'"),
        (["compare", "tiny", "none.csv"], "none.csv does not exist"),
        (["compare", str(suite)], "has no reference of its own; name what to hold it against"),
    ):
        assert cli.main(words) == 2
        assert told in capsys.readouterr().err
    suite.write_text("pair,method\n")
    assert cli.main(["compare", "tiny"]) == 2
    assert "it has no column block, label, seed, status, test" in capsys.readouterr().err
    suite.write_text("")
    with pytest.raises(KdbenchError, match="cannot be read as a table of runs"):
        compare.load(str(suite))
    suite.unlink()
    assert cli.main(["compare", "tiny"]) == 2
    assert "suite tiny has no reference (results/reference/tiny/runs.csv does not exist)" in capsys.readouterr().err
