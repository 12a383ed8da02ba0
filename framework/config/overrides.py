"""Additions to Hydra's override grammar, as a rewriting into it."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

from framework.errors import ConfigError
from framework.registry.kinds import GROUPS, OF_SWEEPS

_EXTEND = re.compile(r"^(?P<key>[\w.-]+)\+=(?P<value>.*)$", re.DOTALL)
_OPTION = re.compile(r"^\w[\w-]*((\.[\w-]+)+=|=\s*\{)")
_CHOICE = re.compile(
    rf"^(?P<group>\+?({'|'.join(GROUPS)}|debug|experiment))="
    r"(?P<name>null|nan|inf|true|false|[-+]?[\d._]+(e[-+]?\d+)?)$",
    re.IGNORECASE,
)
_TEXT = re.compile(r"^(?P<key>\+{0,2}\w[\w-]*(\.[\w-]+)+)=(?P<value>(?!['\"])[^\[\]{}(),\"\n]+)$")
_PLACE = re.compile(r"^(?P<key>\+{0,2}run\.(dir|root))=(?P<value>(?!['\"]).+)$", re.DOTALL)
_LENGTH = re.compile(r"^[+~]*(?P<key>train\.(?:steps|epochs))(?:=(?P<value>.*))?$", re.DOTALL)


def rewrite(words: Sequence[str], *, sweeps: bool = False) -> list[str]:
    """Turn a user's words into Hydra's overrides.

    `metrics+=perplexity` and `model.layers+=[Relu,{Dense: 10}]` extend what the config holds: they become entries of
    the section `extend`. `optimizer.b1=0.8` sets an option whether or not the YAML file mentions it (Hydra's `++`):
    the plugin's signature is the schema, and it refuses misspelt options with a better message than Hydra can.
    `model={hidden: [8]}` sets options in the same way. `+experiment=3` chooses by name, where Hydra would see a number
    and refuse it. `train.epochs=2` takes away the `train.steps` of an experiment, which would decide otherwise.

    A text with letters that Hydra's grammar does not know is quoted, as a path such as `run.dir=it's #1` may have; and
    `~/` is the home folder there. The place of a single run is taken as typed: in `run.dir=a,b(1)` nothing is a list or
    a call.

    Args:
      words: as typed.
      sweeps: `a,b` stands for the values of two jobs, wherever it is.

    Raises: ConfigError for a length in steps and in epochs.
    """
    extensions: dict[str, list[str]] = {}
    rewritten = []
    for word in (_quoted_text(word, sweeps) for word in words):
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


def is_run_folder(word: str) -> bool:
    """Tell a run folder, whose path may hold a `=`, from an override."""
    return is_word(word) or os.path.exists(f"{word}/config.yaml")  # noqa: PTH110 - False for impossible names


def is_of_sweep(word: str) -> bool:
    """Tell an override of a section that is a sweep's, and no run's."""
    return "=" in word and re.split(r"[.=]", word.lstrip("+~"))[0] in OF_SWEEPS


def quoted(text: str) -> str:
    """Quote a text for Hydra's grammar, in which a backslash counts only before a quote."""
    return "'" + re.sub(r"(\\*)('|$)", lambda found: found[1] * 2 + found[2].replace("'", "\\'"), text) + "'"


def as_typed(word: str) -> str:
    """Return a word of `rewrite` as it was typed, without the pluses that it may have got."""
    extend = re.fullmatch(r"\+\+extend\.(?P<key>[\w.-]+)=\[(?P<value>.*)\]", word, re.DOTALL)
    return f"{extend['key']}+={extend['value']}" if extend else word.lstrip("+") or word


def chosen(words: Sequence[str]) -> dict[str, str]:
    """Return what overrides choose, by key, as it was typed: {"seed": "2", "metrics+": "perplexity"}.

    `train.steps=null` is left out, since it chooses nothing: `rewrite` adds it to `train.epochs`.

    Args:
      words: as `rewrite` returns them.
    """
    found = {}
    for word in words:
        key, equals, value = word.lstrip("+").partition("=")
        if equals and not key.startswith(("~", "hydra.")):
            is_extension = key.startswith("extend.")
            key = f"{key.removeprefix('extend.')}+" if is_extension else key
            found[key] = value.strip("[]'\"" if is_extension else "'\"")
    return {key: value for key, value in found.items() if (key, value) != ("train.steps", "null")}


def _quoted_text(word: str, sweeps: bool) -> str:
    found = _TEXT.match(word) or (None if sweeps else _PLACE.match(word))
    if found is None or "${" in word or re.fullmatch(r"[\w\s./:@%*?|+$-]*", found["value"], re.ASCII):
        return word
    value = found["value"]
    return f"{found['key']}={quoted(str(Path(value).expanduser()) if re.match('~(/|$)', value) else value)}"


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
