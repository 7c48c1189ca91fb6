"""Bad input: whatever lies in a suite, a result, a checkpoint, a file of arrays or a folder of pictures, it ends in a
clear sentence or in a right result; never in a traceback, never in a wrong result, never in waiting without end.

300 cases by default, the same ones each time; 10,000 new ones with KDBENCH_FULL (test_faults.py says how).
"""

from __future__ import annotations

import contextlib
import copy
import hashlib
import io
import json
import os
import pickle
import re
import shutil
import signal
import zipfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from conftest import TINY, tiny, tiny_plan
from fakes import finish_all
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from test_faults import FULL, measured

from kdbench import checkpoint, cli
from kdbench.data.packed import SPLITS, load_packed
from kdbench.plan.jobs import Plan, make_plan
from kdbench.plan.paths import data_folder, reference_folder, table_files
from kdbench.plan.suite import load_suite
from kdbench.results.frames import collect, histories
from kdbench.results.record import FINISHED, MISSING, read_run
from kdbench.results.today import Today
from kdbench.run import fit
from kdbench.run.data import run_data
from kdbench.run.locks import state_folder
from kdbench.run.outputs import run_table
from kdbench.terminal import watch
from kdbench.types import KdbenchError

CASES = 2000 if FULL else 60
SECONDS = 300
"""A case that takes longer hangs."""

fuzz = settings(
    max_examples=CASES,
    deadline=None,
    derandomize=not FULL,
    database=None,
    suppress_health_check=list(HealthCheck),
)


@contextlib.contextmanager
def no_hang() -> Iterator[None]:
    def hangs(*_):
        raise AssertionError(f"nothing came of it in {SECONDS} s")

    signal.signal(signal.SIGALRM, hangs)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)


class Tally:
    """How the cases of a test ended: right, or by kind of error, which is its sentence without names and numbers."""

    def __init__(self) -> None:
        self.ends: Counter[str] = Counter()

    def right(self) -> None:
        self.ends["right"] += 1

    def refused(self, sentence: str, where: str) -> None:
        assert re.search(where, sentence), f"{sentence!r} does not say where"
        self.ends[re.sub(r"'[^']*'|\"[^\"]*\"|\S*/\S+|[\d.]+", "…", sentence)[:70]] += 1

    def close(self, name: str) -> None:
        refused = self.ends.total() - self.ends["right"]
        assert refused and self.ends["right"], "cases of one kind only try nothing"
        measured(
            f"fuzz-{name}",
            cases=self.ends.total(),
            right=self.ends["right"],
            refused=refused,
            kinds=len(self.ends) - 1,
            commonest=dict(self.ends.most_common(25)),
        )


# ---------------------------------------------------------------------------------------------------- what harm is done


WORDS = st.sampled_from(["kd", "digits", "cnn-t", "vit-s", "student", "cnn-t -> vit-s", "resnet18", "scratch", "image"])
TEXTS = st.one_of(WORDS, st.text(max_size=20), st.sampled_from(["../x", "/etc/passwd", "a\0b", "x" * 300, "\x1b[2J"]))
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 100),
    st.integers(),
    st.sampled_from([2**31, 2**63, 10**400]),
    st.floats(),
    TEXTS,
)
JSON = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3))
YAML = st.one_of(JSON, st.dates(), st.datetimes(), st.binary(max_size=5), st.sets(st.integers(), max_size=3))


def places(tree: Any, at: tuple = ()) -> Iterator[tuple]:
    """The way to every value of a tree."""
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in items:
        yield (*at, key)
        yield from places(value, (*at, key))


