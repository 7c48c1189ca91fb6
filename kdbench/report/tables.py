"""The tables of a suite: one description, written as Markdown, HTML and CSV, and what of it a paper takes as LaTeX."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from kdbench.files import write_text
from kdbench.report import stats
from kdbench.report.block import BlockReport
from kdbench.report.cells import baselines_of, cells
from kdbench.report.cite import citations
from kdbench.report.latex import preview
from kdbench.report.page import Cell, Document, Row, Section, Table, html, markdown
from kdbench.report.pair_rows import pair_rows
from kdbench.report.pair_tables import method_rows
from kdbench.report.paper import fragments
from kdbench.report.submitted import submitted_section
from kdbench.report.text import (
    budget_facts,
    known,
    note_letters,
    note_list,
    number_cell,
    points_cell,
    range_cell,
    say,
    setting,
    shares_text,
    signed,
    step_facts,
    teacher_facts,
    title_of,
)
from kdbench.report.verdicts import (
    DETECTABLE,
    by_group,
    claim_results,
    claims_tables,
    detectable_sentence,
    verdict_sentence,
    verdict_table,
)
from kdbench.report.worth import worth_parts
from kdbench.results.submission import Submission
from kdbench.types import Block, MethodSpec, Suite

OPTIMISM_EPOCHS = 5
"""Where no run has so many, the best epoch on test is the last one by construction."""


def describe(suite: Suite, reports: Sequence[BlockReport], submissions: Sequence[Submission] = ()) -> Document:
    """The page of a suite, or of some of its blocks; below all else, submitted rows."""
    sections, partial = [], []
    for report in (report.shown for report in reports):
        runs = pd.concat([report.frame, *(reading.frame for reading in report.readings)])
        runs = runs.drop_duplicates(["pair", "method", "seed"])
        if missing := int((runs["status"] == "missing").sum()):
            partial.append(f"{missing} of {len(runs)} runs of “{report.block.title}”")
        sections += _sections(report)
    banner = [suite.banner] if suite.banner else []
    if partial:
        banner.append(f"PARTIAL TABLE, no result yet for {'; '.join(partial)}. Numbers will change.")
    how = (
        "Cells show the test accuracy after the last epoch: mean ± standard deviation over seeds, with their number "
        "where it is not the n of the block. Bold: the best of a pair, all whose paired 95 % t interval against it "
        "includes 0, and all with a higher mean than one of these."
    )
    head = Section("", (how, *data_facts(reports)))
    submitted = (submitted_section(report.shown, submissions) for report in reports)
    sections += filter(None, submitted)
    return Document(title_of(suite), tuple(banner), (head, *sections), (DETECTABLE, _COST_NOTE, *_footer(reports)))


def _sections(report: BlockReport) -> list[Section]:
    block, data = report.block, report.cells
    kinds = data.drop_duplicates("pair").set_index("pair")["kind"]
    pairs = {kind: [p for p in kinds.index if kinds[p] == kind] for kind in ("headline", "weak", "undecided")}

    parts: list[str | Table] = [*_block_facts(report)]
    if block.row_of("kd") not in {m.id for m in block.methods}:
        parts.append("This block has no plain KD, so there are no differences to KD.")
    if report.frame["seed"].nunique() == 1:
        parts.append("Only one seed: there are no intervals and no tests, and nothing is bold.")
    if pairs["headline"]:
        parts += _pair_tables(report, pairs["headline"], headline=True)
    else:
        parts.append(
            "No pair of this block is known to be a headline pair (teacher at least 3 points above scratch on "
            "validation)."
        )
    sections = [Section(f"{block.title} ({block.name})", tuple(parts))]
    for kind, title, why in (
        (
            "weak",
            "Weak teachers",
            "The teacher is less than 3 points above scratch on validation. These pairs do not count in the verdict.",
        ),
        (
            "undecided",
            "Undecided",
            "The teacher or scratch has no validation result yet. These pairs do not count in the verdict.",
        ),
    ):
        if pairs[kind]:
            tables = _pair_tables(report, pairs[kind], headline=False)
            sections.append(Section(f"{block.title}: {title.lower()}", (why, *tables)))
    parts = []
    if pairs["headline"]:
        parts += [part for baseline in baselines_of(block) for part in _verdict_parts(report, baseline)]
    if claims := claim_results(report.suite, block, report.frame):
        parts += claims_tables(block, claims)
    if report.tuned:
        parts.append(_tuning_table(block, report.tuned, report.suite.tune.budget))
    if stats.numbers(report.frame, "epochs").max() >= OPTIMISM_EPOCHS:
        parts.append(_optimism_table(block, data))
    parts += worth_parts(block, report.lengths)
    parts.append(_cost_table(report))
    sections.append(Section(f"{block.title}: verdict and cost", tuple(parts)))
    return sections


def _pair_tables(report: BlockReport, pairs: Sequence[str], headline: bool) -> list[Table]:
    return pair_rows(report, pairs, headline) if report.block.layout == "pairs" else method_rows(report, pairs)


def _verdict_parts(report: BlockReport, baseline: str) -> list[str | Table]:
    block, verdict = report.block, report.verdicts[baseline]
    return [
        verdict_table(block, verdict, baseline, report.groups),
        verdict_sentence(block, verdict, baseline),
        detectable_sentence(report.frame, baseline, list(verdict.index)),
    ]


def _tuning_table(block: Block, choices: Sequence[Mapping[str, Any]], budget: float) -> Table:
    """Per method and tuning pair the chosen weight and temperature, and what is gained by them on validation."""
    notes: dict[str, str] = {}
    pairs = list(dict.fromkeys(c["pair"] for c in choices))
    found = {(c["method"], c["pair"]): c for c in choices}

    def cell(method: MethodSpec, pair: str) -> Cell:
        choice = found.get((method.id, pair))
        if choice is None:
            return Cell("—")
        vals = {setting(t): t["val"] for t in choice["tried"]}
        lost: dict[str, list[str]] = {}
        for t in choice["tried"]:
            if t["val"] is None:
                lost.setdefault(f"{t['status']} ({t['reason']})", []).append(setting(t))
        texts = [f"{'; '.join(settings)}: {fault}" for fault, settings in lost.items()]
        if edge := choice.get("edge"):
            texts.append(f"at the edge of the grid ({', '.join(edge)}): a better setting may lie beyond it")
        default = {"factor": 1} | ({"temperature": choice["default_temperature"]} if "temperature" in choice else {})
        own, gain = setting(choice), ""
        if own != setting(default) and known(vals.get(setting(default))):
            gain = f", {signed(vals[own] - vals[setting(default)])}"
        return Cell(f"{choice['value']:.3g} ({own}{gain})", choice["value"], letters=note_letters(notes, texts))

    methods = [m for m in block.methods if any(m.id == c["method"] for c in choices)]
    tried_for = "" if budget == block.budget == 1 else f" at budget {budget:g}"
    temperature = ", temperature T where tried" if any("temperature" in c for c in choices) else ""
    return Table(
        f"Tuning{tried_for}: selected main weight (multiple of the default{temperature}, validation gain in points)",
        "Method",
        tuple((*pair.split("--", 1),) for pair in pairs),
        by_group(methods, lambda m: Row(Cell(m.label), tuple(cell(m, pair) for pair in pairs), m.id)),
        note_list(notes),
    )


def _optimism_table(block: Block, data: pd.DataFrame) -> Table:
    measured = data[data["optimism_mean_decides_nothing"].notna()]

    def row(method: MethodSpec) -> Row:
        own = measured[measured["method"] == method.id]
        names = ("test_mean", "best_test_mean_decides_nothing", "optimism_mean_decides_nothing")
        last, best, gap = (stats.mean_sd(own[name]).mean for name in names)
        pairs = Cell(str(len(own)), len(own)) if len(own) else Cell("—")
        row = (number_cell(last, ".1f"), number_cell(best, ".1f"), points_cell(gap), pairs)
        return Row(Cell(method.label), row, method.id)

    return Table(
        "For information only: gain from selecting the epoch on the test set",
        "Method",
        (("last", "epoch, %"), ("best test", "epoch, %"), ("optimism,", "points"), ("pairs",)),
        by_group(block.methods, row),
    )


def _cost_table(report: BlockReport) -> Table:
    data, relative = report.cells, "seconds_over_scratch" in report.cells
    shares = report.frame.reindex(columns=["method", "gradient_shares"]).set_index("method")["gradient_shares"]

    def row(method: MethodSpec) -> Row:
        own = data[data["method"] == method.id]
        found = [range_cell(own["extra_parameters"]), range_cell(own["seconds_mean"])]
        if relative:
            found.append(range_cell(own["seconds_over_scratch"], ".2f", " ×"))
        pulls = Cell(shares_text(shares[shares.index == method.id]) or "—")
        return Row(Cell(method.label), (*found, range_cell(own["peak_memory_mb_mean"]), pulls), method.id)

    columns = (("extra", "parameters"), ("seconds", "per run"))
    columns += (("time over", "scratch"),) if relative else ()
    columns += (("peak memory,", "MB"), ("share of the student's", "gradient, first step"))
    return Table("Cost of training, range over pairs", "Method", columns, by_group(report.block.methods, row))


_COST_NOTE = (
    "Cost: seconds cover the student's own training steps but the first. What the runs of a job share (the teacher's "
    "forward pass and the batches) is not included, nor is evaluation. Scratch is timed in a separate job, so other "
    "load on the machine changes the ratio. Memory is that of the whole process with all its runs. The last column is "
    "the norm of each loss term's gradient with respect to the student's parameters, before its first step, in "
    "percent of the sum of these norms: a mean over pairs and seeds."
)


def _block_facts(report: BlockReport) -> list[str]:
    seeds, level = len(report.block.seeds), stats.mean_sd(report.cells["test_mean"]).mean
    lines = [f"n = {seeds} seed{'' if seeds == 1 else 's'}.", *budget_facts(report.block)]
    lines += teacher_facts(report.suite, report.block)
    lines += step_facts(report.suite, report.block)
    if report.counts.get("test") and level is not None:
        error = stats.sampling_error(level, report.counts["test"])
        lines.append(
            f"{report.counts['test']:,} test samples: at this table's mean accuracy of {level:.1f} %, sampling alone "
            f"gives the accuracy of one network a standard error of {error:.1f} points."
        )
    return lines


def data_facts(reports: Sequence[BlockReport]) -> tuple[str, ...]:
    """What is known of each data set, once for all blocks: a line a fact, or where there are two a line a data set."""
    by_name = {report.block.data: report for report in reversed(reports)}
    lines = []
    for name, report in reversed(by_name.items()):
        own = [f"Data: {say(report.counts)}."] if report.counts else []
        if report.classes:
            own.append(f"{report.classes:,} classes: chance level {100 / report.classes:.1f} %.")
        own += map(str, report.data_notes)
        for modality, anchor in report.anchors.items():
            names = ("nearest neighbour", "logistic regression")
            found = [f"{name} {anchor[name]:.1f} %" for name in names if known(anchor.get(name))]
            sizes = [f"{say(anchor[f'{k}_used'])} {k}" for k in ("train", "test") if anchor.get(f"{k}_used")]
            used = f" (on {' and '.join(sizes)} samples)" if sizes else ""
            own += [f"Without a network, {modality}: {', '.join(found)}{used}."] if found else []
        lines += own if len(by_name) == 1 else [f"{name}: " + " ".join(line.rstrip(".") + "." for line in own)]
    return tuple(lines)


def _footer(reports: Sequence[BlockReport]) -> tuple[str, ...]:
    lines = {
        f"{key.capitalize()}: {say(report.made_with[key])}": None
        for report in reports
        for key in ("date", "hardware", "versions", "commit")
        if report.made_with.get(key)
    }
    return tuple(lines)


def write_tables(suite: Suite, reports: Sequence[BlockReport], folder: Path) -> list[Path]:
    """Write folder/SUITE.md, .html, .csv, the fragments of paper.py in folder/SUITE, SUITE.bib and the preview
    SUITE.tex, each whole or not at all, and return their paths.

    Raises KdbenchError where a file cannot be written or a (pair, method, seed) has two results.
    """
    page = describe(suite, reports)
    own = {f"{suite.name}/{name}.tex": text for r in reports for name, text in fragments(r.shown).items()}
    texts = {
        f"{suite.name}.md": markdown(page),
        f"{suite.name}.tex": preview(page.title, page.banner, list(own), suite.name, _footer(reports)),
        f"{suite.name}.html": html(page),
        f"{suite.name}.csv": csv(suite, reports),
        f"{suite.name}.bib": citations(suite) + "\n",
        **own,
    }
    for name, text in texts.items():
        write_text(folder / name, text)
    return [folder / name for name in texts]


def write_submitted(
    suite: Suite, reports: Sequence[BlockReport], submissions: Sequence[Submission], folder: Path
) -> list[Path]:
    """Write folder/SUITE.with-NAME.md and .html: the page of a suite with submitted rows below its own.

    Their numbers are those of submissions/NAME/runs.csv, and the suite's files for papers hold its own rows alone.
    """
    page, stem = describe(suite, reports, submissions), f"{suite.name}.with-{'-'.join(s.name for s in submissions)}"
    for suffix, text in (("md", markdown(page)), ("html", html(page))):
        write_text(folder / f"{stem}.{suffix}", text)
    return [folder / f"{stem}.{suffix}" for suffix in ("md", "html")]


def csv(suite: Suite, reports: Sequence[BlockReport]) -> str:
    """Long form, unrounded. `line` is `cell` (one a pair and method), `reading` (the same for the readings of a
    reconstructed method) or `verdict` (one a method and baseline)."""
    lines = []
    for report in (report.shown for report in reports):
        block = report.block
        for reading in report.readings:
            own = cells(dataclasses.replace(block, methods=tuple(reading.readings)), reading.frame)
            own["kind"] = own["pair"].map(report.headline["kind"])  # which scratch decides, and that is no reading
            lines.append(own.assign(line="reading", notes=own["notes"].map("; ".join)))
        lines.append(report.cells.assign(line="cell", notes=report.cells["notes"].map("; ".join)))
        labels = pd.DataFrame([{"method": m.id, "label": m.label, "group": m.group} for m in block.methods])
        for baseline, verdict in report.verdicts.items():
            found = verdict.assign(collapsed=verdict["collapsed"].map("; ".join))
            found = found.add_prefix("verdict_").reset_index()
            lines.append(labels.merge(found).assign(line="verdict", block=block.name, baseline=baseline).astype(object))
    table = pd.concat(lines, ignore_index=True).assign(suite=suite.name, edition=suite.edition)
    first = ["suite", "edition", "block", "line", "baseline"]
    table = table.reindex(columns=first + [c for c in table.columns if c not in first])
    text = io.StringIO()
    table.to_csv(text, index=False, lineterminator="\n")
    return text.getvalue()
