"""A mesh of devices: the batch and the parameters are cut, and the compiler inserts the communication."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import partial
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from framework.api import PyTree, Share, Strategy, TrainState, leaves_by_path, quick_jit, with_sharding
from framework.errors import ConfigError, nearest

AXES = ("data", "fsdp", "tensor")
BATCH = ("data", "fsdp")
"""The axes that cut the batch. Along `fsdp` parameters are cut too, and gathered for the layer that needs them."""

Rules = Mapping[str, Sequence[str | None]]


@dataclass(frozen=True)
class Sharded(Strategy):
    """Compile with `jax.jit` over a mesh.

    The step is the one of a single device, with no named axis: the compiler cuts it along its inputs and inserts the
    sums. So noise and metrics are those of one device as well, to rounding.

    Attributes:
      devices: parts of a batch: the sizes of the axes in `BATCH`, multiplied.
      share: the parts that the mesh puts on this process's devices; along `tensor` several devices take the same one.
    """

    mesh: Mesh
    rules: Rules
    devices: int
    share: Share  # pyright: ignore[reportIncompatibleVariableOverride]

    def init(self, init: Callable[[Any], TrainState], given: Any) -> TrainState:
        """Make the state in parts: no device ever holds the whole of a parameter that is cut.

        Raises: ConfigError if a rule fits no parameter, or not its shape.
        """
        return quick_jit(init, out_shardings=self._shardings(jax.eval_shape(init, given)))(given)

    def train(self, step: Callable[..., Any], axes: Any) -> Callable[..., Any]:
        """Compile `step(state, feed)`; the new state has the shardings of the old one."""

        def placed(state: TrainState, feed: PyTree) -> tuple[TrainState, PyTree]:
            after, means = step(state, feed)
            return jax.lax.with_sharding_constraint((after, means), (self._shardings(state), self._whole()))

        return jax.jit(placed, donate_argnums=0)

    def evaluate(self, step: Callable[..., Any]) -> Callable[..., Any]:
        """Compile `step(state, batch)`."""
        return jax.jit(step, out_shardings=self._whole())

    def feed(self, feed: PyTree, axes: Any) -> PyTree:
        """Cut the axes of examples over the mesh's `data` and `fsdp`; replicate what has none.

        Raises: ConfigError if they do not divide.
        """
        whole = jax.tree.broadcast(axes, feed, is_leaf=lambda axis: axis is None)
        return jax.tree.map(self._place, whole, feed, is_leaf=lambda axis: axis is None)

    def _place(self, axis: int | None, leaf: np.ndarray) -> jax.Array:
        if axis is None:
            return self._assemble(np.shape(leaf), self._whole(), leaf, lambda index: np.asarray(leaf)[index])
        share = self.share
        each = share.each(leaf.shape[axis])
        shape = (*leaf.shape[:axis], each * share.of, *leaf.shape[axis + 1 :])

        def part(index: tuple[slice, ...]) -> np.ndarray:
            first = share.parts.index(_start(index[axis]) // each) * each
            return leaf[(*index[:axis], slice(first, first + each))]

        return self._assemble(shape, NamedSharding(self.mesh, PartitionSpec(*[None] * axis, BATCH)), leaf, part)

    def _assemble(
        self, shape: tuple[int, ...], sharding: NamedSharding, leaf: np.ndarray, part: Callable[..., np.ndarray]
    ) -> jax.Array:
        if sharding.is_fully_addressable:
            return jax.device_put(leaf, sharding)
        # Only the parts of this process's devices are made; `device_put` would send the others around to compare them.
        return jax.make_array_from_callback(shape, sharding, part)

    def _whole(self) -> NamedSharding:
        return NamedSharding(self.mesh, PartitionSpec())

    def placement(self, shapes: TrainState) -> TrainState:
        """Return the shapes with the shardings of `init`."""
        return jax.tree.map(with_sharding, shapes, self._shardings(shapes))

    def _shardings(self, state: TrainState) -> TrainState:
        """Choose a sharding for each leaf: parameters by the rules, the optimizer's copies alike, others whole."""
        specs = {path: self._spec(path, leaf.shape) for path, leaf in leaves_by_path(state.params).items()}
        unused = [pattern for pattern in self.rules if not any(fnmatchcase(path, pattern) for path in specs)]
        if unused:
            raise ConfigError(f"'{unused[0]}' fits no parameter.{nearest(unused[0], specs)}", key="strategy.rules")
        return jax.tree.map(
            partial(NamedSharding, self.mesh),
            jax.tree.map(lambda _: PartitionSpec(), state)._replace(
                params=jax.tree.unflatten(jax.tree.structure(state.params), specs.values()),
                opt_state=_like_parameters(state.opt_state, state.params, specs),
            ),
        )

    def _spec(self, path: str, shape: tuple[int, ...]) -> PartitionSpec:
        for pattern, names in self.rules.items():
            if fnmatchcase(path, pattern):
                self._check(path, shape, names)
                return PartitionSpec(*names)
        return self._by_size(shape)

    def _by_size(self, shape: tuple[int, ...]) -> PartitionSpec:
        """Choose the largest axis that `fsdp` divides."""
        parts = self.mesh.shape["fsdp"]
        fitting = [axis for axis, size in enumerate(shape) if parts > 1 and size > 0 and size % parts == 0]
        if not fitting:
            return PartitionSpec()
        return PartitionSpec(*[None] * max(fitting, key=lambda axis: shape[axis]), "fsdp")

    def _check(self, path: str, shape: tuple[int, ...], names: Sequence[str | None]) -> None:
        if len(names) > len(shape):
            text = f"'{path}' has {len(shape)} axes, and its rule names {len(names)}."
            raise ConfigError(text, key="strategy.rules")
        for size, name in zip(shape, names, strict=False):
            if name is not None and size % self.mesh.shape[name]:
                parts = self.mesh.shape[name]
                raise ConfigError(
                    f"'{path}' {list(shape)} has an axis of {size}, which {name}={parts} does not "
                    f"divide; give it the rule {[None] * len(shape)}, or another size to strategy.{name}.",
                    key="strategy.rules",
                )


