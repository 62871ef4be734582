"""A push that travels in several messages: kept until it is whole, within a bound of bytes."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedps.errors import RefusedError
from fedps.server.gate import Offer
from fedps.server.merge import Contribution
from fedps.types import TableName
from fedps.wire.frame import Limits
from fedps.wire.messages import Push


class HalfPush:
    """The parts of one connection's push that are in; each was checked alone before.

    Args:
        limits: `held_bytes` bounds what is kept.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self.drop()

    def drop(self) -> None:
        """Forget all parts."""
        self._first: Push | None = None
        self._tables: dict[TableName, list[Contribution]] = {}
        self._next = self._bytes = 0

    def add(self, push: Push, arrays: Sequence[NDArray[Any]]) -> Offer | None:
        """Take one part; return the whole push if it was the last, None before.

        Raises:
            RefusedError: it is not the next part of this push, brings nothing new, or too much is kept by now.
        """
        if push.part == 0:
            self.drop()  # said again from the start
            self._first = push
        first = self._first
        if first is None or push.part != self._next or _facts(push) != _facts(first):
            raise RefusedError(
                "malformed", f"part {push.part} of {push.parts} of push {push.sequence} where part {self._next} is due"
            )
        for table, keys, values in zip(push.tables, arrays[::2], arrays[1::2], strict=True):
            self._follow(push, table, keys)
            self._tables.setdefault(table, []).append(Contribution(keys, values, push.weight, push.rate))
        self._next, self._bytes = self._next + 1, self._bytes + sum(a.nbytes for a in arrays)
        if push.part + 1 == push.parts:
            whole = {table: _joined(pieces) for table, pieces in self._tables.items()}
            self.drop()
            return whole
        if self._bytes > self._limits.held_bytes:
            raise RefusedError(
                "too_large",
                f"{self._bytes} bytes of a push that is not whole pass the limit of {self._limits.held_bytes} bytes: push"
                " fewer rows, use more servers, or raise limits.message_mib",
            )
        return None

    def _follow(self, push: Push, table: TableName, keys: NDArray[np.int64]) -> None:
        """Check that a later part brings rows, and behind those that came: so a push ends, and has no row twice."""
        if push.part == 0:
            return
        before = self._tables.get(table)
        if not before or not len(keys) or (len(before[-1].keys) and keys[0] <= before[-1].keys[-1]):
            raise RefusedError(
                "bad_keys", f"table {table!r}: part {push.part} must bring keys behind those of the parts before it"
            )


def _facts(push: Push) -> tuple[int, int, int, float, float]:
    return push.sequence, push.clock, push.parts, push.weight, push.rate


def _joined(pieces: Sequence[Contribution]) -> Contribution:
    if len(pieces) == 1:
        return pieces[0]
    keys = np.concatenate([p.keys for p in pieces])
    return Contribution(keys, np.concatenate([p.values for p in pieces]), pieces[0].weight, pieces[0].rate)
