"""Batches are pure functions of (seed, step), every example counts once, and what does not fit together is refused."""

from __future__ import annotations

import itertools
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
import pytest

from framework.api import Share, aligned, as_pipeline
from framework.ensembles.task import OwnOrders
from framework.errors import ConfigError, DataError
from framework_data.pipeline import InMemoryPipeline, hold_out
from framework_data.synthetic import synthetic
from framework_data.text import text


def numbered(count):
    """A nested batch in which every leaf tells which example it belongs to."""
    index = np.arange(count)
    return {
        "inputs": {"image": np.tile(index[:, None, None], (1, 3, 2)).astype(np.float32), "id": index.astype(np.int32)},
        "targets": index.astype(np.int32),
    }


def pipeline(count=23, batch_size=5, test=7, eval_batch_size=4):
    return InMemoryPipeline(numbered(count), {"test": numbered(test)}, batch_size, eval_batch_size, "numbers")


def take(iterator, count):
    return list(itertools.islice(iterator, count))


def equal(left, right):
    return jax.tree.structure(left) == jax.tree.structure(right) and all(
        np.array_equal(a, b) and a.dtype == b.dtype
        for a, b in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True)
    )


def halved(batch):
    """A batch of bytes as floats."""
    return {**batch, "inputs": batch["inputs"].astype(np.float32) * np.float32(0.5)}


def in_bytes(count=23, batch_size=6):
    """Examples that take more room in a batch than in memory."""
    examples = {"inputs": np.arange(3 * count, dtype=np.uint8).reshape(count, 3), "targets": numbered(count)["targets"]}
    return InMemoryPipeline(examples, {"test": examples}, batch_size, 4, "bytes", prepare=halved)


def in_bytes_by_index():
    """The same of somebody else."""
    whole = in_bytes()
    names = ("arrays", "rows", "prepare", "train", "eval", "spec", "steps_per_epoch", "splits", "source")
    return as_pipeline(SimpleNamespace(**{name: getattr(whole, name) for name in names}))


@pytest.mark.parametrize("make", [in_bytes, in_bytes_by_index])
@pytest.mark.parametrize(
    "around",
    [lambda data: data, lambda data: data.restricted(Share((1,), 2)), lambda data: OwnOrders(data, (5, 6))],
    ids=["whole", "one process's", "members'"],
)
def test_examples_lie_in_fewer_bytes_and_come_in_batches_as_they_shall_be(make, around):
    data: Any = around(make())
    assert data.arrays["inputs"].dtype == np.uint8
    for step, batch in enumerate(take(data.train(3), 5)):
        lying = jax.tree.map(lambda leaf, step=step: leaf[data.rows(3, step)], data.arrays)
        assert equal(batch, halved(lying))
        assert equal(jax.tree.map(np.asarray, jax.jit(data.prepare)(lying)), batch)
    whole = in_bytes()
    assert {name: leaf.dtype for name, leaf in data.spec.items()} == {"inputs": np.float32, "targets": np.int32}
    for batch in data.eval("test"):
        assert batch["inputs"].dtype == np.float32
        assert batch["weights"].dtype == np.float32
    floats = InMemoryPipeline(halved(whole.arrays), {"test": halved(whole.arrays)}, 6, 4, "floats")
    assert whole.spec == floats.spec
    for left, right in zip(whole.eval("test"), floats.eval("test"), strict=True):
        assert equal(left, right)


@pytest.mark.parametrize("seed", [0, 1, 2**40, -3])
@pytest.mark.parametrize("start", [0, 1, 3, 4, 5, 11, 400])
def test_batch_k_depends_on_seed_and_k_alone(seed, start):
    data, other = pipeline(), pipeline()
    whole = take(data.train(seed), start + 9)
    steps = range(start, start + 9)
    for step, batch, _ in zip(steps, other.train(seed, start), other.train(seed + 1, 2), strict=False):
        assert equal(batch, whole[step])
        assert np.array_equal(batch["targets"], data.rows(seed, step))
        assert equal(jax.tree.map(lambda leaf, step=step: leaf[data.rows(seed, step)], data.arrays), batch)


def by_index():
    """Third-party data that lie in memory and know nothing of processes."""
    whole = pipeline(batch_size=6)
    names = ("arrays", "rows", "train", "eval", "spec", "steps_per_epoch", "splits", "source")
    return as_pipeline(SimpleNamespace(**{name: getattr(whole, name) for name in names}))


