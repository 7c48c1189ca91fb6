"""Test samples that belong together: what sources say of them, the bootstrap over them, and where it is printed."""

from __future__ import annotations

import dataclasses
import io
import itertools
import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import recompute
from conftest import TINY, run_jobs, write_tiny
from test_draws import GLYPHS, changes
from test_tables import FACTS, make, row

from kdbench import cli
from kdbench.data.packed import load_packed
from kdbench.data.prepare import prepare_data
from kdbench.data.sources import glyphs
from kdbench.plan.jobs import make_plan
from kdbench.plan.paths import data_folder, reference_folder
from kdbench.plan.suite import load_suite
from kdbench.report import stats, tables
from kdbench.report.block import BlockReport, block_reports
from kdbench.report.page import html, markdown
from kdbench.report.paper import fragments
from kdbench.results.today import Today
from kdbench.run.data import run_data
from kdbench.run.measure import run_similarity
from kdbench.types import DataSpec, KdbenchError

SPEC = DataSpec("glyphs", "glyphs", {key: value for key, value in GLYPHS.items() if key != "source"})

# --------------------------------------------------------------------------------------------------------- of sources


def no_groups(patched):
    """Make the source what it was before it told the faces."""
    real = glyphs.build
    patched.setattr(glyphs, "build", lambda **args: dataclasses.replace(real(**args), groups=None))


def test_glyphs_of_one_face_and_class_are_one_picture_where_nothing_distorts_them():
    raw = glyphs.build(classes=3, train=3, val=3, test=90, size=16, points=8, distortion=0, noise=0, jitter=0)
    word, faces = raw.groups
    assert word == "faces" and set(faces) == set(glyphs.FACES["test"]) and len(faces) == 90
    seen: dict[tuple, set[bytes]] = {}
    for image, label, face in zip(raw.modalities["raster"]["test"], raw.labels["test"], faces, strict=True):
        seen.setdefault((label, face), set()).add(image.tobytes())
    assert len(seen) > 20 and {len(pictures) for pictures in seen.values()} == {1}
    for label in range(3):
        pictures = [pictures for (own, _), pictures in seen.items() if own == label]
        assert len(set.union(*pictures)) == len(pictures), "and no two faces draw it alike"


def test_another_draw_of_training_samples_has_the_same_groups():
    assert glyphs.build(**SPEC.args).groups == glyphs.build(**SPEC.args, draw=3).groups


def test_groups_are_packed_and_in_no_checksum(tmp_path, monkeypatch):
    """Data that were packed before the source told its groups stay what they are until their folder is deleted."""
    with monkeypatch.context() as patched:
        no_groups(patched)
        before = prepare_data(SPEC, tmp_path / "pack").meta
    assert load_packed(tmp_path / "pack", verify=True).groups() is None
    assert prepare_data(SPEC, tmp_path / "pack").meta == before
    shutil.rmtree(tmp_path / "pack")
    packed = prepare_data(SPEC, tmp_path / "pack")
    assert {**packed.meta, "groups": None} == {**before, "groups": None} and packed.meta["sha256"] == before["sha256"]
    found, (word, faces) = load_packed(tmp_path / "pack", verify=True).groups(), glyphs.build(**SPEC.args).groups
    assert found.word == word and [found.names[code] for code in found.codes] == faces
    assert found.sizes == {face: faces.count(face) for face in sorted(set(faces))}


def test_a_damaged_array_of_groups_is_named_and_rebuilt(tmp_path):
    path = tmp_path / "groups-test.npy"
    whole = prepare_data(SPEC, tmp_path).groups().codes.copy()
    for harm in (np.zeros(3, np.int64), whole.astype(np.uint8), None):
        np.save(path, harm) if harm is not None else path.unlink()
        with pytest.raises(KdbenchError, match=r"groups-test\.npy is damaged.*delete the folder"):
            load_packed(tmp_path)
        assert np.array_equal(prepare_data(SPEC, tmp_path).groups().codes, whole)
    np.save(path, whole[::-1])
    with pytest.raises(KdbenchError, match=r"groups-test\.npy is damaged: its checksum"):
        load_packed(tmp_path, verify=True)


