"""YAML -> checked Suite. Every mistake is found here, before any job starts, with the nearest valid choice."""

from __future__ import annotations

import dataclasses
import difflib
import functools
import itertools
import re
import shlex
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from kdbench.errors import unknown
from kdbench.files import is_url, sha256_file
from kdbench.plan import yamlfile
from kdbench.plan.keys import own_networks
from kdbench.plan.registry import (
    PACKAGE,
    Parameter,
    check_params,
    method_info,
    method_names,
    source_constant,
    source_names,
    source_params,
)
from kdbench.plan.timm_names import _FAMILY_OF_MODULE, FAMILIES, timm_arguments, timm_index, timm_tags
from kdbench.types import (
    AUTO_AUGMENT,
    Block,
    Claim,
    DataSpec,
    KdbenchError,
    MethodSpec,
    ModelSpec,
    Pair,
    Paper,
    Recipe,
    Suite,
    Tune,
)

CONFIG_FOLDER = Path("config")
GROUPS = ("reference", "logits", "features", "frequency", "cross-modal", "controls")
GUIDES = ("untrained", "shuffled")
"""Teachers of the controls `METHOD@untrained` and `METHOD@shuffled`."""
ALSO = ("agreement", "ece", "groups")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_LOADS_WEIGHTS = re.compile(r"pretrain\w*|(checkpoint|ckpt)_(path|file)|weights|state_dict")
_AT_RANDOM = "networks start at random here, but for teachers with the keys pretrained or weights (docs/suites.md)"
_NOTHING = (None, [], {})
_SECTIONS = {"seeds", "data", "recipes", "models", "methods", "blocks", "tune", "claims", "paper"}
_OPTIONS = {f.name for f in dataclasses.fields(Suite)} - _SECTIONS - {"name", "path"}
_CHOICES = {
    ("Recipe", "optimizer"): ("adamw", "sgd"),
    ("ModelSpec", "stem"): ("timm", "small"),
    ("ModelSpec", "family"): (None, *FAMILIES),
    ("Suite", "precision"): ("fp32", "bf16"),
    ("Suite", "device"): ("auto", "cpu", "cuda"),
}


def suite_path(name: str | Path) -> Path:
    """`quick` or `path/to/quick.yaml` -> the file. Raises KdbenchError that names the suites there are."""
    path = Path(name)
    if path.suffix in {".yaml", ".yml"}:
        if path.is_file():
            return path
        files = {p.stem: p for folder in (CONFIG_FOLDER, path.parent) for p in sorted(folder.glob("*.y*ml"))}
        near = difflib.get_close_matches(path.stem, files, n=1)
        where = "" if path.is_absolute() else f" in {Path.cwd()}"
        hint = f"; did you mean {files[near[0]]}?" if near else ""
        raise KdbenchError(f"there is no file {path}{where}{hint}")
    if (found := CONFIG_FOLDER / f"{name}.yaml").is_file():
        return found
    if path.is_file():
        raise KdbenchError(f"{path} is not a suite: a suite is a .yaml file")
    for near in (CONFIG_FOLDER / f"{name}.yml", Path(f"{name}.yaml"), Path(f"{name}.yml")):
        if near.is_file():
            raise KdbenchError(f"there is no suite {found}; did you mean the file {near}?")
    there = [p.stem for p in CONFIG_FOLDER.glob("*.yaml")]
    if not there:
        project = PACKAGE.parent
        where = str(project) if (project / CONFIG_FOLDER).is_dir() else "the folder of the project"
        raise KdbenchError(
            f"unknown suite {str(name)!r}: suites are looked for in {CONFIG_FOLDER.absolute()}, and there is none; "
            f"change to {where} (cd), or give the path of a .yaml file"
        )
    raise unknown("suite", str(name), there, f"no such file in {CONFIG_FOLDER.absolute()}")


