"""Several points as one program: which of them fit together, and the run that trains them as members."""

from __future__ import annotations

import contextlib
import json
import secrets
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from framework.config.compose import Config
from framework.contracts.launcher import Job, Outcome
from framework.errors import ConfigError, FrameworkError, InterruptError
from framework.keys import flat
from framework.startup import import_jax
from framework.sweeps import folder as folders
from framework.sweeps.ledger import Ledger
from framework.sweeps.points import config_of
from framework.sweeps.worker import work

if TYPE_CHECKING:
    from framework.experiment import Experiment
    from framework.runs.run import Watch

LOOSE = ("run.",)
"""Beginnings of keys in which points of one program may differ though no number depends on them."""

SECTIONS = ("train", "run", "distributed", "debug", "callbacks", "probes", "strategy", "data")
"""Sections that no number of a member stands in, but for `data.transform`."""


class UnfitError(FrameworkError):
    """A group that cannot be one program."""


class Built(NamedTuple):
    """A program of several points that was built, and not yet run."""

    config: Config
    experiment: Experiment


def grouped(jobs: Sequence[Job], config_dir: str | None) -> list[tuple[Job, ...]]:
    """Put jobs together that differ in their seeds and in single real numbers of what a step computes.

    A job that has begun, or that needs what members do not have, stays alone. Numbers that a shape or a branch depends
    on are found when the group is built.

    Returns: each job once, in the order of the first of each group.
    """
    configs: dict[Job, Config] = {}
    for job in jobs:
        with contextlib.suppress(FrameworkError):  # its attempt tells what is wrong
            config = config_of(job.words, config_dir)
            if _is_fit(config) and not (Path(job.directory) / "run.json").exists():
                configs[job] = config
    real = {key for config in configs.values() for key, value in _leaves(config).items() if isinstance(value, float)}
    groups: dict[str, list[Job]] = {}
    for job in jobs:
        key = _signature(configs[job], real) if job in configs else f"alone {job.number}"
        groups.setdefault(key, []).append(job)
    return [tuple(group) for group in groups.values()]


def work_together(
    sweep: Path, jobs: Sequence[Job], watch: Watch, say: Callable[[str], None], built: Built | None = None
) -> Iterator[Outcome]:
    """Train jobs as one program, or, where they turn out not to fit, in smaller groups and in turn.

    Args:
      say: is told why a program that was to fit has failed.
      watch: is given each experiment that was built, and returns the one that is run.
      built: their program, where there is one already.

    Raises: InterruptError after a signal.
    """
    if len(jobs) == 1:
        yield work(sweep, jobs[0], is_all=False, watch=watch)
        return
    with Ledger(folders.ledger_of(sweep)) as ledger:
        config_dir = ledger.facts().get("config_dir")
    configs = [config_of(job.words, config_dir) for job in jobs]
    try:
        yield from _trained(sweep, jobs, configs, watch, built)
        return
    except InterruptError:
        raise
    except ConfigError as error:
        key = error.key.removeprefix("strategy.members.")
        column = _columns(configs).get(key)
    except UnfitError:
        column = None
    except FrameworkError as error:
        say(f"points are trained in turn, since their program failed: {error}")
        column = None
    open_jobs = _open(sweep, jobs)
    if column is None:
        for job in open_jobs:
            yield work(sweep, job, is_all=False, watch=watch)
        return
    parts: dict[Any, list[Job]] = {}  # a shape or a branch depends on this number: one program for each of its values
    for job, value in zip(jobs, column, strict=True):
        if job in open_jobs:
            parts.setdefault(value, []).append(job)
    for part in parts.values():
        yield from work_together(sweep, part, watch, say)


def _trained(
    sweep: Path, jobs: Sequence[Job], configs: Sequence[Config], watch: Watch, built: Built | None
) -> list[Outcome]:
    import_jax()
    from framework.runs.run import run
    from framework.sweeps.members import with_points

    together, experiment = built or (as_members(configs, sweep), None)
    (sweep / folders.GROUPS).mkdir(exist_ok=True)
    outcomes: list[Outcome] = []
    with contextlib.ExitStack() as stack:

        def joined(experiment: Experiment) -> Experiment:
            return watch(with_points(experiment, sweep, jobs, configs, outcomes, stack))

        run(together, joined, experiment)
    return outcomes


def as_members(configs: Sequence[Config], sweep: Path) -> Config:
    """Return the config of one program for all, with a new run folder for what all have in common."""
    members = {"name": "vmapped", "members": _columns(configs), "order": "own", "devices": _devices(len(configs))}
    directory = str(sweep / folders.GROUPS / secrets.token_hex(4))
    place = {**configs[0].source["run"], "dir": directory, "resume": None}
    shown = {tag: each for tag, each in (configs[0].source.get("callbacks") or {}).items() if tag == "progress"}
    source = {**configs[0].source, "strategy": members, "callbacks": shown, "run": place}
    return configs[0]._replace(source=source).with_values({})


def _devices(size: int) -> int:
    """Return the largest number of local devices over which the members can be spread."""
    import jax

    return max(count for count in range(1, jax.local_device_count() + 1) if size % count == 0)


def _open(sweep: Path, jobs: Sequence[Job]) -> list[Job]:
    with Ledger(folders.ledger_of(sweep)) as ledger:
        return [job for job in jobs if ledger.point(job.number).state in ("waiting", "preempted", "lost")]


def _is_fit(config: Config) -> bool:
    """Tell whether a config has nothing that members lack."""
    settings = config.settings
    is_plain = config.values.get("strategy") == {"name": "jit"} and settings.nan_policy == "stop"
    is_alone = settings.distributed.coordinator is None and not any(settings.debug)
    return is_plain and is_alone and settings.run.resume == "auto"


def _leaves(config: Config) -> dict[str, Any]:
    return {key: value for key, value in flat(config.source).items() if not key.startswith(LOOSE)}


def _signature(config: Config, real: Collection[str]) -> str:
    """Write a config without the numbers in which members may differ.

    Args:
      real: keys that have a real number in some config, so that a whole one in another is real too.
    """
    masked = {
        key: "a number" if _may_differ(config, key, value, real) else value for key, value in _leaves(config).items()
    }
    return json.dumps(masked, sort_keys=True, default=str)


def _may_differ(config: Config, key: str, value: Any, real: Collection[str]) -> bool:
    if key == "seed":
        return True
    if config.values.get("probes"):  # they measure what is computed with the numbers of the first member
        return False
    is_of_step = key.partition(".")[0] not in SECTIONS or key.startswith("data.transform.")
    return is_of_step and key in real and type(value) in (int, float)


def _columns(configs: Sequence[Config]) -> dict[str, list[Any]]:
    """Return the seeds, and every number that differs, by config key."""
    leaves = [_leaves(config) for config in configs]
    found = {"seed": [config.settings.seed for config in configs]}
    for key in leaves[0]:
        column = [each[key] for each in leaves]
        if key != "seed" and any(value != column[0] for value in column):
            found[key] = column
    return found
