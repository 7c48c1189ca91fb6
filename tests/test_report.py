"""The page of a suite: the numbers of its tables, whatever they are named, in a real browser, offline."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import os
import re

import pytest
from browser import ENTER, ESCAPE, browser, needs_browser
from conftest import REPOSITORY, write_tiny
from fakes import block, fake_plan, finish, finish_all

from kdbench import cli
from kdbench.plan.jobs import make_plan
from kdbench.plan.paths import home
from kdbench.plan.suite import load_suite
from kdbench.report import html as report
from kdbench.report import tables
from kdbench.report.block import block_reports
from kdbench.report.figures.style import method_styles
from kdbench.results.today import Today
from kdbench.run.data import run_data

HOSTILE = """<script>document.title="run"</script>"'&</script><!--<img src=x onerror=alert(1)> {{data}} \u2028"""


@pytest.fixture
def plan(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return fake_plan()


def written(plan):
    """The page of a suite, and the data in it."""
    text = report.write_report(plan, home(plan.suite) / "report.html").read_text()
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.S)
    return text, json.loads(found[1])


def places(data, section=0):
    """Lists of tables of a section that share a place."""
    return [part["tables"] for part in data["blocks"][0]["sections"][section]["parts"] if "tables" in part]


def test_every_text_of_the_markdown_table_stands_on_the_page(plan):
    finish_all(plan)
    document = tables.describe(plan.suite, [block_reports(Today(plan))[0]])
    _, data = written(plan)
    shown = [t for section in data["blocks"][0]["sections"] for p in section["parts"] for t in p.get("tables", ())]
    described = [part for section in document.sections for part in section.parts if not isinstance(part, str)]
    assert [t["title"] for t in shown] == [t.title for t in described] and len(shown) > 5
    for table, original in zip(shown, described, strict=True):
        rows = [row for group in original.groups for row in group.rows]
        assert [[c["text"] for c in row["cells"]] for row in table["rows"]] == [
            [row.label.text, *(cell.text for cell in row.cells)] for row in rows
        ]
        assert [[c["bold"] for c in row["cells"][1:]] for row in table["rows"]] == [
            [c.bold for c in r.cells] for r in rows
        ]
    texts = [p["text"] for section in data["blocks"][0]["sections"] for p in section["parts"] if "text" in p]
    assert texts == [part for s in document.sections[1:] for part in s.parts if isinstance(part, str)]
    assert data["footer"] == list(document.footer) and "made-up processor" in " ".join(data["footer"])


def test_the_verdict_comes_from_the_table_of_verdicts(plan):
    finish_all(plan)
    _, data = written(plan)
    first = data["blocks"][0]["verdicts"][0]
    texts = [p["text"] for s in data["blocks"][0]["sections"] for p in s["parts"] if "text" in p]
    lists = {one["kind"]: one["methods"] for one in first["lists"]}
    words = {"better": "Better than", "worse": "Worse than", "not separated": "Not separated from"}
    found = (f"{words[kind]} Scratch: {'; '.join(m['label'] for m in methods)}." for kind, methods in lists.items())
    assert " ".join(found) in texts
    table = next(t for t in (t for p in places(data, -1) for t in p) if t["title"] == first["title"])
    told = {method["label"]: method["points"] for methods in lists.values() for method in methods}
    assert told == {row["cells"][0]["text"]: row["cells"][1]["text"] for row in table["rows"]} and len(told) == 3
    assert first["title"].startswith("Verdict against Scratch") and first["detectable"].startswith(
        "Minimum detectable difference"
    )
    assert lists


def svg_of(picture):
    media, _, content = picture["source"].partition(";base64,")
    assert media == "data:image/svg+xml"
    return base64.b64decode(content).decode()


