"""Batches made ahead of time: the same bits, errors at their place, no thread left behind."""

from __future__ import annotations

import threading
import time

import jax
import numpy as np
import pytest

import framework
from framework.arrays import aligned, as_aligned
from framework.errors import DataError, PluginError
from framework.testing import records, run_record
from framework.training.prefetch import ahead

WAIT = 20  # seconds, for what takes milliseconds

STREAM = '''
"""The synthetic data as a stream alone, which may be slow, end or fail."""
import itertools
import time

from framework.errors import DataError
from framework_data.synthetic import synthetic

asked = []


class Stream:
    def __init__(self, wrapped, seconds, ends, fails, refuses):
        self.spec, self.steps_per_epoch = wrapped.spec, wrapped.steps_per_epoch
        self.splits, self.source, self.eval = wrapped.splits, wrapped.source, wrapped.eval
        self._made, self._seconds, self._ends, self._fails, self._refuses = wrapped, seconds, ends, fails, refuses

    def train(self, seed, start=0):
        for step, batch in zip(itertools.count(start), self._made.train(seed, start)):
            if step == self._ends:
                return
            if step == self._fails:
                raise ValueError("no such shard")
            if step == self._refuses:
                raise DataError("shard 3 is damaged.")
            time.sleep(self._seconds)
            asked.append(step)
            yield batch


def stream(seconds: float = 0, ends: int = -1, fails: int = -1, refuses: int = -1):
    wrapped = synthetic(shape=(6,), classes=10, examples=64, noise=3.0, batch_size=16, eval_batch_size=16)
    return Stream(wrapped, seconds, ends, fails, refuses)
'''

TINY = ["data=stream", "model=mlp", "model.hidden=[8]", "model.dropout=0.25", "train.steps=12", "train.eval_every=5"]
SYNTHETIC = ["data=synthetic", "data.shape=[6]", "data.classes=10", "data.examples=64", "data.noise=3"]
SYNTHETIC += ["data.batch_size=16", "data.eval_batch_size=16", *TINY[1:]]


@pytest.fixture
def train(tmp_path, install):
    install("acme", {"framework.data": {"stream": "acme_stream:stream"}}, {"acme_stream.py": STREAM})
    before = set(threading.enumerate())

    def run(*overrides):
        return framework.run([*overrides, f"run.root={tmp_path}", "train.log_every=1"])

    yield run
    assert_ended(set(threading.enumerate()) - before)


def assert_ended(threads):
    for thread in threads:
        thread.join(WAIT)
        assert not thread.is_alive(), thread


@pytest.mark.parametrize("strategy", ["jit", "pmap", "sharded"])
@pytest.mark.parametrize("steps_per_call", [1, 5])
def test_a_stream_gives_the_bits_of_data_in_memory(train, strategy, steps_per_call):
    chosen = [f"strategy={strategy}", f"train.steps_per_call={steps_per_call}"]
    resident = train(*SYNTHETIC, *chosen)
    for other in (train(*TINY, *chosen), train(*SYNTHETIC, *chosen, "train.resident_mib=0")):
        assert records(other.directory) == records(resident.directory)
        for left, right in zip(
            jax.tree.leaves(other.state.params), jax.tree.leaves(resident.state.params), strict=True
        ):
            np.testing.assert_array_equal(left, right)


@pytest.mark.parametrize("steps_per_call", [1, 5])
def test_a_stream_is_asked_for_the_batches_of_the_run_and_no_others(train, steps_per_call):
    train(*TINY, f"train.steps_per_call={steps_per_call}", "data.ends=12", "data.seconds=0.01")
    import acme_stream

    assert acme_stream.asked == [0, *range(12)]  # the digest of batch 0 goes into the run's record


