"""What a snapshot sums up is all that a log had said: who is away, where clients may go back to, what is unsaved."""

import time

import pytest

from fedps.storage.epochs import is_whole
from fedps.wire.messages import Done
from tests.server.callers import Caller, ones, push
from tests.server.homes import Home, meet, train


def test_a_snapshot_knows_to_where_its_clients_may_have_to_go_back(home: Home) -> None:
    server = home.server()
    a, b = (Caller(server, name).join() for name in "ab")
    server.sum_up()
    for epoch in (1, 2):
        train(server, a, b, epoch, epoch)
        meet(epoch, a, b)
    turns = server.kept.turns
    train(server, a, b, 3, 3)
    server.sum_up()
    assert turns[0] < turns[1] < server.durable.log.position  # type: ignore[union-attr]
    assert home.server().kept.turns == turns


def test_what_was_trained_before_a_snapshot_is_saved_by_the_next_process_as_it_ends(home: Home) -> None:
    server = home.server()
    a, b = (Caller(server, name).join() for name in "ab")
    train(server, a, b, 1, 2)
    server.sum_up()
    home.server().finish()
    assert is_whole(home.folder / "model" / "1")


def test_clients_that_were_lost_may_still_come_back_to_the_next_process(home: Home) -> None:
    server = home.server()
    for name in "ab":
        Caller(server, name).join().connection.closed()
    server.tick(time.monotonic() + home.job.runner.reconnect_timeout + 1)
    assert set(server.members.lost) == {"a", "b"} and not server.over
    assert not home.server().over


@pytest.mark.parametrize("home", [{"sync_mode": "sync"}], indirect=True)
@pytest.mark.parametrize("summed_up", [False, True])
def test_who_did_not_come_in_time_is_not_waited_for_again(home: Home, summed_up: bool) -> None:
    server = home.server()
    a = Caller(server, "a").join()
    server.tick(time.monotonic() + home.job.runner.start_timeout + 1)
    assert isinstance(a.ask(*push(1, [1], ones(1))), Done)
    if summed_up:
        server.sum_up()
    a = Caller(home.server(), "a").join()
    assert isinstance(a.ask(*push(2, [1], ones(1), clock=1)), Done)


def test_a_process_that_took_over_may_still_lack_pushes_after_a_snapshot(home: Home) -> None:
    server = home.server()
    Caller(server, "b").join()
    assert isinstance(Caller(server, "a").join().ask(*push(1, [1], ones(1))), Done)
    Caller(server, "a", "next").join()
    server.sum_up()
    again = Caller(home.server(), "a", "next").join()
    assert isinstance(again.ask(*push(3, [1], ones(1))), Done)  # another server had 2
