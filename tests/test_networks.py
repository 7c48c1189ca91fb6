"""The field's CIFAR networks: as large as published, read without being changed, named like timm's."""

from __future__ import annotations

import math

import pytest
import torch
from test_models import spec
from torch import nn

from kdbench.plan.keys import own_networks
from kdbench.plan.timm_names import timm_index
from kdbench.signals import Reader
from kdbench.train import networks
from kdbench.train.cifar_networks import NETWORKS
from kdbench.types import KdbenchError

SHAPE, CLASSES = (32, 32, 3), 100
RESNET = [(32, 32, 32), (64, 32, 32), (128, 16, 16), (256, 8, 8)]
WRN = [(16, 32, 32), (32, 32, 32), (64, 16, 16), (128, 8, 8)]
VGG = [(128, 16, 16), (256, 8, 8), (512, 4, 4), (512, 4, 4)]
SHUFFLENET = [(24, 32, 32), (240, 16, 16), (480, 8, 8), (960, 4, 4)]


def conv(inputs: int, outputs: int, size: int = 3, groups: int = 1) -> int:
    """Weights of a convolution and of the norm behind or before it, which has as many channels as the convolution."""
    return inputs // groups * outputs * size**2 + 2 * outputs


def resnet(depth: int) -> int:
    """Layer by layer, as Table 6 of arXiv 1512.03385 with four times the width and projections."""
    n, total = (depth - 2) // 6, conv(3, 32)
    for inputs, width in ((32, 64), (64, 128), (128, 256)):
        total += conv(inputs, width) + (2 * n - 1) * conv(width, width) + conv(inputs, width, 1)
    return total + 257 * CLASSES


def wrn(depth: int, k: int) -> int:
    """Layer by layer, as Table 1 of arXiv 1605.07146: a norm before each convolution of a block, none on a shortcut."""
    n, total, inputs = (depth - 4) // 6, 27 * 16, 16
    for width in (16 * k, 32 * k, 64 * k):
        total += 2 * inputs + 9 * inputs * width + inputs * width
        total += (2 * n - 1) * (2 * width + 9 * width * width)
        inputs = width
    return total + 2 * inputs + (inputs + 1) * CLASSES


def vgg(*widths: int) -> int:
    """Convolutions with a bias, each with a norm, and one classifier."""
    pairs = zip((3, *widths), widths, strict=False)
    return sum(conv(a, b) + b for a, b in pairs) + (widths[-1] + 1) * CLASSES


def shufflenet() -> int:
    """Table 1 of arXiv 1707.01083, groups of 3, with a bottleneck of a quarter of what a unit's branch adds."""
    total, inputs = conv(3, 24, 1), 24
    for width, units in ((240, 4), (480, 8), (960, 4)):
        for unit in range(units):
            added = width - inputs if unit == 0 else width
            narrow, groups = added // 4, 1 if inputs == 24 else 3
            total += conv(inputs, narrow, 1, groups) + conv(narrow, narrow, 3, narrow) + conv(narrow, added, 1, 3)
            inputs = width
    return total + 961 * CLASSES


# Published: RepDistiller's networks. Two of them were found printed for 10 classes in public code: WRN-16-2 691,674 and
# WRN-40-2 2,243,546, each 90 classifier rows of 129 less.
COUNTS = {
    "cifar_resnet8x4": (1_233_540, resnet(8), RESNET),
    "cifar_resnet32x4": (7_433_860, resnet(32), RESNET),
    "cifar_wrn_16_2": (691_674 + 90 * 129, wrn(16, 2), WRN),
    "cifar_wrn_40_2": (2_243_546 + 90 * 129, wrn(40, 2), WRN),
    "cifar_vgg8": (3_965_028, vgg(64, 128, 256, 512, 512), VGG),
    "cifar_vgg13": (9_462_180, vgg(64, 64, 128, 128, 256, 256, 512, 512, 512, 512), VGG),
    "cifar_shufflenet_v1": (949_258, shufflenet(), SHUFFLENET),
}


def build(name: str, seed: int = 0) -> nn.Module:
    return networks.build(spec(name), SHAPE, CLASSES, seed)


