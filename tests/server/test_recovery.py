"""A server that dies goes on where its log says it was."""

import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from fedps.errors import DataError
from fedps.server import durable, memory
from fedps.server.records import Array, Opened, Record, Seeded
from fedps.server.server import ParameterServer
from fedps.storage.disk import Disk, Folder
from fedps.storage.epochs import is_whole
from fedps.storage.log import Log
from fedps.types import Bounds, ClientId, Init, Rule, TableSpec
from fedps.wire.messages import Barrier, Done, Figures, Join, Leave, Refused, Seed
from tests.conftest import MakeJob
from tests.greeting import hello
from tests.server.callers import BIAS, LIMITS, ROWS, Caller, Stranger, is_refused, ones, push
from tests.server.homes import Home, meet, tables, train
from tests.server.test_slow_saves import Slow
from tests.simulation.disk import FaultyDisk, ForgetfulDisk, Stopped, from_on

ADAM = TableSpec("rows", "sparse", (100, 4), Rule("adam"), Init("uniform", -1.0, 1.0))
MODES: list[dict[str, Any]] = [
    {"sync_mode": "async"},
    {"sync_mode": "sync"},
    {"sync_mode": "geo", "geo_merge": "adaptive"},
    {"sync_mode": "geo", "geo_merge": "mean"},
    {"sync_mode": "geo", "geo_merge": "buffered", "buffer": 3},
    {"sync_mode": "round"},
]


@pytest.mark.parametrize("home", MODES, indirect=True, ids=lambda mode: "-".join(map(str, mode.values())))
def test_the_tables_are_those_of_a_server_that_did_not_die(home: Home, tmp_path: Path) -> None:
    rows = ADAM if home.job.runner.sync_mode in ("sync", "async") else ROWS
    whole = ParameterServer(home.job, 0, tmp_path / "other", lambda event: None)
    whole.members.expect(2)
    died = home.server()
    for server in (whole, died):
        a, b = (Caller(server, name).join(rows, BIAS) for name in "ab")
        train(server, a, b, 1, 4)
        meet(1, a, b)
        train(server, a, b, 5, 7)
    a, b = (Caller(whole, name) for name in "ab")
    for at in (8, 11, 13):
        if at == 11:
            died.sum_up()
            for server in (died, whole):
                a, b = (Caller(server, name, "p").join(rows, BIAS) for name in "ab")
                train(server, a, b, at - 1, at - 1)
        died = home.server()
        assert tables(died) == tables(whole)
        assert (died.clock, died.barriers.epoch) == (whole.clock, whole.barriers.epoch)
        for server in (died, whole):
            a, b = (Caller(server, name, "p").join(rows, BIAS) for name in "ab")
            train(server, a, b, at, at + 1)
    for server in (died, whole):
        meet(2, *(Caller(server, name, "p").join(rows, BIAS) for name in "ab"))
    assert tables(home.server()) == tables(whole)


@pytest.mark.parametrize("home", MODES, indirect=True, ids=lambda mode: "-".join(map(str, mode.values())))
@pytest.mark.parametrize("summed_up", [0, 3, 6])
def test_a_run_is_taken_back_to_where_its_clients_go_on(home: Home, summed_up: int) -> None:
    server = home.server()
    a, b = (Caller(server, name).join() for name in "ab")
    train(server, a, b, 1, 3)
    meet(1, a, b)
    if summed_up == 3:
        server.sum_up()
    then, clock = tables(server), server.clock
    train(server, a, b, 4, 6)
    if summed_up == 6:
        server.sum_up()
    train(server, a, b, 7, 7)
    assert tables(server) != then
    for cut in ({"a": 3, "b": 3}, None):  # the second process finds what the first has left of the log
        server = home.server(cut)
        assert (tables(server), server.clock, server.barriers.epoch) == (then, clock, 1)
    again = [Caller(server, name, "resumed") for name in "ab"]
    assert [c.ask(Join((ROWS, BIAS), server.clock)) for c in again] == [Done(server.clock, sequence=3)] * 2
    assert all(isinstance(c.ask(Barrier(1, "evaluated")), Done) for c in again)
    train(server, again[0], again[1], 4, 5)


def test_a_log_that_does_not_reach_to_where_clients_go_on_is_refused(home: Home) -> None:
    server = home.server()
    a, b = (Caller(server, name).join() for name in "ab")
    train(server, a, b, 1, 3)
    whole = tables(home.server({"a": 3, "b": 3}))
    for cut, said in (
        ({"a": 3, "b": 4}, "push 3 of client 'b', .* push 4"),
        ({"c": 1}, "push 0 of client 'c', .* push 1"),
    ):
        with pytest.raises(DataError, match=f"server-0|state: ends with {said}: put the whole folder back"):
            home.server(cut)
    assert tables(home.server()) == whole, "it is left as it was"


