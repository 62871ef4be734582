"""What one peer may do to its own conversation, and to the journal."""

from dataclasses import dataclass, field
from typing import Any

import pytest

from fedps.access.conversation import BURST, MAX_JUNK, MAX_REFUSED, MAX_SUMS, PERIOD, Conversation, Refusals
from fedps.errors import LimitError, RefusedError, TableError, WireError
from fedps.wire.frame import Frame, Limits, decode, encode
from fedps.wire.messages import Hello, Leave, Message, Refused, Welcome
from tests.events.kept import into

Events = list[dict[str, Any]]


@dataclass
class Echo:
    """A host that greets everybody, and refuses all else with a fault it was given."""

    fault: Exception = field(default_factory=lambda: RefusedError("order", "not now"))
    events: Events = field(default_factory=list)
    forgotten: int = 0
    limits: Limits = field(default_factory=Limits)

    def __post_init__(self) -> None:
        self.refusals = Refusals(into(self.events))
        self.sent: list[bytes | None] = []

    def answer(self, conversation: Conversation, frame: Frame) -> None:
        if not isinstance(frame.message, Hello) or frame.message.job != "job":
            raise self.fault
        conversation.reply(frame.ticket, Welcome(0, 1, 0))

    def forget(self, conversation: Conversation) -> None:
        self.forgotten += 1

    def begin(self, name: str | None = "a") -> Conversation:
        conversation = Conversation(self, self.sent.append, "address", 0.0, with_join=False)
        if name is not None:
            conversation.received(encode(1, Hello("job", name, "p", 1)))
        return conversation

    @property
    def last(self) -> Message:
        assert self.sent[-1] is not None
        return decode(self.sent[-1], Limits()).message


@pytest.mark.parametrize(
    ("fault", "kind"),
    [(RefusedError("stale", "x"), "stale"), (LimitError("x"), "too_large"), (WireError("x"), "malformed"), (TableError("x"), "mismatch")],
)  # fmt: skip
def test_a_fault_of_the_peers_is_answered_and_told(fault: Exception, kind: str) -> None:
    host = Echo(fault)
    host.begin().received(encode(7, Leave()))
    assert host.last == Refused(kind, "x")
    assert host.events == [{"event": "refused", "client": "a", "kind": kind, "reason": "x", "count": 1}]


def test_a_fault_of_ours_is_not_the_peers() -> None:
    with pytest.raises(ZeroDivisionError):
        Echo(ZeroDivisionError()).begin().received(encode(7, Leave()))


def test_a_name_is_a_claim_until_it_is_greeted() -> None:
    host = Echo()
    stranger = host.begin(None)
    stranger.received(encode(1, Hello("another job", "boss", "p", 1)))
    assert (stranger.client, stranger.instance) == (None, "")
    assert [e["client"] for e in host.events] == ["address"]
    with pytest.raises(RefusedError):
        _ = stranger.known


def test_who_sends_junk_is_hung_up_on_after_a_few() -> None:
    host = Echo()
    conversation = host.begin()
    for _ in range(MAX_JUNK):
        assert host.sent[-1] is not None
        conversation.received(b"junk")
    assert (host.sent[-1], host.forgotten) == (None, 1)
    before = len(host.sent)
    conversation.received(encode(1, Leave()))
    conversation.hang_up()
    conversation.closed()
    assert (len(host.sent), host.forgotten) == (before, 1)


def test_a_stranger_that_guesses_is_hung_up_on_after_a_few() -> None:
    host = Echo()
    stranger = host.begin(None)
    for n in range(MAX_JUNK):
        stranger.received(encode(1, Hello(f"guess {n}", "a", "p", 1)))
    assert host.sent[-1] is None


def test_a_client_that_is_refused_for_what_it_asks_stays() -> None:
    host = Echo()
    conversation = host.begin()
    for _ in range(10 * MAX_JUNK):
        conversation.received(encode(1, Leave()))
    assert host.sent[-1] is not None


def test_who_is_refused_without_end_is_told_to_end_and_hung_up_on() -> None:
    host = Echo()
    conversation = host.begin()
    for ticket in range(MAX_REFUSED - 1):
        conversation.received(encode(ticket + 2, Leave()))
    assert None not in host.sent
    conversation.received(encode(9999, Leave()))
    *_, last, end = host.sent
    assert end is None and last is not None
    frame = decode(last, host.limits)
    assert (frame.ticket, frame.message) == (
        0,
        Refused("busy", "1000 requests in a row were refused: this process must end"),
    )
    assert host.forgotten == 1


def test_who_asks_again_what_found_no_space_stays() -> None:
    host = Echo(RefusedError("no_space", "ask again"))
    conversation = host.begin()
    for ticket in range(MAX_REFUSED + 10):
        conversation.received(encode(ticket + 2, Leave()))
    assert None not in host.sent


def test_a_reason_stays_one_short_line() -> None:
    host = Echo(RefusedError("order", "line\nline\x1b[2J" + "x" * 10_000))
    host.begin().received(encode(1, Leave()))
    assert isinstance(host.last, Refused)
    assert len(host.last.reason) < 700 and host.last.reason.isprintable()
    assert host.last.reason.startswith(r"line\nline\x1b[2Jxxx") and host.last.reason.endswith("x…")


def test_refusals_without_end_make_few_events() -> None:
    events: Events = []
    refusals = Refusals(into(events))
    refusals.tick(0.0)
    for n in range(10_000):
        refusals.add(f"peer {n % 3}", "order", f"reason {n}")
    assert len(events) == BURST
    refusals.tick(PERIOD / 2)
    assert len(events) == BURST
    refusals.tick(PERIOD + 1)
    assert len(events) == BURST + 3
    assert sum(e["count"] for e in events) == refusals.total == 10_000
    refusals.add("peer", "order", "again", 3)
    assert events[-1] == {"event": "refused", "client": "peer", "kind": "order", "reason": "again", "count": 3}
    assert refusals.total == 10_003


def test_as_many_names_as_a_peer_likes_make_few_sums() -> None:
    events: Events = []
    refusals = Refusals(into(events))
    for n in range(10_000):
        refusals.add(f"address {n}", "order", "x")
    refusals.flush()
    assert len(events) <= BURST + MAX_SUMS + 1
    assert sum(e["count"] for e in events) == 10_000
