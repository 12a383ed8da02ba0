"""The conditions under which a run can be made again: what must be as it was, and what is told."""

from __future__ import annotations

import shlex
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from subprocess import SubprocessError
from typing import Any, NamedTuple

import jax

from framework.api import TrainState
from framework.checkpoints.checkpoint import restore
from framework.checkpoints.folder import steps
from framework.config.resolve import tagged
from framework.config.secrets import masked
from framework.errors import ConfigError, DataError, PluginError, StorageError
from framework.experiment import Experiment
from framework.keys import flat
from framework.numerics import differing, numeric_settings
from framework.records import provenance
from framework.records.history import MetricsFile
from framework.records.record import RunRecord, fingerprint, read_record
from framework.runs.resume import is_finished

MACHINE = {"python": False, "platform": False, "cores": False, "cpu": True}
"""Facts of the host that are compared, and whether they may change the last bits of a sum."""

DEVICES = ("device_kind", "device_software")

COMPUTING = ("jax", "nvidia-", "libtpu")
"""Beginnings of names of packages that compute, beside those that a record lists as `versions`."""

LISTED = 6
"""Packages that a line names."""


class Told(NamedTuple):
    """A fact that is not as the record has it.

    Attributes:
      text: the fact, what it was, and what it is.
      is_of_bits: the same code may round in another way under it, so that equal bits cannot be expected.
    """

    text: str
    is_of_bits: bool = False


def finished(directory: Path) -> RunRecord:
    """Read the record of a run that came to its end, and look for damage in its log.

    Raises: StorageError if a file is missing or damaged; ConfigError if the run is not finished, or was made by
      several processes.
    """
    record = read_record(directory)
    if not is_finished(record, record.step or 0, record.total_steps):
        where = f"'{record.status}' at step {record.step or 0} of {record.total_steps}"
        text = f"{directory} is not finished: it is {where}, and there is no end to compare with; "
        raise ConfigError(f"{text}`framework resume {shlex.quote(str(directory))}` goes on with it.")
    if not (directory / "config.yaml").is_file():
        raise StorageError(f"{directory} has no config.yaml, from which a run is made again.")
    if (processes := max((each.get("processes", 1) for each in record.starts), default=1)) > 1:
        raise ConfigError(f"{directory} is of {processes} processes, and this command is one.", key="distributed")
    path = directory / "metrics.jsonl"
    try:
        lines = [line for line in path.read_bytes().splitlines() if line.strip()]
    except OSError as error:
        raise StorageError(f"{path} cannot be read ({error.strerror}): there is nothing to compare with.") from error
    if damaged := len(lines) - sum(1 for _ in MetricsFile(directory, record.id).records()):
        raise StorageError(f"{path} is damaged: {damaged} of {len(lines)} lines do not match their checksums.")
    return record


def check_installed(record: RunRecord) -> None:
    """Check that the distributions of all components are there, before any of these is built.

    Raises: PluginError naming the first that is missing.
    """
    for key, plugin in record.plugins.items():
        if plugin.get("distribution") and _installed(plugin["distribution"]) is None:
            owner = f"{plugin['distribution']} {plugin.get('version')}"
            raise PluginError(f"the run had '{plugin.get('name')}' of {owner}, which is not installed.", key=key)


def check(record: RunRecord, experiment: Experiment, hidden: Collection[str]) -> None:
    """Check all that a second run must have as the first one had it.

    Args:
      record: of the first run.
      experiment: built for the second one.
      hidden: secrets, which the record does not hold.

    Raises: ConfigError, PluginError, DataError or StorageError, naming the first cause.
    """
    _check_config(record.config, masked(experiment.config, hidden))
    _check_plugins(record, experiment)
    _check_devices(record, experiment)
    _check_data(record, experiment)
    final_state(record, experiment)


