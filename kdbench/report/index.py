"""The index of all committed results: every cell of every reference and the rows that others submitted, in one table,
with what lies behind each.

Its numbers come from the files of the references alone, so that those of an earlier edition stay readable. How to train
a row again and what to cite come from the suite, where config/ has it in the edition of the reference.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pandas as pd

from kdbench.plan.jobs import Plan, make_plan
from kdbench.plan.paths import of_budget, owner_of
from kdbench.plan.suite import load_suite
from kdbench.report import html, stats
from kdbench.report.block import made_with_of
from kdbench.report.cells import cells
from kdbench.report.figures.style import styles_of
from kdbench.report.page import Cell, Group, Row, Table
from kdbench.report.text import accuracy_cell, note_list, number_cell, pair_text, paired_cell, say, shares_text
from kdbench.results.reference import Frozen
from kdbench.results.submission import CARD, REFERENCE, Submission
from kdbench.types import Block, MethodSpec, Pair

HOW = (
    "Every cell of the committed results: test accuracy after the last epoch, mean ± standard deviation over n seeds, "
    "and the paired difference to Scratch with its 95 % t interval. Suites differ in data, networks and lengths of "
    "training: compare within one block. A row is of the reference or was submitted: verified, where its numbers were "
    "recomputed and a run was trained again, or reported by its author. Press a heading to sort, a method to see its "
    "seeds, its learning curve, its cost, how to train it again and what to cite."
)
COLUMNS = (("Suite",), ("Edition",), ("Block",), ("Pair",), ("Status",), ("n",))
COLUMNS += (("test", "accuracy, %"), ("minus Scratch,", "points"))
COSTS = {
    "seconds": (",.1f", ("seconds", "per run")),
    "peak_memory_mb": (",.0f", ("peak memory,", "MB")),
    "student_parameters": (",.0f", ("student's", "parameters")),
    "extra_parameters": (",.0f", ("extra", "parameters")),
    "operations_per_step": (",.0f", ("operations a step,", "student and method")),
    "teacher_operations_per_step": (",.0f", ("operations a step,", "teacher")),
}
"""Columns of frames.collect that say what a run costs, their formats and headings."""


def index_page(
    references: Iterable[Frozen], submissions: Iterable[Submission] = (), links: Sequence[tuple[str, str]] = ()
) -> str:
    """The index as one HTML page that needs nothing else. links: (text, address), shown at its top.

    Raises KdbenchError for a damaged reference, and for a suite in config/ that is no suite.
    """
    notes: dict[str, str] = {}
    rows, details, banner, footer = [], {}, [], []
    for reference in references:
        name, plan = reference.folder.name, _plan_of(reference)
        footer.append(f"{name}: {_said(reference)}")
        if plan and plan.suite.banner:
            banner.append(f"{name}: {plan.suite.banner}")
        kept = _Kept(reference, name, plan)
        rows += kept.rows(notes)
        details |= kept.details()
    for submission in submissions:
        footer.append(f"{submission.folder.as_posix()}: {_said(submission)}")
        kept = _Kept(submission, submission.base, mark=submission.mark, only=submission.name)
        rows += kept.rows(notes)
        details |= {key: {**detail, "texts": _card(submission)} for key, detail in kept.details().items()}
    table = html.table_data(Table("All results", "Method", COLUMNS, (), note_list(notes), texts=6), "")
    section = {"title": "", "parts": [{"tables": [table | {"rows": rows, "filter": True}]}]}
    return html.page(
        {
            "title": "kdbench: index of all results",
            "links": links,
            "banner": banner,
            "how": HOW,
            "facts": [],
            "blocks": [{"title": "", "verdicts": [], "sections": [section], "figures": []}],
            "details": details,
            "footer": footer,
        }
    )


def _said(frozen: Frozen) -> str:
    return "; ".join(f"{key} {say(value)}" for key, value in made_with_of(frozen).items() if value)


@dataclass(frozen=True)
class _Kept:
    """The cells of a folder of committed runs."""

    frozen: Frozen
    suite: str
    plan: Plan | None = None
    mark: str = REFERENCE
    only: str | None = None
    """The method whose cells are shown; None: all."""

    @cached_property
    def blocks(self) -> list[tuple[tuple[str, str, str], Block, pd.DataFrame, pd.DataFrame, pd.DataFrame]]:
        """(suite, edition, block with its budget), the block, its runs, its learning curves and its `cells`."""
        found = []
        for place, block, frame, curves in _blocks(self.frozen):
            records = cells(block, frame)
            shown = records[records["method"] == self.only] if self.only else records
            found.append(((self.suite, *place), block, frame, curves, shown))
        return found

    def rows(self, notes: dict[str, str]) -> list[dict[str, Any]]:
        found = []
        for place, _, _, _, records in self.blocks:
            own = (_row(place, self.mark, record, notes) for record in records.to_dict("records"))
            found += html.table_data(Table("", "", COLUMNS, (Group("", tuple(own)),)), "/".join(place))["rows"]
        return found

    def details(self) -> dict[str, dict[str, Any]]:
        """What lies behind each row."""
        found = {}
        for place, block, frame, curves, records in self.blocks:
            costs = frame.groupby(["pair", "method"])
            for pair, method, detail in html.behind(block, frame, curves, _styles(self.plan, block)):
                key = (pair.id, method.id)
                if key in records.index:
                    told = "{}, edition {}, block {}.".format(*place)
                    detail["notes"] = [told, *records.loc[key, "notes"]]
                    detail["tables"] = [html.table_data(_cost(costs.get_group(key)), block.name)]
                    detail["texts"] = _from_suite(self.plan, block, pair, method)
                    found[html.cell_key("/".join(place), *key)] = detail
        return found


def _plan_of(reference: Frozen) -> Plan | None:
    """The plan of its suite, where config/ has it in the edition of the reference."""
    path = owner_of(reference.folder.name)
    suite = load_suite(path) if path else None
    return make_plan(suite) if suite and {str(suite.edition)} == set(reference.texts["edition"]) else None


def _styles(plan: Plan | None, block: Block) -> dict[str, dict[str, Any]]:
    """Those of a block's methods; only the suite knows which of them are variants of others."""
    methods = {m.id: m for m in block.methods}
    return styles_of(methods | {m.id: m for own in (plan.suite.blocks if plan else ()) for m in own.trained})


