"""The points of Curve25519 to which ids are hashed.

Of all 32 bytes half are a point of the curve, and half one of its twist. Whoever sees a blinded point sees which, for
blinding leads from neither to the other; that would be a bit of each id. So an id is hashed again until its point is one of
the curve: there u³ + 486662 u² + u is a square modulo p = 2²⁵⁵ - 19.
"""

import hashlib
from collections.abc import Sequence

import numpy as np
from numba import types
from numpy.typing import NDArray

from fedps.crypto import POINT
from fedps.table.kernels import compiled
from fedps.vertical.blinding import Points

P, A = 2**255 - 19, 486662
WORDS = tuple(np.frombuffer(P.to_bytes(POINT, "little"), "<u8"))


def points_of(ids: Sequence[bytes], key: bytes) -> Points:
    """Return the points of ids, int64[n, 4].

    Args:
        ids: of rows.
        key: of the hash; empty for none.
    """
    points = np.empty((len(ids), 4), np.int64)
    left, turn = np.arange(len(ids)), 0
    while len(left):
        salt = turn.to_bytes(8, "little")
        hashes = [
            hashlib.blake2b(ids[k], digest_size=POINT, key=key, salt=salt, person=b"fedps point").digest()
            for k in left.tolist()
        ]
        made = np.frombuffer(b"".join(hashes), "<i8").reshape(-1, 4) & (-1, -1, -1, 2**63 - 1)
        points[left] = made
        left, turn = left[~on_curve(made)], turn + 1
    return points


def on_curve(points: Points) -> NDArray[np.bool_]:
    """Tell which points, int64[n, 4], are of the curve; one of order 2 counts as none."""
    data = np.ascontiguousarray(points, "<i8").tobytes()
    found = bytearray()
    for at in range(0, len(data), POINT):
        u = int.from_bytes(data[at : at + POINT], "little")
        found += (u * (u * (u + A) + 1) % P).to_bytes(POINT, "little")
    squares: NDArray[np.bool_] = _are_squares(np.frombuffer(found, "<u8").reshape(-1, 4))
    return squares


@compiled(types.boolean[::1](types.Array(types.uint64, 2, "C", readonly=True)))  # type: ignore[untyped-decorator]
def _are_squares(numbers: NDArray[np.uint64]) -> NDArray[np.bool_]:
    """Tell which numbers below p, uint64[n, 4], are squares modulo p, and not 0: those whose Jacobi symbol (a / p) is 1."""
    squares = np.zeros(len(numbers), np.bool_)
    one, two, last = np.uint64(1), np.uint64(2), np.uint64(63)
    for k in range(len(numbers)):
        a0, a1, a2, a3 = numbers[k]
        n0, n1, n2, n3 = WORDS
        odd = np.uint64(0)  # 1: the symbol is -(a / n)
        while a0 | a1 | a2 | a3:
            while not a0 & one:  # (2 / n) is -1 where n is 3 or 5 modulo 8
                a0, a1, a2, a3 = a0 >> one | a1 << last, a1 >> one | a2 << last, a2 >> one | a3 << last, a3 >> one
                odd ^= (n0 >> one ^ n0 >> two) & one
            if a3 < n3 or (a3 == n3 and (a2 < n2 or (a2 == n2 and (a1 < n1 or (a1 == n1 and a0 < n0))))):
                a0, a1, a2, a3, n0, n1, n2, n3 = n0, n1, n2, n3, a0, a1, a2, a3
                odd ^= (a0 & n0) >> one & one  # (a / n) is -(n / a) where both are 3 modulo 4
            lent0 = np.uint64(a0 < n0)
            lent1 = np.uint64(a1 < n1 or (a1 == n1 and lent0 == one))
            lent2 = np.uint64(a2 < n2 or (a2 == n2 and lent1 == one))
            a0, a1, a2, a3 = a0 - n0, a1 - n1 - lent0, a2 - n2 - lent1, a3 - n3 - lent2
        squares[k] = not odd and n0 == one and not n1 | n2 | n3
    return squares
