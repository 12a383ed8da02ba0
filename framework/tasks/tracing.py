"""Traces of a task on shapes: checked before anything is compiled, and used again by the compiler."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from framework.api import DataPipeline, Model, Task, TrainState, layer_name
from framework.errors import ConfigError, FrameworkError
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


def _trace(what: str, function: Callable[..., Any], *args: Any) -> Any:
    try:
        return jax.eval_shape(function, *args)
    except FrameworkError:
        raise
    except Exception as error:
        raise ConfigError(f"{what} fails: {type(error).__name__}: {str(error).splitlines()[0]}") from error


def _shapes(tree: Any) -> str:
    return str(jax.tree.map(lambda leaf: f"{leaf.dtype}{list(leaf.shape)}", tree)).replace("'", "")
