"""Networks of the three families: built from names alone, read without changing what they compute."""

from __future__ import annotations

import pytest
import torch

from kdbench.plan.suite import check_suite
from kdbench.plan.timm_names import has_head_convolution
from kdbench.signals import Reader, read_logits, stage_indices
from kdbench.train import networks
from kdbench.train.augment import crop_and_flip
from kdbench.types import KdbenchError, ModelSpec


def spec(timm: str, args: dict | None = None, family: str | None = None, **options) -> ModelSpec:
    """A checked model specification, as a YAML would give it."""
    tree = {
        "seeds": [0],
        "data": {"d": {"source": "digits"}},
        "recipes": {"r": {"lr": 0.1, "steps": 1}},
        "models": {"m": {"timm": timm, "data": "d", "recipe": "r", "args": args or {}, **options}},
        "blocks": {"b": {"data": "d", "pairs": ["m -> m"], "methods": ["kd"]}},
    }
    return check_suite(tree, "x", "x.yaml").models["m"]


SMALL = [
    ("resnet18", {}, {"stem": "small"}, 32, "cnn", [(64, 32, 32), (128, 16, 16), (256, 8, 8), (512, 4, 4)]),
    ("resnet50", {}, {"stem": "small"}, 32, "cnn", [(256, 32, 32), (512, 16, 16), (1024, 8, 8), (2048, 4, 4)]),
    ("mobilenetv2_100", {}, {}, 64, "cnn", [(24, 16, 16), (32, 8, 8), (96, 4, 4), (1280, 2, 2)]),
    ("convnext_tiny", {}, {}, 64, "cnn", [(96, 16, 16), (192, 8, 8), (384, 4, 4), (768, 2, 2)]),
    ("vit_tiny_patch16_224", {"patch_size": 4}, {}, 32, "vit", [(192, 8, 8)] * 4),
    ("deit_tiny_distilled_patch16_224", {"patch_size": 8}, {}, 32, "vit", [(192, 4, 4)] * 4),
    (
        "swin_tiny_patch4_window7_224",
        {"window_size": 4},
        {},
        64,
        "vit",
        [(96, 16, 16), (192, 8, 8), (384, 4, 4), (768, 2, 2)],
    ),
    ("MlpMixer", {"patch_size": 4, "embed_dim": 32, "num_blocks": 8}, {}, 32, "mlp", [(32, 8, 8)] * 4),
    (
        "MlpMixer",
        {"patch_size": 8, "embed_dim": 32, "num_blocks": 6, "mlp_ratio": 4.0, "block_layer": "ResBlock"},
        {},
        32,
        "mlp",
        [(32, 4, 4)] * 4,
    ),
]


@pytest.mark.parametrize(
    ("timm", "args", "options", "size", "family", "stages"), SMALL, ids=lambda v: v if isinstance(v, str) else ""
)
@torch.no_grad()
def test_every_family_is_read_without_changing_it(timm, args, options, size, family, stages):
    model = networks.build(spec(timm, args, **options), (size, size, 3), 7, 0).eval()
    state = {k: v.clone() for k, v in model.state_dict().items()}
    reader = Reader(model, (size, size, 3), spec(timm, args, **options).family)
    side = reader.side
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items()) and not model.training
    assert side.family == family and list(side.stages) == stages
    x = torch.randn(3, 3, size, size, generator=torch.Generator().manual_seed(0))
    signals = reader(x, torch.arange(3))
    assert torch.equal(signals.logits, model(x)), "reading signals must not change the logits"
    assert [tuple(m.shape) for m in signals.stages] == [(3, *s) for s in stages]
    assert all(p.shape == (3, side.prefix, m.shape[1]) for p, m in zip(signals.prefix, signals.stages, strict=True))
    assert signals.pooled.shape == (3, side.pooled) and signals.pooled_preact.shape == (3, side.pooled_preact)
    only_logits = Reader(model, (size, size, 3), side.family, frozenset({"logits"}))(x)
    assert torch.equal(only_logits.logits, signals.logits) and only_logits.stages is only_logits.pooled is None
    assert torch.equal(read_logits(model, x), signals.logits)


