"""CREMA-D and AVE through real decoding, on small clips that are written here, and the suites of FD-CMKD's tables."""

from __future__ import annotations

import shutil
import sys
import wave
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from clips import ACTORS, CATEGORIES, EMOTIONS, grey, tone, write_ave, write_crema_d, write_sound, write_video
from conftest import REPOSITORY, run_jobs
from scipy.signal import resample_poly

from kdbench import cli
from kdbench.data.packed import SPLITS
from kdbench.data.sources import _media, ave, cremad
from kdbench.data.sources._media import Clip
from kdbench.plan.jobs import make_plan
from kdbench.plan.suite import load_suite
from kdbench.results.record import read_run
from kdbench.run.data import run_data
from kdbench.run.outputs import run_table
from kdbench.terminal import published
from kdbench.train.batches import Batches
from kdbench.types import KdbenchError, Recipe

ARGS = {"val_share": 0.2}
SUITES = {"fdcmkd-crema-d": ("crema-d", 14), "fdcmkd-ave": ("ave", 4)}
"""Data set, and the batch of which its small training set holds two."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    pytest.importorskip("av", reason="PyAV is not installed: pip install 'kdbench[media]'")
    place = tmp_path_factory.mktemp("data")
    write_crema_d(place / "crema-d")
    write_ave(place / "ave")
    return place


@pytest.fixture(scope="module")
def crema_d(folder):
    return cremad.build(**ARGS, data_dir=folder)


@pytest.fixture(scope="module")
def events(folder):
    return ave.build(data_dir=folder)


@pytest.fixture
def broken(folder, tmp_path):
    """A copy of both folders to spoil."""
    return Path(shutil.copytree(folder, tmp_path / "data"))


def seconds_shown(raw, split):
    """Of which second each frame is, by its grey level."""
    levels = raw.modalities["visual"][split]
    assert (levels == levels[:, :1, :1, :1]).all()
    darkest = np.array([grey(label, 0) for label in raw.labels[split]])
    return ((levels[:, 0, 0, 0] - darkest) / (grey(0, 1) - grey(0, 0))).tolist()


# ---------------------------------------------------------------------------------------------------------- spectrogram


def by_hand(samples):
    """Power density of Tukey windows of 512 samples, 159 apart, without their means; its logarithm, standardised."""
    repeated = np.concatenate([samples] * 10)[:160_000]
    starts = np.arange(0, 160_000 - 512 + 1, 512 - 353)
    pieces = repeated[starts[:, None] + np.arange(512)]
    ramp = (1 - np.cos(2 * np.pi * np.arange(64) / 64 / 2)) / 2  # a quarter of the window, half of it at each side
    window = np.concatenate([ramp, np.ones(512 - 128), np.concatenate([[1.0], ramp[:0:-1]])])
    power = np.abs(np.fft.rfft((pieces - pieces.mean(axis=1, keepdims=True)) * window)) ** 2
    power /= 22_050 * (window**2).sum()
    power[:, 1:-1] *= 2
    logarithm = np.log(power.T + 1e-7)
    return (logarithm - logarithm.mean()) / logarithm.std()


def test_a_spectrogram_is_the_released_codes():
    samples = np.random.default_rng(0).normal(0, 0.1, 30_000)
    found = _media.log_spectrogram(samples)
    assert found.shape == (257, 1004) == (_media.BINS, _media.COLUMNS)
    assert np.allclose(found, by_hand(samples), atol=1e-6)
    assert abs(found.mean()) < 1e-9 and found.std() == pytest.approx(1)
    loud = np.tile([3.0, -3.0, 0.2], 10_000)
    assert np.array_equal(_media.log_spectrogram(loud), _media.log_spectrogram(loud.clip(-1, 1)))
    assert np.isfinite(_media.log_spectrogram(np.zeros(20_000))).all(), "silence"


def test_levels_are_exact_to_half_a_step_and_end_where_they_should():
    values = np.linspace(_media.LOWEST, _media.HIGHEST, 1000)
    step = (_media.HIGHEST - _media.LOWEST) / 255
    assert np.abs(_media.levels(values) * step + _media.LOWEST - values).max() <= step / 2 + 1e-9
    assert _media.levels(np.array([-9.0, 99.0])).tolist() == [0, 255]


# -------------------------------------------------------------------------------------------------------------- CREMA-D


def test_the_released_split_is_that_of_the_lists(folder, crema_d):
    lines = {part: (folder / f"crema-d/{part}.csv").read_text("utf-8-sig").split() for part in ("train", "test")}
    listed = {part: {line.split(",")[0] for line in some} for part, some in lines.items()}
    assert set(crema_d.names["test"]) == listed["test"] and len(crema_d.names["test"]) == 6
    assert {part: len(crema_d.names[part]) for part in SPLITS} == {"train": 24, "val": 6, "test": 6}
    assert set(crema_d.names["train"]) | set(crema_d.names["val"]) == listed["train"]
    assert crema_d.class_names == ["neutral", "happy", "sad", "fear", "disgust", "anger"]
    for part in SPLITS:
        assert [EMOTIONS[label] for label in crema_d.labels[part]] == [name[9:12] for name in crema_d.names[part]]
    assert Counter(crema_d.labels["val"].tolist()) == dict.fromkeys(range(6), 1)
    assert crema_d.groups == ("actors", [name[:4] for name in crema_d.names["test"]])
    told = " ".join(crema_d.notes)
    assert "6 training clips are validation here: 6 of 6 test actors are in training too" in told
    assert "The lists have 30 and 6 clips; released: 6,698 and 744." in told


def test_frames_are_of_whole_seconds_and_evaluation_reads_the_middle_one(folder, crema_d):
    for part in ("val", "test"):
        assert seconds_shown(crema_d, part) == [1] * len(crema_d.names[part])  # of two, and of three
    shown = seconds_shown(crema_d, "train")
    assert set(shown) == {0, 1, 2}
    assert all(second < 2 + int(name[:4]) % 2 for name, second in zip(crema_d.names["train"], shown, strict=True))
    again = [
        [_media.frame(cremad._clip(folder / "crema-d", n), draw) for n in crema_d.names["train"]] for draw in (0, 1)
    ]
    assert np.array_equal(again[0], crema_d.modalities["visual"]["train"])
    same = [np.array_equal(*pair) for pair in zip(*again, strict=True)]
    assert set(same) == {True, False}


def test_another_draw_has_another_validation_and_the_same_test_set(folder):
    first, second = (cremad._split(folder / "crema-d", "released", 0.2, draw)[0] for draw in (0, 1))
    assert first["val"] != second["val"] and first["test"] == second["test"]


def test_sound_is_that_of_the_file_at_22050_hertz(folder, crema_d):
    assert crema_d.kinds == {"visual": "image", "audio": "spectrogram"}
    for name, found in zip(crema_d.names["test"], crema_d.modalities["audio"]["test"], strict=True):
        with wave.open(str(folder / f"crema-d/AudioWAV/{name}.wav")) as file:
            samples = np.frombuffer(file.readframes(file.getnframes()), "<i2") / 32768
        expected = by_hand(resample_poly(samples, 441, 320))
        assert np.abs(found[:, :, 0] * (24 / 255) - 4 - expected.clip(-4, 20)).max() < 0.048
        assert found[:, :, 0].mean(axis=1).argmax() == 10 * (EMOTIONS.index(name[9:12]) + 1)


def test_a_split_by_actors_has_nobody_in_two_parts(folder):
    place = folder / "crema-d"
    parts = {}
    for draw in range(4):
        names, notes = cremad._split(place, "actors", 0.2, draw)
        actors = {part: {name[:4] for name in some} for part, some in names.items()}
        assert [len(actors[part]) for part in SPLITS] == [4, 1, 1]
        assert sum(map(len, names.values())) == 36 == sum(6 * len(some) for some in actors.values())
        assert set.union(*actors.values()) == {str(actor) for actor in ACTORS}
        assert notes == ["The split is by actors: 4 in training, 1 in validation, 1 in test, nobody in two."]
        parts[draw] = names
    assert parts[0] == cremad._split(place, "actors", 0.2, 0)[0]
    assert len({tuple(names["test"]) for names in parts.values()}) == 1, "the same test set for every draw"
    assert len({tuple(names["val"]) for names in parts.values()}) > 1
    files = cremad.source_files({"split": "actors"}, folder)
    assert len(files) == 72 and not any(path.suffix == ".csv" for path in files), "lists are not needed"
    assert len(cremad.source_files({}, folder)) == 74


# ------------------------------------------------------------------------------------------------------------------ AVE


def test_events_are_read_from_their_start_to_their_end(events):
    assert events.class_names == sorted(CATEGORIES) and {part: len(events.names[part]) for part in SPLITS} == {
        "train": 9,
        "val": 3,
        "test": 6,
    }
    for name, second in zip(events.names["train"], seconds_shown(events, "train"), strict=True):
        assert int(name[-1]) <= second < 3, "training event j begins at second j"
    for part in ("val", "test"):
        assert seconds_shown(events, part) == [1] * len(events.names[part]), "one without a length is its whole video"
    for name, found in zip(events.names["train"], events.modalities["audio"]["train"], strict=True):
        left = tone(name, sorted(CATEGORIES).index(CATEGORIES[int(name[-2])]), 3, 44_100)[
            44_100 * int(name[-1]) :
        ].astype(float)
        mono = (left - (left.astype(int) // 3)) / 2 / 32768
        expected = by_hand(resample_poly(mono, 1, 2))
        assert np.abs(found[:, :, 0] * (24 / 255) - 4 - expected.clip(-4, 20)).max() < 0.048


def test_codecs_with_losses_are_read_too(folder, tmp_path):
    """As YouTube's videos are: H.264 or MPEG-4, and AAC."""
    path = tmp_path / "a.mp4"
    write_video(path, 2, 3, "mpeg4", tone("a", 2, 3, 44_100), "aac")
    clip = Clip("a", path, path, 2)
    assert abs(int(_media.frame(clip, None).mean()) - grey(2, 1)) < 12
    samples = _media.sound(clip)
    assert abs(len(samples) - 3 * 22_050) < 1100 and _media.log_spectrogram(samples).mean(axis=1).argmax() == 30


