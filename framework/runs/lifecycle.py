"""One experiment from a state to its end, and the way back to a checkpoint if `nan_policy=rollback` asks for it."""

from __future__ import annotations

import copy
import gc
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import jax
import numpy as np

from framework.api import Run, Summary, TrainState
from framework.checkpoints.callback import Checkpoint
from framework.contracts.components import updates
from framework.distributed import coordination
from framework.distributed.watchdog import Watchdog, Watched, watching
from framework.experiment import Experiment, NamedCallback
from framework.records import logs
from framework.records.capsule import keep
from framework.records.exhausted import keep_exhausted
from framework.records.history import HistoryWriter, MetricsFile
from framework.records.media import MediaFolder, ShownBy
from framework.records.record import RunRecord, run_facts
from framework.runs import resume, signals
from framework.runs.asked import taken
from framework.runs.exhibits import exhibits_of
from framework.runs.interruption import tell_of_signal
from framework.runs.overfit import overfit_of
from framework.runs.probes import probes_of
from framework.tasks import nonfinite
from framework.tasks.rates import check_rates
from framework.training.callbacks import notify
from framework.training.debug import Explicit, OneByOne, switches
from framework.training.faults import naming_components
from framework.training.loop import Loop, Progress
from framework.training.profiling import Profiler
from framework.training.stepper import StopRequests, is_to_go_on

Fitted = tuple[TrainState, dict[str, float], str]
"""The final state, the last value of every tag, and the reason of an early end, else ""."""


def train(experiment: Experiment, record: RunRecord, state: TrainState | None) -> Fitted:
    """Train, and go back and train again as often as `nan_policy=rollback` asks for it.

    Args:
      experiment: what to train.
      record: of the run; it is written where a crash after it must not be forgotten.
      state: to go on from; None to start.
    """

    def record_loss(reason: str, code: int) -> None:
        record.status, record.exit_code, record.reason = "failed", code, reason
        record.write()

    settings, history = experiment.settings, MetricsFile(record.directory, record.id)
    media = MediaFolder(record.directory, experiment.callbacks)
    writer = NamedCallback("metrics.jsonl", HistoryWriter(history))
    # What is shown of a step stands before its state is saved, so that no run goes on beyond what it has not shown.
    savers_last = sorted(experiment.callbacks, key=lambda each: isinstance(each.callback, Checkpoint))
    shown = (*exhibits_of(experiment), *probes_of(experiment), *overfit_of(experiment))
    experiment = experiment._replace(callbacks=(writer, *shown, *savers_last))
    barred = () if state is None else nonfinite.barred_steps(state)
    with (
        switches(settings.debug),
        _frozen_garbage(),
        naming_components(experiment, partial(keep_exhausted, experiment, record)),
        signals.stop_requests(partial(tell_of_signal, record)) as stopping,
        watching(settings.run.watchdog, stopping, record_loss) as watchdog,
    ):
        requests = StopRequests(
            lambda step: stopping(), lambda: stopping() is not None, lambda: taken(record.directory)
        )
        if settings.debug.transfers:
            experiment = experiment._replace(strategy=Explicit(experiment.strategy))
        if (settings.debug.nans or settings.debug.infs) and watchdog is None:
            experiment = experiment._replace(strategy=OneByOne(experiment.strategy, settings.debug))
        if watchdog is not None:
            experiment, requests = _together(experiment, watchdog), StopRequests(watchdog.stopping)
        if settings.debug.fast and state is None:
            requests = requests._replace(taken=lambda: ("stop",))
        while True:
            run = run_facts(experiment, record, history, state)
            coordination.agree(lambda run=run: media.cut(run.start_step))
            profiler = Profiler(record.directory, settings.debug.profile)
            progress, keeping = _progress(experiment, run, history), partial(keep, experiment, record)
            loop = Loop(experiment, progress, requests, profiler, keeping)
            initial = partial(_initial_state, experiment, state, barred)
            try:
                return _fit(loop, run, record, media, initial)
            except nonfinite.Rollback as fault:
                barred = nonfinite.one_more(barred, fault)
                state = resume.newest_state(run.directory, experiment.places, run.id)
                back = 0 if state is None else updates(state)
                logs.LOGGER.warning(f"{fault}: going back to step {back}, and on without that batch")


