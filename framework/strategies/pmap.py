"""One replica of the state on every local device, each with its part of the batch."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from framework.api import Array, Batch, Strategy, TrainState
from framework.errors import ConfigError

AXIS = "batch"


class Pmap(NamedTuple):
    """Map a step over devices with `jax.pmap`.

    The state goes in and out unmapped (`in_axes=None`, `out_axes=None`), so it never carries a device axis: what is
    saved, loaded and shown is the same as on one device.
    """

    devices: int

    def init(self, init: Callable[[Array], TrainState], key: Array) -> TrainState:
        """Make the state once and replicate it."""
        return jax.device_put(jax.jit(init)(key), NamedSharding(self._mesh(), PartitionSpec()))

    def train(self, step: Callable[..., Any]) -> Callable[..., Any]:
        """Map `step(state, batch, axis)`; the step itself sums over the axis."""
        return self._map(step, out_axes=(None, None), donate=(0,))

    def evaluate(self, step: Callable[..., Any]) -> Callable[..., Any]:
        """Map `step(state, batch, axis)`."""
        return self._map(step, out_axes=None, donate=())

    def feed(self, batch: Batch) -> Batch:
        """Cut [B, ...] into [devices, B / devices, ...], one row to a device.

        Raises: ConfigError if B does not divide; the loop's check of the batch sizes says so earlier.
        """
        return jax.device_put(jax.tree.map(self._cut, batch), NamedSharding(self._mesh(), PartitionSpec(AXIS)))

    def _cut(self, leaf: np.ndarray) -> np.ndarray:
        return leaf.reshape(self.devices, leaf.shape[0] // self.devices, *leaf.shape[1:])

    def _mesh(self) -> Mesh:
        return Mesh(np.asarray(jax.local_devices()[: self.devices]), (AXIS,))

    def _map(self, step: Callable[..., Any], out_axes: Any, donate: tuple[int, ...]) -> Callable[..., Any]:
        return jax.pmap(
            partial(step, axis=AXIS),
            axis_name=AXIS,
            in_axes=(None, 0),
            out_axes=out_axes,
            devices=jax.local_devices()[: self.devices],
            donate_argnums=donate,
        )


def pmap(devices: int | None = None) -> Strategy:
    """All local devices with `jax.pmap`, the batch cut in equal parts, gradients summed.

    Args:
      devices: how many; null takes `jax.local_device_count()`.

    Raises: ConfigError if there are fewer devices than asked for.
    """
    available = jax.local_device_count()
    if devices is not None and not 1 <= devices <= available:
        raise ConfigError(
            f"strategy.devices: {devices} asked for, and there are {available} local devices; on a CPU, "
            f"XLA_FLAGS=--xla_force_host_platform_device_count={devices} simulates more."
        )
    return Pmap(devices or available)
