"""Traces of a task on shapes, checked before anything is compiled, and the names of what fails in them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from framework.api import Array, Batch, DataPipeline, Model, PyTree, Shape, Task, TrainState, layer_name
from framework.errors import PLUGIN_FAULTS, ConfigError, FrameworkError, PluginError, is_users, told
from framework.tasks.rng import root_key
from framework.trees import leaves_by_path

SEED = jax.ShapeDtypeStruct((), np.uint32)
"""The shape of a seed, which `init` of `traced_once` takes."""


def traced_once(task: Task, data: DataPipeline) -> tuple[Task, Callable[[Any], TrainState]]:
    """Return the task with steps whose traces JAX keeps, and its init as a function of the seed, uint32 [].

    A step is traced to be checked, for the shapes of its metrics, and to be compiled. As an inlined `jit` it is traced
    once for all three, and the program is the same.
    """

    def step(function: Callable[..., Any]) -> Callable[..., Any]:
        kept = jax.jit(function, static_argnames="axis", inline=True)
        # JAX would trace again for an axis that is left out or given by position, so it is always given by name.
        return lambda state, batch, axis=None: kept(state, batch, axis=axis)

    kept = task._replace(train_step=step(task.train_step), eval_step=step(task.eval_step))
    return kept, jax.jit(lambda seed: task.init(root_key(seed), data.spec), inline=True)


def check_shapes(task: Task, init: Callable[[Any], TrainState], data: DataPipeline, model: Model) -> TrainState:
    """Trace init and both steps on the data's shapes, which takes milliseconds and compiles nothing.

    Returns: the shapes of the state.

    Raises: ConfigError naming the function that cannot be traced, and the reason.
    """
    batch = {"weights": jax.ShapeDtypeStruct((jax.tree.leaves(data.spec)[0].shape[0],), np.float32), **data.spec}
    about = f"model '{layer_name(model)}' on inputs {_shapes(data.spec['inputs'])}"
    state = _trace(f"init of {about}", init, SEED)
    after, _ = _trace(f"train step of {about}", task.train_step, state, data.spec)
    _trace(f"eval step of {about}", task.eval_step, state, batch)
    for path, leaf in leaves_by_path(state).items():
        changed = leaves_by_path(after).get(path)
        if changed is None or (changed.shape, changed.dtype) != (leaf.shape, leaf.dtype):
            raise ConfigError(
                f"the train step turns {path} from {_shapes(leaf)} into {_shapes(changed)}; it must keep it."
            )
    return state


def named_model(model: Model, title: str) -> Model:
    """Return a model whose errors name it, and whose outputs must have the shape that its init declared.

    Args:
      title: of the plugin, for messages.
    """
    declared: dict[str, Any] = {}  # noted while init is traced, and compared while apply is

    @wraps(model.init)
    def init(key: Array, shape: Shape) -> tuple[Shape, PyTree, PyTree]:
        with naming(f"init of {title} for the shape {shape}"):
            out_shape, params, state = model.init(key, shape)
        declared[str(_tails(shape))] = out_shape
        return out_shape, params, state

    @wraps(model.apply)
    def apply(
        params: PyTree, state: PyTree, inputs: PyTree, *, key: Array | None = None, train: bool = False
    ) -> tuple[PyTree, PyTree]:
        with naming(f"{title} on inputs {_shapes(inputs)}"):
            outputs, after = model.apply(params, state, inputs, key=key, train=train)
        said = declared.get(str(_tails(jax.tree.map(np.shape, inputs))))
        if _is_shape(said) and hasattr(outputs, "shape") and _tails(said) != _tails(outputs.shape):
            raise ConfigError(f"{title} has outputs {_shapes(outputs)}, and its init declared the shape {said}.")
        return outputs, after

    return Model(init, apply)


def named_values(values: Callable[[PyTree, Batch], Any], title: str) -> Callable[[PyTree, Batch], Any]:
    """Return a loss's or metric's function, whose errors name it, and whose values must be real numbers."""

    @wraps(values)
    def call(outputs: PyTree, batch: Batch) -> Any:
        about = f"{title} on outputs {_shapes(outputs)} and targets {_shapes(batch.get('targets'))}"
        with naming(about):
            found = values(outputs, batch)
        if any(jnp.issubdtype(leaf.dtype, jnp.complexfloating) for leaf in jax.tree.leaves(found)):
            raise ConfigError(f"{about} is complex; expected real numbers, such as those of jnp.abs of the outputs.")
        return found

    return call


def named(function: Callable[..., Any], title: str) -> Callable[..., Any]:
    """Return a function whose errors name it."""

    @wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        with naming(title):
            return function(*args, **kwargs)

    return call


@contextmanager
def naming(what: str) -> Iterator[None]:
    """Name what fails while a step is traced, which costs a compiled call nothing.

    Raises: ConfigError with the reason; PluginError for a request to exit.
    """
    try:
        yield
    except (FrameworkError, FloatingPointError):  # the latter is what debug=nans looks for
        raise
    except PLUGIN_FAULTS as error:
        if is_users(error):
            raise
        kind = ConfigError if isinstance(error, Exception) else PluginError
        reason = next(iter(told(error).splitlines()))
        raise kind(f"{what} fails: {reason}") from error


def _trace(what: str, function: Callable[..., Any], *args: Any) -> Any:
    with naming(what):
        return jax.eval_shape(function, *args)


def _tails(shapes: Any) -> Any:
    """Return shapes without their first axis, the batch."""
    return jax.tree.map(lambda shape: tuple(map(int, shape[1:])), shapes, is_leaf=_is_shape)


def _is_shape(node: Any) -> bool:
    return isinstance(node, tuple) and all(isinstance(size, int | np.integer) for size in node)


def _shapes(tree: Any) -> str:
    return str(jax.tree.map(lambda leaf: f"{leaf.dtype}{list(leaf.shape)}", tree)).replace("'", "")
