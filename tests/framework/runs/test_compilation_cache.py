"""The persistent compilation cache: used, bounded, and shared by processes."""

from __future__ import annotations

import os
import subprocess
import sys
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.compilation_cache import compilation_cache

from framework.config.compose import compose
from framework.config.settings import RunSettings
from framework.config.sizes import bytes_of
from framework.errors import ConfigError
from framework.runs.compilation_cache import KEPT, cache_folder, persistent_cache, sweep
from framework.runs.python_api import run
from framework.training.memory import untuned


@pytest.mark.parametrize(("limit", "left"), [(1000, 10), (999, 7), (500, 4), (99, 0), (0, 0)])
def test_a_sweep_removes_what_was_not_used_for_longest(tmp_path, limit, left):
    for age in range(10):
        (tmp_path / f"{age}-cache").write_bytes(bytes(100))
        os.utime(tmp_path / f"{age}-cache", (10_000 - age, 5_000))  # read at, written at
    sweep(tmp_path, limit)
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"{age}-cache" for age in range(left)]
    assert left * 100 <= limit and (left == 10 or left * 100 > KEPT * limit - 100)


def test_a_sweep_of_a_folder_that_is_not_there_is_none(tmp_path):
    sweep(tmp_path / "none", 0)


def test_threads_that_compile_for_cost_leave_the_settings_to_each_other():
    shortest = "jax_persistent_cache_min_compile_time_secs"
    before, seen = getattr(jax.config, shortest), []
    together = threading.Barrier(3)

    def compile_for_cost(number):
        for size in range(1, 4):
            together.wait(60)
            untuned(jax.jit(lambda x: jnp.sin(x * number).sum()).lower(jnp.ones(size)))

    def train():
        for _ in range(3):
            together.wait(60)
            with persistent_cache(RunSettings()):
                seen.append(jax.config.jax_compilation_cache_dir)

    threads = [threading.Thread(target=compile_for_cost, args=(number,)) for number in (2, 3)]
    threads.append(threading.Thread(target=train))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert len(seen) == 3 and all(seen)
    assert getattr(jax.config, shortest) == before < np.inf


WORK = """
import sys
import jax, numpy as np
from framework.runs.compilation_cache import persistent_cache
from framework.config.settings import RunSettings
for _ in range(3):
    with persistent_cache(RunSettings(compilation_cache_size=sys.argv[1])):
        for k in range(8):
            jax.clear_caches()
            assert jax.jit(lambda x: x * k + 1)(np.float32(2)) == 2 * k + 1
"""


@pytest.mark.parametrize("limit", ["20KiB", "1GiB"])
def test_the_folder_stays_bounded_and_processes_share_it(tmp_path, limit):
    environment = {name: value for name, value in os.environ.items() if name != "JAX_COMPILATION_CACHE_DIR"}
    environment["XDG_CACHE_HOME"] = str(tmp_path)
    command = [sys.executable, "-c", WORK, limit]
    both = [subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    said = [process.communicate(timeout=600)[1] for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    held = sum(path.stat().st_size for path in (tmp_path / "framework" / "jax").iterdir())
    assert held <= bytes_of(limit, "limit")
    assert held > 20 * 2**10 or limit == "20KiB"  # more than the small limit would be kept


def test_half_an_entry_that_another_worker_writes_fails_no_test(tmp_path):
    before = jax.config.jax_compilation_cache_dir
    jax.config.update("jax_compilation_cache_dir", str(tmp_path))
    try:
        for _ in range(2):
            with persistent_cache(RunSettings()):
                assert jax.jit(lambda x: x * 3 + 1)(np.float32(2)) == 7
            jax.clear_caches()
            (entry,) = tmp_path.glob("*lambda*-cache")
            os.truncate(entry, 60)
    finally:
        jax.config.update("jax_compilation_cache_dir", before)
        compilation_cache.reset_cache()


def test_a_users_own_folder_is_never_swept(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    ours = cache_folder() / "old-cache"
    ours.parent.mkdir(parents=True)
    ours.write_bytes(bytes(100))
    assert jax.config.jax_compilation_cache_dir  # of the tests
    with persistent_cache(RunSettings(compilation_cache_size=0)):
        jax.jit(lambda x: x + 1)(np.float32(1))
    assert ours.exists()


def test_a_size_that_is_none_is_refused_before_anything_runs():
    with pytest.raises(ConfigError, match=r"^run\.compilation_cache_size: expected a size such as 2GiB"):
        run(["data=digits", "run.compilation_cache_size=big"])
    assert compose(["data=digits"]).settings.run.compilation_cache_size == "2GiB"
