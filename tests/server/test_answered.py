"""What a server has answered is on its disk, also where that is full for a while."""

import time

import pytest

from fedps.errors import DataError
from fedps.server import durable
from fedps.server.beside import at_once
from fedps.wire.messages import Census, Counted, Done, Join, Leave, Refused
from tests.server.callers import BIAS, ROWS, Caller, ones, push
from tests.server.homes import Home, tables
from tests.server.test_slow_saves import Slow


def test_a_push_is_answered_once_it_is_on_disk(home: Home) -> None:
    server = home.server()
    a, b = (Caller(server, name).join() for name in "ab")
    slow = server.shard.beside = Slow()
    ticket = a.send(*push(1, [3], ones(1)))
    assert a.rows(3) == [[2.0] * 4] and not a.answers(ticket)
    later = b.send(*push(1, [3], ones(1)))
    slow.end_all()
    assert a.answers(ticket) == b.answers(later) == [Done()]


@pytest.mark.parametrize("home", [{"sync_mode": "sync"}], indirect=True)
def test_a_push_of_a_window_is_answered_once_that_is_merged_and_on_disk(home: Home) -> None:
    server = home.server()
    a, b = (Caller(server, name).join() for name in "ab")
    slow = server.shard.beside = Slow()
    first = a.send(*push(1, [3], ones(1)))
    slow.end_all()
    assert not a.answers(first)
    a.connection.closed()
    server.shard.beside = at_once
    back = Caller(server, "a", "p").join()
    server.shard.beside = slow
    again = back.send(*push(1, [3], ones(1)))  # what is unanswered is said again
    second = b.send(*push(1, [5], ones(1)))
    assert not back.answers(again)
    slow.end_all()
    assert back.answers(again) == b.answers(second) == [Done(1)]
    assert not a.answers(first)


def test_a_full_disk_is_told_and_all_goes_on_when_there_is_space(home: Home) -> None:
    server = home.server()
    a = Caller(server, "a").join()
    assert isinstance(a.ask(*push(1, [3], ones(1))), Done)
    home.fill()
    ticket = a.send(*push(2, [3], ones(1)))
    assert not a.answers(ticket)
    refused = a.ask(*push(3, [3], ones(1)))
    assert isinstance(refused, Refused) and refused.kind == "no_space"
    assert a.rows(3) == [[3.0] * 4], "reads go on"
    (note,) = [e["note"] for e in home.events if e["event"] == "note"]
    assert "cannot be written to disk" in note and "free space" in note
    home.empty()
    server.tick(time.monotonic() + 1)
    assert a.answers(ticket) == [Done()]
    assert isinstance(a.ask(*push(3, [3], ones(1))), Done)
    assert server.failure is None
    assert tables(home.server()) == tables(server)


def test_a_server_waits_for_its_disk_before_it_ends(home: Home) -> None:
    server = home.server()
    a, b = (Caller(server, name).join() for name in "ab")
    home.fill()
    tickets = [caller.send(Leave()) for caller in (a, b)]
    assert not server.over and not a.answers(tickets[0])
    home.empty()
    server.tick(time.monotonic() + 1)
    assert a.answers(tickets[0]) == b.answers(tickets[1]) == [Done()]
    assert server.over


def test_a_disk_that_stays_full_ends_the_server_and_nothing_answered_is_lost(home: Home) -> None:
    server = home.server()
    a = Caller(server, "a").join()
    assert isinstance(a.ask(*push(1, [3], ones(1))), Done)
    before = tables(server)
    home.fill()
    a.send(*push(2, [3], ones(1)))
    server.durable._failed_at = time.monotonic() - home.job.runner.step_timeout - 1
    server.tick(time.monotonic() + 1)
    with pytest.raises(DataError, match="could not be written"):
        server.close()
    home.empty()
    assert tables(home.server()) == before


def test_a_snapshot_that_cannot_be_written_is_tried_again_later(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(durable, "LEAST", 0)
    monkeypatch.setattr(durable, "GROWTH", 0)
    server = home.server()
    Caller(server, "a").join()
    home.fill(only="snapshot-")
    now = time.monotonic()
    for _ in range(5):
        server.tick(now)
    notes = [event["note"] for event in home.events if "note" in event]
    assert [note.partition(":")[0] for note in notes] == ["a snapshot of the tables cannot be written"]


def test_all_are_told_how_many_samples_they_have_once_that_is_on_disk(home: Home) -> None:
    server = home.server()
    a, b = Caller(server, "a"), Caller(server, "b")
    assert isinstance(a.ask(Join((ROWS, BIAS), 0, 10)), Done)
    slow = server.shard.beside = Slow()
    ticket = a.send(Census())
    b.send(Join((ROWS, BIAS), 0, 30))
    assert not a.answers(ticket)
    slow.end_all()
    assert a.answers(ticket) == [Counted(20.0)]