def harmed(draw, tree: Any, values: st.SearchStrategy) -> Any:
    """The tree with one to three values replaced, removed, renamed or repeated elsewhere."""
    tree = copy.deepcopy(tree)
    for _ in range(draw(st.integers(1, 3))):
        *way, last = draw(st.sampled_from(sorted(places(tree), key=repr)))
        node = tree
        for key in way:
            node = node[key]
        harm = draw(st.sampled_from(["replace", "replace", "remove", "rename", "add"]))
        if harm == "replace" or isinstance(node, list):
            node[last] = draw(values)
        elif harm == "remove":
            del node[last]
        elif harm == "rename":
            node[draw(TEXTS)] = node.pop(last)
        else:
            node[draw(TEXTS)] = draw(values)
    return tree


SOME_BYTES = st.binary(max_size=20)


def cut_or_flipped(draw, content: bytes, insert: st.SearchStrategy[bytes] = SOME_BYTES) -> bytes:
    """Bytes with one to four places cut out, overwritten or filled with something else."""
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(content)))
        width = draw(st.integers(0, 3) | st.integers(0, len(content)))
        content = content[:start] + draw(insert) + content[start + width :]
    return content


# --------------------------------------------------------------------------------------------------------------- suites


FRAGMENTS = st.sampled_from(
    [
        b"2001-13-45",
        b"!!int x",
        b"!!int ''",
        b"!!timestamp x",
        b"!!bool x",
        b"!!float ''",
        b"!!binary x",
        b"!!set {a, b}",
        b"!!omap [a: 1]",
        b"!!python/object/apply:os.abort []",
        b"&a [*a]",
        b"*nowhere",
        b"<<: {a: 1}",
        b"<<: 3",
        b"? [1]\n: 2",
        b".nan",
        b"-.inf",
        b"1:99:99",
        b"9" * 5000,
        b"0x" + b"f" * 5000,
        b"[" * 2000,
        b'"\\ud800"',
        b'"\\0"',
        b"\t",
        b"\xff",
        b"---\n",
        b"%YAML 9.9\n",
        b"extends: quick\n",
        b"extends: a/b\n",
        b"extends: [1]\n",
    ]
)


def test_suites(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tally, path = Tally(), Path("fuzzed.yaml")
    base = yaml.safe_dump(TINY, sort_keys=False).encode()

    @fuzz
    @given(st.data())
    def case(data):
        if data.draw(st.booleans()):
            content = yaml.safe_dump(harmed(data.draw, tiny(), YAML), allow_unicode=True).encode(errors="surrogatepass")
        else:
            content = cut_or_flipped(data.draw, base, FRAGMENTS)
        path.write_bytes(content)
        out, err = io.StringIO(), io.StringIO()
        with no_hang(), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = cli.main(["plan", str(path)])
        if code:
            told = err.getvalue()
            assert code == 2 and told.startswith("kdbench: ") and told.count("\n") == 1, told
            tally.refused(told, r"fuzzed\.yaml|extends: ")
        else:
            check_paths(make_plan(load_suite(path)))
            tally.right()

    case()
    tally.close("suites")


def check_paths(plan: Plan) -> None:
    """Whatever a plan writes lies below results/ and tables/."""
    written = [job.output for job in plan.jobs] + [r.stem for job in plan.jobs for r in job.runs]
    written += [state_folder(plan, job, r.seed) for job in plan.jobs for r in job.runs if job.pair]
    written += [reference_folder(plan.suite), *table_files(plan.suite)]
    for path in written:
        assert path.parts[0] in ("results", "tables") and ".." not in path.parts and not path.is_absolute(), path
        assert all(len(part) < 240 for part in path.parts), path


def test_aliases_that_unfold_without_end_and_thousands_of_keys_are_quick(tmp_path):
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 12)]
    for text in ("\n".join([*lines, "seeds: *a11"]), "\n".join(f"k{i}: {i}" for i in range(20_000))):
        path = tmp_path / "wide.yaml"
        path.write_text(text)
        with no_hang(), pytest.raises(KdbenchError, match=r"wide\.yaml: (more than 100,000 values|unknown key)"):
            load_suite(path)


# -------------------------------------------------------------------------------------------------------------- results


