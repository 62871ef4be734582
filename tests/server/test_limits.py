"""R12: each limit, hit by one client, is told clearly and leaves the others served."""

import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from fedps.access import roster
from fedps.server.server import ParameterServer
from fedps.types import NO_KEYS, Rule, TableSpec
from fedps.wire.frame import Limits, encode
from fedps.wire.messages import Barrier, Done, Hello, Join, Leave, Message, Pull, Push, Refused, Seed, Values
from tests.conftest import MakeJob
from tests.events.kept import into
from tests.greeting import hello
from tests.memory import allocating_less_than
from tests.server.callers import BIAS, LIMITS, ROWS, Caller, Stranger, ones, push
from tests.wire.frames import pack

NO_CHANGE = np.zeros((1, 3), np.float32)
MANY_KEYS: NDArray[np.int64] = np.arange(51)
TALL = np.zeros((1, 60_000), np.float32)


def make_server(make_job: MakeJob, folder: Path, mode: str = "geo", limits: Limits | None = None) -> ParameterServer:
    """Return a server of two clients; `limits` take the place of the job's."""
    server = ParameterServer(make_job(sync_mode=mode), 0, folder / "run", lambda event: None, limits)
    server.members.expect(2)
    return server


def is_refused(answer: Message, kind: str, said: str) -> bool:
    assert isinstance(answer, Refused), answer
    assert (answer.kind, said in answer.reason) == (kind, True), answer
    return True


def is_served(server: ParameterServer, *others: Caller) -> bool:
    """Let an honest client push and pull."""
    good = Caller(server, "good").join()
    for other in others:
        other.ask(Leave())  # in a window the others would wait for it
    before = good.rows(3)[0][0]
    assert isinstance(good.ask(*push(1, [3], ones(1), clock=server.clock)), Done)
    return good.rows(3) == [[before + 1] * 4]


def many(tables: int) -> tuple[TableSpec, ...]:
    return tuple(TableSpec(f"t{n}", "sparse", (10, 1)) for n in range(tables))


DECLARED = {
    "tables": (many(1025), "too_large", "1025 tables pass the limit of 1024"),
    "address space": (
        tuple(TableSpec(f"t{n}", "sparse", (2**62, 1 << 24)) for n in range(1000)),
        "too_large",
        "over the limit of 35184372088832 bytes a server",
    ),
    "floats of a row": ((TableSpec("t", "sparse", (100, 2**27)),), "mismatch", "over the limit of"),
    "floats that wrap to 0": ((TableSpec("t", "dense", (2**32, 2**32)),), "too_large", "bytes a server"),
    "dimensions": ((TableSpec("t", "dense", (2**62,) * 100_000),), "mismatch", "8 dimensions at most"),
    "rules": (
        tuple(TableSpec(f"t{n}", "sparse", (10, 1), Rule("adam", beta1=n / 100)) for n in range(17)),
        "too_large",
        "more than 16 different rules",
    ),
    "names": ((TableSpec("t" * 300, "sparse", (10, 1)),), "malformed", "256 printable characters are allowed"),
    "names of two lines": ((TableSpec("t\nu", "sparse", (10, 1)),), "malformed", "printable"),
    "a table twice": ((ROWS, ROWS), "malformed", "declared twice"),
    "rate": ((TableSpec("t", "sparse", (9, 1), Rule("sgd", 1e300)),), "mismatch", "learning_rate is at most 1e+06"),
    "epsilon": ((TableSpec("t", "sparse", (9, 1), Rule("adagrad", epsilon=0.0)),), "mismatch", "epsilon at least"),
}


@pytest.mark.parametrize("name", DECLARED)
def test_a_declaration_over_a_limit_is_refused_and_declares_nothing(
    name: str, make_job: MakeJob, tmp_path: Path
) -> None:
    tables, kind, said = DECLARED[name]
    server = make_server(make_job, tmp_path)
    bad = Caller(server, "bad")
    assert is_refused(bad.ask(Join(tables, 0)), kind, said)
    assert server.shard.store.names() == []
    assert is_served(server, Caller(server, "third").join())


