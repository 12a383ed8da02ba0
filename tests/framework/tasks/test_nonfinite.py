"""Numbers that are not finite: what stops, what is undone, where a run goes back to, and what is never saved."""

from __future__ import annotations

import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

import framework
from framework.api import TrainState
from framework.checkpoints.folder import steps
from framework.errors import ConfigError, NumericalError
from framework.steps.rng import root_key
from framework.tasks.nonfinite import ROLLBACKS, Guarded, finite_leaves, guarded, spoilt_leaf
from framework.tasks.supervised import supervised
from framework.testing import assert_same_bits, records, run_record
from framework_losses.losses import squared_error
from framework_stax.layers import BatchNorm, Dense
from framework_stax.stack import serial

FAULTY = '''
import jax
import jax.numpy as jnp
import numpy as np
from framework_data.synthetic import synthetic


class Faulty:
    """Batches of which some hold NaN, or numbers at which a gradient alone is none."""

    def __init__(self, bad, value):
        self._data, self._bad, self._value = synthetic(shape=[6], examples=64, batch_size=16, noise=3.0), bad, value

    def __getattr__(self, name):
        if name in ("arrays", "rows"):
            raise AttributeError(name)
        return getattr(self._data, name)

    def train(self, seed, start=0):
        for step, batch in enumerate(self._data.train(seed, start), start + 1):
            filled = np.full_like(batch["inputs"], self._value)
            yield {**batch, "inputs": filled} if step in self._bad else batch


def faulty(bad: list[int], value: float = float("nan")):
    return Faulty(bad, value)


def steep():
    def loss(outputs, batch):
        # At inputs of 0 the root is 0, and its derivative infinite.
        inputs, log_probs = batch["inputs"], jax.nn.log_softmax(outputs)
        chosen = jnp.take_along_axis(log_probs, batch["targets"][:, None], axis=1)[:, 0]
        return jnp.sqrt(jnp.abs(inputs[:, 0] * outputs[:, 0])) - chosen

    return loss
'''

BASE = [
    "data=faulty",
    "model=mlp",
    "model.hidden=[8]",
    "model.dropout=0.25",
    "train.steps=20",
    "train.log_every=1",
    "train.eval_every=6",
    "callbacks.checkpoint.keep=0",
]


@pytest.fixture
def train(tmp_path, install):
    install(
        "faults",
        {"framework.data": {"faulty": "bad_batches:faulty"}, "framework.losses": {"steep": "bad_batches:steep"}},
        {"bad_batches.py": FAULTY},
    )

    def run(name, *overrides):
        return framework.run([*BASE, f"run.dir={tmp_path / name}", *overrides])

    return run


def points(folder):
    """Read (step, tag) of every scalar by TensorBoard, in order."""
    events = [event for path in sorted(folder.glob("*/events.*")) for event in EventFileLoader(str(path)).Load()]
    tagged = [(event.step, value.tag) for event in events for value in event.summary.value]
    return [point for point in tagged if point[1].startswith(("train/", "eval/"))]


def is_finite(path):
    with np.load(path / "arrays.npz") as file:
        manifest = json.loads((path / "manifest.json").read_text())["leaves"]
        real = [name for name in file if manifest[name]["dtype"] == "float32"]
        return all(np.isfinite(file[name].view(np.float32)).all() for name in real)


def state_of(params):
    return TrainState(jnp.int32(0), params, (), (), jax.random.key(0))


@pytest.mark.parametrize("cut", ["train.steps_per_call=1", "train.steps_per_call=4"])
@pytest.mark.parametrize("strategy", ["jit", "pmap", "sharded"])
def test_a_bad_update_is_undone_and_counted(train, strategy, cut):
    result = train("run", "nan_policy=skip", "data.bad=[1,5,6,13]", f"strategy={strategy}", cut)
    lines = [line for line in records(result.directory) if line["step"]]
    counts = [line["train/skipped"] for line in lines]
    assert counts == [sum(bad <= step for bad in (1, 5, 6, 13)) for step in range(1, 21)]
    assert [line["step"] for line in lines if line["train/loss"] == "NaN"] == [1, 5, 6, 13]
    assert all(math.isfinite(result.metrics[tag]) for tag in ("train/loss", "eval/loss"))
    assert int(result.state.step) == 20


