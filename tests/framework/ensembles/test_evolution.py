"""Population-based training: the rule, turns within the compiled step, and runs that go on."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import framework
from framework import testing
from framework.api import Interval
from framework.errors import ConfigError
from framework.testing import message, run_record, series
from framework_searches.population import evolve

RATE = Interval("optimizer.learning_rate", 1e-3, 1e3, log=True)
SHARE = Interval("model.dropout", 0.0, 0.5)
SIZE = 8


def turns(scores, count=200, **options):
    """Sources and values of many turns, [turns, members], from values that tell their member."""
    own = np.linspace(0.1, 0.4, SIZE, dtype=np.float32)
    values = {each.key: jnp.asarray(own) for each in (RATE, SHARE)}
    given = {"intervals": (RATE, SHARE), "replaced": 2, "factors": (0.5, 2.0), "resample": 0.25} | options
    keys = jax.random.split(jax.random.key(0), count)
    rule = jax.vmap(lambda key: evolve(key, jnp.asarray(scores, jnp.float32), values, **given))
    sources, changed = jax.device_get(rule(keys))
    return own, sources, changed


def test_the_worst_go_on_from_the_best_with_changed_values_and_others_stay_as_they_are():
    scores = [5, 3, 8, 1, 4, 2, 7, 6]  # the best are members 3 and 5, the worst 2 and 6
    values, sources, changed = turns(scores)
    for member in range(SIZE):
        if member not in (2, 6):
            assert (sources[:, member] == member).all()
            assert all((column[:, member] == values[member]).all() for column in changed.values())
    assert {int(source) for source in sources[:, [2, 6]].ravel()} == {3, 5}
    for each in (RATE, SHARE):
        found, taken = changed[each.key][:, [2, 6]].ravel(), values[sources[:, [2, 6]].ravel()]
        halved, doubled = (np.isclose(found, np.clip(taken * factor, each.low, each.high)) for factor in (0.5, 2))
        assert 0.3 < halved.mean() < 0.5 and 0.3 < doubled.mean() < 0.5
        drawn = found[~halved & ~doubled]
        assert 0.15 < len(drawn) / len(found) < 0.35 and drawn.min() >= each.low and drawn.max() <= each.high
    drawn = np.log10(changed[RATE.key][:, 2][(sources[:, 2] >= 0)])
    assert drawn.min() < -1.5 and drawn.max() > 1.5  # anew over all orders of magnitude


@pytest.mark.parametrize("lost", [1, 5, 7, 8])
def test_all_members_whose_numbers_were_lost_go_on_from_sound_ones(lost):
    scores = [np.inf] * lost + list(range(SIZE - lost))
    _, sources, _ = turns(scores, replaced=3)
    if lost < SIZE:
        assert (sources >= lost).all()
        assert (sources[:, :lost] < lost + 3).all()


WORDS = ["train.log_every=1", "train.eval_every=5", "optimizer=sgd", "strategy=pbt", "strategy.members=4"]
WORDS += ["strategy.every=5", "strategy.space={optimizer.learning_rate: {low: 1e-3, high: 1e3, log: true}}"]
WORDS += ["model.dropout=0.25", "callbacks=[checkpoint]"]


@pytest.fixture(scope="module")
def train(tmp_path_factory):
    return functools.partial(testing.train, tmp_path_factory.mktemp("runs"), *WORDS)


@pytest.fixture(scope="module")
def whole(train):
    return train("train.steps=21", "train.checkpoint_every=7")


def test_a_turn_follows_the_scores_of_the_evaluation(whole, train):
    """The state after the first turn is that of the sources, but for one step with almost no rate."""
    tiny = "strategy.space={optimizer.learning_rate: {low: 1e-12, high: 2e-12, log: true}}"
    before, after = (train(tiny, "strategy.share=0.5", f"train.steps={steps}") for steps in (5, 6))
    scores = [before.metrics[f"eval/loss/{member}"] for member in range(4)]
    best = np.argsort(scores)[:2]
    for member in range(4):
        own = [part[member] for part in jax.tree.leaves(after.state.params)]
        sources = [member] if member in best else list(best)
        each = [[part[source] for part in jax.tree.leaves(before.state.params)] for source in sources]
        assert any(all(np.allclose(*pair, atol=1e-9) for pair in zip(own, other, strict=True)) for other in each)
        assert after.metrics[f"train/evolving/copies/{member}"] == (member not in best)
    assert (jax.random.key_data(after.state.key) == jax.random.key_data(before.state.key)).all()


def test_the_values_of_each_step_are_logged_and_the_last_are_recorded(whole):
    rows = run_record(whole)["members"]
    for member, row in enumerate(rows):
        logged = series(whole, f"train/evolving/optimizer.learning_rate/{member}")
        rates = series(whole, f"train/learning_rate/{member}")
        np.testing.assert_allclose(logged, rates, rtol=1e-6)
        assert len(logged) == 21 or row["values"]["seed"] != member
        assert row["values"]["optimizer.learning_rate"] == pytest.approx(float(logged[-1]), rel=1e-6)
        assert row["values"]["seed"] == member
        steps = 1 + np.flatnonzero(np.diff(logged)) if len(logged) == 21 else []
        assert all(step % 5 == 0 for step in steps)
    copies = [whole.metrics.get(f"train/evolving/copies/{member}", 0) for member in range(4)]
    assert sum(copies) >= 4  # one at each of four turns, and those that were lost


def test_a_member_whose_numbers_were_lost_goes_on_as_another_one(train):
    result = train("train.steps=12", "strategy.space={optimizer.learning_rate: {low: 1e-1, high: 1e38, log: true}}")
    live = series(result, "train/live_members")
    assert live.min() < 4
    assert live[5] == live[10] == 4
    assert result.state.step.max() == 12


def test_a_run_that_goes_on_takes_the_same_turns_however_it_is_cut(whole, train):
    part = train("train.steps=8")
    resumed = framework.resume(part.directory, ["train.steps=21", "train.checkpoint_every=7"])
    for other in (resumed, train("train.steps=21", "train.steps_per_call=3", "train.checkpoint_every=0")):
        testing.assert_same_bits(other.state, whole.state)
    with pytest.raises(ConfigError, match=r"resume would change .* strategy.every \("):
        framework.resume(part.directory, ["train.steps=30", "strategy.every=7"])


def test_averages_evolve_too_and_a_member_is_loaded_as_any_other(train):
    words = ["ema=0.9", "strategy.metric=accuracy", "strategy.order=shared", "probes=[norms]", "strategy.devices=2"]
    result = train("train.steps=11", *words)
    best = max(range(4), key=lambda member: result.metrics.get(f"eval/accuracy/{member}", 0))
    model = framework.load(result.directory, member=best)
    np.testing.assert_array_equal(
        jax.tree.leaves(model.params)[0], jax.tree.leaves(result.state.opt_state.average)[0][best]
    )
    assert model(np.ones([2, 6], np.float32)).shape == (2, 10)


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["strategy.members=1"], "strategy.members: expected at least 2"),
        (["~strategy.space"], "strategy.space: "),
        (["strategy.share=0.75"], "strategy.share: expected a number above 0, up to 0.5"),
        (["strategy.metric=nothing"], "strategy.metric: the evaluation has no such metric"),
        (["strategy.metric=confusion", "metrics+=confusion"], "strategy.metric: "),
        (["strategy.space={optimizer.learning_rate: 3}"], "space.optimizer.learning_rate: expected a range such as"),
        (["strategy.space={optimizer.learning_rate: {low: -1, high: 1}}"], "optimizer.learning_rate: "),
        (["strategy.space={model.classes: {low: 2, high: 10}}"], "model.classes"),
        (["strategy.space={optimizer.learning_rate: {low: 0, high: 1, log: true}}"], "expected 0 < low < high"),
        (["strategy.space={optimizer.learning_rate: {low: 1, high: 2, logs: true}}"], "a range has no 'logs'"),
    ],
)
def test_what_cannot_evolve_is_refused_by_its_key(train, words, text):
    with pytest.raises(ConfigError) as caught:
        train("train.steps=2", *words)
    assert text in message(caught)
