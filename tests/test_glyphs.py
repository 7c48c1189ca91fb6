"""Rendered characters: the two modalities show one shape, and the test fonts are strangers."""

from __future__ import annotations

from pathlib import Path

import matplotlib
import numpy as np
import pytest
from matplotlib.path import Path as Outline

from kdbench.data.sources import glyphs
from kdbench.data.sources.glyphs import CLASSES, FACES, Glyph, Pen, build, place
from kdbench.types import KdbenchError

COUNTS = {"train": 60, "val": 20, "test": 40}


@pytest.fixture(scope="module")
def small():
    return build(**COUNTS, classes=10)


@pytest.fixture(scope="module")
def clean():
    """Distorted, but without noise, and with a point for every pixel of the path."""
    return build(train=94, val=47, test=94, size=64, points=512, noise=0.0, jitter=0.0)


def fill(outline: np.ndarray, size: int) -> np.ndarray:
    """Inside or outside (size, size), from the points of an outline alone: an odd number of contours around a pixel."""
    centres = (np.stack(np.meshgrid(np.arange(size), np.arange(size)), axis=-1).reshape(-1, 2) + 0.5) * 255 / size
    inside = np.zeros(size * size, bool)
    for contour in np.split(outline, np.flatnonzero(outline[:, 2] == 0)[1:]):
        if len(contour) > 2:
            inside ^= Outline(contour[:, :2].astype(float)).contains_points(centres)
    return inside.reshape(size, size)


def test_shapes_and_types(small):
    assert small.kinds == {"raster": "image", "outline": "sequence"}
    for split, count in COUNTS.items():
        assert small.modalities["raster"][split].shape == (count, 32, 32, 1)
        assert small.modalities["outline"][split].shape == (count, 1, 64, 3)
        assert all(arrays[split].dtype == np.uint8 for arrays in small.modalities.values())
        assert small.labels[split].dtype == np.int64


def test_47_classes_and_21_faces_that_exist():
    assert len(set(CLASSES)) == len(CLASSES) == 47
    faces = [face for faces in FACES.values() for face in faces]
    assert len(set(faces)) == len(faces) == 21
    folder = Path(matplotlib.get_data_path(), "fonts", "ttf")
    assert all((folder / f"{face}.ttf").is_file() for face in faces)


def test_no_family_of_the_test_fonts_is_trained_or_validated_on():
    assert all(face.startswith("DejaVu") for split in ("train", "val") for face in FACES[split])
    assert not any(face.startswith("DejaVu") for face in FACES["test"])


def test_a_split_draws_from_its_own_faces_only(monkeypatch):
    drawn = []
    real = glyphs.Glyph
    monkeypatch.setattr(glyphs, "Glyph", lambda face, *rest: drawn.append(face) or real(face, *rest))
    build(train=2, val=2, test=2, classes=2)
    assert list(dict.fromkeys(drawn)) == [*FACES["train"], *FACES["val"], *FACES["test"]]


