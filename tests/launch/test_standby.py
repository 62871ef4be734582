"""A server that stands by for another takes its place when that one is killed, and is not needed when it ends."""

import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedps.config import Job
from fedps.launch.one_role import load_here
from fedps.net.channel import Channel
from fedps.net.tls import Certificates
from fedps.server.server import limits_of
from fedps.types import Init, Rule, TableSpec
from fedps.wire.messages import Join, Leave, Pull, Push
from tests.authorities import authority
from tests.greeting import hello
from tests.launch.runs import fedps, start, write_job
from tests.ports import free_address

ROWS = TableSpec("rows", "sparse", (100, 4), Rule("add"), Init("constant", 1.0))
KEYS = np.arange(10)
WAIT = 90  # seconds; far beyond what any of this takes


class Home:
    """Where a server and one that stands by for it are started, with certificates or in the clear."""

    def __init__(self, folder: Path, tls: bool = False, **runner: Any) -> None:
        self.run_dir, self.said, self.address = folder / "run", folder / "said", str(free_address())
        self._file = write_job(folder, sync_mode="async", worker_num=1, **runner)
        self.job: Job = load_here(self._file, ["runner.server_num=1"]).job
        self._args: tuple[object, ...] = ("server", self._file, "--servers", self.address, "--run_dir", self.run_dir)
        self._certificates = None
        if tls:
            made = authority(folder / "certs", "0")
            self._args += ("--certs", made.folder)
            self._certificates = Certificates(made.folder, "client", "0")
        self.said.mkdir()

    @contextmanager
    def started(self, name: str, *flags: str, words: str = "") -> Iterator[subprocess.Popen[str]]:
        process = start(*self._args, *flags, out=self.said / name)
        try:
            self.await_words(name, words or ("stands by" if flags else "listens on"))
            yield process
        finally:
            process.kill()
            process.wait()

    def refused(self, *flags: str) -> str:
        """Start one to no avail; return what it says."""
        ended = fedps(*self._args, *flags)
        assert ended.returncode == 2
        return ended.stderr

    def await_words(self, name: str, words: str) -> None:
        deadline = time.monotonic() + WAIT
        while words not in (said := (self.said / name).read_text()):
            assert time.monotonic() < deadline, said
            time.sleep(0.05)

    def client(self) -> Channel:
        channel = Channel(self.address, hello(self.job, "0"), limits_of(self.job), WAIT, self._certificates)
        channel.request(Join((ROWS,), 0)).result(WAIT)
        return channel


def push(client: Channel, number: int) -> None:
    """Push ones, and wait until they are acknowledged."""
    client.request(Push(("rows",), number, 0), [KEYS, np.ones((10, 4), np.float32)]).result(WAIT)


@pytest.mark.timeout(240)
@pytest.mark.parametrize("tls", [False, True], ids=["clear", "tls"])
def test_who_stands_by_has_all_that_was_acknowledged_when_the_server_is_killed(tls: bool, tmp_path: Path) -> None:
    home = Home(tmp_path, tls, reconnect_timeout=60.0)
    with home.started("first") as first, home.started("second", "--standby") as second:
        client = home.client()
        for number in range(1, 21):
            push(client, number)
        first.kill()
        for number in range(21, 31):
            push(client, number)
        found = client.request(Pull(("rows",)), [KEYS]).result(WAIT).arrays[0]
        np.testing.assert_array_equal(found, np.full((10, 4), 31.0))
        with home.started("third", "--standby") as third:
            client.request(Leave()).result(WAIT)
            client.close()
            assert (second.wait(WAIT), third.wait(WAIT)) == (0, 0)
    assert "listens on" not in (home.said / "third").read_text()


def test_who_stands_by_leaves_the_place_to_a_server_that_is_started_later(tmp_path: Path) -> None:
    home = Home(tmp_path)
    with home.started("second", "--standby", words="waits up to"), home.started("first"):
        home.await_words("second", "stands by")
        assert "listens on" not in (home.said / "second").read_text()


def test_who_stands_by_in_vain_takes_the_place(tmp_path: Path) -> None:
    home = Home(tmp_path, start_timeout=1)
    with home.started("second", "--standby", words="listens on"):
        assert "waits up to 1 s" in (home.said / "second").read_text()


def test_who_would_stand_by_where_nothing_is_kept_is_told(tmp_path: Path) -> None:
    home = Home(tmp_path, durability="none")
    assert "--standby: runner.durability is none, so there is no log to follow; say group" in home.refused("--standby")
