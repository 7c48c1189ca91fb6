"""`bench streaming`: pictures that are decoded while a network trains: memory of the job, and pictures a second.

50,000 small JPEGs are written, packed, and read by kdbench, by a thread that does what its worker does, and by timm's
own loader from the same files: a random box resized to SIZE pixels by either interpolation, a flip, normalised, batches
of 64, one worker.
"""

from __future__ import annotations

import gc
import itertools
import json
import resource
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from kdbench.data.packed import Packed, load_packed
from kdbench.data.prepare import prepare_data
from kdbench.plan.jobs import Plan
from kdbench.report.page import Section
from kdbench.train import engine
from kdbench.train.batches import Batches
from kdbench.train.cohort import Cohort
from kdbench.train.order import batch_positions
from kdbench.train.pixels import Streamed
from kdbench.types import Recipe
from speed import setting, timing
from speed.setting import BATCH_SIZE, Options

PICTURES, TENTH = 50_000, 5_000
CLASSES, TEST = 50, 1_000
SIDES = (160, 128)
"""Width and height of the pictures."""
SIZE = 96
CROP = 0.35
LOADERS = {"kdbench": "kdbench, a process", "threads": "kdbench, a thread", "timm": "timm's loader, a process"}
CPU = torch.device("cpu")
AHEAD = 2
"""Batches that each loader has read, or has under way, beyond those that it has given."""


def measure(options: Options) -> dict[str, Any]:
    """On a CPU whatever the device: what is measured happens there."""
    steps, repeats = options.choose("steps", 40, 40), options.choose("repeats", 3, 3)
    _write_pictures(options.work / "pictures", PICTURES)
    options.say(f"streaming: {PICTURES:,} pictures are written")
    started = time.perf_counter()
    for pictures in (PICTURES, TENTH):
        prepare_data(_plan(pictures, 1, 1).suite.data["pictures"], _packed(options.work, pictures), options.work)
        if pictures == PICTURES:
            packing = time.perf_counter() - started
            options.say(f"streaming: packed in {packing:.0f} s")

    def child(**task: Any) -> dict[str, float]:
        task |= {"work": str(options.work), "steps": steps, "threads": options.threads}
        command = [sys.executable, "-m", "speed.streaming", json.dumps(task)]
        _, (done,) = timing.processes([command], 1, options.work, options.threads)
        return json.loads(done.stdout.splitlines()[-1])

    found: dict[tuple, list[dict[str, float]]] = {}
    for _, pictures in itertools.product(range(repeats), (TENTH, PICTURES)):
        found.setdefault(("memory", pictures), []).append(child(pictures=pictures))
    for _, busy, loader in itertools.product(range(repeats), (False, True), LOADERS):
        found.setdefault((loader, busy), []).append(child(loader=loader, busy=busy))
        options.say(f"streaming, {loader}: {found[loader, busy][-1]['images_a_second']:.0f} pictures a second")
    rows = [
        {"what": what, "of": of, **{key: timing.summary([f[key] for f in some]) for key in some[0]}}
        for (what, of), some in found.items()
    ]
    facts = {"pictures": PICTURES, "sides": SIDES, "size": SIZE, "packing_seconds": packing}
    settings = {"steps": steps, "repeats": repeats}
    return {"settings": settings, **facts, "rows": rows, "targets": _targets(rows)}


def _targets(rows: list[dict[str, Any]]) -> list[dict]:
    by = {(row["what"], row["of"]): row for row in rows}
    rate = [by[loader, False]["images_a_cpu_second"]["median"] for loader in ("kdbench", "timm")]
    memory = [by["memory", pictures]["job_mb"]["median"] for pictures in (PICTURES, TENTH)]
    return [
        timing.target(
            "pictures a CPU second of a worker, by those of timm's loader",
            1.0,
            rate[0] / rate[1],
            rate[0] >= rate[1],
            "Reading and cutting are the same calls of Pillow.",
        ),
        timing.target(
            f"memory of a job with {PICTURES:,} pictures, by that with {TENTH:,}",
            1.1,
            memory[0] / memory[1],
            memory[0] <= 1.1 * memory[1],
            "Something is held for every picture.",
        ),
    ]