def configured(config: Mapping[str, Any]) -> str:
    """The suite that Snakemake's config asks for: its key `suite`, by default `quick`.

    Raises KdbenchError for any other key, and for a suite of which Snakemake has made something else than text.
    """
    for key, value in config.items():
        if key in {"extends"} | _SECTIONS | _OPTIONS:
            raise KdbenchError(
                f"config key {key!r} belongs in a suite's file; name that by --config suite=PATH, not by --configfile"
            )
        if key != "suite":
            meant = shlex.quote(value) if isinstance(value, str) else "NAME"
            raise KdbenchError(
                f"unknown config key {key!r}; did you mean 'suite'? Run: snakemake --cores all --config suite={meant}"
            )
    name = config.get("suite", "quick")
    if not isinstance(name, str):
        raise KdbenchError(
            f"config key 'suite': expected a name or a path, got the {type(name).__name__} {name!r}"[:200]
            + f"; give the path of the file: --config suite={CONFIG_FOLDER}/NAME.yaml"
        )
    return name


def typed(suite: Suite) -> str:
    """What a person types for a suite: its name where its file lies in config/, else the path of its file."""
    return typed_file(suite.name, suite.path)


def typed_file(name: str, path: Path | None) -> str:
    """The same, for the suite NAME of a file; its name where the file is not known."""
    by_name = path is None or path.absolute() == (CONFIG_FOLDER / f"{name}.yaml").absolute()
    return name if by_name else shlex.quote(path.as_posix())


def origin(teacher: ModelSpec) -> str | None:
    """Where a teacher's weights come from, what is done with them and what they must show; None where from the seed."""
    if not teacher.is_given:
        return None
    if teacher.pretrained:
        place = f"timm's {teacher.timm}"
    else:
        file = teacher.weights if is_url(teacher.weights) else Path(teacher.weights).name
        place = f"{file} (sha256 {teacher.sha256[:8]}...)"
    then = f"fine-tuned by the recipe {teacher.recipe}" if teacher.recipe else "taken as they are"
    gate = "" if teacher.accuracy is None else f"; stated test accuracy {teacher.accuracy:g} ± {teacher.tolerance:g} %"
    return f"weights of {place}, {then}{gate}"


def load_suite(name: str | Path) -> Suite:
    """Read and check a suite. Raises KdbenchError with file, place and nearest valid choice.

    `extends: NAME` takes the sections that are not given here from NAME.yaml beside it; one that is null here is left
    out.
    """
    path = suite_path(name)
    tree = yamlfile.read(path)
    if isinstance(tree, dict) and "extends" in tree:
        base_path = path.with_name(f"{_name(tree.pop('extends'), f'{path}: extends')}.yaml")
        if not base_path.is_file():
            raise unknown("suite", base_path.stem, (p.stem for p in path.parent.glob("*.yaml")), f"{path}: extends")
        base = yamlfile.read(base_path)
        if not isinstance(base, dict) or "extends" in base:
            raise KdbenchError(f"{path}: extends: the base must be a suite that extends no other")
        tree = {key: value for key, value in (base | tree).items() if value is not None}
    return dataclasses.replace(check_suite(tree, path.stem, str(path)), path=path)


