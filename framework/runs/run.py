"""One run, from a composed config to a result."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

import jax

from framework.api import TrainState
from framework.checkpoints.folder import steps
from framework.config import secrets
from framework.config.compose import Config
from framework.config.overrides import chosen
from framework.config.resolve import Settings
from framework.contracts.components import updates
from framework.distributed import coordination, processes
from framework.ensembles import members
from framework.errors import FrameworkError, InterruptError, PluginError, StorageError, exit_code_of, is_users, told
from framework.experiment import Experiment, build
from framework.media.charts import curves_svg, table_html
from framework.records import folder, logs, starts
from framework.records.history import MetricsFile
from framework.records.provenance import Asked
from framework.records.record import RunRecord, data_facts, loss_warnings, new_record, read_record, write_config
from framework.registry.entry_points import discover
from framework.runs import process, signals
from framework.runs import resume as resuming
from framework.runs.closing import ROWS, rows_of, summarise, survey
from framework.runs.compilation_cache import persistent_cache
from framework.runs.lifecycle import Fitted, train
from framework.tasks.ema import view_of
from framework.tasks.starting import Start
from framework.trained.init_from import start_of
from framework.trained.inputs import Expected
from framework.trained.model_function import Trained
from framework.trained.prepared import as_trained, warn_of_others
from framework.training.callbacks import ended_members, notify
from framework.training.stepper import is_to_go_on


@dataclass(frozen=True, eq=False, repr=False)
class Result:
    """The end of a run.

    Attributes:
      metrics: the last value of every tag.
      state: the last one.
      model: the trained model; of several members, the first.
      directory: the run folder.
      name: of the experiment.
      status: "done", or "stopped" if a callback ended the run.
      directions: for each tag, whether high values are good; None where the metric does not say.
    """

    metrics: Mapping[str, float]
    state: TrainState
    model: Trained
    directory: Path
    name: str
    status: str
    directions: Mapping[str, bool | None] = field(default_factory=dict)

    def __repr__(self) -> str:
        shown = [f"{tag} {value:.4g}" for tag, value in self.metrics.items() if tag.startswith(("eval/", "test/"))]
        ended = f"{self.name}: {self.status} at step {updates(self.state)}"
        return f"Result({', '.join([ended, *shown[:4]])}, {self.directory})"

    def _repr_html_(self) -> str:
        """Return what a notebook shows: last and best metrics, the curves of the loss, and the folder."""
        history = MetricsFile(self.directory, read_record(self.directory).id)
        best, _ = survey(history.records(), self.directions)
        curves = {tag: history.series(tag) for tag in ("train/loss", "eval/loss")}
        ended = f"{self.name}: {self.status} at step {updates(self.state)}"
        table = table_html(rows_of(self.metrics, best)[: ROWS + 1])
        return f"<b>{escape(ended)}</b>{table}{curves_svg(curves)}<code>{escape(str(self.directory))}</code>"


Watch = Callable[[Experiment], Experiment]
"""Puts itself between an experiment's parts and the loop, to see what passes."""


def run(config: Config, watch: Watch = lambda experiment: experiment, built: Experiment | None = None) -> Result:
    """Build, train, evaluate and record one experiment; with `run.resume=auto`, go on with the one in `run.dir`.

    Args:
      config: as `compose` and `recorded` return it.
      watch: is given the experiment that was built, and returns the one that is run.
      built: that experiment, if it is built already, for a run that begins with parameters of its own.

    Raises: FrameworkError, in one line, with the exit code of its kind.
    """
    settings = config.settings
    with config.locating(), _joined(settings), logs.console():
        code = Asked(config.secrets)
        if coordination.agree(lambda: folder.is_to_resume(settings.run)):
            return _resumed(Path(settings.run.dir or ""), config, False, watch, code)
        coordination.agree(lambda: folder.check_place(settings.run))
        experiment = _built(config, watch, start_of(settings.init_from), built)
        _tell_start(experiment)
        notify(experiment.callbacks, "on_built", experiment.directions)
        directory = folder.make_directory(settings.run, config.name)
        with folder.locked(directory, unused=True), logs.run_log(directory, config.secrets):
            write_config(directory, experiment.source)
            record = new_record(experiment, directory, config.name, config.secrets)
            record.overrides = chosen(secrets.masked_words(config.origins.words, config.secrets))
            result = _trained(experiment, record, None, code)
        if settings.debug.fast and is_to_go_on(record.reason):
            result = _resumed(directory, config, False, watch, code)
            logs.LOGGER.info("debug=fast: training, evaluation, checkpoint, resume and all that is shown went well")
        return result


