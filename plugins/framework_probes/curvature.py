"""Derivatives that tell how steep and how curved a model is: the top eigenvalue of the Hessian, and the Jacobian."""

from __future__ import annotations

import math
from collections.abc import Mapping

import jax
import jax.numpy as jnp

from framework.api import Array, Batch, Probe, Problem, PyTree, TrainState, leaves_by_path
from framework.errors import ConfigError


def sharpness(iterations: int = 50, tolerance: float = 1e-3) -> Probe:
    """The eigenvalue of largest magnitude of the loss's Hessian, by power iteration over Hessian-vector products.

    Gradient descent with rate η is stable while it is below 2 / η. The Hessian is never made: a product with a vector
    is the derivative of the gradient along it (`jvp` of `grad`; Pearlmutter 1994). The loss is that of the next batch.

    Args:
      iterations: at most; each costs about three gradients.
      tolerance: relative change of the eigenvalue at which the iteration ends.

    Raises: ConfigError if iterations is below 1, or tolerance is not positive.
    """
    if iterations < 1:
        raise ConfigError(f"iterations is {iterations}, expected at least 1.")
    if not tolerance > 0:
        raise ConfigError(f"tolerance is {tolerance}, expected more than 0.")

    def probe(problem: Problem, state: TrainState, batch: Batch, key: Array) -> Mapping[str, Array]:
        def product(vector: PyTree) -> PyTree:
            gradient = jax.grad(lambda params: problem.loss(params, state, batch))
            return jax.jvp(gradient, (state.params,), (vector,))[1]

        def improve(carry: tuple[Array, Array, Array, PyTree]) -> tuple[Array, Array, Array, PyTree]:
            count, value, _, vector = carry
            after = product(vector)
            return count + 1, _dot(vector, after), value, _unit(after)

        def goes_on(carry: tuple[Array, Array, Array, PyTree]) -> Array:
            count, value, before, _ = carry
            settled = jnp.abs(value - before) <= tolerance * jnp.abs(value)
            return (count < iterations) & ~settled

        start = jnp.zeros([], jnp.int32), jnp.zeros([]), jnp.full([], jnp.inf), _unit(_normal(key, state.params))
        count, value, _, _ = jax.lax.while_loop(goes_on, improve, start)
        return {"eigenvalue": value, "iterations": count.astype(jnp.float32)}

    return probe


def jacobian(examples: int = 4) -> Probe:
    """The mean Frobenius norm of the Jacobian of the model's outputs by its inputs, and the largest.

    A large one tells of outputs that small changes of the inputs throw about. Of several inputs each has a mean norm of
    its own too, which tells those that matter from those that do not. Forward mode is taken where outputs are more
    numerous than inputs, else reverse mode.

    Args:
      examples: of a batch, that it is taken for.

    Raises: ConfigError if the task predicts nothing, inputs are no real numbers, or examples is below 1.
    """
    if examples < 1:
        raise ConfigError(f"examples is {examples}, expected at least 1.")

    def probe(problem: Problem, state: TrainState, batch: Batch, key: Array) -> Mapping[str, Array]:
        inputs, predict = problem.inputs(batch, key), problem.predict
        if predict is None:
            raise ConfigError("the task predicts nothing, so that there is no Jacobian.")
        if not all(jnp.issubdtype(leaf.dtype, jnp.floating) for leaf in jax.tree.leaves(inputs)):
            raise ConfigError("the inputs are no real numbers, so that there is no Jacobian.")

        def outputs(one: PyTree) -> PyTree:
            alone = jax.tree.map(lambda leaf: leaf[None], one)
            return jax.tree.map(lambda leaf: leaf[0], predict(state.params, state, alone))

        first = jax.tree.map(lambda leaf: leaf[0], inputs)
        shapes = jax.eval_shape(outputs, first)
        derived = jax.jacfwd(outputs) if _size(shapes) > _size(first) else jax.jacrev(outputs)

        def squares(one: PyTree) -> PyTree:
            """Sum the squares of the Jacobian by each input. JAX returns a tree of outputs, each a tree of inputs."""
            by_input = jax.tree.transpose(jax.tree.structure(shapes), jax.tree.structure(one), derived(one))
            return jax.tree.map(lambda _, of_outputs: _dot(of_outputs, of_outputs), one, by_input)

        each = leaves_by_path(jax.lax.map(squares, jax.tree.map(lambda leaf: leaf[:examples], inputs)))
        norms = jnp.sqrt(sum(each.values(), jnp.zeros([])))
        found = {"mean_norm": norms.mean(), "largest_norm": norms.max()}
        return found if len(each) == 1 else found | {f"mean_norm/{path}": jnp.sqrt(each[path]).mean() for path in each}

    return probe


def _normal(key: Array, tree: PyTree) -> PyTree:
    leaves, structure = jax.tree.flatten(tree)
    keys = jax.random.split(key, len(leaves))
    drawn = [jax.random.normal(one, leaf.shape, leaf.dtype) for one, leaf in zip(keys, leaves, strict=True)]
    return jax.tree.unflatten(structure, drawn)


def _unit(tree: PyTree) -> PyTree:
    """Scale a tree to norm 1; one of zeros stays."""
    norm = jnp.sqrt(_dot(tree, tree))
    return jax.tree.map(lambda leaf: leaf / jnp.maximum(norm, 1e-30).astype(leaf.dtype), tree)


def _dot(left: PyTree, right: PyTree) -> Array:
    products = jax.tree.map(lambda a, b: (a.astype(jnp.float32) * b.astype(jnp.float32)).sum(), left, right)
    return sum(jax.tree.leaves(products), jnp.zeros([]))


def _size(tree: PyTree) -> int:
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))
