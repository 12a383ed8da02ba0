"""A trained model is read back from the newest checkpoint that holds what its name says."""

from __future__ import annotations

import shutil

import jax
import numpy as np
import pytest

import framework
from framework import testing
from framework.errors import StorageError

SAVING = ["train.steps=6", "train.checkpoint_every=2", "train.eval_every=2", "callbacks=[checkpoint]"]


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A run with checkpoints at steps 2, 4 and 6."""
    return testing.train(tmp_path_factory.mktemp("saved"), *SAVING)


@pytest.fixture
def folder(saved, tmp_path):
    """A copy of that run."""
    return shutil.copytree(saved.directory, tmp_path / "run")


def cut(path):
    path.write_bytes(path.read_bytes()[:-100])


DAMAGES = {
    "a cut file": lambda at: cut(at / "6" / "arrays.npz"),
    "no manifest": lambda at: (at / "6" / "manifest.json").unlink(),
    "an older one under its name": lambda at: (shutil.rmtree(at / "6"), shutil.copytree(at / "2", at / "6")),
    "a name that was never saved": lambda at: (at / "6").rename(at / "8"),
}


@pytest.mark.parametrize("case", DAMAGES)
def test_a_damaged_or_renamed_checkpoint_is_passed_over_and_left_where_it_is(folder, case, capfd):
    checkpoints = folder / "checkpoints"
    expected = framework.load(folder, step=4)
    DAMAGES[case](checkpoints)
    names = sorted(path.name for path in checkpoints.iterdir())
    model = framework.load(folder)
    for left, right in zip(jax.tree.leaves(model.params), jax.tree.leaves(expected.params), strict=True):
        np.testing.assert_array_equal(left, right)
    assert names == sorted(path.name for path in checkpoints.iterdir())
    with pytest.raises(StorageError, match=r"checkpoints/\d"):
        framework.load(folder, step=int(names[-1]))


def test_without_a_sound_checkpoint_the_newest_one_is_named(folder):
    for path in (folder / "checkpoints").iterdir():
        cut(path / "arrays.npz")
    with pytest.raises(StorageError, match=r"checkpoints/6 cannot be read") as caught:
        framework.load(folder)
    testing.message(caught)


def test_a_result_and_a_model_say_what_they_are_in_one_line(saved):
    model = framework.load(saved.directory)
    assert repr(saved.model) == repr(model)
    assert repr(model) == f"Trained(mlp: inputs float32 [B, 6], 146 parameters, {saved.directory})"
    accuracy, loss = (f"eval/{name} {saved.metrics[f'eval/{name}']:.4g}" for name in ("accuracy", "loss"))
    assert repr(saved) == f"Result(default: done at step 6, {accuracy}, {loss}, {saved.directory})"
    public = {name for name in dir(model) if not name.startswith("_")}
    assert public == {
        "task",
        "model",
        "params",
        "model_state",
        "task_state",
        "config",
        "facts",
        "inputs",
        "directory",
        "preprocess",
    }


def test_a_run_that_is_shortened_to_where_it_stands_is_evaluated_there(tmp_path):
    words = ["train.steps=12", "train.checkpoint_every=4", "train.eval_every=0"]
    run = testing.train(tmp_path, *words)
    for step in (8, 12):
        shutil.rmtree(run.directory / "checkpoints" / str(step))
    record = run.directory / "run.json"
    record.write_text(record.read_text().replace('"exit_code": 0', '"exit_code": 1'))
    resumed = framework.resume(run.directory, ["train.steps=4"])
    straight = testing.train(tmp_path, *words, "train.steps=4")
    assert resumed.metrics["eval/loss"] == straight.metrics["eval/loss"]


def test_a_checkpoint_of_another_run_is_never_taken(saved, folder, tmp_path, capfd):
    other = testing.train(tmp_path / "other", *SAVING, "train.steps=8", "seed=1").directory
    shutil.copytree(other / "checkpoints" / "8", folder / "checkpoints" / "8")
    model = framework.load(folder)
    testing.assert_same_bits(model.params, framework.load(saved.directory).params)
    with pytest.raises(StorageError, match="checkpoints/8 is of another run"):
        framework.load(folder, step=8)
    resumed = framework.resume(folder, ["train.steps=8"])
    straight = testing.train(tmp_path / "straight", *SAVING, "train.steps=8")
    testing.assert_same_bits(resumed.state, straight.state)
    assert "checkpoints/8 is of another run" in capfd.readouterr().err
    assert (folder / "checkpoints" / "8.damaged").is_dir()
