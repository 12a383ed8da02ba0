"""Several transformations as one optimizer: one after the other, or each for parameters of its own."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import optax

from framework.api import Schedule
from framework.errors import ConfigError, nearest
from framework_optax.injection import inject
from framework_optax.masks import label_by_path
from framework_optax.optimizers import Found, Part, search

FREEZE = "freeze"
"""The group of the parameters that stay as they are."""

Combine = Callable[[Sequence[optax.GradientTransformation]], optax.GradientTransformation]


def chain(
    learning_rate: float | Schedule | None = None, transforms: Sequence[Any] = ()
) -> optax.GradientTransformation:
    """Optax transformations, one after the other.

    Args:
      learning_rate: handed to each transform that takes one and is not given its own.
      transforms: each a name, `{name: {option: value}}`, or an `optax.GradientTransformation`.

    Returns: a transformation whose hyper-parameters in the state are "learning_rate" for the shared one and, for the
      others, such as "clip_by_global_norm__max_norm", or "clip_2__max_delta" where a name stands twice.

    Raises: ConfigError for an unknown transform or option, none at all, or a learning rate that none takes.
    """
    if not transforms:
        raise ConfigError("chain: transforms is empty; expected at least one, such as scale_by_learning_rate.")
    known = search()
    parts = [_part("chain", entry, known, learning_rate) for entry in transforms]
    if learning_rate is not None and not any(part.shares_rate for part in parts):
        raise ConfigError(
            "chain: no transform takes the learning rate; end with scale_by_learning_rate or an optimizer."
        )
    return _combined("chain", parts, lambda built: optax.chain(*built))


def groups(
    groups: Mapping[str, Any] | None = None, learning_rate: float | Schedule | None = None
) -> optax.GradientTransformation:
    """An optimizer for each group of parameters, chosen by the pattern of their path; "freeze" keeps some as they are.

    Args:
      groups: for each pattern, "freeze", or an entry of a chain, or a list of those. `{"0_*": freeze, "*": adam}`
        trains all but the first layer. A parameter belongs to the most specific pattern that it matches: the one with
        the most characters that are no wildcards, whatever the order. Null is `{"*": adam}`.
      learning_rate: handed to each transform that takes one and is not given its own.

    Returns: a transformation whose hyper-parameters in the state are called as a chain's.

    Raises: ConfigError for an unknown transform or option, or no transform that takes the learning rate; and, once
      there are parameters, for a pattern that chooses none, or a parameter that no pattern chooses.
    """
    groups = {"*": "adam"} if groups is None else groups
    if not groups:
        raise ConfigError('groups: it is empty; expected patterns such as {"0_*": freeze, "*": adam}.')
    known = search()
    parts: list[Part] = []
    spans: dict[str, slice] = {}
    for pattern, entry in groups.items():
        entries = [] if entry == FREEZE else entry if isinstance(entry, list | tuple) else [entry]
        spans[pattern] = slice(len(parts), len(parts) + len(entries))
        parts += [_part(f"groups '{pattern}'", each, known, learning_rate) for each in entries]
    if learning_rate is not None and not any(part.shares_rate for part in parts):
        raise ConfigError("groups: none takes the learning rate; one of them must be an optimizer without its own.")

    def combine(built: Sequence[optax.GradientTransformation]) -> optax.GradientTransformation:
        each: dict[Hashable, optax.GradientTransformation] = {
            p: optax.chain(*built[s]) if built[s] else optax.set_to_zero() for p, s in spans.items()
        }
        return optax.multi_transform(each, label_by_path("groups", list(groups)))

    return _combined("groups", parts, combine)


def _combined(label: str, parts: Sequence[Part], combine: Combine) -> optax.GradientTransformation:
    """Transformations as one, with all of their hyper-parameters in its state."""
    keys = _keys(parts)

    def build(values: Mapping[str, Any]) -> optax.GradientTransformation:
        own = [{option: values[key] for option, key in names.items()} for names in keys]
        return combine([part.build(numbers) for part, numbers in zip(parts, own, strict=True)])

    pairs = zip(parts, keys, strict=True)
    numbers = {names[option]: value for part, names in pairs for option, value in part.numbers.items()}
    return inject(label, build, numbers)


def _part(label: str, entry: Any, known: Mapping[str, Found], learning_rate: float | Schedule | None) -> Part:
    """Read one entry of a chain."""
    if isinstance(entry, optax.GradientTransformation):
        return Part("given", {}, lambda _: entry, shares_rate=True)  # it may well scale by the rate on its own
    named = {entry: {}} if isinstance(entry, str) else entry
    if not isinstance(named, Mapping) or len(named) != 1:
        raise ConfigError(f"{label}: expected a name or {{name: {{option: value}}}} as a transform, found {entry!r}.")
    name, options = next(iter(named.items()))
    if name not in known:
        raise ConfigError(f"{label}: optax has no transform '{name}'.{nearest(str(name), known)}")
    if not isinstance(options, Mapping | None):
        raise ConfigError(f"{label}: expected {{option: value}} for '{name}', found {options!r}.")
    options = dict(options or {})
    shares = learning_rate is not None and "learning_rate" in known[name].parameters and "learning_rate" not in options
    return known[name].part(options | {"learning_rate": learning_rate} if shares else options, shares)


def _keys(parts: Sequence[Part]) -> list[dict[str, str]]:
    """For each part of a chain, what each of its hyper-parameters is called in the state."""
    names = [part.name for part in parts]
    labels = [name if names.count(name) == 1 else f"{name}_{index}" for index, name in enumerate(names)]
    return [
        {
            option: option if part.shares_rate and option == "learning_rate" else f"{label}__{option}"
            for option in part.numbers
        }
        for part, label in zip(parts, labels, strict=True)
    ]
