"""metrics.jsonl holds every step once, whatever happened to the run before."""

from __future__ import annotations

import json
import math

import pytest

from framework.api import Run, Summary
from framework_callbacks.metrics_log import metrics_log


def start(directory, start_step=0):
    callback = metrics_log()
    callback.on_start(Run(directory, "mnist", {}, start_step, 60, 20, 128, (), {}))
    return callback


def write(directory, steps, start_step=0):
    callback = start(directory, start_step)
    for step in steps:
        callback.on_log(step, {"train/loss": 1 / step})
    callback.on_end(Summary(max(steps), {}, "done", 1.0))


def entries(directory):
    def refuse(word):
        raise AssertionError(f"{word} is not JSON")

    lines = (directory / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line, parse_constant=refuse) for line in lines]


def losses(steps):
    return [{"step": step, "train/loss": 1 / step} for step in steps]


def test_a_line_a_step_readable_at_once(tmp_path):
    callback = start(tmp_path)
    for step in (10, 20, 30):
        callback.on_log(step, {"train/loss": 1 / step})
        assert entries(tmp_path)[-1] == {"step": step, "train/loss": 1 / step}
    callback.on_end(Summary(30, {}, "done", 1.0))
    assert entries(tmp_path) == losses([10, 20, 30])


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf, 0.1, 1e300, -0.0])
def test_numbers_come_back_as_they_were(tmp_path, number):
    callback = start(tmp_path)
    callback.on_log(1, {"train/loss": number})
    callback.on_end(Summary(1, {}, "done", 1.0))
    assert str(float(entries(tmp_path)[0]["train/loss"])) == str(number)


def test_what_one_step_logs_in_two_calls_is_one_line(tmp_path):
    callback = start(tmp_path)
    callback.on_log(10, {"train/loss": 0.5})
    callback.on_log(20, {"train/loss": 0.25})
    callback.on_log(20, {"test/loss": 0.125})
    callback.on_end(Summary(20, {}, "done", 1.0))
    again = start(tmp_path, start_step=20)
    again.on_log(20, {"test/accuracy": 1.0})
    again.on_log(30, {"train/loss": 0.0625})
    again.on_end(Summary(30, {}, "done", 1.0))
    assert entries(tmp_path) == [
        {"step": 10, "train/loss": 0.5},
        {"step": 20, "train/loss": 0.25, "test/loss": 0.125, "test/accuracy": 1.0},
        {"step": 30, "train/loss": 0.0625},
    ]


def test_a_line_that_gets_shorter_leaves_nothing_behind(tmp_path):
    callback = start(tmp_path)
    callback.on_log(10, {"train/loss": 0.123456789})
    callback.on_log(10, {"train/loss": 0.5})
    callback.on_log(20, {"train/loss": 0.25})
    callback.on_end(Summary(20, {}, "done", 1.0))
    assert entries(tmp_path) == [{"step": 10, "train/loss": 0.5}, {"step": 20, "train/loss": 0.25}]


@pytest.mark.parametrize("start_step", [5, 10, 20, 60])
def test_resumed_run_has_each_step_once(tmp_path, start_step):
    write(tmp_path, range(10, 70, 10))
    write(tmp_path, [*range(start_step // 10 * 10 + 10, 70, 10), 70], start_step)
    assert entries(tmp_path) == losses(range(10, 80, 10))


def test_run_that_starts_over_keeps_nothing_old(tmp_path):
    write(tmp_path, [10, 20])
    write(tmp_path, [7])
    assert entries(tmp_path) == losses([7])


@pytest.mark.parametrize(
    "tail",
    [
        b'{"step": 40, "train/lo',
        b'{"step": 20, "train/lo',
        b"\x00\x00\x00\x00",
        b"\xff\xfe\n",
        b"17\n",
        b'{"train/loss": 1.0}\n',
        b'{"step": "20"}\n',
        b"\n\n",
    ],
)
def test_damaged_tail_is_repaired(tmp_path, tail):
    write(tmp_path, [10, 20, 30])
    with (tmp_path / "metrics.jsonl").open("ab") as file:
        file.write(tail)
    write(tmp_path, [40], start_step=30)
    assert entries(tmp_path) == losses([10, 20, 30, 40])


def test_missing_last_line_end_is_added(tmp_path):
    write(tmp_path, [10, 20])
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(path.read_bytes().rstrip())
    write(tmp_path, [30], start_step=20)
    assert entries(tmp_path) == losses([10, 20, 30])


def test_end_without_start_is_harmless():
    metrics_log().on_end(Summary(0, {}, "failed", 0.0))
