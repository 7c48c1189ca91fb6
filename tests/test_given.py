"""Teachers with weights from timm, a file or a URL; none teaches before it is found as good as its suite states."""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import http.server
import io
import pickle
import re
import shutil
import threading
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from conftest import TINY, run_jobs, tiny, tiny_plan, write_tiny
from safetensors.torch import load_file, save, save_file
from test_untrusted import Bomb
from torch import Tensor

from kdbench import cli, files
from kdbench.plan.jobs import Plan
from kdbench.plan.suite import check_suite
from kdbench.results.record import read_run
from kdbench.results.today import Stale, Today, check_gate
from kdbench.run.everything import run_all
from kdbench.run.training import run_training
from kdbench.train import networks
from kdbench.train.given import given_weights
from kdbench.types import KdbenchError, ModelSpec

SHAPE, CLASSES = (8, 8, 1), 10


def sha(path: str | Path) -> str:
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


class Own(NamedTuple):
    weights: dict[str, Tensor]
    accuracy: float


@pytest.fixture
def own(trained) -> Own:
    """The tiny suite's teacher of seed 0, which lies in own.pth now and nowhere else."""
    weights = load_file("results/tiny/teachers/cnn-t/seed0.safetensors")
    accuracy = read_run(Path("results/tiny/teachers/cnn-t/seed0.json"))["accuracy"]["test"]
    shutil.rmtree("results/tiny/teachers")
    torch.save(weights, "own.pth")
    return Own(weights, accuracy)


def given(path: str = "own.pth", **changes: Any) -> dict[str, Any]:
    """The tiny suite's teacher, its weights from a file and taken as they are."""
    model = {k: v for k, v in TINY["models"]["cnn-t"].items() if k != "recipe"}
    return model | {"weights": path, "accuracy": 50.0, "tolerance": 50.0} | changes


def plan_of(teacher: dict[str, Any], **changes: Any) -> Plan:
    return tiny_plan(
        **{"models__cnn-t": teacher, "blocks__main__methods": ["kd"], "recipes__student__steps": 2} | changes
    )


def spec(**changes: Any) -> ModelSpec:
    return plan_of(given(**changes)).suite.models["cnn-t"]


# ----------------------------------------------------------------------------------------------------- the right file


def wrapped(weights: dict[str, Tensor]) -> dict[str, Any]:
    """As a training script on several cards leaves them, its arguments beside them."""
    own = {f"module.{k}": v for k, v in weights.items()}
    average = {k: torch.zeros_like(v) for k, v in own.items()}
    return {
        "epoch": 3,
        "arch": "resnet",
        "state_dict": own,
        "state_dict_ema": average,
        "args": argparse.Namespace(lr=1),
    }


@pytest.mark.parametrize("form", ["bare", "state_dict", "model", "safetensors"])
def test_a_teacher_from_a_file_is_one_for_all_seeds(own, form):
    weights, accuracy = own
    path = "own.safetensors" if form == "safetensors" else "own.pth"
    if form == "safetensors":
        save_file(weights, path)
    else:
        torch.save({"bare": weights, "state_dict": wrapped(weights), "model": {"model": weights}}[form], path)
    plan = plan_of(given(path, accuracy=round(accuracy, 2), tolerance=0.01))
    (job,) = plan.of("teacher")
    assert job.id == "cnn-t/seeds-0" and plan.teacher("cnn-t", 0) is plan.teacher("cnn-t", 1)
    assert all(job.output in cohort.inputs for cohort in plan.of("cohort"))
    run_jobs(plan, "teacher")
    record = read_run(plan.teacher("cnn-t", 1).result)
    assert record["accuracy"]["test"] == record["accuracy"]["best_test"] == accuracy
    assert record["hashes"]["given"] == sha(path) and record["history"] == []
    ours = load_file(plan.teacher("cnn-t", 0).stem.with_suffix(".safetensors"))
    assert ours.keys() == weights.keys() and all(torch.equal(ours[k], weights[k]) for k in ours)
    run_jobs(plan, "cohort")
    today = Today(plan)
    students = [today.record(run) for run in plan.runs().values()]
    assert [s["teacher_accuracy"]["test"] for s in students] == [accuracy, accuracy]


