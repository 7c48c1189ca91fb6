"""A suite's reference: committed results, from which tables, figures and pages are made without the files of its runs.

    runs.csv         one row a planned run, in the columns of frames.all_runs
    curves.csv       learning curves, in the columns of frames.histories
    similarity.csv   teacher and student by stage and band        a row of a document of kind `stages`
    spectra.csv      power of their feature maps by frequency     the same
    ceiling.csv      two seeds of the student from scratch        the same
    channels.csv     two modalities by channel band               a row of a document of kind `channels`
    channels-after.csv, channel-mean.csv                          the same after the last activation; share of the mean
    channels-others.csv                                           the same of untrained networks and of students
    channels-cka.csv, channels-rotated.csv                        CKA by band; cosines after a fitted rotation
    correct.npz      which test samples each run gets right, a bit a sample
    tuned.json       the choices of tuning
    about.json       what tables say of the data and of what computed them, and the checksum of every file here

Floats are written in full, so that the same numbers are read back. Older references have runs.csv alone.
"""

from __future__ import annotations

import codecs
import io
import itertools
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from kdbench.files import atomic, read_json, sha256_file, write_json, write_text
from kdbench.plan.jobs import SCRATCH, Plan, Run
from kdbench.plan.paths import REFERENCES, data_folder, found, of_budget, reference_folder, tuned_file
from kdbench.plan.suite import typed
from kdbench.results.frames import histories, packs_of, predictions
from kdbench.results.record import DIVERGED, FINISHED, MISSING, UNSUPPORTED
from kdbench.results.today import Today, choices_for
from kdbench.types import Block, KdbenchError, MethodSpec, Suite

CELL = ["block", "pair", "method", "budget"]
NEEDED = [*CELL, "edition", "label", "seed", "status", "test"]
_STATES = {FINISHED, DIVERGED, UNSUPPORTED, MISSING}
_TEXTS = {"block", "pair", "teacher", "student", "method", "label", "key", "status", "reason", "edition"}
_TEXTS |= {"finished_at", "hardware", "a", "b", "band", "role", "model", "treatment", "feature", "networks"}
"""Columns of any file here that hold text; all others hold numbers, lists and objects, as JSON writes them."""
_MEASURED = {
    "similarity": ("stages", "rows"),
    "spectra": ("stages", "spectra"),
    "ceiling": ("stages", "ceiling"),
    "channels": ("channels", "rows"),
    "channels-after": ("channels", "after"),
    "channels-others": ("channels", "others"),
    "channel-mean": ("channels", "channel_mean"),
    "channels-cka": ("channels", "cka"),
    "channels-rotated": ("channels", "rotated"),
}
"""Name of a CSV -> the kind of documents and the list in each that it holds."""
_HEAD = ["block", "pair", "a", "b"]
"""What rows of these carry of their document."""


# ------------------------------------------------------------------------------------------------------------- writing


def write_reference(today: Today, runs: pd.DataFrame, about: Mapping[str, Any]) -> list[Path]:
    """Write the reference of a finished suite; `about` is what about.json holds besides checksums.

    Raises KdbenchError where similarities or predictions are missing or damaged.
    """
    plan, folder = today.plan, reference_folder(today.plan.suite)
    tables = {"runs": runs, "curves": _curves(today), **{name: _measured(plan, name) for name in _MEASURED}}
    written = []
    for name, table in tables.items():
        path = folder / f"{name}.csv"
        if len(table):
            write_text(path, table.to_csv(index=False, lineterminator="\n"))
            written.append(path)
        else:
            path.unlink(missing_ok=True)  # of a suite that measured it once
    if plan.of("tune"):
        with atomic(folder / "tuned.json") as file:
            file.write(tuned_file(plan.suite).read_bytes())
        written.append(folder / "tuned.json")
    if rows := correct(today):
        written.append(write_correct(rows, folder / "correct.npz"))
    write_json(folder / "about.json", {**about, "files": {path.name: sha256_file(path) for path in written}})
    return [*written, folder / "about.json"]


def _curves(today: Today) -> pd.DataFrame:
    parts = [
        histories(today, replace(block, budget=budget, methods=methods)).assign(block=block.name, budget=budget)
        for block in today.plan.suite.blocks
        for budget, methods in block.lengths.items()
    ]
    return pd.concat(parts, ignore_index=True)


def _measured(plan: Plan, name: str) -> pd.DataFrame:
    kind, part = _MEASURED[name]
    rows = []
    for job in plan.of(kind):
        document = read_json(job.output, *_HEAD, "rows")
        rows += [{key: document[key] for key in _HEAD} | row for row in document.get(part, ())]
    table = pd.DataFrame(rows)
    lists = [column for column in table if isinstance(table[column].iloc[0], list)]
    return table.assign(**{column: table[column].map(json.dumps) for column in lists})


