"""Every layer that can be named, ours and stock, in one table, held to the same contract; and each to its reference."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.example_libraries import stax

from framework.api import layer_name
from framework.errors import ConfigError
from framework_stax import decoding, layers, models, recurrent
from framework_stax.catalogue import layers as catalogue
from framework_stax.stack import named_parallel, named_serial, serial

IMAGES = (-1, 8, 8, 4)
SEQUENCES = (-1, 6, 3)
PAIR = [IMAGES, IMAGES]
NHWC = ["NHWC", "HWIO", "NHWC"]
CONV = {"out_chan": 3, "filter_shape": [3, 2], "padding": "SAME"}

QUICK = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}

OPTIONS = {
    "Dense": {"out_dim": 5},
    "Conv": CONV,
    "ConvTranspose": CONV,
    "Conv1DTranspose": {"out_chan": 3, "filter_shape": [3], "strides": [2]},
    "GeneralConv": {"dimension_numbers": NHWC, **CONV, "strides": [2, 2]},
    "GeneralConvTranspose": {"dimension_numbers": NHWC, **CONV},
    "MaxPool": {"window_shape": [2, 2]},
    "SumPool": {"window_shape": [2, 2], "strides": [2, 2]},
    "AvgPool": {"window_shape": [3, 2], "padding": "SAME"},
    "FanOut": {"num": 3},
    "Dropout": {"rate": 0.5},
}
SHAPES = {"FanInSum": PAIR, "FanInConcat": PAIR, "Conv1DTranspose": SEQUENCES}

OURS = {
    "Dense": (layers.Dense, {"out_dim": 5}, (-1, 7)),
    "Dense on images": (layers.Dense, {"out_dim": 5, "W_init": "he_normal", "b_init": "normal"}, IMAGES),
    "Conv": (layers.Conv, {"out_chan": 3, "filter_shape": (3, 2)}, IMAGES),
    "Conv strided": (
        layers.Conv,
        {"out_chan": 3, "filter_shape": (3, 3), "strides": (2, 3), "padding": "SAME"},
        IMAGES,
    ),
    "MaxPool": (layers.MaxPool, {}, IMAGES),
    "MaxPool of sequences": (layers.MaxPool, {"window_shape": (2,), "strides": (1,)}, SEQUENCES),
    "MaxPool SAME": (layers.MaxPool, {"window_shape": (3, 3), "strides": (2, 2), "padding": "SAME"}, IMAGES),
    "AvgPool": (layers.AvgPool, {"window_shape": (3, 3), "padding": "SAME"}, IMAGES),
    "BatchNorm": (layers.BatchNorm, {}, IMAGES),
    "BatchNorm of vectors": (layers.BatchNorm, {"center": False}, (-1, 7)),
    "BatchNorm by position": (layers.BatchNorm, {"axis": (0, 3), "scale": False}, IMAGES),
    "Dropout": (layers.Dropout, {"rate": 0.5}, IMAGES),
    "Reshape": (decoding.Reshape, {"shape": (2, -1)}, IMAGES),
    "Upsample": (decoding.Upsample, {"factor": 3}, IMAGES),
    "LSTM": (recurrent.LSTM, {"hidden": 5}, SEQUENCES),
    "LSTM last": (recurrent.LSTM, {"hidden": 5, "return_sequences": False}, SEQUENCES),
    "GRU": (recurrent.GRU, {"hidden": 5, "reverse": True}, SEQUENCES),
    "GRU last": (recurrent.GRU, {"hidden": 5, "return_sequences": False}, SEQUENCES),
    "mlp": (models.mlp, {"hidden": (9, 8), "activation": "gelu", "dropout": 0.2}, IMAGES),
    "cnn": (models.cnn, {"channels": (3, 5), "kernel": 3, "hidden": 7}, (-1, 14, 14, 1)),
    "logistic_regression": (models.logistic_regression, {}, IMAGES),
    "serial": (named_serial, {"layers": [layers.Dense(3), layers.BatchNorm()]}, IMAGES),
    "parallel": (named_parallel, {"layers": [layers.Dense(3), layers.Dropout(0.1)]}, PAIR),
}
# By plain name; by "stax." name where the plain one is ours.
FOUND = catalogue()
STOCK = [name for name in FOUND if name.removeprefix("stax.") not in FOUND or not name.startswith("stax.")]


def batch_of(in_shape, size=4, seed=0):
    """Positive numbers, for logarithms, and none of them twice, for maxima."""
    rng = np.random.default_rng(seed)
    is_shape = lambda node: isinstance(node, tuple)  # noqa: E731
    draw = lambda shape: jnp.asarray(rng.uniform(0.1, 2, (size, *shape[1:])), jnp.float32)  # noqa: E731
    return jax.tree.map(draw, in_shape, is_leaf=is_shape)


def build(model, in_shape, key):
    """Initialise in one compiled program, which is quicker than one program for each random draw."""
    shapes = []

    @jax.jit
    def init(key):
        out_shape, params, state = model.init(key, in_shape)
        shapes.append(out_shape)
        return params, state

    return *init(key), shapes[0]


def shapes_of(tree, batch):
    """The leaves' shapes, with -1 in the place of the batch."""
    leaves = [leaf.shape for leaf in jax.tree.leaves(tree)]
    assert all(shape[0] == batch for shape in leaves)
    return [(-1, *shape[1:]) for shape in leaves]


