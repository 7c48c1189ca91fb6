"""Pages made of runs with known differences: their numbers again by scipy, and the words that they lead to."""

from __future__ import annotations

import dataclasses
import re

import numpy as np
import pandas as pd
import pytest
from conftest import REPOSITORY, write_tiny
from scipy import optimize
from scipy import stats as st

from kdbench import cli
from kdbench.plan.suite import load_suite
from kdbench.report.page import markdown
from kdbench.report.verdicts import DETECTABLE
from kdbench.terminal import findings
from kdbench.terminal.abstract import abstract
from kdbench.terminal.compare import read_runs
from kdbench.types import Block, Claim, KdbenchError, MethodSpec, ModelSpec, Pair, Suite, Tune

LABELS = {"scratch": "Scratch", "kd": "KD", "ofa": "OFA", "uhkd": "UHKD†", "uhkd-c0": "UHKD† (C0)"}
CLAIM = Claim("spectrum", "uhkd", "uhkd-c0", "Does UHKD† need the spectrum?")
PAIRS = ("cnn-t--vit-s", "cnn-t--mlp-s", "vit-t--vit-s", "vit-t--mlp-s")
NOISE = np.array([0.3, -0.2, 0.1, -0.4, 0.2])


def make(gains, pairs=PAIRS, seeds=5, weak=(), claims=(CLAIM,)):
    """A suite of one block, and its runs: gains is {method: points over 70}, a number, one a seed, or {pair: those}."""
    models = {m: ModelSpec(m, "T", "d", "r", family=m[:3]) for pair in pairs for m in pair.split("--")}
    methods = tuple(MethodSpec(m, m, {}, LABELS[m], "logits") for m in gains)
    block = Block("main", "Main block", "d", tuple(Pair(*p.split("--")) for p in pairs), methods, tuple(range(seeds)))
    suite = Suite("tiny", (block,), block.seeds, {}, {}, models, title="Tiny", claims=claims)
    rows = []
    for pair in pairs:
        for method, gain in gains.items():
            own = np.broadcast_to(gain[pair] if isinstance(gain, dict) else gain, seeds)
            for seed in range(seeds):
                rows.append(
                    {"block": "main", "pair": pair, "method": method, "label": LABELS[method], "seed": seed}
                    | {"budget": 1}
                    | {"status": "finished", "reason": None, "val": 70.0, "test": 70.0 + own[seed]}
                    | {"teacher_val": 71.0 if pair in weak else 90.0, "teacher_test": 90.0}
                    | {"key": f"{pair if method != 'scratch' else pair.split('--')[1]} {method} {seed}"}
                    | {"finished_at": f"2026-01-0{seed + 1}T00:00:00+00:00", "hardware": "two cores"}
                )
    return suite, pd.DataFrame(rows)


def text(suite, frame):
    return markdown(findings.page(suite, frame)).replace("\\", "")


def without(frame, status, **where):
    """The frame with these runs diverged, n/a or missing."""
    chosen = np.logical_and.reduce([frame[column] == value for column, value in where.items()])
    return frame.assign(
        status=frame["status"].where(~chosen, status), **{c: frame[c].where(~chosen) for c in ("val", "test")}
    )


def interval(differences):
    low, high = st.ttest_1samp(differences, 0).confidence_interval(0.95)
    return f"{np.mean(differences):+.1f} [{low:+.1f}, {high:+.1f}]".replace("-", "−")


def rows(page, heading):
    """{label: cells} of the table below a heading."""
    lines = page[page.index(heading) :].split("\n\n")[1].splitlines()[2:]
    return {line.split(" | ")[0].strip("| "): [c.strip(" |") for c in line.split(" | ")[1:]] for line in lines}


GAINS = {"scratch": -2 + NOISE[::-1], "kd": 0.0, "ofa": 0.1 + NOISE / 2, "uhkd": 3 + NOISE, "uhkd-c0": 1 + 2 * NOISE}


