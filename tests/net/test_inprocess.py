"""The connection within one process: the calls and the bytes of the one on sockets."""

import threading
import time
from collections.abc import Iterator
from contextlib import closing

import numpy as np
import pytest

from fedps.errors import LimitError, LostError, RefusedError
from fedps.net.channel import Channel
from fedps.net.inprocess import LocalChannel, LocalServer
from fedps.types import TableSpec
from fedps.wire.frame import Limits
from fedps.wire.messages import Barrier, Done, Hello, Join, Leave, Pull, Push, Welcome
from tests.net.echo import HELLO, LIMITS, EchoServer, served

SPECS = (TableSpec("item", "sparse", (1000, 4)),)
KEYS, ONES = np.array([2, 5], np.int64), np.ones((2, 4), np.float32)
WAIT = 20.0


@pytest.fixture
def local() -> Iterator[LocalServer]:
    with closing(LocalServer(EchoServer())) as server:
        yield server


def joined(local: LocalServer) -> LocalChannel:
    channel = LocalChannel(local, HELLO, LIMITS)
    channel.request(Join(SPECS, 0)).result(0)
    return channel


def talk(channel: Channel | LocalChannel) -> list[object]:
    """Hold a short conversation; return what was answered, and the bytes it took."""
    answers: list[object] = [channel.welcome.result(WAIT).message, channel.request(Join(SPECS, 0)).result(WAIT).message]
    poll = channel.request(Pull(("item",), after=0), [KEYS])
    answers.append(channel.request(Push(("item",), 1, 0), [KEYS, ONES]).result(WAIT).message)
    answers.append(poll.result(WAIT).arrays[0].tolist())
    return [*answers, channel.bytes_sent, channel.bytes_received, channel.retries]


def test_answers_and_bytes_are_those_of_a_socket(local: LocalServer) -> None:
    with served(EchoServer()) as address, closing(Channel(address, HELLO, LIMITS, WAIT)) as channel:
        on_socket = talk(channel)
    within = talk(LocalChannel(local, HELLO, LIMITS))
    assert within == on_socket
    assert within[:4] == [Welcome(0, 1, 0), Done(0), Done(1), [[3.0] * 4, [6.0] * 4]]


def test_what_fails_is_in_the_future(local: LocalServer) -> None:
    channel = joined(local)
    with pytest.raises(RefusedError, match="no table 'user'"):
        channel.request(Pull(("user",)), [KEYS]).result(0)
    small = LocalChannel(local, HELLO, Limits(message_bytes=500))
    with pytest.raises(LimitError, match="limit of 500 bytes"):
        small.request(Pull(("item",)), [np.arange(500)]).result(0)
    with pytest.raises(RefusedError, match="another job"):
        LocalChannel(local, Hello("another", "7", "process", 1), LIMITS).welcome.result(0)


def test_close_fails_what_is_open_and_drops_later_answers(local: LocalServer) -> None:
    channel, other = joined(local), joined(local)
    poll = channel.request(Pull(("item",), after=0), [KEYS])
    channel.close()
    channel.close()
    for future in (poll, channel.request(Leave())):
        with pytest.raises(LostError, match="was closed"):
            future.result(0)
    other.request(Push(("item",), 1, 0), [KEYS, ONES]).result(0)  # answers the closed one's poll too
    assert isinstance(local.service, EchoServer)
    assert local.service.open == 1


def test_threads_call_the_service_one_at_a_time(local: LocalServer) -> None:
    def push(channel: LocalChannel) -> None:
        for sequence in range(100):
            channel.request(Push(("item",), sequence, 0), [KEYS, ONES]).result(0)

    threads = [threading.Thread(target=push, args=[joined(local)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    rows = joined(local).request(Pull(("item",)), [KEYS]).result(0).arrays[0]
    assert rows[:, 0].tolist() == [402, 405]


def test_deadlines_are_looked_at_until_the_end() -> None:
    service = EchoServer()
    local = LocalServer(service)
    end = time.monotonic() + WAIT
    while service.ticks < 2 and time.monotonic() < end:
        time.sleep(0.01)
    local.close()
    seen = service.ticks
    assert seen >= 2
    assert "fedps deadlines" not in [t.name for t in threading.enumerate()]


def test_a_barrier_answered_at_once_is_done_at_once(local: LocalServer) -> None:
    assert joined(local).request(Barrier(1, "trained")).done()
