"""Batches of pictures that workers decode, and of arrays that are enlarged: PIL's pixels, whoever makes them."""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import in_child, run_jobs, tiny, wait_for
from fakes import write_jpegs
from PIL import Image
from scipy.stats import ks_2samp
from torch.utils.data._utils import worker

from kdbench.data.packed import load_packed
from kdbench.data.pictures import DECODER, WHOLE, Pictures, View, viewed
from kdbench.data.prepare import prepare_data
from kdbench.plan.jobs import Plan, make_plan
from kdbench.plan.suite import check_suite
from kdbench.results.record import read_run
from kdbench.run.data import run_data
from kdbench.train import augment, networks
from kdbench.train.batches import Batches
from kdbench.train.order import batch_positions, epoch_order, full_batches, generator
from kdbench.types import DataSpec, KdbenchError, ModelSpec, Recipe

# isort: split
from timm.data import create_transform
from timm.data.transforms import RandomResizedCropAndInterpolation

import kdbench.torchvision_ops  # noqa: F401

CPU = torch.device("cpu")
SIZE = 16
CROPS = {"resized_crop": 0.2, "interpolation": "random"}


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    place = tmp_path_factory.mktemp("pets")
    write_jpegs(place / "pets")
    return prepare_data(DataSpec("d", "jpegfolder", {"folder": "pets", "size": SIZE}), place / "pack", place)


class Small:
    """Noise of 32 pixels that networks read at 224, as a packed CIFAR-100 is."""

    def __init__(self, count: int = 12) -> None:
        facts = {"kind": "image", "shape": [224, 224, 3], "mean": [0.0] * 3, "std": [1 / 255] * 3}
        self.meta = {"class_names": list("abc"), "modalities": {"image": facts}}
        coarse = map(Image.fromarray, np.random.default_rng(0).integers(0, 256, (count, 8, 8, 3), dtype=np.uint8))
        self.images = np.stack([np.asarray(x.resize((32, 32), Image.Resampling.BICUBIC)) for x in coarse])

    def array(self, modality: str, split: str) -> np.ndarray:
        return self.images

    def labels(self, split: str) -> np.ndarray:
        return np.arange(len(self.images)) % 3


def recipe(**keys) -> Recipe:
    return Recipe("r", **{"lr": 1.0, "epochs": 3, "batch_size": 8} | keys)


def pixels_of(batches: Batches, normalised: torch.Tensor) -> torch.Tensor:
    """Grey levels (B, H, W, C) of what networks read."""
    mean, std = batches._statistics["image"]
    return (255 * (normalised * std + mean)).round().int().permute(0, 2, 3, 1)


def steps_of(pack, recipe: Recipe, workers: int, first: int = 0, seed: int = 0) -> list[torch.Tensor]:
    """The inputs of all batches from the first on, in a training's own order."""
    batches = Batches(pack, {"image"}, CPU, workers)
    size = batches.size("train")
    return [
        batches.train(batch_positions(size, recipe, seed, batch), recipe, seed, batch)[0]["image"]
        for batch in range(first, recipe.epochs * recipe.accumulate * full_batches(size, recipe.global_batch))
    ]


# --------------------------------------------------------------------------------------------------------- streamed


def test_a_training_batch_is_what_pil_cuts_out(packed):
    batches, read = Batches(packed, {"image"}, CPU), packed.pictures("image", "train")
    index = torch.tensor([3, 0, 41, 7, 7, 20])
    got = pixels_of(batches, batches.train(index, recipe(**CROPS), 5, 2)[0]["image"])
    sides = [torch.from_numpy(read.index[side][index.numpy()].astype(int)) for side in ("height", "width")]
    boxes = augment.draw_resized_crop(6, *sides, 0.2, generator(5, "augmentation", 2, "resized_crop"))
    cubic = augment.draw_cubic(6, "random", generator(5, "augmentation", 2, "interpolation"))
    assert cubic.any() and not cubic.all()
    for i, image in enumerate(got):
        top, left, height, width = boxes[:, i].tolist()
        assert top + height <= sides[0][i] and left + width <= sides[1][i]
        part = read.picture(int(index[i])).crop((left, top, left + width, top + height))
        resample = Image.Resampling.BICUBIC if cubic[i] else Image.Resampling.BILINEAR
        assert (np.asarray(part.resize((SIZE, SIZE), resample)) == image.numpy()).all()