def test_facts_and_verdict():
    suite, frame = make(GAINS)
    page = text(suite, frame)
    assert "No method was tuned" in page
    tune = Tune(seeds=(9,), pairs=suite.blocks[0].pairs[:1], factors=(0.5, 1.0))
    assert "No method was tuned" not in text(dataclasses.replace(suite, tune=tune), frame)
    assert "5 methods, 4 pairs, 5 seeds; 90 of 90 runs finished." in page  # scratch once a student
    assert "Trained 2026-01-01 to 2026-01-05 on two cores." in page
    assert "on validation), 4 of 4: cnn-t → vit-s, " in page and "Weak" not in page
    table = rows(page, "### Verdict over headline pairs")
    assert table["UHKD†"] == [f"{interval(5 + NOISE - NOISE[::-1])} better", f"{interval(3 + NOISE)} better"]
    assert table["Scratch"] == ["", f"{interval(-2 + NOISE[::-1])} worse"]
    assert table["OFA"][1] == f"{interval(0.1 + NOISE / 2)} not separated"
    assert "Better than KD: UHKD†; UHKD† (C0). Worse than KD: Scratch. Not separated from KD: OFA.\n" in page
    assert "Better than Scratch: KD; OFA; UHKD†; UHKD† (C0).\n" in page, "of what no method is, nothing is said"
    assert page.count(DETECTABLE) == 1 and page.count("bold is not separated from the best") == 1
    assert "Made from results/reference/tiny/runs.csv by: kdbench findings tiny" in page


def test_who_is_best_on_which_kind_of_pair():
    by_pair = {pair: (4 if pair.endswith("vit-s") else -1) + NOISE for pair in PAIRS}
    suite, frame = make({"scratch": -2 + NOISE[::-1], "kd": 0.0, "ofa": 0.1 + NOISE / 2, "uhkd": by_pair})
    page = text(suite, frame)
    assert "ViT students: UHKD† is the best." in page
    assert "MLP students: not separated: OFA; KD." in page
    assert "ViT students<br>(2 pairs)" in page and "homogeneous pairs<br>(1 pair)" in page
    kinds = findings.kinds(suite, suite.blocks[0])
    assert kinds["homogeneous pairs"] == ["vit-t--vit-s"] and list(kinds)[2:] == ["ViT students", "MLP students"]
    table = rows(page, "### Difference to KD by kind of pair")
    three = np.mean([by_pair[p] for p in kinds["heterogeneous pairs"]], axis=0)
    assert [cell.strip("*") for cell in table["UHKD†"]] == [
        interval(three),
        *(interval(by_pair[p]) for p in ("vit-t--vit-s", "vit-t--vit-s", "vit-t--mlp-s")),
    ]
    assert table["UHKD†"][2].startswith("**") and table["KD"] == ["0.0", "0.0", "0.0", "**0.0**"]


def test_another_modality_is_another_kind():
    suite, _ = make({"scratch": 0.0, "kd": 0.0}, pairs=("cnn-t--cnn-s", "cnn-t--cnn-x"))
    models = suite.models | {"cnn-x": dataclasses.replace(suite.models["cnn-x"], input="outline")}
    suite = dataclasses.replace(suite, models=models)
    assert findings.kinds(suite, suite.blocks[0]) == {
        "homogeneous pairs": ["cnn-t--cnn-s"],
        "heterogeneous pairs": ["cnn-t--cnn-x"],
    }  # by what the students read, the same pairs again


@pytest.mark.parametrize(
    ("gain", "words"),
    [
        (0.5 + NOISE, "is better than its control UHKD† (C0)"),
        (-0.5 + NOISE, "is worse than its control UHKD† (C0)"),
        (0.1 + NOISE, "Undecided after 5 seeds: UHKD† minus UHKD† (C0) is"),
    ],
)
def test_a_claim_is_told_by_its_interval(gain, words):
    page = text(*make({"scratch": -2.0, "kd": 0.0, "uhkd": 1 + gain, "uhkd-c0": 1.0}))
    told = next(line for line in page.splitlines() if line.startswith(CLAIM.question))
    assert words in told and interval(gain) in told
    p = st.ttest_1samp(gain, 0).pvalue
    row = rows(page, "### Claims and their controls")["UHKD† minus UHKD† (C0)"]
    mean = f"{gain.mean():+.1f}".replace("-", "−")
    signs = "4 / 0 of 4" if gain.mean() > 0 else "0 / 4 of 4"
    assert row == [interval(gain), f"{mean} to {mean}", signs, "< 0.001" if p < 0.001 else f"{p:.3f}"]
    assert ("80 % power" in told) == ("Undecided" in words)
    if "Undecided" in words:
        # At the difference it names, a t test with n = 5 has 80 % power: by simulation, whatever solved for it.
        size = float(told.split("80 % power) is ")[1].split(" ")[0])
        draws = np.random.default_rng(0).normal(size, gain.std(ddof=1), (20_000, 5))
        assert (st.ttest_1samp(draws, 0, axis=1).pvalue < 0.05).mean() == pytest.approx(0.8, abs=0.06)
    assert "This page makes 1 test of claims." in page


