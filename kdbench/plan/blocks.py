"""The sections methods, blocks, tune, claims and paper of a suite: YAML -> checked specifications of types.py.

Here a method becomes a row: with its preset, as a control, as one of its readings, or as a tuned twin.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable
from typing import Any

from kdbench.errors import unknown
from kdbench.plan.registry import Parameter, check_params, method_info, method_names
from kdbench.plan.trees import NOTHING, built, checked, listed, mapping, seeds_of, text_of, unknown_key
from kdbench.types import Block, Claim, KdbenchError, MethodSpec, ModelSpec, Pair, Paper, Tune

GROUPS = ("reference", "logits", "features", "frequency", "cross-modal", "controls")
GUIDES = ("untrained", "shuffled")
"""Teachers of the controls `METHOD@untrained` and `METHOD@shuffled`."""
ALSO = ("agreement", "ece", "groups")


def method_of(name: str, tree: Any, where: str) -> MethodSpec:
    args = dict(mapping(tree if tree is not None else {}, where))
    label, short = args.pop("label", None), args.pop("short", None)
    tune = Parameter("bool", True).check(args.pop("tune", True), f"{where}.tune")
    for key, text in (("label", label), ("short", short)):
        if text is not None:
            text_of(text, f"{where}.{key}")
    method = text_of(args.pop("method", name), f"{where}.method")
    known = _params_of(method, where)
    info = method_info(method)
    preset = args.pop("preset", None)
    if preset is not None and text_of(preset, f"{where}.preset") not in info.presets:
        raise unknown("preset", preset, info.presets, where)
    own = info.presets.get(preset, {})
    params = {key: p.default for key, p in known.items()} | checked(own | args, known, where)
    check_params(method, params, where)
    if info.group not in GROUPS:
        raise unknown("GROUP", info.group, GROUPS, str(info.path))
    added_kd = params.get("kd_weight") and not own.get("kd_weight", known["kd_weight"].default)
    tail = info.mark + ("+KD" if added_kd else "") + (f" ({label or preset})" if label or preset else "")
    return MethodSpec(
        name,
        method,
        params,
        info.title + tail,
        info.group,
        info.footnote,
        short=short or (info.short or info.title) + tail,
        harness=None if params.get("teacher", True) is False else preset or info.harness,
        tune=tune,
    )


def block_of(
    name: str, tree: Any, data: dict, recipes: dict, models: dict, methods: dict, seeds: tuple[int, ...], where: str
) -> Block:
    tree = mapping(tree, where)
    keys = ("title", "data", "pairs", "methods", "seeds", "budgets", "budget", "scratch_budgets", "readings", "weights")
    keys += ("layout", "table")
    for key in tree:
        if key not in keys:
            raise unknown_key(key, keys, where)
    for key in ("data", "pairs", "methods"):
        if tree.get(key) in NOTHING:
            raise KdbenchError(f"{where}: the key {key!r} is missing or empty")
    if text_of(tree["data"], f"{where}.data") not in data:
        raise unknown("data set", tree["data"], data, where)
    pairs = tuple(
        _pair(text, tree["data"], models, f"{where}.pairs") for text in listed(tree["pairs"], f"{where}.pairs")
    )
    names = listed(tree["methods"], f"{where}.methods")
    specs = tuple(_method_of_block(m, methods, f"{where}.methods") for m in names)
    for items, kind in ((pairs, "pair"), (specs, "method")):
        ids = [item.id for item in items]
        if repeated := sorted({i for i in ids if ids.count(i) > 1}):
            raise KdbenchError(f"{where}: {kind} {repeated[0]!r} is listed twice")
    chosen = seeds_of(tree["seeds"], where) if "seeds" in tree else seeds
    for seed in chosen:
        if seed not in seeds:
            raise unknown("seed", seed, seeds, f"{where}: seeds (the suite's are {', '.join(map(str, seeds))})")
    budgets = tuple(listed(tree.get("budgets", [1]), f"{where}.budgets"))
    alone = tuple(listed(tree["scratch_budgets"], f"{where}.scratch_budgets")) if "scratch_budgets" in tree else ()
    _check_budgets(budgets, pairs, recipes, models, f"{where}.budgets")
    _check_budgets((*budgets, *alone), pairs, recipes, models, f"{where}.scratch_budgets")
    if alone and not any(spec.id == "scratch" for spec in specs):
        raise KdbenchError(f"{where}.scratch_budgets: scratch is not among the methods of this block")
    budget = tree.get("budget", max(budgets))
    if isinstance(budget, bool) or budget not in budgets:
        raise unknown("budget", budget, budgets, f"{where}.budget")
    names_of_readings = [] if tree.get("readings") in NOTHING else listed(tree["readings"], f"{where}.readings")
    readings = tuple(
        _readings(spec, f"{where}.readings")
        for spec in (_method_of_block(m, methods, f"{where}.readings") for m in names_of_readings)
    )
    options = {
        f.name: Parameter(f.type, None).check(tree[f.name], f"{where}.{f.name}")
        for f in dataclasses.fields(Block)
        if f.name in tree and f.name in ("weights", "layout")
    }
    title = str(tree.get("title", name))
    block = Block(name, title, tree["data"], pairs, specs, chosen, budgets, budget, alone, readings, **options)
    return _with_table(block, tree["table"], f"{where}.table") if "table" in tree else block


def _check_budgets(budgets: tuple, pairs: Iterable[Pair], recipes: dict, models: dict, where: str) -> None:
    """Refuse budgets by which the recipe of a student cannot be multiplied."""
    for budget in budgets:
        if Parameter("float", None).check(budget, where) <= 0:
            raise KdbenchError(f"{where}: must be positive, got {budget}")
    if len({f"{budget:g}" for budget in budgets}) < len(budgets):
        raise KdbenchError(f"{where}: a budget is listed twice in {list(budgets)}")
    for pair, budget in itertools.product(pairs, budgets):
        try:
            recipes[models[pair.student].recipe].times(budget)
        except KdbenchError as error:
            raise KdbenchError(f"{where}: {error}") from None


def _with_table(block: Block, tree: Any, where: str) -> Block:
    """What the table of a block shows: `rows` (methods), `columns` (pairs), `baselines` (methods), `also` (ALSO)."""
    methods = {m.id: m.id for m in block.methods}
    pairs = {text: pair.id for text, pair in _as_written(block.pairs).items()}
    known = {"rows": methods, "columns": pairs, "baselines": methods, "also": {name: name for name in ALSO}}
    kinds = {"columns": "pair", "also": "table"}
    picked = {}
    for key, values in mapping(tree, where).items():
        if key not in known:
            raise unknown_key(key, known, where)
        for value in listed(values, f"{where}.{key}"):
            if text_of(value, f"{where}.{key}") not in known[key]:
                raise unknown(kinds.get(key, "method"), value, known[key], f"{where}.{key}")
        picked[key] = tuple(known[key][value] for value in values)
    block = dataclasses.replace(block, **picked)
    for baseline in picked.get("baselines", ()):
        if baseline not in {m.id for m in block.shown.methods}:
            raise KdbenchError(f"{where}.baselines: {baseline!r} is not among the rows")
    return block


def _readings(spec: MethodSpec, where: str) -> tuple[MethodSpec, tuple[MethodSpec, ...]]:
    """A method and one spec for each combination of what its sources leave open."""
    open_choices = method_info(spec.method).readings
    if not open_choices:
        raise KdbenchError(f"{where}: {spec.method!r} has one reading only: its file has no READINGS")
    result = []
    for values in itertools.product(*open_choices.values()):
        params = spec.params | dict(zip(open_choices, values, strict=True))
        check_params(spec.method, params, where)
        words = ", ".join(map(str, values))
        result.append(
            dataclasses.replace(
                spec,
                id=f"{spec.id}@{'-'.join(map(str, values))}",
                params=params,
                label=words,
                short=words,
                variant_of=spec.stream,
            )
        )
    return spec, tuple(result)


def tune_of(
    tree: Any, blocks: tuple[Block, ...], recipes: dict, models: dict, seeds: tuple[int, ...], where: str
) -> Tune:
    args = dict(mapping(tree, where))
    texts = listed(args.pop("pairs", None), f"{where}.pairs")
    known = _as_written(p for block in blocks for p in block.pairs)
    pairs = []
    for text in texts:
        normal = " -> ".join(part.strip() for part in str(text).split("->"))
        if normal not in known:
            raise unknown("pair", normal, known, f"{where}.pairs")
        pairs.append(known[normal])
    if ("seed" in args) == ("seeds" in args):
        raise KdbenchError(f"{where}: give exactly one of seed and seeds")
    args["seeds"] = list(seeds_of([args.pop("seed")] if "seed" in args else args["seeds"], where))
    if reported := [seed for seed in args["seeds"] if seed in seeds]:
        raise KdbenchError(f"{where}: seeds: {reported[0]} is among the reported seeds {list(seeds)}; give another")
    args.setdefault("budget", max(block.budget for block in blocks if set(block.pairs) & set(pairs)))
    tune = built(Tune, args, where, pairs=tuple(pairs))
    _check_budgets((tune.budget,), tune.pairs, recipes, models, f"{where}.budget")
    grid = {"factors": tune.factors} | ({"temperatures": tune.temperatures} if tune.temperatures else {})
    for key, values in grid.items():
        if len({f"{v:g}" for v in values}) < max(2, len(values)) or min(values) <= 0:  # as their settings are named
            raise KdbenchError(f"{where}.{key}: expected two or more different positive numbers, got {values}")
    return tune


def claim_of(name: str, tree: Any, methods: set[str], where: str) -> Claim:
    """Its methods need not meet in a block: a suite that extends another may take the claims and drop a block."""
    claim = built(Claim, mapping(tree, where), where, name=name)
    for method in (claim.method, claim.control):
        if method not in methods:
            raise unknown("method", method, methods, where)
    if claim.method == claim.control:
        raise KdbenchError(f"{where}: {claim.method!r} is its own control")
    if claim.margin is not None and claim.margin < 0:
        raise KdbenchError(f"{where}.margin: must not be negative, got {claim.margin}")
    return claim


def paper_of(tree: Any, blocks: tuple[Block, ...], models: dict[str, ModelSpec], where: str) -> Paper:
    """Methods go by the ids of the blocks' rows, pairs as blocks write them."""
    paper = built(Paper, mapping(tree, where), where)
    methods = {m.id for block in blocks for m in block.methods}
    pairs = _as_written(p for block in blocks for p in block.pairs)
    for kind, chosen, known in (
        ("method", paper.rows, methods),
        ("pair", paper.columns, pairs),
        ("method or model", paper.names, methods | models.keys()),
    ):
        for name in chosen:
            if name not in known:
                raise unknown(kind, name, known, where)
    for name, text in paper.names.items():
        text_of(text, f"{where}.names.{name}")
    if paper.width <= 0:
        raise KdbenchError(f"{where}.width: must be positive, got {paper.width}")
    return dataclasses.replace(paper, columns=tuple(pairs[text].id for text in paper.columns))