def check_suite(tree: Any, name: str, where: str) -> Suite:
    """A parsed YAML tree -> Suite."""
    tree = _mapping(tree, where)
    _name(name, where, reserved={"data", "reference"})
    for key in tree:
        if key not in _OPTIONS | _SECTIONS:
            raise _unknown_key(key, _OPTIONS | _SECTIONS, where)
    for key in _SECTIONS - {"methods", "tune", "claims", "paper"}:
        if tree.get(key) in _NOTHING:
            raise KdbenchError(f"{where}: the section {key!r} is missing or empty")

    data = {n: _data(n, v, f"{where}: data.{n}") for n, v in _named(tree["data"], f"{where}: data")}
    recipes = {n: _recipe(n, v, f"{where}: recipes.{n}") for n, v in _named(tree["recipes"], f"{where}: recipes")}
    models = {
        n: _model(n, v, data, recipes, f"{where}: models.{n}") for n, v in _named(tree["models"], f"{where}: models")
    }
    for model in (m for m in models.values() if m.recipe):
        _check_fit(recipes[model.recipe], data[model.data], f"{where}: recipes.{model.recipe}")
    methods = {
        n: _method(n, v, f"{where}: methods.{n}") for n, v in _named(tree.get("methods", {}), f"{where}: methods")
    }
    seeds = _seeds(tree["seeds"], where)
    blocks = tuple(
        _block(n, v, data, recipes, models, methods, seeds, f"{where}: blocks.{n}")
        for n, v in _named(tree["blocks"], f"{where}: blocks")
    )
    for block in blocks:
        _check_shuffled(block, models, recipes, f"{where}: blocks.{block.name}.methods")
    tune = None
    if "tune" in tree:
        tune = _tune(tree["tune"], blocks, recipes, models, seeds, f"{where}: tune")
    blocks = tuple(_with_weights(block, tune, models, f"{where}: blocks.{block.name}") for block in blocks)
    in_blocks = {id for block in blocks for m in block.methods for id in (m.id, m.tuned_from) if id}
    claimable = {*methods, *method_names(), *in_blocks}
    claims = tuple(
        _claim(n, v, claimable, f"{where}: claims.{n}") for n, v in _named(tree.get("claims", {}), f"{where}: claims")
    )
    suite = _dataclass(
        Suite,
        {key: tree[key] for key in _OPTIONS if key in tree},
        where,
        name=name,
        blocks=blocks,
        seeds=seeds,
        data=data,
        recipes=recipes,
        models=models,
        tune=tune,
        claims=claims,
        paper=_paper(tree.get("paper", {}), blocks, models, f"{where}: paper"),
    )
    of_jobs = ("threads", "seeds_per_job", "methods_per_job", "minutes_per_job", "memory_mb", "jobs_per_gpu")
    for key in ("edition", *of_jobs):
        value = getattr(suite, key)
        if value is not None and value < 1:
            raise KdbenchError(f"{where}: {key}: must be at least 1, got {value}")
    trained = (*seeds, *(tune.seeds if tune else ()))
    if min(suite.seeds_per_job, len(trained)) * (len(str(max(trained))) + 1) > 150:
        raise KdbenchError(f"{where}: seeds_per_job: {suite.seeds_per_job} such seeds do not fit into a file's name")
    for key in ("checkpoint_seconds", "workers"):
        if getattr(suite, key) < 0:
            raise KdbenchError(f"{where}: {key}: must not be negative")
    return suite


def _data(name: str, tree: Any, where: str) -> DataSpec:
    args = dict(_mapping(tree, where))
    if "source" not in args:
        raise KdbenchError(f"{where}: the key 'source' is missing")
    source = _text(args.pop("source"), f"{where}.source")
    try:
        known = source_params(source)
    except KdbenchError as error:
        raise KdbenchError(f"{where}: {error}") from None
    if "draw" in args and "draw" not in known:
        able = ", ".join(name for name in source_names() if "draw" in source_params(name))
        raise KdbenchError(f"{where}.draw: the source {source!r} has one training set only; one that can draw: {able}")
    by_seed = args.get("draw") == "seed"
    if by_seed:
        del args["draw"]
    return DataSpec(name, source, _checked(args, known, where), by_seed)


