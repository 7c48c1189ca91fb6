"""AVE: 4,143 events of 28 kinds that are seen and heard, in videos of ten seconds from YouTube, from a folder.

    ave/AVE/RUhOCu3LNXM.mp4                        a video's id is its name
    ave/trainSet.txt, ave/valSet.txt, ave/testSet.txt
                                                   lines CATEGORY&VIDEO&QUALITY&START&END, the last two in seconds

That is AVE_Dataset.zip (github.com/YapengTian/AVE-ECCV18); its Annotations.txt, all lines in one file, is not read. The
lists have 3,339, 402 and 402 lines. Every video of a list must be there.

    visual   image (224, 224, 3)            audio   spectrogram (257, 1004, 1)

Frames and sound are those from START to END; the one event of no length stands for its whole video. What is made of
them, and how it departs from FD-CMKD's code, is in kdbench/data/sources/_media.py and docs/your-own-data.md. PyAV is
needed: pip install "kdbench[media]".

Forty-five videos have lines of two or three categories, a banjo and a mandolin in one, say. As in C2KD's loader
(huofushuo/C2KD at 8cd6bbc), the first line of a video in a list counts, so 27 of the training lines do not. That loader
also reads the first frame that the system lists, and fills 257 x 1024 values with a spectrogram of 257 x 1004, which
shifts every row against the one above; neither is done here. What cut the events out for it was not released.

Source: Y. Tian and others, Audio-Visual Event Localization in Unconstrained Videos, ECCV 2018, arXiv 1803.08842.
Licence: none is stated; the videos belong to those who uploaded them. Nothing of it is part of kdbench.
"""

from __future__ import annotations

from pathlib import Path

from kdbench.data.labelled import check_files, locate
from kdbench.data.raw import RawData
from kdbench.data.sources._media import Clip, decoded
from kdbench.types import KdbenchError

BIBTEX = """
@inproceedings{tian2018ave,
  author = {Tian, Yapeng and Shi, Jing and Li, Bochen and Duan, Zhiyao and Xu, Chenliang},
  title = {Audio-Visual Event Localization in Unconstrained Videos},
  booktitle = {European Conference on Computer Vision},
  year = {2018},
  eprint = {1803.08842},
  archiveprefix = {arXiv},
}
"""
MODALITIES = ("visual", "audio")
RELEASED = {"train": 3339, "val": 402, "test": 402}
"""Lines."""


def build(*, folder: str = "ave", draw: int = 0, data_dir: Path | None = None) -> RawData:
    """Modalities `visual`, uint8 (N, 224, 224, 3), and `audio`, uint8 (N, 257, 1004, 1).

    folder: in `data_dir` unless absolute. draw: another number gives another frame of each training event, and the same
    validation and test sets. Raises KdbenchError that names missing files, lines of a list, events that cannot be
    decoded, or an argument out of range, and where PyAV is not installed.
    """
    if draw < 0:
        raise KdbenchError(f"ave: draw is {draw}; expected from 0 on")
    place = locate("ave", folder, data_dir)
    lines = _read(place)
    class_names = sorted({category for some in lines.values() for category, *_ in some})
    clips, notes = {}, []
    for part, some in lines.items():
        first: dict[str, Clip] = {}
        for category, video, start, end in some:
            path = _path(place, video)
            span = (start, end) if start < end else (0.0, None)
            first.setdefault(video, Clip(video, path, path, class_names.index(category), *span))
        clips[part] = list(first.values())
        if left_out := len(some) - len(first):
            notes.append(f"{left_out:,} {part} lines of videos that an earlier line names are left out.")
    for earlier, later in (("train", "val"), ("train", "test"), ("val", "test")):
        shared = {clip.name for clip in clips[earlier]} & {clip.name for clip in clips[later]}
        if shared:
            notes.append(f"{len(shared):,} videos are in {earlier} and in {later} (such as {min(shared)}).")
    if (counts := {part: len(some) for part, some in lines.items()}) != RELEASED:
        told = ", ".join(f"{count:,} {part}" for part, count in counts.items())
        notes.append(f"The lists have {told} lines; released: 3,339, 402 and 402.")
    return decoded("ave", clips, class_names, notes, draw)


def source_files(args: dict, data_dir: Path | None) -> list[Path]:
    """All files that `build` reads. Raises KdbenchError as `build` does, but for events that cannot be decoded."""
    place = locate("ave", args.get("folder", build.__kwdefaults__["folder"]), data_dir)
    videos = {video for some in _read(place).values() for _, video, *_ in some}
    return sorted([*(_list(place, part) for part in RELEASED), *(_path(place, video) for video in videos)])


def _read(place: Path) -> dict[str, list[tuple[str, str, float, float]]]:
    """{train, val, test: (category, video, start, end)}, all of whose videos are there."""
    check_files("ave", place, [_list(place, part) for part in RELEASED])
    lines = {part: _listed(_list(place, part)) for part in RELEASED}
    check_files("ave", place, {_path(place, video) for some in lines.values() for _, video, *_ in some})
    return lines


def _listed(path: Path) -> list[tuple[str, str, float, float]]:
    found = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            category, video, _, start, end = line.split("&")
            event = category, video, float(start), float(end)
        except ValueError:
            event = "", "", 0.0, 0.0
        if not event[1] or Path(event[1]).name != event[1] or not 0 <= event[2] <= event[3]:
            expected = "CATEGORY&VIDEO&QUALITY&START&END, such as Church bell&RUhOCu3LNXM&good&0&10"
            raise KdbenchError(f"ave: line {number} of {path} is {line!r}; expected {expected}")
        found.append(event)
    return found


def _list(place: Path, part: str) -> Path:
    return place / f"{part}Set.txt"


def _path(place: Path, video: str) -> Path:
    return place / "AVE" / f"{video}.mp4"
