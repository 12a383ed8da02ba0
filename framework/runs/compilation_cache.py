"""JAX's persistent compilation cache, on by default: a second start skips nearly all of its compile time."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import jax
from jax.experimental.compilation_cache import compilation_cache

from framework.config.settings import RunSettings
from framework.config.sizes import bytes_of
from framework.training.memory import CACHE_SETTINGS

SETTINGS = {
    "jax_persistent_cache_min_compile_time_secs": 0.0,  # JAX's default of 1 s would leave out nearly all of ours
    "jax_persistent_cache_min_entry_size_bytes": -1,
}

KEPT = 0.8
"""Share of the limit that is left after a sweep, so that not every run has to sweep."""


def cache_folder() -> Path:
    """Return `$XDG_CACHE_HOME/framework/jax`, or the same under `~/.cache`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "framework" / "jax"


@contextmanager
def persistent_cache(run: RunSettings) -> Iterator[None]:
    """Use the cache inside the context; a folder that the user gave JAX (`JAX_COMPILATION_CACHE_DIR`) stays in force.

    A damaged entry is compiled anew, with a warning from JAX. The settings are put back afterwards, and the default
    folder is swept. (JAX's own limit needs the package `filelock`, takes a lock for each program that is read, and
    fails where entries were written without it.)

    Args:
      run: `compilation_cache` switches the cache on, `compilation_cache_size` limits the default folder. A folder that
        the user gave is not swept.
    """
    if not run.compilation_cache:
        yield
        return
    names = ("jax_compilation_cache_dir", *SETTINGS)
    with CACHE_SETTINGS:
        before = {name: getattr(jax.config, name) for name in names}
        _apply({**SETTINGS, "jax_compilation_cache_dir": before["jax_compilation_cache_dir"] or str(cache_folder())})
    try:
        yield
    finally:
        with CACHE_SETTINGS:
            _apply(before)
        if not before["jax_compilation_cache_dir"]:
            sweep(cache_folder(), bytes_of(run.compilation_cache_size, "run.compilation_cache_size"))


def sweep(folder: Path, limit: int) -> None:
    """Remove the least recently used files of a folder, if its files hold more than `limit` bytes.

    If the file system keeps no access times, the oldest go first. Other processes may sweep, read and write meanwhile:
    a missing file is no error, and JAX compiles anew what it cannot find.
    """
    files = []
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            with suppress(OSError):
                found = entry.stat(follow_symlinks=False)
                files.append((max(found.st_atime, found.st_mtime), found.st_size, entry.path))
    held = sum(size for _, size, _ in files)
    if held <= limit:
        return
    for _, size, path in sorted(files):
        if held <= KEPT * limit:
            break
        with suppress(OSError):
            Path(path).unlink()
        held -= size


def _apply(settings: dict[str, object]) -> None:
    for name, value in settings.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()  # JAX reads the folder's name once; this makes it look again
