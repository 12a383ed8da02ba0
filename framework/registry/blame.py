"""Blame: an error that a plugin raises, or a result against its contract, becomes one line that names the plugin.

Of our own plugins a fault stays what it is: an internal error, or components that do not fit together.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from pkgutil import resolve_name
from typing import Any

from framework.errors import ConfigError, FrameworkError, PluginError, blaming
from framework.registry.entry_points import Plugin
from framework.registry.kinds import KINDS, calls_of

OURS = "framework"
"""The distribution of the core."""


def fault(plugin: Plugin, text: str, key: str) -> FrameworkError:
    """Make the error for a component that does not fit: of ours the config is wrong, else the plugin."""
    if plugin.distribution == OURS:
        return ConfigError(text, key=key)
    return PluginError(f"{plugin.title}: {text}", key=key)


def answerable(plugin: Plugin, built: Any, key: str) -> Any:
    """Let the functions of a component name their plugin for what they raise, and for what they return amiss.

    Args:
      built: lifted to its contract. Objects with methods, such as callbacks, pass as they are: who calls them blames.
    """
    forms = {name: form for name, _, form in calls_of(KINDS[plugin.kind]) if form}
    if plugin.distribution == OURS or not forms:
        return built
    # `debug=nans` looks for the floating-point error of an operation, and names it better.
    passing = (FloatingPointError, *((OSError,) if plugin.kind == "stores" else ()))

    def guard(name: str, function: Callable[..., Any], form: str) -> Callable[..., Any]:
        @functools.wraps(function)
        def call(*args: Any, **options: Any) -> Any:
            with blaming(f"{plugin.title} fails{name and f' in {name}'}{_given(name, args)}", key, passing):
                result = function(*args, **options)
                RETURNS[form](result, args)
            return result

        return call

    if "" in forms:
        if isinstance(built, resolve_name("framework.api:TargetedLoss")):
            return dataclasses.replace(built, values=guard("", built.values, forms[""]))
        return guard("", built, forms[""])
    return built._replace(**{name: guard(name, getattr(built, name), form) for name, form in forms.items()})


def _given(name: str, args: tuple[Any, ...]) -> str:
    """Describe what a function was given, where its shapes help to find the mistake."""
    if name == "init" and len(args) == 2:
        return f" for the shape {args[1]}"
    if name == "apply":
        return f" on inputs {_shapes(args[2])}"
    if name in ("", "values") and len(args) == 2 and isinstance(args[1], Mapping) and "targets" in args[1]:
        return f" on outputs {_shapes(args[0])} and targets {_shapes(args[1]['targets'])}"
    return ""


def _shapes(tree: Any) -> str:
    """Return dtypes and shapes of a tree: "float32[16, 6]", or "{a: float32[16, 10]}"."""
    return str(resolve_name("jax").tree.map(shown, tree)).replace("'", "")


def shown(value: Any) -> str:
    """Name an array by dtype and shape, a text by itself, and anything else by its type."""
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        return f"{value.dtype}{list(value.shape)}"
    return repr(value) if isinstance(value, str) else type(value).__name__


def _parts(*names: str) -> Callable[[Any, Any], None]:
    """Make the check of a tuple whose parts are pytrees of arrays."""
    form = f"({', '.join(names)})"

    def check(result: Any, _: Any) -> None:
        if not isinstance(result, tuple | list) or len(result) != len(names):
            length = f" of {len(result)}" if isinstance(result, tuple | list) else ""
            raise TypeError(f"expected {form}, found {shown(result)}{length}")
        for name, part in zip(names, result, strict=True):
            _check_arrays(part, name)

    return check


def _check_arrays(tree: Any, name: str) -> None:
    jax, numpy = resolve_name("jax"), resolve_name("numpy")
    for leaf in jax.tree.leaves(tree):
        if not isinstance(leaf, jax.Array | numpy.ndarray | numpy.generic | int | float | complex):
            raise TypeError(f"expected arrays in {name}, found {shown(leaf)}")


def _check_values(result: Any, args: Any) -> None:
    """Refuse all but one value, or one statistic, for each example."""
    jax = resolve_name("jax")
    size = jax.tree.leaves(args[1]["inputs"])[0].shape[0]
    values = result.values if isinstance(result, resolve_name("framework.api:Counted")) else result
    dtype = getattr(values, "dtype", None)
    is_real = dtype is not None and not jax.numpy.issubdtype(dtype, jax.numpy.complexfloating)
    if not is_real or getattr(values, "shape", ())[:1] != (size,):
        raise TypeError(f"expected one real value for each of {size} examples, [B], found {shown(values)}")


def _check_each(result: Any, args: Any) -> None:
    """Refuse all but one number for each example."""
    _check_values(result, args)
    if not isinstance(result, tuple) and result.ndim > 1:
        raise TypeError(f"expected one number for each example, [B], found {shown(result)}")


def _check_number(result: Any, _: Any = None) -> None:
    is_number = isinstance(result, int | float) or (getattr(result, "dtype", "") and not getattr(result, "shape", ()))
    if not is_number or isinstance(result, complex):
        raise TypeError(f"expected a number, found {shown(result)}")


def _check_numbers(result: Any, _: Any) -> None:
    for suffix, number in result.items() if isinstance(result, Mapping) else [("", result)]:
        if not isinstance(suffix, str) or not suffix.isprintable():
            raise TypeError(f"expected a printable text as suffix, found {suffix!r}")
        _check_number(number)


def _check_updates(result: Any, args: Any) -> None:
    """Refuse updates that cannot be added to the parameters."""
    _parts("updates", "state")(result, args)
    jax = resolve_name("jax")
    found, wanted = (jax.tree.leaves_with_path(tree) for tree in (result[0], args[0]))
    if jax.tree.structure(result[0]) != jax.tree.structure(args[0]):
        raise TypeError(f"expected updates for {len(wanted)} parameters, in their structure, found {len(found)}")
    for (path, leaf), (_, like) in zip(found, wanted, strict=True):
        is_complex = [jax.numpy.iscomplexobj(each) for each in (leaf, like)]
        if jax.numpy.shape(leaf) != jax.numpy.shape(like) or is_complex == [True, False]:
            where = jax.tree_util.keystr(path, simple=True, separator="/")
            raise TypeError(f"expected {shown(like)} as update of {where}, found {shown(leaf)}")


def _check_batch(result: Any, args: Any) -> None:
    """Refuse a batch without what the given one holds, or with other inputs than the model was made for."""
    if not isinstance(result, Mapping):
        raise TypeError(f"expected a batch, found {shown(result)}")
    if missing := set(args[1]) - set(result):
        raise TypeError(f"expected a batch with {', '.join(sorted(missing))}, found {', '.join(map(str, result))}")
    _check_arrays(result, "the batch")
    jax = resolve_name("jax")
    sizes = {shown(leaf) for leaf in jax.tree.leaves(result) if leaf.shape[:1] != jax.tree.leaves(args[1])[0].shape[:1]}
    if sizes:
        raise TypeError(f"expected as many examples as it was given, found {', '.join(sorted(sizes))}")
    found, given = (jax.tree.map(shown, batch["inputs"]) for batch in (result, args[1]))
    if found != given:
        raise TypeError(f"expected inputs {given}, which the model is made for, found inputs {found}")


def _check_written(_: Any, args: Any) -> None:
    if not args[0].exists():
        raise TypeError(f"it wrote no {args[0].name}")


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
    "file": _check_written,
}
"""Checks of what the functions of components return, given their arguments, by the forms in `KINDS`."""
