"""The index of all committed results: its numbers recomputed from the files with pandas, whatever they are named."""

from __future__ import annotations

import contextlib
import json
import re
import shlex

import pandas as pd
import pytest
from browser import browser, needs_browser
from conftest import REPOSITORY, tiny_plan, write_tiny
from scipy import stats
from test_report import HOSTILE

from kdbench import cli
from kdbench.plan.paths import REFERENCES
from kdbench.plan.registry import method_info
from kdbench.plan.suite import load_suite
from kdbench.report.figures.style import method_styles
from kdbench.report.html import again_and_citation
from kdbench.report.index import index_page
from kdbench.results.reference import references
from kdbench.results.today import Today

SUITES = ("glyphs-edition-1", "quick", "tuned")


def data_of(page):
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.S)[1])


def table_of(data):
    return data["blocks"][0]["sections"][0]["parts"][0]["tables"][0]


@pytest.fixture(scope="module")
def page():
    with contextlib.chdir(REPOSITORY):
        return index_page(references())


@pytest.fixture(scope="module")
def data(page):
    return data_of(page)


def read(suite, name="runs"):
    """A file of a reference as a spreadsheet would see it."""
    frame = pd.read_csv(REPOSITORY / REFERENCES / suite / f"{name}.csv", keep_default_na=False, na_values=[""])
    return frame.assign(**{new: frame.get(new, 1) for new in ("edition", "budget")})


def place(suite, first, method):
    name = first["block"] + ("" if first["budget"] == 1 else f" x{first['budget']:g}")
    return f"{suite}/{first['edition']}/{name}/{first['pair']}/{method}"


def test_curves_have_the_colour_that_figures_of_the_suite_give_their_method(data):
    styles = {suite: method_styles(load_suite(str(REPOSITORY / f"config/{suite}.yaml"))) for suite in SUITES}
    for key, detail in data["details"].items():
        suite, _, _, _, method = key.split("/")
        if suite in styles:
            assert detail["colour"] == styles[suite][method]["color"], key


def test_every_row_is_what_pandas_finds_in_runs_csv(data):
    rows = {row["cells"][0]["open"]: [cell.get("sort") for cell in row["cells"][-3:]] for row in table_of(data)["rows"]}
    assert len(rows) == len(table_of(data)["rows"]) and set(rows) == set(data["details"])
    assert {key.split("/")[0] for key in rows} >= set(SUITES)
    seen = 0
    for suite in {key.split("/")[0] for key in rows}:
        for _, runs in read(suite).groupby(["edition", "block", "budget", "pair"]):
            tests = runs[runs["status"] == "finished"].pivot(index="seed", columns="method", values="test")
            for method in runs["method"].unique():
                own = tests[method].dropna() if method in tests else pd.Series(dtype=float)
                n, mean, minus = rows[place(suite, runs.iloc[0], method)]
                assert n == len(own) and mean == (pytest.approx(own.mean(), abs=1e-9) if n else None)
                if method != "scratch":
                    paired = (own - tests["scratch"]).dropna() if "scratch" in tests else own[:0]
                    assert minus == (pytest.approx(paired.mean(), abs=1e-9) if len(paired) else None)
                seen += 1
    assert seen == len(rows)


def test_texts_are_of_the_same_numbers(data):
    runs = read("glyphs-edition-1")
    runs = runs[(runs["block"] == "raster") & (runs["pair"] == "cnn-t--vit-s")]
    tests = runs.pivot(index="seed", columns="method", values="test")
    shown = {row["cells"][0]["open"]: [cell["text"] for cell in row["cells"]] for row in table_of(data)["rows"]}
    for method in ("kd", "dist", "rkd"):
        cells, minus = shown[place("glyphs-edition-1", runs.iloc[0], method)], tests[method] - tests["scratch"]
        ends = stats.t.interval(0.95, len(minus) - 1, minus.mean(), stats.sem(minus))
        interval = f"{minus.mean():+.1f} [{ends[0]:+.1f}, {ends[1]:+.1f}]".replace("-", "−")
        assert cells[1:6] == ["glyphs-edition-1", "1", "raster", "cnn-t → vit-s", "reference"]
        assert cells[6:] == ["5", f"{tests[method].mean():.1f} ± {tests[method].std():.1f}", interval]


def test_a_row_opens_its_seeds_its_cost_and_its_curve(data):
    runs, curves = read("quick"), read("quick", "curves")
    for (_, pair, method), own in runs.groupby(["block", "pair", "method"]):
        detail = data["details"][place("quick", own.iloc[0], method)]
        seeds = [[cell.get("sort") for cell in row["cells"]] for row in detail["seeds"]["rows"]]
        assert [(row[0], row[3]) for row in seeds] == list(zip(own["seed"], own["test"], strict=True))
        steps, seconds = (cell["sort"] for cell in detail["tables"][0]["rows"][0]["cells"][:2])
        assert (steps, seconds) == pytest.approx((own["steps"].mean(), own["seconds"].mean()))
        for curve in detail["curves"]:
            same = (curves["pair"] == pair) & (curves["method"] == method) & (curves["seed"] == curve["seed"])
            expected = curves[same & (curves["block"] == own.iloc[0]["block"])]
            assert [p[0] for p in curve["points"]] == list(expected["step"])
            assert [p[2] for p in curve["points"]] == pytest.approx(list(expected["test_accuracy"]), abs=0.005)
        assert [c["seed"] for c in detail["curves"]] == list(own["seed"])
        texts = {text["title"]: text["text"] for text in detail["texts"]}
        assert texts["Train it again"].splitlines()[-1].endswith(f"--methods {method}")
        if method in ("scratch", "kd", "ofa", "uhkd"):
            assert texts.get("Citation", "") == method_info(method).bibtex


