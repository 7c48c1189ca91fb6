"""What a recipe does itself: timm's schedules, mean gradients of several batches, averaged weights, exact resume."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from conftest import run_jobs, tiny, tiny_plan
from test_engine import batches_of, interrupted, plan_for, weights_of

from kdbench.conformance import networks as tiny_networks
from kdbench.methods import kd, scratch
from kdbench.plan.jobs import Plan, make_plan
from kdbench.plan.models import recipe_of
from kdbench.plan.suite import check_suite
from kdbench.report.text import step_facts
from kdbench.results.record import read_run
from kdbench.terminal import cost
from kdbench.train import engine, networks
from kdbench.train.cohort import Cohort, learning_rate
from kdbench.train.member import new_member, new_optimizer
from kdbench.types import KdbenchError, ModelSpec, Recipe

# isort: split
from timm.optim import param_groups_weight_decay
from timm.scheduler import CosineLRScheduler, PolyLRScheduler, StepLRScheduler

STEPS_PER_EPOCH = 48
WORDS = "rand-m9-mstd0.5-inc1"


# ------------------------------------------------------------------------------------------------------- learning rates


@pytest.mark.parametrize(
    ("keys", "theirs"),
    [
        (
            {"lr": 0.05, "min_lr": 1e-3, "epochs": 300, "warmup_epochs": 3, "warmup_lr": 1e-4},
            lambda o: CosineLRScheduler(o, 300, lr_min=1e-3, warmup_t=3, warmup_lr_init=1e-4),
        ),
        (
            {"lr": 5e-4, "min_lr": 1e-5, "epochs": 300, "warmup_epochs": 20, "warmup_lr": 5e-7},
            lambda o: CosineLRScheduler(o, 300, lr_min=1e-5, warmup_t=20, warmup_lr_init=5e-7),
        ),
        (
            {"lr": 0.1, "milestones": (0.3, 0.6, 0.9), "epochs": 100, "warmup_epochs": 3, "warmup_lr": 1e-4},
            lambda o: StepLRScheduler(o, 30, 0.1, warmup_t=3, warmup_lr_init=1e-4, warmup_prefix=False),
        ),
        ({"lr": 0.1, "epochs": 7, "warmup_epochs": 0}, lambda o: CosineLRScheduler(o, 7)),
        (
            {"lr": 1e-2, "min_lr": 1e-4, "epochs": 20, "warmup": 0.0, "poly": 0.9},
            lambda o: PolyLRScheduler(o, 20, power=0.9, lr_min=1e-4),
        ),
    ],
)
def test_the_schedules_are_timms(keys, theirs):
    """As OFA's harness drives them: once an epoch."""
    ours = Recipe("r", **keys)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], ours.lr)
    schedule = theirs(optimizer)
    for epoch in range(ours.epochs):
        schedule.step(epoch)
        for step in (0, STEPS_PER_EPOCH - 1):
            rate = learning_rate(ours, epoch * STEPS_PER_EPOCH + step, ours.epochs * STEPS_PER_EPOCH)
            assert rate == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-12)


@pytest.mark.parametrize("beside", [{"steps": 9}, {"epochs": 9, "milestones": [0.5]}, {"epochs": 9, "warmup": 0.1}])
def test_a_power_of_the_epochs_left_is_the_whole_schedule(beside):
    with pytest.raises(KdbenchError, match=r"poly: goes by epochs; give these, warmup: 0, and no other schedule"):
        recipe_of("r", {"lr": 0.1, "poly": 0.9, "warmup": 0.0} | beside, "recipes.r")


def test_a_budget_stretches_the_warm_up_of_epochs():
    longer = Recipe("r", lr=1.0, epochs=10, warmup_epochs=3).times(2.5)
    assert (longer.epochs, longer.warmup_epochs) == (25, 7.5)
    assert learning_rate(longer, 5 * 4, 25 * 4) == pytest.approx(5 / 7.5)


