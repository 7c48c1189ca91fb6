"""The two CIFAR-100 suites: what they say, and that they run from images to tables on a few images and steps.

Their real runs take a GPU. Whole, with two epochs on 300 images, tuning and figures among it, they take long on a CPU:
KDBENCH_SLOW=1 pytest -n 0 tests/test_cifar_suites.py
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from conftest import REPOSITORY, tiny

from kdbench import cli
from kdbench.plan.jobs import Plan, make_plan
from kdbench.plan.registry import load_method, method_names
from kdbench.plan.suite import check_suite, load_suite
from kdbench.results.record import read_run
from kdbench.run.data import run_data
from kdbench.run.everything import run_all
from kdbench.run.outputs import run_table
from kdbench.run.training import run_training
from kdbench.terminal import cost, published
from kdbench.train.cifar_networks import NETWORKS
from kdbench.train.cohort import learning_rate
from kdbench.train.member import clip_gradients, new_optimizer
from kdbench.types import KdbenchError, Recipe

SLOW = bool(os.environ.get("KDBENCH_SLOW"))
MDISTILLER = {"optimizer": "sgd", "epochs": 240, "batch_size": 64, "weight_decay": 5e-4, "crop": 4, "flip": True}


# ------------------------------------------------------------------------------------------------- what the suites say


def test_the_step_schedule_is_torchs_multi_step():
    recipe = load_suite("anchors-32").recipes["sgd"]
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=recipe.lr)
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, [150, 180, 210], gamma=0.1)
    for epoch in range(240):
        for step in (0, 778):
            rate = learning_rate(recipe, 779 * epoch + step, 779 * 240)
            assert rate == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-12)
        optimizer.step()
        schedule.step()
    assert rate == pytest.approx(5e-5)


def test_a_warm_up_goes_before_the_milestones():
    recipe = Recipe("r", 1.0, warmup=0.1, milestones=(0.5,))
    rates = [learning_rate(recipe, step, 20) for step in range(20)]
    assert rates == pytest.approx([0.5, *[1.0] * 9, *[0.1] * 10])


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"milestones": [0.75, 0.5]}, "milestones: expected rising shares of all steps"),
        ({"milestones": [0.5, 0.5]}, "milestones: expected rising shares of all steps"),
        ({"milestones": [150, 180]}, "milestones: expected rising shares of all steps, between 0 and 1, got"),
        ({"milestones": [0.5], "min_lr": 1e-4}, "give one of milestones and min_lr"),
        ({"milestones": 0.5}, "milestones: expected tuple"),
    ],
)
def test_mistaken_milestones(changes, told):
    recipe = {"lr": 0.1, "steps": 3} | changes
    with pytest.raises(KdbenchError, match=told):
        check_suite(tiny(recipes__student=recipe), "tiny", "tiny.yaml")


def test_the_anchors_optimizer_is_torchs_plain_sgd():
    """As mdistiller builds it: momentum without Nesterov, and weight decay on every parameter, norms among them."""
    recipe = load_suite("anchors-32").recipes["sgd"]
    ours, theirs = (NETWORKS["cifar_vgg8"](num_classes=3, in_chans=3) for _ in range(2))
    theirs.load_state_dict(ours.state_dict())
    one = new_optimizer(recipe, ours, torch.nn.Module())
    other = torch.optim.SGD(theirs.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
    for step in range(3):
        x = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(step))
        for model, optimizer in ((ours, one), (theirs, other)):
            optimizer.zero_grad()
            model(x).logsumexp(1).sum().backward()
            optimizer.step()
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.allclose(a, b, rtol=1e-4, atol=1e-6)


def test_a_recipe_decays_what_ofas_harness_does():
    """timm's rule on student and method as one module, which does not know the student's exemptions."""
    import timm
    from timm.optim import param_groups_weight_decay

    def decaying(groups: list[dict]) -> set[int]:
        return {id(p) for group in groups if group["weight_decay"] for p in group["params"]}

    student = timm.create_model("deit_tiny_distilled_patch16_224", img_size=32, patch_size=8, depth=1)
    own = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.LayerNorm(4))
    both = torch.nn.ModuleDict({"student": student, "own": own})
    wanted = decaying(param_groups_weight_decay(both, 0.05))
    for embeddings in (True, False):
        recipe = Recipe("r", lr=0.1, weight_decay=0.05, decay_embeddings=embeddings)
        decayed = decaying(new_optimizer(recipe, student, own).param_groups)
        exempt = {id(p) for p in (student.pos_embed, student.cls_token, student.dist_token)}
        assert exempt <= wanted and decayed == (wanted if embeddings else wanted - exempt)


@pytest.mark.parametrize("clip", ["apart", "together"])
def test_gradients_are_clipped_apart_or_together(clip):
    student, own, without = torch.nn.Linear(2, 1, bias=False), torch.nn.Linear(2, 1, bias=False), torch.nn.Linear(1, 1)
    student.weight.grad, own.weight.grad = torch.tensor([[6.0, 0.0]]), torch.tensor([[0.0, 8.0]])
    clip_gradients(Recipe("r", lr=0.1, clip=clip), student, own)
    assert student.weight.grad.norm() == 6, "off without clip_grad"
    recipe = Recipe("r", lr=0.1, clip_grad=5.0, clip=clip)
    clip_gradients(recipe, student, own)
    norms = [m.weight.grad.norm().item() for m in (student, own)]
    assert norms == pytest.approx({"apart": [5, 5], "together": [3, 4]}[clip], rel=1e-5)
    clip_gradients(recipe, student, without)
    assert student.weight.grad.norm().item() == pytest.approx(norms[0], rel=1e-5) and without.weight.grad is None


def test_students_of_three_families_follow_ofas_harness():
    for suite in map(load_suite, ("cifar100-32", "cifar100-32-short")):
        vits = [suite.recipes[m.recipe] for m in suite.models.values() if m.family == "vit"]
        clipped = [recipe for recipe in suite.recipes.values() if recipe.clip_grad]
        assert len(vits) == 2 and all(recipe.decay_embeddings for recipe in vits)
        assert [r.name for r in clipped] == ["vit-s", "mlp-s"] and {r.clip for r in clipped} == {"together"}


def test_clip_is_one_of_two_words():
    with pytest.raises(KdbenchError, match=r"recipes\.student\.clip: unknown value 'both'"):
        check_suite(tiny(recipes__student={"lr": 0.1, "steps": 3, "clip": "both"}), "tiny", "tiny.yaml")


def test_the_anchors_have_the_recipe_and_the_losses_of_mdistiller():
    suite = load_suite("anchors-32")
    for recipe in suite.recipes.values():
        assert {key: getattr(recipe, key) for key in MDISTILLER} == MDISTILLER
        assert recipe.momentum == 0.9 and recipe.warmup == recipe.label_smoothing == 0
        assert recipe.decay_all and not recipe.nesterov
    rates = {model.name: suite.recipes[model.recipe].lr for model in suite.models.values()}
    assert rates.pop("ShuffleNetV1") == 0.01 and set(rates.values()) == {0.05}
    params = {(p.student, m.method): m.params for b in suite.blocks for p in b.pairs for m in b.methods}
    wanted = {
        "kd": {"ce_weight": 0.1, "kd_weight": 0.9, "temperature": 4.0},
        "fitnet": {"variant": "hint", "weight": 100.0, "kd_weight": 0.0},
        "rkd": {"weight": 1.0, "distance_weight": 25.0, "angle_weight": 50.0, "kd_weight": 0.0},
        "crd": {"weight": 0.8, "negatives": 16384, "tau": 0.07, "momentum": 0.5, "width": 128, "kd_weight": 0.0},
        "dkd": {"alpha": 1.0, "temperature": 4.0, "warmup": 0.0833},
        "sp": {"weight": 3000.0, "feature": "map", "kd_weight": 0.0},
        "pkt": {"weight": 30000.0, "kd_weight": 0.0},
    }
    for student in ("resnet8x4", "ShuffleNetV1", "wrn-16-2", "vgg8"):
        for method, values in wanted.items():
            assert params[student, method].items() >= values.items(), (student, method)
    hints = {student: p["hint_stage"] for (student, method), p in params.items() if method == "fitnet"}
    assert hints == {"resnet8x4": 3, "ShuffleNetV1": 3, "wrn-16-2": 3, "vgg8": 2}
    betas = {student: p["beta"] for (student, method), p in params.items() if method == "dkd"}
    assert betas == {"resnet8x4": 8.0, "ShuffleNetV1": 8.0, "wrn-16-2": 6.0, "vgg8": 6.0}


def test_three_families_meet_on_seven_pairs_with_every_method_once():
    suite = load_suite("cifar100-32")
    (block,) = suite.blocks
    families = [(suite.models[p.teacher].family, suite.models[p.student].family) for p in block.pairs]
    assert len(set(families)) == 7 and len([1 for a, b in families if a != b]) == 6 and len(suite.seeds) == 5
    optimizers = {m.family: suite.recipes[m.recipe].optimizer for m in suite.models.values()}
    assert optimizers == {"cnn": "sgd", "vit": "adamw", "mlp": "adamw"}
    assert {m.method for m in block.methods} == {name for name in method_names() if not load_method(name).equal_widths}
    assert {"kd-tuned", "ofa-tuned", "uhkd-tuned"} < {m.id for m in block.methods}


def test_the_short_suite_is_the_same_networks_for_less_long():
    long, short = load_suite("cifar100-32"), load_suite("cifar100-32-short")
    assert short.models == long.models and short.blocks[0].pairs == long.blocks[0].pairs
    assert short.tune is None and len(short.seeds) == 1
    assert all(6 * short.recipes[name].epochs <= recipe.epochs for name, recipe in long.recipes.items())


# --------------------------------------------------------------------------------------------------- from end to end


@pytest.fixture
def images(tmp_path, monkeypatch) -> None:
    """300 images of noise in place of CIFAR-100's 50,000, and 100 to test, in a folder that the test stands in."""
    rng = np.random.default_rng(0)
    arrays = {"class_names": np.array([f"class {i:02}" for i in range(100)])}
    for part, count in (("train", 3), ("test", 1)):
        arrays[f"{part}_images"] = rng.integers(0, 256, (100 * count, 32, 32, 3), np.uint8)
        arrays[f"{part}_labels"] = np.repeat(np.arange(100), count)
    np.savez(tmp_path / "cifar100.npz", **arrays)
    monkeypatch.setenv("KDBENCH_DATA", str(tmp_path))
    monkeypatch.chdir(tmp_path)