def task(optimizer):
    model = serial(Dense(8), BatchNorm(), Dense(2))
    return supervised(model, squared_error(), optimizer, {})


def batches():
    random = np.random.default_rng(0)
    made = [
        {
            "inputs": random.normal(size=(4, 3)).astype(np.float32),
            "targets": random.normal(size=(4, 2)).astype(np.float32),
        }
        for _ in range(8)
    ]
    return [
        {**batch, "inputs": batch["inputs"] * np.float32(np.nan)} if index in (2, 5) else batch
        for index, batch in enumerate(made)
    ]


@pytest.mark.parametrize("optimizer", [optax.adam(0.1), optax.lion(0.1), optax.sgd(0.1, momentum=0.9)])
def test_it_is_the_run_without_those_updates(optimizer):
    with jax.numpy_dtype_promotion("standard"):  # which optax needs
        check_it_is_the_run_without_those_updates(task(optimizer), batches())


def check_it_is_the_run_without_those_updates(plain, data):
    safe = guarded(plain)
    expected, found = plain.init(root_key(0), data[0]), safe.init(root_key(0), data[0])
    for index, batch in enumerate(data):
        found, means = jax.jit(safe.train_step)(found, batch)
        if index in (2, 5):
            expected = expected._replace(step=expected.step + 1)
        else:
            expected, _ = jax.jit(plain.train_step)(expected, batch)
        assert float(means["skipped"].total[0]) == sum(bad <= index for bad in (2, 5))
    kept = found.opt_state
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6),
        found._replace(opt_state=kept.inner, key=()),
        expected._replace(key=()),
    )
    assert (int(kept.skipped), int(kept.in_row)) == (2, 0)


@pytest.mark.parametrize("checkpoint_every", [0, 3])
def test_going_back_ends_where_skipping_does_with_one_line_a_step(train, checkpoint_every):
    chosen = ["data.bad=[2,8,17]", f"train.checkpoint_every={checkpoint_every}"]
    skipped, back = train("skip", "nan_policy=skip", *chosen), train("back", "nan_policy=rollback", *chosen)
    assert_same_bits(
        back.state._replace(opt_state=back.state.opt_state.inner),
        skipped.state._replace(opt_state=skipped.state.opt_state.inner),
    )
    assert records(back.directory) == records(skipped.directory)
    assert sorted(points(back.directory)) == sorted(points(skipped.directory))
    assert len(set(points(back.directory))) == len(points(back.directory))
    log = (back.directory / "run.log").read_text()
    came_back = [
        line.split("going back to step ")[1].split(",")[0] for line in log.splitlines() if "going back" in line
    ]
    assert came_back == (["0", "6", "15"] if checkpoint_every else ["0", "0", "0"])
    assert sorted(int(step) for step in back.state.opt_state.barred) == [2, 8, 17]


@pytest.mark.parametrize("policy", ["skip", "rollback"])
def test_a_resumed_run_remembers_what_it_left_out(train, policy):
    chosen = [f"nan_policy={policy}", "data.bad=[5,12]"]
    straight = train("straight", *chosen)
    for stop in (4, 6, 9, 14):
        folder = train(str(stop), *chosen, f"train.checkpoint_every={stop}").directory
        for step in steps(folder / "checkpoints"):
            if step > stop:
                (folder / "checkpoints" / str(step)).rename(folder / "checkpoints" / f"{step}.damaged")
        resumed = framework.resume(folder)
        assert_same_bits(resumed.state, straight.state)
        assert records(resumed.directory) == records(straight.directory)


