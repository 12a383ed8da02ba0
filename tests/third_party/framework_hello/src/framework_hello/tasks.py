"""A task: what one step computes, where it is more than a model and a loss."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from framework.api import Batch, Keys, Learner, Loss, Metric, Model, Network, Networks, Objective, Task, measured


def mean_teacher(
    model: Model,
    loss: Loss,
    optimizer: optax.GradientTransformation,
    metrics: Mapping[str, Metric],
    decay: float = 0.99,
    noise: float = 0.1,
) -> Task:
    """Fit a model to targets, and to a teacher that sees other noise: the average of the model's own parameters.

    Source: Tarvainen and Valpola 2017, "Mean teachers are better role models", arXiv:1703.01780.

    Args:
      model: the student; the trained task is its teacher.
      loss: of the student's outputs.
      optimizer: updates the student.
      metrics: by tag, of the student's outputs.
      decay: share of the teacher that stays at each update.
      noise: standard deviation of what is added to inputs.
    """

    def fit(nets: Networks, batch: Batch, keys: Keys) -> tuple[Any, Networks, dict[str, Any]]:
        inputs = batch["inputs"]
        noises = jax.vmap(lambda key: noise * jax.random.normal(key, (2, *inputs.shape[1:])))(keys.examples)
        taught, _ = nets.with_params(model=nets.own).apply("model", inputs + noises[:, 0])
        outputs, nets = nets.apply("model", inputs + noises[:, 1], key=keys.device)
        distance = jnp.square(outputs - jax.lax.stop_gradient(taught)).mean(axis=-1)
        more = {"distance": distance, **measured(metrics, outputs, batch, nets.train)}
        return loss(outputs, batch) + distance, nets, more

    return Learner(
        networks={"model": Network(model)},
        objectives={"model": Objective(fit, ("model",), optimizer)},
        metrics=metrics,
        evaluate=lambda nets, batch, keys: measured(
            metrics, nets.with_params(model=nets.own).apply("model", batch["inputs"])[0], batch
        ),
        begin=lambda nets, key, spec: jax.tree.map(jnp.copy, nets.params["model"]),
        after_update=lambda nets: optax.incremental_update(nets.params["model"], nets.own, 1 - decay),
        predict=lambda nets, inputs, key: nets.with_params(model=nets.own).apply("model", inputs)[0],
    ).task()
