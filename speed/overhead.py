"""`bench engine`: what the engine costs a step, one member (kd) alone against a bare loop with the same mathematics.

Both train in this process, in turn, from the same weights on the same batches; on a CPU they end in the same bits. The
bare loop makes its batches by hand and asks the teacher for its logits only; the engine reads it in full.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kdbench.report.page import Section
from kdbench.tensors import planar, to_device
from kdbench.train import networks
from kdbench.train.augment import crop_and_flip
from kdbench.train.cohort import learning_rate
from kdbench.train.order import generator
from speed import setting, timing
from speed.setting import INPUT, PAIRS, Options, Trial, left_out, precisions, tree

ALLOWED = {"cpu": 10.0, "cuda": 5.0}
"""Percent of a bare step that the engine may cost on top."""


def measure(options: Options) -> dict[str, Any]:
    steps, repeats = options.choose("steps", 8, 200), options.choose("repeats", 5, 7)
    rows = []
    for name, pair in PAIRS.items():
        for precision in precisions(options.device):
            rows.append({"pair": name, "precision": precision, **_row(pair, precision, steps, repeats, options)})
            options.say(f"engine, {name}, {precision}: {rows[-1]['overhead']['median']:+.1f} %")
    settings = {"steps": steps, "repeats": repeats, **left_out(options.device)}
    return {"settings": settings, "rows": rows, "targets": targets(rows, options.device)}


def _row(pair: tuple[str, str], precision: str, steps: int, repeats: int, options: Options) -> dict[str, Any]:
    warm = max(2, steps // 4)
    trial = setting.trial(tree(pair, options, precision, steps=warm + steps + 1, methods=["kd"]), options)
    device = trial.cohort.device
    ways: dict[str, Callable[..., Any]] = {
        "engine": lambda before: setting.train(trial, options.work, before),
        "bare": lambda before: bare(trial, before),
    }
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    for repeat in range(repeats):
        # Whoever begins has the other one's turn next, so that a drift of the machine falls on both.
        for way in list(ways)[:: 1 if repeat % 2 == 0 else -1]:
            marks: list[float] = []
            mark = lambda marks=marks: marks.append(timing.clock(device))  # noqa: E731
            ways[way]({warm: mark, warm + steps: mark})
            seconds[way].append((marks[1] - marks[0]) / steps)
    overhead = [100 * (a / b - 1) for a, b in zip(seconds["engine"], seconds["bare"], strict=True)]
    return {
        **{f"{way}_step_seconds": timing.summary(found) for way, found in seconds.items()},
        "overhead": timing.summary(overhead),
        "parts": _parts(trial, steps),
    }


# ------------------------------------------------------------------------------------------------------- the bare loop


def bare(trial: Trial, before: dict[int, Callable[[], None]]) -> nn.Module:
    """KD written out by hand: the recipe of `setting.tree` and no more. Returns the trained student.

    before: as of setting.Watched.
    """
    cohort, recipe = trial.cohort, trial.cohort.recipe
    device, seed = cohort.device, cohort.seed
    teacher = cohort.teacher.reader.model
    student = (
        networks.build(cohort.student, cohort.batches.shape[INPUT], cohort.batches.classes, seed).to(device).train()
    )
    exempt = student.no_weight_decay() if hasattr(student, "no_weight_decay") else set()
    decay = [p for n, p in student.named_parameters() if p.ndim > 1 and n not in exempt]
    rest = [p for n, p in student.named_parameters() if p.ndim <= 1 or n in exempt]
    groups = [{"params": decay, "weight_decay": recipe.weight_decay}, {"params": rest, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, recipe.lr, fused=True)
    make = _maker(trial)
    order = setting.Watched(cohort.batches, recipe.steps, {}).order(seed, 0).to(cohort.device)
    for step in range(recipe.steps):
        if step in before:
            before[step]()
        x, target = make(order[step * recipe.batch_size : (step + 1) * recipe.batch_size], step)
        with cohort.autocast():
            with torch.no_grad():
                shown = F.log_softmax(teacher(x).float(), dim=1)
            logits = student(x)
        known = F.log_softmax(logits.float(), dim=1)
        loss = F.cross_entropy(logits.float(), target) + F.kl_div(known, shown, reduction="batchmean", log_target=True)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(recipe, step, recipe.steps)
        optimizer.step()
    return student


def _maker(trial: Trial) -> Callable[[Tensor, int], tuple[Tensor, Tensor]]:
    """A function (index (B,), step) -> augmented images (B, C, H, W) and classes (B,), with the engine's own draws."""
    device, seed, facts = trial.cohort.device, trial.cohort.seed, trial.pack.meta["modalities"][INPUT]
    recipe = trial.cohort.recipe
    pixels = planar(torch.from_numpy(np.array(trial.pack.array(INPUT, "train"))).permute(0, 3, 1, 2)).to(device)
    labels = torch.from_numpy(np.array(trial.pack.labels("train"))).to(device)
    mean, std = (torch.tensor(facts[name], device=device).view(1, -1, 1, 1) for name in ("mean", "std"))

    def make(index: Tensor, step: int) -> tuple[Tensor, Tensor]:
        draws = generator(seed, "augmentation", step)
        shift = torch.randint(-recipe.crop, recipe.crop + 1, (2, len(index)), generator=draws)
        flip = torch.rand(len(index), generator=draws) < 0.5
        x = crop_and_flip(pixels[index], to_device(shift, device), to_device(flip, device), recipe.crop)
        return (x.float() / 255 - mean) / std, labels[index]

    return make


