"""Batches that are not what a pipeline's spec says: told alike, however a run is cut."""

from __future__ import annotations

import jax
import numpy as np
import pytest

import framework
from framework.api import InMemory
from framework.data.batches import check_examples
from framework.errors import DataError, FrameworkError, PluginError
from framework.testing import message, records

PIPELINES = '''
"""Pipelines that do one thing wrong, at the third batch of training or the second one of an evaluation."""
import sys
from collections import OrderedDict

import jax
import numpy as np

from framework.api import DataPipeline, InMemory

SPEC = {"inputs": jax.ShapeDtypeStruct((8, 6), np.float32), "targets": jax.ShapeDtypeStruct((8,), np.int32)}


def batch(size=8):
    rng = np.random.default_rng(0)
    return {"inputs": rng.normal(size=(size, 6)).astype(np.float32), "targets": rng.integers(0, 3, size, np.int32)}


def leave(error):
    raise error


FAULTS = {
    "none": lambda b: None,
    "short": lambda b: {name: leaf[:5] for name, leaf in b.items()},
    "narrow": lambda b: {**b, "inputs": b["inputs"][:, :5]},
    "double": lambda b: {**b, "inputs": b["inputs"].astype(np.float64)},
    "float_labels": lambda b: {**b, "targets": b["targets"].astype(np.float32)},
    "no_targets": lambda b: {"inputs": b["inputs"]},
    "no_inputs": lambda b: {"targets": b["targets"]},
    "extra": lambda b: {**b, "id": b["targets"]},
    "list": lambda b: {**b, "targets": b["targets"].tolist()},
    "text": lambda b: {**b, "targets": "three"},
    "nested": lambda b: {**b, "inputs": {"a": b["inputs"]}},
    "ragged": lambda b: {**b, "targets": b["targets"][:5]},
    "raises": lambda b: leave(ValueError("no such shard")),
    "exits": lambda b: sys.exit(0),
    "interrupts": lambda b: leave(KeyboardInterrupt()),
    "ordered": lambda b: OrderedDict(reversed(b.items())),
    "weightless": lambda b: {**b, "weights": np.ones(3, np.float32)},
    "empty": lambda b: {name: leaf[:0] for name, leaf in b.items()},
    "negative": lambda b: weighted(b, -0.5),
    "not_a_number": lambda b: weighted(b, np.nan),
    "infinite": lambda b: weighted(b, np.inf),
    "column": lambda b: {**b, "weights": np.ones((8, 1), np.float32)},
    "label": lambda b: {**b, "targets": np.where(np.arange(8) == 5, 3, b["targets"]).astype(np.int32)},
}


def weighted(batch, weight=1.0):
    """A batch with weights, of which the sixth is given."""
    return {**batch, "weights": np.where(np.arange(8) == 5, weight, 1).astype(np.float32)}


class Stream(DataPipeline):
    spec, steps_per_epoch, splits, source = SPEC, 8, ("test",), "a stream"

    def __init__(self, train, evaluation):
        self.faults = train, evaluation

    def _batches(self, fault, at, count):
        for number in range(count):
            if number == at and fault == "ends":
                return
            yield FAULTS[fault](batch()) if number == at and fault in FAULTS else batch()

    def train(self, seed, start=0):
        return self._batches(self.faults[0], 2 - start, 10**9)

    def eval(self, split):
        if self.faults[1] == "nothing":
            return iter(())
        return self._batches(self.faults[1], 1, 3)


def stream(train: str = "", evaluation: str = ""):
    return Stream(train, evaluation)


class Weighted(Stream):
    spec = {**SPEC, "weights": jax.ShapeDtypeStruct((8,), np.float32)}

    def train(self, seed, start=0):
        return ({**weighted(b), **b} for b in Stream.train(self, seed, start))

    def eval(self, split):
        for b in Stream.eval(self, split):
            yield {**weighted(b), **b, **({"weights": np.zeros(8, np.float32)} if self.faults[1] == "zero" else {})}


def weights(train: str = "", evaluation: str = ""):
    return Weighted(train, evaluation)


class Held(InMemory):
    spec, steps_per_epoch, splits, source = SPEC, 8, ("test",), "memory"

    def __init__(self, fault):
        self.fault, self.arrays = fault, batch(64)
        if fault == "lengths":
            self.arrays["targets"] = self.arrays["targets"][:60]
        if fault == "arrays":
            self.arrays["inputs"] = self.arrays["inputs"].astype(np.float16)

    def rows(self, seed, step):
        rows = np.arange(8, dtype=np.int32)
        if step == 2 and self.fault in ("short", "far", "float", "raises"):
            faulty = {"short": rows[:5], "far": rows + 60, "float": rows / 1.0}
            return faulty[self.fault]
        return rows

    def eval(self, split):
        yield batch()


def held(fault: str = ""):
    return Held(fault)


class Spec(Stream):
    def __init__(self, fault):
        super().__init__("", "")
        if fault == "weights":
            self.spec = {**SPEC, "weights": jax.ShapeDtypeStruct((8, 1), np.float32)}
        elif fault != "attribute":
            self.spec = {"inputs": {"targets": SPEC["targets"]}, "leaf": {**SPEC, "targets": 3},
                         "sizes": {**SPEC, "targets": jax.ShapeDtypeStruct((7,), np.int32)}}.get(fault, SPEC)
        self.steps_per_epoch = 0 if fault == "epoch" else 8
        self.splits = () if fault == "splits" else ("test",)


class Raising(Stream):
    @property
    def spec(self):
        return self._shapes


class Plain:
    steps_per_epoch, splits, source = 8, ("test",), "plain"

    @property
    def spec(self):
        return self._shapes

    def train(self, seed, start=0): ...

    def eval(self, split): ...


def spec(fault: str = ""):
    return Raising("", "") if fault == "attribute" else Plain() if fault == "plain" else Spec(fault)
'''

