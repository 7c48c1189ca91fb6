"""`kdbench findings SUITE`: what a suite found, in tables and sentences made from its committed runs and nothing else.

Whoever has results/reference/SUITE/runs.csv can make the page docs/results-SUITE.md again, and a test does. Its words
are chosen by intervals and tests, so that nobody can write more than the numbers say. What somebody writes by hand
between two marks on top stays, in place of the abstract that is made (abstract.py).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from kdbench.files import write_text
from kdbench.plan.jobs import SCRATCH
from kdbench.plan.paths import findings_page, found, reference_folder
from kdbench.plan.suite import load_suite, typed
from kdbench.report import proxy, stats
from kdbench.report.cells import baselines_of, rivals_of
from kdbench.report.page import Cell, Document, Group, Row, Section, Table, markdown
from kdbench.report.pair_tables import FAMILIES
from kdbench.report.text import (
    budget_facts,
    difference_cell,
    joined,
    note_letters,
    note_list,
    pair_text,
    title_of,
    with_interval,
)
from kdbench.report.verdicts import (
    DETECTABLE,
    ClaimResult,
    answer,
    by_group,
    claim_results,
    claims_tables,
    detectable_sentence,
    incomplete,
    left_out,
    readers,
    verdict_sentence,
)
from kdbench.report.worth import worth_parts
from kdbench.results.reference import Reference, lengths_of, runs_of
from kdbench.terminal.abstract import abstract
from kdbench.terminal.proxy import write_proxy
from kdbench.types import Block, KdbenchError, Pair, Suite

Claims = list[ClaimResult]
MARKS = ("<!-- abstract -->", "<!-- /abstract -->")
"""What is written by hand stands between these."""


def write_page(suite: Suite) -> list[Path]:
    """Write docs/results-SUITE.md anew, with the abstract of the page that lies there, and where the suite stands for
    another, what `kdbench proxy` writes. Returns the paths.

    Raises KdbenchError where there are no committed runs of the suite's edition, and where the marks of the abstract
    are not one pair.
    """
    path, page = findings_page(suite), reference_page(suite)
    written = write_proxy(suite, other) if (other := _stands_for(suite)) else []
    write_text(path, page)
    return [path, *written]


def reference_page(suite: Suite) -> str:
    """The page of a suite's committed runs, as Markdown. Raises what `write_page` does."""
    reference, own = Reference(suite), marked_abstract(findings_page(suite))
    other = _stands_for(suite)
    stands_for = proxy.compare(reference, Reference(other)) if other else None
    made = abstract(suite, reference.texts, stands_for) if own == "\n".join(MARKS) else ""
    return markdown(page(suite, reference.texts, stands_for), "\n\n".join(filter(None, [own, made])))


def _stands_for(suite: Suite) -> Suite | None:
    """The suite that this one is a proxy for, where that has committed runs."""
    other = load_suite(suite.proxy_for) if suite.proxy_for else None
    return other if other and found(reference_folder(other) / "runs.csv").exists() else None


def marked_abstract(path: Path) -> str:
    """The abstract of the page at this path between its marks; the marks alone where there is no page, or none on it.

    Raises KdbenchError where the page cannot be read and where the marks are not one pair.
    """
    try:
        text = path.read_text(encoding="utf-8") if path.exists() else ""
    except (OSError, UnicodeDecodeError) as error:
        raise KdbenchError(f"cannot read the abstract of {path}: {error}") from error
    start, end = MARKS
    if start not in text and end not in text:
        return "\n".join(MARKS)
    if (text.count(start), text.count(end)) != (1, 1) or text.index(end) < text.index(start):
        raise KdbenchError(f"{path}: the abstract must stand between one {start} and one {end} below it")
    return text[text.index(start) : text.index(end) + len(end)]


