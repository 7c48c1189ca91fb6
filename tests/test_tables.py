"""One description in three files: what stands in them, what is escaped, and what every kind of cell looks like."""

import dataclasses
import io
import math
import re
import shutil
import subprocess
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
from conftest import REPOSITORY
from fakes import fake_plan, finish, finish_all
from scipy import stats as st

from kdbench.files import read_json, write_json
from kdbench.report import pair_tables, stats, tables
from kdbench.report.block import BlockReport, Reading, block_reports
from kdbench.report.cells import cells
from kdbench.report.page import html, markdown
from kdbench.report.paper import fragments
from kdbench.report.text import note_letters
from kdbench.report.verdicts import claim_results
from kdbench.results.frames import all_runs
from kdbench.results.today import Today
from kdbench.types import Block, Claim, KdbenchError, MethodSpec, ModelSpec, Pair, Paper, Recipe, Suite

METHODS = {
    "scratch": ("Scratch", "reference", None),
    "kd": ("KD", "logits", None),
    "ofa": ("OFA", "logits", None),
    "uhkd": ("UHKD†", "frequency", "our reading of the paper"),
    "uhkd-c0": ("UHKD† (C0)", "frequency", "our reading of the paper"),
    "fdcmkd": ("FD-CMKD‡", "cross-modal", "known from a transcription"),
}
METHOD_OF = {"uhkd-c0": "uhkd"} | {f"m{i}": "fitnet" for i in range(10)}
FACTS = {
    "anchors": {
        "image": {"nearest neighbour": 95.2, "logistic regression": 91.3, "train_used": 1000, "test_used": 540}
    },
    "counts": {"train": 1000, "val": 257, "test": 540},
    "classes": 10,
    "data_notes": ["Split by hand."],
    "made_with": {"date": "2026-01-02", "hardware": "two cores", "versions": {"torch": "2.13.0"}, "commit": "abc123"},
}
HOSTILE = r"a_b & c|d <script>alert(1)</script> 100% $x$ #1 {y} ~ ^ \input{z} [w] `q` 語"


def make(pairs=3, methods=tuple(METHODS), seeds=3, names=None, layout="methods"):
    """A suite of one block and its frame: pair i gets 80 + i + 0.5 a method + noise, teachers 97."""
    teachers, students = ("cnn-t", "vit-t", "mlp-t"), ("cnn-s", "vit-s", "mlp-s")
    grid = tuple(Pair(t, s) for s in students for t in teachers)[:pairs]
    specs = []
    for id in methods:
        label, group, footnote = METHODS.get(id, (f"Method {id}", "features", None))
        specs.append(MethodSpec(id, METHOD_OF.get(id, id), {}, (names or {}).get(id, label), group, footnote))
    models = {m: ModelSpec(m, "ResNet", "digits", "r", family=m[:3]) for m in (*teachers, *students)}
    block = Block("main", "Main block", "digits", grid, tuple(specs), tuple(range(seeds)), layout=layout)
    recipes, texts = {"r": Recipe("r", lr=0.1, steps=1)}, {"title": "Tiny suite", "banner": "Too small to rank."}
    suite = Suite("tiny", (block,), tuple(range(seeds)), {}, recipes, models, **texts)
    rng, rows = np.random.default_rng(0), []
    for i, pair in enumerate(grid):
        for seed in range(seeds):
            for j, id in enumerate(methods):
                test = 80 + i + 0.5 * j + float(rng.normal(0, 0.3))
                rows.append(
                    {"pair": pair.id, "teacher": pair.teacher, "student": pair.student, "method": id, "seed": seed}
                    | {"status": "finished", "reason": None, "val": test, "test": test, "best_test": test + 1.5}
                    | {"best_test_epoch": 4, "epochs": 6, "val_nll": 0.5, "test_nll": 0.6, "agreement": 80.0}
                    | {"teacher_val": None if id == "scratch" else 97.0 + seed / 10}
                    | {"teacher_test": None if id == "scratch" else 96.0 + seed / 10}
                    | {"seconds": 5.0 * (j + 1), "peak_memory_mb": 300.0, "extra_parameters": 1000 * j}
                    | {"student_parameters": 20000, "notes": []}
                    | {
                        "gradient_shares": {"ce": 1.0}
                        if id == "scratch"
                        else {"ce": 0.5 + seed / 10, id: 0.5 - seed / 10}
                    }
                )
    return suite, block, pd.DataFrame(rows)


def change(frame, pair, method, seed=None, **values):
    """The frame with these values in some rows; what did not finish has no numbers."""
    frame = frame.copy()
    chosen = (frame["pair"] == pair) & (frame["method"] == method)
    chosen &= (frame["seed"] == seed) if seed is not None else True
    if values.get("status", "finished") != "finished":
        values |= dict.fromkeys(("val", "test", "best_test", "seconds", "test_nll"), np.nan)
    for name, value in values.items():
        frame.loc[chosen, name] = pd.Series([value] * chosen.sum(), index=frame.index[chosen], dtype=frame[name].dtype)
    return frame


def described(suite, block, frame, **changes):
    return tables.describe(suite, [BlockReport(suite, block, frame, **FACTS, **changes)])


def page(suite, block, frame):
    return markdown(described(suite, block, frame))


def paper(suite, block, frame):
    """The LaTeX fragments of a block."""
    return fragments(BlockReport(suite, block, frame, **FACTS))


def row(text, label, heading="### Test accuracy"):
    """Cells of the first row with this label below a heading."""
    lines = text[text.index(heading) :].splitlines()
    line = next(line for line in lines if line.startswith(f"| {label} |") or line.startswith(f"| {label} <sup>"))
    return [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[2:-1]]


