"""Secrets, known by the names of their keys and variables, and kept off the disk."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from typing import Any

from framework.errors import ConfigError
from framework.keys import flat

MASK = "***"
FOLDERS = ("PWD", "OLDPWD")  # where a shell stands and stood; their names only look like those of passwords
SHORTEST = 6  # characters; to replace shorter ones wherever they occur would make a text unreadable

_PLAIN = r"pass(word|wd|phrase)|pwd|secret|credential|(api|access|private|secret|auth|signing|encryption)_?key|token"
_WORDS = re.compile(rf"(^|_)({_PLAIN})s?($|_)")
_TOKEN = re.compile(
    r"^(.*_)?(api|auth|access|bearer|refresh|session|secret|private|bot|hub|hf|user|csrf)_token$|^token$"
)


def is_secret(name: str) -> bool:
    """Tell by its name whether a key holds a secret: "password", "api_key", "wandb_secret".

    A language model's `pad_token`, `max_tokens` or `tokenizer` is none.
    """
    words = _snake(name)
    if "token" in words and not re.search(_PLAIN.removesuffix("|token"), words):
        return bool(_TOKEN.match(words))
    return bool(_WORDS.search(words))


def secrets_of(config: Any) -> frozenset[str]:
    """Return the texts to be kept off the disk: values of secret keys, and of environment variables named so.

    Numbers are no secrets: `token: 5` counts something.
    """
    leaves = flat(config, lists=True).items()
    named = {value for key, value in leaves if isinstance(value, str) and is_secret(_last(key))}
    variables = {value for name, value in os.environ.items() if _WORDS.search(_snake(name)) and name not in FOLDERS}
    return frozenset(text for text in named | variables if len(text) >= SHORTEST and text != MASK)


def masked(node: Any, secrets: Iterable[str]) -> Any:
    """Put `***` in the place of secrets in a config or a record: whole values of secret keys, and parts of any text."""
    if isinstance(node, Mapping):
        hidden = {key for key, value in node.items() if isinstance(value, str) and value and is_secret(str(key))}
        return {key: MASK if key in hidden else masked(value, secrets) for key, value in node.items()}
    if isinstance(node, list | tuple):
        return [masked(item, secrets) for item in node]
    if isinstance(node, str):
        for secret in sorted(secrets, key=len, reverse=True):
            node = node.replace(secret, MASK)
    return node


def masked_words(words: Iterable[str], secrets: Iterable[str]) -> list[str]:
    """Mask a command line, in which `callbacks.web.token=…` loses its value, however short that is."""
    hidden = []
    for word in words:
        key, equals, _ = word.partition("=")
        hidden.append(f"{key}={MASK}" if equals and is_secret(_last(key)) else masked(word, secrets))
    return hidden


def check_unmasked(config: Any) -> None:
    """Ask for secrets that were masked when a config was recorded.

    Raises: ConfigError naming the first key that holds `***`.
    """
    for key, value in flat(config, lists=True).items():
        if isinstance(value, str) and MASK in value:
            raise ConfigError(f"it held a secret, which is not recorded; set it with {key}=…", key=key)


def check_names(names: Mapping[str, Any], secrets: Iterable[str]) -> None:
    """Keep secrets out of the names of folders.

    Raises: ConfigError naming the key of section `run` that holds one.
    """
    for name, value in names.items():
        if masked(value, secrets) != value:
            raise ConfigError("it holds a secret, which would become the name of a folder.", key=f"run.{name}")


def _last(key: str) -> str:
    """Return the name of a value: "tokens" of "callbacks.web.tokens[0]"."""
    return re.sub(r"\[\d+\]$", "", key).rpartition(".")[2].lstrip("+~")


def _snake(name: str) -> str:
    """Spell `apiKey`, `API-KEY` and `api.key` as `api_key`."""
    return re.sub(r"[^a-z0-9]+", "_", re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower())
