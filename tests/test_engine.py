"""The promises of a cohort: equal terms, independence of company, exact resume, faults that stay where they are."""

from __future__ import annotations

import itertools
import json
import os
import random
import signal
import time
from collections import Counter

import pytest
import torch
from conftest import in_child, run_jobs, tiny_plan, wait_for
from safetensors.torch import load_file

from kdbench import checkpoint
from kdbench.data.packed import load_packed
from kdbench.files import sha256_file, write_json
from kdbench.methods import fdcmkd, kd
from kdbench.plan.paths import data_folder, tuned_file
from kdbench.results.frames import collect
from kdbench.results.record import read_run
from kdbench.results.today import Today
from kdbench.run import locks, training
from kdbench.run.training import run_training, unfinished
from kdbench.train import engine, networks
from kdbench.train.batches import Batches
from kdbench.train.cohort import Cohort, learning_rate, load_teacher
from kdbench.train.member import new_optimizer
from kdbench.types import KdbenchError, Recipe

METHODS = ["kd", "ofa", "uhkd", "fdcmkd"]


def weights_of(plan, pair_id="cnn-t--vit-s"):
    """{(method, seed): hash of the trained weights} of a plan's runs on one pair."""
    return {
        (method, seed): read_run(run.result)["hashes"]["weights"]
        for (pair, method, seed), run in plan.runs().items()
        if pair == pair_id
    }


def plan_for(names, pair="cnn-t -> vit-s", **changes):
    return tiny_plan(blocks__main__methods=names, blocks__main__pairs=[pair], **changes)


def batches_of(plan) -> Batches:
    return Batches(load_packed(data_folder(plan.suite, "digits", 0)), {"image"}, torch.device("cpu"))


# --------------------------------------------------------------------------------------------------------- equal terms


def test_same_start_and_same_batches_for_every_method(trained, monkeypatch):
    plan = plan_for(["kd", "ofa"], seeds=[0])
    seen: dict[str, list] = {"kd": [], "ofa": []}
    starts = {}
    real = engine._step

    def spy(cohort, member, batch):
        starts.setdefault(member.run.method.id, {k: v.clone() for k, v in member.model.state_dict().items()})
        seen[member.run.method.id].append(batch.inputs["image"].sum().item())
        return real(cohort, member, batch)

    monkeypatch.setattr(engine, "_step", spy)
    run_jobs(plan, "cohort")
    assert len(seen["kd"]) == 12 and seen["kd"] == seen["ofa"]
    assert all(torch.equal(starts["kd"][name], starts["ofa"][name]) for name in starts["kd"])


def test_batches_depend_on_seed_and_step_and_cover_an_epoch(trained):
    plan = tiny_plan()
    batches, recipe = batches_of(plan), plan.suite.recipes["student"]
    order = batches.order(0, 0)
    assert torch.equal(order.sort().values, torch.arange(1000))
    assert torch.equal(order, batches.order(0, 0)) and not torch.equal(order, batches.order(1, 0))
    assert not torch.equal(order, batches.order(0, 1))
    first = batches.train(order[:100], recipe, 0, 0)[0]["image"]
    assert torch.equal(first, batches.train(order[:100], recipe, 0, 0)[0]["image"])
    assert not torch.equal(first, batches.train(order[:100], recipe, 0, 1)[0]["image"])
    assert not torch.equal(first, batches.train(order[:100], recipe, 1, 0)[0]["image"])


def test_normalised_pixels_have_mean_0_and_sd_1(trained):
    pixels = torch.cat(list(batches_of(tiny_plan()).evaluation("image", "train")))
    assert abs(pixels.mean().item()) < 1e-4 and abs(pixels.std().item() - 1) < 1e-3


def test_label_smoothing_sums_to_one(trained):
    batches = batches_of(tiny_plan())
    _, target = batches.train(torch.arange(5), Recipe("r", lr=1.0, steps=1, label_smoothing=0.1), 0, 0)
    assert torch.allclose(target.sum(1), torch.ones(5)) and torch.allclose(target.max(1).values, torch.tensor(0.91))


# ------------------------------------------------------------------------------------------------------------- company