@pytest.mark.parametrize("make", [lambda: pipeline(batch_size=6), lambda: text(block=5, batch_size=6), by_index])
@pytest.mark.parametrize(("parts", "count"), [((0,), 2), ((1,), 2), ((0, 1), 2)])
def test_a_process_makes_the_rows_of_its_share_and_no_others(make, parts, count):
    data = make()
    own = data.restricted(Share(parts, count))
    assert own.spec == data.spec and own.steps_per_epoch == data.steps_per_epoch

    def part(leaf):
        return np.concatenate([np.split(leaf, count)[part] for part in parts])

    for mine, whole in zip(take(own.train(3, 2), 5), take(data.train(3, 2), 5), strict=True):
        assert equal(mine, jax.tree.map(part, whole))
    for mine, whole in zip(take(own.eval(data.splits[0]), 2), take(data.eval(data.splits[0]), 2), strict=True):
        assert equal(mine, jax.tree.map(part, whole))
    if hasattr(data, "rows"):
        assert np.array_equal(own.rows(3, 4), part(data.rows(3, 4)))


def test_a_batch_that_cannot_be_shared_is_one_line():
    with pytest.raises(ConfigError, match=r"a batch of 5 examples does not divide over 2 devices; .*batch_size=6"):
        next(pipeline().restricted(Share((0,), 2)).train(0))


@pytest.mark.parametrize(("count", "batch_size"), [(20, 5), (23, 5), (5, 5), (7, 1)])
def test_an_epoch_takes_no_example_twice_and_all_if_divisible(count, batch_size):
    data = pipeline(count, batch_size)
    assert data.steps_per_epoch == count // batch_size
    for epoch in range(3):
        batches = take(data.train(7, epoch * data.steps_per_epoch), data.steps_per_epoch)
        seen = np.concatenate([batch["targets"] for batch in batches])
        order = np.random.default_rng([7, epoch]).permutation(count)
        assert np.array_equal(seen, order[: len(seen)])
        assert len(np.unique(seen)) == len(seen) == count // batch_size * batch_size


def test_what_one_epoch_drops_another_brings_back():
    data = pipeline(23, 5)
    seen = np.concatenate([batch["targets"] for batch in take(data.train(0), 4 * 10)])
    assert set(seen) == set(range(23))
    assert not np.array_equal(data.rows(0, 0), data.rows(0, 4))
    assert not np.array_equal(data.rows(0, 0), data.rows(1, 0))


def test_batches_fit_the_spec_and_are_contiguous():
    data = pipeline()
    for batch in take(data.train(0), 6):
        described = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), batch)
        assert described == data.spec
        assert all(leaf.flags.c_contiguous for leaf in jax.tree.leaves(batch))
    assert data.rows(0, 0).dtype == np.int32


@pytest.mark.parametrize("use", ["train", "eval", "arrays"])
def test_whoever_asks_for_examples_waits_until_they_are_read(use):
    examples, asked = jax.tree.map(lambda leaf: aligned(leaf.shape, leaf.dtype), numbered(8)), []

    def ready():
        asked.append(use)
        jax.tree.map(lambda out, leaf: np.copyto(out, leaf), examples, numbered(8))

    data = InMemoryPipeline(examples, {"test": examples}, 4, 8, "numbers", ready)
    assert data.rows(0, 0).shape == (4,) and asked == []
    found = {
        "train": lambda: next(data.train(0)),
        "eval": lambda: next(data.eval("test")),
        "arrays": lambda: data.arrays,
    }
    targets = found[use]()["targets"]
    assert asked == [use]
    assert targets.tolist() == (data.rows(0, 0).tolist() if use == "train" else list(range(8)))


def test_neither_batches_nor_arrays_let_one_change_the_data():
    examples = numbered(10)
    data = InMemoryPipeline(examples, {"test": numbered(4)}, 5, 4, "numbers")
    first = next(data.train(0))
    first["targets"][:] = -1
    assert set(data.arrays["targets"]) == set(range(10))
    for leaf in (*jax.tree.leaves(data.arrays), data.rows(0, 0)):
        with pytest.raises(ValueError, match="read-only"):
            leaf[...] = 0
    assert examples["targets"].flags.writeable, "the caller's own arrays stay as they were"


