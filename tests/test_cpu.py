"""What is said of a CPU that is slow in bf16, and who refuses to train on it."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest
import torch
from conftest import run_jobs, tiny_plan, write_tiny

from kdbench import cli, cpu
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


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the settings are glibc's")
def test_freed_memory_is_kept_so_that_no_step_faults_it_in_again():
    """Six times eight pieces of 16 MiB, which are there from the first time."""
    code = """
import ctypes, resource, sys
from kdbench.cpu import keep_memory

libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
libc.free.argtypes, libc.memset.argtypes = [ctypes.c_void_p], [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]
if sys.argv[1] == "keep":
    keep_memory()
for i in range(7):
    if i == 1:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    pieces = [libc.malloc(2**24) for _ in range(8)]
    for piece in pieces:
        libc.memset(piece, 1, 2**24)
    for piece in pieces:
        libc.free(piece)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
    faults = {
        way: int(subprocess.run([sys.executable, "-c", code, way], capture_output=True, text=True, check=True).stdout)
        for way in ("keep", "leave")
    }
    assert faults["keep"] < 0.1 * faults["leave"], faults


@pytest.mark.parametrize(("device", "said"), [("auto", True), ("cpu", True), ("cuda", False)])
def test_the_plan_says_that_bf16_is_slow_here(tmp_path, monkeypatch, capsys, device, said):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cli, "slow_bf16", lambda: "this CPU has no bf16 units")
    write_tiny(tmp_path, precision="bf16", device=device)
    assert cli.main(["plan", "tiny"]) == 0
    assert ("precision: bf16, but this CPU has no bf16 units" in capsys.readouterr().out) == said