def tuning_pair(tune: Tune, models: dict[str, ModelSpec], pair: Pair) -> Pair | None:
    """The pair on which the weights for this one are chosen: same data, same student family, both across modalities
    or both within one; if there are several, one whose student reads the same modality."""

    def kind(p: Pair) -> tuple:
        teacher, student = models[p.teacher], models[p.student]
        return student.data, student.family, teacher.input == student.input

    like = [p for p in tune.pairs if kind(p) == kind(pair)]
    same = (p for p in like if models[p.student].input == models[pair.student].input)
    return next(same, like[0] if like else None)


def with_weights(block: Block, tune: Tune | None, models: dict[str, ModelSpec], where: str) -> Block:
    """The block with a tuned twin after each method that has a main weight, or in its place; a block without a tuning
    pair as it is."""
    if block.weights == "default":
        return block
    found = {pair.id: tune and tuning_pair(tune, models, pair) for pair in block.pairs}
    if not any(found.values()):
        if block.weights == "tuned":
            raise KdbenchError(
                f"{where}.weights: nothing is tuned here: no pair in tune.pairs is like one of this block"
            )
        return block
    for pair in block.pairs:
        if found[pair.id] is None:
            raise KdbenchError(
                f"{where}: no pair in tune.pairs can choose weights for {pair.teacher} -> {pair.student}: it takes one "
                f"with a {models[pair.student].family} student on the same data"
            )
    alone = block.weights == "tuned"
    stands = {}
    for spec in block.methods:
        twins = _twins(spec, controls=alone)
        stands[spec.id] = twins if alone and twins else [spec, *twins]
    return dataclasses.replace(
        block,
        methods=tuple(itertools.chain.from_iterable(stands.values())),
        rows=tuple(m.id for id in block.rows for m in stands[id]),
        baselines=tuple(dict.fromkeys(stands[id][0].id if id in stands else id for id in block.baselines)),
    )


