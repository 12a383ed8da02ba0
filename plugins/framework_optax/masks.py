"""Choosing parameters by the pattern of their path."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase

import jax

from framework.api import PyTree
from framework.errors import ConfigError


def mask_by_path(patterns: str | Sequence[str]) -> Callable[[PyTree], PyTree]:
    """Make a function from parameters to a tree of booleans, as optax's masks are.

    Args:
      patterns: shell patterns over paths such as "0_Dense/W", where `*` also spans slashes: "*/W" is every W below the
        top. A parameter is chosen if it matches one of them and none that begins with "!"; patterns that all begin
        with "!" choose from everything.

    Returns: a function that raises ConfigError if a pattern matches no parameter at all, since it must be a mistake.
    """
    patterns = [patterns] if isinstance(patterns, str) else list(patterns)
    dropped = [pattern[1:] for pattern in patterns if pattern.startswith("!")]
    kept = [pattern for pattern in patterns if not pattern.startswith("!")] or ["*"]

    def mask(params: PyTree) -> PyTree:
        paths = _paths(params)
        for pattern in patterns:
            _check("mask", pattern, jax.tree.leaves(paths))
        return jax.tree.map(lambda path: _matches(path, kept) and not _matches(path, dropped), paths)

    return mask


def label_by_path(who: str, patterns: Sequence[str]) -> Callable[[PyTree], PyTree]:
    """Make a function from parameters to a tree of patterns: for each, the most specific one that it matches.

    That is the one with the most characters that are no wildcards; of two with as many, the first.

    Returns: a function that raises ConfigError if a pattern chooses nothing, or a parameter has none.
    """
    ranked = sorted(patterns, key=lambda pattern: -len(re.sub(r"\[.*?\]|[*?]", "", pattern)))

    def label(params: PyTree) -> PyTree:
        paths = _paths(params)
        labels = jax.tree.map(lambda path: next((p for p in ranked if fnmatchcase(path, p)), None) or "", paths)
        chosen = set(jax.tree.leaves(labels))
        for path, pattern in zip(jax.tree.leaves(paths), jax.tree.leaves(labels), strict=True):
            if not pattern:
                raise ConfigError(
                    f"{who}: no pattern matches the parameter '{path}'; add one, such as '*' for the rest."
                )
        for pattern in patterns:
            _check(who, pattern, jax.tree.leaves(paths))
            if pattern not in chosen:
                raise ConfigError(
                    f"{who} '{pattern}': each parameter that it matches has a more specific pattern; drop it."
                )
        return labels

    return label


def _paths(params: PyTree) -> PyTree:
    return jax.tree.map_with_path(lambda path, _: jax.tree_util.keystr(path, simple=True, separator="/"), params)


def _matches(path: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(path, pattern) for pattern in patterns)


def _check(who: str, pattern: str, paths: Sequence[str]) -> None:
    plain = pattern.removeprefix("!")
    if not any(fnmatchcase(path, plain) for path in paths):
        near = ", ".join(difflib.get_close_matches(plain, paths, n=3, cutoff=0)) or "none: there are no parameters"
        raise ConfigError(f"{who} '{pattern}' matches no parameter; the nearest paths are {near}.")
