"""A suite so small that a test can afford it, on the real machinery: 8 px digits, three families, one teacher."""

from __future__ import annotations

import contextlib
import copy
import os
import shutil
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import yaml

from kdbench.plan.jobs import Plan, make_plan
from kdbench.plan.suite import check_suite
from kdbench.run.data import run_data
from kdbench.run.training import run_training
from kdbench.types import KdbenchError

REPOSITORY = Path(__file__).resolve().parent.parent

TINY: dict[str, Any] = {
    "seeds": [0, 1],
    "data": {"digits": {"source": "digits", "size": 8}},
    "recipes": {
        "teacher": {"lr": 5.0e-3, "steps": 30, "batch_size": 50},
        "student": {"lr": 5.0e-3, "steps": 12, "batch_size": 100, "crop": 1, "clip_grad": 5.0},
    },
    "models": {
        "cnn-t": {
            "timm": "ResNet",
            "data": "digits",
            "recipe": "teacher",
            "stem": "small",
            "args": {"block": "BasicBlock", "layers": [1, 1, 1, 1], "channels": [8, 8, 16, 16], "output_stride": 8},
        },
        "vit-s": {
            "timm": "VisionTransformer",
            "data": "digits",
            "recipe": "student",
            "args": {"patch_size": 2, "embed_dim": 16, "depth": 4, "num_heads": 4, "drop_rate": 0.1},
        },
        "cnn-s": {
            "timm": "ResNet",
            "data": "digits",
            "recipe": "student",
            "stem": "small",
            "args": {
                "block": "BasicBlock",
                "layers": [1, 1, 1, 1],
                "channels": [4, 4, 8, 8],
                "output_stride": 8,
                "drop_path_rate": 0.2,
            },
        },
        "mlp-s": {
            "timm": "MlpMixer",
            "data": "digits",
            "recipe": "student",
            "args": {"patch_size": 2, "embed_dim": 16, "num_blocks": 4, "proj_drop_rate": 0.1},
        },
    },
    "blocks": {
        "main": {"data": "digits", "pairs": ["cnn-t -> vit-s"], "methods": ["scratch", "kd"]},
    },
}


def tiny(**changes: Any) -> dict[str, Any]:
    """A copy of the tiny suite's YAML tree; changes name places as `recipes__student__steps=3`."""
    tree = copy.deepcopy(TINY)
    for place, value in changes.items():
        *path, last = place.split("__")
        node = tree
        for key in path:
            node = node[key]
        node[last] = value
    return tree


def tiny_plan(**changes: Any) -> Plan:
    return make_plan(check_suite(tiny(**changes), "tiny", "tiny.yaml"))


def write_tiny(folder: Path, **changes: Any) -> Path:
    path = folder / "config" / "tiny.yaml"
    path.parent.mkdir(exist_ok=True)
    path.write_text(yaml.safe_dump(tiny(**changes), sort_keys=False))
    return path


def run_jobs(plan: Plan, kind: str) -> None:
    for job in plan.of(kind):
        run_training(plan, job, threads=plan.suite.threads)


def in_child(work: Callable[[], Any]) -> int:
    """Do the work in a forked process; its pid. It ends with 0, with 2 after a KdbenchError, with 1 after any other."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            work()
            code = 0
        except KdbenchError:
            code = 2
        except Exception:
            traceback.print_exc()
        finally:
            os._exit(code)
    return pid


def wait_for(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@pytest.fixture(scope="session")
def _trained_folder(tmp_path_factory) -> Path:
    """A folder with the tiny suite's packed data and trained teachers."""
    folder = tmp_path_factory.mktemp("trained")
    with contextlib.chdir(folder):
        plan = tiny_plan()
        run_data(plan, plan.of("data")[0])
        run_jobs(plan, "teacher")
    return folder


@pytest.fixture
def trained(_trained_folder, tmp_path, monkeypatch) -> Path:
    """A copy of it, and the test stands in it."""
    shutil.copytree(_trained_folder, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path
