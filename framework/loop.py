"""The loop: steps up to the next event, then what the event asks for. It knows nothing of models or data."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from framework.api import Batch, Callback, DataPipeline, PyTree, StopTraining, Strategy, Task, TrainState
from framework.errors import FrameworkError, NumericalError, PluginError, StorageError
from framework.settings import NanPolicy, Train
from framework.stepping import IN_FLIGHT, Advance, choose, stepper

Scalars = dict[str, float]


class Watcher(NamedTuple):
    """A callback and who it is, for messages."""

    label: str  # such as "callback 'tensorboard' (framework 0.1.0)"
    callback: Callback


class Work(NamedTuple):
    """What the loop is given to run."""

    task: Task
    strategy: Strategy
    data: DataPipeline
    watchers: Sequence[Watcher]
    settings: Train
    total_steps: int
    batch_size: int
    seed: int
    nan_policy: NanPolicy


class Window(NamedTuple):
    """The steps between two events, dispatched but perhaps not finished."""

    start: int
    stop: int
    parts: list[tuple[Mapping[str, Any], int]]  # what `advance` returned


class Journal:
    """How far a run came, whatever ends it.

    Attributes:
      step: the last one that was logged.
      scalars: the last value of every tag.
    """

    def __init__(self, step: int) -> None:
        self.step = step
        self.scalars: Scalars = {}


def fit(work: Work, state: TrainState, journal: Journal) -> tuple[TrainState, str]:
    """Train from the state's step to the last.

    Metrics are read one window late, so that the devices never wait for the host; windows that end with an evaluation
    or a look at the state are read at once.

    Returns: the final state, and the reason if a callback ended the run early.

    Raises: NumericalError if a loss is not finite; PluginError if a callback fails.
    """
    advance = _stepper(work, state)
    evaluate = _evaluator(work)
    clock = _Clock(work.batch_size)
    pending: Window | None = None
    start = int(state.step)
    for stop in events(work, start):
        state, parts = advance(state, start, stop)
        window, start = Window(start, stop, parts), stop
        try:
            if pending is not None:
                _log(work, pending.stop, _read(work, pending, clock), journal)
            pending = window
            if _synchronous(work, stop):
                scalars, pending = _read(work, window, clock), None
                scalars |= evaluate(state, "eval") if _evaluates(work, stop) else {}
                _log(work, stop, scalars, journal)
                show(work.watchers, stop, state, final=False)
                clock.restart()
        except StopTraining as request:
            return state, str(request)
    return state, ""


def finish(work: Work, state: TrainState, journal: Journal) -> None:
    """What follows the last step: the state is shown to every callback, and the splits not seen are evaluated."""
    if "test" in work.data.splits[1:]:
        _log(work, int(state.step), _evaluator(work)(state, "test"), journal)
    show(work.watchers, int(state.step), state, final=True)


def events(work: Work, start: int) -> Iterator[int]:
    """The steps at which windows end: multiples of every period, and the last step."""
    settings, total = work.settings, work.total_steps
    periods = [settings.log_every, settings.eval_every, *(watcher.callback.every for watcher in work.watchers)]
    step = start
    while step < total:
        step = min([total, *(step - step % period + period for period in periods if period > 0)])
        yield step


def notify(watchers: Iterable[Watcher], hook: str, *args: Any) -> None:
    """Call one hook of every callback.

    Raises: PluginError or StorageError naming the callback that failed; the framework's own errors pass; StopTraining
      once all were called, so that every logger has the record that ended the run.
    """
    request = None
    for label, callback in watchers:
        try:
            getattr(callback, hook)(*args)
        except StopTraining as stop:
            request = stop
        except FrameworkError:
            raise
        except OSError as error:
            raise StorageError(f"{label} failed in {hook}: {error}") from error
        except Exception as error:
            raise PluginError(f"{label} failed in {hook}: {type(error).__name__}: {error}") from error
    if request is not None:
        raise request


def show(watchers: Iterable[Watcher], step: int, state: TrainState, final: bool) -> None:
    """Call `on_state` of the callbacks whose turn it is."""
    due = [w for w in watchers if final or (w.callback.every > 0 and step % w.callback.every == 0)]
    notify(due, "on_state", step, state)


def _stepper(work: Work, state: TrainState) -> Advance:
    step = work.task.train_step
    steps_per_call = choose(work.settings.steps_per_call, step, state, work.data.spec)
    return stepper(step, work.strategy, work.data, work.seed, steps_per_call)


def _read(work: Work, window: Window, clock: _Clock) -> Scalars:
    """Bring a window's metrics to the host: its last step's if that is logged; all losses must be finite."""
    if work.nan_policy == "stop":
        _check_finite(window)
    clock.steps += window.stop - window.start
    if not _logs(work, window.stop):
        return {}
    means, count = window.parts[-1]
    final = jax.tree.map(lambda leaf: leaf[count - 1], jax.device_get(means)) if count else means
    return _results(work.task, final, "train") | clock.lap()


def _check_finite(window: Window) -> None:
    """Every step's loss, not only those that are logged."""
    totals = jax.device_get([means["loss"].total for means, _ in window.parts])
    each = [total[:count] if count else total[None] for total, (_, count) in zip(totals, window.parts, strict=True)]
    losses = np.concatenate(each)
    if not np.isfinite(losses).all():
        at = int(np.flatnonzero(~np.isfinite(losses))[0])
        raise NumericalError(
            f"train/loss is {losses[at]} at step {window.start + at + 1}; find the operation with debug=nans, "
            f"lower optimizer.learning_rate, or go on regardless with nan_policy=ignore."
        )


