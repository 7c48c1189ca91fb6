"""`kdbench submit`: a method of somebody else's becomes a row, trained beside the check rows."""

from __future__ import annotations

from pathlib import Path

from kdbench.files import atomic
from kdbench.plan.keys import method_code
from kdbench.plan.paths import claim
from kdbench.plan.suite import load_suite
from kdbench.report.block import about, block_reports
from kdbench.results import provenance
from kdbench.results.submission import (
    METHOD,
    Submission,
    folder_of,
    suite_tree_for,
    write_card,
    write_submission,
    write_suite,
)
from kdbench.results.today import Today
from kdbench.run.everything import run_jobs
from kdbench.run.progress import say
from kdbench.submit.verify import check_keys, check_rules, recompute, training_plan
from kdbench.types import KdbenchError


def submit(base: str, method: str, name: str | None) -> list[Path]:
    """Check a method, train it and CHECKS on the blocks of suite `base`, and write submissions/NAME.

    method: path/to/file.py:CLASS. name: by default the file's. What is finished is not trained again.
    Raises KdbenchError for a method that breaks a rule, a suite without a reference of today, and check rows that do
    not agree with it.
    """
    place, _, cls = method.partition(":")
    file, cls = Path(place), cls or "Method"
    if file.suffix != ".py" or not file.is_file():
        raise KdbenchError(f"--method: expected path/to/file.py:CLASS of a file that is there, got {method!r}")
    name, suite = name or file.stem, load_suite(base)
    tree = suite_tree_for(base, name, cls)
    check_rules(file, cls)
    with atomic(folder_of(name) / METHOD) as copy:
        copy.write(file.read_bytes())
    plan = training_plan(write_suite(name, tree, suite.name))
    check_keys(plan, suite)
    claim(plan.suite)
    run_jobs(plan)
    today = Today(plan)
    facts = about(block_reports(today)) | {
        "suite": suite.name,
        "class": cls,
        "code": method_code(tree["methods"][name]["method"]),
        "processor": provenance.processor(),
    }
    written = [*write_submission(today, name, facts), card := write_card(name)]
    say(f"{recompute(Submission(name))}; fill in {card}, then: kdbench verify {folder_of(name)}")
    return written