def test_a_reference_without_curves_shows_all_else(data):
    old = "glyphs-edition-1"
    details = {key: detail for key, detail in data["details"].items() if key.startswith(f"{old}/")}
    assert not (REPOSITORY / REFERENCES / old / "curves.csv").exists() and details
    for detail in details.values():
        assert detail["curves"] == [] and len(detail["seeds"]["rows"]) in (1, 5) and detail["texts"]


def test_the_page_is_small_and_asks_nobody(page):
    assert len(page.encode()) < 2_000_000
    assert "default-src 'none'" in page and not re.search(r"""(src|href)=["']?http""", page)


@pytest.fixture
def odd(tmp_path, monkeypatch):
    """A folder whose only reference has hostile names and an edition that no suite of config/ has."""
    runs = read("quick")
    runs = runs[(runs["block"] == "heterogeneous") & (runs["method"].isin(["scratch", "kd"]))]
    odd = {"edition": 7, "label": HOSTILE, "block": HOSTILE, "teacher": HOSTILE, "hardware": HOSTILE, "reason": HOSTILE}
    runs = runs.assign(**odd, pair=[f"{HOSTILE}--{student}" for student in runs["student"]])
    runs.loc[runs["seed"] == 1, ["status", "test"]] = ["diverged", None]
    folder = tmp_path / REFERENCES / "quick"
    folder.mkdir(parents=True)
    runs.drop_duplicates(["pair", "method", "seed"]).to_csv(folder / "runs.csv", index=False)
    write_tiny(tmp_path).rename(tmp_path / "config/quick.yaml")
    monkeypatch.chdir(tmp_path)
    return index_page(references())


def test_hostile_names_stay_text_and_another_edition_is_shown(odd):
    assert "\\u003cscript" in odd and "<script>document" not in odd and "<img" not in odd
    data = data_of(odd)
    for row in table_of(data)["rows"]:
        assert [cell["text"] for cell in row["cells"][:4]] == [HOSTILE, "quick", "7", HOSTILE]
        assert row["cells"][6]["text"] == "2"
    for detail in data["details"].values():
        assert [text["text"] for text in detail["texts"]] == ["No suite in config/ trains this cell today."]
        assert any(HOSTILE in note and note.startswith("diverged in 1 of 3") for note in detail["notes"])


@pytest.mark.slow
def test_the_commands_shown_train_the_cell_from_nothing(tmp_path, monkeypatch, capsys):
    write_tiny(tmp_path)
    monkeypatch.chdir(tmp_path)
    plan = tiny_plan()
    for method in ("scratch", "kd"):
        (run, *others) = (r for (_, m, _), r in plan.runs().items() if m == method)
        for line in again_and_citation(plan.suite, run)[0]["text"].splitlines():
            assert cli.main(shlex.split(line)[1:]) == 0, capsys.readouterr().err
        assert others and all(Today(plan).has(r) for r in (run, *others))


@needs_browser
def test_in_a_browser_rows_are_found_sorted_and_opened(page, odd, tmp_path):
    path = tmp_path / "index.html"
    path.write_text(page)
    shown = "return [...document.querySelectorAll('main tbody tr')].map((row) => row.cells[7].innerText.trim())"
    with browser(390, 844) as tab:
        tab.open(path)
        everything = tab.run(shown)
        tab.press("input[type=search]", "QUICK vit-t")
        found = tab.run(shown)
        assert 0 < len(found) < len(everything)
        assert tab.run("return document.querySelector('[role=status]').textContent") == (
            f"{len(found)} of {len(everything)} rows"
        )
        tab.click("main thead th:nth-child(8) button")
        means = [float(text.split(" ±")[0]) for text in tab.run(shown)]
        assert means == sorted(means, reverse=True)
        tab.click("main tbody tr:first-child th button")
        opened = tab.run("return document.querySelector('dialog[open]').innerText")
        assert "kdbench distill quick" in opened and "Cost, mean over seeds" in opened
        assert tab.run("return document.querySelectorAll('dialog path.test').length") == 3
        assert tab.errors() == [] and {url.split(":")[0] for url in tab.requests()} == {"file"}
        path.write_text(odd)
        tab.open(path)
        assert tab.run("return document.title") == "kdbench: index of all results"
        assert tab.run("return document.querySelector('tbody th').textContent") == HOSTILE
        assert tab.run("return document.querySelectorAll('img').length") == 0
