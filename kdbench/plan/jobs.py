"""Suite -> jobs and runs. The Snakefile, the command line and the tables all ask here."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdbench.errors import unknown
from kdbench.plan.blocks import tuning_pair
from kdbench.plan.keys import hash_of, version_of, versions_of_run, without_defaults
from kdbench.plan.paths import data_folder, home, of_budget, owner_of, runs_folder, tuned_file
from kdbench.plan.registry import method_info, source_constant
from kdbench.types import Block, KdbenchError, MethodSpec, Pair, Suite, Tune

SCRATCH = "scratch"


@dataclass(frozen=True)
class Run:
    """One (pair, method, seed, budget) of a suite; a teacher is the run of `scratch` on a pair without a teacher."""

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
    budget: float = 1
    """Multiple of the steps or epochs of the student's recipe that it trains for; `config` holds that longer recipe."""
    threads: int = 1
    """Threads it computes with: another number gives other last bits."""
    tuned: dict[str, float] | None = None
    """{parameter: value} that tuning chose, once it is known; its key is that of the tuning."""
    input_hashes: str = ""
    """Checksums of the data and of the teacher that it trains with, once it does."""

    @property
    def gate(self) -> tuple[float, ...]:
        """Of a teacher with given weights: the test accuracy that it must show, and by how much that may differ."""
        model = self.config["student"]
        return (model["accuracy"], model["tolerance"]) if self.is_teacher and model["accuracy"] is not None else ()

    @functools.cached_property
    def result(self) -> Path:
        return self.stem.with_suffix(".json")

    @property
    def state_key(self) -> str:
        """What a half-trained state must carry for this run to go on from it: all that its numbers come from."""
        return " ".join(
            [self.key, *(f"{name}={value!r}" for name, value in (self.tuned or {}).items()), self.input_hashes]
        )


@dataclass(frozen=True)
class Job:
    """One process. `runs` are those that a teacher or cohort job trains, or that the tuning chooses from."""

    kind: str
    id: str
    output: Path
    inputs: tuple[Path, ...] = ()
    runs: tuple[Run, ...] = ()
    data: str = ""
    seed: int | None = None
    """Of a data job: the seed that trains with these data, or the first of those that share them."""
    pair: Pair | None = None
    block: str = ""
    """Name of the block that a similarity job belongs to."""

    @property
    def budget(self) -> float:
        """Of all its runs: another one has another schedule."""
        return self.runs[0].budget

    @property
    def key(self) -> str:
        """Changes when any number this job makes may change: the reason for Snakemake to run it again."""
        return hash_of([(run.key, run.threads, *run.gate) for run in self.runs])[:16]


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

    def runs(self, budget: float = 1) -> dict[tuple[str, str, int], Run]:
        """{(pair id, method id, seed): run} of all students; teacher-free runs stand under 'none--STUDENT'."""
        return {place[:3]: run for place, run in self._runs.items() if run.budget == budget}

    @functools.cached_property
    def _runs(self) -> dict[tuple[str, str, int, float], Run]:
        return {(r.pair.id, r.method.id, r.seed, r.budget): r for job in self.of("cohort") for r in job.runs}

    def run_of(self, pair: Pair, method: MethodSpec, seed: int, budget: float) -> Run:
        """The run that fills a cell: for a method without a teacher, the one of the student alone."""
        pair = pair if method.belongs_to_pair else Pair(None, pair.student)
        return self._runs[pair.id, method.id, seed, budget]

    def teacher(self, model: str, seed: int) -> Run:
        seed = teacher_seed(self.suite, model, seed)
        return next(r for job in self.of("teacher") for r in job.runs if r.pair.student == model and r.seed == seed)


def make_plan(suite: Suite) -> Plan:
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


def _data_jobs(suite: Suite) -> list[Job]:
    """One a data set, or one for each of its seeds where these draw their own."""
    jobs: dict[Path, Job] = {}
    for block in suite.blocks:
        for seed in dict.fromkeys(seed for pair in block.pairs for seed in _teacher_seeds(suite, block, pair)):
            folder = data_folder(suite, block.data, seed)
            jobs.setdefault(folder, Job("data", folder.name, folder / "meta.json", data=block.data, seed=seed))
    return list(jobs.values())