def _twins(spec: MethodSpec, controls: bool) -> list[MethodSpec]:
    """The tuned twin of a method, where it has a main weight to tune."""
    weight = method_info(spec.method).main_weight
    tuned = weight and spec.tune and spec.needs_teacher and spec.params[weight]
    if not (tuned and (controls or spec.guide == "trained")):
        return []
    twin = dataclasses.replace(
        spec,
        id=f"{spec.id}-tuned",
        label=f"{spec.label}, tuned",
        short=f"{spec.short}, tuned",
        harness=None,
        tuned_from=spec.id,
        variant_of=spec.stream,
    )
    return [twin]


def _as_written(pairs: Iterable[Pair]) -> dict[str, Pair]:
    return {f"{pair.teacher} -> {pair.student}": pair for pair in pairs}


def _pair(text: Any, data: str, models: dict, where: str) -> Pair:
    if not isinstance(text, str) or text.count("->") != 1:
        raise KdbenchError(f"{where}: expected 'teacher -> student', got {text!r}")
    teacher, student = (part.strip() for part in text.split("->"))
    for role, name in (("teacher", teacher), ("student", student)):
        if name not in models:
            raise unknown(role, name, models, where)
        if models[name].data != data:
            raise KdbenchError(f"{where}: {role} {name!r} reads {models[name].data!r}, but this block is on {data!r}")
    if models[student].is_given:
        raise KdbenchError(f"{where}: student {student!r} has given weights, and students start at random")
    return Pair(teacher, student)


