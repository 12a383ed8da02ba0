"""Layers over sequences [B, T, …]. Outputs of recurrent layers have the dtype of the inputs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.nn.initializers import glorot_uniform, normal, orthogonal

from framework.api import Array, Model, Shape, Size, as_model, declare_below
from framework.errors import ConfigError


class LSTMParams(NamedTuple):
    """Parameters of an LSTM; gates in the order input, forget, cell, output."""

    W: Array  # [F, 4 H]
    U: Array  # [H, 4 H]
    b: Array  # [4 H]


class GRUParams(NamedTuple):
    """Parameters of a GRU; gates in the order reset, update, candidate."""

    W: Array  # [F, 3 H]
    U: Array  # [H, 3 H]
    b: Array  # [3 H]
    c: Array  # [H], added to the candidate's recurrent part


class Table(NamedTuple):
    """Table with one row for each token."""

    W: Array  # [vocab, dim]


def LSTM(hidden: Size, return_sequences: bool = True, reverse: bool = False, forget_bias: float = 1.0) -> Model:
    """Long short-term memory from a zero state: [B, T, F] to [B, T, H], or to [B, H].

    It has forget gates and no peepholes. Recurrent weights start orthogonal for each gate, so that the state neither
    grows nor fades at first. Source: Gers et al. 2000, "Learning to forget".

    Args:
      hidden: size H of the state.
      return_sequences: return the state after each step, [B, T, H]; else after the last, [B, H].
      reverse: run from the last step to the first; outputs keep the order of the inputs.
      forget_bias: initial bias of the forget gates; 1 keeps memory at first (Jozefowicz et al. 2015).

    Raises: ConfigError if the inputs are not [B, T, F].
    """

    def init(key: Array, in_shape: Shape) -> tuple[Shape, LSTMParams]:
        W, U = _weights(key, in_shape, hidden, gates=4)
        b = jnp.zeros(4 * hidden).at[hidden : 2 * hidden].set(forget_bias)
        return _out_shape(in_shape, hidden, return_sequences), LSTMParams(W, U, b)

    def apply(params: LSTMParams, inputs: Array) -> Array:
        def step(carry: tuple[Array, Array], projected: Array) -> tuple[tuple[Array, Array], Array]:
            h, cell = carry
            i, f, g, o = jnp.split(projected + h @ params.U, 4, axis=-1)
            cell = jax.nn.sigmoid(f) * cell + jax.nn.sigmoid(i) * jnp.tanh(g)
            h = jax.nn.sigmoid(o) * jnp.tanh(cell)
            return (h, cell), h

        projected = inputs @ params.W + params.b
        zeros = jnp.zeros_like(projected[:, 0, :hidden])
        return _scan(step, (zeros, zeros), projected, return_sequences, reverse)

    return as_model((init, apply), "LSTM")


def GRU(hidden: Size, return_sequences: bool = True, reverse: bool = False) -> Model:
    """Gated recurrent unit from a zero state: [B, T, F] to [B, T, H], or to [B, H].

    The reset gate comes after the recurrent product, as in cuDNN, so that a step needs one product. Source: Cho et al.
    2014, arXiv:1406.1078.

    Args:
      hidden: size H of the state.
      return_sequences: return the state after each step, [B, T, H]; else after the last, [B, H].
      reverse: run from the last step to the first; outputs keep the order of the inputs.

    Raises: ConfigError if the inputs are not [B, T, F].
    """

    def init(key: Array, in_shape: Shape) -> tuple[Shape, GRUParams]:
        W, U = _weights(key, in_shape, hidden, gates=3)
        return _out_shape(in_shape, hidden, return_sequences), GRUParams(W, U, jnp.zeros(3 * hidden), jnp.zeros(hidden))

    def apply(params: GRUParams, inputs: Array) -> Array:
        def step(h: Array, projected: Array) -> tuple[Array, Array]:
            from_inputs = jnp.split(projected, 3, axis=-1)
            from_state = jnp.split(h @ params.U, 3, axis=-1)
            reset, update = (jax.nn.sigmoid(x + s) for x, s in zip(from_inputs[:2], from_state[:2], strict=True))
            candidate = jnp.tanh(from_inputs[2] + reset * (from_state[2] + params.c))
            h = update * h + (1 - update) * candidate
            return h, h

        projected = inputs @ params.W + params.b
        return _scan(step, jnp.zeros_like(projected[:, 0, :hidden]), projected, return_sequences, reverse)

    return as_model((init, apply), "GRU")


def Embedding(vocab: Size, dim: Size, stddev: float = 0.02) -> Model:
    """Map integers in [0, vocab) to learned vectors: [...] to [..., dim].

    An integer outside of it, a negative one too, gives NaN, so that it is found and not hidden. Where the inputs are
    the model's own, such examples are refused before training. Of integers that the model makes, `framework replay`
    names the one that has no row.

    Args:
      vocab: number of rows.
      dim: size of a vector.
      stddev: standard deviation of the initial values; 0.02 as in GPT-2.

    Raises: ConfigError if the inputs are not integers.
    """

    def init(key: Array, in_shape: Shape) -> tuple[Shape, Table]:
        return (*in_shape, dim), Table(normal(stddev)(key, (vocab, dim)))

    def apply(params: Table, inputs: Array) -> Array:
        if not jnp.issubdtype(inputs.dtype, jnp.integer):
            raise ConfigError(f"Embedding expects integers, found {inputs.dtype}.")
        declare_below(inputs, vocab)
        rows = params.W.at[inputs.astype(jnp.int32)]
        return rows.get(mode="fill", fill_value=jnp.nan, wrap_negative_indices=False)  # NumPy counts from the end

    return as_model((init, apply), "Embedding")


def _weights(key: Array, in_shape: Shape, hidden: int, gates: int) -> tuple[Array, Array]:
    """Draw input weights [F, gates H] and recurrent weights [H, gates H], each gate with a key of its own."""
    if len(in_shape) != 3:
        raise ConfigError(f"a recurrent layer expects inputs [B, T, F], found shape {in_shape}.")
    W_key, U_key = jax.random.split(key)
    W = jax.vmap(lambda k: glorot_uniform()(k, (in_shape[-1], hidden)), out_axes=1)(jax.random.split(W_key, gates))
    U = jax.vmap(lambda k: orthogonal()(k, (hidden, hidden)), out_axes=1)(jax.random.split(U_key, gates))
    return W.reshape(in_shape[-1], gates * hidden), U.reshape(hidden, gates * hidden)


def _out_shape(in_shape: Shape, hidden: int, return_sequences: bool) -> Shape:
    return (*in_shape[:2], hidden) if return_sequences else (in_shape[0], hidden)


def _scan(step: Callable[..., Any], zeros: Any, projected: Array, return_sequences: bool, reverse: bool) -> Array:
    """Run a cell over time: [B, T, gates H] to [B, T, H], or to the last [B, H]."""
    _, outputs = lax.scan(step, zeros, jnp.moveaxis(projected, 1, 0), reverse=reverse)
    return jnp.moveaxis(outputs, 0, 1) if return_sequences else outputs[0 if reverse else -1]
