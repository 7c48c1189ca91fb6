"""Files that somebody else has made: they run nothing, write nowhere else, and are shown as text."""

from __future__ import annotations

import hashlib
import io
import os
import pickle
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import TINY, run_jobs, tiny, tiny_plan
from hypothesis import given, settings
from hypothesis import strategies as st
from test_fuzz import check_paths, signed

from kdbench.data.packed import load_packed
from kdbench.files import write_json
from kdbench.plan import jobs as plan
from kdbench.plan.suite import check_suite, load_suite
from kdbench.report import latex, page
from kdbench.results.record import read_run
from kdbench.run.data import run_data
from kdbench.run.outputs import run_table
from kdbench.types import KdbenchError

# ------------------------------------------------------------------------------------------------- nothing in them runs


class Bomb:
    """Unpickled, it makes a folder `fired` where the process stands."""

    def __reduce__(self):
        return os.mkdir, ("fired",)


@pytest.fixture
def bomb(trained):
    """The pickle of a bomb, in the folder of the trained suite; at the end it is shown to be live and not to have
    gone off before."""
    content = pickle.dumps(Bomb())
    yield content
    assert not Path("fired").exists()
    pickle.loads(content)
    assert Path("fired").exists(), "the bomb is a dud, so that the test says nothing"


def kd_plan() -> plan.Plan:
    return tiny_plan(seeds=[0], blocks__main__methods=["kd"], recipes__student__steps=1)


def torch_bomb() -> bytes:
    buffer = io.BytesIO()
    torch.save({"step": 1, "w": Bomb()}, buffer)
    return buffer.getvalue()


def test_a_pickle_as_a_checkpoint(bomb):
    """With the right checksum, which anybody can compute; bare, and as torch.save wraps it."""
    path = Path("results/tiny/state/cnn-t--vit-s/seed0/checkpoint")
    path.parent.mkdir(parents=True)
    for content in (bomb, torch_bomb()):
        path.write_bytes(signed(content))
        with pytest.raises(KdbenchError, match=r"seed0/checkpoint holds more than tensors .* nothing of it was run"):
            run_jobs(kd_plan(), "cohort")


def test_a_pickle_as_a_teacher(bomb):
    """With a result that vouches for it."""
    run = kd_plan().teacher("cnn-t", 0)
    weights = run.stem.with_suffix(".safetensors")
    for content in (bomb, torch_bomb(), b"", b"\xff" * 100):
        weights.write_bytes(content)
        record = read_run(run.result)
        record["hashes"]["weights"] = hashlib.sha256(content).hexdigest()
        write_json(run.result, record)
        with pytest.raises(KdbenchError, match=r"cnn-t/seed0\.safetensors holds no weights"):
            run_jobs(kd_plan(), "cohort")


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_pickle_as_packed_data(bomb, wrapped):
    meta = kd_plan().of("data")[0].output
    path = meta.with_name("image-train.npy")
    if wrapped:
        np.save(path, np.array([Bomb()], dtype=object), allow_pickle=True)
    else:
        path.write_bytes(bomb)
    with pytest.raises(KdbenchError, match=r"image-train\.npy is damaged"):
        load_packed(meta.parent)
    with pytest.raises(KdbenchError, match=r"image-train\.npy is damaged"):
        run_jobs(kd_plan(), "cohort")


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_pickle_as_predictions(bomb, wrapped):
    run_jobs(kd_plan(), "cohort")
    path = kd_plan().runs()["cnn-t--vit-s", "kd", 0].stem.with_suffix(".npz")
    if wrapped:
        np.savez(path, test_logits=np.array([Bomb()], dtype=object))
    else:
        path.write_bytes(bomb)
    with pytest.raises(KdbenchError, match=r"kd/seed0\.npz is missing or damaged"):
        run_table(kd_plan())


def test_a_pickle_as_a_data_set_behind_the_end_of_a_zip(bomb, monkeypatch):
    """What is a whole zip from behind and a pickle, or a plain array, from the front."""
    monkeypatch.setenv("KDBENCH_DATA", str(Path.cwd()))
    own = tiny_plan(data={"digits": {"source": "npz", "file": "own.npz"}})
    np.savez("own.npz", train_images=np.zeros((9, 4, 4), np.uint8))
    whole, array = Path("own.npz").read_bytes(), io.BytesIO()
    np.save(array, np.zeros(3))
    for front in (bomb, array.getvalue()):
        Path("own.npz").write_bytes(front + whole)
        with pytest.raises(KdbenchError, match=r"own\.npz is not a complete \.npz file"):
            run_data(own, own.of("data")[0])


@pytest.mark.parametrize(
    "text",
    [
        "!!python/object/apply:os.mkdir [fired]",
        "seeds: !!python/object/new:os.mkdir [fired]",
        "!!python/name:os.mkdir ''",
        "!!python/module:antigravity ''",
        "seeds: !<tag:yaml.org,2002:python/object/apply:os.mkdir> [fired]",
    ],
)
def test_a_suite_makes_no_python_objects(bomb, text):
    Path("planted.yaml").write_text(text)
    with pytest.raises(KdbenchError, match=r"planted\.yaml: not readable as YAML: could not determine a constructor"):
        load_suite("planted.yaml")


# ---------------------------------------------------------------------------------------- nothing is written elsewhere


