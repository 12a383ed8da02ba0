"""Augmentation draws for each example, so that strategies and devices train alike."""

from __future__ import annotations

import numpy as np
import pytest

from tests.truth.runs import train

AUGMENTED = [
    "data=synthetic",
    "data.shape=[8,8,1]",
    "data.classes=3",
    "data.examples=64",
    "data.batch_size=16",
    "data.eval_batch_size=16",
    "data.transform=[{random_shift: {pixels: 1}}, random_flip, {random_erase: {size: 3}}, {gaussian_noise: 0.5}]",
    "model=mlp",
    "model.hidden=[8]",
    "train.steps=8",
    "train.eval_every=0",
]


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The losses of one device that takes the whole batch."""
    return train(tmp_path_factory.mktemp("runs") / "jit", *AUGMENTED, "strategy=jit").series("train/loss")


@pytest.mark.parametrize(
    "overrides",
    [
        ["strategy=pmap"],
        ["strategy=sharded"],
        ["strategy=pmap", "train.accumulate=4"],
        ["train.accumulate=2"],
        ["strategy=pmap", "train.steps_per_call=1"],
    ],
    ids=lambda overrides: " ".join(overrides),
)
def test_every_strategy_sees_the_same_augmented_examples(tmp_path, alone, overrides):
    found = train(tmp_path / "run", *AUGMENTED, *overrides).series("train/loss")
    np.testing.assert_allclose(found, alone, rtol=1e-5)
