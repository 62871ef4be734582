"""A thousand greeted, idle connections, and what they cost a server: `python -m tests.net.crowd [COUNT] [--tls]`.

It prints the memory of the server with and without them, and how long ten clients at work wait for an answer, in turns.
"""

import asyncio
import json
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import numpy as np
import psutil

from fedps.config import Job
from fedps.net.channel import Channel
from fedps.net.listener import METHOD, options
from fedps.net.tls import Certificates
from fedps.types import Init, Rule, TableSpec
from fedps.wire.frame import Limits, decode, encode
from fedps.wire.messages import Join, Pull, Push, Welcome
from tests.authorities import authority, credentials, write
from tests.greeting import hello

ROWS = TableSpec("rows", "sparse", (100, 4), Rule("add"), Init("constant", 1.0))
LIMITS, WAIT, ACTIVE = Limits(), 120.0, 10
SERVER = """
import json, sys
from pathlib import Path
from fedps.config import Job
from fedps.events.forms import facts
from fedps.server.serve import run_server
job = Job.model_validate_json(Path(sys.argv[1], "job.json").read_text())
run_server(job, 0, "127.0.0.1:0", Path(sys.argv[1]), lambda e: print(json.dumps(facts(e)), flush=True))
"""


class Place:
    """A server in a process of its own, which expects a crowd.

    Args:
        folder: for its job and its certificates.
        tls: whether it takes certificates.
        clients: how many it expects.

    Attributes:
        told: its events, a line each.
    """

    def __init__(self, folder: Path, tls: bool, clients: int = 4000) -> None:
        runner = {"train_data_dir": folder, "worker_num": clients, "sync_mode": "async", "durability": "none"}
        runner |= {"start_timeout": 1000.0}  # for which the idle may stay
        self._folder, self.authority = folder, authority(folder / "certs") if tls else None
        security = {"certs": folder / "certs"} if tls else {}
        self.job = Job.model_validate({"name": "crowd", "folder": folder, "runner": runner, "security": security})
        (folder / "job.json").write_text(self.job.model_dump_json())
        command = [sys.executable, "-c", SERVER, str(folder)]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        while not (line := self._process.stdout.readline()).startswith('{"event": "ready"'):
            assert line, "it has ended"
        self.address, self.process = json.loads(line)["address"], psutil.Process(self._process.pid)
        self.told: list[str] = []
        self._reader = threading.Thread(target=self.told.extend, args=[self._process.stdout], daemon=True)
        self._reader.start()

    def close(self) -> None:
        """End it."""
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(WAIT)
        finally:
            self._process.kill()
            self._process.wait()
            self._reader.join(WAIT)
            assert self._process.stdout is not None
            self._process.stdout.close()

    def dial(self, name: str) -> Any:
        """Open a connection of its own, of a client of that name."""
        settings: list[tuple[str, Any]] = [*options(LIMITS), ("grpc.use_local_subchannel_pool", 1)]
        if self.authority is None:
            return grpc.aio.insecure_channel(self.address, options=settings)
        own = credentials(self.authority, "client", name)
        settings.append(("grpc.ssl_target_name_override", "0.server.fedps"))
        shown = grpc.ssl_channel_credentials(own.ca, own.key, own.certificate)
        return grpc.aio.secure_channel(self.address, shown, options=settings)

    def client(self, name: str) -> "Active":
        """Return a client at work."""
        certificates = None
        if self.authority is not None:
            own = write(self._folder / name, credentials(self.authority, "client", name))
            certificates = Certificates(own, "client", name)
        return Active(Channel(self.address, hello(self.job, name), LIMITS, WAIT, certificates))


class Active:
    """A client that pushes and pulls, and knows what it must be answered."""

    def __init__(self, channel: Channel) -> None:
        self._channel, self._pushes = channel, 0
        channel.request(Join((ROWS,), 0)).result(WAIT)

    def turn(self, key: int) -> float:
        """Push to a row of its own and pull it; return the seconds that took."""
        began, keys = time.perf_counter(), np.array([key])
        self._pushes += 1
        self._channel.request(Push(("rows",), self._pushes, 0), [keys, np.ones((1, 4), np.float32)]).result(WAIT)
        found = self._channel.request(Pull(("rows",)), [keys]).result(WAIT).arrays[0]
        assert found.tolist() == [[1.0 + self._pushes] * 4]
        return time.perf_counter() - began

    def close(self) -> None:
        """Hang up."""
        self._channel.close()


@contextmanager
def crowd(place: Place, count: int) -> Iterator[None]:
    """Hold so many connections, a socket each, that have greeted and say nothing more."""
    ready, done, failed = threading.Event(), threading.Event(), list[BaseException]()

    async def hold() -> None:
        held = []
        try:
            for number in range(count):
                channel = place.dial(f"idle {number}")
                call = channel.stream_stream(METHOD)()
                held.append((channel, call))
                await call.write(encode(1, hello(place.job, f"idle {number}")))
                assert isinstance(decode(await call.read(), LIMITS).message, Welcome)
            ready.set()
            while not done.is_set():
                await asyncio.sleep(0.2)
            assert not any(call.done() for _, call in held), "none was hung up on"
        finally:
            for channel, call in held:
                call.cancel()
                await channel.close()

    def run() -> None:
        try:
            asyncio.run(hold())
        except BaseException as error:
            failed.append(error)
        finally:
            ready.set()

    holder = threading.Thread(target=run)
    holder.start()
    try:
        ready.wait()
        yield
    finally:
        done.set()
        holder.join()
        if failed:
            raise failed[0]


def grown(place: Place, before: int) -> float:
    """Return by how many MiB a server's memory has grown."""
    return float(place.process.memory_info().rss - before) / 2**20


def main(count: int = 1000, tls: bool = False, turns: int = 100) -> None:
    with tempfile.TemporaryDirectory() as folder, closing(Place(Path(folder), tls)) as place, ExitStack() as stack:
        clients = [stack.enter_context(closing(place.client(f"active {n}"))) for n in range(ACTIVE)]

        def took() -> str:
            seconds = [c.turn(key) for _ in range(turns) for key, c in enumerate(clients)]
            return "p50 {:.2f} ms, p99 {:.2f} ms".format(*(1000 * np.percentile(seconds, [50, 99])))

        took()
        for _ in range(3):
            print("alone: ", took(), flush=True)
            before = place.process.memory_info().rss
            with crowd(place, count):
                more = grown(place, before)
                print(
                    f"beside:  {took()}; {count} connections: {more:.1f} MiB more, {1024 * more / count:.0f} KiB each",
                    flush=True,
                )


if __name__ == "__main__":
    main(next((int(word) for word in sys.argv[1:] if word.isdigit()), 1000), "--tls" in sys.argv)
