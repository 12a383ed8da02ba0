"""Keras 3 on its JAX backend, by `fit`."""

from __future__ import annotations

import os
import time
from typing import Any

os.environ["KERAS_BACKEND"] = "jax"

import keras  # pyright: ignore[reportMissingImports]

from benchmarks.images import load
from benchmarks.workloads import SHAPE, Marks, Plan, Workload

LAYERS: dict[str, Any] = {
    "Conv": lambda channels, size, padding: keras.layers.Conv2D(channels, size, padding=padding.lower()),
    "MaxPool": lambda: keras.layers.MaxPooling2D(2),
    "Relu": keras.layers.ReLU,
    "Flatten": keras.layers.Flatten,
    "Dense": keras.layers.Dense,
}


def run(workload: Workload, plan: Plan) -> Marks:
    """`fit` for an epoch to warm up and as many as the plan's steps fill, on as many examples as an epoch takes."""
    images, labels = (array[: plan.epoch * plan.batch_size] for array in load(plan.synthetic))
    layers = [LAYERS[name](*options) for name, *options in workload.layers]
    model = keras.Sequential([keras.Input(SHAPE), *layers])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer=keras.optimizers.Adam(plan.learning_rate), loss=loss)
    stopwatch = Stopwatch(plan.epoch)
    epochs = 1 + -(-plan.steps // plan.epoch)
    model.fit(images, labels, batch_size=plan.batch_size, epochs=epochs, callbacks=[stopwatch])
    return stopwatch.marks


class Stopwatch(keras.callbacks.Callback):
    """Notes the time at the end of every epoch, when Keras has read its metrics."""

    def __init__(self, steps: int) -> None:
        super().__init__()
        self.steps, self.marks = steps, []

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Note the time."""
        self.marks.append(((epoch + 1) * self.steps, time.monotonic()))
