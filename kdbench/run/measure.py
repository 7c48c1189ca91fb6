"""Runs trained networks over test samples for similarity.py: which networks, which samples, nothing else."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from kdbench.data.packed import load_packed
from kdbench.files import write_json
from kdbench.plan.jobs import SCRATCH, Job, Plan, Run
from kdbench.plan.paths import data_folder
from kdbench.results.record import FINISHED, load_weights
from kdbench.results.today import Stale, Today
from kdbench.similarity import (
    channel_cka,
    channel_mean_share,
    channel_similarity,
    radial_power,
    rotated_similarity,
    stage_similarity,
    stage_similarity_to,
)
from kdbench.train import networks
from kdbench.train.batches import Batches
from kdbench.types import KdbenchError, ModelSpec, Pair, Signals

SAMPLES = 200
"""Test samples that similarities are measured on; the first ones, in the data set's own (shuffled) order."""
PERMUTATIONS = 50
TRUE_PAIRS = ("DC kept", "DC removed")
Seen = tuple[int, Sequence[Tensor]]
"""A seed, and the stages of its network."""
NO_STAGES = "a network with fewer than four stages"
EMPTY_ROWS = [{"stage": stage, "band": band} for stage in (1, 2, 3, 4) for band in ("dc", "low", "high")]


def stages(plan: Plan, job: Job) -> dict[str, list[dict[str, Any]]]:
    """What teacher and student of a pair show by stage, from one forward pass a network:

    - "rows": similarity.stage_similarity, with "seed" and "method" ("before": the student untrained);
    - "spectra": similarity.radial_power, with "seed", "role" ("teacher" or "student"), "model", "method" (None for the
      teacher) and "stage". A network with fewer than four stages has none;
    - "ceiling": CKA of the student trained from scratch with one of the block's seeds and with the next ("seeds"), in
      the bands of the pair.
    """
    block = next(b for b in plan.suite.blocks if b.name == job.block)
    student, today = plan.suite.models[job.pair.student], Today(plan)
    rows, spectra, ceiling, before = [], [], [], None
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
            if _finished(today, run):
                candidates[method.id] = load_weights(run)
        for name, weights in candidates.items():
            shown = _read(plan, student.name, weights, batches, seed)
            if shown["stages"] and teacher["stages"]:
                measured = to_teacher(shown["stages"])
            else:
                measured = [dict(row, cka=None, null_low=None, null_high=None, reason=NO_STAGES) for row in EMPTY_ROWS]
            rows += [{"seed": seed, "method": name, **row} for row in measured]
            spectra += _spectra(shown["stages"], seed=seed, role="student", model=student.name, method=name)
            if name == SCRATCH and shown["stages"] and teacher["stages"]:
                now = seed, shown["stages"]
                ceiling += _ceiling(before, now, teacher["stages"]) if before else []
                before = now
    return {"rows": rows, "spectra": spectra, "ceiling": ceiling}


def _ceiling(one: Seen, other: Seen, teacher: Sequence[Tensor]) -> list[dict[str, Any]]:
    grids = [(maps.shape[-2], maps.shape[-1]) for maps in teacher]
    rows = stage_similarity_to(one[1], permutations=0, grids=grids)(other[1])
    return [{"seeds": [one[0], other[0]], **{k: row[k] for k in ("stage", "band", "cka", "reason")}} for row in rows]


def _spectra(maps: Iterable[Tensor], **who: Any) -> list[dict[str, Any]]:
    return [{**who, "stage": stage, **radial_power(x)} for stage, x in enumerate(maps, start=1)]


def channels(plan: Plan, job: Job) -> dict[str, list[dict[str, Any]]]:
    """What the pooled features of two independently trained teachers of different modalities share:

    - "rows": similarity.channel_similarity before the last activation, with "seed";
    - "after": the same after it, true pairs only; empty where neither network ends in an activation;
    - "others": the same before it for other networks, true pairs only, with "networks": the two teachers untrained, and
      each student that reads the other modality with its teacher ("raster-t and outline-s after kd");
    - "channel_mean": similarity.channel_mean_share of both sides, by seed and feature ("before", "after");
    - "cka": similarity.channel_cka, and by spatial band similarity.stage_similarity ("treatment" is the stage);
    - "rotated": similarity.rotated_similarity of test features, its rotation fitted on validation.
    """
    block = next(b for b in plan.suite.blocks if b.name == job.block)
    models, today = (job.pair.teacher, job.pair.student), Today(plan)
    found: dict[str, list[dict[str, Any]]] = {
        name: [] for name in ("rows", "after", "others", "channel_mean", "cka", "rotated")
    }
    for seed in block.seeds:
        batches = _batches(plan, job, seed)
        labels = batches.labels("test")[:SAMPLES]
        weights = {m: load_weights(_trained_teacher(today, m, seed)) for m in models}
        teachers = {m: _read(plan, m, weights[m], batches, seed) for m in models}
        a, b = (teachers[m] for m in models)
        for feature, name in (("before", "pooled_preact"), ("after", "pooled")):
            if feature == "after" and all(torch.equal(x["pooled"], x["pooled_preact"]) for x in (a, b)):
                continue
            measured = channel_similarity(a[name], b[name], labels, seed=seed)
            kept = [{"seed": seed, **row} for row in measured if feature == "before" or row["treatment"] in TRUE_PAIRS]
            found["rows" if feature == "before" else "after"] += kept
            shares = {f"share_{side}": channel_mean_share(x[name]) for side, x in (("a", a), ("b", b))}
            found["channel_mean"].append({"seed": seed, "feature": feature, **shares})
        found["cka"] += [{"seed": seed, **row} for row in _band_cka(a, b, seed)]

        untrained = [_read(plan, m, None, batches, seed) for m in models]
        others = [(f"{' and '.join(models)} untrained", *untrained)]
        for pair, method, student in _finished_students(plan, job, today, seed):
            read = _read(plan, pair.student, student, batches, seed)
            others.append((f"{pair.teacher} and {pair.student} after {method}", teachers[pair.teacher], read))
        for networks_shown, *sides in others:
            measured = channel_similarity(*(x["pooled_preact"] for x in sides), labels, seed=seed, draws=1)
            kept = [row for row in measured if row["treatment"] in TRUE_PAIRS]
            found["others"] += [{"seed": seed, "networks": networks_shown, **row} for row in kept]

        fit = [_validation(plan, m, weights[m], batches, seed) for m in models]
        rotated = rotated_similarity(*fit, a["pooled_preact"], b["pooled_preact"], seed=seed)
        found["rotated"] += [{"seed": seed, **row} for row in rotated]
    return found


