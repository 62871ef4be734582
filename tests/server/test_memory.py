"""What clients may make a server keep in memory, one by one and together."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fedps.errors import RefusedError, TableError
from fedps.server import memory
from fedps.server.memory import Budget, Room, free_memory
from fedps.server.server import ParameterServer
from fedps.types import NO_KEYS, Bounds, ClientId, Init, Rule, TableSpec
from fedps.wire.frame import Limits
from fedps.wire.messages import Done, Join, Leave, Message, Pull, Push, Refused, Values
from tests.conftest import MakeJob
from tests.server.callers import BIAS, LIMITS, ROWS, Caller, ones, push, state
from tests.server.homes import Home

MIB = 1 << 20
HUGE = TableSpec("rows", "sparse", (2**62, 256), Rule("adam"), Init("constant", 1.0))
NO_CHANGE = np.zeros((1, 3), np.float32)


def test_a_budget_bounds_each_and_all() -> None:
    budget = Budget(10, 25)
    budget.keep("a", 10, "parts")
    with pytest.raises(RefusedError, match="11 bytes of parts pass the limit of 10 bytes"):
        budget.keep("a", 11, "parts")
    budget.keep("b", 10, "parts")
    with pytest.raises(RefusedError, match="6 bytes of parts, and 20 bytes kept for others"):
        budget.keep("c", 6, "parts")
    assert budget.used == 20
    budget.keep("a", 4, "parts")
    budget.keep("c", 6, "parts")
    for owner in "abc":
        budget.keep(owner, 0, "")
    assert budget.used == 0


def test_rows_are_made_as_long_as_memory_is_really_free(monkeypatch: pytest.MonkeyPatch) -> None:
    free = [800 * MIB]
    monkeypatch.setattr(memory, "free_memory", lambda: free[0])
    room = Room()
    room.take(300 * MIB)
    free[0] = 500 * MIB
    room.take(300 * MIB)
    free[0] = 200 * MIB  # of which 100 stay free
    assert room.fits(90 * MIB)
    with pytest.raises(TableError, match="no room in this server's memory"):
        room.take(110 * MIB)
    room.promised = 50 * MIB  # to pushes that are not merged: a merge must not fail halfway
    with pytest.raises(TableError, match="no room"):
        room.take(60 * MIB)
    room.promised = 0
    room.take(90 * MIB)
    assert room.taken == 690 * MIB


def test_some_memory_is_free_here() -> None:
    assert 0 < free_memory() < 1 << 50


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Let a server think that so many bytes are free, however many rows it makes."""
    return lambda size: monkeypatch.setattr(memory, "free_memory", lambda: size)


def make_server(
    make_job: MakeJob, folder: Path, clients: int = 2, mode: str = "async", limits: Limits | None = None
) -> ParameterServer:
    job = make_job(sync_mode=mode)
    job = job.model_copy(update={"runner": job.runner.model_copy(update={"worker_num": clients})})
    return ParameterServer(job, 0, folder / "run", lambda event: None, limits)


def test_tensors_that_find_no_room_are_not_declared(
    make_job: MakeJob, tmp_path: Path, small: Callable[[int], None]
) -> None:
    small(64 * MIB)
    server = make_server(make_job, tmp_path)
    refused = Caller(server, "bad").ask(Join((ROWS, TableSpec("large", "dense", (1 << 24,), Rule("adam"))), 0))
    assert isinstance(refused, Refused) and "no room" in refused.reason
    Caller(server, "good").join()


def pulled(caller: Caller, start: int, rows: int = 1000) -> object:
    answers = caller.answers(caller.send(Pull(("rows",)), np.arange(start, start + rows)))
    caller.replies.clear()
    return answers[0]


@pytest.mark.parametrize("clients", [1, 2])
def test_the_rows_that_one_clients_pulls_make_leave_room_for_the_others(
    clients: int, make_job: MakeJob, tmp_path: Path, small: Callable[[int], None]
) -> None:
    small(64 * MIB)  # one row of HUGE takes 3 KiB
    server = make_server(make_job, tmp_path, clients)
    greedy = Caller(server, "greedy").join(HUGE, BIAS)
    made = 0
    while isinstance(answer := pulled(greedy, made), Values):
        made += 1000
        assert made < 30_000, "the rows of one client fill the server"
        if clients == 1 and made == 20_000:
            return  # who is alone may have all there is
    assert isinstance(answer, Refused) and "that one client's may make here" in answer.reason
    assert 10_000 < made < 14_000
    assert isinstance(pulled(greedy, 0), Values), "what is there it may pull"
    other = Caller(server, "other").join(HUGE, BIAS)
    assert isinstance(pulled(other, 1 << 40), Values)


