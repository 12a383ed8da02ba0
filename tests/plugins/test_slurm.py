"""The launcher `slurm` on a real Slurm: arrays, shared allocations, signals, ends of jobs, and what it asks Slurm."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

import framework
from framework import testing
from framework.contracts.launcher import Job
from framework.errors import ConfigError, PeerError
from framework.sweeps.here import Hereabouts
from framework.sweeps.lines import JobLines
from framework_slurm import queue
from framework_slurm.launcher import slurm
from tests import loopback_slurm

MISSING = loopback_slurm.missing() or ("" if find_spec("submitit") else "submitit is not installed")
needs_submitit = pytest.mark.skipif(not find_spec("submitit"), reason="submitit is not installed")
needs_slurm = pytest.mark.skipif(bool(MISSING), reason=MISSING)

SAVED = """
import signal, sys, time
def save(*_):
    print("error[interrupted]: saved", flush=True)
    sys.exit(143)
signal.signal(signal.SIGTERM, save)
open(sys.argv[1], "w").close()
time.sleep(600)
"""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    with loopback_slurm.cluster(tmp_path_factory.mktemp("slurm") / "cluster") as found:
        yield found


@pytest.fixture
def sweep(cluster, tmp_path, monkeypatch):
    """The folder of a sweep, and the environment of the cluster's clients."""
    for name in ("PATH", "SLURM_CONF"):
        monkeypatch.setenv(name, cluster.environment[name])
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, sys.path)))
    monkeypatch.setattr("framework_slurm.launcher.ASK", 1.0)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "sweep"


def job(sweep, number, program, *words, attempt=1):
    command = (sys.executable, "-c", program, *words)
    return Job(number, attempt, (), str(sweep / "runs" / str(number)), command)


def waiting(condition):
    """Have no job to give until a condition holds."""
    end = time.monotonic() + loopback_slurm.PATIENCE
    while not condition():
        assert time.monotonic() < end
        yield None


def process_of(number):
    """The program that a job of Slurm runs."""
    for path in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            words = (path / "cmdline").read_bytes().split(b"\0")
            is_program = b"submitit.core._submit" in words and b"python" in words[0]  # srun has that word too
            if is_program and f"SLURM_JOB_ID={number}\0".encode() in (path / "environ").read_bytes():
                return int(path.name)
    raise AssertionError(f"job {number} does not run")


def known(sweep):
    """Jobs of Slurm by point."""
    return {path.stem.split("-")[0]: path.read_text() for path in (sweep / "runs" / ".slurm").glob("*.job")}


@needs_slurm
@pytest.mark.slow
def test_points_are_jobs_of_slurm_and_end_as_they_end(cluster, sweep, tmp_path):
    says = "import os, sys; print(os.getcwd(), os.environ['SLURM_JOB_ID']); print('error[data]: no'); sys.exit({code})"
    programs = [says.format(code=0), says.format(code=4), "import os; os.kill(os.getpid(), 9)", SAVED]
    begun = tmp_path / "begun"
    jobs = [job(sweep, number, program, str(begun)) for number, program in enumerate(programs)]

    def feed():
        yield from jobs
        yield from waiting(begun.exists)
        cluster.call("scancel", "--signal=USR2", known(sweep)["3"])  # as Slurm does when the time is nearly over

    outcomes = sorted(slurm(at_once=5, options={"mem": "64M"}).launch(feed(), None))
    assert [(each.number, each.how, each.exit_code) for each in outcomes] == [
        (0, "ended", 0),
        (1, "ended", 4),
        (2, "lost", -9),
        (3, "preempted", 143),
    ]
    assert [each.reason for each in outcomes][:2] == ["", "error[data]: no"] and "SIGKILL" in outcomes[2].reason
    assert (sweep / "runs" / ".slurm" / "0-1.log").read_text().startswith(str(tmp_path))
    assert {name.partition("_")[2] for name in known(sweep).values()} == {"0", "1", "2", "3"}  # one array


@needs_slurm
@pytest.mark.slow
def test_points_share_an_allocation_and_one_that_is_taken_away_is_lost(cluster, sweep, tmp_path):
    begun = [tmp_path / f"begun{number}" for number in range(3)]
    launcher = slurm(per_device=2, at_once=2)
    assert launcher.slots == 4
    jobs = [job(sweep, number, SAVED, str(begun[number])) for number in range(2)]

    def feed():
        yield from jobs
        yield from waiting(lambda: begun[0].exists() and begun[1].exists())
        assert launcher.alive(jobs[0]) is True and launcher.alive(job(sweep, 9, "")) is None
        os.kill(process_of(known(sweep)["0"]), signal.SIGKILL)

    ends = {outcome.number: outcome for outcome in launcher.launch(feed(), None)}
    assert known(sweep)["0"] == known(sweep)["1"]
    assert {each.how for each in ends.values()} == {"lost"} and "of Slurm ended as" in ends[0].reason
    assert launcher.alive(jobs[0]) is False
    assert queue.states_of(["1"]) == {}


@needs_slurm
@pytest.mark.slow
def test_a_sweep_that_is_closed_lets_its_points_save(cluster, sweep, tmp_path):
    begun = tmp_path / "begun"

    def feed():
        yield job(sweep, 0, SAVED, str(begun))
        yield from waiting(begun.exists)
        yield job(sweep, 1, "pass")
        while True:
            yield None

    outcomes = slurm(at_once=2).launch(feed(), None)
    assert next(outcomes).number == 1
    outcomes.close()
    assert "saved" in (sweep / "runs" / ".slurm" / "0-1.log").read_text()
    cluster.until(lambda: queue.is_alive(known(sweep)["0"]) is False)


