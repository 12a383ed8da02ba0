"""An evaluation of a trained model after its run: on a split of its data or of others, by its metrics or others."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from itertools import cycle
from pathlib import Path
from signal import Signals
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from framework.api import Batch, TrainState, View
from framework.config.compose import Config, recorded
from framework.data.pipeline import numbered
from framework.ensembles import members
from framework.errors import ConfigError, nearest
from framework.experiment import Experiment, build
from framework.records.record import RunRecord, read_record
from framework.registry.entry_points import discover
from framework.steps.metrics import Collected, Sums
from framework.tasks.ema import from_checkpoint
from framework.trained.places import Member, Place, member_of, place_of
from framework.trained.prepared import as_trained, warn_of_others
from framework.trained.saved import part_for_model, read_part, saved_steps
from framework.training.evaluation import results
from framework.training.prefetch import ahead
from framework.training.stepper import IN_FLIGHT

ALONE = {"ema": None, "nan_policy": "stop", "callbacks": None, "probes": None, "train.steps": 1, "debug.profile": None}
"""Values of a config of which only the evaluation is built: the average is taken for the parameters themselves."""


class Subject(NamedTuple):
    """A trained model as it is evaluated.

    Attributes:
      record: of its run.
      experiment: built anew, with the overrides.
      state: the saved one, without that of the optimizer; its parameters are those that the run evaluated with.
      place: the run folder, and the step of the state.
      member: the one that was taken, of a run that trained several.
    """

    record: RunRecord
    experiment: Experiment
    state: TrainState
    place: Place
    member: int


class Evaluation(NamedTuple):
    """Sums of an evaluation so far.

    Attributes:
      sums: totals and counts over the batches, in float64.
      values: by column, one value for each example of the batches; without columns unless they were asked for.
      batches: number of batches that are in it.
      examples: number of examples that count.
      signal: the one that ended it before its last batch.
    """

    sums: Sums
    values: dict[str, list[np.ndarray]]
    batches: int = 0
    examples: int = 0
    signal: Signals | None = None


def evaluate(
    run: str | Path, overrides: Sequence[str] = (), split: str | None = None, member: Member = 0
) -> dict[str, float]:
    """Measure a trained model on a split of its data, by the metrics of its run.

    Args:
      run: the run folder; RUN@500 and RUN@best name a checkpoint.
      overrides: of the recorded config, such as `["metrics+=perplexity", "data.test=other.npz"]`.
      split: one that the data evaluate, or "train"; None takes "test", or else the first one.
      member: the one to take, of a run that trained several; "best" is the one whose last evaluation was best.

    Returns: numbers by name, such as {"loss": 0.07, "accuracy": 0.98}.

    Raises: FrameworkError.
    """
    subject = opened(run, overrides, member)
    return metrics_of(subject, evaluated(subject, split_of(subject.experiment, split)))


def opened(
    run: str | Path, overrides: Sequence[str] = (), member: Member = 0, config_dir: str | None = None
) -> Subject:
    """Build the experiment of a run with overrides, and read the state that is evaluated.

    Raises: FrameworkError.
    """
    place = place_of(run, member)
    record = read_record(place.directory)
    rows, number = record.members or [], member_of(record, member)
    saved = saved_steps(place.directory, place.step)
    # Whole batches go to the devices in turn, so that strategies that cut them are not needed.
    own = [] if any(word.startswith(("strategy=", "strategy.")) for word in overrides) else ["strategy=jit"]
    config: Config = recorded(place.directory, [*own, *overrides], config_dir)
    with config.locating():
        config = config.with_values({**ALONE, **(rows[number]["values"] if rows else {})})
        experiment = build(as_trained(config, record.facts), discover())
        warn_of_others(experiment, record.facts)
    like = part_for_model(experiment.shapes, 0, record.config.get("ema") is not None) | {"key": experiment.shapes.key}
    if rows:
        like = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((len(rows), *leaf.shape), leaf.dtype), like)
    found = read_part(record, saved, like)
    found = members.part_of(found, number) if rows else found
    params, task_state = from_checkpoint(found), found.get("task_state", experiment.shapes.task_state)
    state = TrainState(found["step"], params, found["model_state"], (), found["key"], task_state)
    return Subject(record, experiment, state, Place(place.directory, int(state.step)), number)


def split_of(experiment: Experiment, split: str | None) -> str:
    """Return the split to evaluate.

    Raises: ConfigError if the data have no such split.
    """
    known = [*experiment.data.splits, *(["train"] if experiment.data.in_memory() is not None else [])]
    if split is None:
        return "test" if "test" in known else known[0]
    if split not in known:
        raise ConfigError(f"the data have no split '{split}' to evaluate.{nearest(split, known)}", key="--split")
    return split


def evaluated(
    subject: Subject,
    split: str,
    with_values: bool = False,
    before: Evaluation | None = None,
    stopping: Callable[[], Signals | None] = lambda: None,
) -> Evaluation:
    """Sum metrics over the batches of a split, as an evaluation during training does.

    Each batch is computed whole by one device, and added in its order, so that the number of devices changes no bit.

    Args:
      with_values: keep one value of each metric for each example, too.
      before: an evaluation of the first batches, which are not computed again.
      stopping: asked after each batch; a signal ends the evaluation.

    Returns: what was found, up to the signal if one came.
    """
    found = before or Evaluation(Sums(), {})
    programs = _programs(subject, with_values)
    waiting: deque[tuple[Any, np.ndarray]] = deque()  # without the batches, whose memory serves the next ones
    sums, values, done, examples = found.sums, found.values, found.batches, found.examples

    def take() -> None:
        nonlocal done, examples
        (means, each), counts = waiting.popleft()
        sums.add(means)
        for name, column in _columns(subject, each, counts, done * len(counts)).items():
            values.setdefault(name, []).append(column)
        done, examples = done + 1, examples + int(counts.sum())

    signal = None
    with _batches(subject.experiment, split, done) as batches:
        for program, batch in zip(cycle(programs), batches, strict=False):
            waiting.append((program(batch), _counting(batch)))
            if len(waiting) >= IN_FLIGHT * len(programs):
                take()
            if (signal := stopping()) is not None:
                break
    while waiting:
        take()
    return Evaluation(sums, values, done, examples, signal)


def metrics_of(subject: Subject, found: Evaluation) -> dict[str, float]:
    """Turn sums into numbers by name; a metric with several results has a suffix for each."""
    scalars = results(subject.experiment.task, found.sums.means(), "")
    return {tag.removeprefix("/"): value for tag, value in scalars.items()}


def columns_of(found: Evaluation) -> dict[str, np.ndarray]:
    """Return the values of all examples by column, [N]; "id" counts the examples of the split from 0."""
    first = [name for name in ("id", "target", "predicted", "loss") if name in found.values]
    names = [*first, *(name for name in found.values if name not in first)]
    return {name: np.concatenate(found.values[name]) for name in names}


def places_of(experiment: Experiment, split: str) -> Callable[[int], str] | None:
    """Return where an example of a split comes from, in words; None where nothing but its number is known."""
    where = {name: each for name, _, each in experiment.data.examples()}.get(split)
    return None if where is numbered else where


def _batches(experiment: Experiment, split: str, skipped: int) -> Any:
    """Make the batches of a split from one on; a thread makes those that do not lie in memory."""

    def made() -> Iterator[Batch]:
        batches = _in_order(experiment) if split == "train" else experiment.batches.eval(split)
        for number, batch in enumerate(batches):
            if number >= skipped:
                yield batch

    return nullcontext(made()) if experiment.data.in_memory() is not None else ahead(each for each in made())


def _in_order(experiment: Experiment) -> Iterator[Batch]:
    """Yield the training examples in the order in which they lie, in batches padded with examples of weight 0."""
    memory = experiment.data.in_memory()
    assert memory is not None
    size, (count, *_) = experiment.batch_size, map(len, jax.tree.leaves(memory.arrays))
    for first in range(0, count, size):
        rows = np.arange(first, first + size)
        batch = memory.prepare(jax.tree.map(lambda leaf, rows=rows: leaf[np.minimum(rows, count - 1)], memory.arrays))
        real = (rows < count).astype(np.float32)
        weights = np.asarray(batch.get("weights", real))
        yield {**batch, "weights": weights * real.reshape(-1, *[1] * (weights.ndim - 1))}


Program = Callable[[Batch], tuple[Mapping[str, Any], Mapping[str, Any]]]


def _programs(subject: Subject, with_values: bool) -> list[Program]:
    """Compile the evaluation of a batch for each device, or for the strategy's devices together."""
    experiment, strategy = subject.experiment, subject.experiment.strategy
    step = strategy.evaluate(experiment.task.eval_step)
    each = jax.jit(lambda state, batch: _each(experiment, state, batch)) if with_values else lambda state, batch: {}
    if strategy.devices > 1:
        state = strategy.init(lambda state: state, subject.state)
        return [lambda batch: (step(state, strategy.feed(batch, 0)), each(subject.state, batch))]
    if len(devices := jax.local_devices()) == 1:
        return [lambda batch: (step(subject.state, strategy.feed(batch, 0)), each(subject.state, batch))]

    def program(device: Any) -> Program:
        state = jax.device_put(subject.state, device)

        def run(batch: Batch) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
            batch = jax.device_put(batch, device)
            return step(state, batch), each(state, batch)

        return run

    return list(map(program, devices))