def run_small(name: str, pairs: list[str] | None = None) -> Plan:
    """A suite from images to tables, one seed, on these pairs (by default all): two steps of eight images, untuned.

    Where KDBENCH_SLOW asks for it: two epochs on all images, with figures, and with tuning on the first pair, which is
    then the only one.
    """
    tree = yaml.safe_load((REPOSITORY / "config" / f"{name}.yaml").read_text())
    tree["seeds"] = tree["seeds"][:1]
    tree["data"] = {"cifar100": {"source": "cifar100"} | ({} if SLOW else {"test_limit": 10})}
    for recipe in tree["recipes"].values():
        recipe.pop("epochs")
        recipe |= {"epochs": 2} if SLOW else {"steps": 2, "batch_size": 8}
    for block in tree["blocks"].values():
        block["pairs"] = (pairs[:1] if SLOW else pairs) if pairs else block["pairs"]
    if SLOW and "tune" in tree:
        tree["tune"] |= {"pairs": pairs[:1], "factors": tree["tune"]["factors"][:2]}
    elif not SLOW:
        tree.pop("tune", None)
    plan = make_plan(check_suite(tree, name, name))
    if SLOW:
        run_all(plan)
        return plan
    for job in plan.of("data"):
        run_data(plan, job)
    for job in (*plan.of("teacher"), *plan.of("cohort")):
        run_training(plan, job, threads=1)
    run_table(plan)
    return plan


