"""Runs trained networks over test samples for similarity.py: which networks, which samples, nothing else."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from kdbench.data.packed import load_packed
from kdbench.files import write_json
from kdbench.plan.jobs import Job, Plan, Run
from kdbench.plan.paths import data_folder
from kdbench.results.record import FINISHED, load_weights
from kdbench.results.today import Stale, Today
from kdbench.similarity import channel_similarity, radial_power, stage_similarity_to
from kdbench.train import networks
from kdbench.train.batches import Batches
from kdbench.types import KdbenchError, ModelSpec

SAMPLES = 200
"""Test samples that similarities are measured on; the first ones, in the data set's own (shuffled) order."""
PERMUTATIONS = 50
NO_STAGES = "a network with fewer than four stages"
EMPTY_ROWS = [{"stage": stage, "band": band} for stage in (1, 2, 3, 4) for band in ("dc", "low", "high")]


def stages(plan: Plan, job: Job) -> dict[str, list[dict[str, Any]]]:
    """What teacher and student of a pair show by stage, from one forward pass a network:

    - "rows": similarity.stage_similarity, with "seed" and "method" ("before": the student untrained);
    - "spectra": similarity.radial_power, with "seed", "role" ("teacher" or "student"), "model", "method" (None for the
      teacher) and "stage". A network with fewer than four stages has none.
    """
    block = next(b for b in plan.suite.blocks if b.name == job.block)
    student, today = plan.suite.models[job.pair.student], Today(plan)
    rows, spectra = [], []
    for seed in block.seeds:
        batches = _batches(plan, job, seed)
        teacher = _read(
            plan, job.pair.teacher, load_weights(_trained_teacher(today, job.pair.teacher, seed)), batches, seed
        )
        spectra += _spectra(teacher["stages"], seed=seed, role="teacher", model=job.pair.teacher, method=None)
        to_teacher = stage_similarity_to(teacher["stages"], permutations=PERMUTATIONS, seed=seed)
        candidates: dict[str, dict[str, Tensor] | None] = {"before": None}
        for method in block.methods:
            run = plan.run_of(job.pair, method, seed, block.budget)
            try:
                record = today.record(run)
            except Stale as reason:
                raise KdbenchError(f"{run.result}: {reason}; run snakemake") from None
            if record["status"] == FINISHED:
                candidates[method.id] = load_weights(run)
        for name, weights in candidates.items():
            shown = _read(plan, student.name, weights, batches, seed)
            if shown["stages"] and teacher["stages"]:
                measured = to_teacher(shown["stages"])
            else:
                measured = [dict(row, cka=None, null_low=None, null_high=None, reason=NO_STAGES) for row in EMPTY_ROWS]
            rows += [{"seed": seed, "method": name, **row} for row in measured]
            spectra += _spectra(shown["stages"], seed=seed, role="student", model=student.name, method=name)
    return {"rows": rows, "spectra": spectra}


def _spectra(maps: Iterable[Tensor], **who: Any) -> list[dict[str, Any]]:
    return [{**who, "stage": stage, **radial_power(x)} for stage, x in enumerate(maps, start=1)]


def channels(plan: Plan, job: Job) -> dict[str, list[dict[str, Any]]]:
    """The "rows" of similarity.channel_similarity for two independently trained teachers of different modalities."""
    block = next(b for b in plan.suite.blocks if b.name == job.block)
    today, rows = Today(plan), []
    for seed in block.seeds:
        batches = _batches(plan, job, seed)
        a, b = (
            _read(plan, m, load_weights(_trained_teacher(today, m, seed)), batches, seed)["pooled_preact"]
            for m in (job.pair.teacher, job.pair.student)
        )
        rows += [{"seed": seed, **row} for row in channel_similarity(a, b, batches.labels("test")[:SAMPLES], seed=seed)]
    return {"rows": rows}


def _batches(plan: Plan, job: Job, seed: int) -> Batches:
    """The test samples, which all seeds share, normalised as the networks of this seed know it from training."""
    pack = load_packed(data_folder(plan.suite, job.data, seed))
    modalities = {plan.suite.models[m].input for m in (job.pair.teacher, job.pair.student)}
    return Batches(pack, modalities, torch.device("cpu"))


def _trained_teacher(today: Today, model: str, seed: int) -> Run:
    today.teacher(model, seed)
    return today.plan.teacher(model, seed)


@torch.no_grad()
def _read(plan: Plan, name: str, weights: dict[str, Tensor] | None, batches: Batches, seed: int) -> dict[str, Any]:
    """{"stages": 4 x (N, C, H, W) or (), "pooled_preact": (N, D)} of a network, at its start where weights is None."""
    spec: ModelSpec = plan.suite.models[name]
    reader = networks.reader(spec, batches.shape[spec.input], batches.classes, seed, weights=weights)
    reader.model.eval()
    signals = [reader(x) for x in batches.evaluation(spec.input, "test", batch_size=SAMPLES, limit=SAMPLES)]
    return {
        "stages": tuple(torch.cat(maps) for maps in zip(*(s.stages or () for s in signals), strict=True)),
        "pooled_preact": torch.cat([s.pooled_preact for s in signals]),
    }


def run_similarity(plan: Plan, job: Job) -> None:
    """Teacher against student by stage and band, before and after every method; or two teachers by channel band."""
    torch.set_num_threads(plan.suite.threads)
    measured = stages(plan, job) if job.kind == "stages" else channels(plan, job)
    head = {"kind": job.kind, "block": job.block, "pair": job.pair.id, "a": job.pair.teacher, "b": job.pair.student}
    write_json(job.output, {**head, **measured})
