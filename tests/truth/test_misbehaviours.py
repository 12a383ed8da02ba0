"""Each planted misbehaviour of a plugin ends a run with one line that names the plugin."""

from __future__ import annotations

import re

import pytest

import framework
from framework import testing
from tests.truth.misbehaviours import COMMON, ROWS

GROUPS = {"loss": "losses", "strategy": "strategies", "data": "data"}
"""Entry-point groups by noun, where they are not the noun with an s."""

CHOICES = {
    "metric": "metrics=[{name}]",
    "callback": "callbacks=[{name}]",
    "transform": "data.transform=[{name}]",
    "store": "callbacks.checkpoint.store={name}",
}
"""Overrides that choose a plugin, by noun; else it is the noun itself."""


def noun(row):
    return row.name.partition("_")[0]


def overrides(row):
    """The words of a run of four steps that uses the plugin of a row; all else is as small as can be."""
    if noun(row) == "command":
        return [row.name]
    tiny = [word for word in testing.TINY if noun(row) != "data" or not word.startswith("data")]
    quiet = ["train.steps=4", "train.eval_every=2", f"callbacks=[{'checkpoint' if noun(row) == 'store' else ''}]"]
    chosen = CHOICES.get(noun(row), "{noun}={name}").format(noun=noun(row), name=row.name)
    model = ["~model.hidden"] if noun(row) == "model" else []
    return [*tiny, *quiet, "metrics=[]", chosen, *model, *row.words]


@pytest.fixture
def rogue(install, tmp_path, monkeypatch):
    """Install one distribution with every plugin of the table."""
    groups = {}
    for row in ROWS:
        group = GROUPS.get(noun(row), f"{noun(row)}s")
        groups.setdefault(f"framework.{group}", {})[row.name] = f"rogue_{row.name}:plugin"
    files = {f"rogue_{row.name}.py": f"from rogue import *\n{row.source}\n" for row in ROWS}
    install("rogue", groups, {"rogue.py": COMMON, **files})
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_a_misbehaviour_is_one_line_that_names_the_plugin(rogue, row):
    code, out, err = testing.command(*overrides(row))
    errors = [line for line in err.splitlines() if line.startswith("error[")]
    assert code == row.code, f"{code}: {err[-2000:]}"
    assert len(errors) == 1, err
    assert "Traceback" not in out + err
    assert not re.search(r"[\x00-\x08\x0b-\x1f]", out + err)
    said = [part.format(name=row.name) for part in (*row.said, "rogue 1.0", f"'{row.name}'")]
    missing = [part for part in said if part not in errors[0]]
    assert not missing, f"{missing} not in {errors[0]}"


GREEDY = """
from framework.api import Callback


class plugin(Callback):
    every = 1

    def on_start(self, run):
        run.config["train"] = None

    def on_log(self, step, scalars):
        scalars.clear()

    def on_state(self, step, state):
        self.every = "often"
"""


def test_what_a_callback_changes_no_other_sees(install, tmp_path):
    install("greedy", {"framework.callbacks": {"greedy": "greedy:plugin"}}, {"greedy.py": GREEDY})
    result = testing.train(tmp_path, "callbacks=[greedy, checkpoint]", "train.steps=4")
    assert "train/loss" in result.metrics
    assert framework.load(result.directory).config["train"]["steps"] == 4
    assert testing.series(result, "eval/loss").size
