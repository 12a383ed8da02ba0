"""Overrides of a recorded run take effect: rates against optax's schedules, and what the record claims."""

from __future__ import annotations

import re
import shutil

import jax
import numpy as np
import optax
import pytest
import yaml

import framework
from framework import testing
from framework.config.compose import recorded
from framework.errors import ConfigError
from framework.testing import message, run_record, series

EACH_STEP = ["train.log_every=1", "train.eval_every=0", "train.steps_per_call=1"]
COSINE = ["schedule=cosine", "optimizer.learning_rate=0.01", "train.steps=12", *EACH_STEP]


@pytest.fixture(scope="module")
def constant(tmp_path_factory):
    """A run of four steps at a constant rate of 0.01."""
    words = ["optimizer.learning_rate=0.01", "train.steps=4", *EACH_STEP]
    return testing.train(tmp_path_factory.mktemp("constant"), *words).directory


@pytest.fixture
def cosine(tmp_path):
    """A run of twelve steps whose rate falls from 0.01 to 0."""
    return testing.train(tmp_path, f"run.dir={tmp_path}/cosine", *COSINE).directory


def rates(run):
    """The learning rate of each step that was logged."""
    return series(run, "train/learning_rate")


def cosine_rates(peak, steps, chosen):
    schedule = optax.cosine_decay_schedule(peak, steps)
    return [float(schedule(step)) for step in chosen]


def test_a_run_of_a_recorded_config_has_the_rate_that_it_is_given(constant, tmp_path):
    again = framework.run(["optimizer.learning_rate=0.1", f"run.root={tmp_path}"], recorded=constant)
    np.testing.assert_allclose(rates(again), [0.1] * 4, rtol=1e-6)
    config = run_record(again)["config"]
    assert (config["optimizer"]["learning_rate"], config["schedule"]["value"]) == (0.1, 0.1)


def test_a_shorter_run_of_a_recorded_config_has_the_schedule_of_its_length(cosine, tmp_path):
    again = framework.run(["train.steps=6", f"run.root={tmp_path}"], recorded=cosine)
    np.testing.assert_allclose(rates(again), cosine_rates(0.01, 6, range(6)), rtol=1e-5)


def test_a_forced_rate_is_that_of_the_steps_from_there_and_of_the_record(cosine, capfd):
    words = ["optimizer.learning_rate=0.1", "train.steps=16"]
    with pytest.raises(ConfigError, match=r"optimizer\.learning_rate \(0\.01 to 0\.1\).*--force"):
        framework.resume(cosine, words)
    framework.resume(cosine, words, force=True)
    expected = [*cosine_rates(0.01, 12, range(12)), *cosine_rates(0.1, 16, range(12, 16))]
    np.testing.assert_allclose(rates(cosine), expected, rtol=1e-5)
    assert run_record(cosine)["config"]["schedule"]["init_value"] == 0.1
    assert "the learning rate at step 12 was 0, and is 0.01464 from here" in capfd.readouterr().err


def test_a_run_that_is_extended_follows_the_schedule_of_its_new_length_and_says_so(cosine, capfd):
    framework.resume(cosine, ["train.steps=18"])
    expected = [*cosine_rates(0.01, 12, range(12)), *cosine_rates(0.01, 18, range(12, 18))]
    np.testing.assert_allclose(rates(cosine), expected, rtol=1e-5)
    told = "the learning rate at step 12 was 0, and is 0.0025 from here (schedule.decay_steps 12 to 18)"
    assert told in capfd.readouterr().err
    assert run_record(cosine)["config"]["schedule"]["decay_steps"] == 18
    framework.resume(cosine)
    assert "from here" not in capfd.readouterr().err


def test_steps_beyond_the_end_of_a_schedule_need_force(tmp_path):
    words = [*COSINE, "schedule.decay_steps=12", f"run.dir={tmp_path}/run"]
    testing.train(tmp_path, *words)
    extended = ["train.steps=18", "schedule.decay_steps=12"]
    with pytest.raises(ConfigError) as raised:
        framework.resume(tmp_path / "run", extended)
    assert message(raised).startswith(
        "schedule: 'cosine_decay' is at its end: the rate beyond step 12 is at most 0, of"
    )
    framework.resume(tmp_path / "run", extended, force=True)
    np.testing.assert_allclose(rates(tmp_path / "run")[12:], 0, atol=1e-12)


