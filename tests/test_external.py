"""A method of your own, in a file of your own, gets into the table next to the others."""

from __future__ import annotations

import math
import re

import pytest
from conftest import REPOSITORY, run_jobs, tiny_plan

from kdbench import cli
from kdbench.plan import keys, registry
from kdbench.results.record import read_run
from kdbench.run.outputs import run_table
from kdbench.types import KdbenchError

SOURCE = re.search(r"```python\n(.*?)```", (REPOSITORY / "docs/add-a-method.md").read_text(), re.S).group(1)


@pytest.fixture
def mine(trained):
    """The very file that docs/add-a-method.md shows, in a folder of the user's."""
    (trained / "my_kd.py").write_text(SOURCE)
    registry.method_info.cache_clear()
    keys.module_files.cache_clear()
    keys._meaning.cache_clear()
    return {
        "methods": {"mykd": {"method": "my_kd.py:MyKD", "weight": 0.5}},
        "blocks__main__methods": ["scratch", "kd", "mykd"],
        "seeds": [0],
    }


def test_it_trains_and_stands_in_the_table(trained, mine):
    plan = tiny_plan(**mine)
    run_jobs(plan, "cohort")
    record = read_run(plan.runs()["cnn-t--vit-s", "mykd", 0].result)
    assert record["status"] == "finished" and record["config"]["method"]["params"] == {"weight": 0.5}
    run_table(plan)
    assert "MyKD" in (trained / "tables/tiny.md").read_text()


def test_editing_it_retrains_it_alone_and_a_comment_does_not(trained, mine):
    before = {name: run.key for name, run in tiny_plan(**mine).runs().items()}
    (trained / "my_kd.py").write_text("# a comment\n" + SOURCE)
    keys._meaning.cache_clear()
    assert {name: run.key for name, run in tiny_plan(**mine).runs().items()} == before
    (trained / "my_kd.py").write_text(SOURCE.replace("student_logits.float()", "student_logits.float() * 2"))
    keys._meaning.cache_clear()
    after = {name: run.key for name, run in tiny_plan(**mine).runs().items()}
    assert {name for name in before if before[name] != after[name]} == {("cnn-t--vit-s", "mykd", 0)}


def test_editing_what_it_imports_retrains_it(trained, mine, monkeypatch):
    package = trained / "mylab"
    package.mkdir()
    texts = {"__init__": "", "losses": "SCALE = 1.0\n", "more": "import mylab.deep\n", "deep": "A = 1\n"}
    for name, text in texts.items():
        (package / f"{name}.py").write_text(text)
    lines = "import kdbench.frequency\nfrom mylab import more\nfrom mylab.losses import SCALE\n"
    (package / "my_kd.py").write_text(SOURCE.replace("import torch.nn", f"{lines}import torch.nn"))
    mine["methods"]["mykd"]["method"] = "mylab/my_kd.py:MyKD"
    files = keys.module_files("mylab/my_kd.py:MyKD")
    assert {"frequency.py", "methods/base.py"} < set(files)
    assert {str(path) for path in package.glob("*.py")} < set(files)
    run = "cnn-t--vit-s", "mykd", 0
    before = tiny_plan(**mine).runs()[run].key
    (package / "deep.py").write_text("A = 2\n")
    keys._meaning.cache_clear()
    assert tiny_plan(**mine).runs()[run].key != before


@pytest.mark.slow
def test_it_is_checked_by_one_command(trained, mine, capsys):
    assert cli.main(["check", "my_kd.py:MyKD"]) == 0
    assert "MyKD" in capsys.readouterr().out
    (trained / "bad.py").write_text(SOURCE.replace("self.params.weight *", "float('nan') *"))
    assert cli.main(["check", "bad.py:MyKD"]) == 1
    assert "finite" in capsys.readouterr().out


