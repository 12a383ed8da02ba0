"""Whole runs in a temporary folder: the same losses under every strategy, the same bits twice, what is left behind."""

from __future__ import annotations

import functools
import importlib
import logging
import math
from itertools import pairwise
from pathlib import Path

import jax
import numpy as np
import pytest
from hydra.core.global_hydra import GlobalHydra

import framework
from framework import testing
from framework.errors import ConfigError, NumericalError, StorageError
from framework.testing import assert_same_bits, records, run_record, series

WORDS = ["train.steps=12", "train.log_every=1", "train.eval_every=5"]
PROGRAMS = Path(__file__).parents[2] / "programs"


@pytest.fixture
def train(tmp_path):
    return functools.partial(testing.train, tmp_path, *WORDS)


@pytest.fixture(scope="module")
def known(tmp_path_factory):
    """Runs that several tests compare with, each made once."""

    @functools.cache
    def run(*overrides):
        return testing.train(tmp_path_factory.mktemp("known"), *WORDS, *overrides)

    return run


@pytest.mark.parametrize("optimizer", ["adam", "momentum", "example_adam"])
@pytest.mark.parametrize("strategy", ["pmap", "eager"])
def test_every_strategy_gives_the_losses_of_jit(train, known, strategy, optimizer):
    reference = known("strategy=jit", f"optimizer={optimizer}")
    result = train(f"strategy={strategy}", f"optimizer={optimizer}")
    for tag in ("train/loss", "train/accuracy", "eval/loss", "eval/accuracy"):
        np.testing.assert_allclose(series(result, tag), series(reference, tag), rtol=1e-5, err_msg=tag)


@pytest.mark.parametrize("strategy", ["jit", "pmap", "eager"])
def test_how_a_run_is_cut_into_chunks_changes_no_bit_and_single_steps_no_digit(train, strategy):
    chosen = ["model.dropout=0.25", f"strategy={strategy}", "train.eval_every=0"]
    single = train(*chosen, "train.steps_per_call=1")
    reference = train(*chosen, "train.steps_per_call=12")
    np.testing.assert_allclose(series(reference, "train/loss"), series(single, "train/loss"), rtol=1e-5)
    for cut in (
        ["train.steps_per_call=5"],
        ["train.steps_per_call=12", "train.log_every=5", "callbacks.checkpoint.every=4"],
    ):
        result = train(*chosen, *cut)
        assert_same_bits(result.state.params, reference.state.params)


FEEDING = {"single": ["train.steps_per_call=1"], "resident": [], "streamed": ["train.resident_mib=0"]}
FED = [(strategy, feeding) for strategy in ("jit", "pmap", "sharded", "eager", "vmapped") for feeding in FEEDING]
QUICK = [(strategy, feeding) for strategy, feeding in FED if strategy == "jit" or feeding == "resident"]


@pytest.mark.parametrize(
    ("strategy", "feeding"), [*QUICK, *(pytest.param(*c, marks=pytest.mark.slow) for c in FED if c not in QUICK)]
)
def test_examples_in_bytes_give_the_losses_of_the_same_as_floats(tmp_path, install, strategy, feeding):
    program = (PROGRAMS / "pixels_data.py").read_text()
    install("pixels", {"framework.data": {"pixels": "pixels_data:pixels"}}, {"pixels_data.py": program})
    words = ["data=pixels", "model=mlp", "model.hidden=[8]", *WORDS, "train.eval_every=0", f"strategy={strategy}"]
    words += [*FEEDING[feeding], f"run.root={tmp_path}"]
    found, expected = (series(framework.run([*words, f"data.scaled={s}"]), "train/loss") for s in (False, True))
    assert len(found) == 12
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_the_same_seed_gives_the_same_bits_and_another_does_not(train):
    first, second, other = train("seed=1"), train("seed=1"), train("seed=2")
    assert records(first) == records(second)
    assert_same_bits(first.state, second.state)
    assert not np.array_equal(series(first, "train/loss"), series(other, "train/loss"))


def test_noise_differs_by_step_and_seed_but_not_by_run(train, known):
    noisy = ["model.dropout=0.5"]
    first, second, clean = train(*noisy), train(*noisy), known()
    np.testing.assert_array_equal(series(first, "train/loss"), series(second, "train/loss"))
    assert not np.array_equal(series(first, "train/loss"), series(clean, "train/loss"))


