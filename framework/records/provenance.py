"""The code and the machine of a run: what one needs to run it again. This module imports no JAX."""

from __future__ import annotations

import hashlib
import os
import platform
import re
import resource
import shlex
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Collection, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from framework.config.secrets import MASK, is_secret, masked, masked_words

PATIENCE = 5.0
"""Seconds that git may take in all; a run begins without its answer then."""

LARGEST = 1 << 20
"""Bytes of a patch, beyond which it is not kept: data that were checked in by mistake are no code."""

SOURCES = (".c", ".cc", ".cfg", ".cpp", ".cu", ".h", ".ini", ".ipynb", ".py", ".pyi", ".pyx", ".rs", ".sh", ".toml")
SOURCES += (".yaml", ".yml")
"""Endings of files that git does not know, and that a patch has all the same."""

VARIABLES = re.compile(
    r"(CUDA|FRAMEWORK|HIP|JAX|LIBTPU|MALLOC|MKL|NCCL|NVIDIA|OMP|OPENBLAS|ROCR|TPU|XLA)_\w+"
    r"|(SLURM_(ARRAY|CPUS|GPUS|JOB|NNODES|NODE|NTASKS|PROC|STEP)|TF_(CPP|GPU|XLA))\w*"
    r"|LD_(LIBRARY_PATH|PRELOAD)|PYTHON(HASHSEED|OPTIMIZE|PATH|WARNINGS)|VIRTUAL_ENV|CONDA_PREFIX"
)
"""Names of environment variables that can change the numbers, the speed or the code of a run."""

_SETTING = re.compile(r"""^(\+.*?)\b([\w.-]+)(['"]?\s*[:=]\s*['"]?)([^\s'"]{6,})""", re.MULTILINE)


class Code(NamedTuple):
    """The state of the git checkout that a run was started in.

    Attributes:
      facts: "commit", "branch", "upstream" and "dirty", as `run.json` has them.
      patches: texts by name: "patch" is what differs from the commit, with sources that git does not know;
        "upstream_patch" is the same against the newest commit that the upstream branch has too, if the commit is not
        of that branch.
    """

    facts: dict[str, Any]
    patches: dict[str, str]


class Asked:
    """A question to git that is answered while the experiment is built."""

    def __init__(self, hidden: Collection[str]) -> None:
        """Ask about the current folder, in a thread.

        Args:
          hidden: secrets that no patch may hold.
        """
        self._found: Code | None = None
        self._folder, self._hidden = Path.cwd(), hidden
        self._thread = threading.Thread(target=self._ask, name="framework-git", daemon=True)
        self._thread.start()

    def answer(self) -> Code | None:
        """Return what git says; None outside of a checkout, without git, and where it takes too long."""
        self._thread.join(PATIENCE)
        return self._found

    def _ask(self) -> None:
        with suppress(OSError, subprocess.SubprocessError):
            self._found = code_of(self._folder, self._hidden)


def code_of(folder: Path, hidden: Collection[str] = ()) -> Code | None:
    """Ask git for the state of a checkout. Of one without changes it is one call.

    Args:
      folder: within the checkout.
      hidden: secrets that become `***` in patches, as do values of new lines whose names say that they are secret.

    Raises: OSError, SubprocessError.
    """
    status = ("status", "--porcelain=v2", "--branch", "-z")
    try:
        told = _git(folder, *status, "--untracked-files=all")
    except subprocess.TimeoutExpired:  # millions of files that it does not know
        told = _git(folder, *status, "--untracked-files=no")
    if told is None:
        return None
    lines = told.split("\0")
    branch = dict(line[2:].split(" ", 1) for line in lines if line.startswith("# "))
    commit = branch.get("branch.oid")
    named = [line[2:] for line in lines if line.startswith("? ") and line.endswith(SOURCES)]
    top = Path((_git(folder, "rev-parse", "--show-toplevel") or "").rstrip("\n")) if named else folder
    unknown = [name for name in named if not _is_of_a_run(top / name)]
    is_dirty = bool(unknown) or any(line[:2] in ("1 ", "2 ", "u ") for line in lines)
    facts = {"commit": commit, "branch": branch.get("branch.head"), "dirty": is_dirty}
    if commit is None or commit == "(initial)":
        return Code(facts | {"commit": None}, {})
    bases = {"patch": commit} if is_dirty else {}
    if upstream := branch.get("branch.upstream"):
        base = (_git(folder, "merge-base", commit, upstream) or "").strip()
        facts |= {"upstream": upstream, "upstream_commit": base or None}
        if base and base != commit:
            bases["upstream_patch"] = base
    patches = {name: patch for name, base in bases.items() if (patch := _patch(top, base, unknown))}
    return Code(facts, {name: _without_secrets(patch, hidden) for name, patch in patches.items()})


def write_code(code: Code | None, directory: Path) -> dict[str, Any] | None:
    """Write the patches as `code-<digest>.patch`, each once, and return the facts with their names.

    Raises: OSError.
    """
    if code is None:
        return None
    facts = dict(code.facts)
    for name, patch in code.patches.items():
        content = patch.encode(errors="surrogateescape")
        if len(content) > LARGEST:
            facts[f"{name}_left_out"] = f"{len(content)} bytes"
            continue
        facts[name] = patch_name(patch)
        with suppress(FileExistsError), (directory / facts[name]).open("xb") as file:
            file.write(content)
    return facts