FRAME_LIMITS = {
    "message": (replace(LIMITS, message_bytes=200_000), encode(5, Seed("bias"), [TALL]), "200000 bytes"),
    "header": (LIMITS, pack([1, {"type": "Seed", "table": "t" * (2 << 20)}, []]), "a header of"),
    "arrays": (replace(LIMITS, arrays=4), encode(5, Leave(), [NO_CHANGE] * 5), "limit of 4"),
    "rows": (replace(LIMITS, rows=50), encode(5, Pull(("rows",)), [MANY_KEYS]), "limit of 50 rows"),
    "4 GiB": (LIMITS, pack([5, {"type": "Seed", "table": "bias"}, [["f", [1, 2**30]]]]), "longer than any message"),
}


@pytest.mark.parametrize("name", FRAME_LIMITS)
def test_a_message_over_a_limit_is_refused_and_allocates_nothing(name: str, make_job: MakeJob, tmp_path: Path) -> None:
    limits, frame, said = FRAME_LIMITS[name]
    server = make_server(make_job, tmp_path, limits=limits)
    bad = Caller(server, "bad").join()
    with allocating_less_than(1 << 20):
        bad.connection.received(frame)
    answer = bad.replies[-1].message
    assert isinstance(answer, Refused) and said in answer.reason
    assert answer.kind == ("malformed" if name in ("header", "4 GiB") else "too_large")
    assert is_served(server, bad)


def test_an_answer_no_message_could_carry_is_refused_before_it_is_made(make_job: MakeJob, tmp_path: Path) -> None:
    server = make_server(make_job, tmp_path)
    wide = TableSpec("rows", "sparse", (2**20, 2**14), Rule("add"))
    bad, good = Caller(server, "bad").join(wide, BIAS), Caller(server, "good").join(wide, BIAS)
    assert is_refused(bad.ask(Pull(("rows",)), np.arange(2**17)), "too_large", "an answer of 8589934592 bytes")
    assert isinstance(good.ask(Pull(("rows",)), np.arange(100)), Values)


def part(number: int, parts: int, keys: object, sequence: int = 1) -> tuple[object, ...]:
    keys = np.asarray(keys, np.int64)
    if number == 0:
        return Push(("rows", "bias"), sequence, 0, 1.0, 0, parts), keys, ones(len(keys)), NO_KEYS, NO_CHANGE
    return Push(("rows",), sequence, 0, 1.0, number, parts), keys, ones(len(keys))


def test_a_push_that_never_ends_hits_a_limit_of_bytes(make_job: MakeJob, tmp_path: Path) -> None:
    server = make_server(make_job, tmp_path, limits=replace(LIMITS, held_bytes=10_000))
    large = TableSpec("rows", "sparse", (10**6, 4), Rule("add"))
    bad = Caller(server, "bad").join(large, BIAS)
    answers = [bad.ask(*part(k, 1 << 16, np.arange(100) + 100 * k)) for k in range(5)]  # type: ignore[arg-type]
    assert [type(a) for a in answers[:4]] == [Done] * 4
    assert is_refused(answers[4], "too_large", "12012 bytes of a push that is not whole pass the limit of 10000 bytes")
    assert is_refused(bad.ask(*part(5, 1 << 16, [501])), "malformed", "part 0 is due")  # type: ignore[arg-type]


BAD_PARTS = {
    "too many": (part(0, 1_000_000, [1]), "too_large", "1000000 parts pass the limit of 65536"),
    "a negative number": (part(-1, 2, [1]), "malformed", "part -1 of 2"),
    "none at all": (part(0, 0, [1]), "malformed", "part 0 of 0"),
}


@pytest.mark.parametrize("name", BAD_PARTS)
def test_parts_that_make_no_push_are_refused(name: str, make_job: MakeJob, tmp_path: Path) -> None:
    said, kind, reason = BAD_PARTS[name]
    server = make_server(make_job, tmp_path)
    bad = Caller(server, "bad").join()
    assert is_refused(bad.ask(*said), kind, reason)  # type: ignore[arg-type]
    assert is_served(server, bad)


