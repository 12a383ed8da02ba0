"""Distillation: a small model learns from the outputs of a trained one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import optax

from framework.api import (
    Array,
    Batch,
    Keys,
    Learner,
    Loss,
    Metric,
    Model,
    Network,
    Networks,
    Objective,
    PyTree,
    Task,
    Transform,
    as_metric,
    keyed,
    measured,
)
from framework.errors import ConfigError


def distillation(
    model: Model,
    teacher: Model,
    loss: Loss,
    optimizer: optax.GradientTransformation,
    metrics: Mapping[str, Metric],
    temperature: float = 4.0,
    alpha: float = 0.9,
    transforms: Sequence[Transform] = (),
    accumulate: int = 1,
) -> Task:
    """Fit a model to targets and to the class probabilities of a teacher, which a run has trained.

    The loss is `(1 - alpha) hard + alpha soft`. The first is the loss of the config; the second is the divergence of
    the student's probabilities from the teacher's, both of logits divided by the temperature, times its square, so
    that its gradients keep their size. The teacher's parameters are copied to the train state at the start, and so to
    every checkpoint: its folder may change later. Source: Hinton, Vinyals and Dean 2015, arXiv:1503.02531.

    Args:
      model: the student, which gives logits [B, ..., K].
      teacher: gives logits of the same classes; `teacher=trained teacher.run=RUN` takes that of a run.
      loss: of the student's outputs and the targets.
      optimizer: updates the student.
      metrics: by tag, of the student's outputs.
      temperature: divides the logits; above 1 it shows how the teacher ranks the wrong classes.
      alpha: weight of the teacher, 0 to 1.
      transforms: augmentations of training batches, in order; the teacher sees them too.
      accumulate: number of parts that a batch is cut into.

    Raises: ConfigError if a number is out of range, or the teacher has other outputs.
    """
    if isinstance(alpha, int | float) and not 0 <= alpha <= 1:
        raise ConfigError(f"{alpha} is no weight; take 0 to 1.", key="alpha")
    if isinstance(temperature, int | float) and not temperature > 0:
        raise ConfigError(f"{temperature} is no temperature; take a number above 0, such as 4.", key="temperature")
    loss_of = keyed(loss)

    def fit(nets: Networks, batch: Batch, keys: Keys) -> tuple[Any, Networks, dict[str, Any]]:
        wanted, _ = replace(nets, train=False).apply("teacher", batch["inputs"])
        outputs, nets = nets.apply("model", batch["inputs"], key=keys.device)
        hard = loss_of(outputs, batch, keys.device if nets.train else None)
        soft = divergence(wanted, outputs, temperature)
        values = jax.tree.map(lambda each: (1 - alpha) * each + alpha * soft, hard)
        return values, nets, {"hard_loss": hard, "soft_loss": soft, **measured(metrics, outputs, batch, nets.train)}

    def predict(nets: Networks, inputs: PyTree, key: Array | None) -> PyTree:
        return nets.apply("model", inputs)[0]

    return Learner(
        networks={"model": Network(model), "teacher": Network(teacher)},
        objectives={"model": Objective(fit, ("model",), optimizer)},
        metrics={"hard_loss": as_metric(loss), **metrics},
        transforms=transforms,
        accumulate=accumulate,
        predict=predict,
    ).task()


def divergence(teacher: Array, student: Array, temperature: float) -> Array:
    """Return temperature² KL(teacher || student) of softened class probabilities, in nats.

    Args:
      teacher: logits [B, ..., K].
      student: logits of the same shape.
      temperature: divides both.

    Returns: [B], the mean over positions.

    Raises: ConfigError if the shapes differ.
    """
    if teacher.shape != student.shape:
        text = f"the teacher's outputs are {list(teacher.shape)}, the student's {list(student.shape)}"
        raise ConfigError(f"{text}; expected the same classes.", key="teacher")
    wanted, given = (jax.nn.log_softmax(each.astype(jnp.float32) / temperature) for each in (teacher, student))
    values = (jnp.exp(wanted) * (wanted - given)).sum(axis=-1)
    return temperature**2 * values.reshape(values.shape[0], -1).mean(axis=-1)
