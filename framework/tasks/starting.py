"""Parameters that begin with those of an earlier training, and parameters that are frozen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from framework.api import Array, Model, PyTree, Shape, TrainState, leaves_by_path
from framework.config.settings import InitFrom
from framework.errors import ConfigError, nearest

STATE = "model_state/"
"""Beginning of the names of a model's states, beside parameters, which are named as the parameter table has them."""

LISTED = 3
"""Names that an error lists."""


class Start(NamedTuple):
    """The arrays of an earlier training, and which of them is which of the new one's.

    Attributes:
      arrays: by name; parameters as the parameter table names them, and states below "model_state/".
      options: the section `init_from`.
      facts: of the source, for the run's record.
      data: facts of the data that a trained model learnt from, such as its preprocessor.
    """

    arrays: Mapping[str, np.ndarray]
    options: InitFrom
    facts: Mapping[str, Any]
    data: Mapping[str, Any] = MappingProxyType({})


class Origin(NamedTuple):
    """The beginning of one parameter or state.

    Attributes:
      word: "loaded", "renamed", "anew" (missing in the source, or not wanted), or "misshaped", which is anew too.
      name: of the array in the source.
    """

    word: str
    name: str

    def __str__(self) -> str:
        return f"from {self.name}" if self.word == "renamed" else self.word


def begun(model: Model, prefix: str, start: Start) -> Model:
    """Let a model begin with the arrays of a start, as far as they fit; all else is initialised.

    Args:
      prefix: of the names of its parameters: "" of a task with one model, or such as "generator/".
    """

    def init(key: Array, in_shape: Shape) -> tuple[Shape, PyTree, PyTree]:
        out_shape, params, state = model.init(key, in_shape)
        return out_shape, _filled(start, prefix, params), _filled(start, f"{STATE}{prefix}", state)

    return model._replace(init=init)


def _filled(start: Start, prefix: str, tree: PyTree) -> PyTree:
    def chosen(path: str, leaf: Any) -> Any:
        name = f"{prefix}{path}".rstrip("/")
        origin = _origin(start, name, leaf)
        return jnp.asarray(start.arrays[origin.name], leaf.dtype) if origin.word in ("loaded", "renamed") else leaf

    leaves = leaves_by_path(tree)
    return jax.tree.unflatten(jax.tree.structure(tree), [chosen(path, leaf) for path, leaf in leaves.items()])


def _origin(start: Start, name: str, leaf: Any) -> Origin:
    """Find where a leaf begins; the longest name of the map that it is, or lies below, is taken."""
    prefixes = [each for each in start.options.map if name == each or name.startswith(f"{each}/")]
    prefix = max(prefixes, key=len, default=None)
    source = name if prefix is None else start.options.map[prefix] + name.removeprefix(prefix)
    if _matches(name, start.options.anew) or source not in start.arrays:
        return Origin("anew", source)
    if start.arrays[source].shape != leaf.shape or not _fits(start.arrays[source].dtype, leaf.dtype):
        return Origin("misshaped", source)
    return Origin("loaded" if source == name else "renamed", source)


def _fits(found: Any, wanted: Any) -> bool:
    """Tell whether numbers may be cast: floats to floats, integers to integers."""
    kinds = (jnp.floating, jnp.integer, jnp.bool_)
    return any(jnp.issubdtype(found, kind) and jnp.issubdtype(wanted, kind) for kind in kinds)