def _recipe(name: str, tree: Any, where: str) -> Recipe:
    recipe = _dataclass(Recipe, _mapping(tree, where), where, name=name)
    if (recipe.epochs is None) == (recipe.steps is None):
        raise KdbenchError(f"{where}: give exactly one of epochs and steps")
    for key in ("lr", "lr_per", "batch_size", "accumulate", "epochs", "steps"):
        value = getattr(recipe, key)
        if value is not None and value <= 0:
            raise KdbenchError(f"{where}: {key}: must be positive, got {value}")
    not_negative = ("weight_decay", "min_lr", "warmup_lr", "crop", "clip_grad", "color_jitter", "mixup", "cutmix")
    for key in not_negative:
        value = getattr(recipe, key)
        if value is not None and value < 0:
            raise KdbenchError(f"{where}: {key}: must not be negative, got {value}")
    for key in ("warmup", "label_smoothing", "momentum", "resized_crop", "ema_decay"):
        if not 0 <= getattr(recipe, key) < 1:
            raise KdbenchError(f"{where}: {key}: must lie in [0, 1), got {getattr(recipe, key)}")
    for key, most in (("erasing", 1), ("mixup_prob", 1), ("mixup_switch_prob", 1), ("rand_augment", 30)):
        if not 0 <= getattr(recipe, key) <= most:
            raise KdbenchError(f"{where}: {key}: must lie in [0, {most}], got {getattr(recipe, key)}")
    if list(recipe.milestones) != sorted({m for m in recipe.milestones if 0 < m < 1}):
        raise KdbenchError(
            f"{where}: milestones: expected rising shares of all steps, between 0 and 1, got {list(recipe.milestones)}"
        )
    if recipe.milestones and recipe.min_lr:
        raise KdbenchError(f"{where}: give one of milestones and min_lr, the floor of a cosine")
    if recipe.interpolation != "bilinear" and not recipe.resized_crop:
        raise KdbenchError(f"{where}: interpolation: says how resized_crop stretches, which is off")
    if recipe.warmup_epochs is None:
        if recipe.warmup_lr:
            raise KdbenchError(f"{where}: warmup_lr: is where warmup_epochs begin; give these too")
    elif recipe.epochs is None or not 0 <= recipe.warmup_epochs < recipe.epochs:
        raise KdbenchError(
            f"{where}: warmup_epochs: must lie in [0, epochs), in a recipe of epochs, got {recipe.warmup_epochs}"
        )
    _check_auto_augment(recipe, where)
    if recipe.crop and recipe.resized_crop:
        raise KdbenchError(f"{where}: give one of crop and resized_crop")
    if (recipe.mixup or recipe.cutmix) and recipe.batch_size < 2:
        raise KdbenchError(f"{where}: mixup and cutmix mix samples of a batch, so batch_size must be at least 2")
    return recipe


def _check_auto_augment(recipe: Recipe, where: str) -> None:
    """Refuse what is not timm's RandAugment as kdbench has it."""
    if not recipe.auto_augment:
        return
    known = AUTO_AUGMENT.fullmatch(recipe.auto_augment)
    if not known or float(known[1]) > 10:
        raise KdbenchError(
            f"{where}: auto_augment: expected timm's words for a magnitude of 0 to 10, its standard deviation and "
            f"operations that grow with it, such as rand-m9-mstd0.5-inc1; got {recipe.auto_augment!r}"
        )
    if recipe.rand_augment:
        raise KdbenchError(f"{where}: give one of rand_augment (torchvision's) and auto_augment (timm's)")


def _check_fit(recipe: Recipe, data: DataSpec, where: str) -> None:
    """Refuse a crop or a batch that is larger than the data; sources that find out from files are left to training.

    Sources call the side of their images `size`; their training samples are `train`, or counted in COUNTS.
    """
    known = {key: p.default for key, p in source_params(data.source).items()} | data.args
    side, train = known.get("size"), known.get("train", source_constant(data.source, "COUNTS", {}).get("train"))
    if side is not None and recipe.crop >= side:
        raise KdbenchError(f"{where}.crop: must be below {side}, the size of data {data.name}, got {recipe.crop}")
    if train is not None and recipe.global_batch > train:
        times = f" x accumulate {recipe.accumulate}" if recipe.accumulate > 1 else ""
        raise KdbenchError(
            f"{where}.batch_size: must be at most {train}, the training samples of data {data.name}, "
            f"got {recipe.batch_size}{times}"
        )


