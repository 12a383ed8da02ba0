"""Memory that compiled steps need, known before they run, and memory that the machine has."""

from __future__ import annotations

import math
import re
import resource
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax

from framework.api import PyTree, TrainState
from framework.errors import ConfigError

SPARED = 0.9
"""Share of the free memory that a step may take; the rest is for the interpreter and for other programs."""

UNTUNED = {"xla_backend_optimization_level": 0, "xla_cpu_parallel_codegen_split_count": 1}
"""LLVM's `-O0`: a CPU's program is ready in half the time. Memory is planned before LLVM sees the program, which then
is not cut into parts: that takes longer than two cores save."""

CACHE_SETTINGS = threading.Lock()
"""Held while the settings of the compilation cache are changed: they are those of all threads."""

PLAIN = {**UNTUNED, "xla_cpu_use_fusion_emitters": False}
"""Kernels without MLIR, too, in half the time again, where XLA has that option; JAX 0.12 has it no more."""


def planned(call: Any, state: TrainState, feed: PyTree) -> Any:
    """Compile a step to learn its cost; it is not to be run.

    Args:
      call: as `strategy.train` returns it.
      state: the state, or its shapes.
      feed: a batch on the devices, or its shapes.

    Returns: `jax.stages.Compiled`.
    """
    return untuned(call.lower(state, feed))


def untuned(lowered: Any) -> Any:
    """Compile a program for its cost: `jax.stages.Lowered` to `jax.stages.Compiled`, on a CPU without tuned code."""
    if jax.default_backend() != "cpu":
        return lowered.compile()
    with _unsaved():
        try:
            return lowered.compile(compiler_options=PLAIN)
        except jax.errors.JaxRuntimeError as error:
            if "No such compile option" not in str(error):
                raise
            return lowered.compile(compiler_options=UNTUNED)


@contextmanager
def _unsaved() -> Iterator[None]:
    """Keep programs that no run can use out of the compilation cache: to write a large one takes half a second."""
    shortest = "jax_persistent_cache_min_compile_time_secs"
    with CACHE_SETTINGS:
        before = getattr(jax.config, shortest)
        jax.config.update(shortest, math.inf)
        try:
            yield
        finally:
            jax.config.update(shortest, before)


def is_compiled(call: Callable[..., Any]) -> bool:
    """Tell whether a strategy compiled a function: it can be lowered then, as what `jax.jit` returns."""
    return hasattr(call, "lower")


def needed(call: Any, state: TrainState, feed: PyTree) -> int:
    """Return the bytes that a compiled step holds while it runs, on the device that holds most; nothing is run.

    Arguments, results and temporaries count; a result that takes its argument's place counts once.

    Args:
      call: as `strategy.train` returns it.
      state: the state, or its shapes.
      feed: a batch on the devices, or its shapes.

    Raises: ConfigError if the strategy does not compile; XLA's own error if compilation runs out of memory.
    """
    if not is_compiled(call):
        raise ConfigError(
            "its steps are not compiled, so their memory is not known; choose another one.", key="strategy"
        )
    found = planned(call, state, feed).memory_analysis()
    return (
        found.argument_size_in_bytes
        + found.output_size_in_bytes
        + found.temp_size_in_bytes
        - found.alias_size_in_bytes
        + found.generated_code_size_in_bytes
    )


def budget() -> tuple[int, str]:
    """Return the bytes that one device's part of a step may hold here, and the source of that number in words.

    Devices that report a limit, as GPUs and TPUs do, have their own memory. On a CPU all devices share what is free.

    Raises: ConfigError if neither is known.
    """
    device = jax.local_devices()[0]
    limit = (device.memory_stats() or {}).get("bytes_limit")
    if limit:
        return int(SPARED * limit), f"{SPARED:.0%} of a {device.device_kind}"
    free = available()
    if free is None:
        raise ConfigError("--memory: how much memory is free is not known here; expected a size, such as 8GiB.")
    count = jax.local_device_count()
    among = f" / {count} devices" if count > 1 else ""
    return int(SPARED * free / count), f"{SPARED:.0%} of the free memory{among}"


def available() -> int | None:
    """Return the bytes that this process can take without swapping; None if that is not known."""
    try:
        free = int(re.findall(r"MemAvailable:\s*(\d+) kB", Path("/proc/meminfo").read_text())[0]) * 1024
    except (OSError, IndexError):
        return None
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    if limit != resource.RLIM_INFINITY:  # of `ulimit -v`, which counts all addresses that a process has
        held = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        free = min(free, max(limit - held, 0))
    try:
        group = Path("/sys/fs/cgroup")
        left = int((group / "memory.max").read_text()) - int((group / "memory.current").read_text())
    except (OSError, ValueError):  # no group of its own, or "max"
        return free
    return min(free, left)


def is_exhausted(error: Exception) -> bool:
    """Tell whether a device or the host ran out of memory."""
    return isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error) or "Out of memory" in str(error)