def test_the_rate_follows_the_global_batch_and_stands_in_the_record(trained):
    student = {"lr": 0.01, "lr_per": 512, "batch_size": 100, "accumulate": 2, "steps": 6, "warmup": 0.5}
    plan = plan_for(["kd"], seeds=[0], recipes__student=student)
    assert plan.suite.recipes["student"].peak_lr == pytest.approx(0.01 * 200 / 512)
    run_jobs(plan, "cohort")
    record = read_run(plan.runs()["cnn-t--vit-s", "kd", 0].result)
    assert record["step"] == {"samples": 200, "peak_lr": pytest.approx(0.01 * 200 / 512)}
    assert [h["step"] for h in record["history"]] == [5, 6], "five steps of 200 in 1,000 samples"
    assert record["history"][0]["lr"] == pytest.approx(0.01 * 200 / 512 * (1 + np.cos(np.pi / 3)) / 2)


# ----------------------------------------------------------------------------------------------- several batches a step


class Hard(tiny_networks.Noise):
    """With hard targets at every step."""

    def train(self, index, recipe, seed, step):
        return super().train(index, recipe, seed, 0)


def gradients(batch_size: int, accumulate: int, method) -> tuple[torch.Tensor, list]:
    """Of a first step on 24 samples without dropout, and the batches it is made of."""
    params, models = method.Params(), tiny_networks.MODELS
    student = models["student-vit"]
    student = dataclasses.replace(student, args={k: v for k, v in student.args.items() if k != "drop_rate"})
    own = Recipe("r", lr=0.1, steps=2, warmup=0.0, batch_size=batch_size, accumulate=accumulate)
    cohort = tiny_networks.tiny_cohort(params, models["teacher-mlp"], student, recipe=own)
    cohort = dataclasses.replace(cohort, batches=Hard(tiny_networks.SHAPE, tiny_networks.CPU))
    member = new_member(cohort, method, params, 0)
    batches = list(cohort.step_batches(torch.arange(24) % tiny_networks.TRAIN_SIZE, 0))
    for batch in batches:
        engine._step(cohort, member, batch)
    return torch.cat([p.grad.flatten() for p in member.model.parameters()]), [member, batches]


@pytest.mark.parametrize("method", [scratch.Method, kd.Method])
def test_the_mean_gradient_is_that_of_one_large_batch(method):
    one, _ = gradients(24, 1, method)
    several, (member, batches) = gradients(8, 3, method)
    assert len(batches) == 3 and {b.step for b in batches} == {0} and {b.progress for b in batches} == {0.0}
    assert (one - several).norm() < 1e-6 * one.norm()
    assert len(member.values) == 3 and member.optimizer.state[next(member.model.parameters())]["step"] == 1


def test_the_operations_of_a_step_are_those_of_all_its_batches():
    whole, parts = (gradients(*sizes, kd.Method)[1][0].operations for sizes in ((24, 1), (8, 3)))
    assert whole == parts > 0


def test_the_cost_of_a_plan_knows_batches_and_averages(trained):
    """Four steps of 2 x 50 samples are not an epoch; the student and its average are evaluated once, on 257 + 540."""
    student = {"lr": 0.1, "steps": 4, "batch_size": 50, "accumulate": 2, "ema_decay": 0.9}
    plan = plan_for(["kd"], seeds=[0], recipes__student=student)
    steps, spent = cost._training(plan, plan.of("cohort"), {"cnn-t": 1000, "vit-s": 10})
    assert steps == 4 and spent == 10 * (3 * 400 + 2 * (257 + 540)) + 1000 * 400


def test_batches_of_a_step_are_augmented_each_for_itself(trained):
    """As on several cards: what is mixed is mixed within a batch."""
    plan = plan_for(["kd"], seeds=[0], recipes__student__accumulate=2, recipes__student__mixup=0.8)
    cohort = Cohort(plan.suite.models["vit-s"], plan.suite.recipes["student"], batches_of(plan), torch.device("cpu"), 0)
    first, second = cohort.step_batches(torch.arange(200), 3)
    for part, batch in enumerate((first, second)):
        index = torch.arange(100) + 100 * part
        inputs, target = cohort.batches.train(index, cohort.recipe, 0, 6 + part)
        assert torch.equal(batch.inputs["image"], inputs["image"]) and torch.equal(batch.target, target)
        assert torch.equal(batch.index, index) and (batch.step, batch.part) == (3, part)


