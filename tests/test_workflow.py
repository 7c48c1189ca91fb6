"""The DAG itself, through Snakemake: what it plans, what it runs, what a second run and an edit bring."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import REPOSITORY, tiny_plan, write_tiny


def snakemake(folder: Path, *words: str, ok: bool = True) -> str:
    command = [sys.executable, "-m", "snakemake", "-s", str(REPOSITORY / "Snakefile"), "--cores", "2", *words]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)
    output = done.stdout + done.stderr
    assert (done.returncode == 0) == ok, output
    return output


def job_counts(output: str) -> dict[str, int]:
    table = output.split("Job stats:")[-1]
    return {name: int(n) for name, n in re.findall(r"^(\w+) +(\d+)$", table, re.M)}


def test_the_default_suite_is_planned_with_every_pair_and_figure():
    counts = job_counts(snakemake(REPOSITORY, "-n", "--forceall"))
    assert counts["data"] == 2 and counts["teacher"] == 5 and counts["cohort"] == 14
    assert counts["stages"] == 7 and counts["channels"] == 1 and counts["table"] == counts["figure"] == 1


def test_a_suite_runs_rests_and_grows(trained):
    """From packed data and teachers on: run, do nothing, add a method, lose a result."""
    write_tiny(trained, seeds_per_job=2)
    first = snakemake(trained, "--config", "suite=tiny")
    assert "100%" in first
    plan = tiny_plan(seeds_per_job=2)
    assert (trained / "tables/tiny.csv").exists() and list((trained / "results/tiny/figures").glob("*.svg"))
    assert (trained / "results/tiny/logs/cohort/cnn-t--vit-s/seeds-0-1.log").read_text().startswith("kdbench: ")

    assert "Nothing to be done" in snakemake(trained, "--config", "suite=tiny")

    kept = {r.result: r.result.stat().st_mtime_ns for r in plan.runs().values()}
    write_tiny(trained, seeds_per_job=2, blocks__main__methods=["scratch", "kd", "ofa"])
    counts = job_counts(snakemake(trained, "-n", "--config", "suite=tiny"))
    assert counts["cohort"] == 1 and "teacher" not in counts and "data" not in counts
    snakemake(trained, "--config", "suite=tiny")
    assert all((trained / path).stat().st_mtime_ns == t for path, t in kept.items())
    assert "OFA" in (trained / "tables/tiny.md").read_text()


def test_a_failing_job_costs_no_other_its_results(trained):
    """A damaged result stops one cohort; with keep-going the others finish, and nothing of theirs is deleted."""
    write_tiny(trained, blocks__main__methods=["kd"], recipes__student__steps=2)
    plan = tiny_plan(blocks__main__methods=["kd"], recipes__student__steps=2)
    damaged, other = (plan.runs()["cnn-t--vit-s", "kd", seed].result for seed in (0, 1))
    damaged.parent.mkdir(parents=True)
    damaged.write_text("{")
    output = snakemake(trained, "--config", "suite=tiny", "--keep-going", ok=False)
    assert "seed0.json is damaged" in output
    assert other.exists() and damaged.read_text() == "{"
    assert not (trained / "tables/tiny.md").exists()


def test_a_mistake_in_the_suite_stops_before_any_job(trained):
    write_tiny(trained, blocks__main__methods=["kdd"])
    output = snakemake(trained, "--config", "suite=tiny", ok=False)
    assert "did you mean 'kd'" in output and "Job stats" not in output
    output = snakemake(trained, "--config", "suite=tinny", ok=False)
    assert "did you mean 'tiny'" in output


def test_the_cluster_profile_plans_the_default_suite():
    pytest.importorskip("snakemake_executor_plugin_slurm")
    output = snakemake(REPOSITORY, "-n", "--forceall", "--profile", str(REPOSITORY / "profiles/slurm"))
    assert job_counts(output)["cohort"] == 14


def test_real_cifar_images_go_through_the_same_workflow(tmp_path):
    """config/smoke-cifar100.yaml, where KDBENCH_DATA holds cifar100.npz."""
    if not Path(os.environ.get("KDBENCH_DATA", ""), "cifar100.npz").is_file() or "KDBENCH_DATA" not in os.environ:
        pytest.skip("KDBENCH_DATA names no folder with cifar100.npz")
    snakemake(tmp_path, "--config", f"suite={REPOSITORY / 'config/smoke-cifar100.yaml'}")
    page = (tmp_path / "tables/smoke-cifar100.md").read_text()
    assert "2,000 of 50,000" in page or "2,000 of 25,000" in page
