"""Augmentation is torchvision's and timm's: pixel for pixel for given random numbers, else in distribution."""

from __future__ import annotations

import random
from types import SimpleNamespace
from typing import ClassVar

import numpy as np
import pytest
import torch
from conftest import run_jobs, tiny, tiny_plan

import kdbench.torchvision_ops  # noqa: F401
from kdbench.plan.suite import check_suite
from kdbench.results.record import read_run
from kdbench.train import augment
from kdbench.train.batches import Batches
from kdbench.train.order import generator
from kdbench.types import KdbenchError, Recipe

# isort: split
import timm.data.mixup
from packaging.version import Version
from PIL import Image
from timm.data import auto_augment
from timm.data.random_erasing import RandomErasing
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as transforms

EVERYTHING = {
    "resized_crop": 0.3,
    "flip": True,
    "rand_augment": 20,
    "color_jitter": 0.4,
    "erasing": 0.5,
    "label_smoothing": 0.1,
    "mixup": 0.8,
    "cutmix": 1.0,
}
TIMMS = {"rand_augment": 0, "auto_augment": "rand-m9-mstd0.5-inc1"}
"""In its place."""


def images(batch: int, channels: int, height: int, width: int) -> torch.Tensor:
    """Noise, coarse patches, and one grey level throughout."""
    rng = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (batch, channels, height, width), generator=rng, dtype=torch.uint8)
    pixels[::2] = transforms.resize(pixels[::2, :, :4, :4], [height, width])
    pixels[-1] = 77
    return pixels


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def alike(ours: torch.Tensor, theirs: torch.Tensor, tolerance: float) -> None:
    """Two samples of one distribution: their cumulative shares differ by at most `tolerance` anywhere."""
    at = torch.cat([ours, theirs]).unique()
    shares = [torch.searchsorted(x.sort().values, at, right=True) / len(x) for x in (ours, theirs)]
    assert (shares[0] - shares[1]).abs().max() < tolerance


# ------------------------------------------------------------------------------------------------------------ geometry


@pytest.mark.parametrize("size", [(32, 32), (9, 14)])
def test_resized_crop_is_torchvisions(size):
    pixels = images(64, 3, *size)
    boxes = augment.draw_resized_crop(64, *size, 0.08, seeded())
    got = augment.resized_crop(pixels, boxes)
    for image, box, ours in zip(pixels, boxes.T.tolist(), got, strict=True):
        unrounded = transforms.resized_crop(image.float(), *box, list(size))
        assert (ours - unrounded).abs().max() < 0.5001
        assert (ours.int() - transforms.resized_crop(image, *box, list(size)).int()).abs().max() <= 1


@pytest.mark.parametrize(("height", "width", "smallest"), [(32, 32, 0.08), (32, 20, 0.5), (8, 30, 0.9), (30, 8, 0.2)])
def test_resized_crop_draws_torchvisions_boxes(height, width, smallest):
    theirs = v2.RandomResizedCrop((height, width), scale=(smallest, 1.0))
    torch.manual_seed(0)
    drawn = [theirs.make_params([torch.zeros(1, height, width)]) for _ in range(4000)]
    ours = augment.draw_resized_crop(40000, height, width, smallest, seeded()).double()
    for i, key in enumerate(("top", "left", "height", "width")):
        alike(ours[i], torch.tensor([float(d[key]) for d in drawn]).double(), 0.03)
    alike(ours[2] * ours[3], torch.tensor([float(d["height"] * d["width"]) for d in drawn]).double(), 0.03)


# ---------------------------------------------------------------------------------------------------------- operations


@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 8, 8)])
@pytest.mark.parametrize("magnitude", [1, 9, 14, 27, 30])
def test_each_operation_of_rand_augment_is_torchvisions(shape, magnitude):
    pixels, theirs = images(8, *shape), v2.RandAugment()
    assert len(augment.RAND_AUGMENT) == len(theirs._AUGMENTATION_SPACE)
    table = augment.rand_augment_magnitudes(magnitude, *shape[1:])
    for position, (name, (values, signed)) in enumerate(theirs._AUGMENTATION_SPACE.items()):
        values = values(31, *shape[1:])
        assert table[position] == (0 if values is None else float(values[magnitude]))
        for value in {table[position].item(), -table[position].item() if signed else table[position].item()}:
            expected = theirs._apply_image_or_video_transform(
                pixels, name, value, transforms.InterpolationMode.NEAREST, {torch.Tensor: None}
            )
            choice, value = torch.full((8,), position), torch.full((8,), value, dtype=torch.float64)
            assert torch.equal(augment.apply_each(pixels, augment.RAND_AUGMENT, choice, value), expected), name


