"""What goes wrong while a suite runs: kills, full disks, clocks that jump, damage, company, dead teachers.

By default a sample that CI can afford. KDBENCH_FULL=FOLDER (1: results/reference/reliability) makes it all of it, and
writes what was measured into FOLDER/NAME.json; docs/reliability.md says what is promised.
"""

from __future__ import annotations

import base64
import contextlib
import fcntl
import gc
import itertools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import filelock
import numpy as np
import psutil
import pytest
import torch
from conftest import REPOSITORY, TINY, in_child, run_jobs, tiny_plan, wait_for, write_tiny
from safetensors.torch import load_file
from test_workflow import snakemake

from kdbench import checkpoint, cli
from kdbench.data.sources import digits
from kdbench.plan.jobs import Plan
from kdbench.plan.paths import home
from kdbench.results.record import read_run
from kdbench.run.data import run_data
from kdbench.run.measure import run_similarity
from kdbench.run.outputs import run_table
from kdbench.run.training import run_training
from kdbench.terminal import watch
from kdbench.train import engine
from kdbench.types import KdbenchError

FULL = os.environ.get("KDBENCH_FULL")
FIGURES = REPOSITORY / ("results/reference/reliability" if FULL == "1" else FULL or "")
KILLS = 50 if FULL else 5
INTERVAL = 3
"""Steps between two checkpoints where the clock ticks once a step."""
OPERATIONS = 40
"""File operations of a job, about, at each of which it may be killed."""


def measured(name: str, **figures: Any) -> None:
    """Keep what a full run has measured."""
    if FULL:
        FIGURES.mkdir(parents=True, exist_ok=True)
        (FIGURES / f"{name}.json").write_text(json.dumps(figures, indent=1, ensure_ascii=False) + "\n")


def runs_of(plan: Plan, kind: str) -> list:
    return [run for job in plan.of(kind) for run in job.runs]


def numbers(plan: Plan, kind: str = "cohort") -> dict[str, Any]:
    """All that the results say but times, memory and dates: with the hash of the weights, and the predictions."""
    told = {}
    for run in runs_of(plan, kind):
        record = read_run(run.result)
        with np.load(run.stem.with_suffix(".npz")) as arrays:
            predictions = {name: arrays[name].tobytes() for name in arrays.files}
        kept = ("status", "accuracy", "nll", "agreement", "history", "notes", "hashes")
        told[str(run.result)] = {name: record[name] for name in kept} | predictions
    return told


def forget(plan: Plan, kind: str = "cohort") -> None:
    """Remove the results of these jobs, so that they are trained again."""
    for run in runs_of(plan, kind):
        for suffix in (".json", ".npz", ".safetensors"):
            run.stem.with_suffix(suffix).unlink(missing_ok=True)
    for job in plan.of(kind):
        job.output.unlink(missing_ok=True)


def check_sound() -> None:
    """No lock is held, and whatever stands under its name is whole."""
    for path in Path("results").rglob("*"):
        if path.name == "lock":
            with filelock.FileLock(path, timeout=0):
                pass
        elif path.suffix == ".json":
            json.loads(path.read_text())
        elif path.suffix == ".safetensors":
            load_file(path)
        elif path.suffix == ".npz":
            with np.load(path) as arrays:
                assert all(arrays[name].size for name in arrays.files)
        elif path.name.startswith("checkpoint"):
            assert checkpoint._verified(path.read_bytes()) is not None, path


def half_files() -> list[Path]:
    """Hidden files, which is what those under way are; packing keeps its lock."""
    return [path for path in Path("results").rglob(".*") if path.name != ".lock"]


# --------------------------------------------------------------------------------------------------------------- kills


