"""`kdbench verify`: is a submitted row what its files say? Every number is recomputed and one run is trained again.

Recomputed, in seconds: the suite from the reference's, the keys from suite, method file and versions of kdbench, each
test accuracy from the samples that the run gets right; and the check rows are held against the reference. Whoever
forges all of these files alike is found by the run that is trained again, a pair and a seed drawn by lot: on the same
kind of processor and the same torch it must give the same answer on every test sample, elsewhere an accuracy within the
interval that the submitted seeds foretell.
"""

from __future__ import annotations

import datetime
import itertools
import math
import random
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats as st

from kdbench.conformance import rehearsal, rules
from kdbench.data.packed import load_packed
from kdbench.files import sha256_file, write_json
from kdbench.plan import yamlfile
from kdbench.plan.jobs import Plan, Run, jobs_of_pair, jobs_of_teacher, make_plan, teacher_seed
from kdbench.plan.keys import method_code
from kdbench.plan.paths import SUBMISSIONS, data_folder, home
from kdbench.plan.suite import load_suite
from kdbench.results import provenance
from kdbench.results.frames import predictions
from kdbench.results.record import FINISHED, read_run
from kdbench.results.reference import CELL, NEEDED, Frozen, Reference
from kdbench.results.submission import ABOUT, CARD, CHECKS, METHOD, VERDICT, Submission, suite_tree_for
from kdbench.run.data import run_data
from kdbench.run.progress import say
from kdbench.run.training import run_training
from kdbench.submit import reach
from kdbench.terminal.compare import REPRODUCED, judge
from kdbench.types import KdbenchError, Suite

Place = tuple[str, str, str, str, str]
"""A row of runs.csv: block, pair, method, budget, seed."""


def verify(place: str, recompute_only: bool = False) -> None:
    """Recompute a submission and, unless that is all, train one of its runs again and write verified.json.

    place: NAME, or submissions/NAME. Raises KdbenchError that says in a sentence why it is refused.
    """
    submission = Submission(place.rstrip("/").removeprefix(f"{SUBMISSIONS}/"))
    for field in CARD:
        if field not in submission.card:
            raise KdbenchError(f"{submission.folder / 'card.yaml'}: {field} is not filled in ({CARD[field]})")
    say(recompute(submission))
    if recompute_only:
        return
    check_rules(submission.folder / METHOD, submission.cls)
    found = _retrained(submission, training_plan(submission.suite_file))
    write_json(
        submission.folder / VERDICT,
        {
            "about": sha256_file(submission.folder / ABOUT),
            "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
            "retrained": found,
            "processor": provenance.processor(),
            "versions": provenance.versions(),
        },
    )
    alike = "bit for bit" if found["bit_for_bit"] else "within the interval of its seeds"
    say(f"{submission.name} is verified: {found['pair']} seed {found['seed']}, trained again, is the same {alike}")


# ----------------------------------------------------------------------------------------------- what needs no training


def check_rules(file: Path, cls: str) -> None:
    """Raises KdbenchError where a method reaches beyond tensors or breaks the rules of kdbench/conformance."""
    method = f"{file}:{cls}"
    found = reach.findings(file) or rules.check(method)
    if not found and not rehearsal.why_not():
        found = rules.rehearse(method)
    if found:
        more = f"; and {len(found) - 1} more" if len(found) > 1 else ""
        raise KdbenchError(f"{found[0]}{more}; such a method is not taken (docs/add-a-row.md)")


def training_plan(file: Path) -> Plan:
    """The jobs of a submission's suite that train, and those of their data."""
    plan = make_plan(load_suite(file))
    return Plan(plan.suite, tuple(job for job in plan.jobs if job.kind in ("data", "teacher", "cohort")))


