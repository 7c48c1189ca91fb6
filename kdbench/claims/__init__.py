"""Published claims put to the test, a file a claim; what begins with an underscore is a helper.

A file holds, in this order, what the page says and what the numbers decide:

    CLAIM, SOURCE, CERTAINTY    the claim, where it was made, and how it is known to us
    CONTROL                     the null model or control that it is held against
    RULE, POWER                 how numbers become a verdict, and what would have been seen; written before the run
    FOUND                       the result in a sentence, with places for the numbers
    LIMITS                      what the test does not show
    run() -> dict               the numbers, with "n" and "seed" or "seeds"
    verdict(numbers) -> str     RULE as code: one of VERDICTS
    SUITE, FIGURE               of a claim that needs trained networks: whose committed runs it reads, and which of
                                that suite's figures shows them

A result file keeps RULE and POWER as they stood when it was computed, and a test compares them with the claim's file:
a rule cannot be changed after its result. docs/claims.md is made from the committed results and from nothing else.
"""

from __future__ import annotations

import importlib
import pkgutil
import time
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType
from typing import Any

from kdbench.errors import unknown
from kdbench.files import read_json, write_json
from kdbench.plan import paths
from kdbench.plan.paths import REFERENCES, RESULTS

VERDICTS = ("supported", "contradicted", "undecided")
CERTAINTIES = {
    "paper": "read in the paper or its abstract",
    "code": "read in public code, at the commit named",
    "3rd": "transcribed by a third party",
    "recalled": "remembered, not read again",
    "ours": "our computation",
}
COMMITTED = REFERENCES / "claims"


def names() -> list[str]:
    """All claims, by name."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__) if not module.name.startswith("_"))


def load(name: str) -> ModuleType:
    """The file of a claim. Raises KdbenchError that names the nearest one."""
    if name not in names():
        raise unknown("claim", name, names())
    return importlib.import_module(f"{__name__}.{name}")


def run_claim(name: str) -> Path:
    """Compute a claim's numbers on one thread and write results/claims/NAME.json.

    Raises KdbenchError for an unknown claim, and where the committed runs that a claim reads do not exist.
    """
    import torch

    from kdbench.results import provenance

    claim = load(name)
    torch.set_num_threads(1)
    start = time.perf_counter()
    numbers = claim.run()
    path = RESULTS / "claims" / f"{name}.json"
    write_json(
        path,
        {
            "claim": name,
            "rule": claim.RULE,
            "power": claim.POWER,
            "numbers": numbers,
            "verdict": claim.verdict(numbers),
            "seconds": round(time.perf_counter() - start, 1),
            "date": datetime.now(UTC).date().isoformat(),
            "hardware": provenance.hardware_line(provenance.hardware(torch.device("cpu"), 1)),
            "versions": provenance.versions(),
        },
    )
    return path


def committed(name: str) -> dict[str, Any] | None:
    """The committed result of a claim; None where it has not been run."""
    path = paths.found(COMMITTED / f"{name}.json")
    return read_json(path, "rule", "power", "numbers", "verdict") if path.exists() else None


def found(claim: ModuleType, result: dict[str, Any]) -> str:
    """What a result says, in the claim's own sentence."""
    return claim.FOUND.format(**result["numbers"])
