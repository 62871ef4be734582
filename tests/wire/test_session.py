"""Who may say what when, with both ends joined by plain function calls."""

from itertools import count
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from fedps.errors import LimitError, RefusedError, WireError
from fedps.types import TableSpec
from fedps.wire.frame import Limits, decode, encode
from fedps.wire.messages import (
    Barrier,
    Done,
    Hello,
    Join,
    Leave,
    Message,
    Pull,
    Push,
    Refused,
    Request,
    Seed,
    Values,
    Welcome,
)
from fedps.wire.session import GREETING_BYTES, Caller, Peer
from tests.wire.frames import KEYS, REQUESTS, ROWS

LIMITS = Limits()
HELLO, JOIN, PULL = Hello("job", "7", "process", 1), Join((), 0), Pull(("item", "bias"))
tickets = count(1)


def say(peer: Peer, message: Message, answer: Message | None = None) -> None:
    """Let the peer hear a message, and answer it."""
    frame = peer.receive(encode(next(tickets), message, arrays_of(message)))
    if answer is not None:
        peer.reply(frame.ticket, answer)


def arrays_of(message: Message) -> list[NDArray[Any]]:
    return [a for said, arrays in REQUESTS if said == message for a in arrays]


def joined_peer() -> Peer:
    peer = Peer(LIMITS)
    say(peer, HELLO, Welcome(0, 1, 0))
    say(peer, JOIN, Done())
    return peer


LATER = [message for message, _ in REQUESTS if not isinstance(message, Hello | Join)]


@pytest.mark.parametrize("message", [JOIN, *LATER], ids=lambda m: type(m).__name__)
def test_nothing_is_heard_before_hello(message: Message) -> None:
    with pytest.raises(RefusedError, match="before Hello") as caught:
        say(Peer(LIMITS), message)
    assert caught.value.kind == "order"


@pytest.mark.parametrize("message", LATER, ids=lambda m: type(m).__name__)
def test_nothing_but_join_is_heard_before_join(message: Message) -> None:
    peer = Peer(LIMITS)
    say(peer, HELLO, Welcome(0, 1, 0))
    with pytest.raises(RefusedError, match="before Join"):
        say(peer, message)
    say(peer, JOIN, Done())
    say(peer, message)


