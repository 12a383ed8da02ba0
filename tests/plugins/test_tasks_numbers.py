"""Numbers of the built-in tasks, each against NumPy, a closed form, or another library."""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy import integrate, special, stats
from sklearn.linear_model import Ridge

from framework.api import Model, View
from framework.errors import ConfigError
from framework_losses.losses import softmax_cross_entropy, squared_error
from framework_losses.metrics import accuracy
from framework_stax.layers import Dense
from framework_stax.models import mlp, serial
from framework_tasks import contrastive, diffusion, distillation, probe, sampling, vae
from framework_tasks.autoencoder import autoencoder
from framework_tasks.gan import gan
from framework_tasks.language_model import language_model

RNG = np.random.default_rng(0)
BATCH = {
    "inputs": jnp.asarray(RNG.uniform(0, 1, (6, 5)), jnp.float32),
    "targets": jnp.asarray([0, 1, 2, 0, 1, 2], jnp.int32),
}
SPEC = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), BATCH)


def means_of(means):
    return {name: np.asarray(mean.total) / np.asarray(mean.count) for name, mean in means.items()}


def network(*widths):
    return serial([Dense(width) for width in widths])


def jitter(keys, batch):
    noise = jax.vmap(lambda key: jax.random.normal(key, (5,)))(keys)
    return {**batch, "inputs": batch["inputs"] + 0.1 * noise}


class TestVae:
    @pytest.mark.parametrize(("mean", "deviation"), [(0.0, 1.0), (1.5, 0.3), (-0.7, 2.0)])
    def test_divergence_is_the_integral(self, mean, deviation):
        one, other = stats.norm(mean, deviation), stats.norm()
        value, _ = integrate.quad(lambda x: one.pdf(x) * (one.logpdf(x) - other.logpdf(x)), -20, 20)
        found = vae.divergence(jnp.full((2, 3), mean), jnp.full((2, 3), 2 * np.log(deviation), jnp.float32))
        np.testing.assert_allclose(found, [3 * value] * 2, rtol=1e-5, atol=1e-6)

    def test_likelihood_is_that_of_bernoulli(self):
        logits, inputs = RNG.normal(0, 3, (4, 2, 3)), RNG.integers(0, 2, (4, 2, 3))
        wanted = -stats.bernoulli(special.expit(logits)).logpmf(inputs).sum(axis=(1, 2))
        found = vae.bernoulli(jnp.asarray(logits, jnp.float32), jnp.asarray(inputs, jnp.float32))
        np.testing.assert_allclose(found, wanted, rtol=1e-5)

    def test_numbers_that_are_no_probabilities_are_refused(self):
        assert np.isnan(vae.bernoulli(jnp.zeros((1, 2)), jnp.array([[0.5, 1.1]])))[0]
        task = vae.vae(network(4), network(5), optax.sgd(0.1))
        assert task.check(SPEC, {"inputs": np.array([[0.0], [1.0], [-0.5]], np.float32)})[0] == 2
        assert task.check(SPEC, {"inputs": np.array([[0, 255]], np.uint8)}) is None

    def test_loss_weighs_the_divergence_and_the_bound_does_not(self, key):
        task = vae.vae(network(4), network(5), optax.sgd(0.1), beta=3.0)
        _, means = task.train_step(task.init(key, SPEC), BATCH)
        found = means_of(means)
        np.testing.assert_allclose(found["elbo"], -found["reconstruction"] - found["kl"], rtol=1e-6)
        np.testing.assert_allclose(found["loss"], found["reconstruction"] + 3 * found["kl"], rtol=1e-6)

    def test_draws_have_the_mean_and_deviation_that_the_encoder_says(self, key):
        """With the decoder as identity, the mean logit over many examples is the encoder's mean."""
        inputs = jnp.ones((4000, 1))
        task = vae.vae(network(2), network(1), optax.sgd(0.0))
        batch = {"inputs": inputs}
        spec = {"inputs": jax.ShapeDtypeStruct(inputs.shape, inputs.dtype)}
        state = task.init(key, spec)
        params = jax.tree.map(jnp.zeros_like, state.params)
        encoder, decoder = params["encoder"], params["decoder"]
        encoder = jax.tree.map(lambda leaf: jnp.array([0.5, np.log(0.25)]) if leaf.shape == (2,) else leaf, encoder)
        decoder = jax.tree.map(lambda leaf: jnp.ones_like(leaf) if leaf.ndim == 2 else leaf, decoder)
        _, means = task.train_step(state._replace(params={"encoder": encoder, "decoder": decoder}), batch)
        normal = stats.norm(0.5, 0.5)
        wanted = normal.expect(lambda z: np.logaddexp(0, -z))
        assert means_of(means)["reconstruction"] == pytest.approx(wanted, abs=0.02)

    def test_an_odd_number_of_outputs_is_refused(self, key):
        with pytest.raises(ConfigError, match=r"expected means and log-variances.*set encoder\.classes=4"):
            vae.vae(network(3), network(5), optax.sgd(0.1)).init(key, SPEC)