def test_without_a_random_box_it_is_the_square_about_the_centre(packed):
    batches, read = Batches(packed, {"image"}, CPU), packed.pictures("image", "train")
    got = pixels_of(batches, batches.train(torch.arange(8), recipe(), 0, 0)[0]["image"])
    assert (got.numpy() == read[np.arange(8)]).all()


def test_the_box_of_each_picture_is_drawn_for_its_own_size():
    sides = torch.tensor([[32, 32, 9, 30], [32, 20, 14, 8]]).repeat_interleave(20_000, dim=1)
    boxes = augment.draw_resized_crop(80_000, *sides, 0.2, torch.Generator().manual_seed(0)).double()
    for group, (height, width) in enumerate([(32, 32), (32, 20), (9, 14), (30, 8)]):
        theirs = RandomResizedCropAndInterpolation(SIZE, (0.2, 1.0))
        random.seed(0)
        image = Image.new("L", (width, height))
        drawn = torch.tensor([theirs.get_params(image, theirs.scale, theirs.ratio) for _ in range(4000)]).double()
        ours = boxes[:, 20_000 * group : 20_000 * (group + 1)]
        for i in range(4):
            at = ours[i].unique()
            shares = [torch.searchsorted(x.sort().values, at, right=True) / len(x) for x in (ours[i], drawn[:, i])]
            assert (shares[0] - shares[1]).abs().max() < 0.03


def test_what_is_read_ahead_is_what_a_recipe_that_accumulates_trains_on(packed):
    chosen = recipe(**CROPS, accumulate=2)
    batches, size = Batches(packed, {"image"}, CPU), packed.meta["counts"]["train"]
    steps = batches.steps_per_epoch(chosen.global_batch)
    assert size // chosen.batch_size > 2 * steps  # else an epoch of batches would be one of steps
    orders = [batches.order(0, epoch)[: steps * chosen.global_batch] for epoch in range(chosen.epochs)]
    wanted = [index.tolist() for order in orders for index in order.split(chosen.batch_size)]
    read = batches._pixels["image"]._wanted(torch.tensor(wanted[0]), chosen, 0, 0)
    assert [batch.index.tolist() for batch in read] == wanted


@pytest.mark.parametrize("changes", [CROPS, {"crop": 2, "flip": True}, {"accumulate": 2, "batch_size": 4}], ids=str)
def test_any_number_of_workers_gives_the_same_bits(packed, changes):
    chosen = recipe(**changes)
    alone = steps_of(packed, chosen, 0)
    assert len(alone) in (15, 30) and not torch.equal(alone[0], alone[5])
    for workers in (1, 2):
        assert all(map(torch.equal, alone, steps_of(packed, chosen, workers)))


def test_training_that_begins_anywhere_goes_on_the_same(packed):
    chosen = recipe(**CROPS, rand_augment=9)
    whole = steps_of(packed, chosen, 0)
    for first, workers in ((1, 0), (6, 2), (14, 1)):
        assert all(map(torch.equal, whole[first:], steps_of(packed, chosen, workers, first)))


def test_what_was_read_ahead_is_not_taken_for_what_is_asked(packed):
    batches, chosen = Batches(packed, {"image"}, CPU, 2), recipe(**CROPS)
    order = epoch_order(batches.size("train"), 0, 0)
    expected = {}
    for seed, step in itertools.product((0, 1), range(3)):
        own = Batches(packed, {"image"}, CPU)
        expected[seed, step] = own.train(order[8 * step : 8 * step + 8], chosen, seed, step)[0]["image"]
    for seed, step in ((0, 0), (0, 1), (1, 1), (0, 1), (0, 2), (1, 0)):  # as prepare, a second cohort or a resume jumps
        found = batches.train(order[8 * step : 8 * step + 8], chosen, seed, step)[0]["image"]
        assert torch.equal(found, expected[seed, step])
    other = batches.train(torch.arange(8), chosen, 1, 1)[0]["image"]
    assert torch.equal(other, Batches(packed, {"image"}, CPU).train(torch.arange(8), chosen, 1, 1)[0]["image"])


