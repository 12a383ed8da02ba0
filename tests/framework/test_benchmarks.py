"""The benchmark command runs and writes what docs/benchmarks.md promises. No time is asserted."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
QUICK = ["--steps=8", "--window=4", "--rounds=1", "--attempts=1", "--patience=0", "--synthetic=1000"]


def bench(*words):
    command = [sys.executable, "-m", "benchmarks", *QUICK, *words]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=1200)


@pytest.fixture
def trial(monkeypatch):
    """Makes a trial of workload w3."""
    monkeypatch.syspath_prepend(str(ROOT))
    from benchmarks.trial import Trial

    def make(contender, round, value, foreign=0.0, measure="steady"):
        return Trial("w3", contender, measure, round, foreign, value, 100.0)

    return make


@pytest.mark.slow
def test_the_command_measures_pairs_and_writes_them(tmp_path):
    done = bench("w3", "--contenders=jit-layers,framework", "--measures=steady", f"--json={tmp_path / 'out.json'}")
    assert done.returncode == 0, done.stderr
    record = json.loads((tmp_path / "out.json").read_text())
    speed = {trial["contender"]: trial["value"] for trial in record["trials"]}
    assert set(speed) == {"jit-layers", "framework"}
    for trial in record["trials"]:
        assert trial["value"] > 0 and trial["memory"] > 0
        assert math.isnan(trial["foreign"]) or 0 <= trial["foreign"] <= 1
    by_hand, ours = record["rows"]
    assert by_hand["ratios"] == {}
    assert ours["ratios"]["jit-layers"]["steady"]["median"] == speed["jit-layers"] / speed["framework"]
    assert ours["examples_per_second"] == pytest.approx(128_000 / speed["framework"])
    assert {"processor", "cores", "versions"} <= record["machine"].keys()
    assert done.stdout.count("\n") == 4 and "| framework " in done.stdout


@pytest.mark.slow
def test_the_time_to_the_first_step_is_that_of_the_whole_process():
    done = bench("w3", "--contenders=jit-stax", "--measures=start")
    assert done.returncode == 0, done.stderr
    seconds = float(done.stderr.split("jit-stax: ")[1].split()[0])
    assert seconds > 0.1  # importing JAX alone takes longer


def test_what_is_not_known_is_refused():
    done = bench("w3", "--contenders=jit-stax,magic")
    assert done.returncode == 2
    assert "unknown or not installed: magic" in done.stderr


def test_ratios_are_medians_over_clean_pairs_of_one_round(trial):
    from benchmarks.report import summarise

    hand = [trial("jit-layers", 0, 2.0), trial("jit-layers", 1, 3.0), trial("jit-layers", 2, 9.0, foreign=0.5)]
    ours = [trial("framework", 0, 2.5), trial("framework", 1, 2.0), trial("framework", 2, 1.0)]
    row = summarise([*hand, *ours])[1]
    assert row["ratios"]["jit-layers"]["steady"] == {"median": (0.8 + 1.5) / 2, "low": 0.8, "high": 1.5, "clean": 2}
    assert (row["ms_per_step"], row["rounds"], row["clean"]) == (2.0, 3, 3)


def test_disturbed_trials_alone_are_shown_as_such(trial):
    from benchmarks.report import summarise, table

    rows = summarise([trial("jit-layers", 0, 2.0, foreign=0.5), trial("framework", 0, 1.0)])
    assert rows[1]["ratios"]["jit-layers"]["steady"] == {"median": 2.0, "low": 2.0, "high": 2.0, "clean": 0}
    assert "~2.000 (2.00–2.00)" in table(rows)
    assert "0/1" in table(rows) and "1/1" in table(rows)


@pytest.mark.slow
def test_members_are_measured_in_every_way():
    words = ["--members=2", "--steps=100", "--rounds=1", "--patience=0", "--synthetic=1000", "--ways=vmapped,turn"]
    command = [sys.executable, "-m", "benchmarks.members", *words]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=1200)
    assert done.returncode == 0, done.stderr
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in done.stdout.splitlines()]
    assert [row[0] for row in rows[2:]] == ["vmapped", "turn"]
    assert rows[2][3:5] == ["1.00", "1.00"]
    assert all(float(cell.replace(",", "")) > 0 for row in rows[2:] for cell in row[1:5])


@pytest.mark.parametrize(
    ("way", "processes"), [("vmapped", 1), ("vmapped-shared", 1), ("auto", 1), ("turn", 1), ("processes", 3)]
)
def test_every_way_trains_all_members(monkeypatch, way, processes):
    monkeypatch.syspath_prepend(str(ROOT))
    from benchmarks.members import commands

    found = commands(way, 3, ["model=mlp", "run.root=runs"])
    assert len(found) == processes
    assert all("model=mlp" in command for command in found)
    seeds = {word for command in found for word in command if word.startswith(("seed=", "strategy.members="))}
    expected = {"auto": {"seed=0,1,2"}, "turn": {"seed=0,1,2"}, "processes": {"seed=0", "seed=1", "seed=2"}}
    assert seeds == expected.get(way, {"strategy.members=3"})
