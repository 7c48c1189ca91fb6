"""MNIST from files of its format, the networks on its pixels, and the suite of the first published distillation."""

from __future__ import annotations

import functools
import gzip
import hashlib
import http.server
import struct
import threading
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
import torch
import yaml
from conftest import REPOSITORY
from test_models import spec

from kdbench.data.prepare import prepare_data
from kdbench.data.raw import SourceMissing
from kdbench.data.sources import _download, mnist
from kdbench.plan.jobs import make_plan
from kdbench.plan.suite import check_suite, load_suite
from kdbench.run.data import run_data
from kdbench.run.outputs import run_table
from kdbench.run.training import run_training
from kdbench.signals import Reader
from kdbench.terminal import published
from kdbench.train import networks
from kdbench.train.augment import crop_and_flip
from kdbench.types import DataSpec, KdbenchError

SHAPE = (28, 28, 1)
SPLITS = ("train", "val", "test")


def write_mnist(folder: Path, *, train: int, test: int, packed: bool = True) -> dict[str, np.ndarray]:
    """Small files in MNIST's format, of which mnist.FILES gets the sums; what they hold, by the names of the files."""
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True, exist_ok=True)
    arrays = {}
    for part, count in (("train", train), ("t10k", test)):
        arrays[f"{part}-images-idx3-ubyte"] = rng.integers(0, 256, (count, 28, 28), np.uint8)
        arrays[f"{part}-labels-idx1-ubyte"] = np.arange(count, dtype=np.uint8) % 10
    for name, array in arrays.items():
        content = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes()
        mnist.FILES[name] = hashlib.md5(content).hexdigest()
        place = folder / (f"{name}.gz" if packed else name)
        place.write_bytes(gzip.compress(content) if packed else content)
    return arrays


@pytest.fixture
def sums():
    """Puts the sums of the real files back."""
    with patch.dict(mnist.FILES):
        yield


def same(a, b) -> bool:
    return all(
        np.array_equal(a.modalities["image"][s], b.modalities["image"][s]) and np.array_equal(a.labels[s], b.labels[s])
        for s in SPLITS
    )


# ------------------------------------------------------------------------------------------------------------ the data


def test_every_image_keeps_its_label_and_goes_to_one_split(sums, tmp_path):
    arrays = write_mnist(tmp_path / "mnist", train=100, test=20)
    raw = mnist.build(val_share=0.2, data_dir=tmp_path)
    images = raw.modalities["image"]
    assert {s: images[s].shape for s in SPLITS} == {"train": (80, *SHAPE), "val": (20, *SHAPE), "test": (20, *SHAPE)}
    assert raw.kinds == {"image": "image"} and raw.class_names == list("0123456789") and raw.notes == []
    assert all(len(set(np.bincount(raw.labels[s]))) == 1 for s in SPLITS)
    for part, splits in (("train", ("train", "val")), ("t10k", ("test",))):
        pixels, labels = arrays[f"{part}-images-idx3-ubyte"], arrays[f"{part}-labels-idx1-ubyte"]
        wanted = {image.tobytes(): label for image, label in zip(pixels, labels, strict=True)}
        found = {i.tobytes(): n for s in splits for i, n in zip(images[s], raw.labels[s], strict=True)}
        assert found == wanted


def test_packed_or_not_the_files_are_the_same(sums, tmp_path):
    write_mnist(tmp_path / "a/mnist", train=40, test=20)
    write_mnist(tmp_path / "b/mnist", train=40, test=20, packed=False)
    assert same(mnist.build(data_dir=tmp_path / "a"), mnist.build(data_dir=tmp_path / "b"))
    assert [path.name for path in mnist.source_files({}, tmp_path / "b")] == list(mnist.FILES)
    assert mnist.source_files({}, tmp_path) == []


