"""Suite -> jobs and runs with stable ids and paths. The Snakefile, the command line and the tables all ask here.

    data      results/data/NAME-HASH/meta.json              one a data set, shared by all suites
    teacher   results/SUITE/teachers/MODEL/seeds-0-1.json   manifest of the runs teachers/MODEL/seedN.json
    cohort    results/SUITE/cohorts/PAIR/seeds-0-1.json     manifest of the runs runs/PAIR/METHOD/seedN.json
    stages    results/SUITE/similarity/PAIR.json            teacher and student by stage and band
    channels  results/SUITE/channels/A--B.json              two teachers of different modalities

A job declares only its manifest to Snakemake. Runs and checkpoints are undeclared, so that Snakemake neither deletes
them before a job nor after a failure.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib
import itertools
import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdbench.errors import unknown
from kdbench.registry import code_hash, method_info, module_files, reads_files
from kdbench.types import Block, MethodSpec, Pair, Suite

RESULTS, TABLES = Path("results"), Path("tables")
SCRATCH = "scratch"
ENGINE_FILES = ("engine.py", "signals.py", "models.py", "batches.py", "data/packed.py", "methods/base.py")
"""Files that the numbers of every run depend on; a method's own file and what it imports come on top."""


@dataclass(frozen=True)
class Run:
    """One (pair, method, seed) of a suite; a teacher is the run of `scratch` on a pair without a teacher."""

    pair: Pair
    method: MethodSpec
    seed: int
    data: str
    is_teacher: bool
    config: dict[str, Any]
    """All that its numbers depend on, resolved: data, models, recipe, method, seed, precision, code, teacher's key."""
    key: str
    """Hash of `config`."""
    stem: Path
    """Path of its files without suffix: .json (the result), .npz (predictions), .safetensors (weights)."""

    @property
    def result(self) -> Path:
        return self.stem.with_suffix(".json")


@dataclass(frozen=True)
class Job:
    """One process. `runs` is empty but for teacher and cohort jobs."""

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
        return _hash([run.key for run in self.runs])[:16]


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
        return {(r.pair.id, r.method.id, r.seed): r for job in self.of("cohort") for r in job.runs}

    def run_of(self, pair: Pair, method: MethodSpec, seed: int) -> Run:
        """The run that fills a cell: for a method without a teacher, the one of the student alone."""
        pair = pair if method.needs_teacher else Pair(None, pair.student)
        return self.runs()[pair.id, method.id, seed]

    def teacher(self, model: str, seed: int) -> Run:
        return next(r for job in self.of("teacher") for r in job.runs if r.pair.student == model and r.seed == seed)


def plan(suite: Suite) -> Plan:
    """Every job of a suite."""
    return Plan(suite, (*_data_jobs(suite), *_teacher_jobs(suite), *_cohort_jobs(suite), *_similarity_jobs(suite)))


def home(suite: Suite) -> Path:
    """The folder that holds all results of a suite."""
    return RESULTS / suite.name


def data_folder(suite: Suite, name: str) -> Path:
    """Where a packed data set lies; its name changes with its arguments and its source's code."""
    spec = suite.data[name]
    return RESULTS / "data" / f"{name}-{_hash([spec.source, spec.args, code_hash(f'data/{spec.source}.py')])[:8]}"


def table_files(suite: Suite) -> list[Path]:
    return [TABLES / f"{suite.name}.{suffix}" for suffix in ("md", "tex", "csv")]


# ---------------------------------------------------------------------------------------------------------------- jobs


def _data_jobs(suite: Suite) -> list[Job]:
    used = {block.data: None for block in suite.blocks}
    return [Job("data", data_folder(suite, n).name, data_folder(suite, n) / "meta.json", data=n) for n in used]


def _teacher_jobs(suite: Suite) -> list[Job]:
    names = {pair.teacher: block.data for block in suite.blocks for pair in block.pairs}
    return [_teacher_job(suite, name, data) for name, data in names.items()]


def _teacher_job(suite: Suite, model: str, data: str) -> Job:
    """A teacher is trained once a seed; its seeds share one process."""
    return _training_job(suite, "teacher", Pair(None, model), (_scratch(),), data)


