"""Tables of a block's pairs in the layout `methods`, a row a method: accuracies, and differences to each baseline."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pandas as pd

from kdbench.report import stats
from kdbench.report.block import BlockReport, Reading
from kdbench.report.cells import FURTHER, baselines_of, rivals_of
from kdbench.report.page import Cell, Group, Row, Table
from kdbench.report.text import (
    accuracy_cell,
    note_letters,
    note_list,
    pair_text,
    paired_cell,
    points_cell,
    setting,
    spread,
    summary_cell,
)
from kdbench.report.verdicts import by_group, label_of
from kdbench.types import Block, MethodSpec, Pair, Suite

MAX_COLUMNS = 7
"""Pairs that one table can hold before it is cut by the student's family."""
MARKS = "†‡"
GAP = "minus scratch, validation / test, points"
FAMILIES = {"cnn": "CNN", "vit": "ViT", "mlp": "MLP"}


def method_rows(report: BlockReport, pairs: Sequence[str]) -> list[Table]:
    """Accuracies, then the paired differences to each baseline, of these pairs."""
    block, tables = report.block, []
    for suffix, part in cut(report.suite, block, pairs).items():
        tables.append(_accuracy_table(report, part, suffix))
        tables += [_difference_table(report, part, suffix, baseline) for baseline in baselines_of(block)]
        tables += [_further_table(report, part, suffix, *item) for also in block.also for item in FURTHER[also].items()]
    return tables


def accuracy_tables(report: BlockReport, pairs: Sequence[str]) -> list[Table]:
    parts = cut(report.suite, report.block, pairs)
    return [_accuracy_table(report, part, suffix) for suffix, part in parts.items()]


def _accuracy_table(report: BlockReport, pairs: Sequence[str], suffix: str) -> Table:
    notes: dict[str, str] = {}
    block, records = report.block, report.records

    def row(method: MethodSpec) -> Row:
        label = _label(report, method, notes)
        return Row(label, tuple(accuracy_cell(records[pair, method.id], notes) for pair in pairs), method.id)

    teachers = Row(Cell("test accuracy"), tuple(teacher_cell(report, pair, notes) for pair in pairs))
    gaps = Row(Cell(GAP), tuple(gap_cell(report, pair, notes) for pair in pairs))
    teacher = Group("Teacher", (teachers, gaps), fixed=True)
    groups = by_group(block.methods, row)
    if report.readings:
        rows = tuple(_reading_row(reading, pairs, notes) for reading in report.readings)
        groups += (Group("Range over readings of a reconstructed method", rows),)
    footnotes = mark_notes(block) + note_list(notes)
    columns = headings(report, pairs)
    table = Table(f"Test accuracy, %{suffix}", "Method", columns, (teacher, *groups), footnotes, tuple(pairs))
    return _with_harness(table, block)


def harnesses(block: Block) -> dict[str, str]:
    """Method -> where its weights come from; empty where that is one place for all."""
    found = {m.id: m.harness for m in block.methods if m.harness}
    return found if len(set(found.values())) > 1 else {}


def _with_harness(table: Table, block: Block) -> Table:
    """The table with a first column of `harnesses`, where there are several."""
    harness = harnesses(block)
    if not harness:
        return table
    groups = [
        replace(g, rows=tuple(replace(r, cells=(Cell(harness.get(r.method, "—")), *r.cells)) for r in g.rows))
        for g in table.groups
    ]
    return replace(table, columns=(("harness",), *table.columns), groups=tuple(groups))


def reading_cell(reading: Reading, pair: str, notes: dict[str, str]) -> Cell:
    """Lowest and highest mean over seeds among the readings of a method; a footnote names the two.

    A reading that lacks a seed on a pair is not among them there.
    """
    labels = {m.id: m.label for m in reading.readings}
    found = reading.means.loc[pair].dropna() if pair in reading.means.index else pd.Series(dtype=float)
    if not len(found):
        return Cell("—")
    low, high = found.idxmin(), found.idxmax()
    lacking = f"; {len(labels) - len(found)} of {len(labels)} lack a seed" if len(found) < len(labels) else ""
    note = f"lowest: {labels[low]}; highest: {labels[high]}{lacking}"
    return Cell(f"{found[low]:.1f} to {found[high]:.1f}", float(found[low]), letters=note_letters(notes, [note]))


def _reading_row(reading: Reading, pairs: Sequence[str], notes: dict[str, str]) -> Row:
    label = Cell(f"{reading.method.label}: {len(reading.readings)} readings")
    return Row(label, tuple(reading_cell(reading, pair, notes) for pair in pairs))


def _difference_table(report: BlockReport, pairs: Sequence[str], suffix: str, baseline: str) -> Table:
    notes: dict[str, str] = {}
    block, records = report.block, report.records

    def row(method: MethodSpec) -> Row:
        own = (records[pair, method.id] for pair in pairs)
        return Row(Cell(method.label), tuple(paired_cell(record, baseline, notes) for record in own), method.id)

    groups = by_group(rivals_of(block, baseline), row)
    title = f"Paired difference to {label_of(block, baseline)}, points [95 % t interval]{suffix}"
    return Table(title, "Method", headings(report, pairs), groups, note_list(notes), tuple(pairs))