def test_mistakes_are_named(trained, mine):
    for method, words in (
        ("my_kdd.py:MyKD", "no file my_kdd.py"),
        ("my_kd.py:MyKDD", "did you mean 'MyKD'"),
        ("my_kd.py", "unknown class 'Method'"),
    ):
        registry.method_info.cache_clear()
        with pytest.raises(KdbenchError, match=re.escape(words)):
            tiny_plan(**mine | {"methods": {"mykd": {"method": method}}})
    with pytest.raises(KdbenchError, match=r"methods\.mykd: unknown key 'wieght'; did you mean 'weight'"):
        tiny_plan(**mine | {"methods": {"mykd": {"method": "my_kd.py:MyKD", "wieght": 1.0}}})


# ------------------------------------------------------------------------------------------- what is read of a file

HEAD = """
import math
import sys
from dataclasses import dataclass

import numpy as np
import torch

from kdbench.methods.base import Distiller
from kdbench.types import KdbenchError

TITLE, GROUP = "Mine", "logits"
"""
PARAMS = """
@dataclass(frozen=True)
class Params:
    weight: float = 1.0
"""
TAIL = """
class Method(Distiller):
    Params = Params
"""


def read(folder, text: str, tail: str = TAIL) -> registry.MethodInfo:
    path = folder / "mine.py"
    path.write_text(HEAD + text + tail)
    registry.method_info.cache_clear()
    return registry.method_info(str(path))


@pytest.mark.parametrize(
    "constant",
    [
        "EPS = torch.tensor(1e-8)",
        "EPS = np.float32(1e-8)",
        "EPS: torch.Tensor = torch.tensor(1e-8)",
        "EPS = [torch.nn.ReLU()]",
        "sys.exit(3)",
        "raise RuntimeError",
        "torch.set_num_threads(sys.maxsize)",
        "for EPS in torch.arange(3): print(EPS)",
        "EPS = undefined",
        "@torch.no_grad()\ndef double(x: torch.Tensor): return 2 * x",
    ],
)
def test_what_params_does_not_refer_to_is_not_run(tmp_path, capfd, constant):
    info = read(tmp_path, f"{constant}\n{PARAMS}{constant}\n")
    assert {key: p.default for key, p in info.params.items()} == {"weight": 1.0}
    registry.check_params(info.name, {"weight": 2.0}, "x")
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("text", "default"),
    [
        ("START = 0.5\n", 0.5),
        ("HALF = 0.5\nSTART = -2 * HALF\n", -1.0),
        ("START: float = 0.25\n", 0.25),
        ("HALF, START = 1.0, 3.0\n", 3.0),
        ("from math import pi as START\n", math.pi),
        ("START = 1.0\nSTART = 2.0\n", 2.0),
    ],
)
def test_params_may_refer_to_literals_and_light_imports(tmp_path, text, default):
    info = read(tmp_path, text + PARAMS.replace("1.0", "START"))
    assert info.params == {"weight": registry.Parameter("float", default)}


def test_params_may_use_functions_and_classes_of_its_file(tmp_path):
    text = """
LEAST = {"weight": 0.5}
def least(x: torch.Tensor) -> torch.Tensor:
    return LEAST[x]
@dataclass(frozen=True)
class Common:
    weight: float = math.sqrt(4)
    def __post_init__(self) -> None:
        if self.weight < least("weight"):
            raise KdbenchError("mine: too small")
@dataclass(frozen=True)
class Params(Common):
    power: int = 2
"""
    info = read(tmp_path, text)
    assert {key: p.default for key, p in info.params.items()} == {"weight": 2.0, "power": 2}
    registry.check_params(info.name, {"weight": 0.5}, "x")
    with pytest.raises(KdbenchError, match=r"^x: mine: too small$"):
        registry.check_params(info.name, {"weight": 0.1}, "x")


