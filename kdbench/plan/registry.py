"""What methods and data sources there are, read from their source text.

A suite is checked before any job starts and while the Snakefile is parsed, so nothing here imports torch or runs a
method's file. Of a method's file only Params, the constants and what they refer to are executed: they are taken out of
its syntax tree and must do with literals and light imports.

A method is named by its file in kdbench/methods (`kd`), by a file of yours and the class in it
(`path/to/file.py:MyKD`), or by an entry point of the group `kdbench.methods` of an installed package, which names a
module and a class.
"""

from __future__ import annotations

import ast
import dataclasses
import functools
import importlib
import importlib.metadata
import importlib.util
import sys
import traceback
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
    params_class: type
    """Params, made without the rest of the file."""
    cls: str = "Method"
    """Name of its Distiller in the file."""
    main_weight: str | None = None
    """The parameter that tuning varies."""
    tune_temperature: str | None = None
    """The parameter that takes the temperatures of a suite's `tune`; None: it tries none."""
    presets: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Parameters by the name of the harness that uses them; without a preset the defaults hold."""
    readings: dict[str, tuple] = field(default_factory=dict)
    """Of a reconstructed method: parameters whose values its sources leave open, with those values."""
    short: str | None = None
    """The title in figures, where room is scarce."""
    harness: str | None = None
    """The code base that the defaults come from; a preset is named after its own."""
    bibtex: str = ""
    """The BibTeX entry of its paper."""


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
    return ast.parse(path.read_text(encoding="utf-8"), path.name)


@functools.cache
def method_info(name: str) -> MethodInfo:
    """What kdbench/methods/NAME.py says of itself. Raises KdbenchError for an unknown name or a file off the form."""
    path, cls = _locate(name)
    try:
        tree = parsed(path)
    except (OSError, SyntaxError, ValueError) as error:
        raise KdbenchError(f"method {name}: {path} cannot be read as Python: {error}") from None
    module = _read_alone(tree, path, name)
    constants, params = vars(module), getattr(module, "Params", None)
    if "TITLE" not in constants or "GROUP" not in constants or not dataclasses.is_dataclass(params):
        raise KdbenchError(f"{path}: a method's file needs TITLE, GROUP and a dataclass Params (see methods/base.py)")
    classes = [node.name for node in tree.body if isinstance(node, ast.ClassDef)]
    if cls not in classes:
        raise unknown("class", cls, classes, str(path))
    for f in dataclasses.fields(params):
        if f.default is dataclasses.MISSING:
            raise KdbenchError(
                f"{path}: the parameter {f.name!r} of Params needs a default; write {f.name}: {f.type} = ..."
            )
    return MethodInfo(
        name=name,
        path=path,
        doc=ast.get_docstring(tree) or "",
        title=constants["TITLE"],
        group=constants["GROUP"],
        mark=constants.get("MARK", ""),
        footnote=constants.get("FOOTNOTE"),
        params={f.name: Parameter(f.type, f.default) for f in dataclasses.fields(params)},
        params_class=params,
        cls=cls,
        main_weight=constants.get("MAIN_WEIGHT"),
        tune_temperature=constants.get("TUNE_TEMPERATURE"),
        presets=constants.get("PRESETS", {}),
        readings=constants.get("READINGS", {}),
        short=constants.get("SHORT"),
        harness=constants.get("HARNESS"),
        bibtex=constants.get("BIBTEX", "").strip(),
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


_READ = ("Params", "TITLE", "SHORT", "GROUP", "MARK", "FOOTNOTE", "MAIN_WEIGHT", "TUNE_TEMPERATURE", "HARNESS")
_READ += ("PRESETS", "READINGS", "BIBTEX")
_LIGHT = {"__future__", "collections.abc", "dataclasses", "math", "typing", "kdbench.types", "kdbench.errors"}
_LITERAL = (ast.Constant, ast.Tuple, ast.List, ast.Set, ast.Dict, ast.Starred, ast.Name, ast.UnaryOp, ast.BinOp)
_LITERAL += (ast.expr_context, ast.operator, ast.unaryop)
_SCOPES = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda, ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)


def _read_alone(tree: ast.Module, path: Path, name: str) -> types.ModuleType:
    """A module of what is read of a method's file, and of what that refers to.

    Raises KdbenchError that names the line where that takes more than literals, definitions and light imports.
    """
    defining: dict[str, list[ast.stmt]] = {}
    for node in tree.body:
        for defined in _defined(node):
            defining.setdefault(defined, []).append(node)
    needed: list[ast.stmt] = []
    todo = [word for word in _READ if word in defining]
    while todo:
        word = todo.pop()
        for node in defining[word]:
            if node not in needed:
                if problem := _problem(node, word):
                    raise KdbenchError(f"{path}, line {node.lineno}: {problem}")
                needed.append(node)
                todo += sorted(_referred(node) & set(defining))
    # dataclasses look up annotations in the module that a class says it is from. None of them is evaluated, since
    # `compile` passes on this file's own import of annotations.
    module = types.ModuleType(f"kdbench.plan.registry.params.{name}")
    sys.modules[module.__name__] = module
    try:
        exec(compile(ast.Module(sorted(needed, key=lambda n: n.lineno), []), str(path), "exec"), module.__dict__)
    except Exception as error:
        raise KdbenchError(_with_line(error, path)) from None
    return module


def _defined(node: ast.stmt) -> set[str]:
    """Names that a statement of a file gives a meaning."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return {node.name}
    found = {n.id for n in ast.walk(node) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
    imports = [n for n in ast.walk(node) if isinstance(n, ast.Import | ast.ImportFrom)]
    return found | {(a.asname or a.name).partition(".")[0] for n in imports for a in n.names}


def _referred(node: ast.AST) -> set[str]:
    """Names that a statement reads of its file: not those in annotations, nor what is local to a function."""
    if isinstance(node, ast.Name):
        return {node.id} if isinstance(node.ctx, ast.Load) else set()
    parts = [value for key, value in ast.iter_fields(node) if key not in ("annotation", "returns")]
    children = [child for part in parts for child in (part if isinstance(part, list) else [part])]
    found = {name for child in children if isinstance(child, ast.AST) for name in _referred(child)}
    if isinstance(node, _SCOPES):
        found -= {n.id for n in ast.walk(node) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
        found -= {n.arg for n in ast.walk(node) if isinstance(n, ast.arg)}
    return found


def _problem(node: ast.stmt, word: str) -> str | None:
    """Why a statement that defines a word cannot be executed while a suite is checked; None where it can."""
    if isinstance(node, ast.Import | ast.ImportFrom):
        modules = [node.module or "."] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
        light = ", ".join(sorted(_LIGHT - {"__future__"}))
        refused = f"Params may not refer to {word} of {modules[0]}: while a suite is checked, only {light} are imported"
        return None if set(modules) <= _LIGHT else refused
    literal = isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None
    if literal and all(isinstance(part, _LITERAL) for part in ast.walk(node.value)):
        return None
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        return None
    use = "" if word in _READ else ", since Params or a constant refers to it"
    return f"{word} must be a literal{use}: it is read before anything is imported; write its value"


def _with_line(error: Exception, path: Path) -> str:
    """An error, and the line of a file that it came from."""
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
    return f"{path}{f', line {lines[-1]}' if lines else ''}: {type(error).__name__}: {error}"


def check_params(name: str, params: dict[str, Any], where: str) -> None:
    """Raises KdbenchError when a method's parameters contradict each other, as its Params say."""
    info = method_info(name)
    try:
        info.params_class(**params)
    except KdbenchError as error:
        raise KdbenchError(f"{where}: {error}") from None
    except Exception as error:
        raise KdbenchError(f"{where}: {_with_line(error, info.path)}") from None


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


def source_constant(source: str, name: str, otherwise: Any = None) -> Any:
    """A constant of a data source's file, where it has that."""
    for node in parsed(SOURCES / f"{source}.py").body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", None) == name:
            return ast.literal_eval(node.value)
    return otherwise


def changed_args(source: str, args: dict[str, Any]) -> dict[str, Any]:
    """The arguments of a data source that are not at their defaults: what identifies its data."""
    return {key: value for key, value in args.items() if value != source_params(source)[key].default}


def source_doc(source: str) -> str:
    """What a data source says of itself: what it holds, where that comes from, and under which licence."""
    return ast.get_docstring(parsed(SOURCES / f"{source}.py")) or ""


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
