"""CrisisMMD v2.0: tweets of seven natural disasters of 2017, each an image with its text, where both have one label.

    image   image (size, size, 3)
    text    tokens of the tweet, padded to `length`

Source: F. Alam, F. Ofli, M. Imran, CrisisMMD: Multimodal Twitter Datasets from Natural Disasters, ICWSM 2018; the split
is that of F. Ofli, F. Alam, M. Imran, Analysis of Social Media Data using Multimodal Deep Learning for Disaster
Response, ISCRAM 2020. Licence: Creative Commons Attribution-NonCommercial-ShareAlike 4.0, as QCRI/CrisisMMD on Hugging
Face states it. Nothing of it is part of kdbench, and nothing is downloaded.

Two archives of https://crisisnlp.qcri.org/crisismmd are unpacked into `data_dir` (the setting KDBENCH_DATA), the split
into the folder of the images:

    CrisisMMD_v2.0/data_image/EVENT/DATE/TWEET_NUMBER.jpg (or .png)
    CrisisMMD_v2.0/crisismmd_datasplit_agreed_label/task_TASK_text_img_agreed_lab_train.tsv, ..._dev.tsv, ..._test.tsv

A table has a line a pair and tab-separated columns, of which tweet_text, image (its path below the folder) and label
are read. No tweet is in two splits; 863 of the 6,126 humanitarian training pairs are further images of a tweet.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

import numpy as np

from kdbench.data.labelled import NAMED, Labelled, list_faults, list_remarks, locate
from kdbench.data.packed import SPLITS
from kdbench.data.raw import RawData, SourceMissing, stratified_order
from kdbench.data.sources.imagefolder import Pictures
from kdbench.data.tokens import FIRST, published_tokens, tokens_of_words, vocabulary_of, words
from kdbench.errors import unknown
from kdbench.types import KdbenchError

BIBTEX = """
@inproceedings{alam2018crisismmd,
  author = {Alam, Firoj and Ofli, Ferda and Imran, Muhammad},
  title = {{CrisisMMD}: Multimodal {Twitter} Datasets from Natural Disasters},
  booktitle = {Proceedings of the International AAAI Conference on Web and Social Media},
  volume = {12},
  number = {1},
  year = {2018},
}

@inproceedings{ofli2020crisismmd,
  author = {Ofli, Ferda and Alam, Firoj and Imran, Muhammad},
  title = {Analysis of Social Media Data using Multimodal Deep Learning for Disaster Response},
  booktitle = {International Conference on Information Systems for Crisis Response and Management},
  year = {2020},
}
"""
MODALITIES = ("image", "text")
TABLES = "crisismmd_datasplit_agreed_label"
PARTS = {"train": "train", "val": "dev", "test": "test"}
"""Split -> what the tables call it."""
READ = ("tweet_text", "image", "label")
CLASSES = {
    "informative": ("informative", "not_informative"),
    "humanitarian": (
        "affected_individuals",
        "infrastructure_and_utility_damage",
        "not_humanitarian",
        "other_relevant_information",
        "rescue_volunteering_or_donation_effort",
    ),
}
MERGED = {
    "injured_or_dead_people": "affected_individuals",
    "missing_or_found_people": "affected_individuals",
    "vehicle_damage": "infrastructure_and_utility_damage",
}
"""Those of the tables' eight humanitarian labels that Ofli et al. (2020) count among others, which leaves five."""


@dataclass(frozen=True)
class Row:
    """A line of a table."""

    text: str
    image: Path
    label: str


def build(
    *,
    folder: str = "CrisisMMD_v2.0",
    task: Literal["humanitarian", "informative"] = "humanitarian",
    size: int = 224,
    tokenizer: str = "words",
    length: int = 48,
    vocabulary: int = 8000,
    data_dir: Path | None = None,
) -> RawData:
    """Modalities `image`, uint8 (N, size, size, 3), and `text`, int32 (N, 1, length, 1), in the published splits, each
    shuffled and stratified in a fixed way.

    folder: in `data_dir` unless absolute. task: five humanitarian classes (MERGED says how the tables' eight become
    five), or whether a pair is informative. size: side in pixels, at least 8; images are cut to a square and resized as
    those of imagefolder. tokenizer: `words`, or the name (or folder) of one of Hugging Face's, as a model `huggingface`
    needs it. length: tokens of a text; a longer one loses its end. vocabulary: how many words at most have a token of
    their own, the most frequent ones of training; for `words` alone.
    Raises SourceMissing if there is no such folder, and KdbenchError that lists the files which it lacks, or names the
    line of a table or the images which cannot be used.
    """
    for name, value, least in (("size", size, 8), ("length", length, 1), ("vocabulary", vocabulary, 1)):
        if value < least:
            raise KdbenchError(f"crisismmd: {name} is {value}; the smallest is {least}")
    place = locate("crisismmd", folder, data_dir)
    rows = {split: _mixed(some, CLASSES[task]) for split, some in read(place, task).items()}
    labels = {split: np.array([CLASSES[task].index(row.label) for row in some]) for split, some in rows.items()}
    found = Labelled(f"crisismmd: {place}", {}, labels, list(CLASSES[task]))
    images = {}
    for split, some in rows.items():
        found.names[split] = [row.image.relative_to(place).as_posix() for row in some]
        pictures = Pictures(found, split, [row.image for row in some], size, "white", resize=True)
        images[split] = pictures[np.arange(len(some))]
    if found.faults:
        raise KdbenchError(f"{found.where}: {list_faults(found.faults)}")
    texts = {split: [row.text for row in some] for split, some in rows.items()}
    if tokenizer == "words":
        tokens, count, note = _tokens(texts, length, vocabulary)
    else:
        tokens, count = published_tokens(texts, tokenizer, length)
        note = f"texts: tokens of {tokenizer}, {length} at most"
    return RawData(
        modalities={"image": images, "text": tokens},
        kinds={"image": "image", "text": "tokens"},
        labels=labels,
        class_names=found.class_names,
        notes=[
            "CrisisMMD v2.0 (Alam, Ofli, Imran 2018), CC BY-NC-SA 4.0; pairs whose image and text have one label, in "
            f"the split of Ofli, Alam, Imran (2020), task {task}",
            f"images are cut to a square about the centre and resized to {size}x{size} (bicubic)",
            note,
            *list_remarks(found.remarks),
        ],
        names=found.names,
        vocabularies={"text": count},
    )


