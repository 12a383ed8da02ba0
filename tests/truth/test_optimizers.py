"""The first updates of every family of optimizers and of every schedule are those of plain optax."""

from __future__ import annotations

import json

import jax
import numpy as np
import optax
import pytest

import framework
from framework.errors import FrameworkError
from framework.steps.rng import root_key, stream
from tests.truth.runs import save

STEPS = 20
FEATURES, CLASSES = 5, 3
RANDOM = np.random.default_rng(0)
INPUTS = RANDOM.normal(size=(16, FEATURES)).astype(np.float32)
TARGETS = RANDOM.integers(0, CLASSES, 16).astype(np.int32)
RATE = 0.02


SGD = ["optimizer=sgd", f"optimizer.learning_rate={RATE}"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """One batch that is the whole training split, so that the order of examples does not matter."""
    path = save(tmp_path_factory.mktemp("data"), "train", inputs=INPUTS, targets=TARGETS)
    return [
        *["data=arrays", f"data.train={path}", f"data.test={path}", "data.batch_size=16", "data.eval_batch_size=16"],
        *["model=logistic_regression", f"model.classes={CLASSES}", f"train.steps={STEPS}", "train.log_every=1"],
        *["train.eval_every=0", "callbacks=[checkpoint]"],
    ]


def assert_as_optax(directory, overrides, optimizer, **options):
    """Compare a run's final parameters with those of the same updates in plain JAX, from the same initial ones."""
    result = framework.run([*overrides, f"run.dir={directory / 'run'}"], **options)
    params = result.model.model.init(stream(root_key(0), "init"), (-1, FEATURES))[1]
    state = optimizer.init(params)

    def loss(params):
        _, (W, b) = params
        return optax.softmax_cross_entropy_with_integer_labels(INPUTS @ W + b, TARGETS).mean()

    @jax.jit
    def update(params, state):
        updates, state = optimizer.update(jax.grad(loss)(params), state, params)
        return optax.apply_updates(params, updates), state

    with jax.numpy_dtype_promotion("standard"):
        for _ in range(STEPS):
            params, state = update(params, state)
    found = jax.tree.leaves(framework.load(result.directory).params)
    for mine, theirs in zip(found, jax.tree.leaves(params), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=2e-5, atol=2e-6)


DECAYED = optax.chain(optax.clip_by_global_norm(1.0), optax.scale_by_adam(), optax.add_decayed_weights(1e-4))


@pytest.mark.parametrize(
    ("name", "options", "optimizer"),
    [
        ("sgd", [], optax.sgd(RATE)),
        ("momentum", [], optax.sgd(RATE, momentum=0.9)),
        ("momentum", ["nesterov=true"], optax.sgd(RATE, momentum=0.9, nesterov=True)),
        ("adam", [], optax.adam(RATE)),
        ("adamw", ["weight_decay=0.1"], optax.adamw(RATE, weight_decay=0.1)),
        ("adagrad", [], optax.adagrad(RATE)),
        ("lamb", [], optax.lamb(RATE, weight_decay=1e-4)),
        ("lion", [], optax.lion(RATE)),
        ("rmsprop", [], optax.rmsprop(RATE)),
        ("example_adam", [], optax.adam(RATE)),
        ("groups", [], optax.adam(RATE)),
        ("chain", [], optax.chain(DECAYED, optax.scale_by_learning_rate(RATE))),
        ("yogi", [], optax.yogi(RATE)),
        ("adafactor", [], optax.adafactor(RATE)),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_updates_are_those_of_optax(tmp_path, data, name, options, optimizer):
    chosen = [f"optimizer={name}", f"optimizer.learning_rate={RATE}", *(f"optimizer.{each}" for each in options)]
    assert_as_optax(tmp_path, [*data, *chosen], optimizer)


@pytest.mark.parametrize(
    ("name", "options", "schedule"),
    [
        ("cosine", [], optax.cosine_decay_schedule(RATE, STEPS)),
        ("exponential", [], optax.exponential_decay(RATE, STEPS, 0.01)),
        ("linear", [], optax.linear_schedule(RATE, 0.0, STEPS)),
        ("one_cycle", [], optax.cosine_onecycle_schedule(STEPS, RATE)),
        ("piecewise", [], optax.piecewise_constant_schedule(RATE, {STEPS // 2: 0.1, STEPS * 3 // 4: 0.1})),
        ("warmup_cosine", [], optax.warmup_cosine_decay_schedule(0.0, RATE, STEPS // 10, STEPS)),
        ("polynomial", ["end_value=0", "power=2", f"transition_steps={STEPS}", f"init_value={RATE}"],
         optax.polynomial_schedule(RATE, 0, 2, STEPS)),
        ("join", ["schedules=[0.1, {linear: {init_value: 0.1, end_value: 0, transition_steps: 5}}]", "boundaries=[7]"],
         optax.join_schedules([optax.constant_schedule(0.1), optax.linear_schedule(0.1, 0, 5)], [7])),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)  # fmt: skip
def test_schedules_are_those_of_optax(tmp_path, data, name, options, schedule):
    chosen = [*(SGD[:1] if options else SGD), f"schedule={name}", *(f"schedule.{each}" for each in options)]
    assert_as_optax(tmp_path, [*data, *chosen], optax.sgd(schedule))
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    rates = [json.loads(line)["train/learning_rate"] for line in lines if "train/learning_rate" in line]
    with jax.numpy_dtype_promotion("standard"):
        wanted = [float(schedule(step)) for step in range(STEPS)]
    np.testing.assert_allclose(rates, wanted, rtol=1e-6, atol=1e-8)


def test_a_users_groups_take_the_place_of_the_default(tmp_path, data):
    def label(path, _):
        return "sgd" if jax.tree_util.keystr(path, simple=True, separator="/").endswith("W") else "freeze"

    alone = {"sgd": optax.sgd(0.1), "freeze": optax.set_to_zero()}
    wanted = optax.multi_transform(alone, lambda params: jax.tree.map_with_path(label, params))
    folder = tmp_path / "configs" / "experiment"
    folder.mkdir(parents=True)
    (folder / "grouped.yaml").write_text(
        "# @package _global_\ndefaults:\n  - override /optimizer: groups\n"
        'optimizer:\n  learning_rate: 0.1\n  groups: {"*W": sgd, "*b": freeze}\n'
    )
    assert_as_optax(tmp_path, [*data, "+experiment=grouped"], wanted, config_dir=tmp_path / "configs")


PLUGIN = """
import optax
from framework.api import Schedule

def needs(learning_rate: float | Schedule):
    return optax.sgd(learning_rate)

def scheduled(rate: Schedule = 0.5):
    return optax.sgd(rate)

def fixed():
    return optax.sgd(0.1)
"""


@pytest.fixture
def plugins(install):
    """A third party's optimizers."""
    names = {name: f"acme_optimizers:{name}" for name in ("needs", "scheduled", "fixed")}
    install("acme", {"framework.optimizers": names}, {"acme_optimizers.py": PLUGIN})


def test_an_optimizer_without_a_default_rate_takes_the_schedules(tmp_path, data, plugins):
    chosen = ["optimizer=needs", "schedule=cosine", f"schedule.init_value={RATE}"]
    assert_as_optax(tmp_path, [*data, *chosen], optax.sgd(optax.cosine_decay_schedule(RATE, STEPS)))


def test_a_number_is_a_constant_schedule(tmp_path, data, plugins):
    assert_as_optax(tmp_path, [*data, "optimizer=scheduled", "optimizer.rate=0.05"], optax.sgd(0.05))


def test_a_schedule_that_no_optimizer_takes_is_refused(tmp_path, data, plugins):
    chosen = ["optimizer=fixed", "schedule=cosine", "schedule.init_value=0.1", f"run.dir={tmp_path / 'run'}"]
    with pytest.raises(FrameworkError, match="schedule: optimizer 'fixed' takes no learning rate"):
        framework.run([*data, *chosen])
