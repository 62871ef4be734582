"""A connection that comes back by itself, on real sockets; servers are stopped, started, and killed."""

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import numpy as np
import pytest

from fedps.errors import LimitError, LostError, RefusedError
from fedps.net.channel import Channel
from fedps.types import TableSpec
from fedps.wire.frame import Limits
from fedps.wire.messages import Barrier, Done, Hello, Join, Leave, Pull, Push, Seed, Welcome
from tests.net.echo import HELLO, LIMITS, EchoServer, served
from tests.ports import free_address

JOIN = Join((TableSpec("item", "sparse", (10**6, 4)), TableSpec("bias", "dense", (2,))), 0)
KEYS, ROWS = np.array([1, 4]), np.ones((2, 4), np.float32)
WAIT = 20  # seconds; far beyond what any of this takes


def dial(address: str, patience: float = WAIT, limits: Limits = LIMITS) -> "closing[Channel]":
    return closing(Channel(address, HELLO, limits, patience))


def test_requests_are_answered_and_counted() -> None:
    with served(EchoServer(clock=5)) as address, dial(address) as channel:
        assert channel.welcome.result(WAIT).message == Welcome(0, 1, 5)
        assert channel.request(JOIN).result(WAIT).message == Done(5)
        rows = channel.request(Pull(("item",)), [KEYS]).result(WAIT).arrays[0]
        assert rows.tolist() == [[1.0] * 4, [4.0] * 4]
        assert channel.bytes_sent > 2 * KEYS.nbytes
        assert channel.bytes_received > rows.nbytes
        assert channel.retries == 0


def test_a_reply_may_come_after_those_of_later_requests() -> None:
    with served(EchoServer()) as address, dial(address) as channel:
        channel.request(JOIN)
        later = channel.request(Pull(("item",), after=0), [KEYS])
        assert channel.request(Pull(("item",)), [KEYS]).result(WAIT).arrays[0][0, 0] == 1
        assert not later.done()
        channel.request(Push(("item",), 1, 0), [KEYS, ROWS]).result(WAIT)
        assert later.result(WAIT).arrays[0][0, 0] == 2


def test_a_refusal_is_the_requests_own() -> None:
    with served(EchoServer()) as address, dial(address) as channel:
        channel.request(JOIN).result(WAIT)
        with pytest.raises(RefusedError, match="no table 'user' here") as caught:
            channel.request(Pull(("user",)), [KEYS]).result(WAIT)
        assert caught.value.kind == "unknown_table"
        channel.request(Pull(("item",)), [KEYS]).result(WAIT)


def test_a_refused_hello_fails_all_requests_at_once() -> None:
    with served(EchoServer()) as address:
        with closing(Channel(address, Hello("another", "7", "process", 1), LIMITS, WAIT)) as channel:
            for future in (channel.welcome, channel.request(JOIN)):
                with pytest.raises(RefusedError, match="another job"):
                    future.result(WAIT)


def test_a_server_that_is_not_there_is_named_when_patience_ends() -> None:
    address = free_address()
    with dial(address, patience=0.2) as channel:
        request = channel.request(JOIN)
        for future in (channel.welcome, request):
            with pytest.raises(LostError, match=f"no server answers at {address} for 0.2 s .*is it started"):
                future.result(WAIT)
        with pytest.raises(LostError, match="no server answers"):
            channel.request(Leave()).result(WAIT)


def test_a_proxy_of_the_environment_is_not_asked_for_our_own_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("grpc_proxy", "http_proxy"):
        monkeypatch.setenv(name, "http://" + free_address())
    monkeypatch.delenv("no_proxy", raising=False)
    with served(EchoServer()) as address, dial(address, patience=2) as channel:
        assert isinstance(channel.welcome.result(WAIT).message, Welcome)


