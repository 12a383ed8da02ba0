"""The helper that calls a command in this process ends as a process of its own would."""

from __future__ import annotations

import subprocess
import sys

import pytest

from framework import testing

WORDS = [["help", "train"], ["--traceback", "trian"]]


@pytest.mark.parametrize("words", WORDS, ids=" ".join)
def test_a_command_ends_and_writes_as_a_process_does(words):
    done = testing.command(*words)
    program = [sys.executable, "-m", "framework", *words]
    process = subprocess.run(program, capture_output=True, text=True, check=False)
    assert (done.code, done.out) == (process.returncode, process.stdout)
    assert done.err.splitlines()[-1:] == process.stderr.splitlines()[-1:]


def test_a_command_that_trains_writes_its_progress_to_what_is_returned(tmp_path, capsys):
    done = testing.command(*testing.TINY, "train.steps=2", f"run.root={tmp_path}", "callbacks=[]")
    assert done.code == 0
    assert done.err.startswith("done\n") and "run folder: " in done.err
    assert capsys.readouterr() == ("", "")
    assert list(tmp_path.rglob("run.json"))