RUN = ["model=mlp", "model.hidden=[4]", "model.classes=3", "train.steps=6", "train.log_every=1", "seed=1"]

IN_TRAINING = {
    "none": (DataError, "step 3: found None, expected the keys inputs, targets, as its `spec` says."),
    "short": (DataError, "step 3: inputs is float32[5, 6], expected float32[8, 6]"),
    "narrow": (DataError, "step 3: inputs is float32[8, 5], expected float32[8, 6]"),
    "double": (DataError, "step 3: inputs is float64[8, 6], expected float32[8, 6]"),
    "float_labels": (DataError, "step 3: targets is float32[8], expected int32[8]"),
    "no_targets": (DataError, "step 3: found the keys inputs, expected the keys inputs, targets"),
    "no_inputs": (DataError, "step 3: found the keys targets, expected the keys inputs, targets"),
    "extra": (DataError, "step 3: found the keys inputs, targets, id, expected the keys inputs, targets"),
    "list": (DataError, "step 3: targets is a list, expected targets int32[8]"),
    "text": (DataError, "step 3: targets is a str, expected int32[8]"),
    "nested": (DataError, "step 3: inputs is a dict, expected inputs float32[8, 6]"),
    "raises": (PluginError, "no batch for step 3: ValueError: no such shard"),
    "exits": (PluginError, "no batch for step 3: SystemExit: 0"),
    "interrupts": (PluginError, "no batch for step 3: KeyboardInterrupt"),
    "ends": (PluginError, "the batches ended before step 3; expected `train` to go on without end"),
}

IN_EVALUATION = {
    "none": (DataError, "split 'test', batch 2: found None, expected the keys inputs, targets"),
    "narrow": (DataError, "split 'test', batch 2: inputs is float32[8, 5], expected float32[8, 6]"),
    "float_labels": (DataError, "split 'test', batch 2: targets is float32[8], expected int32[8]"),
    "no_inputs": (DataError, "split 'test', batch 2: found the keys targets, expected the keys inputs, targets"),
    "extra": (DataError, "split 'test', batch 2: found the keys inputs, targets, id, expected"),
    "ragged": (DataError, "split 'test', batch 2: targets is int32[5], expected int32[8]"),
    "weightless": (DataError, "split 'test', batch 2: weights are float32[3], expected float32[8]."),
    "empty": (DataError, "split 'test', batch 2 has no examples."),
    "raises": (PluginError, "no batch for batch 2 of split 'test': ValueError: no such shard"),
    "exits": (PluginError, "no batch for batch 2 of split 'test': SystemExit: 0"),
    "nothing": (DataError, "split 'test' has no batch; expected every example once."),
}


