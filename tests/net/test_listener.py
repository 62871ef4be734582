"""The server's door on real sockets: hostile peers beside an honest one, whose answers stay right."""

import asyncio
import queue
import random
import socket
import struct
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, closing, contextmanager

import grpc
import numpy as np
import pytest

from fedps.errors import JobError, LostError
from fedps.net import listener
from fedps.net.channel import Channel
from fedps.net.listener import METHOD, Backlog, Outbox, options, serve
from fedps.types import TableSpec
from fedps.wire.frame import Frame, Limits, decode, encode
from fedps.wire.messages import Barrier, Done, Hello, Join, Leave, Pull, Refused, Values, Welcome
from tests.net.echo import HELLO, LIMITS, EchoServer, served
from tests.wire.frames import pack, spoil

JOIN = Join((TableSpec("item", "sparse", (10**6, 4)),), 0)
HONEST = TableSpec("honest", "sparse", (10**6, 4))  # no spoiled frame can name it
WAIT = 10  # seconds; far beyond what any of this takes


class Honest:
    """A client that knows what each answer must be."""

    def __init__(self, address: str) -> None:
        self.channel = Channel(address, Hello("job", "honest", "process", 1), LIMITS, patience=WAIT)
        self.channel.request(Join((HONEST,), 0)).result(WAIT)
        self._rng = np.random.default_rng(0)

    def ask(self) -> None:
        keys = np.unique(self._rng.integers(0, 10**6, 50))
        rows = self.channel.request(Pull(("honest",)), [keys]).result(WAIT).arrays[0]
        np.testing.assert_array_equal(rows, np.repeat(keys[:, None], 4, axis=1).astype(np.float32))

    def close(self) -> None:
        self.channel.close()


class Raw:
    """A bare stream that may say anything."""

    def __init__(self, address: str) -> None:
        self._outgoing: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._channel = grpc.insecure_channel(address, options=options(LIMITS))
        self.replies = self._channel.stream_stream(METHOD)(iter(self._outgoing.get, None), timeout=WAIT)

    def send(self, *messages: bytes) -> None:
        for data in messages:
            self._outgoing.put(data)

    def reply(self) -> Frame:
        return decode(next(self.replies), LIMITS)

    def close(self) -> None:
        self._outgoing.put(None)
        self._channel.close()


@contextmanager
def both(service: EchoServer) -> Iterator[tuple[Honest, Raw]]:
    """Serve an honest client and a bare stream."""
    with served(service) as address, closing(Honest(address)) as honest, closing(Raw(address)) as raw:
        yield honest, raw


def greet(raw: Raw) -> None:
    raw.send(encode(1, HELLO), encode(2, JOIN))
    assert isinstance(raw.reply().message, Welcome)
    assert isinstance(raw.reply().message, Done)


def test_spoiled_frames_are_each_answered_and_an_honest_client_is_served_right() -> None:
    rng = random.Random(3)
    with both(EchoServer()) as (honest, raw):
        greet(raw)
        refused = 0
        for number in range(300):
            junk = spoil(rng)
            raw.send(junk, encode(10**6 + number, Leave()))
            while (answer := raw.reply()).ticket != 10**6 + number:
                refused += isinstance(answer.message, Refused)
            if number % 10 == 0:
                honest.ask()
        assert refused > 250
        honest.ask()


@pytest.mark.slow
def test_20_000_spoiled_frames_on_sockets_beside_an_honest_client() -> None:
    rng = random.Random(4)
    with served(EchoServer()) as address, closing(Honest(address)) as honest:
        for _ in range(100):
            with closing(Raw(address)) as raw:
                greet(raw)
                raw.send(*(spoil(rng) for _ in range(200)), encode(10**6, Leave()))
                while raw.reply().ticket != 10**6:
                    pass  # the last answer comes only if every frame before it was borne
            honest.ask()


