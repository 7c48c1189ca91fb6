"""UCMKD: does its published form gain over cross-entropy, or over BatchNorm that stands still?

The comparisons, their margin and their controls stand in config/claim-ucmkd.yaml, each for students that hear and for
students that see. This file reads its frozen runs.
"""

from __future__ import annotations

from typing import Any

from kdbench.claims._comparisons import comparisons, verdict_of

CLAIM = "Two inner steps towards a teacher of another modality gain over cross-entropy (bilevel)."
SOURCE = "UCMKD, ICML 2026, arXiv 2606.10504; Duckduck-05/UCMKD at 2658b06"
CERTAINTY = ("code", "ours")
CONTROL = (
    "cross-entropy that trains in the same mode, and the method with an untrained teacher; beside them cross-entropy "
    "whose BatchNorm is frozen after the first epoch, as in the released scripts"
)
RULE = (
    "Each comparison is decided in each direction by the margin of the suite: supported if the difference exceeds it "
    "and the 95 % t interval over seeds is above 0, contradicted if the interval is below the margin, else undecided. "
    "The claim is supported if the method minus cross-entropy (proper) and the method minus itself with an untrained "
    "teacher (knowledge) are in both directions, contradicted if in each direction at least one is contradicted, else "
    "undecided. The others decide nothing: the published comparison (published), cross-entropy minus cross-entropy "
    "with BatchNorm frozen (batchnorm), the method minus itself with a shuffled teacher (sample), and its plain sum "
    "minus cross-entropy (sumall) and minus itself with an untrained teacher (sumall-knowledge)."
)
POWER = (
    "Six paired seeds and a margin of 1.0 point; published gains over cross-entropy are 4.7 (CREMA-D, audio), 6.5 "
    "(AVE, pictures) and 8.4 points (RAVDESS, pictures). The comparison `sample` shows how far apart two runs lie that "
    "differ by rounding alone."
)
FOUND = (
    "Over {n} seeds, method minus control in points: {comparisons}. Beside them: {beside}. Smallest differences that "
    "the spread over these seeds lets each deciding comparison find with 80 % power: {detectable}."
)
LIMITS = (
    "A constructed, label-paired set of ten classes; the published tables are not re-run, and whether they were made "
    "by the released code is not known. Small networks, 20 epochs of 31 steps, a shared recipe that is not UCMKD's but "
    "for its largest gradient norm; a first epoch here is 5 % of the training, and about 1 % there."
)

SUITE, FIGURE = "claim-ucmkd", "directions-accuracy"
DECIDE = ("proper", "knowledge")
BESIDE = ("published", "batchnorm", "sample", "sumall", "sumall-knowledge")


def run() -> dict[str, Any]:
    return comparisons(SUITE, DECIDE) | {"beside": comparisons(SUITE, BESIDE)["comparisons"]}


def verdict(numbers: dict[str, Any]) -> str:
    return verdict_of(numbers)
