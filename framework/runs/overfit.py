"""Verdict of `debug=overfit`: a sound model learns one batch by heart; of another one, tell what is suspicious."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import jax
import numpy as np

from framework.api import Batch, Callback, PyTree, Run, StopTraining, Summary, TrainState
from framework.experiment import Experiment, NamedCallback
from framework.records.logs import LOGGER
from framework.registry.sections import rates_of
from framework.training.inspection import one_replica
from framework.trees import leaves_by_path

NEAR = 0.05
"""Share of the first loss from which on a loss is near 0: windows of a text that begin alike keep some 3 %."""

LISTED = 3
"""Names or examples that a line lists."""


class Course(NamedTuple):
    """The course of a training with one batch.

    Attributes:
      losses: of each step, float [N].
      evaluated: the last loss of the batch in evaluation mode; NaN if there is none.
      unchanged: paths of the parameters that are what they were at first.
      twins: pairs of examples with equal inputs and other targets.
      is_constant: the trained model has the same outputs for all examples.
      rates: keys of the learning rates.
    """

    losses: np.ndarray
    evaluated: float = math.nan
    unchanged: tuple[str, ...] = ()
    twins: tuple[tuple[int, int], ...] = ()
    is_constant: bool = False
    rates: str = "optimizer.learning_rate"


def is_near(loss: float, first: float) -> bool:
    """Tell whether a loss is near 0, as compared with the first one; never of one that began at 0 or below."""
    return loss <= NEAR * first and first > 0


def suspicions(course: Course) -> Iterator[str]:
    """Yield what is suspicious of a training that should have learnt its batch by heart, most telling first."""
    losses, rates = course.losses, course.rates
    first, last = losses[0], losses[-1]
    if course.unchanged:
        yield f"{_listed(course.unchanged)} never changed: frozen, without a gradient, or no part of the loss"
    if course.twins:
        pairs = [f"{one} and {other}" for one, other in course.twins]
        yield f"examples {_listed(pairs)} of the batch have equal inputs and other targets, which nothing can learn"
    if is_near(last, first):
        if course.evaluated > 2 * NEAR * first:
            yield (
                f"in evaluation mode the batch has the loss {course.evaluated:.4g}: some layer computes something else "
                f"there, as BatchNorm does by its running averages"
            )
        return
    if course.is_constant:
        yield "the outputs are the same for all examples: the inputs do not reach them"
    if first <= 0:
        yield "the loss began at 0 or below it, so that 0 is no goal; see whether it fell"
    elif course.evaluated < last / 2:
        text = f"without noise the loss is {course.evaluated:.4g}: dropout or data.transform keep it up"
        yield f"{text}; leave them out here"
    elif last > 0.9 * first:
        rises = (np.diff(losses) > 0).mean() if len(losses) > 1 else 0.0
        if rises > 0.3:
            yield f"the loss rose in {rises:.0%} of the steps: lower {rates}"
        else:
            yield f"the loss hardly moves: raise {rates}, tenfold at first"
    elif last < 0.95 * losses[len(losses) * 4 // 5]:
        yield f"the loss was still falling: allow more steps by debug.overfit={2 * len(losses)}, or raise {rates}"
    else:
        yield "the loss stays there: the model is too small, or a loss of its kind does not end at 0"


def twins(batch: Batch) -> tuple[tuple[int, int], ...]:
    """Return pairs of examples of a batch that have equal inputs and other targets."""
    seen: dict[bytes, int] = {}
    pairs = []
    for index in range(_size(batch)):
        first = seen.setdefault(_bytes(batch["inputs"], index), index)
        if "targets" in batch and _bytes(batch["targets"], first) != _bytes(batch["targets"], index):
            pairs.append((first, index))
    return tuple(pairs)


class Overfit(Callback):
    """Ends a run once its batch is learnt by heart, and tells at the end what came of it."""

    def __init__(self, experiment: Experiment) -> None:
        self.experiment = experiment
        self._losses: list[float] = []
        self._course = Course(np.zeros(0), rates=rates_of(experiment.config))

    def on_start(self, run: Run) -> None:
        """Take the batch."""
        self._run, self._batch = run, run.examples("train", run.batch_size)
        self._course = self._course._replace(twins=twins(self._batch))

    def on_log(self, step: int, scalars: Mapping[str, float]) -> None:
        """Note the losses.

        Raises: StopTraining once the loss is near 0, after an evaluation.
        """
        if "train/loss" in scalars:
            self._losses.append(float(scalars["train/loss"]))
        if "eval/loss" in scalars:
            self._course = self._course._replace(evaluated=float(scalars["eval/loss"]))
        evaluated = any(tag.startswith("eval/") for tag in scalars)
        if evaluated and self._losses and is_near(self._losses[-1], self._losses[0]):
            raise StopTraining(f"the batch is learnt by heart: {self._told()}")

    def on_state(self, step: int, state: TrainState) -> None:
        """Compare the last state with the first one, and the outputs of the batch with each other."""
        seed, members = np.uint32(self.experiment.settings.seed), self.experiment.members
        first = one_replica(jax.jit(self.experiment.init)(seed).params, members)
        before, after = (leaves_by_path(jax.device_get(tree)) for tree in (first, one_replica(state, members).params))
        unchanged = tuple(path for path, leaf in before.items() if np.array_equal(leaf, after[path]))
        self._course = self._course._replace(unchanged=unchanged, is_constant=self._is_constant(state))

    def on_end(self, summary: Summary) -> None:
        """Tell what is suspicious."""
        if summary.status == "failed" or not self._losses:
            return
        course = self._course._replace(losses=np.array(self._losses))
        for text in suspicions(course):
            LOGGER.warning(f"debug=overfit, {self._told()}: {text}.")

    def _is_constant(self, state: TrainState) -> bool:
        if self.experiment.task.predict is None or self.experiment.task.inputs is not None or _size(self._batch) < 2:
            return False
        outputs = self._run.predict(state, self._batch["inputs"])
        return all(np.allclose(leaf, leaf[:1], rtol=1e-4, atol=1e-6) for leaf in jax.tree.leaves(outputs))

    def _told(self) -> str:
        return f"train/loss went from {self._losses[0]:.4g} to {self._losses[-1]:.4g} in {len(self._losses)} steps"


def overfit_of(experiment: Experiment) -> tuple[NamedCallback, ...]:
    """Return the callback that judges `debug=overfit`; none for other runs."""
    if experiment.settings.debug.overfit is None:
        return ()
    return (NamedCallback("debug=overfit", Overfit(experiment), "debug.overfit"),)


def _size(batch: Batch) -> int:
    return len(jax.tree.leaves(batch)[0])


def _bytes(tree: PyTree, index: int) -> bytes:
    return b"".join(np.asarray(leaf[index]).tobytes() for leaf in jax.tree.leaves(tree))


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return f"{', '.join(names[:LISTED])}{more}"
