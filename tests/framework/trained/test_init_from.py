"""A run begins with the parameters of another one, in words what fits and what does not; frozen parameters stay."""

from __future__ import annotations

import jax
import numpy as np
import optax
import pytest

import framework
from framework import testing
from framework.checkpoints import safetensors
from framework.errors import ConfigError
from framework.tasks.starting import frozen
from framework.trees import leaves_by_path
from framework_callbacks.parameters import parameter_table

SHORT = ["train.steps=1", "train.eval_every=0", "callbacks=[checkpoint]", "optimizer=sgd"]
STILL = [*SHORT, "optimizer.learning_rate=0"]  # what a run begins with is what it ends with
LAYERS = "model.layers=[{Dense: 8}, BatchNorm, Relu, {Dense: 10}]"
MODEL = ["model=serial", "~model.hidden", LAYERS]


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A run whose parameters and states are those of a training."""
    return testing.train(tmp_path_factory.mktemp("source"), *MODEL, "train.steps=5", "callbacks=[checkpoint]", "seed=3")


def trained(folder, *words):
    return testing.train(folder, *MODEL, *STILL, *words)


def file_of(source, path, rename=lambda name: name):
    arrays = {rename(name): np.asarray(leaf) for name, leaf in leaves_by_path(source.model.params).items()}
    states = leaves_by_path(source.model.model_state)
    arrays |= {rename(f"model_state/{name}"): np.asarray(leaf) for name, leaf in states.items()}
    (safetensors.write if path.suffix == ".safetensors" else lambda path, arrays: np.savez(path, **arrays))(
        path, arrays
    )
    return path


@pytest.mark.parametrize("form", ["run", "run@5", "exported", "own.safetensors", "own.npz"])
def test_a_run_begins_with_the_parameters_and_states_of_every_form(source, tmp_path, form):
    place = str(source.directory) + form.removeprefix("run")
    if form == "exported":
        place = str(tmp_path / "exported")
        done = testing.command("export", str(source.directory), "--to", place)
        if done.code:
            pytest.skip(done.err)
    if form.startswith("own"):
        place = str(file_of(source, tmp_path / form))
    run = trained(tmp_path, f"init_from={place}")
    testing.assert_same_bits(run.model.params, source.model.params)
    start = testing.run_record(run)["start"]
    assert (start["loaded"], start["renamed"], start["anew"], start["unused"]) == (9, 0, 0, 0)
    again = framework.resume(run.directory, ["train.steps=2"])
    assert testing.run_record(again)["start"] == start


def test_names_are_mapped_and_parts_begin_anew_or_are_left_out(source, tmp_path):
    body = {"0_Dense": "body/dense", "3_Dense": "head", "model_state": "stats", "1_BatchNorm": "norm"}

    def other(name):
        prefix = next(each for each in body if name.startswith(each))
        return body[prefix] + name.removeprefix(prefix)

    path = file_of(source, tmp_path / "other.safetensors", other)
    words = [f"init_from.source={path}", "init_from.map={" + ", ".join(f"{k}: {v}" for k, v in body.items()) + "}"]
    run = trained(tmp_path, *words, "init_from.anew=['3_Dense/*']", "seed=7")
    fresh = trained(tmp_path, "seed=7")
    testing.assert_same_bits(run.model.params[0], source.model.params[0])
    testing.assert_same_bits(run.model.params[3], fresh.model.params[3])
    start = testing.run_record(run)["start"]
    assert (start["loaded"], start["renamed"], start["anew"], start["unused"]) == (0, 7, 2, 2)
    with pytest.raises(ConfigError, match="the model has no 'extra'"):
        safetensors.write(path, {**safetensors.read(path), "extra": np.zeros(2)})
        trained(tmp_path, *words)
    assert trained(tmp_path, *words, "init_from.unused=[extra]").status == "done"


REFUSED = {
    "another shape": (["model.layers.0.Dense=9"], r"'0_Dense/W' is float32\[6, 9\], and there float32\[6, 8\]"),
    "a layer more": (["extend.model.layers=[{Dense: 10}]"], "it lacks '4_Dense/W', '4_Dense/b'"),
    "a layer less": ([LAYERS.replace(", {Dense: 10}", "").replace("8", "10")], "is float32"),
    "a mask of nothing": (["init_from.anew=['9_*']"], "init_from.anew: '9_\\*' matches nothing"),
    "a name of nothing": (["init_from.map={9_Dense: x}"], "init_from.map: there is no parameter '9_Dense'"),
    "nothing that fits": (["init_from.map={0_Dense: a, 1_BatchNorm: b, 3_Dense: c, model_state: d}"], "nothing of it"),
    "an unknown option": (["init_from.strict=false"], "init_from.strict"),
    "a frozen nothing": (["freeze=['9_*']"], "freeze: '9_\\*' matches no parameter"),
    "all frozen": (["freeze=['*']"], "freeze: it leaves none of 6 parameters to be trained"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_fit_is_refused_in_one_line_before_a_run_begins(source, tmp_path, case):
    words, says = REFUSED[case]
    layers = [word for word in words if word.startswith("model.layers.")]
    words = [LAYERS.replace("Dense: 8", "Dense: 9")] if layers else words
    with pytest.raises(framework.FrameworkError, match=says) as caught:
        testing.train(tmp_path, *MODEL, *STILL, f"init_from.source={source.directory}", *words)
    testing.message(caught)
    assert not list(tmp_path.rglob("run.json"))


@pytest.mark.parametrize("strategy", ["jit", "pmap"])
def test_frozen_parameters_stay_bit_for_bit_without_decay_or_moments(source, tmp_path, strategy):
    words = ["optimizer=adamw", "optimizer.weight_decay=0.5", "optimizer.learning_rate=0.1", "train.steps=4"]
    words += ["freeze=['0_Dense/*', '1_*']", f"strategy={strategy}", f"init_from={source.directory}"]
    run = testing.train(tmp_path, *MODEL, *SHORT[1:3], *words)
    testing.assert_same_bits(run.state.params[:2], source.model.params[:2])
    moments = [name for name in leaves_by_path(run.state.opt_state) if "/mu/" in name or "/nu/" in name]
    assert moments
    assert not [name for name in moments if "0_Dense" in name or "1_BatchNorm" in name]
    before = leaves_by_path(source.model.params)
    after = leaves_by_path(run.state.params)
    assert [name for name in before if not np.array_equal(before[name], after[name])] == ["3_Dense/W", "3_Dense/b"]


def test_the_others_are_updated_as_if_they_were_alone():
    params = {"a": np.array([1.0, -0.0, np.nan], np.float32), "b": np.array([2.0, 3.0], np.float32)}
    grads = {"a": np.array([1.0, 1.0, np.inf], np.float32), "b": np.array([0.5, -4.0], np.float32)}
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(0.1, weight_decay=0.3))
    part, alone = frozen(optimizer, ["a"]), optimizer
    state, own = part.init(params), alone.init({"b": params["b"]})
    kept, mine = params, {"b": params["b"]}
    with jax.numpy_dtype_promotion("standard"):  # which optax's Adam leans on
        for _ in range(3):
            updates, state = part.update(grads, state, kept)
            kept = optax.apply_updates(kept, updates)
            updates, own = alone.update({"b": grads["b"]}, own, mine)
            mine = optax.apply_updates(mine, updates)
    testing.assert_same_bits(jax.device_get(kept), jax.device_get({"a": params["a"], **mine}))


def test_the_parameter_table_says_how_each_begins(source, tmp_path):
    from framework.config.compose import compose
    from framework.experiment import build
    from framework.registry.entry_points import discover
    from framework.trained.init_from import start_of

    words = [
        *testing.TINY,
        *MODEL,
        f"init_from.source={source.directory}",
        "init_from.anew=['3_*']",
        "freeze=['0_*/W']",
    ]
    config = compose(words)
    experiment = build(config, discover(), start_of(config.settings.init_from))
    table = [line.split() for line in parameter_table(experiment.parameters)]
    assert [line[0] for line in table[:1]] == ["parameter"]
    found = {line[0]: " ".join(line[-2:]) for line in table[1:-1]}
    assert found["0_Dense/W"] == "loaded, frozen"
    assert found["0_Dense/b"].endswith("loaded")
    assert found["3_Dense/W"].endswith("anew")


def test_members_all_begin_with_the_same(source, tmp_path):
    run = trained(tmp_path, f"init_from={source.directory}", "strategy=vmapped", "strategy.members=2")
    for member in (0, 1):
        testing.assert_same_bits(framework.load(run.directory, member=member).params, source.model.params)
