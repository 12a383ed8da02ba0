"""Exhibits of a task, such as samples: made from the state at each evaluation, and shown as media."""

from __future__ import annotations

from typing import Any

import jax

from framework.api import Array, Batch, Callback, PyTree, Run, TrainState, View, step_key, stream
from framework.experiment import Experiment, NamedCallback
from framework.media.values import MEDIA
from framework.tasks.ema import trained_params
from framework.training.inspection import one_replica


class Exhibits(Callback):
    """Make all exhibits in one compiled call, from the first examples of the evaluation and one replica of the state.

    Their random key is a stream of the step's own, so that a run which goes on shows what it would have shown.
    """

    def __init__(self, experiment: Experiment) -> None:
        exhibits, members = experiment.task.exhibits, experiment.members
        self.exhibits, self.facts, self.every = exhibits, experiment.data.facts, experiment.eval_every

        @jax.jit
        def made(view: View, batch: Batch, key: Array, step: Array) -> PyTree:
            key = stream(step_key(key, step), "exhibits")
            return {name: each.make(view, batch, stream(key, name)) for name, each in exhibits.items()}

        def arrays(state: TrainState, batch: Batch) -> dict[str, Any]:
            view = View(trained_params(state), state.model_state, state.task_state)
            view, key, step = one_replica((view, state.key, state.step), members)
            with jax.transfer_guard("allow"):  # it is the loop that debug=transfers watches
                return jax.device_get(made(view, batch, key, step))

        self.arrays = arrays

    def on_start(self, run: Run) -> None:
        """Take the examples."""
        self.run, self.batch = run, run.examples("eval", run.batch_size)

    def on_state(self, step: int, state: TrainState) -> None:
        """Show every exhibit, where the state is evaluated; not where a signal stops the run."""
        if step < self.run.total_steps and (self.every == 0 or step % self.every):
            return
        made = self.arrays(state, self.batch)
        for name, exhibit in self.exhibits.items():
            value = made[name] if exhibit.show is None else exhibit.show(made[name], self.facts)
            self.run.media.show(f"exhibits/{name}", MEDIA[exhibit.medium], value, step)


def exhibits_of(experiment: Experiment) -> tuple[NamedCallback, ...]:
    """Return the callback that shows a task's exhibits; none for a task without any."""
    if not experiment.task.exhibits:
        return ()
    return (NamedCallback(experiment.plugins["task"].title, Exhibits(experiment), "task"),)
