"""Controls: an untrained teacher, one whose signals belong to other samples, and Scratch at a method's compute."""

from __future__ import annotations

import pytest
import torch
from conftest import run_jobs, tiny, tiny_plan
from safetensors.torch import load_file

from kdbench.conformance import networks as tiny_networks
from kdbench.plan import keys
from kdbench.plan.registry import load_method, method_names
from kdbench.plan.suite import check_suite
from kdbench.results.frames import collect
from kdbench.results.record import read_run
from kdbench.results.today import Today
from kdbench.run import training
from kdbench.terminal import cost
from kdbench.train import engine, networks
from kdbench.train.cohort import shuffled
from kdbench.train.member import new_member
from kdbench.types import KdbenchError, Signals

PAIR = "cnn-t--vit-s"
WITH_TEACHER = [name for name in method_names() if name != "scratch"]


def plan_for(names, **changes):
    return tiny_plan(blocks__main__methods=names, seeds=[0], **changes)


def refused(**changes) -> str:
    with pytest.raises(KdbenchError) as error:
        check_suite(tiny(**changes), "tiny", "tiny.yaml")
    return str(error.value)


# ------------------------------------------------------------------------------------------------------------- the plan


def test_a_control_is_its_method_but_for_the_teacher():
    plan = plan_for(
        ["scratch", "kd", "kd@untrained", "mine@shuffled"],
        methods={"mine": {"method": "kd", "temperature": 4.0}},
        blocks__main__table={"rows": ["kd", "kd@untrained"]},
        claims={"teacher": {"method": "kd", "control": "kd@untrained", "question": "Does KD need a trained teacher?"}},
    )
    method = {m.id: m for m in plan.suite.blocks[0].methods}
    assert [m.id for m in plan.suite.blocks[0].shown.methods] == ["kd", "kd@untrained"]
    assert method["kd@untrained"].label == "KD, untrained teacher" and method["kd@untrained"].group == "controls"
    assert method["kd@untrained"].stream == "kd" and method["mine@shuffled"].stream == "mine"
    assert method["mine@shuffled"].params["temperature"] == 4.0
    runs = {name: plan.runs()[PAIR, name, 0] for name in ("kd", "kd@untrained")}
    differ = {k for k in runs["kd@untrained"].config if runs["kd@untrained"].config[k] != runs["kd"].config.get(k)}
    assert differ == {"guide"} and runs["kd"].key != runs["kd@untrained"].key
    assert runs["kd"].key == plan_for(["kd"]).runs()[PAIR, "kd", 0].key
    assert len([job for job in plan.of("cohort") if job.pair.teacher]) == 1, "one cohort with the pair's other methods"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"blocks__main__methods": ["kd@untraind"]}, ["blocks.main.methods: kd: unknown control", "'untrained'"]),
        ({"blocks__main__methods": ["kd@"]}, ["unknown control ''; known: shuffled, untrained"]),
        ({"blocks__main__methods": ["kdd@untrained"]}, ["unknown method 'kdd'", "'kd'"]),
        ({"blocks__main__methods": ["kd@untrained@shuffled"]}, ["unknown control 'untrained@shuffled'"]),
        ({"blocks__main__methods": ["scratch@untrained"]}, ["blocks.main.methods: 'scratch'"]),
        (
            {"methods": {"heads": {"method": "fdcmkd", "teacher": False}}, "blocks__main__methods": ["heads@shuffled"]},
            ["'heads' has no teacher that could be 'shuffled'"],
        ),
        ({"blocks__main__methods": ["kd@shuffled", "kd@shuffled"]}, ["method 'kd@shuffled' is listed twice"]),
        (
            {"blocks__main__methods": ["kd@shuffled"], "recipes__student__batch_size": 1},
            ["kd@shuffled shuffles the samples", "batch_size of recipes.student must be at least 2"],
        ),
        ({"methods": {"kd@shuffled": {"method": "kd"}}}, ["'kd@shuffled' cannot be a name"]),
        ({"claims": {"a": {"method": "kd", "control": "kd@untrained", "question": "?"}}}, ["'kd@untrained'"]),
    ],
)
def test_what_is_no_control_is_refused(changes, words):
    told = refused(**changes)
    assert all(word in told for word in words), told