def test_cells_by_hand():
    suite, block, frame = make(pairs=1, methods=("scratch", "kd"))
    for method, values in {"scratch": (80.0, 81.0, 82.0), "kd": (81.0, 83.0, 85.0)}.items():
        for seed, value in enumerate(values):
            frame = change(frame, "cnn-t--cnn-s", method, seed, test=value, best_test=value + 1)
    text = page(suite, block, frame)
    assert row(text, "KD") == ["**83.0 ± 2.0**"]
    assert row(text, "Scratch") == ["**81.0 ± 1.0**"]
    assert row(text, "Scratch", "### Paired difference to KD") == [r"−2.0 \[−4.5, +0.5\]"]  # 4.3027 / sqrt 3
    assert row(text, "test accuracy") == ["96.1 ± 0.1"]
    assert row(text, "KD", "### For information only") == ["83.0", "84.0", "+1.0", "1"]
    assert row(text, "KD", "### Cost") == ["1,000", "10", "2.00 ×", "300", "ce 60 %, kd 40 %"]


def test_page_says_what_a_reader_needs():
    text = page(*make())
    assert text.index("Too small to rank.") < text.index("## Main block")
    assert "10 classes: chance level 10.0 %." in text
    assert "540 test samples" in text and re.search(r"standard error of 1\.\d points", text)
    assert "image: nearest neighbour 95.2 %, logistic regression 91.3 % (on 1,000 train and 540 test samples)" in text
    assert (
        "Minimum detectable differences: paired t test, 5 %, 80 % power" in text
        and "points in this verdict (Holm's first step over 5 methods, n = 3)" in text
    )
    assert "CNN → CNN<br>cnn-t →<br>cnn-s" in text
    assert text.count("our reading of the paper") == 1 and text.count("known from a transcription") == 1
    assert text.index("*Reference*") < text.index("*Logits*") < text.index("*Frequency*") < text.index("*Cross-modal*")
    for line in ("Date: 2026-01-02", "Hardware: two cores", "Versions: torch 2.13.0", "Commit: abc123"):
        assert line in text
    assert "PARTIAL" not in text


def test_bold_agrees_with_the_statistics():
    suite, block, frame = make()
    text = page(suite, block, frame)
    for i, pair in enumerate(block.pairs):
        near = stats.near_best(stats.wide(frame).loc[pair.id])
        assert 0 < len(near) < len(METHODS)
        for method in block.methods:
            assert row(text, method.label)[i].startswith("**") == (method.id in near)


def test_every_status_explains_itself():
    suite, block, frame = make()
    first, second, third = (p.id for p in block.pairs)
    frame = change(frame, first, "ofa", status="n/a", reason="fewer than four maps")
    frame = change(frame, second, "ofa", 1, status="diverged", reason="non-finite kd at step 40")
    frame = change(frame, third, "ofa", status="diverged", reason="non-finite ce at step 2")
    frame = change(frame, first, "uhkd", 0, status="missing")
    frame = change(frame, second, "uhkd", status="missing")
    frame = change(frame, third, "uhkd", 2, test=math.nan)
    frame.loc[(frame["pair"] == first) & (frame["method"] == "kd"), "notes"] = pd.Series(
        [["projector added"]] * 3, index=frame.index[(frame["pair"] == first) & (frame["method"] == "kd")]
    )
    text = page(suite, block, frame)
    cells = row(text, "OFA") + row(text, "UHKD†") + row(text, "KD")
    assert cells[0].startswith("n/a <sup>")
    assert "(2)" in cells[1] and cells[2].startswith("diverged <sup>")
    assert "(2)" in cells[3] and cells[4].startswith("— <sup>") and "(2)" in cells[5]
    notes = dict(re.findall(r"<sup>(\w)</sup> (.*)<br>", text[: text.index("### Paired")]))
    of = [[notes[letter] for letter in re.findall(r"<sup>(.*)</sup>", cell)] for cell in cells[:7]]
    assert of == [
        ["n/a: fewer than four maps"],
        ["diverged in 1 of 3 seeds (seed 1: non-finite kd at step 40)"],
        ["diverged in 3 of 3 seeds (seeds 0, 1, 2: non-finite ce at step 2)"],
        ["no result yet for seed 0 (1 of 3)"],
        ["no result yet for seeds 0, 1, 2 (3 of 3)"],
        ["no finite accuracy in seed 2 (1 of 3), not counted"],
        ["projector added"],
    ]
    assert text.index("PARTIAL TABLE, no result yet for 4 of 54 runs") < text.index("## Main block")


def test_weak_teachers_stand_apart():
    suite, block, frame = make()
    weak = block.pairs[1].id
    frame.loc[(frame["pair"] == weak) & (frame["method"] != "scratch"), "teacher_val"] = 83.0
    text = page(suite, block, frame)
    assert len(row(text, "KD")) == 2
    assert len(row(text[text.index("weak teachers") :], "KD")) == 1
    assert row(text, "OFA", "### Verdict against KD")[3] == "2 / 0 of 2"


def test_nothing_finished_one_seed_one_pair_and_no_kd():
    suite, block, frame = make(pairs=1)
    for method in METHODS:
        frame = change(frame, block.pairs[0].id, method, status="missing", teacher_val=None, teacher_test=None)
    text = page(suite, block, frame)
    assert "undecided" in text and "### Verdict" not in text and "nan" not in text.lower().replace("nano", "")
    suite, block, frame = make(pairs=1, seeds=1)
    text = page(suite, block, frame)
    assert "Only one seed" in text and "**8" not in text and "one common seed: no interval" in text
    suite, block, frame = make(pairs=1, methods=("scratch", "ofa"))
    text = page(suite, block, frame)
    assert "no plain KD" in text and "Paired difference to Scratch" in text and "Verdict against Scratch" in text
    suite, block, frame = make(pairs=1, methods=("kd",))
    assert "### Test accuracy" in page(suite, block, frame)


