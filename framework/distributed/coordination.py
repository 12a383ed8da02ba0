"""How several processes come to the same decisions: process 0 decides, and runs callbacks that do not go everywhere.

What it decides reaches the others through the key-value store of JAX's coordination service, so that a decision needs
no device and never waits for a step.
"""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Callable, Mapping
from typing import Any, TypeVar, cast

import jax
import numpy as np

from framework.contracts import Callback, PyTree, Run, StopTraining, Summary, TrainState
from framework.distributed.processes import count, index, store
from framework.errors import ConfigError, FrameworkError, InterruptError, MismatchError, PeerError

FOR_EVER = 7 * 24 * 3600 * 1000
"""Milliseconds; the watchdog, not a time limit of one request, decides when a process waits in vain."""

KEPT = 1000
"""Answers that stay in the key-value store. No process is that many decisions behind: steps keep them together."""

KINDS = (StopTraining, MismatchError, FrameworkError, *FrameworkError.__subclasses__())
"""What can be told to other processes, by name."""

GLANCE = 0.01
"""Seconds between two looks at what other processes have said."""

T = TypeVar("T")

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
        return {
            "error": "PeerError",
            "text": f"process {index()} failed: {type(error).__name__}: {error}",
            "exit_code": 7,
        }
    kind = next(kind.__name__ for kind in type(error).__mro__ if kind in KINDS)
    return {"error": kind, "text": str(error), "exit_code": getattr(error, "exit_code", 0)}


def _raised(error: str, text: str, exit_code: int) -> Exception:
    kind = next(kind for kind in KINDS if kind.__name__ == error)
    return InterruptError(text, exit_code) if kind is InterruptError else kind(text)


def gather(fact: Any) -> list[Any]:
    """What each process knows, by process; all must call it, in the same order. JSON must be able to hold it."""
    if count() == 1:
        return [fact]
    key = f"framework/facts/{next(_numbers)}"
    store().key_value_set(f"{key}/{index()}", json.dumps(fact))

    def collect() -> list[Any]:
        found = [json.loads(store().blocking_key_value_get(f"{key}/{each}", FOR_EVER)) for each in range(count())]
        store().key_value_delete(key)
        return found

    return agree(collect)


def together(act: Callable[[], T]) -> T:
    """What each process does for itself, if all can; all must call it, in the same order.

    Raises: in every process the error of the first that cannot.
    """
    if count() == 1:
        return act()
    done, failure = None, None
    try:
        done = act()
    except Exception as error:
        failure = error
    told = [error for error in gather(None if failure is None else _told(failure)) if error is not None]
    if told:
        raise _raised(**told[0]) from failure
    return cast(T, done)


class Barrier:
    """What the processes do at the same time in threads of their own, where `agree` has no order, and one concludes."""

    def __init__(self) -> None:
        """Each process must make one, in the same order as it agrees."""
        self._key = f"framework/errands/{next(_numbers)}"

    def tell(self, done: Any) -> None:
        """Say what was done here, which JSON must be able to hold, or the error that it ended with."""
        told = {"error": _told(done)} if isinstance(done, BaseException) else {"done": done}
        store().key_value_set(f"{self._key}/{index()}", json.dumps(told))

    def hear(self, given_up: Callable[[], bool]) -> list[Any]:
        """Wait for what all have said, by process.

        Raises: the error of the first that failed, or PeerError once `given_up` says that nobody waits any longer.
        """
        told: dict[int, Any] = {}
        while len(told) < count():
            said = dict(store().key_value_dir_get(self._key))
            told = {int(key.rpartition("/")[2]): json.loads(value) for key, value in said.items()}
            for process in sorted(told):
                if "error" in told[process]:
                    raise _raised(**told[process]["error"])
            if len(told) < count() and given_up():
                raise PeerError(f"{count() - len(told)} of {count()} processes did not say what they have written.")
            time.sleep(GLANCE)
        store().key_value_delete(self._key)
        return [told[process]["done"] for process in range(count())]


def check_alike(facts: Mapping[str, Any]) -> None:
    """Compare what must be equal in all processes, such as the config, with what it is in process 0.

    Raises: ConfigError in all of them, naming a process, a fact and both values.
    """
    first, *others = gather(facts)
    for process, theirs in enumerate(others, 1):
        for name in first:
            if theirs.get(name) != first[name]:
                raise ConfigError(
                    f"process {process} has {name} {theirs.get(name)!r}, and process 0 has {first[name]!r}; "
                    "give all processes one config, one environment and the same data."
                )


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