def resume(directory: Path, config: Config, force: bool) -> Result:
    """Go on with a run from its newest sound checkpoint, in its own folder, as if it had never stopped.

    Args:
      directory: the run folder.
      config: the recorded config, perhaps with overrides.
      force: allow overrides that change what the run computes.

    Raises: ConfigError naming such overrides otherwise; StorageError if the folder is in use, and as `run`.
    """
    with config.locating(), _joined(config.settings), logs.console():
        return _resumed(directory, config, force, lambda experiment: experiment, Asked(config.secrets))


@contextmanager
def _joined(settings: Settings) -> Iterator[None]:
    """Take this process for one run, and join the others of the run."""
    # JAX's own limit is the longer one: it ends a process with pages of text.
    patience = max(100, 2 * settings.run.watchdog + 60)
    with process.alone(), processes.joined(settings.distributed, patience):
        process.check_jax()
        yield


def _built(config: Config, watch: Watch, start: Start | None = None, built: Experiment | None = None) -> Experiment:
    """Build the experiment, then mask the secrets in its config, so that it can be written down."""
    if (config.values.get("callbacks") or {}).get("metrics_log") is not None:
        logs.LOGGER.warning("callbacks.metrics_log is ignored: every run writes metrics.jsonl, without a callback.")
        config = config.with_values({"callbacks.metrics_log": None})
    facts = {} if start is None else start.data
    experiment = watch(built or build(as_trained(config, facts), discover(), start))
    warn_of_others(experiment, facts)
    masked, source = (secrets.masked(each, config.secrets) for each in (experiment.config, experiment.source))
    return experiment._replace(config=masked, source=source)


def _tell_start(experiment: Experiment) -> None:
    """Log what the models begin with, and how many parameters are frozen."""
    if (facts := experiment.start) is not None:
        source = facts.get("file") or f"{facts['run']}@{facts['step']}"
        listed = ", ".join(f"{facts[word]} {word}" for word in ("loaded", "renamed", "anew", "unused"))
        logs.LOGGER.info(f"begins with {source}: {listed}")
    if count := sum("frozen" in parameter.origin for parameter in experiment.parameters):
        logs.LOGGER.info(f"frozen: {count} of {len(experiment.parameters)} parameters")


def _resumed(directory: Path, config: Config, force: bool, watch: Watch, code: Asked) -> Result:
    with folder.locked(directory), logs.run_log(directory, config.secrets):
        former = read_record(directory)
        if config.settings.init_from is not None:
            config = as_trained(config, former.facts)
        # A state that was saved has what the run began with; only where there is none, that is read again.
        is_fresh = not steps(directory / "checkpoints")
        experiment = _built(config, watch, start_of(config.settings.init_from) if is_fresh else None)
        resuming.check_overrides(former, experiment, force)
        resuming.check_numerics(former, force)
        resuming.warn_of_versions(former)
        state = resuming.newest_state(directory, experiment.places, former.id)
        if state is None and config.settings.init_from is not None and not is_fresh:
            experiment = _built(config, watch, start_of(config.settings.init_from))
        step, total = 0 if state is None else updates(state), experiment.total_steps
        if state is not None and resuming.is_finished(former, step, total):
            logs.LOGGER.info(f"{directory} is done: it has {step} of {total} steps.")
            if unused := resuming.without_effect(former, experiment):
                text = f"nothing is left to do, so that this has no effect: {unused}; train on with more train.steps."
                logs.LOGGER.warning(text)
            return _result(experiment, former, state)
        logs.LOGGER.info(f"resuming {directory} at step {step} of {total}")
        resuming.check_rates(former, experiment, step, force)
        experiment = resuming.keeping_debug(former, experiment)
        record = new_record(experiment, directory, former.name, config.secrets)
        coordination.agree(lambda: resuming.check_data(former, record, force))
        write_config(directory, experiment.source)
        record.id, record.started, record.resumed = former.id or record.id, former.started, [*former.resumed, step]
        record.overrides, record.packages = former.overrides, former.packages or record.packages
        record.start = former.start
        record.starts = starts.former(former.starts, directory)
        record.ending, record.first_loss = resuming.pending_end(former, step, total), former.first_loss
        return _trained(experiment, record, state, code)


