"""`tell`: a running process saves, evaluates and stops on demand, and its numbers stay what they were."""

from __future__ import annotations

import re

import pytest

import framework
from framework import testing
from framework.api import Callback
from framework.errors import ConfigError, StorageError
from framework.runs.asked import ask, taken

STEPS = ["train.steps=12", "train.eval_every=12", "train.log_every=2", "train.steps_per_call=2"]

ASKING = """
from framework.api import Callback
from framework.runs.asked import ask


class Asking(Callback):
    def __init__(self, at, words):
        self.at, self.words = at, words

    def on_start(self, run):
        self.directory = run.directory

    def on_log(self, step, scalars):
        if step == self.at and "train/loss" in scalars:
            for word in self.words:
                ask(self.directory, word)


def asking(at: int, words: list[str]) -> Callback:
    return Asking(at, words)
"""


@pytest.fixture
def asked(tmp_path, install):
    """Train with a callback that stands for another process, and asks after a step."""
    install("acme", {"framework.callbacks": {"asking": "acme_asking:asking"}}, {"acme_asking.py": ASKING})

    def train(at, *words, **_):
        listed = ",".join(words)
        return testing.train(
            tmp_path,
            *STEPS,
            "callbacks=[checkpoint]",
            f"callbacks.asking={{at:{at},words:[{listed}]}}",
            f"run.dir={tmp_path}/run",
        )

    return train


def test_a_run_saves_and_evaluates_on_demand(asked, tmp_path):
    run = asked(4, "checkpoint", "evaluate", "profile")
    evaluated = [line["step"] for line in testing.records(run) if "eval/loss" in line]
    assert len(evaluated) == 3 and evaluated.pop(0) == 0
    assert 4 < evaluated[0] <= 8
    assert evaluated[1] == 12
    saved = sorted(int(path.name) for path in (run.directory / "checkpoints").iterdir())
    assert saved == evaluated
    reference = testing.train(tmp_path / "alone", *STEPS, "callbacks=[]")
    testing.assert_same_bits(run.state, reference.state)
    log = (run.directory / "run.log").read_text()
    assert f"told to checkpoint, at step {evaluated[0]}" in log
    assert not list(run.directory.glob("*asked*"))
    assert f"profile of steps {evaluated[0] + 1} to {evaluated[0] + 2}: {run.directory}/profile" in log
    assert len(list((run.directory / "profile").rglob("*.xplane.pb"))) == 1


def test_a_run_that_is_told_to_stop_goes_on_where_it_was(asked, tmp_path):
    stopped = asked(4, "stop")
    step = int(stopped.state.step)
    record = testing.run_record(tmp_path / "run")
    assert (record["status"], record["exit_code"], record["reason"]) == ("stopped", 0, "told to stop")
    assert 4 < step < 12
    assert f"told to stop at step {step}; `framework resume {tmp_path}/run`" in (tmp_path / "run/run.log").read_text()
    run = framework.resume(tmp_path / "run", [])
    reference = testing.train(tmp_path / "alone", *STEPS, "callbacks=[]")
    testing.assert_same_bits(run.state, reference.state)


def test_what_cannot_be_asked_is_refused(tmp_path):
    run = testing.train(tmp_path / "my runs", "train.steps=1", "callbacks=[]")
    with pytest.raises(ConfigError, match=r"cannot be told to 'chekpoint'\. Did you mean 'checkpoint'\?"):
        ask(run.directory, "chekpoint")
    command = f"`framework resume '{run.directory}'` starts one"  # quoted, so that it can be copied
    with pytest.raises(StorageError, match=f"no process is training there; {re.escape(command)}"):
        ask(run.directory, "stop")
    with pytest.raises(StorageError, match="nowhere is not a run folder: there is no such folder"):
        ask(tmp_path / "nowhere", "stop")
    shown = testing.command("tell", str(run.directory), "stop")
    assert shown.code == 5
    assert "no process is training there" in shown.err


def test_requests_are_taken_once_and_only_known_ones(tmp_path):
    assert taken(tmp_path) == ()
    (tmp_path / "asked").write_text("checkpoint\nrm -rf\nevaluate\ncheckpoint\n")
    assert taken(tmp_path) == ("checkpoint", "evaluate")
    assert taken(tmp_path) == ()
    assert not list(tmp_path.iterdir())
    assert Callback.saves is False