def test_a_local_name_of_params_is_not_that_of_the_file(tmp_path):
    text = """
x = torch.ones(3)
least = key = torch.zeros(1)
@dataclass(frozen=True)
class Params:
    weight: float = 1.0
    def __post_init__(self) -> None:
        x = [key for key in (self.weight,) if key > 0]
        if not (lambda least: x)(0):
            raise KdbenchError("mine: too small")
"""
    info = read(tmp_path, text)
    registry.check_params(info.name, {"weight": 0.5}, "x")
    with pytest.raises(KdbenchError, match=r"^x: mine: too small$"):
        registry.check_params(info.name, {"weight": 0.0}, "x")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("START = torch.tensor(0.5)", "line 13: START must be a literal, since Params or a constant refers to it"),
        ("START = np.float32(0.5)", "line 13: START must be a literal"),
        ("START = float('0.5')", "line 13: START must be a literal"),
        ("START = math.pi", "line 13: START must be a literal"),
        ("A = 1\nB = max(A, 2)\nSTART = B", "line 14: B must be a literal"),
        ("START = 1.0\nSTART += 1", "line 14: START must be a literal"),
        ("if True:\n    START = 1.0", "line 13: START must be a literal"),
        (
            "from numpy import pi as START",
            "line 13: Params may not refer to START of numpy: while a suite is checked, only",
        ),
        ("from .here import START", "line 13: Params may not refer to START of here"),
        ("START = torch", "line 7: Params may not refer to torch of torch"),
        ("", "line 16: NameError: name 'START' is not defined"),
        ("START = []", "line 14: ValueError: mutable default"),
        (
            "TITLE = str('Mine')\nSTART = 1.0",
            "line 13: TITLE must be a literal: it is read before anything is imported",
        ),
        ("PRESETS = {'a': {'weight': np.pi}}\nSTART = 1.0", "line 13: PRESETS must be a literal"),
    ],
)
def test_what_params_refers_to_is_named_where_it_is_no_literal(tmp_path, text, told):
    with pytest.raises(KdbenchError, match=re.escape(f"mine.py, {told}")):
        read(tmp_path, text + PARAMS.replace("1.0", "START"))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (
            "class Params\n    weight: float = 1.0",
            r"mine\.py cannot be read as Python: expected ':' \(mine\.py, line 13\)",
        ),
        ("TITLE = 'Mine", r"mine\.py cannot be read as Python: unterminated string literal"),
        ("A = '\0'", "mine\\.py cannot be read as Python: "),
        ("", "needs TITLE, GROUP and a dataclass Params"),
        ("class Params:\n    weight: float = 1.0", "needs TITLE, GROUP and a dataclass Params"),
        (PARAMS.replace(" = 1.0", ""), "the parameter 'weight' of Params needs a default; write weight: float = "),
    ],
)
def test_a_file_off_the_form_is_named(tmp_path, text, told):
    with pytest.raises(KdbenchError, match=told):
        read(tmp_path, text)


def test_an_error_inside_params_is_named(tmp_path):
    info = read(tmp_path, PARAMS + "    def __post_init__(self):\n        1 / self.weight\n")
    with pytest.raises(KdbenchError, match=r"^x: .*mine\.py, line 18: ZeroDivisionError: float division by zero$"):
        registry.check_params(info.name, {"weight": 0.0}, "x")


def test_presets_are_named_and_shown(trained):
    spec = tiny_plan(methods={"kd4": {"method": "kd", "preset": "mdistiller"}}, blocks__main__methods=["kd4"])
    method = spec.suite.blocks[0].methods[0]
    assert method.label == "KD (mdistiller)"
    assert (method.params["temperature"], method.params["ce_weight"], method.params["kd_weight"]) == (4.0, 0.1, 0.9)
    with pytest.raises(KdbenchError, match="unknown preset 'mdistler'; did you mean 'mdistiller'"):
        tiny_plan(methods={"kd4": {"method": "kd", "preset": "mdistler"}}, blocks__main__methods=["kd4"])
