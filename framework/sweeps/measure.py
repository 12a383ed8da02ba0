"""A measurement: a step of one point against a step of several as one program."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from framework.config.compose import Config
from framework.errors import FrameworkError
from framework.launcher import Job
from framework.startup import import_jax
from framework.sweeps.points import config_of
from framework.sweeps.together import as_members

if TYPE_CHECKING:
    from framework.experiment import Experiment

SMALL = 2
"""Members that are measured as a program. They show whether one point fills the machine; more of them save more."""

STEPS = 5
"""Steps of which the fastest counts."""

LONGEST = 0.5
"""Seconds that steps of one kind may take."""

LEAST = 0.95
"""Steps of one program for one of each point, from which on one program pays: it saves all compilations but one."""


def pays(jobs: Sequence[Job], config_dir: str | None) -> tuple[bool, str]:
    """Compare a step of two members with two steps of one, on the devices that there are.

    Returns: whether one program is faster, and the reason in a clause.
    """
    import_jax()
    from framework.experiment import build
    from framework.registry.entry_points import discover

    configs = [config_of(job.words, config_dir) for job in jobs[:SMALL]]
    try:
        alone = _step_seconds(build(_bare(configs[0]), discover()))
        together = _step_seconds(build(_bare(as_members(configs, "")), discover()))
    except FrameworkError as error:
        return False, f"the points cannot be one program: {str(error)[:200]}"
    text = f"a step of {SMALL} of the {len(jobs)} points takes {together * 1e3:.3g} ms as one program"
    return len(configs) * alone >= LEAST * together, f"{text}, and one alone {alone * 1e3:.3g} ms"


def _bare(config: Config) -> Config:
    """Leave out callbacks, which open files when they are built for a run."""
    return config._replace(source={**config.source, "callbacks": {}}).with_values({})


def _step_seconds(experiment: Experiment) -> float:
    """Return the seconds of the fastest of some train steps, without their compilation."""
    import jax
    import numpy as np

    from framework.steps.metrics import unwrap_keys
    from framework.training.stepper import compiled

    program = compiled(experiment, 1)
    seed = experiment.settings.seed
    memory = experiment.batches.in_memory()
    batches = experiment.batches.train(seed) if memory is None else memory.gathered(seed, 0)
    feed = experiment.strategy.feed(next(iter(batches)), 0)
    state = unwrap_keys(experiment.strategy.init(experiment.init, np.uint32(seed)))
    times: list[float] = []
    while len(times) <= STEPS and sum(times[1:]) < LONGEST:
        began = time.perf_counter()
        state, metrics = program.call(state, feed)
        jax.block_until_ready((state, metrics.values))
        times.append(time.perf_counter() - began)
    return min(times[1:] or times)
