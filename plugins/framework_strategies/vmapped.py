"""Several runs that differ in numbers only, as one compiled program."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from framework.api import Members, PyTree, Strategy, TrainState, flat, quick_jit, with_sharding
from framework.errors import ConfigError

AXIS = "members"


@dataclass(frozen=True)
class Vmapped(Strategy):
    """Compile with `jax.jit` a task that is mapped over members already, with their axis cut over devices.

    Batches go whole to every device: a table of indices is small, and members share the examples. So `devices`, the
    parts of a batch, stays 1.
    """

    mesh: Mesh
    members: Members  # pyright: ignore[reportIncompatibleVariableOverride]

    def init(self, init: Callable[[Any], TrainState], given: Any) -> TrainState:
        """Make the state of all members, each on its device."""
        return quick_jit(init, out_shardings=self._by_member())(given)

    def train(self, step: Callable[..., Any], axes: Any) -> Callable[..., Any]:
        """Compile `step(state, feed)`."""
        return jax.jit(step, donate_argnums=0, out_shardings=(self._by_member(), self._whole()))

    def evaluate(self, step: Callable[..., Any]) -> Callable[..., Any]:
        """Compile `step(state, batch)`."""
        return jax.jit(step, out_shardings=self._whole())

    def feed(self, feed: PyTree, axes: Any) -> PyTree:
        """Copy to every device."""
        return jax.device_put(feed, self._whole())

    def placement(self, shapes: TrainState) -> TrainState:
        """Return the shapes with the members' sharding."""
        return jax.tree.map(lambda leaf: with_sharding(leaf, self._by_member()), shapes)

    def _by_member(self) -> NamedSharding:
        return NamedSharding(self.mesh, PartitionSpec(AXIS))

    def _whole(self) -> NamedSharding:
        return NamedSharding(self.mesh, PartitionSpec())


def vmapped(
    members: int | Mapping[str, Any] = 4, order: Literal["own", "shared"] = "own", devices: int = 1
) -> Strategy:
    """K runs in one program: seeds, and any number of model, loss, metrics, optimizer or schedule that can be traced.

    One compilation serves all, and small steps cost little more together than one alone. Where a single run fills the
    machine, or its convolutions are slow in groups, runs in turn are quicker.

    Args:
      members: how many seeds, counted up from the run's; or for each config key that differs a list with one number for
        each member, or one number for all: `{seed: 0-3, optimizer.learning_rate: [1e-4, 3e-4, 1e-3, 3e-3]}`. "0-3"
        stands for 0, 1, 2, 3.
      order: whether a member's data come in the order of its own seed, as in a run of its own, or in the run's for all,
        which saves time.
      devices: over how many local devices the members are spread.

    Raises: ConfigError if lists have different lengths or hold no numbers, or the devices do not divide the members.
    """
    return over_devices(Members(members, {}, order) if isinstance(members, int) else _members(members, order), devices)


def over_devices(members: Members, devices: int) -> Strategy:
    """Return the strategy that spreads members over local devices.

    Raises: ConfigError if there is no member, or the devices do not divide them or do not exist.
    """
    available = jax.local_device_count()
    if members.size < 1:
        raise ConfigError(f"expected at least 1, found {members.size}.", key="members")
    if not 1 <= devices <= available:
        raise ConfigError(f"{devices} asked for, and there are {available} local devices.", key="devices")
    if members.size % devices:
        raise ConfigError(f"{members.size} members do not divide over {devices} devices.", key="devices")
    mesh = jax.make_mesh((devices,), (AXIS,), axis_types=(AxisType.Auto,), devices=jax.local_devices()[:devices])
    return Vmapped(mesh, members)


def _members(given: Mapping[str, Any], order: Literal["own", "shared"]) -> Members:
    columns = {key: _numbers(key, value) for key, value in flat(given).items()}
    lengths = {key: len(column) for key, column in columns.items() if isinstance(column, tuple)}
    if not lengths:
        raise ConfigError("expected a number of seeds, or a list of numbers for some key.", key="members")
    (first, size), *others = lengths.items()
    for key, length in others:
        if length != size:
            text = f"'{first}' has {size} values and '{key}' {length}; expected as many."
            raise ConfigError(text, key="members")
    values = {key: column if isinstance(column, tuple) else (column,) * size for key, column in columns.items()}
    return Members(size, values, order)


def _numbers(key: str, value: Any) -> Any:
    """Read a number, or a tuple of them; "4-7" is (4, 5, 6, 7)."""
    if isinstance(value, str) and (ends := re.fullmatch(r"(\d+)-(\d+)", value)):
        return tuple(range(int(ends[1]), int(ends[2]) + 1))
    values = value if isinstance(value, Sequence) and not isinstance(value, str) else (value,)
    for each in values:
        if isinstance(each, bool) or not isinstance(each, int | float):
            raise ConfigError(f"expected numbers, found {each!r}.", key=f"members.{key}")
    return tuple(values) if values is value else value
