"""Sorted ids in fewer bytes: the first as it is, then the gaps between neighbours, in as few bytes as the widest needs.

Ids of a window lie close together, so one or two bytes an id are the rule, where int64 takes eight. Gaps of one width
are packed and unpacked by three passes of numpy; variable lengths (varint) save little more and take a loop.
"""

import numpy as np
from numpy.typing import NDArray

from fedps.types import Keys

FIRST = np.dtype("<i8")
WIDTHS: dict[str, np.dtype[np.unsignedinteger]] = {
    "1": np.dtype("<u1"),
    "2": np.dtype("<u2"),
    "4": np.dtype("<u4"),
}  # type code of the frame → of a gap


def code_of(ids: Keys) -> str | None:
    """Return the code of the narrowest gaps that hold int64[U], or None where they would not be fewer bytes."""
    if len(ids) < 3:
        return None
    gaps = ids[1:] - ids[:-1]
    if gaps.min() < 0:
        return None
    widest = int(gaps.max())
    return next((code for code, dtype in WIDTHS.items() if widest < 1 << 8 * dtype.itemsize), None)


def pack(ids: Keys, code: str) -> bytes:
    """Return int64[U] as bytes of a code that `code_of` gave."""
    return ids[:1].tobytes() + (ids[1:] - ids[:-1]).astype(WIDTHS[code]).tobytes()


def size(count: int, code: str) -> int:
    """Return how many bytes `count` ids take, at least one."""
    return FIRST.itemsize + (count - 1) * WIDTHS[code].itemsize


def unpack(data: bytes, at: int, count: int, code: str) -> NDArray[np.int64]:
    """Return int64[count], read-only, from the bytes at `at`; there are `size` of them, and `count` is at least one.

    A sum past 2^63 wraps around, so that what a peer sends amiss is out of order, and refused as any such ids are.
    """
    ids = np.empty(count, np.int64)
    ids[0] = np.frombuffer(data, FIRST, 1, at)[0]
    ids[1:] = np.frombuffer(data, WIDTHS[code], count - 1, at + FIRST.itemsize)
    np.cumsum(ids, out=ids)
    ids.flags.writeable = False
    return ids
