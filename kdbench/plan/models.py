"""The sections data, recipes and models of a suite: YAML -> checked DataSpec, Recipe and ModelSpec."""

from __future__ import annotations

import dataclasses
import functools
import re
from pathlib import Path
from typing import Any

from kdbench.errors import unknown
from kdbench.files import is_url, sha256_file
from kdbench.plan.keys import own_arguments, own_networks
from kdbench.plan.registry import source_constant, source_names, source_params
from kdbench.plan.timm_names import FAMILY_OF_MODULE, timm_arguments, timm_index, timm_tags
from kdbench.plan.trees import built, checked, mapping, text_of, unknown_key
from kdbench.types import AUTO_AUGMENT, DataSpec, KdbenchError, ModelSpec, Recipe


def data_of(name: str, tree: Any, where: str) -> DataSpec:
    args = dict(mapping(tree, where))
    if "source" not in args:
        raise KdbenchError(f"{where}: the key 'source' is missing")
    source = text_of(args.pop("source"), f"{where}.source")
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
    return DataSpec(name, source, checked(args, known, where), by_seed)


def recipe_of(name: str, tree: Any, where: str) -> Recipe:
    recipe = built(Recipe, mapping(tree, where), where, name=name)
    if (recipe.epochs is None) == (recipe.steps is None):
        raise KdbenchError(f"{where}: give exactly one of epochs and steps")
    for key in ("lr", "lr_per", "batch_size", "accumulate", "epochs", "steps"):
        value = getattr(recipe, key)
        if value is not None and value <= 0:
            raise KdbenchError(f"{where}: {key}: must be positive, got {value}")
    not_negative = (
        "weight_decay",
        "min_lr",
        "warmup_lr",
        "poly",
        "crop",
        "clip_grad",
        "color_jitter",
        "mixup",
        "cutmix",
    )
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
    if recipe.poly and (
        recipe.epochs is None or recipe.milestones or recipe.warmup_epochs is not None or recipe.warmup
    ):
        raise KdbenchError(f"{where}: poly: goes by epochs; give these, warmup: 0, and no other schedule")
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


def check_fit(recipe: Recipe, data: DataSpec, where: str) -> None:
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


def model_of(name: str, tree: Any, data: dict, recipes: dict, where: str) -> ModelSpec:
    model = built(ModelSpec, mapping(tree, where), where, name=name)
    if model.pretrained and model.recipe is None and "normalisation" not in tree:
        model = dataclasses.replace(model, normalisation="timm")
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
    if network in own:
        known = own_arguments(network)
    else:
        known = timm_arguments(module, None if network in registered else network)
    for key in model.args:
        if key in {"num_classes", "in_chans", "img_size"}:
            raise KdbenchError(f"{where}.args: {key!r} is set by kdbench")
        if key not in known:
            raise unknown_key(key, known, f"{where}.args", f"argument of {model.timm}")
    if network == "huggingface":
        _check_tokenizer(model, data[model.data], where)
    width, heads = model.args.get("embed_dim"), model.args.get("num_heads")
    # timm's other transformers may give their heads a width of their own.
    is_vit = module in ("vision_transformer", "deit") and isinstance(width, int) and isinstance(heads, int)
    if is_vit and (heads < 1 or width % heads):
        raise KdbenchError(f"{where}.args: embed_dim {width} cannot be divided among num_heads {heads}")
    if model.args.get("patch_drop_rate"):
        raise KdbenchError(
            f"{where}.args: patch_drop_rate must be 0: timm's stage maps are wrong when patches are dropped"
        )
    if model.family is None and module not in FAMILY_OF_MODULE:
        raise KdbenchError(f"{where}: timm's {module} is of no family known here; add family: cnn, vit or mlp")
    return dataclasses.replace(model, family=model.family or FAMILY_OF_MODULE[module])


def _check_tokenizer(model: ModelSpec, data: DataSpec, where: str) -> None:
    """Refuse an encoder whose data are not tokens of its own tokenizer."""
    name, tokenizer = model.args.get("name"), data.args.get("tokenizer", "words")
    if not isinstance(name, str):
        raise KdbenchError(f"{where}.args: huggingface needs the name of an encoder: name: prajjwal1/bert-tiny")
    if tokenizer != name:
        raise KdbenchError(
            f"{where}: {name} reads tokens of its own tokenizer, and those of the data {data.name!r} are of "
            f"{tokenizer!r}; add tokenizer: {name} there"
        )


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


def source_modalities(source: str) -> tuple[str, ...]:
    """Names of the arrays that a data source gives for every sample: its constant MODALITIES."""
    return source_constant(source, "MODALITIES", ("image",))
