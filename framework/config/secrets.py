"""Secrets: what looks like one, by the name of its key or variable, and how it is kept off the disk."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from framework.errors import ConfigError

MASK = "***"
FOLDERS = ("PWD", "OLDPWD")  # where a shell stands and stood; their names only look like those of passwords
SHORTEST = 6  # characters; to replace shorter ones wherever they occur would make a text unreadable

_PLAIN = r"pass(word|wd|phrase)|pwd|secret|credential|(api|access|private|secret|auth|signing|encryption)_?key|token"
_WORDS = re.compile(rf"(^|_)({_PLAIN})s?($|_)")
_TOKEN = re.compile(
    r"^(.*_)?(api|auth|access|bearer|refresh|session|secret|private|bot|hub|hf|user|csrf)_token$|^token$"
)


def is_secret(name: str) -> bool:
    """Whether a key holds a secret, going by its name: "password", "api_key", "wandb_secret".

    A language model's `pad_token`, `max_tokens` or `tokenizer` is none.
    """
    words = _snake(name)
    if "token" in words and not re.search(_PLAIN.removesuffix("|token"), words):
        return bool(_TOKEN.match(words))
    return bool(_WORDS.search(words))


def secrets_of(config: Any) -> frozenset[str]:
    """The texts to be kept off the disk: values of a config's secret keys, and of environment variables named so."""
    named = {str(value) for key, value in _leaves(config, "") if is_secret(_last(key)) and _is_text(value)}
    variables = {value for name, value in os.environ.items() if _WORDS.search(_snake(name)) and name not in FOLDERS}
    return frozenset(text for text in named | variables if len(text) >= SHORTEST and text != MASK)


def masked(node: Any, secrets: Iterable[str]) -> Any:
    """A config or a record with `***` in the place of secrets: whole values of secret keys, and parts of any text."""
    if isinstance(node, Mapping):
        return {key: _masked_value(str(key), value, secrets) for key, value in node.items()}
    if isinstance(node, list | tuple):
        return [masked(item, secrets) for item in node]
    if isinstance(node, str):
        for secret in sorted(secrets, key=len, reverse=True):
            node = node.replace(secret, MASK)
    return node


def masked_words(words: Iterable[str], secrets: Iterable[str]) -> list[str]:
    """A command line, in which `callbacks.web.token=…` loses its value, however short that is."""
    hidden = []
    for word in words:
        key, equals, _ = word.partition("=")
        hidden.append(f"{key}={MASK}" if equals and is_secret(_last(key)) else masked(word, secrets))
    return hidden


def check_unmasked(config: Any) -> None:
    """Ask for what was masked when a config was recorded.

    Raises: ConfigError naming the first key that holds `***`.
    """
    for key, value in _leaves(config, ""):
        if isinstance(value, str) and MASK in value:
            raise ConfigError(f"{key}: it held a secret, which is not recorded; set it with {key}=…")


def check_names(names: Mapping[str, Any], secrets: Iterable[str]) -> None:
    """Keep secrets out of the names of folders.

    Raises: ConfigError naming the key of section `run` that holds one.
    """
    for name, value in names.items():
        if masked(value, secrets) != value:
            raise ConfigError(f"run.{name}: it holds a secret, which would become the name of a folder.")


def _masked_value(key: str, value: Any, secrets: Iterable[str]) -> Any:
    return MASK if is_secret(key) and _is_text(value) else masked(value, secrets)


def _is_text(value: Any) -> bool:
    """Numbers are no secrets: `token: 5` counts something. Texts that interpolate are, once they are resolved."""
    return isinstance(value, str) and bool(value)


def _leaves(node: Any, key: str) -> Iterator[tuple[str, Any]]:
    if isinstance(node, Mapping):
        for name, value in node.items():
            yield from _leaves(value, f"{key}.{name}" if key else str(name))
    elif isinstance(node, list | tuple):
        for index, value in enumerate(node):
            yield from _leaves(value, f"{key}[{index}]")
    else:
        yield key, node


def _last(key: str) -> str:
    """The name that a value has: of "callbacks.web.tokens[0]" it is "tokens"."""
    return re.sub(r"\[\d+\]$", "", key).rpartition(".")[2].lstrip("+~")


def _snake(name: str) -> str:
    """`apiKey`, `API-KEY` and `api.key` as `api_key`."""
    return re.sub(r"[^a-z0-9]+", "_", re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower())
