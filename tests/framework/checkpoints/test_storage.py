"""Disks that are full, read-only or not what was expected: one line that names the file, and nothing falsely saved."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import jax.numpy as jnp
import pytest

import framework
from framework import testing
from framework.checkpoints.checkpoint import restore
from framework.checkpoints.folder import check_space, steps
from framework.checkpoints.snapshot import size
from framework.config.settings import RunSettings
from framework.errors import StorageError
from framework.records.folder import check_place
from framework.testing import run_record

TINY = [*testing.TINY, "train.steps=20", "train.eval_every=0", "run.compilation_cache=false"]

WIDE = ["model.hidden=[4000]", "callbacks.checkpoint.keep=0", "train.checkpoint_every=2"]
"""A state of some 1.4 MB."""


def mount(folder, *options):
    """Mount a file system of memory; skips where this user may not."""
    folder.mkdir(exist_ok=True)
    done = subprocess.run(["mount", *options, str(folder)], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"no leave to mount: {done.stderr.strip()}")


@pytest.fixture
def disk(tmp_path):
    """A disk of 4 MiB."""
    folder = tmp_path / "disk"
    mount(folder, "-t", "tmpfs", "-o", "size=4m", "none")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def message(caught):
    text = str(caught.value)
    assert caught.value.exit_code == 5 and "\n" not in text
    return text


def file_at(path):
    path.write_text("a file")
    return path


PLACES = {
    "a file in the way": (lambda at: file_at(at / "runs"), "runs is a file, expected a folder"),
    "a file above": (lambda at: file_at(at / "file") / "runs", "file is a file, expected a folder"),
    "a name that is too long": (lambda at: at / ("x" * 300), "cannot be made: File name too long"),
    "a name with a null byte": (lambda at: at / "a\0b", "cannot be made"),
    "a pseudo file system": (lambda at: Path("/proc/1/runs"), "/proc/1 cannot be written|cannot be made"),
}


@pytest.mark.parametrize("case", PLACES)
@pytest.mark.parametrize("key", ["root", "dir"])
def test_where_no_run_can_go_is_said_before_anything_else(tmp_path, case, key):
    make, text = PLACES[case]
    path = make(tmp_path)
    if case == "a pseudo file system":
        pytest.skip("root may write anywhere") if os.access("/proc/1", os.W_OK) else None
    with pytest.raises(StorageError, match=text) as caught:
        check_place(RunSettings(**{key: str(path)}))
    assert message(caught).startswith(f"run.{key}: ")


def test_a_missing_parent_is_made(tmp_path):
    folder = tmp_path / "a" / "b" / "run"
    check_place(RunSettings(dir=str(folder)))
    assert framework.run([*TINY, f"run.dir={folder}", "train.steps=1"]).directory == folder


def test_a_read_only_disk_is_one_line_from_the_command_line(disk):
    mount(disk, "-o", "remount,ro")
    done = subprocess.run(
        [sys.executable, "-m", "framework", *TINY, f"run.root={disk}/runs"], capture_output=True, text=True, check=False
    )
    line = f"error[storage]: run.root: {disk} is on a read-only file system; choose another folder."
    assert (done.returncode, done.stderr) == (5, f"{line} (set on the command line)\n")


def test_a_run_on_a_disk_that_became_read_only_is_not_resumed(disk):
    framework.run([*TINY, f"run.dir={disk}/run"])
    mount(disk, "-o", "remount,ro")
    with pytest.raises(StorageError, match=r"run/lock cannot be written: Read-only file system\.") as caught:
        framework.resume(disk / "run", ["train.steps=30"])
    assert message(caught)


def test_too_little_space_is_said_before_the_first_step(disk):
    with pytest.raises(
        StorageError, match=r"checkpoints has [\d,]+ bytes free, and 2 checkpoints of [\d,]+ bytes need"
    ):
        framework.run([*TINY, f"run.dir={disk}/run", "model.hidden=[20000]"])
    assert steps(disk / "run" / "checkpoints") == []
    assert (disk / "run" / "metrics.jsonl").read_text() == ""


def test_the_size_of_a_state_is_that_of_its_arrays(tmp_path):
    result = framework.run([*TINY, f"run.dir={tmp_path}/run"])
    saved = (tmp_path / "run" / "checkpoints" / "20" / "arrays.npz").stat().st_size
    assert 0 < size(result.state) < saved < size(result.state) + 1000 * len(result.state.opt_state) + 5000


def test_a_disk_that_says_nothing_is_not_held_against_it(tmp_path):
    check_space(Path("/proc"), 3, 2**60)  # of no size at all
    with pytest.raises(StorageError, match="need 3,458,764,513,820,540,928"):
        check_space(tmp_path, 3, 2**60)


def test_a_disk_that_fills_up_costs_the_save_that_failed_and_no_other(disk):
    with pytest.raises(StorageError, match=r"checkpoint .*/\d+ cannot be written: No space left on device\.") as caught:
        framework.run([*TINY, *WIDE, f"run.dir={disk}/run"])
    failed = int(message(caught).split("checkpoints/")[1].split()[0])
    checkpoints = disk / "run" / "checkpoints"
    saved = steps(checkpoints)
    assert saved and saved == list(range(2, failed, 2))
    assert sorted(path.name for path in checkpoints.iterdir()) == sorted(map(str, saved))
    for step in saved:
        restore(checkpoints / str(step), {"step": jnp.int32(0)})
    record = run_record(disk / "run")
    assert (record["status"], record["exit_code"]) == ("failed", 5)
    resumed = framework.resume(disk / "run", ["callbacks.checkpoint.keep=1"])
    assert int(resumed.state.step) == 20 and steps(checkpoints) == [20]


FILES = ["metrics.jsonl", "events.out.tfevents", "arrays.npz|checkpoints/20"]


@pytest.mark.parametrize("limit", [2_000, 5_000, 9_000])
def test_a_file_that_may_not_grow_is_one_line_with_its_name(tmp_path, limit):
    program = (
        f"import resource, runpy; resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}));"
        "runpy.run_module('framework', run_name='__main__')"
    )
    words = [*TINY, f"run.dir={tmp_path}/run", "train.steps=100", "train.log_every=1"]
    done = subprocess.run(
        [sys.executable, "-B", "-c", program, *words],  # else bytecode is cut short too, and stays so for others
        capture_output=True,
        text=True,
        check=False,
    )
    last = done.stderr.splitlines()[-1]
    assert done.returncode == 5, done.stderr
    assert last.startswith("error[storage]: ") and last.endswith("cannot be written: File too large."), done.stderr
    assert "Traceback" not in done.stderr and "Exception ignored" not in done.stderr
    assert steps(tmp_path / "run" / "checkpoints") == []


def test_a_log_is_never_cut_without_a_word(disk):
    """The disk is full but for some bytes: a write then takes a part of a line, and only the next one fails."""
    (disk / "filler").write_bytes(bytes(3_900_000))
    with pytest.raises(
        StorageError, match=r"(metrics.jsonl|tfevents.*|checkpoints/\d+) cannot be written: No space left"
    ):
        framework.run([*TINY, f"run.dir={disk}/run", "train.steps=4000", "train.log_every=1"])


FULL = """
from framework.api import Store
from framework.checkpoints.npz import FILES

