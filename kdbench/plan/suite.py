"""YAML -> checked Suite. Every mistake is found here, before any job starts, with the nearest valid choice."""

from __future__ import annotations

import dataclasses
import difflib
import shlex
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from kdbench.errors import unknown
from kdbench.plan import yamlfile
from kdbench.plan.blocks import block_of, check_shuffled, claim_of, method_of, paper_of, tune_of, with_weights
from kdbench.plan.models import check_fit, data_of, model_of, recipe_of
from kdbench.plan.paths import CONFIG_FOLDER, found, shipped
from kdbench.plan.registry import method_names
from kdbench.plan.trees import NOTHING, built, checked_name, mapping, named, seeds_of, unknown_key
from kdbench.types import KdbenchError, Suite

_SECTIONS = {"seeds", "data", "recipes", "models", "methods", "blocks", "tune", "claims", "paper"}
_OPTIONS = {f.name for f in dataclasses.fields(Suite)} - _SECTIONS - {"name", "path", "extends"}


def suite_path(name: str | Path) -> Path:
    """`quick` or `path/to/quick.yaml` -> the file. A name is looked up in config/, then among the suites that come with
    kdbench. Raises KdbenchError that names the suites there are."""
    path = Path(name)
    if path.suffix in {".yaml", ".yml"}:
        if path.is_file():
            return path
        folders = (shipped(CONFIG_FOLDER), CONFIG_FOLDER, path.parent)
        files = {p.stem: p for folder in folders for p in sorted(folder.glob("*.y*ml"))}
        near = difflib.get_close_matches(path.stem, files, n=1)
        where = "" if path.is_absolute() else f" in {Path.cwd()}"
        hint = f"; did you mean {files[near[0]]}?" if near else ""
        raise KdbenchError(f"there is no file {path}{where}{hint}")
    if (file := _file(name)).is_file():
        return file
    if path.is_file():
        raise KdbenchError(f"{path} is not a suite: a suite is a .yaml file")
    for near in (CONFIG_FOLDER / f"{name}.yml", Path(f"{name}.yaml"), Path(f"{name}.yml")):
        if near.is_file():
            raise KdbenchError(f"there is no suite {file}; did you mean the file {near}?")
    folders = dict.fromkeys((CONFIG_FOLDER.absolute(), shipped(CONFIG_FOLDER)))  # one in the repository
    raise unknown("suite", str(name), _names(folders), f"no such file in {' or '.join(map(str, folders))}")


def _file(name: str | Path) -> Path:
    return found(CONFIG_FOLDER / f"{name}.yaml")


def _names(folders: Iterable[Path]) -> set[str]:
    return {path.stem for folder in folders for path in folder.glob("*.yaml")}


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
    """What a person types for a suite: its name where that finds its file, else the path of its file."""
    return typed_file(suite.name, suite.path)


def typed_file(name: str, path: Path | None) -> str:
    """The same, for the suite NAME of a file; its name where the file is not known."""
    by_name = path is None or path.absolute() == _file(name).absolute()
    return name if by_name else shlex.quote(path.as_posix())


def load_suite(name: str | Path) -> Suite:
    """Read and check a suite. Raises KdbenchError with file, place and nearest valid choice.

    `extends: NAME` takes the sections that are not given here from NAME.yaml beside it, or from the suite of that name
    that comes with kdbench; one that is null here is left out.
    """
    path = suite_path(name)
    tree, base = suite_tree(path)
    return dataclasses.replace(check_suite(tree, path.stem, str(path)), path=path, extends=base)


def suite_tree(path: Path) -> tuple[Any, Path | None]:
    """The values of a suite's file as they are written, with the sections that it takes from another, and that file."""
    tree, base_path = yamlfile.read(path), None
    if isinstance(tree, dict) and "extends" in tree:
        base, folders = checked_name(tree.pop("extends"), f"{path}: extends"), (path.parent, shipped(CONFIG_FOLDER))
        base_path = next((file for folder in folders if (file := folder / f"{base}.yaml").is_file()), None)
        if base_path is None:
            raise unknown("suite", base, _names(folders), f"{path}: extends")
        base = yamlfile.read(base_path)
        if not isinstance(base, dict) or "extends" in base:
            raise KdbenchError(f"{path}: extends: the base must be a suite that extends no other")
        tree = {key: value for key, value in (base | tree).items() if value is not None}
    return tree, base_path


def check_suite(tree: Any, name: str, where: str) -> Suite:
    """A parsed YAML tree -> Suite."""
    tree = mapping(tree, where)
    checked_name(name, where, reserved={"data", "reference"})
    for key in tree:
        if key not in _OPTIONS | _SECTIONS:
            raise unknown_key(key, _OPTIONS | _SECTIONS, where)
    for key in _SECTIONS - {"methods", "tune", "claims", "paper"}:
        if tree.get(key) in NOTHING:
            raise KdbenchError(f"{where}: the section {key!r} is missing or empty")

    data = {n: data_of(n, v, f"{where}: data.{n}") for n, v in named(tree["data"], f"{where}: data")}
    recipes = {n: recipe_of(n, v, f"{where}: recipes.{n}") for n, v in named(tree["recipes"], f"{where}: recipes")}
    models = {
        n: model_of(n, v, data, recipes, f"{where}: models.{n}") for n, v in named(tree["models"], f"{where}: models")
    }
    for model in (m for m in models.values() if m.recipe):
        check_fit(recipes[model.recipe], data[model.data], f"{where}: recipes.{model.recipe}")
    methods = {
        n: method_of(n, v, f"{where}: methods.{n}") for n, v in named(tree.get("methods", {}), f"{where}: methods")
    }
    seeds = seeds_of(tree["seeds"], where)
    blocks = tuple(
        block_of(n, v, data, recipes, models, methods, seeds, f"{where}: blocks.{n}")
        for n, v in named(tree["blocks"], f"{where}: blocks")
    )
    for block in blocks:
        check_shuffled(block, models, recipes, f"{where}: blocks.{block.name}.methods")
    tune = None
    if "tune" in tree:
        tune = tune_of(tree["tune"], blocks, recipes, models, seeds, f"{where}: tune")
    blocks = tuple(with_weights(block, tune, models, f"{where}: blocks.{block.name}") for block in blocks)
    in_blocks = {id for block in blocks for m in block.methods for id in (m.id, m.tuned_from) if id}
    claimable = {*methods, *method_names(), *in_blocks}
    claims = tuple(
        claim_of(n, v, claimable, f"{where}: claims.{n}") for n, v in named(tree.get("claims", {}), f"{where}: claims")
    )
    suite = built(
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
        paper=paper_of(tree.get("paper", {}), blocks, models, f"{where}: paper"),
    )
    of_jobs = ("threads", "seeds_per_job", "methods_per_job", "minutes_per_job", "memory_mb", "jobs_per_gpu")
    for key in ("edition", *of_jobs):
        value = getattr(suite, key)
        if value is not None and value < 1:
            raise KdbenchError(f"{where}: {key}: must be at least 1, got {value}")
    trained = (*seeds, *(tune.seeds if tune else ()))
    if min(suite.seeds_per_job, len(trained)) * (len(str(max(trained))) + 1) > 150:
        raise KdbenchError(f"{where}: seeds_per_job: {suite.seeds_per_job} such seeds do not fit into a file's name")
    if suite.proxy_for is not None:
        checked_name(suite.proxy_for, f"{where}: proxy_for", reserved={name})
    for key in ("checkpoint_seconds", "workers"):
        if getattr(suite, key) < 0:
            raise KdbenchError(f"{where}: {key}: must not be negative")
    return suite
