"""Defaults of options that a record does not name, by the signatures of the plugins that it does name."""

from __future__ import annotations

from typing import Any

from framework.errors import FrameworkError
from framework.registry.entry_points import discover
from framework.registry.kinds import KINDS
from framework.registry.signatures import schema_of
from framework_runs.reading import Run

UNKNOWN: Any = object()
"""In the place of a default that is not known."""


def default_of(run: Run, key: str) -> Any:
    """Return the default of an option of a plugin that a run used.

    The plugin is imported. A plugin of another version than the recorded one may have other defaults.

    Args:
      key: of the config, such as "optimizer.nesterov".

    Returns: `UNKNOWN` if no plugin of the run has such an option, or it has no plain default, or is not installed in
      the version that the run used.
    """
    owner, _, option = key.rpartition(".")
    recorded = (run.record.get("plugins") or {}).get(owner)
    if not isinstance(recorded, dict) or recorded.get("kind") not in KINDS:
        return UNKNOWN
    try:
        plugin = discover().find(recorded["kind"], f"{recorded.get('distribution')}:{recorded.get('name')}", owner)
        if plugin.version != recorded.get("version"):
            return UNKNOWN
        found = {each.name: each.default for each in schema_of(plugin.load()).options}.get(option, UNKNOWN)
    except FrameworkError:
        return UNKNOWN
    found = list(found) if isinstance(found, tuple) else found
    return found if found is None or isinstance(found, bool | int | float | str | list) else UNKNOWN
