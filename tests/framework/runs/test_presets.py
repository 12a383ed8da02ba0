"""Presets of `debug`: short runs of any experiment, and what they tell."""

from __future__ import annotations

import itertools

import jax
import numpy as np
import pytest

import framework
from framework import testing
from framework.api import DataPipeline
from framework.config.compose import compose
from framework.config.presets import total_steps
from framework.config.settings import Debug, Train
from framework.data.excerpts import FewBatches, FirstBatch
from framework.errors import ConfigError
from framework.runs.overfit import Course, suspicions, twins


@pytest.mark.parametrize(
    ("debug", "steps"),
    [
        (Debug(), 30),
        (Debug(limit=7), 7),
        (Debug(limit=70), 30),
        (Debug(overfit=100), 100),
        (Debug(overfit=100, limit=7), 7),
        (Debug(fast=True), 2),
        (Debug(fast=True, limit=1), 1),
    ],
)
def test_presets_decide_the_number_of_steps(debug, steps):
    assert total_steps(Train(steps=30), debug, 5) == steps
    assert total_steps(Train(epochs=6), debug, 5) == steps


def test_presets_hold_over_an_experiment_and_are_written_as_they_were_given():
    config = compose(["+experiment=mnist", "debug=fast", "probes=[norms]", "probes.norms.every=7"])
    every = config.values["probes"]["norms"]["every"], config.values["callbacks"]["checkpoint"]["every"]
    assert (*every, config.settings.train.eval_every) == (1, 1, 1)
    assert config.source["probes"]["norms"]["every"] == 7
    with pytest.raises(ConfigError, match="expected at least 1, found 0"):
        compose(["debug.limit=0"])


class Stream(DataPipeline):
    spec = {"inputs": jax.ShapeDtypeStruct((2, 1), np.float32)}  # noqa: RUF012
    steps_per_epoch, splits, source = 5, ("test",), "numbers"

    def train(self, seed, start=0):
        return ({"inputs": np.full((2, 1), seed + step, np.float32)} for step in itertools.count(start))

    def eval(self, split):
        return itertools.islice(self.train(100), 9)


def test_excerpts_of_a_stream_are_its_first_batches():
    one, few = FirstBatch(Stream(), 3), FewBatches(Stream(), 2)
    taken = [batch["inputs"][0, 0] for batch in (*itertools.islice(one.train(3, 8), 3), *one.eval("batch"))]
    assert taken == [3, 3, 3, 3]
    assert [batch["inputs"][0, 0] for batch in few.eval("test")] == [100, 101]
    assert next(few.train(3, 8))["inputs"][0, 0] == 11
    assert one.fingerprint() == few.fingerprint() == Stream().fingerprint()


def test_a_limited_run_is_short_and_goes_on_to_its_full_length(tmp_path):
    words = ["train.steps=12", "callbacks=[checkpoint]"]
    short = testing.train(tmp_path, *words, "debug.limit=3", "data.eval_batch_size=4")
    assert int(short.state.step) == 3
    evaluated = testing.series(short, "eval/accuracy") * 12  # 3 batches of 4 examples
    np.testing.assert_allclose(evaluated, np.round(evaluated), atol=1e-5)
    whole, reference = framework.resume(short.directory, ["debug=off"]), testing.train(tmp_path, *words)
    testing.assert_same_bits(whole.state, reference.state)


@pytest.mark.parametrize("strategy", ["jit", "vmapped"])
def test_a_fast_run_makes_one_step_of_everything_and_resumes(tmp_path, strategy):
    words = [f"strategy={strategy}", "callbacks=[checkpoint]", "probes=[norms,histograms]", "probes.norms.every=100"]
    run = testing.train(tmp_path, *words, "train.steps=500", "debug=fast")
    assert int(run.state.step.max()) == 2
    record = testing.run_record(run)
    assert (record["status"], record["resumed"]) == ("done", [1])
    assert sorted(path.name for path in (run.directory / "checkpoints").iterdir()) == ["1", "2"]
    tags = {step: {tag for line in testing.records(run) if line["step"] == step for tag in line} for step in (1, 2)}
    assert all({"train/loss", "eval/loss", "probe/norms/parameters"} <= tags[step] for step in tags)
    assert any((run.directory / "media").rglob("*"))


def test_a_batch_is_learnt_by_heart_and_the_run_ends(tmp_path):
    run = testing.train(tmp_path, "debug=overfit", "optimizer.learning_rate=0.03", "callbacks=[]")
    losses = testing.series(run, "train/loss")
    assert losses[-1] <= 0.05 * losses[0]
    assert int(run.state.step) == len(losses) < 1000
    reason = testing.run_record(run)["reason"]
    assert reason == (
        f"the batch is learnt by heart: train/loss went from {losses[0]:.4g} to {losses[-1]:.4g} in {len(losses)} steps"
    )
    assert "debug=overfit, " not in (run.directory / "run.log").read_text()
    with pytest.raises(ConfigError, match=r"what the run computes: debug.overfit \(1000 to its default\)"):
        framework.resume(run.directory, ["debug=off", "train.steps=2000"])


def test_what_keeps_a_model_from_learning_is_told(tmp_path):
    frozen = ["optimizer=groups", "optimizer.groups={4_Dense/*: freeze, *: sgd}"]
    run = testing.train(tmp_path, "debug.overfit=20", *frozen, "callbacks=[]")
    log = (run.directory / "run.log").read_text()
    assert "debug=overfit, train/loss went from " in log
    assert "4_Dense/W, 4_Dense/b never changed: frozen, without a gradient, or no part of the loss." in log


FALLING, FLAT = np.geomspace(2, 0.5, 100), np.full(100, 2.0)


@pytest.mark.parametrize(
    ("course", "texts"),
    [
        (Course(np.geomspace(2, 0.01, 100), 0.01), []),
        (Course(np.geomspace(2, 0.01, 100), 1.5), ["in evaluation mode the batch has the loss 1.5"]),
        (Course(FALLING, 0.5), ["still falling: allow more steps by debug.overfit=200"]),
        (Course(FALLING, 0.1), ["without noise the loss is 0.1: dropout or data.transform"]),
        (Course(FLAT, 2.0), ["the loss hardly moves: raise a/rate"]),
        (Course(FLAT + np.tile([0.0, 1.0], 50), 2.0), ["the loss rose in 51% of the steps: lower a/rate"]),
        (Course(np.r_[FALLING, np.full(100, 0.5)], 0.5), ["the loss stays there"]),
        (Course(FLAT - 4, -2.0), ["0 is no goal"]),
        (Course(FLAT, 2.0, is_constant=True), ["the outputs are the same for all", "hardly moves"]),
        (Course(FLAT, 2.0, twins=((0, 3),)), ["examples 0 and 3 of the batch", "hardly moves"]),
        (Course(FLAT, 2.0, unchanged=tuple("abcd")), ["a, b, c and 1 more never changed", "hardly moves"]),
    ],
)
def test_suspicions(course, texts):
    found = list(suspicions(course._replace(rates="a/rate")))
    assert len(found) == len(texts)
    assert all(text in line for text, line in zip(texts, found, strict=True))


def test_twins_are_examples_that_nothing_can_tell_apart():
    inputs = {"a": np.array([[1.0], [2.0], [1.0], [1.0]]), "b": np.array([0, 0, 0, 1])}
    assert twins({"inputs": inputs, "targets": np.array([5, 6, 7, 8])}) == ((0, 2),)
    assert twins({"inputs": inputs, "targets": np.array([5, 6, 5, 8])}) == ()
    assert twins({"inputs": inputs}) == ()
