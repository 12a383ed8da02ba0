"""The Orbax store: bit for bit, in pieces, and no damage that becomes numbers."""

from __future__ import annotations

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

import framework
from framework import testing
from framework.checkpoints.checkpoint import commit, restore
from framework.checkpoints.npz import FILES
from framework.checkpoints.snapshot import snapshot
from framework.errors import ConfigError, StorageError
from framework.testing import assert_same_bits
from framework.trees import data_by_path
from framework_orbax.store import orbax

ORBAX = orbax()
DTYPES = [
    "bfloat16",
    "float16",
    "float32",
    "int8",
    "uint8",
    "int32",
    "uint32",
    "bool",
    "complex64",
    "float8_e5m2",
    "int4",
]

TINY = [
    *testing.TINY,
    "data.classes=8",
    "model.classes=8",
    "train.log_every=2",
    "train.eval_every=0",
    "train.checkpoint_every=2",
]


def tree():
    arrays = {dtype: jnp.asarray(np.arange(6).reshape(2, 3), dtype) for dtype in DTYPES}
    odd = {"a.b c": {"é": jnp.zeros(1)}, "scalar": jnp.int32(-2), "empty": jnp.zeros([3, 0, 2], jnp.int8)}
    return {**arrays, **odd, "key": jax.random.key(5), "not finite": jnp.array([jnp.nan, jnp.inf, -0.0])}


def test_a_tree_comes_back_bit_for_bit_whole_and_in_part(tmp_path):
    path = commit(tmp_path, 3, data_by_path(tree()), ORBAX)
    assert json.loads((path / "manifest.json").read_text())["store"] == "orbax"
    assert_same_bits(restore(path, jax.eval_shape(tree), whole=True), tree())
    part = {"int4": tree()["int4"], "empty": tree()["empty"]}
    assert_same_bits(restore(path, part), part)


@pytest.mark.parametrize("store", [ORBAX, FILES], ids=lambda store: store.name)
def test_what_is_cut_over_devices_comes_back_so_and_no_donation_reaches_it(tmp_path, store):
    mesh = jax.make_mesh((2,), ("x",), axis_types=(jax.sharding.AxisType.Auto,))
    cut, whole = (NamedSharding(mesh, spec) for spec in (PartitionSpec("x"), PartitionSpec()))
    values = {"a": np.arange(8, dtype=np.float32).reshape(4, 2), "b": np.ones(3, np.float32)}
    state = {"a": jax.device_put(values["a"], cut), "b": jax.device_put(values["b"], whole)}
    held = snapshot(state)
    jax.block_until_ready(jax.jit(lambda tree: jax.tree.map(jnp.negative, tree), donate_argnums=0)(state))
    path = commit(tmp_path, 1, held, store)
    like = {
        name: jax.ShapeDtypeStruct(v.shape, v.dtype, sharding=cut if name == "a" else whole)
        for name, v in values.items()
    }
    found = restore(path, like)
    assert_same_bits(found, {name: jnp.asarray(value) for name, value in values.items()})
    assert found["a"].sharding.is_equivalent_to(cut, 2) and found["b"].sharding.is_equivalent_to(whole, 1)
    assert [shard.data.shape for shard in found["a"].addressable_shards] == [(2, 2), (2, 2)]
    assert_same_bits(restore(path, {"a": jnp.zeros([4, 2])}), {"a": jnp.asarray(values["a"])})


def damages(path, flips):
    """For each file: cut to nothing, to a half, by a byte, deleted, and bits flipped at so many places."""
    whole = path.read_bytes()
    yield "deleted", None
    for length in {0, len(whole) // 2, max(len(whole) - 1, 0)}:
        yield f"cut to {length}", whole[:length]
    for at in range(0, len(whole), max(len(whole) // flips, 1)):
        yield f"bit {at % 8} of byte {at}", bytes([*whole[:at], whole[at] ^ 1 << at % 8, *whole[at + 1 :]])


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # of reads that Orbax abandons
@pytest.mark.parametrize("flips", [2, pytest.param(24, marks=pytest.mark.slow)])
def test_no_damage_in_any_file_becomes_numbers(tmp_path, flips):
    sound = {"W": jnp.arange(40.0).reshape(8, 5), "b": jnp.ones(3, jnp.bfloat16)}
    path = commit(tmp_path, 1, data_by_path(sound), ORBAX)
    told = 0
    for file in sorted(file for file in path.rglob("*") if file.is_file()):
        content = file.read_bytes()
        for _, damaged in damages(file, flips):
            file.unlink() if damaged is None else file.write_bytes(damaged)
            try:
                assert_same_bits(restore(path, sound, whole=True), sound)
            except StorageError as error:
                assert str(error).startswith(f"checkpoint {path} cannot be read: ") and "\n" not in str(error)
                told += 1
            file.write_bytes(content)
    assert_same_bits(restore(path, sound, whole=True), sound)
    assert told > 20


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("strategy", [[], ["strategy=sharded", "strategy.fsdp=2"]], ids=["jit", "fsdp"])
def test_a_run_that_orbax_saves_goes_on_from_the_step_before_a_damaged_one(tmp_path, strategy):
    words = [*TINY, *strategy, "train.steps=8"]
    straight = framework.run([*words, f"run.dir={tmp_path}/straight"])
    framework.run([*words, "callbacks.checkpoint.store=orbax", "train.steps=6", f"run.dir={tmp_path}/run"])
    newest = tmp_path / "run" / "checkpoints" / "6"
    for file in [file for file in (newest / "arrays").rglob("*") if file.is_file()]:
        content = bytearray(file.read_bytes())
        content[len(content) // 2] ^= 8
        file.write_bytes(content)
    resumed = framework.resume(tmp_path / "run", ["train.steps=8"])
    assert_same_bits(resumed.state, straight.state)
    assert (tmp_path / "run" / "checkpoints" / "6.damaged").is_dir()
    assert framework.load(tmp_path / "run")(np.zeros([2, 6], np.float32)).shape == (2, 8)


def test_a_checkpoint_of_a_store_that_is_not_installed_is_one_line_and_stays(tmp_path):
    result = framework.run([*TINY, "train.steps=2", f"run.dir={tmp_path}/run"])
    checkpoints = tmp_path / "run" / "checkpoints"
    shutil.rmtree(checkpoints / "2")
    commit(checkpoints, 2, data_by_path(result.state), ORBAX._replace(name="elsewhere"))
    with pytest.raises(ConfigError, match=r"no store is named 'elsewhere'\. Known: files, orbax") as told:
        restore(checkpoints / "2", result.state)
    assert str(told.value).startswith(f"checkpoint {checkpoints / '2'}")
    with pytest.raises(ConfigError):
        framework.resume(tmp_path / "run")
    assert (checkpoints / "2").is_dir()
