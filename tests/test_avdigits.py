"""Spoken and handwritten digits from small files of their formats: whose they are, who is paired, what is drawn."""

from __future__ import annotations

import functools
import hashlib
import io
import os
import wave
import zipfile
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
from test_mnist import write_mnist

from kdbench.data.raw import SourceMissing
from kdbench.data.sources import _download, avdigits, mnist
from kdbench.types import KdbenchError

SPLITS = ("train", "val", "test")
SMALL = {"images_per_recording": 1, "train_recordings": 2}


@functools.cache
def sounds() -> dict[tuple[int, int, int], np.ndarray]:
    """A short tone for each recording, a digit a pitch; no two alike."""
    names = [(d, s, i) for d in range(10) for s in range(len(avdigits.SPEAKERS)) for i in range(50)]
    time = np.arange(900) / avdigits.RATE
    tones = [10000 * np.sin(2 * np.pi * pitch(d) * time) for d in range(10)]
    return {(d, s, i): np.rint(tones[d][: 300 + 100 * s + 2 * i]).astype("<i2") for d, s, i in names}


def pitch(digit: int) -> float:
    """Hz."""
    return 300 + 350 * digit


def write_fsdd(folder: Path) -> dict[tuple[int, int, int], np.ndarray]:
    """An archive like GitHub's of all 3,000 recordings, of which avdigits gets the sum; the samples."""
    folder.mkdir(parents=True, exist_ok=True)
    ids, arrays = {}, sounds()
    with zipfile.ZipFile(folder / avdigits.ARCHIVE, "w") as archive:
        archive.writestr("free-spoken-digit-dataset/README.md", "words")
        for (digit, speaker, number), samples in arrays.items():
            file = io.BytesIO()
            with wave.open(file, "wb") as sound:
                sound.setparams((1, 2, avdigits.RATE, 0, "NONE", ""))
                sound.writeframes(samples.tobytes())
            name = f"recordings/{digit}_{avdigits.SPEAKERS[speaker]}_{number}.wav"
            archive.writestr(f"free-spoken-digit-dataset/{name}", content := file.getvalue())
            ids[name] = hashlib.sha1(f"blob {len(content)}\0".encode() + content).hexdigest()
    lines = "".join(f"{ids[name]} {name}\n" for name in sorted(ids))
    avdigits.RECORDINGS_SHA256 = hashlib.sha256(lines.encode()).hexdigest()
    return arrays