def test_rand_augment_draws_all_operations_and_both_signs_alike():
    rounds = augment.draw_rand_augment(28000, 32, 32, 9, seeded())
    signed = [signed for _, signed in v2.RandAugment._AUGMENTATION_SPACE.values()]
    assert len(rounds) == 2 and not torch.equal(rounds[0][0], rounds[1][0])
    for choice, magnitude in rounds:
        assert (torch.bincount(choice, minlength=14) / 2000 - 1).abs().max() < 0.1
        for operation in range(14):
            negative = (magnitude[choice == operation] < 0).double().mean()
            assert abs(negative - 0.5) < 0.05 if signed[operation] else negative == 0


def test_each_image_goes_through_its_own_operation():
    pixels = images(14, 3, 16, 16)
    choice = torch.randperm(14, generator=seeded())
    magnitude = augment.rand_augment_magnitudes(9, 16, 16)[choice]
    together = augment.apply_each(pixels, augment.RAND_AUGMENT, choice, magnitude)
    for i in range(14):
        alone = augment.apply_each(pixels[[i]], augment.RAND_AUGMENT, choice[[i]], magnitude[[i]])
        assert torch.equal(together[[i]], alone)


@pytest.mark.parametrize("channels", [1, 3])
def test_color_jitter_is_torchvisions(channels):
    pixels = images(24, channels, 12, 10)
    rounds = augment.draw_color_jitter(24, 0.4, seeded())
    got = pixels
    for choice, magnitude in rounds:
        got = augment.apply_each(got, augment.COLOR_JITTER, choice, magnitude)
    adjust = (transforms.adjust_brightness, transforms.adjust_contrast, transforms.adjust_saturation)
    for i in range(24):
        expected = pixels[i]
        assert sorted(choice[i].item() for choice, _ in rounds) == [0, 1, 2]
        for choice, magnitude in rounds:
            expected = adjust[choice[i]](expected, 1 + magnitude[i].item())
        assert torch.equal(got[i], expected)


@pytest.mark.parametrize("strength", [0.4, 1.5])
def test_color_jitter_draws_torchvisions_factors_and_orders(strength):
    theirs = v2.ColorJitter(strength, strength, strength)
    rounds = augment.draw_color_jitter(30000, strength, seeded())
    choice, factor = torch.stack([c for c, _ in rounds]), 1 + torch.cat([m for _, m in rounds])
    low, high = theirs.brightness
    assert low <= factor.min() < low + 0.01 and high - 0.01 < factor.max() <= high
    alike(factor, torch.linspace(low, high, 10000, dtype=torch.float64), 0.01)
    orders = torch.bincount(choice[0] * 9 + choice[1] * 3 + choice[2])
    assert (orders > 0).sum() == 6 and (orders[orders > 0] / 5000 - 1).abs().max() < 0.1


# --------------------------------------------------------------------------------------------------- timm's RandAugment

FILL = (129, 124, 112)
FACTORS = ("ColorIncreasing", "ContrastIncreasing", "BrightnessIncreasing", "SharpnessIncreasing")
PLAIN = ("AutoContrast", "Equalize", "Invert", "PosterizeIncreasing", "SolarizeIncreasing", "SolarizeAdd", *FACTORS)
MOVES = ("Rotate", "ShearX", "ShearY", "TranslateXRel", "TranslateYRel")
NAMES = (None, *PLAIN, *MOVES, *MOVES)
"""Of the operations, in our order: the moves bilinear, then bicubic."""


