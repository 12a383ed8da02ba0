"""From where two runs part to what parts them, with no more certainty than that allows."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

from framework.registry.entry_points import Plugin
from framework_verify.trail import Parting

Plugins = Mapping[str, Plugin]
"""By the config key that names them."""


class Verdict(NamedTuple):
    """What is wrong.

    Attributes:
      kind: where to look.
      certainty: certain, if what was seen leaves no other place; likely, if another one would be strange; open.
      because: what was seen, as a sentence.
      suspects: the components to look at, and who registered them.
    """

    kind: str
    certainty: Literal["certain", "likely", "open"]
    because: str
    suspects: tuple[str, ...]


def plugins_of(record: Mapping[str, Any]) -> Plugins:
    """The plugins that a run.json names."""
    return {key: Plugin(**entry, fetch=lambda: None) for key, entry in record["plugins"].items()}


def owner(path: str, plugins: Plugins, is_averaged: bool = False) -> str:
    """Which component keeps a leaf of the state, and who registered it; `is_averaged`: whether the run has `ema`."""
    section, *parts = path.split("/")
    if section in ("params", "model_state"):
        layers = {plugin.name: plugin.label for key, plugin in plugins.items() if key.startswith("model.")}
        named = [match[1] for part in parts if (match := re.fullmatch(r"\d+_(\w+)", part))]
        return next((layers[name] for name in reversed(named) if name in layers), plugins["model"].label)
    if section == "opt_state":
        return "the core's average (ema)" if is_averaged and parts[0] == "average" else plugins["optimizer"].label
    return "the core"


def judge(found: Parting, plugins: Plugins) -> Verdict:
    """What parts two runs, from the first place where they do."""
    # Data that are others after the state is do not explain it.
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
    """The batches are the same, and the state was before this step; the loss is that of the step before its update."""
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
        return Verdict("the model's state", "likely", because, (owner(found.leaves[0], plugins),))
    because = f"{same} and the same loss, and made another update of it"
    rate = ", at another learning rate" if "train/learning_rate" in tags else ""
    suspects = _labels(plugins, ["schedule", "optimizer"] if rate else ["optimizer", "schedule"])
    return Verdict("the schedule" if rate else "the optimizer or its schedule", "likely", because + rate, suspects)


FORWARD = ("data.transform", "model", "loss")
STEP = (*FORWARD, "optimizer", "schedule", "strategy")


def _log(found: Parting, plugins: Plugins) -> Verdict:
    """Every state that both looked at is the same, and what is logged is not."""
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
    """All that is computed is the same."""
    ended, resumed = found.ends or ([], [])
    told = "; ".join(
        f"{who} was ended at step {ends[-1][0]} by {ends[-1][1]}" if ends else f"{who} was not ended early"
        for who, ends in (("the run left alone", ended), ("the resumed one", resumed))
    )
    because = f"{told}; it must count again from metrics.jsonl, or from `run.start_step`"
    return Verdict("a callback", "certain", because, tuple(dict.fromkeys(by for _, by, _ in [*ended, *resumed])))


def of_files(names: Sequence[str], plugins: Plugins) -> Verdict:
    """Files that callbacks left are not the same; who wrote them is not known, but the framework's write none."""
    because = f"all that is computed is the same, but not {', '.join(names)}, of a callback that is not restored"
    callbacks = {key: plugin for key, plugin in plugins.items() if key.startswith("callbacks.")}
    foreign = [plugin.label for plugin in callbacks.values() if plugin.distribution != "framework"]
    return Verdict("a callback", "certain" if len(foreign) == 1 else "open", because, tuple(foreign))


def of_folder(part: str, plugins: Plugins) -> Verdict:
    """Checkpoints that are kept, or the record, are not the same, and all else is."""
    callbacks = [key for key in plugins if key.startswith("callbacks.")]
    keys = [key for key in callbacks if part == "checkpoints" and plugins[key].name == "checkpoint"] or callbacks
    return Verdict("a callback", "open", f"all that is computed is the same, but not {part}", _labels(plugins, keys))


def _labels(plugins: Plugins, keys: Sequence[str]) -> tuple[str, ...]:
    """The components under config keys, and the entries of the lists there."""
    named = [
        plugin.label for key in keys for name, plugin in plugins.items() if name == key or name.startswith(f"{key}[")
    ]
    return tuple(dict.fromkeys(named))
