"""Flags of a verb."""

from __future__ import annotations

from collections.abc import Sequence

from framework.errors import ConfigError, nearest


def options_of(verb: str, words: list[str], known: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """Words without flags, and flags by name, written `--json FILE` or `--json=FILE`.

    Raises: ConfigError for a flag that is not known, or has no value.
    """
    rest, options, words = [], {}, list(words)
    while words:
        name, _, value = (word := words.pop(0)).partition("=")
        if not word.startswith("-"):
            rest.append(word)
        elif name not in known:
            raise ConfigError(f"{verb}: no such option '{name}'.{nearest(name, known)}")
        elif not value and not words:
            raise ConfigError(f"{verb}: {name} needs a value.")
        else:
            options[name] = value or words.pop(0)
    return rest, options