@pytest.mark.parametrize("log_every", [1, 5, 7])
def test_what_is_logged_is_the_mean_since_the_last_log(train, known, log_every):
    reference, result = known(), train(f"train.log_every={log_every}", "train.log_last_step=true")
    losses = series(reference, "train/loss")
    logged = {record["step"]: record for record in records(result)}
    assert set(logged) == {0, 1, 5, 10, 12, *range(log_every, 13, log_every)}, "records of the first step, and before"
    for before, step in pairwise(sorted(logged)):
        assert logged[step]["train/loss"] == pytest.approx(np.mean(losses[before:step]), rel=1e-12)
        assert logged[step]["train_step/loss"] == losses[step - 1]


def test_the_run_folder_holds_what_is_promised(train, capsys):
    result = train("seed=3")
    (curves,) = {path.parent for path in result.directory.glob("*/events.*")}
    assert curves.name.startswith("default ") and curves.name.endswith(" steps=12 seed=3")
    assert sorted(p.name for p in result.directory.iterdir() if p != curves and p.suffix != ".patch") == [
        "checkpoints",
        "config.yaml",
        "lock",
        "metrics.jsonl",
        "run.json",
        "run.log",
    ]
    record = run_record(result)
    assert (record["status"], record["exit_code"], record["seed"], record["total_steps"]) == ("done", 0, 3, 12)
    assert record["plugins"]["model"]["distribution"] == "framework"
    assert record["metrics"] == pytest.approx(dict(result.metrics))
    assert [record["step"] for record in records(result)] == list(range(13))
    first, *others = (result.directory / "run.log").read_text().splitlines()
    assert first.endswith(f" INFO run {record['id']} at step 0 of 12")
    assert any("run folder" in line for line in others)
    assert record["id"] not in capsys.readouterr().err


def test_a_recorded_config_runs_again_to_the_same_result(train, tmp_path):
    first = train("seed=4")
    again = framework.run([f"run.root={tmp_path}/again"], recorded=first.directory)
    np.testing.assert_array_equal(series(first, "train/loss"), series(again, "train/loss"))


def test_a_finished_run_loads_as_a_function(train):
    result = train()
    loaded = framework.load(result.directory)
    inputs = np.random.default_rng(0).normal(size=(5, *np.shape(next(iter_inputs(result)))[1:])).astype(np.float32)
    np.testing.assert_array_equal(loaded(inputs), result.model(inputs))
    assert loaded(inputs).shape == (5, 10)


def iter_inputs(result):
    described = run_record(result)["inputs"]
    yield np.zeros([1, *described[1:]])


def test_loading_what_is_no_run_says_so(tmp_path):
    with pytest.raises(StorageError, match="not a run folder"):
        framework.load(tmp_path)


def test_a_run_leaves_nothing_global_behind(train):
    flags = {name: getattr(jax.config, name) for name in ("jax_debug_nans", "jax_disable_jit", "jax_log_compiles")}
    handlers = list(logging.getLogger("framework").handlers), list(logging.getLogger().handlers)
    train("debug=nans")
    assert flags == {name: getattr(jax.config, name) for name in flags}
    assert handlers == (list(logging.getLogger("framework").handlers), list(logging.getLogger().handlers))
    assert not GlobalHydra.instance().is_initialized()


@pytest.mark.parametrize("strategy", ["jit", "pmap"])
def test_a_loss_that_is_not_finite_stops_the_run_and_names_the_step(train, tmp_path, strategy):
    # A learning rate of 1e30 makes the parameters overflow at the first update; the second loss is not finite.
    with pytest.raises(NumericalError, match=r"train/loss is (nan|inf) at step 2") as caught:
        train("optimizer=sgd", "optimizer.learning_rate=1e38", "train.log_every=10", f"strategy={strategy}")
    assert caught.value.exit_code == 6
    (folder,) = (tmp_path / "default").iterdir()
    record = run_record(folder)
    assert (record["status"], record["exit_code"]) == ("failed", 6)
    assert not list((folder / "checkpoints").glob("*"))


