"""Tables, figures and references of a suite, from what lies on disk."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdbench.data.packed import load_packed
from kdbench.files import atomic, read_json, write_text
from kdbench.plan.jobs import Plan
from kdbench.plan.paths import TABLES, data_folder, home, reference_folder, tuned_file
from kdbench.plan.suite import typed
from kdbench.results import provenance
from kdbench.results.frames import all_runs, collect, correct_images, histories
from kdbench.results.record import MISSING
from kdbench.results.today import Tuned, current_record
from kdbench.types import KdbenchError

if TYPE_CHECKING:
    from kdbench.report.block import BlockReport


def run_table(plan: Plan, *, partial: bool = False) -> list[Path]:
    """Write tables/SUITE.md, .tex, .html and .csv. Raises KdbenchError when runs are missing, unless `partial`."""
    from kdbench.report import tables

    reports = block_reports(plan)
    for report in reports:
        for runs in (report.frame, *(reading.frame for reading in report.readings)):
            missing = runs[runs.status == MISSING]
            if partial or not len(missing):
                continue
            first, suite = missing.iloc[0], typed(plan.suite)
            raise KdbenchError(
                f"{len(missing)} of {len(runs)} cells of block {report.block.name} have no result; the first is "
                f"{first.pair}/{first.method} seed {first.seed}: {first.reason}; run snakemake (where it says that "
                f"there is nothing to do: kdbench distill {suite} {first.pair}), or: kdbench table {suite} --partial"
            )
    return tables.write_tables(plan.suite, reports, TABLES)


def block_reports(plan: Plan) -> list[BlockReport]:
    """What tables and reports are made from, block by block. A data set that is not packed yet has no anchors."""
    from kdbench.report.block import BlockReport, Reading

    reports, tuned, made_with = [], Tuned(plan), _made_with(plan)
    for block in plan.suite.blocks:
        folder = data_folder(plan.suite, block.data)
        packed = (folder / "meta.json").exists()
        meta = load_packed(folder).meta if packed else {"anchors": {}, "counts": {}, "class_names": [], "notes": []}
        frame = collect(plan, block)
        report = BlockReport(
            plan.suite,
            block,
            frame,
            anchors=meta["anchors"],
            counts=meta["counts"],
            classes=len(meta["class_names"]),
            data_notes=meta["notes"],
            readings=[Reading(method, own, collect(plan, block, own)) for method, own in block.readings],
            tuned=tuned.of_block(block),
            correct=correct_images(plan, block, frame) if len(block.seeds) == 1 and packed else {},
            made_with=made_with,
        )
        reports.append(report)
    return reports


def run_figures(plan: Plan, folder: Path) -> list[Path]:
    """Draw every figure of the suite into `folder`: BLOCK-KIND, and single views BLOCK/by-pair and BLOCK/by-method."""
    from kdbench.report.block import BlockReport
    from kdbench.report.figures import write_figures

    written = []
    for block in plan.suite.blocks:
        measured = {
            kind: [read_json(job.output) for job in plan.of(kind) if job.block == block.name]
            for kind in ("stages", "channels")
        }
        frame, curves = collect(plan, block), histories(plan, block)
        written += write_figures(BlockReport(plan.suite, block, frame, curves=curves, **measured), folder)
    return written


def run_reference(plan: Plan) -> list[Path]:
    """Freeze a finished suite as results to stand by, under results/reference/SUITE and tables/reference.

    Takes every run's numbers (runs.csv), the tuned weights, the figures as PNG and the tables.
    Raises KdbenchError when a run is missing.
    """
    tables = run_table(plan)
    folder = reference_folder(plan.suite)
    write_text(folder / "runs.csv", all_runs(plan).to_csv(index=False, lineterminator="\n"))
    copies = {path: TABLES / "reference" / path.name for path in tables}
    if plan.of("tune"):
        copies[tuned_file(plan.suite)] = folder / "tuned.json"
    copies |= {path: folder / "figures" / path.name for path in run_figures(plan, home(plan.suite) / "figures")}
    written = [folder / "runs.csv"]
    for source, target in copies.items():
        if target.suffix != ".svg":
            with atomic(target) as file:
                file.write(source.read_bytes())
            written.append(target)
    return written


def _made_with(plan: Plan) -> dict[str, Any]:
    """What the footer of a table says of all runs that count, the teachers' among them, taken from their results."""
    runs = [*plan.runs().values(), *(run for job in plan.of("teacher") for run in job.runs)]
    records = [record for run in runs if (record := current_record(run))]
    days = sorted(record["finished_at"][:10] for record in records)
    names = dict.fromkeys(name for record in records for name in record["versions"])
    return {
        "date": " to ".join(dict.fromkeys([*days[:1], *days[-1:]])),
        "hardware": _counted(provenance.hardware_line(record["hardware"]) for record in records),
        "versions": {name: _counted(record["versions"].get(name, "unknown") for record in records) for name in names},
    }


def _counted(values: Iterable[Any]) -> str:
    """The value that all runs share; where they differ, each with the number of its runs, the commonest first."""
    counts = Counter(map(str, values)).most_common()
    if len(counts) < 2:
        return "".join(value for value, _ in counts)
    return " and ".join(f"{value} ({n} run{'' if n == 1 else 's'})" for value, n in counts)