class TestContrastive:
    def made(self, method, **options):
        parts = [network(4), network(3), network(3)]
        return contrastive.contrastive(*parts, optax.sgd(0.5), method, transforms=[jitter], **options)

    def test_cosine_is_numpys(self):
        one, other = RNG.normal(size=(2, 4, 3))
        wanted = (one * other).sum(1) / np.linalg.norm(one, axis=1) / np.linalg.norm(other, axis=1)
        found = contrastive.cosine(jnp.asarray(one, jnp.float32), jnp.asarray(other, jnp.float32))
        np.testing.assert_allclose(found, wanted, rtol=1e-5)

    def test_variance_is_that_of_the_vectors(self):
        vectors = RNG.normal(size=(50, 4))
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        assert contrastive.variance(vectors.sum(0), 50) == pytest.approx(vectors.var(axis=0).sum())

    def test_teacher_follows_after_each_update(self, key):
        task = self.made("byol", decay=0.9)
        state = task.init(key, SPEC)
        teacher = jax.tree.map(np.asarray, state.task_state)
        assert set(teacher) == {"encoder", "projector"}
        for _ in range(3):
            state, _ = jax.jit(task.train_step)(state, BATCH)
            now = {name: state.params[name] for name in teacher}
            teacher = jax.tree.map(lambda old, new: 0.9 * old + 0.1 * np.asarray(new), teacher, now)
        jax.tree.map(lambda one, other: np.testing.assert_allclose(one, other, rtol=1e-5), state.task_state, teacher)

    @pytest.mark.parametrize("method", ["byol", "simsiam"])
    def test_no_gradient_flows_through_what_is_predicted(self, method, key):
        """At the first step both methods predict the same numbers, since a teacher begins as a copy."""
        task = self.made(method)
        state = task.init(key, SPEC)
        after, means = task.train_step(state, BATCH)
        views = _views(state)
        forward = lambda params, name, inputs: _affine(params[name], inputs)  # noqa: E731
        project = lambda params, inputs: forward(params, "projector", forward(params, "encoder", inputs))  # noqa: E731
        goals = [project(state.params, inputs) for inputs in views]

        def loss(params):
            one, two = (forward(params, "predictor", project(params, inputs)) for inputs in views)
            return 1 - (contrastive.cosine(one, goals[1]) + contrastive.cosine(two, goals[0])).mean() / 2

        value, grads = jax.value_and_grad(loss)(state.params)
        assert means_of(means)["loss"] == pytest.approx(float(value), rel=1e-5)
        wanted = jax.tree.map(lambda leaf, grad: leaf - 0.5 * grad, state.params, grads)
        jax.tree.map(lambda one, other: np.testing.assert_allclose(one, other, atol=1e-6), after.params, wanted)

    def test_probe_is_ridge_regression_on_both_halves(self):
        centres = RNG.normal(size=(3, 5))
        labels = RNG.integers(0, 3, 120)
        rows = np.c_[centres[labels] + RNG.normal(size=(120, 5)), labels]
        right = []
        for one, other in itertools.permutations((rows[::2], rows[1::2])):
            mean, deviation = one[:, :-1].mean(0), one[:, :-1].std(0)
            ridge = Ridge(alpha=probe.RIDGE * len(one)).fit(
                (one[:, :-1] - mean) / deviation, np.eye(3)[one[:, -1].astype(int)]
            )
            right.append(ridge.predict((other[:, :-1] - mean) / deviation).argmax(1) == other[:, -1])
        padded = np.r_[rows, np.full((3, 6), 7.0)]
        assert probe.probe(padded, np.r_[np.ones(120), np.zeros(3)]) == pytest.approx(np.mean(right))
        assert 0.5 < np.mean(right) < 1

    def test_views_must_differ(self, key):
        task = contrastive.contrastive(network(4), network(3), network(3), optax.sgd(0.1))
        with pytest.raises(ConfigError, match="alike without augmentations"):
            task.train_step(task.init(key, SPEC), BATCH)