@pytest.mark.parametrize(("count", "size"), [(7, 4), (8, 4), (1, 4), (3, 3), (10, 1)])
def test_eval_shows_every_example_once_with_exact_weights(count, size):
    batches = list(pipeline(test=count, eval_batch_size=size).eval("test"))
    assert len(batches) == -(-count // size)
    for batch in batches:
        assert jax.tree.structure(batch) == jax.tree.structure(batches[0])
        assert all(leaf.shape[0] == size for leaf in jax.tree.leaves(batch))
        assert batch["weights"].dtype == np.float32
    weights = np.concatenate([batch["weights"] for batch in batches])
    targets = np.concatenate([batch["targets"] for batch in batches])
    assert np.array_equal(targets[weights == 1], np.arange(count))
    assert weights.sum() == count
    assert set(weights) <= {0.0, 1.0}
    images = np.concatenate([batch["inputs"]["image"] for batch in batches])
    total = (images.mean(axis=(1, 2)) * weights).sum()
    assert total == np.arange(count).sum()


def test_weights_of_the_data_are_kept_and_padding_still_counts_nothing():
    def weighted(count):
        return {"inputs": np.ones([count, 2], np.float32), "weights": np.arange(1, count + 1, dtype=np.float32)}

    data = InMemoryPipeline(weighted(8), {"test": weighted(5)}, 4, 3, "weights")
    assert "weights" in data.spec
    batches = [batch["weights"].tolist() for batch in data.eval("test")]
    assert batches == [[1, 2, 3], [4, 5, 0]]


@pytest.mark.parametrize(
    ("validation", "limit", "kept", "held"),
    [(0, None, 20, 0), (4, None, 16, 4), (0.25, None, 15, 5), (4.0, 10, 10, 4), (0, 99, 20, 0), (0.1, 18, 18, 2)],
)
def test_validation_comes_from_the_end_whatever_the_limit(validation, limit, kept, held):
    train, evals = hold_out(numbered(20), numbered(6), validation, limit)
    assert train["targets"].tolist() == list(range(kept))
    assert tuple(evals) == (("validation", "test") if held else ("test",))
    assert len(evals["test"]["targets"]) == 6
    if held:
        assert evals["validation"]["inputs"]["id"].tolist() == list(range(20 - held, 20))


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"validation": -1}, ConfigError, "a count of examples or a share below 1"),
        ({"validation": 2.5}, ConfigError, "validation is 2.5"),
        ({"validation": 20}, DataError, "leaves none of 20"),
        ({"validation": 0.99}, DataError, "Take a share such as 0.1"),
        ({"train_limit": 0}, ConfigError, "expected at least 1"),
    ],
)
def test_splits_that_cannot_be_made_are_refused(options, error, text):
    with pytest.raises(error, match=text):
        hold_out(numbered(20), numbered(6), **options)


def broken(**changes):
    return {**numbered(9), **changes}


@pytest.mark.parametrize(
    ("train", "test", "sizes", "error", "text"),
    [
        (broken(targets=np.zeros(8, np.int32)), numbered(3), (2, 2), DataError, "'inputs/id' has 9 .* 'targets' has 8"),
        (broken(targets=np.int32(1)), numbered(3), (2, 2), DataError, "'targets' is a single value"),
        ({}, numbered(3), (2, 2), DataError, "holds no arrays"),
        (numbered(9), numbered(0), (2, 2), DataError, "'test' has no examples"),
        (numbered(9), {"inputs": np.zeros([3, 1])}, (2, 2), DataError, "expected the training split's"),
        (numbered(9), {**numbered(3), "targets": np.zeros(3)}, (2, 2), DataError, "float64.* expected int32"),
        (numbered(9), {**numbered(3), "targets": np.zeros([3, 1], np.int32)}, (2, 2), DataError, r"int32\[1\]"),
        (
            numbered(9),
            numbered(3),
            (10, 2),
            DataError,
            "9 examples, fewer than one batch of 10. Set data.batch_size to 9",
        ),
        (numbered(0), numbered(3), (1, 2), DataError, "0 examples"),
        (numbered(9), numbered(3), (0, 2), ConfigError, "batch_size is 0"),
        (numbered(9), numbered(3), (2, -1), ConfigError, "eval_batch_size is -1"),
    ],
)
def test_what_does_not_fit_together_is_refused_by_name(train, test, sizes, error, text):
    with pytest.raises(error, match=text):
        InMemoryPipeline(train, {"test": test}, *sizes, "numbers")


def test_an_unknown_split_is_refused_before_it_is_read():
    with pytest.raises(ConfigError, match="Did you mean 'test'"):
        pipeline().eval("tests")


@pytest.mark.parametrize("task", ["classification", "regression"])
def test_synthetic_examples_are_distinct_repeatable_and_learnable(task):
    options = {"shape": (4, 3), "classes": 3, "examples": 400, "task": task, "noise": 0.3, "batch_size": 50}
    data, again = synthetic(**options), synthetic(**options)
    assert equal(data.arrays, again.arrays)
    test = next(data.eval("test"))
    inputs = np.concatenate([data.arrays["inputs"], test["inputs"][test["weights"] == 1]]).reshape(500, 12)
    targets = np.concatenate([data.arrays["targets"], test["targets"][test["weights"] == 1]])
    assert len(np.unique(inputs, axis=0)) == 500
    wanted = np.eye(3)[targets] if task == "classification" else targets
    fitted = np.linalg.lstsq(inputs[:400], wanted[:400], rcond=None)[0]
    guess = inputs[400:] @ fitted
    if task == "classification":
        assert (guess.argmax(axis=1) == targets[400:]).mean() > 0.95
        assert np.bincount(targets).max() - np.bincount(targets).min() <= 1
    else:
        assert ((guess - wanted[400:]) ** 2).mean() < 1.2 * 0.3**2
        assert 0.5 < wanted.var() < 2


@pytest.mark.parametrize("options", [{"classes": 0}, {"shape": (0,)}, {"examples": 0}, {"noise": -1.0}, {"noise": 0.0}])
def test_synthetic_refuses_what_makes_no_task(options):
    with pytest.raises(ConfigError, match="expected"):
        synthetic(**options)