@contextmanager
def _frozen_garbage() -> Iterator[None]:
    """Let the garbage collector leave out what is there at the start, mostly JAX itself: a look at it takes 0.2 s."""
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def _progress(experiment: Experiment, run: Run, history: MetricsFile) -> Progress:
    """Cut the history back to where the run begins, and tell what is missing there: an evaluation, a log."""
    step, every = run.start_step, experiment.eval_every

    def cut() -> tuple[dict[str, float], bool, Mapping[str, Any]]:
        scalars = history.cut(step)
        is_due = step == run.total_steps or (every > 0 and step % every == 0)
        logged = any(tag.startswith("eval/") for record in history.records(since=step) for tag in record)
        return scalars, is_due and not logged, resume.window_at(run.directory, step)

    return Progress(step, *coordination.agree(cut))


def _fit(loop: Loop, run: Run, record: RunRecord, media: MediaFolder, initial: Callable[[], TrainState]) -> Fitted:
    """Initialise, train, and tell every callback that was started how it ended, also when it failed."""
    progress, began, status = loop.progress, time.perf_counter(), "failed"
    with ExitStack() as callbacks:
        callbacks.enter_context(loop.compiles.counting(lambda seconds: loop.times.compiled(seconds)))
        for each in loop.experiment.callbacks:
            given = run._replace(config=copy.deepcopy(run.config), media=ShownBy(media, each.label))
            given = given._replace(log=loop.log, now=loop.now, window=loop.window.saved)
            notify([each], "on_start", given)
            # Callbacks end in the reverse order; each does, even if another one fails in doing so.
            callbacks.callback(lambda each=each: notify([each], "on_end", _summary(progress, status, began)))
            callbacks.callback(media.leave, each.label)
        coordination.agree(media.open)
        # After the callbacks have looked for room, since this compiles.
        for schedule, title in loop.experiment.schedules:
            check_rates(schedule, loop.experiment.total_steps, title)
        with loop.times.part("compiling"):
            state = initial()
        if record.ending is not None:
            reason = str(record.ending.get("reason", ""))
        else:
            state, reason = loop.fit(state, initial if loop.experiment.settings.run.recorder else None)
        if record.first_loss is None and progress.first_loss is not None and math.isfinite(progress.first_loss[1]):
            record.first_loss = list(progress.first_loss)
        is_over = not is_to_go_on(reason)
        if reason and is_over:
            # A run that is killed while its last state is saved must not train on.
            record.status, record.ending = "ending", {"reason": reason, "step": updates(state)}
            record.write()
        if cut := loop.finish(state, is_over):
            reason = cut  # the record keeps the ending, so that only what was cut is made up
        else:
            record.ending = None
        loop.times.switch("other")
        record.times = {part: round(seconds, 3) for part, seconds in loop.times.seconds.items()}
        record.compiles = loop.compiles.told()
        status = "stopped" if reason else "done"
    return state, progress.scalars, reason


def _summary(progress: Progress, status: str, began: float) -> Summary:
    return Summary(progress.step, progress.scalars, status, time.perf_counter() - began)


def _initial_state(experiment: Experiment, saved: TrainState | None, barred: tuple[int, ...]) -> TrainState:
    # Making constants is a transfer: it is the loop that debug=transfers watches.
    with jax.transfer_guard("allow"):
        if saved is not None:
            return experiment.strategy.init(lambda state: nonfinite.barring(state, barred), saved)
        seed = np.uint32(experiment.settings.seed)
        return experiment.strategy.init(lambda seed: nonfinite.barring(experiment.init(seed), barred), seed)


def _together(experiment: Experiment, watchdog: Watchdog) -> Experiment:
    """The same for one of several processes: the watchdog sees each call, and the first process runs most callbacks."""
    callbacks = [
        each if each.callback.everywhere else each._replace(callback=coordination.ByFirst(each.callback))
        for each in experiment.callbacks
    ]
    return experiment._replace(strategy=Watched(experiment.strategy, watchdog), callbacks=tuple(callbacks))
