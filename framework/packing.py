"""The means of a step as one array: every output of a compiled step costs the host microseconds."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from framework.mean import Mean

Layout = tuple[tuple[str, tuple[int, ...], tuple[int, ...]], ...]
"""Name, shape of the total, shape of the count; by name."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Packed:
    """Totals and counts end to end.

    Attributes:
      values: float32 [n], or [steps, n] of several steps.
      layout: what they are; static, so that it comes out of a compiled function beside the values.
    """

    values: Any
    layout: Layout = field(metadata={"static": True})


def pack(means: Mapping[str, Any]) -> Packed:
    """One array of all means."""
    named = sorted(means.items())
    layout = tuple((name, jnp.shape(total), jnp.shape(count)) for name, (total, count) in named)
    flat = [jnp.ravel(part).astype(jnp.float32) for _, mean in named for part in mean]
    return Packed(jnp.concatenate(flat), layout)


def unpack(packed: Packed) -> dict[str, Mean]:
    """The means on the host, with the steps as first axis if there are several."""
    values = np.asarray(jax.device_get(packed.values))
    found, start = {}, 0
    for name, *shapes in packed.layout:
        parts = []
        for shape in shapes:
            stop = start + math.prod(shape)
            parts.append(values[..., start:stop].reshape((*values.shape[:-1], *shape)))
            start = stop
        found[name] = Mean(*parts)
    return found
