"""A method of your own, in a file of your own, gets into the table next to the others."""

from __future__ import annotations

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
    registry._params_class.cache_clear()
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


def test_presets_are_named_and_shown(trained):
    spec = tiny_plan(methods={"kd4": {"method": "kd", "preset": "mdistiller"}}, blocks__main__methods=["kd4"])
    method = spec.suite.blocks[0].methods[0]
    assert method.label == "KD (mdistiller)"
    assert (method.params["temperature"], method.params["ce_weight"], method.params["kd_weight"]) == (4.0, 0.1, 0.9)
    with pytest.raises(KdbenchError, match="unknown preset 'mdistler'; did you mean 'mdistiller'"):
        tiny_plan(methods={"kd4": {"method": "kd", "preset": "mdistler"}}, blocks__main__methods=["kd4"])
