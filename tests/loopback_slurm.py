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
from collections.abc import Callable, Iterator
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


DAEMONS = {
    "munged": "--foreground --force --socket={folder}/munge.sock --key-file={folder}/munge.key "
    "--pid-file={folder}/munge.pid --log-file={folder}/munge.log --seed-file={folder}/munge.seed",
    "slurmctld": "-D -i",
    "slurmd": "-D",
}
"""Options of each daemon."""


def missing() -> str:
    """Return why there can be no cluster here, or ""."""
    absent = [name for name in PROGRAMS if shutil.which(name, path=_path()) is None]
    return f"Debian's packages slurm-wlm and munge are not installed: no {', '.join(absent)}" if absent else ""


class Cluster(NamedTuple):
    """A running cluster.

    Attributes:
      folder: of its files.
      environment: of its clients.
      daemons: processes by name.
    """

    folder: Path
    environment: dict[str, str]
    daemons: dict[str, subprocess.Popen[bytes]]

    def start(self, name: str) -> None:
        """Start a daemon, also one that was killed: it goes on with the state that it left on the disk."""
        with (self.folder / f"{name}.log").open("ab") as log:
            self.daemons[name] = subprocess.Popen(
                [name, *DAEMONS[name].format(folder=self.folder).split()],
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def kill(self, name: str) -> None:
        """Kill a daemon by SIGKILL."""
        self.daemons[name].kill()
        self.daemons[name].wait()

    def processes(self) -> dict[int, str]:
        """Return the command lines of all processes that this cluster has started: those of jobs outlive a daemon."""
        found = {}
        for path in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                if f"SLURM_CONF={self.folder}/".encode() in (path / "environ").read_bytes():
                    words = (path / "cmdline").read_bytes().split(b"\0")
                    found[int(path.name)] = b" ".join(words).decode(errors="replace")
        return found

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
    running = Cluster(folder, environment, {})
    try:
        running.start("munged")
        running.until((folder / "munge.sock").exists)
        running.start("slurmctld")
        running.start("slurmd")
        running.until(lambda: _is_idle(running), lambda: _logs(folder))
        yield running
    finally:
        with suppress(AssertionError, subprocess.SubprocessError):
            running.call("scancel", "--signal=KILL", "--full", f"--user={user}")
            running.call("scancel", f"--user={user}")
        for process in reversed(running.daemons.values()):
            process.terminate()
        for process in running.daemons.values():
            with suppress(subprocess.TimeoutExpired):
                process.wait(5)
            process.kill()
            process.wait()
        for left in running.processes():
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
