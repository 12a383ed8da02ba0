"""Calls of callbacks: one hook of each, with errors that name the callback."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from framework.api import StopTraining
from framework.errors import ConfigError, StorageError, blaming
from framework.experiment import NamedCallback


def notify(callbacks: Iterable[NamedCallback], hook: str, *args: Any) -> None:
    """Call one hook of every callback.

    Raises: PluginError or StorageError naming the callback that failed; the framework's own errors pass; StopTraining
      once all were called, so that every logger has the record that ended the run.
    """
    request = None
    for label, callback, key in callbacks:
        # What one callback changes, no other sees.
        given = [dict(arg) if isinstance(arg, dict) else arg for arg in args]
        try:
            with blaming(f"{label} failed in {hook}", passing=(StopTraining, OSError)):
                getattr(callback, hook)(*given)
        except StopTraining as stop:
            request = stop
        except ConfigError as error:
            # A callback knows its options, and not the key that holds them.
            if key and not error.key:
                error.option, error.key = str(error).partition(" ")[0].rstrip(":"), key
            raise
        except OSError as error:
            raise StorageError(f"{label} failed in {hook}: {error}") from error
    if request is not None:
        raise request


def ended_members(callbacks: Iterable[NamedCallback]) -> dict[int, str]:
    """Return the members that callbacks have ended, each with the first callback's reason.

    Raises: PluginError naming the callback that failed.
    """
    found: dict[int, str] = {}
    for label, callback, _ in callbacks:
        with blaming(f"{label} failed in ended_members"):
            found = {**callback.ended_members(), **found}
    return found


def raise_pending(callbacks: Iterable[NamedCallback]) -> None:
    """Let each callback raise what failed in a thread of its own. It is called before each compiled call.

    So a run whose checkpoint cannot be written ends at the next step, and loses no more work.
    """
    notify(callbacks, "settle", False)
