"""Folders of pictures: what is made of a picture, and what is refused."""

from __future__ import annotations

import contextlib
import os
import shutil
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from kdbench.data import prepare
from kdbench.data.packed import Packed
from kdbench.data.prepare import prepare_data
from kdbench.data.sources import imagefolder
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


def test_grey_palette_and_turned_pictures_become_upright_rgb(folder):
    save(folder / "train/cat/0.png", PICTURE[:, :, 0])
    assert np.array_equal(one(folder, 12), np.repeat(PICTURE[:, :, :1], 3, axis=2))
    few = Image.fromarray(PICTURE).quantize(8)
    save(folder / "train/cat/0.png", few)
    assert np.array_equal(one(folder, 12), np.asarray(few.convert("RGB")))
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    save(folder / "train/cat/0.png", PICTURE[::-1, ::-1], exif=exif)
    assert np.array_equal(one(folder, 12), PICTURE)


INK = np.zeros((12, 12), bool)
INK[3:6, 2:9] = True


def _png(colour_type: int, depth: int, pixels: bytes, *chunks: tuple[bytes, bytes], side: int = 12) -> bytes:
    """A PNG of 12 x 12, or what says it is larger; PIL writes neither deep colours nor every kind of transparency."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    rows = np.frombuffer(pixels, np.uint8).reshape(12, -1)
    data = zlib.compress(np.pad(rows, ((0, 0), (1, 0))).tobytes())
    parts = [(b"IHDR", struct.pack(">IIBBBBB", side, side, depth, colour_type, 0, 0, 0)), *chunks]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in (*parts, (b"IDAT", data), (b"IEND", b"")))


@pytest.mark.parametrize(
    "content",
    {
        "RGBA": _png(6, 8, np.dstack([np.zeros((12, 12, 3)), INK * 255]).astype(np.uint8).tobytes()),
        "LA": _png(4, 8, np.dstack([np.zeros((12, 12)), INK * 255]).astype(np.uint8).tobytes()),
        "palette, one clear": _png(3, 8, INK.tobytes(), (b"PLTE", bytes(6)), (b"tRNS", b"\0")),
        "palette, levels": _png(3, 8, INK.tobytes(), (b"PLTE", bytes(6)), (b"tRNS", b"\0\xff")),
        "grey, one clear": _png(0, 8, (~INK * 90).astype(np.uint8).tobytes(), (b"tRNS", b"\0\x5a")),
        "RGB, one clear": _png(2, 8, np.repeat(~INK * 90, 3).astype(np.uint8).tobytes(), (b"tRNS", b"\0\x5a" * 3)),
        "one bit, one clear": _png(0, 1, np.packbits(~INK, axis=1).tobytes(), (b"tRNS", b"\0\1")),
    }.items(),
    ids=lambda item: item[0],
)
@pytest.mark.parametrize(("ground", "colour"), [(None, (255, 255, 255)), ("#804020", (128, 64, 32))])
def test_black_ink_on_a_transparent_ground_is_laid_on_a_colour(folder, content, ground, colour):
    (folder / "train/cat/0.png").write_bytes(content[1])
    raw = build(folder, **({"ground": ground} if ground else {}))
    i = raw.names["train"].index("train/cat/0.png")
    expected = np.where(INK[..., None], 0, colour)
    assert np.array_equal(raw.modalities["image"]["train"][i], expected)
    assert f"transparent in places, laid on {ground or 'white'}: 1 (such as train/cat/0.png)" in raw.notes


def test_half_transparent_pixels_are_mixed_and_opaque_alpha_changes_nothing(folder):
    save(folder / "train/cat/0.png", np.dstack([np.zeros((12, 12, 3), np.uint8), np.full((12, 12), 51, np.uint8)]))
    assert (one(folder, 12) == 204).all()
    save(folder / "train/cat/0.png", np.dstack([PICTURE, np.full((12, 12), 255, np.uint8)]))
    assert np.array_equal(one(folder, 12), PICTURE)
    assert not any("transparent" in note for note in build(folder).notes)


@pytest.mark.parametrize("ground", ["whit", "#12", "#ffffff00", ""])
def test_a_ground_that_is_no_colour(folder, ground):
    with pytest.raises(KdbenchError, match=rf"ground '{ground}' is not a colour; expected a name or '#rrggbb'"):
        build(folder, ground=ground)


@pytest.mark.parametrize(("colour_type", "channels"), [(0, 1), (2, 3), (4, 2), (6, 4)])
def test_sixteen_bits_are_refused(folder, colour_type, channels):
    for name in ("cat/0", "dog/1"):
        (folder / f"train/{name}.png").write_bytes(_png(colour_type, 16, bytes(12 * 12 * 2 * channels)))
    with pytest.raises(
        KdbenchError,
        match=r"2 images cannot be used: train/\w+/\d\.png, train/\w+/\d\.png \(it has 16 bits .*mogrify -depth 8",
    ):
        build(folder)


def test_one_bit_and_cmyk_pictures_are_taken(folder):
    save(folder / "train/cat/0.png", Image.fromarray(INK))
    assert np.array_equal(one(folder, 12), np.repeat(INK[..., None] * 255, 3, axis=2))
    save(folder / "train/cat/0.jpg", Image.new("CMYK", (12, 12), (0, 255, 255, 0)))
    assert "CMYK, made RGB without a colour profile: 1 (such as train/cat/0.jpg)" in build(folder).notes


def test_an_animated_png_gives_its_first_frame_and_says_so(folder):
    frames = [Image.new("RGB", (12, 12), (level, 0, 0)) for level in (7, 8)]
    save(folder / "train/cat/0.png", frames[0], save_all=True, append_images=frames[1:])
    assert (one(folder, 12)[..., 0] == 7).all()
    assert "animated, only the first frame is taken: 1 (such as train/cat/0.png)" in build(folder).notes


def test_what_pillow_warns_of_becomes_a_note(folder, recwarn):
    exif = b"Exif\0\0MM\0*\0\0\0\x08\0\x09\x01\x12"  # nine entries announced, none whole
    save(folder / "train/cat/0.jpg", PICTURE, exif=exif)
    notes = build(folder).notes
    assert "read, though Pillow warns: Corrupt EXIF data: 1 (such as train/cat/0.jpg)" in notes
    assert not recwarn.list


HARMS = {
    "empty": (lambda b: b"", "it is empty"),
    "cut": (lambda b: b[: len(b) // 2], "it cannot be read: "),
    "other": (lambda b: b"GIF89a" + b, "it is neither a PNG nor a JPEG"),
}


@pytest.mark.parametrize("suffix", ["png", "jpg"])
@pytest.mark.parametrize("harm", HARMS)
def test_damaged_pictures_are_named(folder, suffix, harm):
    spoil, why = HARMS[harm]
    path = save(folder / f"test/dog/bad.{suffix}", PICTURE.repeat(10, axis=0))
    path.write_bytes(spoil(path.read_bytes()))
    with pytest.raises(KdbenchError, match=rf"1 image cannot be used: test/dog/bad\.{suffix} \({why}"):
        build(folder)


def test_broken_pictures_of_all_splits_are_named_at_once(folder):
    for name in ("train/cat/4", "train/dog/2", "test/cat/1"):
        (folder / f"{name}.png").write_bytes(b"")
    with pytest.raises(KdbenchError, match=r"3 images cannot be used") as caught:
        build(folder)
    assert all(f"{name}.png" in str(caught.value) for name in ("train/cat/4", "train/dog/2", "test/cat/1"))
    for path in folder.glob("train/*/*.png"):
        path.write_bytes(b"no picture")
    with pytest.raises(KdbenchError, match=r"21 images cannot be used: .*; and 11 more") as caught:
        build(folder)
    assert str(caught.value).count(".png") == 10


def test_random_damage_never_ends_in_a_traceback(folder):
    rng = np.random.default_rng(0)
    for suffix in ("png", "jpg"):
        path = save(folder / f"test/dog/bad.{suffix}", PICTURE.repeat(4, axis=0).repeat(4, axis=1))
        whole = np.frombuffer(path.read_bytes(), np.uint8)
        for _ in range(150):
            content = whole.copy()
            content[rng.integers(0, len(whole), 3)] = rng.integers(0, 256, 3)
            path.write_bytes(content.tobytes())
            with contextlib.suppress(KdbenchError):
                imagefolder.decode(path, "white")


def test_a_decompression_bomb_is_refused(folder):
    """A PNG of some bytes that says it has 10^10 pixels; and one that is but above PIL's limit."""
    for side in (100_000, 10_000):
        (folder / "train/cat/bomb.png").write_bytes(_png(2, 8, bytes(12), side=side))
        with pytest.raises(KdbenchError, match=r"bomb\.png \(it cannot be read: .*decompression bomb"):
            build(folder)


