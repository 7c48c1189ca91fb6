"""The names of timm's networks and their arguments, read from its source: importing timm costs five seconds."""

from __future__ import annotations

import ast
import functools
import importlib.util
import re
from pathlib import Path

from kdbench.plan.registry import parsed
from kdbench.types import KdbenchError

FAMILIES = {
    "cnn": "resnet resnetv2 convnext efficientnet mobilenetv3 regnet vgg densenet ghostnet repvgg cifar_networks",
    "vit": "vision_transformer deit swin_transformer swin_transformer_v2 beit eva cait pvt_v2 levit text_networks",
    "mlp": "mlp_mixer mnist_networks",
}
FAMILY_OF_MODULE = {module: family for family, modules in FAMILIES.items() for module in modules.split()}


_WITH_HEAD_CONVOLUTION = {"efficientnet", "fastvit", "ghostnet", "hrnet", "repghost", "rexnet"}
"""Modules of timm; held to what their networks do by tests/test_models.py."""


@functools.cache
def _timm_models() -> Path:
    spec = importlib.util.find_spec("timm")
    if spec is None or not spec.submodule_search_locations:
        raise KdbenchError("timm is not installed; run: pip install -e '.[dev]'")
    return Path(spec.submodule_search_locations[0]) / "models"


@functools.cache
def timm_index() -> tuple[dict[str, str], dict[str, str]]:
    """({registered name: module}, {class name: module}) of timm, read from its source (importing it costs 5 s)."""
    registered, classes = {}, {}
    for path in sorted(_timm_models().glob("[a-z]*.py")):
        text = path.read_text(encoding="utf-8")
        registered |= dict.fromkeys(re.findall(r"^@register_model\ndef (\w+)\(", text, re.M), path.stem)
        classes |= dict.fromkeys(re.findall(r"^class (\w+)\(nn\.Module\)", text, re.M), path.stem)
    return registered, classes


def timm_tags(name: str) -> list[str]:
    """Tags of the weights that timm knows for a registered name, read from its source: resnet18 -> [a1_in1k, ...]."""
    text = (_timm_models() / f"{timm_index()[0][name]}.py").read_text(encoding="utf-8")
    return list(dict.fromkeys(re.findall(rf"""['"]{re.escape(name)}\.([\w.]+)['"]""", text)))


def has_head_convolution(timm: str) -> bool:
    """Whether a network, given by its registered name or its class, has a convolution between its last block and the
    pooling: its stage 4 is then the output of that (kdbench/signals.py)."""
    return bool({names.get(timm.partition(".")[0]) for names in timm_index()} & _WITH_HEAD_CONVOLUTION)


@functools.cache
def timm_arguments(module: str, cls: str | None) -> frozenset[str]:
    """Keyword arguments of one class of a timm module; without a class, of all that a registered name may pass on."""
    tree = parsed(_timm_models() / f"{module}.py")
    names = {
        arg.arg
        for node in tree.body
        if isinstance(node, ast.ClassDef) and (cls is None or node.name == cls)
        for f in node.body
        if isinstance(f, ast.FunctionDef) and f.name == "__init__"
        for arg in [*f.args.args, *f.args.kwonlyargs]
    }
    if cls is None:
        for node in tree.body:
            imported = node.module.rpartition(".")[2] if isinstance(node, ast.ImportFrom) and node.module else ""
            if imported in FAMILY_OF_MODULE:
                names |= timm_arguments(imported, None)
    return frozenset(names - {"self"})
