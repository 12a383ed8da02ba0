"""Errors of JAX that come out of compiled calls, where no function of a plugin runs any more."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import jax

from framework.errors import ConfigError, PluginError
from framework.experiment import Experiment
from framework.registry.entry_points import OURS

UNTRACED = ("data", "strategy")
"""Keys of the components whose functions do not become part of a step, beside those of callbacks."""


@contextmanager
def naming_components(experiment: Experiment, keep: Callable[[Exception], str]) -> Iterator[None]:
    """Name the components that can have caused an error of JAX.

    Args:
      experiment: its plugins are named.
      keep: writes down what is known of memory that ran out, and returns where.

    Raises:
      ConfigError: memory is exhausted.
      PluginError: a traced value was kept from one call to another; with debug=keys, a random key was used twice.
    """
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        plugins = experiment.plugins
        key = "model" if "model" in plugins else "task"
        count = sum(parameter.size for parameter in experiment.parameters)
        largest = max(experiment.parameters, key=lambda parameter: parameter.size, default=None)
        part = f", {largest.size} of them in {largest.path}" if largest and largest.path else ""
        text = f"{plugins[key].title} has {count} parameters{part}; take a smaller one, or a smaller data.batch_size"
        told = f"{text}{keep(error)}. ({str(error).splitlines()[0]})"
        raise ConfigError(f"memory is exhausted: {told}", key=key) from error
    except jax.errors.UnexpectedTracerError as error:
        text = f"keep a traced value from one call to another; find it with debug=leaks: {str(error)[:400]}"
        raise PluginError(f"one of the functions of {_suspects(experiment)} must not {text}") from error
    except jax.errors.KeyReuseError as error:
        text = f"use a random key twice; split it first, or fold a number into it. ({str(error).splitlines()[0]})"
        raise PluginError(f"one of the functions of {_suspects(experiment)} must not {text}") from error


def _suspects(experiment: Experiment) -> str:
    """Name the plugins of other distributions whose functions are part of a step."""
    found = [plugin for key, plugin in experiment.plugins.items() if not _is_outside(key)]
    return ", ".join(plugin.title for plugin in found if plugin.distribution != OURS) or "the step"


def _is_outside(key: str) -> bool:
    return key in UNTRACED or key.startswith("callbacks.")