def test_groups_of_another_number_of_samples_are_refused(tmp_path, monkeypatch):
    raw = glyphs.build(**SPEC.args)
    for wrong, told in (
        (dataclasses.replace(raw, groups=("faces", ["a"] * 199)), "groups of 199 test samples, and there are 200"),
        (
            dataclasses.replace(raw, modalities={"groups": raw.modalities["raster"]}, kinds={"groups": "image"}),
            "'groups' cannot be a modality's name",
        ),
    ):
        monkeypatch.setattr(glyphs, "build", lambda wrong=wrong, **_: wrong)
        with pytest.raises(KdbenchError, match=told):
            prepare_data(SPEC, tmp_path)


# ------------------------------------------------------------------------------------------------------ the statistics


@pytest.mark.parametrize("groups", [3, 4, 5])
@pytest.mark.parametrize("confidence", [0.95, 0.8, 0.3])
def test_the_bootstrap_is_that_of_all_draws_there_are(groups, confidence):
    """Each end has its share of all G^G equally likely draws below it, but for the error of ten thousand."""
    rng = np.random.default_rng(groups)
    differences, sizes = rng.normal(size=groups), rng.integers(1, 90, groups)
    draws = np.array(list(itertools.product(range(groups), repeat=groups)))
    every = np.average(differences[draws], axis=1, weights=sizes[draws])
    ends = stats.group_bootstrap(differences[None], sizes, confidence)
    for (end,), share in zip(ends, ((1 - confidence) / 2, (1 + confidence) / 2), strict=True):
        error = 5 * (share * (1 - share) / 10_000) ** 0.5
        assert (every < end - 1e-9).mean() - error <= share <= (every < end + 1e-9).mean() + error


def test_the_larger_group_counts_for_more():
    differences = np.array([[0.0, 0.0, 0.0, 10.0]])
    (low,), (high,) = stats.group_bootstrap(differences, np.array([10, 10, 10, 300]))
    (even_low,), (even_high,) = stats.group_bootstrap(differences, np.array([10, 10, 10, 10]))
    assert low == even_low == 0, "with a share of (3/4)^4 the large group is in no draw"
    assert even_high == 7.5 and high == pytest.approx(10 * 900 / 910)


def test_methods_meet_the_same_draws_and_a_shift_is_a_shift():
    rng = np.random.default_rng(0)
    x, sizes = rng.normal(size=(3, 9)), rng.integers(500, 600, 9)
    low, high = stats.group_bootstrap(np.concatenate([x, x + 2, -x]), sizes)
    assert low[3:6] == pytest.approx(low[:3] + 2) and high[3:6] == pytest.approx(high[:3] + 2)
    assert low[6:] == pytest.approx(-high[:3], abs=0.1)
    alone = stats.group_bootstrap(x[:1], sizes)
    assert (alone[0][0], alone[1][0]) == pytest.approx((low[0], high[0]))


def test_where_there_is_no_interval():
    for differences, sizes in (
        ([[1.0, 2.0]], [5, 5]),
        ([[1.0]], [5]),
        ([[2.0, 2.0, 2.0]], [5, 6, 7]),
        ([[1.0, np.nan, 3.0]], [5, 6, 7]),
    ):
        low, high = stats.group_bootstrap(np.array(differences), np.array(sizes))
        assert np.isnan([*low, *high]).all()
    assert stats.group_bootstrap(np.empty((0, 4)), np.array([1, 2, 3, 4]))[0].shape == (0,)


SIZES = {"a": 40, "b": 10, "c": 25, "d": 60, "e": 5}


