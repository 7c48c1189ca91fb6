"""Wikipedia featured articles: 2,866 real pairs of an image and the section of text around it, as features only.

    image   sequence (1, 1, 128): SIFT bag of words, the share of each visual word
    text    sequence (1, 1, 1000): tf-idf of words; or (1, 1, 10): topics of latent Dirichlet allocation

A vector of D features is a sequence of one point with D channels, so each feature is normalised by itself. There are no
pictures and no words here: no image network and no language model can be trained on it. The pairs are real, instance
by instance, and their ten classes are the categories of the articles. Text tells them far better than the image does.

Source: N. Rasiwasia and others, A New Approach to Cross-Modal Multimedia Retrieval, ACM Multimedia 2010,
http://www.svcl.ucsd.edu/projects/crossmodal/; the files are those that https://github.com/azrealwang/sph has at commit
d6d090f. Licence: none is stated there for the data, so no part of it comes with kdbench.

Looked for in this order: the folder wiki in `data_dir` (the setting KDBENCH_DATA) with the three published files or
with wiki_features.npz (the same arrays: image_train, text_tfidf_train, text_lda_train, label_train, and so for test),
then results/data/downloads/wiki, into which the download goes. Every file must be the known one, by its SHA-256.
"""

from __future__ import annotations

import hashlib
import io
import urllib.request
from pathlib import Path
from typing import Literal

import numpy as np

from kdbench.data.raw import RawData, SourceMissing, stratified_order
from kdbench.data.sources._download import DOWNLOADS, fetching
from kdbench.types import KdbenchError

BIBTEX = """
@inproceedings{rasiwasia2010wikipedia,
  author = {Rasiwasia, Nikhil and Costa Pereira, Jose and Coviello, Emanuele and Doyle, Gabriel and Lanckriet, Gert
            R. G. and Levy, Roger and Vasconcelos, Nuno},
  title = {A New Approach to Cross-Modal Multimedia Retrieval},
  booktitle = {ACM International Conference on Multimedia},
  pages = {251--260},
  year = {2010},
}
"""
MODALITIES = ("image", "text")
COMMIT = "d6d090f40b93fc9ffbbf4997c932709bf35ce561"
URL = f"https://raw.githubusercontent.com/azrealwang/sph/{COMMIT}/data"
PUBLISHED = {
    "raw_features.mat": "047ebad02c14b97d53b191fd42180ebb9b0e255dbb2f70c6fe4092110b4c9853",
    "trainset_txt_img_cat.list": "ca19aec01dd94a839abec1c4de2d35baf4ad53275ab0e5ee31bc76bcae4b67da",
    "testset_txt_img_cat.list": "ec3123ee31cc89dd95fbeb23eb73b2ecfd1d8909bba863723471aad99408c1eb",
}
"""The files of that commit -> SHA-256 of their contents."""
ARRAYS = {"wiki_features.npz": "e44795741adba473ad214e6f0b5f46fbee84f903094100d80fb18b1085ab6d44"}
"""The same in one file."""
NAMES = {"image": "I", "tfidf": "T_tfidf", "lda": "T"}
"""Features -> how raw_features.mat calls them."""
CLASSES = ["art", "biology", "geography", "history", "literature", "media", "music", "royalty", "sport", "warfare"]
Features = dict[str, dict[str, np.ndarray]]
"""Part (train, test) -> image (N, 128), tfidf (N, 1000), lda (N, 10), label (N,)."""


