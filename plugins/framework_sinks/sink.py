"""The base of sinks: what a tracker has not got yet is sent from the run's history, and one that fails ends no run."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

from framework.api import Callback, Medium, Run, Summary

LOGGER = logging.getLogger("framework")

LONGEST = 100
"""Characters of a name."""

NUMBERLESS = (
    *("run", "callbacks", "debug", "distributed"),
    *(f"train.{name}" for name in ("log_every", "eval_every", "checkpoint_every", "steps_per_call", "resident_mib")),
)
"""Parts of a config that change no number of a run."""


class Sink(Callback):
    """A callback that hands scalars and media to a tracker.

    A sink is opened with the facts of a run, and is asked at its start which steps it has. A resumed run goes on in the
    same place, whatever the former process had no time to send. An error of the tracker after its start is told once,
    and nothing more is sent: the run matters more.
    """

    name = "sink"

    def open(self, run: Run) -> None:
        """Begin, or go on with what has the run's id.

        Raises: ConfigError if the tracker cannot be used.
        """
        raise NotImplementedError

    def send(self, step: int, scalars: Mapping[str, float]) -> None:
        """Send scalars that are missing there; those that stand there already are left out."""
        raise NotImplementedError

    def show(self, step: int, tag: str, medium: Medium) -> None:
        """Send a medium."""
        raise NotImplementedError

    def close(self, status: str) -> None:
        """Say how the run ended: "done", "stopped" or "failed"."""
        raise NotImplementedError

    def on_start(self, run: Run) -> None:
        """Open the sink, and send what it lacks of the history."""
        self._is_working = True
        self.open(run)
        for record in run.history.records():
            self._surviving(self.send, int(record["step"]), {tag: v for tag, v in record.items() if tag != "step"})

    def on_log(self, step: int, scalars: Mapping[str, float]) -> None:
        """Send scalars."""
        self._surviving(self.send, step, scalars)

    def on_media(self, step: int, tag: str, medium: Medium) -> None:
        """Send a medium."""
        self._surviving(self.show, step, tag, medium)

    def on_end(self, summary: Summary) -> None:
        """Close the sink."""
        self._surviving(self.close, summary.status)

    def _surviving(self, call: Callable[..., None], *arguments: Any) -> None:
        if not getattr(self, "_is_working", False):
            return
        try:
            call(*arguments)
        except Exception as error:  # a tracker raises what its libraries raise
            self._is_working = False
            reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
            LOGGER.warning(f"{self.name} gets nothing more, and the run goes on without: {reason}")


def title(run: Run, without: tuple[str, ...] = ()) -> str:
    """Return the name of a run for people: "mnist seed=2 learning_rate=0.003".

    Args:
      without: keys to leave out, such as "seed".
    """
    chosen = {key: value for key, value in run.overrides.items() if key not in ("experiment", *without)}
    parts = [f"{key.rpartition('.')[2]}={value}" for key, value in chosen.items() if _tells(key)]
    while len(" ".join([run.name, *parts])) > LONGEST and len(parts) > 1:
        parts = ["…", *parts[2 if parts[0] == "…" else 1 :]]  # what comes last is most often what is varied
    return " ".join([run.name, *parts])[:LONGEST]


def _tells(key: str) -> bool:
    return not any(key == part or key.startswith((f"{part}.", f"{part}+")) for part in NUMBERLESS)


def flat(node: Any, prefix: str = "") -> dict[str, Any]:
    """Return the leaves of a config by dotted key."""
    if not isinstance(node, Mapping):
        return {prefix: node}
    return {k: v for name, each in node.items() for k, v in flat(each, f"{prefix}.{name}".lstrip(".")).items()}