def test_a_proxy_for_the_web_hears_nothing_of_another_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even the address: the server of that name is asked directly, and not there."""
    with closing(socket.create_server(("127.0.0.1", 0))) as proxy:
        for name in ("http_proxy", "https_proxy", "all_proxy"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.getsockname()[1]}")
        monkeypatch.delenv("no_proxy", raising=False)
        monkeypatch.delenv("grpc_proxy", raising=False)
        with dial("nowhere.invalid:1", patience=0.2) as channel:
            with pytest.raises(LostError, match="asked directly, whatever http_proxy and no_proxy say: set grpc_proxy"):
                channel.request(JOIN).result(WAIT)
        proxy.setblocking(False)
        with pytest.raises(BlockingIOError):
            proxy.accept()


def test_a_proxy_for_grpc_is_asked_for_another_machine_and_named_where_it_fails(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as proxy:
        monkeypatch.setenv("grpc_proxy", f"http://127.0.0.1:{proxy.getsockname()[1]}")
        monkeypatch.delenv("no_proxy", raising=False)
        proxy.settimeout(WAIT)
        with dial("nowhere.invalid:1", patience=0.2) as channel:
            with proxy.accept()[0] as peer:
                assert peer.recv(100).startswith(b"CONNECT nowhere.invalid:1")
            with pytest.raises(
                LostError, match="through the proxy that grpc_proxy names, unless no_proxy names its host"
            ):
                channel.request(JOIN).result(WAIT)


def test_a_server_may_come_later_than_its_clients() -> None:
    address = free_address()
    with dial(address) as channel:
        request = channel.request(JOIN)
        with served(EchoServer(), bind=address):
            assert request.result(WAIT).message == Done(0)


def test_what_was_asked_while_away_is_answered_after_the_return() -> None:
    service = EchoServer()
    with served(service) as address:
        channel = Channel(address, HELLO, LIMITS, WAIT)
        channel.request(JOIN).result(WAIT)
        waiting = channel.request(Pull(("item",), after=0), [KEYS])
        channel.request(Pull(("item",)), [KEYS]).result(WAIT)
    service.waiting.clear()
    asked = channel.request(Pull(("item",)), [KEYS])
    with closing(channel), served(service, bind=address):
        assert asked.result(WAIT).arrays[0].tolist() == [[1.0] * 4, [4.0] * 4]
        service_heard = [type(m) for m in service.heard[-4:]]
        assert service_heard == [Hello, Join, Pull, Pull]
        channel.request(Push(("item",), 1, 0), [KEYS, ROWS]).result(WAIT)
        assert waiting.result(WAIT).arrays[0][0, 0] == 2
        assert channel.retries >= 1


def test_a_push_cut_between_its_parts_is_whole_after_the_return() -> None:
    service = EchoServer()
    with served(service) as address:
        channel = Channel(address, HELLO, LIMITS, WAIT)
        channel.request(JOIN).result(WAIT)
        channel.request(Push(("item",), 1, 0, part=0, parts=2), [KEYS, ROWS]).result(WAIT)
    last = channel.request(Push(("item",), 1, 0, part=1, parts=2), [KEYS + 5, ROWS])
    with closing(channel), served(service, bind=address):
        assert last.result(WAIT).message == Done(1)
        rows = channel.request(Pull(("item",)), [np.array([1, 4, 6, 9])]).result(WAIT).arrays[0]
        assert rows[:, 0].tolist() == [2, 5, 7, 10]


def test_too_large_a_request_fails_alone() -> None:
    with served(EchoServer()) as address, dial(address, limits=Limits(message_bytes=10_000)) as channel:
        channel.request(JOIN).result(WAIT)
        with pytest.raises(LimitError, match="limit of 10000 bytes"):
            channel.request(Seed("bias"), [np.zeros((1, 2500), np.float32)]).result(WAIT)
        channel.request(Leave()).result(WAIT)


def test_too_large_a_reply_is_told_and_not_asked_for_again() -> None:
    service = EchoServer()
    with served(service) as address, dial(address, limits=Limits(message_bytes=10_000)) as channel:
        channel.request(JOIN).result(WAIT)
        with pytest.raises(LostError, match="larger than max"):
            channel.request(Pull(("item",)), [np.arange(1000)]).result(WAIT)
    assert service.connections == 1


def test_a_fault_of_the_server_is_told_and_not_provoked_again() -> None:
    service = EchoServer()
    with served(service) as address, dial(address) as channel:
        channel.request(JOIN).result(WAIT)
        with pytest.raises(LostError, match="failed on a message: ZeroDivisionError"):
            channel.request(Barrier(1, "broken")).result(WAIT)
    assert service.connections == 1


def test_a_server_of_something_else_is_named() -> None:
    with served(EchoServer()) as address, dial(address) as channel:
        channel.request(JOIN).result(WAIT)
        with pytest.raises(LostError, match=f"server at {address} sent no message of ours"):
            channel.request(Barrier(1, "junk")).result(WAIT)


@pytest.mark.parametrize("asked", ["answered", "open"])
def test_closing_fails_what_is_open_and_leaves_no_thread(asked: str) -> None:
    before = threading.active_count()
    service = EchoServer()
    with served(service) as address:
        channel = Channel(address, HELLO, LIMITS, WAIT)
        channel.request(JOIN).result(WAIT)
        future = channel.request(Leave() if asked == "answered" else Barrier(1, "never"))
        if asked == "answered":
            future.result(WAIT)
        channel.close()
        channel.close()
        with pytest.raises(LostError, match="was closed"):
            (channel.request(Leave()) if asked == "answered" else future).result(WAIT)
    assert service.open == 0
    assert not [t for t in threading.enumerate() if t.name.startswith("fedps")]
    assert threading.active_count() <= before + 1  # gRPC keeps a thread of its own for a while


def test_closing_while_no_server_is_there_does_not_wait_for_one() -> None:
    channel = Channel(free_address(), HELLO, LIMITS, WAIT)
    future = channel.request(JOIN)
    channel.close()
    with pytest.raises(LostError, match="was closed"):
        future.result(0)


@contextmanager
def server_process(address: str) -> Iterator["subprocess.Popen[str]"]:
    """Start a server in a process of its own; kill it at the end."""
    script = Path(__file__).with_name("echo.py")
    root = {"PYTHONPATH": os.pathsep.join([str(script.parents[2]), *sys.path])}
    command = [sys.executable, "-P", str(script), address]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=root) as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == "starting\n"
            assert process.stdout.readline() == "ready\n"
            yield process
        finally:
            process.kill()


def test_a_request_outlives_a_server_killed_and_started_again() -> None:
    address = free_address()
    with server_process(address) as first:
        channel = Channel(address, HELLO, LIMITS, WAIT)
        channel.request(JOIN).result(WAIT)
        waiting = channel.request(Pull(("item",), after=0), [KEYS])
        channel.request(Pull(("item",)), [KEYS]).result(WAIT)
        first.kill()  # SIGKILL: no word of farewell
        first.wait(WAIT)
    asked = channel.request(Pull(("item",)), [KEYS])
    with closing(channel), server_process(address):
        assert asked.result(WAIT).arrays[0].tolist() == [[1.0] * 4, [4.0] * 4]
        channel.request(Push(("item",), 1, 0), [KEYS, ROWS]).result(WAIT)
        assert waiting.result(WAIT).arrays[0].tolist() == [[2.0] * 4, [5.0] * 4]
        assert channel.retries >= 1


def test_nothing_starts_when_the_modules_are_imported() -> None:
    code = (
        "import threading, os; import fedps.net.channel, fedps.net.inprocess, fedps.net.shards;"
        "print(threading.active_count(), len(os.listdir('/proc/self/task')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=WAIT)
    threads, _tasks = map(int, done.stdout.split())
    assert threads == 1
