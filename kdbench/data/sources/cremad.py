"""CREMA-D: 7,442 clips of 91 actors who say twelve sentences in six emotions, as pictures and as sound, from a folder.

    crema-d/VideoFlash/1001_DFA_ANG_XX.flv    a clip's name: actor, sentence, emotion, intensity
    crema-d/AudioWAV/1001_DFA_ANG_XX.wav
    crema-d/train.csv, crema-d/test.csv       lines NAME,EMOTION; not read where `split` is "actors"

The first two are folders of github.com/CheyneyComputerScience/CREMA-D (7.5 GB, Git LFS). The lists are those of OGM-GE,
data/CREMAD of github.com/GeWu-Lab/OGM-GE_CVPR2022 at 343dc1d: 6,698 and 744 clips. Every clip of a split must be there.

    visual   image (224, 224, 3)            audio   spectrogram (257, 1004, 1)

What is made of a clip, and how it departs from FD-CMKD's code, is in kdbench/data/sources/_media.py and
docs/your-own-data.md. PyAV is needed: pip install "kdbench[media]".

The released split has all 91 actors on both sides, so it does not tell whether an emotion is known on a new face. It
has no validation clips, so the released code chooses epochs on the test clips; here some training clips are validation.
`split: actors` tests on nine actors who are in no other split, and validates on eight others.

Source: H. Cao and others, CREMA-D: Crowd-sourced Emotional Multimodal Actors Dataset, IEEE Transactions on Affective
Computing 5(4), 2014. Licence: Open Database License 1.0, contents under the Database Contents License 1.0; arrays made
from it, such as results/data, are a derivative database. Nothing of it is part of kdbench.
"""

from __future__ import annotations

import csv
import re
from pathlib import Path
from typing import Literal

import numpy as np

from kdbench.data.labelled import check_files, locate
from kdbench.data.raw import RawData, stratified_order
from kdbench.data.sources._media import Clip, decoded
from kdbench.types import KdbenchError

BIBTEX = """
@article{cao2014cremad,
  author = {Cao, Houwei and Cooper, David G. and Keutmann, Michael K. and Gur, Ruben C. and Nenkova, Ani and
            Verma, Ragini},
  title = {{CREMA-D}: Crowd-sourced Emotional Multimodal Actors Dataset},
  journal = {IEEE Transactions on Affective Computing},
  volume = {5},
  number = {4},
  pages = {377--390},
  year = {2014},
}
"""
MODALITIES = ("visual", "audio")
EMOTIONS = {"NEU": "neutral", "HAP": "happy", "SAD": "sad", "FEA": "fear", "DIS": "disgust", "ANG": "anger"}
"""In the order of the released code."""
NAME = re.compile(rf"\d{{4}}_[A-Z]{{3}}_({'|'.join(EMOTIONS)})_[A-Z]{{1,2}}")
RELEASED = {"train": 6698, "test": 744}
TEST_SHARE = 0.1
"""Of the actors; nine of 91 have about as many clips as the released test list."""


def build(
    *,
    folder: str = "crema-d",
    split: Literal["released", "actors"] = "released",
    val_share: float = 0.1,
    draw: int = 0,
    data_dir: Path | None = None,
) -> RawData:
    """Modalities `visual`, uint8 (N, 224, 224, 3), and `audio`, uint8 (N, 257, 1004, 1). Groups are the test actors.

    folder: in `data_dir` unless absolute. split: that of the two lists, or nine test actors whom no other split has.
    val_share: share of the training clips that become validation clips, the same of each emotion; with `actors` a share
    of the training actors. draw: another number gives another validation and another frame of each training clip, and
    the same test set. Raises KdbenchError that names missing files, a line of a list, clips that cannot be decoded or
    an argument out of range, and where PyAV is not installed.
    """
    place = locate("cremad", folder, data_dir)
    names, notes = _split(place, split, val_share, draw)
    clips = {part: [_clip(place, name) for name in some] for part, some in names.items()}
    raw = decoded("cremad", clips, list(EMOTIONS.values()), notes, draw)
    raw.groups = ("actors", [_actor(name) for name in raw.names["test"]])
    return raw


def source_files(args: dict, data_dir: Path | None) -> list[Path]:
    """All files that `build` reads. Raises KdbenchError as `build` does, but for clips that cannot be decoded."""
    args = build.__kwdefaults__ | args
    place = locate("cremad", args["folder"], data_dir)
    names = [name for some in _read(place, args["split"]).values() for name in some]
    lists = [] if args["split"] == "actors" else [place / f"{part}.csv" for part in RELEASED]
    return sorted([*lists, *(path for name in names for path in _paths(place, name))])


