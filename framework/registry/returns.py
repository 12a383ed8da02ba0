"""Results of components' functions, checked against the forms that `KINDS` gives them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from framework.api import Counted, TrainState
from framework.trees import named_leaves, shape_text


def _parts(*names: str) -> Callable[[Any, Any], None]:
    """Make the check of a tuple whose parts are pytrees of arrays."""
    form = f"({', '.join(names)})"

    def check(result: Any, _: Any) -> None:
        if not isinstance(result, tuple | list) or len(result) != len(names):
            length = f" of {len(result)}" if isinstance(result, tuple | list) else ""
            raise TypeError(f"expected {form}, found {shape_text(result)}{length}")
        for name, part in zip(names, result, strict=True):
            _check_arrays(part, name)

    return check


def _check_arrays(tree: Any, name: str) -> None:
    for leaf in jax.tree.leaves(tree):
        if not isinstance(leaf, jax.Array | np.ndarray | np.generic | int | float | complex):
            raise TypeError(f"expected arrays in {name}, found {shape_text(leaf)}")


def _check_values(result: Any, args: Any) -> None:
    """Refuse all but one value, or one statistic, for each example."""
    size = jax.tree.leaves(args[1]["inputs"])[0].shape[0]
    values = result.values if isinstance(result, Counted) else result
    dtype = getattr(values, "dtype", None)
    is_real = dtype is not None and not jnp.issubdtype(dtype, jnp.complexfloating)
    if not is_real or getattr(values, "shape", ())[:1] != (size,):
        raise TypeError(f"expected one real value for each of {size} examples, [B], found {shape_text(values)}")


def _check_each(result: Any, args: Any) -> None:
    """Refuse all but one number for each example."""
    _check_values(result, args)
    if not isinstance(result, tuple) and result.ndim > 1:
        raise TypeError(f"expected one number for each example, [B], found {shape_text(result)}")


def _check_number(result: Any, _: Any = None) -> None:
    is_number = isinstance(result, int | float) or (getattr(result, "dtype", "") and not getattr(result, "shape", ()))
    if not is_number or isinstance(result, complex):
        raise TypeError(f"expected a number, found {shape_text(result)}")


def _check_numbers(result: Any, _: Any) -> None:
    for suffix, number in result.items() if isinstance(result, Mapping) else [("", result)]:
        if not isinstance(suffix, str) or not suffix.isprintable():
            raise TypeError(f"expected a printable text as suffix, found {suffix!r}")
        _check_number(number)


def _check_updates(result: Any, args: Any) -> None:
    """Refuse updates that cannot be added to the parameters."""
    _parts("updates", "state")(result, args)
    found, wanted = named_leaves(result[0]), named_leaves(args[0])
    if jax.tree.structure(result[0]) != jax.tree.structure(args[0]):
        raise TypeError(f"expected updates for {len(wanted)} parameters, in their structure, found {len(found)}")
    for (path, leaf), (_, like) in zip(found, wanted, strict=True):
        is_complex = [jnp.iscomplexobj(each) for each in (leaf, like)]
        if jnp.shape(leaf) != jnp.shape(like) or is_complex == [True, False]:
            raise TypeError(f"expected {shape_text(like)} as update of {path}, found {shape_text(leaf)}")


def _check_batch(result: Any, args: Any) -> None:
    """Refuse a batch without what the given one holds, or with other inputs than the model was made for."""
    if not isinstance(result, Mapping):
        raise TypeError(f"expected a batch, found {shape_text(result)}")
    if missing := set(args[1]) - set(result):
        raise TypeError(f"expected a batch with {', '.join(sorted(missing))}, found {', '.join(map(str, result))}")
    _check_arrays(result, "the batch")
    sizes = {
        shape_text(leaf) for leaf in jax.tree.leaves(result) if leaf.shape[:1] != jax.tree.leaves(args[1])[0].shape[:1]
    }
    if sizes:
        raise TypeError(f"expected as many examples as it was given, found {', '.join(sorted(sizes))}")
    found, given = (jax.tree.map(shape_text, batch["inputs"]) for batch in (result, args[1]))
    if found != given:
        raise TypeError(f"expected inputs {given}, which the model is made for, found inputs {found}")


def _check_named(result: Any, _: Any) -> None:
    """Refuse all but a mapping from names to arrays."""
    if not isinstance(result, Mapping):
        raise TypeError(f"expected {{name: array}}, found {shape_text(result)}")
    for name, value in result.items():
        if not isinstance(name, str) or not isinstance(value, jax.Array | np.ndarray | np.generic | int | float):
            raise TypeError(f"expected an array for each name, found {shape_text(value)} for {name!r}")


def _check_written(_: Any, args: Any) -> None:
    if not args[0].exists():
        raise TypeError(f"it wrote no {args[0].name}")


def _check_train_state(result: Any, _: Any) -> None:
    if not isinstance(result, TrainState):
        raise TypeError(f"expected a TrainState, found {shape_text(result)}")
    _check_arrays(result, "the state")


def _check_means(result: Any, _: Any) -> None:
    """Refuse all but a mapping of totals and counts."""
    if not isinstance(result, Mapping):
        raise TypeError(f"expected {{name: (total, count)}}, found {shape_text(result)}")
    for name, mean in result.items():
        if not isinstance(mean, tuple) or len(mean) != 2:
            raise TypeError(f"expected (total, count) for '{name}', found {shape_text(mean)}")


def _check_step(result: Any, args: Any) -> None:
    if not isinstance(result, tuple) or len(result) != 2:
        raise TypeError(f"expected (state, {{name: (total, count)}}), found {shape_text(result)}")
    _check_train_state(result[0], args)
    _check_means(result[1], args)
    if "loss" not in result[1]:
        raise TypeError(f"expected a 'loss' among its metrics, found {', '.join(result[1]) or 'none'}")


RETURNS: dict[str, Callable[[Any, Any], None]] = {
    "(out_shape, params, state)": _parts("out_shape", "params", "state"),
    "(outputs, state)": _parts("outputs", "state"),
    "[B]": _check_each,
    "[B, ...]": _check_values,
    "number": _check_number,
    "numbers": _check_numbers,
    "state": lambda result, _: _check_arrays(result, "the state"),
    "(updates, state)": _check_updates,
    "batch": _check_batch,
    "TrainState": _check_train_state,
    "(TrainState, means)": _check_step,
    "means": _check_means,
    "(state, observation)": _parts("state", "observation"),
    "(state, observation, reward, terminated)": _parts("state", "observation", "reward", "terminated"),
    "arrays": _check_named,
    "file": _check_written,
}
"""Checks of what the functions of components return, given their arguments, by the forms in `KINDS`."""
