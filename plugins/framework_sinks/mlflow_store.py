"""MLflow as a sink."""

from __future__ import annotations

import importlib.util
import os
import re
import time
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path

from framework.api import Callback, Medium, Run
from framework.errors import ConfigError
from framework_sinks.sink import Sink, flat, title

TAG = "framework.run"
"""Name of the tag that holds the id of a run."""

SECONDS = 1.0
"""Time between two transfers: each takes the loop some ten milliseconds."""

MOST = 500
"""Scalars of one transfer; MLflow takes 1,000."""

ENDS = {"done": "FINISHED", "stopped": "KILLED", "failed": "FAILED"}


def mlflow(uri: str | None = None, experiment: str | None = None) -> Callback:
    """Send scalars, media and the config to MLflow; needs `pip install framework[mlflow]`.

    A resumed run goes on with the same run there, and sends no point twice.

    Args:
      uri: of the tracking server or database; null takes the environment variable MLFLOW_TRACKING_URI, or the database
        `mlflow.db` in the current folder, which `mlflow ui` shows.
      experiment: that the run is in; null takes the name of ours.

    Raises: ConfigError if the package is not installed.
    """
    if importlib.util.find_spec("mlflow") is None:
        raise ConfigError("mlflow is not installed; pip install framework[mlflow].")
    return MLflow(uri or os.environ.get("MLFLOW_TRACKING_URI"), experiment)


class MLflow(Sink):
    """One run there, found by the id of the run."""

    name = "mlflow"

    def __init__(self, uri: str | None, experiment: str | None) -> None:
        self._uri, self._experiment = uri, experiment

    def open(self, run: Run) -> None:
        """Find the run by its id, or begin one."""
        uri = self._uri or f"sqlite:///{Path('mlflow.db').absolute()}"
        self._media, self._waiting, self._flushed = run.directory / "media", [], time.monotonic()
        try:
            self._client = import_module("mlflow.tracking").MlflowClient(tracking_uri=uri)
            experiment = self._experiment_id(self._experiment or run.name, uri)
            found = self._client.search_runs([experiment], f"tags.`{TAG}` = '{run.id}'", max_results=1)
            if found:
                self._id = found[0].info.run_id
                self._client.set_terminated(self._id, "RUNNING")
            else:
                self._id = self._begin(experiment, run)
        except Exception as error:  # a server, a database and a network have errors of their own
            text = f"mlflow cannot start at {uri} ({error}); see callbacks.mlflow.uri."
            raise ConfigError(" ".join(text.split())) from error
        tags = {tag for record in run.history.records() for tag in record if tag != "step"} if found else ()
        histories = ((tag, self._client.get_metric_history(self._id, _name(tag))) for tag in tags)
        self._has = {(tag, point.step) for tag, history in histories for point in history}

    def send(self, step: int, scalars: Mapping[str, float]) -> None:
        """Take scalars, and send what waits if that was not done within the last second."""
        metric = import_module("mlflow.entities").Metric
        now = int(time.time() * 1000)
        fresh = {tag: value for tag, value in scalars.items() if (tag, step) not in self._has}
        self._has |= {(tag, step) for tag in fresh}
        self._waiting += [metric(_name(tag), float(value), now, step) for tag, value in fresh.items()]
        if time.monotonic() - self._flushed >= SECONDS or len(self._waiting) >= MOST:
            self._flush()

    def show(self, step: int, tag: str, medium: Medium) -> None:
        """Send the files of a medium, which lie in the run folder."""
        for path in sorted((self._media / tag).glob(f"{step:08d}.*")):
            self._client.log_artifact(self._id, str(path), f"media/{tag}")

    def close(self, status: str) -> None:
        """Send what waits, and say how the run ended."""
        self._flush()
        self._client.set_terminated(self._id, ENDS.get(status, "FAILED"))

    def _experiment_id(self, name: str, uri: str) -> str:
        found = self._client.get_experiment_by_name(name)
        if found is not None:
            return found.experiment_id
        # Files of a database's runs lie beside it, wherever `mlflow ui` is started.
        place = (
            str(Path(uri.removeprefix("sqlite:///")).parent / "mlartifacts") if uri.startswith("sqlite:///") else None
        )
        return self._client.create_experiment(name, artifact_location=place)

    def _begin(self, experiment: str, run: Run) -> str:
        param = import_module("mlflow.entities").Param
        tags = {TAG: run.id, "framework.folder": str(run.directory)}
        begun = self._client.create_run(experiment, tags=tags, run_name=title(run))
        params = [param(_name(key), str(value)[:500]) for key, value in flat(run.config).items()]
        for first in range(0, len(params), 100):  # it takes so many at once
            self._client.log_batch(begun.info.run_id, params=params[first : first + 100])
        return begun.info.run_id

    def _flush(self) -> None:
        for first in range(0, len(self._waiting), MOST):
            self._client.log_batch(self._id, metrics=self._waiting[first : first + MOST])
        self._waiting, self._flushed = [], time.monotonic()


def _name(tag: str) -> str:
    """Return a tag with the signs that MLflow takes."""
    return re.sub(r"[^\w\-. /]", "_", tag)