def _model(name: str, tree: Any, data: dict, recipes: dict, where: str) -> ModelSpec:
    model = _dataclass(ModelSpec, _mapping(tree, where), where, name=name)
    if model.eval_crop is not None and not 0 < model.eval_crop <= 1:
        raise KdbenchError(f"{where}.eval_crop: must lie in (0, 1], got {model.eval_crop}")
    if name == "none" or "--" in name:
        raise KdbenchError(f"{where}: a model's name must not be 'none' nor hold '--'")
    if model.data not in data:
        raise unknown("data set", model.data, data, where)
    if model.recipe is None and not model.is_given:
        raise KdbenchError(f"{where}: the key 'recipe' is missing")
    if model.recipe is not None and model.recipe not in recipes:
        raise unknown("recipe", model.recipe, recipes, where)
    modalities = source_modalities(data[model.data].source)
    if model.input not in modalities:
        raise unknown("input", model.input, modalities, where)
    network = model.timm.partition(".")[0] if model.pretrained else model.timm
    if re.search("[.:]", network):
        alone = re.split("[/:]", network)[-1].split(".")[0]
        raise KdbenchError(
            f"{where}.timm: {model.timm} names pretrained weights; for the network alone, write {alone}; for a teacher "
            "with timm's weights, write NAME.TAG and add pretrained: true"
        )
    registered, classes = timm_index()
    own = own_networks()
    module = own.get(network) or registered.get(network) or classes.get(network)
    if module is None:
        raise unknown("timm model", network, [*registered, *classes, *own], where)
    model = _given(model, data[model.data], where)
    known = () if network in own else timm_arguments(module, None if network in registered else network)
    for key in model.args:
        if key in {"num_classes", "in_chans", "img_size"}:
            raise KdbenchError(f"{where}.args: {key!r} is set by kdbench")
        if key not in known:
            raise _unknown_key(key, known, f"{where}.args", f"argument of {model.timm}")
    width, heads = model.args.get("embed_dim"), model.args.get("num_heads")
    # timm's other transformers may give their heads a width of their own.
    is_vit = module in ("vision_transformer", "deit") and isinstance(width, int) and isinstance(heads, int)
    if is_vit and (heads < 1 or width % heads):
        raise KdbenchError(f"{where}.args: embed_dim {width} cannot be divided among num_heads {heads}")
    if model.args.get("patch_drop_rate"):
        raise KdbenchError(
            f"{where}.args: patch_drop_rate must be 0: timm's stage maps are wrong when patches are dropped"
        )
    if model.family is None and module not in _FAMILY_OF_MODULE:
        raise KdbenchError(f"{where}: timm's {module} is of no family known here; add family: cnn, vit or mlp")
    return dataclasses.replace(model, family=model.family or _FAMILY_OF_MODULE[module])


def _given(model: ModelSpec, data: DataSpec, where: str) -> ModelSpec:
    """The model, with the sha256 of the file that its weights come from. Refuses what cannot be checked or loaded."""
    if not model.is_given:
        for key in ("sha256", "accuracy", "tolerance"):
            if getattr(model, key) != getattr(ModelSpec, key):
                raise KdbenchError(f"{where}: {key} is for given weights: add pretrained: true, or weights: FILE")
        return model
    if model.pretrained and model.weights is not None:
        raise KdbenchError(f"{where}: give one of pretrained and weights")
    if model.pos_std is not None or (model.pretrained and model.stem != "timm"):
        key = "stem" if model.pos_std is None else "pos_std"
        raise KdbenchError(f"{where}: {key} changes how a network starts, but this one has given weights; leave it out")
    if model.pretrained:
        name, _, tag = model.timm.partition(".")
        tags = timm_tags(name) if name in timm_index()[0] else []
        if not tags:
            raise KdbenchError(f"{where}: pretrained: timm has no weights for {name}; name a file by weights: FILE")
        if tag not in tags:
            example = f"{name}.{tags[0]}"
            raise unknown("tag", tag, tags, f"{where}.timm: timm's weights go by NAME.TAG, for instance {example}")
    if model.sha256 is not None and not re.fullmatch("[0-9a-f]{64}", model.sha256):
        raise KdbenchError(f"{where}.sha256: expected 64 hexadecimal digits in small letters, got {model.sha256!r}")
    if model.weights is not None and model.sha256 is None:
        if is_url(model.weights):
            raise KdbenchError(f"{where}: a URL of weights needs the sha256 of its file beside it")
        try:
            stat = Path(model.weights).stat()
            model = dataclasses.replace(model, sha256=_sha256(Path(model.weights), stat.st_size, stat.st_mtime_ns))
        except OSError as error:
            raise KdbenchError(
                f"{where}.weights: cannot read {model.weights} from {Path.cwd()}: {error.strerror}; with its sha256 "
                "beside it, it may come later"
            ) from None
    if model.recipe is None:
        if model.accuracy is None:
            raise KdbenchError(
                f"{where}: a teacher that is taken as it is needs its test accuracy, in percent: students start only "
                "where it is found again; or give it a recipe, which fine-tunes it"
            )
        if data.draw_by_seed:
            raise KdbenchError(
                f"{where}: a teacher that is taken as it is is one for all seeds, but the data {data.name!r} draw a "
                "training set for each; give it a recipe, which fine-tunes it"
            )
    if model.accuracy is not None and not 0 < model.accuracy <= 100:
        raise KdbenchError(f"{where}.accuracy: must lie in (0, 100], got {model.accuracy}")
    if not 0 <= model.tolerance <= 100:
        raise KdbenchError(f"{where}.tolerance: must lie in [0, 100], got {model.tolerance}")
    return model


