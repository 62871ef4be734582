"""What passive parties may ask of the active one when: each request once, and back together when one was started again."""

from typing import Any

import numpy as np
import pytest

from fedps.errors import LostError, RefusedError
from fedps.vertical.turns import Again, Arrays, Phase, Turns
from fedps.wire.messages import (
    Alive,
    Begin,
    Begun,
    Blind,
    Cut,
    Done,
    Double,
    EndEpoch,
    GiveUp,
    Gradient,
    Leave,
    PartyReply,
    PartyRequest,
    Refused,
)

BEGIN = Begin("federated", "", (), "digest", 9, 4)
BLIND, DOUBLE = Blind("train", 0, 1), Double("train", 0, 1)
REQUESTS = (BLIND, DOUBLE, BEGIN, Cut("federated", 0), EndEpoch("federated", 0), Leave())
FLOATS = [np.zeros((4, 2), np.float32)]


class Table:
    """Two parties, and what they are told: the connection, the ticket and the answer."""

    def __init__(self, phase: Phase = Phase.MATCH) -> None:
        self.said = list[tuple[Any, int, PartyReply]]()
        self.turns = Turns(("bank", "mail"), self.hear)
        self.turns.phase = phase
        for party in ("bank", "mail"):
            self.turns.greet(party, "first")

    def hear(self, to: object, ticket: int, message: PartyReply, arrays: Arrays) -> None:
        self.said.append((to, ticket, message))

    def ask(self, ticket: int, message: PartyRequest, party: str = "bank", to: str = "line") -> PartyReply | None:
        """Ask; return what is answered at once."""
        before = len(self.said)
        self.turns.ask(party, ticket, message, [], to)
        return self.said[-1][2] if len(self.said) > before else None

    def reply(self, message: PartyReply, party: str = "bank") -> None:
        """Take a party's next request, and answer it."""
        self.turns.answer(self.turns.take(party), message)


@pytest.mark.parametrize(
    ("phase", "due"),
    [(Phase.MATCH, REQUESTS[:2]), (Phase.BEGIN, REQUESTS[2:3]), (Phase.STEP, REQUESTS[3:5]), (Phase.END, REQUESTS[5:])],
)
@pytest.mark.parametrize("message", REQUESTS, ids=lambda message: type(message).__name__)
def test_what_is_not_due_is_refused_or_takes_all_back(
    phase: Phase, due: tuple[PartyRequest, ...], message: PartyRequest
) -> None:
    table = Table(phase)
    answer, turns = table.ask(1, message), table.turns
    if message in due:
        assert answer is None and turns.phase is phase and not turns.returned
    elif (message, phase > Phase.MATCH) == (BLIND, True):
        assert answer is None and turns.phase is Phase.MATCH and turns.returned
    elif (message, phase > Phase.BEGIN) == (BEGIN, True):
        assert answer is None and turns.phase is Phase.BEGIN and turns.returned
    else:
        assert isinstance(answer, Refused) and answer.kind == ("stale" if phase else "order")
        assert turns.phase is phase and not turns.returned
    assert (turns.next_of("bank") is not None) == (answer is None)


def test_who_was_started_again_takes_all_back_and_what_others_wait_for_is_refused() -> None:
    table = Table(Phase.STEP)
    table.ask(7, Cut("federated", 3))
    table.ask(8, Cut("federated", 4))
    taken = table.turns.take("bank")
    table.turns.greet("mail", "second")
    assert [(ticket, a.kind) for _, ticket, a in table.said if isinstance(a, Refused)] == [(7, "stale"), (8, "stale")]
    with pytest.raises(Again):
        table.turns.check()
    with pytest.raises(Again):
        table.turns.enter(Phase.STEP)
    table.turns.answer(taken, Gradient(3))  # too late: it was refused
    assert len(table.said) == 2
    assert table.turns.resume() is Phase.BEGIN
    assert table.ask(9, BEGIN) is None and table.ask(1, BEGIN, "mail") is None
    table.turns.check()
    table.turns.greet("mail", "second")  # on another connection: nothing changes
    table.turns.check()
    assert table.turns.next_of("mail") is not None


def test_a_process_that_is_over_is_not_answered() -> None:
    table = Table(Phase.BEGIN)
    table.ask(1, BEGIN)
    taken = table.turns.take("bank")
    table.turns.greet("bank", "second")
    table.turns.resume()
    table.ask(1, BEGIN, to="second line")
    table.turns.answer(taken, Begun(0, "run", ()))
    assert table.said == []
    table.reply(Begun(4, "run", ()))
    assert table.said == [("second line", 1, Begun(4, "run", ()))]


def test_what_is_said_again_is_answered_as_before_and_seen_once() -> None:
    table = Table(Phase.STEP)
    table.ask(1, Cut("federated", 0))
    table.ask(1, Cut("federated", 0), to="new line")  # its connection broke before it was answered
    assert table.turns.take("bank").ticket == 1 and table.turns.next_of("bank") is None
    table.ask(2, Cut("federated", 1))
    table.reply(Gradient(1))
    assert table.said == [("line", 2, Gradient(1))]
    assert table.ask(2, Cut("federated", 1), to="newer line") == Gradient(1)  # and after
    assert table.said[-1][0] == "newer line" and table.turns.next_of("bank") is None


def test_answers_are_forgotten_when_nobody_can_miss_them() -> None:
    table = Table(Phase.MATCH)
    for ticket in range(1, 5):
        table.turns.ask("bank", ticket, DOUBLE, [], "line")
        table.turns.answer(table.turns.take("bank"), Done(), [np.zeros(12 << 20, np.uint8)])
    assert table.ask(4, DOUBLE) == Done() and table.ask(3, DOUBLE) == Done()
    with pytest.raises(RefusedError, match=r"party bank says what was said long ago.*\[stale\]"):
        table.ask(1, DOUBLE)


def test_nobody_asks_for_more_than_its_part_of_the_job_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fedps.vertical.turns.SMALL", 200)
    table = Table(Phase.STEP)
    table.turns.hold("bank", 800)
    table.turns.hold("bank", 30)  # as less is needed later, nothing that is under way is refused
    for ticket in range(31):
        table.turns.ask("bank", ticket + 1, Cut("federated", ticket), FLOATS, "line")
    with pytest.raises(
        RefusedError,
        match=r"party bank asks for more than 31 things at once, .* what its part of the job needs \[busy\]",
    ):
        table.turns.ask("bank", 32, Cut("federated", 31), FLOATS, "line")
    for ticket in range(6):
        table.turns.ask("mail", ticket + 1, Cut("federated", ticket), FLOATS, "line")
    with pytest.raises(RefusedError, match=r"party mail asks for more than 6 things at once"):
        table.turns.ask("mail", 7, Cut("federated", 6), FLOATS, "line")


def test_signs_of_life_and_last_words_may_be_said_at_any_time() -> None:
    table = Table(Phase.STEP)
    assert table.ask(1, Alive()) == Done()
    table.turns.check()
    assert table.ask(2, GiveUp("its file is gone"), "mail") == Done()
    with pytest.raises(LostError, match="party mail cannot go on: its file is gone"):
        table.turns.check()
