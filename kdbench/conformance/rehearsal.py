"""A device that there is not, so that what would fail or be slow on a GPU shows on a machine without one.

`on_device` makes a device that keeps torch's rules for CUDA: its tensors do not mix with those of the CPU, autocast is
its own, and what sends numbers between the two or asks it for one makes the host wait, which `without_waiting` refuses.
Its tensors hold real numbers, computed by the CPU's kernels with the CPU's random numbers, so a whole job runs on it,
evaluation, checkpoints and all, and ends in what the same job gives on a CPU.

It cannot see what lies in the kernels of a real card: operations that CUDA lacks or that synchronise inside (a
factorisation), memory, speed, other rounding and other random numbers.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import pickle
import time
import traceback
import types
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils import backend_registration
from torch.utils._python_dispatch import TorchDispatchMode

from kdbench.types import KdbenchError

DEVICE = torch.device("privateuseone", 0)
"""torch's type for devices from outside; within `on_device` its `.type` is "rehearsal"."""

aten = torch.ops.aten
_INDEXING = {aten.index, aten.index_put, aten.index_put_, aten._index_put_impl_, aten._unsafe_index}
_TAKES_CPU_SCALARS = _INDEXING | {aten.fill_, aten.masked_fill, aten.masked_fill_}
"""Beside everything pointwise."""
_COPIES = {aten._to_copy, aten.copy_}
_LOWER_PRECISION = (
    *("conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d", "prelu"),
    *("linear", "matmul", "mm", "mv", "bmm", "addmm", "addmv", "addr", "addbmm", "baddbmm", "chain_matmul"),
    *("linalg_vecdot", "linalg_multi_dot", "scaled_dot_product_attention"),
)
"""What autocast computes in bf16 on CUDA (aten/src/ATen/autocast_mode.h). What it computes in fp32 is left as it is."""


class LeftOnCpu(RuntimeError):
    """An operation got tensors of both; CUDA refuses it."""


class Waits(RuntimeError):
    """The host would stand still until the device has done all that it was given."""


class _Elsewhere(Tensor):
    """A tensor of the device; `held`, its numbers, is a tensor of the CPU that nobody else sees."""

    @staticmethod
    def __new__(cls, held: Tensor) -> _Elsewhere:
        return torch.Tensor._make_wrapper_subclass(
            cls,
            held.shape,
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            device=DEVICE,
        )

    def __init__(self, held: Tensor) -> None:
        self.held = held

    def __repr__(self) -> str:
        return f"{self.held!r} on a device of the rehearsal"

    def __reduce_ex__(self, protocol: Any) -> Any:
        # A file of it is read on the CPU.
        return self.held.__reduce_ex__(protocol)

    def tolist(self) -> Any:
        # torch's own refuses subclasses.
        return self.cpu().tolist()

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


