"""Language model: each integer of a sequence is predicted from those before it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
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
from framework_tasks.sampling import check_sampling, generate

UNKNOWN = "\N{REPLACEMENT CHARACTER}"
"""Stands for integers of the model that no character of the text has."""


def language_model(
    model: Model,
    loss: Loss,
    optimizer: optax.GradientTransformation,
    metrics: Mapping[str, Metric],
    temperature: float = 0.8,
    top_k: int = 0,
    sample: int = 256,
    prompt: int = 16,
    transforms: Sequence[Transform] = (),
    accumulate: int = 1,
) -> Task:
    """Predict the next integer at each position, and write on from a prompt at each evaluation.

    It trains as `supervised` does. The prompt is the beginning of the first evaluation example, and what follows is
    shown as text by the `characters` of the data's facts. `framework.load(RUN)` maps integers to logits;
    `framework_tasks.sampling.generate` continues a text.

    Args:
      model: maps integers [B, T] to logits [B, T, K] of the next ones, each from those up to its position.
      loss: of logits and targets [B, T], the integers one position later.
      optimizer: turns gradients into updates.
      metrics: by tag, such as `perplexity`.
      temperature: divides the logits of a sample; 0 takes the likeliest.
      top_k: draw from so many of the likeliest only; 0 for all.
      sample: integers that are drawn for a sample; 0 for no samples.
      prompt: integers that a sample begins with, at most T.
      transforms: augmentations of training batches, in order.
      accumulate: number of parts that a batch is cut into.

    Raises: ConfigError if a number is out of range.
    """
    check_sampling(temperature, top_k)
    if prompt < 1 or sample < 0:
        raise ConfigError(f"a sample of {sample} after {prompt}: expected 0 or more after 1 or more.", key="prompt")
    loss_of = keyed(loss)

    def fit(nets: Networks, batch: Batch, keys: Keys) -> tuple[Any, Networks, dict[str, Any]]:
        logits, nets = nets.apply("model", batch["inputs"], key=keys.device)
        values = loss_of(logits, batch, keys.device if nets.train else None)
        return values, nets, measured(metrics, logits, batch, nets.train)

    def predict(nets: Networks, inputs: Array, key: Array | None) -> Array:
        return nets.apply("model", inputs)[0]

    def write(nets: Networks, batch: Batch, key: Array) -> Array:
        inputs = batch["inputs"][:1]
        logits_of = lambda window: predict(nets, window, None)  # noqa: E731
        return generate(logits_of, inputs[:, :prompt], sample, inputs.shape[1], key, temperature, top_k)[0]

    def text(numbers: np.ndarray, facts: Mapping[str, Any]) -> str:
        alphabet = facts.get("characters")
        if alphabet is None:
            return " ".join(map(str, numbers))
        return "".join(alphabet[each] if each < len(alphabet) else UNKNOWN for each in numbers)

    return Learner(
        networks={"model": Network(model)},
        objectives={"model": Objective(fit, ("model",), optimizer)},
        metrics={"loss": as_metric(loss), **metrics},
        transforms=transforms,
        accumulate=accumulate,
        predict=predict,
        exhibits={"sample": Exhibit("text", write, text)} if sample else {},
    ).task()
