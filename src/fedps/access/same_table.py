"""Whether servers give all clients the same: what each was given, as digests, and what differs between them.

Where clients go in step, a row that two of them pull at the same clock is the same row, and a tensor the same tensor. A
server that gives one client another table, so that its push tells more of its data, is found by what the others were given:

1. With each round the coordinator sends all clients one secret, which no server knows.
2. A client notes each row and tensor that it pulls: a *tag*, which follows from table, server, clock and row, and a *digest*
   of the values, 16 bits under the secret. It reports them when the round is over (`Witness`).
3. Equal tags with different digests are a difference, and the run ends (`compare`).

Digests of rows are of a universal family (multiply and shift: Dietzfelbinger, STACS 1996): a change that was made without
knowing the secret is missed about once in 2^15 times. What would be more than half a percent of what the client
pulls and pushes is left out: tags below a bound are kept, which is lowered as they become many. The tags of all clients
follow from the same secret, so those below the lower of two bounds are kept by both, and no server knows which; tensors are
kept `FAVOUR` times longer. The coordinator learns no ids from tags: these follow from the server's `edition` too, a word
that it does not hear.
"""

import hashlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fedps.errors import RefusedError
from fedps.types import ClientId, Keys, TableName, Values
from fedps.wire.messages import Values as Answer
from fedps.wire.pieces import PART_ROWS, Piece

LEAST, MOST = 1 << 12, 1 << 15  # tags of a report that there may be always, and at most
LATEST = 1 << 40  # clocks are counted modulo this, whatever a server says
TOTAL = 1 << 22  # tags of all clients' reports
MOST_PLACES = 1 << 18  # tables and servers
ENTRY = 11  # bytes of a report for each
SHARE = 0.005  # of what is pulled and pushed, that a report may have
FAVOUR = 6  # bits
HELD_PULLS, HELD_BYTES = (
    16,
    2 << 20,
)  # that wait, to be noted together while code and tables are in the processor's cache
SHIFT = np.uint64(64 - 16)  # leaves the upper 16 bits, the ones that are universal
WORDS = 1 << 64
Words = NDArray[np.uint64]
Digests = NDArray[np.uint16]
Place = tuple[TableName, int]


class Seen(NamedTuple):
    """What servers gave a client in a round, as a `RoundReport` brings it.

    Attributes:
        places: tables and servers.
        where: int64[E], sorted: clock * len(places) + place.
        tags: int64[E].
        digests: uint16[E].
    """

    places: tuple[Place, ...]
    where: Keys
    tags: Keys
    digests: Digests


