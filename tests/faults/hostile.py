"""Attacks: configs that try to run something (S1), checkpoints, records and data that try to run, write or claim (S2).

By hand: `python -m tests.faults S1 S2`. Everything happens in one process that an audit hook watches: after a
warm-up, in which libraries import what they need, any code that is compiled or run, any foreign module, any file that
is opened for writing, any process and any socket is an event, and there must be none.
"""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import pickle
import sys
import tempfile
import tracemalloc
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from framework.checkpoints import checkpoint, manifest
from framework.config.compose import recorded
from framework.errors import FrameworkError
from framework.records.record import read_record as read
from framework.trained.trained_model import load
from framework.trees import data_by_path
from framework_data.idx import IdxFile, read_idx
from framework_data.tables import read_split
from tests.faults.configs import HEADER, call

WATCHED = ("exec", "compile", "pickle.", "os.system", "os.exec", "os.posix_spawn", "os.fork", "subprocess.", "socket.")
WATCHED += (
    "ctypes.",
    "os.mkdir",
    "os.rename",
    "os.remove",
    "os.symlink",
    "os.link",
    "os.chmod",
    "os.putenv",
    "shutil.",
)

READERS = ("ast", "typing")
"""Modules that compile texts: literals in the headers of arrays, and annotations of installed plugins."""

TARGETS = "{_target_: os.system, command: touch pwned}"

CONFIGS = (
    # a call, wherever it may stand
    "model: {_target_: os.system, command: touch pwned}\n",
    'model: {name: mlp, hidden: {_target_: builtins.exec, _args_: [\'open("pwned", "w")\']}}\n',
    "model: {layers: [{_target_: os.system}]}\n",
    "callbacks: {a: {b: [{c: {_target_: pathlib.Path.touch, self: pwned}}]}}\n",
    "model: {_partial_: true}\n",
    "model: {_recursive_: true}\n",
    "metrics: {x: {_convert_: all}}\n",
    "extend: {metrics: [{_target_: os.system}]}\n",
    "_target_: os.system\n",
    "train: {steps: {_target_: os.getpid}}\n",
    # Hydra's own section
    f"hydra: {{callbacks: {{a: {TARGETS}}}}}\n",
    "hydra: {callbacks: {a: {_target_: pathlib.Path.touch, _args_: [pwned]}}}\n",
    f"hydra: {{launcher: {TARGETS}}}\n",
    f"hydra: {{sweeper: {TARGETS}}}\n",
    "hydra: {sweeper: {params: {hydra.launcher._target_: os.system}}}\n",
    "hydra: {job_logging: {version: 1, handlers: {h: {class: logging.FileHandler, filename: pwned}}}}\n",
    "hydra: {job_logging: {version: 1, formatters: {f: {(): os.system, command: touch pwned}}}}\n",
    "hydra: {hydra_logging: {version: 1, handlers: {h: {class: logging.FileHandler, filename: pwned}}}}\n",
    "hydra: {job: {env_set: {LD_PRELOAD: /tmp/x.so}}}\n",
    "hydra: {job: {chdir: true}, run: {dir: pwned}}\n",
    "hydra: {searchpath: ['pkg://os', 'file:///etc']}\n",
    "hydra: {output_subdir: ../pwned}\n",
    "hydra: 3\n",
    # by a detour
    "defaults: [/evil@hydra.callbacks: touch]\n",
    "defaults: [override /hydra/launcher: joblib]\n",
    "defaults: [override hydra/job_logging: default]\n",
    "defaults: [{'/evil@_global_.hydra.callbacks': touch}]\n",
    "defaults: [../evil/hydra]\n",
    "defaults: [../../outside]\n",
    "# @package hydra.callbacks\na: {_target_: os.system}\n",
    "defaults: [{/model: '${oc.env:HOME}/x'}]\n",
    # resolvers
    "seed: ${oc.decode:'3'}\n",
    "seed: ${oc.create:{a:3}}\n",
    "seed: ${eval:1+1}\n",
    "run: {name: '${now:%Y}'}\n",
    "run: {name: '${oc.env:AWS_SECRET_ACCESS_KEY}'}\n",
    "seed: ${${oc.env:HOME}}\n",
    # names that are no names
    "model: {name: 'os:system'}\n",
    "model: {name: os.system}\n",
    "run: {name: ../../pwned}\n",
)
"""Forty files; each alone is refused."""

