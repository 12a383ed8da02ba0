"""One experiment from a state to its end: the loop, what watches over it, and the way back if a policy asks for it."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from signal import Signals
from typing import Any

import jax
import numpy as np

from framework.api import Run, Strategy, Summary, TrainState
from framework.contracts import updates
from framework.distributed import coordination
from framework.distributed.watchdog import Watchdog, Watched, watching
from framework.experiment import Experiment
from framework.runs import logs, resume, signals
from framework.tasks import nonfinite
from framework.training import loop
from framework.training.callbacks import notify
from framework.training.debug import Explicit, switches

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
        work = _work(experiment, stopping) if watchdog is None else _together(_work(experiment, stopping), watchdog)
        while True:
            run = facts(state)
            try:
                return _fit(work, run, entry, partial(_initial_state, experiment, work.strategy, state, barred), write)
            except nonfinite.Rollback as fault:
                barred = nonfinite.one_more(barred, fault)
                state = resume.newest_state(run.directory, experiment.places)
                back = 0 if state is None else updates(state)
                logs.LOGGER.warning(f"{fault}: going back to step {back}, and on without that batch")


def _fit(
    work: loop.Work, run: Run, entry: dict[str, Any], initial: Callable[[], TrainState], write: Callable[..., None]
) -> Fitted:
    """Initialise, fit, and tell every callback that was started how it ended, also when it failed."""
    owed = entry.get("owed") or {}
    is_owed = owed.get("step") == run.start_step
    journal = loop.Progress(run.start_step, owed["metrics"] if is_owed else None, is_owed)
    began, status = time.perf_counter(), "failed"
    with ExitStack() as up:
        for watcher in work.watchers:
            notify([watcher], "on_start", run)
            # Callbacks end in the reverse order; each does, even if another one fails in doing so.
            up.callback(lambda watcher=watcher: notify([watcher], "on_end", _summary(journal, status, began)))
        state = initial()
        if entry.get("ending") is None:
            state, reason = loop.fit(work, state, journal)
            # Who is killed while the last state is saved has ended all the same, and shall not train on.
            entry["ending"] = {"reason": reason, "step": updates(state), "metrics": journal.scalars}
            entry["owed"] = {"step": updates(state), "metrics": journal.scalars} if journal.owed else None
            write(status="ending")
        else:
            reason, journal.scalars = entry["ending"]["reason"], dict(entry["ending"]["metrics"])
        # A signal during the last evaluation leaves the ending in the record, so that this alone is made up.
        if cut := loop.finish(work, state, journal, is_over=reason not in signals.NAMES):
            reason = cut
        else:
            del entry["ending"]
        status = "stopped" if reason else "done"
    return state, journal.scalars, reason


def _summary(journal: loop.Progress, status: str, began: float) -> Summary:
    return Summary(journal.step, journal.scalars, status, time.perf_counter() - began)


def _initial_state(
    experiment: Experiment, strategy: Strategy, saved: TrainState | None, barred: tuple[int, ...]
) -> TrainState:
    # Making constants is a transfer: it is the loop that debug=transfers watches.
    with jax.transfer_guard("allow"):
        if saved is not None:
            return strategy.init(lambda state: nonfinite.barring(state, barred), saved)
        seed = np.uint32(experiment.settings.seed)
        return strategy.init(lambda seed: nonfinite.barring(experiment.init(seed), barred), seed)


def _work(experiment: Experiment, stopping: Callable[[], Signals | None]) -> loop.Work:
    settings = experiment.settings
    train = settings.train
    if train.steps_per_call == "auto" and (settings.debug.nans or settings.debug.infs or settings.debug.eager):
        train = train._replace(steps_per_call=1)  # a compiled loop would hide which operation it was
    return loop.Work(
        experiment.task,
        Explicit(experiment.strategy) if settings.debug.transfers else experiment.strategy,
        experiment.batches,
        experiment.watchers,
        train,
        experiment.total_steps,
        experiment.batch_size,
        settings.seed,
        settings.nan_policy,
        lambda updates: stopping(),
        lambda: stopping() is not None,
    )


def _together(work: loop.Work, watchdog: Watchdog) -> loop.Work:
    """The same for one of several processes: the first runs most callbacks, and all stop at one step."""
    watchers = [
        watcher if watcher.callback.everywhere else watcher._replace(callback=coordination.ByFirst(watcher.callback))
        for watcher in work.watchers
    ]
    return work._replace(
        strategy=Watched(work.strategy, watchdog), watchers=watchers, stopping=watchdog.stopping, given_up=bool
    )