def test_claims_that_cannot_be_told():
    gains = {"scratch": -2.0, "kd": 0.0, "uhkd": 1.5, "uhkd-c0": 1.0}
    page = text(*make(gains))
    assert "Does UHKD† need the spectrum? Cannot be answered: the same difference in every seed" in page
    assert "This page makes" not in page
    suite, frame = make(gains | {"uhkd": 1 + NOISE})
    for seed in range(1, 5):
        frame = without(frame, "diverged", method="uhkd-c0", seed=seed, pair=PAIRS[0])
    page = text(suite, frame)
    assert "Cannot be answered: 1 complete seed, two are needed." in page
    assert "Without a result: UHKD† (C0) on cnn-t → vit-s diverged, 4 seeds." in page
    assert "Not compared, for lack of pairs or seeds: UHKD† (C0)." in page
    page = text(*make({"scratch": -2.0, "kd": NOISE}))
    assert "No block with at least two seeds has both the method and its control for: spectrum." in page
    assert "claims and controls" not in page and "This page makes" not in page


def test_what_is_lacking_is_told_beside_the_number():
    suite, frame = make(GAINS)
    frame = without(frame, "diverged", method="uhkd", seed=4, pair=PAIRS[1])
    frame = without(frame, "n/a", method="ofa", pair=PAIRS[1])
    page = text(suite, frame)
    assert rows(page, "### Verdict over")["UHKD†"][1] == f"{interval((3 + NOISE)[:4])} better <sup>b</sup>"
    assert "<sup>a</sup> over 3 of 4 pairs, n/a on the others<br>" in page
    assert "<sup>b</sup> 4 of 5 seeds complete<br>" in page
    assert "OFA on cnn-t → mlp-s n/a, 5 seeds" in page and "84 of 90 runs finished" in page


def test_weak_pairs_are_named_and_count_nowhere():
    by_pair = {pair: NOISE + (100 if pair == PAIRS[0] else 1) for pair in PAIRS}
    suite, frame = make({"scratch": -2 + NOISE, "kd": 0.0, "uhkd": by_pair}, weak=PAIRS[:1])
    page = text(suite, frame)
    assert "Weak teachers, left out of all differences, 1 of 4: cnn-t → vit-s." in page
    assert rows(page, "### Verdict over")["UHKD†"][1] == f"{interval(1 + NOISE)} better"
    assert "ViT students<br>(1 pair)" in page
    page = text(*make({"scratch": -2 + NOISE, "kd": 0.0, "uhkd": by_pair}, weak=PAIRS))
    assert "no headline pair" in page and "ViT students: no headline pair." in page and "+100" not in page


def test_noise_by_hand():
    gains = {"scratch": NOISE, "kd": -NOISE, "ofa": 2 * NOISE}
    page = text(*make(gains, claims=()))
    sd = NOISE.std(ddof=1)
    # Two runs of scratch, four of KD, four of OFA: one a student, and one a pair.
    pooled = np.sqrt((2 * sd**2 + 4 * sd**2 + 4 * (2 * sd) ** 2) / 10)
    assert f"pooled: {pooled:.1f} points for the accuracy of one cell." in page
    paired = np.sqrt(((2 * sd) ** 2 + (3 * sd) ** 2) / 2)
    assert f"For the difference to KD: {paired:.1f} points in one cell, {paired:.1f} points averaged over" in page
    assert "Holm's first step over 2 methods, n = 5" in page


def test_one_seed_ranks_nothing():
    by_pair = dict.fromkeys(PAIRS, 9.0) | {PAIRS[0]: 1.0}
    suite, frame = make({"scratch": -2.0, "kd": 0.5, "uhkd": by_pair, "uhkd-c0": 8.0}, seeds=1)
    frame = without(frame, "diverged", method="uhkd-c0", pair=PAIRS[3])
    page = text(suite, frame)
    table = rows(page, "### Mean test accuracy")
    assert list(table) == ["UHKD†", "KD", "Scratch", "UHKD† (C0)"]  # the last lacks a pair
    assert table["UHKD†"] == ["77.0", "4 of 4"] and table["UHKD† (C0)"] == ["78.0", "3 of 4"]
    assert "One seed does not rank methods" in page
    assert not any(word in page for word in ("better than", "Verdict over", "best", "not separated", "This page makes"))