def _teacher_seeds(suite: Suite, block: Block, pair: Pair) -> tuple[int, ...]:
    """Seeds at which the teacher of a pair is trained: the block's, and that of the tuning."""
    return (*block.seeds, *suite.tune.seeds) if suite.tune and pair in suite.tune.pairs else block.seeds


def teacher_seed(suite: Suite, model: str, seed: int) -> int:
    """The seed whose run is the teacher of this one: its own, or the suite's first for all where the suite has one
    teacher or takes it as it is."""
    return suite.seeds[0] if suite.one_teacher or suite.models[model].recipe is None else seed


Wanted = dict[tuple[Pair, float], dict[str, tuple[MethodSpec, set[int]]]]
"""Pair and budget -> method id -> the method and the seeds at which it trains; without a teacher under Pair(None,
student)."""


def _teacher_jobs(suite: Suite) -> list[Job]:
    """A teacher is trained once a seed, wherever it teaches; one that is taken as it is has one run for all seeds."""
    wanted: Wanted = {}
    for block in suite.blocks:
        for pair in block.pairs:
            seeds = {teacher_seed(suite, pair.teacher, seed) for seed in _teacher_seeds(suite, block, pair)}
            _want(wanted, Pair(None, pair.teacher), 1, _scratch(), seeds)
    return _cut(suite, "teacher", wanted)


def _cohort_jobs(suite: Suite, teachers: list[Job]) -> list[Job]:
    """One cohort a pair and budget for the methods that have a teacher, one a student and budget for those that have
    none. Tuned twins, which wait for the tuning, have cohorts of their own, and so has each Scratch at the compute of
    another method, since its schedule is its own."""
    plain: Wanted = {}
    twins: Wanted = {}
    equal: dict[str, Wanted] = {}
    for block in suite.blocks:
        trained = [(budget, method) for budget, methods in block.lengths.items() for method in methods]
        for pair, (budget, method) in itertools.product(block.pairs, trained):
            owner = pair if method.belongs_to_pair else Pair(None, pair.student)
            layer = equal.setdefault(method.id, {}) if method.compute_of else twins if method.tuned_from else plain
            _want(layer, owner, budget, method, block.seeds)
    layers = {"": plain, "tuned": twins, **equal}
    return [job for layer, wanted in layers.items() for job in _cut(suite, "cohort", wanted, teachers, layer)]


def _tune_jobs(suite: Suite, teachers: list[Job]) -> list[Job]:
    """The cohorts that try every setting, and the job that chooses."""
    wanted: Wanted = {}
    for block in suite.blocks:
        for pair, method in itertools.product(block.pairs, block.methods):
            if method.tuned_from:
                judged = tuning_pair(suite.tune, suite.models, pair)
                for setting in tuning_settings(suite, method):
                    _want(wanted, judged, suite.tune.budget, setting, suite.tune.seeds)
    cohorts = _cut(suite, "cohort", wanted, teachers, "tune")
    if not cohorts:
        return []
    runs = tuple(run for job in cohorts for run in job.runs)
    return [*cohorts, Job("tune", "tuned", tuned_file(suite), tuple(job.output for job in cohorts), runs)]


def tuning_grid(tune: Tune, method: str) -> list[tuple[float, float | None]]:
    """The factors, with each temperature where the method tries temperatures, else with None."""
    temperatures = tune.temperatures if method_info(method).tune_temperature else ()
    return list(itertools.product(tune.factors, map(float, temperatures) if temperatures else [None]))


def tuning_settings(suite: Suite, twin: MethodSpec) -> list[MethodSpec]:
    """What a tuned twin chooses from: its method with the weight and the temperature of each point of the grid."""
    info, settings = method_info(twin.method), []
    for factor, temperature in tuning_grid(suite.tune, twin.method):
        id = f"{twin.stream}@{factor:g}"
        params = twin.params | {info.main_weight: factor * twin.params[info.main_weight]}
        if temperature is not None:
            id, params = f"{id}-T{temperature:g}", params | {info.tune_temperature: temperature}
        settings.append(dataclasses.replace(twin, id=id, params=params, tuned_from=None, guide="trained"))
    return settings


def _want(wanted: Wanted, pair: Pair, budget: float, method: MethodSpec, seeds: Iterable[int]) -> None:
    wanted.setdefault((pair, budget), {}).setdefault(method.id, (method, set()))[1].update(seeds)


