"""Verbs that train work in a child process, so that one which dies of a signal still leaves a sentence.

After a segmentation fault, or when the system kills a process for memory, Python has no word left to say; its parent
has. The child writes which run it is at into a page of memory that both see.
"""

from __future__ import annotations

import ctypes
import faulthandler
import mmap
import os
import signal
import sys
import time
from collections.abc import Callable

GRACE_SECONDS = 1.0
_PAGE = mmap.mmap(-1, mmap.PAGESIZE)
_PASSED_ON = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
_FAULTS = (signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGILL, signal.SIGFPE)
_DIE_WITH_PARENT = 1
"""PR_SET_PDEATHSIG of Linux's prctl."""


def at(run: str) -> None:
    """Note the run that this process works at from now on."""
    _PAGE.seek(0)
    _PAGE.write(run.encode()[: mmap.PAGESIZE].ljust(mmap.PAGESIZE, b"\0"))


def supervised(work: Callable[[], int]) -> int:
    """Exit code of `work`, done in a child process; where a signal ends that, a sentence on stderr and 128 + signal.

    The child stays in the process group, so that a terminal and a scheduler reach it as they reach this process; what
    is sent to this process alone is passed on. On Linux the child ends with this process, even when that is killed.
    """
    parent = os.getpid()
    at("")
    sys.stdout.flush()
    sys.stderr.flush()
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, _PASSED_ON)  # one that comes now waits for the handlers below
    child = os.fork()
    if child == 0:
        code = 1
        try:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            if sys.platform == "linux":
                ctypes.CDLL(None).prctl(_DIE_WITH_PARENT, signal.SIGKILL)
                if os.getppid() != parent:
                    os._exit(1)
            faulthandler.enable()
            code = work()
            sys.stdout.flush()
            sys.stderr.flush()
        except BaseException:  # as Python itself would end: this child must not go on with its parent's work
            sys.excepthook(*sys.exc_info())
        finally:
            os._exit(code)
    for number in _PASSED_ON:
        signal.signal(number, lambda number, frame: _pass_on(number, child))
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if code >= 0:
        return code
    print(f"kdbench: {_sentence(-code)}", file=sys.stderr, flush=True)
    return 128 - code


def _pass_on(number: int, child: int) -> None:
    """Where the whole group got the signal, the child has a second to end by itself: it must not be stopped twice."""
    time.sleep(GRACE_SECONDS)
    os.kill(child, number)
    os.kill(child, signal.SIGCONT)


def _sentence(number: int) -> str:
    """How the child ended, where, and what to do."""
    run = _PAGE[:].rstrip(b"\0").decode(errors="ignore")
    name, where = signal.Signals(number).name, f"at {run}" if run else "before its first run"
    if number in _FAULTS:
        return (
            f"the process crashed ({name}) {where}, in compiled code (see the stack above); finished runs are kept, "
            "and the same command goes on from the checkpoint. Run `kdbench doctor`: it tries what is known to crash "
            "on some machines"
        )
    if number == signal.SIGKILL:
        return (
            f"the process was killed ({name}) {where}, most often because memory ran out; finished runs are kept, and "
            "the same command goes on from the checkpoint. With methods_per_job the suite trains fewer methods at once"
        )
    return (
        f"the process was ended ({name}) {where}; finished runs are kept, and the same command goes on from the "
        "checkpoint"
    )
