"""R17: a recorded session that is played back, whole or by message, changes nothing, and is counted."""

import random
from pathlib import Path

import numpy as np
import pytest

from fedps.server.server import ParameterServer
from fedps.types import NO_KEYS
from fedps.wire.messages import Barrier, Done, Join, Leave, Pull, Push, Refused, Seed
from tests.conftest import MakeJob
from tests.greeting import hello
from tests.server.callers import BIAS, ROWS, Caller, Stranger, is_refused, ones, push, state
from tests.server.homes import Home, tables

BIAS_CHANGE = np.ones((1, 3), np.float32)


class Recorded(Stranger):
    """A client whose every word is overheard.

    Attributes:
        heard: its frames.
    """

    def __init__(self, server: ParameterServer) -> None:
        super().__init__(server)
        self.heard, received = list[bytes](), self.connection.received

        def record(data: bytes) -> None:
            self.heard.append(data)
            received(data)

        self.connection.received = record  # type: ignore[method-assign]


def begin(server: ParameterServer, instance: str = "p") -> Recorded:
    """Let a client's process take part."""
    client = Recorded(server)
    client.ask(hello(server.job, "good", instance))
    client.ask(Join((ROWS, BIAS), 0))
    client.ask(Seed("bias"), np.zeros((1, 3), np.float32))
    return client


def live(server: ParameterServer) -> Recorded:
    """Live a client's whole life: pushes whole and in parts, pulls, a barrier, leave."""
    client, rng = begin(server), np.random.default_rng(1)
    for sequence in range(1, 21):
        keys = np.unique(rng.integers(0, 100, 10))
        clock = server.clock
        change = rng.normal(size=(len(keys), 4)).astype(np.float32)
        client.ask(Push(("rows", "bias"), sequence, clock, 1.0, 0, 2), keys[:3], change[:3], NO_KEYS, BIAS_CHANGE)
        assert isinstance(client.ask(Push(("rows",), sequence, clock, 1.0, 1, 2), keys[3:], change[3:]), Done)
        client.ask(Pull(("rows",)), keys)
    client.send(Barrier(1, "trained"))
    client.ask(Leave())
    return client


def play(server: ParameterServer, *frames: bytes) -> Stranger:
    """Say recorded frames on a connection of one's own."""
    stranger = Stranger(server)
    for frame in frames:
        stranger.connection.received(frame)
    return stranger


@pytest.fixture(params=["async", "sync", "geo"])
def server(request: pytest.FixtureRequest, make_job: MakeJob, tmp_path: Path) -> ParameterServer:
    server = ParameterServer(make_job(sync_mode=request.param), 0, tmp_path / "run", lambda event: None)
    server.members.expect(1)
    return server


def test_a_session_played_back_whole_applies_no_push_and_is_counted(server: ParameterServer) -> None:
    heard = live(server).heard
    before, clock = state(server), server.clock
    for number in range(1, 6):
        again = play(server, *heard)
        assert (state(server), server.clock) == (before, clock)
        assert server.repeats == 20 * number, "those that were whole"
        again.connection.closed()


def test_a_session_played_back_by_message_applies_no_push(server: ParameterServer) -> None:
    heard = live(server).heard
    before, clock = state(server), server.clock
    for frame in heard[1:]:
        alone = play(server, frame)  # a connection that has not greeted
        assert [type(reply.message) for reply in alone.replies] == [Refused]
        greeted = play(server, *heard[:2], frame)
        assert (state(server), server.clock) == (before, clock)
        greeted.connection.closed()
        alone.connection.closed()
    assert server.refusals.total >= len(heard) - 1


def test_pieces_in_any_order_beside_the_client_itself_apply_no_push(server: ParameterServer) -> None:
    """Who overhears a client in the clear can end its connection in its name, and change nothing; it comes back, and goes on."""
    rng, heard = random.Random(17), live(server).heard
    good = Caller(server, "good").join()
    for sequence in range(21, 41):
        before = state(server)
        play(server, *heard[:2], *rng.sample(heard[2:-1], 10)).connection.closed()
        assert state(server) == before
        good = Caller(server, "good").join()
        assert isinstance(good.ask(*push(sequence, [1], np.ones((1, 4), np.float32), server.clock)), Done)
        assert state(server) != before


def test_a_session_of_an_older_process_is_refused(server: ParameterServer) -> None:
    heard = live(server).heard
    Caller(server, "good", "another process").join()
    answer = play(server, *heard).replies[0].message
    assert isinstance(answer, Refused) and answer.kind == "superseded"


def test_no_session_of_before_a_run_was_taken_back_is_heard_again(home: Home) -> None:
    server = home.server()
    first = begin(server)
    for sequence in (1, 2):
        assert isinstance(first.ask(*push(sequence, [1], ones(1))), Done)
    second = begin(server, "p2")  # behind the last push that counts
    assert isinstance(second.ask(*push(3, [1], ones(1))), Done)
    cuts: list[dict[str, int] | None] = [{"good": 1}, None]  # also where a server dies before anybody has come
    for cut in cuts:
        server = home.server(cut)
        there = tables(server)
        for said in (first, second):
            assert is_refused(play(server, *said.heard).replies[0].message, "superseded")
        assert tables(server) == there
    again = Caller(server, "good", "p3").join()
    assert isinstance(again.ask(*push(2, [1], ones(1))), Done), "who goes on from there is served"
