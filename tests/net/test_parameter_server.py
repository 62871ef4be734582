"""The real server on real sockets: hostile peers, floods and a thousand connections, beside clients served right."""

import random
import resource
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import numpy as np
import pytest
from numpy.typing import NDArray

from fedps.access import roster
from fedps.access.conversation import MAX_JUNK
from fedps.config import Job
from fedps.net.channel import Channel
from fedps.net.listener import METHOD, options
from fedps.server.server import ParameterServer
from fedps.types import NO_KEYS, Init, Rule, TableSpec
from fedps.wire.frame import decode, encode
from fedps.wire.messages import Done, Join, Leave, Pull, Push, Seed, Welcome
from tests.conftest import MakeJob
from tests.greeting import hello
from tests.net.crowd import ACTIVE, Place, crowd, grown
from tests.net.echo import LIMITS, served
from tests.server.test_fuzz import frames_for
from tests.wire.frames import spoil

ROWS = TableSpec("rows", "sparse", (100, 4), Rule("add"), Init("constant", 1.0))
BIAS = TableSpec("bias", "dense", (3,), Rule("add"))
WAIT = 60  # seconds; far beyond what any of this takes
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


class Honest:
    """A client over a socket that knows what each answer must be; each has four rows of its own."""

    def __init__(self, address: str, job: Job, number: int = 0) -> None:
        self.channel = Channel(address, hello(job, f"good {number}"), LIMITS, patience=WAIT)
        self.channel.request(Join((ROWS, BIAS), 0)).result(WAIT)
        self.channel.request(Seed("bias"), [np.zeros((1, 3), np.float32)]).result(WAIT)
        self._keys = np.arange(4 * number, 4 * number + 4)
        self._due, self._pushes = np.ones((4, 4), np.float32), 0

    def turn(self) -> None:
        """Push, pull and compare."""
        self._pushes += 1
        change = np.full((4, 4), self._pushes, np.float32)
        self._due += change
        push = Push(("rows", "bias"), self._pushes, 0)
        arrays: list[NDArray[Any]] = [self._keys, change, NO_KEYS, np.zeros((1, 3), np.float32)]
        assert self.channel.request(push, arrays).result(WAIT).message == Done()
        found = self.channel.request(Pull(("rows", "bias")), [self._keys, NO_KEYS]).result(WAIT).arrays
        np.testing.assert_array_equal(found[0], self._due)
        np.testing.assert_array_equal(found[1], np.zeros((1, 3)))

    def close(self) -> None:
        self.channel.close()


def make_server(make_job: MakeJob, folder: Path) -> ParameterServer:
    return ParameterServer(make_job(sync_mode="async"), 0, folder / "run", lambda event: None)


def talk(address: str, messages: list[bytes]) -> None:
    """Say it all on one stream, and wait until the last is answered or the server hangs up."""
    last = 10**6
    with grpc.insecure_channel(address, options=options(LIMITS)) as channel:
        replies = channel.stream_stream(METHOD)(iter([*messages, encode(last, Leave())]), timeout=WAIT)
        for data in replies:
            if decode(data, LIMITS).ticket == last:
                break
        replies.cancel()


def cut_off(address: str, rng: random.Random) -> None:
    """Begin to speak HTTP/2, or a message, and vanish in the middle."""
    host, _, port = address.partition(":")
    settings = b"\x00\x00\x00\x04\x00\x00\x00\x00\x00"
    data_frame = (100).to_bytes(3, "big") + b"\x00\x00\x00\x00\x00\x01" + rng.randbytes(40)
    opening = PREFACE + settings + data_frame
    with socket.create_connection((host, int(port)), timeout=WAIT) as peer:
        peer.sendall(opening[: rng.randrange(len(opening) + 1)])
        if rng.random() < 0.5:
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")  # reset


def fuzz(address: str, server: ParameterServer, honest: Honest, streams: int, seed: int) -> None:
    """Send 100 spoiled frames a turn; half-open sockets stand by all the while."""
    rng, frames = random.Random(seed), frames_for(server)
    host, _, port = address.partition(":")
    with ExitStack() as half_open:
        for n in range(20):
            peer = half_open.enter_context(socket.create_connection((host, int(port)), timeout=WAIT))
            peer.sendall(PREFACE[: n * 2])
        for _ in range(streams):
            for _ in range(0, 100, MAX_JUNK):  # after so many that are no message the server hangs up
                talk(address, [*frames[:2], *(spoil(rng, frames) for _ in range(MAX_JUNK))])
            cut_off(address, rng)
            honest.turn()


