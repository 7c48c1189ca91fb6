"""What identifies a result: versions of the parts of kdbench, the code of a user's files, the hash of a config."""

from __future__ import annotations

import ast
import copy
import dataclasses
import functools
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kdbench.plan.registry import (
    PACKAGE,
    changed_args,
    method_info,
    method_names,
    parsed,
    source_constant,
    source_names,
)
from kdbench.plan.timm_names import has_head_convolution
from kdbench.types import DataSpec, MethodSpec, ModelSpec, Pair, Recipe, Suite

VERSIONS = PACKAGE / "versions.json"
WHOLE_PARTS = (
    "engine",
    "head-convolution",
    "streaming",
    "enlarging",
    "normalisation",
    "frequency",
    "similarity",
    "tune",
    "tables",
    "figures",
)
AUGMENTATIONS = (
    "crop",
    "flip",
    "resized_crop",
    "rand_augment",
    "auto_augment",
    "color_jitter",
    "erasing",
    "mixup",
    "cutmix",
    "mixup_prob",
    "mixup_switch_prob",
)
STEPS = ("lr_per", "accumulate", "warmup_epochs", "poly", "ema_decay")
"""Keys of a recipe whose numbers have a version each, which counts where they do not stand at their defaults."""


@functools.cache
def versions() -> dict[str, dict[str, Any]]:
    """{part: {version, digest, why}} of kdbench/versions.json.

    A part is a piece of the package whose numbers results depend on: "engine", "method kd", "source digits",
    "augmentation crop", "network cifar_vgg8" and so on. Its version is raised by hand when its numbers change, which
    tests/golden.py measures; the digest is that of these numbers, so that two branches that both raise a version to 4
    do not share results. An entry with `unseen` says what changed that those numbers do not show.
    """
    return json.loads(VERSIONS.read_text(encoding="utf-8"))


def version_of(part: str) -> str:
    """Version and digest of a part, as keys hold them."""
    entry = versions()[part]
    return f"{entry['version']} {entry['digest']}"


def all_parts() -> tuple[str, ...]:
    """Every part that must have a version."""
    named = {
        "method": method_names(),
        "source": source_names(),
        "augmentation": AUGMENTATIONS,
        "step": STEPS,
        "network": own_networks(),
    }
    return (*WHOLE_PARTS, *(f"{kind} {name}" for kind, names in named.items() for name in names))


@functools.cache
def own_networks() -> dict[str, str]:
    """Networks that timm lacks -> their module in train/: the keys of its NETWORKS, read from its source."""
    found = {}
    for module in ("cifar_networks", "mnist_networks", "text_networks"):
        for node in parsed(PACKAGE / "train" / f"{module}.py").body:
            if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "NETWORKS":
                found |= {ast.literal_eval(key): module for key in node.value.keys}
    return found


def own_arguments(network: str) -> tuple[str, ...]:
    """What `args` of a network of ours may hold, read as its name is."""
    for node in parsed(PACKAGE / "train" / f"{own_networks()[network]}.py").body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "ARGUMENTS":
            return ast.literal_eval(node.value).get(network, ())
    return ()


def method_code(name: str) -> dict[str, str]:
    """What stands for the code of a method in a key: the version of one of this package; for a user's file the hash of
    it and of what it imports from beside it, and the versions of the parts of this package among that."""
    if method_info(name).path.is_relative_to(PACKAGE):
        return {f"method {name}": version_of(f"method {name}")}
    files = module_files(name)
    own = [file for file in files if Path(file).is_absolute()]
    named = (f"method {Path(file).stem}" if file.startswith("methods/") else Path(file).stem for file in files)
    found = {part: version_of(part) for part in named if part in versions()}
    return {f"files of {name}": code_hash(*own), **found}


def code_hash(*files: str) -> str:
    """Hash of the meaning of some files of this package: comments, docstrings and layout do not count."""
    lines = (f"{Path(file).name if Path(file).is_absolute() else file} {_meaning(file)}" for file in files)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


@functools.cache
def _meaning(file: str) -> str:
    tree = copy.deepcopy(parsed(PACKAGE / file))
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            node.body = [n for n in node.body if not (isinstance(n, ast.Expr) and isinstance(n.value, ast.Constant))]
    return hashlib.sha256(ast.dump(tree).encode()).hexdigest()


