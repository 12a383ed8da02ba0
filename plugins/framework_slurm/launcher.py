"""The launcher `slurm`: each point, or several that share a device, as a job; what is ready at once is an array."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

from framework.api import Here, Job, Launcher, Outcome, Size, outcome_of
from framework.errors import ConfigError, PeerError
from framework_slurm import queue
from framework_slurm.allocation import Allocation, Work, read

POLL = 0.5
"""Seconds between two looks for results."""

ASK = 10.0
"""Seconds between two questions to Slurm, which serves many users; results come without one."""

RETRY = 2.0
"""Seconds after which a job that was refused is submitted once more."""

SAVING = 90
"""Seconds before the end of its time at which a job is told to save."""

GRACE = 120.0
"""Seconds that jobs have to save their state, when the sweep is stopped."""

FOLDER = ".slurm"
"""Folder beside the run folders, for scripts, logs and results of jobs."""


def slurm(  # noqa: PLR0913 - a factory's options
    minutes: Size = 60,
    nodes: Size = 1,
    tasks_per_node: Size = 1,
    gpus_per_node: int = 0,
    per_device: Size = 1,
    at_once: Size = 16,
    patience: float = 30.0,
    options: dict[str, Any] | None = None,
) -> Launcher:
    """Train points as jobs of Slurm, by submitit. The run folders are on a disk that all machines share.

    A job whose time is nearly over, or that is preempted, saves its state, and is submitted again; the sweep decides
    that, so Slurm's own requeueing is off. Its point goes on from there with the bits of one that was left alone.

    Args:
      minutes: time of a job. A point that needs more goes on in the next one.
      nodes: of one point. With several nodes or tasks, its words have `distributed=auto`.
      tasks_per_node: processes of one point on a node.
      gpus_per_node: of a job.
      per_device: points that share a GPU, or the processors of a job where there is no GPU.
      at_once: jobs of a sweep in the queue at once.
      patience: minutes to wait for a Slurm that does not answer, as while its controller starts anew, before the sweep
        ends; its jobs go on.
      options: more options of sbatch, such as {partition: gpu, cpus_per_task: 8, mem: 32G}.

    Raises: ConfigError if several points shall share a device where one point has several processes, or if the patience
      is not above 0.
    """
    if not patience > 0:
        raise ConfigError(f"expected more than 0 minutes, found {patience}.", key="patience")
    tasks = nodes * tasks_per_node
    if per_device > 1 and tasks > 1:
        text = f"points cannot share a device where each has {tasks} processes; expected 1."
        raise ConfigError(text, key="per_device")
    given = {
        "time": minutes,
        "nodes": nodes,
        "ntasks_per_node": tasks_per_node,
        "array_parallelism": at_once,
        "signal_delay_s": SAVING,
        # A task that ends by a mistake ends the others with its exit code; Slurm would do so by a signal.
        "srun_args": ["--kill-on-bad-exit=0"],
        "additional_parameters": {"no-requeue": True, **(options or {})},
        **({"gpus_per_node": gpus_per_node} if gpus_per_node else {}),
    }
    pack = per_device * max(1, gpus_per_node) if tasks == 1 else 1
    return Slurm(given, at_once, pack, per_device, patience)


class Queued(NamedTuple):
    """A point in the queue.

    Attributes:
      job: the point.
      folder: of its result.
      id: of the job of Slurm, such as "17", or "17_0" of an array.
    """

    job: Job
    folder: Path
    id: str


class Slurm(Launcher):
    """Points as jobs of Slurm. What is in the queue outlives the process that submitted it."""

    def __init__(self, options: dict[str, Any], at_once: int, pack: int, per_device: int, patience: float) -> None:
        self._options, self._pack, self._per_device, self._patience = options, pack, per_device, patience
        self._silent: float | None = None  # since when Slurm has not answered
        self._missed: set[str] = set()  # jobs that have ended, and whose results may still be on their way
        self._told: dict[str, tuple[float, bool | None]] = {}  # by job: when Slurm was asked, and its answer
        self.slots = at_once * pack

    def launch(self, jobs: Iterator[Job | None], here: Here) -> Iterator[Outcome]:
        """Keep the queue filled, and yield each end as its result comes.

        Raises: PeerError if Slurm does not answer for long; its jobs are left as they are.
        """
        queued: list[Queued] = []
        ready: list[Job] = []
        asked, is_over = time.monotonic(), False
        try:
            while queued or ready or not is_over:
                while not is_over and len(queued) + len(ready) < self.slots:
                    job = next(jobs, _NONE_LEFT)
                    is_over = job is _NONE_LEFT
                    if is_over or job is None:
                        break
                    ready.append(job)
                if ready:
                    taken = self._queued(ready)
                    self._hear(taken is not None, here)
                    queued, ready = [*queued, *(taken or ())], [] if taken is not None else ready
                outcomes = [outcome for each in queued if (outcome := _result(each)) is not None]
                if not outcomes and queued and time.monotonic() - asked > ASK:
                    gone = self._gone(queued)
                    self._hear(gone is not None, here)
                    asked, outcomes = time.monotonic(), gone or []
                over = {outcome.number for outcome in outcomes}
                queued = [each for each in queued if each.job.number not in over]
                yield from outcomes
                if not outcomes:
                    time.sleep(POLL)
        finally:
            if self._silent is None:
                _stop(queued)

    def _hear(self, answers: bool, here: Here) -> None:
        """Say once that Slurm does not answer, and end the wait after a time.

        Raises: PeerError.
        """
        if answers:
            self._silent = None
        elif self._silent is None:
            self._silent = time.monotonic()
            here.say(f"Slurm does not answer; the sweep waits {self._patience:g} minutes for it (launcher.patience)")
        elif time.monotonic() - self._silent > self._patience * 60:
            text = f"Slurm has not answered for {self._patience:g} minutes; its jobs go on"
            raise PeerError(f"{text}, and the same command goes on with the sweep.", key="launcher=slurm")

    def alive(self, job: Job) -> bool | None:
        """Ask Slurm for the job of a point that this launcher, or an earlier one, has submitted."""
        known = [id_ for attempt in (job.attempt, job.attempt - 1) if (id_ := _known(job._replace(attempt=attempt)))]
        if not known:
            return None
        asked, told = self._told.get(known[0], (-ASK, None))
        if time.monotonic() - asked > ASK:
            asked, told = time.monotonic(), queue.is_alive(known[0])
            self._told[known[0]] = asked, told
        return told

    def _queued(self, ready: list[Job]) -> list[Queued] | None:
        """Submit jobs, but for those that wait in the queue since an earlier sweep was cut.

        Returns: None if Slurm does not answer, as while its controller starts anew.
        """
        adopted = [Queued(job, _folder(job), id_) for job in ready if (id_ := _known(job)) and queue.is_alive(id_)]
        if self._silent is not None and not queue.answers():  # each try of sbatch would complain
            return None
        known = {each.job.number for each in adopted}
        fresh = [job for job in ready if job.number not in known]
        groups = [fresh[start : start + self._pack] for start in range(0, len(fresh), self._pack)]
        submitted = self._submitted(groups) if groups else []
        return None if submitted is None else adopted + submitted

    def _submitted(self, groups: list[list[Job]]) -> list[Queued] | None:
        """Submit one job for each group; several are an array.

        Returns: None if Slurm does not answer.

        Raises: ConfigError with what sbatch says.
        """
        submitit, folder, queued = _submitit(), _folder(groups[0][0]), []
        folder.mkdir(parents=True, exist_ok=True)
        works = [tuple(Work(_name(job), job.command) for job in group) for group in groups]
        allocations = [Allocation(work, str(folder), str(Path.cwd()), self._per_device) for work in works]
        for work in (each for group in works for each in group):  # of an attempt that ended before it was begun
            (folder / f"{work.name}.json").unlink(missing_ok=True)
        ids = _batch(submitit, folder, self._options, allocations)
        if ids is None:
            return None
        for id_, group in zip(ids, groups, strict=True):
            for job in group:
                (folder / f"{_name(job)}.job").write_text(id_)
                queued.append(Queued(job, folder, id_))
        return queued

    def _gone(self, queued: list[Queued]) -> list[Outcome] | None:
        """Return the ends of points whose jobs are found ended, without a result, for the second time.

        Returns: None if Slurm does not answer.
        """
        states = queue.states_of(each.id for each in queued)
        if states is None:
            return None
        silent = [each for each in queued if states.get(each.id) not in queue.WAITS_OR_RUNS]
        gone = [each for each in silent if each.id in self._missed]
        self._missed = {each.id for each in silent}
        return [_lost(each, states.get(each.id, "")) for each in gone]


def _batch(
    submitit: Any, folder: Path, options: Mapping[str, Any], allocations: Sequence[Allocation]
) -> list[str] | None:
    """Submit jobs, several as an array, and return their numbers.

    A controller that starts anew refuses a job and answers a moment later: what Slurm says twice is meant.

    Returns: None if Slurm does not answer.

    Raises: ConfigError with what sbatch says.
    """
    refusal = Exception()
    for pause in (RETRY, 0.0):
        executor = submitit.SlurmExecutor(folder)
        executor.update_parameters(job_name=folder.parent.parent.name, **options)
        try:
            with executor.batch():
                submitted = [executor.submit(allocation) for allocation in allocations]
            return [each.job_id for each in submitted]
        except (submitit.core.utils.FailedJobError, submitit.core.utils.FailedSubmissionError, RuntimeError) as error:
            if not queue.answers():
                return None
            refusal = error
        time.sleep(pause)
    text = " ".join(line.strip() for line in str(refusal).splitlines() if "sbatch" in line or "srun" in line)
    raise ConfigError(f"Slurm does not take the job: {text or refusal}", key="launcher") from refusal


_NONE_LEFT: Any = object()


def _name(job: Job) -> str:
    return f"{job.number}-{job.attempt}"


def _folder(job: Job) -> Path:
    return Path(job.directory).absolute().parent / FOLDER


def _known(job: Job) -> str:
    """Return the job of Slurm that a point was submitted as, or ""."""
    with suppress(OSError):
        return (_folder(job) / f"{_name(job)}.job").read_text()
    return ""


def _result(each: Queued) -> Outcome | None:
    """Return the end that a point has written, or None."""
    if (found := read(each.folder, _name(each.job))) is None:
        return None
    return outcome_of(each.job, int(found["exit_code"]), str(found["reason"]))


def _lost(each: Queued, state: str) -> Outcome:
    how = "preempted" if state in queue.PREEMPTED else "lost"
    text = f"job {each.id} of Slurm ended as {state}" if state else f"Slurm knows no job {each.id} any more"
    return Outcome(each.job.number, each.job.attempt, how, None, text)


def _stop(queued: list[Queued]) -> None:
    """Take jobs that wait out of the queue, let those that run save their state, and end those that do not."""
    if not queued:
        return
    ids = sorted({each.id for each in queued})
    queue.cancel(ids, "--state=PENDING")
    queue.cancel(ids, "--signal=USR2")
    until = time.monotonic() + GRACE
    left = queued
    while left and time.monotonic() < until:
        states = queue.states_of(each.id for each in left) or {}
        left = [each for each in left if states.get(each.id) in queue.WAITS_OR_RUNS and _result(each) is None]
        time.sleep(POLL if left else 0)
    queue.cancel(ids)


def _submitit() -> Any:
    if shutil.which("sbatch") is None:
        text = "there is no sbatch on this machine; begin the sweep where jobs are submitted."
        raise ConfigError(text, key="launcher=slurm")
    try:
        return import_module("submitit")
    except ImportError as error:
        raise ConfigError("it needs submitit: pip install 'framework[slurm]'.", key="launcher=slurm") from error
