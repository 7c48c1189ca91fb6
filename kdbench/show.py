"""`kdbench show`: what is known of a suite, a pair, a cell or a run, on the terminal."""

from __future__ import annotations

import json

from kdbench import checkpoint, results
from kdbench.errors import unknown
from kdbench.plan import Plan
from kdbench.suite import typed
from kdbench.types import Block, KdbenchError, MethodSpec, Pair


def show(plan: Plan, pair: str | None, method: str | None, seed: int | None) -> None:
    """Print from coarse to fine. Raises KdbenchError that names the nearest pair, method or seed."""
    blocks = {p.id: b for b in plan.suite.blocks for p in b.pairs}
    if pair is None:
        for block in plan.suite.blocks:
            print(f"{block.name}: {block.title}")
            for p in block.pairs:
                _cells(plan, block, p)
        return
    if pair not in blocks:
        raise unknown("pair", pair, blocks, f"suite {plan.suite.name}")
    block = blocks[pair]
    the_pair = next(p for p in block.pairs if p.id == pair)
    if method is None:
        _cells(plan, block, the_pair)
        return
    methods = {m.id: m for m in block.methods}
    if method not in methods:
        raise unknown("method", method, methods, f"block {block.name}")
    if seed is None:
        for s in block.seeds:
            print(f"seed {s}: {_line(plan, the_pair, methods[method], s)}")
        return
    if seed not in block.seeds:
        raise unknown("seed", seed, block.seeds, f"block {block.name}")
    run = plan.run_of(the_pair, methods[method], seed)
    if not run.result.exists():
        raise KdbenchError(
            f"{pair} {method} seed {seed} is not trained yet; "
            f"run: snakemake --cores all --config suite={typed(plan.suite)}"
        )
    print(json.dumps(checkpoint.read_json(run.result), indent=1))


def _cells(plan: Plan, block: Block, pair: Pair) -> None:
    print(f"  {pair.id}")
    for method in block.methods:
        lines = [_line(plan, pair, method, seed) for seed in block.seeds]
        print(f"    {method.label:44} {'  '.join(lines)}")


def _line(plan: Plan, pair: Pair, method: MethodSpec, seed: int) -> str:
    run = plan.run_of(pair, method, seed)
    if not run.result.exists():
        return results.MISSING
    record = results.read_run(run.result)
    stale = "" if results.of_today(run, record) else " (of another config or code)"
    score = f"{record['accuracy']['test']:.2f}" if record["status"] == results.FINISHED else record["status"]
    return score + stale