def check_layer(model, in_shape, key):
    """Duties of every layer: keep its promise of a shape, compile, map, differentiate, keep its state's shape."""
    params, state, out_shape = build(model, in_shape, key)
    inputs, others = batch_of(in_shape), batch_of(in_shape, seed=1)

    def apply(params, inputs, train):
        return model.apply(params, state, inputs, key=key, train=train)

    def loss(params, inputs):
        outputs, after = apply(params, inputs, True)
        return sum((leaf * leaf).sum() for leaf in jax.tree.leaves(outputs)), (outputs, after)

    @functools.partial(jax.jit, compiler_options=QUICK)
    def everything(params, inputs, others):
        both = jax.tree.map(lambda *x: jnp.stack(x), inputs, others)
        mapped, _ = jax.vmap(lambda each: apply(params, each, False))(both)
        return apply(params, inputs, False), mapped, jax.grad(loss, argnums=(0, 1), has_aux=True)(params, inputs)

    (outputs, same_state), mapped, (grads, (train_outputs, new_state)) = everything(params, inputs, others)
    promised = jax.tree.leaves(out_shape, is_leaf=lambda node: isinstance(node, tuple))
    assert shapes_of(outputs, 4) == shapes_of(train_outputs, 4) == promised
    first = jax.tree.map(lambda leaf: leaf[0], mapped)
    jax.tree.map(lambda one, other: np.testing.assert_allclose(one, other, rtol=2e-5, atol=2e-6), first, outputs)
    jax.tree.map(np.testing.assert_array_equal, same_state, state)
    assert jax.tree.structure(new_state) == jax.tree.structure(state)
    for new, old in zip(jax.tree.leaves(new_state), jax.tree.leaves(state), strict=True):
        assert (new.shape, new.dtype) == (old.shape, old.dtype)
    for leaf in jax.tree.leaves((outputs, train_outputs, grads)):
        assert leaf.dtype == jnp.float32
        assert np.isfinite(leaf).all()
    assert any(np.any(leaf) for leaf in jax.tree.leaves(grads))


@pytest.mark.parametrize("name", OURS)
def test_our_layer_keeps_the_contract(name, key):
    factory, options, in_shape = OURS[name]
    check_layer(factory(**options), in_shape, key)


@pytest.mark.parametrize("name", STOCK)
def test_found_layer_keeps_the_contract_in_a_stack(name, key):
    plain = name.removeprefix("stax.")
    check_layer(serial(FOUND[name](**OPTIONS.get(plain, {}))), SHAPES.get(plain, IMAGES), key)


@pytest.mark.parametrize("name", [name for name in OURS if name not in ("mlp", "cnn", "logistic_regression")])
def test_our_layers_are_named_after_their_factory(name):
    factory, options, _ = OURS[name]
    assert layer_name(factory(**options)) == factory.__name__.removeprefix("named_")