def test_a_member_that_diverges_tells_its_step(trained, monkeypatch):
    real = kd.Method.forward

    def diverging(self, student, teacher, target, progress):
        scale = float("nan") if student.index[0] == diverging.where else 1.0
        return {name: scale * term for name, term in real(self, student, teacher, target, progress).items()}

    plan = plan_for(["kd"], seeds=[0], recipes__student__accumulate=2)
    diverging.where = batches_of(plan).order(0, 0)[500]
    monkeypatch.setattr(kd.Method, "forward", diverging)
    run_jobs(plan, "cohort")
    record = read_run(plan.runs()["cnn-t--vit-s", "kd", 0].result)
    assert record["status"] == "diverged" and record["reason"].endswith("was not finite at step 3")


def test_a_table_says_what_a_step_is():
    keys = {"accumulate": 8, "ema_decay": 0.9}
    plan = tiny_plan(recipes__student={"lr": 0.1, "steps": 3, "batch_size": 100} | keys)
    assert step_facts(plan.suite, plan.suite.blocks[0]) == [
        "Recipe student: a step is the mean gradient of 8 batches of 100; BatchNorm, mixing and losses that relate "
        "samples see 100.",
        "Recipe student: cells are of the weights, not of their average.",
    ]
    assert step_facts(tiny_plan().suite, tiny_plan().suite.blocks[0]) == []


@pytest.mark.slow
@pytest.mark.parametrize("schedule", [{"steps": 4}, {"epochs": 2, "warmup_epochs": 1}])
def test_scratch_at_equal_compute_keeps_batches_and_schedule(trained, schedule):
    student = {"lr": 0.01, "batch_size": 100, "accumulate": 4} | schedule
    plan = plan_for(["scratch", "kd", "scratch@kd"], seeds=[0], recipes__student=student)
    run_jobs(plan, "cohort")
    found = {m: read_run(plan.runs()[p, m, 0].result) for p, m, _ in plan.runs()}
    spent = found["kd"]["cost"]
    own = found["scratch"]["cost"]["operations_per_step"]
    times = (spent["operations_per_step"] + spent["teacher_operations_per_step"]) / own
    assert found["scratch@kd"]["history"][-1]["step"] == round(4 * times)
    if "epochs" in schedule:
        assert found["scratch@kd"]["history"][0]["lr"] == 0 and found["scratch@kd"]["history"][-1]["lr"] > 0


# ----------------------------------------------------------------------------------------------------- averaged weights


@pytest.mark.parametrize("student", ["cnn-s", "vit-s"])
def test_averaged_weights_follow_their_formula_and_are_evaluated_beside(trained, monkeypatch, student):
    """e <- 0.7 e + 0.3 w after each step, BatchNorm's statistics among them, from the student's first weights."""
    plan = plan_for(["kd"], f"cnn-t -> {student}", seeds=[0], recipes__student__ema_decay=0.7)
    seen, kept = [], {}
    real = engine._step

    def spy(cohort, member, batch):
        kept.setdefault("start", {k: v.clone() for k, v in member.model.state_dict().items()})
        real(cohort, member, batch)
        seen.append({k: v.clone() for k, v in member.model.state_dict().items()})
        kept.update(member=member, cohort=cohort)

    monkeypatch.setattr(engine, "_step", spy)
    run_jobs(plan, "cohort")
    found = kept["member"].average.module.state_dict()
    for name, value in kept["start"].items():
        if not value.is_floating_point():
            assert torch.equal(found[name], seen[-1][name])
            continue
        wanted = value.double()
        for after in seen:
            wanted = 0.7 * wanted + 0.3 * after[name].double()
        assert torch.allclose(found[name].double(), wanted, rtol=1e-4, atol=1e-6), name
    assert any(not torch.equal(found[name], seen[-1][name]) for name in found)

    record = read_run(plan.runs()[f"cnn-t--{student}", "kd", 0].result)
    other = networks.build(plan.suite.models[student], (8, 8, 1), 10, 0)
    other.load_state_dict(found)
    [(_, scores)] = kept["cohort"].scores([other], "test")
    assert record["accuracy"]["ema_test"] == scores["test_accuracy"]
    last = record["history"][-1]
    assert last["ema_test_accuracy"] == record["accuracy"]["ema_test"] and last["ema_val_nll"] > 0
    plain = plan_for(["kd"], f"cnn-t -> {student}", seeds=[0])
    run_jobs(plain, "cohort")
    assert weights_of(plain, f"cnn-t--{student}")["kd", 0] == record["hashes"]["weights"], "the student is what it was"
    without = read_run(plain.runs()[f"cnn-t--{student}", "kd", 0].result)
    assert "ema_test" not in without["accuracy"] and without["accuracy"]["test"] == record["accuracy"]["test"]


