"""One run, from a composed config to a result; and a finished run, back as a function."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple

from omegaconf import DictConfig

from framework.api import Run, TrainState
from framework.config import secrets
from framework.config.resolve import Settings, extended, plain, settings_of
from framework.config.settings import RunSettings
from framework.contracts import updates
from framework.distributed import coordination, processes
from framework.ensembles import members
from framework.errors import FrameworkError, InterruptError
from framework.experiment import Experiment, build
from framework.registry.entry_points import discover
from framework.runs import folder, logs, record, signals
from framework.runs import resume as resuming
from framework.runs.compilation_cache import persistent_cache
from framework.runs.folder import check_place
from framework.runs.lifecycle import train
from framework.runs.record import data_facts, entry_of, run_facts, summarise
from framework.runs.trained_model import Trained, trained_model
from framework.tasks.ema import trained_params


class Result(NamedTuple):
    """What a run leaves behind."""

    metrics: Mapping[str, float]  # the last value of every tag
    state: TrainState
    model: Trained  # of several members, the first
    directory: Path


Watch = Callable[[Experiment], Experiment]
"""Puts itself between an experiment's parts and the loop, to see what passes."""


def run(config: DictConfig, name: str, watch: Watch = lambda experiment: experiment) -> Result:
    """Build, train, evaluate and record one experiment; with `run.resume=auto`, go on with the one in `run.dir`.

    Args:
      config: as composed by Hydra, without its own section.
      name: of the experiment, where `run.name` gives none.
      watch: is given the experiment that was built, and returns the one that is run.

    Raises: FrameworkError, in one line, with the exit code of its kind.
    """
    read = plain(extended(config))
    settings, hidden = settings_of(read), secrets.secrets_of(read)
    secrets.check_names(settings.run._asdict(), hidden)
    with _joined(settings), logs.console():
        if (recorded := coordination.agree(lambda: _found(settings.run))) is not None:
            return _resumed(resuming.Recorded(Path(recorded["directory"]), recorded["entry"]), config, False, watch)
        coordination.agree(lambda: check_place(settings.run))
        experiment = _without(watch(build(config, discover())), hidden)
        name = experiment.settings.run.name or name
        directory = folder.make_directory(experiment.settings.run, name)
        with folder.locked(directory), logs.run_log(directory, hidden):
            folder.check_unused(directory)
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
    with _joined(settings_of(plain(extended(config)))), logs.console():
        return _resumed(recorded, config, force, lambda experiment: experiment)


def _joined(settings: Settings) -> AbstractContextManager[None]:
    # JAX's own limit is the longer one: it ends a process with pages of text.
    return processes.joined(settings.distributed, patience=max(100, 2 * settings.run.watchdog + 60))


def _found(settings: RunSettings) -> dict[str, Any] | None:
    """The run to go on with, if there is one, as process 0 sees it."""
    directory = Path(settings.dir or "")
    if settings.resume != "auto" or not settings.dir or not folder.is_begun(directory):
        return None
    return {"directory": str(directory), "entry": dict(resuming.read(directory).entry)}


def _resumed(recorded: resuming.Recorded, config: DictConfig, force: bool, watch: Watch) -> Result:
    hidden = secrets.secrets_of(plain(extended(config)))
    with folder.locked(recorded.directory), logs.run_log(recorded.directory, hidden):
        experiment = _without(watch(build(config, discover())), hidden)
        resuming.check_unchanged(recorded.entry["config"], experiment.config, force)
        resuming.warn_of_versions(recorded.entry)
        state = resuming.newest_state(recorded.directory, experiment.places)
        step = 0 if state is None else updates(state)
        if state is not None and resuming.is_finished(recorded.entry, step, experiment.total_steps):
            logs.LOGGER.info(f"{recorded.directory} is done: it has {step} of {experiment.total_steps} steps.")
            return _result(experiment, recorded.directory, recorded.entry.get("metrics", {}), state)
        logs.LOGGER.info(f"resuming {recorded.directory} at step {step} of {experiment.total_steps}")
        record.write_config(recorded.directory, experiment.config)
        entry = {**entry_of(experiment, recorded.entry["name"]), "started": recorded.entry["started"]}
        entry["resumed"] = [*recorded.entry.get("resumed", []), step]
        entry["owed"] = resuming.owed(recorded.entry, step)
        entry["ending"] = resuming.ending(recorded.entry, step, experiment.total_steps)
        return _recorded(experiment, recorded.directory, entry, state, hidden)


def _without(experiment: Experiment, hidden: frozenset[str]) -> Experiment:
    """The experiment with a config that can be written down; its components were built from the whole one."""
    return experiment._replace(config=secrets.masked(experiment.config, hidden))


def _recorded(
    experiment: Experiment, directory: Path, entry: dict[str, Any], state: TrainState | None, hidden: frozenset[str]
) -> Result:
    """Run, from a state or from the start, and write into run.json how it ended, whatever happens."""
    began = time.perf_counter()

    def write(**outcome: Any) -> None:
        record.write_record(directory, {**entry, **outcome}, hidden)

    def facts(start: TrainState | None) -> Run:
        run = run_facts(experiment, directory, entry["name"], start)
        return run._replace(facts=secrets.masked(run.facts, hidden))

    write(status="running")
    outcome: dict[str, Any] = {"status": "failed", "exit_code": 1}
    try:
        with persistent_cache(experiment.settings.run):
            state, metrics, reason = train(experiment, facts, entry, state, write)
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
        with record.concluding(outcome["exit_code"]):
            write(**outcome, seconds=round(time.perf_counter() - began, 3))
    summarise(metrics, directory, reason, outcome.get("members"))
    return _result(experiment, directory, metrics, state)


def _result(experiment: Experiment, directory: Path, metrics: Mapping[str, float], state: TrainState) -> Result:
    config = experiment.config
    params, model_state = coordination.addressable((trained_params(state), state.model_state))
    if experiment.members is not None:
        config = members.recorded(config, members.rows(experiment.members)[0])
        params, model_state = members.part_of((params, model_state), 0)
    model = trained_model(experiment.model, params, model_state, config, data_facts(experiment))
    return Result(metrics, state, model, directory)