@pytest.mark.parametrize("steps_per_call", [1, 2, 5])
@pytest.mark.parametrize(
    ("option", "error", "text"),
    [
        (
            "ends",
            PluginError,
            "(acme 1.0): the batches ended before step 8; expected `train` to go on without end, or",
        ),
        (
            "fails",
            PluginError,
            "(acme 1.0): no batch for step 8: ValueError: no such shard",
        ),
        ("refuses", DataError, "shard 3 is damaged."),
    ],
)
def test_a_stream_that_fails_ends_the_run_at_that_step_in_one_line(
    train, tmp_path, steps_per_call, option, error, text
):
    with pytest.raises(error) as caught:
        train(*TINY, f"train.steps_per_call={steps_per_call}", f"data.{option}=7")
    assert text in str(caught.value)
    (folder,) = (tmp_path / "default").iterdir()
    record = run_record(folder)
    assert (record["status"], record["exit_code"]) == ("failed", error.exit_code)
    assert [record["step"] for record in records(folder)][:5] == [0, 1, 2, 3, 4]


def test_a_run_that_stops_early_leaves_its_stream(train):
    chosen = ["train.steps=500", "train.eval_every=1", "data.seconds=0.005", "optimizer.learning_rate=0"]
    stops = ["callbacks+=early_stopping", "callbacks.early_stopping.patience=2"]
    result = train(*TINY, *chosen, *stops)
    assert int(result.state.step) == 3


def test_items_come_in_order_and_at_most_so_many_ahead():
    made, taken, excess = 0, 0, []

    def items():
        nonlocal made
        for index in range(50):
            made += 1
            excess.append(made - taken)
            yield index

    with ahead(items(), depth=3) as ready:
        for index in ready:
            taken += 1
            assert index == taken - 1
    assert taken == 50
    assert max(excess) <= 4  # three that wait, and the one whose reader has not counted it yet


def test_an_item_is_made_while_the_one_before_is_used():
    begun = [threading.Event() for _ in range(4)]

    def items():
        for event in begun:
            event.set()
            yield event

    with ahead(items(), depth=1) as ready:
        for used, following in zip(ready, begun[1:], strict=False):
            assert used.is_set() and following.wait(WAIT)


def test_an_error_comes_after_the_items_before_it_and_leaving_closes_the_generator():
    closed = threading.Event()

    def items():
        try:
            yield 1
            yield 2
            raise KeyError("third")
        finally:
            closed.set()

    with ahead(items()) as ready:
        assert [next(ready), next(ready)] == [1, 2]
        with pytest.raises(KeyError, match="third"):
            next(ready)
    assert closed.is_set()


@pytest.mark.parametrize("taken", [0, 1, 3])
def test_leaving_early_ends_the_thread_and_closes_the_generator(taken):
    closed = threading.Event()

    def items():
        try:
            while True:
                time.sleep(0.001)
                yield threading.current_thread()
        finally:
            closed.set()

    before = set(threading.enumerate())
    with pytest.raises(ZeroDivisionError), ahead(items()) as ready:
        for _ in range(taken):
            assert next(ready) is not threading.main_thread()
        raise ZeroDivisionError
    assert closed.is_set()
    assert_ended(set(threading.enumerate()) - before)


@pytest.mark.parametrize("dtype", [np.float32, np.int32, np.uint8, bool])
@pytest.mark.parametrize("shape", [(), (0, 3), (5,), (300, 28, 28, 1)])
def test_aligned_arrays_hold_what_they_are_given_and_are_taken_over_in_place(shape, dtype):
    array = aligned(shape, dtype)
    assert (array.shape, array.dtype) == (shape, dtype)
    array[...] = np.random.default_rng(0).integers(2, size=shape)
    for other in (array.copy(), np.stack([array, array], axis=-1)[..., 0]):
        np.testing.assert_array_equal(as_aligned(other), array)
    on_device = jax.device_put(array)
    np.testing.assert_array_equal(on_device, array)
    if array.size:
        assert as_aligned(array) is array
        assert on_device.unsafe_buffer_pointer() == array.ctypes.data
