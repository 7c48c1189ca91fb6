"""`bench roofline`: how near the cohort of nine comes to what this machine's matrix products do, and what else it does.

Floating-point operations are those of products, convolutions and attention, forward and backward, as torch counts them
over one step of the cohort; element-wise work and FFTs count as none. The rate of a matrix product is measured in the
same precision, process and threads.
"""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Sequence
from typing import Any

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from kdbench.report.page import Section
from speed import setting, timing
from speed.setting import BATCH_SIZE, METHODS, PAIRS, Options, left_out, precisions, tree

WARM = 3
"""Steps before anything is measured; one more, which is not timed, counts operations."""
PROFILED = 1
SQUARE = {"cpu": 2048, "cuda": 8192}
"""Side of the matrices that give the machine's rate."""
USUAL = (BATCH_SIZE * 64, 192, 768)
"""Rows, inner size and columns of the first product in the MLP of vit-heavy."""
_PRODUCTS = ("mm", "matmul", "conv", "linear", "attention")


def measure(options: Options) -> dict[str, Any]:
    steps, repeats = options.choose("steps", 2, 50), options.choose("repeats", 3, 5)
    rows = []
    for name, pair in PAIRS.items():
        for precision in precisions(options.device):
            rows.append({"pair": name, "precision": precision, **_row(pair, precision, steps, repeats, options)})
            options.say(f"roofline, {name}, {precision}: {rows[-1]['share']:.0%} of the matrix rate")
    settings = {"steps": steps, "repeats": repeats, **left_out(options.device)}
    return {"settings": settings, "rows": rows, "targets": []}


def _row(
    pair: tuple[str, str],
    precision: str,
    steps: int,
    repeats: int,
    options: Options,
    methods: Sequence[str] = METHODS,
) -> dict[str, Any]:
    begin = WARM + 1
    end = begin + steps * repeats
    trial = setting.trial(tree(pair, options, precision, steps=end + PROFILED + 1, methods=methods), options)
    device = trial.cohort.device
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if device.type == "cuda" else [])]
    counter, profiler, marks = FlopCounterMode(display=False), profile(activities=activities), []

    def mark() -> None:
        marks.append(timing.clock(device))

    def count_no_more() -> None:
        counter.__exit__(None, None, None)
        mark()

    def start_profile() -> None:
        mark()
        profiler.start()
        mark()

    def stop_profile() -> None:
        mark()
        profiler.stop()

    before = {begin + steps * k: mark for k in range(1, repeats)}
    before |= {WARM: counter.__enter__, begin: count_no_more, end: start_profile, end + PROFILED: stop_profile}
    setting.train(trial, options.work, before)

    *timed, profile_start, profile_stop = marks
    seconds = [(b - a) / steps for a, b in itertools.pairwise(timed)]
    operations, median = counter.get_total_flops(), statistics.median(seconds)
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    side = SQUARE[device.type]
    rate = matrix_rate(side, side, side, dtype, device)
    return {
        "step_seconds": timing.summary(seconds),
        "operations": operations,
        "operations_a_second": operations / median,
        "matrix_rate": rate,
        "usual_matrix_rate": matrix_rate(*USUAL, dtype, device),
        "share": operations / median / rate,
        **summarised(profiler.key_averages(), device.type, profile_stop - profile_start),
    }


def matrix_rate(rows: int, inner: int, columns: int, dtype: torch.dtype, device: torch.device) -> float:
    """Operations a second of the product (rows, inner) @ (inner, columns): the median of seven tries of some calls."""
    a, b = (torch.randn(shape, device=device).to(dtype) for shape in ((rows, inner), (inner, columns)))
    calls = 10 if device.type == "cuda" else 1
    found = []
    for _ in range(8):
        started = timing.clock(device)
        for _ in range(calls):
            a @ b
        found.append((timing.clock(device) - started) / calls)
    return 2 * rows * inner * columns / statistics.median(found[1:])


def summarised(averages: Any, device: str, wall: float) -> dict[str, Any]:
    """The five kinds of operation that take most time, the share of products, and on CUDA how long it was at work.

    averages: of torch's profiler. wall: seconds that were profiled.
    """
    times = {
        event.key: (event.self_device_time_total if device == "cuda" else event.self_cpu_time_total) / 1e6
        for event in averages
        if event.device_type == DeviceType.CPU
    }
    total = sum(times.values()) or 1.0
    largest = sorted(times, key=times.get, reverse=True)[:5]
    products = sum(seconds for name, seconds in times.items() if any(word in name for word in _PRODUCTS))
    return {
        "operations_by_time": [{"operation": name, "share": times[name] / total} for name in largest],
        "product_time_share": products / total,
        "device_busy": total / wall if device == "cuda" else None,
    }


def section(result: dict[str, Any]) -> Section:
    body, lines = [], []
    for row in result["rows"]:
        label = f"{row['pair']}, {row['precision']}"
        rates = [row[key] / 1e9 for key in ("operations_a_second", "matrix_rate", "usual_matrix_rate")]
        cells = [timing.text(row["step_seconds"], 1, 1000), f"{row['operations'] / 1e9:,.1f}"]
        cells += [*(f"{rate:,.0f}" for rate in rates), f"{row['share']:.0%}", f"{row['product_time_share']:.0%}"]
        body.append((label, [*cells, "" if row["device_busy"] is None else f"{row['device_busy']:.0%}"]))
        lines.append((label, [f"{o['operation']} {o['share']:.0%}" for o in row["operations_by_time"]]))
    columns = ["step, ms", "GFLOP a step", "GFLOP/s", "matrix GFLOP/s", "the same, usual size", "share of matrix rate"]
    columns += ["time in products", "GPU at work"]
    ranks = ["first", "second", "third", "fourth", "fifth"]
    return Section(
        "roofline: the cohort of nine against matrix products",
        (
            timing.table("One step of nine members and their teacher", "Pair", columns, body),
            timing.table("Where the time goes: operations by their own time", "Pair", ranks, lines),
        ),
    )
