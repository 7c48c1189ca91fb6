"""What a suite's folder says of its progress: done, running, time left; on a terminal and in a log."""

from __future__ import annotations

import os
import re
import time

import filelock
import pytest
from conftest import write_tiny
from fakes import fake_plan, finish, finish_all

from kdbench import cli
from kdbench.run.locks import state_folder
from kdbench.terminal import watch
from kdbench.types import KdbenchError


@pytest.fixture
def plan(tmp_path, monkeypatch):
    """Three teacher runs in one job and 36 student runs, 27 beside a teacher; every cohort took 12 s."""
    monkeypatch.chdir(tmp_path)
    return fake_plan()


def runs_of(plan, kind, seed):
    return [run for job in plan.of(kind) for run in job.runs if run.seed == seed]


def outputs(plan):
    """Outputs of the jobs that train nothing."""
    for job in plan.jobs:
        if not job.runs:
            job.output.parent.mkdir(parents=True, exist_ok=True)
            job.output.write_text("{}")


def holding(plan, job, seed, since):
    """The lock that a training process holds, taken `since` seconds ago."""
    folder = state_folder(plan, job, seed)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "holder").write_text("process 1 on a test")
    os.utime(folder / "holder", (time.time() - since,) * 2)
    return filelock.FileLock(folder / "lock")


def test_nothing_yet(plan):
    progress = watch.look(plan)
    assert (progress.done, progress.runs, progress.running, progress.last) == (0, 39, 0, None)
    assert progress.waiting == 4  # one data set, three similarities
    assert watch.line(plan, progress) == "tiny: 0 of 39 runs done, time left not known yet, 4 other jobs to do"


def test_only_results_of_todays_key_count(plan):
    run = runs_of(plan, "cohort", 0)[0]
    finish(run, 80.0)
    assert watch.look(plan).done == 1
    run.result.write_text(run.result.read_text().replace(run.key, "0" * 64))
    assert watch.look(plan).done == 0
    run.result.write_text("{")
    assert watch.look(plan).done == 0


def test_time_left_by_hand(plan):
    for seed in (0, 1):
        for run in runs_of(plan, "teacher", seed):
            finish(run, 97.0)
    # One run in 12 s a seed, one seed left, and nothing is known of students but what teachers cost: 12 s a run.
    assert watch.look(plan).seconds_left == pytest.approx(12 + 36 * 12)
    for run in runs_of(plan, "cohort", 0):
        finish(run, 80.0)
    # Cohorts took 12 s, of three runs beside a teacher and of one without: six of each are left, and one teacher.
    assert watch.look(plan).seconds_left == pytest.approx(12 + 6 * 12 + 6 * 12)
    cohort = next(job for job in plan.of("cohort") if job.pair.teacher)
    with holding(plan, cohort, 1, since=8):
        progress = watch.look(plan)
    assert (progress.running, progress.cohorts) == (3, 1)
    assert progress.seconds_left == pytest.approx(12 + 6 * 12 + 6 * 12 - 8, abs=1)
    with holding(plan, cohort, 1, since=8), holding(plan, cohort, 2, since=999):
        progress = watch.look(plan)
    assert (progress.running, progress.cohorts) == (6, 2)
    assert progress.seconds_left == pytest.approx((12 + 4 * 12 + 6 * 12 + 4) / 2, abs=1)


def test_a_lock_that_nobody_holds_is_not_running(plan):
    job = plan.of("cohort")[0]
    with holding(plan, job, 0, since=0):
        assert watch.look(plan).cohorts == 1
    assert watch.look(plan).cohorts == 0
    for run in job.runs:
        finish(run, 80.0)
    with holding(plan, job, 0, since=0):
        assert watch.look(plan).cohorts == 0, "a process that finds its work done is about to leave"


def test_the_last_result_and_divergence(plan):
    teacher, run = runs_of(plan, "teacher", 1)[0], plan.runs()["cnn-t--mlp-s", "kd", 2]
    finish(teacher, 97.0)
    assert watch.line(plan, watch.look(plan)).endswith("; last: teacher cnn-t, seed 1, 96.0 % on validation")
    finish(run, 0.0, status="diverged", reason="step 3", finished_at="2999-01-01T00:00:00+00:00")
    text = re.sub('"finished_at": ".*"', '"finished_at": "2999-01-01"', run.result.read_text())
    run.result.write_text(re.sub(r',\n "file_sha256": ".*"', "", text))
    line = watch.line(plan, watch.look(plan))
    assert "2 of 39 runs done (1 diverged)" in line and line.endswith("; last: KD on cnn-t--mlp-s, seed 2, diverged")


def test_a_log_gets_a_line_a_change_and_the_end(plan, monkeypatch, capsys):
    outputs(plan)
    todo = [*runs_of(plan, "teacher", 0), None, None]

    def later(seconds):
        assert seconds == 7
        if not todo:
            finish_all(plan)
        elif run := todo.pop(0):
            finish(run, 97.0)

    monkeypatch.setattr(watch.time, "sleep", later)
    watch.watch(plan, every=7, once=False)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(" runs")[0] for line in lines] == ["tiny: 0 of 39", "tiny: 1 of 39", "tiny: 39 of 39"]
    assert "left" not in lines[-1] and "\r" not in "".join(lines)


@pytest.mark.parametrize("live", [False, True])
def test_who_stops_it_reads_that_nothing_else_stops(plan, tmp_path, monkeypatch, capsys, live):
    def stop(seconds):
        raise KeyboardInterrupt

    write_tiny(tmp_path)
    monkeypatch.setattr(watch.time, "sleep", stop)
    monkeypatch.setattr("sys.stdout.isatty", lambda: live)
    assert cli.main(["watch", "tiny"]) == 130
    printed = capsys.readouterr()
    assert printed.out.count("\n") == 1 and printed.out.endswith("\n")
    assert printed.err == "kdbench: stopped watching; whatever trains the suite goes on\n"


def test_a_terminal_gets_one_line_that_is_rewritten(plan, monkeypatch, capsys):
    outputs(plan)
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setattr(watch.shutil, "get_terminal_size", lambda: os.terminal_size((30, 24)))
    monkeypatch.setattr(watch.time, "sleep", lambda _: finish_all(plan))
    watch.watch(plan, every=1, once=False)
    printed = capsys.readouterr().out
    first, second = printed.split(watch.CLEAR)[1:]
    assert first.startswith("tiny: 0 of 39") and second.startswith("tiny: 39 of 39")
    assert printed.count("\n") == 1 and printed.endswith("\n") and max(len(first), len(second.strip())) == 29


def test_by_hand(plan, tmp_path, capsys):
    write_tiny(tmp_path)
    assert cli.main(["watch", "tiny", "--once"]) == 0
    assert capsys.readouterr().out.startswith("tiny: 0 of ")
    assert cli.main(["watch", "tinny"]) == 2
    assert cli.main(["watch", "tiny", "--every", "0"]) == 2
    assert "--every 0: expected seconds" in capsys.readouterr().err
    with pytest.raises(KdbenchError):
        watch.watch(plan, float("nan"), once=True)


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0 s"), (89, "89 s"), (100, "2 min"), (3599, "1 h 0 min"), (7380, "2 h 3 min")]
)
def test_spans(seconds, text):
    assert watch._span(seconds) == text
