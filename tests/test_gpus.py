"""Who trains on which card: claims of several processes, on cards that are only names."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import tempfile
from types import SimpleNamespace

import pytest
import torch
from conftest import tiny_plan

from kdbench.run import gpus
from kdbench.types import KdbenchError

HOLD = """
import sys
from pathlib import Path
from kdbench.run import gpus

with gpus.claim(sys.argv[1].split(","), int(sys.argv[2]), Path(sys.argv[3])) as position:
    print(position, flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def job(tmp_path):
    """Starts a process that claims one of these cards and holds it until its stdin is closed."""
    with contextlib.ExitStack() as stack:

        def start(cards: str, jobs_per_gpu: int = 1) -> subprocess.Popen:
            command = [sys.executable, "-c", HOLD, cards, str(jobs_per_gpu), str(tmp_path / "locks")]
            pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
            process = stack.enter_context(subprocess.Popen(command, text=True, **pipes))
            stack.callback(process.kill)
            return process

        yield start


def card(process: subprocess.Popen) -> int:
    """The position that it has claimed; waits for it."""
    return int(process.stdout.readline())


def waits(process: subprocess.Popen) -> bool:
    return "waiting for a GPU" in process.stderr.readline()


def test_every_job_has_a_card_of_its_own(job):
    first, second = job("a,b"), job("a,b")
    assert {card(first), card(second)} == {0, 1}
    third = job("a,b")
    assert waits(third)
    second.communicate()
    assert card(third) in (0, 1)


def test_a_killed_job_frees_its_card(job):
    first = job("a")
    assert card(first) == 0
    second = job("a")
    assert waits(second)
    first.kill()
    assert card(second) == 0


def test_cards_are_shared_only_as_far_as_the_suite_says(job):
    jobs = [job("a,b", 2)]
    places = [card(jobs[0])]
    for _ in range(3):
        jobs.append(job("a,b", 2))
        places.append(card(jobs[-1]))
    assert places == [0, 1, 0, 1], "every card gets its first job before any gets its second"
    assert waits(job("a,b", 2))


def test_a_card_is_the_same_whatever_a_job_is_shown(job):
    """CUDA_VISIBLE_DEVICES may show other cards, in another order."""
    assert card(job("a,b")) == 0
    assert card(job("b,a")) == 0
    assert waits(job("a"))
    assert card(job("c")) == 0


@pytest.fixture
def two_cards(tmp_path, monkeypatch):
    """A torch that believes in two cards; what it is told to compute on."""
    chosen = []
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda i: SimpleNamespace(uuid=f"uuid-{i}"))
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    return chosen


def test_torch_computes_on_the_card_that_was_claimed(two_cards):
    suite = tiny_plan().suite
    with gpus.claimed(suite), gpus.claimed(suite):
        assert two_cards == [0, 1]
    with gpus.claimed(suite):
        assert two_cards == [0, 1, 0], "what is over is free again"


def test_a_suite_for_the_cpu_claims_nothing(two_cards, tmp_path):
    with gpus.claimed(tiny_plan(device="cpu").suite):
        assert two_cards == [] and not list(tmp_path.iterdir())


def test_locks_that_cannot_be_written_are_told(tmp_path):
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(KdbenchError, match=r"cannot claim a GPU in .*file: .*TMPDIR"),
        gpus.claim(["a"], 1, tmp_path / "file"),
    ):
        pass
