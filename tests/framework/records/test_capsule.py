"""Capsules: the first step that is not finite, with the state from before it, under every strategy and cut."""

from __future__ import annotations

import json

import jax
import numpy as np
import pytest

import framework
from framework.errors import ConfigError, NumericalError, StorageError
from framework.records import capsule
from framework.testing import assert_same_bits, message, records, train

PLUGINS = """
import jax
import jax.numpy as jnp
import numpy as np

from framework.api import PipelineWrapper
from framework_data.synthetic import synthetic


class Poisoned(PipelineWrapper):
    def __init__(self, example):
        super().__init__(synthetic(shape=[6], examples=64, batch_size=16, noise=3.0))
        self.poisoned = dict(super().arrays)
        inputs = np.array(self.poisoned["inputs"])
        if example >= 0:
            inputs[example, 2] = np.nan
        self.poisoned["inputs"] = inputs

    @property
    def arrays(self):
        return self.poisoned


class Faulty:
    def __init__(self, bad, value):
        self._data, self._bad, self._value = synthetic(shape=[6], examples=64, batch_size=16, noise=3.0), bad, value

    def __getattr__(self, name):
        if name in ("arrays", "rows"):
            raise AttributeError(name)
        return getattr(self._data, name)

    def train(self, seed, start=0):
        for step, batch in enumerate(self._data.train(seed, start), start + 1):
            yield {**batch, "inputs": np.full_like(batch["inputs"], self._value)} if step in self._bad else batch


def poisoned(example: int = 17):
    return Poisoned(example)


def faulty(bad: list[int], value: float = float("nan")):
    return Faulty(bad, value)


def steep():
    def loss(outputs, batch):
        # At inputs of 0 the root is 0, and its derivative infinite.
        chosen = jnp.take_along_axis(jax.nn.log_softmax(outputs), batch["targets"][:, None], axis=1)[:, 0]
        return jnp.sqrt(jnp.abs(batch["inputs"][:, 0] * outputs[:, 0])) - chosen

    return loss
"""

BASE = ["model=mlp", "model.hidden=[8]", "model.dropout=0.25", "train.eval_every=0", "train.log_every=0"]


@pytest.fixture(autouse=True)
def plugins(install):
    groups = {"framework.data": {"poisoned": "acme_bad:poisoned", "faulty": "acme_bad:faulty"}}
    groups["framework.losses"] = {"steep": "acme_bad:steep"}
    install("acme", groups, {"acme_bad.py": PLUGINS})


def failed(folder, *words):
    with pytest.raises(NumericalError) as caught:
        framework.run([*BASE, f"run.dir={folder}", *words])
    text = message(caught)
    assert f"`framework replay {folder}` finds the layer, the operation and the examples" in text
    return text


def reference(folder, step, *words):
    """The last checkpoint of a run that ends before the fault."""
    framework.run([*BASE, f"run.dir={folder}", *words, f"train.steps={step}", f"train.checkpoint_every={step}"])
    return folder / "checkpoints" / str(step)


def leaves(checkpoint):
    """Digests by path."""
    return json.loads((checkpoint / "manifest.json").read_text())["leaves"]


@pytest.mark.parametrize(
    ("strategy", "per_call", "bad"),
    [("jit", 1, 9), ("jit", 7, 313), ("pmap", 1, 1), ("pmap", 7, 313), ("sharded", 7, 9), ("sharded", 1, 313)],
)
def test_the_state_is_that_from_before_the_step(tmp_path, strategy, per_call, bad):
    words = ["data=faulty", f"strategy={strategy}", f"train.steps_per_call={per_call}"]
    failed(tmp_path / "run", *words, f"data.bad=[{bad}]", "train.steps=1000")
    kept = tmp_path / "run" / "nan" / f"step-{bad}"
    assert sorted(path.name for path in kept.iterdir()) == ["batch.npz", "capsule.json", "checkpoints", "config.yaml"]
    facts = capsule.read_facts(kept)
    assert (facts.step, facts.strategy, facts.devices) == (bad, strategy, {"pmap": 2, "sharded": 2}.get(strategy, 1))
    with np.load(kept / "batch.npz", allow_pickle=False) as file:
        assert file["batch/inputs"].shape == (16, 6) and np.isnan(file["batch/inputs"]).all()
    if bad > 1:
        sound = reference(tmp_path / "sound", bad - 1, *words, "data.bad=[]")
        assert leaves(kept / "checkpoints" / str(bad - 1)) == leaves(sound)
    assert facts.trail[-1]["step"] == bad and np.isnan(facts.trail[-1]["loss"])
    assert all(np.isfinite(list(entry.values())).all() for entry in facts.trail[:-1])


def test_a_gradient_that_fails_before_the_loss_is_found_at_its_own_step(tmp_path):
    words = ["data=faulty", "data.value=0", "loss=steep", "model.dropout=0", "train.steps=30"]
    text = failed(tmp_path / "run", *words, "data.bad=[6]")
    assert "train/loss is nan at step 7" in text and text.count("in step 6") == 1
    facts = capsule.read_facts(capsule.find(tmp_path / "run"))
    assert facts.step == 6 and "is not finite" in facts.what and np.isfinite(facts.trail[-1]["loss"])


