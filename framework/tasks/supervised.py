"""The supervised task: fit a model's outputs to targets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax
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
from framework.ranges import beyond, bounds_of, declared
from framework.registry.heads import part, targeted
from framework.steps.rng import root_key
from framework.tasks.targets import outside

Traced = tuple[PyTree, list[int | None]]
"""Shapes of a model's outputs, which tell the range of classes, and bounds of its inputs."""


def supervised(
    model: Model,
    loss: Loss,
    optimizer: optax.GradientTransformation,
    metrics: Mapping[str, Metric],
    transforms: Sequence[Transform] = (),
    accumulate: int = 1,
) -> Task:
    """Fit a model's outputs to targets.

    Args:
      model: maps inputs to outputs.
      loss: `loss(outputs, batch) -> [B]`.
      optimizer: turns gradients into updates.
      metrics: by tag. In training they are computed on the step's own outputs, before its update.
      transforms: augmentations of training batches, in order; each is given a key for each example.
      accumulate: number of parts that a batch is cut into, of which one at a time is in memory.
    """
    loss_of = keyed(loss)
    traced: list[Traced] = []  # noted once an evaluation is traced

    def fit(nets: Networks, batch: Batch, keys: Keys) -> tuple[Any, Networks, dict[str, Any]]:
        with declared() as noted:
            outputs, nets = nets.apply("model", batch["inputs"], key=keys.device)
        if not nets.train:
            traced[:] = [(_shapes(outputs), bounds_of(batch["inputs"], noted))]
        values = loss_of(outputs, batch, keys.device if nets.train else None)
        return values, nets, measured(metrics, outputs, batch, nets.train)

    def check(spec: Batch, examples: Batch) -> tuple[int, str] | None:
        if not traced:
            traced.append(_outputs_of(model, spec))
        outputs, bounds = traced[0]
        for each in targeted(loss):
            targets = part(examples.get("targets"), each.on_target, "targets")
            if fault := outside(each, {**examples, "targets": targets}, part(outputs, each.on_head, "outputs")):
                return fault
        return beyond(examples.get("inputs"), examples.get("weights"), bounds)

    def predict(nets: Networks, inputs: PyTree, key: Array | None) -> PyTree:
        return nets.apply("model", inputs)[0]

    return (
        Learner(
            networks={"model": Network(model)},
            objectives={"model": Objective(fit, ("model",), optimizer)},
            metrics={"loss": as_metric(loss), **metrics},
            transforms=transforms,
            accumulate=accumulate,
            predict=predict,
        )
        .task()
        ._replace(check=check)
    )


def _outputs_of(model: Model, spec: Batch) -> Traced:
    """Trace a model on a batch of the data, where no evaluation was traced before."""
    bounds: list[int | None] = []

    def run(key: Array, inputs: PyTree) -> PyTree:
        _, params, state = model.init(key, jax.tree.map(lambda leaf: (-1, *leaf.shape[1:]), inputs))
        with declared() as noted:
            outputs, _ = model.apply(params, state, inputs, key=None, train=False)
        bounds[:] = bounds_of(inputs, noted)
        return outputs

    return jax.eval_shape(run, root_key(0), spec["inputs"]), bounds


def _shapes(tree: PyTree) -> PyTree:
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), tree)
