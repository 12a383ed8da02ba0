"""The strategy `vmapped`: each member equals its run alone; one that fails is frozen; what cannot differ is named."""

from __future__ import annotations

import functools

import jax
import numpy as np
import pytest

import framework
from framework import testing
from framework.errors import ConfigError, NumericalError, StorageError
from framework.testing import records, run_record, series

WORDS = ["train.steps=10", "train.log_every=1", "train.eval_every=6", "callbacks=[]"]
SWEEP = "strategy.members={seed: 3-5, optimizer.learning_rate: [1e-3, 3e-3, 1e-2]}"
NOISY = ["model.dropout=0.25", "schedule=warmup_cosine"]


@pytest.fixture
def train(tmp_path):
    return functools.partial(testing.train, tmp_path, *WORDS)


def assert_is_solo(together, member, solo, *, rtol=2e-5):
    """The records and the state of a member are those of a run alone; means over members are not looked at."""
    tags = sorted({tag for record in records(solo) for tag in record} - {"step", "progress/epoch", "progress/examples"})
    assert {"train/loss", "eval/loss", "eval/accuracy", "train/learning_rate"} <= set(tags)
    for tag in tags:
        np.testing.assert_allclose(series(together, f"{tag}/{member}"), series(solo, tag), rtol, 1e-6, err_msg=tag)
    own = jax.tree.map(lambda leaf: leaf[member], together.state.params)
    for left, right in zip(jax.tree.leaves(own), jax.tree.leaves(solo.state.params), strict=True):
        np.testing.assert_allclose(left, right, rtol=1e-4, atol=1e-6)
    assert together.state.key[member] == solo.state.key


@pytest.mark.parametrize("steps_per_call", ["auto", 1])
def test_each_member_equals_its_run_alone(train, steps_per_call):
    together = train("strategy=vmapped", SWEEP, *NOISY, f"train.steps_per_call={steps_per_call}")
    assert all(len(leaf) == 3 for leaf in jax.tree.leaves(together.state))
    for member, rate in enumerate([1e-3, 3e-3, 1e-2]):
        solo = train(f"seed={3 + member}", f"optimizer.learning_rate={rate}", *NOISY)
        assert_is_solo(together, member, solo)
    for tag in ("train/loss", "eval/accuracy"):
        each = [series(together, f"{tag}/{member}") for member in range(3)]
        np.testing.assert_allclose(series(together, tag), np.mean(each, axis=0), rtol=1e-6)


LAYERS = "model.layers=[Flatten, {Dropout: %s}, {Dense: 10}]"
NOISE = "data.transform=[{gaussian_noise: {scale: %s}}]"


@pytest.mark.parametrize(
    ("key", "values", "setting", "chosen"),
    [
        ("optimizer.weight_decay", [0.0, 0.5], "optimizer.weight_decay=%s", ["optimizer=adamw"]),
        ("schedule.end_value", [1e-4, 1e-3], "schedule.end_value=%s", ["schedule=warmup_cosine"]),
        ("loss.smoothing", [0.0, 0.2], "loss.smoothing=%s", []),
        ("model.layers.1.Dropout", [0.25, 0.5], LAYERS, ["model=serial", "~model.hidden"]),
        ("data.transform.0.gaussian_noise.scale", [0.1, 1.0], NOISE, ["data.shape=[4,4,1]"]),
    ],
)
def test_any_number_that_is_traced_can_differ(train, key, values, setting, chosen):
    together = train("strategy=vmapped", f"strategy.members={{{key}: {values}}}", *chosen, setting % 0.3)
    assert_is_solo(together, 1, train(*chosen, setting % values[1]))


def test_averages_and_parts_of_batches_are_each_members_own(train):
    chosen = ["ema=0.9", "train.accumulate=2", "model.dropout=0.25"]
    together = train("strategy=vmapped", SWEEP, *chosen, "callbacks=[checkpoint]")
    solo = train("seed=4", "optimizer.learning_rate=3e-3", *chosen)
    assert_is_solo(together, 1, solo)
    inputs = np.ones([2, 6], np.float32)
    np.testing.assert_allclose(framework.load(together.directory, member=1)(inputs), solo.model(inputs), 1e-4, 1e-5)


