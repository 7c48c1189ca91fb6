"""What a suite's cohorts take on this machine: each distinct one is probed, in a process of its own."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import TYPE_CHECKING

from kdbench.data.packed import load_packed
from kdbench.plan.jobs import Job, Plan
from kdbench.plan.paths import data_folder
from kdbench.run.progress import say

if TYPE_CHECKING:
    import torch

    from kdbench.train.probe import Probe

CGROUP = Path("/sys/fs/cgroup/memory.max")
"""Where Linux says how much memory a container may have."""


def probes(plan: Plan) -> dict[str, Probe | str]:
    """{key of a teacher or cohort job: what it takes, or why it does not fit this machine}.

    Jobs that differ in seeds or budget alone are probed once. Raises KdbenchError where a run cannot start, or a suite
    asks for another device.
    """
    jobs = [job for job in plan.jobs if job.kind in ("teacher", "cohort")]
    distinct: dict[tuple, Job] = {}
    for job in jobs:
        distinct.setdefault(_cohort(job), job)
    found = {}
    for number, (cohort, job) in enumerate(distinct.items(), 1):
        say(f"probing {number} of {len(distinct)}: {job.kind} {job.id}")
        found[cohort] = in_own_process(plan, job)
    return {job.key: found[_cohort(job)] for job in jobs}


def _cohort(job: Job) -> tuple:
    """What tells cohorts apart whose steps are not the same."""
    return job.kind, job.pair, tuple(dict.fromkeys(run.method.id for run in job.runs))


def in_own_process(plan: Plan, job: Job) -> Probe | str:
    """`measured`, where nothing that ran before takes memory, and where the system may kill what takes too much."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["kdbench.train.probe"])
    with ProcessPoolExecutor(1, context) as pool:
        try:
            return pool.submit(measured, plan, job).result()
        except BrokenProcessPool:
            return "the system killed it, most likely for its memory"


def measured(plan: Plan, job: Job) -> Probe | str:
    """Probe the cohort of a job's first seed on its packed data, with teachers as they are before their training."""
    import torch

    from kdbench.run import gpus
    from kdbench.run.training import batches_of, cohort_of
    from kdbench.train.probe import probe

    torch.set_num_threads(plan.suite.threads)
    seed = job.runs[0].seed
    runs = [run for run in job.runs if run.seed == seed]
    with gpus.claimed(plan.suite):
        try:
            batches = batches_of(plan.suite, job, load_packed(data_folder(plan.suite, job.data, seed)))
            found = probe(cohort_of(plan.suite, job, seed, batches, runs), runs)
        except (MemoryError, RuntimeError) as error:
            if isinstance(error, RuntimeError) and "memory" not in str(error):
                raise
            return f"out of memory: {str(error).splitlines()[0]}"
        there = memory_there_mb(batches.device)
    if found.memory_mb > there:
        return f"it takes {found.memory_mb:,.0f} MB of memory, and there are {there:,.0f}"
    return found


def memory_there_mb(device: torch.device) -> float:
    """Of the device; on a CPU of the machine, or what its container may have."""
    if device.type != "cpu":
        import torch

        return torch.cuda.get_device_properties(device).total_memory / 2**20
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    with contextlib.suppress(OSError, ValueError):  # no container, or one without a limit
        memory = min(memory, int(CGROUP.read_text()))
    return memory / 2**20
