"""What methods and data sources there are, read from their source text.

A suite is checked before any job starts and while the Snakefile is parsed, so nothing here imports torch or runs a
method's file: names, parameters, defaults and types are literals, read with ast.

A method is named by its file in kdbench/methods (`kd`), by a file of yours and the class in it
(`path/to/file.py:MyKD`), or by an entry point of the group `kdbench.methods` of an installed package, which names a
module and a class.
"""

from __future__ import annotations

import ast
import copy
import functools
import hashlib
import importlib
import importlib.metadata
import importlib.util
import json
import sys
import types
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kdbench.errors import unknown
from kdbench.types import KdbenchError

PACKAGE = Path(__file__).resolve().parent
METHODS, SOURCES, VERSIONS = PACKAGE / "methods", PACKAGE / "data", PACKAGE / "versions.json"
WHOLE_PARTS = ("engine", "frequency", "similarity", "tune")
AUGMENTATIONS = ("crop", "flip", "resized_crop", "rand_augment", "color_jitter", "erasing", "mixup", "cutmix")
"""Keys of a recipe whose numbers have a version each; 0 and false switch them off."""
_NOT_METHODS = {"__init__", "base"}
_NOT_SOURCES = {"__init__", "packed", "anchors", "labelled", "cifar"}


@dataclass(frozen=True)
class Parameter:
    """One keyword of a method or a source: its annotation as text and its default."""

    annotation: str
    default: Any

    def check(self, value: Any, where: str) -> Any:
        """The value, with tuples for YAML's lists. Raises KdbenchError when the type or choice is wrong."""
        for option in _split_union(self.annotation):
            ok, converted = _fits(value, option)
            if ok:
                return converted
        if "Literal[" in self.annotation:
            choices = ast.literal_eval(self.annotation[self.annotation.index("Literal[") + 7 :].split("]")[0] + "]")
            raise unknown("value", value, choices, where)
        raise KdbenchError(f"{where}: expected {self.annotation}, got {value!r}")


