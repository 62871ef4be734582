"""Certificates change under a server and clients at work: each push that was answered counts, once."""

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import numpy as np

from fedps.errors import RefusedError
from fedps.net.channel import Channel
from fedps.net.shards import Shards
from fedps.net.tls import Certificates
from fedps.storage.credentials import write_credentials
from fedps.types import Init, Rows, Rule, TableSpec
from fedps.wire.frame import Limits
from tests.authorities import authority, credentials, write
from tests.greeting import hello
from tests.net.guarded import guarded_job
from tests.ports import free_address

ROOT = Path(__file__).parents[2]
CLIENTS = ("plain", "renewed", "revoked")
SPEC = TableSpec("rows", "sparse", (len(CLIENTS), 1), Rule("add"), Init("constant", 0.0))
WAIT = 60.0  # seconds; far beyond what any of this takes
SECOND = 1 / 86_400  # in days


class Pusher(threading.Thread):
    """A client that adds 1 to its own row, again and again, until it is told to stop or is refused.

    Attributes:
        answered: how many pushes were.
        refused: why it ended, if it was.
    """

    def __init__(self, row: int, channel: Channel) -> None:
        super().__init__(name=f"pusher {row}")
        self.answered, self.refused = 0, ""
        self.channel, self.stop = channel, threading.Event()
        self.shards = Shards([channel], [SPEC], WAIT)
        self._change = {"rows": Rows(np.array([row]), np.ones((1, 1), np.float32))}
        self.start()

    def run(self) -> None:
        self.shards.join()
        while not self.stop.is_set():
            try:
                self.shards.push(self._change, 0).result(WAIT)
            except RefusedError as error:
                self.refused = str(error)
                return
            self.answered += 1


def test_no_push_is_lost_while_a_server_and_a_client_renew_and_another_is_revoked(tmp_path: Path) -> None:
    made, address = authority(tmp_path / "certs", *CLIENTS), free_address()
    server = write(tmp_path / "server", credentials(made, "server", "0", -1, 12 * SECOND))
    renewed = write(tmp_path / "renewed", credentials(made, "client", "renewed", -1, 12 * SECOND))
    command = [sys.executable, "-m", "tests.net.guarded", str(tmp_path), address, str(len(CLIENTS)), "server"]
    folders = {"plain": made.folder, "renewed": renewed, "revoked": made.folder}
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        pushers = {}
        for row, (name, folder) in enumerate(folders.items()):
            said = hello(guarded_job(tmp_path, len(CLIENTS)), name)
            channel = Channel(address, said, Limits(), WAIT, Certificates(folder, "client", name))
            channel.welcome.result(WAIT)
            pushers[name] = Pusher(row, channel)
        write_credentials(renewed, credentials(made, "client", "renewed"))
        await_retry(pushers["renewed"], 1)  # its certificate has expired, and so has the server's
        write_credentials(server, credentials(made, "server", "0"))
        await_more(*pushers.values())
        write_credentials(server, credentials(made, "server", "0"))  # once more, before it has to be
        made.revoke("client", "revoked")
        write_credentials(server, credentials(made, "server", "0"))  # the list comes with it
        pushers["revoked"].join(WAIT)
        assert "the certificate of client revoked was revoked: ask" in pushers["revoked"].refused
        staying = [pushers["plain"], pushers["renewed"]]
        await_more(*staying)
        for pusher in staying:
            pusher.stop.set()
            pusher.join(WAIT)
            assert not pusher.refused
        assert pushers["plain"].channel.retries >= 1, "the server hung up as its own certificate expired"
        rows = staying[0].shards.pull({"rows": np.arange(len(CLIENTS))}).result(WAIT)["rows"][:, 0]
        assert rows[:2].tolist() == [pusher.answered for pusher in staying]
        assert rows[2] - pushers["revoked"].answered in (0, 1), "its last push may have been taken, and not be answered"
        for pusher in pushers.values():
            with closing(pusher.channel):
                pass
        process.send_signal(signal.SIGTERM)
        assert process.wait(WAIT) == 0


def await_more(*pushers: Pusher) -> None:
    """Wait until each has had more pushes answered."""
    for pusher in pushers:
        before = pusher.answered
        until(lambda pusher=pusher, before=before: pusher.answered > before + 10)  # type: ignore[misc]


def await_retry(pusher: Pusher, times: int) -> None:
    until(lambda: pusher.channel.retries >= times)


def until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)
