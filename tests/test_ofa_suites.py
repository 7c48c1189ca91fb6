"""The suites of OFA-KD's tables: their pairs, their recipes against the released files, their networks' stages."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
import yaml
from conftest import REPOSITORY
from PIL import Image
from test_workflow import job_counts, snakemake

from kdbench.data.prepare import prepare_data
from kdbench.plan.jobs import make_plan
from kdbench.plan.registry import load_method
from kdbench.plan.suite import check_suite, load_suite
from kdbench.results.record import read_run
from kdbench.run.data import run_data
from kdbench.run.training import run_training
from kdbench.train import networks
from kdbench.train.batches import Batches
from kdbench.train.cohort import Cohort, learning_rate, load_teacher
from kdbench.train.engine import _step
from kdbench.train.member import new_member
from kdbench.types import DataSpec, Recipe

PAIRS = {
    "ofa-cifar100": """swin-t resnet18, vit-s resnet18, mixer-b16 resnet18, swin-t mobilenetv2, vit-s mobilenetv2,
        mixer-b16 mobilenetv2, convnext-t deit-t, mixer-b16 deit-t, convnext-t swin-p, mixer-b16 swin-p,
        convnext-t resmlp-s12, swin-t resmlp-s12""",
    "ofa-imagenet": """deit-t-timm resnet18, swin-t resnet18, mixer-b16 resnet18,
        deit-t-timm mobilenetv2, swin-t mobilenetv2, mixer-b16 mobilenetv2,
        resnet50 deit-t, convnext-t deit-t, mixer-b16 deit-t, resnet50 swin-n, convnext-t swin-n,
        mixer-b16 swin-n, resnet50 resmlp-s12, convnext-t resmlp-s12, swin-t resmlp-s12""",
}
METHODS = ["scratch", "fitnet", "cc", "rkd", "crd", "kd", "dkd", "dist", "ofa"]
CARDS = 8

DEFAULTS = {"momentum": 0.9, "clip_grad": None, "warmup_lr": 1e-4, "reprob": 0.0, "aa": "", "mixup": 0.0, "cutmix": 0.0}
"""Of train.py at f7bb896, as far as the files rely on them."""
RELEASED = {
    ("ofa-cifar100", "cnn"): """epochs: 300
batch_size: 128
lr: 0.05
min_lr: 1.0e-3
opt: sgd
weight_decay: 2.0e-3
sched: cosine
warmup_epochs: 3
color_jitter: 0
smoothing: 0.1""",
    ("ofa-cifar100", "vit_mlp"): """epochs: 300
batch_size: 128
lr: 5.0e-4
min_lr: 1.0e-5
opt: adamw
weight_decay: 0.05
sched: cosine
warmup_epochs: 20
warmup_lr: 5.0e-7
clip_grad: 5.0
smoothing: 0.1
color_jitter: 0.4
reprob: 0.25
aa: rand-m9-mstd0.5-inc1
mixup: 0.8
cutmix: 1.0""",
    ("ofa-imagenet", "cnn"): """epochs: 100
batch_size: 64
lr: 0.1
min_lr: 1.0e-6
opt: sgd
weight_decay: 1.0e-4
sched: step
decay_epochs: 30
warmup_epochs: 3
color_jitter: 0
smoothing: 0.1""",
    ("ofa-imagenet", "vit_mlp"): """epochs: 300
