"""A policy and a value function that learn from what the policy plays: what all such tasks have in common."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from framework.api import (
    Array,
    Batch,
    Environment,
    Keys,
    Learner,
    Model,
    Network,
    Networks,
    Objective,
    PyTree,
    Task,
    TrainState,
    WeightedMean,
    example_keys,
    gathered,
    hyperparameters,
    over_devices,
    step_key,
    stream,
)
from framework.errors import ConfigError
from framework_tasks.policies import policy_over
from framework_tasks.rollouts import Player, Transition, advantages, begin, play, roll_out


class Played(NamedTuple):
    """The parts of each transition that a loss is given, each leaf [B, ...].

    Attributes:
      observation: that the action answered.
      action: as the policy's distribution has it.
      log_probability: of the action, when it was chosen.
      advantage: of the action over the value, of mean 0 and variance 1 over the roll-out.
      target: for the value of the observation.
    """

    observation: PyTree
    action: Array
    log_probability: Array
    advantage: Array
    target: Array


class Judged(NamedTuple):
    """The answers of the networks to these transitions.

    Attributes:
      log_probability: of the action, [B].
      entropy: of the policy, [B].
      value: of the observation, [B].
    """

    log_probability: Array
    entropy: Array
    value: Array


class Updates(NamedTuple):
    """The updates that a roll-out leads to.

    Attributes:
      steps: of each environment in a roll-out.
      epochs: passes over the roll-out.
      minibatches: parts of it in a pass, of which each has as many steps of every environment.
      discount: of rewards, for each step.
      decay: of `advantages`.
    """

    steps: int
    epochs: int
    minibatches: int
    discount: float
    decay: float


Loss = Callable[[Judged, Played], tuple[Array, Mapping[str, Array]]]
"""`loss(judged, played) -> (values [B], more values by name)`."""

EPISODES = 20_000_303
"""Seed of the episodes of evaluations, apart from those of runs: all runs are judged by the same ones."""


def actor_critic(
    policy: Model,
    value: Model,
    environment: Environment,
    optimizer: optax.GradientTransformation,
    loss: Loss,
    updates: Updates,
) -> Task:
    """Make the task whose train step plays a roll-out, and updates policy and value by it.

    The batch holds the numbers of the environments. Their states lie in the task's state, so that a run goes on within
    an episode. A device simulates the environments that it is given, each with a key of its own; so a roll-out is the
    same on any number of devices. An evaluation plays episodes with the most probable actions.

    Models run in evaluation mode, since noise or batch statistics would make other probabilities of the actions.

    Raises: ConfigError if the steps of a roll-out cannot be cut into minibatches.
    """
    _check(updates)
    over = policy_over(environment.actions)
    world = environment._replace(step=lambda key, state, action: environment.step(key, state, over.action(action)))

    def fit(nets: Networks, batch: Batch, keys: Keys) -> tuple[Array, Networks, Mapping[str, Array]]:
        played: Played = batch["inputs"]
        outputs, values = _outputs(nets, "policy", played.observation, over.size), _values(nets, played.observation)
        chosen = over.log_probability(outputs, played.action)
        each, more = loss(Judged(chosen, over.entropy(outputs), values), played)
        return each, nets, more

    def evaluate(nets: Networks, batch: Batch, keys: Keys) -> Mapping[str, Array]:
        def act(noise: PyTree, observations: PyTree) -> tuple[Array, Array]:
            actions = over.best(_outputs(nets, "policy", observations, over.size))
            return actions, jnp.zeros(len(actions))

        own = jax.vmap(partial(jax.random.fold_in, jax.random.key(EPISODES)))(batch["inputs"])
        scores, lengths = play(world, Player(over.draw, act), own)
        return {"loss": -scores, "return": scores, "length": lengths.astype(jnp.float32)}

    def start(nets: Networks, key: Array, spec: Batch) -> PyTree:
        if not jnp.issubdtype(getattr(spec["inputs"], "dtype", jnp.float32), jnp.integer):
            found = jax.tree.map(lambda leaf: f"{leaf.dtype}{list(leaf.shape)}", spec["inputs"])
            raise ConfigError(f"inputs are {found}, expected numbers of environments; take data=episodes.", key="data")
        return jax.vmap(partial(begin, world))(example_keys(key, spec["inputs"].shape[0]))

    def predict(nets: Networks, inputs: PyTree, key: Array | None) -> PyTree:
        # A trained model is given plain tuples, as they are recorded.
        observations = jax.tree.unflatten(jax.tree.structure(environment.observation), jax.tree.leaves(inputs))
        return _outputs(nets, "policy", observations, over.size)

    shape = jax.tree.map(lambda leaf: (-1, *leaf.shape), environment.observation)
    objective = Objective(fit, ("policy", "value"), optimizer)
    learner = Learner(
        networks={name: Network(model, lambda _: shape) for name, model in (("policy", policy), ("value", value))},
        objectives={"policy": objective},
        evaluate=evaluate,
        begin=start,
        predict=predict,
    )

    def train_step(
        state: TrainState, batch: Batch, axis: str | None = None
    ) -> tuple[TrainState, Mapping[str, WeightedMean]]:
        def act(noise: PyTree, observations: PyTree) -> tuple[Array, Array]:
            outputs = _outputs(nets, "policy", observations, over.size)
            actions = over.sample(noise, outputs)
            return actions, over.log_probability(outputs, actions)

        key, count = step_key(state.key, state.step), len(batch["inputs"])
        nets = replace(learner.view(state), axis=axis)
        playing = jax.tree.map(lambda leaf: leaf[batch["inputs"]], state.task_state)
        own = example_keys(stream(key, "play"), count, axis)
        playing, made = roll_out(world, Player(over.draw, act), playing, own, updates.steps)
        improve = partial(learner.updated, objective)
        nets, opt_state, means = _improved(improve, nets, state.opt_state, _played(nets, made, updates), key, updates)
        after = state._replace(
            step=state.step + 1, params=dict(nets.params), opt_state=opt_state, task_state=gathered(playing, axis)
        )
        return after, {**hyperparameters(opt_state), **means, **_ended(made, axis)}

    task = learner.task()
    return task._replace(
        train_step=train_step,
        results=dict.fromkeys(("return", "length"), lambda total, count: {"": total / count} if count else {}),
        directions={**task.directions, "return": True},
        inputs=lambda spec: _side_by_side(environment.observation, spec["inputs"].shape[0]),
    )


def _outputs(nets: Networks, name: str, observations: PyTree, size: int) -> Array:
    """Apply a network to observations [B, ...]. Raises: ConfigError if its outputs are not [B, size]."""
    outputs, _ = nets.apply(name, observations)
    count = jax.tree.leaves(observations)[0].shape[0]
    if jnp.shape(outputs) != (count, size):
        text = f"its outputs for {count} observations are {list(jnp.shape(outputs))}, expected {[count, size]}"
        raise ConfigError(f"{text}; an mlp has {name}.classes={size}.", key=name)
    return outputs


def _values(nets: Networks, observations: PyTree) -> Array:
    return _outputs(nets, "value", observations, 1)[:, 0]


def _played(nets: Networks, made: Transition, updates: Updates) -> Played:
    """Return what losses are given of a roll-out, each leaf [N, T, ...]."""

    def valued(observations: PyTree) -> Array:
        values = _values(nets, jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), observations))
        return values.reshape(made.reward.shape)

    values = valued(made.observation)
    one = partial(advantages, discount=updates.discount, decay=updates.decay)
    found = jax.vmap(one)(made, values, valued(made.after))
    count = jnp.full([], found.size, jnp.float32)
    mean = _mean(WeightedMean(found.sum(), count), nets.axis)
    variance = _mean(WeightedMean(((found - mean) ** 2).sum(), count), nets.axis)
    even = (found - mean) / (jnp.sqrt(variance) + 1e-8)
    return Played(made.observation, made.action, made.log_probability, even, found + values)


def _mean(mean: WeightedMean, axis: str | None) -> Array:
    total, count = over_devices(mean, axis)
    return total / count


def _improved(
    improve: Callable[..., tuple[Networks, PyTree, Mapping[str, WeightedMean]]],
    nets: Networks,
    opt_state: PyTree,
    played: Played,
    key: Array,
    updates: Updates,
) -> tuple[Networks, PyTree, Mapping[str, WeightedMean]]:
    """Make the updates that a roll-out leads to, with `improve(nets, opt_state, batch, keys)`; values are summed."""

    def epoch(carry: tuple[Networks, PyTree], drawn: tuple[Array, Array]) -> tuple[tuple[Networks, PyTree], Any]:
        index, orders = drawn
        parts = _minibatches(orders, played, updates.minibatches)
        return jax.lax.scan(update, carry, (index * updates.minibatches + jnp.arange(updates.minibatches), parts))

    def update(carry: tuple[Networks, PyTree], drawn: tuple[Array, Played]) -> tuple[tuple[Networks, PyTree], Any]:
        number, part = drawn
        own = jax.random.fold_in(stream(key, "update"), number)
        keys = Keys(stream(own, "device"), example_keys(own, part.target.shape[0], nets.axis))
        after, opt_state, means = improve(*carry, {"inputs": part}, keys)
        return (after, opt_state), means

    orders = _orders(stream(key, "shuffle"), played.target.shape[0], nets.axis, updates)
    (nets, opt_state), means = jax.lax.scan(epoch, (nets, opt_state), (jnp.arange(updates.epochs), orders))
    return nets, opt_state, jax.tree.map(lambda leaf: leaf.sum(axis=(0, 1)), means)


def _orders(key: Array, count: int, axis: str | None, updates: Updates) -> Array:
    """Draw the order of the steps of each environment in each pass, int [epochs, N, T]."""

    def drawn(index: Array) -> Array:
        own = example_keys(jax.random.fold_in(key, index), count, axis)
        return jax.vmap(lambda key: jax.random.permutation(key, updates.steps))(own)

    return jax.vmap(drawn)(jnp.arange(updates.epochs))


def _minibatches(orders: Array, played: Played, parts: int) -> Played:
    """Cut a roll-out into parts, leaves [parts, B, ...], each with as many steps of every environment.

    Args:
      orders: of the steps of each environment, int [N, T].
    """
    if parts == 1:  # the mean over all does not depend on the order
        return jax.tree.map(lambda leaf: leaf.reshape(1, -1, *leaf.shape[2:]), played)

    def cut(order: Array, played: Played) -> Played:
        return jax.tree.map(lambda leaf: leaf[order].reshape(parts, -1, *leaf.shape[1:]), played)

    each = jax.vmap(cut, out_axes=1)(orders, played)  # [parts, N, T / parts, ...]
    return jax.tree.map(lambda leaf: leaf.reshape(parts, -1, *leaf.shape[3:]), each)


def _ended(made: Transition, axis: str | None) -> dict[str, WeightedMean]:
    """Return the mean return and length of the episodes that ended within a roll-out, of which there may be none."""
    over = made.terminated | made.truncated
    count = over.sum().astype(jnp.float32)
    totals = {"return": made.score, "length": made.length.astype(jnp.float32)}
    return {
        name: over_devices(WeightedMean(jnp.where(over, total, 0).sum(), count), axis) for name, total in totals.items()
    }


def _side_by_side(shapes: PyTree, count: int) -> PyTree:
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((count, *leaf.shape), leaf.dtype), shapes)


def _check(updates: Updates) -> None:
    for name, number in updates._asdict().items():
        least, most = (1, None) if isinstance(number, int) else (0, 1)
        if isinstance(number, int | float) and (number < least or (most is not None and number > most)):
            expected = f"at least {least}" if most is None else f"{least} to {most}"
            raise ConfigError(f"{name} is {number}, expected {expected}.")
    if updates.steps % updates.minibatches:
        text = f"minibatches: {updates.minibatches} do not divide the {updates.steps} steps of a roll-out"
        raise ConfigError(f"{text}; each takes as many steps of every environment.")
