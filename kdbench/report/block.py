"""What is known of one block: the one thing that its tables, its figures and its page are made from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from kdbench.data.packed import load_packed
from kdbench.files import read_json
from kdbench.plan.paths import data_folder
from kdbench.report import stats
from kdbench.report.cells import FURTHER, Correct, baselines_of, cells, rivals_of
from kdbench.results import provenance
from kdbench.results.frames import collect, correct_images, histories, packs_of, test_predictions
from kdbench.results.reference import Frozen, Reference
from kdbench.results.today import Today
from kdbench.types import Block, MethodSpec, Suite

CURVE_POINTS = 5


@dataclass(frozen=True, eq=False)
class Reading:
    method: MethodSpec
    readings: Sequence[MethodSpec]
    """All readings of this reconstructed method."""
    frame: pd.DataFrame
    """Their runs."""

    @cached_property
    def means(self) -> pd.DataFrame:
        """Mean test accuracy by pair and reading; NaN where a seed is lacking: that mean would be over other seeds."""
        return stats.wide(self.frame).groupby("pair").agg(lambda tests: tests.mean(skipna=False))


@dataclass(frozen=True, eq=False)
class BlockReport:
    """What is not known, or not needed by the reader at hand, is empty. Statistics are computed once, when needed."""

    suite: Suite
    block: Block
    frame: pd.DataFrame
    """One row a planned run, in the columns of kdbench/results/frames.collect."""
    anchors: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Modality -> accuracies of classifiers that are no networks, and the samples they used."""
    counts: Mapping[str, int] = field(default_factory=dict)
    """Samples of each split."""
    groups: Mapping[str, Any] = field(default_factory=dict)
    """Which test samples belong together: `word`, what a group is ("faces"), and `sizes`, {group: samples}."""
    classes: int = 0
    data_notes: Sequence[str] = ()
    readings: Sequence[Reading] = ()
    tuned: Sequence[Mapping[str, Any]] = ()
    """The choices of tuning that rows of this block use."""
    correct: Correct = field(default_factory=dict)
    """Known where the block has one seed only."""
    made_with: Mapping[str, Any] = field(default_factory=dict)
    """Date, hardware, versions, commit."""
    lengths: pd.DataFrame = field(default_factory=pd.DataFrame)
    """The same rows at every budget, those of Scratch alone among them; empty where there is one budget."""
    curves: pd.DataFrame = field(default_factory=pd.DataFrame)
    """Learning curves, in the columns of kdbench/results/frames.histories."""
    stages: Sequence[Mapping[str, Any]] = ()
    """The JSON files of kind `stages`, one a pair."""
    channels: Sequence[Mapping[str, Any]] = ()
    """The JSON files of kind `channels`, one a pair of models."""

    @cached_property
    def cells(self) -> pd.DataFrame:
        """The numbers of every cell of the block's tables, index (pair, method)."""
        return cells(self.block, self.frame, self.correct)

    @cached_property
    def records(self) -> dict[tuple[str, str], dict[str, Any]]:
        """(pair, method) -> its row of `cells`."""
        return self.cells.to_dict("index")

    @cached_property
    def verdicts(self) -> dict[str, pd.DataFrame]:
        """Baseline -> stats.verdict of the methods that are compared with it, with stats.group_intervals where the
        block shows these and knows them."""
        return {baseline: self._verdict(baseline) for baseline in baselines_of(self.block)}

    def _verdict(self, baseline: str) -> pd.DataFrame:
        methods = [m.id for m in rivals_of(self.block, baseline)]
        verdict = stats.verdict(self.frame, baseline, methods)
        if "groups" in self.block.also and self.groups and "test_by_group" in self.frame:
            verdict = verdict.join(stats.group_intervals(self.frame, baseline, methods, self.groups["sizes"]))
        return verdict

    @cached_property
    def headline(self) -> pd.DataFrame:
        """stats.headline_pairs of the block."""
        return stats.headline_pairs(self.frame)

    @property
    def headline_pairs(self) -> list[str]:
        """Ids of the pairs that verdicts are averaged over."""
        return list(self.headline.index[self.headline["kind"] == "headline"])

    @cached_property
    def teachers(self) -> pd.Series:
        """stats.teachers of the block."""
        return stats.teachers(self.frame)

    @cached_property
    def spectra(self) -> list[dict[str, Any]]:
        """The rows of all spectra in `stages`, with their pairs."""
        return [{"pair": document["pair"], **row} for document in self.stages for row in document.get("spectra", [])]

    @property
    def further(self) -> list[str]:
        """Columns of its frame that the block shows also."""
        columns = [name for also in self.block.also for name in FURTHER[also]]
        return [name for name in (*columns, "test_by_group") if name in self.frame]

    @cached_property
    def long_curves(self) -> pd.DataFrame:
        """The curves of runs with a test accuracy at CURVE_POINTS steps or more: fewer are no curve."""
        if self.curves.empty:
            return self.curves
        known = self.curves[stats.numbers(self.curves, "test_accuracy").notna()]
        points = known.groupby(["pair", "method", "seed"])["step"].transform("size")
        return known[points >= CURVE_POINTS]

    def relabelled(self, block: Block, readings: Sequence[Reading]) -> BlockReport:
        """The same report with other labels. What it has computed goes with it, since numbers are kept by id."""
        other = replace(self, block=block, readings=readings)
        computed = ("cells", "records", "verdicts", "headline", "teachers")
        vars(other).update({name: vars(self)[name] for name in computed if name in vars(self)})
        return other

    @cached_property
    def shown(self) -> BlockReport:
        """Cut down to the rows and columns of the block's table. Runs of methods that are not shown stay, since scratch
        decides which pairs are headline pairs."""
        if not self.block.rows and not self.block.columns:
            return self
        block = self.block.shown
        pairs = [p.id for p in block.pairs]
        lengths = self.lengths[self.lengths["pair"].isin(pairs)] if len(self.lengths) else self.lengths
        return replace(self, block=block, frame=self.frame[self.frame["pair"].isin(pairs)], lengths=lengths)


