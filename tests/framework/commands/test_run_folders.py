"""A mistyped folder of a run or of a sweep is refused in one sentence, with the nearest one, by each verb."""

from __future__ import annotations

from pathlib import Path

import pytest

from framework import testing
from framework.errors import StorageError
from framework.records.neighbours import RUN, RUNS, nearest, refusal
from framework.records.record import read_record
from framework.sweeps.folder import SWEEP

TAKING_RUNS = {
    **dict.fromkeys(("show", "resume", "evaluate", "serve", "reproduce", "replay", "train", "inspect", "keys"), ()),
    **dict.fromkeys(("bench", "find-batch", "verify-resume"), ()),
    "predict": ("--input", "in.npy", "--output", "out.npy"),
    "export": ("--to", "exported"),
    "tell": ("stop",),
}
TAKING_FOLDERS = ("runs", "compare", "report", "board")
TAKING_SWEEPS = {
    **{f"sweep {action}": () for action in ("status", "wait", "resume", "retry", "stop", "table")},
    "sweep work": ("1",),
    "plot": (),
    "train": ("--best",),
}


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A working folder with a run and a sweep."""
    for name in ("runs/mnist/20260101-120000-1a2b/run.json", "sweeps/mnist/20260101-120000-1a2b/ledger.sqlite"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("verb", TAKING_RUNS)
def test_a_mistyped_run_is_refused_with_the_nearest_one(here, verb):
    given = "runs/mnist/20260101-120000-1a2c"
    told = testing.command(verb, given, *TAKING_RUNS[verb])
    why = f"{given} is not a run folder: there is no such folder; expected one that holds run.json"
    line = f"error[storage]: {why}, such as runs/mnist/20260101-120000-1a2b."
    assert (told.code, told.err.splitlines()[-1]) == (5, line)


@pytest.mark.parametrize("verb", TAKING_FOLDERS)
def test_a_mistyped_folder_of_runs_is_refused_with_the_nearest_one(here, verb):
    told = testing.command(verb, "runs/mnits")
    why = "runs/mnits is not a folder of runs: there is no such folder; expected a run folder, or one that holds some"
    assert (told.code, told.err) == (5, f"error[storage]: {why}, such as runs/mnist.\n")


@pytest.mark.parametrize("verb", TAKING_SWEEPS)
def test_a_mistyped_sweep_is_refused_with_the_nearest_one(here, verb):
    told = testing.command(*verb.split(), "sweeps/mnits/20260101-120000-1a2b", *TAKING_SWEEPS[verb])
    why = "is not a sweep: there is no such folder; expected the folder of one, which `framework -m …` begins"
    line = f"error[storage]: sweeps/mnits/20260101-120000-1a2b {why}, such as sweeps/mnist/20260101-120000-1a2b.\n"
    assert (told.code, told.err) == (5, line)


@pytest.mark.parametrize(
    ("given", "kind", "found"),
    [
        ("run/mnist/20260101-120000-1a2b", RUN, "runs/mnist/20260101-120000-1a2b"),
        ("runs/mnist", RUN, "runs/mnist/20260101-120000-1a2b"),
        ("runs", RUN, "runs/mnist/20260101-120000-1a2b"),
        ("runs/mnist/nothing-like-it", RUN, "runs/mnist/20260101-120000-1a2b"),
        ("sweeps/mnist", RUN, None),
        ("sweeps", SWEEP, "sweeps/mnist/20260101-120000-1a2b"),
        ("rns", RUNS, "runs"),
        ("elsewhere", RUN, None),
        ("x\0y", RUN, None),
        ("", RUN, None),
    ],
)
def test_the_nearest_folder_holds_what_is_expected(here, given, kind, found):
    near = nearest(here / given if given else Path(given), kind.marks)
    assert near == (None if found is None else here / found)


def test_a_folder_without_a_run_and_a_file_are_told_apart(here):
    assert "runs/mnist is not a run folder: it holds no run.json; " in str(refusal(here / "runs/mnist"))
    assert "run.json is not a run folder: it is a file; " in str(
        refusal(here / "runs/mnist/20260101-120000-1a2b/run.json")
    )
    with pytest.raises(StorageError, match=r"1a2b is not a run folder: its run.json cannot be read"):
        read_record(here / "runs/mnist/20260101-120000-1a2b")
