"""Logged hyper-parameters of the optimizer: the learning rate, and those that have a schedule."""

from __future__ import annotations

import numpy as np
import pytest

import framework
from framework import testing
from framework.testing import records, series

TINY = [*testing.TINY, "train.steps=4", "train.log_every=1", "train.eval_every=0", "callbacks=[]"]
DECAY = "optimizer.weight_decay={name: linear, init_value: 0.4, end_value: 0.0, transition_steps: 4}"
FALLING, CONSTANT = [0.4, 0.3, 0.2, 0.1], [0.5] * 4


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ([], {"learning_rate": CONSTANT}),
        ([DECAY], {"learning_rate": CONSTANT, "weight_decay": FALLING}),
        ([DECAY, "precision=float16", "ema=0.9"], {"weight_decay": FALLING, "loss_scale": [256.0] * 4}),
    ],
)
def test_a_hyperparameter_with_a_schedule_is_logged_as_the_update_used_it(tmp_path, overrides, expected):
    chosen = [*TINY, "optimizer=adamw", "optimizer.learning_rate=0.5", f"run.root={tmp_path}", *overrides]
    result = framework.run(chosen)
    for name, values in expected.items():
        np.testing.assert_allclose(series(result, f"train/{name}"), values, rtol=1e-6)
    tags = records(result)[0].keys()
    assert {"train/b1", "train/eps"}.isdisjoint(tags)
    assert ("train/weight_decay" in tags) == ("weight_decay" in expected)