def block_reports(today: Today, *also: str) -> list[BlockReport]:
    """What tables, figures and pages are made from, block by block. A data set that is not packed yet has no anchors.

    also: "curves", "stages", "channels", which tables do not need. Raises KdbenchError where one of these is missing.
    """
    plan, made_with, reports = today.plan, _made_with(today), []
    for block in plan.suite.blocks:
        facts = _facts(plan.suite, block)
        frame = collect(today, block)
        lengths = _lengths(today, block, frame)
        if block.also and facts["counts"]:
            frame = frame.join(_from_predictions(today, block, frame))
        more: dict[str, Any] = {
            kind: [read_json(job.output) for job in plan.of(kind) if job.block == block.name]
            for kind in also
            if kind != "curves"
        }
        if "curves" in also:
            more["curves"] = histories(today, block)
        report = BlockReport(
            plan.suite,
            block,
            frame,
            **facts,
            readings=[Reading(method, own, collect(today, block, own)) for method, own in block.readings],
            tuned=today.choices(block),
            correct=correct_images(today, block, frame) if len(block.seeds) == 1 and facts["counts"] else {},
            made_with=made_with,
            lengths=lengths,
            **more,
        )
        reports.append(report)
    return reports


def _lengths(today: Today, block: Block, frame: pd.DataFrame) -> pd.DataFrame:
    """frame: of the budget that the block shows."""
    if len(block.lengths) == 1:
        return pd.DataFrame()
    shown = {m.id for m in block.methods}
    frames = [
        frame
        if budget == block.budget
        else collect(today, replace(block, budget=budget), [m for m in methods if m.id in shown])
        for budget, methods in block.lengths.items()
    ]
    return pd.concat(frames, ignore_index=True)


def about(reports: Sequence[BlockReport]) -> dict[str, Any]:
    """What a reference keeps of reports beside the tables of their numbers."""
    names = ("anchors", "counts", "groups", "classes", "data_notes")
    facts = {report.block.name: {name: getattr(report, name) for name in names} for report in reports}
    return {"blocks": facts, "made_with": reports[0].made_with}


def reference_reports(reference: Reference) -> list[BlockReport]:
    """The same reports from the committed results of a suite. Raises KdbenchError for what is damaged or not planned
    any more."""
    suite, reports = reference.suite, []
    for block in suite.blocks:
        report = BlockReport(
            suite,
            block,
            reference.frame(block),
            **(reference.about["blocks"][block.name] if reference.about else _facts(suite, block)),
            readings=[Reading(method, own, reference.frame(block, own)) for method, own in block.readings],
            tuned=reference.choices(block),
            correct=reference.correct(block) if len(block.seeds) == 1 else {},
            made_with=made_with_of(reference),
            lengths=reference.lengths(block) if len(block.lengths) > 1 else pd.DataFrame(),
            curves=reference.curves(block),
            stages=reference.documents(block, "stages"),
            channels=reference.documents(block, "channels"),
        )
        reports.append(report)
    return reports


