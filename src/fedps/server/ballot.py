"""Which tables a shard has, when clients declare them differently.

All workers of a job declare the same tables, and a server cannot know the job's model. So the first declaration holds
at once, and most clients' word holds in the end: who declares something else waits, and once more than half of the
expected clients say the same, their declaration takes the place of the first. One wrong client, though it be the first,
thus neither keeps the others out nor adds tables to theirs. Where it stays undecided, the caller ends it by `close`.

A ballot only decides. What follows for tables, members and connections is the server's to do.
"""

from collections.abc import Sequence
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
    def declared(self) -> Declaration:
        """The tables it declares, in any order."""
        return frozenset(self.join.tables)


class Verdict(NamedTuple):
    """What a vote decides.

    Attributes:
        admitted: whose Join is granted.
        refused: whose Join is not.
        tables: they take the place of the tables there are; None: these stay.
        outvoted: clients that declared those, and take part no more.
    """

    admitted: Sequence[Candidate] = ()
    refused: Sequence[Candidate] = ()
    tables: tuple[TableSpec, ...] | None = None
    outvoted: Sequence[ClientId] = ()


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
        client, declared = candidate.conversation.known, candidate.declared
        if self.chosen in (None, declared):
            self.chosen = declared
            self.waiting.pop(client, None)
            self._note(client, declared)
            return Verdict([candidate])
        if client in self.waiting:
            raise RefusedError("order", "your last Join waits for the other clients' word")
        # Half of the expected clients cannot be outvoted, and who is in by a declaration cannot vote against it.
        if self._votes.get(client) == self.chosen or 2 * len(self._backers(self.chosen)) >= expected:
            raise self.mismatch(declared)
        self._note(client, declared)
        self.waiting[client] = candidate
        return self._elect(declared) if 2 * len(self._backers(declared)) > expected else Verdict()

    def know(self, client: ClientId) -> None:
        """Note that a client is in by the declaration that holds."""
        if self.chosen is not None:
            self._note(client, self.chosen)

    def strike(self, client: ClientId) -> None:
        """Forget what a client declared that was outvoted: it may come again, and declare what the others do."""
        self._votes.pop(client, None)

    def close(self) -> Verdict:
        """End a vote that stays undecided: what most clients declare holds, and in a tie what is chosen."""
        if not self.waiting:
            return Verdict()
        declarations = dict.fromkeys(self._votes.values())
        most = max(declarations, key=lambda d: (len(self._backers(d)), d == self.chosen))
        return self._elect(most) if most != self.chosen else Verdict(refused=self._dismiss())

    def forget(self, conversation: Conversation) -> None:
        """Forget a candidate whose connection is gone; its word goes with it."""
        for client in [c for c, candidate in self.waiting.items() if candidate.conversation is conversation]:
            del self.waiting[client]
            self._votes.pop(client, None)

    def mismatch(self, declared: Declaration) -> RefusedError:
        """Return a refusal that names a table in which a declaration differs from the one that is chosen."""
        ours, theirs = {t.name: t for t in self.chosen or ()}, {t.name: t for t in declared}
        name = min(n for n in ours.keys() | theirs.keys() if ours.get(n) != theirs.get(n))
        return RefusedError(
            "mismatch", f"table {name!r} is {ours.get(name)} here, not {theirs.get(name)}: another job's model?"
        )

    def _elect(self, declared: Declaration) -> Verdict:
        outvoted, self.chosen = self._backers(self.chosen), declared
        for client in outvoted:
            self.strike(client)
        admitted = [candidate for candidate in self.waiting.values() if candidate.declared == declared]
        for candidate in admitted:
            del self.waiting[candidate.conversation.known]
        return Verdict(admitted, self._dismiss(), admitted[0].join.tables, outvoted)

    def _dismiss(self) -> list[Candidate]:
        """Take out who waits; its word does not count any more."""
        dismissed, self.waiting = self.waiting, {}
        for client in dismissed:
            self._votes.pop(client, None)
        return list(dismissed.values())

    def _backers(self, declared: Declaration | None) -> list[ClientId]:
        """Return who declared this, in the order of their first words."""
        return [client for client, vote in self._votes.items() if vote == declared]

    def _note(self, client: ClientId, declared: Declaration) -> None:
        if client in self._votes or len(self._votes) < MAX_VOTES:
            self._votes[client] = declared
