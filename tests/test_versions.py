"""Results survive a change of code that moves no number, and no other: versions, goldens, and the keys of them."""

from __future__ import annotations

import dataclasses
import json
import re
import subprocess

import golden
import pytest
from conftest import REPOSITORY, TINY, tiny, tiny_plan

from kdbench.plan import keys as plan_keys
from kdbench.plan import registry
from kdbench.plan.jobs import Plan, _teacher_key, make_plan
from kdbench.plan.keys import all_parts, versions
from kdbench.plan.registry import method_info, method_names, source_names, source_params
from kdbench.plan.suite import check_suite
from kdbench.types import ModelSpec, Recipe

# ------------------------------------------------------------------------------------------------------------- goldens


def test_every_part_has_a_version_and_a_reason():
    assert set(versions()) == set(all_parts())
    for part, entry in versions().items():
        assert entry["version"] >= 1 and re.fullmatch(r"[0-9a-f]{12}", entry["digest"]) and entry["why"], part


ENGINE_MOVED: list[str] = []


@pytest.mark.parametrize("part", all_parts())
def test_numbers_move_with_their_version_only(part):
    if part in ("source ave", "source cremad"):
        pytest.importorskip("av", reason="PyAV is not installed: pip install 'kdbench[media]'")
    if part == "network huggingface":
        pytest.importorskip("transformers", reason="the extra `text` is not installed")
    wrong = golden.verdict(part, versions()[part], golden.read().get(part), golden.compute(part))
    if part == "engine" and wrong:
        ENGINE_MOVED.append(part)
    if part.startswith("method") and wrong and (ENGINE_MOVED or engine_moved()):
        pytest.skip("the engine moved, so what its methods compute says nothing")
    assert wrong is None, wrong


def engine_moved() -> bool:
    return bool(golden.moved("engine", golden.read()["engine"]["numbers"], golden.compute("engine")))


NUMBERS = {"a": [1.0, 2.0], "b": [0.5]}
GOLDEN = {"version": 2, "numbers": NUMBERS}
SAME, OTHER = NUMBERS, {"a": [1.0, 2.001], "b": [0.5]}


@pytest.mark.parametrize(
    ("entry", "now", "told"),
    [
        ({"version": 2}, SAME, None),
        ({"version": 2}, {"a": [1.0, 2.0 + 1e-5], "b": [0.5]}, None),
        ({"version": 2}, OTHER, "computes other numbers (a): raise its version"),
        ({"version": 2}, {"a": [1.0, 2.0]}, "computes other numbers (b)"),
        ({"version": 2}, {**NUMBERS, "c": [1.0]}, "computes other numbers (c)"),
        ({"version": 2, "digest": "of something else"}, SAME, "digest"),
        ({"version": 3}, OTHER, "rose; run: python tests/golden.py"),
        ({"version": 3}, SAME, "none of its numbers moved"),
        ({"version": 3, "unseen": "a fault on CUDA"}, SAME, "rose; run: python tests/golden.py"),
        ({"version": 1}, SAME, "fell from 2 to 1"),
    ],
)
def test_a_version_is_held_in_both_directions(entry, now, told):
    wrong = golden.verdict("engine", {"digest": golden.digest(NUMBERS), **entry}, GOLDEN, now)
    assert wrong is None if told is None else told in wrong


def test_a_part_without_numbers_is_named():
    assert "no recorded numbers" in golden.verdict("method new", {"version": 1, "digest": ""}, None, SAME)


def test_one_more_setting_of_a_method_in_a_suite_moves_nothing():
    before = {"default: a to b": [1.0], "{'weight': 2.0}: a to b": [2.0]}
    assert golden.moved("method kd", before, {"default: a to b": [1.0], "{'weight': 3.0}: a to b": [3.0]}) == []
    assert golden.moved("method kd", before, before | {"default: a to b": [1.1]}) == ["default: a to b"]


# ---------------------------------------------------------------------------------------------------------------- keys


def keys(plan: Plan) -> dict[str, str]:
    return {f"{run.pair.id}/{run.method.id}": run.key for job in plan.jobs for run in job.runs}


def raised(monkeypatch, part: str) -> None:
    changed = {**versions(), part: {**versions()[part], "version": versions()[part]["version"] + 1}}
    monkeypatch.setattr(plan_keys, "versions", lambda: changed)
    _teacher_key.cache_clear()


@pytest.mark.parametrize(
    ("part", "stale"),
    [
        ("engine", {"none--cnn-t/scratch", "none--vit-s/scratch", "cnn-t--vit-s/kd"}),
        ("source digits", {"none--cnn-t/scratch", "none--vit-s/scratch", "cnn-t--vit-s/kd"}),
        ("method kd", {"cnn-t--vit-s/kd"}),
        ("method uhkd", set()),
        ("augmentation crop", {"none--vit-s/scratch", "cnn-t--vit-s/kd"}),  # of the student's recipe alone
        ("augmentation cutmix", set()),
        ("source glyphs", set()),
        ("network cifar_vgg8", set()),
        ("frequency", set()),
    ],
)
def test_a_raised_version_makes_stale_what_computes_with_it(monkeypatch, part, stale):
    before = keys(tiny_plan())
    raised(monkeypatch, part)
    after = keys(tiny_plan())
    assert {name for name in before if before[name] != after[name]} == stale


