"""From numbers to text: the cells of tables and their footnotes, as every table of the report words them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from kdbench.plan.models import origin
from kdbench.report.page import Cell
from kdbench.types import Block, Suite

ONE_SEED = (
    "one seed: braces show a 95 % bootstrap interval over the test images. It compares these two networks, not the "
    "two methods: another seed would give other networks"
)


def title_of(suite: Suite) -> str:
    """What a suite is called, with its edition where that is not the first."""
    return (suite.title or suite.name) + ("" if suite.edition == 1 else f" (edition {suite.edition})")


def budget_facts(block: Block) -> list[str]:
    """A sentence that says which budget a block shows, where that is not plainly its students' recipes."""
    if block.budgets == (1,) and not block.scratch_budgets:
        return []
    others = [f"{budget:g}" for budget in block.budgets if budget != block.budget]
    alone = [f"{budget:g}" for budget in block.scratch_budgets]
    more = [f"budget {', '.join(others)}"] if others else []
    more += [f"Scratch alone at budget {', '.join(alone)}"] if alone else []
    also = f" Also trained: {'; '.join(more)}." if more else ""
    return [f"Budget {block.budget:g}: students train for {block.budget:g} times the steps of their recipes.{also}"]


def teacher_facts(suite: Suite, block: Block) -> list[str]:
    """A sentence for each teacher of a block whose weights come from elsewhere than from its own training."""
    origins = {pair.teacher: origin(suite.models[pair.teacher]) for pair in block.shown.pairs}
    return [f"Teacher {name}: {text}." for name, text in origins.items() if text]


def step_facts(suite: Suite, block: Block) -> list[str]:
    """A sentence for each recipe of a block's students whose step is more than one batch, or that averages weights."""
    recipes = dict.fromkeys(suite.recipes[suite.models[pair.student].recipe] for pair in block.pairs)
    lines = [
        f"Recipe {r.name}: a step is the mean gradient of {r.accumulate} batches of {r.batch_size}; BatchNorm, mixing "
        f"and losses that relate samples see {r.batch_size}."
        for r in recipes
        if r.accumulate > 1
    ]
    return lines + [f"Recipe {r.name}: cells are of the weights, not of their average." for r in recipes if r.ema_decay]


def note_letters(notes: dict[str, str], texts: Iterable[str]) -> tuple[str, ...]:
    """Footnote letters in order of first use; `notes` remembers text -> letter, so that a text has one letter."""
    return tuple(notes.setdefault(text, _letter(len(notes))) for text in texts)


