"""Equal tuning: which main weight each method gets, chosen on validation from the same number of settings.

Every method with a main weight tries its default times each of the suite's factors, on one pair a student family, at a
seed that is not reported. The setting with the best validation accuracy of the last epoch is that of all pairs of the
family; of equal ones the one nearest to the default. Test accuracy decides nothing here.
"""

from __future__ import annotations

import math
from typing import Any

from kdbench import checkpoint, results
from kdbench.plan import Plan, Run, tuned_file, tuning_runs
from kdbench.registry import method_info
from kdbench.suite import tuning_pair
from kdbench.types import Block, KdbenchError


def choose(plan: Plan) -> list[dict[str, Any]]:
    """One choice a method and tuning pair: parameter, default, tried [{factor, value, status, val}], factor, value.

    Raises KdbenchError when a setting has no result under today's config and code.
    """
    suite = plan.suite
    choices: dict[tuple[str, str], dict[str, Any]] = {}
    for block in suite.blocks:
        for pair in block.pairs:
            for twin in (m for m in block.methods if m.tuned_from):
                judged = tuning_pair(suite.tune, suite.models, pair)
                if (judged.id, twin.tuned_from) not in choices:
                    tried = [
                        _tried(run, twin.method, factor)
                        for run, factor in zip(tuning_runs(suite, pair, twin), suite.tune.factors, strict=True)
                    ]
                    choices[judged.id, twin.tuned_from] = {
                        "pair": judged.id,
                        "family": suite.models[judged.student].family,
                        "method": twin.tuned_from,
                        "parameter": method_info(twin.method).main_weight,
                        "tried": tried,
                        **best(tried),
                    }
    return list(choices.values())


def best(tried: list[dict[str, Any]]) -> dict[str, Any]:
    """{"factor", "value"} of the setting that does best on validation; where none finished, of that nearest to the
    default, whose own runs will say why."""
    scored = [t for t in tried if t["val"] is not None] or tried
    first = max(scored, key=lambda t: (t["val"] or 0.0, -abs(math.log(t["factor"]))))
    return {"factor": first["factor"], "value": first["value"]}


def _tried(run: Run, method: str, factor: float) -> dict[str, Any]:
    record = results.read_run(run.result) if run.result.exists() else None
    if record is None or not results.of_today(run, record):
        raise KdbenchError(f"tuning needs {run.result}, which is missing or of another config or code; run snakemake")
    return {
        "factor": factor,
        "value": run.method.params[method_info(method).main_weight],
        "run": str(run.result),
        "status": record["status"],
        "reason": record.get("reason"),
        "val": (record.get("accuracy") or {}).get("val"),
    }


class Tuned:
    """The choices of a suite as they lie on disk, if they are there."""

    def __init__(self, plan: Plan) -> None:
        self.suite = plan.suite
        path = tuned_file(plan.suite)
        found = checkpoint.read_json(path, "choices")["choices"] if plan.suite.tune and path.exists() else []
        self.choices = {(choice["pair"], choice["method"]): choice for choice in found}

    def of_block(self, block: Block) -> list[dict[str, Any]]:
        """The choices that the tuned rows of a block rest on."""
        twins = [m.tuned_from for m in block.methods if m.tuned_from]
        pairs = [tuning_pair(self.suite.tune, self.suite.models, p).id for p in block.pairs] if twins else []
        return [c for (pair, method), c in self.choices.items() if pair in pairs and method in twins]

    def of(self, run: Run) -> dict[str, Any] | None:
        """{parameter: value} of a tuned run; None for any other run, and where nothing has been chosen yet."""
        if not run.method.tuned_from:
            return None
        judged = tuning_pair(self.suite.tune, self.suite.models, run.pair)
        choice = self.choices.get((judged.id, run.method.tuned_from))
        return choice and {choice["parameter"]: choice["value"]}
