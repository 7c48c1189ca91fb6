"""The networks of OFA's tables (arXiv 2310.19444, Hao840/OFAKD f7bb896) can be written in a suite, and their stages are
those of its code: the ends of the blocks that it lists, before the final norm and before Swin's next merging."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch

from kdbench.plan.jobs import make_plan
from kdbench.plan.suite import check_suite
from kdbench.signals import Reader, stage_indices
from kdbench.train import networks
from kdbench.types import ModelSpec, Suite


def swin(width: int) -> dict[str, Any]:
    """Not in timm by name."""
    args = {"embed_dim": width, "depths": [2, 2, 2, 2], "num_heads": [2, 4, 8, 16], "patch_size": 4, "window_size": 7}
    return {"timm": "SwinTransformer", "args": args}


STUDENTS: dict[str, dict[str, Any]] = {
    "r18": {"timm": "resnet18"},
    "mbv2": {"timm": "mobilenetv2_100"},
    "deit-t": {"timm": "deit_tiny_patch16_224"},
    "resmlp-s12": {"timm": "resmlp_12_224"},
    "swin-n": swin(64),
    "swin-p": swin(48),
}
TAGS = {
    "deit-t-t": "deit_tiny_patch16_224.fb_in1k",
    "swin-t": "swin_tiny_patch4_window7_224.ms_in1k",
    "vit-s": "vit_small_patch16_224.augreg_in21k_ft_in1k",
    "mixer-b16": "mixer_b16_224.goog_in21k_ft_in1k",
    "convnext-t": "convnext_tiny.fb_in1k",
    "r50": "resnet50.a1_in1k",
}

CIFAR = """swin-t>r18 vit-s>r18 mixer-b16>r18 swin-t>mbv2 vit-s>mbv2 mixer-b16>mbv2 convnext-t>deit-t mixer-b16>deit-t
convnext-t>swin-p mixer-b16>swin-p convnext-t>resmlp-s12 swin-t>resmlp-s12"""
IMAGENET = """deit-t-t>r18 swin-t>r18 mixer-b16>r18 deit-t-t>mbv2 swin-t>mbv2 mixer-b16>mbv2
r50>deit-t convnext-t>deit-t mixer-b16>deit-t r50>swin-n convnext-t>swin-n mixer-b16>swin-n
r50>resmlp-s12 convnext-t>resmlp-s12 swin-t>resmlp-s12"""


def pyramid(*widths: int) -> list[tuple[int, int, int]]:
    return [(width, side, side) for width, side in zip(widths, (56, 28, 14, 7), strict=True)]


STAGES = {
    "r18": pyramid(64, 128, 256, 512),
    "r34": pyramid(64, 128, 256, 512),
    "r50": pyramid(256, 512, 1024, 2048),
    "mbv2": pyramid(24, 32, 96, 1280),
    "convnext-t": pyramid(96, 192, 384, 768),
    "swin-t": pyramid(96, 192, 384, 768),
    "swin-n": pyramid(64, 128, 256, 512),
    "swin-p": pyramid(48, 96, 192, 384),
    "deit-t": [(192, 14, 14)] * 4,
    "deit-t-t": [(192, 14, 14)] * 4,
    "vit-s": [(384, 14, 14)] * 4,
    "mixer-b16": [(768, 14, 14)] * 4,
    "resmlp-s12": [(384, 14, 14)] * 4,
}
LAST_BLOCKS = {name: [1, 3, 9, 11] for name in ("deit-t", "deit-t-t", "vit-s", "mixer-b16", "resmlp-s12")}


def suite(pairs: str, teachers: dict[str, dict[str, Any]]) -> Suite:
    """Of the pairs of one table, teachers as given."""
    named = [pair.split(">") for pair in pairs.split()]
    models = {name: {**STUDENTS[name], "recipe": "student"} for _, name in named}
    models |= {name: {**teachers[name]} for name, _ in named}
    tree = {
        "seeds": [42],
        "data": {"d": {"source": "imagefolder", "size": 224}},
        "recipes": {"student": {"lr": 0.1, "epochs": 1}, "finetune": {"lr": 5.0e-5, "epochs": 1}},
        "models": {name: {**model, "data": "d"} for name, model in models.items()},
        "blocks": {"b": {"data": "d", "pairs": [" -> ".join(pair) for pair in named], "methods": ["scratch", "ofa"]}},
    }
    return check_suite(tree, "ofa", "ofa.yaml")


TUNED = {name: {"timm": tag, "pretrained": True, "recipe": "finetune", "accuracy": 89.26} for name, tag in TAGS.items()}
AS_THEY_ARE = {name: {"timm": tag, "pretrained": True, "accuracy": 80.0} for name, tag in TAGS.items()}
FILES = {
    name: {
        "timm": tag.split(".")[0],
        "weights": f"https://example.org/{name}.pth",
        "sha256": "0" * 64,
        "accuracy": 80.0,
    }
    for name, tag in TAGS.items()
}


@pytest.mark.parametrize(("pairs", "count", "students"), [(CIFAR, 12, 5), (IMAGENET, 15, 5)])
@pytest.mark.parametrize("teachers", [TUNED, AS_THEY_ARE, FILES])
def test_the_pairs_of_both_tables_can_be_written(pairs, count, students, teachers):
    plan = make_plan(suite(pairs, teachers))
    teaching = {pair.split(">")[0] for pair in pairs.split()}
    assert len(plan.of("teacher")) == len(teaching) and len(plan.of("cohort")) == count + students


def specs() -> dict[str, ModelSpec]:
    """Of both tables, and ResNet34, which OFA's code reads too."""
    found = {**suite(CIFAR, TUNED).models, **suite(IMAGENET, TUNED).models}
    return found | {"r34": dataclasses.replace(found["r18"], timm="resnet34")}


@pytest.mark.parametrize("name", STAGES)
@torch.no_grad()
def test_stages_are_those_of_its_code(name, monkeypatch):
    """On the meta device: shapes, no numbers. Whether a network ends in an activation is a question about numbers."""
    monkeypatch.setattr(torch, "equal", lambda a, b: a is b)
    spec, shape = specs()[name], (224, 224, 3)
    model = networks.build(spec, shape, 100, 0).to("meta")
    with torch.device("meta"):
        read = Reader(model, shape, spec.family)
        shown = read(torch.empty(2, 3, 224, 224))
    assert [tuple(stage.shape[1:]) for stage in shown.stages] == STAGES[name]
    assert tuple(shown.logits.shape) == (2, 100)
    assert {prefix.shape[1] for prefix in shown.prefix} == {1 if "deit" in name or "vit" in name else 0}
    if name in LAST_BLOCKS:
        assert stage_indices(model) == LAST_BLOCKS[name]


def test_every_network_of_the_tables_is_tried():
    assert set(STAGES) == {*STUDENTS, *TAGS, "r34"} == set(specs())
