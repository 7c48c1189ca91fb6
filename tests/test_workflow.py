"""The DAG itself, through Snakemake: what it plans, what it runs, what a second run and an edit bring."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from browser import browser, needs_browser
from conftest import REPOSITORY, TINY, tiny_plan, write_tiny
from fakes import block, fake_plan, finish_all
from test_figures import stages

from kdbench.files import write_json
from kdbench.plan.keys import versions
from kdbench.plan.paths import home
from kdbench.run.outputs import run_figures, run_table
from kdbench.run.training import write_manifest

PAIRS, METHODS = ["cnn-t -> vit-s", "cnn-t -> mlp-s"], ("scratch", "kd", "uhkd")
KINDS = {"accuracy", "channels", "compute", "cost", "learning", "similarity", "spectra", "stages", "treatments"}
KINDS |= {"verdict"}
DRAWN = KINDS - {"channels", "compute", "treatments", "learning"}
"""Those of a suite of one modality and budget whose students train for fewer than five epochs."""


def snakemake(folder: Path, *words: str, ok: bool = True, snakefile: str = "Snakefile") -> str:
    command = [sys.executable, "-m", "snakemake", "-s", str(REPOSITORY / snakefile), "--cores", "2", *words]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)
    output = done.stdout + done.stderr
    assert (done.returncode == 0) == ok, output
    return output


def job_counts(output: str) -> dict[str, int]:
    table = output.split("Job stats:")[-1]
    return {name: int(n) for name, n in re.findall(r"^(\w+) +(\d+)$", table, re.M)}


@pytest.mark.parametrize("snakefile", ["Snakefile", "workflow/Snakefile"])
def test_the_default_suite_is_planned_with_every_pair_and_figure(snakefile):
    counts = job_counts(snakemake(REPOSITORY, "-n", "--forceall", snakefile=snakefile))
    assert counts["data"] == 2 and counts["teacher"] == 5 and counts["cohort"] == 13
    assert counts["stages"] == 6 and counts["channels"] == 1 and counts["table"] == counts["figure"] == 1


@pytest.mark.slow
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


@pytest.mark.slow
def test_no_student_starts_below_a_teacher_of_another_accuracy(trained):
    """A file whose stated accuracy is wrong stops its pair before a student; stated right, the suite goes on."""
    weights = trained / "results/tiny/teachers/cnn-t/seed0.safetensors"
    weights.rename(trained / "own.safetensors")
    found = json.loads(weights.with_suffix(".json").read_text())["accuracy"]["test"]
    shutil.rmtree(trained / "results/tiny")
    teacher = {k: v for k, v in TINY["models"]["cnn-t"].items() if k != "recipe"} | {"weights": "own.safetensors"}
    write_tiny(trained, **{"models__cnn-t": teacher | {"accuracy": found - 2}})
    output = snakemake(trained, "--keep-going", "--config", "suite=tiny", ok=False)
    assert f"test accuracy of {found:.2f} %, but the suite states {found - 2:.2f} % within 0.5" in output
    assert not (trained / "results/tiny/runs/cnn-t--vit-s").exists()
    assert (trained / "results/tiny/runs/none--vit-s/scratch/seed1.json").exists(), "it needs no teacher"

    write_tiny(trained, **{"models__cnn-t": teacher | {"accuracy": found}})
    snakemake(trained, "--config", "suite=tiny")
    assert "Nothing to be done" in snakemake(trained, "--config", "suite=tiny")
    write_tiny(trained, **{"models__cnn-t": teacher | {"accuracy": found + 2}})
    snakemake(trained, "--config", "suite=tiny", ok=False)
    assert not (trained / "results/tiny/teachers/cnn-t/seeds-0.json").exists()


MADE_BY = {
    "stages": '"similarity", "frequency"',
    "channels": '"similarity", "frequency"',
    "table": '"tables"',
    "figure": '"figures"',
}


def test_tables_and_figures_start_anew_when_the_version_of_what_makes_them_rises():
    rules = (REPOSITORY / "workflow/rules/report.smk").read_text()
    named = {rule: re.search(rf"rule {rule}:.*?report_version\((.*?)\)", rules, re.S)[1] for rule in MADE_BY}
    assert named == MADE_BY
    assert {part for parts in MADE_BY.values() for part in re.findall(r'"(\w+)"', parts)} <= set(versions())


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


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--config", "suit=tiny"], "did you mean 'suite'? Run: snakemake --cores all --config suite=tiny"),
        (["--configfile", "config/tiny.yaml"], "belongs in a suite's file; name that by --config suite=PATH"),
        (["--config", "suite=1e3"], "expected a name or a path, got the float 1000.0"),
    ],
)
def test_never_another_suite_than_was_asked_for(tmp_path, words, told):
    """`quick` is there, so that whoever falls back to it would plan it; tests/test_suite.py has more cases."""
    write_tiny(tmp_path).with_name("quick.yaml").write_bytes(write_tiny(tmp_path).read_bytes())
    output = snakemake(tmp_path, "-n", *words, ok=False)
    assert told in " ".join(output.split()) and "Traceback" not in output and "Job stats" not in output


def test_the_cluster_profile_plans_the_default_suite():
    pytest.importorskip("snakemake_executor_plugin_slurm")
    output = snakemake(REPOSITORY, "-n", "--forceall", "--profile", str(REPOSITORY / "profiles/slurm"))
    assert job_counts(output)["cohort"] == 13


def test_real_cifar_images_go_through_the_same_workflow(tmp_path):
    """config/smoke-cifar100.yaml, where KDBENCH_DATA holds cifar100.npz."""
    if not Path(os.environ.get("KDBENCH_DATA", ""), "cifar100.npz").is_file() or "KDBENCH_DATA" not in os.environ:
        pytest.skip("KDBENCH_DATA names no folder with cifar100.npz")
    snakemake(tmp_path, "--config", f"suite={REPOSITORY / 'config/smoke-cifar100.yaml'}")
    page = (tmp_path / "tables/smoke-cifar100.md").read_text()
    assert "2,000 of 50,000" in page or "2,000 of 25,000" in page


# ---------------------------------------------------------------------------------------------------------- its report


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """`snakemake --report` of a finished suite of two blocks, whose results nobody trained."""
    folder = tmp_path_factory.mktemp("report")
    few = {"main": block(METHODS, pairs=PAIRS), "main-2": block(METHODS[:2], pairs=PAIRS[:1])}
    suite = {"seeds": [0, 1], "blocks": few}
    with contextlib.chdir(folder):
        plan = fake_plan(**suite)
        write_tiny(folder, **suite)
        finish_all(plan)
        measured = {(b.name, d["pair"]): d for b in plan.suite.blocks for d in stages(b)}
        for job in plan.jobs:
            if job.runs:
                write_manifest(job)
            elif job.kind == "stages":
                write_json(job.output, measured[job.block, job.pair.id])
        run_table(plan)
        run_figures(plan, home(plan.suite) / "figures")
        write_json(plan.of("data")[0].output, {})
    snakemake(folder, "--config", "suite=tiny", "--touch", "--forceall")
    snakemake(folder, "--config", "suite=tiny", "--report", "report.html")
    return folder / "report.html"


@pytest.mark.slow
def test_the_report_tells_its_figures_apart(report):
    results, categories, runtimes = (
        json.loads(re.search(rf"<script id.*>\s*var {name} = (.*);", report.read_text())[1])
        for name in ("results", "categories", "runtimes_spec")
    )
    assert set(categories) == {"tables", "main", "main-2"}
    labels = {place: [results[path]["labels"] for path in paths] for place, paths in categories["main"].items()}
    assert {label["figure"] for label in labels["all"]} == DRAWN
    assert {(label["pair"], label["frequencies"]) for label in labels["by pair"]} == {
        (pair.replace(" -> ", "--"), band) for pair in PAIRS for band in ("low", "high")
    }
    assert {label["method"] for label in labels["by method"]} == set(METHODS)
    assert {result["labels"]["suite"] for result in results.values()} == {"tiny"}
    captions = {result["caption"] for result in results.values()}
    assert all("Shows" in caption and "system-message" not in caption for caption in captions)
    assert len(captions) == len(DRAWN) + 3, "besides: by pair, by method, tables"
    jobs_told = {job["rule"] for job in runtimes["data"]["values"]}
    assert jobs_told == {"data", "teacher", "cohort", "stages", "table", "figure"}


def test_every_kind_of_figure_has_a_caption():
    captions = (REPOSITORY / "workflow/report/figure.rst").read_text()
    assert set(re.findall(r'kind == "(\w+)"', captions)) == KINDS


STATISTICS = """return (async () => {
  const drawn = () => document.querySelectorAll("div#runtimes canvas, div#timeline canvas").length;
  for (let i = 0; i < 200 && drawn() < 2; i++) await new Promise((tell) => setTimeout(tell, 50));
  return drawn();
})()"""


@pytest.mark.slow
@needs_browser
def test_the_report_opens_and_is_clicked_through(report):
    shown = "return document.querySelector('div.p-3 > img')"
    with browser(1280, 900) as tab:

        def click(*words):
            for word in words:
                tab.click(f"//*[self::a or self::label][normalize-space(.)='{word}']")

        def page():
            return " ".join(tab.run("return document.body.innerText").split())

        tab.open(report)
        assert "suite tiny" in page()
        click("Statistics")
        assert tab.run(STATISTICS) == 2
        click("main", "all")
        tab.click("//tr[td='accuracy']//a[1]")
        assert tab.run(f"{shown}.naturalWidth") > 100
        tab.click("//tr[td='accuracy']//a[2]")
        assert "paired by seed, for every method and pair" in page()
        click("main", "by pair")
        tab.click("//tr[td='cnn-t--vit-s']//a[1]")
        for band in ("high", "low"):
            click(band)
            path = f"results/tiny/figures/main/by-pair/cnn-t--vit-s-{band}.svg"
            assert tab.run(f"{shown}.src === results[arguments[0]].data_uri", path)
        click("Results", "tables")
        # Every result bears the name of its suite, those of the list that is about to leave too.
        tab.click("//table[not(.//td='cnn-t--vit-s')]//tr[td='tiny']//a[1]")
        tab.into("iframe")
        assert "Test accuracy, %" in page() and "UHKD†" in page()
        assert tab.errors() == []
