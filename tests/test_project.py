"""What must agree between files."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from conftest import REPOSITORY
from packaging.requirements import Requirement

import kdbench
from kdbench.plan.suite import load_suite
from kdbench.terminal import compare

PYPROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())


CONSTRAINTS = [line for line in (REPOSITORY / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
REQUIREMENTS = [
    Requirement(text)
    for texts in (PYPROJECT["project"]["dependencies"], *PYPROJECT["project"]["optional-dependencies"].values())
    for text in texts
]


def test_every_requirement_is_a_range_that_holds_the_version_of_our_references():
    """A range, so that kdbench installs beside the torch that somebody has; the constraints are what we ran."""
    exact = {Requirement(line).name: Requirement(line).specifier for line in CONSTRAINTS}
    assert set(exact) == {r.name for r in REQUIREMENTS}
    for requirement in REQUIREMENTS:
        assert {s.operator for s in requirement.specifier} == {">=", "<"}, requirement
        (pin,) = exact[requirement.name]
        assert pin.operator == "==" and pin.version in requirement.specifier, requirement


def test_conda_users_get_the_same_versions():
    environment = yaml.safe_load((REPOSITORY / "environment.yml").read_text())
    python, pip, from_pip = environment["dependencies"]
    assert python == f"python{PYPROJECT['project']['requires-python']}" and pip == "pip"
    assert from_pip == {"pip": CONSTRAINTS}


def test_ci_full_proves_the_oldest_of_the_range():
    script = (REPOSITORY / ".ci/full").read_text()
    for name in ("torch", "torchvision", "timm"):
        (oldest,) = (s.version for r in REQUIREMENTS if r.name == name for s in r.specifier if s.operator == ">=")
        assert f'"{name}=={oldest}"' in script


def test_readers_and_ci_install_with_the_constraints():
    """Without them a fresh machine gets other versions than the references were made with."""
    for file in ("README.md", ".ci/run", ".ci/full", "docs/cluster.md"):
        for line in re.findall(r"pip install .*-e .*", (REPOSITORY / file).read_text()):
            assert "-c constraints.txt" in line, f"{file}: {line}"


def test_planning_imports_nothing_heavy():
    """The Snakefile is parsed for every job: torch, pandas and their like would cost seconds each time."""
    code = (
        "import sys; from kdbench.plan.jobs import make_plan; from kdbench.plan.suite import load_suite; "
        "make_plan(load_suite('quick'));"
        "print([m for m in ('torch', 'timm', 'pandas', 'scipy', 'matplotlib', 'sklearn') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.slow
def test_the_torchvision_shim_declares_once():
    code = (
        "import kdbench.torchvision_ops, importlib; importlib.reload(kdbench.torchvision_ops); import torchvision, timm"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_every_number_that_the_readme_found_stands_in_a_file_of_the_product():
    readme = (REPOSITORY / "README.md").read_text()
    found = " ".join(readme[readme.index("## What we found") : readme.index("## How to read")].split())
    pages = ("tables/reference/glyphs-edition-1.md", "docs/results-glyphs-edition-1.md")
    written = "".join((REPOSITORY / page).read_text() for page in pages)
    written = written.replace("\\", "")
    numbers = re.findall(r"[+−]\d+\.\d \[[+−]\d+\.\d, [+−]\d+\.\d\]", found)
    assert len(numbers) == 9
    for number in numbers:
        assert number in written, number
    (least,) = re.findall(r"verdict could find is (\d\.\d) points", found)
    assert f"{least} points in this verdict (Holm's first step over 7 methods, n = 5)" in written
    recipes = load_suite("glyphs-edition-1").recipes
    steps = {11750 // recipes[name].batch_size * recipes[name].epochs for name in ("cnn-s", "vit-s", "mlp-s")}
    assert f"for {min(steps)} or {max(steps)} steps" in found


def test_the_readme_is_a_page():
    assert len((REPOSITORY / "README.md").read_bytes()) < 7000


PAGES = [REPOSITORY / "config/README.md", *sorted((*REPOSITORY.glob("*.md"), *REPOSITORY.glob("docs/*.md")))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(REPOSITORY)))
def test_links_lead_somewhere(page):
    """To a file that is there and, after a #, to a heading in it as GitHub writes its address."""
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if "://" in link:
            continue
        name, _, heading = link.partition("#")
        target = page.parent / name if name else page
        assert target.exists(), f"{page.name} points to {link}, which is not there"
        if heading:
            titles = re.findall(r"^#+ (.*)$", target.read_text(), re.M)
            anchors = [re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in titles]
            assert heading in anchors, f"{page.name} points to {link}: {target.name} has no such heading"


