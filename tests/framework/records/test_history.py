"""metrics.jsonl holds every step once, whatever happened to the run before, and is read back as it was logged."""

from __future__ import annotations

import json
import math
import time

import pytest

import framework
from framework.errors import StorageError
from framework.records.history import MetricsFile, last_written


def start(directory, start_step=0):
    history = MetricsFile(directory)
    history.cut(start_step)
    return history


def write(directory, steps, start_step=0):
    history = start(directory, start_step)
    for step in steps:
        history.append(step, {"train/loss": 1 / step})
    return history


def lines(directory):
    def refuse(word):
        raise AssertionError(f"{word} is not JSON")

    text = (directory / "metrics.jsonl").read_text().splitlines()
    found = [json.loads(line, parse_constant=refuse) for line in text]
    assert all(len(line.pop("crc32")) == 8 for line in found)
    clock = [line.pop("time") for line in found if "time" in line]
    assert clock == sorted(clock) and all(clock)
    return found


def losses(steps):
    return [{"step": step, "train/loss": 1 / step} for step in steps]


def test_a_line_a_step_readable_at_once(tmp_path):
    history = start(tmp_path)
    for step in (10, 20, 30):
        history.append(step, {"train/loss": 1 / step})
        assert lines(tmp_path) == list(history.records()) == losses(range(10, step + 10, 10))


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf, 0.1, 1e300, -0.0])
def test_numbers_come_back_as_they_were(tmp_path, number):
    start(tmp_path).append(1, {"train/loss": number})
    assert str(float(lines(tmp_path)[0]["train/loss"])) == str(number)
    history = MetricsFile(tmp_path)
    assert str(history.last("train/loss")) == str(number) == str(history.cut(1)["train/loss"])
    assert str(float(lines(tmp_path)[0]["train/loss"])) == str(number)


def test_what_one_step_logs_in_two_calls_is_one_line(tmp_path):
    history = start(tmp_path)
    history.append(10, {"train/loss": 0.5})
    history.append(20, {"train/loss": 0.25})
    history.append(20, {"test/loss": 0.125})
    again = start(tmp_path, start_step=20)
    again.append(20, {"test/accuracy": 1.0})
    again.append(30, {"train/loss": 0.0625})
    assert lines(tmp_path) == [
        {"step": 10, "train/loss": 0.5},
        {"step": 20, "train/loss": 0.25, "test/loss": 0.125, "test/accuracy": 1.0},
        {"step": 30, "train/loss": 0.0625},
    ]


def test_a_line_that_gets_shorter_leaves_nothing_behind(tmp_path):
    history = start(tmp_path)
    history.append(10, {"train/loss": 0.123456789})
    history.append(10, {"train/loss": 0.5})
    history.append(20, {"train/loss": 0.25})
    assert lines(tmp_path) == [{"step": 10, "train/loss": 0.5}, {"step": 20, "train/loss": 0.25}]


