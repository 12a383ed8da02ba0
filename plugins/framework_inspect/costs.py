"""Costs of a step and of a run, known before the first step: memory, operations, time, size of a checkpoint."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from framework.api import PyTree
from framework.checkpoints import snapshot
from framework.errors import ConfigError
from framework.experiment import Experiment
from framework.training import memory
from framework_bench.batch_size import CLOSE, Candidates, search
from framework_bench.timing import Held


class Compiled(NamedTuple):
    """A compiled step.

    Attributes:
      arguments: bytes of the state and the batch on one device, the one that holds most.
      results: bytes of the new state and the metrics.
      shared: bytes of the results that take an argument's place.
      temporaries: bytes of what a step holds between.
      code: bytes of the program.
      flops: floating-point operations that XLA counts on one device, loops once; None where it does not tell.
      program: the step itself, `jax.stages.Compiled`.
    """

    arguments: int
    results: int
    shared: int
    temporaries: int
    code: int
    flops: float | None
    program: Any

    @property
    def bytes(self) -> int:
        """Bytes that one device holds while a step runs."""
        return self.arguments + self.results - self.shared + self.temporaries + self.code


def lowered(experiment: Experiment) -> Any:
    """Return the train step as the compiler takes it, `jax.stages.Lowered`; None if the strategy compiles nothing."""
    call: Any = experiment.strategy.train(experiment.task.train_step, 0)
    return call.lower(experiment.places, feed_of(experiment)) if memory.is_compiled(call) else None


def compiled(step: Any) -> Compiled:
    """Compile a step, `jax.stages.Lowered`; it is not run."""
    program = memory.untuned(step)
    sizes = program.memory_analysis()
    costs = program.cost_analysis() or {}
    return Compiled(
        sizes.argument_size_in_bytes,
        sizes.output_size_in_bytes,
        sizes.alias_size_in_bytes,
        sizes.temp_size_in_bytes,
        sizes.generated_code_size_in_bytes,
        (costs[0] if isinstance(costs, list) else costs).get("flops"),
        program,
    )


def checkpoint_bytes(experiment: Experiment) -> int:
    """Return the size of a checkpoint's arrays."""
    return snapshot.size(experiment.shapes)


def step_seconds(report: str) -> float:
    """Read the seconds of a step from a file that `framework bench --json` wrote.

    Raises: ConfigError if it is no such file.
    """
    try:
        found: Mapping[str, Any] = json.loads(Path(report).read_text())
        return next(float(row["ms"]) / 1000 for row in found["rows"] if row["mode"] == found["chosen"])
    except (OSError, ValueError, LookupError, TypeError, StopIteration) as error:
        text = f"--bench: {report} is no report of `framework bench --json`: {type(error).__name__}: {error}."
        raise ConfigError(text) from error


class Largest(NamedTuple):
    """The largest batch that fits.

    Attributes:
      batch_size: number of examples, within 5 % of the largest; None if not even the smallest fits.
      bytes: need of its step on one device.
      limited_by: "memory" or "training examples"; where a policy acts, the environments that the config has.
    """

    batch_size: int | None
    bytes: int | None
    limited_by: str


def largest_batch(experiment: Experiment, budget: int) -> Largest:
    """Find the largest batch whose step fits, by what the compiler says of steps that are not run.

    Args:
      budget: bytes that one device may hold.
    """
    candidates = Candidates(experiment, Held(experiment, experiment.places), budget)
    found = search(candidates.fits, candidates.first, candidates.unit, candidates.most)
    if found is None:
        return Largest(None, None, "memory")
    by_examples = found * CLOSE >= candidates.most and candidates.fits(candidates.most)
    found = candidates.most if by_examples else found
    return Largest(found, candidates.needs[found], candidates.limit if by_examples else "memory")


def feed_of(experiment: Experiment) -> PyTree:
    """Put a batch of zeros on the devices, in the layout that steps want."""
    batch = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), experiment.batches.spec)
    return experiment.strategy.feed(batch, 0)