def _trained(experiment: Experiment, record: RunRecord, state: TrainState | None, code: Asked) -> Result:
    """Train from a state, or from the start, and write the end into run.json, also that of a run that failed."""
    began, step = time.perf_counter(), 0 if state is None else updates(state)
    logs.note(f"run {record.id} at step {step} of {experiment.total_steps}")
    record.starts.append(starts.begun(code.answer(), record.directory, step, record.packages))
    record.write()
    try:
        with persistent_cache(experiment.settings.run):
            state, record.metrics, reason = _fitted(experiment, record, state)
        record.step = updates(state)
        if experiment.members is not None:
            record.members = members.outcome(
                experiment.members, state, record.metrics, ended_members(experiment.callbacks)
            )
        record.status, record.exit_code, record.reason = "stopped" if reason else "done", 0, reason
        record.warnings = loss_warnings(record) or None
        if reason in signals.NAMES:
            text = f"stopped at step {record.step} by {reason}; `{folder.way_on(record.directory)}` goes on from there."
            raise InterruptError(text, signals.exit_code(signals.NAMES[reason]))
    except BaseException as error:
        record.status = "stopped" if isinstance(error, InterruptError) else "failed"
        record.exit_code = exit_code_of(error)
        record.reason = str(error) if isinstance(error, FrameworkError) else told(error)
        raise
    finally:
        record.seconds = round(time.perf_counter() - began, 3)
        record.starts[-1] = starts.ended(record.starts[-1], record.status, record.seconds)
        record.total_seconds = starts.total_seconds(record.starts)
        _conclude(record)
    summarise(record, experiment)
    return _result(experiment, record, state)


def _fitted(experiment: Experiment, record: RunRecord, state: TrainState | None) -> Fitted:
    """Train; a request to exit that no plugin was named for, such as a strategy's, is an error too."""
    try:
        return train(experiment, record, state)
    except (SystemExit, KeyboardInterrupt) as error:
        if is_users(error):
            raise
        text = f"a plugin ended the run with {told(error)}; expected `StopTraining` of a callback."
        raise PluginError(text) from error


def _conclude(record: RunRecord) -> None:
    """Write the final record. If that fails after another error, the other one is raised and this one is a warning."""
    try:
        record.write()
    except StorageError as error:
        if record.exit_code == 0:
            raise
        logs.LOGGER.warning(str(error))


def _result(experiment: Experiment, record: RunRecord, state: TrainState) -> Result:
    config: Mapping[str, Any] = experiment.config
    view = coordination.addressable(view_of(state))
    if experiment.members is not None:
        config = members.recorded(config, members.rows(experiment.members, state)[0])
        view = members.part_of(view, 0)
    inputs = jax.tree.map(lambda leaf: Expected((-1, *leaf.shape[1:]), str(leaf.dtype)), experiment.inputs)
    facts, directory = data_facts(experiment), record.directory
    parts = view.params, view.model_state, view.task_state
    model = Trained(experiment.task, *parts, config, facts, inputs, directory, updates(state))
    return Result(record.metrics or {}, state, model, directory, record.name, record.status)