HOSTILE_NAMES = [
    *("../x", "..", ".", "/etc/x", "a/b", "a/../../b", "~root", "a\\b", ".hidden", "-rf", "x..y", ""),
    *("$(id)", "`id`", "a;b", "a b", "a|b", "a&b", "a\nb", "a\0b", "a'b"),
    *('a"b', "*", "{x}", "é", "a\u202eb", "x" * 65),
]


@pytest.mark.parametrize("name", HOSTILE_NAMES)
@pytest.mark.parametrize("section", ["data", "recipes", "models", "methods", "blocks", "claims"])
def test_a_name_that_could_lead_elsewhere_is_refused(section, name):
    one = {
        "methods": {"method": "kd"},
        "claims": {"method": "uhkd", "control": "kd", "question": "?"},
    }.get(section) or next(iter(TINY[section].values()))
    tree = tiny()
    tree[section] = tree.get(section, {}) | {name: one}
    with pytest.raises(KdbenchError, match=rf"{section}.*cannot be a name"):
        check_suite(tree, "tiny", "tiny.yaml")


@pytest.mark.parametrize("name", [*HOSTILE_NAMES, "data", "reference"])
def test_a_suite_whose_own_name_could_lead_elsewhere_is_refused(name):
    with pytest.raises(KdbenchError, match="cannot be a name"):
        check_suite(tiny(), name, "tiny.yaml")


@pytest.mark.parametrize("base", ["../secret", "/etc/hosts", "a/b", "", "x\0", ["tiny"], 3])
def test_a_suite_extends_its_neighbours_only(tmp_path, base):
    (tmp_path / "secret.yaml").write_text("seeds: [0]")
    folder = tmp_path / "config"
    folder.mkdir()
    (folder / "own.yaml").write_text(f"extends: {base!r}\n" if base != "x\0" else 'extends: "x\\0"\n')
    with pytest.raises(KdbenchError, match="extends"):
        load_suite(folder / "own.yaml")


def test_the_longest_names_there_can_be_still_fit_into_a_file_system(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    long = {key: (key[0] * 64) for key in ("teacher", "student", "method", "block")}
    tree = tiny(seeds=[2**31 - 1 - i for i in range(12)], seeds_per_job=12)
    tree["models"] = {long["teacher"]: tree["models"]["cnn-t"], long["student"]: tree["models"]["vit-s"]}
    tree["methods"] = {long["method"]: {"method": "kd"}}
    pair = f"{long['teacher']} -> {long['student']}"
    tree["blocks"] = {long["block"]: {"data": "digits", "pairs": [pair], "methods": ["scratch", long["method"]]}}
    made = plan.make_plan(check_suite(tree, "s" * 64, "tiny.yaml"))
    check_paths(made)
    for job in made.jobs:
        write_json(job.output, {})
        for run in job.runs:
            write_json(run.result, {})
    with pytest.raises(KdbenchError, match="seeds_per_job: 15 such seeds do not fit"):
        check_suite(tree | {"seeds": [2**31 - 1 - i for i in range(15)], "seeds_per_job": 15}, "s", "tiny.yaml")


# ----------------------------------------------------------------------------------------------------- names are text


class Texts(HTMLParser):
    """The elements and the text of a page."""

    def __init__(self, content: str) -> None:
        super().__init__()
        self.elements, self.text = [], ""
        self.feed(content)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, tuple(attrs)))

    def handle_data(self, data):
        self.text += data


def document(name: str) -> page.Document:
    """A page that says `name` wherever a name can come; the corner of a table is a word of ours."""
    rows = (page.Row(page.Cell(name), (page.Cell(name, bold=True, letters=("a",)),)),)
    table = page.Table(
        name, "Method", ((name, name),), (page.Group(name, rows), page.Group("other", rows)), (("a", name),)
    )
    return page.Document(name, (name,), (page.Section(name, (name, table)),), (name,))


def in_latex(name: str) -> str:
    """The table of that page as a fragment, and the document to look at it with."""
    (section,) = document(name).sections
    fragment = latex.fragment(section.parts[1], latex.tex(name), "tab:name", 6.75)
    return fragment + latex.preview(name, (name,), (), "name", (name,))


@settings(max_examples=200, deadline=None, derandomize=True, database=None)
@given(st.text(st.sampled_from("ab <>&\"'\\`*_[]|~$#{}%^()!\n\t-=+:/.é\u202e\x1b\x00"), min_size=1, max_size=30))
def test_whatever_a_name_is_it_shows_as_text(name):
    plain, hostile = document("plain"), document(name)
    one, other = Texts(page.html(plain)), Texts(page.html(hostile))
    assert other.elements == one.elements, "a name is no element and no attribute"
    shown = " ".join("".join(c if c.isprintable() else " " for c in name).split())
    assert one.text.replace("plain", shown) == other.text

    text = page.markdown(hostile)
    assert not re.search(r"<(?!/?(br|sup|b)>)", text)
    cells = [len(re.findall(r"(?<!\\)(?:\\\\)*\|", line)) for line in text.splitlines() if line.startswith("|")]
    assert cells == [len(re.findall(r"\|", line)) for line in page.markdown(plain).splitlines() if line.startswith("|")]

    commands, known = (set(re.findall(r"\\([a-zA-Z]+)", written)) for written in (in_latex(name), in_latex("plain")))
    commands -= known
    assert all(command.startswith("text") for command in commands), commands
