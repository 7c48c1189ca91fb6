"""`kdbench report`: a suite as one HTML page that needs nothing else, with what lies behind every cell.

It opens on each block's verdict, in words and as a figure; the tables follow.

The page is report.html with the suite's data put into it as JSON; its script builds all elements from text, so that no
name is ever read as markup. Numbers are those of tables.py: the page shows the same tables as SUITE.md.
"""

from __future__ import annotations

import base64
import hashlib
import html
import itertools
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from kdbench.files import write_text
from kdbench.plan.jobs import Plan, Run
from kdbench.plan.paths import home, tuned_file
from kdbench.plan.registry import method_info
from kdbench.plan.suite import typed
from kdbench.report import figures, stats, tables
from kdbench.report.block import BlockReport, block_reports, reference_reports
from kdbench.report.figures.canvas import svg
from kdbench.report.figures.style import method_styles
from kdbench.report.page import Cell, Group, Row, Section, Table
from kdbench.report.text import difference_cell, number_cell
from kdbench.report.verdicts import detectable_sentence, label_of, verdict_title
from kdbench.results.reference import Reference
from kdbench.results.today import Today
from kdbench.types import Block, MethodSpec, Pair, Suite

TEMPLATE = Path(__file__).with_name("report.html")
VERDICTS = ("better", "worse", "not separated", "no test")
MAX_SVG = 1_000_000
"""Bytes of an SVG above which a figure is embedded as PNG."""
MAX_POINTS = 100
"""Points of one learning curve on the page; longer ones are thinned."""


def write_report(plan: Plan, path: Path) -> Path:
    """Write the page of a suite, finished or not; what is missing is marked.

    Raises KdbenchError where the page cannot be written or a data set is damaged.
    """
    drawn_of = [run.result for job in plan.of("cohort") for run in job.runs if run.result.exists()]
    newest = max((result.stat().st_mtime for result in drawn_of), default=0.0)
    data = _data(plan, block_reports(Today(plan), "curves"), home(plan.suite) / "figures", newest)
    write_text(path, page(data))
    return path


def write_reference_report(plan: Plan, path: Path) -> Path:
    """The same page from the committed results of a suite, with the figures that lie beside them.

    Raises KdbenchError where there is no reference of the suite or it is damaged.
    """
    reference = Reference(plan.suite)
    data = _data(plan, reference_reports(reference), reference.folder / "figures")
    data["banner"] += [reference.left_out] if reference.left_out else []
    write_text(path, page(data))
    return path


