"""Comparison of two run folders, bit by bit, without times and speeds."""

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
"""Keys of run.json that a restart must not change; the others say where and when a run ran."""

OWN = {"config.yaml", "run.json", "run.log", "lock", "metrics.jsonl"}
"""Files of a run folder that are compared in another way, or hold times."""

OWN_FOLDERS = {"checkpoints", "nan"}

CLOCK = ("time", "crc32")
"""Keys of a line of `metrics.jsonl` that differ between equal runs."""

APART = ("events.out.tfevents.", "code-")
"""Beginnings of names of files that are not compared: those of TensorBoard, which hold times, and patches of code."""


class Row(NamedTuple):
    """One difference: the part of the run, the place in it, and both values."""

    part: str
    at: str
    found: str


def differences(left: Path, right: Path) -> list[Row]:
    """Compare the folders of two finished runs."""
    return [*_log(left, right), *_kept(left, right), *_record(left, right), *_files(left, right)]


def outcomes(left: Path, right: Path) -> list[Row]:
    """Compare the logs of two finished runs, their ends and their last values; no checkpoints and no other files."""
    return [*_log(left, right), *_record(left, right)]


def lines(folder: Path) -> list[dict[str, Any]]:
    """Read `metrics.jsonl` without speeds; nothing if there is none."""
    path = folder / "metrics.jsonl"
    text = path.read_text() if path.exists() else ""
    return [_without_clock(json.loads(line)) for line in text.splitlines()]


def kept(folder: Path) -> list[int]:
    """Return the steps of the checkpoints that are kept."""
    return steps(folder / "checkpoints")


def files(folder: Path) -> dict[str, str]:
    """Digest the files that are a callback's own, by path within the folder."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        is_own = str(name) in OWN or name.parts[0] in OWN_FOLDERS or name.name.startswith(APART)
        if path.is_file() and not is_own:
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
        one, other = mine.get(key), theirs.get(key)
        if one == other:
            continue
        if key == "metrics":
            tag = unequal(one, other)[0]
            yield Row("run.json", key, f"{tag}: {one.get(tag)} and {other.get(tag)}")
        else:
            yield Row("run.json", key, f"{one} and {other}")


def _files(left: Path, right: Path) -> Iterator[Row]:
    for name in unequal(files(left), files(right)):
        yield Row(name, "end", "other bytes, or missing")


def _without_clock(scalars: Mapping[str, Any]) -> dict[str, Any]:
    return {tag: value for tag, value in scalars.items() if tag not in CLOCK and not tag.startswith("perf/")}