@pytest.mark.parametrize("name", NETWORKS)
def test_as_large_as_published_and_as_counted_layer_by_layer(name):
    published, counted, _ = COUNTS[name]
    assert networks.parameter_count(build(name)) == published == counted


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("training", [False, True])
def test_read_in_full_without_changing_it(name, training):
    """Activations work in place: none may touch a map that is shown."""
    model = build(name)
    reader = Reader(model, SHAPE, "cnn")
    side = reader.side
    assert side.family == "cnn" and list(side.stages) == COUNTS[name][2] and side.prefix == 0
    assert side.pooled == side.pooled_preact == side.stages[-1][0]
    x = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    model.train(training)
    shown = {}
    for number, part in enumerate(model.parts):
        part.register_forward_hook(lambda module, i, out, number=number: shown.update({number: out.detach().clone()}))
    signals = reader(x)
    for stage, own in zip(signals.stages, list(shown.values())[-4:], strict=True):
        assert torch.equal(stage, own)
    assert torch.equal(signals.logits, model(x)) and torch.equal(signals.logits, model.get_classifier()(signals.pooled))
    # Every network ends in an activation, so what is pooled before it is less.
    assert (signals.pooled >= 0).all() and (signals.pooled_preact < signals.pooled - 1e-4).any()
    sum(map(torch.sum, (signals.logits, *signals.stages, signals.pooled_preact))).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


@torch.no_grad()
def test_pooled_before_the_last_activation():
    x = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    for name, preactivation in (
        ("cifar_resnet8x4", lambda m, maps: m.parts[3][0].body(maps[2]) + m.parts[3][0].shortcut(maps[2])),
        ("cifar_wrn_16_2", lambda m, maps: m.last[0](maps[3])),
        ("cifar_vgg8", lambda m, maps: m.parts[4][:2](maps[3])),
    ):
        model = build(name).eval()
        signals = Reader(model, SHAPE, "cnn")(x)
        _, maps = model.forward_intermediates(x, range(len(model.parts)))
        assert torch.allclose(signals.pooled_preact, preactivation(model, maps).mean((2, 3)), atol=1e-5), name


@torch.no_grad()
def test_a_shuffle_unit_by_hand():
    """Stage 2, unit 1 of ShuffleNet: the branch behind the average of the input is 216 channels, made of 54."""
    first, second = build("cifar_shufflenet_v1").eval().parts[1][:2]
    x = torch.randn(1, 24, 8, 8)
    y = first(x)
    assert y.shape == (1, 240, 4, 4)
    assert torch.allclose(y[:, 216:], nn.functional.avg_pool2d(x, 3, 2, 1).relu(), atol=1e-6)
    # Units of equal grids add their input; channel c of group g moves to place c * groups + g.
    entered = second.enter(y)
    shuffled = entered.view(1, 3, 20, 4, 4).permute(0, 2, 1, 3, 4).reshape(1, 60, 4, 4)
    assert torch.allclose(second(y), (second.body(shuffled) + y).relu(), atol=1e-5)


def test_convolutions_start_by_fan_out_and_shufflenets_as_torch_does():
    stds = {
        "cifar_resnet32x4": (lambda m: m.parts[3][1].body[0], math.sqrt(2 / (9 * 256))),
        "cifar_wrn_40_2": (lambda m: m.parts[3][1].body[0], math.sqrt(2 / (9 * 128))),
        "cifar_vgg13": (lambda m: m.parts[4][0], math.sqrt(2 / (9 * 512))),
        "cifar_shufflenet_v1": (lambda m: m.parts[3][1].enter[0], math.sqrt(1 / 3 / (960 / 3))),
    }
    for name, (pick, std) in stds.items():
        assert pick(build(name)).weight.std().item() == pytest.approx(std, rel=0.02)
    vgg13 = build("cifar_vgg13")
    assert not vgg13.parts[0][0].bias.any() and vgg13.fc.weight.std().item() == pytest.approx(0.01, rel=0.02)


def test_weights_come_from_the_seed_alone():
    torch.manual_seed(5)
    one, two = build("cifar_vgg8"), build("cifar_vgg8")
    other = build("cifar_vgg8", seed=1)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
    assert not torch.equal(one.fc.weight, other.fc.weight)


def test_their_names_are_known_without_torch_and_are_not_timms():
    assert tuple(own_networks()) == tuple(networks.NETWORKS)
    assert not set(networks.NETWORKS) & {*timm_index()[0], *timm_index()[1]}
    assert spec("cifar_vgg8").family == "cnn" and spec("mnist_mlp_800").family == "mlp"


def test_mistakes_are_named_with_the_nearest_name():
    with pytest.raises(KdbenchError, match="did you mean 'cifar_resnet32x4'"):
        spec("cifar_resnet34x4")
    with pytest.raises(KdbenchError, match="unknown argument of cifar_vgg8 'width'; known: none"):
        spec("cifar_vgg8", {"width": 3})
    with pytest.raises(KdbenchError, match="stem: small is for"):
        networks.build(spec("cifar_vgg8", stem="small"), SHAPE, CLASSES, 0)