def page(suite: Suite, frame: pd.DataFrame, stands_for: proxy.Proxy | None = None) -> Document:
    """The page of a suite from its runs, in the columns of results.all_runs, and how it compares with the suite that it
    stands for.

    Raises KdbenchError where the suite plans a run that the frame does not have.
    """
    blocks = [(block, runs_of(suite, block, frame, block.budget)) for block in (b.shown for b in suite.blocks)]
    claims = {b.name: [] if _one_seed(b) else claim_results(suite, b, own) for b, own in blocks}
    sections = [_about(suite, [block for block, _ in blocks if not _one_seed(block)], claims)]
    for block, own in blocks:
        title = f"{block.title} ({block.name})"
        if _one_seed(block):
            sections.append(Section(title, (*_facts(block, own), *_one_seed_parts(block, own))))
            continue
        sections.append(Section(title, (*_facts(block, own), *_verdict_parts(block, own))))
        for name, parts in (
            ("lengths of training", worth_parts(block, lengths_of(suite, block, frame))),
            ("by kind of pair", _kind_parts(suite, block, own)),
            ("claims and controls", _claim_parts(block, claims[block.name])),
            ("noise", _noise_parts(block, own)),
        ):
            if parts:
                sections.append(Section(f"{block.title}: {name}", tuple(parts)))
    if suite.proxy_for:
        unknown = f"Not known yet: {suite.proxy_for} has no committed results."
        parts = proxy.parts(stands_for) if stands_for else [unknown]
        sections.append(Section(f"Does it predict {suite.proxy_for}?", tuple(parts)))
    made = f"Made from {reference_folder(suite) / 'runs.csv'} by: kdbench findings {typed(suite)}"
    banner = (suite.banner,) if suite.banner else ()
    return Document(f"Findings: {title_of(suite)}", banner, tuple(sections), (made,))


def _one_seed(block: Block) -> bool:
    return len(block.seeds) == 1


# ------------------------------------------------------------------------------------------------------- what was run


def _about(suite: Suite, compared: Sequence[Block], claims: dict[str, Claims]) -> Section:
    """What holds for all blocks. compared: those with at least two seeds."""
    parts = [
        "Differences are points of test accuracy of the last epoch, averaged over the headline pairs within a seed, "
        "with a 95 % t interval over seeds in brackets. Verdicts are adjusted for the number of methods (Holm, 5 %); "
        "claims and kinds of pairs are not."
    ]
    if any(spec.draw_by_seed for spec in suite.data.values()):
        parts.append("Every seed has a training set of its own, so intervals over seeds cover that choice too.")
    if any(baseline != SCRATCH for block in compared for baseline in baselines_of(block)):
        parts.append(
            "Differences by kind of pair: bold is not separated from the best of its column. A method is called the "
            "best of a kind only where the interval of its difference to each of the others excludes 0."
        )
    if compared:
        parts.append(DETECTABLE)
    if not suite.tune:
        parts.append("No method was tuned on these data: with another loss weight, a method may rank differently.")
    results = [result for of_block in claims.values() for result in of_block]
    tests = sum(np.isfinite(result.verdict["p"]) for result in results)
    if tests:
        parts.append(
            f"This page makes {_count(tests, 'test')} of claims. By chance alone, one test in twenty calls a method "
            "better or worse than a control that is equally good."
        )
    held = {result.claim.name for result in results}
    if lacking := [claim.name for claim in suite.claims if claim.name not in held]:
        parts.append(f"No block with at least two seeds has both the method and its control for: {', '.join(lacking)}.")
    return Section("", tuple(parts))


def _facts(block: Block, frame: pd.DataFrame) -> list[str]:
    """What was trained, where and when, what of it does not count, and which pairs have something to distil."""
    runs = frame.drop_duplicates("key")  # a run without a teacher stands under every pair of its student
    done = int((runs["status"] == "finished").sum())
    counts = ((len(block.methods), "method"), (len(block.pairs), "pair"), (len(block.seeds), "seed"))
    lines = [f"{', '.join(_count(n, noun) for n, noun in counts)}; {done} of {_count(len(runs), 'run')} finished."]
    lines += budget_facts(block)
    days = sorted({str(time)[:10] for time in _told(frame, "finished_at")})
    if days:
        when = days[0] if len(days) == 1 else f"{days[0]} to {days[-1]}"
        lines.append(f"Trained {when} on {'; '.join(sorted(set(_told(frame, 'hardware'))))}.")
    gains = stats.headline_pairs(frame)
    for kind, meaning in (
        ("headline", f"Headline pairs (teacher at least {stats.HEADLINE_POINTS:g} points above scratch on validation)"),
        ("weak", "Weak teachers, left out of all differences"),
        ("undecided", "Teacher or scratch unknown, left out of all differences"),
    ):
        if own := [pair_text(p.id) for p in block.pairs if gains.loc[p.id, "kind"] == kind]:
            lines.append(f"{meaning}, {len(own)} of {len(block.pairs)}: {', '.join(own)}.")
    lost = [
        f"{_label(block, method)} on {pair_text(pair)} {status}, {_count(len(rows), 'seed')}"
        for (status, method, pair), rows in frame[frame["status"] != "finished"].groupby(
            ["status", "method", "pair"], sort=False
        )
    ]
    return [*lines, f"Without a result: {'; '.join(lost)}."] if lost else lines