def recompute(submission: Submission) -> str:
    """What was recomputed. Raises KdbenchError for the first thing that is not what the files say."""
    file, name = submission.folder / METHOD, submission.name
    if found := reach.findings(file):
        raise KdbenchError(found[0])
    tree = suite_tree_for(submission.base, name, submission.cls)
    if yamlfile.read(submission.suite_file) != tree:
        raise KdbenchError(
            f"{submission.suite_file} is not the suite that `kdbench submit {submission.base}` makes today: the suite, "
            "or this file, was changed; submit the method again"
        )
    if submission.about["code"] != method_code(tree["methods"][name]["method"]):
        raise KdbenchError(
            f"{file} is not the method that was run, or parts of kdbench that it uses have another version today; "
            "submit it again"
        )
    plan, base = training_plan(submission.suite_file), load_suite(submission.base)
    keys, planned = keys_of(submission), planned_keys(plan)
    for place in keys.keys() - planned.keys():
        raise KdbenchError(f"{submission.folder / 'runs.csv'} has a run that its suite does not plan: {_said(place)}")
    for place, key in planned.items():
        if place not in keys:
            raise KdbenchError(f"{submission.folder / 'runs.csv'} has no run {_said(place)}")
        if keys[place] != key:
            raise KdbenchError(
                f"{submission.folder / 'runs.csv'}: the key of {_said(place)} is not the one that suite, method file "
                "and versions of kdbench give today"
            )
    reference = check_keys(plan, base)
    counts = {block.name: reference.about["blocks"][block.name]["counts"]["test"] for block in plan.suite.blocks}
    count = submission.check_numbers(counts)
    cells = _check_rows(submission, reference)
    return (
        f"{name}: {count} test accuracies and {len(keys)} keys recomputed; {cells} cells of "
        f"{' and '.join(CHECKS)} agree with the reference of {base.name}"
    )


def planned_keys(plan: Plan) -> dict[Place, str]:
    """The keys of all rows of a plan's runs.csv."""
    return {
        (block.name, pair.id, method.id, f"{budget:g}", str(seed)): plan.run_of(pair, method, seed, budget).key
        for block in plan.suite.blocks
        for budget, methods in block.lengths.items()
        for pair, method, seed in itertools.product(block.pairs, methods, block.seeds)
    }


def keys_of(frozen: Frozen) -> dict[Place, str]:
    """The keys that a runs.csv holds. Raises KdbenchError where it has none."""
    if "key" not in frozen.texts:
        raise KdbenchError(f"{frozen.folder / 'runs.csv'} has no column key")
    return dict(zip(frozen.texts[[*CELL, "seed"]].itertuples(index=False, name=None), frozen.texts["key"], strict=True))


def check_keys(plan: Plan, base: Suite) -> Reference:
    """The reference of a suite, which must be of the same runs of CHECKS as a submission to it. Raises KdbenchError."""
    reference = Reference(base)
    keys = keys_of(reference)
    for place, key in planned_keys(plan).items():
        if place[2] in CHECKS and keys.get(place) != key:
            raise KdbenchError(
                f"the reference of {base.name} has no run of today's key for the check row {_said(place)}: suite or "
                "code changed since; it must be trained and frozen anew before rows can be submitted to it"
            )
    return reference


def _said(place: Place) -> str:
    block, pair, method, budget, seed = place
    return f"{block}/{pair}/{method}{'' if budget == '1' else f' x{budget}'} seed {seed}"


def _check_rows(submission: Submission, reference: Reference) -> int:
    """How many cells of CHECKS agree with the reference: Welch intervals, so wide that chance fails one of all cells in
    five of a hundred submissions. Raises KdbenchError that names the first which does not."""
    own, theirs = (frozen.texts[frozen.texts["method"].isin(CHECKS)] for frozen in (submission, reference))
    cells = own[CELL].drop_duplicates()
    table = judge(own[NEEDED], theirs.merge(cells, on=CELL)[NEEDED], 0.05 / len(cells))
    for cell in table[table["verdict"] != REPRODUCED].itertuples():
        remark = (
            cell.remark or f"{cell.a.mean:.2f} against {cell.b.mean:.2f}, and chance explains {cell.half:.2f} points"
        )
        raise KdbenchError(
            f"the check row {cell.block}/{cell.pair}/{cell.method} does not agree with the reference of "
            f"{submission.base} ({remark}): what trained it computes something else"
        )
    return len(table)


