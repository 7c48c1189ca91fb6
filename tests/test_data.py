"""Packing: what is written is whole, is what was asked for, and is found damaged when it is."""

from __future__ import annotations

import dataclasses
import json
import os
import pickle
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import tiny_plan

from kdbench.data import packed, prepare
from kdbench.data.packed import load_packed
from kdbench.data.prepare import _histogram, _statistics, prepare_data
from kdbench.data.raw import RawData, stratified_order
from kdbench.data.shallow import anchors
from kdbench.data.sources import digits, npz
from kdbench.plan.paths import data_dir
from kdbench.plan.workflow import source_state
from kdbench.run.data import run_data
from kdbench.types import DataSpec, KdbenchError

DIGITS = DataSpec("digits", "digits")
SPLITS = ("train", "val", "test")


@pytest.fixture
def folder(tmp_path):
    prepare_data(DIGITS, tmp_path / "pack")
    return tmp_path / "pack"


def toy(classes: int = 5, train: int = 200, test: int = 50, side: int = 6, channels: int = 3) -> dict[str, np.ndarray]:
    """Arrays as a file of the npz source holds them, sorted by class; every image is unique."""
    rng = np.random.default_rng(0)
    return {
        "train_images": rng.integers(0, 256, (train, side, side, channels), np.uint8),
        "train_labels": np.sort(np.arange(train) % classes).astype(np.uint8),
        "test_images": rng.integers(0, 256, (test, side, side, channels), np.uint8),
        "test_labels": np.sort(np.arange(test) % classes).astype(np.uint8),
        "class_names": np.array([f"class {i}" for i in range(classes)]),
    }


def write(folder: Path, **changes) -> Path:
    arrays = toy() | changes
    np.savez(folder / "data.npz", **{name: array for name, array in arrays.items() if array is not None})
    return folder


# ------------------------------------------------------------------------------------------------------- splits


def test_stratified_order_holds_every_class_in_every_stretch():
    labels = np.repeat(np.arange(4), [400, 200, 100, 100])
    order = stratified_order(labels)
    assert sorted(order) == list(range(800))
    for start in (0, 80, 333):
        counts = np.bincount(labels[order[start : start + 160]], minlength=4)
        assert np.abs(counts - [80, 40, 20, 20]).max() <= 2
    assert np.array_equal(order, stratified_order(labels))
    assert not np.array_equal(order, stratified_order(labels, seed=1))


def test_digits_are_1000_257_540_stratified_and_disjoint():
    raw = digits.build()
    assert [len(raw.labels[s]) for s in SPLITS] == [1000, 257, 540]
    shares = np.array([np.bincount(raw.labels[s], minlength=10) / len(raw.labels[s]) for s in SPLITS])
    assert np.ptp(shares, axis=0).max() < 0.01

    from sklearn.datasets import load_digits

    real = load_digits()
    rows = np.concatenate([raw.modalities["image"][s].reshape(-1, 64) for s in SPLITS])
    both = [np.column_stack([rows, np.concatenate([raw.labels[s] for s in SPLITS])])]
    both.append(np.column_stack([np.rint(real.data * 255 / 16), real.target]))
    one, other = (x[np.lexsort(x.T)] for x in both)
    assert np.array_equal(one, other)


def test_digits_grow_by_bilinear_interpolation():
    from PIL import Image

    small, large = (digits.build(size=size).modalities["image"]["val"][..., 0] for size in (8, 24))
    for a, b in zip(small[:20], large[:20], strict=True):
        resized = np.asarray(Image.fromarray(a).resize((24, 24), Image.Resampling.BILINEAR))
        assert np.abs(b.astype(int) - resized).max() <= 2


def test_digits_of_another_size_name_the_nearest():
    with pytest.raises(KdbenchError, match="nearest is 16"):
        digits.build(size=15)


# --------------------------------------------------------------------------------- prepare_data and load_packed