def sharded(data: int | None = None, fsdp: int = 1, tensor: int = 1, rules: Rules | None = None) -> Strategy:
    """A mesh of devices with axes data, fsdp and tensor; parameters are cut by rules over their paths.

    Args:
      data: replicas, each with its part of the batch; null takes all devices that the other axes leave.
      fsdp: parts of the batch too, but parameters and optimizer state are cut as well: less memory, more traffic.
      tensor: parts of single layers, as the rules say; it does not cut the batch.
      rules: axis names for the dimensions of each parameter whose path, as in the parameter table, fits a pattern:
        `{"*/W": [null, tensor], "*/b": [tensor]}`. The first fitting pattern counts. Where none fits, `fsdp` cuts the
        largest axis that it divides.

    Raises: ConfigError if the mesh does not fit the devices, or a rule names another axis or one twice.
    """
    available = jax.device_count()
    if min(fsdp, tensor, 1 if data is None else data) < 1:
        raise ConfigError(f"data={data}, fsdp={fsdp}, tensor={tensor}; expected sizes of at least 1.")
    if data is None and available % (fsdp * tensor):
        raise ConfigError(f"fsdp={fsdp} × tensor={tensor} does not divide the {available} devices; set strategy.data.")
    sizes = (available // (fsdp * tensor) if data is None else data, fsdp, tensor)
    if math.prod(sizes) > available:
        raise ConfigError(
            f"data={sizes[0]} × fsdp={fsdp} × tensor={tensor} needs {math.prod(sizes)} devices, and there "
            f"are {available}; on a CPU, XLA_FLAGS=--xla_force_host_platform_device_count={math.prod(sizes)} "
            "simulates more."
        )
    if jax.process_count() > 1 and math.prod(sizes) < available:
        raise ConfigError(
            f"data={sizes[0]} × fsdp={fsdp} × tensor={tensor} leaves some of {available} devices idle, and "
            f"there are {jax.process_count()} processes; each must have its part."
        )
    _check_names(rules or {})
    devices = jax.devices()[: math.prod(sizes)]
    mesh = jax.make_mesh(sizes, AXES, axis_types=(AxisType.Auto,) * 3, devices=devices)
    parts = math.prod(mesh.shape[axis] for axis in BATCH)
    taken = NamedSharding(mesh, PartitionSpec(BATCH)).addressable_devices_indices_map((parts,))
    own = sorted({_start(part[0]) for part in taken.values() if part is not None})
    return Sharded(mesh, rules or {}, parts, Share(own, parts))


def _check_names(rules: Rules) -> None:
    for pattern, names in rules.items():
        used = [name for name in names if name is not None]
        for name in used:
            if name not in AXES:
                raise ConfigError(f"the mesh has no axis '{name}'.{nearest(name, AXES)}", key=f"rules.{pattern}")
        if len(set(used)) < len(used):
            raise ConfigError(f"{list(names)} names an axis twice; each can cut once.", key=f"rules.{pattern}")


def _start(part: slice) -> int:
    return part.start or 0


def _like_parameters(opt_state: PyTree, params: PyTree, specs: Mapping[str, PartitionSpec]) -> PyTree:
    """Give a leaf the sharding of the parameter whose path ends its own path, or else whose shape it has.

    The shape decides if an optimizer keeps its leaves in a flat list, as those of `jax.example_libraries` do.
    """
    shapes = {path: leaf.shape for path, leaf in leaves_by_path(params).items()}
    by_shape = {shape: specs[path] for path, shape in shapes.items()}

    def spec(path: str, shape: tuple[int, ...]) -> PartitionSpec:
        named = [name for name in specs if shapes[name] == shape and f"/{path}".endswith(f"/{name}")]
        return specs[max(named, key=len)] if named else by_shape.get(shape, PartitionSpec())

    leaves = [spec(path, leaf.shape) for path, leaf in leaves_by_path(opt_state).items()]
    return jax.tree.unflatten(jax.tree.structure(opt_state), leaves)
