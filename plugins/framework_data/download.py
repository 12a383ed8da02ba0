"""Download of pinned files over HTTP: bounded in time and size, and verified before they get their name."""

from __future__ import annotations

import http.client
import os
import queue
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit

from framework.errors import DataError
from framework_data.idx import GZIP_SLACK, IdxFile, decode

PATIENCE = 10.0  # seconds to a mirror's answer, and between two reads
CHUNK = 1 << 16  # bytes; a server that sends less within two patiences is too slow, and the next mirror is tried


class UnavailableError(DataError):
    """Error of data that are nowhere on this machine, and that no mirror could give."""


def download(files: Sequence[IdxFile], mirrors: Sequence[str], folder: Path, patience: float = PATIENCE) -> None:
    """Download the files that a folder lacks, gzipped, from the first mirrors that have them intact.

    Args:
      files: wanted files, with their shapes and digests.
      mirrors: URLs to which a file's name and ".gz" are added, in order of preference.
      folder: target, made if missing. A file appears in it whole and verified, or not at all.
      patience: seconds without an answer after which the next mirror is tried.

    Raises: UnavailableError with the reason of each mirror.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UnavailableError(f"{folder}: {error.strerror}") from error
    reasons = []
    for mirror in mirrors:
        try:
            for file in files:
                target = folder / f"{file.name}.gz"
                if not target.exists():
                    _store(fetch(mirror + target.name, file, patience), target)
            return
        except (OSError, http.client.HTTPException, ValueError) as error:
            reasons.append(f"{urlsplit(mirror).netloc}: {_words(error)}")
    raise UnavailableError("; ".join(reasons))


def fetch(url: str, file: IdxFile, patience: float = PATIENCE) -> bytes:
    """Download one file into memory and verify it.

    Raises: OSError or http.client.HTTPException if the server fails, ValueError if it sends something else.
    """
    with _open(url, patience) as response:
        try:
            data = _receive(response, file, patience)
        finally:
            print(file=sys.stderr)
    decode(data, file)
    return data


def _open(url: str, patience: float) -> http.client.HTTPResponse:
    """Open in a thread that can be abandoned: name look-ups and long lists of dead addresses obey no time-out."""
    answers: queue.SimpleQueue = queue.SimpleQueue()

    def work() -> None:
        try:
            answers.put(urllib.request.urlopen(url, timeout=patience))
        except HTTPError as error:
            error.close()  # it holds a connection
            answers.put(OSError(f"HTTP status {error.code}"))
        except Exception as error:  # raised again below, in the waiting thread
            answers.put(error)

    threading.Thread(target=work, daemon=True).start()
    try:
        answer = answers.get(timeout=patience)
    except queue.Empty:
        raise TimeoutError(f"no answer within {patience:g} s") from None
    if isinstance(answer, Exception):
        raise answer
    return answer


def _receive(response: http.client.HTTPResponse, file: IdxFile, patience: float) -> bytes:
    limit, expected = file.size + GZIP_SLACK, response.length
    data, since, seen = bytearray(), time.monotonic(), 0
    _show(file.name, 0, expected)
    while chunk := response.read1(CHUNK):
        data += chunk
        if len(data) > limit:
            raise ValueError(f"found more than {limit} bytes, expected {file.name} in less")
        if len(data) - seen >= CHUNK:
            since, seen = time.monotonic(), len(data)
            if sys.stderr.isatty():
                _show(file.name, len(data), expected, start="\r")
        elif time.monotonic() - since > 2 * patience:
            raise TimeoutError(f"stalled after {len(data)} bytes")
    return bytes(data)


def _show(name: str, received: int, expected: int | None, start: str = "") -> None:
    state = f"{received / expected:4.0%} of {expected / 1e6:.1f} MB" if expected else f"{received / 1e6:.1f} MB"
    print(f"{start}downloading {name}: {state}", end="", file=sys.stderr, flush=True)


def _store(data: bytes, path: Path) -> None:
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _words(error: Exception) -> str:
    """Return the message of an error, without the wrapping of urllib."""
    cause = error.reason if isinstance(error, URLError) else error
    return getattr(cause, "strerror", None) or str(cause) or type(cause).__name__