def _affine(params, inputs):
    weights, bias = jax.tree.leaves(params)
    return inputs @ weights + bias


def _views(state):
    """The two views of the first step, from the named streams of keys."""
    from framework.api import example_keys, step_key, stream

    keys = example_keys(stream(step_key(state.key, state.step), "contrastive"), 6)
    fold = lambda number: jax.vmap(lambda key: jax.random.fold_in(key, number))(keys)  # noqa: E731
    return [jitter(fold(number), BATCH)["inputs"] for number in range(2)]


class TestDistillation:
    def test_divergence_is_scipys(self):
        teacher, student = RNG.normal(0, 3, (2, 4, 6))
        wanted = [
            9 * special.rel_entr(special.softmax(one / 3), special.softmax(other / 3)).sum()
            for one, other in zip(teacher, student, strict=True)
        ]
        found = distillation.divergence(jnp.asarray(teacher, jnp.float32), jnp.asarray(student, jnp.float32), 3.0)
        np.testing.assert_allclose(found, wanted, rtol=1e-4)

    def test_only_the_student_moves_and_the_loss_is_the_weighted_sum(self, key):
        networks = {"model": network(3), "teacher": mlp((7,), 3)}
        options = {"loss": softmax_cross_entropy(), "optimizer": optax.sgd(0.1), "metrics": {"accuracy": accuracy()}}
        task = distillation.distillation(**networks, **options, alpha=0.25)
        state = task.init(key, SPEC)
        after, means = task.train_step(state, BATCH)
        found = means_of(means)
        assert found["loss"] == pytest.approx(0.75 * found["hard_loss"] + 0.25 * found["soft_loss"], rel=1e-5)
        jax.tree.map(np.testing.assert_array_equal, after.params["teacher"], state.params["teacher"])
        moved = jax.tree.map(lambda one, other: np.any(one != other), after.params["model"], state.params["model"])
        assert all(jax.tree.leaves(moved))

    def test_other_classes_are_refused(self, key):
        options = {"loss": softmax_cross_entropy(), "optimizer": optax.sgd(0.1), "metrics": {}}
        task = distillation.distillation(network(3), network(4), **options)
        with pytest.raises(ConfigError, match=r"teacher's outputs are \[6, 4\], the student's \[6, 3\]"):
            task.train_step(task.init(key, SPEC), BATCH)


