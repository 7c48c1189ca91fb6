"""A submitted row goes the whole way; whatever of it is forged is refused in a sentence; the suite's rows stay."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from conftest import REPOSITORY, write_tiny
from scipy import stats
from test_external import SOURCE
from test_untrusted import HOSTILE_NAMES

from kdbench import cli
from kdbench.conformance import rehearsal, rules
from kdbench.files import read_json, sha256_file, write_json
from kdbench.plan import keys, registry
from kdbench.plan.suite import load_suite
from kdbench.report.block import about, block_reports
from kdbench.report.index import index_page
from kdbench.results import provenance, submission
from kdbench.results.frames import all_runs
from kdbench.results.reference import write_reference
from kdbench.results.submission import Submission
from kdbench.results.today import Today
from kdbench.run.everything import run_jobs
from kdbench.submit import reach, verify
from kdbench.types import KdbenchError

FOLDER = Path("submissions/mine")
CARD = {"paper": "A | B, <i>Venue</i> 2026", "claims": "It is better.", "contact": "a@b"}


def forget():
    """What a process knows of method files, which do not change while one command works."""
    for known in (registry.method_info, keys.module_files, keys._meaning):
        known.cache_clear()


@pytest.fixture(scope="module")
def whole(_trained_folder, tmp_path_factory):
    """A folder with a reference of the tiny suite and a submission to it, its card filled in."""
    folder = tmp_path_factory.mktemp("submitted")
    shutil.copytree(_trained_folder, folder, dirs_exist_ok=True)
    with contextlib.chdir(folder), pytest.MonkeyPatch.context() as patch:
        write_tiny(folder)
        plan = verify.training_plan(Path("config/tiny.yaml"))
        run_jobs(plan)
        today = Today(plan)
        write_reference(today, all_runs(today), about(block_reports(today)))
        shutil.copytree("results/tiny", "results/mine", ignore=shutil.ignore_patterns("suite.txt"))
        (folder / "mine.py").write_text(SOURCE)
        forget()
        patch.setattr(rules, "check", lambda method: [])  # its own tests try it, at length
        patch.setattr(rehearsal, "why_not", lambda: "not here")
        assert cli.main(["submit", "tiny", "--method", "mine.py:MyKD"]) == 0
        (FOLDER / "card.yaml").write_text(yaml.safe_dump(CARD))
    return folder


@pytest.fixture
def mine(whole, tmp_path, monkeypatch):
    """A copy of it, and the test stands in it."""
    for part in ("config", "submissions", "results/reference"):
        shutil.copytree(whole / part, tmp_path / part)
    shutil.copy(whole / "mine.py", tmp_path)
    (tmp_path / "results/data").symlink_to(whole / "results/data")
    monkeypatch.chdir(tmp_path)
    forget()
    yield Submission("mine")
    forget()


def reseal():
    """The checksums of files that were changed, as a forger writes them."""
    known = read_json(FOLDER / "about.json")
    write_json(FOLDER / "about.json", known | {"files": {name: sha256_file(FOLDER / name) for name in known["files"]}})


def table():
    return pd.read_csv(FOLDER / "runs.csv", dtype=str, keep_default_na=False)


def change(rows, **values):
    """Rows of runs.csv that are `rows` get these values."""
    frame = table()
    frame.loc[frame.eval(rows, engine="python"), list(values)] = list(values.values())
    frame.to_csv(FOLDER / "runs.csv", index=False)


def change_bits(method, right):
    """Every run of a method gets `right` of its test samples right, in correct.npz and in runs.csv."""
    with np.load(FOLDER / "correct.npz") as stored:
        arrays = dict(stored)
    for row in np.flatnonzero(arrays["method"] == method):
        bits = np.arange(arrays["samples"][row]) < right + row
        arrays["bits"][row] = np.packbits(bits)
        test = 100 * bits.mean()
        change(f"method == '{method}' and seed == '{arrays['seed'][row]}'", test=str(test))
    np.savez_compressed(FOLDER / "correct.npz", **arrays)


def refused(capsys, *words):
    """What a command that must fail says, which must be one sentence on one line."""
    forget()
    assert cli.main(list(words) or ["verify", "submissions/mine", "--recompute-only"]) == 2
    told = capsys.readouterr().err.strip().splitlines()[-1]
    assert told.startswith("kdbench: ")
    return told


# ------------------------------------------------------------------------------------------------------ the whole way


def test_every_number_follows_from_the_files(mine, capsys):
    assert cli.main(["verify", "mine", "--recompute-only"]) == 0
    assert "6 test accuracies and 6 keys recomputed; 2 cells of scratch and kd agree" in capsys.readouterr().err
    assert not (FOLDER / "verified.json").exists() and mine.mark == "reported"
    with np.load(FOLDER / "correct.npz") as stored:
        right = {
            (method, seed): 100 * np.unpackbits(bits)[:540].mean()
            for method, seed, bits in zip(stored["method"], stored["seed"], stored["bits"], strict=True)
        }
    runs = table()
    assert right == {(r.method, int(r.seed)): float(r.test) for r in runs.itertuples()} and len(runs) == 6
    reference = pd.read_csv("results/reference/tiny/runs.csv").set_index(["method", "seed"])["key"]
    assert all(reference[r.method, int(r.seed)] == r.key for r in runs.itertuples() if r.method != "mine")


def test_the_suite_that_was_trained_is_the_reference_s_with_the_check_rows(mine):
    own, base = load_suite(mine.suite_file), load_suite("tiny")
    assert [m.id for m in own.blocks[0].methods] == ["scratch", "kd", "mine"]
    for part in ("seeds", "data", "recipes", "models", "edition"):
        assert getattr(own, part) == getattr(base, part)


@pytest.mark.slow
def test_a_submission_is_verified_by_training_one_run_again(mine, capsys):
    assert cli.main(["verify", "submissions/mine"]) == 0
    assert "trained again, is the same bit for bit" in capsys.readouterr().err
    assert Submission("mine").mark == "verified" and not list(Path("results").glob("mine*"))
    change("method == 'mine'", hardware="another")
    reseal()
    assert Submission("mine").mark == "reported", "the verdict is of other files"


# ------------------------------------------------------------------------------------------------------------ forgeries


def forged_accuracy():
    change("method == 'mine' and seed == '1'", test="99.0")


def forged_and_sealed():
    forged_accuracy()
    reseal()


def changed_key():
    change("method == 'mine' and seed == '0'", key="0" * 64)
    reseal()


def lost_run():
    frame = table()
    frame[~((frame["method"] == "mine") & (frame["seed"] == "1"))].to_csv(FOLDER / "runs.csv", index=False)
    reseal()


def invented_run():
    frame = table()
    pd.concat([frame, frame[frame["method"] == "mine"].assign(seed=["7", "8"])]).to_csv(
        FOLDER / "runs.csv", index=False
    )
    reseal()


def no_keys():
    table().drop(columns="key").to_csv(FOLDER / "runs.csv", index=False)
    reseal()


def other_method():
    (FOLDER / "method.py").write_text(SOURCE.replace("student_logits.float()", "2 * student_logits.float()"))
    reseal()


def other_method_with_its_code():
    other_method()
    forget()
    code = keys.method_code(f"{FOLDER}/method.py:MyKD")
    write_json(FOLDER / "about.json", read_json(FOLDER / "about.json") | {"code": code})


def label_reader():
    (FOLDER / "method.py").write_text(
        SOURCE.replace("import torch.nn", "from sklearn import datasets\nimport torch.nn")
    )
    reseal()


def longer_training():
    path = FOLDER / "mine.yaml"
    path.write_text(path.read_text().replace("steps: 12", "steps: 24"))
    reseal()


def better_check_rows():
    change_bits("kd", 500)
    reseal()


def damaged_bits():
    (FOLDER / "correct.npz").write_bytes(b"PK\3\4 nothing")
    reseal()


def fewer_samples():
    with np.load(FOLDER / "correct.npz") as stored:
        arrays = dict(stored)
    arrays["samples"][:] = 100
    np.savez(FOLDER / "correct.npz", **arrays)
    reseal()


def other_suite():
    write_json(FOLDER / "about.json", read_json(FOLDER / "about.json") | {"suite": "../config/tiny.yaml"})


def no_suite():
    known = read_json(FOLDER / "about.json")
    known.pop("suite")
    write_json(FOLDER / "about.json", known)


def unnamed_method():
    known = read_json(FOLDER / "about.json")
    known["files"].pop("method.py")
    write_json(FOLDER / "about.json", known)


def moved_reference():
    path = Path("config/tiny.yaml")
    path.write_text(path.read_text().replace("lr: 0.005", "lr: 0.006"))
    tree = submission.suite_tree_for("tiny", "mine", "MyKD")
    submission.write_suite("mine", tree, "tiny")
    plan = verify.training_plan(FOLDER / "mine.yaml")
    frame = table()
    planned = verify.planned_keys(plan)
    frame["key"] = [planned[tuple(row)] for row in frame[["block", "pair", "method", "budget", "seed"]].to_numpy()]
    frame.to_csv(FOLDER / "runs.csv", index=False)
    reseal()


def linked_card():
    (FOLDER / "card.yaml").unlink()
    (FOLDER / "card.yaml").symlink_to("/etc/passwd")


def empty_card():
    (FOLDER / "card.yaml").write_text("paper: x\nclaims: ' '\n")


def strange_card():
    (FOLDER / "card.yaml").write_text("papers: x\n")


def list_for_a_card():
    (FOLDER / "card.yaml").write_text("- x\n")


@pytest.mark.parametrize(
    ("forge", "told"),
    [
        (forged_accuracy, "runs.csv is missing or is not the one that about.json beside it names"),
        (forged_and_sealed, r"mine seed 1 says a test accuracy of 99\.0000 %, and correct\.npz gives \d"),
        (changed_key, "the key of main/cnn-t--vit-s/mine seed 0 is not the one"),
        (lost_run, "runs.csv has no run main/cnn-t--vit-s/mine seed 1"),
        (invented_run, "has a run that its suite does not plan: main/cnn-t--vit-s/mine seed [78]"),
        (no_keys, "runs.csv has no column key"),
        (other_method, "method.py is not the method that was run"),
        (other_method_with_its_code, "the key of main/cnn-t--vit-s/mine seed 0 is not the one"),
        (label_reader, r"method\.py, line \d+: a method may not import sklearn"),
        (longer_training, "mine.yaml is not the suite that `kdbench submit tiny` makes"),
        (better_check_rows, "the check row main/cnn-t--vit-s/kd does not agree with the reference of tiny"),
        (damaged_bits, "correct.npz is damaged"),
        (fewer_samples, "has 100 test samples in correct.npz, not 540"),
        (other_suite, r"submitted to a suite in config/, and \.\./config/tiny\.yaml is none|there is no file"),
        (no_suite, "about.json is damaged .it has no suite."),
        (unnamed_method, r"does not name method\.py"),
        (moved_reference, "the reference of tiny has no run of today's key for the check row"),
        (linked_card, r"card\.yaml is a link"),
        (empty_card, r"card\.yaml: claims is not filled in"),
        (strange_card, "card.yaml: unknown key 'papers'; did you mean 'paper'"),
        (list_for_a_card, "expected the texts paper, claims, contact"),
    ],
)
def test_a_forgery_is_refused_in_a_sentence(mine, capsys, forge, told):
    forge()
    assert re.search(told, refused(capsys))


@pytest.mark.parametrize("file", ["runs.csv", "correct.npz", "about.json", "method.py", "mine.yaml"])
def test_a_missing_file_is_named(mine, capsys, file):
    (FOLDER / file).unlink()
    assert f"{file} " in refused(capsys)


@pytest.mark.parametrize("name", HOSTILE_NAMES)
def test_a_name_that_could_lead_elsewhere_is_refused(mine, capsys, name):
    if name:  # argparse itself refuses none
        assert "cannot be a name" in refused(capsys, "submit", "tiny", "--method", "mine.py:MyKD", f"--name={name}")
    with pytest.raises(KdbenchError, match="cannot be a name"):
        Submission(name)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["submit", "tiny", "--method", "kd"], "expected path/to/file.py:CLASS"),
        (["submit", "tiny", "--method", "none.py:MyKD"], "expected path/to/file.py:CLASS"),
        (["submit", "tiny", "--method", "mine.py:MyKD", "--name", "dkd"], "'dkd' is a method of kdbench"),
        (["submit", "tiny", "--method", "mine.py:MyKD", "--name", "tiny"], "'tiny' is a suite in config/"),
        (["submit", "config/other.yml", "--method", "mine.py:MyKD"], "a suite in config/"),
        (["submit", "no-kd", "--method", "mine.py:MyKD"], "no block with scratch and kd"),
        (["submit", "unfrozen", "--method", "mine.py:MyKD", "--name", "new"], "runs.csv does not exist"),
        (["verify", "submissions/mien"], "unknown submission 'mien'; did you mean 'mine'"),
        (["table", "tiny", "--reference", "--with", "mien"], "unknown submission 'mien'; did you mean 'mine'"),
        (["table", "unfrozen", "--partial", "--with", "mine"], "to suite tiny, not to unfrozen"),
    ],
)
def test_what_cannot_be_submitted_or_shown(mine, monkeypatch, capsys, words, told):
    monkeypatch.setattr(rules, "check", lambda method: [])
    monkeypatch.setattr(rehearsal, "why_not", lambda: "not here")
    text = Path("config/tiny.yaml").read_text()
    for name, content in (("other.yml", text), ("unfrozen.yaml", text), ("no-kd.yaml", text.replace("- kd", "- dkd"))):
        Path("config", name).write_text(content)
    assert told in refused(capsys, *words)


# ---------------------------------------------------------------------------------------------- what a method may reach


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("from sklearn.datasets import load_digits", "may not import sklearn.datasets"),
        ("from kdbench.data.packed import load_packed", "may not import kdbench.data.packed"),
        ("from kdbench.train import engine", "may not import kdbench.train"),
        ("from . import labels", r"may not import \."),
        ("import numpy", "may not import numpy"),
        ("import torch.nn as nn, os", "may not import os"),
        ("from torch import load", "torch.load reads files"),
        ("import torch\nx = torch.sys.modules", "torch.sys is the module sys"),
        ("import torch\nx = torch.utils.data", "torch.utils.data is the module"),
        ("import torch\ny = torch", "the module torch may stand before a dot only"),
        ("import torch\ntorch.UntypedStorage.from_file('x')", "torch.UntypedStorage reads files"),
        ("from kdbench.methods import base\nx = base.torch.os", "base.torch.os is the module os"),
        ("import kdbench.types\nx = kdbench.data", "there is no kdbench.data|kdbench.data is the module"),
        ("open('results/data/digits/labels-test.npy')", "no use for open"),
        ("__import__('os')", "no use for __import__"),
        ("().__class__.__base__.__subclasses__()", "no use for the attribute __subclasses__"),
        ("x = (1 for _ in ()).gi_frame.f_back", "no use for the attribute f_back"),
        ("from torch import Tensor\nTensor.__eq__ = print", "Tensor.__eq__ is changed"),
        ("F.cross_entropy = my_loss", "F.cross_entropy is changed, and a method changes attributes of self alone"),
        ("import torch\ntorch.set_num_threads(2)", "torch.set_num_threads changes what other"),
        ("import torch\ntorch.manual_seed(0)", "torch.manual_seed changes what other methods compute with"),
        ("from torch.nn.modules import module\nmodule.register_module_forward_hook(print)", "changes what other"),
        ("from typing import get_type_hints", "typing.get_type_hints executes text"),
        ("match my_loss:\n    case object(__globals__=x):\n        pass", "no use for matching attributes"),
        (f"LABELS = '{'0' * 50_000}'", "more than 50,000 bytes"),
    ],
)
def test_a_file_that_reaches_beyond_tensors_is_refused(tmp_path, line, told):
    path = tmp_path / "m.py"
    path.write_text(f"{SOURCE}\n{line}\n")
    assert any(re.search(told, finding) for finding in reach.findings(path))


def test_what_methods_use_is_allowed(tmp_path):
    """Most of kdbench's own would be taken; those left out look into timm's networks, or attributes up by name."""
    known = {path.stem: reach.findings(path) for path in (REPOSITORY / "kdbench/methods").glob("[!_]*.py")}
    refused_ones = {name for name, found in known.items() if found}
    assert refused_ones <= {"base", "crd", "fbt", "ofa", "pat", "uhkd"} and len(known) > 25
    (tmp_path / "m.py").write_text("def broken(:")
    with pytest.raises(KdbenchError, match=r"m\.py cannot be read as Python"):
        reach.findings(tmp_path / "m.py")


# ------------------------------------------------------------------------------------------------------ training again


def test_a_forgery_of_all_files_is_found_by_training(whole, mine, monkeypatch):
    """Elsewhere than on the kind of machine that trained it the interval of the seeds decides."""

    def trained(plan, row):
        """What training gives, from where it was done."""
        (run,) = (r for r in plan.runs().values() if (r.method.id, r.seed) == (row["method"], row["seed"]))
        run.stem.parent.mkdir(parents=True)
        for suffix in (".json", ".npz"):
            source = whole / str(run.stem.with_suffix(suffix)).replace("mine.again", "mine")
            shutil.copy(source, run.stem.with_suffix(suffix))
        return run

    def retrain():
        return verify._retrained(Submission("mine"), verify.training_plan(mine.suite_file))

    monkeypatch.setattr(verify, "_train", trained)
    honest = retrain()
    assert honest["bit_for_bit"] and honest["test"] == honest["submitted"] and honest["pair"] == "cnn-t--vit-s"
    change_bits("mine", 520)
    reseal()
    with pytest.raises(KdbenchError, match=r"on the same kind of processor, gives \d+\.\d\d % and other answers"):
        retrain()
    monkeypatch.setattr(provenance, "processor", lambda: "another")
    with pytest.raises(KdbenchError, match=r"and the submitted seeds foretell 9\d\.\d\d ± \d"):
        retrain()
    assert not list(Path("results").glob("mine*"))


def test_the_interval_of_one_more_value():
    """By hand: 4.302653, of two degrees of freedom, spreads of one value minus a mean of three."""
    assert verify.foretold(np.array([1.0, 2.0, 3.0])) == pytest.approx(4.302653 * np.sqrt(1 + 1 / 3), rel=1e-6)
    assert verify.foretold(np.array([80.0])) == np.inf


# ---------------------------------------------------------------------------------------------------------- where shown


def test_a_submitted_row_stands_below_and_moves_no_other(mine, capsys):
    assert cli.main(["table", "tiny", "--reference"]) == 0
    assert cli.main(["table", "tiny", "--reference", "--with", "mine"]) == 0
    own, more = (Path(path).read_text() for path in ("tables/reference/tiny.md", "tables/tiny.with-mine.md"))
    body, _, foot = own.rpartition("\n---\n")
    assert more.startswith(body) and more.endswith(foot)
    added = more[len(body) : -len(foot)]
    assert "A \\| B, &lt;i&gt;Venue" in added and "Paper: " in added
    rows = [
        [cell.strip(" *") for cell in line.split("|")[1:-1]] for line in added.splitlines() if line.startswith("| ")
    ]
    marks = {row[0]: row[1] for row in rows if row[1] in ("reference", "reported", "verified")}
    assert marks == {"Scratch": "reference", "KD": "reference", "MyKD": "reported"}

    runs = table().astype({"test": float}).pivot(index="seed", columns="method", values="test")
    for baseline, name in (("scratch", "Scratch"), ("kd", "KD")):
        x = runs["mine"] - runs[baseline]
        low, high = stats.t.interval(0.95, len(x) - 1, x.mean(), stats.sem(x))
        part = added[added.index(f"### Verdict against {name}") :]
        line = next(line for line in part.splitlines() if line.startswith("| MyKD"))
        expected = f"{x.mean():+.1f} \\[{low:+.1f}, {high:+.1f}\\]".replace("-", "−")
        assert expected in line and f"{stats.ttest_1samp(x, 0).pvalue:.3f}" in line


def test_the_index_shows_it_with_its_card_and_its_verdict(mine):
    def shown():
        page = index_page([], submission.submissions())
        data = json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.S)[1])
        (row,) = data["blocks"][0]["sections"][0]["parts"][0]["tables"][0]["rows"]
        (detail,) = data["details"].values()
        return [cell["text"] for cell in row["cells"]], {text["title"]: text["text"] for text in detail["texts"]}

    cells, texts = shown()
    assert cells[:7] == ["MyKD", "tiny", "1", "main", "cnn-t → vit-s", "reported", "2"]
    assert texts == {
        **{key.capitalize(): text for key, text in CARD.items()},
        "Verify it again": f"kdbench verify {FOLDER}",
    }
    seal = {"about": sha256_file(FOLDER / "about.json"), "date": "2026-12-01", "retrained": {}}
    write_json(FOLDER / "verified.json", seal | {"versions": {"commit": "abc"}})
    cells, texts = shown()
    assert cells[5] == "verified" and texts["Verified"] == "2026-12-01, with kdbench abc"
