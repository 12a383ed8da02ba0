"""Compilations: the train step is traced once, each further trace has a reason, and the log counts them."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from framework import testing
from framework.errors import PluginError
from framework.training.compiles import Compiles, Traces, difference, in_words

STEPS = ["train.steps=7", "train.log_every=2", "train.eval_every=5"]


@pytest.mark.parametrize(
    ("strategy", "per_call"), [("jit", 1), ("jit", 3), ("pmap", 1), ("sharded", 3), ("vmapped", 3), ("eager", 1)]
)
def test_a_train_step_is_traced_once(tmp_path, strategy, per_call):
    words = [
        f"strategy={strategy}",
        f"train.steps_per_call={per_call}",
        "train.retraces=error",
        "callbacks=[checkpoint]",
    ]
    run = testing.train(tmp_path, *STEPS, *words)
    told = testing.run_record(run)["compiles"]
    assert told["train_step"] == (strategy != "eager")
    assert told["programs"] > 0
    _, first, *_, last = testing.records(run, timed=True)
    assert first["perf/compiles"] >= 1
    assert first["perf/compile_seconds"] > 0
    assert sum(testing.series(run, "perf/compiles")) <= told["programs"]
    assert last["step"] == 7
    log = (run.directory / "run.log").read_text()
    assert all(piece in log for piece in in_words(told))


WEAK = """
import jax.numpy as jnp

from framework.api import Model


def scaled() -> Model:
    def init(key, shape):
        return (*shape[:-1], 10), {"W": jnp.ones((shape[-1], 10))}, {"scale": 1.0}

    def apply(params, state, inputs, *, key=None, train=False):
        return inputs @ params["W"] * state["scale"], {"scale": state["scale"] * jnp.float32(0.9)}

    return Model(init, apply)
"""

SETTING = """
import jax

from framework.api import Callback


class Setting(Callback):
    def on_log(self, step, scalars):
        if step == 2:
            jax.config.update("jax_default_matmul_precision", "highest")


def setting() -> Callback:
    return Setting()
"""


def test_the_leaf_or_the_setting_that_made_a_step_trace_again_is_named(tmp_path, install):
    kinds = {"framework.models": {"scaled": "acme:scaled"}, "framework.callbacks": {"setting": "acme:setting"}}
    install("acme", kinds, {"acme.py": WEAK + SETTING})
    weak = "step 2: the train step was traced 2 times: state/model_state/scale was weak float32[] and is float32[]"
    words = ["model=scaled", "~model.hidden", "train.steps_per_call=1", "callbacks=[]"]
    run = testing.train(tmp_path, *STEPS, *words)
    assert (
        f"model 'scaled' (acme 1.0): {weak}; each trace costs a compilation." in (run.directory / "run.log").read_text()
    )
    assert testing.run_record(run)["compiles"]["train_step"] == 2
    with pytest.raises(PluginError, match=r"model 'scaled' .* was weak float32\[\]") as caught:
        testing.train(tmp_path, *STEPS, *words, "train.retraces=error")
    assert caught.value.exit_code == 3
    try:
        run = testing.train(tmp_path, *STEPS, "train.steps_per_call=1", "callbacks=[setting]")
    finally:
        jax.config.update("jax_default_matmul_precision", None)
    log = (run.directory / "run.log").read_text()
    assert "the train step was traced 2 times: jax_default_matmul_precision: none is highest;" in log


def make(**leaves):
    return {name: jnp.asarray(leaf) for name, leaf in leaves.items()}


STATE, FEED = make(a=np.zeros(3, np.float32)), make(x=np.zeros((4, 2), np.int32))


@pytest.mark.parametrize(
    ("state", "feed", "axis", "text"),
    [
        (STATE, FEED, None, ""),
        (STATE, make(x=np.zeros((5, 2), np.int32)), None, "feed/x was int32[4, 2] and is int32[5, 2]"),
        (make(a=np.zeros(3, np.float16)), FEED, None, "state/a was float32[3] and is float16[3]"),
        (make(b=STATE["a"], **STATE), FEED, None, "state/b was absent and is float32[3]"),
        (STATE, FEED, "i", "the static axis was None and is 'i'"),
        ({"a": 1.0}, FEED, None, "state/a was float32[3] and is weak float32[]"),
    ],
)
def test_a_difference_names_leaf_shape_dtype_weak_type_and_static_value(state, feed, axis, text):
    traces = Traces()
    step = jax.jit(traces.noting(lambda state, feed, axis: state), static_argnames="axis")
    step(STATE, FEED, axis=None)
    step(make(a=np.ones(3, np.float32)), FEED, axis=None)
    step(state, feed, axis=axis)
    assert len(traces.seen) == 1 + bool(text)
    assert not text or difference(*traces.seen) == text


def test_a_cleared_cache_is_a_reason_too_and_a_call_op_by_op_is_no_trace():
    traces = Traces()
    step = jax.jit(traces.noting(lambda state, feed, axis: state))
    step(jnp.zeros(2), jnp.zeros(2))
    jax.clear_caches()
    step(jnp.zeros(2), jnp.zeros(2))
    assert difference(*traces.seen).startswith("all arguments are alike: JAX's caches were cleared")
    with jax.disable_jit():
        step(jnp.zeros(2), jnp.zeros(2))
    assert len(traces.seen) == 2


def test_compiles_are_counted_inside_the_context_alone():
    compiles, xs = Compiles(), np.ones(3, np.float32)
    jax.jit(lambda x: x + 1)(xs)
    with compiles.counting():
        twice = jax.jit(lambda x: x + 2)
        twice(xs), twice(xs)
        assert compiles.lap()["perf/compiles"] == 1
        twice(np.ones(4, np.float32))
        assert compiles.lap()["perf/compile_seconds"] > 0
    jax.jit(lambda x: x + 3)(xs)
    assert compiles.programs == 2
    assert compiles.lap() == {"perf/compiles": 0, "perf/compile_seconds": 0}
    assert in_words({}) == []
    told = {"programs": 9, "seconds": 1.25, "train_step": 3}
    assert in_words(told) == ["9 programs in 1.25 s", "the train step traced 3 times"]