def _evaluator(work: Work) -> Callable[[TrainState, str], Scalars]:
    step = work.strategy.evaluate(work.task.eval_step)

    def evaluate(state: TrainState, tag: str) -> Scalars:
        split = work.data.splits[0] if tag == "eval" else tag
        return _results(work.task, measure(step, work.strategy.feed, state, work.data.eval(split)), tag)

    return evaluate


def measure(
    step: Callable[..., Mapping[str, Any]], feed: Callable[..., PyTree], state: TrainState, batches: Iterable[Batch]
) -> Mapping[str, Any]:
    """Sum totals and counts over batches; on the host in float64, so that the order of batches hardly matters."""
    waiting: deque[Any] = deque()
    sums: PyTree = None
    for batch in batches:
        waiting.append(step(state, feed(batch, 0)))
        if len(waiting) >= IN_FLIGHT:
            sums = _add(sums, waiting.popleft())
    for means in waiting:
        sums = _add(sums, means)
    return sums


def _add(sums: PyTree, means: PyTree) -> PyTree:
    host = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), jax.device_get(means))
    return host if sums is None else jax.tree.map(np.add, sums, host)


def _results(task: Task, means: Mapping[str, Any], tag: str) -> Scalars:
    """Numbers by tag: a metric that gives several has its own suffix on each."""
    scalars: Scalars = {}
    for name, (total, count) in jax.device_get(dict(means)).items():
        result = task.results[name](np.asarray(total, np.float64), float(count))
        if isinstance(result, Mapping):
            scalars |= {f"{tag}/{name}/{suffix}": float(value) for suffix, value in result.items()}
        else:
            scalars[f"{tag}/{name}"] = float(result)
    return scalars


def _log(work: Work, step: int, scalars: Scalars, journal: Journal) -> None:
    if scalars:
        journal.step = step
        journal.scalars |= scalars
        notify(work.watchers, "on_log", step, scalars)


def _logs(work: Work, step: int) -> bool:
    every = work.settings.log_every
    return _evaluates(work, step) or (every > 0 and step % every == 0)


def _evaluates(work: Work, step: int) -> bool:
    every = work.settings.eval_every
    return step == work.total_steps or (every > 0 and step % every == 0)


def _synchronous(work: Work, step: int) -> bool:
    periods = [work.settings.eval_every, *(watcher.callback.every for watcher in work.watchers)]
    return step == work.total_steps or any(period > 0 and step % period == 0 for period in periods)


class _Clock:
    """Examples per second between two readings; the steps before the first one, which compile, are not counted."""

    def __init__(self, batch_size: int) -> None:
        self.batch_size = batch_size
        self.steps = 0
        self.since: float | None = None

    def lap(self) -> Scalars:
        examples = self.steps * self.batch_size
        elapsed = None if self.since is None else time.perf_counter() - self.since
        self.restart()
        return {} if elapsed is None else {"perf/examples_per_second": examples / elapsed}

    def restart(self) -> None:
        self.steps, self.since = 0, time.perf_counter()