def grouped(frame, sizes=SIZES):
    """The frame with accuracies by group that fit its own."""
    rng = np.random.default_rng(5)
    of_runs = []
    for run in frame.to_dict("records"):
        parts = rng.normal(0, 4, len(sizes))
        parts += run["test"] - np.average(parts, weights=list(sizes.values()))
        of_runs.append(dict(zip(sizes, parts.tolist(), strict=True)) if run["status"] == "finished" else None)
    return frame.assign(test_by_group=of_runs)


def by_hand(frame, baseline, method, pairs, seeds, sizes=SIZES):
    """The interval over groups of a mean over these pairs and seeds, run by run."""
    found = {(r["pair"], r["method"], r["seed"]): r["test_by_group"] for r in frame.to_dict("records")}
    total = dict.fromkeys(sizes, 0.0)
    for pair, seed in itertools.product(pairs, seeds):
        for group in sizes:
            own, base = found[pair, method, seed][group], found[pair, baseline, seed][group]
            total[group] += (own - base) / len(pairs) / len(seeds)
    low, high = stats.group_bootstrap(np.array([list(total.values())]), np.array(list(sizes.values())))
    return [low[0], high[0]]


def test_the_interval_is_over_the_pairs_and_seeds_of_the_verdict():
    _, block, frame = make(pairs=3, methods=("scratch", "kd", "ofa", "uhkd"), seeds=3)
    first, second, third = (pair.id for pair in block.pairs)
    frame.loc[frame["pair"] == third, "teacher_val"] = 50.0  # a weak teacher, so no headline pair
    unserved = (frame["pair"] == first) & (frame["method"] == "ofa")
    frame.loc[unserved, ["status", "test"]] = ["n/a", np.nan]
    lost = (frame["pair"] == second) & (frame["method"] == "uhkd") & (frame["seed"] == 1)
    frame.loc[lost, ["status", "test"]] = ["diverged", np.nan]
    frame = grouped(frame)
    found = stats.group_intervals(frame, "scratch", ["kd", "ofa", "uhkd"], SIZES)
    for method, pairs, seeds in (
        ("kd", [first, second], [0, 1, 2]),
        ("ofa", [second], [0, 1, 2]),
        ("uhkd", [first, second], [0, 2]),
    ):
        assert found.loc[method].tolist() == pytest.approx(by_hand(frame, "scratch", method, pairs, seeds))
        assert np.isfinite(found.loc[method]).all()
    one = frame[frame["seed"] == 0]
    interval = stats.group_intervals(one, "kd", ["scratch"], SIZES).loc["scratch"]
    assert interval.tolist() == pytest.approx(by_hand(one, "kd", "scratch", [first, second], [0]))


def test_a_run_without_its_groups_leaves_no_interval():
    _, _, frame = make(pairs=1, methods=("scratch", "kd", "ofa"), seeds=2)
    frame = grouped(frame)
    frame["test_by_group"] = frame["test_by_group"].where((frame["method"] != "ofa") | (frame["seed"] != 1), None)
    found = stats.group_intervals(frame, "scratch", ["kd", "ofa"], SIZES)
    assert found.loc["ofa"].isna().all() and found.loc["kd"].notna().all()
    frame.loc[frame["method"] == "scratch", "status"] = "missing"
    assert stats.group_intervals(frame, "scratch", ["kd", "ofa"], SIZES).isna().all(axis=None)


def test_a_group_counts_in_the_seeds_whose_test_set_has_it():
    _, _, frame = make(pairs=1, methods=("scratch", "kd"), seeds=2)
    of_seed = {0: ("a", "b", "c"), 1: ("c", "d", "e")}
    frame = grouped(frame)
    frame["test_by_group"] = [
        {group: found[group] for group in of_seed[seed]}
        for found, seed in zip(frame["test_by_group"], frame["seed"], strict=True)
    ]
    delta = {group: [] for group in SIZES}
    for own, base in zip(*(frame.loc[frame["method"] == m, "test_by_group"] for m in ("kd", "scratch")), strict=True):
        for group in own:
            delta[group].append(own[group] - base[group])
    means = np.array([[np.mean(delta[group]) for group in SIZES]])
    (low,), (high,) = stats.group_bootstrap(means, np.array(list(SIZES.values())))
    assert stats.group_intervals(frame, "scratch", ["kd"], SIZES).loc["kd"].tolist() == [low, high]