TWINS = {
    "Dense": (layers.Dense(5), stax.Dense(5), IMAGES),
    "Conv": (layers.Conv(3, (3, 2)), stax.Conv(3, (3, 2)), IMAGES),
    "Conv SAME": (layers.Conv(3, (3, 2), padding="SAME"), stax.Conv(3, (3, 2), padding="SAME"), IMAGES),
    "Conv strided": (
        layers.Conv(3, (3, 2), (2, 3), "SAME"),
        stax.Conv(3, (3, 2), (2, 3), "SAME"),
        IMAGES,
    ),
    "AvgPool": (layers.AvgPool((2, 4)), stax.AvgPool((2, 4), (2, 4)), IMAGES),
    "AvgPool SAME": (layers.AvgPool((3, 3), (2, 1), "SAME"), stax.AvgPool((3, 3), (2, 1), "SAME"), IMAGES),
    "BatchNorm": (layers.BatchNorm(), stax.BatchNorm(), IMAGES),
    "BatchNorm of vectors": (layers.BatchNorm(scale=False), stax.BatchNorm(0, scale=False), (-1, 7)),
}


@pytest.mark.parametrize("name", TWINS)
def test_equals_its_stock_twin_on_the_same_parameters(name, key):
    """Values, and gradients for parameters and inputs, with our parameters handed to the stock layer."""
    own, stock, in_shape = TWINS[name]
    params, state, own_shape = build(own, in_shape, key)
    stock_params, _, stock_shape = build(serial(stock), in_shape, key)
    assert own_shape == stock_shape
    assert [leaf.size for leaf in jax.tree.leaves(params)] == [leaf.size for leaf in jax.tree.leaves(stock_params)]
    params = jax.tree.map(lambda x: x + 0.1, params)
    inputs = batch_of(in_shape) - 1

    def value_and_grads(apply):
        weigh = lambda y: (y * jnp.sin(jnp.arange(y.size, dtype=y.dtype)).reshape(y.shape)).sum()  # noqa: E731
        scalar = lambda params, x: weigh(apply(params, x))  # noqa: E731
        return jax.jit(lambda p, x: (apply(p, x), jax.grad(scalar, argnums=(0, 1))(p, x)))(params, inputs)

    ours = value_and_grads(lambda p, x: own.apply(p, state, x, train=True)[0])
    theirs = value_and_grads(lambda p, x: stock[1](p, x))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), ours, theirs)


@pytest.mark.parametrize("padding", ["VALID", "SAME"])
@pytest.mark.parametrize(
    ("window", "strides"), [((2, 2), (2, 2)), ((3, 3), (2, 1)), ((7, 5), (7, 5)), ((1, 2), (3, 1))]
)
def test_max_pool_and_its_gradient_equal_reduce_window(window, strides, padding, key):
    # Odd sizes, so that windows are cut off (VALID) and padded unevenly (SAME).
    inputs = jax.random.normal(key, (2, 7, 9, 3))
    pool = layers.MaxPool(window, strides, padding)

    def reference(x):
        return lax.reduce_window(x, -jnp.inf, lax.max, (1, *window, 1), (1, *strides, 1), padding)

    @functools.partial(jax.jit, static_argnums=0)
    def value_and_pull(function, inputs, cotangent):
        outputs, pull = jax.vjp(function, inputs)
        return outputs, pull(cotangent)[0]

    out_shape, _, _ = pool.init(key, (-1, 7, 9, 3))
    cotangent = jax.random.normal(jax.random.fold_in(key, 1), (2, *out_shape[1:]))
    outputs, gradient = value_and_pull(lambda x: pool.apply((), (), x)[0], inputs, cotangent)
    expected, expected_gradient = value_and_pull(reference, inputs, cotangent)
    np.testing.assert_array_equal(outputs, expected)
    np.testing.assert_allclose(gradient, expected_gradient, rtol=1e-6, atol=1e-6)


def test_max_pool_of_overlapping_windows_shares_the_gradient_of_a_tie():
    pool = layers.MaxPool((2, 2), (1, 1))
    gradient = jax.grad(lambda x: pool.apply((), (), x)[0].sum())(jnp.ones((1, 2, 2, 1)))
    np.testing.assert_array_equal(gradient, np.full((1, 2, 2, 1), 0.25))