@pytest.fixture
def train(tmp_path, install):
    targets = {name: f"acme_data:{name}" for name in ("stream", "weights", "held", "spec")}
    install("acme", {"framework.data": targets}, {"acme_data.py": PIPELINES})
    return lambda *words: framework.run([*RUN, f"run.root={tmp_path}", *words])


def refusal(train, error, *words):
    with pytest.raises(FrameworkError) as caught:
        train(*words)
    assert type(caught.value) is error
    assert caught.value.key == "data"
    return message(caught)


@pytest.mark.parametrize("cut", ["train.steps_per_call=1", "train.steps_per_call=4", "strategy=pmap"])
@pytest.mark.parametrize("fault", IN_TRAINING)
def test_a_batch_of_training_that_is_none_ends_the_run_at_its_step(train, fault, cut):
    error, text = IN_TRAINING[fault]
    told = refusal(train, error, "data=stream", f"data.train={fault}", cut)
    assert told.startswith(f"data: data pipeline 'stream' (acme 1.0): {text}"), told


@pytest.mark.parametrize("fault", IN_EVALUATION)
def test_a_batch_of_an_evaluation_that_is_none_ends_the_run(train, fault):
    error, text = IN_EVALUATION[fault]
    told = refusal(train, error, "data=stream", f"data.evaluation={fault}")
    assert told.startswith(f"data: data pipeline 'stream' (acme 1.0): {text}"), told


WEIGHTS = {
    "negative": "example 6 (index 5): found the weight -0.5, expected a finite number from 0.",
    "not_a_number": "example 6 (index 5): found the weight nan, expected a finite number from 0.",
    "infinite": "example 6 (index 5): found the weight inf, expected a finite number from 0.",
    "label": "example 6 (index 5): found the target 3, expected class numbers from 0 to 2.",
}

CUTS = {
    "singly": (["train.steps_per_call=1"], ""),
    "in chunks": (["train.steps_per_call=4"], ""),
    "on two devices": (["strategy=pmap"], ""),
    "members of one order": (["strategy=vmapped", "strategy.members=2", "strategy.order=shared"], ""),
    "members of their own": (["strategy=vmapped", "strategy.members=2", "strategy.order=own"], ", member 0"),
}


@pytest.mark.parametrize(
    ("fault", "cut"), [*((fault, "singly") for fault in WEIGHTS), *(("label", cut) for cut in list(CUTS)[1:])]
)
def test_what_a_stream_gives_is_looked_at_batch_by_batch(train, fault, cut):
    words, member = CUTS[cut]
    told = refusal(train, DataError, "data=weights", f"data.train={fault}", *words)
    assert told.startswith(f"data: data pipeline 'weights' (acme 1.0): step 3{member}, {WEIGHTS[fault]}")


@pytest.mark.parametrize(("fault", "cut"), [("negative", "singly"), ("label", "members of their own")])
def test_and_what_it_gives_to_an_evaluation(train, fault, cut):
    told = refusal(train, DataError, "data=weights", f"data.evaluation={fault}", *CUTS[cut][0])
    assert told.startswith(f"data: data pipeline 'weights' (acme 1.0): split 'test', batch 2, {WEIGHTS[fault]}")


def test_a_split_without_weight_and_weights_in_a_column_are_refused(train):
    told = refusal(train, DataError, "data=weights", "data.evaluation=zero")
    assert "(acme 1.0): split 'test': all of its weights are 0, expected one above 0." in told
    told = refusal(train, DataError, "data=weights", "data.evaluation=column")
    assert "split 'test', batch 2: weights are float32[8, 1], expected one number for each example, or" in told


