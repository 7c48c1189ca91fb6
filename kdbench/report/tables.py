"""Tables as a person reads them: one description, written as Markdown, LaTeX, HTML and CSV.

`cells` turns the frame of a block into numbers (one row a cell, also the lines of the CSV), and the functions after it
lay them out as the tables of a page, which kdbench/page.py renders.
"""

from __future__ import annotations

import dataclasses
import io
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from kdbench.files import write_text
from kdbench.report import stats
from kdbench.report.block import BlockReport, Correct, Reading
from kdbench.report.page import Cell, Document, Group, Row, Section, Table, html, latex, markdown
from kdbench.types import Block, Claim, MethodSpec, Pair, Suite

MAX_COLUMNS = 7
"""Pairs that one table can hold before it is cut by the student's family."""

MARKS = "†‡"
ONE_SEED = (
    "one seed, so in braces a 95 % bootstrap interval over the test images: it tells these two networks apart, not the "
    "two methods, since another seed would give other networks"
)
FAMILIES = {"cnn": "CNN", "vit": "ViT", "mlp": "MLP"}


def note_letters(notes: dict[str, str], texts: Iterable[str]) -> tuple[str, ...]:
    """Footnote letters in order of first use; `notes` remembers text -> letter, so that a text has one letter."""
    return tuple(notes.setdefault(text, _letter(len(notes))) for text in texts)


