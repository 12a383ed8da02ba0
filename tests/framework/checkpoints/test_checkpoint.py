"""Checkpoints: what goes in comes out, whole or not at all, and damage is told."""

from __future__ import annotations

import errno
import json
import os
import shutil
import zipfile
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from framework.api import TrainState
from framework.arrays import aligned
from framework.checkpoints import checkpoint
from framework.checkpoints.checkpoint import commit, restore
from framework.checkpoints.folder import steps
from framework.checkpoints.npz import FILES
from framework.checkpoints.snapshot import LocalShards, as_asked
from framework.errors import AccessError, MismatchError, PluginError, StorageError
from framework.registry.builder import Builder
from framework.registry.entry_points import discover
from framework.runs.resume import newest_state
from framework.testing import assert_same_bits, message
from framework.trees import data_by_path, leaves_by_path


class Row(NamedTuple):
    """A NamedTuple with children of its own."""

    weights: jax.Array
    inner: dict


@jax.tree_util.register_pytree_with_keys_class
class Node:
    """A custom node of a pytree."""

    def __init__(self, left, right):
        self.left, self.right = left, right

    def tree_flatten_with_keys(self):
        keys = (jax.tree_util.GetAttrKey("left"), jax.tree_util.GetAttrKey("right"))
        return tuple(zip(keys, (self.left, self.right), strict=True)), None

    @classmethod
    def tree_unflatten(cls, _, children):
        return cls(*children)


def save(folder, step, tree):
    return commit(folder, step, data_by_path(tree))


def train_state():
    params = [{"W": jnp.arange(6.0).reshape(2, 3), "b": jnp.zeros(3)}, ()]
    optimizer = optax.inject_hyperparams(optax.adam)(learning_rate=0.1)
    return TrainState(jnp.int32(7), params, ((), jnp.ones(3)), optimizer.init(params), jax.random.key(3))


TREES = {
    "one array": lambda: jnp.arange(4.0),
    "a dict": lambda: {"W": jnp.ones([2, 3]), "b": jnp.zeros(3)},
    "a list and a tuple": lambda: [jnp.ones(2), (jnp.zeros(1), [jnp.arange(3)])],
    "a NamedTuple": lambda: Row(jnp.ones(2), {"a": jnp.zeros(1)}),
    "a custom node": lambda: {"node": Node(jnp.ones(2), [Node(jnp.zeros(1), jnp.arange(2))])},
    "an optimizer's state": lambda: optax.adam(0.1).init({"W": jnp.ones(2)}),
    "a train state": train_state,
    "nothing": lambda: (),
    "nothing in something": lambda: {"a": (), "b": [{}, None], "c": jnp.ones(1)},
    "scalars": lambda: (jnp.float32(1.5), jnp.int32(-2), jnp.bool_(True)),
    "scalars of Python": lambda: (1.5, -2, True),
    "empty arrays": lambda: {"a": jnp.zeros([0]), "b": jnp.zeros([3, 0, 2], jnp.int8)},
    "NumPy arrays": lambda: {"a": np.arange(3, dtype=np.int16), "b": np.float32(2.0)},
    "a transposed array": lambda: np.arange(6, dtype=np.float32).reshape(2, 3).T,
    "not finite": lambda: jnp.array([jnp.nan, jnp.inf, -jnp.inf, -0.0]),
    "a key": lambda: jax.random.key(5),
    "keys": lambda: {"keys": jax.random.split(jax.random.key(5), (2, 3))},
    "a key of another kind": lambda: jax.random.key(5, impl="rbg"),
    "names with dots and spaces": lambda: {"a.b": jnp.ones(1), "c d": {"é": jnp.zeros(1)}, "x.npy": jnp.ones(2)},
}

DTYPES = ["bfloat16", "float16", "float32", "int8", "uint8", "int16", "int32", "uint32", "bool", "complex64"]
DTYPES += ["float8_e4m3fn", "float8_e5m2", "int4"]


@pytest.mark.parametrize("name", TREES)
def test_a_tree_comes_back_bit_for_bit(tmp_path, name):
    tree = TREES[name]()
    path = save(tmp_path, 3, tree)
    assert path == tmp_path / "3"
    assert_same_bits(restore(path, tree), tree)