class TestBatchNorm:
    def test_running_averages_follow_numpy(self, key):
        momentum, epsilon = 0.8, 1e-3
        model = layers.BatchNorm(momentum=momentum, epsilon=epsilon)
        _, params, state = model.init(key, (-1, 5, 4, 3))
        step = jax.jit(lambda state, x: model.apply(params, state, x, train=True))
        rng = np.random.default_rng(0)
        means, variances = [], []
        for count in range(1, 7):
            x = rng.normal(3, 2, (8, 5, 4, 3)).astype(np.float32)
            outputs, state = step(state, x)
            batch_mean, batch_variance = x.mean((0, 1, 2)), x.var((0, 1, 2))
            np.testing.assert_allclose(outputs, (x - batch_mean) / np.sqrt(batch_variance + epsilon), atol=1e-4)
            means, variances = [*means, batch_mean], [*variances, batch_variance]
            shares = momentum ** np.arange(count)[::-1]
            mean, variance = (np.average(moments, axis=0, weights=shares) for moments in (means, variances))
            np.testing.assert_allclose(state.mean, mean, rtol=1e-5)
            np.testing.assert_allclose(state.variance, variance, rtol=1e-5)
        outputs, after = model.apply(params, state, x[:1])
        np.testing.assert_allclose(outputs, (x[:1] - mean) / np.sqrt(variance + epsilon), atol=1e-4)
        assert after is state

    def test_a_batch_cut_over_devices_gives_what_one_device_gives(self, key):
        """Outputs, running averages and gradients, though the parts' own moments are far apart."""
        model = layers.BatchNorm()
        _, params, state = model.init(key, (-1, 3))
        x = jax.random.normal(key, (8, 3)) + jnp.arange(8.0)[:, None]
        weights = jnp.sin(jnp.arange(24.0)).reshape(8, 3)

        def step(params, x, weights):
            def loss(params):
                outputs, after = model.apply(params, state, x, train=True)
                return (outputs * outputs * weights).sum(), (outputs, after)

            return jax.grad(loss, has_aux=True)(params)

        def part(params, x, weights):
            grads, (outputs, after) = step(params, x, weights)
            return lax.psum(grads, "batch"), (outputs, after)

        grads, (outputs, after) = jax.jit(step)(params, x, weights)
        cut = lambda a: a.reshape(2, 4, 3)  # noqa: E731
        parts = jax.pmap(part, axis_name="batch", in_axes=(None, 0, 0))(params, cut(x), cut(weights))
        for device in range(2):
            part_grads, (part_outputs, part_after) = jax.tree.map(lambda leaf, d=device: np.asarray(leaf)[d], parts)
            np.testing.assert_allclose(part_outputs, cut(outputs)[device], rtol=1e-5, atol=1e-6)
            jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), part_after, after)
            jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), part_grads, grads)

    def test_input_gradient_goes_through_the_moments_of_all_parts(self, key):
        model = layers.BatchNorm()
        _, params, state = model.init(key, (-1, 3))
        x = jax.random.normal(key, (8, 3)) * 3

        def loss(x):
            return (model.apply(params, state, x, train=True)[0] ** 3).sum()

        whole = jax.jit(jax.grad(loss))(x)
        parts = jax.pmap(jax.grad(loss), axis_name="batch")(x.reshape(2, 4, 3))
        np.testing.assert_allclose(np.asarray(parts).reshape(8, 3), whole, rtol=1e-4, atol=1e-5)

    def test_state_and_parameters_may_be_donated_together(self, key):
        model = layers.BatchNorm()
        _, params, state = model.init(key, (-1, 3))
        step = jax.jit(lambda p, s, x: (p, model.apply(p, s, x, train=True)[1]), donate_argnums=(0, 1))
        _, after = step(params, state, jnp.ones((4, 3)))
        np.testing.assert_allclose(after.mean, 1, rtol=1e-5)

    def test_bfloat16_keeps_its_type_and_float32_moments(self, key):
        model = layers.BatchNorm()
        _, params, state = model.init(key, (-1, 3))
        outputs, after = model.apply(params, state, jnp.ones((4, 3), jnp.bfloat16), train=True)
        assert (outputs.dtype, after.mean.dtype) == (jnp.bfloat16, jnp.float32)


class TestDropout:
    @pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
    def test_drops_the_share_and_keeps_the_mean(self, rate, key):
        inputs = jnp.full((400, 500), 2.0)
        outputs, _ = layers.Dropout(rate).apply((), (), inputs, key=key, train=True)
        dropped = float((outputs == 0).mean())
        assert abs(dropped - rate) < 5 * np.sqrt(rate * (1 - rate) / inputs.size)
        np.testing.assert_allclose(outputs[outputs != 0], 2 / (1 - rate), rtol=1e-6)

    def test_differs_by_key_and_repeats_by_key(self, key):
        apply = lambda k: layers.Dropout(0.5).apply((), (), jnp.ones(64), key=k, train=True)[0]  # noqa: E731
        assert (apply(key) == apply(key)).all()
        assert (apply(key) != apply(jax.random.fold_in(key, 1))).any()

    @pytest.mark.parametrize(("rate", "train"), [(0.5, False), (0.0, True)])
    def test_passes_its_inputs_on_without_a_key(self, rate, train):
        inputs = jnp.arange(4.0)
        assert layers.Dropout(rate).apply((), (), inputs, train=train)[0] is inputs