# ------------------------------------------------------------------------------------------------------------- folders


@pytest.mark.parametrize(
    ("place", "told"),
    [
        ("train/cat/readme.TXT", "1 x .txt file (such as train/cat/readme.TXT)"),
        ("test/dog/a.webp", "1 x .webp file (such as test/dog/a.webp)"),
        ("test/dog/a.bmp", "1 x .bmp file (such as test/dog/a.bmp)"),
        ("train/cat/README", "1 x other file (such as train/cat/README)"),
        ("train/cat/deeper/a.png", "1 x folder in the folder of a class (such as train/cat/deeper)"),
        ("train/loose.jpg", "1 x picture outside the folders of classes (such as train/loose.jpg)"),
        ("loose.png", "1 x picture outside the folders of classes (such as loose.png)"),
        ("labels.csv", "1 x .csv file (such as labels.csv)"),
        ("extra/cat/a.png", "1 x folder beside train and test (such as extra)"),
    ],
)
def test_what_is_not_read_is_told(folder, place, told):
    path = folder / place
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("")
    assert build(folder).notes[2:] == [f"not read in pets: {told}"]


def test_several_of_a_kind_are_counted_and_a_pipe_does_not_hang(folder):
    for name in ("a.tif", "b.tif"):
        (folder / "train/cat" / name).write_text("")
    os.mkfifo(folder / "train/dog/pipe.png")
    assert build(folder).notes[2:] == [
        "not read in pets: 2 x .tif file (such as train/cat/a.tif), "
        "1 x entry that is not a file (such as train/dog/pipe.png)"
    ]


