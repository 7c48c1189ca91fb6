"""A suite's mistakes are found before anything runs, and named with the place and the nearest valid choice."""

from __future__ import annotations

import copy

import pytest
from conftest import REPOSITORY, TINY, tiny, tiny_plan, write_tiny

import kdbench.torchvision_ops  # noqa: F401
from kdbench import plan as planning
from kdbench import registry
from kdbench.suite import check_suite, load_suite, timm_index
from kdbench.types import KdbenchError


def complaint(**changes) -> str:
    with pytest.raises(KdbenchError) as error:
        check_suite(tiny(**changes), "tiny", "tiny.yaml")
    return str(error.value)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"sedes": [0]}, ["tiny.yaml", "'sedes'", "did you mean 'seeds'"]),
        ({"blocks__main__pears": []}, ["blocks.main", "'pears'", "'pairs'"]),
        ({"blocks__main__methods": ["scratch", "ofaa"]}, ["blocks.main.methods", "'ofaa'", "'ofa'"]),
        ({"blocks__main__methods": ["kd", "kd"]}, ["'kd' is listed twice"]),
        ({"blocks__main__pairs": ["cnn-t -> vit-x"]}, ["student", "'vit-x'", "'vit-s'"]),
        ({"blocks__main__pairs": ["cnn-tt -> vit-s"]}, ["teacher", "'cnn-tt'", "'cnn-t'"]),
        ({"blocks__main__pairs": ["cnn-t, vit-s"]}, ["teacher -> student"]),
        ({"blocks__main__data": "digit"}, ["data set", "'digit'", "'digits'"]),
        ({"models__vit-s__timm": "VisionTransformr"}, ["models.vit-s", "'VisionTransformr'", "'VisionTransformer'"]),
        ({"models__vit-s__timm": "resnet81"}, ["'resnet81'", "resnet"]),
        ({"models__vit-s__args": {"embed_dimm": 3}}, ["models.vit-s.args", "'embed_dimm'", "'embed_dim'"]),
        ({"models__vit-s__args": {"num_classes": 3}}, ["'num_classes' is set by kdbench"]),
        ({"models__vit-s__args": {"patch_drop_rate": 0.1}}, ["patch_drop_rate must be 0"]),
        ({"models__vit-s__recipe": "studnet"}, ["recipe", "'studnet'", "'student'"]),
        ({"models__vit-s__input": "images"}, ["input", "'images'", "'image'"]),
        ({"models__vit-s__stem": "tiny"}, ["stem", "'tiny'"]),
        ({"data__digits__source": "digts"}, ["data.digits", "'digts'", "'digits'"]),
        ({"data__digits__sise": 8}, ["data.digits", "'sise'", "'size'"]),
        ({"data__digits__size": "8"}, ["data.digits.size", "expected int", "'8'"]),
        ({"recipes__student__lr": -1.0}, ["recipes.student", "lr", "positive"]),
        ({"recipes__student__lr": "fast"}, ["recipes.student.lr", "expected float"]),
        ({"recipes__student__lr": "0.005"}, ["recipes.student.lr", "expected float"]),
        ({"recipes__student__lr": "1e999"}, ["recipes.student.lr", "expected float"]),
        ({"recipes__student__steps": "1e3"}, ["recipes.student.steps", "expected int"]),
        ({"recipes__student__crop": 8}, ["tiny.yaml: recipes.student.crop: must be below 8", "data digits", "got 8"]),
        ({"recipes__student__batch_size": 1001}, ["recipes.student.batch_size: must be at most 1000", "data digits"]),
        ({"models__vit-s__args": {"embed_dim": 100, "num_heads": 3}}, ["models.vit-s.args", "100", "num_heads 3"]),
        ({"recipes__student__epochs": 3}, ["exactly one of epochs and steps"]),
        ({"recipes__student__warmup": 1.5}, ["warmup", "[0, 1)"]),
        ({"seeds": [0, 0]}, ["listed twice"]),
        ({"seeds": [0, -1]}, ["whole numbers"]),
        ({"seeds": ["a"]}, ["whole numbers"]),
        ({"threads": 0}, ["threads", "at least 1"]),
        ({"precision": "fp8"}, ["precision", "'fp8'"]),
        ({"precision": "fp16"}, ["tiny.yaml: precision: unknown value 'fp16'; known: bf16, fp32"]),
        ({"device": "gpu"}, ["tiny.yaml: device: unknown value 'gpu'; known: auto, cpu, cuda"]),
        ({"device": 3}, ["tiny.yaml: device: expected str, got 3"]),
        ({"recipes__student__optimizer": "adamv"}, ["recipes.student.optimizer", "did you mean 'adamw'?"]),
        ({"seeds": 0}, ["tiny.yaml: seeds: expected a list, got 0"]),
        ({"seeds": []}, ["'seeds' is missing or empty"]),
        ({"blocks__main__pairs": 0}, ["blocks.main.pairs: expected a list, got 0"]),
        ({"blocks__main__readings": 0}, ["blocks.main.readings: expected a list, got 0"]),
        ({"methods": {"uhkd": {"contrl": "C0"}}}, ["methods.uhkd", "'contrl'", "'control'"]),
        (
            {"methods": {"uhkd": {"control": "C9"}}},
            ["methods.uhkd.control", "'C9'; known: C0, C1, C2, C3, C4, C5, C6, none"],
        ),
        ({"methods": {"uhkd": {"control": "C0", "compact": "pool"}}}, ["methods.uhkd", "control C0 fixes compact"]),
        ({"methods": {"mine": {"method": "khd"}}}, ["methods.mine", "'khd'", "'kd'"]),
        ({"models": {"a--b": TINY["models"]["cnn-t"]}}, ["'--'"]),
        ({"models": {"../x": TINY["models"]["cnn-t"]}}, ["cannot be a name"]),
        ({"blocks": {}}, ["'blocks'", "missing or empty"]),
        ({"blocks__main__table": {"row": ["kd"]}}, ["blocks.main.table", "'row'", "'rows'"]),
        ({"blocks__main__table": {"rows": ["kdd"]}}, ["blocks.main.table.rows", "'kdd'", "'kd'"]),
        ({"blocks__main__table": {"columns": ["cnn-t -> vit-x"]}}, ["table.columns", "'cnn-t -> vit-s'"]),
        ({"claims": {"a": {"method": "kdd", "control": "kd", "question": "?"}}}, ["claims.a", "'kdd'", "'kd'"]),
        ({"claims": {"a": {"method": "kd", "control": "kd", "question": "?"}}}, ["claims.a", "its own control"]),
        ({"claims": {"a": {"method": "uhkd", "controll": "kd"}}}, ["claims.a", "'controll'", "'control'"]),
        ({"claims": {"a": {"method": "uhkd", "control": "kd"}}}, ["claims.a", "'question' is missing"]),
        ({"claims": {"a": {"method": "uhkd", "control": "kd", "question": 3}}}, ["claims.a.question", "expected str"]),
        ({"claims": ["uhkd"]}, ["claims", "expected keys and values"]),
        ({"blocks__main__table": {"rows": ["kd"], "baselines": ["scratch"]}}, ["'scratch' is not among the rows"]),
    ],
)
def test_mistakes_are_named(changes, words):
    message = complaint(**changes)
    assert all(word in message for word in words), message
    assert "\n" not in message


