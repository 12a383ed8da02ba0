"""Models, losses, data and optimizers, each with one fault."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.example_libraries import stax

from framework.api import PipelineWrapper
from framework_data.synthetic import synthetic
from framework_stax.layers import BatchNorm, Dense
from framework_stax.recurrent import Embedding
from framework_stax.stack import serial


def pair(function):
    """A stax pair of a function without parameters that keeps the shape."""
    return lambda key, shape: (shape, ()), lambda params, inputs, **options: function(inputs)


def Root():
    return pair(lambda inputs: jnp.where(inputs > 0, jnp.sqrt(inputs), 0))


def Unit():
    return pair(lambda inputs: inputs / jnp.linalg.norm(inputs, axis=-1, keepdims=True))


def Exponential():
    return pair(lambda inputs: jnp.exp(inputs * 100))


def Masked():
    def attend(inputs):
        seen = jnp.zeros((inputs.shape[-1], inputs.shape[-1]), bool).at[1:].set(True)  # nothing for the first
        scores = inputs[:, :, None] * inputs[:, None, :]
        return (jax.nn.softmax(jnp.where(seen, scores, -jnp.inf)) * inputs[:, None, :]).sum(-1)

    return pair(attend)


@jax.custom_vjp
def clipped(inputs):
    return jnp.clip(inputs, -1, 1)


def clipped_fwd(inputs):
    return clipped(inputs), inputs


def clipped_bwd(inputs, gradient):
    return (gradient / jnp.where(jnp.abs(inputs) > 1, 1.0, 0.0),)


clipped.defvjp(clipped_fwd, clipped_bwd)


def Clipped():
    return pair(clipped)


def Huge():
    def init(key, shape):
        return (*shape[:-1], 8), jnp.full((shape[-1], 8), 2e38)

    return init, lambda params, inputs, **options: jnp.abs(inputs) @ params


def Tokens():
    """One token for each example, from 0 to 4 but for the example that has the same value in all features."""

    def apply(params, inputs, **options):
        return jnp.where((inputs == inputs[:, :1]).all(-1), 7, 2)

    return lambda key, shape: (shape[:1], ()), apply


def Zero():
    return pair(lambda inputs: 0 * inputs)


LAYERS = {
    "root": Root,
    "unit": Unit,
    "exponential": Exponential,
    "masked": Masked,
    "clipped": Clipped,
    "huge": Huge,
}


def model(kind: str = "plain"):
    if kind == "unit":
        return serial(Unit(), Dense(10))
    if kind == "tokens":
        return serial(Tokens(), Embedding(5, 8), Dense(10))
    if kind == "constant":
        return serial(Zero(), BatchNorm(epsilon=1e-60), Dense(10))  # 0 in float32
    if kind == "stock":
        return stax.serial(stax.Dense(8), Root(), stax.Dense(10))
    middle = [LAYERS[kind]()] if kind in LAYERS else []
    return serial(Dense(8), *middle, Dense(10))


def loss(kind: str):
    def cross_entropy(outputs, batch):
        return -jnp.take_along_axis(jax.nn.log_softmax(outputs), batch["targets"][:, None], axis=1)[:, 0]

    def values(outputs, batch):
        if kind == "log":
            return -jnp.log(jnp.where(outputs > 1e9, outputs, 0.0)).mean(-1)
        if kind == "quotient":
            nothing = jnp.where(outputs > 1e9, outputs, 0.0)
            return (nothing / nothing).mean(-1)
        if kind == "distance":
            return jnp.sqrt(jnp.square(outputs - outputs).sum(-1)) + cross_entropy(outputs, batch)
        if kind == "exponential":
            return jnp.exp(1e4 + outputs).mean(-1)
        return cross_entropy(outputs, batch)

    return values


class Poisoned(PipelineWrapper):
    """Examples of which one has another value in all its features."""

    def __init__(self, example, value, batch_size):
        super().__init__(synthetic(shape=[6], examples=128, batch_size=batch_size, noise=3.0))
        inputs = np.array(super().arrays["inputs"])
        inputs[example] = value
        self.poisoned = {**super().arrays, "inputs": inputs}

    @property
    def arrays(self):
        return self.poisoned


def poisoned(example: int = 17, value: float = float("inf"), batch_size: int = 128):
    return Poisoned(example, value, batch_size)


def optimizer(rate: float = 0.1):
    def update(grads, state, params=None):
        return jax.tree.map(lambda grad: -rate * grad / (0 * grad), grads), state

    return optax.GradientTransformation(lambda params: (), update)
