"""LSTM, GRU and Embedding against loops in NumPy."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from framework.errors import ConfigError
from framework_stax.recurrent import GRU, LSTM, Embedding

BATCH, STEPS, FEATURES, HIDDEN = 3, 7, 4, 5


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def gate(array, position):
    return array[..., position * HIDDEN : (position + 1) * HIDDEN]


def lstm_in_numpy(params, inputs):
    W, U, b = (np.asarray(leaf, np.float64) for leaf in params)
    h, cell, states = np.zeros((BATCH, HIDDEN)), np.zeros((BATCH, HIDDEN)), []
    for t in range(inputs.shape[1]):
        into, forget, value, out = (inputs[:, t] @ gate(W, g) + h @ gate(U, g) + gate(b, g) for g in range(4))
        cell = sigmoid(forget) * cell + sigmoid(into) * np.tanh(value)
        h = sigmoid(out) * np.tanh(cell)
        states.append(h)
    return np.stack(states, axis=1)


def gru_in_numpy(params, inputs):
    W, U, b, c = (np.asarray(leaf, np.float64) for leaf in params)
    h, states = np.zeros((BATCH, HIDDEN)), []
    for t in range(inputs.shape[1]):
        reset, update = (sigmoid(inputs[:, t] @ gate(W, g) + h @ gate(U, g) + gate(b, g)) for g in range(2))
        candidate = np.tanh(inputs[:, t] @ gate(W, 2) + gate(b, 2) + reset * (h @ gate(U, 2) + c))
        h = update * h + (1 - update) * candidate
        states.append(h)
    return np.stack(states, axis=1)


CELLS = {"LSTM": (LSTM, lstm_in_numpy), "GRU": (GRU, gru_in_numpy)}


@pytest.fixture(scope="module", params=CELLS)
def cell(request):
    """A factory, its reference, parameters without zeros, and inputs."""
    factory, reference = CELLS[request.param]
    key = jax.random.key(1)

    @jax.jit
    def draw(key):
        _, params, _ = factory(HIDDEN).init(key, (-1, STEPS, FEATURES))
        return jax.tree.map(lambda leaf: leaf + 0.1 * jnp.cos(jnp.arange(float(leaf.size))).reshape(leaf.shape), params)

    return factory, reference, draw(key), jax.random.normal(key, (BATCH, STEPS, FEATURES))


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("return_sequences", [False, True])
def test_equals_a_loop_in_numpy(cell, return_sequences, reverse):
    factory, reference, params, inputs = cell
    model = factory(HIDDEN, return_sequences=return_sequences, reverse=reverse)
    outputs, state = jax.jit(lambda p, x: model.apply(p, (), x))(params, inputs)
    order = slice(None, None, -1) if reverse else slice(None)
    expected = reference(params, np.asarray(inputs)[:, order])[:, order]
    expected = expected if return_sequences else expected[:, 0 if reverse else -1]
    np.testing.assert_allclose(outputs, expected, rtol=1e-5, atol=1e-6)
    assert state == ()


def test_each_gate_starts_orthogonal_and_different(cell):
    factory, _, _, _ = cell
    _, params, _ = factory(HIDDEN).init(jax.random.key(2), (-1, STEPS, FEATURES))
    gates = [gate(params.U, position) for position in range(params.U.shape[1] // HIDDEN)]
    for each in gates:
        np.testing.assert_allclose(each @ each.T, np.eye(HIDDEN), atol=1e-5)
    assert not any(np.allclose(one, gates[0]) for one in gates[1:])
    assert np.ptp([np.std(gate(params.W, position)) for position in range(len(gates))]) > 0


def test_lstm_starts_with_open_forget_gates():
    _, params, _ = LSTM(HIDDEN, forget_bias=2.0).init(jax.random.key(0), (-1, STEPS, FEATURES))
    np.testing.assert_array_equal(params.b.reshape(4, HIDDEN).sum(1), [0, 2 * HIDDEN, 0, 0])


def test_runs_mapped_over_devices(cell):
    """The zero state of the scan has to vary over devices as the inputs do."""
    factory, _, params, inputs = cell
    model = factory(HIDDEN, return_sequences=False)
    loss = lambda p, x: (model.apply(p, (), x)[0] ** 2).sum()  # noqa: E731
    both = jnp.stack([inputs, 2 * inputs])
    grads = jax.pmap(jax.grad(loss), axis_name="batch", in_axes=(None, 0))(params, both)
    second = jax.jit(jax.grad(loss))(params, both[1])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(np.asarray(a)[1], b, rtol=1e-4, atol=1e-6), grads, second)


class TestEmbedding:
    def test_looks_rows_up(self, key):
        model = Embedding(11, 3)
        out_shape, params, _ = model.init(key, (-1, 2))
        ids = jnp.asarray([[0, 10], [4, 4]])
        outputs, _ = jax.jit(model.apply)(params, (), ids)
        assert out_shape == (-1, 2, 3)
        np.testing.assert_array_equal(outputs, np.asarray(params.W)[np.asarray(ids)])

    def test_gradient_adds_up_where_a_token_repeats(self, key):
        model = Embedding(4, 2)
        _, params, _ = model.init(key, (-1, 3))
        grads = jax.grad(lambda p: model.apply(p, (), jnp.asarray([[1, 1, 3]]))[0].sum())(params)
        np.testing.assert_array_equal(grads.W, [[0, 0], [2, 2], [0, 0], [1, 1]])

    @pytest.mark.parametrize("token", [4, -1, -4, 2**31 - 1, -(2**31)])
    def test_a_token_outside_the_vocabulary_is_not_hidden(self, key, token):
        model = Embedding(4, 2)
        outputs, _ = model.apply(model.init(key, (-1,))[1], (), jnp.asarray([3, token]))
        assert np.isnan(outputs).tolist() == [[False, False], [True, True]]

    def test_refuses_numbers_that_are_not_integers(self, key):
        model = Embedding(4, 2)
        with pytest.raises(ConfigError, match="Embedding expects integers, found float32"):
            model.apply(model.init(key, (-1,))[1], (), jnp.zeros(3))
