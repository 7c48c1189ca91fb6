"""Equal tuning: which main weight each method gets, chosen on validation from the same grid of factors.

Every method with a main weight tries its default times each of the suite's factors, on one pair a student family, at
seeds that are not reported. A method whose file names a TUNE_TEMPERATURE tries each factor with each of the suite's
temperatures. The setting with the best validation accuracy of the last epoch, averaged over these seeds, is that of all
pairs of the family; of equal ones the one nearest to the default. A setting that failed at one seed has no mean and
comes after all that finished at every seed: a weight at which training may diverge is no recommendation. Test accuracy
decides nothing here.
"""

from __future__ import annotations

import math
import statistics
from typing import Any

from kdbench.files import write_json
from kdbench.plan.blocks import tuning_pair
from kdbench.plan.jobs import Plan, Run, tuning_grid, tuning_runs
from kdbench.plan.paths import tuned_file
from kdbench.plan.registry import method_info
from kdbench.results.record import FINISHED
from kdbench.results.today import Stale, Today
from kdbench.run.progress import say
from kdbench.types import KdbenchError, MethodSpec


def choose(plan: Plan) -> list[dict[str, Any]]:
    """One choice a method and tuning pair: parameter, tried [{factor, value, runs, status, reason, val}], the chosen
    factor and value, and edge: at which ends of the grid these lie. With temperatures, `temperature` beside each factor
    and `default_temperature`.

    Raises KdbenchError when a setting has no result under today's config and code.
    """
    suite, today = plan.suite, Today(plan)
    choices: dict[tuple[str, str], dict[str, Any]] = {}
    for block in suite.blocks:
        for pair in block.pairs:
            for twin in (m for m in block.methods if m.tuned_from):
                judged = tuning_pair(suite.tune, suite.models, pair)
                if (judged.id, twin.stream) not in choices:
                    choices[judged.id, twin.stream] = {
                        "pair": judged.id,
                        "family": suite.models[judged.student].family,
                        "method": twin.stream,
                        **_choice(today, twin, tuning_runs(suite, pair, twin)),
                    }
    return list(choices.values())


def _choice(today: Today, twin: MethodSpec, runs: list[list[Run]]) -> dict[str, Any]:
    info, tried = method_info(twin.method), []
    grid = tuning_grid(today.plan.suite.tune, twin.method)
    for (factor, temperature), own in zip(grid, runs, strict=True):
        value = own[0].method.params[info.main_weight]
        at = {} if temperature is None else {"temperature": temperature}
        tried.append({"factor": factor, "value": value, **at, **_result(today, own)})
    choice = {"parameter": info.main_weight, "tried": tried}
    if "temperature" in tried[0]:
        choice["default_temperature"] = twin.params[info.tune_temperature]
    chosen = best(tried, choice.get("default_temperature", 1.0))
    return {**choice, **chosen, "edge": edges(tried, chosen)}


def best(tried: list[dict[str, Any]], default_temperature: float = 1.0) -> dict[str, Any]:
    """{"factor", "value"}, with temperatures "temperature" too, of the setting that does best on validation; where none
    finished at every seed, of that nearest to the default, whose own runs will say why.

    How far a setting lies from the default is the sum of |log| of its two ratios to it.
    """

    def distance(setting: dict[str, Any]) -> float:
        ratio = setting.get("temperature", default_temperature) / default_temperature
        return abs(math.log(setting["factor"])) + abs(math.log(ratio))

    scored = [t for t in tried if t["val"] is not None] or tried
    # Rounded, since means over seeds that got as many samples right may differ in their last bit.
    first = max(scored, key=lambda t: (round(t["val"] or 0.0, 9), -distance(t)))
    return {name: first[name] for name in ("factor", "value", "temperature") if name in first}


def edges(tried: list[dict[str, Any]], chosen: dict[str, Any]) -> list[str]:
    """At which ends of what was tried a choice lies, such as "highest factor": a better one may lie beyond. None where
    no setting finished, since nothing was chosen by its accuracy then."""
    if all(t["val"] is None for t in tried):
        return []
    found = []
    for name in (name for name in ("factor", "temperature") if name in chosen):
        values = [t[name] for t in tried]
        ends = {"lowest": min(values), "highest": max(values)}
        found += [f"{word} {name}" for word, end in ends.items() if chosen[name] == end]
    return found


def _result(today: Today, runs: list[Run]) -> dict[str, Any]:
    """What became of a setting: `val` is its mean over the tuning seeds, None where one of them did not finish."""
    records = [_record(today, run) for run in runs]
    lost = [record for record in records if record["status"] != FINISHED]
    reason = lost[0].get("reason") if lost else None
    return {
        "runs": [str(run.result) for run in runs],
        "status": lost[0]["status"] if lost else FINISHED,
        "reason": f"at {len(lost)} of {len(runs)} seeds: {reason}" if lost and len(runs) > 1 else reason,
        "val": None if lost else statistics.fmean(record["accuracy"]["val"] for record in records),
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
        temperature = f", temperature {choice['temperature']:g}" if "temperature" in choice else ""
        edge = f" (at the edge of the grid: {', '.join(choice['edge'])})" if choice["edge"] else ""
        say(f"tuned {choice['pair']} {choice['method']}: {choice['parameter']} {choice['value']:g}{temperature}{edge}")