def test_controls_keep_the_default_weight_where_a_suite_tunes():
    tune = {"seed": 9, "pairs": ["cnn-t -> vit-s"], "factors": [1, 3]}
    plan = tiny_plan(blocks__main__methods=["scratch", "kd", "kd@untrained"], tune=tune)
    assert [m.id for m in plan.suite.blocks[0].methods] == ["scratch", "kd", "kd-tuned", "kd@untrained"]
    assert {run.method.id for job in plan.of("tune") for run in job.runs} == {"kd@1", "kd@3"}


# ---------------------------------------------------------------------------------------------------------- the signals


def made_signals(count):
    def rows(*shape):
        first = torch.arange(count, dtype=torch.float32).view(count, *[1] * len(shape))
        return first.expand(count, *shape).contiguous()

    maps, prefix = tuple(rows(2, 3, 3) for _ in range(4)), tuple(rows(1, 2) for _ in range(4))
    return Signals(rows(3), maps, prefix, rows(5), rows(5), torch.arange(count), rows(1, 8, 8))


@pytest.mark.parametrize("count", [2, 3, 4, 7, 100])
def test_no_sample_keeps_its_own_signals_and_all_move_together(count):
    given = made_signals(count)
    moved = shuffled(given)
    whose = moved.logits[:, 0].long()
    assert sorted(whose.tolist()) == list(range(count)) and not (whose == torch.arange(count)).any()
    for tensor in (*moved.stages, *moved.prefix, moved.pooled, moved.pooled_preact, moved.inputs):
        assert torch.equal(tensor.flatten(1)[:, 0].long(), whose)
    assert torch.equal(moved.index, torch.arange(count)), "or a memory bank would undo it"
    assert shuffled(Signals(given.logits)).stages is None


@pytest.mark.parametrize("count", [4, 6, 100])
def test_no_mixture_meets_the_signals_of_its_own_two_images(count):
    """Mixup gives sample i the images i and B-1-i."""
    whose = shuffled(made_signals(count)).logits[:, 0].long()
    images = [{i, count - 1 - i} for i in range(count)]
    assert not any(images[i] & images[j] for i, j in enumerate(whose.tolist()))


@pytest.mark.parametrize("name", WITH_TEACHER)
def test_every_method_gets_what_its_control_says(name, monkeypatch):
    """One step of a method and of both controls, on the same batch: what reaches it, and what comes of it."""
    cls = load_method(name)
    params = cls.Params()
    pair = tiny_networks.pairs_for(cls)[1]
    cohort = tiny_networks.tiny_cohort(params, *pair)
    index = torch.arange(cohort.recipe.batch_size)
    batch = cohort.batch(index, 0)
    seen, copies = {}, {}
    adopt = cls.adopt

    def seen_to_adopt(self, model, read):
        copies[guide] = model
        adopt(self, model, read)

    monkeypatch.setattr(cls, "adopt", seen_to_adopt)
    for guide in ("trained", "untrained", "shuffled"):
        member = new_member(cohort, cls, params, 0, guide=guide)
        before = {n: p.clone() for n, p in member.model.named_parameters()}
        start = {n: p.clone() for n, p in copies[guide].state_dict().items()} if guide in copies else None
        member.distiller.register_forward_pre_hook(lambda _, given, guide=guide: seen.update({guide: given[1:3]}))
        engine._step(cohort, member, batch)
        assert member.values[0].isfinite().all(), f"a term of {guide} is not finite"
        assert any(not torch.equal(p, before[n]) for n, p in member.model.named_parameters())
        if start:
            theirs = (cohort.untrained if guide == "untrained" else cohort.teacher).reader.model.state_dict()
            assert all(torch.equal(start[n], theirs[n]) for n in theirs)
    theirs, target = seen["trained"]
    untrained = networks.build(pair[0], tiny_networks.SHAPE, tiny_networks.CLASSES, 1).eval()
    with torch.no_grad():
        assert torch.allclose(seen["untrained"][0].logits, untrained(batch.inputs["image"]), atol=1e-6)
    whose = (seen["shuffled"][0].logits[:, None] == theirs.logits[None]).all(dim=2)
    assert (whose.sum(dim=1) == 1).all() and not whose.diagonal().any()
    assert torch.equal(seen["shuffled"][0].inputs, theirs.inputs[whose.int().argmax(dim=1)])
    assert all(torch.equal(own, target) for _, own in seen.values()), "the target stays the student's"


