"""AV-Digits: spoken digits of FSDD and handwritten digits of MNIST, paired by their label.

    image   image (28, 28, 1), white digits on black
    audio   image (64, 64, 1): log-mel spectrogram of one second, low pitches at the bottom, time to the right

It is not AV-MNIST, and accuracies published on that are not comparable. All that the two modalities of a pair share is
the class, by construction: the claims are tested on a constructed, label-paired digit set; the published tables are not
re-run.

Images: MNIST, as the source `mnist` finds it. Creative Commons Attribution-Share Alike 3.0, copyright Y. LeCun and
C. Cortes, as keras.io states it.
Audio: Free Spoken Digit Dataset, Z. Jackson and others, https://github.com/Jakobovski/free-spoken-digit-dataset, at
commit 26eb9aa: 3,000 recordings, 8 kHz, of six speakers x ten digits x 50. Licence: Creative Commons
Attribution-ShareAlike 4.0, which also holds for arrays made from it, such as results/data. Neither is part of kdbench.

FSDD is looked for in this order: the folder fsdd in `data_dir` (the setting KDBENCH_DATA) with GitHub's archive of that
commit or fsdd.npz (samples, offsets, digit, speaker, index, speaker_names), then results/data/downloads, into which the
archive goes. Every recording must be the commit's, by the id that git gives its bytes.
"""

from __future__ import annotations

import functools
import hashlib
import io
import urllib.request
import wave
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

import numpy as np

from kdbench.data.packed import SPLITS
from kdbench.data.raw import RawData, SourceMissing, stratified_order
from kdbench.data.sources import mnist
from kdbench.data.sources._download import DOWNLOADS, fetching
from kdbench.types import KdbenchError

BIBTEX = """
@misc{lecunmnist,
  author = {LeCun, Y. and Cortes, C. and Burges, C. J. C.},
  title = {The {MNIST} database of handwritten digits},
  howpublished = {http://yann.lecun.com/exdb/mnist/},
}

@misc{fsdd,
  author = {Jackson, Z. and others},
  title = {{Free Spoken Digit Dataset}},
  howpublished = {https://github.com/Jakobovski/free-spoken-digit-dataset},
  note = {Commit 26eb9aa},
}
"""
MODALITIES = ("image", "audio")
COMMIT = "26eb9aaf76e81b692f806f9140c2d2777410d7a1"
ARCHIVE = f"free-spoken-digit-dataset-{COMMIT}.zip"
URL = f"https://codeload.github.com/Jakobovski/free-spoken-digit-dataset/zip/{COMMIT}"
RECORDINGS_SHA256 = "3bc07cea778e6da766f50a736a358a72d0415277504a8a41936494f67a14bfa2"
"""Of what `git ls-tree --format='%(objectname) %(path)' 26eb9aa recordings/` prints."""

SPEAKERS = ("george", "jackson", "lucas", "nicolas", "theo", "yweweler")
TEST, VAL, TRAIN = range(5), range(5, 10), range(10, 50)
"""Numbers of the recordings of each speaker and digit; the first five are FSDD's test set."""
RATE = 8000
WINDOW, HOP, FRAMES, MELS = 256, 64, 128, 64
FLOOR = 80.0
"""Decibels below the loudest cell of a spectrogram that count as silence."""
BABBLERS = 3
NOTES = [
    "Spoken and handwritten digits, paired by label: the claims are tested on a constructed, label-paired digit set; "
    "the published tables are not re-run. It is not AV-MNIST.",
    "Images: MNIST, Y. LeCun and C. Cortes, CC BY-SA 3.0. Audio: Free Spoken Digit Dataset, Z. Jackson and others, "
    "github.com/Jakobovski/free-spoken-digit-dataset at 26eb9aa, CC BY-SA 4.0; changed into spectrograms.",
]
UNSEEN = "Seed i is tested on speaker i modulo six, who is in no other split."
Recording = tuple[int, int, int]
"""Digit, position in SPEAKERS, number."""


