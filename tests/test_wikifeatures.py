"""Features of Wikipedia's articles from small files of their formats: who is paired, what is read, what is refused."""

from __future__ import annotations

import functools
import hashlib
import http.server
import threading
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
from scipy.io import savemat

from kdbench.data.raw import SourceMissing
from kdbench.data.sources import _download, wikifeatures
from kdbench.types import KdbenchError

SPLITS = ("train", "val", "test")
WIDTHS = {"image": 128, "text_tfidf": 1000, "text_lda": 10}


def write_wiki(folder: Path, *, train: int = 60, test: int = 20) -> dict[str, np.ndarray]:
    """Small files in the published formats, of which wikifeatures gets the sums; their arrays, as wiki_features.npz has
    them."""
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True, exist_ok=True)
    counts = {"train": train, "test": test}
    arrays = {f"{name}_{part}": rng.random((n, d)) ** 4 for part, n in counts.items() for name, d in WIDTHS.items()}
    arrays |= {f"label_{part}": np.arange(n, dtype=np.uint8) % 10 for part, n in counts.items()}
    names = {"I": "image", "T_tfidf": "text_tfidf", "T": "text_lda"}
    savemat(folder / "raw_features.mat", {f"{k}_{p[:2]}": arrays[f"{v}_{p}"] for k, v in names.items() for p in counts})
    for part in counts:
        lines = [f"article-{i}\timage{i}\t{label + 1}\n" for i, label in enumerate(arrays[f"label_{part}"])]
        (folder / f"{part}set_txt_img_cat.list").write_text("".join(lines))
    wikifeatures.PUBLISHED |= {name: sha256(folder / name) for name in wikifeatures.PUBLISHED}
    return arrays


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A folder of the user with the three files, and their arrays; the sums of the real files come back afterwards."""
    place = tmp_path_factory.mktemp("data")
    with patch.dict(wikifeatures.PUBLISHED), patch.dict(wikifeatures.ARRAYS):
        yield place, write_wiki(place / "wiki")


def same(a, b) -> bool:
    return all(
        np.array_equal(a.labels[s], b.labels[s])
        and all(np.array_equal(a.modalities[m][s], b.modalities[m][s]) for m in wikifeatures.MODALITIES)
        for s in SPLITS
    )


@pytest.mark.parametrize("text", ["tfidf", "lda"])
def test_pairs_stay_together_and_features_become_roots_of_themselves(published, text):
    folder, arrays = published
    raw = wikifeatures.build(text=text, data_dir=folder)
    width = WIDTHS[f"text_{text}"]
    assert {s: len(raw.labels[s]) for s in SPLITS} == {"train": 48, "val": 12, "test": 20}
    assert raw.kinds == {"image": "sequence", "text": "sequence"}
    assert raw.modalities["text"]["val"].shape == (12, 1, 1, width)
    assert all(raw.modalities[m][s].dtype == np.uint8 for m in wikifeatures.MODALITIES for s in SPLITS)

    for part, splits in (("train", ("train", "val")), ("test", ("test",))):
        found = {m: np.concatenate([raw.modalities[m][s] for s in splits])[:, 0, 0] for m in wikifeatures.MODALITIES}
        labels, places = np.concatenate([raw.labels[s] for s in splits]), []
        for m, name in (("image", "image"), ("text", f"text_{text}")):
            # A grey level is 1/255 of the largest root of the training part.
            most = arrays[f"{name}_train"].max()
            close = found[m] ** 2.0 / 255**2 * most
            distance = np.abs(close[:, None] - arrays[f"{name}_{part}"].clip(max=most)).max(axis=2)
            places.append(distance.argmin(axis=1))
            assert (distance.min(axis=1) < 0.005).all()
        image_of, text_of = places
        assert np.array_equal(image_of, text_of) and sorted(image_of) == list(range(len(labels)))
        assert np.array_equal(labels, arrays[f"label_{part}"][image_of])


def test_validation_is_a_stratified_share_of_training(published):
    folder, _ = published
    half, most = (wikifeatures.build(val_share=share, data_dir=folder) for share in (1 / 6, 1 / 2))
    assert np.bincount(half.labels["val"]).tolist() == [1] * 10 and np.bincount(most.labels["val"]).tolist() == [3] * 10
    assert np.array_equal(half.modalities["text"]["test"], most.modalities["text"]["test"])
    with pytest.raises(KdbenchError, match="wikifeatures: val_share is 1; expected a share between 0 and 1"):
        wikifeatures.build(val_share=1, data_dir=folder)


def test_one_file_of_arrays_is_the_same_data(published, tmp_path):
    folder, arrays = published
    (tmp_path / "wiki").mkdir()
    place = tmp_path / "wiki/wiki_features.npz"
    np.savez(place, **arrays)
    wikifeatures.ARRAYS[place.name] = sha256(place)
    assert wikifeatures.source_files({}, tmp_path) == [place]
    assert same(wikifeatures.build(data_dir=tmp_path), wikifeatures.build(data_dir=folder))
    place.write_bytes(b"other")
    with pytest.raises(KdbenchError, match=r"wiki_features\.npz is not the known file"):
        wikifeatures.build(data_dir=tmp_path)
    place.unlink()
    with pytest.raises(SourceMissing, match=r"has neither all of raw_features\.mat, .*, nor wiki_features\.npz"):
        wikifeatures.build(data_dir=tmp_path)


@pytest.fixture
def offered(tmp_path, monkeypatch):
    """A server has small files; its folder."""
    folder = tmp_path / "server"
    with patch.dict(wikifeatures.PUBLISHED):
        write_wiki(folder)
        handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=folder)
        web = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        threading.Thread(target=web.serve_forever, daemon=True).start()
        monkeypatch.setenv("no_proxy", "*")
        monkeypatch.setattr(wikifeatures, "URL", f"http://127.0.0.1:{web.server_port}")
        monkeypatch.chdir(tmp_path)
        yield folder
        web.shutdown()
        web.server_close()


def test_a_download_is_kept_and_a_file_that_is_missing_is_fetched_again(offered, tmp_path):
    first = wikifeatures.build(data_dir=tmp_path)
    kept = _download.DOWNLOADS / "wiki"
    assert sorted(path.name for path in kept.iterdir()) == sorted(wikifeatures.PUBLISHED)
    (kept / "raw_features.mat").unlink()
    assert same(wikifeatures.build(), first)
    offered.rename(tmp_path / "wiki")
    assert same(wikifeatures.build(), first) and same(wikifeatures.build(data_dir=tmp_path), first)


def test_a_download_of_another_content_is_not_kept(offered):
    (offered / "raw_features.mat").write_bytes(b"altered")
    with pytest.raises(KdbenchError, match=r"raw_features\.mat is not the known file"):
        wikifeatures.build()
    assert list((_download.DOWNLOADS / "wiki").iterdir()) == []
    (offered / "raw_features.mat").unlink()
    with pytest.raises(KdbenchError, match=r"wiki: the download failed from http.*nothing was kept.*holds wiki/"):
        wikifeatures.build()