@functools.cache
def _sha256(path: Path, size: int, mtime_ns: int) -> str:
    """Of a file as it is now: hashed once a process and version."""
    return sha256_file(path)


def _method(name: str, tree: Any, where: str) -> MethodSpec:
    args = dict(_mapping(tree if tree is not None else {}, where))
    label, short = args.pop("label", None), args.pop("short", None)
    for key, text in (("label", label), ("short", short)):
        if text is not None:
            _text(text, f"{where}.{key}")
    method = _text(args.pop("method", name), f"{where}.method")
    known = _params_of(method, where)
    info = method_info(method)
    preset = args.pop("preset", None)
    if preset is not None and _text(preset, f"{where}.preset") not in info.presets:
        raise unknown("preset", preset, info.presets, where)
    own = info.presets.get(preset, {})
    params = {key: p.default for key, p in known.items()} | _checked(own | args, known, where)
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
    )


def _block(
    name: str, tree: Any, data: dict, recipes: dict, models: dict, methods: dict, seeds: tuple[int, ...], where: str
) -> Block:
    tree = _mapping(tree, where)
    keys = ("title", "data", "pairs", "methods", "seeds", "budgets", "budget", "scratch_budgets", "readings", "weights")
    keys += ("layout", "table")
    for key in tree:
        if key not in keys:
            raise _unknown_key(key, keys, where)
    for key in ("data", "pairs", "methods"):
        if tree.get(key) in _NOTHING:
            raise KdbenchError(f"{where}: the key {key!r} is missing or empty")
    if _text(tree["data"], f"{where}.data") not in data:
        raise unknown("data set", tree["data"], data, where)
    pairs = tuple(
        _pair(text, tree["data"], models, f"{where}.pairs") for text in _list(tree["pairs"], f"{where}.pairs")
    )
    names = _list(tree["methods"], f"{where}.methods")
    specs = tuple(_method_of_block(m, methods, f"{where}.methods") for m in names)
    for items, kind in ((pairs, "pair"), (specs, "method")):
        ids = [item.id for item in items]
        if repeated := sorted({i for i in ids if ids.count(i) > 1}):
            raise KdbenchError(f"{where}: {kind} {repeated[0]!r} is listed twice")
    chosen = _seeds(tree["seeds"], where) if "seeds" in tree else seeds
    for seed in chosen:
        if seed not in seeds:
            raise unknown("seed", seed, seeds, f"{where}: seeds (the suite's are {', '.join(map(str, seeds))})")
    budgets = tuple(_list(tree.get("budgets", [1]), f"{where}.budgets"))
    alone = tuple(_list(tree["scratch_budgets"], f"{where}.scratch_budgets")) if "scratch_budgets" in tree else ()
    _check_budgets(budgets, pairs, recipes, models, f"{where}.budgets")
    _check_budgets((*budgets, *alone), pairs, recipes, models, f"{where}.scratch_budgets")
    if alone and not any(spec.id == "scratch" for spec in specs):
        raise KdbenchError(f"{where}.scratch_budgets: scratch is not among the methods of this block")
    budget = tree.get("budget", max(budgets))
    if isinstance(budget, bool) or budget not in budgets:
        raise unknown("budget", budget, budgets, f"{where}.budget")
    names_of_readings = [] if tree.get("readings") in _NOTHING else _list(tree["readings"], f"{where}.readings")
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
    for key, values in _mapping(tree, where).items():
        if key not in known:
            raise _unknown_key(key, known, where)
        for value in _list(values, f"{where}.{key}"):
            if _text(value, f"{where}.{key}") not in known[key]:
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