def test_what_systems_leave_behind_is_passed_over(folder):
    for name in (".DS_Store", "Thumbs.db", "desktop.ini", "._0.png"):
        for place in ("", "train", "test/dog"):
            (folder / place / name).write_text("")
    (folder / "train/.cache").mkdir()
    save(folder / "__MACOSX/train/cat/0.png")
    assert len(build(folder).notes) == 2


@pytest.mark.parametrize("name", ["val", "valid", "validation", "Val", "VALID"])
def test_validation_folders_by_their_usual_names(folder, name):
    for label in ("cat", "dog"):
        save(folder / name / label / "x.png", np.full((12, 12, 3), 77, np.uint8))
    (folder / "train").rename(folder / "Train")
    raw = build(folder)
    assert [len(raw.labels[s]) for s in ("train", "val", "test")] == [20, 2, 4]
    assert (raw.modalities["image"]["val"] == 77).all()


@pytest.mark.parametrize(("one", "other"), [("val", "valid"), ("Train", "train"), ("TEST", "test")])
def test_two_folders_for_one_split_are_refused(folder, one, other):
    for name in (one, other):
        save(folder / name / "cat/0.png")
    split = other.lower()[:5].removesuffix("id")
    with pytest.raises(KdbenchError, match=f"pets has {one} and {other}; keep one of them as {split}"):
        build(folder)


