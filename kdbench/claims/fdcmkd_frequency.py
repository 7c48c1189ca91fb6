"""FD-CMKD, claim 1 on open data: do two modalities agree in low channel frequencies and not in high ones?

Spoken and written digits, paired by their label (config/claim-frequency.yaml, whose banner is RULE). Networks that were
trained apart share no basis, so a cosine of their channels says nothing by itself: features are rotated onto each other
first. What the published measure gives on the same features, channel mean kept, stands beside it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from kdbench.plan.suite import load_suite
from kdbench.report.stats import paired_t_interval
from kdbench.results.reference import Reference

CLAIM = "Low-frequency features of two modalities agree and high-frequency ones do not: spoken and written digits."
SOURCE = "FD-CMKD, AAAI 2026, arXiv 2511.19887"
CERTAINTY = ("3rd", "code", "ours")
CONTROL = "200 random half-splits of the same features, shuffled pairs, permuted channels, untrained networks"
RULE = (
    "Test features, their validation mean taken off, are rotated onto the other modality (Procrustes, fitted on "
    "validation) and cut into bands without the channel mean. Supported if in every seed the cosine of the low band "
    "minus that of the high one lies above the 97.5 % quantile of 200 random half-splits and of shuffled pairs, and "
    "its 95 % t interval over seeds is above 0. Contradicted if that interval is below 0.1 (published: 0.93) while in "
    "every seed the whole features agree more than shuffled pairs, so that there was something to see. Else undecided."
)
POWER = (
    "Five seeds of 200 test pairs. Half-splits of 128 channels differ by about 0.04 to either side, so a seed shows a "
    "difference of 0.05. The whole rotated features are the positive control: pairs share their class by construction."
)
FOUND = (
    "Over {n} seeds, rotated: whole features {raw:.2f}, low band {low:.2f}, high band {high:.2f}; low minus high "
    "{difference:+.3f} [{difference_low:+.3f}, {difference_high:+.3f}], random half-splits {split_low:+.3f} to "
    "{split_high:+.3f}; above them in {seeds_above} seeds, whole features above shuffled pairs in {seeds_alike}. As "
    "published, channel mean kept: raw {kept_raw:.2f}, low {kept_low:.2f} (a shared mean alone predicts "
    "{kept_predicted:.2f}), high {kept_high:.2f}; channel mean removed: low {removed_low:.2f}; untrained networks: "
    "low {untrained_low:.2f}. Unbiased CKA of the whole features: {cka:.2f}."
)
LIMITS = (
    "A constructed, label-paired set of ten classes; the published tables are not re-run. Small networks; a negative "
    "result says that the mechanism is not needed here, not that the published gains are wrong."
)

SUITE, FIGURE = "claim-frequency", "crossmodal-channels"


def run() -> dict[str, Any]:
    suite = load_suite(SUITE)
    (block,) = suite.blocks
    (document,) = Reference(suite).documents(block, "channels")
    seeds = list(block.seeds)

    def rows(part: str, **wanted: str) -> list[dict[str, Any]]:
        return [row for row in document[part] if all(row[key] == value for key, value in wanted.items())]

    def mean(found: Iterable[dict[str, Any]], column: str = "cosine") -> float:
        return paired_t_interval([row[column] for row in found]).mean

    bands = {band: rows("rotated", band=band) for band in ("raw", "low", "high", "low - high")}
    difference = paired_t_interval([row["cosine"] for row in bands["low - high"]])
    kept = {band: rows("rows", treatment="DC kept", band=band) for band in ("raw", "low", "high")}
    untrained = [
        row for row in rows("others", treatment="DC kept", band="low") if row["networks"].endswith("untrained")
    ]
    above = [row["cosine"] > max(row["split_high"], row["shuffled_high"]) for row in bands["low - high"]]
    return {
        "n": len(seeds),
        "seeds": ", ".join(map(str, seeds)),
        **{band: mean(bands[band]) for band in ("raw", "low", "high")},
        "difference": difference.mean,
        "difference_low": difference.low,
        "difference_high": difference.high,
        "split_low": mean(bands["low - high"], "split_low"),
        "split_high": mean(bands["low - high"], "split_high"),
        "seeds_above": sum(above),
        "seeds_alike": sum(row["cosine"] > row["shuffled_high"] for row in bands["raw"]),
        **{f"kept_{band}": mean(own) for band, own in kept.items()},
        "kept_predicted": mean(kept["low"], "null_prediction"),
        "removed_low": mean(rows("rows", treatment="DC removed", band="low")),
        "untrained_low": mean(untrained),
        "cka": mean(rows("cka", treatment="DC kept", band="raw"), "cka"),
    }


def verdict(numbers: dict[str, Any]) -> str:
    if numbers["seeds_above"] == numbers["n"] and numbers["difference_low"] > 0:
        return "supported"
    seen = numbers["seeds_alike"] == numbers["n"]
    return "contradicted" if seen and numbers["difference_high"] < 0.1 else "undecided"
