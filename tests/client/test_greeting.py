"""Who is the newest process of a client: all servers agree, in whichever folder it began."""

import io
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from fedps.client.checkpoint import Checkpoints
from fedps.client.greeting import Connect, greet
from fedps.config import Job
from fedps.errors import RefusedError
from fedps.net.inprocess import LocalChannel, LocalServer
from fedps.server.server import ParameterServer
from fedps.types import ClientId
from fedps.wire.frame import Limits
from fedps.wire.messages import Census, Welcome
from tests.conftest import MakeJob

ME = ClientId("0")


@pytest.fixture
def job(make_job: MakeJob) -> Job:
    return make_job(server_num=2)


@pytest.fixture
def connect(job: Job, tmp_path: Path) -> Iterator[Connect]:
    with ExitStack() as stack:
        servers = [
            stack.enter_context(closing(LocalServer(ParameterServer(job, shard, tmp_path, lambda event: None))))
            for shard in range(2)
        ]
        yield lambda shard, hello: LocalChannel(servers[shard], hello, Limits())


def process(job: Job, folder: Path) -> Checkpoints:
    return Checkpoints(job, ME, folder, io.StringIO())


def test_a_process_in_another_folder_counts_on_from_what_servers_know(
    job: Job, connect: Connect, tmp_path: Path
) -> None:
    here = [process(job, tmp_path / "here") for _ in range(3)]
    assert [one.number for one in here] == [1, 2, 3]
    older = greet(job, ME, connect, here[-1])
    there = process(job, tmp_path / "there")
    newer = greet(job, ME, connect, there)
    assert there.number == 4
    assert all(isinstance(channel.welcome.result(0).message, Welcome) for channel in newer)
    with pytest.raises(RefusedError, match="a newer process speaks for client"):
        older[0].request(Census()).result(0)


def test_one_that_is_slow_to_greet_ends_where_a_newer_one_has_begun(job: Job, connect: Connect, tmp_path: Path) -> None:
    older, newer = (process(job, tmp_path / "here") for _ in range(2))
    channels = greet(job, ME, connect, newer)
    with pytest.raises(RefusedError, match="a newer process works for client"):
        greet(job, ME, connect, older)
    assert all(isinstance(channel.welcome.result(0).message, Welcome) for channel in channels)
