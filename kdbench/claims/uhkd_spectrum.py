"""UHKD: does its gain come from the spectrum?

UHKD is known by its abstract; what is tested is the default reading that kdbench trains as UHKD† (docs/uhkd.md). Its
spatial twin, control C0, keeps the alignment module, the KL term and all weights and compares maps in place of spectra.
The runs are those of the suite glyphs-edition-1: nine pairs of CNN, ViT and MLP, five seeds, no method tuned.
"""

from __future__ import annotations

from kdbench.plan.paths import REFERENCES, found
from kdbench.report import stats
from kdbench.results.reference import Frozen

CLAIM = "A Fourier transform captures global feature information, and matching it carries over what maps alone do not."
SOURCE = "UHKD, arXiv 2510.24116, abstract"
CERTAINTY = ("paper", "ours")
CONTROL = "C0, the spatial twin: the same alignment, terms and weights without the transform"
RULE = (
    "UHKD† minus C0 in points of test accuracy, mean over headline pairs within a seed, 95 % t interval over seeds. "
    "Supported if the interval is above 0; contradicted if all of it is below 1.0 point; else undecided."
)
POWER = (
    "Five seeds, nine pairs; the result says which difference they find with 80 % power. The runs are older than this "
    "page: control and interval were chosen before them, the margin of 1.0 after."
)
FOUND = (
    "UHKD† minus C0 is {difference:+.1f} [{low:+.1f}, {high:+.1f}] points over {pairs} pairs and {n} seeds ({runs} "
    "runs). Detectable: {detectable:.1f}. UHKD† minus Scratch, spectrum and all: {gain:+.1f} [{gain_low:+.1f}, "
    "{gain_high:+.1f}]."
)
LIMITS = (
    "One reading of an abstract, small networks, one data set, short training. The paper itself may make other "
    "choices (docs/uhkd.md has a form for whoever knows it)."
)

SUITE, BLOCK, FIGURE = "glyphs-edition-1", "raster", "raster-verdict"


def run() -> dict[str, float]:
    runs = Frozen(found(REFERENCES / SUITE), f"kdbench reference {SUITE}").runs
    runs = runs[runs["block"] == BLOCK]
    twin, scratch = (stats.verdict(runs, baseline, ["uhkd"]).loc["uhkd"] for baseline in ("uhkd-c0", "scratch"))
    own = runs[runs["method"].isin(["uhkd", "uhkd-c0"])]
    return {
        "n": int(twin["n"]),
        "seeds": ", ".join(map(str, sorted(own["seed"].unique()))),
        "runs": len(own),
        "pairs": int(twin["pairs"]),
        "difference": twin["difference"],
        "low": twin["low"],
        "high": twin["high"],
        "detectable": stats.detectable(runs, "uhkd-c0", ["uhkd"]).verdict,
        "gain": scratch["difference"],
        "gain_low": scratch["low"],
        "gain_high": scratch["high"],
    }


def verdict(numbers: dict[str, float]) -> str:
    if numbers["low"] > 0:
        return "supported"
    return "contradicted" if numbers["high"] < 1 else "undecided"
