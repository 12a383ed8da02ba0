"""A task's exhibits are made at each evaluation, from one replica of the state under every strategy, and logged."""

from __future__ import annotations

import json

import numpy as np
import pytest

import framework
from framework import testing
from framework.errors import PluginError

SHOWING = """
import inspect
import json
import jax
from framework.api import Exhibit
from framework.tasks.supervised import supervised


def showing(*given, wrong: bool = False, **named):
    \"\"\"Supervised, with something to look at.\"\"\"
    task = supervised(*given, **named)

    def logits(view, batch, key):
        return task.predict(view, batch["inputs"])

    def numbers(made, facts):
        return json.dumps(made.tolist())

    exhibits = {
        "probabilities": Exhibit("image", lambda *parts: jax.nn.softmax(logits(*parts))),
        "noise": Exhibit("histogram", lambda view, batch, key: jax.random.normal(key, (100,))),
        "inputs": Exhibit("text", lambda view, batch, key: batch["inputs"], numbers),
        "logits": Exhibit("text", logits, numbers),
        "columns": Exhibit("table", lambda view, batch, key: {"target": batch["targets"]}),
    }
    wrongly = {"bad": Exhibit("image", lambda view, batch, key: batch["targets"])}
    return task._replace(exhibits=wrongly if wrong else exhibits)


taken = list(inspect.signature(supervised, eval_str=True).parameters.values())
option = inspect.Parameter("wrong", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=bool)
showing.__signature__ = inspect.Signature([*taken, option])
showing.__annotations__ = {each.name: each.annotation for each in (*taken, option)}
"""
WORDS = ["task=showing", "train.steps=8", "train.eval_every=4", "ema=0.5", "callbacks=[checkpoint]"]


@pytest.fixture
def train(tmp_path, install):
    install("galleries", {"framework.tasks": {"showing": "showing:showing"}}, {"showing.py": SHOWING})
    return lambda *words: testing.train(tmp_path, *WORDS, *words)


def files(run):
    place = run.directory / "media" / "exhibits"
    return {str(path.relative_to(place)): path.read_bytes() for path in place.rglob("*.*")}


STRATEGIES = [
    "jit",
    "eager",
    "pmap",
    "sharded",
    "sharded strategy.fsdp=2 strategy.data=1",
    "vmapped strategy.members=2",
]


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_exhibits_are_those_of_the_evaluated_state(train, strategy):
    run = train(*f"strategy={strategy}".split(" "))
    found = files(run)
    endings = {"probabilities": "png", "noise": "json", "inputs": "txt", "logits": "txt", "columns": "csv"}
    assert set(found) == {f"{name}/{step:08d}.{end}" for name, end in endings.items() for step in (4, 8)}
    inputs, logits = (np.array(json.loads(found[f"{name}/00000008.txt"]), np.float32) for name in ("inputs", "logits"))
    assert inputs.shape == (16, 6)
    np.testing.assert_allclose(logits, run.model(inputs), rtol=1e-5)
    assert found["noise/00000004.json"] != found["noise/00000008.json"]


def test_an_interrupted_run_shows_what_it_would_have_shown(train, tmp_path):
    whole = train("callbacks.checkpoint.every=4")
    part = train("train.steps=4")
    framework.resume(part.directory, ["train.steps=8"])
    assert files(part) == files(whole)


def test_an_exhibit_that_cannot_be_shown_names_the_task(train):
    with pytest.raises(PluginError, match=r"task 'showing' \(galleries 1.0\): image 'exhibits/bad' cannot be shown"):
        train("task.wrong=true")