def test_results(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    plan = tiny_plan()
    finish_all(plan)
    block = plan.suite.blocks[0]
    run = plan.runs()["cnn-t--vit-s", "kd", 0]
    whole, tally = run.result.read_bytes(), Tally()
    record = read_run(run.result)
    counted = 0

    @fuzz
    @given(st.data())
    def case(data):
        nonlocal counted
        if data.draw(st.booleans()):
            tree = harmed(data.draw, record, JSON)
            content = json.dumps(tree).encode(errors="surrogatepass")
        else:
            content = cut_or_flipped(data.draw, whole)
        run.result.write_bytes(content)
        with no_hang(), contextlib.redirect_stdout(io.StringIO()):
            frame = collect(Today(plan), block)
            histories(Today(plan), block)
            watch.line(plan, watch.look(plan))
            row = frame[(frame["method"] == "kd") & (frame["seed"] == 0)].iloc[0]
            try:
                read = read_run(run.result)
            except KdbenchError as error:
                assert row["status"] == MISSING
                tally.refused(str(error), r"seed0\.json")
            else:
                assert row["status"] in (read["status"], MISSING)
                if row["status"] == FINISHED:
                    assert row["test"] == read["accuracy"]["test"]
                tally.right()
            counted += 1
            if counted % 30 == 0:
                run_table(plan, partial=True)

    case()
    tally.close("results")


# ---------------------------------------------------------------------------------------------------------- checkpoints


def signed(payload: bytes) -> bytes:
    """What says of itself that it is whole."""
    return checkpoint._MAGIC + hashlib.sha256(payload).hexdigest().encode() + b"\n" + payload


def test_checkpoints(tmp_path, capsys):
    path, tally = tmp_path / "checkpoint", Tally()
    older, newer = {"step": 1}, {"step": 2, "w": torch.arange(4.0)}
    checkpoint.save(path, older)
    checkpoint.save(path, newer)
    whole = path.read_bytes()
    payload = whole[len(checkpoint._MAGIC) + 65 :]

    @fuzz
    @given(st.data())
    def case(data):
        kind = data.draw(st.sampled_from(["damaged", "damaged", "signed", "pickled"]))
        if kind == "damaged":
            path.write_bytes(cut_or_flipped(data.draw, whole))
        elif kind == "signed":
            path.write_bytes(signed(cut_or_flipped(data.draw, payload)))
        else:
            path.write_bytes(signed(pickle.dumps(data.draw(JSON))))
        with no_hang():
            try:
                state = checkpoint.load(path)
            except KdbenchError as error:
                assert kind != "damaged", "what is damaged gives way to the one before"
                tally.refused(str(error), "checkpoint")
                return
        told = "damaged and not used" in capsys.readouterr().err
        if kind == "damaged":
            assert state == older if told else torch.equal(state["w"], newer["w"])
        tally.right()

    case()
    tally.close("checkpoints")


# ------------------------------------------------------------------------------------------------------ files of arrays


def arrays_of(classes: int = 3, train: int = 30, test: int = 9) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        "train_images": rng.integers(0, 256, (train, 4, 4, 1), np.uint8),
        "train_labels": np.arange(train) % classes,
        "test_images": rng.integers(0, 256, (test, 4, 4, 1), np.uint8),
        "test_labels": np.arange(test) % classes,
        "class_names": np.array([f"class {i}" for i in range(classes)]),
    }


