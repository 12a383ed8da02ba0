"""The record of a run, `run.json`: what ran, on what, and how it ended."""

from __future__ import annotations

import json
import math
import secrets
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints

import jax
from omegaconf import OmegaConf

from framework.api import Run, TrainState, Undefined
from framework.checkpoints import snapshot
from framework.config.safe_load import load_json
from framework.config.secrets import masked
from framework.contracts.components import updates
from framework.distributed import coordination, processes
from framework.ensembles import members
from framework.errors import PluginError, StorageError, blaming, writing
from framework.experiment import Experiment
from framework.numerics import numeric_settings
from framework.records.history import MetricsFile
from framework.records.neighbours import refusal
from framework.records.provenance import packages, source_digest
from framework.registry.sections import DEFAULT, rates_of
from framework.training.graph import graph
from framework.training.inspection import features, first_examples, prediction

PACKAGES = ("framework", "jax", "jaxlib", "optax", "numpy", "hydra-core", "tensorboard")
"""Packages whose versions change numbers or files of a run."""

PROVENANCE = ("kind", "name", "distribution", "version", "target")
"""Fields of a plugin that are recorded."""


@dataclass
class RunRecord:
    """The content of `run.json`: written as a whole, and checked by type when it is read back.

    Attributes:
      config: resolved, without secrets.
      directory: of the run. Not written, nor is `hidden`: the secrets that no file of the run may hold.
      overrides: what was chosen on the command line when the run began, by key, without secrets.
      id: that the checkpoints of the run carry, so that those of another run are never taken for its own.
      facts: of the data, as a model needs them to be used, such as an alphabet.
      splits: a fingerprint of each split of the data, by name.
      inputs: shapes of what the trained model takes, with -1 for the batch.
      input_dtypes: names of their dtypes; an older record has none.
      batch: [dtype, shape] of each leaf of a batch, from which the state is made; an older record has none.
      members: values, and at the end outcomes, of each member that the run trains side by side.
      directions: by tag, whether high values are good (true) or low ones (false); other tags are left out.
      start: what the models began with, where that is an earlier training, and how many arrays are which.
      plugins: distribution, version, target and digest of the sources of each component, by config key.
      versions: of the packages that change numbers, as the run began with them.
      packages: versions of all installed distributions, as the run began with them.
      numerics: settings of JAX and XLA that change bits, as the run began with them, or went on by force.
      starts: one entry for each process that worked on the run, as `start` makes it; the last one is of this process.
      resumed: steps where the run went on.
      status: "running", "ending" once a callback has ended the training, "done", "stopped", "failed", or
        "interrupted" by a second signal, at once.
      first_loss: step and training loss of the run's first step, if that was finite.
      warnings: of the closing summary.
      ending: reason and step of a training that a callback ended, until all that follows is done.
      seconds: of the last process, from when its experiment was built.
      total_seconds: of all processes; of one that was killed, up to its last record.
      times: seconds of the last process's loop, by what they were spent on.
      compiles: of the last process's "programs" the number, the "seconds", and the traces of the "train_step".
    """

    config: dict[str, Any]
    directory: Path = Path()
    hidden: frozenset[str] = frozenset()
    name: str = ""
    overrides: dict[str, Any] = field(default_factory=dict)
    id: str = ""
    seed: int = 0
    started: str = ""
    data: str = ""
    facts: dict[str, Any] = field(default_factory=dict)
    splits: dict[str, Any] = field(default_factory=dict)
    total_steps: int = 0
    inputs: object = None
    input_dtypes: object = None
    batch: object = None
    members: list[Any] | None = None
    start: dict[str, Any] | None = None
    directions: dict[str, Any] = field(default_factory=dict)
    plugins: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, Any] = field(default_factory=dict)
    numerics: dict[str, Any] = field(default_factory=dict)
    packages: dict[str, Any] = field(default_factory=dict)
    starts: list[Any] = field(default_factory=list)
    resumed: list[Any] = field(default_factory=list)
    status: str = "running"
    exit_code: int | None = None
    reason: str | None = None
    step: int | None = None
    metrics: dict[str, Any] | None = None
    first_loss: list[Any] | None = None
    warnings: list[Any] | None = None
    ending: dict[str, Any] | None = None
    seconds: float | None = None
    total_seconds: float | None = None
    times: dict[str, Any] | None = None
    compiles: dict[str, Any] | None = None

    def write(self) -> None:
        """Replace `run.json`.

        Raises: StorageError if it cannot be written.
        """
        known = {name: value for name, value in vars(self).items() if value is not None and name not in UNREAD}
        content = masked(known, self.hidden)
        replace_file(self.directory / "run.json", json.dumps(content, indent=2) + "\n")


UNREAD = ("directory", "hidden")
"""Fields of a record that are no items of `run.json`."""


def read_record(directory: Path) -> RunRecord:
    """Read the record of a run folder.

    Raises: StorageError if there is none, or a field is of another type.
    """
    try:
        found = load_json(directory / "run.json")
        if not isinstance(found, dict) or "config" not in found:
            raise ValueError("it is not complete")
        if isinstance(found["config"], dict):  # older runs recorded no task
            found["config"] = {"task": {"name": DEFAULT}, **found["config"]}
        types = {name: kind for name, kind in get_type_hints(RunRecord).items() if name in found and name not in UNREAD}
        for name, kind in types.items():
            if not _is_a(found[name], kind):
                raise ValueError(f"its '{name}' is {str(found[name])[:40]!r}")
    except (FileNotFoundError, NotADirectoryError):
        raise refusal(directory) from None
    except (OSError, ValueError) as error:
        raise StorageError(f"{directory} is not a run folder: its run.json cannot be read ({error}).") from error
    return RunRecord(directory=directory, **{name: found[name] for name in types})


