"""Where data comes from: what is found first, and downloads that are whole or leave nothing."""

import hashlib
import io
import os
import signal
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from fedps.data.prepare import source
from fedps.data.prepare.source import download, locate
from fedps.errors import DataError
from tests.launch.runs import HEEDING


def packed() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("ratings.dat", bytes(range(256)) * 20)
    return out.getvalue()


class Publisher(ThreadingHTTPServer):
    """A publisher on this machine: answers by path, counts, and stalls halfway on /stalls.zip."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.asked: list[str] = []
        self.halfway, self.go_on = threading.Event(), threading.Event()


class Answer(BaseHTTPRequestHandler):
    server: Publisher

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        payload = packed()
        if self.path == "/missing.zip":
            self.send_error(404)
            return
        body = {"/page.zip": b"<html>please log in</html>", "/short.zip": payload[:-40], "/silent.zip": payload[:-40]}
        self.send_response(200)
        if self.path != "/silent.zip":
            self.send_header("Content-Length", str(len(payload) if "page" not in self.path else 26))
        self.end_headers()
        if self.path == "/stalls.zip":
            self.wfile.write(payload[:1000])
            self.wfile.flush()
            self.server.halfway.set()
            self.server.go_on.wait(60)
            return
        self.wfile.write(body.get(self.path, payload))

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Stay silent."""


@pytest.fixture
def publisher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Publisher]:
    monkeypatch.setenv("FEDPS_CACHE", str(tmp_path / "home"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with Publisher() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.go_on.set()
        server.shutdown()
        thread.join()


def cached(tmp_path: Path) -> list[str]:
    return sorted(p.name for p in (tmp_path / "home").rglob("*") if p.is_file())


def test_a_download_is_kept_and_not_repeated(
    publisher: Publisher, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = locate(f"{publisher.url}/ml-1m.zip?mirror=2")
    assert path.read_bytes() == packed()
    assert path.name == "ml-1m.zip"
    assert "downloading http" in capsys.readouterr().err
    assert locate(f"{publisher.url}/ml-1m.zip?mirror=2") == path
    told = capsys.readouterr().err
    assert "/ml-1m.zip?mirror=2: as it was fetched on 2" in told and f"; remove {path} to fetch it anew" in told
    assert len(publisher.asked) == 1
    assert locate(f"{publisher.url}/other/ml-1m.zip") != path, "another address is another file"
    assert cached(tmp_path) == ["ml-1m.zip", "ml-1m.zip"]


@pytest.mark.parametrize(
    ("name", "named"),
    [
        ("missing.zip", "404"),
        ("page.zip", "no zip archive: it begins with b'<html>please log"),
        ("short.zip", "cut off after"),
        ("silent.zip", "no zip archive"),
    ],
)
def test_a_download_that_is_not_whole_leaves_nothing(
    name: str, named: str, publisher: Publisher, tmp_path: Path
) -> None:
    for _ in range(2):
        with pytest.raises(DataError, match=f"{name}: cannot be downloaded: .*{named}.*--source FILE"):
            download(f"{publisher.url}/{name}")
    assert len(publisher.asked) == 2, "nothing was cached"
    assert cached(tmp_path) == []


def test_a_download_that_is_not_the_published_file_leaves_nothing(
    publisher: Publisher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"{publisher.url}/ml-1m.zip"
    monkeypatch.setattr(source, "SHA256", {url: "00"})
    with pytest.raises(DataError, match=r"not the published file: its SHA-256 is [0-9a-f]{64}; fetch it yourself"):
        download(url)
    assert cached(tmp_path) == []
    monkeypatch.setattr(source, "SHA256", {url: hashlib.sha256(packed()).hexdigest()})
    assert download(url).read_bytes() == packed()


def test_a_download_over_the_limit_leaves_nothing(
    publisher: Publisher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source, "LIMIT", len(packed()) - 1)
    with pytest.raises(DataError, match=f"more than {len(packed()) - 1} bytes"):
        download(f"{publisher.url}/ml-1m.zip")
    assert cached(tmp_path) == []
    monkeypatch.setattr(source, "LIMIT", len(packed()))
    assert download(f"{publisher.url}/ml-1m.zip").is_file()


def test_an_interrupted_download_leaves_nothing(publisher: Publisher, tmp_path: Path) -> None:
    code = f"from fedps.data.prepare.source import download; download('{publisher.url}/stalls.zip')"
    process = subprocess.Popen([*HEEDING, sys.executable, "-c", code], env=os.environ, stderr=subprocess.PIPE)
    try:
        assert publisher.halfway.wait(60)
        process.send_signal(signal.SIGINT)
        told = process.communicate(timeout=30)[1]
    finally:
        process.kill()
        process.wait(30)
    assert b"KeyboardInterrupt" in told
    assert cached(tmp_path) == []


def test_an_address_nobody_answers_at_is_named(publisher: Publisher) -> None:
    url = "http://127.0.0.1:1/ml-1m.zip"
    with pytest.raises(DataError, match=r"127\.0\.0\.1:1/ml-1m\.zip: cannot be downloaded: .*refused.*FEDPS_DATA"):
        download(url)
    with pytest.raises(DataError, match="cannot be downloaded"):
        locate("http://[bad/ml-1m.zip")


def test_the_shelf_is_searched_when_no_source_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEDPS_DATA", str(tmp_path))
    (tmp_path / "ml-1m-notime.zip").write_bytes(packed())
    assert locate(None) == tmp_path / "ml-1m-notime.zip"
    (tmp_path / "ml-1m.zip").write_bytes(packed())
    assert locate(None) == tmp_path / "ml-1m.zip"
    assert locate(str(tmp_path)) == tmp_path, "a named source wins"
    with pytest.raises(DataError, match=r"--source .*none\.zip: there is no such file"):
        locate(str(tmp_path / "none.zip"))
