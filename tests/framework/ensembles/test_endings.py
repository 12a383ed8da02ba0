"""Members that end early: each has the bits that it had at its end, and the values of its run alone."""

from __future__ import annotations

import functools

import jax
import numpy as np
import pytest

import framework
from framework import testing
from framework.errors import ConfigError
from framework.testing import assert_same_bits, records, run_record, series

WORDS = ["train.steps=12", "train.log_every=1", "train.eval_every=2", "optimizer=sgd", "model.dropout=0.25"]
STOPPING = ["callbacks=[checkpoint,early_stopping]", "callbacks.early_stopping.patience=2"]
TOGETHER = ["strategy=vmapped", "strategy.members={optimizer.learning_rate: [0.1, 0.0, 0.05]}"]
END = 6  # of the member with a rate of 0: two evaluations after the one of step 2


@pytest.fixture
def train(tmp_path):
    return functools.partial(testing.train, tmp_path, *WORDS)


def key_or_value(leaf):
    return jax.random.key_data(leaf) if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf


def own(result, member):
    return jax.tree.map(lambda leaf: leaf[member], result.state)


@pytest.mark.parametrize("steps_per_call", ["auto", 1])
def test_a_member_that_ends_is_its_run_alone_and_the_others_go_on(train, capsys, steps_per_call):
    words = [*STOPPING, f"train.steps_per_call={steps_per_call}"]
    together = train(*TOGETHER, *words)
    line = next(line for line in capsys.readouterr().err.splitlines() if line.split()[:3] == ["1", "0", "0"])
    solo = train("optimizer.learning_rate=0.0", *words)
    assert (together.status, solo.status) == ("done", "stopped")
    assert together.state.step.tolist() == [12, int(solo.state.step), 12] == [12, END, 12]
    for left, right in zip(jax.tree.leaves(own(together, 1)), jax.tree.leaves(solo.state), strict=True):
        np.testing.assert_allclose(key_or_value(left), key_or_value(right), rtol=1e-4, atol=1e-6)
    for tag in ("train/loss", "eval/loss", "eval/accuracy"):
        np.testing.assert_allclose(series(together, f"{tag}/1"), series(solo, tag), rtol=2e-5, err_msg=tag)
    # No bit of it moves, and the others are not touched by its end.
    assert_same_bits(own(together, 1), own(train(*TOGETHER, *words, f"train.steps={END}"), 1))
    free = train(*TOGETHER, f"train.steps_per_call={steps_per_call}", "callbacks=[]")
    assert_same_bits(own(together, 0), own(free, 0))

    rows = run_record(together)["members"]
    reason = run_record(solo)["reason"].replace("eval/loss", "eval/loss/1")
    assert [row["ended"] for row in rows] == [None, {"step": END, "reason": reason}, None]
    assert [row["frozen_at_step"] for row in rows] == [None] * 3
    assert f"ended at step {END}: eval/loss/1 has not improved on" in line
    each = [together.metrics[f"eval/loss/{member}"] for member in range(3)]
    assert together.metrics["eval/loss"] == pytest.approx(np.mean(each))  # with its last value
    assert series(together, "train/live_members").tolist() == [3] * END + [2] * (12 - END)


def test_a_run_that_goes_on_decides_the_same(train):
    whole = train(*TOGETHER, *STOPPING)
    for cut in (4, END, 8):  # before, at and after the end of a member
        resumed = framework.resume(train(*TOGETHER, *STOPPING, f"train.steps={cut}").directory, ["train.steps=12"])
        assert_same_bits(resumed.state, whole.state)
        assert records(resumed) == records(whole)


def test_a_run_ends_once_all_members_have(train):
    result = train("strategy=vmapped", "strategy.members=2", *STOPPING, "callbacks.early_stopping.target=99")
    assert (result.status, result.state.step.tolist()) == ("stopped", [2, 2])
    ended = "all members have ended: 0 at step 2, 1 at step 2"
    assert run_record(result)["reason"] == ended
    resumed = framework.resume(result.directory, ["train.steps=24"])
    assert (run_record(resumed)["reason"], resumed.state.step.tolist()) == (ended, [2, 2])


def test_one_member_can_end_the_run_and_those_that_evolve_cannot_end_alone(train):
    one = "callbacks.early_stopping.metric=eval/loss/1"
    result = train(*TOGETHER, *STOPPING, one)
    assert (result.status, result.state.step.tolist()) == ("stopped", [END] * 3)
    space = "strategy.space={optimizer.learning_rate: {low: 1e-3, high: 1, log: true}}"
    evolving = ["strategy=pbt", "strategy.members=4", space]
    with pytest.raises(ConfigError, match="none ends alone"):
        train(*evolving, *STOPPING)