def resolve_in_place(folder):
    """Rewrite a recorded config as older runs have it, with values in the place of interpolations."""
    (folder / "config.yaml").write_text(yaml.safe_dump(run_record(folder)["config"]))


def test_a_run_that_was_recorded_with_values_alone_trains_and_resumes(constant, tmp_path):
    old = testing.train(tmp_path, *COSINE).directory
    resolve_in_place(old)
    again = framework.run([f"run.root={tmp_path}"], recorded=old)
    assert np.array_equal(rates(again), rates(old))
    with pytest.raises(ConfigError) as raised:
        framework.resume(old, ["train.steps=18"])
    assert "schedule.decay_steps was recorded as 12, and does not follow" in message(raised)
    with pytest.raises(ConfigError) as raised:
        framework.run(["optimizer.learning_rate=0.1"], recorded=old)
    assert "optimizer.learning_rate: schedule.init_value was recorded as 0.01" in message(raised)
    framework.resume(old, ["train.steps=18", "schedule.decay_steps=18"], force=True)
    np.testing.assert_allclose(rates(old)[12:], cosine_rates(0.01, 18, range(12, 18)), rtol=1e-5)


def test_an_extended_run_of_members_follows_the_schedule(tmp_path):
    members = "strategy.members={optimizer.learning_rate: [0.01, 0.1]}"
    run = testing.train(tmp_path, *COSINE, "strategy=vmapped", members, f"run.dir={tmp_path}/run")
    framework.resume(run.directory, ["train.steps=18"])
    for member, peak in enumerate([0.01, 0.1]):
        expected = [*cosine_rates(peak, 12, range(12)), *cosine_rates(peak, 18, range(12, 18))]
        np.testing.assert_allclose(series(run, f"train/learning_rate/{member}"), expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["optimizer=sgd"], {"optimizer.name": "sgd", "optimizer.learning_rate": 0.1, "schedule.value": 0.1}),
        (["optimizer=sgd", "optimizer.learning_rate=0.5"], {"optimizer.name": "sgd", "schedule.value": 0.5}),
        (["optimizer.learning_rate=0.5", "optimizer=sgd"], {"optimizer.name": "sgd", "schedule.value": 0.5}),
        (["schedule=cosine"], {"schedule.name": "cosine_decay", "schedule.decay_steps": 4}),
        (["model=logistic_regression"], {"model.name": "logistic_regression", "data.batch_size": 16}),
        (["metrics=[perplexity]"], {"metrics": {"perplexity": {}}}),
        (["metrics+=perplexity"], {"metrics": {"accuracy": {}, "perplexity": {"name": "perplexity"}}}),
        (["~metrics.accuracy"], {"metrics": {}}),
        (["strategy=pmap"], {"strategy": {"name": "pmap"}}),
        (["debug=nans"], {"debug.nans": True}),
    ],
)
def test_parts_of_a_recorded_run_can_be_chosen_again(constant, words, expected):
    values = recorded(constant, words).values
    for key, value in expected.items():
        found = values
        for part in key.split("."):
            found = found[part]
        if isinstance(value, dict) and key == "metrics":
            assert list(found) == list(value)
        elif isinstance(value, dict):
            assert value.items() <= found.items()
        else:
            assert found == value


def test_an_optimizer_with_a_rate_follows_one_without(tmp_path):
    words = ["optimizer=chain", "optimizer.transforms=[{scale: {step_size: -0.1}}]", "train.steps=1"]
    run = testing.train(tmp_path, "~optimizer.learning_rate", *words).directory
    assert recorded(run, ["optimizer=sgd"]).values["schedule"] == {"name": "constant", "value": 0.1}


