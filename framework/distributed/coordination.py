"""Common decisions of several processes: process 0 decides, and runs the callbacks that do not run everywhere.

The others read its decisions from the key-value store of JAX's coordination service. So a decision needs no device and
never waits for a step.
"""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Callable, Mapping
from typing import Any, TypeVar, cast

import jax
import numpy as np

from framework.contracts.components import Callback, Run, StopTraining, Summary, TrainState
from framework.distributed.processes import awaited, count, index, store
from framework.errors import AccessError, ConfigError, FrameworkError, InterruptError, MismatchError, PeerError
from framework.trees import PyTree

KEPT_ANSWERS = 1000
"""Answers that stay in the key-value store. The steps keep processes together, so that none is so far behind."""

TOLD: dict[str, Any] = {
    kind.__name__: kind
    for kind in (StopTraining, AccessError, MismatchError, FrameworkError, *FrameworkError.__subclasses__())
}
"""Exceptions that other processes raise too; they are told by name."""

POLL = 0.01
"""Seconds between two looks at the messages of other processes."""

T = TypeVar("T")

_numbers = itertools.count()


def agree(decide: Callable[[], Any]) -> Any:
    """Return the decision of process 0, for which the others wait. All processes must ask in the same order.

    Args:
      decide: returns a value that JSON can hold; called in process 0 only.

    Raises: in every process the FrameworkError or StopTraining that `decide` raised in process 0.
    """
    if count() == 1:
        return decide()
    number = next(_numbers)
    key = f"framework/answers/{number}"
    if index() > 0:
        answer = json.loads(awaited(key))
        if "error" in answer:
            raise _raised(**answer)
        return answer["value"]
    try:
        answer = {"value": decide()}
    except BaseException as error:
        store().key_value_set(key, json.dumps(_told(error)))
        raise
    store().key_value_set(key, json.dumps(answer))
    if number >= KEPT_ANSWERS:
        store().key_value_delete(f"framework/answers/{number - KEPT_ANSWERS}")
    return answer["value"]


def _told(error: BaseException) -> dict[str, Any]:
    """Describe an error to the other processes; one of another library becomes a PeerError there."""
    if not isinstance(error, StopTraining | FrameworkError):
        error = PeerError(f"process {index()} failed: {type(error).__name__}: {error}")
    kind = next(kind.__name__ for kind in type(error).__mro__ if kind.__name__ in TOLD)
    facts = {"exit_code": getattr(error, "exit_code", 0), "key": getattr(error, "key", "")}
    return {"error": kind, "text": Exception.__str__(error), **facts}


def _raised(error: str, text: str, exit_code: int, key: str) -> Exception:
    if error == InterruptError.__name__:
        return InterruptError(text, exit_code)
    return TOLD[error](text, key=key) if key else TOLD[error](text)


def gather(fact: Any) -> list[Any]:
    """Collect one value from each process, in their order. All must call it, in the same order.

    Args:
      fact: this process's value, which JSON can hold.
    """
    if count() == 1:
        return [fact]
    key = f"framework/facts/{next(_numbers)}"
    store().key_value_set(f"{key}/{index()}", json.dumps(fact))

    def collect() -> list[Any]:
        found = [json.loads(awaited(f"{key}/{each}")) for each in range(count())]
        store().key_value_delete(key)
        return found

    return agree(collect)


def together(act: Callable[[], T]) -> T:
    """Return the result of `act` in this process, if no process fails. All must call it, in the same order.

    Raises: in every process the error of the first process that failed.
    """
    if count() == 1:
        return act()
    done = failure = None
    try:
        done = act()
    except Exception as error:
        failure = error
    if told := [each for each in gather(failure and _told(failure)) if each]:
        raise _raised(**told[0]) from failure
    return cast(T, done)


class Barrier:
    """A meeting point of threads, one in each process, for which `agree` has no order; one of them concludes."""

    def __init__(self) -> None:
        """Make it in every process, in the same order as other decisions."""
        self._key = f"framework/barriers/{next(_numbers)}"

    def tell(self, done: Any) -> None:
        """Report this process's result, which JSON can hold, or the error that it ended with."""
        told = {"error": _told(done)} if isinstance(done, BaseException) else {"done": done}
        store().key_value_set(f"{self._key}/{index()}", json.dumps(told))

    def hear(self, cancelled: Callable[[], bool]) -> list[Any]:
        """Wait for the results of all processes, in their order.

        Raises: the error of the first process that failed, or PeerError once `cancelled` returns True.
        """
        told: dict[int, Any] = {}
        while len(told) < count():
            said = dict(store().key_value_dir_get(self._key))
            told = {int(key.rpartition("/")[2]): json.loads(value) for key, value in said.items()}
            for process in sorted(told):
                if "error" in told[process]:
                    raise _raised(**told[process]["error"])
            if len(told) < count() and cancelled():
                raise PeerError(f"{count() - len(told)} of {count()} processes did not say what they have written.")
            time.sleep(POLL)
        store().key_value_delete(self._key)
        return [told[process]["done"] for process in range(count())]


def check_alike(facts: Mapping[str, Any]) -> None:
    """Compare facts that must be equal in all processes, such as the config, with those of process 0.

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
    """Return the same values as arrays that a single process can read. All must call it.

    Arrays that are cut over processes are put together on the host, one after the other, so that no device holds more
    than one of them whole.
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
        """Call the hook in process 0."""
        self._agreed("on_start", run)

    def on_log(self, step: int, scalars: Mapping[str, float]) -> None:
        """Call the hook in process 0."""
        self._agreed("on_log", step, scalars)

    def on_state(self, step: int, state: TrainState) -> None:
        """Call the hook in process 0, with the whole state."""
        if self._has("on_state"):
            self._agreed("on_state", step, addressable(state))

    def ended_members(self) -> Mapping[int, str]:
        """Call the hook in process 0."""
        found = agree(self.callback.ended_members) if self._has("ended_members") else {}
        return {int(member): reason for member, reason in found.items()}

    def settle(self, wait: bool) -> None:
        """Call the hook in process 0. The others wait for its result at the end only."""
        if wait:
            self._agreed("settle", wait)
        elif index() == 0:
            self.callback.settle(wait)

    def on_end(self, summary: Summary) -> None:
        """Call the hook in process 0. The others do not wait, since it is called also when one of them is gone."""
        if index() == 0:
            self.callback.on_end(summary)

    def _agreed(self, hook: str, *args: Any) -> None:
        if self._has(hook):
            agree(lambda: getattr(self.callback, hook)(*args))

    def _has(self, hook: str) -> bool:
        """Tell whether the callback defines the hook: a decision costs the others a request to process 0."""
        return getattr(type(self.callback), hook) is not getattr(Callback, hook)