def _is_a(value: object, kind: Any) -> bool:
    """Return whether a value has a type, a generic one without its arguments, or one of a union."""
    kinds = get_args(kind) if isinstance(kind, UnionType) else (kind,)
    return isinstance(value, tuple(get_origin(each) or each for each in kinds))


def new_record(experiment: Experiment, directory: Path, name: str, hidden: frozenset[str]) -> RunRecord:
    """Return the record of a run that begins."""
    spec = experiment.inputs
    return RunRecord(
        config=experiment.config,
        directory=directory,
        hidden=hidden,
        name=name,
        id=coordination.agree(lambda: secrets.token_hex(8)),
        seed=experiment.settings.seed,
        started=time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        data=experiment.data.source,
        facts=data_facts(experiment),
        splits=fingerprint(experiment),
        total_steps=experiment.total_steps,
        inputs=jax.tree.map(lambda leaf: [-1, *leaf.shape[1:]], spec),
        input_dtypes=jax.tree.map(lambda leaf: str(leaf.dtype), spec),
        batch=jax.tree.map(lambda leaf: [str(leaf.dtype), list(leaf.shape)], dict(experiment.data.spec)),
        start=None if experiment.start is None else dict(experiment.start),
        members=None if experiment.members is None else members.rows(experiment.members),
        directions={tag: is_high for tag, is_high in experiment.directions.items() if is_high is not None},
        plugins={
            key: {name: getattr(plugin, name) for name in PROVENANCE} | {"sources": source_digest(plugin.target)}
            for key, plugin in experiment.plugins.items()
        },
        versions={name: version(name) for name in PACKAGES},
        numerics=numeric_settings(),
        packages=packages(),
    )


def data_facts(experiment: Experiment) -> dict[str, Any]:
    """Return facts of the data that a model needs to be used, such as an alphabet, as JSON holds them.

    Raises: PluginError if JSON cannot.
    """
    try:
        return json.loads(json.dumps(dict(experiment.data.facts), allow_nan=False))
    except (TypeError, ValueError) as error:
        owner = experiment.plugins["data"].title
        raise PluginError(
            f"{owner} has facts that JSON cannot hold: {error}; take plain values.", key="data"
        ) from error


def fingerprint(experiment: Experiment) -> dict[str, Any]:
    """Return the fingerprint of each split of the data, as JSON holds it.

    Raises: PluginError if the pipeline's own fails; ConfigError if processes have other data.
    """
    with blaming(f"{experiment.plugins['data'].title}: its fingerprint() failed", "data"):
        found = experiment.data.fingerprint()
        splits = json.loads(json.dumps({split: dict(described) for split, described in found.items()}))
    coordination.check_alike({f"split '{split}'": described.get("digest") for split, described in splits.items()})
    return splits


def run_facts(experiment: Experiment, record: RunRecord, history: MetricsFile, state: TrainState | None) -> Run:
    """Return the facts for callbacks of a run that begins from a state, or from the start."""
    devices = jax.devices()
    facts = {
        "data": experiment.data.source,
        "devices": f"{experiment.devices} of {len(devices)} × {devices[0].device_kind}",
        "processes": str(processes.count()),
        "strategy": str(experiment.config["strategy"]["name"]),
        "directory": str(record.directory),
    }
    return Run(
        directory=record.directory,
        name=record.name,
        id=record.id,
        config=experiment.config,
        overrides=record.overrides,
        members=tuple(row["values"] for row in record.members or ()),
        start_step=0 if state is None else updates(state),
        total_steps=experiment.total_steps,
        steps_per_epoch=experiment.data.steps_per_epoch,
        batch_size=experiment.batch_size,
        parameters=experiment.parameters,
        is_known=experiment.is_known,
        facts=masked(facts, record.hidden),
        state_bytes=snapshot.size(experiment.shapes),
        history=history,
        data_facts=experiment.data.facts,
        directions=experiment.directions,
        predict=prediction(experiment),
        features=features(experiment),
        graph=graph(experiment),
        examples=first_examples(experiment),
    )


def loss_warnings(record: RunRecord) -> list[str]:
    """Return a line if the training loss of a run ends above that of its first step, or is no number.

    Losses of opponents, as those of a gan, have no direction, and may rise. So may that of a policy that acts, since it
    is of what the policy meets. An older record has no directions at all.
    """
    last = (record.metrics or {}).get("train/loss")
    if record.first_loss is None or last is None or record.step is None or isinstance(last, Undefined):
        return []
    step, first = record.first_loss
    if record.step <= step or last <= first:
        return []
    may_rise = "environment" in record.config or (record.directions and "train/loss" not in record.directions)
    if may_rise and math.isfinite(last):
        return []
    where = "above its start" if math.isfinite(last) else "not finite"
    return [
        f"the run ends with train/loss {last:.6g} at step {record.step}, {where}: it was {first:.6g} at step {step}; "
        f"try a lower {rates_of(record.config)}."
    ]


def write_config(directory: Path, config: Mapping[str, Any]) -> None:
    """Write `config.yaml`, with interpolations; `python -m framework train RUN` resolves and runs it again."""
    text = "# as written: `framework train` and `resume` resolve it again; run.json holds the values\n"
    replace_file(directory / "config.yaml", text + OmegaConf.to_yaml(OmegaConf.create(dict(config))))


_REPLACING = threading.Lock()  # a thread writes of a signal, while the loop's own may write as well


def replace_file(path: Path, text: str) -> None:
    """Replace a file in one step, so that no reader finds half of it; only process 0 does.

    Raises: StorageError if it cannot be written.
    """
    if processes.index() > 0:
        return
    partial = path.with_name(f".{path.name}.partial")
    with _REPLACING, writing(path):
        partial.write_text(text)
        partial.replace(path)