@functools.cache
def module_files(method: str) -> tuple[str, ...]:
    """Files that a method's numbers depend on: its own, and what it imports of this package (relative to it) and of its
    own package or folder."""
    path = method_info(method).path
    start = path.relative_to(PACKAGE).as_posix() if path.is_relative_to(PACKAGE) else str(path)
    return _reached(start, lambda file: file not in {"types.py", "errors.py", "torchvision_ops.py"})


def _reached(start: str, wanted: Callable[[str], bool]) -> tuple[str, ...]:
    """The wanted files that a file imports or is, over wanted files only; those of this package relative to it."""
    found: list[str] = []
    todo = [start]
    while todo:
        file = todo.pop()
        if file in found or not wanted(file):
            continue
        found.append(file)
        path = PACKAGE / file
        for node in ast.walk(parsed(path)):
            todo += _imported(node, path)
    return tuple(sorted(found))


def _imported(node: ast.AST, file: Path) -> list[str]:
    """Files of this package, and of the importing file's own package or folder, that an import statement may name."""
    if isinstance(node, ast.Import):
        names = [alias.name for alias in node.names]
    elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
        names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    else:
        return []
    root = file.parent
    while (root / "__init__.py").exists():
        root = root.parent
    found = []
    for first, *rest in (name.split(".") for name in names):
        if first == PACKAGE.name:
            found += [f"{'/'.join(rest)}.py"] if rest and (PACKAGE / f"{'/'.join(rest)}.py").is_file() else []
        else:
            place = root.joinpath(first, *rest)
            found += [str(path) for path in (place / "__init__.py", Path(f"{place}.py")) if path.is_file()]
    return found


def versions_of_run(suite: Suite, pair: Pair, method: MethodSpec, data: str) -> dict[str, str]:
    """Versions of the parts of the package that a run computes with; the teacher's own are in the teacher's key."""
    recipe, spec = suite.recipes.get(suite.models[pair.student].recipe), suite.data[data]
    models = [suite.models[name] for name in (pair.teacher, pair.student) if name]
    networks = {model.timm for model in models}
    parts = [
        "engine",
        f"source {spec.source}",
        *(f"augmentation {key}" for key in AUGMENTATIONS if recipe and getattr(recipe, key) != _defaults(Recipe)[key]),
        *(f"step {key}" for key in STEPS if recipe and getattr(recipe, key) != _defaults(Recipe)[key]),
        *(f"network {name}" for name in sorted(networks & set(own_networks()))),
        *(["head-convolution"] if any(has_head_convolution(name) for name in networks) else []),
        *(["streaming"] if source_constant(spec.source, "DECODER") else []),
        *(["normalisation"] if any(model.normalisation == "timm" for model in models) else []),
        *(["enlarging"] if enlarged(spec) or (recipe and recipe.interpolation != "bilinear") else []),
    ]
    named = [method.method, *([method.compute_of.method] if method.compute_of else [])]
    return {part: version_of(part) for part in parts} | {k: v for name in named for k, v in method_code(name).items()}


def enlarged(data: DataSpec) -> bool:
    """Whether networks read images larger than they are packed."""
    return source_constant(data.source, "ENLARGED") in changed_args(data.source, data.args)


_NO_NUMBERS = ("weights", "accuracy", "tolerance")
"""Keys of a model that move none: where the weights lie, which go by their sha256, and what a teacher must show."""


def without_defaults(config: dict[str, Any]) -> dict[str, Any]:
    """A run's config without what stands at its default. Defaults are frozen by a test: another one would silently give
    results of the old one the key of the new."""
    source = config["data"]["source"]
    reduced = dict(config)
    for key, cls in (("student", ModelSpec), ("teacher", ModelSpec), ("recipe", Recipe)):
        if key in config:
            changed = {k: v for k, v in config[key].items() if v != _defaults(cls)[k]}
            reduced[key] = {k: v for k, v in changed.items() if k not in _NO_NUMBERS}
    args = changed_args(source, config["data"]["args"])
    for key in ("method", "compute_of"):
        if key in config:
            known = method_info(config[key]["name"]).params
            params = config[key]["params"].items()
            changed = {k: v for k, v in params if v != json.loads(json.dumps(known[k].default))}
            reduced[key] = config[key] | {"params": changed}
    return reduced | {"data": config["data"] | {"args": args}}


@functools.cache
def _defaults(cls: type) -> dict[str, Any]:
    """{field: default} as JSON holds it; a field that must be given has none that a value could equal."""
    return {
        f.name: json.loads(json.dumps(f.default)) if f.default is not dataclasses.MISSING else dataclasses.MISSING
        for f in dataclasses.fields(cls)
    } | {"args": {}}


def hash_of(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
