"""FD-CMKD, claim 2: does it beat distillation without its parts?

Its comparisons, their margin and their controls stand in config/claim-distillation.yaml: FD-CMKD‡ as written against
KD, against heads without a teacher, against random halves of the channels, and against a teacher that is shuffled or
untrained, each for students that hear and for students that see. This file reads its frozen runs.
"""

from __future__ import annotations

from typing import Any

from kdbench.claims._comparisons import comparisons, verdict_of
from kdbench.plan.suite import load_suite

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
FOUND = (
    "Over {n} seeds, method minus control in points: {comparisons}. Smallest differences that the spread over these "
    "seeds lets each comparison find with 80 % power: {detectable}."
)
LIMITS = (
    "A constructed, label-paired set of ten classes; the published tables are not re-run. Small networks; methods "
    "that exploit which sample belongs to which cannot show their strength here. Controls have the weight that was "
    "tuned for the method, so a shuffled or untrained teacher pulls as hard as the true one: these comparisons say "
    "that the teacher matters; whether it helps, heads without a teacher say."
)

SUITE, FIGURE = "claim-distillation", "directions-accuracy"


def run() -> dict[str, Any]:
    as_written = {claim.name for claim in load_suite(SUITE).claims if claim.method == "fdcmkd"}
    return comparisons(SUITE, as_written)


def verdict(numbers: dict[str, Any]) -> str:
    return verdict_of(numbers)