KILLED = """
import sys
from framework.contracts.launcher import Job
from framework.sweeps.here import Hereabouts
from framework_slurm.launcher import slurm
list(slurm().launch(iter([Job(0, 1, (), sys.argv[1], (sys.executable, "-c", "pass"))]), None))
"""


@needs_slurm
@pytest.mark.slow
def test_what_waits_in_the_queue_is_not_submitted_again(cluster, sweep):
    node = f"NodeName={loopback_slurm.NODE}"
    cluster.call("scontrol", "update", node, "State=DRAIN", "Reason=test")
    killed = subprocess.Popen([sys.executable, "-c", KILLED, str(sweep / "runs" / "0")])
    cluster.until(lambda: known(sweep).get("0"))
    killed.kill()
    killed.wait()
    before = known(sweep)
    cluster.call("scontrol", "update", node, "State=RESUME")
    (outcome,) = slurm().launch(iter([job(sweep, 0, "raise SystemExit(1)")]), None)
    assert outcome.exit_code == 0 and known(sweep) == before


@needs_submitit
def test_a_slurm_that_never_answers_is_told_once_and_ends_the_sweep(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("sbatch", "squeue", "sacct", "scontrol", "scancel"):
        (tmp_path / name).write_text(f"#!/bin/sh\necho {name} >> {tmp_path}/calls\nexit 1\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    said = []
    with pytest.raises(PeerError, match=r"launcher=slurm: Slurm has not answered for 0.01 minutes; its jobs go on"):
        lines = JobLines({}, 0, 0, 1, "eval/loss", lambda point: False, said.append)
        here = Hereabouts(tmp_path, None, lines, said.append)
        list(slurm(patience=0.01).launch(iter([job(tmp_path, 0, "")]), here))
    assert said == ["Slurm does not answer; the sweep waits 0.01 minutes for it (launcher.patience)"]
    assert (tmp_path / "calls").read_text().split().count("sbatch") == 1
    with pytest.raises(ConfigError, match="patience: expected more than 0 minutes"):
        slurm(patience=0)


@needs_submitit
def test_a_job_that_a_starting_controller_refuses_is_submitted_again(tmp_path, monkeypatch):
    folder = tmp_path / "runs" / ".slurm"
    folder.mkdir(parents=True)
    result = folder / "0-1.json"
    result.write_text('{"exit_code": 1, "reason": "of a job that ended before it was begun"}')
    programs = dict.fromkeys(("squeue", "sacct", "scontrol", "scancel"), "exit 0")
    programs["sbatch"] = f"""echo sbatch >> {tmp_path}/calls
        test $(wc -l < {tmp_path}/calls) = 2 || {{ echo "sbatch: error: no controller" >&2; exit 1; }}
        echo '{{"exit_code": 0, "reason": ""}}' > {result}
        echo Submitted batch job 7"""
    for name, text in programs.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setattr("framework_slurm.launcher.RETRY", 0.0)
    (outcome,) = slurm().launch(iter([job(tmp_path, 0, "")]), None)
    assert (outcome.how, outcome.exit_code, outcome.reason) == ("ended", 0, "")
    assert known(tmp_path) == {"0": "7"} and len((tmp_path / "calls").read_text().split()) == 2


@needs_slurm
@pytest.mark.slow
def test_a_refusal_of_sbatch_is_one_line(sweep):
    with pytest.raises(ConfigError, match=r"Slurm does not take the job: sbatch: error: .*nowhere"):
        list(slurm(options={"partition": "nowhere"}).launch(iter([job(sweep, 0, "pass")]), None))


def test_points_cannot_share_a_device_that_one_takes_several_of():
    with pytest.raises(ConfigError, match="per_device: points cannot share a device where each has 2 processes"):
        slurm(tasks_per_node=2, per_device=2)


def test_slurm_that_does_not_answer_tells_nothing(monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    assert queue.states_of(["1"]) is None and queue.is_alive("1") is None


def framework_by(*words):
    """A command in a process of its own, whose signals and devices are not those of the tests."""
    command = [sys.executable, "-m", "framework", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=loopback_slurm.PATIENCE, check=False)


@needs_slurm
@pytest.mark.slow
def test_a_point_may_be_a_run_of_two_processes(sweep, tmp_path, monkeypatch):
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    words = [*testing.TINY, "train.steps=8", "train.eval_every=4", "strategy=sharded"]
    on_slurm = ["launcher=slurm", "launcher.tasks_per_node=2", "distributed=auto", "sweep.dir=sweep", "seed=0,1"]
    done = framework_by("-m", *words, *on_slurm)
    assert done.returncode == 0, done.stderr
    alone = framework.run([*words, f"run.dir={tmp_path}/alone", "seed=1"])  # on two devices
    (run,) = (sweep / "runs").glob("*seed=1*")
    assert testing.run_record(run)["starts"][-1]["processes"] == 2
    for tag in ("train/loss", "eval/loss"):
        np.testing.assert_allclose(testing.series(run, tag), testing.series(alone, tag), rtol=1e-5)
    assert "2 of 2 points are done already" in framework_by("-m", *words, *on_slurm).stderr
