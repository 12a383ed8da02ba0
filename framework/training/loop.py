"""The loop: steps up to the next event, then what the event asks for. It knows nothing of models or data."""

from __future__ import annotations

import logging
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

import jax
import numpy as np

from framework.api import DataPipeline, StopTraining, Strategy, Task, TrainState
from framework.config.settings import NanPolicy, Train
from framework.contracts import updates
from framework.data import is_indexed
from framework.errors import NumericalError
from framework.tasks.nonfinite import check_skips, finite_leaves, spoilt_leaf
from framework.training.callbacks import NamedCallback, RaisePending, notify
from framework.training.chunks import choose
from framework.training.evaluation import Clock, Scalars, check_finite, last_of, measure, per_step, results
from framework.training.prefetch import ahead
from framework.training.stepper import Advance, Feed, Parts, count_finished, count_steps, stepper

LOGGER = logging.getLogger("framework")


class Work(NamedTuple):
    """What the loop is given to run."""

    task: Task
    strategy: Strategy
    data: DataPipeline
    watchers: Sequence[NamedCallback]
    settings: Train
    total_steps: int
    batch_size: int
    seed: int
    nan_policy: NanPolicy
    stopping: Callable[[int], signal.Signals | None]  # tells, after so many updates, whether the run shall stop
    given_up: Callable[[], bool] = bool  # whether a wait for data shall end; several processes end together


class Window(NamedTuple):
    """The steps between two events, dispatched but perhaps not finished."""

    start: int
    stop: int
    parts: Parts


class Progress:
    """How far a run came, whatever ends it.

    Attributes:
      step: the last one that was logged.
      scalars: the last value of every tag.
      finite: which leaves of the state were finite at first; an optimizer may begin with a number that is not.
      owed: whether the evaluation of the step at which the run is, or begins, was cut short or left out for a signal.
    """

    def __init__(self, step: int, scalars: Scalars | None = None, owed: bool = False) -> None:
        self.step = step
        self.finite: np.ndarray | None = None
        self.scalars: Scalars = dict(scalars or {})
        self.owed = owed


def fit(work: Work, state: TrainState, journal: Progress) -> tuple[TrainState, str]:
    """Train from the state's step to the last.

    Metrics are read one window late, so that the devices never wait for the host; windows that end with an evaluation
    or a look at the state are read at once.

    Returns: the final state, and the reason if a callback or a signal ended the run early.

    Raises: NumericalError or guard.Rollback if an update is not finite, by the policy; PluginError if a callback fails.
    """
    journal.finite = finite_leaves(state)
    with _stepper(work, state) as advance:
        return _fit(work, state, journal, advance)


def _fit(work: Work, state: TrainState, journal: Progress, advance: Advance) -> tuple[TrainState, str]:
    evaluate = _evaluator(work, journal)
    clock = Clock(work.batch_size)
    pending: Window | None = None
    at = updates(state)
    try:
        if journal.owed:
            evaluate(state, "eval", at)
    except StopTraining as stop:
        return state, str(stop)
    for event in events(work, at):
        state, parts = advance(state, at, event)
        window = Window(at, at + count_steps(parts), parts)
        at, request = window.stop, work.stopping(window.stop)
        try:
            if pending is not None:
                finished = max(pending.stop, window.start + count_finished(parts))
                _log(work, pending.stop, _read(work, pending, clock, finished), journal)
            if request is not None and not parts:
                return state, request.name
            pending = window
            if _synchronous(work, at) or request is not None:
                _log(work, at, _read(work, window, clock, at), journal)
                pending = None
            journal.owed = _evaluates(work, at)
            if journal.owed and request is None:
                evaluate(state, "eval", at)
            if request is not None:
                return state, request.name
            if at < work.total_steps:
                show(work, at, state, journal)
        except StopTraining as stop:
            return state, str(stop)
        if pending is None:
            clock.restart(at)
    return state, ""


