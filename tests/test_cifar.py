"""CIFAR from torchvision's download (an archive of the right layout, served here), a file and a folder."""

from __future__ import annotations

import hashlib
import http.server
import io
import os
import pickle
import tarfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from kdbench.data.packed import load_packed
from kdbench.data.prepare import _histogram, _statistics, prepare_data
from kdbench.data.sources import _cifar as cifar
from kdbench.data.sources import _download, cifar10, cifar100
from kdbench.types import DataSpec, KdbenchError

SPLITS = ("train", "val", "test")
PER_CLASS = {"train": 10, "test": 2}


def arrays(classes: int, **shape: int) -> dict[str, np.ndarray]:
    """A small set in the form of a file of arrays, sorted by class; every image is unique."""
    rng = np.random.default_rng(0)
    found = {"class_names": np.array([f"class {i:02}" for i in range(classes)])}
    for part, count in PER_CLASS.items():
        size = shape.get("size", 32)
        found[f"{part}_images"] = rng.integers(0, 256, (count * classes, size, size, 3), np.uint8)
        found[f"{part}_labels"] = np.repeat(np.arange(classes), count)
    return found


def md5(content: bytes) -> str:
    return hashlib.md5(content).hexdigest()


@pytest.fixture(params=[10, 100])
def offered(request, tmp_path, monkeypatch):
    """torchvision's class patched to fetch a small archive from this machine; `.body` is what the server sends."""
    import kdbench.torchvision_ops  # noqa: F401, I001  (before torchvision)
    from torchvision import datasets

    classes, source = arrays(request.param), getattr(datasets, f"CIFAR{request.param}")
    key = "labels" if request.param == 10 else "fine_labels"
    files = {source.meta["filename"]: {source.meta["key"]: classes["class_names"].tolist()}}
    # CIFAR-10 has its training images in five files.
    for part, names in (("train", [n for n, _ in source.train_list]), ("test", [n for n, _ in source.test_list])):
        rows = classes[f"{part}_images"].transpose(0, 3, 1, 2).reshape(-1, 3072)
        pieces = zip(
            np.array_split(rows, len(names)), np.array_split(classes[f"{part}_labels"], len(names)), strict=True
        )
        files |= {n: {"data": d, key: t.tolist()} for n, (d, t) in zip(names, pieces, strict=True)}
    contents = {name: pickle.dumps(entry) for name, entry in files.items()}
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as archive:
        for name, content in contents.items():
            info = tarfile.TarInfo(f"{source.base_folder}/{name}")
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))

    server = SimpleNamespace(body=stream.getvalue(), gets=0, source=source, arrays=classes)
    server.module = {10: cifar10, 100: cifar100}[request.param]
    server.name = f"cifar{request.param}"

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            server.gets += 1
            self.send_response(200)
            self.send_header("Content-Length", str(len(stream.getvalue())))
            self.end_headers()
            self.wfile.write(server.body)

        def log_message(self, *_):
            pass

    web = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=web.serve_forever, daemon=True).start()
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(source, "url", f"http://127.0.0.1:{web.server_port}/{source.filename}")
    monkeypatch.setattr(source, "tgz_md5", md5(server.body))
    for kind in ("train_list", "test_list"):
        monkeypatch.setattr(source, kind, [[name, md5(contents[name])] for name, _ in getattr(source, kind)])
    monkeypatch.setattr(source, "meta", source.meta | {"md5": md5(contents[source.meta["filename"]])})
    monkeypatch.chdir(tmp_path)
    yield server
    web.shutdown()
    web.server_close()


def kept() -> list[str]:
    return sorted(path.name for path in cifar.DOWNLOADS.iterdir() if not path.name.startswith("."))


def same(a, b) -> bool:
    return all(
        np.array_equal(a.modalities["image"][s], b.modalities["image"][s]) and np.array_equal(a.labels[s], b.labels[s])
        for s in SPLITS
    )