@pytest.mark.slow
def test_such_a_suite_goes_to_its_tables_and_figures(own):
    changes = {"blocks__main__methods": ["scratch", "kd", "kd@untrained", "pat"], "recipes__teacher__steps": 3}
    fixed, tuned = given(accuracy=own.accuracy), given(recipe="teacher")
    plan = plan_of(
        fixed,
        **{"models": {**TINY["models"], "cnn-t": fixed, "cnn-f": tuned}, **changes},
        blocks__main__pairs=["cnn-t -> vit-s", "cnn-f -> vit-s"],
    )
    run_all(plan)
    table = Path("tables/tiny.md").read_text()
    assert "the same teacher accuracy in every seed" in table and f"| {own.accuracy:.1f} <sup>a</sup>" in table
    assert f"Teacher cnn-t: weights of own.pth (sha256 {sha('own.pth')[:8]}...), taken as they are; stated" in table
    assert "Teacher cnn-f: weights of own.pth" in table and "fine-tuned by the recipe teacher" in table


def test_a_file_of_an_older_timm_gets_todays_keys(tmp_path, monkeypatch):
    """Swin of timm 0.6, as OFA's teachers were saved: merging ends a stage, the head is `head`, masks are kept."""
    monkeypatch.chdir(tmp_path)
    args = {"embed_dim": 8, "depths": [1, 1, 2, 1], "num_heads": [1, 2, 2, 2], "window_size": 2}
    swin = {"timm": "SwinTransformer", "args": args, "stem": "timm"}
    new = networks.build(ModelSpec("x", "SwinTransformer", "d", "r", args=args), (64, 64, 1), CLASSES, 5).state_dict()
    old = {
        re.sub(r"layers\.(\d)\.downsample", lambda m: f"layers.{int(m[1]) - 1}.downsample", k).replace(
            "head.fc.", "head."
        ): v
        for k, v in new.items()
    }
    assert old.keys() != new.keys()
    old |= {
        "layers.0.blocks.0.attn.relative_position_index": torch.zeros(4, 4),
        "layers.0.blocks.0.attn_mask": torch.ones(1),
    }
    torch.save({"state_dict": old}, "own.pth")
    found, digest = given_weights(spec(**swin), (64, 64, 1), CLASSES, 0)
    assert digest == sha("own.pth") and found.keys() == new.keys()
    assert all(torch.equal(found[k], new[k]) for k in new)


# ------------------------------------------------------------------------------------------------------ the wrong file


def wider(weights):
    return {k: torch.cat([v, v]) if k == "layer4.0.conv2.weight" else v for k, v in weights.items()}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (wider, "does not fit ResNet .*size mismatch for layer4.0.conv2.weight"),
        (lambda w: {k: v for k, v in w.items() if k != "bn1.running_mean"}, r"Missing key\(s\).*\"bn1.running_mean\""),
        (lambda w: w | {"extra.weight": torch.ones(1)}, r"Unexpected key\(s\).*\"extra.weight\""),
        (
            lambda w: w | {"fc.weight": torch.ones(7, 16), "fc.bias": torch.ones(7)},
            "for 7 classes and data digits have 10",
        ),
        (lambda w: w | {"lr": 0.1}, "no file of weights alone.*not all of its values are tensors"),
        (lambda w: list(w), "no file of weights alone"),
        (lambda w: {"state_dict": None}, "no file of weights alone"),
        (lambda w: w | {"x": Bomb()}, "no file of weights alone, and nothing of it was run"),
    ],
)
def test_a_file_that_does_not_fit_is_refused(own, change, words):
    torch.save(change(own.weights), "own.pth")
    plan = plan_of(given())
    with pytest.raises(KdbenchError, match=rf"models\.cnn-t: .*{words}"):
        run_jobs(plan, "teacher")
    assert not Path("fired").exists() and not plan.of("teacher")[0].output.exists()
    with pytest.raises(KdbenchError, match=r"teacher cnn-t of seed 0: .*run: kdbench teacher"):
        run_jobs(plan, "cohort")