def _letter(index: int) -> str:
    return ("" if index < 26 else _letter(index // 26 - 1)) + chr(ord("a") + index % 26)


def note_list(notes: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    """The footnotes that `note_letters` has gathered."""
    return tuple((letter, text) for text, letter in notes.items())


def known(value: Any) -> bool:
    return value is not None and bool(np.isfinite(value))


def signed(value: float) -> str:
    """Points with their sign and one digit."""
    # A mean of zero up to rounding must not carry a sign that depends on the machine.
    return f"{round(value, 1) + 0.0:+.1f}".replace("-", "−")


def accuracy_cell(record: Mapping[str, Any], notes: dict[str, str]) -> Cell:
    """Mean and standard deviation of the test accuracy in a row of `cells`."""
    letters = note_letters(notes, record["notes"])
    if record["test_n"]:
        return replace(summary_cell(record, "test"), bold=record["bold"], letters=letters)
    return Cell(_absent(record["status"]), letters=letters, of=_run_of(record))


def _run_of(record: Mapping[str, Any]) -> tuple[str, str]:
    return record["pair"], record["method"]


def _of_seeds(record: Mapping[str, Any], name: str) -> str:
    """The number of seeds behind a value of a row of `cells`, where it is not the block's."""
    n = record[f"{name}_n"]
    return "" if n == record["planned"] else f" ({n})"


def summary_cell(record: Mapping[str, Any], name: str) -> Cell:
    """Mean and standard deviation of a value of a row of `cells`."""
    mean, sd = record[f"{name}_mean"], record[f"{name}_sd"]
    if not known(mean):
        return Cell("—", of=_run_of(record))
    return Cell(f"{mean:.1f}{spread(sd)}{_of_seeds(record, name)}", mean, of=_run_of(record))


def spread(sd: float | None) -> str:
    """What stands behind a mean: its standard deviation, where there is one."""
    return f" ± {sd:.1f}" if known(sd) else ""


def _absent(status: str) -> str:
    return status if status in ("n/a", "diverged") else "—"


def paired_cell(record: Mapping[str, Any], baseline: str, notes: dict[str, str]) -> Cell:
    """The paired difference to a baseline in a row of `cells`."""
    name = f"minus_{baseline}"
    if not record[f"{name}_n"]:
        return Cell(_absent(record["status"]), of=_run_of(record))
    interval = [record[f"{name}_{key}"] for key in ("mean", "low", "high", "n")]
    if record[f"{name}_images_low"] is not None:
        images = (record[f"{name}_images_{end}"] for end in ("low", "high"))
        text, letters = f"{signed(interval[0])} {{{', '.join(map(signed, images))}}}", note_letters(notes, [ONE_SEED])
    else:
        text, letters = with_interval(*interval, notes)
    return Cell(f"{text}{_of_seeds(record, name)}", interval[0], letters=letters, of=_run_of(record))


def with_interval(mean: float, low: Any, high: Any, n: int, notes: dict[str, str]) -> tuple[str, tuple[str, ...]]:
    """A difference with its interval, and the letter of the footnote that says why it has none."""
    if known(low):
        return f"{signed(mean)} [{signed(low)}, {signed(high)}]", ()
    why = "one common seed" if n == 1 else "the same difference in every seed"
    return signed(mean), note_letters(notes, [f"{why}: no interval"])


def setting(tried: Mapping[str, Any]) -> str:
    """A setting that tuning tried or chose: the multiple of the default weight, and its temperature if any."""
    return f"× {tried['factor']:g}" + (f", T {tried['temperature']:g}" if "temperature" in tried else "")


def pair_text(pair: str) -> str:
    """A pair's id as a person reads it."""
    return pair.replace("--", " → ")


def joined(names: Iterable[str]) -> str:
    """Names in a row. They may hold commas."""
    return "; ".join(names)


def say(value: Any) -> str:
    """Any value of a footer or a fact as a person reads it."""
    if isinstance(value, Mapping):
        return ", ".join(f"{k} {say(v)}" for k, v in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(say(v) for v in value)
    return f"{value:,}" if isinstance(value, int) else str(value)


def difference_cell(v: pd.Series, notes: dict[str, str]) -> Cell:
    """The difference of a row of stats.verdict with its interval."""
    if not v["n"]:
        return Cell("—")
    text, letters = with_interval(v["difference"], v["low"], v["high"], v["n"], notes)
    return Cell(text, v["difference"], letters=letters)


def p_cell(p: float, letters: tuple[str, ...] = ()) -> Cell:
    if np.isnan(p):
        return Cell("—", letters=letters)
    return Cell("< 0.001" if p < 0.001 else f"{p:.3f}", p, letters=letters)


def number_cell(value: float | None, form: str, unit: str = "") -> Cell:
    """One number in this format, or a dash."""
    return Cell(f"{format(value, form).replace('-', '−')}{unit}", value) if known(value) else Cell("—")


def points_cell(value: float | None) -> Cell:
    return Cell(signed(value), value) if known(value) else Cell("—")


def shares_text(shares: Iterable[Any]) -> str:
    """The mean of some runs' {term: share} in percent, "ce 61 %, kd 39 %"; empty where no run has any."""
    means = pd.DataFrame([s for s in shares if isinstance(s, Mapping)], dtype=float).mean()
    return ", ".join(f"{term} {100 * share:.0f} %" for term, share in means.items() if known(share))


def range_cell(values: pd.Series, form: str = ",.0f", unit: str = "") -> Cell:
    """The smallest and the largest of the known values."""
    found = [v for v in values if known(v)]
    if not found:
        return Cell("—")
    low, high = format(min(found), form), format(max(found), form)
    return Cell((low if low == high else f"{low} to {high}") + unit, min(found))
