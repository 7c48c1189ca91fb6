"""FD-CMKD, claim 2: does it beat distillation without its parts?

Its comparisons, their margin and their controls stand in config/claim-distillation.yaml: FD-CMKD‡ as written against
KD, against heads without a teacher, against random halves of the channels, and against a teacher that is shuffled or
untrained, each for students that hear and for students that see. This file reads its frozen runs.
"""

from __future__ import annotations

from typing import Any

from kdbench.plan.suite import load_suite
from kdbench.report.text import signed
from kdbench.report.verdicts import claim_results, decision_of
from kdbench.results.reference import Reference

CLAIM = (
    "FD-CMKD beats KD and other methods across modalities, and does so by what it takes from the teacher's frequencies."
)
SOURCE = "FD-CMKD, AAAI 2026, arXiv 2511.19887"
CERTAINTY = ("3rd", "code", "ours")
CONTROL = (
    "KD, heads without a teacher, random halves of the channels, a shuffled and an untrained teacher: the same recipe "
    "and tuning"
)
RULE = (
    "Each comparison of the method as written is decided in each direction by the margin of the suite: supported if "
    "the difference exceeds it and the 95 % t interval over seeds is above 0, contradicted if the interval is below "
    "the margin, else undecided. The claim is supported if all comparisons are in both directions, contradicted if in "
    "each direction at least one is contradicted, else undecided."
)
POWER = "Six paired seeds; the margin is the larger of 1.0 point and one standard error of the distinct test inputs."
FOUND = "Over {n} seeds, method minus control in points: {comparisons}."
LIMITS = (
    "A constructed, label-paired set of ten classes; the published tables are not re-run. Small networks; methods "
    "that exploit which sample belongs to which cannot show their strength here."
)

SUITE, FIGURE = "claim-distillation", "directions-accuracy"


def run() -> dict[str, Any]:
    suite = load_suite(SUITE)
    reference = Reference(suite)
    as_written = {claim.name for claim in suite.claims if claim.method == "fdcmkd"}
    decided = [
        result
        for block in suite.blocks
        for result in claim_results(suite, block.shown, reference.frame(block.shown))
        if result.claim.name in as_written
    ]
    words: dict[str, list[str]] = {}
    told = []
    for claim, students, _, v in decided:
        words.setdefault(students, []).append(decision_of(claim, v))
        interval = f"[{signed(v['low'])}, {signed(v['high'])}]"
        told.append(f"{claim.name}, {students}: {signed(v['difference'])} {interval} {words[students][-1]}")
    return {
        "n": int(min(result.verdict["n"] for result in decided)),
        "seeds": ", ".join(map(str, suite.seeds)),
        "comparisons": "; ".join(told),
        "all_supported": all(word == "supported" for own in words.values() for word in own),
        "contradicted_everywhere": all("contradicted" in own for own in words.values()),
    }


def verdict(numbers: dict[str, Any]) -> str:
    if numbers["all_supported"]:
        return "supported"
    return "contradicted" if numbers["contradicted_everywhere"] else "undecided"