SHAPES = st.lists(st.sampled_from([0, 1, 2, 3, 9, 30, 5000, 10**12, -1]), max_size=5).map(tuple)
TYPES = st.sampled_from(["|u1", "<i8", "<f4", "<U5", "|O", "|V0", "|S3", "<M8[s]", "|b1", "x", ()])
ARRAYS = st.sampled_from(
    [
        np.zeros((30, 4, 4, 5000), np.uint8),
        np.zeros((30, 4, 4, 1), np.uint8),
        np.zeros((9, 4, 4, 1), np.uint8),
        np.zeros((30, 4, 4), np.uint8),
        np.zeros(30, np.int64),
        np.zeros(9, np.int64),
        np.full(30, 10**18),
        np.full(30, -1),
        np.full(30, 2**63, np.uint64),
        np.array(3),
        np.array([]),
        np.array(["a", "a", "b"]),
        np.frombuffer(b"\xff" * 12, "<U1"),
        np.frombuffer(b"\0\xd8\0\0" * 3, "<U1"),
        np.array([b"x", b"y", b"z"]),
        np.zeros(3, [("a", "i4")]),
    ]
)


def header(draw) -> bytes:
    """The beginning of an .npy file with something in it that may be wrong."""
    fields = {"descr": draw(TYPES), "fortran_order": draw(st.booleans()), "shape": draw(SHAPES)}
    text = repr(fields).encode()
    if draw(st.booleans()):
        text = cut_or_flipped(draw, text, st.sampled_from([b"(", b"{", b"'", b"L", b"\n ", b"9" * 5000, b"", b"\xff"]))
    version = draw(st.sampled_from([b"\1\0", b"\1\0", b"\2\0", b"\3\0", b"\7\7"]))
    size = len(text).to_bytes(2 if version == b"\1\0" else 4, "little")
    return b"\x93NUMPY" + version + size + text


def fuzzed_arrays(draw) -> bytes:
    arrays, buffer = arrays_of(), io.BytesIO()
    name = draw(st.sampled_from(sorted(arrays)))
    harm = draw(st.sampled_from(["bytes", "array", "header", "member", "missing", "wide", "one class", "none"]))
    if harm == "array":
        arrays[name] = draw(ARRAYS)
    elif harm == "wide":
        for part, count in (("train", 30), ("test", 9)):
            arrays[f"{part}_images"] = np.zeros((count, 1, 1, 5000), np.uint8)
    elif harm == "one class":
        arrays = arrays_of(classes=1)
    elif harm == "missing":
        del arrays[name]
    with zipfile.ZipFile(buffer, "w", draw(st.sampled_from([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED]))) as file:
        for key, array in arrays.items():
            content = io.BytesIO()
            np.save(content, array)
            if key == name and harm == "header":
                content = io.BytesIO(header(draw) + bytes(draw(st.integers(0, 500))))
            elif key == name and harm == "member":
                content = io.BytesIO(draw(st.binary(max_size=50)))
            file.writestr(f"{key}.npy", content.getvalue())
    content = buffer.getvalue()
    if harm == "bytes":
        content = draw(st.sampled_from([b"", b"", b"\x93NUMPY\1\0", pickle.dumps(1)])) + cut_or_flipped(draw, content)
    return content


def own_data_plan(source: dict[str, Any]) -> Plan:
    """The tiny suite on data of one's own."""
    return tiny_plan(data={"digits": source})


def check_packed(plan: Plan) -> None:
    """What was packed is what its description says."""

    pack = load_packed(data_folder(plan.suite, "digits", 0), verify=True)
    classes = len(pack.meta["class_names"])
    for split in SPLITS:
        labels = pack.labels(split)
        assert len(labels) == len(pack.array("image", split)) == pack.meta["counts"][split] > 0
        assert labels.min() >= 0 and labels.max() < classes
    assert set(pack.labels("train").tolist()) == set(range(classes))


def pack_or_refuse(plan: Plan, tally: Tally, where: str) -> None:
    job = plan.of("data")[0]
    shutil.rmtree(job.output.parent, ignore_errors=True)
    with no_hang(), contextlib.redirect_stderr(io.StringIO()):
        try:
            run_data(plan, job)
        except KdbenchError as error:
            assert not job.output.exists()
            tally.refused(str(error), where)
        else:
            check_packed(plan)
            tally.right()


