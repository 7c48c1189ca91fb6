"""A command that dies of a signal leaves a line that says where, of what, and what to do."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import write_tiny

from kdbench.terminal import doctor

COMMAND = """
import os, signal, sys, time
from kdbench import supervise

def work():
    supervise.at("cnn-t--vit-s/kd seed 3")
    print("working", flush=True)
    {work}
    return 7

sys.exit(supervise.supervised(work))
"""


def started(work: str) -> subprocess.Popen:
    command = [sys.executable, "-c", COMMAND.format(work=work)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)


def last_line(process: subprocess.Popen) -> str:
    return process.communicate(timeout=60)[1].strip().splitlines()[-1]


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("SIGSEGV", "kdbench doctor"),
        ("SIGABRT", "kdbench doctor"),
        ("SIGKILL", "memory"),
        ("SIGTERM", "checkpoint"),
        ("SIGXCPU", "checkpoint"),
    ],
)
def test_the_last_line_names_run_signal_and_remedy(name, advice):
    process = started(f"os.kill(os.getpid(), signal.{name})")
    line = last_line(process)
    assert name in line and "cnn-t--vit-s/kd seed 3" in line and advice in line
    assert process.returncode == 128 + getattr(signal, name)


def test_a_crash_also_shows_its_stack():
    process = started("os.kill(os.getpid(), signal.SIGSEGV)")
    assert "Segmentation fault" in (told := process.communicate(timeout=60)[1]) and "in work" in told


@pytest.mark.parametrize(("work", "code"), [("pass", 7), ("1 / 0", 1)])
def test_a_command_that_ends_by_itself_ends_as_before(work, code):
    process = started(work)
    out, err = process.communicate(timeout=60)
    assert process.returncode == code and out == "working\n" and ("ZeroDivisionError" in err) == ("/" in work)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("send", [os.kill, os.killpg])
def test_the_child_gets_a_signal_once_whether_its_parent_or_the_group_was_told(number, send):
    handler = "lambda *a: (print('got', flush=True), seen.append(1))"
    process = started(
        f"seen = []; signal.signal({int(number)}, {handler}); print('ready', flush=True)\n"
        "    while not seen: time.sleep(0.01)\n    time.sleep(0.3); return 10 + len(seen)"
    )
    while "ready" not in process.stdout.readline():
        pass
    send(process.pid, number)
    process.communicate(timeout=60)
    assert process.returncode == 11


TOLD_AT_ONCE = """
import os, signal, sys, time
from kdbench import supervise

def fork(fork=os.fork):
    child = fork()
    if child:
        os.kill(os.getpid(), signal.SIGUSR1)
    return child

def work():
    signal.signal(signal.SIGUSR1, lambda *_: os._exit(42))
    time.sleep(60)

os.fork, supervise.GRACE_SECONDS = fork, 0
sys.exit(supervise.supervised(work))
"""


def test_a_signal_right_after_the_fork_waits_for_who_passes_it_on():
    """The parent is told before it has its handlers: it must not die of that and leave its child alone."""
    done = subprocess.run([sys.executable, "-c", TOLD_AT_ONCE], capture_output=True, timeout=60)
    # It may reach the child before that has its own handler; either way it is the child that took it.
    assert done.returncode in (42, 128 + signal.SIGUSR1)


def test_a_stopped_child_ends_too():
    """As Slurm ends a job: a stopped process takes no SIGTERM before it is continued."""
    process = started("print(os.getpid(), flush=True); time.sleep(60)")
    process.stdout.readline()
    os.kill(int(process.stdout.readline()), signal.SIGSTOP)
    process.send_signal(signal.SIGTERM)
    assert "SIGTERM" in last_line(process) and process.returncode == 128 + signal.SIGTERM


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends a child with its parent")
def test_the_child_ends_when_its_parent_is_killed():
    process = started("print(os.getpid(), flush=True); time.sleep(60)")
    assert process.stdout.readline() == "working\n"
    child = int(process.stdout.readline())
    process.kill()
    process.wait()
    for _ in range(500):
        stat = Path(f"/proc/{child}/stat")
        if not stat.exists() or " Z " in stat.read_text():
            return
        time.sleep(0.01)
    os.kill(child, signal.SIGKILL)
    raise AssertionError("the child outlived its parent")


def test_a_training_verb_names_the_run_it_died_in(trained, tmp_path):
    """Through the console script, with a method that crashes the process at its third step."""
    method = tmp_path / "deadly.py"
    method.write_text(DEADLY)
    write_tiny(
        tmp_path,
        blocks={"main": {"data": "digits", "pairs": ["cnn-t -> vit-s"], "methods": ["kd", "bad"]}},
        methods={"bad": {"method": f"{method}:Deadly"}},
    )
    command = [sys.executable, "-c", "import sys; from kdbench.cli import main; sys.exit(main())"]
    done = subprocess.run(
        [*command, "distill", "tiny", "cnn-t--vit-s", "--seeds", "1"], capture_output=True, text=True, timeout=120
    )
    line = done.stderr.strip().splitlines()[-1]
    assert re.search(r"crashed \(SIGABRT\) at cnn-t--vit-s/bad seed 1", line), done.stderr
    assert done.returncode == 134


DEADLY = '''
"""Ends the process."""
import os
from dataclasses import dataclass
from kdbench.methods.base import Distiller, cross_entropy

TITLE = "Deadly"
GROUP = "logits"


@dataclass(frozen=True)
class Params:
    weight: float = 1.0


class Deadly(Distiller):
    Params = Params

    @classmethod
    def needs(cls, params):
        return frozenset({"logits"})

    def forward(self, student, teacher, target, progress):
        if progress > 0.2:
            os.abort()
        return {"ce": cross_entropy(student.logits, target)}
'''


@pytest.mark.parametrize(("crashing", "fit"), [("channels_last", True), ("NCHW", False), ("nothing", True)])
def test_doctor_says_which_layout_crashes(monkeypatch, capsys, crashing, fit):
    monkeypatch.setattr(doctor, "CONVOLUTIONS", f"import os, sys\nif sys.argv[1] == {crashing!r}:\n    os.abort()")
    assert doctor.examine() == (0 if fit else 1)
    line = next(line for line in capsys.readouterr().out.splitlines() if "convolutions" in line)
    assert line.startswith("ok" if fit else "FAIL")
    assert (f"{crashing} crashes (SIGABRT)" in line) == (crashing != "nothing") and line.endswith("kdbench uses NCHW")
