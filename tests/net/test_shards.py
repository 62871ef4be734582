"""Tables over many servers: every row comes from its shard and lands in its place."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs
from numpy.typing import NDArray

from fedps.errors import LostError, RefusedError, WireError
from fedps.net.channel import Channel
from fedps.net.inprocess import LocalChannel, LocalServer
from fedps.net.shards import Shards
from fedps.types import NO_KEYS, Identity, Rows, TableSpec
from fedps.wire.frame import decode, encode
from fedps.wire.messages import Barrier, Done, Join, Leave, Message, Pull, Push, Values
from fedps.wire.pieces import PART_BYTES, PART_ROWS
from tests.net.echo import HELLO, LIMITS, EchoConnection, EchoServer, Send, served

ITEM, USER = TableSpec("item", "sparse", (100_000, 4)), TableSpec("user", "sparse", (1000, 2))
BIAS, WEIGHT = TableSpec("bias", "dense", (3,)), TableSpec("weight", "dense", (5, 2))
SPECS = (ITEM, USER, BIAS, WEIGHT)
WAIT = 20.0


class House:
    """Some shards in this process, and a client of them."""

    def __init__(self, stack: ExitStack, servers: Sequence[EchoServer], specs: Sequence[TableSpec] = SPECS) -> None:
        self.servers = servers
        locals_ = [stack.enter_context(closing(LocalServer(server))) for server in servers]
        self.shards = stack.enter_context(closing(Shards([LocalChannel(s, HELLO, LIMITS) for s in locals_], specs)))

    def heard(self, kind: type[Message]) -> list[list[Message]]:
        """Return the messages of a kind, by shard."""
        return [[m for m in server.heard if type(m) is kind] for server in self.servers]


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as opened:
        yield opened


@pytest.fixture(params=[1, 3])
def house(request: pytest.FixtureRequest, stack: ExitStack) -> House:
    """One shard, then three, joined."""
    found = House(stack, [EchoServer(k, request.param) for k in range(request.param)])
    found.shards.join()
    return found


def by_key(keys: NDArray[np.int64], dim: int) -> NDArray[np.float32]:
    return np.repeat(keys.astype(np.float32)[:, None], dim, axis=1)


def test_join_declares_each_shards_own_tables_from_the_furthest_clock(stack: ExitStack) -> None:
    house = House(stack, [EchoServer(0, 2, clock=4), EchoServer(1, 2, clock=7)])
    assert house.shards.join() == 7
    assert house.heard(Join) == [[Join((ITEM, USER, WEIGHT), 7)], [Join((ITEM, USER, BIAS), 7)]]


def test_rows_come_in_the_order_of_their_keys(house: House) -> None:
    items, users = np.array([0, 1, 2, 3, 5, 8, 13, 99_999]), np.array([3, 6, 9])
    house.shards.seed({"bias": np.array([[1, 2, 3]], np.float32)})
    got = house.shards.pull({"item": items, "bias": NO_KEYS, "user": users}).result(WAIT)
    assert np.array_equal(got["item"], by_key(items, 4))
    assert np.array_equal(got["user"], by_key(users, 2))
    assert got["bias"].tolist() == [[1, 2, 3]]
    assert {a.dtype for a in got.values()} == {np.dtype(np.float32)}


@given(st.sets(st.integers(0, 99_999), max_size=40), st.sets(st.integers(0, 999), max_size=40), st.integers(1, 4))
def test_what_is_pushed_is_pulled(items: set[int], users: set[int], count: int) -> None:
    wanted = {"item": np.array(sorted(items), np.int64), "user": np.array(sorted(users), np.int64), "weight": NO_KEYS}
    rng = np.random.default_rng(0)
    shapes = {"item": (len(items), 4), "user": (len(users), 2), "weight": (1, 10)}
    changes = {n: Rows(k, rng.integers(-9, 9, shapes[n]).astype(np.float32)) for n, k in wanted.items()}
    with ExitStack() as stack:
        house = House(stack, [EchoServer(k, count) for k in range(count)])
        house.shards.join()
        before = house.shards.pull(wanted).result(WAIT)
        assert house.shards.push(changes, 0).result(WAIT) == Done(1)
        after = house.shards.pull(wanted).result(WAIT)
    for name, change in changes.items():
        assert np.array_equal(after[name], before[name] + change.values)


@pytest.mark.parametrize("length", [PART_ROWS - 1, PART_ROWS, PART_ROWS + 1, 3 * PART_ROWS])
def test_a_large_pull_is_cut(stack: ExitStack, length: int) -> None:
    house = House(stack, [EchoServer()])
    house.shards.join()
    items, users = np.arange(length), np.arange(3)
    got = house.shards.pull({"item": items, "user": users, "bias": NO_KEYS}).result(WAIT)
    assert np.array_equal(got["item"], by_key(items, 4))
    assert np.array_equal(got["user"], by_key(users, 2))
    pulls = house.heard(Pull)[0]
    assert len(pulls) == -(-length // PART_ROWS)
    assert pulls[1:] == [Pull(("item",))] * (len(pulls) - 1)


def test_wide_rows_are_cut_by_their_bytes(stack: ExitStack) -> None:
    wide = TableSpec("wide", "sparse", (1000, 20_000))
    house = House(stack, [EchoServer()], [wide])
    house.shards.join()
    keys = np.arange(120)
    assert np.array_equal(house.shards.pull({"wide": keys}).result(WAIT)["wide"], by_key(keys, wide.dim))
    assert len(house.heard(Pull)[0]) == -(-len(keys) // (PART_BYTES // (4 * wide.dim + 8)))


def test_a_large_push_travels_as_parts_of_one_sequence(stack: ExitStack) -> None:
    house = House(stack, [EchoServer()])
    house.shards.join()
    keys = np.arange(2 * PART_ROWS + 5)
    house.shards.push({"item": Rows(keys, by_key(keys, 4))}, clock=0, weight=2.0).result(WAIT)
    assert house.heard(Push)[0] == [Push(("item",), 1, 0, 2.0, part, 3) for part in range(3)]
    assert np.array_equal(house.shards.pull({"item": keys}).result(WAIT)["item"], 2 * by_key(keys, 4))


def test_every_shard_gets_every_push(house: House) -> None:
    for clock in range(3):
        house.shards.push({"item": Rows(np.array([3]), np.ones((1, 4), np.float32))}, clock).result(WAIT)
    house.shards.push({}, 3).result(WAIT)
    for pushes in house.heard(Push):
        assert [(m.sequence, m.clock) for m in pushes if isinstance(m, Push)] == [(1, 0), (2, 1), (3, 2), (4, 3)]


def test_a_push_is_late_if_any_shard_says_so(house: House) -> None:
    assert house.shards.push({}, 0, weight=0.25).result(WAIT) == Done(1, late=True)


def test_the_furthest_clock_is_gone_on_from(stack: ExitStack) -> None:
    house = House(stack, [EchoServer(0, 2, clock=2), EchoServer(1, 2, clock=9)])
    house.shards.join()
    assert house.shards.barrier(1, "trained") == 9
    assert house.heard(Barrier) == [[Barrier(1, "trained")]] * 2
    assert house.shards.push({}, 9).result(WAIT).clock == 10
    house.shards.leave()
    assert house.heard(Leave) == [[Leave()]] * 2


def test_a_pull_waits_for_its_window_and_not_longer_than_told(house: House) -> None:
    ticket = house.shards.pull({"item": np.array([3])}, after=0)
    with pytest.raises(LostError, match=r"Pull was not answered within 0\.01 s"):
        ticket.result(0.01)
    house.shards.push({"item": Rows(np.array([3]), np.ones((1, 4), np.float32))}, 0)
    assert ticket.result(WAIT)["item"].tolist() == [[4] * 4]


def test_a_refusal_by_one_shard_is_raised(house: House) -> None:
    for server in house.servers[-1:]:
        del server.specs["item"]
    with pytest.raises(RefusedError, match="no table 'item'"):
        house.shards.pull({"item": np.arange(9)}).result(WAIT)


class WrongServer(EchoServer):
    """Answers one row too few."""

    def rows(self, table: str, keys: NDArray[np.int64]) -> NDArray[np.float32]:
        return super().rows(table, keys)[:-1]


def test_other_rows_than_were_asked_for_are_an_error(stack: ExitStack) -> None:
    house = House(stack, [WrongServer()])
    house.shards.join()
    for wanted in ({"item": np.arange(2)}, {"item": np.arange(2 * PART_ROWS)}, {"bias": NO_KEYS}):
        with pytest.raises(WireError, match="brought"):
            house.shards.pull(wanted).result(WAIT)


class RenamingServer(EchoServer):
    """Answers with right rows under another table's name."""

    def opened(self, send: Send, peer: str, identity: Identity | None = None) -> EchoConnection:
        def rename(data: bytes | None) -> None:
            assert data is not None
            frame = decode(data, LIMITS)
            renamed = Values(("other",)) if isinstance(frame.message, Values) else frame.message
            send(encode(frame.ticket, renamed, frame.arrays))

        return super().opened(rename, peer)