def _each(experiment: Experiment, state: TrainState, batch: Batch) -> Mapping[str, Any]:
    """Measure each example of a batch alone: totals and counts [B] of the metrics that are one number."""

    def alone(example: Batch) -> Mapping[str, Any]:
        means = experiment.task.eval_step(state, example)
        single = {name: mean for name, mean in means.items() if not isinstance(mean, Collected) and not mean[0].shape}
        return {name: (total, count) for name, (total, count) in single.items()}

    found = dict(jax.vmap(alone)(jax.tree.map(lambda leaf: leaf[:, None], dict(batch))))
    targets, predict = batch.get("targets"), experiment.task.predict
    if isinstance(targets, jax.Array) and targets.ndim == 1 and jnp.issubdtype(targets.dtype, jnp.integer) and predict:
        outputs = predict(View(state.params, state.model_state, state.task_state), batch["inputs"])
        if isinstance(outputs, jax.Array) and outputs.ndim == 2 and outputs.shape[1] > 1:
            return {"target": targets, "predicted": outputs.argmax(axis=-1), **found}
    return found


def _counting(batch: Batch) -> np.ndarray:
    """Return which examples of a batch count, bool [B]: padding has weight 0."""
    size = len(jax.tree.leaves(batch)[0])
    weights = np.asarray(batch.get("weights", np.ones(size)))
    return (weights != 0).reshape(size, -1).any(axis=1)


def _columns(subject: Subject, each: Mapping[str, Any], counts: np.ndarray, first: int) -> dict[str, np.ndarray]:
    """Return the values of the examples of a batch that count, by column."""
    if not each:
        return {}
    found = jax.device_get(dict(each))
    columns: dict[str, np.ndarray] = {"id": first + np.flatnonzero(counts)}
    results_of = subject.experiment.task.results
    for name, part in found.items():
        if not isinstance(part, tuple):
            columns[name] = part[counts]
            continue
        total, count = (np.asarray(leaf, np.float64)[counts] for leaf in part)
        made = total / count if name not in results_of else list(map(results_of[name], total, count))
        if all(isinstance(value, int | float | np.floating) for value in made):
            columns[name] = np.asarray(made, np.float64)
    return columns
