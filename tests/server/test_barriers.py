"""Which epoch ends where clients meet: the next of the job's order, whatever a client claims."""

from pathlib import Path
from typing import Any

import pytest

from fedps.server.server import ParameterServer
from fedps.wire.messages import Barrier, Done, Figures, Leave, Refused
from tests.conftest import MakeJob
from tests.events.kept import into
from tests.events.kinds import sums
from tests.server.callers import Caller, ones, push

Events = list[dict[str, Any]]


def make_server(make_job: MakeJob, folder: Path, events: Events, clients: int = 2, **runner: Any) -> ParameterServer:
    job = make_job(**{"sync_mode": "async", "epochs": 20, "step_timeout": 5.0, **runner})
    server = ParameterServer(job, 0, folder / "run", into(events))
    server.members.expect(clients)
    return server


def saved(events: Events) -> list[int]:
    return [e["epoch"] for e in events if e["event"] == "saved"]


def meet(epoch: int, *callers: Caller, stages: tuple[str, ...] = ("trained", "evaluated")) -> None:
    for stage in stages:
        tickets = [(caller, caller.send(Barrier(epoch, stage))) for caller in callers]
        assert all(caller.answers(ticket) for caller, ticket in tickets)


def test_a_claimed_epoch_is_refused_and_the_others_epochs_are_saved(make_job: MakeJob, tmp_path: Path) -> None:
    events: Events = []
    server = make_server(make_job, tmp_path, events)
    honest, liar = Caller(server, "a").join(), Caller(server, "liar").join()
    refused = liar.ask(Barrier(20, "trained"))
    assert isinstance(refused, Refused) and refused.kind == "stale" and "the next is 1" in refused.reason
    liar.ask(Leave())
    for epoch in (1, 2, 3):
        meet(epoch, honest)
    assert saved(events) == [1, 2, 3]


def test_with_a_coordinator_a_claimed_epoch_names_no_folder_and_stops_no_later_save(
    make_job: MakeJob, tmp_path: Path
) -> None:
    events: Events = []
    server = make_server(make_job, tmp_path, events, clients=3, with_coordinator=True)
    a, b, liar = (Caller(server, name).join() for name in ("a", "b", "liar"))
    liar.send(Barrier(20, "trained"))
    meet(1, a, b, stages=("trained",))
    liar.send(Barrier(20, "evaluated"))
    meet(1, a, b, stages=("evaluated",)) if not liar.hung_up else None
    liar.ask(Leave())
    for epoch in (2, 3):
        meet(epoch, a, b)
    assert saved(events) == [1, 2, 3]
    assert sorted(f.name for f in (tmp_path / "run" / "model").iterdir()) == ["1", "2", "3"]


def test_a_claim_does_not_count_for_those_that_are_silent(make_job: MakeJob, tmp_path: Path) -> None:
    events: Events = []
    server = make_server(make_job, tmp_path, events, with_coordinator=True)
    silent, liar = Caller(server, "a").join(), Caller(server, "liar").join()
    liar.send(Barrier(20, "trained"))
    server.members.suspend(silent.connection.known)
    server.advance(0.0)
    assert saved(events) == [1]


def test_rounds_that_nobody_came_to_the_end_of_are_skipped_by_all_together(make_job: MakeJob, tmp_path: Path) -> None:
    """All workers were started again in round 2; the coordinator has gone on, and no server has met round 2's end."""
    events: Events = []
    server = make_server(make_job, tmp_path, events, with_coordinator=True)
    meet(1, Caller(server, "a").join(), Caller(server, "b").join())
    again = [Caller(server, name, "new").join() for name in "ab"]
    meet(3, *again)
    meet(4, *again)
    assert saved(events) == [1, 3, 4]


@pytest.mark.parametrize(
    ("runner", "due"),
    [
        ({"eval_every": 2}, [2, 4, 5]),
        ({"eval_every": 0}, [5]),
        ({"save_every": 3}, [3, 5]),
        ({"save_every": 0}, [5]),
        ({"with_coordinator": True, "eval_every": 2}, [1, 2, 3, 4, 5]),
        ({"with_coordinator": True, "save_every": 2}, [2, 4, 5]),
    ],
)
def test_clients_meet_after_every_epoch_and_servers_save_where_it_is_due(
    runner: dict[str, object], due: list[int], make_job: MakeJob, tmp_path: Path
) -> None:
    events: Events = []
    server = make_server(make_job, tmp_path, events, clients=1, epochs=5, **runner)
    caller = Caller(server, "a").join()
    refused = caller.ask(Barrier(6, "trained"))
    assert isinstance(refused, Refused) and refused.kind == "malformed"
    for epoch in range(1, 6):
        meet(epoch, caller)
    assert saved(events) == due


def test_a_job_that_ends_early_is_saved_as_the_epoch_that_ended(make_job: MakeJob, tmp_path: Path) -> None:
    events: Events = []
    server = make_server(make_job, tmp_path, events, clients=1, epochs=5, save_every=0, with_coordinator=True)
    caller = Caller(server, "a").join()
    caller.ask(*push(1, [3], ones(1)))
    meet(1, caller)
    server.finish()
    assert saved(events) == [1]


def test_what_clients_say_of_an_epoch_is_added_up_as_they_go_on(make_job: MakeJob, tmp_path: Path) -> None:
    events: Events = []
    server = make_server(make_job, tmp_path, events)
    a, b = Caller(server, "a").join(), Caller(server, "b").join()
    meet(1, a, b, stages=("trained",))
    a.send(Barrier(1, "evaluated", Figures(300, 60.0, sums(3, 2.0, 1.0))))
    b.send(Barrier(1, "evaluated", Figures(100, 60.0, sums(1, 0.0, 0.0))))
    (told,) = [e for e in events if e["event"] == "round"]
    assert (told["round"], told["loss"], told["hr@10"], told["ndcg@10"]) == (1, 0.3, 0.5, 0.25)


@pytest.mark.parametrize(
    "said",
    [
        Figures(-1),
        Figures(9, float("nan")),
        Figures(9, 1e308),
        Figures(sums=sums(1, 2.0, 0.0)),
        Figures(sums=sums(2, 1.0, 1.5)),
    ],
)
def test_figures_that_no_epoch_can_have_are_refused(said: Figures, make_job: MakeJob, tmp_path: Path) -> None:
    caller = Caller(make_server(make_job, tmp_path, [], clients=1), "a").join()
    meet(1, caller, stages=("trained",))
    refused = caller.ask(Barrier(1, "evaluated", said))
    assert isinstance(refused, Refused) and refused.kind == "malformed"


@pytest.mark.parametrize("epochs", [1, 10**9])
def test_the_next_epoch_is_found_however_many_there_are(epochs: int, make_job: MakeJob, tmp_path: Path) -> None:
    server = make_server(make_job, tmp_path, [], epochs=epochs)
    assert server.barriers.next_epoch == 1


def test_a_process_that_begins_anew_meets_the_others_at_their_epoch(make_job: MakeJob, tmp_path: Path) -> None:
    events: Events = []
    server = make_server(make_job, tmp_path, events)
    a, b = Caller(server, "a").join(), Caller(server, "b").join()
    meet(1, a, b)
    again = Caller(server, "b", "new").join()
    for stage in ("trained", "evaluated"):
        ticket = again.send(Barrier(1, stage))
        assert isinstance(a.ask(Barrier(2, stage)), Done) and again.answers(ticket)
    assert saved(events) == [1, 2]
    assert isinstance(a.ask(*push(1, [3], ones(1))), Done)