def test_frames_as_pandas_makes_them_from_records():
    suite, block, frame = make(pairs=1)
    missing = frame[["pair", "teacher", "student", "method", "seed", "notes"]].assign(
        status="missing", reason="not yet"
    )
    assert "no result yet for seeds 0, 1, 2 (3 of 3; not yet)" in page(suite, block, missing)
    records = frame.to_dict("records")
    records[0] |= {"status": "diverged", "reason": "step 3", "test": None}
    records[1] |= {"status": "diverged", "test": None}
    text = page(suite, block, pd.DataFrame(records))  # the reasons that are None become NaN of a string column
    assert "(seed 0: step 3)" in text and "(seed 0: step unknown)" in text and "nan" not in text


def test_wide_tables_are_cut_by_student_family():
    text = page(*make(pairs=9, methods=("scratch", "kd")))
    for family in ("CNN", "ViT", "MLP"):
        assert f"### Test accuracy, %, {family} students" in text
    assert max(line.count("|") for line in text.splitlines()) <= pair_tables.MAX_COLUMNS + 2
    assert "students" not in page(*make(pairs=7, methods=("scratch", "kd")))


def test_footnote_letters_go_on_after_z():
    notes = {}
    letters = note_letters(notes, [str(i) for i in range(28)])
    assert letters[0] == "a" and letters[25:] == ("z", "aa", "ab")
    assert note_letters(notes, ["1"]) == ("b",)


def test_csv_round_trips():
    suite, block, frame = make()
    frame = change(frame, block.pairs[0].id, "ofa", status="n/a", reason='with "quotes", commas\nand a line')
    again = pd.read_csv(
        io.StringIO(tables.csv(suite, [BlockReport(suite, block, frame)])), dtype=str, keep_default_na=False
    )
    data = again[again["line"] == "cell"].set_index(["pair", "method"])
    assert len(data) == 18 and len(again[again["line"] == "verdict"]) == 10
    expected = cells(block, frame)
    for name in ("test_mean", "test_sd", "minus_kd_mean", "minus_kd_low", "minus_scratch_high", "seconds_over_scratch"):
        left, right = pd.to_numeric(data[name]), expected[name].astype(float).reindex(data.index)
        np.testing.assert_array_equal(left, right)
    assert data.loc[(block.pairs[0].id, "ofa"), ["status", "test_mean", "test_n"]].tolist() == ["n/a", "", "0"]
    assert [c for c in again if "best" in c or "optimism" in c] == [c for c in again if c.endswith("decides_nothing")]
    kd = again[(again["line"] == "verdict") & (again["baseline"] == "kd")].set_index("method")
    assert kd["verdict_p_holm"].astype(float).to_dict() == pytest.approx(stats.verdict(frame, "kd")["p_holm"].to_dict())


def test_hostile_names_are_shown_not_run():
    suite, block, frame = make(pairs=1, names={"ofa": HOSTILE})
    frame = change(frame, block.pairs[0].id, "uhkd", status="n/a", reason=HOSTILE)
    document = described(suite, block, frame)
    text = markdown(document)
    assert "<script>" not in text and "&lt;script&gt;" in text and r"a\_b" in text
    line = next(line for line in text.splitlines() if line.startswith(r"| a\_b"))
    assert len(re.findall(r"(?<!\\)\|", line)) == 3
    tex = "".join(paper(suite, block, frame).values())
    assert r"a\_b \& c\textbar{}d" in tex and r"\textbackslash{}input\{z\}" in tex and r"\texttt{U+8A9E}" in tex
    assert r"\input" not in tex.replace(r"\textbackslash{}input", "")
    assert "<script" not in html(document) and "&lt;script&gt;" in html(document)


class Grid(HTMLParser):
    """The texts of all table cells of an HTML page, row by row, without footnote letters."""

    def __init__(self, text):
        super().__init__()
        self.rows, self.open = [], ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.open = tag
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag):
        self.open = ""

    def handle_data(self, data):
        if self.open in ("td", "th", "b"):
            self.rows[-1][-1] += data


def test_html_holds_the_same_rows_as_markdown_and_asks_nothing_of_the_network():
    suite, block, frame = make(pairs=2)
    document = described(suite, block, frame)
    text = html(document)
    assert not re.search(r"(src|href)=|@import|url\(|<script", text)
    lines = [line for line in markdown(document).splitlines() if line.startswith("| UHKD† |")]
    plain = [re.sub(r" <sup>.*?</sup>|[*\\]", "", line).strip("| ").split(" | ") for line in lines]
    assert len(plain) > 3 and plain == [row for row in Grid(text).rows if row[:1] == ["UHKD†"]]


def test_files_are_whole_and_twice_is_an_error(tmp_path):
    suite, block, frame = make(pairs=1)
    paths = tables.write_tables(suite, [BlockReport(suite, block, frame)], tmp_path / "tables")
    files = [
        *(f"tiny.{suffix}" for suffix in ("md", "tex", "html", "csv", "bib")),
        "tiny/main.tex",
        "tiny/main-verdict.tex",
    ]
    there = {p for p in (tmp_path / "tables").rglob("*") if p.is_file()}
    assert [p.relative_to(tmp_path / "tables").as_posix() for p in paths] == files and there == set(paths)
    before = paths[0].read_bytes()
    with pytest.raises(KdbenchError, match="two results"):
        tables.write_tables(suite, [BlockReport(suite, block, pd.concat([frame, frame]))], tmp_path / "tables")
    assert paths[0].read_bytes() == before


