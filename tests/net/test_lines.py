"""Lines as they are between organisations: slow, and led by firewalls that forget who is silent."""

import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace

import numpy as np
import pytest

from fedps.errors import LostError
from fedps.net import listener
from fedps.net.channel import Channel
from fedps.net.shards import Shards
from fedps.types import Rows, TableName, TableSpec
from fedps.wire.messages import Done
from tests.chaos.wires import Wire
from tests.net.echo import HELLO, LIMITS, EchoServer, served

NAME = TableName("item")
ITEM = TableSpec(NAME, "sparse", (10**6, 16))
MUCH = np.arange(8_000)  # rows of 64 bytes, with their keys half a MiB
SLOW = 256 << 10  # bytes a second; a test's machine may be slower still, so a quarter is counted on
WAIT = 60  # seconds; far beyond what any of this takes


class Line(Wire):
    """A line that is slow, or forgotten.

    Args:
        target: where it leads.
        rate: bytes a second that it carries each way; 0 carries all at once.
        forgets: seconds without a byte after which it carries nothing more of a connection, and tells nobody; 0: none.
    """

    def __init__(self, target: str, rate: int = 0, forgets: float = 0.0) -> None:
        self._rate, self._forgets, self._over = rate, forgets, threading.Event()
        self._heard: dict[int, float] = {}  # when a connection had a byte last, either way
        super().__init__(target)

    def carried(self, talk: int, up: bool, data: bytes) -> None:
        super().carried(talk, up, data)
        now = time.monotonic()
        if self._forgets and now - self._heard.get(talk, now) > self._forgets:
            self._over.wait()
            raise OSError
        self._heard[talk] = now
        if self._rate:
            self._over.wait(len(data) / self._rate)

    def close(self) -> None:
        self._over.set()
        super().close()


@contextmanager
def behind(wire: Line, line: int = SLOW // 4) -> Iterator[tuple[Channel, Shards]]:
    """Yield a client whose words go over a wire, and which thinks that this carries so many bytes a second."""
    limits = replace(LIMITS, line=line)
    with closing(wire), closing(Channel(wire.address, HELLO, limits, patience=WAIT)) as channel:
        shards = Shards([channel], [ITEM], WAIT)
        shards.join()
        yield channel, shards


def change(keys: "np.ndarray[tuple[int], np.dtype[np.int64]]") -> dict[TableName, Rows]:
    return {NAME: Rows(keys, np.ones((len(keys), 16), np.float32))}


def test_what_takes_a_slow_line_long_is_waited_for_longer_and_a_short_word_is_not() -> None:
    service = EchoServer()
    with served(service) as address, behind(Line(address, rate=SLOW)) as (_, shards):
        assert shards.push(change(MUCH), 0).result(0.5).sequence == 0
        got = shards.pull({NAME: MUCH}).result(0.5)[NAME]
        np.testing.assert_array_equal(got, np.repeat(MUCH[:, None], 16, axis=1).astype(np.float32) + 1)
        with pytest.raises(LostError, match=r"Pull was not answered within"):
            shards.pull({NAME: MUCH[:3]}, after=7).result(0.5)  # of a window that never closes


def test_the_control_who_believes_the_line_to_be_fast_gives_up() -> None:
    with served(EchoServer()) as address, behind(Line(address, rate=SLOW), line=1 << 40) as (_, shards):
        with pytest.raises(LostError, match="Push was not answered within"):
            shards.push(change(MUCH), 0).result(0.5)


@pytest.mark.parametrize("keepalive", [0.4, 1000.0])
def test_a_connection_outlives_an_hour_of_silence_behind_a_firewall(
    keepalive: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An hour scaled down: the firewall forgets after 2 s, not minutes. The control sends no pings, and is not heard."""
    monkeypatch.setattr(listener, "KEEPALIVE", keepalive)
    with served(EchoServer()) as address, behind(Line(address, forgets=2.0)) as (channel, shards):
        time.sleep(5)
        push = shards.push(change(MUCH[:3]), 0)
        if keepalive < 1:
            assert isinstance(push.result(WAIT), Done) and channel.retries == 0
        else:
            with pytest.raises(LostError):
                push.result(2)


def test_pings_come_often_enough_for_firewalls_and_wait_long_enough_for_slow_lines() -> None:
    said = dict(listener.options(LIMITS))
    assert said["grpc.keepalive_time_ms"] <= 25_000, "the quickest firewalls forget after 30 s"
    assert said["grpc.http2.min_ping_interval_without_data_ms"] < said["grpc.keepalive_time_ms"], "they are no offence"
    assert said["grpc.http2.max_pings_without_data"] == 0, "they never end"
    kept_by_system = 4 << 20  # bytes that Linux takes of a sender before they are on a line (tcp_wmem)
    assert said["grpc.keepalive_timeout_ms"] > 1000 * kept_by_system / LIMITS.line
