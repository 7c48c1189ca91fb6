"""Tables as a person reads them: one description, written as Markdown, LaTeX and CSV.

Read from bottom to top for the machine, from top to bottom for the content: `cells` turns the frame of a block into
numbers (one row a cell, also the lines of the CSV), the functions after it lay them out as `Table`s, and three short
renderers know nothing of distillation.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from kdbench import stats
from kdbench.checkpoint import write_text
from kdbench.types import Block, MethodSpec, Suite

MAX_COLUMNS = 7
"""Pairs that one table can hold before it is cut by the student's family."""

MARKS = "†‡"
FAMILIES = {"cnn": "CNN", "vit": "ViT", "mlp": "MLP"}


@dataclass(frozen=True)
class Cell:
    text: str
    bold: bool = False
    letters: tuple[str, ...] = ()
    """Footnotes of this cell."""


@dataclass(frozen=True)
class Row:
    label: Cell
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class Group:
    """Rows under one heading; `title` is empty where there is only one group."""

    title: str
    rows: tuple[Row, ...]


@dataclass(frozen=True)
class Table:
    title: str
    corner: str
    """Heading of the column of row labels."""
    columns: tuple[tuple[str, ...], ...]
    """Each column's heading, line by line."""
    groups: tuple[Group, ...]
    footnotes: tuple[tuple[str, str], ...] = ()
    """(letter or mark, text)"""


@dataclass(frozen=True)
class Section:
    title: str
    parts: tuple[str | Table, ...]
    """Paragraphs and tables in reading order."""


@dataclass(frozen=True)
class Document:
    title: str
    banner: tuple[str, ...]
    """Warnings above everything else."""
    sections: tuple[Section, ...]
    footer: tuple[str, ...]


def _letters(notes: dict[str, str], texts: Iterable[str]) -> tuple[str, ...]:
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


def cells(block: Block, frame: pd.DataFrame) -> pd.DataFrame:
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
    baselines = {f"minus_{b}": stats.differences(frame, b) for b in _baselines(block)}
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
                interval = stats.paired_t_interval(_seeds_of(delta, pair.id, method.id))
                record |= _named(name, interval)
            for name, source in means.items():
                record[name] = stats.mean_sd(_seeds_of(values[source], pair.id, method.id)).mean
            record["notes"] = _explanations(rows)
            records.append(record)
    return pd.DataFrame(records).set_index(["pair", "method"], drop=False).astype(object)


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
            why = "".join(f" ({r})" for r in dict.fromkeys(reasons) if r)
            texts.append(f"no result yet for {_seeds(group)}, {len(group)} of {n}{why}")
        else:
            lost = group[~np.isfinite(stats.numbers(group, "test"))]
            if len(lost):
                texts.append(f"{_seeds(lost)} of {n} planned finished without a finite accuracy and does not count")
    if not n:
        texts.append("not among the planned runs")
    return texts + list(dict.fromkeys(note for notes in rows["notes"] for note in _as_list(notes)))


def _seeds(rows: pd.DataFrame) -> str:
    seeds = ", ".join(str(s) for s in rows["seed"])
    return f"seed{'' if len(rows) == 1 else 's'} {seeds}"


def _as_list(value: Any) -> Sequence[str]:
    return value if isinstance(value, list | tuple) else []


# ------------------------------------------------------------------------------------------------ from numbers to text


def _known(value: Any) -> bool:
    return value is not None and bool(np.isfinite(value))


def _signed(value: float) -> str:
    return f"{value:+.1f}".replace("-", "−")


def _accuracy(record: Mapping[str, Any], notes: dict[str, str]) -> Cell:
    letters = _letters(notes, record["notes"])
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
    text, letters = _with_interval(*(record[f"{name}_{key}"] for key in ("mean", "low", "high", "n")), notes)
    return Cell(f"{text} ({record[f'{name}_n']})", letters=letters)