@pytest.mark.parametrize(
    ("pair", "precision"),
    [
        ("cnn-t -> vit-s", "fp32"),
        # bf16 is 8 to 20 times slower where a CPU lacks units for it.
        pytest.param("cnn-t -> cnn-s", "bf16", marks=pytest.mark.slow),
        pytest.param("cnn-t -> mlp-s", "bf16", marks=pytest.mark.slow),
    ],
)
def test_alone_or_in_company_bit_for_bit(trained, monkeypatch, pair, precision):
    """Dropout (vit), drop-path and BatchNorm (cnn), projectors with BatchNorm of their own (ofa, uhkd)."""
    monkeypatch.setattr(training, "slow_bf16", lambda: None)
    changes = {"precision": precision, "seeds": [0], "recipes__student__steps": 6}
    together = plan_for(METHODS, pair, **changes)
    run_jobs(plan_for(["scratch"], pair, **changes), "teacher")
    run_jobs(together, "cohort")
    pair_id = pair.replace(" -> ", "--")
    expected = weights_of(together, pair_id)
    assert len(set(expected.values())) == len(METHODS)
    for run in together.runs().values():
        run.result.unlink()
    for method in METHODS:
        run_jobs(plan_for([method], pair, **changes), "cohort")
    assert weights_of(together, pair_id) == expected


def test_a_students_scratch_run_does_not_depend_on_its_pairs(trained):
    """What has no teacher is trained once a student and stands under all of its pairs."""
    plan = tiny_plan(blocks__main__pairs=["cnn-t -> vit-s", "cnn-t -> cnn-s"])
    assert [j.id for j in plan.of("cohort") if j.pair.teacher is None] == [
        "none--vit-s/seeds-0",
        "none--vit-s/seeds-1",
        "none--cnn-s/seeds-0",
        "none--cnn-s/seeds-1",
    ]


# -------------------------------------------------------------------------------------------------------------- faults


def test_a_diverging_member_leaves_and_shows(trained):
    plan = plan_for(["kd", "bad"], methods={"bad": {"method": "kd", "kd_weight": 1e39}}, seeds=[0])
    run_jobs(plan, "cohort")
    bad = read_run(plan.runs()["cnn-t--vit-s", "bad", 0].result)
    assert bad["status"] == "diverged" and "'kd' was not finite at step 1" in bad["reason"]
    good = read_run(plan.runs()["cnn-t--vit-s", "kd", 0].result)
    alone = plan_for(["kd"], seeds=[0])
    good_hash = good["hashes"]["weights"]
    plan.runs()["cnn-t--vit-s", "kd", 0].result.unlink()
    run_jobs(alone, "cohort")
    assert weights_of(alone) == {("kd", 0): good_hash}
    frame = collect(Today(plan), plan.suite.blocks[0])
    assert list(frame[frame.method == "bad"].status) == ["diverged"]


def test_a_failing_member_costs_its_neighbours_nothing(trained, monkeypatch):
    plan = plan_for(["kd", "ofa"], seeds=[0])
    real = kd.Method.forward

    def fails_at_half(self, student, teacher, target, progress):
        if progress >= 0.5:
            raise ValueError("out of luck")
        return real(self, student, teacher, target, progress)

    with monkeypatch.context() as patch:
        patch.setattr(kd.Method, "forward", fails_at_half)
        with pytest.raises(KdbenchError, match=r"cnn-t--vit-s/kd seed 0 failed: ValueError: out of luck"):
            run_jobs(plan, "cohort")
    ofa, kd_run = (plan.runs()["cnn-t--vit-s", m, 0] for m in ("ofa", "kd"))
    assert read_run(ofa.result)["status"] == "finished" and not kd_run.result.exists()
    written = ofa.result.stat().st_mtime_ns
    run_jobs(plan, "cohort")
    assert ofa.result.stat().st_mtime_ns == written and kd_run.result.exists()
    assert all(job.output.exists() for job in plan.of("cohort"))


def test_a_method_added_to_a_finished_suite_trains_alone(trained):
    run_jobs(plan_for(["scratch", "kd"]), "cohort")
    before = {r.result: r.result.stat().st_mtime_ns for r in plan_for(["scratch", "kd"]).runs().values()}
    more = plan_for(["scratch", "kd", "fdcmkd"])
    old = plan_for(["scratch", "kd"])
    assert [j.key for j in more.of("cohort")[:2]] == [j.key for j in old.of("cohort")[:2]], "scratch is not asked again"
    assert [j.key for j in more.of("cohort")[2:]] != [j.key for j in old.of("cohort")[2:]]
    run_jobs(more, "cohort")
    assert all(path.stat().st_mtime_ns == written for path, written in before.items())
    assert all(run.result.exists() for run in more.runs().values())