@pytest.mark.parametrize("shape", [(3, 32, 32), (3, 20, 28), (1, 8, 8)])
@pytest.mark.parametrize("level", [2.0, 8.3, 9.0, 10.0])
def test_each_operation_is_timms_within_a_grey_level(monkeypatch, shape, level):
    pixels = images(6, *shape)
    mode = {"fillcolor": FILL if shape[0] == 3 else FILL[0]}
    operations = augment.timm_rand_augment(torch.tensor(FILL[: shape[0]]).view(1, -1, 1, 1).float())
    assert len(operations) == len(NAMES) and set(NAMES[1:]) == set(auto_augment._RAND_INCREASING_TRANSFORMS)
    for position, name in list(enumerate(NAMES))[1:]:
        if name == "PosterizeIncreasing" and level == 10:
            continue  # no bit is left; newer versions of Pillow refuse that
        mode["resample"] = Image.Resampling.BICUBIC if position > len(PLAIN) + len(MOVES) else Image.Resampling.BILINEAR
        for sign in (0.1, 0.9):
            monkeypatch.setattr(auto_augment.random, "random", lambda sign=sign: sign)
            level_to_argument = auto_augment.LEVEL_TO_ARG[name]
            arguments = level_to_argument(level, {}) if level_to_argument else ()
            monkeypatch.undo()
            theirs = []
            for image in pixels:
                source = Image.fromarray(
                    image.permute(1, 2, 0).squeeze(2).numpy() if shape[0] == 1 else to_numpy(image)
                )
                theirs.append(np.asarray(auto_augment.NAME_TO_OP[name](source, *arguments, **mode)))
            expected = torch.from_numpy(np.stack(theirs)).view(6, *shape[1:], shape[0]).permute(0, 3, 1, 2)
            value = (arguments[0] if arguments else 0) - (name in FACTORS)
            magnitude = torch.full((6, 1, 1, 1), float(value), dtype=torch.float64)
            got = operations[position](pixels, magnitude)
            assert got.dtype == torch.uint8 and (got.int() - expected.int()).abs().max() <= 1, name


def to_numpy(image: torch.Tensor) -> np.ndarray:
    return image.permute(1, 2, 0).numpy()


def test_operations_levels_and_kernels_are_drawn_as_timm_draws_them(monkeypatch):
    drawn: list[tuple] = []
    theirs = auto_augment.rand_augment_transform(TIMMS["auto_augment"], {"img_mean": FILL})
    for operation in theirs.ops:
        operation.aug_fn = lambda image, *arguments, name=operation.name, **mode: drawn.append(
            (name, arguments[0] if arguments else 0.0, auto_augment._interpolation(dict(mode)))
        )
    random.seed(0)
    np.random.seed(0)
    count = 12000
    for _ in range(count):
        theirs(None)
    rounds = augment.draw_timm_rand_augment(count, 9.0, 0.5, seeded())
    choice, value = (torch.cat(parts) for parts in zip(*rounds, strict=True))
    assert not torch.equal(rounds[0][0], rounds[1][0])
    assert abs((choice == 0).double().mean() - 0.5) < 0.01 and abs(len(drawn) / count - 1) < 0.02
    for name in NAMES[1:]:
        positions = torch.tensor([i for i, n in enumerate(NAMES) if n == name])
        ours = value[torch.isin(choice, positions)] + (name in FACTORS)
        other = torch.tensor([float(argument) for n, argument, _ in drawn if n == name], dtype=torch.float64)
        assert abs(len(ours) / len(other) - 1) < 0.15
        alike(ours, other, 0.08)
        if name in MOVES:
            share = (choice == positions[1]).sum() / len(ours)
            bicubic = [kernel == Image.Resampling.BICUBIC for n, _, kernel in drawn if n == name]
            assert abs(share - 0.5) < 0.08 and abs(np.mean(bicubic) - 0.5) < 0.08


def test_whole_images_are_alike_after_it():
    """Grey levels of one picture after timm's pipeline and after ours."""
    picture = images(2, 3, 16, 16)[0]
    theirs = auto_augment.rand_augment_transform(TIMMS["auto_augment"], {"img_mean": FILL})
    random.seed(0)
    np.random.seed(0)
    expected = []
    while len(expected) < 2500:
        try:
            expected.append(np.asarray(theirs(Image.fromarray(to_numpy(picture)))))
        except ValueError:  # Pillow, of a posterised image without a bit
            expected.append(np.zeros((16, 16, 3), np.uint8))
    got = picture.expand(2500, -1, -1, -1)
    operations = augment.timm_rand_augment(torch.tensor(FILL).view(1, 3, 1, 1).float())
    for choice, magnitude in augment.draw_timm_rand_augment(2500, 9.0, 0.5, seeded()):
        got = augment.apply_each(got, operations, choice, magnitude)
    other = torch.from_numpy(np.stack(expected)).permute(0, 3, 1, 2)
    for channel in range(3):
        for row, column in ((0, 0), (5, 9), (15, 8)):
            alike(got[:, channel, row, column].double(), other[:, channel, row, column].double(), 0.06)
    alike(got.double().mean((1, 2, 3)), other.double().mean((1, 2, 3)), 0.06)