# --------------------------------------------------------------------------------------------------------------- resume

STUDENT = {"lr": 5e-3, "batch_size": 25}
KNOBS = {
    "accumulate": {"accumulate": 4},
    "averaged weights": {"ema_decay": 0.9},
    "schedule": {"warmup_epochs": 1, "warmup_lr": 1e-3, "lr_per": 512, "epochs": 3, "batch_size": 125},
    "augmentation": {"auto_augment": "rand-m9-mstd0.5-inc1", "erasing": 0.25, "resized_crop": 0.5, "flip": True},
    "mixing": {"mixup": 0.8, "cutmix": 1.0, "mixup_prob": 0.7, "mixup_switch_prob": 0.3, "label_smoothing": 0.1},
    "clipping": {"clip_grad": 0.5, "clip": "together", "decay_embeddings": True},
}
KNOBS["all"] = {key: value for keys in list(KNOBS.values()) for key, value in keys.items()}
DROPPING = {"patch_size": 2, "embed_dim": 8, "depth": 4, "num_heads": 2, "drop_path_rate": 0.3}


def resumable(knob: str, methods: list[str]) -> Plan:
    """With drop path in every one; five steps, or as many epochs as a schedule asks for."""
    student = STUDENT | KNOBS[knob]
    student |= {} if "epochs" in student else {"steps": 5}
    changes = {"recipes__student": student, "models__vit-s__args": DROPPING, "seeds": [0], "checkpoint_seconds": 0}
    return plan_for(methods, **changes)


@pytest.mark.parametrize("knob", [pytest.param(k, marks=() if k == "all" else pytest.mark.slow) for k in KNOBS])
def test_a_run_goes_on_bit_for_bit_alone_or_in_a_cohort(trained, monkeypatch, knob):
    plan = resumable(knob, ["kd", "ofa"])
    run_jobs(plan, "cohort")
    records = {m: read_run(run.result) for (_, m, _), run in plan.runs().items()}
    for run in plan.runs().values():
        run.result.unlink()
    alone = resumable(knob, ["ofa"])
    interrupted(alone, monkeypatch, at_step=3)
    run_jobs(alone, "cohort")
    again = read_run(alone.runs()["cnn-t--vit-s", "ofa", 0].result)
    for name in ("history", "accuracy", "gradient_shares"):
        assert again[name] == records["ofa"][name]
    assert again["hashes"]["weights"] == records["ofa"]["hashes"]["weights"]


@pytest.mark.slow
def test_a_step_cut_short_between_two_batches_is_taken_anew(trained, monkeypatch):
    plan = resumable("accumulate", ["kd", "ofa"])
    run_jobs(plan, "cohort")
    expected = weights_of(plan)
    for run in plan.runs().values():
        run.result.unlink()

    class Gone(BaseException):
        pass

    real = engine._step

    def stops(cohort, member, batch):
        if (batch.step, batch.part, member.run.method.id) == (3, 2, "ofa"):
            raise Gone
        real(cohort, member, batch)

    with monkeypatch.context() as patch, pytest.raises(Gone):
        patch.setattr(engine, "_step", stops)
        run_jobs(plan, "cohort")
    run_jobs(plan, "cohort")
    assert weights_of(plan) == expected


