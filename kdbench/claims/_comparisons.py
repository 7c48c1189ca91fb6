"""Claims that are decided by comparisons of a suite: from its frozen runs to one verdict."""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import Any

from scipy import stats as st

from kdbench.plan.suite import load_suite
from kdbench.report.stats import detectable_difference
from kdbench.report.text import signed
from kdbench.report.verdicts import claim_results, decision_of
from kdbench.results.reference import Reference


def comparisons(name: str, claims: Collection[str]) -> dict[str, Any]:
    """How these claims of a suite, which have margins, come out in each direction of all its blocks, and the range of
    the differences in points that each direction's comparisons would have found with 80 % power.

    Raises KdbenchError where the suite has no frozen runs.
    """
    suite = load_suite(name)
    reference = Reference(suite)
    decided = [
        result
        for block in suite.blocks
        for result in claim_results(suite, block.shown, reference.frame(block.shown))
        if result.claim.name in claims
    ]
    words: dict[str, list[str]] = {}
    told, found = [], {}
    for claim, students, _, v in decided:
        words.setdefault(students, []).append(decision_of(claim, v))
        interval = f"[{signed(v['low'])}, {signed(v['high'])}]"
        sd = (v["high"] - v["low"]) / 2 / st.t.ppf(0.975, v["n"] - 1) * math.sqrt(v["n"])
        if (least := detectable_difference(sd, int(v["n"]))) is not None:
            found.setdefault(students, []).append(least)
        told.append(f"{claim.name}, {students}: {signed(v['difference'])} {interval} {words[students][-1]}")
    return {
        "n": int(min(result.verdict["n"] for result in decided)),
        "seeds": ", ".join(map(str, suite.seeds)),
        "comparisons": "; ".join(told),
        "detectable": "; ".join(f"{students}: {min(own):.1f} to {max(own):.1f}" for students, own in found.items()),
        "all_supported": all(word == "supported" for own in words.values() for word in own),
        "contradicted_everywhere": all("contradicted" in own for own in words.values()),
    }


def verdict_of(numbers: dict[str, Any]) -> str:
    """Of all comparisons: supported if each is, contradicted if in each direction at least one is, else undecided."""
    if numbers["all_supported"]:
        return "supported"
    return "contradicted" if numbers["contradicted_everywhere"] else "undecided"