WORDS = (
    "hydra/launcher=joblib",
    "hydra.callbacks={a: {_target_: os.system}}",
    "+hydra.callbacks.a._target_=pathlib.Path.touch",
    "hydra.sweeper._target_=os.system",
    "hydra.job_logging={version: 1}",
    "+evil@hydra.callbacks=touch",
    "hydra.searchpath=[pkg://os]",
    "model._target_=os.system",
    "seed=${oc.decode:3}",
    "seed=$\\{oc.decode:3\\}",
    "--experimental-rerun=pwned.pickle",
    "--config-path=/etc",
    "--config-name=../x",
    "+experiment=../outside",
    "model={name: {_target_: os.system}}",
)
"""The same on the command line."""


class Watch(NamedTuple):
    """The events that an audit hook saw."""

    events: list[str]


def watch() -> Watch:
    """Begin to record what may not happen; for the rest of the process, since a hook cannot be taken away."""
    seen = Watch([])
    scratch = os.path.join(tempfile.gettempdir(), "framework-")  # noqa: PTH118 - of a hook, which must be quick

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if not _ACTIVE:
            return
        if event == "open" and isinstance(arguments[1], str) and set(arguments[1]) & set("wax+"):
            seen.events.append(f"open {arguments[0]}")
        elif event == "import" and arguments[0].partition(".")[0] not in _KNOWN:
            seen.events.append(f"import {arguments[0]}")
        elif (
            event.startswith(WATCHED)
            and not (
                str(arguments[0] if arguments else "").startswith((scratch, "b'HYDRA_FULL_ERROR'"))
                or (event, *arguments[:1]) == ("subprocess.Popen", "git")  # a run asks for its commit
                or arguments[:1] == (".",)  # Hydra sees to it that the working folder is there
                or sys._getframe(1).f_globals.get("__name__") in READERS
            )
        ):
            seen.events.append(f"{event} {arguments}"[:200])

    sys.addaudithook(hook)
    return seen


_ACTIVE: list[bool] = []
_KNOWN = {
    *sys.stdlib_module_names,
    "hydra",
    "omegaconf",
    "antlr4",
    "yaml",
    "framework",
    "framework_conf",
    "numpy",
    "jax",
}


@contextlib.contextmanager
def watched() -> Iterator[None]:
    """The part of the process that the hook looks at."""
    _ACTIVE.append(True)
    try:
        yield
    finally:
        _ACTIVE.pop()


def configs(seen: Watch) -> list[tuple[str, str]]:
    """Attack with every config. Returns what failed: the attack, and why."""
    Path("experiment").mkdir()
    Path("evil").mkdir()
    Path("evil/touch.yaml").write_text("a: {_target_: pathlib.Path.touch}\n")
    Path("evil/hydra.yaml").write_text(f"{HEADER}hydra: {{launcher: {TARGETS}}}\n")
    Path("../outside.yaml").write_text(f"{HEADER}seed: 1\n")
    for words in (["sede=1"], ["train.stepz=1"], ["model=mlpp"], ["--config-dir", ".", "+experiment=x"], ["seed=${x}"]):
        call(words)  # the libraries import what they need
    failed = []
    for attack in (*CONFIGS, *WORDS):
        words = [attack]
        if attack in CONFIGS:
            header = "" if attack.startswith("#") else HEADER
            Path("experiment/attack.yaml").write_text(header + attack)
            words = ["--config-dir", ".", "+experiment=attack", "data=digits"]
        if attack.startswith("model: {name: "):
            call(words)  # looking a name up imports the catalogues of libraries
        before = len(seen.events)
        with watched():
            code, err = call(words)
        reason = [] if code == 2 and err.count("\n") == 1 else [f"exit code {code}: {err}"]
        reason += seen.events[before:]
        reason += ["a file was written"] if list(Path.cwd().parent.rglob("pwned*")) else []
        failed += [(attack, "; ".join(reason))] if reason else []
    return failed