def _with_interval(mean: float, low: Any, high: Any, n: int, notes: dict[str, str]) -> tuple[str, tuple[str, ...]]:
    if _known(low):
        return f"{_signed(mean)} [{_signed(low)}, {_signed(high)}]", ()
    why = "one common seed" if n == 1 else "the same difference in every seed"
    return _signed(mean), _letters(notes, [f"{why}: no interval"])


def _list(names: Iterable[str]) -> str:
    return ", ".join(names) or "none"


def _say(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{k} {_say(v)}" for k, v in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(_say(v) for v in value)
    return f"{value:,}" if isinstance(value, int) else str(value)


# --------------------------------------------------------------------------------------------- from numbers to tables


def _by_group(methods: Iterable[MethodSpec], row: Callable[[MethodSpec], Row]) -> tuple[Group, ...]:
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


def _pair_tables(suite: Suite, block: Block, frame: pd.DataFrame, data: pd.DataFrame, pairs: list[str]) -> list[Table]:
    """Accuracies, then the paired differences to each baseline, of these pairs."""
    result = []
    for suffix, part in _cut(suite, block, pairs).items():
        columns = tuple(_heading(suite, block, pair) for pair in part)
        result.append(_accuracy_table(block, frame, data, part, columns, suffix))
        result += [_difference_table(block, data, part, columns, suffix, baseline) for baseline in _baselines(block)]
    return result


def _accuracy_table(block, frame, data, pairs, columns, suffix: str) -> Table:
    notes: dict[str, str] = {}
    teacher = Group("Teacher", (_teacher_row(stats.teachers(frame), pairs, notes), _gain_row(frame, pairs)))
    groups = _by_group(
        block.methods, lambda m: Row(_label(m, notes), tuple(_accuracy(data.loc[(p, m.id)], notes) for p in pairs))
    )
    footnotes = _mark_notes(block) + _listed(notes)
    return Table(f"Test accuracy, %{suffix}", "Method", columns, (teacher, *groups), footnotes)


def _difference_table(block, data, pairs, columns, suffix: str, baseline: str) -> Table:
    notes: dict[str, str] = {}
    groups = _by_group(
        (m for m in block.methods if m.id != baseline),
        lambda m: Row(Cell(m.label), tuple(_difference(data.loc[(p, m.id)], baseline, notes) for p in pairs)),
    )
    title = f"Paired difference to {_name(block, baseline)}, points [95 % t interval]{suffix}"
    return Table(title, "Method", columns, groups, _listed(notes))


def _listed(notes: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    return tuple((letter, text) for text, letter in notes.items())


def _name(block: Block, method: str) -> str:
    return next(m.label for m in block.methods if m.id == method)


def _baselines(block: Block) -> list[str]:
    ids = [m.id for m in block.methods]
    return [b for b in ("kd", "scratch") if b in ids and len(ids) > 1]


def _label(method: MethodSpec, notes: dict[str, str]) -> Cell:
    marked = any(c in MARKS for c in method.label)
    return Cell(method.label, letters=() if marked or not method.footnote else _letters(notes, [method.footnote]))


def _teacher_row(teacher: pd.Series, pairs: Sequence[str], notes: dict[str, str]) -> Row:
    row = []
    for pair in pairs:
        mean, sd, n = stats.mean_sd(teacher.get(pair, []))
        if not n:
            row.append(Cell("—"))
        elif n > 1 and sd < 1e-9:
            row.append(Cell(f"{mean:.1f} ({n})", letters=_letters(notes, ["the same teacher accuracy in every seed"])))
        else:
            row.append(Cell(f"{mean:.1f}{f' ± {sd:.1f}' if n > 1 else ''} ({n})"))
    return Row(Cell("test accuracy"), tuple(row))


def _gain_row(frame: pd.DataFrame, pairs: Sequence[str]) -> Row:
    gains = stats.headline_pairs(frame)["gain"].reindex(pairs)
    return Row(Cell("minus scratch, validation"), tuple(Cell(_signed(g) if _known(g) else "—") for g in gains))


def _verdict_table(block: Block, verdict: pd.DataFrame, baseline: str) -> Table:
    notes: dict[str, str] = {}

    def row(method: MethodSpec) -> Row:
        v = verdict.loc[method.id]
        difference, letters = "—", ()
        if v["n"]:
            difference, letters = _with_interval(v["difference"], v["low"], v["high"], v["n"], notes)
        tested = np.isfinite(v["p_holm"])
        return Row(
            Cell(method.label),
            (
                Cell(difference, letters=letters),
                Cell(f"{v['n']} of {v['seeds']}"),
                Cell(f"{v['pairs']} of {v['headline']}"),
                Cell(_p(v["p_holm"]) if tested else "—"),
                Cell(v["verdict"], letters=() if tested else _letters(notes, [v["reason"]])),
            ),
        )

    columns = (("difference, points", "[95 % t interval]"), ("complete", "seeds"), ("headline", "pairs"))
    columns += (("p", "(Holm)"), ("verdict",))
    groups = _by_group((m for m in block.methods if m.id in verdict.index), row)
    return Table(
        f"Verdict against {_name(block, baseline)}, over headline pairs", "Method", columns, groups, _listed(notes)
    )


def _p(p: float) -> str:
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def _verdict_parts(block: Block, frame: pd.DataFrame, baseline: str) -> list[str | Table]:
    verdict = stats.verdict(frame, baseline)
    labels = {m.id: m.label for m in block.methods}
    name = labels[baseline]

    def named(kind: str) -> str:
        return _list(labels[m] for m in verdict.index[verdict["verdict"] == kind] if m in labels)

    summary = (
        f"Better than {name}: {named('better')}. Worse: {named('worse')}. Not separated: {named('not separated')}. "
        f"Without a test: {named('no test')}."
    )
    found = stats.detectable(frame, baseline)
    sizes = []
    if found.verdict:
        family = f"Holm's first step over {found.methods} methods" if found.methods > 1 else "one method"
        sizes.append(f"{found.verdict:.1f} points in this verdict ({family}, n = {found.verdict_n})")
    if found.cell:
        sizes.append(f"{found.cell:.1f} points in a single cell (n = {found.cell_n})")
    detectable = (
        f"Smallest true difference that a two-sided paired t test at 5 % finds with 80 % power: {'; '.join(sizes)}."
        if sizes
        else "The smallest detectable difference cannot be estimated: it takes two complete seeds that differ."
    )
    return [_verdict_table(block, verdict, baseline), summary, detectable]


def _optimism_table(block: Block, data: pd.DataFrame) -> Table:
    def row(method: MethodSpec) -> Row:
        own = data[(data["method"] == method.id) & data["optimism_mean_decides_nothing"].notna()]
        names = ("test_mean", "best_test_mean_decides_nothing", "optimism_mean_decides_nothing")
        last, best, gap = (stats.mean_sd(own[name]).mean for name in names)
        if not len(own):
            return Row(Cell(method.label), (Cell("—"),) * 4)
        return Row(
            Cell(method.label), (Cell(f"{last:.1f}"), Cell(f"{best:.1f}"), Cell(_signed(gap)), Cell(str(len(own))))
        )

    return Table(
        "DECIDES NOTHING: what choosing the epoch on the test set would add",
        "Method",
        (("last", "epoch, %"), ("best test", "epoch, %"), ("optimism,", "points"), ("pairs",)),
        _by_group(block.methods, row),
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
    return Table("Cost of training, range over pairs", "Method", columns, _by_group(block.methods, row))


def _range(values: pd.Series, form: str = ",.0f", unit: str = "") -> str:
    known = [v for v in values if _known(v)]
    if not known:
        return "—"
    low, high = format(min(known), form), format(max(known), form)
    return (low if low == high else f"{low} to {high}") + unit


# ------------------------------------------------------------------------------------------------------ the whole page


def describe(suite: Suite, blocks: Sequence[tuple[Block, pd.DataFrame, Mapping, Mapping]]) -> Document:
    """The page of a suite: blocks are (block, frame, anchors, context) as kdbench/results.py makes them."""
    sections, partial = [], []
    for block, frame, anchors, context in blocks:
        missing = int((frame["status"] == "missing").sum())
        if missing:
            partial.append(f"{missing} of {len(frame)} runs of “{block.title}”")
        sections += _sections(suite, block, frame, anchors, context)
    banner = [suite.banner] if suite.banner else []
    if partial:
        banner.append(f"PARTIAL TABLE, no result yet for {'; '.join(partial)}. Numbers will change.")
    how = (
        "Cells: mean ± standard deviation over seeds (number of seeds), test accuracy of the last epoch. Bold: not "
        "separated from the best of its column by a paired 95 % t interval over seeds."
    )
    return Document(suite.title or suite.name, tuple(banner), (Section("", (how,)), *sections), _footer(blocks))


def _sections(suite: Suite, block: Block, frame: pd.DataFrame, anchors: Mapping, context: Mapping) -> list[Section]:
    data = cells(block, frame)
    kinds = data.drop_duplicates("pair").set_index("pair")["kind"]
    pairs = {kind: [p for p in kinds.index if kinds[p] == kind] for kind in ("headline", "weak", "undecided")}

    parts: list[str | Table] = [*_facts(data, anchors, context)]
    if "kd" not in {m.id for m in block.methods}:
        parts.append("This block has no plain KD (logits), so the differences to it are left out.")
    if frame["seed"].nunique() == 1:
        parts.append("One single seed: no interval and no test can be had, and nothing is bold.")
    if pairs["headline"]:
        parts += _pair_tables(suite, block, frame, data, pairs["headline"])
    else:
        parts.append("No pair of this block is known to be a headline pair (teacher at least 3 points above scratch).")
    sections = [Section(f"{block.title} ({block.name})", tuple(parts))]
    for kind, title, why in (
        ("weak", "Weak teachers", "Teacher less than 3 points above scratch on validation: not in the verdict."),
        ("undecided", "Undecided", "Teacher or scratch not yet known on validation: not in the verdict."),
    ):
        if pairs[kind]:
            tables = _pair_tables(suite, block, frame, data, pairs[kind])
            sections.append(Section(f"{block.title}: {title.lower()}", (why, *tables)))
    parts = [part for baseline in _baselines(block) for part in _verdict_parts(block, frame, baseline)]
    parts += [_optimism_table(block, data), _cost_table(block, data)]
    sections.append(Section(f"{block.title}: verdict, optimism and cost", tuple(parts)))
    return sections


def _facts(data: pd.DataFrame, anchors: Mapping, context: Mapping) -> list[str]:
    facts = context.get("data") or {}
    counts = facts.get("counts") or {}
    lines = [f"Data: {_say(counts)}."] if counts else []
    lines += [str(note) for note in facts.get("notes") or []]
    level = stats.mean_sd(data["test_mean"]).mean
    if counts.get("test") and level is not None:
        error = stats.sampling_error(level, counts["test"])
        lines.append(
            f"{counts['test']:,} test samples: at this table's mean accuracy of {level:.1f} % they alone give one "
            f"network's accuracy a standard error of {error:.1f} points."
        )
    for modality, anchor in anchors.items():
        known = [
            f"{k} {anchor[k]:.1f} %" for k in ("nearest neighbour", "logistic regression") if _known(anchor.get(k))
        ]
        sizes = [f"{_say(anchor[f'{k}_used'])} {k}" for k in ("train", "test") if anchor.get(f"{k}_used")]
        used = f" (on {' and '.join(sizes)} samples)" if sizes else ""
        lines.append(f"Without any network, {modality}: {_list(known)}{used}.")
    return lines


def _footer(blocks: Sequence[tuple]) -> tuple[str, ...]:
    lines: dict[str, None] = {}
    for *_, context in blocks:
        for key in ("date", "hardware", "versions", "commit"):
            if context.get(key):
                lines.setdefault(f"{key.capitalize()}: {_say(context[key])}")
    return tuple(lines)


def write_tables(
    suite: Suite, blocks: Sequence[tuple[Block, pd.DataFrame, Mapping, Mapping]], folder: Path
) -> list[Path]:
    """Write folder/SUITE.md, .tex and .csv, each whole or not at all, and return their paths.

    Raises KdbenchError where a file cannot be written or a (pair, method, seed) has two results.
    """
    page = describe(suite, blocks)
    texts = {"md": markdown(page), "tex": latex(page), "csv": csv(suite, [(b, f) for b, f, *_ in blocks])}
    paths = []
    for suffix, text in texts.items():
        path = Path(folder) / f"{suite.name}.{suffix}"
        write_text(path, text)
        paths.append(path)
    return paths


# ------------------------------------------------------------------------------------------------------------ renderers


def _one_line(text: Any) -> str:
    return " ".join("".join(c if c.isprintable() else " " for c in str(text)).split())


def _md(text: Any) -> str:
    """Text that Markdown, and the HTML within it, shows as it is."""
    safe = _one_line(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*_\[\]|~$#])", r"\\\1", safe)


def markdown(page: Document) -> str:
    lines = [f"# {_md(page.title)}", ""]
    lines += [f"> **{_md(text)}**\n" for text in page.banner]
    for section in page.sections:
        if section.title:
            lines += [f"## {_md(section.title)}", ""]
        for part in section.parts:
            lines += [_md(part), ""] if isinstance(part, str) else _md_table(part)
    return "\n".join([*lines, "---", "", *(f"{_md(line)}<br>" for line in page.footer)]).rstrip() + "\n"


def _md_table(table: Table) -> list[str]:
    heads = [table.corner, *("<br>".join(map(_md, column)) for column in table.columns)]
    lines = [f"### {_md(table.title)}", "", _md_row(heads), _md_row(["---", *["---:"] * len(table.columns)])]
    for group in table.groups:
        if group.title and len(table.groups) > 1:
            lines.append(_md_row([f"*{_md(group.title)}*", *[""] * len(table.columns)]))
        lines += [_md_row([_md_cell(cell) for cell in (row.label, *row.cells)]) for row in group.rows]
    notes = [f"<sup>{_md(mark)}</sup> {_md(text)}<br>" for mark, text in table.footnotes]
    return [*lines, "", *notes, *([""] if notes else [])]


def _md_row(texts: Sequence[str]) -> str:
    return f"| {' | '.join(texts)} |"


def _md_cell(cell: Cell) -> str:
    text = f"**{_md(cell.text)}**" if cell.bold else _md(cell.text)
    return text + (f" <sup>{','.join(cell.letters)}</sup>" if cell.letters else "")


_TEX = {
    "\\": r"\textbackslash{}",
    "^": r"\textasciicircum{}",
    "~": r"\textasciitilde{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "`": r"\textasciigrave{}",
    '"': "''",
    "[": "{[}",  # a bracket after \\ would be taken for its argument
    "]": "{]}",
    "±": r"$\pm$",
    "−": "$-$",
    "→": r"$\rightarrow$",
    "×": r"$\times$",
    "†": r"\textdagger{}",
    "‡": r"\textdaggerdbl{}",
    "—": "---",
    "–": "--",
    "“": "``",
    "”": "''",
    "’": "'",
    **{c: "\\" + c for c in "&%$#_{}"},
}
_TEX_LETTERS = set("ÀÁÂÃÄÇÈÉÊËÌÍÎÏÑÒÓÔÕÖÙÚÛÜÝàáâãäçèéêëìíîïñòóôõöùúûüýÿßÆæØøÅå")


def _tex(text: Any) -> str:
    return "".join(_TEX.get(c) or _tex_letter(c) for c in _one_line(text))


def _tex_letter(c: str) -> str:
    """Plain pdflatex knows ASCII and accented letters; anything else is shown by its number rather than refused."""
    return c if c.isascii() or c in _TEX_LETTERS else rf"\texttt{{U+{ord(c):04X}}}"


def latex(page: Document) -> str:
    """A complete document for pdflatex; its tabulars can be copied into a paper that loads booktabs and graphicx."""
    lines = [
        r"\documentclass[10pt]{article}",
        r"\usepackage[a4paper,landscape,margin=15mm]{geometry}",
        r"\usepackage{booktabs,graphicx}",
        r"\setlength{\parindent}{0pt}\setlength{\parskip}{4pt}\raggedright",
        r"\begin{document}",
        rf"{{\LARGE {_tex(page.title)}}}",
        "",
        *(rf"\fbox{{\parbox{{0.97\linewidth}}{{\bfseries {_tex(text)}}}}}" + "\n" for text in page.banner),
    ]
    for section in page.sections:
        if section.title:
            lines += [rf"\section*{{{_tex(section.title)}}}"]
        for part in section.parts:
            lines += [_tex(part), ""] if isinstance(part, str) else _tex_table(part)
    return "\n".join(
        [*lines, r"\medskip\footnotesize", *(_tex(t) + r"\par" for t in page.footer), r"\end{document}", ""]
    )


def _tex_table(table: Table) -> list[str]:
    width = len(table.columns)
    depth = max((len(column) for column in table.columns), default=1)
    heads = [(*column, *[""] * (depth - len(column))) for column in table.columns]
    lines = [
        r"\medskip",
        rf"\begin{{minipage}}{{\linewidth}}\subsection*{{{_tex(table.title)}}}\small",
        r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%",
        rf"\begin{{tabular}}{{@{{}}l{'r' * width}@{{}}}}",
        r"\toprule",
    ]
    for i in range(depth):
        lines.append(_tex_row([_tex(table.corner) if i == 0 else "", *(_tex(head[i]) for head in heads)]))
    for group in table.groups:
        lines.append(r"\midrule")
        if group.title and len(table.groups) > 1:
            lines.append(rf"\multicolumn{{{width + 1}}}{{@{{}}l}}{{\textit{{{_tex(group.title)}}}}} \\")
        lines += [_tex_row([_tex_cell(cell) for cell in (row.label, *row.cells)]) for row in group.rows]
    lines += [r"\bottomrule", r"\end{tabular}}\par\smallskip\footnotesize"]
    lines += [rf"\textsuperscript{{{_tex(mark)}}} {_tex(text)}\par" for mark, text in table.footnotes]
    return [*lines, r"\end{minipage}", "", r"\medskip", ""]


def _tex_row(texts: Sequence[str]) -> str:
    return " & ".join(texts) + r" \\"


def _tex_cell(cell: Cell) -> str:
    text = rf"\textbf{{{_tex(cell.text)}}}" if cell.bold else _tex(cell.text)
    return text + (rf"\textsuperscript{{{','.join(cell.letters)}}}" if cell.letters else "")


def csv(suite: Suite, blocks: Sequence[tuple[Block, pd.DataFrame]]) -> str:
    """Long form, unrounded. `line` is `cell` (one a pair and method) or `verdict` (one a method and baseline)."""
    lines = []
    for block, frame in blocks:
        lines.append(cells(block, frame).assign(line="cell", notes=lambda d: d["notes"].map("; ".join)))
        labels = pd.DataFrame([{"method": m.id, "label": m.label, "group": m.group} for m in block.methods])
        for baseline in _baselines(block):
            found = stats.verdict(frame, baseline).add_prefix("verdict_").reset_index()
            lines.append(labels.merge(found).assign(line="verdict", block=block.name, baseline=baseline).astype(object))
    table = pd.concat(lines, ignore_index=True).assign(suite=suite.name)
    first = ["suite", "block", "line", "baseline"]
    table = table.reindex(columns=first + [c for c in table.columns if c not in first])
    text = io.StringIO()
    table.to_csv(text, index=False, lineterminator="\n")
    return text.getvalue()