def test_junk_after_a_good_frame_does_not_overtake_its_answer() -> None:
    with both(EchoServer()) as (_, raw):
        raw.send(encode(1, HELLO), b"junk", encode(2, JOIN), encode(3, Pull(("item",)), [np.arange(3)])[:-8])
        answers = [raw.reply() for _ in range(4)]
        assert [type(a.message) for a in answers] == [Welcome, Refused, Done, Refused]
        assert [a.ticket for a in answers] == [1, 0, 2, 0]


def test_a_declared_4_gib_array_is_refused_and_others_are_served() -> None:
    with both(EchoServer()) as (honest, raw):
        greet(raw)
        raw.send(pack([3, {"type": "Seed", "table": "item"}, [["f", [1, 2**30]]]]))
        answer = raw.reply().message
        assert isinstance(answer, Refused) and answer.kind == "malformed"
        honest.ask()


def test_a_message_over_the_limit_ends_its_connection_only() -> None:
    limits = Limits(message_bytes=100_000)
    with served(EchoServer(limits=limits), limits=limits) as address, closing(Honest(address)) as honest:
        with closing(Raw(address)) as raw:
            raw.send(bytes(100_001))
            with pytest.raises(grpc.RpcError) as caught:
                raw.reply()
            assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        honest.ask()


def test_another_method_is_refused() -> None:
    with served(EchoServer()) as address, grpc.insecure_channel(address) as channel:
        with pytest.raises(grpc.RpcError) as caught:
            channel.unary_unary("/fedps.Shard/Shell")(b"", timeout=WAIT)
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_a_connection_over_the_limit_is_told_so_and_the_others_are_served() -> None:
    service = EchoServer()
    with served(service, limits=Limits(connections=2)) as address, closing(Honest(address)) as honest:
        with closing(Raw(address)) as second:
            greet(second)
            with closing(Channel(address, HELLO, LIMITS, patience=0.2)) as third:
                with pytest.raises(LostError, match="2 connections are open, which is this server's limit"):
                    third.welcome.result(WAIT)
            honest.ask()
        with closing(Channel(address, HELLO, LIMITS, patience=WAIT)) as fourth:  # tries until there is room again
            assert isinstance(fourth.welcome.result(WAIT).message, Welcome)
    assert service.open == 0


def test_half_open_sockets_disturb_nobody() -> None:
    with served(EchoServer()) as address, ExitStack() as sockets:
        host, _, port = address.partition(":")
        preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
        for opening in (b"", preface[:9], preface, preface + b"\x00\x00\x04\x04", b"GET / HTTP/1.1\r\n\r\n") * 4:
            peer = sockets.enter_context(socket.create_connection((host, int(port)), timeout=WAIT))
            peer.sendall(opening)
        reset = socket.create_connection((host, int(port)), timeout=WAIT)
        reset.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        reset.close()
        with closing(Honest(address)) as honest:
            honest.ask()


def test_a_fault_of_the_service_costs_one_connection(caplog: pytest.LogCaptureFixture) -> None:
    service = EchoServer()
    with both(service) as (honest, raw):
        greet(raw)
        raw.send(encode(3, Barrier(1, "broken")))
        with pytest.raises(grpc.RpcError) as caught:
            raw.reply()
        assert caught.value.code() is grpc.StatusCode.ABORTED
        assert "a fault of the service" in (caught.value.details() or "")
        honest.ask()
    assert "a message from a client broke the service" in caplog.text
    assert service.open == 0


def test_who_does_not_read_is_not_read_from(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listener, "BACKLOG_BYTES", 1 << 20)
    service, keys = EchoServer(), np.arange(20_000)
    pulls = [encode(10 + k, Pull(("item",)), [keys]) for k in range(300)]  # 96 MB of answers
    with both(service) as (honest, raw):
        greet(raw)
        raw.send(*pulls)
        for _ in range(20):
            honest.ask()
        heard = sum(m == Pull(("item",)) for m in service.heard)
        assert heard < 300
        assert [raw.reply().ticket for _ in pulls] == [10 + k for k in range(300)]


