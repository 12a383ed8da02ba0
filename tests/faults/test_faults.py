"""The harness itself, at the size for every change; by hand it has larger ones: `python -m tests.faults --help`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def harness(*words):
    command = [sys.executable, "-m", "tests.faults", *words]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600, check=False)


@pytest.mark.slow
def test_every_row_holds_at_the_first_tier():
    done = harness("--tier", "1")
    assert done.returncode == 0, done.stdout + done.stderr


def test_an_unknown_row_is_refused():
    done = harness("R99")
    assert done.returncode == 2
    assert "no such row: R99; known: R1, " in done.stderr
