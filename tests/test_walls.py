"""The walls between the wings of the package, and that its imports go one way."""

from __future__ import annotations

import ast
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest
from conftest import REPOSITORY

PACKAGE = REPOSITORY / "kdbench"
HEAVY = ("torch", "torchvision", "timm", "numpy", "pandas", "scipy", "sklearn", "matplotlib")
METHODS_MAY_IMPORT = {"types", "errors", "tensors", "frequency", "signals", "torchvision_ops"}


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(REPOSITORY).with_suffix("").parts).removesuffix(".__init__")


MODULES = {module_of(path): path for path in PACKAGE.rglob("*.py")}


def imported(path: Path, anywhere: bool = True) -> set[str]:
    """Modules of the package that a file imports; anywhere: in its functions too."""
    tree = ast.parse(path.read_text())
    found = set()
    for node in ast.walk(tree) if anywhere else tree.body:
        if isinstance(node, ast.ImportFrom) and node.module:
            whole = [f"{node.module}.{alias.name}" for alias in node.names]
            found |= {name if name in MODULES else node.module for name in whole}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return found & set(MODULES)


def wing(name: str) -> list[str]:
    return sorted(module for module in MODULES if module.startswith(f"kdbench.{name}"))


@pytest.mark.parametrize(("name", "unwanted"), [("plan", HEAVY), ("report", ["torch"]), ("terminal", ["torch"])])
def test_a_wing_imports_nothing_that_it_has_no_use_for(name, unwanted):
    code = f"import sys, {', '.join(wing(name))}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert not set(unwanted) & set(done.stdout.split())


def test_methods_know_nothing_of_the_engine():
    allowed = {f"kdbench.{name}" for name in METHODS_MAY_IMPORT}
    for module in wing("methods"):
        strange = {m for m in imported(MODULES[module]) if m not in allowed and not m.startswith("kdbench.methods")}
        assert not strange, f"{module} imports {', '.join(strange)}"


def test_no_import_circles():
    """Imports inside functions count: a circle that they hide is one all the same."""
    graph = {module: imported(path) - {module} for module, path in MODULES.items()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


ROWS = [
    "types errors",
    "files checkpoint",
    "cpu supervise",
    "tensors signals named",
    "frequency similarity",
    "plan",
    "data",
]
ROWS += ["methods", "train", "results", "report", "run", "claims", "terminal", "conformance", "submit", "cli"]


def test_imports_go_up_the_table_of_the_wings():
    """The order of docs/architecture.md."""
    height = {place: i for i, row in enumerate(ROWS) for place in row.split()}
    allowed = {("kdbench.plan.workflow", "kdbench.data.prepare")}
    for module, path in MODULES.items():
        place = module.split(".")[1:2]
        for other in imported(path):
            there = other.split(".")[1:2]
            if place and there and place[0] in height and there[0] in height and (module, other) not in allowed:
                assert height[there[0]] <= height[place[0]], f"{module} imports {other}"


def test_the_engine_can_be_read_at_a_sitting():
    assert len((PACKAGE / "train/engine.py").read_text().splitlines()) < 280
