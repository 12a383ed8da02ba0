"""JAX's persistent compilation cache, on by default: a second start skips nearly all of its compile time."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import jax
from jax.experimental.compilation_cache import compilation_cache

SETTINGS = {
    "jax_persistent_cache_min_compile_time_secs": 0.0,  # JAX's default of 1 s would leave out nearly all of ours
    "jax_persistent_cache_min_entry_size_bytes": -1,
}


def cache_folder() -> Path:
    """`$XDG_CACHE_HOME/framework/jax`, or the same under `~/.cache`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "framework" / "jax"


@contextmanager
def persistent_cache(wanted: bool) -> Iterator[None]:
    """Use the cache inside the context; a folder that the user gave JAX (`JAX_COMPILATION_CACHE_DIR`) stays in force.

    A damaged entry is compiled anew, with a warning from JAX. The settings are put back afterwards.
    """
    if not wanted:
        yield
        return
    names = ("jax_compilation_cache_dir", *SETTINGS)
    before = {name: getattr(jax.config, name) for name in names}
    settings = {**SETTINGS, "jax_compilation_cache_dir": before["jax_compilation_cache_dir"] or str(cache_folder())}
    _apply(settings)
    try:
        yield
    finally:
        _apply(before)


def _apply(settings: dict[str, object]) -> None:
    for name, value in settings.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()  # JAX reads the folder's name once; this makes it look again