# --------------------------------------------------------------------------------------------------------- the training


def test_controls_train_beside_their_method_and_change_none_of_its_numbers(trained, monkeypatch):
    names = ["kd", "uhkd", "kd@untrained", "kd@shuffled", "uhkd@untrained"]
    plan = plan_for(names)
    run_jobs(plan, "cohort")
    weights = {name: load_file(plan.runs()[PAIR, name, 0].stem.with_suffix(".safetensors")) for name in names}
    digests = {name: read_run(plan.runs()[PAIR, name, 0].result)["hashes"]["weights"] for name in names}
    assert len(set(digests.values())) == len(names) and weights["kd"].keys() == weights["kd@shuffled"].keys()
    frame = collect(Today(plan), plan.suite.blocks[0])
    assert list(frame["status"]) == ["finished"] * len(names) and frame["agreement"].notna().all()

    built = []
    real = networks.build
    monkeypatch.setattr(networks, "build", lambda spec, *args: (built.append(spec.name), real(spec, *args))[1])
    for alone in (["kd"], ["kd@untrained"]):
        plan.runs()[PAIR, alone[0], 0].result.unlink()
        built.clear()
        run_jobs(plan_for(alone), "cohort")
        assert built.count("cnn-t") == 1 + ("@" in alone[0]), "untrained only where one is asked for"
        assert read_run(plan.runs()[PAIR, alone[0], 0].result)["hashes"]["weights"] == digests[alone[0]]


def test_agreement_is_with_the_trained_teacher(trained):
    import numpy as np

    plan = plan_for(["kd@untrained"])
    run_jobs(plan, "cohort")
    run = plan.runs()[PAIR, "kd@untrained", 0]
    own, teacher = (np.load(r.stem.with_suffix(".npz"))["test_logits"] for r in (run, plan.teacher("cnn-t", 0)))
    agreement = 100 * (own.argmax(1) == teacher.argmax(1)).mean()
    assert abs(agreement - read_run(run.result)["agreement"]["test"]) < 0.4


def test_the_cost_of_a_plan_knows_both_teachers(trained):
    """A run takes 12 steps of 100 samples and is evaluated twice, on 257 + 540."""
    spent = {}
    for names in (["kd"], ["kd", "kd@shuffled"], ["kd", "kd@untrained"]):
        plan = plan_for(names)
        spent[names[-1]] = cost._training(plan, plan.of("cohort"), {"cnn-t": 1000, "vit-s": 10})[1]
    student, teacher = 10 * (3 * 1200 + 2 * (257 + 540)), 1000 * 1200
    assert spent == {
        "kd": student + teacher,
        "kd@shuffled": 2 * student + teacher,
        "kd@untrained": 2 * student + 2 * teacher,
    }


# -------------------------------------------------------------------------------------------- Scratch at equal compute


def test_scratch_at_the_compute_of_a_method_belongs_to_the_pair_and_has_a_cohort_of_its_own():
    names = ["scratch", "kd", "mine", "scratch@kd", "scratch@mine", "scratch@heads"]
    methods = {"mine": {"method": "kd", "temperature": 4.0}, "heads": {"method": "fdcmkd", "teacher": False}}
    plan = plan_for(names, methods=methods)
    label = {m.id: m.label for m in plan.suite.blocks[0].methods}
    assert label["scratch@mine"] == "Scratch, compute of KD" and label["scratch@heads"].endswith("FD-CMKD‡")
    found = {run.method.id: run.key for run in plan.runs().values()}
    assert len(set(found.values())) == len(names) == len(found)
    assert found["scratch"] == plan_for(["scratch"]).runs()["none--vit-s", "scratch", 0].key
    assert [job.id for job in plan.of("cohort")] == [
        "none--vit-s/seeds-0",
        f"{PAIR}/seeds-0",
        f"{PAIR}/seeds-0.scratch@kd",
        f"{PAIR}/seeds-0.scratch@mine",
        "none--vit-s/seeds-0.scratch@heads",
    ]
    block = plan.suite.blocks[0]
    owners = [plan.run_of(block.pairs[0], method, 0, block.budget).pair.id for method in block.methods]
    assert owners == ["none--vit-s", PAIR, PAIR, PAIR, PAIR, "none--vit-s"]


