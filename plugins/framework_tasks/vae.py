"""Variational autoencoder: a distribution over codes, and one over inputs for each code."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import optax

from framework.api import (
    Array,
    Batch,
    Exhibit,
    Keys,
    Learner,
    Metric,
    Model,
    Network,
    Networks,
    Objective,
    Shape,
    Task,
    Transform,
    nan_unless,
)
from framework.errors import ConfigError
from framework_tasks.arrays import above, like, noise, outside_unit, pictures, summed


def vae(
    encoder: Model,
    decoder: Model,
    optimizer: optax.GradientTransformation,
    beta: float = 1.0,
    transforms: Sequence[Transform] = (),
    accumulate: int = 1,
) -> Task:
    """Maximise the evidence lower bound (ELBO) of inputs in [0, 1], with one draw of the code for each.

    The code has a normal distribution for each input, and a standard normal one before it is known. Inputs are taken
    for probabilities of a Bernoulli distribution whose logits the decoder gives, as is usual for MNIST. All terms are
    nats, summed over the numbers of an example: `elbo = -reconstruction - kl`; the loss is
    `reconstruction + beta kl`. The trained task maps inputs to the reconstruction of the mean code. Each evaluation
    shows reconstructions and samples. Sources: Kingma and Welling 2014, arXiv:1312.6114; for beta Higgins et al. 2017,
    "beta-VAE".

    Args:
      encoder: maps inputs [B, ...] to [B, 2 K]: means and log-variances of K numbers.
      decoder: maps codes [B, K] to as many logits as inputs have, in any shape.
      optimizer: updates both networks.
      beta: weight of the divergence from the standard normal distribution; 1 gives the ELBO.
      transforms: augmentations of training batches, in order.
      accumulate: number of parts that a batch is cut into.

    Raises: ConfigError if beta is negative, the encoder has an odd number of outputs, or the decoder's do not fit.
      Inputs outside [0, 1] give NaN; `data.normalize=false` keeps those of images inside.
    """
    if isinstance(beta, int | float) and beta < 0:
        raise ConfigError(f"{beta} is no weight; take 0 or more, such as 1.", key="beta")

    def fit(nets: Networks, batch: Batch, keys: Keys) -> tuple[Array, Networks, dict[str, Array]]:
        inputs = batch["inputs"]
        out, nets = nets.apply("encoder", inputs, key=keys.device)
        mean, log_variance = jnp.split(out, 2, axis=-1)
        code = mean + jnp.exp(log_variance / 2) * noise(keys.examples, mean.shape[1:]).astype(mean.dtype)
        logits, nets = nets.apply("decoder", code, key=keys.device)
        reconstruction = bernoulli(like(inputs, logits, "decoder"), inputs)
        kl = divergence(mean, log_variance)
        more = {"elbo": -reconstruction - kl, "kl": kl, "reconstruction": reconstruction}
        return reconstruction + beta * kl, nets, more

    def predict(nets: Networks, inputs: Array, key: Array | None) -> Array:
        mean, _ = jnp.split(nets.apply("encoder", inputs)[0], 2, axis=-1)
        return jax.nn.sigmoid(like(inputs, nets.apply("decoder", mean)[0], "decoder"))

    def reconstructions(nets: Networks, batch: Batch, key: Array) -> Array:
        inputs = batch["inputs"][:8]
        return above(inputs, predict(nets, inputs, None))

    def samples(nets: Networks, batch: Batch, key: Array) -> Array:
        inputs = batch["inputs"][:32]
        codes, _ = jnp.split(nets.apply("encoder", inputs)[0], 2, axis=-1)
        logits, _ = nets.apply("decoder", jax.random.normal(key, codes.shape).astype(codes.dtype))
        return pictures(jax.nn.sigmoid(like(inputs, logits, "decoder")))

    return (
        Learner(
            networks={"encoder": Network(encoder), "decoder": Network(decoder, _code)},
            objectives={"vae": Objective(fit, ("encoder", "decoder"), optimizer)},
            metrics={"elbo": Metric(_per_example, lambda total, count: float(total / count), higher_is_better=True)},
            transforms=transforms,
            accumulate=accumulate,
            predict=predict,
            exhibits={"reconstructions": Exhibit("image", reconstructions), "samples": Exhibit("image", samples)},
        )
        .task()
        ._replace(check=outside_unit)
    )


def divergence(mean: Array, log_variance: Array) -> Array:
    """Return KL(N(mean, exp(log_variance)) || N(0, 1)), summed over K numbers [B, K]: [B], in nats."""
    return summed(jnp.exp(log_variance) + jnp.square(mean) - 1 - log_variance) / 2


def bernoulli(logits: Array, inputs: Array) -> Array:
    """Return the negative log-likelihood of inputs [B, ...] in [0, 1], summed over an example: [B], in nats."""
    values = jax.nn.softplus(logits) - logits * inputs
    return summed(nan_unless((inputs >= 0) & (inputs <= 1), values))


def _code(shapes: Mapping[str, Shape]) -> Shape:
    *batch, outputs = shapes["encoder"]
    if outputs % 2:
        text = f"its outputs have {outputs} numbers, expected means and log-variances: an even number; "
        raise ConfigError(f"{text}of an mlp, set encoder.classes={outputs + 1}.", key="encoder")
    return (*batch, outputs // 2)


def _per_example(outputs: Array, batch: Batch) -> Array:
    return outputs
