"""Hydra's own tests of its launchers, each suite in a process of its own: Hydra and logging keep state."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

SUITES = ["TestBasic", pytest.param("TestJoblib", marks=pytest.mark.slow)]
SUITES += [pytest.param("TestSubmitit", marks=pytest.mark.slow)]


@pytest.mark.parametrize("name", SUITES)
def test_a_launcher_of_hydra_passes_its_own_tests(name):
    suite = Path(__file__).with_name("hydra_suite.py")
    command = [sys.executable, "-m", "pytest", "-q", "-n0", "-p", "no:cacheprovider", f"{suite}::{name}"]
    done = subprocess.run(command, cwd=suite.parents[3], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    if "passed" not in done.stdout:
        pytest.skip(re.findall(r"SKIPPED.*", done.stdout)[0])