def test_the_first_line_of_a_video_counts(broken):
    lines = (broken / "ave/trainSet.txt").read_text()
    again = "Banjo&train00&good&0&1\n"
    (broken / "ave/trainSet.txt").write_text(lines + again + "Banjo&test00&good&0&3\n")
    raw = ave.build(data_dir=broken)
    assert len(raw.names["train"]) == 10
    assert raw.class_names[raw.labels["train"][raw.names["train"].index("train00")]] == "Church bell"
    told = " ".join(raw.notes)
    assert "1 train lines of videos that an earlier line names are left out." in told
    assert "1 videos are in train and in test (such as test00)." in told


# -------------------------------------------------------------------------------------------------------------- refusal


@pytest.mark.parametrize(("source", "place"), [(cremad, "crema-d/AudioWAV"), (ave, "ave/AVE")])
def test_a_folder_that_lacks_files_is_refused_with_a_list(source, place, broken):
    lacking = sorted((broken / place).iterdir())[:12]
    for path in lacking:
        path.unlink()
    with pytest.raises(KdbenchError) as error:
        source.build(data_dir=broken)
    first, then = (f"{place.split('/')[1]}/{path.name}" for path in lacking[9:11])
    assert "lacks 12 files: " in str(error.value) and str(error.value).endswith(f"{first} and 2 more")
    assert then not in str(error.value)
    with pytest.raises(KdbenchError, match="lacks 12 files"):
        source.source_files({}, broken)
    with pytest.raises(KdbenchError, match="no folder"):
        source.build(data_dir=broken / "elsewhere")


