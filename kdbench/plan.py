"""Suite -> jobs and runs with stable ids and paths. The Snakefile, the command line and the tables all ask here.

    data      results/data/NAME-HASH/meta.json              one a data set, shared by all suites
    teacher   results/SUITE/teachers/MODEL/seeds-0-1.json   manifest of the runs teachers/MODEL/seedN.json
    cohort    results/SUITE/cohorts/PAIR/seeds-0-1.json     manifest of the runs runs/PAIR/METHOD/seedN.json
    tune      results/SUITE/tuned.json                      weights chosen from the cohorts PAIR/seeds-N.tune.json
    stages    results/SUITE/similarity/BLOCK/PAIR.json      teacher and student by stage and band
    channels  results/SUITE/channels/BLOCK/A--B.json        two teachers of different modalities

results/SUITE/suite.txt names the file of the suite, since two files may have one name.
A job declares only its manifest to Snakemake. Runs and checkpoints are undeclared, so that Snakemake neither deletes
them before a job nor after a failure.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import itertools
import json
import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdbench import checkpoint
from kdbench.errors import unknown
from kdbench.registry import (
    AUGMENTATIONS,
    changed_args,
    code_hash,
    method_code,
    method_info,
    own_networks,
    reads_files,
    version_of,
)
from kdbench.suite import CONFIG_FOLDER, tuning_pair
from kdbench.types import Block, KdbenchError, MethodSpec, ModelSpec, Pair, Recipe, Suite

RESULTS, TABLES = Path("results"), Path("tables")
CLAIM = "suite.txt"
"""In results/SUITE: the path of the suite's file, relative to the project where it lies in it."""
SCRATCH = "scratch"


@dataclass(frozen=True)
class Run:
    """One (pair, method, seed) of a suite; a teacher is the run of `scratch` on a pair without a teacher."""

    pair: Pair
    method: MethodSpec
    seed: int
    data: str
    is_teacher: bool
    config: dict[str, Any]
    """All that its numbers depend on, resolved: data, models, recipe, method, seed, precision, versions, teacher's key.
    """
    key: str
    """Hash of `config` without what stands at its default, so that a new option that is off changes no key."""
    stem: Path
    """Path of its files without suffix: .json (the result), .npz (predictions), .safetensors (weights)."""
    threads: int = 1
    """Threads it computes with: another number gives other last bits."""
    tuned: dict[str, float] | None = None
    """{parameter: value} that tuning chose, once it is known; its key is that of the tuning."""
    given: str = ""
    """Checksums of the data and of the teacher that it trains with, once it does."""

    @property
    def result(self) -> Path:
        return self.stem.with_suffix(".json")

    @property
    def state_key(self) -> str:
        """What a half-trained state must carry for this run to go on from it: all that its numbers come from."""
        return " ".join([self.key, *(f"{name}={value!r}" for name, value in (self.tuned or {}).items()), self.given])


@dataclass(frozen=True)
class Job:
    """One process. `runs` are those that a teacher or cohort job trains, or that the tuning chooses from."""

    kind: str
    id: str
    output: Path
    inputs: tuple[Path, ...] = ()
    runs: tuple[Run, ...] = ()
    data: str = ""
    pair: Pair | None = None
    block: str = ""
    """Name of the block that a similarity job belongs to."""

    @property
    def key(self) -> str:
        """Changes when any number this job makes may change: the reason for Snakemake to run it again."""
        return _hash([(run.key, run.threads) for run in self.runs])[:16]


@dataclass(frozen=True)
class Plan:
    """All jobs of a suite. Jobs come in an order in which they can be run one after another."""

    suite: Suite
    jobs: tuple[Job, ...]

    def of(self, kind: str) -> list[Job]:
        return [job for job in self.jobs if job.kind == kind]

    def job(self, kind: str, id: str) -> Job:
        """Raises KdbenchError that names the nearest job."""
        found = {job.id: job for job in self.of(kind)}
        if id not in found:
            raise unknown(f"{kind} job", id, found, f"suite {self.suite.name}")
        return found[id]

    def runs(self) -> dict[tuple[str, str, int], Run]:
        """{(pair id, method id, seed): run} of all students; teacher-free runs stand under 'none--STUDENT'."""
        return self._runs

    @functools.cached_property
    def _runs(self) -> dict[tuple[str, str, int], Run]:
        return {(r.pair.id, r.method.id, r.seed): r for job in self.of("cohort") for r in job.runs}

    def run_of(self, pair: Pair, method: MethodSpec, seed: int) -> Run:
        """The run that fills a cell: for a method without a teacher, the one of the student alone."""
        pair = pair if method.needs_teacher else Pair(None, pair.student)
        return self._runs[pair.id, method.id, seed]

    def teacher(self, model: str, seed: int) -> Run:
        return next(r for job in self.of("teacher") for r in job.runs if r.pair.student == model and r.seed == seed)