def write_arrays(path: Path, arrays: dict[tuple[int, int, int], np.ndarray]) -> None:
    digit, speaker, index = np.array(list(arrays)).T
    np.savez(
        path,
        samples=np.concatenate(list(arrays.values())),
        offsets=np.cumsum([0, *map(len, arrays.values())]),
        digit=digit,
        speaker=speaker,
        index=index,
        speaker_names=np.array(avdigits.SPEAKERS),
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder of the user with both sets; the sums of the real files come back afterwards."""
    place = tmp_path_factory.mktemp("data")
    with patch.dict(mnist.FILES), patch.object(avdigits, "RECORDINGS_SHA256"):
        write_mnist(place / "mnist", train=1000, test=1280)
        write_fsdd(place / "fsdd")
        yield place


@pytest.fixture(scope="module")
def marked(folder):
    """A build of small sets in which a sound's checksum stands for its spectrogram."""

    def build(**args):
        with patch.object(avdigits, "log_mel", mark):
            return avdigits.build(**SMALL | args, data_dir=folder)

    return build


def mark(sound: np.ndarray) -> np.ndarray:
    return np.resize(np.frombuffer(hashlib.sha1(sound).digest(), np.uint8), (64, 64))


@pytest.fixture(scope="module")
def standard(marked):
    return marked()


@functools.cache
def marks() -> dict[bytes, tuple[int, int, int]]:
    return {mark(avdigits.one_second(s.astype(float))).tobytes(): name for name, s in sounds().items()}


def content(array: np.ndarray) -> list[bytes]:
    return [sample.tobytes() for sample in array]


def heard(raw, split: str) -> list[tuple[int, int, int]]:
    """Which recording each sample of a split is."""
    return [marks()[spectrogram] for spectrogram in content(raw.modalities["audio"][split])]


# ------------------------------------------------------------------------------------------------------------ the pairs


def test_recordings_are_split_by_their_numbers_and_keep_their_digits(standard):
    numbers = {"train": {10, 11}, "val": set(range(5, 10)), "test": set(range(5))}
    for split in SPLITS:
        recordings = heard(standard, split)
        wanted = {(d, s, i) for d in range(10) for s in range(6) for i in numbers[split]}
        assert set(recordings) == wanted and len(recordings) == len(wanted)
        assert [digit for digit, _, _ in recordings] == standard.labels[split].tolist()
    word, groups = standard.groups
    assert word == "recordings"
    assert groups == [f"{d}_{avdigits.SPEAKERS[s]}_{i}" for d, s, i in heard(standard, "test")]


def test_images_have_the_digit_that_is_spoken_and_are_in_one_pair_only(standard, folder):
    found = mnist.read(folder)
    seen = [image for split in SPLITS for image in content(standard.modalities["image"][split])]
    assert len(set(seen)) == len(seen)
    for split, part in (("train", "train"), ("val", "train"), ("test", "test")):
        labels = dict(zip(content(found.images[part]), found.labels[part].tolist(), strict=True))
        images = content(standard.modalities["image"][split])
        assert [labels[image] for image in images] == standard.labels[split].tolist()


def test_a_recording_meets_several_images(marked):
    raw = marked(images_per_recording=2)
    audio, images = (content(raw.modalities[name]["test"]) for name in ("audio", "image"))
    assert len(audio) == len(set(images)) == 600 and len(set(audio)) == len(set(raw.groups[1])) == 300
    assert all(raw.groups[1].count(name) == 2 for name in set(raw.groups[1]))


def test_a_speaker_who_is_held_out_is_in_the_test_set_alone(marked):
    folds = [marked(unseen_speaker=True, draw=draw) for draw in (0, 1)]
    for draw, raw in enumerate(folds):
        assert set(heard(raw, "test")) == {(d, draw, i) for d in range(10) for i in range(50)}
        for split, numbers in (("train", {10, 11}), ("val", set(range(5, 10)))):
            wanted = {(d, s, i) for d in range(10) for s in range(6) if s != draw for i in numbers}
            assert set(heard(raw, split)) == wanted
    first, second = (set(content(raw.modalities["image"]["test"])) for raw in folds)
    assert len(first) == len(second) == 500 and not first & second, "and every speaker meets other test images"


def test_another_draw_pairs_training_samples_otherwise_and_leaves_the_test_set(standard, marked):
    other = marked(draw=3)
    hard = [marked(energy=0.5, noise=0.2, babble=3.0, draw=draw).modalities for draw in (0, 3)]
    for modality in avdigits.MODALITIES:
        same = {s: np.array_equal(*(found[modality][s] for found in hard)) for s in SPLITS}
        assert same == {"train": False, "val": False, "test": True}
    same = {s: other.modalities["image"][s].tobytes() == standard.modalities["image"][s].tobytes() for s in SPLITS}
    assert same == {"train": False, "val": False, "test": True}
    assert other.groups == standard.groups and heard(other, "test") == heard(standard, "test")


# --------------------------------------------------------------------------------------------------------- difficulties


def test_what_is_mixed_in_are_three_recordings_of_other_digits(folder):
    raw = avdigits.build(**SMALL, babble=0.0, data_dir=folder)
    filters = avdigits.mel_filters()
    rows = [63 - np.argmax(filters[:, round(pitch(d) / 31.25)]) for d in range(10)]
    voices = set()
    for label, spectrogram in zip(raw.labels["test"], raw.modalities["audio"]["test"], strict=True):
        present = np.flatnonzero(spectrogram[rows].max(axis=(1, 2)) > 200)
        assert label in present and len(present) <= 4
        voices |= set(present)
    assert voices == set(range(10))


def test_mixed_sounds_have_the_wanted_ratio_of_energies():
    rng = np.random.default_rng(0)
    sound, other = rng.normal(size=(2, 8000)) * [[3], [100]]
    rest = avdigits.mixed(sound, other, 6.0) - sound
    assert np.isclose(10 * np.log10(np.sum(sound**2) / np.sum(rest**2)), 6.0)
    assert np.allclose(rest / other, rest[0] / other[0])


def test_images_keep_the_fewest_leading_components_with_the_wanted_energy(folder):
    images = mnist.read(folder).images["train"][:200]
    mean, components = avdigits._leading(images, 0.5)
    flat = images.reshape(200, -1) - mean
    shares = np.linalg.svd(flat, compute_uv=False) ** 2 / np.sum(flat**2)
    count = components.shape[1]
    assert shares[: count - 1].sum() < 0.5 <= shares[:count].sum()
    assert np.isclose(np.sum((flat @ components) ** 2) / np.sum(flat**2), shares[:count].sum())
    assert np.allclose(components.T @ components, np.eye(count))


def test_noise_and_energy_change_images_alone(standard, marked):
    raw = marked(energy=0.3, noise=0.1)
    for split in SPLITS:
        assert np.array_equal(raw.modalities["audio"][split], standard.modalities["audio"][split])
        before, after = (x.modalities["image"][split].astype(float) for x in (standard, raw))
        assert after.std() < 0.8 * before.std() and abs(after.mean() - before.mean()) < 2


# ------------------------------------------------------------------------------------------------------------- spectra


def hz_to_mel(f: float) -> float:
    """Slaney's scale, as librosa.hz_to_mel has it."""
    return f / (200 / 3) if f < 1000 else 15 + np.log(f / 1000) / (np.log(6.4) / 27)


def test_filters_are_triangles_of_unit_area_on_slaneys_scale():
    filters, bins = avdigits.mel_filters(), np.arange(129) * 8000 / 256
    step = hz_to_mel(4000) / 65
    by_mel = np.array([hz_to_mel(f) for f in np.arange(0, 4000.01, 0.25)])
    corners = [np.interp(step * i, by_mel, np.arange(0, 4000.01, 0.25)) for i in range(66)]
    for i, own in enumerate(filters):
        low, peak, high = corners[i : i + 3]
        wanted = np.maximum(0, np.minimum((bins - low) / (peak - low), (high - bins) / (high - peak)))
        np.testing.assert_allclose(own, wanted * 2 / (high - low), atol=1e-6)
    assert filters.shape == (64, 129) and (filters.max(axis=1) > 0).all()


def test_a_spectrogram_is_the_power_of_frames_in_bands_in_decibels():
    sound = np.random.default_rng(0).normal(size=8000) * np.linspace(0.001, 1, 8000)
    wave_numbers = np.exp(-2j * np.pi * np.outer(np.arange(129), np.arange(256)) / 256)
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(256) / 256)
    padded = np.concatenate([np.zeros(192), sound, np.zeros(192)])
    power = [np.abs(wave_numbers @ (window * padded[64 * i : 64 * i + 256])) ** 2 for i in range(128)]
    bands = avdigits.mel_filters() @ np.transpose(power)
    bands = (bands[:, ::2] + bands[:, 1::2]) / 2
    level = np.clip(10 * np.log10(bands / bands.max()), -80, 0)
    found = avdigits.log_mel(sound)
    assert found.shape == (64, 64) and found.max() == 255
    assert np.abs(found[::-1] - 255 * (1 + level / 80)).max() <= 0.5 + 1e-6
    assert np.array_equal(avdigits.log_mel(4 * sound), found), "and loudness does not count"


