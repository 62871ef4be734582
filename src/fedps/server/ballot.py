"""Which tables a shard has, when clients declare them differently.

All workers of a job declare the same tables, and a server cannot know the job's model. So the first declaration holds
at once, and most clients' word holds in the end: who declares something else waits, and once more than half of the
expected clients say the same, their declaration takes the place of the first. One wrong client, though it be the first,
thus neither keeps the others out nor adds tables to theirs. Where it stays undecided, the caller ends it by `plurality`.
"""

from collections.abc import Iterable

from fedps.types import ClientId, TableSpec

Declaration = frozenset[TableSpec]
MAX_VOTES = 4096  # names remembered; later ones are served, but do not count


class Ballot:
    """Counts which client declared what; a client's last word counts."""

    def __init__(self) -> None:
        self.chosen: Declaration | None = None
        self._votes: dict[ClientId, Declaration] = {}

    def vote(self, client: ClientId, tables: Iterable[TableSpec]) -> Declaration:
        """Note what a client declares; the first declaration of all is chosen."""
        declared = frozenset(tables)
        if client in self._votes or len(self._votes) < MAX_VOTES:
            self._votes[client] = declared
        if self.chosen is None:
            self.chosen = declared
        return declared

    def withdraw(self, client: ClientId) -> None:
        """Forget what a client declared."""
        self._votes.pop(client, None)

    def backers(self, declared: Declaration | None) -> list[ClientId]:
        """Return who declared this, in the order of their first words."""
        return [client for client, said in self._votes.items() if said == declared]

    def backs_chosen(self, client: ClientId) -> bool:
        """Whether this client declared what is chosen."""
        return self.chosen is not None and self._votes.get(client) == self.chosen

    def settled(self, expected: int) -> bool:
        """Whether half of the expected clients or more stand behind what is chosen: nothing can outvote it."""
        return 2 * len(self.backers(self.chosen)) >= expected

    def outvoted_by(self, declared: Declaration, expected: int) -> bool:
        """Whether more than half of the expected clients declare this instead of what is chosen."""
        return declared != self.chosen and 2 * len(self.backers(declared)) > expected

    def plurality(self) -> Declaration | None:
        """Return what most clients declare; what is chosen wins a tie."""
        said = list(dict.fromkeys(self._votes.values()))
        return max(said, key=lambda d: (len(self.backers(d)), d == self.chosen), default=self.chosen)


def difference(here: Declaration | None, there: Declaration) -> str:
    """Say in which table a declaration differs from the one that is kept here."""
    ours, theirs = {t.name: t for t in here or ()}, {t.name: t for t in there}
    name = min(n for n in ours.keys() | theirs.keys() if ours.get(n) != theirs.get(n))
    return f"table {name!r} is {ours.get(name)} here, not {theirs.get(name)}: another job's model?"
