"""What was matched, on disk: a party that goes on need not match again, as long as nobody's ids have changed.

A party sees by itself that its own ids are as they were. That the others' are, too, they say by the digest of what they
have kept: where all digests are equal, all have kept the same match.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np

from fedps.storage.whole import write_whole
from fedps.vertical.matching import Matched, agreed, key_of


class _Kept(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """The file: a digest of all own ids in the order of their rows, that of what is common, and its rows, int64."""

    ids: str
    digest: str
    rows: bytes


def keep(path: Path, matched: Matched, ids: Sequence[bytes], word: str = "") -> None:
    """Write what was matched, for its owner's eyes alone.

    Args:
        path: the file, in a folder that is there.
        matched: by these ids.
        ids: all of the party's own, in the order of its rows.
        word: `ids.psi_key`; empty: none.

    Raises:
        OSError: it cannot be written.
    """
    rows = matched.rows.astype("<i8").tobytes()
    write_whole(path, msgspec.msgpack.encode(_Kept(_digest(ids, word), matched.digest, rows)))


def recall(path: Path, ids: Sequence[bytes], word: str = "") -> Matched | None:
    """Return what was matched; None if it is not there, not whole, or the party's ids or key were others then."""
    try:
        kept = msgspec.msgpack.decode(path.read_bytes(), type=_Kept)
        rows = np.frombuffer(kept.rows, "<i8").astype(np.int64)
    except (OSError, ValueError):
        return None
    if kept.ids != _digest(ids, word) or (len(rows) and not 0 <= rows.min() <= rows.max() < len(ids)):
        return None
    matched = agreed(ids, rows, key_of(word))
    return matched if matched.digest == kept.digest else None


def _digest(ids: Sequence[bytes], word: str) -> str:
    """Return a digest of ids in their order; each says its own length."""
    digest = hashlib.blake2b(key=key_of(word), digest_size=16, person=b"fedps rows")
    for one in ids:
        digest.update(one)
    return digest.hexdigest()