def _label(block: Block, method: str) -> str:
    """Scratch may be among the runs without being among the rows."""
    return next((m.label for m in block.methods if m.id == method), method)


def _told(frame: pd.DataFrame, column: str) -> list[str]:
    return [text for text in frame[column].dropna() if text]


def _count(n: int, noun: str) -> str:
    return f"{n} {noun}{'' if n == 1 else 's'}"


def _one_seed_parts(block: Block, frame: pd.DataFrame) -> list[str | Table]:
    """The accuracies in order, without a difference, an interval or a winner."""
    tests = stats.wide(frame)[[m.id for m in block.methods]]
    order = pd.DataFrame({"pairs": tests.count(), "mean": tests.mean()})
    # Whole rows first: an average over fewer pairs is an average over other pairs.
    order = order.sort_values(["pairs", "mean"], ascending=False, kind="stable")
    rows = tuple(
        Row(
            Cell(_label(block, method)),
            (Cell(f"{row['mean']:.1f}" if row["pairs"] else "—"), Cell(f"{row['pairs']:.0f} of {len(block.pairs)}")),
        )
        for method, row in order.iterrows()
    )
    return [
        Table("Mean test accuracy over all pairs, %", "Method", (("accuracy",), ("pairs",)), (Group("", rows),)),
        "One seed does not rank methods: another seed would give other networks, and no interval or test can say "
        "how far this order would change.",
    ]


# --------------------------------------------------------------------------------------------------------- the verdict


def _verdict_parts(block: Block, frame: pd.DataFrame) -> list[str | Table]:
    """One table of all methods against each baseline, and a sentence a baseline."""
    baselines = baselines_of(block)
    if not baselines:
        return ["This block has neither KD nor scratch beside another method, so there is nothing to compare with."]
    missing = [] if block.row_of("kd") in baselines else ["This block has no plain KD, so nothing is compared with it."]
    verdicts = {b: stats.verdict(frame, b, [m.id for m in rivals_of(block, b)]) for b in baselines}
    notes: dict[str, str] = {}

    def cell(baseline: str, method: str) -> Cell:
        if method not in verdicts[baseline].index:
            return Cell("")
        v = verdicts[baseline].loc[method]
        difference = difference_cell(v, notes)
        why = note_letters(notes, [v["reason"]]) if v["reason"] else incomplete(v["n"], v["seeds"], notes)
        why += left_out(v["pairs"], v["headline"], notes)
        return Cell(f"{difference.text} {v['verdict']}", letters=tuple(dict.fromkeys((*difference.letters, *why))))

    groups = by_group(
        block.methods, lambda m: Row(Cell(m.label), tuple(cell(baseline, m.id) for baseline in baselines))
    )
    columns = tuple((f"against {_label(block, b)}",) for b in baselines)
    table = Table("Verdict over headline pairs, points", "Method", columns, groups, note_list(notes))
    return [*missing, table, *(verdict_sentence(block, verdicts[b], b) for b in baselines)]


# ------------------------------------------------------------------------------------------------------- kinds of pairs


def kinds(suite: Suite, block: Block) -> dict[str, list[str]]:
    """Kind -> ids of its pairs, for each trait in which the pairs of a block differ. Kinds of two traits overlap, but
    no two are the same pairs."""
    models = suite.models

    def heterogeneous(pair: Pair) -> str:
        teacher, student = models[pair.teacher], models[pair.student]
        same = (teacher.family, teacher.input) == (student.family, student.input)
        return "homogeneous pairs" if same else "heterogeneous pairs"

    traits: tuple[Callable[[Pair], str], ...] = (
        heterogeneous,
        lambda pair: f"{FAMILIES[models[pair.student].family]} students",
        lambda pair: readers(suite, pair),
    )
    result: dict[str, list[str]] = {}
    for trait in traits:
        found: dict[str, list[str]] = {}
        for pair in block.pairs:
            found.setdefault(trait(pair), []).append(pair.id)
        if len(found) > 1:
            result |= {kind: ids for kind, ids in found.items() if ids not in result.values()}
    return result


def _kind_parts(suite: Suite, block: Block, frame: pd.DataFrame) -> list[str | Table]:
    parts: list[str | Table] = []
    for baseline in baselines_of(block):
        if baseline != SCRATCH:
            parts += _kinds_against(suite, block, frame, baseline)
    return parts


