"""Data that changed between a run and its resume are refused by the split, or told of streams."""

from __future__ import annotations

import numpy as np
import pytest

import framework
from framework.api import fingerprint_of
from framework.data.fingerprints import BLOCK
from framework.errors import DataError, PluginError
from framework.testing import message, run_record

STREAM = """
import jax
import numpy as np
from framework.api import DataPipeline

SCALE = 1.0

class Stream(DataPipeline):
    steps_per_epoch, splits, source = 4, ("test",), "drawn"
    spec = {"inputs": jax.ShapeDtypeStruct((8, 3), np.float32), "targets": jax.ShapeDtypeStruct((8,), np.int32)}

    def train(self, seed, start=0):
        while True:
            draw = np.random.default_rng([seed, start])
            inputs = SCALE * draw.normal(size=(8, 3)).astype(np.float32)
            yield {"inputs": np.float32(inputs), "targets": draw.integers(0, 2, 8, np.int32)}
            start += 1

    def eval(self, split):
        yield next(self.train(7)) | {"weights": np.ones(8, np.float32)}

class Broken(Stream):
    def fingerprint(self):
        raise OSError("no checksum")
"""


def arrays(rows, classes=2, seed=0):
    draw = np.random.default_rng(seed)
    inputs = draw.normal(size=(rows, 3)).astype(np.float32)
    return {"inputs": inputs, "targets": draw.integers(0, classes, rows).astype(np.int32)}


@pytest.fixture
def run(tmp_path):
    """A run of two steps on files that a test may change."""
    np.savez(tmp_path / "train.npz", **arrays(40))
    np.savez(tmp_path / "test.npz", **arrays(16, seed=1))
    words = ["data=arrays", f"data.train={tmp_path}/train.npz", f"data.test={tmp_path}/test.npz"]
    words += ["data.batch_size=8", "data.eval_batch_size=8", "model=mlp", "model.hidden=[4]", "model.classes=2"]
    return framework.run([*words, "train.steps=2", f"run.dir={tmp_path}/run"]).directory


def changed(fields, path, value):
    fields[path].flat[-1] = value
    return fields


@pytest.mark.parametrize(
    ("file", "fields", "text"),
    [
        ("train", arrays(39), "it had 40 examples, and has 39 examples; give the run the data that it had, or add"),
        ("train", changed(arrays(40), "inputs", 9), "its values have changed; give the run the data"),
        ("test", changed(arrays(16, seed=1), "inputs", 9), "its values have changed; give the run the data"),
        ("test", arrays(15, seed=1), "it had 16 examples, and has 15 examples; give the run the data"),
    ],
)
def test_data_that_changed_are_refused_by_their_split(run, tmp_path, file, fields, text, capfd):
    np.savez(tmp_path / f"{file}.npz", **fields)
    with pytest.raises(DataError) as raised:
        framework.resume(run, ["train.steps=4"])
    assert message(raised).startswith(f"data: split '{file}' is not that of the run: {text}")
    framework.resume(run, ["train.steps=4"], force=True)
    assert f"split '{file}' is not that of the run" in capfd.readouterr().err
    framework.resume(run, ["train.steps=5"])  # these are the data of the run from here


def test_data_that_did_not_change_are_recorded_by_count_shape_and_digest(run):
    splits = run_record(run)["splits"]
    framework.resume(run, ["train.steps=4"])
    assert run_record(run)["splits"] == splits
    assert {split: described["examples"] for split, described in splits.items()} == {"train": 40, "test": 16}
    assert splits["test"]["arrays"] == {"inputs": "float32[3]", "targets": "int32[]"}


def test_a_stream_that_changed_is_told(install, tmp_path, capfd):
    install("acme", {"framework.data": {"drawn": "acme_drawn:Stream"}}, {"acme_drawn.py": STREAM})
    words = ["data=drawn", "model=mlp", "model.hidden=[4]", "model.classes=2", f"run.dir={tmp_path}/run"]
    framework.run([*words, "train.steps=2"])
    import acme_drawn  # pyright: ignore[reportMissingImports]

    framework.resume(tmp_path / "run", ["train.steps=3"])
    assert "is not that of the run" not in capfd.readouterr().err
    acme_drawn.SCALE = 2.0
    framework.resume(tmp_path / "run", ["train.steps=4"])
    assert "data: split 'train' is not that of the run: its first batch has changed." in capfd.readouterr().err


def test_a_fingerprint_that_fails_names_its_plugin(install, tmp_path):
    install("acme", {"framework.data": {"broken": "acme_broken:Broken"}}, {"acme_broken.py": STREAM})
    with pytest.raises(PluginError) as raised:
        framework.run(["data=broken", "model=mlp", "model.classes=2", "train.steps=1", f"run.root={tmp_path}"])
    assert "its fingerprint() failed: OSError: no checksum" in message(raised)


LARGE = np.arange(3 * BLOCK + 5, dtype=np.uint8)


@pytest.mark.parametrize(
    ("left", "right", "same"),
    [
        (LARGE, LARGE.copy(), True),
        (LARGE, np.concatenate([LARGE[:-1], [77]]).astype(np.uint8), False),
        (LARGE[:6], LARGE[:6].reshape(3, 2), False),
        (LARGE[:8], LARGE[:8].view(np.float32), False),
        (np.arange(12).reshape(3, 4).T, np.arange(12).reshape(3, 4).T.copy(), True),
        (np.zeros((0, 3)), np.zeros((0, 4)), False),
        (np.array([0.0]), np.array([-0.0]), False),
    ],
)
def test_a_digest_is_that_of_values_dtype_and_shape(left, right, same):
    assert (fingerprint_of({"x": left}) == fingerprint_of({"x": right})) is same