batch_size: 128
lr: 5.0e-4
min_lr: 1.0e-6
opt: adamw
weight_decay: 0.05
sched: cosine
warmup_epochs: 20
warmup_lr: 5.0e-7
clip_grad: 5.0
drop: 0
drop_path: 0
smoothing: 0.1
color_jitter: 0.4
reprob: 0.25
aa: rand-m9-mstd0.5-inc1
mixup: 0.8
cutmix: 1.0
model_ema: true
model_ema_decay: [0.99996]""",
}
"""configs/*/*.yaml of Hao840/OFAKD at f7bb896, with numbers in the notation that YAML 1.1 reads as such."""


@pytest.mark.parametrize("name", PAIRS)
def test_the_pairs_are_the_papers(name):
    suite = load_suite(name)
    (block,) = suite.blocks
    assert [p.id for p in block.pairs] == [" ".join(p.split()).replace(" ", "--") for p in PAIRS[name].split(",")]
    assert [m.id for m in block.methods] == METHODS
    ofa = next(m for m in block.methods if m.id == "ofa").params
    wanted = {"ofa-cifar100": (0.1, 1.0), "ofa-imagenet": (1.0, 1.5)}[name]
    assert (ofa["ofa_loss_weight"], ofa["eps"]) == wanted


@pytest.mark.parametrize(("name", "file"), RELEASED)
def test_the_recipes_have_every_knob_of_the_released_files(name, file):
    theirs = DEFAULTS | yaml.safe_load(RELEASED[name, file])
    steps = theirs["sched"] == "step"
    decay = range(theirs.get("decay_epochs", 0), theirs["epochs"], theirs.get("decay_epochs") or theirs["epochs"])
    wanted = Recipe(
        file,
        lr=theirs["lr"],
        lr_per=CARDS * theirs["batch_size"],
        optimizer=theirs["opt"],
        min_lr=0.0 if steps else theirs["min_lr"],  # timm's steps know no floor
        milestones=tuple(epoch / theirs["epochs"] for epoch in decay) if steps else (),
        momentum=theirs["momentum"],
        weight_decay=theirs["weight_decay"],
        decay_embeddings=True,
        batch_size=theirs["batch_size"],
        accumulate=CARDS,
        epochs=theirs["epochs"],
        warmup_epochs=theirs["warmup_epochs"],
        warmup_lr=theirs["warmup_lr"],
        clip_grad=theirs["clip_grad"],
        clip="together" if theirs["clip_grad"] else "apart",
        label_smoothing=theirs["smoothing"],
        resized_crop=0.08,
        interpolation="random",  # train.py's --train-interpolation
        flip=True,
        auto_augment=theirs["aa"],
        color_jitter=0.0,  # timm leaves it out beside RandAugment
        erasing=theirs["reprob"],
        mixup=theirs["mixup"],
        cutmix=theirs["cutmix"],
        ema_decay=theirs.get("model_ema_decay", [0.0])[0],
    )
    recipe = load_suite(name).recipes[file]
    assert recipe == wanted and recipe.peak_lr == theirs["lr"] and recipe.global_batch == CARDS * theirs["batch_size"]


def test_teachers_have_the_recipe_of_the_fine_tuning():
    suite = load_suite("ofa-cifar100")
    recipe = suite.recipes["teacher"]
    assert (recipe.lr, recipe.min_lr, recipe.warmup_lr) == (5e-5, 1e-6, 5e-8)
    given = {m.name: m.pretrained for m in suite.models.values() if m.recipe == "teacher"}
    assert given == dict.fromkeys(["swin-t", "vit-s", "mixer-b16", "convnext-t"], True)


EVALUATED = {"resnet18": (0.875, "bilinear"), "resnet50": (0.95, "bicubic")}
EVALUATED |= dict.fromkeys(["mobilenetv2", "convnext-t", "mixer-b16", "resmlp-s12"], (0.875, "bicubic"))
EVALUATED |= dict.fromkeys(["swin-t", "swin-n", "swin-p", "vit-s", "deit-t", "deit-t-timm"], (0.9, "bicubic"))
"""Crop and interpolation of timm 0.6.5's configurations, and its defaults for networks without one (Swin-N, Swin-P)."""


@pytest.mark.parametrize("name", ["ofa-cifar100", "ofa-cifar100-as-logged", "ofa-imagenet"])
def test_networks_are_shown_224_px_as_timm_0_6_5_showed_them(name):
    suite = load_suite(name)
    assert {data.args["size"] for data in suite.data.values()} == {224}
    for model in suite.models.values():
        view = networks.view(model)
        assert (view.crop, view.interpolation) == EVALUATED[model.name], model.name


def test_what_was_logged_has_the_logged_rate_and_steps():
    """The log prints 48 iterations an epoch and lr 1.895e-2 in epoch 216; the released file would have 9.88e-3."""
    logged, released = load_suite("ofa-cifar100-as-logged"), load_suite("ofa-cifar100")
    recipe, steps = logged.recipes["cnn"], 49_900 // logged.recipes["cnn"].global_batch
    assert steps == 48
    rates = [learning_rate(s.recipes["cnn"], 216 * 48 + 17, 300 * 48) for s in (logged, released)]
    assert [f"{rate:.3e}" for rate in rates] == ["1.895e-02", "9.883e-03"]
    assert recipe.lr == 0.1 and logged.recipes["vit_mlp"].ema_decay == 0.99996
    assert logged.blocks == released.blocks
    others = {name for name in logged.models if logged.models[name] != released.models[name]}
    assert others == {"swin-p"} and logged.models["swin-p"].args["drop_path_rate"] == 0.0


def test_each_pair_is_a_suite_whose_runs_are_those_of_the_whole():
    whole = make_plan(load_suite("ofa-cifar100"))
    for pair in whole.suite.blocks[0].pairs:
        one = make_plan(load_suite(f"ofa-cifar100-{pair.teacher}-{pair.student}"))
        assert {kind: len(one.of(kind)) for kind in ("teacher", "cohort")} == {"teacher": 1, "cohort": 2}
        keys = {place: run.key for place, run in one.runs().items()}
        assert len(keys) == len(METHODS) and keys.items() <= {p: r.key for p, r in whole.runs().items()}.items()


@pytest.mark.parametrize(
    ("name", "jobs"),
    [
        ("ofa-cifar100", {"data": 1, "teacher": 12, "cohort": 3 * (12 + 5), "stages": 12}),
        pytest.param(
            "ofa-cifar100-swin-t-resnet18",
            {"data": 1, "teacher": 1, "cohort": 2, "stages": 1},
            marks=pytest.mark.slow,
        ),
        ("ofa-imagenet", {"data": 1, "teacher": 5, "cohort": 15 + 5, "stages": 15}),
    ],
)
def test_snakemake_plans_them(tmp_path, monkeypatch, name, jobs):
    monkeypatch.setenv("KDBENCH_DATA", str(tmp_path))
    pictures(tmp_path / "imagenet", 1)
    counts = job_counts(snakemake(REPOSITORY, "-n", "--forceall", "--config", f"suite={name}"))
    assert counts == jobs | {"table": 1, "figure": 1, "all": 1, "total": sum(jobs.values()) + 3}


def pictures(folder, count: int) -> None:
    rng = np.random.default_rng(0)
    for split, label, i in ((s, c, i) for s in ("train", "test") for c in ("n01", "n02") for i in range(count)):
        place = folder / split / label
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (224, 224, 3), dtype=np.uint8)).save(place / f"{i}.JPEG", format="JPEG")


STAGES = {
    "resnet18": [(64, 56, 56), (128, 28, 28), (256, 14, 14), (512, 7, 7)],
    "resnet50": [(256, 56, 56), (512, 28, 28), (1024, 14, 14), (2048, 7, 7)],
    "mobilenetv2": [(24, 56, 56), (32, 28, 28), (96, 14, 14), (1280, 7, 7)],
    "convnext-t": [(96, 56, 56), (192, 28, 28), (384, 14, 14), (768, 7, 7)],
    "swin-t": [(96, 56, 56), (192, 28, 28), (384, 14, 14), (768, 7, 7)],
    "swin-n": [(64, 56, 56), (128, 28, 28), (256, 14, 14), (512, 7, 7)],
    "swin-p": [(48, 56, 56), (96, 28, 28), (192, 14, 14), (384, 7, 7)],
    "deit-t": [(192, 14, 14)] * 4,
    "vit-s": [(384, 14, 14)] * 4,
    "mixer-b16": [(768, 14, 14)] * 4,
    "resmlp-s12": [(384, 14, 14)] * 4,
}


@pytest.mark.slow
@pytest.mark.parametrize("name", STAGES)
def test_stages_at_224_px_are_those_of_ofas_code(name):
    models = load_suite("ofa-imagenet").models | load_suite("ofa-cifar100").models
    side = networks.reader(models[name], (224, 224, 3), 10, 0).side
    assert list(side.stages) == STAGES[name]
    assert side.prefix == (name in ("deit-t", "vit-s"))


@pytest.fixture(scope="module")
def batches(tmp_path_factory) -> Batches:
    """Noise at 224 px, of two classes."""
    place = tmp_path_factory.mktemp("noise")
    pictures(place / "noise", 8)
    spec = DataSpec("noise", "jpegfolder", {"folder": "noise", "val_share": 0.25})
    return Batches(prepare_data(spec, place / "packed", place), {"image"}, torch.device("cpu"))


@pytest.mark.parametrize(
    ("name", "pair", "methods"),
    [
        pytest.param("ofa-imagenet", "deit-t-timm--mobilenetv2", ["ofa"], id="sample"),
        *(
            pytest.param(name, pair.id, METHODS, marks=pytest.mark.slow, id=f"{name}-{pair.id}")
            for name in PAIRS
            for pair in load_suite(name).blocks[0].pairs
        ),
    ],
)
def test_methods_take_two_steps_at_224_px(batches, name, pair, methods):
    suite = load_suite(name)
    shown, spec = (suite.models[model] for model in pair.split("--"))
    recipe = dataclasses.replace(suite.recipes[spec.recipe], batch_size=4, accumulate=1)
    shape = batches.shape["image"]

    teacher = load_teacher(shown, None, batches, batches.device, 0)
    cohort = Cohort(spec, recipe, batches, batches.device, 0, teacher)
    taken = [cohort.batch(torch.arange(4 * step, 4 * step + 4), step) for step in range(2)]
    before = networks.build(spec, shape, batches.classes, 0).state_dict()
    for method in (m for m in suite.blocks[0].methods if m.id in methods):
        cls = load_method(method.method)
        member = new_member(cohort, cls, cls.Params(**method.params), 0)
        for batch in taken:
            _step(cohort, member, batch)
        assert torch.isfinite(torch.stack(member.values)).all() and len(member.values) == 2, method.id
        after = member.model.state_dict()
        assert all(torch.isfinite(value).all() for value in after.values()), method.id
        assert any(not torch.equal(value, before[key]) for key, value in after.items()), method.id


@pytest.mark.slow
def test_a_recipe_of_each_kind_trains_at_224_px(tmp_path, monkeypatch):
    """Two steps of two batches on a folder of pictures, from files to results, and finite."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KDBENCH_DATA", str(tmp_path))
    pictures(tmp_path / "imagenet", 4)
    tree = yaml.safe_load((REPOSITORY / "config/ofa-imagenet.yaml").read_text())
    tree["data"]["imagenet"]["val_share"] = 0.25
    for name, family in {"deit-t-timm": "vit_mlp", "resnet50": "cnn"}.items():  # their weights are not here
        model = tree["models"][name]
        tree["models"][name] = {"timm": model["timm"].split(".")[0], "data": "imagenet", "recipe": family}
    tree["workers"] = 1
    for recipe in tree["recipes"].values():
        recipe |= {"batch_size": 2, "accumulate": 2, "epochs": 2, "warmup_epochs": 1}
    tree["blocks"]["main"] |= {"pairs": ["deit-t-timm -> resnet18", "resnet50 -> deit-t"], "methods": ["kd", "ofa"]}
    plan = make_plan(check_suite(tree, "small", "small.yaml"))
    for job in plan.of("data"):
        run_data(plan, job)
    for job in (*plan.of("teacher"), *plan.of("cohort")):
        run_training(plan, job, threads=1)
    records = [read_run(run.result) for run in plan.runs().values()]
    assert {record["status"] for record in records} == {"finished"} and len(records) == 4
    assert all("ema_test" in r["accuracy"] for r in records if r["student"] == "deit-t")
    assert all(np.isfinite(list(r["history"][-1]["losses"].values())).all() for r in records)