class Wide(InMemory):
    """Examples in memory of a dtype that devices do not compute in."""

    steps_per_epoch, splits, source = 8, ("test",), "memory"

    def __init__(self, inputs, prepared=False):
        self.arrays = {"inputs": inputs}
        self.spec = {"inputs": jax.ShapeDtypeStruct((8,), inputs.dtype)}
        if prepared:
            self.prepare = dict
            self.examples = lambda: iter(())

    def rows(self, seed, step):
        return np.arange(8)

    def eval(self, split):
        yield self.arrays


@pytest.mark.parametrize("prepared", [False, True])
@pytest.mark.parametrize(
    ("dtype", "value", "fits"), [("int64", 2**31, "int32"), ("uint64", 2**32, "uint32"), ("float64", 1e39, "float32")]
)
def test_numbers_that_a_device_would_take_for_others_are_refused(dtype, value, fits, prepared):
    inputs = np.arange(3000).astype(dtype)
    assert check_examples(Wide(inputs, prepared), None) == {"train"}
    inputs[2000] = value
    with pytest.raises(DataError, match=rf"example 2001 .* in inputs {dtype}, expected numbers that fit {fits}\."):
        check_examples(Wide(inputs, prepared), None)


@pytest.mark.parametrize("cut", [1, 4])
def test_a_mapping_of_another_class_is_the_same_batch(train, cut):
    words = ["data=stream", f"train.steps_per_call={cut}"]
    plain, ordered = train(*words), train(*words, "data.train=ordered", "data.evaluation=ordered")
    assert records(ordered) == records(plain)


@pytest.mark.parametrize(
    "cut", [["train.steps_per_call=1"], ["train.steps_per_call=4"], ["train.steps_per_call=4", "train.resident_mib=0"]]
)
@pytest.mark.parametrize(
    ("fault", "error", "text"),
    [
        ("short", DataError, "step 3: `rows` are int32[5], expected int32[8]."),
        ("float", DataError, "step 3: `rows` are float64[8], expected int32[8]."),
        ("raises", PluginError, "no batch for step 3: KeyError: 'raises'"),
        ("lengths", DataError, "`arrays` has leaves of several lengths"),
        ("arrays", DataError, "`arrays`: inputs is float16[8, 6], expected float32[8, 6]"),
    ],
)
def test_examples_in_memory_are_compared_too(train, fault, error, text, cut):
    told = refusal(train, error, "data=held", f"data.fault={fault}", *cut)
    assert f"data pipeline 'held' (acme 1.0): {text}" in told


@pytest.mark.parametrize(
    ("cut", "words"), [(1, "index 64 is out of bounds for axis 0 with size 64"), (4, "index 64, expected 0 to 63")]
)
def test_an_index_beyond_the_examples_in_memory_is_refused_at_its_step(train, cut, words):
    with pytest.raises(FrameworkError) as caught:
        train("data=held", "data.fault=far", f"train.steps_per_call={cut}")
    assert "step 3" in message(caught)
    assert words in message(caught)


@pytest.mark.parametrize(
    ("fault", "text"),
    [
        ("attribute", "AttributeError: 'Raising' object has no attribute '_shapes'"),
        ("plain", "AttributeError: 'Plain' object has no attribute '_shapes'"),
        ("inputs", "expected a `spec` with the key 'inputs', found the keys targets"),
        ("leaf", "`spec` has targets = 3, expected a jax.ShapeDtypeStruct [B, ...]"),
        ("sizes", "`spec` has leaves of several batch sizes: {'inputs': 8, 'targets': 7}"),
        ("weights", "`spec` has weights float32[8, 1], expected one number for each example, or for each position of"),
        ("epoch", "expected a `steps_per_epoch` from 1, found 0"),
        ("splits", "expected one name or more in `splits`, found ()"),
    ],
)
def test_what_a_pipeline_says_of_itself_is_read_at_once(train, fault, text):
    assert text in refusal(train, PluginError, "data=spec", f"data.fault={fault}")