LATER_PARTS = {
    "empty": (part(1, 3, []), "bad_keys"),
    "behind": (part(1, 3, [3]), "bad_keys"),
    "the same again": (part(1, 3, [7]), "bad_keys"),
    "one left out": (part(2, 3, [8]), "malformed"),
    "of another count": (part(1, 2, [8]), "malformed"),
    "at another clock": ((Push(("rows",), 1, 1, 1.0, 1, 3), np.array([8]), ones(1)), "malformed"),
    "of another weight": ((Push(("rows",), 1, 0, 2.0, 1, 3), np.array([8]), ones(1)), "malformed"),
    "of another rate": ((Push(("rows",), 1, 0, 1.0, 1, 3, rate=0.5), np.array([8]), ones(1)), "malformed"),
    "of another table": ((Push(("bias",), 1, 0, 1.0, 1, 3), NO_KEYS, NO_CHANGE), "bad_keys"),
}


@pytest.mark.parametrize("name", LATER_PARTS)
def test_a_part_that_does_not_follow_is_refused_and_the_push_may_be_said_again(
    name: str, make_job: MakeJob, tmp_path: Path
) -> None:
    later, kind = LATER_PARTS[name]
    server = make_server(make_job, tmp_path, "async")
    bad = Caller(server, "bad").join()
    assert isinstance(bad.ask(*part(0, 3, [5, 7])), Done)  # type: ignore[arg-type]
    answer = bad.ask(*later)  # type: ignore[arg-type]
    assert isinstance(answer, Refused) and answer.kind == kind, answer
    assert bad.rows(5, 8) == [[1.0] * 4] * 2
    for number, keys in enumerate(([5, 7], [8], [9])):
        assert isinstance(bad.ask(*part(number, 3, keys)), Done)  # type: ignore[arg-type]
        refused = bad.ask(Pull(("rows",)), np.array([100]))  # in between: neither good nor bad pulls disturb it
        assert isinstance(refused, Refused)
    assert bad.rows(5, 7, 8, 9, 10) == [[2.0] * 4] * 4 + [[1.0] * 4]


def test_pulls_that_wait_are_bounded_by_number_and_by_bytes(make_job: MakeJob, tmp_path: Path) -> None:
    for limits, room, said in (
        (replace(LIMITS, waiting=5), 5, "5 pulls"),
        (replace(LIMITS, held_bytes=100_000), 39, "100000 bytes"),
    ):
        server = make_server(make_job, tmp_path, limits=limits)
        bad = Caller(server, "bad").join()
        keys = np.arange(64)  # 512 bytes asked for, 1024 to be answered, and 1024 for what else it costs
        tickets = [bad.send(Pull(("rows",), after=0), keys) for _ in range(room + 1)]
        assert [bad.answers(t) for t in tickets[:-1]] == [[]] * room
        assert is_refused(bad.answers(tickets[-1])[0], "too_large", said)
        assert is_refused(bad.ask(Pull(("rows",), after=3), keys), "stale", "after 3 is too far ahead of clock 0")
        good = Caller(server, "good").join()
        for caller in (good, bad):
            caller.ask(*push(1, [3], ones(1)))
        assert all(isinstance(bad.answers(t)[0], Values) for t in tickets[:-1])
        assert bad.answers(bad.send(Pull(("rows",), after=1), keys)) == []  # room again


def test_pulls_of_a_closed_connection_are_dropped(make_job: MakeJob, tmp_path: Path) -> None:
    server = make_server(make_job, tmp_path)
    for _ in range(50):
        bad = Caller(server, "bad").join()
        for _ in range(100):
            bad.send(Pull(("rows",), after=2), np.arange(100))
        bad.connection.closed()
    assert (server._budget.used, server.shard._waiting) == (0, {})
    assert server.roster.connected == [] and not server.roster._strangers


