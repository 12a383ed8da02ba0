"""Representations without labels: two views of an example predict each other, as in BYOL and SimSiam."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax

from framework.api import (
    Array,
    Batch,
    Keys,
    Learner,
    Metric,
    Model,
    Network,
    Networks,
    Objective,
    PyTree,
    Task,
    Transform,
)
from framework.errors import ConfigError
from framework_tasks.arrays import folded
from framework_tasks.probe import probe


def contrastive(
    encoder: Model,
    projector: Model,
    predictor: Model,
    optimizer: optax.GradientTransformation,
    method: Literal["byol", "simsiam"] = "byol",
    decay: float = 0.99,
    transforms: Sequence[Transform] = (),
    accumulate: int = 1,
) -> Task:
    """Learn features such that the prediction of one view's projection agrees with the projection of another view.

    Two views of each example come from the data's augmentations, with keys of their own. The loss is 1 minus the cosine
    of prediction and projection, the mean of both directions; no gradient flows through the projection. With BYOL it
    is that of a teacher, whose parameters follow by a moving average after each update; with SimSiam it is the
    network's own. `spread` tells a collapse: the variance of projections of length 1, which is 0 where all are alike.

    An evaluation measures `probe_accuracy`: a linear classifier of standardized features, fitted by ridge regression to
    every other example of the split and tested on the rest, then the other way round. Its labels train nothing else.
    The trained task maps inputs to features. Sources: Grill et al. 2020, arXiv:2006.07733; Chen and He 2021,
    arXiv:2011.10566.

    Args:
      encoder: maps inputs [B, ...] to features [B, F], which are used later.
      projector: maps features to projections [B, P].
      predictor: maps projections to predictions [B, P]; it is narrower or has fewer layers.
      optimizer: updates all three.
      method: how the projection comes about that is predicted.
      decay: share of the teacher's parameters that stays at each update.
      transforms: augmentations, in order; at least one.
      accumulate: number of parts that a batch is cut into.

    Raises: ConfigError if the decay is not in [0, 1], or the data have no augmentations.
    """
    if isinstance(decay, int | float) and not 0 <= decay <= 1:
        raise ConfigError(f"{decay} is no share; take 0 to 1, such as 0.99.", key="decay")
    followed = ("encoder", "projector") if method == "byol" else ()

    def view(batch: Batch, keys: Array, number: int) -> Array:
        if not transforms:
            text = "both views of an example are alike without augmentations; list some"
            raise ConfigError(f"{text}, such as data.transform=[random_shift].", key="data.transform")
        for index, transform in enumerate(transforms):
            batch = transform(folded(keys, number * len(transforms) + index), batch)
        return batch["inputs"]

    def projected(nets: Networks, inputs: Array, key: Array) -> tuple[Array, Networks]:
        features, nets = nets.apply("encoder", inputs, key=key)
        return nets.apply("projector", features, key=key)

    def agree(nets: Networks, batch: Batch, keys: Keys) -> tuple[Array, Networks, dict[str, Array]]:
        teacher, projections, predictions, goals = nets.with_params(**nets.own), [], [], []
        for number in range(2):
            inputs, key = view(batch, keys.examples, number), jax.random.fold_in(keys.device, number)
            projection, nets = projected(nets, inputs, key)
            prediction, nets = nets.apply("predictor", projection, key=key)
            goal = projected(teacher, inputs, key)[0] if followed else projection
            projections.append(projection)
            predictions.append(prediction)
            goals.append(jax.lax.stop_gradient(goal))
        cosines = cosine(predictions[0], goals[1]) + cosine(predictions[1], goals[0])
        return 1 - cosines / 2, nets, {"spread": unit(projections[0])}

    def evaluate(nets: Networks, batch: Batch, keys: Keys) -> dict[str, Any]:
        loss, _, more = agree(nets, batch, keys)
        targets = batch["targets"]
        if not (targets.ndim == 1 and jnp.issubdtype(targets.dtype, jnp.integer)):
            return {"loss": loss, **more}
        features = predict(nets, batch["inputs"], None).astype(jnp.float32)
        return {"loss": loss, **more, "probe_accuracy": jnp.c_[features, targets.astype(jnp.float32)]}

    def predict(nets: Networks, inputs: Array, key: Array | None) -> Array:
        features = nets.apply("encoder", inputs)[0]
        return features.reshape(features.shape[0], -1)

    def begin(nets: Networks, key: Array, spec: Batch) -> PyTree:
        return {name: jax.tree.map(jnp.copy, nets.params[name]) for name in followed}

    def follow(nets: Networks) -> PyTree:
        now = {name: nets.params[name] for name in followed}
        return jax.tree.map(lambda old, new: decay * old + (1 - decay) * new, nets.own, now)

    return Learner(
        networks={
            "encoder": Network(encoder),
            "projector": Network(projector, lambda shapes: shapes["encoder"]),
            "predictor": Network(predictor, lambda shapes: shapes["projector"]),
        },
        objectives={"contrastive": Objective(agree, ("encoder", "projector", "predictor"), optimizer)},
        metrics={
            "spread": Metric(_values, variance, higher_is_better=True),
            "probe_accuracy": Metric(_values, probe, higher_is_better=True, collect=True),
        },
        accumulate=accumulate,
        evaluate=evaluate,
        begin=begin,
        after_update=follow,
        predict=predict,
    ).task()


def unit(vectors: Array) -> Array:
    """Scale vectors [B, P] to length 1, in float32."""
    vectors = vectors.astype(jnp.float32)
    return vectors * jax.lax.rsqrt(jnp.maximum(jnp.square(vectors).sum(axis=-1, keepdims=True), 1e-12))


def cosine(one: Array, other: Array) -> Array:
    """Return the cosines between vectors [B, P]: [B]."""
    return (unit(one) * unit(other)).sum(axis=-1)


def variance(total: np.ndarray, count: float) -> float:
    """Return the variance of vectors of length 1, from their sum [P] and their number."""
    return float(1 - np.square(total / count).sum())


def _values(outputs: Array, batch: Batch) -> Array:
    return outputs
