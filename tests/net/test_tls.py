"""The same calls over TLS, with a certificate made for this test."""

import asyncio
import shutil
import threading
from pathlib import Path

import grpc
import numpy as np
import pytest

from bench.served import CERTIFICATE, KEY, make_certificate
from fedps.config import Job
from fedps.errors import LostError
from fedps.net.channel import Channel
from fedps.net.listener import serve
from fedps.net.shards import Shards
from fedps.server.server import ParameterServer
from fedps.types import Init, Rule, TableSpec
from fedps.wire.frame import Limits
from tests.greeting import hello

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl command to make a certificate with")


@pytest.fixture
def pair(tmp_path: Path) -> tuple[bytes, bytes]:
    """Return a key and a certificate for 127.0.0.1."""
    make_certificate(tmp_path)
    return (tmp_path / KEY).read_bytes(), (tmp_path / CERTIFICATE).read_bytes()


def test_rows_come_over_tls_and_to_nobody_without_it(pair: tuple[bytes, bytes], tmp_path: Path) -> None:
    runner = {"train_data_dir": tmp_path, "worker_num": 1, "sync_mode": "async"}
    job = Job.model_validate({"name": "secret", "folder": tmp_path, "runner": runner})
    server, told, ready = ParameterServer(job, 0, tmp_path, lambda event: None), list[str](), threading.Event()

    def tell(address: str) -> None:
        told.append(address)
        ready.set()

    async def live() -> None:
        stop = asyncio.Event()
        ending.append((asyncio.get_running_loop(), stop))
        await serve(server, "127.0.0.1:0", Limits(), tell, stop, grpc.ssl_server_credentials([pair]))

    ending: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = []
    thread = threading.Thread(target=lambda: asyncio.run(live()))
    thread.start()
    assert ready.wait(10)
    spec = TableSpec("rows", "sparse", (50, 4), Rule("add"), Init("constant", 0.5))
    channel = Channel(told[0], hello(job, "0"), Limits(), 10.0, grpc.ssl_channel_credentials(pair[1]))
    shards = Shards([channel], [spec], 10.0)
    shards.join()
    found = shards.pull({"rows": np.arange(50)}).result(10.0)
    np.testing.assert_array_equal(found["rows"], np.full((50, 4), 0.5, np.float32))
    plain = Channel(told[0], hello(job, "0"), Limits(), 0.5)
    with pytest.raises(LostError):
        plain.welcome.result(10)
    for one in (plain, channel):
        one.close()
    loop, stop = ending[0]
    loop.call_soon_threadsafe(stop.set)
    thread.join(10)
    assert not thread.is_alive()
