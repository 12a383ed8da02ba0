"""Slurm of Debian's packages `slurm-wlm` and `munge` on the loopback of this machine, with one node.

All daemons have files, keys and ports of their own, so that several such clusters can run at once, beside one that the
machine may belong to. Every wait ends.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from tests.faults.peers import free_port

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scontrol")
NODE = socket.gethostname()
PATIENCE = 300.0
"""Seconds that a wait may take, by far more than any here takes."""

CONFIG = """\
ClusterName=loopback
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller}
SlurmUser={user}
SlurmdUser={user}
AuthInfo=socket={folder}/munge.sock,cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
ProctrackType=proctrack/pgid
TaskPlugin=task/none
MpiDefault=none
MailProg=/bin/true
ReturnToService=2
KillWait=60
MinJobAge=3600
FirstJobId={first}
SchedulerParameters=sched_interval=2
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
NodeName={host} NodeAddr=127.0.0.1 Port={node} CPUs=4 RealMemory=4000 State=UNKNOWN
PartitionName=debug Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""
"""`cred_expire` is also how long a requeued job waits before it starts; two minutes by default. The port of a job's
coordinator follows from its number."""


def missing() -> str:
    """Return why there can be no cluster here, or ""."""
    absent = [name for name in PROGRAMS if shutil.which(name, path=_path()) is None]
    return f"Debian's packages slurm-wlm and munge are not installed: no {', '.join(absent)}" if absent else ""


class Cluster(NamedTuple):
    """A running cluster.

    Attributes:
      folder: of its files.
      environment: of its clients.
    """

    folder: Path
    environment: dict[str, str]

    def call(self, *words: str, cwd: Path | None = None) -> str:
        """Run a client, and return what it prints.

        Raises: AssertionError with its errors if it fails.
        """
        done = subprocess.run(
            words, env=self.environment, cwd=cwd, capture_output=True, text=True, timeout=PATIENCE, check=False
        )
        assert done.returncode == 0, f"{' '.join(words)}: {done.stderr}"
        return done.stdout

    def job(self, number: str) -> dict[str, str]:
        """Return the fields of a job, such as JobState, Restarts, NodeList."""
        return dict(re.findall(r"(\w+)=(\S*)", self.call("scontrol", "show", "job", number)))

    def until(self, condition: Callable[[], object], about: Callable[[], object] = str) -> None:
        """Wait.

        Raises: AssertionError with what there is to say about it, if it takes longer than any wait here.
        """
        end = time.monotonic() + PATIENCE
        while not condition():
            assert time.monotonic() < end, about()
            time.sleep(0.2)


@contextmanager
def cluster(folder: Path) -> Iterator[Cluster]:
    """Run a cluster inside the context; jobs that are left are ended with it."""
    folder.mkdir()
    folder.chmod(0o755)
    user = subprocess.check_output(["id", "-un"], text=True).strip()
    config = folder / "slurm.conf"
    given = {"host": NODE, "user": user, "folder": folder, "first": 1 + secrets.randbelow(50_000)}
    config.write_text(CONFIG.format(**given, controller=free_port(), node=free_port()))
    (folder / "munge.key").write_bytes(secrets.token_bytes(128))
    (folder / "munge.key").chmod(0o600)
    (folder / "state").mkdir()
    environment = {**os.environ, "PATH": _path(), "SLURM_CONF": str(config)}
    running = Cluster(folder, environment)
    started: list[subprocess.Popen[bytes]] = []

    def start(name: str, *words: str) -> None:
        with (folder / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                words, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        started.append(process)

    files = [f"--{name}-file={folder}/munge.{name}" for name in ("key", "pid", "log", "seed")]
    try:
        start("munged", "munged", "--foreground", "--force", f"--socket={folder}/munge.sock", *files)
        running.until((folder / "munge.sock").exists)
        start("slurmctld", "slurmctld", "-D", "-i")
        start("slurmd", "slurmd", "-D")
        running.until(lambda: _is_idle(running), lambda: _logs(folder))
        yield running
    finally:
        with suppress(AssertionError, subprocess.SubprocessError):
            running.call("scancel", "--signal=KILL", "--full", f"--user={user}")
            running.call("scancel", f"--user={user}")
        for process in reversed(started):
            process.terminate()
        for process in started:
            with suppress(subprocess.TimeoutExpired):
                process.wait(5)
            process.kill()
            process.wait()
        for left in _of(folder):
            with suppress(ProcessLookupError):
                os.kill(left, signal.SIGKILL)


def _path() -> str:
    return f"{os.environ['PATH']}:/usr/sbin:/usr/bin"


def _is_idle(running: Cluster) -> bool:
    with suppress(AssertionError):
        return running.call("sinfo", "--noheader", "--Node", "--format=%t").split() == ["idle"]
    return False


def _logs(folder: Path) -> str:
    return "\n".join(path.read_text(errors="replace")[-2000:] for path in sorted(folder.glob("*.log")))


def _of(folder: Path) -> Sequence[int]:
    """Return the processes that were started by this cluster: daemons of steps outlive those of nodes."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        with suppress(OSError):
            if f"SLURM_CONF={folder}/".encode() in path.read_bytes():
                found.append(int(path.parent.name))
    return found
