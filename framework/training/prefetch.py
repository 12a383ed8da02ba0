"""A generator that a thread runs ahead of its reader."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

T = TypeVar("T")

DEPTH = 2
"""Items that are made and not yet taken. One is enough if both sides are steady; more only cost memory."""

POLL = 0.1
"""Seconds between two looks at whether the wait for an item is cancelled."""

JOIN_TIMEOUT = 5.0
"""Seconds to wait for an item that is being made after cancellation."""


def never() -> bool:
    """Return False: nothing cancels the wait."""
    return False


@contextmanager
def ahead(items: Generator[T], depth: int = DEPTH, cancelled: Callable[[], bool] = never) -> Iterator[Iterator[T]]:
    """Run a generator in a thread, at most `depth` items ahead of its reader.

    Items come in order, and an exception comes in the place of its item. When the context is left, the thread finishes
    the item it is at and closes the generator; if it never finishes it, the thread ends with the process.

    Args:
      cancelled: asked while the reader waits for an item; if it returns True, the items end there.
    """
    made: SimpleQueue[tuple[Any, BaseException | None]] = SimpleQueue()
    free, leaving = threading.Semaphore(depth), threading.Event()

    def run() -> None:
        try:
            while free.acquire() and not leaving.is_set():
                made.put((next(items), None))
        except BaseException as error:  # of any kind: the reader raises it
            made.put((None, error))
        finally:
            items.close()

    def take() -> Iterator[T]:
        while True:
            try:
                item, error = made.get(timeout=POLL)
            except Empty:
                if cancelled():
                    return
                continue
            if isinstance(error, StopIteration):
                made.put((None, error))  # for a reader that asks again
                return
            if error is not None:
                raise error
            free.release()
            yield item

    thread = threading.Thread(target=run, name="prefetch", daemon=True)
    thread.start()
    try:
        yield take()
    finally:
        leaving.set()
        free.release()
        thread.join(JOIN_TIMEOUT)