def test_a_client_that_is_ahead_of_a_restored_server_is_told(home: Home) -> None:
    server = home.server()
    a, b = (Caller(server, name).join() for name in "ab")
    train(server, a, b, 1, 2)
    shutil.copytree(home.folder / "state", home.folder / "copy")
    train(server, a, b, 3, 5)
    home.close()
    shutil.rmtree(home.folder / "state")
    shutil.move(home.folder / "copy", home.folder / "state")
    restored = home.server()
    refused = Caller(restored, "a", "p").join().ask(*push(6, [3], ones(1)))
    assert isinstance(refused, Refused) and (refused.kind, refused.reason) == (
        "stale",
        "push 6 follows 2: one in between is missing",
    )


def test_who_has_left_and_did_not_hear_that_it_counts_says_so_again(home: Home) -> None:
    server = home.server()
    for name in "ab":
        assert Caller(server, name).join().ask(Leave()) == Done()
    assert server.over
    again = home.server()
    for name in "ab":
        assert not again.over, "the process before may have died before it answered"
        assert Caller(again, name).join().ask(Leave()) == Done()
    assert again.over and again.members.done


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"sync_mode": "sync"}, "is of a job that differs in runner.sync_mode"),
        ({"seed": 5}, "is of a job that differs in runner.seed: 5 here, 0 there"),
        ({"server_num": 2}, "is the log of server 0 of 1 of job"),
    ],
)
def test_the_log_of_another_job_is_refused(home: Home, make_job: MakeJob, change: dict[str, Any], what: str) -> None:
    Caller(home.server(), "a").join()
    with pytest.raises(DataError, match=what):
        home.server(job=make_job(**{"sync_mode": "async", "epochs": 3} | change))


def test_two_servers_on_one_log_are_refused(home: Home) -> None:
    home.server()
    with pytest.raises(DataError, match="two servers on one log"):
        Folder(home.folder / "state")


def test_the_log_reaches_back_to_the_end_of_the_epoch_before_the_last(home: Home) -> None:
    server = home.server()
    server.members.expect(1)  # as where all train in step, it may have to go back
    a = Caller(server, "a").join()
    then = {}
    for epoch in (1, 2, 3):
        for number in range(3 * epoch - 2, 3 * epoch + 1):
            assert isinstance(a.ask(*push(number, [number], ones(1))), Done)
            server.sum_up()
        meet(epoch, a)
        then[epoch] = tables(server)
        server.sum_up()
        server.sum_up()
    assert tables(home.server({"a": 6})) == then[2]