# ------------------------------------------------------------------------------------------------------------- erasing


@pytest.mark.parametrize("size", [(32, 32), (8, 20)])
def test_erasing_is_timms(size):
    ours = torch.zeros(8000, 2, *size)
    ours = augment.erase(ours, *augment.draw_erasing(ours.shape, 0.25, seeded()))
    theirs = torch.zeros(8000, 2, *size)
    random.seed(0)
    torch.manual_seed(0)
    RandomErasing(0.25, mode="pixel", device="cpu")(theirs)
    for x in (ours, theirs):
        erased = x != 0
        assert torch.equal(erased[:, 0], erased[:, 1])
        assert abs(x[erased].mean()) < 0.01 and abs(x[erased].std() - 1) < 0.01
    for read in (
        lambda erased: erased.flatten(1).sum(1),
        lambda erased: erased.any(2).sum(1),
        lambda erased: erased.any(1).sum(1),
        lambda erased: erased.any(2).int().argmax(1),
    ):
        alike(read(ours[:, 0] != 0).double(), read(theirs[:, 0] != 0).double(), 0.03)


def test_an_erased_box_is_whole():
    positions, values = augment.draw_erasing((200, 1, 16, 12), 1.0, seeded())
    erased = augment.erase(torch.zeros(200, 1, 16, 12), positions, torch.ones_like(values))[:, 0]
    assert erased.any(2).any(1).all()
    assert torch.equal(erased.sum((1, 2)), erased.any(2).sum(1) * erased.any(1).sum(1).float())


# -------------------------------------------------------------------------------------------------------------- mixing


@pytest.mark.skipif(Version(timm.__version__) < Version("1.0.30"), reason="this timm cuts boxes of odd length shorter")
@pytest.mark.parametrize(("mixup", "cutmix"), [(0.8, 0.0), (0.0, 1.0), (0.8, 1.0)])
def test_mixing_is_timms(monkeypatch, mixup, cutmix):
    pixels, classes = torch.randn(6, 3, 32, 20), torch.tensor([0, 1, 2, 3, 4, 0])
    boxes = 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        # timm first draws whether to mix at all, with probability 1.
        whether = [0.0]
        same = SimpleNamespace(
            rand=lambda rng=rng, whether=whether: whether.pop() if whether else rng.random(),
            beta=rng.beta,
            randint=lambda low, high, size, rng=rng: rng.integers(low, high),
        )
        monkeypatch.setattr(timm.data.mixup.np, "random", same)
        mixer = timm.data.mixup.Mixup(mixup, cutmix, label_smoothing=0.1, num_classes=5)
        expected, soft = mixer(pixels.clone(), classes)
        monkeypatch.undo()

        share, box = augment.draw_mixing(mixup, cutmix, 32, 20, np.random.default_rng(seed))
        assert torch.equal(augment.mix(pixels, share, box), expected)
        smooth = torch.nn.functional.one_hot(classes, 5) * 0.9 + 0.1 / 5
        assert torch.allclose(augment.mix(smooth, share), soft)
        boxes += box is not None
    assert {(True, False): boxes == 0, (False, True): boxes == 200, (True, True): 80 < boxes < 120}[
        mixup > 0, cutmix > 0
    ]


@pytest.mark.parametrize(("chance", "switch"), [(0.3, 0.5), (1.0, 0.2), (0.6, 0.9)])
def test_batches_are_mixed_as_often_as_timm_mixes_them(monkeypatch, chance, switch):
    """The same draws: timm asks first whether to mix, then how."""
    mixed = boxes = 0
    for seed in range(400):
        rng = np.random.default_rng(seed)
        whether = [0.0] if chance == 1 else []
        same = SimpleNamespace(
            rand=lambda rng=rng, whether=whether: whether.pop() if whether else rng.random(),
            beta=rng.beta,
            randint=lambda low, high, size, rng=rng: rng.integers(low, high),
        )
        monkeypatch.setattr(timm.data.mixup.np, "random", same)
        mixer = timm.data.mixup.Mixup(0.8, 1.0, prob=chance, switch_prob=switch, num_classes=5)
        share, is_cut = mixer._params_per_batch()
        monkeypatch.undo()
        ours, box = augment.draw_mixing(0.8, 1.0, 32, 32, np.random.default_rng(seed), chance, switch)
        assert (box is not None) == is_cut and (box is not None or ours == share)
        mixed += ours != 1
        boxes += box is not None
    assert abs(mixed / 400 - chance) < 0.08 and abs(boxes / 400 - chance * switch) < 0.08