def cells_of(tex):
    """The rows of a fragment's tabular between its rules, cell by cell, each \\multicolumn as often as it is wide."""
    body = tex[tex.index(r"\toprule") : tex.index(r"\bottomrule")]
    lines = re.findall(r"^(.*) \\\\$", body.replace("\\toprule\n", ""), re.M)
    found = []
    for line in lines:
        cells = re.split(r"(?<!\\)&", line)
        spans = [re.match(r"\s*\\multicolumn\{(\d+)\}", cell) for cell in cells]
        found.append([c.strip() for c, s in zip(cells, spans, strict=True) for _ in range(int(s[1]) if s else 1)])
    return found


def balanced(tex):
    """Braces and environments are closed in the order in which they were opened."""
    depth = 0
    for c in re.sub(r"\\[{}\\]", "", tex):
        depth += (c == "{") - (c == "}")
        assert depth >= 0
    stack = []
    for what, name in re.findall(r"\\(begin|end)\{([\w*]+)\}", tex):
        assert what == "begin" or stack.pop() == name
        stack += [name] if what == "begin" else []
    return depth == 0 and not stack


@pytest.mark.parametrize("layout", ["pairs", "methods"])
def test_fragments_are_whole_tables_with_the_cells_of_the_page(layout):
    suite, block, frame = make(pairs=3, layout=layout)
    assert list(paper(suite, block, frame)) == ["main", "main-verdict"], "a suite without claims"
    found = paper(dataclasses.replace(suite, claims=CLAIMS), block, frame)
    assert list(found) == ["main", "main-verdict", "main-claims"]
    claims = found.pop("main-claims")
    assert balanced(claims) and r"\label{tab:tiny-main-claims}" in claims and "n = 3" in claims
    (shown,) = (cells for cells in cells_of(claims) if " minus " in cells[0])
    told = row(page(dataclasses.replace(suite, claims=CLAIMS), block, frame), "UHKD† minus UHKD† (C0)", "### Claims")
    told = [re.sub(r"\\([\[\]])", r"{\1}", cell).replace("−", "$-$") for cell in told]
    assert shown == [r"UHKD\textdagger{} minus UHKD\textdagger{} (C0)", *told]
    for name, tex in found.items():
        assert balanced(tex) and tex.startswith(r"\begin{table*}") and tex.count(r"\begin{tabular}") == 1
        width = len(re.search(r"\\begin\{tabular\}\{@\{\}(\w+)@\{\}\}", tex)[1])
        assert all(len(cells) == width for cells in cells_of(tex))
        assert rf"\label{{tab:tiny-{name}}}" in tex and "n = 3" in tex and r"UHKD\textdagger{}" in tex
        assert r"OFA~\cite{hao2023ofa}" in tex
    text = page(suite, block, frame)
    label = block.pairs[0].teacher if layout == "pairs" else "KD"
    told = [
        re.sub(r"\*| <sup>.*", "", cell).replace(" ± ", r" $\pm$ ").replace("−", "$-$") for cell in row(text, label)
    ]
    shown = next(cells for cells in cells_of(found["main"]) if cells[0] == label)[1:]
    assert [re.sub(r"\\textbf\{(.*)\}|\\textsuperscript.*", r"\1", cell) for cell in shown] == told
    bold = [cell.startswith("**") for cell in row(text, label)]
    assert [cell.startswith(r"\textbf") for cell in shown] == bold
    against = [cells[0] for cells in cells_of(found["main-verdict"]) if "multicolumn" in cells[0]]
    assert ["Scratch" in title for title in against] == [True, False] and "Against KD" in against[1]


CLAIMS = (Claim("spectrum", "uhkd", "uhkd-c0", "?"), Claim("teacher", "fdcmkd", "fd-heads", "?"))


def test_claims_are_a_fragment_only_where_they_can_be_told():
    suite, block, frame = make(pairs=1, seeds=1)
    assert list(paper(dataclasses.replace(suite, claims=CLAIMS), block, frame)) == ["main"], "one seed tests nothing"
    suite, block, frame = make(pairs=1)
    hidden = dataclasses.replace(suite, claims=CLAIMS, paper=Paper(rows=("scratch", "kd", "uhkd")))
    assert "main-claims" not in paper(hidden, block, frame), "its control is hidden"