STATE = {"w": np.arange(6, dtype=np.float32).reshape(2, 3)}


class Payload:
    """A payload that unpickling would run."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch pwned",)


def _saved() -> Path:
    Path("checkpoints").mkdir(exist_ok=True)
    return checkpoint.commit(Path("checkpoints"), 1, data_by_path(STATE))


def _checkpoint(change: Callable[[Path], None]) -> Callable[[], Any]:
    def attack() -> Any:
        change(_saved())
        return lambda: checkpoint.restore(Path("checkpoints/1"), STATE)

    return attack


def _manifest(**entry: Any) -> Callable[[], Any]:
    leaf = {"shape": [2, 3], "dtype": "float32", "sha256": "0" * 64, **entry}
    return _checkpoint(lambda path: _write_json(path / "manifest.json", manifest.sealed({"w": leaf})))


def _write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content))


def _archive(path: Path, compression: int = zipfile.ZIP_STORED, **members: bytes) -> None:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(name.replace("__", "/"), content)


def _npy(descr: str = "<f4", shape: str = "(6,)", content: bytes = b"\0" * 24, padding: int = 0) -> bytes:
    header = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}}}{' ' * padding}\n".encode()
    return b"\x93NUMPY\x02\x00" + len(header).to_bytes(4, "little") + header + content


def _run(**content: Any) -> Callable[[], Any]:
    def attack() -> Any:
        _write_json(Path("run.json"), {"config": {}, "inputs": [-1, 3], **content})
        return lambda: load(".")

    return attack


def _config(text: str) -> Callable[[], Any]:
    def attack() -> Any:
        Path("config.yaml").write_text(text)
        return lambda: recorded(".")

    return attack


def _data(write: Callable[[], Any], place: str, fields: Any = None) -> Callable[[], Any]:
    def attack() -> Any:
        write()
        return lambda: read_split(place, fields or {"inputs": "inputs"})

    return attack


def _idx(content: bytes) -> Callable[[], Any]:
    def attack() -> Any:
        Path("x.gz").write_bytes(content)
        return lambda: read_idx(Path("x.gz"), IdxFile("x", (10, 4), "0" * 64))

    return attack


def _folder(content: bytes) -> Callable[[], Any]:
    def write() -> None:
        Path("folder").mkdir()
        Path("folder/inputs.npy").write_bytes(content)

    return _data(write, "folder")


def _npz(content: bytes, compression: int = zipfile.ZIP_STORED) -> Callable[[], Any]:
    return _data(lambda: _archive(Path("x.npz"), compression, **{"inputs.npy": content}), "x.npz")


def _sparse(path: Path, size: int) -> None:
    with path.open("wb") as file:
        file.truncate(size)


PICKLE = pickle.dumps(Payload())

FILES: dict[str, Callable[[], Any]] = {
    "a pickle as arrays": _checkpoint(lambda path: (path / "arrays.npz").write_bytes(PICKLE) and None),
    "a pickle as an array": _checkpoint(
        lambda path: _archive(path / "arrays.npz", **{"w.npy": _npy("|O", "()", PICKLE)})
    ),
    "a pickle as the manifest": _checkpoint(lambda path: (path / "manifest.json").write_bytes(PICKLE) and None),
    "members outside": _checkpoint(lambda path: _archive(path / "arrays.npz", **{"../../pwned.npy": _npy()})),
    "members at the root": _checkpoint(lambda path: _archive(path / "arrays.npz", **{"/tmp/pwned.npy": _npy()})),
    "a compressed array": _checkpoint(lambda p: _archive(p / "arrays.npz", zipfile.ZIP_DEFLATED, **{"w.npy": _npy()})),
    "an array of 64 MB for 24 bytes": _checkpoint(
        lambda path: _archive(path / "arrays.npz", **{"w.npy": _npy("|u1", "(1<<26,)", bytes(1 << 26))})
    ),
    "8 PiB in the manifest": _manifest(shape=[1 << 50, 2]),
    "a negative shape": _manifest(shape=[-2, -3]),
    "a dtype of objects": _manifest(dtype="object"),
    "a digest that does not fit": _manifest(),
    "a shape that is a text": _manifest(shape="__import__('os').system('touch pwned')"),
    "a manifest nested without end": _checkpoint(lambda p: (p / "manifest.json").write_text("[" * 100_000) and None),
    "a manifest of a gigabyte": _checkpoint(lambda path: _sparse(path / "manifest.json", 1 << 30)),
    "a manifest that is a list": _checkpoint(lambda path: _write_json(path / "manifest.json", [1, 2])),
    "arrays that are a link out": _checkpoint(
        lambda path: ((path / "arrays.npz").unlink(), (path / "arrays.npz").symlink_to("/etc/passwd"))[1]
    ),
    "a run.json nested without end": lambda: Path("run.json").write_text("[" * 100_000) and (lambda: read(Path())),
    "a run.json of a gigabyte": lambda: _sparse(Path("run.json"), 1 << 30) or (lambda: read(Path())),
    "a run.json whose config calls": _run(config={"model": {"_target_": "os.system"}}),
    "a run.json whose model is a path": _run(config={"model": {"name": "../../pwned"}}),
    "a config.yaml that is a bomb": _config("a: &a [x]\n" + "".join(f"b{i}: &a [*a,*a,*a]\n" for i in range(40))),
    "a config.yaml that calls": _config("model: {_target_: os.system}\n"),
    "a config.yaml that is a Python object": _config("model: !!python/object/apply:os.system [touch pwned]\n"),
    "an npz of a pickle": _npz(_npy("|O", "()", PICKLE)),
    "an npz of 300 MB in 0.3 MB": _npz(_npy("|u1", f"({300 << 20},)", bytes(300 << 20)), zipfile.ZIP_DEFLATED),
    "an npz that claims 8 EiB": _npz(_npy(shape=f"({1 << 61},)")),
    "an npy that claims 8 EiB": _folder(_npy(shape=f"({1 << 61},)")),
    "an npy with a negative shape": _folder(_npy(shape="(-6, -1)")),
    "an npy with a header of a megabyte": _folder(_npy(padding=1 << 20)),
    "200 MB of IDX in 0.2 MB": _idx(gzip.compress(bytes([0, 0, 8, 2]) + bytes(200 << 20), 1)),
}
"""Thirty: each makes its files and returns what reads them."""

ROOM = 4 << 20  # bytes that may be had whatever a file says: buffers, a message, a parsed header


def files(seen: Watch) -> list[tuple[str, str]]:
    """Attack with every file. Returns what failed: the attack, and why."""
    checkpoint.restore(_saved(), STATE)
    failed = []
    for name, make in FILES.items():
        with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
            attack = make()
            with contextlib.suppress(FrameworkError):
                attack()  # once unwatched, for the imports
            real = max((path.stat().st_blocks * 512 for path in Path(folder).rglob("*") if path.is_file()), default=0)
            before, reason = len(seen.events), []
            tracemalloc.start()
            try:
                with watched():
                    attack()
                reason.append("it was accepted")
            except FrameworkError as error:
                reason += ["not one line"] if "\n" in str(error) else []
            except Exception as error:
                reason.append(f"{type(error).__name__}: {error}")
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
            reason += seen.events[before:]
            reason += [f"took {peak >> 20} MiB"] if peak > 2 * real + ROOM else []
            reason += ["a file was written"] if list(Path(folder).rglob("pwned")) else []
            failed += [(name, "; ".join(reason))] if reason else []
    return failed


def main() -> None:
    """Attack with "configs" or "files", as the command line says, and print each attack that did anything."""
    os.environ["AWS_SECRET_ACCESS_KEY"] = "wJalrXUtnFEMI"
    with tempfile.TemporaryDirectory() as outer:
        inner = Path(outer) / "here"
        inner.mkdir()
        os.chdir(inner)
        failed = {"configs": configs, "files": files}[sys.argv[1]](watch())
        for attack, reason in failed:
            print(f"{attack!r}: {reason}"[:600])
        os.chdir("/")
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
