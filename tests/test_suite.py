"""A suite's mistakes are found before anything runs, and named with the place and the nearest valid choice."""

from __future__ import annotations

import copy

import pytest
from conftest import REPOSITORY, TINY, tiny, tiny_plan, write_tiny

import kdbench.torchvision_ops  # noqa: F401
from kdbench.plan import keys as plan_keys
from kdbench.plan import registry
from kdbench.plan.jobs import make_plan
from kdbench.plan.paths import claim, owner_of, table_files
from kdbench.plan.suite import check_suite, configured, load_suite, typed
from kdbench.plan.timm_names import timm_index
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
        *(
            ({"models__vit-s__timm": name}, ["models.vit-s.timm", name, "pretrained weights", f"write {network}"])
            for name, network in (
                ("resnet18.a1_in1k", "resnet18"),
                ("vit_tiny_patch16_224.augreg_in21k_ft_in1k", "vit_tiny_patch16_224"),
                ("ResNet.a1_in1k", "ResNet"),
                ("resnet18.", "resnet18"),
                ("cifar_resnet8x4.mine", "cifar_resnet8x4"),
                ("hf-hub:timm/resnet18.a1_in1k", "resnet18"),
                ("hf_hub:timm/resnet18", "resnet18"),
                ("local-dir:/weights/resnet18", "resnet18"),
            )
        ),
        *(
            ({f"{place}__{key}": value}, [f"{key}: networks start at random here", "leave it out"])
            for place in ("models__vit-s", "models__vit-s__args", "recipes__student", "data__digits", "blocks__main")
            for key, value in (
                ("pretrained", True),
                ("pretrained", False),
                ("pretrained_cfg", "a1_in1k"),
                ("checkpoint_path", "a.pth"),
                ("weights", "IMAGENET1K_V1"),
            )
            if (place, key) != ("blocks__main", "weights")  # there it says which loss weights are trained
            and (place, key) not in (("models__vit-s", "pretrained"), ("models__vit-s", "weights"))
        ),
        ({"pretrained": True}, ["tiny.yaml: pretrained: networks start at random here"]),
        ({"methods": {"kd": {"pretrained": True}}}, ["methods.kd: pretrained: networks start at random here"]),
        ({"methods": {"kd": {"kd_weights": 1}}}, ["methods.kd: unknown key 'kd_weights'"]),
        ({"paper": {"row": ["kd"]}}, ["paper: unknown key 'row'", "did you mean 'rows'"]),
        ({"paper": {"rows": ["kdd"]}}, ["paper: unknown method 'kdd'", "did you mean 'kd'"]),
        ({"paper": {"columns": ["cnn-t -> vit"]}}, ["paper: unknown pair 'cnn-t -> vit'", "'cnn-t -> vit-s'"]),
        ({"paper": {"names": {"cnn": "ResNet"}}}, ["paper: unknown method or model 'cnn'"]),
        ({"paper": {"names": {"kd": 1}}}, ["paper.names.kd: expected text, got 1"]),
        ({"paper": {"width": 0}}, ["paper.width: must be positive"]),
        ({"blocks__main__layout": "pair"}, ["blocks.main.layout: unknown value 'pair'", "did you mean 'pairs'"]),
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