@pytest.mark.parametrize("name", ["own.pth", "own.safetensors"])
@pytest.mark.parametrize("content", [pickle.dumps(Bomb(), 2), b"", b"\xff" * 100, b"PK\3\4 cut"])
def test_what_is_no_file_of_tensors_runs_nothing(own, name, content):
    Path(name).write_bytes(content)
    with pytest.raises(KdbenchError, match=rf"{name} is no file of weights alone, and nothing of it was run"):
        given_weights(spec(path=name), SHAPE, CLASSES, 0)
    assert not Path("fired").exists()


def test_another_file_than_the_suite_means(own):
    with pytest.raises(
        KdbenchError, match=rf"own\.pth has the sha256 {sha('own.pth')}, not the {'0' * 64} of the suite"
    ):
        run_jobs(plan_of(given(sha256="0" * 64)), "teacher")
    with pytest.raises(KdbenchError, match=r"models\.cnn-t.weights: cannot read gone\.pth from"):
        run_jobs(plan_of(given("gone.pth", sha256="0" * 64)), "teacher")


# ------------------------------------------------------------------------------------------------------------ the gate


def test_no_student_starts_below_a_teacher_of_another_accuracy(own):
    accuracy = own.accuracy
    plan = plan_of(given(accuracy=accuracy - 1.5, tolerance=1.0))
    both = rf"teacher cnn-t has a test accuracy of {accuracy:.2f} %.*states {accuracy - 1.5:.2f} % within 1"
    for _ in range(2):  # the second time it is known already
        with pytest.raises(KdbenchError, match=both):
            run_jobs(plan, "teacher")
        assert not plan.of("teacher")[0].output.exists()
    assert read_run(plan.teacher("cnn-t", 0).result)["accuracy"]["test"] == accuracy
    with pytest.raises(KdbenchError, match=both):
        run_jobs(plan, "cohort")
    assert not any(run.result.exists() for run in plan.runs().values())

    wider_gate = plan_of(given(accuracy=accuracy - 1.5, tolerance=2.0))
    before = plan.teacher("cnn-t", 0).result.read_bytes()
    run_jobs(wider_gate, "teacher")
    assert wider_gate.of("teacher")[0].output.exists()
    assert plan.teacher("cnn-t", 0).result.read_bytes() == before, "it is judged again, not measured again"
    run_jobs(wider_gate, "cohort")
    run = wider_gate.runs()["cnn-t--vit-s", "kd", 0]
    assert Today(wider_gate).record(run)["status"] == "finished"
    with pytest.raises(Stale, match=both):  # nor does a student count that learnt from it before
        Today(plan).record(plan.runs()["cnn-t--vit-s", "kd", 0])


def test_a_gate_reads_numbers_as_people_write_them():
    for right in range(10_001):
        stated = ModelSpec("m", "resnet18", "d", accuracy=float(f"{right / 100:.2f}"), tolerance=0.0)
        check_gate(stated, {"status": "finished", "accuracy": {"test": 100 * (right / 10_000)}})


def test_a_gate_moves_no_key_of_a_result_but_asks_for_its_job(own):
    Path("elsewhere").mkdir()
    Path("elsewhere/copy.pth").write_bytes(Path("own.pth").read_bytes())

    def keys(**changes: Any) -> tuple[set[str], set[str]]:
        plan = plan_of(given(**changes))
        return {r.key for j in plan.jobs for r in j.runs}, {j.key for j in plan.of("teacher")}

    one, job = keys()
    assert keys(accuracy=60.0)[0] == one and keys(accuracy=60.0)[1] != job
    assert keys(tolerance=3.0)[0] == one and keys(tolerance=3.0)[1] != job
    assert keys(path="elsewhere/copy.pth") == (one, job)
    assert keys(path="gone.pth", sha256=sha("own.pth")) == (one, job), "with a sha256 no file is needed to plan"
    assert not keys(sha256="1" * 64)[0] & one
    assert not keys(recipe="teacher")[0] & one
    assert {r.key for j in tiny_plan().of("teacher") for r in j.runs}.isdisjoint(one)


def test_the_seed_is_not_part_of_a_teacher_that_is_taken_as_it_is(own):
    assert plan_of(given()).teacher("cnn-t", 1).key == plan_of(given(), seeds=[7, 0]).teacher("cnn-t", 0).key