def test_what_is_loaded_is_what_was_built(folder):
    raw, pack = digits.build(), load_packed(folder, verify=True)
    assert pack.meta["counts"] == {"train": 1000, "val": 257, "test": 540}
    assert pack.meta["modalities"]["image"]["kind"] == "image"
    assert pack.meta["modalities"]["image"]["shape"] == [8, 8, 1]
    assert pack.meta["class_names"] == list("0123456789")
    for split in SPLITS:
        array = pack.array("image", split)
        assert isinstance(array, np.memmap) and not array.flags.writeable
        assert np.array_equal(array, raw.modalities["image"][split])
        assert np.array_equal(pack.labels(split), raw.labels[split]) and pack.labels(split).dtype == np.int64


def test_statistics_are_those_of_the_training_split():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 200, (2345, 5, 4, 3), np.uint8)
    images[..., 1] = 77
    mean, std = _statistics(_histogram(images))
    scaled = images.astype(np.float64) / 255
    assert np.allclose(mean, scaled.mean(axis=(0, 1, 2)), rtol=1e-12)
    assert np.allclose([std[0], std[2]], scaled.std(axis=(0, 1, 2))[[0, 2]], rtol=1e-10)
    assert std[1] == 1.0


def test_a_second_prepare_builds_nothing(folder, monkeypatch):
    monkeypatch.setattr(digits, "build", None)
    before = (folder / "meta.json").stat().st_mtime_ns
    assert prepare_data(DIGITS, folder).meta == load_packed(folder).meta
    assert (folder / "meta.json").stat().st_mtime_ns == before


def test_a_default_that_is_written_out_builds_nothing(folder, monkeypatch):
    """Two suites of which one writes it out share the folder."""
    before = prepare_data(DIGITS, folder).meta
    monkeypatch.setattr(prepare, "_write", None)
    assert prepare_data(dataclasses.replace(DIGITS, args={"size": 8}), folder).meta == before


def test_another_spec_or_other_code_builds_anew(folder, monkeypatch):
    assert prepare_data(dataclasses.replace(DIGITS, args={"size": 16}), folder).array("image", "val").shape[1:] == (
        16,
        16,
        1,
    )
    old = load_packed(folder).meta["source_version"]
    monkeypatch.setattr(prepare, "version_of", lambda part: f"{part} changed")
    assert prepare_data(DIGITS, folder).meta["source_version"] == "source digits changed" != old
    assert load_packed(folder).array("image", "val").shape[1:] == (8, 8, 1)


def test_the_identity_is_that_of_the_data(tmp_path):
    same = [prepare_data(DIGITS, tmp_path / name).meta for name in "ab"]
    other = prepare_data(dataclasses.replace(DIGITS, args={"size": 16}), tmp_path / "c").meta
    assert same[0] == same[1]
    assert same[0]["sha256"] != other["sha256"]


class Killed(BaseException):
    """Not an error that anything could catch and tidy up after."""


@pytest.mark.parametrize("survive", range(7))
def test_killed_half_way(tmp_path, monkeypatch, survive):
    """Over an older pack of the same shapes, which is the worst case: mixed with new arrays it would pass for whole."""
    folder = tmp_path / "pack"
    prepare_data(DIGITS, folder)
    real, done = os.replace, []

    def replace(source, target):
        if len(done) == survive:
            Path(source).write_bytes(Path(source).read_bytes()[:100])
            raise Killed
        done.append(target)
        real(source, target)

    newer = dataclasses.replace(DIGITS, name="newer")
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", replace)
        with pytest.raises(Killed):
            prepare_data(newer, folder)
    with pytest.raises(KdbenchError, match=r"meta\.json is missing.*run the same command again"):
        load_packed(folder)
    assert prepare_data(newer, folder).meta["name"] == "newer"
    load_packed(folder, verify=True)


