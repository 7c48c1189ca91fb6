"""Equal tuning: which main weight each method gets, chosen on validation from the same number of settings.

Every method with a main weight tries its default times each of the suite's factors, on one pair a student family, at
seeds that are not reported. The setting with the best validation accuracy of the last epoch, averaged over these seeds,
is that of all pairs of the family; of equal ones the one nearest to the default. A setting that failed at one seed has
no mean and comes after all that finished at every seed: a weight at which training may diverge is no recommendation.
Test accuracy decides nothing here.
"""

from __future__ import annotations

import math
import statistics
from typing import Any

from kdbench.files import write_json
from kdbench.plan.jobs import Plan, Run, tuning_runs
from kdbench.plan.paths import tuned_file
from kdbench.plan.registry import method_info
from kdbench.plan.suite import tuning_pair
from kdbench.results.record import FINISHED
from kdbench.results.today import Stale, Today
from kdbench.run.progress import say
from kdbench.types import KdbenchError


def choose(plan: Plan) -> list[dict[str, Any]]:
    """One choice a method and tuning pair: parameter, tried [{factor, value, runs, status, reason, val}] and the chosen
    factor and value.

    Raises KdbenchError when a setting has no result under today's config and code.
    """
    suite, today = plan.suite, Today(plan)
    choices: dict[tuple[str, str], dict[str, Any]] = {}
    for block in suite.blocks:
        for pair in block.pairs:
            for twin in (m for m in block.methods if m.tuned_from):
                judged = tuning_pair(suite.tune, suite.models, pair)
                if (judged.id, twin.tuned_from) not in choices:
                    tried = [
                        _tried(today, runs, twin.method, factor)
                        for runs, factor in zip(tuning_runs(suite, pair, twin), suite.tune.factors, strict=True)
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


def _tried(today: Today, runs: list[Run], method: str, factor: float) -> dict[str, Any]:
    """What became of a setting: `val` is its mean over the tuning seeds, None where a seed has none."""
    records = [_record(today, run) for run in runs]
    vals = [(record.get("accuracy") or {}).get("val") for record in records]
    worst = next((r for r in records if r["status"] != FINISHED), records[0])
    return {
        "factor": factor,
        "value": runs[0].method.params[method_info(method).main_weight],
        "runs": [str(run.result) for run in runs],
        "status": worst["status"],
        "reason": worst.get("reason"),
        "val": None if None in vals else statistics.fmean(vals),
    }


def _record(today: Today, run: Run) -> dict[str, Any]:
    try:
        return today.record(run)
    except Stale as reason:
        raise KdbenchError(f"tuning needs {run.result}: {reason}; run snakemake") from None


def run_tune(plan: Plan) -> None:
    """Choose the main weight of every tuned method from the settings that were tried."""
    if not plan.suite.tune:
        raise KdbenchError(f"suite {plan.suite.name} has no section tune")
    choices = choose(plan)
    write_json(tuned_file(plan.suite), {"seeds": plan.suite.tune.seeds, "choices": choices})
    for choice in choices:
        say(f"tuned {choice['pair']} {choice['method']}: {choice['parameter']} {choice['value']:g}")
