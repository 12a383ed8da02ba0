"""Inputs in blocks of one size, computed on all devices of the process, with the outputs in the order of the inputs.

A block is computed whole by one device, and the blocks are the same for any number of devices. So are the outputs, bit
for bit.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from itertools import cycle

import jax
import numpy as np

from framework.api import PyTree
from framework.errors import ConfigError

WAITING = 2
"""Blocks that wait on each device: one at work, and one behind it."""


def count(inputs: PyTree) -> int:
    """Return the number of examples, the first axis of all leaves."""
    return len(jax.tree.leaves(inputs)[0])


def in_blocks(inputs: PyTree, size: int) -> Iterator[PyTree]:
    """Cut inputs [N, ...] into blocks [size, ...], the last of which may be smaller.

    Raises: ConfigError if there are no examples.
    """
    if not count(inputs):
        raise ConfigError("expected one example or more, found none.")
    for first in range(0, count(inputs), size):
        yield jax.tree.map(lambda leaf, first=first: leaf[first : first + size], inputs)


def computed(
    call: Callable[[int, PyTree, int], PyTree], devices: int, size: int, blocks: Iterable[PyTree]
) -> Iterator[PyTree]:
    """Compute blocks [n, ...] of inputs, each on one device, and yield their outputs in order, as NumPy arrays.

    Args:
      call: `call(device, inputs, number)` dispatches the block of a number to a device; it does not wait.
      devices: number of devices that take turns.
      size: of a block. One with fewer examples is padded with its last one, up to a power of two, so that few programs
        are compiled; the outputs of the padding are left out.
      blocks: at most `size` examples each.
    """
    waiting: deque[tuple[PyTree, int]] = deque()
    for number, (block, device) in enumerate(zip(blocks, cycle(range(devices)), strict=False)):
        held = count(block)
        waiting.append((call(device, _padded(block, min(size, 1 << (held - 1).bit_length())), number), held))
        if len(waiting) >= WAITING * devices:
            yield _taken(*waiting.popleft())
    for outputs, held in waiting:
        yield _taken(outputs, held)


def _padded(block: PyTree, size: int) -> PyTree:
    held = count(block)
    if held >= size:
        return block
    rows = np.minimum(np.arange(size), held - 1)
    return jax.tree.map(lambda leaf: np.asarray(leaf)[rows], block)


def _taken(outputs: PyTree, held: int) -> PyTree:
    return jax.tree.map(lambda leaf: np.asarray(leaf)[:held], jax.device_get(outputs))
