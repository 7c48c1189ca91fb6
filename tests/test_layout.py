"""Networks and projectors read images plane after plane, whatever their channels: elsewhere torch's convolutions have
written beyond their buffers (kdbench/tensors.py)."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from kdbench.data.pictures import USUAL
from kdbench.methods import fbt, pat
from kdbench.signals import EVERYTHING, Reader
from kdbench.tensors import planar
from kdbench.train import networks
from kdbench.train.augment import crop_and_flip
from kdbench.train.batches import Batches
from kdbench.train.cohort import Cohort
from kdbench.types import ModelSpec, Recipe

CHANNELS = (1, 2, 3, 4)
AUGMENTED = {
    "plain": {},
    "crop and flip": {"crop": 2, "flip": True},
    "resized crop": {"resized_crop": 0.3},
    "mixup and erasing": {"crop": 1, "mixup": 0.8, "erasing": 0.9},
    "cutmix": {"flip": True, "cutmix": 1.0},
    "colours": {"crop": 1, "rand_augment": 20, "color_jitter": 0.4},
}
SEEN: list[torch.Tensor] = []


def lies_in_planes(x: torch.Tensor) -> bool:
    _, channels, height, width = x.shape
    return x.stride() == (channels * height * width, height * width, width, 1)


@pytest.mark.parametrize("shape", [(5, 1, 6, 7), (5, 3, 6, 7), (5, 4, 1, 1), (5, 1, 1, 9), (1, 1, 6, 1), (5, 2, 1, 9)])
def test_planar_keeps_values_and_gradients_and_copies_only_what_lies_otherwise(shape):
    batch, channels, height, width = shape
    right = torch.randn(shape)
    assert planar(right) is right
    other = torch.randn(batch, height, width, channels, requires_grad=True)
    found = planar(other.permute(0, 3, 1, 2))
    assert lies_in_planes(found) and torch.equal(found, other.permute(0, 3, 1, 2))
    found.square().sum().backward()
    assert torch.equal(other.grad, 2 * other)


def batches(channels: int) -> Batches:
    rng = np.random.default_rng(0)
    arrays = {s: rng.integers(0, 256, (n, 8, 8, channels), dtype=np.uint8) for s, n in SIZES.items()}
    facts = {"kind": "image", "shape": [8, 8, channels], "mean": [0.5] * channels, "std": [0.2] * channels}
    return Batches(
        SimpleNamespace(
            meta={"class_names": list("abc"), "modalities": {"image": facts}},
            array=lambda modality, split: arrays[split],
            labels=lambda split: np.arange(SIZES[split]) % 3,
        ),
        {"image"},
        torch.device("cpu"),
    )


SIZES = {"train": 12, "val": 6, "test": 6}
CNN = {"block": "BasicBlock", "layers": [1, 1, 1, 1], "channels": [4, 4, 8, 8], "output_stride": 8}


def cnn(channels: int) -> nn.Module:
    """A ResNet whose convolutions note what they read."""
    SEEN.clear()
    spec = ModelSpec("cnn", "ResNet", "d", "r", args=CNN, stem="small", family="cnn")
    model = networks.build(spec, (8, 8, channels), 3, 0)
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_pre_hook(lambda module, inputs: SEEN.append(inputs[0]))
    return model


@pytest.mark.parametrize("channels", CHANNELS)
@pytest.mark.parametrize("augmented", AUGMENTED)
def test_every_convolution_reads_planes_in_training(channels, augmented):
    options = AUGMENTED[augmented]
    if channels in (2, 4) and "rand_augment" in options:
        pytest.skip("colours are for 1 or 3 channels")
    recipe = Recipe("r", lr=0.1, steps=1, batch_size=6, **options)
    model = cnn(channels)
    for needs in (frozenset({"logits"}), EVERYTHING):
        inputs, _ = batches(channels).train(torch.arange(6), recipe, 0, 0)
        signals = Reader(model, (8, 8, channels), "cnn", needs)(inputs["image"])
        assert SEEN and all(map(lies_in_planes, SEEN))
        assert all(map(lies_in_planes, signals.stages or ()))


@pytest.mark.parametrize("channels", CHANNELS)
def test_every_convolution_reads_planes_in_evaluation(channels):
    given = batches(channels)
    Cohort(None, None, given, torch.device("cpu"), 0)._logits([cnn(channels)], "image", "test", USUAL)
    assert SEEN and all(map(lies_in_planes, SEEN))


@pytest.mark.parametrize("channels", CHANNELS)
def test_cropped_pixels_lie_in_planes(channels):
    """They are read by loops without a Reader too."""
    pixels = torch.randint(0, 256, (4, channels, 8, 8), dtype=torch.uint8)
    assert lies_in_planes(crop_and_flip(pixels, torch.ones(2, 4, dtype=torch.long), None, 1))


@pytest.mark.parametrize("patch", [8, 4])
def test_stage_maps_of_tokens_lie_in_planes(patch):
    """One token is one pixel, which torch calls contiguous in either order."""
    args = {"patch_size": patch, "embed_dim": 4, "depth": 4, "num_heads": 1}
    model = networks.build(ModelSpec("vit", "VisionTransformer", "d", "r", args=args, family="vit"), (8, 8, 1), 3, 0)
    stages = Reader(model, (8, 8, 1), "vit")(torch.randn(2, 8, 8, 1).permute(0, 3, 1, 2)).stages
    assert len(stages) == 4 and all(map(lies_in_planes, stages))


def test_maps_that_methods_turn_themselves_lie_in_planes():
    """FBT's bridge feeds a teacher's last stage, PAT's prompts convolve what a Swin or ViT teacher reads."""
    bridge = SimpleNamespace(
        local_to_global=lambda maps: torch.randn(2, 4, 4, 3),
        layout="maps",
        last_stage=[SEEN.append],
        head=lambda x, pre_logits=False: x,
    )
    SEEN.clear()
    fbt.Method.bridge(bridge, None)
    distiller = SimpleNamespace(
        layout="maps last",
        mended=True,
        prompts=[lambda maps, difference: SEEN.append(maps) or maps],
        _difference=lambda i, batch: None,
    )
    pat.Method._prompted(distiller, 0, None, (torch.randn(2, 4, 4, 3),))
    assert len(SEEN) == 2 and all(map(lies_in_planes, SEEN))