def test_an_epoch_that_was_still_to_be_saved_is_saved_by_the_next_process_once_it_serves(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(durable, "LEAST", 0)
    monkeypatch.setattr(durable, "GROWTH", 0)
    server = home.server()
    a, b = (Caller(server, name).join(ROWS, BIAS) for name in "ab")
    train(server, a, b, 1, 2)
    monkeypatch.setattr(server.shard.saves, "go_on", lambda: None)  # it is under way for long
    meet(1, a, b)
    for later in (1, 2):
        server.tick(time.monotonic() + later)
    model = home.folder / "model" / "1"
    server = home.server()
    slow = server.shard.beside = Slow()
    server.tick(time.monotonic())
    assert not model.exists(), "nobody who waits for this process waits for that"
    slow.end_all()
    assert is_whole(model)


def lose_openings(server: ParameterServer) -> None:
    """Let the server die before it has written that a barrier opened."""
    note = server.durable.note
    server.durable.note = lambda record, arrays=(): (  # type: ignore[method-assign]
        None if isinstance(record, Opened) else note(record, arrays)
    )


@pytest.mark.parametrize("home", [{"sync_mode": "async"}, {"sync_mode": "sync"}], indirect=True)
def test_an_epoch_ends_once_though_the_server_dies_before_it_says_so(home: Home, tmp_path: Path) -> None:
    aging = TableSpec("rows", "sparse", (100, 4), Rule("adam"), Init("constant", 1.0), bounds=Bounds(expire_after=3))
    whole = ParameterServer(home.job, 0, tmp_path / "other", lambda event: None)
    whole.members.expect(2)
    died = home.server()
    for server in (whole, died):
        a, b = (Caller(server, name).join(aging, BIAS) for name in "ab")
        train(server, a, b, 1, 2)
        if server is died:
            lose_openings(died)
        meet(1, a, b)
    died = home.server()
    assert died.barriers.epoch == 1
    meet(1, *(Caller(died, name).join(aging, BIAS) for name in "ab"))
    assert tables(died) == tables(whole)
    assert died.barriers.epoch == 1


def test_who_goes_on_with_a_run_that_is_taken_back_has_as_long_as_a_start_takes(home: Home) -> None:
    server = home.server()
    for name in "ab":
        Caller(server, name).join()
    runner, now = home.job.runner, time.monotonic()
    again = home.server(cut={"a": 0, "b": 0})
    again.tick(now + runner.start_timeout + runner.reconnect_timeout - 1)
    assert set(again.members.here) == {"a", "b"}, "else the first to come would train alone"
    again.tick(now + runner.start_timeout + runner.reconnect_timeout + 9)
    assert set(again.members.lost) == {"a", "b"}


def test_a_start_that_another_client_gave_is_not_written_again(home: Home) -> None:
    given = TableSpec("given", "sparse", (3, 4), Rule("add"), Init("given"))
    server, values, written = home.server(), np.ones((3, 4), np.float32), list[type[Record]]()
    note = server.durable.note

    def noted(record: Record, arrays: Sequence[Array] = ()) -> None:
        written.append(type(record))
        note(record, arrays)

    server.durable.note = noted  # type: ignore[method-assign]
    for name in "ab":
        assert isinstance(Caller(server, name).join(given, BIAS).ask(Seed("given", 0), values), Done)
    assert written.count(Seeded) == 2


@pytest.mark.parametrize("home", [{"sync_mode": "sync"}], indirect=True)
def test_who_says_one_push_again_and_again_is_refused_at_last(home: Home) -> None:
    server = home.server()
    server._pushes._limits = replace(LIMITS, waiting=3)
    a, b = (Caller(server, name).join() for name in "ab")
    tickets = [a.send(*push(1, [1], ones(1))) for _ in range(5)]
    assert [[type(answer) for answer in a.answers(ticket)] for ticket in tickets[2:]] == [[], [Refused], [Refused]]
    assert isinstance(b.ask(*push(1, [1], ones(1))), Done)
    assert [[type(answer) for answer in a.answers(ticket)] for ticket in tickets[:3]] == [[Done]] * 3


def test_a_restarted_server_knows_which_process_is_the_newest(home: Home) -> None:
    server = home.server()
    Caller(server, "a", "old").join()
    Caller(server, "a", "new").join()
    for _ in range(2):
        server = home.server()
        answer = Stranger(server).ask(hello(server.job, "a", "old"))
        assert isinstance(answer, Refused) and (answer.kind, answer.newest) == ("superseded", 2)
        server.sum_up()


def test_no_process_of_before_a_cut_is_heard_again_wherever_a_server_dies_at_it(
    make_job: MakeJob, tmp_path: Path
) -> None:
    job, cut = make_job(sync_mode="sync"), {ClientId("a"): 1, ClientId("b"): 1}

    def served(disk: Disk, cut: dict[ClientId, int] | None = None) -> ParameterServer:
        return ParameterServer(job, 0, tmp_path, lambda event: None, log=Log(disk), cut=cut)

    for call in range(20):
        disk = ForgetfulDisk()
        server = served(disk)
        server.members.expect(2)
        a, b = (Caller(server, name).join() for name in "ab")
        train(server, a, b, 1, 2)
        Caller(server, "a", "p8").join()
        with suppress(Stopped):
            served(FaultyDisk(disk, from_on(call, Stopped())), cut)
        server = served(disk, cut)
        assert is_refused(Stranger(server).ask(hello(job, "a", "p8")), "superseded"), call
        assert server.members.here[ClientId("a")].merged == 1


def test_a_log_whose_processes_have_no_numbers_is_refused_by_name(home: Home) -> None:
    Caller(home.server(), "a").join()
    home.close()
    head = msgspec.msgpack.encode((["Joined", "b", "process", 0, 0], []))
    with Folder(home.folder / "state") as disk:
        log = Log(disk)
        assert len(list(log.recover()))
        log.append([len(head).to_bytes(4, "little") + head])
        log.flush()
    with pytest.raises(DataError, match=r"state: a record of another version of fedps: .*move the folder away"):
        home.server()


def test_who_was_outvoted_has_no_vote_in_the_next_process(home: Home) -> None:
    server = home.server()
    server.members.expected = 3
    Caller(server, "a").join(ADAM, BIAS)
    for name in "bc":
        Caller(server, name).send(Join((ROWS, BIAS), 0))
    assert set(server.members.here) == {"b", "c"}
    assert home.server().ballot._votes == server.ballot._votes


def test_a_barrier_that_opened_is_known_again_whatever_figures_are_said_there(home: Home) -> None:
    server = home.server()
    a, b = (Caller(server, name).join() for name in "ab")
    said = Barrier(1, "evaluated", Figures(samples=3, loss=1.5))
    for barriers in ([Barrier(1, "trained")] * 2, [said, Barrier(1, "evaluated")]):
        assert all(x.send(barrier) for x, barrier in zip((a, b), barriers, strict=True))
    server.members.lose(ClientId("a"))
    assert isinstance(b.ask(*push(1, [1], ones(1))), Done)
    assert isinstance(b.ask(Barrier(2, "trained")), Done)
    assert isinstance(Caller(home.server(), "a").join().ask(said), Done)


@pytest.fixture
def warm(make_job: MakeJob, tmp_path: Path) -> Iterator[Home]:
    """The home of a server whose job starts from an epoch that another has saved; its tables were declared."""
    other = ParameterServer(make_job(sync_mode="async"), 0, tmp_path / "other", lambda event: None)
    other.members.expect(1)
    a = Caller(other, "a").join()
    assert isinstance(a.ask(*push(1, [3], ones(1))), Done)
    meet(1, a)
    folder = tmp_path / "other" / "model" / "1"
    home = Home(make_job(sync_mode="async", epochs=3, warmup_model_path=str(folder)), tmp_path)
    assert Caller(home.server(), "a").join().rows(3) == [[2.0] * 4]
    yield home
    home.close()


def test_the_epoch_that_it_started_from_may_be_removed_once_the_tables_are_summed_up(warm: Home) -> None:
    server = warm.server()
    server.tick(time.monotonic())
    there = tables(server)
    shutil.rmtree(warm.folder / "other")
    server = warm.server()
    assert tables(server) == there and Caller(server, "a").join().rows(3) == [[2.0] * 4]
    refused = Caller(server, "b").ask(Join((ADAM, BIAS), 0))
    assert isinstance(refused, Refused) and refused.kind == "mismatch"
    assert isinstance(Caller(server, "a").join().ask(*push(1, [3], ones(1))), Done)
    assert len([event for event in warm.events if event["event"] == "loaded"]) == 2, (
        "as it began, and from the log alone"
    )


def test_an_epoch_that_is_needed_and_gone_is_told(warm: Home, make_job: MakeJob) -> None:
    with pytest.raises(DataError, match="cannot be taken up: its tables started from a saved epoch: name it again by"):
        warm.server(job=make_job(sync_mode="async", epochs=3))
    shutil.rmtree(warm.folder / "other")
    with pytest.raises(
        DataError, match=r"record 2 cannot be taken up: runner\.warmup_model_path: .*other/model/1: is no"
    ):
        warm.server()


def test_tables_that_started_anew_do_so_again_though_the_job_names_an_epoch_now(home: Home, warm: Home) -> None:
    job = home.job
    cold = Home(job, warm.folder / "cold")
    there = tables(Caller(cold.server(), "a").join().server)
    assert tables(cold.server(job=warm.job)) == there
    cold.close()


@pytest.mark.parametrize("home", [{"sync_mode": "async"}, {"sync_mode": "sync"}], indirect=True)
def test_an_epoch_is_saved_as_by_a_server_that_did_not_die(home: Home, tmp_path: Path) -> None:
    saved = []
    for dies in (False, True):
        here = Home(home.job, tmp_path / f"{dies}")
        server = here.server()
        a, b = (Caller(server, name).join(ADAM, BIAS) for name in "ab")
        a.rows(*range(50))
        train(server, a, b, 1, 1)
        a.rows(*range(50, 100))
        if dies:
            server = here.server()
            a, b = (Caller(server, name).join(ADAM, BIAS) for name in "ab")
        train(server, a, b, 2, 2)
        meet(1, a, b)
        saved.append((here.folder / "model" / "1" / "server-0.safetensors").read_bytes())
        here.close()
    assert saved[0] == saved[1]


@pytest.mark.parametrize("home", [{"sync_mode": "sync"}], indirect=True)
def test_a_table_is_taken_up_as_it_was_with_more_memory_and_with_less_not_at_all(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    aging = TableSpec("rows", "sparse", (100, 4), Rule("add"), Init("constant", 1.0), bounds=Bounds(expire_after=3))
    free = [8 << 30]
    monkeypatch.setattr(memory, "free_memory", lambda: free[0])
    server = home.server()
    a, b = (Caller(server, name).join(aging, BIAS) for name in "ab")
    server.shard.room._granted = 0  # others have it
    free[0] = (1 << 30) + 210  # beside what stays free: enough for five rows
    first = a.send(*push(1, range(5), ones(5)))
    free[0] = 1 << 30
    second = b.send(*push(1, range(5, 10), ones(5)))
    assert [*a.answers(first), *b.answers(second)] == [Done(1)] * 2
    there = tables(server)
    assert there["rows"][0] == [0, 1, 2, 3, 4]
    free[0] = 8 << 30
    assert tables(home.server()) == there
    free[0] = 100
    with pytest.raises(
        DataError, match=r"record \d+ cannot be taken up: 200 bytes of rows that there were find no room"
    ):
        home.server()