def _band_cka(a: dict[str, Any], b: dict[str, Any], seed: int) -> list[dict[str, Any]]:
    rows = channel_cka(a["pooled_preact"], b["pooled_preact"], PERMUTATIONS, seed)
    if a["stages"] and b["stages"]:
        for row in stage_similarity(a["stages"], b["stages"], PERMUTATIONS, seed):
            rows.append({"treatment": f"stage {row.pop('stage')}, over space", **row})
    return rows


def _finished_students(plan: Plan, job: Job, today: Today, seed: int) -> Iterator[tuple[Pair, str, dict[str, Tensor]]]:
    """Pair, method and weights of the block's students that learned from one of the two teachers of a job and read
    another modality."""
    block = next(b for b in plan.suite.blocks if b.name == job.block)
    for pair in block.pairs:
        teacher, student = (plan.suite.models[m].input for m in (pair.teacher, pair.student))
        if pair.teacher in (job.pair.teacher, job.pair.student) and teacher != student:
            for method in block.methods:
                run = plan.run_of(pair, method, seed, block.budget)
                if _finished(today, run):
                    yield pair, method.id, load_weights(run)


def _finished(today: Today, run: Run) -> bool:
    try:
        return today.record(run)["status"] == FINISHED
    except Stale as reason:
        raise KdbenchError(f"{run.result}: {reason}; run snakemake") from None


def _batches(plan: Plan, job: Job, seed: int) -> Batches:
    """The test samples, which all seeds share, normalised as the networks of this seed know it from training."""
    pack = load_packed(data_folder(plan.suite, job.data, seed))
    modalities = {plan.suite.models[m].input for m in (job.pair.teacher, job.pair.student)}
    return Batches(pack, modalities, torch.device("cpu"), plan.suite.workers)


def _trained_teacher(today: Today, model: str, seed: int) -> Run:
    today.teacher(model, seed)
    return today.plan.teacher(model, seed)


def _read(plan: Plan, name: str, weights: dict[str, Tensor] | None, batches: Batches, seed: int) -> dict[str, Any]:
    """{"stages": 4 x (N, C, H, W) or (), "pooled", "pooled_preact": (N, D)} of a network, at its start where weights is
    None."""
    signals = list(_signals(plan, name, weights, batches, seed, "test", SAMPLES))
    return {
        "stages": tuple(torch.cat(maps) for maps in zip(*(s.stages or () for s in signals), strict=True)),
        "pooled": torch.cat([s.pooled for s in signals]),
        "pooled_preact": torch.cat([s.pooled_preact for s in signals]),
    }


def _validation(plan: Plan, name: str, weights: dict[str, Tensor], batches: Batches, seed: int) -> Tensor:
    """Pooled features (N, D) before the last activation, of all validation samples."""
    return torch.cat([s.pooled_preact for s in _signals(plan, name, weights, batches, seed, "val", None)])


@torch.no_grad()
def _signals(
    plan: Plan,
    name: str,
    weights: dict[str, Tensor] | None,
    batches: Batches,
    seed: int,
    split: str,
    limit: int | None,
) -> Iterator[Signals]:
    """Of a network's batches of the first `limit` samples of a split, or of all."""
    spec: ModelSpec = plan.suite.models[name]
    reader = networks.reader(spec, batches.shape[spec.input], batches.classes, seed, weights=weights)
    reader.model.eval()
    for x in batches.evaluation(spec.input, split, SAMPLES, limit, networks.view(spec)):
        yield reader(x)


def run_similarity(plan: Plan, job: Job) -> None:
    """Teacher against student by stage and band, before and after every method; or two teachers by channel band."""
    torch.set_num_threads(plan.suite.threads)
    measured = stages(plan, job) if job.kind == "stages" else channels(plan, job)
    head = {"kind": job.kind, "block": job.block, "pair": job.pair.id, "a": job.pair.teacher, "b": job.pair.student}
    write_json(job.output, {**head, **measured})
