"""Tables, figures and references of a suite, from what lies on disk."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from kdbench.files import atomic
from kdbench.plan.jobs import Plan
from kdbench.plan.paths import TABLES, home, of_budget, reference_folder
from kdbench.plan.suite import typed
from kdbench.results.frames import all_runs, as_json
from kdbench.results.record import MISSING
from kdbench.results.reference import Reference, write_reference
from kdbench.results.today import Today
from kdbench.run.progress import say
from kdbench.types import KdbenchError, Suite

if TYPE_CHECKING:
    import pandas as pd

    from kdbench.report.block import BlockReport


def run_table(plan: Plan, *, partial: bool = False, submitted: Sequence[str] = ()) -> list[Path]:
    """Write tables/SUITE.md, .html, .csv, .bib, .tex and what that inputs, tables/SUITE/*.tex; with submitted rows, in
    their place tables/SUITE.with-NAME.md and .html.

    Raises KdbenchError when runs are missing, unless `partial`, and for a submission that is not to this suite.
    """
    return _write_tables(plan.suite, _reports(Today(plan), partial), TABLES, submitted)


def _write_tables(suite: Suite, reports: list[BlockReport], folder: Path, submitted: Sequence[str]) -> list[Path]:
    from kdbench.report import tables
    from kdbench.results.submission import submissions_to

    if submitted:
        return tables.write_submitted(suite, reports, submissions_to(suite, submitted), folder)
    return tables.write_tables(suite, reports, folder)


def _reports(today: Today, partial: bool = False) -> list[BlockReport]:
    """What tables are made from. Raises KdbenchError when runs are missing, unless `partial`."""
    from kdbench.report.block import block_reports

    reports = block_reports(today)
    for report in reports:
        for runs in (report.frame, *(reading.frame for reading in report.readings)):
            if not partial:
                _check_whole(today.plan, report.block.name, runs)
    return reports


def _check_whole(plan: Plan, block: str, runs: pd.DataFrame) -> None:
    """Raises KdbenchError that names the first of a block's runs that has no result."""
    missing = runs[runs.status == MISSING]
    if len(missing):
        first, suite = missing.iloc[0], typed(plan.suite)
        raise KdbenchError(
            f"{len(missing)} of {len(runs)} cells of block {block} have no result; the first is "
            f"{first.pair}/{first.method}{of_budget(first.budget)} seed {first.seed}: {first.reason}; run snakemake "
            f"(where it says that there is nothing to do: kdbench distill {suite} {first.pair}), or: "
            f"kdbench table {suite} --partial"
        )


def run_figures(plan: Plan, folder: Path, processes: int = 1) -> list[Path]:
    """Draw every figure of the suite into `folder`: BLOCK-KIND, those that no paper has room for in supplement/, and
    single views in BLOCK/by-pair and BLOCK/by-method."""
    return _draw(Today(plan), folder, processes)


def _draw(today: Today, folder: Path, processes: int = 1) -> list[Path]:
    from kdbench.report.block import block_reports
    from kdbench.report.figures import write_figures

    reports = block_reports(today, "curves", "stages", "channels")
    return write_figures(reports, folder, processes)


def run_reference(plan: Plan) -> list[Path]:
    """Freeze a finished suite as results to stand by, under results/reference/SUITE and tables/reference.

    Takes all that results/reference.py names, the figures as PNG and the tables.
    Raises KdbenchError when a run is missing, and where the reference of another edition lies there.
    """
    from kdbench.report import tables
    from kdbench.report.block import about

    folder, today = reference_folder(plan.suite), Today(plan)
    _check_edition(plan.suite, folder / "runs.csv")
    reports = _reports(today)
    made, runs = tables.write_tables(plan.suite, reports, TABLES), all_runs(today)
    for block, own in runs.groupby("block", sort=False):  # among them budgets that no table shows
        _check_whole(plan, block, own)
    written = write_reference(today, _with_further(runs, reports), about(reports))
    copies = {path: TABLES / "reference" / path.relative_to(TABLES) for path in made}
    drawn = home(plan.suite) / "figures"
    copies |= {path: folder / "figures" / path.relative_to(drawn) for path in _draw(today, drawn)}
    for source, target in copies.items():
        if target.suffix not in (".svg", ".pdf"):
            with atomic(target) as file:
                file.write(source.read_bytes())
            written.append(target)
    return written


def _with_further(runs: pd.DataFrame, reports: Sequence[BlockReport]) -> pd.DataFrame:
    """All runs, with what blocks show also of their own (agreement with the teacher, calibration, accuracies by group)
    as CSV holds it."""
    import pandas as pd

    keys = ["block", "pair", "method", "seed", "budget"]
    further = [r.frame.assign(block=r.block.name)[[*keys, *r.further]] for r in reports if r.further]
    if not further:
        return runs
    table = runs.merge(pd.concat(further), how="left", on=keys)
    return table.assign(test_by_group=as_json(table["test_by_group"])) if "test_by_group" in table else table


def reference_tables(plan: Plan, submitted: Sequence[str] = ()) -> list[Path]:
    """Write tables/reference/SUITE.* anew from the committed results, without the files of their runs; with submitted
    rows, in their place tables/SUITE.with-NAME.md and .html."""
    from kdbench.report.block import reference_reports

    folder = TABLES if submitted else TABLES / "reference"
    return _write_tables(plan.suite, reference_reports(_reference(plan)), folder, submitted)


def reference_figures(plan: Plan, folder: Path, processes: int = 1) -> list[Path]:
    """Draw the figures of a suite from its committed results, without the files of its runs."""
    from kdbench.report.block import reference_reports
    from kdbench.report.figures import write_figures

    return write_figures(reference_reports(_reference(plan)), folder, processes)


def _reference(plan: Plan) -> Reference:
    reference = Reference(plan.suite)
    if reference.left_out:
        say(reference.left_out)
    return reference


def _check_edition(suite: Suite, path: Path) -> None:
    """Raises KdbenchError where the committed runs are of another edition; those that do not say are of the first."""
    if not path.exists():
        return
    with path.open(encoding="utf-8", errors="replace") as file:
        edition = next(csv.DictReader(file), {}).get("edition", "1")
    if edition != str(suite.edition):
        raise KdbenchError(
            f"{path} is of edition {edition}, and the suite of edition {suite.edition}: move {path.parent} and "
            f"{TABLES / 'reference' / suite.name}.* to names that say the edition, then freeze this one"
        )