@pytest.mark.parametrize("mode", ["async", "geo"])
def test_a_push_whose_rows_find_no_room_is_refused_whole(
    mode: str, make_job: MakeJob, tmp_path: Path, small: Callable[[int], None]
) -> None:
    server = make_server(make_job, tmp_path, mode=mode)
    other = TableSpec("other", "sparse", (100, 4), Rule("add"))
    a, b = (Caller(server, name).join(replace_rule(HUGE), other, BIAS) for name in "ab")
    small(server.shard.room.at_start // memory.RESERVE)  # from now on nothing is left
    server.shard.room._granted = 0

    def said(sequence: int, keys: list[int]) -> Push | object:
        message = Push(("other", "rows", "bias"), sequence, 0)
        values = np.ones((len(keys), 256), np.float32)
        return message, NO_KEYS, ones(0), np.array(keys, np.int64), values, NO_KEYS, NO_CHANGE

    refused = a.ask(*said(1, [7]))  # type: ignore[misc]
    assert isinstance(refused, Refused) and "no room" in refused.reason
    for caller in (a, b):
        assert isinstance(caller.ask(*said(1, [])), Done)  # type: ignore[misc]
    assert server.shard.store.missing("rows", np.array([7])) == 1


def replace_rule(spec: TableSpec) -> TableSpec:
    return TableSpec(spec.name, spec.kind, spec.shape, Rule("add"), spec.init)


def test_what_is_kept_for_all_clients_together_is_bounded(make_job: MakeJob, tmp_path: Path) -> None:
    """Parts of pushes, pushes that are not merged and pulls that wait: each client stays within its own bound."""
    limits = replace(LIMITS, held_bytes=20_000, total_bytes=30_000)
    server = make_server(make_job, tmp_path, 9, "geo", limits)
    a, b, c, d = (Caller(server, name).join() for name in "abcd")
    assert isinstance(a.ask(*push(1, range(100), ones(100))), Done)  # 2,412 bytes, for the gate
    half = Push(("rows", "bias"), 1, 0, 1.0, 0, 2)
    assert isinstance(b.ask(half, np.arange(50), ones(50), NO_KEYS, NO_CHANGE), Done)
    keys = np.arange(64)
    tickets = [(caller, caller.send(Pull(("rows",), after=0), keys)) for caller in (b, c, d) for _ in range(6)]
    refused = [answers[0] for caller, ticket in tickets if (answers := caller.answers(ticket))]
    assert refused and all(isinstance(r, Refused) and "kept for others" in r.reason for r in refused)
    assert server._budget.used <= 30_000
    before = state(server)
    full = c.ask(*push(1, range(100), ones(100)))
    assert isinstance(full, Refused) and full.kind == "too_large"
    assert state(server) == before
    for caller in (b, c, d):
        caller.connection.closed()
    assert server._budget.used == server.shard.gate.bytes  # type: ignore[union-attr]
    a.ask(Leave())
    server.tick(1e12)  # the others are lost, and the window is merged without them
    assert (server.clock, server._budget.used) == (1, 0)


WIDE = TableSpec("rows", "sparse", (0, 256), Rule("add"), Init("constant", 1.0))  # open: any id is a row of 1,048 bytes
BATCH = 100  # rows of a push


@pytest.mark.parametrize(
    "mode",
    [
        {"sync_mode": "async"},
        {"sync_mode": "geo", "geo_merge": "heat"},
        {"sync_mode": "geo", "geo_merge": "buffered", "buffer": 2},
    ],
    ids=lambda mode: str(mode.get("geo_merge", "async")),
)
def test_the_rows_that_one_clients_pushes_make_are_bounded_and_counted_over_deaths(
    mode: dict[str, object], make_job: MakeJob, tmp_path: Path
) -> None:
    job = make_job(**mode)
    home = Home(job.model_copy(update={"limits": job.limits.model_copy(update={"rows_mib": 1})}), tmp_path / "home")
    server, sequences = home.server(), {"greedy": 0, "honest": 0}

    def says(client: str, first: int, rows: int = BATCH, instance: str = "p") -> Message:
        """Push to so many rows; what waits for a window is answered with it."""
        here = server.roster.connection(ClientId(client))
        caller = callers[client] if here is not None else Caller(server, client, instance).join(WIDE, BIAS)
        callers[client] = caller
        values, keys = np.ones((rows, 256), np.float32), np.arange(first, first + rows)
        message = Push(("rows", "bias"), sequences[client] + 1, server.clock)
        found = caller.answers(caller.send(message, keys, values, NO_KEYS, NO_CHANGE))
        sequences[client] += not (found and isinstance(found[0], Refused))
        return found[0] if found else Done(0)

    callers: dict[str, Caller] = {}
    says("greedy", 0), says("honest", 0)  # the same rows: they are the first one's alone
    for batch in range(1, 9):
        assert isinstance(says("greedy", -BATCH * batch), Done)
        assert isinstance(says("honest", 0), Done)
        if batch == 4:
            server.sum_up()  # and what follows is replayed
    for again in range(3):
        made = {client: member.made for client, member in server.members.here.items()}
        assert made == {"greedy": 900 * 1048, "honest": 0}
        instance = "q" if again else "p"  # nor does another process begin anew
        refused = says("greedy", 10_000, 102, instance)
        assert isinstance(refused, Refused) and refused.kind == "too_large"
        assert "have made 943200 bytes of rows, and 106896 bytes are new in this one, of the 1048576" in refused.reason
        assert "raise limits.rows_mib" in refused.reason
        assert isinstance(says("greedy", 0, instance=instance), Done), "what is there it may change"
        assert isinstance(says("honest", 0), Done)
        callers, server = {}, home.server()
    assert isinstance(says("honest", 50_000, 500), Done), "others have as much"
    assert isinstance(says("greedy", 0, instance="q"), Done)
    assert server.members.here[ClientId("honest")].made == 500 * 1048
    assert server.shard.store.counts()["rows"].rows == 900 + 500
    home.close()


def test_rows_that_leave_are_bounded_by_their_table_and_not_counted(make_job: MakeJob, tmp_path: Path) -> None:
    server = make_server(make_job, tmp_path)
    caller = Caller(server, "a").join(replace_bounds(WIDE, Bounds(max_rows=10)), BIAS)
    for number in range(1, 5):
        values = np.ones((10, 256), np.float32)
        keys = np.arange(10 * number, 10 * number + 10)
        assert isinstance(caller.ask(Push(("rows", "bias"), number, 0), keys, values, NO_KEYS, NO_CHANGE), Done)
    assert server.members.here[ClientId("a")].made == 0


def replace_bounds(spec: TableSpec, bounds: Bounds) -> TableSpec:
    return TableSpec(spec.name, spec.kind, spec.shape, spec.rule, spec.init, bounds=bounds)
