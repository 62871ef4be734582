"""A push that travels in several messages: kept until it is whole, within a bound of bytes."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedps.errors import RefusedError
from fedps.server.gate import Offer
from fedps.server.merge import Contribution
from fedps.types import NO_KEYS, TableName, TableSpec, Values
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

    def add(self, push: Push, arrays: Sequence[NDArray[Any]], spec: Callable[[TableName], TableSpec]) -> Offer | None:
        """Take one part; return the whole push if it was the last, None before.

        Args:
            push: what the message says.
            arrays: keys and float32 values of each of its tables.
            spec: returns a table's.

        Raises:
            RefusedError: it is not the next part of this push, brings nothing new, leaves out some of a tensor, or too
                much is kept by now.
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
            self._follow(push, spec(table), keys)
            self._tables.setdefault(table, []).append(Contribution(keys, values, push.weight, push.rate))
        self._next, self._bytes = self._next + 1, self._bytes + sum(a.nbytes for a in arrays)
        if push.part + 1 == push.parts:
            whole = {table: _joined(spec(table), pieces) for table, pieces in self._tables.items()}
            self.drop()
            return whole
        if self._bytes > self._limits.held_bytes:
            raise RefusedError(
                "too_large",
                f"{self._bytes} bytes of a push that is not whole pass the limit of {self._limits.held_bytes} bytes: push"
                " fewer rows, use more servers, or raise limits.message_mib",
            )
        return None

    def _follow(self, push: Push, spec: TableSpec, keys: NDArray[np.int64]) -> None:
        """Check that each part brings what follows on those before it: so a push ends, and has nothing twice."""
        before = self._tables.get(spec.name)
        if spec.kind == "dense":
            due = spec.span(before[-1].keys)[1] if before else 0
            if spec.span(keys)[0] != due:
                raise RefusedError("bad_keys", f"table {spec.name!r}: float {spec.span(keys)[0]} where {due} is due")
        elif push.part and (not len(keys) or (before and len(before[-1].keys) and keys[0] <= before[-1].keys[-1])):
            raise RefusedError(
                "bad_keys", f"table {spec.name!r}: part {push.part} must bring keys behind those of the parts before it"
            )


def _facts(push: Push) -> tuple[int, int, int, float, float]:
    return push.sequence, push.clock, push.parts, push.weight, push.rate


def _joined(spec: TableSpec, pieces: Sequence[Contribution]) -> Contribution:
    first, last = pieces[0], pieces[-1]
    if spec.kind == "sparse":
        keys = np.concatenate([p.keys for p in pieces]) if len(pieces) > 1 else first.keys
        return first._replace(keys=keys, values=_concatenated(pieces, axis=0))
    if (end := spec.span(last.keys)[1]) != spec.dim:
        raise RefusedError("mismatch", f"table {spec.name!r}: {end} of its {spec.dim} floats, where a push brings all")
    return first._replace(keys=NO_KEYS, values=_concatenated(pieces, axis=1))


def _concatenated(pieces: Sequence[Contribution], axis: int) -> Values:
    return np.concatenate([p.values for p in pieces], axis) if len(pieces) > 1 else pieces[0].values
