"""Probes of a run: measured every few steps, each as a compiled program of its own, beside the training."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from framework.api import Callback, Run, TrainState
from framework.experiment import Experiment, NamedCallback, NamedProbe
from framework.records.logs import LOGGER
from framework.training.inspection import one_replica


class Probing(Callback):
    """One probe: it sees one replica of the state, of several members the first, and the batch of the next step.

    Batch and random key are functions of the seed and the step, so that a run which goes on has the same points.
    """

    def __init__(self, experiment: Experiment, each: NamedProbe) -> None:
        self.experiment, self.tag, self.every, self.measure = experiment, each.tag, each.every, each.measure
        self.is_told = False

    def on_start(self, run: Run) -> None:
        """Take the run's log."""
        self.run = run

    def on_state(self, step: int, state: TrainState) -> None:
        """Measure at multiples of the period, and say once if no process has the whole state."""
        if step % self.every:
            return
        if not all(leaf.is_fully_addressable or leaf.is_fully_replicated for leaf in jax.tree.leaves(state)):
            if not self.is_told:
                LOGGER.warning(f"probes.{self.tag} measures nothing: processes cut the state among them")
            self.is_told = True
            return
        data, seed = self.experiment.data, self.experiment.settings.seed
        with jax.transfer_guard("allow"):  # it is the loop that debug=transfers watches
            found: dict[str, Any] = jax.device_get(
                self.measure(one_replica(state, self.experiment.members), dict(next(iter(data.train(seed, step)))))
            )
        arrays = {f"probe/{self.tag}/{name}": np.asarray(value) for name, value in found.items()}
        self.run.log(step, {tag: float(value) for tag, value in arrays.items() if not value.shape})
        for tag, value in arrays.items():
            if value.shape:
                self.run.log_histogram(tag, value, step)


def probes_of(experiment: Experiment) -> tuple[NamedCallback, ...]:
    """Return a callback for each probe of an experiment."""
    return tuple(
        NamedCallback(each.label, Probing(experiment, each), f"probes.{each.tag}") for each in experiment.probes
    )