def test_an_outbox_has_room_again_once_it_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listener, "BACKLOG_BYTES", 10)
    monkeypatch.setattr(listener, "BACKLOG_REPLIES", 2)

    async def fill_and_drain() -> list[bool]:
        box, full = Outbox(Backlog(1000)), []
        for reply in (b"12345", b"123456", b"", b""):
            waiting = asyncio.ensure_future(box.room())
            await asyncio.sleep(0)
            full.append(not waiting.done())
            waiting.cancel()
            box.put(reply)
        for _ in range(2):
            await box.get()
        await asyncio.wait_for(box.room(), WAIT)
        return full

    assert asyncio.run(fill_and_drain()) == [False, False, True, True]


def test_where_all_peers_together_leave_too_much_unread_only_those_are_read_from_that_owe_nothing() -> None:
    async def rooms() -> list[bool]:
        backlog = Backlog(10)
        slow, other, quick = Outbox(backlog), Outbox(backlog), Outbox(backlog)
        slow.put(b"123456")
        other.put(b"12345")
        waiting = [asyncio.ensure_future(box.room()) for box in (slow, other, quick)]
        await asyncio.sleep(0)
        full = [not w.done() for w in waiting]
        slow.drop()  # it hung up: what it did not read counts no more
        other.put(b"1")
        await asyncio.sleep(0)
        for w in waiting:
            w.cancel()
        return [*full, waiting[1].done() and not waiting[1].cancelled()]

    assert asyncio.run(rooms()) == [False, True, False, True]


def test_reading_stops_at_a_full_outbox_and_goes_on_when_it_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listener, "BACKLOG_BYTES", 10)

    class Replying:
        def __init__(self, box: Outbox) -> None:
            self.heard, self._box = 0, box

        def received(self, data: bytes) -> None:
            self.heard += 1
            self._box.put(data)

        def dismiss(self, reason: str) -> None: ...

        def closed(self) -> None: ...

    async def requests() -> AsyncIterator[bytes]:
        for _ in range(10):
            yield b"123456"

    async def talk() -> list[int]:
        box = Outbox(Backlog(1000))
        peer = Replying(box)
        reading, heard = asyncio.create_task(listener._read(requests(), peer, box)), []
        for _ in range(3):
            for _ in range(100):  # far more turns of the loop than there are requests
                await asyncio.sleep(0)
            heard.append(peer.heard)
            await box.get()
        reading.cancel()
        return heard

    assert asyncio.run(talk()) == [2, 3, 4]


def test_a_port_in_use_is_one_sentence_with_a_remedy(capfd: pytest.CaptureFixture[str]) -> None:
    with served(EchoServer()) as address:
        with pytest.raises(JobError, match=f"cannot listen on {address}: Address already in use; choose another"):
            asyncio.run(serve(EchoServer(), address, LIMITS, lambda _: None, asyncio.Event()))
    assert not capfd.readouterr().err


def test_deadlines_are_looked_at_while_nothing_comes() -> None:
    service, stop = EchoServer(), asyncio.Event()

    class Counting(EchoServer):
        def tick(self, now: float) -> None:
            service.tick(now)
            if service.ticks == 3:
                stop.set()

    asyncio.run(asyncio.wait_for(serve(Counting(), "127.0.0.1:0", LIMITS, lambda _: None, stop), WAIT))
    assert service.ticks == 3


def test_values_are_what_a_pull_is_answered_with() -> None:
    with both(EchoServer()) as (_, raw):
        greet(raw)
        raw.send(encode(3, Pull(("item",)), [np.array([2, 9])]))
        answer = raw.reply()
        assert answer.message == Values(("item",))
        assert answer.arrays[0].tolist() == [[2.0] * 4, [9.0] * 4]
