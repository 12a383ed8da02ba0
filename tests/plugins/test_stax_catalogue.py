"""The catalogue finds stax's layers, gives them YAML's values, and lists them."""

from __future__ import annotations

import inspect
import math
from importlib.metadata import entry_points

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.example_libraries import stax
from jax.nn.initializers import orthogonal

from framework.api import Model, layer_name
from framework_stax.activations import activations
from framework_stax.catalogue import layers

FOUND = layers()
CONSTANTS = [name for name, value in vars(stax).items() if name[0].isupper() and isinstance(value, tuple)]
FACTORIES = [name for name, value in vars(stax).items() if name[0].isupper() and callable(value)]
OURS = {"AvgPool", "BatchNorm", "Conv", "Dense", "Dropout", "MaxPool"}


def test_every_stock_layer_is_found():
    assert {"Relu", "Flatten", "Identity", "FanInSum", "LogSoftmax", "Exp"} <= set(CONSTANTS)
    assert {"Dense", "GeneralConv", "Conv1DTranspose", "SumPool", "FanOut", "FanInConcat"} <= set(FACTORIES)
    stock = {*CONSTANTS, *FACTORIES}
    assert {f"stax.{name}" for name in stock} == {name for name in FOUND if name.startswith("stax.")}
    assert stock - OURS <= set(FOUND)


def test_listings_show_formulas_without_markup():
    assert inspect.getdoc(FOUND["HardTanh"]).startswith("Hard tanh activation function")
    assert not any(":math:" in (inspect.getdoc(factory) or "") for factory in FOUND.values())


def test_plain_names_are_left_to_our_own_layers():
    registered = {entry.name for entry in entry_points(group="framework.layers")}
    if not registered >= OURS:
        pytest.skip("the framework is not installed, or installed without its entry points")
    assert not registered & set(FOUND)


@pytest.mark.parametrize("name", CONSTANTS)
def test_constants_compute_what_stock_ones_do(name, key):
    shape = (3, 4)
    inputs = [jax.random.normal(key, shape)] * 2 if name == "FanInSum" else jax.random.normal(key, shape)
    expected = vars(stax)[name][1]((), inputs)
    for factory in (FOUND[name], FOUND[f"stax.{name}"]):
        model = factory()
        assert layer_name(model) == name
        np.testing.assert_array_equal(model.apply((), (), inputs)[0], expected)


@pytest.mark.parametrize(
    ("name", "args", "options", "stock", "in_shape"),
    [
        ("stax.Dense", [3], {}, stax.Dense(3), (4,)),
        ("stax.Dense", [3, None, None], {}, stax.Dense(3), (4,)),
        ("stax.Dense", [], {"out_dim": 3, "W_init": "orthogonal"}, stax.Dense(3, orthogonal()), (4,)),
        ("stax.Conv", [], {"out_chan": 3, "filter_shape": [2, 3]}, stax.Conv(3, (2, 3)), (6, 6, 2)),
        ("stax.Conv", [3, [2, 3], [2, 1], "SAME"], {}, stax.Conv(3, (2, 3), (2, 1), "SAME"), (6, 6, 2)),
        ("stax.Conv", [3, [2, 2], None, [[1, 0], [0, 1]]], {}, stax.Conv(3, (2, 2), None, ((1, 0), (0, 1))), (6, 6, 2)),
        ("stax.MaxPool", [[2, 2]], {"strides": [2, 2]}, stax.MaxPool((2, 2), (2, 2)), (6, 6, 2)),
        ("SumPool", [], {"window_shape": [2, 2]}, stax.SumPool((2, 2)), (6, 6, 2)),
        ("stax.AvgPool", [[3, 3]], {"padding": "SAME"}, stax.AvgPool((3, 3), padding="SAME"), (6, 6, 2)),
        ("stax.BatchNorm", [], {"axis": [0, 1, 2], "scale": False}, stax.BatchNorm((0, 1, 2), scale=False), (6, 6, 2)),
        ("ConvTranspose", [3, [2, 2]], {"strides": [2, 2]}, stax.ConvTranspose(3, (2, 2), (2, 2)), (6, 6, 2)),
        (
            "GeneralConv",
            [["NHWC", "HWIO", "NHWC"], 3, [2, 2]],
            {"W_init": "zeros"},
            stax.GeneralConv(("NHWC", "HWIO", "NHWC"), 3, (2, 2), W_init=jax.nn.initializers.zeros),
            (6, 6, 2),
        ),
    ],
)
def test_stock_factories_take_values_as_yaml_gives_them(name, args, options, stock, in_shape, key):
    model = FOUND[name](*args, **options)
    _, params, state = model.init(key, (-1, *in_shape))
    _, expected = stock[0](key, (-1, *in_shape))
    jax.tree.map(np.testing.assert_array_equal, params, expected)
    inputs = jax.random.normal(key, (2, *in_shape))
    np.testing.assert_array_equal(model.apply(params, state, inputs)[0], stock[1](expected, inputs))


def test_activations_are_those_of_jax():
    smooth = {"celu", "elu", "gelu", "mish", "selu", "sigmoid", "silu", "soft_sign", "softplus", "squareplus", "tanh"}
    broken = {"relu", "relu6", "leaky_relu", "hard_sigmoid", "hard_silu", "hard_tanh", "sparse_plus"}
    over_an_axis = {"glu", "softmax", "log_softmax"}
    assert smooth | broken | over_an_axis <= set(activations())
    assert not {"one_hot", "logsumexp", "logmeanexp", "dot_product_attention"} & set(activations())


X = np.linspace(-3, 3, 12, dtype=np.float32).reshape(2, 6)


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("Elu", {"alpha": 0.5}, np.where(X > 0, X, 0.5 * np.expm1(X))),
        ("LeakyRelu", {"negative_slope": 0.2}, np.where(X > 0, X, 0.2 * X)),
        ("Squareplus", {"b": 1.0}, (X + np.sqrt(X**2 + 1)) / 2),
        ("Silu", {}, X / (1 + np.exp(-X))),
        ("Softmax", {"axis": 0}, np.exp(X) / np.exp(X).sum(0)),
        ("Glu", {}, X[:, :3] / (1 + np.exp(-X[:, 3:]))),
        ("Gelu", {"approximate": False}, X / 2 * (1 + np.vectorize(math.erf)(X / np.sqrt(2)))),
        ("HardTanh", {}, np.clip(X, -1, 1)),
    ],
)
def test_activations_take_their_options(name, options, expected):
    model = FOUND[name](**options)
    assert layer_name(model) == name
    np.testing.assert_allclose(model.apply((), (), jnp.asarray(X))[0], expected, rtol=1e-5, atol=1e-6)
    assert model.init(None, (-1, 6)) == ((-1, expected.shape[1]), (), ())


@pytest.mark.parametrize("name", FOUND)
def test_listing_shows_a_line_and_the_options(name):
    factory = FOUND[name]
    first = factory.__doc__.splitlines()[0]
    assert len(first) > 10
    signature = inspect.signature(factory)
    assert signature.return_annotation is Model
    for parameter in signature.parameters.values():
        assert parameter.kind is parameter.POSITIONAL_OR_KEYWORD
        assert not callable(parameter.default) or parameter.default is parameter.empty


@pytest.mark.parametrize("name", ["stax.Dropout", "stax.BatchNorm", "stax.MaxPool"])
def test_listing_warns_of_the_traps_of_stock_layers(name):
    assert FOUND[name].__doc__.count("\n\n") == 1
