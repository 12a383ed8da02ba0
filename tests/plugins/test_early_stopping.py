"""Early stopping: when it stops, what it says, and that a resumed run counts on."""

from __future__ import annotations

import math

import pytest

import framework
from framework.api import History, Run, StopTraining
from framework.errors import ConfigError
from framework.testing import run_record
from framework_callbacks.early_stopping import early_stopping


class Logged(History):
    """The values of one metric, from step 1 on."""

    def __init__(self, values=()):
        self.values = values

    def records(self, since=0):
        return ({"step": step, "eval/loss": value} for step, value in enumerate(self.values, start=1))


DIRECTIONS = {"train/loss": False, "eval/loss": False, "eval/acc": True, "eval/f": None, "eval/confusion": True}


def start(directory, start_step=0, total_steps=1000, logged=(), **options):
    callback = early_stopping(**options)
    history = Logged(logged)
    run = Run(directory, "mnist", {}, start_step, total_steps, 20, 128, (), {}, history=history, directions=DIRECTIONS)
    callback.on_start(run)
    return callback


def stopped_at(callback, values, tag="eval/loss", first=1):
    """The step of the value that ended the run, and what was said."""
    for step, value in enumerate(values, start=first):
        callback.on_log(step, {"train/loss": 0.0})
        try:
            callback.on_log(step, {tag: value, "eval/other": 0.0})
        except StopTraining as stop:
            return step, str(stop)
    return None, ""


NAN = math.nan


@pytest.mark.parametrize(
    ("options", "values", "step"),
    [
        ({"patience": 2}, [3, 2, 2, 2, 1], 4),
        ({"patience": 2}, [3, 2, 2, 1, 2, 1.5, 0], 6),
        ({"patience": 1}, [1, 1], 2),
        ({"patience": 3}, [5, 4, 3, 2, 1], None),
        ({"patience": 2, "mode": "max"}, [1, 2, 2, 1, 3], 4),
        ({"patience": 2, "mode": "max"}, [-3, -2, -1], None),
        ({"patience": 2, "min_delta": 0.5}, [3, 2.6, 2.6, 1], 3),
        ({"patience": 2, "min_delta": 0.5}, [3, 2.6, 2.4, 2.3, 1.8, 1.7], None),
        ({"patience": 2}, [1, NAN, NAN], 3),
        ({"patience": 3}, [NAN, NAN, 1, 2, 2, 2], 6),
        ({"target": 1.5}, [3, 2, NAN, 1.5, 1], 4),
        ({"target": 2.5, "mode": "max"}, [1, 2, 2, 3, 1], 4),
        ({"target": 0, "patience": 2}, [1, 1, 1, 0], 3),
        ({"target": 1, "total_steps": 2}, [2, 1], None),
        ({"patience": 1, "total_steps": 2}, [1, 1], None),  # the last step ends the run anyway
    ],
)
def test_it_stops_after_so_many_evaluations_without_improvement(tmp_path, options, values, step):
    assert stopped_at(start(tmp_path, **options), values)[0] == step


def test_it_says_why(tmp_path):
    for mode in ("max", "auto"):  # the metric declares that high values are good
        callback = start(tmp_path, patience=2, mode=mode, metric="eval/acc")
        _, text = stopped_at(callback, [0.5, 0.75, 0.5, 0.5], "eval/acc")
        assert text == "eval/acc has not improved on 0.75, of step 2, in 2 evaluations"


def test_it_says_that_a_target_is_reached(tmp_path):
    callback = start(tmp_path, target=0.9, metric="eval/acc")
    assert stopped_at(callback, [0.5, 0.925], "eval/acc") == (2, "eval/acc is 0.925, and its target is 0.9")


@pytest.mark.parametrize("cut", range(1, 6))
def test_a_resumed_run_stops_where_the_whole_one_does(tmp_path, cut):
    values = [3.0, 2.0, NAN, 2.0, 2.5, 1.0]
    whole = stopped_at(start(tmp_path, patience=3), values)
    assert whole[0] == 5
    callback = start(tmp_path, start_step=cut, logged=values[:cut], patience=3)
    resumed = stopped_at(callback, values[cut:], first=cut + 1)
    # A run that is resumed where it had stopped has waited long enough; its next evaluation decides.
    assert resumed == (whole if cut < 5 else (None, ""))


def test_a_resumed_run_without_records_begins_to_count(tmp_path):
    assert stopped_at(start(tmp_path, start_step=4, patience=1), [1.0, 1.0], first=5)[0] == 6


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"patience": 0}, "patience: expected at least 1 evaluation, found 0"),
        ({"min_delta": -1.0}, "min_delta: expected 0 or more, found -1.0"),
        ({"min_delta": NAN}, "min_delta: expected 0 or more"),
        ({"metric": "test/loss"}, "is measured after training; watch eval/loss"),
    ],
)
def test_options_out_of_range_are_refused(options, text):
    with pytest.raises(ConfigError, match=text):
        early_stopping(**options)


def test_a_tag_that_nobody_logs_is_refused_before_training(tmp_path):
    with pytest.raises(ConfigError, match=r"metric: this run logs no 'eval/los'. Did you mean 'eval/loss'\?"):
        start(tmp_path, metric="eval/los")


def test_a_suffix_that_nobody_logs_is_refused_at_the_first_evaluation(tmp_path):
    callback = start(tmp_path, metric="eval/confusion/recall_9")
    with pytest.raises(ConfigError, match=r"logs no 'eval/confusion/recall_9'. Did you mean 'eval/confusion/recall_1'"):
        stopped_at(callback, [1.0], "eval/confusion/recall_1")
    member = start(tmp_path, metric="eval/loss/3")  # frozen before it was measured
    assert stopped_at(member, [1.0]) == (None, "")


def test_a_metric_without_a_direction_asks_for_the_mode(tmp_path):
    with pytest.raises(ConfigError, match=r"'eval/f' does not say which way is better; set mode=min .* or mode=max"):
        start(tmp_path, metric="eval/f")
    assert stopped_at(start(tmp_path, metric="eval/f", mode="max", patience=1), [1, 0], "eval/f")[0] == 2


def test_a_run_ends_in_good_order(tmp_path):
    words = "data=synthetic data.shape=[4] data.examples=32 data.batch_size=16 data.eval_batch_size=16 model=mlp"
    more = ["model.hidden=[4]", "train.eval_every=2", "train.steps=40", "optimizer.learning_rate=0.0"]
    early = ["callbacks=[checkpoint]", "callbacks+={early_stopping: {patience: 3}}"]
    result = framework.run([*words.split(), *more, *early, f"run.root={tmp_path}"])
    assert int(result.state.step) == 8
    record = run_record(result)
    assert (record["status"], record["exit_code"]) == ("stopped", 0)
    assert "has not improved on" in record["reason"]