def test_its_key_holds_what_the_other_method_is(monkeypatch):
    def key(**changes):
        given = {"methods": {"mine": {"method": "ofa", **changes}}}
        return plan_for(["scratch@mine"], **given).runs()[PAIR, "scratch@mine", 0].key

    defaults = key()
    assert key(eps=1.4) != defaults == key(eps=1.0)
    real = keys.version_of
    monkeypatch.setattr(keys, "version_of", lambda part: "9" if part == "method ofa" else real(part))
    assert key() != defaults


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("scratch@kdd", ["blocks.main.methods", "unknown method 'kdd'", "'kd'"]),
        ("scratch@scratch", ["'scratch' is a control or Scratch"]),
        ("scratch@kd@untrained", ["'kd@untrained' is a control or Scratch"]),
        ("scratch@scratch@kd", ["'scratch@kd' is a control or Scratch"]),
        ("scratch@shuffled", ["'scratch' has no teacher that could be 'shuffled'"]),
        ("kd@ofa", ["unknown control 'ofa'; known: shuffled, untrained"]),
    ],
)
def test_whose_compute_must_be_known(name, words):
    told = refused(blocks__main__methods=["kd", name])
    assert all(word in told for word in words), told


@pytest.mark.slow
def test_it_takes_as_many_operations_as_the_method(trained):
    names = ["scratch", "kd", "ofa", "scratch@kd", "scratch@ofa"]
    plan = plan_for(names)
    run_jobs(plan, "cohort")
    frame = collect(Today(plan), plan.suite.blocks[0]).set_index("method")
    assert list(frame["status"]) == ["finished"] * len(names)
    a_step = frame["operations_per_step"] + frame["teacher_operations_per_step"]
    spent = frame["steps"] * a_step
    for name in ("kd", "ofa"):
        own = spent[f"scratch@{name}"]
        assert abs(own - spent[name]) <= a_step["scratch"] / 2 and own > spent["scratch"]
        assert frame.loc[f"scratch@{name}", "teacher_operations_per_step"] == 0
        assert frame.loc[f"scratch@{name}", "operations_per_step"] == frame.loc["scratch", "operations_per_step"]
    assert frame.loc["kd", "steps"] == frame.loc["scratch", "steps"] == 12
    last = read_run(plan.runs()[PAIR, "scratch@ofa", 0].result)["history"][-1]
    assert last["lr"] < 1e-3 and last["step"] == frame.loc["scratch@ofa", "steps"], "a schedule of its own, to its end"


def test_it_is_na_where_the_method_is(trained, monkeypatch):
    monkeypatch.setattr(load_method("ofa"), "supports", classmethod(lambda cls, params, pair: "too wide"))
    plan = plan_for(["scratch@ofa"])
    run_jobs(plan, "cohort")
    record = read_run(plan.runs()[PAIR, "scratch@ofa", 0].result)
    assert record["status"] == "n/a" and record["reason"] == "too wide" and record["method"] == "scratch@ofa"
    assert not any(training.unfinished(Today(plan), job) for job in plan.of("cohort"))


def test_an_interrupted_one_goes_on_bit_for_bit(trained, monkeypatch):
    plan = plan_for(["scratch@kd"], checkpoint_seconds=0)
    run_jobs(plan, "cohort")
    run = plan.runs()[PAIR, "scratch@kd", 0]
    expected = read_run(run.result)
    run.result.unlink()
    real = engine._step

    def stops(cohort, member, batch):
        if cohort.steps == expected["history"][-1]["step"] and batch.step == 8:
            raise KeyboardInterrupt
        return real(cohort, member, batch)

    monkeypatch.setattr(engine, "_step", stops)
    with pytest.raises(KeyboardInterrupt):
        run_jobs(plan, "cohort")
    monkeypatch.setattr(engine, "_step", real)
    run_jobs(plan, "cohort")
    again = read_run(run.result)
    assert again["hashes"] == expected["hashes"] and again["gradient_shares"] == {"ce": 1.0}
    assert again["cost"]["operations_per_step"] == expected["cost"]["operations_per_step"] > 0
