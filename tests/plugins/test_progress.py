"""Progress as a person sees it: on a terminal of 80 columns and where there is none."""

from __future__ import annotations

import fcntl
import math
import os
import pty
import re
import struct
import subprocess
import sys
import termios

import pytest

from framework.api import Parameter, Run, Summary
from framework.errors import ConfigError
from framework_callbacks.parameters import parameter_table
from framework_callbacks.progress import clock, metric_prefix, progress


def parameters(layers, path="{}_Dense"):
    shapes = {"W": (784, 128), "b": (128,)}
    names = [path.format(layer) for layer in range(layers)]
    return tuple(Parameter(f"{n}/{k}", s, "float32", math.prod(s)) for n in names for k, s in shapes.items())


def run_of(directory, layers=2):
    return Run(directory, "mnist", {}, 0, 60, 20, 128, parameters(layers), {})


def scalars_at(step):
    scalars = {"train/loss": 1 / step, "train/accuracy": step / 100, "train/learning_rate": 0.001}
    scalars |= {"train/confusion/0_1": 7.0, "perf/examples_per_second": 12345.6}
    return scalars | ({"eval/loss": 2 / step, "eval/confusion/0_1": 7.0} if step % 20 == 0 else {})


def watch(callback, directory, steps):
    callback.on_start(run_of(directory))
    for step in steps:
        callback.on_log(step, scalars_at(step))
    callback.on_log(steps[-1], {"test/loss": 0.125})
    callback.on_end(Summary(steps[-1], {}, "done", 1.0))


@pytest.mark.parametrize(
    ("seconds", "steps", "train"),
    [
        (0.0, range(10, 70, 10), [10, 20, 30, 40, 50, 60]),
        (1e9, range(10, 70, 10), [10, 60]),
        (1e9, range(10, 50, 10), [10, 40]),
        (1e9, [10], [10]),
    ],
)
def test_plain_lines(tmp_path, capsys, seconds, steps, train):
    watch(progress(seconds), tmp_path, steps)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "\x1b" not in captured.err and "\r" not in captured.err
    lines = [line for line in captured.err.splitlines() if line.startswith("epoch")]
    assert [int(re.search(r"step +(\d+)/60", line)[1]) for line in lines if "examples/s" in line] == train
    timed = [int(re.search(r"step +(\d+)/60", line)[1]) for line in lines if re.search(r"  \d:\d\d left$", line)]
    assert timed == [step for step in train if 10 < step < 60], "time left is known after two steps and before the last"
    told = {re.search(r"step +(\d+)/60  (\w+: .*|loss.*)", line).groups() for line in lines}
    assert {(str(step), f"eval: loss {2 / step:.4g}") for step in steps if step % 20 == 0} <= told
    assert (str(steps[-1]), "test: loss 0.125") in told
    assert lines[0] == "epoch 1/3  step 10/60  loss 0.1  accuracy 0.1  12.3k examples/s"
    assert all(len(line) <= 80 for line in lines)


def test_plain_lines_are_in_order_of_steps(tmp_path, capsys):
    watch(progress(1e9), tmp_path, range(10, 70, 10))
    steps = [int(step) for step in re.findall(r"step +(\d+)/60", capsys.readouterr().err)]
    assert steps == sorted(steps)


def test_without_a_terminal_rich_is_not_imported():
    script = "import sys; from framework_callbacks.progress import progress; progress(); print('rich' in sys.modules)"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, timeout=600)
    assert (done.stdout, done.stderr) == ("False\n", "")


def on_terminal(script, columns):
    """Return the text that a script writes on stderr to a terminal of that width."""
    here, there = pty.openpty()
    fcntl.ioctl(there, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    environment = {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "LINES", "NO_COLOR")}
    environment |= {"PYTHONPATH": os.pathsep.join(sys.path), "TERM": "xterm-256color", "PYTHONIOENCODING": "utf-8"}
    command = [sys.executable, "-W", "error", "-c", script]
    with subprocess.Popen(command, stdin=there, stdout=subprocess.DEVNULL, stderr=there, env=environment) as process:
        os.close(there)
        written = b""
        try:
            while part := os.read(here, 65536):
                written += part
        except OSError:  # how Linux says that the other end was closed
            pass
        assert process.wait(300) == 0, written.decode()
    os.close(here)
    return written.decode()