def correct(today: Today) -> list[tuple[Run, np.ndarray]]:
    """Every finished run with which test samples it gets right, bool (N,); none where the data are not packed."""
    found: dict[Path, tuple[Run, np.ndarray]] = {}
    for block in today.plan.suite.blocks:
        folders = {data_folder(today.plan.suite, block.data, seed) for seed in block.seeds}
        if not all((folder / "meta.json").exists() for folder in folders):
            continue
        packs = packs_of(today.plan.suite, block.data, block.seeds)
        labels = {seed: pack.labels("test") for seed, pack in packs.items()}
        trained = [(method, budget) for budget, methods in block.lengths.items() for method in methods]
        for pair, seed, (method, budget) in itertools.product(block.pairs, block.seeds, trained):
            run = today.plan.run_of(pair, method, seed, budget)
            record = None if run.result in found else today.has(run)
            if record and record["status"] == FINISHED:
                found[run.result] = run, predictions(run, len(labels[seed])).classes == labels[seed]
    return list(found.values())


def write_correct(rows: list[tuple[Run, np.ndarray]], path: Path) -> Path:
    """A row a run: pair (none--STUDENT without a teacher), method, seed, budget, its number of samples, and one bit for
    each in the order of the data set, filled up with zeros to the longest row."""
    longest = max(len(right) for _, right in rows)
    arrays = {
        "pair": np.array([run.pair.id for run, _ in rows]),
        "method": np.array([run.method.id for run, _ in rows]),
        "seed": np.array([run.seed for run, _ in rows]),
        "budget": np.array([float(run.budget) for run, _ in rows]),
        "samples": np.array([len(right) for _, right in rows]),
        "bits": np.packbits([np.pad(right, (0, longest - len(right))) for _, right in rows], axis=1),
    }
    with atomic(path) as file:
        np.savez_compressed(file, **arrays)
    return path


# ------------------------------------------------------------------------------------------------------------- reading


class Frozen:
    """The files of a folder of committed results. A file is read when it is asked for; what an older reference lacks is
    empty. `freeze` is what makes the folder anew.

    Raises KdbenchError where there is no runs.csv, and for a file that is missing or damaged.
    """

    def __init__(self, folder: Path, freeze: str) -> None:
        self.folder, self.freeze = folder, freeze
        path = folder / "runs.csv"
        if not path.exists():
            raise KdbenchError(f"{path} does not exist; make it first: {freeze}")
        about = folder / "about.json"
        self.about: dict[str, Any] = read_json(about, "files", "blocks", "made_with") if about.exists() else {}
        self._file("runs.csv")
        self.texts = read_runs(path)
        """runs.csv as read_runs reads it: all text but the test accuracy."""

    @cached_property
    def runs(self) -> pd.DataFrame:
        """runs.csv in the types of frames.collect."""
        frame = _typed(self.texts.drop(columns="test"), self.folder / "runs.csv")
        return frame.assign(test=self.texts["test"])

    @cached_property
    def histories(self) -> pd.DataFrame:
        """curves.csv: all learning curves, in the columns of frames.histories with block and budget."""
        return self._table("curves.csv")

    def _file(self, name: str) -> Path | None:
        """A file of the reference, None where it has none of this name."""
        path, digest = self.folder / name, self.about.get("files", {}).get(name)
        if digest and not (path.exists() and sha256_file(path) == digest):
            raise KdbenchError(
                f"{path} is missing or is not the one that about.json beside it names; take the folder from the "
                f"repository anew, or make it again: {self.freeze}"
            )
        return path if digest else None

    def _table(self, name: str) -> pd.DataFrame:
        path = self._file(name)
        if path is None:
            return pd.DataFrame()
        return _typed(pd.read_csv(path, dtype=str, keep_default_na=False), path)

    @cached_property
    def right(self) -> dict[tuple[str, str, int, float], np.ndarray]:
        """(pair, method, seed, budget) -> which test samples that run gets right, bool (N,); a run without a teacher
        has the pair none--STUDENT."""
        path = self._file("correct.npz")
        if path is None:
            return {}
        try:
            with np.load(path, allow_pickle=False) as stored:
                rows = {name: stored[name] for name in stored}
            keys = zip(*(rows[name].tolist() for name in ("pair", "method", "seed", "budget")), strict=True)
            return {
                key: np.unpackbits(bits, count=samples).astype(bool)
                for key, bits, samples in zip(keys, rows["bits"], rows["samples"], strict=True)
            }
        except Exception as error:  # numpy and zipfile fail on a damaged file in many ways
            raise KdbenchError(f"{path} is damaged ({error}); take the folder from the repository anew") from None


