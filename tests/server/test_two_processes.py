"""Two processes of one client: the newer takes the older one's place, and is served."""

from contextlib import closing

import numpy as np
import pytest

from fedps.errors import RefusedError
from fedps.net.channel import Channel
from fedps.net.inprocess import LocalChannel, LocalServer
from fedps.server.server import ParameterServer
from fedps.wire.messages import Done, Join, Leave, Pull
from tests.greeting import hello
from tests.net.echo import LIMITS, served
from tests.server.callers import BIAS, ROWS, Caller, Stranger, is_refused, ones, push

WAIT = 60.0  # seconds; far beyond what any of this takes


def test_a_newer_process_of_a_client_takes_its_place_and_the_older_is_told_to_end(server: ParameterServer) -> None:
    old, b = Caller(server, "a", "old").join(), Caller(server, "b").join()
    new = Caller(server, "a", "new").join()
    told = old.replies[-1]
    assert (told.ticket, old.hung_up) == (0, True)
    assert is_refused(told.message, "superseded")
    for caller in (new, b):
        assert isinstance(caller.ask(*push(1, [3], ones(1))), Done)
    assert server.clock == 1, "the older is not waited for"


def test_two_living_processes_of_one_client_do_not_take_turns(server: ParameterServer) -> None:
    Caller(server, "a", "old").join()
    new = Caller(server, "a", "new").join()
    for _ in range(3):
        again = Stranger(server)
        assert is_refused(again.ask(hello(server.job, "a", "old")), "superseded")
        assert is_refused(again.ask(Leave()), "order")
    assert not new.hung_up
    new.connection.closed()
    assert is_refused(Stranger(server).ask(hello(server.job, "a", "old")), "superseded"), "nor while the newer is away"


def test_the_older_process_fails_with_the_reason_and_the_newer_is_served(server: ParameterServer) -> None:
    def over_sockets(address: str, instance: str) -> Channel:
        return Channel(address, hello(server.job, "a", instance), LIMITS, patience=WAIT)

    with served(server) as address, closing(over_sockets(address, "old")) as old:
        assert old.request(Join((ROWS, BIAS), 0)).result(WAIT).message == Done()
        waiting = old.request(Pull(("rows",), after=0), [np.array([3])])
        with closing(over_sockets(address, "new")) as new:
            assert new.request(Join((ROWS, BIAS), 0)).result(WAIT).message == Done()
            for request in (waiting, old.request(Leave())):
                with pytest.raises(RefusedError, match="a newer process speaks for client 'a'"):
                    request.result(WAIT)
            assert new.retries == 0


def test_the_same_holds_within_one_process(server: ParameterServer) -> None:
    with closing(LocalServer(server)) as local:
        old = LocalChannel(local, hello(server.job, "a", "old"), LIMITS)
        assert old.request(Join((ROWS, BIAS), 0)).result(WAIT).message == Done()
        waiting = old.request(Pull(("rows",), after=0), [np.array([3])])
        new = LocalChannel(local, hello(server.job, "a", "new"), LIMITS)
        assert new.request(Join((ROWS, BIAS), 0)).result(WAIT).message == Done()
        for request in (waiting, old.request(Leave())):
            with pytest.raises(RefusedError, match="a newer process speaks for client 'a'"):
                request.result(WAIT)