def statuses(plan: Plan) -> dict[tuple[str, str], str]:
    return {(pair, method): read_run(run.result)["status"] for (pair, method, _), run in plan.runs().items()}


@pytest.mark.slow
def test_the_anchors_run_and_stand_beside_the_published_values(images):
    plan = run_small("anchors-32")
    assert set(statuses(plan).values()) == {"finished"}
    assert "ShuffleNetV1" in Path("tables/anchors-32.md").read_text()
    runs = published.runs(plan)
    assert runs["last"].notna().all() and (runs["best"] >= runs["last"]).all()
    with pytest.raises(KdbenchError, match="it takes two finished seeds"):
        published.published(plan)


@pytest.mark.slow
def test_the_three_families_run_with_every_method(images):
    plan = run_small("cifar100-32", ["cnn-t -> vit-s", "vit-t -> mlp-s", "mlp-t -> cnn-s"])
    assert set(statuses(plan).values()) == {"finished"}
    assert "FD-CMKD" in Path("tables/cifar100-32.md").read_text()


@pytest.mark.slow
def test_the_cost_is_counted_before_anything_is_trained(images, capsys):
    """299 images are 4 steps of 64; a step takes a student three passes and its teacher one, an epoch ends with 101."""
    anchors = str(REPOSITORY / "config/anchors-32.yaml")
    plan = make_plan(load_suite(anchors))
    assert cli.main(["plan", anchors, "--cost"]) == 2
    assert "data cifar100 is not packed yet; run: kdbench data " in capsys.readouterr().err
    run_data(plan, plan.of("data")[0])
    counted = {each.name: (each.runs, each.steps, each.operations) for each in cost.counted(plan)}
    student, teacher, seen = 2 * 38_691_456, 2 * 1_083_040_768, 240 * 4 * 64
    alone = 3 * seen + 240 * 101
    for name, runs, operations in (
        ("cohort none--ShuffleNetV1", 5, 5 * alone * student),
        ("cohort resnet32x4--ShuffleNetV1", 35, 35 * alone * student + 5 * seen * teacher),
        ("teacher resnet32x4", 5, 5 * alone * teacher),
    ):
        assert counted[name] == (runs, 960, operations)
    assert sum(runs for runs, *_ in counted.values()) == 175