@pytest.mark.parametrize("name", TREES)
def test_shapes_and_types_suffice_to_read_a_tree(tmp_path, name):
    tree = TREES[name]()
    assert_same_bits(restore(save(tmp_path, 0, tree), jax.eval_shape(lambda: TREES[name]())), tree)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 1, 3)])
def test_every_dtype_comes_back_bit_for_bit(tmp_path, dtype, shape):
    tree = {"a": jnp.asarray(np.arange(np.prod(shape, dtype=int)).reshape(shape), dtype)}
    assert_same_bits(restore(save(tmp_path, 1, tree), tree), tree)


@pytest.mark.parametrize("offset", [0, 4])
def test_a_stored_array_becomes_a_leaf_with_memory_of_its_own(offset):
    memory = aligned((5000,), np.float32)[offset:]  # a CPU would use an aligned array in place
    memory[...] = 1
    leaf = as_asked(memory, jax.ShapeDtypeStruct(memory.shape, memory.dtype))
    memory[...] = 2
    assert np.all(np.asarray(leaf) == 1)


def test_a_part_of_a_tree_can_be_read(tmp_path):
    state = train_state()
    path = save(tmp_path, 7, state)
    part = {"params": state.params, "model_state": state.model_state}
    assert_same_bits(restore(path, part), part)
    assert_same_bits(
        restore(path, {"params": [{"b": state.params[0]["b"]}]}), {"params": [{"b": state.params[0]["b"]}]}
    )


def test_steps_are_in_order_and_one_that_lost_its_files_is_among_them(tmp_path):
    for step in (10, 9, 100):
        save(tmp_path, step, {"a": jnp.ones(1)})
    (tmp_path / "notes").mkdir()
    (tmp_path / "11").mkdir()
    (tmp_path / ".12.partial").mkdir()
    (tmp_path / "13").write_text("")
    assert steps(tmp_path) == [9, 10, 11, 100]
    with pytest.raises(StorageError, match="11 cannot be read"):
        restore(tmp_path / "11", {"a": jnp.ones(1)})
    assert steps(tmp_path / "nowhere") == []


def test_only_the_step_is_left_in_the_folder(tmp_path):
    for _ in range(2):
        save(tmp_path, 1, train_state())
    files = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*"))
    assert files == ["1", "1/arrays.npz", "1/manifest.json"]


def test_saving_a_step_again_replaces_it(tmp_path):
    save(tmp_path, 1, {"a": jnp.zeros(2), "b": jnp.zeros(1)})
    path = save(tmp_path, 1, {"a": jnp.ones(2)})
    assert_same_bits(restore(path, {"a": jnp.zeros(2)}), {"a": jnp.ones(2)})
    with pytest.raises(StorageError, match="holds no 'b'"):
        restore(path, {"b": jnp.zeros(1)})


def test_no_pickle_is_written_and_none_is_read(tmp_path):
    path = save(tmp_path, 1, train_state())
    with np.load(path / "arrays.npz", allow_pickle=False) as file:
        assert {file[name].dtype for name in file} == {np.dtype(np.uint8)}
    np.savez(path / "arrays.npz", step=np.array([object()], dtype=object))
    with pytest.raises(StorageError, match=r"cannot be read|not those that were saved"):
        restore(path, {"step": jnp.int32(0)})


def test_the_manifest_describes_every_leaf_by_its_path(tmp_path):
    manifest = json.loads((save(tmp_path, 1, train_state()) / "manifest.json").read_text())
    assert list(manifest["leaves"]) == list(leaves_by_path(train_state()))
    assert manifest["leaves"]["params/0/W"]["shape"] == [2, 3]
    assert manifest["leaves"]["params/0/W"]["dtype"] == "float32"
    assert len(manifest["leaves"]["params/0/W"]["sha256"]) == 64


class Failing:
    """An array whose values cannot be had."""

    dtype, shape = np.dtype(np.float32), (2,)

    def __array__(self, *args, **kwargs):
        raise RuntimeError("the device is gone")


def delete(tree):
    jax.tree.leaves(tree)[0].delete()
    return tree


FAILURES = {
    "a leaf that raises": (lambda: {"a": jnp.ones(2), "z": Failing()}, RuntimeError),
    "a deleted array": (lambda: delete({"a": jnp.ones(2)}), RuntimeError),
    "two leaves of one path": (lambda: {"a": {"b": jnp.ones(2)}, "a/b": jnp.zeros(2)}, StorageError),
}


