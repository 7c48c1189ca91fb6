"""The field's CIFAR networks, which timm lacks: what its distillation tables at 32 px are about.

Written from the papers; where megvii-research/mdistiller at a08d46f, whose numbers we want to meet, builds a network in
another way, that is what stands here and is said. Each has one linear classifier on the average of its last map, and
shows its inner maps as timm's networks do (kdbench/signals.py), at the places that mdistiller calls `feats`: the stem
and the end of each stage, for VGG the end of each block before its pooling.

Their names begin with `cifar_`, since timm has other networks of the names vgg13 and resnet18.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class CifarNetwork(nn.Module):
    """Parts that run one after another, of which each ends in a map, and a head; with the names timm gives to these."""

    def __init__(self, parts: Sequence[nn.Module], reductions: Sequence[int], width: int, num_classes: int) -> None:
        """reductions: pixels along a side of a cell of each part's map. width: channels of the last map."""
        super().__init__()
        self.parts = nn.ModuleList(parts)
        self.last = nn.Identity()
        """Between the last map and the average."""
        self.fc = nn.Linear(width, num_classes)
        self.num_classes = num_classes
        self.feature_info = [{"reduction": reduction} for reduction in reductions]

    def forward_intermediates(
        self, x: Tensor, indices: Sequence[int], output_fmt: str = "NCHW"
    ) -> tuple[Tensor, list[Tensor]]:
        """Images (B, C, H, W) -> what `forward_features` gives, and maps (B, C_i, H_i, W_i) of the parts `indices`."""
        maps = []
        for part in self.parts:
            x = part(x)
            maps.append(x)
        return self.last(x), [maps[i] for i in indices]

    def forward_features(self, x: Tensor) -> Tensor:
        return self.forward_intermediates(x, ())[0]

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """The map of `forward_features` -> logits (B, classes), or the pooled feature (B, D) that they are made of."""
        pooled = x.mean(dim=(2, 3))
        return pooled if pre_logits else self.fc(pooled)

    def get_classifier(self) -> nn.Linear:
        return self.fc

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))


def conv(inputs: int, outputs: int, size: int, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    """A convolution without bias that leaves the grid as it is, but for its stride."""
    return nn.Conv2d(inputs, outputs, size, stride, size // 2, groups=groups, bias=False)


def relu() -> nn.ReLU:
    """In place: here its input is always the output of a norm, or a sum made for it, which nobody else reads."""
    return nn.ReLU(inplace=True)


def kaiming(model: CifarNetwork) -> CifarNetwork:
    """The model, its convolutions started from a normal of variance 2 / fan-out and biases of 0."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    return model


# -------------------------------------------------------------------------------------------------------------- ResNet


class BasicBlock(nn.Module):
    """conv, norm, relu, conv, norm, plus the input, relu; a 1x1 convolution and a norm where shapes differ."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            conv(inputs, outputs, 3, stride),
            nn.BatchNorm2d(outputs),
            relu(),
            conv(outputs, outputs, 3),
            nn.BatchNorm2d(outputs),
        )
        same = stride == 1 and inputs == outputs
        self.shortcut = (
            nn.Identity() if same else nn.Sequential(conv(inputs, outputs, 1, stride), nn.BatchNorm2d(outputs))
        )
        self.act = relu()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.body(x) + self.shortcut(x))