# ------------------------------------------------------------------------------------------------------------- printed


def report(also=("groups",), sizes=SIZES, word="faces", **of_suite):
    suite, block, frame = make(**{"pairs": 2, "methods": ("scratch", "kd", "ofa"), "seeds": 3} | of_suite)
    block = dataclasses.replace(block, also=also)
    suite = dataclasses.replace(suite, blocks=(block,))
    facts = {**FACTS, "groups": {"word": word, "sizes": sizes} if sizes else {}}
    return BlockReport(suite, block, grouped(frame, sizes) if sizes else frame, **facts)


def written(own):
    page = tables.describe(own.suite, [own])
    return {"md": markdown(page), "html": html(page), "csv": tables.csv(own.suite, [own]), **fragments(own)}


def test_the_verdict_has_the_interval_in_all_its_forms():
    own = report()
    texts = written(own)
    low, high = own.verdicts["kd"].loc["ofa", ["groups_low", "groups_high"]]
    inside = f"{low:+.1f}, {high:+.1f}".replace("-", "−")
    assert row(texts["md"], "OFA", "### Verdict against KD")[1] == rf"\[{inside}\]"
    assert r"\[95 % bootstrap<br>over 5 faces\]" in texts["md"] and "[95 % bootstrap<br>over 5 faces]" in texts["html"]
    assert f"[{inside}]" in texts["html"]
    tex = texts["main-verdict"]
    assert f"{{[}}{inside}{{]}}".replace("−", "$-$") in tex and r"over 5 faces{]}" in tex
    assert "Second brackets: percentile bootstrap over whole faces." in tex
    note = "5 faces are few: the bootstrap over them is rough, and too narrow rather than too wide."
    assert texts["md"].count(note) == 2 and tex.count(note) == 1, "below each table"
    lines = pd.read_csv(io.StringIO(texts["csv"]))
    line = lines[(lines["line"] == "verdict") & (lines["baseline"] == "kd") & (lines["method"] == "ofa")]
    assert line[["verdict_groups_low", "verdict_groups_high"]].iloc[0].tolist() == pytest.approx([low, high])


def test_without_the_word_nothing_changes():
    plain = report(also=(), sizes={})
    assert written(plain) == written(report(also=()))
    assert "groups" not in "".join(written(plain).values())


def test_ten_groups_need_no_warning_and_two_give_no_interval():
    many = {f"speaker {i}": 10 + i for i in range(10)}
    text = written(report(sizes=many, word="speakers"))["md"]
    assert r"over 10 speakers\]" in text and "are few" not in text
    own = report(sizes={"a": 10, "b": 20})
    text = written(own)["md"]
    assert row(text, "OFA", "### Verdict against KD")[1] == "—" and "2 faces are too few for a bootstrap" in text


def test_data_without_groups_say_so_once_below_each_verdict():
    texts = written(report(sizes={}))
    told = "No bootstrap over groups of test samples: the data do not say which test samples belong together"
    assert texts["md"].count(told) == 2 and texts["main-verdict"].count(told) == 1
    assert "bootstrap<br>over" not in texts["md"] and "groups" not in texts["csv"]


# ------------------------------------------------------------------------------------------------------- in references


