"""docs/claims.md: the ledger of claims, from their files and the committed results."""

from __future__ import annotations

from collections import Counter
from types import ModuleType
from typing import Any

from kdbench.claims import CERTAINTIES, VERDICTS, committed, found, load, names

NOT_RUN = "not run yet"


def listing() -> str:
    """A line a claim: its name, verdict and what it says."""
    return "\n".join(f"{name:22} {_word(committed(name)):13} {load(name).CLAIM}" for name in names())


def page() -> str:
    """The ledger as Markdown."""
    results = {name: committed(name) for name in names()}
    counts = Counter(map(_word, results.values()))
    told = ", ".join(f"{counts[word]} {word}" for word in (*VERDICTS, NOT_RUN) if counts[word])
    rows = [f"| [{name}](#{name}) | {load(name).CLAIM} | {_word(result)} |" for name, result in results.items()]
    certainties = "; ".join(f"*{word}*: {meaning}" for word, meaning in CERTAINTIES.items())
    return "\n".join(
        [
            "# Published claims, put to the test",
            "",
            "Made by `kdbench show claims` from kdbench/claims and results/reference/claims. `kdbench claim NAME` "
            "computes one anew on one core, within ten minutes, and writes results/claims/NAME.json.",
            "",
            "A verdict is on the claim as it stands here, by its control and under a rule that stands beside the "
            "computation. It is on what was published or released and what that does, not on whether a method gains "
            "accuracy: where nothing was trained, the limits say so. *Supported*: the numbers are what the claim says, "
            "and the control does not give them. *Contradicted*: the control gives them too, or they are absent where "
            "they would have been seen. *Undecided*: neither. What follows from a formula had been worked out before "
            "its rule was written; a rule binds every later run.",
            "",
            f"{len(results)} claims: {told}.",
            "",
            "| name | claim | verdict |",
            "|---|---|---|",
            *rows,
            "",
            f"How a source is known to us: {certainties}.",
            *(line for name, result in results.items() for line in _section(name, load(name), result)),
        ]
    )


def _word(result: dict[str, Any] | None) -> str:
    return result["verdict"] if result else NOT_RUN


def _runs(claim: ModuleType) -> list[str]:
    """Where the runs of a claim's suite can be seen; nothing for a claim that reads none."""
    if not hasattr(claim, "SUITE"):
        return []
    suite, figure = claim.SUITE, claim.FIGURE
    return [
        f"- Runs: [all tables of {suite}](../tables/reference/{suite}.md).",
        "",
        f"![{suite}: {figure}](../results/reference/{suite}/figures/{figure}.png)",
    ]


def _section(name: str, claim: ModuleType, result: dict[str, Any] | None) -> list[str]:
    lines = [
        "",
        f"## {name}",
        "",
        f"**{claim.CLAIM}**",
        "",
        f"- Source: {claim.SOURCE} ({'; '.join(claim.CERTAINTY)}).",
        f"- Held against: {claim.CONTROL}.",
        f"- Rule: {claim.RULE}",
        f"- Power: {claim.POWER}",
    ]
    if result:
        versions = result["versions"]
        made = f"torch {versions['torch']}, numpy {versions['numpy']}, commit {versions['commit']}"
        lines += [
            f"- Found: {found(claim, result)}",
            f"- **Verdict: {result['verdict']}.**",
            f"- Limits: {claim.LIMITS}",
            f"- Computed {result['date']} in {result['seconds']:.1f} s on {result['hardware']}; {made}.",
            *_runs(claim),
        ]
    else:
        todo = f"snakemake --cores all --config suite={claim.SUITE} && kdbench reference {claim.SUITE}"
        lines += [
            f"- **Verdict: {NOT_RUN}.** It takes a suite: `{todo} && kdbench claim {name}`",
            f"- Limits: {claim.LIMITS}",
        ]
    return lines
