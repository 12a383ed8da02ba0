"""A run that ends worse than it began says so, in its summary and in run.json."""

from __future__ import annotations

import math

import pytest

import framework
from framework import testing
from framework.runs.record import RunRecord, loss_warnings

LINEAR = ["model=serial", "~model.hidden", "+model.layers=[{Dense: 10}]", "loss=squared_error", "data.task=regression"]
DIVERGING = [*LINEAR, "optimizer=sgd", "optimizer.learning_rate=100", "train.steps=3"]


def test_a_loss_above_its_start_is_told(tmp_path, capfd):
    result = testing.train(tmp_path, *DIVERGING, "train.log_every=1")
    record, losses = testing.run_record(result), testing.series(result, "train/loss")
    first, last = losses[0], losses[-1]
    text = f"train/loss {last:.6g} at step 3, above its start: it was {first:.6g} at step 1"
    assert last > 1e6 > first and result.status == record["status"] == "done"
    assert text in record["warnings"][0] and text in capfd.readouterr().err
    assert record["first_loss"] == [1, pytest.approx(first, rel=1e-6)]


def test_the_first_step_counts_even_if_it_is_not_logged(tmp_path):
    logged = testing.train(tmp_path, *DIVERGING, "train.log_every=1", "run.name=each")
    record = testing.run_record(testing.train(tmp_path, *DIVERGING, "train.log_every=0"))
    assert record["first_loss"] == [1, pytest.approx(testing.series(logged, "train/loss")[0], rel=1e-6)]


def test_a_resumed_run_knows_its_start(tmp_path, capfd):
    straight = testing.train(tmp_path, "train.steps=8")
    folder = testing.train(tmp_path, "train.steps=4").directory
    resumed = framework.resume(folder, ["train.steps=8"])
    assert testing.run_record(resumed)["first_loss"] == testing.run_record(straight)["first_loss"]


def test_members_tell_their_mean(tmp_path):
    result = testing.train(tmp_path, "strategy=vmapped", "strategy.members=2", "train.steps=2", "train.log_every=1")
    first = testing.run_record(result)["first_loss"]
    assert first == [1, pytest.approx(testing.series(result, "train/loss")[0], rel=1e-6)]


@pytest.mark.parametrize(
    ("first", "step", "last", "told"),
    [
        ([1, 2.0], 9, 1.0, None),
        ([1, 2.0], 9, 2.0, None),
        ([1, 2.0], 9, 2.5, "above its start"),
        ([1, 2.0], 9, math.nan, "not finite"),
        ([1, 2.0], 9, math.inf, "not finite"),
        ([9, 2.0], 9, 3.0, None),  # one step alone
        (None, 9, 3.0, None),
        ([1, 2.0], 9, None, None),
    ],
)
def test_what_is_told(first, step, last, told):
    metrics = {} if last is None else {"train/loss": last}
    warnings = loss_warnings(RunRecord(config={}, first_loss=first, step=step, metrics=metrics))
    assert [told in each for each in warnings] == ([] if told is None else [True])


def test_each_learning_rate_of_the_task_is_named():
    record = RunRecord(config={"task": {"name": "gan"}}, first_loss=[1, 2.0], step=9, metrics={"train/loss": 3.0})
    named = "try a lower generator_optimizer.learning_rate or discriminator_optimizer.learning_rate."
    assert loss_warnings(record)[0].endswith(named)