def test_a_file_that_is_missing_or_another_is_named(sums, tmp_path):
    folder = tmp_path / "mnist"
    write_mnist(folder, train=40, test=20)
    labels = folder / "t10k-labels-idx1-ubyte.gz"
    whole = labels.read_bytes()
    labels.write_bytes(gzip.compress(b"other"))
    with pytest.raises(KdbenchError, match=r"mnist: .*t10k-labels-idx1-ubyte\.gz is not the published file"):
        mnist.build(data_dir=tmp_path)
    for broken in (whole[:-9], b"", b"no gzip"):
        labels.write_bytes(broken)
        with pytest.raises(KdbenchError, match=r"t10k-labels-idx1-ubyte\.gz (cannot be unpacked|is not the published)"):
            prepare_data(DataSpec("m", "mnist"), tmp_path / "pack", tmp_path)
    assert not (tmp_path / "pack/meta.json").exists()
    labels.unlink()
    with pytest.raises(SourceMissing, match=r"has neither t10k-labels-idx1-ubyte nor t10k-labels-idx1-ubyte[.]gz"):
        mnist.build(data_dir=tmp_path)


@pytest.fixture
def offered(sums, tmp_path, monkeypatch):
    """torchvision fetches small files from a server, whose folder is returned."""
    import kdbench.torchvision_ops  # noqa: F401, I001  (before torchvision)
    from torchvision import datasets

    folder = tmp_path / "server"
    write_mnist(folder, train=40, test=20)
    files = [(f"{name}.gz", hashlib.md5((folder / f"{name}.gz").read_bytes()).hexdigest()) for name in mnist.FILES]
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=folder)
    web = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=web.serve_forever, daemon=True).start()
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(datasets.MNIST, "mirrors", [f"http://127.0.0.1:{web.server_port}/"])
    monkeypatch.setattr(datasets.MNIST, "resources", files)
    monkeypatch.chdir(tmp_path)
    yield folder
    web.shutdown()
    web.server_close()


def test_a_download_is_kept_and_fetched_again_where_it_is_damaged(offered, tmp_path):
    first = mnist.build(data_dir=tmp_path)
    kept = _download.DOWNLOADS / "mnist"
    assert sorted(path.name for path in kept.iterdir()) == sorted(mnist.FILES)
    (kept / "train-images-idx3-ubyte").write_bytes(b"")
    assert same(mnist.build(), first)
    offered.rename(tmp_path / "away")
    assert same(mnist.build(), first)
    (tmp_path / "away").rename(tmp_path / "mnist")
    assert same(mnist.build(data_dir=tmp_path), first)


def test_a_failed_download_leaves_nothing_and_says_what_to_do(offered):
    (offered / "t10k-images-idx3-ubyte.gz").write_bytes(b"altered")
    with pytest.raises(KdbenchError, match=r"(?s)mnist: the download failed from http.*nothing was kept.*holds mnist/"):
        mnist.build()
    assert [path.name for path in _download.DOWNLOADS.iterdir() if not path.name.startswith(".")] == []


# -------------------------------------------------------------------------------------------------------- the networks