def build(
    *,
    text: Literal["tfidf", "lda"] = "tfidf",
    val_share: float = 0.2,
    data_dir: Path | None = None,
) -> RawData:
    """Modalities `image`, uint8 (N, 1, 1, 128), and `text`, uint8 (N, 1, 1, 1000 or 10), shuffled and stratified in a
    fixed way: the square root of each feature, 255 being the largest of its modality in the 2,173 training pairs.

    text: which features of the text: tf-idf of 1,000 words, or the 10 topics.
    val_share: share of the training pairs that become validation pairs, since the set has none of its own.
    Raises KdbenchError for a share out of range, for files that are not the known ones and for a download that failed.
    """
    if not 0 < val_share < 1:
        raise KdbenchError(f"wikifeatures: val_share is {val_share}; expected a share between 0 and 1, such as 0.2")
    found = _features(data_dir)
    order = {part: stratified_order(of["label"]) for part, of in found.items()}
    count = round(val_share * len(order["train"]))
    places = {
        "train": ("train", order["train"][count:]),
        "val": ("train", order["train"][:count]),
        "test": ("test", order["test"]),
    }
    raw = RawData(
        modalities={},
        kinds=dict.fromkeys(MODALITIES, "sequence"),
        labels={split: found[part]["label"][index].astype(np.int64) for split, (part, index) in places.items()},
        class_names=CLASSES,
        notes=[
            "Features of Wikipedia's featured articles (Rasiwasia et al., ACM MM 2010), not the articles: SIFT bag of "
            f"words of the image, {'tf-idf' if text == 'tfidf' else 'LDA topics'} of the text. Pairs are real."
        ],
    )
    for modality, features in zip(MODALITIES, ("image", text), strict=True):
        roots = {part: np.sqrt(of[features]) for part, of in found.items()}
        grey = {part: np.rint(255 * of / roots["train"].max()).clip(0, 255) for part, of in roots.items()}
        raw.modalities[modality] = {
            split: grey[part][index, None, None].astype(np.uint8) for split, (part, index) in places.items()
        }
    return raw


def source_files(args: dict, data_dir: Path | None) -> list[Path]:
    """The files of `data_dir` that `build` reads: those of PUBLISHED in its order, or the one of ARRAYS; none where it
    downloads.

    Raises SourceMissing for a folder wiki that has neither.
    """
    folder = data_dir / "wiki" if data_dir else None
    if folder is None or not folder.is_dir():
        return []
    for names in (PUBLISHED, ARRAYS):
        if all((folder / name).is_file() for name in names):
            return [folder / name for name in names]
    known = f"{', '.join(PUBLISHED)}, nor {', '.join(ARRAYS)}"
    raise SourceMissing(f"wikifeatures: {folder} (setting KDBENCH_DATA) has neither all of {known}")


def _features(data_dir: Path | None) -> Features:
    paths = source_files({}, data_dir) or _downloaded()
    contents = [_content(path) for path in paths]
    if len(contents) == len(ARRAYS):
        with np.load(io.BytesIO(contents[0]), allow_pickle=False) as stored:
            keys = {"image": "image", "tfidf": "text_tfidf", "lda": "text_lda", "label": "label"}
            return {part: {name: stored[f"{key}_{part}"] for name, key in keys.items()} for part in ("train", "test")}
    from scipy.io import loadmat

    stored = loadmat(io.BytesIO(contents[0]))
    found: Features = {}
    for part, suffix, lines in zip(("train", "test"), ("tr", "te"), contents[1:], strict=True):
        found[part] = {name: stored[f"{key}_{suffix}"] for name, key in NAMES.items()}
        # A line is an article, an image and a category, which counts from 1.
        found[part]["label"] = np.array([int(line.split()[2]) for line in lines.splitlines()]) - 1
    return found


def _content(path: Path) -> bytes:
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != (PUBLISHED | ARRAYS)[path.name]:
        raise KdbenchError(f"wikifeatures: {path} is not the known file (another SHA-256); fetch it again")
    return content


def _downloaded() -> list[Path]:
    """The published files in results/data/downloads, fetched if they are not there."""
    folder = DOWNLOADS / "wiki"
    with fetching("wiki", URL, "wiki/") as fresh:
        folder.mkdir(exist_ok=True)
        for name in PUBLISHED:
            if not (folder / name).is_file():
                urllib.request.urlretrieve(f"{URL}/{name}", fresh / name)
                _content(fresh / name)
                (fresh / name).replace(folder / name)
    return [folder / name for name in PUBLISHED]