def test_classes_are_balanced_and_mixed(small):
    for split, count in COUNTS.items():
        assert set(np.bincount(small.labels[split], minlength=10)) == {count // 10}
    assert (np.diff(small.labels["train"]) < 0).sum() > 15
    uneven = build(train=25, val=10, test=10, classes=10).labels["train"]
    assert set(np.bincount(uneven)) == {2, 3}


def test_the_first_classes_are_the_digits():
    assert build(train=10, val=10, test=10, classes=10).class_names == list("0123456789")


def test_a_sample_depends_on_its_index_only(small):
    longer = build(train=97, val=21, test=45, classes=10)
    for split, count in COUNTS.items():
        assert np.array_equal(longer.labels[split][:count], small.labels[split])
        for modality, arrays in small.modalities.items():
            assert np.array_equal(longer.modalities[modality][split][:count], arrays[split])


def test_another_seed_and_another_split_are_other_samples(small):
    other = build(**COUNTS, classes=10, seed=1)
    assert not np.array_equal(other.labels["train"], small.labels["train"])
    assert not np.array_equal(other.modalities["raster"]["train"], small.modalities["raster"]["train"])
    assert not np.array_equal(small.labels["train"], small.labels["test"])
    seen = {image.tobytes() for split in COUNTS for image in small.modalities["raster"][split]}
    assert len(seen) == sum(COUNTS.values())


@pytest.mark.parametrize("split", ["train", "test"])
def test_raster_and_outline_show_the_same_shape(clean, split):
    rasters = clean.modalities["raster"][split][..., 0] > 127
    filled = np.array([fill(outline[0], 64) for outline in clean.modalities["outline"][split]])
    own = (rasters & filled).sum((1, 2)) / (rasters | filled).sum((1, 2))
    assert own.min() > 0.75 and own.mean() > 0.9
    next_one = np.roll(filled, 1, axis=0)
    others = (rasters & next_one).sum((1, 2)) / (rasters | next_one).sum((1, 2))
    assert others.mean() < 0.4


def test_holes_are_holes_and_nothing_is_upside_down():
    pen, still = Pen(64), np.random.default_rng(0)
    for face in (face for faces in FACES.values() for face in faces):
        images = {}
        for character in "OTL":
            glyph = Glyph(face, character, 64)
            images[character] = pen.draw(glyph, *place(glyph.corners, still, 0.0))
        assert images["O"][32, 32] == 0, face
        middle = images["O"][32]
        assert middle[:32].max() == middle[32:].max() == 255, face
        # The bar of a T is above, that of an L below.
        assert images["T"][:32].sum() > images["T"][32:].sum(), face
        assert images["L"][32:].sum() > images["L"][:32].sum(), face
        if not any(slanted in face for slanted in ("Oblique", "Ita", "ti")):
            assert images["L"][:32, :32].sum() > images["L"][:32, 32:].sum(), face


def test_pen_down_marks_the_contours(clean):
    contours = {"B": 3, "8": 3, "A": 2, "O": 2, "C": 1, "L": 1, "Z": 1}
    for outline, label in zip(clean.modalities["outline"]["test"][:, 0], clean.labels["test"], strict=True):
        assert outline[0, 2] == 0
        assert set(outline[:, 2]) == {0, 255}
        if (character := CLASSES[label]) in contours:
            assert (outline[:, 2] == 0).sum() == contours[character], character


def test_points_are_evenly_spaced_along_the_path():
    glyph = Glyph("DejaVuSans", "S", 256)
    steps = np.hypot(*np.diff(glyph.outline, axis=0).T)
    # A chord is never longer than its arc, and shorter only around a corner.
    assert np.mean(np.abs(steps / steps.max() - 1) < 0.02) > 0.95
    assert np.ptp(glyph.corners, axis=0).max() == pytest.approx(1)


@pytest.mark.parametrize("distortion", [0.0, 1.0, 4.0])
def test_no_glyph_touches_the_border(distortion):
    raw = build(train=20, val=20, test=60, classes=20, distortion=distortion, noise=0.0, jitter=0.0)
    for image in raw.modalities["raster"]["test"][..., 0]:
        frame = np.concatenate([image[0], image[-1], image[:, 0], image[:, -1]])
        assert frame.max() <= 30 and image.max() > 100


def test_a_random_start_turns_the_same_path_and_leaves_the_picture():
    arguments = {"train": 94, "val": 47, "test": 47, "points": 32}
    fixed, turned = build(**arguments).modalities, build(**arguments, random_start=True).modalities
    assert np.array_equal(fixed["raster"]["train"], turned["raster"]["train"])
    shifts = []
    for one, other in zip(fixed["outline"]["train"][:, 0], turned["outline"]["train"][:, 0], strict=True):
        fits = [shift for shift in range(32) if np.array_equal(np.roll(one, shift, axis=0), other)]
        assert len(fits) == 1
        shifts += fits
    assert len(set(shifts)) > 20


def test_noise_and_jitter_have_their_size():
    arguments = {"train": 60, "val": 10, "test": 10, "classes": 10, "distortion": 0.5}
    plain = build(**arguments, noise=0.0, jitter=0.0).modalities
    noisy = build(**arguments, noise=0.2, jitter=0.04).modalities
    raster = {k: v["raster"]["train"].astype(float) for k, v in (("plain", plain), ("noisy", noisy))}
    middle = (raster["plain"] > 100) & (raster["plain"] < 155)
    assert (raster["noisy"] - raster["plain"])[middle].std() == pytest.approx(0.2 * 127.5, rel=0.1)
    moved = noisy["outline"]["train"].astype(float) - plain["outline"]["train"]
    assert moved[..., :2].std() == pytest.approx(0.04 * 127.5, rel=0.05)
    assert not moved[..., 2].any()


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"classes": 48}, "from 2 to 47"),
        ({"classes": 1}, "from 2 to 47"),
        ({"train": 46}, "at least 47"),
        ({"size": 4}, "smallest is 8"),
        ({"points": 3}, "fewest are 8"),
        ({"noise": -0.1}, "noise is -0.1"),
        ({"seed": -1}, "seed is -1"),
    ],
)
def test_arguments_out_of_range(wrong, sentence):
    with pytest.raises(KdbenchError, match=sentence):
        build(**wrong)


def test_a_draw_changes_all_but_the_test_set(small):
    other, third = (build(**COUNTS, classes=10, draw=draw) for draw in (1, 2))
    for modality in ("raster", "outline"):
        ours, drawn, again = (raw.modalities[modality] for raw in (small, other, third))
        assert np.array_equal(ours["test"], drawn["test"])
        for split in ("train", "val"):
            for a, b in ((ours, drawn), (ours, again), (drawn, again)):
                same = (a[split][:, None] == b[split][None]).all(axis=(2, 3, 4))
                assert not same.any(), "no sample is in two draws"
    assert np.array_equal(small.labels["test"], other.labels["test"])
    for split in ("train", "val"):
        assert not np.array_equal(small.labels[split], other.labels[split])
        assert np.array_equal(np.bincount(small.labels[split]), np.bincount(other.labels[split]))
    with pytest.raises(KdbenchError, match="draw is -1; it cannot be negative"):
        build(**COUNTS, classes=10, draw=-1)


def test_numpy_takes_a_missing_fourth_number_for_zero():
    """On which rests that samples of draw 0 are those of before there were draws."""
    before, now = (np.random.default_rng(words).random(4) for words in ([3, 1, 7], [3, 1, 7, 0]))
    assert np.array_equal(before, now)
