"""How long a round waits, at times of our own: for whom, from when on, and why it stops."""

import pytest

from fedps.coordinator.members import Member
from fedps.coordinator.round import GRACE, RealClock, Round
from fedps.simulation.traces import SimulatedClock
from fedps.types import ClientId, ClientInfo
from fedps.wire.messages import Assignment

PATIENCE = 60.0


def member(round_: int = 1, state: str = "JOIN", deadline: float | None = None, ticket: int | None = None) -> Member:
    assignment = Assignment(round_, state, deadline=deadline)  # type: ignore[arg-type]
    return Member("p", assignment, ticket, reported=ticket is not None)


def here(**members: Member) -> dict[ClientId, Member]:
    return {ClientId(name): m for name, m in members.items()}


def late(round_: Round, members: dict[ClientId, Member], now: float, simulated: bool = False) -> dict[ClientId, str]:
    clock = SimulatedClock({}) if simulated else RealClock()
    return round_.overdue(members, PATIENCE, clock, now)


def test_nobody_is_overdue_before_the_first_report_however_long_it_takes() -> None:
    assert late(Round(1, 0.0), here(a=member(deadline=1.0), b=member(state="WAIT")), 1e9) == {}


def test_the_patience_of_a_round_runs_from_its_first_report() -> None:
    round_, members = Round(1, 0.0), here(a=member(ticket=1), b=member(), c=member(state="WAIT"), d=member(0))
    round_.note_report(1, 100.0)
    assert late(round_, members, 100.0 + PATIENCE) == {}
    assert late(round_, members, 101.0 + PATIENCE) == {"b": "silent for 60 s", "c": "silent for 60 s"}


@pytest.mark.parametrize("simulated", [False, True])
def test_a_deadline_runs_from_the_assignment_and_a_simulated_one_is_none_of_ours(simulated: bool) -> None:
    round_, members = Round(1, 10.0), here(a=member(ticket=1), b=member(deadline=5.0), c=member(deadline=50.0))
    round_.note_report(1, 12.0)
    assert late(round_, members, 15.0, simulated) == {}
    assert late(round_, members, 15.1, simulated) == ({} if simulated else {"b": "past its deadline"})


def test_who_comes_a_moment_after_the_last_is_not_overdue() -> None:
    round_, members = Round(1, 0.0), here(a=member(ticket=1), b=member(deadline=5.0))
    round_.note_report(1, 6.0)
    assert late(round_, members, 6.0 + GRACE) == {}
    assert list(late(round_, members, 6.1 + GRACE)) == ["b"]


def test_a_quorum_is_of_those_that_joined_and_did_not_drop_out() -> None:
    members = here(a=member(ticket=1), b=member(ticket=1), c=member(), d=member(state="WAIT", ticket=1))
    members[ClientId("b")].info = ClientInfo(dropped=True)
    round_ = Round(1, 0.0)
    round_.look_for_quorum(members, lambda joined: 2, 7.0)
    assert round_.quorum_at is None
    members[ClientId("b")].info = ClientInfo()
    for now in (8.0, 9.0):
        round_.look_for_quorum(members, lambda joined: 2, now)
    assert round_.quorum_at == 8.0
    assert late(round_, members, 8.1 + GRACE) == {"c": "enough others have reported"}


def test_all_that_joined_are_no_quorum_but_all() -> None:
    round_ = Round(1, 0.0)
    round_.look_for_quorum(here(a=member(ticket=1), b=member(ticket=1)), lambda joined: joined, 1.0)
    assert round_.quorum_at is None


def test_after_a_restart_whoever_is_here_is_waited_for() -> None:
    members = here(a=member(3, ticket=1), b=member(2), c=Member("new"))
    assert list(Round(3, 0.0).pending(members)) == []
    round_ = Round(3, 0.0, restored=True)
    assert list(round_.pending(members)) == ["b", "c"]
    round_.note_report(2, 5.0)
    assert (round_.first_report_at, round_.last_report_at) == (5.0, None)
