"""Generative adversarial networks: one that makes examples, and one that tells them from real ones."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import optax

from framework.api import (
    Array,
    Batch,
    Exhibit,
    Keys,
    Learner,
    Model,
    Network,
    Networks,
    Objective,
    Task,
    Transform,
)
from framework.errors import ConfigError
from framework_tasks.arrays import folded, like, noise, outside_unit, pictures


def gan(
    generator: Model,
    discriminator: Model,
    generator_optimizer: optax.GradientTransformation,
    discriminator_optimizer: optax.GradientTransformation,
    latent: int = 64,
    updates: int = 1,
    transforms: Sequence[Transform] = (),
    accumulate: int = 1,
) -> Task:
    """Train a generator of examples in [0, 1] against a discriminator.

    In each step the discriminator is updated first. Its loss is its cross-entropy on real and on made examples; that
    of the generator is the cross-entropy of made examples called real, which has larger gradients at first than
    minimax. An evaluation logs both, and the share of real and of made examples that the discriminator knows. Neither
    loss tells how good samples are: look at them, one picture at each evaluation. `framework.load(RUN)` maps noise
    [B, latent] to examples. Sources: Goodfellow et al. 2014, arXiv:1406.2661; Radford et al. 2016, arXiv:1511.06434.

    Args:
      generator: maps noise [B, latent] to as many logits as inputs have, in any shape; a sigmoid follows.
      discriminator: maps inputs [B, ...] in [0, 1] to a logit [B, 1], high for real ones.
      generator_optimizer: updates the generator.
      discriminator_optimizer: updates the discriminator.
      latent: normal random numbers that an example is made of.
      updates: of the discriminator for one of the generator.
      transforms: augmentations of real examples, in order.
      accumulate: number of parts that a batch is cut into.

    Raises: ConfigError if a number is below 1, or the outputs of a network do not fit. Examples outside [0, 1] are
      refused before the run: of images, set `data.normalize=false`.
    """
    for name, number in {"latent": latent, "updates": updates}.items():
        if number < 1:
            raise ConfigError(f"{number} is too few; take 1 or more.", key=name)

    def make(nets: Networks, codes: Array, inputs: Array, key: Array | None = None) -> tuple[Array, Networks]:
        logits, nets = nets.apply("generator", codes, key=key)
        return jax.nn.sigmoid(like(inputs, logits, "generator")), nets

    def judge(nets: Networks, inputs: Array, key: Array | None = None) -> tuple[Array, Networks]:
        logits, nets = nets.apply("discriminator", inputs, key=key)
        if logits.shape != (inputs.shape[0], 1):
            text = f"its outputs are {list(logits.shape)}, expected one logit for each example, [B, 1]; "
            raise ConfigError(f"{text}of an mlp, set discriminator.classes=1.", key="discriminator")
        return logits[:, 0], nets

    def discriminate(nets: Networks, batch: Batch, keys: Keys) -> tuple[Array, Networks, dict[str, Array]]:
        inputs, (one, two) = batch["inputs"], jax.random.split(keys.device)
        made, _ = make(nets, noise(keys.examples, (latent,)), inputs, keys.device)
        real, nets = judge(nets, inputs, one)
        fake, nets = judge(nets, jax.lax.stop_gradient(made), two)
        more = {"real": real > 0, "made": fake < 0}
        return jax.nn.softplus(-real) + jax.nn.softplus(fake), nets, more

    def generate(nets: Networks, batch: Batch, keys: Keys) -> tuple[Array, Networks, dict[str, Array]]:
        made, after = make(nets, noise(folded(keys.examples, 1), (latent,)), batch["inputs"], keys.device)
        judged, _ = judge(nets, made, keys.device)
        return jax.nn.softplus(-judged), after, {}

    def samples(nets: Networks, batch: Batch, key: Array) -> Array:
        inputs = batch["inputs"][:64]
        return pictures(make(nets, jax.random.normal(key, (inputs.shape[0], latent)), inputs)[0], 64)

    return (
        Learner(
            networks={
                "generator": Network(generator, lambda shapes: (-1, latent)),
                "discriminator": Network(discriminator),
            },
            objectives={
                "discriminator": Objective(discriminate, ("discriminator",), discriminator_optimizer, updates),
                "generator": Objective(generate, ("generator",), generator_optimizer),
            },
            transforms=transforms,
            accumulate=accumulate,
            predict=lambda nets, codes, key: jax.nn.sigmoid(nets.apply("generator", codes)[0]),
            exhibits={"samples": Exhibit("image", samples)},
        )
        .task()
        ._replace(check=outside_unit, inputs=lambda spec: jax.ShapeDtypeStruct((1, latent), jnp.float32))
    )
