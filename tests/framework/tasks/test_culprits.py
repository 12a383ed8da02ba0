"""A plugin that fails while a step is traced, or in a hook, is named in the error."""

from __future__ import annotations

import signal

import pytest

from framework.errors import FrameworkError, PluginError
from framework.testing import command, message, run_record, train

PLUGINS = '''
"""Components that do one thing wrong, each."""
import sys

import jax
import jax.numpy as jnp
import optax

from framework.api import Callback, Metric, Model


def fail(how):
    if how == "exits":
        sys.exit(0)
    if how == "interrupts":
        raise KeyboardInterrupt
    raise ValueError("as planned")


def model(fault: str = "", how: str = "raises"):
    def init(key, shape):
        if fault == "init":
            fail(how)
        return (-1, 10), {"W": jax.random.normal(key, (6, 10)) * (jnp.nan if fault == "nan" else 1)}, ()

    def apply(params, state, inputs, *, key=None, train=False):
        if fault == "apply":
            fail(how)
        outputs = inputs @ params["W"]
        if fault == "complex":
            return jax.lax.complex(outputs, outputs), state
        if fault == "dict":
            return {"a": outputs}, state
        return outputs[:, :5] if fault == "width" else outputs, state

    return Model(init, apply)


def loss(how: str = "raises"):
    return lambda outputs, batch: fail(how)


def plain_loss():
    return lambda outputs, batch: -outputs["a"][:, 0]


def metric(how: str = "raises"):
    return lambda outputs, batch: fail(how)


def on_dicts():
    return lambda outputs, batch: outputs.mean(axis=1)


def transform(how: str = "raises"):
    return lambda keys, batch: fail(how)


def optimizer(how: str = "raises"):
    return optax.GradientTransformation(lambda params: (), lambda grads, state, params=None: fail(how))


def factory(how: str = "raises"):
    fail(how)


class Watcher(Callback):
    def __init__(self, hook, how):
        self.every = 2
        setattr(self, hook, lambda *args: fail(how))


def watcher(hook: str = "on_log", how: str = "raises"):
    return Watcher(hook, how)
'''

GROUPS = {
    "models": {"faulty": "model", "made": "factory"},
    "losses": {"faulty": "loss", "of_dicts": "plain_loss"},
    "metrics": {"faulty": "metric", "on_dicts": "on_dicts"},
    "transforms": {"faulty": "transform"},
    "optimizers": {"faulty": "optimizer"},
    "callbacks": {"faulty": "watcher"},
}

ENDS = {"raises": ": ValueError: as planned", "exits": ": SystemExit: 0", "interrupts": ": KeyboardInterrupt"}

COMPONENTS = {
    "init": (
        ["model=faulty", "model.fault=init", "~model.hidden"],
        "model",
        "model 'faulty' (acme 1.0) fails in init for the shape (-1, 6)",
    ),
    "apply": (
        ["model=faulty", "model.fault=apply", "~model.hidden"],
        "model",
        "model 'faulty' (acme 1.0) fails in apply on inputs float32[16, 6]",
    ),
    "loss": (
        ["loss=faulty"],
        "loss",
        "loss: loss 'faulty' (acme 1.0) fails on outputs float32[16, 10] and targets int32[16]",
    ),
    "metric": (
        ["+metrics.faulty={}"],
        "metrics.faulty",
        "metric 'faulty' (acme 1.0) fails in values on outputs",
    ),
    "transform": (
        ["+data.transform=[{faulty: {}}]"],
        "data.transform.0.faulty",
        "data.transform[0].faulty: transform 'faulty'",
    ),
    "optimizer": (["optimizer=faulty"], "optimizer", "optimizer 'faulty' (acme 1.0) fails"),
    "factory": (["model=made", "~model.hidden"], "model", "model 'made' (acme 1.0) cannot be built"),
}


@pytest.fixture(autouse=True)
def acme(install):
    targets = {kind: {name: f"acme_faulty:{of}" for name, of in each.items()} for kind, each in GROUPS.items()}
    groups = {f"framework.{kind}": each for kind, each in targets.items()}
    install("acme", groups, {"acme_faulty.py": PLUGINS})
    # As on the command line, where the user's Ctrl-C is never an exception.
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    yield
    signal.signal(signal.SIGINT, before)


def refusal(folder, *words):
    with pytest.raises(FrameworkError) as caught:
        train(folder, "train.steps=4", *words)
    return type(caught.value), message(caught)


@pytest.mark.parametrize("how", ENDS)
@pytest.mark.parametrize("component", COMPONENTS)
def test_the_component_that_fails_is_named(tmp_path, component, how):
    words, section, text = COMPONENTS[component]
    kind, told = refusal(tmp_path, *words, f"+{section}.how={how}")
    assert kind is PluginError
    assert text in told
    assert ENDS[how] in told


@pytest.mark.parametrize("how", ENDS)
@pytest.mark.parametrize("hook", ["on_start", "on_log", "on_state", "settle", "on_end"])
def test_a_callback_that_exits_has_failed(tmp_path, hook, how):
    words = ["+callbacks.faulty={}", f"+callbacks.faulty.hook={hook}", f"+callbacks.faulty.how={how}"]
    kind, told = refusal(tmp_path, *words, f"run.dir={tmp_path}/run")
    assert kind is PluginError
    assert told.startswith(f"callback 'faulty' (acme 1.0) failed in {hook}{ENDS[how]}")
    assert run_record(tmp_path / "run")["exit_code"] == 3


def test_a_plugin_that_exits_with_0_ends_the_command_with_3(tmp_path):
    words = ["data=synthetic", "data.shape=[6]", "model=mlp", "train.steps=2", "loss=faulty", "+loss.how=exits"]
    ended = command(*words, f"run.root={tmp_path}")
    assert (ended.code, ended.err.count("\n")) == (3, 1)


FAN = "model.layers=[{FanOut: 2}, {parallel: {layers: [{Dense: 1}, {Dense: 3}]}}, FanInSum, {Dense: 10}]"


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (
            ["model=faulty", "model.fault=width", "~model.hidden"],
            "model 'faulty' (acme 1.0) has outputs float32[16, 5] for inputs float32[16, 6], "
            "and its init declared the shape (-1, 10).",
        ),
        (
            ["model=faulty", "model.fault=complex", "~model.hidden"],
            "model: model 'faulty' (acme 1.0) has outputs complex64[16, 10] for inputs float32[16, 6]; "
            "expected real numbers: end the model with jnp.abs or jnp.real.",
        ),
        (
            ["model=faulty", "model.fault=dict", "~model.hidden", "loss=of_dicts", "+metrics.on_dicts={}"],
            "metrics.on_dicts: metric 'on_dicts' (acme 1.0) fails in values on outputs {a: float32[16, 10]}",
        ),
        (
            ["model=faulty", "model.fault=dict", "~model.hidden"],
            "loss: loss 'softmax_cross_entropy' (framework 0.1.0) on outputs {a: float32[16, 10]}",
        ),
        (
            ["model=serial", FAN, "~model.hidden"],
            "layer 2_FanInSum cannot take inputs of shape [(16, 1), (16, 3)]: its outputs have the shape (16, 3)",
        ),
    ],
)
def test_whoever_made_the_mistake_is_named_rather_than_who_tripped_over_it(tmp_path, words, text):
    assert text in refusal(tmp_path, "~metrics.accuracy", *words)[1]
