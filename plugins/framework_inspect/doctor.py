"""Health of an installation: `framework doctor`. Each check is a function to findings, and none stops the others."""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Literal, NamedTuple

from framework.config.settings import RunSettings
from framework.config.sizes import bytes_of, in_words
from framework.console.tables import text_table
from framework.errors import FrameworkError, told
from framework.numerics import SWITCHES
from framework.registry.entry_points import OURS, discover
from framework.registry.kinds import KINDS

State = Literal["ok", "note", "bad"]
"""Sound; worth knowing; something will not work."""

LITTLE = 2**30
"""Bytes of free disk below which a run may not be able to save its state."""

CHANGING = ("XLA_FLAGS", "NVIDIA_TF32_OVERRIDE", "TF_CUDNN_DETERMINISTIC", "CUDA_VISIBLE_DEVICES", "LIBTPU_INIT_ARGS")
"""Variables, beside all that begin with JAX_, that change results or the devices they are computed on."""


class Finding(NamedTuple):
    """The result of one check.

    Attributes:
      topic: "versions", "devices", "plugins", "data", "disk", "cache" or "environment".
      state: how bad it is.
      text: the finding.
      advice: what to do; "" where there is nothing to do.
    """

    topic: str
    state: State
    text: str
    advice: str = ""


def examine() -> list[Finding]:
    """Make every check; one that fails is a finding itself."""
    found: list[Finding] = []
    for topic, check in CHECKS.items():
        try:
            found += [finding._replace(topic=topic) for finding in check()]
        except Exception as error:  # the other checks go on
            found.append(Finding(topic, "bad", told(error), "run it with --traceback, and report it if it is ours"))
    return found


def text(findings: list[Finding]) -> str:
    """Write the findings as a table, and how many are bad."""
    signs = {"ok": "ok", "note": "note", "bad": "BAD"}
    rows = [
        (each.topic, signs[each.state], each.text + (f" – {each.advice}" if each.advice else "")) for each in findings
    ]
    count = sum(each.state == "bad" for each in findings)
    return f"{text_table(rows)}\n{'all is well' if not count else f'{count} to be mended'}"


def _versions() -> Iterator[Finding]:
    yield Finding("", "ok", f"python {platform.python_version()}, {platform.platform()}")
    for name in ("framework", "jax", "jaxlib", "optax", "numpy", "hydra-core", "tensorboard", "orbax-checkpoint"):
        try:
            yield Finding("", "ok", f"{name} {version(name)}")
        except PackageNotFoundError:
            is_optional = name == "orbax-checkpoint"
            advice = "needed by callbacks.checkpoint.store=orbax alone" if is_optional else f"pip install {name}"
            yield Finding("", "note" if is_optional else "bad", f"{name} is not installed", advice)
    if version("jax").split(".")[:2] != version("jaxlib").split(".")[:2]:
        yield Finding("", "bad", "jax and jaxlib are of different versions", "pip install -U jax jaxlib together")
    yield from _unmet()


def _unmet() -> Iterator[Finding]:
    """Compare the installed versions with those that the framework asks for."""
    try:
        from packaging.requirements import Requirement
    except ImportError:
        return
    for line in requires(OURS) or []:
        wanted = Requirement(line)
        if wanted.marker is not None and not wanted.marker.evaluate({"extra": ""}):
            continue
        if not wanted.specifier.contains(version(wanted.name), prereleases=True):
            found = f"{wanted.name} {version(wanted.name)} is not {wanted.specifier}"
            yield Finding("", "bad", found, f"pip install '{wanted.name}{wanted.specifier}'")


def _devices() -> Iterator[Finding]:
    import jax

    devices = jax.local_devices()
    kinds = {device.device_kind for device in devices}
    yield Finding("", "ok", f"{len(devices)} × {', '.join(sorted(kinds))}, of {os.cpu_count()} processor cores")
    if devices[0].platform == "cpu" and Path("/dev/nvidia0").exists():
        advice = "install the CUDA build, jax[cuda12], and look at JAX_PLATFORMS"
        yield Finding("", "bad", "there is a GPU, and JAX does not use it", advice)
    if float(jax.numpy.ones(3).sum()) != 3:
        yield Finding("", "bad", "a sum on the device is wrong", "look at the driver")