def test_a_download_a_file_and_a_folder_give_the_same_data(offered, tmp_path):
    down = offered.module.build()
    classes = len(offered.arrays["class_names"])
    assert down.class_names == offered.arrays["class_names"].tolist()
    assert down.notes == [
        f"a part of {offered.name}: {10 * classes:,} of its 50,000 train images",
        f"a part of {offered.name}: {2 * classes:,} of its 10,000 test images",
    ]
    assert {s: np.bincount(down.labels[s]).tolist() for s in SPLITS} == {
        s: [n] * classes for s, n in (("train", 9), ("val", 1), ("test", 2))
    }
    np.savez(tmp_path / f"{offered.name}.npz", **offered.arrays)
    assert same(offered.module.build(data_dir=tmp_path), down)
    assert offered.module.source_files({}, tmp_path) == [tmp_path / f"{offered.name}.npz"]

    (tmp_path / f"{offered.name}.npz").unlink()
    for part in PER_CLASS:
        for i, label in enumerate(offered.arrays[f"{part}_labels"]):
            place = tmp_path / offered.name / part / down.class_names[label]
            place.mkdir(parents=True, exist_ok=True)
            Image.fromarray(offered.arrays[f"{part}_images"][i]).save(place / f"{i:04}.png")
    assert same(offered.module.build(data_dir=tmp_path), down)
    assert len(offered.module.source_files({}, tmp_path)) == 12 * classes


def test_a_download_is_kept_and_asked_for_once(offered, tmp_path):
    """Two jobs with different limits share it, at once and later."""
    fetch = lambda limit: offered.module.build(limit=limit, data_dir=tmp_path)  # noqa: E731
    with ThreadPoolExecutor(2) as pool:
        raws = list(pool.map(fetch, [None, 10 * len(offered.arrays["class_names"])]))
    # torchvision asks twice: where the address leads, and for the file.
    assert offered.gets == 2 and same(*raws)
    assert kept() == [offered.source.base_folder]
    offered.module.build()
    assert offered.gets == 2 and offered.module.source_files({}, tmp_path) == []


