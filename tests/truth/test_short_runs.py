"""Short runs evaluate to what they learnt."""

from __future__ import annotations

from tests.truth.runs import train


def test_batch_normalization_evaluates_a_short_run_as_it_trained(tmp_path):
    """Averages that begin at 0 and 1 with momentum 0.99 would hold half of that after 60 batches."""
    run = train(
        tmp_path / "run",
        *["data=digits", "data.size=8", "model=serial", "train.steps=60", "train.eval_every=0", "seed=0"],
        "model.layers=[Flatten, {Dense: 32}, BatchNorm, Relu, {Dense: 10}]",
        "optimizer.learning_rate=0.005",
    )
    assert run.last("eval/accuracy") > 0.85
