"""Names of runs and of points: the experiment with what was chosen, such as "mnist seed=2 lr=0.003"."""

from __future__ import annotations

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any, NamedTuple

from framework_runs.reading import Run

SWITCHES = ("eager", "nans", "infs", "leaks", "keys", "transfers", "compiles", "checks", "profile")
"""Switches of `debug` that watch a run."""

SHORTENED = ("overfit", "fast", "limit")
"""Presets of `debug` that cut a run short, or train it on one batch alone: its metrics are no results."""

NUMBERLESS = (
    *("run", "callbacks", "distributed", "data.root", "data.offline"),
    *(f"debug.{name}" for name in SWITCHES),
    *(
        f"train.{name}"
        for name in ("log_every", "log_last_step", "eval_every", "checkpoint_every", "steps_per_call", "resident_mib")
    ),
)
"""Parts of a config that change no number of a run: where it is stored, and how it is watched."""

SHORT = {"learning_rate": "lr", "batch_size": "batch"}


class Point(NamedTuple):
    """Runs that differ in nothing but their seed.

    Attributes:
      label: name for people, without the seed.
      key: a digest of what its runs have in common, by which it has its colour.
      runs: at most one of a seed.
    """

    label: str
    key: str
    runs: Sequence[Run]

    @property
    def seeds(self) -> list[int]:
        """The seed of each run."""
        return [seed_of(run) for run in self.runs]


def shortened(run: Run) -> str | None:
    """Return the preset of `debug` that cut a run short, such as "overfit"; None for a whole run."""
    return next((name for name in SHORTENED if run.config.get(f"debug.{name}")), None)


def status_of(run: Run) -> str:
    """Write the status of a run for people, with the preset that cut it short: "done (overfit)"."""
    return run.status + (f" ({preset})" if (preset := shortened(run)) else "")


def label(run: Run, without: Sequence[str] = ()) -> str:
    """Return the experiment with what was chosen for it, but for what changes no number.

    Args:
      without: keys to leave out.
    """
    own = {key: value for key, value in chosen(run).items() if key != "experiment" and key not in without}
    lasts = Counter(_last(key) for key in own)
    parts = [f"{_last(key) if lasts[_last(key)] == 1 else key}={value}" for key, value in own.items()]
    return " ".join([str(run.record.get("name") or run.folder.name), *parts])


def chosen(run: Run) -> dict[str, Any]:
    """Return what was chosen for a run on its command line, but for what changes no number."""
    overrides = run.record.get("overrides")
    if not isinstance(overrides, dict):
        return {}
    watches = (*SWITCHES, "off")
    return {key: value for key, value in overrides.items() if _tells(key) and not (key == "debug" and value in watches)}


def common(runs: Sequence[Run]) -> dict[str, list[str]]:
    """Return the keys that were chosen alike for all runs of an experiment, if it has several, by its name."""
    groups: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for run in runs:
        groups[str(run.record.get("name"))].append(chosen(run))
    return {
        name: [key for key, value in each[0].items() if all(key in other and other[key] == value for other in each)]
        for name, each in groups.items()
        if len(each) > 1
    }


def seed_of(run: Run) -> int:
    """Return the seed of a run."""
    seed = run.config.get("seed", run.record.get("seed", 0))
    return seed if isinstance(seed, int) else 0


def points(runs: Sequence[Run]) -> list[Point]:
    """Group runs to points, in the order in which their first runs began.

    Runs of one config are seeds of one point. Where a seed occurs twice, code and versions tell points apart; runs that
    are alike in all are points of their own.
    """
    groups: dict[tuple[str, ...], list[Run]] = defaultdict(list)
    for run in runs:
        groups[(_digest(_deciding(run)),)].append(run)
    for key, group in list(groups.items()):
        if len({seed_of(run) for run in group}) < len(group):
            del groups[key]
            for run in group:
                groups[(*key, _digest(_code(run)))].append(run)
    found = [
        ("-".join(key) + (f"-{repeat}" if repeat else ""), apart)
        for key, group in groups.items()
        for repeat, apart in enumerate(_repeats(group))
    ]
    found.sort(key=lambda each: (each[1][0].started, str(each[1][0].folder)))
    firsts = [group[0] for _, group in found]
    shared = common(firsts)
    labels = [label(run, without=["seed", *shared.get(str(run.record.get("name")), [])]) for run in firsts]
    twice = {name for name, count in Counter(labels).items() if count > 1}
    numbers: Counter[str] = Counter()
    points = []
    for (key, group), name in zip(found, labels, strict=True):
        numbers[name] += 1
        points.append(Point(f"{name} #{numbers[name]}" if name in twice else name, key, group))
    return points


def _repeats(runs: Sequence[Run]) -> list[list[Run]]:
    """Deal runs out so that no group has a seed twice."""
    groups: list[list[Run]] = []
    for run in runs:
        free = (group for group in groups if seed_of(run) not in {seed_of(each) for each in group})
        group = next(free, None)
        if group is None:
            groups.append([run])
        else:
            group.append(run)
    return groups


def _deciding(run: Run) -> dict[str, Any]:
    """Return what tells points apart; of `debug` what is set, since records of older versions lack some of its keys."""
    config = {key: value for key, value in run.config.items() if key != "seed" and _tells(key)}
    return {key: value for key, value in config.items() if value or not key.startswith("debug.")}


def _code(run: Run) -> list[Any]:
    git = (run.starts[0].get("git") if run.starts else None) or {}
    plugins = run.record.get("plugins") or {}
    sources = {key: plugin.get("sources") for key, plugin in plugins.items() if isinstance(plugin, dict)}
    return [git.get("commit"), git.get("patch"), run.record.get("versions"), sources]


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:12]


def _tells(key: str) -> bool:
    return not any(key == part or key.startswith((f"{part}.", f"{part}+")) for part in NUMBERLESS)


def _last(key: str) -> str:
    last = key.rpartition(".")[2]
    return SHORT.get(last, last)
