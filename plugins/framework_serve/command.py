"""The verb `serve`."""

from __future__ import annotations

import argparse
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any

from framework.command import Command
from framework.commands.arguments import Arguments
from framework.errors import ConfigError
from framework.startup import import_jax

if TYPE_CHECKING:
    from framework.trained.model_function import Trained
    from framework_serve.app import Limits

CONNECTIONS = 1024
"""Open at once; a connection costs memory before it asks for anything."""


def serve() -> Command:
    """Answer requests by a trained model."""
    return Command("serve", "answer requests over HTTP by a trained model", run, group="train")


def run(words: list[str]) -> None:
    """Serve a trained model until Ctrl-C or SIGTERM, and answer what was asked for before.

    Raises: FrameworkError.
    """
    arguments = Arguments(
        "serve",
        "Answer requests over HTTP by a trained model. POST /predict takes raw inputs as JSON, .npy or an "
        "image, GET / says what the model takes, and GET /health that it is there. Requests that come together are "
        "computed as one batch. There is no login: keep the address on this machine, or put a proxy before it.",
        "serve runs/mnist/mine@best --port 8000",
        "RUN [options]",
    )
    arguments.add_trained()
    arguments.add_argument("--host", default="127.0.0.1", metavar="NAME", help="address to listen at (127.0.0.1)")
    arguments.add_argument("--port", type=_number(0, 2**16 - 1), default=8000, metavar="N", help="port (8000; 0: free)")
    about = "sizes of batches, such as 1,8,64; with one, an answer is the same bytes in whatever company (32)"
    arguments.add_argument("--sizes", type=_sizes, default=(32,), metavar="N,…", help=about)
    about = "milliseconds in which requests wait for others of their batch (2)"
    arguments.add_argument("--wait", type=_number(0, 60_000), default=2, metavar="MS", help=about)
    about = "mebibytes of a request at most (16)"
    arguments.add_argument("--body", type=_number(1, 4096), default=16, metavar="MIB", help=about)
    about = "seconds until a body has come, and until it is answered (30)"
    arguments.add_argument("--seconds", type=_number(1, 86_400), default=30, metavar="S", help=about)
    about = "requests that wait at most; more are told to come again (256)"
    arguments.add_argument("--waiting", type=_number(1, 10**6), default=256, metavar="N", help=about)
    given = arguments.read(words)
    if missing := [name for name in ("starlette", "uvicorn", "PIL") if find_spec(name) is None]:
        raise ConfigError(f"serve needs {missing[0]}, which is not installed; pip install framework[serve].")
    import_jax()
    from framework.records.logs import console
    from framework.sweeps.best import best_run
    from framework.trained.trained_model import load
    from framework_serve.app import Limits

    limits = Limits(given.sizes, given.wait / 1000, given.body * 2**20, float(given.seconds), given.waiting)
    with console(), _listening(given.host, given.port) as opened:
        model = load(best_run(given.run), member=given.member)
        served(model, limits, opened, given.host)


def served(model: Trained, limits: Limits, opened: socket.socket, host: str) -> None:
    """Serve a model at an open socket until a signal comes."""
    import jax
    import numpy as np
    import uvicorn  # pyright: ignore[reportMissingImports]

    from framework.records.logs import LOGGER
    from framework_serve.app import application
    from framework_serve.batches import Batches

    for size in limits.sizes:  # compile all before the first request
        zeros = jax.tree.map(lambda leaf, n=size: np.zeros((n, *leaf.shape[1:]), leaf.dtype or "float32"), model.inputs)
        jax.block_until_ready(model(zeros))
    name = f"[{host}]" if ":" in host else host
    address = f"http://{name}:{opened.getsockname()[1]}"
    hosts = ["localhost", "127.0.0.1", "[::1]", name] if _is_loopback(host) else ["*"]
    if hosts == ["*"]:
        LOGGER.warning(f"{address} can be reached from other machines, and asks nobody for a password.")
    batches = Batches(model, limits.sizes, limits.patience, limits.waiting)
    config = uvicorn.Config(
        application(model, limits, batches, hosts, address),
        log_config=None,
        log_level="critical",  # refusals are answers, and are no news to who serves
        access_log=False,
        server_header=False,
        limit_concurrency=CONNECTIONS,
        timeout_graceful_shutdown=int(2 * limits.seconds) + 1,
    )
    with _deaf():
        sys.stdout.write(f"step {model.step} of {model.directory} at {address}  (Ctrl-C ends it)\n")
        sys.stdout.flush()
        uvicorn.Server(config).run(sockets=[opened])
    sys.stdout.write(f"stopped after {batches.answered:,} answers\n")


@contextmanager
def _listening(host: str, port: int) -> Iterator[socket.socket]:
    """Open a socket that listens; those who come early wait in its queue.

    Raises: ConfigError if the address is taken, or not of this machine.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        opened = socket.create_server((host, port), family=family, backlog=CONNECTIONS)
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ConfigError(f"cannot listen at {host}, port {port}: {reason}; name another.", key="--port") from error
    with opened:
        yield opened


@contextmanager
def _deaf() -> Iterator[None]:
    """Let SIGINT and SIGTERM do nothing more than to end the server, which raises them again when it has ended."""
    before = {number: signal.signal(number, lambda *_: None) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _number(low: int, high: int) -> Any:
    def read(word: str) -> int:
        number = int(word) if word.isdecimal() and len(word) < 20 else low - 1
        if not low <= number <= high:
            raise argparse.ArgumentTypeError(f"expected a number from {low:,} to {high:,}, found '{word}'")
        return number

    return read


def _sizes(word: str) -> tuple[int, ...]:
    return tuple(sorted({_number(1, 2**16)(each) for each in word.split(",")}))
