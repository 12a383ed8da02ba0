"""A model with two heads over nested inputs, written in YAML alone: losses and metrics of each head."""

from __future__ import annotations

import jax
import numpy as np
import pytest

import framework
from framework import testing
from framework.errors import ConfigError
from framework.tasks.tracing import named_values
from framework.testing import message

EXPERIMENT = """# @package _global_
defaults:
  - override /model: serial
  - override /data: arrays
  - override /loss: weighted
model:
  layers:
    - branches: {layers: {image: [Flatten, {Dense: 8}], age: [{Dense: 4}]}}
    - Concatenate
    - Relu
    - heads: {layers: {digit: [{Dense: 3}], angle: [{Dense: 1}]}}
loss:
  losses:
    digit: {name: softmax_cross_entropy, on_head: digit, on_target: digit, ignore_index: -1}
    angle: {name: squared_error, on_head: angle, on_target: angle}
  weights: {angle: 0.5}
metrics:
  accuracy: {on_head: digit, on_target: digit}
  digit_loss: {name: softmax_cross_entropy, on_head: digit, on_target: digit, ignore_index: -1}
  angle_loss: {name: squared_error, on_head: angle, on_target: angle}
data:
  fields: {inputs: {image: pixels, age: age}, targets: {digit: digit, angle: angle}}
  batch_size: 16
train: {steps: 4, log_every: 2}
callbacks: {checkpoint: {}, progress: null, tensorboard: null}
"""

RNG = np.random.default_rng(0)
EXAMPLES = {
    "pixels": RNG.normal(size=(64, 4, 4)).astype(np.float32),
    "age": RNG.normal(size=(64, 2)).astype(np.float32),
    "digit": RNG.integers(0, 3, 64),
    "angle": RNG.normal(size=(64, 1)).astype(np.float32),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("heads")
    (folder / "experiment").mkdir()
    (folder / "experiment" / "two.yaml").write_text(EXPERIMENT)
    np.savez(folder / "sound.npz", **EXAMPLES)
    np.savez(folder / "missing.npz", **{**EXAMPLES, "digit": np.where(np.arange(64) % 4, EXAMPLES["digit"], -1)})
    np.savez(folder / "wrong.npz", **{**EXAMPLES, "digit": np.where(np.arange(64) == 40, 7, EXAMPLES["digit"])})
    return folder


def train(folder, *words, data="sound"):
    words = ["+experiment=two", f"data.train={folder}/{data}.npz", f"run.root={folder}/runs", *words]
    return framework.run(words, config_dir=folder)


def test_the_loss_is_the_weighted_sum_of_its_terms(folder):
    run = train(folder)
    for line in testing.records(run):
        for split in {tag.partition("/")[0] for tag in line if "loss" in tag}:
            terms = line[f"{split}/digit_loss"] + 0.5 * line[f"{split}/angle_loss"]
            assert line[f"{split}/loss"] == pytest.approx(terms, rel=1e-5)
    loaded = framework.load(run.directory)
    outputs = loaded({"image": EXAMPLES["pixels"][:5], "age": EXAMPLES["age"][:5]})
    assert jax.tree.map(np.shape, outputs) == {"digit": (5, 3), "angle": (5, 1)}


def test_devices_agree_and_a_weight_can_differ_between_members(folder):
    one, two = train(folder), train(folder, "strategy=pmap", "train.accumulate=2")
    assert {tag: two.metrics[tag] for tag in one.metrics if "perf" not in tag} == pytest.approx(
        {tag: value for tag, value in one.metrics.items() if "perf" not in tag}, rel=1e-4
    )
    members = train(folder, "strategy=vmapped", "strategy.members={loss.weights.angle: [0.5, 2.0]}").metrics
    assert members["train/loss/0"] == pytest.approx(one.metrics["train/loss"], rel=1e-4)
    assert members["train/loss/1"] > members["train/loss/0"]


def test_an_example_without_one_target_counts_for_the_other(folder):
    line = next(line for line in testing.records(train(folder, data="missing")) if line["step"] == 1)
    share = (line["train/loss"] - 0.5 * line["train/angle_loss"]) / line["train/digit_loss"]
    assert 0.5 < share < 1  # the share of the batch that has a digit


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["metrics.accuracy.on_head=digits"], "metrics.accuracy: there is no 'digits' among the outputs. Did you mean"),
        (["metrics.accuracy.on_target=x"], "metrics.accuracy: there is no 'x' among the targets. Known: angle, digit"),
        (["metrics.accuracy.on_head=1"], "metrics.accuracy.on_head: expected a name, found 1"),
        (["metrics.accuracy.on_head=angle", "metrics.accuracy.on_target=angle"], "the targets are real numbers"),
        (["loss.losses.digit.on_head=angle"], "loss: expected outputs [B, ..., K] of K ≥ 2 classes, found [16, 1]"),
        (["loss.weights.digits=2"], "loss.weights.digits: there is no loss 'digits'. Did you mean 'digit'?"),
        (["~loss.losses.digit.on_target"], "take one of several outputs and targets by on_head and on_target"),
        (["~data.fields.targets"], "the data give no targets: take other data, or a task that needs none"),
        (["~data.fields.inputs.age"], "there is no input 'age': found image"),
        (["+data.fields.angle=angle"], "a batch is {inputs: [B, ...] or nested, targets:"),
    ],
)
def test_what_does_not_fit_is_one_line(folder, words, text):
    with pytest.raises(ConfigError if "a batch is" not in text else Exception) as caught:
        train(folder, *words)
    assert text in message(caught)


def test_a_target_that_no_class_has_is_refused_before_the_run(folder):
    with pytest.raises(Exception, match=r"found the target 7, expected class numbers from 0 to 2") as caught:
        train(folder, data="wrong")
    message(caught)


def test_a_loss_of_data_without_targets_says_so():
    loss = named_values(lambda outputs, batch: outputs - batch["targets"], "loss 'mine' (acme 1.0)", "loss")
    with pytest.raises(ConfigError, match=r"fails: KeyError: 'targets'; the data give no targets") as caught:
        loss(np.zeros(3), {"inputs": np.zeros(3)})
    assert caught.value.key == "loss"