def plan(suite: Suite) -> Plan:
    """Every job of a suite. Raises KdbenchError where another suite of the same file name has its folder."""
    owner = owner_of(suite.name)
    if suite.path and owner and not owner.samefile(suite.path):
        raise KdbenchError(
            f"{suite.path}: the results and tables of {suite.name!r} belong to another suite of this file name, "
            f"{owner}; rename this file"
        )
    teachers = _teacher_jobs(suite)
    cohorts = _cohort_jobs(suite, teachers)
    similarities = _similarity_jobs(suite, teachers, cohorts)
    return Plan(suite, (*_data_jobs(suite), *teachers, *_tune_jobs(suite, teachers), *cohorts, *similarities))


def home(suite: Suite) -> Path:
    """The folder that holds all results of a suite."""
    return RESULTS / suite.name


def claim(suite: Suite) -> None:
    """Write down whose the folder of results is, before anything else is written there."""
    if suite.path:
        path = suite.path.resolve()
        # Relative within the project, so that it holds when the project is moved.
        path = path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
        if _claim_text(home(suite)) != f"{path}\n":
            # Who must write results into a folder that cannot be written will say so; tables can be made of it.
            with contextlib.suppress(KdbenchError):
                checkpoint.write_text(home(suite) / CLAIM, f"{path}\n")


def owner_of(name: str) -> Path | None:
    """The file whose suite has results/NAME: the one that claimed it, else config/NAME.yaml; None where neither is."""
    claimed = Path(_claim_text(RESULTS / name).strip())
    return next((path for path in (claimed, CONFIG_FOLDER / f"{name}.yaml") if path.is_file()), None)


def _claim_text(folder: Path) -> str:
    claim = folder / CLAIM
    return claim.read_text(encoding="utf-8", errors="replace") if claim.is_file() else ""


def data_folder(suite: Suite, name: str) -> Path:
    """Where a packed data set lies; its name changes with its arguments and its source's code."""
    spec = suite.data[name]
    args = changed_args(spec.source, spec.args)
    return RESULTS / "data" / f"{name}-{_hash([spec.source, args, version_of(f'source {spec.source}')])[:8]}"


def reference_folder(suite: Suite) -> Path:
    """Where the committed results of a suite lie: runs.csv and what belongs to it."""
    return RESULTS / "reference" / suite.name


def tuned_file(suite: Suite) -> Path:
    """The weights that tuning chose."""
    return home(suite) / "tuned.json"


def table_files(suite: Suite) -> list[Path]:
    return [TABLES / f"{suite.name}.{suffix}" for suffix in ("md", "tex", "html", "csv")]


# ---------------------------------------------------------------------------------------------------------------- jobs


def _data_jobs(suite: Suite) -> list[Job]:
    used = {block.data: None for block in suite.blocks}
    return [Job("data", data_folder(suite, n).name, data_folder(suite, n) / "meta.json", data=n) for n in used]


Wanted = dict[Pair, dict[str, tuple[MethodSpec, set[int]]]]
"""Pair -> method id -> the method and the seeds at which it trains; without a teacher under Pair(None, student)."""


def _teacher_jobs(suite: Suite) -> list[Job]:
    """A teacher is trained once a seed, wherever it teaches."""
    wanted: Wanted = {}
    for block in suite.blocks:
        for pair in block.pairs:
            tuning = {suite.tune.seed} if suite.tune and pair in suite.tune.pairs else set()
            _want(wanted, Pair(None, pair.teacher), _scratch(), {*block.seeds, *tuning})
    return _cut(suite, "teacher", wanted)


def _cohort_jobs(suite: Suite, teachers: list[Job]) -> list[Job]:
    """One cohort a pair for the methods that have a teacher, one a student for those that have none. Tuned twins, which
    wait for the tuning, have cohorts of their own."""
    plain: Wanted = {}
    twins: Wanted = {}
    for block in suite.blocks:
        for pair, method in itertools.product(block.pairs, block.trained):
            owner = pair if method.needs_teacher else Pair(None, pair.student)
            _want(twins if method.tuned_from else plain, owner, method, block.seeds)
    return [*_cut(suite, "cohort", plain, teachers), *_cut(suite, "cohort", twins, teachers, "tuned")]


