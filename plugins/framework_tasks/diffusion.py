"""Diffusion: noise is taken away from examples step by step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
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
    Shape,
    Task,
    Transform,
)
from framework.errors import ConfigError
from framework_tasks.arrays import folded, like, noise, outside_unit, pictures, summed


def diffusion(
    model: Model,
    optimizer: optax.GradientTransformation,
    steps: int = 200,
    transforms: Sequence[Transform] = (),
    accumulate: int = 1,
) -> Task:
    """Learn to tell the noise in noisy examples, and make examples of pure noise by it (DDPM).

    Examples in [0, 1] are scaled to [-1, 1]. Step t keeps the share `kept(steps)[t]` of their variance, and fills up
    with normal noise. The loss is the mean squared error of the noise, at a random step for each example. The trained
    task maps noise [B, ...] to examples: with a seed it draws anew at each step, without one it takes the
    deterministic way (DDIM). Each evaluation shows samples. Sources: Ho et al. 2020, arXiv:2006.11239; Nichol and
    Dhariwal 2021, arXiv:2102.09672, for the cosine schedule; Song et al. 2021, arXiv:2010.02502, for DDIM.

    Args:
      model: maps `{"inputs": [B, ...], "step": int32 [B]}`, noisy examples and their steps from 1, to as many numbers
        as examples have, in any shape: the noise.
      optimizer: turns gradients into updates.
      steps: from an example to pure noise.
      transforms: augmentations of training batches, in order.
      accumulate: number of parts that a batch is cut into.

    Raises: ConfigError if steps are below 2, or the model's outputs do not fit.
    """
    if steps < 2:
        raise ConfigError(f"{steps} is too few; take 2 or more, such as 200.", key="steps")
    shares = jnp.asarray(kept(steps), jnp.float32)

    def told(nets: Networks, noisy: Array, step: Array, key: Array | None = None) -> tuple[Array, Networks]:
        outputs, nets = nets.apply("model", {"inputs": noisy, "step": step}, key=key)
        return like(noisy, outputs, "model"), nets

    def fit(nets: Networks, batch: Batch, keys: Keys) -> tuple[Array, Networks, dict[str, Array]]:
        clean = 2 * batch["inputs"] - 1
        step = jax.vmap(lambda key: jax.random.randint(key, (), 1, steps + 1))(folded(keys.examples, 1))
        added = noise(keys.examples, clean.shape[1:]).astype(clean.dtype)
        found, nets = told(nets, mixed(clean, added, shares[step]), step, keys.device)
        return summed(jnp.square(found - added)) / added[0].size, nets, {}

    def predict(nets: Networks, inputs: Array, key: Array | None) -> Array:
        def cleaner(index: Array, noisy: Array) -> Array:
            step = steps - index
            number = jnp.full(noisy.shape[0], step)
            found, _ = told(nets, noisy, number)
            now, before = shares[step], shares[step - 1]
            clean = jnp.clip((noisy - jnp.sqrt(1 - now) * found) / jnp.sqrt(now), -1, 1)
            if key is None:
                return mixed(clean, found, jnp.full(noisy.shape[0], before))
            mean, variance = posterior(clean, noisy, now, before)
            return mean + jnp.sqrt(variance) * jax.random.normal(jax.random.fold_in(key, index), noisy.shape)

        return (jax.lax.fori_loop(0, steps, cleaner, inputs) + 1) / 2

    def samples(nets: Networks, batch: Batch, key: Array) -> Array:
        begin, draws = jax.random.split(key)
        inputs = batch["inputs"][:32]
        return pictures(predict(nets, jax.random.normal(begin, inputs.shape), draws))

    def in_shape(shapes: Mapping[str, Shape]) -> Shape:
        return {"inputs": shapes["inputs"], "step": (-1,)}

    return (
        Learner(
            networks={"model": Network(model, in_shape)},
            objectives={"model": Objective(fit, ("model",), optimizer)},
            transforms=transforms,
            accumulate=accumulate,
            predict=predict,
            exhibits={"samples": Exhibit("image", samples)},
        )
        .task()
        ._replace(check=outside_unit, inputs=lambda spec: spec["inputs"])
    )


def kept(steps: int) -> np.ndarray:
    """Return the share of the variance that is the example's after each step, from 1 to about 0: float64 [steps + 1].

    It follows a squared cosine; no step takes away more than 99.9 %.
    """
    angles = (np.arange(steps + 1) / steps + 0.008) / 1.008 * np.pi / 2
    shares = np.cos(angles) ** 2
    return np.cumprod(np.r_[1.0, np.maximum(shares[1:] / shares[:-1], 0.001)])


def mixed(clean: Array, added: Array, share: Array) -> Array:
    """Mix examples with noise [B, ...]: their shares [B] of the variance are the examples'."""
    share = share.reshape(-1, *[1] * (clean.ndim - 1)).astype(clean.dtype)
    return jnp.sqrt(share) * clean + jnp.sqrt(1 - share) * added


def posterior(clean: Array, noisy: Array, now: Array, before: Array) -> tuple[Array, Array]:
    """Return mean [B, ...] and variance [] of an example one step earlier, if the example and its noisy form are known.

    Args:
      clean: examples [B, ...].
      noisy: after the step.
      now: share of the variance that is the example's after the step.
      before: that share before the step.
    """
    taken = 1 - now / before
    mean = (jnp.sqrt(before) * taken * clean + jnp.sqrt(1 - taken) * (1 - before) * noisy) / (1 - now)
    return mean, taken * (1 - before) / (1 - now)
