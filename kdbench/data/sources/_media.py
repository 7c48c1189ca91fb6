"""What the sources of clips share: their files, one frame and one spectrogram of each, and the arrays of them.

    visual   image (224, 224, 3): a frame, resized bilinearly without regard to its shape
    audio    spectrogram (257, 1004, 1): low frequencies at the top, time to the right

As FD-CMKD's code makes them (zxn0710/re-FD-CMKD-main at feda414, a re-upload): frames are those of every whole second,
and evaluation reads the middle one; sound is mono, 22,050 Hz, repeated ten times and cut to 160,000 samples (7.3 s),
SciPy's spectrogram of 512 samples with an overlap of 353, log(x + 1e-7), standardised for each clip.

Departures:

- Training reads one frame of each clip, drawn when the data are packed (`draw`); the code draws one in every epoch.
- Random boxes are cut out of the frame of 224 pixels, the code's out of the frame as it was filmed.
- Spectrograms are packed in 256 levels from LOWEST to HIGHEST standard deviations, so a step is 0.09. What lies beyond
  is cut off, and a note says how much of a data set that is.
- Seconds are those of time stamps, where the code counts frames by the whole part of their rate, and frames do not pass
  through JPEG.
- SciPy resamples the sound (`resample_poly`); in the code librosa does.
- The code adds frames at random times to a clip with fewer than three, and passes over a clip without files.

PyAV decodes, with the FFmpeg that its wheel brings along. It is the extra `media`.
"""

from __future__ import annotations

import functools
import math
import zlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import numpy as np
from PIL import Image

from kdbench.cpu import cores
from kdbench.data.labelled import list_faults
from kdbench.data.raw import RawData, stratified_order
from kdbench.types import KdbenchError

SIZE = 224
RATE, REPEATS, LENGTH = 22_050, 10, 160_000
WINDOW, OVERLAP = 512, 353
BINS, COLUMNS = WINDOW // 2 + 1, (LENGTH - OVERLAP) // (WINDOW - OVERLAP)
LOWEST, HIGHEST = -4.0, 20.0
"""Spectrograms of speech lean to one side, quiet ones most. Of 150 spoken digits (FSDD) 0.005 % of the values lie
beyond, and packing errs by 0.04 (root mean square)."""
POINTER = b"version https://git-lfs"
"""How a file begins that stands for one of Git LFS."""


@dataclass(frozen=True)
class Clip:
    name: str
    video: Path
    sound: Path
    label: int
    start: float = 0.0
    """Seconds; what lies before it is not read."""
    end: float | None = None
    """Seconds; None: all that follows is read."""


def decoded(where: str, clips: dict[str, list[Clip]], class_names: list[str], notes: list[str], draw: int) -> RawData:
    """Modalities `visual`, uint8 (N, 224, 224, 3), and `audio`, uint8 (N, 257, 1004, 1), each split in a mixed order.

    clips: split -> its clips. draw: another number gives other frames in training. All cores decode. Raises
    KdbenchError that names the files which cannot be used, or says that PyAV is not installed.
    """
    _av()
    order = {split: stratified_order(np.array([clip.label for clip in some])) for split, some in clips.items()}
    clips = {split: [clips[split][i] for i in order[split]] for split in clips}
    raw = RawData(
        modalities={"visual": {}, "audio": {}},
        kinds={"visual": "image", "audio": "spectrogram"},
        labels={split: np.array([clip.label for clip in some]) for split, some in clips.items()},
        class_names=class_names,
        notes=notes,
        names={split: [clip.name for clip in some] for split, some in clips.items()},
    )
    faults: dict[str, list[str]] = {}
    beyond = values = 0
    with ThreadPoolExecutor(cores()) as pool:
        for split, some in clips.items():
            visual = raw.modalities["visual"][split] = np.zeros((len(some), SIZE, SIZE, 3), np.uint8)
            audio = raw.modalities["audio"][split] = np.zeros((len(some), BINS, COLUMNS, 1), np.uint8)
            read = functools.partial(_read, draw=draw if split == "train" else None)
            for i, (clip, found) in enumerate(zip(some, pool.map(read, some), strict=True)):
                if isinstance(found, str):
                    faults.setdefault(found, []).append(clip.name)
                    continue
                visual[i], spectrogram = found
                audio[i, :, :, 0] = levels(spectrogram)
                beyond += np.count_nonzero((spectrogram < LOWEST) | (spectrogram > HIGHEST))
                values += spectrogram.size
    if faults:
        raise KdbenchError(f"{where}: {list_faults(faults, 'clip')}")
    raw.notes.append(
        "Training reads one frame of each clip, drawn when the data were packed. "
        f"Spectrograms have 256 levels; {beyond / values:.2%} of their values lay beyond and were cut off."
    )
    return raw


