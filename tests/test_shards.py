"""Pictures that stay JPEG: what is packed of a file, what survives a kill, and what is noticed of damage."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import in_child, wait_for
from fakes import write_jpegs
from PIL import Image

from kdbench.data import pictures, shards
from kdbench.data.packed import SPLITS, Packed, load_packed
from kdbench.data.prepare import prepare_data, source_state
from kdbench.types import DataSpec, KdbenchError

SPEC = DataSpec("d", "jpegfolder", {"folder": "pets", "size": 16})


@pytest.fixture(autouse=True)
def small_shards(monkeypatch):
    """Of four pictures, packed in this process unless a test says otherwise."""
    monkeypatch.setattr(pictures, "SHARD", 4)
    monkeypatch.setattr(shards, "SHARD", 4)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0}, raising=False)


@pytest.fixture
def pets(tmp_path) -> Path:
    write_jpegs(tmp_path / "pets")
    return tmp_path


def pack(place: Path, folder: str = "pack", **args) -> Packed:
    return prepare_data(DataSpec("d", "jpegfolder", SPEC.args | args), place / folder, place)


def packed_bytes(pack: Packed, split: str) -> list[bytes]:
    found = pack.pictures("image", split)
    places = [
        (f"image-{split}-{i // 4:05}.jpegs", int(e["offset"]), int(e["length"])) for i, e in enumerate(found.index)
    ]
    return [(pack.folder / file).read_bytes()[start : start + length] for file, start, length in places]


def source_of(pack: Packed, place: Path) -> dict[bytes, Path]:
    return {path.read_bytes(): path for path in place.rglob("*.jpg")}


def written_at(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in folder.glob("*.jpegs")}


# ------------------------------------------------------------------------------------------------------ what is packed


def test_an_upright_jpeg_is_kept_byte_for_byte_and_found_by_its_position(pets):
    found = pack(pets)
    assert found.meta["counts"] == {"train": 43, "val": 5, "test": 16}
    known, labels = source_of(found, pets), found.meta["class_names"]
    seen = []
    for split in SPLITS:
        read = found.pictures("image", split)
        for i, content in enumerate(packed_bytes(found, split)):
            path = known[content]
            seen.append(path)
            assert path.parent.name == labels[found.labels(split)[i]]
            assert (np.asarray(read.picture(i)) == np.asarray(Image.open(path))).all()
            assert (read.index["height"][i], read.index["width"][i]) == read.picture(i).size[::-1]
    assert len(set(seen)) == len(seen) == len(known)


def test_splits_are_those_of_imagefolder(pets):
    ours = pack(pets)
    theirs = prepare_data(DataSpec("d", "imagefolder", SPEC.args), pets / "arrays", pets)
    for split in SPLITS:
        assert (ours.labels(split) == theirs.labels(split)).all()
        ours_shown, theirs_shown = ours.pictures("image", split)[np.arange(5)], theirs.array("image", split)[:5]
        assert abs(ours_shown.astype(int) - theirs_shown).mean() < 8, "cut first or resized first"
    assert ours.meta["anchors"]["image"].keys() == theirs.meta["anchors"]["image"].keys()


def test_statistics_are_those_of_all_training_pixels(pets):
    found = pack(pets)
    read = found.pictures("image", "train")
    pixels = np.concatenate([np.asarray(read.picture(i)).reshape(-1, 3) for i in range(len(read.index))]) / 255
    facts = found.meta["modalities"]["image"]
    assert facts["shape"] == [16, 16, 3] and facts["stored"] == "jpeg"
    assert np.allclose(facts["mean"], pixels.mean(0)) and np.allclose(facts["std"], pixels.std(0))


def test_other_pictures_are_made_upright_jpegs(tmp_path):
    write_jpegs(tmp_path / "pets", train=6)
    place, exif = tmp_path / "pets/train/a", Image.Exif()
    exif[0x0112] = 6
    tall = Image.fromarray(np.full((40, 20, 3), (250, 20, 20), np.uint8))
    tall.save(place / "turned.jpg", exif=exif)
    tall.save(place / "wide.png")
    tall.convert("L").save(place / "grey.jpg")
    tall.convert("CMYK").save(place / "cmyk.jpg")
    clear = Image.new("RGBA", (30, 24), (0, 0, 0, 0))
    clear.save(place / "clear.png")
    found = pack(tmp_path, val_share=0.3)
    sizes = [found.pictures("image", s).picture(i) for s in ("train", "val") for i in range(found.meta["counts"][s])]
    assert sum(p.size == (40, 20) for p in sizes) == 1, "turned as its camera says"
    assert sum(p.size == (30, 24) and min(p.getextrema()[0]) > 250 for p in sizes) == 1, "laid on white"
    assert all(p.mode == "RGB" for p in sizes)
    notes = " ".join(found.meta["notes"])
    assert "CMYK, made RGB without a colour profile: 1 (such as train/a/cmyk.jpg)" in notes
    assert "transparent in places, laid on white: 1" in notes


def test_a_short_side_is_the_largest_and_small_pictures_stay(pets):
    found = pack(pets, short_side=30)
    known = source_of(found, pets)
    sizes = {split: found.pictures("image", split).index for split in SPLITS}
    for split, index in sizes.items():
        for content, height, width in zip(packed_bytes(found, split), index["height"], index["width"], strict=True):
            assert min(height, width) <= 30
            assert (content in known) == (min(height, width) < 30) or min(Image.open(known[content]).size) == 30
    assert any(min(e["height"], e["width"]) == 30 for index in sizes.values() for e in index)
    with pytest.raises(KdbenchError, match="short_side is 15; expected at least 16"):
        pack(pets, short_side=15)


def test_pictures_that_are_alike_are_told(pets):
    (pets / "pets/train/b/twin.jpg").write_bytes((pets / "pets/test/a/0.jpg").read_bytes())
    notes = " ".join(pack(pets).meta["notes"])
    assert "test samples that are in train too: 1 of 16, 1 with another label" in notes or "in val too" in notes


def test_files_that_cannot_be_used_are_named_and_the_others_are_packed(pets):
    (pets / "pets/train/a/broken.jpg").write_bytes(b"\xff\xd8 nothing")
    (pets / "pets/train/b/empty.jpg").write_bytes(b"")
    with pytest.raises(KdbenchError) as error:
        pack(pets)
    said = str(error.value)
    assert (
        "2 images cannot be used" in said and "train/a/broken.jpg" in said and "train/b/empty.jpg (it is empty)" in said
    )
    assert 8 <= len(written_at(pets / "pack")) < 13 and not (pets / "pack/meta.json").exists()


# ------------------------------------------------------------------------------------------------- kills and changes


@pytest.mark.parametrize("cores", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_after_a_kill_finished_shards_are_kept(pets, monkeypatch, cores):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cores)), raising=False)
    whole = pack(pets, "whole")

    def until_killed():
        told = []

        def say(line: str, final: bool) -> None:
            told.append(line)
            if len(told) == 5:
                os.kill(os.getpid(), signal.SIGKILL)

        prepare_data(SPEC, pets / "pack", pets, say)

    assert wait_for(in_child(until_killed)) == -signal.SIGKILL
    time.sleep(0.5)  # a pool's processes end with their parent
    before = {n: t for n, t in written_at(pets / "pack").items() if (pets / "pack" / n).with_suffix(".json").exists()}
    assert len(before) >= 5 and not (pets / "pack/meta.json").exists()
    again = pack(pets)
    after = written_at(pets / "pack")
    assert len(after) == 11 + 2 + 4 and {name: after[name] for name in before} == before
    assert again.meta["sha256"] == whole.meta["sha256"] and again.meta["files"] == whole.meta["files"]


def test_a_second_time_nothing_is_packed_and_a_changed_picture_packs_its_own_shard(pets):
    first = pack(pets).meta
    before = written_at(pets / "pack")
    assert pack(pets).meta == first and written_at(pets / "pack") == before
    assert len(list(load_packed(pets / "pack").source_files())) == 64
    Image.new("RGB", (33, 34), "red").save(pets / "pets/test/a/0.jpg")
    second = pack(pets).meta
    assert second["sha256"] != first["sha256"]
    assert sum(written_at(pets / "pack")[name] != at for name, at in before.items()) == 1


def test_fewer_pictures_leave_no_shard_behind(pets):
    pack(pets)
    found = pack(pets, limit=12)
    on_disk = {path.name for path in found.folder.glob("*.jpegs")}
    assert on_disk == {name for name in found.meta["files"] if name.endswith(".jpegs")} and len(on_disk) == 3 + 1 + 4


def test_a_plan_looks_at_folders_of_classes_and_not_at_every_file(pets):
    before = source_state(SPEC, pets / "pack", pets)
    assert [Path(entry["file"]).name for entry in before] == ["a", "b", "a", "b"]
    os.utime(pets / "pets/train/a/0.jpg", (1, 1))
    assert source_state(SPEC, pets / "pack", pets) == before
    (pets / "pets/train/a/0.jpg").unlink()
    assert source_state(SPEC, pets / "pack", pets) != before
    pack(pets)
    (pets / "pets").rename(pets / "away")
    assert source_state(SPEC, pets / "pack", pets) == [] and pack(pets).meta["counts"]["test"] == 16


# --------------------------------------------------------------------------------------------------------------- damage


def test_a_flipped_bit_is_found_when_its_picture_is_read_and_one_shard_is_mended(pets):
    found = pack(pets)
    path = found.folder / "image-train-00001.jpegs"
    content = bytearray(path.read_bytes())
    content[int(found.pictures("image", "train").index["offset"][6]) + 40] ^= 1
    path.write_bytes(bytes(content))
    read = load_packed(found.folder, verify=True).pictures("image", "train")
    assert read.picture(5).mode == "RGB"
    with pytest.raises(
        KdbenchError, match=r"image-train-00001.jpegs is damaged: picture 6 has another checksum; delete"
    ):
        read.picture(6)
    path.unlink()
    with pytest.raises(KdbenchError, match=r"image-train-00001.jpegs is not there with its"):
        load_packed(found.folder)
    before = written_at(found.folder)
    assert pack(pets).meta["sha256"] == found.meta["sha256"]
    after = written_at(found.folder)
    assert {name: after[name] for name in before} == before and "image-train-00001.jpegs" in after
    assert read.picture(6).mode == "RGB"


def test_a_cut_shard_and_a_damaged_list_of_files_are_found(pets):
    found = pack(pets)
    shard = found.folder / "image-val-00001.jpegs"
    shard.write_bytes(shard.read_bytes()[:-1])
    with pytest.raises(KdbenchError, match=r"image-val-00001.jpegs is not there with its"):
        load_packed(found.folder)
    assert pack(pets).meta["sha256"] == found.meta["sha256"]
    (found.folder / "source_files.jsonl").write_text("{")
    with pytest.raises(KdbenchError, match=r"source_files.jsonl is damaged"):
        list(found.source_files())
    assert len(list(pack(pets).source_files())) == 64


def test_jpegs_have_no_array_of_pixels(pets):
    with pytest.raises(KdbenchError, match="image is stored as JPEG"):
        pack(pets).array("image", "train")


# ------------------------------------------------------------------------------------------------------------ geometry


@pytest.mark.parametrize("view", [pictures.View(0.875, "bilinear"), pictures.View(0.9, "bicubic"), pictures.WHOLE])
@pytest.mark.parametrize("size", [(64, 48), (31, 90), (36, 36), (256, 301)])
def test_a_view_is_timms_evaluation(view, size):
    import kdbench.torchvision_ops  # noqa: F401, I001
    from timm.data import create_transform

    rng = np.random.default_rng(0)
    picture = Image.fromarray(rng.integers(0, 256, (*size[::-1], 3), dtype=np.uint8))
    theirs = create_transform(32, interpolation=view.interpolation, crop_pct=view.crop, use_prefetcher=True)(picture)
    assert (pictures.viewed(picture, view, 32) == np.asarray(theirs).transpose(1, 2, 0)).all()


def test_a_crop_is_torchvisions():
    import kdbench.torchvision_ops  # noqa: F401, I001
    from torchvision.transforms import InterpolationMode, functional

    rng = np.random.default_rng(0)
    picture = Image.fromarray(rng.integers(0, 256, (50, 70, 3), dtype=np.uint8))
    for box in ((0, 0, 50, 70), (10, 20, 5, 7), (3, 1, 40, 60)):
        for name in ("bilinear", "bicubic"):
            theirs = functional.resized_crop(picture, *box, [32, 32], InterpolationMode(name))
            assert (pictures.cropped(picture, np.array(box), 32, name) == np.asarray(theirs)).all()