@pytest.mark.parametrize("body", [lambda b: b[: len(b) // 2], lambda b: b[:-1] + b"x", lambda b: b""])
def test_a_cut_or_altered_download_leaves_nothing(offered, body):
    whole, offered.body = offered.body, body(offered.body)
    with pytest.raises(
        KdbenchError, match=rf"{offered.name}: the download failed from .*nothing was kept.*KDBENCH_DATA"
    ):
        offered.module.build()
    assert kept() == []
    offered.body = whole
    offered.module.build()


def test_an_altered_file_is_never_unpickled(offered, tmp_path, monkeypatch):
    """An archive with the right checksum of its own, but one file in it is another: torchvision checks each."""
    name = offered.source.train_list[0][0]
    monkeypatch.setattr(offered.source, "train_list", [[name, "0" * 32]])
    monkeypatch.setattr(pickle, "load", lambda *_, **__: pytest.fail("unpickled"))
    with pytest.raises(KdbenchError, match="the download failed"):
        offered.module.build()
    assert kept() == []


def test_a_damaged_download_is_fetched_again(offered):
    offered.module.build()
    (cifar.DOWNLOADS / offered.source.base_folder / offered.source.test_list[0][0]).write_bytes(b"")
    offered.module.build()
    assert offered.gets == 4


@pytest.mark.parametrize("body", [lambda b: b[: len(b) // 2], lambda b: b""])
def test_a_failed_download_takes_nothing_of_the_users_away(offered, body):
    """What somebody put beside it by hand: the folder, a part of it, the archive itself, other files."""
    mine = cifar.DOWNLOADS / offered.source.base_folder / "mine.txt"
    mine.parent.mkdir(parents=True)
    mine.write_text("mine")
    archive = cifar.DOWNLOADS / offered.source.filename
    archive.write_bytes(b"half of it")
    whole, offered.body = offered.body, body(offered.body)
    with pytest.raises(KdbenchError, match="the download failed"):
        offered.module.build()
    assert mine.read_text() == "mine" and archive.read_bytes() == b"half of it"
    assert kept() == sorted([archive.name, mine.parent.name])
    archive.write_bytes(whole)  # now it is whole, and nothing needs to be fetched
    gets = offered.gets
    offered.module.build()
    assert offered.gets == gets and archive.exists() and mine.read_text() == "mine"


def test_the_published_archive_in_the_data_folder_is_used_and_left_there(offered, tmp_path):
    folder = tmp_path / "data folder"
    folder.mkdir()
    archive = folder / offered.source.filename
    archive.write_bytes(offered.body)
    raw = offered.module.build(data_dir=folder)
    assert offered.gets == 0 and [p.name for p in folder.iterdir()] == [archive.name]
    assert offered.module.source_files({}, folder) == [archive]
    assert kept() == [offered.source.base_folder] and same(raw, offered.module.build())


def test_an_archive_that_is_not_the_published_one_is_refused(offered, tmp_path):
    (tmp_path / offered.source.filename).write_bytes(offered.body[:-1])
    with pytest.raises(KdbenchError, match=r"python\.tar\.gz is not the published archive"):
        offered.module.build(data_dir=tmp_path)
    assert offered.gets == 0 and kept() == []


def test_no_network_says_what_to_do_and_leaves_no_data_set(offered, tmp_path, monkeypatch):
    monkeypatch.setattr(offered.source, "url", "http://127.0.0.1:9/nowhere.tar.gz")
    with pytest.raises(KdbenchError, match=rf"the download failed from http.*set KDBENCH_DATA .*{offered.name}\.npz"):
        prepare_data(DataSpec("c", offered.name), tmp_path / "pack")
    assert kept() == [] and not (tmp_path / "pack/meta.json").exists()
    offered.source.url = f"file://{tmp_path}/nowhere.tar.gz"
    with pytest.raises(KdbenchError, match="the download failed from file"):
        offered.module.build()


def test_a_server_that_falls_silent_is_given_up(offered, monkeypatch):
    monkeypatch.setattr(_download, "SECONDS", 0.2)
    monkeypatch.setattr(http.server.BaseHTTPRequestHandler, "end_headers", lambda self: time.sleep(1))
    with pytest.raises(KdbenchError, match=r"the download failed.*timed out"):
        offered.module.build()


# --------------------------------------------------------------------------------------------------- not the right one


@pytest.mark.parametrize(
    ("found", "sentence"),
    [
        (arrays(10), "cifar100.npz has 10 classes; cifar100 has 100"),
        (arrays(100, size=16), r"train images are \[16, 16, 3\]; those of cifar100 are \[32, 32, 3\]"),
        (
            {**arrays(100), "test_labels": np.repeat(np.arange(100), 2) // 2 * 2},
            "no test image of class class 01 and 49",
        ),
    ],
)
def test_another_file_of_that_name(tmp_path, found, sentence):
    np.savez(tmp_path / "cifar100.npz", **found)
    with pytest.raises(KdbenchError, match=sentence):
        cifar100.build(data_dir=tmp_path)


def test_more_images_than_there_are(tmp_path, monkeypatch):
    np.savez(tmp_path / "cifar10.npz", **arrays(10))
    monkeypatch.setattr(cifar, "TOTALS", {"train": 99, "test": 20})
    with pytest.raises(KdbenchError, match=r"cifar10\.npz has 100 train images; cifar10 has 99"):
        cifar10.build(data_dir=tmp_path)


def test_a_folder_of_pictures_of_another_size(tmp_path):
    for part in PER_CLASS:
        for i in range(10):
            place = tmp_path / "cifar10" / part / f"class {i}"
            place.mkdir(parents=True)
            for n in range(4):
                Image.new("RGB", (32, 31)).save(place / f"{n}.png")
    with pytest.raises(KdbenchError, match=r"\.png \(it is 32x31; expected 32x32\)"):
        cifar10.build(data_dir=tmp_path)


# ------------------------------------------------------------------------------------------------------------ planning


@pytest.mark.skipif(
    not Path(os.environ.get("KDBENCH_DATA", "nowhere"), "cifar100.npz").is_file(),
    reason="KDBENCH_DATA has no cifar100.npz",
)
def test_real_cifar100_has_the_published_mean_and_deviation(tmp_path):
    """Those are of all training images: of train and val together."""
    pack = prepare_data(DataSpec("cifar100", "cifar100"), tmp_path, Path(os.environ["KDBENCH_DATA"]))
    whole = pack.meta["counts"] == {"train": 45_000, "val": 5_000, "test": 10_000}
    assert whole or pack.meta["notes"] == ["a part of cifar100: 25,000 of its 50,000 train images"]
    for split in SPLITS:
        assert len(set(np.bincount(load_packed(tmp_path).labels(split)))) == 1
    found = _statistics(_histogram(np.concatenate([pack.array("image", split) for split in ("train", "val")])))
    published = [0.5071, 0.4865, 0.4409], [0.2673, 0.2564, 0.2762]
    assert np.allclose(found, published, atol=1e-4 if whole else 2e-3)