def _letter(index: int) -> str:
    return ("" if index < 26 else _letter(index // 26 - 1)) + chr(ord("a") + index % 26)


# ----------------------------------------------------------------------------------------------- from frames to numbers


_MEANS = {
    "val_mean": "val",
    "test_nll_mean": "test_nll",
    "agreement_mean": "agreement",
    "extra_parameters": "extra_parameters",
    "seconds_mean": "seconds",
    "peak_memory_mb_mean": "peak_memory_mb",
    "best_test_mean_decides_nothing": "best_test",
    "best_test_epoch_mean_decides_nothing": "best_test_epoch",
}


def cells(block: Block, frame: pd.DataFrame, correct: Correct = MappingProxyType({})) -> pd.DataFrame:
    """Index (pair, method) in the block's order; one row holds all that the tables say about that cell.

    Accuracies are percent, differences points, times seconds. `notes` is a list of sentences for the footnotes, `kind`
    is the pair's (headline, weak, undecided), `bold` means not separated from the pair's best method.
    """
    values = {name: stats.wide(frame, name) for name in ("test", *_MEANS.values())}
    values["optimism"] = values["best_test"] - values["test"]
    if "scratch" in values["seconds"]:
        values["time"] = values["seconds"].div(values["seconds"]["scratch"], axis=0)
    means = {**_MEANS, "optimism_mean_decides_nothing": "optimism"}
    means |= {"seconds_over_scratch": "time"} if "time" in values else {}
    baselines = {f"minus_{b}": stats.differences(frame, b) for b in baselines_of(block)}
    usual = _usual_versions(frame)
    kinds, teacher = stats.headline_pairs(frame)["kind"], stats.teachers(frame)
    runs = {key: rows for key, rows in frame.groupby(["pair", "method"])}  # noqa: C416, a GroupBy is no mapping
    records = []
    for pair in block.pairs:
        best = stats.not_separated_from_best(frame, pair.id)
        for method in block.methods:
            rows = runs.get((pair.id, method.id), frame.iloc[:0])
            record: dict[str, Any] = {
                "block": block.name,
                "pair": pair.id,
                "teacher": pair.teacher,
                "student": pair.student,
                "kind": kinds.get(pair.id, "undecided"),
                "teacher_test": stats.mean_sd(teacher.get(pair.id, [])).mean,
                "method": method.id,
                "label": method.label,
                "group": method.group,
                "status": _status(rows),
                "planned": len(rows),
                "diverged": int((rows["status"] == "diverged").sum()),
                "missing": int((rows["status"] == "missing").sum()),
            }
            record |= _named("test", stats.mean_sd(_seeds_of(values["test"], pair.id, method.id)))
            record["bold"] = method.id in best
            for name, delta in baselines.items():
                record |= _named(name, stats.paired_t_interval(_seeds_of(delta, pair.id, method.id)))
                one = record[f"{name}_n"] == 1 and _one_seed(correct, pair.id, method.id, name.removeprefix("minus_"))
                record |= dict(zip((f"{name}_images_low", f"{name}_images_high"), one or (None, None), strict=True))
            for name, source in means.items():
                record[name] = stats.mean_sd(_seeds_of(values[source], pair.id, method.id)).mean
            record["notes"] = _explanations(rows) + _unusual_versions(rows, usual)
            records.append(record)
    return pd.DataFrame(records).set_index(["pair", "method"], drop=False).astype(object)


def _one_seed(correct: Correct, pair: str, method: str, baseline: str) -> tuple[float, float] | None:
    both = correct.get((pair, method)), correct.get((pair, baseline))
    return None if both[0] is None or both[1] is None else stats.bootstrap_interval(*both)


def _seeds_of(table: pd.DataFrame, pair: str, method: str) -> pd.Series:
    known = method in table and pair in table.index.get_level_values("pair")
    return table.loc[pair, method] if known else pd.Series(dtype=float)


def _named(name: str, summary: tuple) -> dict[str, Any]:
    return {f"{name}_{key}": value for key, value in summary._asdict().items()}


def _status(rows: pd.DataFrame) -> str:
    kinds = set(rows["status"])
    if not kinds:
        return "missing"
    return kinds.pop() if len(kinds) == 1 else "partial"


def _explanations(rows: pd.DataFrame) -> list[str]:
    """Why a cell holds fewer runs than planned, and what else must be known about it."""
    n, texts = len(rows), []
    for status, group in rows.groupby("status", sort=True):
        reasons = group["reason"].astype(object).where(group["reason"].notna(), None)
        if status == "n/a":
            texts += [f"n/a: {reason or 'no reason given'}" for reason in dict.fromkeys(reasons)]
        elif status == "diverged":
            causes = reasons.fillna("step unknown")
            each = "; ".join(f"{_seeds(group[causes == cause])}: {cause}" for cause in dict.fromkeys(causes))
            texts.append(f"diverged in {len(group)} of {n} seeds ({each})")
        elif status == "missing":
            why = "".join(f"; {r}" for r in dict.fromkeys(reasons) if r)
            texts.append(f"no result yet for {_seeds(group)} ({len(group)} of {n}{why})")
        else:
            lost = group[~np.isfinite(stats.numbers(group, "test"))]
            if len(lost):
                texts.append(f"{_seeds(lost)} of {n} planned finished without a finite accuracy and does not count")
    if not n:
        texts.append("not among the planned runs")
    return texts + list(dict.fromkeys(note for notes in rows["notes"] for note in _as_list(notes)))


def _usual_versions(frame: pd.DataFrame) -> dict[str, str]:
    """{package: the version that most runs were trained with} of those packages of which there are several."""
    counts: dict[str, Counter[str]] = {}
    for versions in frame.get("versions", ()):
        for name, version in versions.items() if isinstance(versions, Mapping) else ():
            counts.setdefault(name, Counter())[str(version)] += 1
    # What changes in kdbench and counts, changes the key of a run; the footer lists its commits.
    return {
        name: of_name.most_common(1)[0][0]
        for name, of_name in counts.items()
        if len(of_name) > 1 and name not in ("kdbench", "commit")
    }


def _unusual_versions(rows: pd.DataFrame, usual: Mapping[str, str]) -> list[str]:
    texts = []
    for name, common in usual.items():
        own = rows["versions"].map(lambda v, name=name: str(v.get(name, "unknown")) if isinstance(v, Mapping) else None)
        for version in own[own.notna() & (own != common)].unique():
            texts.append(f"{_seeds(rows[own == version])} trained with {name} {version}, most runs with {common}")
    return texts


def _seeds(rows: pd.DataFrame) -> str:
    seeds = ", ".join(str(s) for s in rows["seed"])
    return f"seed{'' if len(rows) == 1 else 's'} {seeds}"


def _as_list(value: Any) -> Sequence[str]:
    return value if isinstance(value, list | tuple) else []


# ------------------------------------------------------------------------------------------------ from numbers to text


def _known(value: Any) -> bool:
    return value is not None and bool(np.isfinite(value))


def signed(value: float) -> str:
    """Points with their sign and one digit."""
    # A mean of zero up to rounding must not carry a sign that depends on the machine.
    return f"{round(value, 1) + 0.0:+.1f}".replace("-", "−")


def _accuracy(record: Mapping[str, Any], notes: dict[str, str]) -> Cell:
    letters = note_letters(notes, record["notes"])
    if record["test_n"]:
        sd = f" ± {record['test_sd']:.1f}" if _known(record["test_sd"]) else ""
        return Cell(f"{record['test_mean']:.1f}{sd} ({record['test_n']})", record["bold"], letters)
    return Cell(_absent(record["status"]), letters=letters)


def _absent(status: str) -> str:
    return status if status in ("n/a", "diverged") else "—"


def _difference(record: Mapping[str, Any], baseline: str, notes: dict[str, str]) -> Cell:
    name = f"minus_{baseline}"
    if not record[f"{name}_n"]:
        return Cell(_absent(record["status"]))
    interval = [record[f"{name}_{key}"] for key in ("mean", "low", "high", "n")]
    if record[f"{name}_images_low"] is not None:
        images = (record[f"{name}_images_{end}"] for end in ("low", "high"))
        text, letters = f"{signed(interval[0])} {{{', '.join(map(signed, images))}}}", note_letters(notes, [ONE_SEED])
    else:
        text, letters = with_interval(*interval, notes)
    return Cell(f"{text} ({record[f'{name}_n']})", letters=letters)


def with_interval(mean: float, low: Any, high: Any, n: int, notes: dict[str, str]) -> tuple[str, tuple[str, ...]]:
    """A difference with its interval, and the letter of the footnote that says why it has none."""
    if _known(low):
        return f"{signed(mean)} [{signed(low)}, {signed(high)}]", ()
    why = "one common seed" if n == 1 else "the same difference in every seed"
    return signed(mean), note_letters(notes, [f"{why}: no interval"])


def joined(names: Iterable[str]) -> str:
    """Names in a row, or `none`. Names may hold commas."""
    return "; ".join(names) or "none"


def _say(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{k} {_say(v)}" for k, v in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(_say(v) for v in value)
    return f"{value:,}" if isinstance(value, int) else str(value)


# --------------------------------------------------------------------------------------------- from numbers to tables


def by_group(methods: Iterable[MethodSpec], row: Callable[[MethodSpec], Row]) -> tuple[Group, ...]:
    """A row for each method, under the headings of their groups."""
    groups: dict[str, list[Row]] = {}
    for method in methods:
        groups.setdefault(method.group, []).append(row(method))
    return tuple(Group(title[:1].upper() + title[1:], tuple(rows)) for title, rows in groups.items())


def _heading(suite: Suite, block: Block, pair: str) -> tuple[str, ...]:
    models = next((p.teacher, p.student) for p in block.pairs if p.id == pair)
    families = [_family(suite, m) for m in models]
    kinds = (" → ".join(families),) if all(families) else ()
    return (*kinds, f"{models[0] or 'no teacher'} →", models[1])


def _family(suite: Suite, model: str | None) -> str | None:
    family = suite.models[model].family if model in suite.models else None
    return FAMILIES.get(family, family)


def _cut(suite: Suite, block: Block, pairs: Sequence[str]) -> dict[str, Sequence[str]]:
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


def _mark_notes(block: Block) -> tuple[tuple[str, str], ...]:
    """The footnote of each mark, once; methods of one mark but another text are named."""
    notes: dict[tuple[str, str], None] = {}
    for method in block.methods:
        mark = "".join(c for c in method.label if c in MARKS)[:1]
        if mark and method.footnote:
            notes.setdefault((mark, method.footnote.removeprefix(mark).strip()))
    return tuple(notes)


def _pair_tables(
    suite: Suite, block: Block, frame: pd.DataFrame, data: pd.DataFrame, readings: Sequence[Reading], pairs: list[str]
) -> list[Table]:
    """Accuracies, then the paired differences to each baseline, of these pairs."""
    result = []
    for suffix, part in _cut(suite, block, pairs).items():
        columns = tuple(_heading(suite, block, pair) for pair in part)
        result.append(_accuracy_table(block, frame, data, readings, part, columns, suffix))
        result += [_difference_table(block, data, part, columns, suffix, baseline) for baseline in baselines_of(block)]
    return result


def _accuracy_table(block, frame, data, readings: Sequence[Reading], pairs, columns, suffix: str) -> Table:
    notes: dict[str, str] = {}
    teacher = Group("Teacher", (_teacher_row(stats.teachers(frame), pairs, notes), _gain_row(frame, pairs)))
    groups = by_group(
        block.methods, lambda m: Row(_label(m, notes), tuple(_accuracy(data.loc[(p, m.id)], notes) for p in pairs))
    )
    if readings:
        rows = (_reading_row(method, own, found, pairs, notes) for method, own, found in readings)
        groups += (Group("Range over readings of a reconstructed method", tuple(rows)),)
    footnotes = _mark_notes(block) + note_list(notes)
    return Table(f"Test accuracy, %{suffix}", "Method", columns, (teacher, *groups), footnotes)


def _reading_row(method: MethodSpec, readings, frame: pd.DataFrame, pairs, notes: dict[str, str]) -> Row:
    """Lowest and highest mean over seeds among the readings of a method; a footnote names the two.

    A reading that lacks a seed on a pair is not among them there: its mean would be one over other seeds.
    """
    means, row = stats.wide(frame).groupby("pair").agg(lambda tests: tests.mean(skipna=False)), []
    labels = {m.id: m.label for m in readings}
    for pair in pairs:
        found = means.loc[pair].dropna() if pair in means.index else pd.Series(dtype=float)
        if not len(found):
            row.append(Cell("—"))
            continue
        low, high = found.idxmin(), found.idxmax()
        lacking = f"; {len(labels) - len(found)} of {len(labels)} lack a seed" if len(found) < len(labels) else ""
        note = f"lowest: {labels[low]}; highest: {labels[high]}{lacking}"
        row.append(Cell(f"{found[low]:.1f} to {found[high]:.1f}", letters=note_letters(notes, [note])))
    return Row(Cell(f"{method.label}: {len(labels)} readings"), tuple(row))


def _difference_table(block, data, pairs, columns, suffix: str, baseline: str) -> Table:
    notes: dict[str, str] = {}
    groups = by_group(
        rivals_of(block, baseline),
        lambda m: Row(Cell(m.label), tuple(_difference(data.loc[(p, m.id)], baseline, notes) for p in pairs)),
    )
    title = f"Paired difference to {label_of(block, baseline)}, points [95 % t interval]{suffix}"
    return Table(title, "Method", columns, groups, note_list(notes))


def note_list(notes: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    """The footnotes that `note_letters` has gathered."""
    return tuple((letter, text) for text, letter in notes.items())


def label_of(block: Block, method: str) -> str:
    """A method as a person reads it."""
    return next(m.label for m in block.methods if m.id == method)


def baselines_of(block: Block) -> list[str]:
    """Ids of the methods that the block holds the others against."""
    ids = [m.id for m in block.methods]
    return [b for b in block.baselines if b in ids and len(ids) > 1]


def rivals_of(block: Block, baseline: str) -> list[MethodSpec]:
    """The methods that are held against a baseline: tuned ones against tuned KD, the others against KD."""
    tuned = next(m for m in block.methods if m.id == baseline).tuned_from
    same = [m for m in block.methods if baseline == "scratch" or m.id == "scratch" or bool(m.tuned_from) == bool(tuned)]
    return [m for m in same if m.id != baseline]


def _label(method: MethodSpec, notes: dict[str, str]) -> Cell:
    marked = any(c in MARKS for c in method.label)
    return Cell(method.label, letters=() if marked or not method.footnote else note_letters(notes, [method.footnote]))


def _teacher_row(teacher: pd.Series, pairs: Sequence[str], notes: dict[str, str]) -> Row:
    row = []
    for pair in pairs:
        mean, sd, n = stats.mean_sd(teacher.get(pair, []))
        if not n:
            row.append(Cell("—"))
        elif n > 1 and sd < 1e-9:
            row.append(
                Cell(f"{mean:.1f} ({n})", letters=note_letters(notes, ["the same teacher accuracy in every seed"]))
            )
        else:
            row.append(Cell(f"{mean:.1f}{f' ± {sd:.1f}' if n > 1 else ''} ({n})"))
    return Row(Cell("test accuracy"), tuple(row))


def _gain_row(frame: pd.DataFrame, pairs: Sequence[str]) -> Row:
    gains = stats.headline_pairs(frame)["gain"].reindex(pairs)
    return Row(Cell("minus scratch, validation, points"), tuple(Cell(signed(g) if _known(g) else "—") for g in gains))


def _verdict_table(block: Block, verdict: pd.DataFrame, baseline: str) -> Table:
    notes: dict[str, str] = {}

    def row(method: MethodSpec) -> Row:
        v = verdict.loc[method.id]
        tested = np.isfinite(v["p_holm"])
        word = Cell(v["verdict"], letters=() if tested else note_letters(notes, [v["reason"]]))
        return Row(Cell(method.label), (*_difference_cells(v, notes), _p(v["p_holm"]), word))

    columns = (*_DIFFERENCE_COLUMNS, ("p", "(Holm)"), ("verdict",))
    groups = by_group((m for m in block.methods if m.id in verdict.index), row)
    return Table(
        f"Verdict against {label_of(block, baseline)}, over headline pairs", "Method", columns, groups, note_list(notes)
    )


_DIFFERENCE_COLUMNS = (("difference, points", "[95 % t interval]"), ("complete", "seeds"), ("headline", "pairs"))


def _difference_cells(v: pd.Series, notes: dict[str, str]) -> tuple[Cell, Cell, Cell]:
    """What stands below _DIFFERENCE_COLUMNS of a row of stats.verdict."""
    counts = Cell(f"{v['n']} of {v['seeds']}"), Cell(f"{v['pairs']} of {v['headline']}")
    return difference_cell(v, notes), *counts


def difference_cell(v: pd.Series, notes: dict[str, str]) -> Cell:
    """The difference of a row of stats.verdict with its interval."""
    if not v["n"]:
        return Cell("—")
    text, letters = with_interval(v["difference"], v["low"], v["high"], v["n"], notes)
    return Cell(text, letters=letters)


def _p(p: float, letters: tuple[str, ...] = ()) -> Cell:
    return Cell("—" if np.isnan(p) else "< 0.001" if p < 0.001 else f"{p:.3f}", letters=letters)


class ClaimResult(NamedTuple):
    claim: Claim
    students: str
    """Which students, where a block's students read several modalities: such directions are never pooled."""
    frame: pd.DataFrame
    """The runs of their pairs."""
    verdict: pd.Series
    """The row of stats.verdict of the claim's method against its control."""


def readers(suite: Suite, pair: Pair) -> str:
    """The kind of a pair by what its student reads; "" where the suite does not describe the student."""
    student = suite.models.get(pair.student)
    return f"students that read {student.input}" if student else ""


def claim_results(suite: Suite, block: Block, frame: pd.DataFrame) -> list[ClaimResult]:
    """The claims that this block can test, each once for every modality that its students read."""
    ids = {m.id for m in block.methods}
    pairs: dict[str, list[str]] = {}
    for pair in block.pairs:
        pairs.setdefault(readers(suite, pair), []).append(pair.id)
    results = []
    for claim in suite.claims:
        for students, own in pairs.items() if {claim.method, claim.control} <= ids else ():
            runs = frame[frame["pair"].isin(own)]
            verdict = stats.verdict(runs, claim.control, [claim.method]).loc[claim.method]
            results.append(ClaimResult(claim, students if len(pairs) > 1 else "", runs, verdict))
    return results


def claims_table(block: Block, results: Iterable[ClaimResult]) -> Table:
    """Method minus control for the results of `claim_results`."""
    notes: dict[str, str] = {}

    def row(claim: Claim, students: str, _: pd.DataFrame, v: pd.Series) -> Row:
        where = f", {students}" if students else ""
        label = Cell(f"{label_of(block, claim.method)} minus {label_of(block, claim.control)}{where}")
        cells = _difference_cells(v, notes)
        why = () if np.isfinite(v["p"]) else note_letters(notes, [v["reason"]])
        return Row(label, (*cells, _p(v["p"], why)))

    columns = (*_DIFFERENCE_COLUMNS, ("p", "(unadjusted)"))
    rows = tuple(row(*result) for result in results)
    return Table(
        "Claims and their controls, over headline pairs", "Claim", columns, (Group("", rows),), note_list(notes)
    )


def _verdict_parts(block: Block, frame: pd.DataFrame, baseline: str) -> list[str | Table]:
    rivals = [m.id for m in rivals_of(block, baseline)]
    verdict = stats.verdict(frame, baseline, rivals)
    return [
        _verdict_table(block, verdict, baseline),
        verdict_sentence(block, verdict, baseline),
        detectable_sentence(frame, baseline, rivals),
    ]


def verdict_sentence(block: Block, verdict: pd.DataFrame, baseline: str) -> str:
    """Who is better than the baseline, who worse, and who neither."""

    def named(kind: str) -> str:
        return joined(label_of(block, m) for m in verdict.index[verdict["verdict"] == kind])

    return (
        f"Better than {label_of(block, baseline)}: {named('better')}. Worse: {named('worse')}. "
        f"Not separated: {named('not separated')}. Without a test: {named('no test')}."
    )


def detectable_sentence(frame: pd.DataFrame, baseline: str, rivals: Sequence[str]) -> str:
    """What differences to the baseline could have been found at all."""
    found = stats.detectable(frame, baseline, rivals)
    sizes = []
    if found.verdict:
        family = f"Holm's first step over {found.methods} methods" if found.methods > 1 else "one method"
        sizes.append(f"{found.verdict:.1f} points in this verdict ({family}, n = {found.verdict_n})")
    if found.cell:
        sizes.append(f"{found.cell:.1f} points in a single cell (n = {found.cell_n})")
    if not sizes:
        return "The smallest detectable difference cannot be estimated: it takes two complete seeds that differ."
    found_by = "Smallest true difference that a two-sided paired t test at 5 % finds with 80 % power"
    pooled = (
        " At the spread pooled over these methods; one that varies less is found sooner." if len(rivals) > 1 else ""
    )
    return f"{found_by}: {'; '.join(sizes)}.{pooled}"


def _tuning_table(block: Block, choices: Sequence[Mapping[str, Any]]) -> Table:
    """Per method and tuning pair the chosen weight, and what it and the default reached on validation."""
    notes: dict[str, str] = {}
    pairs = list(dict.fromkeys(c["pair"] for c in choices))
    found = {(c["method"], c["pair"]): c for c in choices}

    def cell(method: MethodSpec, pair: str) -> Cell:
        choice = found.get((method.id, pair))
        if choice is None:
            return Cell("—")
        by_factor = {t["factor"]: t for t in choice["tried"]}
        lost = [t for t in choice["tried"] if t["val"] is None]
        letters = note_letters(notes, [f"× {t['factor']:g}: {t['status']} ({t['reason']})" for t in lost])
        gain = ""
        if choice["factor"] != 1 and _known(by_factor.get(1, {}).get("val")):
            gain = f", {signed(by_factor[choice['factor']]['val'] - by_factor[1]['val'])}"
        return Cell(f"{choice['value']:.3g} (× {choice['factor']:g}{gain})", letters=letters)

    methods = [m for m in block.methods if any(m.id == c["method"] for c in choices)]
    return Table(
        "Tuning: chosen main weight (times the default, points gained on validation)",
        "Method",
        tuple((*pair.split("--", 1),) for pair in pairs),
        by_group(methods, lambda m: Row(Cell(m.label), tuple(cell(m, pair) for pair in pairs))),
        note_list(notes),
    )


def _optimism_table(block: Block, data: pd.DataFrame) -> Table:
    def row(method: MethodSpec) -> Row:
        own = data[(data["method"] == method.id) & data["optimism_mean_decides_nothing"].notna()]
        names = ("test_mean", "best_test_mean_decides_nothing", "optimism_mean_decides_nothing")
        last, best, gap = (stats.mean_sd(own[name]).mean for name in names)
        if not len(own):
            return Row(Cell(method.label), (Cell("—"),) * 4)
        return Row(
            Cell(method.label), (Cell(f"{last:.1f}"), Cell(f"{best:.1f}"), Cell(signed(gap)), Cell(str(len(own))))
        )

    return Table(
        "DECIDES NOTHING: what choosing the epoch on the test set would add",
        "Method",
        (("last", "epoch, %"), ("best test", "epoch, %"), ("optimism,", "points"), ("pairs",)),
        by_group(block.methods, row),
    )


def _cost_table(block: Block, data: pd.DataFrame) -> Table:
    relative = "seconds_over_scratch" in data

    def row(method: MethodSpec) -> Row:
        own = data[data["method"] == method.id]
        texts = [_range(own["extra_parameters"]), _range(own["seconds_mean"])]
        if relative:
            texts.append(_range(own["seconds_over_scratch"], ".2f", " ×"))
        return Row(Cell(method.label), tuple(Cell(t) for t in (*texts, _range(own["peak_memory_mb_mean"]))))

    columns = (("extra", "parameters"), ("seconds", "a run"))
    columns += ((("time over", "scratch"),) if relative else ()) + (("peak memory,", "MB"),)
    return Table("Cost of training, range over pairs", "Method", columns, by_group(block.methods, row))


_COST_NOTE = (
    "Seconds are those of the student's own steps: what the runs of a job share, the teacher's forward pass and the "
    "batches, is not counted, nor is evaluation. Scratch is timed in a job of its own, so a busy machine moves the "
    "ratio. Memory is that of the whole process, with all its runs."
)


def _range(values: pd.Series, form: str = ",.0f", unit: str = "") -> str:
    known = [v for v in values if _known(v)]
    if not known:
        return "—"
    low, high = format(min(known), form), format(max(known), form)
    return (low if low == high else f"{low} to {high}") + unit


# ------------------------------------------------------------------------------------------------------ the whole page


def describe(suite: Suite, reports: Sequence[BlockReport]) -> Document:
    """The page of a suite, or of some of its blocks."""
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
        "Cells: mean ± standard deviation over seeds (number of seeds), test accuracy of the last epoch. Bold: not "
        "separated from the best of its column by a paired 95 % t interval over seeds."
    )
    return Document(suite.title or suite.name, tuple(banner), (Section("", (how,)), *sections), _footer(reports))


def _sections(report: BlockReport) -> list[Section]:
    suite, block, frame = report.suite, report.block, report.frame
    data = cells(block, frame, report.correct)
    kinds = data.drop_duplicates("pair").set_index("pair")["kind"]
    pairs = {kind: [p for p in kinds.index if kinds[p] == kind] for kind in ("headline", "weak", "undecided")}

    parts: list[str | Table] = [*_facts(report, data)]
    if "kd" not in {m.id for m in block.methods}:
        parts.append("This block has no plain KD (logits), so the differences to it are left out.")
    if frame["seed"].nunique() == 1:
        parts.append("One single seed: no interval and no test can be had, and nothing is bold.")
    if pairs["headline"]:
        parts += _pair_tables(suite, block, frame, data, report.readings, pairs["headline"])
    else:
        parts.append("No pair of this block is known to be a headline pair (teacher at least 3 points above scratch).")
    sections = [Section(f"{block.title} ({block.name})", tuple(parts))]
    for kind, title, why in (
        ("weak", "Weak teachers", "Teacher less than 3 points above scratch on validation: not in the verdict."),
        ("undecided", "Undecided", "Teacher or scratch not yet known on validation: not in the verdict."),
    ):
        if pairs[kind]:
            tables = _pair_tables(suite, block, frame, data, report.readings, pairs[kind])
            sections.append(Section(f"{block.title}: {title.lower()}", (why, *tables)))
    parts = [part for baseline in baselines_of(block) for part in _verdict_parts(block, frame, baseline)]
    if claims := claim_results(suite, block, frame):
        parts.append(claims_table(block, claims))
    if report.tuned:
        parts.append(_tuning_table(block, report.tuned))
    parts += [_optimism_table(block, data), _cost_table(block, data), _COST_NOTE]
    sections.append(Section(f"{block.title}: verdict, optimism and cost", tuple(parts)))
    return sections


def _facts(report: BlockReport, data: pd.DataFrame) -> list[str]:
    counts, classes = report.counts, report.classes
    lines = [f"Data: {_say(counts)}."] if counts else []
    if classes:
        lines.append(f"{classes:,} classes: guessing has {100 / classes:.1f} %.")
    lines += map(str, report.data_notes)
    level = stats.mean_sd(data["test_mean"]).mean
    if counts.get("test") and level is not None:
        error = stats.sampling_error(level, counts["test"])
        lines.append(
            f"{counts['test']:,} test samples: at this table's mean accuracy of {level:.1f} % they alone give one "
            f"network's accuracy a standard error of {error:.1f} points."
        )
    for modality, anchor in report.anchors.items():
        known = [
            f"{k} {anchor[k]:.1f} %" for k in ("nearest neighbour", "logistic regression") if _known(anchor.get(k))
        ]
        sizes = [f"{_say(anchor[f'{k}_used'])} {k}" for k in ("train", "test") if anchor.get(f"{k}_used")]
        used = f" (on {' and '.join(sizes)} samples)" if sizes else ""
        lines.append(f"Without any network, {modality}: {', '.join(known) or 'none'}{used}.")
    return lines


def _footer(reports: Sequence[BlockReport]) -> tuple[str, ...]:
    lines = {
        f"{key.capitalize()}: {_say(report.made_with[key])}": None
        for report in reports
        for key in ("date", "hardware", "versions", "commit")
        if report.made_with.get(key)
    }
    return tuple(lines)


def write_tables(suite: Suite, reports: Sequence[BlockReport], folder: Path) -> list[Path]:
    """Write folder/SUITE.md, .tex, .html and .csv, each whole or not at all, and return their paths.

    Raises KdbenchError where a file cannot be written or a (pair, method, seed) has two results.
    """
    page = describe(suite, reports)
    texts = {"md": markdown(page), "tex": latex(page), "html": html(page), "csv": csv(suite, reports)}
    paths = []
    for suffix, text in texts.items():
        path = Path(folder) / f"{suite.name}.{suffix}"
        write_text(path, text)
        paths.append(path)
    return paths


def csv(suite: Suite, reports: Sequence[BlockReport]) -> str:
    """Long form, unrounded. `line` is `cell` (one a pair and method), `reading` (the same for the readings of a
    reconstructed method) or `verdict` (one a method and baseline)."""
    lines = []
    for report in (report.shown for report in reports):
        block, frame = report.block, report.frame
        for _, readings, found in report.readings:
            own = cells(dataclasses.replace(block, methods=tuple(readings)), found)
            lines.append(own.assign(line="reading", notes=lambda d: d["notes"].map("; ".join)))
        lines.append(cells(block, frame, report.correct).assign(line="cell", notes=lambda d: d["notes"].map("; ".join)))
        labels = pd.DataFrame([{"method": m.id, "label": m.label, "group": m.group} for m in block.methods])
        for baseline in baselines_of(block):
            rivals = [m.id for m in rivals_of(block, baseline)]
            found = stats.verdict(frame, baseline, rivals).add_prefix("verdict_").reset_index()
            lines.append(labels.merge(found).assign(line="verdict", block=block.name, baseline=baseline).astype(object))
    table = pd.concat(lines, ignore_index=True).assign(suite=suite.name)
    first = ["suite", "block", "line", "baseline"]
    table = table.reindex(columns=first + [c for c in table.columns if c not in first])
    text = io.StringIO()
    table.to_csv(text, index=False, lineterminator="\n")
    return text.getvalue()