def test_rows_of_another_table_are_an_error(stack: ExitStack) -> None:
    house = House(stack, [RenamingServer()])
    house.shards.join()
    with pytest.raises(WireError, match=r"Pull of \('item',\) was answered by Values\(tables=\('other',\)"):
        house.shards.pull({"item": np.arange(2)}).result(WAIT)


def test_the_same_over_sockets(stack: ExitStack) -> None:
    addresses = [stack.enter_context(served(EchoServer(k, 2))) for k in range(2)]
    channels = [Channel(address, HELLO, LIMITS, WAIT) for address in addresses]
    shards = stack.enter_context(closing(Shards(channels, SPECS)))
    keys = np.arange(0, 60_000, 3)
    assert shards.join() == 0
    shards.push({"item": Rows(keys, by_key(keys, 4))}, 0).result(WAIT)
    assert np.array_equal(shards.pull({"item": keys}, after=0).result(WAIT)["item"], 2 * by_key(keys, 4))
    assert shards.bytes_sent > len(keys) * 16
    assert shards.bytes_received > len(keys) * 16
    assert shards.retries == 0


class AgingServer(EchoServer):
    """Says with each answer that it is one version older."""

    def opened(self, send: Send, peer: str, identity: Identity | None = None) -> EchoConnection:
        clocks = iter(range(10 * self.shard, 100))

        def age(data: bytes | None) -> None:
            assert data is not None
            frame = decode(data, LIMITS)
            told = frame.message
            message = structs.replace(told, clock=next(clocks)) if isinstance(told, Values) else told
            send(encode(frame.ticket, message, frame.arrays))

        return super().opened(age, peer)


def test_a_push_tells_each_shard_the_version_its_pull_came_from(stack: ExitStack) -> None:
    house = House(stack, [AgingServer(k, 2) for k in range(2)])
    house.shards.join()
    pulled = house.shards.pull({"item": np.arange(5 * PART_ROWS)})  # several answers a shard: the oldest counts
    pulled.result(WAIT)
    assert pulled.clocks == {0: 0, 1: 10}
    house.shards.push({"item": Rows(np.arange(2), np.zeros((2, 4), np.float32))}, pulled.clocks).result(WAIT)
    assert [[m.clock for m in heard if isinstance(m, Push)] for heard in house.heard(Push)] == [[0], [10]]
