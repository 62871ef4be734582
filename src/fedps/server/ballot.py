"""Which tables a shard has, when clients declare them differently.

All workers of a job declare the same tables, and a server cannot know the job's model. So the first declaration holds
at once, and most clients' word holds in the end: who declares something else waits, and once more than half of the
expected clients say the same, their declaration takes the place of the first. One wrong client, though it be the first,
thus neither keeps the others out nor adds tables to theirs. Where it stays undecided, the caller ends it by `close`.

A ballot only decides. What follows for tables, members and connections is the server's to do.
"""

from typing import NamedTuple

from fedps.access.conversation import Conversation
from fedps.errors import RefusedError
from fedps.types import ClientId, TableSpec
from fedps.wire.messages import Join

Declaration = frozenset[TableSpec]
MAX_VOTES = 4096  # names remembered; later ones are served, but do not count


class Candidate(NamedTuple):
    """A Join that is to be answered."""

    conversation: Conversation
    ticket: int
    join: Join

    @property
    def client(self) -> ClientId:
        """Who asks to join."""
        return self.conversation.known

    @property
    def declared(self) -> Declaration:
        """The tables it declares, in any order."""
        return frozenset(self.join.tables)


class Verdict(NamedTuple):
    """What a vote decides.

    Attributes:
        tables: take the place of the tables there are; None: these stay.
        outvoted: clients that declared those, and take part no more.
        admitted: whose Join is granted.
        refused: whose Join is not.
    """

    tables: tuple[TableSpec, ...] | None = None
    outvoted: tuple[ClientId, ...] = ()
    admitted: tuple[Candidate, ...] = ()
    refused: tuple[Candidate, ...] = ()


class Ballot:
    """Counts which client declared what; a client's last word counts.

    Attributes:
        chosen: the declaration that holds, None before the first.
        waiting: who declares another, by client.
    """

    def __init__(self) -> None:
        self.chosen: Declaration | None = None
        self.waiting: dict[ClientId, Candidate] = {}
        self._votes: dict[ClientId, Declaration] = {}

    def vote(self, candidate: Candidate, expected: int) -> Verdict:
        """Count a client's declaration. The first of all is chosen; another waits, or is chosen in its place.

        Raises:
            RefusedError: most clients declare otherwise, this one did before, or its last Join waits still.
        """
        client, declared = candidate.client, candidate.declared
        if self.chosen in (None, declared):
            self.chosen = declared
            self.waiting.pop(client, None)
            self._note(client, declared)
            return Verdict(admitted=(candidate,))
        if client in self.waiting:
            raise RefusedError("order", "your last Join waits for the other clients' word")
        # Half of the expected clients cannot be outvoted, and who is in by a declaration cannot vote against it.
        if self._votes.get(client) == self.chosen or 2 * len(self._backers(self.chosen)) >= expected:
            raise self.mismatch(declared)
        self._note(client, declared)
        self.waiting[client] = candidate
        if 2 * len(self._backers(declared)) > expected:
            return self._elect(declared)
        return Verdict()

    def withdraw(self, client: ClientId) -> None:
        """Forget what a client declared."""
        self.waiting.pop(client, None)
        self._votes.pop(client, None)

    def forget(self, conversation: Conversation) -> None:
        """Forget a candidate whose connection is gone; its word goes with it."""
        candidate = self.waiting.get(conversation.client or ClientId(""))
        if candidate is not None and candidate.conversation is conversation:
            self.withdraw(candidate.client)

    def close(self) -> Verdict:
        """End a vote that stays undecided: what most clients declare holds, and in a tie what is chosen."""
        said = list(dict.fromkeys(self._votes.values()))
        most = max(said, key=lambda d: (len(self._backers(d)), d == self.chosen), default=self.chosen)
        if self.waiting and most is not None and most != self.chosen:
            return self._elect(most)
        return Verdict(refused=self._take_waiting(None))

    def mismatch(self, declared: Declaration) -> RefusedError:
        """Return a refusal that names a table in which a declaration differs from the one that is chosen."""
        ours, theirs = {t.name: t for t in self.chosen or ()}, {t.name: t for t in declared}
        name = min(n for n in ours.keys() | theirs.keys() if ours.get(n) != theirs.get(n))
        return RefusedError(
            "mismatch", f"table {name!r} is {ours.get(name)} here, not {theirs.get(name)}: another job's model?"
        )

    def _elect(self, declared: Declaration) -> Verdict:
        outvoted, self.chosen = tuple(self._backers(self.chosen)), declared
        for client in outvoted:
            self.withdraw(client)
        admitted = self._take_waiting(declared)
        return Verdict(admitted[0].join.tables, outvoted, admitted, self._take_waiting(None))

    def _take_waiting(self, declared: Declaration | None) -> tuple[Candidate, ...]:
        """Take out who waits with this declaration, or with any; whoever is not let in has no word any more."""
        taken = tuple(c for c in self.waiting.values() if declared in (None, c.declared))
        for candidate in taken:
            del self.waiting[candidate.client]
            if declared is None:
                self.withdraw(candidate.client)
        return taken

    def _backers(self, declared: Declaration | None) -> list[ClientId]:
        """Return who declared this, in the order of their first words."""
        return [client for client, said in self._votes.items() if said == declared]

    def _note(self, client: ClientId, declared: Declaration) -> None:
        if client in self._votes or len(self._votes) < MAX_VOTES:
            self._votes[client] = declared
