"""Tasks made of objectives: losses over named networks, each with the optimizer that follows its gradients.

A task's file says what its losses are; `Learner` makes the steps. So sums over examples, devices and accumulated parts,
loss scales, keys and metrics are the same for every task that is written with it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from framework.contracts.components import Array, Batch, Exhibit, Metric, Task, TrainState, Transform, View
from framework.errors import ConfigError, FrameworkError
from framework.steps.losses import augmented, hyperparameters
from framework.steps.metrics import Collected, WeightedMean, collected, over_devices, weighted
from framework.steps.networks import Keys, Network, Networks
from framework.steps.precision import scale_loss, unless_skipped
from framework.steps.rng import example_keys, step_key, stream
from framework.trees import PyTree

Means = dict[str, Any]
"""`WeightedMean` or `Collected` by name."""


class Objective(NamedTuple):
    """A loss, and the update that it leads to.

    Attributes:
      loss: `loss(nets, batch, keys) -> (values, nets, more)`: values [B] or `Counted`; the networks with the states
        that `apply` left; further values [B, ...] or `Counted` to log, by name.
      moves: the networks whose parameters are updated.
      optimizer: turns gradients into updates. It sees parameters as the parameter table names them.
      updates: number of updates in a step, on the same batch with keys of their own.
      every: steps from one update to the next; in the steps between, the loss is only measured.
    """

    loss: Callable[[Networks, Batch, Keys], tuple[Any, Networks, Mapping[str, Any]]]
    moves: tuple[str, ...]
    optimizer: optax.GradientTransformation
    updates: int = 1
    every: int = 1


Gradients = tuple[PyTree, Means, Networks]
"""Gradients of the summed loss, means by name, and the networks after the batch."""

Differentiate = Callable[[Networks, Batch, Keys], Gradients]


@dataclass(frozen=True)
class Learner:
    """A task as objectives that are met one after the other in each step.

    Losses and their weights are summed over examples, accumulated parts and devices; only then is the gradient of the
    sum divided by the summed weight. So one device, many devices, padded and masked batches agree to rounding, which a
    mean of means would not.

    With one objective its loss is logged as "loss". With several, all that an objective logs begins with its name, such
    as "generator/loss" and "generator/learning_rate", and "loss" is the sum of their losses.

    Attributes:
      networks: by name, which is that of the config's section. The state holds the parameters of a single network as
        they are, and those of several by name.
      objectives: by name.
      metrics: by tag, what turns the sums of values that losses and `evaluate` return into numbers; the others are
        means.
      transforms: augmentations of training batches, in order; each is given a key for each example.
      accumulate: number of parts that a batch is cut into, of which one at a time is in memory.
      evaluate: `evaluate(nets, batch, keys) -> values by name`; by default the losses and all that they log. The keys
        of an evaluation depend on the step alone.
      begin: `begin(nets, key, spec) -> own`, the task's own state before the first step.
      after_update: `after_update(nets) -> own`, the task's own state after all updates of a step.
      predict: `predict(nets, inputs, key) -> outputs` of the trained networks.
      exhibits: by name; their `make` is given networks in the place of a view.
    """

    networks: Mapping[str, Network]
    objectives: Mapping[str, Objective]
    metrics: Mapping[str, Metric] = field(default_factory=dict)
    transforms: Sequence[Transform] = ()
    accumulate: int = 1
    evaluate: Callable[[Networks, Batch, Keys], Mapping[str, Any]] | None = None
    begin: Callable[[Networks, Array, Batch], PyTree] | None = None
    after_update: Callable[[Networks], PyTree] | None = None
    predict: Callable[[Networks, PyTree, Array | None], PyTree] | None = None
    exhibits: Mapping[str, Exhibit] = field(default_factory=dict)

    def task(self) -> Task:
        """Return the task."""
        losses = ["loss"] if self._is_single else []  # the losses of opponents say nothing by themselves
        directions = {name: metric.higher_is_better for name, metric in self.metrics.items()}
        return Task(
            self.init,
            self.train_step,
            self.eval_step,
            results={name: metric.result for name, metric in self.metrics.items()},
            directions={**directions, **dict.fromkeys(losses, False)},
            predict=None if self.predict is None else self._predicted,
            exhibits={name: each._replace(make=partial(self._shown, each)) for name, each in self.exhibits.items()},
            is_scaled=True,
        )

    def init(self, key: Array, spec: Batch) -> TrainState:
        """Make the state before the first step."""
        shapes = {
            name: jax.tree.map(lambda leaf: (-1, *leaf.shape[1:]), part)
            for name, part in spec.items()
            if name != "weights"
        }
        params, states, alone = {}, {}, len(self.networks) == 1
        for name, network in self.networks.items():
            own = stream(key, "init" if alone else f"init/{name}")
            shapes[name], params[name], states[name] = network.model.init(own, network.in_shape(shapes))
        nets = self._of(params, states, ())
        own = () if self.begin is None else self.begin(nets, stream(key, "begin"), spec)
        opt_states = {name: each.optimizer.init(self._moved(each, params)) for name, each in self.objectives.items()}
        step = jnp.zeros([], jnp.int32)
        return TrainState(step, self._flat(params), self._flat(states), self._only(opt_states), key, own)

    def train_step(self, state: TrainState, batch: Batch, axis: str | None = None) -> tuple[TrainState, Means]:
        """Update the networks by each objective in turn."""
        whole, own = step_key(state.key, state.step), step_key(state.key, state.step, axis)
        batch = augmented(self.transforms, stream(whole, "augment"), batch, axis)
        nets = replace(self.view(state), train=True, axis=axis)
        before = state.opt_state if not self._is_single else dict.fromkeys(self.objectives, state.opt_state)
        opt_states, each = dict(before), {}
        for name, objective in self.objectives.items():
            keys = _keys(stream(own, name), stream(whole, name), batch, axis)
            nets, opt_states[name], each[name] = self._pursued(
                objective, nets, opt_states[name], batch, keys, state.step
            )
        means = _named(each)
        told = _named({name: hyperparameters(opt_states[name]) for name in opt_states})
        if both := sorted(told.keys() & means.keys()):
            text = "the run logs its own, a hyper-parameter that the optimizer schedules; choose another tag"
            raise ConfigError(f"{text}, such as {both[0]}_metric.", key=f"metrics.{both[0]}")
        task_state = nets.own if self.after_update is None else self.after_update(nets)
        after = TrainState(
            state.step + 1,
            self._flat(nets.params),
            self._flat(nets.states),
            self._only(opt_states),
            state.key,
            task_state,
        )
        return after, {**told, **_with_sum(each), **means}

    def eval_step(self, state: TrainState, batch: Batch, axis: str | None = None) -> Means:
        """Measure the networks on a batch, in evaluation mode."""
        nets = replace(self.view(state), axis=axis)
        whole, own = (stream(step_key(state.key, state.step, each), "evaluate") for each in (None, axis))
        if self.evaluate is not None:
            values = self.evaluate(nets, batch, _keys(own, whole, batch, axis))
            return {name: over_devices(self._mean_of(name, each, batch), axis) for name, each in values.items()}
        each = {}
        for name, objective in self.objectives.items():
            keys = _keys(stream(own, name), stream(whole, name), batch, axis)
            each[name] = self._measured(objective, nets, batch, keys)[0]
        return {**_with_sum(each), **_named(each)}

    def view(self, view: View | TrainState) -> Networks:
        """Return the networks of a state, or of the part of it that a trained model needs."""
        parts = view.params, view.model_state
        params, states = (dict.fromkeys(self.networks, part) for part in parts) if self._is_alone else parts
        return self._of(params, states, view.task_state)

    def _predicted(self, view: View, inputs: PyTree, key: Array | None = None) -> PyTree:
        assert self.predict is not None
        return self.predict(self.view(view), inputs, key)

    def _shown(self, exhibit: Exhibit, view: View, batch: Batch, key: Array) -> PyTree:
        return exhibit.make(self.view(view), batch, key)

    def _pursued(
        self, objective: Objective, nets: Networks, opt_state: PyTree, batch: Batch, keys: Keys, step: Array
    ) -> tuple[Networks, PyTree, Means]:
        """Make the updates of one objective, and report the mean of their losses."""
        if objective.updates == 1:
            update = partial(self.updated, objective, nets, opt_state, batch, keys)
        else:
            update = partial(self._repeated, objective, nets, opt_state, batch, keys)
        if objective.every == 1:
            return update()

        def measure() -> tuple[Networks, PyTree, Means]:
            return nets, opt_state, self._measured(objective, nets, batch, keys)[0]

        return jax.lax.cond(step % objective.every == objective.every - 1, update, measure)

    def _repeated(
        self, objective: Objective, nets: Networks, opt_state: PyTree, batch: Batch, keys: Keys
    ) -> tuple[Networks, PyTree, Means]:
        def once(carry: tuple[Networks, PyTree], index: Array) -> tuple[tuple[Networks, PyTree], Means]:
            own = Keys(*(_fold(key, index) for key in keys))
            nets, opt_state, means = self.updated(objective, *carry, batch, own)
            return (nets, opt_state), means

        (nets, opt_state), means = jax.lax.scan(once, (nets, opt_state), jnp.arange(objective.updates))
        return nets, opt_state, jax.tree.map(lambda leaf: leaf.sum(axis=0), means)

    def updated(
        self, objective: Objective, nets: Networks, opt_state: PyTree, batch: Batch, keys: Keys
    ) -> tuple[Networks, PyTree, Means]:
        """Make one update of an objective, for tasks whose steps find their batches themselves.

        Returns: the networks, the optimizer's state, and the means over all devices.
        """
        gradients = _accumulated(self._gradients(objective, opt_state), self.accumulate)
        grads, means, after = gradients(nets, batch, keys)
        grads, means = _sum_over(nets.axis, (grads, means))
        # A batch whose weights are all 0 has gradient 0, not 0 / 0.
        grads = jax.tree.map(lambda g: g / jnp.maximum(means["loss"].count, 1e-8).astype(g.dtype), grads)
        moved = self._moved(objective, nets.params)
        updates, opt_state = objective.optimizer.update(grads, opt_state, moved)
        params = self._with(objective, nets.params, optax.apply_updates(moved, updates))
        states = unless_skipped(opt_state, after.states, nets.states)
        return replace(after, params=params, states=states), opt_state, means

    def _gradients(self, objective: Objective, opt_state: PyTree) -> Differentiate:
        """Make the function that differentiates the summed loss of a batch."""

        def gradients(nets: Networks, batch: Batch, keys: Keys) -> Gradients:
            def total(moved: PyTree) -> tuple[Array, Any]:
                means, after = self._measured_here(
                    objective, replace(nets, params=self._with(objective, nets.params, moved)), batch, keys
                )
                return scale_loss(means["loss"].total, opt_state), (means, after.states, after.own)

            grads, (means, states, own) = jax.grad(total, has_aux=True)(self._moved(objective, nets.params))
            return grads, means, replace(nets, states=states, own=own)

        return gradients

    def _measured(self, objective: Objective, nets: Networks, batch: Batch, keys: Keys) -> tuple[Means, Networks]:
        means, after = self._measured_here(objective, nets, batch, keys)
        return {name: over_devices(mean, nets.axis) for name, mean in means.items()}, after

    def _measured_here(self, objective: Objective, nets: Networks, batch: Batch, keys: Keys) -> tuple[Means, Networks]:
        values, after, more = objective.loss(nets, batch, keys)
        return {name: self._mean_of(name, each, batch) for name, each in {"loss": values, **more}.items()}, after

    def _mean_of(self, name: str, values: Any, batch: Batch) -> WeightedMean | Collected:
        collects = name in self.metrics and self.metrics[name].collect
        with _of_tag(name):
            return (collected if collects else weighted)(values, batch.get("weights"))

    def _of(self, params: Mapping[str, PyTree], states: Mapping[str, PyTree], own: PyTree) -> Networks:
        return Networks(params, states, own, tuple((name, each.model) for name, each in self.networks.items()))

    @property
    def _is_alone(self) -> bool:
        return len(self.networks) == 1

    @property
    def _is_single(self) -> bool:
        return len(self.objectives) == 1

    def _flat(self, by_name: Mapping[str, PyTree]) -> PyTree:
        return next(iter(by_name.values())) if self._is_alone else dict(by_name)

    def _only(self, by_name: Mapping[str, PyTree]) -> PyTree:
        return next(iter(by_name.values())) if self._is_single else dict(by_name)

    def _moved(self, objective: Objective, params: Mapping[str, PyTree]) -> PyTree:
        return self._flat({name: params[name] for name in objective.moves})

    def _with(self, objective: Objective, params: Mapping[str, PyTree], moved: PyTree) -> Mapping[str, PyTree]:
        return {**params, **(dict.fromkeys(objective.moves, moved) if self._is_alone else moved)}


def _accumulated(gradients: Differentiate, parts: int) -> Differentiate:
    """Differentiate a batch in parts: gradients and means are summed, the networks' states go from part to part."""
    if parts == 1:
        return gradients

    def accumulate(nets: Networks, batch: Batch, keys: Keys) -> Gradients:
        def add(sums: Any, part: tuple[Array, Batch, Array]) -> tuple[Any, None]:
            index, examples, each = part
            grads, means, (states, own) = sums
            here = replace(nets, states=states, own=own)
            *more, after = gradients(here, examples, Keys(jax.random.fold_in(keys.device, index), each))
            grads, means = jax.tree.map(jnp.add, (grads, means), tuple(more))
            return (grads, means, (after.states, after.own)), None

        # Part i takes examples i, i + parts, …, so that each device has some of every part.
        cut, each = jax.tree.map(
            lambda leaf: leaf.reshape(-1, parts, *leaf.shape[1:]).swapaxes(0, 1), (batch, keys.examples)
        )
        first = Keys(keys.device, each[0])
        grads, means, _ = jax.eval_shape(gradients, nets, jax.tree.map(lambda leaf: leaf[0], cut), first)
        grads, means = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), (grads, means))
        sums, _ = jax.lax.scan(add, (grads, means, (nets.states, nets.own)), (jnp.arange(parts), cut, each))
        grads, means, (states, own) = sums
        return grads, means, replace(nets, states=states, own=own)

    return accumulate


