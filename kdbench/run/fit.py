"""Do the networks and recipes of a plan fit its data? What cannot be known from the YAML is asked here, when data are
packed and before a teacher trains: not after hours, when its first student starts."""

from __future__ import annotations

from collections.abc import Iterable

from kdbench.data.packed import Packed
from kdbench.plan.jobs import Plan
from kdbench.train import networks
from kdbench.train.batches import check_recipe
from kdbench.train.order import full_batches
from kdbench.types import KdbenchError, Pair


def check(plan: Plan, pack: Packed, pairs: Iterable[Pair]) -> None:
    """Try every network of some pairs of one data set, at its recipe's batch size, and every recipe.

    Raises KdbenchError that names model or recipe, what it was given and what is wrong.
    """
    suite, facts, tried = plan.suite, pack.meta["modalities"], set()
    for pair in pairs:
        for alone in (Pair(None, pair.teacher), pair):
            spec = suite.models[alone.student]
            # Students' batches are what a teacher that no recipe trains will see.
            recipe = suite.recipes[spec.recipe or suite.models[pair.student].recipe]
            inputs = {suite.models[name].input for name in (alone.teacher, alone.student) if name}
            check_recipe(recipe, {name: facts[name] for name in sorted(inputs)})
            if spec.name not in tried:
                tried.add(spec.name)
                try:
                    full_batches(pack.meta["counts"]["train"], recipe.global_batch)
                except KdbenchError as error:
                    raise KdbenchError(f"recipes.{recipe.name}: {error} (data set {pack.meta['name']!r})") from None
                shape, kind = tuple(facts[spec.input]["shape"]), facts[spec.input]["kind"]
                networks.try_out(spec, shape, len(pack.meta["class_names"]), recipe.batch_size, kind)


def pairs_of(plan: Plan, data: str, teacher: str | None = None) -> list[Pair]:
    """The pairs of a data set, or those that one teacher teaches."""
    pairs = {pair: None for block in plan.suite.blocks if block.data == data for pair in block.pairs}
    return [pair for pair in pairs if teacher in (None, pair.teacher)]