# ------------------------------------------------------------------------------------------------------------- batches


class Pack:
    """Two images of different sizes and a sequence, as Batches reads them."""

    SHAPES: ClassVar = {"large": (16, 16, 3), "small": (8, 8, 1), "pen": (1, 20, 3)}

    def __init__(self) -> None:
        modalities = {
            m: {
                "kind": "sequence" if m == "pen" else "image",
                "shape": list(shape),
                "mean": [0.4] * shape[2],
                "std": [0.2] * shape[2],
            }
            for m, shape in self.SHAPES.items()
        }
        self.meta = {"class_names": list("abcde"), "modalities": modalities}

    def array(self, modality: str, split: str) -> np.ndarray:
        return np.random.default_rng(0).integers(0, 256, (40, *self.SHAPES[modality]), dtype=np.uint8)

    def labels(self, split: str) -> np.ndarray:
        return np.arange(40) % 5


def batches_of(*modalities: str, device: str = "cpu") -> Batches:
    return Batches(Pack(), set(modalities), torch.device(device))


def recipe(**keys) -> Recipe:
    return Recipe("r", lr=1.0, steps=1, **keys)


INDEX = torch.arange(3, 35)


def test_without_new_augmentation_batches_are_what_they_were():
    batches = batches_of("large", "pen")
    for crop, flip in ((0, False), (2, False), (0, True), (2, True)):
        inputs, target = batches.train(INDEX, recipe(crop=crop, flip=flip), 5, 7)
        rng = generator(5, "augmentation", 7)
        shift = torch.randint(-crop, crop + 1, (2, 32), generator=rng)
        mirrored = torch.rand(32, generator=rng) < 0.5 if flip else None
        pixels = {m: torch.from_numpy(Pack().array(m, "train")).permute(0, 3, 1, 2)[INDEX] for m in ("large", "pen")}
        pixels["large"] = augment.crop_and_flip(pixels["large"], shift, mirrored, crop)
        for modality, x in inputs.items():
            expected = (pixels[modality].float() / 255 - torch.tensor(0.4)) / torch.tensor(0.2)
            assert torch.equal(x, expected)
        assert torch.equal(target, INDEX % 5)


@pytest.mark.parametrize("key", [*EVERYTHING, "crop", "auto_augment", "everything"])
def test_batches_are_determined_by_seed_and_step(key):
    batches = batches_of("large")
    some = EVERYTHING | {"crop": 2} | TIMMS
    chosen = recipe(**EVERYTHING) if key == "everything" else recipe(**{key: (some | EVERYTHING)[key]})
    inputs, target = batches.train(INDEX, chosen, 0, 0)
    again, target_again = batches.train(INDEX, chosen, 0, 0)
    assert torch.equal(inputs["large"], again["large"]) and torch.equal(target, target_again)
    for seed, step in ((0, 1), (1, 0)):
        other = batches.train(INDEX, chosen, seed, step)[0]["large"]
        assert torch.equal(inputs["large"], other) == (key == "label_smoothing")
    soft = key in ("label_smoothing", "mixup", "cutmix", "everything")
    assert target.ndim == 1 + soft
    assert not soft or torch.allclose(target.sum(1), torch.ones(32))


def test_an_image_does_not_depend_on_the_other_modalities():
    chosen = recipe(**EVERYTHING | {"cutmix": 0.0})
    company = batches_of("large", "small", "pen").train(INDEX, chosen, 0, 0)
    for modality in Pack.SHAPES:
        alone = batches_of(modality).train(INDEX, chosen, 0, 0)
        assert torch.equal(alone[0][modality], company[0][modality]) and torch.equal(alone[1], company[1])


def test_one_kind_of_augmentation_leaves_the_draws_of_the_others():
    batches = batches_of("large")
    flipped = batches.train(INDEX, recipe(flip=True), 0, 0)[0]["large"]
    erased = batches.train(INDEX, recipe(flip=True, erasing=0.5), 0, 0)[0]["large"]
    same = (flipped == erased).flatten(1).all(1)
    assert 5 < same.sum() < 27


