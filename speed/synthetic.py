"""`python -m speed.synthetic RUNS FOLDER`: a finished suite of so many runs that nobody trained, to measure tables on.

FOLDER gets config/synthetic.yaml and results/synthetic: 20 methods and 5 seeds on as many pairs as it takes. Results
are JSON; weights are a few bytes, of teachers only. Measure there: kdbench table synthetic, kdbench figure synthetic.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from kdbench.files import write_json
from kdbench.plan.jobs import Job, Plan, Run, make_plan
from kdbench.plan.suite import load_suite
from kdbench.results.record import FINISHED, write_run

METHODS, SEEDS, TEACHERS = 20, 5, 10
EPOCHS, STAGES, BANDS = 20, 4, ("dc", "low", "high")
WEIGHTS = b"no weights"


def tree(runs: int) -> dict[str, Any]:
    """The suite as YAML holds it: METHODS x SEEDS runs a pair, TEACHERS teachers for each student."""
    pairs = -(-runs // (METHODS * SEEDS))
    names = [(f"t{i % TEACHERS}", f"s{i // TEACHERS}") for i in range(pairs)]
    families = {"cnn": "ResNet", "vit": "VisionTransformer", "mlp": "MlpMixer"}
    models = {
        name: {"timm": timm, "family": family, "data": "digits", "recipe": "any"}
        for name, (family, timm) in zip(
            dict.fromkeys(itertools.chain(*names)), itertools.cycle(families.items()), strict=False
        )
    }
    variants = {f"kd-{i}": {"method": "kd", "temperature": 1.0 + i, "label": f"KD {i}"} for i in range(METHODS - 2)}
    block = {"data": "digits", "pairs": [f"{t} -> {s}" for t, s in names], "methods": ["scratch", "kd", *variants]}
    return {
        "seeds": list(range(SEEDS)),
        "data": {"digits": {"source": "digits", "size": 8}},
        "recipes": {"any": {"lr": 1.0e-3, "steps": 10 * EPOCHS, "batch_size": 50}},
        "models": models,
        "methods": variants,
        "blocks": {"main": block},
    }


def write(runs: int, folder: Path) -> Path:
    """Write the suite and its results below a folder; returns the suite's file. Numbers are the same every time."""
    folder.mkdir(parents=True, exist_ok=True)
    with contextlib.chdir(folder):
        path = Path("config/synthetic.yaml")
        path.parent.mkdir(exist_ok=True)
        path.write_text(yaml.safe_dump(tree(runs), sort_keys=False))
        plan, rng = make_plan(load_suite(path)), np.random.default_rng(0)
        for job in plan.of("teacher"):
            for run in job.runs:
                _write_run(run, 95.0 + rng.normal())
                run.stem.with_suffix(".safetensors").write_bytes(WEIGHTS)
        for run in plan.runs().values():
            _write_run(run, 80.0 + rng.normal())
        for job in plan.of("stages"):
            write_json(job.output, _similarity(plan, job, rng))
    return folder / path


def _write_run(run: Run, test: float) -> None:
    digest = hashlib.sha256(WEIGHTS).hexdigest()
    history = [
        {"epoch": e, "step": 10 * e, "val_accuracy": test - EPOCHS + e, "test_accuracy": test - EPOCHS + e}
        for e in range(1, EPOCHS + 1)
    ]
    record = {
        "status": FINISHED,
        "hashes": {"data": None, "teacher": digest if run.pair.teacher else None, "weights": digest},
        "versions": {"kdbench": "0", "torch": "synthetic"},
        "hardware": {"cpu": "a synthetic processor", "threads": run.threads},
        "accuracy": {"val": test - 1, "test": test, "best_test": test + 1, "best_test_epoch": 2},
        "nll": {"val": 0.5, "test": 0.5},
        "agreement": {"val": 90.0, "test": 90.0},
        "cost": {"seconds": 3.0, "peak_memory_mb": 100.0, "extra_parameters": 0, "student_parameters": 1000},
        "history": history,
        "notes": [],
    }
    write_run(run, record)


def _similarity(plan: Plan, job: Job, rng: np.random.Generator) -> dict[str, Any]:
    """What a job of kind `stages` measures, spectra of eight radii among it."""
    (block,) = plan.suite.blocks
    methods = ["before", *(m.id for m in block.methods)]
    rows = [
        {"seed": seed, "method": method, "stage": stage, "band": band, "cka": float(rng.uniform(0, 1))}
        | {"null_low": -0.03, "null_high": 0.04, "reason": None}
        for seed, method, stage, band in itertools.product(block.seeds, methods, range(1, STAGES + 1), BANDS)
    ]
    spectra = [
        {"seed": seed, "role": "student" if method else "teacher", "method": method, "stage": stage}
        | {"model": job.pair.student if method else job.pair.teacher}
        | {"power": [0.2] + [float(x) for x in rng.uniform(0.05, 0.2, 7)], "white": [0.01] + [0.14] * 7}
        for seed, method, stage in itertools.product(block.seeds, [None, *methods], range(1, STAGES + 1))
    ]
    return {"block": block.name, "kind": "stages", "pair": job.pair.id, "rows": rows, "spectra": spectra}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m speed.synthetic", description=__doc__)
    parser.add_argument("runs", type=int)
    parser.add_argument("folder", type=Path)
    args = parser.parse_args()
    print(write(args.runs, args.folder))


if __name__ == "__main__":
    main()
