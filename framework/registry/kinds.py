"""The kinds of plugins."""

from __future__ import annotations

KINDS = {
    "layers": "layer",
    "models": "model",
    "losses": "loss",
    "metrics": "metric",
    "optimizers": "optimizer",
    "schedules": "schedule",
    "data": "data pipeline",
    "transforms": "transform",
    "strategies": "strategy",
    "callbacks": "callback",
    "stores": "store",
    "commands": "command",
}
"""Entry-point groups (after `framework.`) of components, and what one of each is called."""


METHODS = {
    "data": ("spec", "steps_per_epoch", "splits", "source", "train", "eval"),
    "strategies": ("devices", "init", "train", "evaluate", "feed"),
    "stores": ("name", "place", "write", "read"),
}


CALLS: dict[str, dict[str, tuple[int, tuple[str, ...]]]] = {
    "layers": {"init": (2, ()), "apply": (3, ("key", "train"))},
    "models": {"init": (2, ()), "apply": (3, ("key", "train"))},
    "losses": {"": (2, ())},
    "metrics": {"values": (2, ())},
    "schedules": {"": (1, ())},
    "transforms": {"": (2, ())},
    "data": {"train": (2, ()), "eval": (1, ())},
    "strategies": {"init": (2, ()), "train": (2, ()), "evaluate": (1, ()), "feed": (2, ())},
    "callbacks": {"on_start": (1, ()), "on_log": (2, ()), "on_state": (2, ()), "settle": (1, ()), "on_end": (1, ())},
    "stores": {"write": (2, ()), "read": (2, ())},
}
"""How many arguments, and which by name, the core gives to what a plugin made; "" is the thing itself."""


COMPONENTS = {
    "model": "models",
    "loss": "losses",
    "optimizer": "optimizers",
    "schedule": "schedules",
    "data": "data",
    "strategy": "strategies",
}
"""Sections that name one component each, and its kind."""


MAPPINGS = {"metrics": "metrics", "callbacks": "callbacks"}
"""Sections that hold components by tag, and their kind. A tag is the plugin's name unless `name` says otherwise."""


GROUPS = COMPONENTS | MAPPINGS
