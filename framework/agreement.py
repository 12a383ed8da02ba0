"""How several processes come to the same decisions: process 0 decides, writes and runs callbacks.

What it decides reaches the others through the key-value store of JAX's coordination service, so that a decision needs
no device and never waits for a step.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from framework.contracts import Callback, PyTree, Run, StopTraining, Summary, TrainState
from framework.errors import ConfigError, FrameworkError, InterruptError
from framework.processes import count, index, store

FOR_EVER = 7 * 24 * 3600 * 1000
"""Milliseconds; the watchdog, not a time limit of one request, decides when a process waits in vain."""

KEPT = 1000
"""Answers that stay in the key-value store. No process is that many decisions behind: steps keep them together."""

KINDS = (StopTraining, FrameworkError, *FrameworkError.__subclasses__())
"""What can be told to other processes, by name."""

_numbers = itertools.count()


def agree(decide: Callable[[], Any]) -> Any:
    """What process 0 decides; the others do not decide but wait for it. Each must ask in the same order.

    Args:
      decide: a function to what JSON can hold.

    Raises: in every process the FrameworkError or StopTraining that `decide` raised in process 0.
    """
    if count() == 1:
        return decide()
    number = next(_numbers)
    key = f"framework/answers/{number}"
    if index() > 0:
        answer = json.loads(store().blocking_key_value_get(key, FOR_EVER))
        if "error" in answer:
            raise _raised(**answer)
        return answer["value"]
    try:
        answer = {"value": decide()}
    except BaseException as error:
        store().key_value_set(key, json.dumps(_told(error)))
        raise
    store().key_value_set(key, json.dumps(answer))
    if number >= KEPT:
        store().key_value_delete(f"framework/answers/{number - KEPT}")
    return answer["value"]


def _told(error: BaseException) -> dict[str, Any]:
    if not isinstance(error, KINDS):
        return {"error": "PeerError", "text": f"process 0 failed: {type(error).__name__}: {error}", "exit_code": 7}
    kind = next(kind.__name__ for kind in type(error).__mro__ if kind in KINDS)
    return {"error": kind, "text": str(error), "exit_code": getattr(error, "exit_code", 0)}


def _raised(error: str, text: str, exit_code: int) -> Exception:
    kind = next(kind for kind in KINDS if kind.__name__ == error)
    return InterruptError(text, exit_code) if kind is InterruptError else kind(text)


def check_alike(facts: Mapping[str, Any]) -> None:
    """Compare what must be equal in all processes, such as the config, with what it is in process 0.

    Raises: ConfigError in all of them, naming a process, a fact and both values.
    """
    if count() == 1:
        return
    number = next(_numbers)
    store().key_value_set(f"framework/facts/{number}/{index()}", json.dumps(facts, sort_keys=True))

    def compare() -> None:
        for process in range(1, count()):
            theirs = json.loads(store().blocking_key_value_get(f"framework/facts/{number}/{process}", FOR_EVER))
            for name in facts:
                if theirs.get(name) != facts[name]:
                    raise ConfigError(
                        f"process {process} has {name} {theirs.get(name)!r}, and process 0 has {facts[name]!r}; "
                        "give all processes one config, one environment and the same data."
                    )

    agree(compare)


def addressable(tree: PyTree) -> PyTree:
    """The same values as arrays that a single process can read; all must call it.

    What is cut over processes is put together on the host, leaf after leaf, so that no device holds more than one leaf
    whole.
    """

    if count() == 1:
        return tree
    from jax.experimental import multihost_utils

    def whole(leaf: Any) -> Any:
        if not isinstance(leaf, jax.Array) or leaf.is_fully_addressable or leaf.is_fully_replicated:
            return leaf
        return np.asarray(multihost_utils.process_allgather(leaf, tiled=True))

    return jax.tree.map(whole, tree)


class ByFirst(Callback):
    """A callback that only process 0 runs; a request to stop, or an error, reaches all."""

    def __init__(self, callback: Callback) -> None:
        self.callback, self.every = callback, callback.every

    def on_start(self, run: Run) -> None:
        """As of the callback."""
        self._agreed("on_start", run)

    def on_log(self, step: int, scalars: Mapping[str, float]) -> None:
        """As of the callback."""
        self._agreed("on_log", step, scalars)

    def on_state(self, step: int, state: TrainState) -> None:
        """As of the callback, with all of the state."""
        if self._has("on_state"):
            self._agreed("on_state", step, addressable(state))

    def settle(self, wait: bool) -> None:
        """As of the callback. The others wait for the end only; before that, process 0 fails as in any other way."""
        if wait:
            self._agreed("settle", wait)
        elif index() == 0:
            self.callback.settle(wait)

    def on_end(self, summary: Summary) -> None:
        """As of the callback. The others do not wait, since it is called also when one of them is gone."""
        if index() == 0:
            self.callback.on_end(summary)

    def _agreed(self, hook: str, *args: Any) -> None:
        if self._has(hook):
            agree(lambda: getattr(self.callback, hook)(*args))

    def _has(self, hook: str) -> bool:
        """Whether there is anything to run: a decision costs the others a request to process 0."""
        return getattr(type(self.callback), hook) is not getattr(Callback, hook)