@pytest.mark.parametrize(("width", "dropped"), [(1200, (0.2, 0.5, 0.5)), (800, (0.0, 0.0, 0.0))])
def test_two_hidden_layers_on_784_pixels(width, dropped):
    model = networks.build(spec(f"mnist_mlp_{width}"), SHAPE, 10, 0)
    count = 784 * width + width + width * width + width + width * 10 + 10
    assert networks.parameter_count(model) == count == {1200: 2_395_210, 800: 1_276_810}[width]
    assert tuple(m.p for m in model.modules() if isinstance(m, torch.nn.Dropout)) == dropped

    reader = Reader(model, SHAPE, "mlp")
    assert reader.side.stages == () and reader.side.pooled == reader.side.pooled_preact == width
    x = torch.randn(5, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    model.eval()
    signals = reader(x)
    first, second, last = (m for m in model.modules() if isinstance(m, torch.nn.Linear))
    hidden = second(first(x.view(5, 784)).relu()).relu()
    assert torch.equal(signals.pooled, hidden) and torch.equal(signals.logits, last(hidden))
    assert torch.equal(model(x), signals.logits) and signals.stages is None
    model.train()
    assert torch.equal(model(x), model(x)) == (width == 800)


def test_images_of_another_size_are_refused():
    with pytest.raises(KdbenchError, match=r"mnist_mlp_800 .* cannot be trained on inputs of 32x32 and 1 channel"):
        networks.try_out(spec("mnist_mlp_800"), (32, 32, 1), 10, 4)


# ----------------------------------------------------------------------------------------------------------- the suite


def test_crop_is_a_jitter_by_up_to_two_pixels_in_any_direction():
    """The pixel in the middle comes to each of the 25 places around it, and ink that leaves does not come back."""
    pixels = torch.zeros(25, 1, 28, 28, dtype=torch.uint8)
    pixels[:, 0, 14, 14] = pixels[:, 0, 0, 0] = 255
    shift = torch.cartesian_prod(torch.arange(-2, 3), torch.arange(-2, 3)).T
    moved = crop_and_flip(pixels, shift, None, 2)
    found = {tuple((image[0, 10:19, 10:19] > 0).nonzero()[0].tolist()) for image in moved}
    assert found == {(row, column) for row in range(2, 7) for column in range(2, 7)}
    assert set(moved.sum(dim=(1, 2, 3)).tolist()) == {255, 510}


def test_the_suite_is_the_papers_experiment():
    suite = load_suite("anchors-mnist")
    (block,) = suite.blocks
    (pair,) = block.pairs
    teacher, student = suite.models[pair.teacher], suite.models[pair.student]
    assert (teacher.timm, student.timm) == ("mnist_mlp_1200", "mnist_mlp_800") and len(suite.seeds) == 3
    assert suite.recipes[teacher.recipe].crop == 2
    alone = suite.recipes[student.recipe]
    assert alone.crop == alone.weight_decay == alone.label_smoothing == 0, "the small net has no regularisation"
    (kd,) = [m for m in block.methods if m.method == "kd"]
    assert kd.params["temperature"] == 20 and kd.params["ce_weight"] < kd.params["kd_weight"]


def test_every_cell_of_the_suite_stands_beside_the_papers_errors():
    plan = make_plan(load_suite(REPOSITORY / "config/anchors-mnist.yaml"))
    cells, values = published.runs(plan), published.values(plan.suite)
    assert {tuple(c) for c in cells[published.CELL].to_numpy()} == {tuple(c) for c in values[published.CELL].to_numpy()}
    errors = {(row.student, row.method): round(100 * (100 - row.value)) for row in values.itertuples()}
    assert errors == {("mlp-1200", "scratch"): 67, ("mlp-800", "scratch"): 146, ("mlp-800", "kd"): 74}


def test_the_suite_runs_from_files_to_a_table(sums, tmp_path, monkeypatch):
    """Two steps on 200 images, one seed."""
    write_mnist(tmp_path / "mnist", train=200, test=20)
    monkeypatch.setenv("KDBENCH_DATA", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    tree = yaml.safe_load((REPOSITORY / "config/anchors-mnist.yaml").read_text())
    tree |= {"seeds": [0], "data": {"mnist": {"source": "mnist"}}}
    for recipe in tree["recipes"].values():
        del recipe["epochs"]
        recipe |= {"steps": 2, "batch_size": 8}
    plan = make_plan(check_suite(tree, "anchors-mnist", "anchors-mnist"))
    for job in plan.of("data"):
        run_data(plan, job)
    for job in (*plan.of("teacher"), *plan.of("cohort")):
        run_training(plan, job, threads=1)
    run_table(plan)
    assert "mlp-1200" in Path("tables/anchors-mnist.md").read_text()
    values = published.values(plan.suite).assign(reason="")
    assert (published.judge(published.runs(plan), values)["n"] == 1).all()