@pytest.mark.filterwarnings("ignore")
def test_files_of_arrays(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KDBENCH_DATA", str(tmp_path))
    monkeypatch.setattr(fit, "check", lambda *_: None)  # whether networks fit such data is asked in test_fit.py
    tally, plan = Tally(), own_data_plan({"source": "npz", "file": "fuzzed.npz"})

    @fuzz
    @given(st.data())
    def case(data):
        Path("fuzzed.npz").write_bytes(fuzzed_arrays(data.draw))
        pack_or_refuse(plan, tally, r"fuzzed\.npz|data set .digits.")

    case()
    tally.close("arrays")


# -------------------------------------------------------------------------------------------------- folders of pictures


NAMES = st.sampled_from([b"cat", b"dog", b"owl", b".hidden", b"\xff\xfe", b"a b", b"-rf", b"x.png", b"\n", b"$(id)"])


def picture(draw) -> bytes:
    buffer = io.BytesIO()
    mode = draw(st.sampled_from(["RGB", "L", "RGBA", "P", "1", "I;16", "CMYK"]))
    kind = draw(st.sampled_from(["PNG", "JPEG"]))
    if kind == "JPEG" and mode in ("RGBA", "P", "1", "I;16"):
        mode = "RGB"
    if kind == "PNG" and mode == "CMYK":
        mode = "RGB"
    size = draw(st.sampled_from([(9, 9), (1, 1), (1, 300), (40, 8)]))
    Image.new(mode, size).save(buffer, kind)
    content = buffer.getvalue()
    return content if draw(st.booleans()) else cut_or_flipped(draw, content)


def harm_folder(draw, root: bytes) -> None:
    """Something that does not belong there, at a random place of a folder of pictures."""
    folders = sorted(where for where, _, _ in os.walk(root))
    place = os.path.join(draw(st.sampled_from(folders)), draw(NAMES) + draw(st.sampled_from([b"", b".png", b".JPG"])))
    if os.path.lexists(place):
        if os.path.islink(place) or not os.path.isdir(place):
            os.unlink(place)
        else:
            shutil.rmtree(place)
        return
    what = draw(st.sampled_from(["picture", "bytes", "folder", "class", "fifo", "loop", "nowhere", "out", "inside"]))
    if what in ("picture", "bytes"):
        with open(place, "wb") as file:
            file.write(picture(draw) if what == "picture" else draw(st.binary(max_size=30)))
    elif what in ("folder", "class"):
        os.mkdir(place)
        if what == "class":
            with open(os.path.join(place, b"0.png"), "wb") as file:
                file.write(picture(draw))
    elif what == "fifo":
        os.mkfifo(place)
    else:
        inside = os.path.join(root, b"train")
        os.symlink({"loop": place, "nowhere": b"nowhere", "out": b"/etc", "inside": inside}[what], place)


@pytest.mark.filterwarnings("ignore")
def test_folders_of_pictures(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KDBENCH_DATA", str(tmp_path))
    monkeypatch.setattr(fit, "check", lambda *_: None)
    tally, plan = Tally(), own_data_plan({"source": "imagefolder", "folder": "pets", "size": 8})
    buffer = io.BytesIO()
    Image.new("RGB", (9, 9), (20, 30, 40)).save(buffer, "PNG")

    @fuzz
    @given(st.data())
    def case(data):
        shutil.rmtree(b"pets", ignore_errors=True)
        for part, count in (("train", 6), ("test", 2)):
            for name in ("cat", "dog"):
                place = Path("pets", part, name)
                place.mkdir(parents=True)
                for i in range(count):
                    (place / f"{i}.png").write_bytes(buffer.getvalue())
        for _ in range(data.draw(st.integers(1, 4))):
            harm_folder(data.draw, os.fsencode(tmp_path / "pets"))
        pack_or_refuse(plan, tally, r"pets|data set .digits.")

    case()
    tally.close("pictures")
