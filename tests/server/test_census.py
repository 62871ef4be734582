"""How many samples members have on average: who is told, when, and what cannot be said."""

from collections.abc import Callable
from pathlib import Path

import pytest

from fedps.server.server import ParameterServer
from fedps.types import ClientId
from fedps.wire.messages import Census, Counted, Done, Join, Leave, Refused
from tests.conftest import MakeJob
from tests.server.callers import BIAS, ROWS, Caller, Stranger

MakeServer = Callable[[int], ParameterServer]


@pytest.fixture
def make_server(make_job: MakeJob, tmp_path: Path) -> MakeServer:
    def make(clients: int) -> ParameterServer:
        server = ParameterServer(make_job(sync_mode="sync"), 0, tmp_path / "run", lambda event: None)
        server.members.expected = clients
        return server

    return make


def joined(server: ParameterServer, client: str, samples: int = 0) -> Caller:
    caller = Caller(server, client)
    assert isinstance(caller.ask(Join((ROWS, BIAS), 0, samples)), Done)
    return caller


def test_all_are_told_the_same_mean_once_all_have_come(make_server: MakeServer) -> None:
    server = make_server(3)
    early = [joined(server, "a", 10), joined(server, "b", 20)]
    tickets = [caller.send(Census()) for caller in early]
    assert not any(caller.answers(ticket) for caller, ticket in zip(early, tickets, strict=True))
    last = joined(server, "c", 60)
    assert last.ask(Census()) == Counted(30.0)
    assert [caller.answers(ticket) for caller, ticket in zip(early, tickets, strict=True)] == [[Counted(30.0)]] * 2


def test_who_left_again_counts_and_who_says_nothing_does_not(make_server: MakeServer) -> None:
    server = make_server(3)
    joined(server, "a", 10).ask(Leave())
    joined(server, "b")
    assert joined(server, "c", 30).ask(Census()) == Counted(20.0)


def test_nobody_said_anything(make_server: MakeServer) -> None:
    server = make_server(1)
    assert joined(server, "a").ask(Census()) == Counted(0.0)


def test_the_start_deadline_ends_the_wait(make_server: MakeServer) -> None:
    server = make_server(3)
    caller = joined(server, "a", 10)
    ticket = caller.send(Census())
    server.tick(1e12)
    assert caller.answers(ticket) == [Counted(10.0)]


def test_a_client_whose_connection_broke_asks_again(make_server: MakeServer) -> None:
    server = make_server(2)
    broken = joined(server, "a", 10)
    ticket = broken.send(Census())
    broken.connection.closed()
    back = joined(server, "a", 10)
    again = back.send(Census())
    joined(server, "b", 30)
    assert back.answers(again) == [Counted(20.0)]
    assert not broken.answers(ticket)


def test_only_members_may_ask(make_server: MakeServer) -> None:
    server = make_server(3)
    left, lost = joined(server, "a", 10), joined(server, "b", 10)
    left.ask(Leave())
    server.members.leave(ClientId("b"))
    for caller in (Stranger(server), Caller(server, "c"), left, lost):
        refused = caller.ask(Census())
        assert isinstance(refused, Refused)
        assert refused.kind == "order"


def test_who_comes_later_is_told_what_the_others_were(make_server: MakeServer) -> None:
    server = make_server(2)
    joined(server, "a", 10)
    assert joined(server, "b", 30).ask(Census()) == Counted(20.0)
    assert joined(server, "c", 10_000).ask(Census()) == Counted(20.0)


def test_one_that_claims_too_many_counts_with_sixteen_medians(make_server: MakeServer) -> None:
    server = make_server(4)
    for client in "abc":
        joined(server, client, 100)
    assert joined(server, "liar", 1 << 40).ask(Census()) == Counted((3 * 100 + 16 * 100) / 4)


@pytest.mark.parametrize("samples", [-1, 1 << 41])
def test_samples_that_nobody_has_are_refused(samples: int, make_server: MakeServer) -> None:
    refused = Caller(make_server(3), "a").ask(Join((ROWS, BIAS), 0, samples))
    assert isinstance(refused, Refused)
    assert refused.kind == "malformed"
    assert f"samples {samples}" in refused.reason