def references() -> list[Frozen]:
    """Every folder of committed runs, those of suites of another edition among them."""
    folders = sorted(path.parent for path in REFERENCES.glob("*/runs.csv"))
    return [Frozen(folder, f"kdbench reference {folder.name}") for folder in folders]


class Reference(Frozen):
    """The committed results of a suite.

    Raises KdbenchError as Frozen does, and where the runs are not of the suite's edition.
    """

    def __init__(self, suite: Suite) -> None:
        super().__init__(found(reference_folder(suite) / "runs.csv").parent, f"kdbench reference {typed(suite)}")
        self.suite = suite
        if other := set(self.texts["edition"]) - {str(suite.edition)}:
            raise KdbenchError(
                f"{self.folder / 'runs.csv'} holds runs of edition {min(other)}, and the suite is of edition "
                f"{suite.edition}; move it away and freeze the suite: {self.freeze}"
            )

    def frame(self, block: Block, methods: Iterable[MethodSpec] | None = None) -> pd.DataFrame:
        """What frames.collect gives of a block, without versions. methods: in place of the block's rows.

        Raises KdbenchError where the suite plans a run that the reference does not have.
        """
        methods = [m.id for m in methods or block.methods]
        own = self.runs[(self.runs["block"] == block.name) & (self.runs["budget"] == block.budget)]
        check_planned(self.suite, block, own, methods)
        wanted = itertools.product([p.id for p in block.pairs], methods, block.seeds)
        return own.set_index(["pair", "method", "seed"]).loc[list(wanted)].reset_index()

    def lengths(self, block: Block) -> pd.DataFrame:
        """What frames.collect gives of a block, budget by budget."""
        own = [m.id for m in block.methods]
        return self.runs[(self.runs["block"] == block.name) & self.runs["method"].isin(own)]

    def documents(self, block: Block, kind: str) -> list[dict[str, Any]]:
        """The JSON files of a kind, `stages` or `channels`, as the jobs of a block wrote them."""
        found: dict[str, dict[str, Any]] = {}
        for name, (own, part) in _MEASURED.items():
            table = self._table(f"{name}.csv") if own == kind else pd.DataFrame()
            if not len(table):
                continue
            table = table[table["block"] == block.name]
            for head, rows in table.groupby(_HEAD, sort=False):
                document = found.setdefault(head[1], {"kind": kind, **dict(zip(_HEAD, head, strict=True)), "rows": []})
                values = rows.drop(columns=_HEAD).astype(object)
                document[part] = values.where(values.notna(), None).to_dict("records")
        return list(found.values())

    def curves(self, block: Block) -> pd.DataFrame:
        """What frames.histories gives of a block."""
        table = self.histories
        if not len(table):
            return table
        own = table["method"].isin([m.id for m in block.methods]) & (table["budget"] == block.budget)
        return table[own & (table["block"] == block.name)].drop(columns=["block", "budget"])

    def correct(self, block: Block) -> dict[tuple[str, str], np.ndarray]:
        """(pair, method) -> which test samples the run of the block's first seed gets right, bool (N,)."""
        owners = {
            (pair.id, method.id): pair.id if method.belongs_to_pair else f"none--{pair.student}"
            for pair, method in itertools.product(block.pairs, block.methods)
        }
        keys = {cell: (owner, cell[1], block.seeds[0], float(block.budget)) for cell, owner in owners.items()}
        return {cell: self.right[key] for cell, key in keys.items() if key in self.right}

    def choices(self, block: Block) -> list[dict[str, Any]]:
        """What tuning chose for the tuned rows of a block."""
        path = self.folder / "tuned.json"  # which older references have too
        return choices_for(self.suite, block, read_json(path, "choices")["choices"]) if path.exists() else []

    @property
    def left_out(self) -> str:
        """What cannot be shown of an older reference; empty where all can."""
        if self.about:
            return ""
        return (
            f"Made from {self.folder / 'runs.csv'} alone: learning curves, similarities and intervals over test "
            "samples are left out."
        )


def _typed(texts: pd.DataFrame, path: Path) -> pd.DataFrame:
    """A table of texts with each column in its type; an empty field is an absent value. pandas itself would not read
    every float to the last bit, and would take "n/a" for an absent value."""
    values = {}
    for name, column in texts.items():
        read = str if name in _TEXTS else json.loads
        try:
            values[name] = [None if text == "" else read(text) for text in column]
        except ValueError as error:
            raise KdbenchError(f"{path} is damaged: column {name}: {error}") from None
    return pd.DataFrame(values)


