"""Adapters that lift objects of other libraries, and plain objects, to the framework's contracts."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from typing import Any, cast

import jax
import optax

from framework.arrays import with_sharding
from framework.contracts.components import Array, Batch, Loss, Metric, Model, Shape, TargetedLoss, TrainState
from framework.contracts.strategy import Members, Share, Strategy, StrategyWrapper
from framework.data.pipeline import DataPipeline, InMemory, PipelineWrapper, Where, numbered
from framework.layers import opened
from framework.trees import PyTree


def as_model(built: object, name: str | None = None) -> Model:
    """Lift a stock `jax.example_libraries.stax` pair `(init_fun, apply_fun)` into a `Model`; a `Model` passes as it is.

    Args:
      built: a `Model`, or `(init_fun(key, shape) -> (shape, params), apply_fun(params, inputs, **kwargs))`. Of `rng`
        and `train`, the pair is handed those that its signature takes. Layers of a stock stack get names and scopes.
      name: what `layer_name` tells of a lifted pair; by default the name of the function that made it.

    Raises: TypeError if it is neither.
    """
    if isinstance(built, Model):
        return built
    if not (isinstance(built, tuple) and len(built) == 2 and all(callable(part) for part in built)):
        raise TypeError(f"expected a Model or a stax pair (init_fun, apply_fun), found {type(built).__name__}")
    made_by = getattr(built[0], "__qualname__", type(built[0]).__name__)
    init_fun, apply_fun = opened(built)
    accepted = inspect.signature(apply_fun).parameters
    takes_all = any(p.kind is p.VAR_KEYWORD for p in accepted.values())

    def init(key: Array, in_shape: Shape) -> tuple[Shape, PyTree, PyTree]:
        out_shape, params = init_fun(key, in_shape)
        return out_shape, params, ()

    def apply(
        params: PyTree, state: PyTree, inputs: PyTree, *, key: Array | None = None, train: bool = False
    ) -> tuple[PyTree, PyTree]:
        options = {"rng": key, "train": train}
        passed = {option: value for option, value in options.items() if takes_all or option in accepted}
        return apply_fun(params, inputs, **passed), state

    init.__qualname__ = name or made_by
    return Model(init, apply)


def as_optimizer(built: object) -> optax.GradientTransformation:
    """Adapt the triple `(opt_init, opt_update, get_params)` of `jax.example_libraries.optimizers` to optax's contract.

    The triple keeps the parameters in its own state; the adapter returns the difference to them as the update, so that
    parameters follow the triple's to rounding errors. An `optax.GradientTransformation` passes as it is.

    Raises: TypeError if it is neither.
    """
    if isinstance(built, optax.GradientTransformation):
        return built
    if isinstance(built, tuple) and len(built) == 2 and all(callable(part) for part in built):
        return optax.GradientTransformation(*built)
    if not (isinstance(built, tuple) and len(built) == 3 and all(callable(part) for part in built)):
        raise TypeError(f"expected an optax.GradientTransformation or a triple, found {type(built).__name__}")
    opt_init, opt_update, get_params = built

    def init(params: PyTree) -> PyTree:
        with jax.numpy_dtype_promotion("standard"):  # the library's own triples lean on it
            return jax.numpy.zeros([], jax.numpy.int32), opt_init(params)

    def update(updates: PyTree, state: PyTree, params: PyTree | None = None) -> tuple[PyTree, PyTree]:
        count, inner = state
        with jax.numpy_dtype_promotion("standard"):
            after = opt_update(count, updates, inner)
        return jax.tree.map(lambda new, old: new - old, get_params(after), get_params(inner)), (count + 1, after)

    return optax.GradientTransformation(init, update)


def as_metric(built: Any) -> Metric:
    """Give a plain `f(outputs, batch) -> [B]` the mean as its result; a `Metric` passes as it is.

    Of a `TargetedLoss` less is better, and its targets are the metric's.

    Raises: TypeError if it is none of them.
    """
    if isinstance(built, Metric):
        return built
    if isinstance(built, TargetedLoss):
        return Metric(built.values, mean, higher_is_better=False, targets=(built.targets,))
    if not callable(built):
        raise TypeError(f"expected a function (outputs, batch) -> [B] or a Metric, found {type(built).__name__}")
    return Metric(cast(Loss, built), mean)


def mean(total: Any, count: float) -> float:
    """Return total / count: the result of a metric that is a mean."""
    return float(total / count)


def as_pipeline(built: Any) -> DataPipeline:
    """Lift a plain object with the attributes and methods of a `DataPipeline`; a `DataPipeline` passes as it is.

    Optional members that the object lacks get the defaults of `DataPipeline`. With both `arrays` and `rows` it is in
    memory.

    Raises: TypeError naming what it lacks.
    """
    if isinstance(built, DataPipeline):
        return built
    _check_members(built, ("spec", "steps_per_epoch", "splits", "source", "train", "eval"))
    return _PlainPipeline(built)


class _PlainPipeline(PipelineWrapper):
    def __init__(self, built: Any) -> None:
        self.data = built
        self.memory = built if hasattr(built, "arrays") and hasattr(built, "rows") else None
        self.spec, self.steps_per_epoch, self.splits = built.spec, built.steps_per_epoch, built.splits
        self.source, self.facts = built.source, getattr(built, "facts", {})

    def prepare(self, batch: Batch) -> Batch:
        return self.data.prepare(batch) if hasattr(self.data, "prepare") else batch  # pyright: ignore[reportAttributeAccessIssue]

    def examples(self) -> Iterator[tuple[str, Batch, Where]]:
        if hasattr(self.data, "examples"):
            yield from self.data.examples()
        elif self.memory is not None and not hasattr(self.data, "prepare"):
            yield "train", self.arrays, numbered

    def ready(self) -> None:
        if hasattr(self.data, "ready"):
            self.data.ready()

    def fingerprint(self) -> Mapping[str, Mapping[str, Any]]:
        if hasattr(self.data, "fingerprint"):
            return self.data.fingerprint()
        return DataPipeline.fingerprint(self) if self.memory is None else InMemory.fingerprint(self)

    def restricted(self, share: Share) -> DataPipeline:
        whole = self.data
        return as_pipeline(whole.restricted(share)) if hasattr(whole, "restricted") else super().restricted(share)


def as_strategy(built: Any) -> Strategy:
    """Lift a plain object with the attributes and methods of a `Strategy`; a `Strategy` passes as it is.

    Optional members that the object lacks get the defaults of `Strategy`. The `placement(shapes)` of a plain object
    returns a tree of shardings.

    Raises: TypeError naming what it lacks.
    """
    if isinstance(built, Strategy):
        return built
    _check_members(built, ("devices", "init", "train", "evaluate", "feed"))
    return _PlainStrategy(built)


class _PlainStrategy(StrategyWrapper):
    @property
    def members(self) -> Members | None:
        return getattr(self.strategy, "members", None)

    @property
    def share(self) -> Share | None:
        return getattr(self.strategy, "share", None)

    def placement(self, shapes: TrainState) -> TrainState:
        if not hasattr(self.strategy, "placement"):
            return shapes
        return jax.tree.map(with_sharding, shapes, self.strategy.placement(shapes))


def _check_members(built: Any, names: tuple[str, ...]) -> None:
    # `hasattr` alone takes an AttributeError that a property raises for a property that is not there.
    missing = [name for name in names if inspect.getattr_static(built, name, None) is None and not hasattr(built, name)]
    if missing:
        raise TypeError(f"{type(built).__name__} lacks {', '.join(missing)}")