def test_an_unsupported_pair_is_na_with_its_reason(trained):
    changes = {"models__vit-s__args": {"patch_size": 2, "embed_dim": 16, "depth": 2, "num_heads": 4}, "seeds": [0]}
    plan = plan_for(["kd", "uhkd"], **changes)
    run_jobs(plan, "cohort")
    record = read_run(plan.runs()["cnn-t--vit-s", "uhkd", 0].result)
    assert record["status"] == "n/a" and record["reason"]


@pytest.mark.slow
def test_methods_per_job_and_seeds_per_job_change_no_number(trained):
    plain = plan_for(METHODS, recipes__student__steps=4)
    run_jobs(plain, "cohort")
    expected = weights_of(plain)
    for run in plain.runs().values():
        run.result.unlink()
    cut = plan_for(METHODS, recipes__student__steps=4, methods_per_job=2, seeds_per_job=2)
    assert [j.id for j in cut.of("cohort")] == [f"cnn-t--vit-s/seeds-0-1.part-{i}" for i in (0, 1)]
    run_jobs(cut, "cohort")
    assert weights_of(cut) == expected


# -------------------------------------------------------------------------------------------------------------- resume


def test_resume_after_kill_at_any_moment_bit_for_bit(trained):
    changes = {"seeds": [0], "checkpoint_seconds": 0}
    plan = plan_for(METHODS, **changes)
    run_jobs(plan, "cohort")
    expected = weights_of(plan)
    undisturbed = read_run(plan.runs()["cnn-t--vit-s", "uhkd", 0].result)["history"]
    for run in plan.runs().values():
        run.result.unlink()
    moments, killed = random.Random(0), 0
    state = trained / "results/tiny/state/cnn-t--vit-s/seed0/checkpoint"
    while killed < 8:
        pid = in_child(lambda: run_jobs(plan, "cohort"))
        time.sleep(moments.uniform(0.05, 0.8))
        os.kill(pid, signal.SIGKILL)
        killed += wait_for(pid) == -signal.SIGKILL
        if all(run.result.exists() for run in plan.runs().values()):
            break
    run_jobs(plan, "cohort")
    assert killed >= 3
    assert weights_of(plan) == expected
    history = read_run(plan.runs()["cnn-t--vit-s", "uhkd", 0].result)["history"]
    assert history == undisturbed
    assert not state.exists(), "a finished cohort leaves no checkpoint"


def interrupted(plan, monkeypatch, at_step=8, job=None):
    """Train a job, or all cohorts, until a step and stop there as if the machine had gone; the checkpoint stays."""

    class Gone(BaseException):
        pass

    real = engine._step

    def stops(cohort, member, batch):
        if batch.step == at_step:
            raise Gone
        return real(cohort, member, batch)

    with monkeypatch.context() as patch, pytest.raises(Gone):
        patch.setattr(engine, "_step", stops)
        run_training(plan, job, threads=1) if job else run_jobs(plan, "cohort")


def test_resume_with_other_threads_is_refused(trained, monkeypatch):
    plan = plan_for(["scratch", "kd"], seeds=[0], checkpoint_seconds=0)
    job = next(job for job in plan.of("cohort") if job.pair.teacher is None)
    interrupted(plan, monkeypatch, job=job)
    other = plan_for(["scratch", "kd"], seeds=[0], checkpoint_seconds=0, threads=2)
    same = other.job("cohort", job.id)
    with pytest.raises(KdbenchError, match=r"threads 1 and cannot go on with threads 2.* delete .*seed0 to start"):
        run_training(other, same, threads=2)
    torch.set_num_threads(1)
    run_training(plan, job, threads=1)
    assert not unfinished(Today(plan), job) and unfinished(Today(other), same), "finished with one thread, not with two"
    assert job.key != same.key, "so that Snakemake sees it"
    with pytest.raises(KdbenchError, match="threads: 2, but this job got 1"):
        run_training(other, other.of("cohort")[0], threads=1)
    torch.set_num_threads(1)


def test_a_state_in_another_layout_is_started_anew(trained, monkeypatch):
    """What an older kdbench kept of a member is not what this one reads."""
    plan = plan_for(["kd"], seeds=[0], checkpoint_seconds=0)
    run_jobs(plan, "cohort")
    expected, run = weights_of(plan), plan.runs()["cnn-t--vit-s", "kd", 0]
    run.result.unlink()
    interrupted(plan, monkeypatch)
    file = trained / "results/tiny/state/cnn-t--vit-s/seed0/checkpoint"
    state = checkpoint.load(file)
    del state["layout"], state["members"]["kd"]["values"]
    checkpoint.save(file, state)
    run_jobs(plan, "cohort")
    assert weights_of(plan) == expected


