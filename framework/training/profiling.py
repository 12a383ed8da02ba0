"""Profiles of some steps: what host and devices do in them, as `jax.profiler` records it for TensorBoard."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import jax

from framework.api import TrainState
from framework.distributed import processes
from framework.errors import writing
from framework.training.stepper import Advance, Parts

LOGGER = logging.getLogger("framework")

FOLDER = "profile"
"""Folder in a run's folder; TensorBoard's Profile plugin finds `plugins/profile/<time>` below it."""


class Profiler:
    """Records windows of steps, of several processes in the first.

    A window begins when the steps before it are done, and ends when its own are. So its first step is not faster for
    what was dispatched before.
    """

    def __init__(self, directory: Path, steps: tuple[int, int] | None) -> None:
        """Plan the steps of `debug.profile`.

        Args:
          directory: of the run.
          steps: the first and the last step, counted from 1; None for no plan.
        """
        self._folder, self._is_asked, self._since = directory / FOLDER, False, -1
        self._span = (0, 0) if steps is None else (steps[0] - 1, steps[1])

    @property
    def bounds(self) -> tuple[int, ...]:
        """The steps at which a window must end, so that the profile has the steps that were asked for."""
        return self._span if self._span[1] else ()

    def ask(self) -> None:
        """Record the next window, whatever it is."""
        self._is_asked = True

    @contextmanager
    def watching(self, advance: Advance) -> Iterator[Advance]:
        """Yield the same steps, which are recorded where that is planned; end a record that is left open."""

        def profiled(state: TrainState, start: int, stop: int) -> tuple[TrainState, Parts]:
            is_planned = self._span[0] <= start < self._span[1]
            if self._since < 0 and (is_planned or self._is_asked) and processes.index() == 0:
                self._begin(state, start)
            state, parts = advance(state, start, stop)
            if self._since >= 0 and (self._is_asked or stop >= self._span[1]):
                self._end(state, stop)
            return state, parts

        try:
            yield profiled
        finally:
            if self._since >= 0:
                self._end(None, -1)
            elif self._is_asked:
                LOGGER.warning("no step is left to profile.")

    def _begin(self, state: TrainState, start: int) -> None:
        jax.block_until_ready(state)
        options = jax.profiler.ProfileOptions()
        options.python_tracer_level = 0  # Python's own calls would hide and slow what is measured
        with writing(self._folder):
            jax.profiler.start_trace(self._folder, profiler_options=options)
        self._since = start

    def _end(self, state: TrainState | None, stop: int) -> None:
        jax.block_until_ready(state)
        first, self._since, self._is_asked = self._since + 1, -1, False
        with writing(self._folder):
            jax.profiler.stop_trace()
        steps = f"steps {first} to {stop}" if stop > 0 else f"the steps from {first} on"
        LOGGER.info(f"profile of {steps}: {self._folder}; `framework board` shows it with TensorBoard's Profile plugin")
