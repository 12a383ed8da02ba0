"""The loop: run steps up to the next event, then do what the event asks for. It knows nothing of models or data."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from functools import cached_property
from itertools import groupby
from signal import Signals
from typing import Any, NamedTuple, NoReturn

import jax
import numpy as np

from framework.api import Batch, StopTraining, TrainState
from framework.contracts.components import updates
from framework.ensembles.endings import caught_up, counted_on, with_last_values
from framework.errors import NumericalError
from framework.experiment import Experiment
from framework.registry.sections import rates_of
from framework.tags import EPOCH, EXAMPLES
from framework.tasks.nonfinite import FIND, Rollback, check_skips, finite_leaves, spoilt_leaf
from framework.training.callbacks import ended_members, notify, raise_pending
from framework.training.chunks import AUTO_CHUNK, steps_per_call
from framework.training.compiles import Compiles
from framework.training.evaluation import (
    Clock,
    Scalars,
    first_loss,
    measure,
    on_host,
    per_step,
    results,
    undefined,
    unsound_loss,
    unsound_step,
)
from framework.training.prefetch import ahead
from framework.training.profiling import Profiler
from framework.training.recorder import Fault, Recorder
from framework.training.stepper import TOLD, Parts, StopRequests, compiled, count_finished, count_steps, stepper
from framework.training.times import Times
from framework.training.window import LogWindow
from framework.trees import leaves_by_path

LOGGER = logging.getLogger("framework")


REGARDLESS = "or go on with nan_policy=ignore."

LISTED = 10
"""Steps that a line lists."""


Keep = Callable[[Fault, Scalars], str | None]
"""`keep(fault, scalars)` writes a fault down with the last metrics, and returns advice on how to look at it, or None if
it cannot be written."""


class Window(NamedTuple):
    """The steps between two events, dispatched but perhaps not finished."""

    start: int
    stop: int
    parts: Parts


class Progress:
    """The point that a run has reached, whatever ends it.

    Attributes:
      step: the last step that was logged.
      scalars: the last value of every tag.
      first_loss: step and loss of the first step that this process made.
      pending_eval: the state that the run begins with is still to be evaluated: the untrained one, or that of a run
        whose evaluation a signal cut short.
      window: of `LogWindow.saved`, if the run goes on between two logs.
    """

    def __init__(
        self,
        step: int,
        scalars: Scalars | None = None,
        pending_eval: bool = False,
        window: Mapping[str, Any] | None = None,
    ) -> None:
        self.step = step
        self.scalars: Scalars = dict(scalars or {})
        self.first_loss: tuple[int, float] | None = None
        self.pending_eval = pending_eval
        self.window = window


class Loop:
    """The steps of one experiment, and what is done between them."""

    def __init__(
        self,
        experiment: Experiment,
        progress: Progress,
        requests: StopRequests,
        profiler: Profiler,
        keep: Keep = lambda fault, last: None,
    ) -> None:
        self.experiment, self.progress, self.requests = experiment, progress, requests
        self.profiler, self.keep = profiler, keep
        self.settings, self.callbacks = experiment.settings.train, experiment.callbacks
        self.finite_at_first: np.ndarray | None = None  # an optimizer may begin with a number that is not finite
        self.undefined: set[tuple[str, str]] = set()  # tags and reasons that were told
        self.unusable = ""  # advice, where parameters were not finite before the first step
        self.recorder: Recorder | None = None
        self.has_kept = False  # a fault was looked for: the first one is kept
        self.advice: str | None = None  # on how to look at it
        self.ended: dict[int, str] = {}  # members that callbacks have ended, with the reason
        self.times, self.compiles = Times(), Compiles()
        self.window = LogWindow(progress.window)
        self.lower = f"lower {rates_of(experiment.config)}"

    def fit(self, state: TrainState, begin: Callable[[], TrainState] | None = None) -> tuple[TrainState, str]:
        """Train from the state's step to the last.

        Args:
          state: the first one.
          begin: makes it again, for the flight recorder; None for no recorder.

        Metrics are read one window late, so that the devices never wait for the host. A window that ends with an
        evaluation or with a callback's look at the state is read at once.

        Returns: the final state, and the reason if a callback, signal or request ended the run early, else "".

        Raises: NumericalError or nonfinite.Rollback if an update is not finite, by the policy; PluginError if a
          callback fails.
        """
        self.times = Times()
        self.finite_at_first = finite_leaves(state)
        clock = Clock(self.experiment.batch_size)
        unread: Window | None = None
        step = updates(state)
        per_call = steps_per_call(self.experiment, state)
        self.unusable = _unusable(state, self.finite_at_first)
        longest = per_call * max(1, AUTO_CHUNK // per_call)
        program = compiled(self.experiment, per_call, self.compiles.traces)
        self.recorder = None if begin is None else Recorder(self.experiment, program, state, begin)
        with (
            stepper(self.experiment, program, self._events(step, longest), step, self.requests, self.times) as steps,
            self.profiler.watching(steps) as advance,
        ):
            try:
                if self.progress.pending_eval:
                    self._evaluate(state, "eval", step)
                for event in self._events(step, longest):
                    state, parts = self._advanced(advance, state, step, event)
                    window = Window(step, step + count_steps(parts), parts)
                    step, asked = window.stop, self._asked(window.stop)
                    halt = TOLD if "stop" in asked else _name(self.requests.after(step))
                    if self.recorder is not None:
                        self.recorder.look(state, step, step == self.experiment.total_steps)
                    if unread is not None:
                        self._read(unread, clock, max(unread.stop, window.start + count_finished(parts)))
                    if halt and not parts:
                        return state, halt
                    unread = window
                    if self._is_synchronous(step) or halt or asked:
                        self._read(window, clock, step)
                        unread = None
                    if halt:
                        return state, halt
                    if self._evaluates(step) or "evaluate" in asked:
                        self._evaluate(state, "eval", step)
                    if step < self.experiment.total_steps:
                        self._show(state, step, is_asked="checkpoint" in asked)
                    if unread is None:
                        clock.restart(step)
            except StopTraining as stop:
                return state, str(stop)
            except FloatingPointError as error:  # of debug=nans and debug=infs, which run single steps
                raise self._caught(error, step) from error
        return state, ""

    def finish(self, state: TrainState, is_over: bool) -> str:
        """Show the last state to every callback, and evaluate the test split unless the run will go on.

        A run that is to go on is not evaluated: the resumed one does it, so that its log is that of an unbroken one.
        The state comes first, so that a kill during the evaluation costs the evaluation only.

        Returns: the name of the signal that cut the evaluation short, or "".
        """
        self._show(state, updates(state), is_last=True)
        cut = ""
        if is_over and "test" in self.experiment.batches.splits[1:]:
            try:
                self._evaluate(caught_up(state, self.ended), "test", updates(state))
            except StopTraining as stop:
                cut = str(stop)
        with self.times.part("checkpoints"):
            notify(self.callbacks, "settle", True)
        return cut

    def now(self) -> tuple[str, float]:
        """Return what the loop does at this moment, and for how many seconds."""
        return self.times.now()

    def _events(self, start: int, longest: int) -> Iterator[int]:
        """Yield the steps at which windows end: the first, multiples of every period, and the last.

        No window has more steps than `longest`, so that losses which are not finite are found soon.
        """
        total, periods = self.experiment.total_steps, [self.settings.log_every, *self._synchronous_periods]
        step = start
        if step == 0 and total > 1 and self.settings.log_every > 0:
            step = 1
            yield step
        while step < total:
            ends = [total, step + longest, *(bound for bound in self.profiler.bounds if bound > step)]
            step = min([*ends, *(step - step % period + period for period in periods if period > 0)])
            yield step

    def _read(self, window: Window, clock: Clock, finished: int) -> None:
        """Bring a window's metrics to the host, check every step of it, and log the means since the last log if due.

        Args:
          finished: the steps that are done when the metrics are here, which may be some of the next window's too.
        """
        with self.times.part("device"):
            jax.block_until_ready([packed.values for packed, _ in window.parts])
            window = window._replace(parts=on_host(window.parts))
        if self.progress.first_loss is None:
            self.progress.first_loss = window.start + 1, first_loss(self.experiment.task, window.parts)
        self._check(window)
        self.window.add(window.parts)
        if self._logs(window.stop):
            scalars = results(self.experiment.task, self.window.take(), "train")
            if self.settings.log_last_step:
                scalars |= results(self.experiment.task, self.window.last(), "train_step")
            speed = clock.lap(finished) | self.times.shares() | self.compiles.lap()
            self.log(window.stop, scalars | self._reached(window.stop) | speed)

    def _reached(self, step: int) -> Scalars:
        """Return how many passes over the data a step has ended, and how many examples each model has seen."""
        data, members = self.experiment.data, self.experiment.members
        size = self.experiment.batch_size // (1 if members is None else members.size)
        return {EPOCH: step / data.steps_per_epoch, EXAMPLES: float(step * size)}

    def _check(self, window: Window) -> None:
        """Check every step of a window by the policy, and keep the first one that is not finite.

        Raises: NumericalError, or Rollback.
        """
        policy = self.experiment.settings.nan_policy
        if policy == "stop":
            if (found := unsound_step(window.parts, window.start)) is not None:
                self._fail(found[1], found[0])
            self._check_members(window)
        elif policy != "ignore":
            limit = self.settings.skips_in_row if policy == "skip" else 0
            try:
                undone = check_skips(per_step(window.parts, "skipped"), window.start, limit, self._found)
            except Rollback as fault:
                fault.advice = self._kept(fault.step) or FIND
                raise
            if undone:
                LOGGER.warning(f"undone, since the update is not finite: {_steps(undone)}")
                self._tell_kept(undone[0])
        if self.recorder is not None and policy != "ignore" and self.finite_at_first is not None:
            path = self.recorder.passed(window.stop, self.finite_at_first)
            if path is not None and policy == "stop":
                self._fail(f"{path} is not finite after step {window.stop}, though the losses were", window.stop)

    def _check_members(self, window: Window) -> None:
        members = self.experiment.members
        if members is not None and per_step(window.parts, "live_members")[-1] < members.size - len(self.ended):
            self._tell_kept(window.stop)

    def _advanced(self, advance: Callable[..., Any], state: TrainState, step: int, event: int) -> Any:
        """Make the steps up to an event, in which members that callbacks have ended stay as they are."""
        ending = self._end_members(state, step)
        state, parts = advance(counted_on(state, ending, -1), step, event)
        return counted_on(state, ending, 1), parts

    def _end_members(self, state: TrainState, step: int) -> list[int]:
        """Return the members that callbacks have ended since the last call.

        Raises: StopTraining if none is left to train.
        """
        members = self.experiment.members
        if members is None:
            return []
        found = ended_members(self.callbacks)
        ending = [member for member in found if member not in self.ended]
        if not ending:
            return []
        self.ended |= {member: found[member] for member in ending}
        if self.recorder is not None:
            self.recorder.ended |= self.ended.keys()
        reached = np.asarray(jax.device_get(state.step))
        for member in ending:
            LOGGER.info(f"member {member} has ended at step {reached[member]}: {found[member]}")
        if not any(reached[member] == step for member in range(members.size) if member not in self.ended):
            each = ", ".join(f"{member} at step {reached[member]}" for member in sorted(self.ended))
            raise StopTraining(f"all members have ended: {each}")
        return ending

    def _tell_kept(self, step: int) -> None:
        if not self.has_kept and (advice := self._kept(step)):
            LOGGER.warning(advice)

    def _fail(self, what: str, step: int) -> NoReturn:
        advice = self.unusable or self._found(step)
        raise NumericalError(f"{what}; {advice}, {REGARDLESS}")

    def _found(self, step: int) -> str:
        return f"{self._kept(step) or FIND}, {self.lower}"

    def _kept(self, upto: int) -> str | None:
        """Find the first step up to this one that is not finite, and keep it; of several faults the first alone.

        Returns: advice on how to look at it; None where there is no recorder, or the step does not repeat itself.
        """
        if self.recorder is not None and not self.has_kept:
            self.has_kept = True
            fault = self.recorder.find(upto)
            self.advice = None if fault is None else self.keep(fault, self.progress.scalars)
        return self.advice

    def _caught(self, error: FloatingPointError, step: int) -> NumericalError:
        """Say which step, or which evaluation, made what `debug=nans` or `debug=infs` looks for."""
        text, *at = error.args
        where = f"step {at[0]}" if at else f"the evaluation after step {step}"
        return NumericalError(f"{where}: {text}; {self._kept(*at or [step + 1]) or self.lower}.")

    def _evaluate(self, state: TrainState, tag: str, step: int) -> None:
        """Measure one split and log it.

        Raises: StopTraining with the name of a signal that came meanwhile; then nothing is logged. NumericalError if
          the loss is not finite, by the policy.
        """
        data = self.experiment.batches
        batches = (batch for batch in data.eval(data.splits[0] if tag == "eval" else tag))
        # A thread makes the batches, so that a wait for one can be cancelled; those in memory are there at once.
        in_memory, cancelled = data.in_memory() is not None, self.requests.cancelled
        with (
            self.times.part("evaluation"),
            nullcontext(batches) if in_memory else ahead(batches, cancelled=cancelled) as each,
        ):
            feed = self.experiment.strategy.feed
            means = measure(self._eval_step, feed, state, self._checked(each), lambda: self.requests.after(step))
        if isinstance(means, Signals):
            raise StopTraining(means.name)
        scalars = results(self.experiment.task, means, tag)
        if self.ended:
            scalars = with_last_values(scalars, self.progress.scalars, self.ended)
        self.log(step, scalars, f" of the split '{data.splits[0] if tag == 'eval' else tag}'")
        # An evaluation need not have a loss: a teacher may be judged by its metrics alone. At step 0 there is no update
        # to be judged, and the first one judges itself.
        if step > 0 and "loss" in means and (unsound := unsound_loss(scalars, tag)) is not None:
            split, policy = data.splits[0] if tag == "eval" else tag, self.experiment.settings.nan_policy
            text = f"{unsound} after step {step}, of the split '{split}'; look at its examples and at the model's state"
            if policy == "stop":
                if (spoilt := self._spoilt(state, step)) is not None:
                    raise NumericalError(spoilt)
                # The step that would follow mostly meets what the evaluation met; members go on one by one.
                kept = self._kept(step + 1) if self.experiment.members is None else None
                raise NumericalError(f"{text}, {kept or FIND}, {REGARDLESS}")
            LOGGER.warning(f"{text}.")

    @cached_property
    def _eval_step(self) -> Any:
        return self.experiment.strategy.evaluate(self.experiment.task.eval_step)

    def _checked(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        for batch in batches:
            raise_pending(self.callbacks)
            yield batch

    def _asked(self, step: int) -> tuple[str, ...]:
        """Take the requests that have come, and tell of them."""
        asked = self.requests.taken()
        for word in asked:
            LOGGER.info(f"told to {word}, at step {step}")
        if "profile" in asked:
            self.profiler.ask()
        return asked

    def _show(self, state: TrainState, step: int, is_last: bool = False, is_asked: bool = False) -> None:
        """Call `on_state` of the callbacks whose turn it is, unless the state has lost numbers that were finite.

        Args:
          is_last: it is the turn of all of them.
          is_asked: it is the turn of those that save states, too.

        Raises: NumericalError then, so that no such state is saved; with nan_policy=ignore it is a warning.
        """
        periods = zip(self.callbacks, self._periods, strict=True)
        due = [each for each, every in periods if is_last or _is_due(every, step) or (is_asked and each.callback.saves)]
        spoilt = self._spoilt(state, step) if due else None
        if spoilt is None:
            for saves, group in groupby(due, key=lambda each: each.callback.saves):  # in their order
                with self.times.part("checkpoints" if saves else "logging"):
                    notify(list(group), "on_state", step, state)
        elif self.experiment.settings.nan_policy == "ignore":
            LOGGER.warning(f"{spoilt.partition(',')[0]}: this state is not saved")
        else:
            raise NumericalError(spoilt)

    def _spoilt(self, state: TrainState, step: int) -> str | None:
        """Describe a state that has lost numbers which were finite at first, with advice."""
        path = None if self.finite_at_first is None else spoilt_leaf(self.finite_at_first, state)
        return path and (
            f"{path} is not finite after step {step}, though the losses were, and is not saved; "
            f"{self._kept(step) or FIND}, or {self.lower}."
        )

    def log(self, step: int, scalars: Mapping[str, float], where: str = "") -> None:
        """Log scalars of a step, and hand them to every callback."""
        for text in undefined(dict(scalars), self.undefined):
            LOGGER.warning(f"step {step}{where}: {text}.")
        self.progress.step = step
        if step > 0:  # the last values of a run are those of its training, also of a member that has no others
            self.progress.scalars |= scalars
        with self.times.part("logging"):
            notify(self.callbacks, "on_log", step, dict(scalars))

    def _logs(self, step: int) -> bool:
        every = self.settings.log_every
        return self._evaluates(step) or _is_due(every, step) or (every > 0 and step == 1)

    def _evaluates(self, step: int) -> bool:
        return step == self.experiment.total_steps or _is_due(self.experiment.eval_every, step)

    def _is_synchronous(self, step: int) -> bool:
        due = any(_is_due(period, step) for period in self._synchronous_periods)
        return step == self.experiment.total_steps or due

    @cached_property
    def _synchronous_periods(self) -> list[int]:
        return [self.experiment.eval_every, *self._periods]

    @cached_property
    def _periods(self) -> list[int]:
        """The period of each callback, which it cannot change once the run has begun."""
        return [each.callback.every for each in self.callbacks]


def _name(signal: Signals | None) -> str:
    return "" if signal is None else signal.name


def _is_due(period: int, step: int) -> bool:
    return period > 0 and step % period == 0


def _unusable(state: TrainState, finite: np.ndarray) -> str:
    """Name the first parameter that is not finite before any step, as advice; "" if there is none."""
    paths = [path for path, sound in zip(leaves_by_path(state), finite, strict=True) if not sound]
    path = next((path for path in paths if path.startswith("params/")), "")
    return f"{path} was not finite before step {updates(state) + 1}: look at the model's init" if path else ""


def _steps(steps: list[int]) -> str:
    listed, more = ", ".join(map(str, steps[:LISTED])), len(steps) - LISTED
    return f"step{'s' if len(steps) > 1 else ''} {listed}{f' and {more} more' if more > 0 else ''}"