def test_a_state_of_other_data_or_another_teacher_is_not_gone_on_with(trained, monkeypatch):
    plan = plan_for(["kd"], seeds=[0], checkpoint_seconds=0)
    interrupted(plan, monkeypatch)
    meta = plan.of("data")[0].output
    text = meta.read_text()
    saved = checkpoint.load(trained / "results/tiny/state/cnn-t--vit-s/seed0/checkpoint")["keys"]["kd"]
    meta.write_text(text.replace(json.loads(text)["sha256"], "0" * 64))
    with pytest.raises(KdbenchError, match="teacher cnn-t of seed 0: its result comes from other data"):
        unfinished(Today(plan), plan.of("cohort")[0])
    teacher = Today(plan_for(["kd"], seeds=[0])).keyed(plan.teacher("cnn-t", 0))
    for name, changed in (("data", {}), ("teacher", {"weights": "1" * 64})):
        if name == "teacher":
            meta.write_text(text)
        with monkeypatch.context() as patch:
            patch.setattr(
                Today, "teacher", lambda *_, changed=changed: teacher | {"hashes": teacher["hashes"] | changed}
            )
            [run] = unfinished(Today(plan), plan.of("cohort")[0])
        assert saved != run.state_key
    [run] = unfinished(Today(plan), plan.of("cohort")[0])
    assert saved == run.state_key


def test_some_methods_by_hand_leave_the_state_of_their_neighbours(trained, monkeypatch):
    plan = plan_for(["kd", "ofa"], seeds=[0], checkpoint_seconds=0)
    interrupted(plan, monkeypatch)
    steps, real = Counter(), engine._step

    def counting(cohort, member, batch):
        steps[member.run.method.id] += 1
        return real(cohort, member, batch)

    monkeypatch.setattr(engine, "_step", counting)
    [job] = plan.of("cohort")
    run_training(plan, job, threads=1, methods=["kd"])
    run_training(plan, job, threads=1)
    assert steps == {"kd": 12, "ofa": 4}
    assert not list((trained / "results/tiny/state").rglob("checkpoint*"))


def test_an_edited_method_starts_anew_while_the_others_go_on(trained, monkeypatch):
    plan = plan_for(["kd", "ofa"], seeds=[0], checkpoint_seconds=0)
    interrupted(plan, monkeypatch)
    steps = Counter()
    real = engine._step
    edited = plan_for(["kd", "ofa"], seeds=[0], checkpoint_seconds=0, methods={"kd": {"temperature": 2.0}})

    def counting(cohort, member, batch):
        steps[member.run.method.id] += 1
        return real(cohort, member, batch)

    monkeypatch.setattr(engine, "_step", counting)
    run_jobs(edited, "cohort")
    assert steps == {"kd": 12, "ofa": 4}


def test_a_tuned_run_does_not_go_on_from_the_state_of_another_weight(trained, monkeypatch):
    plan = tiny_plan(
        tune={"seed": 9, "factors": [0.5, 1.0], "pairs": ["cnn-t -> vit-s"]},
        blocks__main__methods=["kd", "dkd"],
        seeds=[0],
        checkpoint_seconds=0,
    )
    job = plan.job("cohort", "cnn-t--vit-s/seeds-0.tuned")

    def choose(**weights):
        choices = [
            {"pair": "cnn-t--vit-s", "method": method, "parameter": parameter, "value": weights[method]}
            for method, parameter in (("kd", "kd_weight"), ("dkd", "beta"))
        ]
        tuned_file(plan.suite).parent.mkdir(parents=True, exist_ok=True)
        tuned_file(plan.suite).write_text(json.dumps({"choices": choices}))

    choose(kd=0.5, dkd=1.0)
    interrupted(plan, monkeypatch, job=job)
    choose(kd=2.0, dkd=1.0)
    steps = Counter()
    real = engine._step

    def counting(cohort, member, batch):
        steps[member.run.method.id] += 1
        return real(cohort, member, batch)

    monkeypatch.setattr(engine, "_step", counting)
    run_training(plan, job, threads=1)
    assert steps == {"kd-tuned": 12, "dkd-tuned": 4}