@pytest.mark.parametrize(
    ("policy", "overrides", "text"),
    [
        ("skip", ["data.bad=[7,8,9]", "train.skips_in_row=3"], "3 updates in a row are not finite, the last at step 9"),
        (
            "rollback",
            ["data.bad=[5,7,9,11]"],
            "step 11 is not finite, after going back 3 times, for steps 5, 7, 9; `framework replay .*/step-11` finds ",
        ),
        ("stop", ["data.bad=[7]"], "train/loss is nan at step 7"),
    ],
)
def test_what_goes_on_failing_ends_with_the_last_good_checkpoint(train, tmp_path, policy, overrides, text):
    with pytest.raises(NumericalError, match=text) as caught:
        train("run", f"nan_policy={policy}", "train.checkpoint_every=2", *overrides)
    assert caught.value.exit_code == 6
    saved = steps(tmp_path / "run" / "checkpoints")
    assert saved and all(is_finite(tmp_path / "run" / "checkpoints" / str(step)) for step in saved)
    assert run_record(tmp_path / "run")["exit_code"] == 6


def test_two_bad_batches_with_a_good_one_between_are_not_in_a_row(train):
    result = train("run", "nan_policy=skip", "data.bad=[7,8,10,11]", "train.skips_in_row=3")
    assert result.metrics["train/skipped"] == 4


GRADIENT = ["loss=steep", "data.value=0", "data.bad=[6]", "model.dropout=0", "train.steps=6"]


def test_a_gradient_that_alone_is_not_finite_is_found_before_it_is_saved(train, tmp_path):
    with pytest.raises(NumericalError, match=r"params/.* is not finite after step 6, though the losses were"):
        train("run", *GRADIENT, "train.checkpoint_every=5", "train.eval_every=0")
    assert steps(tmp_path / "run" / "checkpoints") == [5]


def test_a_gradient_that_alone_is_not_finite_is_skipped(train):
    result = train("run", *GRADIENT, "nan_policy=skip")
    assert result.metrics["train/skipped"] == 1 and math.isfinite(result.metrics["train/loss"])


def test_who_ignores_it_still_has_no_bad_checkpoint(train, capfd):
    result = train("run", "data.bad=[5]", "nan_policy=ignore", "train.checkpoint_every=4")
    assert int(result.state.step) == 20
    assert steps(result.directory / "checkpoints") == [4]
    assert "params/1_Dense/W is not finite after step 8: this state is not saved" in capfd.readouterr().err


def test_an_average_of_parameters_goes_with_it(train):
    result = train("run", "data.bad=[5]", "nan_policy=skip", "ema=0.9")
    assert math.isfinite(result.metrics["eval/loss"])
    assert isinstance(result.state.opt_state.inner, Guarded)
    framework.load(result.directory)(np.zeros([1, 6], np.float32))


@pytest.mark.parametrize("policy", ["skip", "rollback"])
def test_members_have_their_own_way(train, policy):
    with pytest.raises(ConfigError, match=f"nan_policy: {policy} is not for members"):
        train("run", "data.bad=[]", "strategy=vmapped", f"nan_policy={policy}")


def test_a_number_that_never_was_finite_spoils_nothing():
    first = state_of({"a": jnp.array([jnp.inf, 1.0]), "b": jnp.ones(2), "c": jnp.arange(2)})
    flags = finite_leaves(first)
    assert spoilt_leaf(flags, first) is None
    assert spoilt_leaf(flags, first._replace(params={**first.params, "a": jnp.full(2, jnp.nan)})) is None
    assert spoilt_leaf(flags, first._replace(params={**first.params, "b": jnp.array([0, jnp.nan])})) == "params/b"


def test_no_more_rollbacks_are_promised_than_the_state_can_hold():
    state = guarded(task(optax.sgd(0.1))).init(root_key(0), batches()[0])
    assert state.opt_state.barred.shape == (ROLLBACKS,)