def test_disk_full_is_a_sentence_and_leaves_no_data_set(tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(KdbenchError, match=r"'digits': cannot read or write .*pack: No space left on device"):
            prepare_data(DIGITS, tmp_path / "pack")
    assert [p.name for p in (tmp_path / "pack").iterdir() if p.name != ".lock"] == []
    with pytest.raises(KdbenchError):
        load_packed(tmp_path / "pack")


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(KdbenchError, match=r"cannot read or write .*file"):
        prepare_data(DIGITS, tmp_path / "file" / "pack")


def test_an_empty_folder_may_exist(tmp_path):
    assert prepare_data(DIGITS, tmp_path).meta["name"] == "digits"


def test_two_processes_build_once(tmp_path):
    code = (
        "import sys, time; from pathlib import Path; from kdbench.types import DataSpec\n"
        "from kdbench.data import prepare; from kdbench.data.sources import digits\n"
        "real = digits.build\n"
        "def build(**kw):\n"
        "    print('built', flush=True)\n"
        "    time.sleep(0.5)\n"
        "    return real(**kw)\n"
        "digits.build = build\n"
        "prepare.prepare_data(DataSpec('digits', 'digits'), Path(sys.argv[1]))\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "pack")]
    root = Path(packed.__file__).parents[2]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=root) for _ in range(2)]
    said = "".join(process.communicate(timeout=60)[0] for process in processes)
    assert [process.returncode for process in processes] == [0, 0]
    assert said == "built\n"
    load_packed(tmp_path / "pack", verify=True)


def test_a_flipped_bit_is_found_by_verify(folder):
    path = folder / "image-val.npy"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    load_packed(folder)
    with pytest.raises(KdbenchError, match=r"image-val\.npy is damaged: its checksum.*delete the folder"):
        load_packed(folder, verify=True)


@pytest.mark.parametrize(
    "harm",
    [
        lambda path: path.unlink(),
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(path.read_bytes()[:-1]),
        lambda path: path.write_bytes(path.read_bytes() + b"x"),
        lambda path: np.save(path, np.zeros((3, 3), np.uint8)),
        lambda path: path.write_bytes(pickle.dumps({})),
    ],
)
@pytest.mark.parametrize("file", ["image-train.npy", "labels-test.npy"])
def test_a_damaged_array_is_named_and_rebuilt(folder, file, harm):
    harm(folder / file)
    with pytest.raises(KdbenchError, match=f"{file} is damaged"):
        load_packed(folder)
    prepare_data(DIGITS, folder)
    load_packed(folder, verify=True)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"files": {}, "modalities": {}}', "\udcff"])
def test_a_damaged_meta_is_named_and_rebuilt(folder, text):
    (folder / "meta.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(KdbenchError, match=r"meta\.json is damaged"):
        load_packed(folder)
    prepare_data(DIGITS, folder)
    load_packed(folder, verify=True)


def test_unknown_names_meet_the_nearest(folder):
    with pytest.raises(KdbenchError, match="did you mean 'digits'"):
        prepare_data(DataSpec("d", "digitz"), folder)
    with pytest.raises(KdbenchError, match="did you mean 'image'"):
        load_packed(folder).array("imgae", "train")
    with pytest.raises(KdbenchError, match="unknown split 'valid'"):
        load_packed(folder).labels("valid")


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda raw: raw.labels.update(val=np.empty(0, np.int64)), "val split is empty"),
        (lambda raw: raw.labels.update(train=raw.labels["train"] + 1), "run from 1 to 10"),
        (lambda raw: raw.labels.update(train=np.zeros(1000, np.int64)), "classes without a training sample: 1, 2"),
        (lambda raw: raw.modalities["image"].update(test=np.zeros((540, 8, 8, 1))), "float64"),
        (lambda raw: raw.modalities["image"].update(test=np.zeros((540, 8, 9, 1), np.uint8)), "but train"),
        (lambda raw: raw.modalities["image"].update(test=np.zeros((9, 8, 8, 1), np.uint8)), "9 samples for 540"),
        (lambda raw: raw.kinds.update(image="picture"), "kind 'picture'"),
    ],
)
def test_a_source_off_the_contract_is_told(tmp_path, monkeypatch, change, sentence):
    raw = digits.build()
    change(raw)
    monkeypatch.setattr(digits, "build", lambda **_: raw)
    with pytest.raises(KdbenchError, match=sentence):
        prepare_data(DIGITS, tmp_path)


# ------------------------------------------------------------------------------------------- samples that are alike


def prepared_notes(folder: Path, monkeypatch, change) -> list[str]:
    """Notes of the digits (of which no two are alike) after a change."""
    raw = digits.build()
    change(raw, raw.modalities["image"])
    monkeypatch.setattr(digits, "build", lambda **_: raw)
    return prepare_data(DIGITS, folder).meta["notes"]