class _Factories(TorchDispatchMode):
    """Sees the operations that take no tensor of the device, but make one."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is aten._pin_memory.default:
            pinned = args[0].clone()
            pinned.pinned = True
            return pinned
        wanted = kwargs.get("device")
        if types or (wanted is not None and wanted.type == DEVICE.type):
            return _run(func, args, kwargs)
        return func(*args, **kwargs)


class _Event:
    """As torch.cuda.Event."""

    def __init__(self, enable_timing: bool = False) -> None:
        self.seconds = 0.0

    def record(self) -> None:
        self.seconds = time.perf_counter()

    def synchronize(self) -> None:
        pass

    def elapsed_time(self, end: _Event) -> float:
        return 1000 * (end.seconds - self.seconds)


_waiting_allowed = True


@contextlib.contextmanager
def without_waiting() -> Iterator[None]:
    """Within it, what makes the host wait for the device raises Waits."""
    global _waiting_allowed
    before, _waiting_allowed = _waiting_allowed, False
    try:
        yield
    finally:
        _waiting_allowed = before


def why_not() -> str | None:
    """None, or why this torch cannot be told of a device from Python."""
    if hasattr(backend_registration, "_setup_privateuseone_for_python_backend"):
        return None
    return f"the rehearsal for GPUs needs torch 2.13 or later; this is {torch.__version__}"


def on_device(work: Callable[[torch.device], Any]) -> Any:
    """What `work` gives, or raises, in a forked process that has the device; torch would not forget it otherwise.

    LeftOnCpu and, within `without_waiting`, Waits are raised by what is done on it.
    Raises KdbenchError where there is a reason `why_not`.
    """
    if reason := why_not():
        raise KdbenchError(reason)
    fork = multiprocessing.get_context("fork")
    receiver, sender = fork.Pipe(duplex=False)

    def child() -> None:
        try:
            with _registered():
                sender.send_bytes(pickle.dumps((work(DEVICE), None)))
        except Exception as error:
            traceback.print_exc()
            sender.send_bytes(pickle.dumps((None, error)))

    process = fork.Process(target=child)
    process.start()
    sender.close()
    try:
        # Not recv(): torch hands tensors over in memory that dies with the child.
        result, error = pickle.loads(receiver.recv_bytes())
    except EOFError:
        raise RuntimeError("the process of the rehearsal died") from None
    finally:
        process.join()
    if error is not None:
        raise error
    return result


@contextlib.contextmanager
def _registered() -> Iterator[None]:
    module = types.SimpleNamespace(
        Event=_Event,
        get_amp_supported_dtype=lambda: [torch.bfloat16],
        get_rng_state=lambda device: torch.get_rng_state(),
        set_rng_state=lambda state, device: torch.set_rng_state(state),
        manual_seed_all=lambda seed: None,
        max_memory_allocated=lambda device: 0,
        is_available=lambda: True,
        is_initialized=lambda: True,
        device_count=lambda: 1,
        current_device=lambda: 0,
        _is_in_bad_fork=lambda: False,
    )
    backend_registration._setup_privateuseone_for_python_backend("rehearsal", module)
    everything, some = (torch.library.Library(name, "IMPL") for name in ("_", "aten"))
    everything.fallback(torch.library.fallthrough_kernel, "AutocastPrivateUse1")
    for name in _LOWER_PRECISION:
        some.impl(name, _in_lower_precision(getattr(aten, name)), "AutocastPrivateUse1")
    # torch.tensor(..., device=...) is then seen as a copy from the CPU, which it is.
    torch._C._set_only_lift_cpu_tensors(True)
    # On one thread: torch starts a device's own at the first backward pass of a process, which may be over.
    with _Factories(), torch.autograd.set_multithreading_enabled(False):
        yield


def _in_lower_precision(operation: Any) -> Callable[..., Any]:
    """The operation with every fp32 tensor of the device cast, as autocast does it."""
    keys = torch._C.DispatchKeySet(torch._C.DispatchKey.AutocastPrivateUse1)

    def cast(x: Tensor) -> Tensor:
        return x.bfloat16() if x.dtype == torch.float32 and x.device.type == DEVICE.type else x

    def run(*args: Any, **kwargs: Any) -> Any:
        with torch._C._ExcludeDispatchKeyGuard(keys):
            return operation(*_changed(args, cast), **{name: _changed(value, cast) for name, value in kwargs.items()})

    return run


# ------------------------------------------------------------------------------------------------------- one operation


def _run(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    given: list[Tensor] = []
    held: list[Tensor] = []

    def take(x: Tensor) -> Tensor:
        given.append(x)
        held.append(x.held if isinstance(x, _Elsewhere) else x)
        return held[-1]

    held_args, held_kwargs = _changed(args, take), {name: _changed(value, take) for name, value in kwargs.items()}
    on_device, wanted = any(isinstance(x, _Elsewhere) for x in given), kwargs.get("device")
    to_device = on_device if wanted is None else wanted.type == DEVICE.type
    _check(func, args, kwargs, given, to_device)
    if wanted is not None:
        held_kwargs["device"] = torch.device("cpu")
    result = func(*held_args, **held_kwargs)
    # What is written in place is given back itself.
    known = {id(inner): x for inner, x in zip(held, given, strict=True)}

    def give(x: Tensor) -> Tensor:
        if id(x) in known or not to_device:
            return known.get(id(x), x)
        return _Elsewhere(x.resolve_conj().resolve_neg())

    return _changed(result, give)


def _changed(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """An operation's arguments or results with every tensor changed; torch's pytree does it at half the speed."""
    if isinstance(value, Tensor):
        return change(value)
    return type(value)(_changed(x, change) for x in value) if isinstance(value, list | tuple) else value


def _check(func: Any, args: Any, kwargs: dict[str, Any], tensors: list[Tensor], to_device: bool) -> None:
    """Raises LeftOnCpu for what CUDA refuses, and Waits, where that is not allowed, for what it waits for."""
    operation = func.overloadpacket
    cpu = [x for x in tensors if not isinstance(x, _Elsewhere)]
    if operation in _COPIES:
        leaves_device = not to_device or (operation is aten.copy_ and not isinstance(args[0], _Elsewhere))
        awaited = not kwargs.get("non_blocking", operation is aten.copy_ and len(args) > 2 and args[2])
        if leaves_device:
            _waits("a copy to the CPU (.cpu(), .to(), .numpy())")
        elif cpu and (awaited or not hasattr(cpu[0], "pinned")):
            _waits("a copy from the CPU (.to(), torch.tensor(..., device=...)); make it on the device")
        return
    scalars_too = operation in _TAKES_CPU_SCALARS or torch.Tag.pointwise in func.tags
    alien = [x for x in cpu if x.ndim or not scalars_too]
    if operation in _INDEXING:
        indices = [x for x in args[1] if x is not None]
        if any(not isinstance(x, _Elsewhere) for x in indices):
            _waits("an index that lies on the CPU; make it on the device")
        # x[mask] = 1.0 is a masked_fill, which waits for nothing.
        number = len(args) > 2 and args[2].numel() == 1
        if any(x.dtype in (torch.bool, torch.uint8) for x in indices) and not number:
            _waits("a boolean index; use torch.where")
        alien = [x for x in alien if all(x is not index for index in indices)]
    elif torch.Tag.data_dependent_output in func.tags:
        _waits("a number asked for (.item(), .tolist(), bool(), torch.equal())")
    elif torch.Tag.dynamic_output_shape in func.tags:
        _waits(f"{operation}, whose shape depends on numbers")
    if alien and any(isinstance(x, _Elsewhere) for x in tensors):
        raise LeftOnCpu(f"{operation} gets a tensor of shape {list(alien[0].shape)} that lies on the CPU")


def _waits(why: str) -> None:
    if not _waiting_allowed:
        raise Waits(why)