def _kinds_against(suite: Suite, block: Block, frame: pd.DataFrame, baseline: str) -> list[str | Table]:
    """Differences to a baseline by kind of pair, and which method is best of a kind, if that can be told."""
    rivals, name = [m.id for m in rivals_of(block, baseline)], _label(block, baseline)
    notes: dict[str, str] = {}
    columns, found, sentences = [], [], []
    for kind, pairs in kinds(suite, block).items():
        own = frame[frame["pair"].isin(pairs)]
        headline = int((stats.headline_pairs(own)["kind"] == "headline").sum())
        if not headline:
            sentences.append(f"{_start(kind)}: no headline pair.")
            continue
        means, counted = stats.headline_differences(own, baseline, rivals)
        # The baseline's difference to itself, in the seeds in which there is anything to hold against it.
        means[baseline] = pd.Series(0.0, means.index).where(means.notna().any(axis=1))
        counted[baseline] = headline
        # A method that is n/a on some pairs is averaged over other pairs than the rest.
        comparable = means[[m for m in means if counted[m] == headline and means[m].count() > 1]]
        best = stats.near_best(comparable)
        columns.append((kind, f"({_count(headline, 'pair')})"))
        found.append((means, counted, headline, best))
        sentences.append(_best_sentence(block, kind, comparable, best, [m for m in means if m not in comparable]))
    if not found:
        return sentences

    def cell(method: str, means: pd.DataFrame, counted: dict[str, int], headline: int, best: set[str]) -> Cell:
        if method == baseline:
            return Cell("0.0", 0.0, method in best)
        interval = stats.paired_t_interval(means[method])
        if not interval.n:
            return Cell("—")
        text, letters = with_interval(*interval, notes)
        letters += incomplete(interval.n, len(means), notes) + left_out(counted[method], headline, notes)
        return Cell(text, interval.mean, method in best, letters)

    methods = [m for m in block.methods if m.id in (*rivals, baseline)]
    groups = by_group(methods, lambda m: Row(Cell(m.label), tuple(cell(m.id, *column) for column in found)))
    title = f"Difference to {name} by kind of pair, points"
    return [Table(title, "Method", tuple(columns), groups, note_list(notes)), *sentences]


def _best_sentence(block: Block, kind: str, comparable: pd.DataFrame, best: set[str], others: Sequence[str]) -> str:
    if not best:
        return f"{_start(kind)}: too few complete seeds to compare methods."
    # All of the best by falling mean, which is not a ranking.
    labels = [
        _label(block, m) for m in comparable.mean().sort_values(ascending=False, kind="stable").index if m in best
    ]
    uncompared = joined(_label(block, m) for m in others)
    lacking = f" Not compared, for lack of pairs or seeds: {uncompared}." if others else ""
    if len(labels) == 1:
        return f"{_start(kind)}: {labels[0]} is the best.{lacking}"
    return f"{_start(kind)}: not separated: {joined(labels)}.{lacking}"


def _start(text: str) -> str:
    return text[:1].upper() + text[1:]


# ------------------------------------------------------------------------------------------------------------- claims


def _claim_parts(block: Block, claims: Claims) -> list[str | Table]:
    if not claims:
        return []
    return [*claims_tables(block, claims), *(answer(block, *result) for result in claims)]


# -------------------------------------------------------------------------------------------------------------- noise


def _noise_parts(block: Block, frame: pd.DataFrame) -> list[str]:
    """How far seeds alone move a cell, a difference and a verdict, and what could be found."""
    tests = stats.wide(frame.drop_duplicates("key"))[[m.id for m in block.methods]]
    lines = [f"Standard deviation over seeds, pooled: {_points(_cell_sd(tests))} for the accuracy of one cell."]
    for baseline in baselines_of(block):
        rivals = [m.id for m in rivals_of(block, baseline)]
        cells = stats.differences(frame, baseline)[rivals]
        means, _ = stats.headline_differences(frame, baseline, rivals)
        lines.append(
            f"For the difference to {_label(block, baseline)}: {_points(_cell_sd(cells))} in one cell, "
            f"{_points(stats.pooled_sd(means[m] for m in means))} averaged over the headline pairs. "
            f"{detectable_sentence(frame, baseline, rivals)}"
        )
    return lines


def _cell_sd(values: pd.DataFrame) -> float | None:
    return stats.pooled_sd(rows[method] for _, rows in values.groupby("pair") for method in rows)


def _points(sd: float | None) -> str:
    return "an unknown number of points" if sd is None else f"{sd:.1f} points"