def test_nobody_elses_random_numbers_are_drawn(packed):
    for workers in (0, 2):
        batches = Batches(packed, {"image"}, CPU, workers)
        torch.manual_seed(7)
        batches.train(torch.arange(8), recipe(**CROPS), 0, 0)
        next(iter(batches.evaluation("image", "test")))
        drawn = torch.rand(3)
        torch.manual_seed(7)
        assert torch.equal(drawn, torch.rand(3))


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_evaluation_is_each_networks_own_view_of_the_whole_split(packed, workers):
    batches, read = Batches(packed, {"image"}, CPU, workers), packed.pictures("image", "test")
    for view in (View(0.875, "bilinear"), View(0.9, "bicubic")):
        shown = list(batches.evaluation("image", "test", batch_size=6, view=view))
        assert [len(x) for x in shown] == [6, 6, 4]
        for i, image in enumerate(pixels_of(batches, torch.cat(shown))):
            assert (viewed(read.picture(i), view, SIZE) == image.numpy()).all()
    assert sum(len(x) for x in batches.evaluation("image", "train", batch_size=6, limit=10)) == 10


@pytest.mark.parametrize("workers", [0, 2])
def test_a_damaged_picture_is_named(packed, tmp_path, workers):
    shutil.copytree(packed.folder, tmp_path / "pack")
    shard = tmp_path / "pack/image-train-00000.jpegs"
    shard.write_bytes(bytes(shard.stat().st_size))
    batches = Batches(load_packed(tmp_path / "pack", verify=True), {"image"}, CPU, workers)
    with pytest.raises(KdbenchError, match=r"^.*image-train-00000.jpegs is damaged: picture \d+ has another checksum"):
        batches.train(torch.arange(8), recipe(**CROPS), 0, 0)


def test_a_worker_that_is_killed_leaves_a_sentence(packed, monkeypatch):
    parent, real = os.getpid(), Pictures.picture

    def picture(self, position):
        if os.getpid() != parent and position == 5:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(self, position)

    monkeypatch.setattr(Pictures, "picture", picture)
    with pytest.raises(KdbenchError, match="a worker that decodes pictures ended"):
        Batches(packed, {"image"}, CPU, 1).train(torch.arange(8), recipe(**CROPS), 0, 0)


# ----------------------------------------------------------------------------------------------------- arrays, enlarged


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "random"])
def test_enlarging_is_pils_bit_for_bit(interpolation):
    pack = Small()
    batches = Batches(pack, {"image"}, CPU)
    index, chosen = torch.arange(12), recipe(resized_crop=0.08, interpolation=interpolation)
    for step in range(3):
        got = pixels_of(batches, batches.train(index, chosen, 0, step)[0]["image"])
        boxes = augment.draw_resized_crop(12, 32, 32, 0.08, generator(0, "augmentation", step, "resized_crop"))
        cubic = augment.draw_cubic(12, interpolation, generator(0, "augmentation", step, "interpolation"))
        drawn = zip(pack.images, boxes.T.tolist(), cubic, got, strict=True)
        for image, (top, left, height, width), bicubic, ours in drawn:
            part = Image.fromarray(image).crop((left, top, left + width, top + height))
            theirs = part.resize((224, 224), Image.Resampling.BICUBIC if bicubic else Image.Resampling.BILINEAR)
            assert (np.asarray(theirs) == ours.numpy()).all()


def test_without_a_random_box_the_whole_image_is_enlarged():
    pack = Small(3)
    batches = Batches(pack, {"image"}, CPU)
    got = pixels_of(batches, batches.train(torch.arange(3), recipe(batch_size=3), 0, 0)[0]["image"])
    theirs = [np.asarray(Image.fromarray(x).resize((224, 224), Image.Resampling.BICUBIC)) for x in pack.images]
    assert (got.numpy() == np.stack(theirs)).all()


