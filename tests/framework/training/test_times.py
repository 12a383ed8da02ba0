"""Parts of the time, which add up to the whole, in the log, the record and one sentence."""

from __future__ import annotations

import pytest

from framework import testing
from framework.tags import PARTS, SPEED
from framework.training.evaluation import Clock
from framework.training.times import Times, duration, largest_parts


def test_parts_add_up_and_inner_ones_are_no_part_of_outer_ones(monkeypatch):
    ticks = iter(range(100))
    monkeypatch.setattr("framework.training.times.time.perf_counter", lambda: float(next(ticks)))
    times = Times()  # at 0
    with times.part("evaluation"):  # from 1
        with times.part("logging"):  # from 2 to 3
            pass
        with times.part("data"):  # from 4 to 5
            pass
    # the evaluation ends at 6
    assert times.shares() == {f"perf/share/{part}": 0 for part in PARTS} | {  # at 7
        "perf/share/evaluation": 3 / 7,
        "perf/share/logging": 1 / 7,
        "perf/share/data": 1 / 7,
        "perf/share/other": 2 / 7,
    }
    assert times.switch("device") == "other"  # at 8
    times.switch("other")  # at 9
    assert times.shares()["perf/share/device"] == pytest.approx(1 / 3)
    assert sum(times.seconds.values()) == 10


def test_compiling_within_a_part_is_no_time_of_it(monkeypatch):
    ticks = iter(range(100))
    monkeypatch.setattr("framework.training.times.time.perf_counter", lambda: float(next(ticks)))
    times = Times()  # at 0
    with times.part("logging"):  # from 1
        times.compiled(0.75)  # at 2
        times.compiled(5)  # at 3, of which a second is known to be of it
    # logging ends at 4
    with times.part("dispatch"):  # from 5 to 6
        times.compiled(0.5)
        times.recast("compiling")
    spent = {"other": 2, "logging": 1.25, "compiling": 2.75}
    assert times.seconds == dict.fromkeys(PARTS, 0.0) | spent


@pytest.mark.parametrize(
    ("seconds", "told"),
    [
        (
            {"device": 7.1, "compiling": 2.0, "data": 0.1, "other": 0.8},
            ["71 % device", "20 % compiling", "9 % others"],
        ),
        ({"data": 3.0}, ["100 % data"]),
        ({"data": 0.0}, []),
    ],
)
def test_the_largest_parts_are_named_first(seconds, told):
    assert largest_parts(seconds) == told


@pytest.mark.parametrize(("seconds", "text"), [(1.234, "1.23 s"), (59, "59 s"), (125, "2:05 min"), (3725, "1:02:05 h")])
def test_durations(seconds, text):
    assert duration(seconds) == text


@pytest.mark.parametrize("more", [[], ["train.steps_per_call=1"], ["train.resident_mib=0"]], ids=" ".join)
def test_a_run_divides_each_interval_and_its_whole_time(tmp_path, more):
    run = testing.train(
        tmp_path, "train.steps=6", "train.log_every=2", "train.eval_every=3", "callbacks=[checkpoint]", *more
    )
    lines = [line for line in testing.records(run, timed=True) if "train/loss" in line]
    for line in lines:
        shares = [line[f"perf/share/{part}"] for part in PARTS]
        assert sum(shares) == pytest.approx(1)
        assert min(shares) >= 0
    assert lines[0]["perf/share/compiling"] > 0
    times = testing.run_record(run)["times"]
    assert set(times) == set(PARTS)
    assert times["evaluation"] > 0
    assert times["checkpoints"] > 0
    assert "\nof that: " in (run.directory / "run.log").read_text()


def test_the_speed_counts_each_step_once(monkeypatch):
    ticks = iter([0.0, 2.0, 2.0, 7.0, 7.0])
    monkeypatch.setattr("framework.training.evaluation.time.perf_counter", lambda: next(ticks))
    clock = Clock(batch_size=4)
    assert clock.lap(10) == {}  # at 0, and what came before compiled
    assert clock.lap(30) == {SPEED: 20 * 4 / 2}  # at 2
    assert clock.lap(30) == {}  # the steps were finished, and counted, with those before
    assert clock.lap(40) == {SPEED: 10 * 4 / 5}  # at 7


@pytest.mark.parametrize("words", [["strategy=eager"], ["debug=nans"], ["train.steps_per_call=1"]])
def test_no_log_has_a_speed_of_0(words, tmp_path):
    run = testing.train(tmp_path, "train.steps=9", "train.log_every=3", "callbacks=[]", *words)
    speeds = [each[SPEED] for each in testing.records(run, timed=True) if SPEED in each]
    assert speeds
    assert min(speeds) > 0