def test_a_network_more_changes_no_key_of_who_does_not_use_it(monkeypatch):
    def plan(network: str) -> Plan:
        tree = tiny()
        tree["models"]["cnn-s"] = {"timm": network, "data": "digits", "recipe": "student"}
        tree["blocks"]["main"]["pairs"].append("cnn-t -> cnn-s")
        return make_plan(check_suite(tree, "tiny", "tiny.yaml"))

    before = keys(plan("cifar_vgg8"))
    assert set(keys(tiny_plan()).items()) <= set(before.items())
    raised(monkeypatch, "network cifar_vgg8")
    after = keys(plan("cifar_vgg8"))
    assert {n for n in before if before[n] != after[n]} == {"none--cnn-s/scratch", "cnn-t--cnn-s/kd"}


def test_a_head_convolution_is_in_the_keys_of_the_networks_that_have_one():
    def parts(network: str) -> set[str]:
        tree = tiny()
        tree["models"]["cnn-s"] = {"timm": network, "data": "digits", "recipe": "student"}
        tree["blocks"]["main"]["pairs"] = ["cnn-t -> cnn-s"]
        run = make_plan(check_suite(tree, "tiny", "tiny.yaml")).runs()["cnn-t--cnn-s", "kd", 0]
        return set(run.config["versions"])

    assert parts("mobilenetv2_050") - parts("mobilenetv3_small_050") == {"head-convolution"}
    assert (
        parts("mobilenetv3_small_050")
        == parts("resnet18")
        == set(tiny_plan().runs()["cnn-t--vit-s", "kd", 0].config["versions"])
    )


def test_what_is_at_its_default_is_in_no_key():
    """So an optional key more, which is off, changes none; nor does a label."""
    tree = tiny()
    tree["recipes"]["student"] |= {"mixup": 0.0, "decay_all": False, "warmup": 0.1}
    tree["models"]["vit-s"] |= {"stem": "timm", "pos_std": None}
    tree["methods"] = {"kd": {"temperature": method_info("kd").params["temperature"].default}}
    tree["methods"]["kd"] |= {"label": "my words", "short": "mine"}
    assert keys(make_plan(check_suite(tree, "tiny", "tiny.yaml"))) == keys(tiny_plan())
    tree["data"]["digits"] = {"source": "digits"}
    assert keys(make_plan(check_suite(tree, "tiny", "tiny.yaml"))) == keys(tiny_plan())
    tree["recipes"]["student"]["warmup"] = 0.2
    assert keys(make_plan(check_suite(tree, "tiny", "tiny.yaml"))) != keys(tiny_plan())


def test_defaults_are_frozen():
    """A default that changed would give results of the old one the key of the new: add a key, or give it in suites.

    New options may be added to this file; what stands in it never changes.
    """
    frozen = json.loads((REPOSITORY / "tests/data/defaults.json").read_text())
    assert json.loads(json.dumps(defaults())) == frozen, "write new options to tests/data/defaults.json by hand"


def defaults() -> dict[str, dict]:
    found = {
        cls.__name__: {f.name: f.default for f in dataclasses.fields(cls) if f.default is not dataclasses.MISSING}
        for cls in (Recipe, ModelSpec)
    }
    found |= {f"source {n}": {k: p.default for k, p in source_params(n).items()} for n in source_names()}
    return found | {f"method {n}": {k: p.default for k, p in method_info(n).params.items()} for n in method_names()}


def test_a_users_method_keeps_the_hash_of_its_code_and_the_versions_of_what_it_imports(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(MINE)
    tree = tiny(methods={"mine": {"method": "mine.py"}}, blocks__main__methods=["scratch", "kd", "mine"])

    def found() -> dict[str, str]:
        for cache in (plan_keys.module_files, plan_keys._meaning, registry.method_info):
            cache.cache_clear()
        return keys(make_plan(check_suite(tree, "tiny", "tiny.yaml")))

    before = found()
    parts = make_plan(check_suite(tree, "tiny", "tiny.yaml")).runs()["cnn-t--vit-s", "mine", 0].config["versions"]
    assert {"files of mine.py", "frequency", "method kd"} <= set(parts) and "method mine.py" not in parts
    (tmp_path / "mine.py").write_text(MINE.replace("weight: float = 1.0", "weight: float = 1.0  # as in the paper"))
    assert found() == before, "a comment is no change"
    (tmp_path / "mine.py").write_text(MINE.replace("return {}", "return {'ce': 0}"))
    after = found()
    assert {n for n in before if before[n] != after[n]} == {"cnn-t--vit-s/mine"}
    raised(monkeypatch, "frequency")
    assert found()["cnn-t--vit-s/mine"] != after["cnn-t--vit-s/mine"]
    found()


MINE = '''
"""Mine."""
from dataclasses import dataclass
from kdbench.frequency import split_channels
from kdbench.methods.base import Distiller
from kdbench.methods.kd import kd_loss

TITLE = "Mine"
GROUP = "logits"

@dataclass(frozen=True)
class Params:
    weight: float = 1.0

class Method(Distiller):
    Params = Params

    def forward(self, student, teacher, target, progress):
        return {}
'''


def test_no_key_holds_code_of_the_package():
    """Its own files may be moved, split and renamed under a finished suite."""
    run = tiny_plan().runs()["cnn-t--vit-s", "kd", 0]
    assert set(run.config["versions"]) == {"engine", "source digits", "augmentation crop", "method kd"}
    assert "code_sha256" not in json.dumps(run.config) and TINY["recipes"]["student"]["crop"]
    code = subprocess.run(
        ["git", "grep", "-n", "code_hash(", "kdbench"], cwd=REPOSITORY, capture_output=True, text=True
    )
    assert {line.split(":")[0] for line in code.stdout.splitlines()} <= {"kdbench/plan/keys.py"}
