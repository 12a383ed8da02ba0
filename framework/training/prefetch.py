"""An iterator that is read ahead of time, by a thread."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

T = TypeVar("T")

DEPTH = 2
"""Items that are made and not yet taken. One would do if both sides were steady; more only cost memory."""

GLANCE = 0.1
"""Seconds between two looks at whether the wait for an item is to end."""

PATIENCE = 5.0
"""Seconds to wait for an item that is being made when nobody wants it any more."""


@contextmanager
def ahead(items: Generator[T], depth: int = DEPTH, stopping: Callable[[], bool] = bool) -> Iterator[Iterator[T]]:
    """Run a generator in a thread, at most `depth` items ahead of who takes them.

    Items come in order, and an exception comes where its item would have stood. When the context is left, the thread
    finishes the item it is at and closes the generator; one that never finishes it ends with the process. Who waits for
    an item finds the end of them when `stopping` says so.
    """
    made: SimpleQueue[tuple[Any, BaseException | None]] = SimpleQueue()
    free, leaving = threading.Semaphore(depth), threading.Event()

    def run() -> None:
        try:
            while free.acquire() and not leaving.is_set():
                made.put((next(items), None))
        except BaseException as error:  # the reader's to raise, whatever it is
            made.put((None, error))
        finally:
            items.close()

    def take() -> Iterator[T]:
        while True:
            try:
                item, error = made.get(timeout=GLANCE)
            except Empty:
                if stopping():
                    return
                continue
            if isinstance(error, StopIteration):
                made.put((None, error))  # for who asks again
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
        thread.join(PATIENCE)