def _read(clip: Clip, draw: int | None) -> tuple[np.ndarray, np.ndarray] | str:
    """A frame and the standardised spectrogram of a clip, or what is wrong with its files."""
    path = clip.video
    try:
        image = frame(clip, draw)
        path = clip.sound
        return image, log_spectrogram(sound(clip))
    except (_av().FFmpegError, KdbenchError) as error:
        pointer = path.open("rb").read(len(POINTER)) == POINTER
        said = getattr(error, "strerror", None) or str(error)
        return f"{path.suffix[1:]}: " + ("a pointer of Git LFS; run `git lfs pull`" if pointer else said)


def _av() -> ModuleType:
    try:
        import av
    except ImportError:
        raise KdbenchError('clips are decoded by PyAV, which is not installed: pip install "kdbench[media]"') from None
    return av


# -------------------------------------------------------------------------------------------------------------- frames


def frame(clip: Clip, draw: int | None) -> np.ndarray:
    """uint8 (224, 224, 3): of the first frames of all whole seconds one that `draw` and the clip's name choose, or the
    middle one (None). Raises KdbenchError where there is none, FFmpegError where the file cannot be decoded."""
    found: list = []
    with _av().open(clip.video) as file:
        first = None
        for image in file.decode(video=0) if file.streams.video else ():
            if image.pts is None:
                continue
            time = image.pts * image.time_base
            first = time if first is None else first
            if clip.end is not None and time - first >= clip.end:
                break
            if time - first >= clip.start + len(found):
                found.append(image)
        if not found:
            raise KdbenchError(f"no frame after {clip.start:g} s")
        if draw is None:
            chosen = found[len(found) // 2]
        else:
            chosen = found[np.random.default_rng([draw, zlib.crc32(clip.name.encode())]).integers(len(found))]
        return np.asarray(chosen.to_image().resize((SIZE, SIZE), Image.Resampling.BILINEAR))


# --------------------------------------------------------------------------------------------------------------- sound


def sound(clip: Clip) -> np.ndarray:
    """Samples (L,) between -1 and 1 of all channels' mean, 22,050 a second. Raises KdbenchError where there are too few
    for a spectrogram, FFmpegError where the file cannot be decoded."""
    from scipy.signal import resample_poly

    av = _av()
    with av.open(clip.sound) as file:
        stream = next(iter(file.streams.audio), None)
        resampler = av.AudioResampler(format="fltp")
        parts = [
            part.to_ndarray().mean(axis=0, dtype=np.float64)
            for packet in (file.decode(stream) if stream else ())
            for part in resampler.resample(packet)
        ]
        rate = stream.rate if stream else RATE
    first, last = (None if second is None else round(second * rate) for second in (clip.start, clip.end))
    samples = np.concatenate([np.empty(0), *parts])[first:last]
    if REPEATS * len(samples) * RATE < LENGTH * rate:
        shortest = LENGTH / RATE / REPEATS
        raise KdbenchError(f"{len(samples) / rate:.2f} s of sound after {clip.start:g} s; it takes {shortest:.2f}")
    shared = math.gcd(RATE, rate)
    return resample_poly(samples, RATE // shared, rate // shared)


def log_spectrogram(samples: np.ndarray) -> np.ndarray:
    """Samples (L,), at 22,050 Hz -> (257, 1004), of mean 0 and standard deviation 1."""
    from scipy.signal import spectrogram

    repeated = np.tile(samples, REPEATS)[:LENGTH].clip(-1, 1)
    power = spectrogram(repeated, RATE, nperseg=WINDOW, noverlap=OVERLAP)[2]
    logarithm = np.log(power + 1e-7)
    return (logarithm - logarithm.mean()) / (logarithm.std() + 1e-9)


def levels(values: np.ndarray) -> np.ndarray:
    """uint8: 0 for LOWEST, 255 for HIGHEST."""
    return np.rint((values - LOWEST) / (HIGHEST - LOWEST) * 255).clip(0, 255).astype(np.uint8)
