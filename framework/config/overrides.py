"""Additions to Hydra's override grammar, as a rewriting into it."""

from __future__ import annotations

import re
from collections.abc import Sequence

from framework.errors import ConfigError
from framework.registry.kinds import GROUPS

_EXTEND = re.compile(r"^(?P<key>[\w.-]+)\+=(?P<value>.*)$", re.DOTALL)
_OPTION = re.compile(r"^\w[\w-]*(\.[\w-]+)+=")
_CHOICE = re.compile(rf"^(?P<group>\+?({'|'.join(GROUPS)}|debug|experiment))=(?P<name>null|nan|inf|true|false|[\d.]+)$")
_LENGTH = re.compile(r"^[+~]*(?P<key>train\.(?:steps|epochs))(?:=(?P<value>.*))?$", re.DOTALL)


def rewrite(words: Sequence[str]) -> list[str]:
    """Turn a user's words into Hydra's overrides.

    `metrics+=perplexity` and `model.layers+=[Relu,{Dense: 10}]` extend what the config holds: they become entries of
    the section `extend`. `optimizer.b1=0.8` sets an option whether or not the YAML file mentions it (Hydra's `++`):
    the plugin's signature is the schema, and it refuses misspelt options with a better message than Hydra can.
    `+experiment=3` chooses by name, where Hydra would see a number and refuse it. `train.epochs=2` takes away the
    `train.steps` of an experiment, which would decide otherwise.

    Raises: ConfigError for a length in steps and in epochs.
    """
    extensions: dict[str, list[str]] = {}
    rewritten = []
    for word in words:
        extend = _EXTEND.match(word)
        if extend:
            extensions.setdefault(extend["key"], []).append(_items(extend["value"]))
        elif _OPTION.match(word) and not word.startswith("hydra."):
            rewritten.append(f"++{word}")
        elif choice := _CHOICE.match(word):
            rewritten.append(f"{choice['group']}='{choice['name']}'")
        else:
            rewritten.append(word)
    extended = [f"++extend.{key}=[{','.join(items)}]" for key, items in extensions.items()]
    return rewritten + _without_steps(words) + extended


def is_word(word: str) -> bool:
    """Tell a verb or a run folder from an override and a flag."""
    return "=" not in word and not word.startswith(("-", "+", "~"))


def _without_steps(words: Sequence[str]) -> list[str]:
    """Return the override with which `train.epochs` decides, if that is among the words."""
    given = {found["key"]: found["value"] or "null" for found in map(_LENGTH.match, words) if found}
    if given.get("train.epochs", "null").lower() == "null":
        return []
    if given.get("train.steps", "null").lower() != "null":
        text = "train.steps is given too, on the same command line; leave one of the two out."
        raise ConfigError(text, key="train.epochs")
    return [] if "train.steps" in given else ["++train.steps=null"]


def _items(value: str) -> str:
    value = value.strip()
    return value[1:-1] if value.startswith("[") and value.endswith("]") else value