@pytest.mark.parametrize("layout", ["pairs", "methods"])
def test_the_names_of_a_paper_reach_every_label(layout):
    """Summary rows, footnotes, claims and captions too."""
    methods = ("scratch", "kd", "uhkd", "uhkd-c0", "fdcmkd")
    suite, block, frame = make(pairs=3, methods=methods, layout=layout)
    first, _, third = (p.id for p in block.pairs)
    for seed in range(3):
        frame = change(frame, first, "kd", seed, test=30.0 + seed)
    frame.loc[(frame["pair"] == third) & (frame["method"] != "scratch"), "teacher_val"] = 83.0
    names = {"scratch": "alone", "kd": "Hinton", "uhkd": "spectral", "uhkd-c0": "spatial"}
    names |= {"cnn-t": "big CNN", "mlp-t": "Mixer", "cnn-s": "small CNN"}
    suite = dataclasses.replace(suite, claims=CLAIMS, paper=Paper(names=names))
    readings = tuple(MethodSpec(f"r{i}", "uhkd", {}, f"reading {i}", "frequency") for i in range(2))
    read = pd.concat([frame[frame["method"] == "uhkd"].assign(method=r.id) for r in readings])
    report = BlockReport(suite, block, frame, readings=[Reading(block.methods[2], readings, read)], **FACTS)
    found = fragments(report)
    assert set(found) == {"main", "main-verdict", "main-claims"}
    for tex in found.values():
        own = re.sub(r"\\(label|cite)\{.*?\}", "", tex)
        assert not re.search(r"Scratch|\bKD\b|UHKD|C0|cnn-|mlp-t", own), "a name that the paper has another for"
    assert "collapsed: below half of scratch's accuracy on big CNN $\\rightarrow$ small CNN" in found["main-verdict"]
    assert "spectral minus spatial" in found["main-claims"] and "Against Hinton" in found["main-verdict"]
    assert "Left out" in found["main"] and r"Mixer $\rightarrow$ small CNN" in found["main"]
    assert "our reading of the paper" in found["main"], "which the dagger said before"
    assert "reading 0" in found["main"] and ("spectral: 2" in found["main"])
    if layout == "pairs":
        assert "pairs better / worse than alone" in found["main"] and "verdict against alone" in found["main"]


def test_the_preview_inputs_the_fragments_and_the_bibliography_has_what_they_cite(tmp_path):
    suite, block, frame = make(pairs=1)
    second = dataclasses.replace(block, name="second")
    suite = dataclasses.replace(suite, blocks=(block, second), claims=CLAIMS)
    paths = tables.write_tables(suite, [BlockReport(suite, b, frame, **FACTS) for b in suite.blocks], tmp_path)
    preview, bib = ((tmp_path / f"tiny.{suffix}").read_text() for suffix in ("tex", "bib"))
    head = [preview.index(part) for part in (r"\suppressfloats[t]", "Tiny suite", "Too small to rank", r"\input")]
    assert head == sorted(head), "warnings stand above everything else"
    assert balanced(preview) and r"\usepackage{booktabs,graphicx}" in preview and r"\bibliography{tiny}" in preview
    inputs = re.findall(r"\\input\{(.*)\}", preview)
    assert [tmp_path / name for name in inputs] == [p for p in paths if p.parent.name == "tiny"] and len(inputs) == 6
    cited = {key for name in inputs for key in re.findall(r"\\cite\{(.*?)\}", (tmp_path / name).read_text())}
    assert cited | {"kdbench2026"} == set(re.findall(r"^@\w+\{(.*),$", bib, re.M)) and len(cited) == 4


@pytest.mark.parametrize("layout", ["pairs", "methods"])
def test_a_paper_hides_and_renames_and_changes_no_number(layout):
    suite, block, frame = make(pairs=3, layout=layout)
    shown = (block.pairs[0].id, block.pairs[1].id)
    names = {"kd": "Hinton", "cnn-s": "ResNet8", "cnn-t": "ResNet"}
    own = dataclasses.replace(suite, paper=Paper(("scratch", "kd", "uhkd"), shown, names, 3.25))
    whole, cut = paper(suite, block, frame), paper(own, block, frame)
    for tex in cut.values():
        assert balanced(tex) and tex.startswith(r"\begin{table}") and "3.25in" in tex
        assert "Hinton" in tex and not re.search(r"\bKD\b|OFA|FD-CMKD", tex.split(r"\begin{tabular}")[1])
    assert "ResNet8" in cut["main"] and "mlp-t" not in cut["main"]
    numbers = {"main": r"\d\d\.\d \$\\pm\$ \d\.\d", "main-verdict": r"\$?-?\$?\+?\d\.\d \{\[\}[^&]*"}
    for name, pattern in numbers.items():
        found = re.findall(pattern, cut[name])
        assert found and set(found) <= set(re.findall(pattern, whole[name]))


def latex_lacks():
    """What the preview document needs and this LaTeX lacks, or None. The base of TeX Live alone has no booktabs."""
    if not (shutil.which("pdflatex") and shutil.which("kpsewhich")):
        return "pdflatex is not installed"
    packages = ["geometry.sty", "booktabs.sty", "graphicx.sty"]
    found = subprocess.run(["kpsewhich", *packages], capture_output=True, text=True, timeout=60).stdout
    missing = [name for name in packages if f"/{name}" not in found]
    return f"this LaTeX has no {', '.join(missing)}" if missing else None


@pytest.mark.parametrize("layout", ["pairs", "methods"])
def test_latex_compiles(tmp_path, layout):
    if reason := latex_lacks():
        pytest.skip(reason)
    suite, block, frame = make(pairs=7, names={"ofa": HOSTILE}, layout=layout)
    frame = change(frame, block.pairs[0].id, "uhkd", status="n/a", reason=HOSTILE)
    tables.write_tables(suite, [BlockReport(suite, block, frame)], tmp_path)
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "-no-shell-escape", "tiny.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout[-2000:]
    assert (tmp_path / "tiny.pdf").stat().st_size > 10_000
    assert "Overfull" not in done.stdout