def _cut(suite: Suite, kind: str, wanted: Wanted, teachers: Sequence[Job] = (), layer: str = "") -> list[Job]:
    """Jobs of `seeds_per_job` seeds and `methods_per_job` methods each; those without a teacher first."""
    folder = home(suite) / f"{kind}s"
    jobs = []
    for (pair, budget), methods in sorted(wanted.items(), key=lambda item: item[0][0].teacher is not None):
        name = pair.student if kind == "teacher" else pair.id
        data = suite.models[pair.student].data
        size = suite.methods_per_job or len(methods)
        made = {
            (run.method.id, run.seed): run
            for method, own_seeds in methods.values()
            for run in _runs(suite, pair, method, own_seeds, data, budget, kind == "teacher")
        }
        for part, some in enumerate(_chunks(tuple(methods.values()), size)):
            marks = (of_budget(budget, ""), layer, f"part-{part}" if size < len(methods) else "")
            suffix = "".join(f".{mark}" for mark in marks if mark)
            for seeds in _chunks(_in_order(suite, some), suite.seeds_per_job):
                id = f"{name}/seeds-{'-'.join(map(str, seeds))}{suffix}"
                runs = tuple(made[method.id, seed] for seed in seeds for method, own in some if seed in own)
                packed = dict.fromkeys(data_folder(suite, data, seed) / "meta.json" for seed in seeds)
                inputs = [*packed, *_outputs(suite, teachers, pair.teacher, seeds)]
                if layer == "tuned":
                    inputs.append(tuned_file(suite))
                jobs.append(Job(kind, id, folder / f"{id}.json", tuple(inputs), runs, data=data, pair=pair))
    return jobs


def _outputs(suite: Suite, teachers: Iterable[Job], model: str | None, seeds: Iterable[int]) -> list[Path]:
    """Outputs of the jobs of a model's teachers at any of these seeds."""
    own = {teacher_seed(suite, model, seed) for seed in seeds} if model else set()
    return [j.output for j in teachers if j.pair.student == model and {r.seed for r in j.runs} & own]


def _in_order(suite: Suite, methods: Iterable[tuple[MethodSpec, set[int]]]) -> tuple[int, ...]:
    seeds = (*suite.seeds, *(suite.tune.seeds if suite.tune else ()))
    return tuple(s for s in seeds if any(s in own for _, own in methods))


def _similarity_jobs(suite: Suite, teachers: list[Job], cohorts: list[Job]) -> list[Job]:
    jobs = []
    for block in suite.blocks:
        inputs = {pair: suite.models[pair.teacher].input for pair in block.pairs}
        for pair in block.pairs:
            if inputs[pair] == suite.models[pair.student].input:
                shown = [j for j in cohorts if j.budget == block.budget]
                needed = [j.output for j in shown if j.pair in (pair, Pair(None, pair.student))]
                id = f"{block.name}/{pair.id}"
                output = home(suite) / "similarity" / f"{id}.json"
                jobs.append(Job("stages", id, output, tuple(needed), data=block.data, pair=pair, block=block.name))
        for a, b in modality_pairs(suite, block):
            taught = [pair for pair in block.pairs if pair.teacher in (a, b)]
            shown = [Pair(teacher, pair.student) for pair in taught for teacher in (None, pair.teacher)]
            needed = [output for m in (a, b) for output in _outputs(suite, teachers, m, block.seeds)]
            needed += [j.output for j in cohorts if j.budget == block.budget and j.pair in shown]
            id = f"{block.name}/{a}--{b}"
            output = home(suite) / "channels" / f"{id}.json"
            jobs.append(Job("channels", id, output, tuple(needed), data=block.data, pair=Pair(a, b), block=block.name))
    return jobs


def modality_pairs(suite: Suite, block: Block) -> list[tuple[str, str]]:
    """Teachers of a block that read different modalities of the same samples, two by two."""
    teachers = list(dict.fromkeys(pair.teacher for pair in block.pairs))
    return [(a, b) for a, b in itertools.combinations(teachers, 2) if suite.models[a].input != suite.models[b].input]


def _scratch() -> MethodSpec:
    info = method_info(SCRATCH)
    return MethodSpec(SCRATCH, SCRATCH, {k: p.default for k, p in info.params.items()}, info.title, info.group)