def test_a_client_has_one_connection_and_one_request_at_a_barrier(make_job: MakeJob, tmp_path: Path) -> None:
    server = make_server(make_job, tmp_path)
    first = Caller(server, "bad").join()
    second = Caller(server, "bad").join()  # the same process: the first must have broken
    assert first.hung_up and not second.hung_up
    assert server.roster.connected == ["bad"]
    assert second.answers(second.send(Barrier(1, "trained"))) == []
    for _ in range(100):
        assert is_refused(second.ask(Barrier(1, "trained")), "order", "stands at a barrier")
    assert len(server.barriers._standing) == 1
    good = Caller(server, "good").join()
    assert isinstance(good.ask(Barrier(1, "trained")), Done)


@pytest.mark.parametrize(
    ("epoch", "stage"), [(0, "trained"), (-1, "trained"), (2, "trained"), (2**63, "evaluated"), (1, "done"), (1, "")]
)
def test_a_barrier_the_job_does_not_have_is_refused(epoch: int, stage: str, make_job: MakeJob, tmp_path: Path) -> None:
    server = make_server(make_job, tmp_path)
    bad = Caller(server, "bad").join()
    assert is_refused(bad.ask(Barrier(epoch, stage)), "malformed", "epochs run from 1 to 1")


def test_pushes_ahead_are_bounded(make_job: MakeJob, tmp_path: Path) -> None:
    server = make_server(make_job, tmp_path)
    bad = Caller(server, "bad").join()
    Caller(server, "good").join()
    for clock in (0, 1, 2):
        assert isinstance(bad.ask(*push(clock + 1, [3], ones(1), clock)), Done)
    for clock in (3, 2**63 - 1, 2**64 - 1):
        assert is_refused(bad.ask(*push(4, [3], ones(1), clock)), "stale", "too far ahead of 0")


def test_who_does_not_say_who_it_is_is_hung_up_on(make_job: MakeJob, tmp_path: Path) -> None:
    server = make_server(make_job, tmp_path)
    silent, junk, known = Stranger(server), Stranger(server), Caller(server, "good").join()
    junk.connection.received(b"junk")
    now = time.monotonic()
    server.tick(now + 9)
    assert not silent.hung_up
    server.tick(now + 11)
    assert (silent.hung_up, junk.hung_up, known.hung_up) == (True, True, False)
    silent.connection.received(encode(1, hello(server.job, "late")))
    assert silent.replies == [] and "late" not in server.roster.connected


def test_names_of_any_length_do_not_fill_events(make_job: MakeJob, tmp_path: Path) -> None:
    events: list[dict[str, object]] = []
    server = ParameterServer(make_job(sync_mode="geo"), 0, tmp_path / "run", into(events))
    stranger = Stranger(server)
    assert is_refused(stranger.ask(hello(server.job, "x" * 10**5)), "malformed", "1 to 256 characters")
    assert is_refused(stranger.ask(Hello("y" * 10**5, "x", "p", 1)), "other_job", "check the address")
    caller = Caller(server, "bad").join()
    caller.ask(Pull(("z" * 10**5,)), NO_KEYS)
    assert [e["event"] for e in events] == ["refused", "refused", "joined", "refused"]
    assert all(len(str(e)) < 1500 for e in events)


def test_members_and_remembered_names_are_bounded(
    make_job: MakeJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(roster, "MAX_MEMBERS", 5)
    server = make_server(make_job, tmp_path)
    callers = [Caller(server, str(n)).join() for n in range(5)]
    assert is_refused(Caller(server, "5").ask(Join((ROWS, BIAS), 0)), "too_large", "5 clients take part")
    callers[0].ask(Leave())
    for n in range(20):
        Caller(server, f"more {n}").join().ask(Leave())
    assert len(server.members.left) == 5
    assert len(server.members) == 4


def test_invented_names_that_greet_and_never_join_fill_no_server(make_job: MakeJob, tmp_path: Path) -> None:
    server = make_server(make_job, tmp_path)
    good = Caller(server, "good").join()
    invented = [Caller(server, f"invented {n}") for n in range(4096)]
    other = Caller(server, "other").join()
    assert len(server.roster.connected) < 200 and invented[0].hung_up
    server.tick(time.monotonic() + 1000)
    assert all(caller.hung_up for caller in invented)
    assert not good.hung_up and not other.hung_up, "who takes part is not hung up on for being quiet"