def copy(target: str, index: int, source: str, position: int):
    """Put a sample with its label in another's place."""

    def change(raw: RawData, images: dict[str, np.ndarray]) -> None:
        images[target][index] = images[source][position]
        raw.labels[target][index] = raw.labels[source][position]

    return change


def relabelled(raw: RawData, images: dict[str, np.ndarray]) -> None:
    copy("test", 7, "train", 3)(raw, images)
    copy("test", 9, "train", 3)(raw, images)
    raw.labels["test"][9] = (raw.labels["train"][3] + 1) % 10


def split_alike(raw: RawData, images: dict[str, np.ndarray]) -> None:
    images["val"][:] = 0


@pytest.mark.parametrize(
    ("change", "notes"),
    [
        (lambda raw, images: None, []),
        (
            copy("train", 5, "train", 2),
            ["train samples that repeat another: 1 of 1,000 (such as train sample 5: train sample 2)"],
        ),
        (
            copy("test", 4, "train", 8),
            ["test samples that are in train too: 1 of 540 (such as test sample 4: train sample 8)"],
        ),
        (
            copy("val", 0, "test", 1),
            ["test samples that are in val too: 1 of 540 (such as test sample 1: val sample 0)"],
        ),
        (
            relabelled,
            [
                "test samples that are in train too: 2 of 540, 1 with another label "
                "(such as test sample 7: train sample 3)",
                "test samples that repeat another: 1 of 540, 1 with another label "
                "(such as test sample 9: test sample 7)",
            ],
        ),
        (
            split_alike,
            [
                "image is the same in all 257 val samples",
                "val samples that repeat another: 256 of 257, 231 with another label "
                "(such as val sample 1: val sample 0)",
            ],
        ),
    ],
)
def test_samples_that_are_alike_are_told(tmp_path, monkeypatch, change, notes):
    own = digits.build().notes
    assert prepared_notes(tmp_path, monkeypatch, change) == own + notes


def test_a_modality_that_does_not_vary_is_told_though_the_samples_differ(tmp_path, monkeypatch):
    def change(raw: RawData, images: dict[str, np.ndarray]) -> None:
        raw.kinds["outline"] = "sequence"
        raw.modalities["outline"] = {split: np.full((len(images[split]), 1, 9, 2), 7, np.uint8) for split in SPLITS}

    notes = prepared_notes(tmp_path, monkeypatch, change)
    assert notes[-3:] == [
        f"outline is the same in all {n} {s} samples" for s, n in (("train", "1,000"), ("val", 257), ("test", 540))
    ]


def test_repeats_are_told_by_what_the_source_calls_its_images(tmp_path):
    images = toy()["test_images"].copy()
    images[3] = toy()["train_images"][4]
    (note,) = prepare_data(DataSpec("toy", "npz", {}), tmp_path / "pack", write(tmp_path, test_images=images)).meta[
        "notes"
    ]
    assert re.fullmatch(
        r"test samples that are in (train|val) too: 1 of 50 \(such as test image 3: train image 4\)", note
    )


# --------------------------------------------------------------------------------------------------- files of arrays


def test_npz_is_split_stratified_disjoint_and_shuffled(tmp_path):
    source, raw = toy(), npz.build(data_dir=write(tmp_path))
    assert [len(raw.labels[s]) for s in SPLITS] == [180, 20, 50]
    assert {s: set(np.bincount(raw.labels[s])) for s in SPLITS} == {"train": {36}, "val": {4}, "test": {10}}
    images = {s: [image.tobytes() for image in raw.modalities["image"][s]] for s in SPLITS}
    assert not set(images["train"]) & set(images["val"])
    truth = {
        image.tobytes(): label for image, label in zip(source["train_images"], source["train_labels"], strict=True)
    }
    for split in ("train", "val"):
        assert [truth[image] for image in images[split]] == raw.labels[split].tolist()
        assert (np.diff(raw.labels[split]) < 0).mean() > 0.25
    assert np.array_equal(raw.labels["val"], npz.build(data_dir=tmp_path).labels["val"])


