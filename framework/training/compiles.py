"""Compilations of a run: the traces of its train step, with what differed in each, and what the compiler did."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import wraps
from typing import Any, NamedTuple

import jax
import jax.core

from framework.api import PyTree
from framework.errors import PluginError
from framework.experiment import Experiment
from framework.numerics import differing, numeric_settings
from framework.tags import COMPILE_SECONDS, COMPILED
from framework.tasks.tracing import keeper
from framework.trees import named_leaves, shape_text

LOGGER = logging.getLogger("framework")

COMPILING = "/jax/core/compile/backend_compile_duration"
LOWERING = "/jax/core/compile/jaxpr_to_mlir_module_duration"
"""Names by which `jax.monitoring` tells the seconds of a program. That of traces counts inner traces twice."""

LISTED = 3
"""Leaves that a line lists."""


class Trace(NamedTuple):
    """Key of a trace of JAX, as far as it can be seen from within.

    Attributes:
      leaves: of state and feed by path, in words: "float32[16, 6]", with "weak" for a weak type.
      static: arguments that are no arrays, by name.
      settings: of JAX that change numbers.
    """

    leaves: Mapping[str, str]
    static: Mapping[str, str]
    settings: Mapping[str, Any]


class Traces:
    """The traces of one train step, which should be a single one: a chunk's length is a traced value.

    Attributes:
      seen: oldest first.
    """

    def __init__(self) -> None:
        self.seen: list[Trace] = []

    def noting(self, step: Callable[..., Any]) -> Callable[..., Any]:
        """Return the step, which notes when it is traced; a call op by op is none."""

        @wraps(step)
        def noted(state: PyTree, feed: PyTree, axis: str | None = None) -> Any:
            if any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves((state, feed))):
                leaves = {path: _text(leaf) for path, leaf in named_leaves({"state": state, "feed": feed})}
                self.seen.append(Trace(leaves, {"axis": repr(axis)}, numeric_settings()))
            return step(state, feed, axis)

        return noted


def check_traces(traces: Traces, experiment: Experiment, step: int) -> None:
    """Tell of a trace that is not the first, with what differs and whose it is.

    Args:
      traces: of the train step.
      step: up to which the call runs that was traced.

    Raises: PluginError with train.retraces=error.
    """
    if len(traces.seen) < 2:
        return
    before, after = traces.seen[-2:]
    part, _, path = next(iter(changed_leaves(before, after)), "").partition("/")
    key = "data" if part == "feed" else keeper(path, experiment.plugins)
    owner = f"{experiment.plugins[key].title}: " if part else ""
    text = f"{owner}step {step}: the train step was traced {len(traces.seen)} times: {difference(before, after)}"
    if experiment.settings.train.retraces == "error":
        raise PluginError(f"{text}.", key="train.retraces")
    LOGGER.warning(f"{text}; each trace costs a compilation.")


def changed_leaves(before: Trace, after: Trace) -> list[str]:
    """Return the paths of the leaves that differ between two traces, such as "state/params/0_Conv/W"."""
    paths = {**before.leaves, **after.leaves}
    return [path for path in paths if before.leaves.get(path) != after.leaves.get(path)]


def difference(before: Trace, after: Trace) -> str:
    """Describe in one line what differs between two traces."""
    changed = [
        f"{path} was {before.leaves.get(path, 'absent')} and is {after.leaves.get(path, 'absent')}"
        for path in changed_leaves(before, after)
    ]
    more = [f"{len(changed) - LISTED} leaves more"] if len(changed) > LISTED else []
    static = [
        f"the static {name} was {before.static[name]} and is {value}"
        for name, value in after.static.items()
        if before.static[name] != value
    ]
    settings = [f"{name}: {text}" for name, text in differing(before.settings, after.settings).items()]
    told = [*changed[:LISTED], *more, *static, *settings]
    return ", ".join(told) or "all arguments are alike: JAX's caches were cleared, or another setting of it changed"


class Compiles:
    """A count of the programs that JAX compiles in this process, and of the seconds that it takes.

    Attributes:
      programs: compiled, or taken from the cache on the disk.
      seconds: spent on lowering and compiling them, without tracing.
      traces: of the train step.
    """

    def __init__(self) -> None:
        self.traces = Traces()
        self.programs, self.seconds = 0, 0.0
        self._logged = 0, 0.0

    @contextmanager
    def counting(self, spent: Callable[[float], None] = lambda seconds: None) -> Iterator[None]:
        """Count inside the context.

        Args:
          spent: told the seconds of each program that this thread has compiled.
        """
        owner = threading.get_ident()

        def note(event: str, duration_secs: float, **_: str | int) -> None:
            if event in (COMPILING, LOWERING):
                self.seconds += duration_secs
                self.programs += event == COMPILING
                if threading.get_ident() == owner:
                    spent(duration_secs)

        jax.monitoring.register_event_duration_secs_listener(note)
        try:
            yield
        finally:
            jax.monitoring.unregister_event_duration_listener(note)

    def told(self) -> dict[str, Any]:
        """Return the numbers for the run record."""
        return {"programs": self.programs, "seconds": round(self.seconds, 3), "train_step": len(self.traces.seen)}

    def lap(self) -> dict[str, float]:
        """Return programs and seconds since the last call, by tag."""
        programs, seconds = self._logged
        self._logged = self.programs, self.seconds
        return {COMPILED: float(self.programs - programs), COMPILE_SECONDS: self.seconds - seconds}


def in_words(told: Mapping[str, Any]) -> list[str]:
    """Say how much was compiled, as "14 programs in 3.1 s" and "the train step traced once"; [] if it is not known."""
    if not told:
        return []
    traces = int(told["train_step"])
    times = {0: "not traced", 1: "traced once"}.get(traces, f"traced {traces} times")
    return [f"{told['programs']} programs in {told['seconds']:.3g} s", f"the train step {times}"]


def _text(leaf: Any) -> str:
    """Describe an array by dtype, shape and weak type."""
    return f"weak {shape_text(leaf)}" if getattr(leaf, "weak_type", False) else shape_text(leaf)
