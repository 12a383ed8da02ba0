"""A trained model as a function of its inputs, raw or preprocessed, on all devices of the process."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from html import escape
from pathlib import Path
from typing import Any

import jax
import numpy as np

from framework.api import Array, Model, PyTree, Task, View, stream
from framework.errors import ConfigError, blaming
from framework.media.charts import curves_svg, table_html
from framework.records.history import MetricsFile
from framework.records.record import RunRecord, read_record
from framework.registry.builder import Builder
from framework.registry.entry_points import discover
from framework.steps.rng import root_key
from framework.tasks.assembly import models_of
from framework.trained import exported
from framework.trained.blocks import computed, in_blocks
from framework.trained.inputs import checked_inputs, described

BLOCK = 256
"""Examples in a block of predictions, of data whose evaluations have batches of no size of their own."""


@dataclass(frozen=True, repr=False)
class Part:
    """One of several trained models, as a function of its inputs [B, ...] in evaluation mode.

    Attributes:
      model: the pair of pure functions.
      params: its parameters.
      state: its state, such as running averages.
    """

    model: Model
    params: PyTree
    state: PyTree

    def __call__(self, inputs: PyTree) -> PyTree:
        """Apply the model; compiled once for each shape of the inputs."""
        return self._apply(inputs)

    def __repr__(self) -> str:
        return f"Part({sum(leaf.size for leaf in jax.tree.leaves(self.params)):,} parameters)"

    @cached_property
    def _apply(self) -> Callable[[PyTree], PyTree]:
        return jax.jit(lambda inputs: self.model.apply(self.params, self.state, inputs, key=None, train=False)[0])


@dataclass(frozen=True, eq=False, repr=False)
class Trained:
    """A trained model. Calling it maps inputs [B, ...] to outputs; `preprocess` makes them from raw inputs.

    Of a task with several models each is an attribute by its section's name: `trained.generator(noise)`.

    Attributes:
      task: says what a call computes, and which models there are.
      params: the parameters: of the one model, or by the names of several.
      model_state: the state of the models, such as running averages, likewise.
      task_state: what the task keeps beside, such as a teacher.
      config: of the run, resolved.
      facts: of its data, as users of the model need them, such as its preprocessor, the names of its classes, or which
        characters integers stand for.
      inputs: shape and dtype of each leaf of its inputs.
      directory: the run folder.
      step: updates that were made.
    """

    task: Task
    params: PyTree
    model_state: PyTree
    task_state: PyTree
    config: Mapping[str, Any]
    facts: Mapping[str, Any]
    inputs: PyTree
    directory: Path
    step: int

    def __call__(self, inputs: PyTree, seed: int | None = None) -> PyTree:
        """Compute what the task predicts: of a supervised model, its outputs. Compiled once for each size of the batch.

        Args:
          inputs: [B, ...].
          seed: of the random numbers, where a task draws some.

        Raises: ConfigError if inputs have another shape or dtype than in training, such as bytes for floats, or the
          task predicts nothing.
        """
        self._check_predicts()
        key = None if seed is None else stream(root_key(seed), "predict")
        return self._predict(self._view, self.checked(inputs), key)

    def predict(self, raw: Any, seed: int | None = None) -> PyTree:
        """Predict from raw inputs, such as images of bytes: preprocess them, and compute in blocks on all devices.

        The outputs are the same, bit for bit, for every number of devices.

        Args:
          raw: N examples, as `preprocess` takes them; where the data name no preprocessor, the inputs [N, ...].
          seed: of the random numbers, where a task draws some.

        Returns: NumPy arrays [N, ...].

        Raises: ConfigError as `preprocess` and a call.
        """
        parts = list(self.predicted(self._blocks(raw), seed))
        return jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)

    def predicted(self, blocks: Iterable[PyTree], seed: int | None = None) -> Iterator[PyTree]:
        """Yield the outputs of blocks of inputs in order, as NumPy arrays, while a few blocks are held in memory.

        Args:
          blocks: inputs [n, ...] of up to `block` examples each, as `preprocess` makes them.
          seed: of the random numbers, where a task draws some.

        Raises: ConfigError as a call.
        """
        self._check_predicts()
        key = None if seed is None else stream(root_key(seed), "predict")
        devices = jax.local_devices()
        views = [jax.device_put(self._view, device) for device in devices]

        def call(device: int, inputs: PyTree, number: int) -> PyTree:
            own = None if key is None else jax.random.fold_in(key, number)
            return self._predict(views[device], *jax.device_put((self.checked(inputs), own), devices[device]))

        return computed(call, len(devices), self.block, blocks)

    def _blocks(self, raw: Any) -> Iterator[PyTree]:
        """Cut raw inputs into blocks of inputs; an array is cut first, so that little is read and written at a time."""
        if not self.is_preprocessed:
            return in_blocks(self.checked(raw), self.block)
        if isinstance(raw, np.ndarray) and raw.ndim:
            return map(self.preprocess, in_blocks(raw, self.block))
        return in_blocks(self.preprocess(raw), self.block)

    @property
    def block(self) -> int:
        """Number of examples that a device computes at once: those of a batch of the run's evaluations."""
        size = self.config.get("data", {}).get("eval_batch_size")
        return size if isinstance(size, int) and size > 0 else BLOCK

    @property
    def is_preprocessed(self) -> bool:
        """Tell whether the data name a preprocessor, and the task takes what the data give: no noise in its place."""
        return self.task.inputs is None and isinstance(self.facts.get("preprocess"), Mapping)

    @property
    def model(self) -> Model:
        """The pair of pure functions of the section `model`."""
        return self.task.models["model"]

    def __getattr__(self, name: str) -> Part:
        models = self.__dict__["task"].models if "task" in self.__dict__ else {}
        if name.startswith("_") or name not in models:
            raise AttributeError(f"there is no '{name}'; its models are {', '.join(models)}.")
        params, states = (models_of(parts, models)[name] for parts in (self.params, self.model_state))
        return Part(models[name], params, states)

    def preprocess(self, raw: Any) -> PyTree:
        """Turn raw inputs, such as images of bytes, texts or rows of a table, into inputs, just as training did.

        `framework plugins preprocessors NAME` says what `facts["preprocess"]["name"]` takes.

        Raises: ConfigError if the run names no preprocessor, or raw inputs are not what it takes; PluginError if it is
          not installed, or fails.
        """
        if not self.is_preprocessed:
            source = self.config.get("data", {}).get("name")
            raise ConfigError(
                f"the data '{source}' name no preprocessor; give the model {described(self.inputs)} itself."
            )
        title, preprocess = self._preprocessor
        with blaming(f"{title} failed on raw inputs"):
            inputs = preprocess(raw)
        return self.checked(inputs)

    @cached_property
    def _predict(self) -> Callable[[View, PyTree, Array | None], PyTree]:
        assert self.task.predict is not None
        return jax.jit(self.task.predict)

    @cached_property
    def _view(self) -> View:
        return View(self.params, self.model_state, self.task_state)

    def _check_predicts(self) -> None:
        if self.task.predict is None:
            name, models = self.config["task"]["name"], ", ".join(self.task.models)
            raise ConfigError(f"task '{name}' predicts nothing by itself; call one of its models: {models}.")

    @cached_property
    def _preprocessor(self) -> tuple[str, Callable[[Any], PyTree]]:
        builder, key = Builder(discover()), "facts.preprocess"
        built = builder.named("preprocessors", self.facts["preprocess"], key)
        return builder.used[key].title, built

    def checked(self, inputs: PyTree) -> PyTree:
        """Return inputs as the model takes them, with floats and integers of another width cast if no value is lost.

        Raises: ConfigError if they have another shape or dtype.
        """
        hint = "; model.preprocess(raw) makes them of raw inputs" if self.is_preprocessed else ""
        return checked_inputs(inputs, self.inputs, hint)

    def record(self) -> RunRecord:
        """Read the record of its run, or of an exported model what its recipe knows of that.

        Raises: StorageError if it cannot be read.
        """
        is_exported = exported.is_exported(self.directory)
        return exported.read_recipe(self.directory)[0] if is_exported else read_record(self.directory)

    def __repr__(self) -> str:
        size = sum(leaf.size for leaf in jax.tree.leaves(self.params))
        name, inputs = self.config.get("model", self.config["task"])["name"], described(self.inputs)
        return f"Trained({name}: inputs {inputs}, {size:,} parameters, {self.directory})"

    def _repr_html_(self) -> str:
        """Return what a notebook shows: the model, what it takes, and the curves of the run that trained it."""
        history = MetricsFile(self.directory, read_record(self.directory).id)
        curves = {tag: history.series(tag) for tag in ("train/loss", "eval/loss")}
        size = sum(leaf.size for leaf in jax.tree.leaves(self.params))
        name = self.config.get("model", self.config["task"])["name"]
        rows = [["model", name], ["inputs", described(self.inputs)], ["parameters", f"{size:,}"]]
        return f"{table_html(rows)}{curves_svg(curves)}<code>{escape(str(self.directory))}</code>"