def test_where_an_evaluation_fails_first_the_step_that_would_follow_is_kept(tmp_path):
    hopeless = ["optimizer=sgd", "optimizer.learning_rate=1e30", "model.dropout=0"]
    text = failed(tmp_path / "run", "data=faulty", "data.bad=[]", *hopeless, "train.steps=1")
    assert "eval/loss is nan after step 1" in text and "in step 2, or go on" in text
    facts = capsule.read_facts(capsule.find(tmp_path / "run"))
    assert (facts.step, facts.what, len(facts.trail)) == (2, "train/loss is nan", 2)


def test_examples_in_memory_are_kept_with_their_indices(tmp_path):
    failed(tmp_path / "run", "data=poisoned", "train.steps=8")
    kept = capsule.find(tmp_path / "run")
    with np.load(kept / "batch.npz", allow_pickle=False) as file:
        bad = np.isnan(file["batch/inputs"]).any(axis=1)
        assert file["rows"][bad].tolist() == [17]


@pytest.mark.parametrize("cut", ["train.steps_per_call=1", "train.steps_per_call=3"])
def test_a_run_that_goes_on_without_an_example_is_the_one_that_never_had_it(tmp_path, cut):
    words = ["data=poisoned", "data.example=40", "train.steps=8", "train.checkpoint_every=1", cut]
    failed(tmp_path / "run", *words)
    assert (tmp_path / "run" / "checkpoints").exists()
    resumed = framework.resume(tmp_path / "run", ["data.exclude=[40]"])
    never = framework.run([*BASE, *words, "data.exclude=[40]", f"run.dir={tmp_path}/never"])
    assert_same_bits(resumed.state, never.state)
    assert records(resumed.directory)[-1] == records(never.directory)[-1]


@pytest.mark.parametrize("given", ["[64]", "[-1]", "[a]", "3", str(list(range(64))), str(list(range(60)))])
def test_what_cannot_be_left_out_is_refused(tmp_path, given):
    with pytest.raises(ConfigError, match=r"data\.exclude: "):
        framework.run([*BASE, "data=poisoned", f"data.exclude={given}", f"run.dir={tmp_path}/run"])


def test_a_stream_has_no_examples_to_leave_out(tmp_path):
    with pytest.raises(ConfigError, match=r"data\.exclude: the data are a stream"):
        framework.run([*BASE, "data=faulty", "data.bad=[]", "data.exclude=[1]", f"run.dir={tmp_path}/run"])


def test_skipping_keeps_the_first_step_alone(tmp_path):
    words = ["data=faulty", "data.bad=[3,5]", "nan_policy=skip", "train.steps=8", "train.log_every=4"]
    framework.run([*BASE, f"run.dir={tmp_path}/run", *words])
    assert [path.name for path in (tmp_path / "run" / "nan").iterdir()] == ["step-3"]
    log = (tmp_path / "run" / "run.log").read_text()
    assert log.count("framework replay") == 1 and log.count("undone, since") == 2


def test_of_members_the_first_that_freezes_is_kept(tmp_path):
    words = ["strategy=vmapped", "strategy.members={seed: 0-3, optimizer.learning_rate: [1e-3, 1e-3, 1e38, 1e-3]}"]
    result = train(tmp_path, *words, "optimizer=sgd", "train.steps=12", "train.steps_per_call=4", "model.hidden=[8]")
    assert result.metrics["train/live_members"] == 3
    facts = capsule.read_facts(kept := capsule.find(result.directory))
    assert facts.member == 2 and kept.name == f"step-{facts.step}"
    frozen = jax.tree.map(lambda leaf: leaf[2], result.state)
    assert_same_bits(capsule.read_state(kept, facts, frozen), frozen)


@pytest.mark.parametrize("strategy", ["jit", "pmap", "eager"])
def test_debug_nans_tells_the_step_and_keeps_it(tmp_path, strategy):
    words = ["data=faulty", "data.bad=[4]", f"strategy={strategy}", "debug=nans", "train.steps_per_call=7"]
    text = failed(tmp_path / "run", *words, "train.steps=9")
    assert text.startswith("step 4: invalid value (nan) encountered in ") and ".;" not in text
    assert capsule.read_facts(capsule.find(tmp_path / "run")).step == 4


def test_it_can_be_turned_off(tmp_path):
    with pytest.raises(NumericalError, match="train/loss is nan at step 2; find the operation with debug=nans"):
        framework.run([*BASE, "data=faulty", "data.bad=[2]", "run.recorder=false", f"run.dir={tmp_path}/run"])
    assert not (tmp_path / "run" / "nan").exists()


def test_what_holds_no_capsule_says_so(tmp_path):
    with pytest.raises(StorageError, match="holds no capsule"):
        capsule.find(tmp_path)
