"""Names of runs in TensorBoard: the experiment, and what was chosen beside it, such as "mnist seed=2 lr=0.003"."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from framework.api import Run

NUMBERLESS = (
    *("run", "callbacks", "probes", "debug", "distributed", "data.root", "data.offline", "strategy.members"),
    *(
        f"train.{name}"
        for name in ("log_every", "log_last_step", "eval_every", "checkpoint_every", "steps_per_call", "resident_mib")
    ),
)
"""Parts of a config that change no number of a run: where it is stored, and how it is watched."""

LONGEST = 100
"""Characters of a name; the file system takes 255 bytes."""

SHORT = {"learning_rate": "lr"}

FIRST = ("eval/", "test/", "train/", "train_step/")
"""Beginnings of tags that people look at first: the metrics of splits."""

TAKEN = ("checkpoints", "media", "nan", "lock")
"""Names in a run folder that a name without a choice could take."""


def is_numberless(key: str, parts: Iterable[str] = NUMBERLESS) -> bool:
    """Tell whether a key lies in a part of the config that changes no number."""
    return any(key == part or key.startswith((f"{part}.", f"{part}+")) for part in parts)


def shown_tag(tag: str) -> str:
    """Return a tag as TensorBoard shows it, which opens the first groups by name: what begins with "~" comes last."""
    return tag if tag.startswith(FIRST) else f"~{tag}"


def names_of(run: Run) -> tuple[str, list[str]]:
    """Return the name of a run, and of each of its members; they are names of folders, too."""
    chosen = {key: value for key, value in run.overrides.items() if not is_numberless(key)}
    chosen.pop("experiment", None)
    if not run.members:
        return _name(run.name, chosen), []
    common = {key: value for key, value in chosen.items() if key not in ("strategy", *run.members[0])}
    names = [_name(run.name, {**common, **values}) for values in differing(run.members)]
    doubled = {name for name, count in Counter(names).items() if count > 1}
    names = [f"{name} member={k}" if name in doubled else name for k, name in enumerate(names)]
    return f"{_name(run.name, common)} mean of {len(names)}", names


def point_of(run: Run, values: Mapping[str, Any]) -> str:
    """Return the name of a run, or of a member by its values, without its seed; "" if nothing else was chosen.

    Runs of one name are the seeds of one point, of which TensorBoard shows the mean.
    """
    chosen = {**run.overrides, **values}
    name = without_seed(run.name, chosen)
    return name if "seed" in chosen and name != without_seed(run.name, {}) else ""


def without_seed(experiment: str, chosen: Mapping[str, Any]) -> str:
    """Return the name of a run by what was chosen for it, without its seed."""
    left_out = ("experiment", "strategy", "seed")
    return _name(experiment, {key: chosen[key] for key in chosen if key not in left_out and not is_numberless(key)})


def differing(members: Iterable[Mapping[str, float]]) -> list[dict[str, float]]:
    """Return the values of each member by the keys in which members differ; of alike members, by all keys."""
    members = list(members)
    keys = [key for key in members[0] if len({values[key] for values in members}) > 1]
    return [{key: values[key] for key in keys or values} for values in members]


def _name(experiment: str, chosen: Mapping[str, Any]) -> str:
    lasts = Counter(_last(key) for key in chosen)
    parts = [f"{_last(key) if lasts[_last(key)] == 1 else key}={_shown(value)}" for key, value in chosen.items()]
    while len(" ".join([experiment, *parts])) > LONGEST and len(parts) > 1:
        parts = ["…", *parts[2 if parts[0] == "…" else 1 :]]  # what comes last is most often what a sweep varies
    name = " ".join([experiment, *parts])
    return f"{name} run" if name in TAKEN or name.startswith(".") else name


def _last(key: str) -> str:
    last = key.rpartition(".")[2]
    return SHORT.get(last, last)


def _shown(value: Any) -> str:
    """Write a value as it can stand in the name of a folder: of a path its end, of a list what is in it."""
    text = f"{value:g}" if isinstance(value, float) else str(value)
    text = text.strip("[]").rstrip("/").rpartition("/")[2]
    return re.sub(r"[^\w.,+-]+", "_", text.replace(", ", ","))[:40]