def _write_pictures(folder: Path, count: int) -> None:
    """FOLDER/train/CLASS/N.jpg and FOLDER/test/CLASS/N.jpg, blurred noise."""
    rng = np.random.default_rng(0)
    for i in range(count):
        split = "test" if i < TEST else "train"
        place = folder / split / f"{i % CLASSES:02}"
        place.mkdir(parents=True, exist_ok=True)
        coarse = Image.fromarray(rng.integers(0, 256, (12, 15, 3), dtype=np.uint8))
        coarse.resize(SIDES, Image.Resampling.BICUBIC).save(place / f"{i}.jpg", quality=85)


def _plan(pictures: int, steps: int, threads: int) -> Plan:
    data = {"source": "jpegfolder", "folder": "pictures", "size": SIZE, "val_share": 0.01}
    if pictures < PICTURES:
        data |= {"limit": pictures - TEST, "test_limit": TEST}
    recipe = {"lr": 1.0e-3, "steps": steps, "batch_size": BATCH_SIZE}
    augmented = {"resized_crop": CROP, "interpolation": "random", "flip": True}
    return setting.plan_of(
        {
            "seeds": [0],
            "threads": threads,
            "checkpoint_seconds": 1.0e9,
            "data": {"pictures": data},
            "recipes": {"recipe": recipe | augmented},
            "models": {"cnn": {"data": "pictures", "recipe": "recipe", **setting.NETWORKS["cnn-narrow"]}},
            "blocks": {"bench": {"data": "pictures", "pairs": ["cnn -> cnn"], "methods": ["scratch"]}},
        },
        "streaming",
    )


def _packed(work: Path, pictures: int) -> Path:
    return work / f"packed-{pictures}"


# -------------------------------------------------------------------------------------------------- in its own process


def child(task: dict[str, Any]) -> dict[str, float]:
    """What one measurement found: the memory of a training, or the rate of a loader."""
    torch.set_num_threads(task["threads"])
    work = Path(task["work"])
    if "pictures" in task:
        return _train(work, task["pictures"], task["steps"], task["threads"])
    return _load(work, task["loader"], task["steps"], task["busy"])


def _train(work: Path, pictures: int, steps: int, threads: int) -> dict[str, float]:
    """Train a small network with one worker; largest resident memory of the job and of its worker, in MiB."""
    plan = _plan(pictures, steps, threads)
    batches = Batches(load_packed(_packed(work, pictures)), {"image"}, CPU, workers=1)
    spec, recipe = plan.suite.models["cnn"], plan.suite.recipes["recipe"]
    cohort = Cohort(spec, recipe, batches, CPU, 0, save_every=1.0e9)
    engine.train_cohort(cohort, plan.runs().values(), work / "checkpoint", lambda _: None, lambda *_, **__: None)
    worker = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    return {"job_mb": engine.peak_memory_mb(CPU), "worker_mb": worker}


def _load(work: Path, loader: str, steps: int, busy: bool) -> dict[str, float]:
    """Pictures a second over so many batches, the first left out; by the wall and by the worker's CPU time. busy: a
    loop of plain Python runs beside it in this process, as a training's own does; turns of it a second."""
    recipe = _plan(PICTURES, steps + 1 + AHEAD, 1).suite.recipes["recipe"]
    pack = load_packed(_packed(work, PICTURES))
    own_cpu: list[float] = []
    make = {"kdbench": _kdbench, "threads": _threads, "timm": _timm}[loader]
    found = make(pack, work, recipe, own_cpu)
    next(found)
    turns, ended = [0], threading.Event()
    spinner = threading.Thread(target=_spin, args=(turns, ended), daemon=True)
    if busy:
        spinner.start()
    started = time.perf_counter()
    count = sum(1 for _ in itertools.islice(found, steps))
    seconds = time.perf_counter() - started
    ended.set()
    found.close()
    del found
    gc.collect()  # workers are waited for when their loader goes
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = sum(own_cpu) or usage.ru_utime + usage.ru_stime
    return {
        "images_a_second": BATCH_SIZE * count / seconds,
        "images_a_cpu_second": BATCH_SIZE * (count + 1 + AHEAD) / cpu,
        "turns_a_second": turns[0] / seconds,
    }


