"""kdbench without its repository: what a wheel holds, and that it works from any folder."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest
from conftest import REPOSITORY, tiny_plan, write_tiny
from test_workflow import job_counts

import kdbench
from kdbench import cli
from kdbench.plan import paths


def done(*command: str | Path, folder: Path, code: int = 0) -> str:
    """What a command prints that has this exit code, in an environment that knows nothing of the repository."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    ended = subprocess.run(list(map(str, command)), cwd=folder, env=environment, capture_output=True, text=True)
    assert ended.returncode == code, ended.stdout + ended.stderr
    return ended.stdout + ended.stderr


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    done(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", folder, REPOSITORY, folder=folder)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def bin(wheel, tmp_path_factory) -> Path:
    """The programs of an environment with the wheel and with the packages of the tests' own, but for its kdbench: .pth
    files of a folder that a .pth file names, an editable install's among them, are passed over. It lies in a project
    of somebody's, as such environments do."""
    project = tmp_path_factory.mktemp("project")
    somebody = ("-c", "user.name=somebody", "-c", "user.email=somebody@example.org")
    done("git", "init", "--quiet", folder=project)
    done("git", *somebody, "commit", "--quiet", "--allow-empty", "--message", "a project", folder=project)
    done(sys.executable, "-m", "venv", "--without-pip", "venv", folder=project)
    python = project / "venv/bin/python"
    (site,) = (project / "venv").glob("lib/python*/site-packages")
    (site / "requirements.pth").write_text(sysconfig.get_path("purelib"))
    done(sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps", wheel, folder=project)
    return python.parent


@pytest.mark.slow
def test_a_wheel_holds_the_package_and_what_is_shipped_with_it(wheel):
    """Committed files or such as could be committed: no results of runs."""
    places = ("kdbench", "Snakefile", "config", "profiles", "workflow", "results/reference", "tables/reference")
    places += ("CITATION.cff",)
    files = done("git", "ls-files", "--cached", "--others", "--exclude-standard", *places, folder=REPOSITORY).split()
    expected = {file if file.startswith("kdbench/") else f"kdbench/shipped/{file}" for file in files}
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert names == expected and "kdbench/shipped/results/reference/glyphs-edition-1/runs.csv" in names
    assert wheel.stat().st_size < 20e6 and f"-{kdbench.__version__}-" in wheel.name


@pytest.mark.slow
def test_a_wheel_works_from_any_folder(bin, tmp_path):
    (package,) = bin.parent.glob("lib/python*/site-packages/kdbench")

    def state() -> dict[Path, int]:
        return {path: path.stat().st_mtime_ns for path in package.rglob("*") if "__pycache__" not in str(path)}

    installed, mine = state(), tmp_path / "mine"
    facts = "from kdbench.results.provenance import versions; v = versions(); print(v['kdbench'], v['commit'])"
    where = "import kdbench; print(kdbench.__file__)"
    assert done(bin / "python", "-c", where, folder=tmp_path).strip() == str(package / "__init__.py")
    assert done(bin / "python", "-c", facts, folder=tmp_path).split() == [kdbench.__version__, "unknown"]

    done(bin / "kdbench", "init", "mine", folder=tmp_path)
    assert "303 runs" in done(bin / "kdbench", "plan", "tuned", folder=mine)
    told = done(bin / "kdbench", "compare", "quick", folder=mine, code=2)
    assert f"no cell of quick and {package}/shipped/results/reference/quick/runs.csv can be judged" in told
    done(bin / "kdbench", "report", "glyphs-edition-1", "--reference", folder=mine)
    page = (mine / "results/glyphs-edition-1/reference.html").read_text()
    assert "data:image/png" in page and "+9.9 [+8.2, +11.7]" in page

    snakemake = (bin / "python", "-m", "snakemake", "--cores", "1")
    for suite, cohorts in (("quick", 13), ("tuned", 12)):  # one in the folder, one in the package
        counts = job_counts(done(*snakemake, "-n", "--config", f"suite={suite}", folder=mine))
        assert counts["cohort"] == cohorts and counts["figure"] == counts["all"] == 1
    write_tiny(mine)
    packed = paths.data_folder(tiny_plan().suite, "digits", 0) / "meta.json"
    done(*snakemake, packed, "--config", "suite=tiny", folder=mine)
    assert (mine / packed).is_file()
    assert state() == installed


def test_init_lays_out_a_folder_and_writes_over_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    for folder in ("new", "empty"):
        assert cli.main(["init", folder]) == 0
        printed = {Path(line) for line in capsys.readouterr().out.splitlines()}
        assert printed == {path.relative_to(tmp_path) for path in (tmp_path / folder).rglob("*") if path.is_file()}
    for place in ("config/quick.yaml", "profiles/slurm/config.yaml"):
        assert (tmp_path / "new" / place).read_bytes() == (REPOSITORY / place).read_bytes()

    (tmp_path / "new/Snakefile").write_text("my own")
    (tmp_path / "file").touch()
    for folder, told in (("new", "new is not empty"), ("file", "file is a file")):
        assert cli.main(["init", folder]) == 2
        assert f"{told}, and init writes over nothing; name a folder" in capsys.readouterr().err
    assert (tmp_path / "new/Snakefile").read_text() == "my own"


def test_what_is_read_is_the_folders_own_else_what_comes_with_kdbench(tmp_path, monkeypatch):
    package, runs = tmp_path / "site-packages/kdbench", paths.REFERENCES / "quick/runs.csv"
    monkeypatch.setattr(paths, "PACKAGE", package)
    monkeypatch.chdir(tmp_path)
    assert paths.shipped("config") == tmp_path / "site-packages/config", "a checkout"
    came = package / "shipped" / runs
    came.parent.mkdir(parents=True)
    assert paths.shipped("config") == package / "shipped/config", "a wheel"
    assert paths.found(runs) == runs, "neither has it"
    came.touch()
    assert paths.found(runs) == came
    runs.parent.mkdir(parents=True)
    runs.touch()
    assert paths.found(runs) == runs