full_at = ""


def write(path, leaves):
    if path.parent.name == f".{full_at}.partial":
        raise OSError(28, "No space left on device")
    FILES.write(path, leaves)


def store():
    return Store("full", FILES.place, write, FILES.read)
"""


@pytest.fixture
def full(install):
    """A store that finds the disk full at the step `full_at`, as words that choose it."""
    install("acme", {"framework.stores": {"full": "acme_full:store"}}, {"acme_full.py": FULL})
    import acme_full

    return acme_full


STORE = "callbacks.checkpoint.store=full"


def test_a_save_that_fails_in_its_thread_ends_the_run_before_the_next_one(tmp_path, full):
    full.full_at = "500"
    words = ["train.steps=1500", "train.checkpoint_every=500", "train.log_every=1", "train.steps_per_call=1", STORE]
    with pytest.raises(StorageError, match=rf"{tmp_path}/run/checkpoints/500 cannot be written: No space") as caught:
        framework.run([*TINY, *words, f"run.dir={tmp_path}/run"])
    assert message(caught)
    assert 500 <= len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()) < 1000
    assert run_record(tmp_path / "run")["exit_code"] == 5
    assert steps(tmp_path / "run" / "checkpoints") == []


@pytest.mark.parametrize("asynchronous", [True, False])
def test_a_run_whose_last_state_cannot_be_saved_is_not_done(tmp_path, full, asynchronous):
    full.full_at = "20"
    words = ["train.checkpoint_every=10", f"callbacks.checkpoint.asynchronous={asynchronous}", STORE]
    with pytest.raises(StorageError, match=rf"{tmp_path}/run/checkpoints/20 cannot be written: No space left"):
        framework.run([*TINY, *words, f"run.dir={tmp_path}/run"])
    record = run_record(tmp_path / "run")
    assert (record["status"], record["exit_code"]) == ("failed", 5)
    assert steps(tmp_path / "run" / "checkpoints") == [10]
    full.full_at = ""
    for name in (".20.partial", ".10.trash", "10.damaged"):  # in the place of folders
        file_at(tmp_path / "run" / "checkpoints" / name)
    os.mkfifo(tmp_path / "run" / "checkpoints" / ".30.former")
    (tmp_path / "run" / "checkpoints" / ".30.partial").symlink_to(tmp_path)
    assert framework.resume(tmp_path / "run").state.step == 20
    assert steps(tmp_path / "run" / "checkpoints") == [10, 20]
    assert {path.name for path in (tmp_path / "run" / "checkpoints").iterdir()} == {"10", "20", "10.damaged"}
    assert record["id"] == run_record(tmp_path / "run")["id"]


def test_what_a_thread_saves_is_the_state_of_its_step_whatever_the_next_steps_do(tmp_path):
    words = [*TINY, "model.hidden=[8000]", "train.steps=6", "train.checkpoint_every=1", "callbacks.checkpoint.keep=0"]
    for name, asynchronous in (("behind", True), ("between", False)):
        framework.run([*words, f"run.dir={tmp_path}/{name}", f"callbacks.checkpoint.asynchronous={asynchronous}"])
    for step in range(1, 7):
        behind, between = (
            json.loads((tmp_path / name / "checkpoints" / str(step) / "manifest.json").read_text())["leaves"]
            for name in ("behind", "between")
        )
        assert behind == between