def patch_name(patch: str) -> str:
    """Return the name of the file of a patch, "code-<digest>.patch"."""
    return f"code-{hashlib.sha256(patch.encode(errors='surrogateescape')).hexdigest()[:12]}.patch"


def machine() -> dict[str, Any]:
    """Return host, system, processor, memory and the environment variables that matter."""
    return {
        "host": platform.node(),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "cpu": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_mib": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") >> 20,
        "variables": {
            name: value
            for name, value in sorted(os.environ.items())
            if VARIABLES.fullmatch(name) and not is_secret(name)
        },
    }


def typed() -> str:
    """Return the command line as a shell takes it, without secrets: "framework train +experiment=mnist"."""
    program, *words = sys.argv or [""]
    name = Path(program).name if program not in ("", "-", "-c") else "python"
    by_module = name == "__main__.py" and Path(program).parent.name
    begin = ["python", "-m", by_module] if by_module else ["python", program] if name.endswith(".py") else [name]
    return shlex.join(masked_words([*begin, *words], ()))


def packages() -> dict[str, str]:
    """Return the version of each installed distribution, by the names of their folders of metadata."""
    found: dict[str, str] = {}
    for place in sys.path:
        try:
            names = sorted(entry.name for entry in os.scandir(place or "."))
        except OSError:  # an archive, or a folder that is missing
            continue
        for name in names:
            stem, ending = os.path.splitext(name)  # noqa: PTH122 - hundreds of names
            distribution, dash, rest = stem.partition("-")
            if dash and ending in (".dist-info", ".egg-info"):
                found.setdefault(distribution.replace("_", "-").lower(), rest.partition("-py")[0])
    return dict(sorted(found.items()))


def source_digest(target: str) -> str | None:
    """Return the sha256 of the sources beside a component: of the Python files in the folder of its module.

    Args:
      target: of its import, such as "acme.models:wide". A module that is in no package is a file alone.

    Returns: None where there is no source, as in a notebook.
    """
    module = sys.modules.get(target.partition(":")[0])
    origin = getattr(module, "__file__", None)
    if not origin or not origin.endswith(".py"):
        return None
    return _digest(origin, bool(getattr(module, "__package__", "")))


@cache
def _digest(origin: str, is_packaged: bool) -> str | None:
    digest = hashlib.sha256()
    try:
        for path in sorted(Path(origin).parent.glob("*.py")) if is_packaged else [Path(origin)]:
            digest.update(f"{path.name}\0".encode() + path.read_bytes() + b"\0")
    except OSError:
        return None
    return digest.hexdigest()


def peak_memory_mib() -> int:
    """Return the largest memory that this process has had."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak >> 20 if sys.platform == "darwin" else peak >> 10


def _git(folder: Path, *words: str, index: str | None = None) -> str | None:
    """Return what git says; None if it refuses. A program that the checkout's own settings name is not started."""
    environ = {**os.environ, "GIT_OPTIONAL_LOCKS": "0"} | ({"GIT_INDEX_FILE": index} if index else {})
    command = ["git", "-c", "core.fsmonitor=false", *words]
    done = subprocess.run(command, cwd=folder, env=environ, capture_output=True, timeout=PATIENCE, check=False)
    return done.stdout.decode(errors="surrogateescape") if done.returncode == 0 else None


def _patch(top: Path, base: str, unknown: Sequence[str]) -> str | None:
    """Return what differs from a commit, with files that git does not know, by an index of its own."""
    diff = ("diff", "--binary", "--no-color", "--no-ext-diff", "--no-textconv", base)
    if not unknown:
        return _git(top, *diff)
    place = (_git(top, "rev-parse", "--git-path", "index") or "").strip()
    with tempfile.TemporaryDirectory(prefix="framework-git-") as name:
        index = str(Path(name, "index"))
        if (top / place).exists():
            shutil.copyfile(top / place, index)
        _git(top, "add", "--intent-to-add", "--", *unknown, index=index)
        return _git(top, *diff, index=index)


def _is_of_a_run(path: Path) -> bool:
    """Tell whether a file lies in a run folder, as its `config.yaml` does."""
    return any((parent / "run.json").exists() for parent in path.parents)


def _without_secrets(patch: str, hidden: Collection[str]) -> str:
    def hide(found: re.Match[str]) -> str:
        begin, name, equals, _ = found.groups()
        return f"{begin}{name}{equals}{MASK}" if is_secret(name.rpartition(".")[2]) else found[0]

    return _SETTING.sub(hide, masked(patch, hidden))


def _processor() -> str:
    try:
        with Path("/proc/cpuinfo").open() as file:
            names = (line.partition(":")[2].strip() for line in file if line.startswith("model name"))
            return next(names, "") or platform.processor() or platform.machine()
    except OSError:
        return platform.processor() or platform.machine()