def _config(suite: Suite, pair: Pair, method: MethodSpec, data: str, budget: float) -> dict[str, Any]:
    """What all seeds of a run share of its config, as JSON holds it."""
    student, spec = suite.models[pair.student], suite.data[data]
    config = {
        "data": {"name": spec.name, "source": spec.source, "args": spec.args},
        "student": dataclasses.asdict(student),
        "method": {"id": method.stream, "name": method.method, "params": method.params},
        "precision": suite.precision,
    }
    if decoder := source_constant(spec.source, "DECODER"):
        config["data"]["decoder"] = decoder
    if student.recipe:
        config["recipe"] = dataclasses.asdict(suite.recipes[student.recipe].times(budget))
    if suite.edition != 1:
        config["edition"] = suite.edition
    if pair.teacher:
        config["teacher"] = dataclasses.asdict(suite.models[pair.teacher])
    if method.guide != "trained":
        config["guide"] = method.guide
    if method.compute_of:
        config["compute_of"] = {"name": method.compute_of.method, "params": method.compute_of.params}
    if method.tuned_from:
        config["tuning_key"] = _tuning_key(suite, pair, method.id)
    config["versions"] = versions_of_run(suite, pair, method, data)
    return json.loads(json.dumps(config))


def _runs(
    suite: Suite,
    pair: Pair,
    method: MethodSpec,
    seeds: Iterable[int],
    data: str,
    budget: float,
    is_teacher: bool = False,
) -> list[Run]:
    config = _config(suite, pair, method, data, budget)
    reduced = without_defaults(config)
    folder = home(suite) / "teachers" / pair.student if is_teacher else runs_folder(suite, budget) / pair.id / method.id
    runs = []
    for seed in seeds:
        own: dict[str, Any] = {"seed": seed} if suite.models[pair.student].recipe else {}
        if pair.teacher:
            own["teacher_key"] = _teacher_key(suite, pair.teacher, seed, data)
        draw, stem = suite.data[data].draw(seed), folder / f"seed{seed}"
        whole, brief = (_of_seed(part, own, draw) for part in (config, reduced))
        runs.append(Run(pair, method, seed, data, is_teacher, whole, hash_of(brief), stem, budget, suite.threads))
    return runs


def _of_seed(config: dict[str, Any], own: dict[str, Any], draw: dict[str, int]) -> dict[str, Any]:
    """What all seeds share of a config, and what is a seed's own: its draw of the data among it."""
    data = config["data"]
    return config | own | {"data": data | {"args": data["args"] | draw}}


@functools.lru_cache(maxsize=4096)
def _teacher_key(suite: Suite, model: str, seed: int, data: str) -> str:
    return _runs(suite, Pair(None, model), _scratch(), [seed], data, 1, True)[0].key


@functools.lru_cache(maxsize=1024)
def _tuning_key(suite: Suite, pair: Pair, twin: str) -> str:
    method = next(m for block in suite.blocks for m in block.methods if m.id == twin)
    tried = itertools.chain.from_iterable(tuning_runs(suite, pair, method))
    return hash_of([[run.key for run in tried], version_of("tune")])


def tuning_runs(suite: Suite, pair: Pair, twin: MethodSpec) -> list[list[Run]]:
    """The runs among which tuning chooses for a tuned twin on a pair: a list a setting, in it a run a tuning seed."""
    judged = tuning_pair(suite.tune, suite.models, pair)
    data = suite.models[judged.student].data
    settings, seeds, budget = tuning_settings(suite, twin), suite.tune.seeds, suite.tune.budget
    return [_runs(suite, judged, setting, seeds, data, budget) for setting in settings]


def _chunks(items: tuple, size: int) -> Iterable[tuple]:
    return (items[i : i + size] for i in range(0, len(items), size))


def jobs_of_teacher(plan: Plan, model: str) -> list[Job]:
    """Teacher jobs of a model. Raises KdbenchError that names the nearest teacher."""
    jobs = [job for job in plan.of("teacher") if job.pair.student == model]
    if not jobs:
        raise unknown("teacher", model, (j.pair.student for j in plan.of("teacher")), f"suite {plan.suite.name}")
    return jobs


def jobs_of_pair(plan: Plan, pair: str) -> list[Job]:
    """Cohort jobs of a pair. Raises KdbenchError that names the nearest pair."""
    jobs = [job for job in plan.of("cohort") if job.pair.id == pair]
    if not jobs:
        raise unknown("pair", pair, {j.pair.id for j in plan.of("cohort")}, f"suite {plan.suite.name}")
    return jobs