@pytest.mark.parametrize("case", FAILURES)
@pytest.mark.parametrize("step", [1, 2])
def test_a_save_that_fails_half_way_leaves_the_former_steps(tmp_path, case, step):
    tree = {"a": jnp.arange(2.0)}
    save(tmp_path, 1, tree)
    make, error = FAILURES[case]
    with pytest.raises(error):
        save(tmp_path, step, make())
    assert steps(tmp_path) == [1]
    assert_same_bits(restore(tmp_path / "1", tree), tree)
    save(tmp_path, step, tree)
    assert steps(tmp_path) == sorted({1, step})


def test_a_step_that_cannot_be_put_in_place_leaves_the_former_one(tmp_path, monkeypatch):
    tree = {"a": jnp.arange(2.0)}
    save(tmp_path, 1, tree)
    rename = Path.rename

    def refuse(self, target):
        if self.name == ".1.partial":
            raise OSError(28, "No space left on device")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(StorageError, match=r"checkpoint .*/1 cannot be written: No space left on device\."):
        save(tmp_path, 1, {"a": jnp.ones(2)})
    assert steps(tmp_path) == [1]
    assert_same_bits(restore(tmp_path / "1", tree), tree)


@pytest.mark.parametrize("is_there", [True, False])
def test_a_folder_that_cannot_be_written_or_is_gone_is_a_storage_error(tmp_path, is_there):
    folder = tmp_path / "folder"
    if is_there:
        folder.write_text("a file where the folder should be")
    with pytest.raises(StorageError) as raised:
        save(folder, 1, {"a": jnp.ones(2)})
    assert raised.value.exit_code == 5
    assert message(raised).startswith(f"checkpoint {folder / '1'} cannot be written: ")
    assert folder.exists() == is_there


@pytest.mark.parametrize("make", [Path.touch, os.mkfifo, Path.mkdir, lambda path: path.symlink_to("..")])
def test_what_stands_where_a_checkpoint_is_written_makes_way(tmp_path, make):
    make(tmp_path / ".1.partial")
    save(tmp_path, 1, {"a": jnp.ones(2)})
    assert [path.name for path in tmp_path.iterdir()] == ["1"]


@pytest.mark.parametrize(
    ("like", "text"),
    [
        (
            {"a": jnp.zeros([2, 3])},
            "'a' is float32[3, 2], expected float32[2, 3]",
        ),
        (
            {"a": jnp.zeros([3])},
            "'a' is float32[3, 2], expected float32[3]",
        ),
        (
            {"a": jnp.zeros([3, 2], jnp.bfloat16)},
            "'a' is float32[3, 2], expected bfloat16[3, 2]",
        ),
        (
            {"a": jnp.zeros([3, 2], jnp.int32)},
            "'a' is float32[3, 2], expected int32[3, 2]",
        ),
        (
            {"k": jax.random.key(0, impl="rbg")},
            "'k' is uint32[2], expected uint32[4]",
        ),
        (
            {"k": jax.random.split(jax.random.key(0))},
            "'k' is uint32[2], expected uint32[2, 2]",
        ),
        ({"b": jnp.zeros([3, 2])}, "holds no 'b'"),
        ({"a": {"b": jnp.zeros([3, 2])}}, "holds no 'a/b'"),
        ([jnp.zeros([3, 2])], "holds no '0'"),
    ],
)
def test_another_tree_than_was_saved_is_refused_leaf_by_leaf(tmp_path, like, text):
    path = save(tmp_path, 1, {"a": jnp.ones([3, 2]), "k": jax.random.key(1)})
    with pytest.raises(StorageError) as raised:
        restore(path, like)
    assert message(raised) == f"checkpoint {path}: {text}; was it saved with another model or optimizer?"


def test_all_that_differs_is_named_and_a_whole_tree_may_hold_no_more(tmp_path):
    path = save(tmp_path, 1, {"a": jnp.ones(2), "b": jnp.ones(3), "c": jnp.ones(4), "d": jnp.ones(5)})
    with pytest.raises(MismatchError) as raised:
        restore(path, {"a": jnp.ones(2), "b": jnp.ones(2), "e": jnp.ones(1)}, whole=True)
    told = "holds no 'e'; 'b' is float32[3], expected float32[2]; 'c' has no place in this state; 1 more differ"
    assert message(raised) == f"checkpoint {path}: {told}; was it saved with another model or optimizer?"
    part = {"a": jnp.ones(2)}
    assert_same_bits(restore(path, part), part)