@pytest.mark.parametrize(
    ("harm", "sentence"),
    [
        (
            lambda f: f.rename(f.with_name("elsewhere")),
            r"no folder pets in .*; expected train/CLASS",
        ),
        (lambda f: (f / "test").rename(f / "tset"), r"no folder test in .*pets; expected train/CLASS.*; there is tset"),
        (lambda f: (f / "train/owl").mkdir(), r"train/owl holds no picture \(\.png, \.jpg, \.jpeg\)$"),
        (lambda f: save(f / "train/owl/images/0.png"), r"owl holds no picture .*; it has 1 x folder .*such as images"),
        (lambda f: save(f / "train/owl/0.webp"), r"owl holds no picture .*; it has 1 x \.webp file"),
        (lambda f: (f / "test/dog").rename(f / "test/dgo"), "class dgo is in test, but not in train"),
        (lambda f: (f / "test/dog").rename(f / ".dog"), "no test image of class dog"),
        (lambda f: save(f / "val/cat/0.png"), "no val image of class dog"),
        (lambda f: (f / "val").mkdir(), "val has no class folders"),
    ],
)
def test_folders_off_the_form(folder, harm, sentence):
    harm(folder)
    with pytest.raises(KdbenchError, match=sentence):
        build(folder)


@pytest.mark.parametrize("place", ["train/cat/link.png", "train/cat", "val"])
def test_a_link_that_leads_out_takes_a_key_and_one_inside_does_not(folder, tmp_path, place):
    target = save(tmp_path / "outside/cat/9.png")
    if place == "val":
        save(tmp_path / "outside/dog/9.png")
    if (folder / place).exists():
        shutil.rmtree(folder / place)
    (folder / place).symlink_to(
        {"train/cat/link.png": target, "train/cat": target.parent}.get(place, tmp_path / "outside")
    )
    with pytest.raises(KdbenchError, match=rf"{place} is a link to a place outside .*pets; .*`links: true`"):
        build(folder)
    names = [name for some in build(folder, links=True).names.values() for name in some]
    assert any(name.startswith(place) for name in names)
    (folder / place).unlink()
    save(folder / "train/cat/0.png")
    (folder / "train/cat/link.png").symlink_to(folder / "train/cat/0.png")
    assert "train/cat/link.png" in [name for some in build(folder).names.values() for name in some]


def test_a_link_that_leads_nowhere_is_refused_with_and_without_the_key(folder):
    (folder / "train/cat/link.png").symlink_to(folder / "gone.png")
    for links in (False, True):
        with pytest.raises(KdbenchError, match=r"link\.png is a broken link; remove it"):
            build(folder, links=links)


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        ({"size": 7}, "size is 7"),
        ({"limit": 21}, "limit is 21, but there are 20"),
        ({"val_share": 1.5}, "val_share is 1.5"),
        ({"limit": 2, "val_share": 0.5}, "1 training images do not cover all 2 classes: none of"),
    ],
)
def test_arguments_out_of_range(folder, args, sentence):
    with pytest.raises(KdbenchError, match=sentence):
        build(folder, **args)


# ------------------------------------------------------------------------------------------------------------ packing

SPEC = DataSpec("pets", "imagefolder", {"folder": "pets", "size": 12})


def labels_of(pack: Packed) -> list[int]:
    """Class by class, over all splits."""
    labels = np.concatenate([pack.labels(split) for split in ("train", "val", "test")])
    return np.bincount(labels).tolist()


@pytest.mark.parametrize(
    ("change", "labels"),
    [
        (lambda f: (f / "train/cat/9.png").rename(f / "train/dog/!.png"), [11, 13]),
        (lambda f: (f / "train/dog/0.png").rename(f / "train/cat/z.png"), [13, 11]),
        (lambda f: (f / "test/cat/0.png").rename(f / "train/dog/z.png"), [11, 13]),
        (lambda f: [(f / s / "cat").rename(f / s / "bat") for s in ("train", "test")], [12, 12]),
        (lambda f: (f / "train/cat/3.png").rename(f / "train/dog/3x.png"), [11, 13]),
        (lambda f: save(f / "train/cat/new.jpg"), [13, 12]),
    ],
)
def test_moved_renamed_and_new_pictures_are_packed_anew(folder, tmp_path, monkeypatch, change, labels):
    """Position, size and time of every picture stay what they were in the first four."""
    monkeypatch.setattr(prepare, "FEWEST_TEST", 3)
    first = prepare_data(SPEC, tmp_path / "pack", tmp_path)
    assert labels_of(first) == [12, 12] and len(first.meta["source_files"]) == 24
    change(folder)
    second = prepare_data(SPEC, tmp_path / "pack", tmp_path)
    assert labels_of(second) == labels and second.meta != first.meta