def _blocks(reference: Frozen) -> Iterator[tuple[tuple[str, str], Block, pd.DataFrame, pd.DataFrame]]:
    """(edition, block with its budget), block, runs and learning curves of each block and budget; the block is
    what its runs tell of it."""
    curves = reference.histories
    for (edition, name, budget), runs in reference.runs.groupby(["edition", "block", "budget"], sort=False):
        labels = dict(zip(runs["method"], runs["label"], strict=True))
        block = Block(
            name,
            title="",
            data="",
            pairs=tuple(Pair(*pair) for pair in runs[["teacher", "student"]].drop_duplicates().itertuples(index=False)),
            methods=tuple(MethodSpec(id, "", {}, label, "") for id, label in labels.items()),
            seeds=tuple(sorted(set(runs["seed"]))),
            budget=budget,
        )
        own = curves[(curves["block"] == name) & (curves["budget"] == budget)] if len(curves) else curves
        yield (edition, name + of_budget(budget)), block, runs, own


def _row(place: Sequence[str], mark: str, record: Mapping[str, Any], notes: dict[str, str]) -> Row:
    """A row of `cells` in the columns of the index."""
    scratch = paired_cell(record, "scratch", notes) if "minus_scratch_n" in record else Cell("—")
    # Notes stand behind the row; bold compares the methods of a pair, and here rows are sorted and filtered.
    accuracy = accuracy_cell({**record, "notes": [], "bold": False}, notes)
    texts = [Cell(text) for text in (*place, pair_text(record["pair"]), mark)]
    label = Cell(record["label"], of=(record["pair"], record["method"]))
    return Row(label, (*texts, number_cell(record["test_n"], "d"), accuracy, scratch))


def _cost(runs: pd.DataFrame) -> Table:
    """What the runs of a cell cost, mean over seeds."""
    means = {name: stats.mean_sd(stats.numbers(runs, name)).mean for name in ("steps", *COSTS)}
    found = (number_cell(means[name], form) for name, (form, _) in COSTS.items())
    shares = Cell(shares_text(runs.get("gradient_shares", ())) or "—")
    row = Row(number_cell(means["steps"], ",.0f"), (*found, shares))
    headings = (*(heading for _, heading in COSTS.values()), ("share of the student's", "gradient, first step"))
    return Table("Cost, mean over seeds", "Steps", headings, (Group("", (row,)),))


def _from_suite(plan: Plan | None, block: Block, pair: Pair, method: MethodSpec) -> list[dict[str, str]]:
    """How to train a cell again and what to cite, as far as the suite plans it."""
    for own in plan.suite.blocks if plan else ():
        methods = {m.id: m for m in own.trained}
        if own.name == block.name and pair in own.pairs and method.id in methods and block.budget in own.budgets:
            run = plan.run_of(pair, methods[method.id], own.seeds[0], block.budget)
            return html.again_and_citation(plan.suite, run)
    return [{"title": "Train it again", "text": "No suite in config/ trains this cell today."}]


def _card(submission: Submission) -> list[dict[str, str]]:
    """What its author says of a submitted row, and how it was and is verified."""
    card, verdict = submission.card, submission.verdict
    texts = {key.capitalize(): card.get(key, "") for key in CARD}
    texts["Verified"] = f"{verdict['date']}, with kdbench {verdict['versions']['commit']}" if verdict else ""
    texts["Verify it again"] = f"kdbench verify {submission.folder.as_posix()}"
    return [{"title": title, "text": text} for title, text in texts.items() if text]
