"""The models of a task as one pytree, and the random keys of its losses."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import jax

from framework.contracts.components import Array, Model, Shape
from framework.trees import PyTree


class Keys(NamedTuple):
    """The random keys of one loss in one step.

    Attributes:
      device: key [], of this device, for layers such as dropout.
      examples: keys [B], one for each example by its place in the whole batch, so that an example's noise is the same
        however the batch is cut over devices and parts.
    """

    device: Array
    examples: Array


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Networks:
    """The models of a task with what they hold at one moment: a pytree, which `apply` returns changed.

    Attributes:
      params: by name.
      states: by name; what models change without a gradient.
      own: the task's own state, such as a teacher's parameters.
      models: (name, model); static.
      train: whether models run in training mode; static.
      axis: the mapped axis that cuts the batch over devices, if any; static.
    """

    params: Mapping[str, PyTree]
    states: Mapping[str, PyTree]
    own: PyTree
    models: tuple[tuple[str, Model], ...] = field(metadata={"static": True})
    train: bool = field(default=False, metadata={"static": True})
    axis: str | None = field(default=None, metadata={"static": True})

    def apply(self, name: str, inputs: PyTree, *, key: Array | None = None) -> tuple[PyTree, Networks]:
        """Apply a model to inputs [B, ...]; an evaluation gives it no key."""
        model = dict(self.models)[name]
        key = key if self.train else None
        with jax.named_scope(name) if len(self.models) > 1 else nullcontext():
            outputs, state = model.apply(self.params[name], self.states[name], inputs, key=key, train=self.train)
        return outputs, replace(self, states={**self.states, name: state})

    def with_params(self, **params: PyTree) -> Networks:
        """Return networks with other parameters of some models, such as a teacher's."""
        return replace(self, params={**self.params, **params})

    def with_own(self, own: PyTree) -> Networks:
        """Return networks with another state of the task's own."""
        return replace(self, own=own)


class Network(NamedTuple):
    """A model of a task, and the shape that it is made for.

    Attributes:
      model: the pair of pure functions.
      in_shape: `in_shape(shapes) -> shape`, from the shapes of the batch's "inputs" and "targets", whose leading -1 is
        the batch, and the output shapes of the networks before it by their names. By default that of the inputs.
    """

    model: Model
    in_shape: Callable[[Mapping[str, Shape]], Shape] = lambda shapes: shapes["inputs"]
