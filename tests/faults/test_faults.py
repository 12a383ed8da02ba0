"""The harness itself, at the size for every change; by hand it has larger ones: `python -m tests.faults --help`."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


ROWS = ("R1 R8 R5 R9 R10 R13 C3", "R1p R3p R3 R2 R4 R6 R7 R11 C1 C2 P1 P2 P3 S1 S2 S3 S5")
"""Two halves that take about as long, side by side; rows that compare with the same runs are in one."""


def harness(*words):
    command = [sys.executable, "-m", "tests.faults", *words]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


@pytest.mark.slow
def test_every_row_holds_at_the_first_tier():
    halves = [harness("--tier", "1", *rows.split()) for rows in ROWS]
    told = [half.communicate(timeout=3600)[0] for half in halves]
    assert [half.returncode for half in halves] == [0, 0], "\n".join(told)


def test_an_unknown_row_is_refused_and_no_known_one_is_left_out_here():
    refused = harness("R99")
    told = refused.communicate(timeout=600)[0]
    assert refused.returncode == 2
    known = re.search(r"no such row: R99; known: (.*)", told)
    assert known and sorted(known[1].split(", ")) == sorted(" ".join(ROWS).split())
