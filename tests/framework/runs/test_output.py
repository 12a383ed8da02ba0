"""Output that nobody can read: a run trains on, and says so once in its own log."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys

import pytest

from framework import testing


def gone():
    reading, writing = os.pipe()
    os.close(reading)
    return writing


def full():
    return os.open("/dev/full", os.O_WRONLY)


@pytest.mark.parametrize(("output", "reason"), [(gone, "Broken pipe"), (full, "No space left on device")])
def test_a_run_whose_output_nobody_can_read_is_done(tmp_path, output, reason):
    descriptor = output()
    command = [sys.executable, "-m", "framework", *testing.TINY, f"run.dir={tmp_path}/run", "train.steps=4"]
    done = subprocess.run(command, stdout=descriptor, stderr=descriptor, check=False)
    os.close(descriptor)
    assert done.returncode == 0
    assert json.loads((tmp_path / "run" / "run.json").read_text())["status"] == "done"
    assert (tmp_path / "run" / "run.log").read_text().count(f"stderr cannot be written ({reason})") == 1


def test_a_run_with_closed_descriptors_is_done(tmp_path):
    command = ["sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", sys.executable, "-m", "framework", *testing.TINY]
    done = subprocess.run([*command, f"run.dir={tmp_path}/run", "train.steps=4"], check=False)
    assert done.returncode == 0
    assert json.loads((tmp_path / "run" / "run.json").read_text())["status"] == "done"


class Terminal(io.StringIO):
    """A terminal that goes away after some writes."""

    def __init__(self, writes):
        super().__init__()
        self.left = writes

    def isatty(self):
        return True

    def write(self, text):
        self.left -= 1
        if self.left < 0:
            raise OSError(5, "Input/output error")
        return super().write(text)


@pytest.mark.parametrize("writes", [0, 1, 6])
def test_a_progress_bar_whose_terminal_goes_away_ends_no_run(tmp_path, monkeypatch, writes):
    monkeypatch.setenv("TERM", "xterm")
    terminal = Terminal(writes)
    monkeypatch.setattr(sys, "stderr", terminal)
    result = testing.train(tmp_path, "train.steps=12", "train.log_every=1", "train.eval_every=3")
    assert result.status == "done"
    assert sys.stderr is terminal
    assert (result.directory / "run.log").read_text().count("stderr cannot be written (Input/output error)") == 1


def test_control_characters_of_a_path_reach_no_console_and_curves_are_told_where_there_are_some(tmp_path, capsys):
    testing.train(tmp_path, "train.steps=2", f"run.dir='{tmp_path}/a\x1b[31mb'")
    testing.train(tmp_path, "train.steps=2", "~callbacks.tensorboard")
    said = capsys.readouterr().err
    assert "\x1b" not in said and r"a\x1b[31mb" in said
    assert (said.count("run folder: "), said.count("curves: ")) == (2, 1)