def test_an_unknown_suite_names_those_there_are(monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    for wanted, near in (
        ("quik", "did you mean 'quick'"),
        ("x" * 9, "known: all-methods, anchors-32"),
        ("", "known: "),
    ):
        with pytest.raises(KdbenchError, match=f"no such file in .*/config: unknown suite '{wanted}'; {near}"):
            load_suite(wanted)


def test_a_file_that_is_not_there_is_named_as_a_file_with_the_nearest_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = write_tiny(tmp_path)
    (tmp_path / "other").mkdir()
    (tmp_path / "other/pets.yaml").write_text("")
    (tmp_path / "config/mine.yml").write_text("")
    (tmp_path / "runs.csv").write_text("")
    for wanted, told in (
        (tmp_path / "nowhere/a.yaml", f"there is no file {tmp_path / 'nowhere/a.yaml'}"),
        (path.with_name("tinny.yaml"), f"there is no file {path.with_name('tinny.yaml')}; did you mean {path}?"),
        ("tiny.yaml", f"there is no file tiny.yaml in {tmp_path}; did you mean config/tiny.yaml?"),
        ("config/tiny.yml", f"there is no file config/tiny.yml in {tmp_path}; did you mean config/tiny.yaml?"),
        ("other/pet.yaml", f"there is no file other/pet.yaml in {tmp_path}; did you mean other/pets.yaml?"),
        ("other/pets", "there is no suite config/other/pets.yaml; did you mean the file other/pets.yaml?"),
        ("mine", "there is no suite config/mine.yaml; did you mean the file config/mine.yml?"),
        ("runs.csv", "runs.csv is not a suite: a suite is a .yaml file"),
    ):
        with pytest.raises(KdbenchError) as error:
            load_suite(wanted)
        assert str(error.value) == told


def test_from_another_folder_suites_are_those_of_its_config_then_those_that_come_with_kdbench(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    came = load_suite("quick")
    assert came.path == REPOSITORY / "config/quick.yaml" and typed(came) == "quick"
    claim(came)
    assert (tmp_path / "results/quick/suite.txt").read_text() == "config/quick.yaml\n"
    assert owner_of("quick") == came.path
    with pytest.raises(KdbenchError) as error:
        load_suite("quikc")
    places = f"{tmp_path}/config or {REPOSITORY}/config"
    assert str(error.value) == f"no such file in {places}: unknown suite 'quikc'; did you mean 'quick'?"

    own = write_tiny(tmp_path).rename(tmp_path / "config/quick.yaml")
    assert load_suite("quick").path.absolute() == own and owner_of("quick").absolute() == own
    assert typed(load_suite("quick")) == "quick" and typed(came) == str(came.path)
    own.write_text("extends: glyphs\nthreads: 3\n")
    assert load_suite("quick").models == load_suite("glyphs").models and load_suite("quick").threads == 3


# --------------------------------------------------------------------------------------------------- Snakemake's config


def test_snakemakes_config_names_the_suite():
    assert configured({}) == "quick" and configured({"suite": "glyphs"}) == "glyphs"
    assert configured({"suite": "config/2024.yaml"}) == "config/2024.yaml"


@pytest.mark.parametrize(
    ("config", "told"),
    [
        *(
            (
                {key: value},
                f"unknown config key {key!r}; did you mean 'suite'? Run: snakemake --cores all --config suite=" + meant,
            )
            for key, value, meant in (
                ("suit", "glyphs", "glyphs"),
                ("Suite", "a b", "'a b'"),
                ("name", 3, "NAME"),
                ("suites", None, "NAME"),
            )
        ),
        ({"suite": "quick", "suit": "glyphs"}, "unknown config key 'suit'; did you mean 'suite'?"),
        *(
            ({key: 1}, f"config key {key!r} belongs in a suite's file; name that by --config suite=PATH")
            for key in ("title", "seeds", "blocks", "extends", "precision", "claims")
        ),
        *(
            (
                {"suite": value},
                f"config key 'suite': expected a name or a path, got the {type(value).__name__} {value!r}",
            )
            for value in (2024, 1000.0, True, None, ["quick"], {"a": 1})
        ),
    ],
)
def test_any_other_config_is_refused_with_the_right_command(config, told):
    with pytest.raises(KdbenchError) as error:
        configured(config)
    assert str(error.value).startswith(told) and "--config suite=" in str(error.value)


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
    numbers = make_plan(load_suite(write_tiny(tmp_path, **methods)))
    path = tmp_path / "config/tiny.yaml"
    path.write_text(path.read_text().replace("0.005", text))
    assert path.read_text().count(text) == 3
    plan = make_plan(load_suite(path))
    assert plan.suite.recipes["student"].lr == 0.005 and plan.jobs == numbers.jobs
    assert {name: run.key for name, run in plan.runs().items()} == {n: r.key for n, r in numbers.runs().items()}


@pytest.mark.parametrize("text", ["5e-3", "5E-3", "+.5e-2"])
def test_also_in_the_arguments_of_data_and_models_and_in_tuples(tmp_path, text):
    """timm's arguments are of no type that kdbench knows, so nothing but the notation tells a number from text."""
    data = {"source": "glyphs", "noise": 0.005}
    path = write_tiny(tmp_path, data__glyphs=data, recipes__student__milestones=[0.005, 0.75])
    path.write_text(path.read_text().replace("0.005", text).replace("drop_rate: 0.1", f"drop_rate: {text}"))
    suite = load_suite(path)
    assert suite.data["glyphs"].args == {"noise": 0.005} and suite.recipes["student"].milestones == (0.005, 0.75)
    assert suite.models["vit-s"].args["drop_rate"] == 0.005


def test_text_in_quotes_is_no_number(tmp_path):
    path = write_tiny(tmp_path)
    path.write_text(path.read_text().replace("0.005", "'5e-3'"))
    with pytest.raises(KdbenchError, match=r"recipes\.teacher\.lr: expected float, got '5e-3'"):
        load_suite(path)


def test_names_may_look_like_booleans_and_numbers(tmp_path):
    """As keys they are text as they are; where they are named again, in quotes."""
    path = write_tiny(tmp_path)
    text = path.read_text().replace("\n  student:", "\n  off:").replace("recipe: student", "recipe: 'off'")
    text = text.replace("cnn-t:", "010:").replace("cnn-t -> vit-s", "010 -> vit-s")
    path.write_text(text)
    suite = load_suite(path)
    assert set(suite.recipes) == {"teacher", "off"} and suite.models["vit-s"].recipe == "off"
    assert suite.blocks[0].pairs[0].id == "010--vit-s"
    path.write_text(text.replace("recipe: 'off'", "recipe: off"))
    with pytest.raises(KdbenchError, match=r'off can be misread; write false, or "off" in quotes for text'):
        load_suite(path)


def test_recipes_share_keys_by_merging(tmp_path):
    path = write_tiny(tmp_path)
    whole = load_suite(path).recipes
    student = "  student:\n    lr: 0.005\n    steps: 12\n    batch_size: 100\n    crop: 1\n    clip_grad: 5.0\n"
    text = path.read_text()
    assert student in text
    text = text.replace("  teacher:\n    lr", "  teacher: &base\n    lr")
    merged = "  student:\n    <<: *base\n    steps: 12\n    batch_size: 100\n    crop: 1\n    clip_grad: 5.0\n"
    path.write_text(text.replace(student, merged))
    assert load_suite(path).recipes == whole


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


def test_a_short_label_is_the_whole_label_of_figures_and_by_default_the_files_own():
    mine = {"method": "uhkd", "control": "C0", "label": "C0: spatial MSE", "short": "spatial twin"}
    coded = {"method": "fdcmkd", "label": "as coded"}
    plan = tiny_plan(
        methods={"mine": mine, "coded": coded, "kd-m": {"method": "kd", "preset": "mdistiller"}},
        blocks__main__methods=["mine", "coded", "kd-m", "dkd", "scratch"],
    )
    methods = plan.suite.blocks[0].methods
    assert [m.short for m in methods] == ["spatial twin", "FD‡ (as coded)", "KD (mdistiller)", "DKD", "Scratch"]
    assert methods[0].label == "UHKD† (C0: spatial MSE)"
    with pytest.raises(KdbenchError, match=r"methods\.mine\.short: expected text"):
        tiny_plan(methods={"mine": mine | {"short": 3}}, blocks__main__methods=["mine"])


def test_a_preset_is_named_after_the_harness_that_its_weights_come_from():
    methods = {"kd-m": {"method": "kd", "preset": "mdistiller"}, "heads": {"method": "fdcmkd", "teacher": False}}
    plan = tiny_plan(methods=methods, blocks__main__methods=["scratch", "kd", "kd-m", "heads", "at"])
    assert [m.harness for m in plan.suite.blocks[0].methods] == [None, "OFA", "mdistiller", None, "mdistiller"]
    assert [n for n in registry.method_names() if not registry.method_info(n).harness] == ["scratch"]


@pytest.mark.parametrize(
    ("tree", "label"),
    [
        ({"method": "fitnet"}, "FitNet"),
        ({"method": "fitnet", "kd_weight": 1.0}, "FitNet+KD"),
        ({"method": "fitnet", "preset": "pat"}, "FitNet (pat)"),
        ({"method": "fitnet", "preset": "pat", "kd_weight": 0.0}, "FitNet (pat)"),
        ({"method": "pat"}, "PAT"),
        ({"method": "pat", "kd_weight": 0.5}, "PAT"),
        ({"method": "c2kd"}, "C2KD"),
        ({"method": "pkd", "kd_weight": 1.0}, "PKD+KD"),
        ({"method": "kd", "kd_weight": 2.0}, "KD"),
    ],
)
def test_only_a_kl_term_that_the_method_does_not_have_itself_is_in_its_label(tree, label):
    suite = tiny_plan(methods={"mine": tree}, blocks__main__methods=["mine"]).suite
    assert suite.blocks[0].methods[0].label == label


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
    raised = plan_keys.versions() | {"method kd": {"version": 99, "digest": "of another loss"}}
    monkeypatch.setattr(plan_keys, "versions", lambda: raised)
    code = keys()
    assert code[kd0] != base[kd0] and code[scratch0] == base[scratch0]


def test_comments_and_docstrings_are_not_code(tmp_path, monkeypatch):
    monkeypatch.setattr(plan_keys, "PACKAGE", tmp_path)
    digests = []
    for text in ('"""A."""\nx = 1\n', '"""B."""\n# why\nx   = 1\n', '"""A."""\nx = 2\n'):
        (tmp_path / "a.py").write_text(text)
        plan_keys._meaning.cache_clear()
        digests.append(plan_keys.code_hash("a.py"))
    plan_keys._meaning.cache_clear()
    assert digests[0] == digests[1] != digests[2]


def test_a_methods_numbers_depend_on_what_it_imports():
    assert {"frequency.py", "methods/kd.py", "methods/uhkd.py"} <= set(plan_keys.module_files("uhkd"))
    assert "methods/uhkd.py" not in plan_keys.module_files("fdcmkd")


def test_paths_are_the_documented_ones():
    plan = tiny_plan()
    assert plan.runs()["cnn-t--vit-s", "kd", 1].result.as_posix() == "results/tiny/runs/cnn-t--vit-s/kd/seed1.json"
    assert plan.teacher("cnn-t", 0).result.as_posix() == "results/tiny/teachers/cnn-t/seed0.json"
    assert [p.as_posix() for p in table_files(plan.suite)] == [f"tables/tiny.{s}" for s in ("md", "tex", "html", "csv")]


@pytest.mark.parametrize("path", sorted((REPOSITORY / "config").glob("*.yaml")), ids=lambda p: p.stem)
def test_the_suites_that_ship_are_right(path):
    plan = make_plan(load_suite(path))
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
    assert make_plan(load_suite(write_tiny(tmp_path))).jobs == tiny_plan().jobs