def test_2_000_spoiled_frames_on_sockets(make_job: MakeJob, tmp_path: Path) -> None:
    server = make_server(make_job, tmp_path)
    with served(server) as address, closing(Honest(address, server.job)) as honest:
        fuzz(address, server, honest, 20, seed=1)
    assert server.refusals.total > 1000
    assert server.roster.connected == [] and not server.roster._strangers


@pytest.mark.slow
def test_20_000_spoiled_frames_on_sockets(make_job: MakeJob, tmp_path: Path) -> None:
    server = make_server(make_job, tmp_path)
    with served(server) as address, closing(Honest(address, server.job)) as honest:
        fuzz(address, server, honest, 200, seed=2)
    assert server.refusals.total > 10_000
    assert server.roster.connected == [] and not server.roster._strangers


def test_2_000_connection_attempts_in_a_flood_while_calls_go_on(make_job: MakeJob, tmp_path: Path) -> None:
    server = make_server(make_job, tmp_path)
    with served(server) as address, closing(Honest(address, server.job)) as honest:
        rng = random.Random(5)

        def attempt() -> None:
            for _ in range(2000):
                cut_off(address, rng)

        flood = threading.Thread(target=attempt)
        flood.start()
        turns = 0
        while flood.is_alive() or turns < 10:
            honest.turn()
            turns += 1
        flood.join()


def test_a_silent_connection_is_ended_by_the_server(
    make_job: MakeJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(roster, "GREETING_TIMEOUT", 0.2)
    server = make_server(make_job, tmp_path)
    stop = threading.Event()

    def nothing() -> Iterator[bytes]:
        stop.wait(WAIT)
        yield from ()

    with served(server) as address, closing(Honest(address, server.job)) as honest:
        with grpc.insecure_channel(address, options=options(LIMITS)) as channel:
            try:
                replies = channel.stream_stream(METHOD)(nothing(), timeout=WAIT)
                assert list(replies) == []  # it ends, without an answer and without an error
                assert replies.code() is grpc.StatusCode.OK
            finally:
                stop.set()
        honest.turn()


def test_a_second_stream_of_a_process_ends_the_first(make_job: MakeJob, tmp_path: Path) -> None:
    server = make_server(make_job, tmp_path)
    with served(server) as address, closing(Honest(address, server.job)) as honest:
        greeting = encode(1, hello(server.job, "twice"))
        stop = threading.Event()

        def say() -> Iterator[bytes]:
            yield greeting
            stop.wait(WAIT)

        with grpc.insecure_channel(address, options=options(LIMITS)) as channel:
            try:
                first = channel.stream_stream(METHOD)(say(), timeout=WAIT)
                assert isinstance(decode(next(first), LIMITS).message, Welcome)
                second = channel.stream_stream(METHOD)(say(), timeout=WAIT)
                assert isinstance(decode(next(second), LIMITS).message, Welcome)
                assert list(first) == []
                second.cancel()
            finally:
                stop.set()
        honest.turn()


def test_a_message_over_the_limit_ends_its_connection_only(make_job: MakeJob, tmp_path: Path) -> None:
    server = ParameterServer(make_job(sync_mode="async"), 0, tmp_path, lambda event: None)
    with served(server, limits=server.limits) as address, closing(Honest(address, server.job)) as honest:
        with grpc.insecure_channel(address) as channel:
            with pytest.raises(grpc.RpcError) as caught:
                next(channel.stream_stream(METHOD)(iter([bytes((64 << 20) + 1)]), timeout=WAIT))
            assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        honest.turn()


@pytest.fixture
def many_files() -> Iterator[None]:
    """Allow this process, and those it starts, thousands of open sockets."""
    usual, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(usual, min(most, 8192)), most))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (usual, most))


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.usefixtures("many_files")
@pytest.mark.parametrize("tls", [False, True])
def test_a_thousand_that_have_greeted_cost_little_and_ten_clients_are_served_beside_them(
    tls: bool, tmp_path: Path
) -> None:
    with closing(Place(tmp_path, tls)) as place, ExitStack() as stack:
        active = [stack.enter_context(closing(place.client(f"active {n}"))) for n in range(ACTIVE)]
        for _ in range(20):
            for key, client in enumerate(active):
                client.turn(key)
        before = place.process.memory_info().rss
        with crowd(place, 1000):
            for key, client in enumerate(active * 10):
                client.turn(key % ACTIVE)
            assert grown(place, before) < (100 if tls else 60)
        for key, client in enumerate(active):
            client.turn(key)