# --------------------------------------------------------------------------------------------------------- fine-tuning


def test_fine_tuning_starts_from_the_file_with_a_classifier_of_its_own(own):
    other = own.weights | {"fc.weight": torch.ones(7, 16), "fc.bias": torch.ones(7)}
    torch.save(other, "own.pth")
    still = {"recipes__teacher__steps": 1, "recipes__teacher__lr": 1.0e-9, "recipes__teacher__weight_decay": 0.0}
    tuned = given(recipe="teacher", accuracy=None)
    plan = plan_of(tuned, **still)
    assert [job.id for job in plan.of("teacher")] == ["cnn-t/seeds-0", "cnn-t/seeds-1"]
    run_jobs(plan, "teacher")
    found = [load_file(plan.teacher("cnn-t", seed).stem.with_suffix(".safetensors")) for seed in (0, 1)]
    for seed, weights in enumerate(found):
        fresh = networks.build(plan.suite.models["cnn-t"], SHAPE, CLASSES, seed).state_dict()
        for name, parameter in weights.items():
            start = fresh[name] if name.startswith("fc.") else other[name]
            if not re.search("running|tracked", name):
                assert torch.allclose(parameter, start, atol=1e-6), name
        record = read_run(plan.teacher("cnn-t", seed).result)
        assert record["hashes"]["given"] == sha("own.pth") and record["history"][-1]["step"] == 1
    # A file without a classifier starts the same network.
    torch.save({k: v for k, v in other.items() if not k.startswith("fc.")}, "headless.pth")
    ours, theirs = (
        given_weights(spec(path=p, recipe="teacher"), SHAPE, CLASSES, 0)[0] for p in ("own.pth", "headless.pth")
    )
    assert all(torch.equal(ours[k], theirs[k]) for k in ours)
    # The gate is behind the training.
    strict = plan_of(given(recipe="teacher", accuracy=99.9, tolerance=0.0), **still)
    with pytest.raises(KdbenchError, match=r"cnn-t of seed 0 has a test accuracy of .*states 99\.90 % within 0"):
        run_training(strict, strict.of("teacher")[0], threads=1)
    assert strict.teacher("cnn-t", 0).key == plan.teacher("cnn-t", 0).key


# ------------------------------------------------------------------------------------------------------ timm's weights

TAGGED = {"timm": "test_resnet.r160_in1k", "data": "digits", "recipe": "teacher", "pretrained": True}


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A cache of huggingface_hub that holds timm's smallest network, with weights of ours."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "cache/models--timm--test_resnet.r160_in1k"
    (folder / "snapshots/abc").mkdir(parents=True)
    (folder / "refs").mkdir()
    (folder / "refs/main").write_text("abc")
    import timm

    weights = timm.create_model("test_resnet").state_dict()
    save_file(weights, folder / "snapshots/abc/model.safetensors")
    return folder / "snapshots/abc/model.safetensors"


def test_timms_weights_come_from_the_cache_with_another_classifier_and_channel(hub):
    model = plan_of(TAGGED, data__digits__size=32).suite.models["cnn-t"]
    found, digest = given_weights(model, (32, 32, 1), CLASSES, 0)
    theirs, fresh = load_file(hub), networks.build(model, (32, 32, 1), CLASSES, 0).state_dict()
    assert digest == sha(hub) and found.keys() == theirs.keys()
    for name, value in found.items():
        expected = theirs[name].sum(1, keepdim=True) if name == "conv1.0.weight" else theirs[name]
        assert torch.equal(value, fresh[name] if name.startswith("fc.") else expected), name
    assert not torch.equal(found["layer1.0.conv1.weight"], fresh["layer1.0.conv1.weight"]), "nobody else starts there"
    whole, _ = given_weights(model, (32, 32, 3), 1000, 0)
    assert all(torch.equal(whole[name], theirs[name]) for name in theirs)


