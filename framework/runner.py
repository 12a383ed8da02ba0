"""One run, from a composed config to a result; and a finished run, back as a function."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from signal import Signals
from typing import Any, NamedTuple

import jax
import numpy as np
from omegaconf import DictConfig

from framework import agreement, loop, masking, members, processes, record, resuming, signals
from framework.api import Run, Strategy, Summary, TrainState
from framework.averaging import trained_params
from framework.compilation import persistent_cache
from framework.compose import Experiment, build
from framework.config import Settings, extended, plain, settings_of
from framework.debug import Explicit, numerical_errors, switches
from framework.errors import FrameworkError, InterruptError
from framework.facts import data_facts, entry_of, run_facts, summarise
from framework.population import updates
from framework.registry import discover
from framework.settings import RunSettings
from framework.trained import Trained, trained_model
from framework.watchdog import Watchdog, Watched, watching


class Result(NamedTuple):
    """What a run leaves behind."""

    metrics: Mapping[str, float]  # the last value of every tag
    state: TrainState
    model: Trained  # of several members, the first
    directory: Path


def run(config: DictConfig, name: str) -> Result:
    """Build, train, evaluate and record one experiment; with `run.resume=auto`, go on with the one in `run.dir`.

    Args:
      config: as composed by Hydra, without its own section.
      name: of the experiment, where `run.name` gives none.

    Raises: FrameworkError, in one line, with the exit code of its kind.
    """
    read = plain(extended(config))
    settings, hidden = settings_of(read), masking.secrets_of(read)
    masking.check_names(settings.run._asdict(), hidden)
    with _joined(settings), record.console():
        if (recorded := agreement.agree(lambda: _found(settings.run))) is not None:
            return _resumed(resuming.Recorded(Path(recorded["directory"]), recorded["entry"]), config, force=False)
        experiment = _without(build(config, discover()), hidden)
        name = experiment.settings.run.name or name
        directory = record.make_directory(experiment.settings.run, name)
        with record.locked(directory), record.run_log(directory, hidden):
            record.check_unused(directory)
            record.write_config(directory, experiment.config)
            return _recorded(experiment, directory, entry_of(experiment, name), None, hidden)


def resume(recorded: resuming.Recorded, config: DictConfig, force: bool) -> Result:
    """Go on with a run from its newest sound checkpoint, in its own folder, as if it had never stopped.

    Args:
      recorded: the run folder.
      config: the recorded config, perhaps with overrides.
      force: allow overrides that change what the run computes.

    Raises: ConfigError naming such overrides otherwise; StorageError if the folder is in use, and as `run`.
    """
    with _joined(settings_of(plain(extended(config)))), record.console():
        return _resumed(recorded, config, force)


def _joined(settings: Settings) -> AbstractContextManager[None]:
    # JAX's own limit is the longer one: it ends a process with pages of text.
    return processes.joined(settings.distributed, patience=max(100, 2 * settings.run.watchdog + 60))


def _found(settings: RunSettings) -> dict[str, Any] | None:
    """The run to go on with, if there is one, as process 0 sees it."""
    directory = Path(settings.dir or "")
    if settings.resume != "auto" or not settings.dir or not record.is_begun(directory):
        return None
    return {"directory": str(directory), "entry": dict(resuming.read(directory).entry)}


def _resumed(recorded: resuming.Recorded, config: DictConfig, force: bool) -> Result:
    hidden = masking.secrets_of(plain(extended(config)))
    with record.locked(recorded.directory), record.run_log(recorded.directory, hidden):
        experiment = _without(build(config, discover()), hidden)
        resuming.check_unchanged(recorded.entry["config"], experiment.config, force)
        resuming.warn_of_versions(recorded.entry)
        state = resuming.newest_state(recorded.directory, experiment.shapes)
        step = 0 if state is None else updates(state)
        if state is not None and resuming.is_finished(recorded.entry, step, experiment.total_steps):
            record.LOGGER.info(f"{recorded.directory} is done: it has {step} of {experiment.total_steps} steps.")
            return _result(experiment, recorded.directory, recorded.entry.get("metrics", {}), state)
        record.LOGGER.info(f"resuming {recorded.directory} at step {step} of {experiment.total_steps}")
        record.write_config(recorded.directory, experiment.config)
        entry = {**entry_of(experiment, recorded.entry["name"]), "started": recorded.entry["started"]}
        entry["resumed"] = [*recorded.entry.get("resumed", []), step]
        entry["ending"] = resuming.ending(recorded.entry, step, experiment.total_steps)
        return _recorded(experiment, recorded.directory, entry, state, hidden)


def _without(experiment: Experiment, hidden: frozenset[str]) -> Experiment:
    """The experiment with a config that can be written down; its components were built from the whole one."""
    return experiment._replace(config=masking.masked(experiment.config, hidden))


def _recorded(
    experiment: Experiment, directory: Path, entry: dict[str, Any], state: TrainState | None, hidden: frozenset[str]
) -> Result:
    """Run, from a state or from the start, and write into run.json how it ended, whatever happens."""
    began = time.perf_counter()

    def write(**outcome: Any) -> None:
        record.write_record(directory, {**entry, **outcome}, hidden)

    write(status="running")
    outcome: dict[str, Any] = {"status": "failed", "exit_code": 1}
    try:
        with persistent_cache(experiment.settings.run):
            facts = run_facts(experiment, directory, entry["name"], state)
            facts = facts._replace(facts=masking.masked(facts.facts, hidden))
            state, metrics, reason = _train(experiment, facts, entry, state, write)
        del entry["ending"]
        outcome = {"status": "stopped" if reason else "done", "exit_code": 0, "reason": reason, "metrics": metrics}
        outcome["step"] = updates(state)
        if experiment.members is not None:
            outcome["members"] = members.outcome(experiment.members, state, metrics)
        if reason in signals.NAMES:
            code = outcome["exit_code"] = signals.exit_code(signals.NAMES[reason])
            raise InterruptError(f"{reason} at step {updates(state)}; `resume {directory}` goes on from there.", code)
    except FrameworkError as error:
        outcome |= {"exit_code": error.exit_code, "reason": str(error)}
        raise
    except Exception as error:
        outcome |= {"reason": f"{type(error).__name__}: {error}"}
        raise
    finally:
        write(**outcome, seconds=round(time.perf_counter() - began, 3))
    summarise(metrics, directory, reason, outcome.get("members"))
    return _result(experiment, directory, metrics, state)


def _train(
    experiment: Experiment, run: Run, entry: dict[str, Any], state: TrainState | None, write: Callable[..., None]
) -> tuple[TrainState, dict[str, float], str]:
    """Initialise, fit, and tell every callback that was started how it ended, also when it failed."""

    def on_loss(reason: str) -> None:
        write(status="failed", exit_code=7, reason=reason)

    began, journal, status = time.perf_counter(), loop.Journal(run.start_step), "failed"
    with (
        switches(experiment.settings.debug),
        numerical_errors(),
        signals.stop_requests() as stopping,
        watching(experiment.settings.run.watchdog, stopping, on_loss) as watchdog,
        ExitStack() as up,
    ):
        work = _work(experiment, stopping) if watchdog is None else _together(_work(experiment, stopping), watchdog)
        for watcher in work.watchers:
            loop.notify([watcher], "on_start", run)
            # Callbacks end in the reverse order; each does, even if another one fails in doing so.
            up.callback(lambda watcher=watcher: loop.notify([watcher], "on_end", _summary(journal, status, began)))
        state = _initial_state(experiment, work.strategy, state)
        if entry.get("ending") is None:
            state, reason = loop.fit(work, state, journal)
            # Who is killed while the last state is saved has ended all the same, and shall not train on.
            entry["ending"] = {"reason": reason, "step": updates(state), "metrics": journal.scalars}
            write(status="ending")
        else:
            reason, journal.scalars = entry["ending"]["reason"], dict(entry["ending"]["metrics"])
        loop.finish(work, state, journal, is_over=reason not in signals.NAMES)
        status = "stopped" if reason else "done"
    return state, journal.scalars, reason


def _summary(journal: loop.Journal, status: str, began: float) -> Summary:
    return Summary(journal.step, journal.scalars, status, time.perf_counter() - began)


def _initial_state(experiment: Experiment, strategy: Strategy, saved: TrainState | None) -> TrainState:
    # Making constants is a transfer: it is the loop that debug=transfers watches.
    with jax.transfer_guard("allow"):
        if saved is not None:
            return strategy.init(lambda state: state, saved)
        return strategy.init(experiment.init, np.uint32(experiment.settings.seed))


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
    """The same for one of several processes: the first runs the callbacks, and all stop at one step."""
    watchers = [watcher._replace(callback=agreement.ByFirst(watcher.callback)) for watcher in work.watchers]
    return work._replace(
        strategy=Watched(work.strategy, watchdog), watchers=watchers, stopping=watchdog.stopping, given_up=bool
    )


def _result(experiment: Experiment, directory: Path, metrics: Mapping[str, float], state: TrainState) -> Result:
    config = experiment.config
    params, model_state = agreement.addressable((trained_params(state), state.model_state))
    if experiment.members is not None:
        config = members.recorded(config, members.rows(experiment.members)[0])
        params, model_state = jax.tree.map(lambda leaf: leaf[0], (params, model_state))
    model = trained_model(experiment.model, params, model_state, config, data_facts(experiment))
    return Result(metrics, state, model, directory)
