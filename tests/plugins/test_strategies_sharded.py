"""The strategy `sharded`: losses of one device on any mesh, state made and kept in pieces, refusals in a line."""

from __future__ import annotations

import functools
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

import framework
from framework import testing
from framework.api import TrainState
from framework.errors import ConfigError
from framework.testing import run_record, series
from framework_strategies.sharded import sharded

WORDS = [
    "data.classes=8",
    "data.examples=60",
    "model.hidden=[8, 12]",
    "model.classes=8",
    "model.dropout=0.25",
    "train.steps=8",
    "train.log_every=1",
    "train.eval_every=5",
    "callbacks=[]",
]
COLUMNS_THEN_ROWS = ["strategy.rules={1_Dense/W: [null, tensor], 4_Dense/W: [tensor, null]}"]
TAGS = ("train/loss", "train/accuracy", "eval/loss", "eval/accuracy")


@pytest.fixture
def train(tmp_path):
    return functools.partial(testing.train, tmp_path, *WORDS)


def specs_by_path(tree):
    leaves = jax.tree.leaves_with_path(tree)
    return {jax.tree_util.keystr(keys, simple=True, separator="/"): leaf.sharding.spec for keys, leaf in leaves}


@pytest.mark.parametrize("steps_per_call", ["auto", 1])
@pytest.mark.parametrize(
    ("mesh", "cut"),
    [
        ([], {}),
        (["strategy.fsdp=2"], {"1_Dense/W": (None, "fsdp"), "4_Dense/W": (None, "fsdp"), "7_Dense/W": ("fsdp",)}),
        (["strategy.tensor=2", *COLUMNS_THEN_ROWS], {"1_Dense/W": (None, "tensor"), "4_Dense/W": ("tensor",)}),
    ],
    ids=["data", "fsdp", "tensor"],
)
def test_two_devices_give_the_losses_of_one_and_keep_the_state_in_its_pieces(train, mesh, cut, steps_per_call):
    reference = train("strategy=jit", f"train.steps_per_call={steps_per_call}")
    result = train("strategy=sharded", *mesh, f"train.steps_per_call={steps_per_call}")
    for tag in TAGS:
        np.testing.assert_allclose(series(result, tag), series(reference, tag), rtol=1e-5, err_msg=tag)
    specs, adam = specs_by_path(result.state.params), result.state.opt_state.inner_state[0]
    assert {path: tuple(specs[path]) for path in cut} == cut
    assert specs_by_path(adam.mu) == specs_by_path(adam.nu) == specs
    assert all(len(leaf.sharding.device_set) == 2 for leaf in jax.tree.leaves(result.state))


def test_a_resumed_run_has_the_bits_of_one_that_was_not_stopped(train):
    chosen = ["strategy=sharded", "strategy.fsdp=2", "train.eval_every=0", "callbacks=[checkpoint]"]
    whole, part = train(*chosen), train(*chosen, "train.steps=3")
    resumed = framework.resume(part.directory, ["train.steps=8"])
    assert specs_by_path(resumed.state) == specs_by_path(whole.state)
    for left, right in zip(jax.tree.leaves(resumed.state.params), jax.tree.leaves(whole.state.params), strict=True):
        np.testing.assert_array_equal(left, right)


def test_an_optimizer_that_hides_the_paths_is_cut_by_shape(train):
    reference = train("strategy=jit", "optimizer=example_adam")
    result = train("strategy=sharded", "strategy.fsdp=2", "optimizer=example_adam")
    np.testing.assert_allclose(series(result, "train/loss"), series(reference, "train/loss"), rtol=1e-5)
    moments = [leaf for leaf in jax.tree.leaves(result.state.opt_state) if leaf.shape == (8, 12)]
    assert len(moments) == 3
    assert {leaf.sharding.spec for leaf in moments} == {PartitionSpec(None, "fsdp")}


def test_the_longest_path_that_fits_names_the_parameter():
    def init(key):
        params = {"W": jnp.zeros([4, 4]), "in": {"W": jnp.zeros([4, 4])}}
        return TrainState(jnp.zeros([], jnp.int32), params, (), {"mu": params}, key)

    strategy = sharded(data=1, fsdp=2, rules={"W": [None, None], "in/W": ["fsdp", None]})
    state = strategy.init(init, jax.random.key(0))
    assert state.opt_state["mu"]["W"].sharding.spec == PartitionSpec(None, None)
    assert state.opt_state["mu"]["in"]["W"].sharding.spec == PartitionSpec("fsdp", None)


