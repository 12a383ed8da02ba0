"""The files of a run, read by TensorBoard's own readers and by the real program."""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from contextlib import contextmanager

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.compat.proto.config_pb2 import RunMetadata
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.plugins.hparams import metadata
from tensorboard.util import tensor_util

from framework import testing
from framework.api import Parameter, Run, Summary
from framework.config.compose import compose
from framework.experiment import build
from framework.registry.entry_points import discover
from framework.training.graph import graph
from framework_tensorboard.callback import hyperparameters, parameter_markdown, tensorboard
from framework_tensorboard.events import cost_record

CONFIG = {
    "seed": 3,
    "model": {"name": "mlp", "hidden": [128, 64]},
    "optimizer": {"name": "adam", "learning_rate": 0.001, "clip": None},
    "data": {"batch_size": 128, "root": "/somewhere", "offline": "fallback"},
    "metrics": {"accuracy": {}},
    "callbacks": {"tensorboard": {}},
    "run": {"root": "runs"},
    "runner_up": True,
}
PARAMETERS = (Parameter("0_Dense/W", (784, 128), "float32", 100352), Parameter("0_Dense/b", (128,), "float32", 128))


def run_of(directory, start_step=0):
    return Run(directory, "mnist", CONFIG, start_step, 60, 20, 128, PARAMETERS, {"devices": "1 × cpu | here"})


def scalars_at(step):
    scalars = {"train/loss": 1 / step, "train/learning_rate": 0.001}
    return scalars | ({"eval/loss": 2 / step, "eval/accuracy": step / 100} if step % 20 == 0 else {})


def write(directory, steps, start_step=0, status="done"):
    callback = tensorboard()
    callback.on_start(run_of(directory, start_step))
    for step in steps:
        callback.on_log(step, scalars_at(step))
    callback.on_end(Summary(max(steps, default=start_step), {}, status, 1.0))


def read(directory):
    return EventAccumulator(str(directory / "mnist"), size_guidance={"tensors": 0}).Reload()


def points(accumulator, tag):
    return [(event.step, tensor_util.make_ndarray(event.tensor_proto).item()) for event in accumulator.Tensors(tag)]


def curves(directory):
    accumulator = read(directory)
    return {tag: points(accumulator, tag) for tag in accumulator.Tags()["tensors"] if tag.startswith(("train", "eval"))}


def expected_curves(steps):
    curves = {}
    for step in steps:
        for tag, number in scalars_at(step).items():
            curves.setdefault(tag, []).append((step, float(np.float32(number))))
    return curves


@pytest.mark.parametrize("steps", [[1], range(1, 8), range(10, 70, 10)])
def test_scalars_are_read_back(tmp_path, steps):
    write(tmp_path, steps)
    assert curves(tmp_path) == expected_curves(steps)


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf, 0.0, 1e-30, 3.0e38, 1e300])
def test_numbers_stay_what_they_are(tmp_path, number):
    callback = tensorboard()
    callback.on_start(run_of(tmp_path))
    callback.on_log(1, {"train/loss": number})
    callback.on_end(Summary(1, {}, "done", 1.0))
    with np.errstate(over="ignore"):
        np.testing.assert_equal(points(read(tmp_path), "train/loss")[0][1], float(np.float32(number)))


def test_texts_and_layout(tmp_path):
    write(tmp_path, [1])
    texts = {tag: points(read(tmp_path), tag)[0][1].decode() for tag in ("run/config", "run/facts", "run/parameters")}
    assert texts["run/config"].startswith("```yaml\nseed: 3\nmodel:\n  name: mlp\n")
    assert "| devices | 1 × cpu \\| here |" in texts["run/facts"]
    assert texts["run/parameters"] == parameter_markdown(PARAMETERS)
    assert "| `0_Dense/W` | 784 × 128 | float32 | 100,352 |" in texts["run/parameters"]
    assert texts["run/parameters"].splitlines()[-1] == "| **total** |  |  | **100,480** |"


def test_hyperparameters():
    assert hyperparameters(CONFIG) == {
        "seed": "3",
        "model.name": "mlp",
        "model.hidden": "[128, 64]",
        "optimizer.name": "adam",
        "optimizer.learning_rate": 0.001,
        "data.batch_size": "128",
        "runner_up": True,
    }


@pytest.mark.parametrize(("status", "code"), [("done", 1), ("stopped", 1), ("failed", 2)])
def test_session_status(tmp_path, status, code):
    write(tmp_path, [10], status=status)
    assert end_status(tmp_path) == code


