"""The closing summary: best values, costs, ways to go on, and a warning where a run ends worse than it began."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

import framework
from framework import testing
from framework.records.record import RunRecord, loss_warnings
from framework.runs.closing import rows_of, survey, table

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


@pytest.mark.parametrize(("last", "told"), [(3.0, 0), (math.nan, 1)])
def test_a_loss_without_a_direction_may_rise(last, told):
    found = {"metrics": {"train/loss": last}, "directions": {"eval/spread": True}}
    assert len(loss_warnings(RunRecord(config={}, first_loss=[1, 2.0], step=9, **found))) == told


def test_each_learning_rate_of_the_task_is_named():
    record = RunRecord(config={"task": {"name": "gan"}}, first_loss=[1, 2.0], step=9, metrics={"train/loss": 3.0})
    named = "try a lower generator_optimizer.learning_rate or discriminator_optimizer.learning_rate."
    assert loss_warnings(record)[0].endswith(named)


def test_a_policy_that_acts_may_end_with_a_larger_loss_but_not_with_none():
    record = RunRecord(config={"environment": {}}, first_loss=[1, 2.0], step=9, metrics={"train/loss": 3.0})
    assert loss_warnings(record) == []
    assert "not finite" in loss_warnings(replace(record, metrics={"train/loss": math.nan}))[0]


def test_a_summary_has_best_values_costs_and_ways_to_go_on(tmp_path, capfd):
    place = tmp_path / "my runs"  # with a space, so that the commands quote it
    place.mkdir()
    result = testing.train(place, "train.steps=12", "train.eval_every=3", "train.log_every=2", "callbacks=[checkpoint]")
    said = capfd.readouterr().err
    header, *rows = said[said.index("done\n") :].splitlines()[1:]
    assert header.split() == ["last", "best", "step"]
    assert [row.split()[0] for row in rows[:4]] == ["train/loss", "train/accuracy", "eval/loss", "eval/accuracy"]
    for row in rows[:4]:
        tag, last, best, step = row.split()
        values = {line["step"]: line[tag] for line in testing.records(result) if tag in line and line["step"]}
        chosen = (max if tag.endswith("accuracy") else min)(values.values())
        assert (last, best) == (f"{values[12]:.4g}", f"{chosen:.4g}")
        assert int(step) == next(step for step, value in values.items() if value == chosen)
    labels = [row.partition(":")[0].strip() for row in rows[4:]]
    expected = ["took", "of that", "memory", "devices", "run folder", "evaluate", "train on"]
    assert [label for label in labels if label in expected] == expected
    folder = result.directory
    assert f"train on:   framework resume '{folder}' train.steps=24" in rows and f"run folder: {folder}" in rows
    assert "steps_per_call" not in said and "steps_per_call: " in (folder / "run.log").read_text()


def test_a_long_table_is_cut_and_what_has_no_direction_has_no_best():
    metrics = {f"eval/confusion/{place}": 1.0 for place in range(40)} | {
        "perf/x": 1.0,
        "train/loss": 2.0,
        "mine/x": 3.0,
    }
    lines = table(rows_of(metrics, {"train/loss": (1.5, 7)}))
    assert lines[1].split() == ["train/loss", "2", "1.5", "7"]
    assert len(lines) == 26 and lines[-1] == "… 18 more in metrics.jsonl"
    assert lines[2].split() == ["eval/confusion/0", "1"]
    assert table(rows_of({}, {})) == []


def test_a_survey_takes_the_first_of_equal_values_and_no_nan():
    records = [
        {"step": 1, "a": 2.0, "b": math.nan, "c": 1.0, "perf/examples_per_second": 100.0},
        {"step": 2, "a": 1.0, "b": 5.0, "perf/examples_per_second": 300.0},
        {"step": 3, "a": 1.0, "b": 4.0},
    ]
    best, speed = survey(records, {"a": False, "b": True, "c": None})
    assert best == {"a": (1.0, 2), "b": (5.0, 2)} and speed == pytest.approx(150)
    assert survey([], {}) == ({}, None)
