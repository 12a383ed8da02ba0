"""Memory that runs out: the largest buffers, what the compiler expected, and a batch that would fit."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from framework import testing
from framework.config.compose import compose
from framework.errors import ConfigError
from framework.experiment import build
from framework.registry.entry_points import discover
from framework.training.exhaustion import Sizes, examined

# An example takes a tebibyte between two operations that cannot be fused, which no machine gives.
SORTED = """
import jax
import jax.numpy as jnp

from framework.api import Model, scope


def vast() -> Model:
    def init(key, shape):
        return (*shape[:-1], 10), jnp.ones((shape[-1], 10)), ()

    def apply(params, state, inputs, *, key=None, train=False):
        with scope("0_Sort"):
            spread = jnp.sort(jnp.sin(inputs[:, :1, None] + jnp.arange(2.0**20)[:, None] * jnp.arange(2.0**18)), axis=1)
        return inputs @ params + jax.lax.stop_gradient(spread[:, 0, :10]), state

    return Model(init, apply)
"""


def test_a_run_that_exhausts_memory_leaves_a_report(tmp_path, install):
    install("acme", {"framework.models": {"vast": "acme_vast:vast"}}, {"acme_vast.py": SORTED})
    with pytest.raises(
        ConfigError, match=r"memory is exhausted: model 'vast' .*memory.json lists the largest"
    ) as caught:
        testing.train(
            tmp_path, "model=vast", "~model.hidden", "callbacks=[]", "train.steps=2", f"run.dir={tmp_path}/run"
        )
    assert "RESOURCE_EXHAUSTED" in testing.message(caught)
    report = json.loads((tmp_path / "run" / "memory.json").read_text())
    assert report["state"][0] == {"path": "batch/inputs", "shape": "float32[16, 6]", "bytes": 16 * 6 * 4}
    assert {"path": "params", "shape": "float32[6, 10]", "bytes": 240} in report["state"]
    largest = report["values"][0]
    assert (largest["shape"], largest["bytes"]) == ("float32[16, 1048576, 262144]", 2**44)
    assert largest["path"].startswith("0_Sort: ")
    assert report["expected"]["temporaries"] >= 2**44
    assert (report["batch_size"], report["largest_batch"]) == (16, 0)
    log = (tmp_path / "run" / "run.log").read_text()
    assert "largest batch that fits, as the compiler plans: none, not even of one example; it was 16" in log
    assert "float32[16, 1048576, 262144]  16 TiB" in log


def test_memory_that_may_be_used_heeds_a_limit_of_the_process():
    limited = "resource.setrlimit(resource.RLIMIT_AS, (2**33, 2**33))"
    code = f"import resource; {limited}; from framework.training import memory; print(memory.available())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 0 <= int(done.stdout) < 2**33


@pytest.mark.parametrize("strategy", ["jit", "vmapped", "eager"])
def test_the_largest_batch_is_the_one_that_the_compiler_says_fits(strategy):
    experiment = build(
        compose(
            [*testing.TINY, "data.batch_size=64", f"strategy={strategy}"]
            + ["strategy.members=2"] * (strategy == "vmapped")
        ),
        discover(),
    )
    sizes = Sizes(experiment)
    if strategy == "eager":
        assert sizes.planned(64) is None
        assert sizes.largest(10**9) is None
        return
    whole = experiment.batch_size
    needs = {size: sum(sizes.planned(size).values()) for size in (whole // 2, whole)}
    assert needs[whole] > needs[whole // 2]
    assert sizes.largest(needs[whole]) == whole
    budget = (needs[whole] + needs[whole // 2]) // 2
    between = sizes.largest(budget)
    assert whole // 2 < between < whole
    assert sum(sizes.planned(between).values()) <= budget


def test_the_buffers_of_a_cut_state_are_those_of_one_device():
    words = ["strategy=sharded", "strategy.fsdp=2", "model.hidden=[64]", "optimizer=sgd"]
    experiment = build(compose([*testing.TINY, *words]), discover())
    report = examined(experiment, RuntimeError("RESOURCE_EXHAUSTED: a test\nmore"))
    assert report.error == "RESOURCE_EXHAUSTED: a test"
    found = {each.path: each.bytes for each in report.state}
    assert found["params/1_Dense/W"] == 6 * 64 * 4 // 2
    assert report.expected.keys() == {"state and batch", "results", "temporaries"}
