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

import pyte
import pytest

from framework.api import Parameter, Run, Summary, broken, clipped
from framework.console.terminal import command_lines
from framework.errors import ConfigError
from framework.testing import TINY
from framework_callbacks.live import three_digits
from framework_callbacks.pace import clock, metric_prefix
from framework_callbacks.parameters import parameter_table
from framework_callbacks.progress import progress

DIRECTIONS = {"train/loss": False, "train/accuracy": True, "eval/loss": False}


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


class Screen(pyte.Screen):
    """A terminal that counts the lines that it has wrapped."""

    def __init__(self, columns):
        self.is_drawing, self.wrapped = False, 0
        super().__init__(columns, 40)

    def draw(self, data):
        self.is_drawing = True
        super().draw(data)
        self.is_drawing = False

    def linefeed(self):
        self.wrapped += self.is_drawing
        super().linefeed()


def on_terminal(command, columns, cwd=None, **more):
    """Run a command on a terminal of that width; return the screen, all lines that it showed, and what was written."""
    here, there = pty.openpty()
    fcntl.ioctl(there, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    environment = {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "LINES", "NO_COLOR")}
    environment |= {"PYTHONPATH": os.pathsep.join(sys.path), "TERM": "xterm-256color", "PYTHONIOENCODING": "utf-8"}
    screen, shown, written = Screen(columns), [], b""
    stream = pyte.ByteStream(screen)
    command = [sys.executable, "-W", "error", *command]
    with subprocess.Popen(command, stdin=there, stdout=there, stderr=there, env=environment | more, cwd=cwd) as process:
        os.close(there)
        try:
            while part := os.read(here, 65536):
                written += part
                for piece in part.splitlines(keepends=True):
                    stream.feed(piece)
                    shown += [line.rstrip() for line in screen.display if line.strip() and line.rstrip() not in shown]
        except OSError:  # how Linux says that the other end was closed
            pass
        assert process.wait(300) == 0, written.decode()
    os.close(here)
    return screen, shown, written.decode()


LIVE = """
import logging, pathlib, runpy, sys
this = runpy.run_path(sys.argv[1])
shown, doing = this["progress"](), ["compiling", 83.0]
shown.on_start(this["run_of"](pathlib.Path("."))._replace(now=lambda: tuple(doing), directions=this["DIRECTIONS"]))
doing[:] = "device", 0.1
for step in range(10, 70, 10):
    shown.on_log(step, this["scalars_at"](step))
    print("half a line", end=" ")
    print("and the rest")
    print(f"a warning at {step}", file=sys.stderr)
shown.on_log(60, {"test/loss": 0.125})
doing[:] = "checkpoints", 2.0
shown.on_end(this["Summary"](60, {}, "done", 1.0))
"""


@pytest.mark.parametrize("columns", [40, 80, 120])
def test_live_line(columns):
    screen, shown, written = on_terminal(["-c", LIVE, __file__], columns)
    assert screen.wrapped == 0 and "\x1b[?25l" not in written, "no line is wrapped, and the cursor is never hidden"
    display = [line.rstrip() for line in screen.display]
    # What others write stands above the line, each in one piece.
    assert [line for line in display if "half" in line or "warning" in line] == [
        line for step in range(10, 70, 10) for line in ("half a line and the rest", f"a warning at {step}")
    ]
    # The line's end is the last of the screen, and the only one that is left.
    bars = [line for line in display if "▏" in line]
    assert bars == [next(line for line in reversed(display) if line)]
    assert "█▏ 100 % · " in bars[0] and bars[0].endswith(" · saving 0:02")
    assert len({line.index("%") for line in shown if "▏" in line}) == 1, "nothing moves"
    assert any("0 %" in line and line.endswith("compiling 1:23") for line in shown)
    assert all((text in bars[0]) == (columns > 40) for text in ("step 60/60", "loss 0.0167", "acc 0.600"))
    told = " ".join(display)
    assert all(re.search(rf"step {step}/60 · eval[ ·]+loss {2 / step:.4g}", told) for step in (20, 40, 60))
    assert "epoch 3/3 · step 60/60 · test" in told and "loss 0.125" in told
    assert written.count("\x1b[32mloss") == 3, "each evaluation is better than those before"
    assert all(len(line) <= columns for line in shown)


@pytest.mark.parametrize("columns", [40, 120])
def test_a_run_on_a_terminal_without_colours(tmp_path, columns):
    words = [*TINY, "train.steps=20", "train.eval_every=10", "optimizer.learning_rate=0.05"]
    words += ["callbacks=[progress,checkpoint]"]
    screen, shown, written = on_terminal(["-m", "framework", *words], columns, tmp_path, NO_COLOR="1")
    assert screen.wrapped == 0, "nor is the summary"
    assert "\x1b[3" not in written and any(" · eval" in line for line in shown)
    (bar,) = [line.rstrip() for line in screen.display if "▏" in line]
    assert re.match(r"(epoch 5/5 )?▕█+▏ 100 % ·", bar)
    (run,) = tmp_path.glob("runs/*/*")
    command = " ".join(line.strip().removesuffix(" \\") for line in screen.display).partition("train on:")[2]
    assert command.split() == ["framework", "resume", f"runs/default/{run.name}", "train.steps=40"]
    log = (run / "run.log").read_text()
    assert re.search(r" INFO epoch 5/5  step 20/20  eval: loss [\d.]+", log), "each in one line, as without a terminal"
    assert "\ntotal " in log and "\x1b" not in log


@pytest.mark.parametrize(
    ("pieces", "width", "lines"),
    [
        (["one", "two"], 9, ["one · two"]),
        (["one", "two", "three"], 9, ["one · two", "  three"]),
        (["longer than the width", "two"], 9, ["longer than the width", "  two"]),
        (["\x1b[32mone\x1b[0m", "two"], 9, ["\x1b[32mone\x1b[0m · two"]),
        ([], 9, [""]),
    ],
)
def test_pieces_are_broken_between_them(pieces, width, lines):
    assert broken(pieces, width) == lines


@pytest.mark.parametrize(
    ("width", "lines"),
    [
        (None, ["framework resume runs/a steps=40"]),
        (32, ["framework resume runs/a steps=40"]),
        (31, ["framework resume runs/a \\", "  steps=40"]),
        (18, ["framework resume \\", "  runs/a \\", "  steps=40"]),
        (4, ["framework \\", "  resume \\", "  runs/a \\", "  steps=40"]),
    ],
)
def test_a_command_is_broken_so_that_a_shell_reads_on(width, lines):
    assert command_lines("framework resume runs/a steps=40", width) == lines


@pytest.mark.parametrize(
    ("text", "width", "cut"),
    [("loss", 4, "loss"), ("loss", 3, "lo…"), ("损失", 4, "损失"), ("损失", 3, "损…"), ("a", 0, "")],
)
def test_texts_are_cut_by_columns(text, width, cut):
    assert clipped(text, width) == cut


@pytest.mark.parametrize(
    ("number", "text"),
    [(0.05123, "0.0512"), (1.0, "1.00"), (123.4, "123"), (1.23e-5, "1.23e-05"), (math.inf, "inf")],
)
def test_three_digits(number, text):
    assert three_digits(number) == text


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