def _cohort_jobs(suite: Suite) -> list[Job]:
    """One cohort a pair for the methods that have a teacher, one a student for those that have none."""
    cohorts: dict[Pair, tuple[dict[str, MethodSpec], str]] = {}
    for block in suite.blocks:
        for pair, method in itertools.product(block.pairs, block.methods):
            owner = pair if method.needs_teacher else Pair(None, pair.student)
            cohorts.setdefault(owner, ({}, block.data))[0][method.id] = method
    return [
        job
        for pair, (methods, data) in sorted(cohorts.items(), key=lambda item: item[0].teacher is not None)
        for job in _cut(suite, pair, tuple(methods.values()), data)
    ]


def _cut(suite: Suite, pair: Pair, methods: tuple[MethodSpec, ...], data: str) -> Iterable[Job]:
    size = suite.methods_per_job or len(methods)
    for part in range(0, len(methods), size):
        suffix = f".part-{part // size}" if size < len(methods) else ""
        for seeds in _chunks(suite.seeds, suite.seeds_per_job):
            yield _training_job(suite, "cohort", pair, methods[part : part + size], data, seeds, suffix)


def _training_job(
    suite: Suite,
    kind: str,
    pair: Pair,
    methods: tuple[MethodSpec, ...],
    data: str,
    seeds: tuple[int, ...] = (),
    suffix: str = "",
) -> Job:
    seeds = seeds or suite.seeds
    folder = home(suite) / ("teachers" if kind == "teacher" else "cohorts")
    name = pair.student if kind == "teacher" else pair.id
    part = "seeds-" + "-".join(map(str, seeds)) + suffix
    inputs = [data_folder(suite, data) / "meta.json"]
    if pair.teacher:
        inputs.append(_teacher_job(suite, pair.teacher, data).output)
    runs = tuple(_run(suite, pair, m, seed, data, kind == "teacher") for seed in seeds for m in methods)
    return Job(kind, f"{name}/{part}", folder / name / f"{part}.json", tuple(inputs), runs, data, pair)


def _similarity_jobs(suite: Suite) -> list[Job]:
    cohorts = _cohort_jobs(suite)
    jobs = []
    for block in suite.blocks:
        inputs = {pair: suite.models[pair.teacher].input for pair in block.pairs}
        for pair in block.pairs:
            if inputs[pair] == suite.models[pair.student].input:
                needed = [j.output for j in cohorts if j.pair in (pair, Pair(None, pair.student))]
                output = home(suite) / "similarity" / f"{pair.id}.json"
                jobs.append(Job("stages", pair.id, output, tuple(needed), (), block.data, pair, block.name))
        for a, b in modality_pairs(suite, block):
            needed = [_teacher_job(suite, m, block.data).output for m in (a, b)]
            output = home(suite) / "channels" / f"{a}--{b}.json"
            jobs.append(Job("channels", f"{a}--{b}", output, tuple(needed), (), block.data, Pair(a, b), block.name))
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
        "method": {"id": method.id, "name": method.method, "params": method.params},
        "seed": seed,
        "precision": suite.precision,
    }
    if pair.teacher:
        teacher = _run(suite, Pair(None, pair.teacher), _scratch(), seed, data, True)
        config["teacher"] = dataclasses.asdict(suite.models[pair.teacher])
        config["teacher_key"] = teacher.key
    files = (*ENGINE_FILES, f"data/{suite.data[data].source}.py", *module_files(method.method))
    config["code_sha256"] = code_hash(*files)
    config = json.loads(json.dumps(config))
    folder = Path("teachers", pair.student) if is_teacher else Path("runs", pair.id, method.id)
    stem = home(suite) / folder / f"seed{seed}"
    return Run(pair, method, seed, data, is_teacher, config, _hash(config), stem)


def _chunks(items: tuple, size: int) -> Iterable[tuple]:
    return (items[i : i + size] for i in range(0, len(items), size))


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def source_files(suite: Suite, job: Job) -> list[Path]:
    """Files outside the project that a data job reads. Raises KdbenchError when one is not there."""
    spec = suite.data[job.data]
    if not reads_files(spec.source):
        return []
    return importlib.import_module(f"kdbench.data.{spec.source}").source_files(spec.args, data_dir())


def data_dir() -> Path | None:
    """The user's folder of data files: the setting KDBENCH_DATA."""
    return Path(os.environ["KDBENCH_DATA"]) if os.environ.get("KDBENCH_DATA") else None


def report_code(*files: str) -> str:
    """Short hash of the code that measures or draws: a reason to do it again."""
    return code_hash(*files)[:16]
