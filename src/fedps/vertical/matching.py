"""Which ids two parties have in common, found without telling each other any other: no files, no sockets.

Each party has a secret number, and blinds with it (`blinding`) the points to which its ids are hashed. What one has blinded
the other blinds once more, and as the order of both does not matter, an id that both have comes to the same point either
way:

    passive → active    blinded points of its ids, in an order that says nothing        32 bytes an id
    active → passive    the same of its own                                             32
    passive → active    the active party's points, blinded twice: 8 bytes of each        8
    active → passive    places in the passive party's list of those that all have        8 a common id

(Meadows 1986; Huberman, Franklin, Hogg 1999.) Of n and m ids two different ones meet in 8 bytes with a chance of n m / 2⁶⁴;
the digests of both sides' lists, of whole hashes, differ then.
"""

import hashlib
import os
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from fedps.errors import DataError, WireError
from fedps.vertical.blinding import Blinding, Points
from fedps.vertical.points import points_of

Marks = NDArray[np.int64]  # [n]: 8 bytes of a point that both have blinded
Places = NDArray[np.int64]
HASH = 32  # bytes


class Matched(NamedTuple):
    """What a party knows in the end.

    Attributes:
        rows: int64[c], rows of its own files that are common to all, in the order that all agree on: that of keyed hashes.
        digest: of these hashes in this order; equal at all parties, else they must not train.
    """

    rows: NDArray[np.int64]
    digest: str


class Pairs(NamedTuple):
    """Places in two lists of what both have: int64[c] each, the k-th of one is the k-th of the other."""

    ours: Places
    theirs: Places


class Matching:
    """One party's side, to be closed: blinding many ids takes processes of its own.

    Args:
        ids: its own, each once, in the order of its rows.
        key: `ids.psi_key`; empty: ids are hashed without.
        workers: cores to use; None: all that this process may.
    """

    def __init__(self, ids: Sequence[bytes], key: str = "", workers: int | None = None) -> None:
        self._ids, self._key = ids, key_of(key)
        self._blinding = Blinding(workers or len(os.sched_getaffinity(0)))
        self._order = _secret_order(len(ids))  # the row of each place
        self._points = np.zeros((len(ids), 4), np.int64)
        self._ready = 0  # so many are blinded

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the processes."""
        self._blinding.close()

    def __len__(self) -> int:
        return len(self._ids)

    def blinded(self, places: slice = slice(None)) -> Points:
        """Return some of its own points, blinded, int64[k, 4]: what the other party is sent, some at a time if they are many."""
        end = places.indices(len(self))[1]
        if end > self._ready:
            rows = self._order[self._ready : end].tolist()
            points = points_of([self._ids[row] for row in rows], self._key)
            self._points[self._ready : end] = self._blinding.times(points)
            self._ready = end
        return self._points[places]

    def doubled(self, theirs: Points, peer: str) -> Marks:
        """Blind once more what a party has blinded; return 8 bytes of each, in the order that came.

        Args:
            theirs: int64[m, 4], all or some of its points.
            peer: the party's name, for messages.

        Raises:
            WireError: these are no points of ids.
        """
        if theirs.dtype != np.int64 or theirs.ndim != 2 or theirs.shape[1] != 4:
            raise WireError(
                f"party {peer} sent {theirs.dtype}{list(theirs.shape)} for blinded ids, which are int64[n, 4]"
            )
        try:
            return self._blinding.times(theirs)[:, 0]
        except WireError as error:
            raise WireError(f"party {peer}: {error}") from None

    def matched(self, places: Places, peer: str) -> Matched:
        """Return what is common to all.

        Args:
            places: int64[c] in its own blinded list, in any order.
            peer: who found them, for messages.

        Raises:
            WireError: there are no such places.
        """
        if (
            places.dtype != np.int64 or places.ndim != 1 or len(np.unique(places)) != len(places)
            or (len(places) and not 0 <= places.min() <= places.max() < len(self))
        ):  # fmt: skip
            raise WireError(f"party {peer} says that ids are common which were not sent to it")
        return agreed(self._ids, self._order[places], self._key)


def key_of(word: str) -> bytes:
    """Return the key by which ids are hashed, of `ids.psi_key`."""
    return hashlib.blake2b(word.encode()).digest() if word else b""


def agreed(ids: Sequence[bytes], rows: NDArray[np.int64], key: bytes) -> Matched:
    """Return what is common, in the order that all agree on.

    Args:
        ids: of all own rows.
        rows: int64[c], those that are common, in any order.
        key: `key_of` the job's word.
    """
    hashes = [
        hashlib.blake2b(ids[row], digest_size=HASH, key=key, person=b"fedps order").digest() for row in rows.tolist()
    ]
    order = sorted(range(len(rows)), key=hashes.__getitem__)
    digest = hashlib.blake2b(b"".join(hashes[k] for k in order), digest_size=16).hexdigest()
    return Matched(rows[np.array(order, np.int64)], digest)


def pairs(ours: Marks, theirs: Marks, peer: str) -> Pairs:
    """Return where two lists have the same.

    Args:
        ours: int64[n], of one's own ids, as the other party has sent them.
        theirs: int64[m], of the other party's ids.
        peer: its name, for messages.

    Raises:
        WireError: the other party's ids, or what it made of one's own, come twice.
    """
    for marks, wrong in ((theirs, "ids of which some are the same"), (ours, "an answer to other ids than it was sent")):
        if marks.dtype != np.int64 or marks.ndim != 1 or len(np.unique(marks)) != len(marks):
            raise WireError(f"party {peer} sent {wrong}")
    _, at, their = np.intersect1d(ours, theirs, assume_unique=True, return_indices=True)
    return Pairs(at.astype(np.int64), their.astype(np.int64))


def of_all(found: Mapping[str, Pairs]) -> tuple[Places, dict[str, Places]]:
    """Return the active party's own places of what all parties have, and for each passive party its places of the same.

    Args:
        found: by passive party.
    """
    ours = [pair.ours for pair in found.values()]
    common = ours[0]
    for more in ours[1:]:
        common = np.intersect1d(common, more, assume_unique=True)
    return common, {party: np.sort(pair.theirs[np.isin(pair.ours, common)]) for party, pair in found.items()}


def check_common(matched: Matched, peers: Sequence[str], form: str) -> None:
    """Make sure that there is something to train on.

    Args:
        matched: what is common to all.
        peers: the other parties.
        form: how one's own ids look (`ids.form_of`): shown to who owns them, and sent to nobody.

    Raises:
        DataError: there are none.
    """
    if not len(matched.rows):
        raise DataError(
            f"no ids are common to this party and {' and '.join(peers)}: {form}; ask there how theirs look, and make sure that"
            " both sides name the same columns in the same order (parties.NAME.id), write ids alike (ids.case, ids.blanks; 1 and"
            " 01 are two ids) and have the same ids.psi_key"
        )


def _secret_order(count: int) -> NDArray[np.int64]:
    """Return a permutation that follows from nothing that is known to anybody."""
    seed = np.frombuffer(os.urandom(HASH), np.uint32)
    return np.random.default_rng(seed).permutation(count)