def check_shuffled(block: Block, models: dict, recipes: dict, where: str) -> None:
    """Refuse to shuffle a teacher's signals within batches of one sample."""
    for method in (m for m in block.trained if m.guide == "shuffled"):
        for recipe in (recipes[models[pair.student].recipe] for pair in block.pairs):
            if recipe.batch_size < 2:
                raise KdbenchError(
                    f"{where}: {method.id} shuffles the samples of a batch, so the batch_size of recipes.{recipe.name} "
                    "must be at least 2"
                )


def _method_of_block(name: Any, methods: dict, where: str) -> MethodSpec:
    if not isinstance(name, str):
        raise KdbenchError(f"{where}: expected the name of a method, got {name!r}")
    if name in methods:
        return methods[name]
    if "@" in name:
        own, control = name.split("@", 1)
        spec = _method_of_block(own, methods, where)
        if spec.method == "scratch" and control not in GUIDES:
            return _equal_compute(spec, _method_of_block(control, methods, where), where)
        return _control(spec, control, where)
    if name not in method_names():
        raise unknown("method", name, [*methods, *method_names()], where)
    return method_of(name, {}, where)


def _equal_compute(spec: MethodSpec, other: MethodSpec, where: str) -> MethodSpec:
    """Scratch, trained for as many operations as another method."""
    if other.group == "controls" or other.method == spec.method:
        raise KdbenchError(
            f"{where}: {spec.id} takes the compute of a method, and {other.id!r} is a control or Scratch"
        )
    return dataclasses.replace(
        spec,
        id=f"{spec.id}@{other.id}",
        label=f"{spec.label}, compute of {other.label}",
        short=f"{spec.short}, compute of {other.short}",
        group="controls",
        variant_of=spec.id,
        compute_of=other,
    )


def _control(spec: MethodSpec, guide: str, where: str) -> MethodSpec:
    """A method, everything equal but the teacher that it gets to see."""
    if not spec.needs_teacher:
        raise KdbenchError(f"{where}: {spec.id!r} has no teacher that could be {guide!r}")
    if guide not in GUIDES:
        raise unknown("control", guide, GUIDES, f"{where}: {spec.id}")
    return dataclasses.replace(
        spec,
        id=f"{spec.id}@{guide}",
        label=f"{spec.label}, {guide} teacher",
        short=f"{spec.short}, {guide}",
        harness=None,
        group="controls",
        variant_of=spec.id,
        guide=guide,
    )


def _params_of(method: Any, where: str) -> dict[str, Parameter]:
    try:
        return method_info(str(method)).params
    except KdbenchError as error:
        raise KdbenchError(f"{where}: {error}") from None