def origins(start: Start, state: TrainState) -> dict[str, Origin]:
    """Say where each parameter and state begins.

    Args:
      state: with `jax.ShapeDtypeStruct` leaves, or arrays.

    Raises: ConfigError if arrays are missing, misshaped or left over, and no mask says that this is meant; if a mask or
      a name of the map fits nothing; or if nothing is loaded.
    """
    states = {f"{STATE}{path}": leaf for path, leaf in leaves_by_path(state.model_state).items()}
    leaves = {**leaves_by_path(state.params), **states}
    found = {name: _origin(start, name, leaf) for name, leaf in leaves.items()}
    anew, unused = start.options.anew, start.options.unused
    for key, patterns, names in (("anew", anew, leaves), ("unused", unused, start.arrays)):
        for pattern in patterns:
            if not any(fnmatchcase(name, pattern) for name in names):
                raise ConfigError(f"'{pattern}' matches nothing.{nearest(pattern, names)}", key=f"init_from.{key}")
    for prefix in start.options.map:
        if not any(name == prefix or name.startswith(f"{prefix}/") for name in leaves):
            raise ConfigError(f"there is no parameter '{prefix}'.{nearest(prefix, leaves)}", key="init_from.map")
    if not any(origin.word in ("loaded", "renamed") for origin in found.values()):
        text = f"nothing of it fits: it has {_listed(list(start.arrays))}; the model has {_listed(list(leaves))}"
        raise ConfigError(f"{text}; name them by init_from.map.", key="init_from")
    misshaped = [name for name, origin in found.items() if origin.word == "misshaped"]
    if misshaped:
        name = misshaped[0]
        stored, leaf = start.arrays[found[name].name], leaves[name]
        text = f"'{name}' is {leaf.dtype}{list(leaf.shape)}, and there {stored.dtype}{list(stored.shape)}"
        more = f", and so {len(misshaped) - 1} more" if misshaped[1:] else ""
        raise ConfigError(f"{text}{more}; init_from.anew=[{_quoted(misshaped)}] begins anew.", key="init_from")
    missing = [name for name, origin in found.items() if origin.word == "anew" and not _matches(name, anew)]
    if missing:
        text = f"it lacks {_listed(missing)}; init_from.anew=[{_quoted(missing)}] begins anew, or init_from.map renames"
        raise ConfigError(f"{text}.", key="init_from")
    used = {origin.name for origin in found.values() if origin.word in ("loaded", "renamed")}
    left = [name for name in start.arrays if name not in used and not _matches(name, unused)]
    # What begins anew takes the place of the array of that name.
    left = [name for name in left if name not in {origin.name for origin in found.values()}]
    if left:
        text = f"the model has no {_listed(left)}; init_from.unused=[{_quoted(left)}] leaves it out"
        raise ConfigError(f"{text}, or init_from.map renames.", key="init_from")
    return found


def counts(found: Mapping[str, Origin], start: Start) -> dict[str, int]:
    """Count how parameters and states begin, and the arrays of the source that are not used."""
    words = [origin.word for origin in found.values()]
    used = {origin.name for origin in found.values() if origin.word in ("loaded", "renamed")}
    counted = {word: words.count(word) for word in ("loaded", "renamed", "anew")}
    return {**counted, "unused": len(start.arrays) - len(used)}


def frozen(optimizer: optax.GradientTransformation, patterns: Sequence[str]) -> optax.GradientTransformation:
    """Leave parameters as they are: an optimizer sees neither them nor their gradients, and keeps no moments of them.

    Args:
      patterns: shell patterns of their paths, such as "0_Conv/*".
    """

    def moves(tree: PyTree) -> PyTree:
        names = leaves_by_path(tree)
        return jax.tree.unflatten(jax.tree.structure(tree), [not _matches(name, patterns) for name in names])

    inner = optax.masked(optimizer, moves)

    def update(updates: PyTree, state: PyTree, params: PyTree = None) -> tuple[PyTree, PyTree]:
        made, state = inner.update(updates, state, params)
        # x + (-0.0) is x, bit for bit, also where x is -0.0; x + 0.0 is not.
        still = jax.tree.map(lambda leaf: jnp.full_like(leaf, -0.0), updates)
        return jax.tree.map(lambda moved, new, old: new if moved else old, moves(updates), made, still), state

    return optax.GradientTransformation(inner.init, update)


def check_frozen(patterns: Sequence[str], params: PyTree) -> list[str]:
    """Return the paths of the parameters that are frozen.

    Raises: ConfigError if a pattern matches none, or no parameter is left to be trained.
    """
    names = list(leaves_by_path(params))
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise ConfigError(f"'{pattern}' matches no parameter.{nearest(pattern, names)}", key="freeze")
    found = [name for name in names if _matches(name, patterns)]
    if names and len(found) == len(names):
        raise ConfigError(f"it leaves none of {len(names)} parameters to be trained; freeze fewer.", key="freeze")
    return found


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return ", ".join(f"'{name}'" for name in names[:LISTED]) + more


def _quoted(names: Sequence[str]) -> str:
    return ",".join(names[:LISTED]) + (",…" if len(names) > LISTED else "")
