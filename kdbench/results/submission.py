"""A submitted row: somebody's method with what it did on the blocks of a reference, in submissions/NAME.

    method.py      the method, one file
    NAME.yaml      the suite that was trained, made of the reference's own: its blocks with CHECKS and the method
    runs.csv       one row a run, in COLUMNS
    correct.npz    which test samples each run gets right, as a reference has it
    about.json     the suite, the class, what computed the runs, and the checksum of every file above
    card.yaml      CARD: filled in by hand
    verified.json  what `kdbench verify` found, for the about.json that it names

Of these files nothing runs when they are read: not even the suite's is looked at. kdbench/submit/ makes them and proves
them again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from kdbench.errors import unknown
from kdbench.files import read_json, sha256_file, write_json, write_text
from kdbench.plan import yamlfile
from kdbench.plan.paths import SUBMISSIONS
from kdbench.plan.registry import method_names
from kdbench.plan.suite import CONFIG_FOLDER, load_suite, suite_path, suite_tree, typed
from kdbench.plan.trees import checked_name
from kdbench.results.frames import all_runs
from kdbench.results.record import FINISHED
from kdbench.results.reference import Frozen, correct, write_correct
from kdbench.results.today import Today
from kdbench.types import KdbenchError, Suite

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

CHECKS = ("scratch", "kd")
"""Rows that are trained beside a submitted method and must agree with the reference."""
METHOD, ABOUT, VERDICT = "method.py", "about.json", "verified.json"
CARD = {
    "paper": "authors, title, venue and year, or: unpublished",
    "claims": "what the method is said to do, in a sentence or two",
    "contact": "whom to ask, as it may be shown",
}
REFERENCE, VERIFIED, REPORTED = "reference", "verified", "reported"
"""How a row is marked: trained by the keepers of the suite, proven by `kdbench verify`, or as its author says."""
COLUMNS = ["edition", "block", "pair", "teacher", "student", "method", "label", "seed", "budget", "status", "reason"]
COLUMNS += ["notes", "test", "key", "steps", "seconds", "peak_memory_mb", "extra_parameters", "student_parameters"]
COLUMNS += ["operations_per_step", "teacher_operations_per_step", "finished_at", "hardware"]
"""Of frames.all_runs: the test accuracy, which correct.npz tells again, and what a run was and cost. What else a
reference knows (validation, calibration, teachers) nobody could recompute from these files."""
_OF_ABOUT = ("suite", "class", "code", "processor")
_OF_BLOCK = ("title", "data", "pairs", "seeds", "budgets", "budget", "layout")
_LEFT_OUT = ("tune", "claims", "paper")


def folder_of(name: str) -> Path:
    """Raises KdbenchError for what cannot be the name of a folder."""
    return SUBMISSIONS / checked_name(name, "a submission", reserved={"data", "reference"})


def suite_tree_for(base: str, name: str, cls: str) -> dict[str, Any]:
    """The values of the suite file of a submission: the blocks of suite `base` that have CHECKS, with these and the
    submitted method as their rows; seeds, budgets, networks, recipes and data as they are there.

    Raises KdbenchError for a suite that is not in config/, where no block has CHECKS, and for a name that is a method's
    or a suite's.
    """
    suite, (tree, _) = load_suite(base), suite_tree(suite_path(base))
    if typed(suite) != suite.name:
        raise KdbenchError(f"rows are submitted to a suite in {CONFIG_FOLDER}/, and {base} is none")
    rows = {block.name: {method.id for method in block.trained} for block in suite.blocks}
    if name in {*method_names(), *(id for ids in rows.values() for id in ids)}:
        raise KdbenchError(f"{name!r} is a method of kdbench or of suite {suite.name}; submit under another --name")
    if (CONFIG_FOLDER / f"{name}.yaml").exists():
        raise KdbenchError(f"{name!r} is a suite in {CONFIG_FOLDER}/; submit under another --name")
    if not (kept := [block for block, ids in rows.items() if set(CHECKS) <= ids]):
        raise KdbenchError(
            f"suite {suite.name} has no block with {' and '.join(CHECKS)}, the check rows of a submission"
        )
    methods = {id: spec for id, spec in (tree.get("methods") or {}).items() if id in CHECKS}
    blocks = {
        block: {key: value for key, value in tree["blocks"][block].items() if key in _OF_BLOCK}
        | {"methods": [*CHECKS, name]}
        for block in kept
    }
    return {key: value for key, value in tree.items() if key not in _LEFT_OUT} | {
        "title": f"{name}, submitted to {suite.name}",
        "methods": methods | {name: {"method": f"{(folder_of(name) / METHOD).as_posix()}:{cls}"}},
        "blocks": blocks,
    }


# ------------------------------------------------------------------------------------------------------------- writing


def write_suite(name: str, tree: Mapping[str, Any], base: str) -> Path:
    """The suite file of a submission, of what suite_tree_for gives."""
    path = folder_of(name) / f"{name}.yaml"
    text = yaml.safe_dump(dict(tree), sort_keys=False, allow_unicode=True, width=120, default_flow_style=None)
    write_text(path, f"# Made by `kdbench submit {base}`, of config/{base}.yaml.\n{text}")
    return path


def write_card(name: str) -> Path:
    """The card with its fields empty, where there is none yet."""
    path = folder_of(name) / "card.yaml"
    if not path.exists():
        fields = [f"{key}:  # {what}\n" for key, what in CARD.items()]
        write_text(path, "# What stands behind this row; `kdbench verify` asks for every field.\n" + "".join(fields))
    return path


def write_submission(today: Today, name: str, about: dict[str, Any]) -> list[Path]:
    """Write runs.csv, correct.npz and, last, about.json of a submission whose suite is trained.

    A test accuracy is that of the predictions as they are stored, in half precision: ties that it makes can move it by
    a sample or two from that of the run's record.
    """
    folder, rows = folder_of(name), correct(today)
    tests = {(run.pair.id, run.method.id, run.seed, run.budget): 100 * right.mean() for run, right in rows}
    runs = all_runs(today).reindex(columns=COLUMNS)
    runs["test"] = [_owned(tests, run) for _, run in runs.iterrows()]
    write_text(folder / "runs.csv", runs.to_csv(index=False, lineterminator="\n"))
    write_correct(rows, folder / "correct.npz")
    files = [folder / file for file in (METHOD, f"{name}.yaml", "runs.csv", "correct.npz")]
    write_json(folder / ABOUT, {**about, "files": {path.name: sha256_file(path) for path in files}})
    return [*files, folder / ABOUT]


def _owned(table: Mapping[tuple[str, str, int, float], Any], run: pd.Series) -> Any:
    """The entry of a row of runs.csv in a table by (pair, method, seed, budget), where it stands under its pair or,
    without a teacher, under its student alone; None where there is none."""
    which = run.method, int(run.seed), float(run.budget)
    return table.get((run.pair, *which), table.get((f"none--{run.student}", *which)))


# ------------------------------------------------------------------------------------------------------------- reading


class Submission(Frozen):
    """The files of submissions/NAME.

    Raises KdbenchError for a name that is none, a submission that is not there, and files that are missing or damaged.
    """

    def __init__(self, name: str) -> None:
        folder = folder_of(name)
        if not folder.is_dir():
            raise unknown("submission", name, (path.name for path in SUBMISSIONS.glob("*")), str(SUBMISSIONS))
        super().__init__(folder, f"kdbench submit SUITE --method FILE:CLASS --name {name}")
        self.name = name
        for path in folder.iterdir():
            if path.is_symlink():
                raise KdbenchError(f"{path} is a link; a submission holds its files itself")
        read_json(folder / ABOUT, *_OF_ABOUT)
        for file in (METHOD, f"{name}.yaml", "correct.npz"):
            if self._file(file) is None:
                raise KdbenchError(f"{folder / ABOUT} does not name {file}; submit the method again")

    @property
    def base(self) -> str:
        """The suite that it was submitted to."""
        return str(self.about["suite"])

    @property
    def cls(self) -> str:
        """The class in its method file."""
        return str(self.about["class"])

    @property
    def suite_file(self) -> Path:
        return self.folder / f"{self.name}.yaml"

    @cached_property
    def card(self) -> dict[str, str]:
        """CARD as far as it is filled in. Raises KdbenchError for a file that is no card."""
        path = self.folder / "card.yaml"
        tree = yamlfile.read(path) if path.exists() else {}
        if not isinstance(tree, dict) or not all(v is None or isinstance(v, str) for v in tree.values()):
            raise KdbenchError(f"{path}: expected the texts {', '.join(CARD)}")
        for key in tree:
            if key not in CARD:
                raise unknown("key", key, CARD, str(path))
        return {key: text.strip() for key, text in tree.items() if text and text.strip()}

    @cached_property
    def verdict(self) -> dict[str, Any] | None:
        """verified.json, where it is about these files."""
        path = self.folder / VERDICT
        found = read_json(path, "about", "retrained", "date") if path.exists() else None
        return found if found and found["about"] == sha256_file(self.folder / ABOUT) else None

    @property
    def mark(self) -> str:
        return VERIFIED if self.verdict else REPORTED

    def right_of(self, run: pd.Series) -> np.ndarray | None:
        """Which test samples the run of a row of `runs` gets right; None where correct.npz does not know it."""
        return _owned(self.right, run)

    def check_numbers(self, counts: Mapping[str, int]) -> int:
        """How many runs have a test accuracy, each recomputed. counts: test samples of each block.

        Raises KdbenchError for the first that is another.
        """
        finished = self.runs[self.runs["status"] == FINISHED]
        for _, run in finished.iterrows():
            where = f"{self.folder / 'runs.csv'}: {run.block}/{run.pair}/{run.method} seed {run.seed}"
            right = self.right_of(run)
            if right is None:
                raise KdbenchError(f"{where} has no row in correct.npz, so that its test accuracy cannot be recomputed")
            if len(right) != counts[run.block]:
                raise KdbenchError(f"{where} has {len(right)} test samples in correct.npz, not {counts[run.block]}")
            if not abs(run.test - 100 * right.mean()) < 1e-9:
                raise KdbenchError(
                    f"{where} says a test accuracy of {run.test:.4f} %, and correct.npz gives {100 * right.mean():.4f}"
                )
        return len(finished)


def submissions_to(suite: Suite, names: Sequence[str]) -> list[Submission]:
    """These submissions. Raises KdbenchError where one is to another suite or another edition of it."""
    found = [Submission(name) for name in names]
    for submission in found:
        if submission.base != suite.name:
            raise KdbenchError(f"{submission.folder} is a submission to suite {submission.base}, not to {suite.name}")
        if other := set(submission.texts["edition"]) - {str(suite.edition)}:
            raise KdbenchError(
                f"{submission.folder} is of edition {min(other)}, and suite {suite.name} of edition {suite.edition}"
            )
    return found


def submissions() -> list[Submission]:
    """All that lie in submissions/."""
    return [Submission(path.parent.name) for path in sorted(SUBMISSIONS.glob("*/runs.csv"))]