# --------------------------------------------------------------------------------------------- where the overhead goes


def _parts(trial: Trial, calls: int) -> dict[str, float]:
    """Milliseconds a step that the engine spends above the bare loop on the teacher's signals and on its batches."""
    cohort, recipe = trial.cohort, trial.cohort.recipe
    index, make = cohort.batches.order(0, 0)[: recipe.batch_size].to(cohort.device), _maker(trial)
    x, _ = make(index, 0)

    def milliseconds(call: Callable[[], Any]) -> float:
        found = []
        with torch.no_grad(), cohort.autocast():
            for _ in range(max(3, calls)):
                started = timing.clock(cohort.device)
                call()
                found.append(1000 * (timing.clock(cohort.device) - started))
        return statistics.median(found[1:])

    reader = cohort.teacher.reader
    signals = milliseconds(lambda: reader(x, index)) - milliseconds(lambda: reader.model(x))
    batches = milliseconds(lambda: cohort.batches.train(index, recipe, 0, 0)) - milliseconds(lambda: make(index, 0))
    return {"teacher_signals_ms": signals, "batches_ms": batches}


def targets(rows: list[dict[str, Any]], device: str) -> list[dict[str, Any]]:
    """The largest overhead against the one allowed."""
    worst = max(rows, key=lambda row: row["overhead"]["median"])
    got, allowed, parts = worst["overhead"]["median"], ALLOWED[device], worst["parts"]
    more = 1000 * (worst["engine_step_seconds"]["median"] - worst["bare_step_seconds"]["median"])
    why = (
        f"Of {more:.2f} ms more a step, reading the teacher in full takes {parts['teacher_signals_ms']:.2f} and making "
        f"the batch {parts['batches_ms']:.2f}; the rest is the member's random stream, loss terms and clock."
    )
    what = f"percent of overhead at most (the largest: {worst['pair']}, {worst['precision']})"
    return [timing.target(what, allowed, got, got <= allowed, why)]


def section(result: dict[str, Any]) -> Section:
    body = []
    for row in result["rows"]:
        steps = [timing.text(row[f"{way}_step_seconds"], 2, 1000) for way in ("bare", "engine")]
        parts = [f"{row['parts'][key]:.2f}" for key in ("teacher_signals_ms", "batches_ms")]
        body.append((f"{row['pair']}, {row['precision']}", [*steps, timing.text(row["overhead"], 1), *parts]))
    columns = ["bare, ms", "engine, ms", "overhead, %", "of which teacher, ms", "of which batches, ms"]
    return Section("engine: one member against a bare loop", (timing.table("One step of kd", "Pair", columns, body),))