def test_the_page_opens_on_the_verdict_and_its_figure(plan):
    """Of today, whether or not any figure was drawn."""
    text, data = written(plan)
    assert "no complete seed" in svg_of(data["blocks"][0]["main"])
    finish_all(plan)
    _, data = written(plan)
    found = svg_of(data["blocks"][0]["main"])
    assert "no complete seed" not in found and all(f">{label}<" in found for label in ("KD", "DKD", "UHKD†"))
    order = [text.index(what) for what in ("judged.map(opening)", "data.how", "data.blocks.map(section)")]
    assert order == sorted(order), "before any table"
    plan = fake_plan(blocks={"main": block(("dkd", "uhkd"))})
    _, data = written(plan)
    assert data["blocks"][0]["main"] is None and data["blocks"][0]["verdicts"] == []


def test_the_page_of_a_reference_opens_on_its_verdict_too(tmp_path, monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    page = report.write_reference_report(make_plan(load_suite("quick")), tmp_path / "page.html").read_text()
    data = json.loads(re.search(r'id="data">(.*?)</script>', page, re.S)[1])
    table = (REPOSITORY / "tables/reference/quick.md").read_text().replace("\\", "")
    assert len(data["blocks"]) == 2
    for one in data["blocks"]:
        assert "accuracy − Scratch" in " ".join(re.findall(r">([^<]+)</text>", svg_of(one["main"])))
        methods = [method for kind in one["verdicts"][0]["lists"] for method in kind["methods"]]
        assert len(methods) >= 3 and one["verdicts"][0]["title"].startswith("Verdict against Scratch")
        assert all(f"| {method['label']} | {method['points']} |" in table for method in methods)
        assert "Mean paired difference of each method" not in [figure["title"] for figure in one["figures"]], "once"


def test_learning_curves_have_the_colour_that_figures_give_their_method(plan):
    finish_all(plan)
    _, data = written(plan)
    styles = method_styles(plan.suite)
    for key, detail in data["details"].items():
        assert detail["colour"] == styles[key.split("/")[-1]]["color"], key
    assert len({detail["colour"] for detail in data["details"].values()}) == 4
    assert styles["uhkd"]["color"].lower() in svg_of(data["blocks"][0]["main"]).lower()


def test_a_cell_opens_its_own_seeds_curves_and_config(plan):
    given = finish_all(plan)
    _, data = written(plan)
    accuracy, against_scratch, against_kd = places(data)[0]
    assert [len(t["rows"]) - sum(r["fixed"] for r in t["rows"]) for t in places(data)[0]] == [4, 3, 3]
    opened = set()
    for row in [r for t in (accuracy, against_kd, against_scratch) for r in t["rows"] if not r["fixed"]]:
        for cell in row["cells"][1:]:
            _, pair, method = cell["open"].split("/")
            detail = data["details"][cell["open"]]
            owner = pair if method != "scratch" else f"none--{pair.split('--')[1]}"
            expected = [given[owner, method, seed] for seed in (0, 1, 2)]
            rows = [[c["text"] for c in r["cells"]] for r in detail["seeds"]["rows"]]
            assert [float(r[3]) for r in rows] == pytest.approx(expected, abs=0.005)
            assert [curve["points"][-1][2] for curve in detail["curves"]] == pytest.approx(expected, abs=0.005)
            assert detail["config"]["method"]["id"] == method and detail["title"].startswith(row["cells"][0]["text"])
            opened.add(cell["open"])
    assert opened == set(data["details"]) and len(opened) == 12
    detail = data["details"]["main/cnn-t--vit-s/dkd"]["seeds"]
    column = [lines[0] for lines in detail["columns"]].index("minus KD, points")
    paired = given["cnn-t--vit-s", "dkd", 2] - given["cnn-t--vit-s", "kd", 2]
    assert detail["rows"][2]["cells"][column]["text"] == f"{paired:+.2f}".replace("-", "−")


def test_a_suite_without_a_result_and_one_half_done(plan):
    _, data = written(plan)
    assert "PARTIAL" in " ".join(data["banner"]) and "36 of 36" in " ".join(data["banner"])
    detail = data["details"]["main/cnn-t--vit-s/kd"]
    assert detail["curves"] == [] and [r["cells"][1]["text"] for r in detail["seeds"]["rows"]] == ["missing"] * 3
    assert detail["config"]["method"]["id"] == "kd" and "no result yet for seeds 0, 1, 2" in detail["notes"][0]
    finish_all(plan)
    plan.runs()["cnn-t--vit-s", "kd", 1].result.unlink()
    finish(plan.runs()["cnn-t--vit-s", "dkd", 2], 0, status="diverged", reason="step 7")
    for seed in (0, 1, 2):
        finish(plan.runs()["cnn-t--mlp-s", "uhkd", seed], 0, status="n/a", reason="fewer than four stages")
    _, data = written(plan)
    assert "1 of 36" in " ".join(data["banner"])
    assert "no result yet for seed 1" in data["details"]["main/cnn-t--vit-s/kd"]["notes"][0]
    assert "diverged in 1 of 3 seeds (seed 2: step 7)" in data["details"]["main/cnn-t--vit-s/dkd"]["notes"]
    assert "n/a: fewer than four stages" in data["details"]["main/cnn-t--mlp-s/uhkd"]["notes"]
    texts = {c["open"]: c for t in places(data)[0][:1] for r in t["rows"] for c in r["cells"] if "open" in c}
    assert texts["main/cnn-t--mlp-s/uhkd"]["text"] == "n/a" and "sort" not in texts["main/cnn-t--mlp-s/uhkd"]


def test_methods_of_one_label_open_their_own(plan):
    twins = {"hot": {"method": "kd", "temperature": 4.0}}
    plan = fake_plan(methods=twins, blocks={"main": block(("scratch", "kd", "hot"))})
    assert [m.label for m in plan.suite.blocks[0].methods] == ["Scratch", "KD", "KD"]
    finish_all(plan)
    _, data = written(plan)
    opened = [row["cells"][1].get("open") for row in places(data)[0][0]["rows"] if not row["fixed"]]
    assert opened == [f"main/cnn-t--vit-s/{method}" for method in ("scratch", "kd", "hot")]
    against_kd = places(data)[0][2]["rows"]
    assert [row["cells"][0]["text"] for row in against_kd] == ["Scratch", "KD"]
    assert [row["cells"][1]["open"].split("/")[-1] for row in against_kd] == ["scratch", "hot"]


def test_cells_beside_a_column_of_harnesses_open_their_own(plan):
    presets = {"kd-m": {"method": "kd", "preset": "mdistiller"}}
    plan = fake_plan(methods=presets, blocks={"main": block(("scratch", "kd", "kd-m"))})
    finish_all(plan)
    table = places(written(plan)[1])[0][0]
    assert table["columns"][1] == ["harness"]
    rows = [row["cells"] for row in table["rows"] if not row["fixed"]]
    assert [cells[1]["text"] for cells in rows] == ["—", "OFA", "mdistiller"]
    assert [cells[2]["open"].split("/")[-1] for cells in rows] == ["scratch", "kd", "kd-m"]
    assert all("open" not in cells[1] and len(cells) == len(table["columns"]) for cells in rows)


def test_a_row_a_pair_opens_its_cells_and_keeps_the_mean_at_the_bottom(plan):
    plan = fake_plan(blocks={"main": block(layout="pairs")})
    finish_all(plan)
    accuracy, against_scratch, against_kd = places(written(plan)[1])[0]
    *pairs, mean, counts, verdict = accuracy["rows"]
    ids = [f"{r['cells'][0]['text']}--{r['cells'][1]['text']}" for r in pairs]
    assert ids == ["cnn-t--vit-s", "cnn-t--mlp-s", "cnn-t--cnn-s"] and not any(r["fixed"] for r in pairs)
    methods = ["scratch", "kd", "dkd", "uhkd"]
    for id, row in zip(ids, pairs, strict=True):
        assert [c.get("open") for c in row["cells"]] == [None] * 4 + [f"main/{id}/{m}" for m in methods]
    assert all(r["fixed"] and not any("open" in c for c in r["cells"]) for r in (mean, counts, verdict))
    assert accuracy["texts"] == 2 and accuracy["columns"][:2] == [["Teacher"], ["Student"]]
    assert [len(t["columns"]) for t in (against_scratch, against_kd)] == [5, 5]


def test_cells_sort_by_the_numbers_of_the_statistics(plan):
    given = finish_all(plan)
    for seed in (0, 1, 2):
        finish(plan.runs()["cnn-t--mlp-s", "uhkd", seed], 0, status="n/a", reason="fewer than four stages")
    _, data = written(plan)
    accuracy, _, against_kd = places(data)[0]

    def numbers(table, method):
        return [
            c.get("sort") for r in table["rows"] for c in r["cells"][1:] if c.get("open", "").endswith(f"/{method}")
        ]

    pairs = ("cnn-t--vit-s", "cnn-t--mlp-s", "cnn-t--cnn-s")
    means = {m: [sum(given[pair, m, s] for s in (0, 1, 2)) / 3 for pair in pairs] for m in ("kd", "dkd")}
    assert numbers(accuracy, "kd") == pytest.approx(means["kd"])
    assert numbers(against_kd, "dkd") == pytest.approx([d - k for d, k in zip(means["dkd"], means["kd"], strict=True)])
    assert numbers(accuracy, "uhkd")[1] is None
    verdict = next(t for t in (t for p in places(data, -1) for t in p) if t["columns"][-1] == ["verdict"])
    assert all(c.get("sort") is None for r in verdict["rows"] for c in r["cells"][-1:])
    better = [
        sum(given[p, "kd", s] - given[f"none--{p.split('--')[1]}", "scratch", s] for s in (0, 1, 2)) > 0 for p in pairs
    ]
    assert next(r["cells"][4]["sort"] for r in verdict["rows"] if r["cells"][0]["text"] == "KD") == sum(better)


def test_long_curves_are_thinned_and_keep_their_ends(plan):
    run = plan.runs()["cnn-t--vit-s", "kd", 0]
    epochs = [{"epoch": e, "step": e, "val_accuracy": 1.0, "test_accuracy": e / 9} for e in range(1, 301)]
    epochs[-1]["val_accuracy"] = None
    finish(run, 80.0, history=epochs)
    _, data = written(plan)
    points = data["details"]["main/cnn-t--vit-s/kd"]["curves"][0]["points"]
    assert len(points) == report.MAX_POINTS and points[0] == [1.0, 1.0, 0.11] and points[-1] == [300.0, None, 33.33]


def test_figures_are_embedded_and_tell_their_age(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    plan = fake_plan(blocks={"main": block(), "main-2": block()})
    finish_all(plan)
    folder = home(plan.suite) / "figures"
    folder.mkdir()
    for name in ("main-accuracy", "main-new kind", "main-2-stages", "main-verdict"):
        (folder / f"{name}.svg").write_text(f"<svg>{name}</svg>")
    (folder / "main-learning.svg").write_bytes(b"x" * (report.MAX_SVG + 1))
    (folder / "main-learning.png").write_bytes(b"png")
    os.utime(folder / "main-accuracy.svg", (0, 0))
    _, data = written(plan)
    first, second = (
        [(f["title"].split()[0], base64.b64decode(f["source"].split(",")[1]).decode(), f["old"]) for f in b["figures"]]
        for b in data["blocks"]
    )
    assert first == [
        ("Paired", "<svg>main-accuracy</svg>", True),
        ("Learning", "png", False),
        ("new", "<svg>main-new kind</svg>", False),
    ]
    assert second == [("Similarity", "<svg>main-2-stages</svg>", False)]
    captions = [figure["caption"] for figure in data["blocks"][0]["figures"]]
    assert captions[0].startswith("Paired difference of each method to Scratch") and captions[-1] == ""


def test_the_policy_lets_nothing_in_but_the_pages_own_script(plan):
    text, _ = written(plan)
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', text)[1]
    for tag in ("style", "script"):
        digest = hashlib.sha256(re.search(f"<{tag}>(.*?)</{tag}>", text, re.S)[1].encode()).digest()
        assert f"{tag}-src 'sha256-{base64.b64encode(digest).decode()}'" in policy
    assert policy.startswith("default-src 'none'; img-src data:;") and "unsafe" not in policy and "http" not in policy
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", text)


def test_by_hand(plan, tmp_path, capsys):
    write_tiny(tmp_path)
    assert cli.main(["report", "tiny"]) == 0
    assert capsys.readouterr().out == "results/tiny/report.html\n"
    assert cli.main(["report", "tiny", "--out", "page.html"]) == 0 and (tmp_path / "page.html").exists()
    (tmp_path / "file").write_text("")
    assert cli.main(["report", "tiny", "--out", "file/page.html"]) == 2
    assert "cannot write file/page.html" in capsys.readouterr().err
    assert cli.main(["report", "tinny"]) == 2
    run_data(plan, plan.of("data")[0])
    _, data = written(plan)
    assert any("nearest neighbour" in text for text in data["facts"])


# ----------------------------------------------------------------------------------------------------------- a browser


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The page of a suite in which one run is missing, and its accuracies."""
    folder = tmp_path_factory.mktemp("finished")
    with contextlib.chdir(folder):
        plan = fake_plan()
        given = finish_all(plan)
        plan.runs()["cnn-t--cnn-s", "uhkd", 2].result.unlink()
        figure = home(plan.suite) / "figures/main-accuracy.svg"
        figure.parent.mkdir()
        figure.write_text('<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>')
        return report.write_report(plan, folder / "report.html"), given


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    """The page of a suite with a hostile title, label, reason and note."""
    folder = tmp_path_factory.mktemp("hostile")
    with contextlib.chdir(folder):
        rows = block(("scratch", "kd", "odd"), title=HOSTILE)
        methods = {"odd": {"method": "dkd", "label": HOSTILE}}
        plan = fake_plan(title=HOSTILE, banner=HOSTILE, methods=methods, blocks={"main": rows})
        finish_all(plan)
        finish(plan.runs()["cnn-t--vit-s", "odd", 0], 0, status="diverged", reason=HOSTILE)
        finish(plan.runs()["cnn-t--vit-s", "odd", 1], 75.0, notes=[HOSTILE])
        return report.write_report(plan, folder / "report.html")


@pytest.fixture(scope="module")
def tab():
    """A phone: what is narrow enough for it fits a desktop."""
    with browser(390, 844) as tab:
        yield tab


LABELS = """return [...document.querySelector(".block:not([hidden]) tbody").rows]
  .filter((row) => row.querySelector("button")).map((row) => row.cells[0].textContent.trim())"""


@needs_browser
def test_a_heading_sorts_and_a_third_press_restores(finished, tab):
    page, given = finished
    tab.open(page)
    before = tab.run(LABELS)
    sums = {m: sum(given["cnn-t--mlp-s", m, s] for s in (0, 1, 2)) for m in ("kd", "dkd", "uhkd")}
    sums["scratch"] = sum(given["none--mlp-s", "scratch", s] for s in (0, 1, 2))
    labels = {"scratch": "Scratch", "kd": "KD", "dkd": "DKD", "uhkd": "UHKD†"}
    falling = [labels[m] for m in sorted(sums, key=sums.get, reverse=True)]
    heading = ".block:not([hidden]) thead th:nth-child(3)"
    state = f"return document.querySelector('{heading}').ariaSort"
    assert before == list(labels.values()) and before not in (falling, falling[::-1])
    for rows, sort in ((falling, "descending"), (falling[::-1], "ascending"), (before, "none")):
        tab.click(f"{heading} button")
        assert (tab.run(LABELS), tab.run(state)) == (rows, sort)
    tab.press(f"{heading} button", ENTER)
    assert tab.run(LABELS) == falling
    assert tab.run("return document.querySelector('tbody').rows[1].className") == "fixed", "the teacher stays on top"


@needs_browser
def test_a_cell_opens_closes_and_gives_the_focus_back(finished, tab):
    tab.open(finished[0])
    cell = "tbody tr:last-child td:last-child button"
    tab.press(cell, ENTER)
    shown = tab.run("return document.querySelector('dialog[open]').innerText")
    assert "UHKD†: cnn-t → cnn-s" in shown and "no result yet for seed 2" in shown and '"lr": 0.005' in shown
    strokes = "return [...document.querySelectorAll('dialog svg path.test')].map((path) => path.getAttribute('stroke'))"
    assert tab.run(strokes) == [method_styles(fake_plan().suite)["uhkd"]["color"]] * 2
    labels = "return [...document.querySelectorAll('dialog svg text')].map((text) => text.textContent)"
    assert {"seed 0", "seed 1"} <= set(tab.run(labels)) and "seed 2" not in tab.run(labels)
    assert tab.run("return document.querySelectorAll('dialog tbody tr').length") == 3
    assert tab.run("return document.activeElement.textContent") == "Close"
    tab.press("dialog header button", ESCAPE)
    assert tab.run("return document.querySelector('dialog[open]')") is None
    assert tab.run(f"return document.activeElement === document.querySelector('{cell}')")
    tab.click(cell)
    tab.click("dialog header button")
    assert tab.run("return document.querySelector('dialog[open]')") is None


@needs_browser
def test_a_choice_shows_the_differences(finished, tab):
    tab.open(finished[0])
    visible = """return [...document.querySelectorAll("section caption")]
      .filter((caption) => caption.offsetParent).map((caption) => caption.textContent)"""
    assert tab.run(visible)[0] == "Test accuracy, %"
    tab.click("fieldset label:nth-child(2)")
    assert tab.run(visible)[0].startswith("Paired difference to Scratch") and "Test accuracy, %" not in tab.run(visible)


@needs_browser
def test_names_are_shown_and_never_run(hostile, tab):
    tab.open(hostile)
    shown = " ".join(HOSTILE.split())
    assert tab.run("return document.title").split() == HOSTILE.split()
    assert tab.run("return document.querySelector('h1').textContent") == HOSTILE
    assert tab.run("return document.body.textContent.replace(/\\s+/g, ' ')").count(shown) > 5
    tab.click("tbody tr:last-child td:nth-child(2) button")
    opened = tab.run("return document.querySelector('dialog').textContent.replace(/\\s+/g, ' ')")
    assert opened.count(shown) == 3, "in its heading, its reason and its note"
    elements = "return [...document.querySelectorAll('script, img, iframe, link')].map((e) => e.id || e.tagName)"
    assert tab.run(elements) == ["IMG", "data", "SCRIPT"], "the figure of its verdict, and the page's own"
    assert tab.run("return document.querySelector('img').naturalWidth") > 100, "whose SVG is well formed"


@needs_browser
def test_no_request_leaves_and_none_could(finished, tab):
    tab.requests()
    tab.open(finished[0])
    tab.click("td button")
    assert {url.split(":")[0] for url in tab.requests()} == {"file", "data"}
    widths = tab.run("return [...document.querySelectorAll('img')].map((picture) => picture.naturalWidth)")
    assert len(widths) == 2 and widths[0] > 100 and widths[1] == 9
    first = """const [picture, table] = ["img", "table"].map((name) => document.querySelector(name));
      return !!(picture.compareDocumentPosition(table) & Node.DOCUMENT_POSITION_FOLLOWING)"""
    assert tab.run(first), "the figure of the verdict stands before any table"
    refused = """return (async () => {
      const told = new Promise((tell) => addEventListener("securitypolicyviolation", tell));
      new Image().src = "http://127.0.0.1:9/x.png";
      return (await told).effectiveDirective;
    })()"""
    assert tab.run(refused) == "img-src"


@needs_browser
@pytest.mark.parametrize("which", ["finished", "hostile"])
def test_a_phone_scrolls_tables_and_never_the_page(tab, which, finished, hostile):
    tab.open({"finished": finished[0], "hostile": hostile}[which])
    wide = """return [...document.querySelectorAll("html, body, dialog, section, .card, .warning")]
      .filter((element) => element.scrollWidth > element.clientWidth + 1).map((element) => element.tagName)"""
    assert tab.run("return innerWidth") == 390 and tab.run(wide) == []
    assert tab.run("const s = document.querySelector('.scroller'); return s.scrollWidth > s.clientWidth")
    tab.click("td button")
    assert tab.run("return document.querySelector('dialog').getBoundingClientRect().width") <= 390
    assert tab.run(wide) == []
