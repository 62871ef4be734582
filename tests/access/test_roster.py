"""Who is connected under which name, who takes part, and for whom there is room."""

from collections.abc import Collection
from typing import Any

import pytest

from fedps.access.conversation import Conversation, Refusals
from fedps.access.roster import GREETING_TIMEOUT, MOST_SKIPPED, SPARE_GUESTS, Membership, Participant, Roster
from fedps.errors import RefusedError
from fedps.types import ClientId, Identity
from fedps.wire.frame import Frame, Limits, decode, encode
from fedps.wire.messages import PROTOCOL, Hello, Message, Refused, Welcome
from tests.events.kept import into

A, B = ClientId("a"), ClientId("b")
CONNECTIONS, PATIENCE = 100, 60.0
SHARED = {"runner.seed": "0123abcd", "limits.message_mib": "4567ef01"}


class Host:
    """Lets in whom its roster lets in."""

    def __init__(self, expected: int = 2, clients: Collection[str] | None = None) -> None:
        self.events: list[dict[str, Any]] = []
        self.limits, self.refusals = Limits(connections=CONNECTIONS), Refusals(into(self.events))
        self.roster = Roster("job", SHARED, "server", expected, CONNECTIONS, PATIENCE, clients)
        self.now = 0.0
        self.gone: list[ClientId | None] = []

    def answer(self, conversation: Conversation, frame: Frame) -> None:
        assert isinstance(frame.message, Hello)
        self.roster.greet(conversation, frame.message, self.now)
        conversation.reply(frame.ticket, Welcome(0, 1, 0))

    def forget(self, conversation: Conversation) -> None:
        self.gone.append(self.roster.forget(conversation))


class Peer:
    def __init__(
        self, host: Host, client: str | None = None, instance: str = "p", identity: Identity | None = None, **hello: Any
    ) -> None:
        self.replies: list[Message] = []
        self.hung_up = False
        self.conversation = host.roster.open(Conversation(host, self._take, "address", host.now, identity=identity))
        if client is not None:
            said = Hello(
                **{"job": "job", "client": client, "instance": instance, "number": 1, "shared": SHARED, **hello}
            )
            self.conversation.received(encode(1, said))

    def _take(self, data: bytes | None) -> None:
        if data is None:
            self.hung_up = True
        else:
            self.replies.append(decode(data, Limits()).message)

    @property
    def welcome(self) -> bool:
        return isinstance(self.replies[0], Welcome)


@pytest.mark.parametrize(
    "hello",
    [{"job": "other"}, {"protocol": PROTOCOL - 1}, {"to": "coordinator"}, {"client": ""}, {"instance": ""}]
    + [{"client": name} for name in ("a\nb", "a\x1b[2J", "a\u2028b", "\x00", "x" * 257)]
    + [{"instance": "p\n"}],
    ids=repr,
)
def test_a_hello_that_cannot_be_meant_is_refused(hello: dict[str, Any]) -> None:
    peer = Peer(host := Host(), **{"client": "a", **hello})
    assert not peer.welcome
    assert host.roster.connected == []
    assert "\n" not in str(host.events)


def test_the_names_that_people_use_are_welcome() -> None:
    for name in ("0", "hospital-north", "Müller & Söhne", "客户", "a b"):
        assert Peer(Host(), name).welcome


def test_a_stranger_is_not_told_the_jobs_name() -> None:
    host = Host()
    host.roster = Roster("the secret name", SHARED, "server", 2, CONNECTIONS, PATIENCE)
    assert "secret" not in str(Peer(host, "a").replies)


@pytest.mark.parametrize("secure", [True, False], ids=["certificate", "clear"])
def test_a_client_whom_the_job_does_not_have_is_refused_by_name_and_told_the_remedy(secure: bool) -> None:
    host = Host(clients=("a", "b"))

    def comes(client: str, role: str = "client") -> Peer:
        identity = Identity(role, client.removeprefix(f"{role}/"), 7, 0.0, 1e12) if secure else None
        return Peer(host, client, identity=identity)

    (answer,) = comes("stranger").replies
    assert isinstance(answer, Refused) and answer.kind == "identity"
    assert answer.reason.startswith(
        "this job has no client 'stranger': who runs it names its clients in security.clients"
    )
    assert "'a'" not in answer.reason, "nor is it told who would have been"
    assert comes("a").welcome and comes("b").welcome
    assert not secure or comes("observer/board", "observer").welcome
    assert "stranger" not in host.roster.connected


def test_the_first_key_in_which_the_jobs_differ_is_named_with_both_values() -> None:
    for shared in (SHARED | {"limits.message_mib": "0"}, SHARED | {"runner.seed": "0", "limits.message_mib": "0"}, {}):
        answer = Peer(Host(), "a", shared=shared).replies[0]
        first = next(key for key in SHARED if shared.get(key) != SHARED[key])
        assert isinstance(answer, Refused) and answer.kind == "other_job"
        both = f"{SHARED[first]} here, {shared.get(first, 'nothing')} there"
        assert answer.reason.startswith(f"the jobs differ in {first}: {both} (here is the server, there client 'a')")


