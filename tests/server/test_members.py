"""Who is waited for."""

from fedps.server.members import Members
from fedps.types import ClientId
from fedps.wire.messages import Barrier

A, B = ClientId("a"), ClientId("b")


def two() -> Members:
    members = Members(expected=2)
    members.join(A, "p1", 0)
    members.join(B, "p2", 0)
    return members


def test_nothing_is_complete_before_all_expected_have_come() -> None:
    members = Members(expected=2)
    members.join(A, "p1", 0)
    assert not members.complete
    members.join(B, "p2", 0)
    assert members.complete


def test_one_that_came_and_left_counts_as_come_but_is_not_waited_for() -> None:
    members = two()
    members.leave(A)
    assert members.complete
    assert members.active(0) == {B}


def test_a_late_joiner_is_waited_for_from_its_clock_on() -> None:
    members = two()
    members.join(ClientId("c"), "p3", 5)
    assert members.active(4) == {A, B}
    assert members.active(5) == {A, B, "c"}


def test_who_stands_at_a_barrier_is_not_waited_for_until_it_opens() -> None:
    members = two()
    first, second = members.get(A), members.get(B)
    assert first is not None and second is not None
    first.barrier = Barrier(1, "trained")
    assert members.at_barrier and members.active(0) == {B}
    second.barrier = Barrier(1, "trained")
    members.release([A, B], 7)
    assert not members.at_barrier and first.last_barrier == (Barrier(1, "trained"))
    assert members.active(6) == set()
    assert members.active(7) == {A, B}


def test_a_reconnect_keeps_the_sequence_and_a_new_process_counts_on() -> None:
    members = two()
    member = members.get(A)
    assert member is not None
    member.sequence, member.lost_at = 9, 1.0
    assert members.join(A, "p1", 3).sequence == 9
    assert members.overdue(100.0, 5.0) == []
    assert members.join(A, "p9", 3).sequence == 9


def test_a_broken_connection_is_lost_after_its_patience() -> None:
    members = two()
    member = members.get(A)
    assert member is not None
    member.lost_at = 10.0
    assert members.overdue(14.0, 5.0) == []
    assert members.overdue(15.1, 5.0) == [A]