def runs_of(suite: Suite, block: Block, runs: pd.DataFrame, budget: float) -> pd.DataFrame:
    """The runs of a block's rows at a budget, and those of scratch, which tells headline pairs even where it is no row.

    Raises KdbenchError where the suite plans a run that is not among these.
    """
    ids = [m.id for m in block.methods if budget in block.budgets or m.id == SCRATCH]
    at = (runs["block"] == block.name) & (runs["budget"].astype(float) == budget)
    own = runs[at & runs["pair"].isin([p.id for p in block.pairs]) & runs["method"].isin([*ids, SCRATCH])]
    check_planned(suite, block, own, ids)
    return own


def lengths_of(suite: Suite, block: Block, runs: pd.DataFrame) -> pd.DataFrame:
    """`runs_of` every budget of a block; empty where it has one."""
    if len(block.lengths) == 1:
        return pd.DataFrame()
    frames = [runs_of(suite, block, runs, budget).assign(budget=float(budget)) for budget in block.lengths]
    return pd.concat(frames, ignore_index=True)


def check_planned(suite: Suite, block: Block, runs: pd.DataFrame, methods: Iterable[str]) -> None:
    """Raises KdbenchError that names the first (pair, method, seed) of a block that is not among its runs."""
    there = set(zip(runs["pair"], runs["method"], runs["seed"].astype(str), strict=True))
    for pair, method, seed in itertools.product([p.id for p in block.pairs], methods, block.seeds):
        if (pair, method, str(seed)) not in there:
            raise KdbenchError(
                f"the runs have no {pair}/{method} seed {seed} of block {block.name}: they come from another version "
                f"of the suite; run: kdbench reference {typed(suite)}"
            )


def read_runs(path: Path) -> pd.DataFrame:
    """A runs.csv as `kdbench reference` writes it or a spreadsheet saves it: every column as text but `test`, which is
    a number or NaN. Without columns of budgets and editions, these are 1.

    Raises KdbenchError that names the file and the first thing in it that `kdbench reference` would not write."""
    try:
        text = re.sub(r"\Asep=.\r?\n?", "", _decoded(path.read_bytes()))  # a first line of Excel's
        header = text.partition("\n")[0]
        separator = max(",;\t", key=header.count)
        # As text: pandas would take the status "n/a" for an absent value.
        frame = pd.read_csv(io.StringIO(text), sep=separator, dtype=str, keep_default_na=False)
    except FileNotFoundError:
        raise KdbenchError(f"{path} does not exist") from None
    except (OSError, ValueError) as error:
        told = " ".join(str(error).split())
        raise KdbenchError(f"{path} cannot be read as a table of runs: {told}") from None
    if not isinstance(frame.index, pd.RangeIndex):
        raise KdbenchError(f"{path} is not a table of runs: its rows have more fields than its first line names")
    frame = frame.assign(**{name: frame.get(name, "1") for name in ("budget", "edition")})  # old ones do not say
    lacking = [column for column in NEEDED if column not in frame]
    if lacking:
        raise KdbenchError(f"{path} is not a table of runs: it has no column {', '.join(lacking)}")
    if frame.empty:
        raise KdbenchError(f"{path} holds no run")
    for status in set(frame["status"]) - _STATES:
        raise KdbenchError(f"{path}: unknown status {status!r}; known: {', '.join(sorted(_STATES))}")
    # Where the comma is the decimal sign, spreadsheets separate by another.
    points = frame["test"] if separator == "," else frame["test"].str.replace(",", ".")
    numbers = pd.to_numeric(points, errors="coerce").astype(float)
    for text in frame["test"][numbers.isna()]:
        if text.lower() not in ("", "nan"):
            raise KdbenchError(f"{path}: a test accuracy is {text!r}, not a number")
    for text in frame["test"][np.isfinite(numbers) & ~numbers.between(0, 100)]:
        raise KdbenchError(f"{path}: a test accuracy is {text!r}, not a percentage")
    budgets = pd.to_numeric(frame["budget"].str.replace(",", "."), errors="coerce")
    for text in frame["budget"][~(budgets > 0)]:
        raise KdbenchError(f"{path}: a budget is {text!r}, not a positive number")
    frame["budget"] = budgets.map("{:g}".format)
    twice = frame[frame.duplicated([*CELL, "seed"])]
    if len(twice):
        raise KdbenchError(f"{path}: two rows for {first_cell(twice)}, seed {twice.iloc[0]['seed']}")
    return frame.assign(test=numbers)


def _decoded(content: bytes) -> str:
    """The text of a CSV as spreadsheets save it: UTF-8 with or without a mark, "Unicode text", or Windows' own.

    Raises ValueError for a workbook and for what is none of these.
    """
    if content.startswith((b"PK\3\4", b"\xd0\xcf\x11\xe0")):
        raise ValueError("it is a workbook; save it as CSV")
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return content.decode("utf-16")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return content.decode("cp1252")


def first_cell(frame: pd.DataFrame) -> str:
    *names, budget = frame.iloc[0][CELL]
    return "/".join(names) + of_budget(float(budget))