def _tune(
    tree: Any, blocks: tuple[Block, ...], recipes: dict, models: dict, seeds: tuple[int, ...], where: str
) -> Tune:
    args = dict(_mapping(tree, where))
    texts = _list(args.pop("pairs", None), f"{where}.pairs")
    known = _as_written(p for block in blocks for p in block.pairs)
    pairs = []
    for text in texts:
        normal = " -> ".join(part.strip() for part in str(text).split("->"))
        if normal not in known:
            raise unknown("pair", normal, known, f"{where}.pairs")
        pairs.append(known[normal])
    if ("seed" in args) == ("seeds" in args):
        raise KdbenchError(f"{where}: give exactly one of seed and seeds")
    args["seeds"] = list(_seeds([args.pop("seed")] if "seed" in args else args["seeds"], where))
    if reported := [seed for seed in args["seeds"] if seed in seeds]:
        raise KdbenchError(f"{where}: seeds: {reported[0]} is among the reported seeds {list(seeds)}; give another")
    args.setdefault("budget", max(block.budget for block in blocks if set(block.pairs) & set(pairs)))
    tune = _dataclass(Tune, args, where, pairs=tuple(pairs))
    _check_budgets((tune.budget,), tune.pairs, recipes, models, f"{where}.budget")
    grid = {"factors": tune.factors} | ({"temperatures": tune.temperatures} if tune.temperatures else {})
    for key, values in grid.items():
        if len({f"{v:g}" for v in values}) < max(2, len(values)) or min(values) <= 0:  # as their settings are named
            raise KdbenchError(f"{where}.{key}: expected two or more different positive numbers, got {values}")
    return tune


def _claim(name: str, tree: Any, methods: set[str], where: str) -> Claim:
    """Its methods need not meet in a block: a suite that extends another may take the claims and drop a block."""
    claim = _dataclass(Claim, _mapping(tree, where), where, name=name)
    for method in (claim.method, claim.control):
        if method not in methods:
            raise unknown("method", method, methods, where)
    if claim.method == claim.control:
        raise KdbenchError(f"{where}: {claim.method!r} is its own control")
    return claim


def _paper(tree: Any, blocks: tuple[Block, ...], models: dict[str, ModelSpec], where: str) -> Paper:
    """Methods go by the ids of the blocks' rows, pairs as blocks write them."""
    paper = _dataclass(Paper, _mapping(tree, where), where)
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
        _text(text, f"{where}.names.{name}")
    if paper.width <= 0:
        raise KdbenchError(f"{where}.width: must be positive, got {paper.width}")
    return dataclasses.replace(paper, columns=tuple(pairs[text].id for text in paper.columns))


def tuning_pair(tune: Tune, models: dict[str, ModelSpec], pair: Pair) -> Pair | None:
    """The pair on which the weights for this one are chosen: same data, same student family, both across modalities
    or both within one."""

    def kind(p: Pair) -> tuple:
        teacher, student = models[p.teacher], models[p.student]
        return student.data, student.family, teacher.input == student.input

    return next((p for p in tune.pairs if kind(p) == kind(pair)), None)