def watch_steps(note: Path, dies_at: int | None) -> None:
    """In a child: note every step that begins, let the clock tick once a step, and die at a file operation."""
    began: list[int] = []
    note_file = os.open(note, os.O_CREAT | os.O_APPEND | os.O_WRONLY)
    real_step = engine._step

    def step(cohort, member, batch):
        if batch.step not in began[-1:]:
            began.append(batch.step)
            os.write(note_file, b"%d\n" % batch.step)
        return real_step(cohort, member, batch)

    engine._step = step
    engine.time = SimpleNamespace(monotonic=lambda: float(len(began)))
    left = itertools.count(dies_at or 10**9, -1)

    def deadly(real):
        def operation(*args, **kwargs):
            if next(left) == 1:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*args, **kwargs)

        return operation

    for name in ("replace", "fsync", "unlink"):
        setattr(os, name, deadly(getattr(os, name)))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["teacher", "cohort"])
def test_kill_9_at_a_random_moment_costs_one_interval_at_most_and_no_bit(trained, kind):
    """Half of the moments are random times, half are file operations: most of the time nothing is being written."""
    plan = tiny_plan(seeds=[0], checkpoint_seconds=INTERVAL, blocks__main__methods=["kd", "uhkd"])
    forget(plan, kind)
    started = time.monotonic()
    assert wait_for(in_child(lambda: run_jobs(plan, kind))) == 0
    duration, expected = time.monotonic() - started, numbers(plan, kind)
    forget(plan, kind)

    moments, note = random.Random(kind), trained / "steps"
    killed, rounds, begun, lost = 0, 0, 0, []
    while killed < KILLS:
        timed = moments.random() < 0.5
        operation = None if timed else moments.randint(1, OPERATIONS)
        pid = in_child(lambda at=operation: (watch_steps(note, at), run_jobs(plan, kind)))
        if timed:
            time.sleep(moments.uniform(0, duration))
            os.kill(pid, signal.SIGKILL)
        code = wait_for(pid)
        check_sound()
        if steps := [int(line) for line in note.read_text().split()] if note.exists() else []:
            lost.append(begun - steps[0])
            begun = steps[-1] + 1
            note.unlink()
        if code == 0:
            assert numbers(plan, kind) == expected and half_files() == []
            forget(plan, kind)
            rounds, begun = rounds + 1, 0
        else:
            assert code == -signal.SIGKILL
            killed += 1
    run_jobs(plan, kind)
    assert numbers(plan, kind) == expected
    assert half_files() == [] and not list(Path("results").rglob("checkpoint*"))
    assert max(lost, default=0) <= INTERVAL
    assert lost, "no child came as far as a step: the test saw nothing"
    measured(f"kills-{kind}", kills=killed, whole_runs=rounds + 1, interval_steps=INTERVAL, most_steps_lost=max(lost))


# ------------------------------------------------------------------------------------------------------------- the disk


@contextlib.contextmanager
def small_disk(place: Path, kilobytes: int) -> Iterator[None]:
    if os.geteuid() != 0:
        pytest.skip("mounting a small disk needs root")
    if subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "none", place]).returncode:
        pytest.skip("no tmpfs can be mounted here")
    try:
        yield
    finally:
        subprocess.run(["umount", place], check=True)