@pytest.mark.parametrize("rules", [{}, {"W": ["fsdp", None]}])
def test_the_state_is_made_in_pieces_and_one_program_serves_every_step(caplog, rules):
    def init(key):
        return TrainState(jnp.zeros([], jnp.int32), {"W": jax.random.normal(key, [64, 64])}, (), (), key)

    def step(state, batch):
        W = state.params["W"] - batch["inputs"].mean() * jnp.float32(0.1)
        return state._replace(step=state.step + 1, params={"W": W}), {"loss": (W.sum(), jnp.float32(1))}

    strategy = sharded(data=1, fsdp=2, rules=rules)
    state = strategy.init(init, jax.random.key(0))
    assert [shard.data.shape for shard in state.params["W"].addressable_shards] == [(32, 64)] * 2
    compiled = strategy.train(step, 0)
    with jax.log_compiles(True):
        for _ in range(3):
            given = state
            state, _ = compiled(state, strategy.feed({"inputs": np.ones([4], np.float32)}, 0))
            assert given.params["W"].is_deleted()
            assert state.params["W"].sharding.spec == PartitionSpec("fsdp")
    assert caplog.text.count("Finished XLA compilation") == 1
    np.testing.assert_allclose(state.params["W"], init(jax.random.key(0)).params["W"] - np.float32(0.3), atol=1e-6)


@pytest.mark.parametrize(
    ("overrides", "text"),
    [
        (["strategy.data=4", "strategy.tensor=2"], "data=4 × fsdp=1 × tensor=2 needs 8 devices, and there are 2"),
        (["strategy.fsdp=3"], "fsdp=3 × tensor=1 does not divide the 2 devices; set strategy.data"),
        (["strategy.fsdp=0"], "expected sizes of at least 1"),
        (["data.batch_size=15"], "data.batch_size: 15 does not divide over 2 devices"),
        (["strategy.rules={1_Dense/W: [model]}"], "strategy.rules.1_Dense/W: the mesh has no axis 'model'."),
        (["strategy.rules={1_Dense/W: [data, data]}"], "names an axis twice"),
        (["strategy.rules={1_Dens/W: [fsdp]}"], "'1_Dens/W' fits no parameter. Did you mean '1_Dense/W'?"),
        (["strategy.rules={1_Dense/b: [null, fsdp]}"], "'1_Dense/b' has 1 axes, and its rule names 2"),
        (["strategy.rules={7_Dense/b: [tensor]}", "strategy.tensor=2", "model.classes=9", "data.classes=9"],
         "'7_Dense/b' [9] has an axis of 9, which tensor=2 does not divide"),
        (["strategy.rules={1_Dense/W: 1}"], "strategy.rules.1_Dense/W: expected"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_one_line(train, overrides, text):
    with pytest.raises(ConfigError) as caught:
        train("strategy=sharded", *overrides)
    assert text in str(caught.value)
    assert "\n" not in str(caught.value)


STRATEGIES = {
    "pmap": ["strategy=pmap"],
    "data": ["strategy=sharded"],
    "fsdp": ["strategy=sharded", "strategy.fsdp=2"],
    "tensor": ["strategy=sharded", "strategy.fsdp=2", "strategy.tensor=2", *COLUMNS_THEN_ROWS],
}


@pytest.mark.parametrize(
    ("devices", "names"),
    [(4, ["pmap", "fsdp"]), pytest.param(8, list(STRATEGIES), marks=pytest.mark.slow)],
)
def test_more_devices_give_the_losses_of_one(train, tmp_path, devices, names):
    words = [*testing.TINY, *WORDS, "model.dropout=0"]  # whose noise with pmap is that of as many devices
    jobs = [[*words, *STRATEGIES[name], f"run.dir={tmp_path}/{name}"] for name in names]
    environment = {**os.environ, "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}"}
    code = f"import framework\nfor job in {jobs!r}: framework.run(job)"
    done = subprocess.run([sys.executable, "-c", code], env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    reference = train("strategy=jit", "model.dropout=0")
    for name in names:
        assert run_record(tmp_path / name)["status"] == "done"
        for tag in TAGS:
            losses = series(tmp_path / name, tag)
            np.testing.assert_allclose(losses, series(reference, tag), rtol=1e-5, err_msg=f"{name}: {tag}")
