"""Tables of a block's pairs in the layout `pairs`, a row a pair, as the papers of the field print them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pandas as pd

from kdbench.plan.blocks import GROUPS
from kdbench.report import stats
from kdbench.report.block import BlockReport
from kdbench.report.cells import FURTHER, baselines_of, rivals_of
from kdbench.report.page import Cell, Group, Row, Table
from kdbench.report.pair_tables import gap_cell, harnesses, mark_notes, method_notes, reading_cell, teacher_cell
from kdbench.report.text import accuracy_cell, known, note_letters, note_list, paired_cell, spread, summary_cell
from kdbench.report.verdicts import collapse_note, label_of, left_out, short_labels
from kdbench.types import Block, MethodSpec

MAX_METHODS = 10
"""Methods that a portrait page can hold beside teacher and scratch."""


def pair_rows(report: BlockReport, pairs: Sequence[str], headline: bool) -> list[Table]:
    """Accuracies, then the paired differences to each baseline, of these pairs.

    headline: they are the block's headline pairs; the mean over them and the verdict stand below the accuracies.
    """
    block, tables = report.block, accuracy_tables(report, pairs, headline)
    for baseline in baselines_of(block):
        rivals = {m.id for m in rivals_of(block, baseline)}
        title = f"Paired difference to {label_of(block, baseline)}, points [95 % t interval]"
        for suffix, methods in _parts(block).items():
            own = [m for m in methods if m.id in rivals]
            tables.append(_table(report, pairs, own, title + suffix, lambda r, n, b=baseline: paired_cell(r, b, n)))
    for name, title in ((name, title) for also in block.also for name, title in FURTHER[also].items()):
        for suffix, methods in _parts(block).items():
            tables.append(_table(report, pairs, methods, title + suffix, lambda r, n, name=name: summary_cell(r, name)))
    return tables


def accuracy_tables(report: BlockReport, pairs: Sequence[str], headline: bool) -> list[Table]:
    return [_accuracy_table(report, pairs, own, suffix, headline) for suffix, own in _parts(report.block).items()]


def _parts(block: Block) -> dict[str, list[MethodSpec]]:
    """Methods by title suffix, in the order of their groups: as many as fit a page, with scratch in each part."""
    ordered = sorted(block.methods, key=lambda m: GROUPS.index(m.group))
    scratch, others = ([m for m in ordered if (m.group == "reference") == is_scratch] for is_scratch in (True, False))
    if len(others) <= MAX_METHODS:
        return {"": ordered}
    starts = range(0, len(others), MAX_METHODS)
    return {f", part {i}": [*scratch, *others[start : start + MAX_METHODS]] for i, start in enumerate(starts, 1)}


def _headings(block: Block, methods: Sequence[MethodSpec]) -> tuple[tuple[str, ...], ...]:
    labels, harness = short_labels(block), harnesses(block)
    return tuple(
        (m.group[:1].upper() + m.group[1:], labels[m.id], *([harness.get(m.id, "—")] if harness else []))
        for m in methods
    )


def _table(
    report: BlockReport,
    pairs: Sequence[str],
    methods: Sequence[MethodSpec],
    title: str,
    cell: Callable[[Mapping[str, Any], dict[str, str]], Cell],
) -> Table:
    """One cell a pair and method, made from its row of `cells` and the footnotes so far."""
    notes: dict[str, str] = {}
    rows = tuple(
        Row(Cell(teacher), (Cell(student), *(cell(report.records[pair, m.id], notes) for m in methods)))
        for pair, (teacher, student) in _models(report, pairs).items()
    )
    columns = (("", "Student"), *_headings(report.block, methods))
    return Table(title, "Teacher", columns, (Group("", rows),), note_list(notes), tuple(pairs), texts=2)


def _models(report: BlockReport, pairs: Sequence[str]) -> dict[str, tuple[str, str]]:
    return {p.id: (p.teacher or "none", p.student) for p in report.block.pairs if p.id in pairs}


def _accuracy_table(
    report: BlockReport, pairs: Sequence[str], methods: Sequence[MethodSpec], suffix: str, headline: bool
) -> Table:
    notes: dict[str, str] = {}
    block, records = report.block, report.records

    def row(pair: str, teacher: str, student: str) -> Row:
        own = (accuracy_cell(records[pair, m.id], notes) for m in methods)
        ranges = (reading_cell(reading, pair, notes) for reading in report.readings)
        first = (Cell(student), teacher_cell(report, pair, notes), gap_cell(report, pair, notes))
        return Row(Cell(teacher), (*first, *own, *ranges))

    groups = [Group("", tuple(row(pair, *models) for pair, models in _models(report, pairs).items()))]
    if headline:
        groups.append(Group("", tuple(_summary(report, pairs, methods, notes)), fixed=True))
    columns = (("", "Student"), ("Teacher", "accuracy"), ("Teacher", "gap, val / test"), *_headings(block, methods))
    columns += tuple(("Readings", f"{r.method.short or r.method.label}: {len(r.readings)}") for r in report.readings)
    labels = short_labels(block)
    own_notes = tuple(("", f"{labels[m.id]}: {text}") for m in methods for text in method_notes(report, m))
    footnotes = mark_notes(block) + own_notes + note_list(notes)
    return Table(f"Test accuracy, %{suffix}", "Teacher", columns, tuple(groups), footnotes, tuple(pairs), texts=2)


def _summary(
    report: BlockReport, pairs: Sequence[str], methods: Sequence[MethodSpec], notes: dict[str, str]
) -> list[Row]:
    """The mean over the headline pairs; on how many of them a method is better and worse than the baseline that leads,
    and its verdict."""
    block, empty = report.block, tuple(Cell("") for _ in report.readings)
    grids = stats.headline_grids(report.frame, None, [m.id for m in block.methods])
    means = pd.DataFrame({method: grid.mean(axis=1) for method, grid in grids.items()})
    whole = [method for method, grid in grids.items() if grid.shape[1] == len(pairs)]
    bold = stats.near_best(means[whole])

    def mean(method: str) -> Cell:
        found = _mean_cell(means[method], len(block.seeds))
        letters = left_out(grids[method].shape[1], len(pairs), notes) if known(found.value) else ()
        return Cell(found.text, found.value, method in bold, letters)

    teacher = _mean_cell(report.teachers.unstack("pair")[list(pairs)].mean(axis=1, skipna=False), len(block.seeds))
    label = Cell(f"mean over {len(pairs)} headline pair{'' if len(pairs) == 1 else 's'}")
    rows = [Row(label, (Cell(""), teacher, Cell(""), *(mean(m.id) for m in methods), *empty), wide=True)]
    for baseline in baselines_of(block)[:1]:
        verdict, name = report.verdicts[baseline], label_of(block, baseline)

        def counted(method: str, verdict: pd.DataFrame = verdict) -> Cell:
            if method not in verdict.index or not verdict.loc[method, "n"]:
                return Cell("")
            return Cell("{pairs_better} / {pairs_worse}".format(**verdict.loc[method]))

        def word(method: str, verdict: pd.DataFrame = verdict) -> Cell:
            if method not in verdict.index:
                return Cell("")
            v = verdict.loc[method]
            texts = [v["reason"]] if v["reason"] else []
            return Cell(_WORDS[v["verdict"]], letters=note_letters(notes, texts + collapse_note(v)))

        for text, cell in (
            (f"pairs better / worse than {name}", counted),
            (f"verdict against {name} (n.s.: not separated)", word),
        ):
            rows.append(Row(Cell(text), (Cell(""),) * 3 + (*(cell(m.id) for m in methods), *empty), wide=True))
    return rows


_WORDS = {"better": "better", "worse": "worse", "not separated": "n.s.", "no test": "no test"}


def _mean_cell(values: pd.Series, seeds: int) -> Cell:
    mean, sd, n = stats.mean_sd(values)
    if not n:
        return Cell("—")
    return Cell(f"{mean:.1f}{spread(sd)}{f' ({n})' if n < seeds else ''}", mean)