def remount(place: Path, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", place], check=True)


@pytest.mark.slow
@pytest.mark.parametrize(("seconds", "file"), [(0, "/checkpoint"), (1000, "/kd/seed0.")])
def test_a_disk_that_fills_up_and_one_that_may_not_be_written(trained, seconds, file):
    """The disk grows bit by bit until all fits; it is full at checkpoints, or without them at results. Then it is
    read-only."""
    changes = {"seeds": [0], "checkpoint_seconds": seconds, "blocks__main__methods": ["kd"]}
    plan = tiny_plan(**changes, recipes__student__steps=4)
    write_tiny(trained, **changes, recipes__student__steps=4)
    run_jobs(plan, "cohort")
    expected, place = numbers(plan), home(plan.suite)
    teachers = shutil.move(place / "teachers", trained / "aside")
    shutil.rmtree(place)
    place.mkdir()
    used = sum(-(-path.stat().st_size // 4096) * 4 for path in Path(teachers).rglob("*"))
    with small_disk(place, used):
        shutil.copytree(teachers, place / "teachers")
        told = []
        for size in itertools.count(used, 16):
            remount(place, f"size={size}k")
            try:
                run_jobs(plan, "cohort")
                break
            except KdbenchError as error:
                told.append(str(error))
                assert "the disk is full; nothing was changed" in told[-1]
                assert half_files() == []
                check_sound()
        assert any(file in text for text in told)
        assert numbers(plan) == expected

        forget(plan)
        remount(place, "ro")
        before = sorted(place.rglob("*"))
        with pytest.raises(KdbenchError, match=r"cannot write results/tiny/.*[Rr]ead-only.*nothing was changed"):
            run_jobs(plan, "cohort")
        for words in (["plan", "tiny"], ["show", "tiny"], ["watch", "tiny", "--once"], ["table", "tiny", "--partial"]):
            assert cli.main(words) == 0, "what only reads must work"
        assert sorted(place.rglob("*")) == before
    measured(f"disk-{seconds}-seconds", full_at=len(told), sentences=sorted(set(told)))


# ------------------------------------------------------------------------------------------------------------ the clock


@pytest.mark.parametrize(("seconds", "saves"), [(1000, 0), (0, 11)])
def test_a_clock_that_jumps_moves_no_checkpoint_and_no_number(trained, monkeypatch, seconds, saves):
    plan = tiny_plan(seeds=[0], checkpoint_seconds=seconds, blocks__main__methods=["kd"])
    run_jobs(plan, "cohort")
    expected = numbers(plan)
    forget(plan)
    wall, saved, real = itertools.cycle([0.0, 4e9, 1e9, -5.0]), [], checkpoint.save
    monkeypatch.setattr(time, "time", lambda: next(wall))
    monkeypatch.setattr(checkpoint, "save", lambda *args: (saved.append(args), real(*args)))
    run_jobs(plan, "cohort")
    assert numbers(plan) == expected and len(saved) == saves
    cost = read_run(runs_of(plan, "cohort")[0].result)["cost"]
    assert 0 < cost["seconds"] < cost["cohort_seconds"] < 1000


@pytest.mark.parametrize("moment", [0, 4_000_000_000])
def test_files_of_the_past_and_of_the_future_are_what_they_were(trained, monkeypatch, moment):
    plan = tiny_plan(seeds=[0], blocks__main__methods=["kd"])
    run_jobs(plan, "cohort")
    for path in Path("results").rglob("*"):
        os.utime(path, (moment, moment))
    monkeypatch.setattr(engine, "_step", None)
    monkeypatch.setattr(digits, "build", None)
    run_data(plan, plan.of("data")[0])
    run_jobs(plan, "teacher")
    run_jobs(plan, "cohort")
    assert watch.look(plan).done == 2


# --------------------------------------------------------------------------------------------------------------- damage


def test_a_checkpoint_cut_at_every_length_or_with_any_bit_flipped_gives_way_to_the_one_before(tmp_path, capsys):
    path = tmp_path / "checkpoint"
    checkpoint.save(path, {"step": 1})
    checkpoint.save(path, {"step": 2, "w": torch.arange(4.0)})
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        assert checkpoint.load(path) == {"step": 1}
    assert capsys.readouterr().err.count("damaged and not used") == len(whole)
    flips = range(0, 8 * len(whole), 1 if FULL else 61)
    for bit in flips:
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        assert checkpoint.load(path) == {"step": 1}
    measured("checkpoint-damage", bytes=len(whole), lengths=len(whole), flips=len(flips), used=0)


def test_a_result_cut_at_every_length_or_with_any_bit_flipped_is_refused(trained):
    plan = tiny_plan(seeds=[0], blocks__main__methods=["kd"], recipes__student__steps=1)
    run_jobs(plan, "cohort")
    path = runs_of(plan, "cohort")[0].result
    whole, record = path.read_bytes(), read_run(path)
    for length in range(len(whole.rstrip())):
        path.write_bytes(whole[:length])
        with pytest.raises(KdbenchError, match=r"seed0\.json is damaged .*and run: kdbench distill tiny"):
            read_run(path)
    accepted, flips = 0, range(0, 8 * len(whole), 1 if FULL else 61)
    for bit in flips:
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        with contextlib.suppress(KdbenchError):
            read = read_run(path)
            # A flip in the name of the checksum makes it a key that nobody reads.
            assert {name: read[name] for name in record} == record
            accepted += 1
    measured("result-damage", bytes=len(whole), flips=len(flips), accepted_with_every_number_right=accepted)


def test_a_bit_flipped_in_packed_data_or_in_a_teacher_stops_the_training(trained):
    plan = tiny_plan(seeds=[0], blocks__main__methods=["kd"])
    teacher = plan.teacher("cnn-t", 0).stem.with_suffix(".safetensors")
    for path, told in ((plan.of("data")[0].output.with_name("image-train.npy"), "checksum"), (teacher, "damaged")):
        whole = path.read_bytes()
        path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        with pytest.raises(KdbenchError, match=told):
            run_jobs(plan, "cohort")
        assert not runs_of(plan, "cohort")[0].result.exists()
        path.write_bytes(whole)
    run_jobs(plan, "cohort")


def test_predictions_that_are_damaged_are_told(trained):
    """A suite of one seed takes an interval from them."""
    plan = tiny_plan(seeds=[0], recipes__student__steps=1)
    run_jobs(plan, "cohort")
    path = plan.runs()["cnn-t--vit-s", "kd", 0].stem.with_suffix(".npz")
    whole = path.read_bytes()
    late = 2 * len(whole) // 3
    for content in (whole[:-9], whole[:late] + b"\0\0\0\0" + whole[late + 4 :], b"", b"PK"):
        path.write_bytes(content)
        with pytest.raises(KdbenchError, match=r"kd/seed0\.npz is missing or damaged .*delete .*seed0\.json"):
            run_table(plan)
    np.savez(path, test_logits=np.zeros((1, 10), np.float16))
    with pytest.raises(KdbenchError, match="it holds 1 samples, and there are 540 test images"):
        run_table(plan)


# -------------------------------------------------------------------------------------------------------------- company


@pytest.mark.slow
def test_a_second_snakemake_on_one_tree_is_refused_and_the_first_does_not_notice(trained):
    write_tiny(trained, seeds=[0], blocks__main__methods=["scratch"])
    words = ["results/tiny/cohorts/none--vit-s/seeds-0.json", "--config", "suite=tiny"]
    command = [sys.executable, "-m", "snakemake", "-s", str(REPOSITORY / "Snakefile"), "--cores", "2", *words]
    with subprocess.Popen(command, cwd=trained, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as first:
        while not list(trained.glob(".snakemake/locks/*")):
            assert first.poll() is None, "it ended before it took its lock"
            time.sleep(0.05)
        assert "lock" in snakemake(trained, *words, ok=False)
        assert first.wait(300) == 0
    plan = tiny_plan(seeds=[0], blocks__main__methods=["scratch"])
    expected = numbers(plan)
    check_sound()
    if not FULL:
        return
    forget(plan)
    both = [subprocess.Popen([*command, "--nolock"], cwd=trained, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    told = "".join(one.communicate(timeout=600)[1] for one in both)
    assert "Traceback" not in told and numbers(plan) == expected
    check_sound()


class OwnLock:
    """A lock that nobody else sees: what flock is where a shared disk keeps locks to each host."""

    def __init__(self, path: Path) -> None: ...

    def acquire(self, timeout: float) -> None: ...

    def release(self) -> None: ...


@pytest.mark.slow
def test_two_hosts_that_do_not_see_each_others_locks_leave_right_results_or_a_sentence(trained):
    plan = tiny_plan(seeds=[0], checkpoint_seconds=0, blocks__main__methods=["kd", "uhkd"])
    run_jobs(plan, "cohort")
    expected = numbers(plan)

    def host():
        filelock.FileLock = OwnLock
        fcntl.flock = lambda *_: None
        run_jobs(plan, "cohort")

    ends = []
    for _ in range(20 if FULL else 3):
        forget(plan)
        ends += [wait_for(pid) for pid in [in_child(host), in_child(host)]]
        check_sound()
        run_jobs(plan, "cohort")
        assert numbers(plan) == expected and half_files() == []
    assert set(ends) <= {0, 2}, "neither may end in a traceback"
    measured("two-hosts", processes=len(ends), finished=ends.count(0), stopped_with_a_sentence=ends.count(2))


# --------------------------------------------------------------------------------------- one failure stays where it is


def troubled() -> dict[str, Any]:
    """Beside a good teacher one that learns nothing and one that diverges; and a data set that lacks a class."""
    teacher, student = TINY["models"]["cnn-t"], TINY["models"]["vit-s"]
    return {
        "seeds": [0],
        "data": TINY["data"] | {"hole": {"source": "npz", "file": "hole.npz"}},
        "recipes": TINY["recipes"]
        | {"student": {"lr": 5.0e-3, "steps": 2, "batch_size": 100}}
        | {"dead": {"lr": 1.0e-12, "steps": 2}, "mad": {"lr": 1.0e30, "steps": 6}},
        "models": TINY["models"]
        | {"dead-t": teacher | {"recipe": "dead"}, "mad-t": teacher | {"recipe": "mad"}}
        | {"hole-t": teacher | {"data": "hole"}, "hole-s": student | {"data": "hole"}},
        "blocks": {
            "main": {
                "data": "digits",
                "pairs": ["mad-t -> vit-s", "dead-t -> vit-s", "cnn-t -> vit-s"],
                "methods": ["scratch", "kd"],
            },
            "holes": {"data": "hole", "pairs": ["hole-t -> hole-s"], "methods": ["scratch", "kd"]},
        },
    }


def keep_going(plan: Plan) -> dict[str, str]:
    """Every job of a plan as `snakemake --keep-going` does them: what failed, and what for."""
    failed = {}
    for job in plan.jobs:
        try:
            if not all(path.exists() for path in job.inputs):
                raise KdbenchError("not started")
            if job.kind == "data":
                run_data(plan, job)
            elif job.runs:
                run_training(plan, job, threads=1)
            else:
                run_similarity(plan, job)
        except KdbenchError as error:
            failed[f"{job.kind} {job.id}"] = str(error)
    return failed


@pytest.mark.parametrize("through", ["this process", "snakemake"])
def test_dead_teachers_and_a_missing_class_are_named_and_the_rest_completes(trained, monkeypatch, capsys, through):
    if through == "snakemake" and not FULL:
        pytest.skip("a minute of processes: with KDBENCH_FULL; test_workflow.py holds --keep-going itself")
    arrays = {f"{part}_images": np.zeros((40, 8, 8, 1), np.uint8) for part in ("train", "test")}
    np.savez(trained / "hole.npz", **arrays, train_labels=np.arange(40) % 4, test_labels=np.arange(40) % 3)
    monkeypatch.setenv("KDBENCH_DATA", str(trained))
    plan = tiny_plan(**troubled())
    write_tiny(trained, **troubled())
    missing_class = "no test image of class 3"
    diverged = "teacher mad-t of seed 0: diverged (the term 'ce' was not finite at step"
    if through == "snakemake":
        output = snakemake(trained, "--keep-going", "--config", "suite=tiny", ok=False)
        assert missing_class in output and diverged in output
    else:
        failed = keep_going(plan)
        named = {name.split("/")[0]: why for name, why in failed.items() if why != "not started"}
        assert len(named) == 2 and missing_class in named[f"data {plan.of('data')[1].id}"]
        assert diverged in named["cohort mad-t--vit-s"]
    hopeless = ("hole", "none--hole", "mad-t--", "main/mad-t--")
    for job in plan.jobs:
        assert job.output.exists() != job.id.startswith(hopeless), job.id

    capsys.readouterr()
    assert cli.main(["table", "tiny"]) == 2
    assert "cells of block main have no result; the first is mad-t--vit-s/kd seed 0: not trained yet" in (
        capsys.readouterr().err
    )
    assert cli.main(["table", "tiny", "--partial"]) == 0
    page = (trained / "tables/tiny.md").read_text()
    assert "PARTIAL TABLE" in page and "no result yet for seed 0" in page
    sections = {part.split("\n")[0]: part for part in page.split("\n## ")[1:]}
    assert "dead-t" in sections["main: weak teachers"] and "mad-t" in sections["main: undecided"]
    assert "cnn-t" in sections["main (main)"] and "dead-t" not in sections["main (main)"]


# ----------------------------------------------------------------------------------------------------------- long runs


def census() -> dict[str, int]:
    """What a process holds: open files, threads, children, tensors; and its resident memory in kB."""
    gc.collect()
    me = psutil.Process()
    tensors = sum(issubclass(type(found), torch.Tensor) for found in gc.get_objects())
    held = {"files": me.num_fds(), "threads": me.num_threads(), "children": len(me.children()), "tensors": tensors}
    return held | {"memory_kb": me.memory_info().rss // 1024}


@pytest.mark.slow
def test_many_jobs_in_one_process_leave_nothing_behind(trained):
    first, count = 5, 500 if FULL else 20
    plan = tiny_plan(seeds=list(range(count)), blocks__main__methods=["scratch"], recipes__student__steps=1)
    before = None
    for number, job in enumerate(plan.of("cohort")):
        if number == first:
            before = census()
        run_training(plan, job, threads=1)
    after = census()
    growth = after.pop("memory_kb") - before.pop("memory_kb")
    assert after == before
    assert growth < 100_000
    assert half_files() == []
    measured("jobs-in-one-process", jobs=count, memory_growth_kb=growth, memory_growth_kb_a_job=growth / count, **after)


@pytest.mark.skipif(not FULL, reason="half an hour: with KDBENCH_FULL")
def test_500_jobs_through_the_dag(trained, monkeypatch):
    """Overhead a job: what two cores did for the whole run but run jobs, shared among the jobs."""
    count, scratch = 500, trained / "tmp"
    scratch.mkdir()
    changes = {"seeds": list(range(count)), "blocks__main__methods": ["scratch"], "recipes__student__steps": 1}
    write_tiny(trained, **changes)
    plan = tiny_plan(**changes)
    targets = [job.output.as_posix() for job in plan.of("cohort")]
    command = [sys.executable, "-m", "snakemake", "-s", str(REPOSITORY / "Snakefile"), "--cores", "2", *targets]
    command += ["--config", "suite=tiny"]
    samples, log, started = [], trained / "log", time.monotonic()
    with (
        log.open("w") as file,
        subprocess.Popen(
            command, cwd=trained, stdout=file, stderr=file, env={**os.environ, "TMPDIR": str(scratch)}
        ) as run,
    ):
        process = psutil.Process(run.pid)
        while run.poll() is None:
            with contextlib.suppress(psutil.Error):
                done = sum(Path(target).exists() for target in targets)
                kilobytes = process.memory_info().rss // 1024
                samples.append({"done": done, "memory_kb": kilobytes, "files": process.num_fds()})
            time.sleep(5)
    wall = time.monotonic() - started
    assert run.returncode == 0, log.read_text()[-3000:]
    spans = []
    for path in (trained / ".snakemake/metadata").rglob("*"):
        if path.is_file() and base64.b64decode(path.name).decode().endswith(".json"):
            record = json.loads(path.read_text())
            spans.append(record["endtime"] - record["starttime"])
    assert len(spans) == count
    assert half_files() == []
    early = next(sample for sample in samples if sample["done"] >= count / 10)
    late = samples[-1]
    assert late["files"] <= early["files"] + 5
    assert late["memory_kb"] < early["memory_kb"] + 200_000
    orphans = [p.pid for p in psutil.process_iter(["cwd"]) if p.info["cwd"] == str(trained) and p.pid != os.getpid()]
    assert orphans == []
    measured(
        "jobs-through-the-dag",
        jobs=count,
        wall_seconds=wall,
        seconds_in_a_job=sum(spans) / count,
        overhead_seconds_a_job=(2 * wall - sum(spans)) / count,
        scheduler_memory_kb={"at a tenth": early["memory_kb"], "at the end": late["memory_kb"]},
        scheduler_open_files={"at a tenth": early["files"], "at the end": late["files"]},
        temporary_files_left=len(list(scratch.rglob("*"))),
    )