def test_a_stranger_may_not_send_more_than_a_greeting_takes() -> None:
    peer = Peer(LIMITS)
    hello = encode(
        1, Hello("job", "7", "process", 1, shared={f"key {k}": "0123abcd" for k in range(GREETING_BYTES // 16)})
    )
    assert len(hello) < LIMITS.message_bytes
    with pytest.raises(LimitError, match=f"a Hello has at most {GREETING_BYTES}"):
        peer.receive(hello)
    say(peer, HELLO, Welcome(0, 1, 0))


def test_hello_is_said_once() -> None:
    peer = joined_peer()
    with pytest.raises(RefusedError, match="already speaks for client '7'"):
        say(peer, Hello("job", "8", "process", 1))
    assert (peer.client, peer.instance) == ("7", "process")


def test_a_refused_hello_gives_no_right_to_its_name() -> None:
    peer = Peer(LIMITS)
    say(peer, HELLO, Refused("taken", "another process is connected"))
    assert peer.client is None and peer.instance is None
    with pytest.raises(RefusedError, match="before Hello"):
        say(peer, JOIN)
    say(peer, Hello("job", "8", "process", 1), Welcome(0, 1, 0))
    assert peer.client == "8"


def test_a_refused_join_lets_in_to_nothing() -> None:
    peer = Peer(LIMITS)
    say(peer, HELLO, Welcome(0, 1, 0))
    say(peer, JOIN, Refused("mismatch", "another shape"))
    with pytest.raises(RefusedError, match="before Join"):
        say(peer, PULL)
    say(peer, JOIN, Done())
    say(peer, PULL)


def test_a_later_refusal_takes_no_right_away() -> None:
    peer = joined_peer()
    say(peer, PULL, Refused("unknown_table", "no such table"))
    say(peer, PULL, Values(()))
    assert peer.client == "7"


def test_a_refusal_can_name_its_request_unless_that_could_not_be_read() -> None:
    peer = Peer(LIMITS)
    with pytest.raises(RefusedError):
        peer.receive(encode(41, Leave()))
    assert peer.ticket == 41
    with pytest.raises(WireError):
        peer.receive(b"junk")
    assert peer.ticket == 0


def answered(caller: Caller, data: bytes, answer: Message = Done()) -> object:  # noqa: B008 (frozen)
    frame = caller.receive(encode(decode(data, LIMITS).ticket, answer))
    return frame and frame.message


def test_replies_find_their_requests_in_any_order() -> None:
    caller = Caller(LIMITS)
    (one, first), (two, second) = caller.request(Barrier(1, "trained")), caller.request(Leave())
    assert one != two
    assert answered(caller, second, Done(2)) == Done(2)
    assert caller.unanswered() == [first]
    assert answered(caller, first, Done(1)) == Done(1)
    assert caller.unanswered() == []


@pytest.mark.parametrize(
    ("data", "match"),
    [
        (encode(1, Leave()), "Leave is no reply"),
        (encode(9, Done()), "ticket 9, which is not open"),
        (b"junk", "do not begin as a fedps frame"),
    ],
)
def test_what_answers_nothing_is_an_error(data: bytes, match: str) -> None:
    caller = Caller(LIMITS)
    caller.request(Leave())
    with pytest.raises(WireError, match=match):
        caller.receive(data)


def test_a_reply_counts_once() -> None:
    caller = Caller(LIMITS)
    _, data = caller.request(Leave())
    answered(caller, data)
    with pytest.raises(WireError, match="not open"):
        answered(caller, data)


def test_a_refusal_without_a_ticket_is_told() -> None:
    caller = Caller(LIMITS)
    caller.request(Leave())
    with pytest.raises(RefusedError, match="bytes that are no message"):
        caller.receive(encode(0, Refused("malformed", "bytes that are no message")))


def test_too_large_a_request_is_not_sent_and_takes_no_ticket() -> None:
    caller = Caller(Limits(message_bytes=200))
    with pytest.raises(LimitError, match=r"Seed of .* limit of 200 bytes a message: raise limits\.message_mib"):
        caller.request(Seed("bias"), [np.zeros((1, 100), np.float32)])
    assert caller.unanswered() == []
    assert caller.request(Leave())[0] == 1


def test_tables_that_no_header_holds_are_refused_before_they_are_sent() -> None:
    caller = Caller(Limits(header_bytes=1000))
    tables = tuple(TableSpec(f"t{k}" + "x" * 50, "sparse", (9, 1)) for k in range(9))
    with pytest.raises(LimitError, match=r"Join with a header of .* limit of 1000 bytes: use fewer tables"):
        caller.request(Join(tables, 0))
    assert caller.unanswered() == []
    caller.request(Join(tables[:2], 0))


def test_after_a_reconnect_join_is_said_first_and_its_second_answer_is_passed_over() -> None:
    caller = Caller(LIMITS)
    _, join = caller.request(JOIN)
    answered(caller, join)
    _, pull = caller.request(Pull(("item",)), [KEYS])
    assert caller.unanswered() == [join, pull]
    assert answered(caller, join) is None
    assert answered(caller, pull) == Done()
    with pytest.raises(WireError, match="not open"):
        answered(caller, join)


def test_a_join_that_a_restarted_server_refuses_is_told() -> None:
    caller = Caller(LIMITS)
    _, join = caller.request(JOIN)
    answered(caller, join)
    caller.unanswered()
    with pytest.raises(RefusedError, match="another shape"):
        answered(caller, join, Refused("mismatch", "another shape"))


def part(caller: Caller, number: int, sequence: int = 1, parts: int = 3) -> bytes:
    message: Request = Push(("item",), sequence, 0, part=number, parts=parts)
    return caller.request(message, [KEYS, ROWS])[1]


def test_answered_parts_are_said_again_until_their_push_is_whole() -> None:
    caller = Caller(LIMITS)
    zero, one = part(caller, 0), part(caller, 1)
    answered(caller, zero)
    assert caller.unanswered() == [zero, one]  # a new connection has forgotten part 0
    assert answered(caller, zero) is None
    answered(caller, one)
    two = part(caller, 2)
    assert caller.unanswered() == [zero, one, two]
    answered(caller, two)
    assert caller.unanswered() == []


def test_a_whole_push_leaves_the_parts_of_the_next_alone() -> None:
    caller = Caller(LIMITS)
    first = [part(caller, k, sequence=1) for k in range(3)]
    second = [part(caller, k, sequence=2) for k in range(3)]
    answered(caller, second[0])
    for data in first:
        answered(caller, data)
    assert caller.unanswered() == second


@pytest.mark.parametrize("lost_after", range(4))
def test_both_ends_agree_after_a_cut_anywhere_in_a_push(lost_after: int) -> None:
    caller, old, new = Caller(LIMITS), joined_peer(), joined_peer()
    parts = [part(caller, k) for k in range(3)]
    for data in parts[:lost_after]:
        frame = old.receive(data)
        caller.receive(old.reply(frame.ticket, Done()))
    heard = [new.receive(data).message for data in caller.unanswered()]
    assert [m.part for m in heard if isinstance(m, Push)] == ([0, 1, 2] if lost_after < 3 else [])


def test_what_found_no_space_is_said_again_with_all_its_parts() -> None:
    caller = Caller(LIMITS)
    zero, one, pull = part(caller, 0, parts=2), part(caller, 1, parts=2), caller.request(PULL, [KEYS, KEYS])[1]
    assert answered(caller, zero) == Done()
    full = Refused("no_space", "the disk is full")
    assert answered(caller, one, full) is None and caller.put_off
    assert caller.again() == [zero, one] and not caller.put_off
    assert answered(caller, zero) is None, "it was answered before"
    assert answered(caller, one, full) is None
    assert caller.again() == [zero, one]
    assert answered(caller, zero) is None
    assert answered(caller, one) == Done()
    assert caller.unanswered() == [pull]