@pytest.mark.parametrize("view", [View(0.875, "bilinear"), View(0.9, "bicubic"), WHOLE], ids=str)
def test_an_enlarged_image_is_evaluated_as_timm_does(view):
    pack = Small(3)
    batches = Batches(pack, {"image"}, CPU)
    transform = create_transform(224, interpolation=view.interpolation, crop_pct=view.crop, use_prefetcher=True)
    got = pixels_of(batches, torch.cat(list(batches.evaluation("image", "test", view=view))))
    for image, ours in zip(pack.images, got, strict=True):
        assert (np.asarray(transform(Image.fromarray(image))).transpose(1, 2, 0) == ours.numpy()).all()


def test_augmented_batches_have_the_statistics_of_timms_pipeline():
    """The released pipeline on 32-px images: RandomResizedCrop to 224 with a random interpolation, and a flip."""
    pack, draws = Small(1), 100
    batches = Batches(pack, {"image"}, CPU)
    chosen = recipe(resized_crop=0.08, interpolation="random", flip=True, batch_size=1)
    index = torch.zeros(draws, dtype=torch.long)
    ours = pixels_of(batches, batches.train(index, chosen, 0, 0)[0]["image"]).double().numpy()
    transform = create_transform(224, is_training=True, interpolation="random", color_jitter=None, use_prefetcher=True)
    random.seed(0)
    torch.manual_seed(0)
    image = Image.fromarray(pack.images[0])
    theirs = np.stack([np.asarray(transform(image)) for _ in range(draws)]).transpose(0, 2, 3, 1).astype(float)

    def statistics(x: np.ndarray) -> np.ndarray:
        """Of each image: mean and deviation of its colours, roughness both ways, how left and right differ."""
        across, down = (abs(np.diff(x, axis=axis)).mean((1, 2, 3)) for axis in (1, 2))
        halves = x[:, :, :112].mean((1, 2, 3)) - x[:, :, 112:].mean((1, 2, 3))
        return np.column_stack([x.mean((1, 2)), x.std((1, 2)), across, down, halves])

    for a, b in zip(statistics(ours).T, statistics(theirs).T, strict=True):
        assert ks_2samp(a, b).pvalue > 0.001


def test_a_suite_may_enlarge_cifar_and_no_key_moves_where_it_does_not():
    def keys(**data) -> tuple[dict, dict]:
        tree = tiny(data={"digits": {"source": "cifar100", **data}}, recipes__student__crop=1)
        runs = make_plan(check_suite(tree, "tiny", "tiny.yaml")).runs()
        return {name: run.key for name, run in runs.items()}, next(iter(runs.values())).config["versions"]

    plain, versions = keys()
    assert keys(size=32) == (plain, versions) and "enlarging" not in versions
    large, versions = keys(size=224)
    assert "enlarging" in versions and not set(large.values()) & set(plain.values())


# --------------------------------------------------------------------------------------------------------------- views


def test_a_network_is_evaluated_as_timm_says_unless_the_suite_does():
    assert networks.view(ModelSpec("m", "deit_tiny_patch16_224", "d", "r")) == View(0.9, "bicubic")
    assert networks.view(ModelSpec("m", "mobilenetv2_100", "d", "r")).interpolation == "bicubic"
    assert networks.view(ModelSpec("m", "ResNet", "d", "r")) == View(0.875, "bicubic")
    said = ModelSpec("m", "deit_tiny_patch16_224", "d", "r", eval_crop=1.0, eval_interpolation="bilinear")
    assert networks.view(said) == View(1.0, "bilinear")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"models__vit-s__eval_crop": 1.5}, r"models.vit-s.eval_crop: must lie in \(0, 1\], got 1.5"),
        ({"models__vit-s__eval_interpolation": "nearest"}, "unknown value 'nearest'"),
        ({"recipes__student__interpolation": "bicubic"}, "says how resized_crop stretches, which is off"),
        ({"workers": -1}, "workers: must not be negative"),
    ],
)
def test_what_cannot_be_meant_is_refused(changes, message):
    with pytest.raises(KdbenchError, match=message):
        check_suite(tiny(**changes), "tiny", "tiny.yaml")


# ----------------------------------------------------------------------------------------------------------- whole jobs