def page(data: Mapping[str, Any]) -> str:
    """The HTML of the data. Only its own style and script are allowed to work, and no request to leave."""
    text = TEMPLATE.read_text(encoding="utf-8")
    policy = {"default-src": "'none'", "img-src": "data:", "base-uri": "'none'", "form-action": "'none'"}
    for tag in ("style", "script"):
        content = re.search(f"<{tag}>(.*?)</{tag}>", text, re.S)[1]
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        policy[f"{tag}-src"] = f"'sha256-{digest}'"
    parts = {
        "policy": "; ".join(f"{name} {value}" for name, value in policy.items()),
        "title": html.escape(data["title"]),
        # A "<" could end the element that holds the JSON.
        "data": json.dumps(data, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c"),
    }
    return re.sub(r"\{\{(\w+)\}\}", lambda match: parts[match[1]], text)


def _data(plan: Plan, reports: Sequence[BlockReport], drawn: Path, newest: float = 0.0) -> dict[str, Any]:
    """drawn: the folder of figures; newest: time of the newest result, in seconds."""
    documents = [tables.describe(plan.suite, [report]) for report in reports]
    return {
        "title": documents[0].title,
        "suite": plan.suite.name,
        "banner": list(dict.fromkeys(line for document in documents for line in document.banner)),
        "links": [],
        "how": f"{documents[0].sections[0].parts[0]} Press a heading to sort, a cell to see what lies behind it.",
        "facts": tables.data_facts(reports),
        "blocks": [
            {**_block(report, document.sections[1:]), "figures": list(_figures(report, drawn, newest))}
            for report, document in zip(reports, documents, strict=True)
        ],
        "details": {key: detail for report in reports for key, detail in _details(plan, report)},
        "footer": list(dict.fromkeys(line for document in documents for line in document.footer)),
    }


def _block(report: BlockReport, sections: Sequence[Section]) -> dict[str, Any]:
    return {
        "title": report.block.title,
        "verdicts": list(_verdicts(report.shown)),
        "main": _main_figure(report.shown) if report.shown.verdicts else None,
        "sections": [{"title": s.title, "parts": list(_parts(report.block, s))} for s in sections],
    }


def _verdicts(report: BlockReport) -> Iterator[dict[str, Any]]:
    """Who is better, worse or not separated, baseline by baseline, and what difference could have been detected."""
    for baseline, verdict in report.verdicts.items():
        kinds = {kind: verdict.index[verdict["verdict"] == kind] for kind in VERDICTS}
        yield {
            "title": verdict_title(report.block, baseline),
            "lists": [
                {"kind": kind, "methods": [_difference(report.block, verdict.loc[m]) for m in methods]}
                for kind, methods in kinds.items()
                if len(methods)
            ],
            "detectable": detectable_sentence(report.frame, baseline, list(verdict.index)),
        }


def _difference(block: Block, v: pd.Series) -> dict[str, str]:
    """A method and its difference, from a row of stats.verdict."""
    return {"label": label_of(block, v.name), "points": difference_cell(v, {}).text}


def _main_figure(report: BlockReport) -> dict[str, str]:
    """Drawn for the page, so that it is there and of today before any other figure is."""
    main = figures.kinds()[figures.MAIN]
    return {"title": main.TITLE, "source": _source(svg(main.draw(report)), "svg")}


# ------------------------------------------------------------------------------------------------------ tables to JSON


def _parts(block: Block, section: Section) -> Iterator[dict[str, Any]]:
    """Paragraphs, and tables; those of the same pairs one behind the other share a place, between which one chooses."""
    for same, parts in itertools.groupby(section.parts, key=lambda part: isinstance(part, Table) and part.pairs):
        if same:
            yield {"tables": [table_data(table, block.name) for table in parts]}
        else:
            yield from ({"text": p} if isinstance(p, str) else {"tables": [table_data(p, block.name)]} for p in parts)


def table_data(table: Table, place: str) -> dict[str, Any]:
    """Texts, beside each the number that it sorts by, where it has one, and the cell of the place that it opens."""
    rows = []
    for group in table.groups:
        for row in group.rows:
            cells = [_cell(cell, place) for cell in (row.label, *row.cells)]
            rows.append({"group": group.title, "cells": cells, "fixed": group.fixed})
    columns = [[table.corner], *([line for line in column if line] for column in table.columns)]
    return {
        "title": table.title,
        "columns": columns,
        "texts": table.texts,
        "rows": rows,
        "footnotes": table.footnotes,
    }


def _cell(cell: Cell, place: str) -> dict[str, Any]:
    more = {} if cell.value is None else {"sort": float(cell.value)}
    more |= {"open": cell_key(place, *cell.of)} if cell.of else {}
    return {"text": cell.text, "bold": cell.bold, "letters": ",".join(cell.letters)} | more


def cell_key(place: str, pair: str, method: str) -> str:
    return f"{place}/{pair}/{method}"


# -------------------------------------------------------------------------------------------------------- behind a cell


def _details(plan: Plan, report: BlockReport) -> Iterator[tuple[str, dict[str, Any]]]:
    """What each cell opens: what `behind` gives, notes, how to train it again and what to cite, config."""
    block, frame, records = report.block, report.frame, report.records
    keys = dict(iter(frame.groupby(["pair", "method"])["key"]))
    for pair, method, detail in behind(block, frame, report.curves, method_styles(report.suite)):
        run = plan.run_of(pair, method, block.seeds[0], block.budget)
        yield (
            cell_key(block.name, pair.id, method.id),
            detail
            | {
                "notes": [*records[pair.id, method.id]["notes"], *filter(None, [method.footnote])],
                "tables": [],
                "texts": again_and_citation(plan.suite, run),
                # A reference may be of before a version rose: what it ran is not known then.
                "config": run.config if run.key in set(keys[pair.id, method.id]) else None,
            },
        )


def behind(
    block: Block, frame: pd.DataFrame, curves: pd.DataFrame, styles: Mapping[str, Mapping[str, Any]]
) -> Iterator[tuple[Pair, MethodSpec, dict[str, Any]]]:
    """The title of every cell of a block, its seeds, and its learning curves with their colour.

    frame, curves: in the columns of kdbench/results/frames.collect and histories. styles: those of figures/style.py.
    """
    tests = {pair: rows.droplevel("pair") for pair, rows in stats.wide(frame).groupby(level="pair")}
    runs = dict(iter(frame.groupby(["pair", "method"])))
    drawn = dict(iter(curves.groupby(["pair", "method", "seed"]))) if len(curves) else {}
    for pair, method in itertools.product(block.pairs, block.methods):
        own = {seed: drawn.get((pair.id, method.id, seed)) for seed in block.seeds}
        yield (
            pair,
            method,
            {
                "title": f"{method.label}: {pair.teacher} → {pair.student}",
                "seeds": table_data(_seeds(block, runs[pair.id, method.id], tests[pair.id]), block.name),
                "curves": [{"seed": s, "points": _points(c)} for s, c in own.items() if c is not None],
                "colour": styles[method.id]["color"],
            },
        )


def again_and_citation(suite: Suite, run: Run) -> list[dict[str, str]]:
    """The commands that train all seeds of a run from nothing, and the BibTeX entry of its method, where it has one."""
    name, lines = typed(suite), []
    lines.append(f"kdbench data {name} {run.data}")
    if run.pair.teacher:
        lines.append(f"kdbench teacher {name} {run.pair.teacher}")
    if run.method.tuned_from:
        lines.append(f"snakemake --cores all --config suite={name} {tuned_file(suite)}")
    lines.append(f"kdbench distill {name} {run.pair.id} --methods {run.method.id}")
    texts = {"Train it again": "\n".join(lines), "Citation": method_info(run.method.method).bibtex}
    return [{"title": title, "text": text} for title, text in texts.items() if text]


def _seeds(block: Block, runs: pd.DataFrame, tests: pd.DataFrame) -> Table:
    """The runs of a cell, one a row; `tests` are the accuracies of its pair, a row a seed and a column a method."""
    labels = {m.id: m.label for m in block.methods}
    baselines = [b for b in map(block.row_of, ("kd", "scratch")) if b in labels and b != runs["method"].iloc[0]]
    percent = {"val": "validation, %", "test": "test, %", "teacher_test": "teacher's test, %"}
    values = [stats.numbers(runs, name) for name in percent]
    values += [
        tests[runs["method"].iloc[0]].sub(tests[b]).reindex(runs["seed"]).set_axis(runs.index) for b in baselines
    ]
    forms = [".2f"] * len(percent) + ["+.2f"] * len(baselines)
    rows = []
    for i, seed, status, seconds in zip(
        runs.index, runs["seed"], runs["status"], stats.numbers(runs, "seconds"), strict=True
    ):
        numbers = (number_cell(v[i], form) for v, form in zip(values, forms, strict=True))
        rows.append(Row(Cell(str(seed), seed), (Cell(status), *numbers, number_cell(seconds, ",.1f"))))
    titles = ["status", *percent.values(), *(f"minus {labels[b]}, points" for b in baselines), "seconds"]
    return Table("Seeds", "Seed", tuple((title,) for title in titles), (Group("", tuple(rows)),))


def _points(curve: pd.DataFrame) -> list[list[float | None]]:
    """(step, validation, test) of evenly spread epochs; the last one, which counts, is always there."""
    kept = np.unique(np.linspace(0, len(curve) - 1, min(len(curve), MAX_POINTS)).round().astype(int))
    values = curve.iloc[kept][["step", "val_accuracy", "test_accuracy"]].astype(float).to_numpy()
    return [[round(v, 2) if np.isfinite(v) else None for v in point] for point in values.tolist()]


# -------------------------------------------------------------------------------------------------------------- figures


def _figures(report: BlockReport, folder: Path, newest: float) -> Iterator[dict[str, Any]]:
    """The block's figures as they lie in a folder, but for the one on which the page opens; one older than the newest
    result says so."""
    known = figures.kinds()
    for kind, path in _drawn(report, folder).items():
        if kind == figures.MAIN:
            continue
        source = _source(path.read_bytes(), path.suffix[1:])
        title, caption = (known[kind].TITLE, known[kind].__doc__) if kind in known else (kind, "")
        old = path.stat().st_mtime < newest
        yield {"title": title, "caption": " ".join(caption.split()), "source": source, "old": old}


def _source(picture: bytes, suffix: str) -> str:
    media = {"svg": "image/svg+xml", "png": "image/png"}[suffix]
    return f"data:{media};base64,{base64.b64encode(picture).decode()}"


def _drawn(report: BlockReport, folder: Path) -> dict[str, Path]:
    """{kind: file} of the figures BLOCK-KIND, the supplement's last; as SVG where that is not too large."""
    found, block = {}, report.block.name
    places = [folder, folder / figures.SUPPLEMENT]
    files = [path for place in places for suffix in ("png", "svg") for path in place.glob(f"*.{suffix}")]
    for path in sorted(files, key=lambda path: (places.index(path.parent), path.stem, path.suffix)):
        # One block's name may begin with another's.
        owners = [b.name for b in report.suite.blocks if path.stem.startswith(f"{b.name}-")]
        if max(owners, key=len, default=None) == block and (path.suffix == ".png" or path.stat().st_size <= MAX_SVG):
            found[path.stem.removeprefix(f"{block}-")] = path
    return found