def test_npz_limits_come_before_the_validation_split(tmp_path):
    raw = npz.build(data_dir=write(tmp_path), limit=100, test_limit=20, val_share=0.2)
    assert [len(raw.labels[s]) for s in SPLITS] == [80, 20, 20]
    assert set(np.bincount(raw.labels["train"])) == {16} and set(np.bincount(raw.labels["test"])) == {4}
    assert raw.notes == ["100 of 200 training images", "20 of 50 test images"]


def test_npz_takes_grey_images_and_numbers_for_names(tmp_path):
    source = toy(channels=1)
    grey = {name: source[name][..., 0] for name in ("train_images", "test_images")}
    raw = npz.build(data_dir=write(tmp_path, **grey, class_names=None))
    assert raw.modalities["image"]["test"].shape == (50, 6, 6, 1)
    assert raw.class_names == ["0", "1", "2", "3", "4"]


class Bomb:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("name", ["train_images", "test_labels", "class_names"])
def test_npz_never_runs_a_planted_pickle(tmp_path, name):
    fired = tmp_path / "fired"
    write(tmp_path, **{name: np.array([Bomb(fired)], dtype=object)})
    with pytest.raises(KdbenchError, match=rf"data\.npz: array {name} cannot be read"):
        npz.build(data_dir=tmp_path)
    assert not fired.exists()
    pickle.loads(pickle.dumps(Bomb(fired)))
    assert fired.exists(), "the bomb is live, so that the check above means something"


def test_npz_names_other_arrays_and_does_not_look_at_them(tmp_path):
    fired = tmp_path / "fired"
    write(tmp_path, surprise=np.array([Bomb(fired)], dtype=object), train_ids=np.arange(200), latest=np.arange(3))
    assert npz.build(data_dir=tmp_path).notes == ["arrays of data.npz that are not read: surprise, train_ids, latest"]
    assert not fired.exists()
    write(tmp_path, **{f"other{i}": np.arange(3) for i in range(9)})
    (note,) = npz.build(data_dir=tmp_path).notes
    assert note.endswith("other0, other1, other2, other3, other4 and 4 more")


@pytest.mark.parametrize(
    "name", ["valid_images", "validation_labels", "dev_x", "x_val", "X_test", "y_train", "trainX", "testLabels", "val"]
)
def test_npz_refuses_an_array_that_is_meant_as_part_of_a_split(tmp_path, name):
    sentence = (
        rf"array {name} is not read; it has train_images, .*{name}; expected train_images, .* val_images, .*rename"
    )
    with pytest.raises(KdbenchError, match=sentence):
        npz.build(data_dir=write(tmp_path, **{name: toy()["test_images"]}))


def test_npz_takes_validation_images_of_its_own(tmp_path):
    own = toy(train=30)
    val = {"val_images": own["train_images"] ^ 1, "val_labels": own["train_labels"]}
    raw = npz.build(data_dir=write(tmp_path, **val), val_share=0.5)
    assert [len(raw.labels[s]) for s in SPLITS] == [200, 30, 50]
    wanted = {image.tobytes(): label for image, label in zip(*val.values(), strict=True)}
    found = zip(raw.modalities["image"]["val"], raw.labels["val"], strict=True)
    assert {image.tobytes(): label for image, label in found} == wanted


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"val_labels": None}, "no array val_labels; it has"),
        ({"val_images": None}, "no array val_images; it has"),
        ({"val_images": toy(side=8)["test_images"]}, "train_images and val_images are of different shapes"),
        ({"val_labels": toy()["test_labels"][:-1]}, r"val_labels is uint8 \(49,\); expected 50 integers"),
        ({"val_labels": toy()["test_labels"] + 1}, "val_labels holds 5"),
        ({"val_labels": np.minimum(toy()["test_labels"], 3)}, "no val image of class class 4"),
    ],
)
def test_npz_validation_images_are_checked_like_the_others(tmp_path, changes, sentence):
    val = {"val_images": toy()["test_images"], "val_labels": toy()["test_labels"]}
    with pytest.raises(KdbenchError, match=rf"data\.npz.*{sentence}"):
        npz.build(data_dir=write(tmp_path, **val | changes))


