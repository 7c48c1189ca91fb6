"""Folders of pictures: what is made of a picture, and what is refused."""

from __future__ import annotations

import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from kdbench.data import imagefolder
from kdbench.data.packed import prepare
from kdbench.types import DataSpec, KdbenchError

PICTURE = np.random.default_rng(0).integers(0, 256, (12, 12, 3), np.uint8)


def save(path: Path, picture: np.ndarray | Image.Image = PICTURE, **how) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    (picture if isinstance(picture, Image.Image) else Image.fromarray(picture)).save(path, **how)
    return path


@pytest.fixture
def folder(tmp_path) -> Path:
    """Two classes of ten training and two test pictures, the number of a picture being its brightness."""
    for part, count in (("train", 10), ("test", 2)):
        for c, name in enumerate(("cat", "dog")):
            for i in range(count):
                save(tmp_path / "pets" / part / name / f"{i}.png", np.full((12, 12, 3), 100 * c + i, np.uint8))
    return tmp_path / "pets"


def build(folder: Path, **args):
    return imagefolder.build(folder=folder.name, data_dir=folder.parent, **{"size": 12, **args})


def one(folder: Path, size: int) -> np.ndarray:
    """What becomes of train/cat/0, of the only two pictures that training then has of a cat."""
    for path in folder.glob("train/cat/[2-9].png"):
        path.unlink()
    found = imagefolder.read(folder, size)
    return found.images["train"][np.array([0])][0]


def test_split_classes_labels_and_notes(folder):
    raw = build(folder)
    assert raw.class_names == ["cat", "dog"]
    assert {s: np.bincount(raw.labels[s]).tolist() for s in raw.labels} == {
        "train": [9, 9],
        "val": [1, 1],
        "test": [2, 2],
    }
    for split, images in raw.modalities["image"].items():
        assert images.shape[1:] == (12, 12, 3)
        assert np.array_equal(images[:, 0, 0, 0] >= 100, raw.labels[split] == 1)
    assert raw.notes == [
        "pictures of pets: 20 train, 4 test",
        "pictures are cut to a square about the centre and resized to 12x12 (bicubic)",
    ]
    assert "10 of 20 training images" in build(folder, limit=10, val_share=0.2).notes


def test_a_validation_folder_is_used_as_it_is(folder):
    for name in ("cat", "dog"):
        save(folder / "val" / name / "x.PNG", np.full((12, 12, 3), 77, np.uint8))
    raw = build(folder)
    assert [len(raw.labels[s]) for s in ("train", "val", "test")] == [20, 2, 4]
    assert (raw.modalities["image"]["val"] == 77).all()


def test_a_split_that_limits_leave_without_a_class_says_so(folder):
    assert build(folder, test_limit=1).notes[-1].startswith("no test image of class ")
    assert any(n.startswith("no validation image of class ") for n in build(folder, val_share=0.05).notes)


# ------------------------------------------------------------------------------------------------------------ pictures


def test_a_picture_of_the_right_size_stays_as_it_is(folder):
    save(folder / "train/cat/0.png")
    assert np.array_equal(one(folder, 12), PICTURE)


def test_a_wide_picture_is_cut_about_its_centre_and_resized(folder):
    wide = np.zeros((24, 48, 3), np.uint8)
    wide[:, 12:36] = 200
    save(folder / "train/cat/0.png", wide)
    assert (one(folder, 12) == 200).all()
    smooth = Image.fromarray(PICTURE).resize((48, 48), Image.Resampling.BILINEAR)
    save(folder / "train/cat/0.png", smooth)
    assert np.array_equal(one(folder, 16), np.asarray(smooth.resize((16, 16), Image.Resampling.BICUBIC)))


def test_grey_palette_transparent_and_turned_pictures_become_upright_rgb(folder):
    save(folder / "train/cat/0.png", PICTURE[:, :, 0])
    assert np.array_equal(one(folder, 12), np.repeat(PICTURE[:, :, :1], 3, axis=2))
    save(folder / "train/cat/0.png", np.dstack([PICTURE, np.full((12, 12), 9, np.uint8)]))
    assert np.array_equal(one(folder, 12), PICTURE)
    few = Image.fromarray(PICTURE).quantize(8)
    save(folder / "train/cat/0.png", few)
    assert np.array_equal(one(folder, 12), np.asarray(few.convert("RGB")))
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    save(folder / "train/cat/0.png", PICTURE[::-1, ::-1], exif=exif)
    assert np.array_equal(one(folder, 12), PICTURE)


def test_sixteen_bits_are_refused(folder):
    save(folder / "train/cat/0.png", np.full((12, 12), 40_000, np.uint16))
    with pytest.raises(KdbenchError, match=r"cat/0\.png has more than 8 bits a channel"):
        build(folder)