def test_a_table_shows_the_rows_columns_and_baselines_it_is_asked_for():
    suite, block, frame = make(pairs=3, methods=("scratch", "kd", "ofa", "uhkd"))
    one, two = block.pairs[0], block.pairs[2]
    picked = dataclasses.replace(block, rows=("kd", "uhkd"), columns=(one.id, two.id), baselines=("kd",))
    text = page(suite, picked, frame)
    assert "OFA" not in text and "| Scratch |" not in text and "Paired difference to Scratch" not in text
    heads = [line for line in text.splitlines() if line.startswith("| Method | CNN")]
    assert heads and all(block.pairs[1].teacher not in head and len(head.split("|")) == 5 for head in heads)
    # Headline pairs are still told by scratch, and the verdict's family is the shown methods alone.
    table = tables.csv(suite, [BlockReport(suite, picked, frame)])
    lines = pd.read_csv(io.StringIO(table))
    assert set(lines[lines["line"] == "cell"]["kind"]) == {"headline"}
    verdicts = lines[lines["line"] == "verdict"]
    assert verdicts["method"].tolist() == ["uhkd"]
    assert verdicts["verdict_p_holm"].iloc[0] == verdicts["verdict_p"].iloc[0]


def test_a_block_that_mixes_harnesses_says_whose_weights_each_row_has():
    suite, block, frame = make(pairs=1, methods=("scratch", "kd", "ofa", "fdcmkd"))
    one = {"kd": "OFA", "ofa": "OFA"}
    for harness, found in ((one, None), (one | {"fdcmkd": "FD-CMKD"}, ["OFA", "OFA", "FD-CMKD"])):
        methods = tuple(dataclasses.replace(m, harness=harness.get(m.id)) for m in block.methods)
        text = page(suite, dataclasses.replace(block, methods=methods), frame)
        assert ("harness" in text) == bool(found)
        if found:
            assert [row(text, label)[0] for label in ("KD", "OFA", "FD-CMKD‡")] == found
            assert row(text, "Scratch")[0] == row(text, "test accuracy")[0] == "—"
            assert len(row(text, "KD")) == 2 and len(row(text, "OFA", "### Paired difference to KD")) == 1


def test_a_mark_of_two_methods_has_a_footnote_for_each():
    suite, block, frame = make(pairs=1, methods=("kd", "fdcmkd", "ofa"), names={"ofa": "UFD-KD‡ (mine)"})
    methods = (*block.methods[:2], dataclasses.replace(block.methods[2], footnote="known from code alone"))
    text = page(suite, dataclasses.replace(block, methods=methods), frame)
    assert "FD-CMKD: known from a transcription" in text and "UFD-KD: known from code alone" in text


def test_a_row_a_pair_as_papers_print_it():
    suite, block, frame = make(pairs=3, methods=("kd", "uhkd", "scratch", "ofa"), seeds=4, layout="pairs")
    weak = block.pairs[1].id
    frame.loc[(frame["pair"] == weak) & (frame["method"] != "scratch"), "teacher_val"] = 83.0
    frame = change(frame, block.pairs[0].id, "ofa", 1, status="diverged", reason="step 3")
    text = page(suite, block, frame)
    head = next(line for line in text.splitlines() if line.startswith("| Teacher |"))
    heads = [cell.strip().rpartition("<br>")[2] for cell in head.split("|")[2:-1]]
    assert heads == ["Student", "accuracy", "gap, val / test", "Scratch", "KD", "OFA", "UHKD†"], "groups in their order"
    tests = frame.pivot_table(index=["pair", "seed"], columns="method", values="test")
    one, two = (block.pairs[i].id for i in (0, 2))
    assert row(text, "cnn-t")[0] == "cnn-s"
    plain = [re.sub(r"\*| <sup>.*", "", cell) for cell in row(text, "cnn-t")[3:]]
    each = [tests.loc[one, m].dropna() for m in ("scratch", "kd", "ofa", "uhkd")]
    shown = [f"{x.mean():.1f} ± {x.std():.1f}" for x in each]
    assert plain == [*shown[:2], f"{shown[2]} (3)", shown[3]], "n stands where it is not the block's"
    mean = (tests.loc[one] + tests.loc[two]) / 2
    cells = [re.sub(r"\*| <sup>.*", "", cell) for cell in row(text, "mean over 2 headline pairs")]
    assert cells[1].startswith("96.2") and cells[4] == f"{mean['kd'].mean():.1f} ± {mean['kd'].std():.1f}"
    assert cells[5] == f"{mean['ofa'].mean():.1f} ± {mean['ofa'].std():.1f} (3)"
    delta = tests.sub(tests["scratch"], axis=0).groupby("pair").mean().drop(weak)
    counts = row(text, "pairs better / worse than Scratch")
    assert counts[4] == f"{(delta['kd'] > 0).sum()} / {(delta['kd'] < 0).sum()}" and counts[3] == ""
    verdict = stats.verdict(frame, "scratch")["verdict"].replace("not separated", "n.s.")
    assert row(text, "verdict against Scratch (n.s.: not separated)")[4:] == [verdict[m] for m in ("kd", "ofa", "uhkd")]
    weakly = text[text.index("weak teachers") :]
    assert row(weakly, "vit-t")[0] == "cnn-s" and "mean over" not in weakly[: weakly.index("verdict and cost")]
    assert [r[:2] for r in Grid(html(described(suite, block, frame))).rows].count(["vit-t", "cnn-s"]) == 3


def test_the_bold_set_of_a_pair_is_the_same_in_both_layouts():
    texts = [page(*make(layout=layout)) for layout in ("pairs", "methods")]
    _, block, _ = make()
    bold = [[cell.startswith("**") for cell in row(texts[1], m.label)] for m in block.methods]
    for i, pair in enumerate(block.pairs):
        assert [cell.startswith("**") for cell in row(texts[0], pair.teacher)[3:]] == [own[i] for own in bold]