def _kdbench(pack: Packed, work: Path, recipe: Recipe, own_cpu: list[float]) -> Iterator[Any]:
    batches = Batches(pack, {"image"}, CPU, workers=1)
    for step in range(recipe.steps):
        yield batches.train(batch_positions(batches.size("train"), recipe, 0, step), recipe, 0, step)


def _threads(pack: Packed, work: Path, recipe: Recipe, own_cpu: list[float]) -> Iterator[Any]:
    """What kdbench's worker does, by a thread of this process."""
    batches, streamed = Batches(pack, {"image"}, CPU), Streamed(pack, "image", CPU, 0)
    wanted = streamed._wanted(batch_positions(batches.size("train"), recipe, 0, 0), recipe, 0, 0)
    reading = streamed.reading("train")

    def read(one: Any) -> Any:
        before = time.thread_time()
        found = reading.__getitems__(one)
        own_cpu.append(time.thread_time() - before)
        return found[1]

    with ThreadPoolExecutor(1) as pool:
        ahead = [pool.submit(read, one) for one in itertools.islice(wanted, 3)]
        for step in itertools.count():
            if not ahead:
                return
            pixels = ahead.pop(0).result()
            ahead += [pool.submit(read, one) for one in itertools.islice(wanted, 1)]
            yield batches._normalised("image", batches._augmented(pixels, "image", recipe, 0, step))


def _timm(pack: Packed, work: Path, recipe: Recipe, own_cpu: list[float]) -> Iterator[Any]:
    import kdbench.torchvision_ops  # noqa: F401, I001
    from timm.data import ImageDataset, create_loader

    yield from create_loader(
        ImageDataset(str(work / "pictures" / "train")),
        (3, SIZE, SIZE),
        BATCH_SIZE,
        is_training=True,
        scale=(CROP, 1.0),
        color_jitter=None,
        interpolation="random",
        num_workers=1,
        persistent_workers=False,
        device=CPU,
        pin_memory=False,
    )


def _spin(turns: list[int], ended: threading.Event) -> None:
    while not ended.is_set():
        sum(range(300))
        turns[0] += 1


# ------------------------------------------------------------------------------------------------------------ its page


def section(result: dict[str, Any]) -> Section:
    by = {(row["what"], row["of"]): row for row in result["rows"]}
    memory = [
        (f"{of:,}", [timing.text(row["job_mb"], 0), timing.text(row["worker_mb"], 0)])
        for (what, of), row in by.items()
        if what == "memory"
    ]
    rates = []
    for loader, label in LOADERS.items():
        alone, beside = by[loader, False], by[loader, True]
        cells = [timing.text(alone[key], 0) for key in ("images_a_second", "images_a_cpu_second")]
        cells += [timing.text(beside[key], 0) for key in ("images_a_second", "turns_a_second")]
        rates.append((label, cells))
    width, height = result["sides"]
    columns = ["pictures a second", "a CPU second of its own", "a second, Python beside", "turns of Python a second"]
    return Section(
        "streaming: pictures that are decoded while a network trains",
        (
            timing.table("Largest memory by pictures, MiB", "Pictures", ["training job", "worker"], memory),
            timing.table("One worker", "Loader", columns, rates),
            f"Pictures of {width}x{height} pixels, read at {result['size']}. "
            f"Packing {result['pictures']:,} of them took {result['packing_seconds']:,.0f} s.",
        ),
    )


if __name__ == "__main__":
    print(json.dumps(child(json.loads(sys.argv[1]))))