@dataclass(frozen=True)
class MethodInfo:
    """What a method's file says of itself."""

    name: str
    path: Path
    doc: str
    title: str
    group: str
    mark: str
    footnote: str | None
    params: dict[str, Parameter]
    cls: str = "Method"
    """Name of its Distiller in the file."""
    main_weight: str | None = None
    """The parameter that tuning varies."""
    presets: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Parameters by the name of the harness that uses them; without a preset the defaults hold."""
    readings: dict[str, tuple] = field(default_factory=dict)
    """Of a reconstructed method: parameters whose values its sources leave open, with those values."""


def _split_union(annotation: str) -> list[str]:
    parts, depth, start = [], 0, 0
    for i, c in enumerate(annotation):
        depth += (c == "[") - (c == "]")
        if c == "|" and depth == 0:
            parts.append(annotation[start:i].strip())
            start = i + 1
    return [*parts, annotation[start:].strip()]


def _fits(value: Any, annotation: str) -> tuple[bool, Any]:
    if annotation.startswith("Literal["):
        return value in ast.literal_eval(annotation[7:]), value
    if annotation.startswith("tuple["):
        inner = annotation[6:-1].split(",")[0].strip()
        if not isinstance(value, list | tuple):
            return False, value
        fits = [_fits(v, inner) for v in value]
        return all(ok for ok, _ in fits), tuple(v for _, v in fits)
    if annotation == "None":
        return value is None, value
    if annotation == "bool":
        return isinstance(value, bool), value
    if annotation == "int":
        return isinstance(value, int) and not isinstance(value, bool), value
    if annotation == "float":
        return isinstance(value, int | float) and not isinstance(value, bool), value
    return annotation == "str" and isinstance(value, str), value


def _names(folder: Path, hidden: set[str]) -> list[str]:
    return sorted(p.stem for p in folder.glob("*.py") if p.stem not in hidden)


def method_names() -> list[str]:
    return _names(METHODS, _NOT_METHODS)


def source_names() -> list[str]:
    return _names(SOURCES, _NOT_SOURCES)


def parsed(path: Path) -> ast.Module:
    """The syntax tree of a file as it is now, shared by all who ask: not to be changed.

    Each version of a file is parsed once a process, since CPython 3.11 raises SystemError ("AST constructor recursion
    depth mismatch") now and then where another thread runs beside the parser.
    Raises OSError, SyntaxError or ValueError.
    """
    stat = path.stat()
    return _parsed(path, stat.st_size, stat.st_mtime_ns)


@functools.cache
def _parsed(path: Path, size: int, mtime_ns: int) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


@functools.cache
def method_info(name: str) -> MethodInfo:
    """What kdbench/methods/NAME.py says of itself. Raises KdbenchError for an unknown name or a file off the form."""
    path, cls = _locate(name)
    try:
        tree = parsed(path)
    except (OSError, SyntaxError, ValueError) as error:
        raise KdbenchError(f"method {name}: {path} cannot be read as Python: {error}") from None
    constants = {
        node.targets[0].id: ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id in _CONSTANTS
    }
    params = next((n for n in tree.body if isinstance(n, ast.ClassDef) and n.name == "Params"), None)
    classes = [node.name for node in tree.body if isinstance(node, ast.ClassDef)]
    if "TITLE" not in constants or "GROUP" not in constants or params is None:
        raise KdbenchError(f"{path}: a method's file needs TITLE, GROUP and a class Params (see methods/base.py)")
    if cls not in classes:
        raise unknown("class", cls, classes, str(path))
    return MethodInfo(
        name=name,
        path=path,
        doc=ast.get_docstring(tree) or "",
        title=constants["TITLE"],
        group=constants["GROUP"],
        mark=constants.get("MARK", ""),
        footnote=constants.get("FOOTNOTE"),
        params={
            n.target.id: Parameter(ast.unparse(n.annotation), ast.literal_eval(n.value))
            for n in params.body
            if isinstance(n, ast.AnnAssign) and n.value is not None
        },
        cls=cls,
        main_weight=constants.get("MAIN_WEIGHT"),
        presets=constants.get("PRESETS", {}),
        readings=constants.get("READINGS", {}),
    )


def _locate(name: str) -> tuple[Path, str]:
    """The file and the class of a method. Raises KdbenchError that names the nearest method."""
    if name in method_names():
        return METHODS / f"{name}.py", "Method"
    if ".py" in name:
        file, _, cls = name.partition(":")
        if not Path(file).is_file():
            raise KdbenchError(f"method {name}: no file {file} in {Path.cwd()}")
        return Path(file).resolve(), cls or "Method"
    installed = {point.name: point for point in importlib.metadata.entry_points(group="kdbench.methods")}
    if name not in installed:
        raise unknown("method", name, [*method_names(), *installed])
    spec = importlib.util.find_spec(installed[name].module)
    if spec is None or not spec.origin:
        raise KdbenchError(f"method {name}: its package names {installed[name].value}, which is not there")
    return Path(spec.origin), installed[name].attr or "Method"


_CONSTANTS = {"TITLE", "GROUP", "MARK", "FOOTNOTE", "MAIN_WEIGHT", "PRESETS", "READINGS"}
_LIGHT = {"__future__", "collections.abc", "dataclasses", "math", "typing", "kdbench.types", "kdbench.errors"}


@functools.cache
def _params_class(name: str) -> type:
    """A method's class Params alone: it, the constants and the light imports of its file, but nothing with torch."""
    wanted = [
        node
        for node in parsed(method_info(name).path).body
        if (isinstance(node, ast.ImportFrom) and node.module in _LIGHT)
        or isinstance(node, ast.Assign)
        or (isinstance(node, ast.ClassDef) and node.name == "Params")
    ]
    # dataclasses look up annotations in the module that a class says it is from.
    module = types.ModuleType(f"kdbench.registry.params.{name}")
    sys.modules[module.__name__] = module
    exec(compile(ast.Module(wanted, []), str(method_info(name).path), "exec"), module.__dict__)
    return module.Params


def check_params(name: str, params: dict[str, Any], where: str) -> None:
    """Raises KdbenchError when a method's parameters contradict each other, as its Params say."""
    try:
        _params_class(name)(**params)
    except KdbenchError as error:
        raise KdbenchError(f"{where}: {error}") from None


@functools.cache
def source_params(name: str) -> dict[str, Parameter]:
    """The keyword arguments of `build` in kdbench/data/NAME.py, but data_dir."""
    if name not in source_names():
        raise unknown("data source", name, source_names())
    build = next(n for n in parsed(SOURCES / f"{name}.py").body if isinstance(n, ast.FunctionDef) and n.name == "build")
    return {
        arg.arg: Parameter(ast.unparse(arg.annotation), ast.literal_eval(default))
        for arg, default in zip(build.args.kwonlyargs, build.args.kw_defaults, strict=True)
        if arg.arg != "data_dir"
    }


def changed_args(source: str, args: dict[str, Any]) -> dict[str, Any]:
    """The arguments of a data source that are not at their defaults: what identifies its data."""
    return {key: value for key, value in args.items() if value != source_params(source)[key].default}


def reads_files(source: str) -> bool:
    """Whether a data source reads files of the user: it then has a function `source_files`."""
    body = parsed(SOURCES / f"{source}.py").body
    return any(isinstance(node, ast.FunctionDef) and node.name == "source_files" for node in body)


def load_method(name: str) -> type:
    """The Distiller of kdbench/methods/NAME.py (imports torch)."""
    info = method_info(name)
    if name in method_names():
        return importlib.import_module(f"kdbench.methods.{name}").Method
    spec = importlib.util.spec_from_file_location(f"kdbench_method_{info.path.stem}", info.path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[module.__name__] = module
    spec.loader.exec_module(module)
    return getattr(module, info.cls)


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
        "network": own_networks(),
    }
    return (*WHOLE_PARTS, *(f"{kind} {name}" for kind, names in named.items() for name in names))


@functools.cache
def own_networks() -> tuple[str, ...]:
    """Names of the networks that timm lacks: the keys of NETWORKS, read from the source of kdbench/networks.py."""
    tree = parsed(PACKAGE / "networks.py")
    tables = [n.value for n in tree.body if isinstance(n, ast.Assign) and getattr(n.targets[0], "id", "") == "NETWORKS"]
    return tuple(ast.literal_eval(key) for key in tables[0].keys)


def method_code(name: str) -> dict[str, str]:
    """What stands for the code of a method in a key: the version of one of this package; for a user's file the hash of
    it and of what it imports from beside it, and the versions of the parts of this package among that."""
    files = module_files(name)
    own = [file for file in files if Path(file).is_absolute()]
    if not own:
        return {f"method {name}": version_of(f"method {name}")}
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
        for node in ast.walk(parsed(PACKAGE / file)):
            todo += _imported(node, PACKAGE / file)
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
