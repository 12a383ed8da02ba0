"""The script of docs/slurm.sh on a real Slurm: signalled, killed, drained, it ends as the run that was left alone."""

from __future__ import annotations

import json
import os
import signal
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from framework.testing import run_record, series
from tests import loopback_slurm

pytestmark = [pytest.mark.slow, pytest.mark.skipif(bool(loopback_slurm.missing()), reason=loopback_slurm.missing())]

SCRIPT = Path(__file__).parents[3] / "docs" / "slurm.sh"
STEPS = 400
WORDS = ["data=slow", "model=mlp", "model.hidden=[8]", "strategy=sharded", f"train.steps={STEPS}"]
SLOW = '''
import os, time
from pathlib import Path
from framework.errors import DataError
from framework_data.synthetic import synthetic


class Slow:
    """Twenty batches a second while the file SLOW is there; the file BROKEN is a mistake of one process's data."""

    def __init__(self, made):
        self.spec, self.steps_per_epoch, self.splits, self.source = made.spec, made.steps_per_epoch, made.splits, "s"
        self.made = made

    def train(self, seed, start=0):
        for batch in self.made.train(seed, start):
            if Path(os.environ["SLOW"]).exists():
                time.sleep(0.05)
            yield batch

    def eval(self, split):
        return self.made.eval(split)


def slow():
    if os.environ.get("BROKEN") == os.environ.get("SLURM_PROCID"):
        raise DataError("no such file on this node.")
    return Slow(synthetic(shape=(6,), examples=64, noise=3.0, batch_size=16, eval_batch_size=16))
'''


@pytest.fixture(scope="module")
def slurm(tmp_path_factory):
    with loopback_slurm.cluster(tmp_path_factory.mktemp("slurm") / "cluster") as cluster:
        yield cluster


@pytest.fixture
def submit(slurm, install, tmp_path):
    """Submit the script as a user does; it has one node with two tasks of one CPU here."""
    folder = install("slow", {"framework.data": {"slow": "slow_data:slow"}}, {"slow_data.py": SLOW})
    slurm.environment.update(
        PYTHONPATH=f"{folder}:{os.environ.get('PYTHONPATH', '')}",
        PATH=f"{Path(sys.executable).parent}:{slurm.environment['PATH']}",
        RUNS=str(tmp_path / "runs"),
        SLOW=str(tmp_path / "slow"),
        JAX_PLATFORMS="cpu",
    )

    def submit(*words, **environment):
        options = ["--nodes=1", "--ntasks-per-node=2", "--gpus-per-node=0", "--cpus-per-task=1", "--parsable"]
        exports = ",".join(["ALL", *(f"{name}={value}" for name, value in environment.items())])
        return slurm.call("sbatch", *options, f"--export={exports}", str(SCRIPT), *words, cwd=tmp_path).strip()

    return submit


def ended(slurm, job):
    slurm.until(
        lambda: slurm.job(job)["JobState"] in ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT"), lambda: slurm.job(job)
    )
    return slurm.job(job)


def checkpoint_of(run):
    return json.loads((run / "checkpoints" / str(STEPS) / "manifest.json").read_text())


def task(number):
    """The process of a task of the step that runs."""
    for path in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            has = f"SLURM_PROCID={number}\0".encode() in (path / "environ").read_bytes()
            if has and b"\0framework\0" in (path / "cmdline").read_bytes():
                return int(path.name)
    raise AssertionError(f"task {number} does not run")


def test_the_script_ends_as_the_run_that_was_left_alone(slurm, submit, tmp_path):
    words = [*WORDS, "train.steps_per_call=1", "train.log_every=10", "train.checkpoint_every=10", "train.eval_every=0"]
    alone = submit(*words)
    assert ended(slurm, alone)["JobState"] == "COMPLETED", (tmp_path / f"slurm-{alone}.out").read_text()
    slow = tmp_path / "slow"
    slow.touch()
    job = submit(*words)
    run = tmp_path / "runs" / job

    def said():
        return slurm.job(job), (tmp_path / f"slurm-{job}.out").read_text()

    def reached():
        return int(max(series(run, "step"), default=0)) if (run / "metrics.jsonl").exists() else 0

    def signalled():
        slurm.call("scancel", "--signal=TERM", job)

    def killed():
        os.kill(task(1), signal.SIGKILL)

    def drained():
        slurm.call("scontrol", "update", f"NodeName={loopback_slurm.NODE}", "State=DRAIN", "Reason=test")
        slurm.call("scontrol", "requeue", job)
        slurm.until(lambda: slurm.job(job)["JobState"] == "PENDING", said)
        slurm.call("scontrol", "update", f"NodeName={loopback_slurm.NODE}", "State=RESUME")

    def happens(event, number):
        """Wait for some steps, let it happen, and wait until the run goes on."""
        start = reached()
        slurm.until(lambda: reached() >= start + 20, said)
        event()
        slurm.until(lambda: slurm.job(job)["Restarts"] == str(number), said)
        slurm.until(lambda: len(run_record(run)["resumed"]) == number, said)

    for number, event in enumerate([signalled, killed, drained], 1):
        happens(event, number)
    slow.unlink()
    assert ended(slurm, job)["JobState"] == "COMPLETED", said()
    record, (first, *later) = run_record(run), run_record(run)["resumed"]
    assert record["status"] == "done" and record["starts"][-1]["processes"] == 2 and first >= 20
    assert later == sorted(later)
    last = [checkpoint_of(tmp_path / "runs" / name) for name in (job, alone)]
    assert last[0]["leaves"] == last[1]["leaves"]  # the sha256 of every leaf


@pytest.mark.parametrize(
    ("words", "broken", "code"),
    [(["model.hiden=[8]"], "", 2), ([], "1", 4)],
    ids=["of both", "of one"],
)
def test_a_mistake_is_not_tried_again(slurm, submit, tmp_path, words, broken, code):
    job = ended(slurm, submit(*WORDS, *words, BROKEN=broken))
    said = (tmp_path / f"slurm-{job['JobId']}.out").read_text()
    assert (job["JobState"], job["ExitCode"], job["Restarts"]) == ("FAILED", f"{code}:0", "0"), said
    assert said.count("error[") >= 1


def test_a_job_that_is_cancelled_saves_and_is_not_requeued(slurm, submit, tmp_path):
    (tmp_path / "slow").touch()
    job = submit(*WORDS, "train.log_every=10", "train.steps_per_call=1", "train.eval_every=0")
    run = tmp_path / "runs" / job
    slurm.until(lambda: (run / "metrics.jsonl").exists() and (run / "metrics.jsonl").stat().st_size)
    slurm.call("scancel", job)
    assert ended(slurm, job)["JobState"] == "CANCELLED"
    slurm.until(lambda: run_record(run)["status"] == "stopped", lambda: run_record(run))
    assert slurm.job(job)["Restarts"] == "0" and list((run / "checkpoints").iterdir())