def test_npz_takes_labels_in_a_column_and_names_in_bytes(tmp_path):
    plain = npz.build(data_dir=write(tmp_path))
    column = {name: toy()[name][:, None] for name in ("train_labels", "test_labels")}
    names = np.array([f"Käse {i}".encode() for i in range(5)])
    raw = npz.build(data_dir=write(tmp_path, **column, class_names=names))
    assert raw.class_names == [f"Käse {i}" for i in range(5)]
    assert all(np.array_equal(raw.labels[s], plain.labels[s]) for s in SPLITS)
    with pytest.raises(KdbenchError, match="class_names contains values that are not text"):
        npz.build(data_dir=write(tmp_path, class_names=np.array(["Käse".encode("latin-1"), *map(bytes, names[1:])])))


@pytest.mark.parametrize("dtype", [np.uint8, np.float32, bool])
@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (
            lambda labels: np.eye(5)[labels],
            r"\(200, 5\); expected 200 integers: these are one-hot, and .*argmax",
        ),
        (lambda labels: np.eye(5)[labels] + np.eye(5)[0], r"\(200, 5\); expected 200 integers, one class an image"),
    ],
)
def test_npz_labels_with_a_row_an_image_say_what_to_give(tmp_path, dtype, change, sentence):
    with pytest.raises(KdbenchError, match=sentence):
        npz.build(data_dir=write(tmp_path, train_labels=change(toy()["train_labels"]).astype(dtype)))


@pytest.mark.parametrize(
    ("dtype", "sentence"),
    [
        (np.float32, r"labels\.astype\(int\)"),
        (bool, r"labels\.astype\(int\)"),
        (str, r"numpy\.unique"),
        ("S3", "unique"),
    ],
)
@pytest.mark.parametrize("shape", [(200,), (200, 1)])
def test_npz_labels_of_another_type_say_what_to_give(tmp_path, dtype, sentence, shape):
    with pytest.raises(KdbenchError, match=rf"test_labels is .*expected 200 integers: .*{sentence}"):
        labels = toy(test=200)["test_labels"].astype(dtype).reshape(shape)
        npz.build(data_dir=write(tmp_path, test_images=toy(test=200)["test_images"], test_labels=labels))


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"train_images": None}, "no array train_images; it has"),
        ({"test_images": toy()["test_images"].astype(np.float32)}, "test_images is float32"),
        ({"train_images": toy()["train_images"][:, 0, 0]}, r"train_images is uint8 \(200, 3\)"),
        ({"train_images": np.zeros((0, 6, 6, 3), np.uint8)}, "train_images is uint8"),
        ({"train_images": toy()["train_images"].transpose(0, 3, 1, 2)}, "channels first"),
        ({"test_images": toy(side=8)["test_images"]}, "different shapes"),
        ({"train_labels": toy()["train_labels"][:-1]}, "train_labels is uint8 .* expected 200 integers"),
        ({"train_labels": toy()["train_labels"].astype(float)}, "train_labels is float64"),
        ({"train_labels": np.eye(5, dtype=int)[toy()["train_labels"]]}, "train_labels is int64"),
        ({"test_labels": toy()["test_labels"] + 1}, "test_labels holds 5; 5 classes are 0 to 4"),
        ({"train_labels": toy()["train_labels"].astype(int) - 1}, "train_labels holds -1"),
        ({"train_labels": np.maximum(toy()["train_labels"], 1)}, "no train image of class class 0"),
        ({"test_labels": np.minimum(toy()["test_labels"], 3)}, "no test image of class class 4"),
    ],
)
def test_npz_faults_name_file_and_array(tmp_path, changes, sentence):
    with pytest.raises(KdbenchError, match=rf"data\.npz.*{sentence}"):
        npz.build(data_dir=write(tmp_path, **changes))


@pytest.mark.parametrize(
    "harm",
    [
        lambda path: path.write_bytes(path.read_bytes()[:-500]),
        lambda path: path.write_bytes(b"not a zip at all"),
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(pickle.dumps({})),
    ],
)
def test_npz_that_is_no_zip_or_cut_off(tmp_path, harm):
    harm(write(tmp_path) / "data.npz")
    with pytest.raises(KdbenchError, match=r"data\.npz is not a complete \.npz file"):
        npz.build(data_dir=tmp_path)