def test_a_missing_key_is_named():
    tree = tiny()
    del tree["models"]["vit-s"]["recipe"]
    with pytest.raises(KdbenchError, match=r"models\.vit-s: the key 'recipe' is missing"):
        check_suite(tree, "tiny", "tiny.yaml")


@pytest.mark.parametrize(
    "text", ["", "- 1", "a: [", "\x00", "seeds: [0]\nseeds: [1]", "? [1, 2]\n: 3", "3", "a: &x [*x]"]
)
def test_files_that_are_no_suite(tmp_path, text):
    path = tmp_path / "broken.yaml"
    path.write_text(text)
    with pytest.raises(KdbenchError, match=r"broken\.yaml"):
        load_suite(path)


def test_an_unknown_suite_names_those_there_are(tmp_path, monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    with pytest.raises(KdbenchError, match="did you mean 'quick'"):
        load_suite("quik")


def test_a_file_that_is_not_there_is_named_as_a_file(tmp_path):
    path = write_tiny(tmp_path)
    for wanted, told in (
        (tmp_path / "nowhere/a.yaml", f"there is no file {tmp_path / 'nowhere/a.yaml'}"),
        (path.with_name("tinny.yaml"), f"there is no file {path.with_name('tinny.yaml')}; did you mean {path}?"),
    ):
        with pytest.raises(KdbenchError) as error:
            load_suite(wanted)
        assert str(error.value) == told


def test_a_base_that_is_not_there_is_named_with_the_file_that_wants_it(tmp_path):
    path = write_tiny(tmp_path).with_name("mine.yaml")
    path.write_text("extends: tinny\n")
    with pytest.raises(KdbenchError) as error:
        load_suite(path)
    assert str(error.value) == f"{path}: extends: unknown suite 'tinny'; did you mean 'tiny'?"


@pytest.mark.parametrize("text", ["5e-3", "5E-3", "+.5e-2", "5.e-3", "50.0e-4"])
def test_numbers_that_yaml_takes_for_text_are_numbers(tmp_path, text):
    """As YAML 1.2 has it, and to the same key; YAML 1.1 wants a point and a sign."""
    methods = {"methods": {"kd": {"temperature": 5.0e-3}}}
    numbers = planning.plan(load_suite(write_tiny(tmp_path, **methods)))
    path = tmp_path / "config/tiny.yaml"
    path.write_text(path.read_text().replace("0.005", text))
    assert path.read_text().count(text) == 3
    plan = planning.plan(load_suite(path))
    assert plan.suite.recipes["student"].lr == 0.005 and plan.jobs == numbers.jobs
    assert {name: run.key for name, run in plan.runs().items()} == {n: r.key for n, r in numbers.runs().items()}


def test_numbers_in_the_arguments_of_data_and_in_tuples_too():
    data = {"source": "glyphs", "noise": "3e-1"}
    suite = tiny_plan(data__glyphs=data, recipes__student__milestones=["5e-1", 0.75]).suite
    assert suite.data["glyphs"].args == {"noise": 0.3} and suite.recipes["student"].milestones == (0.5, 0.75)


def test_only_data_of_a_known_size_are_held_against_recipes():
    """Files tell their size when they are read, so training says it then."""
    large = {"lr": 1.0e-3, "steps": 1, "batch_size": 100_000, "crop": 100}
    data = {"mine": {"source": "npz", "file": "mine.npz"}}
    models = {"m": {"timm": "resnet18", "data": "mine", "recipe": "student"}}
    blocks = {"main": {"data": "mine", "pairs": ["m -> m"], "methods": ["kd"]}}
    tree = {"seeds": [0], "recipes": {"student": large}, "models": models, "blocks": blocks}
    check_suite(tree | {"data": data}, "x", "x.yaml")
    for arguments, told in (
        ({"size": 100}, "x.yaml: recipes.student.crop: must be below 100, the size of data mine, got 100"),
        ({"size": 102}, "x.yaml: recipes.student.batch_size: must be at most 9400, the training samples of data mine"),
        ({"size": 102, "train": 99_999}, "must be at most 99999"),
    ):
        tree["data"] = {"mine": {"source": "glyphs", **arguments}}
        tree["models"]["m"]["input"] = "raster"
        with pytest.raises(KdbenchError) as error:
            check_suite(tree, "x", "x.yaml")
        assert told in str(error.value)
    tree["data"]["mine"]["train"] = 100_000
    check_suite(tree, "x", "x.yaml")


def test_marks_stay_on_labels():
    suite = tiny_plan(methods={"mine": {"method": "uhkd", "label": "my words"}}, blocks__main__methods=["mine"]).suite
    assert suite.blocks[0].methods[0].label == "UHKD† (my words)"


@pytest.mark.parametrize("name", registry.method_names())
def test_what_is_read_from_a_methods_text_is_what_python_sees(name):
    """registry reads names, defaults and types without running the file: it must agree with the imported class."""
    import dataclasses

    params = registry.load_method(name).Params
    read = registry.method_info(name).params
    assert {f.name: f.default for f in dataclasses.fields(params)} == {k: p.default for k, p in read.items()}
    for key, parameter in read.items():
        assert parameter.check(parameter.default, key) == parameter.default


def test_the_index_of_timm_is_timms_own():
    import timm

    registered, classes = timm_index()
    assert set(timm.list_models()) <= set(registered)
    assert {"ResNet", "VisionTransformer", "MlpMixer", "SwinTransformer"} <= set(classes)


# ---------------------------------------------------------------------------------------------------------------- plan


def keys(**changes) -> dict:
    return {name: run.key for name, run in tiny_plan(**changes).runs().items()}


def test_a_runs_key_changes_with_what_its_numbers_depend_on_and_with_nothing_else(monkeypatch):
    base = keys()
    kd0, scratch0 = ("cnn-t--vit-s", "kd", 0), ("none--vit-s", "scratch", 0)
    assert len(set(base.values())) == len(base) == 4
    assert keys(title="other", banner="words", seeds_per_job=2, minutes_per_job=9, checkpoint_seconds=1) == base
    teacher = keys(recipes__teacher__lr=1e-3)
    assert teacher[kd0] != base[kd0] and teacher[scratch0] == base[scratch0]
    student = keys(recipes__student__lr=1e-3)
    assert student[kd0] != base[kd0] and student[scratch0] != base[scratch0]
    method = keys(methods={"kd": {"temperature": 4.0}})
    assert method[kd0] != base[kd0] and method[scratch0] == base[scratch0]
    real = registry._meaning
    monkeypatch.setattr(registry, "_meaning", lambda file: real(file) + ("x" if file == "methods/kd.py" else ""))
    code = keys()
    assert code[kd0] != base[kd0] and code[scratch0] == base[scratch0]


def test_comments_and_docstrings_are_not_code(tmp_path, monkeypatch):
    monkeypatch.setattr(registry, "PACKAGE", tmp_path)
    digests = []
    for text in ('"""A."""\nx = 1\n', '"""B."""\n# why\nx   = 1\n', '"""A."""\nx = 2\n'):
        (tmp_path / "a.py").write_text(text)
        registry._meaning.cache_clear()
        digests.append(registry.code_hash("a.py"))
    registry._meaning.cache_clear()
    assert digests[0] == digests[1] != digests[2]


def test_a_methods_numbers_depend_on_what_it_imports():
    assert {"frequency.py", "methods/kd.py", "methods/uhkd.py"} <= set(registry.module_files("uhkd"))
    assert "methods/uhkd.py" not in registry.module_files("fdcmkd")


def test_paths_are_the_documented_ones():
    plan = tiny_plan()
    assert plan.runs()["cnn-t--vit-s", "kd", 1].result.as_posix() == "results/tiny/runs/cnn-t--vit-s/kd/seed1.json"
    assert plan.teacher("cnn-t", 0).result.as_posix() == "results/tiny/teachers/cnn-t/seed0.json"
    assert [p.as_posix() for p in planning.table_files(plan.suite)] == [
        f"tables/tiny.{s}" for s in ("md", "tex", "html", "csv")
    ]


@pytest.mark.parametrize("path", sorted((REPOSITORY / "config").glob("*.yaml")), ids=lambda p: p.stem)
def test_the_suites_that_ship_are_right(path):
    plan = planning.plan(load_suite(path))
    outputs = [job.output for job in plan.jobs]
    assert len(set(outputs)) == len(outputs)
    made: set = set()
    for job in plan.jobs:
        assert set(job.inputs) <= made, f"{job.id} comes before what it needs"
        made.add(job.output)


def test_a_tree_is_not_changed_by_checking_it():
    tree = tiny()
    before = copy.deepcopy(tree)
    check_suite(tree, "tiny", "tiny.yaml")
    assert tree == before


def test_writing_and_loading_gives_the_same_plan(tmp_path):
    assert planning.plan(load_suite(write_tiny(tmp_path))).jobs == tiny_plan().jobs
