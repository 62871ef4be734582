"""The active party's door: whatever bytes a passive party sends are answered, or end its connection, and never raise."""

import random
from pathlib import Path

import pytest

from fedps.config.vertical import shared_part
from fedps.events.events import Event
from fedps.types import Identity
from fedps.vertical.meeting import Meeting
from fedps.vertical.turns import Phase
from fedps.wire.frame import Limits, decode, encode
from fedps.wire.messages import Hello, Pull, Refused, Welcome
from tests.vertical.parties import vertical_job
from tests.wire.frames import MESSAGES, spoil

GOOD = [encode(k + 2, message, arrays) for k, (message, arrays) in enumerate(MESSAGES)]


class Talk:
    """A connection to a meeting, and what was answered on it; the last of these is None if it was hung up on."""

    def __init__(self, meeting: Meeting, name: str = "bank", identity: Identity | None = None) -> None:
        self.answers = list[bytes | None]()
        self.connection = meeting.opened(self.answers.append, "ipv4:10.0.0.9:1", identity)
        self.hello = Hello("job", name, "process", 1, to="party")

    def greet(self, shared: dict[str, str]) -> Welcome | Refused:
        self.connection.received(
            encode(1, Hello("job", self.hello.client, "process", 1, to="party", shared=shared))
        )  # fmt: skip
        answer = self.answers[-1]
        assert answer is not None
        message = decode(answer, Limits()).message
        assert isinstance(message, Welcome | Refused)
        return message


@pytest.fixture
def told() -> list[Event]:
    return []


@pytest.fixture
def meeting(tmp_path: Path, told: list[Event]) -> Meeting:
    job = vertical_job(tmp_path)
    return Meeting(job, shared_part(job), told.append)


@pytest.mark.parametrize("phase", list(Phase))
def test_no_bytes_raise(meeting: Meeting, tmp_path: Path, phase: Phase) -> None:
    rng, shared = random.Random(phase), shared_part(vertical_job(tmp_path))
    for _ in range(40):
        talk = Talk(meeting)
        assert isinstance(talk.greet(shared), Welcome)
        meeting.resume()
        meeting._turns.fault = None
        meeting.enter(phase)
        for _ in range(40):
            talk.connection.received(spoil(rng, GOOD))
        talk.connection.closed()
    assert meeting.refusals.total > 100


def test_what_is_for_others_is_refused(meeting: Meeting, tmp_path: Path) -> None:
    talk = Talk(meeting)
    talk.greet(shared_part(vertical_job(tmp_path)))
    talk.connection.received(encode(2, Pull(())))
    assert talk.answers[-1] is not None
    refused = decode(talk.answers[-1], Limits()).message
    assert isinstance(refused, Refused) and "Pull is nothing to say to an active party" in refused.reason


@pytest.mark.parametrize(
    ("role", "name", "said"),
    [
        ("party", "bank", ""),
        ("party", "mail", "speaks as 'mail' alone, and not for passive party 'bank'"),
        ("client", "bank", "a party is dialled by a party alone"),
        ("server", "0", "server 0 may not say Hello"),
        ("observer", "bank", "a party is dialled by a party alone"),
    ],
)
def test_a_certificate_of_another_role_or_name_is_refused(
    meeting: Meeting, tmp_path: Path, role: str, name: str, said: str
) -> None:
    answer = Talk(meeting, identity=Identity(role, name, 1, 0.0, 1e12)).greet(shared_part(vertical_job(tmp_path)))
    assert (said in answer.reason and answer.kind == "identity") if isinstance(answer, Refused) else not said


def test_bytes_are_counted_both_ways(meeting: Meeting, tmp_path: Path) -> None:
    talk = Talk(meeting)
    talk.greet(shared_part(vertical_job(tmp_path)))
    assert meeting.bytes > len(talk.answers[0] or b"") > 0
