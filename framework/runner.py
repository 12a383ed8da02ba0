"""One run, from a composed config to a result; and a finished run, back as a function."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from omegaconf import DictConfig

from framework import loop, record, store
from framework.api import Model, PyTree, Run, Summary, TrainState
from framework.build import Builder
from framework.compilation import persistent_cache
from framework.compose import Experiment, build
from framework.debug import switches
from framework.errors import FrameworkError, NumericalError, StorageError
from framework.keys import root_key
from framework.registry import discover
from framework.steps import predictor


class Trained(NamedTuple):
    """A trained model; calling it maps inputs [B, ...] to outputs."""

    model: Model
    params: PyTree
    model_state: PyTree
    config: Mapping[str, Any]
    predict: Callable[[PyTree], PyTree]

    def __call__(self, inputs: PyTree) -> PyTree:
        """Apply the model in evaluation mode; compiled once for each shape of inputs."""
        return self.predict(inputs)


class Result(NamedTuple):
    """What a run leaves behind."""

    metrics: Mapping[str, float]  # the last value of every tag
    state: TrainState
    model: Trained
    directory: Path


def run(config: DictConfig, name: str) -> Result:
    """Build, train, evaluate and record one experiment.

    Args:
      config: as composed by Hydra, without its own section.
      name: of the experiment, where `run.name` gives none.

    Raises: FrameworkError, in one line, with the exit code of its kind.
    """
    with record.console():
        experiment = build(config, discover())
        name = experiment.settings.run.name or name
        directory = record.make_directory(experiment.settings.run, name)
        with record.run_log(directory), persistent_cache(experiment.settings.run.compilation_cache):
            return _recorded(experiment, directory, name)


def load(path: str | Path, step: int | None = None) -> Trained:
    """Read a trained model back from its run folder; the data it was trained on are not needed.

    Args:
      path: the run folder.
      step: which checkpoint; null takes the newest.

    Raises: StorageError if the folder holds no run or no such checkpoint; ConfigError or PluginError if the model's
      plugin is missing or has other options.
    """
    directory = Path(path)
    try:
        described = json.loads((directory / "run.json").read_text())
        inputs, config = described["inputs"], described["config"]
    except (OSError, ValueError, KeyError) as error:
        raise StorageError(f"{directory} is not a run folder: its run.json cannot be read ({error}).") from error
    saved = store.steps(directory / "checkpoints")
    if not saved or (step is not None and step not in saved):
        raise StorageError(
            f"{directory} holds no checkpoint{'' if step is None else f' of step {step}'}; found {saved}."
        )
    model: Model = Builder(discover()).named("models", config["model"], "model")
    in_shape = jax.tree.map(tuple, inputs, is_leaf=lambda node: isinstance(node, list))
    _, params, model_state = jax.eval_shape(lambda key: model.init(key, in_shape)[0:3], root_key(0))
    like = {"params": params, "model_state": model_state}
    restored = store.restore(directory / "checkpoints" / str(saved[-1] if step is None else step), like)
    return _trained(model, restored["params"], restored["model_state"], config)


def _recorded(experiment: Experiment, directory: Path, name: str) -> Result:
    """Run, and write into run.json how it ended, whatever happens."""
    record.write_config(directory, experiment.config)
    entry = _entry(experiment, name)
    record.write_record(directory, {**entry, "status": "running"})
    began = time.perf_counter()
    outcome: dict[str, Any] = {"status": "failed", "exit_code": 1}
    try:
        state, metrics, reason = _train(experiment, _run_facts(experiment, directory, name))
        outcome = {"status": "stopped" if reason else "done", "exit_code": 0, "reason": reason, "metrics": metrics}
    except FrameworkError as error:
        outcome |= {"exit_code": error.exit_code, "reason": str(error)}
        raise
    except KeyboardInterrupt:
        outcome |= {"status": "stopped", "exit_code": 130, "reason": "interrupted"}
        raise
    except Exception as error:
        outcome |= {"reason": f"{type(error).__name__}: {error}"}
        record.LOGGER.debug("the run failed", exc_info=True)
        raise
    finally:
        record.write_record(directory, {**entry, **outcome, "seconds": round(time.perf_counter() - began, 3)})
    _summarise(metrics, directory, reason)
    return Result(
        metrics, state, _trained(experiment.model, state.params, state.model_state, experiment.config), directory
    )


def _train(experiment: Experiment, run: Run) -> tuple[TrainState, dict[str, float], str]:
    """Initialise, fit, and tell every callback that was started how it ended, also when it failed."""
    began, journal, status = time.perf_counter(), loop.Journal(run.start_step), "failed"
    work = _work(experiment)
    with switches(experiment.settings.debug), _numerical_errors(), ExitStack() as started:
        for watcher in work.watchers:
            loop.notify([watcher], "on_start", run)
            # Callbacks end in the reverse order; each does, even if another one fails in doing so.
            started.callback(lambda watcher=watcher: loop.notify([watcher], "on_end", _summary(journal, status, began)))
        state, reason = loop.fit(work, _initial_state(experiment), journal)
        loop.finish(work, state, journal)
        status = "stopped" if reason else "done"
    return state, journal.scalars, reason


def _summary(journal: loop.Journal, status: str, began: float) -> Summary:
    return Summary(journal.step, journal.scalars, status, time.perf_counter() - began)


def _initial_state(experiment: Experiment) -> TrainState:
    # Making constants is a transfer: it is the loop that debug=transfers watches.
    with jax.transfer_guard("allow"):
        key = root_key(experiment.settings.seed)
        return experiment.strategy.init(lambda key: experiment.task.init(key, experiment.data.spec), key)


def _work(experiment: Experiment) -> loop.Work:
    settings = experiment.settings
    train = settings.train
    if train.steps_per_call == "auto" and (settings.debug.nans or settings.debug.infs or settings.debug.eager):
        train = train._replace(steps_per_call=1)  # a compiled loop would hide which operation it was
    return loop.Work(
        experiment.task,
        experiment.strategy,
        experiment.data,
        experiment.watchers,
        train,
        experiment.total_steps,
        experiment.batch_size,
        settings.seed,
        settings.nan_policy,
    )


def _run_facts(experiment: Experiment, directory: Path, name: str) -> Run:
    devices = jax.local_devices()
    return Run(
        directory=directory,
        name=name,
        config=experiment.config,
        start_step=0,
        total_steps=experiment.total_steps,
        steps_per_epoch=experiment.data.steps_per_epoch,
        batch_size=experiment.batch_size,
        parameters=experiment.parameters,
        facts={
            "data": experiment.data.source,
            "devices": f"{experiment.strategy.devices} of {len(devices)} × {devices[0].device_kind}",
            "strategy": str(experiment.config["strategy"]["name"]),
            "directory": str(directory),
        },
    )


def _entry(experiment: Experiment, name: str) -> dict[str, Any]:
    shapes = jax.tree.map(lambda leaf: [-1, *leaf.shape[1:]], experiment.data.spec["inputs"])
    return {
        "name": name,
        "seed": experiment.settings.seed,
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "data": experiment.data.source,
        "total_steps": experiment.total_steps,
        "inputs": shapes,
        "config": experiment.config,
        "plugins": record.provenance(experiment.plugins),
        **record.environment(),
    }


def _trained(model: Model, params: PyTree, model_state: PyTree, config: Mapping[str, Any]) -> Trained:
    return Trained(model, params, model_state, config, predictor(model, params, model_state))


def _summarise(metrics: Mapping[str, float], directory: Path, reason: str) -> None:
    shown = {tag: value for tag, value in metrics.items() if not tag.startswith("perf/")}
    width = max(map(len, shown), default=0)
    lines = [f"  {tag:<{width}}  {value:.6g}" for tag, value in shown.items() if np.isscalar(value)]
    ended = f"stopped early: {reason}" if reason else "done"
    record.LOGGER.info(
        "\n".join([ended, *lines, f"run folder: {directory}", f"curves:     tensorboard --logdir {directory}"])
    )


@contextmanager
def _numerical_errors() -> Iterator[None]:
    """What `debug=nans` and `debug=infs` raise, as an error of ours with its exit code."""
    try:
        yield
    except FloatingPointError as error:
        raise NumericalError(str(error)) from error