def _tune_jobs(suite: Suite, teachers: list[Job]) -> list[Job]:
    """The cohorts that try every setting, and the job that chooses."""
    wanted: Wanted = {}
    for block in suite.blocks:
        for pair, method in itertools.product(block.pairs, block.methods):
            if method.tuned_from:
                for setting in tuning_settings(suite, method):
                    _want(wanted, tuning_pair(suite.tune, suite.models, pair), setting, {suite.tune.seed})
    cohorts = _cut(suite, "cohort", wanted, teachers, "tune")
    if not cohorts:
        return []
    runs = tuple(run for job in cohorts for run in job.runs)
    return [*cohorts, Job("tune", "tuned", tuned_file(suite), tuple(job.output for job in cohorts), runs)]


def tuning_settings(suite: Suite, twin: MethodSpec) -> list[MethodSpec]:
    """What a tuned twin chooses from: its method with the main weight times each factor, in the factors' order."""
    weight = method_info(twin.method).main_weight
    return [
        dataclasses.replace(
            twin,
            id=f"{twin.tuned_from}@{factor:g}",
            params=twin.params | {weight: factor * twin.params[weight]},
            tuned_from=None,
        )
        for factor in suite.tune.factors
    ]


def _want(wanted: Wanted, pair: Pair, method: MethodSpec, seeds: Iterable[int]) -> None:
    wanted.setdefault(pair, {}).setdefault(method.id, (method, set()))[1].update(seeds)


def _cut(suite: Suite, kind: str, wanted: Wanted, teachers: Sequence[Job] = (), layer: str = "") -> list[Job]:
    """Jobs of `seeds_per_job` seeds and `methods_per_job` methods each; those without a teacher first."""
    folder = home(suite) / f"{kind}s"
    jobs = []
    for pair, methods in sorted(wanted.items(), key=lambda item: item[0].teacher is not None):
        name = pair.student if kind == "teacher" else pair.id
        data = suite.models[pair.student].data
        size = suite.methods_per_job or len(methods)
        for part, some in enumerate(_chunks(tuple(methods.values()), size)):
            suffix = "".join(f".{s}" for s in (layer, f"part-{part}" if size < len(methods) else "") if s)
            for seeds in _chunks(_in_order(suite, some), suite.seeds_per_job):
                id = f"{name}/seeds-{'-'.join(map(str, seeds))}{suffix}"
                runs = tuple(
                    _run(suite, pair, method, seed, data, kind == "teacher")
                    for seed in seeds
                    for method, own_seeds in some
                    if seed in own_seeds
                )
                inputs = [data_folder(suite, data) / "meta.json", *_outputs(teachers, pair.teacher, seeds)]
                if layer == "tuned":
                    inputs.append(tuned_file(suite))
                jobs.append(Job(kind, id, folder / f"{id}.json", tuple(inputs), runs, data, pair))
    return jobs


def _outputs(jobs: Iterable[Job], student: str | None, seeds: Iterable[int]) -> list[Path]:
    """Outputs of the jobs that train this student alone at any of these seeds."""
    return [j.output for j in jobs if j.pair.student == student and {r.seed for r in j.runs} & set(seeds)]


def _in_order(suite: Suite, methods: Iterable[tuple[MethodSpec, set[int]]]) -> tuple[int, ...]:
    seeds = (*suite.seeds, *((suite.tune.seed,) if suite.tune else ()))
    return tuple(s for s in seeds if any(s in own for _, own in methods))


def _similarity_jobs(suite: Suite, teachers: list[Job], cohorts: list[Job]) -> list[Job]:
    jobs = []
    for block in suite.blocks:
        inputs = {pair: suite.models[pair.teacher].input for pair in block.pairs}
        for pair in block.pairs:
            if inputs[pair] == suite.models[pair.student].input:
                needed = [j.output for j in cohorts if j.pair in (pair, Pair(None, pair.student))]
                id = f"{block.name}/{pair.id}"
                output = home(suite) / "similarity" / f"{id}.json"
                jobs.append(Job("stages", id, output, tuple(needed), (), block.data, pair, block.name))
        for a, b in modality_pairs(suite, block):
            needed = [output for m in (a, b) for output in _outputs(teachers, m, block.seeds)]
            id = f"{block.name}/{a}--{b}"
            output = home(suite) / "channels" / f"{id}.json"
            jobs.append(Job("channels", id, output, tuple(needed), (), block.data, Pair(a, b), block.name))
    return jobs


