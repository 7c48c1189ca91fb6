"""profiles/slurm on a real Slurm, and what happens on clusters: jobs cancelled, daemons restarted, time run out, nodes
drained, Snakemake killed. Whatever happens, the numbers are those of an undisturbed run, bit for bit.

    pytest -n 0 tests/slurm      as root, where slurm-wlm and munge are installed

Training processes are stopped (SIGSTOP) in the middle of their work, so that what is to happen then does happen then.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cluster as slurm
import pytest
from cluster import Cluster, until
from conftest import REPOSITORY, run_jobs, tiny_plan, write_tiny

REASON = slurm.missing()
if os.environ.get("PYTEST_XDIST_WORKER"):
    REASON = REASON or "one cluster a machine: run pytest -n 0 tests/slurm"
pytestmark = [pytest.mark.skipif(REASON is not None, reason=REASON or ""), pytest.mark.usefixtures("late")]

ONE_COHORT = {"seeds": [0], "blocks__main__methods": ["kd"], "recipes__student__steps": 200, "checkpoint_seconds": 0}
COHORT = "results/tiny/cohorts/cnn-t--vit-s/seeds-0.json"
FIRST, LAST = "step 10 of 200", "step 200 of 200"
"""What the log of an undisturbed job says after its first epoch and after its last."""

# Snakemake looks at its jobs ever more rarely, up to three minutes apart. A test cannot wait for that.
SNAKEMAKE = """
import asyncio
from snakemake.cli import main
from snakemake_interface_executor_plugins.executors.remote import RemoteExecutor

async def sleep(self):
    await asyncio.sleep(1)