def _with_weights(block: Block, tune: Tune | None, models: dict[str, ModelSpec], where: str) -> Block:
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
    if not (weight and spec.needs_teacher and spec.params[weight] and (controls or spec.guide == "trained")):
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


def _check_shuffled(block: Block, models: dict, recipes: dict, where: str) -> None:
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
    return _method(name, {}, where)


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


def _seeds(tree: Any, where: str) -> tuple[int, ...]:
    seeds = _list(tree, f"{where}: seeds")
    if not all(isinstance(s, int) and not isinstance(s, bool) and 0 <= s < 2**31 for s in seeds):
        raise KdbenchError(f"{where}: seeds: expected whole numbers from 0, got {tree!r}")
    if len(set(seeds)) < len(seeds):
        raise KdbenchError(f"{where}: seeds: a seed is listed twice in {tree!r}")
    return tuple(seeds)


def _mapping(tree: Any, where: str) -> dict:
    if not isinstance(tree, dict) or not all(isinstance(k, str) for k in tree):
        raise KdbenchError(f"{where}: expected keys and values, got {tree!r}"[:300])
    return tree


def _list(tree: Any, where: str) -> list:
    if not isinstance(tree, list) or not tree:
        raise KdbenchError(f"{where}: expected a list, got {tree!r}"[:300])
    return tree


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str):
        raise KdbenchError(f"{where}: expected text, got {value!r}"[:300])
    return value


def _named(tree: Any, where: str) -> list[tuple[str, Any]]:
    return [(_name(name, where), value) for name, value in _mapping(tree, where).items()]


def _name(name: str, where: str, reserved: set[str] = frozenset()) -> str:
    if not _NAME.fullmatch(_text(name, where)) or ".." in name or name in reserved:
        raise KdbenchError(
            f"{where}: {name[:80]!r} cannot be a name (up to 64 letters, digits, '.', '_' and '-'; it names a folder)"
        )
    return name


def _unknown_key(key: str, known: Iterable[str], where: str, kind: str = "key") -> KdbenchError:
    if _LOADS_WEIGHTS.fullmatch(key):
        return KdbenchError(f"{where}: {key}: {_AT_RANDOM}; leave it out")
    return unknown(kind, key, known, where)


def _checked(args: dict, known: dict[str, Parameter], where: str) -> dict[str, Any]:
    for key in args:
        if key not in known:
            raise _unknown_key(key, known, where)
    return {key: known[key].check(value, f"{where}.{key}") for key, value in args.items()}


def _params_of(method: Any, where: str) -> dict[str, Parameter]:
    try:
        return method_info(str(method)).params
    except KdbenchError as error:
        raise KdbenchError(f"{where}: {error}") from None


def _dataclass(cls: type, tree: dict, where: str, **fixed: Any) -> Any:
    """Build a dataclass of types.py from YAML: unknown keys, missing keys and wrong types are refused."""
    fields = {f.name: f for f in dataclasses.fields(cls) if f.name not in fixed}
    for key in tree:
        if key not in fields:
            raise _unknown_key(key, fields, where)
    values = {}
    for key, f in fields.items():
        if key not in tree:
            if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING:
                raise KdbenchError(f"{where}: the key {key!r} is missing")
            continue
        place = f"{where}: {key}" if cls is Suite else f"{where}.{key}"
        if f.type.startswith("dict"):
            values[key] = _mapping(tree[key], place)
        else:
            values[key] = Parameter(f.type, None).check(tree[key], place)
        choices = _CHOICES.get((cls.__name__, key))
        if choices and values[key] not in choices:
            raise unknown("value", values[key], [c for c in choices if c], place)
    return cls(**values, **fixed)


def source_modalities(source: str) -> tuple[str, ...]:
    """Names of the arrays that a data source gives for every sample: its constant MODALITIES."""
    return source_constant(source, "MODALITIES", ("image",))
