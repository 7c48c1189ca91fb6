"""Which networks are measured and under which names; the measures themselves are tests/test_similarity.py's."""

from types import SimpleNamespace

import pytest
import torch

from kdbench.results.record import FINISHED
from kdbench.results.today import Stale, Today
from kdbench.run import measure
from kdbench.similarity import radial_power, rotated_similarity, stage_similarity
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


def test_the_ceiling_is_scratch_of_one_seed_and_the_next_in_the_bands_of_the_pair(fake):
    plan, job, maps, statuses = fake
    statuses["scratch"] = FINISHED
    plan.suite.blocks[0].methods += (SimpleNamespace(id="scratch"),)
    plan.suite.blocks[0].seeds = (0, 1, 2)
    ceiling = measure.stages(plan, job)["ceiling"]
    assert [r["seeds"] for r in ceiling[::12]] == [[0, 1], [1, 2]] and len(ceiling) == 2 * 4 * 3
    own = stage_similarity(maps["s", "scratch", 1], maps["s", "scratch", 2], permutations=0)
    assert [r["cka"] for r in ceiling[12:]] == pytest.approx([r["cka"] for r in own])
    assert set(ceiling[0]) == {"seeds", "stage", "band", "cka", "reason"}


def test_channels_are_measured_of_teachers_untrained_networks_and_students(fake, monkeypatch):
    plan, job, *_ = fake
    rng = torch.Generator().manual_seed(0)
    features = {(name, split): torch.randn(12, 16, generator=rng) for name in ("t", "s", "v") for split in range(2)}
    asked = []

    def read(plan, name, weights, batches, seed):
        asked.append((name, weights))
        shown = features[name, 0]
        return {"pooled_preact": shown, "pooled": shown.relu() if ends[name] else shown, "stages": ()}

    monkeypatch.setattr(measure, "_read", read)
    monkeypatch.setattr(measure, "_validation", lambda plan, name, *rest: features[name, 1])
    labels = SimpleNamespace(labels=lambda split: torch.arange(12) % 3)
    monkeypatch.setattr(measure, "_batches", lambda plan, job, seed: labels)
    inputs = {"t": "image", "s": "audio", "v": "audio"}
    plan.suite.models = {name: SimpleNamespace(name=name, input=kind) for name, kind in inputs.items()}
    plan.suite.blocks[0].pairs = (Pair("t", "v"), Pair("s", "v"))
    ends = {"t": True, "s": False, "v": True}
    found = measure.channels(plan, job)
    assert {r["treatment"] for r in found["after"]} == {"DC kept", "DC removed"} and len(found["rows"]) == 2 * 24
    shares = [(r["seed"], r["feature"]) for r in found["channel_mean"]]
    assert shares == [(0, "before"), (0, "after"), (1, "before"), (1, "after")]
    assert found["channel_mean"][1]["share_a"] > 0.2 > found["channel_mean"][0]["share_a"]
    # s and v read the same modality, so v is compared with its teacher t alone, and only after what finished.
    assert {r["networks"] for r in found["others"]} == {"t and s untrained", "t and v after kd"}
    assert ("t", None) in asked and ("s", None) in asked and len(found["others"]) == 2 * 2 * 6
    expected = rotated_similarity(features["t", 1], features["s", 1], features["t", 0], features["s", 0], seed=1)
    assert [r for r in found["rotated"] if r["seed"] == 1] == [{"seed": 1, **row} for row in expected]
    assert {r["treatment"] for r in found["cka"]} == {"DC kept", "DC removed"}
    ends["t"] = False
    found = measure.channels(plan, job)
    assert found["after"] == [] and {r["feature"] for r in found["channel_mean"]} == {"before"}
