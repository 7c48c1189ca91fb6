"""`kdbench show`: what is known of a suite, a pair, a cell or a run, on the terminal."""

from __future__ import annotations

import json

from kdbench.errors import unknown
from kdbench.files import read_json
from kdbench.plan.jobs import Plan
from kdbench.plan.paths import of_budget
from kdbench.plan.suite import typed
from kdbench.results.record import FINISHED, MISSING, read_run
from kdbench.results.today import Stale, Today
from kdbench.types import Block, KdbenchError, MethodSpec, Pair


def show(plan: Plan, pair: str | None, method: str | None, seed: int | None) -> None:
    """Print from coarse to fine. Raises KdbenchError that names the nearest pair, method or seed."""
    today = Today(plan)
    blocks = {p.id: b for b in plan.suite.blocks for p in b.pairs}
    if pair is None:
        for block in plan.suite.blocks:
            print(f"{block.name}{of_budget(block.budget)}: {block.title}")
            for p in block.pairs:
                _cells(today, block, p)
        return
    if pair not in blocks:
        raise unknown("pair", pair, blocks, f"suite {plan.suite.name}")
    block = blocks[pair]
    the_pair = next(p for p in block.pairs if p.id == pair)
    if method is None:
        _cells(today, block, the_pair)
        return
    methods = {m.id: m for m in block.methods}
    if method not in methods:
        raise unknown("method", method, methods, f"block {block.name}")
    if seed is None:
        for s in block.seeds:
            print(f"seed {s}: {_line(today, block, the_pair, methods[method], s, explain=True)}")
        return
    if seed not in block.seeds:
        raise unknown("seed", seed, block.seeds, f"block {block.name}")
    run = plan.run_of(the_pair, methods[method], seed, block.budget)
    if not run.result.exists():
        raise KdbenchError(
            f"{pair} {method} seed {seed} is not trained yet; "
            f"run: snakemake --cores all --config suite={typed(plan.suite)}"
        )
    print(json.dumps(read_json(run.result), indent=1))


def _cells(today: Today, block: Block, pair: Pair) -> None:
    print(f"  {pair.id}")
    for method in block.methods:
        lines = [_line(today, block, pair, method, seed) for seed in block.seeds]
        print(f"    {method.label:44} {'  '.join(lines)}")


def _line(today: Today, block: Block, pair: Pair, method: MethodSpec, seed: int, explain: bool = False) -> str:
    run = today.plan.run_of(pair, method, seed, block.budget)
    if not run.result.exists():
        return MISSING
    try:
        record, stale = today.record(run), ""
    except Stale as reason:
        record, stale = read_run(run.result), f" (stale: {reason})" if explain else " (stale)"
    score = f"{record['accuracy']['test']:.2f}" if record["status"] == FINISHED else record["status"]
    return score + stale