def test_a_damaged_checkpoint_is_told_and_the_one_before_it_used(trained, monkeypatch, capsys):
    plan = plan_for(["kd"], seeds=[0], checkpoint_seconds=0)
    run_jobs(plan, "cohort")
    expected = weights_of(plan)
    plan.runs()["cnn-t--vit-s", "kd", 0].result.unlink()
    interrupted(plan, monkeypatch)
    state = trained / "results/tiny/state/cnn-t--vit-s/seed0/checkpoint"
    content = bytearray(state.read_bytes())
    content[len(content) // 2] ^= 1
    state.write_bytes(content)
    run_jobs(plan, "cohort")
    assert "damaged and not used" in capsys.readouterr().err
    assert weights_of(plan) == expected


def test_two_jobs_on_one_state_folder_exclude_each_other(trained, monkeypatch):
    plan = plan_for(["kd"], seeds=[0])
    log = trained / "trainings"
    real = engine.train_cohort

    def logged(*args):
        with log.open("a") as file:
            file.write("x")
        time.sleep(0.5)
        return real(*args)

    monkeypatch.setattr(engine, "train_cohort", logged)
    monkeypatch.setattr(locks, "LOCK_NOTICE_SECONDS", 0.1)
    pids = [in_child(lambda: run_jobs(plan, "cohort")) for _ in range(2)]
    assert [wait_for(pid) for pid in pids] == [0, 0]
    assert log.read_text() == "x"


# ------------------------------------------------------------------------------------------------------------- results


def test_a_finished_run_is_not_trained_again_but_a_lost_weight_file_is(trained, monkeypatch):
    plan = plan_for(["kd"], seeds=[0])
    run_jobs(plan, "cohort")
    expected, run = weights_of(plan), plan.runs()["cnn-t--vit-s", "kd", 0]
    with monkeypatch.context() as patch:
        patch.setattr(engine, "_step", None)
        run_jobs(plan, "cohort")
    run.stem.with_suffix(".safetensors").unlink()
    run_jobs(plan, "cohort")
    assert weights_of(plan) == expected


def test_another_teacher_means_another_run(trained):
    plan = plan_for(["kd"], seeds=[0])
    run_jobs(plan, "cohort")
    teacher = plan.teacher("cnn-t", 0)
    weights = load_file(teacher.stem.with_suffix(".safetensors"))
    record = read_run(teacher.result)
    from safetensors.torch import save_file

    save_file(
        {k: v + 0.01 if v.is_floating_point() else v for k, v in weights.items()},
        teacher.stem.with_suffix(".safetensors"),
    )
    with pytest.raises(KdbenchError, match="missing or damaged"):
        run_jobs(plan, "cohort")
    record["hashes"]["weights"] = sha256_file(teacher.stem.with_suffix(".safetensors"))
    write_json(teacher.result, record)
    frame = collect(Today(plan), plan.suite.blocks[0])
    assert frame.reason[0] == "its result comes from another teacher"
    before = plan.runs()["cnn-t--vit-s", "kd", 0].result.stat().st_mtime_ns
    run_jobs(plan, "cohort")
    assert plan.runs()["cnn-t--vit-s", "kd", 0].result.stat().st_mtime_ns > before


def test_the_record_of_a_run(trained):
    import numpy as np

    plan = plan_for(["kd", "ofa"], seeds=[0])
    run_jobs(plan, "cohort")
    run = plan.runs()["cnn-t--vit-s", "ofa", 0]
    record = read_run(run.result)
    assert {"torch", "timm", "commit"} <= record["versions"].keys()
    assert record["hardware"]["threads"] == 1 and record["config"]["teacher_key"] == plan.teacher("cnn-t", 0).key
    assert [h["step"] for h in record["history"]] == [10, 12]
    assert set(record["history"][0]["losses"]) >= {"ce"}
    assert record["cost"]["seconds"] > 0 and record["cost"]["peak_memory_mb"] > 50
    assert record["cost"]["extra_parameters"] > 0
    assert read_run(plan.runs()["cnn-t--vit-s", "kd", 0].result)["cost"]["extra_parameters"] == 0
    labels = load_packed(data_folder(plan.suite, "digits", 0)).labels("test")
    stored = np.load(run.stem.with_suffix(".npz"))["test_logits"]
    assert stored.shape == (540, 10)
    accuracy = 100 * (stored.argmax(1) == labels).mean()
    assert abs(accuracy - record["accuracy"]["test"]) < 0.4, "float16 may move a near tie"
    teacher_logits = np.load(plan.teacher("cnn-t", 0).stem.with_suffix(".npz"))["test_logits"]
    agreement = 100 * (stored.argmax(1) == teacher_logits.argmax(1)).mean()
    assert abs(agreement - record["agreement"]["test"]) < 0.4


def test_other_heads_are_logged_and_move_nothing(trained, monkeypatch):
    plan = plan_for(["kd", "fdcmkd"], seeds=[0])
    runs = [plan.runs()["cnn-t--vit-s", name, 0] for name in ("kd", "fdcmkd")]
    run_jobs(plan, "cohort")
    plain, headed = (read_run(run.result) for run in runs)
    assert "test_accuracy_of_heads" not in plain["history"][0] and "best_test_of_heads" not in plain["accuracy"]
    found = [(h["test_accuracy"], *h["test_accuracy_of_heads"].values()) for h in headed["history"]]
    assert [len(values) for values in found] == [3, 3]
    assert headed["accuracy"]["best_test_of_heads"] == max(max(values) for values in found)

    # A head that is the main one: what is logged of it is what the engine finds of the main head.
    monkeypatch.setattr(fdcmkd.Method, "head_logits", lambda self, student: {"main": student.logits})
    runs[1].result.unlink()
    run_jobs(plan, "cohort")
    again = read_run(runs[1].result)
    assert all(h["test_accuracy_of_heads"] == {"main": h["test_accuracy"]} for h in again["history"])
    assert again["hashes"]["weights"] == headed["hashes"]["weights"]
    assert [h["val_nll"] for h in again["history"]] == [h["val_nll"] for h in headed["history"]]


def test_the_teacher_is_only_looked_at(trained):
    """Its BatchNorm statistics and weights are the same after a cohort as before."""
    plan = plan_for(METHODS, seeds=[0], recipes__student__steps=3)
    teacher_file = plan.teacher("cnn-t", 0).stem.with_suffix(".safetensors")
    spec = plan.suite.models["cnn-t"]
    batches, cpu = batches_of(plan), torch.device("cpu")
    teacher = load_teacher(spec, load_file(teacher_file), batches, cpu, 0)
    before = {k: v.clone() for k, v in teacher.reader.model.state_dict().items()}
    cohort = Cohort(plan.suite.models["vit-s"], plan.suite.recipes["student"], batches, cpu, 0, teacher)
    for _ in cohort.teacher_pass(teacher):
        pass
    assert all(torch.equal(v, before[k]) for k, v in teacher.reader.model.state_dict().items())
    assert not any(p.requires_grad for p in teacher.reader.model.parameters())


# --------------------------------------------------------------------------------------------------------- small parts


def test_learning_rate():
    recipe = Recipe("r", lr=1.0, min_lr=0.1, steps=100, warmup=0.1)
    rates = [learning_rate(recipe, s, 100) for s in range(100)]
    assert rates[:10] == pytest.approx([0.1 * k for k in range(1, 11)])
    assert (
        rates[10] == pytest.approx(1.0)
        and rates[55] == pytest.approx(0.55)
        and rates[99] == pytest.approx(0.1, abs=1e-3)
    )
    assert all(a >= b for a, b in itertools.pairwise(rates[10:]))


def test_decay_spares_norms_biases_and_position_embeddings(trained):
    plan = tiny_plan()
    model = networks.build(plan.suite.models["vit-s"], (8, 8, 1), 10, 0)
    optimizer = new_optimizer(plan.suite.recipes["student"], model, torch.nn.Linear(3, 2))
    free = {id(p) for p in optimizer.param_groups[1]["params"]}
    named = dict(model.named_parameters())
    assert optimizer.param_groups[1]["weight_decay"] == 0
    assert {n for n, p in named.items() if id(p) in free} == {n for n, p in named.items() if p.ndim == 1} | {
        "pos_embed",
        "cls_token",
    }
    assert sum(len(g["params"]) for g in optimizer.param_groups) == len(named) + 2


def test_building_a_model_leaves_the_global_stream_alone(trained):
    spec = tiny_plan().suite.models["vit-s"]
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    first = networks.build(spec, (8, 8, 1), 10, 0).state_dict()
    assert torch.equal(torch.rand(4), expected)
    second, other = (networks.build(spec, (8, 8, 1), 10, seed).state_dict() for seed in (0, 1))
    assert all(torch.equal(first[k], second[k]) for k in first)
    assert not torch.equal(first["head.weight"], other["head.weight"])
