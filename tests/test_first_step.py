"""What is measured at a student's first step: right numbers, and no other number moves."""

from __future__ import annotations

import contextlib
import io

import pytest
import torch
from conftest import run_jobs, tiny_plan
from torch import nn

from kdbench.conformance.networks import ALL_PAIRS, BATCH, SHAPE, tiny_cohort
from kdbench.plan.registry import load_method
from kdbench.results.frames import collect
from kdbench.results.record import read_run
from kdbench.results.today import Today
from kdbench.train import engine
from kdbench.train.first_step import gradient_shares
from kdbench.train.member import Member, new_member
from kdbench.train.operations import forward_operations

METHODS = ["scratch", "kd", "ofa", "crd", "c2kd", "uhkd"]


def stepped(name, pair=ALL_PAIRS[1], steps=1, **changes):
    """A cohort of tiny networks, and a member after some steps."""
    cls = load_method(name)
    params = cls.Params(**changes)
    cohort = tiny_cohort(params, *pair)
    member = new_member(cohort, cls, params, 0)
    for step in range(steps):
        engine._step(cohort, member, cohort.batch(torch.arange(BATCH) + step, step))
    return cohort, member


def test_shares_are_those_of_the_norms():
    student, other = nn.Linear(4, 1, bias=False), nn.Linear(4, 1, bias=False)
    up, down = torch.tensor([3.0, 0.0, 4.0, 0.0]), torch.tensor([0.0, 0.0, -15.0, 0.0])
    weight = student.weight[0]
    terms = {
        "up": weight @ up,
        "down": weight @ down,
        "own": other.weight.sum(),
        "both": 0.0 * weight.sum() + other.weight.sum(),
        "fixed": torch.tensor(2.0),
    }
    shares = gradient_shares(terms, student)
    assert shares.tolist() == pytest.approx([5 / 20, 15 / 20, 0, 0, 0])
    assert student.weight.grad is None and other.weight.grad is None
    sum(terms.values()).backward()
    assert torch.equal(student.weight.grad[0], up + down), "the graph is still whole"
    assert gradient_shares({"fixed": torch.tensor(1.0)}, student).isnan().all(), "recorded as unknown"


def test_operations_are_those_of_the_products():
    """A Linear without a gradient for its input: one product forward, one backward; two operations a multiplication."""
    layers = nn.Sequential(nn.Linear(7, 5), nn.ReLU(), nn.Linear(5, 3))
    _, member = stepped("scratch", steps=0)
    for step in (0, 1):
        with member.counted(step):
            layers(torch.randn(BATCH, 7)).sum().backward()
    products = 2 * BATCH * 7 * 5 + 3 * BATCH * 5 * 3
    assert member.operations == 2 * products


def test_a_step_counts_its_student_its_method_and_its_teacher():
    cohort, scratch = stepped("scratch")
    student = BATCH * forward_operations(scratch.model.eval(), SHAPE)
    assert 2.5 * student < scratch.operations < 3 * student, "the first layer needs no gradient of its input"
    assert cohort.teacher_operations == 0
    costs = {}
    for name in ("kd", "ofa", "c2kd"):
        cohort, member = stepped(name)
        costs[name] = member.operations
    teacher = BATCH * forward_operations(cohort.teacher.reader.model, SHAPE)
    assert cohort.teacher_operations == teacher > 0
    assert costs["kd"] == scratch.operations < costs["ofa"]
    assert costs["c2kd"] > scratch.operations + 2.5 * teacher, "it trains a copy of the teacher"


@pytest.mark.parametrize("name", METHODS)
def test_measuring_moves_no_number(name, monkeypatch):
    _, measured = stepped(name, steps=3)
    monkeypatch.setattr(Member, "counted", lambda *_: contextlib.nullcontext())
    monkeypatch.setattr(engine, "gradient_shares", lambda *_: None)
    _, plain = stepped(name, steps=3)
    assert measured.operations > 0 and plain.operations == 0
    for module in ("model", "distiller"):
        ours, theirs = (getattr(member, module).state_dict() for member in (measured, plain))
        assert all(torch.equal(ours[key], theirs[key]) for key in theirs)
    assert all(map(torch.equal, measured.values, plain.values)) and len(measured.values) == 3
    assert torch.equal(measured.rng["cpu"], plain.rng["cpu"])


def test_only_the_first_step_is_measured(monkeypatch):
    asked = []
    real = engine.gradient_shares
    monkeypatch.setattr(engine, "gradient_shares", lambda *given: (asked.append(1), real(*given))[1])
    _, once = stepped("kd", steps=1)
    _, often = stepped("kd", steps=4)
    assert len(asked) == 2 and once.operations == often.operations
    assert torch.equal(once.gradient_shares, often.gradient_shares)


def test_a_resumed_run_keeps_what_was_measured():
    cohort, member = stepped("ofa", steps=2)
    file = io.BytesIO()
    torch.save(member.state(), file)
    file.seek(0)
    resumed = new_member(cohort, load_method("ofa"), member.distiller.params, 0, fresh=False)
    resumed.restore(torch.load(file, weights_only=True))
    assert resumed.operations == member.operations > 0
    assert torch.equal(resumed.gradient_shares, member.gradient_shares)


def test_records_and_frames_hold_it(trained):
    names = ["scratch", "kd", "ofa", "bad"]
    plan = tiny_plan(blocks__main__methods=names, seeds=[0], methods={"bad": {"method": "kd", "kd_weight": 1e39}})
    run_jobs(plan, "cohort")
    records = {run.method.id: read_run(run.result) for run in plan.runs().values()}
    assert records["scratch"]["gradient_shares"] == {"ce": 1.0} and records["bad"]["gradient_shares"]["ce"] is None
    for name in ("kd", "ofa"):
        shares = records[name]["gradient_shares"]
        assert shares.keys() == records[name]["history"][0]["losses"].keys() and sum(shares.values()) == pytest.approx(
            1
        )
    costs = {name: record["cost"] for name, record in records.items()}
    assert costs["scratch"]["operations_per_step"] == costs["kd"]["operations_per_step"]
    assert costs["scratch"]["teacher_operations_per_step"] == 0 < costs["kd"]["teacher_operations_per_step"]
    frame = collect(Today(plan), plan.suite.blocks[0]).set_index("method")
    assert frame.loc["kd", "operations_per_step"] == costs["kd"]["operations_per_step"]
    assert frame.loc["kd", "teacher_operations_per_step"] == costs["kd"]["teacher_operations_per_step"]
    assert frame.loc["kd", "steps"] == 12 and frame.loc["ofa", "gradient_shares"] == records["ofa"]["gradient_shares"]