@pytest.mark.parametrize("start_step", [5, 10, 20, 60])
def test_resumed_run_has_each_step_once(tmp_path, start_step):
    write(tmp_path, range(10, 70, 10))
    write(tmp_path, [*range(start_step // 10 * 10 + 10, 70, 10), 70], start_step)
    assert lines(tmp_path) == losses(range(10, 80, 10))


def test_run_that_starts_over_keeps_nothing_old(tmp_path):
    write(tmp_path, [10, 20])
    write(tmp_path, [7])
    assert lines(tmp_path) == losses([7])


@pytest.mark.parametrize(
    "tail",
    [
        b'{"step": 40, "train/lo',
        b'{"step": 20, "train/lo',
        b"\x00\x00\x00\x00",
        b"\xff\xfe\n",
        b"17\n",
        b"[]\n",
        b'{"train/loss": 1.0}\n',
        b'{"step": "20"}\n',
        b'{"step": 30, "train/loss": null}\n',
        b'{"step": 30, "train/loss": "low"}\n',
        b"\n\n",
        b"[" * 100_000,
    ],
)
def test_damaged_tail_is_repaired(tmp_path, tail):
    write(tmp_path, [10, 20, 30])
    with (tmp_path / "metrics.jsonl").open("ab") as file:
        file.write(tail)
    assert list(MetricsFile(tmp_path).records()) == losses([10, 20, 30])
    write(tmp_path, [40], start_step=30)
    assert lines(tmp_path) == losses([10, 20, 30, 40])


def test_missing_last_line_end_is_added(tmp_path):
    write(tmp_path, [10, 20])
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(path.read_bytes().rstrip())
    write(tmp_path, [30], start_step=20)
    assert lines(tmp_path) == losses([10, 20, 30])


def test_series_and_the_last_value_by_tag(tmp_path):
    history = write(tmp_path, [10, 20])
    history.append(20, {"eval/loss": 3.0})
    assert history.series("train/loss") == [(10, 0.1), (20, 0.05)]
    assert (history.last("eval/loss"), history.last("eval/los")) == (3.0, None)
    assert [record["step"] for record in history.records(since=11)] == [20]
    assert history.cut(20) == {"train/loss": 0.05, "eval/loss": 3.0}
    assert history.cut(10) == {"train/loss": 0.1}
    assert MetricsFile(tmp_path / "nowhere").series("train/loss") == []


def test_a_folder_that_was_moved_or_deleted_is_noticed_at_the_next_record(tmp_path):
    (tmp_path / "run").mkdir()
    history = write(tmp_path / "run", [10])
    (tmp_path / "run").rename(tmp_path / "moved")
    with pytest.raises(StorageError, match=r"run/metrics.jsonl cannot be written: No such file or directory"):
        history.append(20, {"train/loss": 0.0})
    assert lines(tmp_path / "moved") == losses([10])


WORDS = "data=synthetic data.shape=[4] data.examples=32 data.batch_size=16 data.eval_batch_size=16 model=mlp"


def test_the_log_needs_no_callback_and_one_of_an_old_config_is_ignored(tmp_path, capfd):
    words = [*WORDS.split(), "model.hidden=[4]", "train.log_every=1", "callbacks=[checkpoint]"]
    framework.run([*words, "train.steps=2", f"run.dir={tmp_path}/run"])
    config = tmp_path / "run" / "config.yaml"
    config.write_text(config.read_text().replace("callbacks:\n", "callbacks:\n  metrics_log:\n    name: metrics_log\n"))
    capfd.readouterr()
    framework.resume(tmp_path / "run", ["train.steps=4"])
    assert [line["step"] for line in lines(tmp_path / "run")] == [0, 1, 2, 3, 4]
    told = capfd.readouterr().err
    assert told.count("callbacks.metrics_log is ignored: every run writes metrics.jsonl") == 1
    assert "metrics_log: {" not in config.read_text() and "name: metrics_log" not in config.read_text()


def test_no_flipped_bit_of_an_old_line_changes_a_value_without_a_word(tmp_path, caplog):
    write(tmp_path, [10, 20, 30])
    path = tmp_path / "metrics.jsonl"
    before = path.read_bytes()
    first, second, _ = before.splitlines(keepends=True)
    for place in range(len(first), len(first) + len(second) - 1):
        for bit in range(7):
            caplog.clear()
            path.write_bytes(before[:place] + bytes([before[place] ^ 1 << bit]) + before[place + 1 :])
            found = list(MetricsFile(tmp_path).records())
            assert [each for each in found if each["step"] in (10, 30)] == losses([10, 30])
            if found == losses([10, 30]):
                assert f"{path}, line 2" in caplog.text and "damaged, or of another run" in caplog.text
            else:  # the flip is in the key of the checksum, and not in the record
                assert {**found[1], **losses([20])[0]} == found[1]


def test_a_log_of_another_run_is_not_taken_for_ours(tmp_path, caplog):
    history = MetricsFile(tmp_path, run="theirs")
    history.cut(0)
    for step in (10, 20):
        history.append(step, {"train/loss": 1 / step})
    assert list(MetricsFile(tmp_path, run="theirs").records()) == losses([10, 20])
    ours = MetricsFile(tmp_path, run="ours")
    assert ours.cut(20) == {} and ours.series("train/loss") == []
    assert caplog.text.count(f"{tmp_path}/metrics.jsonl, line 1 and 1 more: damaged, or of another run") == 1


def test_lines_of_an_older_version_have_no_checksum_and_get_one(tmp_path, caplog):
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(json.dumps(each) + "\n" for each in losses([10, 20])))
    assert last_written(tmp_path) is None
    before = time.time() - 0.001
    write(tmp_path, [30], start_step=20)
    assert before <= last_written(tmp_path) <= time.time() + 0.001
    assert lines(tmp_path) == losses([10, 20, 30])
    assert not caplog.text
