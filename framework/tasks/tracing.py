"""Traces of a task on shapes, checked before anything is compiled, and the names of what fails in them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import wraps
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from framework.api import Array, Batch, DataPipeline, Model, PyTree, Shape, Task, TrainState
from framework.errors import PLUGIN_FAULTS, ConfigError, FrameworkError, PluginError, is_users, told
from framework.observing import below, is_collected, observed
from framework.registry.blame import fault
from framework.registry.entry_points import Plugin
from framework.steps.rng import root_key
from framework.trees import leaves_by_path, shapes_text

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
        def call(state: TrainState, batch: Batch, axis: str | None = None) -> Any:
            run = function if is_collected() else kept  # outputs of layers cannot leave a program within another
            return run(state, batch, axis=axis)

        return call

    kept = task._replace(train_step=step(task.train_step), eval_step=step(task.eval_step))
    return kept, jax.jit(lambda seed: task.init(root_key(seed), data.spec), inline=True)


def check_shapes(
    task: Task, init: Callable[[Any], TrainState], data: DataPipeline, plugins: Mapping[str, Plugin]
) -> TrainState:
    """Trace init and both steps on the data's shapes, which takes milliseconds and compiles nothing.

    Args:
      plugins: of the task and its components, by the config key that named them.

    Returns: the shapes of the state.

    Raises: ConfigError naming the function that cannot be traced, and the reason; PluginError if a plugin of another
      distribution is at fault.
    """
    batch = {"weights": jax.ShapeDtypeStruct((jax.tree.leaves(data.spec)[0].shape[0],), np.float32), **data.spec}
    about = f"{plugins.get('model', plugins['task']).title} on inputs {shapes_text(data.spec['inputs'])}"
    state = _trace(f"init of {about}", init, SEED)
    after, _ = _trace(f"train step of {about}", task.train_step, state, data.spec)
    _trace(f"eval step of {about}", task.eval_step, state, batch)
    leaves, kept = leaves_by_path(state), leaves_by_path(after)
    for path in leaves | kept:
        had, has = leaves.get(path), kept.get(path)
        if had is None or has is None or (had.shape, had.dtype) != (has.shape, has.dtype):
            key = keeper(path, plugins)
            text = f"the train step turns {path} from {shapes_text(had)} into {shapes_text(has)}; it must keep it."
            raise fault(plugins[key], text, key)
    return state


def keeper(path: str, plugins: Mapping[str, Plugin]) -> str:
    """Return the config key of the component that keeps a leaf of the state."""
    part, *below = path.split("/")
    alone = {"params": "model", "model_state": "model", "opt_state": "optimizer"}.get(part, "task")
    named = [name for name in (*below, alone) if name in plugins]
    return named[0] if part != "task_state" and named else "task"


def named_model(model: Model, title: str, section: str = "model") -> Model:
    """Return a model whose errors name it, and whose outputs are real, of the shape that its init declared.

    Losses and metrics would take the real part of complex outputs without a word.

    Args:
      model: any model.
      title: of the plugin, for messages.
      section: of the config, that names it.
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
        with naming(f"{title} on inputs {shapes_text(inputs)}"), below(section):
            params, inputs = observed("params", params), observed("inputs", inputs)
            outputs, after = model.apply(params, state, inputs, key=key, train=train)
            outputs = observed("outputs", outputs)
        if any(map(jnp.iscomplexobj, jax.tree.leaves(outputs))):
            text = f"{title} has outputs {shapes_text(outputs)} for inputs {shapes_text(inputs)}"
            raise ConfigError(f"{text}; expected real numbers: end the model with jnp.abs or jnp.real.", key=section)
        said = declared.get(str(_tails(jax.tree.map(np.shape, inputs))))
        size = jax.tree.leaves(inputs)[0].shape[:1]
        if said is not None and _is_shape(said) and getattr(outputs, "shape", None) not in (None, (*size, *said[1:])):
            text = f"{title} has outputs {shapes_text(outputs)} for inputs {shapes_text(inputs)}"
            raise PluginError(f"{text}, and its init declared the shape {said}.", key=section)
        return outputs, after

    return Model(init, apply)


def named_values(values: Callable[..., Any], title: str, key: str) -> Callable[..., Any]:
    """Return a loss's or metric's function, whose errors name it and its key, and whose values must be real numbers.

    Args:
      values: any such function.
      title: of the plugin, for messages.
      key: of the config that names it.
    """

    @wraps(values)
    def call(outputs: PyTree, batch: Batch, **options: Any) -> Any:
        about = f"{title} on outputs {shapes_text(outputs)} and targets {shapes_text(batch.get('targets'))}"
        with naming(about, key, _advice(outputs, batch)), below(key):
            found = observed("outputs", values(observed("inputs", outputs), batch, **options))
        if any(jnp.issubdtype(leaf.dtype, jnp.complexfloating) for leaf in jax.tree.leaves(found)):
            text = f"{about} is complex; expected real numbers, such as those of jnp.abs of the outputs."
            raise ConfigError(text, key=key)
        return found

    return call


def _advice(outputs: PyTree, batch: Batch) -> str:
    """Return what most likely helps a loss or metric that fails, or ""."""
    if "targets" not in batch:
        return "; the data give no targets: take other data, or a task that needs none"
    is_nested = isinstance(outputs, Mapping) or isinstance(batch["targets"], Mapping)
    return "; take one of several outputs and targets by on_head and on_target" if is_nested else ""


def named(function: Callable[..., Any], title: str) -> Callable[..., Any]:
    """Return a function whose errors name it."""

    @wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        with naming(title):
            return function(*args, **kwargs)

    return call


def named_update(update: Callable[..., Any], title: str, section: str) -> Callable[..., Any]:
    """Return an optimizer's update, whose errors name it: from gradients to updates and the new state."""

    @wraps(update)
    def call(grads: PyTree, state: PyTree, params: PyTree | None = None, **options: Any) -> tuple[PyTree, PyTree]:
        with naming(title), below(section):
            updates, after = update(observed("inputs", grads), state, params, **options)
            return observed("outputs", updates), after

    return call


@contextmanager
def naming(what: str, key: str = "", advice: str = "") -> Iterator[None]:
    """Name what fails while a step is traced, which costs a compiled call nothing.

    Raises: ConfigError with the reason; PluginError for a request to exit.
    """
    try:
        yield
    except FrameworkError as error:
        error.key = error.key or key
        raise
    except FloatingPointError:  # what debug=nans looks for
        raise
    except PLUGIN_FAULTS as error:
        if is_users(error):
            raise
        kind = ConfigError if isinstance(error, Exception) else PluginError
        reason = next(iter(told(error).splitlines()))
        raise kind(f"{what} fails: {reason}{advice}", key=key) from error


def _trace(what: str, function: Callable[..., Any], *args: Any) -> Any:
    with naming(what):
        return jax.eval_shape(function, *args)


def _tails(shapes: Any) -> Any:
    """Return shapes without their first axis, the batch."""
    return jax.tree.map(lambda shape: tuple(map(int, shape[1:])), shapes, is_leaf=_is_shape)


def _is_shape(node: Any) -> bool:
    # A size may be symbolic: that of the batch, in an exported program.
    return isinstance(node, tuple) and not any(isinstance(size, tuple | list | dict) for size in node)
