"""What is said of a CPU that is slow in bf16, and who refuses to train on it."""

from __future__ import annotations

import pytest
import torch
from conftest import run_jobs, tiny_plan

from kdbench import cpu
from kdbench.run import training
from kdbench.types import KdbenchError

AVX2 = "processor\t: 0\nmodel name\t: a bf16 in a name\nflags\t\t: fpu avx2 fma\n"


@pytest.mark.parametrize(
    ("cpuinfo", "slow"),
    [
        (AVX2, True),
        (AVX2.replace("fma", "avx512f avx512_bf16"), False),
        (AVX2.replace("fma", "amx_bf16 amx_tile"), False),
        ("processor\t: 0\nFeatures\t: fp asimd bf16\n", False),
        ("processor\t: 0\nFeatures\t: fp asimd\n", True),
        ("processor\t: 0\n", False),
        (None, False),
    ],
)
def test_units_for_bf16_are_read_off_the_flags(cpuinfo, slow, tmp_path, monkeypatch):
    monkeypatch.setattr(cpu, "CPUINFO", tmp_path / "cpuinfo")
    if cpuinfo is not None:
        cpu.CPUINFO.write_text(cpuinfo)
    assert bool(cpu.slow_bf16()) == slow


def test_training_in_bf16_is_refused_where_it_would_crawl(trained, monkeypatch):
    monkeypatch.setattr(training, "slow_bf16", lambda: "this CPU has no bf16 units")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(KdbenchError, match="suite tiny says precision: bf16, but this CPU has no bf16 units; use fp32"):
        run_jobs(tiny_plan(precision="bf16"), "teacher")
    monkeypatch.setattr(training, "slow_bf16", lambda: None)
    assert training._device(tiny_plan(precision="bf16").suite).type == "cpu"


def test_a_gpu_takes_bf16_unless_the_suite_says_cpu(monkeypatch):
    monkeypatch.setattr(training, "slow_bf16", lambda: "this CPU has no bf16 units")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for device in ("auto", "cuda"):
        assert training._device(tiny_plan(precision="bf16", device=device).suite).type == "cuda"
    with pytest.raises(KdbenchError, match="no bf16 units"):
        training._device(tiny_plan(precision="bf16", device="cpu").suite)