def test_a_choice_of_ones_own_files_is_found(constant, tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "narrow.yaml").write_text("name: mlp\nhidden: [3]\n")
    values = recorded(constant, ["model=narrow"], tmp_path).values
    assert values["model"] == {"name": "mlp", "hidden": [3]}


@pytest.mark.parametrize(
    ("word", "text"),
    [
        ("model=mlpp", r"model=mlpp: no such config\. Did you mean 'mlp'\?.* \(set on the command line\)"),
        ("+experiment=mnist", "experiment=mnist: the run has its experiment; choose parts such as model=NAME"),
        ("seed=1,2", "seed=1,2: found several values, and a run takes one"),
        ("~model.width", r"model\.width: the recorded config has no such key to remove"),
        ("model=null", "no such config"),
    ],
)
def test_what_a_recorded_run_cannot_take_is_one_line(constant, word, text):
    with pytest.raises(ConfigError) as raised:
        recorded(constant, [word])
    assert re.search(text, message(raised))


@pytest.mark.parametrize("word", ["train.accumulate=2", "train.skips_in_row=3"])
def test_keys_of_training_that_change_its_results_need_force(tmp_path, word):
    run = testing.train(tmp_path, "train.steps=2").directory
    with pytest.raises(ConfigError) as raised:
        framework.resume(run, ["train.steps=4", word])
    assert re.search(rf"{word.partition('=')[0]} \(.*--force", message(raised))
    framework.resume(run, ["train.steps=4", word], force=True)


@pytest.fixture
def high_precision():
    """Another precision of products than that of the runs before."""
    jax.config.update("jax_default_matmul_precision", "float32")
    yield
    jax.config.update("jax_default_matmul_precision", None)


def test_a_setting_of_jax_that_changes_numbers_needs_force(constant, high_precision, tmp_path, capfd):
    shutil.copytree(constant, tmp_path / "run")
    with pytest.raises(ConfigError) as raised:
        framework.resume(tmp_path / "run", ["train.steps=5"])
    text = "resume would make other numbers: jax_default_matmul_precision none is float32; set the environment, such as"
    assert message(raised).startswith(f"{text} JAX_DEFAULT_MATMUL_PRECISION, as it was")
    framework.resume(tmp_path / "run", ["train.steps=5"], force=True)
    assert "settings differ from the run record: jax_default_matmul_precision" in capfd.readouterr().err
    assert run_record(tmp_path / "run")["numerics"]["jax_default_matmul_precision"] == "float32"


def test_other_flags_of_xla_are_told(constant, monkeypatch, tmp_path, capfd):
    shutil.copytree(constant, tmp_path / "run")
    flags = "--xla_dump_to=x --xla_cpu_enable_fast_math=true --xla_force_host_platform_device_count=2"
    monkeypatch.setenv("XLA_FLAGS", flags)
    framework.resume(tmp_path / "run", ["train.steps=5"])
    assert "XLA_FLAGS none is --xla_cpu_enable_fast_math=true; numbers may differ" in capfd.readouterr().err


def test_bench_takes_a_recorded_run_with_another_strategy(constant):
    done = testing.command("bench", str(constant), "strategy=pmap", "--seconds=0.1")
    assert done.code == 0, done.err
    assert "pmap on 2" in done.out


@pytest.mark.parametrize(
    ("words", "key"),
    [
        (["optimizer.learning_rate=fast"], "optimizer.learning_rate"),
        (["optimizer.learning_rate=fast", "schedule=warmup_cosine"], "optimizer.learning_rate"),
        (["optimizer.learning_rate=[0.1]"], "optimizer.learning_rate"),
        (["optimizer.learning_rate=nan"], "optimizer.learning_rate"),
        (["schedule.value=fast"], "schedule.value"),
        (["train.checkpoint_every=often"], "train.checkpoint_every"),
    ],
)
def test_an_interpolated_value_is_refused_by_the_key_that_holds_it(tmp_path, words, key):
    with pytest.raises(ConfigError) as raised:
        testing.train(tmp_path, *words)
    assert message(raised).startswith(f"{key}: expected ")
    assert message(raised).endswith("(set on the command line)")