def test_timms_weights_as_they_are_need_the_classes_of_the_data(hub):
    fixed = {k: v for k, v in TAGGED.items() if k != "recipe"} | {"accuracy": 70.0}
    model = plan_of(fixed).suite.models["cnn-t"]
    with pytest.raises(KdbenchError, match="for 1000 classes and data digits have 10; give it a recipe"):
        given_weights(model, (32, 32, 1), CLASSES, 0)
    assert given_weights(model, (32, 32, 3), 1000, 0)[1] == sha(hub)


def test_timms_weights_are_loaded_whole_or_not_at_all(hub):
    cut = {k: v for k, v in load_file(hub).items() if k != "layer2.0.bn1.weight"}
    hub.write_bytes(save(cut))
    with pytest.raises(
        KdbenchError, match=r"timm cannot build test_resnet\.r160_in1k .* Missing key.*layer2\.0\.bn1\.weight"
    ):
        given_weights(plan_of(TAGGED).suite.models["cnn-t"], (32, 32, 1), CLASSES, 0)


def test_where_the_cache_lacks_them_the_file_is_named(hub):
    hub.unlink()
    with pytest.raises(
        KdbenchError,
        match=r"model\.safetensors of huggingface\.co/timm/test_resnet\.r160_in1k is not in the cache.*"
        r"hf download timm/test_resnet\.r160_in1k model\.safetensors",
    ):
        given_weights(plan_of(TAGGED).suite.models["cnn-t"], SHAPE, CLASSES, 0)


# ------------------------------------------------------------------------------------------------------------ from URLs