def _keys(own: Array, whole: Array, batch: Batch, axis: str | None) -> Keys:
    return Keys(own, example_keys(whole, jax.tree.leaves(batch)[0].shape[0], axis))


def _fold(key: Array, index: Array) -> Array:
    """Fold an index into a key, or into each of several."""
    return jax.random.fold_in(key, index) if key.ndim == 0 else jax.vmap(jax.random.fold_in, (0, None))(key, index)


def _sum_over(axis: str | None, tree: Any) -> Any:
    return tree if axis is None else jax.lax.psum(tree, axis)


def _named(each: Mapping[str, Means]) -> Means:
    """Put the means of all objectives into one mapping, below their names if there are several."""
    if len(each) == 1:
        return dict(next(iter(each.values())))
    return {f"{name}/{own}": mean for name, means in each.items() for own, mean in means.items()}


def _with_sum(each: Mapping[str, Means]) -> Means:
    """Return the sum of several objectives' mean losses as "loss"."""
    if len(each) == 1:
        return {}
    losses = [means["loss"].total / jnp.maximum(means["loss"].count, 1e-8) for means in each.values()]
    return {"loss": WeightedMean(jnp.stack(losses).sum(), jnp.ones([], jnp.float32))}


@contextmanager
def _of_tag(name: str) -> Iterator[None]:
    """Add the config key to an error of a loss or metric, which does not know what chose it."""
    try:
        yield
    except FrameworkError as error:
        error.key = error.key or (name if name == "loss" else f"metrics.{name}")
        raise