def modality_pairs(suite: Suite, block: Block) -> list[tuple[str, str]]:
    """Teachers of a block that read different modalities of the same samples, two by two."""
    teachers = list(dict.fromkeys(pair.teacher for pair in block.pairs))
    return [(a, b) for a, b in itertools.combinations(teachers, 2) if suite.models[a].input != suite.models[b].input]


# ---------------------------------------------------------------------------------------------------------------- runs


def _scratch() -> MethodSpec:
    info = method_info(SCRATCH)
    return MethodSpec(SCRATCH, SCRATCH, {k: p.default for k, p in info.params.items()}, info.title, info.group)


def _run(suite: Suite, pair: Pair, method: MethodSpec, seed: int, data: str, is_teacher: bool) -> Run:
    student = suite.models[pair.student]
    config = {
        "data": dataclasses.asdict(suite.data[data]),
        "student": dataclasses.asdict(student),
        "recipe": dataclasses.asdict(suite.recipes[student.recipe]),
        "method": {"id": method.stream, "name": method.method, "params": method.params},
        "seed": seed,
        "precision": suite.precision,
    }
    if pair.teacher:
        config["teacher"] = dataclasses.asdict(suite.models[pair.teacher])
        config["teacher_key"] = _teacher_key(suite, pair.teacher, seed, data)
    if method.tuned_from:
        config["tuning_key"] = _tuning_key(suite, pair, method.id)
    config["versions"] = _versions(suite, pair, method, data)
    config = json.loads(json.dumps(config))
    folder = Path("teachers", pair.student) if is_teacher else Path("runs", pair.id, method.id)
    stem = home(suite) / folder / f"seed{seed}"
    return Run(pair, method, seed, data, is_teacher, config, _hash(_without_defaults(config)), stem, suite.threads)


def _versions(suite: Suite, pair: Pair, method: MethodSpec, data: str) -> dict[str, str]:
    """Versions of the parts of the package that a run computes with; the teacher's own are in the teacher's key."""
    recipe = suite.recipes[suite.models[pair.student].recipe]
    networks = {suite.models[name].timm for name in (pair.teacher, pair.student) if name} & set(own_networks())
    parts = [
        "engine",
        f"source {suite.data[data].source}",
        *(f"augmentation {key}" for key in AUGMENTATIONS if getattr(recipe, key)),
        *(f"network {name}" for name in sorted(networks)),
    ]
    return {part: version_of(part) for part in parts} | method_code(method.method)


def _without_defaults(config: dict[str, Any]) -> dict[str, Any]:
    """A run's config without what stands at its default. Defaults are frozen by a test: another one would silently give
    results of the old one the key of the new."""
    source, method = config["data"]["source"], config["method"]["name"]
    reduced = dict(config)
    for key, cls in (("student", ModelSpec), ("teacher", ModelSpec), ("recipe", Recipe)):
        if key in config:
            reduced[key] = {k: v for k, v in config[key].items() if v != _defaults(cls)[k]}
    args = changed_args(source, config["data"]["args"])
    params = {
        k: v
        for k, v in config["method"]["params"].items()
        if v != json.loads(json.dumps(method_info(method).params[k].default))
    }
    return reduced | {"data": config["data"] | {"args": args}, "method": config["method"] | {"params": params}}


@functools.cache
def _defaults(cls: type) -> dict[str, Any]:
    """{field: default} as JSON holds it; a field that must be given has none that a value could equal."""
    return {
        f.name: json.loads(json.dumps(f.default)) if f.default is not dataclasses.MISSING else dataclasses.MISSING
        for f in dataclasses.fields(cls)
    } | {"args": {}}


@functools.lru_cache(maxsize=1024)
def _teacher_key(suite: Suite, model: str, seed: int, data: str) -> str:
    return _run(suite, Pair(None, model), _scratch(), seed, data, True).key


@functools.lru_cache(maxsize=1024)
def _tuning_key(suite: Suite, pair: Pair, twin: str) -> str:
    method = next(m for block in suite.blocks for m in block.methods if m.id == twin)
    return _hash([[run.key for run in tuning_runs(suite, pair, method)], version_of("tune")])


def tuning_runs(suite: Suite, pair: Pair, twin: MethodSpec) -> list[Run]:
    """The runs among which tuning chooses the main weight of a tuned twin on a pair."""
    judged = tuning_pair(suite.tune, suite.models, pair)
    data = suite.models[judged.student].data
    return [_run(suite, judged, setting, suite.tune.seed, data, False) for setting in tuning_settings(suite, twin)]


