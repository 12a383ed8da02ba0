"""One experiment from a state to its end: the loop, what watches over it, and the way back if a policy asks for it."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import Any

import jax
import numpy as np

from framework.api import Run, Summary, TrainState
from framework.contracts import updates
from framework.distributed import coordination
from framework.distributed.watchdog import Watchdog, Watched, watching
from framework.experiment import Experiment
from framework.runs import logs, resume, signals
from framework.tasks import nonfinite
from framework.training.callbacks import notify
from framework.training.debug import Explicit, switches
from framework.training.loop import Loop, Progress
from framework.training.stepper import StopRequests

Fitted = tuple[TrainState, dict[str, float], str]
"""The final state, the last value of every tag, and the reason of an early end."""

Facts = Callable[[TrainState | None], Run]
"""What callbacks may know of a run that begins from a state, or from the start."""


def train(
    experiment: Experiment, facts: Facts, entry: dict[str, Any], state: TrainState | None, write: Callable[..., None]
) -> Fitted:
    """Fit, and as often as `nan_policy=rollback` asks for it, go back and fit again.

    Args:
      entry: what run.json says; under "ending", how a run ended whose end was not recorded, or nothing.
      state: to go on from; None to start.
      write: writes the entry, and what else it is given.
    """

    def on_loss(reason: str) -> None:
        write(status="failed", exit_code=7, reason=reason)

    settings = experiment.settings
    barred = () if state is None else nonfinite.barred_steps(state)
    with (
        switches(settings.debug),
        signals.stop_requests() as stopping,
        watching(settings.run.watchdog, stopping, on_loss) as watchdog,
    ):
        requests = StopRequests(lambda step: stopping(), lambda: stopping() is not None)
        if settings.debug.transfers:
            experiment = experiment._replace(strategy=Explicit(experiment.strategy))
        if watchdog is not None:
            experiment, requests = _together(experiment, watchdog), StopRequests(watchdog.stopping)
        while True:
            run = facts(state)
            try:
                return _fit(experiment, requests, run, entry, partial(_initial_state, experiment, state, barred), write)
            except nonfinite.Rollback as fault:
                barred = nonfinite.one_more(barred, fault)
                state = resume.newest_state(run.directory, experiment.places)
                back = 0 if state is None else updates(state)
                logs.LOGGER.warning(f"{fault}: going back to step {back}, and on without that batch")


def _fit(
    experiment: Experiment,
    requests: StopRequests,
    run: Run,
    entry: dict[str, Any],
    initial: Callable[[], TrainState],
    write: Callable[..., None],
) -> Fitted:
    """Initialise, fit, and tell every callback that was started how it ended, also when it failed."""
    owed = entry.get("owed") or {}
    is_owed = owed.get("step") == run.start_step
    progress = Progress(run.start_step, owed["metrics"] if is_owed else None, is_owed)
    loop = Loop(experiment, progress, requests)
    began, status = time.perf_counter(), "failed"
    with ExitStack() as up:
        for each in experiment.callbacks:
            notify([each], "on_start", run)
            # Callbacks end in the reverse order; each does, even if another one fails in doing so.
            up.callback(lambda each=each: notify([each], "on_end", _summary(progress, status, began)))
        state = initial()
        if entry.get("ending") is None:
            state, reason = loop.fit(state)
            # Who is killed while the last state is saved has ended all the same, and shall not train on.
            entry["ending"] = {"reason": reason, "step": updates(state), "metrics": progress.scalars}
            entry["owed"] = {"step": updates(state), "metrics": progress.scalars} if progress.pending_eval else None
            write(status="ending")
        else:
            reason, progress.scalars = entry["ending"]["reason"], dict(entry["ending"]["metrics"])
        # A signal during the last evaluation leaves the ending in the record, so that this alone is made up.
        if cut := loop.finish(state, is_over=reason not in signals.NAMES):
            reason = cut
        else:
            del entry["ending"]
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
