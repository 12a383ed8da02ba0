"""The verb `verify-resume`: from words to a report, and from that to text and an exit code."""

from __future__ import annotations

import sys

from framework.commands.arguments import options_of
from framework.errors import ConfigError

KNOWN = ("--steps", "--kills", "--seed", "--config-dir")


def verify_resume(words: list[str]) -> None:
    """`verify-resume [RUN] [overrides] [--steps 64] [--kills 2] [--seed 0]`: whether a resumed run is the same run.

    Raises: DifferenceError, with exit code 8, if it is not; a table on stdout says where.
    """
    words, options = options_of("verify-resume", words, KNOWN)
    given = {name.lstrip("-"): _count(name, options[name]) for name in KNOWN[:3] if name in options}
    from framework_verify import findings, verify

    report = verify.verify_resume(words, options.get("--config-dir"), **given)
    sys.stdout.write(findings.text(report) + "\n")
    sys.stdout.flush()
    report.check()


def _count(name: str, text: str) -> int:
    if not text.isdecimal():
        raise ConfigError(f"{name}: expected a whole number, found '{text}'.")
    return int(text)