def test_clips_that_cannot_be_used_are_named_with_the_reason(broken):
    place, names = broken / "crema-d", [f"{actor}_DFA_ANG_XX" for actor in (1001, 1002, 1003, 1004)]
    (place / f"VideoFlash/{names[0]}.flv").write_bytes(b"no video at all" * 100)
    (place / f"AudioWAV/{names[1]}.wav").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    write_sound(place / f"AudioWAV/{names[2]}.wav", np.zeros(8000, np.int16))
    shutil.copyfile(place / f"AudioWAV/{names[3]}.wav", place / f"VideoFlash/{names[3]}.flv")
    lines = (place / "train.csv").read_text("utf-8-sig").split()
    (place / "train.csv").write_text("\n".join(line for line in lines if "ANG" in line or "NEU" in line))
    with pytest.raises(KdbenchError) as error:
        cremad.build(**ARGS, data_dir=broken)
    told = str(error.value)
    assert told.startswith("cremad: 4 clips cannot be used: ")
    reasons = "flv: ", "wav: a pointer of Git LFS", "wav: 0.50 s of sound", "flv: no frame"
    for name, reason in zip(names, reasons, strict=True):
        assert f"{name} ({reason}" in told


@pytest.mark.parametrize(
    ("file", "line", "told"),
    [
        ("crema-d/train.csv", "1001_DFA_ANG_XX,SAD", r"cremad: line 31 of .*train\.csv is '1001_DFA_ANG_XX,SAD'"),
        ("crema-d/train.csv", "1001_DFA_ANG_XX", "expected a clip's name and its emotion, once each"),
        ("crema-d/test.csv", "1002_DFA_NEU_XX,NEU", r"1002_DFA_NEU_XX is in train\.csv and in test\.csv"),
        ("ave/testSet.txt", "Banjo&../x&good&0&3", r"ave: line 7 of .*testSet\.txt"),
        ("ave/testSet.txt", "Banjo&train00&good&3&0", "CATEGORY&VIDEO&QUALITY&START&END"),
        ("ave/testSet.txt", "Banjo", "such as Church bell"),
    ],
)
def test_a_line_that_a_list_cannot_have_is_named(file, line, told, broken):
    with (broken / file).open("a") as stream:
        stream.write(line + "\n")
    source = cremad if file.startswith("crema-d") else ave
    with pytest.raises(KdbenchError, match=told):
        source.source_files({}, broken)


