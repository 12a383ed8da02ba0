"""Requests that wait a moment for one another, and are computed as one batch of a fixed size."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
import numpy as np

from framework.api import PyTree
from framework.trained.blocks import count
from framework_serve.bodies import RequestError


class Waiting(NamedTuple):
    """Inputs [n, ...] that wait, and the future of their outputs."""

    inputs: PyTree
    outputs: asyncio.Future[PyTree]


class Batches:
    """A queue of inputs, and the one thread that computes them, in the order in which they came.

    Rows that fill a batch up are copies of its last one, and are left out of the outputs. A program is compiled for
    each size, and no other is ever needed.
    """

    def __init__(self, call: Callable[[PyTree], PyTree], sizes: Sequence[int], patience: float, most: int) -> None:
        """Begin with an empty queue.

        Args:
          call: maps inputs [size, ...] to outputs, as arrays of JAX.
          sizes: of batches, ascending.
          patience: seconds that the first request of a batch waits for others.
          most: requests that wait at once.
        """
        self._call, self._sizes, self._patience, self._most = call, sizes, patience, most
        self._queue: deque[Waiting] = deque()
        self._came = asyncio.Event()
        self._thread = ThreadPoolExecutor(1, "serve")
        self.answered = 0

    def __len__(self) -> int:
        return len(self._queue)

    async def answer(self, inputs: PyTree) -> PyTree:
        """Return the outputs of inputs [n, ...] as NumPy arrays [n, ...].

        Raises: RequestError with 503 if the queue is full.
        """
        if len(self._queue) >= self._most:
            raise RequestError(503, f"{self._most:,} requests wait already; try again soon.")
        waiting = Waiting(inputs, asyncio.get_running_loop().create_future())
        self._queue.append(waiting)
        self._came.set()
        return await waiting.outputs

    async def run(self) -> None:
        """Compute batches until the task is cancelled."""
        while True:
            await self._came.wait()
            self._came.clear()
            if sum(count(each.inputs) for each in self._queue) < self._sizes[-1]:
                await asyncio.sleep(self._patience)
            while batch := self._taken():
                await self._compute(batch)

    def _taken(self) -> list[Waiting]:
        """Take requests from the front of the queue, as many as a batch holds; those that were given up are dropped."""
        taken: list[Waiting] = []
        room = self._sizes[-1]
        while self._queue and (self._queue[0].outputs.done() or count(self._queue[0].inputs) <= room):
            first = self._queue.popleft()
            if not first.outputs.done():
                taken.append(first)
                room -= count(first.inputs)
        return taken

    async def _compute(self, batch: list[Waiting]) -> None:
        try:
            computed = asyncio.get_running_loop().run_in_executor(self._thread, self._outputs, batch)
            parts = await computed
        except Exception as error:  # whatever the model raises is the answer to these requests, and the next go on
            for each in batch:
                if not each.outputs.done():
                    each.outputs.set_exception(error)
            return
        for each, part in zip(batch, parts, strict=True):
            if not each.outputs.done():
                each.outputs.set_result(part)
                self.answered += 1

    def _outputs(self, batch: list[Waiting]) -> list[PyTree]:
        counts = [count(each.inputs) for each in batch]
        size = next(each for each in self._sizes if each >= sum(counts))
        rows = np.minimum(np.arange(size), sum(counts) - 1)

        def joined(*leaves: Any) -> np.ndarray:
            return np.concatenate([np.asarray(leaf) for leaf in leaves])[rows]

        outputs = jax.device_get(self._call(jax.tree.map(joined, *(each.inputs for each in batch))))
        ends = np.cumsum(counts)
        return [
            jax.tree.map(lambda leaf, a=a, b=b: leaf[a:b], outputs) for a, b in zip(ends - counts, ends, strict=True)
        ]
