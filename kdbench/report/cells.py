"""From the runs of a block to numbers: one row a cell of its tables, which are also the lines of the CSV."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
import pandas as pd

from kdbench.report import stats
from kdbench.report.text import shares_text
from kdbench.types import Block, MethodSpec

Correct = Mapping[tuple[str, str], np.ndarray]
"""(pair, method) -> which test images its one run gets right, bool (N,)"""

_MEANS = {
    "val_mean": "val",
    "test_nll_mean": "test_nll",
    "agreement_mean": "agreement",
    "extra_parameters": "extra_parameters",
    "seconds_mean": "seconds",
    "peak_memory_mb_mean": "peak_memory_mb",
    "best_test_mean_decides_nothing": "best_test",
    "best_test_epoch_mean_decides_nothing": "best_test_epoch",
}
AUTHORS_SELECTION = "authors_selection_mean_decides_nothing"
"""Of blocks in which heads beside the main one were evaluated: the best of all heads and epochs."""
FURTHER = {
    "agreement": {
        "agreement_right": "Agreement with the teacher on test samples that it gets right, %",
        "agreement_wrong": "Agreement with the teacher on test samples that it gets wrong, %",
    },
    "ece": {"ece": "Expected calibration error on test (15 bins; lower is better), %"},
    "groups": {},
}
"""What a block may show `also`: columns of its frame, and the titles of their tables. What `groups` has, the column
test_by_group, goes into the tables of verdicts."""


def baselines_of(block: Block) -> list[str]:
    """Ids of the methods that the block holds the others against."""
    ids = [m.id for m in block.methods]
    return [b for b in block.baselines if b in ids and len(ids) > 1]


def rivals_of(block: Block, baseline: str) -> list[MethodSpec]:
    """The methods that are held against a baseline: tuned ones against tuned KD, the others against KD; all of them
    where the block has tuned KD only."""
    rivals = [m for m in block.methods if m.id != baseline]
    if baseline == "scratch" or block.weights == "tuned":
        return rivals
    tuned = next(m for m in block.methods if m.id == baseline).tuned_from
    return [m for m in rivals if m.id == "scratch" or bool(m.tuned_from) == bool(tuned)]


def cells(block: Block, frame: pd.DataFrame, correct: Correct = MappingProxyType({})) -> pd.DataFrame:
    """Index (pair, method) in the block's order; one row holds all that the tables say about that cell.

    Accuracies are percent, differences points, times seconds. `notes` is a list of sentences for the footnotes, `kind`
    is the pair's (headline, weak, undecided), `bold` means not separated from the pair's best method.
    """
    values = {name: stats.wide(frame, name) for name in ("test", *_MEANS.values())}
    values["optimism"] = values["best_test"] - values["test"]
    selected = stats.wide(frame, "best_test_of_heads")
    if selected.notna().any(axis=None):
        values["authors_selection"] = selected.fillna(values["best_test"])
    if "scratch" in values["seconds"]:
        values["time"] = values["seconds"].div(values["seconds"]["scratch"], axis=0)
    means = {**_MEANS, "optimism_mean_decides_nothing": "optimism"}
    means |= {"seconds_over_scratch": "time"} if "time" in values else {}
    means |= {AUTHORS_SELECTION: "authors_selection"} if "authors_selection" in values else {}
    near = {pair: stats.near_best(rows) for pair, rows in values["test"].groupby(level="pair", sort=False)}
    baselines = {f"minus_{b}": by_cell(stats.differences(frame, b)) for b in baselines_of(block)}
    values = {name: by_cell(table) for name, table in values.items()}
    further = {name: by_cell(stats.wide(frame, name)) for also in block.also for name in FURTHER[also]}
    usual = _usual_versions(frame)
    kinds, teacher = stats.headline_pairs(frame)["kind"], stats.teachers(frame)
    runs, fallen = _runs(frame), by_cell(stats.collapsed(frame))
    records = []
    for pair in block.pairs:
        teacher_test = stats.mean_sd(teacher.get(pair.id, [])).mean
        for method in block.methods:
            key = (pair.id, method.id)
            rows = runs.get(key, [])
            record: dict[str, Any] = {
                "block": block.name,
                "pair": pair.id,
                "teacher": pair.teacher,
                "student": pair.student,
                "kind": kinds.get(pair.id, "undecided"),
                "teacher_test": teacher_test,
                "method": method.id,
                "label": method.label,
                "group": method.group,
                "harness": method.harness,
                "status": _status(rows),
                "planned": len(rows),
                "diverged": sum(run["status"] == "diverged" for run in rows),
                "missing": sum(run["status"] == "missing" for run in rows),
            }
            record |= _named("test", stats.mean_sd(values["test"].get(key, ())))
            record["bold"] = method.id in near.get(pair.id, ())
            record["collapsed"] = any(fallen.get(key, ()))
            for name, delta in baselines.items():
                record |= _named(name, stats.paired_t_interval(delta.get(key, ())))
                one = record[f"{name}_n"] == 1 and _one_seed(correct, *key, name.removeprefix("minus_"))
                record |= dict(zip((f"{name}_images_low", f"{name}_images_high"), one or (None, None), strict=True))
            for name, values_of in further.items():
                record |= _named(name, stats.mean_sd(values_of.get(key, ())))
            for name, source in means.items():
                record[name] = stats.mean_sd(values[source].get(key, ())).mean
            record["gradient_shares"] = shares_text(run["gradient_shares"] for run in rows)
            record["notes"] = _explanations(rows) + _unusual_versions(rows, usual)
            if record["collapsed"]:
                record["notes"].insert(0, "collapsed: below half of scratch's accuracy on this pair")
            records.append(record)
    return pd.DataFrame(records).set_index(["pair", "method"], drop=False).astype(object)


def by_cell(table: pd.DataFrame) -> dict[tuple[str, str], np.ndarray]:
    """(pair, method) -> its values (seeds,), from a table in the form of stats.wide."""
    return {
        (pair, method): values
        for pair, rows in table.groupby(level="pair", sort=False)
        for method, values in zip(rows.columns, rows.to_numpy().T, strict=True)
    }


def _one_seed(correct: Correct, pair: str, method: str, baseline: str) -> tuple[float, float] | None:
    both = correct.get((pair, method)), correct.get((pair, baseline))
    return None if both[0] is None or both[1] is None else stats.bootstrap_interval(*both)


def _named(name: str, summary: tuple) -> dict[str, Any]:
    return {f"{name}_{key}": value for key, value in summary._asdict().items()}


def _runs(frame: pd.DataFrame) -> dict[tuple[str, str], Runs]:
    """(pair, method) -> what footnotes may say of its runs. Plain rows: a frame a cell would take most of the time."""
    columns = ["pair", "method", "seed", "status", "reason", "notes", "versions", "gradient_shares"]
    known = frame.reindex(columns=columns).assign(counts=np.isfinite(stats.numbers(frame, "test")))
    found: dict[tuple[str, str], Runs] = {}
    for run in known.to_dict("records"):
        found.setdefault((run["pair"], run["method"]), []).append(run)
    return found


Runs = list[dict[str, Any]]


def _status(runs: Runs) -> str:
    kinds = {run["status"] for run in runs}
    if not kinds:
        return "missing"
    return kinds.pop() if len(kinds) == 1 else "partial"


def _explanations(runs: Runs) -> list[str]:
    """Why a cell holds fewer runs than planned, and what else must be known about it."""
    n, texts = len(runs), []
    for status in sorted({run["status"] for run in runs}):
        group = [run for run in runs if run["status"] == status]
        reasons = [run["reason"] if isinstance(run["reason"], str) else None for run in group]
        if status == "n/a":
            texts += [f"n/a: {reason or 'no reason given'}" for reason in dict.fromkeys(reasons)]
        elif status == "diverged":
            by_cause: dict[str, Runs] = {}
            for run, reason in zip(group, reasons, strict=True):
                by_cause.setdefault(reason or "step unknown", []).append(run)
            each = "; ".join(f"{_seeds(own)}: {cause}" for cause, own in by_cause.items())
            texts.append(f"diverged in {len(group)} of {n} seeds ({each})")
        elif status == "missing":
            why = "".join(f"; {r}" for r in dict.fromkeys(reasons) if r)
            texts.append(f"no result yet for {_seeds(group)} ({len(group)} of {n}{why})")
        elif lost := [run for run in group if not run["counts"]]:
            texts.append(f"no finite accuracy in {_seeds(lost)} ({len(lost)} of {n}), not counted")
    if not n:
        texts.append("not among the planned runs")
    return texts + list(dict.fromkeys(note for run in runs for note in _as_list(run["notes"])))


def _usual_versions(frame: pd.DataFrame) -> dict[str, str]:
    """{package: the version that most runs were trained with} of those packages of which there are several."""
    counts: dict[str, Counter[str]] = {}
    for versions in frame.get("versions", ()):
        for name, version in versions.items() if isinstance(versions, Mapping) else ():
            counts.setdefault(name, Counter())[str(version)] += 1
    # What changes in kdbench and counts, changes the key of a run; the footer lists its commits.
    return {
        name: of_name.most_common(1)[0][0]
        for name, of_name in counts.items()
        if len(of_name) > 1 and name not in ("kdbench", "commit")
    }


def _unusual_versions(runs: Runs, usual: Mapping[str, str]) -> list[str]:
    texts = []
    for name, common in usual.items():
        by_version: dict[str, Runs] = {}
        for run in runs:
            if isinstance(run["versions"], Mapping):
                by_version.setdefault(str(run["versions"].get(name, "unknown")), []).append(run)
        for version, own in by_version.items():
            if version != common:
                texts.append(f"{_seeds(own)} trained with {name} {version}, most runs with {common}")
    return texts


def _seeds(runs: Runs) -> str:
    return f"seed{'' if len(runs) == 1 else 's'} {', '.join(str(run['seed']) for run in runs)}"


def _as_list(value: Any) -> Sequence[str]:
    return value if isinstance(value, list | tuple) else []