@pytest.mark.parametrize(
    ("members", "seed", "seeds"),
    [("2", 5, [5, 6]), ("{seed: 7-9}", 0, [7, 8, 9]), ("{optimizer.b1: [0.8, 0.9], seed: 4}", 0, [4, 4]),
     ("{optimizer.b1: [0.8, 0.9]}", 6, [6, 6]), ("{optimizer: {b1: [0.8, 0.9], b2: 0.99}}", 1, [1, 1])],
)  # fmt: skip
def test_seeds_are_counted_listed_or_the_runs(train, members, seed, seeds):
    result = train("strategy=vmapped", f"strategy.members={members}", f"seed={seed}", "train.steps=1")
    assert [jax.random.key_data(key).tolist() for key in result.state.key] == [[0, each] for each in seeds]
    rows = run_record(result)["members"]
    assert [row["values"]["seed"] for row in rows] == seeds


@pytest.mark.parametrize("debug", ["keys", "transfers"])
def test_members_pass_under_the_switches_that_watch_keys_and_transfers(train, debug):
    chosen = ["strategy=vmapped", "strategy.members=2", "train.steps=3", "model.dropout=0.25"]
    reference, result = train(*chosen), train(*chosen, f"debug={debug}")
    np.testing.assert_allclose(series(result, "train/loss/1"), series(reference, "train/loss/1"), rtol=1e-5)


def test_in_a_shared_order_all_see_the_data_of_the_runs_seed(train):
    together = train("strategy=vmapped", "strategy.members=2", "strategy.order=shared", "seed=3")
    assert_is_solo(together, 0, train("seed=3"))
    other = train("seed=4")
    assert abs(series(together, "train/loss/1") - series(other, "train/loss")).max() > 1e-3


def test_members_on_two_devices_lie_apart_and_compute_the_same(train):
    one = train("strategy=vmapped", "strategy.members=4", *NOISY)
    two = train("strategy=vmapped", "strategy.members=4", "strategy.devices=2", *NOISY)
    for leaf in jax.tree.leaves(two.state):
        assert [shard.data.shape[0] for shard in leaf.addressable_shards] == [2, 2]
    assert "devices:    2 of 2 × cpu" in (two.directory / "run.log").read_text()
    for member in range(4):
        tag = f"train/loss/{member}"
        np.testing.assert_allclose(series(two, tag), series(one, tag), rtol=1e-5)


def test_how_a_run_is_cut_changes_no_bit_nor_does_reading_batches_from_a_stream(train):
    chosen = ["strategy=vmapped", "strategy.members=2", "model.dropout=0.25", "train.eval_every=0"]
    whole, cut = train(*chosen), train(*chosen, "train.steps_per_call=3")
    for other in (cut, train(*chosen, "train.resident_mib=0")):
        for left, right in zip(jax.tree.leaves(other.state.params), jax.tree.leaves(whole.state.params), strict=True):
            np.testing.assert_array_equal(left, right)


def test_a_resumed_run_has_the_bits_of_one_that_was_not_stopped(train):
    chosen = ["strategy=vmapped", "strategy.members={optimizer.learning_rate: [1e-3, 1e38, 1e-2]}", "optimizer=sgd"]
    whole, part = train(*chosen), train(*chosen, "train.steps=4", "callbacks=[checkpoint]")
    resumed = framework.resume(part.directory, ["train.steps=10"])
    assert resumed.state.step.tolist() == whole.state.step.tolist() == [10, 1, 10]
    for left, right in zip(jax.tree.leaves(resumed.state.params), jax.tree.leaves(whole.state.params), strict=True):
        np.testing.assert_array_equal(left, right)
    with pytest.raises(ConfigError, match=r"resume would change .* strategy.members \("):
        framework.resume(part.directory, ["train.steps=12", "strategy.members=3"])


@pytest.mark.parametrize("steps_per_call", ["auto", 1])
def test_a_member_whose_loss_is_not_finite_is_frozen_and_the_others_go_on(train, capsys, steps_per_call):
    chosen = ["optimizer=sgd", f"train.steps_per_call={steps_per_call}", "metrics+=confusion"]
    members = "strategy.members={optimizer.learning_rate: [1e-2, 1e38, 1e-1]}"
    together = train("strategy=vmapped", members, *chosen)
    for member, rate in ((0, 1e-2), (2, 1e-1)):
        assert_is_solo(together, member, train(*chosen, f"optimizer.learning_rate={rate}"))
    assert together.state.step.tolist() == [10, 1, 10]
    assert all(np.isfinite(leaf[1]).all() for leaf in jax.tree.leaves(together.state.params))
    assert len(series(together, "train/loss/1")) == 1
    assert "eval/loss/1" not in together.metrics
    assert together.metrics["eval/loss"] == pytest.approx(
        (together.metrics["eval/loss/0"] + together.metrics["eval/loss/2"]) / 2
    )
    assert series(together, "train/live_members").tolist() == [3] + [2] * 9
    rows = run_record(together)["members"]
    assert [row["frozen_at_step"] for row in rows] == [None, 2, None]
    assert rows[2]["values"] == {"seed": 0, "optimizer.learning_rate": 0.1}
    assert rows[2]["metrics"]["eval/loss"] == together.metrics["eval/loss/2"]
    line = next(line for line in capsys.readouterr().err.splitlines() if "frozen at step 2" in line)
    assert line.split()[:3] == ["1", "0", "1e+38"]