# ------------------------------------------------------------------------------------------------------- training again


def _retrained(submission: Submission, plan: Plan) -> dict[str, Any]:
    """One finished run of the submitted method, drawn by lot, trained again from its teacher on, and held against what
    was submitted. Raises KdbenchError where it is not that."""
    rows = submission.runs[(submission.runs["method"] == submission.name) & (submission.runs["status"] == FINISHED)]
    if rows.empty:
        raise KdbenchError(f"{submission.folder / 'runs.csv'} has no finished run of {submission.name}")
    row = rows.iloc[random.SystemRandom().randrange(len(rows))]
    # Elsewhere than the runs that may lie here already.
    again = make_plan(replace(plan.suite, name=f"{plan.suite.name}.again", path=None))
    shutil.rmtree(home(again.suite), ignore_errors=True)
    try:
        run = _train(again, row)
        record = read_run(run.result)
        if record["status"] != FINISHED:
            raise KdbenchError(f"{run.pair.id} seed {run.seed}, trained again: {record['status']}")
        labels = load_packed(data_folder(again.suite, run.data, run.seed)).labels("test")
        right = predictions(run, len(labels)).classes == labels
    finally:
        shutil.rmtree(home(again.suite), ignore_errors=True)
    same = np.array_equal(right, submission.right_of(row))
    cell = rows[(rows[CELL] == row[CELL]).all(axis=1)]["test"]
    test, where = 100 * right.mean(), f"{row['pair']} seed {row['seed']}"
    if not same and _same_machine(submission, row, record):
        raise KdbenchError(
            f"{where}, trained again on the same kind of processor, gives {test:.2f} % and other answers than the "
            f"{row['test']:.2f} % that was submitted"
        )
    if not same and not abs(test - cell.mean()) <= foretold(cell.to_numpy(float)):
        raise KdbenchError(
            f"{where}, trained again, gives {test:.2f} %, and the submitted seeds foretell {cell.mean():.2f} ± "
            f"{foretold(cell.to_numpy(float)):.2f}"
        )
    facts = {"block": row["block"], "pair": row["pair"], "seed": int(row["seed"]), "budget": float(row["budget"])}
    return facts | {"submitted": float(row["test"]), "test": test, "bit_for_bit": bool(same)}


def _train(plan: Plan, row: Any) -> Run:
    """The run of a row of runs.csv, with its data and its teacher."""
    block = next(block for block in plan.suite.blocks if block.name == row["block"])
    pair = next(pair for pair in block.pairs if pair.id == row["pair"])
    method = next(method for method in block.methods if method.id == row["method"])
    seed, threads = int(row["seed"]), plan.suite.threads
    run = plan.run_of(pair, method, seed, float(row["budget"]))
    for job in plan.of("data"):
        if job.data == block.data:
            run_data(plan, job)
    if run.pair.teacher:
        own = teacher_seed(plan.suite, run.pair.teacher, seed)
        for job in jobs_of_teacher(plan, run.pair.teacher):
            run_training(plan, job, threads=threads, seeds=[own])
    for job in jobs_of_pair(plan, run.pair.id):
        if run in job.runs:
            run_training(plan, job, threads=threads, seeds=[seed], methods=[method.id])
    return run


def _same_machine(submission: Submission, row: Any, record: dict[str, Any]) -> bool:
    """Whether a run and its repetition must be the same in every bit: on CPUs of one kind, with one torch."""
    torch = submission.about["made_with"]["versions"].get("torch")
    return (
        record["hardware"]["device"] == "cpu"
        and submission.about["processor"] == provenance.processor()
        and row["hardware"] == provenance.hardware_line(record["hardware"])
        and torch == record["versions"]["torch"]
    )


def foretold(values: np.ndarray) -> float:
    """Half the width of the 95 % prediction interval for one more value, around their mean; infinite below two."""
    n = len(values)
    if n < 2:
        return math.inf
    return float(st.t.ppf(0.975, n - 1) * values.std(ddof=1) * math.sqrt(1 + 1 / n))