def test_the_graph_carries_what_layers_cost():
    experiment = build(compose([*testing.TINY, "model.hidden=[700]", "callbacks=[]"]), discover())
    event = Event.FromString(cost_record(graph(experiment)()))
    (device,) = RunMetadata.FromString(event.tagged_run_metadata.run_metadata).step_stats.dev_stats
    for parameter in experiment.parameters:
        (weights,) = [each for each in device.node_stats if each.node_name == parameter.path]
        assert (weights.memory[0].total_bytes, weights.all_end_rel_micros) == (4 * parameter.size, 0)
        if len(parameter.shape) == 2:
            layer = f"{parameter.path.partition('/')[0]}/"
            spent = [each.all_end_rel_micros for each in device.node_stats if each.node_name.startswith(layer)]
            products, sums = 2 * 16 * parameter.size, 16 * parameter.shape[1]
            assert sum(spent) == math.ceil(products / 1000) + math.ceil(sums / 1000)


def end_status(directory):
    content = read(directory).PluginTagToContent("hparams")[metadata.SESSION_END_INFO_TAG]
    return metadata.parse_session_end_info_plugin_data(content).status


@pytest.mark.parametrize("start_step", [10, 20, 60])
def test_resumed_run_shows_each_step_once(tmp_path, start_step):
    write(tmp_path, range(10, 70, 10), status="failed")
    write(tmp_path, range(start_step + 10, 70, 10), start_step)
    assert curves(tmp_path) == expected_curves(range(10, 70, 10))
    assert end_status(tmp_path) == 1


def test_resumed_run_drops_what_is_not_reached_again(tmp_path):
    write(tmp_path, range(10, 70, 10))
    write(tmp_path, [30], start_step=20)
    write(tmp_path, [40], start_step=30)
    assert curves(tmp_path) == expected_curves([10, 20, 30, 40])


def test_run_that_starts_over_shows_nothing_old(tmp_path):
    write(tmp_path, range(10, 70, 10))
    write(tmp_path, [7])
    assert curves(tmp_path) == expected_curves([7])


@pytest.mark.parametrize("cut", [1, 5, 40])
def test_resume_after_a_kill_in_the_middle_of_a_write(tmp_path, cut):
    callback = tensorboard()
    callback.on_start(run_of(tmp_path))
    for step in (10, 20, 30):
        callback.on_log(step, scalars_at(step))
    (path,) = (tmp_path / "mnist").iterdir()
    size = path.stat().st_size
    callback.on_end(Summary(30, {}, "failed", 1.0))
    os.truncate(path, size - cut)
    write(tmp_path, [30, 40], start_step=20)
    assert curves(tmp_path) == expected_curves([10, 20, 30, 40])


def test_resume_keeps_what_one_step_logged_in_two_calls(tmp_path):
    callback = tensorboard()
    callback.on_start(run_of(tmp_path))
    callback.on_log(20, {"train/loss": 0.5})
    callback.on_log(20, {"test/loss": 0.25})
    callback.on_end(Summary(20, {}, "done", 1.0))
    write(tmp_path, [30], start_step=20)
    assert points(read(tmp_path), "train/loss")[0] == (20, 0.5)
    assert points(read(tmp_path), "test/loss") == [(20, 0.25)]


def test_a_point_is_on_disk_at_once(tmp_path):
    callback = tensorboard()
    callback.on_start(run_of(tmp_path))
    callback.on_log(10, scalars_at(10))
    assert curves(tmp_path) == expected_curves([10])
    callback.on_end(Summary(10, {}, "done", 1.0))


def test_points_that_an_earlier_process_wrote_are_not_written_again(tmp_path):
    write(tmp_path, [40, 60])
    write(tmp_path, [60], start_step=60)
    assert curves(tmp_path) == expected_curves([40, 60])


@pytest.mark.parametrize("part", ["length", "content"])
def test_a_damaged_record_is_left_out(tmp_path, part):
    write(tmp_path, [10, 20, 30])
    (path,) = (tmp_path / "mnist").iterdir()
    content = bytearray(path.read_bytes())
    last = content.rindex(b"train/learning_rate")  # of step 30; the record is short enough for a length of one byte
    content[last + 2 if part == "content" else content.rindex(b"\0\0\0\0\0\0\0", 0, last) - 1] ^= 1
    path.write_bytes(content)
    write(tmp_path, [40], start_step=30)
    assert curves(tmp_path) == expected_curves([10, 20, 40])


def test_end_without_start_is_harmless():
    tensorboard().on_end(Summary(0, {}, "failed", 0.0))


