"""A Slurm of one node with two GPUs that are none: munged, slurmctld and slurmd as children of the test, in a folder of
their own, ended by pid.

Slurm's tools must find the configuration at its default place, for a job's inner srun keeps no SLURM_CONF. So it is
linked there, and nothing is started on a machine that has a Slurm.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "scontrol", "scancel")
PLACE = Path("/etc/slurm")
PATIENCE = 300
"""Seconds after which something that should have happened has not."""

SLURM_CONF = """\
ClusterName=kdbench
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmdPort={node_port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmdParameters=config_overrides
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
ReturnToService=2
KillWait=2
MpiDefault=none
GresTypes=gpu
NodeName=node NodeHostname={host} NodeAddr=127.0.0.1 CPUs=8 RealMemory=64000 Gres=gpu:2
PartitionName=cpu Nodes=node Default=YES State=UP
PartitionName=gpu Nodes=node State=UP
"""
# Slurm hands out cards that are character devices; what they do is nothing to it.
GRES_CONF = """\
Name=gpu File=/dev/null
Name=gpu File=/dev/zero
"""


def missing() -> str | None:
    """Why there can be no such cluster here; None where there can."""
    lacking = [name for name in PROGRAMS if not _find(name)]
    if lacking:
        return f"not installed: {', '.join(lacking)} (apt-get install slurm-wlm munge)"
    if os.geteuid() != 0:
        return "slurmd wants to be started by root"
    if importlib.util.find_spec("snakemake_executor_plugin_slurm") is None:
        return "not installed: snakemake-executor-plugin-slurm"
    if (PLACE / "slurm.conf").exists():
        return f"this machine has a Slurm already: {PLACE / 'slurm.conf'}"
    return None


def until(happened: Callable[[], object], what: str) -> object:
    """What `happened` returns as soon as that is true."""
    deadline = time.monotonic() + PATIENCE
    while not (found := happened()):
        assert time.monotonic() < deadline, f"waited {PATIENCE} s in vain: {what}"
        time.sleep(0.02)
    return found


class Cluster:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.daemons: dict[str, subprocess.Popen] = {}

    def __call__(self, *words: str) -> str:
        """The output of one of Slurm's tools."""
        return subprocess.run(words, capture_output=True, text=True, check=True, timeout=PATIENCE).stdout.strip()

    def jobs(self, folder: Path, *columns: str) -> list[tuple[str, ...]]:
        """(id, state, further columns of squeue) of all jobs that were submitted from a folder, the oldest first."""
        lines = self("squeue", "--noheader", "--states=all", "--format", "|".join(("%Z", "%i", "%T", *columns)))
        rows = [tuple(line.split("|")) for line in lines.splitlines()]
        return sorted((row[1:] for row in rows if row[0] == str(folder)), key=lambda row: int(row[0]))

    def start(self, name: str, *words: str) -> None:
        with (self.folder / f"{name}.log").open("a") as log:
            pipes = {"stdin": subprocess.DEVNULL, "stdout": log, "stderr": log}
            self.daemons[name] = subprocess.Popen([_find(name), *words], **pipes)

    def stop(self, name: str) -> None:
        daemon = self.daemons.pop(name)
        daemon.terminate()
        try:
            daemon.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            daemon.kill()
            daemon.wait()

    def start_node(self) -> None:
        self.start("slurmd", "-D")
        until(self.ready, f"the node is ready ({self.folder}/slurmd.log)")

    def ready(self) -> bool:
        """The node answers and takes jobs."""
        seen = subprocess.run(["sinfo", "-h", "-o", "%T"], capture_output=True, text=True, timeout=PATIENCE)
        return seen.stdout.split() and set(seen.stdout.split()) <= {"idle", "mixed", "allocated"}


@contextlib.contextmanager
def running() -> Iterator[Cluster]:
    cluster = Cluster(Path(tempfile.mkdtemp(prefix="kdbench-slurm-")))
    links = [PLACE / name for name in ("slurm.conf", "gres.conf")]
    try:
        _configure(cluster.folder)
        PLACE.mkdir(exist_ok=True)
        for link in links:
            link.unlink(missing_ok=True)  # of a test that was killed: `missing` saw that it leads nowhere
            link.symlink_to(cluster.folder / link.name)
        munge = {name: f"{cluster.folder}/munge.{name}" for name in ("key", "socket", "pid", "seed")}
        options = {"key-file": "key", "socket": "socket", "pid-file": "pid", "seed-file": "seed"}
        cluster.start("munged", "--foreground", "--force", *(f"--{o}={munge[name]}" for o, name in options.items()))
        until(Path(munge["socket"]).exists, f"munged has a socket ({cluster.folder}/munged.log)")
        cluster.start("slurmctld", "-D")
        cluster.start_node()
        yield cluster
    finally:
        for name in ("slurmctld", "slurmd", "munged"):
            if name == "slurmctld" and "slurmd" in cluster.daemons:
                _end_all_jobs(cluster)
            if name in cluster.daemons:
                cluster.stop(name)
        for link in links:
            link.unlink(missing_ok=True)
        shutil.rmtree(cluster.folder, ignore_errors=True)


def _configure(folder: Path) -> None:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(2)]
        for free in sockets:
            free.bind(("127.0.0.1", 0))
        ports = [free.getsockname()[1] for free in sockets]
    host = socket.gethostname().partition(".")[0]
    places = {"folder": folder, "host": host, "controller_port": ports[0], "node_port": ports[1]}
    (folder / "slurm.conf").write_text(SLURM_CONF.format(**places))
    (folder / "gres.conf").write_text(GRES_CONF)
    for name in ("state", "spool"):
        (folder / name).mkdir()
    key = folder / "munge.key"
    key.touch(mode=0o600)
    key.write_bytes(os.urandom(128))


def _end_all_jobs(cluster: Cluster) -> None:
    def ended() -> bool:
        return not cluster("squeue", "--noheader", "--states=running,completing,pending")

    with contextlib.suppress(subprocess.SubprocessError, AssertionError):
        cluster("scancel", "--user=root")
        until(ended, "all jobs have ended")


def _find(program: str) -> str | None:
    return shutil.which(program, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