@pytest.mark.parametrize("suffix", ["png", "jpg"])
@pytest.mark.parametrize("harm", [lambda b: b"", lambda b: b[: len(b) // 2], lambda b: b"GIF89a" + b])
def test_a_damaged_picture_is_named(folder, suffix, harm):
    path = save(folder / f"test/dog/bad.{suffix}", PICTURE.repeat(10, axis=0))
    path.write_bytes(harm(path.read_bytes()))
    with pytest.raises(KdbenchError, match=rf"picture .*test/dog/bad\.{suffix} cannot be read"):
        build(folder)


def test_random_damage_never_ends_in_a_traceback(folder):
    rng = np.random.default_rng(0)
    for suffix in ("png", "jpg"):
        path = save(folder / f"test/dog/bad.{suffix}", PICTURE.repeat(4, axis=0).repeat(4, axis=1))
        whole = np.frombuffer(path.read_bytes(), np.uint8)
        pictures = imagefolder.Pictures([path], 12, resize=True)
        for _ in range(150):
            content = whole.copy()
            content[rng.integers(0, len(whole), 3)] = rng.integers(0, 256, 3)
            path.write_bytes(content.tobytes())
            try:
                pictures[np.array([0])]
            except KdbenchError as error:
                assert f"bad.{suffix}" in str(error)


def test_a_decompression_bomb_is_refused(folder):
    """A PNG of some bytes that says it has 10^10 pixels; and one that is but above PIL's limit."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    for side in (100_000, 10_000):
        header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0))
        bomb = b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")
        (folder / "train/cat/bomb.png").write_bytes(bomb)
        with pytest.raises(KdbenchError, match=r"bomb\.png cannot be read: .*decompression bomb"):
            build(folder)


# ------------------------------------------------------------------------------------------------------------- folders


def test_other_files_are_counted_and_hidden_ones_are_not(folder):
    (folder / "train/cat/readme.txt").write_text("no picture")
    (folder / "train/cat/deeper").mkdir()
    (folder / "train/cat/.DS_Store").write_text("")
    (folder / "train/.cache").mkdir()
    os.mkfifo(folder / "train/dog/pipe.png")
    assert "3 entries beside the pictures of pets are neither .png nor .jpg: not read" in build(folder).notes


@pytest.mark.parametrize(
    ("harm", "sentence"),
    [
        (
            lambda f: f.rename(f.with_name("elsewhere")),
            r"cannot read the folder .*pets: No such file.*wanted train/CLASS",
        ),
        (lambda f: (f / "test").rename(f / "tset"), r"no folder test in .*pets; wanted train/CLASS"),
        (lambda f: (f / "train/owl").mkdir(), r"train/owl holds no picture \(\.png, \.jpg, \.jpeg\)"),
        (lambda f: (f / "test/dog").rename(f / "test/dgo"), "class dgo is in test, but not in train"),
        (lambda f: (f / "test/dog").rename(f / ".dog"), "no test image of class dog"),
        (lambda f: save(f / "val/cat/0.png"), "no val image of class dog"),
        (lambda f: (f / "val").mkdir(), "val holds no class"),
    ],
)
def test_folders_off_the_form(folder, harm, sentence):
    harm(folder)
    with pytest.raises(KdbenchError, match=sentence):
        build(folder)


@pytest.mark.parametrize("place", ["train/cat/link.png", "train/owl", "val"])
def test_a_link_that_leads_out_is_refused_and_one_inside_is_not(folder, tmp_path, place):
    outside = save(tmp_path / "outside/secret.png")
    target = outside if place.endswith("png") else outside.parent
    (folder / place).symlink_to(target)
    with pytest.raises(KdbenchError, match=rf"{place} is a link that leads out of .*pets"):
        build(folder)
    (folder / place).unlink()
    (folder / "train/cat/link.png").symlink_to(folder / "train/cat/0.png")
    assert len(build(folder).labels["train"]) == 19


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        ({"size": 7}, "size is 7"),
        ({"limit": 21}, "limit is 21, but there are 20"),
        ({"val_share": 1.5}, "val_share is 1.5"),
        ({"limit": 2, "val_share": 0.5}, "1 training images do not cover 2 classes: none of"),
    ],
)
def test_arguments_out_of_range(folder, args, sentence):
    with pytest.raises(KdbenchError, match=sentence):
        build(folder, **args)


def test_a_new_picture_is_packed_and_a_folder_without_a_place_is_told(folder, tmp_path):
    spec = DataSpec("pets", "imagefolder", {"folder": "pets", "size": 12})
    first = prepare(spec, tmp_path / "pack", tmp_path).meta
    assert len(first["source_files"]) == 24
    assert prepare(spec, tmp_path / "pack", tmp_path).meta == first
    save(folder / "train/cat/new.jpg")
    assert sum(prepare(spec, tmp_path / "pack", tmp_path).meta["counts"].values()) == 25
    with pytest.raises(KdbenchError, match="where is pets"):
        imagefolder.source_files({"folder": "pets"}, None)