def test_building_a_reader_leaves_a_network_in_training_as_it_was():
    """Batch statistics, dropout, mode and the global stream of random numbers."""
    model = networks.build(spec("resnet18", {"drop_rate": 0.5}, stem="small"), (32, 32, 3), 7, 0).train()
    state = {k: v.clone() for k, v in model.state_dict().items()}
    stream = torch.get_rng_state()
    reader = Reader(model, (32, 32, 3), "cnn", frozenset({"logits"}))
    assert model.training and torch.equal(torch.get_rng_state(), stream)
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())
    assert not any(p._forward_hooks or p._forward_pre_hooks for p in model.modules()), "only what is read is hooked"
    assert reader.side.pooled == 512 and len(reader.side.stages) == 4


def test_training_mode_gives_the_same_logits_with_and_without_signals():
    model = networks.build(spec("resnet18", stem="small"), (32, 32, 3), 7, 0).train()
    x = torch.randn(4, 3, 32, 32)
    reader = Reader(model, (32, 32, 3), "cnn")
    assert torch.equal(reader(x).logits, model(x))


@torch.no_grad()
def test_pooled_before_the_last_activation():
    """ResNet: what goes into the last ReLU; ViT, MLP and ConvNeXt end in a norm, so it is the pooled vector itself."""
    model = networks.build(spec("resnet18", {"zero_init_last": False}, stem="small"), (32, 32, 3), 7, 0).eval()
    x = torch.randn(2, 3, 32, 32)
    signals = Reader(model, (32, 32, 3), "cnn")(x)
    assert (signals.pooled_preact < 0).any() and (signals.pooled >= 0).all()
    inputs = model.layer3(model.layer2(model.layer1(model.act1(model.bn1(model.conv1(x))))))
    block = model.layer4[1]
    y = model.layer4[0](inputs)
    preact = block.bn2(block.conv2(block.act1(block.bn1(block.conv1(y))))) + y
    assert torch.allclose(signals.pooled_preact, preact.mean((2, 3)), atol=1e-5)
    vit = networks.build(spec("vit_tiny_patch16_224", {"patch_size": 8}), (32, 32, 3), 7, 0).eval()
    signals = Reader(vit, (32, 32, 3), "vit")(x)
    assert torch.equal(signals.pooled_preact, signals.pooled)
    mobile = networks.build(spec("mobilenetv2_100"), (64, 64, 3), 7, 0).eval()
    signals = Reader(mobile, (64, 64, 3), "cnn")(torch.randn(2, 3, 64, 64))
    assert (signals.pooled_preact < 0).any() and (signals.pooled >= 0).all()


@pytest.mark.parametrize(
    ("depth", "expected"), [(3, []), (4, [0, 1, 2, 3]), (6, [1, 2, 4, 5]), (8, [1, 3, 5, 7]), (12, [1, 3, 9, 11])]
)
def test_stages_of_equal_blocks(depth, expected):
    model = networks.build(spec("MlpMixer", {"patch_size": 8, "embed_dim": 8, "num_blocks": depth}), (16, 16, 1), 3, 0)
    assert stage_indices(model) == expected
    side = Reader(model, (16, 16, 1), "mlp").side
    assert len(side.stages) == len(expected) and side.pooled == 8


WITH_HEAD_CONVOLUTION = ["mobilenetv2_050", "efficientnet_b0", "ghostnet_050", "hrnet_w18_small", "repghostnet_050"]
WITH_HEAD_CONVOLUTION += ["rexnet_100", "fastvit_t8"]
WITHOUT = ["resnet18", "convnext_atto", "vit_tiny_patch16_224", "mixer_s32_224", "swin_tiny_patch4_window7_224"]
WITHOUT += ["mobilenetv3_small_050", "densenet121", "regnetx_002", "pvt_v2_b0", "resmlp_12_224"]