def final_state(record: RunRecord, experiment: Experiment) -> TrainState | None:
    """Read the state that a run ended with; None if it keeps no checkpoints.

    Raises: StorageError if it is missing or damaged, or of another tree.
    """
    folder = record.directory / "checkpoints"
    saved, callbacks = steps(folder), tagged(record.config.get("callbacks"), "callbacks").values()
    if record.step in saved:
        return restore(folder / str(record.step), experiment.shapes, whole=True, run=record.id)
    if saved or any(options["name"] == "checkpoint" for options in callbacks):
        raise StorageError(f"{folder} holds no checkpoint of the last step, {record.step}; found {saved}.")
    return None


def _check_config(before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    old, new = flat(before), flat(now)
    changed = [key for key in old if old[key] != new.get(key) and not key.startswith("run.")]
    if changed:
        listed = ", ".join(f"{key} ({old[key]!r} to {new.get(key)!r})" for key in changed)
        text = "the config is not that of the run; leave out overrides, and set variables that it reads as they were."
        raise ConfigError(f"{listed}: {text}")


def _check_plugins(record: RunRecord, experiment: Experiment) -> None:
    for key, before in record.plugins.items():
        plugin = experiment.plugins.get(key)
        if plugin is None:
            raise PluginError(f"the run had '{before.get('name')}' of {before.get('distribution')}.", key=key)
        if plugin.target != before.get("target"):
            text = f"{plugin.title} is '{plugin.target}', and the run had '{before.get('target')}'"
            raise PluginError(f"{text} of {before.get('distribution')} {before.get('version')}.", key=key)
        was, found = before.get("sources"), provenance.source_digest(plugin.target)
        if was not in (None, found):
            text = f"{plugin.title} has other sources than in the run: their digest was {was[:12]}"
            raise PluginError(f"{text}, and is {(found or 'none')[:12]}; {_way_back(record, before)}.", key=key)


def _way_back(record: RunRecord, plugin: Mapping[str, Any]) -> str:
    git = (record.starts[-1].get("git") if record.starts else None) or {}
    if not git.get("commit"):
        return f"install {plugin.get('distribution')} {plugin.get('version')} as it was"
    patch = f", with `git apply {record.directory / git['patch']}`," if git.get("patch") else ""
    return f"`git checkout {git['commit'][:12]}`{patch} makes the code of the run, if the plugin is of that checkout"


def _check_devices(record: RunRecord, experiment: Experiment) -> None:
    """Check the number of devices, if the strategy takes all: one of its options that is null says so."""
    options = experiment.config["strategy"]
    takes_all = any(value is None for value in options.values())
    before, now = {len(each.get("devices") or ()) for each in record.starts}, len(jax.local_devices())
    if takes_all and before - {0, now}:
        listed = " and ".join(map(str, sorted(before)))
        text = f"'{options['name']}' takes all devices: the run had {listed}, and there are {now}"
        raise ConfigError(f"{text}; another number cuts a batch in other parts.", key="strategy")


def _check_data(record: RunRecord, experiment: Experiment) -> None:
    now = fingerprint(experiment) if record.splits else {}
    for split in sorted({*record.splits, *now}):
        before, found = flat(record.splits.get(split) or {}), flat(now.get(split) or {})
        if changed := [name for name in {**before, **found} if before.get(name) != found.get(name)]:
            name = changed[0]
            text = f"split '{split}' is not that of the run: its {name} was {_short(before.get(name))}"
            folder = f" (it was started in {record.starts[0].get('folder')})" if record.starts else ""
            text += f", and is {_short(found.get(name))}; give the run the data that it had{folder}."
            raise DataError(text, key="data")


def _short(value: Any) -> str:
    return "missing" if value is None else str(value)[:12]


def code_and_machine(record: RunRecord, hidden: Collection[str]) -> list[Told]:
    """Compare code, packages and host with those of the record; without JAX's devices."""
    if not record.starts:
        return [Told("the record does not say which code and machine the run had", True)]
    return [*_code(record, hidden), *_packages(record), *_host(record.starts), *_resumes(record.starts)]


def devices(record: RunRecord) -> list[Told]:
    """Compare devices and settings of JAX with those of the record, once plugins may have changed these."""
    device, told = jax.local_devices()[0], []
    now = (device.device_kind, str(device.client.platform_version).splitlines()[0])
    for name, value in zip(DEVICES, now, strict=True):
        told += _changed(name.replace("_", " "), [each.get(name) for each in record.starts], value, True)
    settings = numeric_settings()
    for name in differing(record.numerics, settings):
        told += _changed(name, [record.numerics[name]], settings.get(name), True)
    flags = str(record.numerics.get("XLA_FLAGS"))
    if device.platform == "gpu" and "--xla_gpu_deterministic_ops=true" not in flags:
        told.append(Told("a GPU may add in another order, without XLA_FLAGS=--xla_gpu_deterministic_ops=true", True))
    return told


def _code(record: RunRecord, hidden: Collection[str]) -> list[Told]:
    code = None
    with suppress(OSError, SubprocessError):
        code = provenance.code_of(Path.cwd(), hidden)
    patch = code.patches.get("patch") if code else None
    now = {**code.facts, "patch": patch and provenance.patch_name(patch)} if code else None
    return _changed("code", [_checkout(each.get("git")) for each in record.starts], _checkout(now))


def _checkout(git: Mapping[str, Any] | None) -> str:
    if not git:
        return "of no checkout"
    changes = f" with changes ({git.get('patch') or 'not kept'})" if git.get("dirty") else ""
    return f"commit {str(git.get('commit'))[:12]}{changes}"


def _packages(record: RunRecord) -> Iterator[Told]:
    versions = {name: (then, now) for name, then in record.versions.items() if (now := _installed(name)) != then}
    found, before = provenance.packages(), record.packages
    others = {
        name: (before.get(name), found.get(name))
        for name in (sorted({*before, *found}) if before else ())
        if before.get(name) != found.get(name) and name not in record.versions
    }
    versions |= {name: others.pop(name) for name in list(others) if name.startswith(COMPUTING)}
    for name, (then, now) in versions.items():
        yield from _changed(name, [then], now, True)
    if others:
        named = [*others.items()][:LISTED]
        listed = ", ".join(f"{name} ({then or 'none'} to {now or 'none'})" for name, (then, now) in named)
        more = f", and {len(others) - LISTED} more" if len(others) > LISTED else ""
        yield Told(f"packages {listed}{more}")


def _host(starts: Sequence[Mapping[str, Any]]) -> Iterator[Told]:
    machine = provenance.machine()
    for name, is_of_bits in MACHINE.items():
        yield from _changed(name, [each.get(name) for each in starts], machine[name], is_of_bits)
    before, now = starts[-1].get("variables") or {}, machine["variables"]
    for name in sorted({*before, *now}):
        yield from _changed(name, [before.get(name)], now.get(name))


def _resumes(starts: Sequence[Mapping[str, Any]]) -> Iterator[Told]:
    """Tell of resumes with other values: the config has those of the last one for all steps."""
    for each in starts[1:]:
        if any("=" in word for word in shlex.split(str(each.get("typed", "")))):
            yield Told(
                f"the run went on at step {each.get('from_step')} by `{each['typed']}`, and begins with that here"
            )


def _changed(about: str, before: Sequence[Any], now: Any, is_of_bits: bool = False) -> list[Told]:
    """Tell of a fact if any process of the run had another one."""
    values = list(dict.fromkeys(map(_word, before)))
    if values in ([], [_word(now)]):
        return []
    return [Told(f"{about} was {' and then '.join(values)}, and is {_word(now)}", is_of_bits)]


def _word(value: Any) -> str:
    return "none" if value in (None, "") else str(value)


def _installed(name: str) -> str | None:
    try:
        return version(name)
    except (PackageNotFoundError, ValueError):
        return None