class TestGan:
    def test_losses_of_undecided_networks_and_the_number_of_updates(self, key):
        still = optax.scale_by_schedule(lambda count: 0.0)  # which counts
        task = gan(network(5), network(1), still, still, latent=2, updates=3)
        state = task.init(key, SPEC)
        state = state._replace(params=jax.tree.map(jnp.zeros_like, state.params))
        after, means = task.train_step(state, BATCH)
        found = means_of(means)
        assert found["discriminator/loss"] == pytest.approx(2 * np.log(2), rel=1e-6)
        assert found["generator/loss"] == pytest.approx(np.log(2), rel=1e-6)
        assert found["loss"] == pytest.approx(3 * np.log(2), rel=1e-6)
        counts = {name: int(optax.tree_utils.tree_get(each, "count")) for name, each in after.opt_state.items()}
        assert counts == {"discriminator": 3, "generator": 1}

    def test_each_network_goes_its_own_way(self, key):
        """The discriminator raises the logits of real examples; the generator's update does not touch it."""
        task = gan(network(5), network(1), optax.sgd(0.0), optax.sgd(0.1), latent=2)
        state = task.init(key, SPEC)
        after, _ = task.train_step(state, BATCH)
        jax.tree.map(np.testing.assert_array_equal, after.params["generator"], state.params["generator"])
        real, made = BATCH["inputs"], jax.nn.sigmoid(_affine(state.params["generator"], jnp.zeros((6, 2))))
        gaps = [
            (_affine(each.params["discriminator"], real) - _affine(each.params["discriminator"], made)).mean()
            for each in (state, after)
        ]
        assert gaps[1] > gaps[0]

    @pytest.mark.parametrize("networks", [(3, 1), (5, 2)])
    def test_outputs_that_do_not_fit_are_refused(self, networks, key):
        generator, discriminator = map(network, networks)
        task = gan(generator, discriminator, optax.sgd(0.1), optax.sgd(0.1), latent=2)
        with pytest.raises(ConfigError, match=r"set (generator\.classes=5|discriminator\.classes=1)\."):
            task.train_step(task.init(key, SPEC), BATCH)


def test_autoencoder_takes_inputs_for_targets(key):
    task = autoencoder(network(2), network(5), squared_error(), optax.sgd(0.1), {})
    state = task.init(key, SPEC)
    found = means_of(task.eval_step(state, BATCH))
    inputs = BATCH["inputs"]
    outputs = _affine(state.params["decoder"], _affine(state.params["encoder"], inputs))
    assert found["loss"] == pytest.approx(float(np.square(outputs - inputs).mean()), rel=1e-5)


class TestSampling:
    LOGITS = np.log([0.4, 0.3, 0.2, 0.1])

    @pytest.mark.parametrize(("temperature", "top_k"), [(1.0, 0), (0.5, 0), (1.0, 2), (2.0, 3), (1.0, 9)])
    def test_frequencies_are_those_of_the_likeliest(self, temperature, top_k):
        rows = jnp.tile(jnp.asarray(self.LOGITS, jnp.float32), (20_000, 1))
        drawn = np.asarray(sampling.draw(jax.random.key(0), rows, temperature, top_k))
        wanted = special.softmax(self.LOGITS / temperature)
        wanted[top_k or 4 :] = 0
        np.testing.assert_allclose(np.bincount(drawn, minlength=4) / 20_000, wanted / wanted.sum(), atol=0.015)

    def test_no_temperature_takes_the_likeliest(self):
        drawn = sampling.draw(jax.random.key(0), jnp.asarray([[0.1, 0.3, 0.2]]), 0.0)
        np.testing.assert_array_equal(drawn, [1])

    def test_a_sequence_goes_on_beyond_the_context(self, key):
        """A model of sums of all that it sees, so that what is hidden from it and what is cut off both count."""
        context, classes = 4, 7

        def logits_of(window):
            return 9 * jax.nn.one_hot(jnp.cumsum(window, axis=1) % classes, classes)

        prompt = jnp.array([[1, 2], [3, 3]], jnp.int32)
        found = sampling.generate(logits_of, prompt, 9, context, key, temperature=0.0)
        rows = prompt.tolist()
        for _, row in itertools.product(range(9), rows):
            row.append(sum(row[-context:]) % classes)
        np.testing.assert_array_equal(found, rows)

    def test_numbers_become_the_characters_of_the_text(self):
        task = language_model(network(4), softmax_cross_entropy(), optax.identity(), {})
        show = task.exhibits["sample"].show
        assert show(np.array([1, 2, 0, 9]), {"characters": "?ab"}) == "ab?\N{REPLACEMENT CHARACTER}"
        assert show(np.array([1, 2]), {}) == "1 2"

    @pytest.mark.parametrize(("temperature", "top_k"), [(-1.0, 0), (1.0, -2)])
    def test_negative_numbers_are_refused(self, temperature, top_k):
        with pytest.raises(ConfigError, match="expected 0 or more"):
            sampling.check_sampling(temperature, top_k)


