"""What two run folders hold, compared bit by bit, without what a clock has a part in."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from itertools import zip_longest
from pathlib import Path
from typing import Any, NamedTuple

from framework.checkpoints.folder import steps
from framework_verify.trail import unequal

OUTCOME = ("status", "exit_code", "reason", "step", "metrics", "members")
"""Of run.json, what a restart must not change; the rest says where and when a run ran."""

OWN = {"config.yaml", "run.json", "run.log", "lock", "metrics.jsonl"}
"""Files of a run folder that are compared otherwise, or hold times."""

OWN_FOLDERS = {"checkpoints", "tb"}


class Row(NamedTuple):
    """A difference: in what, where, and which."""

    part: str
    at: str
    found: str


def differences(left: Path, right: Path) -> list[Row]:
    """What the folders of two finished runs do not have in common."""
    return [*_log(left, right), *_kept(left, right), *_record(left, right), *_files(left, right)]


def lines(folder: Path) -> list[dict[str, Any]]:
    """`metrics.jsonl` without speeds; nothing where no callback writes it."""
    path = folder / "metrics.jsonl"
    text = path.read_text() if path.exists() else ""
    return [_without_clock(json.loads(line)) for line in text.splitlines()]


def kept(folder: Path) -> list[int]:
    """The steps of the checkpoints."""
    return steps(folder / "checkpoints")


def files(folder: Path) -> dict[str, str]:
    """Digests of the files that are a callback's own, by path within the folder."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        if path.is_file() and str(name) not in OWN and name.parts[0] not in OWN_FOLDERS:
            found[str(name)] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def _log(left: Path, right: Path) -> Iterator[Row]:
    for mine, theirs in zip_longest(lines(left), lines(right), fillvalue={}):
        if mine != theirs:
            tag = unequal(mine, theirs)[0]
            found = f"{tag}: {mine.get(tag, 'nothing')} and {theirs.get(tag, 'nothing')}"
            yield Row("metrics.jsonl", f"step {mine.get('step', theirs.get('step'))}", found)
            return


def _kept(left: Path, right: Path) -> Iterator[Row]:
    if kept(left) != kept(right):
        yield Row("checkpoints", "end", f"kept: {kept(left)} and {kept(right)}")


def _record(left: Path, right: Path) -> Iterator[Row]:
    mine, theirs = (json.loads((folder / "run.json").read_text()) for folder in (left, right))
    for record in (mine, theirs):
        record["metrics"] = _without_clock(record.get("metrics") or {})
    for key in OUTCOME:
        if mine.get(key) != theirs.get(key):
            values = (mine.get(key), theirs.get(key))
            tags = unequal(*values) if key == "metrics" else []
            found = f"{tags[0]}: {values[0].get(tags[0])} and {values[1].get(tags[0])}" if tags else "{} and {}"
            yield Row("run.json", key, found.format(*values))


def _files(left: Path, right: Path) -> Iterator[Row]:
    for name in unequal(files(left), files(right)):
        yield Row(name, "end", "of other bytes, or missing")


def _without_clock(scalars: Mapping[str, Any]) -> dict[str, Any]:
    return {tag: value for tag, value in scalars.items() if not tag.startswith("perf/")}