def test_arguments_and_actors_that_do_not_do_are_refused(broken):
    for args, told in (
        ({"val_share": 1.0}, "val_share is 1.0"),
        ({"draw": -1}, "draw -1"),
        ({"val_share": 0.99}, "no"),
    ):
        with pytest.raises(KdbenchError, match=f"cremad: .*{told}"):
            cremad.build(**args, data_dir=broken)
    with pytest.raises(KdbenchError, match="draw is -1"):
        ave.build(draw=-1, data_dir=broken)
    for actor in ACTORS[2:]:
        for path in (broken / "crema-d").glob(f"*/{actor}_*"):
            path.unlink()
    with pytest.raises(KdbenchError, match="clips of 2 actors"):
        cremad.build(split="actors", data_dir=broken)
    write_sound(broken / "crema-d/AudioWAV/1001-ANG.wav", np.zeros(8000, np.int16))
    with pytest.raises(KdbenchError, match="a clip 1001-ANG; expected names such as 1001_DFA_ANG_XX"):
        cremad.source_files({"split": "actors"}, broken)


def test_without_pyav_the_error_says_what_to_install(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(KdbenchError, match=r'PyAV, which is not installed: pip install "kdbench\[media\]"'):
        cremad.build(**ARGS, data_dir=folder)


# --------------------------------------------------------------------------------------------------- packed and trained


def test_augmentation_moves_frames_and_no_spectrogram(events):
    facts = {
        name: {
            "kind": events.kinds[name],
            "shape": events.modalities[name]["test"].shape[1:],
            "mean": [0.5],
            "std": [0.2],
        }
        for name in events.modalities
    }
    pack = SimpleNamespace(
        meta={"modalities": facts, "class_names": events.class_names},
        array=lambda name, split: events.modalities[name][split],
        labels=lambda split: events.labels[split],
    )
    batches, index = Batches(pack, {"visual", "audio"}, torch.device("cpu")), torch.arange(4)
    plain = Recipe("r", lr=0.1, steps=1, batch_size=4)
    moved = Recipe("r", lr=0.1, steps=1, batch_size=4, resized_crop=0.08, flip=True, erasing=1.0)
    (before, _), (after, _) = (batches.train(index, recipe, 0, 0) for recipe in (plain, moved))
    assert torch.equal(before["audio"], after["audio"]) and not torch.equal(before["visual"], after["visual"])
    with pytest.raises(KdbenchError, match="cutmix is for images of one size"):
        batches.train(index, Recipe("r", lr=0.1, steps=1, batch_size=4, cutmix=1.0), 0, 0)


@pytest.fixture
def suite(request, folder, tmp_path, monkeypatch):
    """A suite with small networks, one seed and two steps, beside the clips."""
    name, batch = request.param, SUITES[request.param][1]
    monkeypatch.setenv("KDBENCH_DATA", str(folder))
    monkeypatch.chdir(tmp_path)
    tree = yaml.safe_load((REPOSITORY / f"config/{name}.yaml").read_text(encoding="utf-8"))
    tree["seeds"] = [0]
    tree["recipes"]["both"] |= {"epochs": 1, "batch_size": batch}
    small = {"block": "BasicBlock", "layers": [1, 1, 1, 1], "channels": [4, 8, 8, 8], "stem_width": 4}
    for model in tree["models"].values():
        model |= {"timm": "ResNet", "args": small}
    Path(f"{name}.yaml").write_text(yaml.safe_dump(tree, allow_unicode=True), encoding="utf-8")
    return load_suite(f"{name}.yaml")


@pytest.mark.slow
@pytest.mark.parametrize("suite", SUITES, indirect=True)
def test_kdbench_data_packs_clips_and_tries_the_networks_on_them(suite, capsys):
    assert cli.main(["data", f"{suite.name}.yaml", SUITES[suite.name][0]]) == 0
    assert "Training reads one frame of each clip" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("suite", ["fdcmkd-crema-d"], indirect=True)
def test_a_suite_runs_from_clips_to_a_table(suite):
    plan = make_plan(suite)
    run_data(plan, plan.of("data")[0])
    for kind in ("teacher", "cohort"):
        run_jobs(plan, kind)
    run_table(plan)
    for run in plan.runs().values():
        assert read_run(run.result)["status"] == "finished"
    text = Path("tables/fdcmkd-crema-d.md").read_text(encoding="utf-8")
    assert "FD-CMKD‡ (as coded)" in text and "Spectrograms have 256 levels" in text


# --------------------------------------------------------------------------------------------------------------- suites


@pytest.mark.parametrize("name", [*SUITES, "fdcmkd-crema-d-actors"])
def test_a_suite_is_the_papers_table(name):
    """Rows of Table 1, and the constants of the released main_unimodality.py."""
    suite = load_suite(name)
    (block,) = suite.blocks
    assert [pair.id for pair in block.pairs] == ["visual--audio", "audio--visual"]
    assert [m.id for m in block.methods] == ["scratch", "kd", "dist", "dkd", "fitnet", "pkd", "c2kd", "fdcmkd"]
    assert block.methods[-1].params["variant"] == "code"
    assert {model.timm for model in suite.models.values()} == {"resnet18"}
    recipe = suite.recipes["both"]
    assert recipe == Recipe(
        "both", lr=1e-2, optimizer="sgd", min_lr=1e-4, poly=0.9, momentum=0.9, nesterov=False, weight_decay=0.0,
        batch_size=64, epochs=100, warmup=0.0, resized_crop=0.08, flip=True,
    )  # fmt: skip
    (data,) = suite.data.values()
    assert data.draw_by_seed and data.args.get("split") == {"fdcmkd-crema-d": "released"}.get(
        name, "actors" if name.endswith("actors") else None
    )
    assert make_plan(suite).runs()


def test_published_cells_say_why_they_cannot_be_compared():
    for name, comparable in (("fdcmkd-crema-d", {("", "audio", "scratch")}), ("fdcmkd-ave", set())):
        plan = make_plan(load_suite(name))
        ours, theirs = published.runs(plan), published.values(plan.suite)
        cells = {tuple(cell) for cell in ours[published.CELL].to_numpy()}
        assert cells == {tuple(cell) for cell in theirs[published.CELL].to_numpy()}
        theirs["reason"] = published.reasons(plan, ours, theirs)
        free = theirs[theirs["reason"] == ""]
        assert {tuple(cell) for cell in free[published.CELL].to_numpy()} == comparable
    actors = make_plan(load_suite("fdcmkd-crema-d-actors"))
    reasons = published.reasons(actors, published.runs(actors), published.values(actors.suite))
    assert all("other data: crema-d" in reason for reason in reasons)