def test_only_when_every_member_has_failed_does_the_run(train):
    members = "strategy.members={optimizer.learning_rate: [1e38, 1e37]}"
    with pytest.raises(NumericalError, match=r"train/loss is .* at step \d"):
        train("strategy=vmapped", members, "optimizer=sgd", "train.log_every=5")


def test_a_member_can_be_loaded_as_a_function(train):
    result = train("strategy=vmapped", SWEEP, "callbacks=[checkpoint]")
    inputs = np.random.default_rng(0).normal(size=(5, 6)).astype(np.float32)
    outputs = [framework.load(result.directory, member=member)(inputs) for member in range(3)]
    np.testing.assert_array_equal(outputs[0], result.model(inputs))
    np.testing.assert_allclose(outputs[2], train("seed=5", "optimizer.learning_rate=1e-2").model(inputs), 1e-4, 1e-5)
    assert framework.load(result.directory, member=2).config["optimizer"]["learning_rate"] == 0.01
    with pytest.raises(StorageError, match="holds 3 members, counted from 0; there is no 3"):
        framework.load(result.directory, member=3)


@pytest.mark.parametrize(
    ("members", "text"),
    [
        ("{seed: [0, 1], optimizer.b1: [0.8, 0.9, 0.95]}", "'seed' has 2 values and 'optimizer.b1' 3"),
        ("{seed: 3}", "expected a number of seeds, or a list of numbers for some key"),
        ("0", "strategy.members: expected at least 1, found 0"),
        ("{seed: [1, -1]}", "strategy.members.seed: expected integers from 0"),
        ("{seed: [1.5, 2]}", "strategy.members.seed: expected integers from 0"),
        ("{optimizer.b1: [high, low]}", "strategy.members.optimizer.b1: expected numbers, found 'high'"),
        ("{train.steps: [10, 20]}", "strategy.members.train.steps: expected seed, or a number of model"),
        ("{data.batch_size: [16, 8]}", "strategy.members.data.batch_size: expected seed"),
        ("{model.classes: [10, 12]}", "strategy.members.model.classes: it cannot differ in one program"),
        (
            "{optimizer.learning_rate: [0.1, nan]}",
            "members.optimizer.learning_rate: expected float, found nan",
        ),
        ("{optimizer.learning_rate: [0.1, -1]}", "strategy.members.optimizer.learning_rate: value of schedule"),
        ("{optimizer.b1: [0.9, 2]}", "strategy.members.optimizer.b1: b1 of optimizer 'adam' should be"),
        (
            "{model.dropuot: [0.1, 0.2]}",
            "strategy.members.model.dropuot: model 'mlp' (framework 0.1.0) has no option",
        ),
        ("{model.dropout: [0.1, 1.5]}", "strategy.members.model.dropout: expected float from 0 to below 1, found 1.5"),
        ("{model.hidden.5: [8, 16]}", "strategy.members.model.hidden.5: the config has no place for it"),
        ("{model.hidden.0: [8, 16]}", "strategy.members.model.hidden.0: it cannot differ in one program"),
        ("{schedule.value: [0.1, 0.2], optimizer.learning_rate: [1, 2]}", "learning_rate: nothing depends on it"),
    ],
)
def test_what_members_cannot_be_is_one_line(train, tmp_path, members, text):
    with pytest.raises(ConfigError) as caught:
        train("strategy=vmapped", f"strategy.members={members}")
    assert text in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "(set in " not in str(caught.value)  # the members were given on the command line
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("devices", "text"), [(3, "3 asked for, and there are 2"), (2, "3 members do not divide over 2")]
)
def test_devices_that_do_not_fit_are_one_line(train, devices, text):
    with pytest.raises(ConfigError, match=text):
        train("strategy=vmapped", "strategy.members=3", f"strategy.devices={devices}")