class Witness:
    """Notes what servers give one client, in rounds of which it has the secret.

    Args:
        clients: how many report.
    """

    def __init__(self, clients: int) -> None:
        self._most = min(MOST, TOTAL // clients)
        room = self._most + PART_ROWS
        # Of each tag: what it is made of, the digest, the number of its place, the clock, and the number of its edition.
        self._lots, self._digests = np.empty(room, np.uint64), np.empty(room, np.uint16)
        self._where = np.empty((room, 3), np.int64)
        self.begin(b"")

    def begin(self, secret: bytes) -> None:
        """Begin a round; without a secret nothing of it is noted."""
        self._secret = secret
        self._places: dict[Place, tuple[int, int]] = {}  # the number of each, and what its lots begin with
        self._editions: dict[str, list[int]] = {}  # the number of each, and what follows of keys, clocks, and for tags
        self._keys: dict[int, Words] = {}  # of digests, by floats of a row
        self._below, self._count, self._bytes = WORDS, 0, 0
        self._held, self._held_bytes = list[tuple[int, Answer, Sequence[Piece], Sequence[Values]]](), 0

    def note(self, server: int, answer: Answer, pieces: Sequence[Piece], values: Sequence[Values]) -> None:
        """Note what a server has sent with an answer.

        Args:
            server: its number.
            answer: the message.
            pieces: what it is of.
            values: of each piece float32[U, dim] rows, or floats of a tensor, [1, n]; they never change.
        """
        if not self._secret:
            return
        self._held.append((server, answer, pieces, values))
        self._held_bytes += sum(piece.nbytes for piece in values)
        if len(self._held) == HELD_PULLS or self._held_bytes > HELD_BYTES:
            self._settle()

    def report(self) -> Seen | tuple[tuple[()]]:
        """Return what was noted in this round; no places and nothing else if nothing was."""
        self._settle()
        if not self._count:
            return ((),)
        where = self._where[: self._count, 1] * len(self._places) + self._where[: self._count, 0]
        self._keep(np.argsort(where, kind="stable"))
        scrambles = np.array([scramble for *_, scramble in self._editions.values()], np.uint64)
        tags = _scrambled(self._lots[: self._count], scrambles[self._where[: self._count, 2]])
        return Seen(tuple(self._places), np.sort(where), tags.view(np.int64), self._digests[: self._count].copy())

    def _settle(self) -> None:
        """Note what is held."""
        for pull in self._held:
            self._note(*pull)
        self._held.clear()
        self._held_bytes = 0

    def _note(self, server: int, answer: Answer, pieces: Sequence[Piece], values: Sequence[Values]) -> None:
        edition, of_key, of_clock, _ = self._edition(answer.edition)
        begins, clock = of_clock * answer.clock, answer.clock % LATEST
        tensors = list[int]()
        for at, piece in enumerate(pieces):
            if len(piece.keys) != len(
                values[at]
            ):  # of a tensor: no keys, or the first float and the one behind the last
                tensors.append(at)
            elif len(piece.keys):
                number, more = self._place(piece.table, server)
                lots = piece.keys.view(np.uint64) * np.uint64(of_key)
                lots += np.uint64((begins + more) % WORDS)
                chosen = (lots <= np.uint64(self._below - 1)).nonzero()[0]
                self._bytes += 2 * len(lots) * (1 + 4 * piece.shape[1])  # what is pulled is pushed; keys travel as gaps
                self._add(lots[chosen], self._digests_of(values[at].take(chosen, 0)), (number, clock, edition))
        if tensors:  # all of them as one
            first = pieces[tensors[0]]
            hashed = hashlib.sha256(b"".join([self._secret, *(values[at].data for at in tensors)]))
            name = first.table if len(tensors) == 1 else f"{first.table} and {len(tensors) - 1} more"
            number, more = self._place(name, server)
            start = int(first.keys[0]) if len(first.keys) else 0
            lots = np.array([(begins + more + of_key * start) % WORDS >> FAVOUR], np.uint64)
            self._add(lots, np.frombuffer(hashed.digest(), np.uint16, 1), (number, clock, edition))

    def _add(self, lots: Words, digests: Digests, where: tuple[int, int, int]) -> None:
        new = slice(self._count, self._count + len(lots))
        self._lots[new], self._digests[new], self._where[new] = lots, digests, where
        self._count += len(lots)
        while self._count > min(self._most, max(LEAST, int(SHARE * self._bytes) // ENTRY)):
            self._below >>= 1
            self._keep(np.flatnonzero(self._lots[: self._count] < np.uint64(self._below)))

    def _keep(self, at: Keys) -> None:
        """Keep these tags, in this order."""
        self._count = len(at)
        for kept in (self._lots, self._digests, self._where):
            kept[: len(at)] = kept[at]

    def _place(self, table: TableName, server: int) -> tuple[int, int]:
        if (place := (table, server)) not in self._places:
            self._places[place] = len(self._places), self._drawn(f"place {place}", 1)[0]
        return self._places[place]

    def _edition(self, edition: str) -> list[int]:
        if edition not in self._editions:
            drawn = [word | 1 for word in self._drawn(f"edition {edition}", 3)]
            self._editions[edition] = [len(self._editions), *drawn]
        return self._editions[edition]

    def _digests_of(self, rows: Values) -> Digests:
        dim = rows.shape[1]
        if dim not in self._keys:
            self._keys[dim] = np.array(self._drawn("digests", dim), np.uint64)
        return ((rows.view(np.uint32).astype(np.uint64) @ self._keys[dim]) >> SHIFT).astype(np.uint16)

    def _drawn(self, purpose: str, words: int) -> list[int]:
        """Return random words that follow from the secret."""
        drawn = hashlib.shake_256(self._secret + purpose.encode()).digest(8 * words)
        return list(np.frombuffer(drawn, np.uint64).tolist())


class Comparison(NamedTuple):
    """What a round's reports come to.

    Attributes:
        values: rows and tensors that at least two clients were given at the same time.
        alone: clients of whom none could be compared.
        differs: what a server gave to some and not to others, in words; empty if nothing.
    """

    values: int
    alone: list[ClientId]
    differs: str


def compare(reports: Mapping[ClientId, Seen]) -> Comparison:
    """Compare what clients were given in the same round; told is the earliest of the differences that most clients know of."""
    clients, all_seen = list(reports), list(reports.values())
    whose = np.repeat(np.arange(len(clients)), [len(seen.tags) for seen in all_seen])
    tags = np.concatenate([seen.tags for seen in all_seen])
    order = np.argsort(tags)
    tags, whose = tags[order], whose[order]
    digests = np.concatenate([seen.digests for seen in all_seen])[order]
    same = tags[1:] == tags[:-1]
    shared = np.flatnonzero(same & (whose[1:] != whose[:-1]))
    compared = set(whose[shared].tolist()) | set(whose[shared + 1].tolist())
    alone = [client for number, client in enumerate(clients) if number not in compared]
    values = len(shared) - int(np.count_nonzero(tags[shared[1:]] == tags[shared[:-1]]))
    differs = np.flatnonzero(same & (digests[1:] != digests[:-1]))
    if not len(differs):
        return Comparison(values, alone, "")
    clocks = np.concatenate([seen.where // len(seen.places) for seen in all_seen])[order]
    places = np.concatenate([seen.where % len(seen.places) for seen in all_seen])[order]
    known = np.searchsorted(tags, tags[differs], "right") - np.searchsorted(tags, tags[differs])
    first = differs[np.lexsort((clocks[differs], -known))[0]]
    table, server = all_seen[whose[first]].places[places[first]]
    of_it = np.flatnonzero(tags == tags[first])
    groups = [
        sorted({clients[whose[k]] for k in of_it if digests[k] == digest}) for digest in np.unique(digests[of_it])
    ]
    who = " than to ".join(_named(group) for group in sorted(groups, key=lambda group: (len(group), group)))
    said = f"server {server} has given other values of table {table!r} at clock {clocks[first]} to {who}"
    return Comparison(values, alone, said)


def read_seen(places: tuple[Place, ...], where: Keys, tags: Keys, digests: Digests) -> Seen:
    """Check what a client says that it was given; it is a claim all the same.

    Raises:
        RefusedError: it makes no sense.
    """
    fits = len(where) == len(tags) == len(digests) <= MOST and len(places) <= MOST_PLACES
    names = all(len(table) <= 256 and table.isprintable() and 0 <= server < 1 << 16 for table, server in places)
    if not fits or not names or (len(where) and where.min() < 0):
        raise RefusedError(
            "malformed", f"what servers gave: {MOST} tags at most, each with its digest, place and clock"
        )
    return Seen(places, where, tags, digests)


def _scrambled(lots: Words, by: Words) -> Words:
    """Return a tag for each lot; no two of one edition have the same, as each step can be undone."""
    tags = lots ^ (lots >> np.uint64(32))
    tags *= by
    tags ^= tags >> np.uint64(29)
    return tags


def _named(clients: Sequence[ClientId]) -> str:
    return ("client " if len(clients) == 1 else "clients ") + ", ".join(map(repr, clients))