class TestDiffusion:
    def test_shares_fall_from_all_to_nothing(self):
        shares = diffusion.kept(50)
        assert shares.shape == (51,)
        assert shares[0] == 1
        assert 0 < shares[-1] < 1e-5
        assert (np.diff(shares) < 0).all()
        np.testing.assert_allclose(
            shares[25], (np.cos((0.508 / 1.008) * np.pi / 2) / np.cos(0.008 / 1.008 * np.pi / 2)) ** 2
        )

    def test_mixed_examples_have_the_variance_of_noise(self):
        """Step by step, x_t = sqrt(a) x_(t-1) + sqrt(1 - a) noise, the same distribution comes about."""
        shares = diffusion.kept(20)
        values, clean = np.full(40_000, 0.7), jnp.full((40_000, 1), 0.7)
        for step in range(1, 13):
            share = shares[step] / shares[step - 1]
            values = np.sqrt(share) * values + np.sqrt(1 - share) * RNG.normal(size=values.shape)
        added = jnp.asarray(RNG.normal(size=(40_000, 1)), jnp.float32)
        found = np.asarray(diffusion.mixed(clean, added, jnp.full(40_000, shares[12], jnp.float32)))
        np.testing.assert_allclose([found.mean(), found.var()], [values.mean(), values.var()], atol=0.02)

    def test_posterior_is_bayes_rule(self):
        """The product of two normal densities: of x_(t-1) from the example, and of x_t from x_(t-1)."""
        shares, clean, noisy = diffusion.kept(30), 0.4, -0.9
        now, before = shares[17], shares[16]
        kept = now / before
        grid = np.linspace(-6, 6, 20_001)
        density = stats.norm(np.sqrt(before) * clean, np.sqrt(1 - before)).pdf(grid)
        density *= stats.norm(np.sqrt(kept) * grid, np.sqrt(1 - kept)).pdf(noisy)
        density /= density.sum()
        mean = (grid * density).sum()
        found = diffusion.posterior(
            *(jnp.full((1, 1), each) for each in (clean, noisy)), *map(jnp.float32, (now, before))
        )
        np.testing.assert_allclose(found[0][0, 0], mean, rtol=1e-4)
        np.testing.assert_allclose(found[1], ((grid - mean) ** 2 * density).sum(), rtol=1e-4)

    @pytest.mark.parametrize("key", [None, jax.random.key(3)])
    def test_a_model_that_knows_the_noise_leads_to_the_example(self, key):
        """The noise of a known example is (noisy - sqrt(share) clean) / sqrt(1 - share)."""
        shares, clean = jnp.asarray(diffusion.kept(15), jnp.float32), 0.25

        def apply(params, state, inputs, *, key=None, train=False):
            share = shares[inputs["step"]][:, None]
            return (inputs["inputs"] - jnp.sqrt(share) * clean) / jnp.sqrt(1 - share), state

        model = Model(lambda key, shape: (shape["inputs"], (), ()), apply)
        task = diffusion.diffusion(model, optax.identity(), steps=15)
        noise = jnp.asarray(RNG.normal(size=(3, 2)), jnp.float32)
        found = task.predict(View((), ()), noise, key)
        np.testing.assert_allclose(found, np.full((3, 2), (clean + 1) / 2), atol=2e-3)