RemoteExecutor.sleep = sleep
main()
"""


@pytest.fixture(scope="module")
def cluster():
    with slurm.running() as started:
        yield started


@pytest.fixture(scope="module")
def undisturbed(_trained_folder, tmp_path_factory):
    """The numbers of the cohort, trained in this process."""
    folder = shutil.copytree(_trained_folder, tmp_path_factory.mktemp("undisturbed") / "folder")
    with contextlib.chdir(folder):
        run_jobs(tiny_plan(**ONE_COHORT), "cohort")
    return numbers(folder)


@pytest.fixture(scope="module")
def late(cluster, undisturbed, _trained_folder, tmp_path_factory):
    """A workflow whose job hangs in the middle, while the other tests go on, until its limit of one minute is over."""
    folder = shutil.copytree(_trained_folder, tmp_path_factory.mktemp("late") / "folder")
    write_tiny(folder, **ONE_COHORT, minutes_per_job=1)
    with workflow(folder, COHORT) as process:
        freeze(folder)
        yield folder, process


@pytest.fixture
def folder(cluster, trained):
    """Packed data and teachers, as they lie there once the first jobs are done. No job outlives the test."""
    write_tiny(trained, **ONE_COHORT)
    yield trained
    for job, state in cluster.jobs(trained):
        if state in ("PENDING", "RUNNING"):
            cluster("scancel", job)


@contextlib.contextmanager
def workflow(folder: Path, *words: str):
    """Snakemake on its way with the profile, in a folder."""
    options = ["--config", "suite=tiny", "-s", REPOSITORY / "Snakefile", "--profile", REPOSITORY / "profiles/slurm"]
    command = [sys.executable, "-c", SNAKEMAKE, *map(str, options), *words]
    with (folder / "snakemake.log").open("w") as log:
        process = subprocess.Popen(command, cwd=folder, stdout=log, stderr=subprocess.STDOUT)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def finish(folder: Path, process: subprocess.Popen) -> str:
    """What Snakemake said, having done all it was asked for."""
    code = process.wait(slurm.PATIENCE)
    said = (folder / "snakemake.log").read_text()
    assert code == 0, said
    return said


def log(folder: Path, job: str = "cohort/cnn-t--vit-s/seeds-0") -> str:
    path = folder / f"results/tiny/logs/{job}.log"
    return path.read_text() if path.exists() else ""


def freeze(folder: Path, job: str = "cohort/cnn-t--vit-s/seeds-0", state: str = "cnn-t--vit-s/seed0") -> int:
    """Stop a training process once an epoch lies behind it, and a checkpoint of the steps after; its pid."""
    place, saved = folder / "results/tiny/state" / state, set()

    def saved_since() -> bool:
        """Checkpoints are replaced, each by the next; between two there may be none."""
        with contextlib.suppress(FileNotFoundError):
            saved.add((place / "checkpoint").stat().st_mtime_ns)
        return len(saved) > 1

    said = f"see {folder}/snakemake.log"
    until(lambda: re.search(r"step \d+ of", log(folder, job)), f"{job} comes to the end of its first epoch; {said}")
    until(saved_since, f"{job} saves another checkpoint; {said}")
    pid = int(re.match(r"process (\d+)", (place / "holder").read_text())[1])
    os.kill(pid, signal.SIGSTOP)
    assert list(place.glob("checkpoint*")), "stopped too late: it had finished"
    return pid


def card(pid: int) -> str:
    """What Slurm lets a process see."""
    variables = Path(f"/proc/{pid}/environ").read_text().split("\0")
    return dict(line.split("=", 1) for line in variables if "=" in line)["CUDA_VISIBLE_DEVICES"]


def numbers(folder: Path) -> tuple:
    """All that training made of the run: its learning curve, and the hash of its weights."""
    record = json.loads((folder / "results/tiny/runs/cnn-t--vit-s/kd/seed0.json").read_text())
    assert record["status"] == "finished"
    return record["history"], record["accuracy"], record["nll"], record["hashes"]["weights"]


def states(cluster: Cluster, folder: Path) -> list[str]:
    return [state for _, state, *_ in cluster.jobs(folder)]


def test_a_cancelled_cohort_goes_on_in_its_next_attempt(cluster, folder, undisturbed):
    with workflow(folder, COHORT) as process:
        freeze(folder)
        [(job, state)] = cluster.jobs(folder)
        assert state == "RUNNING"
        cluster("scancel", job)
        assert "Trying to restart job" in finish(folder, process)
    assert states(cluster, folder) == ["CANCELLED", "COMPLETED"]
    assert FIRST not in log(folder) and LAST in log(folder), "it went on from its checkpoint"
    assert numbers(folder) == undisturbed


def test_a_restarted_slurmd_finds_its_job_running(cluster, folder, undisturbed):
    """This one asks for its card in the other form, --gres."""
    gres = ["cohort:gpu=0", "cohort:gres=gpu:1", "cohort:slurm_partition=gpu"]
    with workflow(folder, COHORT, "--set-resources", *gres) as process:
        pid = freeze(folder)
        assert card(pid) in ("0", "1")
        cluster.stop("slurmd")
        cluster.start_node()
        os.kill(pid, signal.SIGCONT)
        finish(folder, process)
    assert states(cluster, folder) == ["COMPLETED"]
    assert FIRST in log(folder) and LAST in log(folder), "it was never interrupted"
    assert numbers(folder) == undisturbed


def test_a_drained_node_takes_jobs_again_once_it_is_resumed(cluster, folder, undisturbed):
    cluster("scontrol", "update", "nodename=node", "state=drain", "reason=test")
    try:
        with workflow(folder, COHORT) as process:
            until(lambda: states(cluster, folder) == ["PENDING"], "the job waits")
            cluster("scontrol", "update", "nodename=node", "state=resume")
            finish(folder, process)
    finally:
        if not cluster.ready():
            cluster("scontrol", "update", "nodename=node", "state=resume")
    assert states(cluster, folder) == ["COMPLETED"]
    assert numbers(folder) == undisturbed


def test_a_job_over_its_time_limit_goes_on_with_twice_the_time(cluster, late, undisturbed):
    folder, process = late
    assert "Trying to restart job" in finish(folder, process)
    assert [row[1:] for row in cluster.jobs(folder, "%l")] == [("TIMEOUT", "1:00"), ("COMPLETED", "2:00")]
    assert FIRST not in log(folder) and LAST in log(folder), "it went on from its checkpoint"
    assert numbers(folder) == undisturbed


def test_snakemake_is_killed_and_started_again_while_its_job_lives_on(cluster, folder, undisturbed):
    """The orphan and its successor run side by side; the second waits for the first, and finds its work done."""
    with workflow(folder, COHORT) as process:
        orphan = freeze(folder)
        process.kill()
        process.wait()
    with workflow(folder, "--unlock") as process:
        finish(folder, process)
    with workflow(folder, COHORT) as process:
        until(lambda: states(cluster, folder) == ["RUNNING"] * 2, "the successor has started")
        os.kill(orphan, signal.SIGCONT)
        finish(folder, process)
    until(lambda: states(cluster, folder) == ["COMPLETED"] * 2, "the orphan has finished too")
    assert numbers(folder) == undisturbed


def test_a_whole_suite_on_two_cards(cluster, tmp_path):
    """From nothing to the table; two jobs at a time, each with a card of its own."""
    steps = {"recipes__teacher__steps": 200, "recipes__student__steps": 20}
    write_tiny(tmp_path, checkpoint_seconds=0, blocks__main__methods=["kd"], **steps)
    with workflow(tmp_path, "tables/tiny.md") as process, ThreadPoolExecutor() as pool:
        teachers = [(f"teacher/cnn-t/seeds-{seed}", f"none--cnn-t/seed{seed}") for seed in (0, 1)]
        pids = list(pool.map(lambda teacher: freeze(tmp_path, *teacher), teachers))
        assert {card(pid) for pid in pids} == {"0", "1"}
        for pid in pids:
            os.kill(pid, signal.SIGCONT)
        finish(tmp_path, process)
    assert set(states(cluster, tmp_path)) == {"COMPLETED"}
    assert "KD" in (tmp_path / "tables/tiny.md").read_text()
    assert not list((tmp_path / "results/slurm-logs").rglob("*.log")), "Slurm's own words are kept of failed jobs only"
