"""What may a submitted method reach? Its one file is read, not run, and held against what a distiller needs.

A distiller is given signals and training targets. Test labels lie in files, in data sources and in the objects of the
engine, so a file that imports, opens or looks up anything beyond tensors is refused, whatever it wants there.

This is a reader's help and no sandbox: Python has more ways than a list can name, and whoever verifies a submission
runs its file. Read it first; it is short.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from kdbench.types import KdbenchError

LARGEST = 50_000
"""Bytes of a file: room for a method, not for a table of labels."""
ALLOWED = ("__future__", "abc", "collections", "dataclasses", "enum", "functools", "itertools", "math", "typing")
ALLOWED += ("torch", "torch.autograd", "torch.fft", "torch.linalg", "torch.nn", "torch.special")
ALLOWED += ("torch.utils.checkpoint",)
ALLOWED += ("kdbench.errors", "kdbench.frequency", "kdbench.methods", "kdbench.signals", "kdbench.tensors")
ALLOWED += ("kdbench.types",)
"""Modules that a file may use; of all but torch, whatever lies in them too."""
_REFUSED = ("torch.hub", "torch.jit", "torch.serialization", "torch.storage", "torch._classes", "torch._ops")
"""Where functions and classes of torch come from that read files or load code."""
_CALLS = {"from_file": "reads files", "load": "reads files or loads code", "save": "writes files"}
_CALLS |= dict.fromkeys(("get_type_hints", "ForwardRef", "singledispatch"), "executes text")
_FOR_ALL = ("register_module_", "set_", "use_deterministic", "manual_seed", "seed")
"""What functions of torch begin with that reach beyond their arguments."""
_BUILTINS = {"open", "eval", "exec", "compile", "getattr", "setattr", "delattr", "vars", "globals", "locals", "input"}
_BUILTINS |= {"breakpoint", "__import__", "__builtins__", "__loader__", "__spec__"}
_FRAMES = {"gi_frame", "cr_frame", "ag_frame", "tb_frame", "f_back", "f_globals", "f_locals", "f_builtins"}
"""Attributes of generators, tracebacks and frames that lead out of a function."""
_DUNDERS = {"__init__", "__call__", "__post_init__", "__name__"}


def findings(path: Path) -> list[str]:
    """What a method's file reaches for that no method needs, a sentence each.

    Raises KdbenchError for a file that cannot be read as Python.
    """
    try:
        if path.stat().st_size > LARGEST:
            return [f"{path} has more than {LARGEST:,} bytes"]
        tree = ast.parse(path.read_text(encoding="utf-8"), path.name)
    except (OSError, SyntaxError, ValueError, RecursionError) as error:
        raise KdbenchError(f"{path} cannot be read as Python: {error}") from None
    modules, found = _Modules(), []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            found += [(node.lineno, why) for why in modules.imported(node)]
    for node in ast.walk(tree):
        found += [(node.lineno, why) for why in (*_of_names(node), *modules.used(node))]
    return [f"{path}, line {line}: {why}" for line, why in sorted(dict.fromkeys(found))]


def _of_names(node: ast.AST) -> Iterator[str]:
    """Built-in functions and attributes that lead to files or out of the method, and changes of what is not its own."""
    if isinstance(node, ast.Name) and node.id in _BUILTINS:
        yield f"a method has no use for {node.id}"
    if isinstance(node, ast.Attribute):
        hidden = node.attr.startswith("__") and node.attr not in _DUNDERS
        if hidden or node.attr in _FRAMES:
            yield f"a method has no use for the attribute {node.attr}"
        if not isinstance(node.ctx, ast.Load) and _root(node) != "self":
            yield f"{ast.unparse(node)} is changed, and a method changes attributes of self alone"
    if isinstance(node, ast.MatchClass) and node.kwd_attrs:
        yield f"a method has no use for matching attributes ({', '.join(node.kwd_attrs)})"


def _root(node: ast.expr) -> str | None:
    """The name that a chain of dots and brackets begins with."""
    while isinstance(node, ast.Attribute | ast.Subscript):
        node = node.value
    return node.id if isinstance(node, ast.Name) else None


class _Modules:
    """The names of a file that are modules, and what it does with them."""

    def __init__(self) -> None:
        self.named: dict[str, ModuleType] = {}
        self.within: set[int] = set()
        """Ids of the nodes that are the left side of a dot."""

    def imported(self, node: ast.Import | ast.ImportFrom) -> Iterator[str]:
        if isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            if not _allowed(module):
                yield f"a method may not import {module}"
                return
            for alias in node.names:
                value = _attribute(importlib.import_module(module), alias.name)
                if why := _refusal(value, f"{module}.{alias.name}"):
                    yield why
                if isinstance(value, ModuleType):
                    self.named[alias.asname or alias.name] = value
        else:
            for alias in node.names:
                if _allowed(alias.name):
                    whole, name = importlib.import_module(alias.name), alias.name.partition(".")[0]
                    self.named[alias.asname or name] = whole if alias.asname else importlib.import_module(name)
                else:
                    yield f"a method may not import {alias.name}"

    def used(self, node: ast.AST) -> Iterator[str]:
        """ast.walk comes to the whole of a dotted name before its parts."""
        if isinstance(node, ast.Attribute):
            self.within.add(id(node.value))
            of_module = isinstance(self._reached(node.value), ModuleType)
            if of_module and (why := _refusal(self._reached(node), ast.unparse(node))):
                yield why
        elif isinstance(node, ast.Name) and node.id in self.named and id(node) not in self.within:
            yield f"the module {node.id} may stand before a dot only"

    def _reached(self, node: ast.expr) -> Any:
        """What a dotted name that begins with a module names; None where it does not."""
        if isinstance(node, ast.Name):
            return self.named.get(node.id)
        if isinstance(node, ast.Attribute) and isinstance(owner := self._reached(node.value), ModuleType):
            return _attribute(owner, node.attr)
        return None


def _refusal(value: Any, name: str) -> str | None:
    """Why what a dotted name stands for is refused, if it is. What is not there yet may be there in training."""
    if value is None:
        return f"there is no {name}"
    if isinstance(value, ModuleType):
        leads_to_allowed = any(a.startswith(f"{value.__name__}.") for a in ALLOWED)
        refused = f"{name} is the module {value.__name__}, which a method may not use"
        return None if leads_to_allowed or _allowed(value.__name__) else refused
    home = str(getattr(value, "__module__", None) or "torch")  # functions that are not written in Python have none
    if told := _CALLS.get(called := name.rpartition(".")[2]):
        return f"{name} {told}, for which a method has no use"
    if home.startswith(_REFUSED):
        return f"{name} reads files or loads code, for which a method has no use"
    if home.partition(".")[0] == "torch" and called.startswith(_FOR_ALL):
        return f"{name} changes what other methods compute with"
    return None


def _allowed(module: str) -> bool:
    """Whether there is such a module and a method may use it. Of torch not all that lies in it is allowed."""
    if module not in ALLOWED and not any(module.startswith(f"{a}.") for a in ALLOWED if a != "torch"):
        return False
    try:
        return importlib.util.find_spec(module) is not None
    except ImportError:
        return False


def _attribute(module: ModuleType, name: str) -> Any:
    """What a module has under a name, a submodule that nobody has imported yet among it; None where it has not."""
    if not hasattr(module, name) and _allowed(f"{module.__name__}.{name}"):
        return importlib.import_module(f"{module.__name__}.{name}")
    return getattr(module, name, None)
