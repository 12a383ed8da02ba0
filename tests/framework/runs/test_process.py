"""Demands of a run on its process and its folder, each refused in one line."""

from __future__ import annotations

import os
import subprocess
import sys
import threading

import pytest

import framework
from framework import testing
from framework.errors import ConfigError, StorageError


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("JAX_PLATFORMS", "cuda", "set it to cpu, or unset it"),
        ("JAX_TRANSFER_GUARD", "disallow", "unset it, and set debug.transfers=true"),
        ("JAX_TRANSFER_GUARD", "wrong", "'wrong'"),
        ("JAX_ENABLE_X64", "maybe", "'maybe'"),
    ],
)
def test_a_variable_that_jax_cannot_work_with_is_named(tmp_path, name, value, said):
    command = [sys.executable, "-m", "framework", *testing.TINY, f"run.root={tmp_path}"]
    done = subprocess.run(command, env=os.environ | {name: value}, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith(f"error[config]: {name}: ")
    assert said in done.stderr.replace('"', "'")
    assert done.stderr.count("\n") == 1


def test_of_two_threads_that_run_at_once_one_is_refused(tmp_path):
    both, refusals = threading.Barrier(2), []

    def run(seed):
        both.wait()
        try:
            testing.train(tmp_path, f"seed={seed}", "train.steps=200")
        except ConfigError as error:
            refusals.append(str(error))

    threads = [threading.Thread(target=run, args=(seed,)) for seed in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(list(tmp_path.rglob("run.json"))) + len(refusals) == 2
    assert all(text.startswith("another thread of this process is running;") for text in refusals)
    assert testing.train(tmp_path, "train.steps=2").status == "done"


FORKED = """
import os, sys, warnings
warnings.simplefilter("ignore")
import jax, framework
from framework import testing
jax.numpy.ones(3) + 1
if os.fork() == 0:
    try:
        testing.train(sys.argv[1])
    except framework.FrameworkError as error:
        print(error, flush=True)
    os._exit(0)
os.wait()
testing.train(sys.argv[1], "train.steps=2")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="threads are counted in /proc")
def test_a_child_forked_after_jax_was_used_is_refused_and_its_parent_runs(tmp_path):
    command = [sys.executable, "-c", FORKED, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("this process was forked from one that had used JAX")
    assert done.stdout.count("\n") == 1


FILES = ["run.json", "config.yaml", "run.log", "metrics.jsonl", "lock"]


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
@pytest.mark.parametrize("name", FILES)
def test_what_is_no_file_in_the_place_of_one_is_refused_and_not_waited_for(tmp_path, name, make):
    saved = testing.train(tmp_path, "train.steps=2").directory
    (saved / name).unlink(missing_ok=True)
    make(saved / name)
    for call in (framework.resume, framework.load):
        if call is framework.resume or name == "run.json":
            with pytest.raises((StorageError, ConfigError)) as caught:
                call(saved)
            assert name in testing.message(caught)
    for auto in ([], ["run.resume=auto"]):
        with pytest.raises(StorageError, match=r"^run\.dir: .*") as caught:
            testing.train(tmp_path, f"run.dir={saved}", *auto)
        testing.message(caught)


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="there is no /proc")  # noqa: PTH112
def test_a_file_system_that_takes_no_folder_is_told_of_the_key_that_chose_it():
    with pytest.raises(StorageError, match=r"^run\.root: /proc/default cannot be made"):
        testing.train("/proc")
