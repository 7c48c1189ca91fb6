"""Which networks are measured and under which names; the measures themselves are tests/test_similarity.py's."""

from types import SimpleNamespace

import pytest
import torch

from kdbench.results.record import FINISHED
from kdbench.results.today import Stale, Today
from kdbench.run import measure
from kdbench.similarity import radial_power
from kdbench.types import KdbenchError, Pair


@pytest.fixture
def fake(monkeypatch):
    """A plan of two seeds whose networks are random maps; `statuses` says how a method's run ended."""
    statuses, maps = {"kd": FINISHED, "ofa": "diverged"}, {}

    def read(plan, name, weights, batches, seed):
        who = (name, weights, seed)
        generator = torch.Generator().manual_seed(len(maps))
        return {"stages": maps.setdefault(who, tuple(torch.randn(12, 2, 8, 8, generator=generator) for _ in range(4)))}

    monkeypatch.setattr(measure, "_batches", lambda plan, job, seed: None)
    monkeypatch.setattr(measure, "_trained_teacher", lambda today, model, seed: SimpleNamespace(method="teacher"))
    monkeypatch.setattr(measure, "load_weights", lambda run: run.method)
    monkeypatch.setattr(measure, "_read", read)
    monkeypatch.setattr(Today, "record", lambda self, run: {"status": statuses[run.method]})
    methods = tuple(SimpleNamespace(id=m) for m in statuses)
    block = SimpleNamespace(name="main", methods=methods, seeds=(0, 1), budget=1)
    plan = SimpleNamespace(
        suite=SimpleNamespace(blocks=(block,), models={"s": SimpleNamespace(name="s")}),
        run_of=lambda pair, method, seed, budget: SimpleNamespace(
            key="k", threads=1, method=method.id, result=SimpleNamespace(method=method.id)
        ),
    )
    return plan, SimpleNamespace(block="main", pair=Pair("t", "s")), maps, statuses


def test_stages_name_teacher_student_before_and_after_what_finished(fake):
    plan, job, maps, _ = fake
    measured = measure.stages(plan, job)
    assert {(r["seed"], r["method"]) for r in measured["rows"]} == {(s, m) for s in (0, 1) for m in ("before", "kd")}
    assert len(measured["rows"]) == 2 * 2 * 4 * 3
    whose = [(r["seed"], r["role"], r["model"], r["method"]) for r in measured["spectra"] if r["stage"] == 4]
    assert whose == [
        (seed, *network)
        for seed in (0, 1)
        for network in (("teacher", "t", None), ("student", "s", "before"), ("student", "s", "kd"))
    ]
    after = next(r for r in measured["spectra"] if (r["seed"], r["method"], r["stage"]) == (1, "kd", 2))
    assert after["power"] == radial_power(maps["s", "kd", 1][1])["power"]


def test_a_network_without_stages_has_rows_with_a_reason_and_no_spectra(fake):
    plan, job, maps, _ = fake
    maps |= {("t", "teacher", seed): () for seed in (0, 1)}
    measured = measure.stages(plan, job)
    assert {r["reason"] for r in measured["rows"]} == {measure.NO_STAGES}
    assert {r["role"] for r in measured["spectra"]} == {"student"}


def test_a_stale_result_is_refused(fake, monkeypatch):
    plan, job, *_ = fake

    def stale(self, run):
        raise Stale("its result comes from other data")

    monkeypatch.setattr(Today, "record", stale)
    with pytest.raises(KdbenchError, match="its result comes from other data; run snakemake"):
        measure.stages(plan, job)