def test_more_methods_than_a_page_holds_are_cut_with_scratch_in_each_part():
    many = ("scratch", "kd", *(f"m{i}" for i in range(10)))
    text = page(*make(pairs=1, methods=many, layout="pairs"))
    assert "### Test accuracy, %, part 1" in text and "### Test accuracy, %, part 2" in text
    parts = [text[text.index(f"### Test accuracy, %, part {i}") :].splitlines()[2] for i in (1, 2)]
    assert [part.count("Scratch") for part in parts] == [1, 1]
    assert [part.count("Method m") for part in parts] == [9, 1]


def test_what_is_known_of_data_stands_once():
    suite, block, frame = make(pairs=1)
    second = dataclasses.replace(block, name="second", title="Second")
    reports = [BlockReport(suite, b, frame, **FACTS) for b in (block, second)]
    text = markdown(tables.describe(suite, reports))
    for once in (
        "10 classes: chance level",
        "Split by hand.",
        "nearest neighbour 95.2 %",
        "Cost: seconds cover",
        "Bold: ",
        "80 % power",
    ):
        assert text.count(once) == 1, once
    other = dataclasses.replace(second, data="letters")
    text = markdown(tables.describe(suite, [reports[0], BlockReport(suite, other, frame, **FACTS)]))
    told = [line for line in text.splitlines() if "10 classes: chance level" in line]
    assert [line.split(": ")[0] for line in told] == ["digits", "letters"]


def test_optimism_is_told_where_the_best_epoch_could_be_another_one():
    suite, block, frame = make(pairs=1)
    assert "For information only" in page(suite, block, frame)
    assert "For information only" not in page(suite, block, frame.assign(epochs=4))


def test_a_teacher_without_a_gap_on_test_has_a_footnote():
    suite, block, frame = make(pairs=2)
    own = (frame["pair"] == block.pairs[0].id) & (frame["method"] != "scratch")
    frame.loc[own, "teacher_test"] = 82.0
    text = page(suite, block, frame)
    gaps = row(text, "minus scratch, validation / test, points")
    assert "<sup>b</sup>" in gaps[0] and "sup" not in gaps[1]
    told = "a headline pair by its validation gap, but on test the teacher is less than 3 points above scratch"
    assert f"<sup>b</sup> {told}<br>" in text


def test_claims_stand_below_the_verdict_with_an_unadjusted_test():
    suite, block, frame = make()
    text = page(dataclasses.replace(suite, claims=CLAIMS), block, frame)
    assert "FD-CMKD‡ minus" not in text and "Claims and" not in page(suite, block, frame)
    tests = frame.pivot_table(index="seed", columns="method", values="test")  # the same pairs in every seed
    test = st.ttest_rel(tests["uhkd"], tests["uhkd-c0"])
    low, high = test.confidence_interval(0.95)
    told = f"{(tests['uhkd'] - tests['uhkd-c0']).mean():+.1f} \\[{low:+.1f}, {high:+.1f}\\]".replace("-", "−")
    cells = row(text, "UHKD† minus UHKD† (C0)", "### Claims and their controls")
    by_pair = frame.pivot_table(index="pair", columns="method", values="test", aggfunc="mean")
    delta = by_pair["uhkd"] - by_pair["uhkd-c0"]
    without = sorted(f"{delta.drop(pair).mean():+.1f}".replace("-", "−") for pair in delta.index)
    assert cells == [
        told,
        f"{without[-1]} to {without[0]}",
        f"{(delta > 0).sum()} / {(delta < 0).sum()} of 3",
        f"{test.pvalue:.3f}",
    ]
    frame = change(frame, block.pairs[0].id, "uhkd", 0, status="missing")
    frame = change(frame, block.pairs[0].id, "uhkd", 1, status="missing")
    text = page(dataclasses.replace(suite, claims=CLAIMS), block, frame)
    cells = row(text, "UHKD† minus UHKD† (C0)", "### Claims and their controls")
    assert cells[2:] == ["0 / 3 of 3", "— <sup>c</sup>"] and "1 complete seed, two are needed" in text
    assert "<sup>b</sup> 1 of 3 seeds complete<br>" in text


def test_one_seed_gets_an_interval_over_test_images_and_says_so():
    suite, block, frame = make(pairs=1, methods=("scratch", "kd", "ofa"), seeds=1)
    pair, rng = block.pairs[0].id, np.random.default_rng(0)
    kd = rng.random(540) < 0.8
    correct = {(pair, "kd"): kd, (pair, "ofa"): kd | (rng.random(540) < 0.3)}
    low, high = stats.bootstrap_interval(correct[pair, "ofa"], kd)
    text = markdown(described(suite, block, frame, correct=correct))
    (cell,) = row(text, "OFA", "### Paired difference to KD")
    assert f"{{{low:+.1f}, {high:+.1f}}}" in cell
    assert "bootstrap interval over the test images" in text
    assert "one common seed: no interval" in text  # scratch, whose predictions are not there


def test_claims_are_not_pooled_over_what_students_read():
    suite, block, frame = make(pairs=6)
    reads = suite.models[block.pairs[0].student]
    models = suite.models | {reads.name: dataclasses.replace(reads, input="outline")}
    suite = dataclasses.replace(suite, models=models, claims=(Claim("spectrum", "uhkd", "uhkd-c0", "?"),))
    own = [p.id for p in block.pairs if p.student == reads.name]
    results = {result.students: result for result in claim_results(suite, block, frame)}
    assert set(results) == {"students that read outline", f"students that read {suite.models['vit-s'].input}"}
    first = results["students that read outline"]
    assert set(first.frame["pair"]) == set(own) and first.verdict["headline"] == len(own)
    tests = frame[frame["pair"].isin(own)].pivot_table(index="seed", columns="method", values="test")
    assert first.verdict["difference"] == pytest.approx((tests["uhkd"] - tests["uhkd-c0"]).mean())
    text = page(suite, block, frame)
    assert text.count("UHKD† minus UHKD† (C0), students that read") == 2


