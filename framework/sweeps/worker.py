"""The training of one point under a lease: it reports each evaluation, and ends where the lease is lost."""

from __future__ import annotations

import math
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from framework.contracts.launcher import Job, Outcome
from framework.errors import FrameworkError, InterruptError, PeerError, StorageError, exit_code_of, line_of
from framework.startup import import_jax
from framework.sweeps import folder as folders
from framework.sweeps.ledger import LEASE, Ledger, Point, State
from framework.sweeps.points import config_of, content_of, data_digests, differences, hash_of, read_content
from framework.sweeps.settings import metrics_of, read_settings

if TYPE_CHECKING:
    from framework.config.compose import Config
    from framework.experiment import Experiment
    from framework.records.record import RunRecord
    from framework.runs.run import Result, Watch

TAKEN = 75
"""Exit code of a worker whose point another one has: EX_TEMPFAIL."""

BEAT = LEASE / 6

ANSWER = 0.02
"""Seconds between two looks for the answer of a search."""

ORPHANED = 60.0
"""Seconds that a run waits for the answer of a driver that is gone."""


class LeaseError(FrameworkError):
    """A worker whose lease another one has by now. It writes nothing more."""

    kind = "lease"
    exit_code = TAKEN


class Lease:
    """The lease of one point, renewed by a thread. A process that does nothing else ends at once when it is lost."""

    def __init__(self, sweep: Path, number: int, owner: str, is_all: bool) -> None:
        self.sweep, self.number, self.owner, self.is_all = sweep, number, owner, is_all
        self.is_lost = False
        self._over = threading.Event()

    @contextmanager
    def held(self) -> Iterator[Lease]:
        """Renew the lease inside the context."""
        thread = threading.Thread(target=self._renew, name="lease", daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self._over.set()
            thread.join()

    def _renew(self) -> None:
        with Ledger(folders.ledger_of(self.sweep)) as ledger:
            while not self._over.wait(BEAT):
                try:
                    self.is_lost = not ledger.beat(self.number, self.owner)
                except StorageError:  # a disk that is away for a moment; the run itself tells of it
                    continue
                if self.is_lost and self.is_all:
                    os._exit(TAKEN)
                if self.is_lost:
                    return


class Reporting:
    """Reports to the ledger, as calls of a callback: what it answers ends the run."""

    def __init__(self, ledger: Ledger, point: Point, lease: Lease, watches: bool, timeout: float | None) -> None:
        """Begin an attempt.

        Args:
          watches: the search answers each report, and the run waits for that.
          timeout: seconds after which the attempt has failed.
        """
        self.ledger, self.point, self.lease, self.watches = ledger, point, lease, watches
        self.until = math.inf if timeout is None else time.monotonic() + timeout
        self.timeout = timeout
        self.verdict: State | None = None
        self.last_step = math.inf

    def check(self) -> None:
        """Raise what ends the run between two steps.

        Raises: LeaseError; InterruptError once the time is over.
        """
        if self.lease.is_lost:
            raise LeaseError(f"another worker has point {self.point.number} by now; nothing more is written.")
        if time.monotonic() > self.until:
            self.verdict = "failed"
            raise InterruptError(f"its time of {self.timeout:g} s is over.", 124)

    def evaluated(self, step: int, scalars: Mapping[str, float]) -> str:
        """Report an evaluation; that before the first step says nothing of the point, and other scalars are none.

        Returns: the reason to end the run, or "".
        """
        if step == 0 or not any(tag.startswith("eval/") for tag in scalars):
            return ""
        event = self.ledger.report(self.point.number, self.lease.owner, step, scalars)
        if event is None:
            self.lease.is_lost = True
            self.check()
        if not self.watches or event is None or step >= self.last_step:
            return ""
        decision = self._answer(event)
        if decision == "prune":
            self.verdict = "pruned"
            return f"pruned by the search at step {step}"
        if decision == "pause":
            self.verdict = "paused"
            return "SIGTERM"  # by this name, a run saves its state and can go on
        return ""

    def _answer(self, event: int) -> str:
        since = time.monotonic()
        while (found := self.ledger.decision(event)) is None:
            self.check()
            time.sleep(ANSWER)
            if folders.is_driven(self.lease.sweep):
                since = time.monotonic()
            elif time.monotonic() - since > ORPHANED:
                raise InterruptError("nobody drives the sweep, so that no search answers.", 143)
        return found


def work(
    sweep: Path,
    job: Job,
    is_all: bool,
    tell: Callable[[BaseException], None] = lambda error: None,
    watch: Watch = lambda experiment: experiment,
) -> Outcome:
    """Train a job's point in this process, under a lease, and write its end into the ledger.

    Args:
      sweep: its folder.
      job: the point.
      is_all: the process does nothing else, and may end where the lease is lost.
      tell: is given the error of a run that fails.
      watch: is given the experiment that was built, and returns the one that is run.

    Raises: InterruptError after a signal, once its end is written.
    """
    with Ledger(folders.ledger_of(sweep)) as ledger:
        facts, owner = ledger.facts(), folders.owner()
        point = ledger.claim(job.number, owner)
        if point is None:
            return Outcome(job.number, job.attempt, "ended", TAKEN, "another worker has it")
        timeout = read_settings(facts["settings"]).timeout
        with Lease(sweep, job.number, owner, is_all).held() as lease:
            reporting = Reporting(ledger, point, lease, bool(facts.get("watches")), timeout)
            try:
                config = config_of(job.words, facts.get("config_dir"))
                _note_content(ledger, sweep, point, config)
                result = _train(config, reporting, point.budget, watch)
            except BaseException as error:
                tell(error)
                return _failed(ledger, job, owner, reporting, error)
        return _ended(ledger, sweep, job, owner, reporting, result, metrics_of(read_settings(facts["settings"])))


def follow(job: Job, config_dir: str | None, budget: int | None) -> None:
    """Take part in a point as one of several processes, of which the first holds the lease and reports.

    Args:
      job: the point.
      config_dir: a folder of configs of one's own.
      budget: of the point.

    Raises: FrameworkError.
    """
    _train(config_of(job.words, config_dir), None, budget, lambda experiment: experiment)


def job_of(sweep: Path, point: Point) -> Job:
    """Return the next attempt of a point as a job."""
    directory = str(sweep / point.directory)
    words = (*point.words, f"run.dir={directory}", "run.resume=auto")
    command = (sys.executable, "-m", "framework", "sweep", "work", str(sweep), str(point.number))
    return Job(point.number, point.attempts + 1, words, directory, command)


def is_begun(sweep: Path, point: Point) -> bool:
    """Tell whether the run folder of a point holds a run."""
    return (sweep / point.directory / "run.json").is_file()


def judged(metrics: Mapping[str, float], goals: tuple[str, ...]) -> str:
    """Return what is wrong with the last values of a run that has ended well, or ""."""
    for tag in ("train/loss", *goals):
        if tag in metrics and not math.isfinite(metrics[tag]):
            return f"{tag} is {metrics[tag]}"
    return ""


def _note_content(ledger: Ledger, sweep: Path, point: Point, config: Config) -> None:
    """Note what an attempt is made of, where a file has changed since the point was asked for.

    A run that has begun with another config refuses to go on with this one, and so keeps what it is made of.
    """
    present = content_of(config)
    former = read_content(point.content)
    if former is not None and former.config != present.config and is_begun(sweep, point):
        return
    if former is None or differences(former, present):
        ledger.rehash(point.number, hash_of(present), present._asdict())


def _train(config: Config, reporting: Reporting | None, budget: int | None, watch: Watch) -> Result:
    from framework.records.folder import check_place

    if config.settings.distributed.coordinator is None:  # of several processes, the first checks for all
        with config.locating():
            check_place(config.settings.run)
    import_jax()
    from framework.runs.run import run
    from framework.sweeps.reporter import with_reporter

    def reported(experiment: Experiment) -> Experiment:
        return watch(with_reporter(experiment, reporting, budget))

    return run(config, reported)


def _ended(
    ledger: Ledger, sweep: Path, job: Job, owner: str, reporting: Reporting, result: Result, goals: tuple[str, ...]
) -> Outcome:
    import framework.contracts.components as contracts

    step = contracts.updates(result.state)
    wrong = judged(result.metrics, goals)
    state: State = "failed" if wrong else reporting.verdict or "done"
    code = 6 if wrong else 0
    note_data(ledger, sweep, job)
    ledger.finish(job.number, owner, state, step=step, scalars=dict(result.metrics), exit_code=code, reason=wrong)
    return Outcome(job.number, job.attempt, "ended", code, wrong)


def note_data(ledger: Ledger, sweep: Path, job: Job) -> None:
    """Note the digests of the data that a run has read."""
    from framework.records.record import read_record

    record: RunRecord = read_record(Path(job.directory))
    ledger.note_data(job.number, data_digests(record.splits))


def _failed(ledger: Ledger, job: Job, owner: str, reporting: Reporting, error: BaseException) -> Outcome:
    """Write the end of an attempt that an error ended, and give it on if it was a signal.

    Raises: InterruptError after a signal; KeyboardInterrupt, SystemExit.
    """
    code, reason = exit_code_of(error), str(error) if isinstance(error, FrameworkError) else line_of(error)
    if isinstance(error, LeaseError):
        return Outcome(job.number, job.attempt, "lost", code, reason)
    if reporting.verdict is not None:  # the search's pause, or the end of its time
        is_late = reporting.verdict == "failed"
        code = 124 if is_late else 0
        ledger.finish(job.number, owner, reporting.verdict, exit_code=code, reason=reason if is_late else "")
        return Outcome(job.number, job.attempt, "ended", code, reason if is_late else "")
    if isinstance(error, InterruptError) or not isinstance(error, Exception):
        ledger.finish(job.number, owner, "preempted", exit_code=code, reason=reason)
        raise error
    if isinstance(error, PeerError) or (isinstance(error, StorageError) and "is in use by" in reason):
        ledger.finish(job.number, owner, "lost", exit_code=code, reason=reason)
        return Outcome(job.number, job.attempt, "lost", code, reason)
    ledger.finish(job.number, owner, "failed", exit_code=code, reason=reason)
    return Outcome(job.number, job.attempt, "ended", code, reason)