@pytest.mark.parametrize("file", ["arrays.npz", "manifest.json"])
def test_a_flipped_bit_anywhere_is_told_or_does_not_matter(tmp_path, file):
    tree = {"W": jnp.arange(4.0), "b": jnp.ones([], jnp.bfloat16)}
    path = save(tmp_path, 1, tree)
    whole = (path / file).read_bytes()
    told = 0
    for at in range(0, len(whole), 1 if file == "manifest.json" else 2):
        damaged = bytearray(whole)
        damaged[at] ^= 1 << (at % 8)
        (path / file).write_bytes(damaged)
        try:
            found = restore(path, tree)
        except StorageError as error:
            assert "\n" not in str(error)
            told += 1
        else:
            assert_same_bits(found, tree)
    assert told > len(whole) // 8


def test_bytes_that_were_exchanged_under_a_valid_archive_are_told(tmp_path):
    path = save(tmp_path, 1, {"a": jnp.ones(2)})
    np.savez(path / "arrays.npz", a=np.frombuffer(np.zeros(2, np.float32).tobytes(), np.uint8))
    with pytest.raises(StorageError, match="the bytes of 'a' are not those that were saved"):
        restore(path, {"a": jnp.ones(2)})


def cut(path, share):
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: shutil.rmtree(path),
        lambda path: (path / "manifest.json").unlink(),
        lambda path: (path / "arrays.npz").unlink(),
        lambda path: cut(path / "arrays.npz", 0.5),
        lambda path: cut(path / "arrays.npz", 0.0),
        lambda path: cut(path / "manifest.json", 0.5),
        lambda path: (path / "manifest.json").write_text("[]"),
        lambda path: (path / "manifest.json").write_text('{"a": 3}'),
        lambda path: (path / "manifest.json").write_text('{"a": {"shape": [2]}}'),
        lambda path: (path / "manifest.json").write_bytes(b"\xff\xfe"),
        lambda path: (path / "arrays.npz").write_text("not an archive"),
        lambda path: zipfile.ZipFile(path / "arrays.npz", "w").close(),
    ],
)
def test_a_damaged_checkpoint_is_one_line_with_its_path(tmp_path, damage):
    path = save(tmp_path, 1, {"a": jnp.ones(2)})
    damage(path)
    with pytest.raises(StorageError) as raised:
        restore(path, {"a": jnp.ones(2)})
    assert message(raised).startswith(f"checkpoint {path}")


FAULTS = [
    (OSError(errno.EIO, "Input/output error"), None),
    (FileNotFoundError(errno.ENOENT, "No such file or directory"), None),
    (zipfile.BadZipFile("bad magic number"), None),
    (KeyError("params/0/W"), None),
    (EOFError(), None),
    (PermissionError(errno.EACCES, "Permission denied"), AccessError),
    (OSError(errno.EMFILE, "Too many open files"), AccessError),
    (OSError(errno.ESTALE, "Stale file handle"), AccessError),
    (MemoryError(), MemoryError),
    (TypeError("a mistake"), TypeError),
    (NameError("a mistake"), NameError),
    (KeyboardInterrupt(), KeyboardInterrupt),
]


@pytest.mark.parametrize(("error", "raised"), FAULTS, ids=lambda each: repr(each)[:40])
def test_damage_sets_a_checkpoint_aside_and_a_fault_of_another_kind_does_not(tmp_path, monkeypatch, error, raised):
    state = train_state()
    (tmp_path / "checkpoints").mkdir()
    for step in (10, 20):
        save(tmp_path / "checkpoints", step, state._replace(step=jnp.int32(step)))

    class Failing(zipfile.ZipFile):
        def __init__(self, path, *rest):
            if path.parent.name == "20":
                raise error
            super().__init__(path, *rest)

    monkeypatch.setattr(zipfile, "ZipFile", Failing)
    like = jax.eval_shape(lambda: state)
    if raised is None:
        found = newest_state(tmp_path, like)
        assert found is not None and int(found.step) == 10
        assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["10", "20.damaged"]
    else:
        with pytest.raises(raised):
            newest_state(tmp_path, like)
        assert steps(tmp_path / "checkpoints") == [10, 20], "it may be sound"


