"""Where everything lies on disk.

    data      results/data/NAME-HASH/meta.json              one a data set, or a draw of it; shared by all suites
    teacher   results/SUITE/teachers/MODEL/seeds-0-1.json   manifest of the runs teachers/MODEL/seedN.json
    cohort    results/SUITE/cohorts/PAIR/seeds-0-1.json     manifest of the runs runs/PAIR/METHOD/seedN.json
              results/SUITE/cohorts/PAIR/seeds-0-1.x4.json  of a budget of 4, its runs in runs-x4/
    tune      results/SUITE/tuned.json                      weights chosen from the cohorts PAIR/seeds-N.tune.json
    stages    results/SUITE/similarity/BLOCK/PAIR.json      teacher and student by stage and band
    channels  results/SUITE/channels/BLOCK/A--B.json        two teachers of different modalities
    row       submissions/NAME/                             a submitted method and its runs (results/submission.py)

results/SUITE/suite.txt names the file of the suite, since two files may have one name. Suites and references are looked
up in the working folder first, then among those that come with kdbench; written is in the working folder alone.
A job declares only its manifest to Snakemake. Runs and checkpoints are undeclared, so that Snakemake neither deletes
them before a job nor after a failure.
"""

from __future__ import annotations

import contextlib
import os
import urllib.parse
from pathlib import Path

from kdbench.files import is_url, write_text
from kdbench.plan.keys import hash_of, version_of
from kdbench.plan.registry import PACKAGE, changed_args
from kdbench.types import KdbenchError, ModelSpec, Suite

CONFIG_FOLDER, RESULTS, TABLES, DOCS = Path("config"), Path("results"), Path("tables"), Path("docs")
REFERENCES = RESULTS / "reference"
SUBMISSIONS = Path("submissions")
CLAIM = "suite.txt"
"""In results/SUITE: the path of the suite's file, relative to the project where it lies in it."""


def shipped(place: Path | str) -> Path:
    """Where a file or folder lies that comes with kdbench: in the package of a wheel, else in the repository."""
    of_wheel = PACKAGE / "shipped"
    return (of_wheel if of_wheel.is_dir() else PACKAGE.parent) / place


def found(place: Path) -> Path:
    """Where a place is read: in the working folder, or where it is not there, in what comes with kdbench."""
    return next((path for path in (place, shipped(place)) if path.exists()), place)


def home(suite: Suite) -> Path:
    """The folder that holds all results of a suite."""
    return RESULTS / suite.name


def claim(suite: Suite) -> None:
    """Write down whose the folder of results is, before anything else is written there."""
    if suite.path:
        path = suite.path.resolve()
        # Relative within the project, so that it holds when that is moved, and within what comes with kdbench.
        root = next((root for root in (Path.cwd(), shipped("")) if path.is_relative_to(root)), None)
        path = path.relative_to(root) if root else path
        if _claim_text(home(suite)) != f"{path}\n":
            # Who must write results into a folder that cannot be written will say so; tables can be made of it.
            with contextlib.suppress(KdbenchError):
                write_text(home(suite) / CLAIM, f"{path}\n")


def owner_of(name: str) -> Path | None:
    """The file whose suite has results/NAME: the one that claimed it, else config/NAME.yaml; None where neither is."""
    claimed = _claim_text(RESULTS / name).strip()
    places = (Path(claimed), shipped(claimed), CONFIG_FOLDER / f"{name}.yaml")
    return next((path for path in places if path.is_file()), None)


def _claim_text(folder: Path) -> str:
    claim = folder / CLAIM
    return claim.read_text(encoding="utf-8", errors="replace") if claim.is_file() else ""


def runs_folder(suite: Suite, budget: float) -> Path:
    """Where the runs of the students lie that train for so many times their recipe."""
    return home(suite) / f"runs{of_budget(budget, '-')}"


def of_budget(budget: float, before: str = " ") -> str:
    """What names add for a budget other than 1: x4."""
    return "" if budget == 1 else f"{before}x{budget:g}"


def data_folder(suite: Suite, name: str, seed: int) -> Path:
    """Where the packed data of a seed lie; the name changes with the arguments and code of the source."""
    spec = suite.data[name].drawn(seed)
    args = changed_args(spec.source, spec.args)
    return RESULTS / "data" / f"{name}-{hash_of([spec.source, args, version_of(f'source {spec.source}')])[:8]}"


def weights_file(model: ModelSpec) -> Path:
    """Where the file lies that a model's weights come from; a URL's is downloaded there."""
    if not is_url(model.weights):
        return Path(model.weights)
    name = urllib.parse.urlsplit(model.weights).path.rpartition("/")[2]
    return RESULTS / "data" / "downloads" / f"{model.sha256[:16]}-{name[-64:]}"


def reference_folder(suite: Suite) -> Path:
    """Where the committed results of a suite lie, or where they would: runs.csv and what belongs to it."""
    return REFERENCES / suite.name


def findings_page(suite: Suite) -> Path:
    """What a suite found, for people; its abstract is written by hand."""
    return DOCS / f"results-{suite.name}.md"


def proxy_file(suite: Suite, other: str) -> Path:
    """How far a suite predicts another."""
    return TABLES / "reference" / f"{suite.name}-proxy-{other}.md"


def tuned_file(suite: Suite) -> Path:
    """The weights that tuning chose."""
    return home(suite) / "tuned.json"


def table_files(suite: Suite) -> list[Path]:
    return [TABLES / f"{suite.name}.{suffix}" for suffix in ("md", "tex", "html", "csv")]


def data_dir() -> Path | None:
    """The user's folder of data files: the setting KDBENCH_DATA. Raises KdbenchError where that is no folder."""
    setting = os.environ.get("KDBENCH_DATA", "").strip()
    if not setting:
        return None
    folder = Path(os.path.expanduser(setting))  # which, unlike Path, leaves a user that there is not
    if not os.path.isdir(folder):  # Path.is_dir raises for names that are too long
        what = "is not a folder" if os.path.lexists(folder) else "does not exist"
        raise KdbenchError(f"KDBENCH_DATA={setting} {what}; set it to the folder that holds your data, or unset it")
    return folder