def test_silent_strangers_and_guests_have_a_deadline_and_members_have_none() -> None:
    host = Host()
    stranger, guest, member = Peer(host), Peer(host, "a"), Peer(host, "b")
    host.roster.enter(member.conversation)
    host.roster.tick(GREETING_TIMEOUT + 1)
    assert [p.hung_up for p in (stranger, guest, member)] == [True, False, False]
    host.roster.tick(PATIENCE + 1)
    assert [p.hung_up for p in (stranger, guest, member)] == [True, True, False]
    assert host.gone == [None, A]


def test_invented_names_push_out_older_guests_and_never_a_member() -> None:
    host = Host()
    member = Peer(host, "a")
    host.roster.enter(member.conversation)
    invented = [Peer(host, f"invented {n}") for n in range(1000)]
    last = Peer(host, "b")
    assert not member.hung_up and last.welcome and not last.hung_up
    assert len(host.roster.connected) <= 1 + 2 + SPARE_GUESTS
    assert [p.hung_up for p in invented[:3]] == [True] * 3


def test_silent_connections_leave_room_for_those_that_speak() -> None:
    host = Host()
    silent = [Peer(host) for _ in range(1000)]
    assert sum(not p.hung_up for p in silent) <= CONNECTIONS // 2
    assert Peer(host, "a").welcome


def test_a_second_connection_of_a_process_ends_the_first_and_its_client_is_not_absent() -> None:
    host = Host()
    first, second = Peer(host, "a"), Peer(host, "a")
    assert (first.hung_up, second.hung_up) == (True, False)
    assert len(first.replies) == 1, "it is the same process: nothing is told to its broken connection"
    assert host.gone == [None]
    assert host.roster.connection(A) is second.conversation


def test_a_newer_process_ends_an_older_for_good() -> None:
    host = Host()
    old, new = Peer(host, "a", "old", number=1), Peer(host, "a", "new", number=2)
    assert "give each worker its own client" in str(old.replies[-1])
    assert old.hung_up and not Peer(host, "a", "old", number=1).welcome and not new.hung_up
    new.conversation.closed()
    assert not Peer(host, "a", "old", number=1).welcome, "nor when the newer is away"
    assert Peer(host, "a", "new", number=2).welcome


def test_the_newer_process_speaks_in_whatever_order_they_come() -> None:
    host, other = Host(), Host()
    new, late = Peer(host, "a", "new", number=2), Peer(host, "a", "old", number=1)
    assert not late.welcome and not new.hung_up, "it was slow on its way"
    refused = late.replies[0]
    assert isinstance(refused, Refused) and (refused.kind, refused.newest) == ("superseded", 2)
    first, second = Peer(other, "a", "p", number=1), Peer(other, "a", "q", number=1)
    assert first.hung_up and second.welcome, "two that know nothing of each other"
    assert not Peer(Host(), "a", number=MOST_SKIPPED + 1).welcome, "nobody takes the last number"


def joined(expected: int, *clients: ClientId) -> Membership[Participant]:
    members = Membership[Participant](expected)
    for client in clients:
        members.admit(client, "p", lambda: Participant("p"))
    return members


def test_a_process_given_up_as_lost_goes_on_where_it_was_and_another_begins_anew() -> None:
    members = joined(2, A, B)
    before = members.get(A)
    members.disconnect(A, "p", 1.0)
    members.lose(A)
    assert members.get(A) is None
    assert members.admit(A, "p", lambda: Participant("p")) is before
    assert before is not None and before.lost_at is None
    members.lose(A)
    assert members.admit(A, "q", lambda: Participant("q")) is not before
    assert members.known == {A, B}


def test_to_come_and_break_again_gains_no_time() -> None:
    members = joined(1, A)
    members.disconnect(A, "p", 10.0)
    members.disconnect(A, "p", 14.0)
    members.disconnect(A, "another", 14.0)
    assert (members.overdue(15.0, 5.0), members.overdue(15.1, 5.0)) == ([], [A])


def test_who_is_lost_is_waited_for_and_who_left_is_not() -> None:
    members = joined(2, A)
    members.leave(A)
    assert not members.over(0.0, 5.0), "one has not come yet"
    members.admit(B, "p", lambda: Participant("p"))
    assert members.complete and not members.over(0.0, 5.0)
    members.disconnect(B, "p", 10.0)
    members.lose(B)
    assert not members.over(14.0, 5.0)
    assert members.over(15.1, 5.0)


def test_members_and_names_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fedps.access.roster.MAX_MEMBERS", 5)
    members = joined(2, *(ClientId(str(n)) for n in range(5)))
    with pytest.raises(RefusedError, match="5 clients take part"):
        members.admit(A, "p", lambda: Participant("p"))
    for n in range(20):
        members.leave(next(iter(members.here)))
        members.admit(ClientId(f"more {n}"), "p", lambda: Participant("p"))
    assert (len(members), len(members.left)) == (5, 5)