def resnet(depth: int, widths: tuple[int, int, int, int], num_classes: int, in_chans: int) -> CifarNetwork:
    """He et al., "Deep Residual Learning for Image Recognition", CVPR 2016, arXiv 1512.03385, section 4.2.

    depth = 6n + 2: three stages of n blocks on grids of 32, 16 and 8. widths: of the stem and the stages. Departure of
    the field: shortcuts between different shapes are projections (the paper's option B; its CIFAR networks have A).
    """
    stem = nn.Sequential(conv(in_chans, widths[0], 3), nn.BatchNorm2d(widths[0]), relu())
    parts = [stem, *_stages(BasicBlock, (depth - 2) // 6, widths)]
    return kaiming(CifarNetwork(parts, (1, 1, 2, 4), widths[-1], num_classes))


def _stages(block: type[nn.Module], blocks: int, widths: tuple[int, int, int, int]) -> list[nn.Sequential]:
    """Three stages of so many blocks, of which the first of the second and third halves the grid."""
    return [
        nn.Sequential(block(inputs, outputs, stride), *(block(outputs, outputs, 1) for _ in range(blocks - 1)))
        for inputs, outputs, stride in zip(widths[:3], widths[1:], (1, 2, 2), strict=True)
    ]


# --------------------------------------------------------------------------------------------------- wide residual net


class PreactBlock(nn.Module):
    """norm, relu, conv, norm, relu, conv, plus the input; where widths differ, a 1x1 convolution of what the first
    convolution reads stands in for the input."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.entrance = nn.Sequential(nn.BatchNorm2d(inputs), relu())
        self.body = nn.Sequential(
            conv(inputs, outputs, 3, stride), nn.BatchNorm2d(outputs), relu(), conv(outputs, outputs, 3)
        )
        self.shortcut = None if inputs == outputs else conv(inputs, outputs, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        entered = self.entrance(x)
        return self.body(entered) + (x if self.shortcut is None else self.shortcut(entered))


def wide_resnet(depth: int, widen: int, num_classes: int, in_chans: int) -> CifarNetwork:
    """Zagoruyko, Komodakis, "Wide Residual Networks", BMVC 2016, arXiv 1605.07146: WRN-depth-widen, no dropout.

    depth = 6n + 4: three stages of n blocks. Maps are sums before the norm that follows them.
    """
    widths = (16, 16 * widen, 32 * widen, 64 * widen)
    parts = [conv(in_chans, widths[0], 3), *_stages(PreactBlock, (depth - 4) // 6, widths)]
    model = kaiming(CifarNetwork(parts, (1, 1, 2, 4), widths[-1], num_classes))
    model.last = nn.Sequential(nn.BatchNorm2d(widths[-1]), relu())
    nn.init.zeros_(model.fc.bias)
    return model


# ----------------------------------------------------------------------------------------------------------------- VGG


def vgg(blocks: tuple[tuple[int, ...], ...], num_classes: int, in_chans: int) -> CifarNetwork:
    """Simonyan, Zisserman, "Very Deep Convolutional Networks for Large-Scale Image Recognition", ICLR 2015, arXiv
    1409.1556, for 32 px: norms, one linear classifier in place of three, and no pooling before the last block.

    blocks: widths of the convolutions of each of the five blocks. vgg13 is the paper's B; vgg8 has one a block.
    """
    parts, inputs = [], in_chans
    for number, widths in enumerate(blocks):
        layers = [nn.MaxPool2d(2)] if 0 < number < 4 else []
        for width in widths:
            layers += [nn.Conv2d(inputs, width, 3, padding=1), nn.BatchNorm2d(width), relu()]
            inputs = width
        parts.append(nn.Sequential(*layers))
    model = kaiming(CifarNetwork(parts, (1, 2, 4, 8, 8), inputs, num_classes))
    nn.init.normal_(model.fc.weight, std=0.01)
    nn.init.zeros_(model.fc.bias)
    return model


# ---------------------------------------------------------------------------------------------------------- ShuffleNet


class ShuffleUnit(nn.Module):
    """Grouped 1x1 convolution, channel shuffle, depthwise 3x3, grouped 1x1; plus the input, or beside its average where
    the grid is halved."""

    def __init__(self, inputs: int, outputs: int, stride: int, groups: int, first: bool = False) -> None:
        """first: of the network, where there are too few channels for groups."""
        super().__init__()
        own = outputs - inputs if stride == 2 else outputs
        # The paper narrows to a quarter of `outputs`; mdistiller to a quarter of what this branch adds.
        narrow = own // 4
        self.groups = 1 if first else groups
        self.enter = nn.Sequential(conv(inputs, narrow, 1, groups=self.groups), nn.BatchNorm2d(narrow), relu())
        # The paper has no activation after the depthwise convolution; mdistiller has one.
        self.body = nn.Sequential(
            conv(narrow, narrow, 3, stride, groups=narrow),
            nn.BatchNorm2d(narrow),
            relu(),
            conv(narrow, own, 1, groups=groups),
            nn.BatchNorm2d(own),
        )
        self.shortcut = nn.AvgPool2d(3, stride=2, padding=1) if stride == 2 else None
        self.act = relu()

    def forward(self, x: Tensor) -> Tensor:
        y = self.body(F.channel_shuffle(self.enter(x), self.groups))
        return self.act(x + y if self.shortcut is None else torch.cat([y, self.shortcut(x)], dim=1))


def shufflenet(
    widths: tuple[int, ...], depths: tuple[int, ...], groups: int, num_classes: int, in_chans: int
) -> CifarNetwork:
    """Zhang et al., "ShuffleNet", CVPR 2018, arXiv 1707.01083, for 32 px: a 1x1 stem of stride 1, no pooling after it.

    widths, depths: channels and units of the stages, on grids of 16, 8 and 4. Weights start as torch starts
    them.
    """
    inputs = 24
    parts = [nn.Sequential(conv(in_chans, inputs, 1), nn.BatchNorm2d(inputs), relu())]
    for number, (width, depth) in enumerate(zip(widths, depths, strict=True)):
        units = [ShuffleUnit(inputs, width, 2, groups, first=number == 0)]
        units += [ShuffleUnit(width, width, 1, groups) for _ in range(depth - 1)]
        parts.append(nn.Sequential(*units))
        inputs = width
    return CifarNetwork(parts, (1, 2, 4, 8), inputs, num_classes)


NETWORKS = {
    "cifar_resnet8x4": partial(resnet, 8, (32, 64, 128, 256)),
    "cifar_resnet32x4": partial(resnet, 32, (32, 64, 128, 256)),
    "cifar_wrn_16_2": partial(wide_resnet, 16, 2),
    "cifar_wrn_40_2": partial(wide_resnet, 40, 2),
    "cifar_vgg8": partial(vgg, ((64,), (128,), (256,), (512,), (512,))),
    "cifar_vgg13": partial(vgg, ((64, 64), (128, 128), (256, 256), (512, 512), (512, 512))),
    "cifar_shufflenet_v1": partial(shufflenet, (240, 480, 960), (4, 8, 4), 3),
}
"""Name in a suite -> function of `num_classes` and `in_chans`. kdbench/plan/keys.py reads the keys from this source."""