def _facts(suite: Suite, block: Block) -> dict[str, Any]:
    """What a table says of a block's data, as far as they are packed: of the first seed's, but for groups, which are
    those of all seeds."""
    folders = dict.fromkeys(data_folder(suite, block.data, seed) for seed in block.seeds)
    packs = [load_packed(folder) for folder in folders if (folder / "meta.json").exists()]
    meta = packs[0].meta if packs else {}
    groups = [found for pack in packs if (found := pack.groups())]
    sizes = {name: size for found in groups for name, size in found.sizes.items()}
    return {
        "anchors": meta.get("anchors", {}),
        "counts": meta.get("counts", {}),
        "groups": {"word": groups[0].word, "sizes": sizes} if groups else {},
        "classes": len(meta.get("class_names", ())),
        "data_notes": [*_drawn(suite, block), *meta.get("notes", ())],
    }


def _drawn(suite: Suite, block: Block) -> list[str]:
    """What to know of data that every seed draws anew."""
    if not suite.data[block.data].draw_by_seed:
        return []
    first = block.seeds[0]
    return [f"Every seed has training and validation samples of its own; what is said of these is of seed {first}."]


def _from_predictions(today: Today, block: Block, frame: pd.DataFrame) -> pd.DataFrame:
    """agreement_right, agreement_wrong and ece (percent, on the test set) of each row of a frame that finished; where
    the block shows groups of test samples and its data tell them, also test_by_group, {group: accuracy in percent}."""
    packs = packs_of(today.plan.suite, block.data, block.seeds)
    known = {seed: (pack.labels("test"), pack.groups()) for seed, pack in packs.items()}
    grouped = "groups" in block.also and all(groups for _, groups in known.values())
    found = {}
    for run, student, teacher in test_predictions(today, block, frame):
        labels, groups = known[run[-1]]
        right = student.classes == labels
        agreed = stats.agreement(student.classes, teacher.classes, labels)
        found[run] = dict(zip(("agreement_right", "agreement_wrong"), agreed, strict=True))
        found[run]["ece"] = stats.calibration_error(student.confidence, right)
        if grouped:
            accuracies = 100 * np.bincount(groups.codes, right) / np.bincount(groups.codes)
            found[run]["test_by_group"] = dict(zip(groups.names, accuracies.tolist(), strict=True))
    runs = frame[["pair", "method", "seed"]].itertuples(index=False, name=None)
    columns = ["agreement_right", "agreement_wrong", "ece", *(["test_by_group"] if grouped else [])]
    return pd.DataFrame([found.get(run, {}) for run in runs], frame.index, columns)


def _made_with(today: Today) -> dict[str, Any]:
    """What the footer of a table says of all runs that count, the teachers' among them, taken from their results."""
    plan = today.plan
    runs = [run for kind in ("cohort", "teacher") for job in plan.of(kind) for run in job.runs]
    records = [record for run in runs if (record := today.has(run))]
    names = dict.fromkeys(name for record in records for name in record["versions"])
    return {
        "date": _days(record["finished_at"] for record in records),
        "hardware": _counted(provenance.hardware_line(record["hardware"]) for record in records),
        "versions": {name: _counted(record["versions"].get(name, "unknown") for record in records) for name in names},
    }


def made_with_of(reference: Frozen) -> dict[str, Any]:
    """The same of a reference; where it has runs.csv alone, as far as that tells it, of students only."""
    if reference.about:
        return reference.about["made_with"]
    own = reference.runs.drop_duplicates("key").dropna(subset="finished_at")
    return {"date": _days(own["finished_at"]), "hardware": _counted(own["hardware"])}


def _days(times: Iterable[str]) -> str:
    """The first and the last day of these ISO times."""
    days = sorted(time[:10] for time in times)
    return " to ".join(dict.fromkeys([*days[:1], *days[-1:]]))


def _counted(values: Iterable[Any]) -> str:
    """The value that all runs share; where they differ, each with the number of its runs, the commonest first."""
    counts = Counter(map(str, values)).most_common()
    if len(counts) < 2:
        return "".join(value for value, _ in counts)
    return " and ".join(f"{value} ({n} run{'' if n == 1 else 's'})" for value, n in counts)