def test_a_recording_lies_in_the_middle_and_loses_what_is_beyond_a_second():
    assert np.flatnonzero(avdigits.one_second(np.ones(100))).tolist() == list(range(3950, 4050))
    assert np.array_equal(avdigits.one_second(np.arange(9000)), np.arange(8000))
    starts = {np.argmax(avdigits.one_second(np.ones(7990), np.random.default_rng(i))) for i in range(100)}
    assert starts == set(range(11))


# ------------------------------------------------------------------------------------------------------------ the files


def test_archive_arrays_and_download_are_one_data_set(standard, folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(avdigits, "URL", (folder / "fsdd" / avdigits.ARCHIVE).as_uri())
    (tmp_path / "data/fsdd").mkdir(parents=True)
    (tmp_path / "data/mnist").symlink_to(folder / "mnist")
    write_arrays(tmp_path / "data/fsdd/fsdd.npz", sounds())
    assert [p.name for p in avdigits.source_files({}, tmp_path / "data")][4:] == ["fsdd.npz"]
    from_arrays = avdigits._recordings(tmp_path / "data")
    (tmp_path / "data/fsdd").rename(tmp_path / "away")
    downloaded = avdigits._recordings(tmp_path / "data")
    monkeypatch.setattr(avdigits, "URL", "file:///nowhere")
    assert avdigits._recordings(None).keys() == sounds().keys()
    for name, samples in sounds().items():
        assert np.array_equal(from_arrays[name], samples) and np.array_equal(downloaded[name], samples)


def test_a_download_that_failed_or_brought_something_else_leaves_nothing(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(avdigits, "URL", (tmp_path / "nowhere").as_uri())
    with pytest.raises(KdbenchError, match=r"fsdd: the download failed from file.*nothing was kept.*fsdd/free-spoken"):
        avdigits._recordings(None)
    other = tmp_path / "other.zip"
    with zipfile.ZipFile(other, "w") as archive:
        archive.writestr("x/recordings/0_george_0.wav", b"RIFF")
    monkeypatch.setattr(avdigits, "URL", other.as_uri())
    with pytest.raises(KdbenchError, match=r"not those of commit 26eb9aa: 2,999 are missing, such as 0_george_1.wav"):
        avdigits._recordings(None)
    assert [path.name for path in _download.DOWNLOADS.iterdir() if not path.name.startswith(".")] == []


def test_files_that_are_not_the_commits_are_refused(folder, tmp_path):
    place = tmp_path / "fsdd/fsdd.npz"
    place.parent.mkdir()
    with pytest.raises(SourceMissing, match=r"has neither free-spoken-digit-dataset-26eb9aa\w+\.zip nor fsdd\.npz"):
        avdigits.source_files({}, tmp_path)
    arrays = sounds()
    arrays[7, 1, 32] = arrays[7, 1, 32] + 1
    write_arrays(place, arrays)
    with pytest.raises(KdbenchError, match=r"fsdd\.npz are not those of commit 26eb9aa: their bytes differ"):
        avdigits.build(data_dir=tmp_path)
    for broken in (b"", b"no archive", place.read_bytes()[:-3000]):
        place.write_bytes(broken)
        with pytest.raises(KdbenchError, match=r"fsdd\.npz cannot be read: .*; fetch it again"):
            avdigits.build(data_dir=tmp_path)


@pytest.mark.parametrize(
    ("args", "told"),
    [
        ({"images_per_recording": 0}, "images_per_recording is 0"),
        ({"images_per_recording": 40}, r"images_per_recording is 40, so 1,680 images of a 0 are needed; there are 102"),
        ({"train_recordings": 41}, "train_recordings is 41; from 1 to 40"),
        ({"energy": 0.0}, "energy is 0.0"),
        ({"noise": -1.0}, "noise is -1.0"),
        ({"draw": -1}, "draw -1"),
    ],
)
def test_arguments_out_of_range_are_named(folder, args, told):
    with pytest.raises(KdbenchError, match=f"avdigits: .*{told}"):
        avdigits.build(**SMALL | args, data_dir=folder)


@pytest.mark.slow
@pytest.mark.skipif(not Path(os.environ.get("KDBENCH_DATA", "/nowhere"), "fsdd").is_dir(), reason="no FSDD here")
def test_the_real_recordings_are_the_commits():
    raw = avdigits.build(unseen_speaker=True, draw=5, images_per_recording=1, data_dir=Path(os.environ["KDBENCH_DATA"]))
    assert {split: len(labels) for split, labels in raw.labels.items()} == {"train": 2000, "val": 250, "test": 500}
    assert {name.split("_")[1] for name in raw.groups[1]} == {"yweweler"}