def test_a_sequence_is_only_mixed():
    batches = batches_of("pen")
    plain, _ = batches.train(INDEX, recipe(), 0, 0)
    chosen = {k: v for k, v in EVERYTHING.items() if k not in ("mixup", "cutmix")}
    assert torch.equal(batches.train(INDEX, recipe(**chosen), 0, 0)[0]["pen"], plain["pen"])
    mixed, target = batches.train(INDEX, recipe(mixup=1.0), 0, 0)
    share = next(row[row > 0][0].item() for row in target if (row > 0).sum() == 2)
    expected = [plain["pen"] * s + plain["pen"].flip(0) * (1 - s) for s in (share, 1 - share)]
    assert any(torch.allclose(mixed["pen"], e, atol=1e-5) for e in expected)


def test_a_batch_that_is_not_mixed_is_what_it_was_and_its_labels_are_soft():
    batches = batches_of("large")
    plain, classes = batches.train(INDEX, recipe(), 0, 0)
    unmixed, soft = batches.train(INDEX, recipe(mixup=0.8, mixup_prob=0.0), 0, 0)
    assert torch.equal(unmixed["large"], plain["large"])
    assert torch.equal(soft, torch.nn.functional.one_hot(classes, 5).float())


@pytest.mark.parametrize("modalities", [("pen",), ("large", "pen"), ("large", "small")])
def test_cutmix_is_refused_where_there_is_no_common_box(modalities):
    with pytest.raises(KdbenchError, match="cutmix is for images of one size"):
        batches_of(*modalities).train(INDEX, recipe(cutmix=1.0), 0, 0)


def test_colours_are_refused_where_there_are_none(monkeypatch):
    monkeypatch.setitem(Pack.SHAPES, "large", (16, 16, 2))
    with pytest.raises(KdbenchError, match="1 or 3 channels, but large has 2"):
        batches_of("large").train(INDEX, recipe(color_jitter=0.1), 0, 0)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize("changes", [{}, TIMMS])
def test_on_cuda_nothing_waits_and_draws_are_the_same(changes):
    chosen = recipe(**EVERYTHING | changes)
    expected, soft = batches_of("large").train(INDEX, chosen, 0, 0)
    batches, index = batches_of("large", device="cuda"), INDEX.cuda()
    batches.train(index, chosen, 0, 0)
    torch.cuda.set_sync_debug_mode("error")
    try:
        inputs, target = batches.train(index, chosen, 0, 0)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert torch.allclose(target.cpu(), soft)
    assert ((inputs["large"].cpu() - expected["large"]).abs() < 0.1).double().mean() > 0.98


# --------------------------------------------------------------------------------------------------- suite and engine


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("resized_crop", 1.0, r"recipes.student: resized_crop: must lie in \[0, 1\)"),
        ("resized_crop", 0.5, "give one of crop and resized_crop"),
        ("rand_augment", 31, r"rand_augment: must lie in \[0, 30\]"),
        ("rand_augment", 9.5, "rand_augment: expected int"),
        ("erasing", 1.5, r"erasing: must lie in \[0, 1\]"),
        ("color_jitter", -0.1, "color_jitter: must not be negative"),
        ("mixup", -1, "mixup: must not be negative"),
        ("cutmix", -1, "cutmix: must not be negative"),
    ],
)
def test_a_wrong_recipe_is_refused(key, value, message):
    with pytest.raises(KdbenchError, match=message):
        check_suite(tiny(**{f"recipes__student__{key}": value}), "tiny", "tiny.yaml")


def test_one_sample_cannot_be_mixed():
    with pytest.raises(KdbenchError, match="batch_size must be at least 2"):
        check_suite(tiny(recipes__student__mixup=1.0, recipes__student__batch_size=1), "tiny", "tiny.yaml")


def test_a_cohort_trains_with_all_of_it(trained):
    methods = ["scratch", "kd", "dkd", "ofa", "c2kd", "fdcmkd"]
    plan = tiny_plan(
        seeds=[0],
        recipes__student={"lr": 1.0e-3, "steps": 2, "batch_size": 50, **EVERYTHING},
        blocks__main__pairs=["cnn-t -> cnn-s"],
        blocks__main__methods=methods,
    )
    run_jobs(plan, "cohort")
    for run in plan.runs().values():
        if run.method.id in methods and run.pair.teacher:
            assert read_run(run.result)["status"] == "finished", run.method.id