def test_npz_with_a_flipped_bit_fails_its_checksum(tmp_path):
    path = write(tmp_path) / "data.npz"
    content = bytearray(path.read_bytes())
    content[2000] ^= 1
    path.write_bytes(content)
    with pytest.raises(KdbenchError, match="train_images cannot be read"):
        npz.build(data_dir=tmp_path)


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        ({"limit": 201}, "limit is 201, but there are 200"),
        ({"limit": 0}, "limit is 0"),
        ({"test_limit": 51}, "test_limit is 51"),
        ({"val_share": 1.0}, "val_share is 1.0"),
        ({"val_share": 0.001}, "leaves one split empty"),
        ({"limit": 5, "val_share": 0.2}, "4 training images do not cover all 5 classes: none of class"),
    ],
)
def test_npz_arguments_out_of_range(tmp_path, args, sentence):
    with pytest.raises(KdbenchError, match=sentence):
        npz.build(data_dir=write(tmp_path), **args)


def test_npz_file_that_is_not_there(tmp_path):
    write(tmp_path)
    with pytest.raises(KdbenchError, match=rf"no file dat\.npz in {tmp_path} .*KDBENCH_DATA.*did you mean data\.npz"):
        npz.source_files({"file": "dat.npz"}, tmp_path)
    with pytest.raises(KdbenchError, match="Set KDBENCH_DATA"):
        npz.source_files({"file": "nowhere-to-be-found.npz"}, None)
    assert npz.source_files({}, tmp_path) == [tmp_path / "data.npz"]
    assert npz.source_files({"file": str(tmp_path / "data.npz")}, None) == [tmp_path / "data.npz"]


def test_a_changed_source_file_is_packed_anew_and_a_touched_one_is_not(tmp_path):
    spec, folder = DataSpec("toy", "npz"), tmp_path / "pack"
    first = prepare_data(spec, folder, write(tmp_path)).meta
    (seen,) = first["source_files"]
    assert seen["file"] == "data.npz" and seen["size"] == (tmp_path / "data.npz").stat().st_size
    os.utime(tmp_path / "data.npz", (1, 1))
    before = (folder / "meta.json").stat().st_mtime_ns
    assert prepare_data(spec, folder, tmp_path).meta == first
    assert (folder / "meta.json").stat().st_mtime_ns == before
    write(tmp_path, train_images=255 - toy()["train_images"])
    second = prepare_data(spec, folder, tmp_path).meta
    assert second["sha256"] != first["sha256"]


@pytest.mark.skipif(
    not Path(os.environ.get("KDBENCH_DATA", "nowhere"), "cifar100.npz").is_file(),
    reason="KDBENCH_DATA has no cifar100.npz",
)
def test_real_cifar100(tmp_path):
    args = {"file": "cifar100.npz", "limit": 1000, "test_limit": 500}
    pack = prepare_data(DataSpec("cifar100", "npz", args), tmp_path, Path(os.environ["KDBENCH_DATA"]))
    assert pack.meta["counts"] == {"train": 900, "val": 100, "test": 500}
    assert len(pack.meta["class_names"]) == 100
    assert np.allclose(pack.meta["modalities"]["image"]["mean"], [0.507, 0.487, 0.441], atol=0.02)


# ---------------------------------------------------------------------------------------------------------- anchors


def test_nearest_neighbour_against_plain_numpy():
    raw, rng = digits.build(), np.random.default_rng(0)
    # Noisy enough that five neighbours would do better than one.
    for split, images in raw.modalities["image"].items():
        raw.modalities["image"][split] = np.clip(images + rng.normal(0, 130, images.shape), 0, 255).astype(np.uint8)
    train, test = (raw.modalities["image"][s].reshape(-1, 64).astype(np.float64) for s in ("train", "test"))
    nearest = ((test[:, None] - train[None]) ** 2).sum(axis=-1).argmin(axis=1)
    expected = 100 * np.mean(raw.labels["train"][nearest] == raw.labels["test"])
    found = anchors(raw.modalities, raw.labels)["image"]
    assert found["nearest neighbour"] == pytest.approx(expected, abs=0.2)
    assert 60 < found["logistic regression"] < 95
    assert (found["train_used"], found["test_used"], found["block"]) == (1000, 540, 1)