def test_neither_tensorflow_nor_the_user_interface_is_imported(tmp_path):
    (tmp_path / "tensorflow.py").write_text("raise RuntimeError('tensorflow was imported')")
    script = (
        "import sys\n"
        "from framework_tensorboard import events\n"
        f"file = events.EventFile(__import__('pathlib').Path({str(tmp_path)!r}) / 'tb')\n"
        "file.add(1, [events.scalar('train/loss', 0.5), events.session_start({'seed': 1})])\n"
        "file.close()\n"
        "heavy = {'tensorflow', 'tensorboard.main', 'tensorboard.backend', 'werkzeug', 'grpc', 'jax'}\n"
        "print(sorted(heavy & set(sys.modules)))\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert (done.stdout.strip(), done.stderr) == ("[]", "")


@contextmanager
def real_tensorboard(logdir):
    """The program itself on a free port of the loopback interface; yields a function that asks its HTTP API."""
    log = logdir.with_suffix(".log")
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(logdir), "--host", "127.0.0.1", "--port", "0"]
    with log.open("wb") as output, subprocess.Popen(command, stdout=output, stderr=output) as server:
        try:
            url = patiently(lambda: re.search(r"http://127\.0\.0\.1:\d+", log.read_text()), server)[0]
            yield lambda path, **query: ask(f"{url}/data/{path}", query), server
        finally:
            server.terminate()
            try:
                server.wait(10)
            except subprocess.TimeoutExpired:
                server.kill()


def patiently(look, server, seconds=450):
    end = time.monotonic() + seconds
    while not (found := look()):
        assert server.poll() is None and time.monotonic() < end, "TensorBoard ended or took too long"
        time.sleep(0.1)
    return found


def ask(url, query):
    body = json.dumps(query.pop("body")).encode() if "body" in query else None
    request = urllib.request.Request(f"{url}?{urllib.parse.urlencode(query)}", data=body)
    request.add_header("Content-Type", "application/json")
    with urllib.request.urlopen(request, timeout=100) as answer:
        return json.loads(answer.read())


def session_groups(get):
    statuses = ["STATUS_SUCCESS", "STATUS_FAILURE", "STATUS_RUNNING", "STATUS_UNKNOWN"]
    body = {"experimentName": "", "allowedStatuses": statuses, "colParams": [], "startIndex": 0, "sliceSize": 100}
    return {group["name"]: group for group in get("plugin/hparams/session_groups", body=body)["sessionGroups"]}


def test_the_real_program_shows_it_all(tmp_path):
    logdir = tmp_path / "runs"
    write(logdir / "whole", range(10, 70, 10))
    write(logdir / "resumed", range(10, 70, 10), status="failed")
    write(logdir / "resumed", [30, 40], start_step=20)
    with real_tensorboard(logdir) as (get, server):
        patiently(lambda: len(session_groups(get)) == 2 and len(get("plugin/scalars/tags")) == 2, server)
        for run, steps in (("whole/mnist", range(10, 70, 10)), ("resumed/mnist", [10, 20, 30, 40])):
            expected = expected_curves(steps)
            assert set(get("plugin/scalars/tags")[run]) == set(expected)
            for tag, curve in expected.items():
                shown = get("plugin/scalars/scalars", run=run, tag=tag)
                assert [(step, number) for _, step, number in shown] == curve

            group = session_groups(get)[run]
            assert group["hparams"] == hyperparameters(CONFIG)
            (session,) = group["sessions"]
            assert session["status"] == "STATUS_SUCCESS"
            shown = {
                metric["name"]["tag"]: (metric["trainingStep"], metric["value"]) for metric in session["metricValues"]
            }
            assert shown == {tag: curve[-1] for tag, curve in expected.items()}

        assert sorted(get("plugin/text/tags")["whole/mnist"]) == [
            "run/chosen",
            "run/config",
            "run/facts",
            "run/parameters",
        ]
        table = get("plugin/text/text", run="whole/mnist", tag="run/parameters")[-1]["text"]
        assert "<td>784 × 128</td>" in table and "<strong>100,480</strong>" in table
        facts = get("plugin/text/text", run="whole/mnist", tag="run/facts")[-1]["text"]
        assert "<td>1 × cpu | here</td>" in facts
        charts = get("plugin/custom_scalars/layout")["category"][0]["chart"]
        assert [chart["title"] for chart in charts] == ["loss", "accuracy"]
        together = get("plugin/custom_scalars/scalars", run="whole/mnist", tag=charts[0]["multiline"]["tag"][0])
        assert set(together["tag_to_events"]) == {"train/loss", "eval/loss"}
