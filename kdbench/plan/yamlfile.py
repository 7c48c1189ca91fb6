"""A YAML file -> plain values, none of which a person can have meant otherwise.

YAML 1.1, which PyYAML reads, takes 010 for 8, 1:30 for 90 and `no` for false. Here a number is in decimal digits and a
boolean is true or false; what YAML 1.1 or 1.2 takes for one in another notation is refused, with what to write in its
place. Text in quotes stays text, and keys are names, so they are always text.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import math
import re
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from kdbench.types import KdbenchError

MOST_VALUES = 100_000
"""Values that a file may hold; one that is repeated by an alias counts each time."""

_TAG = "tag:yaml.org,2002:"
_INT = r"[-+]?(0|[1-9][0-9]*)"
_FLOAT = rf"({_INT}(\.[0-9]*)?|[-+]?\.[0-9]+)([eE][-+]?[0-9]+)?"
_NO_NUMBER = r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)"


def read(path: Path) -> Any:
    """The values of a file: None, bool, int, float, str, and lists and dicts of them; the keys of dicts are str.

    Raises KdbenchError that names the file and the line or the place in it.
    """
    try:
        tree = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)
        _check_plain(tree, "", itertools.count(1))
        return tree
    except KdbenchError as error:
        raise KdbenchError(f"{path}: {' '.join(str(error).split())}") from None
    except RecursionError:
        raise KdbenchError(f"{path}: nested too deeply") from None
    except Exception as error:  # what a tag cannot make of its text fails in many ways: !!bool x
        raise KdbenchError(f"{path}: not readable as YAML: {' '.join(str(error).split())}") from None


class _Loader(yaml.SafeLoader):
    """SafeLoader with one notation for numbers and booleans, text as keys, and merge keys (<<) taken in."""

    bool_values = {**yaml.SafeLoader.bool_values, "y": True, "n": False}  # noqa: RUF012

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self.whole: set[int] = set()
        """Ids of the nodes that are mappings read to their end."""

    def compose_mapping_node(self, anchor: str | None) -> yaml.MappingNode:
        """Merges here, not while values are made: there PyYAML can no longer tell a key given twice from one that
        overrides, and which of two merged mappings wins depends on its version."""
        node = super().compose_mapping_node(anchor)
        lines: dict[str, int] = {}
        own: dict[str, tuple[yaml.Node, yaml.Node]] = {}
        merged: dict[str, tuple[yaml.Node, yaml.Node]] = {}
        for key, value in node.value:
            line = key.start_mark.line + 1
            if not isinstance(key, yaml.ScalarNode):
                raise KdbenchError(f"line {line}: expected text as a key, got a {key.id}")
            is_merge = key.tag == f"{_TAG}merge"
            if key.value in lines:
                hint = "; to merge several, write <<: [*a, *b]" if is_merge else ""
                raise KdbenchError(f"line {line}: {key.value!r} is given twice, first on line {lines[key.value]}{hint}")
            lines[key.value] = line
            if not is_merge:
                own[key.value] = yaml.ScalarNode(f"{_TAG}str", key.value, key.start_mark, key.end_mark), value
                continue
            for source in value.value if isinstance(value, yaml.SequenceNode) else [value]:
                if id(source) not in self.whole:
                    raise KdbenchError(f"line {line}: << merges a mapping that stands above it, or a list of such")
                merged = {name.value: (name, content) for name, content in source.value} | merged
        node.value = list((merged | own).values())
        self.whole.add(id(node))
        return node

    def construct_yaml_int(self, node: yaml.Node) -> int:
        text = self.construct_scalar(node)
        if not re.fullmatch(_INT, text):
            raise _misread(node, text, (yaml.safe_load, int, lambda text: int(text, 0)))
        return int(text)

    def construct_yaml_float(self, node: yaml.Node) -> float:
        text = self.construct_scalar(node)
        if re.fullmatch(_NO_NUMBER, text):
            return super().construct_yaml_float(node)
        if not re.fullmatch(_FLOAT, text):
            raise _misread(node, text, (yaml.safe_load, float))
        return float(text)

    def construct_yaml_bool(self, node: yaml.Node) -> bool:
        value, text = super().construct_yaml_bool(node), self.construct_scalar(node)
        if text.lower() not in ("true", "false"):
            raise _misread(node, text, (lambda _: str(value).lower(),))
        return value

    def construct_yaml_timestamp(self, node: yaml.Node) -> None:
        raise _misread(node, self.construct_scalar(node))


for _kind in ("int", "float", "bool", "timestamp"):
    _Loader.add_constructor(f"{_TAG}{_kind}", getattr(_Loader, f"construct_yaml_{_kind}"))
# Numbers of YAML 1.2 (08, 0o17, 5e-3, -.5) and booleans of 1.1 (y, n) that PyYAML takes for text.
_Loader.add_implicit_resolver(f"{_TAG}int", re.compile(r"[-+]?[0-9]+$|0o[0-7]+$"), list("-+0123456789"))
_Loader.add_implicit_resolver(
    f"{_TAG}float", re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?$"), list("-+.0123456789")
)
_Loader.add_implicit_resolver(f"{_TAG}bool", re.compile(r"[yYnN]$"), list("yYnN"))


def _misread(node: yaml.Node, text: str, readings: Sequence[Callable[[str], Any]] = ()) -> KdbenchError:
    """An error that says how to write what the text may stand for."""
    found: dict[str, None] = {}
    for reading in readings:
        with contextlib.suppress(ValueError):  # not in this notation, or too long to be printed
            value = reading(text)
            found |= {} if value == text else {str(value): None}
    meant = f"{' or '.join(found)}, or " if found else ""
    quoted = json.dumps(text, ensure_ascii=False)
    return KdbenchError(
        f"line {node.start_mark.line + 1}: {text} can be misread; write {meant}{quoted} in quotes for text"[:300]
    )


def _check_plain(tree: Any, where: str, count: Iterator[int]) -> None:
    """Refuse what YAML can say and no suite can mean: dates, bytes, sets, NaN, endless numbers, text with control
    characters, and aliases that unfold without end."""
    if next(count) > MOST_VALUES:
        raise KdbenchError(f"more than {MOST_VALUES:,} values (an alias counts wherever it stands)")
    if isinstance(tree, dict):
        for key, value in tree.items():
            _check_plain(key, f"key in {where}" if where else "key", count)
            _check_plain(value, f"{where}.{key}" if where else str(key), count)
    elif isinstance(tree, list):
        for value in tree:
            _check_plain(value, where, count)
    elif isinstance(tree, str):
        if odd := [c for c in tree if unicodedata.category(c) in ("Cc", "Cs") and c not in "\n\t"]:
            raise KdbenchError(f"{where}: the character U+{ord(odd[0]):04X} cannot stand in a text")
    elif isinstance(tree, int):
        if abs(tree) >= 2**63:
            raise KdbenchError(f"{where}: a whole number of more than 63 bits")
    elif isinstance(tree, float):
        if not math.isfinite(tree):
            raise KdbenchError(f"{where}: expected a number, got {tree}")
    elif tree is not None:
        raise KdbenchError(f"{where}: expected text or a number, got the {type(tree).__name__} {tree!r}"[:300])
