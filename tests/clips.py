"""Small clips in the folders of CREMA-D and AVE, without loss: of every second of a video the first frame has a grey
level of its own and the others are black, and every class has its tone."""

from __future__ import annotations

import wave
import zlib
from pathlib import Path

import numpy as np

EMOTIONS = ("NEU", "HAP", "SAD", "FEA", "DIS", "ANG")
ACTORS = range(1001, 1007)
CATEGORIES = ("Church bell", "Banjo", "Female speech, woman speaking")
EVENTS = {
    "train": [f"{category}&train{i}{j}&good&{j}&3" for i, category in enumerate(CATEGORIES) for j in range(3)],
    "val": [f"{category}&val{i}&good&0&3" for i, category in enumerate(CATEGORIES)],
    "test": [f"{category}&test{i}{j}&good&0&{3 * j}" for i, category in enumerate(CATEGORIES) for j in range(2)],
}
"""Lines of AVE's lists: events of three, two and one second, and test events without a length too."""
BIN = 22_050 / 512
"""Hertz between two rows of a spectrogram."""
FRAMES = 5
"""A second."""


def grey(label: int, second: int) -> int:
    return 40 * label + 10 * second + 5


def tone(name: str, label: int, seconds: float, rate: int) -> np.ndarray:
    """int16 (L,): a tone in row 10 * (label + 1) of its spectrogram, and some noise."""
    time = np.arange(round(seconds * rate)) / rate
    noise = np.random.default_rng(zlib.crc32(name.encode())).normal(0, 0.01, len(time))
    return ((0.3 * np.sin(2 * np.pi * 10 * (label + 1) * BIN * time) + noise) * 32767).astype(np.int16)


def write_sound(path: Path, samples: np.ndarray, rate: int = 16_000) -> None:
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, rate, 0, "NONE", ""))
        file.writeframes(samples.astype("<i2").tobytes())


def write_video(
    path: Path, label: int, seconds: int, codec: str, sound: np.ndarray | None = None, sound_codec: str = "alac"
) -> None:
    """sound: int16 (L,), 44,100 a second; written to the left channel, its negative third to the right."""
    import av

    with av.open(path, "w") as file:
        video = file.add_stream(codec, rate=FRAMES)
        video.height, video.width = 48, 64
        video.pix_fmt = {"flashsv": "bgr24", "png": "rgb24"}.get(codec, "yuv420p")
        audio = file.add_stream(sound_codec, rate=44_100, layout="stereo") if sound is not None else None
        for i in range(seconds * FRAMES):
            level = 0 if i % FRAMES else grey(label, i // FRAMES)
            pixels = np.full((video.height, video.width, 3), level, np.uint8)
            file.mux(video.encode(av.VideoFrame.from_ndarray(pixels, "rgb24")))
        file.mux(video.encode())
        if audio:
            frame = av.AudioFrame.from_ndarray(np.stack([sound, -(sound // 3)]), "s16p", "stereo")
            frame.sample_rate = 44_100
            file.mux(audio.encode(frame))
            file.mux(audio.encode())


def write_crema_d(folder: Path) -> None:
    """36 clips of six actors, of two or three seconds; one of each actor and of each emotion is in test.csv."""
    for place in ("VideoFlash", "AudioWAV"):
        (folder / place).mkdir(parents=True)
    lists = {"train": "", "test": ""}
    for actor in ACTORS:
        for label, emotion in enumerate(EMOTIONS):
            name, seconds = f"{actor}_DFA_{emotion}_XX", 2 + actor % 2
            write_video(folder / "VideoFlash" / f"{name}.flv", label, seconds, "flashsv")
            write_sound(folder / "AudioWAV" / f"{name}.wav", tone(name, label, seconds, 16_000))
            lists["test" if (actor - ACTORS[0] + label) % 6 == 0 else "train"] += f"{name},{emotion}\r\n"
    for part, lines in lists.items():
        (folder / f"{part}.csv").write_text(lines, encoding="utf-8-sig", newline="")


def write_ave(folder: Path) -> None:
    """The videos of EVENTS, of three seconds."""
    (folder / "AVE").mkdir(parents=True)
    for part, events in EVENTS.items():
        (folder / f"{part}Set.txt").write_text("\n".join(events) + "\n")
        for event in events:
            category, video, *_ = event.split("&")
            label = sorted(CATEGORIES).index(category)
            write_video(folder / "AVE" / f"{video}.mp4", label, 3, "png", tone(video, label, 3, 44_100))
