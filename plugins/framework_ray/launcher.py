"""The launcher `ray`: each point as a task of Ray, on a cluster that runs or on one of this machine."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

from framework.api import Here, Job, Launcher, Outcome, Size, outcome_of
from framework.errors import ConfigError
from framework_ray.training import address, train

POLL = 0.5
"""Seconds between two looks for points that have ended."""

GRACE = 60.0
"""Seconds that points have to save their state, when the sweep is stopped."""

PASSED = ("FRAMEWORK_", "JAX_", "XLA_", "PYTHON", "XDG_", "TF_CPP_")
"""Beginnings of the names of variables that the nodes get from this shell."""


def ray(
    address: str | None = None,
    cpus: float = 1,
    gpus: float = 0,
    memory_gib: float | None = None,
    resources: dict[str, float] | None = None,
    processes: Size = 1,
    at_once: Size | None = None,
) -> Launcher:
    """Train points as tasks of Ray Core. The run folders are on a disk that all machines share.

    A point whose node is lost goes on elsewhere, from its last checkpoint.

    Args:
      address: of the cluster, such as "auto" or "ray://host:10001"; null takes $RAY_ADDRESS or the cluster that runs on
        this machine, and starts one without either.
      cpus: that each process of a point takes.
      gpus: that each process of a point takes; two points share a GPU with 0.5.
      memory_gib: that each process of a point takes; null does not count memory.
      resources: of your own that each process of a point takes, such as {a100: 1}.
      processes: of each point, as one run of several processes; each takes what is said above.
      at_once: points at once; null fills the cluster.

    Raises: ConfigError if a point takes nothing.
    """
    if cpus <= 0 and gpus <= 0 and not resources:
        raise ConfigError("a point takes neither a processor nor a GPU; expected more than 0.", key="cpus")
    needs = {"CPU": cpus, "GPU": gpus, "memory": (memory_gib or 0) * 2**30, **(resources or {})}
    return Ray(address, {name: amount for name, amount in needs.items() if amount > 0}, processes, at_once)


class Group(NamedTuple):
    """A point at work.

    Attributes:
      job: the point.
      tasks: of Ray, one for each process.
      bundles: the place of several processes in the cluster.
    """

    job: Job
    tasks: list[Any]
    bundles: Any


class Ray(Launcher):
    """Points as tasks of Ray, which no failure of Ray retries: the sweep begins them again, where they were cut."""

    def __init__(self, address: str | None, needs: Mapping[str, float], processes: int, at_once: int | None) -> None:
        self._address, self._needs, self._processes, self._at_once = address, dict(needs), processes, at_once
        self.slots = at_once or 1

    def launch(self, jobs: Iterator[Job | None], here: Here) -> Iterator[Outcome]:
        """Keep the cluster filled, and yield each end as it comes."""
        core = _connected(self._address)
        running: list[Group] = []
        is_over = False
        try:
            while running or not is_over:
                self.slots = self._at_once or self._room(core)
                while not is_over and len(running) < self.slots:
                    job = next(jobs, _NONE_LEFT)
                    is_over = job is _NONE_LEFT
                    if is_over or job is None:
                        break
                    running.append(self._started(core, job))
                tasks = [task for group in running for task in group.tasks]
                if not tasks:
                    time.sleep(POLL)
                    continue
                done = set(core.wait(tasks, num_returns=len(tasks), timeout=POLL)[0])
                for group in [each for each in running if done.issuperset(each.tasks)]:
                    running.remove(group)
                    _release(core, group)
                    yield _outcome(core, group)
        finally:
            _stop(core, running)

    def _room(self, core: Any) -> int:
        """Return the number of points that the cluster has room for, at least 1: it may grow when asked."""
        there = core.cluster_resources()
        return max(1, int(min(there.get(name, 0) / (need * self._processes) for name, need in self._needs.items())))

    def _started(self, core: Any, job: Job) -> Group:
        own = {name: amount for name, amount in self._needs.items() if name not in ("CPU", "GPU", "memory")}
        needs = {"num_cpus": self._needs.get("CPU", 0), "num_gpus": self._needs.get("GPU", 0), "resources": own}
        if "memory" in self._needs:
            needs["memory"] = self._needs["memory"]
        remote, needs = core.remote(train), {"max_retries": 0, "name": f"point {job.number}", **needs}
        given = (job.command, str(Path.cwd()), _passed())
        if self._processes == 1:
            return Group(job, [remote.options(**needs).remote(*given, (0, 1))], None)
        bundles = core.util.placement_group([self._needs] * self._processes, strategy="PACK")
        place = import_module("ray.util.scheduling_strategies").PlacementGroupSchedulingStrategy
        places = [place(bundles, placement_group_bundle_index=index) for index in range(self._processes)]
        first = core.remote(address).options(num_cpus=0, scheduling_strategy=places[0]).remote()
        tasks = [
            remote.options(scheduling_strategy=place, **needs).remote(*given, (index, self._processes), first)
            for index, place in enumerate(places)
        ]
        return Group(job, tasks, bundles)


_NONE_LEFT: Any = object()


def _connected(address: str | None) -> Any:
    """Return the module Ray, connected to a cluster.

    Raises: ConfigError if Ray is not installed, or does not answer.
    """
    try:
        core = import_module("ray")
    except ImportError as error:
        raise ConfigError("it needs Ray: pip install 'framework[ray]'.", key="launcher=ray") from error
    if not core.is_initialized():
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        handler = signal.getsignal(signal.SIGTERM)
        try:
            core.init(address=address, include_dashboard=False, log_to_driver=False, logging_level="warning")
            if threading.current_thread() is threading.main_thread():
                signal.signal(signal.SIGTERM, handler)  # Ray takes it, and would end the sweep with a code of its own
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise ConfigError(f"no cluster of Ray answers: {error}", key="launcher.address") from error
    return core


def _passed() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name.startswith(PASSED)}


def _outcome(core: Any, group: Group) -> Outcome:
    ends: list[tuple[int, str]] = []
    for task in group.tasks:
        try:
            ends.append(core.get(task))
        except core.exceptions.RayError as error:
            text = " ".join(str(error).split())[:200]
            return Outcome(group.job.number, group.job.attempt, "lost", None, f"{type(error).__name__}: {text}")
    return outcome_of(group.job, *next((end for end in ends if end[0] < 0), ends[0]))


def _release(core: Any, group: Group) -> None:
    if group.bundles is not None:
        core.util.remove_placement_group(group.bundles)


def _stop(core: Any, running: list[Group]) -> None:
    """Let points that run save their state and end, and end those that do not."""
    tasks = [task for group in running for task in group.tasks]
    for task in tasks:
        core.cancel(task)
    if tasks:
        core.wait(tasks, num_returns=len(tasks), timeout=GRACE)
    for task in tasks:
        with suppress(core.exceptions.RayError):
            core.cancel(task, force=True)
    for group in running:
        _release(core, group)
