"""The models: their parameters by path, that they learn, and that their configs build them."""

from __future__ import annotations

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import yaml

from framework.errors import ConfigError
from framework.registry.builder import Builder
from framework.registry.entry_points import discover
from framework.registry.signatures import REQUIRED, schema_of
from framework_stax import catalogue, layers, stack
from framework_stax.models import cnn, logistic_regression, mlp, serial

CONF = Path(__file__).parents[2] / "conf" / "model"
IMAGES = (-1, 28, 28, 1)

MODELS = {
    "mlp": (
        mlp,
        {"hidden": (9, 8)},
        {
            "1_Dense/W": (784, 9),
            "1_Dense/b": (9,),
            "4_Dense/W": (9, 8),
            "4_Dense/b": (8,),
            "7_Dense/W": (8, 10),
            "7_Dense/b": (10,),
        },
    ),
    "mlp without hidden layers": (mlp, {"hidden": (), "classes": 3}, {"1_Dense/W": (784, 3), "1_Dense/b": (3,)}),
    "logistic_regression": (logistic_regression, {"classes": 7}, {"1_Dense/W": (784, 7), "1_Dense/b": (7,)}),
    "cnn": (
        cnn,
        {},
        {
            "0_Conv/W": (5, 5, 1, 16),
            "0_Conv/b": (16,),
            "3_Conv/W": (5, 5, 16, 32),
            "3_Conv/b": (32,),
            "7_Dense/W": (512, 128),
            "7_Dense/b": (128,),
            "10_Dense/W": (128, 10),
            "10_Dense/b": (10,),
        },
    ),
}


def shapes_by_path(model, in_shape):
    params = jax.eval_shape(lambda key: model.init(key, in_shape)[1], jax.random.key(0))
    leaves = jax.tree.leaves_with_path(params)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf.shape for path, leaf in leaves}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_parameters_have_these_paths_at_every_dropout_rate(name, dropout):
    factory, options, expected = MODELS[name]
    if factory is not logistic_regression:
        options = {**options, "dropout": dropout}
    assert shapes_by_path(factory(**options), IMAGES) == expected


def test_cnn_takes_any_number_of_convolutions():
    paths = shapes_by_path(cnn(channels=(4, 5, 6), kernel=3, hidden=7), (-1, 30, 30, 3))
    assert [paths[f"{i}_Conv/W"] for i in (0, 3, 6)] == [(3, 3, 3, 4), (3, 3, 4, 5), (3, 3, 5, 6)]
    assert paths["10_Dense/W"] == (2 * 2 * 6, 7)


@pytest.mark.parametrize(
    "model", [mlp((32,), 4, dropout=0.1), cnn((4, 8), 3, 16, 4), logistic_regression(4)], ids=["mlp", "cnn", "logistic"]
)
def test_learns_where_a_square_lies(model, key):
    """Four classes: the quadrant of a bright square in a noisy 12×12 image."""
    rng = np.random.default_rng(0)
    targets = jnp.asarray(rng.integers(0, 4, 128))
    images = rng.normal(0, 0.3, (128, 12, 12, 1)).astype(np.float32)
    for image, target in zip(images, np.asarray(targets), strict=True):
        top, left = 6 * (target // 2) + 1, 6 * (target % 2) + 1
        image[top : top + 4, left : left + 4] += 1
    optimizer = optax.sgd(0.1, momentum=0.9)

    @jax.jit
    def init(key):
        _, params, state = model.init(key, (-1, 12, 12, 1))
        return params, state, optimizer.init(params)

    @jax.jit
    def step(params, state, moments, key):
        def loss(params):
            logits, after = model.apply(params, state, images, key=key, train=True)
            return optax.softmax_cross_entropy_with_integer_labels(logits, targets).mean(), after

        (value, after), grads = jax.value_and_grad(loss, has_aux=True)(params)
        updates, moments = optimizer.update(grads, moments)
        return optax.apply_updates(params, updates), after, moments, value

    params, state, moments = init(key)
    losses = []
    for i in range(30):
        params, state, moments, value = step(params, state, moments, jax.random.fold_in(key, i))
        losses.append(float(value))
    logits = model.apply(params, state, images)[0]
    assert abs(losses[0] - np.log(4)) < 1
    assert losses[-1] < 0.2
    assert (logits.argmax(-1) == targets).mean() > 0.98


@pytest.mark.parametrize("name", ["mlp", "cnn", "logistic_regression"])
def test_configs_hold_the_defaults(name):
    config = yaml.safe_load((CONF / f"{name}.yaml").read_text())
    factory, _, _ = MODELS[name]
    assert config.pop("name") == name
    assert shapes_by_path(factory(**config), IMAGES) == shapes_by_path(factory(), IMAGES)


def test_the_worked_layer_list_builds_by_name():
    config = yaml.safe_load((CONF / "serial.yaml").read_text())
    assert config.pop("name") == "serial"
    model = serial([named_layer(entry) for entry in config["layers"]])
    paths = shapes_by_path(model, IMAGES)
    assert paths["5_parallel/1_serial/2_Conv/W"] == (3, 3, 16, 16)
    assert paths["10_Dense/W"] == (784, 10)


def named_layer(entry):
    """Build an entry of this list as the core does: `name`, `{name: value}` or `{name: {option: value}}`."""
    ((name, options),) = entry.items() if isinstance(entry, dict) else [(entry, {})]
    if name in ("serial", "parallel"):
        return getattr(stack, f"named_{name}")([named_layer(each) for each in options])
    factory = getattr(layers, name, None) or catalogue.layers()[name]
    return factory(**options) if isinstance(options, dict) else factory(options)


OTHERS = ("axis", "blocks", "shape", "step")
"""Options of layers and models that are whole numbers, and may be 0 or -1."""

NEEDED = {
    "out_dim": 2,
    "out_chan": 2,
    "filter_shape": [2, 2],
    "window_shape": [2, 2],
    "num": 2,
    "vocab": 2,
    "dim": 2,
    "hidden": 2,
    "context": 2,
    "heads": 2,
    "factor": 2,
    "dimension_numbers": ["NHWC", "HWIO", "NHWC"],
}


def sizes():
    """Every size of every layer and model: (kind, name, option, whether there are several)."""
    for kind in ("layers", "models"):
        for plugin in discover().every(kind):
            for option in schema_of(plugin.load()).options:
                if "int" in option.type_name and option.name not in OTHERS:
                    yield kind, plugin.name, option.name, "tuple" in option.type_name


@pytest.mark.parametrize(("kind", "name", "option", "several"), list(sizes()))
def test_a_size_below_1_is_refused_by_its_key(kind, name, option, several):
    options = schema_of(discover().find(kind, name, "model").load()).options
    needed = {each.name: NEEDED[each.name] for each in options if each.default is REQUIRED}
    for size in (0, -1):
        config = {"name": name, **needed, option: [2, size] if several else size}
        with pytest.raises(ConfigError) as caught:
            Builder(discover()).named(kind, config, "model")
        key = f"model.{option}[1]" if several else f"model.{option}"
        assert str(caught.value) == f"{key}: expected int from 1, found {size} (int)."


@pytest.mark.parametrize("rate", [1, 1.5, -0.1])
@pytest.mark.parametrize("name", ["mlp", "cnn", "transformer"])
def test_a_rate_of_dropout_is_refused_by_its_key(name, rate):
    with pytest.raises(ConfigError, match=r"^model\.dropout: expected float from 0 to below 1, found "):
        Builder(discover()).named("models", {"name": name, "dropout": rate}, "model")