def _split(
    place: Path, split: Literal["released", "actors"], val_share: float, draw: int
) -> tuple[dict[str, list[str]], list[str]]:
    """({train, val, test: names of clips}, notes)."""
    if not 0 < val_share < 1 or draw < 0:
        raise KdbenchError(f"cremad: val_share is {val_share} and draw {draw}; expected a share below 1 and from 0 on")
    names = _read(place, split)
    if split == "actors":
        actors = np.unique([_actor(name) for name in names["train"]])
        count = max(round(val_share * len(actors)), 1)
        held_out = set(np.random.default_rng(draw).permutation(actors)[:count])
        chosen = {name for name in names["train"] if _actor(name) in held_out}
        counts = (len(actors) - count, count, len({_actor(name) for name in names["test"]}))
        notes = ["The split is by actors: {} in training, {} in validation, {} in test, nobody in two.".format(*counts)]
    else:
        order = stratified_order(np.array([_label(name) for name in names["train"]]), draw)
        chosen = {names["train"][i] for i in order[: max(round(val_share * len(order)), 1)]}
        shared, tested = ({_actor(name) for name in names[part]} for part in ("train", "test"))
        notes = [
            f"The split is the released one, of which {len(chosen):,} training clips are validation here: "
            f"{len(shared & tested)} of {len(tested)} test actors are in training too."
        ]
        if (counts := {part: len(some) for part, some in names.items()}) != RELEASED:
            notes.append(f"The lists have {counts['train']:,} and {counts['test']:,} clips; released: 6,698 and 744.")
    if len(chosen) == len(names["train"]):
        raise KdbenchError(f"cremad: val_share {val_share} leaves no training clips of {len(chosen):,}")
    parts = {"train": sorted(set(names["train"]) - chosen), "val": sorted(chosen), "test": sorted(names["test"])}
    return parts, notes


def _read(place: Path, split: Literal["released", "actors"]) -> dict[str, list[str]]:
    """{train, test: names of clips}, all of whose files are there; training has the validation clips too."""
    if split == "released":
        check_files("cremad", place, [place / f"{part}.csv" for part in RELEASED])
        names = {part: _listed(place / f"{part}.csv") for part in RELEASED}
        if twice := set(names["train"]) & set(names["test"]):
            raise KdbenchError(f"cremad: {min(twice)} is in train.csv and in test.csv of {place}")
    else:
        names = _by_actor(place)
    check_files("cremad", place, [path for some in names.values() for name in some for path in _paths(place, name)])
    return names


def _listed(path: Path) -> list[str]:
    names: dict[str, None] = {}
    with path.open(encoding="utf-8-sig", newline="") as lines:
        for number, line in enumerate(csv.reader(lines), start=1):
            name, emotion = line if len(line) == 2 else ("", "")
            form = NAME.fullmatch(name)
            if not form or form[1] != emotion or name in names:
                expected = "a clip's name and its emotion, once each, such as 1001_DFA_ANG_XX,ANG"
                raise KdbenchError(f"cremad: line {number} of {path} is {','.join(line)!r}; expected {expected}")
            names[name] = None
    return list(names)


def _by_actor(place: Path) -> dict[str, list[str]]:
    """All clips of the folder: those of a tenth of the actors, always the same, are test."""
    check_files("cremad", place, [])
    found = sorted({path.stem for kind in ("VideoFlash/*.flv", "AudioWAV/*.wav") for path in place.glob(kind)})
    names = [name for name in found if not name.startswith(".")]
    if strange := [name for name in names if not NAME.fullmatch(name)]:
        raise KdbenchError(f"cremad: {place} has a clip {strange[0]}; expected names such as 1001_DFA_ANG_XX")
    actors = np.unique([_actor(name) for name in names])
    if len(actors) < 3:
        raise KdbenchError(f"cremad: clips of {len(actors)} actors in {place}; a split by actors takes three")
    tested = set(np.random.default_rng(0).permutation(actors)[: max(round(TEST_SHARE * len(actors)), 1)])
    return {
        "train": [name for name in names if _actor(name) not in tested],
        "test": [name for name in names if _actor(name) in tested],
    }


def _clip(place: Path, name: str) -> Clip:
    return Clip(name, *_paths(place, name), _label(name))


def _paths(place: Path, name: str) -> tuple[Path, Path]:
    """Its video and its sound."""
    return place / "VideoFlash" / f"{name}.flv", place / "AudioWAV" / f"{name}.wav"


def _actor(name: str) -> str:
    return name[:4]


def _label(name: str) -> int:
    return list(EMOTIONS).index(NAME.fullmatch(name)[1])