def test_decoding_layers_move_numbers_as_numpy_does():
    inputs = np.arange(2 * 3 * 4 * 2.0).reshape(2, 3, 4, 2)
    repeated, _ = decoding.Upsample(3).apply((), (), jnp.asarray(inputs, jnp.float32))
    np.testing.assert_array_equal(repeated, inputs.repeat(3, axis=1).repeat(3, axis=2))
    reshaped, _ = decoding.Reshape((4, -1)).apply((), (), jnp.asarray(inputs, jnp.float32))
    np.testing.assert_array_equal(reshaped, inputs.reshape(2, 4, 6))


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: layers.Dropout(1.0), "rate in [0, 1), the share that is dropped, found 1.0"),
        (lambda: layers.Dropout(-0.1), "found -0.1"),
        (lambda: layers.Dropout(0.5).apply((), (), jnp.ones(3), train=True), "was given no key"),
        (lambda: layers.BatchNorm(momentum=1.0), "0 <= momentum < 1"),
        (lambda: layers.BatchNorm(epsilon=0.0), "epsilon > 0"),
        (lambda: layers.BatchNorm(axis=(1, 2)).init(None, IMAGES), "with 0 among them, found (1, 2)"),
        (lambda: layers.BatchNorm(axis=(0, 4)).init(None, IMAGES), "axes from 0 to 3"),
        (lambda: layers.Dense(3, W_init="he_norml"), "no initializer is named 'he_norml'. Did you mean 'he_normal'?"),
        (lambda: layers.Dense(3, W_init="constant"), "no initializer is named 'constant'."),
        (lambda: layers.Conv(3, (5, 5)).init(None, (-1, 784)), "Conv with a window (5, 5) expects inputs [B, H, W, C]"),
        (lambda: layers.Conv(3, (9, 3)).init(None, IMAGES), "larger than its inputs (8, 8); use padding SAME"),
        (
            lambda: layers.Conv(3, (3, 3), (1, 0)).init(None, IMAGES),
            "window and strides, all positive and of one length, found (3, 3), (1, 0)",
        ),
        (lambda: layers.MaxPool((0, 2)).init(None, IMAGES), "of one length, found (0, 2)"),
        (lambda: layers.AvgPool((2,)).init(None, IMAGES), "AvgPool with a window (2,) expects inputs [B, W, C]"),
        (lambda: recurrent.LSTM(3).init(None, IMAGES), "expects inputs [B, T, F], found shape (-1, 8, 8, 4)"),
        (
            lambda: decoding.Reshape((7, 7)).init(None, (-1, 50)),
            "Reshape to [7, 7] expects as many numbers",
        ),
        (lambda: decoding.Reshape((-1, -1)).init(None, (-1, 49)), "found 49"),
        (lambda: decoding.Upsample(0), "a factor of 1 or more, found 0"),
        (lambda: decoding.Upsample().init(None, SEQUENCES), "expects images [B, H, W, C], found (-1, 6, 3)"),
        (lambda: models.mlp(activation="rellu"), "no activation is named 'rellu'. Did you mean 'relu'?"),
        (lambda: models.serial([]), "given no layers"),
    ],
)
def test_refuses_in_one_line(make, said):
    with pytest.raises(ConfigError) as refusal:
        make()
    assert said in str(refusal.value)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("name", ["zeros", "ones", "normal", "he_normal", "orthogonal", "lecun_uniform"])
def test_initializers_by_name_are_those_of_jax(name, key):
    W = layers.Dense(6, W_init=name).init(key, (-1, 6))[1].W
    found = getattr(jax.nn.initializers, name)
    reference = found if name in ("zeros", "ones") else found()
    np.testing.assert_array_equal(W, reference(jax.random.split(key)[0], (6, 6)))


def test_initializers_may_be_functions(key):
    W = layers.Dense(6, W_init=lambda key, shape: jnp.full(shape, 7.0)).init(key, (-1, 2))[1].W
    np.testing.assert_array_equal(W, np.full((2, 6), 7.0))
