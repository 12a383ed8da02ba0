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
BEST = ["callbacks.checkpoint.keep=0", "optimizer.learning_rate=0.3", "ema=0.5"]


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
        "predict",
        "predicted",
        "block",
        "checked",
        "is_preprocessed",
        "step",
        "record",
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


@pytest.fixture(scope="module")
def rated(tmp_path_factory):
    """A run that jumps about, of which all checkpoints are kept, with an average of its parameters."""
    return testing.train(tmp_path_factory.mktemp("rated"), *SAVING, *BEST, "callbacks.checkpoint.best=eval/accuracy")


def test_a_checkpoint_is_named_by_its_step_as_the_newest_and_as_the_best(rated, saved):
    folder = rated.directory
    testing.assert_same_bits(framework.load(f"{folder}@4").params, framework.load(folder, step=4).params)
    testing.assert_same_bits(framework.load(f"{folder}@newest").params, framework.load(folder).params)
    accuracy = {line["step"]: line["eval/accuracy"] for line in testing.records(rated) if "eval/accuracy" in line}
    best = max(accuracy, key=lambda step: (accuracy[step], -step))
    testing.assert_same_bits(framework.load(f"{folder}@best").params, framework.load(folder, step=best).params)
    losses = {line["step"]: line["eval/loss"] for line in testing.records(saved) if "eval/loss" in line}
    best = min(losses, key=lambda step: losses[step])
    at_best = framework.load(saved.directory, step=best)
    testing.assert_same_bits(framework.load(f"{saved.directory}@best").params, at_best.params)


@pytest.mark.parametrize(
    ("word", "says"),
    [
        ("@5", r"no checkpoint of step 5; found \[2, 4, 6\]"),
        ("@bset", "expected a step, 'best' or 'newest' after the @, found 'bset'"),
        ("@99999999999", "no checkpoint of step 99999999999"),
    ],
)
def test_a_checkpoint_that_is_not_there_is_refused_in_words(rated, word, says):
    with pytest.raises(framework.FrameworkError, match=says) as caught:
        framework.load(f"{rated.directory}{word}")
    testing.message(caught)


def test_a_folder_whose_name_holds_an_at_is_found_as_it_is(saved, tmp_path):
    folder = shutil.copytree(saved.directory, tmp_path / "run@best")
    testing.assert_same_bits(framework.load(folder).params, saved.model.params)


def test_no_best_is_guessed_where_no_saved_step_was_evaluated(folder):
    for step in (2, 4, 6):
        (folder / "checkpoints" / str(step)).rename(folder / "checkpoints" / str(step + 1))
    with pytest.raises(StorageError, match=r"no best checkpoint: none of the saved steps .* logged 'eval/loss'"):
        framework.load(f"{folder}@best")


def test_the_parameters_themselves_can_be_taken_in_the_place_of_their_average(rated):
    testing.assert_same_bits(framework.load(rated.directory, averaged=False).params, rated.state.params)
    testing.assert_same_bits(framework.load(rated.directory).params, rated.state.opt_state.average)


def test_the_best_of_several_members_is_found_by_its_last_evaluation(tmp_path):
    words = ["strategy=vmapped", "strategy.members={optimizer.learning_rate: [1e-4, 0.05]}", "train.steps=8"]
    run = testing.train(tmp_path, *words, "train.eval_every=4", "train.checkpoint_every=4")
    losses = [row["metrics"]["eval/loss"] for row in testing.run_record(run)["members"]]
    best = int(np.argmin(losses))
    expected = framework.load(run.directory, member=best).params
    testing.assert_same_bits(framework.load(run.directory, member="best").params, expected)
    own = dict(zip((4, 8), testing.series(run, f"eval/loss/{best}")[1:], strict=True))
    expected = framework.load(run.directory, step=min(own, key=lambda step: own[step]), member=best).params
    testing.assert_same_bits(framework.load(f"{run.directory}@best", member=best).params, expected)
    with pytest.raises(framework.FrameworkError, match=r"member: expected the number of a member, .* found 'first'"):
        framework.load(run.directory, member="first")
    with pytest.raises(framework.FrameworkError, match=r"trained 2 members; `framework export .* takes one"):
        testing.train(tmp_path, f"init_from={run.directory}")


def test_raw_inputs_are_predicted_in_blocks_with_the_outputs_of_a_call(saved):
    model = framework.load(saved.directory)
    inputs = np.random.default_rng(0).normal(size=(37, 6)).astype(np.float32)  # blocks of 16, 16 and 5
    outputs = model.predict(inputs)
    assert (model.block, outputs.shape, type(outputs)) == (16, (37, 10), np.ndarray)
    np.testing.assert_allclose(outputs, model(inputs), rtol=1e-6, atol=1e-6)
    np.testing.assert_array_equal(model.predict(inputs[:16]), outputs[:16])
    with pytest.raises(framework.FrameworkError, match="expected one example or more, found none"):
        model.predict(inputs[:0])
    with pytest.raises(framework.FrameworkError, match=r"expected inputs float32 \[B, 6\], found uint8 \[37, 6\]"):
        model.predict(inputs.astype(np.uint8))
