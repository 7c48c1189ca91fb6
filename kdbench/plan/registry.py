"""What methods and data sources there are, read from their source text.

A suite is checked before any job starts and while the Snakefile is parsed, so nothing here imports torch or runs a
method's file: names, parameters, defaults and types are literals, read with ast.

A method is named by its file in kdbench/methods (`kd`), by a file of yours and the class in it
(`path/to/file.py:MyKD`), or by an entry point of the group `kdbench.methods` of an installed package, which names a
module and a class.
"""

from __future__ import annotations

import ast
import functools
import importlib
import importlib.metadata
import importlib.util
import sys
import types
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kdbench.errors import unknown
from kdbench.types import KdbenchError

PACKAGE = Path(__file__).resolve().parent.parent
METHODS, SOURCES = PACKAGE / "methods", PACKAGE / "data" / "sources"


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


def _names(folder: Path) -> list[str]:
    """Its files; what begins with an underscore is a helper."""
    return sorted(p.stem for p in folder.glob("*.py") if not p.stem.startswith("_"))


def method_names() -> list[str]:
    return [name for name in _names(METHODS) if name != "base"]


def source_names() -> list[str]:
    return _names(SOURCES)


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
    module = types.ModuleType(f"kdbench.plan.registry.params.{name}")
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
    """The keyword arguments of `build` in kdbench/data/sources/NAME.py, but data_dir."""
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