STORE = """
from framework.api import Store
def clumsy():
    return Store("clumsy", "arrays", lambda path, arrays: path.touch(), lambda path, shapes: path.nothing)
"""


def test_a_store_that_makes_a_mistake_is_named_and_sets_no_checkpoint_aside(tmp_path, install):
    install("acme", {"framework.stores": {"clumsy": "acme_store:clumsy"}}, {"acme_store.py": STORE})
    state, store = train_state(), Builder(discover()).named("stores", {"name": "clumsy"}, "stores")
    (tmp_path / "checkpoints").mkdir()
    path = commit(tmp_path / "checkpoints", 7, data_by_path(state), store)
    with pytest.raises(PluginError, match=rf"store 'clumsy' failed to read checkpoint {path}: AttributeError: "):
        newest_state(tmp_path, jax.eval_shape(lambda: state))
    assert steps(tmp_path / "checkpoints") == [7]


@pytest.mark.parametrize(
    ("tree", "paths"),
    [
        (jnp.ones(1), [""]),
        ({"b": 1, "a": 2}, ["a", "b"]),
        ([{"W": 1}, (), {"W": 2}], ["0/W", "2/W"]),
        (Row(1, {"x": 2}), ["weights", "inner/x"]),
        ({"node": Node(1, 2)}, ["node/left", "node/right"]),
        ((), []),
    ],
)
def test_paths_are_readable_and_in_the_trees_order(tree, paths):
    assert list(leaves_by_path(tree)) == paths


PIECES = {
    "rows": [((0, 2), (0, 6)), ((2, 4), (0, 6))],
    "columns": [((0, 4), (0, 3)), ((0, 4), (3, 6))],
    "quarters": [((a, a + 2), (b, b + 3)) for a in (0, 2) for b in (0, 3)],
    "uneven": [((0, 1), (0, 6)), ((1, 4), (0, 5)), ((1, 4), (5, 6))],
}
"""The ways in which processes may have cut an array of 4 by 6."""


def write_pieces(folder, values, boxes):
    own = {box: values[tuple(slice(*bounds) for bounds in box)].copy() for box in boxes}
    leaves = {"cut": LocalShards(values.shape, values.dtype, own), "whole": np.arange(3)}
    checkpoint.begin(folder, 1)
    return checkpoint.conclude(folder, 1, checkpoint.write(folder, 1, leaves, FILES), FILES)


@pytest.mark.parametrize("wanted", [None, (), ("x",), (None, "x"), ("x", "y")], ids=str)
@pytest.mark.parametrize("boxes", PIECES)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_an_array_in_pieces_is_put_together_as_it_shall_lie(tmp_path, boxes, wanted, dtype):
    values = np.arange(24).reshape(4, 6).astype(jnp.dtype(dtype))
    path = write_pieces(tmp_path, values, PIECES[boxes])
    mesh = jax.make_mesh((2, 1), ("x", "y"), axis_types=(AxisType.Auto,) * 2)
    sharding = None if wanted is None else NamedSharding(mesh, PartitionSpec(*wanted))
    found = restore(path, {"cut": jax.ShapeDtypeStruct((4, 6), values.dtype, sharding=sharding)})["cut"]
    assert found.dtype == values.dtype and np.asarray(found).tobytes() == values.tobytes()
    assert sharding is None or found.sharding.is_equivalent_to(sharding, 2)


def test_a_damaged_or_missing_piece_is_told(tmp_path):
    values = np.arange(24, dtype=np.float32).reshape(4, 6)
    with pytest.raises(ValueError, match="the pieces of 'cut' are not the whole of it"):
        write_pieces(tmp_path, values, PIECES["quarters"][1:])
    path = write_pieces(tmp_path, values, PIECES["quarters"])
    arrays = dict(np.load(path / "arrays.npz"))
    np.savez(path / "arrays.npz", **{**arrays, "cut[2:4,3:6]": arrays["cut[2:4,0:3]"]})
    with pytest.raises(StorageError, match=r"the bytes of 'cut\[2:4,3:6\]' are not those that were saved"):
        restore(path, {"cut": values})
