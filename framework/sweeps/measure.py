"""An estimate: the time of points as one program, and in turn, from a start and some steps of both."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from framework.config.compose import Config
from framework.contracts.launcher import Job
from framework.errors import FrameworkError
from framework.startup import import_jax
from framework.sweeps.points import config_of
from framework.sweeps.together import Built, UnfitError, as_members

if TYPE_CHECKING:
    from framework.contracts.components import Task, TrainState
    from framework.data.pipeline import DataPipeline
    from framework.experiment import Experiment, Look

SMALL = 2
"""Members that are measured as a program. They show whether one point fills the machine."""

STEPS = 5
"""Steps of which the fastest counts."""

LONGEST = 0.5
"""Seconds that steps of one kind may take."""

AGAIN = 0.5
"""Share of its first start that each later one takes in a process: what was compiled is found in the cache."""

OWN = 0.3
"""Seconds that each run in turn takes beside that, for its folder, the program of its evaluation and its last state; a
tiny run on 2 cores takes as long."""

SHORT = 0.25
"""Share of its start below which the steps of a run decide nothing: one program, even if several times slower a step,
saves more starts than that."""

SMALL_STEP = 1e8
"""Floating-point operations of a CPU's step below which one program of all points is faster. A step of 26 million, of a
perceptron with 64 hidden units, gains several times; one of 10^9, of a small convolutional network, loses."""

CLEARLY = 0.95
"""Share of the time in turn below which one program is worth its rounding."""


class Measured(NamedTuple):
    """Seconds of a start, which builds and compiles, and of one step; and the number of steps in all."""

    start: float
    step: float
    steps: int


class Choice(NamedTuple):
    """The answer to whether one program is clearly faster.

    Attributes:
      is_faster: it is.
      reason: a clause.
      built: the program of all, where it was built for the answer.
    """

    is_faster: bool
    reason: str
    built: Built | None = None


def pays(jobs: Sequence[Job], sweep: Path, config_dir: str | None) -> Choice:
    """Measure one point and, unless its start outweighs its steps, two members; estimate the time in either way.

    On a CPU the operations of a step decide, since a measurement takes as long as several short points: a step of few
    is spent on its dispatch, which members share; one of many fills the cores, and only gets slower by other steps
    beside it.

    Args:
      jobs: points that one program may be able to train.
      sweep: its folder.
      config_dir: a folder of configs of one's own.
    """
    import_jax()
    configs = [config_of(job.words, config_dir) for job in jobs]
    try:
        if _is_on_cpu():
            return _by_operations(configs, sweep)
        began = time.perf_counter()
        # Callbacks open files when they are built for a run.
        quiet = configs[0]._replace(source={**configs[0].source, "callbacks": {}}).with_values({})
        alone = _measured(_built(quiet), began)
        steps = alone.steps * alone.step
        if steps < SHORT * alone.start:
            text = f"one of {len(jobs)} points takes {alone.start:.2g} s to start, and {steps:.2g} s for its steps"
            return Choice(True, text)
        began = time.perf_counter()
        together = _measured(_built(as_members(configs[:SMALL], sweep)), began)
    except FrameworkError as error:
        return Choice(False, f"the points cannot be one program: {str(error)[:200]}")
    count = len(jobs)
    as_one = together.start + together.steps * together.step * count / SMALL
    in_turn = alone.start * (1 + AGAIN * (count - 1)) + (OWN + alone.steps * alone.step) * count
    text = f"{count} points take about {as_one:.2g} s as one program, and {in_turn:.2g} s in turn"
    return Choice(as_one < CLEARLY * in_turn, f"{text}, by some steps of {SMALL} and of one")


def _by_operations(configs: Sequence[Config], sweep: Path) -> Choice:
    """Count the operations in a step of one point, and build the program of all where they are few."""
    counted: list[float] = []

    def look(task: Task, shapes: TrainState, data: DataPipeline) -> None:
        counted.append(_flops(task, shapes, data))
        if counted[0] >= SMALL_STEP:
            raise UnfitError("a step is large")

    together, built = as_members(configs, sweep), None
    try:
        built = Built(together, _built(together, look))
    except FrameworkError:  # also a number on which a shape depends, without which smaller groups are one program
        if not counted:
            raise
    reason = f"a step of one point has {counted[0] / 1e6:,.3g} MFLOP, on a CPU"
    begins_alike = configs[0].settings.init_from is None
    return Choice(counted[0] < SMALL_STEP, reason, built if begins_alike else None)


def _built(config: Config, look: Look | None = None) -> Experiment:
    from framework.experiment import build
    from framework.registry.entry_points import discover

    return build(config, discover(), look=look)


def _is_on_cpu() -> bool:
    import jax

    return jax.default_backend() == "cpu"


def _flops(task: Task, shapes: TrainState, data: DataPipeline) -> float:
    """Count the floating-point operations of the products and convolutions in a train step, without compiling it."""
    import jax

    return _counted(jax.make_jaxpr(task.train_step)(shapes, data.spec).jaxpr)


def _counted(jaxpr: Any) -> float:
    import jax.extend.core

    total = 0.0
    for equation in jaxpr.eqns:
        made, params = [variable.aval for variable in (*equation.invars[:2], *equation.outvars[:1])], equation.params
        if equation.primitive.name == "dot_general":
            summed = params["dimension_numbers"][0][0]
            total += 2 * made[2].size * math.prod(made[0].shape[axis] for axis in summed)
        elif equation.primitive.name == "conv_general_dilated":
            of_outputs = params["dimension_numbers"].rhs_spec[0]
            total += 2 * made[2].size * made[1].size / made[1].shape[of_outputs]
        else:
            rounds = params.get("length", 1)  # of `scan`; loops whose rounds are not known count once
            total += rounds * sum(map(_counted, jax.extend.core.jaxprs_in_params(params)))
    return total


def _measured(experiment: Experiment, began: float) -> Measured:
    first, step = _step_seconds(experiment, began)
    return Measured(first, step, experiment.total_steps)


def _step_seconds(experiment: Experiment, began: float) -> tuple[float, float]:
    """Return the seconds up to the end of the first step, and those of the fastest of some others."""
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
    first, times = 0.0, list[float]()
    while len(times) < STEPS and sum(times) < LONGEST:
        since = time.perf_counter()
        state, metrics = program.call(state, feed)
        jax.block_until_ready((state, metrics.values))
        if first:
            times.append(time.perf_counter() - since)
        first = first or time.perf_counter() - began
    return first, min(times)
