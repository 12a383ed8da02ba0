"""Between a process and its files: names all that it does to those of one folder, and ends it or fails at one point.

The points are found by a dry run of the real process, and have names such as "rename checkpoints/10 #1", so that a
write that is added later is a point too, whoever does it and in whichever thread. What native libraries write is not
seen.
"""

from __future__ import annotations

import builtins
import errno
import io
import os
import re
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

BY_PATH = ("mkdir", "unlink", "remove", "rmdir", "truncate", "rename", "replace", "link", "symlink")
BY_FILE = ("write", "pwrite", "writev", "pwritev", "ftruncate", "fsync", "fdatasync")
MAKING = ("open", "mkdir", "write", "pwrite", "writev", "pwritev", "fsync", "fdatasync", "link", "symlink")
"""The calls that a full disk refuses."""

WRITING = ("write", "pwrite")
REAL = {name: getattr(os, name) for name in (*BY_PATH, *BY_FILE, "open")}
Opener, FileIO = io.open, io.FileIO


class Harm(NamedTuple):
    """An action, and the point at which it is done.

    Attributes:
      kind: "before", "half" (of a write) and "after" end the process as `kill -9` would; "full" is a disk that takes
        half of this write and nothing from then on; "broken" is one input/output error.
      point: its name; "" for none.
    """

    kind: str = ""
    point: str = ""


def install(folder: Path, notes: Path, harm: Harm) -> None:
    """Stand between this process and the files of a folder, for the rest of its life.

    Args:
      notes: a file elsewhere, which gets the name of each point, "!" where the harm was done, "call" as each
        compiled call begins, and "compile" at each of XLA's compilations.
    """
    shim = Shim(folder, notes, harm)
    for name in BY_PATH:
        setattr(os, name, _by_path(shim, name))
    for name in BY_FILE:
        setattr(os, name, _by_file(shim, name))
    os.open = _os_open(shim)
    io.FileIO = _raw(shim)
    io.open = builtins.open = _open(shim, io.FileIO)
    _note_calls(shim)


class Shim:
    """Names the points, and does harm at one."""

    def __init__(self, folder: Path, notes: Path, harm: Harm) -> None:
        self.folder, self.harm = os.path.abspath(folder), harm  # noqa: PTH100 - Path.resolve calls what is replaced
        self.notes = REAL["open"](notes, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self.counts: Counter[str] = Counter()
        self.lock, self.full = threading.Lock(), False

    def note(self, text: str) -> None:
        """Append a line."""
        REAL["write"](self.notes, f"{text}\n".encode())

    def around(self, operation: str, path: str, act: Callable[[], Any], half: Callable[[], Any] | None = None) -> Any:
        """Do it, unless harm is due here. `half` does half of a write."""
        inner = os.path.relpath(path, self.folder)
        if inner.startswith(".."):
            return act()
        name = f"{operation} {re.sub('tfevents.*', 'tfevents', inner)}"
        with self.lock:
            self.counts[name] += 1
            point = f"{name} #{self.counts[name]}"
            self.note(point)
            is_due = point == self.harm.point
        if self.full and operation in MAKING:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)
        return self._harmed(operation, path, act, half) if is_due else act()

    def _harmed(self, operation: str, path: str, act: Callable[[], Any], half: Callable[[], Any] | None) -> Any:
        kind = self.harm.kind
        self.note("!")
        if kind in ("half", "full") and half is not None:
            done = half()
        elif kind == "after":
            done = act()
        if kind in ("before", "half", "after"):
            os._exit(137)
        self.full = kind == "full"
        if self.full and half is not None:
            return done
        number = errno.ENOSPC if self.full else errno.EIO
        raise OSError(number, os.strerror(number), path)


def _path_of(file: Any, dir_fd: int | None = None) -> str:
    """Return the path of a file that is given by its path or its descriptor."""
    if isinstance(file, int):
        return os.readlink(f"/proc/self/fd/{file}").removesuffix(" (deleted)")  # noqa: PTH115
    base = os.readlink(f"/proc/self/fd/{dir_fd}") if dir_fd is not None else os.getcwd()  # noqa: PTH109, PTH115
    return os.path.normpath(os.path.join(base, os.fsdecode(file)))  # noqa: PTH118


def _by_path(shim: Shim, name: str) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Any:
        changed = args[1] if name in ("rename", "replace", "link", "symlink") else args[0]
        path = _path_of(changed, kwargs.get("dir_fd"))
        if name == "mkdir" and os.path.lexists(path):
            return REAL[name](*args, **kwargs)  # refused because it is there, on a full disk too
        return shim.around(name, path, lambda: REAL[name](*args, **kwargs))

    return call


def _by_file(shim: Shim, name: str) -> Callable[..., Any]:
    def call(descriptor: Any, *args: Any) -> Any:
        number = descriptor if isinstance(descriptor, int) else descriptor.fileno()
        half = None
        if name in WRITING:
            content = memoryview(args[0]).cast("B")
            half = lambda: REAL[name](number, content[: len(content) // 2], *args[1:])  # noqa: E731
        return shim.around(name, _path_of(number), lambda: REAL[name](number, *args), half)

    return call


def _os_open(shim: Shim) -> Callable[..., int]:
    def call(path: Any, flags: int, *args: Any, **kwargs: Any) -> int:
        if not flags & (os.O_CREAT | os.O_TRUNC):
            return REAL["open"](path, flags, *args, **kwargs)
        return shim.around(
            "open", _path_of(path, kwargs.get("dir_fd")), lambda: REAL["open"](path, flags, *args, **kwargs)
        )

    return call


def _raw(shim: Shim) -> type[io.FileIO]:
    class Raw(FileIO):
        def __init__(self, file: Any, mode: str = "r", closefd: bool = True, opener: Any = None) -> None:
            def act() -> None:
                FileIO.__init__(self, file, mode, closefd, opener)

            if isinstance(file, int) or not set(mode) & set("wax"):
                act()
            else:
                shim.around("open", _path_of(file), act)

        def write(self, content: Any) -> int:
            view = memoryview(content).cast("B")
            return shim.around(
                "write",
                _path_of(self.fileno()),
                lambda: FileIO.write(self, view),
                lambda: FileIO.write(self, view[: len(view) // 2]),
            )

        def truncate(self, size: int | None = None) -> int:
            return shim.around("ftruncate", _path_of(self.fileno()), lambda: FileIO.truncate(self, size))

    return Raw


def _open(shim: Shim, raw: type[io.FileIO]) -> Callable[..., Any]:
    def call(file: Any, mode: str = "r", buffering: int = -1, *args: Any, **kwargs: Any) -> Any:
        if isinstance(file, int) or not set(mode) & set("wax+") or kwargs.get("opener"):
            return Opener(file, mode, buffering, *args, **kwargs)
        unbuffered = raw(file, mode.replace("b", "").replace("t", ""))
        if buffering == 0:
            return unbuffered
        binary = io.BufferedRandom(unbuffered) if "+" in mode else io.BufferedWriter(unbuffered)
        return binary if "b" in mode else io.TextIOWrapper(binary, *args, **kwargs, line_buffering=buffering == 1)

    return call


def _note_calls(shim: Shim) -> None:
    """Note each compiled call as it begins, under the strategy `noted`, and each compilation, beside the points."""
    import jax.monitoring

    from tests.faults import noting

    noting.note = shim.note
    jax.monitoring.register_event_duration_secs_listener(
        lambda name, *_, **__: shim.note("compile") if name.endswith("backend_compile_duration") else None
    )
