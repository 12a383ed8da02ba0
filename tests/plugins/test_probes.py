"""Probes against NumPy and closed forms, and what a run makes of them."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import framework
from framework import testing
from framework.api import Problem, TrainState, observed, scope
from framework.config.compose import compose
from framework.errors import ConfigError, PluginError
from framework.experiment import build
from framework.registry.entry_points import discover
from framework_probes.activations import activations
from framework_probes.calibration import calibration
from framework_probes.curvature import jacobian, sharpness
from framework_probes.noise import gradient_noise
from framework_probes.norms import histograms, norms

RATE = 0.1
DRAW = np.random.default_rng(0)
INPUTS, TARGETS = DRAW.normal(size=(8, 5)).astype(np.float32), DRAW.normal(size=8).astype(np.float32)
WEIGHTS = DRAW.normal(size=5).astype(np.float32)
BATCH = {"inputs": jnp.asarray(INPUTS), "targets": jnp.asarray(TARGETS)}


def state_of(params):
    return TrainState(jnp.zeros([], jnp.int32), params, (), (), jax.random.key(0))


def squares():
    """Half the squared error of a linear model, whose gradients and Hessian are known."""

    def losses(params, state, batch):
        return (batch["inputs"] @ params["0_Dense"]["W"] - batch["targets"]) ** 2 / 2

    def loss(params, state, batch):
        return losses(params, state, batch).mean()

    def update(state, batch):
        grads = jax.grad(loss)(state.params, state, batch)
        return state._replace(params=jax.tree.map(lambda p, g: p - RATE * g, state.params, grads))

    return Problem(losses, loss, update), state_of({"0_Dense": {"W": jnp.asarray(WEIGHTS)}})


GRADIENTS = (INPUTS @ WEIGHTS - TARGETS)[:, None] * INPUTS  # [B, 5], of single examples


def measured(probe, problem, state, batch=BATCH):
    found = jax.jit(lambda state, batch: dict(probe(problem, state, batch, jax.random.key(1))))(state, batch)
    return {name: np.asarray(value) for name, value in found.items()}


def test_norms_are_those_of_numpy():
    found = measured(norms(), *squares())
    size, gradient = np.linalg.norm(WEIGHTS), np.linalg.norm(GRADIENTS.mean(0))
    expected = {"parameters": size, "gradients": gradient, "updates": RATE * gradient, "ratio": RATE * gradient / size}
    for name, value in expected.items():
        np.testing.assert_allclose([found[name], found[f"{name}/0_Dense"]], value, rtol=1e-5)
    assert len(found) == 8


def test_histograms_hold_every_number():
    found = measured(histograms(("parameters", "updates")), *squares())
    np.testing.assert_array_equal(found["parameters/0_Dense"], WEIGHTS)
    np.testing.assert_allclose(found["updates/0_Dense"], -RATE * GRADIENTS.mean(0), rtol=1e-5, atol=1e-6)
    found = measured(histograms(("gradients", "activations"), examples=2), *squares())
    np.testing.assert_allclose(found["gradients/0_Dense"], GRADIENTS[:2].mean(0), rtol=1e-5, atol=1e-6)
    assert len(found) == 1, "no layer shows its outputs"
    with pytest.raises(ConfigError, match="examples is 0, expected at least 1"):
        histograms(examples=0)


def in_layers(kernel, program):
    """The loss of two layers: one shows its outputs at once, the other from within a program of its own."""

    def loss(params, state, batch):
        with scope("0_Dense"):
            hidden = observed("outputs", jax.nn.relu(batch["inputs"] @ kernel))
        with scope("1_Dense"):
            outputs = program(lambda rows: observed("outputs", rows.sum(-1)))(hidden)
        return outputs.mean()

    return squares()[0]._replace(loss=loss)


@pytest.mark.parametrize("program", [lambda f: f, jax.jit, jax.vmap, jax.checkpoint], ids=["", "jit", "vmap", "remat"])
def test_activations_are_those_of_numpy_and_none_leave_a_program_within(program):
    kernel = DRAW.normal(size=(5, 4)).astype(np.float32)
    kernel[:, 1] = 0
    found = measured(activations(), in_layers(kernel, program), state_of(()))
    hidden = np.maximum(INPUTS @ kernel, 0)
    np.testing.assert_allclose(found["outputs/0_Dense"], hidden.ravel(), rtol=1e-5, atol=1e-6)
    assert found["dead/0_Dense"] == (np.ptp(hidden, axis=0) == 0).mean() >= 0.25
    if program(abs) is abs:
        np.testing.assert_allclose(found["outputs/1_Dense"], hidden.sum(1), rtol=1e-5)
        assert found["dead/1_Dense"] == 0
    assert len(found) == (4 if program(abs) is abs else 2)


def test_activations_of_a_stack_are_those_of_its_layers_for_the_whole_batch():
    """Convolutions run tile after tile of a batch this large, and a layer may be rematerialized."""
    layers = "model.layers=[{Conv: [3, [3, 3]]}, Relu, Flatten, {Remat: {serial: [{Dense: 4}, Relu]}}, {Dense: 10}]"
    words = ["data=digits", "data.batch_size=40", "model=serial", layers, "callbacks=[]"]
    experiment = build(compose(words), discover())
    state, batch = experiment.init(np.uint32(0)), jax.tree.map(jnp.asarray, next(experiment.data.train(0)))
    kernel, bias, weights, offsets, last, end = map(np.array, jax.tree.leaves(state.params))
    weights[:, 1], offsets[1] = 0, -1
    leaves = map(jnp.asarray, (kernel, bias, weights, offsets, last, end))
    state = state._replace(params=jax.tree.unflatten(jax.tree.structure(state.params), leaves))
    found = measured(activations(), experiment.problem, state, batch)
    patches = np.lib.stride_tricks.sliding_window_view(np.asarray(batch["inputs"])[..., 0], (3, 3), (1, 2))
    convolved = np.einsum("nhwij,ijc->nhwc", patches, kernel[:, :, 0]) + bias
    flat = np.maximum(convolved, 0).reshape(40, -1)
    hidden = np.maximum(flat @ weights + offsets, 0)
    expected = {"0_Conv": convolved, "2_Flatten": flat, "3_serial/1_Relu": hidden, "4_Dense": hidden @ last + end}
    for name, outputs in expected.items():
        np.testing.assert_allclose(found[f"outputs/{name}"], outputs.ravel(), rtol=1e-3, atol=1e-4)
    spread = measured(histograms(("activations", "gradients"), examples=8), experiment.problem, state, batch)
    for name, outputs in expected.items():
        np.testing.assert_allclose(spread[f"activations/{name}"], outputs[:8].ravel(), rtol=1e-3, atol=1e-4)
    first = jax.tree.map(lambda leaf: leaf[:8], dict(batch))
    gradients = jax.grad(experiment.problem.loss)(state.params, state, first)
    for name, part in (("0_Conv", gradients["0_Conv"]), ("4_Dense", gradients["4_Dense"])):
        flat = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(part)])
        np.testing.assert_allclose(spread[f"gradients/{name}"], flat, rtol=1e-3, atol=1e-5)
    assert found["dead/0_Conv"] == 0
    assert found["dead/3_serial/1_Relu"] == found["dead/3_serial"] == (np.ptp(hidden, axis=0) == 0).mean() >= 0.25


def test_activations_of_repeated_layers_are_seen_inside():
    words = [*testing.TINY, *TEXTS, "callbacks=[]", "probes=[activations]", "model.layers=2"]
    found = build(compose(words), discover()).directions
    inside = [tag for tag in found if tag.startswith("probe/activations/dead/3_block_1/")]
    assert len(inside) > 5


def test_activations_need_a_layer():
    with pytest.raises(ConfigError, match="no layer shows its outputs"):
        measured(activations(), *squares())


@pytest.mark.parametrize("at_once", [1, 3, 8, 100])
def test_noise_is_that_of_the_covariance_of_single_gradients(at_once):
    found = measured(gradient_noise(at_once), *squares())
    np.testing.assert_allclose(found["norms"], np.linalg.norm(GRADIENTS, axis=1), rtol=1e-5)
    noise = np.cov(GRADIENTS.T).trace()
    signal = (GRADIENTS.mean(0) ** 2).sum() - noise / len(GRADIENTS)
    np.testing.assert_allclose(found["noise"], noise, rtol=1e-4)
    np.testing.assert_allclose(found["signal"], signal, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(found["noise_scale"], found["noise"] / found["signal"], rtol=1e-5)
    np.testing.assert_allclose(found["largest_norm"], np.linalg.norm(GRADIENTS, axis=1).max(), rtol=1e-5)


def test_sharpness_is_the_top_eigenvalue_of_the_hessian():
    found = measured(sharpness(200, 1e-6), *squares())
    expected = np.linalg.eigvalsh(INPUTS.T @ INPUTS / len(INPUTS)).max()
    np.testing.assert_allclose(found["eigenvalue"], expected, rtol=1e-4)
    assert found["iterations"] < 200
    assert measured(sharpness(3), *squares())["iterations"] <= 3


def test_sharpness_keeps_the_sign_of_a_maximum():
    def loss(params, state, batch):
        return (jnp.asarray([-5.0, 2.0, 1.0]) * params["a"] ** 2).sum() / 2

    problem = Problem(lambda *_: jnp.zeros(1), loss, lambda state, batch: state)
    found = measured(sharpness(), problem, state_of({"a": jnp.ones(3)}))
    np.testing.assert_allclose(found["eigenvalue"], -5, rtol=1e-3)


@pytest.mark.parametrize("width", [2, 9])
def test_the_jacobian_is_that_of_the_closed_form(width):
    kernel = DRAW.normal(size=(5, width)).astype(np.float32)

    def predict(params, state, inputs):
        return jnp.tanh(inputs @ params)

    problem = squares()[0]._replace(predict=predict)
    found = measured(jacobian(examples=3), problem, state_of(jnp.asarray(kernel)))
    slopes = 1 - np.tanh(INPUTS[:3] @ kernel) ** 2
    expected = [np.linalg.norm(kernel.T * slope[:, None]) for slope in slopes]
    np.testing.assert_allclose(found["mean_norm"], np.mean(expected), rtol=1e-4)
    np.testing.assert_allclose(found["largest_norm"], np.max(expected), rtol=1e-4)


def test_of_several_inputs_and_outputs_each_input_has_its_share_of_the_jacobian():
    left, right = DRAW.normal(size=(5, 3)).astype(np.float32), DRAW.normal(size=(2, 4)).astype(np.float32)

    def predict(params, state, inputs):
        return {"sum": inputs["a"] @ left, "bent": jnp.tanh(inputs["b"][0] @ right), "twice": 2 * inputs["a"]}

    inputs = {"a": jnp.asarray(INPUTS), "b": [jnp.asarray(INPUTS[:, :2])]}
    found = measured(jacobian(examples=4), squares()[0]._replace(predict=predict), state_of(()), {"inputs": inputs})
    by_a = np.full(4, np.sqrt((left**2).sum() + 4 * 5))
    by_b = [np.linalg.norm(right.T * slope[:, None]) for slope in 1 - np.tanh(INPUTS[:4, :2] @ right) ** 2]
    expected = {"mean_norm/a": by_a, "mean_norm/b/0": by_b, "mean_norm": np.hypot(by_a, by_b)}
    assert found.keys() == {*expected, "largest_norm"}
    for name, each in expected.items():
        np.testing.assert_allclose(found[name], np.mean(each), rtol=1e-5)


def test_the_jacobian_of_a_gan_is_that_of_its_latent_numbers():
    words = ["+experiment=gan", "data=digits", "data.train_limit=64", "data.batch_size=4"]
    experiment = build(compose([*words, "task.latent=3"]), discover())
    batch = jax.tree.map(jnp.asarray, next(experiment.data.train(0)))
    inputs = experiment.problem.inputs(batch, jax.random.key(0))
    assert inputs.shape == (4, 3)
    probe = lambda state, key: jacobian(examples=2)(experiment.problem, state, batch, key)  # noqa: E731
    found = jax.eval_shape(probe, experiment.shapes, jax.random.key(0))
    assert {name: leaf.shape for name, leaf in found.items()} == {"mean_norm": (), "largest_norm": ()}


def test_calibration_is_the_sum_over_bins():
    logits = DRAW.normal(size=(200, 4)).astype(np.float32) * 2
    targets = DRAW.integers(0, 4, 200).astype(np.int32)
    problem = squares()[0]._replace(predict=lambda params, state, inputs: inputs)
    batch = {"inputs": jnp.asarray(logits), "targets": jnp.asarray(targets)}
    found = measured(calibration(bins=10), problem, state_of(()), batch)
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    confidence, right = probabilities.max(1), probabilities.argmax(1) == targets
    expected = 0.0
    for low in np.arange(10) / 10:
        inside = (confidence > low) & (confidence <= low + 0.1)
        expected += abs(right[inside].mean() - confidence[inside].mean()) * inside.mean() if inside.any() else 0
    np.testing.assert_allclose(found["error"], expected, rtol=1e-3)
    np.testing.assert_allclose(found["accuracy"], right.mean(), rtol=1e-6)


@pytest.mark.parametrize(
    "words",
    [[], ["ema=0.9", "nan_policy=skip"], ["precision=bfloat16"], ["model.dropout=0.5"], ["strategy=vmapped"]],
    ids=" ".join,
)
def test_the_functions_of_a_task_are_those_of_its_evaluation_and_its_step(words):
    experiment = build(compose([*testing.TINY, "optimizer=sgd", *words]), discover())
    single = build(compose([*testing.TINY, "optimizer=sgd", *[w for w in words if "vmapped" not in w]]), discover())
    state, batch = single.init(np.uint32(0)), next(single.data.train(0))
    problem = experiment.problem
    losses = problem.losses(state.params, state, batch)
    assert losses.shape == (16,)
    total, count = single.task.eval_step(state, batch)["loss"]
    np.testing.assert_allclose(losses.mean(), total / count, rtol=1e-2 if "precision=bfloat16" in words else 1e-5)
    np.testing.assert_allclose(problem.loss(state.params, state, batch), losses.mean(), rtol=1e-5)
    if "model.dropout=0.5" not in words and "precision=bfloat16" not in words:
        gradient = jax.grad(problem.loss)(state.params, state, batch)
        after = problem.update(state, batch).params
        rate = single.config["optimizer"]["learning_rate"]
        moved = jax.tree.map(lambda old, new: (old - new) / rate, state.params, after)
        jax.tree.map(lambda left, right: np.testing.assert_allclose(left, right, atol=1e-4), gradient, moved)


TEXTS = ["~data.shape", "~data.examples", "~data.noise", "~model.hidden"]
TEXTS += ["data=text", "data.block=8", "model=transformer"]
PROBED = [
    "probes=[norms,histograms,activations]",
    "probes.norms.every=2",
    "probes.activations.every=4",
    "probes.histograms.every=4",
    "callbacks=[checkpoint]",
]
PROBED += ["train.steps=8", "train.eval_every=4", "train.checkpoint_every=4", "train.log_every=4"]


def probed(run):
    lines = {line["step"]: line for line in testing.records(run)}
    return {
        step: {tag: value for tag, value in line.items() if tag.startswith("probe/")} for step, line in lines.items()
    }


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    return testing.train(tmp_path_factory.mktemp("probes"), *PROBED)


def test_a_run_logs_scalars_and_shows_histograms_at_the_period(reference):
    points = probed(reference)
    assert [step for step, tags in points.items() if tags] == [2, 4, 6, 8]
    assert all("probe/norms/ratio/1_Dense" in tags for tags in points.values() if tags)
    assert {step for step, tags in points.items() if "probe/activations/dead/1_Dense" in tags} == {4, 8}
    for tag in ("histograms/parameters/1_Dense", "activations/outputs/1_Dense"):
        shown = sorted((reference.directory / "media").rglob(f"probe/{tag}/*"))
        assert {int(path.name.partition(".")[0]) for path in shown} == {4, 8}


def test_a_probe_changes_no_number_of_the_run(reference, tmp_path):
    without = testing.train(tmp_path, *PROBED, "~probes.norms", "~probes.histograms", "~probes.activations")
    testing.assert_same_bits(without.state, reference.state)


def test_a_resumed_run_has_the_same_points_and_may_get_other_ones(reference, tmp_path):
    half = ["train.steps=4", "probes.norms.every=${steps:0.5}"]  # every 2 of 4 steps, and every 4 of 8
    first = testing.train(tmp_path, *PROBED, f"run.dir={tmp_path}/run", *half)
    framework.resume(first.directory, ["train.steps=8", "probes.histograms=null"])
    expected = probed(reference)
    assert expected.pop(6) and probed(first) == expected


@pytest.mark.parametrize("strategy", ["pmap", "sharded", "vmapped", "eager"])
def test_probes_see_the_same_under_every_strategy(reference, tmp_path, strategy):
    more = ["strategy.fsdp=2"] if strategy == "sharded" else []
    run = testing.train(tmp_path, *PROBED, "~probes.histograms", f"strategy={strategy}", "train.steps=4", *more)
    points, expected = probed(run), probed(reference)
    for step in (2, 4):
        assert points[step] == pytest.approx(expected[step], rel=1e-3)


def test_one_probe_stands_under_several_tags(tmp_path):
    run = testing.train(
        tmp_path, "train.steps=2", "callbacks=[]", "probes.flat={name:sharpness,every:1,iterations:2}", "probes.no=null"
    )
    assert run.metrics["probe/flat/iterations"] == 2


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["probes=[sharpnes]"], "sharpness"),
        (["probes.norms.every=0"], "probes.norms.every: expected a number of steps, at least 1, found 0"),
        (["probes.norms.evry=1"], "probes.norms.evry: probe 'norms' (framework"),
        (["probes=[norms]", "train.eval_every=0"], "probes.norms.every: expected a number of steps, at least 1"),
        (["probes=[sharpness]", "probes.sharpness.iterations=0"], "iterations is 0, expected at least 1"),
        (["probes=[gradient_noise]", "data.batch_size=1"], "probes.gradient_noise: the noise of"),
        (["probes=[activations]", "data.batch_size=1"], "probes.activations: every unit of a single example"),
        (["probes=[jacobian]", *TEXTS], "probes.jacobian: the inputs are no real numbers"),
        (
            ["probes=[calibration]", "loss=squared_error", "metrics=[mse]", "data.task=regression"],
            "probes.calibration: calibration needs logits",
        ),
    ],
)
def test_what_cannot_be_probed_is_refused_before_the_run(tmp_path, words, text):
    with pytest.raises(ConfigError) as caught:
        testing.train(tmp_path, "train.steps=2", "probes.norms={}" if "norms.ev" in words[0] else "seed=0", *words)
    assert text in f"{caught.value.key}: {testing.message(caught)}"
    assert not any(tmp_path.iterdir())


def test_a_plugin_that_breaks_the_contract_is_named(tmp_path, install):
    install(
        "acme",
        {"framework.probes": {"odd": "acme_probes:odd"}},
        {"acme_probes.py": "def odd():\n    return lambda problem, state, batch, key: 1\n"},
    )
    with pytest.raises(PluginError, match=r"probe 'odd' \(acme 1\.0\).*expected {name: array}"):
        testing.train(tmp_path, "probes.odd.every=1", "train.steps=1")