def test_a_loss_that_is_not_finite_can_be_ignored(train):
    result = train("optimizer=sgd", "optimizer.learning_rate=1e38", "nan_policy=ignore")
    assert not math.isfinite(result.metrics["train/loss"])


def test_debug_nans_names_the_operation(train):
    with pytest.raises(NumericalError, match="invalid value"):
        train("optimizer=sgd", "optimizer.learning_rate=1e38", "debug=nans")


@pytest.mark.parametrize("debug", ["infs", "eager", "leaks", "keys", "transfers", "compiles", "checks"])
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_sound_run_passes_under_every_switch(train, known, debug):
    reference, result = known("train.steps=3"), train("train.steps=3", f"debug={debug}")
    np.testing.assert_allclose(series(result, "train/loss"), series(reference, "train/loss"), rtol=1e-5)


@pytest.mark.parametrize(
    ("overrides", "error", "text"),
    [
        (["data.batch_size=15", "strategy=pmap"], ConfigError, "data.batch_size: 15 does not divide over 2 devices"),
        (["data.eval_batch_size=15", "strategy=pmap"], ConfigError, "data.eval_batch_size: 15 does not divide"),
        (["strategy=pmap", "strategy.devices=64"], ConfigError, "64 asked for, and there are 2"),
        (["model=cnn", "~model.hidden"], ConfigError, "0_Conv"),
        (["model=serial", "~model.hidden", "model.layers=[{Dense: 4}, {Conv: [2, [3, 3]]}]"], ConfigError, "1_Conv"),
        (["loss=absolute_error"], ConfigError, "loss: outputs [16, 10] do not match targets [16]"),
        (["train.steps=0"], ConfigError, "train.steps: expected at least 1"),
    ],
)
def test_what_cannot_run_is_refused_before_anything_is_compiled(train, tmp_path, overrides, error, text):
    with pytest.raises(error) as caught:
        train(*overrides)
    assert text in str(caught.value)
    assert not any(Path(tmp_path).iterdir())


def test_a_folder_in_the_place_of_the_log_is_refused(train, tmp_path):
    (tmp_path / "run" / "metrics.jsonl").mkdir(parents=True)
    with pytest.raises(StorageError, match=r"run\.dir: .*run/metrics\.jsonl is no regular file; remove it\."):
        train(f"run.dir={tmp_path}/run")


def test_two_runs_never_share_a_folder(train, tmp_path):
    train(f"run.dir={tmp_path}/mine")
    with pytest.raises(StorageError, match="holds a run already"):
        train(f"run.dir={tmp_path}/mine")


def test_a_validation_split_is_evaluated_during_and_the_test_split_after(tmp_path):
    result = framework.run(
        [
            f"run.root={tmp_path}",
            "data=digits",
            "data.size=8",
            "data.validation=200",
            "train.steps=10",
            "train.log_every=1",
        ]
    )
    assert {"eval/loss", "test/loss", "test/accuracy"} <= set(result.metrics)
    assert "test/loss" in records(result)[-1]
    assert [record["step"] for record in records(result)] == sorted({r["step"] for r in records(result)})


COUNTED = """
from framework_stax.models import mlp

traced = []


def counted():
    model = mlp((8,), 10)

    def init(key, shape):
        traced.append("init")
        return model.init(key, shape)

    def apply(params, state, inputs, *, key=None, train=False):
        traced.append("train" if train else "eval")
        return model.apply(params, state, inputs, key=key, train=train)

    return model._replace(init=init, apply=apply)
"""


@pytest.mark.parametrize("per_call", [1, 5])
def test_a_run_traces_init_and_each_step_once(tmp_path, install, per_call):
    install("acme", {"framework.models": {"counted": "acme_counted:counted"}}, {"acme_counted.py": COUNTED})
    tiny = [word for word in (*testing.TINY, *WORDS) if not word.startswith("model")]
    # Without TensorBoard, which draws the model, and traces it once more for that.
    words = ["model=counted", f"train.steps_per_call={per_call}", "callbacks=[progress,checkpoint]"]
    framework.run([*tiny, *words, f"run.root={tmp_path}"])
    traced = importlib.import_module("acme_counted").traced
    assert sorted(traced) == ["eval", "init", "train"]
