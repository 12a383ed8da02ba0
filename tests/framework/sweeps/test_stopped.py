"""A sweep that a signal stops: the points that run elsewhere save their state, and none is left at work."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time

import pytest

from framework import testing


@pytest.mark.slow
def test_a_signal_to_the_driver_lets_its_workers_save(tmp_path):
    words = [*testing.TINY, "train.steps=100000000", "train.eval_every=0", "train.log_every=100", "seed=0,1"]
    command = [sys.executable, "-m", "framework", "-m", *words, "sweep.dir=sweep", "launcher=processes"]
    driver = subprocess.Popen([*command, "launcher.workers=1"], cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    end = time.monotonic() + 300
    while not (logs := [path for path in tmp_path.glob("sweep/runs/*/metrics.jsonl") if path.stat().st_size]):
        assert time.monotonic() < end and driver.poll() is None
        time.sleep(0.1)
    driver.send_signal(signal.SIGTERM)
    said = driver.communicate(timeout=300)[1]
    assert driver.returncode == 143, said
    assert "`framework sweep resume sweep` goes on with the sweep" in said
    assert list((logs[0].parent / "checkpoints").iterdir())
    status = testing.command("sweep", "status", f"{tmp_path}/sweep", "--json")
    assert [point["state"] for point in json.loads(status.out)["points"]] == ["preempted"], status.out