# ------------------------------------------------------------------------------------------------ what it was made with


def test_what_quick_repeats_stands_once():
    """In the committed tables, of which every run has finished."""
    text = (REPOSITORY / "tables/reference/quick.md").read_text()
    lines = text.splitlines()
    for line in (line for line in lines if line.startswith("| ")):
        assert not re.search(r" \(\d+\)", line), f"a cell with the n of its block: {line}"
    told = [line for line in lines if line and not line.startswith(("|", "#", "<sup>", "n = "))]
    assert len(told) > 15 and len(set(told)) == len(told)
    sentences = [sentence for line in told for sentence in re.split(r"(?<=\D\.) ", line) if len(sentence) > 40]
    assert len(set(sentences)) == len(sentences)
    fragments = sorted((REPOSITORY / "tables/reference/quick").glob("*.tex"))
    assert len(fragments) == 6
    for path in fragments:
        tex = path.read_text()
        assert tex.count("n = 3") == 1 and not any(re.search(r" \(3\)", cell) for row in cells_of(tex) for cell in row)


@pytest.fixture
def finished(tmp_path, monkeypatch):
    """The fake suite, every run finished."""
    monkeypatch.chdir(tmp_path)
    plan = fake_plan()
    finish_all(plan)
    return plan


def footer(plan):
    lines = tables.describe(plan.suite, block_reports(Today(plan))).footer
    return {name: text for name, _, text in (line.partition(": ") for line in lines)}


def test_the_footer_says_once_what_all_runs_share(finished):
    found = footer(finished)
    assert found["Versions"] == "kdbench 0, torch made up"
    assert found["Hardware"] == "a made-up processor, 1 thread(s) a job"
    assert re.fullmatch(r"\d{4}-\d\d-\d\d( to \d{4}-\d\d-\d\d)?", found["Date"]) and "runs)" not in str(found)


@pytest.mark.parametrize("place", ["teacher", "cohort"])
@pytest.mark.parametrize("newest", [True, False])
def test_the_footer_lists_all_that_runs_were_made_with_and_counts_them(finished, place, newest):
    """Whether the run that differs is the newest or the oldest, a student's or a teacher's."""
    run = finished.of(place)[-1].runs[-1]
    total = len(finished.runs()) + sum(len(job.runs) for job in finished.of("teacher"))
    other = {"kdbench": "0", "torch": "2.6.0", "commit": "abc"}
    finish(run, 97.0, versions=other, hardware={"cpu": "another", "threads": 1})
    record = read_json(run.result)
    record["finished_at"] = "2099-01-01T00:00:00+00:00" if newest else "1999-01-01T00:00:00+00:00"
    write_json(run.result, record)
    found = footer(finished)
    most = f"({total - 1} runs) and"
    assert found["Versions"] == f"kdbench 0, torch made up {most} 2.6.0 (1 run), commit unknown {most} abc (1 run)"
    assert found["Hardware"] == f"a made-up processor, 1 thread(s) a job {most} another, 1 thread(s) a job (1 run)"
    first, last = found["Date"].split(" to ")
    assert (last if newest else first) == ("2099-01-01" if newest else "1999-01-01") and first < last


def test_a_cell_of_other_versions_has_a_footnote(finished):
    for seed in (0, 2):
        run = finished.runs()["cnn-t--vit-s", "kd", seed]
        finish(run, 80.0 + seed, versions={"kdbench": "1", "torch": "2.6.0", "commit": "abc"})
    text = markdown(tables.describe(finished.suite, block_reports(Today(finished))))
    told = "seeds 0, 2 trained with torch 2.6.0, most runs with made up"
    letter = re.search(rf"<sup>(\w)</sup> {told}<br>", text)[1]
    cells = [row(text, label) for label in ("KD", "DKD", "Scratch")]
    assert cells[0][0].endswith(f"<sup>{letter}</sup>") and not any("sup" in cell for cell in cells[0][1:])
    assert not any(f">{letter}<" in cell for cells in cells[1:] for cell in cells)
    assert "trained with commit" not in text and "trained with kdbench" not in text
    assert all_runs(Today(finished)).columns.tolist().count("versions") == 0


def test_runs_without_a_result_or_without_versions_differ_from_nothing(finished):
    finished.runs()["cnn-t--vit-s", "kd", 0].result.unlink()
    for seed in (1, 2):
        finish(finished.runs()["cnn-t--vit-s", "kd", seed], 80.0 + seed, versions={})
    text = markdown(tables.describe(finished.suite, block_reports(Today(finished))))
    assert "no result yet for seed 0" in text and "trained with" not in text


def test_the_cost_table_tells_the_share_of_each_term_in_the_first_gradient():
    suite, block, frame = make()
    frame["gradient_shares"] = frame["gradient_shares"].where(frame["method"] != "ofa")
    text = page(suite, block, frame)
    assert row(text, "Scratch", "Cost of training")[-1] == "ce 100 %"
    assert row(text, "KD", "Cost of training")[-1] == "ce 60 %, kd 40 %"
    assert row(text, "OFA", "Cost of training")[-1] == "—"
    assert cells(block, frame).loc["cnn-t--cnn-s", "kd"]["gradient_shares"] == "ce 60 %, kd 40 %"
