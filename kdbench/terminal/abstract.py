"""The abstract of a page of findings, made from its runs, for where nobody has written one by hand: what was trained,
who gains over Scratch at which length of training, what that is worth in compute, the claims, and what could be missed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pandas as pd

from kdbench.plan.jobs import SCRATCH
from kdbench.plan.paths import proxy_file, reference_folder
from kdbench.report import proxy, stats
from kdbench.report.cells import baselines_of, rivals_of
from kdbench.report.page import escaped
from kdbench.report.text import budget_facts, difference_cell, joined, with_interval
from kdbench.report.verdicts import claim_results, label_of
from kdbench.report.worth import worth, worth_sentence
from kdbench.results.reference import lengths_of, runs_of
from kdbench.types import Block, Suite


def abstract(suite: Suite, runs: pd.DataFrame, stands_for: proxy.Proxy | None = None) -> str:
    """Markdown: about ten lines, each a finding, and the figures that there are; empty where no block holds methods
    against Scratch in two seeds or more. The first block leads. runs: in the columns of frames.all_runs."""
    blocks = [b.shown for b in suite.blocks if len(b.seeds) > 1 and SCRATCH in baselines_of(b.shown)]
    lines = [*_leading(suite, blocks[0], runs)] if blocks else []
    lines += [_gains(suite, block, runs, ("better", "worse")) for block in blocks[1:]]
    for block in (block for block in blocks if len(block.lengths) > 1):
        lengths = lengths_of(suite, block, runs)
        lines.append(_doubling(block, lengths) + worth_sentence(block, worth(lengths)))
    lines += _claims(suite, blocks, runs)
    figures = _first_figure(suite, blocks)
    if stands_for:
        lines.append(proxy.verdict_sentence(stands_for))
        path = proxy_file(suite, stands_for.b.name).with_suffix(".png")
        figures.append((path, f"Effects in {suite.name} and in {stands_for.b.name}"))
    images = [f"\n![{title}](../{path.as_posix()})" for path, title in figures]
    return "\n".join([*(f"- {escaped(line)}" for line in lines), *images])


def _leading(suite: Suite, block: Block, runs: pd.DataFrame) -> Iterator[str]:
    """What was trained, who gains, and what could be missed."""
    shown, rivals = runs_of(suite, block, runs, block.budget), _rivals(block)
    name, level, teachers = label_of(block, SCRATCH), stats.wide(shown)[SCRATCH].mean(), stats.teachers(shown).mean()
    counts = f"Methods beside {name}: {len(rivals)}; pairs: {len(block.pairs)}; seeds: {len(block.seeds)}."
    ends = f"{name} ends at {level:.1f} % test accuracy, the teachers at {teachers:.1f} %."
    yield " ".join([counts, *budget_facts(block), ends])
    yield _gains(suite, block, runs, tuple(_GROUPS))
    if (least := stats.detectable(shown, SCRATCH, rivals).verdict) is not None:
        yield f"Differences below {least:.1f} points may be missed there."


def _rivals(block: Block) -> list[str]:
    return [m.id for m in rivals_of(block, SCRATCH)]


_GROUPS = {"better": "Better than", "worse": "Worse than", "not separated": "Not separated from"}


def _gains(suite: Suite, block: Block, runs: pd.DataFrame, told: Sequence[str]) -> str:
    """Who gains over Scratch at each budget, and where nobody does, just that; told: verdicts that are shown."""
    name, parts = label_of(block, SCRATCH), []
    for budget in sorted(block.budgets):
        verdict = stats.verdict(runs_of(suite, block, runs, budget), SCRATCH, _rivals(block))
        found = [] if (verdict["verdict"] == "better").any() else [f"No method gains over {name}."]
        for word in told:
            own = verdict[verdict["verdict"] == word]
            differences = [f"{label_of(block, m)} {difference_cell(v, {}).text}" for m, v in own.iterrows()]
            found += [f"{_GROUPS[word]} {name}: {joined(differences)}."] if differences else []
        parts += [f"Budget {budget:g}." if budget_facts(block) else "", *found]
    return " ".join(filter(None, [f"{block.title}.", *parts]))


def _claims(suite: Suite, blocks: Sequence[Block], runs: pd.DataFrame) -> list[str]:
    """Every claim in the first block that can test it."""
    told: dict[str, tuple[str, list[str]]] = {}
    for block in reversed(blocks):
        own: dict[str, tuple[str, list[str]]] = {}
        for claim, students, _, v in claim_results(suite, block, runs_of(suite, block, runs, block.budget)):
            names = f"{label_of(block, claim.method)} minus {label_of(block, claim.control)}"
            where = f" ({students})" if students else ""
            own.setdefault(claim.name, (names, []))[1].append(f"{difference_cell(v, {}).text}{where}")
        told |= own
    found = [told[claim.name] for claim in suite.claims if claim.name in told]
    texts = [f"{names}: {', '.join(differences)}" for names, differences in found]
    return [f"Claims, unadjusted. {joined(texts)}."] if texts else []


def _doubling(block: Block, lengths: pd.DataFrame) -> str:
    """What the last doubling of its budget brought Scratch, over students; nothing where it was not doubled."""
    if block.budget / 2 not in block.lengths:
        return ""
    own = lengths[(lengths["method"] == SCRATCH) & (lengths["status"] == "finished")]
    own = own.drop_duplicates(["student", "seed", "budget"]).assign(test=stats.numbers(own, "test"))
    tests = own.pivot(index="seed", columns=["budget", "student"], values="test")
    gain, _ = with_interval(*stats.paired_t_interval((tests[block.budget] - tests[block.budget / 2]).mean(axis=1)), {})
    return f"From budget {block.budget / 2:g} to {block.budget:g}, Scratch gains {gain} points. "


def _first_figure(suite: Suite, blocks: Sequence[Block]) -> list[tuple[Path, str]]:
    """Accuracy over compute where a block has budgets, else the first verdict, with its title; nothing where the
    reference has no such figure."""
    kinds = [(f"{b.name}-compute", f"{b.title}: accuracy against compute") for b in blocks if len(b.lengths) > 1]
    kinds += [(f"{b.name}-verdict", f"{b.title}: difference to Scratch") for b in blocks]
    places = [(reference_folder(suite) / "figures" / f"{name}.png", title) for name, title in kinds[:1]]
    return [(path, title) for path, title in places if path.exists()]
