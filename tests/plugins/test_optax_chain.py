"""Chains of transformations from a list, and masks by the path of a parameter."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from framework.errors import ConfigError
from framework_optax.chain import chain
from framework_optax.masks import mask_by_path
from framework_optax.optimizers import catalogue

PARAMS = {
    "0_Conv": {"W": jnp.array([[1.0, -2.0]]), "b": jnp.array([3.0])},
    "1_serial": {"0_Dense": {"W": jnp.array([0.5]), "b": jnp.array([-0.5])}},
    "scale": jnp.array([2.0]),
}
GRADS = jax.tree.map(lambda leaf: 2 * leaf, PARAMS)
LISTED = [{"clip_by_global_norm": {"max_norm": 1}}, "scale_by_adam", {"add_decayed_weights": {"weight_decay": 0.1}}]


def updates_of(optimizer):
    """The third update, and the state after it."""

    @jax.jit
    def run():
        state = optimizer.init(PARAMS)
        for _ in range(3):
            updates, state = optimizer.update(GRADS, state, PARAMS)
        return updates, state

    return run()


def optax_updates_of(optimizer):
    with jax.numpy_dtype_promotion("standard"):
        return updates_of(optimizer)[0]


def assert_close(found, wanted, rtol=1e-5):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=rtol, atol=1e-7), found, wanted)


def direct(rate):
    parts = [optax.clip_by_global_norm(1.0), optax.scale_by_adam(), optax.add_decayed_weights(0.1)]
    return optax.chain(*parts, optax.scale_by_learning_rate(rate))


@pytest.mark.parametrize("rate", [0.1, optax.linear_schedule(0.1, 0.0, 4)], ids=["number", "schedule"])
def test_chain_equals_optax(rate):
    found, state = updates_of(chain(rate, [*LISTED, "scale_by_learning_rate"]))
    assert_close(found, optax_updates_of(direct(rate)), rtol=1e-4)
    assert set(state.hyperparams) == {
        "learning_rate",
        "clip_by_global_norm__max_norm",
        *(f"scale_by_adam__{name}" for name in ("b1", "b2", "eps", "eps_root")),
        "add_decayed_weights__weight_decay",
    }
    last = rate if isinstance(rate, float) else rate(2)
    np.testing.assert_allclose(state.hyperparams["learning_rate"], last, rtol=1e-6)


def test_chain_takes_a_traced_learning_rate():
    rates = jnp.array([0.1, 0.2])
    found = jax.vmap(lambda rate: updates_of(chain(rate, [*LISTED, "scale_by_learning_rate"]))[0])(rates)
    for lane, rate in enumerate(rates):
        assert_close(
            jax.tree.map(lambda leaf, i=lane: leaf[i], found), optax_updates_of(direct(float(rate))), rtol=1e-4
        )


def test_learning_rate_of_an_entry_is_its_own():
    entries = [{"sgd": {"learning_rate": 0.5}}, {"scale_by_learning_rate": {"flip_sign": False}}]
    found, state = updates_of(chain(0.1, entries))
    assert_close(found, jax.tree.map(lambda grad: -0.05 * grad, GRADS))
    assert {name: float(value) for name, value in state.hyperparams.items()} == pytest.approx(
        {"sgd__learning_rate": 0.5, "learning_rate": 0.1}
    )


def test_names_that_occur_twice_are_told_apart_by_position():
    entries = [{"clip": {"max_delta": 2.0}}, {"scale": {"step_size": -1.0}}, {"clip": {"max_delta": 1.0}}]
    found, state = updates_of(chain(None, entries))
    assert_close(found, jax.tree.map(lambda grad: jnp.clip(-grad, -1.0, 1.0), GRADS))
    assert set(state.hyperparams) == {"clip_0__max_delta", "scale__step_size", "clip_2__max_delta"}


def test_chain_takes_transformations_that_are_built():
    found, _ = updates_of(chain(0.1, ["identity", optax.sgd(0.25)]))
    assert_close(found, jax.tree.map(lambda grad: -0.25 * grad, GRADS))


@pytest.mark.parametrize(
    ("entries", "words"),
    [
        (["scale_by_adm"], ["no transform 'scale_by_adm'", "Did you mean 'scale_by_adam'?"]),
        ([{"clip_by_global_norm": {"max_nrm": 1.0}}], ["no option 'max_nrm'", "Did you mean 'max_norm'?"]),
        (["clip_by_global_norm"], ["clip_by_global_norm", "max_norm"]),
        ([{"clip_by_global_norm": {"max_norm": "one"}}], ["max_norm", "float", "'one'"]),
        ([{"clip_by_global_norm": 1.0}], ["{option: value}", "1.0"]),
        ([{"clip": {"max_delta": 1.0}, "scale_by_adam": {}}], ["expected a name or {name: {option: value}}"]),
        ([3], ["found 3"]),
        ([], ["transforms is empty"]),
        (["scale_by_adam"], ["no transform takes the learning rate", "scale_by_learning_rate"]),
    ],
)
def test_mistakes_are_told_in_one_line(entries, words):
    with pytest.raises(ConfigError) as caught:
        chain(0.1, entries)
    assert all(word in str(caught.value) for word in words)
    assert "\n" not in str(caught.value)


PATHS = {"0_Conv/W", "0_Conv/b", "1_serial/0_Dense/W", "1_serial/0_Dense/b", "scale"}


@pytest.mark.parametrize(
    ("patterns", "chosen"),
    [
        ("*", PATHS),
        ("*/W", {"0_Conv/W", "1_serial/0_Dense/W"}),
        ("scale", {"scale"}),
        (["0_*", "scale"], {"0_Conv/W", "0_Conv/b", "scale"}),
        (["*", "!*/b"], PATHS - {"0_Conv/b", "1_serial/0_Dense/b"}),
        (["!*/b", "*"], PATHS - {"0_Conv/b", "1_serial/0_Dense/b"}),
        ("!scale", PATHS - {"scale"}),
        (["*/[Wb]", "!1_*"], {"0_Conv/W", "0_Conv/b"}),
    ],
)
def test_mask_chooses_by_path(patterns, chosen):
    flat, _ = jax.tree.flatten_with_path(mask_by_path(patterns)(PARAMS))
    assert {jax.tree_util.keystr(path, simple=True, separator="/") for path, on in flat if on} == chosen


@pytest.mark.parametrize(("pattern", "near"), [("*/w", "0_Conv/W"), ("!1_serial/Dense/b", "1_serial/0_Dense/b")])
def test_pattern_without_a_match_names_the_nearest(pattern, near):
    with pytest.raises(ConfigError) as caught:
        catalogue()["adamw"](0.1, mask=["*", pattern]).init(PARAMS)
    assert f"mask '{pattern}' matches no parameter" in str(caught.value)
    assert near in str(caught.value)


def test_masked_weight_decay_equals_optax():
    tree = jax.tree.map_with_path(lambda path, _: path[-1].key == "W", PARAMS)
    found, _ = updates_of(catalogue()["adamw"](0.1, weight_decay=0.5, mask="*/W"))
    wanted = optax_updates_of(optax.adamw(0.1, weight_decay=0.5, mask=tree))
    assert_close(found, wanted, rtol=1e-4)
    unmasked = optax_updates_of(optax.adamw(0.1, weight_decay=0.5))
    assert not np.allclose(found["scale"], unmasked["scale"])


def test_no_mask_leaves_optax_its_own_default():
    """Lars masks nothing by default, though a mask is not optional there."""
    assert_close(updates_of(catalogue()["lars"](0.1, weight_decay=0.1))[0], optax_updates_of(optax.lars(0.1, 0.1)))