def build(
    *,
    unseen_speaker: bool = False,
    images_per_recording: int = 4,
    train_recordings: int = 40,
    energy: float = 1.0,
    noise: float = 0.0,
    babble: float | None = None,
    draw: int = 0,
    data_dir: Path | None = None,
) -> RawData:
    """Modalities `image`, uint8 (N, 28, 28, 1), and `audio`, uint8 (N, 64, 64, 1), of the same digits.

    Recordings 0-4 of each speaker and digit are test, 5-9 validation, from 10 on training. Test images are of MNIST's
    test part, the others of its training part; no image is in two pairs. Groups of test samples are the recordings.

    unseen_speaker: test on all 50 recordings a digit of one speaker, who is in no other split: speaker `draw` modulo
    six. Recordings 0-4 of the others are then left out.
    images_per_recording: pairs that each recording is in. train_recordings: of each speaker and digit, at most 40.
    energy: of images, keep the fewest leading principal components with this share of their variance, those of every
    sixth image of MNIST's training part; 1: all.
    noise: sd of Gaussian noise on pixels, as a share of half the range (127.5 grey levels).
    babble: three training recordings of other digits are mixed into each recording, at this ratio of its energy to
    theirs in decibels; None: none are.
    draw: another number gives other pairs, noise and babble in training and validation, and the same test set unless
    `unseen_speaker`.
    Raises KdbenchError for arguments out of range, for files that are not the published ones and for a download that
    failed.
    """
    _check(images_per_recording, train_recordings, energy, noise, draw)
    recordings, digits = _recordings(data_dir), mnist.read(data_dir)
    held_out = draw % len(SPEAKERS) if unseen_speaker else None
    heard = [speaker for speaker in range(len(SPEAKERS)) if speaker != held_out]
    clips = {
        "train": _of(heard, TRAIN[:train_recordings]),
        "val": _of(heard, VAL),
        "test": _of(heard, TEST) if held_out is None else _of([held_out], range(50)),
    }
    # The two parts of MNIST, and the splits whose images come from each.
    pairs = _pairs({s: clips[s] for s in ("val", "train")}, digits.labels["train"], images_per_recording, 0, draw)
    pairs |= _pairs({"test": clips["test"]}, digits.labels["test"], images_per_recording, held_out or 0, 0)
    raw = RawData(
        modalities={"image": {}, "audio": {}},
        kinds={"image": "image", "audio": "image"},
        labels={split: np.array([clip[0] for clip, _ in pairs[split]]) for split in SPLITS},
        class_names=digits.class_names,
        notes=[*NOTES, *([UNSEEN] if unseen_speaker else [])],
        groups=("recordings", [f"{d}_{SPEAKERS[s]}_{i}" for (d, s, i), _ in pairs["test"]]),
    )
    images = {s: digits.images["test" if s == "test" else "train"][[i for _, i in pairs[s]]] for s in SPLITS}
    mean, components = _leading(digits.images["train"][::6], energy)
    others = {digit: [clip for clip in clips["train"] if clip[0] != digit] for digit in range(10)}
    for number, split in enumerate(SPLITS):
        rng = np.random.default_rng([number, 0 if split == "test" else draw])
        pixels = images[split].reshape(len(images[split]), -1) - mean
        pixels = mean + pixels @ components @ components.T + 127.5 * noise * rng.standard_normal(pixels.shape)
        raw.modalities["image"][split] = np.rint(pixels).clip(0, 255).astype(np.uint8).reshape(images[split].shape)
        audio = raw.modalities["audio"][split] = np.empty((len(pixels), MELS, FRAMES // 2, 1), np.uint8)
        for place, (clip, _) in zip(audio, pairs[split], strict=True):
            sound = one_second(recordings[clip])
            if babble is not None:
                chosen = rng.choice(len(others[clip[0]]), BABBLERS, replace=False)
                voices = [recordings[others[clip[0]][i]] for i in chosen]
                sound = mixed(sound, sum(one_second(voice, rng) for voice in voices), babble)
            place[:, :, 0] = log_mel(sound)
    return raw


def source_files(args: dict, data_dir: Path | None) -> list[Path]:
    """The files of `data_dir` that `build` reads; none of what it downloads.

    Raises SourceMissing for a folder mnist or fsdd without what it is read for.
    """
    audio = _given(data_dir)
    return [*mnist.source_files({}, data_dir), *([audio] if audio else [])]


# --------------------------------------------------------------------------------------------------- sounds and images


def one_second(samples: np.ndarray, rng: np.random.Generator | None = None) -> np.ndarray:
    """(8000,) of a recording (L,): in its middle, or anywhere with `rng`; what is longer loses its end."""
    samples = samples[:RATE]
    room = RATE - len(samples)
    before = room // 2 if rng is None else rng.integers(room + 1)
    return np.pad(samples, (before, room - before))


def mixed(sound: np.ndarray, other: np.ndarray, ratio: float) -> np.ndarray:
    """sound + other, with `other` scaled so that the energy of sound is `ratio` decibels above its own."""
    return sound + other * np.sqrt(np.sum(sound**2) / np.sum(other**2) / 10 ** (ratio / 10))


def log_mel(sound: np.ndarray) -> np.ndarray:
    """uint8 (64, 64), high pitches first, of one second of sound (8000,).

    Power of 128 frames of 256 samples (Hann), 64 apart, in 64 mel bands; the mean of every two frames in decibels,
    from FLOOR below the loudest cell (0) to that (255).
    """
    margin = ((FRAMES - 1) * HOP + WINDOW - RATE) // 2
    frames = np.lib.stride_tricks.sliding_window_view(np.pad(sound, margin), WINDOW)[::HOP]
    power = np.abs(np.fft.rfft(frames * np.hanning(WINDOW + 1)[:-1])) ** 2
    bands = (power @ mel_filters().T).reshape(FRAMES // 2, 2, MELS).mean(axis=1).T[::-1]
    level = 10 * np.log10(np.maximum(bands / bands.max(), 10 ** (-FLOOR / 10)))
    return np.rint(255 * (1 + level / FLOOR)).astype(np.uint8)


@functools.cache
def mel_filters() -> np.ndarray:
    """Triangles (64, 129) of unit area in Hz over the bins of a transform, evenly spaced on the mel scale of Slaney's
    Auditory Toolbox (1998): linear to 1000 Hz, logarithmic from there. No band is empty at this resolution."""
    # 15 mel are 1000 Hz; from there 27 mel are a factor of 6.4.
    mel = np.linspace(0, 15 + 27 * np.log(RATE / 2 / 1000) / np.log(6.4), MELS + 2)
    corners = np.where(mel < 15, mel * 200 / 3, 1000 * 6.4 ** ((mel - 15) / 27))
    bins = np.fft.rfftfreq(WINDOW, 1 / RATE)
    triangles = np.lib.stride_tricks.sliding_window_view(corners, 3)
    return np.stack([np.interp(bins, (a, b, c), (0, 2 / (c - a), 0)) for a, b, c in triangles])


def _leading(images: np.ndarray, energy: float) -> tuple[np.ndarray, np.ndarray]:
    """Mean (D,) and the fewest leading principal components (D, K) that hold a share of the variance of images."""
    flat = images.reshape(len(images), -1).astype(float)
    if energy == 1:
        return flat.mean(axis=0), np.eye(flat.shape[1])
    variances, components = np.linalg.eigh(np.cov(flat, rowvar=False))
    held = np.cumsum(variances[::-1]) / variances.sum()
    return flat.mean(axis=0), components[:, ::-1][:, : np.searchsorted(held, energy) + 1]


# --------------------------------------------------------------------------------------------------------------- pairs


def _of(speakers: Sequence[int], numbers: Sequence[int]) -> list[Recording]:
    return [(digit, speaker, number) for digit in range(10) for speaker in speakers for number in numbers]


def _pairs(
    clips: dict[str, list[Recording]], labels: np.ndarray, images_per_recording: int, place: int, draw: int
) -> dict[str, list[tuple[Recording, int]]]:
    """{split: (recording, position of an image with its digit in `labels`)}, classes mixed; no image twice.

    place: begin so many times all these pairs further in the order of images, so that speakers who are held out in
    turn meet different test images, as long as there are enough.
    """
    pairs: dict[str, list[tuple[Recording, int]]] = {split: [] for split in clips}
    for digit in range(10):
        order = np.random.default_rng([digit, draw]).permutation(np.flatnonzero(labels == digit))
        own = {
            s: [clip for clip in of if clip[0] == digit for _ in range(images_per_recording)] for s, of in clips.items()
        }
        count = sum(map(len, own.values()))
        if count > len(order):
            raise KdbenchError(
                f"avdigits: images_per_recording is {images_per_recording}, so {count:,} images of a {digit} are "
                f"needed; there are {len(order):,}"
            )
        rest = iter(np.roll(order, -place * count).tolist())
        for split, recordings in own.items():
            pairs[split] += zip(recordings, rest, strict=False)
    return {s: [of[i] for i in stratified_order(np.array([clip[0] for clip, _ in of]))] for s, of in pairs.items()}


# ---------------------------------------------------------------------------------------------------------- recordings


def _recordings(data_dir: Path | None) -> dict[Recording, np.ndarray]:
    """Samples (L,) of every recording, as stored."""
    found = {}
    for name, content in _contents(_given(data_dir) or _downloaded()).items():
        digit, speaker, number = name.removesuffix(".wav").split("_")
        with wave.open(io.BytesIO(content)) as sound:
            samples = np.frombuffer(sound.readframes(sound.getnframes()), "<i2").astype(float)
        found[int(digit), SPEAKERS.index(speaker), int(number)] = samples
    return found


def _given(data_dir: Path | None) -> Path | None:
    """FSDD in `data_dir`; None where that has no folder fsdd."""
    folder = data_dir / "fsdd" if data_dir else None
    if folder is None or not folder.is_dir():
        return None
    found = next((path for path in (folder / ARCHIVE, folder / "fsdd.npz") if path.is_file()), None)
    if found is None:
        raise SourceMissing(f"avdigits: {folder} (setting KDBENCH_DATA) has neither {ARCHIVE} nor fsdd.npz")
    return found


def _downloaded() -> Path:
    """The archive in results/data/downloads, fetched if it is not there."""
    kept = DOWNLOADS / ARCHIVE
    with fetching("fsdd", URL, f"fsdd/{ARCHIVE}") as fresh:
        if not kept.is_file():
            urllib.request.urlretrieve(URL, fresh / ARCHIVE)
            _contents(fresh / ARCHIVE)
            (fresh / ARCHIVE).replace(kept)
    return kept


def _contents(path: Path) -> dict[str, bytes]:
    """{0_george_0.wav: its bytes} of the commit's recordings. Raises KdbenchError for others."""
    try:
        files = dict(_of_arrays(path) if path.suffix == ".npz" else _of_archive(path))
    except (zipfile.BadZipFile, zlib.error, EOFError, ValueError, KeyError, IndexError) as error:
        raise KdbenchError(f"avdigits: {path} cannot be read: {error}; fetch it again") from error
    lines = (f"{_git_id(files[name])} recordings/{name}\n" for name in sorted(files))
    if hashlib.sha256("".join(lines).encode()).hexdigest() != RECORDINGS_SHA256:
        wanted = {f"{d}_{speaker}_{i}.wav" for d in range(10) for speaker in SPEAKERS for i in range(50)}
        lacking = sorted(wanted - set(files))
        what = f"{len(lacking):,} are missing, such as {lacking[0]}" if lacking else "their bytes differ"
        raise KdbenchError(
            f"avdigits: the recordings in {path} are not those of commit {COMMIT[:7]}: {what}; fetch it again"
        )
    return files


def _of_archive(path: Path) -> Iterator[tuple[str, bytes]]:
    with zipfile.ZipFile(path) as archive:
        for entry in archive.infolist():
            place = PurePosixPath(entry.filename)
            if place.parent.name == "recordings" and place.suffix == ".wav":
                yield place.name, archive.read(entry)


def _of_arrays(path: Path) -> Iterator[tuple[str, bytes]]:
    """Recordings of fsdd.npz as the files that they were."""
    with np.load(path, allow_pickle=False) as stored:
        names = "samples", "offsets", "digit", "speaker", "index", "speaker_names"
        samples, offsets, digits, speakers, numbers, speaker_names = (stored[name] for name in names)
    for i, (digit, speaker, number) in enumerate(zip(digits, speakers, numbers, strict=True)):
        file = io.BytesIO()
        with wave.open(file, "wb") as sound:
            sound.setparams((1, 2, RATE, 0, "NONE", ""))
            sound.writeframes(samples[offsets[i] : offsets[i + 1]].astype("<i2").tobytes())
        yield f"{digit}_{speaker_names[speaker]}_{number}.wav", file.getvalue()


def _git_id(content: bytes) -> str:
    """The name that git gives a file with this content."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def _check(images_per_recording: int, train_recordings: int, energy: float, noise: float, draw: int) -> None:
    def require(truth: bool, what: str) -> None:
        if not truth:
            raise KdbenchError(f"avdigits: {what}")

    require(images_per_recording >= 1, f"images_per_recording is {images_per_recording}; the fewest are 1")
    require(1 <= train_recordings <= len(TRAIN), f"train_recordings is {train_recordings}; from 1 to {len(TRAIN)}")
    require(0 < energy <= 1, f"energy is {energy}; expected a share above 0, at most 1")
    require(noise >= 0 and draw >= 0, f"noise is {noise} and draw {draw}; neither can be negative")
