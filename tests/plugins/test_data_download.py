"""Downloads arrive whole and verified or not at all, in bounded time, whatever the server does; all on 127.0.0.1."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import io
import os
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from framework_data.download import UnavailableError, download, fetch
from framework_data.idx import IdxFile
from framework_data.images import ImageSet, load_images

PATIENCE = 0.4
"""Seconds after which a bad server is left."""

AMPLE = 60.0
"""Seconds for a good one, which a busy machine may delay."""

CLOSED = "http://127.0.0.1:9/"  # nothing listens on the discard port


def small_file(name, shape, values):
    """An IDX file of random values: what it must be, and its content."""
    header = bytes([0, 0, 8, len(shape)]) + np.array(shape, ">u4").tobytes()
    content = header + np.random.default_rng(0).integers(0, values, shape, np.uint8).tobytes()
    return IdxFile(name, shape, hashlib.sha256(content).hexdigest(), values), content


SMALL_FILES = [
    small_file("train-images", (12, 4, 4), 256),
    small_file("train-labels", (12,), 10),
    small_file("t10k-images", (5, 4, 4), 256),
    small_file("t10k-labels", (5,), 10),
]
CONTENT = {file.name: content for file, content in SMALL_FILES}
SMALL = ImageSet("mnist", "Small MNIST", tuple(file for file, _ in SMALL_FILES), (CLOSED,), (), 0.5, 0.25)
IMAGES = SMALL.files[0]


@pytest.fixture(autouse=True)
def own_surroundings(tmp_path, monkeypatch):
    """No test sees the user's data, cache or proxy."""
    for name in ("FRAMEWORK_DATA", "http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


class Server(ThreadingHTTPServer):
    """Serves CONTENT, gzipped, in as many good and bad ways as there are first folders in the path."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked = []
        self.closing = threading.Event()

    def mirror(self, way):
        return f"http://127.0.0.1:{self.server_address[1]}/{way}/"


class Handler(BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def do_GET(self):  # the name that http.server asks for
        _, way, name = self.path.split("/")
        self.server.asked.append((way, name))
        body = gzip.compress(CONTENT[name.removesuffix(".gz")])
        with contextlib.suppress(ConnectionError):
            getattr(self, f"send_{way}")(name, body)

    def send(self, body, status=200, length=None, **headers):
        self.send_response(status)
        for key, value in {"Content-Length": str(len(body) if length is None else length), **headers}.items():
            self.send_header(key, value)
        self.end_headers()
        self.wfile.write(body)

    def send_good(self, _, body):
        self.send(body)

    def send_cut(self, _, body):
        self.send(body[:40], length=len(body))

    def send_chunked(self, _, body):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(body[:40])

    def send_silent(self, *_):
        self.server.closing.wait(10)

    def send_stalled(self, _, body):
        self.send(body[:40], length=len(body))
        self.server.closing.wait(10)

    def send_dripping(self, _, body):
        self.send(body[:40], length=len(body))
        for at in range(40, len(body)):
            if self.server.closing.wait(PATIENCE / 4):
                return
            self.wfile.write(body[at : at + 1])
            self.wfile.flush()

    def send_other(self, name, _):
        content = bytearray(CONTENT[name.removesuffix(".gz")])
        content[-1] ^= 1
        self.send(gzip.compress(content))

    def send_page(self, *_):
        self.send(b"<html>Log in to this network</html>")

    def send_missing(self, *_):
        self.send(b"", status=404)

    def send_moved(self, name, _):
        self.send(b"", status=302, Location=f"/good/{name}")

    def send_circle(self, name, _):
        self.send(b"", status=302, Location=f"/circle/{name}")

    def send_endless(self, *_):
        self.send(bytes(1_000_000))

    def send_labels(self, name, body):
        """Serves labels well, and cuts images."""
        (self.send_good if "labels" in name else self.send_cut)(name, body)


@pytest.fixture
def server():
    server = Server()
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield server
    server.closing.set()
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.mark.parametrize("way", ["good", "moved"])
def test_a_download_fills_the_cache_once(tmp_path, server, way):
    images = SMALL._replace(mirrors=(server.mirror(way),))
    first = load_images(images, None, normalize=True)
    first.ready()
    folder = tmp_path / "cache/framework/mnist"
    assert first.source.endswith(f"in {folder}")
    assert sorted(path.name for path in folder.iterdir()) == sorted(f"{name}.gz" for name in CONTENT)
    asked = len(server.asked)
    again = load_images(images, None, normalize=True)
    again.ready()
    assert np.array_equal(first.train["inputs"], again.train["inputs"])
    assert len(server.asked) == asked


BAD_SERVERS = {
    "cut": "found a gzip stream cut after 40 bytes",
    "chunked": "found a gzip stream cut after 40 bytes",
    "silent": "no answer within 0.4 s|timed out",
    "stalled": "timed out",
    "dripping": "stalled after",
    "other": "found sha256",
    "page": "found a web page",
    "missing": "404",
    "circle": "302",
    "endless": "found more than",
}


SLOW = ("silent", "stalled", "dripping")


@pytest.mark.parametrize("way", BAD_SERVERS)
def test_a_bad_server_is_left_for_the_next_one_in_time(tmp_path, server, way):
    with pytest.raises(UnavailableError, match=BAD_SERVERS[way]):
        download([IMAGES], [server.mirror(way)], tmp_path, PATIENCE)
    assert list(tmp_path.iterdir()) == []
    if way not in SLOW:
        download([IMAGES], [CLOSED, server.mirror(way), server.mirror("good")], tmp_path, AMPLE)
        assert gzip.decompress((tmp_path / f"{IMAGES.name}.gz").read_bytes()) == CONTENT[IMAGES.name]


def test_every_mirror_gives_its_reason(tmp_path, server):
    with pytest.raises(UnavailableError) as caught:
        download([IMAGES], [CLOSED, server.mirror("missing"), "nowhere/"], tmp_path, AMPLE)
    closed, missing, nowhere = str(caught.value).split("; ")
    assert closed == "127.0.0.1:9: Connection refused"
    assert "404" in missing
    assert "unknown url type" in nowhere


def test_what_one_mirror_gave_is_kept_and_only_the_rest_asked_of_the_next(tmp_path, server):
    files = sorted(SMALL.files, key=lambda file: "images" in file.name)
    download(files, [server.mirror("labels"), server.mirror("good")], tmp_path, AMPLE)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(f"{name}.gz" for name in CONTENT)
    assert [name for way, name in server.asked if way == "good"] == [f"{file.name}.gz" for file in files[2:]]


def test_a_partial_file_of_a_killed_download_is_not_used(tmp_path, server):
    folder = tmp_path / "cache/framework/mnist"
    folder.mkdir(parents=True)
    (folder / f".{IMAGES.name}.gz.abc.part").write_bytes(gzip.compress(CONTENT[IMAGES.name])[:50])
    images = SMALL._replace(mirrors=(server.mirror("good"),))
    restored = load_images(images, None, normalize=False)
    restored.ready()
    assert restored.train["inputs"].shape == (12, 4, 4, 1)
    assert len(server.asked) == 4


def test_a_failed_write_leaves_nothing(tmp_path, server, monkeypatch):
    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UnavailableError, match="No space left on device"):
        download([IMAGES], [server.mirror("good")], tmp_path, AMPLE)
    assert list(tmp_path.iterdir()) == []


def test_a_cache_that_cannot_be_made_is_named(tmp_path, server):
    (tmp_path / "file").touch()
    with pytest.raises(UnavailableError, match=f"{tmp_path}/file/inner: Not a directory"):
        download([IMAGES], [server.mirror("good")], tmp_path / "file" / "inner", AMPLE)
    assert server.asked == []


def test_progress_is_one_line_a_file(server, capsys):
    fetch(f"{server.mirror('good')}{IMAGES.name}.gz", IMAGES, AMPLE)
    assert capsys.readouterr().err == f"downloading {IMAGES.name}:   0% of 0.0 MB\n"


def test_progress_on_a_terminal_counts_up(server, monkeypatch):
    terminal = io.StringIO()
    terminal.isatty = lambda: True
    monkeypatch.setattr("sys.stderr", terminal)
    monkeypatch.setattr("framework_data.download.CHUNK", 16)
    fetch(f"{server.mirror('good')}{IMAGES.name}.gz", IMAGES, AMPLE)
    shares = re.findall(r"downloading .*?: +(\d+)% of", terminal.getvalue().replace("\r", "\n"))
    assert len(shares) > 5
    assert sorted(shares, key=int) == shares
    assert terminal.getvalue().count("\n") == 1