def _plugins() -> Iterator[Finding]:
    registry, sound = discover(), 0
    for error in (*registry.broken, *registry.packages()[1]):
        yield Finding("", "bad", str(error), "reinstall the package that it names, or remove it")
    for kind in KINDS:
        for plugin in registry.every(kind):
            try:
                plugin.load()
                sound += 1
            except FrameworkError as error:
                advice = f"reinstall {plugin.distribution}, or remove it"
                yield Finding("", "bad", str(error), advice)
        for error in registry.catalogued(kind)[1]:
            yield Finding("", "bad", str(error), "reinstall the package that it names, or remove it")
    owners = {plugin.owner for kind in KINDS for plugin in registry.every(kind)}
    yield Finding("", "ok", f"{sound} can be imported, of {', '.join(sorted(owners))}")


def _data() -> Iterator[Finding]:
    named = [Path(each) for each in os.environ.get("FRAMEWORK_DATA", "").split(os.pathsep) if each]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "framework"
    for folder in named:
        if not folder.is_dir():
            yield Finding("", "bad", f"$FRAMEWORK_DATA names {folder}, which is no folder", "correct it, or unset it")
    names = ("mnist", "fashion_mnist")
    for name in names:
        # A download that failed leaves the folder alone.
        places = [folder / name for folder in (*named, cache) if any((folder / name).glob("train-images*"))]
        if places:
            yield Finding("", "ok", f"{name} in {places[0]}")
        else:
            yield Finding("", "note", f"{name} is not here", f"data={name} downloads it into {cache}, once")
    yield Finding("", "ok", "digits, text and synthetic are installed")


def _disk() -> Iterator[Finding]:
    from framework.records import folder

    settings = RunSettings()
    try:
        folder.check_place(settings)
        yield Finding("", "ok", f"runs can be written into {Path(settings.root).absolute()}")
    except FrameworkError as error:
        yield Finding("", "bad", str(error), "set run.root=… to a folder of yours")
    free = shutil.disk_usage(Path.cwd()).free
    advice = "make room, or set run.root=… to another disk" if free < LITTLE else ""
    yield Finding("", "note" if advice else "ok", f"{in_words(free)} are free", advice)


def _cache() -> Iterator[Finding]:
    from framework.runs.compilation_cache import cache_folder

    chosen = os.environ.get("JAX_COMPILATION_CACHE_DIR")
    path = Path(chosen) if chosen else cache_folder()
    size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file()) if path.is_dir() else 0
    limit = bytes_of(RunSettings().compilation_cache_size, "run.compilation_cache_size")
    about = "chosen by JAX_COMPILATION_CACHE_DIR, never swept" if chosen else f"swept at {in_words(limit)}"
    yield Finding("", "ok", f"compiled programs in {path}: {in_words(size)}, {about}")
    nearest = next(each for each in (path, *path.parents) if each.exists())
    if not os.access(nearest, os.W_OK):
        yield Finding("", "bad", f"{nearest} cannot be written", "set run.compilation_cache=false or XDG_CACHE_HOME")


def _environment() -> Iterator[Finding]:
    import jax

    names = sorted(name for name in os.environ if name in CHANGING or name.startswith("JAX_"))
    for name in names:
        advice = "it changes results or devices; runs are compared with the same setting only"
        yield Finding("", "note", f"{name}={os.environ[name]}", advice)
    for name in SWITCHES:
        value, default = getattr(jax.config, name), DEFAULTS[name]
        if value != default:
            yield Finding("", "note", f"{name} is {value}, not {default}", "it changes the numbers of every run")
    if not names:
        yield Finding("", "ok", "no variable that changes results is set")


DEFAULTS = {
    "jax_default_prng_impl": "threefry2x32",
    "jax_default_matmul_precision": None,
    "jax_threefry_partitionable": True,
    "jax_enable_x64": False,
}
"""Settings that change numbers, as JAX has them."""

CHECKS: dict[str, Callable[[], Iterator[Finding]]] = {
    "versions": _versions,
    "devices": _devices,
    "plugins": _plugins,
    "data": _data,
    "disk": _disk,
    "cache": _cache,
    "environment": _environment,
}