def _chunks(items: tuple, size: int) -> Iterable[tuple]:
    return (items[i : i + size] for i in range(0, len(items), size))


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


# ------------------------------------------------------------------------------------- what a job asks a scheduler for


def gpus(suite: Suite) -> int:
    """Cards of a training job."""
    return 0 if suite.device == "cpu" else 1


def minutes(plan: Plan, job: Job, attempt: int) -> int:
    """Time of a training job: twice the longest that jobs of its kind and pair took a run, and 5 minutes to start.

    While none has been measured, what the suite says. Each attempt (1, 2, ...) asks for as much again.
    """
    measured = [seconds / runs for seconds, runs in _measured(plan, job, "seconds")]
    wanted = 5 + math.ceil(2 * max(measured) * len(job.runs) / 60) if measured else plan.suite.minutes_per_job
    return attempt * wanted


def memory_mb(plan: Plan, job: Job, attempt: int) -> int:
    """Memory of a training job: half as much again as the largest of its kind and pair, and 1 GB for Snakemake's own
    processes beside it.

    While none has been measured on a CPU, what the suite says: of jobs on a GPU the card's memory is known, not theirs.
    """
    measured = [megabytes for megabytes, _ in _measured(plan, job, "memory_mb")]
    return attempt * (1000 + math.ceil(1.5 * max(measured)) if measured else plan.suite.memory_mb)


def _measured(plan: Plan, job: Job, what: str) -> list[tuple[float, int]]:
    """(value, number of runs) of the finished jobs of a job's kind and pair, where their manifest is of today's key."""
    found = []
    for other in plan.of(job.kind):
        if other.pair == job.pair and other.output.exists():
            try:
                manifest = json.loads(other.output.read_text(encoding="utf-8"))
                value = manifest["measured"][what] if manifest["key"] == other.key else None
            except (OSError, ValueError, KeyError, TypeError):
                continue  # an older version's, or damaged: whoever needs it will say so
            if value:
                found.append((value, len(other.runs)))
    return found


def source_state(suite: Suite, job: Job) -> str:
    """Short hash of paths, sizes and times of the user's files that a data job reads: a reason to run it again.

    Raises KdbenchError when they are not there, unless the data are packed.
    """
    spec = suite.data[job.data]
    if not reads_files(spec.source):
        return ""
    from kdbench.data import packed

    return _hash(packed.source_state(spec, job.output.parent, data_dir()))[:16]


def data_dir() -> Path | None:
    """The user's folder of data files: the setting KDBENCH_DATA. Raises KdbenchError where that is no folder."""
    setting = os.environ.get("KDBENCH_DATA", "").strip()
    if not setting:
        return None
    folder = Path(os.path.expanduser(setting))  # which, unlike Path, leaves a user that there is not
    if not os.path.isdir(folder):  # Path.is_dir raises for names that are too long
        what = "is no folder" if os.path.lexists(folder) else "does not exist"
        raise KdbenchError(f"KDBENCH_DATA={setting} {what}; set it to the folder that holds your data, or unset it")
    return folder


def report_text(suite: Suite) -> str:
    """Short hash of all that a suite says but for how its jobs run: a reason to print and draw it again."""
    execution = {"device", "seeds_per_job", "methods_per_job", "checkpoint_seconds", "memory_mb", "minutes_per_job"}
    said = dataclasses.asdict(suite)
    return _hash({k: v for k, v in said.items() if k not in execution | {"jobs_per_gpu", "path"}})[:16]


def report_code(*files: str) -> str:
    """Short hash of the code that measures or draws: a reason to do it again."""
    return code_hash(*files)[:16]


def measured_methods(suite: Suite, block: str) -> list[str]:
    """The methods and seeds that a block's similarities are measured on."""
    own = next(b for b in suite.blocks if b.name == block)
    return [*(method.id for method in own.methods), *map(str, own.seeds)]


def figure_place(figure: Any) -> str:
    """Where a figure stands within its block in `snakemake --report`; figure: the wildcards of its file name."""
    return f"by {figure.view}" if hasattr(figure, "view") else "all"


def figure_labels(suite: Suite, figure: Any) -> dict[str, str]:
    """What tells a figure from its neighbours there. The report makes a switch of low and high."""
    if not hasattr(figure, "view"):
        return {"figure": figure.kind, "suite": suite.name}
    return {figure.view: figure.shown, "suite": suite.name, "frequencies": figure.band}