@pytest.mark.parametrize("columns", [40, 80, 132])
def test_live_bar(columns):
    script = (
        "import pathlib, runpy\n"
        f"this = runpy.run_path({__file__!r})\n"
        "this['watch'](this['progress'](), pathlib.Path('.'), range(10, 70, 10))\n"
    )
    written = on_terminal(script, columns)
    assert written.count("\x1b[?25l") == written.count("\x1b[?25h") == 1, "the cursor comes back"
    lines = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", written).replace("\r", "\n").split("\n")
    assert all(len(line) <= columns for line in lines)
    bars = [line for line in lines if re.search(r"epoch \d/3.* \d\d/60", line) and "step" not in line]
    assert "━" in bars[-1] and "60/60" in bars[-1]
    assert any(line.startswith("loss 0.01667  accuracy 0.6") for line in lines)
    assert [line.rstrip() for line in lines if "test:" in line] == ["epoch 3/3  step 60/60  test: loss 0.125"]
    assert [re.search(r"step (\d+)", line)[1] for line in lines if "eval:" in line] == ["20", "40", "60"]


@pytest.mark.parametrize("layers", [0, 1, 15, 16, 30, 31, 200])
def test_parameter_table(layers):
    rows = parameters(layers)
    lines = parameter_table(rows)
    sizes = [int(line.split()[-1].replace(",", "")) for line in lines[1:]]
    assert sum(sizes[:-1]) == sizes[-1] == sum(row.size for row in rows)
    assert len({len(line) for line in lines}) == 1
    assert len(lines) <= 32
    assert lines[-1].startswith("total")


def test_a_terminal_obeys_nothing_in_names(tmp_path, capsys):
    shown = progress(0.0)
    shown.on_start(run_of(tmp_path)._replace(parameters=parameters(1, "\x1b[2J{}")))
    shown.on_log(60, {"train/lo\x1b[31mss": 1.0, "va\x1b[0mlid/loss": 1.0})
    shown.on_end(Summary(60, {}, "done", 1.0))
    told = capsys.readouterr().err
    assert "\x1b" not in told
    assert all(name in told for name in (r"\x1b[2J0/W", r"lo\x1b[31mss 1", r"va\x1b[0mlid: loss 1")), told


@pytest.mark.parametrize("width", [60, 80])
def test_long_paths_keep_their_end_and_the_width(width):
    lines = parameter_table(parameters(1, "encoder/" * 12 + "{}_Dense"), width)
    assert all(len(line) <= width for line in lines)
    assert lines[1].startswith("…") and "0_Dense/W  784 × 128  100,352" in lines[1]


@pytest.mark.parametrize(
    ("number", "text"),
    [(0.5, "0.5"), (12, "12"), (999.4, "999"), (999.7, "1k"), (12345.6, "12.3k"), (2.5e6, "2.5M"), (3e9, "3G")],
)
def test_metric_prefix(number, text):
    assert metric_prefix(number) == text


@pytest.mark.parametrize(("seconds", "text"), [(0, "0:00"), (31.4, "0:31"), (59.9, "1:00"), (3723, "1:02:03")])
def test_clock(seconds, text):
    assert clock(seconds) == text


@pytest.mark.parametrize("seconds", [-1.0, math.nan])
def test_impossible_time_is_refused(seconds):
    with pytest.raises(ConfigError, match=r"seconds is .* expected 0"):
        progress(seconds)


def test_end_without_start_is_harmless():
    progress().on_end(Summary(0, {}, "failed", 0.0))
