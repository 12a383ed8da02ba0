"""`keys`: the streams that it lists are those that are drawn, none shifts another, and reuse is found everywhere."""

from __future__ import annotations

import json

import jax
import numpy as np
import pytest

from framework import testing
from framework.config.compose import compose
from framework.errors import PluginError
from framework.experiment import build
from framework.registry.entry_points import discover
from framework.steps.rng import root_key, stream
from framework_inspect.keys import streams_of

SHIFTED = "data.transform=[{random_shift:{pixels:1}}]"
NOISY = [*testing.TINY, "data.shape=[4,4,1]", "model.dropout=0.5", SHIFTED, "train.steps=2", "callbacks=[]"]


def streams(*words):
    return {each.name: each.numbers for each in streams_of(build(compose(words), discover())).streams}


def test_streams_have_the_names_of_their_layers():
    assert streams(*NOISY) == {
        ("root", "init", "1_Dense", "split 0"): 16 * 8,
        ("root", "init", "4_Dense", "split 0"): 8 * 10,
        ("root", "step", "augment", "0", "split", "split 0"): 16 * 2,
        ("root", "step", "augment", "0", "split", "split 1"): 16 * 2,
        ("root", "step", "model", "3_Dropout"): 16 * 8,
    }


@pytest.mark.parametrize(
    ("strategy", "name", "numbers"),
    [
        ("jit", ("root", "step", "model", "3_Dropout"), 16 * 8),
        ("sharded", ("root", "step", "model", "3_Dropout"), 16 * 8),
        ("eager", ("root", "step", "model", "3_Dropout"), 16 * 8),
        ("pmap", ("root", "step", "device", "model", "3_Dropout"), 8 * 8),
        ("vmapped", ("root", "step", "model", "3_Dropout"), 4 * 16 * 8),
    ],
)
def test_devices_and_members_have_their_parts(strategy, name, numbers):
    assert streams(*NOISY, f"strategy={strategy}")[name] == numbers


def test_a_name_says_what_is_folded_in():
    experiment = build(compose(NOISY), discover())
    state = experiment.init(np.uint32(0))
    key = jax.random.split(jax.random.fold_in(stream(root_key(0), "init"), 1))[0]  # root › init › 1_Dense › split 0
    expected = jax.nn.initializers.glorot_normal()(key, (16, 8))
    np.testing.assert_array_equal(state.params["1_Dense"].W, expected)


@pytest.mark.parametrize(
    "more",
    [
        ["model.dropout=0.25"],
        ["callbacks=[progress,checkpoint]", "train.checkpoint_every=1"],
        ["data.transform=[{random_shift:{pixels:1}},{gaussian_noise:{scale:0.1}}]"],
        ["metrics+=perplexity", "ema=0.9"],
        ["nan_policy=skip", "optimizer=sgd"],
    ],
    ids=" ".join,
)
def test_nothing_that_is_added_shifts_a_stream(more):
    assert streams(*NOISY).items() <= streams(*NOISY, *more).items()


def test_dropout_that_is_switched_on_shifts_no_initial_parameter():
    without, given = (build(compose([*NOISY, f"model.dropout={rate}"]), discover()) for rate in (0.0, 0.5))
    testing.assert_same_bits(without.init(np.uint32(3)), given.init(np.uint32(3)))
    more = "model.layers=[Flatten,{Dense:8},Relu,{Dropout:0.5},{Dense:10}]"
    base, added = (
        streams(*testing.TINY, "~model.hidden", "model=serial", layers)
        for layers in (more, more.replace("{Dense:10}", "{Dense:10},{Dropout:0.1}"))
    )
    assert base.items() <= added.items()
    assert len(added) == len(base) + 1


@pytest.mark.parametrize("strategy", ["jit", "pmap", "sharded", "vmapped", "eager"])
def test_the_check_of_reuse_passes_a_sound_run_under_every_strategy(tmp_path, strategy):
    testing.train(tmp_path, *NOISY[len(testing.TINY) :], f"strategy={strategy}", "debug=keys")


TWICE = """
import jax
from framework.api import Model


def twice():
    def init(key, in_shape):
        return (-1, 10), jax.random.normal(key, (in_shape[-1], 10)), ()

    def apply(params, state, inputs, *, key=None, train=False):
        outputs = inputs @ params
        if train:
            outputs = outputs + jax.random.normal(key, outputs.shape) + jax.random.uniform(key, outputs.shape)
        return outputs, state

    return Model(init, apply)
"""


@pytest.mark.parametrize("strategy", ["jit", "pmap", "sharded", "vmapped", "eager"])
def test_a_key_that_is_used_twice_is_found_under_every_strategy(tmp_path, install, strategy):
    install("acme", {"framework.models": {"twice": "acme_twice:twice"}}, {"acme_twice.py": TWICE})
    with pytest.raises(PluginError, match=r"'twice' \(acme 1\.0\) must not use a random key twice"):
        testing.train(tmp_path, "model=twice", "~model.hidden", f"strategy={strategy}", "debug=keys", "callbacks=[]")


def test_the_verb_prints_a_tree_or_json():
    shown = testing.command("keys", *NOISY, "seed=7")
    assert shown.code == 0, shown.err
    assert "root is the key of seed 7; each name below is folded in" in shown.out
    assert "      3_Dropout" in shown.out
    found = json.loads(testing.command("keys", *NOISY, "--json").out)
    assert found["streams"][0] == {"name": ["root", "init", "1_Dense", "split 0"], "layer": "1_Dense", "numbers": 128}