def test_the_list_of_methods_is_the_methods_own_text():
    from kdbench.plan.registry import method_names
    from kdbench.terminal.catalogue import page

    weights = re.findall(r"^Main weight: (.*)\.$", page(), re.M)
    assert len(weights) == len(method_names()) and weights.count("none, so that `tune` leaves it alone") == 1
    assert "`kd_weight`, by default 1.0" in weights
    assert (REPOSITORY / "docs/methods.md").read_text() == page() + "\n", "run: kdbench show methods > docs/methods.md"


def test_every_method_but_scratch_has_one_bibtex_entry_with_a_key_of_its_own():
    from kdbench.plan.registry import method_info, method_names

    entries = {name: method_info(name).bibtex for name in method_names()}
    assert [name for name, entry in entries.items() if not entry] == ["scratch"]
    keys = {}
    for name, entry in entries.items():
        if entry:
            kind, key = re.match(r"@(\w+)\{([a-z]+\d{4}[a-z0-9]+),\n", entry).groups()
            fields = dict(re.findall(r"^  (\w+) = \{(.+?)\},$", entry, re.M | re.S))
            venue = {"article": "journal", "inproceedings": "booktitle", "misc": "howpublished"}[kind]
            assert {"author", "title", "year", venue} <= set(fields) and fields["year"] in key, name
            assert entry.count("@") == 1 and entry.count("{") == entry.count("}") and entry.endswith("\n}"), name
            on_arxiv = re.search(r"arXiv\s+(\d{4}\.\d{4,5})", method_info(name).doc)
            assert not on_arxiv or on_arxiv[1] == fields.get("eprint") or on_arxiv[1] in fields[venue], name
            keys[key] = name
    assert len(keys) == len(entries) - 1


def test_cite_prints_kdbench_the_methods_and_the_data_of_a_suite_or_of_all(capsys):
    from kdbench import cli
    from kdbench.plan.registry import method_names, source_constant, source_names

    uncited = {name for name in source_names() if not source_constant(name, "BIBTEX")}
    assert uncited == {"glyphs", "imagefolder", "jpegfolder", "npz"}, "drawn here, or a user's own"
    assert source_constant("cifar10", "BIBTEX") == source_constant("cifar100", "BIBTEX")
    printed, keys = [], []
    for words in (["quick"], []):
        assert cli.main(["cite", *words]) == 0
        printed.append(capsys.readouterr().out)
        keys.append(re.findall(r"^@\w+\{(\w+),$", printed[-1], re.M))
    assert keys[0] == ["kdbench2026", "liu2026fdcmkd", "hinton2015kd", "hao2023ofa", "yu2025uhkd", "alpaydin1998digits"]
    # kdbench, all methods but scratch, and digits, CIFAR, MNIST, FSDD, Wikipedia, CREMA-D, AVE and two of CrisisMMD.
    assert set(keys[0]) < set(keys[1]) and len(set(keys[1])) == len(keys[1]) == 1 + len(method_names()) - 1 + 9
    assert f"note = {{Version {kdbench.__version__}}}" in printed[0] and printed[1].count("{") == printed[1].count("}")


def test_the_citation_file_says_the_version_twice_and_rightly():
    cited = yaml.safe_load((REPOSITORY / "CITATION.cff").read_text())
    assert cited["version"] == cited["preferred-citation"]["version"] == kdbench.__version__
    assert cited["title"] == cited["preferred-citation"]["title"] and {"message", "authors"} <= set(cited)


def test_the_page_on_reliability_quotes_the_one_channel_numbers():
    folder = REPOSITORY / "results/reference"
    page = " ".join((REPOSITORY / "docs/reliability.md").read_text().split())
    for new, old, students in (
        ("reliability/quick-avx2.csv", "reliability/quick-intel.csv", ("--cnn-s", "--raster-s")),
        ("reliability/glyphs-cnn-avx2.csv", "glyphs-edition-1/runs.csv", None),
    ):
        judged = compare.judge(*(compare.read_runs(folder / file) for file in (new, old)))
        judged = judged[judged["a"].map(lambda cell: cell.n > 0)]
        moved = judged["difference"].abs()
        told = (
            f"{(judged['verdict'] == 'reproduced').sum()} of {len(judged)} cells are reproduced, by {moved.mean():.1f} "
            f"points on average and {moved.max():.1f} at most"
        )
        assert told in page, told
        if students:
            cnn = moved[judged["pair"].str.endswith(students)]
            assert f"(CNN students: {cnn.mean():.1f} and {cnn.max():.1f})" in page
        else:
            assert f"the largest difference is {moved[judged['method'] != 'rkd'].max():.1f}." in page


