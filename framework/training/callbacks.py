"""Callbacks as they are called: one hook of each, and errors that say whose they are."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

from framework.api import Callback, StopTraining
from framework.errors import FrameworkError, PluginError, StorageError
from framework.strategy import StrategyWrapper


class NamedCallback(NamedTuple):
    """A callback and who it is, for messages."""

    label: str  # such as "callback 'tensorboard' (framework 0.1.0)"
    callback: Callback


def notify(watchers: Iterable[NamedCallback], hook: str, *args: Any) -> None:
    """Call one hook of every callback.

    Raises: PluginError or StorageError naming the callback that failed; the framework's own errors pass; StopTraining
      once all were called, so that every logger has the record that ended the run.
    """
    request = None
    for label, callback in watchers:
        try:
            getattr(callback, hook)(*args)
        except StopTraining as stop:
            request = stop
        except FrameworkError:
            raise
        except OSError as error:
            raise StorageError(f"{label} failed in {hook}: {error}") from error
        except Exception as error:
            raise PluginError(f"{label} failed in {hook}: {type(error).__name__}: {error}") from error
    if request is not None:
        raise request


@dataclass(frozen=True)
class RaisePending(StrategyWrapper):
    """A strategy before each of whose compiled calls every callback may raise what failed in a thread of its own."""

    watchers: Iterable[NamedCallback]

    def calling(self, call: Callable[..., Any]) -> Callable[..., Any]:
        """The call, with `settle` before it."""

        def settled(*args: Any) -> Any:
            notify(self.watchers, "settle", False)
            return call(*args)

        return settled