def _further_table(report: BlockReport, pairs: Sequence[str], suffix: str, name: str, title: str) -> Table:
    """Mean and standard deviation over seeds of what test predictions tell beside the accuracy."""
    block, records = report.block, report.records

    def row(method: MethodSpec) -> Row:
        return Row(Cell(method.label), tuple(summary_cell(records[pair, method.id], name) for pair in pairs), method.id)

    groups = by_group(block.methods, row)
    return Table(f"{title}{suffix}", "Method", headings(report, pairs), groups, pairs=tuple(pairs))


def _label(report: BlockReport, method: MethodSpec, notes: dict[str, str]) -> Cell:
    return Cell(method.label, letters=note_letters(notes, method_notes(report, method)))


def method_notes(report: BlockReport, method: MethodSpec) -> list[str]:
    """What is to be known of a method in all of its cells, but for a footnote that stands by a mark."""
    marked = {m.footnote for m in report.block.methods if any(c in MARKS for c in m.label)}
    texts = [method.footnote] if method.footnote and method.footnote not in marked else []
    if chosen := [c for c in report.tuned if method.tuned_from and c["method"] == method.stream]:
        texts.append("weight " + "; ".join(f"{setting(c)} on {pair_text(c['pair'])}" for c in chosen))
    return texts


def teacher_cell(report: BlockReport, pair: str, notes: dict[str, str]) -> Cell:
    mean, sd, n = stats.mean_sd(report.teachers.get(pair, []))
    if not n:
        return Cell("—")
    same = n > 1 and sd < 1e-9
    of = f" ({n})" if n < len(report.block.seeds) else ""
    letters = note_letters(notes, ["the same teacher accuracy in every seed"] if same else [])
    return Cell(f"{mean:.1f}{'' if same else spread(sd)}{of}", mean, letters=letters)


def gap_cell(report: BlockReport, pair: str, notes: dict[str, str]) -> Cell:
    """Teacher minus scratch on validation, which decides what is a headline pair, and on test."""
    gaps = report.headline.loc[pair]
    small = gaps["kind"] == "headline" and gaps["test_gain"] < stats.HEADLINE_POINTS
    why = (
        f"a headline pair by its validation gap, but on test the teacher is less than {stats.HEADLINE_POINTS:g} points"
    )
    letters = note_letters(notes, [f"{why} above scratch"] if small else [])
    val, test = (points_cell(gaps[name]) for name in ("gain", "test_gain"))
    return Cell(f"{val.text} / {test.text}", val.value, letters=letters)


def headings(report: BlockReport, pairs: Sequence[str]) -> tuple[tuple[str, ...], ...]:
    found = {pair.id: pair for pair in report.block.pairs}
    return tuple(_heading(report.suite, found[pair]) for pair in pairs)


def _heading(suite: Suite, pair: Pair) -> tuple[str, ...]:
    families = [_family(suite, model) for model in (pair.teacher, pair.student)]
    kinds = (" → ".join(families),) if all(families) else ()
    return (*kinds, f"{pair.teacher or 'no teacher'} →", pair.student)


def _family(suite: Suite, model: str | None) -> str | None:
    family = suite.models[model].family if model in suite.models else None
    return FAMILIES.get(family, family)


def cut(suite: Suite, block: Block, pairs: Sequence[str]) -> dict[str, Sequence[str]]:
    """Pairs by title suffix: all in one table where they fit, else by the student's family, then in sevens."""
    if len(pairs) <= MAX_COLUMNS:
        return {"": pairs}
    students = {p.id: p.student for p in block.pairs}
    families: dict[str, list[str]] = {}
    for pair in pairs:
        families.setdefault(_family(suite, students[pair]) or students[pair], []).append(pair)
    parts = {}
    for family, members in families.items():
        for start in range(0, len(members), MAX_COLUMNS):
            more = f", part {start // MAX_COLUMNS + 1}" if len(members) > MAX_COLUMNS else ""
            parts[f", {family} students{more}"] = members[start : start + MAX_COLUMNS]
    return parts


def mark_notes(block: Block) -> tuple[tuple[str, str], ...]:
    """The footnote of each mark, once; where a mark has several, each names its method."""
    notes: dict[tuple[str, str], str] = {}
    for method in block.methods:
        mark = "".join(c for c in method.label if c in MARKS)[:1]
        if mark and method.footnote:
            notes.setdefault((mark, method.footnote.removeprefix(mark).strip()), method.label.partition(mark)[0])
    marks = [mark for mark, _ in notes]
    return tuple((mark, f"{title}: {text}" if marks.count(mark) > 1 else text) for (mark, text), title in notes.items())