def test_the_page_on_reliability_quotes_what_was_measured():
    folder = REPOSITORY / "results/reference/reliability"
    found = {path.stem: json.loads(path.read_text()) for path in folder.glob("*.json")}
    page = " ".join((REPOSITORY / "docs/reliability.md").read_text().split())
    kills, fuzz = ([f for name, f in found.items() if name.startswith(kind)] for kind in ("kills-", "fuzz-"))
    damage, results, hosts = found["checkpoint-damage"], found["result-damage"], found["two-hosts"]
    process, dag = found["jobs-in-one-process"], found["jobs-through-the-dag"]
    memory, files = (list(dag[f"scheduler_{what}"].values()) for what in ("memory_kb", "open_files"))
    lost, interval = max(k["most_steps_lost"] for k in kills), kills[0]["interval_steps"]
    for told in (
        f"{sum(k['kills'] for k in kills)} kills",
        f"at most {lost} steps where a checkpoint is written every {interval}",
        f"each of {damage['lengths']:,} lengths and with each of {damage['flips']:,} bits flipped was used "
        f"{damage['used']} times. Of {results['flips']:,} results with a bit flipped "
        f"{results['accepted_with_every_number_right']} were read",
        f"{sum(f['cases'] for f in fuzz):,} fuzzed files: {sum(f['right'] for f in fuzz):,} right results, "
        f"{sum(f['refused'] for f in fuzz):,} refusals",
        f"Of {hosts['processes']} processes {hosts['finished']} finished and "
        f"{hosts['stopped_with_a_sentence']} stopped",
        f"{process['jobs']} jobs in one process: {process['memory_growth_kb_a_job']:.1f} kB of memory a job",
        f"{dag['jobs']} jobs through Snakemake: it costs {dag['overhead_seconds_a_job']:.2f} s a job",
        f"from {memory[0] / 1000:.0f} MB at the fiftieth job to {memory[1] / 1000:.0f} MB at the last, "
        f"its open files from {files[0]} to {files[1]}, and {dag['temporary_files_left']} temporary files stayed",
    ):
        assert told in page


def test_forms_for_issues_have_what_github_asks_of_them():
    for path in REPOSITORY.glob(".github/ISSUE_TEMPLATE/*.yml"):
        form = yaml.safe_load(path.read_text())
        assert form["name"] and form["description"] and form["body"], path
        for field in form["body"]:
            assert field["type"] in {"dropdown", "input", "textarea", "checkboxes"} and field["attributes"]["label"]
            assert ("options" in field["attributes"]) == (field["type"] in {"dropdown", "checkboxes"})
        ids = [field["id"] for field in form["body"]]
        assert len(set(ids)) == len(ids)


FILE = r"\b(?:kdbench|speed|tests|docs|workflow)/[\w./-]*\.(?:py|json|md|smk|html|csv)\b"


def test_every_file_that_is_named_is_there():
    """In docs, docstrings and comments: files move. Capitals stand for a name."""
    patterns = ("*.md", "docs/*.md", "kdbench/**/*.py", "speed/*.py", "workflow/**/*.smk", "Snakefile")
    for path in (path for pattern in patterns for path in REPOSITORY.glob(pattern)):
        for named in re.findall(FILE, path.read_text()):
            made_up = re.search(r"\b[A-Z]{4,}\b", named)
            assert made_up or (REPOSITORY / named).exists(), f"{path.relative_to(REPOSITORY)} names {named}"


def test_the_container_installs_the_versions_of_the_references_and_runs_the_main_command():
    lines = (REPOSITORY / "Containerfile").read_text().splitlines()
    assert "RUN pip install --no-cache-dir -c constraints.txt -e ." in lines
    assert lines[-1] == 'CMD ["snakemake", "--cores", "all"]'
    image = next(line for line in lines if line.startswith("FROM "))
    assert f"python:{PYPROJECT['project']['requires-python'].removeprefix('>=')}-slim" in image


@pytest.mark.slow
def test_conda_can_solve_the_environment():
    conda = next(filter(None, map(shutil.which, ("micromamba", "mamba", "conda"))), None)
    if conda is None:
        pytest.skip("there is no micromamba, mamba or conda")
    command = [conda, "env", "create", "--dry-run", "--file", REPOSITORY / "environment.yml", "--name", "kdbench-test"]
    if Path(conda).name == "micromamba":
        command = [conda, "create", "--yes", *command[3:]]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
