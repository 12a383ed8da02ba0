"""The cause of a difference between two runs, from the place where they part, with a certainty."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

from framework.records.record import PROVENANCE
from framework.registry.entry_points import Plugin
from framework_verify.trail import Parting

Plugins = Mapping[str, Plugin]
"""Plugins by the config key that names them."""


class Verdict(NamedTuple):
    """The cause of a difference.

    Attributes:
      kind: the part of the experiment to look at.
      certainty: "certain" if no other part can be the cause, "likely" if another would be strange, else "open".
      because: a sentence of what was seen.
      suspects: labels of the components to look at, with who registered them.
    """

    kind: str
    certainty: Literal["certain", "likely", "open"]
    because: str
    suspects: tuple[str, ...]


def plugins_of(record: Mapping[str, Any]) -> Plugins:
    """Return the plugins that a run.json names."""
    named = {key: {name: entry[name] for name in PROVENANCE} for key, entry in record["plugins"].items()}
    return {key: Plugin(**entry, fetch=lambda: None) for key, entry in named.items()}


def owner(path: str, plugins: Plugins, is_averaged: bool) -> str:
    """Name the component that keeps a leaf of the state, and who registered it.

    Args:
      path: of the leaf, such as "opt_state/0/mu/W".
      plugins: the plugins of the run.
      is_averaged: whether the run has `ema`, whose average lies beside the optimizer's state.
    """
    section, *parts = path.split("/")
    if section in ("params", "model_state"):
        layers = {plugin.name: plugin.label for key, plugin in plugins.items() if key.startswith("model.")}
        named = [match[1] for part in parts if (match := re.fullmatch(r"\d+_(\w+)", part))]
        return next((layers[name] for name in reversed(named) if name in layers), _label(plugins, parts[0], "model"))
    if section == "opt_state":
        is_average = is_averaged and parts[0] == "average"
        return "the core's average (ema)" if is_average else _label(plugins, f"{parts[0]}_optimizer", "optimizer")
    return _label(plugins) if section == "task_state" else "the core"


def _label(plugins: Plugins, *keys: str) -> str:
    """Name the plugin of the first key that the run has, or its task: of several models, each has a key of its own."""
    return next((plugins[key].label for key in keys if key in plugins), _task(plugins))


def _task(plugins: Plugins) -> str:
    return plugins["task"].label if "task" in plugins else "the core"


def judge(found: Parting, plugins: Plugins) -> Verdict:
    """Find the cause, from the first place where two runs part."""
    # Data that differ after the state does cannot explain it.
    if found.arrays or (found.batch and (found.state is None or found.batch.step <= found.state)):
        return _data(found, plugins)
    if found.state is not None:
        return _state(found, plugins)
    if found.log is not None or found.splits:
        return _log(found, plugins)
    return _end(found, plugins)


def _data(found: Parting, plugins: Plugins) -> Verdict:
    suspects = (plugins["data"].label,)
    if found.arrays:
        because = "the training examples in memory are not those of the run left alone"
        return Verdict("the data", "certain", f"{because}: they are drawn or read anew, and otherwise", suspects)
    assert found.batch is not None
    step, twin = found.batch
    if twin is not None and found.start > 0 and twin == step - found.start:
        because = (
            f"resumed at step {found.start}, the data began anew: step {step} was fed the batch of step {twin}; "
            "`train(seed, start)` must begin at batch `start`, and draw from (seed, step) alone"
        )
        return Verdict("the position in the data", "certain", because, suspects)
    which = "a batch that no step of the other run has" if twin is None else f"the batch of step {twin}"
    because = f"step {step} was fed {which}; batch k must be a pure function of (seed, k)"
    return Verdict("the data", "certain", because, suspects)


def _state(found: Parting, plugins: Plugins) -> Verdict:
    """Judge a state that differs, though its batch and the state before it do not; the loss is that of the latter."""
    sections = {path.partition("/")[0] for path in found.leaves}
    same = f"step {found.state} had the same batch and the same state before it"
    if found.state != found.before + 1:
        because = f"the states part between steps {found.before} and {found.state}, with the same batches"
        return Verdict("a part of the step", "open", because, _labels(plugins, STEP))
    if sections & {"key", "step"}:
        return Verdict(
            "the key", "certain", f"{same}, and made another key or step of it", _labels(plugins, ["strategy"])
        )
    tags = set(found.tags)
    if tags & {"train/loss"}:
        because = f"{same}, and another loss: what computes it keeps or draws something outside state and key"
        return Verdict("the augmentation, the model or the loss", "likely", because, _labels(plugins, FORWARD))
    if sections == {"model_state"}:
        because = f"{same} and the same loss, and left another model state ({found.leaves[0]})"
        return Verdict("the model's state", "likely", because, (owner(found.leaves[0], plugins, False),))
    because = f"{same} and the same loss, and made another update of it"
    rate = ", at another learning rate" if "train/learning_rate" in tags else ""
    suspects = _labels(plugins, ["schedule", "optimizer"] if rate else ["optimizer", "schedule"])
    return Verdict("the schedule" if rate else "the optimizer or its schedule", "likely", because + rate, suspects)


FORWARD = ("data.transform", "model", "loss")
STEP = (*FORWARD, "optimizer", "schedule", "strategy")


def _log(found: Parting, plugins: Plugins) -> Verdict:
    """Judge what is logged, where every state is the same."""
    if found.splits:
        because = (
            f"the batches to evaluate split {found.splits[0]} are others; `eval` must give the same ones each time"
        )
        return Verdict("the evaluation data", "certain", because, (plugins["data"].label,))
    because = f"the states are the same, and step {found.log} logs another {', '.join(found.tags)}"
    metrics = {tag.split("/")[1] for tag in found.tags}
    keys = [f"metrics.{name}" for name in sorted(metrics) if f"metrics.{name}" in plugins]
    if keys and "loss" not in metrics:
        return Verdict("a metric", "likely", because, _labels(plugins, keys))
    return Verdict("what is measured", "open", because, _labels(plugins, [*keys, "loss", "model"]))


def _end(found: Parting, plugins: Plugins) -> Verdict:
    """Judge runs that end at different steps, though all that is computed is the same."""
    ended, resumed = found.ends or ([], [])
    told = "; ".join(
        f"{who} was ended at step {ends[-1][0]} by {ends[-1][1]}" if ends else f"{who} was not ended early"
        for who, ends in (("the run left alone", ended), ("the resumed one", resumed))
    )
    because = f"{told}; it must count again from metrics.jsonl, or from `run.start_step`"
    return Verdict("a callback", "certain", because, tuple(dict.fromkeys(by for _, by, _ in [*ended, *resumed])))


def of_files(names: Sequence[str], plugins: Plugins) -> Verdict:
    """Judge files that differ. Their writer is not known, but callbacks of the framework write none."""
    because = f"all that is computed is the same, but not {', '.join(names)}, of a callback that is not restored"
    callbacks = {key: plugin for key, plugin in plugins.items() if key.startswith("callbacks.")}
    foreign = [plugin.label for plugin in callbacks.values() if plugin.distribution != "framework"]
    return Verdict("a callback", "certain" if len(foreign) == 1 else "open", because, tuple(foreign))


def of_folder(part: str, plugins: Plugins) -> Verdict:
    """Judge kept checkpoints, or a record, that differ, though all else is the same."""
    callbacks = [key for key in plugins if key.startswith("callbacks.")]
    keys = [key for key in callbacks if part == "checkpoints" and plugins[key].name == "checkpoint"] or callbacks
    return Verdict("a callback", "open", f"all that is computed is the same, but not {part}", _labels(plugins, keys))


def _labels(plugins: Plugins, keys: Sequence[str]) -> tuple[str, ...]:
    """Label the components under config keys, and the entries of the lists there."""
    named = [
        plugin.label for key in keys for name, plugin in plugins.items() if name == key or name.startswith(f"{key}[")
    ]
    return tuple(dict.fromkeys(named))
