"""The sections of a config that a task takes: the parameters of its factory that stand for components."""

from __future__ import annotations

import typing
from collections.abc import Callable, Mapping, Sequence
from pkgutil import resolve_name
from typing import Any, NamedTuple

from framework.registry.entry_points import discover
from framework.registry.kinds import GROUPS, KINDS, OF_SWEEPS, OF_TASKS
from framework.registry.signatures import REQUIRED, Option, schema_of

DEFAULT = "supervised"
"""The task of a config that names none."""

CORE = ("task", "data", "strategy", "callbacks", "probes")
"""Groups that every config has; all others are taken by tasks."""


class Section(NamedTuple):
    """A parameter of a task, for which a section of the config names one component, or several by tag."""

    kind: str
    is_tagged: bool = False
    is_required: bool = True

    @property
    def noun(self) -> str:
        """The component, for messages."""
        return KINDS[self.kind].noun


Sections = Mapping[str, Section]
"""The sections that a task takes, by their names. "schedule" is not among them: it belongs to "optimizer"."""

SUPERVISED: Sections = {
    "model": Section("models"),
    "loss": Section("losses"),
    "optimizer": Section("optimizers"),
    "metrics": Section("metrics", is_tagged=True),
    "transforms": Section("transforms", is_tagged=True, is_required=False),
}
"""The sections of the default task, known without an import of JAX."""


def sections_of(factory: Callable[..., Any]) -> Sections:
    """Read the sections that a task takes from the signature of its factory."""
    kinds = {resolve_name(annotation): kind for kind, annotation in OF_TASKS.items()}
    found = {option.name: _section(option, kinds) for option in schema_of(factory).options}
    return {name: section for name, section in found.items() if section is not None}


def taken_by(config: Mapping[str, Any]) -> Sections:
    """Return the sections that the task of a config takes; of any but the default one this imports the plugin.

    Raises: ConfigError if no task has its name; PluginError if it cannot be imported.
    """
    task = config.get("task")
    name = task.get("name", DEFAULT) if isinstance(task, Mapping) else DEFAULT
    if name == DEFAULT or not isinstance(name, str):
        return SUPERVISED
    return sections_of(discover().find("tasks", name, "task.name").load("task.name"))


def names_of(sections: Sections) -> list[str]:
    """Return the names of the sections that a config has for a task."""
    names = ["data.transform" if section.kind == "transforms" else name for name, section in sections.items()]
    return [*names, *(["schedule"] if "optimizer" in sections else [])]


def rates_of(config: Mapping[str, Any]) -> str:
    """Name the keys of a config's learning rates for a message, such as "optimizer.learning_rate"."""
    names = [name for name, section in taken_by(config).items() if section.kind == "optimizers"]
    return " or ".join(f"{name}.learning_rate" for name in names) or "the learning rate"


def is_of_tasks(section: str) -> bool:
    """Tell a group whose sections are those of tasks."""
    return section in GROUPS and section not in (*CORE, *OF_SWEEPS)


def _section(option: Option, kinds: Mapping[Any, str]) -> Section | None:
    annotation, is_required = option.annotation, option.default is REQUIRED
    if type(None) in (arguments := typing.get_args(annotation)):
        annotation = next(each for each in arguments if each is not type(None))
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    is_tagged = isinstance(origin, type) and issubclass(origin, Mapping | Sequence) and annotation not in kinds
    try:
        kind = kinds.get(arguments[-1] if is_tagged and arguments else annotation)
    except TypeError:  # an annotation that cannot be hashed
        return None
    return None if kind is None else Section(kind, is_tagged, is_required)