def source_files(args: dict, data_dir: Path | None) -> list[Path]:
    """The three tables and all images that they name. Raises as `build` does, but for what is wrong with images."""
    args = build.__kwdefaults__ | args
    folder = locate("crisismmd", args["folder"], data_dir)
    rows = read(folder, args["task"])
    images = dict.fromkeys(row.image for some in rows.values() for row in some)
    return [*(table(folder, args["task"], split) for split in SPLITS), *images]


# --------------------------------------------------------------------------------------------------------------- tables


def table(folder: Path, task: str, split: str) -> Path:
    return folder / TABLES / f"task_{task}_text_img_agreed_lab_{PARTS[split]}.tsv"


def read(folder: Path, task: str) -> dict[str, list[Row]]:
    """The rows of each split, in the order of its table. Raises as `source_files` does."""
    if not folder.exists():
        raise SourceMissing(f"crisismmd: no folder {folder.name} in {folder.parent}; it needs data_image and {TABLES}")
    paths = {split: table(folder, task, split) for split in SPLITS}
    _require(folder, paths.values())
    rows = {split: _rows(path, folder, task) for split, path in paths.items()}
    _require(folder, (row.image for some in rows.values() for row in some))
    return rows


def _require(folder: Path, paths: Iterable[Path]) -> None:
    lacking = [path.relative_to(folder).as_posix() for path in dict.fromkeys(paths) if not path.is_file()]
    if lacking:
        more = f" and {len(lacking) - NAMED:,} more" if len(lacking) > NAMED else ""
        raise KdbenchError(
            f"crisismmd: {folder} lacks {len(lacking):,} file{'s' if len(lacking) > 1 else ''}: "
            f"{', '.join(lacking[:NAMED])}{more}"
        )


def _rows(path: Path, folder: Path, task: str) -> list[Row]:
    try:
        header, *lines = path.read_text(encoding="utf-8-sig").removesuffix("\n").split("\n")
    except UnicodeDecodeError as error:
        raise KdbenchError(f"crisismmd: {path} is not UTF-8 text: {error}") from None
    columns = header.split("\t")
    if lacking := [name for name in READ if name not in columns]:
        raise KdbenchError(f"crisismmd: {path} has no column {lacking[0]}; its first line names {', '.join(columns)}")
    rows = []
    for number, line in enumerate(lines, start=2):
        where, values = f"crisismmd: {path}, line {number}", line.split("\t")
        if len(values) != len(columns):
            raise KdbenchError(f"{where}: {len(values)} columns, and the first line has {len(columns)}")
        text, image, label = (dict(zip(columns, values, strict=True))[name] for name in READ)
        label = MERGED.get(label, label) if task == "humanitarian" else label
        if label not in CLASSES[task]:
            raise unknown("label", label, CLASSES[task], where)
        place = PurePosixPath(image)
        if place.is_absolute() or ".." in place.parts:
            raise KdbenchError(f"{where}: the image {image} is not in the folder")
        rows.append(Row(text, folder / place, label))
    if not rows:
        raise KdbenchError(f"crisismmd: {path} has no line but its first")
    return rows


def _tokens(texts: dict[str, list[str]], length: int, vocabulary: int) -> tuple[dict[str, np.ndarray], int, str]:
    """Tokens of each split by words of training, how many there are, and a note on them."""
    in_words = {split: [words(text) for text in some] for split, some in texts.items()}
    known = vocabulary_of(in_words["train"], vocabulary)
    tokens = {split: tokens_of_words(some, known, length) for split, some in in_words.items()}
    cut = sum(len(text) > length for some in in_words.values() for text in some)
    others = np.mean([word not in known for text in in_words["test"] for word in text])
    note = (
        f"texts: {len(known):,} words of training; {others:.1%} of the words of test texts are others; "
        f"texts of more than {length} words, which lose their end: {cut:,}"
    )
    return tokens, FIRST + len(known), note


def _mixed(rows: list[Row], classes: tuple[str, ...]) -> list[Row]:
    """In an order that mixes the classes."""
    return [rows[i] for i in stratified_order(np.array([classes.index(row.label) for row in rows]))]