def test_without_kd_and_without_anything_to_compare():
    page = text(*make({"scratch": 0.0, "uhkd": 1 + NOISE, "uhkd-c0": 1.0}))
    assert (
        "This block has no plain KD" in page and "by kind of pair" not in page and "Better than Scratch: UHKD†" in page
    )
    assert "neither KD nor scratch beside another method" in text(*make({"kd": NOISE}))


def test_runs_of_another_version_of_the_suite_are_refused():
    suite, frame = make(GAINS)
    with pytest.raises(KdbenchError, match=r"no cnn-t--vit-s/ofa seed 0 of block main.*kdbench reference tiny"):
        findings.page(suite, frame[frame["method"] != "ofa"])


def test_the_verb_writes_the_page_from_the_reference_alone(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_tiny(tmp_path)
    assert cli.main(["findings", "tiny"]) == 2
    told = capsys.readouterr().err
    assert "results/reference/tiny/runs.csv does not exist" in told and "kdbench reference tiny" in told
    _, frame = make({"scratch": -2 + NOISE[:2], "kd": NOISE[:2]}, pairs=("cnn-t--vit-s",), seeds=2)
    path = tmp_path / "results/reference/tiny/runs.csv"
    path.parent.mkdir(parents=True)
    frame.to_csv(path, index=False)
    assert cli.main(["findings", "tiny"]) == 0
    assert capsys.readouterr().out == "docs/results-tiny.md\n"
    page, suite = tmp_path / "docs/results-tiny.md", load_suite("tiny")
    made = f"<!-- abstract -->\n<!-- /abstract -->\n\n{abstract(suite, frame)}"
    assert page.read_text() == markdown(findings.page(suite, read_runs(path)), made)
    assert page.read_text() == markdown(findings.page(suite, frame), made), "numbers in memory say the same"


@pytest.fixture
def made(tmp_path, monkeypatch):
    """The path of a page that was just made."""
    monkeypatch.chdir(tmp_path)
    write_tiny(tmp_path)
    _, frame = make({"scratch": -2 + NOISE[:2], "kd": NOISE[:2]}, pairs=("cnn-t--vit-s",), seeds=2)
    path = tmp_path / "results/reference/tiny/runs.csv"
    path.parent.mkdir(parents=True)
    frame.to_csv(path, index=False)
    (page,) = findings.write_page(load_suite("tiny"))
    return page


def test_what_stands_between_the_marks_stays(made):
    empty = made.read_text()
    title, marks, lines, first = empty.split("\n\n")[:4]
    assert title.startswith("# Findings") and marks == "<!-- abstract -->\n<!-- /abstract -->" and first
    assert lines.startswith("- Methods beside Scratch: 1; pairs: 1; seeds: 2. Scratch ends at 68.0 % test accuracy")
    own = "<!-- abstract -->\nBy *hand*: 1 < 2 & [a link](x.md).\n\n| a |\n<!-- /abstract -->"
    whole = empty.replace(f"{marks}\n\n{lines}", own)
    made.write_text(whole.replace(first, "of an older version"))
    findings.write_page(load_suite("tiny"))
    assert made.read_text() == whole
    made.write_text(empty.replace(f"{marks}\n\n{lines}", "a page of before there were abstracts"))
    findings.write_page(load_suite("tiny"))
    assert made.read_text() == empty


@pytest.mark.parametrize(
    "damage",
    [
        lambda marks: marks.removesuffix("<!-- /abstract -->"),
        lambda marks: marks.removeprefix("<!-- abstract -->"),
        lambda marks: marks * 2,
        lambda marks: "<!-- /abstract --> mine <!-- abstract -->",
    ],
)
def test_an_abstract_whose_marks_are_no_pair_is_not_lost(made, damage, capsys):
    marks = "<!-- abstract -->\n<!-- /abstract -->"
    made.write_text(made.read_text().replace(marks, damage(marks)))
    before = made.read_bytes()
    assert cli.main(["findings", "tiny"]) == 2
    told = capsys.readouterr().err
    assert "docs/results-tiny.md: the abstract must stand between one <!-- abstract --> and one" in told
    made.write_bytes(b"\xff")
    assert cli.main(["findings", "tiny"]) == 2
    assert "cannot read the abstract of docs/results-tiny.md" in capsys.readouterr().err
    assert made.read_bytes() == b"\xff" and before


def told(suite, frame):
    return abstract(suite, frame).replace("\\", "").splitlines()


def test_the_abstract_that_is_made():
    suite, frame = make(GAINS)
    facts, verdict, least, claim = told(suite, frame)
    tests = frame[frame["method"] == "scratch"]["test"]
    assert facts == (
        "- Methods beside Scratch: 4; pairs: 4; seeds: 5. "
        f"Scratch ends at {tests.mean():.1f} % test accuracy, the teachers at 90.0 %."
    )
    assert (
        f"Main block. Better than Scratch: KD {interval(2 - NOISE[::-1])}; OFA " in verdict
        and "No method" not in verdict
    )
    found = re.search(r"below ([\d.]+) points may be missed", least)[1]
    page = text(suite, frame)
    assert f"Minimum detectable difference: {found} points in this verdict" in page
    assert claim == f"- Claims, unadjusted. UHKD† minus UHKD† (C0): {interval(2 - NOISE)}."


def test_where_nothing_gains_the_abstract_says_just_that():
    suite, frame = make({"scratch": NOISE, "kd": NOISE[::-1], "uhkd": -3 + 2 * NOISE}, claims=())
    verdict = told(suite, frame)[1]
    assert verdict == (
        f"- Main block. No method gains over Scratch. Worse than Scratch: UHKD† {interval(-3 + NOISE)}. "
        f"Not separated from Scratch: KD {interval(NOISE[::-1] - NOISE)}."
    )
    assert abstract(*make({"scratch": 0.0, "kd": 1.0}, seeds=1)) == "", "of one seed there is nothing to say"
    assert abstract(*make({"kd": NOISE, "uhkd": 1.0})) == ""


def at_budgets(gains, budgets, alone):
    """Runs at several budgets, each doubling worth 4 points to Scratch; what a method gains is divided by its budget,
    and a step of it costs twice what Scratch's does."""
    suite, frame = make(gains, pairs=PAIRS[:2], claims=())
    (block,) = suite.blocks
    block = dataclasses.replace(block, budgets=budgets, budget=max(budgets), scratch_budgets=alone)
    parts = []
    for budget in (*budgets, *alone):
        own = frame[frame["method"].isin(gains if budget in budgets else ["scratch"])]
        gain = own["test"] - 70 - NOISE[own["seed"]]
        own = own.assign(budget=budget, test=70 + NOISE[own["seed"]] + 4 * np.log2(budget) + gain / budget)
        cost = own["method"].map(lambda method: 1e6 if method == "scratch" else 2e6)
        own = own.assign(operations_per_step=cost, teacher_operations_per_step=0.0, steps=100 * budget)
        parts.append(own.assign(student=own["pair"].str.split("--").str[1]))
    return dataclasses.replace(suite, blocks=(block,)), pd.concat(parts, ignore_index=True)


def test_budgets_are_told_one_by_one_with_what_a_method_is_worth():
    small = NOISE / 10
    suite, frame = at_budgets({"scratch": NOISE, "kd": NOISE + 8 + small}, (1, 2), (4, 8))
    lines = told(suite, frame)
    assert "Budget 2: students train for 2 times" in lines[0] and "Scratch alone at budget 4, 8." in lines[0]
    both = [f"Budget {b}. Better than Scratch: KD {interval((8 + small) / b)}." for b in (1, 2)]
    assert lines[1] == f"- Main block. {' '.join(both)}"
    # Four points at budget 2 are one doubling of Scratch, and a step of KD costs two of Scratch's.
    assert lines[-1].startswith("- From budget 1 to 2, Scratch gains +4.0")
    assert lines[-1].endswith("No method is worth more than it costs at budget 2.")
    page = text(suite, frame)
    table = rows(page, "### What a method is worth in Scratch's compute")
    assert all(cell.startswith("1.00 × [") for cell in table["KD"])
    assert page.index("## Main block: lengths of training") < page.index("### What a method is worth")
    more = at_budgets({"scratch": NOISE, "kd": NOISE + 9 + small}, (1, 2), (4, 8))
    worth = " on cnn-t → mlp-s; KD on cnn-t → vit-s."
    assert told(*more)[-1].endswith(f"Worth more than it costs at budget 2: KD{worth}")


@pytest.mark.parametrize("path", sorted(REPOSITORY.glob("docs/results-*.md")), ids=lambda path: path.stem)
def test_the_committed_pages_are_what_their_runs_say(path, monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    suite = path.stem.removeprefix("results-")
    made = findings.reference_page(load_suite(suite))
    assert path.read_text(encoding="utf-8") == made, f"run: kdbench findings {suite}"


COUNTS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")


def test_every_number_of_the_abstract_of_glyphs_comes_from_its_runs():
    """Worked out from runs.csv by pandas and scipy, with nothing of kdbench but the abstract itself."""
    runs = pd.read_csv(REPOSITORY / "results/reference/glyphs-edition-1/runs.csv")
    abstract = findings.marked_abstract(REPOSITORY / "docs/results-glyphs-edition-1.md").removeprefix(findings.MARKS[0])
    abstract = " ".join(abstract.removesuffix(findings.MARKS[1]).split())

    def gains(block, method, over="scratch", students=""):
        """Points in one row a seed and one column a pair."""
        own = runs[(runs["block"] == block) & runs["pair"].str.endswith(students)]
        tests = own.pivot(index=["seed", "pair"], columns="method", values="test")
        return (tests[method] - tests[over]).unstack("pair")

    def told(*of):
        return interval(gains(*of).mean(axis=1))

    raster = runs[runs["block"] == "raster"]
    scratch = raster[raster["method"] == "scratch"]
    assert ((scratch["teacher_val"] - scratch["val"]).groupby(scratch["pair"]).mean() >= 3).all(), "all are headline"
    teachers = raster.assign(teacher=raster["pair"].str.split("--").str[0]).groupby("teacher")["teacher_test"].mean()
    methods, pairs, seeds = (raster[name].nunique() for name in ("method", "pair", "seed"))
    helpers = {m: gains("raster", m).mean() for m in ("uhkd", "dist", "dkd", "ofa")}
    assert all((by_pair > 0).all() for by_pair in helpers.values())
    cnn, every = (gains("raster", "rkd", "scratch", students).to_numpy() for students in ("cnn-s", ""))
    assert cnn.sum() / every.sum() > 0.9, "nearly all of it"
    assert set(runs["epochs"]) == {1, 2}
    # What Holm's first step finds in 80 % of cases, with the spread of the methods that did not collapse.
    standing = set(raster["method"]) - {"scratch", "rkd"}
    spread = np.sqrt(np.mean([gains("raster", m).mean(axis=1).var() for m in standing]))
    least = smallest_found(spread / np.sqrt(seeds), seeds - 1, 0.05 / (methods - 1))
    fonts = re.search(r"test fonts \((.*?)\)", (REPOSITORY / "tables/reference/glyphs-edition-1.md").read_text())[1]
    count = {b: COUNTS[runs[runs["block"] == b]["pair"].nunique()] for b in ("settings", "crossmodal")}
    left = re.sub(r"\]\(\S+\)", "]", abstract)
    for phrase in (
        f"taught by {COUNTS[methods - 1]} methods on {COUNTS[pairs]} pairs with {COUNTS[seeds]} seeds",
        "for one or two epochs",
        f"Scratch ends at {scratch['test'].mean():.1f} %, the teachers at {teachers.mean():.1f} %",
        f"UHKD† gains {told('raster', 'uhkd')} points over Scratch, DIST {told('raster', 'dist')}, "
        f"DKD {told('raster', 'dkd')} and OFA {told('raster', 'ofa')}, each on all {COUNTS[pairs]} pairs",
        f"Plain KD gains {told('raster', 'kd')}; at mdistiller's settings, on {count['settings']} pairs, "
        f"{told('settings', 'kd-mdistiller')}",
        f"no better than its twin without the Fourier transform ({told('raster', 'uhkd', 'uhkd-c0')}, unadjusted)",
        f"RKD stands at {told('raster', 'rkd')}, nearly all of it with CNN students (−{-cnn.mean():.1f})",
        f"on {count['crossmodal']} pairs, FD-CMKD‡ as written gains {told('crossmodal', 'fdcmkd-paper')}, as coded "
        f"{told('crossmodal', 'fdcmkd')}",
        f"Test fonts are of {COUNTS[len(fonts.split(', '))]} families",
        f"differences below {least:.1f} points may be missed",
    ):
        assert phrase in left, phrase
        left = left.replace(phrase, "")
    assert not re.search(rf"\d|\b({'|'.join(COUNTS[2:])})\b", left), "a number that no file holds"


def smallest_found(error, df, level):
    """The true difference that a two-sided t test with this standard error finds in 80 % of cases."""
    bound = st.t.ppf(1 - level / 2, df)
    return error * optimize.brentq(lambda size: st.nct.sf(bound, df, size) - 0.8, 0.1, 30)