# --------------------------------------------------------------------------------------------------------- weight decay


@pytest.mark.parametrize(
    "network",
    [
        ("resnet18", {}),
        ("mobilenetv2_100", {}),
        ("deit_tiny_patch16_224", {"depth": 2}),
        ("SwinTransformer", {"embed_dim": 16, "depths": [2, 2, 2, 2], "num_heads": [2, 4, 8, 16]}),
        ("resmlp_12_224", {}),
    ],
)
def test_students_of_ofas_pairs_decay_as_in_its_harness(network):
    name, args = network
    family = {"r": "cnn", "m": "cnn"}.get(name[0], "vit")
    student = networks.build(ModelSpec("s", name, "d", "r", args=args, family=family), (224, 224, 3), 5, 0)
    own = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 1), torch.nn.BatchNorm2d(4))
    both = torch.nn.ModuleDict({"student": student, "own": own})

    def decaying(groups: list[dict]) -> set[int]:
        return {id(p) for group in groups if group["weight_decay"] for p in group["params"]}

    ours = new_optimizer(Recipe("r", lr=0.1, weight_decay=0.05, decay_embeddings=True), student, own)
    assert decaying(ours.param_groups) == decaying(param_groups_weight_decay(both, 0.05))


# ------------------------------------------------------------------------------------------------------------- mistakes


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ({"accumulate": 0}, "accumulate: must be positive, got 0"),
        ({"lr_per": 0}, "lr_per: must be positive, got 0"),
        ({"batch_size": 100, "accumulate": 11}, r"must be at most 1000, .*, got 100 x accumulate 11"),
        ({"warmup_lr": 1e-5}, "warmup_lr: is where warmup_epochs begin"),
        ({"warmup_epochs": 1}, r"warmup_epochs: must lie in \[0, epochs\), in a recipe of epochs, got 1"),
        ({"steps": None, "epochs": 3, "warmup_epochs": 3}, r"warmup_epochs: must lie in \[0, epochs\)"),
        ({"ema_decay": 1.0}, r"ema_decay: must lie in \[0, 1\)"),
        ({"mixup_prob": 1.5}, r"mixup_prob: must lie in \[0, 1\]"),
        ({"mixup_switch_prob": -0.5}, r"mixup_switch_prob: must lie in \[0, 1\]"),
        ({"auto_augment": "rand-m9"}, "such as rand-m9-mstd0.5-inc1; got 'rand-m9'"),
        ({"auto_augment": "rand-m11-mstd0.5-inc1"}, "a magnitude of 0 to 10"),
        ({"auto_augment": WORDS, "rand_augment": 9}, "give one of rand_augment"),
    ],
)
def test_mistaken_recipes(keys, told):
    tree = {key: value for key, value in ({"lr": 0.1, "steps": 3} | keys).items() if value is not None}
    with pytest.raises(KdbenchError, match=told):
        check_suite(tiny(recipes__student=tree), "tiny", "tiny.yaml")


def test_an_option_that_is_off_is_in_no_key():
    off = {"lr_per": None, "accumulate": 1, "warmup_epochs": None, "warmup_lr": 0.0, "ema_decay": 0.0}
    off |= {"auto_augment": "", "mixup_prob": 1.0, "mixup_switch_prob": 0.5}
    student = tiny()["recipes"]["student"]

    def key(**more) -> str:
        tree = tiny(recipes__student=student | more)
        return make_plan(check_suite(tree, "tiny", "tiny.yaml")).runs()["cnn-t--vit-s", "kd", 0].key

    plain = key()
    assert key(**{k: v for k, v in off.items() if v is not None}) == plain
    on = {"lr_per": 512, "accumulate": 2, "ema_decay": 0.9, "auto_augment": WORDS, "mixup_prob": 0.5}
    assert len({plain, *(key(**{k: v}) for k, v in on.items())}) == 1 + len(on)