def finish(work: Work, state: TrainState, journal: Progress, is_over: bool) -> str:
    """What follows the last step: the state is shown to every callback, and the splits not seen are evaluated.

    They are not where the run will go on, after a signal: its log shall be that of one that never stopped. The state
    comes first, so that what kills the process during an evaluation costs that only.

    Returns: the name of the signal that cut that evaluation short, or "".
    """
    show(work, updates(state), state, journal, final=True)
    cut = ""
    if "test" in work.data.splits[1:] and is_over:
        try:
            _evaluator(work, journal)(state, "test", updates(state))
        except StopTraining as stop:
            cut = str(stop)
    notify(work.watchers, "settle", True)
    return cut


def events(work: Work, start: int) -> Iterator[int]:
    """The steps at which windows end: multiples of every period, and the last step."""
    settings, total = work.settings, work.total_steps
    periods = [settings.log_every, settings.eval_every, *(watcher.callback.every for watcher in work.watchers)]
    step = start
    while step < total:
        step = min([total, *(step - step % period + period for period in periods if period > 0)])
        yield step


def show(work: Work, step: int, state: TrainState, journal: Progress, final: bool = False) -> None:
    """Call `on_state` of the callbacks whose turn it is, unless the state has lost numbers that were finite.

    Raises: NumericalError then, so that none is saved; with nan_policy=ignore a warning is all.
    """
    due = [w for w in work.watchers if final or (w.callback.every > 0 and step % w.callback.every == 0)]
    spoilt = spoilt_leaf(journal.finite, state) if due and journal.finite is not None else None
    if spoilt is None:
        notify(due, "on_state", step, state)
    elif work.nan_policy == "ignore":
        LOGGER.warning(f"{spoilt} is not finite after step {step}: this state is not saved")
    else:
        raise NumericalError(
            f"{spoilt} is not finite after step {step}, though the losses were, and is not saved; find the operation "
            f"with debug=nans, or lower optimizer.learning_rate."
        )


def is_resident(data: DataPipeline, settings: Train) -> bool:
    """Whether a run keeps the training examples on the devices."""
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(getattr(data, "arrays", ())))
    return is_indexed(data) and size <= settings.resident_mib * 2**20


def _stepper(work: Work, state: TrainState) -> AbstractContextManager[Advance]:
    step, data, stopping = work.task.train_step, work.data, work.stopping
    resident = is_resident(data, work.settings)
    steps_per_call = choose(work.settings.steps_per_call, step, state, data.spec, resident)
    start = updates(state)
    strategy = RaisePending(work.strategy, work.watchers)
    feed = Feed(strategy, data, work.seed, start, events(work, start), resident, work.given_up)
    return stepper(feed, step, steps_per_call, lambda at: stopping(at) is not None)


def _read(work: Work, window: Window, clock: Clock, finished: int) -> Scalars:
    """Bring a window's metrics to the host: its last step's if that is logged; all losses must be finite.

    `finished` counts the steps that are done once they are there, which may be some of the next window's too.
    """
    if work.nan_policy == "stop":
        check_finite(window.parts, window.start)
    elif work.nan_policy != "ignore":
        limit = work.settings.skips_in_row if work.nan_policy == "skip" else 0
        check_skips(per_step(window.parts, "skipped"), window.start, limit)
    if not _logs(work, window.stop):
        return {}
    return results(work.task, last_of(window.parts), "train") | clock.lap(finished)


def _evaluator(work: Work, journal: Progress) -> Callable[[TrainState, str, int], None]:
    step = RaisePending(work.strategy, work.watchers).evaluate(work.task.eval_step)

    def evaluate(state: TrainState, tag: str, at: int) -> None:
        """Measure and log one split. Raises: StopTraining with the name of a signal, and nothing is logged then."""
        split = work.data.splits[0] if tag == "eval" else tag
        batches = (batch for batch in work.data.eval(split))
        # Who waits for a batch looks for signals meanwhile; those in memory are there at once.
        with nullcontext(batches) if is_indexed(work.data) else ahead(batches, stopping=work.given_up) as ready:
            means = measure(step, work.strategy.feed, state, ready, lambda: work.stopping(at))
        if isinstance(means, signal.Signals):
            raise StopTraining(means.name)
        journal.owed = False
        _log(work, at, results(work.task, means, tag), journal)

    return evaluate


def _log(work: Work, step: int, scalars: Scalars, journal: Progress) -> None:
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