def test_anchors_are_at_chance_where_there_is_nothing_to_learn():
    rng = np.random.default_rng(0)
    images = {s: rng.integers(0, 256, (n, 4, 4, 1), np.uint8) for s, n in (("train", 6000), ("test", 2500))}
    labels = {s: np.arange(len(images[s])) % 2 for s in images}
    found = anchors({"image": images}, labels)["image"]
    assert (found["train_used"], found["test_used"]) == (5000, 2000)
    for name in ("nearest neighbour", "logistic regression"):
        assert 45 < found[name] < 55


def test_large_images_are_averaged_first():
    rng = np.random.default_rng(0)
    coarse = {s: rng.integers(0, 256, (40, 32, 32, 3), np.uint8) for s in ("train", "test")}
    labels = {s: np.arange(40) % 4 for s in coarse}
    fine = {s: images.repeat(7, axis=1).repeat(7, axis=2) for s, images in coarse.items()}
    assert fine["train"].shape == (40, 224, 224, 3)
    small, large = anchors({"image": coarse}, labels)["image"], anchors({"image": fine}, labels)["image"]
    assert (small.pop("block"), large.pop("block")) == (1, 7)
    assert small == large


def test_meta_holds_the_anchors(folder):
    stored = json.loads((folder / "meta.json").read_text())["anchors"]
    raw: RawData = digits.build()
    assert stored == anchors(raw.modalities, raw.labels)


@pytest.mark.parametrize("count", [1, 3])
def test_fewer_test_samples_than_similarities_take_are_refused_when_packed(tmp_path, count):
    spec = DataSpec("toy", "npz", {"test_limit": count})
    with pytest.raises(KdbenchError, match=f"the test split has {count} samples; .* at least 4"):
        prepare_data(spec, tmp_path / "p", write(tmp_path))
    prepare_data(DataSpec("toy", "npz", {"test_limit": 4}), tmp_path / "p", tmp_path)


@pytest.mark.parametrize(
    ("setting", "told"),
    [("nowhere", "does not exist"), ("file", "is not a folder"), ("~no-such-user/x", "does not exist")],
)
def test_a_setting_that_names_no_folder_is_refused(tmp_path, monkeypatch, setting, told):
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("")
    monkeypatch.setenv("KDBENCH_DATA", setting)
    plan = tiny_plan(data={"digits": {"source": "npz"}})
    for ask in (data_dir, lambda: source_state(plan.suite, plan.of("data")[0])):
        with pytest.raises(KdbenchError, match=f"KDBENCH_DATA={setting} {told}"):
            ask()
    embedded = tiny_plan()  # which reads nothing of it
    run_data(embedded, embedded.of("data")[0])


def test_a_setting_may_begin_with_a_tilde(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "my data").mkdir()
    monkeypatch.setenv("KDBENCH_DATA", " ~/my data ")
    assert data_dir() == tmp_path / "my data"
    monkeypatch.setenv("KDBENCH_DATA", "  ")
    assert data_dir() is None


def test_what_scikit_learn_warns_of_does_not_reach_the_user(tmp_path, recwarn):
    """One value throughout, and far too few steps to converge."""
    prepare_data(
        DataSpec("toy", "npz"), tmp_path / "p", write(tmp_path, train_images=np.zeros_like(toy()["train_images"]))
    )
    assert not [str(w.message) for w in recwarn.list]


def test_a_class_too_rare_for_the_samples_used_is_no_fault():
    rng = np.random.default_rng(0)
    labels = {"train": np.r_[np.zeros(12_000, int), 1], "test": np.array([0, 0, 0, 1])}
    images = {s: rng.integers(0, 256, (len(y), 2, 2, 1), np.uint8) for s, y in labels.items()}
    found = anchors({"image": images}, labels)["image"]
    assert found["logistic regression"] == found["nearest neighbour"] == 75.0