def streamed_plan(**changes) -> Plan:
    """The tiny suite on pictures of pets, `checkpoint_seconds: 0`."""
    student = {"lr": 5.0e-3, "epochs": 2, "batch_size": 8, "resized_crop": 0.3, "interpolation": "random", "flip": True}
    own = {
        "data": {"digits": {"source": "jpegfolder", "folder": "pets", "size": SIZE}},
        "recipes": {"teacher": {"lr": 5.0e-3, "epochs": 1, "batch_size": 8}, "student": student},
        "seeds": [0],
        "checkpoint_seconds": 0,
        "blocks__main__methods": ["scratch", "kd", "uhkd"],
    }
    return make_plan(check_suite(tiny(**own | changes), "tiny", "tiny.yaml"))


@pytest.fixture(scope="module")
def _taught(tmp_path_factory) -> Path:
    place = tmp_path_factory.mktemp("streamed")
    write_jpegs(place / "pets")
    with contextlib.chdir(place), pytest.MonkeyPatch.context() as patch:
        patch.setenv("KDBENCH_DATA", str(place))
        plan = streamed_plan()
        run_data(plan, plan.of("data")[0])
        run_jobs(plan, "teacher")
    return place


@pytest.fixture
def taught(_taught, tmp_path, monkeypatch) -> Path:
    """A folder with packed pictures and a teacher, and the test stands in it."""
    shutil.copytree(_taught, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KDBENCH_DATA", str(tmp_path))
    return tmp_path


def results(plan: Plan) -> dict:
    """Hashes of weights and the learning curves; and the next jobs find nothing done."""
    found = {}
    for name, run in plan.runs().items():
        record = read_run(run.result)
        found[name] = record["hashes"]["weights"], record["history"]
        run.result.unlink()
    return found


@pytest.mark.slow
def test_a_whole_job_does_not_depend_on_workers_and_says_what_it_decoded_with(taught):
    found = {}
    for workers in (0, 2):
        plan = streamed_plan(workers=workers)
        run_jobs(plan, "cohort")
        record = read_run(plan.runs()["cnn-t--vit-s", "kd", 0].result)
        seen = {"size": SIZE, "crop": 0.875, "interpolation": "bicubic", "decoder": DECODER}
        assert record["evaluation"] == {"student": seen, "teacher": seen}
        assert record["config"]["data"]["decoder"] == "pillow" and "streaming" in record["config"]["versions"]
        found[workers] = results(plan)
    assert found[0] == found[2]


@pytest.mark.slow
def test_one_decode_serves_all_members(taught, monkeypatch):
    reads: list[tuple[str, int]] = []
    real = Pictures.picture

    def picture(self, position):
        reads.append((self.stem, int(position)))
        return real(self, position)

    monkeypatch.setattr(Pictures, "picture", picture)
    counts = []
    for methods in (["kd"], ["kd", "dkd", "fitnet"]):
        reads.clear()
        plan = streamed_plan(workers=0, blocks__main__methods=methods)
        run_jobs(plan, "cohort")
        counts.append({stem: sum(s == stem for s, _ in reads) for stem in ("image-train", "image-val", "image-test")})
    # Two epochs of five batches of eight; validation and test after each, and the teacher's at the end.
    assert counts[0] == counts[1] == {"image-train": 80, "image-val": 15, "image-test": 48}


@pytest.mark.slow
def test_kill_9_at_any_step_costs_no_bit(taught, monkeypatch):
    # Workers look so often whether their parent is there; until they end, they hold its locks.
    monkeypatch.setattr(worker, "MP_STATUS_CHECK_INTERVAL", 0.1)
    plan = streamed_plan()
    run_jobs(plan, "cohort")
    expected = results(plan)

    def until_killed(steps: int) -> None:
        real, taken = Batches.train, itertools.count()

        def train(self, *args):
            if next(taken) == steps:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(self, *args)

        monkeypatch.setattr(Batches, "train", train)
        run_jobs(plan, "cohort")

    for steps in (3, 0, 8, 4):  # of twenty
        assert wait_for(in_child(lambda steps=steps: until_killed(steps))) == -signal.SIGKILL
    run_jobs(plan, "cohort")
    assert results(plan) == expected