def frozen_by_hand(own):
    """The files that recompute.py reads of a suite, in the working folder."""
    for folder in ("config", "results/reference/made", "tables/reference"):
        Path(folder).mkdir(parents=True)
    Path("config/made.yaml").write_text("models: {}\n")
    runs = own.frame.assign(block="main", budget=1.0, gradient_shares=None, notes=None)
    runs["test_by_group"] = [json.dumps(found) if found else None for found in runs["test_by_group"]]
    runs.to_csv("results/reference/made/runs.csv", index=False)
    Path("results/reference/made/about.json").write_text(json.dumps({"blocks": {"main": {"groups": own.groups}}}))
    texts = written(own)
    Path("tables/reference/made.csv").write_text(texts["csv"])
    Path("tables/reference/made.md").write_text(texts["md"])


def test_the_script_that_shares_nothing_finds_the_same_intervals(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    own = report(pairs=3, methods=("scratch", "kd", "ofa", "uhkd"), layout="pairs")
    own.frame.loc[(own.frame["pair"] == own.block.pairs[0].id) & (own.frame["method"] == "ofa"), "status"] = "n/a"
    frozen_by_hand(own)
    count, wrong = recompute.recompute("made")
    assert not wrong and count > 200
    path, ends = Path("tables/reference/made.csv"), own.verdicts["kd"].loc["uhkd", ["groups_low", "groups_high"]]
    text = path.read_text()
    for end in ends:
        assert text.count(repr(float(end))) == 1
        text = text.replace(repr(float(end)), repr(float(end) + 0.3))
    path.write_text(text)
    _, wrong = recompute.recompute("made")
    assert len(wrong) == 4, "and the page prints others"
    for fault, end in zip(wrong, ("low", "high"), strict=False):
        assert f"uhkd against kd: verdict_groups_{end}" in fault


SUITE = changes(train=400, test=400)
SUITE["recipes"] = {"teacher": {"lr": 2e-2, "steps": 60, "batch_size": 50}, "student": TINY["recipes"]["student"]}
SUITE["recipes"]["student"] = {"lr": 1e-3, "steps": 4, "batch_size": 50}
SUITE["blocks"]["main"]["table"] = {"also": ["groups"]}


@pytest.mark.slow
def test_groups_are_shown_once_data_are_packed_again_and_a_reference_keeps_them(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_tiny(tmp_path, **SUITE)
    plan = make_plan(load_suite("tiny"))
    with monkeypatch.context() as patched:
        no_groups(patched)
        run_data(plan, plan.of("data")[0])
    run_jobs(plan, "teacher")
    run_jobs(plan, "cohort")
    (before,) = block_reports(Today(plan))
    assert before.groups == {} and "test_by_group" not in before.frame
    shutil.rmtree(data_folder(plan.suite, "glyphs", 0))
    run_data(plan, plan.of("data")[0])

    (own,) = block_reports(Today(plan))
    assert set(own.frame["status"]) == {"finished"}, "their results count as before"
    faces = own.groups["sizes"]
    assert set(faces) == set(glyphs.FACES["test"]) and sum(faces.values()) == 400
    for run in own.frame.to_dict("records"):
        mean = np.average([run["test_by_group"][face] for face in faces], weights=list(faces.values()))
        assert mean == pytest.approx(run["test"], abs=0.6), "predictions lie in half precision"
    assert own.verdicts["scratch"]["groups_low"].notna().all()

    for job in plan.of("stages"):
        run_similarity(plan, job)
    assert cli.main(["reference", "tiny"]) == 0
    assert "test_by_group" in (reference_folder(plan.suite) / "runs.csv").read_text().splitlines()[0]
    pages = {path: path.read_bytes() for path in Path("tables/reference").rglob("*") if path.is_file()}
    for folder in ("results/tiny", "results/data", "tables"):
        shutil.rmtree(folder)
    assert cli.main(["table", "tiny", "--reference"]) == 0
    assert {path: path.read_bytes() for path in Path("tables/reference").rglob("*") if path.is_file()} == pages
    count, wrong = recompute.recompute("tiny")
    assert not wrong and count > 50 and b"bootstrap" in pages[Path("tables/reference/tiny.md")]