@pytest.mark.parametrize("name", [*WITH_HEAD_CONVOLUTION, *WITHOUT])
@torch.no_grad()
def test_stage_4_is_behind_the_head_convolution(name):
    """MobileNetV2: 1280x7x7, after conv_head and its norm, as in Hao840/OFAKD; the other stages stay what they are."""
    model = networks.build(ModelSpec("m", name, "d", "r", family="cnn"), (224, 224, 3), 7, 0).eval()
    if not hasattr(model, "forward_intermediates"):
        pytest.skip("this timm cannot hand out its maps")
    x = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    *first, last = Reader(model, (224, 224, 3), "cnn")(x).stages
    final, maps = model.forward_intermediates(x, indices=stage_indices(model), output_fmt="NCHW")
    assert all(torch.equal(a, b) for a, b in zip(first, maps[:-1], strict=True))
    assert torch.equal(last, final if name in WITH_HEAD_CONVOLUTION else maps[-1])
    assert (last.shape != maps[-1].shape) == has_head_convolution(name) == (name in WITH_HEAD_CONVOLUTION)
    assert name != "mobilenetv2_050" or torch.equal(last, model.bn2(model.conv_head(maps[-1])))


def test_sequences_are_images_of_height_one():
    args = {"patch_size": [1, 4], "embed_dim": 16, "depth": 4, "num_heads": 2}
    side = networks.reader(spec("VisionTransformer", args), (1, 64, 3), 5, 0).side
    assert side.stages == ((16, 1, 16),) * 4 and side.prefix == 1


@pytest.mark.parametrize("timm", ["resnet18", "deit_tiny_patch16_224", "mixer_s16_224"])
@torch.no_grad()
def test_224_px(timm):
    side = networks.reader(spec(timm), (224, 224, 3), 10, 0).side
    assert [s[1] for s in side.stages] == ([56, 28, 14, 7] if timm == "resnet18" else [14] * 4)


def test_what_timm_refuses_is_told_by_the_models_name():
    with pytest.raises(KdbenchError, match=r"models\.m: timm cannot build VisionTransformer"):
        networks.build(spec("VisionTransformer", {"embed_dim": 7}), (8, 8, 1), 3, 0)
    with pytest.raises(KdbenchError, match="stem: small is for"):
        networks.build(spec("MlpMixer", {"patch_size": 4}, stem="small"), (8, 8, 1), 3, 0)
    with pytest.raises(KdbenchError, match="no position embedding"):
        networks.build(spec("resnet18", pos_std=0.1), (32, 32, 1), 3, 0)


def test_the_position_embedding_starts_as_asked():
    args = {"patch_size": 2, "embed_dim": 64, "depth": 4, "num_heads": 4}
    model = networks.build(spec("VisionTransformer", args, pos_std=0.5), (16, 16, 1), 3, 0)
    assert abs(model.pos_embed.std().item() - 0.5) < 0.02


def test_crop_and_flip_is_torchvisions():
    """Pixel for pixel RandomCrop(size, padding) and RandomHorizontalFlip, for the same random numbers."""
    from torchvision.transforms import functional as transforms

    pixels = torch.randint(0, 256, (6, 3, 9, 7), dtype=torch.uint8)
    shift = torch.tensor([[0, 2, -2, 1, -1, 2], [0, -2, 2, 1, 0, -1]])
    flip = torch.tensor([False, True, False, True, True, False])
    got = crop_and_flip(pixels, shift, flip, 2)
    for i in range(6):
        expected = transforms.crop(transforms.pad(pixels[i], 2), 2 + shift[0, i], 2 + shift[1, i], 9, 7)
        expected = transforms.hflip(expected) if flip[i] else expected
        assert torch.equal(got[i], expected)
    assert torch.equal(crop_and_flip(pixels, shift * 0, None, 0), pixels)
