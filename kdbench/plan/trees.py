"""Parsed YAML -> checked values: a wrong shape, type or name is refused with its place and the nearest choice."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable
from typing import Any

from kdbench.errors import unknown
from kdbench.plan.registry import Parameter
from kdbench.plan.timm_names import FAMILIES
from kdbench.types import KdbenchError, Suite

NOTHING = (None, [], {})
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_LOADS_WEIGHTS = re.compile(r"pretrain\w*|(checkpoint|ckpt)_(path|file)|weights|state_dict")
_AT_RANDOM = "networks start at random here, but for teachers with the keys pretrained or weights (docs/suites.md)"
_CHOICES = {
    ("Recipe", "optimizer"): ("adamw", "sgd"),
    ("ModelSpec", "stem"): ("timm", "small"),
    ("ModelSpec", "family"): (None, *FAMILIES),
    ("Suite", "precision"): ("fp32", "bf16"),
    ("Suite", "device"): ("auto", "cpu", "cuda"),
}


def mapping(tree: Any, where: str) -> dict:
    if not isinstance(tree, dict) or not all(isinstance(k, str) for k in tree):
        raise KdbenchError(f"{where}: expected keys and values, got {tree!r}"[:300])
    return tree


def listed(tree: Any, where: str) -> list:
    if not isinstance(tree, list) or not tree:
        raise KdbenchError(f"{where}: expected a list, got {tree!r}"[:300])
    return tree


def text_of(value: Any, where: str) -> str:
    if not isinstance(value, str):
        raise KdbenchError(f"{where}: expected text, got {value!r}"[:300])
    return value


def named(tree: Any, where: str) -> list[tuple[str, Any]]:
    return [(checked_name(name, where), value) for name, value in mapping(tree, where).items()]


def checked_name(name: str, where: str, reserved: set[str] = frozenset()) -> str:
    if not _NAME.fullmatch(text_of(name, where)) or ".." in name or name in reserved:
        raise KdbenchError(
            f"{where}: {name[:80]!r} cannot be a name (up to 64 letters, digits, '.', '_' and '-'; it names a folder)"
        )
    return name


def seeds_of(tree: Any, where: str) -> tuple[int, ...]:
    seeds = listed(tree, f"{where}: seeds")
    if not all(isinstance(s, int) and not isinstance(s, bool) and 0 <= s < 2**31 for s in seeds):
        raise KdbenchError(f"{where}: seeds: expected whole numbers from 0, got {tree!r}")
    if len(set(seeds)) < len(seeds):
        raise KdbenchError(f"{where}: seeds: a seed is listed twice in {tree!r}")
    return tuple(seeds)


def unknown_key(key: str, known: Iterable[str], where: str, kind: str = "key") -> KdbenchError:
    if _LOADS_WEIGHTS.fullmatch(key):
        return KdbenchError(f"{where}: {key}: {_AT_RANDOM}; leave it out")
    return unknown(kind, key, known, where)


def checked(args: dict, known: dict[str, Parameter], where: str) -> dict[str, Any]:
    for key in args:
        if key not in known:
            raise unknown_key(key, known, where)
    return {key: known[key].check(value, f"{where}.{key}") for key, value in args.items()}


def built(cls: type, tree: dict, where: str, **fixed: Any) -> Any:
    """Build a dataclass of types.py from YAML: unknown keys, missing keys and wrong types are refused."""
    fields = {f.name: f for f in dataclasses.fields(cls) if f.name not in fixed}
    for key in tree:
        if key not in fields:
            raise unknown_key(key, fields, where)
    values = {}
    for key, f in fields.items():
        if key not in tree:
            if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING:
                raise KdbenchError(f"{where}: the key {key!r} is missing")
            continue
        place = f"{where}: {key}" if cls is Suite else f"{where}.{key}"
        if f.type.startswith("dict"):
            values[key] = mapping(tree[key], place)
        else:
            values[key] = Parameter(f.type, None).check(tree[key], place)
        choices = _CHOICES.get((cls.__name__, key))
        if choices and values[key] not in choices:
            raise unknown("value", values[key], [c for c in choices if c], place)
    return cls(**values, **fixed)
