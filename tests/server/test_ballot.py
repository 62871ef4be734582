"""One wrong declaration, though it come first, keeps nobody out."""

import time
from pathlib import Path

import numpy as np
import pytest

from fedps.errors import RefusedError
from fedps.server.ballot import Ballot, Candidate, Verdict
from fedps.server.server import ParameterServer
from fedps.types import ClientId, Rule, TableSpec
from fedps.wire.messages import Done, Join, Pull, Refused, Seed
from tests.conftest import MakeJob
from tests.server.callers import BIAS, ROWS, Caller, ones, push

WRONG = TableSpec("rows", "sparse", (100, 5), Rule("add"))
EXTRA = TableSpec("extra", "sparse", (100, 4), Rule("add"))
A, B, C = ClientId("a"), ClientId("b"), ClientId("c")


def make_server(make_job: MakeJob, folder: Path, clients: int, mode: str = "async") -> ParameterServer:
    server = ParameterServer(make_job(sync_mode=mode, start_timeout=30.0), 0, folder / "run", lambda event: None)
    server.members.expect(clients)
    return server


def ask_to_join(server: ParameterServer, client: str, *tables: TableSpec) -> tuple[Caller, int]:
    caller = Caller(server, client)
    return caller, caller.send(Join(tables, 0))


class Asking:
    """A conversation of which a ballot asks nothing but who speaks."""

    def __init__(self, client: ClientId) -> None:
        self.client = self.known = client


def candidate(client: ClientId, *tables: TableSpec) -> Candidate:
    return Candidate(Asking(client), 1, Join(tables, 0))  # type: ignore[arg-type]


def test_the_first_word_is_chosen_and_more_than_half_outvote_it() -> None:
    ballot = Ballot()
    first, second, third = candidate(A, WRONG), candidate(B, ROWS), candidate(C, ROWS)
    assert ballot.vote(first, 3) == Verdict([first])
    assert ballot.vote(second, 3) == Verdict()
    assert ballot.chosen == frozenset({WRONG})
    assert ballot.vote(third, 3) == Verdict([second, third], [], (ROWS,), [A])
    assert ballot.chosen == frozenset({ROWS}) and not ballot.waiting


def test_at_the_deadline_most_words_hold_and_a_tie_is_the_first_ones() -> None:
    for backers, refused in (((B,), True), ((B, C), False)):
        ballot = Ballot()
        ballot.vote(candidate(A, WRONG), 9)
        waiting = [candidate(client, ROWS) for client in backers]
        for one in waiting:
            ballot.vote(one, 9)
        assert ballot.close() == (Verdict(refused=waiting) if refused else Verdict(waiting, [], (ROWS,), [A]))
        assert ballot.close() == Verdict(), "it is decided once"


def test_half_of_the_clients_cannot_be_outvoted() -> None:
    for expected, settled in ((2, True), (3, False)):
        ballot = Ballot()
        ballot.vote(candidate(A, ROWS), expected)
        if settled:
            with pytest.raises(RefusedError, match="another job's model"):
                ballot.vote(candidate(B, WRONG), expected)
        else:
            assert ballot.vote(candidate(B, WRONG), expected) == Verdict()


@pytest.mark.parametrize("wrong", [(WRONG, BIAS), (ROWS, BIAS, EXTRA), (ROWS,), ()], ids=str)
@pytest.mark.parametrize("mode", ["async", "geo"])
def test_a_wrong_first_declaration_is_outvoted(
    wrong: tuple[TableSpec, ...], mode: str, make_job: MakeJob, tmp_path: Path
) -> None:
    server = make_server(make_job, tmp_path, 5, mode)
    bad, joined = ask_to_join(server, "bad", *wrong)
    assert bad.answers(joined) == [Done(0)]
    honest = [ask_to_join(server, name, ROWS, BIAS) for name in "abc"]
    assert [caller.answers(ticket) for caller, ticket in honest] == [[Done(0)]] * 3  # the third decides for all
    assert bad.hung_up and server.members.get(ClientId("bad")) is None
    last = Caller(server, "d").join()
    server.members.expect(4)
    callers = [last, *(caller for caller, _ in honest)]
    for caller in callers:
        assert isinstance(caller.ask(Seed("bias"), np.zeros((1, 3), np.float32)), Done)
        assert isinstance(caller.ask(*push(1, [3], ones(1))), Done)
    assert last.rows(3)[0][0] > 1
    again = Caller(server, "bad").ask(Join(wrong, 0))
    assert isinstance(again, Refused) and again.kind == "mismatch" and "another job's model?" in again.reason


def test_a_minority_is_refused_at_once_when_the_vote_is_settled(make_job: MakeJob, tmp_path: Path) -> None:
    server = make_server(make_job, tmp_path, 4)
    a, _ = Caller(server, "a").join(), Caller(server, "b").join()
    refused = Caller(server, "bad").ask(Join((ROWS, BIAS, EXTRA), 0))
    assert isinstance(refused, Refused) and "table 'extra' is None here" in refused.reason
    assert isinstance(a.ask(*push(1, [3], ones(1))), Done)  # no table was added to those a push must carry


def test_who_has_joined_cannot_declare_otherwise(make_job: MakeJob, tmp_path: Path) -> None:
    server = make_server(make_job, tmp_path, 9)
    refused = Caller(server, "a").join().ask(Join((WRONG, BIAS), 0))
    assert isinstance(refused, Refused) and refused.kind == "mismatch"


def test_what_stays_undecided_ends_at_the_start_deadline(make_job: MakeJob, tmp_path: Path) -> None:
    for wrongs, rights in ((1, 2), (2, 1), (1, 1)):
        server = make_server(make_job, tmp_path, 9)
        wrong = [ask_to_join(server, f"w{n}", WRONG, BIAS) for n in range(wrongs)]
        right = [ask_to_join(server, f"r{n}", ROWS, BIAS) for n in range(rights)]
        assert all(caller.answers(ticket) == [] for caller, ticket in right)
        server.tick(time.monotonic() + 31)
        answers = [caller.answers(ticket)[0] for caller, ticket in right]
        assert {type(a) for a in answers} == {Done if rights > wrongs else Refused}
        assert all(caller.hung_up == (rights > wrongs) for caller, _ in wrong)


def test_a_join_that_waits_lets_nothing_else_be_said_and_goes_with_its_connection(
    make_job: MakeJob, tmp_path: Path
) -> None:
    server = make_server(make_job, tmp_path, 5)
    Caller(server, "bad").join(WRONG, BIAS)
    waiting, ticket = ask_to_join(server, "a", ROWS, BIAS)
    early = waiting.ask(Pull(("rows",)), np.array([1]))
    assert isinstance(early, Refused) and "before Join" in early.reason
    again = waiting.ask(Join((ROWS, BIAS), 0))
    assert isinstance(again, Refused) and "waits for the other clients' word" in again.reason
    gone, _ = ask_to_join(server, "b", ROWS, BIAS)
    gone.connection.closed()
    for name in "cd":
        ask_to_join(server, name, ROWS, BIAS)
    assert [r.ticket for r in waiting.replies].count(ticket) == 1  # b's word went with it: c and d were needed
    assert gone.answers(2) == []


def test_an_impossible_declaration_has_no_vote(make_job: MakeJob, tmp_path: Path) -> None:
    server = make_server(make_job, tmp_path, 5)
    Caller(server, "a").join()
    refused = Caller(server, "bad").ask(Join((TableSpec("rows", "sparse", (100, 2**27)),), 0))
    assert isinstance(refused, Refused) and "over the limit" in refused.reason
    assert server.ballot.waiting == {}
