"""Load of many clients on `framework serve`: every answer is compared with the one that is expected.

python -m benchmarks.serving http://127.0.0.1:8000 inputs.npy outputs.npy --clients 64 --requests 100
"""

from __future__ import annotations

import argparse
import http.client
import io
import threading
import time
from collections.abc import Sequence
from typing import NamedTuple
from urllib.parse import urlsplit

import numpy as np

NPY = {"content-type": "application/x-npy", "accept": "application/x-npy"}
PATIENCE = 300.0
"""Seconds until an answer counts as lost."""


class Load(NamedTuple):
    """Result of a load.

    Attributes:
      answers: that came with status 200.
      lost: requests without an answer of status 200, in words.
      wrong: answers that are not the expected ones.
      seconds: of each answered request, ascending.
      wall: seconds that all took.
    """

    answers: int
    lost: list[str]
    wrong: int
    seconds: list[float]
    wall: float


def load(address: str, inputs: np.ndarray, expected: np.ndarray, clients: int, requests: int, atol: float) -> Load:
    """Ask for predictions by many clients at once, each on a connection of its own.

    Args:
      inputs: raw inputs [N, ...]; request number k of all asks for example k modulo N.
      expected: outputs [N, ...].
      atol: largest difference of an output that is no mistake.
    """
    place = urlsplit(address)
    lost: list[str] = []
    wrong: list[int] = []
    seconds: list[float] = []
    begin = threading.Barrier(clients + 1)

    def client(number: int) -> None:
        connection = http.client.HTTPConnection(place.hostname or "", place.port, timeout=PATIENCE)
        begin.wait()
        for k in range(number * requests, (number + 1) * requests):
            row, start = k % len(inputs), time.perf_counter()
            try:
                connection.request("POST", "/predict", as_npy(inputs[row : row + 1]), NPY)
                answer = connection.getresponse()
                content = answer.read()
            except OSError as error:
                lost.append(str(error))
                connection.close()
                continue
            seconds.append(time.perf_counter() - start)
            if answer.status != 200:
                lost.append(f"{answer.status} {content.decode(errors='replace').strip()}")
            elif not _agrees(content, expected[row : row + 1], atol):
                wrong.append(row)
        connection.close()

    threads = [threading.Thread(target=client, args=(number,)) for number in range(clients)]
    for each in threads:
        each.start()
    begin.wait()
    start = time.perf_counter()
    for each in threads:
        each.join()
    wall = time.perf_counter() - start
    return Load(clients * requests - len(lost), lost, len(wrong), sorted(seconds), wall)


def as_npy(array: np.ndarray) -> bytes:
    """Return the bytes of an .npy file."""
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def _agrees(content: bytes, expected: np.ndarray, atol: float) -> bool:
    found = np.load(io.BytesIO(content), allow_pickle=False)
    return found.shape == expected.shape and bool(np.allclose(found, expected, rtol=0, atol=atol))


def main(words: Sequence[str] | None = None) -> None:
    """Put a load on a server, and print what came of it."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("address", help="of the server")
    arguments.add_argument("inputs", help=".npy file of raw inputs [N, ...]")
    arguments.add_argument("outputs", help=".npy file of the outputs that `framework predict` writes of them")
    arguments.add_argument("--clients", type=int, default=64)
    arguments.add_argument("--requests", type=int, default=100, help="of each client, one example each (100)")
    arguments.add_argument("--atol", type=float, default=1e-4, help="difference of outputs that is rounding (1e-4)")
    given = arguments.parse_args(words)
    inputs, expected = np.load(given.inputs), np.load(given.outputs)
    found = load(given.address, inputs, expected, given.clients, given.requests, given.atol)
    middle, late = (1000 * found.seconds[int(share * (len(found.seconds) - 1))] for share in (0.5, 0.99))
    print(f"{found.answers:,} answers, {len(found.lost)} lost, {found.wrong} wrong")
    print(f"{found.answers / found.wall:,.0f} requests/s; {middle:.1f} ms in the median, {late:.1f} ms at 99 %")
    for each in sorted(set(found.lost)):
        print(f"lost: {each}")


if __name__ == "__main__":
    main()
