"""Losses that are not finite: found soon, told with the right advice, and in evaluations as in training."""

from __future__ import annotations

import numpy as np
import pytest

from framework.errors import NumericalError
from framework.testing import message, records, train

PLUGINS = """
import jax
import jax.numpy as jnp
import numpy as np

from framework.api import DataPipeline, Model


def model():
    def init(key, shape):
        return (-1, 3), {"W": jnp.full((6, 3), jnp.nan)}, ()

    return Model(init, lambda params, state, inputs, *, key=None, train=False: (inputs @ params["W"], state))


class Spoilt(DataPipeline):
    steps_per_epoch, source = 8, "spoilt"
    spec = {"inputs": jax.ShapeDtypeStruct((8, 6), np.float32), "targets": jax.ShapeDtypeStruct((8,), np.int32)}

    def __init__(self, steps, split):
        self.steps, self.split, self.splits, self.asked = steps, split, ("valid", "test"), 0

    def _batch(self, value=1):
        inputs = np.random.default_rng(0).normal(size=(8, 6)).astype(np.float32) * np.float32(value)
        return {"inputs": inputs, "targets": np.arange(8, dtype=np.int32) % 3}

    def train(self, seed, start=0):
        while True:
            start += 1
            made.append(start)
            yield self._batch(np.nan if start in self.steps else 1)

    def eval(self, split):
        yield self._batch(np.nan if split == self.split else 1)


made = []


def spoilt(steps: tuple[int, ...] = (), split: str = ""):
    return Spoilt(steps, split)
"""

SPOILT = ["data=spoilt", "~data.shape", "~data.examples", "~data.noise", "~data.batch_size", "~data.eval_batch_size"]
SPOILT += ["model.classes=3"]


@pytest.fixture(autouse=True)
def acme(install):
    groups = {"framework.models": {"unsound": "acme_nan:model"}, "framework.data": {"spoilt": "acme_nan:spoilt"}}
    install("acme", groups, {"acme_nan.py": PLUGINS})


def refusal(folder, *words):
    with pytest.raises(NumericalError) as caught:
        train(folder, *SPOILT, *words)
    return message(caught)


@pytest.mark.parametrize("per_call", ["1", "7", "auto"])
def test_without_any_period_a_loss_that_is_not_finite_is_found_within_a_chunk_or_two(tmp_path, per_call):
    periods = ["train.log_every=0", "train.eval_every=0", f"train.steps_per_call={per_call}", "train.steps=3000"]
    assert "train/loss is nan at step 6;" in refusal(tmp_path, "data.steps=[6]", *periods)
    import acme_nan

    assert max(acme_nan.made) < 300


def test_parameters_that_are_not_finite_at_first_are_named(tmp_path):
    told = refusal(tmp_path, "model=unsound", "~model.hidden", "~model.classes", "train.steps=4")
    assert "at step 1; params/W was not finite before step 1: look at the model's init, or" in told
    assert "learning_rate" not in told


@pytest.mark.parametrize(("split", "tag", "step"), [("valid", "eval", 2), ("test", "test", 4)])
def test_an_evaluation_that_is_not_finite_ends_the_run(tmp_path, split, tag, step):
    words = [f"data.split={split}", "train.steps=4", "train.eval_every=2", f"run.dir={tmp_path}/run"]
    assert f"{tag}/loss is nan after step {step}, of the split '{split}'" in refusal(tmp_path, *words)
    assert records(tmp_path / "run")[-1][f"{tag}/loss"] == "NaN"


@pytest.mark.parametrize("policy", ["ignore", "skip"])
def test_or_is_told_where_the_policy_says_go_on(tmp_path, caplog, policy):
    words = ["data.split=valid", "train.steps=4", "train.eval_every=2", f"nan_policy={policy}"]
    result = train(tmp_path, *SPOILT, *words)
    assert result.status == "done"
    assert "eval/loss is nan after step 2, of the split 'valid'" in (result.directory / "run.log").read_text()


def test_steps_that_were_skipped_are_told(tmp_path):
    words = ["data.steps=[3,5]", "train.steps=8", "nan_policy=skip", "train.log_every=4"]
    result = train(tmp_path, *SPOILT, *words)
    log = (result.directory / "run.log").read_text()
    assert "undone, since the update is not finite: step 3\n" in log
    assert "undone, since the update is not finite: step 5\n" in log
    assert result.metrics["train/skipped"] == 2
    assert np.isfinite(result.metrics["eval/loss"])
