"""Autoencoder: a code of the inputs from which they can be made again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import optax

from framework.api import (
    Array,
    Batch,
    Exhibit,
    Keys,
    Learner,
    Loss,
    Metric,
    Model,
    Network,
    Networks,
    Objective,
    Task,
    Transform,
    as_metric,
    keyed,
    measured,
)
from framework.errors import ConfigError
from framework_tasks.arrays import above, like, noise


def autoencoder(
    encoder: Model,
    decoder: Model,
    loss: Loss,
    optimizer: optax.GradientTransformation,
    metrics: Mapping[str, Metric],
    noise_level: float = 0.0,
    transforms: Sequence[Transform] = (),
    accumulate: int = 1,
) -> Task:
    """Reconstruct inputs from a code, and, with noise, clean inputs from noisy ones.

    The trained task maps inputs to reconstructions; `framework.load(RUN).encoder` maps them to codes. Each evaluation
    shows inputs above their reconstructions. Sources: Hinton and Salakhutdinov 2006, "Reducing the dimensionality of
    data with neural networks"; with noise, Vincent et al. 2008, "Extracting and composing robust features with
    denoising autoencoders".

    Args:
      encoder: maps inputs [B, ...] to a code.
      decoder: maps the code to as many numbers as inputs have, in any shape.
      loss: of reconstructions, whose targets are the inputs; of logits if it is a cross-entropy.
      optimizer: updates both networks.
      metrics: by tag, of reconstructions and inputs.
      noise_level: standard deviation of normal noise that is added to the encoder's inputs in training.
      transforms: augmentations of training batches, in order.
      accumulate: number of parts that a batch is cut into.

    Raises: ConfigError if the noise level is negative, or the decoder's outputs do not fit the inputs.
    """
    if isinstance(noise_level, int | float) and noise_level < 0:
        raise ConfigError(f"{noise_level} is not a standard deviation; take 0 or more.", key="noise_level")
    loss_of = keyed(loss)

    def reconstruct(nets: Networks, inputs: Array, clean: Array, key: Array | None = None) -> tuple[Array, Networks]:
        code, nets = nets.apply("encoder", inputs, key=key)
        outputs, nets = nets.apply("decoder", code, key=key)
        return like(clean, outputs, "decoder"), nets

    def fit(nets: Networks, batch: Batch, keys: Keys) -> tuple[Any, Networks, dict[str, Any]]:
        clean = batch["inputs"]
        inputs = (
            clean + noise_level * noise(keys.examples, clean.shape[1:]).astype(clean.dtype) if nets.train else clean
        )
        outputs, nets = reconstruct(nets, inputs, clean, keys.device)
        batch = {**batch, "targets": clean}
        values = loss_of(outputs, batch, keys.device if nets.train else None)
        return values, nets, measured(metrics, outputs, batch, nets.train)

    def predict(nets: Networks, inputs: Array, key: Array | None) -> Array:
        return reconstruct(nets, inputs, inputs)[0]

    def show(nets: Networks, batch: Batch, key: Array) -> Array:
        inputs = batch["inputs"][:8]
        return above(inputs, predict(nets, inputs, None))

    return Learner(
        networks={"encoder": Network(encoder), "decoder": Network(decoder, lambda shapes: shapes["encoder"])},
        objectives={"autoencoder": Objective(fit, ("encoder", "decoder"), optimizer)},
        metrics={"loss": as_metric(loss), **metrics},
        transforms=transforms,
        accumulate=accumulate,
        predict=predict,
        exhibits={"reconstructions": Exhibit("image", show)},
    ).task()