@pytest.mark.parametrize(
    "change",
    [
        lambda f: [os.utime(path, (1, 1)) for path in f.glob("*/*/*")],
        lambda f: shutil.move(f.parent, f.parent.with_name("elsewhere")),
        lambda f: shutil.rmtree(f),
    ],
    ids=["touched", "moved as a whole", "not here"],
)
def test_what_is_packed_stays_while_its_pictures_are_the_same_or_away(folder, tmp_path, monkeypatch, change):
    shutil.move(folder, tmp_path / "my-data" / "pets")
    first = prepare_data(SPEC, tmp_path / "pack", tmp_path / "my-data").meta
    change(tmp_path / "my-data" / "pets")
    monkeypatch.setattr(prepare, "_write", None)
    place = tmp_path / "elsewhere"
    assert prepare_data(SPEC, tmp_path / "pack", place if place.exists() else tmp_path / "my-data").meta == first
    if not list(tmp_path.glob("*/pets")):
        assert prepare_data(SPEC, tmp_path / "pack", None).meta == first


def test_pictures_that_are_away_are_missed_where_the_packed_data_will_not_do(folder, tmp_path):
    with pytest.raises(KdbenchError, match="where is pets"):
        prepare_data(SPEC, tmp_path / "pack", None)
    prepare_data(SPEC, tmp_path / "pack", tmp_path)
    folder.rename(tmp_path / "away")
    other = DataSpec("pets", "imagefolder", SPEC.args | {"size": 16})
    with pytest.raises(KdbenchError, match="no folder pets in"):
        prepare_data(other, tmp_path / "pack", tmp_path)
    (tmp_path / "pack/image-train.npy").write_bytes(b"")
    with pytest.raises(KdbenchError, match="no folder pets in"):
        prepare_data(SPEC, tmp_path / "pack", tmp_path)
    # A folder that is there and faulty is not one that is away.
    (tmp_path / "away").rename(folder)
    shutil.rmtree(folder / "test")
    with pytest.raises(KdbenchError, match="no folder test in"):
        prepare_data(SPEC, tmp_path / "pack", tmp_path)


def test_pictures_that_change_places_are_packed_anew_though_size_and_time_stay(folder, tmp_path):
    for path in folder.glob("*/*/*"):
        path.write_bytes(path.read_bytes().ljust(200, b"\0"))  # what follows the end of a PNG is not read
        os.utime(path, (1, 1))
    first = prepare_data(SPEC, tmp_path / "pack", tmp_path)
    a, b, spare = folder / "train/cat/0.png", folder / "train/dog/0.png", tmp_path / "spare.png"
    assert a.stat().st_size == b.stat().st_size
    for one_, other in ((a, spare), (b, a), (spare, b)):
        one_.rename(other)
    assert prepare_data(SPEC, tmp_path / "pack", tmp_path).meta["sha256"] != first.meta["sha256"]


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_a_transparent_grey_level_is_transparent_at_every_depth(folder, bits):
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 12, 12, bits, 0, 0, 0, 0))
    rows = zlib.compress((b"\0" + b"\0" * (-(-12 * bits // 8))) * 12)  # black throughout, and black is transparent
    content = header + chunk(b"tRNS", struct.pack(">H", 0)) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    (folder / "train/cat/0.png").write_bytes(b"\x89PNG\r\n\x1a\n" + content)
    assert (one(folder, 12) == 255).all()
    full = 2**bits - 1  # white throughout, and white is transparent
    rows = zlib.compress((b"\0" + b"\xff" * (-(-12 * bits // 8))) * 12)
    content = header + chunk(b"tRNS", struct.pack(">H", full)) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    (folder / "train/cat/0.png").write_bytes(b"\x89PNG\r\n\x1a\n" + content)
    picture, remarks = imagefolder.decode(folder / "train/cat/0.png", "black")
    assert (np.asarray(picture) == 0).all() and any("transparent" in remark for remark in remarks)