@pytest.fixture
def server(tmp_path):
    """A server of this machine: address, and the paths it was asked for. /cut ends half-way, /gone is not there."""
    asked: list[str] = []
    content = {"body": b"w" * 5000}

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            if self.path == "/gone":
                self.send_error(404)
                return
            body = content["body"]
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body[: len(body) // 2] if self.path == "/cut" else body)

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as own:
        thread = threading.Thread(target=own.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{own.server_port}", asked, content
        own.shutdown()
        thread.join()


def test_a_teacher_from_a_url_is_fetched_once(own, server):
    address, asked, content = server
    buffer = io.BytesIO()
    torch.save(own.weights, buffer)
    content["body"] = buffer.getvalue()
    url, digest = f"{address}/files/own%20teacher.pth?raw=1", hashlib.sha256(buffer.getvalue()).hexdigest()
    plan = plan_of(given(url, sha256=digest, accuracy=own.accuracy, tolerance=0.01))
    assert asked == [], "a plan asks nobody"
    run_jobs(plan, "teacher")
    (kept,) = Path("results/data/downloads").iterdir()
    assert kept.name == f"{digest[:16]}-own%20teacher.pth" and sha(kept) == digest
    plan.teacher("cnn-t", 0).result.unlink()
    run_jobs(plan, "teacher")
    assert len(asked) == 1
    kept.write_bytes(b"damaged")
    plan.teacher("cnn-t", 0).result.unlink()
    run_jobs(plan, "teacher")
    assert len(asked) == 2 and sha(kept) == digest


@pytest.mark.parametrize(
    ("path", "told"),
    [
        ("/cut", r"cannot download .*: (cut after 2,500 of 5,000 bytes|IncompleteRead).*nothing was kept.*curl -L -o"),
        ("/gone", r"cannot download .*404"),
        ("/other", rf"has the sha256 {hashlib.sha256(b'w' * 5000).hexdigest()}, not {'0' * 64}; nothing was kept"),
    ],
)
@pytest.mark.parametrize("before", [None, b"an older file"])
def test_of_a_download_that_failed_nothing_is_kept(tmp_path, server, path, told, before):
    target = tmp_path / "downloads" / "own.pth"
    if before:
        target.parent.mkdir()
        target.write_bytes(before)
    with pytest.raises(KdbenchError, match=told):
        files.fetch(server[0] + path, target, "0" * 64)
    there = list(target.parent.iterdir()) if target.parent.exists() else []
    assert [p.read_bytes() for p in there] == ([before] if before else [])


def test_a_server_that_is_not_there_is_told(tmp_path):
    with contextlib.closing(
        http.server.HTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler).socket
    ) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(KdbenchError, match=rf"cannot download http://127\.0\.0\.1:{port}/x: .*refused"):
        files.fetch(f"http://127.0.0.1:{port}/x", tmp_path / "x", "0" * 64)


# ----------------------------------------------------------------------------------------------------------- the suite


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"accuracy": None}, "needs its test accuracy"),
        ({"accuracy": 0.8, "tolerance": -1.0}, r"tolerance: must lie in \[0, 100\]"),
        ({"accuracy": 80.0, "tolerance": float("nan")}, r"tolerance: must lie in \[0, 100\]"),
        ({"accuracy": 101.0}, r"accuracy: must lie in \(0, 100\]"),
        ({"weights": "gone.pth"}, r"weights: cannot read gone\.pth from .*; with its sha256 beside it, it may"),
        ({"weights": "."}, r"weights: cannot read \. from .*: Is a directory"),
        ({"weights": "https://example.org/x.pth"}, "a URL of weights needs the sha256"),
        ({"sha256": "abc"}, "sha256: expected 64 hexadecimal digits"),
        ({"pretrained": True, "timm": "resnet18.a1_in1k"}, "give one of pretrained and weights"),
        ({"weights": None, "recipe": "teacher"}, "accuracy is for given weights"),
        ({"weights": None, "accuracy": None}, "the key 'recipe' is missing"),
        ({"weights": None, "recipe": "teacher", "accuracy": None}, "tolerance is for given weights"),
        ({"recipe": "teachr"}, "did you mean 'teacher'"),
        ({"pos_std": 0.1}, "pos_std changes how a network starts"),
        ({"timm": "resnet18.a1_in1k"}, "names pretrained weights; for the network alone, write resnet18"),
        ({"data": "drawn", "input": "raster"}, "is one for all seeds, but the data 'drawn' draw"),
    ],
)
def test_mistakes_are_named(tmp_path, monkeypatch, change, told):
    monkeypatch.chdir(tmp_path)
    Path("own.pth").write_bytes(b"")
    data = TINY["data"] | {"drawn": {"source": "glyphs", "draw": "seed"}}
    with pytest.raises(KdbenchError, match=rf"tiny\.yaml: models\.cnn-t.*{told}"):
        check_suite(tiny(data=data, **{"models__cnn-t": given(**change)}), "tiny", "tiny.yaml")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"timm": "resnet18"}, r"models\.cnn-t\.timm: timm's weights go by NAME\.TAG, .*unknown tag ''"),
        ({"timm": "resnet18.a1_in1"}, "unknown tag 'a1_in1'; did you mean 'a1_in1k'"),
        ({"timm": "resnet81.a1_in1k"}, "unknown timm model 'resnet81'"),
        ({"timm": "ResNet.a1_in1k"}, "timm has no weights for ResNet"),
        ({"timm": "cifar_resnet8x4.x"}, "timm has no weights for cifar_resnet8x4"),
        ({"stem": "small"}, "stem changes how a network starts"),
        ({"recipe": None}, "needs its test accuracy"),
    ],
)
def test_mistakes_with_timms_weights_are_named(change, told):
    with pytest.raises(KdbenchError, match=told):
        plan_of(TAGGED | change)


def test_a_student_starts_at_random(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(KdbenchError, match="student 'cnn-t' has given weights, and students start at random"):
        plan_of(TAGGED, blocks__main__pairs=["cnn-t -> vit-s", "vit-s -> cnn-t"])


def test_a_plan_says_where_its_teachers_come_from(trained, capsys):
    Path("own.pth").write_bytes(b"tensors")
    write_tiny(trained, **{"models__cnn-t": given(accuracy=80.1, tolerance=0.5)})
    assert cli.main(["plan", "tiny"]) == 0
    origin = (
        f"weights of own.pth (sha256 {sha('own.pth')[:8]}...), taken as they are; stated test accuracy 80.1 ± 0.5 %"
    )
    assert f"0 of 1 runs; {origin}\n" in capsys.readouterr().out
    write_tiny(trained, **{"models__cnn-t": TAGGED})
    assert cli.main(["plan", "tiny"]) == 0
    assert "weights of timm's test_resnet.r160_in1k, fine-tuned by the recipe teacher\n" in capsys.readouterr().out
