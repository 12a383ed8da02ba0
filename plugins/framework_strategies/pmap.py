"""One replica of the state on every device, each with its part of the batch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from framework.api import PyTree, Share, Strategy, TrainState, quick_jit
from framework.errors import ConfigError

AXIS = "batch"


@dataclass(frozen=True)
class Pmap(Strategy):
    """Map a step over devices with `jax.pmap`.

    The state goes in and out unmapped (`in_axes=None`, `out_axes=None`), so it never carries a device axis: what is
    saved, loaded and shown is the same as on one device. Each process holds the replicas of its own devices.

    Attributes:
      devices: of all processes together.
      share: the parts of this process's devices, which lie side by side.
    """

    devices: int
    share: Share  # pyright: ignore[reportIncompatibleVariableOverride]

    def init(self, init: Callable[[Any], TrainState], given: Any) -> TrainState:
        """Make the state on one device and replicate it."""
        return jax.device_put(quick_jit(init)(given), NamedSharding(self._mesh(), PartitionSpec()))

    def train(self, step: Callable[..., Any], axes: Any) -> Callable[..., Any]:
        """Map `step(state, feed, axis)`; the step itself sums over the axis."""
        return self._map(step, _mapped(axes), out_axes=(None, None), donate=(0,))

    def evaluate(self, step: Callable[..., Any]) -> Callable[..., Any]:
        """Map `step(state, batch, axis)`."""
        return self._map(step, 0, out_axes=None, donate=())

    def feed(self, feed: PyTree, axes: Any) -> PyTree:
        """Cut axes of examples into [devices, …, B / devices, …], one row to a device; replicate what has none.

        Raises: ConfigError if they do not divide.
        """
        whole = jax.tree.broadcast(axes, feed, is_leaf=lambda axis: axis is None)
        return jax.tree.map(self._place, whole, feed, is_leaf=lambda axis: axis is None)

    def _place(self, axis: int | None, leaf: np.ndarray) -> jax.Array:
        if axis is None:
            return jax.device_put(leaf, NamedSharding(self._mesh(), PartitionSpec()))
        each = self.share.each(leaf.shape[axis])
        cut = leaf.reshape(*leaf.shape[:axis], len(self.share.parts), each, *leaf.shape[axis + 1 :])
        return jax.device_put(np.moveaxis(cut, axis, 0), NamedSharding(self._mesh(), PartitionSpec(AXIS)))

    def _mesh(self) -> Mesh:
        return Mesh(np.asarray(jax.local_devices()[: self.devices // jax.process_count()]), (AXIS,))

    def _map(self, step: Callable[..., Any], feed_axes: Any, *, out_axes: Any, donate: tuple[int, ...]) -> Any:
        return jax.pmap(
            partial(step, axis=AXIS),
            axis_name=AXIS,
            in_axes=(None, feed_axes),
            out_axes=out_axes,
            devices=self._all_devices(),
            donate_argnums=donate,
        )

    def _all_devices(self) -> list[Any]:
        """List the devices process by process, so that the parts of a batch lie in the order of its examples."""
        each = self.devices // jax.process_count()
        return [device for process in range(jax.process_count()) for device in jax.local_devices(process)[:each]]


def pmap(devices: int | None = None) -> Strategy:
    """All devices with `jax.pmap`, the batch cut in equal parts, gradients summed.

    Args:
      devices: how many of each process; null takes `jax.local_device_count()`.

    Raises: ConfigError if there are fewer devices than asked for.
    """
    available = jax.local_device_count()
    if devices is not None and not 1 <= devices <= available:
        raise ConfigError(
            f"{devices} asked for, and there are {available} local devices; on a CPU, "
            f"XLA_FLAGS=--xla_force_host_platform_device_count={devices} simulates more.",
            key="devices",
        )
    each, process = devices or available, jax.process_index()
    parts = range(process * each, (process + 1) * each)
    return Pmap(each * jax.process_count(), Share(parts, each * jax.process_count()))


def _mapped(axes: Any) -> Any:
    """Axes for `jax.pmap` of what `feed` returns: the devices' axis comes first in all that is cut."""
    return jax.tree.map(lambda axis: None if axis is None else 0, axes, is_leaf=lambda axis: axis is None)
