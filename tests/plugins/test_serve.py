"""A server of a trained model: right answers in any company, refusals of one line, an end in good order."""

from __future__ import annotations

import http.client
import io
import json
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import zlib
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

import framework
from framework import testing

ROOT = Path(__file__).resolve().parents[2]
DIGITS = ROOT / "plugins/framework_data/digits.npz"
MISSING = [name for name in ("starlette", "uvicorn", "PIL") if find_spec(name) is None]
PATIENCE = 300

pytestmark = pytest.mark.skipif(bool(MISSING), reason=f"framework[serve] is not installed: {', '.join(MISSING)}")

NPY, JSON, PNG = "application/x-npy", "application/json", "image/png"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A classifier of digits, whose data name a preprocessor and the classes."""
    words = ["data=digits", "model=mlp", "model.hidden=[16]", "train.steps=20", "train.eval_every=0"]
    return framework.run([*words, "callbacks=[checkpoint]", f"run.root={tmp_path_factory.mktemp('run')}"])


@pytest.fixture(scope="module")
def images():
    with np.load(DIGITS) as file:
        return file["images"][:200]


class Server:
    """A server in a process of its own, and a client of it."""

    def __init__(self, run, *options):
        command = [sys.executable, "-W", "error", "-m", "framework", "serve", str(run.directory), "--port", "0"]
        self.process = subprocess.Popen([*command, *options], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.said = self.process.stdout.readline()
        assert "http://127.0.0.1:" in self.said, self.process.communicate()
        self.address = self.said.partition(" at ")[2].split()[0]
        self.port = int(self.address.rpartition(":")[2])

    def ask(self, method, path, body=None, kind=JSON, **headers):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        try:
            headers = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.request(method, path, body, {**({"content-type": kind} if kind else {}), **headers})
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def predict(self, body, kind=JSON, query="", **headers):
        status, content = self.ask("POST", f"/predict{query}", body, kind, **headers)
        assert status == 200, content
        return content

    def end(self, number=signal.SIGTERM):
        self.process.send_signal(number)
        out, err = self.process.communicate(timeout=PATIENCE)
        return self.process.returncode, out, err


@pytest.fixture(scope="module")
def server(run):
    # A body and a queue that tests can fill, and time enough on a machine that is busy.
    server = Server(run, "--body", "1", "--seconds", "300", "--wait", "5")
    yield server
    code, out, err = server.end()
    assert (code, err) == (0, "")
    assert out.startswith("stopped after ")


def npy(array, **options):
    file = io.BytesIO()
    np.save(file, array, **options)
    return file.getvalue()


def png(array):
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(array).save(file, "PNG")
    return file.getvalue()


def listed(array):
    return json.dumps({"inputs": array.tolist()})


def test_it_says_what_the_model_takes_and_that_it_is_well(server):
    status, content = server.ask("GET", "/")
    about = json.loads(content)
    assert (status, about["inputs"], about["step"]) == (200, "float32 [B, 28, 28, 1]", 20)
    assert about["classes"] == list("0123456789")
    assert about["example"].startswith(f"curl {server.address}/predict ")
    status, content = server.ask("GET", "/health")
    assert (status, json.loads(content)["status"]) == (200, "ok")


def test_each_kind_of_body_gives_the_outputs_of_the_model(run, server, images):
    expected = run.model.predict(images[:3])
    classes = [str(each) for each in expected.argmax(axis=1)]
    for body, kind in ((listed(images[:3]), JSON), (npy(images[:3]), NPY), (npy(np.asfortranarray(images[:3])), NPY)):
        found = json.loads(server.predict(body, kind))
        np.testing.assert_allclose(np.float32(found["outputs"]), expected, rtol=0, atol=1e-5)
        assert found["predicted"] == classes
    prepared = np.asarray(run.model.preprocess(images[:3]))
    for body, kind in ((listed(prepared), JSON), (npy(prepared.astype(">f8")), NPY)):
        found = np.load(io.BytesIO(server.predict(body, kind, "?prepared=true", accept=NPY)))
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)
    found = json.loads(server.predict(png(images[1]), PNG))
    np.testing.assert_allclose(np.float32(found["outputs"]), expected[1:2], rtol=0, atol=1e-5)


def test_many_clients_lose_no_answer_and_get_no_wrong_one(run, server, images, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT))
    from benchmarks.serving import load

    alone = [server.predict(npy(images[k : k + 1]), NPY, accept=NPY) for k in range(0, 200, 10)]
    outputs = np.concatenate([np.load(io.BytesIO(each)) for each in alone])
    np.testing.assert_allclose(outputs, run.model.predict(images[::10]), rtol=0, atol=1e-5)
    # Whatever batch an example rides in, and at whatever place, its outputs are the same bytes.
    found = load(server.address, images[::10], outputs, clients=64, requests=20, atol=0.0)
    assert (found.answers, found.lost, found.wrong) == (64 * 20, [], 0)


def test_batches_of_several_sizes_agree_up_to_rounding(run, images, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT))
    from benchmarks.serving import load

    server = Server(run, "--sizes", "8,1,32", "--seconds", "300")
    try:
        found = load(server.address, images, run.model.predict(images), clients=8, requests=20, atol=1e-5)
        assert (found.answers, found.lost, found.wrong) == (160, [], 0)
    finally:
        assert server.end(signal.SIGINT)[0] == 0


def header(text, version=(1, 0)):
    text = text.encode()
    return b"\x93NUMPY" + bytes(version) + struct.pack("<H" if version == (1, 0) else "<I", len(text)) + text


def claimed(shape, dtype="|u1"):
    return header(f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}}}\n")


def bomb(width, height):
    """A small PNG file that claims to be large."""

    def chunk(name, content):
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    size = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    rows = zlib.compress(bytes(1 << 20))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", size) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


ZEROS = np.zeros((1, 8, 8), np.uint8)

HOSTILE = {
    "no body": (b"", JSON, 400, "cannot be read as application/json"),
    "no JSON": (b'{"inputs": [', JSON, 400, "cannot be read as application/json"),
    "no UTF-8": (b'{"inputs": "\xff"}', JSON, 400, "cannot be read"),
    "no object": (b"[1, 2]", JSON, 400, 'expected one JSON object {"inputs": …}'),
    "another entry": (b'{"input": []}', JSON, 400, "expected one JSON object"),
    "one more entry": (b'{"inputs": [], "more": 1}', JSON, 400, "expected one JSON object"),
    "NaN": (b'{"inputs": [NaN]}', JSON, 400, "expected finite numbers, found NaN"),
    "deep nesting": (b'{"inputs": ' + b"[" * 200_000, JSON, 400, "cannot be read"),
    "unequal lengths": (b'{"inputs": [[1], [1, 2]]}', JSON, 400, "cannot be read"),
    "a huge integer": (b'{"inputs": [' + b"9" * 400 + b"]}", JSON, 400, "expected raw images as uint8"),
    "a longer integer": (b'{"inputs": [' + b"9" * 100_000 + b"]}", JSON, 400, "cannot be read"),
    "a word": (b'{"inputs": "x"}', JSON, 400, "expected raw images as uint8"),
    "null": (b'{"inputs": null}', JSON, 400, "expected raw images as uint8"),
    "mixed rows": (b'{"inputs": ["x", {}]}', JSON, 400, "expected raw images as uint8"),
    "by name": (b'{"inputs": {"a": [1]}}', JSON, 400, "found arrays by name: a"),
    "fractions": (listed(ZEROS + 0.5), JSON, 400, "expected raw images as uint8"),
    "above 255": (listed(ZEROS + np.int64(256)), JSON, 400, "expected raw images as uint8"),
    "above 16": (listed(ZEROS + 17), JSON, 400, "expected raw digits with pixels from 0 to 16"),
    "another shape": (npy(np.zeros((1, 9, 9), np.uint8)), NPY, 400, "expected raw images [B, 8, 8, 1]"),
    "no batch": (npy(ZEROS[0]), NPY, 400, "add the axis of the batch"),
    "one number": (npy(np.uint8(3)), NPY, 400, "expected raw images"),
    "another dtype": (npy(ZEROS.astype(np.int32) - 1), NPY, 400, "expected raw images as uint8"),
    "no example": (npy(ZEROS[:0]), NPY, 400, "found no examples"),
    "too many examples": (npy(np.zeros((33, 8, 8), np.uint8)), NPY, 413, "found 33 examples, expected 32 or fewer"),
    "a pickle": (npy(np.array([{}]), allow_pickle=True), NPY, 400, "expected an array of numbers, found dtype object"),
    "texts": (npy(np.array(["a"])), NPY, 400, "expected an array of numbers"),
    "records": (npy(np.zeros(2, "i4,f4")), NPY, 400, "expected an array of numbers"),
    "a cut array": (npy(ZEROS)[:-1], NPY, 400, "expected 64 bytes after the header of the .npy file, found 63"),
    "more than an array": (npy(ZEROS) + b"x", NPY, 400, "found 65"),
    "no array": (b"\x93NUMPY", NPY, 400, "cannot be read as application/x-npy"),
    "an unknown version": (b"\x93NUMPY\x09\x00xx", NPY, 400, "version 1.0 or 2.0, found 9.0"),
    "a promise": (claimed((2**40, 2**40)), NPY, 400, "bytes after the header of the .npy file, found 0"),
    "a promise of nothing": (claimed((2**60, 0, 2**60)), NPY, 400, "cannot be read"),
    "a negative shape": (claimed((-1, 8, 8)) + bytes(64), NPY, 400, "expected -64 bytes"),
    "code for a header": (header("__import__('os').abort()\n"), NPY, 400, "cannot be read"),
    "nesting in a header": (header("(" * 9000 + "\n", (2, 0)), NPY, 400, "cannot be read"),
    "a text for an image": (b"GIF89a", PNG, 400, "cannot be read as image/png"),
    "another format": (b"\xff\xd8\xff\xe0", PNG, 400, "cannot be read as image/png"),
    "a cut image": (png(ZEROS[0])[:-25], PNG, 400, "cannot be read as image/png"),
    "a bomb": (bomb(5_000, 5_000), PNG, 413, "found 5,000×5,000 pixels, expected 16,777,216 or fewer"),
    "a bomb that Pillow knows": (bomb(2**30, 2**30), PNG, 400, "cannot be read as image/png"),
    "an image of 16 bits": (png(np.full((8, 8), 4000, np.uint16)), PNG, 400, "pixels of more than 8 bits"),
    "an image of another size": (png(np.zeros((9, 9), np.uint8)), PNG, 400, "expected raw images [B, 8, 8, 1]"),
    "another kind": (b"x", "text/csv", 415, "expected a content-type of application/json, "),
    "no kind": (b"x", None, 400, "cannot be read as application/json"),
    "a large body": (bytes(2**20 + 1), NPY, 413, "expected a body of 1,048,576 bytes or fewer"),
}


def test_hostile_bodies_are_refused_in_one_line_and_the_server_goes_on(server, images):
    before = server.predict(npy(images[:1]), NPY)
    for name, (body, kind, expected, says) in HOSTILE.items():
        status, content = server.ask("POST", "/predict", body, kind)
        assert status == expected, (name, status, content)
        text = json.loads(content)["error"]
        assert says in text, (name, text)
        assert content.count(b"\n") == 1 and "Traceback" not in text and "Error" not in text, (name, text)
    prepared = np.zeros((1, 28, 28, 1), np.float32)
    prepared[0, 3] = np.nan
    for array in (prepared, np.full((1, 28, 28, 1), np.inf)):
        status, content = server.ask("POST", "/predict?prepared=true", npy(array), NPY)
        assert (status, json.loads(content)["error"]) == (400, "expected finite numbers, found NaN or infinity.")
    for method, path, status in (("GET", "/predict", 405), ("POST", "/", 405), ("GET", "/../etc/passwd", 404)):
        assert server.ask(method, path)[0] == status
    assert server.ask("GET", "/", host="elsewhere.example")[0] == 400  # a name that a page made point here
    for words in (b"nonsense\r\n\r\n", b"POST /predict HTTP/1.1\r\nhost: localhost\r\ncontent-length: -1\r\n\r\n"):
        with socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE) as opened:
            opened.sendall(words)
            assert opened.recv(100).startswith(b"HTTP/1.1 400")
    with socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE) as opened:  # and goes away
        opened.sendall(b"POST /predict HTTP/1.1\r\nhost: localhost\r\ncontent-length: 100\r\n\r\nhalf")
    chunks = (bytes(2**18) for _ in range(8))  # which say no length beforehand
    assert server.ask("POST", "/predict", chunks, NPY, connection="close")[0] == 413
    assert server.predict(npy(images[:1]), NPY) == before


def test_a_full_queue_and_a_slow_body_are_told_and_open_requests_are_answered_at_the_end(run, images):
    """A long wait for others stands for a model that is slow."""
    server = Server(run, "--wait", "60000", "--waiting", "1", "--seconds", "2")
    with socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE) as slow:
        slow.sendall(b"POST /predict HTTP/1.1\r\nhost: localhost\r\ncontent-length: 100\r\n\r\nhalf")
        assert slow.recv(100).startswith(b"HTTP/1.1 408")
    status, content = server.ask("POST", "/predict", npy(images[:1]), NPY)
    assert (status, json.loads(content)["error"]) == (504, "there is no answer after 2 s.")
    status, content = server.ask("POST", "/predict", npy(images[:1]), NPY)  # the first waits for others still
    assert (status, json.loads(content)["error"]) == (503, "1 requests wait already; try again soon.")
    assert server.end()[0] == 0

    server = Server(run, "--wait", "3000", "--seconds", "300")
    answers = []
    asking = threading.Thread(target=lambda: answers.append(server.ask("POST", "/predict", npy(images[:1]), NPY)))
    asking.start()
    while json.loads(server.ask("GET", "/health")[1])["waiting"] == 0 and asking.is_alive():
        time.sleep(0.01)
    code, out, err = server.end()
    asking.join()
    assert answers[0][0] == 200
    assert (code, out, err) == (0, "stopped after 1 answers\n", "")


REFUSED = {
    "no run": ([], "expected a run folder"),
    "no such run": (["none"], "none"),
    "a port": (["RUN", "--port", "70000"], "expected a number from 0 to 65,535, found '70000'"),
    "sizes": (["RUN", "--sizes", "8,x"], "expected a number from 1 to 65,536, found 'x'"),
    "a host": (["RUN", "--host", "999.1.1.1"], "cannot listen at 999.1.1.1, port 8000"),
    "a member": (["RUN", "--port", "0", "--member", "3"], "there is no 3"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_mistakes_are_refused_before_it_listens(run, case):
    words, says = REFUSED[case]
    done = testing.command("serve", *(str(run.directory) if word == "RUN" else word for word in words))
    assert done.code in (2, 5) and says in done.err.splitlines()[-1]


def test_a_port_that_is_taken_is_named(run, server):
    done = testing.command("serve", str(run.directory), "--port", str(server.port))
    assert done.code == 2 and f"cannot listen at 127.0.0.1, port {server.port}: Address already in use" in done.err
